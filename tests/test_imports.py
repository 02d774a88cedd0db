"""Imports follow one direction, and reading results needs neither Ray nor torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import raydrop

ROOT = Path(raydrop.__file__).parent

# What each room may import of the package; anything not listed may import all of it.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "terminal": {"errors"},
    "study": {"errors"},
    "rules": {"errors"},
    "metrics": {"errors"},
    "harm": {"errors", "metrics"},
    "spaces": {"errors", "study"},
    "theory": {"errors"},
    "theory_plot": {"errors", "files", "theory", "frontier"},
    "remote": {"errors"},
    "mirror": {"errors", "files", "remote"},
    "store": {"errors", "files", "study", "remote", "mirror"},
    "logs": {"errors", "files", "study", "remote", "mirror", "training", "versions"},
    "selection": {"errors"},
    "models": {"errors", "data"},
    "data": {"errors", "files", "study", "remote", "mirror"},
    "frontier": {
        *("errors", "files", "terminal", "study", "remote", "mirror", "store", "metrics", "harm"),
    },
    "training": {"errors", "study", "rules", "data", "metrics", "models"},
    "network": {"errors", "files", "study", "rules", "data", "models", "training"},
    "scores": {"errors", "study", "data", "models", "training"},
}


def _imports(path: Path) -> set[str]:
    """Names of modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def _files(room: str) -> list[Path]:
    single = ROOT / f"{room}.py"
    return [single] if single.exists() else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_in_one_direction(room: str) -> None:
    for path in _files(room):
        rooms = {m.split(".")[1] for m in _imports(path) if m.startswith("raydrop.")}
        assert rooms <= ALLOWED[room] | {room}, path


def test_only_the_cluster_room_touches_ray() -> None:
    for path in ROOT.rglob("*.py"):
        if "cluster" not in path.relative_to(ROOT).parts:
            assert not {m for m in _imports(path) if m.split(".")[0] == "ray"}, path


def test_reading_results_needs_neither_ray_nor_torch() -> None:
    heavy = {"ray", "torch", "torchvision", "matplotlib.pyplot"}
    code = (
        "import sys, raydrop, raydrop.selection, raydrop.tables, raydrop.frontier\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
