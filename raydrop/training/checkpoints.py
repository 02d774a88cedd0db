"""Checkpoints as one vector of numbers: no pickle, memory-mapped, any subset readable."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.sampling import raw_draws
from raydrop.errors import StoreError


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return the floating-point entries of the state dict, in its order.

    Counters of BatchNorm batches are integers; they change nothing in eval mode and stay out.
    """
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def flat_state(model: nn.Module) -> NDArray[np.float32]:
    """Return parameters and buffers as one float32 vector, in the order of the state dict."""
    return torch.cat([value.detach().flatten() for value in _tensors(model)]).float().cpu().numpy()


@torch.no_grad()
def load_state(model: nn.Module, state: NDArray[np.float32]) -> None:
    """Put a vector from :func:`flat_state` back into a model of the same architecture.

    Raises:
        StoreError: If the vector has another length than the model.
    """
    tensors = _tensors(model)
    sizes = [value.numel() for value in tensors]
    if sum(sizes) != len(state):
        raise StoreError(
            f"Expected a checkpoint of {sum(sizes)} numbers, found {len(state)}; "
            "it belongs to another model, so score with the model that was trained."
        )
    # A copy, because both shared memory and memory maps are read-only.
    pieces = torch.from_numpy(np.array(state, dtype=np.float32)).split(sizes)
    for value, piece in zip(tensors, pieces, strict=True):
        value.copy_(piece.view(value.shape))


def sampled_epochs(epochs: int, count: int, seed: int) -> tuple[int, ...]:
    """Return the min(T, E) ascending epochs, from 1, whose checkpoints scores average over.

    The E epochs are cut into T = ``count`` strata of nearly equal length, and one epoch is drawn
    from each. Where T divides E, each epoch is equally likely, as with a uniform draw, but the
    average over the checkpoints varies less. The draw depends neither on the machine nor on NumPy's
    version.

    Example:
        >>> sampled_epochs(30, 5, seed=0)
        (6, 8, 18, 23, 27)
    """
    count = min(count, epochs)
    edges = [epochs * i // count for i in range(count + 1)]
    draws = raw_draws(count, seed, "query/checkpoints").tolist()
    strata = zip(edges[:-1], edges[1:], draws, strict=True)
    return tuple(1 + low + draw % (high - low) for low, high, draw in strata)


def score_epoch(epochs: int, fraction: float) -> int:
    """Return the epoch, from 1, at which early-training scores look: a fraction of the run."""
    return max(1, round(fraction * epochs))
