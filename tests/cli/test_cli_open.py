"""Commands for what people bring and take away: settings, tables, scripts, lists of samples."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import run_main, write_sweep
from fake_study import FINGERPRINT, SMALL, FakeStudy
from numpy.typing import NDArray
from PIL import Image

import raydrop
from raydrop import Study, Training
from raydrop.cli.changes import with_seeds, with_settings
from raydrop.cluster import driver
from raydrop.cluster.briefing import Briefing
from raydrop.data import load_dataset
from raydrop.errors import ConfigError
from raydrop.frontier.figures import catalogue
from raydrop.frontier.report import page
from raydrop.stages.facts import save_data_card
from raydrop.store import Store, open_place
from raydrop.store.samples import read_samples, write_samples
from raydrop.store.tables import ScoreFacts, Units, write_scores
from raydrop.study import SCHEMA, NetworkPruning, TrialConfig
from raydrop.training.losses import LOSSES

STUDY = Study("t", "digits", "small_cnn", {"method": "random", "keep_fraction": 0.5}, seeds=(4, 1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, no page, and no forecast, which take long."""
    monkeypatch.setattr(catalogue, "FIGURES", {})
    monkeypatch.setattr(page, "render_report", lambda *_: "")
    monkeypatch.setattr(Briefing, "forecast", lambda *_: None)


def _refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    """What a command that is refused says, on one line."""
    assert run_main(monkeypatch, *arguments) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Error: Expected")
    assert "Traceback" not in said
    return said


# --- the command itself ---


def test_the_version_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"raydrop {version('raydrop')}\n"


def test_help_is_short_and_lists_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "-h") == 0
    out = capsys.readouterr().out
    for word in ("init", "trials", "keep", "--version", "--install-completion", "-h"):
        assert word in out


@pytest.mark.parametrize("command", ["run", "select", "score", "keep", "frontier"])
def test_help_leaves_room_for_its_sentences(command: str) -> None:
    """At 80 columns, sentences have as many as names and kinds of values together."""
    shown = subprocess.run(
        [sys.executable, "-m", "raydrop", command, "-h"],
        capture_output=True,
        text=True,
        env={"COLUMNS": "80", "TERMINAL_WIDTH": "80", "PATH": ""},
    ).stdout
    line = next(line for line in shown.splitlines() if "Show this message and exit." in line)
    assert line.index("Show this message") <= 44
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_completion_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "True")
    assert run_main(monkeypatch, "--show-completion", "bash") == 0
    assert "_RAYDROP_COMPLETE=complete_bash" in capsys.readouterr().out


# --- run with other settings ---


@pytest.mark.parametrize(
    ("count", "seeds"), [(1, (4,)), (2, (4, 1)), (3, (4, 1, 0)), (5, (4, 1, 0, 2, 3))]
)
def test_seeds_are_the_studys_own_first(count: int, seeds: tuple[int, ...]) -> None:
    assert with_seeds(STUDY, count).seeds == seeds


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.learning_rate=0.05", {"training": Training(learning_rate=0.05)}),
        (" training.nesterov = Yes", {"training": Training(nesterov=True)}),
        ("training.epochs=7", {"training": Training(epochs=7)}),
        ("training.optimizer=adamw", {"training": Training(optimizer="adamw")}),
        ("training.milestones=0.3, 0.6", {"training": Training(milestones=(0.3, 0.6))}),
        ("training.gradient_clip=1", {"training": Training(gradient_clip=1.0)}),
        ("training.gradient_clip=none", {"training": Training()}),
        ("training.augment=off", {"training": Training(augment=False)}),
        ("training.augment=randaugment", {"training": Training(augment="randaugment")}),
        ("seeds=3,7", {"seeds": (3, 7)}),
        ("query_model=resnet18", {"query_model": "resnet18"}),
        ("query_model=none", {"query_model": None}),
        ("include_unpruned=false", {"include_unpruned": False}),
        ("by=group", {"by": "group"}),
        ("query_training.epochs=3", {"query_training": Training(epochs=3, augment=False)}),
        ("network.rounds=2", {"network": NetworkPruning(rounds=2)}),
        (
            "network.retraining.epochs=4",
            {
                "network": NetworkPruning(
                    retraining=Training(epochs=4, learning_rate=0.1 / 10),
                )
            },
        ),
    ],
)
def test_settings_are_of_the_kind_of_their_field(setting: str, expected: dict[str, Any]) -> None:
    found = with_settings(STUDY, [setting])
    for name, value in expected.items():
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is type(value)
    unchanged = {**vars(STUDY)} | {name: getattr(found, name) for name in expected}
    assert vars(found) == unchanged


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.learning_rat=1", "Unknown field of training 'learning_rat': did you mean lea"),
        ("trainin.epochs=1", "Unknown field of a study 'trainin': did you mean training"),
        ("learning_rate=1", "did you mean training.learning_rate"),
        ("training=1", "Expected a field of training for --set, found training itself"),
        ("training.epochs=1.5", "Expected a whole number for --set training.epochs, found '1.5'"),
        ("training.epochs=0", "Expected epochs to be a whole number of at least 1, found 0"),
        ("training.nesterov=maybe", "Expected true or false for --set training.nesterov"),
        ("training.gradient_clip=x", "Expected a number or none for --set training.gradient_clip"),
        ("training.milestones=a", "numbers with commas between for --set training.milestones"),
        ("training.schedule=cosin", "did you mean cosine"),
        ("seeds=0,0", "Expected distinct seeds"),
        ("seeds.x=1", "as seeds has no fields, found x of it"),
        ("by=grp", "did you mean group"),
        ("epochs", "Expected --set KEY=VALUE, found 'epochs'"),
        ("param_space.loss=focal", "found param_space; change the search space in the script"),
        ("dataset=mnist", "found dataset; use --data"),
        ("model=linear", "found model; use --model"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        with_settings(STUDY, [setting])


def test_a_run_takes_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Study] = []
    monkeypatch.setattr(
        driver, "run_study", lambda study, *_: seen.append(study) or driver.Outcome(0, 0)
    )
    command = ("run", write_sweep(tmp_path), "--out", tmp_path / "out", "--dry-run")
    settings = ("--set", "training.batch_size=9", "--set", "minimum_per_class=2")
    assert run_main(monkeypatch, *command, "--seeds", 5, "--epochs", 20, *settings) == 0
    assert seen[0].seeds == (0, 1, 2, 3, 4)
    assert seen[0].training == Training(epochs=20, batch_size=9)
    assert seen[0].minimum_per_class == 2
    said = _refused(monkeypatch, capsys, *command, "--set", "x")
    assert "--set KEY=VALUE" in said


def test_a_plan_is_told_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("run", write_sweep(tmp_path), "--out", out, "--json")
    assert run_main(monkeypatch, *command, "--dry-run", "--seeds", 2) == 0
    said = capsys.readouterr()
    plan = json.loads(said.out)
    assert plan["samples"] == {"train": 120, "validation": 60, "test": 60}
    assert plan["to_do"] == plan["in_all"] == {"query_runs": 0, "scores": 2, "trials": 4}
    assert [trial["to_do"] for trial in plan["trials"]] == [True] * 4
    assert plan["data_fingerprint"] == load_dataset("digits+subset(12, test=6)").fingerprint
    assert "4, of which to do" in said.err
    assert not out.exists()
    assert "--dry-run beside --json" in _refused(monkeypatch, capsys, *command)


HOSTILE = {
    "name": "t",
    "dataset": "digits",
    "model": "planted_by_a_test:build",
    "param_space": [{"method": "random", "keep_fraction": 0.5}],
    "seeds": [0],
}


def test_a_replay_imports_what_the_user_trusts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted_by_a_test.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"schema": SCHEMA, "study": HOSTILE}))
    command = ("run", study, "--dry-run", "--out", tmp_path / "out")
    said = _refused(monkeypatch, capsys, *command)
    assert "planted_by_a_test:build" in said
    assert "--trust planted_by_a_test" in said
    assert "planted_by_a_test:build" in _refused(monkeypatch, capsys, *command, "--trust", "other")
    assert not (tmp_path / "ran").exists()
    assert run_main(monkeypatch, *command, "--trust", "other", "--trust", "planted_by_a_test") == 0
    assert (tmp_path / "ran").exists()
    capsys.readouterr()
    trusted = ("--trust", "planted_by_a_test", "--json", "--set", "version=mine")
    assert run_main(monkeypatch, *command, *trusted) == 0
    own = {"axis": "model", "name": "planted_by_a_test:build", "source": "version mine"}
    assert json.loads(capsys.readouterr().out)["own"] == [own]


# --- init ---


def _photos(folder: Path, side: int) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for name in ("cat", "do\"g'"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("side", "model"), [(16, "small_cnn"), (80, "resnet18"), (None, "small_cnn")]
)
def test_init_writes_a_script_that_runs_as_it_is(
    side: int | None,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, data = tmp_path / "mine.py", ()
    if side is not None:
        data = ("--data", _photos(tmp_path / "my photos", side))
    assert run_main(monkeypatch, "init", "--out", out, *data) == 0
    said = capsys.readouterr().out
    assert f"raydrop run {out} --dry-run" in " ".join(said.split())
    assert "for train" in said
    text = out.read_text()
    assert text.count("# ") >= 8
    code = text.partition("from ray import tune")[2].replace(str(tmp_path), "")
    assert max(map(len, code.splitlines())) <= 100
    study = runpy.run_path(str(out), run_name="raydrop_sweep")["study"]
    assert study.model == model
    assert study.name == ("digits" if side is None else "my_photos")
    assert run_main(monkeypatch, "run", out, "--dry-run", "--out", tmp_path / "results") == 0
    assert "trials         27, of which to do    27" in capsys.readouterr().out
    before = out.read_text()
    said = _refused(monkeypatch, capsys, "init", "--out", out)
    assert "Expected no file at" in said
    assert out.read_text() == before


def test_init_of_data_with_groups_is_about_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep.py"
    data = "digits+spurious(0.9)"
    assert run_main(monkeypatch, "init", "--data", data, "--out", out) == 0
    study = runpy.run_path(str(out), run_name="raydrop_sweep")["study"]
    assert (study.by, study.dataset) == ("group", data)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "digit"), "did you mean digits"),
        (("--data", "imagefolder:nowhere"), "nowhere"),
        (("--out", "nowhere/sweep.py"), "Expected a folder nowhere to write sweep.py into"),
    ],
)
def test_init_of_what_is_not_there_writes_nothing(
    arguments: tuple[str, str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "init", *arguments) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


# --- keep and trials ---


def _kept_results(folder: Path, study: FakeStudy = SMALL) -> Path:
    study.write(folder)
    ids = np.arange(8)
    write_samples(
        Store(open_place(folder)),
        FINGERPRINT,
        ids=ids,
        labels=ids % 4,
        paths=[f"train/=cmd|{each}.png" for each in ids],
        root="photos",
    )
    return folder


def test_what_was_kept_is_written_with_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = _kept_results(tmp_path / "results"), tmp_path / "mine.csv"
    by_id = ("keep", folder, SMALL.trial_id(SMALL.trials()[0])[:7], "--out", out)
    assert run_main(monkeypatch, *by_id) == 0
    said = capsys.readouterr().out
    assert f"Kept 5: {out}" in said
    assert "Paths are below photos" in said
    header, first = out.read_text().splitlines()[:2]
    assert header == "sample_id,path,label,class_name,group,score"
    assert first == "0,train/=cmd|0.png,0,cat,,"
    content = out.read_bytes()
    point = ("--method", "random", "--quotas", "none", "--keep-fraction", 0.2, "--seed", 0)
    assert run_main(monkeypatch, "keep", folder, *point, "--out", out) == 0
    assert out.read_bytes() == content
    said = _refused(monkeypatch, capsys, "keep", folder, *point[:-2], "--out", out)
    assert "found 2; say also which seed" in said
    said = _refused(monkeypatch, capsys, "keep", tmp_path, "--out", out)
    assert "a study.json in" in said


DIGITS = load_dataset("digits")


class OfDigits(FakeStudy):
    """Made-up predictions of the real digits, from before samples were kept."""

    def labels(self) -> NDArray[np.int64]:
        return DIGITS.test.labels

    def write_data(self, store: Store) -> None:
        save_data_card(DIGITS, store)
        for key in store.keys("samples"):
            store.remove("samples", key)

    def write_trial(self, store: Store, trial: TrialConfig, predictions: NDArray[Any]) -> None:
        arrays = {"predictions": predictions, "kept_ids": DIGITS.train.ids[[7, 3]]}
        store.write("trial", self.identity(trial), self.info(trial), arrays)


def test_results_of_before_samples_were_kept_get_them_from_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = SMALL.write(tmp_path / "results"), tmp_path / "kept.csv"
    keep = ("keep", folder, "--method", "none", "--seed", 0, "--out", out)
    said = _refused(monkeypatch, capsys, *keep)
    assert "Expected the data of" in said
    assert "found others as digits" in said
    study = OfDigits(class_names=tuple("0123456789"), keeps=(0.5,))
    monkeypatch.setattr("fake_study.FINGERPRINT", DIGITS.fingerprint)
    folder = study.write(tmp_path / "digits")
    assert run_main(monkeypatch, "keep", folder, *keep[2:]) == 0
    kept = pd.read_csv(out)
    assert kept["label"].tolist() == DIGITS.train.labels[[3, 7]].tolist()
    found = read_samples(Store(open_place(folder)), DIGITS.fingerprint)
    assert found is not None
    assert len(found) == len(DIGITS.train)


def test_trials_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = SMALL.trials()[:2]
    SMALL.write(tmp_path, skip=[first, second])
    SMALL.write_failure(tmp_path, first, "it \x1b[2J diverged")
    assert run_main(monkeypatch, "trials", tmp_path) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "│" in line]
    assert len(lines) == len(SMALL.trials())
    assert SMALL.trial_id(first)[:8] in lines[0]
    assert "random + none, cross_entropy, keep 0.2" in lines[0]
    assert "failed" in lines[0]
    assert "missing" in lines[1]
    assert "finished" in lines[2]
    trials = raydrop.Results(tmp_path).trials.set_index("trial_id")
    row = trials.loc[SMALL.trial_id(SMALL.trials()[2])]
    assert f"{row['average_accuracy']:.3f}/{row['worst_class_accuracy']:.3f}" in lines[2]
    assert r"1 failed: it \x1b[2J diverged" in out


# --- methods and frontier as JSON ---


def test_methods_say_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "methods", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {*found} == {"scores", "quotas", "losses", "network pruners", "data sets", "models"}
    losses = {each["name"]: each for each in found["losses"]}
    assert losses["focal"]["usage"] == "focal(2)"
    assert losses["focal"]["from"] == "raydrop"
    assert "arXiv" in losses["focal"]["citation"]
    assert {*losses} >= {*LOSSES}
    assert {each["name"] for each in found["models"]} >= {"small_cnn", "linear"}
    assert run_main(monkeypatch, "methods") == 0
    assert "│ raydrop" in capsys.readouterr().out


def test_a_frontier_is_told_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL.write(tmp_path / "a", skip=SMALL.trials()[:1])
    assert run_main(monkeypatch, "frontier", tmp_path / "a", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    table = raydrop.Results(tmp_path / "a").frontier
    assert found["by"] == "class"
    assert found["report"] == str(tmp_path / "a" / "report.html")
    assert [each["method"] for each in found["points"]] == table["method"].tolist()
    lows = [each["worst_class_low"] for each in found["points"]]
    assert lows == pytest.approx(table["worst_class_low"].tolist(), abs=1e-14)
    assert found["points"][0]["macs"] is None
    assert "1 trials are missing" in said.err
    SMALL.write(tmp_path / "b")
    both = (tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both")
    assert run_main(monkeypatch, "frontier", *both, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["points"]) == 2 * len(table)
    assert found["overlay"][0] == str(tmp_path / "both" / "overlay.csv")
    said_ = _refused(monkeypatch, capsys, "frontier", tmp_path / "a", "--json", "--watch")
    assert "--json without --watch" in said_


# --- plain tables ---

PREDICTIONS = (
    "keep_fraction,seed,id,label,prediction\n"
    "0.5,0,w,cat,cat\n0.5,0,x,cat,dog\n0.5,0,y,dog,dog\n0.5,0,z,dog,dog\n"
)


def test_predictions_of_elsewhere_make_a_frontier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs, out = tmp_path / "mine.csv", tmp_path / "theirs.parquet", tmp_path / "elsewhere"
    mine.write_text(PREDICTIONS)
    pd.read_csv(mine).assign(prediction="cat").to_parquet(theirs)
    assert run_main(monkeypatch, "frontier", mine, theirs, "--out", out) == 0
    said = capsys.readouterr().out
    assert "mine + none" in said
    assert "0.75/0.50●" in said
    assert "theirs + none" in said
    assert f"Report: {out / 'report.html'}" in said
    table = pd.read_csv(out / "frontier.csv")
    assert table["worst_class"].tolist() == ["cat", "dog"]
    assert run_main(monkeypatch, "trials", out) == 0
    assert "mine + none, cross_entropy, keep 0.5" in capsys.readouterr().out
    refused = _refused(monkeypatch, capsys, "frontier", mine)
    assert "and --out with a folder for what they say, found no --out" in refused
    refused = _refused(monkeypatch, capsys, "frontier", mine, out, "--out", tmp_path / "c")
    assert f"found {out} among them" in refused
    mine.write_text(PREDICTIONS.replace("label", "labels"))
    refused = _refused(monkeypatch, capsys, "frontier", mine, "--out", tmp_path / "d")
    assert "found no label (did you mean label?)" in refused
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "c").exists()
    refused = _refused(monkeypatch, capsys, "keep", out, "--seed", 0, "--method", "mine")
    assert "found its predictions alone" in refused


SCORES = (
    "id,label,score,group,path\n"
    "a,cat,0.1,day,x/a.png\nb,cat,0.5,night,x/b.png\nc,dog,0.3,day,x/c.png\n"
    "d,dog,0.9,night,x/d.png\n01,owl,0.2,day,x/e.png\nf,owl,-inf,day,x/f.png\n"
)


def test_scores_of_ones_own_are_selected_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, out = tmp_path / "mine.csv", tmp_path / "kept.csv"
    scores.write_text(SCORES)
    command = ("select", scores, "--keep-fraction", 0.5, "--out", out)
    assert run_main(monkeypatch, *command) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "sample_id,path,label,class_name,group,group_name"
    assert lines[1:] == [
        "b,x/b.png,0,cat,1,night",
        "c,x/c.png,1,dog,0,day",
        "d,x/d.png,1,dog,1,night",
    ]
    assert "Nothing is kept of owl" in capsys.readouterr().err
    assert run_main(monkeypatch, *command, "--lower-is-kept", "--quotas", "balanced") == 0
    assert [line[:2] for line in out.read_text().splitlines()[1:]] == ["a,", "c,", "f,"]
    assert run_main(monkeypatch, *command, "--by", "group", "--quotas", "balanced") == 0
    assert pd.read_csv(out)["group_name"].value_counts().to_dict() == {"day": 2, "night": 1}
    recalls = tmp_path / "recalls.csv"
    recalls.write_text("class,recall\ncat,0.9\ndog,0.9\nowl,0.1\n")
    assert run_main(monkeypatch, *command, "--quotas", "drop", "--recalls", recalls) == 0
    assert "owl" in out.read_text()


def test_scores_of_files_are_selected_with_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, out = tmp_path / "scores.parquet", tmp_path / "kept.csv"
    paths = [f"train/{name}.png" for name in ("=a", "b", "c", "d")]
    frame = pd.DataFrame({"sample_id": [3, 1, 2, 0], "label": [0, 0, 1, 1], "path": paths})
    units = {"class": Units(["0", "1"], [0.5, 0.5], [9, 9])}
    facts = ScoreFacts("el2n", True, "imagefolder:x", "small_cnn", 0, units)
    write_scores(scores, frame.assign(score=[0.1, 0.9, 0.8, 0.2]), facts)
    assert run_main(monkeypatch, "select", scores, "--keep-fraction", 0.5, "--out", out) == 0
    assert out.read_text() == "sample_id,path,label\n1,train/b.png,0\n2,train/c.png,1\n"
    refused = ("--keep-fraction", 0.5, "--lower-is-kept", "--out", out)
    assert run_main(monkeypatch, "select", scores, *refused) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("score", "scores"), "Expected the columns id,label,score[,group][,path] in"),
        ((",0.1,", ",high,"), "Expected a number for every score in"),
        ((",0.1,", ",,"), "a number for every score"),
        (("b,cat", "a,cat"), "Expected each id once in"),
        (("b,cat", "b,"), "found no label in some rows"),
        ((SCORES[len("id,label,score,group,path\n") :], ""), "found no row"),
    ],
)
def test_a_table_of_scores_that_does_not_fit_is_one_sentence(
    change: tuple[str, str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores, out = tmp_path / "mine.csv", tmp_path / "kept.csv"
    text = SCORES.splitlines(keepends=True)[0] if not change[1] and len(change[0]) > 50 else ""
    scores.write_text(text or SCORES.replace(*change, 1))
    said = _refused(monkeypatch, capsys, "select", scores, "--keep-fraction", 0.5, "--out", out)
    assert sentence in said
    assert not out.exists()
