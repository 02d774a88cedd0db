from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import moderated_by_bisection, worst_class_interval_by_scipy
from test_frontier_intervals import covered, same_images

from raydrop.errors import DataError
from raydrop.frontier import worst_class_interval, worst_estimates
from raydrop.frontier.statistics.intervals import image_agreement, moderated


def test_the_three_estimates_of_a_small_example() -> None:
    found = worst_estimates(
        [[8, 6, 9], [8, 8, 9]],
        [10, 10, 10],
        validation_correct=[[4, 5, 3], [4, 5, 3]],
        validation_totals=[5, 5, 5],
    )
    assert (found.plug_in, found.plug_in_class) == (0.7, 1)
    assert (found.on_validation, found.validation_class) == (0.9, 2)
    assert (found.low, found.high) == worst_class_interval([[8, 6, 9], [8, 8, 9]], [10] * 3)


def test_the_plug_in_is_biased_as_stated_and_the_class_of_validation_is_not() -> None:
    rng = np.random.default_rng(0)
    for classes, images, recall, expected in ((10, 1000, 0.9, 0.885), (100, 100, 0.7, 0.582)):
        found = [
            worst_estimates(
                rng.binomial(images, recall, (1, classes)),
                [images] * classes,
                validation_correct=rng.binomial(50, recall, (1, classes)),
                validation_totals=[50] * classes,
            )
            for _ in range(300)
        ]
        assert np.mean([each.plug_in for each in found]) == pytest.approx(expected, abs=0.002)
        unbiased = np.mean([each.on_validation for each in found])
        assert unbiased == pytest.approx(recall, abs=4 * math.sqrt(0.21 / images / 300))


def test_classes_without_test_or_validation_samples_are_left_out() -> None:
    found = worst_estimates(
        [[5, 0, 9]], [10, 0, 10], validation_correct=[[3, 0, 2]], validation_totals=[5, 5, 5]
    )
    assert (found.plug_in_class, found.validation_class) == (0, 2)
    nowhere = worst_estimates(
        [[5, 0]], [10, 0], validation_correct=[[0, 3]], validation_totals=[0, 5]
    )
    assert nowhere.validation_class is None
    assert math.isnan(nowhere.on_validation)


def test_without_validation_counts_there_is_no_such_estimate() -> None:
    found = worst_estimates([[5, 7]], [10, 10])
    assert (found.validation_class, math.isnan(found.on_validation)) == (None, True)
    with pytest.raises(DataError, match=r"Expected validation counts of 2 classes, found shapes"):
        worst_estimates([[5, 7]], [9, 9], validation_correct=[[1]], validation_totals=[2])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_intervals_with_agreement_equal_the_slow_twin(
    correct: list[list[int]], agreement: list[float]
) -> None:
    totals = [20, 25, 40]
    expected = worst_class_interval_by_scipy(correct, totals, 0.95, agreement)
    found = worst_class_interval(correct, totals, agreement=agreement)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.02])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_agreement_narrows_the_interval_and_it_still_covers(spread: float, shared: float) -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.7, *[0.85] * 4])
    members = np.repeat(np.arange(5), 200)
    narrow, wide = [], []
    for _ in range(300):
        recalls = truth + spread * rng.standard_normal((3, 5))
        luck, same = rng.random((3, 5, 200)), rng.random((5, 200))
        by_image = rng.random((3, 5, 200)) < shared
        hits = np.where(by_image, same, luck) < recalls[:, :, None]
        agreement = image_agreement(hits.reshape(3, -1), members, 5)
        counts = hits.sum(axis=2)
        narrow.append(worst_class_interval(counts, [200] * 5, agreement=agreement))
        wide.append(worst_class_interval(counts, [200] * 5))
    assert covered(narrow, 0.7) >= 0.95
    widths = [np.mean([high - low for low, high in ends]) for ends in (narrow, wide)]
    assert widths[0] < 0.95 * widths[1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=12), st.integers(1, 5))
def test_moderated_variances_equal_the_slow_twin(variances: list[float], freedom: int) -> None:
    drawn, degrees = moderated(np.array(variances), freedom)
    expected, of_twin = moderated_by_bisection(variances, freedom)
    assert drawn == pytest.approx(expected, rel=1e-6)
    assert degrees == pytest.approx(of_twin, rel=1e-6)


def test_variances_lend_strength_where_they_are_alike_and_not_where_they_differ() -> None:
    rng = np.random.default_rng(0)
    alike = rng.chisquare(2, 200) / 2
    drawn, freedom = moderated(alike, 2)
    assert freedom > 10
    assert drawn.std() < 0.2 * alike.std()
    assert drawn.mean() == pytest.approx(1, abs=0.25)
    different = alike * np.exp(2 * rng.standard_normal(200))
    drawn, few = moderated(different, 2)
    assert few < 4
    assert drawn.max() > 0.5 * different.max()
    single, own = moderated(np.array([0.3]), 2)
    assert (single.tolist(), own) == ([0.3], 2)
    assert moderated(np.zeros(3), 1)[0].tolist() == [0, 0, 0]


def test_one_seed_needs_no_agreement() -> None:
    assert worst_class_interval([[15, 9]], [20, 20], agreement=[1, 1]) == worst_class_interval(
        [[15, 9]], [20, 20]
    )
    assert same_images(np.random.default_rng(0), np.ones((1, 2)), 3, 0.5).tolist() == [[3, 3]]


@pytest.mark.parametrize("agreement", [[1], [1, 2], [-0.1, 1], [np.nan, 1]])
def test_impossible_agreements_are_errors(agreement: list[float]) -> None:
    with pytest.raises(DataError, match=r"Expected an agreement in \[0, 1\] for each of 2 classes"):
        worst_class_interval([[1, 2]], [3, 3], agreement=agreement)
