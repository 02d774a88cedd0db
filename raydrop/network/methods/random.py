"""Random filters and random weights: what every other method has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import chosen, cut
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry


class Random(NetworkMethod):
    """One uniform score for each filter, and one for filters that are coupled."""

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters at random."""
        coupling = coupling_of(task.model, task.image_shape)
        # One for a coupled filter: the mean of many would never be small, and streams never cut.
        scores = np.random.default_rng(task.seed).random(len(coupling.groups))
        return cut(task, coupling, chosen(task, coupling, scores))


class UnstructuredRandom(NetworkMethod):
    """Every weight has the same score, and equal scores go in a seeded order."""

    structured: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Mask weights at random."""
        weights = weights_of(task.model)
        return mask_by_scores(task, {name: torch.ones_like(each) for name, each in weights.items()})


FILTERS = Entry[NetworkMethod]("random", Random, "removes random filters")
WEIGHTS = Entry[NetworkMethod]("unstructured_random", UnstructuredRandom, "masks random weights")
