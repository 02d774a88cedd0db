from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import FINGERPRINT, GROUPED, SMALL, TRANSFER, FakeStudy
from reference import (
    group_accuracy_by_counting,
    image_agreement_by_pairs,
    recall_by_counting,
)

from raydrop.errors import ConfigError, DataError, IncompleteStudyError, StoreError
from raydrop.frontier.records import GROUP_COLUMNS, TRIAL_COLUMNS, load_records
from raydrop.store import Store
from raydrop.study import SCHEMA, TrialConfig


def test_a_row_per_trial_in_a_fixed_order_with_the_promised_columns(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    promised = (
        "trial_id dataset model method quotas keep_fraction n_kept loss network_method "
        "network_sparsity budget seed average_accuracy worst_class_accuracy worst_class "
        "accuracy_gap accuracy_std by_class train_seconds n_train epochs steps kept_by_class "
        "query_model n_noisy noisy_pruned"
    )
    assert set(promised.split()) <= set(records.trials.columns)
    assert tuple(records.trials.columns) == TRIAL_COLUMNS
    order = records.trials[["method", "quotas", "loss", "keep_fraction", "seed"]]
    expected = sorted((t.method, t.quotas, t.loss, t.keep_fraction, t.seed) for t in SMALL.trials())
    assert [tuple(row) for row in order.to_numpy()] == expected
    assert set(records.trials["trial_id"]) == {SMALL.trial_id(t) for t in SMALL.trials()}


def test_metrics_come_from_the_predictions(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    rows = records.trials.set_index("trial_id")
    for trial in SMALL.trials():
        row = rows.loc[SMALL.trial_id(trial)]
        predictions, labels = SMALL.predictions(trial), SMALL.labels()
        recalls = recall_by_counting(predictions, labels, 4)
        assert row["by_class"] == pytest.approx(recalls)
        assert row["average_accuracy"] == pytest.approx((predictions == labels).mean())
        assert row["worst_class_accuracy"] == min(recalls)
        assert row["correct_by_class"] == [round(50 * recall) for recall in recalls]
        assert row["test_by_class"] == [50] * 4


def test_metrics_by_group_come_from_the_predictions(tmp_path: Path) -> None:
    records = load_records(GROUPED.write(tmp_path))
    assert tuple(records.trials.columns) == TRIAL_COLUMNS + GROUP_COLUMNS
    rows = records.trials.set_index("trial_id")
    for trial in GROUPED.trials():
        row = rows.loc[GROUPED.trial_id(trial)]
        predictions, labels, groups = GROUPED.predictions(trial), GROUPED.labels(), GROUPED.groups()
        accuracies = group_accuracy_by_counting(predictions, labels, groups, 8)
        assert row["by_group"] == accuracies
        assert row["worst_group_accuracy"] == min(accuracies)
        assert row["worst_group"] == accuracies.index(min(accuracies))
        assert row["group_accuracy_gap"] == pytest.approx(max(accuracies) - min(accuracies))
        assert row["group_accuracy_std"] == pytest.approx(np.std(accuracies))
        assert row["test_by_group"] == [40, 10] * 4
        assert row["kept_by_group"] == GROUPED.kept_by_group(trial)
        assert row["by"] == "group"
        # Columns about classes stay about classes.
        assert row["by_class"] == pytest.approx(recall_by_counting(predictions, labels, 4))
    assert (rows["worst_group"] // 2 != rows["worst_class"]).any()


def test_worst_cases_are_about_what_is_asked_for_or_what_the_study_is_by(tmp_path: Path) -> None:
    records = load_records(GROUPED.write(tmp_path / "group"))
    assert [records.about(by).unit for by in (None, "class", "group")] == [
        "group",
        "class",
        "group",
    ]
    assert records.names("group")[:3] == ("cat, land", "cat, water", "dog, land")
    assert (records.names("class"), records.sizes("group")) == (records.class_names, (160, 40) * 4)
    by_class = dataclasses.replace(GROUPED, by="class").write(tmp_path / "class")
    assert load_records(by_class).unit == "class"
    with pytest.raises(ConfigError, match=r"Unknown value of --by 'groups': did you mean group\?"):
        records.about("groups")


def test_without_groups_nothing_is_said_of_them(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    assert not set(GROUP_COLUMNS) & set(records.trials.columns)
    assert (records.group_names, records.group_sizes, records.by) == ((), (), "class")
    with pytest.raises(
        ConfigError, match=r"Expected groups in the data of .* for --by group, found none; leave"
    ):
        records.about("group")


def test_facts_that_know_of_no_groups_are_facts_without_groups(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Terse(FakeStudy):
        def info(self, trial: TrialConfig) -> dict[str, Any]:
            absent = ("by", "kept_by_group")
            return {k: v for k, v in super().info(trial).items() if k not in absent}

    Terse().write(tmp_path)
    study = json.loads((tmp_path / "study.json").read_text())
    del study["study"]["by"]
    (tmp_path / "study.json").write_text(json.dumps(study))
    store = Store(tmp_path / "store")
    (card,) = store.entries("data")
    info = {name: value for name, value in card.info.items() if not name.startswith("group")}
    store.remove("data", card.key)
    store.write("data", card.config, info, {"test_labels": SMALL.labels()})
    records = load_records(tmp_path)
    assert records.unit == "class"
    assert len(records.trials) == 18


def test_facts_about_the_data_and_provenance(tmp_path: Path) -> None:
    records = load_records(str(SMALL.write(tmp_path)))
    assert records.class_names == ("cat", "dog", "owl", "bee")
    assert records.class_sizes == (200,) * 4
    assert records.provenance["costs"] == {
        "query": (2, 120.0),
        "scores": (2, 6.0),
        "trial": (18, 36.0),
    }
    assert records.provenance["seeds"] == [0, 1]
    assert (records.missing, records.failures, records.damaged) == ((), (), ())


def test_missing_and_failed_trials_are_told_apart(tmp_path: Path) -> None:
    missing, failed, *_ = SMALL.trials()
    SMALL.write(tmp_path, skip=[missing, failed])
    SMALL.write_failure(tmp_path, failed, "loss became NaN")
    records = load_records(tmp_path)
    assert records.missing == ({"trial_id": SMALL.trial_id(missing), **missing.as_dict()},)
    assert [each["message"] for each in records.failures] == ["loss became NaN"]
    assert records.failures[0]["trial_id"] == SMALL.trial_id(failed)
    assert len(records.trials) == 16


def test_a_failure_that_a_later_run_mended_is_none(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    SMALL.write_failure(tmp_path, SMALL.trials()[0], "out of memory")
    assert load_records(tmp_path).failures == ()


def test_a_damaged_entry_is_named_and_counts_as_missing(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    key = SMALL.trial_id(SMALL.trials()[3])
    file = tmp_path / "store" / "trial" / key / "predictions.npy"
    file.write_bytes(file.read_bytes()[:-1])
    records = load_records(tmp_path)
    assert records.damaged == (f"trial/{key}",)
    assert [each["trial_id"] for each in records.missing] == [key]
    assert key not in set(records.trials["trial_id"])


def test_trials_that_the_study_does_not_ask_for_are_counted_and_left_out(tmp_path: Path) -> None:
    dataclasses.replace(SMALL, keeps=(0.2, 0.3, 0.5)).write(tmp_path)
    SMALL.write_study(tmp_path)
    records = load_records(tmp_path)
    assert len(records.trials) == 18
    assert 0.3 not in set(records.trials["keep_fraction"])
    assert records.provenance["trials_of_other_studies"] == 8


def test_absent_query_runs_and_scores_are_no_problem(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    shutil.rmtree(tmp_path / "store" / "query")
    for meta in (tmp_path / "store" / "scores").glob("*/meta.json"):
        meta.write_text("[]")
    costs = load_records(tmp_path).provenance["costs"]
    assert (costs["query"], costs["scores"]) == ((0, 0.0), (0, 0.0))


def test_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Expected a study\.json in .*, found none; name the"):
        load_records(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "Expecting property name"),
        ("[]", "no JSON object"),
        (json.dumps({"schema": SCHEMA, "study": {}}), "no data_fingerprint, study_id, trials"),
    ],
)
def test_an_unreadable_study_is_an_error(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StoreError, match=rf"Expected a readable study .* found: {found}.*again"):
        load_records(tmp_path)


def test_a_study_of_another_schema_is_an_error(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    study = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(study | {"schema": SCHEMA + 1}))
    with pytest.raises(StoreError, match=rf"of schema {SCHEMA} in .*, found: schema {SCHEMA + 1};"):
        load_records(tmp_path)


def test_facts_about_other_data_are_not_taken_for_these(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    for number in range(4):
        other = {"kind": "data", "schema": SCHEMA, "fingerprint": f"{number}"}
        Store(tmp_path / "store").write("data", other, {"class_names": ["x"]})
    assert load_records(tmp_path).class_names == ("cat", "dog", "owl", "bee")


def test_what_a_record_does_not_say_of_its_training_is_none(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Terse(FakeStudy):
        def info(self, trial: TrialConfig) -> dict[str, Any]:
            return {k: v for k, v in super().info(trial).items() if k != "precision"}

    records = load_records(Terse().write(tmp_path))
    assert records.trials["precision"].isna().all()
    assert records.provenance["precisions"] == []


def without(*names: str) -> FakeStudy:
    """Return a study whose records lack some of what they say."""

    @dataclasses.dataclass(frozen=True)
    class Terse(FakeStudy):
        def info(self, trial: TrialConfig) -> dict[str, Any]:
            return {k: v for k, v in super().info(trial).items() if k not in names}

    return Terse()


def test_a_record_without_query_model_or_noise_means_its_own_model_and_none(
    tmp_path: Path,
) -> None:
    trials = load_records(without("query_model", "n_noisy", "noisy_pruned").write(tmp_path)).trials
    assert set(trials["query_model"]) == {"small_cnn"}
    assert trials[["n_noisy", "noisy_pruned"]].isna().all(axis=None)


def test_a_record_that_does_not_say_what_it_is_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"of trial \w+ to hold dataset, .*, found no budget; rem"):
        load_records(without("budget").write(tmp_path))


def test_models_query_models_and_noise_are_read(tmp_path: Path) -> None:
    records = load_records(TRANSFER.write(tmp_path))
    rows = records.trials.set_index("trial_id")
    assert len(rows) == len(TRANSFER.trials()) == 42
    for trial in TRANSFER.trials():
        row = rows.loc[TRANSFER.trial_id(trial)]
        assert (row["model"], row["query_model"]) == (trial.model, trial.query_model)
        assert (row["n_noisy"], row["noisy_pruned"]) == (80, TRANSFER.noisy_pruned(trial))
    assert records.several_models


def test_numbers_about_noise_are_numbers_also_where_none_are_known(tmp_path: Path) -> None:
    for name, study in (("without", SMALL), ("with", TRANSFER)):
        trials = load_records(study.write(tmp_path / name)).trials
        assert trials["noisy_pruned"].dtype == np.float64
        assert str(trials["n_noisy"].dtype) == "Int64"


def test_a_model_of_which_nothing_is_finished_counts_too(tmp_path: Path) -> None:
    unfinished = [trial for trial in TRANSFER.trials() if trial.model == "resnet50"]
    assert load_records(TRANSFER.write(tmp_path, skip=unfinished)).several_models
    assert not load_records(SMALL.write(tmp_path / "small")).several_models


def test_no_facts_about_the_data_are_an_error(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    shutil.rmtree(tmp_path / "store" / "data")
    with pytest.raises(StoreError, match=r"Expected the facts about the data .* 5a5a5a5a5a5a; run"):
        load_records(tmp_path)


def test_no_finished_trial_is_an_error_that_names_the_first_failure(tmp_path: Path) -> None:
    SMALL.write(tmp_path, skip=SMALL.trials())
    with pytest.raises(IncompleteStudyError, match=r"found none of 18; finish the sweep"):
        load_records(tmp_path)
    SMALL.write_failure(tmp_path, SMALL.trials()[0], "out of memory")
    with pytest.raises(IncompleteStudyError, match=r"none of 18 \(1 failed.* out of memory\)"):
        load_records(tmp_path)


def test_predictions_and_hits_are_those_of_the_trial(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    first, *_, last = SMALL.trials()
    ids = [SMALL.trial_id(trial) for trial in (last, first)]
    hits = records.hits(ids)
    for row, key, trial in zip(hits, ids, (last, first), strict=True):
        np.testing.assert_array_equal(records.predictions(key), SMALL.predictions(trial))
        np.testing.assert_array_equal(row, SMALL.predictions(trial) == SMALL.labels())
    assert records.hits([]).shape == (0, 200)
    np.testing.assert_array_equal(records.members("class"), SMALL.labels())
    with pytest.raises(DataError, match=r"Expected the group of every test image .* found none"):
        records.members("group")
    with pytest.raises(DataError, match=r"Expected finished trials of .*, found nobody; read"):
        records.hits(["nobody"])
    with pytest.raises(StoreError, match="Expected trial nobody in"):
        records.predictions("nobody")


def test_what_seeds_agree_on_is_that_of_their_point(tmp_path: Path) -> None:
    records = load_records(GROUPED.write(tmp_path))
    for _, rows in records.trials.groupby(["method", "quotas", "keep_fraction"]):
        hits = records.hits(rows["trial_id"].tolist())
        for by, number in (("class", 4), ("group", 8)):
            members = records.about(by).members().tolist()
            expected = image_agreement_by_pairs(hits.tolist(), members, number)
            for found in rows[f"agreement_by_{by}"]:
                assert found == pytest.approx(expected)


def test_validation_counts_are_read_and_may_be_absent(tmp_path: Path) -> None:
    records = load_records(GROUPED.write(tmp_path / "with"))
    rows = records.trials.set_index("trial_id")
    for trial in GROUPED.trials():
        row = rows.loc[GROUPED.trial_id(trial)]
        assert row["validation_by_group"] == GROUPED.validation(trial)["validation_by_group"]
        assert row["validation_sizes_by_class"] == [10] * 4
    older = without("validation_by_class", "validation_sizes_by_class")
    trials = load_records(older.write(tmp_path / "without")).trials
    assert trials[["validation_by_class", "validation_sizes_by_class"]].isna().all(axis=None)


def test_a_trial_of_other_data_is_refused_and_named(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Mixed(FakeStudy):
        def identity(self, trial: TrialConfig) -> dict[str, Any]:
            other = "0b" * 32 if trial == SMALL.trials()[2] else FINGERPRINT
            return {"kind": "trial", **self.study().base(other), "trial": trial.as_dict()}

    key = Mixed().trial_id(SMALL.trials()[2])
    with pytest.raises(
        DataError, match=rf"that of data 5a5a5a5a5a5a, found trial {key} of data 0b0b0b0b0b0b; keep"
    ):
        load_records(Mixed().write(tmp_path))


def test_a_record_without_predictions_says_so(tmp_path: Path) -> None:
    first = SMALL.trials()[0]
    SMALL.write(tmp_path, skip=[first])
    Store(tmp_path / "store").write("trial", SMALL.identity(first), SMALL.info(first))
    with pytest.raises(
        StoreError, match=rf"Expected predictions .* {SMALL.trial_id(first)}, found"
    ):
        load_records(tmp_path)


def test_predictions_for_another_test_set_are_an_error(tmp_path: Path) -> None:
    first = SMALL.trials()[0]
    SMALL.write(tmp_path, skip=[first])
    SMALL.write_trial(Store(tmp_path / "store"), first, SMALL.predictions(first)[:-1])
    with pytest.raises(DataError, match=rf"in trial {SMALL.trial_id(first)}, .*\(199,\)"):
        load_records(tmp_path)
