"""Which channels of a network go together, and what is left without them.

A residual stream ties the outputs of every convolution that adds to it, a depthwise convolution its
outputs to its inputs, a BatchNorm to the convolution before it. Such channels are one *coupled
channel*: they are removed together or not at all. Nothing in this file needs a network.

Shapes: ``U`` coupled channels, numbered from 0; ``C`` outputs or inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.network.channels import Side

TOLERANCE = 0.02
"""How far a size may be from its target, as a share of what is to go and of what is to stay."""

Kept = NDArray[np.bool_]
"""Which coupled channels stay, (U,)."""


def tolerance(fraction: float) -> float:
    """Return how far the share that goes may be from the one that should.

    Both what goes and what stays have to be within :data:`TOLERANCE` of their targets: when 15/16
    are to go, an error of 2 % of that would be a third of what is to stay.
    """
    return TOLERANCE * min(fraction, 1 - fraction)


@dataclass(frozen=True)
class LayerSize:
    """What a layer costs, and how that shrinks with its channels."""

    outputs: int
    inputs: int
    """1 where inputs and outputs are the same channels."""
    macs: int
    weights: int
    """Proportional, like :attr:`macs`, to outputs times inputs."""
    vectors: int
    """Parameters proportional to the outputs: biases, scale and shift of BatchNorm."""


@dataclass(frozen=True)
class Shortcut:
    """A shortcut that pads: channels of zeros, the block's input, channels of zeros."""

    convolution: str
    """Whose outputs it is added to."""
    before: int
    inputs: int


@dataclass(frozen=True, eq=False)
class Coupling:
    """The coupled channels of a network."""

    groups: NDArray[np.int64]
    """Of each coupled channel, those that join the same layers having one number, (U,)."""
    owners: Mapping[tuple[str, Side], NDArray[np.int64]]
    """The coupled channel of each output, or input, of the layers that some go through, (C,); -1
    for one that always stays."""
    layers: Mapping[str, LayerSize]
    """Every such layer."""
    rest_macs: int
    """Multiply-accumulates that do not depend on coupled channels."""
    rest_parameters: int
    shortcuts: Mapping[str, Shortcut]
    convolutions: tuple[str, ...]
    """Names of all convolutions."""

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the convolutions that can lose filters."""
        outputs = {name: own for (name, side), own in self.owners.items() if side == "out"}
        return tuple(n for n in outputs if n in self.convolutions and outputs[n].max() >= 0)

    @property
    def left_whole(self) -> tuple[str, ...]:
        """The others: the outputs come from them, or they are coupled in an uncuttable way."""
        return tuple(name for name in self.convolutions if name not in self.prunable)

    def everything(self) -> Kept:
        """Return that every channel stays."""
        return np.ones(len(self.groups), bool)

    def stays(self, kept: Kept) -> dict[tuple[str, Side], NDArray[np.bool_]]:
        """Return which outputs and inputs of each layer stay, (C,)."""
        kept = np.append(kept, True)  # where -1 points to
        return {place: kept[owner] for place, owner in self.owners.items()}

    def size(self, kept: Kept, measure: str) -> int:
        """Return the multiply-accumulates (``flops``) or parameters of what is left."""
        left = {place: int(stays.sum()) for place, stays in self.stays(kept).items()}
        total = self.rest_macs if measure == "flops" else self.rest_parameters
        for name, layer in self.layers.items():
            outputs = left.get((name, "out"), layer.outputs)
            area = outputs * left.get((name, "in"), layer.inputs)
            whole = layer.outputs * layer.inputs
            if measure == "flops":
                total += layer.macs * area // whole
            else:
                total += layer.weights * area // whole + layer.vectors * outputs // layer.outputs
        return total

    def channels(self, kept: Kept) -> dict[str, Any]:
        """Return what is kept as a channel map; see :mod:`raydrop.network.channels`."""
        every: dict[str, dict[str, Any]] = {name: {} for name, _ in self.owners}
        for (name, side), stays in self.stays(kept).items():
            if not stays.all():
                every[name][side] = {"of": len(stays), "kept": np.flatnonzero(stays).tolist()}
        layers = {name: sides for name, sides in every.items() if sides}
        shortcuts = {}
        for name, shortcut in self.shortcuts.items():
            places = layers.get(shortcut.convolution, {}).get("out", {}).get("kept")
            if places is not None:
                end = shortcut.before + shortcut.inputs
                before = sum(index < shortcut.before for index in places)
                shortcuts[name] = [before, sum(index >= end for index in places)]
        return {"layers": layers, "shortcuts": shortcuts} if layers else {}
