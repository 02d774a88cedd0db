"""Random choices: reproducible on any machine, nested, stratified."""

from __future__ import annotations

import numpy as np
import pytest
from reference import members_by_scan, permutation_by_sorting

from raydrop.data.sampling import (
    choose_per_class,
    class_members,
    halves,
    raw_draws,
    shuffled,
    shuffled_members,
)
from raydrop.errors import DataError


def test_draws_never_change() -> None:
    expected = [17426834624969975105, 8528814535082494631]
    assert raw_draws(2, seed=0, purpose="doctest").tolist() == expected


def test_seeds_and_purposes_have_streams_of_their_own() -> None:
    streams = [raw_draws(8, s, p) for s, p in ((0, "a"), (1, "a"), (0, "b"))]
    assert len(np.unique(np.concatenate(streams))) == 24


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_shuffled_orders_positions_by_their_draws(count: int) -> None:
    draws = raw_draws(count, 3, "test").tolist()
    assert shuffled(count, 3, "test").tolist() == permutation_by_sorting(draws)


def test_shuffled_puts_every_position_everywhere_equally_often() -> None:
    orders = np.array([shuffled(4, seed, "test") for seed in range(4000)])
    shares = np.stack([(orders == value).mean(axis=0) for value in range(4)])
    assert np.abs(shares - 0.25).max() < 0.03  # four standard errors


def test_class_members_match_a_scan(rng: np.random.Generator) -> None:
    for _ in range(20):
        labels = rng.integers(0, 5, size=rng.integers(0, 30))
        found = [m.tolist() for m in class_members(labels, 6)]
        assert found == members_by_scan(labels.tolist(), 6)


def test_shuffled_members_only_reorder_each_class(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, size=200)
    plain, mixed = class_members(labels, 3), shuffled_members(labels, 3, 0, "test")
    assert [sorted(m.tolist()) for m in mixed] == [m.tolist() for m in plain]
    assert all(m.tolist() != sorted(m.tolist()) for m in mixed)


def test_smaller_choices_are_nested_in_larger_ones(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 4, size=100)
    few = choose_per_class(labels, np.array([1, 2, 3, 0]), 0, "test")
    many = choose_per_class(labels, np.array([4, 2, 90, 5]), 0, "test")
    assert set(few.tolist()) < set(many.tolist())
    assert np.bincount(labels[few], minlength=4).tolist() == [1, 2, 3, 0]
    assert np.all(np.diff(many) > 0)
    assert np.bincount(labels[many])[2] == np.bincount(labels)[2]


def test_choice_in_a_class_does_not_depend_on_the_other_classes() -> None:
    alone, beside = np.zeros(10, np.int64), np.repeat(np.arange(2), 10)
    counts = np.array([4, 4])
    first = choose_per_class(alone, counts[:1], 0, "test")
    assert choose_per_class(beside, counts, 0, "test")[:4].tolist() == first.tolist()


def test_halves_are_stratified_disjoint_and_complete() -> None:
    labels = np.array([0] * 4 + [1] * 5 + [2] * 2)
    validation, test = halves(np.arange(11), labels, ("a", "b", "c"), "class")
    assert np.bincount(labels[validation]).tolist() == [2, 2, 1]
    assert np.bincount(labels[test]).tolist() == [2, 3, 1]
    assert sorted([*validation, *test]) == list(range(11))


def test_halves_need_two_of_every_class() -> None:
    labels = np.array([0, 0, 1])
    with pytest.raises(DataError, match=r"at least two test images .* found 1 of class 'b'"):
        halves(np.arange(3), labels, ("a", "b"), "class")
