"""Group DRO: the loss of the worst groups, by exponentiated-gradient ascent on their weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raydrop.study.catalogue import Entry, Parameter
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

    def __init__(self, context: LossContext, step: float) -> None:
        self._step = step
        present = context.unit_sizes > 0
        start = np.where(present, -np.log(present.sum()), -np.inf)
        self._log_q = torch.from_numpy(start)

    @property
    def weights(self) -> Tensor:
        """q, (U,), summing to 1."""
        return self._log_q.exp()

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        losses = sample_losses(logits, labels)
        # A product with the matrix of members rather than a scatter, whose order of summation, and
        # so the last bits, would vary from run to run on a GPU.
        members = F.one_hot(units, len(self._log_q)).to(losses)
        means = (losses @ members) / members.sum(0).clamp_min(1)
        with torch.no_grad():
            moved = self._log_q.to(means.device) + self._step * means.double()
            self._log_q = moved - moved.logsumexp(0)
        return (self.weights.to(means) * means).sum()


FAMILY = Entry[Loss](
    "group_dro",
    GroupDro,
    "groups (or classes) weigh more, exponentially, the higher their losses are",
    "Sagawa et al. 2020, arXiv 1911.08731",
    (Parameter("step", 0.01),),
)
