"""Drawings of a frontier table: nothing is computed here that is not in the table.

Colour and marker shape stand for the method (and where its scores come from, if that is not the
model trained), line style and marker filling for the quotas, and marker size for the keep fraction,
so a print in grey still tells the series apart. Where a panel is about one method, colour and
marker shape stand for the keep fraction, from dark (small) to light (large). Where networks are
pruned, colour stands for the network method and each target has panels of its own. Functions that
draw take and return ``Axes``; those that compose return a ``Figure``, without pyplot's global
state. The same table gives the same SVG, byte for byte.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from raydrop.frontier.figures.canvas import COLOURS as COLOURS
from raydrop.frontier.figures.canvas import FRONT_COLOUR as FRONT_COLOUR
from raydrop.frontier.figures.canvas import Look as Look
from raydrop.frontier.figures.canvas import (
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
from raydrop.frontier.figures.canvas import to_png as to_png
from raydrop.frontier.figures.canvas import to_svg as to_svg
from raydrop.frontier.points import (
    DENSE,
    PLURALS,
    has_networks,
    has_several_models,
    scorer_name,
    setting_name,
    target_place,
    targets_of,
)
from raydrop.frontier.table import worst_accuracy
from raydrop.study import By

AVERAGE = "average_accuracy"
NOISY = "noisy_pruned"
LABELS = {
    AVERAGE: "average accuracy",
    worst_accuracy("class"): "worst-class accuracy",
    worst_accuracy("group"): "worst-group accuracy",
    NOISY: "share of mislabelled samples pruned",
}

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "h", ">", "d")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
FILLS = ("none", "full", "left", "bottom", "right", "top")
FULL_DATA = "#333333"
FRONTS = {"on_front_at_keep_fraction": 0.8, "on_front": 2.2}
"""Widths of the rings that mark points of each Pareto front."""
SHOWN_KEEPS = 5
"""Keep fractions in a panel that is about one method; more cannot be told apart."""
PANEL_COLUMNS = 4
TITLE_LETTERS = 25
"""Letters in a line of a narrow panel's title; more would run into the next panel's."""
RHO = "\N{GREEK SMALL LETTER RHO}"
MANY_MARKERS = 4000
"""Above this, markers become pixels also in an SVG, which would otherwise be megabytes large."""


@dataclass(frozen=True)
class SeriesStyle:
    """How methods and quotas look; the same in every panel and figure of a table."""

    methods: tuple[str, ...]
    """As :func:`~raydrop.frontier.points.scorer_name` calls them, in the order of :data:`COLOURS`
    and :data:`MARKERS`."""
    quotas: tuple[str, ...]
    """In the order of :data:`LINES` and :data:`FILLS`."""
    networks: tuple[str, ...] = ()
    """Ways in which networks are pruned, in the order of the colours that methods leave."""

    @classmethod
    def of(cls, points: pd.DataFrame) -> SeriesStyle:
        """Give every pruning method and quota rule of a table its look."""
        pruned = points[points["method"] != "none"]
        return cls(
            tuple(ordered_from(_scorers(pruned), first="random")),
            tuple(ordered_from(pruned["quotas"], first="none")),
            tuple(ordered_from(_pruned_networks(points)["network_method"], first="random"))
            if has_networks(points)
            else (),
        )

    def colour(self, method: str, network: str = DENSE) -> str:
        """Return the colour of a method or, where the network is pruned too, of how.

        The first one's is no other's, however many there are.
        """
        index = (
            self.methods.index(method)
            if network == DENSE
            else len(self.methods) + self.networks.index(network)
        )
        return COLOURS[1 + (index - 1) % (len(COLOURS) - 1)] if index else COLOURS[0]

    def marker(self, method: str) -> str:
        """Return the method's marker."""
        return MARKERS[self.methods.index(method) % len(MARKERS)]

    def line(self, quotas: str) -> str | tuple[int, tuple[int, ...]]:
        """Return the line style of a quota rule."""
        return LINES[self.quotas.index(quotas) % len(LINES)]

    def fill(self, quotas: str) -> str:
        """Return how a quota rule's markers are filled."""
        return FILLS[self.quotas.index(quotas) % len(FILLS)]


@dataclass(frozen=True)
class KeepStyle:
    """How keep fractions look where a panel is about one method."""

    keeps: tuple[float, ...]
    """Those that are shown, ascending."""

    @classmethod
    def of(cls, points: pd.DataFrame) -> KeepStyle:
        """Give keep fractions their looks: all, or some from the smallest to the largest."""
        keeps = sorted(points["keep_fraction"].unique())
        places = np.linspace(0, len(keeps) - 1, min(len(keeps), SHOWN_KEEPS)).round()
        return cls(tuple(float(keeps[int(place)]) for place in places))

    def look(self, keep: float) -> Look:
        """Return colour and marker. The colours' lightness grows with the keep fraction."""
        index = self.keeps.index(keep)
        # Without the yellow end of the map, which vanishes on white.
        place = 0.8 * index / max(len(self.keeps) - 1, 1)
        return {
            "color": mpl.colormaps["viridis"](place),
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 3.5,
        }


def plot_frontier(
    points: pd.DataFrame,
    ax: Axes,
    style: SeriesStyle | None = None,
    by: By = "class",
    others: pd.DataFrame | None = None,
) -> Axes:
    """Draw worst-class against average accuracy, a line per method, quotas, model and loss.

    Args:
        points: Rows of :func:`~raydrop.frontier.table.frontier_table`.
        ax: Where to draw.
        style: Looks shared with other panels; from ``points`` where None.
        by: Whether to draw the worst class or the worst group.
        others: Points of losses that were run on all the data alone, or of the dense network:
            stars with their ``label``, or else their loss, beside them.

    Returns:
        ``ax``.
    """
    style, worst = style or SeriesStyle.of(points), worst_accuracy(by)
    # As a bare artist: axline() would stretch the limits to a point of the line.
    ax.add_artist(AxLine((0, 0), None, 1, **equality_look()))
    for key, series in _series(points):
        path = _with_all_data(points, key, series)
        ax.plot(path[AVERAGE], path[worst], **_line_look(style, key))
        for row in series.to_dict("records"):
            look = _marker_look(style, key, marker_size(row["keep_fraction"]))
            ax.plot([row[AVERAGE]], [row[worst]], **look)
    for column, width in FRONTS.items():
        front = points[points[column]]
        ax.plot(front[AVERAGE], front[worst], **ring_look(width))
    for row in _rows(others):
        ax.plot([row[AVERAGE]], [row[worst]], **_hollow_star())
        _write_beside(ax, _label(row), (row[AVERAGE], row[worst]), FULL_DATA)
    _draw_stars(points, ax, AVERAGE, worst, style)
    ax.set_xlabel(LABELS[AVERAGE])
    ax.set_ylabel(LABELS[worst])
    return ax


def plot_by_keep_fraction(
    points: pd.DataFrame,
    axes: Sequence[Axes],
    style: SeriesStyle | None = None,
    by: By = "class",
    others: pd.DataFrame | None = None,
) -> Sequence[Axes]:
    """Draw average (left) and worst-class accuracy (right) against the keep fraction.

    Bands are the lowest and highest value over seeds. A dashed line and a star at 1 show training
    on all the data.

    Args:
        points: Rows of :func:`~raydrop.frontier.table.frontier_table`.
        axes: The two panels.
        style: Looks shared with other panels; from ``points`` where None.
        by: Whether to draw the worst class or the worst group.
        others: As for :func:`plot_frontier`.

    Returns:
        ``axes``.
    """
    style = style or SeriesStyle.of(points)
    full = _dense(points[points["method"] == "none"])
    for ax, name in zip(axes, (AVERAGE, worst_accuracy(by)), strict=True):
        _draw_against_keep_fraction(points, ax, name, style)
        for row in full.to_dict("records"):
            ax.axhline(row[name], color=FULL_DATA, linewidth=0.8, linestyle=(0, (1, 3)))
        for row in _rows(others):
            ax.plot([row["keep_fraction"]], [row[name]], **_hollow_star())
            _write_beside(ax, _label(row), (row["keep_fraction"], row[name]), FULL_DATA)
        _draw_stars(points, ax, "keep_fraction", name, style)
        ax.set_xlabel("keep fraction")
        ax.set_ylabel(LABELS[name])
    return axes


def plot_noise(points: pd.DataFrame, ax: Axes, style: SeriesStyle | None = None) -> Axes:
    """Draw the share of the mislabelled samples that is pruned against the keep fraction.

    Bands are the lowest and highest value over seeds. The dashed line is what a uniform draw prunes
    on average.

    Args:
        points: As in :attr:`~raydrop.frontier.statistics.noise.Noise.points`.
        ax: Where to draw.
        style: Looks shared with other panels; from ``points`` where None.

    Returns:
        ``ax``.
    """
    style = style or SeriesStyle.of(points)
    ax.add_artist(AxLine((0, 1), None, -1, **_uniform()))
    _draw_against_keep_fraction(points, ax, NOISY, style)
    ax.set_xlim(0, 1)
    # A little room, so that a line at 1 is not lost in the frame.
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("keep fraction")
    ax.set_ylabel(LABELS[NOISY])
    return ax


def plot_densities(points: pd.DataFrame, ax: Axes, style: KeepStyle | None = None) -> Axes:
    """Draw sorted densities, a line per keep fraction, for one method and quotas.

    Bands are the lowest and highest value over seeds. The number at the end of a line is the fewest
    samples that any class keeps; the dotted line, the keep fraction, is where every class would be
    if all were pruned alike.

    Args:
        points: Of one series, as from
        :func:`~raydrop.frontier.statistics.densities.density_points`.
        ax: Where to draw.
        style: Looks shared with other panels; from ``points`` where None.

    Returns:
        ``ax``.
    """
    style = style or KeepStyle.of(points)
    ax.set_ylim(-0.03, 1.06)
    shown = [
        (keep, points[points["keep_fraction"] == keep].sort_values("rank"))
        for keep in style.keeps
        if (points["keep_fraction"] == keep).any()
    ]
    ends = _spread([rows["density"].iloc[-1] for _, rows in shown], least=0.09)
    for (keep, rows), end in zip(shown, ends, strict=True):
        look = style.look(keep)
        colour, last = look["color"], rows.iloc[-1]
        ax.axhline(keep, color=colour, linewidth=0.6, linestyle=(0, (1, 3)))
        low, high = rows["density_min"], rows["density_max"]
        ax.fill_between(rows["rank"], low, high, color=colour, alpha=0.15, linewidth=0)
        if len(rows) > 30:
            look["marker"] = "none"
        ax.plot(rows["rank"], rows["density"], linewidth=1.2, **look)
        _write_beside(ax, f"{last['smallest_kept']}", (last["rank"], end), colour)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def plot_accuracy_against_density(
    points: pd.DataFrame,
    ax: Axes,
    style: KeepStyle | None = None,
    *,
    rasterized: bool = False,
) -> Axes:
    """Draw the accuracy of each class on all the data against its density, for one series.

    The legend beside the panel gives Pearson's and Spearman's correlation over classes for each
    keep fraction.

    Args:
        points: Of one series, as from
        :func:`~raydrop.frontier.statistics.densities.correlation_points`.
        ax: Where to draw.
        style: Looks shared with other panels; from ``points`` where None.
        rasterized: Whether markers are pixels also in an SVG.

    Returns:
        ``ax``.
    """
    style = style or KeepStyle.of(points)
    handles = []
    for keep in style.keeps:
        rows = points[points["keep_fraction"] == keep]
        if rows.empty:
            continue
        look = style.look(keep) | {"linestyle": "none", "alpha": 0.85}
        ax.plot(rows["density"], rows["accuracy"], rasterized=rasterized, **look)
        pearson, spearman = (_signed(rows[name].iloc[0]) for name in ("pearson", "spearman"))
        handles.append(legend_entry(f"{keep:g}: {pearson}, {spearman}", look))
    ax.legend(
        handles=handles,
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
def frontier_figure(points: pd.DataFrame, by: By = "class") -> Figure:
    """Compose the frontier: a panel per model and loss on shared axes, one legend outside.

    Losses that were run on all the data alone have no panel: their stars are in the others. Where
    networks are pruned, models and losses are rows, and each target has a column, dense networks
    first and then rising, with a front of its own.
    """
    if has_networks(points):
        return _network_grid(points, by)
    settings = _settings(points)
    losses = pd.concat([setting.points["loss"] for setting in settings]).nunique()
    columns = min(losses if losses > 1 else len(settings), 3)
    rows = math.ceil(len(settings) / columns)
    style = SeriesStyle.of(points)
    handles = _legend_handles(points, style, sizes=True)
    figure = new_figure(4.6 * columns + 2.2, 4.4 * rows, handles)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for setting, ax in zip(settings, panels, strict=False):
        plot_frontier(setting.points, ax, style, by, setting.others)
        ax.set_title(cut(setting.title))
        ax.label_outer()
    for ax in panels[len(settings) :]:
        ax.remove()
    draw_legend(figure, handles)
    return figure


def _network_grid(points: pd.DataFrame, by: By) -> Figure:
    """Compose the frontier of each loss (rows) and network target (columns)."""
    settings = {(each.row, each.target): each for each in _settings(points)}
    rows = list(dict.fromkeys(row for row, _ in settings))
    targets = targets_of(points)
    style = SeriesStyle.of(points)
    handles = _legend_handles(points, style, sizes=True)
    figure = new_figure(3.4 * len(targets) + 2.4, 3.3 * len(rows) + 0.3, handles)
    axes = figure.subplots(len(rows), len(targets), sharex=True, sharey=True, squeeze=False)
    there = np.array([[(row, each) in settings for each in targets] for row in rows])
    for i, j in np.ndindex(there.shape):
        ax: Axes = axes.item(i, j)
        if not there[i, j]:
            ax.remove()
            continue
        setting = settings[rows[i], targets[j]]
        plot_frontier(setting.points, ax, style, by, setting.others)
        title = textwrap.fill(cut(setting.title), 2 * TITLE_LETTERS, break_long_words=False)
        ax.set_title(title, fontsize=9)
        # Outer labels, also where the panel further out is missing.
        left, bottom = not there[i, :j].any(), not there[i + 1 :, j].any()
        ax.tick_params(labelleft=left, labelbottom=bottom)
        ax.set_xlabel(ax.get_xlabel() if bottom else "")
        ax.set_ylabel(ax.get_ylabel() if left else "")
    draw_legend(figure, handles)
    return figure


@styled()
def keep_fraction_figure(points: pd.DataFrame, by: By = "class") -> Figure:
    """Compose accuracies against the keep fraction: a row of two panels per model and loss.

    Where networks are pruned, each target has a row of its own.
    Losses that were run on all the data alone have no row; they are named in those of their model.
    """
    settings = _settings(points)
    style = SeriesStyle.of(points)
    handles = _legend_handles(points, style, sizes=False)
    figure = new_figure(11.4, 3.9 * len(settings), handles)
    panels = figure.subplots(len(settings), 2, sharex=True, sharey="col", squeeze=False)
    for setting, pair in zip(settings, panels, strict=True):
        for ax in plot_by_keep_fraction(setting.points, pair, style, by, setting.others):
            ax.set_title(cut(setting.title))
    for ax in panels[:-1].ravel():
        ax.set_xlabel("")
    draw_legend(figure, handles)
    return figure


@styled()
def noise_figure(points: pd.DataFrame) -> Figure:
    """Compose the share of the mislabelled samples that is pruned: one panel and a legend.

    Args:
        points: As in :attr:`~raydrop.frontier.statistics.noise.Noise.points`.
    """
    style = SeriesStyle.of(points)
    handles = [
        *_series_entries(style),
        heading("reference"),
        legend_entry("uniform draw", _uniform()),
    ]
    handles.append(legend_entry("lowest to highest seed", _band()))
    figure = new_figure(7.6, 4.4, handles)
    plot_noise(points, figure.subplots(), style)
    draw_legend(figure, handles)
    return figure


@styled()
def density_figure(points: pd.DataFrame, by: By = "class") -> Figure:
    """Compose sorted densities: a panel per series on shared axes, one legend outside.

    Args:
        points: As from :func:`~raydrop.frontier.statistics.densities.density_points`.
        by: What they are densities of.
    """
    style = KeepStyle.of(points)
    handles = [heading("keep fraction")]
    handles += [
        legend_entry(f"{keep:g}", style.look(keep) | {"markersize": 6}) for keep in style.keeps
    ]
    handles += [heading("reference"), legend_entry(f"every {by} alike", equality_look())]
    handles.append(legend_entry("lowest to highest seed", _band()))
    handles.append(legend_entry(f"fewest samples of a {by}", _number()))
    figure, panels = _panels(points, 2.5, handles)
    for ax, rows in panels:
        plot_densities(rows, ax, style)
    figure.supxlabel(f"{PLURALS[by]}, densest first", fontsize=10)
    figure.supylabel("density (share kept)", fontsize=10)
    draw_legend(figure, handles)
    return figure


@styled()
def correlation_figure(points: pd.DataFrame, by: By = "class") -> Figure:
    """Compose accuracies on all the data against densities: a panel per series on shared axes.

    Args:
        points: As from :func:`~raydrop.frontier.statistics.densities.correlation_points`.
        by: What has densities and accuracies.
    """
    style = KeepStyle.of(points)
    many = bool(points["keep_fraction"].isin(style.keeps).sum() > MANY_MARKERS)
    figure, panels = _panels(points, 3.1, ())
    for ax, rows in panels:
        plot_accuracy_against_density(rows, ax, style, rasterized=many)
    figure.supxlabel(
        f"density (share kept); r is Pearson's and {RHO} Spearman's correlation over {PLURALS[by]}",
        fontsize=10,
    )
    figure.supylabel(f"accuracy of a {by} on all the data", fontsize=10)
    return figure


def _panels(
    points: pd.DataFrame, width: float, handles: Sequence[Line2D]
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Return a figure and a panel with its points for each series, ``width`` inches each."""
    names = _ordered_names(points)
    columns = min(len(names), PANEL_COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(width * columns + 1.2, 2.3 * rows + 0.5, handles)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[len(names) :]:
        spare.remove()
    panels = []
    for number, (name, ax) in enumerate(zip(names, axes, strict=False)):
        title = textwrap.fill(cut(name), TITLE_LETTERS, break_long_words=False)
        ax.set_title(title, fontsize=9)
        # Also where the panel below is missing.
        ax.tick_params(labelbottom=number + columns >= len(names))
        panels.append((ax, points[points["name"] == name]))
    return figure, panels


def _ordered_names(points: pd.DataFrame) -> list[str]:
    """Return the series' names: random pruning and no quotas first, within each model."""
    rows = points.drop_duplicates("name").to_dict("records")

    def place(row: dict[Any, Any]) -> tuple[Any, ...]:
        random, free = row["method"] != "random", row["quotas"] != "none"
        return row["model"], random, scorer_name(row), free, row["quotas"]

    return [str(row["name"]) for row in sorted(rows, key=place)]


def _write_beside(ax: Axes, text: str, place: tuple[float, float], colour: Any) -> None:
    """Write a short text right of a place, perhaps beyond the frame."""
    ax.annotate(
        cut(text),
        place,
        xytext=(6, 0),
        textcoords="offset points",
        color=colour,
        fontsize=8,
        va="center",
        annotation_clip=False,
    )


def _spread(heights: Sequence[float], least: float) -> list[float]:
    """Return heights for labels, at most 1: as ``heights``, but at least ``least`` apart."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=np.float64)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    placed = np.minimum(placed, 1 - least * np.arange(len(placed))[::-1])
    result = np.empty(len(placed))
    result[order] = placed
    return [float(height) for height in result]


def _signed(value: float) -> str:
    """Return a correlation with two decimals and a real minus, or a dash where it is undefined."""
    if math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class _Setting:
    """What a panel shows."""

    title: str
    points: pd.DataFrame
    """Of one model, loss and network target."""
    others: pd.DataFrame
    """Of the model's losses that were run on all the data alone, or the dense network's."""
    row: tuple[str, str]
    """Model and loss."""
    target: str


def _settings(points: pd.DataFrame) -> list[_Setting]:
    """Return what the panels show: a model and a loss each, if anything was pruned with it."""
    several = has_several_models(points)
    found = []
    for model, of_model in points.groupby("model", sort=True):
        dense = _dense(of_model)
        pruned = dense.loc[dense["method"] != "none", "loss"].unique()
        alone = ~dense["loss"].isin(pruned) & bool(len(pruned))
        shown = [(rows, dense[alone]) for _, rows in dense[~alone].groupby("loss", sort=True)]
        full = dense[dense["method"] == "none"].assign(label="dense")
        for (loss, _), rows in _pruned_networks(of_model).groupby(["loss", "network_target"]):
            own = [full[full["loss"] == each] for each in (loss, "cross_entropy")]
            shown.append((rows, own[0] if len(own[0]) else own[1]))
        settings = [
            _setting(str(model), rows, others, several_models=several) for rows, others in shown
        ]
        found += sorted(settings, key=lambda each: (each.row, target_place(each.target)))
    return found


def _setting(
    model: str, rows: pd.DataFrame, others: pd.DataFrame, *, several_models: bool
) -> _Setting:
    first = rows.iloc[0].to_dict()
    title = ("" if several_models else "loss: ") + setting_name(
        first, several_models=several_models
    )
    target = str(first.get("network_target", DENSE))
    return _Setting(title, rows, others, (model, str(first["loss"])), target)


def _dense(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["network_target"] == DENSE] if "network_target" in points else points


def _pruned_networks(points: pd.DataFrame) -> pd.DataFrame:
    return points.drop(index=_dense(points).index)


def _label(row: dict[Any, Any]) -> str:
    return str(row.get("label", row["loss"]))


def _rows(points: pd.DataFrame | None) -> list[dict[Any, Any]]:
    return [] if points is None else points.to_dict("records")


def _draw_against_keep_fraction(
    points: pd.DataFrame, ax: Axes, name: str, style: SeriesStyle
) -> None:
    """Draw a line with a band over seeds for each series, and a tick at each keep fraction."""
    for key, series in _series(points):
        path = _with_all_data(points, key, series)
        low, high = path[f"{name}_min"], path[f"{name}_max"]
        colour = style.colour(key.method, key.network)
        ax.fill_between(path["keep_fraction"], low, high, color=colour, alpha=0.1, linewidth=0)
        look = _marker_look(style, key, 5.5)
        ax.plot(path["keep_fraction"], path[name], **{**look, **_line_look(style, key)})
    ax.set_xticks(sorted(points["keep_fraction"].unique()))


class _Key(NamedTuple):
    """What a line is about, within a panel."""

    method: str
    """With its query model, as :func:`~raydrop.frontier.points.scorer_name` calls it."""
    quotas: str
    network: str


def _series(points: pd.DataFrame) -> list[tuple[_Key, pd.DataFrame]]:
    """Return the pruned points by series, model and loss, small keep fractions first."""
    pruned = points[points["method"] != "none"].sort_values("keep_fraction", kind="stable")
    pruned = pruned.assign(scorer=_scorers(pruned))
    known = [name for name in ("network_method", "model", "loss") if name in pruned]
    groups = pruned.groupby(["scorer", "quotas", *known], sort=True)
    return [
        (_Key(str(scorer), str(quotas), str(rows.get("network_method", _NOT_SAID).iloc[0])), rows)
        for (scorer, quotas, *_), rows in groups
    ]


_NOT_SAID = pd.Series([DENSE])


def _with_all_data(points: pd.DataFrame, key: _Key, series: pd.DataFrame) -> pd.DataFrame:
    """Return a series up to the point that keeps all the data, if the network was pruned.

    A dense network on all the data has no method, so its star stands alone.
    """
    if key.network == DENSE:
        return series
    last = points[(points["method"] == "none") & (points["network_method"] == key.network)]
    return pd.concat([series, last])


def _draw_stars(points: pd.DataFrame, ax: Axes, x: str, y: str, style: SeriesStyle) -> None:
    """Draw a star for training on all the data, in the colour of how its network was pruned."""
    full = points[points["method"] == "none"]
    dense = _dense(full)
    ax.plot(dense[x], dense[y], **_star())
    for row in _pruned_networks(full).to_dict("records"):
        colour = style.colour("", row["network_method"])
        ax.plot([row[x]], [row[y]], **_star() | {"color": colour, "markersize": 12})


def _scorers(points: pd.DataFrame) -> list[str]:
    return [scorer_name(row) for row in points.to_dict("records")]


def _line_look(style: SeriesStyle, key: _Key) -> Look:
    return {
        "color": style.colour(key.method, key.network),
        "linestyle": style.line(key.quotas),
        "linewidth": 1.3,
    }


def _marker_look(style: SeriesStyle, key: _Key, size: float) -> Look:
    return {
        "color": style.colour(key.method, key.network),
        "marker": style.marker(key.method),
        "fillstyle": style.fill(key.quotas),
        "markerfacecoloralt": "white",
        "markersize": size,
        "markeredgewidth": 1.1,
        "linestyle": "none",
    }


def _star() -> Look:
    return {
        "color": FULL_DATA,
        "marker": "*",
        "markersize": 15,
        "markeredgecolor": "white",
        "linestyle": "none",
        "zorder": 3,
    }


def _hollow_star() -> Look:
    return _star() | {"markersize": 11, "markerfacecolor": "white", "markeredgecolor": FULL_DATA}


def _uniform() -> Look:
    return {"color": FULL_DATA, "linewidth": 1.0, "linestyle": (0, (6, 3))}


def _band() -> Look:
    return {"color": "#555555", "alpha": 0.25, "linewidth": 8, "solid_capstyle": "butt"}


def _number() -> Look:
    with mpl.rc_context({"text.parse_math": True}):  # as markers, texts have to be formulas
        marker = MarkerStyle("$12$")
    return {"color": "#555555", "marker": marker, "markersize": 11, "linestyle": "none"}


def _legend_handles(points: pd.DataFrame, style: SeriesStyle, *, sizes: bool) -> list[Line2D]:
    """Return the entries of the legend; what marker sizes mean, only where they mean something."""
    handles = _series_entries(style)
    if sizes:
        keeps = sorted(points.loc[points["method"] != "none", "keep_fraction"].unique())
        handles += [heading("keep fraction")] if keeps or not style.networks else []
        for keep in keeps:
            look = {"color": "#555555", "marker": "o", "linestyle": "none"}
            handles.append(legend_entry(f"{keep:g}", look | {"markersize": marker_size(keep)}))
    return handles + _reference_entries(points, sizes=sizes)


def _series_entries(style: SeriesStyle) -> list[Line2D]:
    handles = [heading("method")] if style.methods or not style.networks else []
    for method in style.methods:
        key = _Key(method, style.quotas[0], DENSE)
        look = _marker_look(style, key, 7) | {"fillstyle": "full"}
        handles.append(legend_entry(method, look | {"linestyle": "-"}))
    if style.quotas or not style.networks:
        handles.append(heading("quotas"))
    for quotas in style.quotas:
        key = _Key(style.methods[0], quotas, DENSE)
        look = _marker_look(style, key, 7) | {"color": "#555555"}
        handles.append(
            legend_entry(quotas, look | {"linestyle": style.line(quotas), "marker": "o"})
        )
    if style.networks:
        handles.append(heading("network method"))
    for network in style.networks:
        handles.append(legend_entry(network, {"color": style.colour("", network), "linewidth": 2}))
    return handles


def _reference_entries(points: pd.DataFrame, *, sizes: bool) -> list[Line2D]:
    handles = [heading("reference")]
    if (points["method"] == "none").any():
        handles.append(legend_entry("all the data", _star()))
    settings = _settings(points)
    if any(len(each.others) for each in settings if each.target == DENSE):
        handles.append(legend_entry("… another loss", _hollow_star()))
    if any(len(each.others) for each in settings if each.target != DENSE):
        handles.append(legend_entry("dense network", _hollow_star()))
    if sizes:
        wide, narrow = ring_look(FRONTS["on_front"]), ring_look(FRONTS["on_front_at_keep_fraction"])
        handles.append(legend_entry("Pareto front", wide | {"markersize": 11}))
        handles.append(legend_entry("… at its keep fraction", narrow | {"markersize": 11}))
        handles.append(legend_entry("worst = average", equality_look()))
    else:
        handles.append(legend_entry("lowest to highest seed", _band()))
    return handles
