"""A recorder in a real Trainer of transformers, on a small text model made from a configuration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import raydrop as rd
from raydrop.errors import ConfigError
from raydrop.scores.recorder import Recorder

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
N, K, E, B = 40, 3, 2, 8
WORDS = torch.randint(2, 30, (N, 6), generator=torch.Generator().manual_seed(0))
Y = [k % K for k in range(N)]
ITEMS = [
    {"input_ids": WORDS[k], "attention_mask": torch.ones(6, dtype=torch.long), "labels": Y[k]}
    for k in range(N)
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _model() -> Any:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=30, dim=8, n_layers=1, n_heads=2, hidden_dim=16, num_labels=K,
        max_position_embeddings=8, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    )  # fmt: skip
    return DistilBertForSequenceClassification(config)


def _trainer(
    recorder: Recorder, folder: Path, data: Any, *, labels: Any = None, **arguments: Any
) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """A trainer, and what its model says of which samples, as its hooks show it."""
    from transformers import Trainer, TrainingArguments

    model, said = _model(), list[tuple[Tensor, Tensor]]()
    batches = list[Tensor]()
    model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(kwargs["index"]), with_kwargs=True
    )
    model.register_forward_hook(
        lambda m, args, out: (
            said.append((batches[-1], out["logits"].detach().clone())) if m.training else None
        )
    )
    given = {
        "num_train_epochs": E,
        "per_device_train_batch_size": B,
        "report_to": [],
        "save_strategy": "no",
        "remove_unused_columns": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
        **arguments,
    }
    callback = rd.integrations.TransformersRecorder(recorder, labels=labels)
    return (
        Trainer(
            model,
            TrainingArguments(str(folder), **given),
            train_dataset=data,
            eval_dataset=data,
            callbacks=[callback],
        ),
        said,
    )


def _same(recorder: Recorder, said: list[tuple[Tensor, Tensor]]) -> None:
    twin, steps = Recorder(N, K), N // B
    for first in range(0, len(said), steps):
        for index, logits in said[first : first + steps]:
            twin.update(index, logits, torch.tensor(Y)[index])
        twin.end_epoch()
    for name, values in twin.trace.as_arrays().items():
        np.testing.assert_array_equal(recorder.trace.as_arrays()[name], values)


@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_every_batch_is_recorded(kind: str, tmp_path: Path) -> None:
    items: Any = ITEMS
    if kind == "datasets":
        datasets = pytest.importorskip("datasets")
        rows = {"input_ids": WORDS.tolist(), "attention_mask": [[1] * 6] * N, "labels": Y}
        items = datasets.Dataset.from_dict(rows)
    recorder = Recorder(N, K)
    trainer, said = _trainer(
        recorder, tmp_path, rd.with_indices(items), eval_strategy="epoch"
    )  # fmt: skip
    trainer.train()
    assert recorder.epochs == E
    _same(recorder, said)
    assert len(recorder.scores("aum")) == N


@pytest.mark.parametrize(
    "how", [{"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 2}]
)
def test_labels_may_not_reach_the_model(how: dict[str, Any], tmp_path: Path) -> None:
    recorder = Recorder(N, K)
    trainer, said = _trainer(recorder, tmp_path, rd.with_indices(ITEMS), labels=Y, **how)
    trainer.train()
    _same(recorder, said)


def test_a_resumed_training_goes_on_recording(tmp_path: Path) -> None:
    """In the middle of an epoch, whose samples before that are known from the checkpoint."""
    whole, resumed, data = Recorder(N, K), Recorder(N, K), rd.with_indices(ITEMS)
    how: dict[str, Any] = {"save_strategy": "steps", "save_steps": 7}
    _trainer(whole, tmp_path, data, **how)[0].train()
    trainer, said = _trainer(resumed, tmp_path, data, **how)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert len(said) == E * N // B - 7
    for name, values in whole.trace.as_arrays().items():
        np.testing.assert_allclose(
            resumed.trace.as_arrays()[name].astype(float), values.astype(float), atol=1e-5
        )


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    recorder, data = Recorder(N, K), rd.with_indices(ITEMS)
    trainer, _ = _trainer(recorder, tmp_path, data, remove_unused_columns=True)
    with pytest.raises(ConfigError, match="Expected remove_unused_columns=False, so that 'index'"):
        trainer.train()
    trainer, _ = _trainer(recorder, tmp_path, data, label_smoothing_factor=0.1)
    with pytest.raises(ConfigError, match="called with labels, found none; give those of all"):
        trainer.train()
    trainer, _ = _trainer(recorder, tmp_path, ITEMS)
    trainer.model._forward_pre_hooks.clear()
    with pytest.raises(ConfigError, match=r"called with 'index', found .*; wrap the training set"):
        trainer.train()
