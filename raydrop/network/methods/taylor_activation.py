"""Taylor expansion of the loss in activations (Molchanov et al. 2017, arXiv 1611.06440)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.network import adapter
from raydrop.network.base import Pruned, PruningTask, Step
from raydrop.network.channels import zero_removed
from raydrop.network.coupling import Coupling
from raydrop.network.methods.derivatives import seeded


def filter_changes(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return ``mean_b |sum_hw a dL/da|`` of each filter, (out_channels,) in float64.

    Args:
        activation: Outputs a of a convolution, (B, out_channels, ...).
        gradient: Derivative of the batch's loss by them, of the same shape.
    """
    products = (activation.detach() * gradient.detach()).double()
    return products.flatten(2).sum(dim=2).abs().mean(dim=0)


def unit_norm(scores: Tensor) -> Tensor:
    """Return scores of one layer divided by their Euclidean norm, as the paper does."""
    norm = torch.linalg.vector_norm(scores)
    return scores / norm if norm > 0 else scores


@dataclass(frozen=True)
class TaylorActivation:
    """A few steps of SGD, then the lowest filters go, round after round until the target is met.

    Each round removes the same share of the measure. The scores of a round are those of its own
    steps, divided by the norm of their layer; that of coupled filters is their mean. What is left
    gets the weights back that it had before, as in Meyer and Wong 2022 (arXiv 2211.10285), unless
    the task says not to restore them.
    """

    rounds: float = 10.0
    """How often filters are removed."""
    steps: float = 10.0
    """Batches of each round."""
    learning_rate: float = 1e-4
    """Of the steps, which have a momentum of 0.9."""
    structured: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True

    def prune(self, task: PruningTask) -> Pruned:
        """Return the pruned network; see :class:`raydrop.network.base.NetworkMethod`."""
        coupling = adapter.coupling_of(task.model, task.image_shape)
        model = copy.deepcopy(task.model).requires_grad_(True).train()
        with seeded(task.model, task.seed):
            kept, course = self._searched(task, coupling, model)
        if not task.restore:
            task = replace(task, model=model.train(task.model.training))
        return adapter.cut(task, coupling, kept, {"course": course})

    def _searched(
        self, task: PruningTask, coupling: Coupling, model: nn.Module
    ) -> tuple[list[NDArray[np.bool_]], list[float]]:
        """Train a copy of the network in place while its channels go, round after round.

        Returns:
            The channels that stay, and the share of the measure that was gone by round.
        """
        optimiser = torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9)
        batches = task.steps(int(self.rounds) * int(self.steps))
        kept, course = coupling.everything(), list[float]()
        dense, measure = task.dense.of(task.target.measure), task.target.measure
        start = 1 - coupling.size(kept, measure) / dense
        for done in range(1, int(self.rounds) + 1):
            some = islice(batches, int(self.steps))
            totals = _trained(task, model, optimiser, coupling, coupling.channels(kept), some)
            scores = adapter.combined_scores(
                coupling, {name: unit_norm(total) for name, total in totals.items()}
            )
            fraction = start + (task.target.fraction - start) * done / int(self.rounds)
            kept = adapter.chosen(task, coupling, _gone_first(scores, kept), fraction)
            course.append(1 - coupling.size(kept, measure) / dense)
        return kept, course


def _gone_first(
    scores: Sequence[NDArray[np.float64]], kept: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.float64]]:
    """Return scores with those of removed channels below all others."""
    return [np.where(stays, each, -np.inf) for each, stays in zip(scores, kept, strict=True)]


def _trained(
    task: PruningTask,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    coupling: Coupling,
    channels: Mapping[str, Any],
    batches: Iterable[Step],
) -> dict[str, Tensor]:
    """Train without the removed channels and return the scores, summed over the batches."""
    zero_removed(model, channels)
    totals: dict[str, Tensor] = {}
    for step in batches:
        with torch.enable_grad(), _outputs(model, coupling.prunable) as outputs:
            loss = task.loss(model(step.images), step)
            optimiser.zero_grad()
            loss.backward()
        for name, seen in outputs.items():
            for activation in seen:
                assert activation.grad is not None
                scores = filter_changes(activation, activation.grad)
                totals[name] = totals[name] + scores if name in totals else scores
        optimiser.step()
        zero_removed(model, channels)
    return totals


@contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the outputs of convolutions, and their gradients with them."""
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Tensor) -> None:
        output.retain_grad()
        outputs.setdefault(name, []).append(output)

    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: keep(name, output))
        for name, layer in adapter.named_layers(model, names)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
