from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from raydrop.errors import ConfigError
from raydrop.study import (
    NetworkPruning,
    Study,
    Training,
    TrialConfig,
    canonical_json,
    config_hash,
    derive_seed,
)

POINT = {"method": "el2n", "quotas": "drop", "keep_fraction": 0.3, "loss": "cdb_w"}


def trial(
    method: str, quotas: str, keep_fraction: float, loss: str = "cross_entropy", seed: int = 0
) -> TrialConfig:
    return TrialConfig(method, quotas, keep_fraction, loss, "small_cnn", "small_cnn", seed)


def from_space(point: Mapping[str, Any], seed: int = 0) -> TrialConfig:
    return TrialConfig.from_space(point, seed, "small_cnn")


def study(**fields: Any) -> Study:
    base: dict[str, Any] = {
        "name": "tiny",
        "dataset": "digits",
        "model": "small_cnn",
        "param_space": {"method": "random", "keep_fraction": 0.5},
    }
    return Study(**{**base, **fields})


def test_canonical_json_is_one_text_per_value() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "ü", None]}) == r'{"a":[1.5,"\u00fc",null],"b":1}'
    assert canonical_json((1, 2)) == canonical_json([1, 2])
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": math.nan})


def test_a_value_and_what_is_read_back_from_its_json_have_the_same_hash() -> None:
    # As numbers 2 < 10, as texts "10" < "2": sorting must see the texts.
    config = {"by_class": {2: 0.5, 10: 0.25}, "milestones": (0.5, 0.75)}
    assert config_hash(json.loads(json.dumps(config))) == config_hash(config)


def test_hashes_are_pinned_since_stored_results_are_found_by_them() -> None:
    assert config_hash({"b": [1.5, "x"], "a": 1}) == "253252306831c7a53e616d2fac19ec1f"
    config = trial("el2n", "drop", 0.3).identity()
    assert config_hash(config) == "dd4587dbf2bc9b6814366e0b4665ae3e"
    # If this one changes, stored results are no longer found: raise SCHEMA or undo the change.
    assert config_hash(study().base("f")) == "43b44c1d02269abed66f1802e9f655ef"


def test_only_what_prunes_a_network_is_told_apart_by_it() -> None:
    dense = trial("el2n", "drop", 0.3)
    pruned = dataclasses.replace(dense, network_method="magnitude", network_target="flops(0.5)")
    assert "network_method" not in dense.identity()
    assert pruned.identity()["network_target"] == "flops(0.5)"
    assert dataclasses.replace(pruned, network_target="none") == dense
    assert dataclasses.replace(pruned, network_method="none") == dense


def test_a_network_method_wants_a_target() -> None:
    point = {"network_method": "magnitude", "network_target": 0.75}
    assert from_space(point).network_target == "0.75"
    assert from_space({"network_method": "none"}).network_target == "none"
    assert from_space({"network_target": 0.5}).network_target == "none"
    with pytest.raises(ConfigError, match="Expected a network_target beside network_method"):
        from_space({"network_method": "magnitude"})


def test_how_networks_are_pruned_survives_a_study_file() -> None:
    network = NetworkPruning(rounds=3, retraining=Training(epochs=4, milestones=(0.5,)))
    whole = study(network=network, training=Training(learning_rate=0.2))
    again = Study.from_dict(json.loads(json.dumps(whole.to_dict([{}]))))
    assert again.network == network
    assert again.pruning_of_networks() == network
    gentle = study(training=Training(epochs=7, learning_rate=0.2)).pruning_of_networks()
    assert gentle.retraining == Training(epochs=7, learning_rate=0.02)
    assert study(network=network).base("f") == study().base("f")  # a study may grow by networks


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"restore": 1}, "True or False for restore"),
        ({"retraining": {"epochs": 3}}, "retraining to be a Training"),
        ({"dense_loss": ""}, "dense_loss"),
    ],
)
def test_settings_of_network_pruning_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkPruning(**fields)
    with pytest.raises(ConfigError, match="network to be a NetworkPruning"):
        study(network={"rounds": 1})


def test_seeds_are_pinned_and_independent_by_purpose() -> None:
    assert derive_seed(0, "weights") == 6699829313034778310
    seeds = {derive_seed(s, p) for s in range(50) for p in ("weights", "order", "draw")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "1/x") != derive_seed(11, "x")


def test_equal_studies_have_equal_hashes() -> None:
    whole = Training(learning_rate=1, weight_decay=0, milestones=[0, 1], gradient_clip=2)  # type: ignore[arg-type]
    spelled = Training(
        learning_rate=1.0, weight_decay=0.0, milestones=(0.0, 1.0), gradient_clip=2.0
    )
    assert whole == spelled
    assert config_hash(dataclasses.asdict(whole)) == config_hash(dataclasses.asdict(spelled))
    one = study(score_epoch_fraction=1, recall_smoothing=1)
    other = study(score_epoch_fraction=1.0, recall_smoothing=1.0)
    assert config_hash(one.base("f")) == config_hash(other.base("f"))


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Training)])
def test_every_field_of_training_is_part_of_the_identity(name: str) -> None:
    other: dict[str, Any] = {
        "optimizer": "adamw", "schedule": "step", "precision": "fp32", "gradient_clip": 1.0,
        "nesterov": True, "augment": False, "milestones": (0.6,), "epochs": 31, "batch_size": 33,
        "compile": True,
    }  # fmt: skip
    changed = study(training=Training(**{name: other.get(name, 0.123)}))
    assert config_hash(changed.base("f")) != config_hash(study().base("f"))


def test_a_study_may_grow_without_losing_what_it_has() -> None:
    grown = study(name="big", seeds=(0, 1, 2, 3), param_space=[POINT], num_samples=9)
    assert grown.base("f") == study().base("f")
    assert study().base("g") != study().base("f")
    assert study(budget="drop_paper").base("f") != study().base("f")
    assert study(by="group").base("f") != study().base("f")
    assert study(model="vgg16", query_model="resnet18").base("f") == study().base("f")


def test_specifications_are_frozen() -> None:
    for value in (study(), Training(), trial("random", "none", 0.5)):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError, match=field):
            setattr(value, field, "changed")


def test_a_trial_that_keeps_everything_has_one_name() -> None:
    plain = trial("none", "none", 1.0)
    assert trial("el2n", "drop", 1.0) == plain
    assert trial("el2n", "drop", 1).as_dict() == plain.as_dict()
    assert type(trial("el2n", "drop", 1).keep_fraction) is float
    assert from_space({}) == plain
    assert from_space({**POINT, "keep_fraction": 1.0}).quotas == "none"
    assert from_space({**POINT, "keep_fraction": 1.0}).loss == "cdb_w"
    assert from_space({"query_model": "resnet18"}) == plain


def test_a_point_of_the_search_space_becomes_a_trial() -> None:
    found = from_space(MappingProxyType(POINT), seed=4)
    own = {"model": "small_cnn", "query_model": "small_cnn"}
    dense = {"network_method": "none", "network_target": "none"}
    assert found.as_dict() == {**POINT, **own, "seed": 4, **dense}
    assert found.identity() == {**POINT, **own, "seed": 4}
    assert from_space({"method": "random", "keep_fraction": 0.2}) == trial("random", "none", 0.2)


@pytest.mark.parametrize(
    ("point", "default", "models"),
    [
        ({}, None, ("small_cnn", "small_cnn")),
        ({"model": "vgg16"}, None, ("vgg16", "vgg16")),
        ({"model": "vgg16"}, "resnet50", ("vgg16", "resnet50")),
        ({"query_model": "vgg16"}, "resnet50", ("small_cnn", "vgg16")),
        ({"model": "vgg16", "query_model": "vgg19"}, "resnet50", ("vgg16", "vgg19")),
    ],
)
def test_models_are_the_points_or_the_studys(
    point: dict[str, Any], default: str | None, models: tuple[str, str]
) -> None:
    found = TrialConfig.from_space({**POINT, **point}, 0, "small_cnn", default)
    assert (found.model, found.query_model) == models


def test_rounding_of_a_keep_fraction_makes_no_other_trial() -> None:
    written, computed = (trial("el2n", "none", k) for k in (0.3, 0.1 + 0.2))
    assert written == computed


def test_prune_fraction_and_keep_fraction_name_the_same_trial() -> None:
    for percent in range(1, 100):
        kept = from_space({"method": "random", "keep_fraction": percent / 100})
        pruned = {"method": "random", "prune_fraction": (100 - percent) / 100}
        assert config_hash(from_space(pruned).as_dict()) == config_hash(kept.as_dict())


def test_pruning_nothing_is_the_trial_that_keeps_everything() -> None:
    assert from_space({"method": "el2n", "prune_fraction": 0}).method == "none"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"methd": "el2n"}, "Unknown key of param_space 'methd': did you mean method"),
        ({"ratio": 0.3}, "'ratio': did you mean keep_fraction or prune_fraction"),
        ({"zz": 1}, "choose one of keep_fraction, loss, method, model, network_method, network_ta"),
        ({"model": ""}, "a text for model, found ''"),
        (
            {"method": ["el2n", "grand"]},
            r'a grid .* write {"grid_search": \[\'el2n\', \'grand\'\]}',
        ),
        ({"query_model": 3}, "a text for query_model, found 3"),
        ({"keep_fraction": 0.3, "prune_fraction": 0.7}, "found both; remove one"),
        ({"method": "el2n", "keep_fraction": 0.0}, r"keep_fraction in \(0, 1\], found 0.0"),
        ({"method": "el2n", "keep_fraction": 1.5}, r"keep_fraction in \(0, 1\], found 1.5"),
        ({"method": "el2n", "keep_fraction": math.nan}, "number for keep_fraction, found nan"),
        ({"method": "el2n", "keep_fraction": "0.3"}, "number for keep_fraction, found '0.3'"),
        ({"method": "el2n", "keep_fraction": True}, "number for keep_fraction, found True"),
        ({"method": "el2n", "prune_fraction": 1.0}, r"prune_fraction in \[0, 1\), found 1.0"),
        ({"method": "el2n", "prune_fraction": -0.5}, r"prune_fraction in \[0, 1\), found -0.5"),
        ({"method": "el2n", "prune_fraction": "x"}, "number for prune_fraction, found 'x'"),
        ({"keep_fraction": 0.3}, "keep_fraction 1.0 with method 'none', .* found 0.3; name a"),
    ],
)
def test_a_point_that_is_no_trial_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_space(point)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError, match=f"seed to be a whole number .* 0, found {seed!r}"):
        trial("random", "none", 0.5, seed=seed)
    with pytest.raises(ConfigError, match="seeds to be a whole number of at least 0, found"):
        study(seeds=(seed,))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs to be a whole number of at least 1, found 0"),
        ("epochs", 1.5, "epochs to be a whole number of at least 1, found 1.5"),
        ("batch_size", True, "batch_size to be a whole number of at least 1, found True"),
        ("optimizer", "sdg", "Unknown optimizer 'sdg': did you mean sgd"),
        ("schedule", "cosin", "Unknown schedule 'cosin': did you mean cosine"),
        ("precision", "fp16", "Unknown precision 'fp16': did you mean"),
        ("learning_rate", -0.1, "learning_rate between 0 and inf, found -0.1"),
        ("learning_rate", math.inf, "a number for learning_rate, found inf"),
        ("learning_rate", "0.1", "a number for learning_rate, found '0.1'"),
        ("momentum", 1.1, "momentum between 0 and 1, found 1.1"),
        ("nesterov", "no", "True or False for nesterov, found 'no'"),
        ("weight_decay", math.nan, "a number for weight_decay, found nan"),
        ("milestones", (0.5, 80), "milestones between 0 and 1, found 80"),
        ("milestones", 0.5, r"a list for milestones, found 0.5; write \[0.5\]"),
        ("decay", 2, "decay between 0 and 1, found 2"),
        ("warmup", -1, "warmup between 0 and 1, found -1"),
        ("gradient_clip", -1.0, "gradient_clip between 0 and inf, found -1.0"),
        ("augment", 1, "True or False for augment, found 1"),
    ],
)
def test_training_names_the_field_that_is_wrong(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", " ", "a text for name, found ' '"),
        ("name", "a/b", "name that can be a folder's, found 'a/b'"),
        ("name", "..", "name that can be a folder's, found '..'"),
        ("dataset", None, "a text for dataset, found None"),
        ("dataset", ("a", "b"), "one data set for dataset, found a tuple of 2; make one of them"),
        ("model", "", "a text for model, found ''"),
        ("param_space", "random", "param_space to be a dict or a list of dicts, found str"),
        ("param_space", 3, "param_space to be a dict or a list of dicts, found int"),
        ("param_space", [{"method": "random"}, 3], "for param_space, found a list of something"),
        ("seeds", (), r"distinct seeds, found \(\)"),
        ("seeds", (1, 1), r"distinct seeds, found \(1, 1\)"),
        ("seeds", 3, r"a list for seeds, found 3; write \[3\]"),
        ("seeds", ([0],), r"seeds to be a whole number of at least 0, found \[0\]"),
        ("budget", "equal_epoch", "Unknown budget 'equal_epoch': did you mean equal_epochs"),
        ("by", "groups", "Unknown by 'groups': did you mean group"),
        ("training", {"epochs": 3}, "training to be a Training, found dict"),
        ("query_training", 3, "query_training to be a Training, found int"),
        ("query_model", " ", "a text for query_model, found ' '"),
        ("initialisations", 0, "initialisations to be a whole number of at least 1, found 0"),
        ("partitions", 2.0, "partitions to be a whole number of at least 1, found 2.0"),
        ("score_precision", "fp16", "Unknown score_precision 'fp16': did you mean"),
        ("minimum_per_class", -1, "minimum_per_class to be a whole number of at least 0, found -1"),
        ("checkpoints", 0, "checkpoints to be a whole number of at least 1, found 0"),
        ("score_epoch_fraction", 1.5, "score_epoch_fraction between 0 and 1, found 1.5"),
        ("recall_smoothing", -1, "recall_smoothing between 0 and inf, found -1"),
        ("include_unpruned", "yes", "True or False for include_unpruned, found 'yes'"),
        ("num_samples", 0, "num_samples to be a whole number of at least 1, found 0"),
    ],
)
def test_study_names_the_field_that_is_wrong(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**{field: value})


def test_search_spaces_are_always_a_tuple() -> None:
    assert study(param_space=POINT).spaces() == (POINT,)
    assert study(param_space=[POINT, {}]).spaces() == (POINT, {})


def test_a_study_survives_its_json() -> None:
    first = study(
        seeds=[3, 1],
        param_space={"method": "el2n", "keep_fraction": {"grid_search": [0.2, 0.5]}},
        training=Training(milestones=(0.3, 0.6), gradient_clip=1.0, optimizer="adamw"),
        budget="drop_paper",
        by="group",
        minimum_per_class=2,
        query_model="resnet18",
        query_training=Training(epochs=5),
        partitions=4,
        initialisations=3,
        score_precision="bf16",
    )
    points = [{"method": "el2n", "keep_fraction": fraction} for fraction in (0.2, 0.5)]
    values = json.loads(json.dumps(first.to_dict(points)))
    back = Study.from_dict(values)
    assert back == dataclasses.replace(first, param_space=points)
    assert back.to_dict(back.spaces()) == values
    assert back.base("f") == first.base("f")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datset": "digits"}, "Unknown field of a study 'datset': did you mean dataset"),
        ({"training": {"epoch": 3}}, "Unknown field of training 'epoch': did you mean epochs"),
        ({"training": 3}, "a dict for the field of training, found 3"),
        ({"query_training": {"epoch": 3}}, "Unknown field of query_training 'epoch'"),
        ({"training": {"epochs": 0}}, "epochs to be a whole number of at least 1, found 0"),
        ({"param_space": [{"method": {"eval": "1"}}]}, "for method .* stored study, found a dict"),
        ({"param_space": {"a\x1b": ["b"]}}, r"for a\\x1b in .* of a stored study, found a list"),
        ({"param_space": [[]]}, "a list of points for the param_space of a stored study"),
        ({"param_space": None}, "a list of points .*, found NoneType"),
        ({"recall_smoothing": 10**400}, "a number for recall_smoothing, found 1000"),
        ({"checkpoints": 2**63}, r"checkpoints to be below 2\^63"),
    ],
)
def test_a_stored_study_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Study.from_dict({**study().to_dict([POINT]), **change})


def test_the_points_of_a_stored_study_are_drawn_no_more_often() -> None:
    values = study(num_samples=7).to_dict([POINT, POINT])
    assert (values["num_samples"], Study.from_dict(values).num_samples) == (7, 1)


def test_a_stored_study_without_its_model_is_refused() -> None:
    values = study().to_dict([POINT])
    del values["model"]
    with pytest.raises(ConfigError, match=r"missing 1 required .* 'model'.*; use a study.json"):
        Study.from_dict(values)


def test_query_runs_train_like_trials_without_augmentation_unless_told_otherwise() -> None:
    plain = study(training=Training(epochs=7, augment=True))
    assert plain.training_of_queries() == Training(epochs=7, augment=False)
    told = study(query_training=Training(epochs=9, augment=True))
    assert told.training_of_queries() == Training(epochs=9, augment=True)
    spelled = study(query_training=Training(augment=False))
    assert spelled.base("f") == study().base("f")


# Values of NumPy, pandas and torch.


def _values(number: Any, flag: Any, text: Any, share: Any) -> dict[str, Any]:
    """Return fields of every specification, of values of some library's kinds."""
    training = Training(epochs=number, learning_rate=share, augment=flag, milestones=(share,))
    return {
        "name": text,
        "seeds": [number],
        "checkpoints": number,
        "recall_smoothing": share,
        "include_unpruned": flag,
        "training": training,
        "query_training": dataclasses.replace(training, batch_size=number),
        "network": NetworkPruning(rounds=number, restore=flag, dense_loss=text),
        "param_space": [{"method": text, "keep_fraction": {"grid_search": [share, number]}}],
    }


KINDS = {
    "numpy": (np.int64(3), np.bool_(True), np.str_("a"), np.float32(0.3)),
    "numpy, small": (np.uint8(3), np.bool_(True), np.str_("a"), np.float16(0.3)),
    "arrays": (np.array(3), np.array(True), np.array("a"), np.array(0.3)),
    "pandas": (
        pd.Series([3]).iloc[0],
        pd.Series([True]).iloc[0],
        pd.Series(["a"], dtype="string").iloc[0],
        pd.Series([0.3], dtype="float32").iloc[0],
    ),
    "torch": (torch.tensor(3), torch.tensor(True), "a", torch.tensor(0.3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_other_libraries_are_what_they_stand_for(kind: str) -> None:
    number, flag, text, share = KINDS[kind]
    found, expected = (
        study(**_values(number, flag, text, share)),
        study(**_values(3, True, "a", 0.3)),
    )
    assert found == expected
    assert repr(found) == repr(expected)  # and of the same types, all the way down
    assert found.base("f") == expected.base("f")
    point = {"method": text, "keep_fraction": share}
    trial = TrialConfig.from_space(point, number, text, text)
    assert repr(trial) == repr(
        TrialConfig.from_space({"method": "a", "keep_fraction": 0.3}, 3, "a", "a")
    )
    assert config_hash(trial.identity()) == config_hash(
        TrialConfig("a", "none", 0.3, "cross_entropy", "a", "a", 3).identity()
    )


def test_arrays_are_lists() -> None:
    found = study(seeds=np.arange(3), training=Training(milestones=np.array([0.5, 0.75])))
    assert repr(found) == repr(study(seeds=(0, 1, 2), training=Training()))
    space = {"keep_fraction": {"grid_search": np.array([0.1, 0.3], dtype=np.float32)}}
    (spelled,) = study(param_space=space).spaces()
    assert repr(spelled) == "{'keep_fraction': {'grid_search': [0.1, 0.3]}}"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("checkpoints", np.float64(3.0), "checkpoints to be a whole number"),
        (
            "checkpoints",
            np.bool_(True),
            "checkpoints to be a whole number of at least 1, found True",
        ),
        ("recall_smoothing", np.float32("nan"), "a number for recall_smoothing, found nan"),
        ("recall_smoothing", np.complex64(1), "a number for recall_smoothing, found"),
        ("recall_smoothing", np.array([0.5]), r"a number for recall_smoothing, found \[0.5\]"),
        ("recall_smoothing", np.zeros((1, 1)), "a number for recall_smoothing, found array"),
        ("recall_smoothing", np.datetime64("2020"), "a number for recall_smoothing, found"),
        ("recall_smoothing", pd.NA, "a number for recall_smoothing, found <NA>"),
        ("recall_smoothing", torch.tensor(0.3, dtype=torch.bfloat16), "a number for recall_smoo"),
        (
            "recall_smoothing",
            torch.tensor(0.3, requires_grad=True),
            "a number for recall_smoothing",
        ),
        ("include_unpruned", np.int64(1), "True or False for include_unpruned, found 1"),
        ("seeds", np.array(3), r"a list for seeds, found 3; write \[3\]"),
        ("seeds", [np.int64(1), 1], r"distinct seeds, found \(1, 1\)"),
    ],
)
def test_values_of_other_libraries_that_do_not_fit_are_refused(
    field: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**{field: value})
