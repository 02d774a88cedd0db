"""Results as one object: the tables of the files, what was kept, what failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import FINGERPRINT, SMALL, FakeStudy

import raydrop
from raydrop.errors import ConfigError, IncompleteStudyError, StoreError
from raydrop.frontier import write_frontier
from raydrop.frontier.figures import catalogue
from raydrop.frontier.report import page
from raydrop.frontier.results import KEPT_COLUMNS, Results
from raydrop.store import Store, open_place
from raydrop.store.files import csv_text
from raydrop.store.samples import read_samples, write_samples

GROUPED = FakeStudy(attributes=("day", "night"), by="group", keeps=(0.5,))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither figures nor the page, which take long."""
    monkeypatch.setattr(catalogue, "FIGURES", {})
    monkeypatch.setattr(page, "render_report", lambda *_: "")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SMALL.write(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("study", [SMALL, GROUPED])
def test_tables_are_those_of_the_files(study: FakeStudy, tmp_path: Path, undrawn: None) -> None:
    folder = study.write(tmp_path)
    results = Results(folder)
    written = write_frontier(folder)
    assert csv_text(results.frontier) == written.paths["frontier.csv"].read_text()
    assert csv_text(results.comparisons) == written.paths["comparisons.csv"].read_text()
    pd.testing.assert_frame_equal(
        results.trials, pd.read_parquet(written.paths["trials.parquet"]), check_dtype=False
    )
    by_class = Results(folder, "class").frontier
    assert (
        by_class["on_front"].tolist() == write_frontier(folder, "class").table["on_front"].tolist()
    )


def test_the_report_is_written_when_it_is_asked_for(tmp_path: Path, undrawn: None) -> None:
    results = Results(SMALL.write(tmp_path))
    assert results.frontier.shape[0] == 9
    assert not (tmp_path / "report.html").exists()
    assert results.report == tmp_path / "report.html"
    assert results.report.exists()


def test_a_changed_table_is_the_callers_own(small: Path) -> None:
    results = Results(small)
    before = results.trials.copy()
    trials, points = results.trials, results.frontier
    trials["seed"], points["n_seeds"] = 9, 9
    assert results.trials["seed"].equals(before["seed"])
    assert set(results.frontier["n_seeds"]) == {2}


def test_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    first, second, third = SMALL.trials()[:3]
    SMALL.write(tmp_path, skip=[first, second, third])
    SMALL.write_failure(tmp_path, second, "the loss <b>diverged</b>")
    results = Results(tmp_path)
    assert results.failed[["trial_id", "reason"]].values.tolist() == [
        [SMALL.trial_id(second), "the loss <b>diverged</b>"]
    ]
    assert results.listed["status"].tolist()[:4] == ["missing", "failed", "missing", "finished"]
    assert len(results.trials) == len(SMALL.trials()) - 3
    assert "2 missing, 1 failed" in " ".join(repr(results).split())
    shown = results._repr_html_()
    assert "1 failed: the loss &lt;b&gt;diverged" in shown
    assert "<b>diverged" not in shown
    with pytest.raises(ConfigError, match=r"is failed \(the loss <b>diverged</b>\); run the study"):
        results.kept(SMALL.trial_id(second))


def test_a_study_all_of_whose_trials_failed_says_why(tmp_path: Path) -> None:
    SMALL.write(tmp_path, skip=SMALL.trials())
    for trial in SMALL.trials():
        SMALL.write_failure(tmp_path, trial, "no memory")
    results = Results(tmp_path)
    assert set(results.failed["reason"]) == {"no memory"}
    assert "18 failed: no memory" in results._repr_html_()
    with pytest.raises(IncompleteStudyError, match="found none of 18"):
        _ = results.trials


def _with_samples(folder: Path, study: FakeStudy) -> Results:
    """As fake trials keep the ids 0 to 4, make these the last of the training set."""
    study.write(folder)
    ids = np.array([9, 8, 4, 3, 2, 1, 0])
    write_samples(
        Store(open_place(folder)),
        FINGERPRINT,
        ids=ids,
        labels=ids % 4,
        groups=ids % 8 if study.attributes else None,
        paths=[f"train/{each}é\n.png" for each in ids],
        root="photos",
    )
    return Results(folder)


def test_what_was_kept_is_named(tmp_path: Path) -> None:
    results = _with_samples(tmp_path, GROUPED)
    trial = GROUPED.trials()[1]
    key = GROUPED.trial_id(trial)
    kept = results.kept(key)
    assert [*kept.columns] == [*KEPT_COLUMNS[:-1], "group_name", "score"]
    assert kept.attrs == {"root": "photos"}
    assert kept["sample_id"].tolist() == [0, 1, 2, 3, 4]
    assert kept["class_name"].tolist() == ["cat", "dog", "owl", "bee", "cat"]
    assert kept["label"].tolist() == [0, 1, 2, 3, 0]
    assert kept["group"].tolist() == [0, 1, 2, 3, 4]
    assert kept["group_name"].tolist() == GROUPED.group_names()[:5]
    assert kept["path"].tolist()[3] == "train/3é\n.png"
    assert kept["score"].isna().all()
    row = results.trials[results.trials["trial_id"] == key].iloc[0]
    point = results.frontier.query("method == 'random' and quotas == 'none'").iloc[0]
    asked = {"method": trial.method, "quotas": trial.quotas, "keep_fraction": 0.1 + 0.4}
    for found in (
        results.kept(key[:8]),
        results.kept(row),
        results.kept(point, seed=trial.seed),
        results.kept(**asked, seed=1),
        results.kept(asked, seed=1),
    ):
        pd.testing.assert_frame_equal(found, kept)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "found 18; say also which method and quotas and keep_fraction and seed"),
        ({"method": "el2n"}, "found 8; say also which quotas and keep_fraction and seed"),
        ({"methode": "el2n"}, "did you mean method"),
        ({"method": "moso"}, "with method 'moso' in .*, found el2n, none, random; name one"),
        ({"trial": "zz"}, "none whose id begins with 'zz'"),
        ({"trial": ""}, "none whose id begins with ''"),
    ],
)
def test_what_names_no_trial_or_several_is_refused(
    asked: dict[str, str], sentence: str, small: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Results(small).kept(**asked)  # type: ignore[arg-type]


def test_results_of_before_samples_were_kept_say_so(small: Path) -> None:
    with pytest.raises(StoreError, match="run the same study again, which adds them"):
        Results(small).kept(method="none", seed=0)


def test_samples_that_the_data_do_not_have_are_refused(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    ids = np.array([0, 1])
    write_samples(Store(open_place(tmp_path)), FINGERPRINT, ids=ids, labels=ids)
    with pytest.raises(StoreError, match=r"Expected kept samples of the data in .*, found others"):
        Results(tmp_path).kept(method="none", seed=0)
    write_samples(Store(tmp_path / "store"), "other", ids=ids, labels=ids + 3, paths=["a"])
    with pytest.raises(StoreError, match=r"Expected 2 paths in .*, found 1"):
        read_samples(Store(tmp_path / "store"), "other")


def test_samples_without_paths_and_groups(tmp_path: Path) -> None:
    store, ids = Store(tmp_path), np.array([2, 0])
    assert read_samples(store, "f") is None
    write_samples(store, "f", ids=ids, labels=ids)
    found = read_samples(store, "f")
    assert found is not None
    assert found["sample_id"].tolist() == [2, 0]
    assert found[["path", "group"]].isna().all(axis=None)
    write_samples(store, "f", ids=ids + 1, labels=ids)  # what is there stays
    again = read_samples(store, "f")
    assert again is not None
    assert again["sample_id"].tolist() == [2, 0]


def test_results_are_copied_into_a_folder_of_their_own(tmp_path: Path, undrawn: None) -> None:
    results = _with_samples(tmp_path / "here", SMALL)
    copied = results.write(tmp_path / "there")
    assert copied.place.folder == tmp_path / "there"
    assert (tmp_path / "there" / "report.html").exists()
    assert not (tmp_path / "here" / "report.html").exists()
    pd.testing.assert_frame_equal(copied.frontier, results.frontier)
    key = SMALL.trial_id(SMALL.trials()[0])
    pd.testing.assert_frame_equal(copied.kept(key), results.kept(key))
    assert tuple(copied.kept(key).columns) == KEPT_COLUMNS
    other = tmp_path / "other"
    GROUPED.write(other)
    study = (other / "study.json").read_text()
    text = study.replace('"study_id": "51d', '"base": {}, "study_id": "62e')
    (other / "study.json").write_text(text)
    with pytest.raises(StoreError, match="hold the same results, found those of the study fake"):
        results.write(other)


def test_names_of_this_package_cost_nothing_before_they_are_used() -> None:
    heavy = {"ray", "torch", "timm", "datasets", "lightning", "transformers", "matplotlib.pyplot"}
    code = (
        "import sys, raydrop\n"
        f"heavy = {heavy!r}\n"
        "assert {*raydrop.__all__} <= {*dir(raydrop)}\n"
        "assert not heavy & {*sys.modules}\n"
        "of_torch = {'DynamicSampler', 'Recorder', 'with_indices'}  # for loops of torch's\n"
        "for name in {*raydrop.__all__} - of_torch:\n"
        "    getattr(raydrop, name)\n"
        "print(sorted(heavy & {*sys.modules}))\n"
        "for name in of_torch:\n"
        "    getattr(raydrop, name)\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split("\n")[:2] == ["[]", "['torch']"], result.stderr
    with pytest.raises(AttributeError, match="no attribute 'Result'"):
        _ = raydrop.Result
