"""Trials that prune a network: from a dense trial's weights to a record, without Ray."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.errors import StoreError
from raydrop.metrics import auc_by_class
from raydrop.models import build_model
from raydrop.network.saving import network_of
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.runs import TrialRun
from raydrop.stages.networks import network_config, run_network_trial
from raydrop.stages.trials import run_trial
from raydrop.store import Entry, Store, required
from raydrop.study import NetworkPruning, Study, Training, config_hash
from raydrop.training.checkpoints import load_state
from raydrop.training.evaluate import predict

STUDY = Study(
    name="networks",
    dataset="digits+subset(24, test=15)",
    model="small_cnn",
    param_space={},
    seeds=(0,),
    training=Training(epochs=2, batch_size=8, augment=False),
    network=NetworkPruning(
        retraining=Training(epochs=1, batch_size=16, learning_rate=0.01, augment=False)
    ),
)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(load_dataset(STUDY.dataset))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def plan_of(data: PreparedData, study: Study = STUDY, **point: object) -> Plan:
    return make_plan(study, trial_configs(study, [point]), data.dataset)


def network_of_plan(plan: Plan) -> TrialRun:
    (run,) = [run for run in plan.trials if run.dense is not None]
    return run


def finished(data: PreparedData, store: Store, study: Study = STUDY, **point: object) -> Entry:
    """The record of the one network trial of a point, with its dense trial done before."""
    plan = plan_of(data, study, **point)
    for run in plan.missing(store).trials:
        if run.dense is None:
            run_trial(study, run, data, store, "cpu")
    run = network_of_plan(plan)
    if store.read("trial", run.key) is None:
        run_network_trial(study, run, data, store, "cpu")
    return required(store, "trial", run.key)


MAGNITUDE = {"network_method": "magnitude", "network_target": 0.5}


def test_a_record_says_what_was_measured(data: PreparedData, store: Store) -> None:
    entry = finished(data, store, **MAGNITUDE)
    info = entry.info
    assert info["network_method"] == "magnitude" or info["network_method"].startswith("magnitude(")
    assert info["network_target"] == "flops(0.5)"
    assert info["macs"] < info["dense_macs"]
    assert info["macs_removed"] == pytest.approx(1 - info["macs"] / info["dense_macs"])
    assert info["macs_removed"] == pytest.approx(0.5, abs=0.02) or info["network_note"]
    assert 0 < info["network_sparsity"] < 1
    assert info["forward_seconds"] > 0
    assert info["n_kept"] == len(data.dataset.train)
    assert info["epochs"] == 1
    dense = required(store, "trial", entry.config["dense"])
    assert dense.info["macs"] == dense.info["dense_macs"] == info["dense_macs"]
    assert dense.info["network_sparsity"] == dense.info["macs_removed"] == 0.0


def test_the_network_that_is_left_predicts_what_the_record_says(
    data: PreparedData, store: Store
) -> None:
    record = finished(data, store, **MAGNITUDE)
    run = network_of_plan(plan_of(data, **MAGNITUDE))
    entry = required(store, "network", config_hash(network_config(run)))
    model, spec = network_of(entry)
    test = make_batches(data, data.dataset.test, torch.device("cpu"))
    found = predict(model, test, len(data.dataset.test))
    np.testing.assert_array_equal(found, record.array("predictions"))
    assert tuple(spec.class_names) == tuple(data.dataset.class_names)


def test_areas_under_the_curve_are_those_of_the_networks_probabilities(
    data: PreparedData, store: Store
) -> None:
    record = finished(data, store, **MAGNITUDE)
    run = network_of_plan(plan_of(data, **MAGNITUDE))
    model, _ = network_of(required(store, "network", config_hash(network_config(run))))
    test = make_batches(data, data.dataset.test, torch.device("cpu"))
    with torch.no_grad():
        (images, labels), *_ = test([torch.arange(len(data.dataset.test))])
        probabilities = model(images).softmax(1).numpy()
    expected = auc_by_class(probabilities, labels.numpy())
    np.testing.assert_allclose(record.info["auc_by_class"], expected, atol=1e-6)
    assert record.info["auc_by_group"] is None


def test_the_same_trial_twice_is_the_same(
    data: PreparedData, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    point = {**MAGNITUDE, "loss": "pw(0.5, 1)"}
    first = finished(data, store, **point)
    again = finished(data, Store(tmp_path_factory.mktemp("again")), **point)
    np.testing.assert_array_equal(first.array("predictions"), again.array("predictions"))
    assert first.info["macs"] == again.info["macs"]


def test_dense_trials_are_not_changed_by_those_that_prune_them(
    data: PreparedData, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = finished(data, store, **MAGNITUDE)
    alone = Store(tmp_path_factory.mktemp("alone"))
    (run,) = plan_of(data).trials
    assert run.key == record.config["dense"]
    run_trial(STUDY, run, data, alone, "cpu")
    assert alone.read("weights", run.weights_key) is None  # no one asked for them
    ours, theirs = required(store, "trial", run.key), required(alone, "trial", run.key)
    np.testing.assert_array_equal(ours.array("predictions"), theirs.array("predictions"))


def test_weights_that_are_left_are_the_dense_trials(data: PreparedData, store: Store) -> None:
    record = finished(data, store, **MAGNITUDE)
    dense = network_of_plan(plan_of(data, **MAGNITUDE)).dense
    assert dense is not None
    model = build_model("small_cnn", 10, data.dataset.image_shape)
    load_state(model, required(store, "weights", dense.weights_key).array("weights"))
    test = make_batches(data, data.dataset.test, torch.device("cpu"))
    found = predict(model, test, len(data.dataset.test))
    expected = required(store, "trial", record.config["dense"]).array("predictions")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "pw(0.5, 1)", "cdb_w", "group_dro"])
@pytest.mark.parametrize("method", ["taylor", "unstructured_taylor"])
def test_every_kind_of_loss_prunes_and_retrains(
    data: PreparedData, store: Store, method: str, loss: str
) -> None:
    entry = finished(data, store, network_method=method, network_target=0.5, loss=loss)
    assert np.mean(entry.array("predictions") == data.dataset.test.labels) > 0.2


def test_masked_weights_stay_zero_through_retraining(data: PreparedData, store: Store) -> None:
    point = {"network_method": "unstructured_magnitude", "network_target": 0.8}
    entry = finished(data, store, **point)
    info = entry.info
    assert info["network_sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert info["macs"] == info["dense_macs"]  # masks save no arithmetic by themselves
    run = network_of_plan(plan_of(data, **point))
    model, _ = network_of(required(store, "network", config_hash(network_config(run))))
    weights = [p for name, p in model.named_parameters() if p.ndim > 1]
    zero = sum(int((weight == 0).sum()) for weight in weights)
    assert zero / sum(weight.numel() for weight in weights) == pytest.approx(0.8, abs=1e-3)


def test_the_reference_is_computed_once_and_only_where_it_is_read(
    data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("reference"))
    finished(data, store, **MAGNITUDE)
    assert not list(store.entries("reference"))
    finished(data, store, **MAGNITUDE, loss="pw(0.5, 1)")
    (entry,) = store.entries("reference")
    written = (entry.path / "meta.json").stat().st_mtime_ns
    finished(data, store, **MAGNITUDE, loss="pw(0.8, 2)")
    (entry,) = store.entries("reference")
    assert (entry.path / "meta.json").stat().st_mtime_ns == written
    assert entry.array("logits").shape == (len(data.dataset.train), 10)


def test_with_augmentation_the_reference_sees_every_view(
    data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("views"))
    retraining = Training(epochs=1, batch_size=16, learning_rate=0.01, augment=True)
    study = dataclasses.replace(STUDY, network=NetworkPruning(retraining=retraining))
    finished(data, store, study, **MAGNITUDE, loss="pw(0.5, 1)")
    assert not list(store.entries("reference"))


def test_rounds_reach_the_same_target_with_more_retraining(
    data: PreparedData, store: Store
) -> None:
    assert STUDY.network is not None
    study = dataclasses.replace(STUDY, network=dataclasses.replace(STUDY.network, rounds=2))
    entry = finished(data, store, study, **MAGNITUDE)
    assert entry.info["epochs"] == 2
    assert entry.info["macs_removed"] == pytest.approx(0.5, abs=0.02) or entry.info["network_note"]
    run = network_of_plan(plan_of(data, study, **MAGNITUDE))
    model, _ = network_of(required(store, "network", config_hash(network_config(run))))
    test = make_batches(data, data.dataset.test, torch.device("cpu"))
    found = predict(model, test, len(data.dataset.test))
    np.testing.assert_array_equal(found, entry.array("predictions"))


def test_a_pruned_data_set_is_what_the_network_is_retrained_on(
    data: PreparedData, store: Store
) -> None:
    point: dict[str, Any] = {"method": "random", "keep_fraction": 0.3, **MAGNITUDE}
    plan = plan_of(data, **point)
    from raydrop.stages.scoring import run_score

    for score in plan.missing(store).scores:
        run_score(STUDY, score, data.dataset.train, store, None)
    entry = finished(data, store, **point)
    dense = required(store, "trial", entry.config["dense"])
    np.testing.assert_array_equal(entry.array("kept_ids"), dense.array("kept_ids"))
    assert len(entry.array("kept_ids")) == round(0.3 * len(data.dataset.train))


def test_weights_that_are_not_restored_are_those_of_the_search(
    data: PreparedData, store: Store
) -> None:
    assert STUDY.network is not None
    still = dataclasses.replace(
        STUDY.network, retraining=Training(epochs=1, learning_rate=0.0, augment=False)
    )
    point = {"network_method": "taylor_activation(learning_rate=0.01)", "network_target": 0.5}
    states = []
    for restore in (True, False):
        network = dataclasses.replace(still, restore=restore)
        study = dataclasses.replace(STUDY, network=network)
        finished(data, store, study, **point)
        run = network_of_plan(plan_of(data, study, **point))
        model, _ = network_of(required(store, "network", config_hash(network_config(run))))
        states.append(model.state_dict()["head.bias"])
    dense = network_of_plan(plan_of(data, **point)).dense
    assert dense is not None
    model = build_model("small_cnn", 10, data.dataset.image_shape)
    load_state(model, required(store, "weights", dense.weights_key).array("weights"))
    assert torch.equal(states[0], model.state_dict()["head.bias"])
    assert not torch.equal(states[1], model.state_dict()["head.bias"])


def test_without_the_dense_networks_weights_it_says_so(
    data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = network_of_plan(plan_of(data, **MAGNITUDE))
    with pytest.raises(StoreError, match="Expected weights"):
        run_network_trial(STUDY, run, data, Store(tmp_path_factory.mktemp("none")), "cpu")
