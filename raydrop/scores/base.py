"""What a scoring method is: a formula, and the facts that the pipeline needs to know of it.

A method declares what it reads and in which direction its scores point; the pipeline asks, and
never switches on a name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.sharding import ShardedGradients
from raydrop.training.trace import Trace


@dataclass(frozen=True, eq=False)
class QueryResult:
    """What a query run left behind."""

    trace: Trace
    """Observations of every training sample after every epoch."""
    checkpoints: NDArray[np.float32]
    """Flat states, (T, S), in the order of :attr:`checkpoint_epochs`."""
    checkpoint_epochs: tuple[int, ...]
    """Epochs, from 1, after which they were taken."""
    learning_rates: tuple[float, ...]
    """Learning rate of every epoch's last step, (E,)."""
    spread: tuple[int, ...]
    """Those of :attr:`checkpoint_epochs` that are evenly spread over the run."""
    score_epoch: int
    """Epoch, from 1, at which early-training scores look."""
    steps: int
    """Optimiser steps of the whole run."""

    def state_after(self, epoch: int) -> NDArray[np.float32]:
        """Return the flat state after an epoch that has a checkpoint."""
        return np.asarray(self.checkpoints[self.checkpoint_epochs.index(epoch)])


class ScoreMethod(ABC):
    """A ranking of the training samples."""

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    higher_is_kept: ClassVar[bool] = True
    """Whether the highest scores are what the method's authors keep."""
    needs_query: ClassVar[bool] = True
    """Whether it reads a query run."""
    needs_gradients: ClassVar[bool] = False
    """Whether it reads gradients at the query run's checkpoints."""

    def passes(self, checkpoints: int) -> int:  # noqa: ARG002 - what costs something overrides this
        """Return its cost in passes over the training set, each forward and backward once.

        Args:
            checkpoints: Evenly spread checkpoints that a query run leaves.
        """
        return 0


class RandomMethod(ScoreMethod):
    """A method that reads nothing."""

    needs_query = False

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.floating]:
        """Return scores (N,)."""


class TraceMethod(ScoreMethod):
    """A method that reads the trace of a query run."""

    @abstractmethod
    def from_trace(self, trace: Trace, score_epoch: int) -> NDArray[np.floating]:
        """Return scores (N,).

        Args:
            trace: Of the query run.
            score_epoch: Epoch, from 1, at which early-training scores look.
        """


class GradientMethod(ScoreMethod):
    """A method that reads per-sample gradients at checkpoints of a query run."""

    needs_gradients = True

    @abstractmethod
    def from_gradients(self, run: QueryResult, gradients: ShardedGradients) -> NDArray[np.floating]:
        """Return scores (N,)."""
