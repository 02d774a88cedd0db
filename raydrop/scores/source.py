"""Where gradient and embedding methods get their numbers: quantities of one query run.

Several methods ask for the same quantity at the same checkpoint. A source computes each once and
keeps it, so what a second method costs is what it does not share with the first, and whatever stops
the work loses at most what was under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import ScoringError
from raydrop.scores.sharding import Partial, ShardedGradients, Task, rows_of
from raydrop.training.trace import Trace

Quantity = Literal["norm", "last_layer_norm", "dot_with_mean", "dot_with_class_mean", "embedding"]
"""|| g_i ||; the same over the last layer's parameters alone; <G, g_i> with G the mean gradient of
the samples that the query run covers; <G_c, g_i> with G_c that of one class among them; the input
of the last linear layer."""

LAST_LAYER: tuple[Quantity, ...] = ("last_layer_norm", "embedding")
"""Quantities that are read off the last linear layer alone: they take no backward pass, and a model
whose logits come from such a layer."""


@dataclass(frozen=True, eq=False)
class QueryResult:
    """What a query run left behind."""

    positions: NDArray[np.int64]
    """Samples that it was trained on, as ascending positions in the training set, (M,)."""
    trace: Trace | None
    """Observations of every training sample after every epoch; None for a surrogate of a part."""
    checkpoints: NDArray[np.float32]
    """Flat states, (T, S), in the order of :attr:`checkpoint_epochs`."""
    checkpoint_epochs: tuple[int, ...]
    """Epochs, from 1, after which they were taken."""
    learning_rates: tuple[float, ...]
    """Learning rate of every epoch's last step, (E,)."""
    sampled: tuple[int, ...]
    """Those of :attr:`checkpoint_epochs` that scores over the whole run look at."""
    score_epoch: int | None
    """The one of them, from 1, that early-training scores look at; None for a surrogate of a
    part, which they do not read."""
    steps: int
    """Optimiser steps of the whole run."""
    validation_recalls: NDArray[np.float64] | None
    """Recall of each class on validation, (K,); None where the run does not measure it."""

    @property
    def last_epoch(self) -> int:
        """Epoch, from 1, after which the run ended."""
        return len(self.learning_rates)

    def state_after(self, epoch: int) -> NDArray[np.float32]:
        """Return the flat state after an epoch that has a checkpoint."""
        return np.asarray(self.checkpoints[self.checkpoint_epochs.index(epoch)])

    def rate_after(self, epoch: int) -> float:
        """Return the learning rate of an epoch's last step."""
        return self.learning_rates[epoch - 1]


@dataclass(frozen=True)
class Unit:
    """One quantity at one checkpoint: what is computed, kept and shared as a whole."""

    epoch: int
    """Epoch of the checkpoint, from 1."""
    quantity: Quantity
    """What is computed."""
    klass: int | None = None
    """Class whose mean gradient is meant, for ``dot_with_class_mean``."""


class UnitCache(Protocol):
    """Keeps units of one query run, and what there is of an unfinished one.

    The values of a unit are one number per sample, (M,), or for embeddings D of them, (D, M).
    """

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        """Return the values of a finished unit, or None."""
        ...

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        """Keep the values of a finished unit, and forget what was there of it unfinished."""
        ...

    def read_partial(self, unit: Unit) -> Partial | None:
        """Return what an earlier run left of a unit, or None."""
        ...

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        """Keep what there is of a unit."""
        ...


class GradientSource:
    """Per-sample gradient quantities and embeddings of one query run.

    Each quantity has one way of being computed, whatever else is there already. Norms and dot
    products could share a backward pass, but would then round differently than each by itself, and
    a score would depend on which other scores were computed before it.
    """

    def __init__(
        self,
        run: QueryResult,
        labels: NDArray[np.int64],
        gradients: ShardedGradients,
        cache: UnitCache,
    ) -> None:
        """Bind a query run.

        Args:
            run: What it left.
            labels: Classes of all training samples, (N,).
            gradients: Computes, with a model of the query run's architecture.
            cache: Keeps what is computed.
        """
        self.run = run
        self.positions = run.positions
        self.labels: NDArray[np.int64] = labels[run.positions]
        self._gradients, self._cache = gradients, cache

    @property
    def validation_recalls(self) -> NDArray[np.float64] | None:
        """Recall of each class on validation, (K,), of the trained query model, or None."""
        return self.run.validation_recalls

    def norms(self, epoch: int) -> NDArray[np.float64]:
        """Return || g_i || over all trainable parameters after an epoch, (M,)."""
        return self._values(Unit(epoch, "norm"), "norm")

    def last_layer_norms(self, epoch: int) -> NDArray[np.float64]:
        """Return || g_i || over the parameters of the last layer alone after an epoch, (M,)."""
        return self._values(Unit(epoch, "last_layer_norm"), "last_layer_norm")

    def dots_with_mean(self, epoch: int) -> NDArray[np.float64]:
        """Return <G, g_i> after an epoch, (M,); G is the mean of all M gradients g_i."""
        return self._values(Unit(epoch, "dot_with_mean"), "dot", self.positions)

    def norms_and_dots_with_mean(
        self, epoch: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return :meth:`norms` and :meth:`dots_with_mean` after an epoch, each (M,)."""
        return self.norms(epoch), self.dots_with_mean(epoch)

    def dots_with_class_mean(self, epoch: int, klass: int) -> NDArray[np.float64]:
        """Return <G_c, g_i> after an epoch, (M,); G_c is the mean gradient of class ``klass``.

        Raises:
            ScoringError: If the class has no sample.
        """
        members = self.positions[self.labels == klass]
        if not len(members):
            raise ScoringError(
                f"Expected training samples of class {klass} for its mean gradient, found none; "
                "choose a class that the training set has."
            )
        return self._values(Unit(epoch, "dot_with_class_mean", klass), "dot", members)

    def embeddings(self) -> NDArray[np.float32]:
        """Return what the last linear layer of the trained query model gets to see, (M, D)."""
        unit = Unit(self.run.last_epoch, "embedding")
        rows = self._cache.read(unit)
        if rows is None:
            rows = self._computed(unit, "embedding", None)
            self._cache.write(unit, rows)
        return np.ascontiguousarray(rows.T)

    def _values(
        self, unit: Unit, task: Task, mean_over: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return a unit of one number per sample from the cache, or compute and keep it.

        Args:
            unit: What is wanted.
            task: How it is computed.
            mean_over: Positions whose mean gradient is the direction, where the task takes one.
        """
        values = self._cache.read(unit)
        if values is None:
            values = np.ascontiguousarray(self._computed(unit, task, mean_over)[0])
            self._cache.write(unit, values)
        return values.astype(np.float64)

    def _computed(
        self, unit: Unit, task: Task, mean_over: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Return a unit's values, (R, M)."""
        partial = self._cache.read_partial(unit)
        if partial is None:
            partial = Partial.empty(rows_of(task), len(self.positions))
        state = self.run.state_after(unit.epoch)
        try:
            mean = None
            if mean_over is not None:
                mean = self._gradients.mean_gradient(state, mean_over)
            return self._gradients.per_sample(task, state, self.positions, mean, partial)
        except BaseException:
            # Also where the user interrupts: hours of work may be in it.
            if partial.written.any():
                self._cache.write_partial(unit, partial)
            raise
