"""Per-sample gradient quantities against one backward pass per sample, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import dots_one_by_one, gradients_one_by_one, norms_one_by_one
from torch import Tensor, nn

from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores import gradients as engine
from raydrop.scores.gradients import (
    gradient_sum,
    parameters_of,
    per_sample_dot,
    per_sample_norm,
)

BATCH, CLASSES = 5, 4


class Tied(nn.Module):
    """Uses one weight twice, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x.flatten(1)[:, :6]))
        return self.head(self.scale * torch.tanh(self.second(hidden)))


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[1].weight.requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=2, dilation=1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    ),
    "group and layer norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, CLASSES),
    ),
    "tied and bare": Tied,
    "partly frozen": _frozen,
    "small_cnn": lambda: build_model("small_cnn", CLASSES, (1, 4, 4)),
}


def _case(name: str) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    inputs = torch.randn(BATCH, 1, 4, 4, dtype=torch.float64)
    model.train()
    model(inputs)  # gives BatchNorm statistics that are not its initial ones
    model.eval()
    labels = torch.tensor([0, 1, 2, 3, 1])
    direction = {k: torch.randn_like(v) for k, v in parameters_of(model).items()}
    return model, inputs, labels, direction


@pytest.mark.parametrize("name", MODELS)
def test_dot_norm_and_sum_equal_the_batch_1_loop(name: str) -> None:
    model, inputs, labels, direction = _case(name)
    dots = per_sample_dot(model, inputs, labels, direction)
    norms = per_sample_norm(model, inputs, labels)
    sums = gradient_sum(model, inputs, labels)
    torch.testing.assert_close(dots, dots_one_by_one(model, inputs, labels, direction))
    torch.testing.assert_close(norms, norms_one_by_one(model, inputs, labels))
    for key, value in sums.items():
        loop = sum(g[key] for g in gradients_one_by_one(model, inputs, labels))
        torch.testing.assert_close(value, loop)


def test_comparison_rejects_a_mean_reduction() -> None:
    model, inputs, labels, direction = _case("convolution")
    halved = per_sample_dot(model, inputs, labels, direction) / BATCH
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(halved, dots_one_by_one(model, inputs, labels, direction))


@pytest.mark.parametrize("dropped", ["1.weight", "1.bias", "0.weight"])
def test_comparison_rejects_a_dropped_parameter(dropped: str) -> None:
    model, inputs, labels, _ = _case("batch norm")
    partial = [
        torch.cat([g.flatten() for key, g in gradient.items() if key != dropped]).norm()
        for gradient in gradients_one_by_one(model, inputs, labels)
    ]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(per_sample_norm(model, inputs, labels), torch.stack(partial))


def test_mean_of_products_with_the_mean_gradient_is_its_squared_norm() -> None:
    model, inputs, labels, _ = _case("small_cnn")
    mean = {k: v / BATCH for k, v in gradient_sum(model, inputs, labels).items()}
    dots = per_sample_dot(model, inputs, labels, mean)
    squared = sum(v.square().sum() for v in mean.values())
    torch.testing.assert_close(dots.mean(), squared)


def test_grand_of_a_linear_model_is_el2n_times_the_input_norm() -> None:
    model, inputs, labels, _ = _case("linear")
    error = torch.softmax(model(inputs), 1) - nn.functional.one_hot(labels, CLASSES)
    expected = error.norm(dim=1) * (1 + inputs.flatten(1).square().sum(1)).sqrt()
    torch.testing.assert_close(per_sample_norm(model, inputs, labels), expected)


def test_batch_size_does_not_change_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels, direction = _case("small_cnn")
    whole = per_sample_dot(model, inputs, labels, direction)
    parts = [
        per_sample_dot(model, inputs[i : i + 2], labels[i : i + 2], direction)
        for i in range(0, BATCH, 2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts))
    norms = per_sample_norm(model, inputs, labels)
    monkeypatch.setattr(engine, "NORM_MEMORY_BYTES", 1)  # one sample at a time
    torch.testing.assert_close(norms, per_sample_norm(model, inputs, labels))


def test_batch_statistics_are_refused() -> None:
    model, inputs, labels, direction = _case("batch norm")
    model.train()
    for call in (
        lambda: per_sample_dot(model, inputs, labels, direction),
        lambda: per_sample_norm(model, inputs, labels),
        lambda: gradient_sum(model, inputs, labels),
    ):
        with pytest.raises(ScoringError, match=r"layer '1' .* call model.eval\(\)"):
            call()


def test_direction_that_does_not_fit_names_the_tensors() -> None:
    model, inputs, labels, direction = _case("linear")
    misfit = {"1.weight": torch.zeros(3, 3), "typo": torch.zeros(1)}
    with pytest.raises(ScoringError, match=r"missing \['1.bias'\], unknown \['typo'\].*\(3, 3\)"):
        per_sample_dot(model, inputs, labels, misfit)
    assert direction.keys() == {"1.weight", "1.bias"}


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_labels_outside_the_head_are_refused(wrong: int) -> None:
    model, inputs, labels, direction = _case("linear")
    labels[2] = wrong
    for call in (
        lambda: per_sample_dot(model, inputs, labels, direction),
        lambda: per_sample_norm(model, inputs, labels),
        lambda: gradient_sum(model, inputs, labels),
    ):
        with pytest.raises(ScoringError, match=r"within 0\.\.\.3"):
            call()
