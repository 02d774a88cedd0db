"""The files that pass between ``raydrop score`` and ``raydrop select``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydrop.errors import ConfigError, StoreError
from raydrop.selection import select

METADATA_KEY = b"raydrop"


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
    class_names: list[str]
    """Names of the classes, in the order of the labels."""
    validation_recalls: list[float]
    """Recall of every class on validation, of the query model, (K,)."""
    validation_sizes: list[int]
    """Validation samples of every class, (K,)."""


def write_scores(
    path: Path,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    facts: ScoreFacts,
) -> None:
    """Write ``scores.parquet``: ``sample_id, label, score``, each (N,), and the facts beside them.

    Raises:
        StoreError: If the file cannot be written.
    """
    frame = pd.DataFrame({"sample_id": ids, "label": labels, "score": scores})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(asdict(facts)).encode()}
    _save(
        path, lambda temporary: pq.write_table(table.replace_schema_metadata(metadata), temporary)
    )


def read_scores(path: Path) -> tuple[pd.DataFrame, ScoreFacts]:
    """Return what :func:`write_scores` wrote.

    Raises:
        ConfigError: If the file is not there or is not such a file.
    """
    try:
        table = pq.read_table(path)
        facts = ScoreFacts(**json.loads(table.schema.metadata[METADATA_KEY]))
        frame = table.to_pandas()[["sample_id", "label", "score"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = "another kind of file" if path.is_file() else "no such file"
        raise ConfigError(
            f"Expected scores at {path}, found {found}; "
            "give a file that 'raydrop score --out FILE' wrote."
        ) from error
    return frame, facts


def counts_of_best(
    path: Path, method: str, samples: pd.DataFrame, sizes: NDArray[np.int64], budget: int, seed: int
) -> NDArray[np.int64]:
    """Return how many of the best samples by a file's scores each class has, (K,).

    Args:
        path: Of the scores.
        method: Whose scores they have to be.
        samples: ``sample_id, label`` of the samples that they have to be of.
        sizes: Samples of each class, (K,).
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
        frame["label"].to_numpy(),
        budget,
        higher_is_kept=facts.higher_is_kept,
        tie_seed=seed,
    )
    return np.bincount(frame["label"].to_numpy()[best], minlength=len(sizes))


def read_recalls(path: Path, class_names: list[str]) -> NDArray[np.float64]:
    """Return recalls (K,) from a csv with the columns ``class`` (name or index) and ``recall``.

    Raises:
        ConfigError: If the file does not give one recall for every class.
    """
    try:
        frame = pd.read_csv(path, dtype={"class": str})
        given = {str(k): float(v) for k, v in zip(frame["class"], frame["recall"], strict=True)}
    except (OSError, ValueError, KeyError) as error:
        found = "something else" if path.is_file() else "no such file"
        raise ConfigError(
            f"Expected a csv with the columns class,recall at {path}, found {found}; "
            "write one row per class, its name or number and its recall."
        ) from error
    found_recalls = [given.get(name, given.get(str(k))) for k, name in enumerate(class_names)]
    absent = [n for n, recall in zip(class_names, found_recalls, strict=True) if recall is None]
    if absent:
        raise ConfigError(
            f"Expected a recall for every class in {path}, found none for {', '.join(absent)}; "
            "add their rows."
        )
    return np.array(found_recalls, dtype=np.float64)


def write_kept(path: Path, ids: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    """Write ``kept.csv``: ``sample_id, label`` of every sample that is kept.

    Raises:
        StoreError: If the file cannot be written.
    """
    frame = pd.DataFrame({"sample_id": ids, "label": labels})
    _save(path, lambda temporary: frame.to_csv(temporary, index=False, lineterminator="\n"))


def _save(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.incomplete")
    if not path.parent.is_dir():
        raise StoreError(
            f"Expected a folder {path.parent} to write {path.name} into, found none; "
            "make it, or correct --out."
        )
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"Expected to write {path}, found: {error.strerror or error}; "
            "free space there, allow writing, or choose another file with --out."
        ) from error
