"""A sweep watched from outside: nothing there, something there, everything there."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, FakeStudy

from raydrop.errors import ConfigError, StoreError
from raydrop.frontier import frontier_table, load_records
from raydrop.frontier.points import POINT_OF_STUDY
from raydrop.frontier.watch import (
    GrowingFront,
    Snapshot,
    Watcher,
    best_worst,
    line_view,
    live_view,
    watch,
)
from raydrop.store import Store
from raydrop.store.terminal import Console
from raydrop.study import By

STUDY = FakeStudy(quotas=("none",), losses=("cross_entropy", "cdb_w"), seeds=(0, 1, 2))
TRIALS = STUDY.trials()
PLACE = "results/fake"


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def _console(*, terminal: bool, height: int = 40) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, height=height)
    return console, text


def _text(snapshot: Snapshot, *, now: float = 0.0, rows: int = 20) -> str:
    console, text = _console(terminal=False)
    console.print(live_view(snapshot, PLACE, now, rows))
    return text.getvalue()


@pytest.mark.parametrize(
    ("study", "by"),
    [(STUDY, None), (GROUPED, None), (GROUPED, "class"), (GROUPED, "group")],
)
def test_the_last_front_is_that_of_the_frontier_table(
    study: FakeStudy, by: By | None, tmp_path: Path
) -> None:
    snapshot = Watcher(study.write(tmp_path), by).look()
    records = load_records(tmp_path)
    unit = records.about(by).unit
    table = frontier_table(records.trials, by=unit).sort_values(
        list(POINT_OF_STUDY), ignore_index=True
    )
    names = [*POINT_OF_STUDY, "n_seeds", "average_accuracy", "worst_accuracy"]
    names += ["on_front", "on_front_at_keep_fraction"]
    points = snapshot.points.sort_values(list(POINT_OF_STUDY), ignore_index=True)
    pd.testing.assert_frame_equal(points[names], table[names], check_dtype=False, rtol=1e-15)
    assert snapshot.by == unit
    assert snapshot.is_over
    assert (snapshot.finished, snapshot.failed) == (len(study.trials()), 0)


def test_the_front_does_not_depend_on_the_order_of_trials(rng: np.random.Generator) -> None:
    results = {trial: tuple(rng.random(2)) for trial in TRIALS}
    tables = []
    for order in (TRIALS, TRIALS[::-1], [TRIALS[i] for i in rng.permutation(len(TRIALS))]):
        front = GrowingFront()
        for trial in order:
            front.add(trial.as_dict(), *results[trial])
        tables.append(front.points())
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other, tables[0], check_exact=True)


def test_a_trial_told_again_is_corrected_not_counted_twice() -> None:
    front, trial = GrowingFront(), TRIALS[0].as_dict()
    front.add(trial, 0.9, 0.1)
    assert front.points()["average_accuracy"].tolist() == [0.9]
    front.add(trial, 0.7, 0.5)
    assert front.finished == 1
    assert front.points()[["n_seeds", "average_accuracy"]].to_numpy().tolist() == [[1, 0.7]]


def test_best_worst_is_the_highest_of_each_keep_fraction() -> None:
    front = GrowingFront()
    for place, trial in enumerate(TRIALS):
        front.add(trial.as_dict(), 0.9, (place * 37 % 101) / 101)
    points = front.points()
    best = best_worst(points)
    assert best["keep_fraction"].tolist() == [1.0, 0.5, 0.2]
    for row in best.to_dict("records"):
        rivals = points[points["keep_fraction"] == row["keep_fraction"]]
        assert row["worst_accuracy"] == rivals["worst_accuracy"].max()


def test_of_equal_worst_classes_the_highest_average_is_best() -> None:
    front = GrowingFront()
    for place, trial in enumerate(TRIALS):
        front.add(trial.as_dict(), (place * 37 % 101) / 101, 0.0)
    best = best_worst(front.points())
    assert best["on_front_at_keep_fraction"].all()
    assert len(best) == 3


def test_it_waits_for_each_thing_that_a_sweep_leaves_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    watcher = Watcher(out)

    def said() -> str:
        snapshot = watcher.look()
        assert not snapshot.is_over
        assert line_view(snapshot, PLACE).startswith(_text(snapshot).splitlines()[0])
        return line_view(snapshot, PLACE)

    assert said() == f"Waiting for a sweep in {PLACE}: no such folder yet"
    out.mkdir()
    assert said() == f"Waiting for a sweep in {PLACE}: no study.json there yet"
    STUDY.write_study(out)
    assert said() == f"fake: 0 of {len(TRIALS)} trials; waiting: no facts about its data yet"
    store = Store(out / "store")
    STUDY.write_data(store)
    assert said() == f"fake: 0 of {len(TRIALS)} trials; waiting: no trial is finished yet"
    STUDY.write_trial(store, TRIALS[0], STUDY.predictions(TRIALS[0]))
    assert said().startswith(f"fake: 1 of {len(TRIALS)} trials; front (average/worst class): ")


def test_each_record_is_read_once_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def entry(store: Store, kind: str, key: str, *, arrays: bool = False) -> object:
        read.append(key)
        return real(store, kind, key, arrays=arrays)

    real = Store.peek
    monkeypatch.setattr(Store, "peek", entry)
    STUDY.write(tmp_path, skip=TRIALS[5:])
    before = _files(tmp_path)
    watcher = Watcher(tmp_path)
    assert watcher.look().finished == 5
    assert watcher.look().finished == 5
    assert len(read) == len(set(read)) == 6  # the data, and five trials
    assert _files(tmp_path) == before
    STUDY.write_trial(Store(tmp_path / "store"), TRIALS[5], STUDY.predictions(TRIALS[5]))
    assert watcher.look().finished == 6
    assert len(read) == 7


def test_a_record_that_looks_damaged_is_left_alone_and_not_counted(tmp_path: Path) -> None:
    STUDY.write(tmp_path, skip=TRIALS[3:])
    one, two = (tmp_path / "store" / "trial" / STUDY.trial_id(trial) for trial in TRIALS[:2])
    (one / "predictions.npy").write_bytes(b"")
    (two / "meta.json").write_text("{")
    before = _files(tmp_path)
    assert Watcher(tmp_path).look().finished == 1
    assert _files(tmp_path) == before


def test_a_trial_of_another_study_in_the_folder_is_not_counted(tmp_path: Path) -> None:
    STUDY.write(tmp_path)
    dataclasses.replace(STUDY, seeds=(0,)).write_study(tmp_path)
    snapshot = Watcher(tmp_path).look()
    assert snapshot.finished == snapshot.asked == len(TRIALS) // 3


def test_a_larger_study_started_meanwhile_goes_on(tmp_path: Path) -> None:
    small = dataclasses.replace(STUDY, seeds=(0,))
    small.write(tmp_path)
    watcher = Watcher(tmp_path)
    assert watcher.look().is_over
    STUDY.write_study(tmp_path)
    os.utime(tmp_path / "study.json", (2e9, 2e9))
    snapshot = watcher.look()
    assert (snapshot.finished, snapshot.asked) == (len(small.trials()), len(TRIALS))
    assert not snapshot.is_over


def test_failed_trials_end_it_too_but_not_those_of_an_earlier_run(tmp_path: Path) -> None:
    STUDY.write(tmp_path, skip=TRIALS[-2:])
    for trial in TRIALS[-2:]:
        STUDY.write_failure(tmp_path, trial, "loss became NaN")
    snapshot = Watcher(tmp_path).look()
    assert (snapshot.finished, snapshot.failed) == (len(TRIALS) - 2, 2)
    assert snapshot.is_over
    assert f"{len(TRIALS) - 2} of {len(TRIALS)} trials, 2 failed" in line_view(snapshot, PLACE)
    # A new run writes study.json first, and tries the failed ones again.
    later = (tmp_path / "study.json").stat().st_mtime + 60
    os.utime(tmp_path / "study.json", (later, later))
    again = Watcher(tmp_path).look()
    assert again.failed == 0
    assert not again.is_over
    # And what was mended meanwhile is no failure.
    os.utime(tmp_path / "study.json", (later - 60, later - 60))
    STUDY.write_trial(Store(tmp_path / "store"), TRIALS[-1], STUDY.predictions(TRIALS[-1]))
    mended = Watcher(tmp_path).look()
    assert (mended.finished, mended.failed, mended.is_over) == (len(TRIALS) - 1, 1, True)


def test_watch_in_a_file_prints_a_line_per_change_and_ends(tmp_path: Path) -> None:
    STUDY.write(tmp_path, skip=TRIALS[1:])
    store = Store(tmp_path / "store")
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        """The sweep goes on in every second nap: one more, one more, then all."""
        naps.append(seconds)
        upto = {2: TRIALS[1:2], 4: TRIALS[2:3], 6: TRIALS[3:]}
        for trial in upto.get(len(naps), ()):
            STUDY.write_trial(store, trial, STUDY.predictions(trial))

    console, text = _console(terminal=False)
    watch(tmp_path, console, interval=0.5, sleep=sleep)
    assert naps == [0.5] * 6
    counts = [line.split(";")[0] for line in text.getvalue().splitlines()]
    assert counts == [f"fake: {n} of {len(TRIALS)} trials" for n in (1, 2, 3, len(TRIALS))]
    assert "\x1b" not in text.getvalue()


def test_watch_in_a_terminal_redraws_a_table_in_place(tmp_path: Path) -> None:
    STUDY.write(tmp_path, skip=TRIALS[-1:])

    def sleep(_: float) -> None:
        STUDY.write_trial(Store(tmp_path / "store"), TRIALS[-1], STUDY.predictions(TRIALS[-1]))

    console, text = _console(terminal=True)
    watch(tmp_path, console, sleep=sleep)
    shown = text.getvalue()
    assert f"{len(TRIALS) - 1} of {len(TRIALS)} trials" in shown
    assert f"{len(TRIALS)} of {len(TRIALS)} trials" in shown
    assert "\x1b[1A" in shown  # the cursor went up
    assert shown.endswith("\x1b[?25h")  # and is visible again


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    console, text = _console(terminal=True)
    with pytest.raises(KeyboardInterrupt):
        watch(STUDY.write(tmp_path, skip=TRIALS[-1:]), console, sleep=sleep)
    assert text.getvalue().endswith("\x1b[?25h")


def test_the_table_fits_the_terminal(tmp_path: Path) -> None:
    study = FakeStudy(keeps=tuple(np.linspace(0.1, 0.9, 17).round(2)), seeds=(0,))
    snapshot = Watcher(study.write(tmp_path)).look()
    console, text = _console(terminal=True, height=14)
    watch(tmp_path, console)
    assert "more points" in text.getvalue()
    view = _text(snapshot, rows=3)
    assert len(view.splitlines()) <= 3 + 9


def test_the_view_has_the_front_first_then_the_best_of_each_keep_fraction(tmp_path: Path) -> None:
    snapshot = Watcher(STUDY.write(tmp_path)).look()
    lines = _text(snapshot).splitlines()
    assert lines[0] == f"fake: {len(TRIALS)} of {len(TRIALS)} trials"
    rows = [line for line in lines if line.count("0.") >= 2]
    points = snapshot.points
    front = points[points["on_front"]].sort_values("worst_accuracy", ascending=False)
    assert [line.split()[0] for line in rows[: len(front)]] == ["●"] * len(front)
    assert all("●" not in line for line in rows[len(front) :])
    for line, worst in zip(rows, front["worst_accuracy"], strict=False):
        assert line.rstrip().endswith(f"{worst:.3f}")
    for keep in (0.2, 0.5, 1):
        assert any(f" {keep:g} " in line for line in rows)
    assert "Ctrl-C" not in "".join(lines)


def test_a_sweep_that_has_gone_quiet_is_told(tmp_path: Path) -> None:
    snapshot = Watcher(STUDY.write(tmp_path, skip=TRIALS[-1:])).look()
    assert "no new record" not in _text(snapshot, now=snapshot.newest + 30)
    assert "no new record for 12 min" in _text(snapshot, now=snapshot.newest + 720)
    assert "no new record for 3 h" in _text(snapshot, now=snapshot.newest + 3 * 3600)
    over = dataclasses.replace(snapshot, finished=snapshot.asked)
    assert "no new record" not in _text(over, now=snapshot.newest + 720)


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    study = FakeStudy(methods=("random", "[bold]x"), losses=("focal(2)", "cdb_w"), seeds=(0,))
    snapshot = Watcher(study.write(tmp_path)).look()
    best = snapshot.points["worst_accuracy"].where(snapshot.points["method"] == "[bold]x", 0)
    points = snapshot.points.assign(on_front=best == best.max())
    assert "[bold]x + " in _text(dataclasses.replace(snapshot, points=points))


@pytest.mark.parametrize("interval", [0.0, -1.0, math.nan, math.inf])
def test_an_interval_that_is_none(interval: float, tmp_path: Path) -> None:
    console, _ = _console(terminal=False)
    with pytest.raises(ConfigError, match="positive number of seconds for --interval"):
        watch(tmp_path, console, interval=interval)


def test_mistakes_are_told_before_anything_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown value of --by 'clas': did you mean class"):
        Watcher(tmp_path / "absent", "clas")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="found a file; name the folder of a sweep"):
        Watcher(tmp_path / "file")
    with pytest.raises(ConfigError, match="Expected groups in the data of"):
        Watcher(STUDY.write(tmp_path / "study"), "group").look()


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"schema": 1}'])
def test_a_study_that_cannot_be_read_is_an_error(body: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(body)
    with pytest.raises(StoreError, match=r"Expected a readable study of schema \d+ in .*; run the"):
        Watcher(tmp_path).look()


def test_watching_gives_way_to_the_report(tmp_path: Path) -> None:
    """The report's own checks see the folder as the sweep left it."""
    STUDY.write(tmp_path / "watched")
    shutil.copytree(tmp_path / "watched", tmp_path / "unwatched")
    watch(tmp_path / "watched", Console(file=io.StringIO()))
    watched, unwatched = (load_records(tmp_path / name) for name in ("watched", "unwatched"))
    pd.testing.assert_frame_equal(watched.trials, unwatched.trials)


def test_study_json_has_what_the_watcher_reads(tmp_path: Path) -> None:
    """A trial's entry there names every part of a point."""
    STUDY.write(tmp_path)
    trial = json.loads((tmp_path / "study.json").read_text())["trials"][0]
    assert {*POINT_OF_STUDY, "seed", "trial_id"} <= trial.keys()
