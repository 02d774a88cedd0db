"""Drawings of charts: the frontier, curves, networks, label noise, and studies over each other.

Nothing is computed here that is not in the chart. The same chart gives the same SVG, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D

from raydrop.frontier.figures.canvas import (
    GREY,
    Look,
    cut,
    draw_legend,
    heading,
    in_rows,
    legend_entry,
    new_figure,
    panel_grid,
    styled,
    write_beside,
)
from raydrop.frontier.figures.chart import Chart, Series, noise_chart
from raydrop.frontier.figures.looks import (
    BAND,
    DOT,
    EQUALITY,
    FRONTS,
    FULL_DATA,
    HOLLOW_STAR,
    LEVEL,
    STAR,
    UNIFORM,
    SeriesStyle,
    marker_size,
    ring,
)
from raydrop.frontier.points import ALL, DENSE_NETWORK, has_networks, targets_of
from raydrop.frontier.statistics.densities import NOISY
from raydrop.frontier.table import AVERAGE, WORST


def label_of(name: str, table: pd.DataFrame) -> str:
    """Return what an accuracy is called: ``"worst-group accuracy"``."""
    return f"worst-{table['unit'].iloc[0]} accuracy" if name == WORST else "average accuracy"


def plot_points(chart: Chart, panel: int, ax: Axes) -> Axes:
    """Draw worst against average accuracy: lines, a marker per point, and rings of the fronts."""
    # As a bare artist: axline() would stretch the limits to a point of the line.
    ax.add_artist(AxLine((0, 0), None, 1, **EQUALITY))
    for series, points in chart.shown(panel):
        path = _path(chart, series)
        if series.kind == "line":
            ax.plot(path[AVERAGE], path[WORST], **series.look | {"marker": "none"})
        elif series.is_guest:
            write_beside(ax, series.name, tuple(points[[AVERAGE, WORST]].iloc[0]), FULL_DATA)
        for x, y, keep in zip(points[AVERAGE], points[WORST], points["keep_fraction"], strict=True):
            mark: Look = {"markersize": marker_size(keep)} | series.look | {"linestyle": "none"}
            ax.plot([x], [y], **mark)
        for column, width in FRONTS.items():
            front = points[points[column]]
            if len(front) and not series.is_guest:
                ax.plot(front[AVERAGE], front[WORST], **ring(width))
    return ax


def plot_curves(chart: Chart, panel: int, ax: Axes, x: str, y: str) -> Axes:
    """Draw column ``y`` of a panel's points against ``x``, with bands of ``_min`` and ``_max``."""
    for series, points in chart.shown(panel):
        path = _path(chart, series).dropna(subset=[x])
        if series.kind == "line" and len(path):
            low, high, colour = path[f"{y}_min"], path[f"{y}_max"], series.look["color"]
            ax.fill_between(path[x], low, high, color=colour, alpha=0.1, linewidth=0)
            ax.plot(path[x], path[y], **series.look | {"markersize": 5.5})
            continue
        ax.plot(points[x], points[y], **series.look)
        for place, value in points[[x, y]].to_numpy().tolist():
            if series.is_guest:
                write_beside(ax, series.name, (place, value), FULL_DATA)
            elif series.kind == "reference":
                ax.axhline(value, **LEVEL)
    return ax


def _path(chart: Chart, series: Series) -> pd.DataFrame:
    return chart.table.iloc[[*series.points, *series.end]]


@styled()
def frontier_figure(chart: Chart) -> Figure:
    """Compose the frontier: a panel per model and loss on shared axes, one legend outside.

    Where networks are pruned, models and losses are rows, and each target has a column, dense
    networks first and then rising, with a front of its own.
    """
    entries = [*_entries_of_style(chart.style), *_keep_entries(chart)]
    entries += [*_reference_entries(chart), *_front_entries()]
    if not has_networks(chart.table):
        losses = len({panel.loss for panel in chart.panels})
        columns = min(losses if losses > 1 else len(chart.panels), 3)
        return _points_figure(chart, in_rows(len(chart.panels), columns), 4.6, entries)
    rows = list(dict.fromkeys((panel.model, panel.loss) for panel in chart.panels))
    targets = targets_of(chart.table)
    places = [
        (rows.index((panel.model, panel.loss)), targets.index(panel.target))
        for panel in chart.panels
    ]
    return _points_figure(chart, places, 3.4, entries)


@styled()
def overlay_figure(chart: Chart) -> Figure:
    """Compose the frontiers of several studies: a panel per model, loss and network target."""
    entries = []
    studies = chart.table["study"]
    for study in dict.fromkeys(studies):
        looks = {s.name: s.look for s in chart.series if studies.iloc[s.points[0]] == study}
        entries.append(heading(str(study)))
        entries += [legend_entry(name, {"markersize": 7} | look) for name, look in looks.items()]
    entries += [*_keep_entries(chart), heading("reference"), *_front_entries()]
    count = len(chart.panels)
    return _points_figure(chart, in_rows(count, min(count, 3)), 4.9, entries)


def _points_figure(
    chart: Chart, places: Sequence[tuple[int, int]], width: float, entries: list[Line2D]
) -> Figure:
    labels = label_of(AVERAGE, chart.table), label_of(WORST, chart.table)
    titles, size = [panel.title for panel in chart.panels], (width, width - 0.2)
    letters = {} if width > 4 else {"letters": 40}
    figure, axes = panel_grid(titles, places, size, entries, labels=labels, **letters)
    for number, ax in enumerate(axes):
        plot_points(chart, number, ax)
    return figure


@styled()
def curves_figure(chart: Chart) -> Figure:
    """Compose accuracies against the keep fraction: a row of two panels per panel of the chart."""
    entries = [*_entries_of_style(chart.style), *_reference_entries(chart), _band()]
    figure, axes = _two_columns(chart, "keep_fraction", entries)
    for (panel, _), ax in axes.items():
        keeps = {keep for _, points in chart.shown(panel) for keep in points["keep_fraction"]}
        ax.set_xticks(sorted(keeps))
    figure.supxlabel("keep fraction", fontsize=10)
    return figure


@styled()
def network_figure(chart: Chart) -> Figure:
    """Compose accuracies against what remains of networks: two panels per data selection."""
    looks = {s.name: {"markersize": 5.5} | s.look for s in chart.series if s.kind == "line"}
    entries = [heading("network method, loss")]
    entries += [legend_entry(name, look) for name, look in looks.items()]
    entries += [heading("reference"), legend_entry(DENSE_NETWORK, STAR), _band()]
    figure, axes = _two_columns(chart, "remaining", entries)
    # Smaller networks to the right; the axes are shared.
    axes[0, 0].invert_xaxis()
    masked = " (of weights, where they are masked)" if chart.table["masked"].any() else ""
    figure.supxlabel(f"share of multiply-accumulates that remains{masked}", fontsize=10)
    return figure


def _two_columns(
    chart: Chart, x: str, entries: list[Line2D]
) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    count = len(chart.panels)
    figure = new_figure(11.4, 3.7 * count, entries, layout="constrained")
    panels = figure.subplots(count, 2, sharex=True, sharey="col", squeeze=False)
    for (number, column), ax in np.ndenumerate(panels):
        name = (AVERAGE, WORST)[column]
        plot_curves(chart, number, ax, x, name)
        ax.set_title(cut(chart.panels[number].title))
        ax.set_ylabel(label_of(name, chart.table))
    draw_legend(figure, entries)
    return figure, dict(np.ndenumerate(panels))


@styled()
def noise_figure(points: pd.DataFrame) -> Figure:
    """Compose the share of the mislabelled samples that is pruned against the keep fraction.

    The dashed line is what a uniform draw prunes on average.

    Args:
        points: As in :attr:`~raydrop.frontier.statistics.densities.Noise.points`.
    """
    chart = noise_chart(points)
    entries = [*_entries_of_style(chart.style), heading("reference")]
    entries += [legend_entry("uniform draw", UNIFORM), _band()]
    figure = new_figure(7.6, 4.4, entries, layout="constrained")
    ax = figure.subplots()
    ax.add_artist(AxLine((0, 1), None, -1, **UNIFORM))
    plot_curves(chart, 0, ax, "keep_fraction", NOISY)
    # A little room, so that a line at 1 is not lost in the frame.
    ax.set(xlim=(0, 1), ylim=(-0.03, 1.03), xticks=sorted(points["keep_fraction"].unique()))
    ax.set(xlabel="keep fraction", ylabel="share of mislabelled samples pruned")
    draw_legend(figure, entries)
    return figure


def _entries_of_style(style: SeriesStyle) -> list[Line2D]:
    entries = []
    if style.methods or not style.networks:
        entries += [heading("method")]
        looks = [style.look(method, style.quotas[0]) for method in style.methods]
        for method, look in zip(style.methods, looks, strict=True):
            full = {"fillstyle": "full", "linestyle": "-", "markersize": 7}
            entries.append(legend_entry(method, look | full))
        entries.append(heading("quotas"))
    for quotas in style.quotas:
        look = style.look(style.methods[0], quotas) | {"color": GREY, "marker": "o"}
        entries.append(legend_entry(quotas, look | {"markersize": 7}))
    if style.networks:
        entries.append(heading("network method"))
    for network in style.networks:
        entries.append(legend_entry(network, {"color": style.colour("", network), "linewidth": 2}))
    return entries


def _keep_entries(chart: Chart) -> list[Line2D]:
    pruned = chart.table["method"] != "none"
    keeps = sorted(chart.table.loc[pruned, "keep_fraction"].unique())
    entries = [legend_entry(f"{k:g}", DOT | {"markersize": marker_size(k)}) for k in keeps]
    return [heading("keep fraction"), *entries] if entries else []


def _reference_entries(chart: Chart) -> list[Line2D]:
    kinds = {series.kind for series in chart.series}
    entries = [heading("reference")]
    if kinds & {"reference", "star"}:
        entries.append(legend_entry(ALL, STAR))
    names = {"guest": "… another loss", "dense": DENSE_NETWORK}
    return entries + [legend_entry(names[k], HOLLOW_STAR) for k in names if k in kinds]


def _front_entries() -> list[Line2D]:
    names = {"on_front": "Pareto front", "on_front_at_keep_fraction": "… at its keep fraction"}
    rings = [legend_entry(names[n], ring(FRONTS[n]) | {"markersize": 11}) for n in names]
    return [*rings, legend_entry("worst = average", EQUALITY)]


def _band() -> Line2D:
    return legend_entry("lowest to highest seed", BAND)
