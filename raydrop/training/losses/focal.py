"""Focal loss: samples that are classified well count less."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raydrop.training.losses.base import Loss, LossContext, full_precision


def focal_losses(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p_i)^gamma log p_i of every sample, (B,), p_i the probability of its class.

    Source: Lin, Goyal, Girshick, He, Dollár, "Focal loss for dense object detection", 2017, arXiv
    1708.02002, in its form for several classes and without weights alpha.

    Args:
        logits: (B, K).
        labels: (B,).
        gamma: At least 0; 0 is cross-entropy.
    """
    log_p = -F.cross_entropy(full_precision(logits), labels, reduction="none")
    # At p = 1 and gamma < 1 the power has an infinite slope, which times log p = 0 would be NaN.
    miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(miss**gamma) * log_p


class Focal(Loss):
    """The mean over the batch of :func:`focal_losses`; it weighs samples, not classes or groups."""

    def __init__(self, context: LossContext, gamma: float = 2.0) -> None:  # noqa: ARG002
        """Take the exponent; nothing of the context is needed."""
        self._gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean over the batch."""
        return focal_losses(logits, labels, self._gamma).mean()
