"""What a loss is, what it may know, and the parts that several share.

Shapes: ``B`` samples of a batch, ``K`` classes, ``U`` units: classes or groups, as the study says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raydrop.study import By

Stage = Literal["prune", "retrain"]
"""What parameters are optimised for: finding out what to prune, or training what there is."""


@dataclass(frozen=True, eq=False)
class LossContext:
    """What a loss may know of the training that it is made for."""

    class_sizes: NDArray[np.int64]
    """Kept samples of each class, (K,)."""
    unit_sizes: NDArray[np.int64]
    """Kept samples of each class or group, (U,)."""
    by: By = "class"
    """Whether units are classes or groups."""
    epochs: int = 1
    """Epochs of the training."""
    stage: Stage = "retrain"
    """Whether the loss guides the pruning of a network or its training."""


class Loss(Protocol):
    """Turns a batch's logits and labels into the scalar that is minimised."""

    needs_recalls: bool = False
    """Whether :meth:`end_epoch` has to be given the validation recalls, which cost a pass."""
    needs_reference: bool = False
    """Whether it is called with a fourth argument, the logits of the dense network for the same
    images, (B, K), which carry no gradient."""

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar.

        Logits are (B, K), of any floating type, labels (B,) int64, and so are units, which are the
        labels themselves where they are classes.
        """
        ...

    def end_epoch(self, recalls: NDArray[np.float64] | None) -> None:
        """Take note of the end of an epoch, and of the validation recalls (U,) where needed."""
        return


def batch_loss(
    loss: Loss, logits: Tensor, labels: Tensor, units: Tensor, reference: Tensor | None
) -> Tensor:
    """Return a loss of a batch, handing over the dense network's logits where it reads them."""
    call: Callable[..., Tensor] = loss
    return call(logits, labels, units, *([reference] if loss.needs_reference else []))


class UnitWeighted(Loss):
    """Mean over the batch of w_{u_i} l_i, with l_i the cross-entropy of sample i and u_i its unit.

    The mean divides by B, not by the sum of the weights (U,).
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self._weights = torch.from_numpy(weights)

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        losses = sample_losses(logits, labels)
        self._weights = self._weights.to(losses)
        return (self._weights[units] * losses).mean()


def full_precision(logits: Tensor) -> Tensor:
    """Return logits in at least float32: sums of weighted losses need more than bf16 has."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)[label] of every sample, (B,), in at least float32."""
    return F.cross_entropy(full_precision(logits), labels, reduction="none")


def weights_of_present(
    values: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Scale the weights (P,) of the P units that have samples to sum to P; all others weigh 0.

    Where the weights are all 0, each of the P units weighs 1; ``sizes`` are of all units, (U,).
    """
    present = sizes > 0
    total = values.sum()
    weights = np.zeros(len(sizes))
    weights[present] = values * (len(values) / total) if total > 0 else 1.0
    return weights
