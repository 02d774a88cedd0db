"""Scores from embeddings, and the draw of CCS: against slow twins, and from stages. No Ray."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import (
    ccs_sizes_by_algorithm,
    cosine_distances_by_pairs,
    k_center_by_scan,
    moderate_one_by_one,
)
from torch import Tensor, nn

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.plan import make_plan, trial_configs
from raydrop.plan.runs import gradient_units, score_run
from raydrop.plan.workload import sample_passes, visited_samples, workload
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import EmbeddingMethod
from raydrop.scores.gradients import last_linear
from raydrop.scores.methods import k_center, ssp
from raydrop.scores.methods.ccs import Ccs, ccs_order, strata_of
from raydrop.scores.methods.k_center import KCenter, greedy_order
from raydrop.scores.methods.moderate import Moderate
from raydrop.scores.methods.ssp import Ssp, distances_to_nearest, normalised, prototypes
from raydrop.scores.quantities import embeddings_of
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.queries import load_query, run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.training.checkpoints import load_state
from raydrop.training.trace import Trace

properties = settings(derandomize=True, deadline=None, max_examples=20)
Matrix = NDArray[np.float64]


def _cloud(seed: int, n: int = 90, d: int = 6) -> Matrix:
    """Points in clusters of different spread, as embeddings are."""
    rng = np.random.default_rng(seed)
    centers = 4 * rng.normal(size=(5, d))
    spread = rng.uniform(0.1, 2, size=(5, 1))
    member = rng.integers(0, 5, n)
    cloud: Matrix = centers[member] + spread[member] * rng.normal(size=(n, d)) + 20
    return cloud


def _small(monkeypatch: pytest.MonkeyPatch, pool: int, rows: int = 7) -> None:
    monkeypatch.setattr(k_center, "POOL", pool)
    monkeypatch.setattr(k_center, "ROWS", rows)


# k-center.


@pytest.mark.parametrize("pool", [1, 9, 1024])
@pytest.mark.parametrize("seed", range(2))
def test_pooled_choice_is_that_of_the_plain_algorithm(
    seed: int, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, pool)
    points = _cloud(seed, 40)
    found = greedy_order(torch.from_numpy(points))
    assert found == k_center_by_scan(points, len(points))
    # Negative control: the order tells from that which starts elsewhere.
    assert found != k_center_by_scan(points + np.eye(40)[:, :6] * 60, len(points))


@pytest.mark.parametrize("pool", [1, 5, 1024])
def test_exact_ties_go_to_the_lowest_position(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch, pool)
    grid = np.array(list(itertools.product([-1.0, 0, 1], repeat=3)))
    points = np.random.default_rng(pool).permutation(grid)
    assert greedy_order(torch.from_numpy(points)) == k_center_by_scan(points, len(points))


@properties
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5), st.integers(1, 12))
def test_every_choice_is_farthest_from_those_before_in_single_precision(
    seed: int, n: int, d: int, pool: int
) -> None:
    points = _cloud(seed, n, d).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        _small(patch, pool)
        order = greedy_order(torch.from_numpy(points))
    exact = points.astype(np.float64)
    scale = np.linalg.norm(exact - exact.mean(axis=0), axis=1).max()
    for step in range(1, len(order)):
        chosen = exact[order[:step]]
        nearest = np.linalg.norm(exact[:, None] - chosen[None], axis=2).min(axis=1)
        assert nearest[order[step]] >= nearest.max() - 3e-3 * scale
    left = np.setdiff1d(np.arange(n), order)
    distances = np.linalg.norm(exact[left][:, None] - exact[order][None], axis=2)
    assert (distances.min(axis=1) <= 3e-3 * scale).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_first_choices_cover_within_twice_the_optimum(seed: int) -> None:
    points = _cloud(seed, n=13, d=2)
    pairs = np.linalg.norm(points[:, None] - points[None], axis=2)
    for count in (1, 2, 3, 4):
        found = pairs[:, greedy_order(torch.from_numpy(points), count)].min(axis=1).max()
        subsets = itertools.combinations(range(13), count)
        best = min(pairs[:, list(subset)].min(axis=1).max() for subset in subsets)
        assert best <= found <= 2 * best


@pytest.mark.parametrize("limit", [1, 7, 40, 90, 200])
def test_fewer_choices_are_the_first_of_more(limit: int) -> None:
    points = torch.from_numpy(_cloud(3))
    assert greedy_order(points, limit) == greedy_order(points)[:limit]


def _scores(method: EmbeddingMethod, points: Matrix, labels: Any = None) -> Matrix:
    labels = np.arange(len(points)) % 3 if labels is None else labels
    found = method.from_embeddings(points.astype(np.float32), labels, seed=1)
    assert found.shape == (len(points),)
    assert np.isfinite(found).all()
    return np.asarray(found, dtype=np.float64)


def test_k_center_ranks_every_sample_once_and_keeps_the_first() -> None:
    scores = _scores(KCenter(), _cloud(0))
    assert sorted(scores.tolist()) == list(range(1, 91))
    assert scores.argmax() == np.linalg.norm(_cloud(0) - _cloud(0).mean(axis=0), axis=1).argmin()
    assert KCenter().higher_is_kept


def test_copies_of_a_sample_come_last_and_tie() -> None:
    points = _cloud(1, n=60)
    # Copies as they are, and as rounding in another batch leaves them.
    doubled = np.concatenate([points, points[:10], points[10:20] * (1 + 2e-7)])
    scores = _scores(KCenter(), doubled)
    assert (scores == 0).sum() == 20
    assert sorted(scores[scores > 0].tolist()) == list(range(21, 81))
    for first, second in zip(range(20), range(60, 80), strict=True):
        assert (scores[first] > 0) != (scores[second] > 0)


def test_samples_that_are_all_alike_or_alone_can_be_ranked() -> None:
    scores = _scores(KCenter(), np.ones((5, 3)))
    assert sorted(scores.tolist()) == [0, 0, 0, 0, 5]
    for method in (KCenter(), Moderate(), Ssp()):
        assert len(_scores(method, np.ones((1, 3)))) == 1
        _scores(method, np.zeros((6, 3)))


def test_no_room_on_the_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(k_center, "greedy_order", full)
    with pytest.raises(ScoringError, match=r"room on the GPU for twice the 0\.0 GiB"):
        _scores(KCenter(), _cloud(0))


# Invariances of all three.


@pytest.mark.parametrize("method", [KCenter(), Moderate()])
def test_order_and_origin_of_samples_do_not_matter(method: EmbeddingMethod) -> None:
    points, labels = _cloud(2), np.arange(90) % 3
    scores = _scores(method, points, labels)
    order = np.random.default_rng(0).permutation(90)
    np.testing.assert_allclose(_scores(method, points[order], labels[order]), scores[order], 1e-4)
    moved = _scores(method, points - 13.0, labels)
    np.testing.assert_allclose(moved, scores, rtol=1e-3, atol=1e-4)
    mirrored = _scores(method, -2 * points[:, ::-1], labels)
    scale = 2.0 if isinstance(method, Moderate) else 1.0
    np.testing.assert_allclose(mirrored, scale * scores, rtol=1e-3, atol=1e-4)
    assert np.abs(_scores(method, points**2, labels) - scores).max() > 0.5  # a negative control


def test_lengths_of_embeddings_do_not_matter_to_ssp() -> None:
    points = _cloud(2) - 20
    scale = np.random.default_rng(0).choice([0.5, 1.0, 4.0], size=(90, 1))
    np.testing.assert_allclose(_scores(Ssp(), points * scale), _scores(Ssp(), points), atol=1e-5)
    assert not np.allclose(_scores(Ssp(), points + 20), _scores(Ssp(), points), atol=1e-2)


# Moderate.


@properties
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 4))
def test_moderate_is_its_definition(seed: int, n: int, classes: int) -> None:
    points = _cloud(seed, n, 3).astype(np.float32)
    labels = np.random.default_rng(seed).integers(0, classes, n)
    found = Moderate().from_embeddings(points, labels)
    np.testing.assert_allclose(found, moderate_one_by_one(points, labels.tolist()), atol=1e-9)


def test_moderate_keeps_neither_the_closest_nor_the_farthest() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 64)) * np.linspace(0.1, 3, 300)[:, None]
    kept = np.argsort(-_scores(Moderate(), points, np.zeros(300, dtype=np.int64)))[:60]
    assert kept.min() > 45
    assert kept.max() < 270
    own = np.repeat([0, 1], 150)
    shifted = points + 50 * own[:, None]
    by_class, mixed = _scores(Moderate(), shifted, own), _scores(Moderate(), shifted, 0 * own)
    assert np.abs(by_class - mixed).max() > 10  # distances are those from the own class


# SSP.


@properties
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6))
def test_ssp_distances_are_those_of_all_pairs(seed: int, n: int, clusters: int) -> None:
    points = (_cloud(seed, n, 4) - 20).astype(np.float32)
    points[::7] = 0
    centers = np.random.default_rng(seed).normal(size=(clusters, 4)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssp, "ROWS", 5)
        found = distances_to_nearest(normalised(points), centers)
    np.testing.assert_allclose(found, cosine_distances_by_pairs(points, centers), atol=2e-6)


def test_ssp_finds_clusters_and_keeps_what_lies_outside() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(6)[:3].repeat(60, axis=0)
    points = 5 * axes + 0.2 * rng.normal(size=(180, 6))
    points[[4, 90, 170]] = 5 * np.eye(6)[3:]
    labels = np.arange(180) % 3  # of no use for finding the clusters
    scores = _scores(Ssp(), points, labels)
    assert set(np.argsort(-scores)[:3].tolist()) == {4, 90, 170}
    assert np.delete(scores, [4, 90, 170]).max() < 0.05
    centers = prototypes(normalised(points.astype(np.float32)), 3, seed=1)
    assert sorted(centers.argmax(axis=1).tolist()) == [0, 1, 2]
    assert Ssp().higher_is_kept


def test_ssp_depends_on_its_seed_alone_and_takes_few_samples() -> None:
    points = _cloud(5).astype(np.float32)
    labels = np.arange(90) % 7
    first, again, other = (
        Ssp().from_embeddings(points, labels, seed=seed).tobytes() for seed in (2**60, 2**60, 1)
    )
    assert first == again != other
    assert Ssp().from_embeddings(points[:3], np.arange(3)).max() < 1e-6
    assert len(prototypes(points[:2], 5, 0)) == 2


# CCS.


@properties
@given(
    st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.35]), st.integers(1, 9)
)
def test_every_budget_takes_what_the_algorithm_takes(
    seed: int, n: int, cutoff: float, strata: int
) -> None:
    scores = np.random.default_rng(seed).gamma(1.0, size=n)
    order = ccs_order(scores, seed, cutoff=cutoff, strata=strata)
    assert sorted(order.tolist()) == list(range(n))
    left = n - int(n * cutoff)
    for budget in range(left + 1):
        stratum, sizes = ccs_sizes_by_algorithm(scores.tolist(), budget, cutoff, strata)
        taken = [stratum[i] for i in order[:budget]]
        assert {b: taken.count(b) for b in sizes} == sizes
    aside = scores[order[left:]]
    assert (np.diff(aside) <= 0).all()
    if len(aside):
        assert aside.max() <= scores[order[:left]].min()


def test_ccs_draws_at_random_within_a_stratum() -> None:
    scores = np.repeat([1.0, 2.0, 3.0], 4)
    first = [ccs_order(scores, seed, cutoff=0, strata=3)[:3] for seed in range(600)]
    for each in first[:5]:
        assert sorted(scores[each].tolist()) == [1, 2, 3]
    counts = np.bincount(np.concatenate(first), minlength=12)
    assert np.abs(counts - 150).max() < 50
    assert (ccs_order(scores, 1) == ccs_order(scores, 1)).all()


def test_strata_have_equal_width() -> None:
    assert strata_of(np.array([0.0, 0.24, 0.26, 0.5, 0.99, 1.0]), 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert strata_of(np.full(3, 2.5), 4).tolist() == [0, 0, 0]


def _trace(margin: NDArray[np.float16]) -> Trace:
    other = np.zeros(margin.shape, np.float32)
    return Trace(other, other > 0, margin, other, other)


def test_ccs_reads_margins_and_sets_the_hardest_tenth_aside() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(size=(4, 500)).astype(np.float16)
    margin[:, :50] -= 9
    scores = Ccs().draw_from_trace(_trace(margin), seed=3)
    assert sorted(scores.tolist()) == list(range(1, 501))
    assert set(np.argsort(scores)[:50].tolist()) == set(range(50))
    spread = margin[:, np.argsort(-scores)[:100]].mean(axis=0, dtype=np.float64).std()
    assert spread > 1.2 * margin[:, 50:].mean(axis=0, dtype=np.float64).std()  # wider than random
    assert (scores != Ccs().draw_from_trace(_trace(margin), seed=4)).any()


# Embeddings of a model.


@pytest.mark.parametrize("name", ["small_cnn", "resnet56"])
def test_logits_are_what_the_last_layer_makes_of_embeddings(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 7, (3, 32, 32)).eval().double()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    found = embeddings_of(model, images)
    head = last_linear(model)
    assert head is not None
    assert not found.requires_grad
    torch.testing.assert_close(found @ head.weight.T + head.bias, model(images))
    assert not head._forward_hooks
    alone = torch.cat([embeddings_of(model, image[None]) for image in images])
    torch.testing.assert_close(alone, found)
    assert embeddings_of(model.float(), images.float()).dtype == torch.float32


class Inner(nn.Module):
    """Its linear layer is not its head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 3, 1)
        self.inner = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        weights = self.inner(images.mean((2, 3)))
        return self.head(images * weights[:, :, None, None]).mean((2, 3))


@pytest.mark.parametrize(
    "model", [Inner(), nn.Sequential(nn.Conv2d(4, 3, 2), nn.Flatten()), nn.Linear(2, 2)]
)
def test_models_without_embeddings_are_refused(model: nn.Module) -> None:
    with pytest.raises(ScoringError, match="whose logits come from its last linear layer, found"):
        embeddings_of(model.eval(), torch.rand(5, 4, 2, 2))


def test_embeddings_that_depend_on_the_batch_are_refused() -> None:
    with pytest.raises(ScoringError, match=r"call model\.eval"):
        embeddings_of(build_model("small_cnn", 7, (1, 8, 8)), torch.rand(2, 1, 8, 8))


# From stages.

STUDY = Study(
    name="t",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={},
    training=Training(epochs=4, batch_size=16, learning_rate=0.05),
    checkpoints=2,
    score_epoch_fraction=0.5,
    seeds=(0,),
)
FROM_EMBEDDINGS = [name for name in METHODS if isinstance(score_method(name), EmbeddingMethod)]


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(load_dataset(STUDY.dataset))


@pytest.fixture(scope="module")
def trained(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the one query run that all methods read."""
    folder = tmp_path_factory.mktemp("trained")
    (query,) = score_run(STUDY, data.dataset.fingerprint, "ssp", STUDY.model, 0).queries
    run_query(STUDY, query, data, Store(folder), "cpu")
    return folder


@pytest.fixture
def store(tmp_path: Path, trained: Path) -> Store:
    return Store(shutil.copytree(trained, tmp_path / "store"))


class Counting(LocalExecutor):
    """Counts samples by task; may fail at a shard."""

    def __init__(self, worker: GradientWorker) -> None:
        super().__init__(worker)
        self.samples: dict[str, int] = {}
        self.fails = False

    def map(self, task: Any, shards: Any, state: Any, direction: Any = None) -> Any:
        for shard, values in super().map(task, shards, state, direction):
            if self.fails and self.samples:
                raise ScoringError("Expected more, found an end; go on.")
            self.samples[task] = self.samples.get(task, 0) + len(shard.positions)
            yield shard, values


def _scored(
    method: str, data: PreparedData, store: Store, executor: Counting
) -> tuple[Any, NDArray[np.float64]]:
    run = score_run(STUDY, data.dataset.fingerprint, method, STUDY.model, 0)
    gradients = ShardedGradients(executor, data.dataset.train.ids)
    run_score(STUDY, run, data.dataset.train, store, gradients)
    return run, required(store, "scores", run.key).array("scores")


@pytest.fixture
def executor(data: PreparedData) -> Counting:
    return Counting(GradientWorker(data, "small_cnn"))


def test_scores_share_one_pass_over_the_trained_model(
    data: PreparedData, store: Store, executor: Counting
) -> None:
    train = data.dataset.train
    found = {name: _scored(name, data, store, executor) for name in FROM_EMBEDDINGS}
    assert executor.samples == {"embedding": len(train)}
    (query,) = found["k_center"][0].queries
    result = load_query(query, store)
    assert result.checkpoint_epochs[-1] == len(result.learning_rates) == 4
    model = build_model("small_cnn", 10, data.dataset.image_shape)
    load_state(model, result.state_after(4))
    ((images, _),) = make_batches(data, train, torch.device("cpu"))([torch.arange(len(train))])
    embeddings = embeddings_of(model.eval(), images).numpy()
    assert found["k_center"][1].argmax() == k_center_by_scan(embeddings, 1)[0]
    expected = moderate_one_by_one(embeddings, train.labels.tolist())
    np.testing.assert_allclose(found["moderate"][1], expected, atol=1e-4)
    assert 0 <= found["ssp"][1].min() < found["ssp"][1].max() < 1
    # The trained model is the one whose recalls were measured, not one of an earlier checkpoint.
    load_state(model, result.checkpoints[0])
    assert not np.allclose(embeddings_of(model.eval(), images).numpy(), embeddings, atol=1e-2)
    assert result.trace is not None
    load_state(model, result.state_after(4))
    with torch.no_grad():
        right = model(images).argmax(1).numpy() == train.labels
    assert (right == result.trace.correct[-1]).all()


def test_an_interrupted_pass_goes_on_where_it_was(
    data: PreparedData, store: Store, tmp_path: Path, trained: Path, executor: Counting
) -> None:
    copy = Store(shutil.copytree(trained, tmp_path / "copy"))
    untouched = _scored("k_center", data, copy, executor)[1]
    executor.samples, executor.fails = {}, True
    with pytest.raises(ScoringError, match="found an end"):
        _scored("k_center", data, store, executor)
    (left,) = store.entries("partial")
    assert left.array("values").shape == (32, len(data.dataset.train))
    written = int(left.array("written").sum())
    assert 0 < written < len(data.dataset.train)
    executor.samples, executor.fails = {}, False
    assert _scored("k_center", data, store, executor)[1].tobytes() == untouched.tobytes()
    assert executor.samples["embedding"] == len(data.dataset.train) - written
    assert list(store.entries("partial")) == []


def test_embeddings_that_are_no_numbers_are_named_by_sample(
    data: PreparedData, store: Store, executor: Counting
) -> None:
    (query,) = score_run(STUDY, data.dataset.fingerprint, "ssp", STUDY.model, 0).queries
    gradients = ShardedGradients(executor, data.dataset.train.ids)
    state = load_query(query, store).state_after(4).copy()
    state[:] = np.nan
    first = data.dataset.train.ids.min()
    with pytest.raises(ScoringError, match=rf"a finite embedding .* found 120 .* ids {first}, "):
        gradients.per_sample("embedding", state, np.arange(120))


def test_the_plan_knows_what_a_pass_costs(data: PreparedData, store: Store) -> None:
    n = len(data.dataset.train)
    points = [{"method": name, "keep_fraction": 0.5} for name in (*FROM_EMBEDDINGS, "ccs")]
    plan = make_plan(STUDY, trial_configs(STUDY, points), data.dataset)
    assert len(plan.queries) == 1
    assert visited_samples(STUDY, plan.scores, n) == n
    assert sample_passes(workload(STUDY, plan, data.dataset))["scores"] == n // 3
    units = {unit for run in plan.scores for _, unit in gradient_units(STUDY, run)}
    assert {(unit.epoch, unit.quantity) for unit in units} == {(4, "embedding")}
    by_name = {run.method: run for run in plan.scores}
    assert "precision" in by_name["ssp"].config
    assert "precision" not in by_name["ccs"].config
    bf16 = dataclasses.replace(STUDY, score_precision="bf16")
    assert (
        by_name["ssp"].key != score_run(bf16, data.dataset.fingerprint, "ssp", "small_cnn", 0).key
    )


@pytest.mark.parametrize("method", [*FROM_EMBEDDINGS, "ccs"])
def test_a_study_runs_from_query_to_trial(
    method: str, data: PreparedData, store: Store, executor: Counting
) -> None:
    study = dataclasses.replace(STUDY, include_unpruned=False)
    points = [
        {"method": method, "keep_fraction": keep, "quotas": quotas}
        for keep, quotas in ((0.2, "none"), (0.5, "none"), (0.5, "drop"))
    ]
    plan = make_plan(study, trial_configs(study, points), data.dataset)
    _, scores = _scored(method, data, store, executor)
    kept = {}
    for run in plan.trials:
        run_trial(study, run, data, store, "cpu")
        entry = required(store, "trial", run.key)
        kept[run.trial.keep_fraction, run.trial.quotas] = set(entry.array("kept_ids").tolist())
    sizes = {key: len(each) for key, each in kept.items()}
    assert sizes == {(0.2, "none"): 24, (0.5, "none"): 60, (0.5, "drop"): 60}
    assert kept[0.2, "none"] < kept[0.5, "none"]
    best = data.dataset.train.ids[np.argsort(-scores)[:24]]
    assert kept[0.2, "none"] == set(best.tolist())
