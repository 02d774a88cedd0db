"""Magnitude of filters (Li et al. 2017) and of single weights (Han et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.cutting import cut_by_scores, named_layers
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


FILTERS = Entry[NetworkMethod](
    "magnitude",
    Magnitude,
    "removes filters of small norm, relative to their layer",
    "Li et al. 2017, arXiv 1608.08710",
    (Parameter("norm", 1.0, least=1.0, below=3.0, whole=True, named=True),),
)
WEIGHTS = Entry[NetworkMethod](
    "unstructured_magnitude",
    UnstructuredMagnitude,
    "masks small weights",
    "Han et al. 2015, arXiv 1506.02626",
)
