"""Which points nothing beats in every respect, and how sure that is.

The front of a study is about one data set, model and network target at a time, since accuracies of
different ones are not alternatives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import DataError
from raydrop.frontier.statistics.resampling import Resamples

Floats = NDArray[np.float64]

SETTING = ["dataset", "model", "network_target"]
"""What points of one front have in common."""

SURE = 0.95
"""Share of the resamples from which a point is on the front, or below 1 minus which it is not."""


def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates, all columns being maximised.

    A point dominates another when it is at least as high in every column and higher in one. So
    equal points share their fate: all copies of a front point are on the front. Two columns take
    O(n log n) time, more take O(n²).

    Args:
        points: (n, d) values, d ≥ 1; the negative of what is to be small.

    Returns:
        (n,) whether each point is on the front; a point with a NaN never is.

    Example:
        >>> pareto_front([(0.9, 0.5), (0.8, 0.7), (0.8, 0.6)]).tolist()
        [True, True, False]
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(
            f"Expected points of shape (n, d), found shape {values.shape}; pass a row per point."
        )
    sound = np.flatnonzero(~np.isnan(values).any(axis=1))
    front = np.zeros(len(values), dtype=np.bool_)
    if len(sound):
        mark = _planar if values.shape[1] == 2 else _general
        front[sound] = mark(values[sound])
    return front


def hypervolume(points: ArrayLike) -> float:
    """Return the share of the unit square that points (n, 2) dominate, both being maximised.

    Example:
        >>> round(hypervolume([(0.9, 0.5), (0.8, 0.7)]), 4)
        0.61
    """
    values = np.asarray(points, dtype=np.float64)
    values = values[(values > 0).all(axis=1)]
    ordered = values[np.argsort(-values[:, 1], kind="stable")]
    depths = ordered[:, 1] - np.append(ordered[1:, 1], 0.0)[: len(ordered)]
    return float((np.maximum.accumulate(ordered[:, 0]) * depths).sum())


def front_probability(resamples: Resamples) -> Floats:
    """Return how often each point is on the front when images and seeds are drawn again.

    The share of joint resamples in which no other point of the same :data:`SETTING` is at least as
    high in average and worst accuracy
    (:attr:`~raydrop.frontier.statistics.resampling.Resamples.centred`) and higher in one; with one
    seed about these networks alone. Shares (P,) are in the order of ``resamples.points``.
    """
    share, worst = np.empty(len(resamples.points)), resamples.centred
    for rows in resamples.points.groupby(SETTING).indices.values():
        pairs = zip(resamples.average[:, rows], worst[:, rows], strict=True)
        fronts = np.array([pareto_front(np.column_stack(pair)) for pair in pairs])
        share[rows] = fronts.mean(axis=0)
    return share


def front_status(probability: ArrayLike) -> NDArray[np.object_]:
    """Return ``frontier`` (from 0.95), ``dominated`` (to 0.05) or ``ambiguous``; empty for NaN."""
    share = np.asarray(probability, dtype=np.float64)
    status = np.full(share.shape, "ambiguous", dtype=object)
    # Shares are whole numbers of draws, so 50 of 1,000 must not miss 1 - 0.95 by rounding.
    status[share >= SURE - 1e-9] = "frontier"
    status[share <= 1.0 - SURE + 1e-9] = "dominated"
    status[np.isnan(share)] = ""
    return status


def _planar(points: Floats) -> NDArray[np.bool_]:
    """Mark the front of (n, 2) points: highest of its column, and above all further right."""
    columns, column = np.unique(points[:, 0], return_inverse=True)
    heights = points[:, 1]
    tops = np.full(len(columns), -np.inf)
    np.maximum.at(tops, column, heights)
    right = np.append(np.maximum.accumulate(tops[::-1])[::-1][1:], -np.inf)
    rightmost = column == len(columns) - 1
    front: NDArray[np.bool_] = (heights == tops[column]) & (rightmost | (heights > right[column]))
    return front


def _general(points: Floats) -> NDArray[np.bool_]:
    def dominated(point: Floats) -> bool:
        return bool(((points >= point).all(axis=1) & (points > point).any(axis=1)).any())

    return np.array([not dominated(point) for point in points])
