"""How much seeds matter, estimated from few of them.

Two or three seeds hardly tell a variance, but many classes (or comparisons) have two or three seeds
each, and lend each other strength.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


def moderated(variances: Floats, freedom: int) -> tuple[Floats, float]:
    """Return variances drawn towards a common one, and the degrees of freedom they then have.

    With m variances v_k of d degrees of freedom each, and a prior variance v₀ worth d₀,

        ṽ_k = (d₀·v₀ + d·v_k) / (d₀ + d),   with d₀ + d degrees of freedom

    (an empirical Bayes estimate; Smyth, 2004, Statistical Applications in Genetics and Molecular
    Biology 3:3). v₀ is the geometric mean, over what that of samples from a variance of 1 would be,
    exp(ψ(d/2) - log(d/2)). The prior is worth much if the logarithms scatter no more than those of
    samples from one variance would, ψ'(d/2): then ψ'(d₀/2) = var(log v) - ψ'(d/2). Two things are
    more careful here than there: that difference, at least 0, is raised by its standard error, so
    that few variances are not taken to be alike because they seem so; and v₀ is not lowered where
    d₀ is small. Variances below a hundredth of their mean count as that in logarithms. A single
    variance stays as it is.

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
