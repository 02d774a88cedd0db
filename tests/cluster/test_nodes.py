"""Waiting for nodes, laying out work on them, and what ends or is lost; Ray is not started."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from raydrop.cluster import nodes, sweep
from raydrop.cluster.losses import Losses
from raydrop.cluster.nodes import Watch, wait_for_layout
from raydrop.cluster.resources import Layout, make_layout
from raydrop.errors import ConfigError, StoreError
from raydrop.frontier.terminal import Console
from raydrop.store import Store

Node = Mapping[str, float]
Requests = list[dict[str, float]]
CPU, GPU = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 4.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Requests]:
    """What an autoscaler is asked for, the last of which it keeps; looks follow each other."""
    requests: list[Requests] = []
    monkeypatch.setattr(nodes, "_request", requests.append)
    monkeypatch.setattr(nodes, "LOOK_EVERY_SECONDS", 0.001)
    return requests


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(nodes.time, "monotonic", lambda: self.now)


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
    watch = Watch(Layout(4, 1, 1.0), 100.0, lambda: found)
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
    watch = Watch(Layout(1, 1, 0.0), 100.0, lambda: looks.append(clock.now) or [CPU])  # type: ignore[func-returns-value]
    for tick in range(100):
        clock.now = tick / 10
        watch.check()
    assert looks == [2.0, 4.0, 6.0, 8.0]


def test_losses_are_counted_and_written_down(tmp_path: Path) -> None:
    losses = Losses(Store(tmp_path))
    assert losses.sentence() == ""
    losses.note("trials", "a3")
    assert losses.sentence().startswith("1 worker process died; what was lost was done again (1 of")
    losses.note("scores", "small_cnn")
    losses.note("trials", "a3")
    assert losses.sentence().startswith("3 worker processes died")
    assert losses.sentence().endswith("(2 of trials, 1 of scores)")
    Losses(Store(tmp_path)).note("trials", "a3")  # another run of the same study
    entries = list(Store(tmp_path).entries("loss"))
    assert sorted(entry.info["stage"] for entry in entries) == ["scores", *["trials"] * 3]


def test_a_loss_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    losses = Losses(Store(tmp_path / "file" / "store"))
    losses.note("trials")
    assert losses.total == 1


@pytest.fixture
def guard() -> sweep._Guard:
    return sweep._Guard(Watch(Layout(1, 1, 0.0), 100.0, lambda: [CPU]), "trials", Losses())


def test_a_sweep_whose_trials_cannot_write_ends_with_the_reason(guard: sweep._Guard) -> None:
    guard.on_trial_result(0, [], None, {"average_accuracy": 0.5})
    guard.on_trial_result(0, [], None, {"failed": True})
    guard.on_step_begin(0, [])
    guard.on_trial_result(0, [], None, {"failed": True, sweep._UNWRITTEN: "No room at all."})
    with pytest.raises(StoreError, match="No room at all"):
        guard.on_step_begin(1, [])
    assert guard.error is not None


def test_where_tune_stumbles_over_a_full_disk_that_is_said(
    guard: sweep._Guard, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"Expected to write results to .*file/store, found: Not"),
        sweep._in_a_sentence(guard, Store(tmp_path / "file" / "store")),
    ):
        raise EOFError("Ran out of input")
    sound = Store(tmp_path / "sound")
    with pytest.raises(EOFError), sweep._in_a_sentence(guard, sound):
        raise EOFError("Ran out of input")
    assert [path for path in sound.root.rglob("*") if path.is_file()] == []
    guard.error = ConfigError("No node.")
    with pytest.raises(ConfigError, match="No node"), sweep._in_a_sentence(guard, sound):
        raise RuntimeError("what Tune makes of it")
