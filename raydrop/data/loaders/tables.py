"""Tables that name the images of a folder, with their labels, splits and groups.

A table is often someone else's, so it names files below its folder and no others, unless that is
allowed; a link there may lead anywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.loaders.files import (
    SPLITS,
    File,
    counted,
    file_size,
    is_below,
    one_of,
    split_number,
)
from raydrop.errors import DataError, visible
from raydrop.store.files import MOST_TEXT_BYTES, open_regular
from raydrop.study.catalogue import value_text

MISSING = ("refuse", "skip")
"""What is done where an image is absent that a row names."""

_MOST_BYTES = 4 * MOST_TEXT_BYTES
_SPLITS = {"0": 0, "train": 0, "1": 1, "val": 1, "2": 2, "test": 2, **SPLITS}


@dataclass(frozen=True, eq=False)
class Table:
    """Checked columns of a table, in texts without surrounding spaces."""

    path: Path
    """Where it was read."""
    values: pd.DataFrame
    """Columns ``image``, ``label`` and maybe others; the index is the row number that a spreadsheet
    shows, where the header is row 1."""

    def codes(self, column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return the position of each value among the distinct ones, (n,), and their texts.

        Values are the same only where their texts are. They are in the order of numbers, where all
        are numbers, and otherwise of texts, as are those of the same number.
        """
        codes, distinct = pd.factorize(self.values[column].to_numpy(object))
        texts = np.asarray(distinct, object).tolist()
        numbers = _numbers(texts) or [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda at: (numbers[at], texts[at]))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks[codes], tuple(texts[at] for at in order)

    def known_codes(
        self,
        column: str,
        known: Mapping[str, int],
        read: Callable[[str], int | None] = lambda _: None,
    ) -> NDArray[np.int64]:
        """Return the number of each value, (n,), or refuse one that has none by its row.

        Known are the numbers of what values may be, where other texts of the same number count too;
        ``read`` may know more.
        """
        codes, names = self.codes(column)
        found = [known.get(_plain(name).lower(), read(name)) for name in names]
        numbers = np.array([-1 if each is None else each for each in found], np.int64)[codes]
        if numbers.min() < 0:
            at = int(numbers.argmin())
            raise DataError(
                f"Expected every {column} of {visible(self.path)} to be one of {', '.join(known)}, "
                f"found {names[codes[at]]!r} in row {self.values.index[at]}; correct it."
            )
        return numbers

    def splits(self) -> NDArray[np.int64]:
        """Return 0 for each row of train, 1 for one of validation and 2 for one of test, (n,).

        Rows that are called as those of WILDS that are distributed like training do not mix with
        others of the same split.
        """
        numbers = self.known_codes("split", _SPLITS, split_number)
        values = self.values["split"].str.casefold().str.replace("-", "_")
        like_training = values.str.startswith("id_").to_numpy(bool)
        for number, name in ((1, "validation"), (2, "test")):
            kinds = [
                sorted(set(values[(numbers == number) & of]))
                for of in (like_training, ~like_training)
            ]
            if all(kinds):
                raise DataError(
                    f"Expected one kind of {name} rows in {visible(self.path)}, found "
                    f"{kinds[0][0]!r} and {kinds[1][0]!r}; keep those of one."
                )
        return numbers

    def with_images(self, root: Path, missing: str, outside: bool) -> tuple[Table, tuple[str, ...]]:
        """Return the table without the rows whose image is absent, if wanted so, and remarks."""
        if one_of("choice of what to do where images are missing", missing, MISSING) == "refuse":
            return self, ()
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
        return dataclasses.replace(self, values=self.values[there]), (said,) * bool(absent)

    def files(self, root: Path, outside: bool = False) -> list[File]:
        """Return the files that the rows name, in their order.

        Refused is, by name and row, what is not there, what lies outside of ``root``, unless that
        is allowed, and what occurs twice.
        """
        files, seen = list[File](), dict[str, object]()
        for row, path in self.values["image"].items():
            if not (outside or is_below(path)):
                raise DataError(
                    f"Expected images below {visible(root)}, found {visible(path)} in row {row} of "
                    f"{visible(self.path)}; correct the row, or say allow_outside=on."
                )
            size = file_size(root, path)
            if size is None:
                raise DataError(
                    f"Expected the image {visible(path)} of row {row} of {visible(self.path)} in "
                    f"{visible(root)}, found no such file; add it, correct or remove the row, or "
                    "leave out all such rows with missing=skip where the data set knows that."
                )
            same = os.path.normpath(path)
            if same in seen:
                raise DataError(
                    f"Expected one row per image in {visible(self.path)}, found {visible(path)} in "
                    f"rows {seen[same]} and {row}; remove one, or a sample may be in two splits."
                )
            seen[same] = row
            files.append((path, size))
        return files


def read_table(
    root: Path, file: str, wanted: Mapping[str, str], dataset: str, *, outside: bool = False
) -> Table:
    """Return some columns of a data set's table, in texts, under other names.

    Wanted is, by new name of a column, which is the data set's option too, its name there. The
    table lies below the folder, unless ``outside``.
    """
    if not (outside or is_below(file)):
        raise DataError(
            f"Expected the table of {visible(root)} below that folder, found file={visible(file)}; "
            "move it there, or say allow_outside=on where the data set knows that."
        )
    path = root / file
    remedy = "correct the path or the file, or name it as in metadata:PATH?file=NAME.csv"
    frame = read_csv(path, remedy)
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
    return Table(path, pd.DataFrame({key: frame[column] for key, column in wanted.items()}))


@contextlib.contextmanager
def reading(path: Path, expected: str, remedy: str) -> Iterator[IO[bytes]]:
    """Open a text that is no longer than a table can be, and say in a sentence what goes wrong."""
    try:
        with open_regular(path, _MOST_BYTES) as file, warnings.catch_warnings():
            # With more cells in rows than in the header, pandas would shift or cut them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield file
    # pandas' parser errors and what is no UTF-8 are ValueErrors.
    except (OSError, ValueError, KeyError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
        raise DataError(
            f"Expected {expected} in {visible(path)}, found: {visible(reason)}; {remedy}."
        ) from error


def numbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names as they enter fingerprints: numbers in one form, where that keeps them apart."""
    plain = tuple(map(_plain, names))
    apart = _numbers(names) is not None and len(set(plain)) == len(plain)
    return plain if apart else names


def read_csv(path: Path, remedy: str) -> pd.DataFrame:
    """Return a table of stripped texts; its index counts rows as a spreadsheet does."""
    with reading(path, "a table with a header and commas", remedy) as file:
        # Blank lines count, or the rows that messages name would be others than in the file.
        frame = pd.read_csv(
            file,
            dtype=str,
            index_col=False,
            na_filter=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
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


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """Return the numbers that some texts are, or None if one is none."""
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64)
    return numbers.tolist() if np.isfinite(numbers).all() else None


def _plain(text: str) -> str:
    """Return a number in its shortest form, and other texts as they are."""
    numbers = _numbers([text])
    return text if numbers is None else value_text(numbers[0])
