"""What several test files share: small data, and networks that need no downloads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, prepare


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of Ray to one of several processes, first, and each other file to one.

    Two sessions of Ray at a time would each take the machine for their own.
    """
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
