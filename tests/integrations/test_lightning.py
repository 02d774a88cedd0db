"""A recorder in a real Trainer of Lightning, against a loop of our own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import raydrop as rd
from raydrop.errors import ConfigError
from raydrop.scores.recorder import Recorder

pytest.importorskip("lightning")
N, K, E = 48, 3, 3
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % K


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Lightning warns of much that is no concern here, and of packages of its own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _module(kind: str) -> Any:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net, self.said = nn.Linear(5, K), list[tuple[Tensor, Tensor]]()

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.net(inputs)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            parts = list(batch.values() if isinstance(batch, dict) else batch)
            logits = self(parts[-2]) if kind == "forward" else self.net(parts[-2])
            self.said.append((parts[0].clone(), logits.detach().clone()))
            loss = nn.functional.cross_entropy(logits, parts[-1])
            return {"loss": loss, "logits": logits} if kind == "returned" else loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(list(batch.values() if isinstance(batch, dict) else batch)[-2])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    return Module()


def _fit(
    module: Any, recorder: Recorder, data: Any, folder: Path, epochs: int = E, **how: Any
) -> None:
    from lightning.pytorch import Trainer, seed_everything

    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[rd.integrations.LightningRecorder(recorder)],
    )
    loader = DataLoader(data, batch_size=7, shuffle=True)
    trainer.fit(module, loader, DataLoader(data, batch_size=9), **how)


def _same(recorder: Recorder, said: list[tuple[Tensor, Tensor]]) -> None:
    twin, steps = Recorder(N, K), -(-N // 7)
    for first in range(0, len(said), steps):
        for index, logits in said[first : first + steps]:
            twin.update(index, logits, Y[index])
        twin.end_epoch()
    assert recorder.epochs == twin.epochs
    for name, values in twin.trace.as_arrays().items():
        np.testing.assert_array_equal(recorder.trace.as_arrays()[name], values)


@pytest.mark.parametrize("kind", ["returned", "forward"])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_every_batch_is_recorded(kind: str, form: str, tmp_path: Path) -> None:
    items: Any = TensorDataset(X, Y)
    if form == "dict":  # in the order index, x, y
        items = [{"index": k, "x": X[k], "y": int(Y[k])} for k in range(N)]
    data = items if form == "dict" else rd.with_indices(items)
    module, recorder = _module(kind), Recorder(N, K)
    _fit(module, recorder, data, tmp_path)
    assert recorder.epochs == E
    _same(recorder, module.said)
    assert len(recorder.scores("forgetting")) == N
    assert not module._forward_hooks


def test_a_resumed_training_goes_on_recording(tmp_path: Path) -> None:
    data = rd.with_indices(TensorDataset(X, Y))
    first = Recorder(N, K)
    _fit(_module("returned"), first, data, tmp_path, epochs=2)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    resumed, module = Recorder(N, K), _module("returned")
    _fit(module, resumed, data, tmp_path, epochs=4, ckpt_path=checkpoint)
    assert resumed.epochs == 4
    np.testing.assert_array_equal(resumed.trace.margin[:2], first.trace.margin)
    assert len(module.said) == 2 * -(-N // 7)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (TensorDataset(X, Y), "of an index, inputs and a label, found a list of 2; wrap"),
        ([{"x": X[k], "y": int(Y[k])} for k in range(N)], "found a batch of x, y; wrap"),
    ],
)
def test_batches_without_indices_are_refused(data: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _fit(_module("returned"), Recorder(N, K), data, tmp_path)


def test_a_step_without_logits_is_refused(tmp_path: Path) -> None:
    data = rd.with_indices(TensorDataset(X, Y))
    with pytest.raises(ConfigError, match="Expected logits of the batch, found none; have train"):
        _fit(_module("silent"), Recorder(N, K), data, tmp_path)
