"""Magnitude of single weights (Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from raydrop.network.base import Pruned, PruningTask
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of


@dataclass(frozen=True)
class UnstructuredMagnitude:
    """Weights of small ``|w|`` are masked first, all layers ranked together."""

    structured: ClassVar[bool] = False
    reads_data: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Return the masked network; see :class:`raydrop.network.base.NetworkMethod`."""
        weights = weights_of(task.model)
        return mask_by_scores(task, {name: each.detach().abs() for name, each in weights.items()})
