"""Which channels of a network go together, what is left without them, and which are chosen.

A residual stream ties the outputs of every convolution that adds to it, a depthwise convolution its
outputs to its inputs, a BatchNorm to the convolution before it. Such channels are one *coupled
channel* here: they are removed together or not at all. Nothing in this file needs a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raydrop.network.channels import Side, channel_map

TOLERANCE = 0.02
"""How far a size may be from its target, as a share of what is to go and of what is to stay."""
_LONGEST_WALK = 1000

Kept = Sequence[NDArray[np.bool_]]
"""For each group, which of its channels stay, (width,)."""
Combine = Literal["mean", "sum"]


def tolerance(fraction: float) -> float:
    """Return how far the share that goes may be from the one that should.

    Both what goes and what stays have to be within :data:`TOLERANCE` of their targets: when 15/16
    are to go, an error of 2 % of that would be a third of what is to stay.
    """
    return TOLERANCE * min(fraction, 1 - fraction)


@dataclass(frozen=True)
class Member:
    """Where the channels of a group stand in one layer."""

    module: str
    side: Side
    indices: tuple[tuple[int, ...], ...]
    """For each channel of the group its outputs or inputs of the layer; several behind a flatten,
    none where the layer has only some channels of the group."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of the layer's channels go with each of the group, (width,)."""
        return np.array([len(each) for each in self.indices])


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels that are ranked one by one."""

    width: int
    members: tuple[Member, ...]
    convolutions: tuple[str, ...]
    """Those whose filters make the channels."""


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


@dataclass(frozen=True)
class Coupling:
    """The coupled channels of a network."""

    groups: tuple[ChannelGroup, ...]
    layers: Mapping[str, LayerSize]
    """Every layer that some group touches."""
    rest_macs: int
    """Multiply-accumulates that no group can change."""
    rest_parameters: int
    shortcuts: Mapping[str, Shortcut]
    left_whole: tuple[str, ...]
    """Convolutions that lose no filters: the network's outputs come from them, or they are coupled
    in a way that cannot be cut."""

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the convolutions that can lose filters."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.convolutions))

    def everything(self) -> list[NDArray[np.bool_]]:
        """Return that every channel stays."""
        return [np.ones(group.width, bool) for group in self.groups]

    def size(self, kept: Kept, measure: str) -> int:
        """Return the multiply-accumulates (``flops``) or parameters of what is left."""
        gone = {(name, side): 0 for name in self.layers for side in ("out", "in")}
        for group, stays in zip(self.groups, kept, strict=True):
            for member in group.members:
                gone[member.module, member.side] += int(member.counts[~stays].sum())
        total = self.rest_macs if measure == "flops" else self.rest_parameters
        for name, layer in self.layers.items():
            outputs = layer.outputs - gone[name, "out"]
            area = layer.outputs * layer.inputs
            left = outputs * (layer.inputs - gone[name, "in"])
            if measure == "flops":
                total += layer.macs * left // area
            else:
                total += layer.weights * left // area + layer.vectors * outputs // layer.outputs
        return total

    def channels(self, kept: Kept) -> dict[str, Any]:
        """Return what is kept as a channel map; see :mod:`raydrop.network.channels`."""
        gone: dict[tuple[str, Side], set[int]] = {}
        for group, stays in zip(self.groups, kept, strict=True):
            for member in group.members:
                indices = gone.setdefault((member.module, member.side), set())
                for channel in np.flatnonzero(~stays):
                    indices.update(member.indices[channel])
        layers: dict[str, dict[Side, tuple[int, Sequence[int]]]] = {}
        for (name, side), removed in gone.items():
            of = self.layers[name].outputs if side == "out" else self.layers[name].inputs
            rest = [index for index in range(of) if index not in removed]
            layers.setdefault(name, {})[side] = (of, rest)
        return channel_map(layers, self._paddings(layers))

    def filters(self, kept: Kept) -> dict[str, list[int]]:
        """Return how many filters of each prunable convolution are left, and of how many."""
        left = {name: [self.layers[name].outputs] * 2 for name in self.prunable}
        for group, stays in zip(self.groups, kept, strict=True):
            for member in group.members:
                if member.side == "out" and member.module in left:
                    left[member.module][0] -= int(member.counts[~stays].sum())
        return left

    def combined(
        self, scores: Mapping[str, NDArray[np.float64]], combine: Combine
    ) -> list[NDArray[np.float64]]:
        """Return the score of every coupled channel, (width,) for each group.

        Args:
            scores: (out_channels,) for convolutions; at least one of each group.
            combine: Mean or sum over those filters of a coupled channel that have a score.
        """
        result = []
        for group in self.groups:
            total, number = np.zeros(group.width), np.zeros(group.width)
            for member in group.members:
                if member.side == "out" and member.module in scores:
                    for channel, indices in enumerate(member.indices):
                        total[channel] += sum(scores[member.module][index] for index in indices)
                        number[channel] += len(indices)
            result.append(total / np.maximum(number, 1) if combine == "mean" else total)
        return result

    def _paddings(
        self, layers: Mapping[str, Mapping[Side, tuple[int, Sequence[int]]]]
    ) -> dict[str, tuple[int, int]]:
        """Return the channels of zeros before and behind each shortcut that changes."""
        paddings = {}
        for name, shortcut in self.shortcuts.items():
            of, kept = layers.get(shortcut.convolution, {}).get("out", (0, ()))
            if len(kept) < of:
                end = shortcut.before + shortcut.inputs
                before = sum(index < shortcut.before for index in kept)
                paddings[name] = (before, sum(index >= end for index in kept))
        return paddings


def choose(
    coupling: Coupling,
    scores: Sequence[NDArray[np.float64]],
    size: int,
    measure: str,
    slack: float,
    seed: int,
) -> list[NDArray[np.bool_]]:
    """Return the channels that stay when the lowest go until a size is met.

    All channels are ranked together, equal scores in a seeded order; the highest of each group
    stays. Of the two neighbouring numbers of channels between which the size lies, the nearer one
    is taken. Where neither is near enough, channels are passed over that would remove too much, and
    the next ones in the ranking are tried.

    Args:
        coupling: The coupled channels.
        scores: (width,) for each group; higher ones stay.
        size: What is to be left, of the measure.
        measure: ``flops`` or ``parameters``.
        slack: How far from the size is near enough.
        seed: Of the order of equal scores.
    """
    ranking = _ranking(scores, np.random.default_rng(seed))
    low, high = 0, len(ranking)

    def left(removed: Sequence[tuple[int, int]]) -> int:
        return coupling.size(_without(coupling, removed), measure)

    while low < high:  # the fewest channels without which the rest is no larger than the size
        middle = (low + high) // 2
        low, high = (low, middle) if left(ranking[:middle]) <= size else (middle + 1, high)
    neighbours = [ranking[:low], ranking[: max(low - 1, 0)]]
    best = min(neighbours, key=lambda removed: abs(left(removed) - size))
    if abs(left(best) - size) > slack:
        best = min(
            [best, _walked(ranking, max(low - 1, 0), left, size, slack)],
            key=lambda removed: abs(left(removed) - size),
        )
    return _without(coupling, best)


def _ranking(
    scores: Sequence[NDArray[np.float64]], generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Return group and channel of all that may go, lowest first, without the last of each group."""
    groups = np.concatenate([np.full(len(each), g) for g, each in enumerate(scores)])
    channels = np.concatenate([np.arange(len(each)) for each in scores])
    order = np.lexsort((generator.random(len(groups)), np.concatenate(scores)))
    last = {int(groups[place]): int(place) for place in order}
    protected = set(last.values())
    return [(int(groups[p]), int(channels[p])) for p in order if int(p) not in protected]


def _walked(
    ranking: Sequence[tuple[int, int]], start: int, left: Any, size: int, slack: float
) -> list[tuple[int, int]]:
    """Return the first channels of a ranking and those further ones that do not remove too much."""
    removed = list(ranking[:start])
    for channel in ranking[start : start + _LONGEST_WALK]:
        now = left([*removed, channel])
        if now >= size - slack:
            removed.append(channel)
            if now <= size + slack:
                break
    return removed


def _without(coupling: Coupling, removed: Sequence[tuple[int, int]]) -> list[NDArray[np.bool_]]:
    kept = coupling.everything()
    for group, channel in removed:
        kept[group][channel] = False
    return kept
