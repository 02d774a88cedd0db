"""Areas under ROC curves, excess gaps and exemplars: known answers, oracles, and no harm at all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import auc_by_pairs, excess_gaps_by_loops, modal_label_by_counting
from sklearn.metrics import roc_auc_score
from torch import nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import DataError
from raydrop.metrics import auc_by_class, auc_by_group
from raydrop.metrics.harm import (
    accuracy_on_and_off,
    excess_accuracy_gap,
    excess_accuracy_gaps,
    losses,
    modal_label,
    pruning_identified_exemplars,
    share_by_unit,
)
from raydrop.training.evaluate import predict, predictions_and_probabilities

NAN = math.nan


@st.composite
def ranked(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities (n, 4) of few distinct values, so that many tie, and labels."""
    n = draw(st.integers(1, 25))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    cells = draw(st.lists(st.integers(0, 4), min_size=4 * n, max_size=4 * n))
    return (np.array(cells).reshape(n, 4) / 4).astype(np.float32), np.array(labels)


@settings(deadline=None, max_examples=40)
@given(ranked())
def test_areas_by_class_equal_those_of_sklearn_and_of_counting_pairs(
    case: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    probabilities, labels = case
    areas = auc_by_class(probabilities, labels)
    for k, area in enumerate(areas):
        of_class = labels == k
        np.testing.assert_equal(area, auc_by_pairs(probabilities[:, k], of_class))
        if 0 < of_class.sum() < len(labels):
            assert area == pytest.approx(roc_auc_score(of_class, probabilities[:, k]), abs=1e-12)


def test_areas_of_known_rankings() -> None:
    labels = np.array([0, 0, 1, 1])
    right, tied = np.array([0.9, 0.8, 0.2, 0.1]), np.full(4, 0.5)
    probabilities = np.stack([right, -right, tied], axis=1)
    np.testing.assert_array_equal(auc_by_class(probabilities, labels), [1.0, 1.0, NAN])
    wrong = auc_by_class(probabilities[:, [1, 2]], labels)
    np.testing.assert_array_equal(wrong, [0.0, 0.5])


def test_only_the_order_of_probabilities_matters(rng: np.random.Generator) -> None:
    probabilities, labels = rng.random((200, 5)), rng.integers(0, 5, 200)
    areas = auc_by_class(probabilities, labels)
    np.testing.assert_array_equal(auc_by_class(np.log(probabilities), labels), areas)
    shuffled = rng.permutation(200)
    np.testing.assert_array_equal(auc_by_class(probabilities[shuffled], labels[shuffled]), areas)
    assert not np.array_equal(auc_by_class(probabilities[shuffled], labels), areas)


def test_areas_of_many_images_do_not_overflow() -> None:
    n = 120_000  # twice the sum of ranks is beyond 32 bits
    labels = np.arange(n) % 2
    probabilities = np.stack([1.0 - labels, labels], axis=1).astype(np.float32)
    np.testing.assert_array_equal(auc_by_class(probabilities, labels), [1.0, 1.0])


def test_areas_by_group_are_means_over_the_classes_that_occur_there(
    rng: np.random.Generator,
) -> None:
    probabilities, labels = rng.random((90, 4)), rng.integers(0, 3, 90)
    groups = rng.integers(0, 3, 90) * 2  # groups 1, 3 and 5 are empty
    labels[groups == 4] = 1  # one class alone
    labels[groups == 2] = rng.integers(0, 2, (groups == 2).sum())
    areas = auc_by_group(probabilities, labels, groups, 6)
    for group, classes in ((0, (0, 1, 2)), (2, (0, 1))):
        inside = groups == group
        expected = [
            roc_auc_score(labels[inside] == k, probabilities[inside][:, k]) for k in classes
        ]
        assert areas[group] == pytest.approx(np.mean(expected))
    assert np.isnan(areas[[1, 3, 4, 5]]).all()


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), "row of probabilities per test label"),
        (np.zeros((0, 3)), np.zeros(0, int), "n_test > 0"),
        (np.zeros(3), np.zeros(3, int), "row of probabilities"),
        (np.zeros((2, 3)), np.array([0, 3]), "labels in 0…2, found 3"),
        (np.array([[0.5, NAN], [0.5, 0.5]]), np.array([0, 1]), "finite probabilities"),
        (np.array([[np.inf, -np.inf], [0.5, 0.5]]), np.array([0, 1]), "finite probabilities"),
    ],
)
def test_what_has_no_areas_is_refused(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        auc_by_class(probabilities, labels)


def test_groups_of_another_test_set_are_refused() -> None:
    with pytest.raises(DataError, match="one group per test label"):
        auc_by_group(np.zeros((2, 3)), np.array([0, 1]), np.array([0, 1, 0]), 2)


def test_predictions_beside_probabilities_are_those_without(digits: PreparedData) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout())
    split = digits.dataset.test
    batches = make_batches(digits, split, torch.device("cpu"))
    classes, probabilities = predictions_and_probabilities(model, batches, len(split))
    np.testing.assert_array_equal(classes, predict(model, batches, len(split)))
    assert classes.dtype == np.int32
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(split), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), classes)
    assert model.training


accuracies = st.lists(st.integers(0, 10), min_size=15, max_size=15).map(
    lambda cells: np.array(cells).reshape(3, 5) / 10
)


@settings(deadline=None, max_examples=40)
@given(accuracies, accuracies, st.sets(st.integers(0, 4), max_size=4))
def test_excess_gaps_equal_those_of_loops(
    pruned: NDArray[np.float64], dense: NDArray[np.float64], absent: set[int]
) -> None:
    totals = [10, 20, 30, 40, 50]
    pruned[:, list(absent)] = dense[:, list(absent)] = NAN
    gaps, units = excess_gaps_by_loops(pruned, dense, totals)
    np.testing.assert_allclose(excess_accuracy_gap(pruned, dense, totals), gaps, atol=1e-12)
    found = excess_accuracy_gaps(pruned, dense, totals)
    np.testing.assert_allclose(found, units, atol=1e-12)
    np.testing.assert_allclose(np.nansum(found * totals, axis=1), 0, atol=1e-9)


def test_known_excess_gaps() -> None:
    dense = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.9]])
    pruned = np.array([[0.8, 0.7, 0.3], [0.8, 0.8, 0.8]])
    # The average loses .2 and the worst .4; a loss that all have in common is no gap.
    np.testing.assert_allclose(excess_accuracy_gap(pruned, dense), [0.2, 0], atol=1e-12)
    expected = [[-0.1, -0.1, 0.2], [0, 0, 0]]
    np.testing.assert_allclose(excess_accuracy_gaps(pruned, dense), expected, atol=1e-12)
    # With nine tenths of the images in the last class, the average loses nearly as much.
    np.testing.assert_allclose(
        excess_accuracy_gap(pruned, dense, [5, 5, 90])[0], 0.4 - (0.005 + 0.005 + 0.36), atol=1e-12
    )


def test_pruning_nothing_has_no_excess_and_helping_the_worst_a_negative_one() -> None:
    dense = np.array([[0.9, 0.5], [0.8, 0.4]])
    np.testing.assert_array_equal(excess_accuracy_gap(dense, dense), [0, 0])
    np.testing.assert_array_equal(excess_accuracy_gaps(dense, dense), np.zeros((2, 2)))
    assert (excess_accuracy_gap(np.array([[0.9, 0.6], [0.8, 0.5]]), dense) < 0).all()


def test_seeds_are_paired_and_not_averaged_first() -> None:
    dense = np.array([[0.9, 0.5], [0.5, 0.9]])
    swapped = excess_accuracy_gap(dense[::-1], dense)
    np.testing.assert_allclose(swapped, 0, atol=1e-12)  # each seed's own worst unit
    np.testing.assert_allclose(np.abs(excess_accuracy_gaps(dense[::-1], dense)), 0.4, atol=1e-12)


@pytest.mark.parametrize(
    ("pruned", "dense", "totals", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), None, "same seeds and units"),
        (np.zeros((0, 3)), np.zeros((0, 3)), None, "same seeds and units"),
        (np.zeros(3), np.zeros(3), None, "same seeds and units"),
        (np.array([[0.5, NAN]]), np.array([[0.5, 0.5]]), None, "NaN for the same"),
        (np.full((1, 2), NAN), np.full((1, 2), NAN), None, "at least one of them"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1, 2], "a total for each of 3"),
    ],
)
def test_sides_that_do_not_fit_have_no_gap(
    pruned: NDArray[np.float64],
    dense: NDArray[np.float64],
    totals: list[int] | None,
    message: str,
) -> None:
    for function in (excess_accuracy_gap, excess_accuracy_gaps):
        with pytest.raises(DataError, match=message):
            function(pruned, dense, totals)


votes = st.integers(1, 6).flatmap(
    lambda runs: st.lists(
        st.lists(st.integers(0, 3), min_size=runs, max_size=runs), min_size=1, max_size=12
    )
)


@settings(deadline=None, max_examples=40)
@given(votes)
def test_modal_labels_equal_those_of_counting(columns: list[list[int]]) -> None:
    predictions = np.array(columns, dtype=np.int16).T
    expected = modal_label_by_counting(predictions)
    np.testing.assert_array_equal(modal_label(predictions, 4), expected)
    np.testing.assert_array_equal(modal_label(predictions[::-1], 4), expected)


def test_ties_go_to_the_lowest_class_whatever_the_order_of_runs() -> None:
    for order in itertools.permutations((3, 1, 2)):
        assert modal_label(np.array(order)[:, None], 5).tolist() == [1]
    assert modal_label(np.array([[3], [1], [3]]), 5).tolist() == [3]


DENSE = np.array([[0, 1, 2, 0, 1], [0, 1, 2, 0, 2], [0, 2, 2, 1, 1]])
PRUNED = np.array([[0, 2, 2, 1, 0], [0, 2, 1, 1, 0], [1, 1, 2, 1, 1]])
LABELS = np.array([0, 1, 2, 0, 2])


def test_exemplars_with_a_known_answer() -> None:
    # Modal labels: dense 0 1 2 0 1, pruned 0 2 2 1 0.
    marked = pruning_identified_exemplars(DENSE, PRUNED, 3)
    assert marked.tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(share_by_unit(marked, LABELS, 4), [1 / 2, 1, 1 / 2, NAN])
    on, off = accuracy_on_and_off(marked, PRUNED, LABELS)
    assert (on, off) == (pytest.approx(1 / 9), pytest.approx(4 / 6))


def test_pruning_nothing_has_no_exemplars_and_loses_nothing() -> None:
    marked = pruning_identified_exemplars(DENSE, DENSE[::-1], 3)
    assert not marked.any()
    assert math.isnan(accuracy_on_and_off(marked, DENSE, LABELS)[0])
    assert not losses(DENSE[:1], DENSE[:1], LABELS, 3).any()


def test_what_is_lost_was_right_before() -> None:
    # The last image is wrong by the modal label of the dense networks, so it cannot be lost.
    expected = [[0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [1, 0, 0, 1, 0]]
    np.testing.assert_array_equal(losses(DENSE, PRUNED, LABELS, 3), np.array(expected) > 0)


def test_predictions_that_do_not_fit_are_refused() -> None:
    for other in (DENSE[:, :4], np.zeros((2, 6), int)):
        with pytest.raises(DataError, match="the same test images"):
            pruning_identified_exemplars(DENSE, other, 3)
        with pytest.raises(DataError, match="the same test images"):
            losses(DENSE, other, LABELS, 3)
    with pytest.raises(DataError, match="classes in 0…1, found 0 to 2"):
        modal_label(DENSE, 2)
    for other in (np.zeros((0, 3), int), np.zeros(3, int), np.zeros((2, 3))):
        with pytest.raises(DataError, match="a row of whole numbers per run"):
            modal_label(other, 3)
