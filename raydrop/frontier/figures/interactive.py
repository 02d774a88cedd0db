"""The frontier as data for Plotly: what a page needs to draw it, filter it and answer the pointer.

The result is plain JSON, the same for the same chart. The script of the report places the panels
for the width at hand, since that is not known before.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from raydrop.frontier.figures.canvas import GREY, Look, cut
from raydrop.frontier.figures.chart import Chart
from raydrop.frontier.figures.frontier import label_of
from raydrop.frontier.figures.looks import (
    FRONT_COLOUR,
    FRONTS,
    FULL_DATA,
    MARKERS,
    STAR,
    SeriesStyle,
    marker_size,
)
from raydrop.frontier.points import (
    ALL,
    PLURALS,
    Point,
    is_dense,
    rows_of,
    scorer_name,
    target_place,
)
from raydrop.frontier.table import AVERAGE, WORST

Json = dict[str, Any]

DENSE_OPTION = "dense"

_SYMBOLS = (
    "circle square triangle-up diamond triangle-down cross x triangle-left hexagon triangle-right "
    "diamond-tall star"
)
SYMBOLS = dict(zip((*MARKERS, STAR["marker"]), _SYMBOLS.split(), strict=True))
"""Plotly's names of Matplotlib's markers."""

# Plotly fills no halves, so markers that are half full get a dot; line styles differ besides.
FILLS = {"none": "-open", "full": "", "left": "-dot", "bottom": "-open-dot"}
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}

DARK = {"#000000": "#FFFFFF", FULL_DATA: "#D5D8DD", "#0072B2": "#3C96D2", GREY: "#A7ADB7"}
"""What replaces colours that vanish on a dark page."""

_TEMPLATES = {
    "light": ("#FFFFFF", "#1C1C1E", "#5B5F66", "#D9DCE1", "#F4F5F7"),
    "dark": ("#16181C", "#E8E9EC", "#A7ADB7", "#363B44", "#1F2329"),
}
"""Paper, ink, soft ink, lines and band, as in the report's style sheet."""


def interactive_frontier(chart: Chart) -> Json:
    """Return everything that the interactive figure shows, with its points in the table's order.

    Args:
        chart: As from :func:`~raydrop.frontier.figures.chart.frontier_chart`. Columns of its table
            beyond those that a figure needs become further axes where they are known.

    Returns:
        ``filters``: for each of model, loss, method, quotas, network (how it was pruned), sparsity
        (its target) and keep, its ``options`` and ``of``, (n_points,) which of them a point has; -1
        is a point that the filter does not concern. ``measures``: what can be an axis, ``values``
        (n_points,) each, None where not known. ``points``: (n_points,) what else the pointer is
        told. ``panels``: a title each. ``series``: the indices of their ``points`` by ascending
        keep fraction, their ``panels``, whether they are ``alone`` in panels of others, and a
        Plotly ``trace`` without coordinates. ``rings`` and ``legend``: further traces, those of the
        legend with the ``filter`` and the ``option`` that they stand for. ``templates``: Plotly's,
        for ``light`` and ``dark`` pages, and ``dark``: colours by those that they replace there.
    """
    table, rows = chart.table, rows_of(chart.table)
    filters = _filters(rows, chart.style)
    return {
        "unit": table["unit"].iloc[0],
        "filters": filters,
        "measures": _measures(table),
        "points": {
            **{name: _numbers(table[column]) for name, column in _TOLD.items()},
            "worst_is": [str(name) for name in table["worst"]],
            "size": [round(1.2 * marker_size(keep), 1) for keep in table["keep_fraction"]],
        },
        "panels": [_shown(panel.title) for panel in chart.panels],
        "series": [
            {
                "points": series.points,
                "panels": series.panels,
                "alone": series.is_guest,
                "trace": _trace(series.look, _shown(series.name) if series.is_guest else ""),
            }
            for series in chart.series
            # Here the dense network is in its own panel alone, or points would be counted twice.
            if series.kind != "dense"
        ],
        "rings": [
            {"points": [i for i, row in enumerate(rows) if row[column]], "trace": _ring(column)}
            for column in FRONTS
        ],
        "legend": _legend(filters, chart.style),
        "templates": {name: _template(*colours) for name, colours in _TEMPLATES.items()},
        "dark": DARK,
    }


_TOLD = {
    "seeds": "n_seeds",
    "kept": "n_kept",
    "average_min": f"{AVERAGE}_min",
    "average_max": f"{AVERAGE}_max",
    "worst_min": f"{WORST}_min",
    "worst_max": f"{WORST}_max",
    "low": "worst_low",
    "high": "worst_high",
}
"""What the pointer is told, and its columns."""


def target_name(row: Point) -> str:
    """Return how much of the network was to go: ``"dense"`` or ``"flops(0.75)"``."""
    return DENSE_OPTION if is_dense(row) else str(row["network_target"])


def method_name(row: Point) -> str:
    """Return what a point's data were pruned by, or that they were not."""
    return ALL if row["method"] == "none" else scorer_name(row)


def quotas_key(quotas: str, style: SeriesStyle) -> Json:
    """Return how a quota rule looks, for a legend outside the figure.

    Returns:
        ``dashes`` as of SVG's ``stroke-dasharray``, and whether a marker is ``open`` or has a
        ``dot``.
    """
    drawn = {"solid": "none", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
    trace = _trace(style.look(style.methods[0], quotas))
    dash, symbol = trace["line"]["dash"], trace["marker"]["symbol"]
    dashes = drawn.get(dash, dash.replace("px", "").replace(",", " "))
    return {"dashes": dashes, "open": "-open" in symbol, "dot": "-dot" in symbol}


def _filters(rows: Sequence[Point], style: SeriesStyle) -> Json:
    """Return the options of every filter, and which of them each point has."""
    full = [ALL] if any(row["method"] == "none" for row in rows) else []
    targets = {target_name(row): target_place(row["network_target"]) for row in rows}
    keeps = sorted({row["keep_fraction"] for row in rows})
    named: dict[str, tuple[Sequence[str], Callable[[Point], str]]] = {
        "model": (sorted({row["model"] for row in rows}), lambda row: row["model"]),
        "loss": (sorted({row["loss"] for row in rows}), lambda row: row["loss"]),
        "method": ([*style.methods, *full], method_name),
        # Where nothing is pruned there are no quotas, so no choice among them hides the reference.
        "quotas": (style.quotas, lambda row: "" if row["method"] == "none" else row["quotas"]),
        # Dense networks are a choice among targets.
        "network": (style.networks, lambda row: "" if is_dense(row) else row["network_method"]),
        "sparsity": (sorted(targets, key=targets.__getitem__), target_name),
        "keep": ([f"{keep:g}" for keep in keeps], lambda row: f"{row['keep_fraction']:g}"),
    }
    filters = {}
    for name, (options, called) in named.items():
        place = {option: index for index, option in enumerate(options)}
        of = [place.get(called(row), -1) for row in rows]
        filters[name] = {"options": list(options), "of": of}
    return filters


def _measures(table: pd.DataFrame) -> dict[str, Json]:
    """Return what can be an axis: label, and values by point."""
    unit = table["unit"].iloc[0]
    labels = {
        AVERAGE: label_of(AVERAGE, table),
        WORST: label_of(WORST, table),
        "keep_fraction": "keep fraction",
        "n_kept": "samples kept",
        "macs": "multiply-accumulates of an image",
        "macs_removed": "share of multiply-accumulates removed",
        "parameters": "parameters",
        "worst_on_validation": f"accuracy of the {unit} worst on validation",
        "worst_decile_accuracy": "mean of the worst tenth of classes",
        "balanced_accuracy": "balanced accuracy",
        "gap": "highest minus lowest accuracy",
        "std": f"standard deviation over {PLURALS[unit]}",
        "front_probability": "probability of being on the front",
    }
    return {
        name: {"label": label, "values": _numbers(table[name])}
        for name, label in labels.items()
        if name in table and table[name].notna().any()
    }


def _numbers(values: pd.Series[Any]) -> list[float | int | None]:
    """Return numbers to a millionth; JSON has no NaN, so it becomes None."""
    rounded = [None if pd.isna(value) else round(float(value), 6) for value in values]
    return [int(v) if v is not None and v.is_integer() else v for v in rounded]


def _trace(look: Look, text: str = "", **more: Any) -> Json:
    """Return a trace of Plotly that looks as a line of Matplotlib does, perhaps with its name."""
    colour, line = look["color"], look.get("linestyle", "-")
    lines = "lines+" if line != "none" else ""
    open_ = "none" if look.get("markerfacecolor") == "white" else look.get("fillstyle", "full")
    symbol = SYMBOLS.get(look["marker"], "circle") + FILLS.get(open_, "")
    trace: Json = {"type": "scatter", "mode": f"{lines}markers", **more}
    trace["marker"] = {"color": colour, "symbol": symbol, "line": {"color": colour, "width": 1.5}}
    if lines:
        dash = DASHES[line] if isinstance(line, str) else ",".join(f"{n}px" for n in line[1])
        trace["line"] = {"color": colour, "dash": dash, "width": 1.5}
    if "markersize" in look:
        trace["marker"]["size"] = look["markersize"]
    if look["marker"] == "*":
        del trace["marker"]["line"]
    if text:
        # Such points lie near the right edge.
        trace |= {"mode": "markers+text", "text": text, "textposition": "middle left"}
    return trace


def _ring(column: str) -> Json:
    names = {"on_front": "Pareto front", "on_front_at_keep_fraction": "… at its keep fraction"}
    line = {"color": FRONT_COLOUR, "width": FRONTS[column]}
    marker = {"color": FRONT_COLOUR, "symbol": "circle-open", "size": 22, "line": line}
    ring = {"name": names[column], "mode": "markers", "hoverinfo": "skip", "marker": marker}
    return {"type": "scatter", **ring}


def _legend(filters: Mapping[str, Json], style: SeriesStyle) -> list[Json]:
    """Return an entry per method and per network method, in the order of the filters' options."""
    entries = []
    for option, method in enumerate(filters["method"]["options"]):
        look = STAR | {"markersize": 12}
        if method != ALL:
            look = style.look(method, style.quotas[0])
            look |= {"fillstyle": "full", "linestyle": "-", "markersize": 8}
        trace = _trace(look, name=_shown(method))
        entries.append({"filter": "method", "option": option, "trace": trace})
    for option, network in enumerate(style.networks):
        line = {"color": style.colour("", network), "width": 3}
        name = f"network: {_shown(network)}"
        trace = {"type": "scatter", "name": name, "mode": "lines", "line": line}
        entries.append({"filter": "network", "option": option, "trace": trace})
    return entries


def _shown(text: str) -> str:
    """Return a name for Plotly, which knows tags, and entities for them but not for quotes."""
    return html.escape(cut(text), quote=False)


def _template(paper: str, ink: str, soft: str, lines: str, band: str) -> Json:
    axis: Json = {"gridcolor": lines, "linecolor": lines, "tickcolor": lines}
    axis |= {"zeroline": False, "ticks": "outside", "automargin": True}
    layout = {
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "font": {"color": ink, "family": "system-ui, sans-serif", "size": 13},
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {"bgcolor": band, "bordercolor": lines, "font": {"color": ink}}
        | {"align": "left"},
        "hovermode": "closest",
        "modebar": {"bgcolor": paper, "color": soft, "activecolor": ink},
    }
    return {"layout": layout}
