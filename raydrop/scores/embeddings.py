"""Embeddings: what a model's last linear layer gets to see of a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydrop.errors import ScoringError
from raydrop.models import check_eager
from raydrop.scores.gradients import check_eval, last_linear
from raydrop.study import ScoringPrecision


@torch.no_grad()
def embeddings_of(
    model: nn.Module, inputs: Tensor, *, precision: ScoringPrecision = "fp32"
) -> Tensor:
    """Return the inputs of a model's last linear layer, the penultimate embeddings.

    With z_i the embedding of sample i, W the layer's weight and b its bias, the logits are
    W z_i + b.

    Args:
        model: In eval mode; its last linear layer, in the order of its modules, is its head.
        inputs: Images (B, ...).
        precision: ``fp32`` computes in the model's own precision, ``bf16`` under autocast.

    Returns:
        Embeddings (B, D), in float32 or wider.

    Raises:
        ScoringError: If the model is in train mode, or the logits are not what its last linear
            layer makes of one vector per sample.
    """
    check_eval(model)
    head = last_linear(model)
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], outputs: Tensor) -> None:
        seen.append((arguments[0], outputs))

    handle = head.register_forward_hook(note) if head else None
    try:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs)
    finally:
        if handle is not None:
            handle.remove()
    if head is None:
        check_eager(model, ScoringError)
    if len(seen) != 1 or seen[0][0].ndim != 2 or seen[0][1].shape != logits.shape:
        raise ScoringError(
            "Expected a model whose logits come from its last linear layer, found "
            f"{type(model).__name__}, where they do not; use a score that reads no embeddings."
        )
    embeddings = seen[0][0]
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()
