"""Random single weights: what every other mask has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from raydrop.network.base import Pruned, PruningTask
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of


@dataclass(frozen=True)
class UnstructuredRandom:
    """Every weight has the same score, and equal scores go in a seeded order."""

    structured: ClassVar[bool] = False
    reads_data: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Return the masked network; see :class:`raydrop.network.base.NetworkMethod`."""
        weights = weights_of(task.model)
        return mask_by_scores(task, {name: torch.ones_like(each) for name, each in weights.items()})
