"""Label-distribution-aware margins, with re-weighting deferred to the end of the training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import Loss, LossContext, full_precision
from raydrop.training.losses.frequency import effective_number_weights

DEFERRED = 0.8
"""Share of the epochs before classes are re-weighted; the authors' 160 of 200."""
BETA = 0.9999
"""Of the effective numbers that they are re-weighted by, as in the authors' experiments."""


def ldam_margins(class_sizes: NDArray[np.int64], max_margin: float) -> NDArray[np.float64]:
    """Return margins (K,) in proportion to n_k^(-1/4), the largest of them ``max_margin``.

    A class without samples has the margin 0, since none of its samples will be seen, and does not
    count for the largest.

    Example:
        >>> ldam_margins(np.array([1600, 16, 0]), 0.5).round(4).tolist()
        [0.1581, 0.5, 0.0]
    """
    margins = np.zeros(len(class_sizes))
    present = class_sizes > 0
    margins[present] = class_sizes[present] ** -0.25
    return np.asarray(margins * (max_margin / margins.max()))


class LdamDrw(Loss):
    """LDAM loss, with deferred re-weighting (DRW).

    The loss of a sample is the cross-entropy of its logits z with the one of its own class lowered
    by s Delta_y, where Delta are the margins of :func:`ldam_margins` and s is the scale; the batch
    loss is the plain mean. In the last fifth of the epochs each sample's loss is multiplied by its
    class's weight of :func:`~raydrop.training.losses.frequency.effective_number_weights`, which
    sum to the number of classes that have samples, still averaged over B.

    The authors normalise the features and weights of the last layer, so that it gives cosines c,
    and take the cross-entropy of s (c - Delta). Here a model keeps its own last layer, and its
    logits stand for s c: for a head that gives s times the cosines the two losses are equal, and an
    ordinary head, whose logits are not bounded, sees the same margins in units of logits (up to s
    times ``max_margin`` = 15). It concerns classes, also where a study is by group.

    Source: Cao, Wei, Gaidon, Arechiga, Ma, "Learning imbalanced datasets with
    label-distribution-aware margin loss", 2019, arXiv 1906.07413.
    """

    def __init__(self, context: LossContext, max_margin: float, scale: float) -> None:
        self._margins = torch.from_numpy(scale * ldam_margins(context.class_sizes, max_margin))
        self._weights = torch.from_numpy(effective_number_weights(context.class_sizes, BETA))
        self._epochs, self._done = context.epochs, 0

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        logits = full_precision(logits)
        self._margins, self._weights = self._margins.to(logits), self._weights.to(logits)
        own = F.one_hot(labels, logits.shape[1]).to(logits)
        losses = F.cross_entropy(logits - own * self._margins, labels, reduction="none")
        if self._done >= DEFERRED * self._epochs:
            losses = self._weights[labels] * losses
        return losses.mean()

    def end_epoch(self, recalls: NDArray[np.float64] | None) -> None:
        """Count the epoch."""
        self._done += 1


FAMILY = Entry[Loss](
    "ldam_drw",
    LdamDrw,
    "larger margins for smaller classes; re-weighted in the last fifth of the epochs",
    "Cao et al. 2019, arXiv 1906.07413",
    (Parameter("max_margin", 0.5), Parameter("scale", 30.0)),
)
