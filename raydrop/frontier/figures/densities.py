"""Drawings of how much of each class or group is kept, and of how hard those are.

Nothing is computed here: every point is in the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from raydrop.frontier.figures.canvas import (
    DASH,
    MINUS,
    Entries,
    heading,
    in_rows,
    legend_entry,
    panel_grid,
    styled,
    write_beside,
)
from raydrop.frontier.figures.looks import BAND, DOT, EQUALITY, KeepStyle
from raydrop.frontier.points import PLURALS, Point, rows_of, scorer_name
from raydrop.study import By

PANEL_COLUMNS = 4
TITLE_LETTERS = 25
"""Letters in a line of a narrow panel's title; more would run into the next panel's."""
RHO = "\N{GREEK SMALL LETTER RHO}"
MANY_MARKERS = 4000
"""Above this, markers become pixels also in an SVG, which would otherwise be megabytes large."""


def plot_densities(points: pd.DataFrame, ax: Axes, style: KeepStyle) -> Axes:
    """Draw sorted densities, a line per keep fraction, for one method and quotas.

    Bands are the lowest and highest value over seeds. The number at the end of a line is the fewest
    samples that any class keeps; the dotted line, the keep fraction, is where every class would be
    if all were pruned alike.
    """
    ax.set_ylim(-0.03, 1.06)
    shown = list(_by_keep(points.sort_values("rank"), style))
    ends = _spread([rows["density"].iloc[-1] for _, rows in shown], least=0.09)
    for (keep, rows), end in zip(shown, ends, strict=True):
        look, last = style.look(keep), rows.iloc[-1]
        colour = look["color"]
        ax.axhline(keep, **EQUALITY | {"color": colour, "linewidth": 0.6})
        low, high = rows["density_min"], rows["density_max"]
        ax.fill_between(rows["rank"], low, high, color=colour, alpha=0.15, linewidth=0)
        if len(rows) > 30:
            look["marker"] = "none"
        ax.plot(rows["rank"], rows["density"], linewidth=1.2, **look)
        write_beside(ax, f"{last['smallest_kept']}", (last["rank"], end), colour)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def plot_accuracy_against_density(
    points: pd.DataFrame, ax: Axes, style: KeepStyle, *, rasterized: bool = False
) -> Axes:
    """Draw the accuracy of each class on all the data against its density, for one series.

    The legend beside the panel gives Pearson's and Spearman's correlation over classes for each
    keep fraction. Rasterized markers are pixels also in an SVG.
    """
    entries = []
    for keep, rows in _by_keep(points, style):
        look = style.look(keep) | {"linestyle": "none", "alpha": 0.85}
        ax.plot(rows["density"], rows["accuracy"], rasterized=rasterized, **look)
        pearson, spearman = (_signed(rows[name].iloc[0]) for name in ("pearson", "spearman"))
        entries.append(legend_entry(f"{keep:g}: {pearson}, {spearman}", look))
    ax.legend(
        handles=entries,
        title=f"keep: r, {RHO}",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.04),
        fontsize=8,
        title_fontsize=8,
        handletextpad=0.1,
        borderpad=0.1,
        alignment="left",
    )
    return ax


@styled()
def density_figure(points: pd.DataFrame, unit: By) -> Figure:
    """Compose sorted densities: a panel per series on shared axes, one legend outside."""
    style = KeepStyle.of(points)
    entries = [heading("keep fraction")]
    entries += [legend_entry(f"{keep:g}", style.look(keep, 6)) for keep in style.keeps]
    entries += [heading("reference"), legend_entry(f"every {unit} alike", EQUALITY)]
    entries.append(legend_entry("lowest to highest seed", BAND))
    with mpl.rc_context({"text.parse_math": True}):  # as markers, texts have to be formulas
        number = DOT | {"marker": MarkerStyle("$12$"), "markersize": 11}
    entries.append(legend_entry(f"fewest samples of a {unit}", number))
    figure, panels = _panels(points, 2.5, entries)
    for ax, rows in panels:
        plot_densities(rows, ax, style)
    figure.supxlabel(f"{PLURALS[unit]}, densest first", fontsize=10)
    figure.supylabel("density (share kept)", fontsize=10)
    return figure


@styled()
def correlation_figure(points: pd.DataFrame, unit: By) -> Figure:
    """Compose accuracies on all the data against densities: a panel per series on shared axes."""
    style = KeepStyle.of(points)
    many = bool(points["keep_fraction"].isin(style.keeps).sum() > MANY_MARKERS)
    figure, panels = _panels(points, 3.1, ())
    for ax, rows in panels:
        plot_accuracy_against_density(rows, ax, style, rasterized=many)
    measures = f"r is Pearson's and {RHO} Spearman's correlation over {PLURALS[unit]}"
    figure.supxlabel(f"density (share kept); {measures}", fontsize=10)
    figure.supylabel(f"accuracy of a {unit} on all the data", fontsize=10)
    return figure


def _panels(
    points: pd.DataFrame, width: float, entries: Entries
) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]]]:
    """Return a figure and a panel with its points for each series, random pruning first."""

    def order(row: Point) -> tuple[Any, ...]:
        random, free = row["method"] != "random", row["quotas"] != "none"
        return row["model"], random, scorer_name(row), free, row["quotas"]

    rows = sorted(rows_of(points.drop_duplicates("name")), key=order)
    names = [str(row["name"]) for row in rows]
    places = in_rows(len(names), min(len(names), PANEL_COLUMNS))
    figure, axes = panel_grid(names, places, (width, 2.3), entries, letters=TITLE_LETTERS)
    shown = (points[points["name"] == name] for name in names)
    return figure, zip(axes, shown, strict=True)


def _by_keep(points: pd.DataFrame, style: KeepStyle) -> Iterator[tuple[float, pd.DataFrame]]:
    for keep in style.keeps:
        rows = points[points["keep_fraction"] == keep]
        if len(rows):
            yield keep, rows


def _spread(heights: Sequence[float], least: float) -> list[float]:
    """Return heights for labels, at most 1: as ``heights``, but at least ``least`` apart."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=np.float64)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    placed = np.minimum(placed, 1 - least * np.arange(len(placed))[::-1])
    return placed[np.argsort(order)].tolist()  # type: ignore[no-any-return]


def _signed(value: float) -> str:
    """Return a correlation with two decimals and a real minus, or a dash where it is undefined."""
    return DASH if math.isnan(value) else f"{value:+.2f}".replace("-", MINUS)
