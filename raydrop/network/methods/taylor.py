"""First-order change of the loss without a filter (Molchanov et al. 2019, arXiv 1906.10771)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raydrop.network import adapter
from raydrop.network.base import Pruned, PruningTask
from raydrop.network.methods.derivatives import weight_gradients


def squared_changes(products: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``mean_b (sum_j w_ij dL_b/dw_ij)^2`` of each filter i, (out_channels,) in float64.

    Args:
        products: For each batch b, ``w * dL_b/dw`` by the name of the weight; L_b is the batch's
            loss, over which the square is taken before the mean.
    """
    sums: dict[str, Tensor] = {}
    number = 0
    for number, batch in enumerate(products, start=1):  # noqa: B007 - how many there were
        for name, product in batch.items():
            squares = product.double().flatten(1).sum(dim=1).square()
            sums[name] = sums[name] + squares if name in sums else squares
    return {name: total / number for name, total in sums.items()}


@dataclass(frozen=True)
class Taylor:
    """Filters whose weights change the loss least go first.

    The scores estimate changes of one loss, so they compare across layers as they are and those of
    coupled filters are summed.
    """

    batches: float = 10.0
    """Batches whose squared changes are averaged."""
    structured: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True

    def prune(self, task: PruningTask) -> Pruned:
        """Return the pruned network; see :class:`raydrop.network.base.NetworkMethod`."""
        scores = squared_changes(weight_gradients(task, int(self.batches)))
        names = adapter.prunable(task)
        return adapter.cut_by_scores(
            task, {name: scores[f"{name}.weight"] for name in names}, combine="sum"
        )
