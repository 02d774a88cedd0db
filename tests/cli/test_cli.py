"""What a person types, and the sentence that they read when something is wrong."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import run_main, write_sweep
from fake_study import FakeStudy
from PIL import Image

from raydrop import cli
from raydrop.cli import load_sweep
from raydrop.cluster import driver, progress
from raydrop.cluster.briefing import Briefing
from raydrop.data import load_dataset
from raydrop.errors import RaydropError
from raydrop.frontier.figures import catalogue
from raydrop.store import Store
from raydrop.store.tables import ScoreFacts, Units, read_scores, write_scores
from raydrop.store.terminal import Console
from raydrop.study import SCHEMA

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run times networks to say how long they would take, which is tested elsewhere."""
    monkeypatch.setattr(Briefing, "forecast", lambda *_: None)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends where its output folder has what it has from the beginning."""

    def begun(_briefing: object, _options: object, beginning: Any) -> None:
        with beginning():
            pytest.fail("nothing was refused")

    monkeypatch.setattr(driver, "_run", begun)


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed to stderr, on one line."""
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "command",
    ["init", "run", "trials", "keep", "check", "score", "select", "frontier", "ship", "methods"],
)
def test_help_shows_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, command, "--help") == 0
    out = capsys.readouterr().out
    assert f"Example: raydrop {command}" in " ".join(out.split())
    assert run_main(monkeypatch, command, "-h") == 0
    assert capsys.readouterr().out == out


def test_methods_lists_every_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "methods") == 0
    out = capsys.readouterr().out
    names = ("moso", "drop", "from_method:METHOD", "cdb_w", "focal(2)", "cifar100", "resnet18")
    for name in names:
        assert name in out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dataset": "digit"}, "did you mean digits"),
        ({"dataset": "digits+long_tial(10)"}, "did you mean long_tail"),
        ({"model": "smallcnn"}, "did you mean small_cnn"),
        ({"param_space": {"method": "el2m", "keep_fraction": 0.5}}, "did you mean el2n"),
        (
            {"param_space": {"method": "random", "quotas": "blanced", "keep_fraction": 0.5}},
            "did you mean balanced",
        ),
        ({"param_space": {"loss": "cdb"}}, "did you mean cdb_w"),
        ({"param_space": {"method": "random", "keep_fraction": 2}}, "keep_fraction in (0, 1]"),
        ({"budget": "equal_epoch"}, "did you mean equal_epochs"),
        ({"seeds": ()}, "Expected distinct seeds"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(
    fields: dict[str, object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = write_sweep(tmp_path, **fields)
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out") == 1
    said = _said(capsys)
    assert said.startswith("Error:")
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = write_sweep(tmp_path, dataset="digit")
    monkeypatch.setattr(sys, "argv", ["raydrop", "run", str(sweep), "--debug"])
    with pytest.raises(RaydropError):
        cli.main()


def test_a_script_without_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert run_main(monkeypatch, "run", tmp_path / "empty.py") == 1
    assert "to define 'study', a raydrop.Study, found none" in _said(capsys)
    assert run_main(monkeypatch, "run", tmp_path / "absent.py") == 1
    assert "found no such file" in _said(capsys)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("1 / 0", "found ZeroDivisionError: division by zero"),
        ("(", "found SyntaxError: '(' was never closed"),
        ("Training(epoch=2)", "unexpected keyword argument 'epoch'"),
    ],
)
def test_a_script_that_breaks_is_said_with_its_error(
    body: str,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, "run", write_sweep(tmp_path, body=body)) == 1
    said = _said(capsys)
    assert found in said
    assert "Traceback" not in said


@pytest.mark.parametrize("linked", [False, True])
def test_a_script_may_import_what_lies_beside_it(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Python runs it, from whatever folder, and where it is a link to the script."""
    monkeypatch.setattr(sys, "path", ["/installed", *sys.path])
    (tmp_path / "sweeps").mkdir()
    name = f"beside_{linked}"
    (tmp_path / "sweeps" / f"{name}.py").write_text("def of_ours():\n    import later\n")
    (tmp_path / "sweeps" / "later.py").touch()
    path = write_sweep(tmp_path / "sweeps", f"import {name}")
    if linked:
        path = tmp_path / "linked.py"
        path.symlink_to("sweeps/sweep.py")
    for _ in range(2):
        assert load_sweep(path).name == "t"
    assert sys.path[:2] == [str(tmp_path / "sweeps"), "/installed"]
    sys.modules[name].of_ours()
    del sys.modules["later"]


def test_a_replayed_study_adds_nowhere_to_import_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, before = load_sweep(write_sweep(tmp_path)), list(sys.path)
    body = {"study": study.to_dict(study.spaces())}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "study.json").write_text(json.dumps(body))
    assert load_sweep(tmp_path / "theirs").name == "t"
    assert sys.path == before
    sys.path.remove(str(tmp_path))


def test_a_file_in_place_of_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    sweep = write_sweep(tmp_path)
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "file", "--dry-run") == 1
    assert "Expected a folder for results" in _said(capsys)


def test_select_says_which_classes_it_empties(
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame, facts = read_scores(scores)
    write_scores(scores, frame.assign(score=frame["score"] + (frame["label"] == 0)), facts)
    out = tmp_path / "kept.csv"
    assert run_main(monkeypatch, "select", scores, "--keep-fraction", 0.2, "--out", out) == 0
    assert "Nothing is kept of dog, owl" in _said(capsys)


def test_select_does_not_make_folders(
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "mistyped" / "kept.csv"
    assert run_main(monkeypatch, "select", scores, "--keep-fraction", 0.2, "--out", out) == 1
    assert "found none; make it, or correct --out" in _said(capsys)
    assert not out.parent.exists()


def test_recalls_without_a_class_name_it(
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "r.csv").write_text("class,recall\ncat,0.5\nowl,0.5\n")
    arguments = ("--keep-fraction", 0.3, "--quotas", "drop", "--recalls", tmp_path / "r.csv")
    assert run_main(monkeypatch, "select", scores, *arguments) == 1
    assert "found none for dog; add their rows" in _said(capsys)


def test_unknown_options_are_refused_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "run", write_sweep(tmp_path), "--ouy", "x") == 2
    assert "--ouy" in _said(capsys)


def _folder(root: Path, splits: dict[str, tuple[str, ...]]) -> Path:
    for split, classes in splits.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.full((8, 8, 3), 40 * i, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({"test": ("a", "b")}, "train"),
        ({"train": ("a", "b"), "test": ("a", "c")}, "found 'b' in train/ but not in test/"),
        (
            {"train": ("a", "b"), "test": ("a", "b"), "val": ("a",)},
            "found 'b' in train/ but not in val/",
        ),
    ],
)
def test_a_folder_that_does_not_fit(
    splits: dict[str, tuple[str, ...]],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = _folder(tmp_path / "images", splits)
    sweep = write_sweep(tmp_path, dataset=f"imagefolder:{folder}")
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out") == 1
    said = _said(capsys)
    assert said.startswith("Error: Expected")
    assert sentence in said


def test_dry_run_says_what_it_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(
        tmp_path, param_space={"method": "grand", "quotas": "drop", "keep_fraction": 0.5}
    )
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out", "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "query runs 3, of which to do 3" in out
    assert "scores 3, of which to do 3" in out
    assert "trials 6, of which to do 6" in out
    assert "sample passes" in out
    assert not (tmp_path / "out").exists()


def test_dry_run_says_how_many_query_runs_of_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(
        tmp_path,
        param_space=[
            {"method": method, "keep_fraction": 0.5, "query_model": "resnet56"}
            for method in ("moso", "el2n")
        ],
        partitions=4,
        initialisations=3,
        seeds=(0, 1),
    )
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out", "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "query runs 14, of which to do 14: 2 on all the data, 4 further initialisations, "
        "8 surrogates, each on 1/4 of the data"
    ) in out
    assert "small_cnn; scored with resnet56 too" in out


def _scaled(folder: Path) -> Path:
    path = write_sweep(folder)
    path.write_text(
        f"{path.read_text()}import dataclasses\n"
        "small = dataclasses.replace(study, name='t_small', seeds=(0,))\n"
        "tiny = dataclasses.replace(small, name='t_tiny')\n"
    )
    return path


def test_a_script_may_define_its_study_at_several_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _scaled(tmp_path)
    for arguments, name in (((), "t"), (("--scale", "small"), "t_small")):
        assert run_main(monkeypatch, "run", sweep, "--dry-run", *arguments) == 0
        assert f"Study {name}:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scale", "said"), [("smal", "found small, tiny; name one"), ("study", "found small, tiny;")]
)
def test_an_unknown_scale_lists_those_that_the_script_defines(
    scale: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, "run", _scaled(tmp_path), "--dry-run", "--scale", scale) == 1
    assert said in _said(capsys)
    assert run_main(monkeypatch, "run", write_sweep(tmp_path), "--dry-run", "--scale", scale) == 1
    assert f"the study '{scale}' for --scale, found no other study than" in _said(capsys)
    (tmp_path / "study.json").write_text("{}")
    assert run_main(monkeypatch, "run", tmp_path / "study.json", "--scale", scale) == 1
    assert "which holds one study; leave out --scale" in _said(capsys)


def test_results_of_another_schema_are_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.json").write_text(json.dumps({"base": {"schema": 1, "model": "small_cnn"}}))
    assert run_main(monkeypatch, "run", write_sweep(tmp_path), "--out", out, "--dry-run") == 1
    said = _said(capsys)
    assert f"Expected results of schema {SCHEMA} in" in said
    assert "found those of schema 1" in said
    assert "choose another folder with --out" in said


@pytest.mark.usefixtures("no_ray")
def test_no_right_to_write_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path)
    (tmp_path / "file").write_text("")
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "file" / "out") == 1
    assert "choose another folder with --out" in _said(capsys)


@pytest.mark.usefixtures("no_ray")
def test_no_space_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sweep = write_sweep(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out") == 1
    assert "No space left on device; free space there" in _said(capsys)


def test_frontier_of_a_folder_without_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "frontier", tmp_path) == 1
    assert "study.json" in _said(capsys)


# Progress.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed; append to let time go on."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[-1])
    return seconds


def _lines(console: Console) -> list[str]:
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_progress_estimates_the_time_left_within_one_long_item(clock: list[float]) -> None:
    console = Console(file=io.StringIO())
    with progress.stage_progress(console, "scores", items=1, work=1001) as stage:
        clock.append(10.0)
        stage.worked(200)  # the first one paid for starting, so the pace counts from here
        clock.append(30.0)
        stage.worked(400)
        clock.append(50.0)
        stage.worked(400)
        stage.advance("moso")
    assert _lines(console) == [
        "scores: 0/1 (60%) in 30 s, about 20 s left",
        "scores: 0/1 (100%) in 50 s, about 0 s left",
        "scores: 1/1 in 50 s moso",
    ]


def test_progress_follows_what_turns_out_to_be_left(clock: list[float]) -> None:
    console = Console(file=io.StringIO())
    with progress.stage_progress(console, "scores", items=3, work=3000) as stage:
        clock.append(10.0)
        stage.worked(500)
        clock.append(20.0)
        stage.worked(500)
        clock.append(40.0)
        stage.expect(500)  # the others share most of what was done
        stage.advance("moso", work=0)
    assert _lines(console)[-1] == "scores: 1/3 (67%) in 40 s, about 30 s left moso"


def test_progress_of_equal_items_is_counted_in_items(clock: list[float]) -> None:
    console = Console(file=io.StringIO())
    with progress.stage_progress(console, "trials", items=4) as stage:
        for second in (20.0, 40.0, 41.0, 60.0):
            clock.append(second)
            stage.advance(f"at {second:g}")
    assert _lines(console) == [
        "trials: 1/4 in 20 s at 20",
        "trials: 2/4 in 40 s, about 40 s left at 40",
        "trials: 4/4 in 60 s at 60",
    ]


def test_a_terminal_shows_items_and_share() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.stage_progress(console, "scores", items=2, work=100) as stage:
        stage.worked(50)
        stage.advance("grand", work=0)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1/2" in shown
    assert "50%" in shown
    assert "grand" in shown


# Scores and selection without a sweep.


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    facts = ScoreFacts(
        method="el2n",
        higher_is_kept=True,
        dataset="d",
        model="m",
        seed=0,
        units={"class": Units(["cat", "dog", "owl"], [0.9, 0.8, 0.5], [10, 10, 10])},
    )
    frame = pd.DataFrame({"sample_id": np.arange(300) * 7, "label": np.repeat([0, 1, 2], 100)})
    path = tmp_path / "scores.parquet"
    write_scores(path, frame.assign(score=rng.random(300)), facts)
    return path


@pytest.fixture
def scores_of_groups(scores: Path) -> Path:
    """The same samples in two groups: the last 30 of each class, where recall is low, and not."""
    frame, facts = read_scores(scores)
    groups = Units(["common", "rare"], [0.9, 0.5], [20, 10])
    facts = dataclasses.replace(facts, units={**facts.units, "group": groups})
    write_scores(scores, frame.assign(group=np.tile(np.arange(100) >= 70, 3).astype(int)), facts)
    return scores


def test_scores_round_trip(scores: Path) -> None:
    frame, facts = read_scores(scores)
    assert set(frame.columns) == {"sample_id", "label", "score"}
    assert facts.units_by("class").recalls == [0.9, 0.8, 0.5]
    assert frame["sample_id"].tolist() == [7 * i for i in range(300)]


def test_select_uses_the_recalls_of_the_query_model(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "kept.csv"
    arguments = ("select", scores, "--keep-fraction", 0.3, "--quotas", "drop", "--out", out)
    assert run_main(monkeypatch, *arguments) == 0
    kept = pd.read_csv(out)
    assert list(kept.columns) == ["sample_id", "label", "class_name"]
    assert kept["label"].value_counts().sort_index().tolist() == [11, 23, 56]
    frame, _ = read_scores(scores)
    for label, group in frame.groupby("label"):
        best = group.nlargest(int((kept["label"] == label).sum()), "score")["sample_id"]
        assert set(best) == set(kept[kept["label"] == label]["sample_id"])


def test_select_by_group(
    scores_of_groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "kept.csv"
    command = ("select", scores_of_groups, "--keep-fraction", 0.4, "--out", out, "--by", "group")
    assert run_main(monkeypatch, *command, "--quotas", "drop") == 0
    # Of 210 and 90, with 1 - r of 0.1 and 0.5: 0.4 * 300 = 120 = 210 a + 90 (5 a).
    kept = pd.read_csv(out)
    names = ["class_name", "group", "group_name"]
    assert list(kept.columns) == ["sample_id", "label", *names]
    assert kept["group"].value_counts().to_dict() == {0: 38, 1: 82}
    (tmp_path / "r.csv").write_text("group,recall\ncommon,0.5\nrare,0.5\n")
    recalls = ("--quotas", "drop", "--recalls", tmp_path / "r.csv")
    assert run_main(monkeypatch, *command, *recalls) == 0
    assert pd.read_csv(out)["group"].value_counts().to_dict() == {0: 84, 1: 36}
    assert run_main(monkeypatch, *command, "--quotas", "from_method:el2n") == 0
    frame, _ = read_scores(scores_of_groups)
    assert set(pd.read_csv(out)["sample_id"]) == set(frame.nlargest(120, "score")["sample_id"])


def test_select_by_group_needs_groups(
    scores: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("select", scores, "--keep-fraction", 0.3, "--by")
    assert run_main(monkeypatch, *command, "group") == 1
    assert "found those of 'd', which has none; leave --by out" in _said(capsys)
    assert run_main(monkeypatch, *command, "groups") == 1
    assert "did you mean group?" in _said(capsys)


def test_select_takes_other_recalls(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.csv").write_text("class,recall\ncat,0.5\ndog,0.5\nowl,0.5\n")
    out = tmp_path / "kept.csv"
    assert (
        run_main(
            monkeypatch, "select", scores, "--keep-fraction", 0.3, "--quotas", "drop",
            "--recalls", tmp_path / "r.csv", "--out", out,
        )
        == 0
    )  # fmt: skip
    assert pd.read_csv(out)["label"].value_counts().tolist() == [30, 30, 30]


def _other_scores(scores: Path, name: str, **facts: Any) -> Path:
    """Scores of another method: the same samples, best where their class is 2, then 1."""
    frame, found = read_scores(scores)
    path = scores.with_name(f"{name}.parquet")
    facts = {"method": name, **facts}
    values = 10.0 * frame["label"] + frame["score"]
    write_scores(path, frame.assign(score=values), dataclasses.replace(found, **facts))
    return path


def test_select_takes_the_class_ratios_of_another_methods_scores(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out = _other_scores(scores, "grand"), tmp_path / "kept.csv"
    command = ("select", scores, "--keep-fraction", 0.5, "--out", out, "--minimum-per-class", 0)
    quotas = ("--quotas", "from_method:grand", "--quota-scores", other)
    assert run_main(monkeypatch, *command, *quotas) == 0
    kept = pd.read_csv(out)
    assert kept["label"].value_counts().to_dict() == {2: 100, 1: 50}
    frame, _ = read_scores(scores)
    best = frame[frame["label"] == 1].nlargest(50, "score")["sample_id"]
    assert set(kept[kept["label"] == 1]["sample_id"]) == set(best)
    # Its own ratios are its own choice.
    assert run_main(monkeypatch, *command, "--quotas", "from_method:el2n") == 0
    best = frame.nlargest(150, "score")["sample_id"]
    assert set(pd.read_csv(out)["sample_id"]) == set(best)


def test_select_refuses_quota_scores_that_do_not_fit(
    scores: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("select", scores, "--keep-fraction", 0.5, "--quotas", "from_method:grand")
    assert run_main(monkeypatch, *command) == 1
    assert "Expected scores of 'grand'" in (said := _said(capsys))
    assert "found those of 'el2n'; give the file of that method with --quota-scores" in said
    other = _other_scores(scores, "grand")
    frame, facts = read_scores(other)
    write_scores(other, frame.assign(sample_id=frame["sample_id"] + 1), facts)
    assert run_main(monkeypatch, *command, "--quota-scores", other) == 1
    assert "Expected scores of the same samples" in _said(capsys)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--keep-fraction", 0), "--keep-fraction in (0, 1], found 0.0"),
        (("--keep-fraction", 0.3, "--quotas", "dropp"), "did you mean drop"),
        (("--keep-fraction", 0.3, "--quotas", "drop", "--recalls", "absent.csv"), "absent.csv"),
        (("--keep-fraction", 0.01, "--quotas", "drop", "--minimum-per-class", 9), "found 3"),
    ],
)
def test_select_mistakes(
    arguments: tuple[object, ...],
    sentence: str,
    scores: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, "select", scores, *arguments) == 1
    assert sentence in _said(capsys)


def test_select_of_a_file_that_is_no_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.parquet").write_text("no")
    assert run_main(monkeypatch, "select", tmp_path / "x.parquet", "--keep-fraction", 0.3) == 1
    assert "found another kind of file" in _said(capsys)


# Whole commands in processes of their own.


def _finished(out: Path) -> dict[str, int]:
    """When each finished trial was written, by its id."""
    trials = Store(out / "store").entries("trial")
    return {entry.key: entry.path.stat().st_mtime_ns for entry in trials}


def _heed_interrupts() -> None:
    """Undo what a shell does to its background: it ignores Ctrl-C, and passes that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "raydrop", *map(str, arguments)]


@pytest.mark.ray
@pytest.mark.slow
def test_score_then_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "digits+subset(12, test=6)+long_tail(3)"
    out = tmp_path / "scores.parquet"
    words: list[object] = [
        "score", "--data", data, "--model", "small_cnn", "--method", "moso_loo", "--epochs", 2,
        "--partitions", 2, "--checkpoints", 2,
        "--num-cpus", 1, "--out", out, "--cache", tmp_path / "cache",
    ]  # fmt: skip
    assert run_main(monkeypatch, *words) == 0
    frame, facts = read_scores(out)
    train = load_dataset(data).train
    assert frame["sample_id"].tolist() == train.ids.tolist()
    assert frame["score"].nunique() == len(frame)
    kinds = [entry.info["partition"] for entry in Store(tmp_path / "cache/store").entries("query")]
    assert sorted(map(str, kinds)) == ["None", "[0, 2]", "[1, 2]"]
    assert len(facts.units_by("class").recalls) == 10
    kept = tmp_path / "kept.csv"
    words = [
        "select", out, "--keep-fraction", 0.5, "--quotas", "drop", "--recall-smoothing", 1,
        "--out", kept,
    ]  # fmt: skip
    assert run_main(monkeypatch, *words) == 0
    assert len(pd.read_csv(kept)) == round(len(frame) / 2)


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_sweep(
        tmp_path, "study_training = Training(epochs=15)", dataset="digits", seeds=(0, 1, 2)
    )
    sweep.write_text(sweep.read_text().replace("Study(**{", "Study(training=study_training, **{"))
    out = tmp_path / "out"
    words = ("run", sweep, "--out", out, "--num-cpus", 1)
    process = subprocess.Popen(
        _command(*words), stdout=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    trials = out / "store" / "trial"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (trials.is_dir() and list(trials.iterdir())):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command does the rest" in said
    done = _finished(out)
    assert 0 < len(done) < 6
    monkeypatch.setattr(catalogue, "FIGURES", {})  # what is drawn is tested elsewhere
    assert run_main(monkeypatch, *words) == 0
    after = _finished(out)
    assert len(after) == 6
    assert done.items() <= after.items()
    assert len(json.loads((out / "study.json").read_text())["trials"]) == 6
    assert (out / "report.html").exists()


# Watching, overlays and exports.


def test_help_of_export_shows_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "export", "--help") == 0
    assert "Example: raydrop export" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "b"], "Expected --out with 2 output folders, found none"),
        (["a", "b", "--watch"], "Expected one output folder for --watch, found 2;"),
        (["a", "--watch", "--out", "c"], "for --watch, found 1 and --out;"),
        (["a", "--interval", "3"], "Expected --watch beside --interval"),
        (["a", "--watch", "--interval", "0"], "Expected a positive number of seconds"),
        (["a", "--watch", "--by", "clas"], "did you mean class"),
        (["a", "--out", "c"], "Expected two or more output folders for --out, found 1"),
        (["a", "b", "--out", "c"], "Expected a study.json in a, found none"),
    ],
)
def test_options_of_frontier_that_do_not_go_together(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "frontier", *arguments) == 1
    said = _said(capsys)
    assert said.startswith("Error:")
    assert sentence in said
    assert list(tmp_path.iterdir()) == []


def test_watch_of_a_finished_study_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {})  # what is drawn is tested elsewhere
    study = FakeStudy(methods=("random",), keeps=(0.2,))
    assert run_main(monkeypatch, "frontier", study.write(tmp_path), "--watch") == 0
    out = capsys.readouterr().out
    assert out.startswith("fake: 6 of 6 trials; front")
    assert "Report:" in out
    assert (tmp_path / "report.html").is_file()


def test_ctrl_c_while_watching_is_clean(tmp_path: Path) -> None:
    command = _command("frontier", tmp_path / "absent", "--watch", "--interval", 0.1)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=_heed_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Waiting for a sweep in")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped watching;" in said
    assert errors == ""
    assert not (tmp_path / "absent").exists()


def test_an_overlay_and_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = FakeStudy(methods=("random",), keeps=(0.2,))
    a, b = (study.write(tmp_path / name) for name in "ab")
    before = set(tmp_path.rglob("*"))
    assert run_main(monkeypatch, "frontier", a, b, "--out", tmp_path / "both") == 0
    out = capsys.readouterr().out
    assert "fake (a): random + drop" in out
    assert "Overlay:" in out
    assert run_main(monkeypatch, "export", a, "--format", "latex") == 0
    assert "table.tex" in capsys.readouterr().out
    new = set(tmp_path.rglob("*")) - before
    assert {path.name for path in new} == {
        "both", "overlay.csv", "overlay.png", "overlay.svg", "table.tex",
    }  # fmt: skip
    assert run_main(monkeypatch, "export", a, "--format", "xlsx") == 1
    assert "Unknown value of --format 'xlsx'" in _said(capsys)


def test_a_logger_that_does_not_exist_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path)
    assert run_main(monkeypatch, "run", sweep, "--out", tmp_path / "out", "--log", "ml-flow") == 1
    assert "Unknown value of --log 'ml-flow': did you mean mlflow?" in _said(capsys)
    assert not (tmp_path / "out").exists()
