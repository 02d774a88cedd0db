"""How far the worst class's recall can be trusted.

The lowest of K noisy recalls is too low on average: the more classes, the more likely one of them
has bad luck. Resampling the test set and taking the minimum again repeats that bias instead of
removing it, so the interval here is made of one-sided limits for each class, which are valid by
themselves, and combines those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from raydrop.errors import ConfigError, DataError

Floats = NDArray[np.float64]


def worst_class_interval(
    correct: ArrayLike, totals: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Return an interval for the true recall of the truly worst class.

    *What it covers.* With one seed: min_k p_k, where p_k is the recall of this one network on the
    population that class k's test images were drawn from. With S > 1 seeds: p_k is the expected
    recall over seeds too, so the interval speaks of the procedure and not of its S networks.

    *How the classes are combined*, with a = 1 - ``confidence``. The interval is
    [min_k L_k, min_k U_k]. The upper end is too low only if some class has U_k < p_k, so each U_k
    has error a/(2K) (Bonferroni). The lower end is too high only if L_k > p_k for the truly worst
    class itself, which is one fixed class, so each L_k has error a/2 and needs no correction
    (an intersection-union test; Berger, 1982, Technometrics 24:295). The same lower end holds for
    all classes at once.

    *The limits of a class.* Seeds share their test images, so S seeds are not S·n_k images: n_k
    stays the sample size. One seed: Clopper and Pearson (1934), exact for binomial counts. Several
    seeds: with the mean recall m, the Clopper-Pearson distance c of n_k images at m, and normal
    quantile z,

        limit = m ± t_d · √(B + s²/S),   B = (c/z)²,   d = (S - 1) · (B + s²/S)² / (s²/S)²,

    that is, the standard error that the exact limit stands for (variance recovery; Zou and Donner,
    2008, Statistics in Medicine 27:1693) joined with that of the seeds, and the degrees of freedom
    of Welch and Satterthwaite. s² is the variance of the class's recall over seeds (ddof 1), or
    the one pooled over classes in proportion to m(1 - m), whichever is larger, because two or
    three seeds can agree by luck. B counts seeds as if all made the same mistakes, and s² counts
    some image noise again, so limits err on the wide side. If all seeds agree, they are exactly
    those of one seed. Simulated at 95 %, with 5 to 50 classes, 50 or 300 test images each and 2 to
    5 seeds, coverage was 95 % or more, except for 93 % with two seeds whose recalls spread six
    times as far in the worst class as elsewhere.

    Args:
        correct: (n_seeds, K) correctly classified test samples.
        totals: (K,) test samples, the same ones for every seed; classes with 0 are left out.
        confidence: Probability of covering, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ConfigError: If ``confidence`` is not in (0, 1).
        DataError: If shapes do not fit, a count is impossible or every total is 0.

    Example:
        >>> low, high = worst_class_interval([[90, 99], [88, 98], [91, 99]], [100, 100])
        >>> round(low, 2), round(high, 2)
        (0.82, 0.96)
    """
    counts, sizes = _checked(correct, totals, confidence)
    error = (1.0 - confidence) / 2.0
    low = _limits(counts, sizes, error, upper=False)
    high = _limits(counts, sizes, error / len(sizes), upper=True)
    return max(0.0, float(low.min())), min(1.0, float(high.min()))


def _limits(counts: Floats, sizes: Floats, error: float, *, upper: bool) -> Floats:
    """Return the (K,) one-sided limits, each wrong with probability ``error``."""
    seeds = len(counts)
    mean = (counts / sizes).mean(axis=0)
    exact = _clopper_pearson(mean * sizes, sizes, error, upper=upper)
    if seeds == 1:
        return exact
    images = ((exact - mean) / special.ndtri(error)) ** 2
    spread = _seed_variance(counts / sizes, sizes) / seeds
    # A share rather than a ratio: no overflow where the seeds agree exactly, and t_∞ is normal.
    share = np.divide(spread, images + spread, out=np.zeros_like(spread), where=spread > 0)
    with np.errstate(divide="ignore"):
        freedom = (seeds - 1) / share**2
    width = special.stdtrit(freedom, 1.0 - error) * np.sqrt(images + spread)
    limits: Floats = mean + width if upper else mean - width
    return limits


def _clopper_pearson(hits: Floats, sizes: Floats, error: float, *, upper: bool) -> Floats:
    """Return exact binomial limits; hits need not be whole, since seeds were averaged."""
    tiny = 1e-9  # all right or all wrong: the limit is then 1 or 0, as it should be
    misses = np.maximum(sizes - hits, tiny)
    limits: Floats
    if upper:
        limits = special.betaincinv(hits + 1.0, misses, 1.0 - error)
    else:
        limits = special.betaincinv(np.maximum(hits, tiny), misses + 1.0, error)
    return limits


def _seed_variance(recalls: Floats, sizes: Floats) -> Floats:
    """Return (K,) variances over seeds: a class's own or the pooled one, whichever is larger."""
    own = recalls.var(axis=0, ddof=1)
    # Add-one, so that a class without errors does not seem to have none to spread.
    smooth = (recalls.mean(axis=0) * sizes + 1.0) / (sizes + 2.0)
    binomial = smooth * (1.0 - smooth)
    larger: Floats = np.maximum(own, binomial * np.mean(own / binomial))
    return larger


def _checked(correct: ArrayLike, totals: ArrayLike, confidence: float) -> tuple[Floats, Floats]:
    """Return counts (n_seeds, K') and sizes (K',) of the classes that have test samples."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError(
            f"Expected confidence in (0, 1), found {confidence}; use for example 0.95."
        )
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
    return counts[:, present], sizes[present]
