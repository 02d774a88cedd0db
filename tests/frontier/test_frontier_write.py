from __future__ import annotations

import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from matplotlib.text import Text
from plotly.offline import get_plotlyjs

import raydrop.cli
import raydrop.frontier
from raydrop.errors import StoreError, visible
from raydrop.frontier import (
    Frontier,
    frontier_table,
    load_records,
    remarks,
    summary_table,
    write_frontier,
)
from raydrop.frontier.figures.canvas import to_pdf, to_svg
from raydrop.frontier.figures.lost_plot import lost_figure
from raydrop.frontier.figures.overlay_plot import overlay_figure
from raydrop.frontier.overlay import write_overlay
from raydrop.frontier.report.lost import LostImage, LostImages
from raydrop.frontier.report.page import TIMES, render_report
from raydrop.frontier.report.tables import SHOWN_CLASSES
from raydrop.store import Store
from raydrop.study import TrialConfig
from raydrop.theory import TwoGaussians
from raydrop.theory.figures import theory_figure

FIGURES = ("frontier", "curves", "costs", "densities", "correlations", "heatmap")
FILES = {"trials.parquet", "frontier.csv", "comparisons.csv", "report.html"}
FILES |= {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"))
SMALL = FakeStudy(methods=("random",), keeps=(0.2,))
SHOWN_COLUMNS = {"front", "method", "quotas", "loss", "keep fraction", "kept", "seeds"}
SHOWN_COLUMNS |= {"worst class", "95 % interval", "worst is", "average", "gap", "std"}
BY_GROUP = dataclasses.replace(GROUPED, methods=("random",), keeps=(0.2,))


class Page(HTMLParser):
    """Collects what a browser would: tags, their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        # Not ours, and 5 MB long.
        self.feed(html.replace(get_plotlyjs(), ""))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Frontier:
    """A finished study's frontier; tests read it only."""
    return write_frontier(STUDY.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def html(written: Frontier) -> str:
    """The report without Plotly's script."""
    whole = written.report.read_text(encoding="utf-8")
    html = whole.replace(get_plotlyjs(), "")
    assert len(whole) - len(html) > 1e6
    return html


def report_of(folder: Path) -> str:
    """Return the report without what is written beside it, and without some of its figures."""
    records = load_records(folder)
    return render_report(records, frontier_table(records.trials, records.class_names))


def test_every_file_is_written_and_nothing_else(written: Frontier) -> None:
    folder = written.records.place.folder
    assert set(written.paths) == FILES
    assert {path.name for path in folder.iterdir()} == FILES | {"store", "study.json"}
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    points = pd.read_csv(folder / "frontier.csv", keep_default_na=False)
    assert len(points) == len(written.table) == 18


def test_parquet_gives_the_trials_back(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class WithoutOwls(FakeStudy):
        def labels(self) -> np.ndarray:
            return np.repeat([0, 1, 3], self.test_per_class)

    frontier = write_frontier(WithoutOwls().write(tmp_path))
    stored = pd.read_parquet(tmp_path / "trials.parquet")
    assert list(stored.columns) == list(frontier.records.trials.columns)
    assert stored["method"].tolist() == frontier.records.trials["method"].tolist()
    for ours, read in zip(frontier.records.trials["by_class"], stored["by_class"], strict=True):
        np.testing.assert_array_equal(np.array(read, dtype=float), ours)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_frontier(SMALL.write(tmp_path / name)).paths for name in "ab")
    for name in FILES:
        assert one[name].read_bytes() == two[name].read_bytes(), name


def test_a_failing_drawing_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SMALL.write(tmp_path)
    write_frontier(tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in FILES}

    def fail(*_: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(raydrop.frontier, "render_report", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_frontier(tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in FILES} == before


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    (tmp_path / "frontier.csv" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"Expected to write .*frontier\.csv, found: .*; free"):
        write_frontier(tmp_path)
    assert not list(tmp_path.glob(".frontier*"))


def test_summary_table_shows_every_point_once_and_the_best_first(written: Frontier) -> None:
    tables = summary_table(written)
    assert list(tables) == ["cdb_w", "cross_entropy"]
    texts = [text for table in tables.values() for text in table.to_numpy().ravel() if text]
    assert len(texts) == len(written.table)
    assert sum(text.endswith("●") for text in texts) == written.table["on_front"].sum()
    pruned = written.table[written.table["method"] != "none"]
    merit = pruned[pruned["loss"] == "cdb_w"].groupby(["method", "quotas"])["worst_class_accuracy"]
    best = " + ".join(merit.mean().idxmax())
    assert next(name for name in tables["cdb_w"].index if name != "all the data") == best


def test_the_report_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert "default-src 'none'" in html
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert not re.findall(r"url\((?!#)", html)
    assert "@import" not in html


def test_ids_in_the_report_are_unique_and_all_references_found(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert references
    assert references <= set(ids)


def test_the_report_says_what_is_there(written: Frontier, html: str) -> None:
    page = Page(html)
    for keep, loss in itertools.product(STUDY.keeps, STUDY.losses):
        assert f"At keep fraction {keep:g} with {loss}, " in page.text
    for row in written.table.to_dict("records"):
        assert f"{row['worst_class_accuracy']:.3f}" in page.text
        assert f"{row['worst_class_low']:.3f} to {row['worst_class_high']:.3f}" in page.text
    for fact in ("numpy 2.4.6", "5a" * 32, "51d" + "0" * 29, "2 in 2.0 minutes", "200 train"):
        assert fact in page.text
    assert "Not everything is here" not in page.text


def test_the_report_can_be_used_with_the_keyboard(html: str) -> None:
    page = Page(html)
    boxes = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert len(boxes) >= 6
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    figures = [each for each in drawings if each.get("aria-hidden") != "true"]
    assert len(figures) >= 4
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    headings = re.findall(r'<th scope="col"[^>]*><button type="button">([^<]*)</button>', html)
    assert set(headings) >= SHOWN_COLUMNS
    # A heading to sort by each column, and a button that undoes the filters.
    assert [tag for tag, _ in page.tags].count("button") == len(headings) + 1
    controls = [tag for tag, _ in page.tags if tag in ("input", "select")]
    assert [tag for tag, _ in page.tags].count("label") == len(controls) > 10


def test_remarks_tell_what_the_table_leaves_out(written: Frontier, tmp_path: Path) -> None:
    assert remarks(written.records) == []
    missing, failed, *_ = STUDY.trials()
    STUDY.write(tmp_path, skip=[missing, failed])
    STUDY.write_failure(tmp_path, failed, "loss became NaN")
    failures, absent = remarks(write_frontier(tmp_path).records)
    assert failures.startswith("1 trials failed")
    assert "seed 1: loss became NaN" in failures
    assert absent.startswith("1 trials are missing")


def test_the_report_shows_what_is_missing_failed_and_damaged(tmp_path: Path) -> None:
    missing, failed, damaged, *_ = STUDY.trials()
    STUDY.write(tmp_path, skip=[missing, failed])
    STUDY.write_failure(tmp_path, failed, "loss became <NaN> & stayed; lower learning_rate")
    file = tmp_path / "store" / "trial" / STUDY.trial_id(damaged) / "predictions.npy"
    file.write_bytes(b"")
    page = Page(report_of(tmp_path))
    assert "Failed: 1 of 36 trials" in page.text
    assert (
        "random + none, cross_entropy, keep 0.2, seed 1: loss became <NaN> & stayed;" in page.text
    )
    assert "Not finished: 2 of 36 trials" in page.text
    assert "random + none, cross_entropy, keep 0.2, seed 0" in page.text
    assert "Damaged entries, set aside: 1;" in page.text
    assert f"trial/{STUDY.trial_id(damaged)}: random + none, cdb_w, keep 0.2, seed 0" in page.text
    assert "Points with fewer seeds than others: 1;" in page.text
    assert "random + none, cdb_w, keep 0.2: 1 of 2 seeds" in page.text


def test_names_and_messages_are_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    study = FakeStudy(class_names=(evil, "b'\"><img src=x>"))
    study.write(tmp_path, skip=study.trials()[:1])
    study.write_failure(tmp_path, study.trials()[0], evil)
    html = write_frontier(tmp_path).report.read_text(encoding="utf-8")
    page = Page(html)
    assert evil not in html
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 2


def test_very_many_classes_show_the_lowest(tmp_path: Path) -> None:
    names = tuple(f"class-{k:03d}" for k in range(SHOWN_CLASSES + 20))
    study = FakeStudy(class_names=names, test_per_class=20, seeds=(0,), keeps=(0.5,))
    text = Page(report_of(study.write(tmp_path))).text
    assert f"the {SHOWN_CLASSES} classes that fall lowest" in text
    assert "the other 20 are in trials.parquet" in text
    # Higher indices are harder in the fake study.
    assert "class-119" in text
    assert "class-000" not in text


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> Frontier:
    """Two target models, scores of both for each, and mislabelled samples; tests read it only."""
    return write_frontier(TRANSFER.write(tmp_path_factory.mktemp("transfer")))


def test_the_summary_has_a_table_per_model_and_a_row_per_query_model(transferred: Frontier) -> None:
    tables = summary_table(transferred)
    assert list(tables) == ["resnet18, cross_entropy", "resnet50, cross_entropy"]
    for model, table in zip(("resnet50", "resnet18"), tables.values(), strict=True):
        names = {"all the data", "random + none", "moso + none", f"moso + none from {model}"}
        assert set(table.index) == names
        assert table.loc["all the data"].iloc[-1].startswith("0.9")
    texts = [text for table in tables.values() for text in table.to_numpy().ravel() if text]
    assert len(texts) == len(transferred.table) == 14


def test_the_report_tells_models_and_query_models_apart(transferred: Frontier) -> None:
    transferred_html = transferred.report.read_text(encoding="utf-8")
    page = Page(transferred_html)
    for text in (
        "resnet18: moso + none from resnet50, cross_entropy, keep 0.2",
        "resnet50: moso + none, cross_entropy, keep 0.5",
        "resnet18: all the data, cross_entropy",
        "resnet50: At no keep fraction did the worst class hold",
        "with resnet18 and cross_entropy",
        "scores fromresnet18, resnet50",
    ):
        assert text in page.text
    headings = re.findall(r'<button type="button">([^<]*)</button>', transferred_html)
    assert headings[:3] == ["front", "model", "method"]


def test_failures_and_missing_trials_name_their_model(tmp_path: Path) -> None:
    failed, missing = (
        next(t for t in TRANSFER.trials() if (t.model, t.method) == (model, "moso"))
        for model in ("resnet18", "resnet50")
    )
    TRANSFER.write(tmp_path, skip=[failed, missing])
    TRANSFER.write_failure(tmp_path, failed, "loss became NaN")
    frontier = write_frontier(tmp_path)
    assert (
        "the first: moso + none for resnet18 at 0.2, seed 0: loss" in remarks(frontier.records)[0]
    )
    text = Page(frontier.report.read_text(encoding="utf-8")).text
    assert "resnet18: moso + none, cross_entropy, keep 0.2, seed 0: loss became NaN" in text
    assert "resnet50: moso + none from resnet18, cross_entropy, keep 0.2, seed 0" in text


def test_the_report_says_what_share_of_the_mislabelled_samples_goes(transferred: Frontier) -> None:
    html = transferred.report.read_text(encoding="utf-8")
    section = html.partition("<h2>Mislabelled samples</h2>")[2].partition("<h2")[0]
    page = Page(section)
    assert page.open == []
    text = " ".join(page.text.split())
    assert "80 of the 800 training samples (10 %) are known to be mislabelled." in text
    assert "by moso + none from resnet50 at keep fraction 0.5 (0.66, seed range 0.65" in text
    rows = [" ".join(Page(row).text.split()) for row in re.findall(r"<tr>.*?</tr>", section, re.S)]
    assert rows == [
        "method + quotas keep 0.5 keep 0.2",
        "uniform draw, on average 0.500 0.800",
        "moso + none from resnet50 0.660 [0.650, 0.670] 0.864 [0.860, 0.868]",
        "moso + none from resnet18 0.610 [0.600, 0.620] 0.844 [0.840, 0.848]",
        "random + none 0.500 [0.500, 0.500] 0.800 [0.800, 0.800]",
    ]
    assert [
        Page(cell).text for cell in re.findall(r'<span class="best">[^<]*</span>', section)
    ] == [
        "highest",
        "0.660",
        "0.864",
    ]
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    boxes = [each for _, each in Page(html).tags if each.get("role") == "region"]
    assert len(boxes) >= 8
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_a_series_that_lacks_a_keep_fraction_has_an_empty_cell(tmp_path: Path) -> None:
    lacking = [t for t in TRANSFER.trials() if (t.method, t.keep_fraction) == ("random", 0.2)]
    html = report_of(TRANSFER.write(tmp_path, skip=lacking))
    row = html.partition(">random + none</th>")[2].partition("</tr>")[0]
    assert " ".join(Page(row).text.split()) == "0.500 [0.500, 0.500]"


def test_without_known_noise_there_is_no_section_and_one_model_is_not_named(html: str) -> None:
    text = Page(html).text
    assert "islabelled" not in text
    assert "uniform draw" not in text
    assert "scores from" not in text
    # In the footer alone.
    assert text.count("small_cnn") == 1


def test_names_of_models_are_escaped(tmp_path: Path) -> None:
    evil, other = '<script>alert("1")</script>', "b'\"><img src=x>"
    study = dataclasses.replace(TRANSFER, models=(evil, other), query_models=(evil, other))
    html = write_frontier(study.write(tmp_path)).report.read_text(encoding="utf-8")
    page = Page(html)
    assert evil not in html
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"moso + none from {evil}" in page.text


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study whose quotas are by group."""
    return BY_GROUP.write(tmp_path_factory.mktemp("grouped"))


def test_a_study_by_group_is_reported_by_group_unless_asked_otherwise(grouped: Path) -> None:
    by_group, by_class = write_frontier(grouped), write_frontier(grouped, "class")
    assert (by_group.by, by_class.by) == ("group", "class")
    assert set(by_group.paths) == FILES
    for frontier in (by_group, by_class):
        rows = frontier.table.to_dict("records")
        texts = {t for table in summary_table(frontier).values() for t in table.to_numpy().ravel()}
        for row in rows:
            worst = row[f"worst_{frontier.by}_accuracy"]
            assert any(t.startswith(f"{row['average_accuracy']:.2f}/{worst:.2f}") for t in texts)
    stored = pd.read_parquet(grouped / "trials.parquet")
    assert stored["by_group"].map(len).eq(8).all()
    assert stored["kept_by_group"].map(sum).equals(stored["n_kept"])


def test_the_report_by_group_speaks_of_groups(grouped: Path) -> None:
    frontier = write_frontier(grouped, "group")
    page = Page(frontier.report.read_text(encoding="utf-8"))
    assert page.open == []
    text = " ".join(page.text.split())
    for row in frontier.table.to_dict("records"):
        assert f"{row['worst_group_accuracy']:.3f}" in text
        assert f"{row['worst_group_low']:.3f} to {row['worst_group_high']:.3f}" in text
    for words in (
        "fake: average against worst-group accuracy",
        "Worst group against average",
        "What is kept of each group",
        "Accuracy by group",
        "cat, water40 train",
        "the lowest of 8 noisy accuracies, each from 10 to 40 test images",
        "raydrop frontier DIR --by class makes it anew about the other",
        "quotas and weights bygroup",
    ):
        assert words in text
    assert "worst class" not in text
    assert "recall" not in text
    other = Page(report_of(grouped)).text
    assert "Recall by class" in other
    assert "worst group" not in other


def test_the_report_shows_what_is_kept_and_whether_hard_classes_are(html: str) -> None:
    page = Page(html)
    assert "What is kept of each class" in page.text
    assert "Hard classes and what is kept of them" in page.text
    labels = {attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"}
    assert "Accuracy of each class on all the data against its density" in labels
    assert "--by" not in page.text


def test_figures_that_the_records_do_not_permit_are_left_out(tmp_path: Path) -> None:
    without = dataclasses.replace(SMALL, unpruned=False).write(tmp_path / "pruned")
    absent = {f"{name}.{kind}" for name in ("correlations", "heatmap") for kind in ("png", "svg")}
    assert set(write_frontier(without).paths) == FILES - absent
    text = Page((without / "report.html").read_text(encoding="utf-8")).text
    assert "What is kept" in text
    assert "Hard classes" not in text
    pruned = [trial for trial in SMALL.trials() if trial.method != "none"]
    whole = SMALL.write(tmp_path / "whole", skip=pruned)
    absent = {f"{name}.{kind}" for name in FIGURES[3:] for kind in ("png", "svg")}
    assert set(write_frontier(whole).paths) == FILES - absent


def frontier_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["raydrop", "frontier", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        raydrop.cli.main()
    return int(exit_.value.code or 0)


def test_the_command_takes_the_unit(
    grouped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, by in (
        ((), "group"),
        (("--by", "class"), "class"),
        (("--by", "group"), "group"),
    ):
        assert frontier_command(monkeypatch, grouped, *arguments) == 0
        assert f"Average/worst-{by} accuracy;" in capsys.readouterr().out
        assert set(pd.read_csv(grouped / "frontier.csv")["front_by"]) == {by}


def test_by_group_without_groups_is_one_sentence_and_leaves_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL.write(tmp_path)
    write_frontier(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    assert frontier_command(monkeypatch, tmp_path, "--by", "group") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Error: Expected groups in the data of")
    assert said.endswith("found none; leave out --by, or run the study on data with groups.")
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    assert frontier_command(monkeypatch, tmp_path, "--by", "gruop") == 1
    assert "Unknown value of --by 'gruop': did you mean group?" in capsys.readouterr().err


def test_figures_as_pdf_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    FakeStudy(keeps=(0.5,)).write(tmp_path)
    files = write_frontier(tmp_path, pdf=True).paths
    drawn = {name: path.read_bytes() for name, path in files.items() if path.suffix == ".pdf"}
    assert {Path(name).stem for name in drawn} == {
        Path(name).stem for name in files if name.endswith(".svg")
    }
    assert all(content.startswith(b"%PDF-") for content in drawn.values())
    again = write_frontier(tmp_path, pdf=True).paths
    assert all(again[name].read_bytes() == drawn[name] for name in drawn if name != "costs.pdf")


@dataclasses.dataclass(frozen=True)
class Cut(FakeStudy):
    """Some trials had their batches cut; records of older versions say nothing of it."""

    def info(self, trial: TrialConfig) -> dict[str, Any]:
        parts = {0: {"batch_parts": 1}, 1: {"batch_parts": 2}, 2: {"batch_parts": 8}}
        return super().info(trial) | parts.get(trial.seed, {})


def origin_of(folder: Path) -> str:
    """What the page says of where it comes from; names and values follow each other."""
    text = Page(report_of(folder)).text
    return text[text.index("Where this comes from") :]


def test_trials_whose_batches_were_cut_are_counted(tmp_path: Path) -> None:
    study = Cut(methods=("random",), keeps=(0.5,), seeds=(0, 1, 2, 3))
    records = load_records(study.write(tmp_path / "cut"))
    assert len(records.trials) == 12
    facts = records.provenance
    assert (facts["cut_trials"], facts["most_parts"]) == (6, 8)
    (sentence,) = remarks(records)
    assert sentence.startswith("6 trials had their batches cut, into 8 parts at most, because mem")
    told = "batches cut" + "in 6 of 12 trials, into 8 parts at most, because memory ran out\n"
    assert told in origin_of(tmp_path / "cut")
    whole = load_records(dataclasses.replace(study, seeds=(0, 3)).write(tmp_path / "whole"))
    assert (whole.provenance["cut_trials"], whole.provenance["most_parts"]) == (0, 1)
    assert remarks(whole) == []
    assert "batches cut" not in origin_of(tmp_path / "whole")


def test_failed_trials_are_counted_by_their_sentences(tmp_path: Path) -> None:
    failed = STUDY.trials()[:12]
    STUDY.write(tmp_path, skip=failed)
    for place, trial in enumerate(failed):
        reason = f"reason {'abcdefghijkl'[place]}"
        if place < 2:
            reason = f"Expected room, <found> {place} times 1.5e-3; ask for more."
        STUDY.write_failure(tmp_path, trial, reason)
    (sentence,) = remarks(load_records(tmp_path))
    assert sentence.startswith("12 trials failed and are not in the table; the first: random")
    assert sentence.endswith(
        "seed 0: Expected room, <found> 0 times 1.5e-3; ask for more. "
        f"(2 for this reason; 1{TIMES} reason c; 1{TIMES} reason d; 1{TIMES} reason e; 7 further "
        "reasons)"
    )
    told = origin_of(tmp_path)
    first = f"2{TIMES} Expected room, <found> 0 times 1.5e-3; ask for more. 1{TIMES} reason c. 1"
    assert "failed trials" + "12 of 36: " + first in told
    assert f"1{TIMES} reason i. And 3 further reasons.\n" in told


def test_a_reason_that_all_share_is_said_once(tmp_path: Path) -> None:
    failed = STUDY.trials()[:2]
    STUDY.write(tmp_path, skip=failed)
    for trial in failed:
        STUDY.write_failure(tmp_path, trial, "Expected room, found none; ask for more.")
    (sentence,) = remarks(load_records(tmp_path))
    assert sentence.startswith("2 trials failed")
    assert sentence.endswith("seed 0: Expected room, found none; ask for more.")


def test_processes_that_died_are_counted(tmp_path: Path) -> None:
    FakeStudy(methods=("random",), keeps=(0.5,)).write(tmp_path)
    records = load_records(tmp_path)
    assert remarks(records) == []
    for number in range(2):
        Store(tmp_path / "store").write("loss", {"kind": "loss", "number": number}, {})
    (sentence,) = remarks(load_records(tmp_path))
    assert sentence.startswith("2 worker processes died")


HOSTILE_SETTINGS: dict[str, Any] = {
    "text.usetex": True,
    "text.parse_math": True,
    "font.family": "serif",
    "figure.dpi": 33,
    "savefig.dpi": 44,
    "savefig.bbox": "tight",
    "figure.autolayout": True,
    "figure.figsize": (1, 1),
    "axes.prop_cycle": mpl.cycler(color=["red"]),
    "axes.formatter.use_mathtext": True,
    "axes.unicode_minus": False,
    "lines.linewidth": 9,
    "markers.fillstyle": "none",
    "patch.linewidth": 7,
    "legend.loc": "lower left",
    "svg.fonttype": "none",
    "svg.hashsalt": None,
    "path.sketch": (9, 9, 9),
    "image.origin": "lower",
}
"""What a user's matplotlibrc may hold; TeX is not there."""


def test_no_file_depends_on_the_users_settings(tmp_path: Path) -> None:
    study = dataclasses.replace(
        SMALL,
        seeds=(0,),
        quotas=("none",),
        network_methods=("autobot",),
        network_targets=("flops(0.5)",),
        n_noisy=40,
    )
    expected = write_frontier(study.write(tmp_path))
    before = {name: path.read_bytes() for name, path in expected.paths.items()}
    with mpl.rc_context(HOSTILE_SETTINGS):
        write_frontier(tmp_path)
    assert {"network.svg", "densities.svg", "costs.png"} < set(before)
    for name, path in expected.paths.items():
        assert path.read_bytes() == before[name], name


def test_no_figure_of_images_or_scores_depends_on_the_users_settings() -> None:
    pixels = np.linspace(0, 255, 4 * 9 * 9 * 3).astype(np.uint8).reshape(4, 9, 9, 3)
    lost = LostImages([LostImage(each, 7, "cat", "dog", 0.5) for each in pixels], 4, 4)

    def draw() -> list[bytes]:
        figures = [lost_figure(lost), theory_figure(TwoGaussians((-1, 1), (0.5, 1), 0.5))]
        return [kind(figure) for figure in figures for kind in (to_svg, to_pdf)]

    before = draw()
    with mpl.rc_context(HOSTILE_SETTINGS):
        assert draw() == before


DOLLARS = ("cost$", "a_{b$x$^", "$\\frac{$", r"\$5 and $")


def test_dollars_in_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    study = FakeStudy(
        methods=("random", "$m_{$"),
        quotas=("none", "q$x$"),
        losses=("cross_entropy", "l$_{$"),
        models=("small_cnn", "n$^{$"),
        class_names=DOLLARS,
        network_methods=("p$_{$",),
        network_targets=("flops(0.5)",),
        seeds=(0,),
        keeps=(0.5,),
    )
    records = load_records(study.write(tmp_path))
    table = frontier_table(records.trials, records.class_names)
    figures = raydrop.frontier._figures(records, table, "class")
    figures["overlay"] = overlay_figure(table.assign(study="s$_{$"), "class")
    assert {"network", "densities", "correlations", "heatmap", "costs"} < set(figures)
    for name, figure in figures.items():
        assert to_svg(figure), name
        texts = {text.get_text() for text in figure.findobj(Text) if "$" in text.get_text()}
        assert texts, name
        for text in figure.findobj(Text):
            assert not text.get_parse_math(), (name, text)


def test_very_long_names_do_not_break_a_figure(tmp_path: Path) -> None:
    long = "m" * 3000
    study = FakeStudy(
        methods=("random", long),
        quotas=("none", long),
        losses=("cross_entropy", long),
        class_names=("a", long),
        network_methods=(long,),
        network_targets=("flops(0.5)",),
        seeds=(0,),
        keeps=(0.5,),
    )
    records = load_records(study.write(tmp_path))
    table = frontier_table(records.trials, records.class_names)
    figures = raydrop.frontier._figures(records, table, "class")
    for study_name in (long, "_hidden", ""):
        figures[study_name] = overlay_figure(table.assign(study=study_name), "class")
    for name, figure in figures.items():
        assert to_svg(figure), name
        assert max(figure.get_size_inches()) < 20, name


HOSTILE = "\0\b\x1b[2J</script><!--]]>&\"'\r\n\u2028\x85\x9b\u202e\uffff猫"


def hostile_study(folder: Path, hostile: str = HOSTILE) -> Path:
    """A study, as older versions may have left one, of which every name is hostile."""
    study = FakeStudy(
        methods=("random", f"m{hostile}"),
        quotas=("none", f"q{hostile}"),
        losses=(f"l{hostile}",),
        models=(f"n{hostile}",),
        class_names=(f"a{hostile}", "b"),
        network_methods=(f"p{hostile}",),
        network_targets=("flops(0.5)",),
        n_noisy=40,
        keeps=(0.5,),
        seeds=(0,),
    )
    study.write(folder, skip=study.trials()[:1])
    study.write_failure(folder, study.trials()[0], f"f{hostile}")
    path = folder / "study.json"
    body = json.loads(path.read_text())
    body["study"]["name"] = f"s{hostile}"
    body["versions"] = {f"v{hostile}": f"w{hostile}"}
    path.write_text(json.dumps(body))
    return folder


@pytest.mark.filterwarnings("ignore:Glyph")  # of a font without Chinese
def test_hostile_names_are_shown_in_every_file(tmp_path: Path) -> None:
    shown = visible(HOSTILE)
    written = write_frontier(hostile_study(tmp_path), pdf=True)
    for name, path in written.paths.items():
        if path.suffix == ".svg":
            for text in ET.fromstring(path.read_bytes()).itertext():
                assert all(map(str.isprintable, text.split("\n"))), name
    trials = pd.read_parquet(written.paths["trials.parquet"])
    points = pd.read_csv(written.paths["frontier.csv"])
    for table in (trials, points):
        assert set(table["loss"]) == {f"l{shown}"}
        assert f"m{shown}" in set(table["method"])
    html = written.report.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert not [c for c in html if c != "\n" and not c.isprintable() and c not in "\u00a0\u2002"]
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 3
    for letter in "mqlnapfsvw":
        assert f"{letter}{shown}" in page.text, letter
    data = json.loads(html.split('id="frontier-data">')[1].split("</script>")[0])
    assert f"m{shown}" in data["filters"]["method"]["options"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_shown_where_studies_are_laid_over_each_other(tmp_path: Path) -> None:
    folders = [hostile_study(tmp_path / name) for name in ("a", "b\x1b")]
    overlay = write_overlay(folders, tmp_path / "out")
    names = set(pd.read_csv(overlay.paths["overlay.csv"])["study"])
    assert all(name.isprintable() for name in names)
    assert len(names) == 2
    ET.fromstring(overlay.paths["overlay.svg"].read_bytes())


@pytest.mark.filterwarnings("ignore:Glyph")
def test_bytes_of_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    # As Python reads names of files that are not UTF-8; older folders of results have them.
    written = write_frontier(hostile_study(tmp_path, "\udce9"))
    assert set(pd.read_csv(written.paths["frontier.csv"])["loss"]) == {r"l\udce9"}
    assert set(pd.read_parquet(written.paths["trials.parquet"])["loss"]) == {r"l\udce9"}
    assert r"a\udce9" in written.report.read_text(encoding="utf-8")
    ET.fromstring(written.paths["heatmap.svg"].read_bytes())
