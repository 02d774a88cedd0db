"""First-order change of the loss without a filter, by its outputs, while a network is trained.

Molchanov et al. 2017 (arXiv 1611.06440).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.channels import zero_removed
from raydrop.network.coupling import Coupling, Kept
from raydrop.network.cutting import chosen, combined_scores, cut, named_layers
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry, Parameter


def filter_changes(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return ``mean_b |sum_hw a dL/da|`` of each filter, (out_channels,) in float64.

    Outputs a of a convolution and the gradient of the batch's loss are (B, out_channels, ...).
    """
    products = (activation.detach() * gradient.detach()).double()
    return products.flatten(2).sum(dim=2).abs().mean(dim=0)


def unit_norm(scores: Tensor) -> Tensor:
    """Return scores of one layer divided by their Euclidean norm, as the paper does."""
    norm = torch.linalg.vector_norm(scores)
    return scores / norm if norm > 0 else scores


@dataclass(frozen=True)
class TaylorActivation(NetworkMethod):
    """A few steps of SGD, then the lowest filters go, round after round until the target is met.

    Each round removes the same share of the measure. The scores of a round are those of its own
    steps, divided by the norm of their layer; that of coupled filters is their mean. What is left
    gets the weights back that it had before, as in Meyer and Wong 2022 (arXiv 2211.10285), unless
    the task says not to restore them.
    """

    rounds: float
    """How often filters are removed."""
    steps: float
    """Batches of each round."""
    learning_rate: float
    """Of the steps, which have a momentum of 0.9."""

    def prune(self, task: PruningTask) -> Pruned:
        """Remove filters round after round."""
        coupling = coupling_of(task.model, task.image_shape)
        model = copy.deepcopy(task.model).requires_grad_(True).train()
        device = next(model.parameters()).device
        # Dropout draws from torch's global generators, which are put back afterwards.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(task.seed)
            kept, course = self._searched(task, coupling, model)
        if not task.restore:
            task = replace(task, model=model.train(task.model.training))
        return cut(task, coupling, kept, {"course": course})

    def _searched(
        self, task: PruningTask, coupling: Coupling, model: nn.Module
    ) -> tuple[Kept, list[float]]:
        """Train in place, round after round; return what stays, and the share gone by round."""
        optimiser = torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9)
        rounds, steps = int(self.rounds), int(self.steps)
        batches = task.steps(rounds * steps)
        kept, course = coupling.everything(), list[float]()
        dense, measure = task.dense.of(task.target.measure), task.target.measure
        start = 1 - coupling.size(kept, measure) / dense
        with _outputs(model, coupling.prunable) as outputs:
            for done in range(1, rounds + 1):
                channels, totals = coupling.channels(kept), dict[str, Tensor]()
                zero_removed(model, channels)
                for step in islice(batches, steps):
                    outputs.clear()
                    with torch.enable_grad():
                        loss = task.loss(model(step.images), step)
                        optimiser.zero_grad()
                        loss.backward()
                    for name, activation in outputs:
                        assert activation.grad is not None
                        scores = filter_changes(activation, activation.grad)
                        totals[name] = totals[name] + scores if name in totals else scores
                    optimiser.step()
                    zero_removed(model, channels)
                layers = {name: unit_norm(total) for name, total in totals.items()}
                combined = np.where(kept, combined_scores(coupling, layers), -np.inf)
                fraction = start + (task.target.fraction - start) * done / rounds
                kept = chosen(task, coupling, combined, fraction)
                course.append(1 - coupling.size(kept, measure) / dense)
        return kept, course


@contextlib.contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Give a list that what layers make is added to, by name, with its gradient kept."""
    outputs = list[tuple[str, Tensor]]()

    def keep(name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append((name, output))

    with contextlib.ExitStack() as hooks:
        for name, layer in named_layers(model, names):
            hooks.callback(layer.register_forward_hook(partial(keep, name)).remove)
        yield outputs


TAYLOR_ACTIVATION = Entry[NetworkMethod](
    "taylor_activation",
    TaylorActivation,
    "steps of SGD alternate with removing filters whose outputs change the loss least",
    "Molchanov et al. 2017, arXiv 1611.06440; Meyer and Wong 2022, arXiv 2211.10285",
    (
        Parameter("rounds", 10.0, least=1.0, whole=True, named=True),
        Parameter("steps", 10.0, least=1.0, whole=True, named=True),
        Parameter("learning_rate", 1e-4, named=True),
    ),
)
