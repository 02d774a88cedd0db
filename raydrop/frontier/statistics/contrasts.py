"""How far two points lie apart, and how sure that is: paired images, crossed seeds."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from raydrop.errors import DataError
from raydrop.frontier.statistics.intervals import (
    agreement_of_shares,
    check_confidence,
    seed_variances,
    t_quantile,
    worst_class_interval,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

POWER = 0.8
MOST_SEEDS = 1000
"""Seeds beyond which nobody will go."""

APART = 0.2
"""Share of an error that goes to comparing two points by their own intervals."""

_SMALLEST = 1e-12
"""Error below which a p-value is not followed."""

_FEW, _MANY = 64, 4096
"""Pairs of classes up to which every quantile is solved for, and beyond which those that count are
interpolated between as many."""

_SLACK = 1e-9
"""By how much bounds are relaxed, relatively, since they are rounded too."""


@dataclass(frozen=True, eq=False)
class Units:
    """The K classes with test images, or one unit of all, as runs of ordered images."""

    starts: NDArray[np.intp]
    """(K,) where each begins."""
    sizes: Floats
    """(K,) images."""

    @classmethod
    def of(cls, members: NDArray[np.integer[Any]]) -> Units:
        """Return the units of members (n_test,) in ascending order."""
        starts = np.flatnonzero(np.r_[True, members[1:] != members[:-1]])
        return cls(starts, np.diff(np.r_[starts, len(members)]).astype(np.float64))

    def sums(self, values: Floats) -> Floats:
        """Return sums (K,) of values (n_test,)."""
        return cast("Floats", np.add.reduceat(values, self.starts))


@dataclass(frozen=True, eq=False)
class Side:
    """One point of a comparison, K classes, S seeds."""

    times: NDArray[np.uint16]
    """(n_test,) how many seeds have each image right."""
    packed: NDArray[np.uint8]
    """(S, n_bytes) which images each seed has right, eight to a byte, in any order that the other
    side has too."""
    units: Units
    correct: Floats
    """(S, K) test images."""
    mean: Floats
    """(K,) recalls with one image more that is right and one that is wrong."""
    images: Floats
    """(K,) variance due to images, of the same."""
    alone: Floats
    """(K,) variance over seeds that independent errors on images would give."""
    _known: dict[float, tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def share(self) -> Floats:
        """(n_test,) seeds that have each image right, as a share."""
        return self.times / len(self.correct)

    @property
    def lowest(self) -> Floats:
        """(K,) recalls as they are, seeds averaged."""
        return cast("Floats", (self.correct / self.units.sizes).mean(axis=0))

    @cached_property
    def seeds(self) -> tuple[Floats, Floats, float]:
        """Variances (K,) of means over seeds, gross and net of images, and degrees of freedom."""
        seeds, binomial = len(self.correct), self.mean * (1.0 - self.mean)
        recalls = self.correct / self.units.sizes
        gross, freedom = seed_variances(recalls, binomial)
        gross = gross / seeds
        return gross, np.maximum(gross - self.alone / seeds, 0.0), freedom

    @cached_property
    def _agreement(self) -> Floats:
        sizes = self.units.sizes
        members = np.repeat(np.arange(len(sizes)), sizes.astype(np.int64))
        return agreement_of_shares(self.share, members, len(sizes))

    def interval(self, error: float) -> tuple[float, float]:
        """Return limits for the worst class's recall, each wrong with probability ``error``."""
        if error not in self._known:
            self._known[error] = worst_class_interval(
                self.correct, self.units.sizes, 1.0 - 2.0 * error, agreement=self._agreement
            )
        return self._known[error]


def side_of(hits: Bools, packed: NDArray[np.uint8], units: Units) -> Side:
    """Return one point of a comparison from hits (S, n_test), in the order of the units."""
    seeds, sizes, more = len(hits), units.sizes, units.sizes + 2.0
    times = hits.sum(axis=0, dtype=np.uint16)
    share = times / seeds
    sums, squares = units.sums(share), units.sums(share**2)
    mean = (sums + 1.0) / more
    return Side(
        times=times,
        packed=packed,
        units=units,
        correct=np.add.reduceat(hits, units.starts, axis=1, dtype=np.float64),
        mean=mean,
        images=((squares + 1.0) / more - mean**2) / more,
        alone=(sums - squares) / sizes**2 * seeds / max(seeds - 1, 1),
    )


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Differences a_j - b_k between class j of one point and class k of another, for all pairs.

    K is the number of classes with test images. On the diagonal images are paired.
    """

    plug_in: float
    """min_j a_j - min_k b_k, as measured."""
    mean: Floats
    """(K, K) differences, moved towards 0 by as much as two more images each would."""
    images: Floats
    """(K, K) variance due to test images."""
    gross: Floats
    """(K, K) variance over seeds, divided by S, as far as it is uncertain; 0 with one seed."""
    alone: Floats
    """(K, K) what of it is not added to ``images``, which have independent errors already."""
    freedom: float
    """Degrees of freedom of ``gross``."""
    n_seeds: int
    """S."""
    worst: tuple[int, int]
    """The lowest class of each point, among those with test images."""
    sides: tuple[Side, Side]
    """Each point by itself."""

    @cached_property
    def seeds(self) -> Floats:
        """(K, K) variance due to seeds beyond that of images."""
        return cast("Floats", np.maximum(self.gross - self.alone, 0.0))

    @cached_property
    def error(self) -> Floats:
        """(K, K) standard errors."""
        return cast("Floats", np.sqrt(self.images + self.seeds))

    @cached_property
    def share(self) -> Floats:
        """(K, K) how much of the variance is estimated from the seeds, 1 at most."""
        return cast("Floats", np.minimum(1.0, self.gross / (self.images + self.seeds)))


def contrasts(one: Bools, other: Bools, members: NDArray[np.integer[Any]]) -> Contrasts:
    """Estimate a_j - b_k for all pairs of classes, and how sure each is.

    The variance is that of seed means over n images, plus that of image means over S seeds
    (moderated), less what both contain; paired on the diagonal (Bonett and Price, 2012,
    Journal of Educational and Behavioral Statistics 37:479), independent off it (Agresti and Caffo,
    2000, The American Statistician 54:280).

    Args:
        one: (S, n_test) which images the first point has right, by seed.
        other: (S, n_test) the same of the second, for the same seeds and images.
        members: (n_test,) class of each image, in ascending order.
    """
    if one.shape != other.shape or one.shape[1:] != members.shape:
        raise DataError(
            f"Expected the same seeds and test images on both sides, found shapes {one.shape}, "
            f"{other.shape} and {members.shape}; compare trials of one test set."
        )
    units = Units.of(members)
    first, second = (side_of(hits, np.packbits(hits, axis=1), units) for hits in (one, other))
    return Pair(first, second).found()


def interval(found: Contrasts, confidence: float = 0.95) -> tuple[float, float]:
    r"""Return an interval for min_j p_j - min_k q_k, of two points with recalls p and q.

    It covers the difference of the two worst-class recalls, each expected over seeds and over the
    population of test images, and each in whichever class is truly the worst of its own point; with
    one seed, that of these two networks. With a single class it is the paired interval of their
    difference, which is how average accuracies are compared.

    With one-sided limits D_jk ± t_d·√(images + seeds), the ends are min_j max_k L_jk and max_k
    min_j U_jk, or where these are narrower those of two intervals of
    :func:`~raydrop.frontier.statistics.intervals.worst_class_interval`, which get a fifth of the
    error. It holds the plug-in difference in any case.

    Both ends are in [-1, 1].
    """
    check_confidence(confidence)
    error = (1.0 - confidence) / 2.0
    several = len(found.mean) > 1
    low, high = _ends(found, error * (1.0 - APART) if several else error)
    if several:
        apart = _apart(found, error * APART)
        low, high = max(low, apart[0]), min(high, apart[1])
    return max(-1.0, min(low, found.plug_in)), min(1.0, max(high, found.plug_in))


def p_value(found: Contrasts) -> float:
    """Return the two-sided p-value of no difference: 1 minus the level at which 0 drops out.

    The one-sided p-value of contrasts is max_j min_k of theirs, each over its share of the error;
    with several classes it is the smaller one of that and of the error at which the two points'
    own intervals touch, each over its share, as in :func:`interval`.
    """
    with np.errstate(divide="ignore", over="ignore"):
        freedom = found.freedom / found.share**2
    ratio = found.mean / found.error
    smallest = min(_tail(freedom, ratio), _tail(freedom.T, -ratio.T))
    if len(found.mean) > 1:
        smallest = min(smallest / (1.0 - APART), _touching(found) / APART)
    return min(1.0, 2.0 * smallest)


def _apart(found: Contrasts, error: float) -> tuple[float, float]:
    """Return the ends that two intervals give, each end wrong with probability ``error``."""
    (low_a, high_a), (low_b, high_b) = (side.interval(error / 2.0) for side in found.sides)
    return low_a - high_b, high_a - low_b


def _touching(found: Contrasts) -> float:
    """Return the error at which the ends of :func:`_apart` first leave out 0; 1/2 at most."""

    def gap(log_error: float) -> float:
        low, high = _apart(found, float(np.exp(log_error)))
        return max(low, -high)

    least, most = float(np.log(_SMALLEST)), float(np.log(0.5))
    if gap(most) <= 0:
        return 0.5
    if gap(least) >= 0:
        return _SMALLEST
    return float(np.exp(optimize.brentq(gap, least, most, xtol=1e-3)))


def seeds_needed(found: Contrasts, level: float, power: float = POWER) -> float:
    """Return how many seeds would tell, if the difference is as large as it seems.

    The smallest S ≥ 2 with |D| ≥ (t + z)·√(images + seeds(S)), where D is the difference between
    the two classes that seem worst, t the quantile at ``level``, two-sided, and z that of the
    ``power``, and seeds(S) the variance of a mean of S seeds. Classes that are nearly as bad are
    left out of account, so more may be needed. NaN with one seed, or if 1,000 would not do.
    """
    if found.n_seeds < 2:
        return float("nan")
    cell = found.worst
    images = found.images[cell]
    own, rest = _parts(len(found.mean))
    tail = level / 2.0 * (own if cell[0] == cell[1] else rest)

    def enough(number: int) -> bool:
        seeds = found.seeds[cell] * found.n_seeds / number
        gross = found.gross[cell] * found.n_seeds / number
        # The more seeds, the better their variance is known too.
        freedom = found.freedom * (number - 1) / (found.n_seeds - 1)
        quantile = t_quantile(tail, np.minimum(1.0, gross / (images + seeds)), freedom)
        width = (quantile + special.ndtri(power)) * np.sqrt(images + seeds)
        return bool(abs(found.mean[cell]) >= width)

    if not enough(MOST_SEEDS):
        return float("nan")
    # The width falls as seeds are added.
    return float(bisect.bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two points whose contrasts are asked for; K of them squared are too many to keep."""

    one: Side
    other: Side
    moderated: tuple[Floats, float] | None = None
    """Gross variance (1, 1) over seeds and its degrees of freedom, where they are known better than
    from this pair alone."""

    @property
    def n_seeds(self) -> int:
        """S."""
        return len(self.one.correct)

    def found(self) -> Contrasts:
        """Return the contrasts, as :func:`contrasts` estimates them."""
        sides, units = (self.one, self.other), self.one.units
        low_a, low_b = (side.lowest for side in sides)
        more = units.sizes + 2.0
        mean = np.subtract.outer(*(side.mean for side in sides))
        images = np.add.outer(*(side.images for side in sides))
        difference = self.one.share - self.other.share
        paired = units.sums(difference) / more
        np.fill_diagonal(mean, paired)
        np.fill_diagonal(images, ((units.sums(difference**2) + 2.0) / more - paired**2) / more)
        gross, alone, freedom = self._seeds()
        return Contrasts(
            float(low_a.min() - low_b.min()),
            mean,
            images,
            gross,
            alone,
            freedom,
            n_seeds=self.n_seeds,
            worst=(int(low_a.argmin()), int(low_b.argmin())),
            sides=sides,
        )

    def _seeds(self) -> tuple[Floats, Floats, float]:
        """Return gross and alone (K, K), and degrees of freedom."""
        classes = len(self.one.units.sizes)
        if self.n_seeds == 1:
            nothing = np.zeros((classes, classes))
            return nothing, nothing, np.inf
        if classes > 1:
            return _seeds_of_sides((self.one, self.other))
        gross, alone, freedom = _seeds_of_difference(self.one, self.other)
        if self.moderated is not None:
            gross, freedom = self.moderated
        return gross, alone, freedom


def _seeds_of_sides(sides: tuple[Side, Side]) -> tuple[Floats, Floats, float]:
    """Do the same for several classes, adding two points' variances."""
    gross, net, freedom = zip(*(side.seeds for side in sides), strict=True)
    least = min(freedom)
    # As one variance of the lesser degrees of freedom that is known as well as the sum is.
    parts = [each**2 * least / degrees for each, degrees in zip(gross, freedom, strict=True)]
    joint: Floats = np.sqrt(np.add.outer(*parts))
    return joint, joint - np.add.outer(*net), least


def _seeds_of_difference(one: Side, other: Side) -> tuple[Floats, Floats, float]:
    """Return gross and alone (1, 1), and degrees of freedom, of the paired difference of means.

    With d the difference of seed and image in {-1, 0, 1}, the variances over seeds, (the sum of d²
    - (the sum of d)²/S)/(S - 1), are averaged over images from two whole numbers.
    """
    seeds, images = len(one.correct), len(one.times)
    gross = ((one.correct - other.correct)[:, 0] / images).var(ddof=1) / seeds
    squares = int(np.bitwise_count(one.packed ^ other.packed).sum(dtype=np.int64))
    sums = one.times.astype(np.int64) - other.times
    alone = (squares - int(sums @ sums) / seeds) / (seeds - 1) / images / images / seeds
    return np.full((1, 1), gross), np.full((1, 1), alone), seeds - 1.0


def _parts(classes: int) -> tuple[float, float]:
    """Return shares of the error: half for the diagonal, half for all the rest of a row."""
    return (1.0, 1.0) if classes == 1 else (0.5, 0.5 / (classes - 1))


def _tail(freedom: Floats, ratio: Floats) -> float:
    """Return max_j min_k of the upper tails at (K, K) ratios, each over its share of the error.

    With u = √(d·log(1 + t²/d)), a ratio t of d degrees of freedom is as unlikely as a normal
    deviate between u·√(1 - 1/(2d)) and u (Wallace, 1959, Annals of Mathematical Statistics
    30:1121). Only pairs of classes that may decide by these bounds are looked at.
    """
    own, rest = _parts(len(ratio))
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.where(freedom < 1e15, freedom * np.log1p(ratio**2 / freedom), ratio**2)
    near = np.sqrt(square)
    far = near * np.sqrt(np.maximum(0.0, 1.0 - 0.5 / freedom))
    likely, unlikely = (np.where(ratio > 0, *ends) for ends in ((far, -near), (near, -far)))
    for deviates in (likely, unlikely):
        np.fill_diagonal(deviates, -np.inf)
    least, most = likely.max(axis=1), unlikely.max(axis=1)
    paired = special.stdtr(freedom.diagonal(), -ratio.diagonal()) / own
    upper = np.minimum(special.ndtr(-least) / rest, paired)
    lower = np.minimum(special.ndtr(-most) / rest, paired)
    rows = np.flatnonzero(upper >= lower.max() * (1.0 - _SLACK))
    slack = _SLACK * (1.0 + np.abs(least[rows]))
    cells = unlikely[rows] >= (least[rows] - slack)[:, None]
    tails = np.full(cells.shape, np.inf)
    tails[cells] = special.stdtr(freedom[rows][cells], -ratio[rows][cells]) / rest
    return float(np.minimum(tails.min(axis=1), paired[rows]).max())


def _ends(found: Contrasts, error: float) -> tuple[float, float]:
    """Return min_j max_k and max_k min_j of the one-sided limits that share an error."""
    own, rest = (part * error for part in _parts(len(found.mean)))
    paired = t_quantile(own, found.share.diagonal(), found.freedom)
    if found.share.size <= _FEW:
        quantiles = t_quantile(rest, found.share, found.freedom)
    else:
        quantiles = _quantiles(found, rest, paired)
    np.fill_diagonal(quantiles, paired)
    width = quantiles * found.error
    low = float((found.mean - width).max(axis=1).min())
    return low, float((found.mean + width).min(axis=0).max())


def _quantiles(found: Contrasts, error: float, paired: Floats) -> Floats:
    """Return (K, K) quantiles, too large ones where that changes neither of :func:`_ends`.

    They grow with the share of the variance that is estimated, so a few bound them all, and only
    pairs that may decide by these bounds are looked at.
    """
    place = found.share * (_FEW - 1)
    few = t_quantile(error, np.linspace(0.0, 1.0, _FEW), found.freedom)
    least = few[np.maximum(place - _SLACK, 0.0).astype(np.intp)] * (1.0 - _SLACK)
    most = few[np.minimum(place + 1.0 + _SLACK, _FEW - 1.0).astype(np.intp)] * (1.0 + _SLACK)
    for bounds in (least, most):
        np.fill_diagonal(bounds, paired)
    near, far = least * found.error, most * found.error
    lows, highs = (found.mean - far).max(axis=1), (found.mean + far).min(axis=0)
    may_be_low, may_be_high = found.mean - near, found.mean + near
    rows = lows <= may_be_low.max(axis=1).min()
    columns = highs >= may_be_high.min(axis=0).max()
    cells = rows[:, None] & (may_be_low >= lows[:, None]) | columns & (may_be_high <= highs)
    share = found.share[cells]
    if found.share.size <= _MANY:
        most[cells] = t_quantile(error, share, found.freedom)
        return most
    around = (share * (_MANY - 1)).astype(np.intp)[:, None] + np.arange(-1, 3)
    nodes = np.unique(np.clip(around, 0, _MANY - 1))
    grid = np.linspace(0.0, 1.0, _MANY)[nodes]
    most[cells] = np.interp(share, grid, t_quantile(error, grid, found.freedom))
    return most
