"""One offline HTML file: the answer, the figures, every number, and what is missing.

The page loads nothing: Plotly and the page's own script and style are in it, static figures are
inline SVG, and a content security policy forbids all else, other scripts included. All names and
messages are escaped. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
import PIL.Image
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.catalogue import FIGURES, MEASURES
from raydrop.frontier.figures.chart import frontier_chart
from raydrop.frontier.figures.frontier import noise_figure
from raydrop.frontier.figures.inline import inline_svg
from raydrop.frontier.figures.interactive import interactive_frontier, quotas_key
from raydrop.frontier.figures.looks import SeriesStyle
from raydrop.frontier.figures.pictures import TILE, LostImages, Pixels, lost_images
from raydrop.frontier.points import ALL, PLURALS, has_networks
from raydrop.frontier.records import Records
from raydrop.frontier.report.sentences import (
    answers,
    comparison_answers,
    gaps,
    network_answers,
    verdicts,
)
from raydrop.frontier.report.tables import (
    STEPS,
    chosen_points,
    harm_table_of,
    noise_table,
    points_table,
    recall_changes,
    recall_rows,
    shown_classes,
    with_forward_times,
)
from raydrop.frontier.sources import time_unit
from raydrop.frontier.statistics.densities import noise_of
from raydrop.frontier.summary import TIMES
from raydrop.frontier.table import by_merit, mean_recalls

SHOWN_ANSWERS = 6
MOST_ANSWERS = 100
SHOWN_REASONS = 8
"""Sentences with which trials failed; the others are counted."""
_NARROW = 400.0
"""Points of width below which a figure does not fill the page, or its letters would be huge."""
LARGEST = 5_950_000
"""Bytes of the page. Figures that would make it larger are left to the files beside it."""
FIT_LAST = ("heatmap", "frontier")
"""Figures that say again what a table or the interactive figure says; they get what room is left,
in this order."""
FILTERS = {
    "model": "Model",
    "loss": "Loss",
    "method": "Method",
    "quotas": "Quotas",
    "network": "Network method",
    "sparsity": "Network target",
    "keep": "Keep fraction",
}
"""The filters' headings."""

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
    compared: pd.DataFrame | None = None,
    harmed: pd.DataFrame | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        records: What is known about the study.
        table: Its points, from :func:`~raydrop.frontier.table.frontier_table`.
        drawn: SVG files of :data:`~raydrop.frontier.figures.catalogue.FIGURES`, by their names.
            Figures that would make the page larger than :data:`LARGEST` are named and not shown.
        compared: Differences between methods, from
            :func:`~raydrop.frontier.statistics.comparisons.comparisons`. They make the sentences at
            the top; where None or empty, these compare means.
        harmed: What pruning harms, from :func:`~raydrop.frontier.harm.harm_table`; None where no
            networks are pruned.
    """
    facts = _facts(records, table, compared) | _scripts()
    facts["harm"] = None
    if harmed is not None:
        facts["harm"] = harm_table_of(harmed, records.unit, records.several_models)
    template = _templates.get_template("report.html")
    figures = _figures(drawn or {}, records)
    empty = [figure | {"content": None} for figure in figures]
    room = LARGEST - len(template.render(facts, figures=empty, fallback="").encode())
    chosen = {figure["name"]: figure for figure in _fitting(figures, room)}
    fallback = chosen.pop("frontier", {"content": None})["content"] or ""
    return template.render(facts, figures=list(chosen.values()), fallback=fallback)


def _facts(records: Records, table: pd.DataFrame, compared: pd.DataFrame | None) -> dict[str, Any]:
    """Return what the template is given besides figures and scripts."""
    recalls, unit = mean_recalls(records.trials, records.unit), records.unit
    changes = recall_changes(table, recalls)
    points = with_forward_times(chosen_points(by_merit(table)), records.trials)
    names, sizes = records.names(), records.sizes()
    shown, style = shown_classes(recalls), SeriesStyle.of(table)
    interactive = interactive_frontier(frontier_chart(points, style))
    rows = recall_rows(points, recalls[points.index], changes[points.index], shown)
    compares = compared is not None and len(compared) > 0
    return {
        "title": f"{records.provenance['name']}: average against worst-{unit} accuracy",
        "unit": unit,
        "units": PLURALS[unit],
        "measure": MEASURES[unit],
        "verdicts": verdicts(table),
        "answers": _answers(records, table, compared if compares else None)[:MOST_ANSWERS],
        "compares": compares,
        "shown_answers": SHOWN_ANSWERS,
        "warnings": gaps(records, table),
        "interactive": interactive,
        "filters": _filters(interactive, style),
        "points": points_table(points, unit),
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
        "other_unit": records.group_names and ("class" if unit == "group" else "group"),
        "test_sizes": _span(records.results["totals"].iloc[0]),
        "noise": _noise(records),
        "lost": _lost(lost_images(records)),
        "provenance": _provenance(records),
    }


def _answers(records: Records, table: pd.DataFrame, compared: pd.DataFrame | None) -> list[str]:
    if compared is None:
        return answers(table)
    of_data = comparison_answers(compared, records.unit) or answers(table)
    return [*network_answers(compared, records.unit), *of_data]


def _scripts() -> dict[str, Any]:
    """Return the page's scripts and style, and the sources that its policy lets run."""
    folder = resources.files("raydrop.frontier.report") / "templates"
    own, style = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.js", "report.css")
    )
    # A parser turns other line ends into these before it hashes.
    library = get_plotlyjs().replace("\r\n", "\n")
    # Source expressions of a content security policy (W3C, CSP Level 3).
    digests = [hashlib.sha256(script.encode()).digest() for script in (library, own)]
    return {
        "library": Markup(library),
        "script": Markup(own),
        "style": Markup(style),
        "sources": " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests),
    }


def _filters(interactive: Mapping[str, Any], style: SeriesStyle) -> list[dict[str, Any]]:
    """Return the filters that choose among something, and how their options look."""
    found = []
    for name, heading in FILTERS.items():
        options = interactive["filters"][name]["options"]
        if len(options) < 2:
            continue
        colours, quotas = {}, {}
        if name == "method":
            colours = {option: style.colour(option) for option in options if option != ALL}
        if name == "network":
            colours = {option: style.colour("", option) for option in options}
        if name == "quotas":
            quotas = {option: quotas_key(option, style) for option in options}
        shown = [
            {"label": option, "colour": colours.get(option), "quotas": quotas.get(option)}
            for option in options
        ]
        found.append({"name": name, "heading": heading, "options": shown})
    return found


def _noise(records: Records) -> dict[str, Any] | None:
    """Return what is pruned of the label noise, where it is known."""
    noise = noise_of(records.trials)
    if noise is None:
        return None
    said = "Share of the mislabelled samples that is pruned, against the keep fraction"
    svg = inline_svg(to_svg(noise_figure(noise.points)), "noise", said)
    return noise_table(noise) | {"svg": Markup(svg)}


def _lost(lost: LostImages | None) -> dict[str, Any] | None:
    """Return the pictures of lost images as elements with captions, where there are any."""
    if lost is None:
        return None
    small = max(max(image.pixels.shape[:2]) for image in lost.images) <= TILE
    counts = {"n_trials": lost.n_trials, "of_trials": lost.of_trials}
    tiles = [{"image": image, "source": _source(image.pixels, small)} for image in lost.images]
    return {"tiles": tiles, "small": small, **counts}


def _source(pixels: Pixels, exact: bool) -> str:
    """Return a picture as a URL; large ones lose some exactness, and most of their bytes."""
    kind, options = ("png", {}) if exact else ("webp", {"quality": 80, "method": 4})
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _figures(drawn: Mapping[str, bytes], records: Records) -> list[dict[str, Any]]:
    """Return the static figures as elements of the page, in its order."""
    figures = []
    for place, (name, drawing) in enumerate(FIGURES.items()):
        texts = drawing.texts(records.unit)
        if name in drawn and (texts["heading"] or name == "frontier"):
            content = inline_svg(drawn[name], f"f{place}", texts["description"])
            width = re.search(r'viewBox="\S+ \S+ (\S+) ', content)  # in points
            small = width is not None and float(width[1]) < _NARROW
            figures.append({"name": name, **texts, "content": Markup(content), "small": small})
    return figures


def _fitting(figures: Sequence[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return figures, without the content of those for which there is no room, given bytes."""
    kept = {}
    last = {name: place for place, name in enumerate(FIT_LAST, start=1)}
    for figure in sorted(figures, key=lambda each: last.get(each["name"], 0)):
        size = len(figure["content"].encode())
        fits = size <= room
        room -= size if fits else 0
        kept[figure["name"]] = figure if fits else figure | {"content": None}
    return [kept[figure["name"]] for figure in figures]


def _provenance(records: Records) -> list[tuple[str, str]]:
    """Return facts about the study and their names; what is not so is left out."""
    facts, trials = records.provenance, records.trials
    splits = ("train", "validation", "test")
    others, deaths = facts["trials_of_other_studies"], facts.get("worker_deaths", 0)
    cut, (finished, _) = facts.get("cut_trials", 0), facts["costs"]["trial"]
    rows = {
        "study": f"{facts['name']}, id {facts['study_id']}",
        "base id": facts["base_id"],
        "data": f"{facts['dataset']}, fingerprint {facts['data_fingerprint']}",
        "model": ", ".join(sorted(trials["model"].unique())),
        "scores from": _query_models(trials),
        "split sizes": ", ".join(f"{n} {split}" for split in splits if (n := facts[f"n_{split}"])),
        "seeds": ", ".join(map(str, facts["seeds"])),
        "quotas and weights by": records.by if records.group_names else "",
        "training budget": ", ".join(sorted(trials["budget"].unique())),
        "query runs": _cost(*facts["costs"]["query"]),
        "scores": _cost(*facts["costs"]["scores"]),
        "trials": _cost(*facts["costs"]["trial"]),
        "device": ", ".join(facts["devices"]),
        "precision": ", ".join(facts["precisions"]),
        "versions": ", ".join(f"{name} {v}" for name, v in sorted(facts["versions"].items())),
        "started": facts["created"],
        "not shown": others and f"{others} trials in the store that this study does not ask for",
        "failed trials": _failed(records),
        "batches cut": cut
        and f"in {cut} of {finished} trials, into {facts['most_parts']} parts at most, because "
        "memory ran out",
        "processes replaced": deaths and f"{deaths}, which died while this folder was computed",
    }
    return [(name, str(value)) for name, value in rows.items() if value]


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


def _query_models(trials: pd.DataFrame) -> str:
    """Return the models that scores come from, or nothing where each model scores for itself."""
    other = trials["query_model"] != trials["model"]
    if not other.any():
        return ""
    scored = other | ~trials["method"].isin(["none", "random"])
    return ", ".join(sorted(trials.loc[scored, "query_model"].unique()))


def _cost(count: int, seconds: float) -> str:
    """Return a count with its time, in the unit that suits; nothing of what there is none of."""
    if not seconds:  # predictions from elsewhere took none that is known
        return str(count or "")
    unit, length = time_unit(seconds)
    return f"{count} in {seconds / length:.1f} {unit}"


def _span(values: Sequence[int]) -> str:
    sizes = [size for size in values if size]
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"
