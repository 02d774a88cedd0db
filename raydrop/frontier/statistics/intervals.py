"""How far the recall of the worst class can be trusted: three answers (``docs/statistics.md``).

The truth is min_k p_k, p_k being the expected recall of class k over test images and seeds. The
plug-in estimate is biased low; the recall on validation's worst class errs, if at all, to the high
side; the simultaneous interval holds for min_k p_k itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from raydrop.errors import ConfigError, DataError
from raydrop.metrics import recalls

Floats = NDArray[np.float64]

SPENT = 0.1
"""Share of an upper end's error that goes to finding the classes that may be the worst."""


def worst_class_interval(
    correct: ArrayLike,
    totals: ArrayLike,
    confidence: float = 0.95,
    *,
    agreement: ArrayLike | None = None,
) -> tuple[float, float]:
    r"""Return an interval in [0, 1] for the true recall of the truly worst class.

    With one seed: min_k p_k, where p_k is the recall of this one network on the population that
    class k's test images were drawn from. With S > 1 seeds: p_k is the expected recall over seeds
    too, so the interval speaks of the procedure and not of its S networks.

    With error e on either side it is [min_k L_k, min_k U_k], U_k being Bonferroni's over classes
    that may be the worst (Romano, Shaikh and Wolf, 2014, Econometrica 82:1979). With mean m, limits
    are Clopper and Pearson's for one seed, and for more m ± t_d·√(g·(c/z)² + max(0, s² - r/n_k)/S),
    c being Clopper and Pearson's distance, g the ``agreement``, 1 without it, s² of
    :func:`moderated`, and r the independent errors on images in it (Zou and Donner, 2008,
    Statistics in Medicine 27:1693).

    Args:
        correct: (n_seeds, K) correctly classified test samples.
        totals: (K,) test samples, the same ones for every seed; classes with 0 are left out.
        confidence: Probability of covering, in (0, 1).
        agreement: (K,) in [0, 1], as from :func:`image_agreement`.

    Raises:
        DataError: If shapes do not fit, a count is impossible or every total is 0.

    Example:
        >>> low, high = worst_class_interval([[90, 99], [88, 98], [91, 99]], [100, 100])
        >>> round(low, 2), round(high, 2)
        (0.82, 0.96)
    """
    check_confidence(confidence)
    classes = _classes(*_checked(correct, totals, agreement))
    error = (1.0 - confidence) / 2.0
    low = float(classes.limits(error, upper=False).min())
    return max(0.0, low), min(1.0, _upper_end(classes, error))


def moderated(variances: Floats, freedom: int) -> tuple[Floats, float]:
    """Return variances drawn towards a common one, and the degrees of freedom they then have.

    ṽ_k = (d₀·v₀ + d·v_k) / (d₀ + d), with v₀ and d₀ from the mean and the scatter of log v (Smyth,
    2004, Statistical Applications in Genetics and Molecular Biology 3:3). Few variances are not
    taken to be alike because they seem so, and a single one stays as it is.

    Args:
        variances: (m,) non-negative, m ≥ 1, in units in which they are expected to be alike.
        freedom: d, the number of seeds less one.

    Returns:
        (m,) variances and their degrees of freedom, at least d.
    """
    mean, half = float(variances.mean()), freedom / 2
    if len(variances) == 1 or mean == 0:
        return variances, float(freedom)
    logs = np.log(np.maximum(variances, 0.01 * mean))
    common = np.exp(logs.mean() - special.digamma(half)) * half
    expected, fourth = (float(special.polygamma(order, half)) for order in (1, 3))
    doubt = float(np.sqrt((2.0 * expected**2 + fourth) / len(variances)))
    prior = 2.0 * _inverse_trigamma(max(0.0, logs.var(ddof=1) - expected) + doubt)
    drawn: Floats = (prior * common + freedom * variances) / (prior + freedom)
    return drawn, prior + freedom


def seed_variances(recalls: Floats, binomial: Floats) -> tuple[Floats, float]:
    """Return variances (K,) of recalls (S, K) over seeds, moderated in units of p(1 - p)."""
    units, freedom = moderated(recalls.var(axis=0, ddof=1) / binomial, len(recalls) - 1)
    return units * binomial, freedom


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence: a number outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError(
            f"Expected confidence in (0, 1), found {confidence}; use for example 0.95."
        )


@dataclass(frozen=True)
class WorstEstimates:
    """What is known about the recall of the worst class of one point."""

    plug_in: float
    """Lowest of the test recalls averaged over seeds; biased low."""
    plug_in_class: int
    """Where it is, the lowest index on ties."""
    on_validation: float
    """Mean test recall over seeds of :attr:`validation_class`; NaN where that is not known."""
    validation_class: int | None
    """Class with the lowest validation recall averaged over seeds, the lowest index on ties."""
    low: float
    high: float
    """Ends of the simultaneous interval."""


def worst_estimates(
    correct: ArrayLike,
    totals: ArrayLike,
    *,
    validation_correct: ArrayLike | None = None,
    validation_totals: ArrayLike | None = None,
    confidence: float = 0.95,
    agreement: ArrayLike | None = None,
) -> WorstEstimates:
    """Estimate the recall of the worst class, or the accuracy of the worst group, in three ways.

    Arguments and errors are those of :func:`worst_class_interval`; of validation samples there are
    ``validation_correct`` (S, K) of ``validation_totals`` (K,) or (S, K), None where not recorded.

    Example:
        >>> found = worst_estimates([[7, 8]], [10, 10], validation_correct=[[5, 4]],
        ...                         validation_totals=[5, 5])
        >>> found.plug_in, found.on_validation
        (0.7, 0.8)
    """
    low, high = worst_class_interval(correct, totals, confidence, agreement=agreement)
    mean = recalls(np.asarray(correct), np.asarray(totals)).mean(axis=0)
    lowest, chosen = int(np.nanargmin(mean)), None
    if validation_correct is not None and validation_totals is not None:
        counts = np.asarray(validation_correct), np.asarray(validation_totals)
        chosen = _worst_on_validation(*counts, ~np.isnan(mean))
    on_validation = float("nan") if chosen is None else float(mean[chosen])
    return WorstEstimates(float(mean[lowest]), lowest, on_validation, chosen, low, high)


def image_agreement(
    hits: NDArray[np.bool_], members: NDArray[np.integer[Any]], number: int
) -> Floats:
    """Return what share of the noise of n_k test images the mean over S seeds keeps.

    That is v / (m(1 - m)) for class k with mean recall m, and v the variance over its images (ddof
    0) of the share of seeds that have an image right; of a class or of all classes together,
    whichever is larger. From ``hits`` (S, n_test) and the class of every
    image comes (K,) in [0, 1]; 1 where there are no images.
    """
    return agreement_of_shares(hits.mean(axis=0), members, number)


def agreement_of_shares(share: Floats, members: NDArray[np.integer], number: int) -> Floats:
    """Return :func:`image_agreement` from the (n_test,) share of seeds that have an image right."""
    totals = np.maximum(np.bincount(members, minlength=number), 1)
    mean = np.bincount(members, share, number) / totals
    spread = np.bincount(members, share**2, number) / totals - mean**2
    most = mean * (1.0 - mean)
    whole = (totals * most).sum()
    pooled = (totals * spread).sum() / whole if whole > 0 else 1.0
    own = np.divide(spread, most, out=np.ones(number), where=most > 0)
    return cast("Floats", np.clip(np.maximum(own, pooled), 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class _Classes:
    """What the limits of K classes are made of, (K,) each."""

    mean: Floats
    sizes: Floats
    kept: Floats
    """Agreements."""
    spread: Floats
    """Variance due to seeds beyond that of independent errors on images."""
    gross: Floats
    """The same before those were taken off."""
    freedom: float
    """Degrees of freedom of ``gross``."""

    def limits(self, error: float, *, upper: bool) -> Floats:
        """Return the (K,) one-sided limits, each wrong with probability ``error``."""
        exact = _clopper_pearson(self.mean * self.sizes, self.sizes, error, upper=upper)
        if not self.gross.any():
            # Also with one seed, of which nothing but the images' noise is known.
            return self.mean + np.sqrt(self.kept) * (exact - self.mean)
        images = self.kept * ((exact - self.mean) / special.ndtri(error)) ** 2
        variance = images + self.spread
        with np.errstate(over="ignore"):
            share = np.divide(self.gross, variance, out=np.zeros_like(images), where=variance > 0)
        width = t_quantile(error, np.minimum(share, 1.0), self.freedom) * np.sqrt(variance)
        return cast("Floats", self.mean + width if upper else self.mean - width)


def t_quantile(error: float, share: Floats, freedom: float | Floats) -> Floats:
    """Return t quantiles where a share of the variance has ``freedom`` degrees of freedom.

    The rest of the variance counts as known, so there are freedom/share² of them (Satterthwaite,
    1946, Biometrics Bulletin 2:110); no share is a normal quantile.
    """
    with np.errstate(divide="ignore", over="ignore"):
        return cast("Floats", special.stdtrit(freedom / np.square(share), 1.0 - error))


def _classes(counts: Floats, sizes: Floats, kept: Floats) -> _Classes:
    """Estimate what seeds and images contribute, from counts (S, K)."""
    seeds, mean = len(counts), (counts / sizes).mean(axis=0)
    none = np.zeros(len(sizes))
    if seeds == 1:
        return _Classes(mean, sizes, np.ones_like(kept), none, none, np.inf)
    # Add-one, so that a class without errors does not seem to have none to spread.
    smooth = (mean * sizes + 1.0) / (sizes + 2.0)
    binomial = smooth * (1.0 - smooth)
    gross, freedom = seed_variances(counts / sizes, binomial)
    alone = mean * (1.0 - mean) * (1.0 - kept) * seeds / (seeds - 1) / sizes
    spread = np.maximum(gross - alone, 0.0)
    return _Classes(mean, sizes, kept, spread / seeds, gross / seeds, freedom)


def _upper_end(classes: _Classes, error: float) -> float:
    """Return the upper end: Bonferroni's over the classes that are not clearly better."""
    number = len(classes.sizes)
    if number == 1:
        return float(classes.limits(error, upper=True)[0])
    spent = SPENT * error
    all_counted = classes.limits((error - spent) / number, upper=True).min()
    clear = classes.limits(spent / number, upper=False) > all_counted
    candidates = number - int(clear.sum())
    return float(classes.limits((error - spent) / candidates, upper=True).min())


def _clopper_pearson(hits: Floats, sizes: Floats, error: float, *, upper: bool) -> Floats:
    """Return exact binomial limits; hits need not be whole, since seeds were averaged."""
    tiny = 1e-9  # all right or all wrong: the limit is then 1 or 0, as it should be
    misses = np.maximum(sizes - hits, tiny)
    if upper:
        return cast("Floats", special.betaincinv(hits + 1.0, misses, 1.0 - error))
    return cast("Floats", special.betaincinv(np.maximum(hits, tiny), misses + 1.0, error))


def _checked(
    correct: ArrayLike, totals: ArrayLike, agreement: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Return counts (n_seeds, K'), sizes and agreements (K',) of the classes with test samples."""
    counts, sizes = np.asarray(correct, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    if counts.ndim != 2 or not len(counts) or sizes.shape != counts.shape[1:]:
        raise DataError(
            "Expected correct of shape (n_seeds, K) and totals of shape (K,), found "
            f"{counts.shape} and {sizes.shape}; pass a row of counts per seed."
        )
    if not ((counts >= 0) & (counts <= sizes)).all():
        raise DataError(
            "Expected counts between 0 and the totals, found others; pass counts, not recalls, and "
            "the totals of the same test set."
        )
    present = sizes > 0
    if not present.any():
        raise DataError("Expected a class with test samples, found none; check the totals.")
    kept = np.ones(len(sizes)) if agreement is None else np.asarray(agreement, dtype=np.float64)
    if kept.shape != sizes.shape or not ((kept >= 0) & (kept <= 1)).all():
        raise DataError(
            f"Expected an agreement in [0, 1] for each of {len(sizes)} classes, found shape "
            f"{kept.shape} or others; pass what image_agreement returns."
        )
    return counts[:, present], sizes[present], kept[present]


def _worst_on_validation(
    correct: NDArray[np.int64], totals: NDArray[np.int64], tested: NDArray[np.bool_]
) -> int | None:
    """Return the worst class among those with validation and test samples, if there are any."""
    if correct.shape[-1] != len(tested) or totals.shape[-1] != len(tested):
        raise DataError(
            f"Expected validation counts of {len(tested)} classes, found shapes {correct.shape} "
            f"and {totals.shape}; pass those of the same classes."
        )
    known = np.where(tested, recalls(correct, totals).mean(axis=0), np.nan)
    return None if np.isnan(known).all() else int(np.nanargmin(known))


def _inverse_trigamma(value: float) -> float:
    """Return x with ψ'(x) = value > 0, by Newton's method on 1/ψ', which is nearly a line."""
    x = 0.5 + 1.0 / value
    for _ in range(50):
        now = float(special.polygamma(1, x))
        step = now * (1.0 - now / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
