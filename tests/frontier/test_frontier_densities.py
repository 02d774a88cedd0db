from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, SMALL, TRANSFER
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import correlations_by_definition, densities_by_averaging

from raydrop.frontier import correlation_points, density_points
from raydrop.frontier.records import load_records
from raydrop.frontier.statistics.densities import correlations

CELL = ["name", "keep_fraction"]


def trials_of(kept: list[list[int]], **more: Any) -> pd.DataFrame:
    """Make trials of one point, a seed each, from the samples kept of each class."""
    point = {
        "model": "small_cnn",
        "query_model": "small_cnn",
        "method": "el2n",
        "network_target": "none",
        "quotas": "none",
        "loss": "cross_entropy",
        "keep_fraction": 0.5,
        **more,
    }
    rows = [point | {"seed": seed, "kept_by_class": counts} for seed, counts in enumerate(kept)]
    return pd.DataFrame(rows)


def unpruned(recalls: list[list[float]], loss: str = "cross_entropy") -> pd.DataFrame:
    """Make trials on all the data, a seed each, from the recalls of each class."""
    whole = trials_of([[1] * len(each) for each in recalls], method="none", loss=loss)
    return whole.assign(by_class=recalls, keep_fraction=1.0)


def points_of(points: pd.DataFrame | None) -> pd.DataFrame:
    assert points is not None
    return points


counts = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(20, 40)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=30)
@given(counts)
def test_densities_equal_those_of_exact_averages(rows: list[tuple[int, ...]]) -> None:
    *kept, sizes = (list(column) for column in zip(*rows, strict=True))
    points = points_of(density_points(trials_of(kept), sizes))
    expected = densities_by_averaging(kept, sizes)
    np.testing.assert_allclose(points["density"], [density for density, _ in expected])
    assert points["rank"].tolist() == list(range(1, len(sizes) + 1))
    shares = np.array(kept) / np.array(sizes)
    np.testing.assert_array_equal(points["density_min"], shares.min(axis=0)[points["unit"]])
    np.testing.assert_array_equal(points["density_max"], shares.max(axis=0)[points["unit"]])
    assert set(points["smallest_kept"]) == {min(map(min, kept))}


def test_a_density_divides_by_the_size_of_its_own_class() -> None:
    points = points_of(density_points(trials_of([[90, 30]]), [900, 100]))
    assert points[["unit", "density"]].to_numpy().tolist() == [[1, 0.3], [0, 0.1]]
    # The smaller number of samples is in the denser class.
    assert set(points["smallest_kept"]) == {30}


def test_densities_are_averaged_before_they_are_sorted() -> None:
    points = points_of(density_points(trials_of([[2, 8], [8, 2]]), [10, 10]))
    assert points["density"].tolist() == [0.5, 0.5]
    assert points["density_min"].tolist() == [0.2, 0.2]
    assert set(points["smallest_kept"]) == {2}


def test_a_further_loss_does_not_weigh_its_seed_twice() -> None:
    seeds = trials_of([[2, 8], [4, 6]])
    again = seeds[seeds["seed"] == 0].assign(loss="cdb_w")
    one, two = (density_points(t, [10, 10]) for t in (seeds, pd.concat([seeds, again])))
    pd.testing.assert_frame_equal(points_of(one), points_of(two))
    assert points_of(one)["density"].tolist() == [0.7, pytest.approx(0.3)]


def test_every_series_and_keep_fraction_has_its_own_densities(tmp_path: Path) -> None:
    records = load_records(TRANSFER.write(tmp_path))
    points = points_of(density_points(records.trials, records.class_sizes))
    assert set(points["name"]) == {
        f"{model}: {series}"
        for model, other in (("resnet18", "resnet50"), ("resnet50", "resnet18"))
        for series in ("random + none", "moso + none", f"moso + none from {other}")
    }
    assert (points.groupby(CELL).size() == 4).all()
    uniform = points["name"].str.endswith("random + none")
    np.testing.assert_allclose(points["density"][uniform], points["keep_fraction"][uniform])
    assert not np.allclose(points["density"][~uniform], points["keep_fraction"][~uniform])


def test_nothing_pruned_or_nothing_said_is_none(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    whole = records.trials[records.trials["method"] == "none"]
    silent = records.trials.assign(kept_by_class=None)
    for trials in (whole, silent):
        assert density_points(trials, records.class_sizes) is None
        assert correlation_points(trials, records.class_sizes) is None
    pruned = records.trials[records.trials["method"] != "none"]
    assert density_points(pruned, records.class_sizes) is not None
    assert correlation_points(pruned, records.class_sizes) is None


values = st.integers(0, 6).map(float)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(values, values), min_size=3, max_size=12))
def test_correlations_equal_those_of_the_definition(pairs: list[tuple[float, float]]) -> None:
    x, y = zip(*pairs, strict=True)
    found = correlations(np.array(x), np.array(y))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, correlations_by_definition(x, y), atol=1e-12)


def test_a_curved_but_monotone_relation_is_perfect_for_spearman_alone() -> None:
    pearson, spearman = correlations(np.array([0.1, 0.2, 0.4, 0.8]), np.array([0.9, 0.5, 0.4, 0.1]))
    assert spearman == pytest.approx(-1)
    assert -0.95 < pearson < -0.85


def test_where_correlations_mean_nothing_they_are_none() -> None:
    some = np.array([0.1, 0.5, 0.7])
    for x, y in (
        (np.array([0.3, 0.3 + 1e-16, 0.3 - 1e-16]), some),
        (some, np.full(3, 0.3)),
        (some[:2], some[:2]),
        (some, np.array([np.nan, 0.1, 0.2])),
    ):
        assert np.isnan(correlations(x, y)).all()


def test_accuracies_on_all_the_data_stand_beside_the_densities() -> None:
    pruned = trials_of([[2, 5, 9], [4, 5, 9]])
    full = unpruned([[0.9, 0.7, 0.2], [0.7, 0.7, 0.4]])
    other = unpruned([[0.0, 0.1, 0.5]], loss="cdb_w")
    points = points_of(correlation_points(pd.concat([pruned, other, full]), [10, 10, 10]))
    by_class = points.set_index("unit").sort_index()
    np.testing.assert_allclose(by_class["density"], [0.3, 0.5, 0.9])
    np.testing.assert_allclose(by_class["accuracy"], [0.8, 0.7, 0.3])
    expected = correlations_by_definition([0.3, 0.5, 0.9], [0.8, 0.7, 0.3])
    assert (points["pearson"].iloc[0], points["spearman"].iloc[0]) == pytest.approx(expected)
    # Without cross-entropy another loss will do, and gives another answer.
    points = points_of(correlation_points(pd.concat([pruned, other]), [10, 10, 10]))
    assert points.set_index("unit")["accuracy"].sort_index().tolist() == [0.0, 0.1, 0.5]
    assert points["spearman"].iloc[0] == pytest.approx(1)


def test_a_class_without_test_samples_is_left_out_of_the_correlation() -> None:
    pruned = trials_of([[2, 5, 9, 1]])
    full = unpruned([[0.9, 0.7, 0.2, np.nan]])
    points = points_of(correlation_points(pd.concat([pruned, full]), [10] * 4))
    expected = correlations_by_definition([0.2, 0.5, 0.9], [0.9, 0.7, 0.2])
    assert points["pearson"].iloc[0] == pytest.approx(expected[0])


def test_accuracies_are_those_of_the_model_that_is_trained(tmp_path: Path) -> None:
    records = load_records(TRANSFER.write(tmp_path))
    points = points_of(correlation_points(records.trials, records.class_sizes))
    full = records.trials[records.trials["method"] == "none"]
    for model, rows in points.groupby("model"):
        seeds = np.array(full[full["model"] == model]["by_class"].tolist())
        expected = seeds.mean(axis=0)[rows["unit"]]
        np.testing.assert_allclose(rows["accuracy"], expected)


def test_groups_have_densities_and_accuracies_of_their_own(tmp_path: Path) -> None:
    records = load_records(GROUPED.write(tmp_path))
    points = points_of(correlation_points(records.trials, records.group_sizes, "group"))
    assert (points.groupby(CELL).size() == 8).all()
    kept = {
        (t.method, t.quotas, t.keep_fraction, t.seed): GROUPED.kept_by_group(t)
        for t in GROUPED.trials()
    }
    for row in points.to_dict("records"):
        seeds = [
            kept[row["method"], row["quotas"], row["keep_fraction"], s][row["unit"]]
            for s in GROUPED.seeds
        ]
        assert row["density"] == pytest.approx(np.mean(seeds) / (160, 40)[row["unit"] % 2])
    # Quotas by group keep all of the rare, hard groups; no quotas do not.
    rho = points.drop_duplicates(CELL).set_index(CELL)["spearman"]
    assert rho["random + drop", 0.5] < -0.5
    assert np.isnan(rho["random + none", 0.5])
    silent = dataclasses.replace(records, trials=records.trials.assign(kept_by_group=None))
    assert density_points(silent.trials, records.group_sizes, "group") is None
    assert density_points(silent.trials, records.class_sizes) is not None
