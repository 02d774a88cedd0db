from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import group_accuracy_by_counting, recall_by_counting
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from raydrop.errors import DataError
from raydrop.frontier import by_class, by_group, class_metrics, group_metrics
from raydrop.metrics import worst_decile

CLASSES = 4
pairs = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40
)

triples = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40
)


def arrays(samples: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.array(samples, dtype=np.int16).T
    return predictions, labels.astype(np.int64)


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_recalls_equal_those_of_sklearn_and_of_counting(samples: list[tuple[int, int]]) -> None:
    predictions, labels = arrays(samples)
    expected = recall_score(
        labels, predictions, labels=range(CLASSES), average=None, zero_division=np.nan
    )
    recalls = by_class(predictions, labels, CLASSES)
    np.testing.assert_array_equal(recalls, expected)
    np.testing.assert_array_equal(recalls, recall_by_counting(predictions, labels, CLASSES))


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_reductions_follow_from_recalls_of_present_classes(samples: list[tuple[int, int]]) -> None:
    predictions, labels = arrays(samples)
    metrics = class_metrics(predictions, labels, CLASSES)
    present = [r for r in recall_by_counting(predictions, labels, CLASSES) if r == r]
    assert metrics.average_accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert metrics.worst_class_accuracy == min(present)
    assert metrics.accuracy_gap == pytest.approx(max(present) - min(present))
    assert metrics.accuracy_std == pytest.approx(float(np.std(present)))
    assert metrics.by_class[metrics.worst_class] == min(present)


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_balanced_accuracy_equals_that_of_sklearn(samples: list[tuple[int, int]]) -> None:
    predictions, labels = arrays(samples)
    with warnings.catch_warnings():
        # Of classes that are predicted and absent, which are left out there too.
        warnings.simplefilter("ignore", UserWarning)
        expected = balanced_accuracy_score(labels, predictions)
    assert class_metrics(predictions, labels, CLASSES).balanced_accuracy == expected


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 1.0, float("nan")]), min_size=1, max_size=45))
def test_the_worst_decile_is_the_mean_of_the_lowest_tenth(recalls: list[float]) -> None:
    present = sorted(recall for recall in recalls if recall == recall)
    count = next((n for n in range(45, 0, -1) if 10 * n <= len(present)), 1)
    found = worst_decile(np.array(recalls))
    if present:
        assert found == pytest.approx(sum(present[:count]) / count)
    else:
        assert np.isnan(found)


def test_the_worst_decile_of_a_hundred_classes_is_that_of_ten() -> None:
    labels = np.repeat(np.arange(100), 100)
    right = np.tile(np.arange(100), 100) < labels
    predictions = np.where(right, labels, (labels + 1) % 100)
    metrics = class_metrics(predictions, labels, 100)
    assert metrics.worst_decile_accuracy == pytest.approx(0.045)
    assert metrics.worst_class_accuracy == 0
    assert metrics.balanced_accuracy == pytest.approx(0.495)


def test_metrics_of_an_unbalanced_example() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    predictions = np.array([0, 0, 0, 0, 0, 1, 1, 0, 2, 2])
    metrics = class_metrics(predictions, labels, 3)
    np.testing.assert_allclose(metrics.by_class, [5 / 6, 1 / 2, 1])
    np.testing.assert_array_equal(metrics.correct, [5, 1, 2])
    np.testing.assert_array_equal(metrics.totals, [6, 2, 2])
    assert metrics.average_accuracy == 0.8
    assert (metrics.worst_class, metrics.worst_class_accuracy) == (1, 0.5)
    assert metrics.accuracy_gap == 0.5
    # The mean of the recalls is not the average accuracy of unbalanced data.
    assert metrics.average_accuracy != pytest.approx(metrics.by_class.mean())
    assert metrics.balanced_accuracy == pytest.approx(metrics.by_class.mean())
    assert metrics.worst_decile_accuracy == 0.5


def test_an_absent_class_is_nan_and_not_the_worst() -> None:
    metrics = class_metrics(np.array([0, 1, 2]), np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(metrics.by_class, [0.5, np.nan, 1.0, np.nan])
    assert (metrics.worst_class, metrics.worst_class_accuracy) == (0, 0.5)
    assert metrics.accuracy_gap == 0.5
    assert metrics.accuracy_std == 0.25
    assert (metrics.worst_decile_accuracy, metrics.balanced_accuracy) == (0.5, 0.75)


def test_ties_for_the_worst_class_go_to_the_lowest_index() -> None:
    assert class_metrics(np.array([0, 0, 0]), np.array([0, 1, 2]), 3).worst_class == 1


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0, 3], [0, 1], r"Expected predictions in 0…2, found 3; check the number of classes\."),
        ([0, -1], [0, 1], r"Expected predictions in 0…2, found -1"),
        ([0, 1], [0, 3], r"Expected labels in 0…2, found 3"),
        ([0, 1], [0, -7], r"Expected labels in 0…2, found -7"),
        ([0.0, 1.0], [0, 1], r"Expected whole numbers for predictions, found float64"),
        ([0, 1, 2], [0, 1], r"found shapes \(3,\) and \(2,\)"),
        ([], [], r"Expected one prediction per test label, found shapes \(0,\)"),
    ],
)
def test_impossible_predictions_are_errors(
    predictions: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        class_metrics(np.array(predictions), np.array(labels), 3)


@settings(deadline=None, max_examples=40)
@given(triples)
def test_accuracies_of_groups_equal_those_of_counting(samples: list[tuple[int, int, int]]) -> None:
    predictions, labels, groups = np.array(samples, dtype=np.int64).T
    expected = group_accuracy_by_counting(predictions, labels, groups, 6)
    np.testing.assert_array_equal(by_group(predictions, labels, groups, 6), expected)
    metrics = group_metrics(predictions, labels, groups, 6)
    present = [value for value in expected if value == value]
    np.testing.assert_array_equal(metrics.by_group, expected)
    assert metrics.average_accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert metrics.worst_group_accuracy == min(present)
    assert metrics.by_group[metrics.worst_group] == min(present)
    assert metrics.accuracy_gap == pytest.approx(max(present) - min(present))
    assert metrics.accuracy_std == pytest.approx(float(np.std(present)))


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_classes_taken_for_groups_have_the_metrics_of_classes(
    samples: list[tuple[int, int]],
) -> None:
    predictions, labels = arrays(samples)
    groups = group_metrics(predictions, labels, labels, CLASSES)
    classes = class_metrics(predictions, labels, CLASSES)
    for one, other in zip(vars(groups).values(), vars(classes).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_worst_group_may_lie_in_the_best_class() -> None:
    # Land birds (0) on land, on water; water birds (1) on land, on water.
    groups = np.repeat([0, 1, 2, 3], [16, 4, 5, 5])
    labels = groups // 2
    predictions = labels.copy()
    predictions[[16, 17, 18]] = 1
    predictions[[20, 21, 25]] = 0
    metrics = group_metrics(predictions, labels, groups, 4)
    np.testing.assert_allclose(metrics.by_group, [1, 0.25, 0.6, 0.8])
    assert (metrics.worst_group, metrics.worst_group_accuracy) == (1, 0.25)
    classes = class_metrics(predictions, labels, 2)
    assert (classes.worst_class, classes.worst_class_accuracy) == (1, 0.7)
    assert metrics.average_accuracy == classes.average_accuracy
    # A group's number is not a class, so agreement with it means nothing.
    wrong = class_metrics(predictions, groups, 4)
    assert wrong.by_class.tolist() != metrics.by_group.tolist()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], r"Expected one group per test label, found shapes \(2,\) and \(3,\); pass the"),
        ([0, 1, 2], r"Expected groups in 0…1, found 2; check the number of groups\."),
        ([0, -1, 1], r"Expected groups in 0…1, found -1"),
        ([0.0, 1.0, 1.0], r"Expected whole numbers for groups, found float64; pass groups\."),
    ],
)
def test_impossible_groups_are_errors(groups: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        group_metrics(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array(groups), 2)
