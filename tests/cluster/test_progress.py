"""What a driver says of each trial, and what a sweep does with trials that end badly; no Ray."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from raydrop.cluster import pool, progress, scoring, sweep
from raydrop.cluster.losses import Losses
from raydrop.cluster.progress import LONGEST_SENTENCE, quoted, stage_progress
from raydrop.cluster.resources import Layout
from raydrop.cluster.visibility import Place as SharedStore
from raydrop.errors import ConfigError, StoreError, visible
from raydrop.frontier.terminal import Console
from raydrop.plan.runs import QueryRun, TrialRun
from raydrop.store import Place, Store
from raydrop.study import Study, TrialConfig

STUDY = Study(name="s", dataset="digits", model="small_cnn", param_space={})
LAYOUT = Layout(1, 1, 0.0)


def _run(seed: int = 0, **changes: Any) -> TrialRun:
    trial = TrialConfig("el2n", "drop", 0.3, "cross_entropy", "small_cnn", "small_cnn", seed)
    trial = dataclasses.replace(trial, **changes)
    return TrialRun(trial, None, None, None, {"kind": "trial", **trial.as_dict()})


def _ended(run: TrialRun, **result: Any) -> SimpleNamespace:
    """A trial as Tune shows it to callbacks."""
    return SimpleNamespace(config={"trial_id": run.key}, last_result=result, error_file=None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed; append to let time go on."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[-1])
    return seconds


def _printed(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


GOOD = {"average_accuracy": 0.9134, "worst_class_accuracy": 0.62, "seconds": 12.4}


# One line for each trial.


def test_in_a_file_each_trial_has_its_line_and_counts_come_now_and_then(
    clock: list[float],
) -> None:
    console = Console(file=io.StringIO(), width=40)
    runs = {run.key: run for run in map(_run, range(4))}
    first, second, third, fourth = runs.values()
    with stage_progress(console, "trials", len(runs)) as stage:
        advance = sweep._Advance(stage, runs)
        advance.on_trial_complete(0, [], _ended(first, **GOOD))
        clock.append(20.0)
        advance.on_trial_complete(1, [], _ended(second, failed="Expected a, found b; do c."))
        clock.append(21.0)
        advance.on_trial_error(2, [], _ended(third))
        advance.on_trial_complete(3, [], _ended(fourth, **{**GOOD, "seconds": 2.25}))
    words = "small_cnn, el2n + drop at 0.3, seed"
    log = "(log: logs/trials/{}*.log)"
    assert _printed(console).splitlines() == [
        f"  trial {first.key[:8]}  {words} 0: average 0.91, worst 0.62, 12 s",
        f"  trial {second.key[:8]}  {words} 1 failed: Expected a, found b; do c. "
        + log.format(second.key[:8]),
        "trials: 2/4 in 20 s, about 40 s left  1 failed",
        f"  trial {third.key[:8]}  {words} 2 failed: its process died {log.format(third.key[:8])}",
        f"  trial {fourth.key[:8]}  {words} 3: average 0.91, worst 0.62, 2.2 s",
        "trials: 4/4 in 21 s  2 failed",
    ]


def test_in_a_terminal_lines_stand_above_the_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    run = _run()
    with stage_progress(console, "trials", 2) as stage:
        advance = sweep._Advance(stage, {run.key: run})
        advance.on_trial_complete(0, [], _ended(run, **GOOD))
    lines = _printed(console).splitlines()
    (line,) = [line for line in lines if f"trial {run.key[:8]}" in line]
    assert "average 0.91, worst 0.62, 12 s" in line
    assert "━" not in line
    assert any("━" in line and "1/2" in line for line in lines[lines.index(line) :])


def test_what_a_study_calls_things_is_no_markup() -> None:
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
        run = _run(model="net[bold]", query_model="net[bold]", loss="[/red] :smile:")
        with stage_progress(console, "trials", 1) as stage:
            advance = sweep._Advance(stage, {run.key: run})
            advance.on_trial_complete(
                0, [], _ended(run, failed="[link=x] no [/] such\n\x1b[2J thing")
            )
            stage.worked(0, "[/note]")
        assert "net[bold], el2n + drop at 0.3, [/red] :smile:, seed 0" in _printed(console)
        assert r"failed: [link=x] no [/] such \x1b[2J thing (log:" in _printed(console)
        assert "\x1b[2J thing" not in _printed(console)


def test_a_long_sentence_is_cut_to_one_line() -> None:
    assert quoted("a\n\tb  c") == "a b c"
    long = quoted("word " * 1000)
    assert len(long) == LONGEST_SENTENCE
    assert long.endswith("…")


def test_a_trial_that_was_stopped_has_no_line() -> None:
    console = Console(file=io.StringIO())
    run = _run()
    with stage_progress(console, "trials", 1) as stage:
        sweep._Advance(stage, {run.key: run}).on_trial_complete(0, [], _ended(run))
    assert _printed(console) == ""


def test_why_a_process_died_is_what_tune_wrote_down(tmp_path: Path) -> None:
    run, console = _run(), Console(file=io.StringIO(), width=500)
    trial = _ended(run)
    trial.error_file = str(tmp_path / "error.txt")
    Path(trial.error_file).write_text("Failure # 4\nThe actor died.\nThe node was lost.\n")
    with stage_progress(console, "trials", 1) as stage:
        sweep._Advance(stage, {run.key: run}).on_trial_error(0, [], trial)
    assert "seed 0 failed: The node was lost. (log:" in _printed(console)


def test_of_query_runs_only_those_that_fail_have_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queries = tuple(QueryRun(seed, "small_cnn", {"kind": "query", "seed": seed}) for seed in (0, 1))
    said = {queries[0].key: None, queries[1].key: "Expected a finite loss, found nan; lower it."}
    task = SimpleNamespace(remote=lambda study, run, *_: run.key, options=lambda **_: task)
    monkeypatch.setattr(scoring.ray, "remote", lambda function: task)
    monkeypatch.setattr(scoring.ray, "get", lambda reference: said[reference])
    monkeypatch.setattr(scoring, "wait_for_any", lambda references, watch: references[0])
    monkeypatch.setattr(scoring, "query_samples", lambda *_: 10)
    console: Any = Console(file=io.StringIO(), width=500)
    context = scoring.Context(STUDY, Store(tmp_path), None, [], LAYOUT, console)  # type: ignore[arg-type]
    failed = scoring.run_queries(context, queries)
    assert failed == {queries[1].key: said[queries[1].key]}
    key = queries[1].key[:8]
    first, second = _printed(console).splitlines()
    assert first == (
        f"  query run {key}  small_cnn, seed 1 failed: Expected a finite loss, found nan; "
        f"lower it. (log: logs/query_runs/{key}*.log)"
    )
    assert second.startswith("query runs: 2/2 in 0 s")


# A trial's process.


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials report to Tune; object references are the objects."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(sweep.tune, "report", found.append)
    monkeypatch.setattr(sweep.ray, "get", lambda reference: reference)
    return found


def _task(run: TrialRun, place: SharedStore) -> None:
    context = sweep.TrialContext(STUDY, place, "data", LAYOUT, {run.key: run})
    sweep._trial_task({"trial_id": run.key}, context)


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
    guard = sweep._Guard(SimpleNamespace(check=lambda: None), "trials", Losses())  # type: ignore[arg-type]
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
    sweep.run_trials(SimpleNamespace(store=None), (dense, pruned), {}, Place(tmp_path))  # type: ignore[arg-type]
    assert work.exists() == kept


# Deaths in a pool of actors.


class Actor:
    """Stands for an actor that Ray has started again so many times."""

    def __init__(self) -> None:
        self.restarts = 0
        self.ping = SimpleNamespace(remote=object)


def _answers(
    monkeypatch: pytest.MonkeyPatch, actor: Actor
) -> tuple[pool._Crew, list[int], Callable[[Any, int], None]]:
    told: list[int] = []
    monkeypatch.setattr(pool, "_restarts", lambda actor: actor.restarts)
    crew = pool._Crew([actor], lambda: told.append(1))

    def end(outcome: Any, restarts: int) -> None:
        """Let whatever the actor was asked last end."""
        actor.restarts = restarts
        monkeypatch.setattr(pool, "_outcome", lambda reference: outcome)
        crew._take(list(crew._calls)[-1])

    return crew, told, end


UNAVAILABLE = ray.exceptions.ActorUnavailableError("gone", None)


def test_a_worker_that_dies_before_its_first_answer_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, told, end = _answers(monkeypatch, Actor())
    end(UNAVAILABLE, 1)
    end(UNAVAILABLE, 1)  # a ping every two seconds while it starts again
    end(None, 1)
    assert len(told) == 1


def test_a_worker_that_is_only_slow_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told, end = _answers(monkeypatch, Actor())
    end(None, 0)
    assert told == []


def test_a_worker_that_dies_at_work_and_again_while_it_starts_is_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actor = Actor()
    crew, told, end = _answers(monkeypatch, actor)
    end(None, 0)
    work = pool._Values([])
    job = pool._Job(np.zeros(1), lambda actor: ())  # type: ignore[arg-type]
    call = pool._Call(actor, (object(),), work, job)
    crew._calls[call.references[-1]] = call
    crew._load[actor].append(call)
    work.running += 1
    end(UNAVAILABLE, 0)
    assert len(told) == 1
    end(UNAVAILABLE, 1)
    end(None, 2)
    assert len(told) == 2


@pytest.mark.parametrize("in_init", [False, True])
def test_a_worker_that_is_not_started_again_is_counted_unless_it_could_not_be_built(
    in_init: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, told, end = _answers(monkeypatch, Actor())
    end(UNAVAILABLE, 1)
    died = ray.exceptions.ActorDiedError()
    died._actor_init_failed = in_init
    end(died, 2)
    assert len(told) == (2 if in_init else 3)


HOSTILE = "[/x] [red]:smile:\x1b[2J\x1b]8;;x\x07\x9b\b\u202e"


@pytest.mark.parametrize("terminal", [True, False])
def test_names_in_progress_are_text(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=400)
    with stage_progress(console, "scores", items=1) as stage:
        stage.say(f"said {HOSTILE}")
        stage.advance(f"done {HOSTILE}")
    shown = _printed(console)
    assert f"said {visible(HOSTILE)}\n" in shown
    assert r"[/x] [red]:smile:\x1b[2J\x1b]8;;x" in shown.split("done ")[1]
    for code in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\b", "\u202e"):
        assert code not in shown
    assert quoted(f"Expected\n {HOSTILE}") == f"Expected {visible(HOSTILE)}"
