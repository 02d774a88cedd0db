"""What figures of points show, be they drawn by Matplotlib or by Plotly: panels, series, looks.

Each panel is about one model, loss and network target. Losses that were run on all the data alone
have none where others were not: their stars are guests in those of their model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from raydrop.frontier.figures.canvas import Look, ordered_from
from raydrop.frontier.figures.looks import (
    HOLLOW_STAR,
    STAR,
    SeriesStyle,
    nth_colour,
    series_look,
)
from raydrop.frontier.points import (
    ALL,
    DENSE,
    DENSE_NETWORK,
    PLAIN_LOSS,
    POINT,
    SERIES,
    Point,
    data_name,
    has_networks,
    has_several_models,
    is_dense,
    rows_of,
    scorer_name,
    series_name,
    setting_name,
    target_place,
)

DATA = ["model", "keep_fraction", "method", "quotas", "query_model"]
"""What a network was trained on."""
MOST_SELECTIONS = 6
"""Selections of data of which networks are shown: all the data and large keep fractions first."""

_LINE = tuple(name for name in POINT if name not in ("dataset", "keep_fraction"))
"""What points have in common that a line joins."""

Kind = Literal["line", "reference", "star", "guest", "dense"]
"""Pruned points that a line joins; a star of training on all the data whose level is marked; one
of a network that was pruned; one of another loss; and the dense network beside pruned ones."""


@dataclass(frozen=True)
class Panel:
    """What a panel is about."""

    title: str
    model: str = ""
    loss: str = ""
    target: str = DENSE


@dataclass(frozen=True, eq=False)
class Series:
    """Points that are alike in all but their keep fraction (or network target) and seed."""

    name: str
    kind: Kind
    look: Look
    """Where it has no ``markersize``, markers grow with the keep fraction."""
    points: tuple[int, ...]
    """Their places in the table, by ascending keep fraction."""
    panels: tuple[int, ...]
    """Where they are shown."""
    end: tuple[int, ...] = ()
    """Places of the points in which the line ends besides: pruned networks on all the data."""

    @property
    def is_guest(self) -> bool:
        """Whether its panels are about something else, so that it is named there."""
        return self.kind in ("guest", "dense")


@dataclass(frozen=True, eq=False)
class Chart:
    """Panels, and what is in them."""

    table: pd.DataFrame
    """A row per point."""
    panels: tuple[Panel, ...]
    series: tuple[Series, ...]
    style: SeriesStyle

    def shown(self, panel: int) -> Iterator[tuple[Series, pd.DataFrame]]:
        """Yield the series of a panel, each with its points."""
        for series in self.series:
            if panel in series.panels:
                yield series, self.table.iloc[list(series.points)]


def frontier_chart(table: pd.DataFrame, style: SeriesStyle | None = None) -> Chart:
    """Return what the frontier and the curves against the keep fraction show.

    Points may be some of those that a shared style is of.
    """
    style, rows = style or SeriesStyle.of(table), rows_of(table)
    panels = _panels(rows, several=has_several_models(table))
    place = {(each.model, each.loss, each.target): k for k, each in enumerate(panels)}
    series = []
    for points in _alike(rows, _LINE):
        row = rows[points[0]]
        key = row["model"], row["loss"], row["network_target"]
        own = (place[key],) if key in place else ()
        if row["method"] != "none":
            end = () if is_dense(row) else _on_all_data(rows, row)
            series.append(Series(scorer_name(row), "line", style.look_of(row), points, own, end))
        elif not is_dense(row):
            look = STAR | {"color": style.colour("", row["network_method"]), "markersize": 12}
            series.append(Series(ALL, "star", look, points, own))
        elif own:
            series.append(Series(ALL, "reference", STAR, points, own))
        else:
            others = tuple(place[k] for k in place if k[0] == row["model"] and k[2] == DENSE)
            series.append(Series(row["loss"], "guest", HOLLOW_STAR, points, others))
    return Chart(table, panels, (*series, *_dense_guests(rows, panels)), style)


def _panels(rows: Sequence[Point], *, several: bool) -> tuple[Panel, ...]:
    cells = {(row["model"], row["loss"], row["network_target"]) for row in rows}
    pruned = {
        (row["model"], row["loss"]) for row in rows if is_dense(row) and row["method"] != "none"
    }
    models = {model for model, _ in pruned}
    shown = [
        cell for cell in cells if cell[2] != DENSE or cell[:2] in pruned or cell[0] not in models
    ]
    panels = []
    for model, loss, target in sorted(shown, key=lambda cell: (cell[:2], target_place(cell[2]))):
        row = {"model": model, "loss": loss, "network_target": target}
        title = ("" if several else "loss: ") + setting_name(row, several_models=several)
        panels.append(Panel(title, model, loss, target))
    return tuple(panels)


def _alike(
    rows: Sequence[Point], names: Sequence[str], by: str = "keep_fraction"
) -> Iterator[tuple[int, ...]]:
    """Yield the places of rows that share some values, small keep fractions first."""

    def key(place: int) -> tuple[str, ...]:
        return tuple(str(rows[place][name]) for name in names)

    order = sorted(range(len(rows)), key=lambda place: (key(place), rows[place][by]))
    for _, places in itertools.groupby(order, key=key):
        yield tuple(places)


def _on_all_data(rows: Sequence[Point], row: Point) -> tuple[int, ...]:
    """Return the places of a pruned network's points on all the data."""
    same = ("model", "loss", "network_method", "network_target")
    return tuple(
        place
        for place, other in enumerate(rows)
        if other["method"] == "none" and all(other[name] == row[name] for name in same)
    )


def _dense_guests(rows: Sequence[Point], panels: Sequence[Panel]) -> Iterator[Series]:
    """Yield the dense network on all the data, with the same or the plain loss, of each target."""
    full = {
        (row["model"], row["loss"]): place
        for place, row in enumerate(rows)
        if row["method"] == "none" and is_dense(row)
    }
    for number, panel in enumerate(panels):
        found = [full.get((panel.model, loss)) for loss in (panel.loss, PLAIN_LOSS)]
        place = next((each for each in found if each is not None), None)
        if panel.target != DENSE and place is not None:
            yield Series("dense", "dense", HOLLOW_STAR, (place,), (number,))


def noise_chart(points: pd.DataFrame) -> Chart:
    """Return what is pruned of the label noise, a line per series."""
    table = points.assign(network_method=DENSE, network_target=DENSE)
    style, rows = SeriesStyle.of(table), rows_of(table)
    series = [
        Series(rows[places[0]]["name"], "line", style.look_of(rows[places[0]]), places, (0,))
        for places in _alike(rows, SERIES)
    ]
    return Chart(table, (Panel(""),), tuple(series), style)


def overlay_chart(table: pd.DataFrame) -> Chart:
    """Return the points of several studies: colour is the study, a marker how all was pruned."""
    rows, studies = rows_of(table), list(dict.fromkeys(table["study"]))
    pruned = [row for row in rows if row["method"] != "none"]
    methods = ordered_from(map(_marker_name, pruned), first="random")
    quotas = ordered_from((row["quotas"] for row in pruned), first="none")
    several = has_several_models(table)
    cells = {(row["model"], row["loss"], target_place(row["network_target"])): row for row in rows}
    titles = {cell: setting_name(cells[cell], several_models=several) for cell in sorted(cells)}
    found: dict[tuple[Any, ...], Series] = {}
    for places in _alike(
        rows, ["study", "model", "loss", *SERIES, "network_method", "network_target"]
    ):
        row = rows[places[0]]
        cell = row["model"], row["loss"], target_place(row["network_target"])
        number = studies.index(row["study"])
        colour, full = nth_colour(number), row["method"] == "none"
        if full:
            # Smaller where it is drawn later, above.
            size = 13.0 + min(8.0, 4.0 * (len(studies) - 1 - number))
            look: Look = STAR | {"color": colour, "markersize": size}
        else:
            method, rule = methods.index(_marker_name(row)), quotas.index(row["quotas"])
            look = series_look(colour, method, rule)
        # All the data first, then random pruning; no quotas before others.
        first = not full, not is_dense(row), row["method"] != "random", _marker_name(row)
        order = number, *first, row["quotas"] != "none", row["quotas"], cell
        panel = (list(titles).index(cell),)
        found[order] = Series(series_name(row), "star" if full else "line", look, places, panel)
    panels = tuple(Panel(title, *cell[:2]) for cell, title in titles.items())
    series = tuple(found[order] for order in sorted(found))
    return Chart(table, panels, series, SeriesStyle((), ()))


def _marker_name(row: Point) -> str:
    """Return how data and network were pruned."""
    return scorer_name(row) if is_dense(row) else f"{scorer_name(row)}, {row['network_method']}"


def network_chart(table: pd.DataFrame, style: SeriesStyle | None = None) -> Chart | None:
    """Return accuracies against what remains of networks: a line per network method and loss.

    A network of which single weights are masked computes as much as before, so its size is told by
    its weights; all others by their multiply-accumulates, as measured.

    Returns:
        A panel for each selection of data, at most :data:`MOST_SELECTIONS`. Its table holds the
        pruned networks and the dense ones of the same data, with ``remaining``, the share of the
        dense network's multiply-accumulates or, where ``masked``, of its weights, in [0, 1]. None
        where no network is pruned or no record says how large it is.
    """
    if not has_networks(table):
        return None
    points = _remaining_of_networks(table)
    pruned = (points["network_target"] != DENSE).to_numpy()
    if points.loc[pruned, "remaining"].isna().all():
        return None
    style, rows = style or SeriesStyle.of(table), rows_of(points)
    several, losses = has_several_models(table), ordered_from(points[pruned]["loss"], PLAIN_LOSS)
    series, titles = [], {row["panel"]: _selection_name(row, several) for row in rows}
    for places in _alike(rows, ("panel", "network_method", "loss"), by="remaining"):
        row = rows[places[0]]
        method, loss = row["network_method"], row["loss"]
        panel = (row["panel"],)
        if method == DENSE:
            series.append(Series(DENSE_NETWORK, "reference", STAR, places, panel))
            continue
        look = series_look(style.colour("", method), losses.index(loss), losses.index(loss))
        look |= {"fillstyle": "full"}
        series.append(Series(f"{method}, {loss}", "line", look, places, panel))
    order = {name: place for place, name in enumerate((DENSE, *style.networks))}
    series.sort(key=lambda each: (order[rows[each.points[0]]["network_method"]], each.name))
    return Chart(points, tuple(Panel(titles[k]) for k in sorted(titles)), tuple(series), style)


def _remaining_of_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the chart of networks, by panel and falling share that remains."""
    dense = table["network_target"] == DENSE
    masked = table["network_target"].str.startswith("sparsity") & ~dense
    gone = np.where(masked, table["network_sparsity"], table["macs_removed"])
    points = table.assign(masked=masked, remaining=np.where(dense, 1.0, 1.0 - gone))
    order = [True, False, True, True, True]
    selections = points.loc[~dense, DATA].drop_duplicates().sort_values(DATA, ascending=order)
    selections = selections.head(MOST_SELECTIONS)
    selections["panel"] = range(len(selections))
    # Where it was trained with several losses, the dense network is the plain loss's.
    full = points[dense].sort_values("loss", key=lambda loss: loss != PLAIN_LOSS, kind="stable")
    points = pd.concat([full.drop_duplicates(DATA), points[~dense]]).merge(selections, on=DATA)
    return points.sort_values(["panel", "remaining"], ascending=[True, False], kind="stable")


def _selection_name(row: Point, several: bool) -> str:
    keep = "" if row["method"] == "none" else f", keep {row['keep_fraction']:g}"
    return f"{row['model']}: {data_name(row)}{keep}" if several else f"{data_name(row)}{keep}"
