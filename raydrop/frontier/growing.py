"""What a sweep that is still running has found so far.

A sweep leaves a record of each trial as soon as it is finished, and a record never changes. So
whoever follows it reads each of them once and keeps two numbers of it. Nothing here writes: a
record that looks damaged counts as not there, and the sweep or the report deals with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import ConfigError, unknown_name
from raydrop.frontier.names import DENSE
from raydrop.frontier.points import POINT_OF_STUDY
from raydrop.frontier.records import read_study
from raydrop.frontier.table import with_fronts, worst_accuracy
from raydrop.metrics import by_class, by_group
from raydrop.store import Entry, Place, Store, open_place
from raydrop.store.files import misfit
from raydrop.store.places import STUDY
from raydrop.study import By

_NETWORK = {"network_method": DENSE, "network_target": DENSE}
"""What configurations of before networks could be pruned do not say."""

_RESUMED_SECONDS = 2.0
"""A failure that is older than ``study.json`` by more than this is of an earlier run: a run writes
that file when it begins and tries again what failed."""

_Key = tuple[Any, ...]


class GrowingFront:
    """Averages over the seeds that are there, point by point, as trials finish.

    The numbers of a point are those of :func:`~raydrop.frontier.frontier_table` with the same
    trials, so the last front that is shown is the one of ``frontier.csv``.
    """

    def __init__(self, by: By = "class") -> None:
        """Begin without a trial.

        Args:
            by: Whether worst cases are those of a class or of a group.
        """
        self.by: By = by
        self._seeds: dict[_Key, dict[int, tuple[float, float]]] = defaultdict(dict)
        self._means: dict[_Key, tuple[float, float]] = {}

    def add(self, trial: Mapping[str, Any], average: float, worst: float) -> None:
        """Take in one finished trial; told again, it counts once, with what it says last.

        Args:
            trial: Its configuration: :data:`POINT_OF_STUDY` and ``seed``; a dense network where it
                does not say.
            average: Its average accuracy, in [0, 1].
            worst: Its worst-class (or worst-group) accuracy, in [0, 1].
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
        """Return a row per point, ordered by :data:`POINT_OF_STUDY`.

        Returns:
            :data:`POINT_OF_STUDY`, ``n_seeds``, ``average_accuracy``, ``worst_class_accuracy`` (or
            ``worst_group_accuracy``), both means over seeds, ``on_front`` and
            ``on_front_at_keep_fraction``.
        """
        columns = [*POINT_OF_STUDY, "n_seeds", "average_accuracy", worst_accuracy(self.by)]
        rows = [(*key, len(self._seeds[key]), *self._mean(key)) for key in sorted(self._seeds)]
        return with_fronts(pd.DataFrame(rows, columns=columns), self.by)

    def _mean(self, key: _Key) -> tuple[float, float]:
        if key not in self._means:
            seeds = self._seeds[key]
            averages, worst = zip(*(seeds[seed] for seed in sorted(seeds)), strict=True)
            self._means[key] = float(np.mean(averages)), float(np.mean(worst))
        return self._means[key]


def best_worst(points: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return the point with the best worst class (or group) at each keep fraction of each model.

    Networks that were pruned to different targets are told apart like models.

    Args:
        points: As from :meth:`GrowingFront.points`.
        by: Classes or groups.

    Returns:
        Rows of ``points``, by model, network target and falling keep fraction; of equals, the one
        with the highest average, so each is on the front of its keep fraction.
    """
    place, merit = (
        ["model", "network_target", "keep_fraction"],
        [worst_accuracy(by), "average_accuracy"],
    )
    order = points.dropna(subset=merit).sort_values(
        place + merit, ascending=[True, True, False, False, False], kind="stable"
    )
    return order.drop_duplicates(place)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known of a sweep at one moment."""

    name: str
    """The study's."""
    asked: int
    """Trials that the study asks for; 0 where that is not known yet."""
    finished: int
    """Of these, trials with a record."""
    failed: int
    """Of these, trials that failed in the run that is under way or was the last."""
    points: pd.DataFrame
    """As from :meth:`GrowingFront.points`; without rows where nothing is finished."""
    by: By
    """Whether worst cases are those of a class or of a group."""
    newest: float
    """When the newest record was left, in seconds since 1970; 0 where there is none."""
    waiting: str = ""
    """What is waited for, where nothing is finished."""

    @property
    def is_over(self) -> bool:
        """Whether every trial is there or failed."""
        return bool(self.asked) and self.finished + self.failed == self.asked


class Watcher:
    """Reads what is new in an output folder at every look."""

    def __init__(self, directory: str | Path | Place, by: str | None = None) -> None:
        """Begin; the folder and the study in it may appear later.

        Args:
            directory: Output folder of ``raydrop run``.
            by: ``class``, ``group``, or None for what the study is about.

        Raises:
            ConfigError: If ``by`` is neither, or a file is in the folder's place.
        """
        if by is not None and by not in get_args(By):
            raise unknown_name("value of --by", by, get_args(By))
        self._place, self._by = open_place(directory), by
        if self._place.folder.exists() and not self._place.folder.is_dir():
            raise ConfigError(
                f"Expected an output folder at {directory}, found a file; "
                "name the folder of a sweep."
            )
        self._study: _Study | None = None
        self._data: _TestSet | None = None
        self._read: dict[str, tuple[float, float]] = {}
        self._newest = 0.0
        self._front = GrowingFront()

    def front(self) -> GrowingFront:
        """Return what is finished, ready to grow.

        Raises:
            StoreError: As :meth:`look`.
            ConfigError: As :meth:`look`.
        """
        self.look()
        return self._front

    def look(self) -> Snapshot:
        """Read what was finished since the last look.

        Raises:
            StoreError: If ``study.json`` is not one of this version.
            ConfigError: If groups are asked for and the data have none.
        """
        study = self._study = _read_study(self._place, self._study)
        if study is None:
            there = self._place.folder.is_dir()
            return self._waiting("no study.json there yet" if there else "no such folder yet")
        store = Store(self._place, glance=True)
        if self._data is None or self._data.fingerprint != study.fingerprint:
            self._data = _read_test_set(store, study, self._by)
            self._read = {}
        if self._data is None:
            return self._waiting("no facts about its data yet")
        self._read_new(store, study, self._data)
        front = self._front = GrowingFront(self._data.by)
        for key, trial in study.trials.items():
            if key in self._read:
                front.add(trial, *self._read[key])
        failed = sum(key not in self._read for key in _failures(store, study))
        waiting = "" if front.finished else "no trial is finished yet"
        return Snapshot(
            study.name,
            len(study.trials),
            front.finished,
            failed,
            front.points() if front.finished else pd.DataFrame(),
            self._data.by,
            self._newest,
            waiting,
        )

    def _waiting(self, what: str) -> Snapshot:
        name, asked = (self._study.name, len(self._study.trials)) if self._study else ("", 0)
        return Snapshot(name, asked, 0, 0, pd.DataFrame(), "class", 0.0, what)

    def _read_new(self, store: Store, study: _Study, data: _TestSet) -> None:
        for key in (study.trials.keys() & set(store.keys("trial"))) - self._read.keys():
            entry = store.peek("trial", key, arrays=True)
            values = None if entry is None else data.accuracies(entry)
            if values is not None:
                self._read[key] = values
                self._newest = max(self._newest, store.changed("trial", key))


@dataclass(frozen=True, eq=False)
class _Study:
    """What ``study.json`` says that a watcher needs."""

    name: str
    by: By
    fingerprint: str
    trials: dict[str, dict[str, Any]]
    """Configurations by trial id."""
    written: float


@dataclass(frozen=True, eq=False)
class _TestSet:
    """What predictions are compared with."""

    fingerprint: str
    by: By
    labels: NDArray[Any]
    groups: NDArray[Any] | None
    number: int
    """Of classes, or of groups."""

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


def _read_study(place: Place, known: _Study | None) -> _Study | None:
    """Return the study, read again only if its file has changed, or None where there is none."""
    place.refresh()
    written = _changed(place.folder / STUDY)
    if not written or (known is not None and known.written == written):
        return known if written else None
    body = read_study(place)
    return _Study(
        name=str(body["study"].get("name", "")),
        by=body["study"].get("by", "class"),
        fingerprint=body["data_fingerprint"],
        trials={trial["trial_id"]: trial for trial in body["trials"]},
        written=written,
    )


def _failures(store: Store, study: _Study) -> Iterator[str]:
    """Yield the trials that failed since the last run began."""
    for key in study.trials.keys() & set(store.keys("failure")):
        if store.changed("failure", key) > study.written - _RESUMED_SECONDS:
            yield key


def _read_test_set(store: Store, study: _Study, by: str | None) -> _TestSet | None:
    """Return the test set's labels, or None where the sweep has not written them yet."""
    for key in store.keys("data"):
        entry = store.peek("data", key, arrays=True)
        if entry is not None and entry.config.get("fingerprint") == study.fingerprint:
            return _test_set(entry, study, by, store.place)
    return None


def _test_set(entry: Entry, study: _Study, by: str | None, place: Place) -> _TestSet | None:
    unit: By = "group" if (by or study.by) == "group" else "class"
    names = entry.info.get(f"{unit}_names") or ()
    if misfit(entry.info, {f"{unit}_names": "text by unit"}):
        return None
    if not names:
        raise ConfigError(
            f"Expected groups in the data of {place.called()} for --by group, found none; "
            "leave out --by, or run the study on data with groups."
        )
    try:
        labels = entry.array("test_labels", kinds="iu", shape=(None,))
        groups = entry.array("test_groups", kinds="iu") if unit == "group" else None
    except (OSError, ValueError, EOFError):
        return None
    return _TestSet(study.fingerprint, unit, labels, groups, len(names))


def _changed(path: Path) -> float:
    """Return when a file was last changed, in seconds since 1970, or 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
