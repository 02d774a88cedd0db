"""Stratified random parts of a training set, one for each surrogate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.data.sampling import shuffled_members
from raydrop.errors import ConfigError


def stratified_partitions(
    labels: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Cut a training set at random into parts that all look like it.

    The samples of each class, in random order, are dealt out to the parts in turn, and each class
    goes on where the one before ended. So the parts differ by at most one sample, over all and
    within every class; a class of fewer samples than parts is absent from some of them. Contiguous
    parts would not do: data sets are often stored class by class.
    Same seed, same parts, on any machine.

    Returns:
        As many arrays of ascending positions, which together hold each of 0...N-1 once.

    Raises:
        ConfigError: If there are fewer samples than parts.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
        >>> [labels[part].tolist() for part in stratified_partitions(labels, 2, seed=0)]
        [[0, 0, 1, 1], [0, 0, 1, 2]]
    """
    if len(labels) < count:
        raise ConfigError(
            f"Expected at least {count} training samples, one for each partition, found "
            f"{len(labels)}; lower partitions."
        )
    members = shuffled_members(labels, int(labels.max()) + 1, seed, f"partitions/{count}")
    dealt = np.concatenate(members)
    return tuple(np.sort(dealt[part::count]) for part in range(count))
