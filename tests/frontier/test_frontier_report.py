"""What the report is made of: data of the interactive figure, tables, sentences, their limits."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from html_page import PLOTLY, Page
from reference import recall_by_counting

from raydrop.errors import visible
from raydrop.frontier import Records, load_records
from raydrop.frontier.figures import interactive
from raydrop.frontier.figures.canvas import COLOURS
from raydrop.frontier.figures.chart import frontier_chart
from raydrop.frontier.figures.inline import inline_svg
from raydrop.frontier.figures.interactive import DARK, quotas_key, target_name
from raydrop.frontier.figures.looks import SeriesStyle
from raydrop.frontier.report.page import LARGEST, render_report
from raydrop.frontier.report.sentences import (
    ONE_SEED,
    SHOWN_LINES,
    comparison_answers,
    gaps,
    signed,
)
from raydrop.frontier.report.tables import (
    SHOWN_POINTS,
    SHOWN_RECALLS,
    chosen_points,
    recall_changes,
    recall_rows,
)
from raydrop.frontier.table import by_merit, mean_recalls, table_of

MINUS = "\N{MINUS SIGN}"
STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"))
SVG = b'<svg width="9pt" viewBox="0 0 9 9"><g id="a">%s</g></svg>'


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return load_records(STUDY.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def points(records: Records) -> pd.DataFrame:
    return by_merit(table_of(records))


def rendered(
    records: Records,
    points: pd.DataFrame,
    drawn: Mapping[str, bytes] | None = None,
    compared: pd.DataFrame | None = None,
) -> str:
    """Return a report with stand-ins for the figures that would take time to draw."""
    stand_ins = {"frontier": SVG % b"", "curves": SVG % b""}
    return render_report(records, points.sort_index(), stand_ins | dict(drawn or {}), compared)


def interactive_frontier(table: pd.DataFrame) -> dict[str, Any]:
    return interactive.interactive_frontier(frontier_chart(table))


def data_of(html: str) -> dict[str, Any]:
    """Return what the page's script reads, as a browser does."""
    start = '<script type="application/json" id="frontier-data">'
    return json.loads(html.partition(start)[2].partition("</script>")[0])


def filtered(data: dict[str, Any], name: str) -> list[str]:
    """Return the option of each point, empty where a filter does not concern it."""
    options, of = (data["filters"][name][part] for part in ("options", "of"))
    return [options[option] if option >= 0 else "" for option in of]


@pytest.mark.parametrize("study", [STUDY, TRANSFER, GROUPED], ids=["losses", "models", "groups"])
def test_the_figure_holds_every_point_of_the_table(study: FakeStudy, tmp_path: Path) -> None:
    records = load_records(study.write(tmp_path))
    by = study.by
    table = table_of(records.about(by))
    data = interactive_frontier(table)
    full = table["method"] == "none"
    for name, column in (("model", "model"), ("loss", "loss")):
        assert filtered(data, name) == table[column].tolist()
    assert filtered(data, "quotas") == table["quotas"].mask(full, "").tolist()
    assert filtered(data, "keep") == [f"{keep:g}" for keep in table["keep_fraction"]]
    origin = [
        "" if row["query_model"] == row["model"] else f" from {row['query_model']}"
        for row in table.to_dict("records")
    ]
    assert (
        filtered(data, "method") == (table["method"] + origin).mask(full, "all the data").tolist()
    )
    for name in ("average_accuracy", "worst_accuracy", "keep_fraction", "n_kept"):
        values = data["measures"][name]["values"]
        assert values == pytest.approx(table[name].tolist(), abs=5e-7)
    for end in ("low", "high"):
        assert data["points"][end] == pytest.approx(table[f"worst_{by}_{end}"].tolist(), abs=5e-7)
    rings = {ring["trace"]["name"]: ring["points"] for ring in data["rings"]}
    assert rings["Pareto front"] == np.flatnonzero(table["on_front"]).tolist()


def test_lines_join_what_differs_in_the_keep_fraction_alone(points: pd.DataFrame) -> None:
    data = interactive_frontier(points)
    assert sorted(itertools.chain(*(s["points"] for s in data["series"]))) == list(
        range(len(points))
    )
    for series in data["series"]:
        rows = points.iloc[list(series["points"])]
        assert (rows[["model", "loss", "method", "quotas"]].nunique() == 1).all()
        assert rows["keep_fraction"].is_monotonic_increasing
        assert [data["panels"][k] for k in series["panels"]] == [f"loss: {rows['loss'].iloc[0]}"]
    # Two methods, two quotas and two losses; all the data once for each loss.
    assert len(data["series"]) == 2 * 2 * 2 + 2


def test_looks_are_those_of_the_drawings(points: pd.DataFrame) -> None:
    style, data = SeriesStyle.of(points), interactive_frontier(points)
    for series in data["series"]:
        row, trace = points.iloc[series["points"][0]], series["trace"]
        if row["method"] == "none":
            assert trace["marker"]["symbol"] == "star"
        else:
            assert trace["line"]["color"] == style.colour(row["method"])
            assert trace["line"]["dash"] == {"none": "solid", "drop": "dash"}[row["quotas"]]
            assert trace["marker"]["symbol"].endswith("-open") == (row["quotas"] == "none")
    symbols = {s["trace"]["marker"]["symbol"].removesuffix("-open") for s in data["series"]}
    assert symbols == {"circle", "square", "star"}
    # The colour of the first method is black, which a dark page would swallow.
    assert DARK[COLOURS[0]] == "#FFFFFF"
    assert quotas_key("none", style) == {"dashes": "none", "open": True, "dot": False}
    assert quotas_key("drop", style) == {"dashes": "6 4", "open": False, "dot": False}


def test_losses_on_all_the_data_alone_are_in_the_other_panels(points: pd.DataFrame) -> None:
    alone = points[(points["loss"] == "cross_entropy") | (points["method"] == "none")]
    data = interactive_frontier(alone)
    assert data["panels"] == ["loss: cross_entropy"]
    (star,) = (series for series in data["series"] if series["alone"])
    assert (star["panels"], star["trace"]["text"]) == ((0,), "cdb_w")
    whole = interactive_frontier(points[points["method"] == "none"])
    assert whole["panels"] == ["loss: cdb_w", "loss: cross_entropy"]
    assert not any(series["alone"] for series in whole["series"])


def test_networks_that_are_pruned_are_told_apart(points: pd.DataFrame) -> None:
    pruned = points.assign(network_method="magnitude", network_target="flops(0.5)")
    both = pd.concat([points, pruned], ignore_index=True)
    data = interactive_frontier(both)
    assert data["filters"]["sparsity"]["options"] == ["dense", "flops(0.5)"]
    assert data["filters"]["sparsity"]["of"] == [0] * len(points) + [1] * len(points)
    assert len(data["series"]) == 2 * len(interactive_frontier(points)["series"])
    assert data["filters"]["network"]["options"] == ["magnitude"]
    assert data["filters"]["network"]["of"] == [-1] * len(points) + [0] * len(points)
    assert target_name(points.iloc[0].to_dict()) == "dense"


def test_further_columns_become_axes_and_what_is_not_known_is_null(points: pd.DataFrame) -> None:
    names = set(interactive_frontier(points.drop(columns="noisy_pruned"))["measures"])
    assert names >= {"average_accuracy", "worst_accuracy", "gap", "std"}
    some = points.assign(front_probability=[0.25] + [np.nan] * (len(points) - 1))
    data = interactive_frontier(some.assign(worst_decile_accuracy=np.nan))
    assert data["measures"]["front_probability"]["values"][:2] == [0.25, None]
    assert "worst_decile_accuracy" not in data["measures"]
    json.dumps(data, allow_nan=False)


def test_the_page_carries_the_figures_data_whatever_names_there_are(tmp_path: Path) -> None:
    evil = '</script><script>alert("1")</script><!--\u2028'
    study = dataclasses.replace(TRANSFER, models=(evil, "b"), query_models=(evil, "b"))
    records = load_records(study.write(tmp_path))
    table = table_of(records)
    html = rendered(records, table)
    data = data_of(html)
    assert data == json.loads(json.dumps(interactive_frontier(by_merit(table))))
    assert visible(evil) in data["filters"]["model"]["options"]
    # What Plotly shows as marked-up text carries no marks.
    assert not any("<" in panel for panel in data["panels"])
    assert not any("<" in entry["trace"]["name"] for entry in data["legend"])
    assert evil not in html


def test_plotly_is_given_short_names_with_the_entities_that_it_knows(
    points: pd.DataFrame,
) -> None:
    name = '<b>"it\'s"</b> & co'
    named = points.assign(loss=name, method=points["method"].replace("el2n", name))
    data = interactive_frontier(named)
    assert data["panels"] == ['loss: &lt;b&gt;"it\'s"&lt;/b&gt; &amp; co']
    assert '&lt;b&gt;"it\'s"&lt;/b&gt; &amp; co' in [
        entry["trace"]["name"] for entry in data["legend"]
    ]
    long = interactive_frontier(points.assign(loss="m" * 3000))
    assert all(len(panel) < 60 for panel in long["panels"])
    assert long["filters"]["loss"]["options"] == ["m" * 3000]


def test_only_the_pages_own_scripts_may_run(records: Records, points: pd.DataFrame) -> None:
    html = rendered(records, points)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    scripts = [html.partition("<script>")[2].partition("</script>")[0]]
    scripts.append(html.rpartition("<script>")[2].partition("</script>")[0])
    assert scripts[0] == PLOTLY
    assert rules["script-src"].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    ]
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert html.count("</script>") == 3


def test_filters_that_choose_among_nothing_are_left_out(
    records: Records, points: pd.DataFrame
) -> None:
    html = rendered(records, points)
    page = Page(html)
    boxes = [each for tag, each in page.tags if tag == "input" and each["name"] != "intervals"]
    assert {box["name"] for box in boxes} == {"loss", "method", "quotas", "keep"}
    assert all("checked" in box for box in boxes)
    shown = {tag["data-point"] for name, tag in page.tags if name == "tr" and "data-point" in tag}
    assert shown == {str(i) for i in range(len(points))}


def test_sparsity_is_a_filter_and_a_column_where_networks_are_pruned(
    records: Records, points: pd.DataFrame
) -> None:
    pruned = points["method"] == "el2n"
    some = points.assign(
        network_method=np.where(pruned, "magnitude", "none"),
        network_target=np.where(pruned, "flops(0.5)", "none"),
    )
    page = Page(rendered(records, some))
    boxes = [each for tag, each in page.tags if tag == "input" and each["name"] == "sparsity"]
    assert [box["value"] for box in boxes] == ["0", "1"]
    assert "Network target" in page.text
    assert page.text.count("dense") >= (~pruned).sum()
    assert "Network target" not in Page(rendered(records, points)).text


def test_rows_of_both_tables_are_named_for_their_points(
    records: Records, points: pd.DataFrame
) -> None:
    html = rendered(records, points)
    rows = re.findall(r'<tr data-point="(\d+)">(.*?)</tr>', html, re.DOTALL)
    assert len(rows) == 2 * len(points)
    for place, row in rows:
        point = points.iloc[int(place)]
        text = Page(row).text
        if "<th" in row:
            assert f"{point['loss']}" in text
            assert point["method"] == "none" or f"keep {point['keep_fraction']:g}" in text
            (lowest, *_) = re.findall(r'<td class="lowest[^"]*">([\d.]+)', row)
            assert lowest == f"{point['worst_class_accuracy_of_mean']:.3f}"
        else:
            assert f"{point['worst_class_accuracy']:.3f}" in text


def test_changes_of_recalls_are_those_from_all_the_data(records: Records) -> None:
    table = table_of(records)
    changes = recall_changes(table, mean_recalls(records.trials))

    def mean(method: str, quotas: str, loss: str, keep: float) -> np.ndarray:
        trials = [
            t
            for t in STUDY.trials()
            if (t.method, t.quotas, t.loss, t.keep_fraction) == (method, quotas, loss, keep)
        ]
        return np.mean(
            [recall_by_counting(STUDY.predictions(t), STUDY.labels(), 4) for t in trials], axis=0
        )

    for row, found in zip(table.to_dict("records"), changes, strict=True):
        own = mean(row["method"], row["quotas"], row["loss"], row["keep_fraction"])
        expected = own - mean("none", "none", row["loss"], 1.0)
        # What keeps all the data is compared with nothing.
        np.testing.assert_allclose(found, expected if row["method"] != "none" else np.nan)
    without = table[(table["method"] != "none") | (table["loss"] == "cdb_w")]
    kept = recall_changes(without, mean_recalls(records.trials)[without.index])
    absent = (without["loss"] == "cross_entropy") | (without["method"] == "none")
    assert np.isnan(kept).all(axis=1).tolist() == absent.tolist()


def test_cells_say_and_show_by_how_much_a_recall_changes(points: pd.DataFrame) -> None:
    pruned = points[points["method"] != "none"].head(1)
    recalls = np.array([[0.5, 0.6, 0.7, np.nan, 0.9]])
    changes = np.array([[-0.2, -0.0199, 0.05, np.nan, 0.3]])
    (row,) = recall_rows(pruned, recalls, changes, range(5))
    assert [cell["text"] for cell in row["cells"]] == ["0.500", "0.600", "0.700", "none", "0.900"]
    shown = [f"{MINUS}0.20", f"{MINUS}0.02", "+0.05", "", "+0.30"]
    assert [cell["change"] for cell in row["cells"]] == shown
    assert [cell["look"] for cell in row["cells"]] == ["lowest down4", "", "up2", "", "up4"]
    (row,) = recall_rows(pruned, recalls, np.nan * changes, range(5))
    assert not any(cell["change"] for cell in row["cells"])
    assert [signed(value) for value in (-0.004, 0.004, 0.006)] == ["0.00", "0.00", "+0.01"]


def test_of_very_many_points_the_foremost_are_shown(points: pd.DataFrame) -> None:
    assert chosen_points(points) is points
    limit = 8
    chosen = chosen_points(points, limit)
    marked = points["on_front"] | points["on_front_at_keep_fraction"] | (points["method"] == "none")
    assert len(chosen) == limit
    assert chosen.index.isin(points.index[marked]).sum() == min(limit, marked.sum())
    assert chosen.index.tolist() == [i for i in points.index if i in set(chosen.index)]
    recalls = np.zeros((len(points), SHOWN_RECALLS // 4))
    rows = recall_rows(points, recalls, recalls, range(SHOWN_RECALLS // 4))
    assert len(rows) == 4
    assert all(rows[i]["place"] < rows[i + 1]["place"] for i in range(3))


def test_a_page_of_very_many_points_says_that_there_are_more(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(records)
    monkeypatch.setattr(chosen_points, "__defaults__", (9,))
    html = rendered(records, table)
    assert SHOWN_POINTS > 9
    assert len(data_of(html)["points"]["size"]) == 9
    assert "Shown are the 9 foremost of 18" in Page(html).text


def test_figures_that_do_not_fit_are_named_and_the_page_stays_small(
    records: Records, points: pd.DataFrame
) -> None:
    large, small = SVG % (b"x" * 900_000), SVG % b"small"
    drawn = {"densities": large, "correlations": large, "costs": small, "curves": small}
    html = rendered(records, points, drawn | {"frontier": large})
    assert len(html.encode()) <= LARGEST < 6_000_000
    text = Page(html).text
    # The first of the two that are large is there.
    assert html.count("x" * 900_000) == 1
    assert "This figure is too large for one page; it is correlations.svg" in text
    assert "densities.svg" not in text
    assert html.count(">small<") == 2


def test_a_narrow_figure_does_not_fill_the_page(records: Records, points: pd.DataFrame) -> None:
    wide, narrow = (SVG.replace(b"0 0 9 9", b"0 0 %d 90" % n) % b"" for n in (820, 331))
    html = rendered(records, points, {"curves": wide, "costs": narrow})
    classes = re.findall(r'class="scroll figure( small)?" tabindex', html)
    assert classes == ["", "", " small"]  # the first is the interactive one


def test_inlined_figures_keep_their_references_and_their_places() -> None:
    svg = (
        b'<?xml?><svg width="9pt" height="9pt" viewBox="0 0 9 9"><!-- a --><g id="a"/>'
        b'<g id="unused"/><use xlink:href="#a" x="-0.5" transform="translate(1.2 0)"/>'
        b'<path d="M 0.5 13 L -7.13 4" transform="scale(0.015625)"/>'
        b'<rect clip-path="url(#c)"/><clipPath id="c"/><text>a  b</text></svg>\n'
    )
    assert inline_svg(svg, "left", 'x"y') == (
        '<svg viewBox="0 0 9 9" style="stroke-linejoin: round; stroke-linecap: butt" role="img" '
        'aria-label="x&quot;y"><g id="left-0"/>'
        '<g/><use href="#left-0" x="-0.5" transform="translate(1.2 0)"/>'
        '<path d="M 0.5 13 L -7.13 4" transform="scale(0.015625)"/>'
        '<rect clip-path="url(#left-1)"/><clipPath id="left-1"/><text>a  b</text></svg>'
    )


def test_styles_of_many_parts_are_written_once_and_stay_within_their_figure() -> None:
    rule = b'<defs><style type="text/css">*{stroke-linejoin: round}</style></defs>'
    many = b'<path style="fill: #ffffff; stroke-width: 0.8"/>' * 4
    svg = b"<svg>" + rule + many + b'<path style="fill: none"/></svg>'
    text = inline_svg(svg, "f1", "")
    assert text.endswith(
        "<style>.f1-0c{fill: #ffffff; stroke-width: 0.8}</style>"
        + '<path class="f1-0c"/>' * 4
        + '<path style="fill: none"/></svg>'
    )
    assert "*{" not in text


def test_one_seed_and_no_reference_are_warned_of(tmp_path: Path) -> None:
    alone = dataclasses.replace(STUDY, seeds=(0,), unpruned=False)
    records = load_records(alone.write(tmp_path))
    text = Page(rendered(records, table_of(records))).text
    assert ONE_SEED in text
    assert "Without training on all the data: 2; what pruning costs there is not known." in text
    assert "so changes by pruning are not known" in text


def test_without_gaps_nothing_is_warned_of(records: Records, points: pd.DataFrame) -> None:
    text = Page(rendered(records, points)).text
    assert "Not everything is here" not in text
    assert "Smaller print and shading" in text


def test_very_many_gaps_are_counted(records: Records, points: pd.DataFrame) -> None:
    trial = {"trial_id": "0", **points.iloc[-1].to_dict(), "seed": 3, "message": "broke"}
    many = dataclasses.replace(records, failures=(trial,) * (SHOWN_LINES + 5))
    (failed,) = gaps(many, points)
    assert failed["text"].startswith(f"Failed: {SHOWN_LINES + 5} of 36 trials")
    assert len(failed["lines"]) == SHOWN_LINES + 1
    assert failed["lines"][0]["message"] == "broke"
    assert failed["lines"][0]["trial"].endswith("seed 3")
    assert failed["lines"][-1]["trial"] == "and 5 more"


COMPARED = {
    "model": "small_cnn",
    "query_model": "small_cnn",
    "network_method": "none",
    "network_target": "none",
    "loss": "cross_entropy",
    "keep_fraction": 0.3,
    "method": "random",
    "quotas": "drop",
    "reference": "random + none",
    "measure": "worst",
    "difference": 0.12,
    "low": 0.08,
    "high": 0.16,
    "p_value": 0.001,
    "p_adjusted": 0.004,
    "verdict": "better",
    "seeds_needed": 3.0,
    "n_seeds": 3,
}


def compared(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([COMPARED | row for row in rows])


UNSURE = {"difference": 0.02, "low": -0.03, "high": 0.07, "verdict": "cannot tell"}
SOON = {"seeds_needed": 2.0}
WORSE = {"difference": -0.3, "low": -0.4, "high": -0.25, "verdict": "worse"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{}],
            "At keep fraction 0.3 with cross_entropy, random + drop keeps the worst class 12 ± 4 "
            "points above random + none.",
        ),
        (
            [
                {"reference": "all the data", **WORSE},
                {"measure": "average", "difference": -0.004, "low": -0.006, "high": -0.002}
                | {"verdict": "worse"},
                {},
            ],
            "At keep fraction 0.3 with cross_entropy, random + drop keeps the worst class 12 ± 4 "
            "points above random + none; it is 30 points (25 to 40) below all the data; its "
            "average is 0.4 ± 0.2 points below that of random + none.",
        ),
        (
            [
                UNSURE | {"seeds_needed": 9.0},
                {"measure": "average"} | UNSURE | SOON,
                WORSE | {"quotas": "balanced"},
            ],
            "At keep fraction 0.3 with cross_entropy, it cannot be told whether anything keeps the "
            "worst class above random + none; random + drop is highest (+2 ± 5 points, about 9 "
            "seeds would tell); its average cannot be told from that of random + none "
            "(+2 ± 5 points).",
        ),
        (
            [WORSE, WORSE | {"quotas": "balanced", "difference": -0.32}],
            "At keep fraction 0.3 with cross_entropy, nothing keeps the worst class above random + "
            "none; random + drop comes nearest, 30 points (25 to 40) below.",
        ),
        (
            # What is better is named, though a wide interval goes with a higher mean.
            [
                UNSURE | {"seeds_needed": np.nan, "difference": 0.2, "low": -0.1, "high": 0.5},
                {"quotas": "balanced"},
            ],
            "At keep fraction 0.3 with cross_entropy, random + balanced keeps the worst class "
            "12 ± 4 points above random + none.",
        ),
        (
            [
                {"reference": "all the data", "difference": -0.0001, "low": -0.05, "high": 0.05}
                | {"verdict": "cannot tell"}
            ],
            "At keep fraction 0.3 with cross_entropy, it cannot be told whether anything keeps the "
            "worst class above all the data; random + drop is highest (0 ± 5 points).",
        ),
        (
            [UNSURE | {"high": 0.2}],
            "At keep fraction 0.3 with cross_entropy, it cannot be told whether anything keeps the "
            f"worst class above random + none; random + drop is highest (+2 points, {MINUS}3 to "
            "+20).",
        ),
    ],
)
def test_a_comparison_is_a_sentence(rows: list[dict[str, Any]], sentence: str) -> None:
    frame = compared(*rows)
    assert comparison_answers(frame) == [sentence]
    assert comparison_answers(frame[::-1].reset_index(drop=True)) == [sentence]


def test_a_sentence_for_each_model_loss_and_keep_fraction() -> None:
    frame = compared(
        {"keep_fraction": 0.2, "method": "el2n", "query_model": "other"},
        {"keep_fraction": 0.5},
        {"model": "big", "query_model": "big", "loss": "cdb_w"},
        {"keep_fraction": 1.0, "method": "none", "quotas": "none"},
        {"keep_fraction": 0.1, "difference": np.nan},
    )
    assert [sentence.partition(" keeps")[0] for sentence in comparison_answers(frame, "group")] == [
        "At keep fraction 0.3 with big and cdb_w, random + drop",
        "At keep fraction 0.5 with small_cnn and cross_entropy, random + drop",
        "At keep fraction 0.2 with small_cnn and cross_entropy, el2n + drop from other",
    ]
    assert all("worst group" in sentence for sentence in comparison_answers(frame, "group"))


def test_comparisons_answer_where_there_are_any(records: Records, points: pd.DataFrame) -> None:
    text = Page(rendered(records, points, compared=compared({}))).text
    assert "random + drop keeps the worst class 12 ± 4 points above random + none." in text
    assert "All are in comparisons.csv." in text
    for absent in (None, compared({})[:0]):
        text = Page(rendered(records, points, compared=absent)).text
        assert "At keep fraction 0.2 with cross_entropy, random + drop keeps the worst" in text
        assert "comparisons.csv" not in text
