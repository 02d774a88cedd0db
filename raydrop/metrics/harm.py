"""What pruning does to classes, to groups and to single images, beyond the average.

Everything starts from test results of *dense* networks and of the *pruned* ones that came of them.
Nothing here asks what was pruned: dense may also stand for networks trained on all the data and
pruned for those trained on a part of it. Shapes: ``S`` seeds (or runs), ``U`` classes or groups,
``K`` classes, ``n`` test images. What does not fit together is a ``DataError``.
"""

from __future__ import annotations

import itertools
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import DataError
from raydrop.metrics import Floats, Labels, recalls

Bools = NDArray[np.bool_]


def excess_accuracy_gap(
    by_unit_pruned: ArrayLike, by_unit_dense: ArrayLike, totals: ArrayLike | None = None
) -> Floats:
    """Return by how much the worst unit falls behind the average by pruning, seed by seed.

    With the gap of a network g = average - worst accuracy, it is g(pruned) - g(dense) of the same
    seed; so it is what the worst accuracy loses beyond what the average loses. Above 0, pruning
    costs the worst off more than others, as Hooker et al. (2020, arXiv 2010.03058) and Meyer and
    Wong (2022, arXiv 2211.10285) find. Each network's own worst unit counts. Both of its terms have
    the same bias of a minimum, so pruning that changes nothing but the noise gives 0 on average;
    the largest of :func:`excess_accuracy_gaps`, which is the same where one unit is the worst
    before and after and also loses most, is above 0 then.

    Args:
        by_unit_pruned: (S, U) recalls of classes or accuracies of groups; NaN where a unit has no
            test samples.
        by_unit_dense: (S, U) of the dense networks of the same seeds, in the same order.
        totals: (U,) test samples, by which units weigh in the average; alike where None.

    Returns:
        (S,) in [-1, 1].
    """
    pruned, dense, weights = _paired(by_unit_pruned, by_unit_dense, totals)
    gaps = [_average(each, weights) - np.nanmin(each, axis=1) for each in (pruned, dense)]
    return cast("Floats", gaps[0] - gaps[1])


def excess_accuracy_gaps(
    by_unit_pruned: ArrayLike, by_unit_dense: ArrayLike, totals: ArrayLike | None = None
) -> Floats:
    """Return what every unit loses by pruning beyond what the average loses, seed by seed.

    For unit u with accuracy a_u it is ψ_u = (a_u(dense) - a_u(pruned)) - (a(dense) - a(pruned)), a
    being the average (Hashemizadeh et al., 2023, arXiv 2310.20673); with the opposite sign, it is
    the normalised recall difference of Hooker et al. (2019, arXiv 1911.05248). Weighted as the
    average is, the ψ_u of a seed sum to 0. Arguments are those of :func:`excess_accuracy_gap`.

    Returns:
        (S, U); NaN where a unit has no test samples.
    """
    pruned, dense, weights = _paired(by_unit_pruned, by_unit_dense, totals)
    loss = dense - pruned
    return loss - _average(loss, weights)[:, None]


def modal_label(predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Return the class (n,) that most of S runs (S, n) predict for each image.

    Of classes that equally many runs predict, it is the one with the lowest index. So the order of
    the runs does not matter, and equal counts give equal labels in any two populations; with two
    runs that disagree, though, it is no majority. With one run it is that run's prediction.
    """
    ordered = np.sort(_runs(predictions, num_classes), axis=0)
    modes: NDArray[np.int64] = ordered[0].astype(np.int64)
    most = np.ones_like(modes)
    streak = most.copy()
    for before, now in itertools.pairwise(ordered):
        streak = np.where(now == before, streak + 1, 1)
        modes = np.where(streak > most, now, modes)
        most = np.maximum(streak, most)
    return modes


def pruning_identified_exemplars(dense: ArrayLike, pruned: ArrayLike, num_classes: int) -> Bools:
    """Return which images (n,) pruning changes: those whose modal label it changes.

    An image is a pruning-identified exemplar if the modal label over a population of pruned
    networks differs from that over a population of dense ones (Hooker et al., 2019, arXiv
    1911.05248), rightly or wrongly; ties as in :func:`modal_label`. With a single network on either
    side, what pruning changes and what another seed would have changed are the same thing here.
    Takes the classes that dense (S_d, n) and pruned networks (S_p, n) predict.
    """
    before, after = modal_label(dense, num_classes), modal_label(pruned, num_classes)
    _check_images(len(before), len(after))
    return cast("Bools", before != after)


def share_by_unit(marked: Bools, members: Labels, number: int) -> Floats:
    """Return which share (U,) of every unit's images is marked; NaN for a unit without images."""
    _check_images(len(marked), len(members))
    totals = np.bincount(members, minlength=number)
    return recalls(np.bincount(members[marked], minlength=number), totals)


def accuracy_on_and_off(
    marked: Bools, predictions: ArrayLike, labels: Labels
) -> tuple[float, float]:
    """Return the mean accuracy of runs (S, n) on marked images and on others, NaN without any."""
    hits = np.asarray(predictions) == labels
    _check_images(hits.shape[1], len(marked))
    on, off = (
        float(hits[:, those].mean()) if those.any() else float("nan") for those in (marked, ~marked)
    )
    return on, off


def losses(dense: ArrayLike, pruned: ArrayLike, labels: Labels, num_classes: int) -> Bools:
    """Return which pruned networks lose which images, (S_p, n).

    That is where the modal label of the dense networks (S_d, n) is right, and the pruned one wrong.
    """
    had, after = modal_label(dense, num_classes) == labels, _runs(pruned, num_classes)
    _check_images(len(had), after.shape[1])
    return cast("Bools", had & (after != labels))


def _paired(
    pruned: ArrayLike, dense: ArrayLike, totals: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Return both sides, and the weight of every unit, 0 where it has no test samples."""
    one, other = (np.asarray(each, dtype=np.float64) for each in (pruned, dense))
    if one.shape != other.shape or one.ndim != 2 or not one.size:
        raise DataError(
            "Expected accuracies (n_seeds, U) of the same seeds and units on both sides, found "
            f"shapes {one.shape} and {other.shape}; pair the trials by seed."
        )
    absent = np.isnan(one[0])
    if (np.isnan(one) != absent).any() or (np.isnan(other) != absent).any() or absent.all():
        raise DataError(
            "Expected NaN for the same classes or groups in every row, and a number for at least "
            "one of them, found others; compare trials of one test set."
        )
    weights = np.ones(one.shape[1]) if totals is None else np.asarray(totals, dtype=np.float64)
    if weights.shape != absent.shape:
        raise DataError(
            f"Expected a total for each of {len(absent)} classes or groups, found shape "
            f"{weights.shape}; pass the test samples of each."
        )
    return one, other, np.where(absent, 0.0, weights)


def _average(values: Floats, weights: Floats) -> Floats:
    return cast("Floats", np.nan_to_num(values) @ weights / weights.sum())


def _runs(predictions: ArrayLike, num_classes: int) -> Labels:
    runs: Labels = np.asarray(predictions)
    if runs.ndim != 2 or not runs.size or not np.issubdtype(runs.dtype, np.integer):
        raise DataError(
            f"Expected predicted classes (n_runs, n), found {runs.dtype} of shape {runs.shape}; "
            "pass a row of whole numbers per run."
        )
    if runs.min() < 0 or runs.max() >= num_classes:
        raise DataError(
            f"Expected predicted classes in 0…{num_classes - 1}, found {runs.min()} to "
            f"{runs.max()}; check the number of classes."
        )
    return runs


def _check_images(one: int, other: int) -> None:
    if one != other:
        raise DataError(
            f"Expected the same test images on both sides, found {one} and {other}; compare trials "
            "of one test set."
        )
