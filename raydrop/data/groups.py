"""Groups from labels and attributes, as in "waterbird on land"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def crossed(
    labels: NDArray[np.int64], attributes: NDArray[np.int64], num_attributes: int
) -> NDArray[np.int64]:
    """Return the group of each sample, label times attribute, (n,).

    Group k · A + a holds the samples of class k whose attribute is a, as in Sagawa et al. 2020
    (arXiv 1911.08731).

    Args:
        labels: Classes 0...K-1, (n,).
        attributes: Attributes 0...A-1, (n,).
        num_attributes: A.
    """
    return labels * num_attributes + attributes


def without_empty(
    groups: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number anew those groups that have a sample, in the same order.

    Args:
        groups: Groups 0...G-1, (n,).
        names: Names of the G groups.

    Returns:
        The new groups, (n,), and the names of those that are left.

    Example:
        >>> without_empty(np.array([3, 1, 3]), ["a", "b", "c", "d"])
        (array([1, 0, 1]), ('b', 'd'))
    """
    present, codes = np.unique(groups, return_inverse=True)
    return codes.astype(np.int64), tuple(names[group] for group in present.tolist())
