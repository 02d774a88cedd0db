"""Drawings of two Gaussian classes: their densities and thresholds, and what pruning costs each.

Colour and line style stand for the way of pruning, marker and shading for the class, so a print in
grey still tells them apart. Everything drawn is computed in :mod:`raydrop.theory`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raydrop.errors import ConfigError, StoreError
from raydrop.frontier.figures.canvas import COLOURS, new_figure, styled, to_pdf, to_png, to_svg
from raydrop.store.files import written_whole
from raydrop.theory import TwoGaussians

LOOKS: dict[str, dict[str, Any]] = {
    "random": {"color": COLOURS[0], "linestyle": "-"},
    "drop": {"color": COLOURS[1], "linestyle": "--"},
    "optimal": {"color": COLOURS[2], "linestyle": ":"},
}
"""Looks of the lines of each strategy, in both panels."""
THRESHOLDS = {
    "random": "least average risk, t*",
    "drop": "after one DRoP step",
    "optimal": "least worst-class risk, t̂",
}
STRATEGIES = {"random": "random pruning", "drop": "DRoP", "optimal": "optimal class densities"}
CLASSES: tuple[dict[str, Any], ...] = (
    {"color": "#444444", "hatch": "////", "marker": "o", "fillstyle": "none"},
    {"color": "#BBBBBB", "hatch": None, "marker": "s", "fillstyle": "full"},
)
"""Greys, hatching and markers of both classes."""
REACH = 3.5
"""Standard deviations around each mean that the left panel shows."""
SMALLEST_DENSITY = 0.05


def plot_densities(mixture: TwoGaussians, ax: Axes, density: float | None = None) -> Axes:
    """Draw both classes' densities, weighted by their priors, and three thresholds."""
    pairs = list(zip(mixture.means, mixture.sigmas, strict=True))
    ends = min(m - REACH * s for m, s in pairs), max(m + REACH * s for m, s in pairs)
    x = np.linspace(*ends, 500)
    weighted = zip(mixture.priors, mixture.class_pdfs(x), CLASSES, strict=True)
    for k, (prior, pdf, look) in enumerate(weighted):
        label = f"class {k}, a share of {prior:.3g}"
        shade = {"facecolor": look["color"], "hatch": look["hatch"], "edgecolor": "#FFFFFF"}
        ax.fill_between(x, prior * pdf, alpha=0.55, linewidth=0, label=label, **shade)
        ax.plot(x, prior * pdf, color="#444444", linewidth=0.9)
    thresholds = {
        "random": mixture.threshold,
        "drop": mixture.drop_step(density).threshold,
        "optimal": mixture.minimax_threshold,
    }
    for name, threshold in thresholds.items():
        label = f"{THRESHOLDS[name]} = {threshold:.3f}".replace("inf", "∞")
        # An infinite one has its entry in the legend and no line.
        at = [threshold] if math.isfinite(threshold) else []
        ax.vlines(at, 0, 1, transform=ax.get_xaxis_transform(), label=label, **_line(name))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("x (predicted: class 1 to the right of the threshold)")
    ax.set_ylabel("prior · density")
    _legend_above(ax, columns=1)
    return ax


def plot_risks(mixture: TwoGaussians, ax: Axes) -> Axes:
    """Draw both class risks against the share of samples kept, for three ways of pruning."""
    densities = np.linspace(SMALLEST_DENSITY, 1, 96)
    kept = [mixture.strategies(density) for density in densities.tolist()]
    ax.axhline(mixture.minimax_risk, color="#999999", linewidth=0.8, label="minimax risk")
    for name, label in STRATEGIES.items():
        risks = np.array([each[name].risks for each in kept]).T
        for k, (risk, of_class) in enumerate(zip(risks, CLASSES, strict=True)):
            mark = {key: of_class[key] for key in ("marker", "fillstyle")}
            # Strategies start their markers apart, because their lines may lie on each other.
            every = (5 + 4 * list(STRATEGIES).index(name), 15)
            text = f"{label}, class {k}"
            look = {**mark, **_line(name)}
            ax.plot(densities, risk, markevery=every, markersize=5.5, label=text, **look)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("dataset density (keep fraction)")
    ax.set_ylabel("class risk (1 - recall)")
    _legend_above(ax, columns=2)
    return ax


@styled()
def theory_figure(mixture: TwoGaussians, density: float | None = None) -> Figure:
    """Compose both panels: densities with thresholds, and class risks by dataset density."""
    figure = new_figure(11.4, 5.2, layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_densities(mixture, left, density)
    plot_risks(mixture, right)
    return figure


def write_theory_figure(path: Path, mixture: TwoGaussians, density: float | None = None) -> None:
    """Write :func:`theory_figure` as ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        ConfigError: If the file has another ending, or the density is out of range.
        StoreError: If the file cannot be written.
    """
    kinds = {".png": to_png, ".svg": to_svg, ".pdf": to_pdf}
    if path.suffix not in kinds:
        raise ConfigError(
            f"Expected a file that ends in {' or '.join(kinds)}, found {path}; rename it."
        )
    drawn = kinds[path.suffix](theory_figure(mixture, density))
    try:
        with written_whole(path) as file:
            file.write(drawn)
    except OSError as error:
        raise StoreError(
            f"Expected to write {path}, found: {error.strerror or error}; choose another file."
        ) from error


def _line(name: str) -> dict[str, Any]:
    return {"linewidth": 1.8, **LOOKS[name]}


def _legend_above(ax: Axes, columns: int) -> None:
    """Put a panel's legend above it, where it hides nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize="small")
