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
