"""Drawings of what lies behind a frontier: classes, scores, seconds and samples.

As in :mod:`raydrop.frontier.figures.plots`, nothing is computed here: functions that draw take a
value and ``Axes`` and return the ``Axes``; those that compose return a ``Figure``. Panels are
placed in inches instead of by a layout engine, which takes longer than the drawing where labels are
many.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from raydrop.frontier.costs import Costs, time_unit
from raydrop.frontier.figures.canvas import Look, cut, heading, legend_entry, styled
from raydrop.frontier.figures.plots import KeepStyle
from raydrop.frontier.figures.samples import SampleGrid, mosaic
from raydrop.frontier.figures.scores import ScoreDistribution, Threshold
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
MINUS = "\N{MINUS SIGN}"
PRINTED_HEIGHT = 0.15
"""Inches that a row must have for numbers to fit."""
CLASS_LETTERS = 22
"""Of a class name; the rest is cut off."""
PANEL_COLUMNS = 4
QUERY, SCORING, OUTLINE = "#0072B2", "#E69F00", "#555555"
TILE = 0.34
"""Width of a picture in inches."""


def plot_recall_changes(
    changes: RecallChanges, panel: Panel, ax: Axes, *, printed: bool = True
) -> Axes:
    """Draw a heat map of recall changes, with the recalls on all the data above it.

    Args:
        changes: Says what rows are, and the largest change, which sets the colours.
        panel: One of its panels.
        ax: Where to draw.
        printed: Whether to write every change into its cell, in percentage points.

    Returns:
        ``ax``.
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
    if printed:
        colours = np.asarray(mesh.to_rgba(known))
        cells = [
            (_points(change), _ink(colours[row, column]), column + 0.5, row + 0.5)
            for (row, column), change in np.ndenumerate(panel.changes)
            if not math.isnan(change)
        ]
        _stamp(ax, cells)
    _stamp(
        ax, [(_percent(r), "black", column + 0.5, -0.7) for column, r in enumerate(panel.reference)]
    )
    for row in _starts(changes)[1:]:
        ax.axhline(row, color="black", linewidth=0.6)
    ax.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


@styled()
def heatmap_figure(changes: RecallChanges, names: Sequence[str], by: By = "class") -> Figure:
    """Compose heat maps of recall changes: a panel per model and loss on the same rows.

    Args:
        changes: As from :func:`~raydrop.frontier.statistics.changes.recall_changes`.
        names: Of all classes, (K,), or groups, (G,).
        by: What the columns are.
    """
    n_rows, n_columns = len(changes.rows), len(changes.units)
    row_height = 0.17 if n_rows <= 60 else max(0.08, 10.2 / n_rows)
    shown = [cut(names[unit], CLASS_LETTERS) for unit in changes.units]
    upright = all(len(name) <= 3 for name in shown)
    top = 0.75 + (0.1 if upright else _width(shown, 8))
    left = 0.75 + _width([cut(name) for name, _ in changes.rows], 8)
    printed = row_height >= PRINTED_HEIGHT
    width, height = max((0.34 if printed else 0.2) * n_columns, 1.6), row_height * n_rows
    across = max(1, min(len(changes.panels), 3, int(15 // (width + 0.3))))
    down = math.ceil(len(changes.panels) / across)
    across_inches = left + across * (width + 0.25) + 1.1
    lines = textwrap.wrap(_heatmap_note(changes, by), max(20, int(across_inches / 0.07)))
    inches = across_inches, down * (top + height + 0.2) + 0.25 + 0.14 * len(lines)
    figure = _blank(*inches)
    for number, panel in enumerate(changes.panels):
        row, column = divmod(number, across)
        x, y = left + column * (width + 0.25), row * (top + height + 0.2) + top
        ax = _axes(figure, x, y, width, height)
        plot_recall_changes(changes, panel, ax, printed=printed)
        ax.set_title(cut(panel.title), fontsize=9, pad=top * 72 - 18)
        ax.xaxis.tick_top()
        ax.set_xticks(np.arange(n_columns) + 0.5, shown, fontsize=8)
        ax.tick_params(axis="x", rotation=0 if upright else 90, pad=17)
        _label_rows(changes, ax, row_height, wanted=column == 0)
    _colour_bar(changes, _axes(figure, inches[0] - 0.95, top, 0.15, min(height, 2.6)))
    figure.text(0.1 / inches[0], 0.1 / inches[1], "\n".join(lines), fontsize=8)
    return figure


def plot_scores(
    distribution: ScoreDistribution,
    ax: Axes,
    style: KeepStyle,
    infinite_ax: Axes | None = None,
) -> Axes:
    """Draw one method's scores as a histogram, with a line at the threshold of each keep fraction.

    Args:
        distribution: As from :func:`~raydrop.frontier.figures.scores.score_distributions`.
        ax: Where to draw finite scores.
        style: Looks of keep fractions; those that it does not have are not drawn.
        infinite_ax: Where to draw the share of +infinity, if there are such scores.

    Returns:
        ``ax``.
    """
    d = distribution
    if d.linear_width is not None:
        ax.set_xscale("asinh", linear_width=d.linear_width)
    ax.stairs(d.share, d.edges, fill=True, color="#CFCFCF")
    ax.stairs(d.share, d.edges, color="#444444", linewidth=0.8)
    if d.n_seeds > 1:
        band: Look = {"fill": True, "color": "#444444", "alpha": 0.3, "linewidth": 0}
        ax.stairs(d.share_max, d.edges, baseline=d.share_min, **band)
    ax.set_xlim(d.edges[0], d.edges[-1])
    shown = [t for t in d.thresholds if t.keep_fraction in style.keeps]
    # Above the histogram there is room for the ends of the lines, each at a height of its own.
    room = 0.05 + 0.065 * len(shown)
    ax.set_ylim(0, max(float(d.share_max.max()), d.infinite) / (1 - room))
    for place, threshold in enumerate(shown):
        look, height = style.look(threshold.keep_fraction), 0.97 - 0.065 * place
        _draw_threshold(threshold, ax, look, height, infinite_ax)
    if infinite_ax is not None:
        infinite_ax.bar([0], [d.infinite], width=0.6, color="#CFCFCF", edgecolor="#444444")
        infinite_ax.set(xlim=(-0.6, 0.6), ylim=ax.get_ylim())
        infinite_ax.set_xticks([0], ["+\N{INFINITY}"])
    return ax


@styled()
def scores_figure(distributions: Sequence[ScoreDistribution]) -> Figure:
    """Compose score distributions: a panel per method, +infinity beside it, one legend outside.

    Args:
        distributions: As from :func:`~raydrop.frontier.figures.scores.score_distributions`.
    """
    keeps = {t.keep_fraction for each in distributions for t in each.thresholds}
    style = KeepStyle.of(pd.DataFrame({"keep_fraction": sorted(keeps)}))
    across = min(len(distributions), PANEL_COLUMNS)
    down = math.ceil(len(distributions) / across)
    width, height = 2.35, 1.5
    pitch = width + 0.75, height + 0.8
    inches = across * pitch[0] + 1.9, max(down * pitch[1], 2.3) + 0.05
    figure = _blank(*inches)
    for number, each in enumerate(distributions):
        row, column = divmod(number, across)
        x, y = 0.65 + column * pitch[0], 0.45 + row * pitch[1]
        narrow = width - 0.42 if each.infinite else width
        ax = _axes(figure, x, y, narrow, height)
        beside = _axes(figure, x + narrow + 0.1, y, 0.32, height) if each.infinite else None
        plot_scores(each, ax, style, beside)
        _finish_scores(each, ax, beside)
        ax.set_ylabel("share of samples" if column == 0 else "", fontsize=8)
    _legend(figure, _threshold_entries(style), inches[0] - 1.75)
    return figure


def plot_score_costs(costs: Costs, ax: Axes) -> Axes:
    """Draw what query runs and scores took: a bar per method.

    Filled is the method's equal share of every query run that it reads, then its scores; outlined
    is what it would have been without sharing.

    Args:
        costs: As from :func:`~raydrop.frontier.costs.costs`.
        ax: Where to draw.

    Returns:
        ``ax``.
    """
    table = costs.scorers
    alone = table["query_seconds"] + table["score_seconds"]
    unit, length = time_unit(float(alone.max()))
    y, share, scores = np.arange(len(table)), table["query_share"], table["score_seconds"]
    ax.barh(y, alone / length, height=0.72, **_alone())
    ax.barh(y, share / length, height=0.5, **_query())
    ax.barh(y, scores / length, left=share / length, height=0.5, **_scoring())
    for row, (part, own, end) in enumerate(zip(share, scores, alone, strict=True)):
        text = f"{_amount(part / length)} + {_amount(own / length)}"
        _beside(ax, text, end / length, row)
    ax.set_xlabel(f"{unit} of query runs + {unit} of scores, all seeds", fontsize=9)
    return _by_row(ax, list(table["name"]))


def plot_trial_costs(costs: Costs, ax: Axes, style: KeepStyle) -> Axes:
    """Draw what a trial took: for each method a mark per keep fraction, with lowest and highest.

    Args:
        costs: As from :func:`~raydrop.frontier.costs.costs`.
        ax: Where to draw.
        style: Looks of keep fractions; those that it does not have are not drawn.

    Returns:
        ``ax``.
    """
    table = costs.trials[costs.trials["keep_fraction"].isin(style.keeps)]
    names = list(dict.fromkeys(table["name"]))
    unit, length = time_unit(float(table["seconds_max"].max()))
    step = 0.8 / max(len(style.keeps), 1)
    for row in table.to_dict("records"):
        place = style.keeps.index(row["keep_fraction"])
        single = row["name"].endswith("all the data")
        y = names.index(row["name"]) + (0 if single else step * (place + 0.5) - 0.4)
        look = style.look(row["keep_fraction"]) | {"markersize": 4.5}
        ends = row["seconds_min"] / length, row["seconds_max"] / length
        ax.plot(ends, (y, y), color=look["color"], linewidth=1.0, alpha=0.6)
        ax.plot([row["seconds"] / length], [y], linestyle="none", **look)
    ax.set_xlim(0, 1.04 * float(table["seconds_max"].max()) / length)
    ax.set_xlabel(f"{unit} of a trial: mean, lowest and highest", fontsize=9)
    return _by_row(ax, names)


@styled()
def costs_figure(costs: Costs) -> Figure:
    """Compose what a study took: query runs and scores above, trials below.

    It shows timings, so unlike other figures it differs between two runs of the same study.

    Args:
        costs: As from :func:`~raydrop.frontier.costs.costs`.
    """
    style = KeepStyle.of(costs.trials)
    names = [cut(name) for table in (costs.scorers, costs.trials) for name in table["name"]]
    left, width = 0.3 + _width(names, 9), 5.4
    heights = [0.24 * len(costs.scorers), 0.42 * costs.trials["name"].nunique() + 0.1]
    shown = heights if len(costs.scorers) else heights[1:]
    inches = left + width + 3.0, max(sum(shown) + 0.8 * len(shown) + 0.3, 3.6)
    figure = _blank(*inches)
    if len(costs.scorers):
        plot_score_costs(costs, _axes(figure, left, 0.45, width, heights[0]))
    y = inches[1] - 0.6 - heights[1] if len(shown) == 1 else 0.45 + heights[0] + 0.8
    plot_trial_costs(costs, _axes(figure, left, y, width, heights[1]), style)
    figure.text(0.1 / inches[0], 1 - 0.22 / inches[1], _totals(costs), fontsize=9)
    _legend(figure, _cost_entries(costs, style), left + width + 0.85)
    return figure


def plot_samples(grid: SampleGrid, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw pictures of the samples that are kept first (left) and pruned first (right).

    Args:
        grid: One of :func:`~raydrop.frontier.figures.samples.sample_grids`.
        axes: The two panels.

    Returns:
        ``axes``.
    """
    ends = ("highest", "lowest") if grid.higher_is_kept else ("lowest", "highest")
    for ax, rows, name, end in zip(
        axes, (grid.kept, grid.pruned), ("kept", "pruned"), ends, strict=True
    ):
        whole = mosaic(rows, grid.per_side)
        # Pixels as they are: an SVG leaves enlarging them to whoever shows it.
        ax.imshow(whole, interpolation="none", aspect="auto")
        ax.set_title(f"{name} first ({end} scores)", fontsize=8, pad=3)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    step = axes[0].get_ylim()[0] / len(grid.units)
    places = step * (np.arange(len(grid.units)) + 0.5)
    axes[0].set_yticks(places, [cut(name, CLASS_LETTERS) for name in grid.units], fontsize=8)
    axes[0].tick_params(length=0)
    return axes


@styled()
def images_figure(grids: Sequence[SampleGrid]) -> Figure:
    """Compose pictures of kept and pruned samples: two panels per method.

    Args:
        grids: As from :func:`~raydrop.frontier.figures.samples.sample_grids`.
    """
    across = min(len(grids), 2 if len(grids) <= 6 else 3)
    down = math.ceil(len(grids) / across)
    left = 0.25 + _width([cut(name, CLASS_LETTERS) for grid in grids for name in grid.units], 8)
    shape = grids[0].kept[0].shape
    side = TILE * max(grid.per_side for grid in grids)
    tall = TILE * shape[1] / shape[2]
    pitch = left + 2 * side + 0.45, tall * max(len(grid.units) for grid in grids) + 0.75
    figure = _blank(across * pitch[0] + 0.1, down * pitch[1] + 0.1)
    for number, grid in enumerate(grids):
        row, column = divmod(number, across)
        x, y = column * pitch[0] + left, row * pitch[1] + 0.6
        width, height = TILE * grid.per_side, tall * len(grid.units)
        places = (x, x + side + 0.15)
        pair = plot_samples(grid, [_axes(figure, at, y, width, height) for at in places])
        pair[0].annotate(
            f"{cut(grid.name)}, seed {grid.seed}",
            (0, 1),
            xytext=(0, 20),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=10,
            fontweight="bold",
        )
    return figure


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return axes at some inches from the left and from the top."""
    across, down = figure.get_size_inches()
    return figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))


def _width(texts: Sequence[str], size: float) -> float:
    """Return inches that suffice for the longest of some texts of ``size`` points."""
    return 0.62 * size / 72 * max((len(text) for text in texts), default=0)


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


def _percent(recall: float) -> str:
    return "\N{EN DASH}" if math.isnan(recall) else f"{100 * recall:.0f}"


def _points(change: float) -> str:
    """Return a change in percentage points, with its sign."""
    rounded = round(100 * change)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", MINUS)


def _ink(colour: NDArray[np.float64]) -> str:
    """Return black or white, whichever is the easier to read on a colour."""
    red, green, blue = colour[:3]
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _heatmap_note(changes: RecallChanges, by: By) -> str:
    shown, measure = len(changes.units), "recall" if by == "class" else "accuracy"
    note = f"the {shown} {PLURALS[by]} that lose most; " if shown < changes.n_units else ""
    return (
        f"{note}{measure}, mean change over seeds against all the data with the same seed, in "
        f"percentage points; {PLURALS[by]} that are worst on all the data first"
    )


def _starts(changes: RecallChanges) -> list[int]:
    """Return the rows with which a series begins."""
    names = [name for name, _ in changes.rows]
    return [row for row, name in enumerate(names) if row == 0 or names[row - 1] != name]


def _label_rows(changes: RecallChanges, ax: Axes, row_height: float, *, wanted: bool) -> None:
    """Write series and keep fractions left of a heat map."""
    if not wanted:
        ax.set_yticks([])
        return
    size = min(8.0, 0.85 * 72 * row_height)
    keeps = [f"{keep:g}" for _, keep in changes.rows]
    ax.set_yticks(np.arange(len(keeps)) + 0.5, keeps, fontsize=size)
    starts = _starts(changes)
    beside: Look = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
    beside["xycoords"] = ("axes fraction", "data")
    for start, end in zip(starts, [*starts[1:], len(keeps)], strict=True):
        name, middle = changes.rows[start][0], (start + end) / 2
        ax.annotate(cut(name), (0, middle), (-30, 0), **beside)
    ax.annotate("all the data", (0, -0.7), (-3, 0), **beside)
    ax.annotate("keep", (0, 0), (-3, 20), color=OUTLINE, **beside)


def _colour_bar(changes: RecallChanges, ax: Axes) -> None:
    # By hand: matplotlib's own turns into pixels, which an SVG should not need.
    limit = 100 * max(changes.largest, 0.01)
    levels = np.linspace(-limit, limit, 42)
    middles = (levels[1:] + levels[:-1])[:, None] / 2
    ax.pcolormesh([0, 1], levels, middles, cmap=LOSS_TO_GAIN, vmin=-limit, vmax=limit)
    ax.set_xticks([])
    ax.yaxis.tick_right()
    ax.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    ax.tick_params(labelsize=8)
    ax.yaxis.set_label_position("right")
    ax.set_ylabel("change (percentage points)", fontsize=8)
    ax.grid(visible=False)


def _draw_threshold(
    threshold: Threshold, ax: Axes, look: Look, height: float, infinite_ax: Axes | None
) -> None:
    """Draw a line that ends at a share of the panel's height, with the range over seeds there."""
    target, place = ax, threshold.value
    if math.isinf(place):
        if infinite_ax is None:
            return
        target, place = infinite_ax, 0.0
    line: Look = {"color": look["color"], "transform": target.get_xaxis_transform()}
    target.plot([place, place], [0, height], linewidth=0.9, **line)
    if target is ax:
        high = min(threshold.high, ax.get_xlim()[1])
        ax.plot([threshold.low, high], [height, height], linewidth=1.6, alpha=0.6, **line)
    mark = look | line | {"markersize": 5, "clip_on": False, "linestyle": "none"}
    target.plot([place], [height], **mark)


def _finish_scores(distribution: ScoreDistribution, ax: Axes, beside: Axes | None) -> None:
    kept = (
        "kept \N{RIGHTWARDS ARROW}" if distribution.higher_is_kept else "\N{LEFTWARDS ARROW} kept"
    )
    ax.set_title(cut(distribution.name), loc="left", fontsize=9)
    (beside or ax).set_title(kept, loc="right", fontsize=8, color=OUTLINE)
    if distribution.linear_width is None:
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=distribution.counts))
    else:
        ticks = _asinh_ticks(*ax.get_xlim(), distribution.linear_width)
        ax.set_xticks(ticks, [f"{tick:g}".replace("-", MINUS) for tick in ticks])
        ax.set_xticks([], minor=True)
    for each in (ax, beside):
        if each is not None:
            each.grid(visible=False)
            each.tick_params(labelsize=8)
            each.yaxis.set_major_locator(MaxNLocator(4))
    if beside is not None:
        beside.spines["left"].set_visible(False)
        beside.set_yticks([])


def _asinh_ticks(low: float, high: float, width: float) -> list[float]:
    """Return round numbers for an axis of scale asinh(x / width): zero and powers of ten first."""
    top = math.ceil(math.log10(max(abs(low), abs(high))))
    powers = [10.0**power for power in range(top, top - 5, -1)]
    round_numbers = [0.0, *powers, *(m * power for power in powers for m in (5.0, 2.0))]
    room = 0.14 * (math.asinh(high / width) - math.asinh(low / width))
    chosen: dict[float, float] = {}
    for number in (sign * each for each in round_numbers for sign in (1, -1)):
        place = math.asinh(number / width)
        far = all(abs(place - other) >= room for other in chosen.values())
        if low <= number <= high and far:
            chosen[number] = place
    return sorted(chosen)


def _threshold_entries(style: KeepStyle) -> list[Line2D | Patch]:
    entries: list[Line2D | Patch] = []
    if style.keeps:
        entries.append(heading("last kept at keep"))
        entries += [
            legend_entry(f"{keep:g}", style.look(keep) | {"markersize": 5}) for keep in style.keeps
        ]
    entries.append(heading("samples"))
    entries.append(Patch(facecolor="#CFCFCF", edgecolor="#444444", label="mean over seeds"))
    entries.append(Patch(facecolor="#444444", alpha=0.3, label="lowest to highest"))
    return entries


def _cost_entries(costs: Costs, style: KeepStyle) -> list[Line2D | Patch]:
    entries: list[Line2D | Patch] = []
    if len(costs.scorers):
        entries += [
            heading("before the trials"),
            Patch(**_query(), label="query runs, shared"),
            Patch(**_scoring(), label="scores"),
            Patch(**_alone(), label="both without sharing"),
        ]
    entries.append(heading("trials at keep fraction"))
    entries += [
        legend_entry(f"{keep:g}", style.look(keep) | {"linestyle": "none", "markersize": 5})
        for keep in style.keeps
    ]
    return entries


def _query() -> Look:
    return {"facecolor": QUERY, "edgecolor": "black", "linewidth": 0.5}


def _scoring() -> Look:
    return {"facecolor": SCORING, "edgecolor": "black", "linewidth": 0.5, "hatch": "////"}


def _alone() -> Look:
    return {"facecolor": "none", "edgecolor": OUTLINE, "linewidth": 0.8, "linestyle": (0, (3, 2))}


def _legend(figure: Figure, entries: Sequence[Line2D | Patch], x: float) -> None:
    """Draw the one legend at some inches from the left, at the top."""
    place = x / figure.get_size_inches()[0], 1 - 0.15 / figure.get_size_inches()[1]
    legend = figure.legend(
        handles=list(entries), loc="upper left", bbox_to_anchor=place, fontsize=8, handlelength=2.2
    )
    for handle, text in zip(entries, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if handle.get_gid() == "heading" else "normal")


def _by_row(ax: Axes, names: Sequence[str]) -> Axes:
    ax.set_yticks(range(len(names)), [cut(name) for name in names], fontsize=9)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax


def _beside(ax: Axes, text: str, x: float, y: float) -> None:
    """Write a text right of the end of a bar, perhaps beyond the frame."""
    ax.annotate(
        text,
        (x, y),
        (4, 0),
        textcoords="offset points",
        fontsize=8,
        va="center",
        annotation_clip=False,
    )


def _amount(value: float) -> str:
    if 0 < value < 0.1:
        return "<0.1"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _totals(costs: Costs) -> str:
    parts = []
    for name, (count, seconds) in costs.totals.items():
        if count:
            unit, length = time_unit(seconds)
            parts.append(f"{count} {name} in {seconds / length:.3g} {unit}")
    return "; ".join(parts)
