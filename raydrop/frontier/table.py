"""The frontier as a table: a row per point, seeds joined.

A point is everything that distinguishes two trials except their seed. There are no timings among
its columns, so that equal results give an equal file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.intervals import worst_class_interval
from raydrop.frontier.pareto import pareto_front
from raydrop.metrics import recalls

POINT = (
    "dataset",
    "model",
    "query_model",
    "method",
    "quotas",
    "loss",
    "network_method",
    "network_sparsity",
    "budget",
    "keep_fraction",
)
"""What makes a point; rows are ordered by these."""

COLUMNS = (
    *POINT,
    "n_seeds",
    "n_kept",
    "average_accuracy",
    "average_accuracy_min",
    "average_accuracy_max",
    "worst_class_accuracy",
    "worst_class_accuracy_min",
    "worst_class_accuracy_max",
    "worst_class_accuracy_of_mean",
    "worst_class",
    "worst_class_low",
    "worst_class_high",
    "accuracy_gap",
    "accuracy_std",
    "noisy_pruned",
    "on_front",
    "on_front_at_keep_fraction",
)
"""Columns of ``frontier.csv``."""

OBJECTIVES = ["average_accuracy", "worst_class_accuracy"]


def frontier_table(trials: pd.DataFrame, class_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Join the seeds of every point.

    ``worst_class_accuracy`` is the mean over seeds of each seed's lowest recall, so it may mix
    classes; ``worst_class_accuracy_of_mean`` is the lowest of the recalls averaged over seeds, at
    ``worst_class``. ``worst_class_low`` and ``_high`` are
    :func:`~raydrop.frontier.intervals.worst_class_interval` at 95 %. ``_min`` and ``_max`` are over
    seeds; everything else is a mean over them. ``noisy_pruned`` is the share of the mislabelled
    training samples that is pruned, NaN where none are known. ``on_front`` marks the Pareto front
    of mean average and mean worst-class accuracy over all points of a data set and model,
    ``on_front_at_keep_fraction`` that among the points that keep the same fraction.

    Args:
        trials: A row per trial, as in :attr:`Records.trials`.
        class_names: (K,) names for ``worst_class``; its index where None.

    Returns:
        A row per point with :data:`COLUMNS`, ordered by :data:`POINT`.
    """
    points = [
        dict(zip(POINT, key, strict=True)) | _summary(group, class_names)
        for key, group in _points(trials)
    ]
    table = pd.DataFrame(points)
    table["on_front"] = _front(table, ["dataset", "model"])
    table["on_front_at_keep_fraction"] = _front(table, ["dataset", "model", "keep_fraction"])
    return table[list(COLUMNS)]


def frontier_csv(table: pd.DataFrame) -> str:
    """Return the table as CSV: six decimals, Unix line ends, NaN is empty."""
    text: str = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return text


def by_merit(table: pd.DataFrame) -> pd.DataFrame:
    """Order points for reading: by model and loss, large keep fractions and good points first."""
    order = ["model", "loss", "keep_fraction", "worst_class_accuracy"]
    return table.sort_values(order, ascending=[True, True, False, False], kind="stable")


def front_mark(row: Mapping[Any, Any]) -> str:
    """Return ``●`` for a point on the front, ``○`` for one on that of its keep fraction only."""
    if row["on_front"]:
        return "●"
    return "○" if row["on_front_at_keep_fraction"] else ""


def mean_recalls(trials: pd.DataFrame) -> NDArray[np.float64]:
    """Return (n_points, K) recalls averaged over seeds, in the rows of :func:`frontier_table`."""
    return np.array([_seed_recalls(group).mean(axis=0) for _, group in _points(trials)])


def _points(trials: pd.DataFrame) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return every point's trials in the order of their seeds, points in order too."""
    ordered = trials.sort_values([*POINT, "seed"], kind="stable")
    return list(ordered.groupby(list(POINT), sort=True))


def _summary(group: pd.DataFrame, class_names: Sequence[str] | None) -> dict[str, Any]:
    by_class = _seed_recalls(group).mean(axis=0)
    worst = int(np.nanargmin(by_class))
    correct = np.array(group["correct_by_class"].tolist())
    low, high = worst_class_interval(correct, group["test_by_class"].iloc[0])
    return {
        "n_seeds": len(group),
        "n_kept": group["n_kept"].mean(),
        **_with_range(group, "average_accuracy"),
        **_with_range(group, "worst_class_accuracy"),
        "worst_class_accuracy_of_mean": by_class[worst],
        "worst_class": worst if class_names is None else class_names[worst],
        "worst_class_low": low,
        "worst_class_high": high,
        "accuracy_gap": group["accuracy_gap"].mean(),
        "accuracy_std": group["accuracy_std"].mean(),
        "noisy_pruned": group["noisy_pruned"].mean(),
    }


def _with_range(group: pd.DataFrame, name: str) -> dict[str, float]:
    values = group[name]
    return {name: values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}


def _seed_recalls(group: pd.DataFrame) -> NDArray[np.float64]:
    """Return (n_seeds, K) recalls."""
    correct = np.array(group["correct_by_class"].tolist())
    return recalls(correct, np.array(group["test_by_class"].iloc[0]))


def _front(table: pd.DataFrame, within: list[str]) -> NDArray[np.bool_]:
    front = np.zeros(len(table), dtype=bool)
    for rows in table.groupby(within).indices.values():
        front[rows] = pareto_front(table[OBJECTIVES].to_numpy()[rows])
    return front
