"""What several test files share: small data, and networks that need no downloads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

# torch and the package are imported where they are needed: the process that hands out the files
# needs neither.
if TYPE_CHECKING:
    from raydrop.data.batches import PreparedData

# What is imported and collected stays until the end. Looking through it for garbage again and again
# took a third of the start.
gc.disable()


LONGEST = ("ray_up", "chaos", "cluster", "own_cluster", "remote", "crew")
"""Files of tests that take a minute or more, the first of which mostly waits."""
SERVERS = {"endpoint", "google"}
"""Fixtures that start a server of an object store."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, and put files first that take long.

    Those are the longest, others with Ray, then large ones: processes that share the files out
    between them then end at about the same time.
    """
    longest = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    for item in items:
        if not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("services")
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}

    def place(item: pytest.Item) -> tuple[int, bool, int, Path]:
        path, last = item.path, len(longest)
        return longest.get(path.name, last), path not in with_ray, -path.stat().st_size, path

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Leave what is there now out of all further garbage collections."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Results are the same bits for a fixed number of threads only."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Whatever a test brings into a catalogue is gone after it: files of tests share processes."""
    from raydrop.study.catalogue import Catalogue

    before = {kind: (dict(c._entries), dict(c._things)) for kind, c in Catalogue.kinds.items()}
    yield
    for kind, (entries, things) in before.items():
        catalogue = Catalogue.kinds[kind]
        catalogue._entries, catalogue._things, catalogue._plugins = entries, things, {}


@pytest.fixture(scope="session")
def digits() -> PreparedData:
    """All digits that the package ships."""
    from raydrop.data import load_dataset
    from raydrop.data.batches import prepare

    return prepare(load_dataset("digits"))


@pytest.fixture
def no_pngs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are not drawn where a test looks at something else."""
    monkeypatch.setattr("raydrop.frontier.figures.canvas.to_png", lambda _: b"")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
