"""False labels, uniformly among the other classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset
from raydrop.data.sampling import raw_draws, shuffled
from raydrop.data.variants.base import Variant
from raydrop.errors import ConfigError


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

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Falsify exactly round(rate · N) training labels and mark them in ``noisy``.

        Labels that an earlier ``label_noise`` changed stay marked. Validation and test keep theirs.
        Groups stay too: they say what is true of a sample, not what its label claims.

        Raises:
            ConfigError: If there is no other class to choose.
            DataError: If a class would lose its last training image.
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
