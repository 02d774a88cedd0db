"""Gradient scoring cut into fixed shards: one contract, run in this process or on Ray.

A shard is a block of consecutive sample positions whose size depends on the number of samples
alone. Reductions run in shard order, and results are written by position, so scores are the same
bits for any number of workers, any order of completion and after any crash; a shard that is done
twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores.gradients import (
    gradient_sum,
    parameters_of,
    per_sample_dot,
    per_sample_norm,
)
from raydrop.training.checkpoints import load_state

Task = Literal["gradient_sum", "dot", "norm"]

SCORING_BATCH = 128
"""Samples per pass inside a shard; fixed, so that a score never depends on the executor."""


@dataclass(frozen=True)
class Shard:
    """A block of sample positions."""

    index: int
    """Its place in the order of reduction."""
    start: int
    """First position."""
    stop: int
    """Position after the last."""


def make_shards(n: int) -> tuple[Shard, ...]:
    """Cut ``n`` positions into shards.

    About 64 shards of 128 to 8,192 samples: enough to share among workers, few enough that their
    gradient sums, one model's size each, stay cheap to move.
    """
    size = min(max(-(-n // 64), 128), 8192)
    starts = range(0, n, size)
    return tuple(Shard(i, start, min(start + size, n)) for i, start in enumerate(starts))


class GradientWorker:
    """Computes one shard at a time; an ordinary class, made an actor only where a pool is built."""

    def __init__(self, data: PreparedData, model: str, device: str = "cpu") -> None:
        self._device = torch.device(device)
        dataset = data.dataset
        self._batches = make_batches(data, dataset.train, self._device)
        self._model = build_model(model, dataset.num_classes, dataset.image_shape)
        self._model.to(self._device).eval()

    def run(
        self,
        task: Task,
        shard: Shard,
        state: NDArray[np.float32],
        direction: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Compute one shard.

        Args:
            task: What is wanted.
            shard: Of which samples.
            state: A checkpoint, as :func:`raydrop.training.checkpoints.flat_state` gives it.
            direction: For ``dot``: the direction v, all trainable parameters in their order, (P,).

        Returns:
            The sum of gradients (P,) for ``gradient_sum``; otherwise one value per sample.
        """
        load_state(self._model, state)
        parameters = parameters_of(self._model)
        vector = None if direction is None else _named(direction, parameters)
        positions = torch.arange(shard.start, shard.stop)
        parts: list[Tensor] = []
        for images, labels in self._batches(positions.split(SCORING_BATCH)):
            if task == "dot":
                assert vector is not None
                parts.append(per_sample_dot(self._model, images, labels, vector))
            elif task == "norm":
                parts.append(per_sample_norm(self._model, images, labels))
            else:
                sums = gradient_sum(self._model, images, labels)
                parts.append(torch.cat([g.flatten() for g in sums.values()]))
        joined = torch.stack(parts).sum(0) if task == "gradient_sum" else torch.cat(parts)
        return joined.float().cpu().numpy()


class Executor(Protocol):
    """Runs shards somewhere."""

    def share(self, array: NDArray[np.float32]) -> Any:
        """Return a handle that every call of :meth:`map` may name instead of the array."""
        ...

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Run one task on every shard and yield the results as they are done, in any order."""
        ...


class LocalExecutor:
    """Runs shards one after the other in this process."""

    def __init__(self, worker: GradientWorker) -> None:
        self._worker = worker

    def share(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the array itself."""
        return array

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """See :class:`Executor`."""
        for shard in shards:
            yield shard, self._worker.run(task, shard, state, direction)


class ShardedGradients:
    """Quantities of a whole training set at one checkpoint, by any executor."""

    def __init__(self, executor: Executor, n: int) -> None:
        self._executor = executor
        self._n = n
        self._shards = make_shards(n)

    @property
    def n(self) -> int:
        """Training samples."""
        return self._n

    def mean_gradient(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return G = (1/N) sum_i grad l_i at a checkpoint, (P,), summed in shard order."""
        total: NDArray[np.float64] | None = None
        waiting: dict[int, NDArray[np.float32]] = {}
        due = 0
        shared = self._executor.share(state)
        for shard, part in self._executor.map("gradient_sum", self._shards, shared):
            waiting[shard.index] = part
            while due in waiting:
                addend = waiting.pop(due).astype(np.float64)
                total = addend if total is None else total + addend
                due += 1
        if total is None or due < len(self._shards):
            raise ScoringError(
                f"Expected {len(self._shards)} shards of the mean gradient, found {due}; "
                "run the command again, which computes what is missing."
            )
        return (total / self._n).astype(np.float32)

    def dots(
        self, state: NDArray[np.float32], direction: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return <v, grad l_i> of every sample at a checkpoint, (N,)."""
        return self._per_sample("dot", state, self._executor.share(direction))

    def norms(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return || grad l_i ||_2 of every sample at a checkpoint, (N,)."""
        return self._per_sample("norm", state, None)

    def _per_sample(
        self, task: Task, state: NDArray[np.float32], direction: Any
    ) -> NDArray[np.float32]:
        values = np.zeros(self._n, np.float32)
        written = np.zeros(self._n, np.bool_)
        shared = self._executor.share(state)
        for shard, part in self._executor.map(task, self._shards, shared, direction):
            values[shard.start : shard.stop] = part
            written[shard.start : shard.stop] = True
        if not written.all():
            raise ScoringError(
                f"Expected a value for each of {self._n} samples, found {int(written.sum())}; "
                "run the command again, which computes what is missing."
            )
        return values


def _named(vector: NDArray[np.float32], parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut a flat vector (P,) into tensors of the parameters' names and shapes."""
    sizes = [value.numel() for value in parameters.values()]
    if sum(sizes) != len(vector):
        raise ScoringError(
            f"Expected a direction of {sum(sizes)} numbers, one per trainable parameter, found "
            f"{len(vector)}; use the mean gradient of the same model."
        )
    pieces = torch.from_numpy(np.array(vector)).split(sizes)
    return {
        name: piece.view(value.shape).to(value.device)
        for (name, value), piece in zip(parameters.items(), pieces, strict=True)
    }
