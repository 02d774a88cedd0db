"""How sure the front is, and how much of the plane it holds.

Everything here is about one data set, model and network target at a time, since accuracies of
different ones are not alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import ConfigError, DataError, unknown_name
from raydrop.frontier.statistics.pareto import pareto_front
from raydrop.frontier.statistics.resampling import Resamples

Floats = NDArray[np.float64]
Direction = Literal["max", "min"]

SETTING = ["dataset", "model", "network_target"]
"""What points of one front have in common."""

SURE = 0.95
"""Share of the resamples from which a point is on the front, or below 1 minus which it is not."""


def front_probability(resamples: Resamples) -> Floats:
    """Return how often each point is on the front when images and seeds are drawn again.

    The share of joint resamples in which no other point of the same :data:`SETTING` is at least
    as high in average and worst accuracy and higher in one. All points share their draws, so two
    points that err on the same images are told apart better than their intervals suggest. Worst
    accuracies are :attr:`~raydrop.frontier.statistics.resampling.Resamples.centred`; they are the
    lowest of recalls averaged over seeds, while ``on_front`` of the frontier table is about the
    mean over seeds of the lowest recalls, so the two can differ where classes take turns at the
    bottom. With one seed the share is about these networks alone: what another seed would do is not
    in it.

    Returns:
        (P,) shares in the order of ``resamples.points``.
    """
    share = np.empty(len(resamples.points))
    for rows, fronts in _fronts(resamples):
        share[rows] = fronts.mean(axis=0)
    return share


def front_status(probability: ArrayLike) -> NDArray[np.object_]:
    """Return ``frontier``, ``dominated`` or, between the two, ``ambiguous``; empty for NaN.

    Args:
        probability: As from :func:`front_probability`; 0.95 or more is ``frontier``, 0.05 or less
            ``dominated``.
    """
    share = np.asarray(probability, dtype=np.float64)
    status = np.full(share.shape, "ambiguous", dtype=object)
    # Shares are whole numbers of draws, so 50 of 1,000 must not miss 1 - 0.95 by rounding.
    status[share >= SURE - 1e-9] = "frontier"
    status[share <= 1.0 - SURE + 1e-9] = "dominated"
    status[np.isnan(share)] = ""
    return status


def front_over(
    table: pd.DataFrame,
    directions: Mapping[str, Direction],
    within: Sequence[str] | None = None,
) -> NDArray[np.bool_]:
    """Mark the front over any columns, such as accuracy, kept samples and seconds of training.

    Args:
        table: A row per point.
        directions: ``max`` or ``min`` for each column that counts.
        within: Columns that points must share to be compared; those of :data:`SETTING` that the
            table has where None.

    Returns:
        (n_points,) whether no comparable point is as good in every column and better in one; a
        point with a NaN never is on the front.

    Raises:
        ConfigError: If there are no columns, one is unknown or not of numbers, or a direction is.

    Example:
        >>> points = pd.DataFrame({"average_accuracy": [0.9, 0.8, 0.8], "n_kept": [200, 100, 150]})
        >>> front_over(points, {"average_accuracy": "max", "n_kept": "min"}, within=[]).tolist()
        [True, True, False]
    """
    if within is None:
        within = [name for name in SETTING if name in table]
    values = _signed(table, directions)
    front = np.zeros(len(table), dtype=np.bool_)
    groups = table.groupby(list(within)).indices.values() if within else [np.arange(len(table))]
    for rows in groups:
        front[rows] = pareto_front(values[rows])
    return front


def hypervolume(points: ArrayLike, reference: ArrayLike | None = None) -> float:
    """Return the volume that points dominate above a reference, all columns being maximised.

    In two dimensions it is a sum over the steps of the front, in O(n log n); in more, the volume
    between two neighbouring values of the last column is that of the points above them in the other
    columns (Fonseca, Paquete and López-Ibáñez, 2006, CEC), in O(n^(d-1) log n).

    Args:
        points: (n, d) values, d ≥ 1; points with a NaN or not above the reference add nothing.
        reference: (d,) corner; 0 in every column where None, so that accuracies give a share of
            the unit square.

    Raises:
        DataError: If shapes do not fit.

    Example:
        >>> round(hypervolume([(0.9, 0.5), (0.8, 0.7)]), 4)
        0.61
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(
            f"Expected points of shape (n, d), found shape {values.shape}; pass a row per point."
        )
    corner = np.zeros(values.shape[1]) if reference is None else np.asarray(reference, np.float64)
    if corner.shape != values.shape[1:]:
        raise DataError(
            f"Expected a reference of shape {values.shape[1:]}, found {corner.shape}; pass a "
            "number per column."
        )
    above = values - corner
    return _volume(above[(above > 0).all(axis=1)])


def hypervolumes(resamples: Resamples, confidence: float = 0.95) -> pd.DataFrame:
    """Return the hypervolume of (average, worst) accuracy of each front, with an interval.

    The reference is (0, 0). The best of many noisy points is too good on average, so resampled
    volumes exceed the one they are drawn around; the interval reflects their quantiles about it
    (the basic bootstrap interval; Davison and Hinkley, 1997, section 5.2), which shifts it down
    instead of up. It is for the set of points that were run, and approximate: no coverage is
    promised.

    Args:
        resamples: Joint resamples of all points.
        confidence: Of the interval, in (0, 1).

    Returns:
        A row per :data:`SETTING`: its columns, ``hypervolume``, ``low``, ``high``.
    """
    tail = (1.0 - confidence) / 2.0
    worst = resamples.centred
    rows = []
    for key, points in _settings(resamples):
        found = hypervolume(resamples.plug_in[points])
        drawn = [
            hypervolume(np.column_stack(pair))
            for pair in zip(resamples.average[:, points], worst[:, points], strict=True)
        ]
        lower, upper = np.quantile(drawn, [tail, 1.0 - tail])
        ends = (max(0.0, 2.0 * found - upper), min(1.0, 2.0 * found - lower))
        rows.append((*key, found, *ends))
    return pd.DataFrame(rows, columns=[*SETTING, "hypervolume", "low", "high"])


def attained_fronts(
    resamples: Resamples, levels: Sequence[float] = (0.5, 0.9), steps: int = 201
) -> pd.DataFrame:
    """Return the fronts that are attained in a share of the resamples.

    A pair (average, worst) is attained in a resample if some point is at least as high in both.
    The front attained at 90 % bounds the pairs that are attained in 90 % of the resamples: what
    one may count on; that at 50 % is the median front (the empirical attainment function; Grunert
    da Fonseca, Fonseca and Hall, 2001, EMO).

    Args:
        resamples: Joint resamples of all points.
        levels: Shares of the resamples, in (0, 1].
        steps: Average accuracies at which each front is given, evenly spaced over those resampled.

    Returns:
        Rows by setting, level and average accuracy: the columns of :data:`SETTING`, ``level``,
        ``average_accuracy``, ``worst_class_accuracy`` (or ``worst_group_accuracy``), the highest
        worst accuracy that is attained together with this average. Averages at which nothing is
        attained are left out.
    """
    worst = resamples.centred
    frames = []
    for key, points in _settings(resamples):
        average = resamples.average[:, points]
        grid = np.linspace(average.min(), average.max(), steps)
        best = np.array(
            [_attained(*pair, grid) for pair in zip(average, worst[:, points], strict=True)]
        )
        for level in levels:
            # The k-th highest, k resamples being the share: attained in at least that many.
            needed = int(np.ceil(level * len(best) - 1e-9))
            heights = np.sort(best, axis=0)[len(best) - needed]
            frames.append(_staircase(key, level, grid, heights))
    columns = [*SETTING, "level", "average_accuracy", f"worst_{resamples.by}_accuracy"]
    return pd.concat(frames, ignore_index=True).set_axis(columns, axis=1)


def _staircase(key: Any, level: float, grid: Floats, heights: Floats) -> pd.DataFrame:
    """Return the rows of one attained front where anything is attained."""
    sound = np.isfinite(heights)
    rows = {**dict(zip(SETTING, key, strict=True)), "level": level}
    return pd.DataFrame({**rows, "average": grid[sound], "worst": heights[sound]})


def _attained(average: Floats, worst: Floats, grid: Floats) -> Floats:
    """Return the highest worst accuracy among points that reach each average; -inf if none."""
    order = np.argsort(average)
    highest = np.append(np.maximum.accumulate(worst[order][::-1])[::-1], -np.inf)
    found: Floats = highest[np.searchsorted(average[order], grid, side="left")]
    return found


def _settings(resamples: Resamples) -> list[tuple[Any, NDArray[np.intp]]]:
    """Return the setting of every front, with the places of its points."""
    return [
        (key, np.asarray(places))
        for key, places in resamples.points.groupby(SETTING).indices.items()
    ]


def _fronts(resamples: Resamples) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Yield the places of comparable points, with (B, places) whether each is on the front."""
    worst = resamples.centred
    for _, rows in _settings(resamples):
        pairs = zip(resamples.average[:, rows], worst[:, rows], strict=True)
        yield rows, np.array([pareto_front(np.column_stack(pair)) for pair in pairs])


def _signed(table: pd.DataFrame, directions: Mapping[str, Direction]) -> Floats:
    """Return (n_points, d) values, all to be maximised."""
    if not directions:
        raise ConfigError("Expected columns for a front, found none; name at least one.")
    columns = []
    for name, direction in directions.items():
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            numbers = [str(each) for each in table.select_dtypes("number").columns]
            raise unknown_name("column of numbers", name, numbers)
        if direction not in ("max", "min"):
            raise unknown_name("direction", direction, ("max", "min"))
        sign = 1.0 if direction == "max" else -1.0
        columns.append(sign * table[name].to_numpy(dtype=np.float64, na_value=np.nan))
    return np.column_stack(columns)


def _volume(points: Floats) -> float:
    """Return the volume between the origin and positive points (n, d)."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    ordered = points[np.argsort(-points[:, -1], kind="stable")]
    heights = ordered[:, -1]
    depths = heights - np.append(heights[1:], 0.0)
    if points.shape[1] == 2:
        return float((np.maximum.accumulate(ordered[:, 0]) * depths).sum())
    areas = [
        _volume(ordered[: place + 1, :-1]) if depth > 0 else 0.0
        for place, depth in enumerate(depths)
    ]
    return float(np.dot(areas, depths))
