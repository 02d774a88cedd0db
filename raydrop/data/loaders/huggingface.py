"""Data sets of Hugging Face's ``datasets``: objects, folders, and names on the hub.

No code of a data set is run: the version of ``datasets`` that this needs has no loading scripts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from raydrop.data.brought import (
    SHARE,
    TEST_SHARE,
    Part,
    Wishes,
    assembled,
    assembled_rows,
    parts_of,
    share_option,
)
from raydrop.data.coding import SPLIT_NAMES
from raydrop.data.dataset import DECODED_BYTES, LabelledDataset
from raydrop.data.inputs import Inputs
from raydrop.data.loaders.contents import listed
from raydrop.data.loaders.files import split_number
from raydrop.data.reading import read_all
from raydrop.errors import ConfigError, DataError, in_one_line, visible
from raydrop.store.places import data_folder
from raydrop.store.remote import is_url
from raydrop.study import canonical_json


@dataclass(frozen=True, eq=False)
class Columns:
    """A map-style data set of items ``(inputs, label[, group])`` from named columns."""

    rows: Any
    """A ``datasets.Dataset``."""
    input: str | tuple[str, ...]
    label: str
    group: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        row = self.rows[int(position)]
        if isinstance(self.input, str):
            inputs = _tensor(self.input, row[self.input])
        else:
            inputs = {name: _tensor(name, row[name]) for name in self.input}
        groups = () if self.group is None else (row[self.group],)
        return inputs, row[self.label], *groups

    @property
    def content_key(self) -> str:
        """What this machine remembers the content by; empty where it is in no files."""
        files = [str(file["filename"]) for file in self.rows.cache_files]
        beside = [self.rows._fingerprint, self.input, self.label, self.group]
        return listed(files, canonical_json(beside)) if files else ""

    def beside(self) -> tuple[Any, Any]:
        """Return all labels, and all groups or None, without reading inputs."""
        return self.rows[self.label][:], None if self.group is None else self.rows[self.group][:]


def _tensor(column: str, value: Any) -> Any:
    """Return numbers as a tensor, and pictures as they are."""
    import torch

    if isinstance(value, PIL.Image.Image | torch.Tensor):
        return value
    if isinstance(value, str | bytes | Mapping) or value is None:
        raise DataError(
            f"Expected numbers or images in the column {column!r}, found {type(value).__name__}; "
            "have texts tokenised first, and name those columns, as in "
            'input=("input_ids", "attention_mask").'
        )
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Expected numbers or images in the column {column!r}, found {in_one_line(error)}; "
            "make each value an array of numbers."
        ) from error


def from_huggingface(
    ds: Any,
    input: str | Sequence[str] = "image",  # noqa: A002 - what a column is to the model
    label: str = "label",
    group: str | None = None,
    *,
    validation: float | str = SHARE,
    test: float = TEST_SHARE,
    augment: Callable[[Inputs], Inputs] | None = None,
    flip: bool | str = "off",
    crop_padding: int | None = None,
    collate: Callable[[list[Any]], Inputs] | None = None,
    class_names: Sequence[str] | None = None,
    version: str = "",
    name: str = "",
    in_memory: bool | None = None,
) -> LabelledDataset:
    """Return the data set of a ``datasets.DatasetDict``, or of one ``datasets.Dataset``.

    Splits go by their names; without one for testing, those of validation are the test set, and a
    data set without splits is split class by class.

    Args:
        ds: What ``datasets.load_dataset`` returns, not streaming.
        input: Column of images or numbers; several make a dict of tensors.
        label: Column of labels, numbers or texts.
        group: Column of groups, if there are any.
        validation: As of :func:`~raydrop.data.from_torch`, where there is no such split.
        test: Share that is drawn for the test set where there are no splits.
        augment: As of :func:`~raydrop.data.from_torch`, and so the following.
        flip: On or off.
        crop_padding: In pixels.
        collate: From a list of inputs to a batch, such as padding by a tokenizer.
        class_names: Those of a ``ClassLabel`` by default.
        version: Instead of hashes of the content.
        name: What a study calls the data set.
        in_memory: Whether inputs are kept in memory.

    Raises:
        ConfigError: If an argument is none of the above.
        DataError: As by :func:`~raydrop.data.from_torch`, and if columns or splits are missing.

    Example:
        >>> import datasets
        >>> rows = {"input_ids": [[1, 2], [3, 4]] * 20, "label": ["good", "bad"] * 20}
        >>> ds = datasets.Dataset.from_dict(rows)
        >>> from_huggingface(ds, input="input_ids").class_names
        ('bad', 'good')
    """
    splits, remarks = _splits_of(ds)
    inputs = input if isinstance(input, str) else tuple(input)
    wanted = [
        *([inputs] if isinstance(inputs, str) else inputs),
        label,
        *([group] if group else []),
    ]
    sources = {
        k: Columns(_with(each, wanted, k), inputs, label, group) for k, each in splits.items()
    }
    limit = {None: DECODED_BYTES, True: float("inf"), False: 0}[in_memory]
    found = read_all(sources, collate, limit, version=version)
    feature = next(iter(splits.values())).features[label]
    wishes = Wishes(
        *(validation, flip, crop_padding, augment, class_names or getattr(feature, "names", None)),
        version=version,
        name=name,
        remarks=remarks,
    )
    if len(found) == 1:
        read = found["train"]
        whole = Part(np.arange(len(read.labels)), read.inputs, read.labels, read.groups)
        return assembled_rows(whole, None, test, read.content, read.spec, wishes)
    return assembled(*parts_of(found, None), wishes)


def load_huggingface(
    path: str | None,
    data_root: str | None,
    name: str,
    *,
    input: str = "image",  # noqa: A002
    label: str = "label",
    group: str = "",
    config: str = "",
    revision: str = "",
    validation: str = "0.1",
    test: str = "0.2",
    flip: str = "off",
) -> LabelledDataset:
    """Return a data set of the hub or of a folder: ``hf:PATH_OR_NAME?input=img&label=fine_label``.

    A folder is one of ``Dataset.save_to_disk``, or whatever ``datasets.load_dataset`` makes of one.

    Options:
        input: Column of images or numbers, or several with commas between them.
        label: Column of labels.
        group: Column of groups.
        config: Configuration of the data set.
        revision: Commit, branch or tag on the hub.
        validation: Share of training that becomes validation, or ``test``, where there is none.
        test: Share that becomes the test set where there are no splits.
        flip: ``on`` if a mirror image has the label of the image, which training then uses.

    Raises:
        ConfigError: If an option has no such value, or ``datasets`` is not installed.
        DataError: As by :func:`from_huggingface`, and if there is no such data set.
    """
    columns = tuple(each.strip() for each in input.split(","))
    found = from_huggingface(
        _loaded(path or "", data_root, config, revision),
        columns[0] if len(columns) == 1 else columns,
        label,
        group or None,
        validation=share_option("validation", validation, "test"),
        test=share_option("test", test),
        flip=flip,
    )
    return dataclasses.replace(found, name=name)


def _loaded(path: str, data_root: str | None, config: str, revision: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "Expected the package datasets for hf:, found that it is not installed; install it "
            "with pip install 'raydrop[huggingface]'."
        ) from error
    folder: Path | None = data_folder(path, data_root)
    if folder is not None and not is_url(path) and not folder.exists():
        folder = None
    try:
        if folder is not None and any((folder / f).exists() for f in _SAVED):
            return datasets.load_from_disk(str(folder))
        where = path if folder is None else str(folder)
        return datasets.load_dataset(where, config or None, revision=revision or None)
    except Exception as error:  # of the network, of files, of the data set
        raise DataError(
            f"Expected a data set of Hugging Face at {visible(path)}, found: "
            f"{visible(in_one_line(error))}; correct the name or the folder, or connect this "
            "machine."
        ) from error


_SAVED = ("dataset_dict.json", "state.json")


def _splits_of(ds: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the splits of a data set by their usual names, and remarks."""
    if not isinstance(ds, Mapping):
        return {"train": _checked(ds, "train")}, ()
    found = dict[str, Any]()
    for name, split in ds.items():
        number = split_number(str(name))
        if number is None:
            continue
        usual = SPLIT_NAMES[number]
        if usual in found:
            raise DataError(
                f"Expected one split for {usual}, found two, the second {visible(name)!r}; leave "
                "one out."
            )
        found[usual] = _checked(split, str(name))
    if not found or "train" not in found:
        if len(ds) == 1:
            return {"train": _checked(*next(iter((v, str(k)) for k, v in ds.items())))}, ()
        raise DataError(
            f"Expected a split train, found {visible(', '.join(map(str, ds)) or 'none')}; rename "
            "the one to train on."
        )
    remarks: tuple[str, ...] = ()
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
        remarks = ("There is no test split, so that of validation is the test set.",)
    unused = [str(name) for name in ds if split_number(str(name)) is None]
    if unused:
        remarks += (f"Splits that are not used: {', '.join(unused)}.",)
    return {name: found[name] for name in SPLIT_NAMES if name in found}, remarks


def _checked(split: Any, name: str) -> Any:
    if not (hasattr(split, "features") and hasattr(split, "__len__")):
        kind = type(split).__name__
        advice = "load it without streaming=True" if "Iterable" in kind else "give one of datasets"
        raise DataError(
            f"Expected a datasets.Dataset for {name}, found {kind}, whose samples cannot be asked "
            f"for by their index; {advice}."
        )
    return split


def _with(split: Any, wanted: Sequence[str], name: str) -> Any:
    """Return some columns of a split alone."""
    for column in wanted:
        if column not in split.column_names:
            raise DataError(
                f"Expected a column {column!r} in {name}, found "
                f"{visible(', '.join(split.column_names))}; name the right one with input=, label= "
                "or group=."
            )
    return split.select_columns(list(dict.fromkeys(wanted)))
