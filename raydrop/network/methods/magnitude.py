"""Magnitude of filters (Li et al. 2017, arXiv 1608.08710)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raydrop.network import adapter
from raydrop.network.base import Pruned, PruningTask


def filter_norms(weight: Tensor, norm: float = 1.0) -> Tensor:
    """Return the norm of each filter, ``(sum_j |w_ij|^p)^(1/p)``, (out_channels,) in float64.

    Args:
        weight: (out_channels, in_channels, ...).
        norm: The exponent p.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.detach().double().flatten(1), norm, dim=1)
    return norms


def relative_to_mean(scores: Tensor) -> Tensor:
    """Return scores of one layer divided by their mean, so that they compare across layers."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def layer_scores(task: PruningTask, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return scores of the filters of each prunable convolution, relative to the layer's mean."""
    return {
        name: relative_to_mean(score(layer.weight))
        for name, layer in adapter.named_layers(task.model, adapter.prunable(task))
    }


@dataclass(frozen=True)
class Magnitude:
    """Filters of small norm go first.

    Norms are divided by the mean of their layer, because layers of many inputs have large filters;
    the score of coupled filters is their mean.
    """

    norm: float = 1.0
    """Exponent of the norm: 1 as published, or 2."""
    structured: ClassVar[bool] = True
    reads_data: ClassVar[bool] = False

    def prune(self, task: PruningTask) -> Pruned:
        """Return the pruned network; see :class:`raydrop.network.base.NetworkMethod`."""
        scores = layer_scores(task, lambda weight: filter_norms(weight, self.norm))
        return adapter.cut_by_scores(task, scores)
