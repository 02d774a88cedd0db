"""A study's results as one object: tables, the report, what was kept, and what failed.

Everything is read from an output folder, by whoever has it: this needs neither Ray nor torch, nor
the data.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import ConfigError, StoreError, unknown_name
from raydrop.frontier.points import POINT_OF_STUDY, point_name, rows_of
from raydrop.frontier.records import Records, load_records, read_study
from raydrop.frontier.statistics.comparisons import comparisons
from raydrop.frontier.statistics.resampling import resample
from raydrop.frontier.summary import summary_table
from raydrop.frontier.table import AVERAGE, WORST, as_filed, table_of
from raydrop.frontier.write import write_frontier
from raydrop.store import Entry, Place, Store, open_place, required
from raydrop.store.places import STUDY
from raydrop.store.samples import read_samples

KEPT_COLUMNS = ("sample_id", "path", "label", "class_name", "group", "score")
"""Columns of what :meth:`Results.kept` returns, and of the file that ``raydrop keep`` writes."""

_COPIED = ("data", "samples", "trial", "failure", "scores", "images", "loss")
"""Kinds of entries that tables and report are made of."""


class Results:
    """What a study left in a folder, finished or not; or what predictions from elsewhere say.

    Tables are read when they are first asked for, and then stay as they are: make another object to
    look again.

    Args:
        location: Output folder of a study, or the URL of one.
        by: Whether worst cases and fronts are those of a ``class`` or of a ``group``; None is what
            the study's own quotas and loss weights are about.

    Raises:
        StoreError: Where the folder has no study, or one that cannot be read.

    Example::

        results = Results("results/digits")
        results.frontier[["method", "keep_fraction", "worst_class_accuracy"]]
        results.kept(method="el2n", keep_fraction=0.3, seed=0)["path"]
    """

    def __init__(self, location: str | Path | Place, by: str | None = None) -> None:
        self.place, self._by = open_place(location), by
        self._study = read_study(self.place)

    @cached_property
    def _records(self) -> Records:
        return load_records(self.place, self._by)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per point, as :func:`~raydrop.frontier.table.frontier_table` has it."""
        return table_of(self._records, resample(self._records))

    @property
    def trials(self) -> pd.DataFrame:
        """A row per finished trial, as in ``trials.parquet``.

        Raises:
            IncompleteStudyError: If no trial is finished; likewise from the other tables.
        """
        return self._records.trials.copy()

    @property
    def frontier(self) -> pd.DataFrame:
        """A row per point, its seeds joined, as in ``frontier.csv``."""
        return as_filed(self.table).copy()

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Differences between points and what they are compared with, as in ``comparisons.csv``."""
        return comparisons(self._records)

    @cached_property
    def report(self) -> Path:
        """The HTML report, which is written, with all other files, when it is first asked for."""
        return write_frontier(self.place, self._by).report

    @cached_property
    def listed(self) -> pd.DataFrame:
        """A row per trial that the study asks for, finished or not, in the study's order.

        The columns are ``trial_id``, what makes a point of this study, ``seed``, ``status``
        (``finished``, ``failed`` or ``missing``) and ``reason``, an empty text unless it failed.
        """
        store = Store(self.place, glance=True)
        rows = []
        for trial in self._study["trials"]:
            key, reason, status = trial["trial_id"], "", "finished"
            if store.peek("trial", key) is None:
                failure = store.read("failure", key)
                status = "missing" if failure is None else "failed"
                reason = "" if failure is None else str(failure.info.get("message", ""))
            rows.append({**trial, "status": status, "reason": reason})
        columns = ["trial_id", *POINT_OF_STUDY, "seed", "status", "reason"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def failed(self) -> pd.DataFrame:
        """The trials that failed, as rows of :attr:`listed`, with the sentence of each."""
        found = self.listed[self.listed["status"] == "failed"]
        return found.drop(columns="status").reset_index(drop=True)

    def kept(
        self,
        trial: str | Mapping[str, Any] | pd.Series[Any] | None = None,
        *,
        seed: int | None = None,
        **point: Any,
    ) -> pd.DataFrame:
        """Return the training samples that a trial kept, a row each.

        Args:
            trial: The id of a finished trial, or how one begins; or a row of :attr:`trials` or
                :attr:`frontier`.
            seed: Of the trial, where a point has several.
            **point: What tells the trial apart from others, such as ``method="el2n",
                keep_fraction=0.3``.

        Returns:
            Columns :data:`KEPT_COLUMNS`, and ``group_name`` where the data have groups, ordered by
            sample id; ``label`` and ``group`` are numbers. ``path`` is below the data set's folder,
            which is ``attrs["root"]``. What the study does not know (paths of arrays, groups where
            there are none, scores where nothing was scored) is missing.

        Raises:
            ConfigError: If that names no trial, several, or one that is not finished.
            StoreError: If the folder does not say what was kept, as with predictions from
                elsewhere, or was written before samples were.
        """
        key = self._found(trial, {**point, **({} if seed is None else {"seed": seed})})
        store = Store(self.place)
        entry = required(store, "trial", key)
        if "kept_ids" not in entry.names:
            raise StoreError(
                f"Expected what trial {key[:12]} kept in {self.place.called()}, found its "
                "predictions alone; ask a folder that `raydrop run` filled."
            )
        return self._told(store, entry)

    def _found(self, trial: str | Mapping[str, Any] | pd.Series[Any] | None, point: Any) -> str:
        """Return the id of the one finished trial that is asked for."""
        rows, asked = self.listed, dict(point)
        if isinstance(trial, str):
            rows = rows[rows["trial_id"].str.startswith(trial)] if trial else rows[:0]
        elif trial is not None:
            known = [name for name in rows.columns[:-2] if name in trial]
            asked = {name: trial[name] for name in known} | asked
        axes = [*POINT_OF_STUDY, "seed", "trial_id"]
        for name, value in asked.items():
            if name not in axes:
                raise unknown_name("part of a point", name, axes)
            # 0.1 + 0.4 is the keep fraction 0.5.
            near = name == "keep_fraction" and isinstance(value, float)
            same: Any = np.isclose(rows[name], value) if near else rows[name] == value
            if not same.any():
                there = ", ".join(sorted({*map(str, rows[name])})[:9]) or "none"
                raise ConfigError(
                    f"Expected a trial with {name} {value!r} in {self.place.called()}, found "
                    f"{there}; name one of them."
                )
            rows = rows[same]
        if len(rows) == 1 and rows["status"].iloc[0] == "finished":
            return str(rows["trial_id"].iloc[0])
        raise ConfigError(f"Expected one finished trial, found {self._instead(trial, rows)}.")

    def _instead(self, trial: Any, rows: pd.DataFrame) -> str:
        """Say what there is in place of the one trial that was asked for, and what to do."""
        if rows.empty:
            return f"none whose id begins with {trial!r}; `raydrop trials` lists them"
        if len(rows) == 1:
            reason = f" ({row})" if (row := rows["reason"].iloc[0].rstrip(".")) else ""
            status = rows["status"].iloc[0]
            return f"that {rows['trial_id'].iloc[0][:12]} is {status}{reason}; run the study again"
        differing = [name for name in (*POINT_OF_STUDY, "seed") if rows[name].nunique() > 1]
        return f"{len(rows)}; say also which {' and '.join(differing)}"

    def _told(self, store: Store, entry: Entry) -> pd.DataFrame:
        """Return what is known about the samples that a trial kept."""
        ids = np.sort(entry.array("kept_ids", kinds="iu", shape=(None,)))
        samples = read_samples(store, self.fingerprint)
        if samples is None:
            raise StoreError(
                f"Expected the labels of the training samples in {self.place.called()}, found "
                "results of before these were kept; run the same study again, which adds them."
            )
        names = self._records.names
        samples["class_name"] = _named(samples["label"], names("class"), self.place)
        samples["score"] = self._scores(store, entry, len(samples))
        columns = list(KEPT_COLUMNS)
        if names("group"):
            samples["group_name"] = _named(samples["group"], names("group"), self.place)
            columns.insert(-1, "group_name")
        if not np.isin(ids, samples["sample_id"]).all():
            raise StoreError(
                f"Expected kept samples of the data in {entry.called}, found others; remove that "
                "folder and run the study again."
            )
        told = samples.set_index("sample_id").loc[ids].reset_index()[columns]
        told.attrs = {"root": samples.attrs["root"]}
        return told

    def _scores(self, store: Store, entry: Entry, count: int) -> NDArray[Any] | float:
        """Return the score of every training sample by which a trial chose, or NaN."""
        key = entry.config.get("scores")
        found = store.read("scores", key) if isinstance(key, str) else None
        return float("nan") if found is None else found.array("scores", shape=(count,))

    def write(self, folder: str | Path | None = None) -> Results:
        """Write tables, figures and report, into a folder of their own where one is given.

        That folder gets copies of the records too, so it can be read as the first one can.

        Returns:
            What is in that folder.

        Raises:
            StoreError: If it cannot be written, or holds another study.
        """
        there = self if folder is None else self.copy(folder)
        write_frontier(there.place, self._by)
        return there

    def copy(self, folder: str | Path) -> Results:
        """Copy the records into a folder; see :meth:`write`, which makes tables of them too."""
        place = open_place(folder)
        if place == self.place:
            return self
        if (place.folder / STUDY).exists():
            there = read_study(place)
            if there["study_id"] != self._study["study_id"] and "base" in there:  # of a run
                raise StoreError(
                    f"Expected {place.called()} to be empty or to hold the same results, found "
                    f"those of the study {there['study'].get('name', '')}; choose another folder."
                )
        place.make()
        source, target = Store(self.place), Store(place)
        for kind in _COPIED:
            for entry in source.entries(kind):
                target.write(kind, entry.config, entry.info, entry.arrays())
        place.write(STUDY, (self.place.folder / STUDY).read_bytes())
        return Results(place, self._by)

    @property
    def name(self) -> str:
        """What the study is called."""
        return str(self._study["study"].get("name", ""))

    @property
    def dataset(self) -> str:
        """Data set and variants, as the study names them."""
        return str(self._study["study"].get("dataset", ""))

    @property
    def fingerprint(self) -> str:
        """Hash of the data."""
        return str(self._study["data_fingerprint"])

    @property
    def lacks_samples(self) -> bool:
        """Whether it has the ids of what was kept, and nothing on the samples they are of."""
        store = Store(self.place)
        found = (store.peek("trial", key) for key in store.keys("trial"))
        known = any(entry is not None and "kept_ids" in entry.names for entry in found)
        return known and read_samples(store, self.fingerprint) is None

    @property
    def described(self) -> pd.DataFrame:
        """The rows of :attr:`listed`, and ``point`` and ``accuracies``, texts as in a terminal.

        Accuracies are ``average/worst class`` (or group); an empty text unless it is finished.
        """
        rows = self.listed
        several = rows["model"].nunique() > 1
        names = [point_name(row, several_models=several) for row in rows_of(rows)]
        texts = {}
        if (rows["status"] == "finished").any():
            found = self._records.results
            both = zip(found["trial_id"], found[AVERAGE], found[WORST], strict=True)
            texts = {key: f"{average:.3f}/{worst:.3f}" for key, average, worst in both}
        accuracies = [texts.get(key, "") for key in rows["trial_id"]]
        return rows.assign(point=names, accuracies=accuracies)

    def __repr__(self) -> str:
        counts = self.listed["status"].value_counts()
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"Results of {self.name} in {self.place.called()}: trials {told or 'none'}"

    def _repr_html_(self) -> str:
        """Show a notebook how many trials there are, and the frontier as the terminal has it."""
        parts = [f"<p>{html.escape(repr(self))}</p>"]
        if (self.listed["status"] == "finished").any():
            parts += [
                f"<p>{html.escape(setting)}: average/worst-{self._records.unit} accuracy</p>"
                f"{texts.rename_axis(index=None).to_html()}"
                for setting, texts in summary_table(self).items()
            ]
        reasons = self.failed["reason"].value_counts()
        parts += [f"<p>{n} failed: {html.escape(str(each))}</p>" for each, n in reasons.items()]
        return "".join(parts)


def _named(numbers: pd.Series[Any], names: Sequence[str], place: Place) -> pd.Series[Any]:
    """Return names in place of the numbers of classes or groups; what is missing stays so."""
    if numbers.isna().all():
        return numbers
    if not numbers.between(0, len(names) - 1).all():
        raise StoreError(
            f"Expected samples of {len(names)} classes or groups in {place.called()}, found others;"
            " run the study again into another folder."
        )
    return numbers.map(dict(enumerate(names)))
