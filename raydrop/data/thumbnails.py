"""Small pictures of some samples, for people to look at."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from raydrop.data.dataset import (
    SMALL_SIDE,
    AnyInputs,
    ArrayImages,
    Images,
    Indices,
    LabelledDataset,
)
from raydrop.data.held import StreamedInputs, as_array, collated

CHANNELS = (1, 3)
"""Grey and RGB; data of other channels are no pictures."""


def can_be_shown(dataset: LabelledDataset) -> bool:
    """Return whether inputs are pictures that people can look at."""
    return dataset.image_shape is not None and dataset.image_shape[0] in CHANNELS


def thumbnails(
    images: AnyInputs, positions: Indices, image_shape: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
    """Return some images as models see them without augmentation, (m, 1 or 3, h, w), h, w <= 64.

    Images of at most 64 pixels stay as they are. Of larger ones in memory the whole is shrunk; of
    larger files the middle square, about what is left of them for validation and testing.
    """
    assert image_shape is not None
    channels, *size = image_shape
    factor = min(1.0, SMALL_SIDE / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    small = np.empty((len(positions), channels, height, width), np.uint8)
    for place, position in enumerate(np.asarray(positions).tolist()):
        if isinstance(images, Images):
            picture = images.open(position)
        else:
            pixels = _pixels(images, position).transpose(1, 2, 0)
            picture = PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        if max(size) > SMALL_SIDE and isinstance(images, Images):
            picture = PIL.ImageOps.fit(picture, (width, height))
        elif picture.size != (width, height):
            picture = picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
        small[place] = np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)
    return small


def _pixels(images: AnyInputs, position: int) -> NDArray[np.uint8]:
    """Return an image (C, H, W) that is in memory, or that the user's data set gives in bytes."""
    if isinstance(images, ArrayImages):
        return images.pixels[position]  # type: ignore[no-any-return]
    assert isinstance(images, StreamedInputs)
    return as_array(collated(images, [images.read(position)])[0])
