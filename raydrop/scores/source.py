"""Where gradient and embedding methods get their numbers: quantities of one query run.

A source computes a quantity at a checkpoint once, for all methods, and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import ScoringError
from raydrop.scores.quantities import QUANTITIES, QuantityName
from raydrop.scores.sharding import Partial, ShardedGradients
from raydrop.training.trace import Trace


@dataclass(frozen=True, eq=False)
class QueryResult:
    """What a query run left behind."""

    positions: NDArray[np.int64]
    """Ascending positions of the samples that it was trained on, (M,)."""
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
    """The one of them that early-training scores look at; None for a surrogate of a part."""
    steps: int
    """Optimiser steps of the whole run."""
    validation_recalls: NDArray[np.float64] | None
    """Of each class, (K,); None where the run does not measure them."""

    def state_after(self, epoch: int) -> NDArray[np.float32]:
        """Return the flat state after an epoch that has a checkpoint."""
        return np.asarray(self.checkpoints[self.checkpoint_epochs.index(epoch)])


@dataclass(frozen=True)
class Unit:
    """One quantity at one checkpoint, perhaps with the mean gradient of one class."""

    epoch: int
    quantity: QuantityName
    klass: int | None = None


class UnitCache(Protocol):
    """Keeps units of one query run, (M,) or for embeddings (D, M), also unfinished ones."""

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        """Return the values of a finished unit, or None."""

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        """Keep the values of a finished unit, and forget what was there of it unfinished."""

    def read_partial(self, unit: Unit) -> Partial | None:
        """Return what an earlier run left of a unit, or None."""

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        """Keep what there is of a unit."""


class GradientSource:
    """Per-sample gradient quantities and embeddings of one query run.

    Norms and dot products could share a backward pass, but would then round differently than each
    by itself, and a score would depend on which other scores were computed before it.
    """

    def __init__(
        self,
        run: QueryResult,
        labels: NDArray[np.int64],
        gradients: ShardedGradients,
        cache: UnitCache,
    ) -> None:
        """Bind what a query run left, with the classes of all training samples, (N,)."""
        self.run = run
        self.positions = run.positions
        self.labels: NDArray[np.int64] = labels[run.positions]
        self._gradients, self._cache = gradients, cache

    def values(
        self, quantity: QuantityName, epoch: int, klass: int | None = None
    ) -> NDArray[np.float64]:
        """Return a quantity of one number per sample after an epoch, (M,); see :class:`Unit`."""
        return self._read(Unit(epoch, quantity, klass)).astype(np.float64)

    def over_run(self, values: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return sum_t eta_t v_t, (M,), over the sampled epochs t with their learning rates."""
        total = np.zeros(len(self.positions))
        for epoch in self.run.sampled:
            total += self.run.learning_rates[epoch - 1] * values(epoch)
        return total

    def embeddings(self) -> NDArray[np.float32]:
        """Return what the last linear layer of the trained query model gets to see, (M, D)."""
        return np.ascontiguousarray(self._read(Unit(len(self.run.learning_rates), "embedding")).T)

    def _read(self, unit: Unit) -> NDArray[np.float32]:
        """Return the values of a unit, (R, M) or (M,), from the cache, or compute and keep them."""
        values = self._cache.read(unit)
        if values is None:
            values = self._computed(unit)
            if QUANTITIES[unit.quantity].rows == 1:
                values = np.ascontiguousarray(values[0])
            self._cache.write(unit, values)
        return values

    def _computed(self, unit: Unit) -> NDArray[np.float32]:
        """Return a unit's values, (R, M)."""
        quantity, samples = QUANTITIES[unit.quantity], self.positions
        if quantity.mean_over == "class":
            samples = samples[self.labels == unit.klass]
        if not len(samples):
            raise ScoringError(
                f"Expected training samples of class {unit.klass} for its mean gradient, found "
                "none; choose a class that the training set has."
            )
        kept = self._cache.read_partial(unit)
        partial = kept or Partial.empty(quantity.rows, len(self.positions))
        state, mean = self.run.state_after(unit.epoch), None
        try:
            if quantity.mean_over != "none":
                mean = self._gradients.mean_gradient(state, samples)
            return self._gradients.per_sample(quantity.task, state, self.positions, mean, partial)
        except BaseException:
            # Also where the user interrupts: hours of work may be in it.
            if partial.written.any():
                self._cache.write_partial(unit, partial)
            raise
