"""What scores read of a sample at a checkpoint, each quantity declared once.

Shards compute what is declared here, sources keep it, and the plan counts what it takes. g_i is
the gradient of sample i's own loss over all trainable parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raydrop.data.inputs import Inputs, leaves
from raydrop.errors import ScoringError
from raydrop.models import check_eager
from raydrop.scores.gradients import (
    last_layer_only,
    last_linear,
    per_sample_dot,
    per_sample_norm,
)
from raydrop.scores.gradients.checks import check_eval
from raydrop.study import ScoringPrecision

Task = Literal["gradient_sum", "norm", "last_layer_norm", "dot", "embedding"]
"""What is computed of a shard: sum_i g_i, (P,), or the values of each sample."""
QuantityName = Literal[
    "norm", "last_layer_norm", "dot_with_mean", "dot_with_class_mean", "embedding"
]


@torch.no_grad()
def embeddings_of(
    model: nn.Module, inputs: Inputs, *, precision: ScoringPrecision = "fp32"
) -> Tensor:
    """Return z (B, D), in float32 or wider, of which the logits are W z_i + b in the last layer.

    The head is the model's last linear layer in the order of its modules. The model is in eval
    mode, and runs in its own precision or, for ``bf16``, under autocast.
    """
    check_eval(model)
    head = last_linear(model)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = head and head.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0], y)))
    device = leaves(inputs)[0].device.type
    try:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs)
    finally:
        if handle:
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


def _last_layer_norms(model: nn.Module, *batch: Tensor, precision: ScoringPrecision) -> Tensor:
    with last_layer_only(model):
        return per_sample_norm(model, *batch, precision=precision)


@dataclass(frozen=True)
class Quantity:
    """Values of a sample at a checkpoint, and the facts that others go by."""

    task: Task
    """How shards compute it."""
    compute: Callable[..., Tensor]
    """From a model, images, labels, a direction where it takes one, and ``precision`` to values
    (B,) or (B, R)."""
    mean_over: Literal["none", "all", "class"] = "none"
    """Samples whose mean gradient is the direction: none where it takes none, all that the query
    run covers, or those of one class among them."""
    reads_last_layer: bool = False
    """Whether it is read off the last linear layer alone, by a forward pass."""
    rows: int | None = 1
    """R, the values of a sample; None where the model says how many."""


QUANTITIES: Mapping[QuantityName, Quantity] = {
    # || g_i ||
    "norm": Quantity("norm", per_sample_norm),
    # the same over the last layer's parameters alone
    "last_layer_norm": Quantity("last_layer_norm", _last_layer_norms, reads_last_layer=True),
    # <G, g_i>, with G the mean gradient of the samples that the query run covers
    "dot_with_mean": Quantity("dot", per_sample_dot, "all"),
    # <G_c, g_i>, with G_c that of one class among them
    "dot_with_class_mean": Quantity("dot", per_sample_dot, "class"),
    # the input of the last linear layer
    "embedding": Quantity(
        "embedding",
        lambda m, x, _, **how: embeddings_of(m, x, **how),
        reads_last_layer=True,
        rows=None,
    ),
}

PER_SAMPLE: Mapping[Task, Quantity] = {each.task: each for each in QUANTITIES.values()}
"""Quantities by what shards call them, where only the direction makes a difference."""
