"""What several test files share: small data, and networks that need no downloads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, prepare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files first that take long: those with Ray, which mostly wait, then by their size.

    Processes that share the files out between them then end at about the same time.
    """
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (item.path not in with_ray, -item.path.stat().st_size, item.path))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Results are the same bits for a fixed number of threads only."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> PreparedData:
    """All digits that the package ships."""
    return prepare(load_dataset("digits"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
