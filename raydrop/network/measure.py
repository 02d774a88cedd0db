"""How large a network is and how long it takes, measured rather than estimated."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raydrop.data.inputs import Inputs, InputSpec, each, leaves
from raydrop.errors import NetworkError
from raydrop.models import ImageShape, as_spec, check_eager
from raydrop.network.base import NetworkSize
from raydrop.training.halving import Halving

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights are counted and masked."""


def network_size(model: nn.Module, inputs: InputSpec | ImageShape) -> NetworkSize:
    """Return multiply-accumulates, parameters and weights of a network.

    Multiply-accumulates are half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts
    in a forward pass of one sample in eval mode: convolutions and matrix products, nothing else. A
    weight is counted unless it is exactly zero, which is what a masked weight is.
    """
    return NetworkSize(
        _counted(model, inputs).get_total_flops() // 2,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(int(torch.count_nonzero(weight)) for weight in weights_of(model).values()),
    )


def layer_macs(model: nn.Module, inputs: InputSpec | ImageShape) -> dict[str, int]:
    """Return the multiply-accumulates of one sample by the name of each module that has some.

    A module counts what its children do; ``""`` is the whole network.
    """
    counts = _counted(model, inputs).get_flop_counts()
    root = type(model).__name__
    places = {"": "Global"} | {name: f"{root}.{name}" for name, _ in model.named_modules() if name}
    return {
        name: sum(counts[place].values()) // 2 for name, place in places.items() if place in counts
    }


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers by the name of their parameter.

    Raises:
        NetworkError: If the model holds TorchScript, whose layers cannot be seen.
    """
    check_eager(model, NetworkError)
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED)
    }


def forward_seconds(
    model: nn.Module, inputs: InputSpec | ImageShape, batch: int = 64, repeats: int = 5
) -> float:
    """Return the median seconds of so many forward passes in eval mode, after one not counted.

    Where memory has no room for so many images, it is the time of the fewest passes that they take
    when they are halved again and again.

    Raises:
        NoMemoryError: If a single image does not fit into memory.
    """
    blank, halving, times = blank_inputs(model, inputs, batch), Halving(), list[float]()
    samples = torch.zeros(batch, device=leaves(blank)[0].device)
    with evaluating(model), torch.no_grad():
        while len(times) <= repeats:
            most, start = halving.most, time.perf_counter()
            halving(lambda part, _: model(part), blank, samples)
            if samples.is_cuda:
                torch.cuda.synchronize(samples.device)
            if halving.most == most:
                times.append(time.perf_counter() - start)
            else:
                times.clear()
    return statistics.median(times[1:])


def blank_inputs(model: nn.Module, inputs: InputSpec | ImageShape, batch: int = 1) -> Inputs:
    """Return zeros, (batch, ...), real ones of the parameters' type, and on their device."""
    like = next(model.parameters(), torch.zeros(()))

    def typed(values: Tensor) -> Tensor:
        return values.to(like.dtype) if values.is_floating_point() else values

    zeros: Inputs = each(typed, as_spec(inputs).zeros(batch, like.device))
    return zeros


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _counted(model: nn.Module, inputs: InputSpec | ImageShape) -> FlopCounterMode:
    from torch.utils.flop_counter import FlopCounterMode  # and triton, which not all work needs

    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), counter:
        model(blank_inputs(model, inputs))
    return counter
