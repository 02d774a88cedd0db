"""What a study takes: each thing once, identified by what it depends on and by nothing else."""

from __future__ import annotations

import dataclasses
import re

import pytest

from raydrop.data import load_dataset
from raydrop.data.dataset import ImageDataset
from raydrop.errors import ConfigError
from raydrop.plan import Plan, estimated_samples, make_plan, trial_configs
from raydrop.store import Store
from raydrop.study import Study, Training, TrialConfig


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return load_dataset("digits+long_tail(10)")


def _plan(study: Study, dataset: ImageDataset, points: list[dict[str, object]]) -> Plan:
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


def test_each_query_run_and_score_is_shared_by_all_its_trials(dataset: ImageDataset) -> None:
    plan = _plan(_study(), dataset, GRID)
    assert len(plan.queries) == 2  # one per seed
    assert len(plan.scores) == 3 * 2
    assert len(plan.trials) == (3 * 2 * 2 * 2 + 2) * 2  # keep 1.0 is one unpruned run per loss
    assert len({run.key for run in plan.trials}) == len(plan.trials)


def test_random_without_quotas_needs_no_query_run(dataset: ImageDataset) -> None:
    plan = _plan(_study(), dataset, [{"method": "random", "keep_fraction": 0.5}])
    assert plan.queries == ()
    plan = _plan(_study(), dataset, [{"method": "random", "quotas": "drop", "keep_fraction": 0.5}])
    assert len(plan.queries) == 2


@pytest.mark.parametrize(
    ("change", "same_query", "same_scores", "same_trial"),
    [
        ({"name": "other"}, True, True, True),
        ({"seeds": (0,)}, True, True, True),
        ({"budget": "equal_steps"}, True, True, False),
        ({"minimum_per_class": 1}, True, True, False),
        ({"recall_smoothing": 1.0}, True, True, False),
        ({"checkpoints": 3}, False, False, False),
        ({"model": "resnet18"}, False, False, False),
        ({"training": Training(epochs=3)}, False, False, False),
        ({"training": Training(augment=False)}, True, True, False),
    ],
)
def test_identity_follows_what_a_result_depends_on(
    dataset: ImageDataset,
    change: dict[str, object],
    same_query: bool,
    same_scores: bool,
    same_trial: bool,
) -> None:
    point = [{"method": "el2n", "quotas": "drop", "keep_fraction": 0.5}]
    first, second = (_plan(s, dataset, point) for s in (_study(), _study(**change)))
    assert (first.queries[0].key == second.queries[0].key) == same_query
    assert (first.scores[0].key == second.scores[0].key) == same_scores
    assert (first.trials[0].key == second.trials[0].key) == same_trial


def test_other_data_are_another_identity(dataset: ImageDataset) -> None:
    point = [{"method": "random", "keep_fraction": 0.5}]
    other = load_dataset("digits+long_tail(5)")
    first, second = (_plan(_study(), data, point) for data in (dataset, other))
    assert {r.key for r in first.trials}.isdisjoint(r.key for r in second.trials)


def test_missing_shrinks_as_things_are_done(dataset: ImageDataset, store: Store) -> None:
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
    dataset: ImageDataset, point: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _plan(_study(), dataset, [point])


def test_minimum_that_the_budget_cannot_give_is_refused(dataset: ImageDataset) -> None:
    point = [{"method": "random", "quotas": "drop", "keep_fraction": 0.1}]
    with pytest.raises(ConfigError, match=r"at least \d+ samples \(5 per class\).*found 33"):
        _plan(_study(minimum_per_class=5), dataset, point)


def test_unknown_model_names_the_nearest(dataset: ImageDataset) -> None:
    with pytest.raises(ConfigError, match="did you mean resnet1"):
        _plan(_study(model="resnet19"), dataset, [{}])


def test_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one trial"):
        trial_configs(_study(include_unpruned=False), [])


def test_unpruned_runs_are_added_once_per_loss_and_seed() -> None:
    trials = trial_configs(_study(), [{"method": "random", "keep_fraction": 0.5, "loss": "cdb_w"}])
    assert [t for t in trials if t.method == "none"] == [
        TrialConfig("none", "none", 1.0, "cdb_w", seed) for seed in (0, 1)
    ]


def test_estimated_work_by_hand(dataset: ImageDataset) -> None:
    study = _study(seeds=(0,), include_unpruned=False, training=Training(epochs=6, batch_size=32))
    plan = _plan(study, dataset, [{"method": "moso", "keep_fraction": 0.5}])
    n = len(dataset.train)
    work = estimated_samples(study, plan, dataset)
    assert work["queries"] == 8 * n
    assert work["scores"] == 2 * 10 * n
    assert work["trials"] == 6 * -(-round(n / 2) // 32) * 32


def test_a_trial_does_not_depend_on_what_it_does_not_read(dataset: ImageDataset) -> None:
    point: list[dict[str, object]] = [{"method": "random", "keep_fraction": 0.5}]
    first, second = (_plan(s, dataset, point) for s in (_study(), _study(checkpoints=3)))
    assert [run.key for run in first.trials] == [run.key for run in second.trials]
