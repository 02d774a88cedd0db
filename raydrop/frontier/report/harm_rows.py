"""What pruning harms, as the report shows it: a table, and pictures of what is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from raydrop.frontier.points import point_name
from raydrop.frontier.records import Records
from raydrop.frontier.report.lost import lost_facts, lost_images
from raydrop.frontier.report.tables import Cell, cell
from raydrop.study import By

SHOWN = 300
"""Rows; all are in ``harm.csv``."""
MINUS = "\N{MINUS SIGN}"
AGAINST = {"network": "the dense networks", "data": "all the data"}
"""What a point is compared with."""

Row = Mapping[Any, Any]


def harm_facts(records: Records, harmed: pd.DataFrame | None, by: By) -> dict[str, Any]:
    """Return ``harm`` and ``lost``, what the report's template shows; None where there is none.

    Args:
        records: What is known about the study.
        harmed: As from :func:`~raydrop.frontier.harm.harm_table`, or None.
        by: Whether it is about classes or groups.
    """
    lost = lost_images(records)
    table = None if harmed is None or harmed.empty else harm_section(records, harmed, by)
    return {"harm": table, "lost": None if lost is None else lost_facts(lost)}


def harm_section(records: Records, harmed: pd.DataFrame, by: By) -> dict[str, Any]:
    """Return headings and rows, the largest excess accuracy gap first.

    Args:
        records: Tells whether models have to be named.
        harmed: As from :func:`~raydrop.frontier.harm.harm_table`, not empty.
        by: Whether it is about classes or groups.
    """
    order = ["excess_accuracy_gap", "exemplar_share"]
    shown = harmed.sort_values(order, ascending=False, kind="stable").head(SHOWN)
    columns = {
        name: column
        for name, column in _columns(by, several_models=records.several_models).items()
        if "AUC" not in name or shown["worst_auc"].notna().any()
    }
    rows = shown.to_dict("records")
    return {
        "columns": [{"name": name, "text": is_text} for name, (is_text, _) in columns.items()],
        "rows": [[made(row) for _, made in columns.values()] for row in rows],
        "hidden": len(harmed) - len(shown),
        "one_seed": bool((harmed["n_seeds"] == 1).any()),
        "data": bool((harmed["pruned"] == "data").any()),
    }


Column = tuple[bool, Callable[[Row], Cell]]


def _columns(by: By, *, several_models: bool) -> dict[str, Column]:
    """Return whether a column is text, and what makes its cells, by its heading."""
    return {
        "point": (True, lambda row: _text(point_name(row, several_models=several_models))),
        "against": (True, lambda row: _text(AGAINST[row["pruned"]])),
        "seeds": (False, lambda row: cell(row["n_seeds"], row["n_seeds"])),
        "excess gap": (False, _gap),
        f"most harmed {by}": (True, lambda row: _text(row["most_harmed"])),
        f"change of worst {by}": (False, lambda row: _change(row["worst_accuracy_change"])),
        "change of average": (False, lambda row: _change(row["average_accuracy_change"])),
        "worst AUC": (False, lambda row: _area(row["worst_auc"])),
        "change of worst AUC": (False, lambda row: _change(row["worst_auc_change"])),
        "exemplars": (False, _exemplars),
        f"… of worst {by}": (False, lambda row: _share(row["exemplar_share_of_worst"])),
    }


def _text(value: Any) -> Cell:
    return cell(value, value, left=True)


def _gap(row: Row) -> Cell:
    found = _change(row["excess_accuracy_gap"])
    if row["n_seeds"] > 1:
        ends = (_signed(row[f"excess_accuracy_gap_{end}"]) for end in ("low", "high"))
        found["range"] = f"({' to '.join(ends)})"
    return found


def _exemplars(row: Row) -> Cell:
    share = f"({100 * row['exemplar_share']:.1f} %)"
    return cell(row["n_exemplars"], row["n_exemplars"], share)


def _share(value: float) -> Cell:
    return cell("", "") if pd.isna(value) else cell(value, f"{100 * value:.1f} %")


def _area(value: float) -> Cell:
    return cell("", "") if pd.isna(value) else cell(value, f"{value:.3f}")


def _change(value: float) -> Cell:
    return cell("", "") if pd.isna(value) else cell(value, _signed(value))


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", MINUS)
