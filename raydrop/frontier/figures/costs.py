"""A drawing of what query runs, scores and trials took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raydrop.frontier.figures.canvas import (
    GREY,
    Look,
    axes_at,
    cut,
    draw_legend,
    heading,
    legend_entry,
    new_figure,
    styled,
    text_width,
    write_beside,
)
from raydrop.frontier.figures.looks import KeepStyle
from raydrop.frontier.points import ALL, rows_of
from raydrop.frontier.sources import Costs, time_unit

QUERY: Look = {"facecolor": "#0072B2", "edgecolor": "black", "linewidth": 0.5}
SCORING: Look = {"facecolor": "#E69F00", "edgecolor": "black", "linewidth": 0.5, "hatch": "////"}
ALONE: Look = {"facecolor": "none", "edgecolor": GREY, "linewidth": 0.8, "linestyle": (0, (3, 2))}


def plot_score_costs(costs: Costs, ax: Axes) -> Axes:
    """Draw what query runs and scores took: a bar per method.

    Filled is the method's equal share of every query run that it reads, then its scores; outlined
    is what it would have been without sharing.
    """
    table = costs.scorers
    alone = table["query_seconds"] + table["score_seconds"]
    unit, length = time_unit(float(alone.max()))
    y, share, scores = np.arange(len(table)), table["query_share"], table["score_seconds"]
    ax.barh(y, alone / length, height=0.72, **ALONE)
    ax.barh(y, share / length, height=0.5, **QUERY)
    ax.barh(y, scores / length, left=share / length, height=0.5, **SCORING)
    for row, (part, own, end) in enumerate(zip(share, scores, alone, strict=True)):
        text = f"{_amount(part / length)} + {_amount(own / length)}"
        write_beside(ax, text, (end / length, row))
    ax.set_xlabel(f"{unit} of query runs + {unit} of scores, all seeds", fontsize=9)
    return _by_row(ax, list(table["name"]))


def plot_trial_costs(costs: Costs, ax: Axes, style: KeepStyle) -> Axes:
    """Draw what a trial took: for each method a mark per keep fraction, with lowest and highest."""
    table = costs.trials[costs.trials["keep_fraction"].isin(style.keeps)]
    names = list(dict.fromkeys(table["name"]))
    unit, length = time_unit(float(table["seconds_max"].max()))
    step = 0.8 / max(len(style.keeps), 1)
    for row in rows_of(table):
        place = style.keeps.index(row["keep_fraction"])
        single = row["name"].endswith(ALL)
        y = names.index(row["name"]) + (0 if single else step * (place + 0.5) - 0.4)
        look = style.look(row["keep_fraction"], 4.5)
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
    """
    style, scored = KeepStyle.of(costs.trials), len(costs.scorers)
    names = [cut(name) for table in (costs.scorers, costs.trials) for name in table["name"]]
    left, width = 0.3 + text_width(names, 9), 5.4
    above, below = 0.24 * scored, 0.42 * costs.trials["name"].nunique() + 0.1
    inches = left + width + 3.0, max(below + (above + 1.9 if scored else 1.1), 3.6)
    figure = new_figure(*inches)
    y = 0.45 + above + 0.8 if scored else inches[1] - 0.6 - below
    if scored:
        plot_score_costs(costs, axes_at(figure, left, 0.45, width, above))
    plot_trial_costs(costs, axes_at(figure, left, y, width, below), style)
    figure.text(0.1 / inches[0], 1 - 0.22 / inches[1], _totals(costs), fontsize=9)
    entries: list[Line2D | Patch] = []
    if scored:
        entries = [
            heading("before the trials"),
            Patch(**QUERY, label="query runs, shared"),
            Patch(**SCORING, label="scores"),
            Patch(**ALONE, label="both without sharing"),
        ]
    entries.append(heading("trials at keep fraction"))
    looks = {keep: style.look(keep, 5) | {"linestyle": "none"} for keep in style.keeps}
    entries += [legend_entry(f"{keep:g}", look) for keep, look in looks.items()]
    draw_legend(figure, entries, left + width + 0.85)
    return figure


def _by_row(ax: Axes, names: Sequence[str]) -> Axes:
    ax.set_yticks(range(len(names)), [cut(name) for name in names], fontsize=9)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax


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
