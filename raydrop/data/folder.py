"""Folders of images: ``train/CLASS/*``, ``test/CLASS/*`` and, if there is one, ``val/CLASS/*``.

Labels come from folder names alone; only the headers of a few images are read, to learn their size.

Images of one size of at most 64 pixels a side keep it. All others become 3x224x224 as they stream
from their files: for training a random resized crop (8 to 100 % of the area, aspect 3/4 to 4/3) and
a mirror image half of the time; for queries, validation and test the shorter side becomes 256
pixels and the middle 224x224 are kept, without anything random.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import (
    SMALL_SIDE,
    FileImages,
    ImageDataset,
    Indices,
    Split,
)
from raydrop.data.images import open_image, unreadable_image
from raydrop.data.roots import copy_source, data_folder
from raydrop.data.sampling import halves
from raydrop.errors import DataError
from raydrop.study import By

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
    return _from_split_folders(root, names, f"imagefolder:{path}")


def load_imagenet(path: str, data_root: str | None) -> ImageDataset:
    """Return ImageNet as torchvision's ``ImageFolder`` lays it out: train/WNID/*, val/WNID/*.

    Classes are WordNet ids (Russakovsky et al. 2015, arXiv 1409.0575). The official validation set,
    whose labels are the only public ones, is halved class by class into validation and test, as
    DRoP does (Vysogorets et al. 2024, arXiv 2404.05579); a ``test/`` folder is not looked at. Ids
    are as in :func:`load_folder`.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.

    Raises:
        DataError: As :func:`load_folder`.
    """
    root = resolve_folder(path, data_root)
    return _from_split_folders(root, ["train", "val"], f"imagenet:{path}")


def load_tiny_imagenet(path: str, data_root: str | None) -> ImageDataset:
    """Return Tiny ImageNet from its own folder ``tiny-imagenet-200`` (Le and Yang 2015, CS231n).

    Training images lie in train/WNID/images, validation images in val/images with their classes in
    val/val_annotations.txt. The latter are halved class by class into validation and test, as DRoP
    does; the unlabelled ``test/`` is not looked at. An id is the position in the listing of
    training images, by class and path, then of the lines of val_annotations.txt.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.

    Raises:
        DataError: If the layout is not as above, an annotation names an unknown class or a file
            that is not there, or a header cannot be read.
    """
    root = resolve_folder(path, data_root)
    class_names = tuple(sorted(_class_folders(root, "train")))
    files = list_images(root, "train", class_names)
    first_held_out = len(files)
    files += _annotated(root, class_names)
    held_out = np.arange(first_held_out, len(files))
    return dataset_of_files(
        root,
        files,
        [np.arange(first_held_out), *halved(held_out, labels_of(files), class_names)],
        name=f"tiny_imagenet:{path}",
        class_names=class_names,
    )


def dataset_of_files(
    root: Path,
    files: Sequence[ImageFile],
    parts: Sequence[Indices],
    *,
    name: str,
    class_names: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
    group_names: tuple[str, ...] = (),
    unseen_groups: tuple[str, ...] = (),
) -> ImageDataset:
    """Return the data set of some listed files; an id is the position in the listing.

    Args:
        root: Folder that their paths start from.
        files: All of them, n.
        parts: Positions of train, validation and test.
        name: Canonical specification.
        class_names: Names of the classes.
        groups: Groups of the files, (n,), where there are any.
        group_names: Names of the groups.
        unseen_groups: Those of them that are not trained on.

    Raises:
        DataError: If a header cannot be read or the parts do not fit together.
    """
    shape = probe_shape(root, files)
    mode: Literal["L", "RGB"] = "L" if shape[0] == 1 else "RGB"
    images = FileImages(tuple(file.path for file in files), str(root), mode, copy_source(root))
    everything = Split(np.arange(len(files)), labels_of(files), images, groups)
    train, validation, test = (everything.take(part) for part in parts)
    return ImageDataset.from_content(
        listing_digest(files),
        name=name,
        class_names=class_names,
        splits=(train, validation, test),
        image_shape=shape,
        horizontal_flip=True,
        crop_padding=CROP_PADDING if shape != LARGE_SHAPE else 0,
        group_names=group_names,
        unseen_groups=unseen_groups,
    )


def halved(
    held_out: Indices, units: NDArray[np.int64], names: tuple[str, ...], kind: By = "class"
) -> tuple[Indices, Indices]:
    """Return positions of validation and test: random halves of each unit's held-out files.

    Args:
        held_out: Positions of what is neither training nor anything else, (m,).
        units: Class or group of every file, (n,).
        names: Names of the units.
        kind: What the units are.

    Raises:
        DataError: If a unit has fewer than two files held out.
    """
    validation, test = halves(units[held_out], names, SPLIT_SEED, "halves", kind)
    return held_out[validation], held_out[test]


def labels_of(files: Sequence[ImageFile]) -> NDArray[np.int64]:
    """Return the classes of some files, (n,)."""
    return np.array([file.label for file in files], np.int64)


def file_size(root: Path, path: str) -> int | None:
    """Return the size in bytes of a file below ``root``, or None where no file is."""
    try:
        facts = os.stat(f"{root}/{path}")  # noqa: PTH116 - a Path for each would take twice as long
    except (OSError, ValueError):
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def resolve_folder(path: str, data_root: str | None) -> Path:
    """Return the absolute folder that a specification means.

    Absolute, because workers on the same machine have other working directories.

    Raises:
        ConfigError: If it is a URL of no object store.
        DataError: If it is no folder, or what a URL stands for cannot be copied.
    """
    folder = data_folder(path, data_root)
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


def _from_split_folders(root: Path, names: Sequence[str], name: str) -> ImageDataset:
    """Return the data set of two or three folders; of two, the second is halved."""
    class_names = _common_classes(root, names)
    listings = [list_images(root, split, class_names) for split in names]
    files = [file for listing in listings for file in listing]
    ends = np.cumsum([len(listing) for listing in listings])
    parts: list[Indices] = np.split(np.arange(len(files)), ends[:-1])
    if len(parts) == 2:
        parts[1:] = halved(parts[1], labels_of(files), class_names)
    return dataset_of_files(root, files, parts, name=name, class_names=class_names)


def _annotated(root: Path, class_names: Sequence[str]) -> list[ImageFile]:
    """Return the images of Tiny ImageNet's val/val_annotations.txt, in its order."""
    numbers = {name: label for label, name in enumerate(class_names)}
    files = []
    for line, row in enumerate(_annotation_rows(root / "val/val_annotations.txt"), start=1):
        path = f"val/images/{row[0]}"
        size = file_size(root, path)
        if len(row) < 2 or row[1] not in numbers or size is None:
            found = "no such image" if size is None else "no such class in train/"
            raise DataError(
                f"Expected an image of val/images and a class of train/ in line {line} of "
                f"{root}/val/val_annotations.txt, found {' '.join(row[:2])!r}: {found}; "
                "unpack the archive anew."
            )
        files.append(ImageFile(path, size, numbers[row[1]]))
    return files


def _annotation_rows(path: Path) -> list[list[str]]:
    try:
        return [line.split("\t") for line in path.read_text().splitlines()]
    except OSError as error:
        raise DataError(
            f"Expected the classes of Tiny ImageNet's validation images in {path}, found: "
            f"{error.strerror}; give the path of its folder tiny-imagenet-200."
        ) from error


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
            f"Expected {split}/ in {root}, found no such folder; "
            f"arrange the images as {split}/CLASS/*, and so for the other splits."
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
    with open_image(path) as image:
        return image.size, image.mode
