"""Random filters: what every other method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raydrop.network import adapter
from raydrop.network.base import Pruned, PruningTask


@dataclass(frozen=True)
class Random:
    """One uniform score for each filter, and one for filters that are coupled."""

    structured: ClassVar[bool] = True
    reads_data: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Return the pruned network; see :class:`raydrop.network.base.NetworkMethod`."""
        coupling = adapter.coupling_of(task.model, task.image_shape)
        generator = np.random.default_rng(task.seed)
        # One for a coupled filter: the mean of many would never be small, and streams never cut.
        scores = [generator.random(group.width) for group in coupling.groups]
        return adapter.cut(task, coupling, adapter.chosen(task, coupling, scores))
