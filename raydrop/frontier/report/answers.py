"""What the table says, in sentences.

The question is whether less data will do without sacrificing the worst class, or the worst group.
The answers compare means over seeds and state the range of the seeds beside them; they never claim
more than that.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from raydrop.frontier.points import DENSE, has_several_models, series_name
from raydrop.study import By

WORST = "worst_accuracy"
"""Of the class or of the group, as was asked for; :func:`_rows` says which under ``by``."""
AVERAGE = "average_accuracy"
NOISY = "noisy_pruned"

Row = dict[str, Any]


def verdicts(table: pd.DataFrame, by: By = "class") -> list[str]:
    """Answer the study's question once for each model, which is named where there are several.

    Args:
        table: As from :func:`~raydrop.frontier.table.frontier_table`.
        by: Whether the question is about the worst class or the worst group.
    """
    if not has_several_models(table):
        return [verdict(table, by)]
    return [f"{model}: {verdict(points, by)}" for model, points in table.groupby("model")]


def verdict(table: pd.DataFrame, by: By = "class") -> str:
    """Answer the study's question for one model, in one or two sentences.

    The worst class *held* at a point if its mean worst-class accuracy is at least that of training
    on all the data with the same loss. The answer names the smallest keep fraction with such a
    point, and there the one with the best worst class; or, if there is none, the nearest miss. A
    worst class that all the data leave at zero cannot be held. Pruned networks are left out, unless
    there are no others.

    Args:
        table: Points of one model, from :func:`~raydrop.frontier.table.frontier_table`.
        by: Whether the question is about the worst class or the worst group.
    """
    table = _dense(table)
    full = _unpruned(table, by)
    pruned = _rows(table[table["method"] != "none"], by)
    if not pruned:
        return f"Every finished trial keeps all the data: {_each(list(full.values()))}."
    compared = [(row, full[row["loss"]]) for row in pruned if row["loss"] in full]
    alive = [pair for pair in compared if pair[1][WORST] > 0]
    if alive:
        return _held_or_nearest(alive)
    why = (
        f"All the data leave the worst {by} at 0.00, so there is nothing to sacrifice"
        if compared
        else "No finished trial keeps all the data with the same loss, so nothing can be compared"
    )
    best = max(pruned, key=_by_worst)
    return f"{why}; the best worst {by} is {_point(best)}, at {_value(best)}."


def _held_or_nearest(pairs: list[tuple[Row, Row]]) -> str:
    """Compare pruned points with their unpruned ones, given as pairs."""
    held = [pair for pair in pairs if pair[0][WORST] >= pair[1][WORST]]
    if held:
        smallest = min(row["keep_fraction"] for row, _ in held)
        there = [pair for pair in held if pair[0]["keep_fraction"] == smallest]
        row, reference = max(there, key=lambda pair: _by_worst(pair[0]))
        worst = f"worst {row['by']}"
        opening = f"The smallest keep fraction at which the {worst} held is {smallest:g}"
    else:
        row, reference = max(pairs, key=lambda pair: pair[0][WORST] - pair[1][WORST])
        opening = f"At no keep fraction did the worst {row['by']} hold; the nearest"
    return f"{opening}: {_comparison(row, reference)}"


def answers(table: pd.DataFrame, by: By = "class") -> list[str]:
    """Return one sentence for each model, loss and keep fraction below 1, large fractions first.

    Each names the method and quotas with the best worst class or group, then random pruning without
    quotas (or, without such a point, the best method without quotas), then all the data.

    Args:
        table: As from :func:`~raydrop.frontier.table.frontier_table`.
        by: Whether the best worst class or the best worst group is named.
    """
    several = has_several_models(table)
    return [
        sentence
        for model, points in table.groupby("model")
        for sentence in _answers(points, by, f"{model} and " if several else "")
    ]


def noise_answer(points: pd.DataFrame) -> str:
    """Say which series prunes most of the mislabelled samples at each keep fraction.

    Args:
        points: As in :attr:`~raydrop.frontier.statistics.noise.Noise.points`.
    """
    order = points.sort_values(
        ["keep_fraction", NOISY], ascending=[False, False], kind="stable"
    ).drop_duplicates("keep_fraction")
    rows = [{str(name): value for name, value in row.items()} for row in order.to_dict("records")]
    parts = [
        f"by {row['name']} at keep fraction {row['keep_fraction']:g} ({row[NOISY]:.2f}, "
        f"{_seeds(row, NOISY)}; a uniform draw: {row['uniform']:.2f})"
        for row in rows
    ]
    return f"The largest share of the mislabelled samples is pruned {', '.join(parts)}."


def _answers(table: pd.DataFrame, by: By, model: str) -> list[str]:
    """Return the sentences about one model, which is named before the loss unless it is empty."""
    table = _dense(table)
    full = _unpruned(table, by)
    pruned = _rows(table[table["method"] != "none"], by)
    cells = sorted({(row["loss"], -row["keep_fraction"]) for row in pruned})
    return [
        _answer([row for row in pruned if _cell(row) == cell], full.get(cell[0]), model)
        for cell in cells
    ]


def _dense(table: pd.DataFrame) -> pd.DataFrame:
    """Return the points of dense networks, or all if there are none."""
    dense = table[table["network_target"] == DENSE]
    return table if dense.empty else dense


def _answer(rows: list[Row], full: Row | None, model: str) -> str:
    best, baseline = max(rows, key=_by_worst), _baseline(rows)
    sentence = (
        f"At keep fraction {best['keep_fraction']:g} with {model}{best['loss']}, "
        f"{series_name(best)} keeps the worst {best['by']} at {_value(best)}"
    )
    if baseline is not None and baseline is not best:
        sentence += f", {series_name(baseline)} at {baseline[WORST]:.2f}"
    if full is not None:
        sentence += f"; all the data give {full[WORST]:.2f}"
    return sentence + "."


def _comparison(row: Row, reference: Row) -> str:
    text = (
        f"{_point(row)} has it at {_value(row)}, all the data at {_value(reference)}, "
        f"while average accuracy goes from {reference[AVERAGE]:.2f} to {row[AVERAGE]:.2f}."
    )
    if _overlap(row, reference):
        text += " The seed ranges overlap, so this difference may be chance."
    return text


def _baseline(rows: list[Row]) -> Row | None:
    """Return random pruning without quotas or, where that is absent, the best without quotas."""
    free = [row for row in rows if row["quotas"] == "none"]
    random = [row for row in free if row["method"] == "random"]
    return max(random or free, key=_by_worst, default=None)


def _cell(row: Row) -> tuple[str, float]:
    return row["loss"], -row["keep_fraction"]


def _by_worst(row: Row) -> tuple[float, float]:
    return row[WORST], row[AVERAGE]


def _overlap(row: Row, other: Row) -> bool:
    low, high = f"{WORST}_min", f"{WORST}_max"
    return bool(row[low] <= other[high] and other[low] <= row[high])


def _unpruned(table: pd.DataFrame, by: By) -> dict[str, Row]:
    return {row["loss"]: row for row in _rows(table[table["method"] == "none"], by)}


def _rows(table: pd.DataFrame, by: By) -> list[Row]:
    """Return points as rows whose worst accuracy has one name for classes and for groups."""
    points = table.assign(by=by)
    return [{str(name): value for name, value in row.items()} for row in points.to_dict("records")]


def _point(row: Row) -> str:
    return f"{series_name(row)} with {row['loss']} at keep fraction {row['keep_fraction']:g}"


def _each(rows: list[Row]) -> str:
    return ", ".join(
        f"the worst {row['by']} is at {_value(row)} with {row['loss']}" for row in rows
    )


def _value(row: Row) -> str:
    return f"{row[WORST]:.2f} ({_seeds(row, WORST)})"


def _seeds(row: Row, name: str) -> str:
    if row["n_seeds"] == 1:
        return "one seed"
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return f"seed range {low:.2f}\N{EN DASH}{high:.2f}"
