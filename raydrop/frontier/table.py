"""The frontier as a table: a row per point, seeds joined.

There are no timings among its columns, so that equal results give an equal file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.points import POINT, points_of, targets_of
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.fronts import front_probability, front_status, pareto_front
from raydrop.frontier.statistics.intervals import worst_estimates
from raydrop.frontier.statistics.resampling import Resamples
from raydrop.frontier.units import column, with_unit
from raydrop.metrics import recalls, worst_decile
from raydrop.study import By

AVERAGE, WORST = "average_accuracy", "worst_accuracy"
"""What a frontier is about."""

_NETWORK = ("network_sparsity", "macs", "parameters", "macs_removed")
"""What is measured of a network, beside the target that it was pruned to."""

_WORST = (
    *(WORST, f"{WORST}_min", f"{WORST}_max", f"{WORST}_of_mean"),
    *("worst", "worst_low", "worst_high", "worst_on_validation"),
)
_SPREAD = ("gap", "std")
_PLACE = POINT.index("network_target") + 1

COLUMNS = (
    *POINT[:_PLACE],
    *_NETWORK,
    *POINT[_PLACE:],
    *("n_seeds", "n_kept", AVERAGE, f"{AVERAGE}_min", f"{AVERAGE}_max"),
    *(column(name, "class") for name in _WORST),
    *("worst_decile_accuracy", "balanced_accuracy"),
    *(column(name, "class") for name in _SPREAD),
    *("noisy_pruned", "on_front", "on_front_at_keep_fraction"),
    *("front_probability", "front_status"),
)
"""Columns of ``frontier.csv``."""

GROUP_COLUMNS = (*(column(name, "group") for name in (*_WORST, *_SPREAD)), "front_by")
"""Further columns where the data have groups: the same of groups, and what the marks of the fronts
are about, ``class`` or ``group``."""

_FRONTS = {
    "on_front": ("dataset", "model", "network_target"),
    "on_front_at_keep_fraction": ("dataset", "model", "network_target", "keep_fraction"),
}
"""The columns of marks, and within what each is a front; a column that a table lacks is alike in
all its rows."""


def frontier_table(
    trials: pd.DataFrame,
    class_names: Sequence[str] | None = None,
    *,
    group_names: Sequence[str] | None = None,
    by: By = "class",
    resamples: Resamples | None = None,
) -> pd.DataFrame:
    """Join the seeds of every point.

    ``worst_class_accuracy`` is the mean over seeds of each seed's lowest recall, so it may mix
    classes; ``worst_class_accuracy_of_mean`` is the lowest of the recalls averaged over seeds, at
    ``worst_class``. Both are biased low as estimates of the true minimum. The other two are
    not: ``worst_class_on_validation`` is the test recall of the class that is worst on validation
    (see :mod:`raydrop.frontier.statistics.intervals`), and ``worst_class_low`` and ``_high`` are
    :func:`~raydrop.frontier.statistics.intervals.worst_class_interval` at 95 %.
    ``worst_decile_accuracy`` is the mean recall of the worst tenth of the classes,
    ``balanced_accuracy`` that of all. ``_min`` and ``_max`` are over seeds; everything else is a
    mean over them. ``noisy_pruned`` is the share of the mislabelled training samples that is
    pruned, NaN where none are known. ``on_front`` marks the Pareto front of mean average and mean
    worst accuracy over all points of a data set, model and network target,
    ``on_front_at_keep_fraction`` that among those of them that keep the same fraction.
    ``front_probability`` is the share of ``resamples`` in which a point is on the front of its data
    set, model and network target, and ``front_status`` what that makes it; see
    :mod:`raydrop.frontier.statistics.fronts`.

    ``network_sparsity``, ``macs``, ``parameters`` and ``macs_removed`` are as they were measured,
    NaN where records do not say. Where trials are known by group too, :data:`GROUP_COLUMNS` say of
    groups what their namesakes say of classes.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.
        class_names: (K,) names for ``worst_class``; its index where None.
        group_names: (G,) names for ``worst_group``; its index where None.
        by: Whether the fronts are those of the worst ``class`` or ``group``.
        resamples: The same trials resampled, by the same ``by``; without them nothing is said of
            the front's probability.

    Returns:
        A row per point, ordered by :data:`~raydrop.frontier.points.POINT`: :data:`COLUMNS`, where
        trials are known by group :data:`GROUP_COLUMNS`, and the neutral names of
        :func:`~raydrop.frontier.units.with_unit`.
    """
    names: dict[By, Sequence[str] | None] = {"class": class_names}
    if column(WORST, "group") in trials:
        names["group"] = group_names
    points = [point | _summary(seeds) for point, seeds in points_of(with_unit(trials, "class"))]
    for unit, called in names.items():
        for point, (_, seeds) in zip(points, points_of(with_unit(trials, unit)), strict=True):
            worst = _worst(seeds, called)
            point |= {column(name, unit): value for name, value in worst.items()}
    table = with_fronts(with_unit(pd.DataFrame(points), by))
    table["front_probability"] = np.nan if resamples is None else front_probability(resamples)
    table["front_status"] = front_status(table["front_probability"])
    table = table.assign(front_by=by) if "group" in names else table
    filed = as_filed(table).columns
    return table[[*filed, *table.columns.difference(filed, sort=False)]]


def table_of(records: Records, resamples: Resamples | None = None) -> pd.DataFrame:
    """Return :func:`frontier_table` of what was read, about its ``unit``."""
    return frontier_table(
        records.trials,
        records.class_names,
        group_names=records.group_names,
        by=records.unit,
        resamples=resamples,
    )


def as_filed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``frontier.csv``: what is about groups only where there are some."""
    return table[[*COLUMNS, *(GROUP_COLUMNS if "front_by" in table else ())]]


def with_fronts(points: pd.DataFrame) -> pd.DataFrame:
    """Return points with the marks of both fronts set, or set anew.

    Rows have ``average_accuracy``, ``worst_accuracy``, ``model``, ``keep_fraction`` and perhaps
    ``dataset`` and ``network_target``; marks are ``on_front`` and ``on_front_at_keep_fraction``.
    """
    values = points[[AVERAGE, WORST]].to_numpy(dtype=np.float64, na_value=np.nan)
    marks = {name: np.zeros(len(points), dtype=np.bool_) for name in _FRONTS}
    for name, within in _FRONTS.items():
        shared = [each for each in within if each in points]
        for rows in points.groupby(shared).indices.values():
            marks[name][rows] = pareto_front(values[rows])
    return points.assign(**marks)


def by_merit(table: pd.DataFrame) -> pd.DataFrame:
    """Order points for reading: by model, loss and network target, dense networks first.

    Within these, large keep fractions come first, then good points.
    """
    places = {target: place for place, target in enumerate(targets_of(table))}
    order = ["model", "loss", "place", "keep_fraction", WORST]
    placed = table.assign(place=table["network_target"].map(places))
    ordered = placed.sort_values(order, ascending=[True, True, True, False, False], kind="stable")
    return ordered.drop(columns="place")


def front_mark(row: Mapping[Any, Any]) -> str:
    """Return ``●`` for a point on the front, ``○`` for one on that of its keep fraction only."""
    if row["on_front"]:
        return "●"
    return "○" if row["on_front_at_keep_fraction"] else ""


def mean_recalls(trials: pd.DataFrame, unit: By = "class") -> NDArray[np.float64]:
    """Return recalls (n_points, U) averaged over seeds, in the rows of :func:`frontier_table`."""
    points = points_of(with_unit(trials, unit))
    return np.array([_seed_recalls(seeds).mean(axis=0) for _, seeds in points])


def _summary(seeds: pd.DataFrame) -> dict[str, Any]:
    """Join the seeds of one point, but for what is about the worst class or group."""
    found = _seed_recalls(seeds)
    return {
        "n_seeds": len(seeds),
        "n_kept": seeds["n_kept"].mean(),
        **_with_range(seeds, AVERAGE),
        "noisy_pruned": seeds["noisy_pruned"].mean(),
        **{name: _mean(seeds, name) for name in _NETWORK},
        "worst_decile_accuracy": float(np.mean([worst_decile(each) for each in found])),
        "balanced_accuracy": float(np.nanmean(found, axis=1).mean()),
    }


def _worst(seeds: pd.DataFrame, names: Sequence[str] | None) -> dict[str, Any]:
    agreement = _lists(seeds, "agreement")
    found = worst_estimates(
        np.array(seeds["correct"].tolist()),
        seeds["totals"].iloc[0],
        validation_correct=_lists(seeds, "validation_correct"),
        validation_totals=_lists(seeds, "validation_totals"),
        agreement=None if agreement is None else agreement[0],
    )
    return {
        **_with_range(seeds, WORST),
        f"{WORST}_of_mean": found.plug_in,
        "worst": found.plug_in_class if names is None else names[found.plug_in_class],
        "worst_low": found.low,
        "worst_high": found.high,
        "worst_on_validation": found.on_validation,
        **{name: seeds[name].mean() for name in ("gap", "std")},
    }


def _lists(seeds: pd.DataFrame, name: str) -> NDArray[Any] | None:
    """Return a column of lists as (n_seeds, U), or None where a record lacks it."""
    if name not in seeds or seeds[name].isna().any():
        return None
    return np.array(seeds[name].tolist())


def _mean(seeds: pd.DataFrame, name: str) -> float:
    """Return the mean of what is known, NaN where nothing is."""
    known = seeds[name].dropna() if name in seeds else ()
    return float(np.mean(known)) if len(known) else float("nan")


def _with_range(seeds: pd.DataFrame, name: str) -> dict[str, float]:
    values = seeds[name]
    return {name: values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}


def _seed_recalls(seeds: pd.DataFrame) -> NDArray[np.float64]:
    """Return (n_seeds, U) recalls."""
    return recalls(np.array(seeds["correct"].tolist()), np.array(seeds["totals"].iloc[0]))
