"""Networks, tasks and images for the tests of raydrop.network."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from reference import logits_without_channels
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raydrop.models import build_model
from raydrop.network.base import NetworkSize, Pruned, PruningTask, Step, parse_target
from raydrop.network.channels import rebuild
from raydrop.network.coupling import Kept
from raydrop.network.cutting import named_layers
from raydrop.network.measure import network_size
from raydrop.network.tracing import coupling_of

Shape = tuple[int, int, int]

SHAPES: dict[str, Shape] = {
    "resnet18": (3, 8, 8),
    "resnet56": (3, 8, 8),
    "vgg16": (3, 16, 16),
    "mobilenet_v2": (3, 16, 16),
    "small_cnn": (1, 8, 8),
    "mixed": (3, 8, 8),
}
CLASSES = 4
SHORT = {
    "taylor": "taylor(batches=1)",
    "unstructured_taylor": "unstructured_taylor(batches=1)",
    "taylor_activation": "taylor_activation(rounds=2, steps=1)",
    "autobot": "autobot(iterations=2)",
}
"""Methods with few batches, so that tests take seconds; how they choose does not change."""


class Mixed(nn.Module):
    """A residual stream, a depthwise convolution, one without BatchNorm, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.inner = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.wide = nn.Sequential(nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(48, 48, 3, groups=48), nn.BatchNorm2d(48), nn.ReLU())
        self.last = nn.Conv2d(48, 28, 1)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(28 * 6 * 6, 9), nn.ReLU(), nn.Linear(9, CLASSES)
        )

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.stem(images))
        stream = F.relu(stem + self.outer(self.inner(stem)))
        logits: Tensor = self.head(F.relu(self.last(self.deep(self.wide(stream)))))
        return logits


def network(name: str) -> nn.Module:
    """A float64 network in which no channel is dead and no BatchNorm is the identity."""
    shape = SHAPES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return lively(Mixed() if name == "mixed" else build_model(name, CLASSES, shape), shape)


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


def prunable(task: PruningTask) -> tuple[str, ...]:
    return coupling_of(task.model, task.image_shape).prunable


def random_scores(task: PruningTask, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(layer.out_channels, generator=generator, dtype=torch.float64)
        for name, layer in named_layers(task.model, prunable(task))
    }


def assert_met(task: PruningTask, pruned: Pruned) -> None:
    """What goes and what stays are within 2 %, measured, or the note says what was reached."""
    measure, fraction = task.target.measure, task.target.fraction
    assert pruned.size == network_size(pruned.model, task.image_shape)
    assert pruned.reached == 1 - pruned.size.of(measure) / task.dense.of(measure)
    if abs(pruned.reached - fraction) > 0.02 * min(fraction, 1 - fraction):
        assert task.target.name in pruned.note
        assert f"{pruned.reached:.4f}" in pruned.note
    else:
        assert pruned.note == ""


def assert_whole(task: PruningTask, pruned: Pruned) -> None:
    """It computes what the dense one computes without these channels, and it can be trained."""
    inputs = images(task.image_shape, 2, seed=9)
    found, twin = (
        logits(pruned.model, inputs),
        logits_without_channels(task.model, pruned.channels, inputs),
    )
    assert found.shape == (2, CLASSES)
    assert (found - twin).abs().max() <= 1e-9
    for module in pruned.model.modules():
        if isinstance(module, nn.Conv2d):
            assert min(module.weight.shape) >= 1
            assert module.weight.shape[0] == module.out_channels
    trained = copy.deepcopy(pruned.model).train()
    trained(images(task.image_shape, 4)).square().mean().backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def assert_rebuilt(task: PruningTask, pruned: Pruned) -> None:
    """Cutting the dense architecture to the channel map, through JSON, gives the same network."""
    rebuilt = rebuild(task.model, json.loads(json.dumps(pruned.channels)))
    for name, value in rebuilt.state_dict().items():
        assert torch.equal(value, pruned.model.state_dict()[name]), name
    inputs = images(task.image_shape, 2, seed=9)
    assert torch.equal(logits(rebuilt, inputs), logits(pruned.model, inputs))
