"""What reaches a terminal of names and messages that come from others; no Ray."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
import unicodedata
import warnings
from pathlib import Path

import pandas as pd
import pytest
from fake_study import FakeStudy

import raydrop.frontier
from raydrop import cli
from raydrop.errors import visible
from raydrop.frontier import Frontier, load_records
from raydrop.frontier.table import table_of
from raydrop.frontier.watch import Watcher, live_view
from raydrop.store import terminal as terminal_module
from raydrop.store.tables import ScoreFacts, Units, write_scores

HOSTILE = "[/INST] [red]:smile:\x1b[2J\x1b]8;;http://x\x07\x1b]52;c;eA==\x1b\\\x9b31m\r\b\x00\u202ed\u2028$é"
STUDY = FakeStudy(methods=("random",), keeps=(0.5,), class_names=("[/INST]", "[b]x", HOSTILE))


class FakeTerminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> FakeTerminal:
    return FakeTerminal()


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, and a terminal shows none of them."""
    for name in ("png", "svg"):
        monkeypatch.setattr(f"raydrop.frontier.figures.canvas.to_{name}", lambda *_: b"<svg/>")


def attach(terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both standard streams written to a terminal, and restore what a program sets up."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    for console in (terminal_module.console, terminal_module.errors):
        monkeypatch.setattr(console, "_width", 2000)
        monkeypatch.setattr(console, "_height", 50)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(logging, "_warnings_showwarning", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raydrop", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def hostile_study(folder: Path) -> Path:
    """A study of which every name, and a message, is hostile."""
    study = dataclasses.replace(STUDY, losses=(HOSTILE,), quotas=("none", HOSTILE))
    study.write(folder, skip=study.trials()[:1])
    study.write_failure(folder, study.trials()[0], f"It ended: {HOSTILE}")
    place = folder / "study.json"
    body = json.loads(place.read_text())
    body["study"]["name"] = HOSTILE
    place.write_text(json.dumps(body))
    return folder


def check(shown: str, times: int = 1) -> None:
    """Fail unless a text has the hostile name, readable, and nothing that steers a terminal."""
    assert shown.count(visible(HOSTILE)) >= times, shown
    for code in ("\x1b[2J", "\x1b]", "\x1b\\", "\x9b", "\x07", "\b", "\x00", "\u202e", "\u2028"):
        assert code not in shown
    assert {c for c in shown if unicodedata.category(c) == "Cc"} <= {"\n", "\x1b", "\r"}
    assert "\r" not in shown.replace("\r\x1b[2K", "").replace("\r\n", "")


@pytest.mark.usefixtures("no_pngs")
@pytest.mark.parametrize("command", ["frontier", "export"])
def test_a_study_is_shown_with_all_its_names_as_text(
    command: str, tmp_path: Path, terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(terminal, monkeypatch)
    folder = hostile_study(tmp_path / "[old] run")
    options = ["--format", "latex"] if command == "export" else []
    assert main(monkeypatch, command, folder, *options) == 0
    check(terminal.getvalue())
    assert str(folder) in terminal.getvalue()


@pytest.mark.usefixtures("no_pngs")
def test_following_a_sweep_shows_names_as_text(
    tmp_path: Path, terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(terminal, monkeypatch)
    folder = hostile_study(tmp_path / "[old] run")
    assert main(monkeypatch, "frontier", "--watch", folder) == 0
    check(terminal.getvalue(), times=3)
    snapshot = Watcher(folder).look()
    console = terminal_module.Console(file=FakeTerminal(), width=300)
    console.print(live_view(snapshot, HOSTILE, 0.0, 10))
    check(console.file.getvalue(), times=2)  # type: ignore[attr-defined]


def test_a_plan_shows_names_as_text(
    tmp_path: Path, terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"dataset": "digits+subset(12, test=6)", "model": "small_cnn"}
    space = {"method": "random", "keep_fraction": 0.5}
    sweep = tmp_path / "[old] \x1b[2J.py"
    name = "".join(letter for letter in HOSTILE if letter not in "/\\\0")  # which no name may have
    study = f"Study(name={name!r}, param_space={space}, **{fields})"
    sweep.write_text(f"from raydrop import Study\nstudy = {study}\n")
    attach(terminal, monkeypatch)
    out = tmp_path / f"out {name}"
    status = main(monkeypatch, "run", sweep, "--out", out, "--dry-run")
    assert status == 0, terminal.getvalue()
    assert f"{visible(name)}: digits" in terminal.getvalue().replace("\x1b[0m", "")
    check(terminal.getvalue(), times=0)
    sweep.write_text(f"raise RuntimeError({HOSTILE!r})")
    assert main(monkeypatch, "run", sweep) == 1
    check(terminal.getvalue())


def test_a_selection_shows_names_as_text(
    tmp_path: Path, terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {"class": Units([HOSTILE, "[/INST]"], [0.5, 0.5], [4, 4])}
    facts = ScoreFacts("el2n", True, HOSTILE, "m", 0, units)
    frame = pd.DataFrame({"sample_id": range(8), "label": [0, 1] * 4, "score": [9.0, 1.0] * 4})
    write_scores(tmp_path / "scores.parquet", frame, facts)
    attach(terminal, monkeypatch)
    command = ("select", tmp_path / "scores.parquet", "--keep-fraction", 0.5)
    assert main(monkeypatch, *command, "--out", tmp_path / "[b] kept.csv") == 0
    check(terminal.getvalue())
    assert "Nothing is kept of [/INST];" in terminal.getvalue()
    assert str(tmp_path / "[b] kept.csv") in terminal.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("frontier", HOSTILE.replace("\0", "")),
        ("run", HOSTILE.replace("\0", "")),
        ("export", "x", "--format", HOSTILE),
        (HOSTILE,),
        ("run", "x.py", f"--{HOSTILE}"),
        ("run", "x.py", "--num-cpus", HOSTILE),
        ("run", "x.py", "--out"),
        ("select", "x", "--keep-fraction", HOSTILE),
    ],
)
def test_a_mistake_is_shown_as_text(
    arguments: tuple[str, ...], terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(terminal, monkeypatch)
    assert main(monkeypatch, *arguments) in (1, 2)
    shown = terminal.getvalue().replace("\x1b[1;31m", "").replace("\x1b[0m", "")
    assert "Error" in shown
    assert not [letter for letter in HOSTILE if not letter.isprintable() and letter in shown]


def test_log_records_warnings_and_tracebacks_are_shown_as_text(
    terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(terminal, monkeypatch)

    def work(*_: object, **__: object) -> None:
        logging.getLogger("raydrop").warning("Set aside %s\nSecond line", HOSTILE)
        warnings.showwarning(HOSTILE, UserWarning, "x.py", 1)
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("raydrop.frontier.write_frontier", work)
    monkeypatch.setattr(sys, "argv", ["raydrop", "frontier", "x"])
    with pytest.raises(RuntimeError) as raised:
        cli.main()
    sys.excepthook(raised.type, raised.value, raised.value.__traceback__)
    shown = terminal.getvalue()
    check(shown, times=2)
    assert "\nSecond line\n" in shown
    assert shown.splitlines()[-1].startswith(r"RuntimeError: [/INST] [red]:smile:\x1b[2J\x1b]8;;")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Frontier:
    """What the command finds, drawn once for all encodings."""
    records = load_records(STUDY.write(tmp_path_factory.mktemp("written")))
    return Frontier(records, table_of(records), pd.DataFrame(), {})


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(
    encoding: str, drawn: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = raydrop.frontier.write_frontier
    monkeypatch.setattr(
        "raydrop.frontier.write_frontier",
        lambda place, *rest, **options: (
            drawn if place == "drawn" else real(place, *rest, **options)
        ),
    )
    streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, written in streams.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding))
    assert main(monkeypatch, "frontier", "drawn") == 0
    assert main(monkeypatch, "methods") == 0
    assert main(monkeypatch, "frontier", "café \udce9 ●") == 1
    sys.stdout.flush()
    sys.stderr.flush()
    shown, said = (each.getvalue().decode(encoding) for each in streams.values())
    assert "accuracy; ●" in shown or r"accuracy; \u25cf" in shown
    assert r"\udce9" in said
