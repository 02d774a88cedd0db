"""Performance weighted loss: samples that the dense network gets right count less.

Shapes: ``B`` samples of a batch, ``K`` classes; labels are (B,) int64, logits of the network and of
the dense one (B, K). The binary form has one logit per sample, (B,) or (B, 1), whose sigmoid is the
probability of class 1.

Source: Meyer and Wong, "A fair loss function for network pruning", 2022, arXiv 2211.10285.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raydrop.errors import ConfigError
from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import Loss, LossContext, full_precision

Weights = Literal["pw", "off"]
Labels = Literal["corrected", "hard", "soft"]
Stages = Literal["both", "prune", "retrain"]
Normalise = Literal["none", "mean1"]


def pw_weights(labels: Tensor, reference_logits: Tensor, theta: float, gamma: float) -> Tensor:
    """Return w = theta + (1 - theta) (1 - s)^gamma of every sample, (B,), in [theta, 1].

    s is the probability that the reference gives the sample's class: softmax(reference)[label], in
    the binary form p0 y + (1 - p0) (1 - y). Weights fall as s rises, and are exactly 1 where theta
    is 1 or gamma is 0 (0^0 is 1). They are computed in at least float32 and carry no gradient.

    Raises:
        ConfigError: If theta is not in [0, 1], or gamma below 0.

    Example:
        >>> p0 = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.1, 0.9]])
        >>> pw_weights(torch.tensor([0, 1, 1]), p0.log(), theta=0.3, gamma=1)
        tensor([0.5100, 0.7900, 0.3700])
    """
    _check(theta, gamma)
    reference = _squeezed(full_precision(reference_logits.detach()))
    if reference.ndim == 1:
        signs = 2 * labels.to(reference) - 1
        certainty = torch.sigmoid(signs * reference)
    else:
        certainty = reference.softmax(1).gather(1, labels[:, None])[:, 0]
    # Unlike the formula as written, this is exactly 1 and theta at its ends in any precision.
    start = torch.full_like(certainty, theta)
    return torch.lerp(start, torch.ones_like(start), (1 - certainty) ** gamma)


def pw_targets(labels: Tensor, reference_logits: Tensor, kind: Labels = "corrected") -> Tensor:
    """Return the targets of the cross-entropy, (B, K) probabilities, or (B,) in the binary form.

    ``corrected`` targets, the published ones, are p0 = softmax(reference) (binary: sigmoid) where
    the reference is right, its largest logit (binary: p0 rounded) being the label's, and the label
    elsewhere. ``soft`` are p0 everywhere, ``hard`` the labels. They carry no gradient.

    Example:
        >>> p0 = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]])
        >>> pw_targets(torch.tensor([0, 2]), p0.log())
        tensor([[0.7000, 0.2000, 0.1000],
                [0.0000, 0.0000, 1.0000]])
    """
    reference = _squeezed(full_precision(reference_logits.detach()))
    if reference.ndim == 1:
        soft, hard = reference.sigmoid(), labels.to(reference)
    else:
        soft = reference.softmax(1)
        hard = F.one_hot(labels, reference.shape[1]).to(reference)
    if kind != "corrected":
        return soft if kind == "soft" else hard
    right = _predicted(reference) == labels
    return torch.where(right if reference.ndim == 1 else right[:, None], soft, hard)


def pw_loss(
    logits: Tensor,
    labels: Tensor,
    reference_logits: Tensor,
    theta: float,
    gamma: float,
    *,
    weights: Weights = "pw",
    targets: Labels = "corrected",
    normalise: Normalise = "none",
) -> Tensor:
    """Return the performance weighted loss of a batch, a scalar in at least float32.

    The plain mean over the batch of w_i CE(logits_i, z_i), with w of :func:`pw_weights` and z of
    :func:`pw_targets`; CE(l, z) = -sum_k z_k log softmax(l)_k, in the binary form
    -z log sigmoid(l) - (1 - z) log sigmoid(-l). It divides by B, so the weights make the loss
    smaller; with ``normalise="mean1"`` each weight is first divided by the mean of the batch's
    weights (a batch that weighs nothing has the loss 0). No gradient flows into the reference.

    Where theta is 1 or gamma is 0 every weight is exactly 1, and value and gradient are, bit for
    bit, those of ``torch.nn.functional.cross_entropy`` (binary: of
    ``binary_cross_entropy_with_logits``) with the same targets: with the labels, where targets are
    hard or the reference is wrong about the whole batch, and with the probabilities z otherwise.
    The published form with theta = 1 is thus unweighted, but still learns from the reference
    wherever that is right; only with hard targets is it plain cross-entropy.

    The reference is the dense network in eval mode, for the same images. With ``weights="off"``
    every sample weighs 1.

    Raises:
        ConfigError: If theta or gamma is out of range, or the shapes differ.

    Example:
        >>> logits, reference = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> hard = pw_loss(logits, torch.tensor([0]), reference, theta=1, gamma=1)
        >>> bool(hard == F.cross_entropy(logits, torch.tensor([0])))
        True
    """
    _check(theta, gamma)
    logits, reference = _squeezed(full_precision(logits)), _squeezed(reference_logits.detach())
    if logits.shape != reference.shape:
        raise ConfigError(
            f"Expected reference logits of shape {tuple(logits.shape)}, as the logits have, found "
            f"{tuple(reference.shape)}; use the dense network of the same classes and images."
        )
    chosen = pw_targets(labels, reference, targets).to(logits)
    if weights == "off" or theta == 1 or gamma == 0:
        all_wrong = targets == "corrected" and not (_predicted(reference) == labels).any()
        if logits.ndim == 2 and (targets == "hard" or all_wrong):
            chosen = labels  # torch computes other bits from labels than from their probabilities
        return _cross_entropy(logits, chosen, "mean")
    factors = pw_weights(labels, reference, theta, gamma).to(logits)
    if normalise == "mean1":
        factors = factors / factors.mean().clamp_min(torch.finfo(factors.dtype).tiny)
    return (factors * _cross_entropy(logits, chosen, "none")).mean()


class PwLoss(Loss):
    """The mean over the batch of :func:`pw_loss`; it weighs samples, not classes or groups.

    At a stage that ``stage`` does not name, it is plain cross-entropy.
    """

    needs_reference = True

    def __init__(
        self,
        context: LossContext,
        theta: float,
        gamma: float,
        weights: Weights,
        labels: Labels,
        stage: Stages,
        normalise: Normalise,
    ) -> None:
        _check(theta, gamma)
        self.needs_reference = stage in ("both", context.stage)
        variant = {"weights": weights, "targets": labels, "normalise": normalise}
        self._loss: Callable[..., Tensor] = partial(pw_loss, theta=theta, gamma=gamma, **variant)  # type: ignore[arg-type]

    def __call__(
        self, logits: Tensor, labels: Tensor, units: Tensor, reference: Tensor | None = None
    ) -> Tensor:
        if not self.needs_reference:
            return F.cross_entropy(logits, labels)
        if reference is None:
            raise ConfigError(
                "Expected the dense network's logits for pw, found none; it is a loss of pruning a "
                "network, so set network_method, or choose another loss for dense training."
            )
        return self._loss(logits, labels, reference)


def _check(theta: float, gamma: float) -> None:
    if not 0 <= theta <= 1:
        raise ConfigError(
            f"Expected theta of pw in [0, 1], found {theta}; it is the smallest weight of a sample."
        )
    if not gamma >= 0:
        raise ConfigError(
            f"Expected gamma of pw of at least 0, found {gamma}; larger is lighter for samples "
            "that the dense network knows."
        )


def _squeezed(logits: Tensor) -> Tensor:
    """Return logits (B, K), or (B,) where there is one per sample."""
    return logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits


def _predicted(logits: Tensor) -> Tensor:
    """Return the classes (B,) that logits speak for; a probability of 1/2 rounds to class 0."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    if logits.ndim == 1:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
    return F.cross_entropy(logits, targets, reduction=reduction)


def _choice(name: str, *words: str) -> Parameter:
    return Parameter(name, words[0], words=words, numeric=False, named=True)


FAMILY = Entry[Loss](
    "pw",
    PwLoss,
    "samples that the dense network gets right weigh less, and are labelled by it",
    "Meyer and Wong 2022, arXiv 2211.10285",
    (
        Parameter("theta", 0.5, most=1.0),
        Parameter("gamma", 1.0),
        _choice("weights", "pw", "off"),
        _choice("labels", "corrected", "hard", "soft"),
        _choice("stage", "both", "prune", "retrain"),
        _choice("normalise", "none", "mean1"),
    ),
)
