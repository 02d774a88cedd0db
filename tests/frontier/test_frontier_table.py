from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, FakeStudy
from reference import pareto_front_by_pairs

from raydrop.frontier import frontier_table, worst_class_interval
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.report.sentences import answers, verdict, verdicts
from raydrop.frontier.table import (
    COLUMNS,
    GROUP_COLUMNS,
    as_filed,
    by_merit,
    mean_recalls,
    table_of,
)
from raydrop.store.files import csv_text

STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return load_records(STUDY.write(tmp_path_factory.mktemp("study"))).trials


def hand_made(**by_point: list[list[int]]) -> pd.DataFrame:
    """Make trials from correct counts, (n_seeds, K) of 10 test samples each, by point.

    A point is called METHOD_QUOTAS_KEEP or METHOD_QUOTAS_KEEP_MODEL_QUERYMODEL, the keep fraction
    in percent.
    """
    rows = []
    for point, seeds in by_point.items():
        method, quotas, percent, *models = point.split("_")
        model, query_model = models or ("small", "small")
        for seed, correct in enumerate(seeds):
            recalls = np.array(correct) / 10
            rows.append(
                {
                    "dataset": "digits",
                    "model": model,
                    "query_model": query_model,
                    "method": method,
                    "quotas": quotas,
                    "loss": "cross_entropy",
                    "network_method": "none",
                    "network_target": "none",
                    "network_sparsity": 0.0,
                    "budget": "equal_epochs",
                    "keep_fraction": int(percent) / 100,
                    "seed": seed,
                    "n_kept": int(percent),
                    "average_accuracy": recalls.mean(),
                    "worst_class_accuracy": recalls.min(),
                    "worst_class": int(recalls.argmin()),
                    "accuracy_gap": np.ptp(recalls),
                    "accuracy_std": recalls.std(),
                    "correct_by_class": correct,
                    "test_by_class": [10] * len(correct),
                    "n_noisy": None,
                    "noisy_pruned": np.nan,
                }
            )
    return pd.DataFrame(rows)


def test_minimum_of_the_mean_is_not_the_mean_of_the_minima() -> None:
    point = frontier_table(hand_made(random_none_20=[[4, 8, 9], [8, 6, 9]])).iloc[0]
    assert point["worst_class_accuracy"] == pytest.approx(0.5)
    assert (point["worst_class_accuracy_min"], point["worst_class_accuracy_max"]) == (0.4, 0.6)
    assert point["worst_class_accuracy_of_mean"] == pytest.approx(0.6)
    assert point["worst_class"] == 0
    assert point["average_accuracy"] == pytest.approx((21 + 23) / 60)
    assert point["accuracy_gap"] == pytest.approx((0.5 + 0.3) / 2)
    assert point["n_seeds"] == 2
    low, high = worst_class_interval([[4, 8, 9], [8, 6, 9]], [10, 10, 10])
    assert (point["worst_class_low"], point["worst_class_high"]) == (low, high)


def test_columns_and_rows_are_in_a_fixed_order(trials: pd.DataFrame) -> None:
    table = frontier_table(trials, STUDY.class_names)
    assert tuple(as_filed(table).columns) == COLUMNS
    key = ["method", "quotas", "loss", "keep_fraction"]
    rows = [tuple(row) for row in table[key].to_numpy()]
    assert rows == sorted({(t.method, t.quotas, t.loss, t.keep_fraction) for t in STUDY.trials()})
    assert set(table["worst_class"]) <= set(STUDY.class_names)
    assert (table["n_seeds"] == 3).all()


def test_fronts_are_those_of_all_pairs(trials: pd.DataFrame) -> None:
    table = frontier_table(trials)
    objectives = ["average_accuracy", "worst_class_accuracy"]
    assert table["on_front"].tolist() == pareto_front_by_pairs(table[objectives].to_numpy())
    for _, rows in table.groupby("keep_fraction"):
        expected = pareto_front_by_pairs(rows[objectives].to_numpy())
        assert rows["on_front_at_keep_fraction"].tolist() == expected
    # The two fronts differ, or the second one would not be needed.
    assert table["on_front_at_keep_fraction"].sum() > table["on_front"].sum()


def test_csv_does_not_depend_on_row_order_or_timings(trials: pd.DataFrame) -> None:
    shuffled = trials.sample(frac=1, random_state=3)
    shuffled = shuffled.assign(train_seconds=9.0, seconds=9.0, device="cuda")
    exact = {"check_exact": True}
    pd.testing.assert_frame_equal(frontier_table(shuffled), frontier_table(trials), **exact)
    text = csv_text(as_filed(frontier_table(trials, STUDY.class_names)))
    assert csv_text(as_filed(frontier_table(shuffled, STUDY.class_names))) == text
    assert "\r" not in text
    assert text.startswith(
        ",".join(COLUMNS) + "\ndigits,small_cnn,small_cnn,el2n,drop,cdb_w,none,none,0.000000,"
    )
    changed = trials.assign(average_accuracy=trials["average_accuracy"] + 1e-3)
    assert csv_text(as_filed(frontier_table(changed, STUDY.class_names))) != text


def test_mean_recalls_share_the_rows_of_the_table(trials: pd.DataFrame) -> None:
    table = frontier_table(trials)
    recalls = mean_recalls(trials.sample(frac=1, random_state=5))
    np.testing.assert_allclose(recalls.min(axis=1), table["worst_class_accuracy_of_mean"])
    np.testing.assert_array_equal(recalls.argmin(axis=1), table["worst_class"])


def test_an_absent_class_leaves_every_number_finite(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class WithoutOwls(FakeStudy):
        def labels(self) -> np.ndarray:
            return np.repeat([0, 1, 3], self.test_per_class)

    records = load_records(WithoutOwls().write(tmp_path))
    table = frontier_table(records.trials, records.class_names)
    unknown = ["noisy_pruned", "front_probability", "macs", "parameters", "macs_removed"]
    numbers = table.select_dtypes("number").drop(columns=unknown)
    assert np.isfinite(numbers).all(axis=None)
    assert "owl" not in set(table["worst_class"])
    assert np.isnan(mean_recalls(records.trials)[:, 2]).all()


def test_by_merit_puts_the_best_worst_class_of_a_keep_fraction_first(trials: pd.DataFrame) -> None:
    table = by_merit(frontier_table(trials))
    for _, rows in table.groupby(["loss", "keep_fraction"]):
        assert rows["worst_class_accuracy"].is_monotonic_decreasing
    assert table["keep_fraction"].iloc[0] == 1.0


def test_an_answer_names_the_best_then_random_then_all_the_data() -> None:
    trials = hand_made(
        none_none_100=[[8, 9], [7, 9]],
        random_none_20=[[3, 9], [3, 9]],
        el2n_none_20=[[5, 10], [5, 10]],
        random_drop_20=[[7, 8], [6, 8]],
    )
    assert answers(frontier_table(trials)) == [
        "At keep fraction 0.2 with cross_entropy, random + drop keeps the worst class at 0.65 "
        "(seed range 0.60\N{EN DASH}0.70), random + none at 0.30; all the data give 0.75."
    ]


def test_an_answer_without_random_pruning_compares_with_the_best_without_quotas() -> None:
    trials = hand_made(el2n_none_20=[[5, 8]], grand_none_20=[[4, 8]], el2n_drop_20=[[6, 8]])
    assert answers(frontier_table(trials)) == [
        "At keep fraction 0.2 with cross_entropy, el2n + drop keeps the worst class at 0.60 "
        "(one seed), el2n + none at 0.50."
    ]


def test_the_verdict_names_the_smallest_keep_fraction_at_which_the_worst_class_held() -> None:
    trials = hand_made(
        none_none_100=[[7, 9]],
        random_drop_50=[[9, 9]],
        random_drop_30=[[8, 8]],
        el2n_drop_30=[[7, 8]],
        random_drop_20=[[6, 8]],
    )
    assert verdict(frontier_table(trials)) == (
        "The smallest keep fraction at which the worst class held is 0.3: random + drop with "
        "cross_entropy at keep fraction 0.3 has it at 0.80 (one seed), all the data at 0.70 "
        "(one seed), while average accuracy goes from 0.80 to 0.80."
    )


def test_the_verdict_says_that_it_did_not_hold_and_that_it_may_be_chance() -> None:
    trials = hand_made(none_none_100=[[8, 9], [6, 9]], random_drop_50=[[7, 9], [6, 9]])
    text = verdict(frontier_table(trials))
    assert text.startswith("At no keep fraction did the worst class hold; the nearest: random + ")
    assert text.endswith("The seed ranges overlap, so this difference may be chance.")
    apart = hand_made(none_none_100=[[8, 9], [8, 9]], random_drop_50=[[7, 9], [6, 9]])
    assert "overlap" not in verdict(frontier_table(apart))


def test_the_verdict_without_a_reference_or_without_pruning() -> None:
    alone = verdict(frontier_table(hand_made(random_drop_50=[[7, 9]])))
    assert alone.startswith("No finished trial keeps all the data with the same loss")
    whole = verdict(frontier_table(hand_made(none_none_100=[[7, 9]])))
    assert whole == (
        "Every finished trial keeps all the data: the worst class is at 0.70 (one seed) with "
        "cross_entropy."
    )


def test_a_worst_class_at_zero_cannot_be_held() -> None:
    trials = hand_made(none_none_100=[[0, 9]], random_none_50=[[0, 8]], random_drop_50=[[1, 8]])
    assert verdict(frontier_table(trials)) == (
        "All the data leave the worst class at 0.00, so there is nothing to sacrifice; the best "
        "worst class is random + drop with cross_entropy at keep fraction 0.5, at 0.10 (one seed)."
    )


TWO_MODELS = {
    "none_none_100_r18_r18": [[7, 9]],
    "random_none_50_r18_r18": [[6, 8]],
    "moso_none_50_r18_r18": [[5, 9]],
    "moso_none_50_r18_r50": [[8, 9]],
    "none_none_100_r50_r50": [[9, 9]],
    "random_none_50_r50_r50": [[7, 8]],
    "moso_none_50_r50_r50": [[8, 8]],
    "moso_none_50_r50_r18": [[6, 9]],
}
"""Worst classes of two models: scores of r50 are better for both."""


def test_points_of_other_models_and_scores_of_other_models_are_other_points() -> None:
    table = frontier_table(hand_made(**TWO_MODELS))
    points = table.set_index(["method", "model", "query_model"])["worst_class_accuracy"]
    assert len(points) == 8
    assert points["moso", "r18", "r50"] == 0.8
    assert points["moso", "r50", "r18"] == 0.6
    assert points["none", "r50", "r50"] == 0.9


def test_fronts_are_within_a_model_whatever_its_scores_come_from() -> None:
    table = frontier_table(hand_made(**TWO_MODELS))
    front = table[table["on_front"]][["method", "model", "query_model"]]
    # (0.8, 0.9) of r50 does not push r18's best from r18's front; at r18 it is a transferred one.
    assert front.to_numpy().tolist() == [["moso", "r18", "r50"], ["none", "r50", "r50"]]


def test_the_share_of_noise_is_a_mean_over_seeds_and_empty_where_unknown() -> None:
    trials = hand_made(random_none_20=[[4, 8], [8, 6]], moso_none_20=[[4, 8], [8, 6]])
    trials["noisy_pruned"] = [0.7, 0.8, np.nan, np.nan]
    table = frontier_table(trials).set_index("method")
    assert table["noisy_pruned"]["random"] == pytest.approx(0.75)
    assert np.isnan(table["noisy_pruned"]["moso"])
    place = COLUMNS.index("noisy_pruned")
    rows = [line.split(",") for line in csv_text(as_filed(frontier_table(trials))).splitlines()]
    assert [row[place] for row in rows] == ["noisy_pruned", "", "0.750000"]


def test_every_model_is_compared_with_itself_on_all_the_data() -> None:
    table = frontier_table(hand_made(**TWO_MODELS))
    assert answers(table) == [
        "At keep fraction 0.5 with r18 and cross_entropy, moso + none from r50 keeps the worst "
        "class at 0.80 (one seed), random + none at 0.60; all the data give 0.70.",
        "At keep fraction 0.5 with r50 and cross_entropy, moso + none keeps the worst class at "
        "0.80 (one seed), random + none at 0.70; all the data give 0.90.",
    ]
    first, second = verdicts(table)
    assert first == (
        "r18: The smallest keep fraction at which the worst class held is 0.5: moso + none from "
        "r50 with cross_entropy at keep fraction 0.5 has it at 0.80 (one seed), all the data at "
        "0.70 (one seed), while average accuracy goes from 0.80 to 0.85."
    )
    assert second.startswith(
        "r50: At no keep fraction did the worst class hold; the nearest: moso + none with "
    )


def test_one_model_is_not_named() -> None:
    table = frontier_table(hand_made(none_none_100=[[7, 9]], moso_drop_50=[[7, 9]]))
    assert verdicts(table) == [verdict(table)]
    assert not any("small " in text for text in (*verdicts(table), *answers(table)))


def test_by_merit_keeps_models_together() -> None:
    assert by_merit(frontier_table(hand_made(**TWO_MODELS)))["model"].is_monotonic_increasing


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """A study whose worst class and worst group are not in the same place."""
    return load_records(GROUPED.write(tmp_path_factory.mktemp("grouped")))


def test_worst_on_validation_is_the_test_recall_of_that_class(
    grouped: Records, tmp_path: Path
) -> None:
    table = table_of(grouped.about("group"))
    for key, rows in grouped.trials.groupby(["method", "quotas", "keep_fraction"]):
        point = table[(table[["method", "quotas", "keep_fraction"]] == list(key)).all(axis=1)]
        for by in ("class", "group"):
            lists = (np.array(rows[name].tolist()) for name in (f"validation_by_{by}", f"by_{by}"))
            validation, accuracies = (each.mean(axis=0) for each in lists)
            expected = accuracies[validation.argmin()]
            assert point[f"worst_{by}_on_validation"].item() == pytest.approx(expected)
            assert expected >= point[f"worst_{by}_accuracy_of_mean"].item()
    older = grouped.trials.assign(validation_by_group=None)
    half = grouped.trials.assign(
        validation_by_class=grouped.trials["validation_by_class"].where(grouped.trials["seed"] > 0)
    )
    assert frontier_table(older)["worst_group_on_validation"].isna().all()
    assert frontier_table(older)["worst_class_on_validation"].notna().all()
    assert frontier_table(half)["worst_class_on_validation"].isna().all()


def test_worst_decile_and_balanced_accuracy_are_means_over_seeds() -> None:
    rows = [[*range(1, 10), 10, *[10] * 10], [*range(2, 11), 0, *[10] * 10]]
    point = frontier_table(hand_made(random_none_20=rows)).iloc[0]
    assert point["worst_decile_accuracy"] == pytest.approx((0.15 + 0.1) / 2)
    assert point["balanced_accuracy"] == pytest.approx(np.mean(rows) / 10)


def test_columns_of_groups_follow_those_of_classes_which_stay(grouped: Records) -> None:
    table = table_of(grouped.about("group"))
    assert tuple(as_filed(table).columns) == COLUMNS + GROUP_COLUMNS
    without = grouped.trials.drop(columns=[c for c in grouped.trials if "group" in str(c)])
    plain = frontier_table(without, grouped.class_names)
    assert tuple(as_filed(plain).columns) == COLUMNS
    fronts = ["on_front", "on_front_at_keep_fraction"]
    pd.testing.assert_frame_equal(
        table[list(COLUMNS)].drop(columns=fronts),
        as_filed(plain).drop(columns=fronts),
        check_exact=True,
    )
    about_classes = table_of(grouped.about("class"))[list(COLUMNS)]
    pd.testing.assert_frame_equal(about_classes, as_filed(plain))
    assert set(table["worst_group"]) <= set(grouped.group_names)
    owner = table["worst_group"].str.partition(",")[0]
    assert (owner != table["worst_class"]).any()
    assert (table["worst_group_accuracy"] < table["worst_class_accuracy"]).all()


def test_summaries_of_groups_are_those_of_their_counts(grouped: Records) -> None:
    table = table_of(grouped.about("group"))
    rows = grouped.trials[
        (grouped.trials["method"] == "el2n")
        & (grouped.trials["quotas"] == "drop")
        & (grouped.trials["keep_fraction"] == 0.2)
    ]
    found = table[
        (table["method"] == "el2n") & (table["quotas"] == "drop") & (table["keep_fraction"] == 0.2)
    ].iloc[0]
    correct, totals = np.array(rows["correct_by_group"].tolist()), rows["test_by_group"].iloc[0]
    accuracies = correct / np.array(totals)
    assert len(rows) == 2
    assert found["worst_group_accuracy"] == pytest.approx(accuracies.min(axis=1).mean())
    assert found["worst_group_accuracy_min"] == accuracies.min(axis=1).min()
    assert found["worst_group_accuracy_max"] == accuracies.min(axis=1).max()
    assert found["worst_group_accuracy_of_mean"] == accuracies.mean(axis=0).min()
    assert found["worst_group"] == grouped.group_names[accuracies.mean(axis=0).argmin()]
    assert found["group_accuracy_gap"] == pytest.approx(np.ptp(accuracies, axis=1).mean())
    assert found["group_accuracy_std"] == pytest.approx(accuracies.std(axis=1).mean())
    agreement = rows["agreement_by_group"].iloc[0]
    low, high = worst_class_interval(correct, totals, agreement=agreement)
    assert (found["worst_group_low"], found["worst_group_high"]) == (low, high)
    recalls = mean_recalls(grouped.trials, "group")
    assert recalls.shape == (len(table), 8)
    np.testing.assert_array_equal(recalls.min(axis=1), table["worst_group_accuracy_of_mean"])


@pytest.mark.parametrize("by", ["class", "group"])
def test_fronts_are_about_the_chosen_unit(grouped: Records, by: str) -> None:
    table = table_of(grouped.about(by))
    assert set(table["front_by"]) == {by}
    objectives = table[["average_accuracy", f"worst_{by}_accuracy"]].to_numpy()
    assert table["on_front"].tolist() == pareto_front_by_pairs(objectives)
    other = table_of(grouped.about("class" if by == "group" else "group"))
    assert table["on_front"].tolist() != other["on_front"].tolist()


def test_csv_by_group_does_not_depend_on_row_order(grouped: Records) -> None:
    text = csv_text(as_filed(table_of(grouped.about("group"))))
    shuffled = dataclasses.replace(grouped, trials=grouped.trials.sample(frac=1, random_state=3))
    assert csv_text(as_filed(table_of(shuffled.about("group")))) == text
    assert csv_text(as_filed(table_of(grouped.about("class")))) != text
    assert text.startswith(",".join(COLUMNS + GROUP_COLUMNS) + "\n")


def test_sentences_and_order_are_about_the_chosen_unit(grouped: Records) -> None:
    table = table_of(grouped.about("group"))
    for text in (verdict(table), *answers(table)):
        assert "worst group" in text
        assert "class" not in text
    full, best = (
        table[table["method"] == name]["worst_group_accuracy"].max() for name in ("none", "random")
    )
    assert f"all the data at {full:.2f}" in verdict(table)
    assert f"keeps the worst group at {best:.2f}" in " ".join(answers(table))
    for by in ("class", "group"):
        ordered = by_merit(table_of(grouped.about(by)))
        cells = ordered.groupby(["loss", "keep_fraction"])
        falling = [rows["worst_group_accuracy"].is_monotonic_decreasing for _, rows in cells]
        assert all(falling) == (by == "group")


def test_other_verdicts_are_about_the_chosen_unit_too() -> None:
    def verdict_of(**by_point: list[list[int]]) -> str:
        trials = hand_made(**by_point)
        names = {name: name.replace("class", "group") for name in trials.columns}
        spreads = {"accuracy_gap": "group_accuracy_gap", "accuracy_std": "group_accuracy_std"}
        groups = trials.rename(columns=names | spreads)
        both = groups.join(trials[[*spreads, *(c for c in trials if "class" in c)]])
        return verdict(frontier_table(both, by="group"))

    nothing = verdict_of(none_none_100=[[0, 9]], random_none_50=[[0, 8]], random_drop_50=[[1, 8]])
    assert nothing.startswith("All the data leave the worst group at 0.00")
    assert "; the best worst group is random + drop" in nothing
    assert verdict_of(none_none_100=[[7, 9]]).endswith(
        "the worst group is at 0.70 (one seed) with cross_entropy."
    )
    held = verdict_of(none_none_100=[[7, 9]], random_drop_30=[[8, 8]])
    assert held.startswith("The smallest keep fraction at which the worst group held is 0.3")
    assert "At no keep fraction did the worst group hold" in verdict_of(
        none_none_100=[[7, 9]], random_drop_30=[[6, 8]]
    )
