"""From scores and quotas to kept indices."""

from __future__ import annotations

import contextlib
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from raydrop.errors import ConfigError
from raydrop.selection.checks import (
    FloatArray,
    IntArray,
    as_array,
    checked_budget,
    checked_counts,
    checked_floors,
    numbers,
    whole_numbers,
)


def budget_for(n: int, keep_fraction: float) -> int:
    """Return how many of ``n`` samples a keep fraction stands for: rounded half up, at least 1.

    The fraction, in (0, 1], is taken as it is written: 0.29 of 50 is 14.5 and gives 15, although
    the binary product lies below.

    Example:
        >>> budget_for(50, 0.29)
        15
    """
    if n < 1:
        raise ConfigError(f"Expected at least 1 sample, found {n}; give the training set's size.")
    if not 0.0 < keep_fraction <= 1.0:
        raise ConfigError(
            f"Expected keep_fraction in (0, 1], found {keep_fraction}; "
            "it is the share of the training set that remains."
        )
    narrow = isinstance(keep_fraction, np.floating)  # whose digits are fewer than a float's
    exact = Decimal(str(keep_fraction) if narrow else repr(float(keep_fraction))) * int(n)
    return max(1, int(exact.to_integral_value(ROUND_HALF_UP)))


def select(
    scores: ArrayLike,
    labels: ArrayLike,
    budget: int,
    quotas: ArrayLike | None = None,
    *,
    higher_is_kept: bool = True,
    minimum_per_class: int = 0,
    tie_seed: int = 0,
) -> IntArray:
    """Return the indices of the samples to keep, (budget,), ascending.

    Without quotas, the best samples of each class up to ``minimum_per_class`` are kept first, and
    the best of all others fill the budget. With quotas, each class keeps its quota of best samples.

    Samples of equal score (many, with methods that count events) are ordered by a fixed
    pseudo-random permutation of the sample indices, drawn from ``tie_seed`` and ``n`` alone. Data
    sets are often stored class by class, and preferring low indices would then prefer some classes.
    The permutation does not depend on the budget, so a larger budget keeps a superset.

    Args:
        scores: One score per sample, shape (n,); infinite ones are allowed.
        labels: Class of each sample, shape (n,): whole numbers of at least 0, or texts, whose
            classes are in the order of the numbers, where all are numbers, otherwise of the texts.
        budget: Samples to keep, from 0 to n.
        quotas: Samples to keep of each class, shape (K,), summing to ``budget``; of labels that are
            texts, one for each that occurs. None ranks the samples of all classes together.
        higher_is_kept: Whether a higher score is kept rather than a lower one.
        minimum_per_class: Samples that each class keeps at least (all of a smaller class). Quotas
            must honour it already.
        tie_seed: Seed of the order of samples with equal scores.

    Raises:
        ConfigError: If a score is NaN, or if scores, labels, budget, quotas and minimum do not fit
            together.

    Example:
        >>> select([0.1, 0.9, 0.8, 0.2], [0, 0, 0, 1], budget=2, quotas=[1, 1]).tolist()
        [1, 3]
    """
    values = checked_scores(scores)
    classes, names = checked_labels(labels, values.size)
    budget = checked_budget(budget, values.size)
    allowed = None if quotas is None else checked_counts("quotas", quotas, names)
    classes = _within(classes, names, allowed)
    sizes = np.bincount(classes, minlength=0 if allowed is None else allowed.size)
    floors = checked_floors(minimum_per_class, sizes, budget)
    order = best_first(values, higher_is_kept=higher_is_kept, tie_seed=tie_seed)
    if allowed is not None:
        if allowed.sum() != budget:
            raise ConfigError(
                f"Expected quotas that sum to the budget of {budget}, found a sum of "
                f"{allowed.sum()}; compute them for this budget."
            )
        wrong = np.flatnonzero((allowed > sizes) | (allowed < floors))
        if wrong.size:
            k = wrong[0]
            raise ConfigError(
                f"Expected a quota from {floors[k]} to {sizes[k]} for class {k}, found "
                f"{allowed[k]}; compute the quotas with these labels and this minimum per class."
            )
        return np.sort(_best_of_each(order, classes, sizes, allowed))
    rest = np.ones(values.size, dtype=bool)
    rest[_best_of_each(order, classes, sizes, floors)] = False
    return np.sort(order[np.argsort(rest[order], kind="stable")[:budget]])


def best_first(scores: ArrayLike, *, higher_is_kept: bool = True, tie_seed: int = 0) -> IntArray:
    """Return all samples in the order in which :func:`select` takes them, (n,)."""
    values = checked_scores(scores)
    tie = np.random.default_rng(tie_seed).permutation(values.size)
    return np.lexsort((tie, -values if higher_is_kept else values))


def _best_of_each(order: IntArray, labels: IntArray, sizes: IntArray, quotas: IntArray) -> IntArray:
    """Return the first ``quotas[k]`` samples of each class in some order of all of them."""
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(labels.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[place < np.repeat(quotas, sizes)]


def checked_scores(scores: ArrayLike) -> FloatArray:
    """Return one number per sample, (N,), none of them NaN."""
    values = numbers("scores", scores)
    if values.ndim != 1:
        raise ConfigError(
            f"Expected one score per sample, found an array of shape {values.shape}; "
            "reduce it to one number per sample."
        )
    missing = np.flatnonzero(np.isnan(values))
    if missing.size:
        raise ConfigError(
            f"Expected a score for every sample, found NaN for {missing.size} of {values.size}, "
            f"first at index {missing[0]}; score them again."
        )
    return values


def checked_labels(
    labels: ArrayLike, num_samples: int, what: str = "label"
) -> tuple[IntArray, list[Any] | None]:
    """Return the number of each sample's class and, where labels are texts, all in their order."""
    array = as_array(f"{what}s", labels)
    if array.shape != (num_samples,):
        raise ConfigError(
            f"Expected one {what} for each of {num_samples} scores, found an array of shape "
            f"{array.shape}; pass scores and {what}s of the same samples."
        )
    if array.dtype.kind == "O":
        texts = any(all(isinstance(each, kind) for each in array) for kind in (str, bytes))
    else:
        texts = array.dtype.kind in "UST"
    if texts:
        distinct, codes = np.unique(array, return_inverse=True)
        names = distinct.tolist()
        with contextlib.suppress(ValueError):
            values = [float(name) for name in names]
            if np.isfinite(values).all():
                order = sorted(range(len(names)), key=lambda k: (values[k], names[k]))
                names, codes = [names[k] for k in order], np.argsort(order)[codes]
        return codes.astype(np.int64), names
    classes = whole_numbers(array)
    if classes is None or (classes < 0).any():
        smallest = f" with smallest {array.min()}" if array.dtype.kind in "iuf" else ""
        raise ConfigError(
            f"Expected {what}s to be whole numbers of at least 0, or texts, found "
            f"{array.dtype}{smallest}; number the classes from 0."
        )
    return classes, None


def _within(classes: IntArray, names: list[Any] | None, quotas: IntArray | None) -> IntArray:
    """Return classes that can be counted in little memory, each with a quota if there are any."""
    number = len(names) if names is not None else int(classes.max(initial=-1)) + 1
    if quotas is None:
        return classes if number <= classes.size else np.unique(classes, return_inverse=True)[1]
    if quotas.size < number or (names is not None and quotas.size > number):
        raise ConfigError(
            f"Expected a quota for each of {number} classes, found {quotas.size}; "
            "give one per class."
        )
    return classes
