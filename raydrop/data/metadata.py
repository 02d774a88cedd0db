"""Folders of images with a table of labels, splits and groups, such as WILDS' ``metadata.csv``.

Each row names an image, its label, its split and an attribute; groups are label times attribute.
Images keep their size or become 3x224x224 as in :mod:`raydrop.data.folder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset, Indices
from raydrop.data.folder import ImageFile, dataset_of_files, file_size, halved, resolve_folder
from raydrop.data.groups import crossed, without_empty
from raydrop.data.variants import number_text
from raydrop.errors import DataError, unknown_name
from raydrop.study import By

SPLITS = {"0": 0, "train": 0, "1": 1, "val": 1, "valid": 1, "validation": 1, "2": 2, "test": 2}
"""What a split may be called, in any case, and its position: train, validation, test."""
GROUPINGS = ("crossed", "plain", "none")
"""Groups are label times attribute, the attribute alone, or absent."""
WATERBIRDS = ("landbird", "waterbird"), ("land", "water")
"""Names of labels 0 and 1 and of places 0 and 1."""


@dataclass(frozen=True)
class Columns:
    """Where a table is and what its columns are called."""

    file: str = "metadata.csv"
    """The table, relative to the data set's folder."""
    image: str = "img_filename"
    """Column of image files, relative to the data set's folder."""
    label: str = "y"
    """Column of labels, numbers or texts."""
    split: str = "split"
    """Column of splits; see :data:`SPLITS`."""
    group: str = "place"
    """Column of the attribute, numbers or texts."""
    groups: str = "crossed"
    """One of :data:`GROUPINGS`."""


@dataclass(frozen=True, eq=False)
class Table:
    """Checked columns of a table, in texts without surrounding spaces."""

    path: Path
    """Where it was read."""
    values: pd.DataFrame
    """Columns ``image``, ``label``, ``split`` and perhaps ``group``; the index is the row number
    that a spreadsheet shows, where the header is row 1."""

    def codes(self, column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return the position of each value among the distinct ones, (n,), and their texts.

        They are in the order of numbers, where all are numbers, otherwise of texts.
        """
        texts = self.values[column].to_numpy(object)
        numbers = pd.to_numeric(self.values[column], errors="coerce").to_numpy(np.float64)
        if np.isfinite(numbers).all():
            distinct, codes = np.unique(numbers, return_inverse=True)
            return codes.astype(np.int64), tuple(map(number_text, distinct.tolist()))
        names, codes = np.unique(texts, return_inverse=True)
        return codes.astype(np.int64), tuple(names.tolist())

    def known_codes(self, column: str, known: dict[str, int]) -> NDArray[np.int64]:
        """Return the number of each value, (n,).

        Raises:
            DataError: If a value is not among ``known``; the message names its row.
        """
        codes, names = self.codes(column)
        numbers = np.array([known.get(name.lower(), -1) for name in names], np.int64)[codes]
        if numbers.min() < 0:
            at = int(numbers.argmin())
            raise DataError(
                f"Expected every {column} of {self.path} to be one of {', '.join(known)}, found "
                f"{names[codes[at]]!r} in row {self.values.index[at]}; correct it."
            )
        return numbers

    def files(self, root: Path, labels: NDArray[np.int64]) -> list[ImageFile]:
        """Return the files of all rows, in their order.

        Raises:
            DataError: If one is not there; the message names it and its row.
        """
        return list_rows(
            root, self.values["image"], labels.tolist(), self.values.index, str(self.path)
        )


def load_metadata(path: str, data_root: str | None, columns: Columns, name: str) -> ImageDataset:
    """Return the data set that a table in a folder describes.

    An id is the row's position, from 0. Groups are label times attribute, of which those that occur
    in no split are left out. Without validation rows, half of each group's test rows become
    validation.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.
        columns: Where the table is and what its columns are called.
        name: Canonical specification.

    Raises:
        ConfigError: If there is no such way to form groups.
        DataError: If the table, a column, a value or an image is missing, a split is unknown, an
            image has two rows, or a class or group is not in every split.
    """
    if columns.groups not in GROUPINGS:
        raise unknown_name("choice of groups", columns.groups, GROUPINGS)
    root = resolve_folder(path, data_root)
    table = read_table(root, columns)
    labels, class_names = table.codes("label")
    if columns.groups == "none":
        return _build(root, table, labels, class_names, None, (), name)
    groups, values = table.codes("group")
    group_names = tuple(f"{columns.group}={value}" for value in values)
    if columns.groups == "crossed":
        groups = crossed(labels, groups, len(values))
        pairs = [f"{label}, {attribute}" for label in class_names for attribute in group_names]
        groups, group_names = without_empty(groups, pairs)
    return _build(root, table, labels, class_names, groups, group_names, name)


def load_waterbirds(path: str, data_root: str | None) -> ImageDataset:
    """Return Waterbirds: land and water birds on land and water backgrounds, G = 4.

    Birds of CUB-200 before places of Places365 (Sagawa et al. 2020, arXiv 1911.08731), in the
    folder that its authors and WILDS (Koh et al. 2021, arXiv 2012.07421) distribute:
    ``metadata.csv`` with ``img_filename``, ``y``, ``split`` (0, 1, 2) and ``place``. Group
    2 · y + place, in the order landbird on land, landbird on water, waterbird on land, waterbird on
    water. Training images are cropped as in :mod:`raydrop.data.folder`; the authors' crops keep at
    least 70 % of the area.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.

    Raises:
        DataError: As :func:`load_metadata`, and if a label or place is neither 0 nor 1.
    """
    root = resolve_folder(path, data_root)
    table = read_table(root, Columns())
    labels, places = (table.known_codes(c, {"0": 0, "1": 1}) for c in ("label", "group"))
    birds, backgrounds = WATERBIRDS
    group_names = tuple(f"{bird} on {place}" for bird in birds for place in backgrounds)
    groups = crossed(labels, places, 2)
    return _build(root, table, labels, birds, groups, group_names, f"waterbirds:{path}")


def read_table(root: Path, columns: Columns) -> Table:
    """Return the columns of a table that are asked for.

    Raises:
        DataError: If the table, a column or a value is missing.
    """
    wanted = {key: getattr(columns, key) for key in ("image", "label", "split", "group")}
    if columns.groups == "none":
        del wanted["group"]
    path = root / columns.file
    return Table(path, read_columns(path, wanted, "metadata"))


def read_columns(path: Path, wanted: Mapping[str, str], dataset: str) -> pd.DataFrame:
    """Return some columns of a table, in texts, under other names.

    Args:
        path: Of the table.
        wanted: New name of each column, which is the data set's option too, and its name there.
        dataset: Name of the data set, for messages.

    Raises:
        DataError: If the table, a column or a value is missing.
    """
    frame = read_csv(path)
    for key, column in wanted.items():
        if column not in frame:
            raise DataError(
                f"Expected a column {column!r} in {path}, found {', '.join(map(str, frame))}; "
                f"name the right one, as in {dataset}:PATH?{key}=COLUMN."
            )
        empty = frame[column].str.lower().isin(["", "nan"])
        if empty.any():
            raise DataError(
                f"Expected a value of {column} in every row of {path}, found none in row "
                f"{frame.index[empty][0]}; fill it in or remove the row."
            )
    return pd.DataFrame({key: frame[column] for key, column in wanted.items()})


def list_rows(
    root: Path, paths: Iterable[str], labels: Iterable[int], rows: Iterable[object], table: str
) -> list[ImageFile]:
    """Return the files that the rows of a table name, in their order.

    Args:
        root: Folder that paths start from.
        paths: One path per row.
        labels: Class of each row.
        rows: Number of each row, for messages.
        table: What the rows belong to, for messages.

    Raises:
        DataError: If a file is not there or occurs twice; the message names it and its row.
    """
    files, seen = [], dict[str, object]()
    for path, label, row in zip(paths, labels, rows, strict=True):
        size = file_size(root, path)
        if size is None:
            raise DataError(
                f"Expected the image {path} of row {row} of {table} in {root}, found no such file; "
                "add it, or correct or remove the row."
            )
        if path in seen:
            raise DataError(
                f"Expected one row per image in {table}, found {path} in rows {seen[path]} and "
                f"{row}; remove one, or a sample may be in two splits."
            )
        seen[path] = row
        files.append(ImageFile(path, size, label))
    return files


def three_parts(
    splits: NDArray[np.int64], units: NDArray[np.int64], names: tuple[str, ...], kind: By
) -> list[Indices]:
    """Return the positions of train, validation and test.

    Args:
        splits: 0, 1 or 2 for each sample, (n,). Where none is 1, half of each unit's test samples
            become validation.
        units: Class or group of each sample, (n,).
        names: Names of the units.
        kind: What the units are.

    Raises:
        DataError: If no sample is for training or testing, or a unit cannot be halved.
    """
    parts: list[Indices] = [np.flatnonzero(splits == split) for split in range(3)]
    train, validation, test = parts
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise DataError(f"Expected samples for {name}, found none; mark some as {name}.")
    if not len(validation):
        validation, test = halved(test, units, names, kind)
    return [train, validation, test]


def _build(
    root: Path,
    table: Table,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    groups: NDArray[np.int64] | None,
    group_names: tuple[str, ...],
    name: str,
) -> ImageDataset:
    splits = table.known_codes("split", SPLITS)
    if groups is None:
        parts = three_parts(splits, labels, class_names, "class")
    else:
        parts = three_parts(splits, groups, group_names, "group")
    return dataset_of_files(
        root,
        table.files(root, labels),
        parts,
        name=name,
        class_names=class_names,
        groups=groups,
        group_names=group_names,
    )


def read_csv(path: Path) -> pd.DataFrame:
    """Return a table of stripped texts; its index counts rows as a spreadsheet does.

    Raises:
        DataError: If it cannot be read or has no rows.
    """
    try:
        # Blank lines count, or the rows that messages name would be others than in the file.
        frame = pd.read_csv(
            path, dtype=str, na_filter=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise DataError(
            f"Expected a table with a header and commas in {path}, found: {reason}; "
            "correct the path or the file, or name it as in metadata:PATH?file=NAME.csv."
        ) from error
    frame = frame.reset_index(drop=True).fillna("").astype(str)
    frame = frame.apply(lambda column: column.str.strip()).set_axis(frame.index + 2)
    filled: pd.DataFrame = frame[(frame != "").any(axis="columns")]
    if filled.empty:
        raise DataError(f"Expected a row per image in {path}, found none; add them.")
    return filled
