"""Quotas, losses and recalls by class or by group, through the stages: no Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.data.dataset import LabelledDataset, Split
from raydrop.errors import ConfigError
from raydrop.models import build_model
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.runs import TrialRun
from raydrop.selection import drop_quotas, smooth_recalls
from raydrop.stages import trials
from raydrop.stages.facts import save_data_card, unit_recalls
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import kept_positions, run_trial
from raydrop.store import Entry, Store, required
from raydrop.study import Study, Training
from raydrop.training.checkpoints import load_state
from raydrop.training.evaluate import predict
from raydrop.training.losses import CrossEntropy, LossContext

GROUPS = ("low even", "low odd", "high even", "high odd")
STUDY = Study(
    name="t",
    dataset="digits",
    model="small_cnn",
    param_space={},
    seeds=(0,),
    training=Training(epochs=2, batch_size=16),
    recall_smoothing=0.5,
    checkpoints=2,
)


def grouped(split: Split) -> Split:
    """Digits by whether they are high, and by an attribute that nine in ten share with that."""
    high = split.labels >= 5
    odd = high ^ (split.ids % 10 == 0)
    return dataclasses.replace(split, groups=2 * high.astype(np.int64) + odd)


@pytest.fixture(scope="module")
def plain() -> LabelledDataset:
    return load_dataset("digits+subset(32, test=15)")


@pytest.fixture(scope="module")
def data(plain: LabelledDataset) -> PreparedData:
    splits = {name: grouped(split) for name, split in plain.splits().items()}
    return prepare(dataclasses.replace(plain, **splits, group_names=GROUPS))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def plan_of(study: Study, dataset: LabelledDataset, *points: dict[str, object]) -> Plan:
    return make_plan(study, trial_configs(study, points), dataset)


def prepared(study: Study, data: PreparedData, store: Store, **point: object) -> TrialRun:
    """The one trial of a point, with everything there that it reads."""
    study = dataclasses.replace(study, include_unpruned=False)
    plan = plan_of(study, data.dataset, point)
    for query in plan.missing(store).queries:
        run_query(study, query, data, store, "cpu")
    for score in plan.missing(store).scores:
        run_score(study, score, data.dataset.train, store, None)
    (run,) = plan.trials
    return run


def query_entry(data: PreparedData, store: Store) -> tuple[Entry, TrialRun]:
    point = {"method": "random", "quotas": "drop", "keep_fraction": 0.3}
    run = prepared(STUDY, data, store, **point)
    assert run.recalls is not None
    return required(store, "query", run.recalls.key), run


def test_recalls_by_group_by_counting(data: PreparedData, rng: np.random.Generator) -> None:
    test = data.dataset.test
    assert test.groups is not None
    predictions = rng.integers(0, 10, len(test))
    for by, members, count in (("class", test.labels, 10), ("group", test.groups, 4)):
        expected = [
            np.mean([predictions[i] == test.labels[i] for i in np.flatnonzero(members == unit)])
            for unit in range(count)
        ]
        found = unit_recalls(predictions, data.dataset, by, "test")  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected)


def test_a_query_run_leaves_recalls_by_class_and_by_group(data: PreparedData, store: Store) -> None:
    entry, _ = query_entry(data, store)
    held_out = data.dataset.validation
    model = build_model("small_cnn", 10, data.dataset.image_shape)
    load_state(model, entry.array("checkpoints")[-1])
    batches = make_batches(data, held_out, torch.device("cpu"))
    predictions = predict(model, batches, len(held_out))
    assert entry.info["checkpoint_epochs"][-1] == entry.info["epochs"]
    for by, name in (("class", "validation_recalls"), ("group", "validation_group_recalls")):
        expected = unit_recalls(predictions, data.dataset, by, "validation")  # type: ignore[arg-type]
        assert entry.info[name] == expected.tolist()
    right = [
        np.dot(entry.info[name], data.dataset.sizes(by, "validation"))  # type: ignore[arg-type]
        for by, name in (("class", "validation_recalls"), ("group", "validation_group_recalls"))
    ]
    assert right[0] == pytest.approx(right[1])
    assert len(entry.info["validation_group_recalls"]) == 4


def test_data_without_groups_have_no_recalls_by_group(
    plain: LabelledDataset, tmp_path: Path
) -> None:
    data, store = prepare(plain), Store(tmp_path)
    study = dataclasses.replace(STUDY, training=Training(epochs=1))
    run = prepared(study, data, store, method="random", quotas="drop", keep_fraction=0.3)
    assert run.recalls is not None
    info = required(store, "query", run.recalls.key).info
    assert len(info["validation_recalls"]) == 10
    assert info["validation_group_recalls"] is None
    run_trial(study, run, data, store, "cpu")
    record = required(store, "trial", run.key).info
    assert record["by"] == "class"
    assert record["kept_by_group"] is record["validation_by_group"] is None
    save_data_card(plain, store)
    (card,) = store.entries("data")
    assert card.info["group_names"] == card.info["group_sizes"] == []
    assert "test_groups" not in card.names


def test_the_data_card_tells_of_groups(data: PreparedData, tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_data_card(data.dataset, store)
    (card,) = store.entries("data")
    assert card.info["group_names"] == list(GROUPS)
    assert card.info["group_sizes"] == data.dataset.sizes("group").tolist()
    assert card.array("test_groups").tolist() == data.dataset.members("group", "test").tolist()


def test_query_runs_and_scores_are_shared_by_studies_by_class_and_by_group(
    data: PreparedData,
) -> None:
    point: dict[str, object] = {"method": "el2n", "quotas": "drop", "keep_fraction": 0.5}
    first, second = (
        plan_of(dataclasses.replace(STUDY, by=by), data.dataset, point)  # type: ignore[arg-type]
        for by in ("class", "group")
    )
    assert [run.key for run in first.queries] == [run.key for run in second.queries]
    assert [run.key for run in first.scores] == [run.key for run in second.scores]
    assert {run.key for run in first.trials}.isdisjoint(run.key for run in second.trials)


def counts_of(kept: NDArray[np.int64], members: NDArray[np.int64], count: int) -> list[int]:
    return np.bincount(members[kept], minlength=count).tolist()


@pytest.mark.parametrize(
    ("by", "name"), [("class", "validation_recalls"), ("group", "validation_group_recalls")]
)
def test_drop_quotas_read_the_recalls_of_the_studys_units(
    data: PreparedData, store: Store, by: Any, name: str
) -> None:
    entry, run = query_entry(data, store)
    study = dataclasses.replace(STUDY, by=by, minimum_per_class=2)
    dataset = data.dataset
    smoothed = smooth_recalls(entry.info[name], dataset.sizes(by, "validation"), 0.5)
    budget = round(0.3 * len(dataset.train))
    expected = drop_quotas(dataset.sizes(by), smoothed, budget, minimum=2)
    kept = kept_positions(study, run, dataset, store)
    assert len(kept) == budget
    units = len(dataset.names(by))
    assert counts_of(kept, dataset.members(by), units) == expected.tolist()
    other = "group" if by == "class" else "class"
    elsewhere = kept_positions(dataclasses.replace(study, by=other), run, dataset, store)
    assert kept.tolist() != elsewhere.tolist()


@pytest.mark.parametrize("by", ["class", "group"])
def test_from_method_keeps_as_many_of_each_unit_and_others_of_them(
    data: PreparedData, store: Store, by: Any
) -> None:
    dataset = data.dataset
    study = dataclasses.replace(STUDY, by=by)
    kept = {}
    for method, quotas in (
        ("el2n", "none"),
        ("random", "from_method:el2n"),
        ("el2n", "from_method:el2n"),
        ("random", "none"),
        ("random", "from_method:random"),
    ):
        run = prepared(study, data, store, method=method, quotas=quotas, keep_fraction=0.2)
        kept[method, quotas] = kept_positions(study, run, dataset, store)
    members, units = dataset.members(by), len(dataset.names(by))
    ratios = {cell: counts_of(each, members, units) for cell, each in kept.items()}
    alone = kept["el2n", "none"]
    assert ratios["random", "from_method:el2n"] == ratios["el2n", "none"]
    assert ratios["random", "from_method:el2n"] != ratios["random", "none"]
    overlap = np.isin(kept["random", "from_method:el2n"], alone).mean()
    assert overlap < 0.8
    # A method with its own ratios is itself.
    assert kept["el2n", "from_method:el2n"].tolist() == alone.tolist()
    assert kept["random", "from_method:random"].tolist() == kept["random", "none"].tolist()


def test_from_method_honours_the_minimum(data: PreparedData, store: Store) -> None:
    dataset = data.dataset
    point = {"method": "random", "quotas": "from_method:el2n", "keep_fraction": 0.1}
    run = prepared(STUDY, data, store, **point)
    least = {}
    for minimum in (0, 3):
        study = dataclasses.replace(STUDY, minimum_per_class=minimum)
        kept = kept_positions(study, run, dataset, store)
        assert len(kept) == round(0.1 * len(dataset.train))
        least[minimum] = min(counts_of(kept, dataset.train.labels, 10))
    assert least[0] < 3 <= least[3]


def test_a_trial_by_group_records_it_and_its_loss_sees_groups(
    data: PreparedData, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dataclasses.replace(STUDY, by="group")
    run = prepared(study, data, store, method="random", quotas="drop", keep_fraction=0.3)
    seen: dict[str, Any] = {"units": [], "recalls": []}

    class Spy(CrossEntropy):
        needs_recalls = True

        def __init__(self, context: LossContext) -> None:
            seen["context"] = context

        def __call__(
            self, logits: torch.Tensor, labels: torch.Tensor, units: torch.Tensor
        ) -> torch.Tensor:
            seen["units"] += units.tolist()
            return super().__call__(logits, labels, units)

        def end_epoch(self, recalls: NDArray[np.float64] | None) -> None:
            seen["recalls"].append(recalls)

    monkeypatch.setattr(trials, "loss_rule", lambda _: SimpleNamespace(make=Spy))
    outcome = run_trial(study, run, data, store, "cpu")
    entry = required(store, "trial", run.key)
    kept = np.flatnonzero(np.isin(data.dataset.train.ids, entry.array("kept_ids")))
    groups = counts_of(kept, data.dataset.members("group"), 4)
    assert entry.info["by"] == "group"
    assert entry.info["kept_by_group"] == groups
    assert entry.info["kept_by_class"] == counts_of(kept, data.dataset.train.labels, 10)
    assert seen["context"].unit_sizes.tolist() == groups
    assert seen["context"].class_sizes.tolist() == entry.info["kept_by_class"]
    assert (seen["context"].by, seen["context"].epochs) == ("group", 2)
    assert np.bincount(seen["units"]).tolist() == [2 * size for size in groups]  # two epochs
    assert [recalls.shape for recalls in seen["recalls"]] == [(4,), (4,)]
    # The loss was last told the recalls of the finished network.
    correct, sizes = (
        np.array(entry.info[name]) for name in ("validation_by_group", "validation_sizes_by_group")
    )
    np.testing.assert_allclose(correct / sizes, seen["recalls"][-1])
    assert sum(entry.info["validation_by_class"]) == correct.sum()
    assert (
        entry.info["validation_sizes_by_class"] == data.dataset.class_sizes("validation").tolist()
    )
    by_group = unit_recalls(entry.array("predictions"), data.dataset, "group", "test")
    assert outcome["worst_class_accuracy"] == by_group.min()


@pytest.mark.parametrize("loss", ["cdb_w", "cdb_w_original", "class_balanced", "group_dro(0.1)"])
def test_losses_by_group_and_by_class_train_different_networks(
    data: PreparedData, tmp_path: Path, loss: str
) -> None:
    results = []
    for by in ("class", "group"):
        study = dataclasses.replace(STUDY, by=by)  # type: ignore[arg-type]
        store = Store(tmp_path / by)
        losses = dict.fromkeys(("cross_entropy", loss))
        for name in losses:
            run = prepared(study, data, store, method="random", keep_fraction=0.3, loss=name)
            run_trial(study, run, data, store, "cpu")
            losses[name] = required(store, "trial", run.key).array("predictions").tolist()
        results.append(losses)
    assert results[0]["cross_entropy"] == results[1]["cross_entropy"]
    assert results[0][loss] != results[1][loss]


def test_budgets_are_checked_by_group(data: PreparedData) -> None:
    point: dict[str, object] = {"method": "random", "quotas": "balanced", "keep_fraction": 0.01}
    study = dataclasses.replace(STUDY, by="group", minimum_per_class=30)
    with pytest.raises(ConfigError, match=r"at least \d+ samples \(30 per group\) for quotas 'bal"):
        plan_of(study, data.dataset, point)


def test_a_trial_whose_quota_scores_failed_is_said_to_lack_them(
    data: PreparedData, store: Store
) -> None:
    from raydrop.cluster.sweep import _failed_input

    point = {"method": "random", "quotas": "from_method:el2n", "keep_fraction": 0.2}
    run = prepared(STUDY, data, store, **point)
    assert run.quota_scores is not None
    assert _failed_input(run, {run.quota_scores.key: "why"}) == "why"
    assert _failed_input(run, {}) is None
