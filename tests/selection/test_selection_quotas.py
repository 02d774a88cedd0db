from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    drop_sizes_by_redistribution,
    rounded_by_largest_remainder,
    water_filled_by_bisection,
    water_filled_by_scan,
)

from raydrop.errors import ConfigError
from raydrop.selection import (
    QUOTAS,
    balanced_quotas,
    drop_densities,
    drop_quotas,
    proportional_quotas,
    quota_rule,
    quotas_from_counts,
    smooth_recalls,
)

VALIDATION = 40  # validation samples per class, so that recalls are exact fractions
properties = settings(derandomize=True, deadline=None, max_examples=50)

Case = tuple[list[int], list[Fraction], int]


@st.composite
def cases(draw: st.DrawFn, least_error: int = 0, least_size: int = 0) -> Case:
    """Class sizes, error rates 1 - r as exact fractions, and a budget that fits."""
    sizes = draw(st.lists(st.integers(least_size, 200), min_size=1, max_size=7))
    errors = [Fraction(draw(st.integers(least_error, VALIDATION)), VALIDATION) for _ in sizes]
    return sizes, errors, draw(st.integers(0, sum(sizes)))


def recalls_of(errors: list[Fraction]) -> list[float]:
    return [float(1 - error) for error in errors]


# Fractional sizes from the definition, worked out by hand.
VECTORS = [
    ([0.9, 0.8, 0.5], [100] * 3, 90, [11.25, 22.5, 56.25], [11, 23, 56]),
    ([0.9, 0.8, 0.5], [100] * 3, 240, [140 / 3, 280 / 3, 100], [47, 93, 100]),
    ([0.95, 0.9, 0.85, 0.6, 0.4], [1000] * 5, 4500, [500, *[1000] * 4], [500, *[1000] * 4]),
    ([0.9, 0.6], [900, 100], 500, [400, 100], [400, 100]),
    ([0.95, 0.9, 0.8, 0.6], [4000, 2000, 1000, 500], 1500, [375] * 4, [375] * 4),
]


@pytest.mark.parametrize(("recalls", "sizes", "budget", "filled", "quotas"), VECTORS)
def test_drop_gives_the_exact_vectors(
    recalls: list[float], sizes: list[int], budget: int, filled: list[float], quotas: list[int]
) -> None:
    densities = drop_densities(sizes, recalls, budget)
    np.testing.assert_allclose(densities * sizes, filled, rtol=1e-12)
    result = drop_quotas(sizes, recalls, budget)
    assert result.dtype == np.int64
    assert result.tolist() == quotas


@properties
@given(cases())
def test_drop_equals_the_iterative_redistribution_in_exact_arithmetic(case: Case) -> None:
    sizes, errors, budget = case
    exact = drop_sizes_by_redistribution(sizes, errors, budget)
    densities = drop_densities(sizes, recalls_of(errors), budget)
    for share, size, density in zip(exact, sizes, densities, strict=True):
        assert np.isnan(density) if size == 0 else density == pytest.approx(float(share / size))
    assert drop_quotas(sizes, recalls_of(errors), budget).tolist() == rounded_by_largest_remainder(
        exact, sizes, errors, budget
    )


def test_the_redistribution_rejects_quotas_that_ignore_class_sizes() -> None:
    sizes, errors = [400, 200, 100], [Fraction(1, 20), Fraction(1, 10), Fraction(1, 5)]
    exact = drop_sizes_by_redistribution(sizes, errors, 70)
    assert exact == [Fraction(70, 3)] * 3
    blind = [70 * float(error / sum(errors)) for error in errors]  # sizes in proportion to 1 - r
    assert not np.allclose(blind, [float(share) for share in exact], rtol=0.1)


@properties
@given(cases(least_error=1, least_size=1), st.integers(0, 30))
def test_drop_with_a_minimum_equals_an_exact_scan_of_the_water_level(
    case: Case, minimum: int
) -> None:
    sizes, errors, budget = case
    floors = [min(minimum, size) for size in sizes]
    budget = max(budget, sum(floors))
    rates = [size * error for size, error in zip(sizes, errors, strict=True)]
    exact = water_filled_by_scan(rates, floors, sizes, budget)
    expected = rounded_by_largest_remainder(exact, sizes, errors, budget)
    assert drop_quotas(sizes, recalls_of(errors), budget, minimum).tolist() == expected


@properties
@given(cases(), st.integers(0, 30))
def test_quotas_sum_to_the_budget_and_stay_within_their_bounds(case: Case, minimum: int) -> None:
    sizes, errors, budget = case
    floors = np.minimum(sizes, minimum)
    budget = max(budget, int(floors.sum()))
    counts = [int(size * error) for size, error in zip(sizes, errors, strict=True)]
    for rule in ("proportional", "balanced", "drop", "from_method"):
        quotas = QUOTAS[rule].allocate(sizes, recalls_of(errors), budget, minimum, counts)
        assert quotas is not None
        assert quotas.sum() == budget
        assert (quotas <= sizes).all()
        assert (quotas >= floors).all()


@properties
@given(cases(least_size=1), st.integers(0, 30))
def test_drop_densities_have_the_water_filling_form(case: Case, minimum: int) -> None:
    sizes, errors, budget = case
    floors = np.minimum(sizes, minimum)
    budget = max(budget, int(floors.sum()))
    densities = drop_densities(sizes, recalls_of(errors), budget, minimum)
    slopes = np.array([float(error) for error in errors])
    assert densities @ sizes == pytest.approx(budget)
    free = (densities < 1 - 1e-9) & (densities * sizes > floors + 1e-9) & (slopes > 0)
    if free.any():
        level = densities[free] / slopes[free]
        np.testing.assert_allclose(level, level[0], rtol=1e-9)
        full = densities > 1 - 1e-12
        assert (level[0] * slopes[full & (floors < sizes)] >= 1 - 1e-9).all()
        low = (densities * sizes <= floors) & ~full
        assert (level[0] * slopes[low] * np.array(sizes)[low] <= floors[low] + 1e-9).all()


@properties
@given(
    st.integers(1, 200),
    st.lists(st.integers(0, VALIDATION), min_size=2, max_size=7, unique=True),
    st.integers(0, 10),
    st.data(),
)
def test_drop_is_monotone_in_the_error_for_classes_of_equal_size(
    size: int, wrong: list[int], minimum: int, data: st.DataObject
) -> None:
    least = len(wrong) * min(minimum, size)
    budget = data.draw(st.integers(least, size * len(wrong)))
    errors = sorted(Fraction(count, VALIDATION) for count in wrong)
    quotas = drop_quotas([size] * len(wrong), recalls_of(errors), budget, minimum)
    assert (np.diff(quotas) >= 0).all()


@properties
@given(cases(), st.randoms(use_true_random=False))
def test_drop_does_not_depend_on_the_order_of_classes(case: Case, random: Random) -> None:
    sizes, errors, budget = case
    classes = list(dict.fromkeys(zip(sizes, errors, strict=True)))  # identical classes tie
    budget = min(budget, sum(size for size, _ in classes))
    shuffled = random.sample(classes, len(classes))

    def by_class(pairs: list[tuple[int, Fraction]]) -> dict[tuple[int, Fraction], int]:
        quotas = drop_quotas([s for s, _ in pairs], recalls_of([e for _, e in pairs]), budget)
        return dict(zip(pairs, quotas.tolist(), strict=True))

    assert by_class(shuffled) == by_class(classes)


@properties
@given(cases(), st.randoms(use_true_random=False))
def test_no_rule_depends_on_the_order_of_classes(case: Case, random: Random) -> None:
    sizes, errors, budget = case
    counts = [int(size * error) for size, error in zip(sizes, errors, strict=True)]
    order = random.sample(range(len(sizes)), len(sizes))
    for rule in ("proportional", "balanced", "from_method"):

        def keyed(chosen: Sequence[int], rule: str = rule) -> list[tuple[int, int, int]]:
            """What a rule reads of each class, with its quota: classes alike may swap theirs."""
            own = [sizes[k] for k in chosen]
            read = [counts[k] if rule == "from_method" else 0 for k in chosen]
            quotas = QUOTAS[rule].allocate(own, None, budget, 0, read)
            assert quotas is not None
            return sorted(zip(own, read, quotas.tolist(), strict=True))

        assert keyed(order) == keyed(range(len(sizes)))


def random_cases(count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Sizes, errors, minima and budgets: long tails, perfect classes, tiny and full budgets."""
    classes = 8
    sizes = np.rint(10 ** rng.uniform(0, 4, (count, classes))).astype(np.int64)
    errors = rng.integers(0, 51, (count, classes)) / 50
    minima = rng.integers(0, 20, count) * rng.integers(0, 2, count)
    least = np.minimum(sizes, minima[:, None]).sum(axis=1)
    budgets = least + np.rint(rng.random(count) * (sizes.sum(axis=1) - least)).astype(np.int64)
    return sizes, errors, minima, budgets


def test_drop_equals_an_independent_water_filling_on_two_thousand_cases() -> None:
    sizes, errors, minima, budgets = random_cases(2_000, np.random.default_rng(7))
    floors = np.minimum(sizes, minima[:, None])
    # Perfect classes are the limit of tiny errors, and stay out of the way of the next smallest.
    rates = sizes * np.maximum(errors, 1e-13)
    expected = water_filled_by_bisection(rates, floors, sizes, budgets)
    found = np.empty_like(expected)
    for row, (size, error, minimum, budget) in enumerate(
        zip(sizes, errors, minima, budgets, strict=True)
    ):
        found[row] = size * drop_densities(size, 1 - error, budget, minimum)
        whole = drop_quotas(size, 1 - error, budget, minimum)
        assert whole.sum() == budget
        assert (np.abs(whole - found[row]) < 1).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # What ignores class sizes, as published code does, is found out in nearly every case.
    blind = water_filled_by_bisection(np.maximum(errors, 1e-13), floors, sizes, budgets)
    assert (np.abs(blind - expected).max(axis=1) > 1e-3).mean() > 0.9


@properties
@given(cases(least_size=1), st.integers(0, 30), st.data())
def test_quotas_from_counts_are_the_counts_where_no_floor_binds(
    case: Case, minimum: int, data: st.DataObject
) -> None:
    sizes, _, _ = case
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    budget = sum(counts)
    assert quotas_from_counts(sizes, counts, budget).tolist() == counts
    floors = [min(minimum, size) for size in sizes]
    if sum(floors) > budget or not all(counts):
        return
    exact = water_filled_by_scan([Fraction(c) for c in counts], floors, sizes, budget)
    flat = [Fraction(0)] * len(sizes)
    expected = rounded_by_largest_remainder(exact, sizes, flat, budget)
    assert quotas_from_counts(sizes, counts, budget, minimum).tolist() == expected


def test_quotas_from_counts_at_their_edges() -> None:
    assert quotas_from_counts([50, 50, 50], [30, 20, 0], 50).tolist() == [30, 20, 0]
    assert quotas_from_counts([50, 50, 50], [30, 20, 0], 50, minimum=5).tolist() == [27, 18, 5]
    assert quotas_from_counts([50, 50, 5], [48, 2, 0], 50, minimum=10).tolist() == [35, 10, 5]
    assert quotas_from_counts([50, 50, 0], [1, 3, 0], 40).tolist() == [10, 30, 0]
    assert quotas_from_counts([10, 40, 20], [10, 0, 0], 40).tolist() == [10, 20, 10]
    with pytest.raises(ConfigError, match=r"counts from 0 to the size of each class, found counts"):
        quotas_from_counts([5, 5], [6, 0], 6)
    with pytest.raises(ConfigError, match=r"for sizes \[5, 5\]; count samples of the same data"):
        quotas_from_counts([5, 5], [1, 1, 1], 3)


@properties
@given(cases(), st.sampled_from([Fraction(1, 2), Fraction(1, 5), Fraction(1, 1000)]))
def test_drop_does_not_change_when_all_errors_are_scaled(case: Case, factor: Fraction) -> None:
    sizes, errors, budget = case
    scaled = [factor * error for error in errors]
    np.testing.assert_array_equal(
        drop_quotas(sizes, recalls_of(scaled), budget),
        drop_quotas(sizes, recalls_of(errors), budget),
    )


@properties
@given(cases(), st.integers(0, VALIDATION))
def test_drop_with_equal_recalls_is_proportional(case: Case, wrong: int) -> None:
    sizes, _, budget = case
    recalls = recalls_of([Fraction(wrong, VALIDATION)] * len(sizes))
    np.testing.assert_array_equal(
        drop_quotas(sizes, recalls, budget), proportional_quotas(sizes, budget)
    )


def test_perfect_classes_share_the_rest_in_proportion_to_their_sizes() -> None:
    assert drop_quotas([300, 100, 50], [1.0, 1.0, 1.0], 90).tolist() == [60, 20, 10]
    assert drop_quotas([300, 100, 50], [1.0, 1.0, 0.5], 40).tolist() == [0, 0, 40]
    assert drop_quotas([300, 100, 50], [1.0, 1.0, 0.5], 90).tolist() == [30, 10, 50]


@properties
@given(cases(least_size=1), st.integers(0, 30))
def test_perfect_classes_are_the_limit_of_tiny_errors(case: Case, minimum: int) -> None:
    sizes, errors, budget = case
    budget = max(budget, int(np.minimum(sizes, minimum).sum()))
    almost = [max(float(error), 1e-12) for error in errors]
    np.testing.assert_allclose(
        drop_densities(sizes, recalls_of(errors), budget, minimum),
        drop_densities(sizes, [1 - error for error in almost], budget, minimum),
        atol=1e-6,
    )


def test_a_minimum_is_a_floor_and_not_added_on_top() -> None:
    assert drop_quotas([300, 100, 50], [1.0, 1.0, 0.5], 40, minimum=10).tolist() == [10, 10, 20]
    # The third class is full; the 52 others go 3 : 1 and leave both floors behind.
    assert drop_quotas([300, 100, 50], [1.0, 1.0, 0.5], 102, minimum=10).tolist() == [39, 13, 50]
    assert drop_quotas([100, 100, 5], [0.9, 0.1, 1.0], 100, minimum=10).tolist() == [10, 85, 5]
    assert proportional_quotas([90, 9, 1], 50, minimum=8).tolist() == [41, 8, 1]


def test_equal_fractions_go_to_the_larger_class_then_the_lower_recall() -> None:
    assert proportional_quotas([10, 30], 2).tolist() == [0, 2]  # 0.5 and 1.5
    assert proportional_quotas([30, 10], 2).tolist() == [2, 0]
    assert drop_quotas([20, 10], [0.8, 0.6], 5).tolist() == [3, 2]  # 2.5 each
    assert drop_quotas([10, 20], [0.6, 0.8], 5).tolist() == [2, 3]
    # 0.5 and 2.5 of equal sizes: the worse class gets the sample, in either order.
    assert drop_quotas([10, 10], [0.9, 0.5], 3).tolist() == [0, 3]
    assert drop_quotas([10, 10], [0.5, 0.9], 3).tolist() == [3, 0]


def test_balanced_keeps_small_classes_whole_and_shares_their_excess() -> None:
    assert balanced_quotas([100, 100, 100], 90).tolist() == [30, 30, 30]
    assert balanced_quotas([100, 10, 100, 0], 90).tolist() == [40, 10, 40, 0]
    assert balanced_quotas([100, 40, 5], 100).tolist() == [55, 40, 5]
    assert balanced_quotas([50, 70, 60], 100).tolist() == [33, 34, 33]


def test_the_ends_of_the_budget_keep_nothing_and_everything() -> None:
    sizes, recalls = [7, 0, 100], [1.0, 0.3, 0.999]
    for rule in ("proportional", "balanced", "drop"):
        assert QUOTAS[rule].allocate(sizes, recalls, 0, 0).tolist() == [0, 0, 0]
        assert QUOTAS[rule].allocate(sizes, recalls, 107, 0).tolist() == sizes


def test_error_rates_of_very_different_size_lose_nothing() -> None:
    tiny = np.nextafter(1.0, 0.0)  # 1 - r of about 1e-16
    assert drop_quotas([10, 10**9, 10**9], [0.0, tiny, tiny], 1010).tolist() == [10, 500, 500]
    sizes = np.full(1000, 1300)
    recalls = 1 - np.logspace(-15, 0, 1000)
    densities = drop_densities(sizes, recalls, 650_000)
    assert densities @ sizes == pytest.approx(650_000, rel=1e-12)
    assert drop_quotas(sizes, recalls, 650_000).sum() == 650_000


def test_densities_of_an_absent_class_are_nan() -> None:
    np.testing.assert_array_equal(drop_densities([10, 0], [0.5, 0.5], 5), [0.5, np.nan])


def test_smoothing_is_the_mean_of_the_beta_posterior() -> None:
    right, totals = np.array([0, 3, 40, 25]), np.array([10, 4, 40, 50])
    added = [(c + 2) / (n + 4) for c, n in zip(right, totals, strict=True)]
    np.testing.assert_allclose(smooth_recalls(right / totals, totals, 2), added, rtol=1e-14)
    np.testing.assert_allclose(smooth_recalls(right / totals, totals, 0), right / totals)
    assert drop_quotas([100, 100], smooth_recalls([1.0, 0.5], [23, 10], 1), 54).tolist() == [4, 50]


def test_the_registry_says_what_each_rule_needs() -> None:
    assert list(QUOTAS) == ["none", "proportional", "balanced", "drop", "from_method"]
    assert [name for name, rule in QUOTAS.items() if rule.needs_recalls] == ["drop"]
    assert QUOTAS["none"].allocate([5, 5], None, 3, 0) is None
    assert QUOTAS["balanced"].allocate([5, 5], None, 4, 0).tolist() == [2, 2]
    for rule in QUOTAS.values():
        assert rule.summary
        assert rule.citation
        assert "\n" not in rule.summary + rule.citation
    assert quota_rule("drop") is QUOTAS["drop"]
    with pytest.raises(ConfigError, match="Unknown quotas 'dropp': did you mean drop"):
        quota_rule("dropp")
    assert quota_rule("from_method:el2n").method == "el2n"
    assert [rule.method for rule in QUOTAS.values()] == [None] * 5
    with pytest.raises(ConfigError, match="Unknown quotas 'from_methd:el2n': did you mean from_m"):
        quota_rule("from_methd:el2n")
    for text in ("from_method", "from_method:", "drop:el2n"):
        with pytest.raises(ConfigError, match=f"found '{text}'; a method follows from_method:"):
            quota_rule(text)
    with pytest.raises(ConfigError, match="counts of the samples that a method keeps of each"):
        QUOTAS["from_method"].allocate([5, 5], None, 4, 0)
    with pytest.raises(ConfigError, match="one validation recall for each of 2 classes, found no"):
        QUOTAS["drop"].allocate([5, 5], None, 4, 0)


@pytest.mark.parametrize(
    ("sizes", "recalls", "budget", "minimum", "message"),
    [
        ([5, 5], [0.5, np.nan], 4, 0, r"recalls in \[0, 1\], found nan for class 1 \(1 of 2"),
        ([5, 5], [-0.1, 1.5], 4, 0, r"found -0.1 for class 0 \(2 of 2 classes\)"),
        ([5, 5], [0.5], 4, 0, r"each of 2 classes, found shape \(1,\)"),
        ([5, 5], [0.5, 0.5], 11, 0, "budget from 0 to 10, the number of samples, found 11"),
        ([5, 5], [0.5, 0.5], -1, 0, "found -1"),
        ([5, 5], [0.5, 0.5], 2.5, 0, "whole budget from 0 to 10, .* found 2.5"),
        ([5, 5], [0.5, 0.5], True, 0, "found True"),
        ([5, 2], [0.5, 0.5], 4, 3, "at least 5 to keep 3 samples in each of 2 .* found 4; lower"),
        ([5, 5], [0.5, 0.5], 4, -1, "minimum per class of at least 0, found -1"),
        ([5, -5], [0.5, 0.5], 0, 0, "class_sizes .* whole numbers of at least 0, found -5"),
        ([5.0, 5.5], [0.5, 0.5], 4, 0, r"class_sizes .* found float64 of shape \(2,\)"),
        ([[5, 5]], [0.5, 0.5], 4, 0, r"class_sizes .* found int64 of shape \(1, 2\)"),
    ],
)
def test_what_does_not_fit_is_named_with_its_numbers(
    sizes: list[int], recalls: list[float], budget: int, minimum: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        drop_quotas(sizes, recalls, budget, minimum)
    with pytest.raises(ConfigError, match=message):
        drop_densities(sizes, recalls, budget, minimum)
