"""Several studies on one footing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fake_study
import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy

from raydrop.errors import ConfigError, StudyMismatchError
from raydrop.frontier import frontier_table, load_records, summary_table
from raydrop.frontier.figures import canvas
from raydrop.frontier.figures.chart import overlay_chart
from raydrop.frontier.figures.frontier import overlay_figure
from raydrop.frontier.figures.looks import FRONT_COLOUR
from raydrop.frontier.overlay import (
    ABOUT_ONE_STUDY,
    Overlay,
    overlay_table,
    study_names,
    write_overlay,
)
from raydrop.frontier.statistics.resampling import resample

FIRST = FakeStudy(methods=("random", "el2n"))
SECOND = FakeStudy(methods=("random", "moso"), keeps=(0.2, 0.35))


def _write(study: FakeStudy, folder: Path, name: str) -> Path:
    study.write(folder)
    path = folder / "study.json"
    body = json.loads(path.read_text())
    body["study"]["name"] = name
    path.write_text(json.dumps(body))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("studies")
    return _write(FIRST, place / "a", "first"), _write(SECOND, place / "b", "second")


@pytest.fixture(scope="module")
def overlay(folders: tuple[Path, Path]) -> Overlay:
    return write_overlay(folders, folders[0].parent / "new" / "out")


def test_every_study_keeps_its_points_and_their_numbers(
    folders: tuple[Path, Path], overlay: Overlay
) -> None:
    out = overlay.place.folder
    assert {path.name for path in out.iterdir()} == {
        "overlay.csv", "overlay.png", "overlay.svg",
    }  # fmt: skip
    assert list(dict.fromkeys(overlay.table["study"])) == ["first", "second"]
    for name, folder in zip(("first", "second"), folders, strict=True):
        records = load_records(folder)
        alone = frontier_table(records.trials, records.class_names, resamples=resample(records))
        marks = ["on_front", "on_front_at_keep_fraction"]
        shared = [c for c in alone.columns if c not in (*ABOUT_ONE_STUDY, *marks)]
        found = overlay.table[overlay.table["study"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[shared], alone[shared])
    stored = pd.read_csv(out / "overlay.csv", keep_default_na=False)
    assert stored.columns[0] == "study"
    assert len(stored) == len(overlay.table) == 18


def test_the_fronts_are_over_all_studies(tmp_path: Path) -> None:
    better, worse = (FakeStudy(unpruned=False, keeps=keeps) for keeps in ((0.5, 0.8), (0.2, 0.5)))
    studies = {"a": better, "b": worse}
    table = overlay_table({n: load_records(s.write(tmp_path / n)) for n, s in studies.items()})
    points = table[["average_accuracy", "worst_class_accuracy"]].to_numpy()
    for within, mark in (
        (np.zeros(len(table)), "on_front"),
        (table["keep_fraction"].to_numpy(), "on_front_at_keep_fraction"),
    ):
        for i, point in enumerate(points):
            rivals = points[within == within[i]]
            beaten = ((rivals >= point).all(axis=1) & (rivals > point).any(axis=1)).any()
            assert table[mark].iloc[i] == (not beaten)
    # Some study's own front would be another one, or this test shows nothing.
    own = [frontier_table(load_records(tmp_path / name).trials)["on_front"] for name in "ab"]
    assert pd.concat(own).sum() > table["on_front"].sum()


def test_series_are_named_with_their_study(overlay: Overlay) -> None:
    (texts,) = summary_table(overlay).values()
    assert {"first: random + drop", "second: random + drop", "second: all the data"} <= set(
        texts.index
    )
    assert texts.loc["first: random + drop", 0.35] == ""
    (legend,) = overlay_figure(overlay_chart(overlay.table)).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0] == "first"
    assert labels.count("second: moso + none") == 1
    assert {f"first: {m} + {q}" for m in ("random", "el2n") for q in ("none", "drop")} <= set(
        labels
    )


def test_every_point_is_drawn_once_and_series_differ(overlay: Overlay) -> None:
    (ax,) = overlay_figure(overlay_chart(overlay.table)).axes
    single = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_gid() is None]
    drawn = {
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in single
        if line.get_linestyle() == "None"
    }
    points = overlay.table[["average_accuracy", "worst_class_accuracy"]].to_numpy()
    assert {tuple(point) for point in points} <= drawn
    looks = {
        (line.get_color(), line.get_marker(), line.get_fillstyle())
        for line in single
        if line.get_color() != FRONT_COLOUR
    }
    assert len(looks) == 10  # 2 x 2 x 2 series and two stars
    # Both have the same runs on all the data: the lower star shows around the upper.
    first, second = (line.get_markersize() for line in single if line.get_marker() == "*")
    assert first > second


def test_the_same_studies_give_the_same_bytes(
    folders: tuple[Path, Path], overlay: Overlay, tmp_path: Path
) -> None:
    again = write_overlay(folders, tmp_path)
    for name, path in overlay.paths.items():
        assert path.read_bytes() == again.paths[name].read_bytes(), name


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for place in ("x/one", "x/two", "y/one"):
        FIRST.write(tmp_path / place)
    one, two, other = (load_records(tmp_path / p) for p in ("x/one", "x/two", "y/one"))
    assert study_names([one, two]) == ["fake (one)", "fake (two)"]
    names = study_names([one, other])
    assert len(set(names)) == 2
    assert all(name.startswith("fake (one) (") for name in names)


def test_several_models_have_a_panel_each(tmp_path: Path) -> None:
    records = load_records(TRANSFER.write(tmp_path))
    table = overlay_table({"a": records, "b": records})
    titles = [ax.get_title() for ax in overlay_figure(overlay_chart(table)).axes]
    assert titles == ["resnet18, cross_entropy", "resnet50, cross_entropy"]
    fronts = table[table["on_front"]]
    assert set(fronts["model"]) == {"resnet18", "resnet50"}
    # The same trials twice: a point and its copy share their fate.
    assert (fronts["study"] == "a").sum() == (fronts["study"] == "b").sum()


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _write(FIRST, tmp_path / "a", "first")
    monkeypatch.setattr(fake_study, "FINGERPRINT", "7b" * 32)
    second = _write(SECOND, tmp_path / "b", "second")
    with pytest.raises(
        StudyMismatchError, match=r"same test set, found digits \(5a5a.*\) in .*a and digits \(7b7b"
    ):
        write_overlay([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_folder_or_the_same_twice_is_refused(tmp_path: Path) -> None:
    folder = _write(FIRST, tmp_path / "a", "first")
    with pytest.raises(ConfigError, match="two or more output folders for --out, found 1"):
        write_overlay([folder], tmp_path / "out")
    with pytest.raises(ConfigError, match="found a more than once; name each once"):
        write_overlay([folder, folder / ".." / "a"], tmp_path / "out")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn where a test looks at something else."""
    for name in ("to_png", "to_svg"):
        monkeypatch.setattr(canvas, name, lambda figure: b"")


@pytest.mark.usefixtures("undrawn")
def test_classes_beside_groups_need_a_choice(tmp_path: Path) -> None:
    by_class = dataclasses.replace(GROUPED, by="class")
    folders = [_write(GROUPED, tmp_path / "a", "a"), _write(by_class, tmp_path / "b", "b")]
    with pytest.raises(ConfigError, match=r"found group in .*a, class in .*b; choose with --by"):
        write_overlay(folders, tmp_path / "out")
    assert write_overlay(folders, tmp_path / "out", "group").by == "group"


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_is_told_with_the_study(tmp_path: Path) -> None:
    a = _write(FIRST, tmp_path / "a", "first")
    SECOND.write(tmp_path / "b", skip=SECOND.trials()[:2])
    (line,) = write_overlay([a, tmp_path / "b"], tmp_path / "out").remarks()
    assert line.startswith("fake: 2 trials are missing")


def test_names_do_not_change_the_studies_own_tables(tmp_path: Path) -> None:
    """Two studies with the same trials: the marks alone are joint."""
    records = load_records(_write(FIRST, tmp_path / "a", "first"))
    table = overlay_table({"one": records, "two": records})
    one, two = (rows.drop(columns="study") for _, rows in table.groupby("study"))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True))
    alone = frontier_table(records.trials, records.class_names)
    assert one["on_front"].tolist() == alone["on_front"].tolist()
