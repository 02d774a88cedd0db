"""Every figure of an output folder: what it is made of, and what the report says of it.

To add one, write a module that computes a value and draws it, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from raydrop.frontier.figures.chart import Chart, frontier_chart, network_chart
from raydrop.frontier.figures.costs import costs_figure
from raydrop.frontier.figures.densities import correlation_figure, density_figure
from raydrop.frontier.figures.frontier import curves_figure, frontier_figure, network_figure
from raydrop.frontier.figures.heatmap import heatmap_figure
from raydrop.frontier.figures.pictures import (
    images_figure,
    lost_figure,
    lost_images,
    sample_grids,
)
from raydrop.frontier.figures.scores import score_distributions, scores_figure
from raydrop.frontier.points import PLURALS
from raydrop.frontier.records import Records, as_written
from raydrop.frontier.sources import Sources, costs, load_sources
from raydrop.frontier.statistics.changes import recall_changes
from raydrop.frontier.statistics.densities import correlation_points, density_points
from raydrop.study import By

MEASURES: dict[By, str] = {"class": "recall", "group": "accuracy"}
"""What the share of correct test samples is called."""


@dataclass(frozen=True)
class Results:
    """What figures are made of."""

    records: Records
    table: pd.DataFrame
    """A row per point."""

    @cached_property
    def chart(self) -> Chart:
        """The points as series in panels."""
        return frontier_chart(self.table)

    @property
    def kept(self) -> tuple[pd.DataFrame, tuple[int, ...], By]:
        """The trials, and of how many samples of each class or group they keep some."""
        return self.records.trials, self.records.sizes(), self.records.unit

    @cached_property
    def sources(self) -> Sources:
        """The scores and query runs that trials read."""
        return load_sources(self.records)


@dataclass(frozen=True)
class Drawing:
    """A figure; texts may hold ``{unit}``, ``{units}`` and ``{measure}``."""

    draw: Callable[..., Figure]
    given: Callable[[Results], tuple[Any, ...] | None]
    """What it draws; None where the records do not permit it."""
    description: str
    """What a screen reader says."""
    heading: str = ""
    """In the report, which shows those without one in another way."""
    caption: str = ""

    def texts(self, unit: By) -> dict[str, str]:
        """Return heading, description and caption about classes or groups."""
        words = {"unit": unit, "units": PLURALS[unit], "measure": MEASURES[unit]}
        names = ("heading", "description", "caption")
        return {name: getattr(self, name).format(**words) for name in names}


def _given(value: object, *more: object) -> tuple[Any, ...] | None:
    """Return what to draw, if there is anything."""
    return None if value is None or (isinstance(value, list) and not value) else (value, *more)


def _stored(results: Results, read: Callable[[], object]) -> tuple[Any, ...] | None:
    """Return what to draw of what the store has besides records."""
    with as_written(results.records):
        return _given(read())


FIGURES = {
    "frontier": Drawing(
        frontier_figure,
        lambda results: (results.chart,),
        "Worst-{unit} against average accuracy",
    ),
    "network": Drawing(
        network_figure,
        lambda results: _given(network_chart(results.table, results.chart.style)),
        "Accuracies against the share of the multiply-accumulates that remain",
        "Against the network's size",
        "Lines are means over seeds, bands their lowest and highest value; the star is the dense "
        "network. Sizes are as measured. A network of which single weights are masked computes as "
        "much as before, so for these the share is that of the weights that remain.",
    ),
    "curves": Drawing(
        curves_figure,
        lambda results: (results.chart,),
        "Accuracies against the keep fraction",
        "Against the keep fraction",
        "Lines are means over seeds, bands their lowest and highest value.",
    ),
    "heatmap": Drawing(
        heatmap_figure,
        lambda results: _given(
            recall_changes(results.records.trials, results.records.unit),
            results.records.names(),
            results.records.unit,
        ),
        "Heat map: change of the {measure} of each {unit} by pruning",
        "Change of every {unit}, in one view",
        "Mean change over seeds in percentage points against training on all the data; the numbers "
        "above are the {measure} there.",
    ),
    "images": Drawing(
        images_figure,
        lambda results: _stored(results, lambda: sample_grids(results.records, results.sources)),
        "Training images that each method keeps first, and those that it prunes first",
        "Images kept and pruned",
        "Training images that each method keeps first and prunes first, a row for each {unit}.",
    ),
    "densities": Drawing(
        density_figure,
        lambda results: _given(density_points(*results.kept), results.records.unit),
        "Sorted densities: the share of each {unit} that is kept",
        "What is kept of each {unit}",
        "The share of the training samples of each {unit} that is kept, sorted within each line; a "
        "line that falls below its dotted level takes more from some {units} than from others, "
        "down to the number of samples at its end.",
    ),
    "correlations": Drawing(
        correlation_figure,
        lambda results: _given(correlation_points(*results.kept), results.records.unit),
        "Accuracy of each {unit} on all the data against its density",
        "Hard {units} and what is kept of them",
        "A point is a {unit}: left of others, less of it is kept; below others, it is harder even "
        "with all the data. A negative correlation means that more is kept of hard {units}; a "
        "dash, that there is none because all are kept alike.",
    ),
    "scores": Drawing(
        scores_figure,
        lambda results: _stored(results, lambda: score_distributions(results.sources)),
        "Histograms of the scores of each method",
        "How scores are distributed",
        "Scores of all training samples; lines are where each keep fraction cuts without quotas.",
    ),
    "costs": Drawing(
        costs_figure,
        lambda results: _stored(results, lambda: costs(results.sources)),
        "Seconds of query runs, of scoring and of training",
        "What it costs",
        "Times on the machine of this study.",
    ),
    "lost": Drawing(
        lost_figure,
        lambda results: _stored(results, lambda: lost_images(results.records)),
        "Test images that pruned networks lose most often",
    ),
}
"""Every figure by the name of its files, in the order of the page."""


def draw_figures(records: Records, table: pd.DataFrame) -> dict[str, Figure]:
    """Return the figures that the records and their points permit, by their names."""
    results = Results(records, table)
    given = {name: drawing.given(results) for name, drawing in FIGURES.items()}
    return {name: FIGURES[name].draw(*what) for name, what in given.items() if what is not None}
