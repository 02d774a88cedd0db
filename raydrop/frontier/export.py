"""The table of a paper: methods and quotas as rows, keep fractions as groups of columns.

CSV and Parquet hold the numbers as they are, a column for each; LaTeX is to be read, in percent
with one decimal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raydrop.errors import ConfigError, unknown_name, visible
from raydrop.frontier.points import (
    has_several_models,
    rows_of,
    series_name,
    setting_name,
    target_place,
)
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.table import AVERAGE, WORST, table_of
from raydrop.frontier.units import column
from raydrop.store import Place
from raydrop.store.files import csv_text, parquet_bytes

SUFFIXES = {"csv": "csv", "parquet": "parquet", "latex": "tex"}
"""Formats, and how their files are called by default: ``table.csv`` and so on."""

ROW = (
    *("model", "loss", "network_method", "network_target", "network_sparsity", "method", "quotas"),
    "query_model",
)
"""What tells rows apart: everything that distinguishes points except the keep fraction. The
sparsity is a mean over keep fractions of what was measured."""


@dataclass(frozen=True, eq=False)
class Export:
    """A table that was written, of points as :func:`~raydrop.frontier.table.frontier_table`."""

    records: Records
    table: pd.DataFrame
    path: Path
    called: str
    """Where it is, for people."""


def export_table(
    directory: str | Path, kind: str, out: str | Path | None = None, by: str | None = None
) -> Export:
    """Write a study's table for a paper, as ``csv``, ``parquet`` or ``latex``.

    It is ``table.csv``, ``table.parquet`` or ``table.tex`` in the study's folder where ``out`` is
    None, and about classes or groups as :func:`~raydrop.frontier.records.load_records` takes
    ``by``, whose errors it raises, or a ``ConfigError`` if ``kind`` does not exist.
    """
    if kind not in SUFFIXES:
        raise unknown_name("value of --format", kind, SUFFIXES)
    records = load_records(directory, by)
    table = table_of(records)
    place, name = records.place, f"table.{SUFFIXES[kind]}"
    if out is not None:
        place, name = Place(Path(out).parent), Path(out).name
    if (place.folder / name).is_dir():
        folder = place.folder / name
        raise ConfigError(
            f"Expected a file to write for --out, found the folder {folder}; name one."
        )
    if kind == "latex":
        content = latex_table(table).encode()
    else:
        wide = wide_table(table)
        content = csv_text(wide).encode() if kind == "csv" else parquet_bytes(wide)
    place.make()
    return Export(records, table, place.write(name, content), place.called(name, here=True))


def wide_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method and quotas, with every keep fraction's numbers in columns.

    Columns are :data:`ROW`, and for each keep fraction, such as 0.2, ``keep_0.2_n_seeds`` and
    ``keep_0.2_average_accuracy`` and ``keep_0.2_worst_class_accuracy``, means over seeds in [0, 1],
    each also with ``_min`` and ``_max``, the lowest and the highest seed; NaN where a row has no
    such point. Training on all the data is at keep fraction 1, first of its model, loss and
    network; random pruning follows. The table is about one data set.
    """
    values = ["n_seeds"]
    for name in _measures(table):
        values += [name, f"{name}_min", f"{name}_max"]
    rows = [name for name in ROW if name != "network_sparsity"]
    sparsity = table.groupby(rows, dropna=False)["network_sparsity"].transform("mean")
    table = table.assign(network_sparsity=sparsity)
    wide = table.pivot(index=list(ROW), columns="keep_fraction", values=values)
    keeps = sorted(table["keep_fraction"].unique())
    flat = {_column(keep, name): wide[name][keep] for keep in keeps for name in values}
    whole = {_column(keep, "n_seeds"): "Int64" for keep in keeps}
    result = pd.DataFrame(flat).astype(whole).reset_index()
    found = rows_of(result)
    order = sorted(range(len(found)), key=lambda row: _place(found[row]))
    return result.iloc[order].reset_index(drop=True)


def latex_table(table: pd.DataFrame) -> str:
    r"""Return a ``tabular`` for a paper; it needs ``\usepackage{booktabs}``.

    Accuracies are percentages: the mean over seeds and, small, the lowest and the highest seed,
    if there are several. The best mean of each column is bold, within its model, loss and network
    target, with all that print alike, unless all are equal. Training on all the data has no keep
    fraction to stand under, so it spans them.
    """
    wide, several = wide_table(table), has_several_models(table)
    pruned = table[table["method"] != "none"]
    keeps = sorted(float(keep) for keep in pruned["keep_fraction"].unique())
    columns = [(keep, name) for keep in keeps for name in _measures(table)]
    blocks = list(wide.groupby(["model", "loss", "network_target"], sort=False))
    lines = [*_preamble(table), rf"\begin{{tabular}}{{l{'r' * len(columns) or 'l'}}}", r"\toprule"]
    lines += _header(keeps, table["unit"].iloc[0])
    for _, rows in blocks:
        lines.append(r"\midrule")
        if len(blocks) > 1:
            title = escape(setting_name(rows.iloc[0].to_dict(), several_models=several))
            lines.append(rf"\multicolumn{{{1 + len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        lines += _body(rows, columns, _measures(table))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escape(text: str) -> str:
    r"""Return a text so that LaTeX sets it as it is, such as ``cdb\_w``, on one line."""
    return "".join(_ESCAPES.get(character, character) for character in visible(text))


_ESCAPES = {
    **{character: f"\\{character}" for character in "_&%$#{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"{{{character}}}" for character in "[*"},  # \\ would take these for its own
}


def _place(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Order rows: by model and loss, all the data first, random next, no quotas before others."""
    method, quotas = row["method"], row["quotas"]
    network = (target_place(row["network_target"]), row["network_method"])
    first = (method != "none", method != "random", method, row["query_model"])
    return row["model"], row["loss"], *network, *first, quotas != "none", quotas


def _preamble(table: pd.DataFrame) -> list[str]:
    """Say in comments what the numbers are, since a caption is the author's."""
    unit = table["unit"].iloc[0]
    fewest, most = table["n_seeds"].min(), table["n_seeds"].max()
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    seeds += " seed" if most == 1 else " seeds"
    names = visible(", ".join(sorted(table["dataset"].unique())))  # a comment ends with its line
    return [
        rf"% {names}: average and worst-{unit} accuracy in percent, mean over {seeds};",
        rf"% small: lowest to highest seed. The worst {unit} is each seed's own. Bold: best of its",
        r"% column. Needs \usepackage{booktabs}.",
    ]


def _header(keeps: list[float], unit: str) -> list[str]:
    groups = [rf"\multicolumn{{2}}{{c}}{{keep {keep:g}}}" for keep in keeps]
    rules = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(groups))]
    names = ["method + quotas", *["average", f"worst {unit}"] * len(groups)]
    head = [" & ".join(["", *groups]).lstrip() + r" \\", " ".join(rules)] if groups else []
    return [*head, " & ".join(names) + r" \\"]


def _measures(table: pd.DataFrame) -> tuple[str, str]:
    return AVERAGE, column(WORST, table["unit"].iloc[0])


def _body(
    rows: pd.DataFrame, columns: list[tuple[float, str]], measures: tuple[str, str]
) -> list[str]:
    pruned = rows[rows["method"] != "none"]
    best = {each: _best(pruned[_column(*each)]) for each in columns}
    lines = []
    for row in rows_of(rows):
        name = escape(series_name(row))
        if row["method"] == "none":
            average, worst = (_cell(row, 1.0, measure) for measure in measures)
            text = f"average {average}, worst {worst}"
            cells = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{text}}}" if columns else text]
        else:
            cells = [_cell(row, *each, best[each]) for each in columns]
        lines.append(" & ".join([name, *cells]) + r" \\")
    return lines


def _best(values: pd.Series[float]) -> float | None:
    """Return the highest value, or None where all are equal, so that none stands out."""
    highest = float(values.max())
    return highest if values.min() < highest else None


def _column(keep: float, measure: str) -> str:
    return f"keep_{keep:g}_{measure}"


def _cell(row: Mapping[Any, Any], keep: float, measure: str, best: float | None = None) -> str:
    """Return a mean and the range of its seeds, in percent; a dash where there is nothing."""
    place = _column(keep, measure)
    mean = row[place]
    if pd.isna(mean):
        return "--"
    text = f"{100 * mean:.1f}"
    if best is not None and text == f"{100 * best:.1f}":
        text = rf"\textbf{{{text}}}"
    if row[_column(keep, "n_seeds")] < 2:
        return text
    low, high = (100 * row[f"{place}_{end}"] for end in ("min", "max"))
    return rf"{text} {{\scriptsize {low:.1f}--{high:.1f}}}"
