"""Labels, groups and splits in whatever form people have them, as numbers from 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.loaders.files import split_number
from raydrop.errors import DataError, unknown_name

Codes = dict[str, NDArray[np.int64]]
"""Numbers from 0, (n,), by split."""
SPLIT_NAMES = ("train", "validation", "test")


def coded(
    noun: str, parts: Mapping[str, Any], names: Sequence[str] | None
) -> tuple[Codes, tuple[str, ...]]:
    """Return labels or groups of each split as numbers from 0, and their names.

    They are numbers already, or texts, which are numbered in the order of the names, or of the
    alphabet.

    Raises:
        DataError: If one is missing, out of range or not among the names.
    """
    arrays = {split: _values(noun, split, values) for split, values in parts.items()}
    total = sum(map(len, arrays.values()))
    if all(array.dtype.kind == "i" for array in arrays.values()):
        highest = max(int(array.max()) for array in arrays.values())
        count = len(names) if names is not None else highest + 1
        for split, array in arrays.items():
            wrong = array[(array < 0) | (array >= min(count, total))]
            if len(wrong):
                raise DataError(
                    f"Expected {noun}s from 0 to {min(count, total) - 1} in {split}, found "
                    f"{wrong[0]}; number the {'classes' if noun == 'label' else 'groups'} from 0, "
                    "or give their names as texts."
                )
        absent = set(range(count)).difference(*(array.tolist() for array in arrays.values()))
        if absent and names is None:
            raise DataError(
                f"Expected every number from 0 to {count - 1} among the {noun}s, found no "
                f"{min(absent)}; number them one after the other, or give texts."
            )
        return arrays, tuple(map(str, range(count) if names is None else names))
    texts = {split: array.astype(str) for split, array in arrays.items()}
    known = sorted(set().union(*(set(array.tolist()) for array in texts.values())))
    known = known if names is None else [str(name) for name in names]
    numbers = {name: number for number, name in enumerate(known)}
    for split, array in texts.items():
        for value in array.tolist():
            if value not in numbers:
                raise unknown_name(f"{noun} in {split}", value, known)
    codes = {
        split: np.array([numbers[value] for value in array.tolist()], np.int64)
        for split, array in texts.items()
    }
    return codes, tuple(known)


def _values(noun: str, split: str, values: Any) -> NDArray[Any]:
    """Return labels or groups as whole numbers or texts, (n,)."""
    if isinstance(values, list | tuple):
        values = [value.item() if getattr(value, "shape", 0) == () else value for value in values]
    elif hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty((len(values), 0))
    if array.ndim != 1:
        raise DataError(
            f"Expected one {noun} per sample in {split}, found an array of shape {array.shape}; "
            "items are (inputs, label) or (inputs, label, group), and one sample has one class."
        )
    # Whatever stands for a missing value is not equal to itself, but for None.
    missing = [at for at, value in enumerate(array.tolist()) if value is None or value != value]
    if missing:
        raise DataError(
            f"Expected a {noun} of every sample in {split}, found none of sample {missing[0]}; "
            "give it one, or leave it out."
        )
    if array.dtype.kind in "bui":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        wrong = array[array != np.rint(array)]
        if len(wrong):
            raise DataError(
                f"Expected {noun}s as whole numbers or texts in {split}, found {wrong[0]:g}; "
                "number the classes from 0."
            )
        return array.astype(np.int64)
    return array.astype(str)


def coded_groups(
    parts: Mapping[str, Any], names: Sequence[str] | None
) -> tuple[Codes | None, tuple[str, ...]]:
    """Return groups of each split as numbers from 0, and their names; None where there are none."""
    without = [split for split, groups in parts.items() if groups is None]
    if len(without) == len(parts):
        return None, ()
    if without:
        raise DataError(
            f"Expected groups in every split or in none, found none in {without[0]}; give every "
            "sample one."
        )
    return coded("group", parts, names)


def split_codes(split: Any) -> NDArray[np.int64]:
    """Return 0 for each sample of train, 1 of validation, 2 of test, (n,)."""
    values = _values("split", "all", split)
    if values.dtype.kind == "i":
        numbers = {number: number for number in range(3)}
        found = [numbers.get(value) for value in values.tolist()]
    else:
        found = [{"0": 0, "1": 1, "2": 2}.get(v, split_number(v)) for v in values.tolist()]
    if None in found:
        raise unknown_name("split", str(values[found.index(None)]), SPLIT_NAMES)
    return np.array(found, np.int64)
