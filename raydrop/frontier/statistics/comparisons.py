"""Is a point better than its reference: differences, intervals, verdicts.

Two points were tested on the same images and trained with the same seeds, so they are compared
image by image and seed by seed; what both have wrong cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.points import PLAIN_LOSS, POINT, Point, points_of, references
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.contrasts import (
    Pair,
    Side,
    Units,
    interval,
    p_value,
    seeds_needed,
    side_of,
)
from raydrop.frontier.statistics.intervals import moderated

Floats = NDArray[np.float64]

COLUMNS = (
    *("model", "loss", "keep_fraction", "method", "quotas", "query_model", "network_method"),
    *("network_target", "reference", "measure", "difference", "low", "high", "p_value"),
    *("p_adjusted", "verdict", "seeds_needed", "n_seeds"),
)
"""Columns of ``comparisons.csv``."""

FAMILY = ["model", "loss", "keep_fraction", "network_target", "reference", "measure"]
"""What comparisons that are corrected together have in common; with
:data:`~raydrop.frontier.points.PLAIN_LOSS` as the reference, losses are what is compared, so those
of all losses are."""

ERROR = 0.05


def comparisons(records: Records) -> pd.DataFrame:
    """Compare every point with its :func:`~raydrop.frontier.points.references`.

    The measures are the average accuracy and that of the worst class (or group), seeds averaged
    first; :func:`~raydrop.frontier.statistics.contrasts.interval` says what their intervals cover.
    Only seeds that both sides have count.

    Within each :data:`FAMILY`, ``p_adjusted`` is Holm's (1979, Scandinavian Journal of Statistics
    6:65), and ``low`` and ``high`` have the level at which his procedure tests that comparison, so
    an interval leaves out 0 exactly when the verdict is ``better`` or ``worse``. With one seed they
    are 95 % intervals for these two networks; p-values are NaN and the verdict ``cannot tell``.

    Rows are ordered by reference, measure (``worst`` or ``average``) and point; differences are
    accuracies of the point minus those of its reference, as plug-in estimates. ``seeds_needed`` is
    the number of seeds at which, were the difference as large as it seems, the verdict would fall
    with 80 % probability; it is ``n_seeds`` where the verdict has fallen, and NaN where there is
    one seed or 1,000 would not do, test images being too few.
    """
    sides = _Sides(records)
    rows, pairs = [], []
    for identity, one, other in _compared(records.trials):
        both = zip(("worst", "average"), sides.of(one), sides.of(other), strict=True)
        for measure, side, reference in both:
            rows.append({**identity, "measure": measure, "n_seeds": len(one)})
            pairs.append(Pair(side, reference))
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    judged = _judged(pd.DataFrame(rows), pairs)
    order = ["reference", "measure", *POINT]
    return judged.sort_values(order, kind="stable", ignore_index=True)[list(COLUMNS)]


def holm(p_values: Floats, error: float = ERROR) -> tuple[Floats, Floats]:
    """Return Holm's adjusted p-values (m,), and the error level at which each is tested.

    Levels are ``error`` divided by m for the smallest p-value, by m - 1 for the next and so on;
    those that are not rejected share the level of the first such.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    left = np.arange(count, 0, -1)
    ordered = np.minimum(1.0, np.maximum.accumulate(p_values[order] * left))
    rejected = int((ordered <= error).sum())
    left = np.maximum(left, count - rejected)
    adjusted, levels = np.empty(count), np.empty(count)
    adjusted[order], levels[order] = ordered, error / np.maximum(left, 1)
    return adjusted, levels


class _Sides:
    """Both views of every point, by class and of all images, each made once."""

    def __init__(self, records: Records) -> None:
        members = records.members()
        self._records = records
        self._order = np.argsort(members, kind="stable")
        ordered = members[self._order]
        self._units = [Units.of(each) for each in (ordered, np.zeros_like(ordered))]
        self._made: dict[tuple[str, ...], list[Side]] = {}

    def of(self, trial_ids: Sequence[str]) -> list[Side]:
        """Return the views of some trials, whose seeds are ascending."""
        key = tuple(trial_ids)
        if key not in self._made:
            packed = np.stack([self._records.packed_hits[each] for each in key])
            hits = self._records.hits(key)[:, self._order]
            self._made[key] = [side_of(hits, packed, units) for units in self._units]
        return self._made[key]


def _compared(trials: pd.DataFrame) -> Iterator[tuple[Point, list[str], list[str]]]:
    """Yield each comparison's identity and both sides' trials, in the order of their seeds."""
    points, rows = zip(*points_of(trials), strict=True)
    by_seed = [dict(zip(each["seed"], each["trial_id"], strict=True)) for each in rows]
    for point, seeds, found in zip(points, by_seed, references(points), strict=True):
        for name, place in found.items():
            others = by_seed[place]
            common = sorted(set(seeds) & set(others))
            if common:
                one, other = ([each[seed] for seed in common] for each in (seeds, others))
                yield {**point, "reference": name}, one, other


def _judged(table: pd.DataFrame, pairs: list[Pair]) -> pd.DataFrame:
    """Add differences, intervals, p-values and verdicts to the identities of comparisons."""
    pairs = _moderated_averages(table, pairs)
    known = (table["n_seeds"] > 1).to_numpy()
    found = zip(pairs, known, strict=True)
    p_values = np.array([p_value(pair.found()) if yes else np.nan for pair, yes in found])
    adjusted, levels = np.full(len(pairs), np.nan), np.full(len(pairs), ERROR)
    of_losses = table["reference"] == PLAIN_LOSS
    keyed = table.assign(loss=table["loss"].mask(of_losses, ""))[known]
    for rows in keyed.groupby(FAMILY).groups.values():
        adjusted[rows], levels[rows] = holm(p_values[rows])
    results = [_measured(*each) for each in zip(pairs, adjusted, levels, strict=True)]
    names = ["difference", "low", "high", "verdict", "seeds_needed"]
    measured = pd.DataFrame(results, columns=names, index=table.index)
    return table.assign(p_value=p_values, p_adjusted=adjusted, **measured)


def _measured(pair: Pair, adjusted: float, level: float) -> tuple[float, float, float, str, float]:
    """Return difference, interval, verdict and the seeds that are needed for one."""
    found = pair.found()
    low, high = interval(found, 1.0 - level)
    told = adjusted <= ERROR and (low > 0 or high < 0)
    needed = float(found.n_seeds) if told else seeds_needed(found, level)
    verdict = ("better" if low > 0 else "worse") if told else "cannot tell"
    return found.plug_in, low, high, verdict, needed


def _moderated_averages(table: pd.DataFrame, pairs: list[Pair]) -> list[Pair]:
    """Let the seed variances of average accuracies lend each other strength.

    Those with the same model, loss, reference and number of seeds do. There is a single one in each
    comparison, of as many degrees of freedom as there are seeds less one. Those of worst classes
    have had the classes to do so.
    """
    averages = table[(table["measure"] == "average") & (table["n_seeds"] > 1)]
    result = list(pairs)
    for rows in averages.groupby(["model", "loss", "reference", "n_seeds"]).groups.values():
        places = rows.tolist()
        gross = np.array([pairs[place].found().gross.item() for place in places])
        drawn, freedom = moderated(gross, pairs[places[0]].n_seeds - 1)
        for place, value in zip(places, drawn, strict=True):
            result[place] = replace(pairs[place], moderated=(np.full((1, 1), value), freedom))
    return result
