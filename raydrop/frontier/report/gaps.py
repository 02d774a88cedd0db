"""What a report cannot show: trials that failed or are missing, thin points, absent references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from raydrop.frontier.points import DENSE, has_several_models, point_name, setting_name
from raydrop.frontier.records import Records

SHOWN_LINES = 200
"""Lines behind a sentence; the others are counted."""

ONE_SEED = (
    "One seed only: how much results vary from seed to seed cannot be known. Every number, "
    "interval and front here is about these networks, not about the methods; run the sweep with "
    "more seeds."
)

Line = dict[str, str]


def gaps(records: Records, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what is not there, or not known: a ``text`` each, and the ``lines`` behind it.

    Args:
        records: What is known about the study.
        table: Its points, from :func:`~raydrop.frontier.table.frontier_table`.

    Returns:
        Sentences in the order of their weight; each line has a ``trial`` and a ``message``, at most
        :data:`SHOWN_LINES` of them. Empty where nothing is amiss.
    """
    asked, several = records.provenance["trials_asked"], records.several_models
    found = (
        (
            f"Failed: {{}} of {asked} trials; running the sweep again retries them.",
            _trial_lines(records.failures, several),
        ),
        (f"Not finished: {{}} of {asked} trials.", _trial_lines(records.missing, several)),
        (
            "Damaged entries, set aside: {}; running the sweep again replaces them.",
            _damaged_lines(records, several),
        ),
        (
            "Points with fewer seeds than others: {}; their means are noisier.",
            _thin_lines(table, several),
        ),
        (
            "Without training on all the data: {}; what pruning costs there is not known.",
            _without_reference(table),
        ),
        (
            "Without their dense network: {}; what pruning the network costs there is not known.",
            _without_dense(table, several),
        ),
        (
            "Network targets that were not reached: {} trials; what was measured counts.",
            _notes(records.trials, several),
        ),
    )
    told = [
        {"text": text.format(len(lines)), "lines": _some(lines)} for text, lines in found if lines
    ]
    return told + ([{"text": ONE_SEED, "lines": []}] if table["n_seeds"].max() == 1 else [])


def _some(lines: list[Line]) -> list[Line]:
    if len(lines) <= SHOWN_LINES:
        return lines
    more = {"trial": f"and {len(lines) - SHOWN_LINES} more", "message": ""}
    return [*lines[:SHOWN_LINES], more]


def _thin_lines(table: pd.DataFrame, several: bool) -> list[Line]:
    most = table["n_seeds"].max()
    return [
        {
            "trial": point_name(row, several_models=several),
            "message": f"{row['n_seeds']} of {most} seeds",
        }
        for row in table[table["n_seeds"] < most].to_dict("records")
    ]


def _without_reference(table: pd.DataFrame) -> list[Line]:
    """Return the settings in which something is pruned and nothing keeps all the data."""
    several = has_several_models(table)
    lines = []
    for _, points in table[_is_dense(table)].groupby(["model", "loss"], sort=True):
        if (points["method"] != "none").all():
            name = setting_name(points.iloc[0].to_dict(), several_models=several)
            lines.append({"trial": name, "message": ""})
    return lines


def _is_dense(table: pd.DataFrame) -> pd.Series[bool]:
    return table["network_target"] == DENSE


def _without_dense(table: pd.DataFrame, several: bool) -> list[Line]:
    """Return the pruned networks whose data no dense network was trained on."""
    data = ["dataset", "model", "query_model", "method", "quotas", "keep_fraction", "budget"]
    dense = set(table.loc[_is_dense(table), data].itertuples(index=False, name=None))
    pruned = table[~_is_dense(table)]
    keys = pruned[data].itertuples(index=False, name=None)
    return [
        {"trial": point_name(row, several_models=several), "message": ""}
        for row, key in zip(pruned.to_dict("records"), keys, strict=True)
        if key not in dense
    ]


def _notes(trials: pd.DataFrame, several: bool) -> list[Line]:
    """Return the trials whose networks could not be pruned as far as was asked."""
    noted = trials[trials["network_note"].fillna("") != ""]
    return [
        {"trial": _trial_name(row, several), "message": str(row["network_note"])}
        for row in map(_by_name, noted.to_dict("records"))
    ]


def _by_name(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _damaged_lines(records: Records, several: bool) -> list[Line]:
    trials = {f"trial/{trial['trial_id']}": trial for trial in records.missing}
    return [
        {"trial": name, "message": _trial_name(trials[name], several) if name in trials else ""}
        for name in records.damaged
    ]


def _trial_lines(trials: Iterable[Mapping[str, Any]], several: bool) -> list[Line]:
    return [
        {"trial": _trial_name(trial, several), "message": str(trial.get("message", ""))}
        for trial in trials
    ]


def _trial_name(trial: Mapping[str, Any], several: bool) -> str:
    return f"{point_name(trial, several_models=several)}, seed {trial['seed']}"
