"""Logit adjustment: class priors enter the softmax in training and are left out at test time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raydrop.training.losses.base import Loss, LossContext, full_precision


def log_priors(class_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log(n_k / n) of every class, (K,), a class without samples counted as having one.

    Its prior would be 0 and the adjusted logit -infinity: nothing would then hold the class's own
    logit down, and it could be the largest at test time.

    Args:
        class_sizes: Samples n_k of each class, (K,).
    """
    counts = np.maximum(class_sizes, 1)
    return np.asarray(np.log(counts / counts.sum()))


class LogitAdjusted(Loss):
    """Cross-entropy of z_k + tau log pi_k, the mean over the batch.

    pi_k is the share of class k among the kept samples (:func:`log_priors`). Predictions at test
    time are by z itself, which for tau = 1 is consistent for the balanced error. It concerns
    classes, also where a study is by group.

    Source: Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment",
    2021, arXiv 2007.07314.
    """

    def __init__(self, context: LossContext, tau: float = 1.0) -> None:
        """Compute the adjustment from the classes' kept samples; ``tau`` 0 is cross-entropy."""
        self._shift = torch.from_numpy(tau * log_priors(context.class_sizes))

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean over the batch."""
        logits = full_precision(logits)
        self._shift = self._shift.to(logits)
        return F.cross_entropy(logits + self._shift, labels)
