"""Plain cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raydrop.training.losses.base import Loss, LossContext


class CrossEntropy(Loss):
    """Plain cross-entropy, the mean over the batch."""

    def __init__(self, context: LossContext | None = None) -> None:
        """Need nothing of the context."""

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean of -log softmax(logits)[label]."""
        return F.cross_entropy(logits, labels)
