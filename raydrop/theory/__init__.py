r"""Two Gaussian classes on a line: what pruning does to class risks, in closed form.

Feature x of class k is N(μ_k, σ_k²) with μ_0 < μ_1, classes have priors φ_0 + φ_1 = 1, and 1 is
predicted iff x > t. The class risks (one minus recall) at a threshold t are

    R_0(t) = Φ((μ_0 - t) / σ_0),    R_1(t) = Φ((t - μ_1) / σ_1),

and their average is R(t) = φ_0 R_0(t) + φ_1 R_1(t). A network that minimises average risk learns
:attr:`TwoGaussians.threshold`; pruning class k to a density d_k changes the priors that it sees to
φ_k d_k / Σ_j φ_j d_j, and so its threshold and its class risks. That makes this the oracle of the
whole study: samples from such a mixture are the data set ``gaussians``.

Source: Vysogorets, Ahuja, Kempe, "DRoP: Distributionally Robust Data Pruning", ICLR 2025,
arXiv 2404.05579. NumPy and SciPy alone.
"""

# ruff: noqa: RUF001, RUF002 - sigma is a standard deviation and no o

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from raydrop.errors import ConfigError

FloatArray = NDArray[np.float64]
Pair = tuple[float, float]
"""A value of class 0 and of class 1."""


def average_risk_threshold(means: Pair, sigmas: Pair, prior0: float) -> float:
    r"""Return t*, where the densities weighted by the priors cross from class 0 to class 1.

    Setting R'(t) = φ_1 p_1(t) - φ_0 p_0(t) to zero gives a quadratic equation; t* is the root at
    which R has its minimum. Written with the half distance h = (μ_1 - μ_0) / 2 and
    ℓ = ln(φ_1 σ_0 / (φ_0 σ_1)), so that equal and nearly equal σ need no case of their own,

        t* = (μ_0 + μ_1) / 2 - [h² (σ_1² - σ_0²) + 2 σ_0² σ_1² ℓ] / [h (σ_0² + σ_1²) + σ_0 σ_1 √D],
        D = (μ_1 - μ_0)² - 2 (σ_1² - σ_0²) ℓ.

    For D < 0, or a prior of 0, nothing crosses and one class, the wider or the only one, is always
    predicted: t = -∞ if it is class 1 and +∞ if it is class 0. Where the densities cross, t* is a
    local minimum, which always predicting one class may beat; see
    :attr:`TwoGaussians.threshold_is_best`. Takes means μ_0 < μ_1, σ > 0 and φ_0 in [0, 1].
    """
    if prior0 in (0.0, 1.0):
        return math.inf if prior0 else -math.inf
    half, (s0, s1) = (means[1] - means[0]) / 2, sigmas
    log_ratio = math.log((1 - prior0) / prior0) + math.log(s0 / s1)
    widening = (s1 - s0) * (s1 + s0)
    discriminant = 4 * half**2 - 2 * widening * log_ratio
    if discriminant < 0:
        return math.inf if s0 > s1 else -math.inf
    shift = half**2 * widening + 2 * (s0 * s1) ** 2 * log_ratio
    middle = means[0] + half
    return middle - shift / (half * (s0**2 + s1**2) + s0 * s1 * math.sqrt(discriminant))


def fill(rates: Pair, priors: Pair, density: float | None) -> Pair:
    """Return class densities min(1, λ a_k) with Σ φ_k d_k = density: the water filling of DRoP.

    As :func:`raydrop.selection.quotas.drop_densities` does it, for fractional sizes φ_k > 0: a
    class of rate a_k = 0 gets nothing until the other is whole, and two of them share in proportion
    to φ_k. A density of None is the largest at which no class would exceed its size.
    """
    top = max(rates)
    d0, d1 = (rates[0] / top, rates[1] / top) if top > 0 else (1.0, 1.0)
    scale = 1.0 if density is None else density / (priors[0] * d0 + priors[1] * d1)
    if scale > 1.0:
        assert density is not None
        if d0 >= d1:
            return 1.0, min(1.0, (density - priors[0]) / priors[1])
        return min(1.0, (density - priors[1]) / priors[0]), 1.0
    return scale * d0, scale * d1


@dataclass(frozen=True)
class Pruning:
    """What a mixture becomes by pruning its classes, and what training on that leads to."""

    densities: Pair
    """Share of each class that is kept, in [0, 1]."""
    prior0: float
    """Share of class 0 in what is kept, in [0, 1]."""
    threshold: float
    """Threshold of least average risk under the new priors."""
    risks: Pair
    """Class risks at that threshold; pruning at random within a class leaves them as they are."""

    @property
    def worst_class_risk(self) -> float:
        """The larger of the two class risks."""
        return max(self.risks)


@dataclass(frozen=True)
class TwoGaussians:
    """A mixture of two Gaussian classes on a line.

    Raises:
        ConfigError: On construction, if the means are not in ascending order, a standard deviation
            is not positive, a prior is not in (0, 1), or something is not finite.

    Example:
        >>> mixture = TwoGaussians(means=(-1, 1), sigmas=(0.5, 1), prior0=0.5)
        >>> round(mixture.threshold, 4), mixture.class_risks().round(4).tolist()
        (-0.17, [0.0485, 0.121])
        >>> round(mixture.drop_step().worst_class_risk, 4), round(mixture.minimax_risk, 4)
        (0.1112, 0.0912)
    """

    means: Pair
    """μ_0 < μ_1."""
    sigmas: Pair
    """Standard deviations σ_0, σ_1 > 0."""
    prior0: float = 0.5
    """φ_0 in (0, 1); φ_1 is what remains."""

    def __post_init__(self) -> None:
        means, sigmas = _pair("means", self.means), _pair("sigmas", self.sigmas)
        found = f"{means[0]:g} and {means[1]:g}; call the class with the smaller mean 0"
        _check(means[0] < means[1], "means in ascending order", found)
        found = f"{sigmas[0]:g} and {sigmas[1]:g}; they are standard deviations"
        _check(min(sigmas) > 0, "sigmas above 0", found)
        prior0 = _finite("prior0", self.prior0)
        _check(0 < prior0 < 1, "prior0 in (0, 1)", f"{prior0:g}; it is the share of class 0")
        for name, value in (("means", means), ("sigmas", sigmas), ("prior0", prior0)):
            object.__setattr__(self, name, value)

    @property
    def priors(self) -> Pair:
        """Both priors, φ_0 and φ_1."""
        return self.prior0, 1.0 - self.prior0

    @property
    def threshold(self) -> float:
        """t*, of least average risk; :func:`average_risk_threshold`, perhaps infinite."""
        return average_risk_threshold(self.means, self.sigmas, self.prior0)

    @property
    def threshold_is_best(self) -> bool:
        """Whether no threshold has less average risk, -∞ and +∞ (always one class) included.

        It is not if a class is so rare, or so narrow, that one does best to ignore it.
        """
        return bool(self.risk() <= min(self.priors))

    @property
    def minimax_threshold(self) -> float:
        """t̂ = (μ_0 σ_1 + μ_1 σ_0) / (σ_0 + σ_1), where both class risks are equal.

        One of them falls and the other rises with t, so their larger one is least there.
        """
        (m0, m1), (s0, s1) = self.means, self.sigmas
        return m0 + (m1 - m0) * s0 / (s0 + s1)

    @property
    def minimax_risk(self) -> float:
        """Φ(-(μ_1 - μ_0) / (σ_0 + σ_1)), the least worst-class risk of any threshold."""
        return float(special.ndtr(-(self.means[1] - self.means[0]) / sum(self.sigmas)))

    @property
    def optimal_prior0(self) -> float:
        """Prior of class 0 for which t* is t̂: φ_0 / φ_1 = σ_0 / σ_1, whatever the means."""
        return self.sigmas[0] / sum(self.sigmas)

    def class_pdfs(self, x: ArrayLike) -> FloatArray:
        """Return the densities p_0(x) and p_1(x) of both classes, shape (2, ...)."""
        at, ((m0, m1), (s0, s1)) = np.asarray(x, np.float64), (self.means, self.sigmas)
        scaled = np.stack([(at - m0) / s0, (at - m1) / s1])
        widths = np.sqrt(2 * np.pi) * np.array([s0, s1]).reshape(2, *[1] * at.ndim)
        return cast("FloatArray", np.exp(-(scaled**2) / 2) / widths)

    def class_risks(self, t: ArrayLike | None = None) -> FloatArray:
        """Return R_0(t) and R_1(t), shape (2, ...), at thresholds of any shape.

        Without any, it is :attr:`threshold`.
        """
        at = np.asarray(self.threshold if t is None else t, np.float64)
        ((m0, m1), (s0, s1)) = (self.means, self.sigmas)
        return cast("FloatArray", special.ndtr(np.stack([(m0 - at) / s0, (at - m1) / s1])))

    def risk(self, t: ArrayLike | None = None) -> FloatArray:
        """Return the average risk φ_0 R_0(t) + φ_1 R_1(t), as :meth:`class_risks` takes ``t``."""
        risks = self.class_risks(t)
        return cast("FloatArray", self.priors[0] * risks[0] + self.priors[1] * risks[1])

    def pruned(self, densities: Pair) -> Pruning:
        """Return what training on some share of each class, in [0, 1], not both 0, leads to.

        Raises:
            ConfigError: If densities are out of range or both 0.
        """
        kept = _pair("densities", densities)
        found = f"{kept[0]:g} and {kept[1]:g}; they are the share of each class that is kept"
        fit = min(kept) >= 0 and 0 < max(kept) <= 1
        _check(fit, "densities in [0, 1] and one above 0", found)
        first, second = (prior * d for prior, d in zip(self.priors, kept, strict=True))
        prior0 = first / (first + second)
        threshold = average_risk_threshold(self.means, self.sigmas, prior0)
        r0, r1 = self.class_risks(threshold).tolist()
        return Pruning(kept, prior0, threshold, (r0, r1))

    def drop_densities(self, density: float | None = None) -> Pair:
        """Return the class densities of DRoP, min(1, λ R_k(t*)) with Σ φ_k d_k = density.

        Args:
            density: Share of all samples that is kept, in (0, 1]; None is the largest at which no
                class is kept whole. The priors are the same for all smaller ones.

        Raises:
            ConfigError: If the density is out of range.
        """
        r0, r1 = self.class_risks().tolist()
        return fill((r0, r1), self.priors, _checked_density(density))

    def drop_step(self, density: float | None = None) -> Pruning:
        """Return what DRoP leads to: densities from the class risks of the full data's threshold.

        It need not help the worst class: if one class is much narrower than the other, its risk is
        so much smaller that DRoP prunes it too far. At means -1 and 1, σ_1 = 1 and equal priors,
        this makes the worst class worse than the full data do for σ_0 up to 0.25.
        """
        return self.pruned(self.drop_densities(density))

    def optimal_densities(self, density: float | None = None) -> Pair:
        """Return the class densities of random pruning that are best for the worst class.

        d_0 / d_1 = (φ_1 / φ_0) (σ_0 / σ_1) makes t* = t̂. Where that would take more of a class
        than there is, it is kept whole, min(1, λ σ_k / φ_k): the nearest that the density allows.
        """
        rates = (self.sigmas[0] / self.priors[0], self.sigmas[1] / self.priors[1])
        return fill(rates, self.priors, _checked_density(density))

    def strategies(self, density: float | None = None) -> dict[str, Pruning]:
        """Return random pruning (like the full data), DRoP and the optimal densities, by name.

        With a density of None, ``random`` keeps everything.
        """
        kept = _checked_density(density)
        even = 1.0 if kept is None else kept
        return {
            "random": self.pruned((even, even)),
            "drop": self.drop_step(density),
            "optimal": self.pruned(self.optimal_densities(density)),
        }


def _checked_density(density: float | None) -> float | None:
    if density is None:
        return None
    value = _finite("density", density)
    found = f"{value:g}; it is the share of all samples that is kept"
    _check(0 < value <= 1, "a density in (0, 1]", found)
    return value


def _pair(name: str, values: Sequence[float]) -> Pair:
    try:
        first, second = values
    except (TypeError, ValueError) as error:
        found = f"{values!r}; give one of each class."
        raise ConfigError(f"Expected two numbers for {name}, found {found}") from error
    return _finite(name, first), _finite(name, second)


def _finite(name: str, value: object) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    finite = number and math.isfinite(value)  # type: ignore[arg-type]
    _check(finite, f"a number for {name}", f"{value!r}; give a finite number")
    return float(value)  # type: ignore[arg-type]


def _check(holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise ConfigError(f"Expected {expected}, found {found}.")
