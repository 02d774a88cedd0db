"""Files that others may have had their hands on: what is read, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_frontier_records import FakeStudy

from raydrop.cluster.driver import check_folder
from raydrop.data import load_dataset
from raydrop.errors import ConfigError, StoreError
from raydrop.frontier import write_frontier
from raydrop.frontier.growing import Watcher
from raydrop.logs import work_log
from raydrop.study import Study

SMALL = FakeStudy(keeps=(0.5,), seeds=(0,), quotas=("none",))


def test_a_foreign_store_moves_no_folder_of_the_reader(tmp_path: Path) -> None:
    """Failures are a link to where the reader's folders are, and a trial is called like one."""
    home, results = tmp_path / "home", SMALL.write(tmp_path / "home" / "results")
    (home / "precious").mkdir()
    (home / "precious" / "text").write_text("kept")
    study = json.loads((results / "study.json").read_text())
    study["trials"][0]["trial_id"] = "precious"
    (results / "study.json").write_text(json.dumps(study))
    (results / "store" / "failure").symlink_to("../..")
    assert (results / "store" / "failure" / "precious" / "text").exists()
    with pytest.raises(StoreError, match=r"^Expected a folder at .*failure, found a link; "):
        write_frontier(results)
    assert (home / "precious" / "text").read_text() == "kept"


@pytest.mark.parametrize("name", ["study.json", "frontier.csv", "report.html"])
def test_results_that_are_links_are_neither_read_nor_written_through(
    name: str, tmp_path: Path
) -> None:
    results, outside = SMALL.write(tmp_path / "results"), tmp_path / "outside"
    if name == "study.json":
        (results / name).rename(outside)
    else:
        outside.write_text("kept")
    (results / name).symlink_to(outside)
    before = outside.read_text()
    if name == "study.json":
        with pytest.raises(StoreError, match=r"found: a link instead of a file"):
            write_frontier(results)
        with pytest.raises(StoreError, match=r"found: a link instead of a file"):
            Watcher(results).look()
    else:
        write_frontier(results)
        assert not (results / name).is_symlink()
    assert outside.read_text() == before


@pytest.mark.parametrize("name", ["store", "tune", "logs", "tensorboard"])
def test_a_run_writes_into_no_folder_that_is_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).symlink_to(tmp_path / "outside")
    study = Study("s", "digits", "small_cnn", {"method": "random"})
    with pytest.raises(ConfigError, match=f"^Expected a folder at .*{name}, found a link; "):
        check_folder(tmp_path / "results", study, load_dataset("digits"))


@pytest.mark.parametrize("linked", ["logs", "logs/trials", "logs/trials/3f2a.log"])
def test_no_log_is_written_through_a_link(linked: str, tmp_path: Path) -> None:
    results, outside = tmp_path / "results", tmp_path / "outside"
    (outside / "trials").mkdir(parents=True)
    (outside / "3f2a.log").write_text("kept")
    (outside / "trials" / "3f2a.log").write_text("kept")
    (results / linked).parent.mkdir(parents=True)
    (results / linked).symlink_to(outside / "3f2a.log" if "." in linked else outside)
    with work_log(results, "trials", "3f2a", "a trial", "cpu"):
        pass
    assert (outside / "3f2a.log").read_text() == "kept"
    assert (outside / "trials" / "3f2a.log").read_text() == "kept"
