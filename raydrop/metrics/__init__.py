"""Recalls by class, or accuracies by group, first; then what is made of them.

A class's recall is the share of its samples that are predicted to be of it; a group's accuracy is
the share of its samples that are predicted to be of their own class. Classes and groups, here
*units*, without test samples have neither: it is NaN, never 0, and left out of every reduction.
Training and reporting share these definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Metrics:
    """How well one network does on each class or group and over all, U being their number."""

    by_unit: Floats
    """(U,) recalls of classes or accuracies of groups; NaN where one has no test samples."""
    correct: Counts
    """(U,) correctly classified test samples."""
    totals: Counts
    """(U,) test samples."""
    average_accuracy: float
    """Share of correct test samples, so large units count more."""
    worst_accuracy: float
    """Lowest of ``by_unit``."""
    worst: int
    """Where it is, the lowest index on ties."""
    accuracy_gap: float
    """Highest minus lowest of ``by_unit``."""
    accuracy_std: float
    """Standard deviation of ``by_unit``, ddof 0."""
    worst_decile_accuracy: float
    """Mean of the lowest: those of a tenth of the units, rounded down, at least one."""
    balanced_accuracy: float
    """Mean of ``by_unit``, so every unit counts the same."""

    @classmethod
    def of(cls, correct: Counts, totals: Counts) -> Self:
        """Compute every metric from counts (U,)."""
        values = recalls(correct, totals)
        lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
        return cls(
            by_unit=values,
            correct=correct,
            totals=totals,
            average_accuracy=float(correct.sum() / totals.sum()),
            worst_accuracy=lowest,
            worst=int(np.nanargmin(values)),
            accuracy_gap=highest - lowest,
            accuracy_std=float(np.nanstd(values)),
            worst_decile_accuracy=worst_decile(values),
            balanced_accuracy=float(values[~np.isnan(values)].mean()),
        )


class ClassMetrics(Metrics):
    """:class:`Metrics` of classes."""

    by_class = property(lambda self: self.by_unit, doc="(K,) recalls.")
    worst_class_accuracy = property(lambda self: self.worst_accuracy, doc="Lowest recall.")
    worst_class = property(lambda self: self.worst, doc="Class with the lowest recall.")


class GroupMetrics(Metrics):
    """:class:`Metrics` of groups."""

    by_group = property(lambda self: self.by_unit, doc="(G,) accuracies.")
    worst_group_accuracy = property(lambda self: self.worst_accuracy, doc="Lowest accuracy.")
    worst_group = property(lambda self: self.worst, doc="Group with the lowest accuracy.")


def by_class(predictions: Labels, labels: Labels, num_classes: int) -> Floats:
    """Return the recall (K,) of every class, as :func:`class_counts` has it."""
    return recalls(*class_counts(predictions, labels, num_classes))


def by_group(predictions: Labels, labels: Labels, groups: Labels, num_groups: int) -> Floats:
    """Return the accuracy (G,) of every group, as :func:`group_counts` has it."""
    return recalls(*group_counts(predictions, labels, groups, num_groups))


def class_metrics(predictions: Labels, labels: Labels, num_classes: int) -> ClassMetrics:
    """Compute every metric of one network's predictions by class; see :func:`class_counts`."""
    return ClassMetrics.of(*class_counts(predictions, labels, num_classes))


def group_metrics(
    predictions: Labels, labels: Labels, groups: Labels, num_groups: int
) -> GroupMetrics:
    """Compute every metric of one network's predictions by group; see :func:`group_counts`."""
    return GroupMetrics.of(*group_counts(predictions, labels, groups, num_groups))


def class_counts(predictions: Labels, labels: Labels, num_classes: int) -> tuple[Counts, Counts]:
    """Count the correct and all the test samples (K,) of every class, from (n_test,) each.

    What does not fit together, or lies outside 0…K-1, is a ``DataError``.
    """
    predictions, labels = _pair(predictions, labels)
    _check_range("predictions", predictions, num_classes, "classes")
    _check_range("labels", labels, num_classes, "classes")
    return _counts(predictions == labels, labels, num_classes)


def group_counts(
    predictions: Labels, labels: Labels, groups: Labels, num_groups: int
) -> tuple[Counts, Counts]:
    """Count the correct and all the test samples (G,) of every group, from (n_test,) each.

    What does not fit together, or lies outside its range, is a ``DataError``.
    """
    predictions, labels = _pair(predictions, labels)
    groups = _beside(groups, labels, num_groups)
    return _counts(predictions == labels, groups, num_groups)


def auc_by_class(probabilities: NDArray[np.floating[Any]], labels: Labels) -> Floats:
    """Return the area under the ROC curve of every class against the rest.

    With n_k samples of class k and n - n_k others, it is the share of the n_k (n - n_k) pairs of
    one of each in which the sample of the class has the higher probability of it, ties counting one
    half (the Mann-Whitney statistic; Hanley and McNeil, 1982, Radiology 143:29). One column is
    sorted at a time, so the memory beyond the arguments is O(n).

    Args:
        probabilities: (n, K) of each class, or anything that ranks samples as they do, such as
            log-probabilities; finite.
        labels: (n,) true classes.

    Returns:
        (K,) in [0, 1]; NaN for a class that no sample or every sample is of.

    Raises:
        DataError: If shapes differ, a class lies outside 0…K-1, or a probability is no number.
    """
    probabilities, labels = _ranked(probabilities, labels)
    members = np.bincount(labels, minlength=probabilities.shape[1])
    areas = np.full(len(members), np.nan)
    for k in np.flatnonzero((members > 0) & (members < len(labels))).tolist():
        areas[k] = _auc(probabilities[:, k], labels == k)
    return areas


def auc_by_group(
    probabilities: NDArray[np.floating[Any]], labels: Labels, groups: Labels, num_groups: int
) -> Floats:
    """Return the area under the ROC curve within every group, (G,) in [0, 1].

    It is the mean of :func:`auc_by_class` over the classes that occur in the group, each weighing
    the same, among the samples of that group alone. So it tells how well the network ranks a
    group's own samples, and says nothing of a group whose samples are all of one class, as those
    that cross classes with attributes are: it is NaN there.
    """
    probabilities, labels = _ranked(probabilities, labels)
    groups = _beside(groups, labels, num_groups)
    areas = np.full(num_groups, np.nan)
    for group in np.unique(groups).tolist():
        inside = groups == group
        if np.ptp(labels[inside]) > 0:
            areas[group] = np.nanmean(auc_by_class(probabilities[inside], labels[inside]))
    return areas


def recalls(correct: Counts, totals: Counts) -> Floats:
    """Divide counts, (K,) or (n_seeds, K), by totals (K,); NaN where a total is zero."""
    counts = np.asarray(correct, dtype=np.float64)
    totals = np.broadcast_to(np.asarray(totals), counts.shape)
    values = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=values, where=totals > 0)
    return values


def worst_decile(values: Floats) -> float:
    """Return the mean recall of the worst tenth of the classes, or of the worst class alone.

    The conditional value at risk at 10 % (Rockafellar and Uryasev, 2000, Journal of Risk 2:21)
    over classes, each with the same weight and never a part of one: of K classes that have test
    samples it is the mean of the max(1, ⌊K/10⌋) lowest of ``values`` (K,), NaN if none has any.
    """
    present = np.sort(values[~np.isnan(values)])
    return float(present[: max(1, len(present) // 10)].mean()) if len(present) else float("nan")


def _auc(values: NDArray[np.floating[Any]], of_class: NDArray[np.bool_]) -> float:
    """Return the Mann-Whitney statistic over its largest value, from twice the mid-ranks."""
    ascending = np.sort(values)
    own = values[of_class]
    below = np.searchsorted(ascending, own, side="left")
    twice = int((below + np.searchsorted(ascending, own, side="right") + 1).sum())
    members = len(own)
    return (twice - members * (members + 1)) / (2 * members * (len(values) - members))


def _ranked(probabilities: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or probabilities.shape[:1] != labels.shape or not len(labels):
        raise DataError(
            "Expected a row of probabilities per test label, found shapes "
            f"{probabilities.shape} and {labels.shape}; pass (n_test, K) and (n_test,), n_test > 0."
        )
    _check_range("labels", labels, probabilities.shape[1], "classes")
    with np.errstate(invalid="ignore"):
        # Finite only if everything in it is, and needs no memory.
        total = probabilities.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise DataError(
            "Expected finite probabilities, found NaN or infinity; the network probably diverged, "
            "so lower learning_rate."
        )
    return probabilities, labels


def _beside(groups: NDArray[Any], labels: NDArray[Any], num_groups: int) -> NDArray[Any]:
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise DataError(
            f"Expected one group per test label, found shapes {groups.shape} and {labels.shape}; "
            "pass the groups of the same test set."
        )
    _check_range("groups", groups, num_groups, "groups")
    return groups


def _counts(hit: NDArray[np.bool_], members: Labels, number: int) -> tuple[Counts, Counts]:
    correct = np.bincount(members[hit], minlength=number).astype(np.int64)
    return correct, np.bincount(members, minlength=number).astype(np.int64)


def _pair(predictions: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            "Expected one prediction per test label, found shapes "
            f"{predictions.shape} and {labels.shape}; pass two (n_test,) arrays, n_test > 0."
        )
    return predictions, labels


def _check_range(name: str, values: NDArray[Any], number: int, kind: str) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"Expected whole numbers for {name}, found {values.dtype}; pass {kind}.")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= number:
        raise DataError(
            f"Expected {name} in 0…{number - 1}, found {low if low < 0 else high}; "
            f"check the number of {kind}."
        )
