"""What a sweep does with trials that end badly, and with processes that die; no Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydrop.cluster import sweep
from raydrop.cluster.crew import WorkContext
from raydrop.cluster.deaths import WorkerDeaths
from raydrop.cluster.layout import Layout, NodeWatch
from raydrop.cluster.shared_store import SharedStore
from raydrop.errors import ConfigError, StoreError
from raydrop.plan.runs import TrialRun
from raydrop.store import Place, Store
from raydrop.study import Study, TrialConfig

STUDY = Study(name="s", dataset="digits", model="small_cnn", param_space={})
LAYOUT = Layout(1, 1, 0.0)
GOOD = {"average_accuracy": 0.9134, "worst_class_accuracy": 0.62, "seconds": 12.4}


def _run(seed: int = 0) -> TrialRun:
    trial = TrialConfig("el2n", "drop", 0.3, "cross_entropy", "small_cnn", "small_cnn", seed)
    return TrialRun(trial, None, None, None, {"kind": "trial", **trial.as_dict()})


# A trial's process.


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials report to Tune; object references are the objects."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(sweep.tune, "report", found.append)
    monkeypatch.setattr(sweep.ray, "get", lambda reference: reference)
    return found


def _task(run: TrialRun, place: SharedStore) -> None:
    context = WorkContext(STUDY, "data", LAYOUT, place)
    sweep._trial_task({"trial_id": run.key}, context, {run.key: run})


def test_a_trial_that_cannot_open_the_store_says_that_nothing_can_be_written(
    reported: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(place: SharedStore) -> Store:
        raise StoreError("Expected the driver's folder, found none; share it.")

    monkeypatch.setattr(SharedStore, "open", unseen)
    _task(_run(), SharedStore(tmp_path / "store"))
    (result,) = reported
    assert result == {
        "failed": "Expected the driver's folder, found none; share it.",
        sweep._UNWRITTEN: "Expected the driver's folder, found none; share it.",
    }
    guard = sweep._Guard(SimpleNamespace(check=lambda: None), "trials", WorkerDeaths())  # type: ignore[arg-type]
    guard.on_trial_result(0, [], None, result)
    with pytest.raises(StoreError, match="driver's folder"):
        guard.on_step_begin(1, [])


@pytest.mark.parametrize("error", [RuntimeError("no luck"), ConfigError("Expected a, found b.")])
def test_a_trial_that_fails_leaves_its_reason_and_its_log(
    error: Exception,
    reported: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(sweep, "run_trial", broken)
    run = _run()
    _task(run, SharedStore(tmp_path / "store"))
    (failure,) = Store(tmp_path / "store").entries("failure")
    assert reported == [{"failed": failure.info["message"]}]
    assert str(error) in failure.info["message"]
    log = (tmp_path / "logs" / "trials" / f"{run.key}.log").read_text()
    assert failure.info["message"] in log
    assert ("Traceback" in log) == isinstance(error, RuntimeError)
    assert "small_cnn, el2n + drop at 0.3, seed 0" in log


def test_a_trial_that_ends_well_says_so_in_its_log(
    reported: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_trial", lambda *_: GOOD)
    run = _run()
    _task(run, SharedStore(tmp_path / "store"))
    assert reported == [GOOD]
    log = (tmp_path / "logs" / "trials" / f"{run.key}.log").read_text()
    assert " s: average 0.9134, worst 0.6200\n" in log


# What is left of Tune's own files.


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ({"trials": 1, "networks": 0}, True),
        ({"trials": 0, "networks": 1}, True),
        ({"trials": 0, "networks": 0}, False),
        ({"trials": 1}, True),
        ({"networks": 0}, False),
        ({}, True),
    ],
)
def test_tunes_files_are_kept_if_any_process_died_for_good(
    errors: dict[str, int], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = _run()
    pruned = dataclasses.replace(dense, dense=dense)

    def ready(store: Store, runs: list[TrialRun], lost: object) -> dict[str, TrialRun]:
        name = "trials" if runs[0].dense is None else "networks"
        return {run.key: run for run in runs} if name in errors else {}

    monkeypatch.setattr(sweep, "_ready", ready)
    monkeypatch.setattr(sweep, "_tune", lambda name, *_: errors[name])
    work = tmp_path / "tune"
    work.mkdir()
    store = SimpleNamespace(place=Place(tmp_path))
    sweep.run_trials(SimpleNamespace(store=store), (dense, pruned), {})  # type: ignore[arg-type]
    assert work.exists() == kept


# What ends a sweep.


@pytest.fixture
def guard() -> sweep._Guard:
    return sweep._Guard(
        NodeWatch(Layout(1, 1, 0.0), 100.0, lambda: [{"CPU": 8.0}]), "trials", WorkerDeaths()
    )


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


# Deaths.


def test_deaths_are_counted_and_written_down(tmp_path: Path) -> None:
    deaths = WorkerDeaths(Store(tmp_path))
    assert deaths.sentence() == ""
    deaths.note("trials", "a3")
    assert deaths.sentence().startswith("1 worker process died; what was lost was done again (1 of")
    deaths.note("scores", "small_cnn")
    deaths.note("trials", "a3")
    assert deaths.sentence().startswith("3 worker processes died")
    assert deaths.sentence().endswith("(2 of trials, 1 of scores)")
    WorkerDeaths(Store(tmp_path)).note("trials", "a3")  # another run of the same study
    entries = list(Store(tmp_path).entries("loss"))
    assert sorted(entry.info["stage"] for entry in entries) == ["scores", *["trials"] * 3]


def test_a_death_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    deaths = WorkerDeaths(Store(tmp_path / "file" / "store"))
    deaths.note("trials")
    assert deaths.total == 1
