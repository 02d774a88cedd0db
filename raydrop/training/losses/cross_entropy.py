"""Plain cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raydrop.study.catalogue import Entry
from raydrop.training.losses.base import Loss, LossContext


class CrossEntropy(Loss):
    """The mean over the batch of -log softmax(logits)[label]; it needs nothing of a context."""

    def __init__(self, context: LossContext | None = None) -> None:
        pass

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


FAMILY = Entry[Loss]("cross_entropy", CrossEntropy, "every sample weighs the same")
