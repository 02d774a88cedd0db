"""Folders of images: ``train/CLASS/*``, ``test/CLASS/*`` and, if there is one, ``val/CLASS/*``.

Splits may go by the other names of :data:`SPLITS`. Labels come from folder names alone; the headers
of a few images are read, to learn their size, and of all, to learn which are lying on their side.

Images of one size of at most 64 pixels a side keep it. All others become 3x224x224 as they stream
from their files: for training a random resized crop (8 to 100 % of the area, aspect 3/4 to 4/3)
and, where mirror images keep their label, one half of the time; for queries, validation and test
the shorter side becomes 256 pixels and the middle 224x224 are kept, without anything random.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import SMALL_SIDE, FileImages, ImageDataset, Indices, Split
from raydrop.data.images import (
    DEEP,
    SEVERAL,
    TURNED,
    is_grey,
    open_image,
    survey,
    unreadable_image,
)
from raydrop.data.variants import number_text
from raydrop.data.variants.sampling import halves
from raydrop.errors import DataError, unknown_name, visible
from raydrop.store.files import read_regular
from raydrop.store.places import copy_source, data_folder
from raydrop.study import By

SPLITS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev", "id_val"), 1),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "id_test"), 2),
}
"""What train, validation and test may be called, in any case, with ``-`` for ``_`` and in the
plural; the names are those of Hugging Face's ``datasets`` and of WILDS."""
IMAGE_SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""Endings of files that count as images, in lower case."""
SYSTEM_NAMES = frozenset(
    {
        *("@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "ehthumbs.db"),
        *("lost+found", "system volume information", "thumbs.db"),
    }
)
"""Files and folders that systems leave in those of others, in lower case."""
LARGE_SHAPE = (3, 224, 224)
"""What models see of images that are large or differ in size."""
CROP_PADDING = 4
"""Padding of random crops of small images, in pixels."""
SPLIT_SEED = 0
"""Seed that halves the test set where there is no ``val/``."""

_SPREAD_HEADERS = 64
"""Headers that are read besides the first of each class, evenly spread over all files."""
_HIDDEN = "hidden or system"
_UNSAID = ("", "-", "?", "n/a", "na", "nan", "none", "null")
_SHOWN = 5
"""Names that a remark lists."""


class ImageFile(NamedTuple):
    """A file of the listing."""

    path: str
    """Relative to the data set's folder, with ``/`` between folders."""
    size: int
    """In bytes."""
    label: int
    """Position of its class among the sorted class names."""


def load_folder(
    path: str, data_root: str | None, name: str | None = None, *, flip: str = "off"
) -> ImageDataset:
    """Return the data set in a folder of images.

    An id is the position in the listing of train, then val, then test, each sorted by class name
    and then by path. Without validation images, half of each class's test images become those.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.
        name: Canonical specification.
        flip: ``"on"`` if a mirror image has the label of the image, which training then uses;
            mirrored letters or traffic signs are other ones.

    Raises:
        ConfigError: If ``flip`` is neither ``"on"`` nor ``"off"``.
        DataError: If the layout is not as above, there is one class only, a class is empty or is
            not in every split, or a header cannot be read.
    """
    mirrored = is_on("flip", flip)
    root = resolve_folder(path, data_root)
    names, remarks = _split_folders(root)
    return _from_split_folders(
        root, names, name or f"imagefolder:{path}", flip=mirrored, remarks=remarks
    )


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
    return _from_split_folders(root, ["train", "val"], f"imagenet:{path}", turned=False)


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
        turned=False,
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
    hashed_names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    flip: bool = True,
    turned: bool = True,
    remarks: Sequence[str] = (),
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
        hashed_names: What classes and groups are called in the fingerprint, if not so.
        flip: Whether a mirror image has the same label.
        turned: Whether images are turned upright as their EXIF data say; the fingerprint changes
            where one is.
        remarks: What was noticed before.

    Raises:
        DataError: If there is one class only, a header cannot be read or the parts do not fit
            together.
    """
    if len(class_names) < 2:
        raise DataError(
            f"Expected two classes or more in {visible(name)}, found only {class_names[0]!r}; "
            "with one there is nothing to learn."
        )
    said = np.ones(len(files), np.uint8)
    if turned:
        said = survey([(os.path.join(root, file.path), file.size) for file in files])  # noqa: PTH118
    orientations: NDArray[np.uint8] = said & np.uint8(TURNED)
    shape = probe_shape(root, files, orientations)
    mode: Literal["L", "RGB"] = "L" if shape[0] == 1 else "RGB"
    images = FileImages(
        tuple(file.path for file in files),
        str(root),
        mode,
        copy_source(root),
        orientations.tobytes() if (orientations > 1).any() else b"",
    )
    everything = Split(np.arange(len(files)), labels_of(files), images, groups)
    train, validation, test = (everything.take(part) for part in parts)
    return ImageDataset.from_content(
        listing_digest(files, said),
        name=name,
        class_names=class_names,
        splits=(train, validation, test),
        image_shape=shape,
        horizontal_flip=flip,
        crop_padding=CROP_PADDING if shape != LARGE_SHAPE else 0,
        group_names=group_names,
        unseen_groups=unseen_groups,
        hashed_names=hashed_names,
        remarks=(
            *remarks,
            *_remarks_on_files(files, said),
            *_remarks_on_names("classes", class_names),
            *_remarks_on_names("groups", group_names),
            *([] if flip else [_NOT_MIRRORED]),
        ),
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
        facts = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - Paths take twice as long
    except (OSError, ValueError):
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def is_below(path: str) -> bool:
    """Return whether a relative path stays, as it is written, in the folder that it starts from."""
    return not os.path.isabs(path) and os.path.normpath(path).split("/")[0] != ".."  # noqa: PTH117


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


def list_images(
    root: Path, split: str, class_names: Sequence[str], left_out: Counter[str] | None = None
) -> list[ImageFile]:
    """Return the images of a split, sorted by class and then by path.

    Nested folders count; files and folders that are hidden or a system's do not, nor do files whose
    name does not end as that of an image.

    Args:
        root: Folder of the splits.
        split: Name of one.
        class_names: Names of the class folders.
        left_out: Here is counted what is left out, by its ending.

    Raises:
        DataError: If a class has no image, a folder cannot be read or leads back to itself, or what
            is called like an image is no file.
    """
    files = []
    left_out = Counter() if left_out is None else left_out
    for label, name in enumerate(class_names):
        found = sorted(_walk(root / split / name, f"{split}/{name}", label, left_out))
        if not found:
            raise DataError(
                f"Expected images in {visible(root / split / name)}, found none that ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}; add some or remove the class everywhere."
            )
        files.extend(found)
    return files


def probe_shape(
    root: Path, files: Sequence[ImageFile], orientations: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """Return channels, height and width that models shall see, from the headers of some files.

    Looked at are the first file of each class and a few others. If all have one size of at most
    64 pixels a side, it is that size, in grey if all are grey; if not, 3x224x224.

    Args:
        root: Folder that paths start from.
        files: All of them, n.
        orientations: Their EXIF orientations, (n,), which are undone.

    Raises:
        DataError: If a header cannot be read; the message names the file.
    """
    firsts = dict[int, int]()
    for at, file in enumerate(files):
        firsts.setdefault(file.label, at)
    spread = np.linspace(0, len(files) - 1, _SPREAD_HEADERS).astype(int).tolist()
    headers = {
        _header(root / files[at].path, int(orientations[at]))
        for at in sorted({*firsts.values(), *spread})
    }
    sizes = {size for size, _ in headers}
    width, height = min(sizes)
    if len(sizes) > 1 or max(width, height) > SMALL_SIDE:
        return LARGE_SHAPE
    return (1 if all(grey for _, grey in headers) else 3, height, width)


def listing_digest(files: Sequence[ImageFile], said: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the files' relative paths and sizes; the root does not enter.

    Args:
        files: All of them, n.
        said: What :func:`~raydrop.data.images.survey` says of them, (n,); it enters where an image
            is turned or scaled to eight bits.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.path) + b"\0" + str(file.size).encode() + b"\0")
    changed = said & (TURNED | DEEP)
    if (changed != 1).any():
        digest.update(changed.tobytes())
    return digest.hexdigest()


def split_number(name: str) -> int | None:
    """Return 0 for a name of train, 1 for one of validation, 2 for one of test, or None."""
    word = name.casefold().replace("-", "_")
    return SPLITS.get(word, SPLITS.get(word.removesuffix("s")))


def is_on(option: str, value: str) -> bool:
    """Return whether an option is on.

    Raises:
        ConfigError: If it is neither ``"on"`` nor ``"off"``.
    """
    if value not in ("on", "off"):
        raise unknown_name(f"value of {option}", value, ("on", "off"))
    return value == "on"


def counted(number: int, thing: str) -> str:
    """Return a number and what is counted, such as ``1 image`` or ``2 images``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


_NOT_MIRRORED = (
    "Images are not mirrored in training; where a mirror image has the same label, say flip=on."
)
HALVED = "There is no validation split, so half of the test images of each {} are validation."


def _split_folders(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders of train, perhaps validation, and test; and remarks.

    Raises:
        DataError: If one is absent or there are two for the same split.
    """
    found = defaultdict[int | None, list[str]](list)
    for entry in _entries(root):
        if _is_folder(entry):
            found[split_number(entry.name)].append(entry.name)
    for number, usual in ((0, "train"), (2, "test")):
        if not found[number]:
            _refuse_absent(root, usual)
    for number in range(3):
        if len(found[number]) > 1:
            raise DataError(
                f"Expected one folder for each split in {visible(root)}, found "
                f"{_listed(found[number])} for the same; remove or rename all but one."
            )
    remarks = []
    if unused := found[None]:
        remarks.append(f"Folders that are no split are not looked at: {_listed(unused)}.")
    return [name for number in range(3) for name in found[number]], remarks


def _refuse_absent(root: Path, split: str) -> None:
    folders = [entry.name for entry in _entries(root) if _is_folder(entry)]
    below = [name for name in folders if (root / name / split).is_dir()]
    remedy = f"arrange the images as {split}/CLASS/*, and so for the other splits"
    if below:
        remedy = f"give the path of {below[0]!r} in it, which has one"
    elif folders:
        remedy += f" (there are {_listed(folders)})"
    raise DataError(f"Expected {split}/ in {visible(root)}, found no such folder; {remedy}.")


def _from_split_folders(
    root: Path,
    names: Sequence[str],
    name: str,
    *,
    flip: bool = True,
    turned: bool = True,
    remarks: Sequence[str] = (),
) -> ImageDataset:
    """Return the data set of two or three folders; of two, the second is halved."""
    class_names = _common_classes(root, names)
    left_out = Counter[str]()
    listings = [list_images(root, split, class_names, left_out) for split in names]
    files = [file for listing in listings for file in listing]
    ends = np.cumsum([len(listing) for listing in listings])
    parts: list[Indices] = np.split(np.arange(len(files)), ends[:-1])
    remarks = [*remarks, *_remarks_on_rest(root, names, left_out)]
    if len(parts) == 2:
        parts[1:] = halved(parts[1], labels_of(files), class_names)
        remarks.append(HALVED.format("class"))
    return dataset_of_files(
        root,
        files,
        parts,
        name=name,
        class_names=class_names,
        flip=flip,
        turned=turned,
        remarks=remarks,
    )


def _remarks_on_rest(root: Path, splits: Sequence[str], left_out: Counter[str]) -> list[str]:
    """Say what lies in the folders of the splits without being used."""
    beside = [
        Path(entry.name).suffix.lower()
        for split in splits
        for entry in _entries(root / split, left_out)
        if not _is_folder(entry)
    ]
    loose = sum(suffix in IMAGE_SUFFIXES for suffix in beside)
    left_out.update(suffix for suffix in beside if suffix not in IMAGE_SUFFIXES)
    remarks = []
    if loose:
        remarks.append(f"{counted(loose, 'image')} beside the class folders: left out.")
    hidden = left_out.pop(_HIDDEN, 0)
    if left_out:
        endings = [f"{ending or 'no ending'} ({n})" for ending, n in left_out.most_common(_SHOWN)]
        more = ", ..." if len(left_out) > _SHOWN else ""
        remarks.append(
            f"{counted(left_out.total(), 'file')} not called like an image: left out; "
            f"{visible(', '.join(endings))}{more}."
        )
    if hidden:
        remarks.append(f"{counted(hidden, f'{_HIDDEN} file')} or folders: left out.")
    return remarks


def _remarks_on_files(files: Sequence[ImageFile], said: NDArray[np.uint8]) -> Iterator[str]:
    counts = {
        "turned upright, as their EXIF data say": (said & TURNED) > 1,
        "grey of more than eight bits, of which the upper eight are used": said & DEEP,
        "with several pictures, of which the first is used": said & SEVERAL,
        "empty": np.array([file.size == 0 for file in files]),
        "whose names are not UTF-8": np.array([not _is_text(file.path) for file in files]),
    }
    for what, which in counts.items():
        if count := int(np.count_nonzero(which)):
            yield f"{counted(count, 'file')} {what}."


def _remarks_on_names(kind: str, names: Iterable[str]) -> Iterator[str]:
    """Say which names look alike, or as if they stood for a missing value."""
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[_core(name)].append(name)
    same = [f"{_listed(each)}" for each in alike.values() if len(each) > 1]
    if same:
        yield f"Names that differ little are different {kind}: {'; '.join(same[:_SHOWN])}."
    unsaid = [name for name in names if name.casefold() in _UNSAID]
    if unsaid:
        yield f"Names of {kind} that may mean a missing value: {_listed(unsaid)}."


def _core(name: str) -> str:
    """Return what names have in common that people or programs take for the same."""
    try:
        return number_text(float(name))
    except (ValueError, OverflowError):
        return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:_SHOWN]))
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _annotated(root: Path, class_names: Sequence[str]) -> list[ImageFile]:
    """Return the images of Tiny ImageNet's val/val_annotations.txt, in its order."""
    numbers = {name: label for label, name in enumerate(class_names)}
    files = []
    for line, row in enumerate(_annotation_rows(root / "val/val_annotations.txt"), start=1):
        path = f"val/images/{row[0]}"
        size = file_size(root, path) if is_below(row[0]) else None
        if len(row) < 2 or row[1] not in numbers or size is None:
            found = "no such image" if size is None else "no such class in train/"
            raise DataError(
                f"Expected an image of val/images and a class of train/ in line {line} of "
                f"{visible(root)}/val/val_annotations.txt, found {' '.join(row[:2])!r}: {found}; "
                "unpack the archive anew."
            )
        files.append(ImageFile(path, size, numbers[row[1]]))
    return files


def _annotation_rows(path: Path) -> list[list[str]]:
    try:
        return [line.split("\t") for line in read_regular(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Expected the classes of Tiny ImageNet's validation images in {visible(path)}, found: "
            f"{getattr(error, 'strerror', error)}; give the path of its folder tiny-imagenet-200."
        ) from error


def _common_classes(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted class names that all splits share, or raise where they differ."""
    found = {split: _class_folders(root, split) for split in splits}
    _refuse_deeper(root, found)
    train = found[splits[0]]
    for split in splits[1:]:
        other = found[split]
        for here, there, names in (
            (splits[0], split, train - other),
            (split, splits[0], other - train),
        ):
            if names:
                raise DataError(
                    f"Expected the same class folders in {splits[0]}/ and {split}/ of "
                    f"{visible(root)}, found {_listed(names)} in {here}/ but not in {there}/; "
                    "add or remove them."
                )
    return tuple(sorted(train))


def _refuse_deeper(root: Path, found: dict[str, set[str]]) -> None:
    """Raise where every split has one folder, and the classes are folders in that."""
    for split, names in found.items():
        (name, *others) = names
        inner = [e.name for e in _entries(root / split / name) if not others and _is_folder(e)]
        if not inner:
            return
    raise DataError(
        f"Expected a folder per class in {visible(root / split)}, found only {name!r}, in which "
        f"{_listed(inner)} are folders; move those one level up, and so for the other splits."
    )


def _class_folders(root: Path, split: str) -> set[str]:
    folder = root / split
    if not folder.is_dir():
        _refuse_absent(root, split)
    names = {entry.name for entry in _entries(folder) if _is_folder(entry)}
    if not names:
        raise DataError(
            f"Expected a folder per class in {visible(folder)}, found none; "
            f"arrange the images as {split}/CLASS/*."
        )
    for name in names:
        if not _is_text(name):
            raise DataError(
                f"Expected names of classes in UTF-8 in {visible(folder)}, found "
                f"{os.fsencode(name)!r}; rename that folder."
            )
    return names


def _is_text(name: str) -> bool:
    """Return whether a name is one in UTF-8, not bytes that Python let pass."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _walk(folder: Path, prefix: str, label: int, left_out: Counter[str]) -> Iterator[ImageFile]:
    stack = [(str(folder), prefix, frozenset({_identity(folder.stat())}))]
    while stack:
        place, prefix, above = stack.pop()
        for entry in _entries(place, left_out):
            path = f"{prefix}/{entry.name}"
            if _is_folder(entry):
                identity = _identity(entry.stat())
                if identity in above:
                    raise DataError(
                        f"Expected folders that end in {visible(folder)}, found that "
                        f"{visible(entry.path)} leads back to one above it; remove that link."
                    )
                stack.append((entry.path, path, above | {identity}))
                continue
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - Path is slow
            if suffix in IMAGE_SUFFIXES:
                yield ImageFile(path, _size(entry), label)
            else:
                left_out[suffix] += 1


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, say
        raise unreadable_image(entry.path, error) from error


def _size(entry: os.DirEntry[str]) -> int:
    try:
        facts = entry.stat()
    except OSError as error:
        raise unreadable_image(entry.path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise unreadable_image(entry.path, "a pipe or device instead of a file")
    return facts.st_size


def _entries(folder: str | Path, left_out: Counter[str] | None = None) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, except what is hidden or a system's; that is counted."""
    try:
        with os.scandir(folder) as entries:
            everything = list(entries)
    except OSError as error:
        raise DataError(
            f"Expected to read the folder {visible(folder)}, found: {error.strerror}; "
            "allow reading it."
        ) from error
    seen = [e for e in everything if e.name[0] != "." and e.name.lower() not in SYSTEM_NAMES]
    if left_out is not None and len(seen) < len(everything):
        left_out[_HIDDEN] += len(everything) - len(seen)
    return seen


def _header(path: Path, orientation: int) -> tuple[tuple[int, int], bool]:
    """Return (width, height) of an image, upright, and whether it is grey, without decoding it."""
    with open_image(path) as image:
        width, height = image.size
        return (height, width) if orientation > 4 else (width, height), is_grey(image)
