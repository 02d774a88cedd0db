"""The drawing of several studies' points: nothing is computed here that is not in the table.

Colour is the study, marker shape the method, filling and line style the quotas, marker size the
keep fraction. The same table gives the same SVG, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D

from raydrop.frontier.figures.canvas import (
    COLOURS,
    Look,
    cut,
    draw_legend,
    equality_look,
    heading,
    legend_entry,
    marker_size,
    new_figure,
    ordered_from,
    ring_look,
    styled,
)
from raydrop.frontier.figures.plots import AVERAGE, FILLS, FRONTS, LABELS, LINES, MARKERS
from raydrop.frontier.points import (
    has_several_models,
    is_dense,
    scorer_name,
    series_name,
    setting_name,
    target_place,
)
from raydrop.frontier.table import worst_accuracy
from raydrop.study import By


@styled()
def overlay_figure(table: pd.DataFrame, by: By) -> Figure:
    """Compose worst against average accuracy: a panel per model, loss and network target.

    Args:
        table: As from :func:`~raydrop.frontier.overlay.overlay_table`.
        by: Whether to draw the worst class or the worst group.
    """
    placed = table.assign(place=table["network_target"].map(target_place))
    settings = list(placed.groupby(["model", "loss", "place"], sort=True))
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    looks = _looks(table)
    handles = _legend_handles(table, looks)
    several = has_several_models(table)
    figure = new_figure(4.6 * columns + 3.4, 4.4 * rows, handles)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for (_, points), ax in zip(settings, axes, strict=False):
        plot_overlay(points, ax, looks, by)
        title = setting_name(points.iloc[0].to_dict(), several_models=several)
        ax.set_title(cut(title))
        ax.label_outer()
    for ax in axes[len(settings) :]:
        ax.remove()
    draw_legend(figure, handles)
    return figure


def plot_overlay(points: pd.DataFrame, ax: Axes, looks: Mapping[str, Look], by: By) -> Axes:
    """Draw the series of one model and loss: worst against average accuracy.

    Args:
        points: Rows of :func:`~raydrop.frontier.overlay.overlay_table`.
        ax: Where to draw.
        looks: How each series looks, by its name with its study.
        by: Whether to draw the worst class or the worst group.

    Returns:
        ``ax``.
    """
    worst = worst_accuracy(by)
    # As a bare artist: axline() would stretch the limits to a point of the line.
    ax.add_artist(AxLine((0, 0), None, 1, **equality_look()))
    ordered = points.assign(series=_series(points)).sort_values("keep_fraction", kind="stable")
    for name, series in ordered.groupby("series", sort=True):
        look = looks[str(name)]
        if look["linestyle"] != "none":
            ax.plot(series[AVERAGE], series[worst], **look | {"marker": "none"})
        for row in series.to_dict("records"):
            size = (
                look["markersize"] if row["method"] == "none" else marker_size(row["keep_fraction"])
            )
            single = look | {"linestyle": "none", "markersize": size}
            ax.plot([row[AVERAGE]], [row[worst]], **single)
    for column, width in FRONTS.items():
        front = points[points[column]]
        ax.plot(front[AVERAGE], front[worst], **ring_look(width))
    ax.set_xlabel(LABELS[AVERAGE])
    ax.set_ylabel(LABELS[worst])
    return ax


def _looks(table: pd.DataFrame) -> dict[str, Look]:
    """Return how each series looks, in the order of studies, methods and quotas."""
    studies = list(dict.fromkeys(table["study"]))
    pruned = [row for row in table.to_dict("records") if row["method"] != "none"]
    methods = ordered_from((_method(row) for row in pruned), first="random")
    quotas = ordered_from((row["quotas"] for row in pruned), first="none")
    looks = {}
    rows = table.assign(series=_series(table)).drop_duplicates("series").to_dict("records")
    for row in sorted(rows, key=lambda row: _place(row, studies)):
        number = studies.index(row["study"])
        colour = COLOURS[number % len(COLOURS)]
        if row["method"] == "none":
            looks[row["series"]] = _star(colour, 13.0 + min(8.0, 4.0 * (len(studies) - 1 - number)))
            continue
        rule = quotas.index(row["quotas"])
        looks[row["series"]] = {
            "color": colour,
            "marker": MARKERS[methods.index(_method(row)) % len(MARKERS)],
            "fillstyle": FILLS[rule % len(FILLS)],
            "linestyle": LINES[rule % len(LINES)],
            "markerfacecoloralt": "white",
            "markeredgewidth": 1.1,
            "markersize": 7,
            "linewidth": 1.1,
        }
    return looks


def _place(row: Mapping[Any, Any], studies: Sequence[str]) -> tuple[Any, ...]:
    """Order series: by study, all the data first, random next, no quotas before others."""
    method, quotas = row["method"], row["quotas"]
    first = (method != "none", not is_dense(row), method != "random", _method(row))
    return studies.index(row["study"]), *first, quotas != "none", quotas


def _method(row: Mapping[Any, Any]) -> str:
    """Return what a marker stands for: how data and network were pruned."""
    return scorer_name(row) if is_dense(row) else f"{scorer_name(row)}, {row['network_method']}"


def _star(colour: str, size: float) -> Look:
    """Return the look of training on all the data: smaller where it is drawn later, above."""
    return {"color": colour, "marker": "*", "markersize": size, "linestyle": "none"}


def _series(points: pd.DataFrame) -> list[str]:
    return [series_name(row) for row in points.to_dict("records")]


def _legend_handles(table: pd.DataFrame, looks: Mapping[str, Look]) -> list[Line2D]:
    """Return an entry per series below its study, then keep fractions and fronts."""
    handles = []
    for study, rows in table.assign(series=_series(table)).groupby("study", sort=False):
        handles.append(heading(str(study)))
        series = [name for name in looks if name in set(rows["series"])]
        handles += [legend_entry(name, looks[name]) for name in series]
    handles.append(heading("keep fraction"))
    for keep in sorted(table.loc[table["method"] != "none", "keep_fraction"].unique()):
        look = {
            "color": "#555555",
            "marker": "o",
            "linestyle": "none",
            "markersize": marker_size(keep),
        }
        handles.append(legend_entry(f"{keep:g}", look))
    handles.append(heading("reference"))
    names = {"on_front": "Pareto front of all", "on_front_at_keep_fraction": "… at one keep"}
    for column, name in names.items():
        handles.append(legend_entry(name, ring_look(FRONTS[column]) | {"markersize": 11}))
    return [*handles, legend_entry("worst = average", equality_look())]
