"""The front of a sweep that is still running: read as it grows, and shown in the terminal.

A sweep leaves a record of each trial as soon as it is finished, and a record never changes. So
whoever follows it reads each of them once and keeps two numbers of it. Nothing here writes: a
record that looks damaged counts as not there, and the sweep or the report deals with it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydrop.errors import ConfigError, unknown_name
from raydrop.frontier.points import (
    DENSE,
    POINT_OF_STUDY,
    has_several_models,
    point_name,
    rows_of,
    series_name,
)
from raydrop.frontier.records import no_groups, read_study
from raydrop.frontier.table import AVERAGE, WORST, front_mark, with_fronts
from raydrop.metrics import by_class, by_group
from raydrop.store import Entry, Place, Store, open_place
from raydrop.store.files import misfit
from raydrop.store.places import STUDY
from raydrop.store.terminal import Console
from raydrop.study import By

INTERVAL = 2.0
"""Seconds between two looks at the records."""

QUIET_SECONDS = 60.0
"""After this long without a new record, a view says so: the sweep may have ended."""

_RESUMED_SECONDS = 2.0
"""A failure that is older than ``study.json`` by more than this is of an earlier run: a run writes
that file when it begins and tries again what failed."""

_OTHER_LINES = 9
"""Lines of the live view, and of the prompt beneath it, that are no points."""

_NETWORK = {"network_method": DENSE, "network_target": DENSE}
"""What configurations of before networks could be pruned do not say."""

_Key = tuple[Any, ...]


class GrowingFront:
    """Averages over the seeds that are there, point by point, as trials finish.

    The numbers of a point are those of :func:`~raydrop.frontier.frontier_table` with the same
    trials, so the last front that is shown is the one of ``frontier.csv``.
    """

    def __init__(self, by: By = "class") -> None:
        """Begin without a trial; ``by`` says whether worst cases are of classes or of groups."""
        self.by: By = by
        self._seeds: dict[_Key, dict[int, tuple[float, float]]] = defaultdict(dict)
        self._means: dict[_Key, tuple[float, float]] = {}

    def add(self, trial: Mapping[str, Any], average: float, worst: float) -> None:
        """Take in one finished trial; told again, it counts once, with what it says last.

        Its configuration says :data:`~raydrop.frontier.points.POINT_OF_STUDY` and ``seed``, and is
        of a dense network where it says nothing else; both accuracies are in [0, 1].
        """
        trial = {**_NETWORK, **trial}
        key = tuple(trial[name] for name in POINT_OF_STUDY)
        self._seeds[key][trial["seed"]] = average, worst
        self._means.pop(key, None)

    @property
    def finished(self) -> int:
        """Trials that were taken in."""
        return sum(map(len, self._seeds.values()))

    def points(self) -> pd.DataFrame:
        """Return a row per point, ordered by :data:`~raydrop.frontier.points.POINT_OF_STUDY`.

        With these columns, ``n_seeds``, both accuracies as means over seeds, and both marks.
        """
        columns = [*POINT_OF_STUDY, "n_seeds", AVERAGE, WORST]
        rows = [(*key, len(self._seeds[key]), *self._mean(key)) for key in sorted(self._seeds)]
        return with_fronts(pd.DataFrame(rows, columns=columns))

    def _mean(self, key: _Key) -> tuple[float, float]:
        if key not in self._means:
            seeds = self._seeds[key]
            averages, worst = zip(*(seeds[seed] for seed in sorted(seeds)), strict=True)
            self._means[key] = float(np.mean(averages)), float(np.mean(worst))
        return self._means[key]


def best_worst(points: pd.DataFrame) -> pd.DataFrame:
    """Return the point with the best worst class (or group) at each keep fraction of each model.

    By model, network target (told apart like models) and falling keep fraction; of equals, the one
    with the highest average, so each is on the front of its keep fraction.
    """
    place, merit = ["model", "network_target", "keep_fraction"], [WORST, AVERAGE]
    order = points.dropna(subset=merit).sort_values(
        place + merit, ascending=[True, True, False, False, False], kind="stable"
    )
    return order.drop_duplicates(place)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known of a sweep at one moment."""

    name: str = ""
    asked: int = 0
    """Trials that the study asks for; 0 where that is not known yet."""
    finished: int = 0
    failed: int = 0
    """Of these, trials that failed in the run that is under way or was the last."""
    points: pd.DataFrame | None = None
    """As from :meth:`GrowingFront.points`; None where nothing is finished."""
    by: By = "class"
    newest: float = 0.0
    """When the newest record was left, in seconds since 1970; 0 where there is none."""
    waiting: str = ""
    """What is waited for, where nothing is finished."""

    @property
    def is_over(self) -> bool:
        """Whether every trial is there or failed."""
        return bool(self.asked) and self.finished + self.failed == self.asked


@dataclass(frozen=True, eq=False)
class _TestSet:
    """What predictions are compared with; ``number`` is that of the classes or groups."""

    fingerprint: str
    by: By
    labels: NDArray[Any]
    groups: NDArray[Any] | None
    number: int

    def accuracies(self, entry: Entry) -> tuple[float, float] | None:
        """Return a trial's average and worst accuracy, or None where its record is not sound."""
        try:
            predictions = entry.array("predictions")
            if self.groups is None:
                recalls = by_class(predictions, self.labels, self.number)
            else:
                recalls = by_group(predictions, self.labels, self.groups, self.number)
        except (OSError, ValueError, EOFError):
            return None
        return float((predictions == self.labels).mean()), float(np.nanmin(recalls))


class Watcher:
    """Reads what is new in an output folder at every look."""

    def __init__(self, directory: str | Path | Place, by: str | None = None) -> None:
        """Begin; the folder and the study in it may appear later.

        Raises:
            ConfigError: If ``by`` is neither ``class``, ``group`` nor None (what the study is
                about), or a file is in the folder's place.
        """
        if by is not None and by not in get_args(By):
            raise unknown_name("value of --by", by, get_args(By))
        self._place, self._by = open_place(directory), by
        folder = self._place.folder
        if folder.exists() and not folder.is_dir():
            raise ConfigError(
                f"Expected an output folder at {directory}, found a file; "
                "name the folder of a sweep."
            )
        self._study: dict[str, Any] = {}
        self._written = 0.0
        self._test: _TestSet | None = None
        self._read: dict[str, tuple[float, float]] = {}
        self._newest = 0.0
        self._front = GrowingFront()

    def front(self) -> GrowingFront:
        """Return what is finished, ready to grow; raises what :meth:`look` does."""
        self.look()
        return self._front

    def look(self) -> Snapshot:
        """Read what was finished since the last look.

        Raises:
            StoreError: If ``study.json`` is not one of this version.
            ConfigError: If groups are asked for and the data have none.
        """
        if not self._read_study():
            here = self._place.folder.is_dir()
            there = "no study.json there yet" if here else "no such folder yet"
            return Snapshot(waiting=there)
        trials = {trial["trial_id"]: trial for trial in self._study["trials"]}
        name = str(self._study["study"].get("name", ""))
        store = Store(self._place, glance=True)
        if self._test is None or self._test.fingerprint != self._study["data_fingerprint"]:
            self._test, self._read = self._read_test_set(store), {}
        if self._test is None:
            return Snapshot(name, len(trials), waiting="no facts about its data yet")
        self._read_new(store, trials.keys(), self._test)
        front = self._front = GrowingFront(self._test.by)
        for key, trial in trials.items():
            if key in self._read:
                front.add(trial, *self._read[key])
        return Snapshot(
            name=name,
            asked=len(trials),
            finished=front.finished,
            failed=sum(key not in self._read for key in self._failures(store, trials.keys())),
            points=front.points() if front.finished else None,
            by=self._test.by,
            newest=self._newest,
            waiting="" if front.finished else "no trial is finished yet",
        )

    def _read_study(self) -> bool:
        """Read the study again if its file has changed, and return whether there is one."""
        self._place.refresh()
        try:
            written = (self._place.folder / STUDY).stat().st_mtime
        except OSError:
            self._study, self._written = {}, 0.0
            return False
        if written != self._written:
            self._study, self._written = read_study(self._place), written
        return True

    def _read_new(self, store: Store, asked: Set[str], test: _TestSet) -> None:
        for key in (asked & set(store.keys("trial"))) - self._read.keys():
            entry = store.peek("trial", key, arrays=True)
            values = None if entry is None else test.accuracies(entry)
            if values is not None:
                self._read[key] = values
                self._newest = max(self._newest, store.changed("trial", key))

    def _failures(self, store: Store, asked: Set[str]) -> Iterator[str]:
        """Yield the trials that failed since the last run began."""
        for key in asked & set(store.keys("failure")):
            if store.changed("failure", key) > self._written - _RESUMED_SECONDS:
                yield key

    def _read_test_set(self, store: Store) -> _TestSet | None:
        """Return the test set's labels, or None where the sweep has not written them yet."""
        fingerprint = self._study["data_fingerprint"]
        unit: By = "group" if (self._by or self._study["study"].get("by")) == "group" else "class"
        for key in store.keys("data"):
            entry = store.peek("data", key, arrays=True)
            if entry is None or entry.config.get("fingerprint") != fingerprint:
                continue
            if misfit(entry.info, {f"{unit}_names": "text by unit"}):
                return None
            names = entry.info.get(f"{unit}_names") or ()
            if not names:
                raise no_groups(self._place)
            try:
                labels = entry.array("test_labels", kinds="iu", shape=(None,))
                groups = entry.array("test_groups", kinds="iu") if unit == "group" else None
            except (OSError, ValueError, EOFError):
                return None
            return _TestSet(fingerprint, unit, labels, groups, len(names))
        return None


def watch(
    directory: str | Path,
    console: Console,
    by: str | None = None,
    interval: float = INTERVAL,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show how a sweep goes until all its trials are there or failed.

    In a terminal a table is redrawn in place; elsewhere a line is printed when something changed.
    Writes no file. The folder may not be there yet; ``interval`` is in seconds, which ``sleep``
    waits. Raises what :class:`Watcher` and its looks do.
    """
    if not (math.isfinite(interval) and interval > 0):
        raise ConfigError(
            f"Expected a positive number of seconds for --interval, found {interval:g}; "
            f"leave it out for {INTERVAL:g}."
        )
    watcher = Watcher(directory, by)
    with _display(console, str(directory)) as show:
        while True:
            snapshot = watcher.look()
            show(snapshot)
            if snapshot.is_over:
                return
            sleep(interval)


@contextmanager
def _display(console: Console, place: str) -> Iterator[Callable[[Snapshot], None]]:
    """Give what shows a snapshot: a live table in a terminal, a line elsewhere."""
    last = ""

    def print_line(snapshot: Snapshot) -> None:
        nonlocal last
        line = line_view(snapshot, place)
        if line != last:
            console.print(line)
        last = line

    def redraw(snapshot: Snapshot) -> None:
        rows = max(3, console.height - _OTHER_LINES)
        live.update(live_view(snapshot, place, time.time(), rows), refresh=True)

    if not console.is_terminal:
        yield print_line
        return
    with Live(console=console, auto_refresh=False) as live:
        yield redraw


def line_view(snapshot: Snapshot, place: str) -> str:
    """Return a snapshot as one line: the counts, and the points of the front."""
    head, points = _counts(snapshot, place), snapshot.points
    if points is None:
        return head
    several = has_several_models(points)
    front = points[points["on_front"]].sort_values(WORST, kind="stable")
    texts = [
        f"{row[AVERAGE]:.2f}/{row[WORST]:.2f} {point_name(row, several_models=several)}"
        for row in rows_of(front.iloc[::-1])
    ]
    return f"{head}; front (average/worst {snapshot.by}): {'; '.join(texts)}"


def live_view(snapshot: Snapshot, place: str, now: float, rows: int) -> RenderableType:
    """Return a snapshot as a compact table: the front, and the best point of each keep fraction.

    ``place`` is as the user wrote it, ``now`` in seconds since 1970, ``rows`` the most points.
    """
    head = _counts(snapshot, place)
    quiet = now - snapshot.newest
    if snapshot.newest and quiet > QUIET_SECONDS and not snapshot.is_over:
        minutes = quiet / 60
        since = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
        head += f"; no new record for {since}"
    parts: list[RenderableType] = [head]
    if snapshot.points is not None:
        points = _foremost(snapshot.points)
        parts.append(_table(snapshot, points.head(rows)))
        if len(points) > rows:
            parts.append(f"… and {len(points) - rows} more points")
        means = f"means of each seed's worst {snapshot.by}"
        mark = f"● on the Pareto front, ○ on that of its keep fraction; {means}"
        parts.append(Text(mark, style="dim"))
    if not snapshot.is_over:
        parts.append(Text("Ctrl-C ends the watching, not the sweep.", style="dim"))
    return Group(*parts)


def _counts(snapshot: Snapshot, place: str) -> str:
    """Say how many trials are done, failed and left."""
    name = f"{snapshot.name}: " if snapshot.name else ""
    if not snapshot.asked:
        return f"Waiting for a sweep in {place}: {snapshot.waiting}"
    text = f"{name}{snapshot.finished} of {snapshot.asked} trials"
    if snapshot.failed:
        text += f", {snapshot.failed} failed"
    return f"{text}; waiting: {snapshot.waiting}" if snapshot.waiting else text


def _foremost(points: pd.DataFrame) -> pd.DataFrame:
    """Return the front, best worst case first, then what is best at other keep fractions."""
    ordered = points.sort_values(WORST, ascending=False, kind="stable")
    front, best = ordered[ordered["on_front"]], best_worst(points)
    return pd.concat([front, best[~best.index.isin(front.index)]])


def _table(snapshot: Snapshot, foremost: pd.DataFrame) -> Table:
    points = snapshot.points if snapshot.points is not None else foremost
    extra = [name for name in ("loss", "model", "network_target") if points[name].nunique() > 1]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("method + quotas", *extra):
        heading = "network" if name == "network_target" else name
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for name in ("keep", "seeds", "average", f"worst {snapshot.by}"):
        table.add_column(name, justify="right")
    for row in rows_of(foremost):
        cells = [front_mark(row), series_name(row), *(str(row[name]) for name in extra)]
        cells += [f"{row['keep_fraction']:g}", str(row["n_seeds"])]
        table.add_row(*cells, *(f"{row[name]:.3f}" for name in (AVERAGE, WORST)))
    return table
