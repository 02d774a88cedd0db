"""Folders of images: ``train/CLASS/*``, ``test/CLASS/*`` and, if there is one, ``val/CLASS/*``.

Labels come from folder names alone; only the headers of a few images are read, to learn their size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image

from raydrop.data.dataset import SMALL_SIDE, FileImages, ImageDataset, Split, unreadable_image
from raydrop.data.sampling import halves
from raydrop.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings of files that count as images, in lower case."""
LARGE_SHAPE = (3, 224, 224)
"""What models see of images that are large or differ in size."""
CROP_PADDING = 4
"""Padding of random crops of small images, in pixels."""
SPLIT_SEED = 0
"""Seed that halves the test set where there is no ``val/``."""

_SPREAD_HEADERS = 64
"""Headers that are read besides the first of each class, evenly spread over all files."""


class ImageFile(NamedTuple):
    """A file of the listing."""

    path: str
    """Relative to the data set's folder, with ``/`` between folders."""
    size: int
    """In bytes."""
    label: int
    """Position of its class among the sorted class names."""


def load_folder(path: str, data_root: str | None) -> ImageDataset:
    """Return the data set in a folder of images.

    An id is the position in the listing of train, then val, then test, each sorted by class name
    and then by path. Without ``val/``, half of each class's test images become validation.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.

    Raises:
        DataError: If the layout is not as above, a class is empty or is not in every split, or a
            header cannot be read.
    """
    root = resolve_folder(path, data_root)
    names = [n for n in ("train", "val", "test") if n != "val" or (root / n).is_dir()]
    class_names = _common_classes(root, names)
    listings = [list_images(root, name, class_names) for name in names]
    files = [file for listing in listings for file in listing]
    shape = probe_shape(root, files)
    splits = _splits(root, listings, "L" if shape[0] == 1 else "RGB", class_names)
    return ImageDataset.from_content(
        listing_digest(files),
        name=f"imagefolder:{path}",
        class_names=class_names,
        splits=splits,
        image_shape=shape,
        horizontal_flip=True,
        crop_padding=CROP_PADDING if shape != LARGE_SHAPE else 0,
    )


def resolve_folder(path: str, data_root: str | None) -> Path:
    """Return the absolute folder that a specification means.

    Absolute, because workers on the same machine have other working directories.

    Raises:
        DataError: If it is no folder.
    """
    folder = Path(path).expanduser()
    if data_root is not None:
        folder = Path(data_root).expanduser() / folder
    if not folder.is_dir():
        raise DataError(
            f"Expected a folder of images at {folder.absolute()}, found "
            f"{'a file' if folder.exists() else 'nothing'} there; correct the path, "
            "or the data root that relative paths start from."
        )
    return folder.absolute()


def list_images(root: Path, split: str, class_names: Sequence[str]) -> list[ImageFile]:
    """Return the images of a split, sorted by class and then by path.

    Nested folders count; hidden files and folders and files that are no images do not.

    Raises:
        DataError: If a class has no image or a folder cannot be read.
    """
    files = []
    for label, name in enumerate(class_names):
        found = sorted(_walk(root / split / name, f"{split}/{name}", label))
        if not found:
            raise DataError(
                f"Expected images in {root / split / name}, found none that ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}; add some or remove the class everywhere."
            )
        files.extend(found)
    return files


def probe_shape(root: Path, files: Sequence[ImageFile]) -> tuple[int, int, int]:
    """Return channels, height and width that models shall see, from the headers of some files.

    Looked at are the first file of each class and a few others. If all have one size of at most
    64 pixels a side, it is that size, in grey if all are grey; if not, 3x224x224.

    Raises:
        DataError: If a header cannot be read; the message names the file.
    """
    firsts = dict[int, int]()
    for at, file in enumerate(files):
        firsts.setdefault(file.label, at)
    spread = np.linspace(0, len(files) - 1, _SPREAD_HEADERS).astype(int).tolist()
    headers = {_header(root / files[at].path) for at in sorted({*firsts.values(), *spread})}
    sizes = {size for size, _ in headers}
    width, height = min(sizes)
    if len(sizes) > 1 or max(width, height) > SMALL_SIDE:
        return LARGE_SHAPE
    return (1 if {mode for _, mode in headers} == {"L"} else 3, height, width)


def listing_digest(files: Sequence[ImageFile]) -> str:
    """Return the SHA-256 of the files' relative paths and sizes; the root does not enter."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.path) + b"\0" + str(file.size).encode() + b"\0")
    return digest.hexdigest()


def _splits(
    root: Path,
    listings: Sequence[Sequence[ImageFile]],
    mode: Literal["RGB", "L"],
    class_names: tuple[str, ...],
) -> tuple[Split, Split, Split]:
    """Return train, validation and test; of two listings, the second is halved."""
    starts = np.cumsum([0, *map(len, listings)]).tolist()
    splits = [
        Split(
            start + np.arange(len(listing)),
            np.array([file.label for file in listing], np.int64),
            FileImages(tuple(file.path for file in listing), str(root), mode),
        )
        for start, listing in zip(starts, listings, strict=False)
    ]
    if len(splits) == 2:
        held_out = splits.pop()
        parts = halves(held_out.labels, class_names, SPLIT_SEED, "halves")
        splits.extend(held_out.take(part) for part in parts)
    return splits[0], splits[1], splits[2]


def _common_classes(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted class names that all splits share, or raise where they differ."""
    train = _class_folders(root, "train")
    for split in splits[1:]:
        other = _class_folders(root, split)
        for here, there, names in (
            ("train", split, train - other),
            (split, "train", other - train),
        ):
            if names:
                raise DataError(
                    f"Expected the same class folders in train/ and {split}/ of {root}, found "
                    f"{', '.join(map(repr, sorted(names)))} in {here}/ but not in {there}/; "
                    "add or remove them."
                )
    return tuple(sorted(train))


def _class_folders(root: Path, split: str) -> set[str]:
    folder = root / split
    if not folder.is_dir():
        raise DataError(
            f"Expected {split}/ in {root}, found no such folder; arrange the images as "
            "train/CLASS/* and test/CLASS/*, with val/CLASS/* if there are validation images."
        )
    names = {entry.name for entry in _entries(folder) if entry.is_dir()}
    if not names:
        raise DataError(
            f"Expected a folder per class in {folder}, found none; "
            f"arrange the images as {split}/CLASS/*."
        )
    return names


def _walk(folder: Path, prefix: str, label: int) -> Iterator[ImageFile]:
    for entry in _entries(folder):
        path = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _walk(Path(entry.path), path, label)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield ImageFile(path, _size(entry), label)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        raise unreadable_image(entry.path, error) from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, except what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"Expected to read the folder {folder}, found: {error.strerror}; allow reading it."
        ) from error


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """Return (width, height) and mode of an image without decoding it."""
    try:
        with PIL.Image.open(path) as image:
            return image.size, image.mode
    # Broken files make PIL's decoders raise nearly anything: OSError, SyntaxError, EOFError...
    except Exception as error:
        raise unreadable_image(path, error) from error
