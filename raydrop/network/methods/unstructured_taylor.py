"""First-order change of the loss without a weight (Molchanov et al. 2019, arXiv 1906.10771)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raydrop.network.base import Pruned, PruningTask
from raydrop.network.masks import mask_by_scores
from raydrop.network.methods.derivatives import weight_gradients


def absolute_changes(products: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``sum_b |w dL_b/dw|`` of each weight, of its shape in float64.

    Args:
        products: For each batch b, ``w * dL_b/dw`` by the name of the weight.
    """
    sums: dict[str, Tensor] = {}
    for batch in products:
        for name, product in batch.items():
            change = product.double().abs()
            sums[name] = sums[name] + change if name in sums else change
    return sums


@dataclass(frozen=True)
class UnstructuredTaylor:
    """Weights that change the loss least are masked first, all layers ranked together."""

    batches: float = 10.0
    """Batches whose changes are summed."""
    structured: ClassVar[bool] = False
    reads_data: ClassVar[bool] = True

    def prune(self, task: PruningTask) -> Pruned:
        """Return the masked network; see :class:`raydrop.network.base.NetworkMethod`."""
        products = weight_gradients(task, int(self.batches))
        return mask_by_scores(task, absolute_changes(products))
