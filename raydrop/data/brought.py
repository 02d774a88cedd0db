"""Data sets from what people have: PyTorch data sets, and arrays.

Inputs may be any tensors, or tuples or dicts of them, and are fed as they are, but for numbers of
double precision, which become single, and for images of bytes, uint8 (n, C, H, W), which raydrop
normalises and augments as its own. Everything is read once, for labels and for a hash of the
content; what fits is kept in memory then, and the rest streams from the data set that was given.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.coding import SPLIT_NAMES, coded, coded_groups, split_codes
from raydrop.data.dataset import (
    DECODED_BYTES,
    SMALL_SIDE,
    AnyInputs,
    ArrayImages,
    LabelledDataset,
    Shape,
    Split,
)
from raydrop.data.held import ArrayInputs, Digest, rows, with_channel
from raydrop.data.inputs import Inputs, InputSpec
from raydrop.data.loaders.files import NOT_MIRRORED, is_on
from raydrop.data.reading import Reading, held, read_all, spec_of
from raydrop.data.sampling import SPLIT_SEED, choose_per_class, halves
from raydrop.errors import ConfigError, DataError
from raydrop.study import By, canonical_json
from raydrop.study.sources import source_of

SHARE, TEST_SHARE = 0.1, 0.2
"""Of the samples of each class that are drawn for validation, and for a test set."""
NO_SPLIT = "There is no split, so {:.0%} of the samples of each {} are the test set."
NO_VALIDATION = "There is no validation split, so {} are validation."
_WHAT = "Inputs are no images ({}): the report has no pictures of samples."


@dataclass(frozen=True)
class Wishes:
    """What is said of data besides the samples themselves."""

    validation: Any = SHARE
    """Share of the training samples of each class that becomes validation where there is none, or
    ``"test"`` for half of the test samples."""
    flip: bool | str = "off"
    crop_padding: int | None = None
    augment: Callable[[Inputs], Inputs] | None = None
    class_names: Sequence[str] | None = None
    group_names: Sequence[str] | None = None
    version: str = ""
    name: str = ""
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.validation is None:
            object.__setattr__(self, "validation", SHARE)
        if self.augment is not None and not callable(self.augment):
            raise ConfigError(
                "Expected a function from a batch of inputs to one for augment, found "
                f"{type(self.augment).__name__}; give for example a transform of torchvision.v2."
            )
        if self.name and not re.fullmatch(r"[^\W\d]\w*", self.name):
            raise ConfigError(
                f"Expected a name of letters, digits and underscores, found {self.name!r}; "
                "rename the data set."
            )

    @property
    def flipped(self) -> bool:
        """Whether mirror images keep their label."""
        return is_on("flip", str(self.flip).replace("True", "on").replace("False", "off"))

    def content(self, digest: str) -> str:
        """Return what stands for the content in the fingerprint."""
        if self.version:
            return f"version {self.version}"
        return digest if self.augment is None else f"{digest}, augment {source_of(self.augment)}"


@dataclass(frozen=True, eq=False)
class Part:
    """A split as it was brought."""

    ids: NDArray[np.int64]
    inputs: AnyInputs
    labels: Any
    groups: Any = None


def from_torch(
    train: Any,
    test: Any,
    validation: Any = SHARE,
    groups: Mapping[str, Any] | None = None,
    *,
    augment: Callable[[Inputs], Inputs] | None = None,
    flip: bool | str = "off",
    crop_padding: int | None = None,
    collate: Callable[[list[Any]], Inputs] | None = None,
    class_names: Sequence[str] | None = None,
    group_names: Sequence[str] | None = None,
    version: str = "",
    name: str = "",
    in_memory: bool | None = None,
    workers: int = 0,
) -> LabelledDataset:
    """Return the data set of some map-style PyTorch data sets.

    Their items are ``(inputs, label)`` or ``(inputs, label, group)``. Inputs are tensors, arrays or
    numbers, tuples or dicts of them, or PIL images, and the same whenever an item is asked for: an
    augmentation belongs into ``augment``. Labels are numbers 0...K-1, or texts. Ids of the training
    samples are their places in ``train``.

    Args:
        train: What is pruned and trained on.
        test: What is reported, and nothing else.
        validation: What guides choices: a data set as well, or a share of the training samples of
            each class that is taken for it, or ``"test"`` for half of the test samples.
        groups: Group of every sample by split, ``{"train": [...], "test": [...]}``, and maybe
            ``"validation"``, where items have none.
        augment: From a batch of inputs, on its device, to one; in training alone, with torch's
            generators seeded. Images are uint8 there, and are not shifted and mirrored besides.
        flip: ``"on"`` where a mirror image has the label of the image.
        crop_padding: Pixels by which images may be shifted in training, by default an eighth of a
            side of small ones.
        collate: From a list of inputs to a batch, as padding does; torch's own by default.
        class_names: Names of the K classes; ``train.classes`` or numbers by default.
        group_names: Names of the groups, where these are numbers.
        version: A word that stands for the content, and for the source of ``augment``, in the
            identity of results, instead of their hashes. Large data sets that know their labels
            besides, as torchvision's ``targets``, are not read then.
        name: What a study calls the data set; made of the fingerprint by default.
        in_memory: Whether inputs are kept in memory; by default where they take at most 2 GiB.
        workers: Processes that read the samples now.

    Raises:
        ConfigError: If an argument is none of the above.
        DataError: If a data set is iterable-style, changes from time to time or has items of
            another kind, inputs make no batch, or labels are missing or out of range.

    Example:
        >>> import torch
        >>> x, y = torch.randn(40, 5), torch.arange(40) % 2
        >>> train = torch.utils.data.TensorDataset(x[:30], y[:30])
        >>> test = torch.utils.data.TensorDataset(x[30:], y[30:])
        >>> from_torch(train, test).class_sizes("validation")
        array([2, 2])
    """
    sources = {"train": train, "test": test}
    if hasattr(validation, "__getitem__") and not isinstance(validation, str):
        sources = {"train": train, "validation": validation, "test": test}
    limit = {None: DECODED_BYTES, True: float("inf"), False: 0}[in_memory]
    found = read_all(sources, collate, limit, workers, version)
    names = class_names or _names_of(train)
    wishes = Wishes(
        validation,
        *(flip, crop_padding, augment, names, group_names, version, name),
    )
    return assembled(*parts_of(found, groups), wishes)


def parts_of(
    found: Mapping[str, Reading], groups: Mapping[str, Any] | None
) -> tuple[dict[str, Part], str, InputSpec | Shape]:
    """Return splits as they were read, the hash of their content, and what inputs are."""
    parts, start = dict[str, Part](), 0
    for split in [split for split in SPLIT_NAMES if split in found]:
        read = found[split]
        ids = np.arange(start, start + len(read.labels))
        given = read.groups if groups is None else groups.get(split)
        parts[split] = Part(ids, read.inputs, read.labels, given)
        start += len(ids)
    content = canonical_json({split: found[split].content for split in found})
    return parts, content, found["train"].spec


def from_arrays(
    x: Any,
    y: Any,
    groups: Any = None,
    *,
    split: Any = None,
    validation: float | str = SHARE,
    test: float = TEST_SHARE,
    augment: Callable[[Inputs], Inputs] | None = None,
    flip: bool | str = "off",
    crop_padding: int | None = None,
    class_names: Sequence[str] | None = None,
    group_names: Sequence[str] | None = None,
    version: str = "",
    name: str = "",
) -> LabelledDataset:
    """Return the data set of arrays, or tensors, whose rows are the samples; ids are their places.

    Args:
        x: Inputs (n, ...), or a tuple or dict of such: features, token ids, images (n, C, H, W).
        y: Label of each sample, (n,): numbers 0...K-1, or texts.
        groups: Group of each sample, (n,), numbers from 0 or texts.
        split: Split of each sample, (n,): ``train``, ``validation`` or ``test``, other names of
            these, or 0, 1, 2. Drawn class by class where it is left out.
        validation: As of :func:`from_torch`, where no sample is for validation.
        test: Share of each class's samples that is drawn for the test set where there is no split.
        augment: As of :func:`from_torch`, and so the following.
        flip: On or off.
        crop_padding: In pixels.
        class_names: In the order of the labels, where these are numbers.
        group_names: Likewise.
        version: Instead of hashes of the content.
        name: What a study calls the data set.

    Raises:
        ConfigError: If an argument is none of the above.
        DataError: If lengths differ, or labels are missing or out of range.

    Example:
        >>> x, y = np.zeros((50, 4), np.float32), np.arange(50) % 5
        >>> from_arrays(x, y).class_sizes()
        array([7, 7, 7, 7, 7])
    """
    values = with_channel(rows(x if not hasattr(x, "to_numpy") else x.to_numpy()))
    inputs = held(ArrayInputs(values))
    if y is None:
        raise DataError("Expected a label of every sample, found none; give them as y.")
    sizes = {"x": len(inputs), "y": len(y)}
    sizes |= {
        name: len(each) for name, each in (("groups", groups), ("split", split)) if each is not None
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size:,} of {name}" for name, size in sizes.items())
        raise DataError(f"Expected as many labels as inputs, found {told}; give each sample all.")
    digest = Digest()
    digest.update(inputs.pixels if isinstance(inputs, ArrayImages) else values)
    wishes = Wishes(
        validation, flip, crop_padding, augment, class_names, group_names, version, name
    )
    whole = Part(np.arange(len(inputs)), inputs, y, groups)
    return assembled_rows(whole, split, test, digest.text(), spec_of(inputs), wishes)


def assembled_rows(
    whole: Part,
    split: Any,
    test: float,
    content: str,
    spec: InputSpec | Shape,
    wishes: Wishes,
) -> LabelledDataset:
    """Return the data set of samples that are listed together, with the split of each, or none."""
    labels, class_names = coded("label", {"all": whole.labels}, wishes.class_names)
    groups, group_names = coded_groups({"all": whole.groups}, wishes.group_names)
    units, names = labels["all"], class_names
    if groups is not None:
        units, names = groups["all"], group_names
    remarks = wishes.remarks
    if split is None:
        share_between("test", test)
        by: By = "class" if groups is None else "group"
        codes = np.zeros(len(units), np.int64)
        codes[drawn(units, names, by, test, "test")] = 2
        remarks += (
            f"There is no split, so {test:.0%} of the samples of each {by} are the test set.",
        )
    else:
        codes = split_codes(split)
    parts = dict[str, Part]()
    for number, each_split in enumerate(SPLIT_NAMES):
        at = np.flatnonzero(codes == number)
        if len(at):
            members = None if groups is None else groups["all"][at]
            part = Part(whole.ids[at], whole.inputs.take(at), labels["all"][at], members)
            parts[each_split] = part
    wishes = dataclasses.replace(
        wishes, class_names=class_names, group_names=group_names or None, remarks=remarks
    )
    return assembled(parts, content, spec, wishes)


def assembled(
    parts: Mapping[str, Part], content: str, spec: InputSpec | Shape, wishes: Wishes
) -> LabelledDataset:
    """Return the data set of its splits, of which validation may be missing."""
    for name in ("train", "test"):
        if name not in parts or not len(parts[name].ids):
            raise DataError(f"Expected samples for {name}, found none; mark some as {name}.")
    labels, class_names = coded(
        "label", {name: part.labels for name, part in parts.items()}, wishes.class_names
    )
    groups, group_names = coded_groups(
        {name: part.groups for name, part in parts.items()}, wishes.group_names
    )
    if len(class_names) < 2:
        raise DataError(
            f"Expected two classes or more, found only {class_names[0]!r}; with one there is "
            "nothing to learn."
        )
    splits = {
        name: Split(part.ids, labels[name], part.inputs, None if groups is None else groups[name])
        for name, part in parts.items()
    }
    remarks = list(wishes.remarks)
    if "validation" not in splits:
        units: tuple[By, tuple[str, ...]] = ("class", class_names)
        if groups is not None:
            units = ("group", group_names)
        remarks.append(_hold_back(splits, *units, wishes.validation))
    image_shape = None if isinstance(spec, InputSpec) else spec
    if image_shape is None:
        remarks.append(_WHAT.format(spec))
    elif not wishes.flipped and wishes.augment is None:
        remarks.append(NOT_MIRRORED)
    found = LabelledDataset.from_content(
        wishes.content(content),
        name=wishes.name,
        splits=tuple(splits[name] for name in SPLIT_NAMES),
        class_names=class_names,
        group_names=group_names,
        image_shape=image_shape,
        spec=None if image_shape is not None else spec,
        horizontal_flip=wishes.flipped and image_shape is not None,
        crop_padding=_padding(image_shape, wishes),
        augment=wishes.augment,
        remarks=tuple(remarks),
    )
    return found if found.name else named_by_content(found)


def named_by_content(dataset: LabelledDataset) -> LabelledDataset:
    """Return a data set with a name that others have not."""
    return dataclasses.replace(dataset, name=f"data_{dataset.fingerprint[:8]}")


def drawn(
    units: NDArray[np.int64], names: Sequence[str], by: By, share: float, purpose: str
) -> NDArray[np.int64]:
    """Return the ascending positions of a share of each class or group, drawn by a fixed seed.

    At least one of each is drawn, and at least one stays.
    """
    sizes = np.bincount(units, minlength=len(names))
    for name, size in zip(names, sizes.tolist(), strict=True):
        if size == 1:
            raise DataError(
                f"Expected two samples or more of every {by}, one of which becomes {purpose}, "
                f"found one of {by} {name!r}; add samples, or give {purpose} samples of its own."
            )
    counts = np.clip(np.rint(share * sizes), np.minimum(sizes, 1), np.maximum(sizes - 1, 0))
    return choose_per_class(units, counts.astype(np.int64), SPLIT_SEED, purpose)


def _hold_back(splits: dict[str, Split], by: By, names: tuple[str, ...], wish: Any) -> str:
    """Take validation from training, or from the test set, and say so."""
    donor = "test" if wish == "test" else "train"
    split = splits[donor]
    units = split.labels if split.groups is None else split.groups
    everything = np.arange(len(split))
    if donor == "test":
        chosen, rest = halves(everything, units, names, by)
        said = f"half of the test samples of each {by}"
    else:
        chosen = drawn(units, names, by, share_between("validation", wish), "validation")
        rest = np.setdiff1d(everything, chosen)
        said = f"{wish:.0%} of the training samples of each {by}"
    splits[donor], splits["validation"] = split.take(rest), split.take(chosen)
    return NO_VALIDATION.format(said)


def share_between(name: str, share: Any) -> float:
    """Return a share of samples, or refuse what is none."""
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 < share < 1:
        others = ', or "test" for half of the test samples' if name == "validation" else ""
        raise ConfigError(
            f"Expected a share between 0 and 1 for {name}{others}, found {share!r}; write for "
            "example 0.1."
        )
    return float(share)


def share_option(option: str, text: str, *words: str) -> Any:
    """Return the share that an option of a specification says, or one of some words."""
    if text in words:
        return text
    try:
        return float(text)
    except ValueError:
        return share_between(option, text)


def _padding(shape: Shape | None, wishes: Wishes) -> int:
    """Return by how many pixels images are shifted."""
    if shape is None or wishes.augment is not None:
        return 0
    if wishes.crop_padding is not None:
        return wishes.crop_padding
    return min(shape[1:]) // 8 if max(shape[1:]) <= SMALL_SIDE else 0


def _names_of(source: Any) -> Sequence[str] | None:
    """Return the names of the classes that a data set of torchvision, or a part of one, knows."""
    inner = getattr(source, "dataset", None)
    names = getattr(source, "classes", None)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return names
    return None if inner is None else _names_of(inner)
