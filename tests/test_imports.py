"""Imports follow one direction, and reading results needs neither Ray nor torch."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import raydrop

ROOT = Path(raydrop.__file__).parent

# Each room with those that it may import of the package, besides `errors` and itself.
ROOMS = {
    "errors": set(),
    "metrics": set(),
    "selection": {"study", "store"},
    "study": set(),
    "store": {"study"},
    "data": {"study", "store"},
    "models": {"study", "data"},
    "training": {"study", "metrics", "selection", "store", "data", "models"},
    "scores": {"study", "metrics", "selection", "store", "data", "models", "training"},
    "integrations": {"scores"},
    "network": {"study", "metrics", "store", "data", "models", "training"},
    "plan": {*("study", "selection", "store", "data", "models", "training", "scores", "network")},
    "stages": {
        *("study", "metrics", "selection", "store", "data", "models", "training", "scores"),
        *("network", "plan"),
    },
    "frontier": {"study", "metrics", "store"},
    "theory": {"store", "frontier"},
}
ROOMS["cluster"] = {*ROOMS} - {"theory"}
ROOMS["cli"] = {*ROOMS}


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Names of what a file imports, anywhere in it: modules, and what is taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in sorted(ROOT.rglob("*.py"))}


def test_the_root_holds_rooms_only() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__", "errors"}
    assert {path.name for path in ROOT.iterdir() if list(path.glob("*.py"))} == {*ROOMS} - {
        "errors"
    }


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(room: str) -> None:
    for module, path in MODULES.items():
        if module.split(".")[1:2] == [room]:
            rooms = {name.split(".")[1] for name in _imports(path) if name.startswith("raydrop.")}
            assert rooms <= ROOMS[room] | {room, "errors"}, path


def test_no_folder_is_too_full_to_be_looked_through() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= 21, folder


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count; a package's ``__init__`` that gathers its parts does not."""
    arrows = {
        module: {name for name in _imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for following in sorted(arrows.get(module, ())):
                follow(following, (*way, module))
            done.add(module)

    for module in arrows:
        follow(module, ())


def test_only_the_cluster_room_touches_ray() -> None:
    for module, path in MODULES.items():
        if not module.startswith("raydrop.cluster"):
            assert not {name for name in _imports(path) if name.split(".")[0] == "ray"}, path


def test_reading_results_needs_neither_ray_nor_torch() -> None:
    heavy = {"ray", "torch", "torchvision", "matplotlib.pyplot"}
    code = (
        "import sys, raydrop, raydrop.selection, raydrop.store.tables, raydrop.frontier\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
