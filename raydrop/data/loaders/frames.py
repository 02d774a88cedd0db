"""Tables of samples: a frame in memory, or a file of comma-separated values or Parquet.

Rows name images, or are the features of a sample themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.brought import (
    NO_SPLIT,
    NO_VALIDATION,
    SHARE,
    TEST_SHARE,
    Part,
    Wishes,
    assembled_rows,
    drawn,
    named_by_content,
    share_between,
    share_option,
)
from raydrop.data.dataset import LabelledDataset
from raydrop.data.held import ArrayInputs, Digest
from raydrop.data.inputs import Inputs
from raydrop.data.loaders.contents import content_of_files
from raydrop.data.loaders.files import dataset_of_files, is_below, is_on, resolve_folder
from raydrop.data.loaders.tables import Table, read_csv
from raydrop.data.reading import spec_of
from raydrop.errors import DataError, in_one_line, unknown_name, visible
from raydrop.store.files import open_regular
from raydrop.study import By
from raydrop.study.catalogue import value_text

ALL = "all"
"""All columns that are not named otherwise."""


def from_frame(
    frame: pd.DataFrame,
    path: str = "file",
    label: str = "label",
    group: str | None = None,
    split: str | None = None,
    root: str | Path = ".",
    *,
    features: str | Sequence[str] | None = None,
    validation: float | str = SHARE,
    test: float = TEST_SHARE,
    flip: bool | str = "off",
    augment: Callable[[Inputs], Inputs] | None = None,
    class_names: Sequence[str] | None = None,
    version: str = "",
    name: str = "",
) -> LabelledDataset:
    """Return the data set of a frame with a row per sample; an id is the row's position.

    Args:
        frame: The rows.
        path: Column of image files, below ``root`` unless they are absolute.
        label: Column of labels, numbers or texts.
        group: Column of groups, if there are any.
        split: Column of splits, named as in :data:`~raydrop.data.loaders.files.SPLITS`. Drawn class
            by class where it is left out.
        root: Folder of the images.
        features: Columns of numbers that are the inputs themselves, instead of images, or ``"all"``
            that are named nowhere else.
        validation: As of :func:`~raydrop.data.from_torch`, where no row is for validation.
        test: Share of each class that is drawn for the test set where there is no split.
        flip: ``"on"`` where a mirror image has the label of the image.
        augment: As of :func:`~raydrop.data.from_torch`.
        class_names: Names of the classes, in the order that they shall have.
        version: A word that stands for the content of the files, instead of their hash.
        name: What a study calls the data set; made of the fingerprint by default.

    Raises:
        ConfigError: If an option has no such value.
        DataError: If a column, a value or a file is missing, or a class is not in every split.

    Example:
        >>> frame = pd.DataFrame({"age": range(40), "sick": ["no", "yes"] * 20})
        >>> from_frame(frame, label="sick", features=["age"]).class_names
        ('no', 'yes')
    """
    wishes = Wishes(
        validation=validation,
        flip=flip,
        augment=augment,
        class_names=class_names,
        version=version,
        name=name,
    )
    columns = {"label": label} | {k: v for k, v in (("group", group), ("split", split)) if v}
    where = _Where("the frame", frame.rename(columns=str).set_axis(range(len(frame))))
    wishes = _noticing(where, columns, wishes)
    if features is not None:
        return _of_features(where, columns, features, test, wishes)
    return _of_images(where, columns | {"image": path}, Path(root).absolute(), True, test, wishes)


def load_table(
    file: str | None,
    data_root: str | None,
    name: str,
    *,
    path: str = "file",
    label: str = "label",
    group: str = "",
    split: str = "",
    root: str = ".",
    features: str = "",
    validation: str = "0.1",
    test: str = "0.2",
    flip: str = "off",
    allow_outside: str = "off",
) -> LabelledDataset:
    """Return the data set that a file describes: ``table:FILE.csv?path=image&label=species``.

    The file has columns with commas between them and a header, or is one of Parquet.

    Options:
        path: Column of image files, relative to the root.
        label: Column of labels.
        group: Column of groups.
        split: Column of splits.
        root: Folder of the images, relative to that of the file.
        features: Columns of numbers with commas between them, or ``all``, instead of images.
        validation: Share of training that becomes validation, or ``test``, where there is none.
        test: Share that becomes the test set where there are no splits.
        flip: ``on`` if a mirror image has the label of the image, which training then uses.
        allow_outside: ``on`` if images may lie outside the folder.

    Raises:
        ConfigError: If an option has no such value.
        DataError: As :func:`from_frame`, and if the file is no such table.
    """
    above, _, last = (file or "").rpartition("/")
    folder = resolve_folder(above or ("/" if (file or "").startswith("/") else "."), data_root)
    outside = is_on("allow_outside", allow_outside)
    if not (outside or is_below(root)):
        raise DataError(
            f"Expected images below {visible(folder)}, found root={visible(root)}; move them, or "
            "say allow_outside=on."
        )
    wishes = Wishes(validation=share_option("validation", validation, "test"), flip=flip)
    where = _Where(visible(folder / last), _read(folder / last), "table:FILE?{}=COLUMN", name)
    columns = {"label": label} | {k: v for k, v in (("group", group), ("split", split)) if v}
    wishes = _noticing(where, columns, wishes)
    share = share_option("test", test)
    if features:
        wanted: str | list[str] = features if features == ALL else features.split(",")
        return _of_features(where, columns, wanted, share, wishes)
    images = (folder / root).resolve() if root != "." else folder
    return _of_images(where, columns | {"image": path}, images, outside, share, wishes)


@dataclasses.dataclass(frozen=True)
class _Where:
    """A frame, and where it is from; its index is what rows are called."""

    called: str
    frame: pd.DataFrame
    example: str = '{}="COLUMN"'
    """How another column is named."""
    name: str = ""
    """Of the data set, where it has a specification."""

    def column(self, key: str, column: str) -> pd.Series[Any]:
        """Return a column without missing values."""
        if column not in self.frame:
            raise DataError(
                f"Expected a column {column!r} in {self.called}, found "
                f"{visible(', '.join(map(str, self.frame)))}; name the right one, as in "
                f"{self.example.format('path' if key == 'image' else key)}."
            )
        values: pd.Series[Any] = self.frame[column]
        missing = values.isna() | values.astype(str).str.strip().str.lower().isin(["", "nan"])
        if missing.any():
            raise DataError(
                f"Expected a value of {column} in every row of {self.called}, found none in row "
                f"{self.frame.index[missing.to_numpy()][0]}; fill it in or remove the row."
            )
        return values


def _read(path: Path) -> pd.DataFrame:
    """Return the table in a file; its index is the row that a spreadsheet shows."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return read_csv(path, "correct the path or the file")
    try:
        with open_regular(path) as file:
            frame = pd.read_parquet(file, engine="pyarrow")
    except Exception as error:  # whatever a broken file makes Arrow raise
        raise DataError(
            f"Expected a table in {visible(path)}, found: {visible(in_one_line(error))}; correct "
            "the path or the file."
        ) from error
    if frame.empty:
        raise DataError(f"Expected a row per sample in {visible(path)}, found none; add them.")
    return frame.set_axis(range(2, len(frame) + 2))


def _noticing(where: _Where, columns: Mapping[str, str], wishes: Wishes) -> Wishes:
    """Say so where a column of splits is not read: test samples would be trained on."""
    if "split" in columns or "split" not in where.frame:
        return wishes
    told = (
        "The column split is not read; where it says which samples are for testing, say "
        f"{where.example.format('split').replace('COLUMN', 'split')}."
    )
    return dataclasses.replace(wishes, remarks=(*wishes.remarks, told))


def _texts(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return values in the shortest form of each."""
    if values.dtype.kind in "fiu":
        return values.map(lambda value: value_text(float(value)))
    return values.astype(str).str.strip()


def _of_images(
    where: _Where,
    columns: Mapping[str, str],
    root: Path,
    outside: bool,
    test: float,
    wishes: Wishes,
) -> LabelledDataset:
    """Return the data set of images in files."""
    texts = {key: _texts(where.column(key, column)) for key, column in columns.items()}
    table = Table(Path(where.called), pd.DataFrame(texts))
    files = table.files(root, outside)
    labels, class_names = _numbered(table, "label", wishes.class_names)
    groups, group_names = (None, ()) if "group" not in texts else _numbered(table, "group", None)
    by: By = "class" if groups is None else "group"
    units, names = (labels, class_names) if groups is None else (groups, group_names)
    splits, remarks = np.zeros(len(files), np.int64), list(wishes.remarks)
    if "split" in texts:
        splits = table.splits()
    else:
        splits[drawn(units, names, by, share_between("test", test), "test")] = 2
        remarks.append(NO_SPLIT.format(test, by))
    if wishes.validation != "test" and not (splits == 1).any():
        share, train = share_between("validation", wishes.validation), np.flatnonzero(splits == 0)
        splits[train[drawn(units[train], names, by, share, "validation")]] = 1
        remarks.append(NO_VALIDATION.format(f"{share:.0%} of the training samples of each {by}"))
    content = "" if wishes.version else content_of_files(root, [path for path, _ in files])
    found = dataset_of_files(
        root,
        files,
        labels,
        splits,
        name=where.name or wishes.name,
        groups=groups,
        content=wishes.content(content),
        class_names=class_names,
        group_names=group_names,
        horizontal_flip=wishes.flipped,
        augment=wishes.augment,
        remarks=tuple(remarks),
    )
    return found if found.name else named_by_content(found)


def _numbered(
    table: Table, column: str, names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the number of each value and the names, in the order given or their own."""
    codes, found = table.codes(column)
    if names is None:
        return codes, found
    numbers = {name: number for number, name in enumerate(names)}
    for name in found:
        if name not in numbers:
            raise unknown_name(column, name, names)
    return np.array([numbers[name] for name in found], np.int64)[codes], tuple(names)


def _of_features(
    where: _Where,
    columns: Mapping[str, str],
    features: str | Sequence[str],
    test: float,
    wishes: Wishes,
) -> LabelledDataset:
    """Return the data set of rows of numbers."""
    given = {key: where.column(key, column) for key, column in columns.items()}
    used = [str(each) for each in where.frame if each not in columns.values()]
    wanted = used if features == ALL else list(features)
    numbers = dict[str, Any]()
    for column in wanted:
        values = pd.to_numeric(where.column("features", column), errors="coerce")
        if values.isna().any():
            at = values.index[values.isna()][0]
            raise DataError(
                f"Expected numbers in the column {column!r} of {where.called}, found "
                f"{visible(where.frame.loc[at, column])!r} in row {at}; make it numbers, or leave "
                "that column out of features."
            )
        numbers[column] = values.to_numpy(np.float32)
    if not numbers:
        raise DataError(
            f"Expected columns of features in {where.called}, found none; name them, as in "
            f"{where.example.format('features')}."
        )
    array = np.stack(list(numbers.values()), axis=1)
    digest = Digest()
    digest.update(array)
    table = Table(Path(where.called), pd.DataFrame({k: _texts(each) for k, each in given.items()}))
    labels, class_names = _numbered(table, "label", wishes.class_names)
    groups, group_names = None, None
    if "group" in given:
        groups, group_names = _numbered(table, "group", None)
    splits = table.splits() if "split" in given else None
    inputs = ArrayInputs(array)
    whole = Part(np.arange(len(array)), inputs, labels, groups)
    wishes = dataclasses.replace(wishes, class_names=class_names, group_names=group_names)
    found = assembled_rows(whole, splits, test, digest.text(), spec_of(inputs), wishes)
    return dataclasses.replace(found, name=where.name) if where.name else found
