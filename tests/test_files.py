"""Files that others may have had their hands on: what is read, and what is written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from test_frontier_records import FakeStudy

from raydrop import theory_plot
from raydrop.cluster.driver import check_folder
from raydrop.data import load_dataset
from raydrop.errors import ConfigError, RaydropError, StoreError
from raydrop.frontier import load_records, write_frontier
from raydrop.frontier.files import replace_file
from raydrop.frontier.growing import Watcher
from raydrop.logs import work_log
from raydrop.models import build_model
from raydrop.network.saving import NetworkSpec, save_network
from raydrop.study import Study
from raydrop.tables import ScoreFacts, write_kept, write_scores
from raydrop.theory import TwoGaussians
from raydrop.theory_plot import write_theory_figure

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


def test_a_study_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    results = SMALL.write(tmp_path / "results")
    (results / "study.json").rename(tmp_path / "outside")
    (results / "study.json").symlink_to(tmp_path / "outside")
    for read in (load_records, lambda folder: Watcher(folder).look()):
        with pytest.raises(StoreError, match=r"found: a link instead of a file; run"):
            read(results)


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


# What is written.


def _network(path: Path) -> None:
    model = build_model("linear", 2, (1, 2, 2))
    save_network(path, NetworkSpec("linear", 2, (1, 2, 2), ("a", "b"), (0.5,), (0.5,)), model)


MIXTURE = TwoGaussians((-1, 1), (0.5, 1), 0.5)
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "kept": (
        "kept.csv",
        lambda path: write_kept(path, pd.DataFrame({"sample_id": [1], "score": [0.5]})),
    ),
    "scores": (
        "scores.parquet",
        lambda path: write_scores(
            path,
            pd.DataFrame({"sample_id": [1], "label": [0], "score": [0.5]}),
            ScoreFacts("el2n", True, "digits", "small_cnn", 0, {}),
        ),
    ),
    "a table of a report": ("frontier.csv", lambda path: replace_file(path, b"a,b")),
    "network": ("network.zip", _network),
    "figure": (
        "theory.svg",
        lambda path: write_theory_figure(path, TwoGaussians((-1, 1), (0.5, 1), 0.5)),
    ),
}


@pytest.fixture(params=WRITERS)
def writer(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[Path], object]]:
    monkeypatch.setattr(theory_plot, "to_svg", lambda figure: b"<svg/>")
    return WRITERS[request.param]


def test_what_is_written_goes_through_a_new_file_of_a_name_that_nobody_knows(
    writer: tuple[str, Callable[[Path], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links wait at every name that was used before, and at the file's own."""
    name, write = writer
    folder, outside = tmp_path / "results", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("kept")
    moved: list[Path] = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        moved.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noted)
    write(folder / name)
    write(folder / name)
    assert len(set(moved)) == 2
    for each in (*moved, folder / f".{name}.incomplete", folder / name):
        each.unlink(missing_ok=True)
        each.symlink_to(outside)
    write(folder / name)
    assert outside.read_text() == "kept"
    assert (folder / name).stat().st_size > 2
    assert not (folder / name).is_symlink()


def test_what_is_written_has_the_usual_rights(
    writer: tuple[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    name, write = writer
    umask = os.umask(0o027)
    try:
        write(tmp_path / name)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_replaced(
    kind: str, writer: tuple[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    """As /dev/stdout would be, by whoever may write to /dev."""
    name, write = writer
    path = tmp_path / name
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(RaydropError, match=rf"^Expected to write .*, found: a {kind} instead of a"):
        write(path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    frames = [pd.DataFrame({"sample_id": [k] * 5000, "score": [0.5] * 5000}) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda frame: write_kept(tmp_path / "kept.csv", frame), frames))
    (name,) = (path.name for path in tmp_path.iterdir())
    kept = pd.read_csv(tmp_path / name)["sample_id"]
    assert len(kept) == 5000
    assert kept.nunique() == 1
