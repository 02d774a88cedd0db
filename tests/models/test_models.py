"""Architectures: shapes, sizes, initialisation."""

from __future__ import annotations

import copy
import pickle
import urllib.error
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn

from raydrop import models
from raydrop.errors import ConfigError, NetworkError, ScoringError
from raydrop.models import (
    MODELS,
    Head,
    ImageShape,
    as_spec,
    build_model,
    head_of,
    untried_model,
)
from raydrop.network.measure import network_size
from raydrop.network.saving import NetworkSpec, skeleton
from raydrop.network.tracing import coupling_of
from raydrop.scores.gradients import coverage, last_layer_only, last_linear, per_sample_norm
from raydrop.scores.gradients.memory import bytes_per_sample
from raydrop.scores.quantities import embeddings_of

SMALL_MODELS = {
    "linear": (1, 8, 8),
    "small_cnn": (1, 8, 8),
    "resnet18": (3, 8, 8),
    "resnet56": (1, 8, 8),
}
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "vgg11", "vit_h_14"),
)
"""One of each module of torchvision, where the others differ in depth and width; of ViT the one
whose weights are for larger images."""


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def without_data(name: str, shape: ImageShape, classes: int = 10) -> nn.Module:
    return untried_model(name, classes, shape, data=False)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_a_fresh_model_is_untouched_repeatable_and_trainable(name: str) -> None:
    def built(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(name, 4, SMALL_MODELS[name])

    model, again = built(3), built(3)
    other = untried_model(name, 4, SMALL_MODELS[name], data=True)
    for (key, mine), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs), key
    assert not torch.equal(*(next(each.parameters()) for each in (model, other)))
    assert model.training
    for module in model.modules():
        assert not getattr(module, "inplace", False)  # hooks see what layers computed
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert torch.all(module.running_mean == 0)  # type: ignore[arg-type]
    logits = model(torch.randn(8, *SMALL_MODELS[name]))
    assert logits.shape == (8, 4)
    nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.any(parameter.grad != 0), key


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_every_model_of_ours_has_one_logit_per_class(shape: ImageShape) -> None:
    for name in MODELS:
        with models._NoData():
            assert models._tried(without_data(name, shape, 7), name, 2, 7, as_spec(shape)).is_linear


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
    assert count(without_data(name, (3, 32, 32))) == parameters


@pytest.mark.parametrize(
    ("name", "depths"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))]
)
def test_vgg_parameters_by_the_formula(name: str, depths: tuple[int, ...]) -> None:
    widths = [w for w, depth in zip((64, 128, 256, 512, 512), depths, strict=True)
              for _ in range(depth)]  # fmt: skip
    convolutions = sum(9 * a * b for a, b in zip([3, *widths[:-1]], widths, strict=True))
    expected = convolutions + 2 * sum(widths) + 512 * 100 + 100
    model = without_data(name, (3, 32, 32), 100)
    assert count(model) == expected
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == sum(depths)
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4


def test_small_cnn_is_as_small_as_its_description_says() -> None:
    assert count(without_data("small_cnn", (1, 8, 8))) == 7_514
    assert "7,514" in MODELS["small_cnn"].summary


@pytest.mark.parametrize(("side", "stride", "kernel"), [(64, 1, 3), (65, 2, 7)])
def test_images_decide_the_form_of_resnet18(side: int, stride: int, kernel: int) -> None:
    model = without_data("resnet18", (3, side, side))
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


def test_torchvision_models_by_name() -> None:
    for name, shape in (("squeezenet1_1", (1, 32, 32)), ("mobilenet_v3_small", (3, 32, 32))):
        model = build_model(name, 3, shape)
        assert model(torch.randn(2, *shape)).shape == (2, 3)
        assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_grey_stems_start_with_the_models_own_initialisation() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None, num_classes=5).conv1.weight
    torch.manual_seed(0)
    stem = build_model("resnet18", 5, (1, 96, 96)).conv1
    assert isinstance(stem, nn.Conv2d)
    assert stem.in_channels == 1
    assert torch.equal(stem.weight, theirs[:, :1])


def test_thin_resnet_shortcuts_pad_with_zeros() -> None:
    torch.manual_seed(0)
    model = build_model("resnet56", 10, (1, 8, 8))
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


def test_every_model_has_one_line() -> None:
    for each in MODELS.values():
        assert each.summary
        assert "\n" not in each.summary
        assert len(each.summary) < 90


Fetched = list[str]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[dict[str, Tensor], Fetched]]:
    """Stand in for the weights of a model that torchvision would download."""

    def offer(base: str, **arguments: Any) -> tuple[dict[str, Tensor], Fetched]:
        if base in ("googlenet", "inception_v3"):
            arguments |= {"aux_logits": True, "init_weights": False}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model: nn.Module = torchvision.models.get_model(base, weights=None, **arguments)
        state = model.state_dict()
        fetched = Fetched()

        def fetch(url: str, **_: object) -> dict[str, Tensor]:
            fetched.append(url.rpartition("/")[2])
            return state

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
        return state, fetched

    return offer


def _body(model: nn.Module, head: str) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith(f"{head}.")}


@pytest.mark.parametrize(
    ("base", "head"),
    [
        ("squeezenet1_1", "classifier.1"),  # a convolution of one pixel
        ("shufflenet_v2_x0_5", "fc"),
    ],
)
def test_trained_weights_get_a_fresh_head(base: str, head: str, weights: Any) -> None:
    trained, fetched = weights(base)
    name, shape = f"{base}:imagenet", (3, 32, 32)
    torch.manual_seed(0)
    model = build_model(name, 4, shape)
    assert len(fetched) == 1
    body = _body(model, head)
    assert all(torch.equal(value, trained[key]) for key, value in body.items())
    assert {key for key in trained if not key.startswith(("aux", f"{head}."))} == set(body)
    layer = model.get_submodule(head)
    ours = dict(layer.named_parameters())
    assert {key: value.shape[1:] for key, value in ours.items()} == {
        key: trained[f"{head}.{key}"].shape[1:] for key in ours
    }
    assert {f"{head}.{key}" for key in ours} == {k for k in trained if k.startswith(f"{head}.")}
    assert all(len(value) == 4 and value.std() > 0 for value in ours.values())
    plain = model(torch.randn(2, *shape))
    assert isinstance(plain, Tensor)
    assert plain.shape == model.eval()(torch.randn(2, *shape)).shape == (2, 4)
    # A network that is saved is built anew by its name.
    spec = NetworkSpec(name, 4, shape, tuple("abcd"), (0.5,) * 3, (0.5,) * 3)
    empty = skeleton(spec).state_dict()
    assert [(k, v.shape) for k, v in empty.items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]


def test_every_network_of_torchvision_is_of_a_family_that_is_tried() -> None:
    def module(name: str) -> str:
        return torchvision.models.get_model_builder(name).__module__

    every = torchvision.models.list_models(module=torchvision.models)
    assert {*map(module, every)} == {*map(module, FAMILIES)}


@pytest.mark.parametrize("base", FAMILIES)
def test_every_family_of_torchvision_fits_images_and_weights(base: str, weights: Any) -> None:
    name, side = f"{base}:imagenet", 518 if base == "vit_h_14" else 224
    spec = as_spec((3, side, side))
    blank = models._for_trial(name, 7, spec)
    head = models._tried(blank.eval(), name, 2, 7, spec)
    assert head.is_linear == (not base.startswith("squeezenet"))
    assert not head.is_linear or last_linear(blank) is blank.get_submodule(head.name)
    with models._NoData():
        trained, fetched = weights(base, **({"image_size": side} if side == 518 else {}))
        model = models._architecture(name, 7, spec, head).to("meta")
    assert len(fetched) == 1
    # In training, too, the outputs are logits and no tuple.
    assert models._tried(model.train(), name, 2, 7, spec) == head
    expected, found = _shapes(trained), _shapes(model.state_dict())
    auxiliary = {key for key in expected if key.lower().startswith("aux")}
    assert expected.keys() - auxiliary == found.keys()
    changed = {key for key in found if found[key] != expected[key]}
    assert changed == {key for key in found if key.startswith(f"{head.name}.")}
    assert all(found[key] == (7, *expected[key][1:]) for key in changed)
    assert _shapes(blank.state_dict()) == found


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("base", "file"),
    [
        ("resnet50", "resnet50-0676ba61.pth"),  # IMAGENET1K_V1, although there is a second one
        ("vit_h_14", "vit_h_14_swag-80465313.pth"),
    ],
)
def test_the_first_weights_are_taken_or_else_the_default(
    base: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, **_: object) -> None:
        asked.append(url.rpartition("/")[2])
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(ConfigError, match="no route"), models._NoData():
        models._architecture(f"{base}:imagenet", 7, as_spec((3, 224, 224)), Head("fc", True))
    assert asked == [file]


@pytest.mark.parametrize(
    ("failure", "found"),
    [
        (urllib.error.URLError("no route"), "no route"),
        (RuntimeError('invalid hash value (expected "f37", got "e3b")'), "invalid hash"),
        (pickle.UnpicklingError("pickle data was truncated"), "was truncated"),
        (EOFError("Ran out of input"), "Ran out of input"),
    ],
)
def test_weights_that_cannot_be_had_are_told(
    failure: Exception, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(ConfigError, match=rf"ImageNet weights of squeezenet1_1 .*{found}.*connect"):
        build_model("squeezenet1_1:imagenet", 4, (3, 32, 32))
    build_model("squeezenet1_1:imagenet", 4, (3, 32, 32), trained=False)


@pytest.mark.parametrize(("channels", "transformed"), [(3, True), (1, False)])
def test_grey_images_go_into_trained_networks(channels: int, transformed: bool) -> None:
    shape = (channels, 32, 32)
    model = build_model("googlenet:imagenet", 4, shape, trained=False)
    assert bool(model.transform_input) == transformed
    assert model(torch.rand(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "shape", "advice"),
    [
        ("alexnet", (3, 32, 32), "images of 64x64 pixels or more"),
        ("vit_b_32", (3, 224, 192), "images of 224x224 pixels,"),
        ("small_cnn", (1, 1, 1), "images of 8x8 pixels or more"),
    ],
)
def test_images_that_do_not_fit_are_told_what_would(
    name: str, shape: ImageShape, advice: str
) -> None:
    found = "x".join(map(str, shape))
    message = rf"images that {name} can take, found {found} \(.+\); use {advice}"
    with pytest.raises(ConfigError, match=message):
        head_of(name, 5, shape)


def test_one_image_is_no_batch_for_statistics_of_one_pixel() -> None:
    assert head_of("small_cnn", 5, (1, 2, 2)).name == "head"
    with pytest.raises(
        ConfigError, match=r"two images or more to train small_cnn on 1x2x2, .*batch_size"
    ):
        head_of("small_cnn", 5, (1, 2, 2), batch=1)
    head_of("small_cnn", 5, (1, 8, 8), batch=1)
    with pytest.raises(ConfigError, match="images of 64x64 pixels or more"):
        head_of("alexnet", 5, (3, 32, 32), batch=1)


def test_a_trial_without_data_moves_no_generator_and_takes_no_memory() -> None:
    before = torch.get_rng_state()
    assert head_of("vit_b_32", 5, (3, 224, 224)) == Head("heads.head", True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.is_meta for p in build_model("small_cnn", 5, (1, 8, 8)).parameters())


def test_a_model_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    build_model("small_cnn", 9, (1, 9, 9))
    monkeypatch.setattr(models, "_for_trial", None)
    build_model("small_cnn", 9, (1, 9, 9))


def _compiled(model: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.jit.script(model))


def _partly(model: nn.Module) -> nn.Module:
    model.add_module("features", _compiled(cast(nn.Module, model.features)))
    return model


@pytest.mark.parametrize("compiled", [_compiled, _partly])
def test_gradients_of_torchscript_are_exact_from_the_first_call_on(
    compiled: Callable[[nn.Module], nn.Module],
) -> None:
    torch.manual_seed(0)
    eager = build_model("small_cnn", 4, (1, 8, 8)).eval()
    model = compiled(copy.deepcopy(eager))
    images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 3])
    expected = per_sample_norm(eager, images, labels)
    for _ in range(3):  # TorchScript optimises what it has run
        torch.testing.assert_close(per_sample_norm(model, images, labels), expected)
    paths = {path.name: path.path for path in coverage(model, images)}
    assert paths["features.0.0.weight"] == "general"
    assert list(paths) == [path.name for path in coverage(eager, images)]


@pytest.mark.filterwarnings("ignore:`torch.jit.freeze` is deprecated")
def test_torchscript_in_training_mode_or_without_parameters_is_refused() -> None:
    images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 3])
    for compiled, layer in ((_compiled, "model"), (_partly, "features")):
        model = compiled(build_model("small_cnn", 4, (1, 8, 8)).eval())
        (model if compiled is _compiled else cast(nn.Module, model.features)).train()
        with pytest.raises(ScoringError, match=f"layer '{layer}.*' in train mode"):
            per_sample_norm(model, images, labels)
    frozen = torch.jit.freeze(_compiled(build_model("small_cnn", 4, (1, 8, 8)).eval()))
    with pytest.raises(ScoringError, match="at least one trainable parameter"):
        per_sample_norm(frozen, images, labels)


def test_what_has_to_see_layers_refuses_torchscript() -> None:
    eager, images = build_model("small_cnn", 4, (1, 8, 8)).eval(), torch.rand(3, 1, 8, 8)
    model, partly = _compiled(copy.deepcopy(eager)), _partly(copy.deepcopy(eager))
    for call, error in (
        (lambda: embeddings_of(model, images), ScoringError),
        (lambda: last_layer_only(model).__enter__(), ScoringError),
        (lambda: bytes_per_sample(model, (1, 8, 8)), ScoringError),
        (lambda: network_size(model, (1, 8, 8)), NetworkError),
        (lambda: coupling_of(model, (1, 8, 8)), NetworkError),
    ):
        with pytest.raises(error, match=r"found TorchScript in all of it, .* compiled from"):
            call()
    with pytest.raises(NetworkError, match="found TorchScript in features,"):
        coupling_of(partly, (1, 8, 8))
    assert torch.equal(embeddings_of(partly, images), embeddings_of(eager, images))
