from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import worst_class_interval_by_scipy
from scipy.stats import binomtest

from raydrop.errors import ConfigError, DataError
from raydrop.frontier import worst_class_interval

Counts = NDArray[np.int64]


def same_images(
    rng: np.random.Generator, recalls: NDArray[np.float64], images: int, shared: float
) -> Counts:
    """Draw (n_seeds, K) correct counts from recalls (n_seeds, K) of networks on one test set.

    Each image is decided by its own difficulty in a share of cases, and by chance otherwise.
    """
    seeds, classes = recalls.shape
    difficulty = rng.random((1, classes, images))
    luck = rng.random((seeds, classes, images))
    by_image = rng.random((seeds, classes, images)) < shared
    return (np.where(by_image, difficulty, luck) < recalls[:, :, None]).sum(axis=2)


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def percentile_bootstrap(rng: np.random.Generator, correct: Counts, images: int) -> tuple:
    """The interval that looks natural and is wrong: percentiles of resampled minima."""
    recalls = correct.mean(axis=0) / images
    minima = (rng.binomial(images, recalls, size=(300, len(recalls))) / images).min(axis=1)
    return tuple(np.quantile(minima, [0.025, 0.975]))


@pytest.mark.parametrize("images", [100, 1000])
def test_one_seed_covers_and_the_bootstrap_of_the_minimum_does_not(images: int) -> None:
    rng = np.random.default_rng(0)
    draws = [rng.binomial(images, 0.9, size=(1, 10)) for _ in range(400)]
    totals = np.full(10, images)
    assert covered([worst_class_interval(each, totals) for each in draws], 0.9) >= 0.95
    naive = [percentile_bootstrap(rng, each, images) for each in draws]
    assert covered(naive, 0.9) < 0.5


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.03])
@pytest.mark.parametrize("shared", [0.5, 1.0])
def test_several_seeds_cover(seeds: int, spread: float, shared: float) -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.7, *[0.85] * 9])
    intervals = []
    for _ in range(200):
        recalls = truth + spread * rng.normal(size=(seeds, 10))
        correct = same_images(rng, recalls, 100, shared)
        intervals.append(worst_class_interval(correct, np.full(10, 100)))
    assert covered(intervals, 0.7) >= 0.95


def test_seeds_are_no_further_test_images() -> None:
    rng = np.random.default_rng(2)
    draws = [same_images(rng, np.full((5, 10), 0.9), 100, 1.0) for _ in range(300)]
    pooled = [worst_class_interval([each.sum(axis=0)], np.full(10, 500)) for each in draws]
    assert covered(pooled, 0.9) < 0.8
    ours = [worst_class_interval(each, np.full(10, 100)) for each in draws]
    assert covered(ours, 0.9) >= 0.95


def test_one_class_and_seed_is_clopper_pearson() -> None:
    for correct in (0, 1, 37, 49, 50):
        exact = binomtest(correct, 50).proportion_ci(0.9, method="exact")
        low, high = worst_class_interval([[correct]], [50], confidence=0.9)
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_upper_end_pays_for_every_class_and_lower_end_does_not() -> None:
    exact = binomtest(40, 50).proportion_ci(0.95, method="exact")
    split = binomtest(40, 50).proportion_ci(1 - 0.9 * 0.05 / 4, method="exact")
    low, high = worst_class_interval([[40, 40, 40, 40]], [50] * 4)
    assert (low, high) == pytest.approx((exact.low, split.high))


def test_classes_that_are_clearly_better_cost_nearly_nothing() -> None:
    exact = binomtest(40, 100).proportion_ci(0.95, method="exact")
    alone = binomtest(40, 100).proportion_ci(1 - 0.9 * 0.05, method="exact")
    low, high = worst_class_interval([[40, *[80] * 99]], [100] * 100)
    assert (low, high) == pytest.approx((exact.low, alone.high))
    among_equals = worst_class_interval([[40] * 100], [100] * 100)
    assert among_equals[1] > high + 0.05


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.04, 0.06, 0.08, 0.12])
@pytest.mark.parametrize("seeds", [1, 2])
def test_leaving_out_better_classes_does_not_uncover_the_worst(gap: float, seeds: int) -> None:
    rng = np.random.default_rng(6)
    truth = np.array([0.8, 0.8, *[0.8 + gap] * 18])
    intervals = []
    for _ in range(300):
        recalls = np.broadcast_to(truth, (seeds, 20))
        correct = same_images(rng, recalls, 200, 0.5)
        intervals.append(worst_class_interval(correct, np.full(20, 200)))
    assert covered(intervals, 0.8) >= 0.95


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=1, max_size=4),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_equals_the_slow_twin(correct: list[list[int]], confidence: float) -> None:
    totals = [20, 25, 40]
    expected = worst_class_interval_by_scipy(correct, totals, confidence)
    low, high = worst_class_interval(correct, totals, confidence)
    assert (low, high) == pytest.approx(expected, abs=1e-9)
    assert 0 <= low <= high <= 1


def test_seeds_that_agree_count_as_one() -> None:
    one = worst_class_interval([[18, 12, 20]], [20, 20, 20])
    three = worst_class_interval([[18, 12, 20]] * 3, [20, 20, 20])
    assert three == pytest.approx(one)


def test_a_wider_spread_over_seeds_widens_the_interval() -> None:
    close = worst_class_interval([[79, 90], [80, 90], [81, 90]], [100, 100])
    apart = worst_class_interval([[60, 90], [80, 90], [100, 90]], [100, 100])
    assert apart[0] < close[0]
    assert apart[1] > close[1]


def test_order_of_classes_and_seeds_does_not_matter() -> None:
    correct, totals = np.array([[30, 18, 41], [28, 15, 40]]), np.array([40, 20, 50])
    expected = worst_class_interval(correct, totals)
    order = [2, 0, 1]
    assert worst_class_interval(correct[::-1, order], totals[order]) == pytest.approx(expected)


def test_classes_without_test_images_are_left_out() -> None:
    expected = worst_class_interval([[8, 3], [7, 4]], [10, 5])
    assert worst_class_interval([[8, 0, 3], [7, 0, 4]], [10, 0, 5]) == expected


@pytest.mark.parametrize(
    ("correct", "totals", "message"),
    [
        ([1, 2], [3, 3], r"found \(2,\) and \(2,\); pass a row of counts per seed\."),
        ([[1, 2]], [3], r"found \(1, 2\) and \(1,\)"),
        (np.zeros((0, 2)), [3, 3], r"found \(0, 2\) and \(2,\)"),
        ([[4, 2]], [3, 3], "Expected counts between 0 and the totals"),
        ([[-1, 2]], [3, 3], "Expected counts between 0 and the totals"),
        ([[np.nan, 2]], [3, 3], "Expected counts between 0 and the totals"),
        ([[0, 0]], [0, 0], "Expected a class with test samples, found none"),
    ],
)
def test_impossible_counts_are_errors(correct: object, totals: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        worst_class_interval(correct, totals)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ConfigError, match=rf"Expected confidence in \(0, 1\), found {confidence}"):
        worst_class_interval([[1]], [2], confidence)
