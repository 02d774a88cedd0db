"""How series, keep fractions and references look: the same in every panel and figure of a table.

Colour and marker stand for the method (and where its scores come from, if that is not the model
trained), line style and filling for the quotas, marker size for the keep fraction, so a print in
grey still tells series apart. Where networks are pruned, colour stands for the network method. In
panels about one method, colour and marker stand for the keep fraction, dark (small) to light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd

from raydrop.frontier.figures.canvas import COLOURS, GREY, Look, ordered_from
from raydrop.frontier.points import DENSE, Row, rows_of, scorer_name
from raydrop.frontier.statistics.changes import SHOWN_KEEPS, spread

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "h", ">", "d")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
FILLS = ("none", "full", "left", "bottom", "right", "top")
FULL_DATA = "#333333"
FRONT_COLOUR = "#B8860B"
FRONTS = {"on_front": 2.2, "on_front_at_keep_fraction": 0.8}
"""Widths of the rings that mark points of each Pareto front."""

STAR: Look = {
    "color": FULL_DATA,
    "marker": "*",
    "markersize": 15,
    "markeredgecolor": "white",
    "linestyle": "none",
    "zorder": 3,
}
"""Training on all the data."""
HOLLOW_STAR = STAR | {"markersize": 11, "markerfacecolor": "white", "markeredgecolor": FULL_DATA}
"""The same in a panel about something else."""
LEVEL: Look = {"color": FULL_DATA, "linewidth": 0.8, "linestyle": (0, (1, 3))}
EQUALITY = LEVEL | {"color": "#999999"}
UNIFORM: Look = {"color": FULL_DATA, "linewidth": 1.0, "linestyle": (0, (6, 3))}
BAND: Look = {"color": GREY, "alpha": 0.25, "linewidth": 8, "solid_capstyle": "butt"}
DOT: Look = {"color": GREY, "marker": "o", "linestyle": "none"}


@dataclass(frozen=True)
class SeriesStyle:
    """How methods and quotas look."""

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
        networks = points.loc[points["network_target"] != DENSE, "network_method"]
        return cls(
            tuple(ordered_from(map(scorer_name, rows_of(pruned)), first="random")),
            tuple(ordered_from(pruned["quotas"], first="none")),
            tuple(ordered_from(networks, first="random")),
        )

    def colour(self, method: str, network: str = DENSE) -> str:
        """Return the colour of a method or, where the network is pruned too, of how."""
        if network == DENSE:
            return nth_colour(self.methods.index(method))
        return nth_colour(len(self.methods) + self.networks.index(network))

    def look(self, method: str, quotas: str, network: str = DENSE) -> Look:
        """Return line and marker of a series."""
        colour = self.colour(method, network)
        return series_look(colour, self.methods.index(method), self.quotas.index(quotas))

    def look_of(self, row: Row) -> Look:
        """Return line and marker of the series of a point."""
        return self.look(scorer_name(row), row["quotas"], row["network_method"])


def nth_colour(index: int) -> str:
    """Return a colour; the first is no other's, however many there are."""
    return COLOURS[1 + (index - 1) % (len(COLOURS) - 1)] if index else COLOURS[0]


def series_look(colour: str, method: int, quotas: int) -> Look:
    """Return line and marker of the n-th method and quota rule."""
    return {
        "color": colour,
        "marker": MARKERS[method % len(MARKERS)],
        "fillstyle": FILLS[quotas % len(FILLS)],
        "linestyle": LINES[quotas % len(LINES)],
        "markerfacecoloralt": "white",
        "markeredgewidth": 1.1,
        "linewidth": 1.3,
    }


@dataclass(frozen=True)
class KeepStyle:
    """How keep fractions look where a panel is about one method."""

    keeps: tuple[float, ...]
    """Those that are shown, ascending."""

    @classmethod
    def of(cls, points: pd.DataFrame) -> KeepStyle:
        """Give keep fractions their looks: all, or some from the smallest to the largest."""
        return cls(tuple(spread(sorted(points["keep_fraction"].unique().tolist()), SHOWN_KEEPS)))

    def look(self, keep: float, size: float = 3.5) -> Look:
        """Return colour and marker. The colours' lightness grows with the keep fraction."""
        index = self.keeps.index(keep)
        # Without the yellow end of the map, which vanishes on white.
        place = 0.8 * index / max(len(self.keeps) - 1, 1)
        marker = MARKERS[index % len(MARKERS)]
        return {"color": mpl.colormaps["viridis"](place), "marker": marker, "markersize": size}


def ring(width: float) -> Look:
    """Return a ring of some line width around points of a front."""
    edge: Look = {"color": FRONT_COLOUR, "fillstyle": "none", "markeredgewidth": width}
    return edge | {"marker": "o", "markersize": 17, "linestyle": "none"}


def marker_size(keep_fraction: float) -> float:
    """Return a diameter in points, so that areas grow with the keep fraction."""
    return 3.5 + 7.0 * math.sqrt(keep_fraction)
