"""Recalls by class first, then what is made of them.

Everything starts from the predicted class of every test sample, so any number here can be computed
again from the records. A class (or a group, which is a class by another name) without test samples
has no recall: it is NaN, never 0, and it is left out of every reduction. Training and reporting
share these definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import DataError


@dataclass(frozen=True, eq=False)
class ClassMetrics:
    """How well one network does on each class and over all of them, K being their number."""

    by_class: NDArray[np.float64]
    """(K,) recalls; NaN where a class has no test samples."""
    correct: NDArray[np.int64]
    """(K,) correctly classified test samples."""
    totals: NDArray[np.int64]
    """(K,) test samples."""
    average_accuracy: float
    """Share of correct test samples, so large classes count more."""
    worst_class_accuracy: float
    """Lowest recall."""
    worst_class: int
    """Class with the lowest recall, the lowest index on ties."""
    accuracy_gap: float
    """Highest minus lowest recall."""
    accuracy_std: float
    """Standard deviation of the recalls over classes, ddof 0."""


def by_class(
    predictions: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], num_classes: int
) -> NDArray[np.float64]:
    """Return the recall of every class: its correct test samples over all its test samples.

    Args:
        predictions: (n_test,) predicted classes.
        labels: (n_test,) true classes.
        num_classes: K.

    Returns:
        (K,) recalls in [0, 1]; NaN for a class without test samples.

    Raises:
        DataError: If shapes differ, nothing is there, or a class lies outside 0…K-1.
    """
    correct, totals = class_counts(predictions, labels, num_classes)
    return recalls(correct, totals)


def class_metrics(
    predictions: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], num_classes: int
) -> ClassMetrics:
    """Compute every metric of one network's predictions.

    Args:
        predictions: (n_test,) predicted classes.
        labels: (n_test,) true classes.
        num_classes: K.

    Raises:
        DataError: If shapes differ, nothing is there, or a class lies outside 0…K-1.
    """
    correct, totals = class_counts(predictions, labels, num_classes)
    values = recalls(correct, totals)
    return ClassMetrics(
        by_class=values,
        correct=correct,
        totals=totals,
        average_accuracy=float(correct.sum() / totals.sum()),
        worst_class_accuracy=float(np.nanmin(values)),
        worst_class=int(np.nanargmin(values)),
        accuracy_gap=float(np.nanmax(values) - np.nanmin(values)),
        accuracy_std=float(np.nanstd(values)),
    )


def class_counts(
    predictions: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the correct and all the test samples of every class.

    Returns:
        (K,) correct and (K,) all.

    Raises:
        DataError: If shapes differ, nothing is there, or a class lies outside 0…K-1.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            "Expected one prediction per test label, found shapes "
            f"{predictions.shape} and {labels.shape}; pass two (n_test,) arrays, n_test > 0."
        )
    _check_classes("predictions", predictions, num_classes)
    _check_classes("labels", labels, num_classes)
    hits = labels[predictions == labels]
    correct = np.bincount(hits, minlength=num_classes).astype(np.int64)
    totals = np.bincount(labels, minlength=num_classes).astype(np.int64)
    return correct, totals


def recalls(correct: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide counts, (K,) or (n_seeds, K), by totals (K,); NaN where a total is zero."""
    counts = np.asarray(correct, dtype=np.float64)
    totals = np.broadcast_to(np.asarray(totals), counts.shape)
    values = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=values, where=totals > 0)
    return values


def _check_classes(name: str, values: NDArray[Any], num_classes: int) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"Expected whole numbers for {name}, found {values.dtype}; pass classes.")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"Expected {name} in 0…{num_classes - 1}, found {low if low < 0 else high}; "
            "check the number of classes."
        )
