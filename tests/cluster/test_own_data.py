"""Data sets that a script hands to a study: what is told of them, and how workers get them."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rich.console import Console
from torch.utils.data import Dataset, Subset

from raydrop.cluster.driver import Options, run_study
from raydrop.cluster.session import sent
from raydrop.data import from_arrays, from_torch
from raydrop.data.batches import prepare
from raydrop.errors import DataError
from raydrop.study import Study, Training


class Locked(Dataset[Any]):
    """A data set that holds what no other process can have."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return torch.ones(3) * index, index % 3


def dry(study: Study, out: Path) -> str:
    console = Console(record=True, width=1000)
    run_study(study, Options(out=out, num_cpus=1, dry_run=True), console)
    return console.export_text()


def test_a_dry_run_tells_of_data_from_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydrop.cluster.forecast.SECONDS", 0.01)
    x, y = np.random.default_rng(0).normal(size=(120, 4, 4, 4)), np.arange(120) % 3
    dataset = from_arrays(x, y, name="mine")
    space = {"method": "random", "keep_fraction": 0.5}
    study = Study("t", dataset, "linear", space, training=Training(epochs=1))  # type: ignore[arg-type]
    said = dry(study, tmp_path / "out")
    assert "mine, 87 training samples in 3 classes" in said
    assert "no split, so 20% of the samples of each class are the test set" in said
    assert "so 10% of the training samples of each class are validation" in said
    assert "no pictures of samples" in said
    assert "with fewer than 10 validation samples" in said
    assert "raydrop check" not in said
    assert "likely" in said
    listed = dry(Study("t", "digits", "linear", space), tmp_path / "digits")
    assert "800 training images" in listed


def test_what_cannot_be_sent_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", pickle.dumps)
    streamed = from_torch(Locked(), Locked(), in_memory=False)
    with pytest.raises(DataError, match=r"can be sent to workers, found .*lock.* in_memory=True"):
        sent(prepare(streamed))
    assert pickle.loads(sent(prepare(from_torch(Locked(), Locked()))))


def test_modules_are_those_of_whatever_feeds_a_data_set() -> None:
    part = Subset(Locked(), range(30))
    streamed = from_torch(part, part, in_memory=False, augment=torch.nn.Dropout())
    assert {__name__, "torch.utils.data.dataset"} <= {*streamed.modules}
    assert __name__ not in from_torch(part, part).modules
