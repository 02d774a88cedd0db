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
from raydrop.scores.gradients.memory import (
    LayerMemory,
    batch_size_for,
    bytes_per_sample,
    predict_memory,
)

Build = Callable[[], nn.Module]
Shape = tuple[int, ...]

TASKS = ("gradient_sum", "norm", "last_layer_norm", "dot", "norm_and_dot")


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


def layer_bytes(layers: tuple[LayerMemory, ...]) -> dict[str, int]:
    return {layer.name: layer.bytes_per_sample for layer in layers}


# In float32. What several layers save counts once, where it is saved first.
BY_HAND: list[tuple[Build, Shape, str, dict[str, int]]] = [
    (linear, (4,), "gradient_sum", {"model": 4 * 4}),
    (linear, (4,), "norm", {"model": 4 * 4}),
    # The convolution saves its input; ReLU and the linear layer share ReLU's output.
    (convolution, (1, 4, 4), "gradient_sum", {"0": 4 * 16, "1": 4 * 32}),
    (convolution, (1, 4, 4), "norm_and_dot", {"0": 4 * 16, "1": 4 * 32}),
    # Indices are int64; the embedding's output is the linear layer's input.
    (tokens, (3,), "norm", {"0": 8 * 3, "2": 4 * 12}),
    # layer: x and its own first output; tanh is outside any child; head: the sum.
    (Twice, (4,), "norm", {"model": 16, "layer": 16 + 16, "head": 16}),
    # One forward pass: the input and the output.
    (linear, (4,), "last_layer_norm", {"model": 4 * 4 + 4 * 3}),
]


@pytest.mark.parametrize(("build", "shape", "task", "expected"), BY_HAND)
def test_tiny_models_hold_what_a_count_by_hand_says(
    build: Build, shape: Shape, task: str, expected: dict[str, int]
) -> None:
    assert layer_bytes(predict_memory(build(), shape, task=task)) == expected


@pytest.mark.parametrize(("build", "shape"), [(linear, (4,)), (convolution, (1, 4, 4))])
def test_forward_mode_holds_primal_and_tangent_and_little_more(build: Build, shape: Shape) -> None:
    model = build()
    first = {"model": 16 + 12, "0": 64 + 128}  # bytes of input and output
    for name, size in layer_bytes(predict_memory(model, shape, task="dot")).items():
        if name in first and not (name == "model" and isinstance(model, nn.Sequential)):
            assert 2 * first[name] <= size <= 4 * first[name]


def test_nothing_is_saved_for_a_frozen_layer() -> None:
    model = convolution()
    model[0].requires_grad_(False)
    assert layer_bytes(predict_memory(model, (1, 4, 4), task="norm")) == {"3": 4 * 32}


def test_layers_are_named_in_the_model_s_order_with_their_type() -> None:
    layers = predict_memory(convolution(), (1, 4, 4))
    assert [(layer.name, layer.layer) for layer in layers] == [
        ("0", "Conv2d"),
        ("1", "ReLU"),
    ]


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


@pytest.mark.parametrize(
    ("name", "shape"),
    [("small_cnn", (1, 8, 8)), ("small_cnn", (3, 32, 32)), ("resnet18", (3, 32, 32))],
)
def test_predicted_activations_are_what_autograd_saves(name: str, shape: Shape) -> None:
    """Equal for a batch of one; of a batch, vectors that do not grow with it are saved once."""
    model = build_model(name, 10, shape)
    predicted = sum(layer_bytes(predict_memory(model, shape, task="gradient_sum")).values())
    assert predicted == saved_bytes(model, torch.zeros(1, *shape))
    assert 0.99 * 4 * predicted <= saved_bytes(model, torch.zeros(4, *shape)) <= 4 * predicted


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_predicted(batch_first: bool) -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    layers = layer_bytes(predict_memory(model, (7, 16), task="gradient_sum"))
    assert sum(layers.values()) == saved_bytes(model, torch.zeros(1, 7, 16))
    assert sum(layers.values()) > 3 * 4 * 7 * 16  # queries, keys and values at least


def test_attention_is_predicted_in_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("forward mode was given up")

    monkeypatch.setattr(memory, "_watch_backward", refuse)
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    layers = layer_bytes(predict_memory(model, (7, 16), task="dot"))
    assert layers["self_attn"] > 2 * 3 * 4 * 7 * 16
    # Not fused into one operation that hides what it holds.
    layers = layer_bytes(predict_memory(model, (7, 16), task="last_layer_norm"))
    assert layers["self_attn"] > 3 * 4 * 7 * 16


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance"])
def test_normalisation_layers_are_predicted(norm: str) -> None:
    layer = {
        "batch": nn.BatchNorm2d(4),
        "group": nn.GroupNorm(2, 4),
        "layer": nn.LayerNorm((4, 6, 6)),
        "instance": nn.InstanceNorm2d(4, affine=True),
    }[norm]
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(144, 2))
    for task in ("gradient_sum", "norm"):
        layers = layer_bytes(predict_memory(model, (1, 8, 8), task=task))
        assert sum(layers.values()) == saved_bytes(model, torch.zeros(1, 1, 8, 8))
        assert layers["1"] >= 4 * 144
    for task in ("dot", "last_layer_norm"):
        assert layer_bytes(predict_memory(model, (1, 8, 8), task=task))["1"] >= 2 * 4 * 144


@pytest.mark.parametrize("task", TASKS)
def test_predicting_takes_no_memory(task: str) -> None:
    side = 2**23  # an image of 2^48 bytes, more than any address space holds
    assert bytes_per_sample(nn.Conv2d(1, 1, 1), (1, side, side), task=task) >= 4 * side**2


@pytest.mark.parametrize("task", TASKS)
def test_a_pass_with_data_sees_the_same_bytes(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("small_cnn", 4, (1, 8, 8))
    expected = predict_memory(model, (1, 8, 8), task=task)

    def refuse(**_: object) -> None:
        raise RuntimeError("no fake tensors")

    monkeypatch.setattr(memory, "FakeTensorMode", refuse)
    assert predict_memory(model, (1, 8, 8), task=task) == expected


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_looks_at_values_is_run_with_data(task: str) -> None:
    assert predict_memory(Peeks(), (4,), task=task)


def test_what_forward_mode_cannot_do_is_bounded_by_the_whole_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no forward mode")

    monkeypatch.setattr(memory, "jvp", refuse)
    both = [bytes_per_sample(Twice(), (4,), task=task) for task in ("dot", "norm_and_dot")]
    assert both[0] == both[1]


def test_the_peak_adds_what_is_worked_on_in_one_layer_to_what_all_keep() -> None:
    bottleneck = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4))
    kept, gradients = 16 + 4, 16 + 4  # both layers map between 4 numbers and 1
    assert bytes_per_sample(bottleneck, (4,), task="gradient_sum") == kept + gradients
    assert bytes_per_sample(bottleneck, (4,), task="norm") == kept + 2 * gradients
    assert bytes_per_sample(bottleneck, (4,), task="norm_and_dot") == kept + 2 * gradients


def test_tasks_that_keep_nothing_need_less() -> None:
    model = build_model("resnet18", 10, (3, 32, 32))
    sizes = {task: bytes_per_sample(model, (3, 32, 32), task=task) for task in TASKS}
    assert sizes["last_layer_norm"] < sizes["dot"] < sizes["gradient_sum"] < sizes["norm"]
    largest = max(layer_bytes(predict_memory(model, (3, 32, 32), task="dot")).values())
    assert sizes["dot"] == largest


def modes_and_hooks(model: nn.Module) -> list[tuple[bool, int, int]]:
    return [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]


@pytest.mark.parametrize("build", [lambda: build_model("small_cnn", 4, (1, 4, 4)), Peeks, Twice])
@pytest.mark.parametrize("task", TASKS)
def test_the_model_and_the_caller_s_state_stay_as_they_were(build: Build, task: str) -> None:
    model = build()
    shape = (4,) if not isinstance(model, nn.Sequential) else (1, 4, 4)
    model.train()
    next(iter(model.modules())).register_forward_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    parameters = list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    modules = modes_and_hooks(model)
    random = torch.get_rng_state()
    with torch.no_grad():
        predict_memory(model, shape, task=task)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(bool((p.grad == 1).all()) for p in parameters)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modules == modes_and_hooks(model)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_shape_that_the_model_does_not_take_is_an_error() -> None:
    with pytest.raises(ScoringError, match=r"takes a sample of shape \(3, 8, 8\).*batch axis"):
        predict_memory(build_model("small_cnn", 4, (1, 8, 8)), (3, 8, 8))


# --- batch sizes ---


@pytest.mark.parametrize("task", TASKS)
def test_the_batch_is_the_largest_that_fits(task: str) -> None:
    model = build_model("small_cnn", 4, (1, 8, 8))
    parameters = sum(4 * p.numel() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    constant = 2 * parameters + buffers
    each = bytes_per_sample(model, (1, 8, 8), task=task)

    def size(memory_bytes: int, limit: int = 100) -> int:
        return batch_size_for(model, (1, 8, 8), memory_bytes, limit=limit, task=task)

    assert [size(constant + 7 * each - 1), size(constant + 7 * each)] == [6, 7]
    assert size(constant + 7 * each, limit=5) == 5
    assert [size(0), size(constant), size(constant + each - 1)] == [1, 1, 1]


def test_batches_grow_with_memory_and_shrink_with_the_image() -> None:
    model = build_model("small_cnn", 4, (1, 8, 8))
    sizes = [batch_size_for(model, (1, 8, 8), m, limit=64) for m in range(0, 4_000_000, 100_000)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 64)
    assert batch_size_for(model, (1, 16, 16), 1_000_000, limit=64) < sizes[10]
