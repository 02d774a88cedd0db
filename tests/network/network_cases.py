"""Networks, tasks and images for the tests of raydrop.network."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raydrop.models import build_model
from raydrop.network.base import NetworkSize, PruningTask, Step, parse_target
from raydrop.network.coupling import Kept
from raydrop.network.measure import network_size

Shape = tuple[int, int, int]

SHAPES: dict[str, Shape] = {
    "resnet18": (3, 16, 16),
    "resnet56": (3, 8, 8),
    "vgg16": (3, 16, 16),
    "mobilenet_v2": (3, 32, 32),
    "small_cnn": (1, 8, 8),
}
CLASSES = 4
SHORT = {
    "taylor": "taylor(batches=1)",
    "unstructured_taylor": "unstructured_taylor(batches=1)",
    "taylor_activation": "taylor_activation(rounds=2, steps=1)",
    "autobot": "autobot(iterations=2)",
}
"""Methods with few batches, so that tests take seconds; how they choose does not change."""


def network(name: str) -> nn.Module:
    """A float64 network in which no channel is dead and no BatchNorm is the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return lively(build_model(name, CLASSES, SHAPES[name]), SHAPES[name])


def lively(model: nn.Module, shape: Shape) -> nn.Module:
    """The model in float64, its norms with random scales and shifts and statistics that fit."""
    model.double()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.weight.copy_(0.5 + torch.rand_like(norm.weight))
                norm.bias.copy_(torch.rand_like(norm.bias) - 0.3)
                norm.momentum = 1.0
        model.train()(images(shape, 8))
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = 0.1
    return model.eval()


def images(shape: Shape, number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, *shape, generator=generator, dtype=torch.float64)


def batches(shape: Shape, number: int, size: int = 4) -> Iterator[Step]:
    for seed in range(number):
        labels = torch.arange(size) % CLASSES
        yield Step(images(shape, size, seed), labels, labels)


def task_of(
    model: nn.Module,
    shape: Shape,
    target: float | str,
    *,
    structured: bool = True,
    dense: NetworkSize | None = None,
    seed: int = 0,
) -> PruningTask:
    return PruningTask(
        model,
        shape,
        parse_target(target, structured=structured),
        dense or network_size(model, shape),
        lambda number: batches(shape, number),
        lambda logits, step: F.cross_entropy(logits, step.labels),
        seed,
    )


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(inputs)


def some_kept(groups: NDArray[np.int64], seed: int) -> Kept:
    """Channels that stay at random, at least one of each group."""
    rng = np.random.default_rng(seed)
    kept = rng.random(len(groups)) < rng.random(groups.max() + 1)[groups]
    for group in np.unique(groups):
        kept[rng.choice(np.flatnonzero(groups == group))] = True
    return np.asarray(kept)
