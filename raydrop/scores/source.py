"""Where gradient and embedding methods get their numbers: quantities of one query run.

Several methods ask for the same quantity at the same checkpoint. A source computes each once and
keeps it, so what a second method costs is what it does not share with the first, and whatever stops
the work loses at most what was under way.
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


@dataclass(frozen=True)
class Unit:
    """One quantity at one checkpoint: what is computed, kept and shared as a whole."""

    epoch: int
    """Epoch of the checkpoint, from 1."""
    quantity: QuantityName
    klass: int | None = None
    """Class whose mean gradient is meant, where it is that of one class."""


class UnitCache(Protocol):
    """Keeps units of one query run, and what there is of an unfinished one.

    The values of a unit are one number per sample, (M,), or for embeddings D of them, (D, M).
    """

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
        return np.ascontiguousarray(self._read(Unit(self.run.last_epoch, "embedding")).T)

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
        quantity, samples = QUANTITIES[unit.quantity], self._mean_over(unit)
        kept = self._cache.read_partial(unit)
        partial = kept or Partial.empty(quantity.rows, len(self.positions))
        state, mean = self.run.state_after(unit.epoch), None
        try:
            if samples is not None:
                mean = self._gradients.mean_gradient(state, samples)
            return self._gradients.per_sample(quantity.task, state, self.positions, mean, partial)
        except BaseException:
            # Also where the user interrupts: hours of work may be in it.
            if partial.written.any():
                self._cache.write_partial(unit, partial)
            raise

    def _mean_over(self, unit: Unit) -> NDArray[np.int64] | None:
        """Return the positions whose mean gradient is a unit's direction, or None."""
        mean_over = QUANTITIES[unit.quantity].mean_over
        if mean_over != "class":
            return self.positions if mean_over == "all" else None
        members: NDArray[np.int64] = self.positions[self.labels == unit.klass]
        if not len(members):
            raise ScoringError(
                f"Expected training samples of class {unit.klass} for its mean gradient, found "
                "none; choose a class that the training set has."
            )
        return members
