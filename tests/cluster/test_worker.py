"""What a worker process does first; GPUs are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from raydrop.cluster.resources import CONTEXT_BYTES, Layout, make_layout, tensor_share
from raydrop.cluster.worker import prepare_process

GIB = 2**30


@pytest.mark.parametrize("gpus", [0.5, 0.4, 1 / 3, 0.25, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("total", [4 * GIB, 24 * GIB, 80 * GIB])
def test_all_workers_of_a_gpu_fit_on_it_with_their_contexts(gpus: float, total: int) -> None:
    """As many as Ray puts there, which is what the layout counts on."""
    (node,) = [{"CPU": 64.0, "GPU": 1.0}]
    workers = make_layout([node], in_memory=True, gpus_per_worker=gpus).workers
    share = tensor_share(gpus, total)
    assert 0.5 * gpus <= share < gpus
    if share > 0.5 * gpus:  # otherwise contexts are taken to be smaller
        assert workers * (share * total + CONTEXT_BYTES) <= total * (1 + 1e-9)


def test_the_share_is_what_is_left_beside_contexts() -> None:
    total = 16 * CONTEXT_BYTES
    assert tensor_share(0.25, total) == pytest.approx((16 - 4) / 16 / 4)
    assert tensor_share(0.4, total) == pytest.approx(0.4 * (16 - 2) / 16)  # two fit
    assert tensor_share(0.1, total) == 0.05  # ten contexts would leave too little
    assert tensor_share(1.0, total) == tensor_share(2.0, total) == 1.0


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, int]]]:
    """A machine with a GPU of 24 GiB; what processes are limited to, and on which device."""
    told: list[tuple[float, int]] = []
    threads, device = torch.get_num_threads(), SimpleNamespace(total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *limit: told.append(limit)
    )
    yield told
    torch.set_num_threads(threads)


def test_workers_that_share_a_gpu_limit_themselves(limits: list[tuple[float, int]]) -> None:
    prepare_process(Layout(8, 1, 0.25))
    assert limits == [(tensor_share(0.25, 24 * GIB), 0)]
    assert limits[0][0] == pytest.approx((24 - 4 * 0.75) / 24 / 4)


@pytest.mark.parametrize("gpus", [0.0, 1.0, 2.0])
def test_workers_without_a_gpu_or_with_whole_ones_do_not(
    limits: list[tuple[float, int]], gpus: float
) -> None:
    prepare_process(Layout(2, 1, gpus))
    assert limits == []


def test_nothing_is_asked_of_a_gpu_where_there_is_none(
    limits: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare_process(Layout(2, 1, 0.5))
    assert limits == []
