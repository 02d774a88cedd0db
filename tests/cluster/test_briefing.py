"""What a study tells before it does it; Ray is not started."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raydrop.cluster import briefing, forecast
from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.briefing import Briefing
from raydrop.cluster.driver import Options, run_study
from raydrop.cluster.forecast import Noise, Probe
from raydrop.cluster.layout import HEAD, Layout, Node
from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.data.dataset import FileImages, LabelledDataset, Split
from raydrop.errors import ConfigError
from raydrop.plan import make_plan, trial_configs
from raydrop.store import Store
from raydrop.store.terminal import Console
from raydrop.study import Study, Training

STUDY = Study(
    name="brief",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={"method": "grand", "quotas": "drop", "keep_fraction": 0.5},
    seeds=(0,),
    training=Training(epochs=2, batch_size=16),
)
NETWORKS = dataclasses.replace(
    STUDY, param_space={"network_method": "magnitude", "network_target": 0.5}
)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    yield
    assert not ray.is_initialized()


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Layout, list[Probe]]]:
    """What is timed; a sample pass of anything takes a second."""
    asked: list[tuple[Layout, list[Probe]]] = []

    def measure(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
        asked.append((layout, list(probes)))
        return dict.fromkeys(probes, 1.0)

    monkeypatch.setattr(forecast, "measured_here", measure)
    monkeypatch.setattr(forecast, "measured_on_ray", measure)
    return asked


def _dry(study: Study, out: Path, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    run_study(study, Options(out=out, dry_run=True, **options), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def _line(said: str, name: str) -> str:
    """The line of that name, without the name."""
    (line,) = [line for line in said.splitlines() if line.startswith(f"  {name:<11} ")]
    return line[14:]


def test_a_dry_run_tells_layout_and_time_and_starts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.01)
    said = _dry(STUDY, tmp_path / "out", num_cpus=3)
    assert _line(said, "layout") == "3 workers at a time, each 1 CPU, on 1 node"
    assert re.fullmatch(
        r"query runs \S+ \w+, scores \S+ \w+, trials \S+ \w+: \S+ \w+ in all on 3 workers, at the "
        "pace of a few batches of noise on one worker alone, besides starting the processes of "
        "each stage",
        _line(said, "likely").replace("under 1 s", "1 s"),
    )
    assert list(tmp_path.iterdir()) == []


def test_time_by_hand(paced: list[tuple[Layout, list[Probe]]], tmp_path: Path) -> None:
    """A query run of 120 samples: two epochs and a third more; norms once; trials of two sizes.

    Both see 60 images for validation, and trials 60 for testing, forward alone.
    """
    said = _dry(STUDY, tmp_path, num_cpus=2)
    n, batch = len(load_dataset(STUDY.dataset).train), 16
    half, whole = (2 * -(-m // batch) * batch for m in (n // 2, n))
    assert (n, half, whole) == (120, 128, 256)
    assert _line(said, "likely").startswith("query runs 5.7 min, scores 60 s, trials 4.9 min: 12 ")
    ((layout, probes),) = paced
    assert layout == Layout(2, 1, 0.0)
    assert len(set(probes)) == len(probes) == 3
    alone = _line(_dry(STUDY, tmp_path, num_cpus=1), "likely")
    assert alone.startswith("query runs 5.7 min, scores 2 min, trials 7.7 min: 15 min in all on 1 ")
    assert "on 1 worker, at" in alone


def test_networks_are_a_stage_of_their_own(
    paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    likely = _line(_dry(NETWORKS, tmp_path, num_cpus=4), "likely")
    assert likely.startswith("trials 4.9 min, networks 4.9 min: 9.9 min in all on 4 workers")
    assert "besides looking for what to prune and starting the processes of each stage" in likely
    ((_, probes),) = paced
    assert len(probes) == 1  # retraining takes as long


def _finished(study: Study, out: Path, seconds: float) -> LabelledDataset:
    """Leave the first of a study's trials as if it had been run."""
    dataset = load_dataset(study.dataset)
    plan = make_plan(study, trial_configs(study, expand(study)), dataset)
    info = {"seconds": seconds, "device": "cpu"}
    Store(out / "store").write("trial", plan.trials[0].config, info)
    return dataset


def test_finished_trials_give_the_pace(
    paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    dataset = _finished(STUDY, tmp_path, seconds=30.0)
    likely = _line(_dry(STUDY, tmp_path, num_cpus=1), "likely")
    assert likely.endswith(
        "at the pace of 1 finished trial, besides starting the processes of each stage"
    )
    assert paced == []
    # On half of the data, 128 passes and 120 forward; the one left to do has 256 and 120.
    assert len(dataset.train) == 120
    assert "trials 53 s:" in likely


def test_what_no_finished_trial_tells_is_timed(
    paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    _finished(STUDY, tmp_path, seconds=30.0)
    other = {"method": "random", "model": "linear", "keep_fraction": 0.5}
    more = dataclasses.replace(STUDY, param_space=[STUDY.param_space, other])
    likely = _line(_dry(more, tmp_path, num_cpus=1), "likely")
    assert (
        "at the pace of 1 finished trial and for linear a few batches of noise on one worker "
        "alone, besides starting the processes of each stage"
    ) in likely
    assert {probe.model for _, probes in paced for probe in probes} == {"linear"}


def test_a_run_itself_times_nothing_and_tells_only_what_finished_trials_do(tmp_path: Path) -> None:
    dataset = load_dataset(STUDY.dataset)
    plan = make_plan(STUDY, trial_configs(STUDY, expand(STUDY)), dataset)
    store, console = Store(tmp_path / "store"), Console(file=io.StringIO())
    brief = Briefing(STUDY, plan, plan, dataset, store, console)
    brief.tell_layout(Layout(2, 1, 0.0), [])
    _finished(STUDY, tmp_path, seconds=30.0)
    brief.tell_layout(Layout(2, 1, 0.25), [])
    assert "likely" not in console.file.getvalue()  # type: ignore[attr-defined]
    brief.tell_layout(Layout(2, 1, 0.0), [])
    assert _line(console.file.getvalue(), "likely").endswith(  # type: ignore[attr-defined]
        "in all on 2 workers, at the pace of 1 finished trial, besides starting the processes of "
        "each stage"
    )


def test_a_study_that_is_done_tells_neither(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, include_unpruned=False)
    _finished(study, tmp_path, seconds=1.0)
    said = _dry(study, tmp_path)
    assert "layout" not in said
    assert "likely" not in said


def test_a_machine_without_the_gpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected a node with 64 GPUs, .* --gpus-per-worker"):
        _dry(STUDY, tmp_path, gpus_per_worker=64.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Nodes of a cluster that is joined at any address."""
    found: list[Node] = []
    addresses: list[str] = []

    @contextmanager
    def session(address: str, **_: Any) -> Iterator[str]:
        addresses.append(address)
        yield ""

    monkeypatch.setattr(briefing, "ray_session", session)
    monkeypatch.setattr(cluster_layout, "alive_nodes", lambda: found)
    return found


def test_a_cluster_tells_of_its_own_nodes(
    cluster: list[Node], paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    cluster += [{HEAD: 1.0}, {"CPU": 8.0, "GPU": 2.0}]
    said = _dry(STUDY, tmp_path, address="head:6379", num_cpus=1)
    assert "on 1 of 2 nodes (head without CPUs)" in _line(said, "layout")
    assert "in all on 8 workers" in _line(said, "likely")
    assert paced[0][0] == Layout(8, 1, 0.25)


def test_nodes_that_a_cluster_lacks_may_still_come(
    cluster: list[Node], paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    cluster += [{HEAD: 1.0}]
    said = _dry(STUDY, tmp_path, address="head:6379")
    assert _line(said, "layout").startswith(
        "none now, and a run waits up to 300 s for nodes: Expected at least one CPU in the Ray "
    )
    assert "likely" not in said
    assert paced == []


def test_a_dry_run_on_a_cluster_sends_the_users_own_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    joined: list[dict[str, Any]] = []

    @contextmanager
    def session(address: str, **options: Any) -> Iterator[str]:
        joined.append(options)
        yield ""

    monkeypatch.setattr(briefing, "ray_session", session)
    monkeypatch.setattr(cluster_layout, "alive_nodes", lambda: [{HEAD: 1.0}])
    text = (
        "def net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))"
    )
    (tmp_path / "own_net_of_a_test.py").write_text(f"from torch import nn\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = dataclasses.replace(STUDY, model="own_net_of_a_test:net")
    _dry(own, tmp_path, address="head:6379", code="/code")
    (options,) = joined
    assert options["code"] == "/code"
    assert [module.__name__ for module in options["modules"]] == ["own_net_of_a_test"]


def own_training(task: Any) -> Any:
    return task.predict(task.model())


def test_how_long_a_training_of_ones_own_takes_is_not_guessed_from_raydrops(
    paced: list[tuple[Layout, list[Probe]]], tmp_path: Path
) -> None:
    own = dataclasses.replace(STUDY, train=own_training)
    sentence = "no estimate: how long test_briefing:own_training trains is known once one of its"
    assert sentence in " ".join(_dry(own, tmp_path, num_cpus=1).split())
    assert paced == []


def test_a_network_that_cannot_be_timed_is_said_and_nothing_else_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no memory [left]\nat all")

    monkeypatch.setattr(forecast, "measured_here", fail)
    said = _dry(STUDY, tmp_path, num_cpus=2)
    assert _line(said, "likely") == "no estimate: RuntimeError: no memory [left]"
    assert "2 workers at a time" in _line(said, "layout")


def _in_files(dataset: LabelledDataset, count: int, shape: tuple[int, int, int]) -> LabelledDataset:
    """The data set with ``count`` training images, in files that nobody opens."""

    def files(split: Split, n: int) -> Split:
        ids = split.ids if n == len(split) else np.arange(n) + 10**9
        images = FileImages(("a.png",) * n, "/absent")
        return Split(ids, np.resize(split.labels, n), images)

    splits = {name: files(split, len(split)) for name, split in dataset.splits().items()}
    splits["train"] = files(dataset.train, count)
    return dataclasses.replace(dataset, image_shape=shape, **splits)


def test_small_images_in_files_lie_in_memory_up_to_a_size() -> None:
    dataset = load_dataset("digits+subset(12, test=6)")
    assert dataset.fits_decoded()
    assert _in_files(dataset, 1000, (3, 64, 64)).fits_decoded()
    assert not _in_files(dataset, 1000, (3, 65, 64)).fits_decoded()
    assert not _in_files(dataset, 200_000, (3, 64, 64)).fits_decoded()
