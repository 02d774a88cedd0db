"""Accuracy by class, from predictions: the one definition that training and reporting share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def recalls(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], num_classes: int
) -> NDArray[np.float64]:
    """Return the recall of every class: its samples predicted as it, over its samples.

    Args:
        predictions: Predicted classes (N,).
        labels: True classes (N,), within 0...K-1.
        num_classes: K.

    Returns:
        Recalls (K,); NaN for a class without samples, never 0.
    """
    totals = np.bincount(labels, minlength=num_classes).astype(np.float64)
    correct = np.bincount(labels[predictions == labels], minlength=num_classes)
    found: NDArray[np.float64] = np.full(num_classes, np.nan)
    return np.divide(correct, totals, out=found, where=totals > 0)
