"""The trace of a query run: what every training sample looked like after every epoch.

Every score that needs training dynamics reads this one trace, so a query model is trained once
however many methods are compared. It is taken in eval mode and without augmentation, after the
epoch's last step, at the cost of one forward pass per epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches
from raydrop.training.evaluate import logits_in_order


@dataclass(frozen=True, eq=False)
class Trace:
    """Per-epoch, per-sample observations; all arrays (E, N), epochs by training samples.

    Of people's own loops some samples may be missing in some epochs: NaN, and not correct, there.
    """

    probability: NDArray[np.float32]
    """Softmax probability of the true class."""
    correct: NDArray[np.bool_]
    """Whether the true class has the largest logit."""
    margin: NDArray[np.float16]
    """z_y - max_{k != y} z_k on logits. Half precision: it is only ever averaged over epochs."""
    error_norm: NDArray[np.float32]
    """|| softmax(z) - onehot(y) ||_2."""
    entropy: NDArray[np.float32]
    """-sum_k p_k log p_k, in nats."""

    @property
    def epochs(self) -> int:
        """Number recorded."""
        return len(self.probability)

    def as_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by name, for the store."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Trace:
        """Rebuild a trace from :meth:`as_arrays`, memory-mapped arrays included."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})  # type: ignore[arg-type]

    @classmethod
    def empty(cls, epochs: int, n: int) -> Trace:
        """Return a trace of the right size, to be filled row by row."""
        kinds = {"correct": np.bool_, "margin": np.float16}
        names = (field.name for field in fields(cls))
        return cls.from_arrays({k: np.empty((epochs, n), kinds.get(k, np.float32)) for k in names})

    def record(self, epoch: int, model: nn.Module, batches: Batches) -> None:
        """Fill row ``epoch`` (from 0) with what the model says now of every sample."""
        start = 0
        for logits, labels in logits_in_order(model, batches, self.probability.shape[1]):
            rows = slice(start, start + len(labels))
            for name, values in observe(logits, labels).items():
                getattr(self, name)[epoch, rows] = values.cpu().numpy()
            start = rows.stop


def observe(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the observations of a batch: logits (B, K), labels (B,), each result (B,)."""
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    true = labels[:, None]
    others = logits.scatter(1, true, -torch.inf).amax(1)
    margin = logits.gather(1, true).squeeze(1) - others
    return {
        "probability": p.gather(1, true).squeeze(1),
        "correct": logits.argmax(1) == labels,
        # Beyond the range of half precision a margin says no more than its largest number does.
        "margin": margin.clamp(-65504, 65504),
        "error_norm": p.scatter_add(1, true, -torch.ones_like(p[:, :1])).norm(dim=1),
        "entropy": -(p * log_p).sum(1),
    }
