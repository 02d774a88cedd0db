from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import select_by_sorting

from raydrop.errors import ConfigError
from raydrop.selection import QUOTAS, budget_for, drop_quotas, select

properties = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Scores with many ties and infinities, and labels of up to five classes."""
    n = draw(st.integers(1, 30))
    few = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.25, 7.0, math.inf])
    scores = draw(st.lists(few, min_size=n, max_size=n))
    return scores, draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))


@properties
@given(data_sets(), st.data(), st.booleans(), st.integers(0, 3), st.integers(0, 2))
def test_select_equals_sorting_without_quotas(
    samples: tuple[list[float], list[int]],
    data: st.DataObject,
    higher: bool,
    minimum: int,
    tie_seed: int,
) -> None:
    scores, labels = samples
    least = int(np.minimum(np.bincount(labels), minimum).sum())
    budget = data.draw(st.integers(least, len(scores)))
    kept = select(
        scores,
        labels,
        budget,
        higher_is_kept=higher,
        minimum_per_class=minimum,
        tie_seed=tie_seed,
    )
    expected = select_by_sorting(scores, labels, budget, None, higher, minimum, tie_seed)
    assert kept.tolist() == expected
    assert (
        np.bincount(np.array(labels)[kept], minlength=5)
        >= np.minimum(np.bincount(labels, minlength=5), minimum)
    ).all()


@properties
@given(data_sets(), st.data(), st.booleans(), st.integers(0, 2))
def test_select_equals_sorting_with_quotas(
    samples: tuple[list[float], list[int]], data: st.DataObject, higher: bool, tie_seed: int
) -> None:
    scores, labels = samples
    sizes = np.bincount(labels, minlength=5).tolist()
    quotas = [data.draw(st.integers(0, size)) for size in sizes]
    kept = select(scores, labels, sum(quotas), quotas, higher_is_kept=higher, tie_seed=tie_seed)
    expected = select_by_sorting(scores, labels, sum(quotas), quotas, higher, 0, tie_seed)
    assert kept.tolist() == expected
    assert np.bincount(np.array(labels)[kept], minlength=5).tolist() == quotas


def test_select_keeps_the_best_in_ascending_order_of_index() -> None:
    scores, labels = [0.3, 0.9, -0.2, 0.5, math.inf, -math.inf], [0, 0, 0, 1, 1, 1]
    kept = select(scores, labels, 3)
    assert kept.dtype == np.int64
    assert kept.tolist() == [1, 3, 4]
    assert select(scores, labels, 3, higher_is_kept=False).tolist() == [0, 2, 5]
    assert select(scores, labels, 3, [2, 1]).tolist() == [0, 1, 4]
    assert select(scores, labels, 3, [2, 1], higher_is_kept=False).tolist() == [0, 2, 5]
    assert select(scores, labels, 2, minimum_per_class=1).tolist() == [1, 4]
    assert select([5.0, 4.0, 3.0, 2.0], [0, 0, 0, 1], 2, minimum_per_class=1).tolist() == [0, 3]


def test_select_does_not_touch_its_arguments() -> None:
    scores, labels = np.array([0.1, 0.4, 0.2]), np.array([0, 1, 1])
    scores.setflags(write=False)
    labels.setflags(write=False)
    assert select(scores, labels, 1).tolist() == [1]


def test_ties_favour_no_class_of_a_data_set_that_is_sorted_by_class() -> None:
    labels = np.repeat(np.arange(10), 1000)
    kept = np.bincount(labels[select(np.zeros(10_000), labels, 3000)], minlength=10)
    # Hypergeometric: mean 300, standard deviation sqrt(300 * 0.7 * 0.9) = 13.7.
    assert np.abs(kept - 300).max() < 4 * 13.7
    assert kept.std() > 3  # a random draw, not a quota
    within = select(np.zeros(10_000), labels, 3000, [300] * 10) % 1000
    assert abs(within.mean() - 499.5) < 4 * 288.7 / math.sqrt(3000)


def test_ties_depend_on_the_seed_alone() -> None:
    scores, labels = np.zeros(500), np.zeros(500, dtype=int)
    first, again = select(scores, labels, 50), select(scores, labels, 50)
    assert first.tobytes() == again.tobytes()
    assert first.tolist() != select(scores, labels, 50, tie_seed=1).tolist()
    np.testing.assert_array_equal(
        first, np.sort(np.argsort(np.random.default_rng(0).permutation(500))[:50])
    )


@properties
@given(data_sets(), st.integers(0, 2))
def test_a_larger_budget_keeps_a_superset(
    samples: tuple[list[float], list[int]], minimum: int
) -> None:
    scores, labels = samples
    least = int(np.minimum(np.bincount(labels), minimum).sum())
    kept: set[int] = set()
    for budget in range(least, len(scores) + 1):
        more = set(select(scores, labels, budget, minimum_per_class=minimum).tolist())
        assert kept <= more
        assert len(more) == budget
        kept = more


def test_direction_is_a_fact_about_the_score_and_not_about_its_sign() -> None:
    scores = np.random.default_rng(3).normal(size=200)
    labels = np.random.default_rng(4).integers(0, 3, 200)
    high = select(scores, labels, 60)
    np.testing.assert_array_equal(high, select(-scores, labels, 60, higher_is_kept=False))
    low = select(scores, labels, 140, higher_is_kept=False)
    np.testing.assert_array_equal(np.union1d(high, low), np.arange(200))


def test_quota_rules_and_select_fit_together() -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice(4, 1000, p=[0.6, 0.3, 0.08, 0.02])
    sizes, budget = np.bincount(labels), budget_for(1000, 0.2)
    for rule in QUOTAS.values():
        quotas = rule.allocate(sizes, [0.9, 0.8, 0.6, 0.2], budget, 5, [100, 90, 10, 0])
        kept = select(rng.random(1000), labels, budget, quotas, minimum_per_class=5)
        assert kept.size == budget == 200
        counts = np.bincount(labels[kept], minlength=4)
        assert counts.min() >= 5
        if quotas is not None:
            np.testing.assert_array_equal(counts, quotas)


def test_quotas_may_name_classes_without_samples() -> None:
    assert select([1.0, 2.0], [0, 2], 1, [0, 0, 1, 0]).tolist() == [1]
    assert drop_quotas([1, 0, 1], [0.5, 0.5, 0.2], 1).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("n", "keep_fraction", "budget"),
    [
        (10, 0.25, 3),  # 2.5 goes up
        (10, 0.15, 2),
        (50, 0.29, 15),  # 14.5 as written, 14.499999999999998 in binary
        (50_000, 0.3, 15_000),
        (1437, 0.1, 144),
        (10, 1.0, 10),
        (10, 0.001, 1),
        (3, 1e-12, 1),
        (1_281_167, 0.5, 640_584),
    ],
)
def test_budget_rounds_half_up_and_keeps_at_least_one(
    n: int, keep_fraction: float, budget: int
) -> None:
    assert budget_for(n, keep_fraction) == budget
    assert type(budget_for(n, keep_fraction)) is int


def test_budget_for_refuses_what_it_cannot_mean() -> None:
    for fraction in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(ConfigError, match=r"keep_fraction in \(0, 1\], found"):
            budget_for(10, fraction)
    with pytest.raises(ConfigError, match="at least 1 sample, found 0"):
        budget_for(0, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0, math.nan, 2.0, math.nan]}, "NaN for 2 of 4, first at index 1; score"),
        ({"scores": [[1.0, 2.0], [3.0, 4.0]]}, r"one score per sample, .* shape \(2, 2\)"),
        ({"labels": [0, 0, 1]}, r"one label for each of 4 scores, found an array of shape \(3,\)"),
        ({"labels": [0, 0, 1, -1]}, "labels .* found int64 with smallest -1"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, "labels .* found float64"),
        ({"budget": 5}, "budget from 0 to 4, the number of samples, found 5"),
        ({"quotas": [2]}, "a quota for each of 2 classes, found 1"),
        ({"quotas": [1, 2]}, "sum to the budget of 2, found a sum of 3"),
        ({"quotas": [1.0, 1.0]}, "quotas .* whole numbers of at least 0, found float64"),
        ({"quotas": [3, -1]}, "quotas .* whole numbers of at least 0, found -1"),
        ({"quotas": [3, 0], "budget": 3}, "quota from 0 to 2 for class 0, found 3"),
        ({"quotas": [2, 0], "minimum_per_class": 1}, "quota from 1 to 2 for class 1, found 0"),
        ({"quotas": [0, 1, 1]}, "quota from 0 to 0 for class 2, found 1"),
        ({"minimum_per_class": 2}, "at least 4 to keep 2 samples in each of 2 classes .* found 2"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {"scores": [1.0, 2.0, 3.0, 4.0], "labels": [0, 0, 1, 1], "budget": 2, **change}
    with pytest.raises(ConfigError, match=message):
        select(**arguments)
