"""Gradient scoring cut into fixed shards: one contract, run in this process or on Ray.

A shard is a block of sample positions, and the blocks depend on the positions alone. Sums are taken
along one tree over the shards, and values are written by position with a flag. So results are the
same bits for any number of workers, any order of completion and after any crash; a shard that is
done twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import PreparedData
from raydrop.errors import ScoringError, in_one_line
from raydrop.models import build_model
from raydrop.scores.gradients import gradient_sum, parameters_of
from raydrop.scores.gradients.memory import batch_size_for
from raydrop.scores.gradients.tree import PairwiseSum
from raydrop.scores.own import OwnData
from raydrop.scores.quantities import PER_SAMPLE, Task
from raydrop.study import ScoringPrecision
from raydrop.training.checkpoints import load_state
from raydrop.training.halving import Halving

T = TypeVar("T")
Vector = NDArray[np.float32]

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
    """Cut ascending positions in the training set, (M,), into shards of a size that follows from M.

    About 64 shards of 64 to 8,192 samples: enough to share among workers, few enough that their
    gradient sums, one model's size each, stay cheap to move.
    """
    positions = np.asarray(positions, dtype=np.int64)
    if not len(positions) or (np.diff(positions) <= 0).any():
        found = np.array2string(positions, threshold=6, edgeitems=3)
        raise ScoringError(
            f"Expected ascending positions of samples, found {found}; sort them with np.unique, "
            "and leave none out."
        )
    size = min(max(-(-len(positions) // 64), 64), 8192)
    starts = range(0, len(positions), size)
    return tuple(Shard(i, positions[start : start + size]) for i, start in enumerate(starts))


def ignore(_: object) -> None:
    """Do nothing: the progress that nobody watches."""


def default_memory(device: torch.device) -> int:
    """Return the bytes that a worker may take for a pass: half of a GPU, or 2 GiB without one."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    return CPU_MEMORY_BYTES


class GradientWorker:
    """Computes one shard at a time; an ordinary class, made an actor only where a crew is built."""

    def __init__(
        self,
        data: PreparedData | OwnData,
        model: str | nn.Module,
        device: str = "cpu",
        precision: ScoringPrecision = "fp32",
        memory_bytes: int | None = None,
        most: int = SCORING_BATCH,
    ) -> None:
        """Build the model by its name, and choose the batch size by what a pass may take.

        A module, of the user's own, is used itself, and gets the state that each shard brings.
        """
        self._device, self._precision = torch.device(device), precision
        own = data if isinstance(data, OwnData) else OwnData.of(data)
        self._batches = own.batches(self._device)
        name = model if isinstance(model, str) else type(model).__name__
        if isinstance(model, str):
            # Every shard brings a checkpoint.
            model = build_model(model, len(own.class_names), own.spec, trained=False)
        self._model = model.to(self._device).eval()
        complex_ones = [name for name, p in self._model.named_parameters() if p.is_complex()]
        if complex_ones:
            raise ScoringError(
                f"Expected real parameters, which sums of gradients are kept as, found complex "
                f"{complex_ones[0]!r} in {name}; keep real and imaginary parts in parameters of "
                "their own."
            )
        memory = default_memory(self._device) if memory_bytes is None else memory_bytes
        most = batch_size_for(self._model, own.spec, memory, limit=most)
        self.halving = Halving(most, ScoringError)
        """Has the most samples per pass; halved whenever memory runs out."""

    def run(
        self, task: Task, shard: Shard, state: Vector, direction: Vector | None = None
    ) -> Vector:
        """Return a shard's sum of gradients, (P,), or the values of each of its M samples, (R, M).

        The state is a flat checkpoint; the direction, for ``dot``, is v, (P,).
        """
        load_state(self._model, state)
        if task == "gradient_sum":
            return self._gradient_sum(shard)
        quantity, further = PER_SAMPLE[task], list[dict[str, Tensor]]()
        if quantity.mean_over != "none":
            further.append(_named(direction, parameters_of(self._model)))

        def compute(images: Tensor, labels: Tensor) -> Tensor:
            batch = self._model, images, labels
            values = quantity.compute(*batch, *further, precision=self._precision)
            return values.reshape(len(values), -1).T

        values = torch.cat(list(self._in_batches(shard, compute)), dim=1)
        return values.float().cpu().numpy()

    def _gradient_sum(self, shard: Shard) -> Vector:
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

    def _in_batches(self, shard: Shard, compute: Callable[[Tensor, Tensor], T]) -> Iterator[T]:
        """Yield what is computed of a shard, batch by batch, in the order of its samples."""
        # A copy, because Ray's shared memory is read-only.
        positions = torch.from_numpy(np.array(shard.positions))
        for images, labels in self._batches(positions.split(self.halving.most or 1)):
            # Memory may have run out since the batches of this shard were cut.
            yield from self.halving(compute, images, labels)


def _named(vector: Vector | None, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


class FailedShardsError(ScoringError):
    """What an executor raises once everything else is done; it names shards by position."""

    def __init__(self, failures: Sequence[tuple[Shard, str]]) -> None:
        """Keep shards, each with the reason in a few words."""
        super().__init__(failures)
        self.failures = tuple(failures)

    def __str__(self) -> str:
        shard, reason = self.failures[0]
        return (
            f"Expected every shard to be done, found {len(self.failures)} not, first shard "
            f"{shard.index} (positions {shard.positions[0]} to {shard.positions[-1]}): {reason}; "
            "mend that and run again."
        )


class Executor(Protocol):
    """Runs shards somewhere."""

    def share(self, array: Vector) -> Any:
        """Return a handle that every later call may name instead of the array."""

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
        """Run a per-sample task on every shard; yield the results as they are done, in any order.

        Raises a :class:`FailedShardsError` once all shards that did not fail are done.
        """

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> Vector:
        """Return the sum of all samples' gradients, (P,), along the tree of the shards' order.

        Tells of each shard once, when it is done. Raises a :class:`FailedShardsError` as soon as a
        shard failed, because no sum could be kept.
        """


def added(a: Vector, b: Vector) -> Vector:
    """Return a + b, (P,) each: one node of the tree that sums the shards."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in the sum
        total: Vector = a + b
    return total


def summed(
    run: Callable[[Shard], Vector],
    shards: Sequence[Shard],
    on_shard: Callable[[Shard], object] = ignore,
) -> Vector:
    """Return what is run of some shards, one after the other, summed along their tree.

    Of shards that are the addends of a node of a larger tree it is that node's part, to the bit.
    """
    tree = PairwiseSum[Vector](len(shards))
    for place, shard in enumerate(shards):
        node = tree.put(place, run(shard))
        while node is not None:
            node = tree.put(node, added(*(tree.parts[child] for child in tree.children(node))))
        on_shard(shard)
    return tree.total


class LocalExecutor:
    """Runs shards one after the other in this process; see :class:`Executor`."""

    def __init__(self, worker: GradientWorker) -> None:
        self._worker = worker

    def share(self, array: Vector) -> Vector:
        """Return the array itself."""
        return array

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
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
    ) -> Vector:
        """See :class:`Executor`."""
        return summed(lambda s: self._run("gradient_sum", s, state, None), shards, on_shard)

    def _run(self, task: Task, shard: Shard, state: Any, direction: Any) -> Vector:
        try:
            return self._worker.run(task, shard, state, direction)
        except Exception as error:
            raise FailedShardsError([(shard, in_one_line(error))]) from error


@dataclass(eq=False)
class Partial:
    """Values of samples as far as they are there; kept up to date while shards are run."""

    values: Vector
    """Values, (R, M), for M positions; zero where not written. (0, M) until the first ones are
    written, where the model says how many a sample has."""
    written: NDArray[np.bool_]
    """Whether a sample's values are there, (M,)."""

    @classmethod
    def empty(cls, rows: int | None, samples: int) -> Partial:
        """Return one for ``samples`` samples with ``rows`` values each, none of them written."""
        return cls(np.zeros((rows or 0, samples), np.float32), np.zeros(samples, np.bool_))

    def write(self, place: slice, values: Vector) -> NDArray[np.bool_]:
        """Write the finite values (R, m) of a shard; return which samples' are."""
        if not len(self.values):
            self.values = np.zeros((len(values), len(self.written)), np.float32)
        finite = np.asarray(np.isfinite(values).all(axis=0))
        self.values[:, place][:, finite] = values[:, finite]
        self.written[place] |= finite
        return finite


class ShardedGradients:
    """Gradient quantities of any samples of a training set at a checkpoint, by any executor."""

    def __init__(
        self,
        executor: Executor,
        ids: NDArray[np.int64],
        on_samples: Callable[[int], object] = ignore,
    ) -> None:
        """Bind an executor, the ids (N,) of the training samples, and who is told of progress."""
        self._executor, self._ids, self._on_samples = executor, ids, on_samples

    def mean_gradient(self, state: Vector, positions: NDArray[np.int64]) -> Vector:
        """Return G = (1/M) sum_i g_i over M samples at a checkpoint, (P,).

        Each shard is summed in float64, and the shards in float32 along their tree. A shard that
        failed, and gradients that are not finite, are named by sample ids in a ScoringError.
        """
        shared = self._executor.share(state)
        try:
            total = self._executor.reduce(
                make_shards(positions), shared, lambda shard: self._on_samples(len(shard.positions))
            )
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
        state: Vector,
        positions: NDArray[np.int64],
        direction: Vector | None = None,
        partial: Partial | None = None,
    ) -> Vector:
        """Return values (R, M) of samples at M ascending positions, by a task that is no sum.

        Shards of which ``partial`` has all are not run again, and what is computed is written into
        it, so that after an exception it is worth keeping. A shard that failed, and values that are
        not finite, are named by sample ids in a ScoringError once all the others are written.
        """
        shards, rows = make_shards(positions), PER_SAMPLE[task].rows
        partial = Partial.empty(rows, len(positions)) if partial is None else partial
        expected = len(partial.values) if rows is None else rows, len(positions)
        if partial.values.shape != expected or partial.written.shape != expected[1:]:
            raise ScoringError(
                f"Expected a partial result of shape {expected}, found {partial.values.shape} with "
                f"flags {partial.written.shape}; it belongs to another task or other samples, so "
                "leave it out."
            )
        first = np.searchsorted(positions, [shard.positions[0] for shard in shards]).tolist()
        ends = [*first[1:], len(positions)]
        places = {shard.index: slice(*at) for shard, *at in zip(shards, first, ends, strict=True)}
        todo = [shard for shard in shards if not partial.written[places[shard.index]].all()]
        shared = self._executor.share(state)
        vector = None if direction is None else self._executor.share(direction)
        bad: set[int] = set()
        try:
            for shard, values in self._executor.map(task, todo, shared, vector):
                place = places[shard.index]
                before = partial.written[place].sum()
                finite = partial.write(place, values)
                bad.update(self._ids[shard.positions[~finite]].tolist())
                if newly := int(partial.written[place].sum() - before):
                    self._on_samples(newly)
        except FailedShardsError as error:
            raise self._by_ids(task, error) from error
        if bad:
            named = ", ".join(map(str, sorted(bad)[:5])) + ", ..." * (len(bad) > 5)
            raise ScoringError(
                f"Expected a finite {task} for every sample, found {len(bad)} that are not, of "
                f"sample ids {named}; correct their inputs where these are not, or lower the "
                "learning_rate, as the training probably diverged."
            )
        if not partial.written.all():
            raise ScoringError(
                f"Expected a value for each of {len(positions)} samples, found "
                f"{int(partial.written.sum())}; run the command again, which computes what is "
                "missing."
            )
        return partial.values

    def _by_ids(self, task: Task, error: FailedShardsError) -> ScoringError:
        """Return the error that names the first shard by the ids of its samples."""
        shard, reason = error.failures[0]
        ids = self._ids[shard.positions]
        return ScoringError(
            f"Expected every shard to give its {task}, found {len(error.failures)} that did not, "
            f"first shard {shard.index} (sample ids {ids.min()} to {ids.max()}): {reason}; what "
            "was scored is kept, so mend that and run the same command again, which goes on there."
        )
