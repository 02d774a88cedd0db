"""Architectures: shapes, sizes, initialisation."""

from __future__ import annotations

import copy
import urllib.error
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from raydrop.errors import ConfigError
from raydrop.models import MODELS, build_model

SMALL_MODELS = ("small_cnn", "resnet18", "resnet56", "vgg16")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_column_per_class(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, 7, shape)
    assert model.training
    assert model(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "resnet50", "resnet56"])
def test_models_for_digits(name: str) -> None:
    model = build_model(name, 10, (1, 8, 8))
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_173_962),  # He et al.'s with a 3x3 stem, as everybody counts it
        ("resnet50", 23_520_842),
        ("resnet56", 853_018),  # 0.85 million in He et al., table 6
        ("small_cnn", 7_802),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert count(build_model(name, 10, (3, 32, 32))) == parameters


@pytest.mark.parametrize(
    ("name", "depths"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))]
)
def test_vgg_parameters_by_the_formula(name: str, depths: tuple[int, ...]) -> None:
    widths = [w for w, depth in zip((64, 128, 256, 512, 512), depths, strict=True)
              for _ in range(depth)]  # fmt: skip
    convolutions = sum(9 * a * b for a, b in zip([3, *widths[:-1]], widths, strict=True))
    expected = convolutions + 2 * sum(widths) + 512 * 100 + 100
    model = build_model(name, 100, (3, 32, 32))
    assert count(model) == expected
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == sum(depths)
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4


def test_small_cnn_is_as_small_as_its_description_says() -> None:
    assert count(build_model("small_cnn", 10, (1, 8, 8))) == 7_514
    assert "7,514" in MODELS["small_cnn"]


@pytest.mark.parametrize(("side", "stride", "kernel"), [(64, 1, 3), (65, 2, 7)])
def test_images_decide_the_form_of_resnet18(side: int, stride: int, kernel: int) -> None:
    model = build_model("resnet18", 10, (3, side, side))
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d)
    assert (stem.stride[0], stem.kernel_size[0]) == (stride, kernel)
    assert isinstance(model.maxpool, nn.MaxPool2d) == (side > 64)


def test_large_images_get_torchvisions_architecture_unchanged() -> None:
    theirs = torchvision.models.resnet18(weights=None, num_classes=5)
    ours = build_model("resnet18", 5, (3, 96, 96))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("squeezenet1_1", (1, 32, 32)),
        ("mobilenet_v3_small", (1, 32, 32)),
        ("googlenet", (3, 64, 64)),
        ("shufflenet_v2_x0_5", (3, 32, 32)),
        ("swin_t", (1, 32, 32)),
    ],
)
def test_torchvision_models_by_name(name: str, shape: tuple[int, int, int]) -> None:
    logits = build_model(name, 3, shape)(torch.randn(2, *shape))
    assert logits.shape == (2, 3)


def test_grey_stems_start_with_the_models_own_initialisation() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None, num_classes=5).conv1.weight
    torch.manual_seed(0)
    stem = build_model("resnet18", 5, (1, 96, 96)).conv1
    assert isinstance(stem, nn.Conv2d)
    assert stem.in_channels == 1
    assert torch.equal(stem.weight, theirs[:, :1])


@pytest.mark.parametrize("name", [*SMALL_MODELS, "mobilenet_v3_small"])
def test_same_seed_same_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = build_model(name, 4, (1, 32, 32))
        return torch.cat([p.detach().ravel() for p in model.parameters()])

    first = weights(3)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_a_fresh_model_has_untouched_statistics(name: str) -> None:
    for module in build_model(name, 4, (1, 32, 32)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert torch.all(module.running_mean == 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_backward_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 4, (1, 32, 32))
    loss = nn.functional.cross_entropy(model(torch.randn(8, 1, 32, 32)), torch.arange(8) % 4)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.any(parameter.grad != 0), parameter_name


@pytest.mark.parametrize("name", ["small_cnn", "vgg16", "resnet18", "mobilenet_v3_small"])
def test_no_activation_layer_works_in_place(name: str) -> None:
    modules = list(build_model(name, 4, (3, 32, 32)).modules())
    assert any(hasattr(module, "inplace") for module in modules)
    assert not any(getattr(module, "inplace", False) for module in modules)


def test_thin_resnet_shortcuts_pad_with_zeros() -> None:
    torch.manual_seed(0)
    model = build_model("resnet56", 10, (3, 32, 32))
    block = model.blocks[9]  # type: ignore[index]
    assert isinstance(block, nn.Module)
    nn.init.zeros_(block.second[1].weight)  # type: ignore[index, union-attr]
    inputs = torch.rand(2, 16, 6, 6)
    outputs = block(inputs)
    assert outputs.shape == (2, 32, 3, 3)
    assert torch.equal(outputs[:, 8:24], inputs[:, :, ::2, ::2])
    assert torch.all(outputs[:, :8] == 0)
    assert torch.all(outputs[:, 24:] == 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reznet18", "Unknown model 'reznet18': did you mean resnet18"),
        ("small-cnn", "did you mean small_cnn"),
        ("fasterrcnn_resnet50_fpn", "Unknown model 'fasterrcnn_resnet50_fpn'"),
        ("fcn_resnet50", "Unknown model 'fcn_resnet50'"),
        ("r3d_18", "Unknown model 'r3d_18'"),
        ("quantized_resnet18", "Unknown model 'quantized_resnet18'"),
    ],
)
def test_unknown_models(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(name, 10, (3, 224, 224))


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [
        ("vgg16", (1, 8, 8), "1x8x8"),
        ("small_cnn", (1, 1, 1), "1x1x1"),
        ("alexnet", (3, 32, 32), "3x32x32"),
        ("vit_b_32", (3, 32, 32), "3x32x32"),
    ],
)
def test_images_that_do_not_fit(name: str, shape: tuple[int, int, int], found: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"images that {name} can take, found {found} \(.+\); use"
    ):
        build_model(name, 10, shape)


def test_every_model_has_one_line() -> None:
    assert all(text and "\n" not in text and len(text) < 90 for text in MODELS.values())


def test_trained_weights_get_a_fresh_head(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = torchvision.models.resnet18(weights=None)
    asked = []

    def get_model(name: str, *, weights: str | None, **_: Any) -> nn.Module:
        asked.append((name, weights))
        return copy.deepcopy(trained)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    model = build_model("resnet18:imagenet", 4, (3, 224, 224))
    assert asked == [("resnet18", "IMAGENET1K_V1")]
    ours, theirs = model.state_dict(), trained.state_dict()
    same = {name for name in theirs if ours[name].shape == theirs[name].shape}
    assert set(theirs) - same == {"fc.weight", "fc.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in same)
    assert ours["fc.weight"].shape == (4, 512)


def test_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(*_: Any, **__: Any) -> nn.Module:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    with pytest.raises(ConfigError, match=r"ImageNet weights of resnet18 .* no route.*connect"):
        build_model("resnet18:imagenet", 4, (3, 224, 224))
