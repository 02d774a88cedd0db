from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_frontier_records import TRANSFER, FakeStudy

import raydrop.frontier
from raydrop.errors import StoreError
from raydrop.frontier import Frontier, remarks, summary_table, write_frontier
from raydrop.frontier.report import SHOWN_CLASSES, inline_svg

FILES = {"trials.parquet", "frontier.csv", "frontier.png", "frontier.svg", "report.html"}
STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"))
SMALL = FakeStudy(methods=("random",), keeps=(0.2,))


class Page(HTMLParser):
    """Collects what a browser would: tags, their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
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
    return written.report.read_text(encoding="utf-8")


def report_of(folder: Path) -> str:
    return write_frontier(folder).report.read_text(encoding="utf-8")


def test_every_file_is_written_and_nothing_else(written: Frontier) -> None:
    folder = written.records.directory
    assert set(written.paths) == FILES
    assert {path.name for path in folder.iterdir()} == FILES | {"store", "study.json"}
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
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
    assert "At keep fraction 0.2 with cross_entropy, random + drop" in page.text
    for row in written.table.to_dict("records"):
        assert f"{row['worst_class_accuracy']:.3f}" in page.text
        assert f"{row['worst_class_low']:.3f} to {row['worst_class_high']:.3f}" in page.text
    for fact in ("numpy 2.4.6", "5a" * 32, "51d" + "0" * 29, "2 in 2.0 minutes", "200 train"):
        assert fact in page.text
    assert "Not everything is here" not in page.text


def test_the_report_can_be_used_with_the_keyboard(html: str) -> None:
    page = Page(html)
    boxes = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert len(boxes) == 4
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    assert [tag for tag, _ in page.tags].count("button") == 13


def test_remarks_tell_what_the_table_leaves_out(written: Frontier, tmp_path: Path) -> None:
    assert remarks(written) == []
    missing, failed, *_ = STUDY.trials()
    STUDY.write(tmp_path, skip=[missing, failed])
    STUDY.write_failure(tmp_path, failed, "loss became NaN")
    failures, absent = remarks(write_frontier(tmp_path))
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
    html = report_of(tmp_path)
    page = Page(html)
    assert evil not in html
    assert [tag for tag, _ in page.tags].count("script") == 1
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


def test_inlined_figures_keep_their_references() -> None:
    svg = (
        b'<?xml?><svg width="9pt" height="9pt" viewBox="0 0 9 9"><g id="a"/><use href="#a"/></svg>'
    )
    assert inline_svg(svg, "left", 'x"y') == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="x&quot;y"><g id="left-a"/>'
        '<use href="#left-a"/></svg>'
    )


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
    page = Page(transferred.report.read_text(encoding="utf-8"))
    for text in (
        "resnet18: moso + none from resnet50, cross_entropy, keep 0.2",
        "resnet50: moso + none, cross_entropy, keep 0.5",
        "resnet18: all the data, cross_entropy",
        "resnet50: At no keep fraction did the worst class hold",
        "with resnet18 and cross_entropy",
        "scores fromresnet18, resnet50",
    ):
        assert text in page.text
    assert [tag for tag, _ in page.tags].count("button") == 14


def test_failures_and_missing_trials_name_their_model(tmp_path: Path) -> None:
    failed, missing = (
        next(t for t in TRANSFER.trials() if (t.model, t.method) == (model, "moso"))
        for model in ("resnet18", "resnet50")
    )
    TRANSFER.write(tmp_path, skip=[failed, missing])
    TRANSFER.write_failure(tmp_path, failed, "loss became NaN")
    frontier = write_frontier(tmp_path)
    assert "the first: moso + none for resnet18 at 0.2, seed 0: loss" in remarks(frontier)[0]
    text = Page(frontier.report.read_text(encoding="utf-8")).text
    assert "resnet18: moso + none, cross_entropy, keep 0.2, seed 0: loss became NaN" in text
    assert "resnet50: moso + none from resnet18, cross_entropy, keep 0.2, seed 0" in text


def test_the_report_says_what_share_of_the_mislabelled_samples_goes(transferred: Frontier) -> None:
    html = transferred.report.read_text(encoding="utf-8")
    section = html.partition("<h2>Mislabelled samples</h2>")[2].partition("<h2>")[0]
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
    assert len(boxes) == 6
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
    html = report_of(study.write(tmp_path))
    page = Page(html)
    assert evil not in html
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"moso + none from {evil}" in page.text
