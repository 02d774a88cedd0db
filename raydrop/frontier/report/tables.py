"""The report's tables: a description per column, and cells with what is written and sorted by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.figures.canvas import MINUS
from raydrop.frontier.figures.interactive import DENSE_OPTION, target_name
from raydrop.frontier.points import (
    ALL,
    DENSE_NETWORK,
    POINT,
    Point,
    has_networks,
    has_several_models,
    point_name,
    references,
    rows_of,
    scorer_name,
)
from raydrop.frontier.report.sentences import noise_answer, signed
from raydrop.frontier.statistics.densities import NOISY, Noise
from raydrop.frontier.table import AVERAGE, WORST, front_mark
from raydrop.study import By

SHOWN_POINTS = 600
"""Rows of the table of points, and points of the interactive figure."""
SHOWN_CLASSES = 100
SHOWN_RECALLS = 6000
"""Cells of the table by class."""
SHOWN_HARM = 300
"""Rows of the table of what pruning harms; all are in ``harm.csv``."""

STEPS = (0.02, 0.05, 0.10, 0.20)
"""From which changes of recall on a cell is shaded, in steps; either sign."""

Cell = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted, left out where nothing is known of it."""

    name: str
    """Its heading; ``{unit}`` is class or group."""
    key: str
    """The column that it is sorted by."""
    text: str = ""
    """A format of that value, in which all others of the row may occur; empty where it is text."""
    soft: str = ""
    """What is said besides, in soft print; left out where a number in it is not known."""

    def cell(self, row: Point, absent: str) -> Cell:
        """Return what is written (``text``, ``range``), sorted by, and where it begins."""
        value = row[self.key]
        known = bool(pd.notna(value)) and value != ""
        text = _printed(self.text.format(value, **row)) if self.text else str(value)
        soft: str = _printed(self.soft.format(**row)) if known else ""
        return {
            "value": (f"{value:.6g}" if isinstance(value, float) else value) if known else "",
            "text": text if known else absent,
            "range": "" if "nan" in soft else soft,
            "left": self.left,
            "best": self.key == "front",
        }

    @property
    def left(self) -> bool:
        """Whether it is text, which begins at the left."""
        return ":" not in self.text


def _range(name: str, form: str = ".3f") -> str:
    return f"[{{{name}_min:{form}}}, {{{name}_max:{form}}}]"


def _printed(text: str) -> str:
    """Return formatted numbers with a real minus, zero without a sign, and room before a %."""
    text = re.sub(r"[+-](?=0\.0+(?!\d))", "", text)
    return text.replace("-", MINUS).replace("%", " %")


POINT_COLUMNS = (
    Column("front", "front", "{mark}"),
    Column("model", "model"),
    Column("method", "scorer"),
    Column("quotas", "quotas"),
    Column("loss", "loss"),
    Column("network", "network"),
    Column("target", "target"),
    Column("MACs removed", "macs_removed", "{:.3f}"),
    Column("parameters", "parameters", "{:,.0f}"),
    Column("keep fraction", "keep_fraction", "{:g}"),
    Column("kept", "n_kept", "{:.0f}"),
    Column("seeds", "n_seeds", "{:d}"),
    Column("worst {unit}", WORST, "{:.3f}", _range(WORST)),
    Column("95 % interval", "worst_low", "{:.3f} to {worst_high:.3f}"),
    Column("worst is", "worst"),
    Column("average", AVERAGE, "{:.3f}", _range(AVERAGE)),
    Column("gap", "gap", "{:.3f}"),
    Column("std", "std", "{:.3f}"),
    Column("worst on validation", "worst_on_validation", "{:.3f}"),
    Column("worst tenth", "worst_decile_accuracy", "{:.3f}"),
    Column("balanced", "balanced_accuracy", "{:.3f}"),
    Column("P(front)", "front_probability", "{:.3f}"),
    Column("status", "front_status"),
    Column("forward, ms", "forward_ms", "{:.3f}"),
)

HARM_COLUMNS = (
    Column("point", "point"),
    Column("against", "against"),
    Column("seeds", "n_seeds", "{:d}"),
    Column(
        "excess gap",
        "excess_accuracy_gap",
        "{:+.3f}",
        "({excess_accuracy_gap_low:+.3f} to {excess_accuracy_gap_high:+.3f})",
    ),
    Column("most harmed {unit}", "most_harmed"),
    Column("change of worst {unit}", "worst_accuracy_change", "{:+.3f}"),
    Column("change of average", "average_accuracy_change", "{:+.3f}"),
    Column("worst AUC", "worst_auc", "{:.3f}"),
    Column("change of worst AUC", "worst_auc_change", "{:+.3f}"),
    Column("exemplars", "n_exemplars", "{:d}", "({exemplar_share:.1%})"),
    Column("… of worst {unit}", "exemplar_share_of_worst", "{:.1%}"),
)


def sortable(
    table: pd.DataFrame, columns: Sequence[Column], unit: By, absent: str = ""
) -> dict[str, Any]:
    """Return a table's headings, ``name`` and whether it begins at the ``left``, and its cells.

    Columns that it lacks, or that know nothing, are left out; ``absent`` is said where a single
    value is not known.
    """
    shown = [each for each in columns if each.key in table and _known(table[each.key])]
    return {
        "columns": [{"name": c.name.format(unit=unit), "left": c.left} for c in shown],
        "rows": [[column.cell(row, absent) for column in shown] for row in rows_of(table)],
    }


def _known(values: pd.Series[Any]) -> bool:
    return bool((values.notna() & (values != "")).any())


def points_table(points: pd.DataFrame, unit: By) -> dict[str, Any]:
    """Return the table of points, with columns about models and networks where these differ."""
    rows = rows_of(points)
    marks = [front_mark(row) for row in rows]
    table = points.assign(
        mark=marks,
        front=[" ○●".index(mark or " ") for mark in marks],
        scorer=[scorer_name(row) for row in rows],
    )
    if not has_several_models(points):
        table = table.drop(columns="model")
    if has_networks(points):
        table["target"] = [target_name(row) for row in rows]
        table["network"] = points["network_method"].mask(
            table["target"] == DENSE_OPTION, DENSE_OPTION
        )
    else:
        table = table.drop(columns=["macs_removed", "parameters"])
    return sortable(table, POINT_COLUMNS, unit, "not known")


def harm_table_of(harmed: pd.DataFrame, unit: By, several: bool) -> dict[str, Any] | None:
    """Return what pruning harms, the largest excess gap first; models are named if ``several``."""
    if harmed.empty:
        return None
    order = ["excess_accuracy_gap", "exemplar_share"]
    shown = harmed.sort_values(order, ascending=False, kind="stable").head(SHOWN_HARM)
    shown = shown.assign(
        point=[point_name(row, several_models=several) for row in rows_of(shown)],
        against=shown["pruned"].map({"network": "the dense networks", "data": ALL}),
    )
    return {
        **sortable(shown, HARM_COLUMNS, unit),
        "hidden": len(harmed) - len(shown),
        "one_seed": bool((harmed["n_seeds"] == 1).any()),
        "data": bool((harmed["pruned"] == "data").any()),
    }


def noise_table(noise: Noise) -> dict[str, Any]:
    """Return the share of the label noise that each series prunes, a cell per keep fraction."""
    keeps = sorted(noise.points["keep_fraction"].unique(), reverse=True)
    best = noise.points.groupby("keep_fraction")[NOISY].max()
    column, alone = Column("", NOISY, "{:.3f}", _range(NOISY)), Column("", NOISY, "{:.3f}")
    uniform = [alone.cell({NOISY: 1 - keep}, "") for keep in keeps]
    rows: list[dict[str, Any]] = [{"name": "uniform draw, on average", "cells": uniform}]
    for name, series in noise.points.groupby("name", sort=False):
        there = {row["keep_fraction"]: row for row in rows_of(series)}
        cells = []
        for keep in keeps:
            row = there.get(keep, {NOISY: np.nan, "n_seeds": 1})
            shown = alone if row["n_seeds"] == 1 else column
            cells.append(shown.cell(row, "") | {"best": row[NOISY] == best[keep]})
        rows.append({"name": name, "cells": cells})
    return {
        "n_noisy": noise.n_noisy,
        "n_train": noise.n_train,
        "percent": f"{100 * noise.n_noisy / noise.n_train:.3g}",
        "answer": noise_answer(noise.points),
        "keeps": [f"{keep:g}" for keep in keeps],
        "rows": rows,
    }


def chosen_points(ordered: pd.DataFrame, limit: int = SHOWN_POINTS) -> pd.DataFrame:
    """Return the points that a page shows, given in the order of merit: all, or the foremost.

    With more than the limit, the references that keep all the data and points on a front come
    first, then points in turn from every model, loss, network target and keep fraction.
    """
    if len(ordered) <= limit:
        return ordered
    rank = ordered.groupby(["model", "loss", "network_target", "keep_fraction"]).cumcount()
    first = (ordered["method"] == "none") | ordered["on_front"]
    first |= ordered["on_front_at_keep_fraction"]
    order = np.lexsort((rank, ~first))
    return ordered.iloc[np.sort(order[:limit])]


def with_forward_times(points: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return points with ``forward_ms``, where networks are pruned and it was measured.

    That is the mean over seeds of the milliseconds that a forward pass of 64 images took. It is a
    timing, so it is no column of ``frontier.csv``, which one study always gives the same bytes.
    """
    if not has_networks(points):
        return points
    seconds = trials.groupby(list(POINT))["forward_seconds"].mean()
    keys = pd.MultiIndex.from_frame(points[list(POINT)])
    return points.assign(forward_ms=1000 * seconds.astype("float64").reindex(keys).to_numpy())


def shown_classes(recalls: NDArray[np.float64]) -> list[int]:
    """Return the classes with columns of their own: all, or those whose recalls fall lowest."""
    lowest = np.where(np.isnan(recalls), np.inf, recalls).min(axis=0)
    shown = np.argsort(lowest, kind="stable")[:SHOWN_CLASSES]
    return sorted(int(k) for k in shown)


def recall_changes(table: pd.DataFrame, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much recalls (n_points, K) differ from those of training on all the data.

    Those of a pruned network are compared with its dense network. NaN where there is no reference.
    """
    changes = np.full(recalls.shape, np.nan)
    for place, found in enumerate(references(rows_of(table))):
        reference = found.get(ALL, found.get(DENSE_NETWORK))
        if reference is not None:
            changes[place] = recalls[place] - recalls[reference]
    return changes


def recall_rows(
    points: pd.DataFrame,
    recalls: NDArray[np.float64],
    changes: NDArray[np.float64],
    classes: Sequence[int],
) -> list[dict[str, Any]]:
    """Return a row per point: its ``place`` among points, ``name`` and ``cells``, one per class.

    Where cells would be too many, it is the foremost points. Recalls and changes are (n_points, K),
    of which ``classes`` have a column.
    """
    several = has_several_models(points)
    places = pd.Series(range(len(points)), index=points.index)
    shown = chosen_points(points, max(SHOWN_RECALLS // max(len(classes), 1), 1))
    rows = zip(places[shown.index], rows_of(shown), strict=True)
    return [
        {
            "place": place,
            "name": point_name(row, several_models=several),
            "cells": [_recall(recalls[place], changes[place], k) for k in classes],
        }
        for place, row in rows
    ]


def _recall(recalls: NDArray[np.float64], changes: NDArray[np.float64], k: int) -> Cell:
    if np.isnan(recalls[k]):
        return {"text": "none", "change": "", "look": ""}
    looks = ["lowest"] if recalls[k] == np.nanmin(recalls) else []
    change = ""
    if not np.isnan(changes[k]):
        change = signed(changes[k])
        step = int(np.searchsorted(STEPS, abs(changes[k]) + 1e-9, side="right"))
        looks += [f"{'up' if changes[k] > 0 else 'down'}{step}"] if step else []
    return {"text": f"{recalls[k]:.3f}", "change": change, "look": " ".join(looks)}
