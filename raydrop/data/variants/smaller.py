"""Fewer samples: classes with a long tail, thinned classes, and subsets.

Choices are those of one fixed seed, so that all studies of a variant share its data, and the
smaller ones are nested in the larger ones. Groups follow their samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset
from raydrop.data.sampling import SPLIT_SEED, choose_per_class
from raydrop.data.variants.base import Shares, Variant
from raydrop.errors import DataError


@dataclass(frozen=True)
class LongTail(Variant):
    """Class sizes that fall exponentially, from the first class to the last."""

    kind: ClassVar[str] = "long_tail"
    example: ClassVar[str] = "+long_tail(10)"

    factor: float
    """Size of the first class over the size of the last, at least 1."""

    def __post_init__(self) -> None:
        if self.check_number("factor", self.factor) < 1:
            advice = "it is the size of the first class over that of the last"
            self.refuse("a factor of at least 1", self.factor, advice)

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Drop training images so that class sizes follow :func:`long_tail_sizes`.

        Validation and test keep all of theirs.

        Raises:
            DataError: If a class has no training image to start with, or a group would have none.
        """
        sizes = dataset.class_sizes()
        if sizes.min() == 0:
            raise DataError(
                "Expected training images of every class before long_tail, found none of class "
                f"{dataset.class_names[int(sizes.argmin())]!r}; apply long_tail first."
            )
        counts = long_tail_sizes(int(sizes.min()), self.factor, dataset.num_classes)
        labels = dataset.train.labels
        return self.kept(dataset, choose_per_class(labels, counts, SPLIT_SEED, "long_tail"))


def long_tail_sizes(largest: int, factor: float, num_classes: int) -> NDArray[np.int64]:
    """Return the class sizes of a long-tailed training set, (K,); a single class keeps n.

    Class k gets round(n · factor^(-k / (K - 1))) samples, and at least one, where n is the size of
    the first and largest class (the profile of Cui et al. 2019, arXiv 1901.05555).

    Example:
        >>> long_tail_sizes(1000, 100, 3)
        array([1000,  100,   10])
    """
    exponents = np.arange(num_classes) / max(num_classes - 1, 1)
    return np.maximum(np.rint(largest * float(factor) ** -exponents), 1).astype(np.int64)


@dataclass(frozen=True, init=False)
class Thinned(Variant):
    """Some classes with fewer training images than there are."""

    kind: ClassVar[str] = "thinned"
    example: ClassVar[str] = "+thinned(cat=0.2, dog=0.2)"

    shares: Shares
    """Of its images that stay, by class, in (0, 1]."""

    def __init__(self, **shares: float) -> None:
        object.__setattr__(self, "shares", self.checked_shares(shares))
        for name, share in self.shares:
            if share == 0:
                self.refuse("shares above 0", f"{name}=0")

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Keep a random round(share · n_k) of the n_k training images of each named class.

        Validation and test keep all of theirs. Meyer and Wong 2022 (arXiv 2211.10285) remove 80 %
        of CIFAR-10's cats and dogs in this way.

        Raises:
            ConfigError: If there is no such class.
            DataError: If a class or group would have no training image left.
        """
        shares = self.share_by_class(dataset, self.shares, rest=1.0)
        sizes = dataset.class_sizes()
        counts = np.array([round(s * n) for s, n in zip(shares, sizes, strict=True)], np.int64)
        labels = dataset.train.labels
        return self.kept(dataset, choose_per_class(labels, counts, SPLIT_SEED, "thinned"))


@dataclass(frozen=True)
class Subset(Variant):
    """At most so many images of each class."""

    kind: ClassVar[str] = "subset"
    example: ClassVar[str] = "+subset(500, test=100)"

    n: int
    """Training images per class, at most."""
    test: int | None = None
    """Images per class in validation and in test each, at most; None where they are :attr:`n`."""

    def __post_init__(self) -> None:
        self.make_whole("n", least=1)
        if self.test is not None:
            self.make_whole("test", least=1)
        if self.test == self.n:
            object.__setattr__(self, "test", None)

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Keep a random choice of each class in each split.

        Raises:
            DataError: If a group would lose its last image in a split.
        """
        held_out = self.n if self.test is None else self.test
        train, validation, test = (
            _at_most(dataset, name, self.n if name == "train" else held_out)
            for name in dataset.splits()
        )
        return self.kept(
            dataset,
            train,
            validation=dataset.validation.take(validation),
            test=dataset.test.take(test),
        )


def _at_most(dataset: ImageDataset, split: str, count: int) -> NDArray[np.int64]:
    sizes = dataset.class_sizes(split)
    counts = np.minimum(sizes, min(count, int(sizes.max())))
    return choose_per_class(dataset.members("class", split), counts, SPLIT_SEED, f"subset/{split}")
