"""Folders of images, whose labels come from folder names alone."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from raydrop.data.dataset import LabelledDataset
from raydrop.data.images import unreadable_image
from raydrop.data.loaders.files import (
    MOST_NAMES,
    File,
    counted,
    dataset_of_files,
    file_size,
    is_below,
    is_on,
    is_text,
    listed,
    resolve_folder,
    split_number,
)
from raydrop.data.loaders.tables import reading
from raydrop.errors import DataError, visible

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

_HIDDEN = "hidden or system"


def load_folder(
    path: str | None, data_root: str | None, name: str, *, flip: str = "off"
) -> LabelledDataset:
    """Return a folder of ``train/CLASS/*``, ``test/CLASS/*`` and, if there is one, ``val/CLASS/*``.

    Splits may go by the other names of :data:`~raydrop.data.loaders.files.SPLITS`. An id is the
    position in the listing of train, then val, then test, each sorted by class name and then by
    path. Without validation images, half of each class's test images become those.

    Options:
        flip: ``"on"`` if a mirror image has the label of the image, which training then uses;
            mirrored letters or traffic signs are other ones.

    Raises:
        ConfigError: If ``flip`` is neither ``"on"`` nor ``"off"``.
        DataError: If the layout is not as above, there is one class only, a class is empty or is
            not in every split, or a header cannot be read.
    """
    mirrored = is_on("flip", flip)
    root = resolve_folder(path, data_root)
    folders, remarks = _split_folders(root)
    return _dataset_of_folders(root, folders, name, remarks, flip=mirrored)


def load_imagenet(path: str | None, data_root: str | None, name: str) -> LabelledDataset:
    """Return ImageNet as torchvision's ``ImageFolder`` lays it out: train/WNID/*, val/WNID/*.

    Classes are WordNet ids (Russakovsky et al. 2015, arXiv 1409.0575). The official validation set,
    whose labels are the only public ones, is halved class by class into validation and test, as
    DRoP does (Vysogorets et al. 2024, arXiv 2404.05579); a ``test/`` folder is not looked at. Ids
    and errors are as in :func:`load_folder`.
    """
    root = resolve_folder(path, data_root)
    return _dataset_of_folders(root, {"train": 0, "val": 2}, name, (), turned=False)


def load_tiny_imagenet(path: str | None, data_root: str | None, name: str) -> LabelledDataset:
    """Return Tiny ImageNet from its own folder ``tiny-imagenet-200`` (Le and Yang 2015, CS231n).

    Training images lie in train/WNID/images, validation images in val/images with their classes in
    val/val_annotations.txt. The latter are halved class by class into validation and test, as DRoP
    does; the unlabelled ``test/`` is not looked at. An id is the position in the listing of
    training images, by class and path, then of the lines of val_annotations.txt.

    Raises:
        DataError: If the layout is not as above, an annotation names an unknown class or a file
            that is not there, or a header cannot be read.
    """
    root = resolve_folder(path, data_root)
    class_names = tuple(sorted(_class_folders(root, "train")))
    files, labels = _list_images(root, "train", class_names, Counter())
    held_out, held_out_labels = _annotated(root, class_names)
    return dataset_of_files(
        root,
        files + held_out,
        np.array(labels + held_out_labels),
        np.repeat([0, 2], [len(files), len(held_out)]),
        name=name,
        class_names=class_names,
        turned=False,
    )


def _dataset_of_folders(
    root: Path,
    folders: dict[str, int],
    name: str,
    remarks: Iterable[str],
    *,
    flip: bool = True,
    turned: bool = True,
) -> LabelledDataset:
    """Return the data set of some folders, each with the number of its split."""
    class_names = _common_classes(root, list(folders))
    left_out = Counter[str]()
    files, labels, splits = list[File](), list[int](), list[int]()
    for folder, number in folders.items():
        more, their_labels = _list_images(root, folder, class_names, left_out)
        files += more
        labels += their_labels
        splits += [number] * len(more)
    return dataset_of_files(
        root,
        files,
        np.array(labels),
        np.array(splits),
        name=name,
        class_names=class_names,
        horizontal_flip=flip,
        turned=turned,
        remarks=(*remarks, *_remarks_on_rest(root, folders, left_out)),
    )


def _split_folders(root: Path) -> tuple[dict[str, int], list[str]]:
    """Return the folders of train, maybe validation, and test, with their numbers; and remarks."""
    found = defaultdict[int | None, list[str]](list)
    for name in _folders_in(root):
        found[split_number(name)].append(name)
    for number, usual in ((0, "train"), (2, "test")):
        if not found[number]:
            _refuse_absent(root, usual)
    for number in range(3):
        if len(found[number]) > 1:
            raise DataError(
                f"Expected one folder for each split in {visible(root)}, found "
                f"{listed(found[number])} for the same; remove or rename all but one."
            )
    unused = found[None]
    remark = [f"Folders that are no split are not looked at: {listed(unused)}."] if unused else []
    return {name: number for number in range(3) for name in found[number]}, remark


def _refuse_absent(root: Path, split: str) -> None:
    folders = _folders_in(root)
    below = [name for name in folders if (root / name / split).is_dir()]
    remedy = f"arrange the images as {split}/CLASS/*, and so for the other splits"
    if below:
        remedy = f"give the path of {below[0]!r} in it, which has one"
    elif folders:
        remedy += f" (there are {listed(folders)})"
    raise DataError(f"Expected {split}/ in {visible(root)}, found no such folder; {remedy}.")


def _remarks_on_rest(root: Path, folders: Iterable[str], left_out: Counter[str]) -> Iterator[str]:
    """Say what lies in the folders of the splits without being used."""
    beside = [
        Path(entry.name).suffix.lower()
        for folder in folders
        for entry in _entries(root / folder, left_out)
        if not _is_folder(entry)
    ]
    if loose := sum(suffix in IMAGE_SUFFIXES for suffix in beside):
        yield f"{counted(loose, 'image')} beside the class folders: left out."
    left_out.update(suffix for suffix in beside if suffix not in IMAGE_SUFFIXES)
    hidden = left_out.pop(_HIDDEN, 0)
    if left_out:
        most = left_out.most_common(MOST_NAMES)
        endings = ", ".join(f"{ending or 'no ending'} ({number})" for ending, number in most)
        yield (
            f"{counted(left_out.total(), 'file')} not called like an image: left out; "
            f"{visible(endings)}{', ...' if len(left_out) > MOST_NAMES else ''}."
        )
    if hidden:
        yield f"{counted(hidden, f'{_HIDDEN} file')} or folders: left out."


def _annotated(root: Path, class_names: Sequence[str]) -> tuple[list[File], list[int]]:
    """Return the images of Tiny ImageNet's val/val_annotations.txt, in its order."""
    expected = "the classes of Tiny ImageNet's validation images"
    remedy = "give the path of its folder tiny-imagenet-200"
    with reading(root / "val/val_annotations.txt", expected, remedy) as content:
        lines = content.read().decode().splitlines()
    files, labels = list[File](), list[int]()
    for number, line in enumerate(lines, start=1):
        image, *rest = line.split("\t")
        path = f"val/images/{image}"
        size = file_size(root, path) if is_below(image) else None
        if size is None or not rest or rest[0] not in class_names:
            found = "no such image" if size is None else "no such class in train/"
            raise DataError(
                f"Expected an image of val/images and a class of train/ in line {number} of "
                f"{visible(root)}/val/val_annotations.txt, found "
                f"{' '.join([image, *rest[:1]])!r}: {found}; unpack the archive anew."
            )
        files.append((path, size))
        labels.append(class_names.index(rest[0]))
    return files, labels


def _common_classes(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted class names that all splits share, or raise where they differ."""
    found = {split: _class_folders(root, split) for split in splits}
    _refuse_deeper(root, found)
    first = splits[0]
    for split in splits[1:]:
        for here, there in ((first, split), (split, first)):
            if names := found[here] - found[there]:
                raise DataError(
                    f"Expected the same class folders in {first}/ and {split}/ of "
                    f"{visible(root)}, found {listed(names)} in {here}/ but not in {there}/; "
                    "add or remove them."
                )
    return tuple(sorted(found[first]))


def _refuse_deeper(root: Path, found: dict[str, set[str]]) -> None:
    """Raise where every split has one folder, and the classes are folders in that."""
    for split, (name, *others) in found.items():
        inner = [] if others else _folders_in(root / split / name)
        if not inner:
            return
    raise DataError(
        f"Expected a folder per class in {visible(root / split)}, found only {name!r}, in which "
        f"{listed(inner)} are folders; move those one level up, and so for the other splits."
    )


def _class_folders(root: Path, split: str) -> set[str]:
    folder = root / split
    if not folder.is_dir():
        _refuse_absent(root, split)
    names = set(_folders_in(folder))
    if not names:
        raise DataError(
            f"Expected a folder per class in {visible(folder)}, found none; "
            f"arrange the images as {split}/CLASS/*."
        )
    for name in names:
        if not is_text(name):
            raise DataError(
                f"Expected names of classes in UTF-8 in {visible(folder)}, found "
                f"{os.fsencode(name)!r}; rename that folder."
            )
    return names


def _list_images(
    root: Path, split: str, class_names: Sequence[str], left_out: Counter[str]
) -> tuple[list[File], list[int]]:
    """Return the images of a split and their labels, sorted by class and then by path.

    Nested folders count; files and folders that are hidden or a system's do not, nor do files whose
    name does not end as that of an image: they are counted by their ending.
    """
    files, labels = list[File](), list[int]()
    for label, name in enumerate(class_names):
        found = sorted(_walk(root / split / name, f"{split}/{name}", left_out))
        if not found:
            raise DataError(
                f"Expected images in {visible(root / split / name)}, found none that ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}; add some or remove the class everywhere."
            )
        files += found
        labels += [label] * len(found)
    return files, labels


def _walk(folder: Path, prefix: str, left_out: Counter[str]) -> Iterator[File]:
    facts = folder.stat()
    stack = [(str(folder), prefix, frozenset({(facts.st_dev, facts.st_ino)}))]
    while stack:
        place, prefix, above = stack.pop()
        for entry in _entries(place, left_out):
            path = f"{prefix}/{entry.name}"
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - Path is slow
            if _is_folder(entry):
                facts = entry.stat()
                identity = facts.st_dev, facts.st_ino
                if identity in above:
                    raise DataError(
                        f"Expected folders that end in {visible(folder)}, found that "
                        f"{visible(entry.path)} leads back to one above it; remove that link."
                    )
                stack.append((entry.path, path, above | {identity}))
            elif suffix in IMAGE_SUFFIXES:
                yield path, _size(entry)
            else:
                left_out[suffix] += 1


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


def _folders_in(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


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
