"""What a trained network says of a split, without augmentation and in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches
from raydrop.training.halving import Halving

EVALUATION_BATCH = 256
"""Samples per forward pass; fixed, so that results do not depend on the training batch."""


@torch.no_grad()
def logits_in_order(model: nn.Module, batches: Batches, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, K) in float32 and labels (B,) of all ``n`` samples, in order.

    The model is put in eval mode and back in the mode that it was in. Where memory runs out, the
    samples are yielded in smaller parts; see :mod:`raydrop.training.halving` on what that changes.

    Raises:
        NoMemoryError: If a single sample does not fit into memory.
    """
    was_training, halving = model.training, Halving()

    model.eval()
    try:
        for inputs, labels in batches(torch.arange(n).split(EVALUATION_BATCH)):
            yield from halving(
                lambda inputs, labels: (model(inputs).float(), labels), inputs, labels
            )
    finally:
        model.train(was_training)


def predict(model: nn.Module, batches: Batches, n: int) -> NDArray[np.int32]:
    """Return the predicted class of each of ``n`` samples, (n,) int32."""
    parts = [logits.argmax(1) for logits, _ in logits_in_order(model, batches, n)]
    return torch.cat(parts).to("cpu", torch.int32).numpy()


def predictions_and_probabilities(
    model: nn.Module, batches: Batches, n: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the predicted class, (n,) int32, and the softmax probabilities, (n, K) float32.

    The classes are those that :func:`predict` returns, bit for bit; they are taken from the logits,
    since probabilities may tie where logits do not.
    """
    classes, probabilities = list[Tensor](), list[Tensor]()
    for logits, _ in logits_in_order(model, batches, n):
        classes.append(logits.argmax(1).to("cpu", torch.int32))
        probabilities.append(logits.softmax(1).cpu())
    return torch.cat(classes).numpy(), torch.cat(probabilities).numpy()
