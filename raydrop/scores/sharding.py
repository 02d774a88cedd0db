"""Gradient scoring cut into fixed shards: one contract, run in this process or on Ray.

A shard is a block of sample positions, and the blocks depend on the positions alone. Sums are taken
along one tree over the shards, and values are written by position with a flag. So results are the
same bits for any number of workers, any order of completion and after any crash; a shard that is
done twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ScoringError, in_one_line
from raydrop.models import build_model
from raydrop.scores.embeddings import embeddings_of
from raydrop.scores.gradients import (
    gradient_sum,
    last_layer_only,
    norm_and_dot,
    parameters_of,
    per_sample_dot,
    per_sample_norm,
)
from raydrop.scores.gradients.memory import batch_size_for
from raydrop.scores.gradients.tree import PairwiseSum
from raydrop.study import ScoringPrecision
from raydrop.training.checkpoints import load_state
from raydrop.training.halving import Halving

T = TypeVar("T")

Task = Literal["gradient_sum", "norm", "last_layer_norm", "dot", "norm_and_dot", "embedding"]
"""sum_i g_i; || g_i ||; the same over the last layer's parameters alone; <v, g_i>; both || g_i ||
and <v, g_i>; the input of the last linear layer. g_i is the gradient of sample i's own loss over
all trainable parameters."""

SCORING_BATCH = 128
"""Most samples per pass; larger batches gain nothing, and a fixed limit keeps bits the same."""

CPU_MEMORY_BYTES = 2**31
"""What a worker without a GPU may take for a pass, unless it is told otherwise."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A block of samples."""

    index: int
    """Its place in the order of reduction."""
    positions: NDArray[np.int64]
    """Ascending positions in the training set, (M,)."""


def make_shards(positions: NDArray[np.int64]) -> tuple[Shard, ...]:
    """Cut positions into shards of a size that depends on their number alone.

    About 64 shards of 64 to 8,192 samples: enough to share among workers, few enough that their
    gradient sums, one model's size each, stay cheap to move.

    Args:
        positions: Ascending positions in the training set, (M,), M at least 1.

    Raises:
        ScoringError: If there is none, or they do not ascend.
    """
    positions = np.asarray(positions, dtype=np.int64)
    if not len(positions) or (np.diff(positions) <= 0).any():
        raise ScoringError(
            f"Expected ascending positions of samples, found {_shortened(positions)}; "
            "sort them with np.unique, and leave none out."
        )
    size = min(max(-(-len(positions) // 64), 64), 8192)
    starts = range(0, len(positions), size)
    return tuple(Shard(i, positions[start : start + size]) for i, start in enumerate(starts))


def rows_of(task: Task) -> int | None:
    """Return R, the values that a per-sample task gives of each sample; None if the model says."""
    return {"norm_and_dot": 2, "embedding": None}.get(task, 1)


def ignore(_: object) -> None:
    """Do nothing: the progress that nobody watches."""


def default_memory(device: torch.device) -> int:
    """Return the bytes that a worker may take for a pass: half of a GPU, or 2 GiB without one."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    return CPU_MEMORY_BYTES


class GradientWorker:
    """Computes one shard at a time; an ordinary class, made an actor only where a pool is built."""

    def __init__(
        self,
        data: PreparedData,
        model: str,
        device: str = "cpu",
        precision: ScoringPrecision = "fp32",
        memory_bytes: int | None = None,
    ) -> None:
        """Build the model and choose the batch size.

        Args:
            data: Prepared data; shards are blocks of its training set.
            model: Name of the architecture.
            device: ``cpu`` or ``cuda``.
            precision: Of the forward and backward passes.
            memory_bytes: What a pass may take; see :func:`default_memory`.

        Raises:
            ScoringError: If a parameter is complex.
        """
        self._device = torch.device(device)
        dataset = data.dataset
        self._batches = make_batches(data, dataset.train, self._device)
        shape = dataset.image_shape
        # Every shard brings a checkpoint.
        self._model = build_model(model, dataset.num_classes, shape, trained=False)
        self._model.to(self._device).eval()
        complex_ones = [name for name, p in self._model.named_parameters() if p.is_complex()]
        if complex_ones:
            raise ScoringError(
                f"Expected real parameters, which sums of gradients are kept as, found complex "
                f"{complex_ones[0]!r} in {model}; keep real and imaginary parts in parameters of "
                "their own."
            )
        self._precision = precision
        most = batch_size_for(
            self._model,
            dataset.image_shape,
            default_memory(self._device) if memory_bytes is None else memory_bytes,
            limit=SCORING_BATCH,
        )
        self._halving = Halving(most, ScoringError)

    @property
    def batch_size(self) -> int:
        """Most samples per pass from now on; halved whenever memory runs out."""
        assert self._halving.most is not None
        return self._halving.most

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
            shard: Of which samples, M of them.
            state: A checkpoint, as :func:`raydrop.training.checkpoints.flat_state` gives it.
            direction: For ``dot`` and ``norm_and_dot``: the direction v, all trainable parameters
                in their order, (P,).

        Returns:
            The sum of gradients (P,) for ``gradient_sum``; norms and dot products (2, M) for
            ``norm_and_dot``; embeddings (D, M) for ``embedding``; otherwise one value per sample,
            (1, M).

        Raises:
            ScoringError: If the model, the labels or the direction do not fit; see
                :mod:`raydrop.scores.gradients`.
        """
        load_state(self._model, state)
        if task == "gradient_sum":
            return self._gradient_sum(shard)
        compute = self._per_sample(task, direction)
        values = torch.cat(list(self._in_batches(shard, compute)), dim=1)
        return values.float().cpu().numpy()

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a + b, (P,) each: one node of the tree that sums the shards.

        What overflows is found in the sum, by :meth:`ShardedGradients.mean_gradient`.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            total: NDArray[np.float32] = a + b
        return total

    def _gradient_sum(self, shard: Shard) -> NDArray[np.float32]:
        """Return the sum of gradients, (P,), accumulated in float64 in one vector."""
        parameters = parameters_of(self._model)
        sizes = [value.numel() for value in parameters.values()]
        total = torch.zeros(sum(sizes), dtype=torch.float64, device=self._device)
        pieces = dict(zip(parameters, total.split(sizes), strict=True))

        def compute(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return gradient_sum(self._model, images, labels, precision=self._precision)

        for sums in self._in_batches(shard, compute):
            for name, piece in pieces.items():
                piece += sums[name].reshape(-1)
        return total.float().cpu().numpy()

    def _per_sample(
        self, task: Task, direction: NDArray[np.float32] | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the values (R, B) of a batch."""
        model, precision = self._model, self._precision

        def norms(images: Tensor, labels: Tensor) -> Tensor:
            return per_sample_norm(model, images, labels, precision=precision)[None]

        def last_layer_norms(images: Tensor, labels: Tensor) -> Tensor:
            with last_layer_only(model):
                return norms(images, labels)

        def embedded(images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001 - like the others
            return embeddings_of(model, images, precision=precision).T

        if task == "embedding":
            return embedded
        if task == "norm":
            return norms
        if task == "last_layer_norm":
            return last_layer_norms
        vector = _named(direction, parameters_of(model))

        def dots(images: Tensor, labels: Tensor) -> Tensor:
            return per_sample_dot(model, images, labels, vector, precision=precision)[None]

        def both(images: Tensor, labels: Tensor) -> Tensor:
            return torch.stack(norm_and_dot(model, images, labels, vector, precision=precision))

        return dots if task == "dot" else both

    def _in_batches(self, shard: Shard, compute: Callable[[Tensor, Tensor], T]) -> Iterator[T]:
        """Yield what is computed of a shard, batch by batch, in the order of its samples."""
        # A copy, because Ray's shared memory is read-only.
        positions = torch.from_numpy(np.array(shard.positions))
        for images, labels in self._batches(positions.split(self.batch_size)):
            # Memory may have run out since the batches of this shard were cut.
            yield from self._halving(compute, images, labels)


class FailedShardsError(ScoringError):
    """What an executor raises once everything else is done; it names shards by position."""

    def __init__(self, failures: Sequence[tuple[Shard, str]]) -> None:
        """Keep what failed.

        Args:
            failures: Shards, each with the reason in a few words; the first one is named.
        """
        super().__init__(failures)
        self.failures = tuple(failures)

    def __str__(self) -> str:
        """Name the first shard by the positions of its samples."""
        shard, reason = self.failures[0]
        return (
            f"Expected every shard to be done, found {len(self.failures)} not, first shard "
            f"{shard.index} (positions {shard.positions[0]} to {shard.positions[-1]}): {reason}; "
            "mend that and run again."
        )


class Executor(Protocol):
    """Runs shards somewhere."""

    def share(self, array: NDArray[np.float32]) -> Any:
        """Return a handle that every later call may name instead of the array."""
        ...

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Run a per-sample task on every shard; yield the results as they are done, in any order.

        Raises:
            FailedShardsError: If shards failed, once all the others are done.
        """
        ...

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> NDArray[np.float32]:
        """Return the sum of all samples' gradients, (P,), along the tree of :mod:`.tree`.

        Args:
            shards: At least one; their order is that of the sum.
            state: A handle of the checkpoint.
            on_shard: Is told each shard once, when it is done.

        Raises:
            FailedShardsError: As soon as a shard failed, because no sum could be kept.
        """
        ...


def summed(
    run: Callable[[Shard], NDArray[np.float32]],
    add: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
    shards: Sequence[Shard],
    on_shard: Callable[[Shard], object] = ignore,
) -> NDArray[np.float32]:
    """Return what is run of some shards, one after the other, summed along their tree.

    Of shards that are the addends of a node of a larger tree it is that node's part, to the bit.

    Args:
        run: Gives the addend (P,) of a shard.
        add: Adds two.
        shards: At least one; their order is that of the sum.
        on_shard: Is told each shard when it is done.
    """
    tree = PairwiseSum[NDArray[np.float32]](len(shards))
    for place, shard in enumerate(shards):
        node = tree.put(place, run(shard))
        while node is not None:
            left, right = (tree.part(child) for child in tree.children(node))
            node = tree.put(node, add(left, right))
        on_shard(shard)
    return tree.total


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
        errors: list[FailedShardsError] = []
        for shard in shards:
            try:
                values = self._run(task, shard, state, direction)
            except FailedShardsError as error:
                errors.append(error)
            else:
                yield shard, values
        if errors:
            failures = [failure for error in errors for failure in error.failures]
            raise FailedShardsError(failures) from errors[0].__cause__

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> NDArray[np.float32]:
        """See :class:`Executor`."""

        def run(shard: Shard) -> NDArray[np.float32]:
            return self._run("gradient_sum", shard, state, None)

        return summed(run, self._worker.add, shards, on_shard)

    def _run(self, task: Task, shard: Shard, state: Any, direction: Any) -> NDArray[np.float32]:
        try:
            return self._worker.run(task, shard, state, direction)
        except Exception as error:
            raise FailedShardsError([(shard, in_one_line(error))]) from error


@dataclass(eq=False)
class Partial:
    """Values of samples as far as they are there; kept up to date while shards are run."""

    values: NDArray[np.float32]
    """Values, (R, M), for M positions; zero where not written. (0, M) until the first ones are
    written, where the model says how many a sample has."""
    written: NDArray[np.bool_]
    """Whether a sample's values are there, (M,)."""

    @classmethod
    def empty(cls, rows: int | None, samples: int) -> Partial:
        """Return one for ``samples`` samples with ``rows`` values each, none of them written."""
        return cls(np.zeros((rows or 0, samples), np.float32), np.zeros(samples, np.bool_))


class ShardedGradients:
    """Gradient quantities of any samples of a training set at a checkpoint, by any executor."""

    def __init__(
        self,
        executor: Executor,
        ids: NDArray[np.int64],
        on_samples: Callable[[int], object] = ignore,
    ) -> None:
        """Bind an executor.

        Args:
            executor: Runs the shards.
            ids: Sample ids of the training set, (N,), by which messages name samples.
            on_samples: Is told how many samples are newly done, whenever some are.
        """
        self._executor = executor
        self._ids = ids
        self._on_samples = on_samples

    @property
    def n(self) -> int:
        """Samples of the training set."""
        return len(self._ids)

    def mean_gradient(
        self, state: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return G = (1/M) sum_i g_i over M samples at a checkpoint, (P,).

        g_i is the gradient of sample i's own loss over all trainable parameters. Each shard is
        summed in float64, and the shards in float32 along the tree of
        :mod:`raydrop.scores.gradients.tree`.

        Args:
            state: A checkpoint, as :func:`raydrop.training.checkpoints.flat_state` gives it.
            positions: Ascending positions of the samples in the training set, (M,).

        Raises:
            ScoringError: If a shard failed, or a gradient is not finite; names it by sample ids.
        """
        shards = make_shards(positions)
        try:
            total = self._executor.reduce(shards, self._executor.share(state), self._on_shard)
        except FailedShardsError as error:
            raise self._by_ids("gradient_sum", error) from error
        if not np.isfinite(total).all():
            quiet = ShardedGradients(self._executor, self._ids)
            quiet.per_sample("norm", state, positions)  # names the samples
            raise ScoringError(
                f"Expected a finite sum of {len(positions)} gradients, found one that overflows, "
                "though each of them is finite; lower learning_rate of the query model."
            )
        return total / np.float32(len(positions))

    def per_sample(
        self,
        task: Task,
        state: NDArray[np.float32],
        positions: NDArray[np.int64],
        direction: NDArray[np.float32] | None = None,
        partial: Partial | None = None,
    ) -> NDArray[np.float32]:
        """Return values of M samples at a checkpoint.

        Args:
            task: Any but ``gradient_sum``.
            state: A checkpoint, as :func:`raydrop.training.checkpoints.flat_state` gives it.
            positions: Ascending positions of the samples in the training set, (M,).
            direction: For ``dot`` and ``norm_and_dot``: v, (P,).
            partial: What is there already. Shards without a gap are not run again, and what is
                computed is written into it, so that after an exception it is worth keeping.

        Returns:
            The values (R, M): norms and dot products for ``norm_and_dot``, D rows for
            ``embedding``, otherwise one row.

        Raises:
            ScoringError: If a shard failed, or a value is not finite; names it by sample ids, once
                all the others are written.
        """
        shards = make_shards(positions)
        partial = _fitting(partial, rows_of(task), len(positions))
        places = _places(shards)
        todo = [shard for shard in shards if not partial.written[places[shard.index]].all()]
        shared = self._executor.share(state)
        vector = None if direction is None else self._executor.share(direction)
        bad: set[int] = set()
        try:
            for shard, values in self._executor.map(task, todo, shared, vector):
                finite = self._write(partial, places[shard.index], values)
                bad.update(self._ids[shard.positions[~finite]].tolist())
        except FailedShardsError as error:
            raise self._by_ids(task, error) from error
        _check_finite(task, sorted(bad))
        if not partial.written.all():
            raise ScoringError(
                f"Expected a value for each of {len(positions)} samples, found "
                f"{int(partial.written.sum())}; run the command again, which computes what is "
                "missing."
            )
        return partial.values

    def _on_shard(self, shard: Shard) -> None:
        self._on_samples(len(shard.positions))

    def _write(
        self, partial: Partial, place: slice, values: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Write the finite values (R, M) of a shard; return which samples' are."""
        if not len(partial.values):
            partial.values = np.zeros((len(values), len(partial.written)), np.float32)
        finite = np.asarray(np.isfinite(values).all(axis=0))
        newly = int((finite & ~partial.written[place]).sum())
        partial.values[:, place][:, finite] = values[:, finite]
        partial.written[place] |= finite
        if newly:
            self._on_samples(newly)
        return finite

    def _by_ids(self, task: Task, error: FailedShardsError) -> ScoringError:
        """Return the error that names the first shard by the ids of its samples."""
        shard, reason = error.failures[0]
        ids = self._ids[shard.positions]
        return ScoringError(
            f"Expected every shard to give its {task}, found {len(error.failures)} that did not, "
            f"first shard {shard.index} (sample ids {ids.min()} to {ids.max()}): {reason}; what "
            "was scored is kept, so mend that and run the same command again, which goes on there."
        )


def _places(shards: Sequence[Shard]) -> Mapping[int, slice]:
    """Return where each shard's samples lie among all positions, by its index."""
    places, start = {}, 0
    for shard in shards:
        places[shard.index] = slice(start, start + len(shard.positions))
        start += len(shard.positions)
    return places


def _fitting(partial: Partial | None, rows: int | None, samples: int) -> Partial:
    """Return a partial result of the right shape: the given one, or an empty one."""
    if partial is None:
        return Partial.empty(rows, samples)
    rows = len(partial.values) if rows is None else rows
    if partial.values.shape != (rows, samples) or partial.written.shape != (samples,):
        raise ScoringError(
            f"Expected a partial result of shape ({rows}, {samples}), found "
            f"{partial.values.shape} with flags {partial.written.shape}; it belongs to another "
            "task or other samples, so leave it out."
        )
    return partial


def _check_finite(task: Task, bad: list[int]) -> None:
    """Raise if there are ids of samples whose values are not finite."""
    if bad:
        raise ScoringError(
            f"Expected a finite {task} for every sample, found {len(bad)} that are not, of sample "
            f"ids {', '.join(map(str, bad[:5]))}{', ...' if len(bad) > 5 else ''}; the query run "
            "probably diverged, so lower learning_rate."
        )


def _named(
    vector: NDArray[np.float32] | None, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Cut a flat vector (P,) into tensors of the parameters' names and shapes."""
    sizes = [value.numel() for value in parameters.values()]
    if vector is None or vector.shape != (sum(sizes),):
        found = "none" if vector is None else f"shape {vector.shape}"
        raise ScoringError(
            f"Expected a direction of {sum(sizes)} numbers, one per trainable parameter, found "
            f"{found}; use the mean gradient of the same model."
        )
    pieces = torch.from_numpy(np.array(vector)).split(sizes)
    return {
        name: piece.view(value.shape).to(value.device)
        for (name, value), piece in zip(parameters.items(), pieces, strict=True)
    }


def _shortened(positions: NDArray[np.int64]) -> str:
    return np.array2string(positions, threshold=6, edgeitems=3)
