"""What all variants have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from raydrop.data.arguments import Called
from raydrop.data.dataset import LabelledDataset, Split
from raydrop.errors import ConfigError, DataError, unknown_name

Shares = tuple[tuple[str, float], ...]
"""Name, or number from 0, of some classes, and a share of each in [0, 1]; sorted."""


class Variant(Called):
    """Turns a data set into another one with the same ids."""

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Return the variant of a data set."""
        raise NotImplementedError

    def checked_shares(self, shares: Mapping[str, float]) -> Shares:
        """Return shares of classes, sorted, or refuse what is none."""
        if not shares:
            self.refuse("a share of at least one class", "none", f"write {self.example}")
        for name, share in shares.items():
            self.check_share(name, share)
        return tuple(sorted(shares.items()))

    def share_by_class(self, dataset: LabelledDataset, shares: Shares, rest: float) -> list[float]:
        """Return the share of every class, (K,): ``rest`` of those that are not named."""
        numbers = {str(number): number for number in range(dataset.num_classes)}
        numbers |= {name: number for number, name in enumerate(dataset.class_names)}
        found = dict[int, float]()
        for name, share in shares:
            if name not in numbers:
                raise unknown_name(f"class of {dataset.name}", name, dataset.class_names)
            if numbers[name] in found:
                raise ConfigError(
                    f"Expected each class once in {self}, found {name!r} twice, by name and by "
                    "number; leave one out."
                )
            found[numbers[name]] = share
        return [found.get(number, rest) for number in range(dataset.num_classes)]

    def kept(
        self,
        dataset: LabelledDataset,
        positions: NDArray[np.int64],
        validation: Split | None = None,
        test: Split | None = None,
    ) -> LabelledDataset:
        """Return a data set with some of its training samples, and perhaps other held-out ones."""
        train = dataset.train.take(positions)
        for name, split in (("train", train), ("validation", validation), ("test", test)):
            if split is not None:
                self.check_none_emptied(dataset, split, name)
        return dataset.derive(
            f"{dataset.name}+{self}",
            train=train,
            validation=validation,
            test=test,
            noisy=None if dataset.noisy is None else dataset.noisy[positions],
        )

    def check_none_emptied(
        self, dataset: LabelledDataset, after: Split, name: str = "train"
    ) -> None:
        """Raise where a class or group of a split has samples before, but none afterwards."""
        for by in dataset.units():
            members = after.labels if by == "class" or after.groups is None else after.groups
            left = np.bincount(members, minlength=len(dataset.names(by)))
            before = dataset.sizes(by, name)
            emptied = np.flatnonzero((before > 0) & (left == 0))
            if len(emptied):
                raise DataError(
                    f"Expected {self} to leave images of every {by} in {name}, found none left of "
                    f"the {before[emptied[0]]} of {by} {dataset.names(by)[emptied[0]]!r}; use a "
                    "milder variant or data with more of them."
                )
