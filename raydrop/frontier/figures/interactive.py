"""The frontier as data for Plotly: what a page needs to draw it, filter it and answer the pointer.

Nothing is drawn here and nothing is read back: the result is plain JSON, the same for the same
table. Looks are those of :mod:`~raydrop.frontier.figures.plots`. The script of the report places
the panels for the width at hand, since that is not known before.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raydrop.frontier.figures.canvas import cut
from raydrop.frontier.figures.plots import FRONT_COLOUR, FRONTS, FULL_DATA, LABELS, SeriesStyle
from raydrop.frontier.points import (
    DENSE,
    has_several_models,
    is_dense,
    scorer_name,
    setting_name,
    target_place,
)
from raydrop.frontier.table import gap_and_std, worst_accuracy
from raydrop.study import By

Json = dict[str, Any]
Row = dict[str, Any]

FULL = "all the data"
DENSE_OPTION = "dense"
AVERAGE = "average_accuracy"

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    "h": "hexagon",
    ">": "triangle-right",
    "d": "diamond-tall",
}
"""Plotly's names of Matplotlib's markers."""

# Plotly fills no halves, so markers that are half full get a dot; line styles differ besides.
FILLS = {"none": "-open", "full": "", "left": "-dot", "bottom": "-open-dot"}
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}

NEUTRAL = "#555555"
DARK = {"#000000": "#FFFFFF", FULL_DATA: "#D5D8DD", "#0072B2": "#3C96D2", NEUTRAL: "#A7ADB7"}
"""What replaces colours that vanish on a dark page."""

_TEMPLATES = {
    "light": ("#FFFFFF", "#1C1C1E", "#5B5F66", "#D9DCE1", "#F4F5F7"),
    "dark": ("#16181C", "#E8E9EC", "#A7ADB7", "#363B44", "#1F2329"),
}
"""Paper, ink, soft ink, lines and band, as in the report's style sheet."""


def interactive_frontier(
    table: pd.DataFrame, by: By = "class", style: SeriesStyle | None = None
) -> Json:
    """Return everything that the interactive figure shows, with its points in the table's order.

    Args:
        table: Points of :func:`~raydrop.frontier.table.frontier_table`, perhaps some of them. Its
            columns beyond those that a figure needs become further axes where they are known.
        by: Whether worst cases are classes or groups.
        style: Looks shared with other figures; from ``table`` where None.

    Returns:
        ``filters``: for each of model, loss, method, quotas, network (how it was pruned), sparsity
        (its target) and keep, its ``options`` and
        ``of``, (n_points,) which of them a point has; -1 is a point that the filter does not
        concern. ``measures``: what can be an axis, ``values`` (n_points,) each, None where not
        known. ``points``: (n_points,) what else the pointer is told. ``panels``: a title each.
        ``series``: the indices of their ``points`` by ascending keep fraction, their ``panels``,
        and a Plotly ``trace`` without coordinates. ``rings`` and ``legend``: further traces, those
        of the legend with the ``filter`` and the ``option`` that they stand for.
        ``templates``: Plotly's, for ``light`` and ``dark`` pages, and ``dark``: colours by those
        that they replace there.
    """
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    style = style or SeriesStyle.of(table)
    panels = _panels(rows, has_several_models(table))
    filters = _filters(rows, style)
    return {
        "by": by,
        "filters": filters,
        "measures": _measures(table, by),
        "points": _points(rows, by),
        "panels": [panel["title"] for panel in panels],
        "series": _series(rows, panels, style),
        "rings": _rings(rows),
        "legend": _legend(filters, style),
        "templates": {name: _template(*colours) for name, colours in _TEMPLATES.items()},
        "dark": DARK,
    }


def sparsity_name(row: Mapping[Any, Any]) -> str:
    """Return how much of the network was to go: ``"dense"`` or ``"flops(0.75)"``."""
    return DENSE_OPTION if is_dense(row) else str(row["network_target"])


def network_name(row: Mapping[Any, Any]) -> str:
    """Return how the network itself was pruned: ``"dense"`` or ``"autobot"``."""
    return DENSE_OPTION if is_dense(row) else str(row["network_method"])


def method_name(row: Mapping[Any, Any]) -> str:
    """Return what a point's data were pruned by, or that they were not."""
    return FULL if row["method"] == "none" else scorer_name(row)


def quotas_key(quotas: str, style: SeriesStyle) -> Json:
    """Return how a quota rule looks, for a legend outside the figure.

    Args:
        quotas: One of the style's.
        style: The looks of the table.

    Returns:
        ``dashes`` as of SVG's ``stroke-dasharray``, and whether a marker is ``open`` or has a
        ``dot``.
    """
    drawn = {"solid": "none", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
    dash, fill = _dash(style.line(quotas)), FILLS.get(style.fill(quotas), "")
    dashes = drawn.get(dash, dash.replace("px", "").replace(",", " "))
    return {"dashes": dashes, "open": "open" in fill, "dot": "dot" in fill}


def _filters(rows: Sequence[Row], style: SeriesStyle) -> Json:
    """Return the options of every filter, and which of them each point has."""
    keeps = sorted({row["keep_fraction"] for row in rows})
    full = [FULL] if any(row["method"] == "none" for row in rows) else []
    named: dict[str, tuple[Sequence[str], Callable[[Row], str]]] = {
        "model": (_names(rows, _column("model")), _column("model")),
        "loss": (_names(rows, _column("loss")), _column("loss")),
        "method": ([*style.methods, *full], method_name),
        # Where nothing is pruned there are no quotas, so no choice among them hides the reference.
        "quotas": (style.quotas, lambda row: "" if row["method"] == "none" else row["quotas"]),
        # Dense networks are a choice among targets.
        "network": (style.networks, lambda row: "" if is_dense(row) else network_name(row)),
        "sparsity": (_sparsities(rows), sparsity_name),
        "keep": ([f"{keep:g}" for keep in keeps], lambda row: f"{row['keep_fraction']:g}"),
    }
    filters = {}
    for name, (options, called) in named.items():
        place = {option: index for index, option in enumerate(options)}
        of = [place.get(called(row), -1) for row in rows]
        filters[name] = {"options": list(options), "of": of}
    return filters


def _column(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


def _names(rows: Sequence[Row], called: Callable[[Row], str]) -> list[str]:
    return sorted({called(row) for row in rows})


def _sparsities(rows: Sequence[Row]) -> list[str]:
    """Return the network targets, dense first, then rising."""
    first = {sparsity_name(row): target_place(row["network_target"]) for row in rows}
    return sorted(first, key=lambda name: first[name])


def _measures(table: pd.DataFrame, by: By) -> dict[str, Json]:
    """Return what can be an axis: label, and values by point."""
    gap, std = gap_and_std(by)
    labels = {
        AVERAGE: LABELS[AVERAGE],
        worst_accuracy(by): LABELS[worst_accuracy(by)],
        "keep_fraction": "keep fraction",
        "n_kept": "samples kept",
        "macs": "multiply-accumulates of an image",
        "macs_removed": "share of multiply-accumulates removed",
        "parameters": "parameters",
        f"worst_{by}_on_validation": f"accuracy of the {by} worst on validation",
        "worst_decile_accuracy": "mean of the worst tenth of classes",
        "balanced_accuracy": "balanced accuracy",
        gap: "highest minus lowest accuracy",
        std: "standard deviation over " + ("classes" if by == "class" else "groups"),
        "front_probability": "probability of being on the front",
    }
    return {
        name: {"label": label, "values": _numbers(table[name])}
        for name, label in labels.items()
        if name in table and table[name].notna().any()
    }


def _points(rows: Sequence[Row], by: By) -> dict[str, list[Any]]:
    worst = worst_accuracy(by)
    numbers = {
        "seeds": "n_seeds",
        "kept": "n_kept",
        "average_min": f"{AVERAGE}_min",
        "average_max": f"{AVERAGE}_max",
        "worst_min": f"{worst}_min",
        "worst_max": f"{worst}_max",
        "low": f"worst_{by}_low",
        "high": f"worst_{by}_high",
    }
    return {
        **{name: _numbers([row[column] for row in rows]) for name, column in numbers.items()},
        "worst_is": [str(row[f"worst_{by}"]) for row in rows],
        "size": [round(5 + 9 * math.sqrt(row["keep_fraction"]), 1) for row in rows],
    }


def _numbers(values: Sequence[Any] | pd.Series[Any]) -> list[float | int | None]:
    """Return numbers to a millionth; JSON has no NaN, so it becomes None."""
    return [None if pd.isna(value) else _short(float(value)) for value in values]


def _short(value: float) -> float | int:
    return int(value) if value == int(value) else round(value, 6)


def _panels(rows: Sequence[Row], several: bool) -> list[Json]:
    """Return what panels are about: a model, a loss and a network target each.

    Losses that were run on all the data and dense networks alone have none, if others were not.
    """
    cells = sorted(
        {(row["model"], row["loss"], row["network_target"]) for row in rows},
        key=lambda cell: (cell[:2], target_place(cell[2])),
    )
    dense = [row for row in rows if is_dense(row) and row["method"] != "none"]
    pruned = {(row["model"], row["loss"]) for row in dense}
    models = {model for model, _ in pruned}
    shown = [
        cell for cell in cells if cell[2] != DENSE or cell[:2] in pruned or cell[0] not in models
    ]
    prefix = "" if several else "loss: "
    return [
        {
            "model": model,
            "loss": loss,
            "target": target,
            "title": prefix
            + _shown(
                setting_name(
                    {"model": model, "loss": loss, "network_target": target},
                    several_models=several,
                )
            ),
        }
        for model, loss, target in shown
    ]


def _series(rows: Sequence[Row], panels: Sequence[Json], style: SeriesStyle) -> list[Json]:
    """Return what lines join: equal in everything but keep fraction and seed."""

    def name(index: int) -> tuple[str, ...]:
        row = rows[index]
        parts = ("model", "loss", "budget", "method", "query_model", "quotas")
        return (*(str(row[part]) for part in parts), network_name(row), sparsity_name(row))

    order = sorted(range(len(rows)), key=lambda index: (name(index), rows[index]["keep_fraction"]))
    found = []
    for _, indices in itertools.groupby(order, key=name):
        points = list(indices)
        row = rows[points[0]]
        own = [k for k, panel in enumerate(panels) if _is_in(row, panel)]
        others = [
            k
            for k, panel in enumerate(panels)
            if panel["model"] == row["model"] and panel["target"] == DENSE
        ]
        if row["method"] == "none" and not is_dense(row):
            trace = _pruned_full_trace(row, style)
            found.append({"points": points, "panels": own, "alone": False, "trace": trace})
            continue
        trace = _full_trace(row, alone=not own) if row["method"] == "none" else _trace(row, style)
        found.append({"points": points, "panels": own or others, "alone": not own, "trace": trace})
    return found


def _is_in(row: Row, panel: Json) -> bool:
    names = {"model": "model", "loss": "loss", "target": "network_target"}
    return all(bool(row[column] == panel[name]) for name, column in names.items())


def _trace(row: Row, style: SeriesStyle) -> Json:
    method, quotas = scorer_name(row), row["quotas"]
    colour = style.colour(method, DENSE if is_dense(row) else row["network_method"])
    symbol = _symbol(style.marker(method)) + FILLS.get(style.fill(quotas), "")
    line = {"color": colour, "dash": _dash(style.line(quotas)), "width": 1.5}
    marker = {"color": colour, "symbol": symbol, "line": {"color": colour, "width": 1.5}}
    return _scatter(mode="lines+markers", line=line, marker=marker)


def _full_trace(row: Row, *, alone: bool) -> Json:
    """Return the star of training on all the data; hollow and named in panels of other losses."""
    if not alone:
        marker = {"color": FULL_DATA, "symbol": "star", "size": 15}
        return _scatter(mode="markers", marker=marker)
    marker = {"color": FULL_DATA, "symbol": "star-open", "size": 12}
    return _scatter(
        mode="markers+text",
        marker=marker,
        text=_shown(row["loss"]),
        textposition="middle left",  # such points lie near the right edge
    )


def _pruned_full_trace(row: Row, style: SeriesStyle) -> Json:
    """Return the star of a pruned network that was trained on all the data."""
    colour = style.colour("", row["network_method"])
    marker = {"color": colour, "symbol": "star", "size": 13}
    return _scatter(mode="markers", marker=marker)


def _rings(rows: Sequence[Row]) -> list[Json]:
    """Return the marks of both Pareto fronts, thin and wide."""
    names = {"on_front": "Pareto front", "on_front_at_keep_fraction": "… at its keep fraction"}
    return [
        {
            "points": [index for index, row in enumerate(rows) if row[column]],
            "trace": _scatter(
                name=name,
                mode="markers",
                hoverinfo="skip",
                marker={
                    "color": FRONT_COLOUR,
                    "symbol": "circle-open",
                    "size": 22,
                    "line": {"color": FRONT_COLOUR, "width": FRONTS[column]},
                },
            ),
        }
        for column, name in names.items()
    ]


def _legend(filters: Mapping[str, Json], style: SeriesStyle) -> list[Json]:
    """Return an entry per method and per network method, in the order of the filters' options."""
    entries = []
    for option, method in enumerate(filters["method"]["options"]):
        full = method == FULL
        colour = FULL_DATA if full else style.colour(method)
        symbol = "star" if full else _symbol(style.marker(method))
        trace = _scatter(
            name=_shown(method),
            mode="markers" if full else "lines+markers",
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "symbol": symbol, "size": 12 if full else 8},
        )
        entries.append({"filter": "method", "option": option, "trace": trace})
    for option, network in enumerate(filters["network"]["options"]):
        line = {"color": style.colour("", network), "width": 3}
        trace = _scatter(name=f"network: {_shown(network)}", mode="lines", line=line)
        entries.append({"filter": "network", "option": option, "trace": trace})
    return entries


def _shown(text: str) -> str:
    """Return a name for Plotly, which knows tags, and entities for them but not for quotes."""
    return html.escape(cut(text), quote=False)


def _scatter(**look: Any) -> Json:
    """Return a trace as JSON; Plotly refuses what it does not know."""
    trace: Json = go.Scatter(**look).to_plotly_json()
    return trace


def _symbol(marker: str) -> str:
    return SYMBOLS.get(marker, "circle")


def _dash(line: str | tuple[int, tuple[int, ...]]) -> str:
    """Return Plotly's name of a line style, or its dashes and gaps in pixels."""
    if isinstance(line, str):
        return DASHES[line]
    return ",".join(f"{length}px" for length in line[1])


def _template(paper: str, ink: str, soft: str, lines: str, band: str) -> Json:
    axis = {
        "gridcolor": lines,
        "linecolor": lines,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": lines,
        "automargin": True,
    }
    hover = {"bgcolor": band, "bordercolor": lines, "font": {"color": ink}, "align": "left"}
    layout = go.Layout(
        paper_bgcolor=paper,
        plot_bgcolor=paper,
        font={"color": ink, "family": "system-ui, sans-serif", "size": 13},
        xaxis=axis,
        yaxis=axis,
        hoverlabel=hover,
        hovermode="closest",
        modebar={"bgcolor": paper, "color": soft, "activecolor": ink},
    )
    template: Json = go.layout.Template(layout=layout).to_plotly_json()
    return template
