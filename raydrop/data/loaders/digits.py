"""The data set that needs no download: 8x8 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ArrayImages, LabelledDataset, Split, pixel_digest
from raydrop.data.sampling import SPLIT_SEED, shuffled_members

PER_CLASS = (80, 24, 70)
"""Images of each digit in train, validation and test; together the smallest class, 174 images."""


def load_digits(_: str | None, __: str | None, name: str) -> LabelledDataset:
    """Return scikit-learn's digits (Alpaydin and Kaynak 1998, UCI repository), split in three.

    An id is the index in scikit-learn's order. Every class is equally large in every split, and
    the few images beyond that are left out.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    pixels = to_uint8(bunch.images)[:, None]
    labels = np.asarray(bunch.target, np.int64)
    members = shuffled_members(labels, 10, SPLIT_SEED, "digits")
    everything = Split(np.arange(len(labels)), labels, ArrayImages(pixels))
    parts = zip(*(np.split(each, np.cumsum(PER_CLASS))[:3] for each in members), strict=True)
    train, validation, test = (everything.take(np.sort(np.concatenate(part))) for part in parts)
    return LabelledDataset.from_content(
        pixel_digest(pixels),
        name=name,
        class_names=tuple("0123456789"),
        splits=(train, validation, test),
        image_shape=(1, 8, 8),
        horizontal_flip=False,
        crop_padding=1,
    )


def to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale 0...16 to 0...255; ``rint(pixel · 16 / 255)`` gives every value back exactly."""
    return np.rint(values * (255 / 16)).astype(np.uint8)
