"""Removing channels by scores, and measuring what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from raydrop.errors import NetworkError
from raydrop.network.base import MEASURES, Pruned, PruningTask
from raydrop.network.channels import rebuild
from raydrop.network.coupling import TOLERANCE, Coupling, Kept, tolerance
from raydrop.network.measure import network_size
from raydrop.network.tracing import coupling_of

Combine = Literal["mean", "sum"]
"""Of the scores of coupled filters, over those that are given."""
_LONGEST_WALK = 1000


def cut_by_scores(
    task: PruningTask, scores: Mapping[str, Tensor], *, combine: Combine = "mean"
) -> Pruned:
    """Remove the filters with the lowest scores until the target is met.

    All filters are ranked together, so scores of different layers have to be comparable. Filters
    that are coupled (by a residual stream, or by a depthwise convolution) have one score, the mean
    or sum of theirs, and go together. Equal scores go in a seeded order; at least one filter of
    each layer stays. The task's network is left as it is; the note of what is returned says so
    where its target could not be reached within 2 % of what is to go, and of what is to stay.

    Scores are (out_channels,) for each convolution that can lose filters; of coupled ones some may
    be left out, but not all.

    Raises:
        NetworkError: If the network cannot be traced (the message names the module), or a score is
            missing, NaN, or of another shape.
    """
    coupling = coupling_of(task.model, task.image_shape)
    return cut(task, coupling, chosen(task, coupling, combined_scores(coupling, scores, combine)))


def combined_scores(
    coupling: Coupling, scores: Mapping[str, Tensor], combine: Combine = "mean"
) -> NDArray[np.float64]:
    """Return the score of each coupled channel, (U,); see :func:`cut_by_scores`."""
    total, number = np.zeros(len(coupling.groups)), np.zeros(len(coupling.groups), np.int64)
    owners = {name: coupling.owners[name, "out"] for name in coupling.prunable}
    for name, owner in owners.items():
        if name in scores:
            own, values = owner[owner >= 0], _checked(name, scores[name], len(owner))[owner >= 0]
            total += np.bincount(own, values, len(total))
            number += np.bincount(own, minlength=len(total))
    for name, owner in owners.items():
        if not number[owner[owner >= 0]].all():
            raise NetworkError(
                f"Expected scores for the filters of {name}, found none; give scores for every "
                "convolution that can lose filters."
            )
    return total / np.maximum(number, 1) if combine == "mean" else total


def chosen(
    task: PruningTask,
    coupling: Coupling,
    scores: NDArray[np.float64],
    fraction: float | None = None,
) -> Kept:
    """Return the coupled channels that stay when the lowest scores (U,) go until a target is met.

    All channels are ranked together, equal scores in a seeded order; the highest of each group
    stays. Of the two neighbouring numbers of channels between which the wanted size lies, the
    nearer one is taken. Where neither is within the tolerance of it, channels are passed over that
    would remove too much, and the next ones in the ranking are tried. ``fraction`` of the dense
    network's measure goes; None stands for the target's.
    """
    measure = task.target.measure
    if measure == "sparsity":
        raise NetworkError(
            f"Expected a target of flops or parameters where channels go, found "
            f"{task.target.name}; write flops({task.target.fraction:g})."
        )
    goes = task.target.fraction if fraction is None else fraction
    dense = task.dense.of(measure)
    size, slack = round(dense * (1 - goes)), tolerance(goes) * dense
    order = np.lexsort((np.random.default_rng(task.seed).random(len(scores)), scores))
    highest = {coupling.groups[channel]: channel for channel in order}
    ranking = order[~np.isin(order, list(highest.values()))].tolist()

    def without(removed: Sequence[int]) -> Kept:
        kept = coupling.everything()
        kept[list(removed)] = False
        return kept

    def left(removed: Sequence[int]) -> int:
        return coupling.size(without(removed), measure)

    def error(removed: Sequence[int]) -> int:
        return abs(left(removed) - size)

    low, high = 0, len(ranking)
    while low < high:  # the fewest channels without which the rest is no larger than the size
        middle = (low + high) // 2
        low, high = (low, middle) if left(ranking[:middle]) <= size else (middle + 1, high)
    start = max(low - 1, 0)
    best = min(ranking[:low], ranking[:start], key=error)
    if error(best) > slack:
        walked = ranking[:start]
        for channel in ranking[start : start + _LONGEST_WALK]:
            now = left([*walked, channel])
            if now >= size - slack:
                walked.append(channel)
                if now <= size + slack:
                    break
        best = min(best, walked, key=error)
    return without(best)


def cut(
    task: PruningTask, coupling: Coupling, kept: Kept, facts: Mapping[str, Any] | None = None
) -> Pruned:
    """Return the network with some of its channels only, measured."""
    channels = coupling.channels(kept)
    model = rebuild(task.model, channels)
    size = network_size(model, task.image_shape)
    reached = 1 - size.of(task.target.measure) / task.dense.of(task.target.measure)
    stays = coupling.stays(kept)
    filters = {n: [int(stays[n, "out"].sum()), len(stays[n, "out"])] for n in coupling.prunable}
    own = {"filters": filters, "left_whole": list(coupling.left_whole)}
    last_ones = int(kept.sum()) == len(np.unique(coupling.groups))
    note = _note(task, reached, last_ones)
    return Pruned(model, size, reached, channels, note=note, facts={**own, **(facts or {})})


def named_layers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, _ConvNd]]:
    """Yield convolutions by name."""
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, _ConvNd)
        yield name, layer


def _checked(name: str, scores: Tensor, filters: int) -> NDArray[np.float64]:
    if scores.shape != (filters,):
        raise NetworkError(
            f"Expected one score for each of the {filters} filters of {name}, found shape "
            f"{tuple(scores.shape)}; give a vector."
        )
    values: NDArray[np.float64] = scores.detach().double().cpu().numpy()
    if np.isnan(values).any():
        raise NetworkError(
            f"Expected a number as the score of every filter of {name}, found NaN; lower the "
            "learning rate, or look at the loss."
        )
    return values


def _note(task: PruningTask, reached: float, last_ones: bool) -> str:
    """Return a sentence where the target was missed by more than the tolerance."""
    target = task.target
    if abs(reached - target.fraction) <= tolerance(target.fraction):
        return ""
    before = network_size(task.model, task.image_shape).of(target.measure)
    if last_ones:
        why = "every layer that can lose filters is down to its last one"
    elif reached > target.fraction and 1 - before / task.dense.of(target.measure) >= reached:
        why = "the network had no more to begin with"
    else:
        why = "the next filter is a larger step than that"
    return (
        f"The target {target.name} could not be reached within {TOLERANCE:.0%}: {reached:.4f} of "
        f"the dense network's {MEASURES[target.measure]} are gone, because {why}."
    )
