"""One offline HTML file: the answer, the figures, every number, and what is missing.

The page loads nothing: Plotly and the page's own script and style are in it, static figures are
inline SVG, and a content security policy forbids all else, other scripts included. All names and
messages are escaped. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raydrop.frontier.figures.inline import inline_png, inline_svg, with_lossy_images
from raydrop.frontier.figures.interactive import FULL, interactive_frontier, quotas_key
from raydrop.frontier.figures.plots import (
    SeriesStyle,
    frontier_figure,
    keep_fraction_figure,
    noise_figure,
    to_svg,
)
from raydrop.frontier.points import PLURALS, has_networks
from raydrop.frontier.records import Records
from raydrop.frontier.report.answers import answers, noise_answer, verdicts
from raydrop.frontier.report.gaps import gaps
from raydrop.frontier.report.harm_rows import harm_facts
from raydrop.frontier.report.network_sentences import network_answers
from raydrop.frontier.report.sentences import comparison_answers
from raydrop.frontier.report.tables import (
    STEPS,
    Cell,
    cell,
    chosen_points,
    point_columns,
    point_rows,
    recall_changes,
    recall_rows,
    shown_classes,
    with_forward_times,
    with_range,
)
from raydrop.frontier.statistics.noise import Noise, noise_of
from raydrop.frontier.table import by_merit, mean_recalls
from raydrop.study import By

SHOWN_ANSWERS = 6
MOST_ANSWERS = 100
TIMES = "\N{MULTIPLICATION SIGN}"
SHOWN_REASONS = 8
"""Sentences with which trials failed; the others are counted."""
LARGEST = 5_950_000
"""Bytes of the page. Figures that would make it larger are left to the files beside it."""

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("raydrop.frontier.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)
_templates.policies["json.dumps_kwargs"] = {
    "allow_nan": False,
    "ensure_ascii": False,
    "separators": (",", ":"),
}


def render_report(
    records: Records,
    table: pd.DataFrame,
    drawn: Mapping[str, bytes] | None = None,
    by: By = "class",
    compared: pd.DataFrame | None = None,
    harmed: pd.DataFrame | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        records: What is known about the study.
        table: Its points, from :func:`~raydrop.frontier.table.frontier_table`.
        drawn: Figures, as SVG or PNG files, by what they show. ``frontier`` and ``curves`` are
            drawn here where they are absent; others are left out. Figures that would make the page
            larger than :data:`LARGEST` are named in it and not shown.
        by: Whether worst cases are classes or groups.
        compared: Differences between methods, from
            :func:`~raydrop.frontier.statistics.comparisons.comparisons`. They make the sentences at
            the top; where None or empty, these compare means.
        harmed: What pruning harms, from :func:`~raydrop.frontier.harm.harm_table`; None where no
            networks are pruned.
    """
    facts = _facts(records, table, by, compared)
    facts |= {"noise": _noise(noise_of(records.trials)), **_scripts()}
    facts |= harm_facts(records, harmed, by)
    figures = _figures(table, drawn or {}, by)
    template = _templates.get_template("report.html")
    empty = [figure | {"content": None} for figure in figures]
    room = LARGEST - len(template.render(facts, figures=empty, fallback="").encode())
    chosen = {figure["name"]: figure for figure in _fitting(figures, room)}
    fallback = chosen.pop("frontier")["content"] or ""
    return template.render(facts, figures=list(chosen.values()), fallback=fallback)


def _facts(
    records: Records, table: pd.DataFrame, by: By, compared: pd.DataFrame | None
) -> dict[str, Any]:
    """Return what the template is given besides figures and scripts."""
    recalls = mean_recalls(records.trials, by)
    changes = recall_changes(table, recalls)
    points = with_forward_times(chosen_points(by_merit(table)), records.trials)
    names, sizes = records.names(by), records.sizes(by)
    shown, style = shown_classes(recalls), SeriesStyle.of(table)
    interactive = interactive_frontier(points, by, style)
    rows = recall_rows(points, recalls[points.index], changes[points.index], shown)
    compares = compared is not None and len(compared) > 0
    return {
        "title": f"{records.provenance['name']}: average against worst-{by} accuracy",
        "unit": by,
        "units": PLURALS[by],
        "measure": MEASURES[by],
        "verdicts": verdicts(table, by),
        "answers": _answers(table, by, compared),
        "compares": compares,
        "shown_answers": SHOWN_ANSWERS,
        "warnings": gaps(records, table),
        "interactive": interactive,
        "filters": _filters(interactive, style),
        "columns": point_columns(points, by),
        "points": point_rows(points, by),
        "hidden_points": len(table) - len(points),
        "classes": [{"name": names[k], "size": sizes[k]} for k in shown],
        "hidden_classes": len(names) - len(shown),
        "by_class": rows,
        "hidden_rows": len(points) - len(rows),
        "has_changes": any(each["change"] for row in rows for each in row["cells"]),
        "steps": STEPS,
        "has_networks": has_networks(table),
        "n_classes": len(names),
        "n_points": len(table),
        "other_unit": _other_unit(records, by),
        "test_sizes": _span(records.trials[f"test_by_{by}"].iloc[0]),
        "provenance": _provenance(records),
    }


def _answers(table: pd.DataFrame, by: By, compared: pd.DataFrame | None) -> list[str]:
    if compared is None or compared.empty:
        return answers(table, by)[:MOST_ANSWERS]
    of_data = comparison_answers(compared, by) or answers(table, by)
    return [*network_answers(compared, by), *of_data][:MOST_ANSWERS]


def _scripts() -> dict[str, Any]:
    """Return the page's scripts and style, and the sources that its policy lets run."""
    # A parser turns other line ends into these before it hashes.
    library = get_plotlyjs().replace("\r\n", "\n")
    own, style = (_packaged(name) for name in ("report.js", "report.css"))
    return {
        "library": Markup(library),
        "script": Markup(own),
        "style": Markup(style),
        "sources": " ".join(_source(script) for script in (library, own)),
    }


def _packaged(name: str) -> str:
    return (resources.files("raydrop.frontier.report") / "templates" / name).read_text(
        encoding="utf-8"
    )


def _source(script: str) -> str:
    """Return a script as a source expression of a content security policy (W3C, CSP Level 3)."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


HEADINGS = {
    "model": "Model",
    "loss": "Loss",
    "method": "Method",
    "quotas": "Quotas",
    "network": "Network method",
    "sparsity": "Network target",
    "keep": "Keep fraction",
}
"""Of the filters."""


def _filters(interactive: Mapping[str, Any], style: SeriesStyle) -> list[dict[str, Any]]:
    """Return the filters that choose among something, and how their options look."""
    found = []
    for name, heading in HEADINGS.items():
        options = interactive["filters"][name]["options"]
        if len(options) > 1:
            shown = [
                {"label": option, **_key(name, option, interactive, style)} for option in options
            ]
            found.append({"name": name, "heading": heading, "options": shown})
    return found


def _key(
    name: str, option: str, interactive: Mapping[str, Any], style: SeriesStyle
) -> dict[str, Any]:
    """Return the colour (light and dark) or the line and marker that stand for an option."""
    colour, quotas = None, None
    if name == "method" and option != FULL:
        light = style.colour(option)
        colour = (light, interactive["dark"].get(light, light))
    if name == "network":
        light = style.colour("", option)
        colour = (light, interactive["dark"].get(light, light))
    if name == "quotas":
        quotas = quotas_key(option, style)
    return {"colour": colour, "quotas": quotas}


MEASURES: dict[By, str] = {"class": "recall", "group": "accuracy"}
"""What the share of correct test samples is called."""

FIGURES: dict[str, tuple[str, str, str]] = {
    "frontier": ("", "Worst-{unit} against average accuracy", ""),
    "network": (
        "Against the network's size",
        "Accuracies against the share of the multiply-accumulates that remain",
        "Lines are means over seeds, bands their lowest and highest value; the star is the dense "
        "network. Sizes are as measured. A network of which single weights are masked computes as "
        "much as before, so for these the share is that of the weights that remain.",
    ),
    "curves": (
        "Against the keep fraction",
        "Accuracies against the keep fraction",
        "Lines are means over seeds, bands their lowest and highest value.",
    ),
    "heatmap": (
        "Change of every {unit}, in one view",
        "Heat map: change of the {measure} of each {unit} by pruning",
        "Mean change over seeds in percentage points against training on all the data; the numbers "
        "above are the {measure} there.",
    ),
    "images": (
        "Images kept and pruned",
        "Training images that each method keeps first, and those that it prunes first",
        "Training images that each method keeps first and prunes first, a row for each {unit}.",
    ),
    "densities": (
        "What is kept of each {unit}",
        "Sorted densities: the share of each {unit} that is kept",
        "The share of the training samples of each {unit} that is kept, sorted within each line; a "
        "line that falls below its dotted level takes more from some {units} than from others, "
        "down to the number of samples at its end.",
    ),
    "correlations": (
        "Hard {units} and what is kept of them",
        "Accuracy of each {unit} on all the data against its density",
        "A point is a {unit}: left of others, less of it is kept; below others, it is harder even "
        "with all the data. A negative correlation means that more is kept of hard {units}; a "
        "dash, that there is none because all are kept alike.",
    ),
    "scores": (
        "How scores are distributed",
        "Histograms of the scores of each method",
        "Scores of all training samples; lines are where each keep fraction cuts without quotas.",
    ),
    "costs": (
        "What it costs",
        "Seconds of query runs, of scoring and of training",
        "Times on the machine of this study.",
    ),
}
"""The static figures in the order of the page: heading, what a screen reader says, caption. One
that is not here follows them under its own name; ``frontier`` is for pages without scripts."""


AS_TEXT = {"lost"}
"""Figures that the page has as pictures with captions of its own."""
FIT_LAST = ("heatmap", "frontier")
"""Figures that say again what a table or the interactive figure says; they get what room is left,
in this order."""
LOSSY_FROM = 250_000
"""Bytes from which on images lose some exactness in the page; the files beside it are exact."""


def _figures(table: pd.DataFrame, drawn: Mapping[str, bytes], by: By) -> list[dict[str, Any]]:
    """Return the static figures as elements of the page, in its order."""
    files = {"frontier": b"", "curves": b"", **drawn}
    files["frontier"] = files["frontier"] or to_svg(frontier_figure(table, by))
    files["curves"] = files["curves"] or to_svg(keep_fraction_figure(table, by))
    order = [name for name in FIGURES if name in files]
    order += sorted(set(files) - set(order) - AS_TEXT)
    return [_figure(name, f"f{place}", files[name], by) for place, name in enumerate(order)]


def _figure(name: str, prefix: str, file: bytes, by: By) -> dict[str, Any]:
    plain = name.replace("_", " ").capitalize()
    texts = FIGURES.get(name, (plain, plain, ""))
    heading, description, caption = (
        text.format(unit=by, units=PLURALS[by], measure=MEASURES[by]) if name in FIGURES else text
        for text in texts
    )
    is_png = file.startswith(b"\x89PNG")
    inlined = inline_png(file, description) if is_png else inline_svg(file, prefix, description)
    if name == "images" and len(inlined) >= LOSSY_FROM:
        inlined = with_lossy_images(inlined)
    return {
        "name": name,
        "file": f"{name}.{'png' if is_png else 'svg'}",
        "heading": heading,
        "description": description,
        "caption": caption,
        "content": Markup(inlined),
        "photographs": is_png or name == "images",
    }


def _fitting(figures: Sequence[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return figures, without the content of those for which there is no room.

    Args:
        figures: In the order of the page.
        room: Bytes that they may take.
    """
    kept = {}
    for figure in sorted(figures, key=_turn):
        size = len(figure["content"].encode())
        fits = size <= room
        room -= size if fits else 0
        kept[figure["name"]] = figure if fits else figure | {"content": None}
    return [kept[figure["name"]] for figure in figures]


def _turn(figure: Mapping[str, Any]) -> int:
    return FIT_LAST.index(figure["name"]) + 1 if figure["name"] in FIT_LAST else 0


def _other_unit(records: Records, by: By) -> By | None:
    """Return what the report could be about instead, or None where the data have no groups."""
    if not records.group_names:
        return None
    return "class" if by == "group" else "group"


def _noise(noise: Noise | None) -> dict[str, Any] | None:
    """Return what the template needs to show how much of the label noise each series prunes."""
    if noise is None:
        return None
    keeps = sorted(noise.points["keep_fraction"].unique(), reverse=True)
    uniform = [cell(1 - keep, f"{1 - keep:.3f}") for keep in keeps]
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
            _noise_cell(there[keep], best[keep]) if keep in there else cell("", "")
            for keep in keeps
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _noise_cell(row: Mapping[Any, Any], best: float) -> Cell:
    found = with_range(row, "noisy_pruned")
    if row["n_seeds"] == 1:
        found["range"] = ""
    return found | {"best": row["noisy_pruned"] == best}


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
    rows += [
        ("failed trials", _failed(records)),
        ("batches cut", _cut(facts)),
        ("processes replaced", _replaced(facts)),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _failed(records: Records) -> str:
    """Return how many trials failed and with which sentences, or nothing if none did."""
    if not records.failures:
        return ""
    reasons = list(records.failure_reasons.items())
    told = [f"{count}{TIMES} {reason.rstrip('.')}." for reason, count in reasons[:SHOWN_REASONS]]
    if more := len(reasons) - len(told):
        told.append(f"And {more} further reasons.")
    asked = records.provenance["trials_asked"]
    return f"{len(records.failures)} of {asked}: {' '.join(told)}"


def _cut(facts: Mapping[str, Any]) -> str:
    """Return how many trials had their batches cut, or nothing if none had."""
    cut = facts.get("cut_trials", 0)
    if not cut:
        return ""
    trials, most = facts["costs"]["trial"][0], facts["most_parts"]
    return f"in {cut} of {trials} trials, into {most} parts at most, because memory ran out"


def _replaced(facts: Mapping[str, Any]) -> str:
    """Return how many processes died, or nothing if none did."""
    deaths = facts.get("worker_deaths", 0)
    return f"{deaths}, which died while this folder was computed" if deaths else ""


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
