"""How high the worst class's recall is: three answers side by side, each with its name.

The truth is min_k p_k, p_k being the expected recall of class k over test images and seeds.

* The **plug-in** estimate puts measured recalls in place of the p_k. It is biased low: the lowest
  of K noisy numbers is one that had bad luck. With 10 equal classes of 1,000 images at 0.90 it is
  0.885 on average, with 100 classes of 100 images at 0.70 it is 0.582.
* The recall **on validation's worst class** lets the validation set choose the class and the test
  set measure it. The test images had no part in the choice, so the measurement is unbiased for the
  recall that these networks have in that class. If validation chose a class that is not the worst,
  that recall is above the minimum, so as an estimate of min_k p_k it errs, if at all, to the high
  side.
* The **simultaneous interval** holds for min_k p_k itself, whichever class that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import DataError
from raydrop.frontier.statistics.intervals import worst_class_interval
from raydrop.metrics import recalls


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
    """Lower end of the simultaneous interval."""
    high: float
    """Upper end of the simultaneous interval."""


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

    Args:
        correct: (S, K) correctly classified test samples for each seed.
        totals: (K,) test samples; a class without any is left out.
        validation_correct: (S, K) the same of validation samples; None where not recorded.
        validation_totals: (K,) or (S, K) validation samples; None where not recorded.
        confidence: Of the simultaneous interval, in (0, 1).
        agreement: (K,) as from :func:`~raydrop.frontier.statistics.intervals.image_agreement`.

    Raises:
        ConfigError: If ``confidence`` is not in (0, 1).
        DataError: If shapes do not fit, a count is impossible or every test total is 0.

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
