"""Fewer samples: classes with a long tail, thinned classes, and subsets; and false labels.

Choices of samples are those of one fixed seed, so that all studies of a variant share its data, and
the smaller ones are nested in the larger ones. Groups follow their samples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import LabelledDataset
from raydrop.data.sampling import SPLIT_SEED, choose_per_class, raw_draws, shuffled
from raydrop.data.variants.base import Shares, Variant
from raydrop.errors import ConfigError, DataError


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

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Drop training images alone, so that class sizes follow :func:`long_tail_sizes`."""
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

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Keep a random round(share · n_k) of the n_k training images of each named class.

        Validation and test keep all of theirs. Meyer and Wong 2022 (arXiv 2211.10285) remove 80 %
        of CIFAR-10's cats and dogs in this way.
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

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Keep a random choice of each class in each split."""
        chosen = dict[str, NDArray[np.int64]]()
        for name, split in dataset.splits().items():
            most = self.n if name == "train" or self.test is None else self.test
            sizes = dataset.class_sizes(name)
            counts = np.minimum(sizes, min(most, int(sizes.max())))
            purpose = f"subset/{name}"
            chosen[name] = choose_per_class(split.labels, counts, SPLIT_SEED, purpose)
        validation = dataset.validation.take(chosen["validation"])
        return self.kept(dataset, chosen["train"], validation, dataset.test.take(chosen["test"]))


@dataclass(frozen=True)
class LabelNoise(Variant):
    """Training labels of which a share is false."""

    kind: ClassVar[str] = "label_noise"
    example: ClassVar[str] = "+label_noise(0.2, seed=1)"

    rate: float
    """Share of the training labels that become false, in [0, 1]."""
    seed: int = 0
    """Seed of which labels, and what they become."""

    def __post_init__(self) -> None:
        advice = "it is the share of training labels that become false"
        self.check_share("rate", self.rate, "rate", advice)
        self.make_whole("seed", least=0)

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Falsify exactly round(rate · N) training labels and mark them in ``noisy``.

        Labels that an earlier ``label_noise`` changed stay marked. Validation and test keep theirs.
        Groups stay too: they say what is true of a sample, not what its label claims.
        """
        train, classes = dataset.train, dataset.num_classes
        if classes < 2:
            raise ConfigError(
                f"Expected two classes or more for label_noise, found {classes}; leave it out."
            )
        labels, changed = falsify(train.labels, self.rate, classes, self.seed)
        if dataset.noisy is not None:
            changed = changed | dataset.noisy
        falsified = dataclasses.replace(train, labels=labels)
        self.check_none_emptied(dataset, falsified)
        return dataset.derive(f"{dataset.name}+{self}", train=falsified, noisy=changed)


def falsify(
    labels: NDArray[np.int64], rate: float, num_classes: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Replace exactly round(rate · N) of labels (N,) by another class of K >= 2, drawn uniformly.

    With the same seed, labels changed at a lower rate are changed alike at a higher one.

    Returns:
        The new labels, (N,), and which of them changed, (N,) bool.
    """
    chosen = shuffled(len(labels), seed, "label_noise/which")[: round(rate * len(labels))]
    # A step of 1...K-1 around the circle of classes never ends where it began.
    steps = 1 + raw_draws(len(labels), seed, "label_noise/class") % np.uint64(num_classes - 1)
    changed = np.zeros(len(labels), bool)
    changed[chosen] = True
    moved = (labels + steps.astype(np.int64)) % num_classes
    return np.where(changed, moved, labels), changed
