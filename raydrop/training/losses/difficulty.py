"""Weights by difficulty: what validation says of the previous epoch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raydrop.errors import ConfigError
from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import (
    Loss,
    LossContext,
    UnitWeighted,
    sample_losses,
    weights_of_present,
)


class CdbW(Loss):
    """Class-wise difficulty-balanced weights as DRoP uses them.

    w_u = 1 - r_u with r_u the recall of class (or group) u on the validation set after the previous
    epoch; the first epoch is unweighted. The batch loss is sum_i w_{u_i} l_i / sum_i w_{u_i}, the
    weighted mean that ``torch.nn.functional.cross_entropy`` computes, so a common factor of the
    weights cancels. Batches whose units are all recalled perfectly have the loss 0, unless every
    unit is, in which case all weigh the same.

    Source: Sinha, Ohashi, Nakamura 2020 (arXiv 2010.01824), with tau = 1, as in Vysogorets, Ahuja,
    Kempe 2025 (arXiv 2404.05579).
    """

    needs_recalls = True

    def __init__(self, context: LossContext) -> None:
        self._weights = torch.ones(len(context.unit_sizes), dtype=torch.float64)

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        self._weights = self._weights.to(logits.device)
        losses = sample_losses(logits, labels)
        chosen = self._weights[units].to(losses)
        total = chosen.sum()
        return (chosen * losses).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)

    def end_epoch(self, recalls: NDArray[np.float64] | None) -> None:
        """Set the weights of the next epoch."""
        assert recalls is not None
        self._weights = torch.from_numpy(cdb_weights(recalls, tau=1.0))


class CdbWOriginal(UnitWeighted):
    """Class-wise difficulty-balanced weights as their authors use them.

    w_u = (1 - A_u)^tau with A_u the accuracy on class (or group) u of the validation set after the
    previous epoch, scaled to sum to the number of units that have samples; the first epoch is
    unweighted. The batch loss is the plain mean of w_{u_i} l_i: it divides by B, not by the sum of
    the weights, so that, unlike with :class:`CdbW`, a batch of easy classes takes smaller steps.
    Units without samples weigh 0 and take no part in the dynamic tau of :func:`cdb_weights`.

    Source: Sinha, Ohashi, Nakamura, "Class-wise difficulty-balanced loss for solving
    class-imbalance", 2020, arXiv 2010.01824, which tries tau in {0.5, 1, 1.5, 2, 5} and dynamic.
    """

    needs_recalls = True

    def __init__(self, context: LossContext, tau: float | Literal["dynamic"]) -> None:
        self._sizes, self._tau = context.unit_sizes, tau
        super().__init__(np.ones(len(self._sizes)))

    def end_epoch(self, recalls: NDArray[np.float64] | None) -> None:
        """Set the weights of the next epoch."""
        assert recalls is not None
        weights = cdb_weights(recalls[self._sizes > 0], self._tau)
        self._weights = torch.from_numpy(weights_of_present(weights, self._sizes))


def cdb_weights(recalls: ArrayLike, tau: float | Literal["dynamic"] = 1.0) -> NDArray[np.float64]:
    """Return class weights (K,) that grow with a class's difficulty.

    w_k = (1 - A_k)^tau with recalls A_k (K,), scaled to sum to K, so that equally difficult classes
    weigh 1 each. The dynamic exponent is tau = 2 sigmoid(max A / (min A + 0.01) - 1): it grows with
    the imbalance. If every recall is 1, no class is difficult and all weigh 1.

    Source: Sinha, Ohashi, Nakamura, "Class-wise difficulty-balanced loss", 2020, arXiv 2010.01824.

    Raises:
        ConfigError: If a recall is not in [0, 1] or the exponent is negative.

    Example:
        >>> cdb_weights([0.9, 0.8, 0.5], tau="dynamic").round(3).tolist()
        [0.239, 0.615, 2.147]
    """
    values = np.asarray(recalls, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(
            f"Expected recalls in [0, 1], found {values.tolist()}; "
            "a class without validation samples has no recall, so give it some."
        )
    if tau == "dynamic":
        exponent = 2 / (1 + np.exp(-(values.max() / (values.min() + 0.01) - 1)))
    else:
        exponent = float(tau)
    if exponent < 0:
        raise ConfigError(f"Expected tau of at least 0, found {tau}; larger is more uneven.")
    raw = (1 - values) ** exponent
    if raw.sum() == 0:
        return np.ones_like(values)
    return np.asarray(raw * len(values) / raw.sum())


CDB_W = Entry[Loss](
    "cdb_w",
    CdbW,
    "classes (or groups) weigh 1 - recall of the previous epoch on validation",
    "Sinha et al. 2020, arXiv 2010.01824; Vysogorets et al. 2025, arXiv 2404.05579",
)
CDB_W_ORIGINAL = Entry[Loss](
    "cdb_w_original",
    CdbWOriginal,
    "they weigh (1 - recall)^tau, tau a number or dynamic, summing to their number",
    "Sinha et al. 2020, arXiv 2010.01824",
    (Parameter("tau", "dynamic", words=("dynamic",)),),
)
