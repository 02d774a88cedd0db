"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, downloaded and checked by torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ArrayImages, ImageDataset, Split, pixel_digest
from raydrop.data.variants.sampling import halves
from raydrop.errors import DataError
from raydrop.store.places import data_folder, one_at_a_time

DEFAULT_ROOT = "~/.cache/raydrop"
"""Where downloads go unless a data root is given."""
SPLIT_SEED = 0
"""Seed that halves the test set."""


@dataclass(frozen=True)
class Download:
    """What is known about a data set of torchvision before it is opened."""

    torchvision_name: str
    """Class in ``torchvision.datasets``."""
    folder: str
    """Which that class makes below its root."""
    horizontal_flip: bool
    """Whether mirroring keeps the label."""
    crop_padding: int
    """Padding of random crops, in pixels."""


DOWNLOADS = {
    "mnist": Download("MNIST", "MNIST", horizontal_flip=False, crop_padding=2),
    "fashion_mnist": Download("FashionMNIST", "FashionMNIST", horizontal_flip=True, crop_padding=2),
    "cifar10": Download("CIFAR10", "cifar-10-batches-py", horizontal_flip=True, crop_padding=4),
    "cifar100": Download("CIFAR100", "cifar-100-python", horizontal_flip=True, crop_padding=4),
}
"""Data sets by the name that specifications use."""


def load_download(name: str, data_root: str | None) -> ImageDataset:
    """Return a data set of torchvision; its test set is halved into validation and test.

    An id is the index in the official training set or, for the test set, the same plus the number
    of training images. CIFAR's files are pickles; torchvision opens them only where their MD5 sums
    are those of the official ones.

    Args:
        name: Key of :data:`DOWNLOADS`.
        data_root: Folder for the files; :data:`DEFAULT_ROOT` by default. Of a URL, this machine
            copies the data set's folder first.

    Raises:
        DataError: If the files are neither there nor can be downloaded.
    """
    source = DOWNLOADS[name]
    root = data_folder(source.folder, data_root or DEFAULT_ROOT).parent
    official_train, official_test = (
        download(name, source.torchvision_name, root, train=train) for train in (True, False)
    )
    pixels, test_pixels = _pixels(official_train.data), _pixels(official_test.data)
    labels, test_labels = _labels(official_train.targets), _labels(official_test.targets)
    class_names = tuple(str(class_name) for class_name in official_train.classes)
    test_ids = len(labels) + np.arange(len(test_labels))
    official = Split(test_ids, test_labels, ArrayImages(test_pixels))
    validation, test = halves(test_labels, class_names, SPLIT_SEED, "halves")
    return ImageDataset.from_content(
        pixel_digest(pixels, test_pixels),
        name=name,
        class_names=class_names,
        splits=(
            Split(np.arange(len(labels)), labels, ArrayImages(pixels)),
            official.take(validation),
            official.take(test),
        ),
        image_shape=(pixels.shape[1], pixels.shape[2], pixels.shape[3]),
        horizontal_flip=source.horizontal_flip,
        crop_padding=source.crop_padding,
    )


def download(name: str, torchvision_name: str, root: Path, **arguments: object) -> Any:
    """Return torchvision's data set object, downloading its files where they are absent.

    Args:
        name: What specifications call it.
        torchvision_name: Class in ``torchvision.datasets``.
        root: Folder for the files; made where it is absent.
        **arguments: What else the class takes.

    Raises:
        DataError: If the files are neither there nor can be downloaded.
    """
    import torchvision

    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root):
            return getattr(torchvision.datasets, torchvision_name)(
                str(root), download=True, **arguments
            )
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


def _labels(targets: Any) -> NDArray[np.int64]:
    return np.asarray(targets, dtype=np.int64)
