"""Sharded scoring gives the same bits however the shards are run, and loses nothing."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import dots_of, gradients_one_by_one, norms_of, sum_by_halving, sum_of
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores import sharding
from raydrop.scores.gradients import parameters_of
from raydrop.scores.gradients.tree import PairwiseSum, pairs_of
from raydrop.scores.quantities import PER_SAMPLE, Task
from raydrop.scores.sharding import (
    FailedShardsError,
    GradientWorker,
    LocalExecutor,
    Partial,
    Shard,
    ShardedGradients,
    added,
    ignore,
    make_shards,
)
from raydrop.training import halving
from raydrop.training.checkpoints import flat_state

Vector = NDArray[np.float32]

SMALL_MEMORY = 2**20
"""Bytes in which small_cnn gets batches of a few samples, so that a shard has several."""


@pytest.fixture(scope="module")
def worker(digits: PreparedData) -> GradientWorker:
    return GradientWorker(digits, "small_cnn", memory_bytes=SMALL_MEMORY)


@pytest.fixture(scope="module")
def model(digits: PreparedData) -> nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", 10, digits.dataset.image_shape).eval()


@pytest.fixture(scope="module")
def state(model: nn.Module) -> Vector:
    return flat_state(model)


@pytest.fixture(scope="module")
def direction(model: nn.Module) -> Vector:
    size = sum(p.numel() for p in parameters_of(model).values())
    return np.random.default_rng(1).standard_normal(size).astype(np.float32)


@pytest.fixture(scope="module")
def ids(digits: PreparedData) -> NDArray[np.int64]:
    return digits.dataset.train.ids


@pytest.fixture(scope="module")
def some() -> NDArray[np.int64]:
    """Positions of five shards, the last of them short."""
    return np.arange(260)


@pytest.fixture(scope="module")
def norms(
    worker: GradientWorker, state: Vector, ids: NDArray[np.int64], some: NDArray[np.int64]
) -> Vector:
    """Norms of the samples of :func:`some`."""
    return ShardedGradients(LocalExecutor(worker), ids).per_sample("norm", state, some)


class Recording(LocalExecutor):
    """Remembers which shards were run."""

    def __init__(self, worker: GradientWorker) -> None:
        super().__init__(worker)
        self.indices: list[int] = []

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
        for shard, values in super().map(task, shards, state, direction):
            self.indices.append(shard.index)
            yield shard, values


class Reordering(LocalExecutor):
    """Completes shards in another order, some of them twice."""

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
        order = list(shards)[::-1]
        yield from super().map(task, order, state, direction)
        yield from super().map(task, order[:2], state, direction)

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> Vector:
        tree = PairwiseSum[Vector](len(shards))
        ready = []
        for place in np.random.default_rng(0).permutation(len(shards)).tolist():
            part = self._worker.run("gradient_sum", shards[place], state)
            ready.append(tree.put(place, part))
        for node in ready:  # additions as late as possible
            while node is not None:
                node = tree.put(node, added(*map(tree.parts.get, tree.children(node))))
        return tree.total


class Losing(LocalExecutor):
    """Never completes the last shard."""

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
        return super().map(task, list(shards)[:-1], state, direction)


class Stub(GradientWorker):
    """A worker that gives what it is told to."""

    def __init__(self, give: Callable[[Task, Shard], Vector]) -> None:
        self._give = give

    def run(self, task: Task, shard: Shard, state: Any, direction: Any = None) -> Vector:
        return self._give(task, shard)


def _stubbed(give: Callable[[Task, Shard], Vector], ids: NDArray[np.int64]) -> ShardedGradients:
    return ShardedGradients(LocalExecutor(Stub(give)), ids)


def toy(task: Task, shard: Shard) -> Vector:
    """Values that tell samples from each other, and sums that depend on their order."""
    if task == "gradient_sum":
        return _parts(13)[shard.index]
    return np.sqrt(shard.positions, dtype=np.float32)[None]


NO_STATE = np.zeros(1, np.float32)
ALL = np.arange(800)


# Shards and the tree over them.


def test_shards_cover_every_position_once() -> None:
    for n in (1, 63, 64, 65, 8193, 50_000, 1_281_167):
        positions = np.arange(n) * 3 + 1
        shards = make_shards(positions)
        assert [s.index for s in shards] == list(range(len(shards)))
        np.testing.assert_array_equal(np.concatenate([s.positions for s in shards]), positions)
        sizes = {len(s.positions) for s in shards[:-1]}
        assert len(sizes) <= 1
        assert all(64 <= size <= 8192 for size in sizes)
        assert len(shards) <= max(64, math.ceil(n / 8192))
        elsewhere = make_shards(np.arange(n) + 7)
        assert [len(s.positions) for s in shards] == [len(s.positions) for s in elsewhere]


@pytest.mark.parametrize("positions", [[], [2, 1], [1, 1, 2]])
def test_positions_that_do_not_ascend_are_refused(positions: list[int]) -> None:
    with pytest.raises(ScoringError, match=r"Expected ascending positions .* found \["):
        make_shards(np.array(positions, np.int64))


def _parts(n: int) -> list[Vector]:
    """Addends whose sum depends on the order of the additions."""
    rng = np.random.default_rng(n)
    scales = 10.0 ** rng.integers(-4, 5, (n, 1))
    return list((scales * rng.standard_normal((n, 8))).astype(np.float32))


@pytest.mark.parametrize("n", [*range(1, 18), 63, 64, 65])
def test_the_tree_is_that_of_its_twin_in_any_order(n: int) -> None:
    parts = _parts(n)
    expected = sum_by_halving(parts)
    for seed in range(3):
        tree = PairwiseSum[Vector](n)
        for place in np.random.default_rng(seed).permutation(n).tolist():
            node = tree.put(place, parts[place])
            while node is not None:
                a, b = map(tree.parts.get, tree.children(node))
                node = tree.put(node, a + b)
        assert tree.total.tobytes() == expected.tobytes()
    if n > 8:
        assert np.sum(parts, axis=0, dtype=np.float32).tobytes() != expected.tobytes()


@pytest.mark.parametrize("n", [1, 2, 5, 64, 100])
def test_in_order_few_parts_are_held(n: int) -> None:
    tree = PairwiseSum[int](n)
    for place in range(n):
        node = tree.put(place, 1)
        while node is not None:
            assert tree.addends(node) == sorted(tree.addends(node))
            node = tree.put(node, sum(map(tree.parts.get, tree.children(node))))
        assert len(tree.parts) <= math.log2(n) + 1
    assert tree.total == n
    assert len(pairs_of(n)) == n - 1


def test_a_part_that_was_lost_can_be_put_again() -> None:
    tree = PairwiseSum[int](3)
    tree.put(0, 1)
    assert tree.put(1, 2) == 3
    tree.put(3, 3)
    del tree.parts[3]
    assert tree.put(2, 4) is None
    with pytest.raises(ScoringError, match="Expected 3 parts of a sum, found 1"):
        _ = tree.total
    tree.put(0, 1)
    assert tree.put(1, 2) == 3
    assert tree.put(3, 3) == 4


# What one worker computes.


def _oracle(
    digits: PreparedData, model: nn.Module, positions: NDArray[np.int64]
) -> list[dict[str, Tensor]]:
    """Every sample's own gradient in float64."""
    batches = make_batches(digits, digits.dataset.train, torch.device("cpu"))
    ((images, labels),) = batches([torch.from_numpy(positions)])
    twin = build_model("small_cnn", 10, digits.dataset.image_shape).double().eval()
    twin.load_state_dict(model.state_dict())
    return gradients_one_by_one(twin, images.double(), labels)


def _embedded(digits: PreparedData, model: nn.Module, positions: NDArray[np.int64]) -> Tensor:
    """What every layer but the last makes of the samples in float64, (M, D)."""
    batches = make_batches(digits, digits.dataset.train, torch.device("cpu"))
    ((images, _),) = batches([torch.from_numpy(positions)])
    layers = list(copy.deepcopy(model).double().children())
    assert isinstance(layers[-1], nn.Linear)
    return nn.Sequential(*layers[:-1])(images.double()).detach()


def test_every_task_gives_what_one_backward_pass_per_sample_gives(
    worker: GradientWorker,
    model: nn.Module,
    state: Vector,
    direction: Vector,
    digits: PreparedData,
    ids: NDArray[np.int64],
) -> None:
    positions = np.arange(5, 305, 3)
    gradients = _oracle(digits, model, positions)
    named = sharding._named(direction, parameters_of(model))
    norms, dots = norms_of(gradients), dots_of(gradients, {k: v.double() for k, v in named.items()})
    head = norms_of([{k: g for k, g in each.items() if "head" in k} for each in gradients])
    expected = {"norm": [norms], "last_layer_norm": [head], "dot": [dots]}
    expected["embedding"] = list(_embedded(digits, model, positions).T)
    sharded = ShardedGradients(LocalExecutor(worker), ids)
    for task in PER_SAMPLE:
        found = sharded.per_sample(task, state, positions, direction)
        assert found.shape == (len(expected[task]), len(positions))
        for row, values in zip(found, expected[task], strict=True):
            # A product may cancel, so its error is relative to the factors.
            scale = float(norms.max() * np.linalg.norm(direction)) if values is dots else 0.1
            np.testing.assert_allclose(row, values, rtol=1e-4, atol=1e-5 * scale)
    mean = torch.cat([g.flatten() for g in sum_of(gradients).values()]) / len(positions)
    found_mean = sharded.mean_gradient(state, positions)
    np.testing.assert_allclose(found_mean, mean, atol=1e-6)
    # Negative control: the comparison tells these samples' mean from that of others.
    others = sharded.mean_gradient(state, positions + 1)
    assert not np.allclose(others, mean, atol=1e-6)


def test_mean_of_dots_with_the_mean_gradient_is_its_square(
    worker: GradientWorker, state: Vector, ids: NDArray[np.int64], some: NDArray[np.int64]
) -> None:
    gradients = ShardedGradients(LocalExecutor(worker), ids)
    mean = gradients.mean_gradient(state, some)
    dots = gradients.per_sample("dot", state, some, mean)
    square = (mean.astype(np.float64) ** 2).sum()
    assert dots.mean(dtype=np.float64) == pytest.approx(square, rel=1e-4)


def test_a_subset_of_positions_gets_its_own_values(
    worker: GradientWorker, state: Vector, ids: NDArray[np.int64], norms: Vector
) -> None:
    gradients = ShardedGradients(LocalExecutor(worker), ids)
    subset = np.array([3, 4, 250, 259])
    found = gradients.per_sample("norm", state, subset)
    np.testing.assert_allclose(found, norms[:, subset], rtol=1e-4)
    assert not np.allclose(found, norms[:, :4], rtol=1e-4)


def test_batch_size_changes_no_value_and_the_same_batch_size_no_bit(
    digits: PreparedData, state: Vector, direction: Vector
) -> None:
    shard = Shard(0, np.arange(24))
    memories = (1, SMALL_MEMORY // 2, SMALL_MEMORY // 2, 2**31)
    workers = [GradientWorker(digits, "small_cnn", memory_bytes=memory) for memory in memories]
    sizes = [worker.halving.most for worker in workers]
    assert sizes[0] == 1
    assert 1 < sizes[1] == sizes[2] < 24
    assert sizes[3] == sharding.SCORING_BATCH
    for task in get_args(Task):
        one, some, again, whole = (w.run(task, shard, state, direction) for w in workers)
        assert some.tobytes() == again.tobytes()
        for values in (some, whole):
            np.testing.assert_allclose(values, one, rtol=1e-4, atol=1e-4)


def test_precision_reaches_the_engine(
    worker: GradientWorker, digits: PreparedData, state: Vector, direction: Vector
) -> None:
    shard = Shard(0, np.arange(20))
    narrow = GradientWorker(digits, "small_cnn", precision="bf16", memory_bytes=SMALL_MEMORY)
    for task in get_args(Task):
        found, plain = (w.run(task, shard, state, direction) for w in (narrow, worker))
        assert found.dtype == np.float32
        assert found.tobytes() != plain.tobytes()
        assert np.linalg.norm(found - plain) < 0.05 * np.linalg.norm(plain)


def test_sums_within_a_shard_are_taken_in_float64(
    digits: PreparedData, state: Vector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers whose sum float32 would lose, one for each batch of one."""
    worker = GradientWorker(digits, "small_cnn", memory_bytes=1)
    numbers = iter([1e8, 1.0, 1.0, -1e8])

    def sums(model: nn.Module, images: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        number = next(numbers)
        return {name: torch.full_like(p, number) for name, p in parameters_of(model).items()}

    monkeypatch.setattr(sharding, "gradient_sum", sums)
    found = worker.run("gradient_sum", Shard(0, np.arange(4)), state)
    assert (found == 2.0).all()


@pytest.mark.parametrize("task", ["norm", "gradient_sum"])
def test_out_of_memory_halves_the_batch_and_goes_on(
    task: Task,
    digits: PreparedData,
    worker: GradientWorker,
    state: Vector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantity = PER_SAMPLE["norm"]
    compute = quantity.compute if task == "norm" else sharding.gradient_sum
    failures: list[int] = []

    def limited(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Any:
        if len(images) > 30:
            failures.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(model, images, labels, **options)

    shards = (Shard(0, np.arange(90)), Shard(1, np.arange(90, 150)))
    expected = [worker.run(task, shard, state) for shard in shards]
    limited_one = dataclasses.replace(quantity, compute=limited)
    monkeypatch.setattr(sharding, "PER_SAMPLE", {"norm": limited_one})
    monkeypatch.setattr(sharding, "gradient_sum", limited)
    monkeypatch.setattr(halving, "free", lambda: None)  # there is nothing to be given back
    tight = GradientWorker(digits, "small_cnn", memory_bytes=SMALL_MEMORY * 4)
    assert tight.halving.most > 80
    found = [tight.run(task, shard, state) for shard in shards]
    for values, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, plain, rtol=1e-4, atol=1e-5)
    assert tight.halving.most <= 30
    assert len(failures) <= 2  # remembered from batch to batch and from shard to shard
    assert failures == sorted(failures, reverse=True)


def test_without_a_gpu_a_pass_may_take_2_gib() -> None:
    assert sharding.default_memory(torch.device("cpu")) == 2**31


def test_direction_of_another_model_is_refused(worker: GradientWorker, state: Vector) -> None:
    shard = Shard(0, np.arange(4))
    with pytest.raises(ScoringError, match=r"direction of 7514 numbers.*found shape \(3,\)"):
        worker.run("dot", shard, state, np.zeros(3, np.float32))
    with pytest.raises(ScoringError, match=r"direction of 7514 numbers.*found none"):
        worker.run("dot", shard, state)


# Many shards.


def test_order_of_completion_changes_no_bit(ids: NDArray[np.int64]) -> None:
    results = []
    for executor in (LocalExecutor(Stub(toy)), Reordering(Stub(toy))):
        gradients = ShardedGradients(executor, ids)
        mean = gradients.mean_gradient(NO_STATE, ALL)
        norms = gradients.per_sample("norm", NO_STATE, ALL)
        results.append((mean.tobytes(), norms.tobytes()))
    assert results[0] == results[1]


def test_the_mean_is_summed_along_the_tree() -> None:
    parts = _parts(13)
    gradients = _stubbed(lambda task, shard: parts[shard.index], np.arange(800))
    found = gradients.mean_gradient(NO_STATE, np.arange(800))
    assert found.tobytes() == (sum_by_halving(parts) / np.float32(800)).tobytes()
    assert found.dtype == np.float32


def test_uneven_shards_give_the_same_scores(
    worker: GradientWorker,
    state: Vector,
    ids: NDArray[np.int64],
    some: NDArray[np.int64],
    norms: Vector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradients = ShardedGradients(LocalExecutor(worker), ids)
    mean = gradients.mean_gradient(state, some)
    edges = [some[:1], some[1:100], some[100:]]
    uneven = tuple(Shard(i, positions) for i, positions in enumerate(edges))
    monkeypatch.setattr(sharding, "make_shards", lambda _: uneven)
    np.testing.assert_allclose(gradients.mean_gradient(state, some), mean, rtol=1e-4, atol=1e-6)
    found = gradients.per_sample("norm", state, some)
    np.testing.assert_allclose(found, norms, rtol=1e-4, atol=1e-6)


def test_restarting_in_the_middle_does_what_is_missing_and_gives_the_same_bits(
    worker: GradientWorker,
    state: Vector,
    ids: NDArray[np.int64],
    some: NDArray[np.int64],
    norms: Vector,
) -> None:
    partial = Partial.empty(1, len(some))
    for missing in (slice(70, 71), slice(190, 260)):
        partial.written[:] = True
        partial.values[:] = norms
        partial.written[missing] = False
        partial.values[:, missing] = np.nan
        executor, told = Recording(worker), list[int]()
        gradients = ShardedGradients(executor, ids, told.append)
        found = gradients.per_sample("norm", state, some, partial=partial)
        assert found.tobytes() == norms.tobytes()
        assert executor.indices == sorted({p // 64 for p in some[missing].tolist()})
        assert sum(told) == len(some[missing])


def test_a_partial_result_of_something_else_is_refused(ids: NDArray[np.int64]) -> None:
    with pytest.raises(ScoringError, match=r"shape \(1, 4\), found \(2, 4\)"):
        _stubbed(toy, ids).per_sample("norm", NO_STATE, np.arange(4), partial=Partial.empty(2, 4))


def test_progress_is_told_of_every_sample_once(ids: NDArray[np.int64]) -> None:
    told: list[int] = []
    gradients = ShardedGradients(LocalExecutor(Stub(toy)), ids, told.append)
    gradients.mean_gradient(NO_STATE, ALL)
    assert len(told) == 13
    assert sum(told) == len(ALL)
    gradients = ShardedGradients(Reordering(Stub(toy)), ids, told.append)
    gradients.per_sample("norm", NO_STATE, ALL)
    assert sum(told) == 2 * len(ALL)


# What goes wrong.


def test_a_lost_shard_is_an_error_and_not_a_zero(ids: NDArray[np.int64]) -> None:
    gradients = ShardedGradients(Losing(Stub(toy)), ids)
    with pytest.raises(ScoringError, match=r"value for each of 800 samples, found 768"):
        gradients.per_sample("norm", NO_STATE, ALL)


def test_a_failing_shard_is_named_after_all_others_are_kept(ids: NDArray[np.int64]) -> None:
    def failing(task: Task, shard: Shard) -> Vector:
        if shard.index in (1, 3):
            raise RuntimeError(f"no luck with {shard.index}.\nmore of it")
        return toy(task, shard)

    partial = Partial.empty(1, len(ALL))
    members = ids[64:128]
    sentence = (
        r"Expected every shard to give its norm, found 2 that did not, first shard 1 \(sample ids "
        rf"{members.min()} to {members.max()}\): RuntimeError: no luck with 1; what was scored is "
    )
    with pytest.raises(ScoringError, match=sentence):
        _stubbed(failing, ids).per_sample("norm", NO_STATE, ALL, partial=partial)
    assert set(np.flatnonzero(~partial.written)) == {*range(64, 128), *range(192, 256)}
    executor = Recording(Stub(toy))
    found = ShardedGradients(executor, ids).per_sample("norm", NO_STATE, ALL, partial=partial)
    assert executor.indices == [1, 3]
    assert found.tobytes() == _stubbed(toy, ids).per_sample("norm", NO_STATE, ALL).tobytes()


def test_a_mean_gradient_stops_at_the_first_failing_shard(ids: NDArray[np.int64]) -> None:
    seen: list[int] = []

    def run(task: Task, shard: Shard) -> Vector:
        seen.append(shard.index)
        if shard.index == 1:
            raise ScoringError("Expected luck, found none; try again.")
        return np.zeros(3, np.float32)

    with pytest.raises(ScoringError, match=r"its gradient_sum, .* shard 1 .*Expected luck, found"):
        _stubbed(run, ids).mean_gradient(NO_STATE, np.arange(800))
    assert seen == [0, 1]


def test_failed_shards_survive_pickling() -> None:
    error = FailedShardsError([(Shard(2, np.array([5, 9])), "its worker died")])
    text = str(pickle.loads(pickle.dumps(error)))
    assert text == str(error)
    assert "1 not, first shard 2 (positions 5 to 9): its worker died" in text


def test_values_that_are_not_finite_are_named_by_sample_id(ids: NDArray[np.int64]) -> None:
    bad = [3, 70, 799]

    def run(task: Task, shard: Shard) -> Vector:
        values = np.ones((1, len(shard.positions)), np.float32)
        values[:, np.isin(shard.positions, bad)] = np.nan if shard.index else np.inf
        return values

    partial = Partial.empty(1, 800)
    sentence = f"finite dot .* found 3 .*sample ids {ids[3]}, {ids[70]}, {ids[799]};"
    with pytest.raises(ScoringError, match=sentence):
        _stubbed(run, ids).per_sample("dot", NO_STATE, np.arange(800), partial=partial)
    assert np.flatnonzero(~partial.written).tolist() == bad
    assert np.isfinite(partial.values).all()


def test_a_mean_gradient_that_is_not_finite_names_the_samples(ids: NDArray[np.int64]) -> None:
    def give(task: Task, shard: Shard) -> Vector:
        bad = np.isin(shard.positions, [5, 799])
        values = np.where(bad, np.inf, 1.0).astype(np.float32)
        # Both infinities in one sum, which must not raise NumPy's warning instead.
        sign = 1 if shard.index else -1
        return sign * values.sum(keepdims=True) if task == "gradient_sum" else values[None]

    told: list[int] = []
    gradients = ShardedGradients(LocalExecutor(Stub(give)), ids, told.append)
    with pytest.raises(ScoringError, match=f"finite norm .* ids {ids[5]}, {ids[799]};"):
        gradients.mean_gradient(NO_STATE, np.arange(800))
    assert sum(told) == 800


def test_a_sum_that_overflows_is_an_error(ids: NDArray[np.int64]) -> None:
    def run(task: Task, shard: Shard) -> Vector:
        return np.full((3,) if task == "gradient_sum" else (1, 64), 3e38, np.float32)

    with pytest.raises(ScoringError, match="sum of 128 gradients, found one that overflows"):
        _stubbed(run, ids).mean_gradient(NO_STATE, np.arange(128))


def test_a_model_with_complex_parameters_is_refused_by_name(
    digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    spectral = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=torch.complex64))
    monkeypatch.setattr(sharding, "build_model", lambda *_, **__: spectral)
    with pytest.raises(ScoringError, match=r"real parameters.*'1\.weight' in small_cnn"):
        GradientWorker(digits, "small_cnn")
