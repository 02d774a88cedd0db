"""What a study takes: each thing once, identified by what it depends on and by nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from raydrop.cli.studies import replace_dataset
from raydrop.data import load_dataset
from raydrop.data.dataset import ArrayImages, LabelledDataset, Split
from raydrop.errors import ConfigError, NetworkError
from raydrop.models import Head
from raydrop.plan import Plan, check_networks, make_plan, trial_configs
from raydrop.plan.runs import gradient_units, unit_config
from raydrop.plan.workload import sample_passes, unshared_query_runs, visited_samples, workload
from raydrop.scores import METHODS
from raydrop.store import Store
from raydrop.study import NetworkPruning, Study, Training, TrialConfig


@pytest.fixture(scope="module")
def dataset() -> LabelledDataset:
    return load_dataset("digits+long_tail(10)")


def _plan(study: Study, dataset: LabelledDataset, points: list[dict[str, object]]) -> Plan:
    return make_plan(study, trial_configs(study, points), dataset)


def _study(**changes: object) -> Study:
    study = Study(name="t", dataset="digits", model="small_cnn", param_space={}, seeds=(0, 1))
    return dataclasses.replace(study, **changes)  # type: ignore[arg-type]


GRID: list[dict[str, object]] = [
    {"method": m, "quotas": q, "keep_fraction": k, "loss": loss}
    for m in ("random", "el2n", "moso")
    for q in ("none", "drop")
    for k in (0.2, 0.5, 1.0)
    for loss in ("cross_entropy", "cdb_w")
]


def test_each_query_run_and_score_is_shared_by_all_its_trials(dataset: LabelledDataset) -> None:
    plan = _plan(_study(), dataset, GRID)
    assert len(plan.queries) == 2  # one per seed
    assert len(plan.scores) == 3 * 2
    assert len(plan.trials) == (3 * 2 * 2 * 2 + 2) * 2  # keep 1.0 is one unpruned run per loss
    assert len({run.key for run in plan.trials}) == len(plan.trials)


def test_sharing_is_told_beside_what_it_saves(dataset: LabelledDataset) -> None:
    methods = ["el2n", "grand", "forgetting", "dynamic_uncertainty", "moso", "aum", "entropy"]
    points: list[dict[str, object]] = [
        {"method": m, "quotas": q, "keep_fraction": k}
        for m in methods
        for q in ("none", "drop")
        for k in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    plan = _plan(_study(seeds=(0, 1, 2), initialisations=5), dataset, points)
    assert unshared_query_runs(plan) == 7 * 5 * 3
    assert sum(query.initialisation == 0 for query in plan.queries) == 3
    assert sum(query.initialisation > 0 for query in plan.queries) == 4 * 3
    drop = _plan(_study(), dataset, [{"method": "random", "keep_fraction": 0.5, "quotas": "drop"}])
    assert unshared_query_runs(drop) == 2  # one per seed
    none = _plan(_study(), dataset, [{"method": "random", "keep_fraction": 0.5}])
    assert unshared_query_runs(none) == 0


def test_random_without_quotas_needs_no_query_run(dataset: LabelledDataset) -> None:
    plan = _plan(_study(), dataset, [{"method": "random", "keep_fraction": 0.5}])
    assert plan.queries == ()
    plan = _plan(_study(), dataset, [{"method": "random", "quotas": "drop", "keep_fraction": 0.5}])
    assert len(plan.queries) == 2


READERS: dict[str, dict[str, object]] = {
    "el2n": {"method": "el2n", "quotas": "drop", "keep_fraction": 0.5},
    "moso": {"method": "moso", "keep_fraction": 0.5},
    "random": {"method": "random", "keep_fraction": 0.5},
    "random with recalls": {"method": "random", "quotas": "drop", "keep_fraction": 0.5},
    "random as el2n": {"method": "random", "quotas": "from_method:el2n", "keep_fraction": 0.5},
    "el2n as random": {"method": "el2n", "quotas": "from_method:random", "keep_fraction": 0.5},
    "random as random": {"method": "random", "quotas": "from_method:random", "keep_fraction": 0.5},
    "unpruned": {},
}
ALL = "query scores trial"


@pytest.mark.parametrize(
    ("change", "reader", "changes"),
    [
        ({"name": "other"}, "el2n", ""),
        ({"seeds": (0,)}, "el2n", ""),
        ({"budget": "equal_steps"}, "el2n", "trial"),
        ({"minimum_per_class": 1}, "el2n", "trial"),
        ({"recall_smoothing": 1.0}, "el2n", "trial"),
        ({"model": "resnet18"}, "el2n", ALL),
        ({"training": Training(epochs=3)}, "el2n", ALL),
        ({"training": Training(augment=False)}, "el2n", "trial"),
        ({"checkpoints": 3}, "el2n", ALL),
        ({"checkpoints": 3}, "random", ""),
        ({"query_training": Training(augment=False)}, "el2n", ""),  # what it is by default
        ({"query_training": Training(epochs=3)}, "el2n", ALL),
        ({"query_training": Training(epochs=3)}, "random", ""),
        ({"query_training": Training(epochs=3)}, "unpruned", ""),
        ({"query_training": Training(epochs=3)}, "random with recalls", "query trial"),
        ({"query_model": "resnet18"}, "el2n", ALL),
        ({"query_model": "resnet18"}, "random", ""),
        ({"query_model": "resnet18"}, "random with recalls", "query trial"),
        ({"query_model": "resnet18"}, "unpruned", ""),
        ({"query_model": "resnet18"}, "random as el2n", ALL),
        ({"query_model": "resnet18"}, "el2n as random", ALL),
        ({"query_model": "resnet18"}, "random as random", ""),
        ({"initialisations": 2}, "random as el2n", "scores trial"),
        ({"initialisations": 2}, "random as random", ""),
        ({"query_training": Training(epochs=3)}, "random as el2n", ALL),
        ({"score_precision": "bf16"}, "random as el2n", ""),
        ({"recall_smoothing": 1.0}, "random as el2n", "trial"),
        ({"initialisations": 2}, "el2n", "scores trial"),
        ({"initialisations": 2}, "moso", ""),
        ({"initialisations": 2}, "random with recalls", ""),
        ({"partitions": 2}, "moso", ALL),
        ({"partitions": 2}, "el2n", ""),
        ({"score_precision": "bf16"}, "moso", "scores trial"),
        ({"score_precision": "bf16"}, "el2n", ""),
    ],
)
def test_identity_follows_what_a_result_depends_on(
    dataset: LabelledDataset, change: dict[str, object], reader: str, changes: str
) -> None:
    plain = _study(include_unpruned=False)
    other = dataclasses.replace(plain, **change)  # type: ignore[arg-type]
    first, second = (_plan(study, dataset, [READERS[reader]]) for study in (plain, other))
    differing = ""
    for kind, before, after in (
        ("query", first.queries, second.queries),
        ("scores", first.scores, second.scores),
        ("trial", first.trials, second.trials),
    ):
        if any(one.key != other.key for one, other in zip(before, after, strict=False)):
            differing += f" {kind}"
    assert differing.split() == changes.split()


def test_from_method_shares_the_methods_own_scores(dataset: LabelledDataset, store: Store) -> None:
    points: list[dict[str, object]] = [
        {"method": "random", "quotas": "from_method:el2n", "keep_fraction": 0.5},
        {"method": "el2n", "keep_fraction": 0.5},
    ]
    plan = _plan(_study(seeds=(0,), include_unpruned=False), dataset, points)
    by_method = {score.method: score for score in plan.scores}
    assert len(plan.scores) == len(by_method) == 2
    (quoted,) = [run for run in plan.trials if run.trial.method == "random"]
    (plain,) = [run for run in plan.trials if run.trial.method == "el2n"]
    assert quoted.score == by_method["random"]
    assert quoted.quota_scores == plain.score == by_method["el2n"]
    assert quoted.recalls is plain.quota_scores is None
    # Its scores and their query run are missing as long as the trial is, and no longer.
    store.write("trial", plain.config, {})
    left = plan.missing(store)
    assert {score.method for score in left.scores} == {"random", "el2n"}
    assert left.queries == plan.queries == by_method["el2n"].queries
    store.write("trial", quoted.config, {})
    assert plan.missing(store) == Plan((), (), ())


def test_from_method_of_an_unknown_method_names_the_nearest(dataset: LabelledDataset) -> None:
    point = {"method": "random", "quotas": "from_method:el2m", "keep_fraction": 0.5}
    with pytest.raises(ConfigError, match="Unknown method 'el2m': did you mean el2n"):
        _plan(_study(), dataset, [point])


def test_a_loss_is_one_trial_however_it_is_written() -> None:
    points: list[dict[str, object]] = [
        {"loss": loss} for loss in ("focal", "focal(2)", "focal(gamma=2.0)", "focal(3)")
    ]
    trials = trial_configs(_study(seeds=(0,)), points)
    assert [trial.loss for trial in trials] == ["focal(2)", "focal(3)"]


def test_a_study_by_group_needs_groups(dataset: LabelledDataset) -> None:
    with pytest.raises(ConfigError, match=r"groups in digits\+long_tail\(10\), found none; use"):
        _plan(_study(by="group"), dataset, [{}])


def test_targets_share_the_scores_of_one_query_model(dataset: LabelledDataset) -> None:
    points: list[dict[str, object]] = [
        {"method": method, "keep_fraction": 0.5, "model": model, "query_model": "small_cnn"}
        for method in ("moso", "random")
        for model in ("small_cnn", "resnet56")
    ]
    plan = _plan(_study(seeds=(0,)), dataset, points)
    assert [query.model for query in plan.queries] == ["small_cnn"]
    assert {(score.method, score.model) for score in plan.scores if score.queries} == {
        ("moso", "small_cnn")
    }
    assert len(plan.scores) == 2
    assert {(t.trial.method, t.trial.model, t.trial.query_model) for t in plan.trials} == {
        ("moso", "small_cnn", "small_cnn"),
        ("moso", "resnet56", "small_cnn"),
        ("random", "small_cnn", "small_cnn"),
        ("random", "resnet56", "resnet56"),  # reads nothing of the query model
        ("none", "small_cnn", "small_cnn"),
        ("none", "resnet56", "resnet56"),
    }


def test_kinds_of_query_runs(dataset: LabelledDataset) -> None:
    study = _study(seeds=(0,), partitions=3, initialisations=4)
    points: list[dict[str, object]] = [
        {"method": method, "keep_fraction": 0.5} for method in ("moso", "moso_loo", "grand", "el2n")
    ]
    plan = _plan(study, dataset, points)
    kinds = [(query.initialisation, query.partition) for query in plan.queries]
    whole, rest = kinds[0], kinds[1:]
    assert whole == (0, None)
    assert rest == [(r, None) for r in (1, 2, 3)] + [(0, (i, 3)) for i in range(3)]
    read = {score.method: [query.key for query in score.queries] for score in plan.scores}
    keys = [query.key for query in plan.queries]
    assert read["moso"] == read["moso_loo"] == keys[4:]
    assert read["grand"] == read["el2n"] == keys[:4]
    assert len(set(keys)) == 7


def test_fewer_samples_than_partitions_are_refused_before_anything_is_run(
    dataset: LabelledDataset,
) -> None:
    points: list[dict[str, object]] = [{"method": "moso", "keep_fraction": 0.5}]
    n = len(dataset.train)
    with pytest.raises(ConfigError, match=f"at least {n + 1} training samples.*found {n}; lower"):
        _plan(_study(partitions=n + 1), dataset, points)
    # What no method reads does not have to fit.
    points = [{"method": "el2n", "keep_fraction": 0.5}]
    assert _plan(_study(partitions=n + 1), dataset, points).queries


def test_other_data_are_another_identity(dataset: LabelledDataset) -> None:
    point = [{"method": "random", "keep_fraction": 0.5}]
    other = load_dataset("digits+long_tail(5)")
    first, second = (_plan(_study(), data, point) for data in (dataset, other))
    assert {r.key for r in first.trials}.isdisjoint(r.key for r in second.trials)


def test_missing_shrinks_as_things_are_done(dataset: LabelledDataset, store: Store) -> None:
    plan = _plan(
        _study(include_unpruned=False), dataset, [{"method": "el2n", "keep_fraction": 0.5}]
    )
    assert plan.missing(store) == plan
    first = plan.trials[0]
    store.write("query", plan.queries[0].config, {})
    assert len(plan.missing(store).queries) == 1
    store.write("trial", first.config, {})
    left = plan.missing(store)
    assert first not in left.trials
    assert {s.seed for s in left.scores} == {1}
    store.write("trial", plan.trials[1].config, {})
    assert plan.missing(store) == Plan((), (), ())


@pytest.fixture
def store(tmp_path: object) -> Store:
    return Store(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"method": "el2m", "keep_fraction": 0.5}, "Unknown method 'el2m': did you mean el2n"),
        ({"method": "random", "quotas": "dropp", "keep_fraction": 0.5}, "did you mean drop"),
        ({"loss": "crossentropy"}, "Unknown loss 'crossentropy': did you mean cross_entropy"),
        ({"method": "random", "keep_fraction": 0.0}, "keep_fraction in (0, 1], found 0"),
        ({"method": "random", "keep_fraction": 1.5}, "keep_fraction in (0, 1], found 1.5"),
        ({"keep_fraction": 0.5}, "method 'none', which keeps everything"),
        ({"metod": "random"}, "did you mean method"),
        (
            {"method": "random", "quotas": "balanced", "keep_fraction": 0.01},
            "budget of at least 10 samples (1 per class) for quotas 'balanced', found 3",
        ),
    ],
)
def test_mistakes_are_said_before_anything_is_run(
    dataset: LabelledDataset, point: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _plan(_study(), dataset, [point])


def test_minimum_that_the_budget_cannot_give_is_refused(dataset: LabelledDataset) -> None:
    point = [{"method": "random", "quotas": "drop", "keep_fraction": 0.1}]
    with pytest.raises(ConfigError, match=r"at least \d+ samples \(5 per class\).*found 33"):
        _plan(_study(minimum_per_class=5), dataset, point)


def test_unknown_model_names_the_nearest(dataset: LabelledDataset) -> None:
    with pytest.raises(ConfigError, match="did you mean resnet1"):
        _plan(_study(model="resnet19"), dataset, [{}])


def test_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one trial"):
        trial_configs(_study(include_unpruned=False), [])


def test_unpruned_runs_are_added_once_per_loss_and_seed() -> None:
    trials = trial_configs(_study(), [{"method": "random", "keep_fraction": 0.5, "loss": "cdb_w"}])
    assert [t for t in trials if t.method == "none"] == [
        TrialConfig("none", "none", 1.0, "cdb_w", "small_cnn", "small_cnn", seed) for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("methods", "changes", "queries", "scores"),
    [
        (["moso"], {}, 8, 2 * 3),
        (["moso", "moso_loo"], {}, 8, 3 * 3),  # the products are shared
        (["moso_loo", "tracin_self"], {}, 8, 3 * 3),  # and so are the norms
        (["grand"], {}, 8, 1),
        (["grand"], {"initialisations": 3}, 8 + 2 * 2 * 4 / 3, 3),
        (["grand_last_layer"], {}, 8, 1 / 3),
        (["class_alignment"], {}, 8, 3),
        (["moso"], {"partitions": 2}, 6, 2 * 3),
        (["moso", "el2n"], {"partitions": 2}, 6 + 8, 2 * 3),
        (["moso", "moso_loo"], {"query_training": Training(epochs=2)}, 8 / 3, 3 * 2),
    ],
)
def test_estimated_work_by_hand(
    dataset: LabelledDataset,
    methods: list[str],
    changes: dict[str, object],
    queries: float,
    scores: float,
) -> None:
    """In passes over the training set, at six epochs and three checkpoints."""
    study = _study(
        seeds=(0,), include_unpruned=False, training=Training(epochs=6, batch_size=32),
        checkpoints=3, score_epoch_fraction=0.34, **changes,
    )  # fmt: skip
    plan = _plan(study, dataset, [{"method": m, "keep_fraction": 0.5} for m in methods])
    n = len(dataset.train)
    work = sample_passes(workload(study, plan, dataset))
    assert work["queries"] == pytest.approx(queries * n, abs=2)
    assert work["scores"] == pytest.approx(scores * n, abs=2)
    assert work["trials"] == len(methods) * 6 * -(-round(n / 2) // 32) * 32


def test_finished_quantities_are_no_work_any_more(dataset: LabelledDataset, store: Store) -> None:
    study = _study(seeds=(0,), checkpoints=3)
    plan = _plan(study, dataset, [{"method": "moso_loo", "keep_fraction": 0.5}])
    n = len(dataset.train)
    assert visited_samples(study, plan.scores, n, store) == 9 * n
    query, unit = gradient_units(study, plan.scores[0])[0]
    store.write("gradients", unit_config(query, unit, "fp32"), {})
    assert visited_samples(study, plan.scores, n, store) == 8 * n


def test_another_model_does_not_replace_those_of_the_search_space() -> None:
    assert replace_dataset(_study(), None, "vgg16").model == "vgg16"
    with pytest.raises(ConfigError, match="search space without 'model' to use 'vgg16' instead"):
        replace_dataset(_study(param_space=[{"model": "resnet18"}]), None, "vgg16")


NETWORKS: list[dict[str, object]] = [
    {"network_method": "magnitude", "network_target": target, "loss": loss}
    for target in ("none", 0.25, 0.5, "flops(0.75)", "parameters(0.5)", 0.9)
    for loss in ("cross_entropy", "focal(2)", "cdb_w", "pw(0.5, 1)")
]


def test_a_dense_network_is_trained_once_for_all_that_prune_it(dataset: LabelledDataset) -> None:
    plan = _plan(
        _study(seeds=(0, 1, 2)), dataset, [p for p in NETWORKS if p["network_target"] != "none"]
    )
    networks = [run for run in plan.trials if run.dense is not None]
    assert len(networks) == 5 * 4 * 3
    dense = [run for run in plan.trials if run.dense is None]
    assert len(dense) == 3  # one per seed, not 60
    assert {run.dense.key for run in networks if run.dense} == {run.key for run in dense}
    assert all(run.shared for run in dense)
    assert not any(run.shared for run in networks)
    assert {run.trial.loss for run in dense} == {"cross_entropy"}


def test_a_dense_trial_is_the_trial_without_network_pruning(dataset: LabelledDataset) -> None:
    point: dict[str, object] = {"method": "random", "keep_fraction": 0.5}
    plain = _plan(_study(), dataset, [point])
    network = {**point, "network_method": "magnitude", "network_target": 0.5}
    both = _plan(_study(), dataset, [network])
    assert {run.key for run in plain.trials} < {run.key for run in both.trials}
    (dense,) = {run.dense.key for run in both.trials if run.dense and run.trial.seed == 0}
    assert dense in {run.key for run in plain.trials}


def test_every_setting_of_network_pruning_tells_trials_apart(dataset: LabelledDataset) -> None:
    point: dict[str, object] = {"network_method": "magnitude", "network_target": 0.5}

    def keys(**network: object) -> tuple[str, str]:
        study = _study(seeds=(0,), network=NetworkPruning(**network))  # type: ignore[arg-type]
        plan = _plan(study, dataset, [point])
        (run,) = [run for run in plan.trials if run.dense]
        assert run.dense is not None
        return run.key, run.dense.key

    plain = keys()
    for change in ({"rounds": 2}, {"restore": False}, {"retraining": Training(epochs=3)}):
        other = keys(**change)
        assert other[0] != plain[0]
        assert other[1] == plain[1]
    other = keys(dense_loss="focal(2)")
    assert other[0] != plain[0]
    assert other[1] != plain[1]


def test_a_loss_that_reads_a_dense_network_is_not_for_one(dataset: LabelledDataset) -> None:
    trials = trial_configs(_study(seeds=(0,)), NETWORKS)
    dense = {t.loss for t in trials if t.network_method == "none"}
    assert dense == {"cross_entropy", "focal(2)", "cdb_w"}
    assert {t.loss for t in trials if t.network_method != "none"} == dense | {"pw(0.5, 1)"}


def test_targets_are_spelled_out() -> None:
    points = [
        {"network_method": "magnitude", "network_target": t} for t in (0.5, "0.50", "flops(.5)")
    ]
    trials = trial_configs(_study(seeds=(0,), include_unpruned=False), points)
    assert [t.network_target for t in trials if t.network_method != "none"] == ["flops(0.5)"]
    masked = {"network_method": "unstructured_magnitude", "network_target": 0.5}
    trials = trial_configs(_study(seeds=(0,)), [masked])
    assert {t.network_target for t in trials} == {"none", "sparsity(0.5)"}


@pytest.mark.parametrize(
    "target", [0.0, 1, -0.5, "half", "flops()", "flops(2)", "sparsity(0.5)", True]
)
def test_a_target_out_of_range_is_refused(target: object) -> None:
    point = {"network_method": "magnitude", "network_target": target}
    with pytest.raises(ConfigError, match="Expected a network_target"):
        trial_configs(_study(), [point])


def test_a_finished_trial_without_weights_is_missing_for_those_that_prune_it(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    plan = _plan(
        _study(seeds=(0,)), dataset, [{"network_method": "magnitude", "network_target": 0.5}]
    )
    (dense,) = [run for run in plan.trials if run.dense is None]
    (network,) = [run for run in plan.trials if run.dense is not None]
    store.write("trial", dense.config, {})
    assert plan.missing(store).trials == plan.trials
    store.write("weights", dense.weights_config, {})
    assert plan.missing(store).trials == (network,)
    store.write("trial", network.config, {})
    store.remove("weights", dense.weights_key)
    assert plan.missing(store).trials == ()


def test_a_network_without_channels_to_cut_is_refused_before_anything_is_trained(
    dataset: LabelledDataset,
) -> None:
    point: dict[str, object] = {"network_method": "magnitude", "network_target": 0.5}
    plan = _plan(_study(model="linear"), dataset, [point])
    with pytest.raises(NetworkError, match="no convolution"):
        check_networks(plan, dataset)
    check_networks(_plan(_study(), dataset, [point]), dataset)
    masked: dict[str, object] = {**point, "network_method": "unstructured_magnitude"}
    check_networks(_plan(_study(model="linear"), dataset, [masked]), dataset)


# What a study cannot do is said before anything runs.


@pytest.fixture(scope="module")
def thumbnails(dataset: LabelledDataset) -> LabelledDataset:
    """The digits, with images of 32 blank pixels a side."""

    def blank(split: Split) -> Split:
        pixels = np.broadcast_to(np.uint8(0), (len(split), 1, 32, 32))
        return dataclasses.replace(split, inputs=ArrayImages(pixels))

    return dataclasses.replace(
        dataset,
        image_shape=(1, 32, 32),
        train=blank(dataset.train),
        validation=blank(dataset.validation),
        test=blank(dataset.test),
    )


READS_LAST_LAYER = ("grand_last_layer", "k_center", "moderate", "ssp")


@pytest.mark.parametrize("name", METHODS)
def test_a_score_says_what_it_needs_of_the_query_model(
    name: str, thumbnails: LabelledDataset
) -> None:
    point: dict[str, object] = {"method": name, "keep_fraction": 0.5}
    study = _study(model="squeezenet1_1", seeds=(0,))
    if name not in READS_LAST_LAYER:
        assert _plan(study, thumbnails, [point]).trials
        return
    with pytest.raises(
        ConfigError, match=rf"logits come from a linear layer, which {name} reads, found squeeze"
    ):
        _plan(study, thumbnails, [point])
    # It is the model that is scored with that counts, and quotas are scores too.
    other = dataclasses.replace(study, query_model="small_cnn")
    assert _plan(other, thumbnails, [point]).scores
    quotas = {"method": "random", "quotas": f"from_method:{name}", "keep_fraction": 0.5}
    with pytest.raises(ConfigError, match=f"which {name} reads"):
        _plan(study, thumbnails, [quotas])


def test_models_and_scores_are_asked_once_for_each_pair(
    dataset: LabelledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check(model: str, head: Head) -> None:
        asked.append((model, head.is_linear))

    monkeypatch.setattr(METHODS["k_center"].build, "check_model", staticmethod(check))
    points: list[dict[str, object]] = [
        {"method": "k_center", "keep_fraction": k, "loss": loss, "query_model": model}
        for k in (0.2, 0.5)
        for loss in ("cross_entropy", "focal")
        for model in ("small_cnn", "linear")
    ]
    _plan(_study(), dataset, points)
    assert sorted(asked) == [("linear", True), ("small_cnn", True)]


def test_parts_too_small_to_leave_a_sample_out(dataset: LabelledDataset) -> None:
    n = len(dataset.train)
    point: dict[str, object] = {"method": "moso_loo", "keep_fraction": 0.5}
    assert _plan(_study(seeds=(0,), partitions=n // 2), dataset, [point]).queries
    with pytest.raises(ConfigError, match="at least 2 training samples in each part for moso_loo"):
        _plan(_study(seeds=(0,), partitions=n // 2 + 1), dataset, [point])
    point["method"] = "moso"
    assert _plan(_study(seeds=(0,), partitions=n // 2 + 1), dataset, [point]).queries


@pytest.mark.parametrize(
    ("changes", "keep"),
    [
        ({"training": Training(batch_size=1)}, 0.5),
        ({"query_training": Training(batch_size=1)}, 0.5),
        ({"training": Training(batch_size=2)}, "odd"),
        ({"network": NetworkPruning(retraining=Training(batch_size=1))}, 0.5),
        ({}, 1e-9),
    ],
)
def test_batches_of_one_image(
    changes: dict[str, object], keep: float | str, dataset: LabelledDataset
) -> None:
    n = len(dataset.train)
    fraction = keep if isinstance(keep, float) else ((n // 2) | 1) / n
    # One pixel of resnet18 is left of 8 x 8, and four of small_cnn's.
    for model, fits in (("resnet18", False), ("small_cnn", True)):
        study = _study(model=model, seeds=(0,), include_unpruned=False, **changes)
        point: dict[str, object] = {"method": "el2n", "keep_fraction": fraction}
        if "network" in changes:
            point |= {"network_method": "magnitude", "network_target": 0.5}
        if fits:
            assert _plan(study, dataset, [point]).trials
            continue
        with pytest.raises(ConfigError, match="batches of two images or more to train resnet18"):
            _plan(study, dataset, [point])


def test_images_that_do_not_fit_a_model_are_said(dataset: LabelledDataset) -> None:
    point: dict[str, object] = {"method": "el2n", "keep_fraction": 0.5}
    with pytest.raises(ConfigError, match=r"images that vit_b_32 can take.* 224x224"):
        _plan(_study(query_model="vit_b_32"), dataset, [point])


def test_trained_weights_that_cannot_be_had_are_said(
    thumbnails: LabelledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    point: dict[str, object] = {"method": "el2n", "keep_fraction": 0.5}
    with pytest.raises(ConfigError, match=r"ImageNet weights of squeezenet1_1 .*no route"):
        _plan(_study(model="squeezenet1_1:imagenet"), thumbnails, [point])
