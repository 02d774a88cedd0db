"""What a driver says of each trial, and what a sweep does with trials that end badly; no Ray."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydrop.cluster import progress, sweep
from raydrop.cluster.layout import Layout
from raydrop.cluster.progress import LONGEST_SENTENCE, quoted, stage_progress
from raydrop.cluster.scoring import Context, run_queries
from raydrop.cluster.shared_store import SharedStore
from raydrop.errors import visible
from raydrop.plan.runs import QueryRun, TrialRun
from raydrop.store import Store
from raydrop.store.terminal import Console
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
    crew: Any = SimpleNamespace(query_runs=lambda *_: ((run, said[run.key]) for run in queries))
    monkeypatch.setattr("raydrop.cluster.scoring.query_samples", lambda *_: 10)
    console: Any = Console(file=io.StringIO(), width=500)
    place = SharedStore(tmp_path)
    context = Context(STUDY, None, LAYOUT, place, Store(tmp_path), [], console)  # type: ignore[arg-type]
    failed = run_queries(context, queries, crew)
    assert failed == {queries[1].key: said[queries[1].key]}
    key = queries[1].key[:8]
    first, second = _printed(console).splitlines()
    assert first == (
        f"  query run {key}  small_cnn, seed 1 failed: Expected a finite loss, found nan; "
        f"lower it. (log: logs/query_runs/{key}*.log)"
    )
    assert second.startswith("query runs: 2/2 in 0 s")


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
