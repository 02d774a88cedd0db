"""How the stored scores of every method are distributed, and where each keep fraction cuts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.sources import Sources
from raydrop.store import Entry

BINS = 40
WIDE = 10.0
"""Scores whose range exceeds this many times that of their middle half are drawn on a scale that is
linear near zero and logarithmic far from it."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """The last score that is kept at a keep fraction, where all classes are ranked together."""

    keep_fraction: float
    value: float
    """Median over seeds; may be +infinity."""
    low: float
    """Lowest over seeds."""
    high: float
    """Highest over seeds."""


@dataclass(frozen=True, eq=False)
class ScoreDistribution:
    """A histogram of one method's scores, B bins."""

    name: str
    """The method, and its query model if there are several."""
    edges: FloatArray
    """(B + 1,) ascending."""
    share: FloatArray
    """(B,) share of all samples in each bin, mean over seeds."""
    share_min: FloatArray
    """(B,) lowest over seeds."""
    share_max: FloatArray
    """(B,) highest over seeds."""
    infinite: float
    """Share of all samples whose score is +infinity, mean over seeds; with ``share`` it sums to 1.
    """
    linear_width: float | None
    """None where bins are equally wide; else the w of the scale asinh(x / w) on which they are."""
    counts: bool
    """Whether finite scores are whole numbers with a bin each."""
    higher_is_kept: bool
    thresholds: tuple[Threshold, ...]
    """Ascending keep fractions; none where the method is used with quotas alone."""
    n_seeds: int


def score_distributions(sources: Sources) -> list[ScoreDistribution]:
    """Return the distribution of every method's scores over the training samples.

    Methods that read no query run are left out: random pruning is uniform whatever happens. A
    threshold is the score of the last of the ``n_kept`` best samples, as without quotas; with
    quotas there is one for each class, and none is given.

    Args:
        sources: What trials were made from.

    Returns:
        One for each method and query model, by name; empty where no scores are stored.
    """
    by_name: dict[str, list[Entry]] = {}
    for key, entry in sources.scores.items():
        if entry.config.get("queries") and "scores" in entry.names:
            by_name.setdefault(sources.scorer(key), []).append(entry)
    return [_distribution(name, sources, by_name[name]) for name in sorted(by_name)]


def _distribution(name: str, sources: Sources, entries: Sequence[Entry]) -> ScoreDistribution:
    scores = [np.asarray(entry.array("scores"), dtype=np.float64) for entry in entries]
    finite = [values[np.isfinite(values)] for values in scores]
    pooled = np.concatenate(finite)
    width = linear_width(pooled)
    edges = bin_edges(pooled, width)
    shares = np.array(
        [np.histogram(f, edges)[0] / len(values) for f, values in zip(finite, scores, strict=True)]
    )
    higher = bool(entries[0].info["higher_is_kept"])
    return ScoreDistribution(
        name=name,
        edges=edges,
        share=shares.mean(axis=0),
        share_min=shares.min(axis=0),
        share_max=shares.max(axis=0),
        infinite=float(np.mean([np.isposinf(values).mean() for values in scores])),
        linear_width=width,
        counts=is_counts(pooled),
        higher_is_kept=higher,
        thresholds=_thresholds(sources.trials, entries, scores, higher_is_kept=higher),
        n_seeds=len(entries),
    )


def linear_width(values: FloatArray) -> float | None:
    """Return the w of a scale w asinh(x / w) for scores with long tails; None for all others.

    It is half the interquartile range; scores of which half are equal have none.
    """
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    middle = float(high - low)
    return middle / 2 if middle > 0 and np.ptp(values) > WIDE * middle else None


def is_counts(values: FloatArray) -> bool:
    """Return whether scores are whole numbers, and few enough for a bin each."""
    whole = np.array_equal(values, np.round(values))
    return bool(whole and (len(values) == 0 or np.ptp(values) <= 2 * BINS))


def bin_edges(values: FloatArray, width: float | None) -> FloatArray:
    """Return edges of bins that hold all ``values``: a bin per count where they are counts.

    Args:
        values: Finite scores, (n,).
        width: Of :func:`linear_width`.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if is_counts(values):
        return np.arange(low - 0.5, high + 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return np.array([low - 0.5 * abs(low), high + 0.5 * abs(high)])
    if width is None:
        return np.linspace(low, high, BINS + 1)
    ends = math.asinh(low / width), math.asinh(high / width)
    edges: FloatArray = width * np.sinh(np.linspace(ends[0], ends[1], BINS + 1))
    # Rounding must not leave the extremes outside.
    edges[0], edges[-1] = low, high
    return edges


def _thresholds(
    trials: pd.DataFrame,
    entries: Sequence[Entry],
    scores: Sequence[FloatArray],
    *,
    higher_is_kept: bool,
) -> tuple[Threshold, ...]:
    free = trials[trials["quotas"] == "none"]
    cuts: dict[float, list[float]] = {}
    for entry, values in zip(entries, scores, strict=True):
        best_first = np.sort(values)[::-1] if higher_is_kept else np.sort(values)
        of_entry = free[free["scores"] == entry.key].drop_duplicates("keep_fraction")
        for keep, kept in zip(of_entry["keep_fraction"], of_entry["n_kept"], strict=True):
            cuts.setdefault(float(keep), []).append(float(best_first[int(kept) - 1]))
    return tuple(
        Threshold(keep, float(np.median(cuts[keep])), min(cuts[keep]), max(cuts[keep]))
        for keep in sorted(cuts)
    )
