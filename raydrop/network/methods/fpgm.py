"""Filters near the geometric median of their layer (He et al. 2019, arXiv 1811.00250)."""

from __future__ import annotations

import torch
from torch import Tensor

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import cut_by_scores
from raydrop.network.methods.magnitude import layer_scores
from raydrop.study.catalogue import Entry


def distances_to_others(weight: Tensor) -> Tensor:
    """Return ``sum_j ||F_i - F_j||_2`` of each filter F_i, (out_channels,) in float64.

    The geometric median of a layer's filters is the point where this is smallest, so filters with
    a small sum are those that the others can stand in for.
    """
    filters = weight.detach().double().flatten(1)
    return torch.cdist(filters, filters).sum(dim=1)


class Fpgm(NetworkMethod):
    """Filters that others can stand in for go first, small ones or not.

    Sums of distances are divided by the mean of their layer; the score of coupled filters is their
    mean.
    """

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters by their distances to the others."""
        return cut_by_scores(task, layer_scores(task, distances_to_others))


FILTERS = Entry[NetworkMethod](
    "fpgm",
    Fpgm,
    "removes filters near the geometric median of their layer",
    "He et al. 2019, arXiv 1811.00250",
)
