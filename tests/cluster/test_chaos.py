"""What clusters do to a study: every bit of its results is that of a run that nobody disturbed.

The cluster has two nodes, on one machine. Whatever goes wrong does so once, marked by a file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray_clusters import replace_node

from raydrop.cluster import driver, sweep
from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.crew import CrewWorker, start_crew
from raydrop.cluster.driver import Options, Outcome, run_study
from raydrop.errors import IncompleteStudyError
from raydrop.store import Store
from raydrop.store.terminal import Console
from raydrop.study import Study

pytestmark = pytest.mark.ray

# Workers cannot import test files, so the classes and functions below travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

TRIALS = 4
"""Of the study: three methods, and all the data."""
ENTRIES = 2 + 3 + TRIALS
"""Query runs, scores and trials of an undisturbed run."""
STAGES = ("query runs", "scores", "trials")
LONGEST = 120.0
"""Seconds that anything here may take on a busy machine."""


def _load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
    spec = importlib.util.spec_from_file_location("raydrop_chaos", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _study(script: str) -> Study:
    """The study that a script defines."""
    names: dict[str, Any] = {}
    exec(script, names)
    study: Study = names["study"]
    return study


chaos = _load_benchmark()
STUDY = _study(chaos.STUDY)


def _run(cluster: Cluster, out: Path, study: Study = STUDY) -> tuple[Outcome, str]:
    """Run the study on the cluster; return how it ended and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    outcome = run_study(study, Options(out=out, address=cluster.address), console)
    return outcome, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    outcome, printed = _run(cluster, out)
    assert outcome == Outcome(TRIALS, 0)
    assert "died" not in printed
    assert len(chaos.finished(out)) == ENTRIES
    return out


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> dict[str, bytes]:
    return chaos.results(undisturbed)  # type: ignore[no-any-return]


def _deaths(out: Path) -> dict[str, int]:
    """How many processes were lost, by stage."""
    stages = [entry.info["stage"] for entry in Store(out / "store").entries("loss")]
    return {stage: stages.count(stage) for stage in sorted(set(stages))}


def _die_once(marker: Path) -> None:
    """Be killed by the system, as when memory runs out, unless that has happened before."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


class Mortal(CrewWorker):
    """Is killed when it comes to a query run, and when it comes to the second shard."""

    marker: Path

    def query(self, *arguments: Any) -> Any:
        _die_once(self.marker / "query")
        return super().query(*arguments)

    def run(self, task: Any, shard: Any, state: Any, direction: Any = None) -> Any:
        if shard.index == 1:
            _die_once(self.marker / "shard")
        return super().run(task, shard, state, direction)


@dataclass(frozen=True)
class Disturbed:
    """A study in which a process of every stage was killed, and a trial ran out of memory."""

    out: Path
    outcome: Outcome
    printed: str


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    there, out = tmp_path_factory.mktemp("markers"), tmp_path_factory.mktemp("disturbed")

    class Worker(Mortal):
        marker = there

    def trial(config: dict[str, Any], context: Any, runs: Any) -> None:
        def run_trial(*arguments: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        _die_once(there / "trial")
        here = importlib.import_module("raydrop.cluster.sweep")
        with pytest.MonkeyPatch.context() as patch:
            if runs[config["trial_id"]].trial.method == "random":
                patch.setattr(here, "run_trial", run_trial)
            here._trial_task(config, context, runs)  # as that process knows it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_trial_task", trial)
        patch.setattr(driver, "start_crew", functools.partial(start_crew, worker=Worker))
        return Disturbed(out, *_run(cluster, out))


def test_a_process_of_every_stage_is_killed_at_work(disturbed: Disturbed) -> None:
    """Each is replaced, counted and told of; that it leaves no trace is seen below."""
    assert _deaths(disturbed.out) == {"query runs": 1, "scores": 1, "trials": 1}
    assert "3 worker processes died; what was lost was done again" in disturbed.printed


def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_others_go_on(
    disturbed: Disturbed,
) -> None:
    assert disturbed.outcome == Outcome(TRIALS, 1)
    (failure,) = Store(disturbed.out / "store").entries("failure")
    assert failure.info["trial"]["method"] == "random"
    assert failure.info["message"].startswith("OutOfMemoryError: CUDA out of memory. Tried")
    assert "so lower batch_size" in failure.info["message"]
    assert f"trial {failure.key[:8]}  small_cnn, random at" in disturbed.printed
    log = (disturbed.out / "logs" / "trials" / f"{failure.key}.log").read_text()
    assert "Traceback (most recent call last):" in log
    assert log.rstrip().endswith("Error: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert len(chaos.finished(disturbed.out)) == ENTRIES - 1


def test_again_does_what_failed_and_a_truncated_file_with_what_it_takes(
    cluster: Cluster, disturbed: Disturbed, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Of a trial, the scores that it reads, and the query run that those read."""
    out = tmp_path / "out"
    shutil.copytree(disturbed.out, out)
    store = Store(out / "store")
    before = chaos.finished(out)
    score = next(e for e in store.entries("scores") if e.info["method"] == "el2n")
    trial = next(e for e in store.entries("trial") if e.config["scores"] == score.key)
    query = score.config["queries"][0]
    victims = {f"query {query}", f"scores {score.key}", f"trial {trial.key}"}
    (failed,) = (f"trial {key}" for key in store.keys("failure"))
    for entry in (store.read("query", query), score, trial):
        assert entry is not None
        path = entry.path / ("meta.json" if entry is trial else f"{entry.names[0]}.npy")
        path.write_bytes(path.read_bytes()[:-10])
    outcome, printed = _run(cluster, out)
    assert outcome == Outcome(TRIALS, 0)
    assert "died" not in printed
    after = chaos.finished(out)
    assert {name for name in after if after[name] != before.get(name)} == {*victims, failed}
    assert len(list((out / "store" / "damaged").iterdir())) == 3
    assert chaos.results(out) == expected


@contextlib.contextmanager
def _losing_nodes(cluster: Cluster, folder: Path) -> Iterator[None]:
    """In each stage take the node that is not the head away, once it is at work; give another."""
    ended = list[str]()

    def lose() -> None:
        for stage in STAGES:
            _until((folder / f"there {stage}").exists)
            (other,) = cluster.worker_nodes
            cluster.remove_node(other, allow_graceful=False)
            (folder / f"gone {stage}").touch()
            replace_node(cluster, other)
            ended.append(stage)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        for stage in STAGES:
            (folder / f"there {stage}").touch()
        thread.join(LONGEST)
    assert tuple(ended) == STAGES


def _linger(stage: str, head: str, folder: Path) -> None:
    """Be at work on the node that is lost, until it is; on the head, wait for that."""
    gone = folder / f"gone {stage}"
    if gone.exists():
        return
    if ray.get_runtime_context().get_node_id() != head:
        (folder / f"there {stage}").touch()
        _until(lambda: False)
    _until(gone.exists)


@pytest.mark.slow
def test_a_node_is_lost_at_work_in_every_stage(
    cluster: Cluster,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, trial_task = cluster.head_node.node_id, sweep._trial_task

    class Lingering(CrewWorker):
        def query(self, *arguments: Any) -> Any:
            _linger("query runs", head, tmp_path)
            return super().query(*arguments)

        def run(self, *arguments: Any) -> Any:
            _linger("scores", head, tmp_path)
            return super().run(*arguments)

    def trial(config: dict[str, Any], context: Any, runs: Any) -> None:
        _linger("trials", head, tmp_path)
        trial_task(config, context, runs)

    monkeypatch.setattr(driver, "start_crew", functools.partial(start_crew, worker=Lingering))
    monkeypatch.setattr(sweep, "_trial_task", trial)
    with _losing_nodes(cluster, tmp_path):
        outcome, _ = _run(cluster, tmp_path / "out")
    assert outcome == Outcome(TRIALS, 0)
    assert _deaths(tmp_path / "out") == dict.fromkeys(STAGES, 1)
    assert chaos.results(tmp_path / "out") == expected


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of 16 MiB, where one can be mounted."""
    path = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False)
    if not mounted or mounted.returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_sentence(
    cluster: Cluster, undisturbed: Path, small_disk: Path | None
) -> None:
    """There is room for what the driver writes first, and not for all that workers do."""
    if small_disk is None:
        pytest.skip("a small file system cannot be mounted here, which takes root on Linux")
    out, ballast = small_disk / "out", small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - 60_000))
    command = [sys.executable, "-m", "raydrop", "run", str(undisturbed / "study.json")]
    command += ["--out", str(out), "--address", cluster.address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    ballast.unlink()
    assert ended.returncode == 1
    (sentence,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert "No space left on device; free space there" in sentence
    assert "died" not in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(chaos.finished(out)) < ENTRIES
    assert not (out / "store" / "damaged").exists()  # whatever appears is whole


@pytest.mark.slow
def test_a_driver_is_killed_and_the_same_command_does_what_is_missing(
    cluster: Cluster,
    undisturbed: Path,
    expected: dict[str, bytes],
    small_disk: Path | None,
    tmp_path: Path,
) -> None:
    """At one moment; ``benchmarks/chaos.py`` plays any number of others.

    The study goes on with what the disk had room for, now that there is more.
    """
    folder = small_disk or tmp_path
    left = ENTRIES - len(chaos.finished(folder / "out"))
    rng = np.random.default_rng(1)
    # Beginnings and ends of all but the last entry.
    moment = chaos.Moment(int(rng.integers(1, 2 * left - 2)), rng.uniform(0.0, 0.1))
    found = chaos.play(undisturbed / "study.json", folder, moment, expected, cluster.address)
    assert found.was_running
    assert found.same
    assert found.again == found.changed == ()
    # Fewer where a worker ended what it had before it noticed that its driver was gone.
    assert found.begun.total() <= ENTRIES - found.before


def test_a_cluster_that_loses_its_last_place_ends_in_a_sentence(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that ask for two CPUs where each node has one stand for nodes that do not return."""
    monkeypatch.setattr(cluster_layout, "WAIT_SECONDS", 1.0)
    layout = cluster_layout.Layout(1, 2, 0.0)
    monkeypatch.setattr(cluster_layout, "make_layout", lambda *_, **__: layout)
    sentence = (
        r"none of 1 workers answered within 1 s.* 2 CPUs; the cluster has 2 alive: 1 CPUs and"
    )
    with pytest.raises(IncompleteStudyError, match=sentence):
        _run(cluster, tmp_path)
