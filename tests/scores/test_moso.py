"""Surrogates of parts, further initialisations, and scores from stages: no Ray."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import class_balanced_by_mask, gradients_one_by_one, moso_by_averaging

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.errors import ConfigError, ScoringError
from raydrop.models import build_model
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.runs import QueryRun, ScoreRun, query_run, score_run
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import TraceMethod, stratified_partitions
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.selection import quota_rule, select
from raydrop.stages.queries import load_query, run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.training.checkpoints import load_state

properties = settings(derandomize=True, deadline=None, max_examples=40)

# Parts of the training set.


@properties
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data(), st.integers(0, 3))
def test_parts_hold_each_sample_once_and_are_as_even_as_can_be(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    classes = np.array(labels)
    count = data.draw(st.integers(1, len(labels)))
    parts = stratified_partitions(classes, count, seed)
    assert len(parts) == count
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) == (1 if len(labels) % count else 0)
    by_class = np.array([np.bincount(classes[part], minlength=6) for part in parts])
    assert (by_class.max(axis=0) - by_class.min(axis=0) <= 1).all()


def test_parts_of_data_stored_class_by_class_see_every_class() -> None:
    labels = np.repeat(np.arange(10), 8)
    for part in stratified_partitions(labels, 8, seed=0):
        assert np.bincount(labels[part]).tolist() == [1] * 10
    contiguous = np.array_split(np.arange(80), 8)  # what they are not
    assert all(np.unique(labels[part]).size == 2 or part[0] % 8 == 0 for part in contiguous)
    assert all(np.unique(labels[part]).size < 10 for part in contiguous)


def test_parts_are_random_and_depend_on_seed_and_count_alone() -> None:
    labels = np.arange(60) % 3
    first, again, other = (stratified_partitions(labels, 4, seed) for seed in (0, 0, 1))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    assert [part.tolist() for part in first] != [part.tolist() for part in other]
    assert stratified_partitions(labels, 4, 0)[0].tolist() == PINNED
    halves = stratified_partitions(labels, 2, 0)
    assert not set(first[0].tolist()) <= set(halves[0].tolist())


PINNED = [7, 9, 11, 16, 22, 26, 27, 29, 34, 36, 40, 41, 47, 51, 54]


def test_fewer_samples_than_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 4 training samples, .* found 3; lower part"):
        stratified_partitions(np.array([0, 1, 1]), 4, 0)


# Query runs and scores from stages.

STUDY = Study(
    name="t",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={},
    training=Training(epochs=4, batch_size=16, learning_rate=0.05),
    checkpoints=2,
    score_epoch_fraction=0.5,
)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(load_dataset(STUDY.dataset))


@pytest.fixture(scope="module")
def trained(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the query runs that most tests read."""
    folder = tmp_path_factory.mktemp("trained")
    parts: list[dict[str, Any]] = [{"partition": (part, 3)} for part in range(3)]
    for which in ({}, {"initialisation": 1}, *parts):
        _query(STUDY, data, Store(folder), **which)
    return folder


@pytest.fixture
def store(tmp_path: Path, trained: Path) -> Store:
    return Store(shutil.copytree(trained, tmp_path / "store"))


def _gradients(
    data: PreparedData, executor: Callable[[GradientWorker], Any] = LocalExecutor
) -> ShardedGradients:
    worker = GradientWorker(data, "small_cnn")
    return ShardedGradients(executor(worker), data.dataset.train.ids)


def _score(
    study: Study,
    method: str,
    data: PreparedData,
    store: Store,
    gradients: ShardedGradients | None = None,
) -> tuple[ScoreRun, NDArray[np.float64]]:
    """Compute one method's scores, and the query runs that it reads where they are missing."""
    run = score_run(study, data.dataset.fingerprint, method, study.model, 0)
    for query in run.queries:
        if store.read("query", query.key) is None:
            run_query(study, query, data, store, "cpu")
    run_score(study, run, data.dataset.train, store, gradients or _gradients(data))
    return run, required(store, "scores", run.key).array("scores")


def _query(study: Study, data: PreparedData, store: Store, **which: Any) -> QueryRun:
    run = query_run(study, data.dataset.fingerprint, study.model, 0, **which)
    if store.read("query", run.key) is None:
        run_query(study, run, data, store, "cpu")
    return run


def _gradients_in_double(query: QueryRun, data: PreparedData, store: Store) -> NDArray[np.float64]:
    """Gradients of a query run's samples at its sampled checkpoints, by a backward pass each.

    The shape is (T, M, P).
    """
    result = load_query(query, store)
    model = build_model(query.model, 10, data.dataset.image_shape)
    batches = make_batches(data, data.dataset.train, torch.device("cpu"))
    (images, labels) = next(iter(batches([torch.from_numpy(result.positions)])))
    found = []
    for epoch in result.sampled:
        load_state(model, result.state_after(epoch))
        each = gradients_one_by_one(model.double().eval(), images.double(), labels)
        flat = [torch.cat([g.flatten() for g in own.values()]) for own in each]
        found.append(torch.stack(flat).numpy())
        model.float()
    return np.stack(found)


@pytest.mark.parametrize("partitions", [1, 3])
def test_every_sample_is_scored_by_the_surrogate_of_its_part(
    data: PreparedData, store: Store, partitions: int
) -> None:
    study = dataclasses.replace(STUDY, partitions=partitions)
    run, scores = _score(study, "moso", data, store)
    found = {False: scores, True: _score(study, "moso_loo", data, store)[1]}
    assert len(run.queries) == partitions
    expected = {left_out: np.full(len(scores), np.nan) for left_out in found}
    for query in run.queries:
        result = load_query(query, store)
        rates = [result.learning_rates[epoch - 1] for epoch in result.sampled]
        gradients = _gradients_in_double(query, data, store)
        for left_out, values in expected.items():
            own = moso_by_averaging(gradients, rates, result.steps, left_out)
            values[result.positions] = own
    for left_out, values in expected.items():
        atol = 1e-4 * np.abs(values).max()
        np.testing.assert_allclose(found[left_out], values, rtol=1e-3, atol=atol)
        assert (found[left_out] < 0).any()


def test_a_surrogate_sees_its_part_alone(data: PreparedData, store: Store) -> None:
    study = dataclasses.replace(STUDY, partitions=3)
    parts = stratified_partitions(data.dataset.train.labels, 3, seed=0)
    query = _query(study, data, store, partition=(1, 3))
    result = load_query(query, store)
    assert result.positions.tolist() == parts[1].tolist()
    assert result.trace is None
    assert result.validation_recalls is None
    assert result.steps == 4 * -(-len(parts[1]) // 16)
    # Other images and labels outside the part change nothing.
    train = data.dataset.train
    labels = train.labels.copy()
    labels[parts[0]] = (labels[parts[0]] + 1) % 10
    pixels = train.inputs.pixels.copy()  # type: ignore[union-attr]
    pixels[parts[2]] = 0
    images = dataclasses.replace(train.inputs, pixels=pixels)  # type: ignore[type-var]
    other = dataclasses.replace(train, labels=labels, inputs=images)
    changed = dataclasses.replace(data, dataset=dataclasses.replace(data.dataset, train=other))
    again = dataclasses.replace(query, config={**query.config, "other": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raydrop.stages.queries.stratified_partitions", lambda *_: parts)
        run_query(study, again, changed, store, "cpu")
    assert load_query(again, store).checkpoints.tobytes() == result.checkpoints.tobytes()


def test_all_parts_are_looked_at_after_the_same_epochs(data: PreparedData, store: Store) -> None:
    study = dataclasses.replace(STUDY, training=Training(epochs=8, batch_size=16), partitions=2)
    looked = [
        load_query(_query(study, data, store, **which), store)
        for which in ({"partition": (0, 2)}, {"partition": (1, 2)}, {})
    ]
    assert len({result.sampled for result in looked}) == 1
    assert looked[0].checkpoint_epochs == looked[0].sampled
    assert set(looked[2].checkpoint_epochs) == {*looked[2].sampled, 4, 8}
    assert len({result.checkpoints[0].tobytes() for result in looked}) == 3


def test_a_further_initialisation_is_the_beginning_of_another_run(
    data: PreparedData, store: Store
) -> None:
    study = dataclasses.replace(STUDY, initialisations=2)
    whole, *further = (
        load_query(_query(study, data, store, initialisation=r), store) for r in range(2)
    )
    assert whole.trace is not None
    assert whole.trace.epochs == 4
    assert len({run.checkpoints[0].tobytes() for run in (whole, *further)}) == 2
    for run in further:
        assert run.trace is not None
        assert run.trace.epochs == run.score_epoch == 2
        assert run.checkpoint_epochs == (2,)
        assert run.sampled == ()
        # The schedule is that of the whole run, of which it takes the first half.
        assert run.learning_rates == whole.learning_rates[:2]
        assert run.validation_recalls is None
        assert (run.trace.probability[1] != whole.trace.probability[1]).any()


@pytest.mark.parametrize("method", ["el2n", "grand", "grand_last_layer"])
def test_early_scores_are_averages_over_initialisations(
    data: PreparedData, store: Store, method: str
) -> None:
    averaged = dataclasses.replace(STUDY, initialisations=2)
    run, found = _score(averaged, method, data, store)
    single, first = _score(STUDY, method, data, store)
    assert single.queries == run.queries[:1]
    lone = dataclasses.replace(single, queries=run.queries[1:], config={"only": "the second"})
    run_score(STUDY, lone, data.dataset.train, store, _gradients(data))
    second = required(store, "scores", lone.key).array("scores")
    np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-12)
    assert (first != second).any()


def test_explicit_training_of_query_runs_is_obeyed(data: PreparedData, store: Store) -> None:
    plain = load_query(_query(STUDY, data, store), store)
    short = Training(epochs=2, batch_size=16, learning_rate=0.05, augment=True)
    augmented = dataclasses.replace(STUDY, query_training=short)
    result = load_query(_query(augmented, data, store), store)
    still = dataclasses.replace(STUDY, query_training=dataclasses.replace(short, augment=False))
    unaugmented = load_query(_query(still, data, store), store)
    assert (len(plain.learning_rates), len(result.learning_rates)) == (4, 2)
    assert result.checkpoints.tobytes() != unaugmented.checkpoints.tobytes()


def test_every_method_scores_every_sample(data: PreparedData, store: Store) -> None:
    study = dataclasses.replace(STUDY, initialisations=2, partitions=3)
    gradients = _gradients(data)
    for name in METHODS:
        method = score_method(name)
        _, found = _score(study, name, data, store, gradients)
        assert found.shape == (len(data.dataset.train),)
        assert np.isfinite(found).all() or method.may_be_infinite
        assert len(np.unique(found)) > 1 or isinstance(method, TraceMethod)


# What scores share, and what is left when something goes wrong.


class Counting(LocalExecutor):
    """Remembers what it was asked for; may fail after some shards."""

    def __init__(self, worker: GradientWorker) -> None:
        super().__init__(worker)
        self.done: list[tuple[str, int]] = []
        self.fail_after: int | None = None
        self.error: type[BaseException] = ScoringError

    def map(self, task: Any, shards: Any, state: Any, direction: Any = None) -> Any:
        for number, (shard, values) in enumerate(super().map(task, shards, state, direction)):
            if task != "gradient_sum" and number == self.fail_after:
                raise self.error("Expected more, found an end; go on.")
            self.done.append((task, len(shard.positions)))
            yield shard, values

    def samples(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for task, size in self.done:
            counts[task] = counts.get(task, 0) + size
        return counts


@pytest.fixture
def counting(data: PreparedData) -> tuple[Counting, ShardedGradients]:
    executor = Counting(GradientWorker(data, "small_cnn"))
    return executor, ShardedGradients(executor, data.dataset.train.ids)


def test_scores_share_what_they_have_in_common_and_are_the_same_in_any_order(
    data: PreparedData,
    tmp_path: Path,
    trained: Path,
    counting: tuple[Counting, ShardedGradients],
) -> None:
    executor, gradients = counting
    n = len(data.dataset.train)
    found = []
    for number, order in enumerate((["moso", "moso_loo", "tracin_self"], ["moso_loo", "moso"])):
        store = Store(shutil.copytree(trained, tmp_path / str(number)))
        executor.done.clear()
        scores = {name: _score(STUDY, name, data, store, gradients)[1] for name in order}
        looked = 2  # checkpoints
        assert executor.samples()["dot"] == executor.samples()["norm"] == looked * n
        assert set(executor.samples()) <= {"gradient_sum", "dot", "norm"}
        found.append(scores)
    for name in ("moso", "moso_loo"):
        assert found[0][name].tobytes() == found[1][name].tobytes()


@pytest.mark.parametrize(
    ("method", "error"), [("moso", KeyboardInterrupt), ("tracin_self", ScoringError)]
)
def test_an_interrupted_score_goes_on_where_it_was(
    data: PreparedData,
    store: Store,
    counting: tuple[Counting, ShardedGradients],
    method: str,
    error: type[BaseException],
) -> None:
    executor, gradients = counting
    executor.error = error
    n = len(data.dataset.train)
    executor.fail_after = 1
    with pytest.raises(error):
        _score(STUDY, method, data, store, gradients)
    (left,) = store.entries("partial")
    written = int(left.array("written").sum())
    assert 0 < written < n
    assert list(store.entries("scores")) == []
    executor.done.clear()
    executor.fail_after = None
    again = _score(STUDY, method, data, store, gradients)[1]
    task = "dot" if method == "moso" else "norm"
    assert executor.samples()[task] == 2 * n - written
    assert list(store.entries("partial")) == []
    for kind in ("scores", "gradients"):
        for entry in store.entries(kind):
            store.remove(kind, entry.key)
    untouched = _score(STUDY, method, data, store, gradients)[1]
    assert again.tobytes() == untouched.tobytes()


def test_progress_hears_of_every_sample(data: PreparedData, store: Store) -> None:
    told: list[int] = []
    worker = GradientWorker(data, "small_cnn")
    gradients = ShardedGradients(LocalExecutor(worker), data.dataset.train.ids, told.append)
    _score(STUDY, "moso_loo", data, store, gradients)
    assert sum(told) == 3 * 2 * len(data.dataset.train)


@pytest.mark.parametrize(
    ("method", "value", "fine"),
    [
        ("forgetting", np.inf, True),
        ("forgetting", -np.inf, False),
        ("el2n", np.inf, False),
        ("el2n", np.nan, False),
    ],
)
def test_scores_that_are_no_numbers_are_named_by_their_sample_ids(
    data: PreparedData,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    value: float,
    fine: bool,
) -> None:
    ids = data.dataset.train.ids
    scores = np.zeros(len(ids))
    scores[[3, 7]] = value
    monkeypatch.setattr(METHODS[method].build, "from_trace", lambda *_: scores)
    if fine:
        assert np.isposinf(_score(STUDY, method, data, store)[1]).sum() == 2
        return
    with pytest.raises(
        ScoringError, match=rf"found {value} from '{method}' .* ids \[{ids[3]}, {ids[7]}\]"
    ):
        _score(STUDY, method, data, store)


# Selection with scores that may be negative.


@properties
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]), st.floats(-3, 3))
def test_class_balanced_selection_takes_no_other_classs_samples(
    seed: int, keep_fraction: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 200)
    scores = rng.normal(size=200) + shift
    sizes = np.bincount(labels, minlength=4)
    budget = round(keep_fraction * 200)
    quotas = quota_rule("proportional").allocate(sizes, None, budget, 0)
    assert quotas is not None
    kept = select(scores, labels, budget, quotas)
    assert np.bincount(labels[kept], minlength=4).tolist() == quotas.tolist()
    assert kept.tolist() == class_balanced_by_mask(scores, labels, quotas.tolist())


def test_masking_by_multiplication_would_take_other_classes_samples() -> None:
    """The negative control: what MoSo's published code does to negative scores."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 5000)
    scores = rng.normal(size=5000)
    quotas = np.round(0.8 * np.bincount(labels)).astype(int)
    wrong = sum(
        (labels[np.argsort(-(scores * (labels == k)), kind="stable")[: quotas[k]]] != k).sum()
        for k in range(10)
    )
    assert wrong / quotas.sum() == pytest.approx(0.375, abs=0.02)
    kept = select(scores, labels, int(quotas.sum()), quotas)
    assert np.bincount(labels[kept]).tolist() == quotas.tolist()


def test_global_selection_keeps_the_highest_scores_whatever_their_sign() -> None:
    scores = np.array([-0.5, -0.1, -3.0, -0.2, -0.05])
    assert select(scores, np.array([0, 0, 1, 1, 1]), 3).tolist() == [1, 3, 4]


# Trials.


def _trial_plan(study: Study, point: dict[str, object], data: PreparedData) -> Plan:
    return make_plan(study, trial_configs(study, [point]), data.dataset)


def test_trials_record_what_share_of_the_noise_they_prune(store: Store) -> None:
    noisy = prepare(load_dataset("digits+subset(12, test=6)+label_noise(0.25)"))
    study = dataclasses.replace(STUDY, seeds=(0,), training=Training(epochs=1))
    plan = _trial_plan(study, {"method": "random", "keep_fraction": 0.5}, noisy)
    for score in plan.scores:
        run_score(study, score, noisy.dataset.train, store, None)
    mask = noisy.dataset.noisy
    assert mask is not None
    for run in plan.trials:
        run_trial(study, run, noisy, store, "cpu")
        entry = required(store, "trial", run.key)
        false = noisy.dataset.train.ids[mask]
        kept = np.isin(false, entry.array("kept_ids"))
        assert entry.info["n_noisy"] == 30
        assert entry.info["noisy_pruned"] == pytest.approx(1 - kept.mean())
        assert (entry.info["noisy_pruned"] == 0) == (run.trial.method == "none")


def test_a_trial_trains_its_own_model_on_what_anothers_scores_keep(
    data: PreparedData, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build(name: str, *arguments: Any, **options: Any) -> torch.nn.Module:
        built.append(name)
        return build_model(name, *arguments, **options)

    monkeypatch.setattr("raydrop.stages.queries.build_model", build)
    study = dataclasses.replace(
        STUDY, seeds=(0,), training=Training(epochs=1), include_unpruned=False
    )
    point = {"method": "el2n", "keep_fraction": 0.5, "query_model": "small_cnn"}
    own = _trial_plan(study, point, data)
    other = _trial_plan(study, {**point, "model": "resnet56"}, data)
    assert own.scores == other.scores
    for query in own.queries:
        run_query(study, query, data, store, "cpu")
    run_score(study, own.scores[0], data.dataset.train, store, None)
    kept = []
    for plan in (own, other):
        run_trial(study, plan.trials[0], data, store, "cpu")
        entry = required(store, "trial", plan.trials[0].key)
        kept.append(entry.array("kept_ids").tolist())
        assert entry.info["query_model"] == "small_cnn"
        assert entry.info["n_noisy"] is None
        assert entry.info["noisy_pruned"] is None
    assert entry.info["model"] == "resnet56"
    assert built == ["small_cnn", "small_cnn", "resnet56"]  # the query run, and each target
    assert kept[0] == kept[1]
