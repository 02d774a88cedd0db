"""Focal loss: samples that are classified well count less."""

from __future__ import annotations

import torch
from torch import Tensor

from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import Loss, LossContext, sample_losses


class Focal(Loss):
    """The mean over the batch of -(1 - p_i)^gamma log p_i, p_i the probability of its class.

    It weighs samples, not classes or groups; gamma 0 is cross-entropy.

    Source: Lin, Goyal, Girshick, He, Dollár, "Focal loss for dense object detection", 2017, arXiv
    1708.02002, in its form for several classes and without weights alpha.
    """

    def __init__(self, context: LossContext, gamma: float) -> None:
        self._gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        log_p = -sample_losses(logits, labels)
        # At p = 1 and gamma < 1 the power's slope is infinite, which times log p = 0 would be NaN.
        miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return (-(miss**self._gamma) * log_p).mean()


FAMILY = Entry[Loss](
    "focal",
    Focal,
    "samples weigh (1 - p)^gamma, p the probability of their class",
    "Lin et al. 2017, arXiv 1708.02002",
    (Parameter("gamma", 2.0),),
)
