"""The frontier in a terminal: a short table, and what a reader has to know besides."""

from __future__ import annotations

from typing import Protocol

import pandas as pd

from raydrop.frontier.points import has_several_models, rows_of, series_name, setting_name
from raydrop.frontier.records import Records
from raydrop.frontier.table import AVERAGE, WORST, front_mark

TIMES = "\N{MULTIPLICATION SIGN}"
REMARKED_REASONS = 3
"""Sentences with which trials failed that a remark quotes after the first; others are counted."""


class _Tabled(Protocol):
    """A frontier, or an overlay of several."""

    @property
    def table(self) -> pd.DataFrame: ...


def summary_table(frontier: _Tabled) -> dict[str, pd.DataFrame]:
    """Return the frontier as short texts for a terminal, by loss or by model and loss.

    Returns:
        For each loss (``"cross_entropy"``; with several models ``"resnet18, cross_entropy"``), a
        row per method and quotas (such as ``"random + drop"``, or ``"moso + none from resnet50"``
        where scores come from another model), the best mean worst class (or group) first, and a
        column per keep fraction with ``"average/worst class"``. A point on the Pareto front carries
        a full dot, one on the front of its keep fraction alone an empty one. Where several studies
        are laid over each other, a row's name begins with that of its study.
    """
    rows, several = rows_of(frontier.table), has_several_models(frontier.table)
    points = frontier.table.assign(
        setting=[setting_name(row, several_models=several) for row in rows],
        series=[series_name(row) for row in rows],
        text=[f"{row[AVERAGE]:.2f}/{row[WORST]:.2f}{front_mark(row)}" for row in rows],
    )
    tables = {}
    for setting, group in points.groupby("setting"):
        merit = group.groupby("series")[WORST].mean()
        order = merit.sort_values(ascending=False, kind="stable").index
        texts = group.pivot_table("text", "series", "keep_fraction", aggfunc="first")
        tables[str(setting)] = texts.loc[order].fillna("")
    return tables


def remarks(records: Records) -> list[str]:
    """Return what a reader of the table has to know besides: a sentence each, often none.

    Trials that failed, with the first reason, and how many for which where there are several;
    trials that are missing; finished trials of the folder that the study does not ask for; trials
    whose batches were cut; processes that died and were replaced.
    """
    facts, missing = records.provenance, len(records.missing)
    others, cut = facts["trials_of_other_studies"], facts.get("cut_trials", 0)
    deaths = facts.get("worker_deaths", 0)
    told = {
        _failures(records): bool(records.failures),
        f"{missing} trials are missing and not in the table, so its front may be another; 'raydrop "
        "run' with this folder computes them.": missing,
        f"{others} finished trials in this folder are not part of this study and are left "
        "out.": others,
        f"{cut} trials had their batches cut, into {facts.get('most_parts')} parts at most, "
        "because memory ran out; gradients are those of whole batches, but for losses that divide "
        "by a batch's weights, and BatchNorm's statistics are those of the parts.": cut,
        f"{deaths} worker processes died in this folder's runs and were replaced; what they had "
        "not finished was done again, and no number depends on it.": deaths,
    }
    return [sentence for sentence, applies in told.items() if applies]


def _failures(records: Records) -> str:
    """Say how many trials failed, and with which sentences."""
    if not records.failures:
        return ""
    first, reasons = records.failures[0], records.failure_reasons
    name = series_name(first) + (f" for {first['model']}" if records.several_models else "")
    sentence = (
        f"{len(records.failures)} trials failed and are not in the table; the first: {name} at "
        f"{first['keep_fraction']:g}, seed {first['seed']}: {first['message']}"
    )
    own = reasons.pop(str(first["message"]))
    if not reasons:
        return sentence
    told = [f"{own} for this reason"]
    for reason, count in list(reasons.items())[:REMARKED_REASONS]:
        told.append(f"{count}{TIMES} {reason.rstrip('.')}")
    if (more := len(reasons) - REMARKED_REASONS) > 0:
        told.append(f"{more} further reasons")
    return f"{sentence} ({'; '.join(told)})"
