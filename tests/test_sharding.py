"""Sharded scoring gives the same bits however the shards are run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores import sharding
from raydrop.scores.gradients import gradient_sum, per_sample_norm
from raydrop.scores.sharding import (
    GradientWorker,
    LocalExecutor,
    Shard,
    ShardedGradients,
    Task,
    make_shards,
)
from raydrop.training.checkpoints import flat_state


@pytest.fixture(scope="module")
def worker(digits: PreparedData) -> GradientWorker:
    return GradientWorker(digits, "small_cnn")


@pytest.fixture(scope="module")
def state(digits: PreparedData) -> NDArray[np.float32]:
    torch.manual_seed(0)
    return flat_state(build_model("small_cnn", 10, digits.dataset.image_shape))


class Reordering(LocalExecutor):
    """Completes shards in another order, some of them twice."""

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        order = list(shards)[::-1]
        yield from super().map(task, order, state, direction)
        if task != "gradient_sum":
            yield from super().map(task, order[:2], state, direction)


class Losing(LocalExecutor):
    """Never completes the last shard."""

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        return super().map(task, list(shards)[:-1], state, direction)


@pytest.mark.parametrize("n", [1, 127, 128, 129, 8193, 50_000, 1_281_167])
def test_shards_cover_every_sample_once(n: int) -> None:
    shards = make_shards(n)
    assert [s.index for s in shards] == list(range(len(shards)))
    edges = [(s.start, s.stop) for s in shards]
    assert edges[0][0] == 0
    assert edges[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
    assert max(stop - start for start, stop in edges) <= 8192


def test_order_of_completion_changes_no_bit(
    worker: GradientWorker, state: NDArray[np.float32], digits: PreparedData
) -> None:
    n = len(digits.dataset.train)
    assert len(make_shards(n)) >= 3
    results = []
    for executor in (LocalExecutor(worker), Reordering(worker)):
        gradients = ShardedGradients(executor, n)
        mean = gradients.mean_gradient(state)
        results.append((mean, gradients.dots(state, mean), gradients.norms(state)))
    for first, second in zip(*results, strict=True):
        assert first.tobytes() == second.tobytes()


def test_sharded_results_are_those_of_one_batch(
    worker: GradientWorker, state: NDArray[np.float32], digits: PreparedData
) -> None:
    n = len(digits.dataset.train)
    gradients = ShardedGradients(LocalExecutor(worker), n)
    torch.manual_seed(0)
    model = build_model("small_cnn", 10, digits.dataset.image_shape).eval()
    train = digits.dataset.train
    ((images, labels),) = make_batches(digits, train, torch.device("cpu"))([torch.arange(n)])
    sums = gradient_sum(model, images, labels)
    whole = torch.cat([g.flatten() for g in sums.values()]).numpy() / n
    mean = gradients.mean_gradient(state)
    np.testing.assert_allclose(mean, whole, atol=1e-6)
    norms = per_sample_norm(model, images, labels).numpy()
    np.testing.assert_allclose(gradients.norms(state), norms, rtol=1e-4)
    dots = gradients.dots(state, mean)
    assert dots.astype(np.float64).mean() == pytest.approx(
        (mean.astype(np.float64) ** 2).sum(), rel=1e-4
    )


def test_uneven_shards_give_the_same_scores(
    worker: GradientWorker,
    state: NDArray[np.float32],
    digits: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n = len(digits.dataset.train)
    norms = ShardedGradients(LocalExecutor(worker), n).norms(state)
    uneven = (Shard(0, 0, 1), Shard(1, 1, 300), Shard(2, 300, n))
    monkeypatch.setattr(sharding, "make_shards", lambda _: uneven)
    again = ShardedGradients(LocalExecutor(worker), n).norms(state)
    np.testing.assert_allclose(norms, again, rtol=1e-4)


def test_a_lost_shard_is_an_error_and_not_a_zero(
    worker: GradientWorker, state: NDArray[np.float32], digits: PreparedData
) -> None:
    gradients = ShardedGradients(Losing(worker), len(digits.dataset.train))
    with pytest.raises(ScoringError, match=r"shards of the mean gradient, found \d"):
        gradients.mean_gradient(state)
    with pytest.raises(ScoringError, match=r"value for each of \d+ samples, found \d+"):
        gradients.norms(state)


def test_direction_of_another_model_is_refused(
    worker: GradientWorker, state: NDArray[np.float32]
) -> None:
    with pytest.raises(ScoringError, match=r"direction of \d+ numbers.*found 3"):
        worker.run("dot", Shard(0, 0, 4), state, np.zeros(3, np.float32))


def test_gradients_are_summed_in_the_order_of_the_shards() -> None:
    """Numbers whose sum depends on the order, completed in another one."""
    parts = [1e30, -1e30, 1.0]

    class Backwards:
        def share(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
            return array

        def map(
            self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
        ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
            for shard in reversed(list(shards)):
                yield shard, np.array([parts[shard.index]], np.float32)

    gradients = ShardedGradients(Backwards(), 384)
    assert gradients.mean_gradient(np.zeros(1, np.float32)) == np.float32(1 / 384)
