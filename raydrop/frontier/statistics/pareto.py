"""Which points nothing beats in every respect."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import DataError


def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates, all columns being maximised.

    A point dominates another when it is at least as high in every column and higher in one. So
    equal points share their fate: all copies of a front point are on the front. Two columns take
    O(n log n) time, more take O(n²).

    Args:
        points: (n, d) values, d ≥ 1.

    Returns:
        (n,) whether each point is on the front; a point with a NaN never is.

    Raises:
        DataError: If ``points`` is not two-dimensional.

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


def _planar(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the front of (n, 2) points: highest of its column, and above all further right."""
    columns, column = np.unique(points[:, 0], return_inverse=True)
    heights = points[:, 1]
    tops = np.full(len(columns), -np.inf)
    np.maximum.at(tops, column, heights)
    right = np.append(np.maximum.accumulate(tops[::-1])[::-1][1:], -np.inf)
    rightmost = column == len(columns) - 1
    front: NDArray[np.bool_] = (heights == tops[column]) & (rightmost | (heights > right[column]))
    return front


def _general(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    def dominated(point: NDArray[np.float64]) -> bool:
        return bool(((points >= point).all(axis=1) & (points > point).any(axis=1)).any())

    return np.array([not dominated(point) for point in points])
