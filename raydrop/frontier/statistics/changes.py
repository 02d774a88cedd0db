"""How pruning changes the recall of every class, against training on all the data.

Differences are taken within a model, a loss and a seed before they are averaged: trials of one seed
share their initial weights and their test images, so noise that both have cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.points import (
    DENSE,
    PLAIN_LOSS,
    has_several_models,
    rows_of,
    series_name,
    setting_name,
    target_place,
    unpruned,
)
from raydrop.frontier.units import with_unit
from raydrop.study import By

SHOWN_UNITS = 20
"""Columns; of more classes, those that lose most on average."""
SHOWN_ROWS = 60
"""With more rows, keep fractions are thinned out."""
SHOWN_KEEPS = 5
"""Keep fractions that are left of each series then; of more than 24 series fewer, of 60 two. Also
those in a panel that is about one method, since more cannot be told apart."""

FloatArray = NDArray[np.float64]
Row = tuple[str, float]
"""A series' name and a keep fraction."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Changes of one model, loss and network target."""

    title: str
    """Model, if there are several, loss and, for pruned networks, their target."""
    reference: FloatArray
    """(C,) mean recalls on all the data."""
    changes: FloatArray
    """(R, C) mean changes of the recall; NaN where nothing is known."""


@dataclass(frozen=True, eq=False)
class RecallChanges:
    """Changes of C classes' (or groups') recalls in R rows, for each model, loss and target."""

    rows: tuple[Row, ...]
    """R series and keep fractions, random pruning and no quotas first, small fractions first."""
    units: tuple[int, ...]
    """C classes or groups, that with the lowest recall on all the data first."""
    n_units: int
    """How many classes or groups there are; more than C where only those that lose most show."""
    panels: tuple[Panel, ...]
    """In the order of models, losses and targets, dense networks first."""

    @property
    def largest(self) -> float:
        """The largest change in either direction."""
        return float(np.nanmax([np.nanmax(np.abs(panel.changes)) for panel in self.panels]))


def recall_changes(trials: pd.DataFrame, unit: By = "class") -> RecallChanges | None:
    """Return the recall of every class minus that on all the data.

    A change is the mean over the seeds that have both: r(pruned, seed) - r(all the data, seed), in
    [-1, 1]. Pruned networks are compared with dense ones on all the data, of the same loss or,
    where there are none, of cross-entropy. With more than :data:`SHOWN_UNITS` classes, those with
    the lowest mean over all changes are kept; with more than :data:`SHOWN_ROWS` rows, some keep
    fractions of each series, from the smallest to the largest.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.
        unit: Whether recalls of classes or accuracies of groups change.

    Returns:
        The changes; None where no model, loss and target has both pruned trials and, with one of
        the same seeds, trials on all the data.
    """
    trials, several = with_unit(trials, unit), has_several_models(trials)
    found: list[tuple[str, FloatArray, dict[Row, FloatArray]]] = []
    for of_setting, full in _settings(trials):
        changes = _changes(of_setting, full)
        if changes:
            row = of_setting.iloc[0].to_dict()
            title = ("" if several else "loss: ") + setting_name(row, several_models=several)
            found.append((title, _recalls(full).mean(axis=0), changes))
    if not found:
        return None
    rows = _thinned(_ordered_rows(trials, {row for *_, changes in found for row in changes}))
    n_units = len(found[0][1])
    absent = np.full(n_units, np.nan)
    whole = [
        (title, reference, np.array([changes.get(row, absent) for row in rows]))
        for title, reference, changes in found
    ]
    units = _foremost_units([r for _, r, _ in whole], [changes for *_, changes in whole])
    panels = [Panel(title, r[units], changes[:, units]) for title, r, changes in whole]
    return RecallChanges(tuple(rows), tuple(units), n_units, tuple(panels))


def _settings(trials: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield the trials of each panel, and those on all the data that they are compared with."""
    full = unpruned(trials)
    keyed = trials.assign(place=trials["network_target"].map(target_place))
    for key, rows in keyed.groupby(["model", "loss", "place"], sort=True):
        model, loss, place = cast("tuple[str, str, tuple[Any, ...]]", key)
        of_loss = full[(full["model"] == model) & (full["loss"] == loss)]
        if of_loss.empty and place[-1] != DENSE:
            of_loss = full[(full["model"] == model) & (full["loss"] == PLAIN_LOSS)]
        yield rows, of_loss


def _changes(trials: pd.DataFrame, full: pd.DataFrame) -> dict[Row, FloatArray]:
    """Return the mean change (U,) of every series and keep fraction of one panel."""
    by_seed = {seed: _recalls(rows).mean(axis=0) for seed, rows in full.groupby("seed")}
    changed = (trials["method"] != "none") | (trials["network_target"] != DENSE)
    pruned = trials[changed & trials["seed"].isin(list(by_seed))]
    pruned = pruned.assign(series=[series_name(row) for row in rows_of(pruned)])
    changes = {}
    for key, rows in pruned.groupby(["series", "keep_fraction"], sort=True):
        name, keep = cast("Row", key)
        reference = np.array([by_seed[seed] for seed in rows["seed"]])
        changes[str(name), float(keep)] = (_recalls(rows) - reference).mean(axis=0)
    return changes


def _recalls(trials: pd.DataFrame) -> FloatArray:
    """Return (n, U) recalls, NaN where a class has no test samples."""
    return np.array(trials["recalls"].tolist(), dtype=np.float64)


def _ordered_rows(trials: pd.DataFrame, rows: set[Row]) -> list[Row]:
    series = trials.drop_duplicates(["model", "query_model", "method", "quotas", "network_method"])
    places = {
        series_name(row): (
            row["network_method"] != DENSE,
            row["method"] != "random",
            row["method"],
            row["quotas"] != "none",
        )
        for row in rows_of(series)
    }
    return sorted(rows, key=lambda row: (*places[row[0]], row))


def _thinned(rows: list[Row]) -> list[Row]:
    if len(rows) <= SHOWN_ROWS:
        return rows
    keeps: dict[str, list[float]] = {}
    for name, keep in rows:
        keeps.setdefault(name, []).append(keep)
    count = max(2, min(SHOWN_KEEPS, 2 * SHOWN_ROWS // len(keeps)))
    kept = {name: set(spread(values, count)) for name, values in keeps.items()}
    return [(name, keep) for name, keep in rows if keep in kept[name]]


def spread(keeps: Sequence[float], count: int) -> list[float]:
    """Return so many of ascending keep fractions, from the smallest to the largest."""
    places = np.linspace(0, len(keeps) - 1, min(len(keeps), count)).round()
    return [keeps[int(place)] for place in places]


def _foremost_units(references: Sequence[FloatArray], changes: Sequence[FloatArray]) -> list[int]:
    """Return the classes with columns: those that lose most, the lowest recall first."""
    affected = np.argsort(_mean(np.concatenate(changes)), kind="stable")[:SHOWN_UNITS]
    recall = _mean(np.array(references))
    return sorted(affected.tolist(), key=lambda k: (np.isnan(recall[k]), recall[k], k))


def _mean(values: FloatArray) -> FloatArray:
    """Return the mean over rows of what is known; NaN in columns where nothing is."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
