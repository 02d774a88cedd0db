"""Stage 4: from records to the frontier of average against worst-class or worst-group accuracy.

Reads an output folder and writes into it. Imports neither Ray nor torch, so a finished sweep can be
studied on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from raydrop.frontier.costs import costs
from raydrop.frontier.figures.canvas import to_pdf
from raydrop.frontier.figures.details import (
    costs_figure,
    heatmap_figure,
    images_figure,
    scores_figure,
)
from raydrop.frontier.figures.lost_plot import lost_figure
from raydrop.frontier.figures.network import network_points
from raydrop.frontier.figures.network_plot import network_figure
from raydrop.frontier.figures.plots import (
    SeriesStyle,
    correlation_figure,
    density_figure,
    frontier_figure,
    keep_fraction_figure,
    to_png,
    to_svg,
)
from raydrop.frontier.figures.samples import sample_grids
from raydrop.frontier.figures.scores import score_distributions
from raydrop.frontier.harm import harm_table
from raydrop.frontier.names import has_networks, has_several_models, series_name, setting_name
from raydrop.frontier.records import Records, as_written, load_records
from raydrop.frontier.report.lost import lost_images
from raydrop.frontier.report.page import TIMES, render_report
from raydrop.frontier.sources import load_sources
from raydrop.frontier.statistics.changes import recall_changes
from raydrop.frontier.statistics.comparisons import comparisons as compare_points
from raydrop.frontier.statistics.densities import correlation_points, density_points
from raydrop.frontier.statistics.estimates import WorstEstimates, worst_estimates
from raydrop.frontier.statistics.fronts import (
    attained_fronts,
    front_over,
    hypervolume,
    hypervolumes,
)
from raydrop.frontier.statistics.intervals import worst_class_interval
from raydrop.frontier.statistics.pareto import pareto_front
from raydrop.frontier.statistics.resampling import Resamples, resample
from raydrop.frontier.table import front_mark, frontier_table, worst_accuracy
from raydrop.metrics import (
    ClassMetrics,
    GroupMetrics,
    by_class,
    by_group,
    class_metrics,
    group_metrics,
)
from raydrop.store.files import csv_text, parquet_bytes
from raydrop.study import By

if TYPE_CHECKING:
    from raydrop.frontier.overlay import Overlay

REMARKED_REASONS = 3
"""Sentences with which trials failed that a remark quotes after the first; others are counted."""

__all__ = [
    "ClassMetrics",
    "Frontier",
    "GroupMetrics",
    "Records",
    "Resamples",
    "WorstEstimates",
    "attained_fronts",
    "by_class",
    "by_group",
    "class_metrics",
    "correlation_points",
    "density_points",
    "front_over",
    "frontier_table",
    "group_metrics",
    "harm_table",
    "hypervolume",
    "hypervolumes",
    "load_records",
    "pareto_front",
    "remarks",
    "resample",
    "summary_table",
    "worst_class_interval",
    "worst_estimates",
    "write_frontier",
]


@dataclass(frozen=True, eq=False)
class Frontier:
    """What stage 4 found and wrote."""

    records: Records
    """What was read, and what was missing."""
    table: pd.DataFrame
    """A row per point, as in ``frontier.csv``."""
    paths: Mapping[str, Path]
    """The written files by name, such as ``"frontier.csv"``."""
    by: By = "class"
    """Whether worst cases and fronts are about classes or groups."""
    comparisons: pd.DataFrame | None = None
    """A row per comparison, as in ``comparisons.csv``; None where they were not made."""
    resamples: Resamples | None = None
    """What the fronts' probabilities are made of; hypervolumes and attained fronts too."""

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.paths["report.html"]


def write_frontier(directory: str | Path, by: str | None = None, *, pdf: bool = False) -> Frontier:
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
    records = load_records(directory)
    unit = records.chosen(by)
    resamples = resample(records, unit)
    table = frontier_table(
        records.trials,
        records.class_names,
        group_names=records.group_names,
        by=unit,
        resamples=resamples,
    )
    compared = compare_points(records, unit)
    harmed = harm_table(records, unit) if has_networks(table) else None
    figures = _figures(records, table, unit)
    svgs = {name: to_svg(figure) for name, figure in figures.items()}
    files = {
        "trials.parquet": parquet_bytes(records.trials),
        "frontier.csv": csv_text(table).encode(),
        "comparisons.csv": csv_text(compared).encode(),
        **({} if harmed is None else {"harm.csv": csv_text(harmed).encode()}),
        **{f"{name}.png": to_png(figure) for name, figure in figures.items()},
        **{f"{name}.svg": svg for name, svg in svgs.items()},
        **({f"{name}.pdf": to_pdf(figure) for name, figure in figures.items()} if pdf else {}),
        "report.html": render_report(records, table, svgs, unit, compared, harmed).encode(),
    }
    paths = {name: records.place.write(name, content) for name, content in files.items()}
    return Frontier(records, table, paths, unit, compared, resamples)


def _figures(records: Records, table: pd.DataFrame, by: By) -> dict[str, Figure]:
    """Return the figures that the records permit, by the names of their files."""
    figures = {
        "frontier": frontier_figure(table, by),
        "curves": keep_fraction_figure(table, by),
    }
    networks = network_points(table)
    if networks is not None:
        figures["network"] = network_figure(networks, by, SeriesStyle.of(table))
    densities = density_points(records.trials, records.sizes(by), by)
    if densities is not None:
        figures["densities"] = density_figure(densities, by)
    correlated = correlation_points(records.trials, records.sizes(by), by)
    if correlated is not None:
        figures["correlations"] = correlation_figure(correlated, by)
    return figures | _details(records, by)


def _details(records: Records, by: By) -> dict[str, Figure]:
    """Return figures of what lies behind the frontier: classes, scores, seconds and samples."""
    figures = {}
    with as_written(records):
        sources = load_sources(records)
        distributions, spent = score_distributions(sources), costs(sources)
        grids, lost = sample_grids(records, sources), lost_images(records)
    changes = recall_changes(records.trials, by)
    if changes is not None:
        figures["heatmap"] = heatmap_figure(changes, records.names(by), by)
    if distributions:
        figures["scores"] = scores_figure(distributions)
    if spent is not None:
        figures["costs"] = costs_figure(spent)
    if grids:
        figures["images"] = images_figure(grids)
    if lost is not None:
        figures["lost"] = lost_figure(lost)
    return figures


def summary_table(frontier: Frontier | Overlay) -> dict[str, pd.DataFrame]:
    """Return the frontier as short texts for a terminal, by loss or by model and loss.

    Returns:
        For each loss (``"cross_entropy"``; with several models ``"resnet18, cross_entropy"``), a
        row per method and quotas (such as ``"random + drop"``, or ``"moso + none from resnet50"``
        where scores come from another model), the best mean worst class (or group) first, and a
        column per keep fraction with ``"average/worst class"``. A point on the Pareto front carries
        a full dot, one on the front of its keep fraction alone an empty one. Where several studies
        are laid over each other, a row's name begins with that of its study.
    """
    rows = frontier.table.to_dict("records")
    several, worst = has_several_models(frontier.table), worst_accuracy(frontier.by)
    points = frontier.table.assign(
        setting=[setting_name(row, several_models=several) for row in rows],
        series=[series_name(row) for row in rows],
        text=[f"{row['average_accuracy']:.2f}/{row[worst]:.2f}{front_mark(row)}" for row in rows],
    )
    tables = {}
    for setting, group in points.groupby("setting"):
        merit = group.groupby("series")[worst].mean()
        order = merit.sort_values(ascending=False, kind="stable").index
        texts = group.pivot_table("text", "series", "keep_fraction", aggfunc="first")
        tables[str(setting)] = texts.loc[order].fillna("")
    return tables


def remarks(records: Records) -> list[str]:
    """Return what a reader of the table has to know besides: a sentence each, often none.

    Trials that failed, with the first reason, and how many for which where there are several;
    trials that are missing; finished trials of the folder that the study does not ask for; trials
    whose batches were cut; processes that died and were replaced.
    """
    sentences = []
    if records.failures:
        first = records.failures[0]
        sentences.append(
            f"{len(records.failures)} trials failed and are not in the table; the first: "
            f"{_trial(first, records)} at {first['keep_fraction']:g}, seed "
            f"{first['seed']}: {first['message']}" + _by_reason(records)
        )
    if records.missing:
        sentences.append(
            f"{len(records.missing)} trials are missing and not in the table, so its front may be "
            "another; 'raydrop run' with this folder computes them."
        )
    others = records.provenance["trials_of_other_studies"]
    if others:
        sentences.append(
            f"{others} finished trials in this folder are not part of this study and are left out."
        )
    cut = records.provenance.get("cut_trials", 0)
    if cut:
        sentences.append(
            f"{cut} trials had their batches cut, into {records.provenance['most_parts']} parts at "
            "most, because memory ran out; gradients are those of whole batches, but for losses "
            "that divide by a batch's weights, and BatchNorm's statistics are those of the parts."
        )
    deaths = records.provenance.get("worker_deaths", 0)
    if deaths:
        sentences.append(
            f"{deaths} worker processes died in this folder's runs and were replaced; what they "
            "had not finished was done again, and no number depends on it."
        )
    return sentences


def _by_reason(records: Records) -> str:
    """Say how many trials failed for other reasons than the first, if any did."""
    reasons = records.failure_reasons
    own = reasons.pop(str(records.failures[0]["message"]))
    if not reasons:
        return ""
    told = [f"{own} for this reason"]
    for reason, count in list(reasons.items())[:REMARKED_REASONS]:
        told.append(f"{count}{TIMES} {reason.rstrip('.')}")
    if (more := len(reasons) - REMARKED_REASONS) > 0:
        told.append(f"{more} further reasons")
    return f" ({'; '.join(told)})"


def _trial(trial: Mapping[str, Any], records: Records) -> str:
    return series_name(trial) + (f" for {trial['model']}" if records.several_models else "")
