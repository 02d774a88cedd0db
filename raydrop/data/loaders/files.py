"""From a list of files with labels and splits to a data set: the way that all folders take.

The headers of a few images are read, to learn their size, and of all, to learn which are lying on
their side. Images of one size of at most 64 pixels a side keep it. All others become 3x224x224 as
they stream from their files: for training a random resized crop (8 to 100 % of the area, aspect 3/4
to 4/3) and, where mirror images keep their label, one half of the time; for queries, validation and
test the shorter side becomes 256 pixels and the middle 224x224 are kept, without anything random.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import SMALL_SIDE, FileImages, LabelledDataset, Shape, Split
from raydrop.data.images import DEEP, SEVERAL, TURNED, is_grey, open_image, survey
from raydrop.data.sampling import halves
from raydrop.errors import DataError, unknown_name, visible
from raydrop.store.places import copy_source, data_folder
from raydrop.study import By
from raydrop.study.catalogue import value_text

SPLITS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev", "id_val"), 1),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "id_test"), 2),
}
"""What train, validation and test may be called, in any case, with ``-`` for ``_`` and in the
plural; the names are those of Hugging Face's ``datasets`` and of WILDS."""
LARGE_SHAPE = (3, 224, 224)
"""What models see of images that are large or differ in size."""
CROP_PADDING = 4
"""Padding of random crops of small images, in pixels."""
MOST_NAMES = 5
"""Names that a remark lists."""

_HALVED = "There is no validation split, so half of the test images of each {} are validation."
NOT_MIRRORED = (
    "Images are not mirrored in training; where a mirror image has the same label, say flip=on."
)
_SPREAD_HEADERS = 64
"""Headers that are read besides the first of each class, evenly spread over all files."""
_UNSAID = ("", "-", "?", "n/a", "na", "nan", "none", "null")

File = tuple[str, int]
"""Path relative to the data set's folder, with ``/`` between folders, and size in bytes."""


def dataset_of_files(
    root: Path,
    files: Sequence[File],
    labels: NDArray[np.int64],
    splits: NDArray[np.int64],
    *,
    name: str,
    groups: NDArray[np.int64] | None = None,
    hashed_names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    turned: bool = True,
    content: str = "",
    **facts: Any,
) -> LabelledDataset:
    """Return the data set of some listed files; an id is the position in the listing, n long.

    Splits are 0 for each of train, 1 of validation and 2 of test, (n,); where none is 1, half of
    the test images of each group, or class, become validation. A hash of the content stands in the
    fingerprint instead of paths and sizes, where it is given. Images may be turned upright as
    their EXIF data say, which changes the fingerprint where one is. Further facts are fields of
    the data set, at least ``class_names``; images are mirrored unless ``horizontal_flip`` is False.

    Raises:
        DataError: If there is one class only, a header cannot be read or the parts do not fit
            together.
    """
    flip, class_names = facts.get("horizontal_flip", True), facts["class_names"]
    group_names = facts.get("group_names", ())
    if len(class_names) < 2:
        raise DataError(
            f"Expected two classes or more in {visible(name)}, found only {class_names[0]!r}; "
            "with one there is nothing to learn."
        )
    by: By = "class" if groups is None else "group"
    train, validation, test = (np.flatnonzero(splits == number) for number in range(3))
    for split, part in (("train", train), ("test", test)):
        if not len(part):
            raise DataError(f"Expected samples for {split}, found none; mark some as {split}.")
    halved = not len(validation)
    if halved:
        units, names = (labels, class_names) if groups is None else (groups, group_names)
        validation, test = halves(test, units, names, by)
    said = np.ones(len(files), np.uint8)
    if turned:
        said = survey([(os.path.join(root, path), size) for path, size in files])  # noqa: PTH118
    orientations: NDArray[np.uint8] = said & np.uint8(TURNED)
    shape = _probed_shape(root, files, labels, orientations)
    images = FileImages(
        tuple(path for path, _ in files),
        str(root),
        "L" if shape[0] == 1 else "RGB",
        copy_source(root),
        orientations.tobytes() if (orientations > 1).any() else b"",
    )
    everything = Split(np.arange(len(files)), labels, images, groups)
    facts["remarks"] = (
        *facts.get("remarks", ()),
        *([_HALVED.format(by)] if halved else []),
        *_remarks_on_files(files, said),
        *_remarks_on_names("classes", class_names),
        *_remarks_on_names("groups", group_names),
        *([] if flip else [NOT_MIRRORED]),
    )
    return LabelledDataset.from_content(
        content or _listing_digest(files, said),
        name=name,
        splits=tuple(map(everything.take, (train, validation, test))),
        hashed_names=hashed_names,
        image_shape=shape,
        crop_padding=CROP_PADDING if shape != LARGE_SHAPE else 0,
        **{"horizontal_flip": flip, **facts},
    )


def resolve_folder(path: str | None, data_root: str | None) -> Path:
    """Return the absolute folder that a specification means, since workers work elsewhere.

    Raises:
        ConfigError: If it is a URL of no object store.
        DataError: If it is no folder, or what a URL stands for cannot be copied.
    """
    folder = data_folder(path or "", data_root)
    if not folder.is_dir():
        mend = "correct the path, or the data root that relative paths start from"
        if is_file := folder.exists():
            mend = "give its folder, or table:FILE?label=COLUMN for a table that names images"
        raise DataError(
            f"Expected a folder of images at {folder.absolute()}, found "
            f"{'a file' if is_file else 'nothing'} there; {mend}."
        )
    return folder.absolute()


def file_size(root: Path, path: str) -> int | None:
    """Return the size in bytes of a file below ``root``, or None where no file is."""
    try:
        facts = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - Paths take twice as long
    except (OSError, ValueError):
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def is_below(path: str) -> bool:
    """Return whether a relative path stays, as it is written, in the folder that it starts from."""
    return not os.path.isabs(path) and os.path.normpath(path).split("/")[0] != ".."  # noqa: PTH117


def split_number(name: str) -> int | None:
    """Return 0 for a name of train, 1 for one of validation, 2 for one of test, or None."""
    word = name.casefold().replace("-", "_")
    return SPLITS.get(word, SPLITS.get(word.removesuffix("s")))


def is_on(option: str, value: str) -> bool:
    """Return whether an option is on, or refuse what is neither ``"on"`` nor ``"off"``."""
    return one_of(f"value of {option}", value, ("on", "off")) == "on"


def one_of(kind: str, value: str, known: Collection[str]) -> str:
    """Return an option's value, or refuse one that is not known."""
    if value not in known:
        raise unknown_name(kind, value, known)
    return value


def counted(number: int, thing: str) -> str:
    """Return a number and what is counted, such as ``1 image`` or ``2 images``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(names: Collection[str]) -> str:
    """Return the first of some names, and how many more there are."""
    shown = ", ".join(map(repr, sorted(names)[:MOST_NAMES]))
    more = len(names) - MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def is_text(name: str) -> bool:
    """Return whether a name is one in UTF-8, not bytes that Python let pass."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _probed_shape(
    root: Path, files: Sequence[File], labels: NDArray[np.int64], orientations: NDArray[np.uint8]
) -> Shape:
    """Return channels, height and width that models shall see, from the headers of some files.

    Looked at are the first file of each class and a few others. If all have one size of at most
    64 pixels a side, it is that size, in grey if all are grey; if not, 3x224x224.
    """
    firsts = np.unique(labels, return_index=True)[1].tolist()
    spread = np.linspace(0, len(files) - 1, _SPREAD_HEADERS).astype(int).tolist()
    sizes, grey = set[tuple[int, int]](), True
    for at in sorted({*firsts, *spread}):
        with open_image(root / files[at][0]) as image:
            sizes.add(image.size[::-1] if orientations[at] > 4 else image.size)
            grey = grey and is_grey(image)
    width, height = min(sizes)
    if len(sizes) > 1 or max(width, height) > SMALL_SIDE:
        return LARGE_SHAPE
    return 1 if grey else 3, height, width


def _listing_digest(files: Sequence[File], said: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of paths and sizes, and of what images are turned or scaled to 8 bits."""
    digest = hashlib.sha256()
    for path, size in files:
        digest.update(os.fsencode(path) + b"\0" + str(size).encode() + b"\0")
    changed = said & (TURNED | DEEP)
    if (changed != 1).any():
        digest.update(changed.tobytes())
    return digest.hexdigest()


def _remarks_on_files(files: Sequence[File], said: NDArray[np.uint8]) -> Iterator[str]:
    counts = {
        "turned upright, as their EXIF data say": (said & TURNED) > 1,
        "grey of more than eight bits, of which the upper eight are used": said & DEEP,
        "with several pictures, of which the first is used": said & SEVERAL,
        "empty": np.array([size == 0 for _, size in files]),
        "whose names are not UTF-8": np.array([not is_text(path) for path, _ in files]),
    }
    for what, which in counts.items():
        if count := int(np.count_nonzero(which)):
            yield f"{counted(count, 'file')} {what}."


def _remarks_on_names(kind: str, names: Iterable[str]) -> Iterator[str]:
    """Say which names look alike, or as if they stood for a missing value."""
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[_core(name)].append(name)
    same = [listed(each) for each in alike.values() if len(each) > 1]
    if same:
        yield f"Names that differ little are different {kind}: {'; '.join(same[:MOST_NAMES])}."
    unsaid = [name for name in names if name.casefold() in _UNSAID]
    if unsaid:
        yield f"Names of {kind} that may mean a missing value: {listed(unsaid)}."


def _core(name: str) -> str:
    """Return what names have in common that people or programs take for the same."""
    try:
        return value_text(float(name))
    except (ValueError, OverflowError):
        return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
