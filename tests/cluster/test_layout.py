"""Laying out work on nodes, in numbers and words, and waiting for them; Ray is not started."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
import torch

from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.crew import prepare_process
from raydrop.cluster.layout import (
    CONTEXT_BYTES,
    HEAD,
    Layout,
    Node,
    NodeWatch,
    layout_text,
    make_layout,
    tensor_share,
    this_machine,
    wait_for_layout,
)
from raydrop.errors import ConfigError
from raydrop.store.terminal import Console

Requests = list[dict[str, float]]
CPU, GPU = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 4.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Requests]:
    """What an autoscaler is asked for, the last of which it keeps; looks follow each other."""
    requests: list[Requests] = []
    monkeypatch.setattr(cluster_layout, "_request", requests.append)
    monkeypatch.setattr(cluster_layout, "LOOK_EVERY_SECONDS", 0.001)
    return requests


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(cluster_layout.time, "monotonic", lambda: self.now)


def _wait(seen: Sequence[Sequence[Node]], gpus: float | None, seconds: float) -> tuple[Layout, str]:
    """Wait on a cluster that has these nodes at the first look, those at the second, ..."""
    looks, console = iter(seen), Console(file=io.StringIO(), width=200)
    layout = wait_for_layout(
        in_memory=True,
        gpus_per_worker=gpus,
        seconds=seconds,
        console=console,
        nodes=lambda: next(looks),
    )
    return layout, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("found", "share", "expected"),
    [
        # A worker fits on the node with the GPUs, however many CPUs there are elsewhere.
        ([{"CPU": 64.0}, GPU], 1.0, Layout(4, 1, 1.0)),
        # Nodes that differ: what fits on the smaller one.
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}], 1.0, Layout(3, 4, 1.0)),
        # A share lies on one GPU: two of 0.4 on each of four, of which four CPUs serve four.
        ([{"CPU": 32.0, "GPU": 4.0}], 0.4, Layout(8, 4, 0.4)),
        ([{"CPU": 32.0, "GPU": 4.0}], 0.1, Layout(32, 1, 0.1)),
        ([GPU], 2.0, Layout(2, 2, 2.0)),
        ([CPU, CPU], None, Layout(16, 1, 0.0)),
        # A head without CPUs.
        ([{}, {"CPU": 2.0}], None, Layout(2, 1, 0.0)),
        ([CPU, GPU], 0.0, Layout(12, 1, 0.0)),
    ],
)
def test_layout_by_node(found: list[Node], share: float | None, expected: Layout) -> None:
    layout = make_layout(found, in_memory=False, gpus_per_worker=share)
    assert layout == expected
    assert any(layout.fits(node) for node in found)


def test_layout_that_no_node_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"node with 2 GPUs, .*found nodes with 1 at most; lower"):
        make_layout([{"CPU": 1, "GPU": 1}] * 4, in_memory=True, gpus_per_worker=2.0)
    with pytest.raises(ConfigError, match=r"node with 0\.5 GPUs, .*found no GPU; lower"):
        make_layout([CPU], in_memory=True, gpus_per_worker=0.5)
    with pytest.raises(ConfigError, match=r"a whole number of GPUs per worker.*found 1\.5"):
        make_layout([GPU], in_memory=True, gpus_per_worker=1.5)
    with pytest.raises(ConfigError, match="at least one CPU"):
        make_layout([{"GPU": 1.0}], in_memory=True)
    with pytest.raises(ConfigError, match="a CPU on a node with GPUs, found none"):
        make_layout([CPU, {"GPU": 4.0}], in_memory=True)


def test_nothing_is_said_where_nodes_are_there(asked: list[Requests]) -> None:
    assert _wait([[CPU]], None, 60.0) == (Layout(8, 1, 0.0), "")
    assert asked == []


def test_nodes_that_come_late_are_waited_for(asked: list[Requests]) -> None:
    layout, printed = _wait([[], [{}], [{}, GPU]], 0.5, 60.0)
    assert layout == Layout(4, 1, 0.5)
    assert asked == [[{"CPU": 1, "GPU": 0.5}], []]  # and taken back
    assert printed.strip().startswith("waiting     up to 60 s for nodes: Expected at least one CPU")


def test_nodes_that_never_come_are_told_with_what_there_is(asked: list[Requests]) -> None:
    sentence = r"a node with 4 GPUs, .*found nodes with 1 at most; lower .* Waited 0\.01 s\."
    with pytest.raises(ConfigError, match=sentence):
        _wait([[{"CPU": 8.0, "GPU": 1.0}]] * 10_000, 4.0, 0.01)
    with pytest.raises(ConfigError, match=r"found no GPU; lower --gpus-per-worker \(0 uses none"):
        _wait([[CPU]], 4.0, 0.0)  # on this machine nothing is waited for
    assert asked == [[{"CPU": 1, "GPU": 4.0}], []]


def test_a_place_that_is_gone_for_too_long_ends_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, found = Clock(monkeypatch), [GPU]
    watch = NodeWatch(Layout(4, 1, 1.0), 100.0, lambda: found)
    for clock.now in (50.0, 120.0):
        watch.check()
    found[:] = [CPU, {}]
    for clock.now in (180.0, 219.0):
        watch.check()
    found[:] = [GPU]
    clock.now = 230.0
    watch.check()  # it came back
    found[:] = [CPU, {}]
    clock.now = 329.0
    watch.check()
    clock.now = 331.5
    sentence = (
        r"Expected a node with 1 CPU and 1 of a GPU for 100 s, found 2 alive: 8 CPUs and 0 GPUs, 0 "
        r"CPUs and 0 GPUs; start nodes and run the same command again"
    )
    with pytest.raises(ConfigError, match=sentence):
        watch.check()


def test_the_cluster_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(monkeypatch), []
    watch = NodeWatch(Layout(1, 1, 0.0), 100.0, lambda: looks.append(clock.now) or [CPU])  # type: ignore[func-returns-value]
    for tick in range(100):
        clock.now = tick / 10
        watch.check()
    assert looks == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("resources", "in_memory", "share", "expected"),
    [
        ({"CPU": 2.0}, True, None, Layout(2, 1, 0.0)),
        ({"CPU": 16.0, "GPU": 1.0}, True, None, Layout(4, 4, 0.25)),
        ({"CPU": 16.0, "GPU": 4.0}, False, None, Layout(4, 4, 1.0)),
        ({"CPU": 3.0, "GPU": 1.0}, True, None, Layout(3, 1, 0.25)),
        ({"CPU": 16.0, "GPU": 2.0}, True, 0.5, Layout(4, 4, 0.5)),
        ({"CPU": 4.0, "GPU": 1.0}, True, 0.0, Layout(4, 1, 0.0)),
    ],
)
def test_layout_of_one_node(
    resources: dict[str, float], in_memory: bool, share: float | None, expected: Layout
) -> None:
    assert make_layout([resources], in_memory=in_memory, gpus_per_worker=share) == expected


# In words.


GPUS = {"CPU": 12.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("found", "share", "said"),
    [
        ([{"CPU": 2.0}], None, "2 workers at a time, each 1 CPU, on 1 node"),
        ([{"CPU": 1.0}], None, "1 worker with 1 CPU, on 1 node"),
        ([{"CPU": 4.0}] * 3, None, "12 workers at a time, each 1 CPU, on 3 nodes"),
        (
            [{HEAD: 1.0}, *[GPUS] * 8],
            None,
            "32 workers at a time, each 3 CPUs and 0.25 of a GPU, on 8 of 9 nodes (head without "
            "CPUs)",
        ),
        (
            [{HEAD: 1.0, "CPU": 8.0}, GPUS],
            None,
            "4 workers at a time, each 3 CPUs and 0.25 of a GPU, on 1 of 2 nodes (head without "
            "GPUs)",
        ),
        (
            [{"CPU": 8.0}, {"CPU": 0.0, "GPU": 1.0}, {"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}],
            0.5,
            "2 workers at a time, each 4 CPUs and 0.5 of a GPU, on 1 of 4 nodes (1 without GPUs, "
            "2 without CPUs)",
        ),
        (
            [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}],
            2.0,
            "1 worker with 8 CPUs and 2 of a GPU, on 1 of 2 nodes (1 too small)",
        ),
        ([GPUS, GPUS], 0.0, "24 workers at a time, each 1 CPU, on 2 nodes"),
    ],
)
def test_layout_in_words(found: list[Node], share: float | None, said: str) -> None:
    layout = make_layout(found, in_memory=True, gpus_per_worker=share)
    assert layout_text(layout, found) == said


def test_this_machine_is_what_ray_would_find() -> None:
    from ray._private.utils import get_num_cpus

    assert this_machine(3)["CPU"] == 3.0
    assert this_machine(None)["CPU"] == get_num_cpus() >= 1


# Memory of a GPU that several share; GPUs are stand-ins.


GIB = 2**30


@pytest.mark.parametrize("gpus", [0.5, 0.4, 1 / 3, 0.25, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("total", [4 * GIB, 24 * GIB, 80 * GIB])
def test_all_workers_of_a_gpu_fit_on_it_with_their_contexts(gpus: float, total: int) -> None:
    """As many as Ray puts there, which is what the layout counts on."""
    (node,) = [{"CPU": 64.0, "GPU": 1.0}]
    workers = make_layout([node], in_memory=True, gpus_per_worker=gpus).workers
    share = tensor_share(gpus, total)
    assert 0.5 * gpus <= share < gpus
    if share > 0.5 * gpus:  # otherwise contexts are taken to be smaller
        assert workers * (share * total + CONTEXT_BYTES) <= total * (1 + 1e-9)


def test_the_share_is_what_is_left_beside_contexts() -> None:
    total = 16 * CONTEXT_BYTES
    assert tensor_share(0.25, total) == pytest.approx((16 - 4) / 16 / 4)
    assert tensor_share(0.4, total) == pytest.approx(0.4 * (16 - 2) / 16)  # two fit
    assert tensor_share(0.1, total) == 0.05  # ten contexts would leave too little
    assert tensor_share(1.0, total) == tensor_share(2.0, total) == 1.0


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, int]]]:
    """A machine with a GPU of 24 GiB; what processes are limited to, and on which device."""
    told: list[tuple[float, int]] = []
    threads, device = torch.get_num_threads(), SimpleNamespace(total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *limit: told.append(limit)
    )
    yield told
    torch.set_num_threads(threads)


def test_workers_that_share_a_gpu_limit_themselves(limits: list[tuple[float, int]]) -> None:
    prepare_process(Layout(8, 1, 0.25))
    assert limits == [(tensor_share(0.25, 24 * GIB), 0)]
    assert limits[0][0] == pytest.approx((24 - 4 * 0.75) / 24 / 4)


@pytest.mark.parametrize("gpus", [0.0, 1.0, 2.0])
def test_workers_without_a_gpu_or_with_whole_ones_do_not(
    limits: list[tuple[float, int]], gpus: float
) -> None:
    prepare_process(Layout(2, 1, gpus))
    assert limits == []


def test_nothing_is_asked_of_a_gpu_where_there_is_none(
    limits: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare_process(Layout(2, 1, 0.5))
    assert limits == []
