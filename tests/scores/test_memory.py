"""Predicted memory against counts by hand and against what autograd really saves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores.gradients import memory
from raydrop.scores.gradients.memory import batch_size_for, bytes_per_sample

Build = Callable[[], nn.Module]
Shape = tuple[int, ...]


class Twice(nn.Module):
    """Calls one layer twice, adds its input, and computes outside its children."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.layer(x))) + x)


class Peeks(nn.Module):
    """Looks at values and draws random ones, which only a pass with real data can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x if x.sum() < torch.rand(()) else -x)


def linear() -> nn.Module:
    return nn.Linear(4, 3)


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3), nn.Dropout()
    )


def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))


# In float32: numbers that are saved, once however many layers save them, and those at the input
# and output of the largest layer.
BY_HAND: dict[str, tuple[Build, Shape, int, int]] = {
    "linear": (linear, (4,), 4, 4 + 3),
    # The convolution saves its input; ReLU and the linear layer share ReLU's output.
    "convolution": (convolution, (1, 4, 4), 16 + 32, 32 + 32),
    # Indices are int64; the embedding's output is the linear layer's input.
    "words": (tokens, (3,), 2 * 3 + 12, 12 + 12),
    # Of the layer: x and its own first output; then tanh outside any child, and the sum.
    "twice": (Twice, (4,), 4 + 4 + 4 + 4, 4 + 4),
    "bottleneck": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4)), (4,), 4 + 1, 4 + 1),
    "frozen": (lambda: convolution().requires_grad_(False), (1, 4, 4), 0, 32 + 32),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_tiny_models_hold_what_a_count_by_hand_says(name: str) -> None:
    build, shape, saved, largest = BY_HAND[name]
    assert bytes_per_sample(build(), shape) == 4 * (saved + 2 * largest)


def test_precision_is_that_of_the_parameters() -> None:
    assert bytes_per_sample(linear().double(), (4,)) == 2 * bytes_per_sample(linear(), (4,))


def saved_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Size of all storages that a real forward pass saves, parameters and buffers apart."""
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output = model.eval()(inputs)
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    del output
    return sum(size for place, size in sizes.items() if place not in own)


def largest_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Size of what goes into and out of the largest module without children."""
    sizes = [0]

    def note(module: nn.Module, ins: tuple[Tensor, ...], out: Tensor) -> None:
        sizes.append(sum(t.nbytes for t in (*ins, out)))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    model.eval()(inputs)
    return max(sizes)


def _normed(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(144, 2))


def test_predicted_activations_are_what_autograd_saves() -> None:
    """Equal for a batch of one; of a batch, vectors that do not grow with it are saved once."""
    for name, shape in (("small_cnn", (1, 8, 8)), ("resnet18", (3, 32, 32))):
        model = build_model(name, 10, shape)
        predicted = bytes_per_sample(model, shape)
        worked_on = 2 * largest_bytes(model, torch.zeros(1, *shape))
        assert predicted - worked_on == saved_bytes(model, torch.zeros(1, *shape))
        of_four = 4 * (predicted - worked_on)
        assert 0.99 * of_four <= saved_bytes(model, torch.zeros(4, *shape)) <= of_four
    norms = (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm((4, 6, 6)))
    for layer in (*norms, nn.InstanceNorm2d(4, affine=True)):
        model = _normed(layer)
        worked_on = 2 * largest_bytes(model, torch.zeros(1, 1, 8, 8))
        assert bytes_per_sample(model, (1, 8, 8)) - worked_on == saved_bytes(
            model, torch.zeros(1, 1, 8, 8)
        )


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_predicted(batch_first: bool) -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    saved = saved_bytes(model, torch.zeros(1, 7, 16))
    assert saved > 3 * 4 * 7 * 16  # queries, keys and values at least
    attention = 4 * 4 * 7 * 16  # three inputs and one output
    assert bytes_per_sample(model, (7, 16)) == saved + 2 * attention


def test_predicting_takes_no_memory() -> None:
    side = 2**23  # an image of 2^48 bytes, more than any address space holds
    assert bytes_per_sample(nn.Conv2d(1, 1, 1), (1, side, side)) >= 4 * side**2


def test_a_pass_with_data_sees_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("small_cnn", 4, (1, 8, 8))
    expected = bytes_per_sample(model, (1, 8, 8))

    class Refused:
        def __init__(self, **_: object) -> None:
            raise RuntimeError("no fake tensors")

    monkeypatch.setattr(memory, "FakeTensorMode", Refused)
    assert bytes_per_sample(model, (1, 8, 8)) == expected


@pytest.mark.parametrize("build", [lambda: build_model("small_cnn", 4, (1, 4, 4)), Peeks, Twice])
def test_the_model_and_the_caller_s_state_stay_as_they_were(build: Build) -> None:
    model = build()
    shape = (4,) if not isinstance(model, nn.Sequential) else (1, 4, 4)
    model.train()
    model.register_forward_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    parameters = list(model.parameters())
    before, hooks = copy.deepcopy(model.state_dict()), _hooks(model)
    random = torch.get_rng_state()
    with torch.no_grad():
        assert bytes_per_sample(model, shape) > 0
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(bool((p.grad == 1).all()) for p in parameters)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks == _hooks(model)
    assert torch.equal(random, torch.get_rng_state())


def _hooks(model: nn.Module) -> list[tuple[bool, int, int]]:
    return [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]


def test_a_shape_that_the_model_does_not_take_is_an_error() -> None:
    with pytest.raises(ScoringError, match=r"takes a sample of shape \(3, 8, 8\).*batch axis"):
        bytes_per_sample(build_model("small_cnn", 4, (1, 8, 8)), (3, 8, 8))


def test_the_batch_is_the_largest_that_fits() -> None:
    model = build_model("small_cnn", 4, (1, 8, 8))
    parameters = sum(4 * p.numel() for p in model.parameters())
    constant = 2 * parameters + sum(b.numel() * b.element_size() for b in model.buffers())
    each = bytes_per_sample(model, (1, 8, 8))

    def size(memory_bytes: int, limit: int = 100) -> int:
        return batch_size_for(model, (1, 8, 8), memory_bytes, limit=limit)

    assert [size(constant + 7 * each - 1), size(constant + 7 * each)] == [6, 7]
    assert size(constant + 7 * each, limit=5) == 5
    assert [size(0), size(constant), size(constant + each - 1)] == [1, 1, 1]
    assert batch_size_for(model, (1, 16, 16), constant + 7 * each, limit=64) < 7
