"""What a labelled data set is: inputs, labels and sample ids in three disjoint splits.

Inputs are images, in memory or in files, or anybody's tensors (:mod:`raydrop.data.held`). A sample
id never changes: variants that drop samples or falsify labels keep the ids of the data set that
they start from, so scores and kept samples can be traced back to the original. Everything of
raydrop's own is NumPy or plain values, so data sets pickle and travel between processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from raydrop.data.held import ArrayInputs, OpenedImages, StreamedInputs
from raydrop.data.images import read_image
from raydrop.data.inputs import Inputs, InputSpec
from raydrop.errors import ConfigError, DataError, unknown_name
from raydrop.store.places import copied
from raydrop.study import By, canonical_json

SMALL_SIDE = 64
"""Images whose longer side has at most this many pixels are kept decoded in memory."""
DECODED_BYTES = 2 * 1024**3
"""All images of a data set that are kept so take at most this."""

Indices = NDArray[np.integer[Any]]
"""Positions in a split, (m,)."""
Shape = tuple[int, int, int]
"""Channels, height and width."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory."""

    pixels: NDArray[np.uint8]
    """Grey or RGB values 0...255, (n, C, H, W)."""
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise DataError(
                "Expected images as a uint8 array (n, C, H, W), found "
                f"{self.pixels.dtype} {self.pixels.shape}; convert or reshape it."
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, positions: Indices) -> ArrayImages:
        """Return a copy of some images, in that order."""
        return ArrayImages(self.pixels[positions])


@dataclass(frozen=True)
class FileImages:
    """Images in files, opened when they are needed."""

    paths: tuple[str, ...]
    """File names with ``/`` between folders, relative to :attr:`root` unless they are absolute."""
    root: str
    mode: Literal["RGB", "L"] = "RGB"
    """What images are converted to on opening: colour or grey."""
    url: str = ""
    """What :attr:`root` is a copy of; other machines make a copy of their own."""
    orientations: bytes = b""
    """EXIF orientation of each, 1 to 8, which is undone on opening; empty where all are upright."""
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: Indices) -> FileImages:
        """Return the images at ``positions``, in that order."""
        chosen = positions.tolist()
        turned = self.orientations and bytes(self.orientations[at] for at in chosen)
        paths = tuple(self.paths[at] for at in chosen)
        return dataclasses.replace(self, paths=paths, orientations=turned)

    def file(self, position: int) -> str:
        """Return where on this machine one image is."""
        root = copied(self.url) if self.url else self.root
        return os.path.join(root, self.paths[position])  # noqa: PTH118

    def open(self, position: int) -> PIL.Image.Image:
        """Decode one image, upright and in its own size; :mod:`raydrop.data.images` says how."""
        orientation = self.orientations[position] if self.orientations else 1
        return read_image(self.file(position), self.mode, orientation)


Images = FileImages | OpenedImages
"""Images that are opened when they are needed."""
AnyInputs = ArrayImages | Images | ArrayInputs | StreamedInputs
"""What a split holds: images of raydrop's own, or anybody's tensors."""


def decoded_images(images: Images, height: int, width: int) -> ArrayImages:
    """Decode every image; those of another size are resized (bilinear)."""
    # Threads are of no use: Pillow holds the interpreter lock for images this small.
    pixels = np.empty((len(images), len(images.mode), height, width), np.uint8)
    for position in range(len(images)):
        image = images.open(position)
        if image.size != (width, height):
            image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
        pixels[position] = np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)
    return ArrayImages(pixels)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples that serve one purpose: training, validation or test."""

    ids: NDArray[np.int64]
    """Stable sample ids, (n,)."""
    labels: NDArray[np.int64]
    """Classes 0...K-1, (n,)."""
    inputs: AnyInputs
    groups: NDArray[np.int64] | None = None
    """Groups 0...G-1, (n,), such as label times background; None where the data have none."""

    def __post_init__(self) -> None:
        if self.groups is not None and len(self.groups) != len(self.ids):
            raise DataError(
                f"Expected one group per sample id, found {len(self.groups)} groups for "
                f"{len(self.ids)} ids; give each sample one."
            )
        if not len(self.ids) == len(self.labels) == len(self.inputs):
            raise DataError(
                f"Expected one label and one input per sample id, found {len(self.ids)} ids, "
                f"{len(self.labels)} labels and {len(self.inputs)} inputs; give each sample all."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Indices) -> Split:
        """Return the samples at ``positions``, in that order; ids and labels stay as they are."""
        groups = None if self.groups is None else self.groups[positions]
        inputs = self.inputs.take(positions)
        return Split(self.ids[positions], self.labels[positions], inputs, groups)


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """A classification data set: what is pruned, what guides the pruning, and what judges it.

    Raises:
        DataError: On construction, if labels are out of range, a class is missing from validation
            or test, an id occurs twice, or lengths or shapes disagree.
    """

    name: str
    """Canonical specification, such as ``digits+long_tail(10)``."""
    class_names: tuple[str, ...]
    """Names of the K classes, in the order of their labels."""
    train: Split
    """What is pruned and trained on."""
    validation: Split
    """What quotas, weights and choices of a checkpoint may look at."""
    test: Split
    """What is reported, and nothing else."""
    image_shape: Shape | None
    """Channels, height and width as the model sees them; None where inputs are no images of
    raydrop's own, which it normalises, augments and shows."""
    horizontal_flip: bool
    """Whether an image and its mirror image have the same label."""
    crop_padding: int
    """Pixels that random crops add on every side."""
    fingerprint: str
    """Hash of content, splits and variants; the same data have the same one on any machine."""
    noisy: NDArray[np.bool_] | None = None
    """Which training labels were falsified, (n_train,); None where none ever were."""
    group_names: tuple[str, ...] = ()
    """Names of the G groups, in the order of their numbers; empty where the data have none."""
    unseen_groups: tuple[str, ...] = ()
    """Names of those groups that only validation and test have, to see how they fare."""
    remarks: tuple[str, ...] = ()
    """What was noticed while the data were read, a sentence each, for the plan and the check; not
    part of the fingerprint."""
    spec: InputSpec | None = None
    """What one sample's inputs are, where they are no images."""
    augment: Callable[[Inputs], Inputs] | None = None
    """The user's own augmentation of a batch in training, instead of shifts and mirror images; the
    fingerprint has its source."""

    def __post_init__(self) -> None:
        for name in self.splits():
            self._check_split(name)
        ids, counts = np.unique(
            np.concatenate([split.ids for split in self.splits().values()]), return_counts=True
        )
        if (counts > 1).any():
            raise DataError(
                "Expected every sample id once in all three splits together, found "
                f"{ids[counts > 1][0]} twice or more; give each sample its own."
            )
        if self.noisy is not None and len(self.noisy) != len(self.train):
            raise DataError(
                f"Expected a noise flag for each of the {len(self.train)} training samples, found "
                f"{len(self.noisy)}; give one per sample."
            )

    def _check_split(self, name: str) -> None:
        split = self.splits()[name]
        self._check_range("class", "labels", name)
        images = split.inputs
        if (self.image_shape is None) == (self.spec is None):
            raise DataError(
                f"Expected a shape of images or what other inputs are for {self.name}, found "
                f"{'none' if self.spec is None else 'both'}; give one of them."
            )
        if isinstance(images, ArrayImages) and images.pixels.shape[1:] != self.image_shape:
            raise DataError(
                f"Expected images of shape {self.image_shape} in {name}, found "
                f"{images.pixels.shape[1:]}; make them equal."
            )
        if name != "train":
            self._check_none_missing("class", name)
        if (split.groups is None) != (not self.group_names):
            raise DataError(
                f"Expected groups in every split or in none, found {len(self.group_names)} "
                f"names of groups and {'no' if split.groups is None else 'some'} groups in "
                f"{name}; give every sample one."
            )
        if split.groups is not None:
            self._check_range("group", "groups", name)
            self._check_none_missing("group", name)

    def _check_range(self, by: By, noun: str, split: str) -> None:
        values, count = self.members(by, split), len(self.names(by))
        wrong = values[(values < 0) | (values >= count)]
        if len(wrong):
            raise DataError(
                f"Expected {noun} from 0 to {count - 1} in {split}, found {wrong[0]}; "
                "correct it or name it."
            )

    def _check_none_missing(self, by: By, split: str) -> None:
        unseen = self.unseen_groups if (by, split) == ("group", "train") else ()
        for name, size in zip(self.names(by), self.sizes(by, split), strict=True):
            if size == 0 and name not in unseen:
                raise DataError(
                    f"Expected every {by} in {split}, found a {by} missing from {split}: "
                    f"{name!r}; add samples of it there."
                )

    @classmethod
    def from_content(
        cls,
        content: str,
        *,
        name: str,
        splits: tuple[Split, ...],
        hashed_names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
        **facts: Any,
    ) -> LabelledDataset:
        """Build a data set from fields of its, and its fingerprint, without name and remarks.

        The content is a hash of what the ids stand for, pixels or a listing of files. Classes and
        groups may be called otherwise in the fingerprint.
        """
        names = facts["class_names"], facts.get("group_names", ())
        classes, groups = map(list, hashed_names or names)
        shape, spec = facts["image_shape"], facts.get("spec")
        hashed: list[Any] = [content, classes, list(shape) if spec is None else spec.plain()]
        hashed += [facts["horizontal_flip"], facts["crop_padding"], *([groups] if groups else [])]
        fingerprint = _combine(canonical_json(hashed), _splits_digest(splits))
        train, validation, test = splits
        parts: dict[str, Any] = {"train": train, "validation": validation, "test": test}
        return cls(name=name, fingerprint=fingerprint, **parts, **facts)

    @property
    def input_spec(self) -> InputSpec:
        """What a model gets of one sample."""
        if self.image_shape is not None:
            return InputSpec.image(self.image_shape)
        assert self.spec is not None  # as construction sees to
        return self.spec

    @property
    def noun(self) -> str:
        """What samples are called: images, or samples where inputs are none."""
        return "samples" if self.image_shape is None else "images"

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that whoever feeds this has to import, such as the user's own."""
        held: list[Any] = [self.augment]
        for split in self.splits().values():
            inputs = split.inputs
            if isinstance(inputs, StreamedInputs | OpenedImages):
                held += [getattr(inputs, "collate", None), *_nested(inputs.source)]
        owners = (one if hasattr(one, "__qualname__") else type(one) for one in held)
        return tuple(sorted({str(owner.__module__) for owner in owners}))

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    def splits(self) -> Mapping[str, Split]:
        """Return the three splits by name: ``train``, ``validation``, ``test``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def units(self) -> tuple[By, ...]:
        """Return what samples can be counted by: ``class``, and ``group`` where there are any."""
        return ("class", "group") if self.group_names else ("class",)

    def names(self, by: By) -> tuple[str, ...]:
        """Return the names of the classes or of the groups."""
        if by not in self.units():
            raise ConfigError(
                f"Expected groups in {self.name}, found none; use by='class', or data with groups."
            )
        return self.class_names if by == "class" else self.group_names

    def members(self, by: By, split: str = "train") -> NDArray[np.int64]:
        """Return the class or the group of every sample of a split, (n,)."""
        splits = self.splits()
        if split not in splits:
            raise unknown_name("split", split, splits)
        self.names(by)
        groups = splits[split].groups
        return splits[split].labels if by == "class" or groups is None else groups

    def sizes(self, by: By, split: str = "train") -> NDArray[np.int64]:
        """Return the number of samples of each class or group in a split, (K,) or (G,)."""
        count = len(self.names(by))
        return np.bincount(self.members(by, split), minlength=count).astype(np.int64)

    def class_sizes(self, split: str = "train") -> NDArray[np.int64]:
        """Return :meth:`sizes` of the classes, (K,)."""
        return self.sizes("class", split)

    def derive(
        self,
        name: str,
        *,
        train: Split,
        validation: Split | None = None,
        test: Split | None = None,
        noisy: NDArray[np.bool_] | None = None,
        content: str = "",
        **facts: Any,
    ) -> LabelledDataset:
        """Return a variant of this data set with other splits and a matching fingerprint.

        One that changes nothing keeps the fingerprint. Held-out samples are those of this data set
        by default. The content is a hash of what ids stand for, where images are others than
        before; further facts are fields that are others and enter the fingerprint.
        """
        splits: dict[str, Any] = {
            "train": train,
            "validation": self.validation if validation is None else validation,
            "test": self.test if test is None else test,
        }
        before, after = _splits_digest(self.splits().values()), _splits_digest(splits.values())
        changed = canonical_json([content, facts]) + after if content or facts else after
        fingerprint = self.fingerprint if before == changed else _combine(self.fingerprint, changed)
        facts |= {"name": name, "noisy": noisy, "fingerprint": fingerprint}
        return dataclasses.replace(self, **splits, **facts)

    def fits_decoded(self, limit_bytes: int = DECODED_BYTES) -> bool:
        """Return whether :meth:`decoded` gives inputs in memory; none is decoded here."""
        if self.image_shape is None or self._is_decoded():
            return self._is_decoded()
        size = sum(map(len, self.splits().values())) * math.prod(self.image_shape)
        opened = all(isinstance(split.inputs, Images) for split in self.splits().values())
        return opened and max(self.image_shape[1:]) <= SMALL_SIDE and size <= limit_bytes

    def decoded(self, limit_bytes: int = DECODED_BYTES) -> LabelledDataset:
        """Return the same data set, of the same fingerprint, with its images in memory.

        It is this one where there is nothing to decode, a side is longer than 64 pixels, or the
        uint8 pixels of all splits together are more than the limit.
        """
        if self._is_decoded() or not self.fits_decoded(limit_bytes) or self.image_shape is None:
            return self
        _, height, width = self.image_shape
        decoded: dict[str, Any] = {
            name: dataclasses.replace(split, inputs=decoded_images(split.inputs, height, width))
            for name, split in self.splits().items()
            if isinstance(split.inputs, Images)
        }
        return dataclasses.replace(self, **decoded)

    def _is_decoded(self) -> bool:
        return all(split.inputs.in_memory for split in self.splits().values())


def _nested(source: Any) -> Iterator[Any]:
    """Yield a data set, the one that it is a part of, and so on."""
    while source is not None:
        yield source
        source = getattr(source, "dataset", None)


def crossed(
    labels: NDArray[np.int64], attributes: NDArray[np.int64], num_attributes: int
) -> NDArray[np.int64]:
    """Return the group of each sample, label times attribute, (n,).

    Group k · A + a holds the samples of class k whose attribute is a of A, as in Sagawa et al. 2020
    (arXiv 1911.08731).
    """
    return labels * num_attributes + attributes


def pixel_digest(*arrays: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of some uint8 arrays and their shapes, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(canonical_json(list(array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _combine(first: str, second: str) -> str:
    return hashlib.sha256(f"{first}/{second}".encode()).hexdigest()[:32]


def _splits_digest(splits: Iterable[Split]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(len(split).to_bytes(8, "little"))
        groups = () if split.groups is None else (split.groups,)
        for array in (split.ids, split.labels, *groups):
            # Byte order is fixed, so that every machine hashes the same bytes.
            digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    return digest.hexdigest()
