from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import pareto_front_by_pairs

from raydrop.errors import DataError
from raydrop.frontier import pareto_front

# Few distinct values, so that ties and duplicates are common.
coordinates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan"), float("-inf")])
planar = st.lists(st.tuples(coordinates, coordinates), max_size=30)
spatial = st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=15)


@settings(deadline=None, max_examples=40)
@given(planar)
def test_two_columns_equal_comparing_all_pairs(points: list[tuple[float, float]]) -> None:
    front = pareto_front(np.reshape(points, (-1, 2)))
    assert front.tolist() == pareto_front_by_pairs(points)


@settings(deadline=None, max_examples=40)
@given(spatial)
def test_three_columns_equal_comparing_all_pairs(points: list[tuple[float, ...]]) -> None:
    front = pareto_front(np.reshape(points, (-1, 3)))
    assert front.tolist() == pareto_front_by_pairs(points)


@settings(deadline=None, max_examples=40)
@given(planar, st.randoms(use_true_random=False))
def test_order_columns_and_scale_do_not_matter(
    points: list[tuple[float, float]], rng: random.Random
) -> None:
    values = np.reshape(points, (-1, 2))
    front = pareto_front(values)
    order = list(range(len(values)))
    rng.shuffle(order)
    assert pareto_front(values[order]).tolist() == front[order].tolist()
    assert pareto_front(values[:, ::-1]).tolist() == front.tolist()
    assert pareto_front(np.exp(3 * values)).tolist() == front.tolist()


def test_duplicates_of_a_front_point_are_all_on_the_front() -> None:
    points = [(1, 2), (2, 1), (1, 2), (1, 1), (2, 1)]
    assert pareto_front(points).tolist() == [True, True, True, False, True]


def test_equal_in_one_column_and_lower_in_the_other_is_dominated() -> None:
    assert pareto_front([(1, 1), (1, 2), (0, 2)]).tolist() == [False, True, False]


def test_nan_neither_is_on_the_front_nor_dominates() -> None:
    assert pareto_front([(np.nan, 9), (9, np.nan), (1, 1)]).tolist() == [False, False, True]
    assert pareto_front([(np.nan, np.nan)]).tolist() == [False]


def test_many_points_do_not_take_quadratic_time() -> None:
    points = np.random.default_rng(0).random((200_000, 2))
    start = time.perf_counter()
    front = pareto_front(points)
    # Comparing all pairs would take 4e10 comparisons.
    assert time.perf_counter() - start < 5
    assert 0 < front.sum() < 100


@pytest.mark.parametrize("points", [[1.0, 2.0], 3.0, np.zeros((2, 0))])
def test_other_shapes_are_errors(points: object) -> None:
    with pytest.raises(DataError, match=r"Expected points of shape \(n, d\), found shape"):
        pareto_front(points)


def test_front_is_optunas() -> None:
    """Optuna is a peer for finite points; it has no word for a missing value."""
    optuna = pytest.importorskip("optuna", reason="optuna is not installed; it comes with [dev]")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng(5)
    for columns in (2, 3):
        values = rng.integers(0, 12, (60, columns)) / 12.0
        study = optuna.create_study(directions=["maximize"] * columns)
        study.add_trials([optuna.trial.create_trial(values=list(point)) for point in values])
        theirs = {trial.number for trial in study.best_trials}
        assert set(np.flatnonzero(pareto_front(values)).tolist()) == theirs
        assert 0 < len(theirs) < len(values)
