"""What is written into a study's folder, and what the report says of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from html_page import PLOTLY, Page
from matplotlib.text import Text

import raydrop.cli
from raydrop.errors import StoreError, visible
from raydrop.frontier import Frontier, comparisons, load_records, remarks, summary_table
from raydrop.frontier.figures import canvas, catalogue
from raydrop.frontier.figures.canvas import to_pdf, to_svg
from raydrop.frontier.figures.chart import overlay_chart
from raydrop.frontier.figures.frontier import overlay_figure
from raydrop.frontier.figures.pictures import LostImage, LostImages, lost_figure
from raydrop.frontier.overlay import write_overlay
from raydrop.frontier.records import Records
from raydrop.frontier.report import page as report_page
from raydrop.frontier.report.page import render_report
from raydrop.frontier.report.tables import SHOWN_CLASSES
from raydrop.frontier.summary import TIMES
from raydrop.frontier.table import table_of
from raydrop.frontier.write import write_frontier
from raydrop.store import Store
from raydrop.study import TrialConfig
from raydrop.theory import TwoGaussians
from raydrop.theory.figures import theory_figure

FIGURES = ("frontier", "curves", "costs", "densities", "correlations", "heatmap")
TABLES = {"trials.parquet", "frontier.csv", "comparisons.csv", "report.html"}
FILES = TABLES | {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
FEW = TABLES | {"costs.png", "costs.svg"}
STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"), keeps=(0.2,))
SMALL = FakeStudy(methods=("random",), keeps=(0.2,), quotas=("none",))
SHOWN_COLUMNS = {"front", "method", "quotas", "loss", "keep fraction", "kept", "seeds"}
SHOWN_COLUMNS |= {"worst class", "95 % interval", "worst is", "average", "gap", "std"}
BY_GROUP = dataclasses.replace(GROUPED, methods=("random",), keeps=(0.2,))
STAND_INS = dict.fromkeys(catalogue.FIGURES, b'<svg viewBox="0 0 1 1"><g/></svg>')


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are all that is left out here; the canvas's own tests have them."""
    monkeypatch.setattr(canvas, "DPI", 30)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, no_pngs: None) -> None:
    """Draw one figure instead of all, and no pixels: drawing is what takes time."""
    monkeypatch.setattr(catalogue, "FIGURES", {"costs": catalogue.FIGURES["costs"]})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Frontier:
    """A finished study's frontier; tests read it only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "DPI", 30)
        return write_frontier(STUDY.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def html(written: Frontier) -> str:
    """The report without Plotly's script."""
    whole = written.report.read_text(encoding="utf-8")
    html = whole.replace(PLOTLY, "")
    assert len(whole) - len(html) > 1e6
    return html


def reported(records: Records, drawn: dict[str, bytes] | None = None) -> str:
    """Return the report with stand-ins for figures."""
    return render_report(records, table_of(records), drawn, comparisons(records))


def text_of(folder: Path) -> str:
    return Page(reported(load_records(folder))).text


def test_every_file_is_written_and_nothing_else(written: Frontier) -> None:
    folder = written.records.place.folder
    assert set(written.paths) == FILES
    assert {path.name for path in folder.iterdir()} == FILES | {"store", "study.json"}
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    points = pd.read_csv(folder / "frontier.csv", keep_default_na=False)
    assert len(points) == len(written.table) == 10


def test_parquet_gives_the_trials_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {})

    @dataclasses.dataclass(frozen=True)
    class WithoutOwls(FakeStudy):
        def labels(self) -> np.ndarray:
            return np.repeat([0, 1, 3], self.test_per_class)

    frontier = write_frontier(WithoutOwls(keeps=(0.5,)).write(tmp_path))
    stored = pd.read_parquet(tmp_path / "trials.parquet")
    assert list(stored.columns) == list(frontier.records.trials.columns)
    assert stored["method"].tolist() == frontier.records.trials["method"].tolist()
    for ours, read in zip(frontier.records.trials["by_class"], stored["by_class"], strict=True):
        np.testing.assert_array_equal(np.array(read, dtype=float), ours)


@pytest.mark.usefixtures("few")
def test_what_fails_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frontier(SMALL.write(tmp_path))
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in FEW}

    def fail(*_: object) -> str:
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr(report_page, "render_report", fail)
        with pytest.raises(RuntimeError, match="no ink"):
            write_frontier(tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in FEW} == before
    (tmp_path / "frontier.csv").unlink()
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


def test_the_report_loads_nothing_and_all_references_are_found(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert "default-src 'none'" in html
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert not re.findall(r"url\((?!#)", html)
    assert "@import" not in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert references
    assert references <= set(ids)


def test_the_report_says_what_is_there_and_no_more(written: Frontier, html: str) -> None:
    page = Page(html)
    for keep, loss in itertools.product(STUDY.keeps, STUDY.losses):
        assert f"At keep fraction {keep:g} with {loss}, " in page.text
    for row in written.table.to_dict("records"):
        assert f"{row['worst_class_accuracy']:.3f}" in page.text
        assert f"{row['worst_class_low']:.3f} to {row['worst_class_high']:.3f}" in page.text
    facts = ("numpy 2.4.6", "5a" * 32, "51d" + "0" * 29, "2 in 2.0 minutes", "200 train")
    shown = ("What is kept of each class", "Hard classes and what is kept of them")
    for said in (*facts, *shown):
        assert said in page.text
    labels = {attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"}
    assert "Accuracy of each class on all the data against its density" in labels
    for absent in ("Not everything is here", "islabelled", "uniform draw", "scores from", "--by"):
        assert absent not in page.text
    # The model is named in the footer alone.
    assert page.text.count("small_cnn") == 1


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


def test_remarks_and_the_report_tell_what_is_missing_failed_and_damaged(
    written: Frontier, tmp_path: Path
) -> None:
    assert remarks(written.records) == []
    missing, failed, damaged, *_ = STUDY.trials()
    STUDY.write(tmp_path, skip=[missing, failed])
    STUDY.write_failure(tmp_path, failed, "loss became <NaN> & stayed; lower learning_rate")
    failures, absent = remarks(load_records(tmp_path))
    assert failures.startswith("1 trials failed")
    assert "seed 1: loss became" in failures
    assert absent.startswith("1 trials are missing")
    file = tmp_path / "store" / "trial" / STUDY.trial_id(damaged) / "predictions.npy"
    file.write_bytes(b"")
    text = text_of(tmp_path)
    for said in (
        "Failed: 1 of 20 trials",
        "random + none, cross_entropy, keep 0.2, seed 1: loss became <NaN> & stayed;",
        "Not finished: 2 of 20 trials",
        "random + none, cross_entropy, keep 0.2, seed 0",
        "Damaged entries, set aside: 1;",
        f"trial/{STUDY.trial_id(damaged)}: random + none, cdb_w, keep 0.2, seed 0",
        "Points with fewer seeds than others: 1;",
        "random + none, cdb_w, keep 0.2: 1 of 2 seeds",
    ):
        assert said in text


def test_very_many_classes_show_the_lowest(tmp_path: Path) -> None:
    names = tuple(f"class-{k:03d}" for k in range(SHOWN_CLASSES + 20))
    study = dataclasses.replace(SMALL, class_names=names, test_per_class=20, seeds=(0,))
    text = text_of(study.write(tmp_path))
    assert f"the {SHOWN_CLASSES} classes that fall lowest" in text
    assert "the other 20 are in trials.parquet" in text
    # Higher indices are harder in the fake study.
    assert "class-119" in text
    assert "class-000" not in text


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Two target models, scores of both for each, and mislabelled samples; tests read it only."""
    return load_records(TRANSFER.write(tmp_path_factory.mktemp("transfer")))


@pytest.fixture(scope="module")
def transferred_html(transferred: Records) -> str:
    return reported(transferred)


def test_the_summary_has_a_table_per_model_and_a_row_per_query_model(transferred: Records) -> None:
    points = table_of(transferred)
    tables = summary_table(Frontier(transferred, points, points, {}))
    assert list(tables) == ["resnet18, cross_entropy", "resnet50, cross_entropy"]
    for model, table in zip(("resnet50", "resnet18"), tables.values(), strict=True):
        names = {"all the data", "random + none", "moso + none", f"moso + none from {model}"}
        assert set(table.index) == names
        assert table.loc["all the data"].iloc[-1].startswith("0.9")
    texts = [text for table in tables.values() for text in table.to_numpy().ravel() if text]
    assert len(texts) == len(points) == 14


def test_the_report_tells_models_and_query_models_apart(transferred_html: str) -> None:
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


def test_failures_and_missing_trials_name_their_model_and_absent_cells_are_empty(
    tmp_path: Path,
) -> None:
    failed, missing = (
        next(t for t in TRANSFER.trials() if (t.model, t.method) == (model, "moso"))
        for model in ("resnet18", "resnet50")
    )
    lacking = [t for t in TRANSFER.trials() if (t.method, t.keep_fraction) == ("random", 0.2)]
    TRANSFER.write(tmp_path, skip=[failed, missing, *lacking])
    TRANSFER.write_failure(tmp_path, failed, "loss became NaN")
    records = load_records(tmp_path)
    assert "the first: moso + none for resnet18 at 0.2, seed 0: loss" in remarks(records)[0]
    html = reported(records)
    text = Page(html).text
    assert "resnet18: moso + none, cross_entropy, keep 0.2, seed 0: loss became NaN" in text
    assert "resnet50: moso + none from resnet18, cross_entropy, keep 0.2, seed 0" in text
    row = html.partition(">random + none</th>")[2].partition("</tr>")[0]
    assert Page(row).words == "0.500 [0.500, 0.500]"


def test_the_report_says_what_share_of_the_mislabelled_samples_goes(transferred_html: str) -> None:
    section = transferred_html.partition("<h2>Mislabelled samples</h2>")[2].partition("<h2")[0]
    page = Page(section)
    assert page.open == []
    assert "80 of the 800 training samples (10 %) are known to be mislabelled." in page.words
    said = "by moso + none from resnet50 at keep fraction 0.5 (0.66, seed range 0.65"
    assert said in page.words
    rows = [Page(row).words for row in re.findall(r"<tr>.*?</tr>", section, re.S)]
    assert rows == [
        "method + quotas keep 0.5 keep 0.2",
        "uniform draw, on average 0.500 0.800",
        "moso + none from resnet50 0.660 [0.650, 0.670] 0.864 [0.860, 0.868]",
        "moso + none from resnet18 0.610 [0.600, 0.620] 0.844 [0.840, 0.848]",
        "random + none 0.500 [0.500, 0.500] 0.800 [0.800, 0.800]",
    ]
    best = re.findall(r'<span class="best">([^<]*)</span>', section)
    assert best == ["highest", "0.660", "0.864"]
    page = Page(transferred_html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    boxes = [each for _, each in page.tags if each.get("role") == "region"]
    assert len(boxes) >= 4
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study whose quotas are by group."""
    return BY_GROUP.write(tmp_path_factory.mktemp("grouped"))


def frontier_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["raydrop", "frontier", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        raydrop.cli.main()
    return int(exit_.value.code or 0)


@pytest.mark.usefixtures("few")
def test_a_study_by_group_is_reported_by_group_unless_asked_otherwise(
    grouped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frontier = write_frontier(grouped)
    assert frontier.by == "group"
    assert set(frontier.paths) == FEW
    texts = {t for table in summary_table(frontier).values() for t in table.to_numpy().ravel()}
    for row in frontier.table.to_dict("records"):
        start = f"{row['average_accuracy']:.2f}/{row['worst_group_accuracy']:.2f}"
        assert any(text.startswith(start) for text in texts)
    stored = pd.read_parquet(grouped / "trials.parquet")
    assert stored["by_group"].map(len).eq(8).all()
    assert stored["kept_by_group"].map(sum).equals(stored["n_kept"])
    for arguments, by in ((("--by", "class"), "class"), ((), "group")):
        assert frontier_command(monkeypatch, grouped, *arguments) == 0
        assert f"Average/worst-{by} accuracy;" in capsys.readouterr().out
        assert set(pd.read_csv(grouped / "frontier.csv")["front_by"]) == {by}


def test_the_report_by_group_speaks_of_groups(grouped: Path) -> None:
    records = load_records(grouped, "group")
    page = Page(reported(records, STAND_INS))
    assert page.open == []
    for row in table_of(records).to_dict("records"):
        assert f"{row['worst_group_accuracy']:.3f}" in page.words
        assert f"{row['worst_group_low']:.3f} to {row['worst_group_high']:.3f}" in page.words
    for words in (
        "fake: average against worst-group accuracy",
        "Worst group against average",
        "What is kept of each group",
        "Accuracy by group",
        "cat, water40 train",
        "the lowest of 8 noisy accuracies, each from 10 to 40 test samples",
        "raydrop frontier DIR --by class makes it anew about the other",
        "quotas and weights bygroup",
    ):
        assert words in page.words
    assert "worst class" not in page.words
    assert "recall" not in page.words
    other = Page(reported(load_records(grouped, "class"), STAND_INS)).text
    assert "Recall by class" in other
    assert "worst group" not in other


def test_figures_that_the_records_do_not_permit_are_left_out(tmp_path: Path) -> None:
    def permitted(folder: Path) -> set[str]:
        records = load_records(folder)
        results = catalogue.Results(records, table_of(records))
        return {name for name, kind in catalogue.FIGURES.items() if kind.given(results) is not None}

    without = dataclasses.replace(SMALL, unpruned=False).write(tmp_path / "pruned")
    assert permitted(without) == set(FIGURES) - {"correlations", "heatmap"}
    pruned = [trial for trial in SMALL.trials() if trial.method != "none"]
    whole = SMALL.write(tmp_path / "whole", skip=pruned)
    assert permitted(whole) == {"frontier", "curves", "costs"}
    text = Page(reported(load_records(whole), {"curves": STAND_INS["curves"]})).text
    assert "Against the keep fraction" in text
    assert "What is kept" not in text


@pytest.mark.usefixtures("few")
def test_by_group_without_groups_is_one_sentence_and_leaves_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL.write(tmp_path)
    write_frontier(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FEW}
    assert frontier_command(monkeypatch, tmp_path, "--by", "group") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Error: Expected groups in the data of")
    assert said.endswith("found none; leave out --by, or run the study on data with groups.")
    assert {name: (tmp_path / name).read_bytes() for name in FEW} == before
    assert frontier_command(monkeypatch, tmp_path, "--by", "gruop") == 1
    assert "Unknown value of --by 'gruop': did you mean group?" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Cut(FakeStudy):
    """Some trials had their batches cut; records of older versions say nothing of it."""

    def info(self, trial: TrialConfig) -> dict[str, Any]:
        parts = {0: {"batch_parts": 1}, 1: {"batch_parts": 2}, 2: {"batch_parts": 8}}
        return super().info(trial) | parts.get(trial.seed, {})


def origin_of(folder: Path) -> str:
    """What the page says of where it comes from; names and values follow each other."""
    text = text_of(folder)
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
    study = FakeStudy()
    failed = study.trials()[:12]
    study.write(tmp_path, skip=failed)
    for place, trial in enumerate(failed):
        reason = f"reason {'abcdefghijkl'[place]}"
        if place < 2:
            reason = f"Expected room, <found> {place} times 1.5e-3; ask for more."
        study.write_failure(tmp_path, trial, reason)
    (sentence,) = remarks(load_records(tmp_path))
    assert sentence.startswith("12 trials failed and are not in the table; the first: random")
    assert sentence.endswith(
        "seed 0: Expected room, <found> 0 times 1.5e-3; ask for more. "
        f"(2 for this reason; 1{TIMES} reason c; 1{TIMES} reason d; 1{TIMES} reason e; 7 further "
        "reasons)"
    )
    told = origin_of(tmp_path)
    first = f"2{TIMES} Expected room, <found> 0 times 1.5e-3; ask for more. 1{TIMES} reason c. 1"
    assert "failed trials" + "12 of 18: " + first in told
    assert f"1{TIMES} reason i. And 3 further reasons.\n" in told


def test_a_reason_that_all_share_is_said_once_and_processes_that_died_are_counted(
    tmp_path: Path,
) -> None:
    study = FakeStudy(methods=("random",), keeps=(0.5,))
    failed = study.trials()[:2]
    study.write(tmp_path, skip=failed)
    for trial in failed:
        study.write_failure(tmp_path, trial, "Expected room, found none; ask for more.")
    for number in range(2):
        Store(tmp_path / "store").write("loss", {"kind": "loss", "number": number}, {})
    sentence, deaths = remarks(load_records(tmp_path))
    assert sentence.startswith("2 trials failed")
    assert sentence.endswith("seed 0: Expected room, found none; ask for more.")
    assert deaths.startswith("2 worker processes died")


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


def test_the_same_records_give_the_same_bytes_whatever_the_users_settings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dataclasses.replace(
        SMALL, seeds=(0,), network_methods=("autobot",), network_targets=("flops(0.5)",), n_noisy=40
    )
    one, other = (study.write(tmp_path / name) for name in "ab")
    few = {"network": catalogue.FIGURES["network"]}
    monkeypatch.setattr(catalogue, "FIGURES", few)
    expected = write_frontier(one, pdf=True)
    with mpl.rc_context(HOSTILE_SETTINGS):
        found = write_frontier(other, pdf=True)
    assert {"network.pdf", "network.png", "harm.csv"} < set(found.paths)
    for name, path in expected.paths.items():
        content = path.read_bytes()
        assert found.paths[name].read_bytes() == content, name
        assert content.startswith(b"%PDF-") == name.endswith(".pdf")


def test_no_figure_of_records_depends_on_the_users_settings(written: Frontier) -> None:
    """The figure of networks is compared above."""
    with mpl.rc_context(HOSTILE_SETTINGS):
        figures = catalogue.draw_figures(written.records, written.table)
        svgs = {name: to_svg(figure) for name, figure in figures.items()}
    assert set(svgs) == set(FIGURES)
    differing = [n for n, svg in svgs.items() if written.paths[f"{n}.svg"].read_bytes() != svg]
    assert differing == []


def test_no_figure_of_images_or_scores_depends_on_the_users_settings() -> None:
    pixels = np.linspace(0, 255, 4 * 9 * 9 * 3).astype(np.uint8).reshape(4, 9, 9, 3)
    lost = LostImages([LostImage(each, 7, "cat", "dog", 0.5) for each in pixels], 4, 4)

    def draw() -> list[bytes]:
        figures = [lost_figure(lost), theory_figure(TwoGaussians((-1, 1), (0.5, 1), 0.5))]
        return [*map(to_svg, figures), to_pdf(figures[0])]

    before = draw()
    with mpl.rc_context(HOSTILE_SETTINGS):
        assert draw() == before


HOSTILE = (
    "$_{$\0\b\x1b[2J</script><!--]]><img src=x>&\"'\r\n\u2028\x85\x9b\u202e\uffff猫" + "m" * 300
)


def hostile_study(folder: Path, hostile: str = HOSTILE, **options: Any) -> Path:
    """A study, as older versions may have left one, of which every name is hostile."""
    names: dict[str, Any] = {
        "methods": (f"m{hostile}",),
        "quotas": (f"q{hostile}",),
        "losses": (f"l{hostile}",),
        "models": (f"n{hostile}", "small_cnn"),
        "class_names": (f"a{hostile}", "b"),
        "network_methods": (f"p{hostile}",),
        "network_targets": ("flops(0.5)",),
    }
    study = FakeStudy(**{**names, **options}, n_noisy=40, keeps=(0.5,), seeds=(0,))
    study.write(folder, skip=study.trials()[:1])
    study.write_failure(folder, study.trials()[0], f"f{hostile}")
    path = folder / "study.json"
    body = json.loads(path.read_text())
    body["study"]["name"] = f"s{hostile}"
    body["versions"] = {f"v{hostile}": f"w{hostile}"}
    path.write_text(json.dumps(body))
    return folder


@pytest.mark.filterwarnings("ignore:Glyph")  # of a font without Chinese
def test_names_are_shown_whatever_is_in_them_as_far_as_there_is_room(tmp_path: Path) -> None:
    shown, records = visible(HOSTILE), load_records(hostile_study(tmp_path))
    table = table_of(records)
    studies = [table.assign(study=study) for study in (f"s{shown}", "_hidden", "")]
    # By which dollars would be formulas.
    with mpl.rc_context(HOSTILE_SETTINGS):
        figures = catalogue.draw_figures(records, table)
        figures["overlay"] = overlay_figure(overlay_chart(pd.concat(studies, ignore_index=True)))
        svgs = {name: to_svg(figure) for name, figure in figures.items()}
    assert {"network", "densities", "correlations", "heatmap", "costs"} < set(figures)
    for name, figure in figures.items():
        assert max(figure.get_size_inches()) < 25, name
        texts = figure.findobj(Text)
        assert any("$" in text.get_text() for text in texts), name
        # Dollars are no formulas.
        assert not any(text.get_parse_math() for text in texts), name
        for text in ET.fromstring(svgs[name]).itertext():
            assert all(map(str.isprintable, text.split("\n"))), name
    html = reported(records, {name: svgs[name] for name in catalogue.FIGURES if name in svgs})
    html = html.replace(PLOTLY, "")
    assert not [c for c in html if c != "\n" and not c.isprintable() and c not in "\u00a0\u2002"]
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    for letter in "mqlnapfsvw":
        assert f"{letter}{shown}" in page.text, letter
    data = json.loads(html.split('id="frontier-data">')[1].split("</script>")[0])
    assert f"m{shown}" in data["filters"]["method"]["options"]


@pytest.mark.usefixtures("no_pngs")
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_shown_in_files_whatever_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {"heatmap": catalogue.FIGURES["heatmap"]})
    # As Python reads names of files that are not UTF-8; older folders of results have them.
    for hostile, shown in ((HOSTILE, visible(HOSTILE)), ("\udce9", r"\udce9")):
        methods = ("random", f"m{hostile}")
        dense = {"network_methods": (), "models": (f"n{hostile}",), "methods": methods}
        folder = hostile_study(tmp_path / f"b\x1b{len(hostile)}", hostile, **dense)
        written = write_frontier(folder, pdf=hostile == HOSTILE)
        points = pd.read_csv(written.paths["frontier.csv"])
        for table in (points, pd.read_parquet(written.paths["trials.parquet"])):
            assert set(table["loss"]) == {f"l{shown}"}
            assert f"m{shown}" in set(table["method"])
        assert r"a\udce9" in written.report.read_text(encoding="utf-8") or hostile == HOSTILE
        ET.fromstring(written.paths["heatmap.svg"].read_bytes())
    overlay = write_overlay(sorted(tmp_path.iterdir()), tmp_path / "out")
    names = set(pd.read_csv(overlay.paths["overlay.csv"])["study"])
    assert all(name.isprintable() for name in names)
    assert len(names) == 2
    ET.fromstring(overlay.paths["overlay.svg"].read_bytes())
