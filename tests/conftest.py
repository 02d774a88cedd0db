"""What several test files share: small data, and networks that need no downloads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, prepare
from raydrop.study import Study, Training


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Results are the same bits for a fixed number of threads only."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> PreparedData:
    """All digits that the package ships."""
    return prepare(load_dataset("digits"))


@pytest.fixture
def tiny_study() -> Study:
    """A study that takes a few seconds: two epochs, a handful of trials."""
    return Study(
        name="tiny",
        dataset="digits+subset(12, test=6)+long_tail(3)",
        model="small_cnn",
        param_space={
            "method": {"grid_search": ["random", "moso"]},
            "quotas": {"grid_search": ["none", "drop"]},
            "keep_fraction": 0.5,
        },
        seeds=(0, 1),
        training=Training(epochs=2, batch_size=16),
        checkpoints=2,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
