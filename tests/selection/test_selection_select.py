from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import select_by_sorting

from raydrop.errors import ConfigError
from raydrop.selection import (
    QUOTAS,
    balanced_quotas,
    best_first,
    budget_for,
    drop_quotas,
    proportional_quotas,
    quotas_from_counts,
    select,
    smooth_recalls,
)

properties = settings(derandomize=True, deadline=None, max_examples=50)


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
        ({"labels": [0.0, 0.0, 1.0, 1.5]}, "labels .* found float64"),
        ({"budget": 5}, "budget from 0 to 4, the number of samples, found 5"),
        ({"quotas": [2]}, "a quota for each of 2 classes, found 1"),
        ({"quotas": [1, 2]}, "sum to the budget of 2, found a sum of 3"),
        ({"quotas": [1.5, 0.5]}, "quotas .* whole numbers of at least 0, found float64"),
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


# Whatever numbers and texts come in.

SCORES, LABELS, QUOTAS_OF_LABELS = [0.3, 0.9, -0.2, 0.5, 0.7, 0.1], [0, 0, 1, 1, 2, 2], [1, 2, 1]
FORMS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "bytes": lambda v: np.array(v, np.uint8),
    "unsigned": lambda v: np.array(v, np.uint64),
    "floats": lambda v: np.array(v, np.float32),
    "objects": lambda v: np.array(v, object),
    "big-endian": lambda v: np.array(v, ">i4"),
    "every other": lambda v: np.repeat(v, 2)[::2],
    "numbers of NumPy": lambda v: [np.int16(each) for each in v],
    "tensor": torch.tensor,
    "tensor of bytes": lambda v: torch.tensor(v, dtype=torch.uint8),
    "series": pd.Series,
    "series with an index": lambda v: pd.Series(v, index=range(len(v))),
    "nullable series": lambda v: pd.Series(v, dtype="Int64"),
    "numbers of Arrow": lambda v: pd.Series(v, dtype="int64[pyarrow]"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_and_quotas_may_be_any_numbers(form: str) -> None:
    of = FORMS[form]
    expected = select(SCORES, LABELS, 4, QUOTAS_OF_LABELS)
    assert select(SCORES, of(LABELS), 4, of(QUOTAS_OF_LABELS)).tolist() == expected.tolist()
    assert select(SCORES, of(LABELS), 4).tolist() == select(SCORES, LABELS, 4).tolist()
    sizes = of([10, 20, 30])
    for quotas, wanted in (
        (drop_quotas(sizes, [0.5, 0.5, 0.25], 12), drop_quotas([10, 20, 30], [0.5, 0.5, 0.25], 12)),
        (balanced_quotas(sizes, 12), [4, 4, 4]),
        (proportional_quotas(sizes, 12), [2, 4, 6]),
        (quotas_from_counts(sizes, of([2, 4, 6]), 12), [2, 4, 6]),
    ):
        assert quotas.tolist() == list(wanted)


@pytest.mark.parametrize(
    "of",
    [torch.tensor, pd.Series, lambda v: np.array(v, np.float16), lambda v: np.array(v, object)],
)
def test_scores_and_recalls_may_be_any_numbers(of: Callable[[Any], Any]) -> None:
    scores, recalls = [0.25, 1.0, -0.5, 0.75], [0.5, 0.75]
    assert select(of(scores), [0, 0, 1, 1], 2).tolist() == [1, 3]
    assert best_first(of(scores)).tolist() == best_first(np.array(scores)).tolist()
    assert drop_quotas([8, 8], of(recalls), 6).tolist() == [4, 2]
    assert smooth_recalls(of(recalls), of([2, 4]), 1).tolist() == [0.5, 4 / 6]


def test_unsigned_scores_are_ordered_as_numbers() -> None:
    scores = np.array([3, 0, 255, 7], np.uint8)
    assert best_first(scores).tolist() == [2, 3, 0, 1]
    assert select(scores, [0] * 4, 2).tolist() == [2, 3]
    assert select(scores, [0] * 4, 2, higher_is_kept=False).tolist() == [0, 1]
    assert select(np.array([True, False]), [0, 0], 1).tolist() == [0]


def test_labels_of_yes_and_no_are_one_and_zero() -> None:
    yes = np.array([False, False, True, True])
    assert select([1.0, 2.0, 3.0, 4.0], yes, 3, [1, 2]).tolist() == [1, 2, 3]


TEXTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "array": np.array,
    "objects": lambda v: np.array(v, object),
    "series": pd.Series,
    "categories": lambda v: pd.Series(v, dtype="category"),
    "bytes": lambda v: np.array([each.encode() for each in v]),
}


@pytest.mark.parametrize("form", TEXTS)
def test_labels_may_be_texts(form: str) -> None:
    """Their order is that of their names."""
    labels = TEXTS[form](["cat", "cat", "dog", "dog", "owl", "owl"])
    kept = select(SCORES, labels, 4, QUOTAS_OF_LABELS)
    assert kept.tolist() == select(SCORES, LABELS, 4, QUOTAS_OF_LABELS).tolist()
    for minimum in (0, 1, 2):
        kept = select(SCORES, labels, 6, minimum_per_class=minimum)
        assert kept.tolist() == select(SCORES, LABELS, 6, minimum_per_class=minimum).tolist()
    assert select(SCORES, labels, 3, minimum_per_class=1).tolist() == [1, 3, 4]


def test_texts_that_are_numbers_are_in_the_order_of_numbers_and_apart() -> None:
    labels = ["10", "10", "2", "2", "01", "1"]
    kept = select([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], labels, 4, [0, 1, 2, 1])
    assert kept.tolist() == [1, 2, 3, 5]  # of 01, 1, 2 and 10
    assert select([1.0, 2.0], ["a", "A"], 1, [0, 1]).tolist() == [0]  # A, a


def test_texts_have_a_quota_each_and_in_their_order() -> None:
    with pytest.raises(ConfigError, match="a quota for each of 3 classes, found 4"):
        select(SCORES, list("aabbcc"), 4, [1, 2, 1, 0])
    named = pd.Series({"a": 1, "b": 2, "c": 1})
    assert select(SCORES, list("aabbcc"), 4, named).tolist() == [1, 2, 3, 4]
    for wrong in (named[["b", "a", "c"]], named.rename({"a": "x"})):
        with pytest.raises(ConfigError, match=r"quotas in the order of the classes, found"):
            select(SCORES, list("aabbcc"), 4, wrong)


def test_series_whose_index_has_another_order_are_refused() -> None:
    """As ``value_counts`` gives them, the most frequent first."""
    counts = pd.Series([2, 2, 1, 1, 1, 0]).value_counts()
    assert counts.index.tolist() == [1, 2, 0]
    with pytest.raises(ConfigError, match=r"class_sizes in the order of the classes, found"):
        balanced_quotas(counts, 3)
    with pytest.raises(ConfigError, match=r"recalls in the order of the classes, found"):
        drop_quotas([3, 3, 3], counts / 4, 3)
    assert balanced_quotas(counts.sort_index(), 3).tolist() == [1, 1, 1]


def test_labels_far_apart_take_no_memory() -> None:
    labels = np.array([0, 10**13, 10**13, 7])
    assert select([1.0, 2.0, 3.0, 4.0], labels, 3, minimum_per_class=1).tolist() == [0, 2, 3]
    with pytest.raises(ConfigError, match="a quota for each of 10000000000001 classes, found 2"):
        select([1.0, 2.0, 3.0, 4.0], labels, 2, [1, 1])


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, math.nan],
        [0, 0, 1, math.inf],
        [0, 0, 1, -1],
        [0, 0, 1, None],
        [0, 0, 1, "a"],
        [0, 0, 1, 10**30],
        [0, 0, 1, 1j],
        ["a", "b", None, "a"],
        ["a", "b", math.nan, "a"],
        [[0], [0], [1], [1]],
        [[0], [0, 1], [1], [1]],
        [["a"], ["b"], ["a"], ["b"]],
        np.array([0, 0, 1, 1], "M8[s]"),
        np.array([0, 0, 1, 2**63], np.uint64),
        pd.Series([0, 0, 1, None], dtype="Int64"),
        torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True),
        torch.tensor([0, 0, 1, 1], device="meta"),
        3,
        {"a": 0},
    ],
)
def test_labels_that_number_no_classes_are_one_sentence(labels: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Expected ") as caught:
        select([1.0, 2.0, 3.0, 4.0], labels, 2)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "scores", [["a", "b"], [1.0, None], [1.0, [2.0]], [1j, 2.0], {"a": 1}, np.array(["1", "2"])]
)
def test_scores_that_are_no_numbers_are_one_sentence(scores: Any) -> None:
    for call in (lambda: select(scores, [0, 0], 1), lambda: best_first(scores)):
        with pytest.raises(ConfigError, match=r"^Expected .*scores?") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recalls", [["a", "b"], [None, 0.5], [[0.5], 0.5], [0.5j, 0.5], 0.5])
def test_recalls_that_are_no_numbers_are_one_sentence(recalls: Any) -> None:
    for call in (
        lambda: drop_quotas([5, 5], recalls, 3),
        lambda: smooth_recalls(recalls, [3, 3], 1),
    ):
        with pytest.raises(ConfigError, match=r"^Expected .*recall"):
            call()


@pytest.mark.parametrize(
    ("totals", "pseudocount"),
    [([3], 1), ([3, -1], 1), ([3, 3], -1), ([3, 3], math.nan)],
)
def test_recalls_cannot_be_smoothed_by_what_is_no_count(totals: Any, pseudocount: float) -> None:
    with pytest.raises(ConfigError, match=r"^Expected "):
        smooth_recalls([0.5, 0.5], totals, pseudocount)


def test_a_recall_of_no_samples_is_left_as_it_is_without_smoothing() -> None:
    assert smooth_recalls([0.5, 0.25], [3, 0], 0).tolist() == [0.5, 0.25]
    assert smooth_recalls([0.5, 0.25], [3, 0], 1).tolist() == [0.5, 0.5]


def test_budgets_and_fractions_may_be_numbers_of_any_library() -> None:
    for budget in (np.int16(2), torch.tensor(2), np.array(2)):
        assert select([1.0, 2.0, 3.0], [0, 0, 1], budget).tolist() == [1, 2]
    for wrong in (2.0, "2", None, True, np.bool_(True), torch.tensor(2.0), torch.tensor([1, 1])):
        with pytest.raises(ConfigError, match="a whole budget"):
            select([1.0, 2.0, 3.0], [0, 0, 1], wrong)
    assert budget_for(50, np.float32(0.29)) == 15  # as it is written
    assert budget_for(np.int64(50), torch.tensor(0.5)) == 25
