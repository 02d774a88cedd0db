"""What tests of the command line type, and the scripts that they name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raydrop import cli


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of a command."""
    monkeypatch.setattr(sys, "argv", ["raydrop", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def write_sweep(folder: Path, body: str = "", **fields: object) -> Path:
    values = {
        "name": "t",
        "dataset": "digits+subset(12, test=6)",
        "model": "small_cnn",
        "param_space": {"method": "random", "keep_fraction": 0.5},
        **fields,
    }
    path = folder / "sweep.py"
    path.write_text(f"from raydrop import Study, Training\n{body}\nstudy = Study(**{values!r})\n")
    return path
