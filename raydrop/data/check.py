"""A look at a data set before a study: what is there, and what would spoil its results.

Two images are the same where models see the same pixels before any resizing: however they were
compressed or named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image

from raydrop.data import DATASETS, load_dataset
from raydrop.data.dataset import (
    SMALL_SIDE,
    AnyInputs,
    ArrayImages,
    FileImages,
    LabelledDataset,
)
from raydrop.data.held import ArrayInputs, OpenedImages, StreamedInputs
from raydrop.data.images import UnreadableImageError, open_image
from raydrop.data.loaders.files import LARGE_SHAPE, split_number
from raydrop.data.loaders.folder import IMAGE_SUFFIXES
from raydrop.data.spec import DatasetSpec, parse_spec
from raydrop.data.thumbnails import can_be_shown
from raydrop.errors import DataError, visible
from raydrop.store.files import open_regular
from raydrop.store.places import data_folder
from raydrop.study import By

FEW = 10
"""With fewer validation images than this, the recall of a class moves in steps of more than 0.1."""

_SAME = {
    ("train", "test"): "what was trained on is no test, so remove them from one of the two",
    ("train", "validation"): "recalls that quotas and weights read are too good, so remove them "
    "from one of the two",
    ("validation", "test"): "what guided choices is no test, so remove them from one of the two",
    ("train", "train"): "pruning keeps or drops each copy by itself",
    ("validation", "validation"): "each copy counts",
    ("test", "test"): "each copy counts",
}
"""Splits with the same images, and what follows from it."""
_THUMBNAIL = re.compile(r"@eadir|__macosx|\.?_?thumb(nail)?s?|thumb[_-].*|synophoto_thumb.*", re.I)
"""Folders in which file managers keep small copies of images, and files that are such copies."""
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
_STOPS = "a study would stop there, so replace or remove them"
_RESIZED = "they are resized, whatever their proportions"
_HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)

Compared = Literal["pixels", "bytes", "inputs", "nothing"]
Progress = Callable[[Sequence[int]], Iterable[int]]
"""Gives the same numbers, and shows how far it is."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set, or suspicious."""

    kind: str
    """What some are, the same words for every data set, such as ``in train and test``."""
    count: int
    of: int
    noun: str
    """What they are: images, classes, ..."""
    names: tuple[str, ...]
    """All of them, by file or by name."""
    advice: str
    """What follows from it, and what to do."""
    fatal: bool = False
    """Whether a study would fail, or say nothing."""

    def brief(self, most: int = 1) -> str:
        """Say what was found and at most so many names, in characters that can be shown."""
        return f"{self.kind}: {self.count:,} of {self.of:,} {self.noun} ({_some(self.names, most)})"

    def __str__(self) -> str:
        return f"{self.brief(most=3)}; {self.advice}"


@dataclass(frozen=True)
class Files:
    """What files have, before anything is converted or resized."""

    formats: dict[str, int]
    """How many files are of each format, whatever their names end in."""
    modes: dict[str, int]
    """How many have each of Pillow's modes, such as ``L`` (grey) and ``RGB``."""
    widths: tuple[int, int]
    """Least and most, in pixels; and so the heights."""
    heights: tuple[int, int]

    def __str__(self) -> str:
        kinds = [f"{n:,} {name}" for name, n in (*self.formats.items(), *self.modes.items())]
        sizes = [str(a) if a == b else f"{a} to {b}" for a, b in (self.widths, self.heights)]
        return f"{', '.join(kinds)}, {sizes[0]} wide and {sizes[1]} high"


@dataclass(frozen=True)
class DataCheck:
    """What a look at a data set found."""

    spec: str
    """What was understood, a canonical specification."""
    image_shape: tuple[int, int, int] | None
    """None where inputs are no images."""
    inputs: str
    """What a model gets of a sample, such as ``3x32x32``."""
    in_memory: bool
    """Whether images are decoded once, rather than read in every epoch."""
    horizontal_flip: bool
    files: Files | None
    """None where images are in no files, or none could be read."""
    classes: dict[str, dict[str, int]]
    """Samples of each class in train, validation and test; and so of each group."""
    groups: dict[str, dict[str, int]]
    compared: Compared
    """What of samples was compared; drawn numbers may well coincide."""
    remarks: tuple[str, ...]
    """What loading noticed, a sentence each."""
    findings: tuple[Finding, ...]

    @property
    def fatal(self) -> bool:
        """Whether a study of these data would fail, or say nothing."""
        return any(finding.fatal for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return dataclasses.asdict(self) | {"fatal": self.fatal}


def check_data(
    text: str, data_root: str | None = None, *, quick: bool = False, progress: Progress = iter
) -> DataCheck:
    """Look at all of a data set, a specification or a folder; its files are read one by one.

    Nothing is kept but hashes, so the data may be larger than memory. A quick look decodes no file:
    it reads headers, and compares bytes. ``progress`` sees the numbers of files as they are read.

    Raises:
        ConfigError: If the specification names something unknown or its arguments do not fit.
        DataError: If the data are absent or inconsistent.
    """
    spec = understood(text, data_root)
    try:
        dataset = load_dataset(str(spec), data_root)
    except UnreadableImageError as error:
        raise _all_unreadable(spec, data_root, error, progress) from error
    samples = list(_samples(dataset, dataset, quick, progress))
    broken = [each.name for each in samples if not each.pixels]
    in_files = isinstance(dataset.train.inputs, FileImages)
    compared: Compared = "bytes" if quick and in_files else "pixels"
    if dataset.image_shape is None:
        compared = "inputs"
    return DataCheck(
        spec=dataset.name,
        image_shape=dataset.image_shape,
        inputs=str(dataset.input_spec),
        in_memory=dataset.fits_decoded(),
        horizontal_flip=dataset.horizontal_flip,
        files=_files([each for each in samples if each.format]),
        classes=_sizes(dataset, "class"),
        groups=_sizes(dataset, "group") if dataset.group_names else {},
        compared=compared if _is_compared(dataset) else "nothing",
        remarks=dataset.remarks,
        findings=(
            *_found("unreadable", broken, len(samples), "images", _STOPS, fatal=True),
            *_odd_classes(dataset),
            *(_odd_tree(samples) if in_files else ()),
            *_odd_sizes(dataset, samples),
            *_same_images(dataset, samples),
            *(each for by in dataset.units() for each in _few_in_validation(dataset, by)),
        ),
    )


def glance(
    dataset: LabelledDataset, decoded: LabelledDataset, by: By | None = None
) -> list[Finding]:
    """Return what can be found without reading a file; images are compared if in memory."""
    in_memory = all(split.inputs.in_memory for split in decoded.splits().values())
    return [
        *(_same_images(dataset, list(_samples(dataset, decoded))) if in_memory else ()),
        *(_few_in_validation(dataset, by) if by is not None else ()),
    ]


def understood(text: str, data_root: str | None) -> DatasetSpec:
    """Return what a specification means; a folder alone is one of images."""
    name = re.split(r"[:?(+]", text, maxsplit=1)[0].strip()
    if name not in DATASETS:
        spec = parse_spec(f"imagefolder:{text}")
        if "/" in text or (spec.path and data_folder(spec.path, data_root).exists()):
            return spec
    return parse_spec(text)


class _Sample(NamedTuple):
    """A sample, and what was seen of its image."""

    split: str
    name: str
    """Its file, or split and id."""
    of_class: str
    noisy: bool
    """Whether the label is false on purpose."""
    pixels: bytes
    """Hash of what is compared, pixels or the file; empty where the image is unreadable."""
    content: bytes = b""
    """Hash of its file."""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    """Width and height in the file."""


def _samples(
    dataset: LabelledDataset,
    decoded: LabelledDataset,
    quick: bool = False,
    progress: Progress = iter,
) -> Iterator[_Sample]:
    """Look at all samples: those of train, then of validation, then of test."""
    for name, split in dataset.splits().items():
        files, images = split.inputs, decoded.splits()[name].inputs
        every, ids = range(len(split)), split.ids
        for at in every if images.in_memory else progress(every):
            yield _Sample(
                name,
                files.paths[at] if isinstance(files, FileImages) else f"{name} sample {ids[at]}",
                dataset.class_names[split.labels[at]],
                name == "train" and dataset.noisy is not None and bool(dataset.noisy[at]),
                *_seen(images, at, quick),
            )


def _seen(
    images: AnyInputs, at: int, quick: bool
) -> tuple[bytes] | tuple[bytes, bytes, str, str, tuple[int, int]]:
    """Return what is compared, the hash of the file, its format, mode and size."""
    if isinstance(images, ArrayImages):
        pixels = np.ascontiguousarray(images.pixels[at])
        return (hashlib.blake2b(pixels.data, digest_size=16).digest(),)
    if isinstance(images, ArrayInputs | StreamedInputs):
        return (images.bytes_of(at),)
    if isinstance(images, OpenedImages):
        picture = images.open(at)
        return (_picture_hash(picture),)
    try:
        with open_image(images.file(at)) as image:
            facts = str(image.format), image.mode, image.size
        with open_regular(images.file(at)) as file:
            content = hashlib.file_digest(file, "sha256").digest()
        if quick:
            return content, content, *facts
        picture = images.open(at)
    except (UnreadableImageError, OSError):
        return (b"",)
    return _picture_hash(picture), content, *facts


def _picture_hash(picture: PIL.Image.Image) -> bytes:
    seen = repr(picture.size).encode() + picture.tobytes()
    return hashlib.blake2b(seen, digest_size=16).digest()


def _files(read: Sequence[_Sample]) -> Files | None:
    if not read:
        return None
    widths, heights = zip(*(each.size for each in read), strict=True)
    return Files(
        dict(Counter(each.format for each in read).most_common()),
        dict(Counter(each.mode for each in read).most_common()),
        (min(widths), max(widths)),
        (min(heights), max(heights)),
    )


def _sizes(dataset: LabelledDataset, by: By) -> dict[str, dict[str, int]]:
    columns = {split: dataset.sizes(by, split).tolist() for split in dataset.splits()}
    return {
        name: {split: sizes[at] for split, sizes in columns.items()}
        for at, name in enumerate(dataset.names(by))
    }


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    first = ", ".join(map(visible, names[:most]))
    return f"{first} and {more:,} more" if more > 0 else first


def _found(
    kind: str, names: Iterable[str], of: int, noun: str, advice: str, *, fatal: bool = False
) -> Iterator[Finding]:
    """Yield a finding where there is anything to be named."""
    if every := tuple(names):
        yield Finding(kind, len(every), of, noun, every, advice, fatal)


def _all_unreadable(
    spec: DatasetSpec, data_root: str | None, error: DataError, progress: Progress
) -> DataError:
    """Return one error for all files that cannot be read, where loading stopped at the first."""
    if not spec.path:
        return error
    folder = data_folder(spec.path, data_root)
    paths = sorted(
        os.path.relpath(f"{place}/{name}", folder)
        for place, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )
    images = FileImages(tuple(paths), str(folder))
    broken = [
        paths[at] for at in progress(range(len(paths))) if not _seen(images, at, quick=False)[0]
    ]
    if len(broken) < 2:
        return error
    return DataError(
        f"Expected readable images in {visible(folder)}, found {len(broken):,} of {len(paths):,} "
        f"that are not: {_some(broken)}; replace or remove them."
    )


def _odd_classes(dataset: LabelledDataset) -> Iterator[Finding]:
    """Find what the names of classes tell of a wrong folder or column."""
    names, count = dataset.class_names, len(dataset.class_names)
    splits = (name for name in names if split_number(name) is not None)
    advice = "is the tree a level too deep, or the column another one?"
    yield from _found("called as a split is", splits, count, "classes", advice)
    hashes = (name for name in names if _HASH.fullmatch(name))
    advice = "are labels names of files, or of people?"
    yield from _found("called as a hash is", hashes, count, "classes", advice)
    if count > 2 and len(dataset.train) < 2 * count:
        kind = "with hardly more training images than classes"
        advice = "are labels names of files, or numbers that measure something?"
        yield from _found(kind, names, count, "classes", advice)


def _odd_tree(samples: Sequence[_Sample]) -> Iterator[Finding]:
    """Find what the names of files tell."""
    thumbnails, direct, below = list[str](), set[str](), dict[str, set[str]]()
    for each in samples:
        *folders, file = each.name.split("/")
        places = [folder for folder in folders if folder != each.of_class]
        if any(map(_THUMBNAIL.fullmatch, (*places, Path(file).stem))):
            thumbnails.append(each.name)
        if folders[1:2] == [each.of_class] and len(folders) > 2:
            below.setdefault(each.of_class, set()).add(folders[2])
        else:
            direct.add(each.of_class)
    kind = "maybe thumbnails of a file manager"
    advice = "they would be trained and tested on, so remove them"
    yield from _found(kind, thumbnails, len(samples), "images", advice)
    # Tiny ImageNet and others have one such folder in each class.
    deep = (k for k, within in below.items() if k not in direct and len(within) > 1)
    kind = "with images in further folders alone"
    advice = "those folders are no classes; move them up if they should be"
    yield from _found(kind, deep, len(direct | {*below}), "classes", advice)


def _odd_sizes(dataset: LabelledDataset, samples: Sequence[_Sample]) -> Iterator[Finding]:
    """Find what models see otherwise than files have it."""
    if dataset.image_shape is None:
        return
    channels, height, width = dataset.image_shape
    text = f"{width}x{height}"
    sizes = Counter(each.size for each in samples if each.format)
    usual, kind, advice = (width, height), f"of another size than {text}", _RESIZED
    if dataset.image_shape == LARGE_SHAPE and sizes:
        usual, kind = sizes.most_common(1)[0][0], "small, but of another size than most"
        advice = f"so all are enlarged to {text} and take long; give them one size"
    if dataset.image_shape != LARGE_SHAPE or max(map(max, sizes), default=99) <= SMALL_SIDE:
        odd = (each.name for each in samples if each.format and each.size != usual)
        yield from _found(kind, odd, len(samples), "images", advice)
    if channels == 1:
        odd = (each.name for each in samples if each.mode and each.mode not in _GREY)
        advice = "models see their grey alone"
        yield from _found("not stored as grey", odd, len(samples), "images", advice)


def _is_compared(dataset: LabelledDataset) -> bool:
    return dataset.image_shape is None or can_be_shown(dataset)


def _same_images(dataset: LabelledDataset, samples: Sequence[_Sample]) -> Iterator[Finding]:
    """Find images that are there more than once."""
    if not _is_compared(dataset):
        return
    groups = dict[bytes, list[_Sample]]()
    for each in samples:
        if each.pixels:
            groups.setdefault(each.pixels, []).append(each)
    copies = [same for same in groups.values() if len(same) > 1]
    for (first, second), advice in _SAME.items():
        pairs = [pair for same in copies for pair in _pairs(same, first, second)]
        exact = sum(a.content == b.content != b"" for a, b in pairs)
        yield from _found(
            f"in {first} and {second}" if first != second else f"more than once in {first}",
            (f"{a.name} = {b.name}" for a, b in pairs),
            sum(each.split == second for each in samples),
            f"{second} {dataset.noun}",
            f"{exact:,} byte for byte; {advice}" if exact else advice,
        )
    labelled = ([each for each in same if not each.noisy] for same in copies)
    yield from _found(
        "the same under different labels",
        (
            " = ".join(f"{each.name} ({each.of_class})" for each in same)
            for same in labelled
            if len({each.of_class for each in same}) > 1
        ),
        len(groups),
        f"distinct {dataset.noun}",
        "no network can be right about all of them, so correct or remove them",
    )


def _pairs(same: Sequence[_Sample], first: str, second: str) -> Iterator[tuple[_Sample, _Sample]]:
    """Pair same images of two splits, or of one: a pair for each that could go from the second."""
    here = [each for each in same if each.split == first]
    there = [each for each in same if each.split == second]
    return ((here[0], each) for each in there[first == second :] if here)


def _few_in_validation(dataset: LabelledDataset, by: By) -> Iterator[Finding]:
    sizes = dataset.sizes(by, "validation").tolist()
    few = sorted((size, name) for size, name in zip(sizes, dataset.names(by), strict=True))
    yield from _found(
        f"with fewer than {FEW} validation {dataset.noun}",
        (f"{name}: {size}" for size, name in few if size < FEW),
        len(sizes),
        "classes" if by == "class" else "groups",
        "too few for recalls that quotas and weights read; hold more back, or set recall_smoothing "
        "and minimum_per_class",
    )
