"""Gradients of the task's loss, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from raydrop.network.base import PruningTask
from raydrop.network.measure import weights_of


def weight_gradients(task: PruningTask, batches: int) -> Iterator[dict[str, Tensor]]:
    """Yield weight times gradient of each batch's loss, for convolutions and linear layers.

    The network is in eval mode: with the statistics of a batch, a BatchNorm would make the loss
    indifferent to the scale of the filter before it, and the products of each filter would sum to
    zero.

    Args:
        task: The network, its batches and loss; the network is left as it is.
        batches: How many to take.

    Yields:
        For each batch ``w * dL/dw``, of the weight's shape, by the name of the parameter.
    """
    model = copy.deepcopy(task.model).eval().requires_grad_(False)
    weights = weights_of(model)
    for weight in weights.values():
        weight.requires_grad_(True)
    with torch.enable_grad():
        for step in task.steps(batches):
            loss = task.loss(model(step.images), step)
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            yield {
                name: (weight * gradient).detach()
                for (name, weight), gradient in zip(weights.items(), found, strict=True)
            }


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, and put them back afterwards."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
