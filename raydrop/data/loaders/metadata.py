"""Folders of images with a table of labels, splits and groups, such as WILDS' ``metadata.csv``.

Each row names an image, its label, its split and an attribute; groups are label times attribute.
Images keep their size or become 3x224x224 as in :mod:`raydrop.data.loaders.folder`.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset, Indices
from raydrop.data.groups import crossed, without_empty
from raydrop.data.loaders.folder import (
    HALVED,
    SPLITS,
    ImageFile,
    counted,
    dataset_of_files,
    file_size,
    halved,
    is_below,
    is_on,
    resolve_folder,
    split_number,
)
from raydrop.data.variants import number_text
from raydrop.errors import DataError, unknown_name, visible
from raydrop.store.files import MOST_TEXT_BYTES, open_regular
from raydrop.study import By

GROUPINGS = ("crossed", "plain", "none")
"""Groups are label times attribute, the attribute alone, or absent."""
WATERBIRDS = ("landbird", "waterbird"), ("land", "water")
"""Names of labels 0 and 1 and of places 0 and 1."""


_TABLE_SPLITS = {"0": 0, "train": 0, "1": 1, "val": 1, "2": 2, "test": 2, **SPLITS}
MISSING = ("refuse", "skip")
"""What is done where an image is absent that a row names."""
MOST_TABLE_BYTES = 4 * MOST_TEXT_BYTES
"""Tables of images are no longer than this."""


@dataclass(frozen=True)
class Options:
    """Where a table is, what its columns are called, and how it is read."""

    file: str = "metadata.csv"
    """The table, relative to the data set's folder."""
    image: str = "img_filename"
    """Column of image files, relative to the data set's folder."""
    label: str = "y"
    """Column of labels, numbers or texts."""
    split: str = "split"
    """Column of splits: 0, 1, 2, or a name of :data:`~raydrop.data.loaders.folder.SPLITS`."""
    group: str = "place"
    """Column of the attribute, numbers or texts."""
    groups: str = "crossed"
    """One of :data:`GROUPINGS`."""
    flip: str = "off"
    """``on`` if a mirror image has the label of the image, which training then uses."""
    missing: str = "refuse"
    """One of :data:`MISSING`: ``skip`` leaves out the rows whose image is absent."""
    allow_outside: str = "off"
    """``on`` if images may lie outside the data set's folder."""


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

        Values are the same only where their texts are. They are in the order of numbers, where all
        are numbers, and otherwise of texts, as are those of the same number.
        """
        codes, distinct = pd.factorize(self.values[column].to_numpy(object))
        texts = np.asarray(distinct, object)
        numbers = _numbers(texts)
        keys = zip(texts if numbers is None else numbers, texts, strict=True)
        order = [at for at, _ in sorted(enumerate(keys), key=lambda pair: pair[1])]
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks[codes], tuple(texts[order].tolist())

    def known_codes(
        self,
        column: str,
        known: Mapping[str, int],
        read: Callable[[str], int | None] | None = None,
    ) -> NDArray[np.int64]:
        """Return the number of each value, (n,).

        Args:
            column: Its key.
            known: The numbers of what values may be; other texts of the same number count too.
            read: What else gives the number of a value, or None.

        Raises:
            DataError: If a value has none; the message names its row.
        """
        codes, names = self.codes(column)
        found = [known.get(_plain(name).lower()) for name in names]
        if read is not None:
            found = [read(name) if f is None else f for f, name in zip(found, names, strict=True)]
        numbers = np.array([-1 if f is None else f for f in found], np.int64)[codes]
        if numbers.min() < 0:
            at = int(numbers.argmin())
            raise DataError(
                f"Expected every {column} of {visible(self.path)} to be one of {', '.join(known)}, "
                f"found {names[codes[at]]!r} in row {self.values.index[at]}; correct it."
            )
        return numbers

    def splits(self) -> NDArray[np.int64]:
        """Return 0 for each row of train, 1 for one of validation and 2 for one of test, (n,).

        Raises:
            DataError: If a value is none of these, or some rows are called as those of WILDS that
                are distributed like training and others as those that are not.
        """
        numbers = self.known_codes("split", _TABLE_SPLITS, split_number)
        values = self.values["split"].str.casefold().str.replace("-", "_")
        like_training = values.str.startswith("id_").to_numpy(bool)
        for number in (1, 2):
            kinds = [
                sorted(set(values[(numbers == number) & of]))
                for of in (like_training, ~like_training)
            ]
            if all(kinds):
                raise DataError(
                    f"Expected one kind of {('', 'validation', 'test')[number]} rows in "
                    f"{visible(self.path)}, found {kinds[0][0]!r} and {kinds[1][0]!r}; keep "
                    "those of one."
                )
        return numbers

    def with_images(self, root: Path, missing: str, outside: bool) -> tuple[Table, list[str]]:
        """Return the table without the rows whose image is absent, if wanted so, and a remark.

        Args:
            root: Folder that paths start from.
            missing: One of :data:`MISSING`.
            outside: Whether images may lie outside of it.

        Raises:
            ConfigError: If there is no such choice of ``missing``.
            DataError: If no image is there.
        """
        if missing not in MISSING:
            raise unknown_name("choice of what to do where images are missing", missing, MISSING)
        if missing == "refuse":
            return self, []
        # What is outside is left to be refused by name.
        there = [
            not (outside or is_below(path)) or file_size(root, path) is not None
            for path in self.values["image"]
        ]
        if not any(there):
            raise DataError(
                f"Expected images of {visible(self.path)} in {visible(root)}, found none of "
                f"{len(there)}; add them or correct the column of images."
            )
        absent = len(there) - sum(there)
        said = f"{counted(absent, 'row')} of {len(there):,} without an image: left out."
        return dataclasses.replace(self, values=self.values[there]), [said] * bool(absent)

    def files(
        self, root: Path, labels: NDArray[np.int64], outside: bool = False
    ) -> list[ImageFile]:
        """Return the files of all rows, in their order; see :func:`list_rows`."""
        rows = self.values.index
        return list_rows(
            root, self.values["image"], labels.tolist(), rows, str(self.path), outside=outside
        )


def load_metadata(path: str, data_root: str | None, options: Options, name: str) -> ImageDataset:
    """Return the data set that a table in a folder describes.

    An id is the row's position, from 0, among those that are not left out. Groups are label times
    attribute, of which those that occur in no split are left out. Without validation rows, half of
    each group's test rows become validation.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.
        options: Where the table is, what its columns are called, and how it is read.
        name: Canonical specification.

    Raises:
        ConfigError: If an option has no such value.
        DataError: If the table, a column, a value or an image is missing, a split is unknown, an
            image has two rows or lies outside the folder, or a class or group is not in every
            split.
    """
    if options.groups not in GROUPINGS:
        raise unknown_name("choice of groups", options.groups, GROUPINGS)
    flip = is_on("flip", options.flip)
    outside = is_on("allow_outside", options.allow_outside)
    root = resolve_folder(path, data_root)
    table, remarks = read_table(root, options).with_images(root, options.missing, outside)
    labels, class_names = table.codes("label")
    groups, shown, hashed = None, tuple[str, ...](), tuple[str, ...]()
    if options.groups != "none":
        attributes, values = table.codes("group")
        groups = attributes
        shown, hashed = (
            tuple(f"{options.group}={value}" for value in each)
            for each in (values, numbered(values))
        )
        if options.groups == "crossed":
            pairs = crossed(labels, attributes, len(values))
            (groups, shown), (_, hashed) = (
                without_empty(
                    pairs, [f"{label}, {value}" for label in labels_ for value in values_]
                )
                for labels_, values_ in ((class_names, shown), (numbered(class_names), hashed))
            )
    return _build(
        root,
        table,
        labels,
        class_names,
        groups,
        shown,
        name,
        hashed_names=(numbered(class_names), hashed),
        flip=flip,
        outside=outside,
        remarks=remarks,
    )


def load_waterbirds(path: str, data_root: str | None) -> ImageDataset:
    """Return Waterbirds: land and water birds on land and water backgrounds, G = 4.

    Birds of CUB-200 before places of Places365 (Sagawa et al. 2020, arXiv 1911.08731), in the
    folder that its authors and WILDS (Koh et al. 2021, arXiv 2012.07421) distribute:
    ``metadata.csv`` with ``img_filename``, ``y``, ``split`` (0, 1, 2) and ``place``. Group
    2 · y + place, in the order landbird on land, landbird on water, waterbird on land, waterbird on
    water. Training images are cropped as in :mod:`raydrop.data.loaders.folder`; the authors' crops
    keep at least 70 % of the area.

    Args:
        path: The folder; ``~`` is expanded.
        data_root: Where a relative path starts; the current folder by default.

    Raises:
        DataError: As :func:`load_metadata`, and if a label or place is neither 0 nor 1.
    """
    root = resolve_folder(path, data_root)
    table = read_table(root, Options())
    labels, places = (table.known_codes(c, {"0": 0, "1": 1}) for c in ("label", "group"))
    birds, backgrounds = WATERBIRDS
    group_names = tuple(f"{bird} on {place}" for bird in birds for place in backgrounds)
    groups = crossed(labels, places, 2)
    return _build(root, table, labels, birds, groups, group_names, f"waterbirds:{path}")


def read_table(root: Path, columns: Options) -> Table:
    """Return the columns of a table that are asked for.

    Raises:
        DataError: If the table, a column or a value is missing.
    """
    wanted = {key: getattr(columns, key) for key in ("image", "label", "split", "group")}
    if columns.groups == "none":
        del wanted["group"]
    path = table_path(root, columns.file, is_on("allow_outside", columns.allow_outside))
    return Table(path, read_columns(path, wanted, "metadata"))


def table_path(root: Path, file: str, outside: bool = False) -> Path:
    """Return where a data set's table is.

    Raises:
        DataError: If that is not in its folder, and need be.
    """
    if not (outside or is_below(file)):
        raise DataError(
            f"Expected the table of {visible(root)} below that folder, found file={visible(file)}; "
            "move it there, or say allow_outside=on where the data set knows that."
        )
    return root / file


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
                f"Expected a column {column!r} in {visible(path)}, found "
                f"{visible(', '.join(map(str, frame)))}; name the right one, as in "
                f"{dataset}:PATH?{key}=COLUMN."
            )
        empty = frame[column].str.lower().isin(["", "nan"])
        if empty.any():
            raise DataError(
                f"Expected a value of {column} in every row of {path}, found none in row "
                f"{frame.index[empty][0]}; fill it in or remove the row."
            )
    return pd.DataFrame({key: frame[column] for key, column in wanted.items()})


def list_rows(
    root: Path,
    paths: Iterable[str],
    labels: Iterable[int],
    rows: Iterable[object],
    table: str,
    *,
    outside: bool = False,
) -> list[ImageFile]:
    """Return the files that the rows of a table name, in their order.

    A table is often someone else's, so it names files below its folder and no others, unless that
    is allowed; a link there may lead anywhere.

    Args:
        root: Folder that paths start from.
        paths: One path per row.
        labels: Class of each row.
        rows: Number of each row, for messages.
        table: What the rows belong to, for messages.
        outside: Whether files may lie outside of ``root``.

    Raises:
        DataError: If a file is not there, lies outside or occurs twice; the message names it and
            its row.
    """
    files, seen = [], dict[str, object]()
    for path, label, row in zip(paths, labels, rows, strict=True):
        if not (outside or is_below(path)):
            raise DataError(
                f"Expected images below {visible(root)}, found {visible(path)} in row {row} of "
                f"{visible(table)}; correct the row, or say allow_outside=on."
            )
        size = file_size(root, path)
        if size is None:
            raise DataError(
                f"Expected the image {visible(path)} of row {row} of {visible(table)} in "
                f"{visible(root)}, found no such file; add it, correct or remove the row, or leave "
                "out all such rows with missing=skip where the data set knows that."
            )
        same = os.path.normpath(path)
        if same in seen:
            raise DataError(
                f"Expected one row per image in {visible(table)}, found {visible(path)} in rows "
                f"{seen[same]} and {row}; remove one, or a sample may be in two splits."
            )
        seen[same] = row
        files.append(ImageFile(path, size, label))
    return files


def numbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names as they enter fingerprints: numbers in one form, where that keeps them apart."""
    plain = tuple(map(_plain, names))
    return (
        plain
        if _numbers(np.array(names, object)) is not None and len(set(plain)) == len(plain)
        else names
    )


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
    *,
    hashed_names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    flip: bool = True,
    outside: bool = False,
    remarks: list[str] | None = None,
) -> ImageDataset:
    splits = table.splits()
    kind: By = "class" if groups is None else "group"
    if groups is None:
        parts = three_parts(splits, labels, class_names, kind)
    else:
        parts = three_parts(splits, groups, group_names, kind)
    return dataset_of_files(
        root,
        table.files(root, labels, outside),
        parts,
        name=name,
        class_names=class_names,
        groups=groups,
        group_names=group_names,
        hashed_names=hashed_names,
        flip=flip,
        remarks=[*(remarks or []), *([] if (splits == 1).any() else [HALVED.format(kind)])],
    )


def read_csv(path: Path) -> pd.DataFrame:
    """Return a table of stripped texts; its index counts rows as a spreadsheet does.

    Raises:
        DataError: If it cannot be read, has no rows or two columns of the same name.
    """
    try:
        with open_regular(path, MOST_TABLE_BYTES) as file, warnings.catch_warnings():
            # With more cells in rows than in the header, pandas would shift or cut them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Blank lines count, or the rows that messages name would be others than in the file.
            frame = pd.read_csv(
                file,
                dtype=str,
                index_col=False,
                na_filter=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
            )
    # pandas' parser errors are ValueErrors.
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
        raise DataError(
            f"Expected a table with a header and commas in {visible(path)}, found: "
            f"{visible(reason)}; "
            "correct the path or the file, or name it as in metadata:PATH?file=NAME.csv."
        ) from error
    frame = frame.reset_index(drop=True).fillna("").astype(str)
    frame = frame.apply(lambda column: column.str.strip()).set_axis(frame.index + 2)
    frame.columns = frame.columns.str.strip()
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(
            f"Expected columns of different names in {visible(path)}, found {twice!r} twice; "
            "rename one."
        )
    filled: pd.DataFrame = frame[(frame != "").any(axis="columns")]
    if filled.empty:
        raise DataError(f"Expected a row per image in {visible(path)}, found none; add them.")
    return filled


def _numbers(texts: NDArray[np.object_]) -> list[float] | None:
    """Return the numbers that some texts are, or None if one is none."""
    numbers = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(np.float64)
    return numbers.tolist() if np.isfinite(numbers).all() else None


def _plain(text: str) -> str:
    """Return a number in its shortest form, and other texts as they are."""
    numbers = _numbers(np.array([text], object))
    return text if numbers is None else number_text(numbers[0])
