"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, downloaded and checked by torchvision."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ArrayImages, LabelledDataset, Split, pixel_digest
from raydrop.data.sampling import halves
from raydrop.errors import DataError
from raydrop.store.places import data_folder, one_at_a_time

DEFAULT_ROOT = "~/.cache/raydrop"
"""Where downloads go unless a data root is given."""


_DOWNLOADS = {
    "mnist": ("MNIST", "MNIST", False, 2),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST", True, 2),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", True, 4),
    "cifar100": ("CIFAR100", "cifar-100-python", True, 4),
}
"""Class in ``torchvision.datasets``, folder that it makes below its root, whether mirroring keeps
the label, and padding of random crops, in pixels."""


def load_download(_: str | None, data_root: str | None, name: str) -> LabelledDataset:
    """Return a data set of torchvision; its test set is halved into validation and test.

    An id is the index in the official training set or, for the test set, the same plus the number
    of training images. CIFAR's files are pickles; torchvision opens them only where their MD5 sums
    are those of the official ones. The data root is :data:`DEFAULT_ROOT` by default; of a URL, this
    machine copies the data set's folder first.

    Raises:
        DataError: If the files are neither there nor can be downloaded.
    """
    official, folder, horizontal_flip, crop_padding = _DOWNLOADS[name]
    root = data_folder(folder, data_root or DEFAULT_ROOT).parent
    parts = [download(name, official, root, train=train) for train in (True, False)]
    pixels, test_pixels = (_pixels(part.data) for part in parts)
    labels, test_labels = (np.asarray(part.targets, np.int64) for part in parts)
    class_names = tuple(map(str, parts[0].classes))
    held_out = np.arange(len(test_labels))
    tested = Split(len(labels) + held_out, test_labels, ArrayImages(test_pixels))
    validation, test = map(tested.take, halves(held_out, test_labels, class_names, "class"))
    return LabelledDataset.from_content(
        pixel_digest(pixels, test_pixels),
        name=name,
        class_names=class_names,
        splits=(Split(np.arange(len(labels)), labels, ArrayImages(pixels)), validation, test),
        image_shape=(pixels.shape[1], pixels.shape[2], pixels.shape[3]),
        horizontal_flip=horizontal_flip,
        crop_padding=crop_padding,
    )


def download(name: str, official: str, root: Path, **arguments: object) -> Any:
    """Return an object of a class in ``torchvision.datasets``, downloading what is absent."""
    import torchvision

    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root):
            return getattr(torchvision.datasets, official)(str(root), download=True, **arguments)
    except (RuntimeError, OSError, EOFError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"Expected the files of {name} in {root} or a way to download them, found: {reason}; "
            "connect to the internet once, or copy torchvision's files for it into that folder."
        ) from error


def _pixels(data: Any) -> NDArray[np.uint8]:
    """Return torchvision's (n, H, W) or (n, H, W, C) images as (n, C, H, W)."""
    array = np.asarray(data, dtype=np.uint8)
    channels_last = array[..., None] if array.ndim == 3 else array
    return np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))
