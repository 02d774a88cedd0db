"""What the dense network says of training samples, for losses that compare with it.

Where inputs are not augmented its logits are computed once and kept (:func:`reference_logits`,
:class:`StoredReference`); otherwise it sees every augmented view (:class:`ModelReference`).
Either way no gradient reaches it.

Shapes: ``N`` samples of a split, ``B`` samples of a batch, ``K`` classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches
from raydrop.data.inputs import Inputs, leaves
from raydrop.errors import ConfigError
from raydrop.training.evaluate import logits_in_order
from raydrop.training.halving import Halving

Reference = Callable[[Any, Tensor], Tensor]
"""Gives the dense network's logits (B, K), in float32 on the inputs' device and without gradient,
for inputs (B, ...) as the network under training sees them, and the positions of the samples in
the split, (B,) int64 on the CPU."""


class StoredReference:
    """Logits that were computed before, for inputs that are the same in every epoch."""

    def __init__(self, logits: NDArray[np.floating[Any]]) -> None:
        """Take the logits of every sample of the split by its position, (N, K), mapped or not."""
        if logits.ndim != 2 or not np.isfinite(logits).all():
            raise ConfigError(
                "Expected finite reference logits of samples by classes, found "
                f"{'shape ' + str(logits.shape) if logits.ndim != 2 else 'some that are not'}; "
                "compute them with reference_logits from a network whose training did not diverge."
            )
        self._logits = logits

    def __call__(self, inputs: Inputs, positions: Tensor) -> Tensor:
        """Return the rows of a batch."""
        rows = self._logits[positions.cpu().numpy()].astype(np.float32, copy=False)
        return torch.from_numpy(rows).to(leaves(inputs)[0].device, non_blocking=True)


class ModelReference:
    """A copy of the dense network, in eval mode, which sees every view of an image."""

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._halving = Halving()

    @torch.no_grad()
    def __call__(self, inputs: Inputs, positions: Tensor) -> Tensor:
        """Return the network's logits, in parts where memory runs out."""
        parts = self._halving(lambda part, _: self._model(part).float(), inputs, positions)
        return torch.cat(parts)


def reference_logits(model: nn.Module, batches: Batches, n: int) -> NDArray[np.float32]:
    """Return the logits of all ``n`` samples of a split, (n, K); see :func:`logits_in_order`."""
    parts = [logits.cpu() for logits, _ in logits_in_order(model, batches, n)]
    return torch.cat(parts).numpy()
