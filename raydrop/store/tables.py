"""The files that pass between ``raydrop score`` and ``raydrop select``."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydrop.errors import ConfigError, StoreError, in_one_line, unknown_name, visible
from raydrop.store.files import (
    csv_text,
    expecting,
    misfit,
    open_regular,
    original_text,
    parse_json,
    read_regular,
    written_whole,
)

METADATA_KEY = b"raydrop"

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")

_FACTS = {
    **dict.fromkeys(("method", "dataset", "model"), "text"),
    "higher_is_kept": "yes or no",
    "seed": "count",
    "units": "object",
}

COLUMNS: Mapping[str, str] = {"class": "label", "group": "group"}
"""Columns that number the classes and the groups."""


@dataclass(frozen=True)
class Units:
    """Classes or groups of a data set, U of them, and how the query model did on each."""

    names: list[str]
    """In the order of their numbers."""
    recalls: list[float | None]
    """On validation, (U,); None where they are not known."""
    sizes: list[int]
    """Validation samples of each, (U,)."""


@dataclass(frozen=True)
class ScoreFacts:
    """What ``scores.parquet`` says besides its rows."""

    method: str
    higher_is_kept: bool
    dataset: str
    """Data set and variants."""
    model: str
    seed: int
    """Of the query run."""
    units: dict[str, Units]
    """By ``class`` and, where the data set has groups, ``group``."""

    def units_by(self, by: str) -> Units:
        """Return the classes or the groups; raise a ConfigError where there are none."""
        if by not in COLUMNS:
            raise unknown_name("--by", by, COLUMNS)
        if by not in self.units:
            raise ConfigError(
                f"Expected scores of a data set with groups for --by {by}, found those of "
                f"{self.dataset!r}, which has none; leave --by out, or score one that has them."
            )
        return self.units[by]


def write_scores(path: Path, frame: pd.DataFrame, facts: ScoreFacts) -> None:
    """Write ``scores.parquet``, a row per sample, and the facts in it, or raise a StoreError.

    The columns are ``sample_id, label, score`` and, where the data set has groups, ``group``, where
    samples are files, ``path``.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(asdict(facts)).encode()}
    with _saved(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def read_scores(path: Path) -> tuple[pd.DataFrame, ScoreFacts]:
    """Return what :func:`write_scores` wrote; raise a ConfigError where there is no such file."""
    try:
        with open_regular(path) as file, pq.ParquetFile(file) as opened:
            rows, size = opened.metadata.num_rows, path.stat().st_size
            if rows > size:  # samples have ids, all different, which take more
                raise ValueError(f"{rows} rows in {size} bytes")
            facts = _facts(opened.schema_arrow.metadata[METADATA_KEY])
            columns = ["sample_id", "score", *(COLUMNS[by] for by in facts.units)]
            frame = opened.read(columns).to_pandas()[columns]
        _check_columns(frame, facts)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        absent, other = isinstance(error, FileNotFoundError), "another kind of file"
        found = "no such file" if absent else f"{other} ({in_one_line(error)})"
        raise ConfigError(
            f"Expected scores at {path}, found {found}; "
            "give a file that 'raydrop score --out FILE' wrote."
        ) from error
    return frame, facts


def read_paths(path: Path) -> list[str] | None:
    """Return where each sample's file is below the data's folder, if a file of scores says so."""
    with open_regular(path) as file, pq.ParquetFile(file) as opened:
        if "path" not in opened.schema_arrow.names:
            return None
        return [str(each) for each in opened.read(["path"]).column(0).to_pylist()]


def read_texts(path: Path, what: str, columns: str) -> pd.DataFrame:
    """Return somebody's csv, all cells as texts, or parquet file; raise a ConfigError if neither.

    Empty cells are missing; "01" stays a text, and so does "None".
    """
    try:
        with open_regular(path) as file:
            if path.suffix.lower() == ".parquet":
                return pd.read_parquet(file)
            return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, pa.ArrowException) as error:
        absent = isinstance(error, FileNotFoundError)
        found = "no such file" if absent else f"another kind of file ({in_one_line(error)})"
        raise ConfigError(
            f"Expected {what} at {path}, found {found}; give a csv or parquet file with the "
            f"columns {columns}."
        ) from error


def _facts(content: bytes) -> ScoreFacts:
    """Return what JSON says of scores, or raise a ValueError, KeyError or TypeError."""
    known = parse_json(content)
    _check(known, _FACTS)
    units = known.pop("units")
    _check(units, dict.fromkeys(units, "object"))
    if not {"class"} <= units.keys() <= COLUMNS.keys():
        raise ValueError("no classes")
    kinds = {"names": "text by unit", "recalls": "number by unit", "sizes": "count by unit"}
    for each in units.values():
        _check(each, kinds, {"unit": len(each["names"])})
    return ScoreFacts(**known, units={by: Units(**each) for by, each in units.items()})


def _check(
    values: Mapping[str, Any], kinds: Mapping[str, str], sizes: Mapping[str, int] | None = None
) -> None:
    problem = misfit(values, kinds, sizes)
    if problem:
        raise ValueError(problem)


def _check_columns(frame: pd.DataFrame, facts: ScoreFacts) -> None:
    """Raise a ValueError where columns are of another kind, or classes have other numbers."""
    for column, kinds in {"sample_id": "iu", "score": "iuf"}.items():
        if frame[column].dtype.kind not in kinds:
            raise ValueError(f"{frame[column].dtype} for {column}")
    for by, units in facts.units.items():
        values = frame[COLUMNS[by]]
        if values.dtype.kind not in "iu" or not values.between(0, len(units.names) - 1).all():
            raise ValueError(f"{COLUMNS[by]} that are no numbers of {len(units.names)} names")


def read_recalls(path: Path, names: Sequence[str], by: str) -> NDArray[np.float64]:
    """Return recalls (U,) from a csv with ``class`` or ``group`` and ``recall``.

    Rows match by name, as it is or as :func:`~raydrop.store.files.csv_text` writes it. Where no row
    has a name and no name looks like a number, they may have the positions of the classes or
    groups, from 0, instead: with classes ``1, 10, 2`` nobody can tell whether row 2 is the third
    one or the one that is called so.

    The order is that of ``names``. A ConfigError is raised unless the file gives one recall in
    [0, 1] for every one of them, and no row for anything else.
    """
    expected = f"Expected one row with {by},recall for every {by} in {path}"

    def refuse(found: str) -> NoReturn:
        raise ConfigError(f"{expected}, found {found}.")

    rows: dict[str, tuple[int, str]] = {}
    for line, key, cell in _recall_rows(path, by):
        key = original_text(key)
        key = key if key in names else key.strip()
        if key in rows:
            refuse(f"two for {visible(key)}, in lines {rows[key][0]} and {line}; remove one")
        rows[key] = line, cell
    twice = [visible(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        refuse(
            f"the name {twice[0]} twice in the scores, which no row can tell apart; rename one in "
            "the data set"
        )
    positions = [str(k) for k in range(len(names))]
    named = bool(rows.keys() & {*names}) or any(map(_NUMBER.fullmatch, names))
    keys = positions if not named and rows.keys() <= {*positions} else list(names)
    strays = [visible(key) for key in rows if key not in keys]
    if strays:
        refuse(
            f"{', '.join(strays[:5])}, which {'are' if strays[1:] else 'is'} the name of no {by} "
            f"in the scores ({', '.join(map(visible, names[:5]))}{', …' if names[5:] else ''}); "
            "correct or remove the row"
        )
    absent = [visible(name) for name, key in zip(names, keys, strict=True) if key not in rows]
    if absent:
        refuse(f"none for {', '.join(absent[:5])}; add their rows")
    for key, (line, cell) in rows.items():
        if _NUMBER.fullmatch(cell) is None or not 0 <= float(cell) <= 1:
            raise ConfigError(
                f"Expected recalls in [0, 1] in {path}, found {cell[:40]!r} for {visible(key)} in "
                f"line {line}; measure every one on validation samples."
            )
    return np.array([float(rows[key][1]) for key in keys], dtype=np.float64)


def _recall_rows(path: Path, by: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the key and the recall of every row."""
    try:
        text = read_regular(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        if header.count(by) != 1 or header.count("recall") != 1:
            raise ValueError(f"the columns {', '.join(header)[:80] or 'of nothing'}")
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells in line {reader.line_num}")
            yield reader.line_num, row[header.index(by)], row[header.index("recall")].strip()
    except (OSError, ValueError, csv.Error) as error:
        absent = isinstance(error, FileNotFoundError)
        found = "no such file" if absent else getattr(error, "strerror", None) or error
        raise ConfigError(
            f"Expected a csv with the columns {by},recall at {path}, found {visible(found)}; "
            f"write one row per {by}, its name and its recall, with commas between."
        ) from error


def write_kept(path: Path, samples: pd.DataFrame) -> None:
    """Write ``kept.csv``, a row for each sample that is kept, or raise a StoreError."""
    with _saved(path) as file:
        file.write(csv_text(samples).encode())


@contextlib.contextmanager
def _saved(path: Path) -> Iterator[IO[bytes]]:
    if not path.parent.is_dir():
        raise StoreError(
            f"Expected a folder {path.parent} to write {path.name} into, found none; "
            "make it, or correct --out."
        )
    remedy = "free space there, allow writing, or choose another file with --out"
    with expecting(f"to write {path}", remedy), written_whole(path) as file:
        yield file
