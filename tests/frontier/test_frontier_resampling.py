from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, FakeStudy
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    hypervolume_by_cells,
    image_agreement_by_pairs,
    pareto_front_by_pairs,
    resample_by_images,
)

from raydrop.errors import DataError
from raydrop.frontier import (
    frontier_table,
    load_records,
)
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.fronts import front_probability, front_status, hypervolume
from raydrop.frontier.statistics.intervals import image_agreement
from raydrop.frontier.statistics.resampling import Resamples, joint_resamples, resample

STUDY = FakeStudy(seeds=(0, 1, 2))

coordinates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])


def hits_of(rng: np.random.Generator, trials: int, members: np.ndarray) -> np.ndarray:
    return rng.random((trials, len(members))) < np.linspace(0.9, 0.5, trials)[:, None]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return load_records(STUDY.write(tmp_path_factory.mktemp("study")))


def test_resamples_equal_counting_the_drawn_images() -> None:
    rng = np.random.default_rng(0)
    # Classes in no order, one absent, of different sizes; points with different seeds.
    members = rng.choice([0, 1, 1, 3], 30)
    hits = hits_of(rng, 10, members)
    rows = [[0, 1, 2], [3, 4, 5], [6, 7], [8], [9]]
    seeds = [(0, 1, 2), (0, 1, 2), (0, 2), (5,), (0,)]
    average, worst = joint_resamples(hits, members, [np.array(r) for r in rows], seeds, 7, 20)
    expected = resample_by_images(hits, members.tolist(), rows, seeds, 7, 20)
    np.testing.assert_allclose(average, expected[0], rtol=1e-12)
    np.testing.assert_allclose(worst, expected[1], rtol=1e-6)


def test_draws_are_shared_by_all_points_and_do_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(1)
    members = np.repeat([0, 1], 40)
    hits = hits_of(rng, 6, members)
    rows = [np.array(each) for each in ([0, 1], [2, 3], [4, 5], [0, 1])]
    seeds = [(0, 1)] * 4
    average, worst = joint_resamples(hits, members, rows, seeds, 3, 200)
    np.testing.assert_array_equal(worst[:, 0], worst[:, 3])
    backwards = joint_resamples(hits, members, rows[::-1], seeds, 3, 200)
    np.testing.assert_array_equal(backwards[0], average[:, ::-1])
    np.testing.assert_array_equal(backwards[1], worst[:, ::-1])
    other = joint_resamples(hits, members, rows, seeds, 4, 200)
    assert (other[0] != average).any()
    # A point that has one image more right than another one has so in every resample or equals it.
    better = hits[:2].copy()
    better[:, np.flatnonzero(~better[0])[0]] = True
    both = joint_resamples(np.vstack([hits[:2], better]), members, rows[:2], seeds[:2], 3, 200)
    assert (both[0][:, 1] >= both[0][:, 0]).all()
    assert (both[0][:, 1] > both[0][:, 0]).any()


def test_the_variance_over_seeds_is_that_of_their_mean() -> None:
    # One class of one image: it is always drawn, so all that varies are the seeds.
    for right in ([1, 0], [1, 0, 1], [1, 1, 0, 0, 0]):
        hits = np.array(right, dtype=bool)[:, None]
        rows, seeds = [np.arange(len(right))], [tuple(range(len(right)))]
        average, _ = joint_resamples(hits, np.array([0]), rows, seeds, 0, 40_000)
        expected = np.var(right, ddof=1) / len(right)
        assert average.var() == pytest.approx(expected, rel=0.05)
        assert average.mean() == pytest.approx(np.mean(right), abs=0.01)


def test_the_variance_over_images_is_binomial_and_one_seed_has_no_other() -> None:
    members = np.zeros(50, dtype=int)
    hits = (np.arange(50) < 40)[None]
    average, worst = joint_resamples(hits, members, [np.array([0])], [(9,)], 0, 20_000)
    assert average.var() == pytest.approx(0.8 * 0.2 / 50, rel=0.05)
    np.testing.assert_allclose(worst, average, rtol=1e-6)


def test_a_test_set_too_large_for_exact_counts_is_refused() -> None:
    members = np.zeros(2**23, dtype=int)
    with pytest.raises(DataError, match="Expected fewer than 16777216 test images times seeds"):
        joint_resamples(np.empty((3, 0), bool), members, [np.arange(3)], [(0, 1, 2)], 0, 1)


def test_the_same_study_gives_the_same_resamples(records: Records, tmp_path: Path) -> None:
    again = load_records(STUDY.write(tmp_path))
    one, other = resample(records, draws=50), resample(again, draws=50)
    np.testing.assert_array_equal(one.worst, other.worst)
    np.testing.assert_array_equal(one.average, other.average)
    shuffled = dataclasses.replace(records, trials=records.trials.sample(frac=1, random_state=2))
    np.testing.assert_array_equal(resample(shuffled, draws=50).worst, one.worst)
    renamed = dataclasses.replace(records, provenance={"study_id": "another"})
    assert (resample(renamed, draws=50).worst != one.worst).any()


def test_centred_resamples_lie_about_the_plug_in_estimate(records: Records) -> None:
    found = resample(records, draws=400)
    table = frontier_table(records.trials)
    np.testing.assert_allclose(found.plug_in[:, 1], table["worst_class_accuracy_of_mean"])
    np.testing.assert_allclose(found.plug_in[:, 0], table["average_accuracy"])
    np.testing.assert_allclose(found.centred.mean(axis=0), found.plug_in[:, 1])
    # Resampled minima themselves are lower: that is the bias of the minimum, once more.
    assert found.worst.mean() < found.plug_in[:, 1].mean() - 0.005


def test_probability_of_the_front_is_the_share_of_resamples_on_it(records: Records) -> None:
    found = resample(records, draws=60)
    count = np.zeros(len(found.points))
    for average, worst in zip(found.average, found.centred, strict=True):
        count += pareto_front_by_pairs(list(zip(average, worst, strict=True)))
    probability = front_probability(found)
    np.testing.assert_allclose(probability, count / 60)
    table = frontier_table(records.trials, resamples=found)
    assert table["front_probability"].tolist() == probability.tolist()
    assert table["front_status"].tolist() == front_status(probability).tolist()
    assert {"frontier", "dominated"} & set(table["front_status"])
    assert frontier_table(records.trials)["front_probability"].isna().all()
    assert set(frontier_table(records.trials)["front_status"]) == {""}


def test_fronts_do_not_mix_models_and_follow_the_unit(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, models=("small_cnn", "resnet18"))
    found = resample(load_records(study.write(tmp_path / "models")), draws=40)
    probability = front_probability(found)
    for model, rows in found.points.groupby("model").indices.items():
        alone = dataclasses.replace(
            found,
            points=found.points.iloc[rows],
            average=found.average[:, rows],
            worst=found.worst[:, rows],
            plug_in=found.plug_in[rows],
        )
        np.testing.assert_array_equal(front_probability(alone), probability[rows], str(model))
    grouped = load_records(GROUPED.write(tmp_path / "groups"))
    one, other = (resample(grouped.about(by), 30) for by in ("class", "group"))
    assert (one.worst.mean(axis=0) > other.worst.mean(axis=0)).all()


def made_up(average: list[float], worst: list[float], spread: float, draws: int = 500) -> Resamples:
    """Resamples of points around known places."""
    rng = np.random.default_rng(5)
    plug_in = np.column_stack([average, worst])
    noise = spread * rng.standard_normal((2, draws, len(plug_in)))
    return Resamples(
        pd.DataFrame(
            {"dataset": "d", "model": "m", "network_target": "none"}, index=range(len(plug_in))
        ),
        plug_in[:, 0] + noise[0],
        plug_in[:, 1] + noise[1],
        plug_in,
    )


def test_status_is_sure_only_where_noise_cannot_change_it() -> None:
    places = [0.9, 0.8, 0.5], [0.5, 0.7, 0.3]
    clear = front_status(front_probability(made_up(*places, spread=0.01)))
    assert clear.tolist() == ["frontier", "frontier", "dominated"]
    noisy = front_status(front_probability(made_up(*places, spread=0.3)))
    assert noisy.tolist() == ["ambiguous"] * 3
    edges = front_status([0.95, 0.949, 0.05, 0.051, np.nan, 1.0, 0.0])
    assert edges.tolist() == [
        *("frontier", "ambiguous", "dominated", "ambiguous", "", "frontier", "dominated")
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=8))
def test_hypervolume_equals_that_of_cells(points: list[tuple[float, ...]]) -> None:
    expected = hypervolume_by_cells(points, [0.0, 0.0])
    assert hypervolume(np.reshape(points, (-1, 2))) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4))
def test_agreement_equals_that_of_pairs_of_seeds(hits: list[list[bool]]) -> None:
    members = [0, 0, 0, 0, 2, 2, 2, 3, 3]
    found = image_agreement(np.array(hits), np.array(members), 4)
    assert found == pytest.approx(image_agreement_by_pairs(hits, members, 4), abs=1e-12)


def test_agreement_is_one_where_seeds_agree_and_falls_with_their_number_where_not() -> None:
    rng = np.random.default_rng(0)
    members = np.repeat([0, 1], 5000)
    one = rng.random((1, 10_000)) < 0.8
    np.testing.assert_allclose(image_agreement(one, members, 2), 1)
    np.testing.assert_allclose(image_agreement(np.repeat(one, 4, axis=0), members, 2), 1)
    independent = image_agreement(rng.random((4, 10_000)) < 0.8, members, 2)
    np.testing.assert_allclose(independent, 0.25, atol=0.02)
