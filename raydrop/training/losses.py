"""Losses of the final training: what each class weighs.

A loss is made anew for each training. It may look at the recalls on the validation set after each
epoch, never at the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raydrop.errors import ConfigError, unknown_name


class Loss(Protocol):
    """Turns logits and labels into the scalar that is minimised."""

    needs_recalls: ClassVar[bool]
    """Whether :meth:`end_epoch` has to be called with the validation recalls."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch: logits (B, K), labels (B,) int64, result a scalar."""
        ...

    def end_epoch(self, recalls: NDArray[np.float64]) -> None:
        """Take note of the validation recalls (K,) after an epoch."""
        ...


class CrossEntropy:
    """Plain cross-entropy, the mean over the batch."""

    needs_recalls: ClassVar[bool] = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of -log softmax(logits)[label]."""
        return F.cross_entropy(logits, labels)

    def end_epoch(self, recalls: NDArray[np.float64]) -> None:
        """Do nothing."""


class CdbW:
    """Class-wise difficulty-balanced weights as DRoP uses them.

    w_k = 1 - r_k with r_k the recall on the validation set after the previous epoch; the first
    epoch is unweighted. The batch loss is sum_i w_{y_i} l_i / sum_i w_{y_i}, the weighted mean that
    ``torch.nn.functional.cross_entropy`` computes, so a common factor of the weights cancels.

    Source: Sinha, Ohashi, Nakamura 2020 (arXiv 2010.01824), with tau = 1, as in Vysogorets, Ahuja,
    Kempe 2025 (arXiv 2404.05579).
    """

    needs_recalls: ClassVar[bool] = True

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over the batch."""
        if self._weights is None:
            return F.cross_entropy(logits, labels)
        self._weights = self._weights.to(logits)
        return weighted_cross_entropy(logits, labels, self._weights)

    def end_epoch(self, recalls: NDArray[np.float64]) -> None:
        """Set the weights of the next epoch."""
        self._weights = torch.from_numpy(cdb_weights(recalls, tau=1.0))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i w_{y_i} l_i / sum_i w_{y_i} for logits (B, K), labels (B,) and weights (K,).

    A batch whose classes all weigh nothing has the loss 0, not 0/0.
    """
    chosen = weights[labels]
    losses = F.cross_entropy(logits, labels, reduction="none")
    total = chosen.sum()
    return (chosen * losses).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def cdb_weights(recalls: ArrayLike, tau: float | Literal["dynamic"] = 1.0) -> NDArray[np.float64]:
    """Return class weights that grow with a class's difficulty.

    w_k = (1 - A_k)^tau, scaled to sum to K, so that equally difficult classes weigh 1 each. The
    dynamic exponent is tau = 2 sigmoid(max A / (min A + 0.01) - 1): it grows with the imbalance.
    If every recall is 1, no class is difficult and all weigh 1.

    Source: Sinha, Ohashi, Nakamura, "Class-wise difficulty-balanced loss", 2020, arXiv 2010.01824.

    Args:
        recalls: Recalls A_k in [0, 1], shape (K,).
        tau: Exponent, at least 0, or ``"dynamic"``.

    Returns:
        Weights (K,), summing to K.

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


@dataclass(frozen=True)
class LossRule:
    """A loss by name, with what ``raydrop methods`` says of it."""

    name: str
    make: type[CrossEntropy | CdbW]
    summary: str
    citation: str


LOSSES: dict[str, LossRule] = {
    rule.name: rule
    for rule in (
        LossRule("cross_entropy", CrossEntropy, "every sample weighs the same", ""),
        LossRule(
            "cdb_w",
            CdbW,
            "classes weigh 1 - recall of the previous epoch on validation",
            "Sinha et al. 2020, arXiv 2010.01824; Vysogorets et al. 2025, arXiv 2404.05579",
        ),
    )
}


def loss_rule(name: str) -> LossRule:
    """Return the loss called ``name``.

    Raises:
        ConfigError: If there is none; the message lists the nearest names.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]
