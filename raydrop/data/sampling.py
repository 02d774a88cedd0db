"""Random choices that every machine and every NumPy release makes alike.

NumPy may change what ``Generator.permutation`` draws between releases, but never the raw stream of
a bit generator. Permutations are therefore the order of raw 64-bit draws, so that splits and
variants stay what they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import DataError
from raydrop.study import By, derive_seed

SPLIT_SEED = 0
"""Seed of splits, and of variants that take none: all studies of a data set share its samples."""


def raw_draws(count: int, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return ``count`` independent uniform 64-bit numbers, (count,), for one seed and purpose.

    Example:
        >>> raw_draws(2, seed=0, purpose="doctest")
        array([17426834624969975105,  8528814535082494631], dtype=uint64)
    """
    return np.random.PCG64(derive_seed(seed, purpose)).random_raw(count)


def shuffled(count: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Return a uniformly random permutation of 0...count-1, (count,), as int64."""
    return np.argsort(raw_draws(count, seed, purpose), kind="stable").astype(np.int64)


def class_members(labels: NDArray[np.int64], num_classes: int) -> list[NDArray[np.int64]]:
    """Return the positions of each class 0...K-1 of labels (n,), in ascending order: K arrays."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    return np.split(order, ends[:-1])


def shuffled_members(
    labels: NDArray[np.int64], num_classes: int, seed: int, purpose: str
) -> list[NDArray[np.int64]]:
    """Return the positions of each class in random order: K arrays.

    The order within a class depends on its size, the seed and the purpose alone, so that the first
    m of a class are among its first m + 1: smaller choices are nested in larger ones.
    """
    members = class_members(labels, num_classes)
    return [m[shuffled(len(m), seed, f"{purpose}/{k}")] for k, m in enumerate(members)]


def choose_per_class(
    labels: NDArray[np.int64], counts: NDArray[np.int64], seed: int, purpose: str
) -> NDArray[np.int64]:
    """Return the ascending positions of a random choice of ``counts[k]`` samples of each class k.

    Of a class that is smaller, all are chosen. Choices of the same seed and purpose are nested.
    """
    members = shuffled_members(labels, len(counts), seed, purpose)
    return np.sort(np.concatenate([m[:count] for m, count in zip(members, counts, strict=True)]))


def halves(
    held_out: NDArray[np.int64], units: NDArray[np.int64], names: tuple[str, ...], kind: By
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of two random halves of a test set: validation and what stays test.

    The test set is at some positions, (m,), of samples with a class or group each, (n,), which is
    halved by itself; of an odd number, the test half gets one more. DRoP validates on half of the
    test set in the same way (Vysogorets et al. 2024, arXiv 2404.05579).
    """
    units = units[held_out]
    sizes = np.bincount(units, minlength=len(names))
    for name, size in zip(names, sizes, strict=True):
        if size < 2:
            raise DataError(
                f"Expected at least two test images of every {kind}, one of which becomes "
                f"validation, found {size} of {kind} {name!r}; add test images or separate "
                "validation images."
            )
    chosen = choose_per_class(units, sizes // 2, SPLIT_SEED, "halves")
    return held_out[chosen], held_out[np.setdiff1d(np.arange(len(units)), chosen)]
