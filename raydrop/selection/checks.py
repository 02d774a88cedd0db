"""Checks that quotas and selection share; each one returns the value in the form they compute with.

Shapes: ``K`` classes (or groups), ``n`` samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import ConfigError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def checked_counts(name: str, counts: ArrayLike) -> IntArray:
    """Return counts of samples by class as an integer array, shape (K,).

    Raises:
        ConfigError: If they are not a list of whole numbers of at least 0.
    """
    values = np.asarray(counts)
    whole = values.ndim == 1 and np.issubdtype(values.dtype, np.integer)
    if not whole or (values < 0).any():
        found = f"{values.min()}" if whole else f"{values.dtype} of shape {values.shape}"
        raise ConfigError(
            f"Expected {name} to be a list of whole numbers of at least 0, found {found}; "
            "give a number of samples for every class."
        )
    return values.astype(np.int64)


def checked_recalls(recalls: ArrayLike | None, num_classes: int) -> FloatArray:
    """Return recalls as floats, shape (K,).

    Raises:
        ConfigError: If there is not one number in [0, 1] per class.
    """
    values = np.asarray([] if recalls is None else recalls, dtype=np.float64)
    if values.shape != (num_classes,):
        raise ConfigError(
            f"Expected one validation recall for each of {num_classes} classes, found "
            f"{'none' if recalls is None else f'shape {values.shape}'}; "
            "measure every class on validation samples."
        )
    outside = np.flatnonzero(~((values >= 0.0) & (values <= 1.0)))  # NaN fails both
    if outside.size:
        raise ConfigError(
            f"Expected recalls in [0, 1], found {values[outside[0]]} for class {outside[0]} "
            f"({outside.size} of {num_classes} classes); "
            "measure every class on validation samples."
        )
    return values


def checked_budget(budget: int, num_samples: int) -> int:
    """Return the budget as an int.

    Raises:
        ConfigError: If it is not a whole number from 0 to ``num_samples``.
    """
    whole = isinstance(budget, int | np.integer) and not isinstance(budget, bool)
    if not whole or not 0 <= budget <= num_samples:
        raise ConfigError(
            f"Expected a whole budget from 0 to {num_samples}, the number of samples, "
            f"found {budget!r}; give a number of samples that the data set has."
        )
    return int(budget)


def checked_floors(minimum: int, sizes: IntArray, budget: int) -> IntArray:
    """Return what every class keeps at least: min(minimum, N_k), shape (K,).

    Raises:
        ConfigError: If the minimum is not a whole number of at least 0, or if the budget does not
            suffice for it.
    """
    whole = isinstance(minimum, int | np.integer) and not isinstance(minimum, bool)
    if not whole or minimum < 0:
        raise ConfigError(
            f"Expected a whole minimum per class of at least 0, found {minimum!r}; mend it."
        )
    floors = np.minimum(sizes, minimum)
    if floors.sum() > budget:
        raise ConfigError(
            f"Expected a budget of at least {floors.sum()} to keep {minimum} samples in each of "
            f"{sizes.size} classes (all of a smaller one), found {budget}; "
            "lower the minimum per class or keep more."
        )
    return floors
