"""Scores of people's own models on the workers of a real Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raydrop as rd
from raydrop.cluster.session import ray_session
from raydrop.data import load_dataset
from raydrop.errors import ScoringError
from raydrop.models import build_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As each worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(None, 2, str(Path(__file__).parent)):
        yield


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head((self.table(ids) * mask[..., None]).sum(1))}


class Items(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 150

    def __getitem__(self, index: int) -> Any:
        ids = (torch.arange(5) * 3 + index) % 11
        return {"ids": ids, "mask": (ids > 2).float()}, index % 3


def test_a_ray_of_its_own_is_started_and_ended() -> None:
    import ray

    assert not ray.is_initialized()
    torch.manual_seed(0)
    model = Words().eval()
    here = rd.score(model, Items(), method="grand")
    there = rd.score(model, Items(), method="grand", address="local", num_cpus=1)
    np.testing.assert_array_equal(here.values, there.values)
    assert not ray.is_initialized()


def test_shards_give_the_same_bits_on_a_cluster(session: None) -> None:
    dataset = load_dataset("digits+subset(30, test=4)")
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(build_model("small_cnn", 10, dataset.input_spec).eval())
    how: dict[str, Any] = {"learning_rates": [0.1, 0.2], "steps": 50}
    for method in ("moso", "k_center", "grand"):
        here = rd.score(models, dataset, method=method, **how)
        there = rd.score(models, dataset, method=method, **how, address="auto")
        np.testing.assert_array_equal(here.values, there.values)


@pytest.mark.parametrize("streams", [False, True])
def test_anybodys_data_and_models_travel(
    session: None, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streams:
        monkeypatch.setattr("raydrop.scores.own.DECODED_BYTES", 0)
    torch.manual_seed(0)
    model = Words().eval()
    here = rd.score(model, Items(), method="tracin_self")
    there = rd.score(model, Items(), method="tracin_self", address="auto")
    np.testing.assert_array_equal(here.values, there.values)


def test_what_fails_there_is_said_here(session: None) -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("odd")
            return super().forward(x)

    data = torch.randn(20, 3), torch.arange(20) % 2
    with pytest.raises(ScoringError, match="RuntimeError: odd"):
        rd.score(Odd(3, 2).eval(), data, method="grand", address="auto")
