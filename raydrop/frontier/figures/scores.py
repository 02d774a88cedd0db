"""How the stored scores of every method are distributed, and where each keep fraction cuts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raydrop.frontier.figures.canvas import (
    GREY,
    MINUS,
    Look,
    axes_at,
    cut,
    draw_legend,
    heading,
    in_rows,
    legend_entry,
    new_figure,
    styled,
)
from raydrop.frontier.figures.looks import KeepStyle
from raydrop.frontier.sources import Sources
from raydrop.store import Entry

BINS = 40
WIDE = 10.0
"""Scores whose range exceeds this many times that of their middle half are drawn on a scale that is
linear near zero and logarithmic far from it."""
PANEL_COLUMNS = 4

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """The last score that is kept at a keep fraction, where all classes are ranked together."""

    keep_fraction: float
    value: float
    """Median over seeds; may be +infinity."""
    low: float
    """Lowest over seeds."""
    high: float
    """Highest over seeds."""


@dataclass(frozen=True, eq=False)
class ScoreDistribution:
    """A histogram of one method's scores, B bins."""

    name: str
    """The method, and its query model if there are several."""
    edges: FloatArray
    """(B + 1,) ascending."""
    share: FloatArray
    """(B,) share of all samples in each bin, mean over seeds."""
    share_min: FloatArray
    """(B,) lowest over seeds."""
    share_max: FloatArray
    """(B,) highest over seeds."""
    infinite: float
    """Share of all samples whose score is +infinity, mean over seeds; with ``share`` it sums to 1.
    """
    linear_width: float | None
    """None where bins are equally wide; else the w of the scale asinh(x / w) on which they are."""
    counts: bool
    """Whether finite scores are whole numbers with a bin each."""
    higher_is_kept: bool
    thresholds: tuple[Threshold, ...]
    """Ascending keep fractions; none where the method is used with quotas alone."""
    n_seeds: int


def score_distributions(sources: Sources) -> list[ScoreDistribution]:
    """Return the distribution of every method's scores over the training samples.

    Methods that read no query run are left out: random pruning is uniform whatever happens. A
    threshold is the score of the last of the ``n_kept`` best samples, as without quotas; with
    quotas there is one for each class, and none is given.

    Returns:
        One for each method and query model, by name; empty where no scores are stored.
    """
    by_name: dict[str, list[Entry]] = {}
    for key, entry in sources.scores.items():
        if entry.config.get("queries") and "scores" in entry.names:
            by_name.setdefault(sources.scorer(key), []).append(entry)
    return [_distribution(name, sources.trials, by_name[name]) for name in sorted(by_name)]


def _distribution(name: str, trials: pd.DataFrame, entries: Sequence[Entry]) -> ScoreDistribution:
    scores = [np.asarray(entry.array("scores"), dtype=np.float64) for entry in entries]
    finite = [values[np.isfinite(values)] for values in scores]
    pooled = np.concatenate(finite)
    width = linear_width(pooled)
    edges = bin_edges(pooled, width)
    shares = np.array(
        [np.histogram(f, edges)[0] / len(values) for f, values in zip(finite, scores, strict=True)]
    )
    return ScoreDistribution(
        name=name,
        edges=edges,
        share=shares.mean(axis=0),
        share_min=shares.min(axis=0),
        share_max=shares.max(axis=0),
        infinite=float(np.mean([np.isposinf(values).mean() for values in scores])),
        linear_width=width,
        counts=is_counts(pooled),
        higher_is_kept=bool(entries[0].info["higher_is_kept"]),
        thresholds=_thresholds(trials, entries, scores),
        n_seeds=len(entries),
    )


def linear_width(values: FloatArray) -> float | None:
    """Return the w of a scale w asinh(x / w) for scores with long tails; None for all others.

    It is half the interquartile range; scores of which half are equal have none.
    """
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    middle = float(high - low)
    return middle / 2 if middle > 0 and np.ptp(values) > WIDE * middle else None


def is_counts(values: FloatArray) -> bool:
    """Return whether scores are whole numbers, and few enough for a bin each."""
    whole = np.array_equal(values, np.round(values))
    return bool(whole and (len(values) == 0 or np.ptp(values) <= 2 * BINS))


def bin_edges(values: FloatArray, width: float | None) -> FloatArray:
    """Return edges of bins that hold all finite scores (n,): a bin per count where they are counts.

    The width is that of :func:`linear_width`.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if is_counts(values):
        return np.arange(low - 0.5, high + 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return np.array([low - 0.5 * abs(low), high + 0.5 * abs(high)])
    if width is None:
        return np.linspace(low, high, BINS + 1)
    ends = math.asinh(low / width), math.asinh(high / width)
    edges: FloatArray = width * np.sinh(np.linspace(ends[0], ends[1], BINS + 1))
    # Rounding must not leave the extremes outside.
    edges[0], edges[-1] = low, high
    return edges


def _thresholds(
    trials: pd.DataFrame, entries: Sequence[Entry], scores: Sequence[FloatArray]
) -> tuple[Threshold, ...]:
    free = trials[trials["quotas"] == "none"]
    cuts: dict[float, list[float]] = {}
    for entry, values in zip(entries, scores, strict=True):
        ascending = np.sort(values)
        best_first = ascending[::-1] if entry.info["higher_is_kept"] else ascending
        of_entry = free[free["scores"] == entry.key].drop_duplicates("keep_fraction")
        for keep, kept in zip(of_entry["keep_fraction"], of_entry["n_kept"], strict=True):
            cuts.setdefault(float(keep), []).append(float(best_first[int(kept) - 1]))
    return tuple(
        Threshold(keep, float(np.median(cuts[keep])), min(cuts[keep]), max(cuts[keep]))
        for keep in sorted(cuts)
    )


def plot_scores(
    distribution: ScoreDistribution, ax: Axes, style: KeepStyle, infinite_ax: Axes | None = None
) -> Axes:
    """Draw one method's scores as a histogram, with a line at the threshold of each keep fraction.

    The share of +infinity, if there are such scores, is in a panel of its own.
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
        look, height = style.look(threshold.keep_fraction, 5), 0.97 - 0.065 * place
        target = infinite_ax if math.isinf(threshold.value) else ax
        if target is not None:
            _draw_threshold(threshold, target, look, height)
    if infinite_ax is not None:
        infinite_ax.bar([0], [d.infinite], width=0.6, color="#CFCFCF", edgecolor="#444444")
        infinite_ax.set(xlim=(-0.6, 0.6), ylim=ax.get_ylim())
        infinite_ax.set_xticks([0], ["+\N{INFINITY}"])
    return ax


@styled()
def scores_figure(distributions: Sequence[ScoreDistribution]) -> Figure:
    """Compose score distributions: a panel per method, +infinity beside it, one legend outside."""
    keeps = {t.keep_fraction for each in distributions for t in each.thresholds}
    style = KeepStyle.of(pd.DataFrame({"keep_fraction": sorted(keeps)}))
    places = in_rows(len(distributions), min(len(distributions), PANEL_COLUMNS))
    width, height = 2.35, 1.5
    pitch = width + 0.75, height + 0.8
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    figure = new_figure(columns * pitch[0] + 1.9, max(rows * pitch[1], 2.3) + 0.05)
    for each, (row, column) in zip(distributions, places, strict=True):
        x, y = 0.65 + column * pitch[0], 0.45 + row * pitch[1]
        narrow = width - 0.42 if each.infinite else width
        ax = axes_at(figure, x, y, narrow, height)
        beside = axes_at(figure, x + narrow + 0.1, y, 0.32, height) if each.infinite else None
        plot_scores(each, ax, style, beside)
        _finish(each, ax, beside)
        ax.set_ylabel("share of samples" if column == 0 else "", fontsize=8)
    entries: list[Line2D | Patch] = [heading("last kept at keep")] if style.keeps else []
    entries += [legend_entry(f"{keep:g}", style.look(keep, 5)) for keep in style.keeps]
    entries += [
        heading("samples"),
        Patch(facecolor="#CFCFCF", edgecolor="#444444", label="mean over seeds"),
        Patch(facecolor="#444444", alpha=0.3, label="lowest to highest"),
    ]
    draw_legend(figure, entries, columns * pitch[0] + 0.15)
    return figure


def _draw_threshold(threshold: Threshold, ax: Axes, look: Look, height: float) -> None:
    """Draw a line that ends at a share of the panel's height, with the range over seeds there."""
    line: Look = {"color": look["color"], "transform": ax.get_xaxis_transform()}
    # Infinite ones have a panel of their own, in whose middle they are.
    place = 0.0 if math.isinf(threshold.value) else threshold.value
    ax.plot([place, place], [0, height], linewidth=0.9, **line)
    if place == threshold.value:
        high = min(threshold.high, ax.get_xlim()[1])
        ax.plot([threshold.low, high], [height, height], linewidth=1.6, alpha=0.6, **line)
    ax.plot([place], [height], **look | line | {"clip_on": False, "linestyle": "none"})


def _finish(distribution: ScoreDistribution, ax: Axes, beside: Axes | None) -> None:
    kept = "kept →" if distribution.higher_is_kept else "← kept"
    ax.set_title(cut(distribution.name), loc="left", fontsize=9)
    (beside or ax).set_title(kept, loc="right", fontsize=8, color=GREY)
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
