"""Per-sample gradients, reduced at once to the one number per sample that a score needs.

Every function differentiates each sample's own cross-entropy, summed over nothing and divided by
nothing, with respect to all trainable parameters. The model is in eval mode, so BatchNorm
statistics are fixed; otherwise a sample's gradient would depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from raydrop.errors import ScoringError

NORM_MEMORY_BYTES = 2**29
"""What :func:`per_sample_norm` holds at once; further samples are done in turn."""


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters by name, detached; a tied parameter counts once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def per_sample_dot(
    model: nn.Module, inputs: Tensor, labels: Tensor, direction: Mapping[str, Tensor]
) -> Tensor:
    r"""Return <grad l_i, v> for every sample of a batch.

    One forward-mode product (Jacobian-vector product of the vector of losses in direction v): about
    three forward passes in all, no loop over samples, and no activations kept.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,) int64.
        direction: v, a tensor of the parameter's shape for every trainable parameter.

    Returns:
        Dot products (B,).

    Raises:
        ScoringError: If the model would normalise by batch statistics, the labels do not fit the
            head, or the direction does not fit the parameters.
    """
    check_eval(model)
    parameters = parameters_of(model)
    _check_direction(parameters, direction)

    def losses(values: dict[str, Tensor]) -> Tensor:
        logits = functional_call(model, values, (inputs,))
        _check_labels_fit(labels, logits.shape[1])
        return _losses(logits, labels)

    tangents = {name: direction[name].to(value) for name, value in parameters.items()}
    products = jvp(losses, (parameters,), (tangents,))[1]
    return cast(Tensor, products)


def per_sample_norm(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    r"""Return || grad l_i ||_2 for every sample of a batch, over all trainable parameters.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,) int64.

    Returns:
        Norms (B,).

    Raises:
        ScoringError: If the model would normalise by batch statistics or the labels do not fit.
    """
    check_eval(model)
    parameters = parameters_of(model)

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, values, (image[None],))
        _check_labels_fit(labels, logits.shape[1])
        return _losses(logits, label[None])[0]

    def squared_norm(image: Tensor, label: Tensor) -> Tensor:
        gradient = grad(loss)(parameters, image, label)
        return torch.stack([g.square().sum() for g in gradient.values()]).sum()

    per_sample = sum(p.numel() * p.element_size() for p in parameters.values())
    chunk = max(1, NORM_MEMORY_BYTES // max(1, per_sample))
    squares = vmap(squared_norm, chunk_size=chunk)(inputs, labels)
    return squares.sqrt()


def gradient_sum(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return sum_i grad l_i over a batch, one tensor per trainable parameter.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,) int64.

    Returns:
        Tensors by parameter name; a parameter that the loss does not reach gets zeros.

    Raises:
        ScoringError: If the model would normalise by batch statistics or the labels do not fit.
    """
    check_eval(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        logits = model(inputs)
        _check_labels_fit(labels, logits.shape[1])
        total = _losses(logits, labels).sum()
        gradients = torch.autograd.grad(
            total, list(named.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(named, gradients, strict=True))


def check_eval(model: nn.Module) -> None:
    """Refuse a model in which a sample's gradient would depend on its batch.

    Raises:
        ScoringError: If a BatchNorm layer would use the statistics of the batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            raise ScoringError(
                f"Expected fixed BatchNorm statistics, found layer {name or 'model'!r} using "
                "those of the batch, which makes per-sample gradients undefined; call model.eval()."
            )


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample: logits (B, K), labels (B,), result (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def _check_labels_fit(labels: Tensor, classes: int) -> None:
    """Refuse labels (B,) outside the head, which vmap would otherwise read out of bounds."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ScoringError(
            f"Expected labels within 0...{classes - 1}, the model's outputs, found {low}...{high}; "
            "build the model for as many classes as the data have."
        )


def _check_direction(parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> None:
    """Refuse a direction that leaves out or misshapes a parameter, or names an unknown one."""
    missing = sorted(parameters.keys() - direction.keys())
    unknown = sorted(direction.keys() - parameters.keys())
    misshaped = [
        f"{name} {tuple(direction[name].shape)} instead of {tuple(value.shape)}"
        for name, value in parameters.items()
        if name in direction and direction[name].shape != value.shape
    ]
    if missing or unknown or misshaped:
        raise ScoringError(
            "Expected a direction with one tensor per trainable parameter, found "
            f"missing {missing}, unknown {unknown}, misshaped {misshaped}; build it from "
            "parameters_of(model)."
        )
