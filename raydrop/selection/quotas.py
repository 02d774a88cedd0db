r"""How many samples each class keeps: integers that sum exactly to the budget.

Every rule here is one water-filling. Class k has N_k samples, a floor m_k = min(minimum, N_k) and a
rate a_k >= 0 at which the rule would fill it. Its fractional size at the water level λ is

    x_k(λ) = clip(λ a_k, m_k, N_k),    with λ such that Σ_k x_k = budget,

and the rules differ in the rate alone:

=============  =================  ==========================================================
rule           a_k                what comes out without floors
=============  =================  ==========================================================
proportional   N_k                the same density in every class
balanced       1                  the same number in every class; a smaller class whole
drop           N_k (1 - r_k)      density min(1, λ (1 - r_k)): more where recall r_k is worse
from_method:S  c_k                c_k, the samples of class k among the best by score S
=============  =================  ==========================================================

Σ x_k is piecewise linear in λ and bends where a class leaves its floor (λ = m_k/a_k) or becomes
full (λ = N_k/a_k), so the right piece is looked up among the sorted bends and λ solved there in
closed form: no tolerance, no iteration limit. Largest remainders then make integers of the sizes:
they are rounded down, and the samples still missing go, one each, to the classes with the largest
fractions. Equal fractions (within :data:`ROUNDING`) are settled in favour of the larger class, then
of the lower recall (or the higher c_k), and only then of the lower index, so the order of classes
matters for identical classes alone. Groups (label and attribute, say) work the same with groups for
classes; r_k is then the share of a group's validation samples that are classified correctly.

Everywhere, ``class_sizes`` are the N_k, (K,), ``budget`` is how many samples to keep in all, from 0
to Σ N_k, and every class keeps at least ``minimum``, or all of its samples where it is smaller.
Quotas, (K,), are at most N_k each and sum to the budget. What does not fit raises a ConfigError.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from raydrop.errors import ConfigError
from raydrop.selection.checks import (
    FloatArray,
    IntArray,
    checked_budget,
    checked_counts,
    checked_floors,
    checked_recalls,
    numbers,
)
from raydrop.study.catalogue import Catalogue, Entry, Thing

ROUNDING = 1e-6
"""Fractions of a sample closer than this count as equal. It is far above the rounding error of
sizes in the millions (about 1e-9) and far below any difference that could matter."""


def drop_quotas(
    class_sizes: ArrayLike, recalls: ArrayLike | None, budget: int, minimum: int = 0
) -> IntArray:
    """Return how many samples each class keeps under DRoP, in proportion to its errors.

    The fractional sizes are N_k·min(1, λ(1 - r_k)) with λ such that they sum to the budget, where
    r_k is the recall of the query model on validation data, (K,), in [0, 1]: a class is kept at a
    density proportional to its error rate, classes that would exceed their size are kept whole, and
    their excess goes to the others in the same proportion. Classes that were recalled perfectly
    receive nothing until all others are whole; what is left then goes to them in proportion to N_k
    (the paper leaves this case open). A class whose share lies below its floor gets its floor, and
    the others share what remains; floors are not added on top.

    Source: Vysogorets, Ahuja, Kempe, "DRoP: Distributionally Robust Data Pruning", ICLR 2025,
    arXiv 2404.05579.

    Example:
        >>> drop_quotas([100, 100, 100], [0.9, 0.8, 0.5], budget=240).tolist()
        [47, 93, 100]
    """
    sizes = checked_counts("class_sizes", class_sizes)
    errors = 1.0 - checked_recalls(recalls, sizes.size)
    return _quotas(sizes, sizes * errors, budget, minimum, errors)


def drop_densities(
    class_sizes: ArrayLike, recalls: ArrayLike, budget: int, minimum: int = 0
) -> FloatArray:
    """Return the share of each class that DRoP keeps, before rounding to whole samples.

    This is min(1, λ(1 - r_k)) as described at :func:`drop_quotas` (arXiv 2404.05579), so
    ``class_sizes * densities`` sums to ``budget``; NaN for a class without samples.

    Example:
        >>> drop_densities([100, 100, 100], [0.9, 0.8, 0.5], budget=90).round(4).tolist()
        [0.1125, 0.225, 0.5625]
    """
    sizes = checked_counts("class_sizes", class_sizes)
    rates = sizes * (1.0 - checked_recalls(recalls, sizes.size))
    budget = checked_budget(budget, int(sizes.sum()))
    kept = _water_fill(rates, checked_floors(minimum, sizes, budget), sizes, budget)
    densities: FloatArray = np.full(sizes.size, np.nan)
    return np.divide(kept, sizes, out=densities, where=sizes > 0)


def proportional_quotas(class_sizes: ArrayLike, budget: int, minimum: int = 0) -> IntArray:
    """Return quotas with which every class keeps the same share of its samples.

    Example:
        >>> proportional_quotas([800, 150, 50], budget=100).tolist()
        [80, 15, 5]
    """
    sizes = checked_counts("class_sizes", class_sizes)
    return _quotas(sizes, sizes.astype(np.float64), budget, minimum)


def balanced_quotas(class_sizes: ArrayLike, budget: int, minimum: int = 0) -> IntArray:
    """Return quotas with which every class keeps equally many samples, as far as it has them.

    A class smaller than its share is kept whole and the others share its excess equally.

    Example:
        >>> balanced_quotas([800, 150, 20], budget=100).tolist()
        [40, 40, 20]
    """
    sizes = checked_counts("class_sizes", class_sizes)
    return _quotas(sizes, (sizes > 0).astype(np.float64), budget, minimum)


def quotas_from_counts(
    class_sizes: ArrayLike, counts: ArrayLike | None, budget: int, minimum: int = 0
) -> IntArray:
    """Return quotas in the proportions in which a method kept the classes by itself.

    With c_k the samples of class k among the ``budget`` best by a score S over all classes, the
    quotas are c_k: the class ratios that S produced, which Vysogorets, Ahuja and Kempe (2025, arXiv
    2404.05579) call StrategyQ. With random choice inside each class they tell whether a method owes
    its results to how much it keeps of each class or to which samples. With S as the choice inside
    classes too, and no minimum, the samples are the same as without quotas.

    Floors are paid for by the other classes in proportion to their c_k, and classes with c_k = 0
    stay at theirs. Counts for another budget are scaled to this one; where all of them are whole or
    zero, the rest goes to the others in proportion to N_k.

    Example:
        >>> quotas_from_counts([100, 100, 100], [60, 40, 0], budget=100).tolist()
        [60, 40, 0]
        >>> quotas_from_counts([100, 100, 100], [60, 40, 0], budget=100, minimum=10).tolist()
        [54, 36, 10]
    """
    if counts is None:
        raise ConfigError(
            "Expected counts of the samples that a method keeps of each class, found none; "
            "count them among its best samples."
        )
    sizes = checked_counts("class_sizes", class_sizes)
    chosen = checked_counts("counts", counts)
    if chosen.shape != sizes.shape or (chosen > sizes).any():
        raise ConfigError(
            "Expected counts from 0 to the size of each class, found counts "
            f"{chosen.tolist()} for sizes {sizes.tolist()}; count samples of the same data."
        )
    rates = chosen.astype(np.float64)
    return _quotas(sizes, rates, budget, minimum, urgency=rates)


def quotas_at_rates(
    class_sizes: ArrayLike, rates: ArrayLike, budget: int, minimum: int = 0
) -> IntArray:
    """Return quotas in proportion to rates a_k >= 0 of any rule, as far as classes have samples.

    Example:
        >>> quotas_at_rates([100, 100, 10], [1, 2, 1], budget=100).tolist()
        [30, 60, 10]
    """
    sizes, each = checked_counts("class_sizes", class_sizes), numbers("rates", rates)
    if each.shape != sizes.shape or not (np.isfinite(each) & (each >= 0)).all():
        raise ConfigError(
            f"Expected a rate of at least 0 for each of {sizes.size} classes, found {each[:9]}; "
            "give one per class."
        )
    return _quotas(sizes, np.where(sizes > 0, each, 0.0), budget, minimum)


def smooth_recalls(recalls: ArrayLike, totals: ArrayLike, pseudocount: float) -> FloatArray:
    """Return recalls drawn towards 1/2, as far as so few samples leave them uncertain, (K,).

    r_k = (c_k + a) / (n_k + 2 a) with c_k right of n_k validation samples: the posterior mean under
    a Beta(a, a) prior; the pseudocount a = 1 is add-one (Laplace) smoothing, a = 0 changes nothing.
    The paper leaves open what happens at a measured recall of 1, which would leave a class without
    any sample.

    Example:
        >>> smooth_recalls([1.0, 0.5], [23, 10], pseudocount=1).tolist()
        [0.96, 0.5]
    """
    counts = checked_counts("totals", totals).astype(np.float64)
    measured = checked_recalls(recalls, counts.size)
    if not 0 <= pseudocount < np.inf:
        raise ConfigError(
            f"Expected a pseudocount of at least 0, found {pseudocount}; 1 is usual, 0 is none."
        )
    weights = counts + 2 * pseudocount
    smoothed: FloatArray = measured.copy()
    return np.divide(measured * counts + pseudocount, weights, out=smoothed, where=weights > 0)


@dataclass(frozen=True)
class QuotaRule(Entry["IntArray | None"]):
    """A way to share the budget among classes, which it builds as :meth:`allocate` is called."""

    needs_recalls: bool = False
    """Whether it needs validation recalls of a query model; without, they may be None."""
    least: int = 0
    """Samples that it leaves every class or group at least, whatever the study's minimum."""
    method: str | None = None
    """Method among whose best samples classes are counted; None for rules that need no counts."""

    def allocate(
        self,
        class_sizes: ArrayLike,
        recalls: ArrayLike | None,
        budget: int,
        minimum: int,
        counts: ArrayLike | None = None,
    ) -> IntArray | None:
        """Return quotas (K,), or None where samples of all classes are ranked together.

        Recalls on validation and counts, of each class among the best by :attr:`method`, both (K,),
        are for rules that need them.
        """
        return self.build(class_sizes, recalls, budget, minimum, counts)


def _own(thing: Thing) -> QuotaRule:
    """Return the entry of a rule of the user's own, which may have ``needs_recalls`` and ``least``.

    It is a function that is called as :meth:`QuotaRule.allocate` is, or makes or is such an object.
    """
    rule, call = thing.value, thing.call
    if isinstance(rule, type):
        rule = thing.make()
    elif call is not None and call.keywords:
        rule = functools.partial(rule, **call.keywords)
    if not callable(rule) or (call is not None and call.arguments and rule is thing.value):
        remedy = "write a function of class_sizes, recalls, budget, minimum and counts"
        raise thing.unfit("a rule of quotas, its further arguments named", rule, remedy)
    declared = {
        name: getattr(thing.value, name)
        for name in ("needs_recalls", "least")
        if hasattr(thing.value, name)
    }
    return QuotaRule(thing.name, rule, **thing.facts, **declared)


def quota_rule(name: str) -> QuotaRule:
    """Return the quota rule of a name such as ``drop`` or ``from_method:el2n``.

    Whether there is such a method is for the caller to check: nothing here knows the methods.

    Example:
        >>> quota_rule("from_method:el2n").method
        'el2n'
    """
    named = QUOTAS.named(name)
    rule: QuotaRule = named.entry  # type: ignore[assignment]
    return rule if named.text is None else dataclasses.replace(rule, method=named.text)


QUOTAS = Catalogue(
    "quotas",
    (
        QuotaRule(
            "none",
            lambda *_: None,  # select() honours the minimum
            "no quotas: the best samples over all classes",
            "the usual form of score-based pruning",
        ),
        QuotaRule(
            "proportional",
            lambda sizes, _, budget, minimum, *__: proportional_quotas(sizes, budget, minimum),
            "the same share of every class",
            "stratified sampling with proportional allocation (Neyman, 1934)",
        ),
        QuotaRule(
            "balanced",
            lambda sizes, _, budget, minimum, *__: balanced_quotas(sizes, budget, minimum),
            "equally many samples of every class, smaller classes whole",
            "class-balanced subsampling (Idrissi et al., 2022, arXiv 2110.14503)",
            least=1,
        ),
        QuotaRule(
            "drop",
            lambda *given: drop_quotas(*given[:4]),
            "a share of every class in proportion to its validation error",
            "DRoP (Vysogorets, Ahuja, Kempe, 2025, arXiv 2404.05579)",
            needs_recalls=True,
        ),
        QuotaRule(
            "from_method",
            lambda sizes, _, budget, minimum, counts: quotas_from_counts(
                sizes, counts, budget, minimum
            ),
            "as many of every class as a method keeps by itself",
            "StrategyQ of DRoP (Vysogorets, Ahuja, Kempe, 2025, arXiv 2404.05579)",
            text="METHOD",
        ),
    ),
    example="from_method:el2n",
    adopt=_own,
    group="raydrop.quotas",
)
"""Every quota rule by name; ``from_method`` is followed by a colon and a method."""


def _quotas(
    sizes: IntArray, rates: FloatArray, budget: int, minimum: int, urgency: FloatArray | None = None
) -> IntArray:
    """Check the budget, water-fill at ``rates`` and round; see the module's docstring."""
    budget = checked_budget(budget, int(sizes.sum()))
    filled = _water_fill(rates, checked_floors(minimum, sizes, budget), sizes, budget)
    return _whole(filled, sizes, np.zeros(sizes.size) if urgency is None else urgency, budget)


def _water_fill(rates: FloatArray, floors: IntArray, caps: IntArray, budget: int) -> FloatArray:
    """Return fractional sizes clip(λ·rates, floors, caps) that sum to the budget, shape (K,).

    Classes of rate 0 stay at their floors until all others are full; they then share the rest in
    proportion to their caps.
    """
    still = rates <= 0
    if still.any() and budget > caps[~still].sum() + floors[still].sum():
        sizes = caps.astype(np.float64)
        rest = int(budget - caps[~still].sum())
        sizes[still] = _solve(sizes[still], floors[still], caps[still], rest)
        return sizes
    sizes = floors.astype(np.float64)
    rest = int(budget - floors[still].sum())
    sizes[~still] = _solve(rates[~still], floors[~still], caps[~still], rest)
    return sizes


def _solve(rates: FloatArray, floors: IntArray, caps: IntArray, budget: int) -> FloatArray:
    """Return clip(λ·rates, floors, caps) summing to the budget, where all non-empty rates are > 0.

    The sum is taken anew at each bend that the search looks at, rather than accumulated over the
    bends: error rates may span sixteen orders of magnitude, and running sums would lose the small.
    """
    safe = np.where(rates > 0, rates, 1.0)  # an empty class has rate 0, floor 0 and cap 0
    starts, stops = floors / safe, caps / safe
    bends = np.unique(np.concatenate([starts, stops]))

    def total(level: float) -> float:
        return float(np.clip(level * rates, floors, caps).sum())

    upper = bisect.bisect_left(bends.tolist(), float(budget), key=total)
    low = bends[upper - 1] if upper > 0 else 0.0
    high = bends[upper] if upper < bends.size else np.inf
    full, rising = stops <= low, (starts < high) & (stops > low)
    if not rising.any():
        return np.where(full, caps, floors).astype(np.float64)
    settled = np.where(full, caps, floors)[~rising].sum()
    level = (budget - settled) / rates[rising].sum()
    return np.where(rising, np.clip(level * rates, floors, caps), np.where(full, caps, floors))


def _whole(filled: FloatArray, sizes: IntArray, urgency: FloatArray, budget: int) -> IntArray:
    """Round sizes that sum to the budget to integers that do, by largest remainder.

    A class at its floor or its cap has no fraction, so it never leaves these bounds.
    """
    whole = np.floor(filled)
    fractions = filled - whole
    order = np.argsort(fractions, kind="stable")
    rises = np.diff(fractions[order], prepend=fractions[order][:1]) > ROUNDING
    steps = np.empty(sizes.size, np.int64)  # equal for fractions within it
    steps[order] = np.cumsum(rises)
    first = np.lexsort((np.arange(sizes.size), -urgency, -sizes, -steps))
    quotas = whole.astype(np.int64)
    quotas[first[: budget - quotas.sum()]] += 1
    return quotas
