"""The files that pass between ``raydrop score`` and ``raydrop select``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydrop.errors import ConfigError, StoreError, unknown_name
from raydrop.files import written_whole
from raydrop.selection import select

METADATA_KEY = b"raydrop"

COLUMNS: Mapping[str, str] = {"class": "label", "group": "group"}
"""Columns that number the classes and the groups."""


@dataclass(frozen=True)
class Units:
    """Classes or groups of a data set, U of them, and how the query model did on each."""

    names: list[str]
    """In the order of their numbers."""
    recalls: list[float]
    """Recall of each on validation, (U,)."""
    sizes: list[int]
    """Validation samples of each, (U,)."""


@dataclass(frozen=True)
class ScoreFacts:
    """What ``scores.parquet`` says besides its rows."""

    method: str
    """Name of the method."""
    higher_is_kept: bool
    """Whether the highest scores are kept."""
    dataset: str
    """Data set and variants."""
    model: str
    """Architecture of the query model."""
    seed: int
    """Seed of the query run."""
    units: dict[str, Units]
    """By ``class`` and, where the data set has groups, ``group``."""

    def units_by(self, by: str) -> Units:
        """Return the classes or the groups.

        Raises:
            ConfigError: If ``by`` is something else, or the data set has no groups.
        """
        if by not in COLUMNS:
            raise unknown_name("--by", by, COLUMNS)
        if by not in self.units:
            raise ConfigError(
                f"Expected scores of a data set with groups for --by {by}, found those of "
                f"{self.dataset!r}, which has none; leave --by out, or score one that has them."
            )
        return self.units[by]


def write_scores(path: Path, frame: pd.DataFrame, facts: ScoreFacts) -> None:
    """Write ``scores.parquet`` and the facts in it.

    Args:
        path: Of the file.
        frame: ``sample_id, label, score`` and, where the data set has groups, ``group``; a row per
            sample.
        facts: What else is known of them.

    Raises:
        StoreError: If the file cannot be written.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(asdict(facts)).encode()}
    with _saved(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def read_scores(path: Path) -> tuple[pd.DataFrame, ScoreFacts]:
    """Return what :func:`write_scores` wrote.

    Raises:
        ConfigError: If the file is not there or is not such a file.
    """
    try:
        table = pq.read_table(path)
        known = json.loads(table.schema.metadata[METADATA_KEY])
        units = {by: Units(**there) for by, there in known.pop("units").items()}
        facts = ScoreFacts(**known, units=units)
        frame = table.to_pandas()[["sample_id", "score", *(COLUMNS[by] for by in units)]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = "another kind of file" if path.is_file() else "no such file"
        raise ConfigError(
            f"Expected scores at {path}, found {found}; "
            "give a file that 'raydrop score --out FILE' wrote."
        ) from error
    return frame, facts


def counts_of_best(
    path: Path,
    method: str,
    samples: pd.DataFrame,
    members: NDArray[np.int64],
    count: int,
    budget: int,
    seed: int,
) -> NDArray[np.int64]:
    """Return how many of the best samples by a file's scores each class or group has, (U,).

    Args:
        path: Of the scores.
        method: Whose scores they have to be.
        samples: ``sample_id, label`` of the samples that they have to be of.
        members: Class or group of each sample, (N,).
        count: U, of classes or groups.
        budget: How many samples are the best.
        seed: Settles ties among equal scores.

    Raises:
        ConfigError: If they are of another method or of other samples.
    """
    frame, facts = read_scores(path)
    if facts.method != method:
        raise ConfigError(
            f"Expected scores of {method!r} in {path} for quotas from_method:{method}, found those "
            f"of {facts.method!r}; give the file of that method with --quota-scores."
        )
    if not frame[["sample_id", "label"]].equals(samples[["sample_id", "label"]]):
        raise ConfigError(
            f"Expected scores of the same samples in {path}, found others; "
            "score the same data set by both methods."
        )
    best = select(
        frame["score"].to_numpy(),
        members,
        budget,
        higher_is_kept=facts.higher_is_kept,
        tie_seed=seed,
    )
    return np.bincount(members[best], minlength=count)


def read_recalls(path: Path, names: list[str], by: str) -> NDArray[np.float64]:
    """Return recalls (U,) from a csv with ``class`` or ``group`` (name or number) and ``recall``.

    Raises:
        ConfigError: If the file does not give one recall for every class or group.
    """
    try:
        frame = pd.read_csv(path, dtype={by: str})
        given = {str(k): float(v) for k, v in zip(frame[by], frame["recall"], strict=True)}
    except (OSError, ValueError, KeyError) as error:
        found = "something else" if path.is_file() else "no such file"
        raise ConfigError(
            f"Expected a csv with the columns {by},recall at {path}, found {found}; "
            f"write one row per {by}, its name or number and its recall."
        ) from error
    found_recalls = [given.get(name, given.get(str(k))) for k, name in enumerate(names)]
    absent = [n for n, recall in zip(names, found_recalls, strict=True) if recall is None]
    if absent:
        raise ConfigError(
            f"Expected a recall for every {by} in {path}, found none for {', '.join(absent)}; "
            "add their rows."
        )
    return np.array(found_recalls, dtype=np.float64)


def write_kept(path: Path, samples: pd.DataFrame) -> None:
    """Write ``kept.csv``: ``sample_id, label`` and, if known, ``group`` of what is kept.

    Raises:
        StoreError: If the file cannot be written.
    """
    text = samples.drop(columns="score").to_csv(index=False, lineterminator="\n")
    with _saved(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _saved(path: Path) -> Iterator[IO[bytes]]:
    if not path.parent.is_dir():
        raise StoreError(
            f"Expected a folder {path.parent} to write {path.name} into, found none; "
            "make it, or correct --out."
        )
    try:
        with written_whole(path) as file:
            yield file
    except OSError as error:
        raise StoreError(
            f"Expected to write {path}, found: {error.strerror or error}; "
            "free space there, allow writing, or choose another file with --out."
        ) from error
