"""Whether a finished study is seen to be one; whatever has changed, it is looked at again."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raydrop.cluster import finished
from raydrop.cluster.finished import RECEIPT, is_finished, leave_receipt
from raydrop.data import load_dataset
from raydrop.store import Place
from raydrop.study import Study

STUDY = Study(
    name="done",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={"method": "random", "keep_fraction": {"grid_search": [0.3, 0.6]}},
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of which a receipt says that it is finished."""
    folder = tmp_path / "out"
    (folder / "store" / "trial" / "3f").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "store" / "trial" / "3f" / "meta.json").write_text("{}")
    (folder / "report.html").write_text("<p>")
    fingerprint = load_dataset(STUDY.dataset).fingerprint
    (folder / "study.json").write_text(f'{{"data_fingerprint": "{fingerprint}"}}')
    leave_receipt(STUDY, Place(folder))
    return folder


def test_what_has_not_changed_is_finished(out: Path) -> None:
    assert is_finished(STUDY, Place(out), None)
    (out / "logs" / "more.log").write_text("logs are no results")
    assert is_finished(dataclasses.replace(STUDY), Place(out), None)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).unlink()


def _alter(out: Path) -> None:
    path = out / "store" / "trial" / "3f" / "meta.json"
    path.write_text("[]")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        _remove("report.html"),
        _remove("store/trial/3f/meta.json"),
        _remove(RECEIPT),
        _alter,
        lambda out: (out / "store" / "failure").write_text(""),
        lambda out: (out / RECEIPT).write_text("{"),
        lambda out: (out / RECEIPT).write_text("[]"),
    ],
)
def test_what_has_changed_on_disk_is_looked_at_again(
    change: Callable[[Path], None], out: Path
) -> None:
    change(out)
    assert not is_finished(STUDY, Place(out), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seeds": (7,)},
        {"dataset": "digits+subset(13, test=6)"},
        {"param_space": {"method": "random", "keep_fraction": 0.3}},
    ],
)
def test_another_study_is_not_finished(changes: dict[str, object], out: Path) -> None:
    assert not is_finished(dataclasses.replace(STUDY, **changes), Place(out), None)  # type: ignore[arg-type]


def test_other_code_or_versions_draw_anew(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(finished.importlib.metadata, "version", lambda name: "0.0")
        assert not is_finished(STUDY, Place(out), None)
    with monkeypatch.context() as patch:
        patch.setattr(finished.raydrop, "__file__", str(out / "raydrop" / "__init__.py"))
        assert not is_finished(STUDY, Place(out), None)
    assert is_finished(STUDY, Place(out), None)


def test_a_receipt_that_cannot_be_left_costs_nothing(tmp_path: Path) -> None:
    leave_receipt(STUDY, Place(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray  # which is imported, and not started
def test_looking_needs_no_torch_and_no_figures() -> None:
    code = (
        "import sys, raydrop.cluster.finished\n"
        "print(sorted({'torch', 'matplotlib', 'raydrop.frontier'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
