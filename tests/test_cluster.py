"""The stages on a real Ray: the same bits as without it, and nothing lost when things go wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from numpy.typing import NDArray
from rich.console import Console

from raydrop.cluster import pool
from raydrop.cluster.driver import Options, Outcome, run_study
from raydrop.cluster.pool import PoolWorker, RayExecutor
from raydrop.cluster.resources import Layout
from raydrop.cluster.session import ray_session
from raydrop.data.batches import PreparedData
from raydrop.errors import ScoringError, StudyMismatchError
from raydrop.frontier import write_frontier
from raydrop.models import build_model
from raydrop.scores.sharding import GradientWorker, LocalExecutor, Shard, ShardedGradients
from raydrop.store import Store
from raydrop.study import Study
from raydrop.training.checkpoints import flat_state

pytestmark = pytest.mark.ray

# Workers cannot import test files, so the classes below travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def data_ref(digits: PreparedData) -> Any:
    return ray.put(digits)


@pytest.fixture(scope="module")
def state(digits: PreparedData) -> NDArray[np.float32]:
    torch.manual_seed(0)
    return flat_state(build_model("small_cnn", 10, digits.dataset.image_shape))


def _layout(workers: int) -> Layout:
    return Layout(workers, 1, 0.0)


class DiesOnShardOne(PoolWorker):
    def run(self, task: Any, shard: Shard, state: Any, direction: Any = None) -> Any:
        if shard.index == 1:
            os._exit(1)
        return super().run(task, shard, state, direction)


class DiesOnce(PoolWorker):
    """Dies in the middle of shard 2 the first time that any actor comes to it."""

    def run(self, task: Any, shard: Shard, state: Any, direction: Any = None) -> Any:
        marker = Path(os.environ["RAYDROP_TEST_MARKER"])
        if shard.index == 2 and not marker.exists():
            marker.touch()
            os._exit(1)
        return super().run(task, shard, state, direction)


class FailsOnShardOne(PoolWorker):
    def run(self, task: Any, shard: Shard, state: Any, direction: Any = None) -> Any:
        if shard.index == 1:
            raise ScoringError("Expected a finite gradient, found none; mend the model.")
        return super().run(task, shard, state, direction)


def _all(executor: Any, n: int, state: NDArray[np.float32]) -> list[bytes]:
    gradients = ShardedGradients(executor, n)
    mean = gradients.mean_gradient(state)
    results = (mean, gradients.dots(state, mean), gradients.norms(state))
    return [array.tobytes() for array in results]


def test_one_and_two_workers_give_the_bits_of_this_process(
    digits: PreparedData, data_ref: Any, state: NDArray[np.float32]
) -> None:
    n = len(digits.dataset.train)
    here = _all(LocalExecutor(GradientWorker(digits, "small_cnn")), n, state)
    for workers in (1, 2):
        executor = RayExecutor(data_ref, "small_cnn", _layout(workers))
        try:
            assert _all(executor, n, state) == here
        finally:
            executor.close()


def test_a_worker_that_dies_leaves_the_scores_as_they_were(
    digits: PreparedData,
    data_ref: Any,
    state: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    n = len(digits.dataset.train)
    here = ShardedGradients(LocalExecutor(GradientWorker(digits, "small_cnn")), n).norms(state)
    marker = str(tmp_path / "died")

    class Marked(DiesOnce):
        def __init__(self, *arguments: Any) -> None:
            os.environ["RAYDROP_TEST_MARKER"] = marker
            super().__init__(*arguments)

    executor = RayExecutor(data_ref, "small_cnn", _layout(2), worker=Marked)
    try:
        found = ShardedGradients(executor, n).norms(state)
    finally:
        executor.close()
    assert Path(marker).exists()
    assert found.tobytes() == here.tobytes()


def test_a_worker_that_always_dies_is_named_with_its_shard(
    digits: PreparedData,
    data_ref: Any,
    state: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "RESTARTS", 1)
    executor = RayExecutor(data_ref, "small_cnn", _layout(1), worker=DiesOnShardOne)
    try:
        with pytest.raises(ScoringError, match=r"shard 1 \(samples 128 to 255\) to give its norm"):
            ShardedGradients(executor, len(digits.dataset.train)).norms(state)
    finally:
        executor.close()


def test_an_error_in_a_shard_is_told_with_its_reason(
    digits: PreparedData, data_ref: Any, state: NDArray[np.float32]
) -> None:
    executor = RayExecutor(data_ref, "small_cnn", _layout(1), worker=FailsOnShardOne)
    try:
        with pytest.raises(ScoringError, match=r"shard 1 .*ScoringError: Expected a finite g"):
            ShardedGradients(executor, len(digits.dataset.train)).norms(state)
    finally:
        executor.close()


# Whole studies.


def _run(study: Study, out: Path, **options: Any) -> Outcome:
    outcome = run_study(study, Options(out=out, **options), Console(quiet=True))
    if not options.get("dry_run"):
        write_frontier(out)
    return outcome


def _stamps(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in out.glob("store/[!d]*/*/meta.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A study that has been run once, to be copied by the tests that change it."""
    study = Study(
        name="tiny",
        dataset="digits+subset(12, test=6)+long_tail(3)",
        model="small_cnn",
        param_space=[
            {
                "method": {"grid_search": ["random", "moso"]},
                "quotas": {"grid_search": ["none", "drop"]},
                "keep_fraction": 0.5,
            },
            {"method": "grand", "keep_fraction": 0.5, "loss": "cdb_w"},
        ],
        seeds=(0, 1),
        training=dataclasses.replace(Study("x", "digits", "m", {}).training, epochs=2),
        checkpoints=2,
        recall_smoothing=1.0,
    )
    out = tmp_path_factory.mktemp("finished")
    assert _run(study, out) == Outcome(planned=14, failed=0)
    return study, out


def test_a_study_leaves_its_files(finished: tuple[Study, Path]) -> None:
    _, out = finished
    for name in ("trials.parquet", "frontier.csv", "frontier.png", "frontier.svg", "report.html"):
        assert (out / name).stat().st_size > 0
    trials = pd.read_parquet(out / "trials.parquet")
    assert len(trials) == 14
    unpruned = trials[trials["method"] == "none"]
    assert set(unpruned["keep_fraction"]) == {1.0}
    assert set(unpruned["quotas"]) == {"none"}
    pruned = trials[trials["method"] != "none"]
    assert (pruned["n_kept"] == round(pruned["n_train"].iloc[0] / 2)).all()
    assert not (out / "tune").exists()


def test_predictions_and_kept_samples_are_those_of_the_row(finished: tuple[Study, Path]) -> None:
    _, out = finished
    store = Store(out / "store")
    (card,) = store.entries("data")
    trials = pd.read_parquet(out / "trials.parquet").set_index("trial_id")
    for entry in store.entries("trial"):
        row = trials.loc[entry.key]
        right = entry.array("predictions") == card.array("test_labels")
        assert row["average_accuracy"] == pytest.approx(right.mean())
        assert len(entry.array("kept_ids")) == row["n_kept"] == sum(row["kept_by_class"])


def test_from_nothing_the_same_study_gives_the_same_bytes(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, out = finished
    _run(study, tmp_path)
    assert (tmp_path / "frontier.csv").read_bytes() == (out / "frontier.csv").read_bytes()


def test_again_does_only_what_is_missing_and_mends_what_is_damaged(
    finished: tuple[Study, Path],
) -> None:
    study, out = finished
    table, before = (out / "frontier.csv").read_bytes(), _stamps(out)
    _run(study, out)
    assert _stamps(out) == before
    victim = sorted(out.glob("store/trial/*/predictions.npy"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    _run(study, out)
    after = _stamps(out)
    assert {p for p in after if after[p] != before.get(p)} == {str(victim.parent / "meta.json")}
    assert (out / "frontier.csv").read_bytes() == table


def test_a_larger_study_adds_trials_to_the_same_folder(finished: tuple[Study, Path]) -> None:
    study, out = finished
    before = _stamps(out)
    larger = dataclasses.replace(
        study, param_space=[*study.spaces(), {"method": "aum", "keep_fraction": 0.3}]
    )
    assert _run(larger, out).planned == 16
    after = _stamps(out)
    assert all(after[path] == stamp for path, stamp in before.items())
    new = {Path(path).parts[-3] for path in after.keys() - before.keys()}
    assert new == {"scores", "trial"}


def test_another_studys_folder_is_refused(finished: tuple[Study, Path]) -> None:
    study, out = finished
    before = _stamps(out)
    with pytest.raises(
        StudyMismatchError, match=r"\(budget: equal_epochs there, equal_steps here\)"
    ):
        _run(dataclasses.replace(study, budget="equal_steps"), out)
    assert _stamps(out) == before


def test_dry_run_writes_nothing(finished: tuple[Study, Path], tmp_path: Path) -> None:
    study, _ = finished
    _run(study, tmp_path / "new", dry_run=True)
    assert not (tmp_path / "new").exists()


def test_a_trial_that_fails_is_told_and_the_others_go_on(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    """Scores with a NaN, which no scoring of ours leaves, stand for any trial that breaks."""
    study, out = finished
    scores = next(e for e in Store(out / "store").entries("scores") if e.info["method"] == "moso")
    broken = scores.array("scores").copy()
    broken[3] = np.nan
    Store(tmp_path / "store").write("scores", scores.config, scores.info, {"scores": broken})
    assert _run(study, tmp_path) == Outcome(planned=14, failed=2)
    failures = list(Store(tmp_path / "store").entries("failure"))
    assert [f.info["trial"]["method"] for f in failures] == ["moso", "moso"]
    assert all("NaN" in f.info["message"] for f in failures)
    report = (tmp_path / "report.html").read_text()
    assert failures[0].info["message"][:40].replace("'", "&#39;") in report
    Store(tmp_path / "store").remove("scores", scores.key)
    assert _run(study, tmp_path) == Outcome(planned=14, failed=0)
    assert list(Store(tmp_path / "store").entries("failure")) == []
    assert (tmp_path / "frontier.csv").read_bytes() != b""


def test_a_query_run_that_diverges_takes_only_what_needs_it(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = finished
    wild = dataclasses.replace(
        study, training=dataclasses.replace(study.training, learning_rate=1e30), seeds=(0,)
    )
    outcome = run_study(wild, Options(out=tmp_path), Console(quiet=True))
    assert outcome.failed == outcome.planned == 7
    messages = [f.info["message"] for f in Store(tmp_path / "store").entries("failure")]
    assert len(messages) == 7
    assert all(m.startswith("Expected a finite training loss, found") for m in messages)


def test_study_json_replays(finished: tuple[Study, Path], tmp_path: Path) -> None:
    from raydrop.cli import load_sweep

    study, out = finished
    again = load_sweep(out / "study.json")
    assert dataclasses.replace(again, param_space=()) == dataclasses.replace(study, param_space=())
    assert run_study(again, Options(out=out, dry_run=True), Console(quiet=True)).planned >= 14
    saved = json.loads((out / "study.json").read_text())
    assert {t["method"] for t in saved["trials"]} >= {"none", "random", "moso", "grand"}
