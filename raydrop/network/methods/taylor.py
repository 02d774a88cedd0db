"""First-order change of the loss without a filter, or without a weight.

Molchanov et al. 2019, arXiv 1906.10771.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import cut_by_scores
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry, Parameter


def summed_changes(
    task: PruningTask, batches: int, change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the sum over batches b of what is made of ``w * dL_b/dw``, by the weight's name.

    The network is in eval mode: with the statistics of a batch, a BatchNorm would make the loss
    indifferent to the scale of the filter before it, and the products of each filter would sum to
    zero. The products are of the weight's shape, in float64.
    """
    model = copy.deepcopy(task.model).eval().requires_grad_(False)
    weights = weights_of(model)
    for weight in weights.values():
        weight.requires_grad_(True)
    sums: dict[str, Tensor] = {}
    with torch.enable_grad():
        for step in task.steps(batches):
            loss = task.loss(model(step.images), step)
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            for (name, weight), gradient in zip(weights.items(), found, strict=True):
                changed = change((weight * gradient).detach().double())
                sums[name] = sums[name] + changed if name in sums else changed
    return sums


def squared_change(product: Tensor) -> Tensor:
    """Return ``(sum_j w_ij dL/dw_ij)^2`` of each filter i, (out_channels,)."""
    return product.flatten(1).sum(dim=1).square()


class Taylor(NetworkMethod):
    """Filters whose weights change the loss least go first, by the mean of squared changes.

    The scores estimate changes of one loss, so they compare across layers as they are and those of
    coupled filters are summed.
    """

    def __init__(self, batches: float) -> None:
        self._batches = int(batches)

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters by the mean of their squared changes over batches."""
        sums = summed_changes(task, self._batches, squared_change)
        names = coupling_of(task.model, task.image_shape).prunable
        means = {name: sums[f"{name}.weight"] / self._batches for name in names}
        return cut_by_scores(task, means, combine="sum")


class UnstructuredTaylor(NetworkMethod):
    """Weights that change the loss least are masked first, all layers ranked together."""

    structured: ClassVar[bool] = False

    def __init__(self, batches: float) -> None:
        self._batches = int(batches)

    def prune(self, task: PruningTask) -> Pruned:
        """Mask weights by their absolute changes, summed over batches."""
        return mask_by_scores(task, summed_changes(task, self._batches, torch.abs))


_BATCHES = (Parameter("batches", 10.0, least=1.0, whole=True, named=True),)
FILTERS = Entry[NetworkMethod](
    "taylor",
    Taylor,
    "removes filters whose weights change the loss least, to first order",
    "Molchanov et al. 2019, arXiv 1906.10771",
    _BATCHES,
)
WEIGHTS = Entry[NetworkMethod](
    "unstructured_taylor",
    UnstructuredTaylor,
    "masks weights that change the loss least, to first order",
    "Molchanov et al. 2019, arXiv 1906.10771",
    _BATCHES,
)
