"""Everything that is made of a study's records, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raydrop.frontier.harm import harm_table
from raydrop.frontier.points import has_networks
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.statistics.comparisons import comparisons
from raydrop.frontier.statistics.resampling import resample
from raydrop.frontier.table import as_filed, table_of
from raydrop.store import Place
from raydrop.store.files import csv_text, parquet_bytes
from raydrop.study import By


@dataclass(frozen=True, eq=False)
class Frontier:
    """What stage 4 found and wrote."""

    records: Records
    table: pd.DataFrame
    """A row per point, as from :func:`~raydrop.frontier.table.frontier_table`."""
    comparisons: pd.DataFrame
    paths: Mapping[str, Path]
    """The written files by name, such as ``"frontier.csv"``."""

    @property
    def by(self) -> By:
        """Whether worst cases and fronts are about classes or groups."""
        return self.records.unit

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.paths["report.html"]


def write_frontier(
    directory: str | Path | Place, by: str | None = None, *, pdf: bool = False
) -> Frontier:
    """Read an output folder's records and write everything that is made of them.

    Writes ``trials.parquet``, ``frontier.csv``, ``comparisons.csv``, ``report.html``, where
    networks are pruned ``harm.csv``, and as PNG and SVG the figures ``frontier`` (worst against
    average), ``curves`` (both against the keep fraction), ``network`` (both against what remains of
    the network, where networks are pruned), ``densities`` (what is kept of each
    class, where anything is pruned), ``correlations`` (densities against accuracies on all the
    data, where a trial keeps all), ``heatmap`` (how every class's recall changes, where a trial
    keeps all), ``scores`` (their distributions, where the store has them), ``images`` (samples kept
    and pruned, where it has pictures), ``lost`` (test images that pruned networks lose, likewise)
    and ``costs``, which shows timings and so differs between two runs of a study. All are made
    before the first is written, and each appears whole or not at all.

    Args:
        directory: An output folder with ``study.json`` and ``store``.
        by: Whether worst cases and fronts are those of a ``class`` or of a ``group``; None is what
            the study's own quotas and loss weights are about.
        pdf: Whether to write every figure as PDF too.

    Returns:
        The records, the table and the paths.

    Raises:
        StoreError: If the folder cannot be read or written.
        IncompleteStudyError: If no trial is finished.
        ConfigError: If ``by`` is ``group`` and the data have no groups.
    """
    # Drawing takes matplotlib, which nothing else here does.
    from raydrop.frontier.figures.canvas import to_pdf, to_png, to_svg
    from raydrop.frontier.figures.catalogue import draw_figures
    from raydrop.frontier.report.page import render_report

    records = load_records(directory, by)
    table, compared = table_of(records, resample(records)), comparisons(records)
    harmed = harm_table(records) if has_networks(table) else None
    drawn = draw_figures(records, table)
    svgs = {name: to_svg(figure) for name, figure in drawn.items()}
    files = {
        "trials.parquet": parquet_bytes(records.trials),
        "frontier.csv": csv_text(as_filed(table)).encode(),
        "comparisons.csv": csv_text(compared).encode(),
        **({} if harmed is None else {"harm.csv": csv_text(harmed).encode()}),
        **{f"{name}.png": to_png(figure) for name, figure in drawn.items()},
        **{f"{name}.svg": svg for name, svg in svgs.items()},
        **({f"{name}.pdf": to_pdf(figure) for name, figure in drawn.items()} if pdf else {}),
        "report.html": render_report(records, table, svgs, compared, harmed).encode(),
    }
    paths = {name: records.place.write(name, content) for name, content in files.items()}
    return Frontier(records, table, compared, paths)
