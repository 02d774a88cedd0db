"""A drawing of how pruning changes the recall of every class, as a heat map for each setting."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from raydrop.frontier.figures.canvas import (
    DASH,
    GREY,
    MINUS,
    UNIT_LETTERS,
    Look,
    axes_at,
    cut,
    in_rows,
    new_figure,
    styled,
    text_width,
    without_frame,
)
from raydrop.frontier.points import PLURALS
from raydrop.frontier.statistics.changes import Panel, RecallChanges
from raydrop.study import By

LOSS_TO_GAIN = LinearSegmentedColormap.from_list(
    "loss to gain",
    [
        (0.0, "#451100"),
        (0.2, "#9A3A00"),
        (0.36, "#D9823B"),
        (0.5, "#BEBEBE"),
        (0.65, "#9FE3EF"),
        (1.0, "#DDFFFF"),
    ],
)
"""From brown (loss) over grey (none) to pale cyan (gain). Lightness rises all the way, so that a
loss is darker than no change and a gain lighter in print without colour and to any eye."""
PRINTED_HEIGHT = 0.15
"""Inches that a row must have for numbers to fit."""


def plot_recall_changes(
    changes: RecallChanges, panel: Panel, ax: Axes, *, printed: bool = True
) -> Axes:
    """Draw a heat map of recall changes, with the recalls on all the data above it.

    The largest change of all panels sets the colours. If ``printed``, every change is written into
    its cell, in percentage points.
    """
    n_rows, n_columns = panel.changes.shape
    edges = np.arange(n_columns + 1), np.arange(n_rows + 1)
    limit = max(changes.largest, 0.01)
    known = np.ma.masked_invalid(panel.changes)
    if known.mask.any():
        ax.patch.set(hatch="////", edgecolor="#BBBBBB", linewidth=0)
    look: Look = {"cmap": LOSS_TO_GAIN, "vmin": -limit, "vmax": limit, "clip_on": False}
    look["rasterized"] = not printed  # many cells would make an SVG megabytes large
    mesh = ax.pcolormesh(*edges, known, **look)
    ax.vlines(edges[0], 0, n_rows, color="white", linewidth=0.6)
    ax.hlines(edges[1], 0, n_columns, color="white", linewidth=0.6)
    cells = [
        (DASH if math.isnan(recall) else f"{100 * recall:.0f}", "black", column + 0.5, -0.7)
        for column, recall in enumerate(panel.reference)
    ]
    if printed:
        colours = np.asarray(mesh.to_rgba(known))
        cells += [
            (_points(change), _ink(colours[row, column]), column + 0.5, row + 0.5)
            for (row, column), change in np.ndenumerate(panel.changes)
            if not math.isnan(change)
        ]
    _stamp(ax, cells)
    for row in _starts(changes)[1:]:
        ax.axhline(row, color="black", linewidth=0.6)
    ax.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    without_frame(ax)
    return ax


@styled()
def heatmap_figure(changes: RecallChanges, names: Sequence[str], unit: By = "class") -> Figure:
    """Compose heat maps of recall changes: a panel per model and loss on the same rows.

    Columns are classes or groups; ``names`` are those of all of them.
    """
    n_rows, n_columns = len(changes.rows), len(changes.units)
    row_height = 0.17 if n_rows <= 60 else max(0.08, 10.2 / n_rows)
    shown = [cut(names[each], UNIT_LETTERS) for each in changes.units]
    upright = all(len(name) <= 3 for name in shown)
    top = 0.75 + (0.1 if upright else text_width(shown, 8))
    left = 0.75 + text_width([cut(name) for name, _ in changes.rows], 8)
    printed = row_height >= PRINTED_HEIGHT
    width, height = max((0.34 if printed else 0.2) * n_columns, 1.6), row_height * n_rows
    across = max(1, min(len(changes.panels), 3, int(15 // (width + 0.3))))
    down = math.ceil(len(changes.panels) / across)
    across_inches = left + across * (width + 0.25) + 1.1
    lines = textwrap.wrap(_note(changes, unit), max(20, int(across_inches / 0.07)))
    inches = across_inches, down * (top + height + 0.2) + 0.25 + 0.14 * len(lines)
    figure = new_figure(*inches)
    for panel, (row, column) in zip(changes.panels, in_rows(down * across, across), strict=False):
        x, y = left + column * (width + 0.25), row * (top + height + 0.2) + top
        ax = axes_at(figure, x, y, width, height)
        plot_recall_changes(changes, panel, ax, printed=printed)
        ax.set_title(cut(panel.title), fontsize=9, pad=top * 72 - 18)
        ax.xaxis.tick_top()
        ax.set_xticks(np.arange(n_columns) + 0.5, shown, fontsize=8)
        ax.tick_params(axis="x", rotation=0 if upright else 90, pad=17)
        ax.set_yticks([])
        if column == 0:
            _label_rows(changes, ax, row_height)
    tall = max(0.4, min(height, 2.6))  # or its marks lie over each other
    _draw_scale(changes, axes_at(figure, inches[0] - 0.95, top, 0.15, tall), tall)
    figure.text(0.1 / inches[0], 0.1 / inches[1], "\n".join(lines), fontsize=8)
    return figure


def _stamp(ax: Axes, cells: Sequence[tuple[str, str, float, float]]) -> None:
    """Write many short texts: (text, colour, x, y) each, equal ones as markers of one line.

    As texts of their own they would make the file several times larger, and take longer.
    """
    places: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for text, colour, x, y in cells:
        places.setdefault((text, colour), []).append((x, y))
    for (text, colour), xy in places.items():
        outline = TextPath((0, 0), text, size=6.5)
        box = outline.get_extents()
        # Centred, but on one line whatever the letters.
        shape = Affine2D().translate(-(box.x0 + box.x1) / 2, -2.4).transform_path(outline)
        # Matplotlib scales a marker so that its farthest coordinate is at half its size.
        size = 2 * float(np.abs(shape.vertices).max())
        look: Look = {"color": colour, "markersize": size, "markeredgewidth": 0, "label": text}
        ax.plot(*zip(*xy, strict=True), linestyle="none", marker=shape, clip_on=False, **look)


def _points(change: float) -> str:
    """Return a change in percentage points, with its sign."""
    rounded = round(100 * change)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", MINUS)


def _ink(colour: NDArray[np.float64]) -> str:
    """Return black or white, whichever is the easier to read on a colour."""
    return "black" if colour[:3] @ (0.3, 0.59, 0.11) > 0.5 else "white"


def _note(changes: RecallChanges, unit: By) -> str:
    shown, measure = len(changes.units), "recall" if unit == "class" else "accuracy"
    note = f"the {shown} {PLURALS[unit]} that lose most; " if shown < changes.n_units else ""
    return (
        f"{note}{measure}, mean change over seeds against all the data with the same seed, in "
        f"percentage points; {PLURALS[unit]} that are worst on all the data first"
    )


def _starts(changes: RecallChanges) -> list[int]:
    """Return the rows with which a series begins."""
    names = [name for name, _ in changes.rows]
    return [row for row, name in enumerate(names) if row == 0 or names[row - 1] != name]


def _label_rows(changes: RecallChanges, ax: Axes, row_height: float) -> None:
    """Write series and keep fractions left of a heat map."""
    keeps = [f"{keep:g}" for _, keep in changes.rows]
    size = min(8.0, 0.85 * 72 * row_height)
    ax.set_yticks(np.arange(len(keeps)) + 0.5, keeps, fontsize=size)
    beside: Look = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
    beside["xycoords"] = ("axes fraction", "data")
    starts = _starts(changes)
    for start, end in zip(starts, [*starts[1:], len(keeps)], strict=True):
        ax.annotate(cut(changes.rows[start][0]), (0, (start + end) / 2), (-30, 0), **beside)
    ax.annotate("all the data", (0, -0.7), (-3, 0), **beside)
    ax.annotate("keep", (0, 0), (-3, 20), color=GREY, **beside)


def _draw_scale(changes: RecallChanges, ax: Axes, inches: float) -> None:
    """Draw the scale of colours; Matplotlib's own turns into pixels, which an SVG should not."""
    limit = 100 * max(changes.largest, 0.01)
    levels = np.linspace(-limit, limit, 42)
    middles = (levels[1:] + levels[:-1])[:, None] / 2
    ax.pcolormesh([0, 1], levels, middles, cmap=LOSS_TO_GAIN, vmin=-limit, vmax=limit)
    ax.set_xticks([])
    ax.yaxis.tick_right()
    ax.yaxis.set_major_locator(MaxNLocator(max(2, min(5, int(inches / 0.2))), symmetric=True))
    ax.tick_params(labelsize=8)
    ax.yaxis.set_label_position("right")
    ax.set_ylabel("change (percentage points)" if inches > 1.4 else "points", fontsize=8)
    ax.grid(visible=False)
