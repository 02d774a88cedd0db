"""Stage 4: from records to the frontier of average against worst-class accuracy.

Reads an output folder and writes into it. Imports neither Ray nor torch, so a finished sweep can be
studied on any machine.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raydrop.errors import StoreError
from raydrop.frontier.intervals import worst_class_interval
from raydrop.frontier.metrics import ClassMetrics, by_class, class_metrics
from raydrop.frontier.pareto import pareto_front
from raydrop.frontier.plots import frontier_figure, to_png, to_svg
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.report import render_report
from raydrop.frontier.table import by_merit, front_mark, frontier_csv, frontier_table

__all__ = [
    "SUMMARY_COLUMNS",
    "ClassMetrics",
    "Frontier",
    "Records",
    "by_class",
    "class_metrics",
    "frontier_table",
    "load_records",
    "pareto_front",
    "summary_rows",
    "worst_class_interval",
    "write_frontier",
]

SUMMARY_COLUMNS = ("method", "quotas", "loss", "keep fraction", "average", "worst class", "front")
"""Headings for :func:`summary_rows`."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """What stage 4 found and wrote."""

    records: Records
    """What was read, and what was missing."""
    table: pd.DataFrame
    """A row per point, as in ``frontier.csv``."""
    paths: Mapping[str, Path]
    """The written files by name, such as ``"frontier.csv"``."""

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.paths["report.html"]


def write_frontier(directory: str | Path) -> Frontier:
    """Read an output folder's records and write everything that is made of them.

    Writes ``trials.parquet``, ``frontier.csv``, ``frontier.png``, ``frontier.svg`` and
    ``report.html``. All are made before the first is written, and each appears whole or not at all.

    Args:
        directory: An output folder with ``study.json`` and ``store``.

    Returns:
        The records, the table and the paths.

    Raises:
        StoreError: If the folder cannot be read or written.
        IncompleteStudyError: If no trial is finished.
    """
    records = load_records(directory)
    table = frontier_table(records.trials, records.class_names)
    figure = frontier_figure(table)
    svg = to_svg(figure)
    files = {
        "trials.parquet": _parquet(records.trials),
        "frontier.csv": frontier_csv(table).encode(),
        "frontier.png": to_png(figure),
        "frontier.svg": svg,
        "report.html": render_report(records, table, svg).encode(),
    }
    paths = {name: records.directory / name for name in files}
    for name, content in files.items():
        _replace(paths[name], content)
    return Frontier(records, table, paths)


def summary_rows(frontier: Frontier) -> list[tuple[str, ...]]:
    """Return a row of texts per point for a terminal, with :data:`SUMMARY_COLUMNS`.

    Ordered by loss, then keep fraction from all the data downwards, then the best worst class. The
    last column has a full dot for a point on the Pareto front, and an empty one for a point on the
    front of its keep fraction alone.
    """
    return [
        (
            str(row["method"]),
            str(row["quotas"]),
            str(row["loss"]),
            f"{row['keep_fraction']:g}",
            f"{row['average_accuracy']:.3f}",
            f"{row['worst_class_accuracy']:.3f}",
            front_mark(row),
        )
        for row in by_merit(frontier.table).to_dict("records")
    ]


def _parquet(trials: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    trials.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it into it."""
    work = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        work.write_bytes(content)
        work.replace(path)
    except OSError as error:
        work.unlink(missing_ok=True)
        raise StoreError(
            f"Expected to write {path}, found: {error.strerror or error}; "
            "free space there or allow writing."
        ) from error
