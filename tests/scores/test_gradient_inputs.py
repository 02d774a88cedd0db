"""Per-sample gradients of models whose inputs are no single image: words, features, several."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydrop.data.inputs import Inputs, InputSpec, each
from raydrop.errors import ScoringError
from raydrop.models.adapter import adapted
from raydrop.scores import gradients
from raydrop.scores.gradients.memory import batch_size_for, bytes_per_sample
from raydrop.scores.quantities import embeddings_of

SAMPLES = 6
Case = tuple[nn.Module, Inputs]


def bert() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    lengths = torch.tensor([9, 5, 7, 3, 9, 4])[:, None]
    words = {
        "input_ids": torch.randint(0, 40, (SAMPLES, 9)),
        "attention_mask": (torch.arange(9) < lengths).long(),
    }
    return transformers.BertForSequenceClassification(config), words


def vit() -> Case:
    timm = pytest.importorskip("timm")
    sizes = {"embed_dim": 12, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 8}
    model = timm.models.VisionTransformer(num_classes=3, in_chans=1, **sizes)
    return model, torch.randn(SAMPLES, 1, 16, 16)


def mlp() -> Case:
    layers = (nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    return nn.Sequential(*layers), torch.randn(SAMPLES, 5)


class Several(nn.Module):
    """Numbers and words side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.numbers = nn.Embedding(10, 4), nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.numbers(numbers) + self.table(words).sum(1)))  # type: ignore[no-any-return]


def several() -> Case:
    return Several(), (torch.randn(SAMPLES, 3), torch.randint(0, 10, (SAMPLES, 5)))


def prepared(case: Callable[[], Case]) -> tuple[nn.Module, Inputs, Tensor]:
    torch.manual_seed(0)
    model, inputs = case()
    inputs = each(lambda v: v.double() if v.is_floating_point() else v, inputs)
    model = adapted(model.double().eval(), InputSpec.of(inputs), 3)
    return model, inputs, torch.arange(SAMPLES) % 3


def one_by_one(model: nn.Module, inputs: Inputs, labels: Tensor) -> list[dict[str, Tensor]]:
    """The slow twin: autograd on batches of one."""
    named = dict(model.named_parameters())
    found = []
    for i in range(len(labels)):
        row = slice(i, i + 1)
        loss = F.cross_entropy(model(each(lambda v, row=row: v[row], inputs)), labels[row])
        grads = torch.autograd.grad(
            loss, [*named.values()], allow_unused=True, materialize_grads=True
        )
        found.append(dict(zip(named, grads, strict=True)))
    return found


@pytest.mark.parametrize("case", [bert, vit, mlp, several], ids=lambda case: case.__name__)
def test_norms_products_and_sums_are_those_of_single_samples(case: Callable[[], Case]) -> None:
    model, inputs, labels = prepared(case)
    expected = one_by_one(model, inputs, labels)
    direction = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    lengths = (torch.stack([value.norm() for value in g.values()]) for g in expected)
    norms = torch.stack([length.norm() for length in lengths])
    dots = torch.stack([sum((g[n] * v).sum() for n, v in direction.items()) for g in expected])  # type: ignore[misc]
    both = gradients.norm_and_dot(model, inputs, labels, direction)
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(gradients.per_sample_norm(model, inputs, labels), norms, **close)
    torch.testing.assert_close(both[0], norms, **close)
    torch.testing.assert_close(both[1], dots, **close)
    forward = gradients.per_sample_dot(model, inputs, labels, direction)
    torch.testing.assert_close(forward, dots, **close)
    total = gradients.gradient_sum(model, inputs, labels)
    for name, value in total.items():
        torch.testing.assert_close(value, sum(g[name] for g in expected), **close)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "general"),
    [
        (bert, {"position_embeddings.weight", "token_type_embeddings.weight"}),
        (vit, {"cls_token", "pos_embed"}),
        (mlp, set()),
        (several, set()),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_has_no_rule_is_said(
    case: Callable[[], Case], general: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs, labels = prepared(case)
    found = {p.name for p in gradients.coverage(model, inputs) if p.path == "general"}
    assert {name for name in found if not any(name.endswith(each) for each in general)} == set()
    assert len(found) == len(general)
    with caplog.at_level(logging.WARNING):
        gradients.per_sample_norm(model, inputs, labels)
    said = "\n".join(caplog.messages)
    assert all(name in said for name in found)
    assert bool(said) == bool(general)


@pytest.mark.parametrize("case", [bert, vit, mlp, several], ids=lambda case: case.__name__)
def test_a_last_layer_and_its_embeddings_are_read(case: Callable[[], Case]) -> None:
    model, inputs, labels = prepared(case)
    last = gradients.last_linear(model)
    assert last is not None
    embeddings = embeddings_of(model, inputs)
    torch.testing.assert_close(last(embeddings), model(inputs))
    names = {n for n, p in model.named_parameters() if any(p is q for q in last.parameters())}
    expected = [
        torch.stack([g[name].norm() for name in names]).norm()
        for g in one_by_one(model, inputs, labels)
    ]
    with gradients.last_layer_only(model):
        found = gradients.per_sample_norm(model, inputs, labels)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", [bert, several], ids=lambda case: case.__name__)
def test_memory_is_predicted_for_such_inputs(case: Callable[[], Case]) -> None:
    model, inputs, _ = prepared(case)
    spec = InputSpec.of(inputs)
    assert bytes_per_sample(model, spec) > 0
    assert batch_size_for(model, spec, 2**30, limit=64) == 64
    assert batch_size_for(model, spec, 1, limit=64) == 1


def test_samples_that_mix_are_refused_whatever_tensor_mixes_them() -> None:
    class Mixing(Several):
        def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
            return super().forward(numbers, words.roll(1, 0))

    torch.manual_seed(0)
    _, inputs = several()
    model = adapted(Mixing().eval(), InputSpec.of(inputs), 3)
    with pytest.raises(ScoringError, match="treats each sample of a batch by itself"):
        gradients.per_sample_norm(model, inputs, torch.arange(SAMPLES) % 3)


def test_parts_of_other_lengths_are_refused() -> None:
    model, inputs, labels = prepared(several)
    with pytest.raises(ScoringError, match=r"labels of shape \(5 or 6,\)"):
        gradients.per_sample_norm(model, (inputs[0], inputs[1][:5]), labels)  # type: ignore[index]
