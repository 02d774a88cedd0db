from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import holm_by_steps, worst_difference_by_loops
from scipy import stats

import raydrop.frontier.statistics.contrasts
from raydrop.errors import ConfigError, DataError
from raydrop.frontier import load_records
from raydrop.frontier.points import ALL, RANDOM
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.comparisons import COLUMNS, ERROR, FAMILY, comparisons, holm
from raydrop.frontier.statistics.contrasts import contrasts, interval, p_value, seeds_needed
from raydrop.frontier.statistics.intervals import image_agreement, worst_class_interval
from raydrop.store.files import csv_text

STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return load_records(STUDY.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def table(records: Records) -> pd.DataFrame:
    return comparisons(records)


def paired_hits(
    rng: np.random.Generator, recalls: list[np.ndarray], images: int, seeds: int, spread: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw hits (S, n_test) of points with recalls (K,), half of the images deciding for all."""
    classes = len(recalls[0])
    members = np.repeat(np.arange(classes), images)
    same, found = rng.random(classes * images), []
    for each in recalls:
        noisy = each + spread * rng.standard_normal((seeds, classes))
        luck = rng.random((seeds, classes * images))
        by_image = rng.random(luck.shape) < 0.5
        found.append(np.where(by_image, same, luck) < noisy[:, members])
    return found, members


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.5, 0.95, 0.999]))
def test_intervals_equal_looping_over_pairs_of_classes(
    seed: int, seeds: int, confidence: float
) -> None:
    rng = np.random.default_rng(seed)
    members = np.sort(rng.choice([0, 2, 3], 25))
    one, other = rng.random((2, seeds, 25)) < rng.random((2, 1, 25))
    found = interval(contrasts(one, other, members), confidence)
    # Four fifths of the error for contrasts of classes, a fifth for the points' own intervals.
    error = 1 - confidence
    expected = worst_difference_by_loops(one, other, members.tolist(), 1 - 0.8 * error)
    kinds, places = np.unique(members, return_inverse=True)
    totals = np.bincount(places)
    (low_a, high_a), (low_b, high_b) = (
        worst_class_interval(
            [np.bincount(places, row, len(kinds)) for row in hits],
            totals,
            1 - 0.2 * error / 2,
            agreement=image_agreement(hits, places, len(kinds)),
        )
        for hits in (one, other)
    )
    worst = [(np.bincount(places, h.mean(axis=0)) / totals).min() for h in (one, other)]
    plug_in = worst[0] - worst[1]
    expected = (
        min(plug_in, max(expected[0], low_a - high_b)),
        max(plug_in, min(expected[1], high_a - low_b)),
    )
    # Quantiles are interpolated between 2,049 of them.
    assert found == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_p_value_is_the_level_at_which_the_interval_meets_zero(seed: int, seeds: int) -> None:
    rng = np.random.default_rng(seed)
    members = np.repeat([0, 1, 2], 60)
    shift = np.array([0.9, 0.4])[:, None, None]
    found = contrasts(*(rng.random((2, seeds, 180)) < shift), members)
    p = p_value(found)
    if 1e-9 < p < 0.9:
        wide, narrow = interval(found, 1 - p * 0.98), interval(found, 1 - p * 1.02)
        assert wide[0] <= 0 <= wide[1]
        assert narrow[0] > 0 or narrow[1] < 0


def test_swapping_the_sides_mirrors_everything() -> None:
    rng = np.random.default_rng(4)
    (one, other), members = paired_hits(rng, [np.array([0.9, 0.6]), np.array([0.7, 0.8])], 50, 3, 0)
    there, back = contrasts(one, other, members), contrasts(other, one, members)
    low, high = interval(there)
    assert interval(back) == pytest.approx((-high, -low))
    assert p_value(back) == pytest.approx(p_value(there))
    assert back.plug_in == pytest.approx(-there.plug_in)


def test_a_single_class_and_seed_is_the_adjusted_paired_interval() -> None:
    # Bonett and Price: 20 images only the first has right, 8 only the other, of 100.
    one, other = np.zeros((2, 1, 100), dtype=bool)
    one[0, :20], other[0, 20:28] = True, True
    found = contrasts(one, other, np.zeros(100, dtype=int))
    p12, p21 = 21 / 102, 9 / 102
    width = stats.norm.ppf(0.975) * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / 102)
    assert interval(found) == pytest.approx((p12 - p21 - width, p12 - p21 + width), abs=1e-6)


def test_points_that_are_the_same_do_not_differ_but_may() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((2, 60)) < 0.7
    found = contrasts(hits, hits, np.repeat([0, 1], 30))
    low, high = interval(found)
    assert found.plug_in == 0
    assert p_value(found) == 1
    assert low < -0.03 < 0.03 < high


def test_pairing_makes_the_interval_narrow() -> None:
    rng = np.random.default_rng(1)
    members = np.repeat([0, 1], 200)
    difficulty, recalls = rng.random((1, 400)), np.array([0.6, 0.9])[members]
    one, other = difficulty < recalls + 0.02, difficulty < recalls
    paired = interval(contrasts(one, other, members))
    shuffled = np.concatenate([rng.permutation(each) for each in np.split(other[0], 2)])[None]
    unpaired = interval(contrasts(one, shuffled, members))
    assert paired[1] - paired[0] < 0.5 * (unpaired[1] - unpaired[0])


@pytest.mark.parametrize(
    ("one", "other", "images", "seeds"),
    [
        ([0.7, *[0.9] * 9], [0.7, *[0.9] * 9], 100, 3),
        ([0.75, *[0.9] * 9], [0.9, 0.7, *[0.9] * 8], 100, 2),
        ([0.8] * 10, [0.8] * 10, 100, 3),
        ([0.85] * 3, [0.7, 0.9, 0.9], 36, 2),
    ],
)
def test_intervals_of_differences_cover(
    one: list[float], other: list[float], images: int, seeds: int
) -> None:
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(200):
        sides = [np.array(one), np.array(other)]
        hits, members = paired_hits(rng, sides, images, seeds, 0.02)
        low, high = interval(contrasts(*hits, members))
        covered.append(low <= min(one) - min(other) <= high)
    assert np.mean(covered) >= 0.94


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(9)
    sides = [np.array([0.8, *[0.9] * 9]), np.array([0.6, *[0.9] * 9])]
    hits, members = paired_hits(rng, sides, 300, 3, 0.01)
    found = contrasts(*hits, members)
    low, high = interval(found)
    assert 0 < low < 0.2 < high < 0.35
    assert p_value(found) < 1e-3


def test_an_unsteady_point_is_not_below_nothing() -> None:
    # Its classes change places between seeds, the other's do not: at worst it loses all of that.
    rng = np.random.default_rng(5)
    (steady,), members = paired_hits(rng, [np.array([0.2, *[0.6] * 4])], 250, 3, 0.01)
    (unsteady,), _ = paired_hits(rng, [np.full(5, 0.5)], 250, 3, 0.3)
    low, high = interval(contrasts(unsteady, steady, members))
    by_classes = worst_difference_by_loops(unsteady, steady, members.tolist(), 0.95)
    assert by_classes[0] < -0.4
    assert -0.3 < low < -0.2 < 0.2 < high <= by_classes[1] + 0.05


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.04, 0.3, 1.0]), min_size=1, max_size=8))
def test_holm_rejects_what_the_procedure_rejects(p_values: list[float]) -> None:
    adjusted, levels = holm(np.array(p_values), 0.05)
    assert (adjusted <= 0.05).tolist() == holm_by_steps(p_values, 0.05)
    # Testing each at its own level gives the same.
    assert (np.array(p_values) <= levels).tolist() == holm_by_steps(p_values, 0.05)
    assert (adjusted >= p_values).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_quantiles_of_many_classes_are_interpolated_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    hits, members = paired_hits(rng, [np.full(70, 0.9), np.full(70, 0.8)], 10, 2, 0.05)
    found = contrasts(*hits, members)
    close = interval(found)
    monkeypatch.setattr(raydrop.frontier.statistics.contrasts, "_MANY", 70**2)
    assert interval(found) == pytest.approx(close, abs=1e-5)


def test_more_seeds_are_needed_for_smaller_differences() -> None:
    rng = np.random.default_rng(2)
    needed = []
    for gain in (0.2, 0.1, 0.05):
        sides = [np.array([0.6 + gain, 0.95]), np.array([0.6, 0.95])]
        hits, members = paired_hits(rng, sides, 20_000, 20, 0.05)
        needed.append(seeds_needed(contrasts(*hits, members), 0.05))
    assert 2 <= needed[0] < needed[1] < needed[2]
    # No number of seeds mends 20 test images; and one seed does not tell how seeds differ.
    hits, members = paired_hits(rng, [np.array([0.62, 0.95]), np.array([0.6, 0.95])], 20, 3, 0.05)
    assert np.isnan(seeds_needed(contrasts(*hits, members), 0.05))
    assert np.isnan(seeds_needed(contrasts(*(each[:1] for each in hits), members), 0.05))


def test_seeds_that_are_needed_would_tell() -> None:
    rng = np.random.default_rng(3)
    sides = [np.array([0.67, 0.9, 0.95, 0.95]), np.array([0.6, 0.9, 0.95, 0.95])]
    needed = [
        seeds_needed(contrasts(*hits, members), 0.05)
        for hits, members in (paired_hits(rng, sides, 2000, 15, 0.05) for _ in range(20))
    ]
    middle = int(np.median(needed))
    told = []
    for _ in range(60):
        hits, members = paired_hits(rng, sides, 2000, middle, 0.05)
        told.append(p_value(contrasts(*hits, members)) <= 0.05)
    assert 0.6 <= np.mean(told) <= 0.97


def test_rows_are_all_points_against_both_references(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    # Per loss: 8 points at two keep fractions, 2 of them random + none, and all the data.
    assert len(table) == 2 * 2 * (6 + 8)
    assert table.groupby("reference").size().to_dict() == {ALL: 32, RANDOM: 24}
    assert set(table["n_seeds"]) == {3}
    against_random = table[table["reference"] == RANDOM]
    assert not ((against_random["method"] == "random") & (against_random["quotas"] == "none")).any()
    assert (table["method"] != "none").all()
    low_high = table["low"].le(table["difference"]) & table["difference"].le(table["high"])
    assert low_high.all()


def test_differences_are_those_of_the_trials(table: pd.DataFrame, records: Records) -> None:
    trials = records.trials
    point = {"method": "el2n", "quotas": "drop", "loss": "cdb_w", "keep_fraction": 0.2}

    def seeds(**identity: object) -> pd.DataFrame:
        return trials[np.logical_and.reduce([trials[k] == v for k, v in identity.items()])]

    ours = seeds(**point)
    for name, other in (
        (RANDOM, seeds(**point | {"method": "random", "quotas": "none"})),
        (ALL, seeds(method="none", loss="cdb_w")),
    ):
        rows = table[np.logical_and.reduce([table[k] == v for k, v in point.items()])]
        rows = rows[rows["reference"] == name].set_index("measure")["difference"]
        average = ours["average_accuracy"].mean() - other["average_accuracy"].mean()
        assert rows["average"] == pytest.approx(average)
        worst = [np.array(each["by_class"].tolist()).mean(axis=0).min() for each in (ours, other)]
        assert rows["worst"] == pytest.approx(worst[0] - worst[1])


def test_verdicts_follow_from_holm_within_a_family_and_agree_with_intervals(
    table: pd.DataFrame,
) -> None:
    for _, rows in table.groupby(FAMILY):
        rejected = holm_by_steps(rows["p_value"].tolist(), ERROR)
        assert (rows["verdict"] != "cannot tell").tolist() == rejected
    better, worse = table["low"] > 0, table["high"] < 0
    expected = np.where(better, "better", np.where(worse, "worse", "cannot tell"))
    assert table["verdict"].tolist() == expected.tolist()
    assert {"worse", "cannot tell"} <= set(table["verdict"])
    told = table["verdict"] != "cannot tell"
    assert (table["seeds_needed"][told] == 3).all()
    assert (table["p_adjusted"] >= table["p_value"]).all()


def test_with_one_seed_nothing_is_told_of_others(tmp_path: Path) -> None:
    study = FakeStudy(seeds=(4,), test_per_class=200)
    found = comparisons(load_records(study.write(tmp_path)))
    assert set(found["verdict"]) == {"cannot tell"}
    assert found[["p_value", "p_adjusted", "seeds_needed"]].isna().all(axis=None)
    # Test-sampling noise alone would have told some of these two networks apart.
    assert ((found["low"] > 0) | (found["high"] < 0)).any()


def test_only_common_seeds_count_and_missing_references_are_left_out(tmp_path: Path) -> None:
    study = FakeStudy(methods=("random",), keeps=(0.2,), seeds=(0, 1, 2))
    skip = [t for t in study.trials() if (t.method, t.seed) == ("none", 1)]
    skip += [t for t in study.trials() if (t.method, t.quotas) == ("random", "none")]
    found = comparisons(load_records(study.write(tmp_path, skip=skip)))
    assert found["reference"].tolist() == [ALL, ALL]
    assert found["n_seeds"].tolist() == [2, 2]
    alone = FakeStudy(unpruned=False, methods=("el2n",)).write(tmp_path / "alone")
    nothing = comparisons(load_records(alone))
    assert tuple(nothing.columns) == COLUMNS
    assert nothing.empty
    assert csv_text(nothing) == ",".join(COLUMNS) + "\n"


def test_models_are_compared_with_themselves_and_groups_by_group(tmp_path: Path) -> None:
    found = comparisons(load_records(TRANSFER.write(tmp_path / "models")))
    moso = found[(found["method"] == "moso") & (found["measure"] == "average")]
    # Two models with two query models at two keep fractions, against two references.
    assert len(moso) == 16
    assert moso.groupby(["model", "query_model", "reference"]).size().eq(2).all()
    grouped = load_records(GROUPED.write(tmp_path / "groups"))
    one, other = (comparisons(grouped.about(by)) for by in ("class", "group"))
    average = one["measure"] == "average"
    pd.testing.assert_frame_equal(one[average], other[average])
    assert (one["difference"] != other["difference"])[~average].any()


def test_the_same_records_give_the_same_comparisons(records: Records, table: pd.DataFrame) -> None:
    shuffled = dataclasses.replace(records, trials=records.trials.sample(frac=1, random_state=1))
    assert csv_text(comparisons(shuffled)) == csv_text(table)


def test_other_test_sets_and_confidences_are_errors() -> None:
    hits = np.ones((2, 5), dtype=bool)
    with pytest.raises(DataError, match=r"Expected the same seeds and test images on both sides"):
        contrasts(hits, hits[:, :4], np.zeros(5, dtype=int))
    found = contrasts(hits, hits, np.zeros(5, dtype=int))
    with pytest.raises(ConfigError, match=r"Expected confidence in \(0, 1\), found 95"):
        interval(found, 95)
