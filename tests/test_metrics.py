from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import recall_by_counting
from sklearn.metrics import accuracy_score, recall_score

from raydrop.errors import DataError
from raydrop.frontier import by_class, class_metrics

CLASSES = 4
pairs = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40
)


def arrays(samples: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.array(samples, dtype=np.int16).T
    return predictions, labels.astype(np.int64)


@settings(deadline=None)
@given(pairs)
def test_recalls_equal_those_of_sklearn_and_of_counting(samples: list[tuple[int, int]]) -> None:
    predictions, labels = arrays(samples)
    expected = recall_score(
        labels, predictions, labels=range(CLASSES), average=None, zero_division=np.nan
    )
    recalls = by_class(predictions, labels, CLASSES)
    np.testing.assert_array_equal(recalls, expected)
    np.testing.assert_array_equal(recalls, recall_by_counting(predictions, labels, CLASSES))


@settings(deadline=None)
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


def test_an_absent_class_is_nan_and_not_the_worst() -> None:
    metrics = class_metrics(np.array([0, 1, 2]), np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(metrics.by_class, [0.5, np.nan, 1.0, np.nan])
    assert (metrics.worst_class, metrics.worst_class_accuracy) == (0, 0.5)
    assert metrics.accuracy_gap == 0.5
    assert metrics.accuracy_std == 0.25


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
