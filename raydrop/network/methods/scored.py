"""What goes by one score: of each filter, by which it is removed, or of each weight, masked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import Combine, chosen, cut, cut_by_scores, named_layers
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry, Parameter


@dataclass(frozen=True)
class Scored(NetworkMethod):
    """What scores lowest goes first, all layers ranked together."""

    score: Callable[[PruningTask], Mapping[str, Tensor]]
    """See :func:`~raydrop.network.cutting.cut_by_scores` and
    :func:`~raydrop.network.masks.mask_by_scores`."""
    structured: bool = True
    combine: Combine = "mean"
    """Of the scores of coupled filters."""

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters, or mask weights, by their scores."""
        scores = self.score(task)
        if self.structured:
            return cut_by_scores(task, scores, combine=self.combine)
        return mask_by_scores(task, scores)


def relative_to_mean(scores: Tensor) -> Tensor:
    """Return scores of one layer divided by their mean, so that they compare across layers.

    Layers of many inputs have large filters.
    """
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def layer_scores(task: PruningTask, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return scores of the filters of each prunable convolution, relative to the layer's mean."""
    names = coupling_of(task.model, task.image_shape).prunable
    layers = named_layers(task.model, names)
    return {name: relative_to_mean(score(layer.weight)) for name, layer in layers}


def filter_norms(weight: Tensor, norm: float) -> Tensor:
    """Return the norm of each filter, ``(sum_j |w_ij|^p)^(1/p)``, (out_channels,) in float64.

    The exponent p is 1 as published, or 2.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.detach().double().flatten(1), norm, dim=1)
    return norms


def distances_to_others(weight: Tensor) -> Tensor:
    """Return ``sum_j ||F_i - F_j||_2`` of each filter F_i, (out_channels,) in float64.

    The geometric median of a layer's filters is the point where this is smallest, so filters with
    a small sum are those that the others can stand in for.
    """
    filters = weight.detach().double().flatten(1)
    return torch.cdist(filters, filters).sum(dim=1)


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


def _taylor(task: PruningTask, batches: float) -> dict[str, Tensor]:
    """Return means of squared changes: of one loss, so they compare across layers as they are."""
    sums = summed_changes(task, int(batches), squared_change)
    names = coupling_of(task.model, task.image_shape).prunable
    return {name: sums[f"{name}.weight"] / int(batches) for name in names}


def _of_weights(task: PruningTask, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: score(weight.detach()) for name, weight in weights_of(task.model).items()}


class Random(NetworkMethod):
    """One uniform score for each filter, and one for filters that are coupled."""

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters at random."""
        coupling = coupling_of(task.model, task.image_shape)
        # One for a coupled filter: the mean of many would never be small, and streams never cut.
        scores = np.random.default_rng(task.seed).random(len(coupling.groups))
        return cut(task, coupling, chosen(task, coupling, scores))


BATCHES = Parameter("batches", 10.0, least=1.0, whole=True, named=True)
RANDOM = Entry[NetworkMethod]("random", Random, "removes random filters")
MAGNITUDE = Entry[NetworkMethod](
    "magnitude",
    lambda norm: Scored(partial(layer_scores, score=partial(filter_norms, norm=norm))),
    "removes filters of small norm, relative to their layer",
    "Li et al. 2017, arXiv 1608.08710",
    (Parameter("norm", 1.0, least=1.0, below=3.0, whole=True, named=True),),
)
FPGM = Entry[NetworkMethod](
    "fpgm",
    lambda: Scored(partial(layer_scores, score=distances_to_others)),
    "removes filters near the geometric median of their layer",
    "He et al. 2019, arXiv 1811.00250",
)
TAYLOR = Entry[NetworkMethod](
    "taylor",
    lambda batches: Scored(partial(_taylor, batches=batches), combine="sum"),
    "removes filters whose weights change the loss least, to first order",
    "Molchanov et al. 2019, arXiv 1906.10771",
    (BATCHES,),
)
UNSTRUCTURED_MAGNITUDE = Entry[NetworkMethod](
    "unstructured_magnitude",
    lambda: Scored(partial(_of_weights, score=torch.abs), structured=False),
    "masks small weights",
    "Han et al. 2015, arXiv 1506.02626",
)
# Every weight has the same score, and equal scores go in a seeded order.
UNSTRUCTURED_RANDOM = Entry[NetworkMethod](
    "unstructured_random",
    lambda: Scored(partial(_of_weights, score=torch.ones_like), structured=False),
    "masks random weights",
)
UNSTRUCTURED_TAYLOR = Entry[NetworkMethod](
    "unstructured_taylor",
    lambda batches: Scored(
        partial(summed_changes, batches=int(batches), change=torch.abs), structured=False
    ),
    "masks weights that change the loss least, to first order",
    "Molchanov et al. 2019, arXiv 1906.10771",
    (BATCHES,),
)
