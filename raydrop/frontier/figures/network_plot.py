"""The drawing of accuracies against what remains of a network: nothing is computed here.

Colour stands for the network method, line style and marker for the loss. The same points give the
same SVG, byte for byte.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydrop.frontier.figures.canvas import (
    Look,
    cut,
    draw_legend,
    heading,
    legend_entry,
    new_figure,
    ordered_from,
    styled,
)
from raydrop.frontier.figures.plots import AVERAGE, FULL_DATA, LABELS, LINES, MARKERS, SeriesStyle
from raydrop.frontier.points import DENSE
from raydrop.frontier.table import worst_accuracy
from raydrop.study import By


@styled()
def network_figure(
    points: pd.DataFrame, by: By = "class", style: SeriesStyle | None = None
) -> Figure:
    """Compose accuracies against what remains: a row of two panels per data selection.

    Args:
        points: As from :func:`~raydrop.frontier.figures.network.network_points`.
        by: Whether to draw the worst class or the worst group.
        style: Colours shared with other figures; from ``points`` where None.
    """
    looks = _looks(points, style or SeriesStyle.of(points))
    rows = list(points.groupby("panel", sort=True))
    masked = points[points["masked"]]
    handles = [heading("network method, loss")]
    handles += [legend_entry(", ".join(key), look) for key, look in looks.items()]
    handles += [heading("reference"), legend_entry("dense network", _star())]
    handles.append(legend_entry("lowest to highest seed", _band()))
    label = "share of multiply-accumulates that remains"
    if len(masked):
        label += " (of weights, where they are masked)"
    figure = new_figure(11.0, 3.5 * len(rows) + 0.2, handles)
    panels = figure.subplots(len(rows), 2, sharex=True, sharey="col", squeeze=False)
    for (_, shown), pair in zip(rows, panels, strict=True):
        for ax, name in zip(pair, (AVERAGE, worst_accuracy(by)), strict=True):
            plot_network(shown, ax, name, looks)
            ax.set_title(cut(shown["data"].iloc[0]))
    # Smaller networks to the right; the axes are shared.
    panels[0, 0].invert_xaxis()
    figure.supxlabel(label, fontsize=10)
    draw_legend(figure, handles)
    return figure


def plot_network(
    points: pd.DataFrame, ax: Axes, name: str, looks: dict[tuple[str, str], Look]
) -> Axes:
    """Draw one accuracy against what remains of the network, a line per method and loss.

    Args:
        points: Of one data selection, as from
        :func:`~raydrop.frontier.figures.network.network_points`.
        ax: Where to draw.
        name: Column of the accuracy.
        looks: How each network method and loss looks.

    Returns:
        ``ax``.
    """
    dense = points[points["network_target"] == DENSE]
    for key, look in looks.items():
        own = (points["network_method"] == key[0]) & (points["loss"] == key[1])
        rows = points[own & points["remaining"].notna()]
        if rows.empty:
            continue
        low, high = rows[f"{name}_min"], rows[f"{name}_max"]
        colour = look["color"]
        ax.fill_between(rows["remaining"], low, high, color=colour, alpha=0.1, linewidth=0)
        ax.plot(rows["remaining"], rows[name], **look)
    for value in dense[name]:
        ax.axhline(value, color=FULL_DATA, linewidth=0.8, linestyle=(0, (1, 3)))
    ax.plot(dense["remaining"], dense[name], **_star())
    ax.set_ylabel(LABELS[name])
    return ax


def _looks(points: pd.DataFrame, style: SeriesStyle) -> dict[tuple[str, str], Look]:
    """Return how each network method and loss looks, random ones and the plain loss first."""
    pruned = points[points["network_target"] != DENSE]
    losses = ordered_from(pruned["loss"], first="cross_entropy")
    there = set(zip(pruned["network_method"], pruned["loss"], strict=True))
    return {
        (method, loss): {
            "color": style.colour("", method),
            "linestyle": LINES[j % len(LINES)],
            "marker": MARKERS[j % len(MARKERS)],
            "markersize": 5.5,
            "linewidth": 1.3,
        }
        for method in style.networks
        for j, loss in enumerate(losses)
        if (method, loss) in there
    }


def _star() -> Look:
    return {"color": FULL_DATA, "marker": "*", "markersize": 14, "linestyle": "none", "zorder": 3}


def _band() -> Look:
    return {"color": "#555555", "alpha": 0.25, "linewidth": 8, "solid_capstyle": "butt"}
