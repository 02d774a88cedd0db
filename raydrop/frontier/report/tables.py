"""The report's tables as cells: what is written, what is sorted by, and how it is marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.figures.interactive import network_name, sparsity_name
from raydrop.frontier.points import (
    POINT,
    has_networks,
    has_several_models,
    is_dense,
    point_name,
    scorer_name,
)
from raydrop.frontier.table import front_mark, gap_and_std, worst_accuracy
from raydrop.study import By

SHOWN_POINTS = 600
"""Rows of the table of points, and points of the interactive figure."""
SHOWN_CLASSES = 100
SHOWN_RECALLS = 6000
"""Cells of the table by class."""

STEPS = (0.02, 0.05, 0.10, 0.20)
"""From which changes of recall on a cell is shaded, in steps; either sign."""

Cell = dict[str, Any]
Row = Mapping[Any, Any]

_COLUMNS: tuple[tuple[str, bool], ...] = (
    ("front", True),
    ("model", True),
    ("method", True),
    ("quotas", True),
    ("loss", True),
    ("network", True),
    ("target", True),
    ("MACs removed", False),
    ("parameters", False),
    ("keep fraction", False),
    ("kept", False),
    ("seeds", False),
    ("worst {by}", False),
    ("95 % interval", False),
    ("worst is", True),
    ("average", False),
    ("gap", False),
    ("std", False),
)
"""Headings of the table of points, and whether what is below them is text."""

_FURTHER: tuple[tuple[str, str, bool], ...] = (
    ("worst_{by}_on_validation", "worst on validation", False),
    ("worst_decile_accuracy", "worst tenth", False),
    ("balanced_accuracy", "balanced", False),
    ("front_probability", "P(front)", False),
    ("front_status", "status", True),
    ("forward_ms", "forward, ms", False),
)
"""Columns of the frontier's table that are shown where it has them, their headings, and whether
they are text."""


def chosen_points(ordered: pd.DataFrame, limit: int = SHOWN_POINTS) -> pd.DataFrame:
    """Return the points that a page shows, in their order: all, or the foremost.

    Args:
        ordered: Points by merit, as from :func:`~raydrop.frontier.table.by_merit`.
        limit: The most that are shown. Above it, the references that keep all the data and points
            on a front come first, then points in turn from every model, loss, network target and
            keep fraction.
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

    Args:
        points: Rows of the frontier's table.
        trials: A row per trial.
    """
    if not has_networks(points):
        return points
    seconds = trials.groupby(list(POINT))["forward_seconds"].mean()
    keys = pd.MultiIndex.from_frame(points[list(POINT)])
    return points.assign(forward_ms=1000 * seconds.astype("float64").reindex(keys).to_numpy())


def point_columns(points: pd.DataFrame, by: By) -> list[Cell]:
    """Return the headings of the table of points: ``name``, and whether it heads ``text``."""
    skipped = _skipped(points)
    columns = [
        {"name": name.format(by=by), "text": text} for name, text in _COLUMNS if name not in skipped
    ]
    return columns + [{"name": name, "text": text} for _, name, text in _further(points, by)]


def point_rows(points: pd.DataFrame, by: By) -> list[list[Cell]]:
    """Return the cells of the table of points, below :func:`point_columns`."""
    skipped, further = _skipped(points), _further(points, by)
    rows = []
    for row in points.to_dict("records"):
        cells = _point_cells(row, by)
        shown = [cell for name, cell in cells.items() if name not in skipped]
        rows.append(shown + [_further_cell(row[column], text) for column, _, text in further])
    return rows


NETWORK_COLUMNS = {"network", "target", "MACs removed", "parameters"}
"""Columns that say something only where networks are pruned."""


def _skipped(points: pd.DataFrame) -> set[str]:
    """Return the columns that would say the same in every row."""
    skipped = set() if has_several_models(points) else {"model"}
    return skipped if has_networks(points) else skipped | NETWORK_COLUMNS


def _further(points: pd.DataFrame, by: By) -> list[tuple[str, str, bool]]:
    named = [(column.format(by=by), name, text) for column, name, text in _FURTHER]
    return [each for each in named if each[0] in points and _known(points[each[0]]).any()]


def _known(values: pd.Series[Any]) -> pd.Series[bool]:
    return values.notna() & (values != "")


def _point_cells(row: Row, by: By) -> dict[str, Cell]:
    mark, (gap, std) = front_mark(row), gap_and_std(by)
    low, high = row[f"worst_{by}_low"], row[f"worst_{by}_high"]
    cells = [
        {**cell(" ○●".index(mark or " "), mark, left=True), "best": True},
        *(_text(row[name] if name != "method" else scorer_name(row)) for name in _NAMES),
        _text(network_name(row)),
        _text(sparsity_name(row)),
        _measured(row["macs_removed"], "{:.3f}"),
        _measured(row["parameters"], "{:,.0f}"),
        cell(row["keep_fraction"], f"{row['keep_fraction']:g}"),
        cell(row["n_kept"], f"{row['n_kept']:.0f}"),
        cell(row["n_seeds"], row["n_seeds"]),
        with_range(row, worst_accuracy(by)),
        cell(low, f"{low:.3f} to {high:.3f}"),
        _text(row[f"worst_{by}"]),
        with_range(row, "average_accuracy"),
        cell(row[gap], f"{row[gap]:.3f}"),
        cell(row[std], f"{row[std]:.3f}"),
    ]
    return {name: each for (name, _), each in zip(_COLUMNS, cells, strict=True)}


def _measured(value: float, form: str) -> Cell:
    return cell("", "not known") if pd.isna(value) else cell(value, form.format(value))


_NAMES = ("model", "method", "quotas", "loss")


def _further_cell(value: Any, text: bool) -> Cell:
    if pd.isna(value) or value == "":
        return cell("", "not known", left=text)
    return _text(value) if text else cell(value, f"{value:.3f}")


def with_range(row: Row, name: str) -> Cell:
    """Return a cell with a mean over seeds, and the lowest and highest seed in brackets."""
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return cell(row[name], f"{row[name]:.3f}", f"[{low:.3f}, {high:.3f}]")


def cell(value: Any, text: Any, range_: str = "", *, left: bool = False) -> Cell:
    """Return a cell.

    Args:
        value: What it is sorted by.
        text: What it says.
        range_: What it says besides, in soft print.
        left: Whether it is text, and begins at the left.
    """
    if isinstance(value, float):
        value = f"{value:.6g}"
    return {"value": value, "text": text, "range": range_, "text_align": left, "best": False}


def _text(value: Any) -> Cell:
    return cell(value, value, left=True)


def shown_classes(recalls: NDArray[np.float64]) -> list[int]:
    """Return the classes with columns of their own: all, or those that fall lowest anywhere.

    Args:
        recalls: (n_points, K).
    """
    lowest = np.where(np.isnan(recalls), np.inf, recalls).min(axis=0)
    shown = np.argsort(lowest, kind="stable")[:SHOWN_CLASSES]
    return sorted(int(k) for k in shown)


def recall_changes(table: pd.DataFrame, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much recalls differ from those of training on all the data.

    Args:
        table: Points of :func:`~raydrop.frontier.table.frontier_table`.
        recalls: (n_points, K) of these points, means over seeds.

    Returns:
        (n_points, K) recall minus that of the point that keeps all the data with the same model
        and loss; of a pruned network, minus that of its dense network. NaN where there is none.
    """
    rows = table.to_dict("records")
    full = {key: place for place, row in enumerate(rows) for key in _is_reference_for(row)}
    changes = np.full(recalls.shape, np.nan)
    for place, row in enumerate(rows):
        reference = next((full[key] for key in _references_of(row) if key in full), None)
        if reference is not None:
            changes[place] = recalls[place] - recalls[reference]
    return changes


_DATA = ("dataset", "model", "query_model", "method", "quotas", "keep_fraction", "budget")


def _references_of(row: Row) -> list[tuple[Any, ...]]:
    """Return the keys of what a point's recalls are compared with, the first that is there."""
    if is_dense(row):
        return [(row["dataset"], row["model"], row["loss"])]
    data = tuple(row[name] for name in _DATA)
    return [(*data, "cross_entropy"), (*data, row["loss"])]


def _is_reference_for(row: Row) -> list[tuple[Any, ...]]:
    """Return the keys by which a point is found as a reference."""
    if not is_dense(row):
        return []
    own = [(*(row[name] for name in _DATA), row["loss"])]
    if row["method"] == "none":
        own.append((row["dataset"], row["model"], row["loss"]))
    return own


def recall_rows(
    points: pd.DataFrame,
    recalls: NDArray[np.float64],
    changes: NDArray[np.float64],
    classes: Sequence[int],
) -> list[dict[str, Any]]:
    """Return a row per point: its ``place`` among points, ``name`` and ``cells``, one per class.

    Args:
        points: Those that the page shows; where their cells would be too many, the foremost.
        recalls: (n_points, K).
        changes: (n_points, K) as from :func:`recall_changes`.
        classes: Which of the K have a column.
    """
    several = has_several_models(points)
    places = pd.Series(range(len(points)), index=points.index)
    shown = chosen_points(points, max(SHOWN_RECALLS // max(len(classes), 1), 1))
    rows = zip(places[shown.index], shown.to_dict("records"), strict=True)
    return [
        {
            "place": place,
            "name": point_name(row, several_models=several),
            "cells": [_recall(recalls[place], changes[place], k, row) for k in classes],
        }
        for place, row in rows
    ]


def _recall(recalls: NDArray[np.float64], changes: NDArray[np.float64], k: int, row: Row) -> Cell:
    if np.isnan(recalls[k]):
        return {"text": "none", "change": "", "look": ""}
    looks = ["lowest"] if recalls[k] == np.nanmin(recalls) else []
    change = ""
    pruned = row["method"] != "none" or not is_dense(row)
    if pruned and not np.isnan(changes[k]):
        change = signed(changes[k])
        step = int(np.searchsorted(STEPS, abs(changes[k]) + 1e-9, side="right"))
        looks += [f"{'up' if changes[k] > 0 else 'down'}{step}"] if step else []
    return {"text": f"{recalls[k]:.3f}", "change": change, "look": " ".join(looks)}


def signed(value: float) -> str:
    """Return a change with two decimals and a real minus; none at all has no sign."""
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if text[1:] == "0.00" else text
