"""One offline HTML file: the answer, the figures, every number, and what is missing.

The page loads nothing: figures are inline SVG, style and script are its own, and a content security
policy forbids the rest. All names and messages are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.frontier.answers import answers, noise_answer, verdicts
from raydrop.frontier.names import PLURALS, has_several_models, point_name, scorer_name
from raydrop.frontier.noise import Noise, noise_of
from raydrop.frontier.plots import frontier_figure, keep_fraction_figure, noise_figure, to_svg
from raydrop.frontier.records import Records
from raydrop.frontier.table import by_merit, front_mark, gap_and_std, mean_recalls, worst_accuracy
from raydrop.study import By

SHOWN_ANSWERS = 6
SHOWN_CLASSES = 100

Cell = dict[str, Any]

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("raydrop.frontier"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


def render_report(
    records: Records,
    table: pd.DataFrame,
    drawn: Mapping[str, bytes] | None = None,
    by: By = "class",
) -> str:
    """Return the report as HTML.

    Args:
        records: What is known about the study.
        table: Its points, from :func:`~raydrop.frontier.table.frontier_table`.
        drawn: SVG files by what they show: ``frontier`` and ``curves``, which are drawn here where
            they are absent, ``densities`` and ``correlations``, which are left out.
        by: Whether worst cases are classes or groups.
    """
    svgs = {"frontier": b"", "curves": b"", **(drawn or {})}
    svgs["frontier"] = svgs["frontier"] or to_svg(frontier_figure(table, by))
    svgs["curves"] = svgs["curves"] or to_svg(keep_fraction_figure(table, by))
    recalls = mean_recalls(records.trials, by)
    ordered = by_merit(table, by)
    several = has_several_models(table)
    names, sizes = records.names(by), records.sizes(by)
    shown = _shown_classes(recalls)
    return _templates.get_template("report.html").render(
        title=f"{records.provenance['name']}: average against worst-{by} accuracy",
        unit=by,
        units=PLURALS[by],
        measure=MEASURES[by],
        verdicts=verdicts(table, by),
        answers=answers(table, by),
        shown_answers=SHOWN_ANSWERS,
        warnings=_warnings(records, table),
        figures=_inlined(svgs, by),
        noise=_noise(noise_of(records.trials)),
        columns=_point_columns(by, several_models=several),
        points=[_point_cells(row, by, several) for row in ordered.to_dict("records")],
        classes=[{"name": names[k], "size": sizes[k]} for k in shown],
        hidden_classes=len(names) - len(shown),
        by_class=_class_rows(ordered, recalls[ordered.index], shown, several),
        n_classes=len(names),
        other_unit=_other_unit(records, by),
        test_sizes=_span(records.trials[f"test_by_{by}"].iloc[0]),
        provenance=_provenance(records),
    )


def inline_svg(svg: bytes, prefix: str, description: str) -> str:
    """Return an SVG file as an element for an HTML page that holds several.

    Args:
        svg: A file that Matplotlib wrote.
        prefix: Put before every id, since ids must differ between the figures of a page.
        description: What a screen reader says.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(description)}">{rest}'


MEASURES: dict[By, str] = {"class": "recall", "group": "accuracy"}
"""What the share of correct test samples is called."""

DESCRIPTIONS = {
    "frontier": "Worst-{by} against average accuracy",
    "curves": "Accuracies against the keep fraction",
    "densities": "Sorted densities: the share of each {by} that is kept",
    "correlations": "Accuracy of each {by} on all the data against its density",
}
"""What a screen reader says of each figure."""


def _inlined(svgs: Mapping[str, bytes], by: By) -> dict[str, str]:
    """Return the figures as elements of the page, by what they show."""
    return {
        name: inline_svg(svg, name, DESCRIPTIONS[name].format(by=by)) for name, svg in svgs.items()
    }


def _other_unit(records: Records, by: By) -> By | None:
    """Return what the report could be about instead, or None where the data have no groups."""
    if not records.group_names:
        return None
    return "class" if by == "group" else "group"


POINT_COLUMNS = (
    {"name": "front", "text": True},
    {"name": "model", "text": True},
    {"name": "method", "text": True},
    {"name": "quotas", "text": True},
    {"name": "loss", "text": True},
    {"name": "keep fraction", "text": False},
    {"name": "kept", "text": False},
    {"name": "seeds", "text": False},
    {"name": "worst {by}", "text": False},
    {"name": "95 % interval", "text": False},
    {"name": "worst is", "text": True},
    {"name": "average", "text": False},
    {"name": "gap", "text": False},
    {"name": "std", "text": False},
)


def _point_columns(by: By, *, several_models: bool) -> list[dict[str, Any]]:
    return [
        column | {"name": str(column["name"]).format(by=by)}
        for column in POINT_COLUMNS
        if several_models or column["name"] != "model"
    ]


def _point_cells(row: Mapping[Any, Any], by: By, several_models: bool) -> list[Cell]:
    mark = front_mark(row)
    names = [scorer_name(row), row["quotas"], row["loss"]]
    if several_models:
        names.insert(0, row["model"])
    low, high = row[f"worst_{by}_low"], row[f"worst_{by}_high"]
    gap, std = (row[name] for name in gap_and_std(by))
    return [
        {**_cell(" ○●".index(mark or " "), mark, left=True), "best": True},
        *(_cell(name, name, left=True) for name in names),
        _cell(row["keep_fraction"], f"{row['keep_fraction']:g}"),
        _cell(row["n_kept"], f"{row['n_kept']:.0f}"),
        _cell(row["n_seeds"], row["n_seeds"]),
        _with_range(row, worst_accuracy(by)),
        _cell(low, f"{low:.3f} to {high:.3f}"),
        _cell(row[f"worst_{by}"], row[f"worst_{by}"], left=True),
        _with_range(row, "average_accuracy"),
        _cell(gap, f"{gap:.3f}"),
        _cell(std, f"{std:.3f}"),
    ]


def _with_range(row: Mapping[Any, Any], name: str) -> Cell:
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return _cell(row[name], f"{row[name]:.3f}", f"[{low:.3f}, {high:.3f}]")


def _cell(value: Any, text: Any, range_: str = "", *, left: bool = False) -> Cell:
    return {"value": value, "text": text, "range": range_, "text_align": left, "best": False}


def _shown_classes(recalls: NDArray[np.float64]) -> list[int]:
    """Return the classes with columns of their own: all, or those that fall lowest anywhere."""
    lowest = np.where(np.isnan(recalls), np.inf, recalls).min(axis=0)
    shown = np.argsort(lowest, kind="stable")[:SHOWN_CLASSES]
    return sorted(int(k) for k in shown)


def _class_rows(
    table: pd.DataFrame,
    recalls: NDArray[np.float64],
    classes: Sequence[int],
    several_models: bool,
) -> list[dict[str, Any]]:
    names = [point_name(row, several_models=several_models) for row in table.to_dict("records")]
    return [
        {"name": name, "cells": [_recall(values, k) for k in classes]}
        for name, values in zip(names, recalls, strict=True)
    ]


def _recall(values: NDArray[np.float64], k: int) -> Cell:
    if np.isnan(values[k]):
        return {"text": "none", "share": 0, "lowest": False}
    share = f"{100 * values[k]:.0f}"
    lowest = bool(values[k] == np.nanmin(values))
    return {"text": f"{values[k]:.3f}", "share": share, "lowest": lowest}


def _noise(noise: Noise | None) -> dict[str, Any] | None:
    """Return what the template needs to show how much of the label noise each series prunes."""
    if noise is None:
        return None
    keeps = sorted(noise.points["keep_fraction"].unique(), reverse=True)
    uniform = [_cell(1 - keep, f"{1 - keep:.3f}") for keep in keeps]
    return {
        "n_noisy": noise.n_noisy,
        "n_train": noise.n_train,
        "percent": f"{100 * noise.n_noisy / noise.n_train:.3g}",
        "answer": noise_answer(noise.points),
        "keeps": [f"{keep:g}" for keep in keeps],
        "rows": [
            {"name": "uniform draw, on average", "cells": uniform},
            *_noise_rows(noise, keeps),
        ],
        "svg": inline_svg(
            to_svg(noise_figure(noise.points)),
            "noise",
            "Share of the mislabelled samples that is pruned, against the keep fraction",
        ),
    }


def _noise_rows(noise: Noise, keeps: Sequence[float]) -> list[dict[str, Any]]:
    """Return a row per series, in the order of the points, a cell per keep fraction."""
    best = noise.points.groupby("keep_fraction")["noisy_pruned"].max()
    rows = []
    for name, series in noise.points.groupby("name", sort=False):
        there = {row["keep_fraction"]: row for row in series.to_dict("records")}
        cells = [
            _noise_cell(there[keep], best[keep]) if keep in there else _cell("", "")
            for keep in keeps
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _noise_cell(row: Mapping[Any, Any], best: float) -> Cell:
    cell = _with_range(row, "noisy_pruned")
    if row["n_seeds"] == 1:
        cell["range"] = ""
    return cell | {"best": row["noisy_pruned"] == best}


def _warnings(records: Records, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what is not there: a sentence each, and the lines behind it."""
    asked = records.provenance["trials_asked"]
    failed, missing = (
        _trial_lines(records, records.failures),
        _trial_lines(records, records.missing),
    )
    most = table["n_seeds"].max()
    thin = table[table["n_seeds"] < most].to_dict("records")
    found = (
        (f"Failed: {{}} of {asked} trials; running the sweep again retries them.", failed),
        (f"Not finished: {{}} of {asked} trials.", missing),
        (
            "Damaged entries, set aside: {}; running the sweep again replaces them.",
            _damaged_lines(records),
        ),
        (
            "Points with fewer seeds than others: {}; their means are noisier.",
            [
                {
                    "trial": point_name(row, several_models=records.several_models),
                    "message": f"{row['n_seeds']} of {most} seeds",
                }
                for row in thin
            ],
        ),
    )
    return [{"text": text.format(len(lines)), "lines": lines} for text, lines in found if lines]


def _damaged_lines(records: Records) -> list[dict[str, str]]:
    trials = {f"trial/{trial['trial_id']}": trial for trial in records.missing}
    return [
        {"trial": name, "message": _trial_name(records, trials[name]) if name in trials else ""}
        for name in records.damaged
    ]


def _trial_name(records: Records, trial: Mapping[str, Any]) -> str:
    name = point_name(trial, several_models=records.several_models)
    return f"{name}, seed {trial['seed']}"


def _trial_lines(records: Records, trials: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {"trial": _trial_name(records, trial), "message": str(trial.get("message", ""))}
        for trial in trials
    ]


def _provenance(records: Records) -> list[tuple[str, str]]:
    facts = records.provenance
    sizes = ", ".join(f"{facts[f'n_{split}']} {split}" for split in SPLITS)
    rows = [
        ("study", f"{facts['name']}, id {facts['study_id']}"),
        ("base id", facts["base_id"]),
        ("data", f"{facts['dataset']}, fingerprint {facts['data_fingerprint']}"),
        ("model", ", ".join(sorted(records.trials["model"].unique()))),
        ("scores from", _query_models(records.trials)),
        ("split sizes", sizes),
        ("seeds", ", ".join(str(seed) for seed in facts["seeds"])),
        ("quotas and weights by", records.by if records.group_names else ""),
        ("training budget", ", ".join(sorted(records.trials["budget"].unique()))),
        *((name, _cost(*facts["costs"][kind])) for name, kind in STAGES),
        ("device", ", ".join(facts["devices"])),
        ("precision", ", ".join(facts["precisions"])),
        ("versions", ", ".join(f"{name} {v}" for name, v in sorted(facts["versions"].items()))),
        ("started", facts["created"]),
    ]
    others = facts["trials_of_other_studies"]
    if others:
        rows.append(("not shown", f"{others} trials in the store that this study does not ask for"))
    return [(name, str(value)) for name, value in rows if value]


def _query_models(trials: pd.DataFrame) -> str:
    """Return the models that scores come from, or nothing where each model scores for itself."""
    other = trials["query_model"] != trials["model"]
    if not other.any():
        return ""
    scored = other | ~trials["method"].isin(["none", "random"])
    return ", ".join(sorted(trials.loc[scored, "query_model"].unique()))


SPLITS = ("train", "validation", "test")
STAGES = (("query runs", "query"), ("scores", "scores"), ("trials", "trial"))


def _cost(count: int, seconds: float) -> str:
    """Return a count with its time, in the unit that suits."""
    for unit, length in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{count} in {seconds / length:.1f} {unit}"
    return f"{count} in {seconds:.1f} seconds"


def _span(values: Sequence[int]) -> str:
    sizes = [size for size in values if size]
    if min(sizes) == max(sizes):
        return str(sizes[0])
    return f"{min(sizes)} to {max(sizes)}"
