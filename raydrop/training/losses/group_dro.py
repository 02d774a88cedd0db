"""Group DRO: the loss of the worst groups, by exponentiated-gradient ascent on their weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydrop.training.losses.base import Loss, LossContext, sample_losses


class GroupDro(Loss):
    """Weights over groups (or classes) that grow exponentially with their losses.

    With l_u the mean cross-entropy of the batch's samples of unit u (0 where it has none), each
    step first sets q_u proportional to q_u exp(step l_u), summing to 1, and the batch loss is
    sum_u q_u l_u; no gradient flows through q. Weights start equal over the units that have kept
    samples, others weigh 0, and they stay with the loss over the whole training. They are kept as
    logarithms, so that no loss is too large. Batches are drawn uniformly from all kept samples, as
    in the authors' implementation without re-sampling; their regularisation is the study's
    weight_decay, and the size-dependent adjustment is left out.

    Source: Sagawa, Koh, Hashimoto, Liang, "Distributionally robust neural networks for group
    shifts", 2020, arXiv 1911.08731, algorithm 1; its step size is 0.01.
    """

    def __init__(self, context: LossContext, step: float = 0.01) -> None:
        """Start with equal weights; at ``step`` 0 they stay equal."""
        self._step = step
        present = context.unit_sizes > 0
        start = np.where(present, -np.log(present.sum()), -np.inf)
        self._log_q = torch.from_numpy(start)

    @property
    def weights(self) -> Tensor:
        """q, (U,), summing to 1."""
        return self._log_q.exp()

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        """Return sum_u q_u l_u, having moved q."""
        losses = unit_means(sample_losses(logits, labels), units, len(self._log_q))
        with torch.no_grad():
            moved = self._log_q.to(losses.device) + self._step * losses.double()
            self._log_q = moved - moved.logsumexp(0)
        return (self.weights.to(losses) * losses).sum()


def unit_means(losses: Tensor, units: Tensor, count: int) -> Tensor:
    """Return the mean of the losses (B,) of each of ``count`` units, (U,); 0 where there are none.

    A product with the matrix of members rather than a scatter, whose order of summation, and so the
    last bits, would vary from run to run on a GPU.
    """
    members = F.one_hot(units, count).to(losses)
    return (losses @ members) / members.sum(0).clamp_min(1)
