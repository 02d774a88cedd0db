"""What goes by weights alone: small ones, filters near their layer's median, or any at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import chosen, cut, cut_by_scores, named_layers
from raydrop.network.masks import mask_by_scores
from raydrop.network.measure import weights_of
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry, Parameter


def filter_norms(weight: Tensor, norm: float) -> Tensor:
    """Return the norm of each filter, ``(sum_j |w_ij|^p)^(1/p)``, (out_channels,) in float64.

    The exponent p is 1 as published, or 2.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.detach().double().flatten(1), norm, dim=1)
    return norms


def layer_scores(task: PruningTask, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return scores of the filters of each prunable convolution, relative to the layer's mean."""
    names = coupling_of(task.model, task.image_shape).prunable
    layers = named_layers(task.model, names)
    return {name: relative_to_mean(score(layer.weight)) for name, layer in layers}


def relative_to_mean(scores: Tensor) -> Tensor:
    """Return scores of one layer divided by their mean, so that they compare across layers."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


class Magnitude(NetworkMethod):
    """Filters of small norm go first.

    Norms are divided by the mean of their layer, because layers of many inputs have large filters;
    the score of coupled filters is their mean.
    """

    def __init__(self, norm: float) -> None:
        self._norm = norm

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters by their norms."""
        return cut_by_scores(task, layer_scores(task, partial(filter_norms, norm=self._norm)))


class UnstructuredMagnitude(NetworkMethod):
    """Weights of small ``|w|`` are masked first, all layers ranked together."""

    structured: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Mask weights by their size."""
        weights = weights_of(task.model)
        return mask_by_scores(task, {name: each.detach().abs() for name, each in weights.items()})


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


MAGNITUDE = Entry[NetworkMethod](
    "magnitude",
    Magnitude,
    "removes filters of small norm, relative to their layer",
    "Li et al. 2017, arXiv 1608.08710",
    (Parameter("norm", 1.0, least=1.0, below=3.0, whole=True, named=True),),
)
UNSTRUCTURED_MAGNITUDE = Entry[NetworkMethod](
    "unstructured_magnitude",
    UnstructuredMagnitude,
    "masks small weights",
    "Han et al. 2015, arXiv 1506.02626",
)
FPGM = Entry[NetworkMethod](
    "fpgm",
    Fpgm,
    "removes filters near the geometric median of their layer",
    "He et al. 2019, arXiv 1811.00250",
)
RANDOM = Entry[NetworkMethod]("random", Random, "removes random filters")
UNSTRUCTURED_RANDOM = Entry[NetworkMethod](
    "unstructured_random", UnstructuredRandom, "masks random weights"
)
