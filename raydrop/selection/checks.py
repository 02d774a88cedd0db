"""Checks that quotas and selection share; each one returns the value in the form they compute with.

Values may be lists, arrays, series or tensors: whatever NumPy makes an array of. What does not fit
raises a ConfigError.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydrop.errors import ConfigError, in_one_line

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_EXACT = 2.0**53
"""From here on floats are not every whole number."""


def as_array(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return values as an array; what are numbers in Python are numbers in it."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
            array = np.asarray(values, dtype=object)  # or NumPy makes texts of numbers among them
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Expected {name} as a list or an array, found a problem ({in_one_line(error)}); "
            "copy them into an array of NumPy."
        ) from error
    if array.dtype.kind == "O" and not any(isinstance(v, str | bytes) for v in array.flat):
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            return array
    return array


def whole_numbers(array: NDArray[Any]) -> IntArray | None:
    """Return an array as integers, or None where it is of something else."""
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        whole = (np.abs(wide) < _EXACT) & (wide == np.floor(wide))
        return wide.astype(np.int64) if whole.all() else None
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        return None
    return array.astype(np.int64) if array.dtype.kind in "biu" else None


def numbers(name: str, values: ArrayLike) -> FloatArray:
    """Return values as floats."""
    array = as_array(name, values)
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            f"Expected numbers for {name}, found {array.dtype} of shape {array.shape}; "
            "give one number each."
        )
    return array.astype(np.float64, copy=False)


def checked_counts(
    name: str, counts: ArrayLike, class_names: Sequence[Any] | None = None
) -> IntArray:
    """Return counts of samples, whole numbers of at least 0, in the order of the classes, (K,)."""
    array = as_array(name, counts)
    values = whole_numbers(array) if array.ndim == 1 else None
    if values is None or (values < 0).any():
        found = f"{array.dtype} of shape {array.shape}" if values is None else f"{values.min()}"
        raise ConfigError(
            f"Expected {name} to be a list of whole numbers of at least 0, found {found}; "
            "give a number of samples for every class."
        )
    _check_order(name, counts, class_names)
    return values


def checked_recalls(recalls: ArrayLike | None, num_classes: int) -> FloatArray:
    """Return one number in [0, 1] per class, (K,)."""
    values = numbers("recalls", [] if recalls is None else recalls)
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
    _check_order("recalls", recalls, None)
    return values


def checked_budget(budget: int, num_samples: int) -> int:
    """Return a whole number from 0 to ``num_samples`` as an int."""
    whole = _whole(budget)
    if whole is None or not 0 <= whole <= num_samples:
        raise ConfigError(
            f"Expected a whole budget from 0 to {num_samples}, the number of samples, "
            f"found {_shown(budget)}; give a number of samples that the data set has."
        )
    return whole


def checked_floors(minimum: int, sizes: IntArray, budget: int) -> IntArray:
    """Return what every class keeps at least: min(minimum, N_k), (K,); the budget suffices."""
    whole = _whole(minimum)
    if whole is None or whole < 0:
        raise ConfigError(
            f"Expected a whole minimum per class of at least 0, found {_shown(minimum)}; mend it."
        )
    floors = np.minimum(sizes, whole)
    if floors.sum() > budget:
        raise ConfigError(
            f"Expected a budget of at least {floors.sum()} to keep {minimum} samples in each of "
            f"{sizes.size} classes (all of a smaller one), found {budget}; "
            "lower the minimum per class or keep more."
        )
    return floors


def _whole(value: Any) -> int | None:
    """Return a whole number of any library as an int, or None where it is something else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:80]


def _check_order(name: str, values: Any, class_names: Sequence[Any] | None) -> None:
    """Refuse a series whose index says that it is in another order than the classes."""
    index = getattr(values, "index", None)
    if index is None or callable(index):
        return
    found = np.asarray(index).tolist()
    numbered = class_names is None and all(isinstance(each, int) for each in found)
    expected = range(len(found)) if numbered else class_names
    if expected is not None and found != list(expected):
        raise ConfigError(
            f"Expected {name} in the order of the classes, found an index of {_shown(found)}; "
            "sort it as the classes are, such as with .sort_index()."
        )
