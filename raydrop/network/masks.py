"""Masks of single weights: choosing them by scores, and keeping them during training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raydrop.errors import NetworkError
from raydrop.network.base import MEASURES, Pruned, PruningTask
from raydrop.network.measure import network_size, weights_of


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of a network to zero, in place.

    Called after each step of an optimiser this keeps them at zero, whatever the optimiser (decay,
    momentum) would make of them. Masks are by the name of their parameter, True where it stays.
    """
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        weight.masked_fill_(~mask.to(weight.device), 0.0)


def combined_masks(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks that keep what both keep; a parameter without a mask is kept whole."""
    both = {
        name: first[name] & second[name].to(first[name].device) for name in {*first} & {*second}
    }
    return {**first, **second, **both}


def mask_by_scores(task: PruningTask, scores: Mapping[str, Tensor]) -> Pruned:
    """Mask the weights with the lowest scores until the target's sparsity is met exactly.

    All weights of convolutions and linear layers are ranked together. Weights that are zero
    already, such as those that an earlier round masked, go first; equal scores go in a seeded
    order; the highest weight of each layer stays. The task's network is left as it is. Scores are
    given for each weight of :func:`raydrop.network.measure.weights_of`, in its shape.

    Raises:
        NetworkError: If the target is of another measure, or a score is missing, NaN or of another
            shape; the message names the parameter.
    """
    if task.target.measure != "sparsity":
        raise NetworkError(
            f"Expected a target of sparsity where weights are masked, found {task.target.name}; "
            f"write sparsity({task.target.fraction:g})."
        )
    model = copy.deepcopy(task.model).cpu()
    weights = weights_of(model)
    total = sum(weight.numel() for weight in weights.values())
    dense = task.dense.weights
    wanted = dense - round(dense * task.target.fraction)
    amount = max(total - max(wanted, len(weights)), 0)
    # Not by prune.global_unstructured, which takes equal scores in an order of its own and can
    # mask a whole layer.
    generator = torch.Generator().manual_seed(task.seed)
    flat = torch.cat([_checked(name, weight, scores).flatten() for name, weight in weights.items()])
    sizes = [weight.numel() for weight in weights.values()]
    for part in flat.split(sizes):
        part[_drawn(part == part.max(), 1, generator)] = torch.inf
    keep = torch.ones(total, dtype=torch.bool)
    if amount > 0:
        highest = flat.kthvalue(amount).values
        keep[flat < highest] = False
        keep[_drawn(flat == highest, amount - int((~keep).sum()), generator)] = False
    parts = zip(weights.items(), keep.split(sizes), strict=True)
    masks = {name: part.view_as(weight) for (name, weight), part in parts}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    model.to(next(task.model.parameters()).device)
    size = network_size(model, task.image_shape)
    reached = 1 - size.weights / dense
    note = ""
    if size.weights != wanted:
        note = (
            f"The target {task.target.name} could not be reached exactly: {reached:.6f} of the "
            f"dense network's {MEASURES['sparsity']} are gone, because each layer keeps at least "
            "one weight or more were zero to begin with."
        )
    return Pruned(model, size, reached, masks=masks, note=note)


def _drawn(candidates: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Return the places of so many random ones of the candidates, True in a vector."""
    places = candidates.nonzero().flatten()
    return places[torch.randperm(len(places), generator=generator)[:number]]


def _checked(name: str, weight: Tensor, scores: Mapping[str, Tensor]) -> Tensor:
    """Return the scores of a parameter in float64, those of zero weights below all others."""
    found = scores.get(name)
    if found is None or found.shape != weight.shape:
        shape = "none" if found is None else str(tuple(found.shape))
        raise NetworkError(
            f"Expected scores of shape {tuple(weight.shape)} for {name}, found {shape}; give one "
            "for each of its weights."
        )
    values = found.detach().cpu().double()
    if values.isnan().any():
        raise NetworkError(
            f"Expected a number as the score of every weight of {name}, found NaN; look at the "
            "loss and at the weights."
        )
    return torch.where(weight.detach() == 0, -torch.inf, values)
