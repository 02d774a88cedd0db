from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import (
    group_accuracy_by_counting,
    image_agreement_by_pairs,
    recall_by_counting,
)

from raydrop.errors import ConfigError, DataError, IncompleteStudyError, StoreError
from raydrop.frontier.records import GROUP_COLUMNS, TRIAL_COLUMNS, load_records
from raydrop.store import Store
from raydrop.study import SCHEMA, By, Study, TrialConfig, config_hash

FINGERPRINT = "5a" * 32


@dataclasses.dataclass(frozen=True)
class FakeStudy:
    """A finished sweep without a single training: predictions are drawn, harder classes worse."""

    methods: Sequence[str] = ("random", "el2n")
    quotas: Sequence[str] = ("none", "drop")
    keeps: Sequence[float] = (0.2, 0.5)
    losses: Sequence[str] = ("cross_entropy",)
    seeds: Sequence[int] = (0, 1)
    class_names: Sequence[str] = ("cat", "dog", "owl", "bee")
    test_per_class: int = 50
    train_per_class: int = 200
    unpruned: bool = True
    models: Sequence[str] = ("small_cnn",)
    query_models: Sequence[str] = ()
    """Where scores come from, for every model; each scores for itself where empty."""
    n_noisy: int | None = None
    """Mislabelled training samples."""
    attributes: Sequence[str] = ()
    """Groups are label x attribute, the first attribute four times as common as all others."""
    by: By = "class"
    validation_per_class: int = 10
    network_methods: Sequence[str] = ()
    """How networks are pruned; none are where empty. Dense trials then have the first loss only."""
    network_targets: Sequence[str] = ()
    unreached: Sequence[str] = ()
    """Targets whose trials say that they were not reached."""

    def trials(self) -> list[TrialConfig]:
        cells = itertools.product(
            self.models, self.methods, self.quotas, self.keeps, self.losses, self.seeds
        )
        configs = [
            TrialConfig(m, q, k, loss, model, query, seed)
            for model, m, q, k, loss, seed in cells
            for query in self.queries(model, reads_nothing=(m, q) == ("random", "none"))
        ]
        if self.unpruned:
            whole = itertools.product(self.models, self.losses, self.seeds)
            configs += [
                TrialConfig("none", "none", 1.0, loss, model, model, seed)
                for model, loss, seed in whole
            ]
        return self.with_networks(configs)

    def with_networks(self, configs: list[TrialConfig]) -> list[TrialConfig]:
        """Dense trials of the first loss, and each network of every loss after them."""
        if not self.network_methods:
            return configs
        pruned = [
            dataclasses.replace(config, network_method=method, network_target=target)
            for config in configs
            for method, target in itertools.product(self.network_methods, self.network_targets)
        ]
        return [config for config in configs if config.loss == self.losses[0]] + pruned

    def removed(self, trial: TrialConfig) -> float:
        """The share that is gone: what the target says."""
        if trial.network_target == "none":
            return 0.0
        return float(trial.network_target.partition("(")[2][:-1])

    def network(self, trial: TrialConfig) -> dict[str, Any]:
        """What the record says of its network; nothing where no network of the study is pruned."""
        if not self.network_methods:
            return {"network_method": "none", "network_sparsity": 0.0}
        removed, masked = self.removed(trial), trial.network_target.startswith("sparsity")
        sizes = {"macs": 1_000_000, "parameters": 20_000, "weights": 18_000}
        left = {
            name: round(size * (1 - removed)) if not masked or name == "weights" else size
            for name, size in sizes.items()
        }
        unreached = trial.network_target in self.unreached
        return {
            "network_method": trial.network_method,
            "network_target": trial.network_target,
            "network_sparsity": removed,
            **left,
            **{f"dense_{name}": size for name, size in sizes.items()},
            "macs_removed": 0.0 if masked else removed,
            "forward_seconds": 0.002,
            "network_note": f"{trial.network_target} was not reached" if unreached else "",
        }

    def queries(self, model: str, *, reads_nothing: bool) -> Sequence[str]:
        return (model,) if reads_nothing or not self.query_models else self.query_models

    def noisy_pruned(self, trial: TrialConfig) -> float | None:
        """A known share: random is uniform, each further method and query model prunes more."""
        if self.n_noisy is None:
            return None
        pruned = 1 - trial.keep_fraction
        if trial.method in ("none", "random"):
            return pruned
        gain = 0.2 * self.methods.index(trial.method) + 0.02 * trial.seed
        if trial.query_model in self.query_models:
            gain += 0.1 * self.query_models.index(trial.query_model)
        return pruned + gain * trial.keep_fraction

    def study(self) -> Study:
        space, seeds = {"method": "random"}, tuple(self.seeds)
        return Study("fake", "digits", "small_cnn", space, seeds=seeds, by=self.by)

    def identity(self, trial: TrialConfig) -> dict[str, Any]:
        return {"kind": "trial", **self.study().base(FINGERPRINT), "trial": trial.as_dict()}

    def trial_id(self, trial: TrialConfig) -> str:
        return config_hash(self.identity(trial))

    def labels(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.class_names)), self.test_per_class)

    def group_names(self) -> list[str]:
        pairs = itertools.product(self.class_names, self.attributes)
        return [f"{name}, {attribute}" for name, attribute in pairs]

    def groups(self) -> NDArray[np.int64]:
        """Within each label: four of the first attribute, then one of another in turn."""
        place = np.arange(self.test_per_class)
        others = 1 + place // 5 % (len(self.attributes) - 1)
        attributes = np.where(place % 5 < 4, 0, others)
        labels = self.labels()
        return labels * len(self.attributes) + np.resize(attributes, len(labels))

    def group_sizes(self) -> list[int]:
        rare = self.train_per_class // 5 // (len(self.attributes) - 1)
        common = self.train_per_class - rare * (len(self.attributes) - 1)
        return [common, *[rare] * (len(self.attributes) - 1)] * len(self.class_names)

    def kept(self, trial: TrialConfig) -> list[int]:
        """Known counts (K,): drop keeps more of harder classes, every further method fewer."""
        base = round(self.train_per_class * trial.keep_fraction)
        if trial.method == "none":
            return [base] * len(self.class_names)
        tilt = 0.5 * (trial.quotas == "drop") - 0.15 * self.methods.index(trial.method)
        tilt += 0.01 * trial.seed * (trial.method != "random")
        tilt = max(-0.9, min(tilt, 1 / trial.keep_fraction - 1))
        steps = np.linspace(-1, 1, len(self.class_names))
        return [base + round(tilt * base * step) for step in steps.tolist()]

    def kept_by_group(self, trial: TrialConfig) -> list[int]:
        """Rare groups are kept whole as far as possible where quotas are by group."""
        counts = []
        for kept in self.kept(trial):
            rare = self.group_sizes()[1]
            if self.by == "class" or trial.quotas == "none":
                rare = round(rare * kept / self.train_per_class)
            others = len(self.attributes) - 1
            rare = min(rare, kept // (others + 1))
            counts += [kept - rare * others, *[rare] * others]
        return counts

    def predictions(self, trial: TrialConfig) -> NDArray[np.int16]:
        rng = np.random.default_rng([self.trials().index(trial), 7])
        classes = len(self.class_names)
        difficulty = np.linspace(0.05, 0.5, classes) * (1.3 - trial.keep_fraction)
        if trial.quotas == "drop":
            difficulty = 0.55 * difficulty + 0.4 * difficulty.mean()
        if trial.loss != "cross_entropy":
            difficulty = 0.75 * difficulty + 0.3 * difficulty.mean()
        if trial.network_target != "none":
            # The hardest class suffers most, and less so with another loss.
            harm = 0.5 if trial.loss == self.losses[0] else 0.2
            harm *= 1 + 0.3 * (trial.network_method == "random")
            tilt = np.linspace(0, 1, classes)
            difficulty = difficulty + harm * self.removed(trial) ** 2 * tilt
        if trial.method != "none":
            difficulty = difficulty * (1 + 0.13 * self.methods.index(trial.method))
        labels = self.labels()
        chances = np.clip(difficulty, 0, 0.95)[labels]
        if self.attributes:
            # Rare groups are hard, most of all in the class that is easiest on average.
            rare = self.groups() % len(self.attributes) > 0
            relief = 0.5 if trial.quotas == "drop" and self.by == "group" else 1.0
            chances = np.where(rare, relief * (0.9 - 0.15 * labels), 0.5 * chances)
        wrong = rng.random(len(labels)) < chances
        others = (labels + rng.integers(1, classes, len(labels))) % classes
        return np.where(wrong, others, labels).astype(np.int16)

    def validation(self, trial: TrialConfig) -> dict[str, Any]:
        """Counts as if validation were another draw of the test set's recalls."""
        rng = np.random.default_rng([self.trials().index(trial), 11])
        correct, found = self.predictions(trial) == self.labels(), {}
        units: dict[str, tuple[NDArray[np.int64], int]]
        units = {"class": (self.labels(), len(self.class_names))}
        if self.attributes:
            units["group"] = self.groups(), len(self.group_names())
        for by in ("class", "group"):
            counts = sizes = None
            if by in units:
                members, number = units[by]
                totals = np.maximum(np.bincount(members, minlength=number), 1)
                recalls = np.bincount(members[correct], minlength=number) / totals
                sizes = [self.validation_per_class] * number
                counts = rng.binomial(sizes, recalls).tolist()
            found |= {f"validation_by_{by}": counts, f"validation_sizes_by_{by}": sizes}
        return found

    def info(self, trial: TrialConfig) -> dict[str, Any]:
        n_train = self.train_per_class * len(self.class_names)
        kept = self.kept(trial)
        return {
            "dataset": "digits",
            "model": "small_cnn",
            "budget": "equal_epochs",
            **trial.as_dict(),
            **self.network(trial),
            "n_kept": sum(kept),
            "n_train": n_train,
            "n_noisy": self.n_noisy,
            "noisy_pruned": self.noisy_pruned(trial),
            "epochs": 30,
            "steps": 100,
            "kept_by_class": kept,
            "by": self.by,
            "kept_by_group": self.kept_by_group(trial) if self.attributes else None,
            **self.validation(trial),
            "train_seconds": 1.5,
            "seconds": 2.0,
            "device": "cpu",
            "precision": "fp32",
        }

    def write(self, folder: Path, *, skip: Sequence[TrialConfig] = ()) -> Path:
        """Write the output folder, leaving out the records of some trials."""
        store = Store(folder / "store")
        self.write_data(store)
        for trial in self.trials():
            if trial not in skip:
                self.write_trial(store, trial, self.predictions(trial))
        for seed in self.seeds:
            query = {"seed": seed, "validation_recalls": [0.5], "train_seconds": 60.0}
            store.write("query", {"kind": "query", "seed": seed}, query)
            scores = {"method": "el2n", "seed": seed, "seconds": 3.0}
            store.write("scores", {"kind": "scores", "seed": seed}, scores)
        self.write_study(folder)
        return folder

    def write_data(self, store: Store) -> None:
        classes = len(self.class_names)
        info = {
            "dataset": "digits",
            "class_names": list(self.class_names),
            "class_sizes": [self.train_per_class] * classes,
            "n_train": self.train_per_class * classes,
            "n_validation": 40,
            "n_test": self.test_per_class * classes,
        }
        labels = self.labels()
        arrays = {"test_labels": labels, "test_ids": np.arange(len(labels))}
        info |= {"group_names": self.group_names(), "group_sizes": []}
        if self.attributes:
            info["group_sizes"] = self.group_sizes()
            arrays["test_groups"] = self.groups()
        store.write("data", {"schema": SCHEMA, "fingerprint": FINGERPRINT}, info, arrays)

    def write_trial(self, store: Store, trial: TrialConfig, predictions: NDArray[Any]) -> None:
        arrays = {"predictions": predictions, "kept_ids": np.arange(5)}
        store.write("trial", self.identity(trial), self.info(trial), arrays)

    def write_failure(self, folder: Path, trial: TrialConfig, message: str) -> None:
        info = {"trial": trial.as_dict(), "message": message}
        Store(folder / "store").write("failure", self.identity(trial), info)

    def write_study(self, folder: Path) -> None:
        study = {
            "schema": SCHEMA,
            "study": self.study().to_dict([{"method": "random"}]),
            "study_id": "51d" + "0" * 29,
            "base_id": "ba5e" + "0" * 28,
            "data_fingerprint": FINGERPRINT,
            "trials": [
                {"trial_id": self.trial_id(trial), **trial.as_dict()} for trial in self.trials()
            ],
            "versions": {"raydrop": "0.1.0", "numpy": "2.4.6"},
            "created": "2026-01-02T03:04:05+00:00",
        }
        (folder / "study.json").write_text(json.dumps(study))


SMALL = FakeStudy()
TRANSFER = FakeStudy(
    methods=("random", "moso"),
    quotas=("none",),
    keeps=(0.2, 0.5),
    models=("resnet18", "resnet50"),
    query_models=("resnet18", "resnet50"),
    losses=("cross_entropy",),
    n_noisy=80,
    seeds=(0, 1, 2),
)
"""Two target models, each with scores of its own and of the other; a tenth is mislabelled."""

NETWORKS = FakeStudy(
    methods=("random",),
    quotas=("none",),
    keeps=(0.3, 0.5),
    losses=("cross_entropy", "pw(0.5, 1)"),
    seeds=(0, 1, 2),
    test_per_class=100,
    network_methods=("autobot", "magnitude", "random"),
    network_targets=("flops(0.5)", "flops(0.75)", "flops(0.9)"),
    unreached=("flops(0.9)",),
)
"""Keep fraction x network target x loss on one grid; the last target is not reached."""

GROUPED = FakeStudy(attributes=("land", "water"), by="group")
"""Eight groups, the rare four hard; quotas are by group."""


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
    assert [records.chosen(by) for by in (None, "class", "group")] == ["group", "class", "group"]
    assert records.names("group")[:3] == ("cat, land", "cat, water", "dog, land")
    assert (records.names("class"), records.sizes("group")) == (records.class_names, (160, 40) * 4)
    by_class = dataclasses.replace(GROUPED, by="class").write(tmp_path / "class")
    assert load_records(by_class).chosen(None) == "class"
    with pytest.raises(ConfigError, match=r"Unknown value of --by 'groups': did you mean group\?"):
        records.chosen("groups")


def test_without_groups_nothing_is_said_of_them(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    assert not set(GROUP_COLUMNS) & set(records.trials.columns)
    assert (records.group_names, records.group_sizes, records.by) == ((), (), "class")
    with pytest.raises(
        ConfigError, match=r"Expected groups in the data of .* for --by group, found none; leave"
    ):
        records.chosen("group")


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
    assert records.chosen(None) == "class"
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
            members = records.members(records.chosen(by)).tolist()
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
