"""Logit adjustment: class priors enter the softmax in training and are left out at test time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import Loss, LossContext, full_precision


class LogitAdjusted(Loss):
    """Cross-entropy of z_k + tau log pi_k, the mean over the batch; tau 0 is cross-entropy.

    pi_k is the share of class k among the kept samples. A class without any is counted as having
    one: its prior would be 0 and the adjusted logit -infinity, nothing would then hold the class's
    own logit down, and it could be the largest at test time. Predictions at test time are by z
    itself, which for tau = 1 is consistent for the balanced error. It concerns classes, also where
    a study is by group.

    Source: Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment",
    2021, arXiv 2007.07314.
    """

    def __init__(self, context: LossContext, tau: float) -> None:
        counts = np.maximum(context.class_sizes, 1)
        self._shift = torch.from_numpy(tau * np.asarray(np.log(counts / counts.sum())))

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        logits = full_precision(logits)
        self._shift = self._shift.to(logits)
        return F.cross_entropy(logits + self._shift, labels)


FAMILY = Entry[Loss](
    "logit_adjusted",
    LogitAdjusted,
    "tau times the log of the class priors is added to the logits in training",
    "Menon et al. 2021, arXiv 2007.07314",
    (Parameter("tau", 1.0),),
)
