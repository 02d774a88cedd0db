"""Recalls by class, or accuracies by group, first; then what is made of them.

Everything starts from the predicted class of every test sample, so any number here can be computed
again from the records. A class's recall is the share of its samples that are predicted to be of it;
a group's accuracy is the share of its samples that are predicted to be of their own class, which
need not be the same class throughout the group. A class or group without test samples has neither:
it is NaN, never 0, and it is left out of every reduction. Training and reporting share these
definitions.
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
    worst_decile_accuracy: float
    """Mean of the lowest recalls: those of a tenth of the classes, rounded down, at least one."""
    balanced_accuracy: float
    """Mean recall, so every class counts the same."""


@dataclass(frozen=True, eq=False)
class GroupMetrics:
    """How well one network does on each group and over all of them, G being their number."""

    by_group: NDArray[np.float64]
    """(G,) accuracies; NaN where a group has no test samples."""
    correct: NDArray[np.int64]
    """(G,) correctly classified test samples."""
    totals: NDArray[np.int64]
    """(G,) test samples."""
    average_accuracy: float
    """Share of correct test samples, so large groups count more."""
    worst_group_accuracy: float
    """Lowest accuracy."""
    worst_group: int
    """Group with the lowest accuracy, the lowest index on ties."""
    accuracy_gap: float
    """Highest minus lowest accuracy."""
    accuracy_std: float
    """Standard deviation of the accuracies over groups, ddof 0."""
    worst_decile_accuracy: float
    """Mean of the lowest accuracies: those of a tenth of the groups, rounded down, at least one."""
    balanced_accuracy: float
    """Mean accuracy of the groups, so every group counts the same."""


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
    return ClassMetrics(*_reduced(*class_counts(predictions, labels, num_classes)))


def by_group(
    predictions: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    num_groups: int,
) -> NDArray[np.float64]:
    """Return the accuracy of every group: its correct test samples over all its test samples.

    Args:
        predictions: (n_test,) predicted classes.
        labels: (n_test,) true classes.
        groups: (n_test,) groups.
        num_groups: G.

    Returns:
        (G,) accuracies in [0, 1]; NaN for a group without test samples.

    Raises:
        DataError: If shapes differ, nothing is there, or a group lies outside 0…G-1.
    """
    return recalls(*group_counts(predictions, labels, groups, num_groups))


def group_metrics(
    predictions: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    num_groups: int,
) -> GroupMetrics:
    """Compute every metric of one network's predictions by group.

    Args:
        predictions: (n_test,) predicted classes.
        labels: (n_test,) true classes.
        groups: (n_test,) groups.
        num_groups: G.

    Raises:
        DataError: If shapes differ, nothing is there, or a group lies outside 0…G-1.
    """
    return GroupMetrics(*_reduced(*group_counts(predictions, labels, groups, num_groups)))


def auc_by_class(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
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
        DataError: If shapes differ, nothing is there, a class lies outside 0…K-1, or a probability
            is no number.
    """
    probabilities, labels = _ranked(probabilities, labels)
    members = np.bincount(labels, minlength=probabilities.shape[1])
    areas = np.full(len(members), np.nan)
    for k in np.flatnonzero((members > 0) & (members < len(labels))).tolist():
        areas[k] = _auc(probabilities[:, k], labels == k)
    return areas


def auc_by_group(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    num_groups: int,
) -> NDArray[np.float64]:
    """Return the area under the ROC curve within every group.

    It is the mean of :func:`auc_by_class` over the classes that occur in the group, each weighing
    the same, among the samples of that group alone. So it tells how well the network ranks a
    group's own samples, and says nothing of a group whose samples are all of one class, as those
    that cross classes with attributes are.

    Args:
        probabilities: (n, K) of each class; finite.
        labels: (n,) true classes.
        groups: (n,) groups.
        num_groups: G.

    Returns:
        (G,) in [0, 1]; NaN for a group with samples of fewer than two classes.

    Raises:
        DataError: If shapes differ, nothing is there, a class or group lies outside its range, or a
            probability is no number.
    """
    probabilities, labels = _ranked(probabilities, labels)
    groups = _beside(groups, labels, num_groups)
    areas = np.full(num_groups, np.nan)
    for group in np.unique(groups).tolist():
        inside = groups == group
        if np.ptp(labels[inside]) > 0:
            areas[group] = np.nanmean(auc_by_class(probabilities[inside], labels[inside]))
    return areas


def class_counts(
    predictions: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the correct and all the test samples of every class.

    Returns:
        (K,) correct and (K,) all.

    Raises:
        DataError: If shapes differ, nothing is there, or a class lies outside 0…K-1.
    """
    predictions, labels = _pair(predictions, labels)
    _check_range("predictions", predictions, num_classes, "classes")
    _check_range("labels", labels, num_classes, "classes")
    return _counts(predictions == labels, labels, num_classes)


def group_counts(
    predictions: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    num_groups: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the correct and all the test samples of every group.

    Returns:
        (G,) correct and (G,) all.

    Raises:
        DataError: If shapes differ, nothing is there, or a group lies outside 0…G-1.
    """
    predictions, labels = _pair(predictions, labels)
    groups = _beside(groups, labels, num_groups)
    return _counts(predictions == labels, groups, num_groups)


def recalls(correct: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide counts, (K,) or (n_seeds, K), by totals (K,); NaN where a total is zero."""
    counts = np.asarray(correct, dtype=np.float64)
    totals = np.broadcast_to(np.asarray(totals), counts.shape)
    values = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=values, where=totals > 0)
    return values


def worst_decile(values: NDArray[np.float64]) -> float:
    """Return the mean recall of the worst tenth of the classes, or of the worst class alone.

    The conditional value at risk at 10 % (Rockafellar and Uryasev, 2000, Journal of Risk 2:21)
    over classes, each with the same weight and never a part of one: of K classes that have test
    samples it is the mean of the max(1, ⌊K/10⌋) lowest recalls.

    Args:
        values: (K,) recalls; NaN where a class has no test samples.

    Returns:
        The mean, in [0, 1]; NaN if no class has test samples.
    """
    present = np.sort(values[~np.isnan(values)])
    return float(present[: max(1, len(present) // 10)].mean()) if len(present) else float("nan")


def _reduced(
    correct: NDArray[np.int64], totals: NDArray[np.int64]
) -> tuple[
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.int64],
    float,
    float,
    int,
    float,
    float,
    float,
    float,
]:
    """Return what :class:`ClassMetrics` and :class:`GroupMetrics` hold, in their order."""
    values = recalls(correct, totals)
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    return (
        values,
        correct,
        totals,
        float(correct.sum() / totals.sum()),
        lowest,
        int(np.nanargmin(values)),
        highest - lowest,
        float(np.nanstd(values)),
        worst_decile(values),
        float(values[~np.isnan(values)].mean()),
    )


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
    """Return the groups of the samples that labels are of."""
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise DataError(
            f"Expected one group per test label, found shapes {groups.shape} and {labels.shape}; "
            "pass the groups of the same test set."
        )
    _check_range("groups", groups, num_groups, "groups")
    return groups


def _counts(
    hit: NDArray[np.bool_], members: NDArray[np.integer[Any]], number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count hits and samples by the class or group that each sample is a member of."""
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
