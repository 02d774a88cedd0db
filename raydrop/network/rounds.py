"""Pruning at once or in rounds with training between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from raydrop.errors import ConfigError
from raydrop.network.base import NetworkMethod, Pruned, PruningTask, Target
from raydrop.network.channels import compose
from raydrop.network.masks import apply_masks, combined_masks


def round_targets(target: Target, rounds: int) -> list[Target]:
    """Return the target of each round; what remains shrinks by the same factor in each.

    After round i of n the share ``1 - (1 - f)^(i / n)`` of the dense network is gone, f being the
    target's; the last one is the target itself.

    Raises:
        ConfigError: If there are no rounds.

    Example:
        >>> [each.name for each in round_targets(Target("flops", 0.75), 2)]
        ['flops(0.5)', 'flops(0.75)']
    """
    if rounds < 1:
        raise ConfigError(f"Expected at least one round of pruning, found {rounds}; write 1.")
    left = 1.0 - target.fraction
    before = [1.0 - left ** (done / rounds) for done in range(1, rounds)]
    return [*(Target(target.measure, round(share, 12)) for share in before), target]


def prune_in_rounds(
    task: PruningTask,
    method: NetworkMethod,
    rounds: int,
    retrain: Callable[[nn.Module, Mapping[str, Tensor]], None],
) -> Pruned:
    """Return what came of the last round; channel map and masks are relative to the task's network.

    The method chooses anew in each round, whose targets are all relative to the dense network;
    one round is one-shot. Between rounds, not after the last, ``retrain`` trains a network in
    place, keeping masked weights at zero, given the masks so far. The facts have ``rounds``: the
    target, what was reached, and the note of each.
    """
    channels: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    course: list[dict[str, Any]] = []
    model = task.model
    for target in round_targets(task.target, rounds):
        if course:
            retrain(model, masks)
            apply_masks(model, masks)  # whatever the training made of them
        pruned = method.prune(replace(task, model=model, target=target))
        channels = compose(channels, pruned.channels)
        masks = combined_masks(masks, pruned.masks)
        course.append({"target": target.name, "reached": pruned.reached, "note": pruned.note})
        model = pruned.model
    facts = {**pruned.facts, "rounds": course} if rounds > 1 else pruned.facts
    return replace(pruned, channels=channels, masks=masks, facts=facts)
