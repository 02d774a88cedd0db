"""Architectures by name: small ones for small images, and torchvision's classification models.

Where a name has a form for images of up to 64 pixels a side and a larger one, the images decide.
Initial weights come from torch's global generator; whoever builds a model seeds that (within
``torch.random.fork_rng``). Activation layers never work in place, so that hooks and per-sample
gradients see what the layers computed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raydrop.data.dataset import SMALL_SIDE
from raydrop.errors import ConfigError, unknown_name

MODELS = {
    "linear": "all pixels into one linear layer: logistic regression, for images of any shape",
    "small_cnn": "three 3x3 convolutions with BatchNorm, 7,514 parameters; for digits and MNIST",
    "vgg16": "13 3x3 convolutions with BatchNorm and one linear layer (torchvision's if > 64 px)",
    "vgg19": "16 3x3 convolutions with BatchNorm and one linear layer (torchvision's if > 64 px)",
    "resnet18": "torchvision's; up to 64 px with a 3x3 stem of stride 1 and without max-pool",
    "resnet50": "torchvision's; up to 64 px with a 3x3 stem of stride 1 and without max-pool",
    "resnet56": "thin CIFAR ResNet of He et al. 2016, three stages of nine blocks, 16 to 64 wide",
}
"""Names that raydrop itself explains; every classification model of torchvision works too, and with
:data:`PRETRAINED` behind its name it starts from torchvision's ImageNet weights."""

PRETRAINED = ":imagenet"
"""Ending of names of torchvision's models that start from :data:`PRETRAINED_WEIGHTS`."""
PRETRAINED_WEIGHTS = "IMAGENET1K_V1"
"""torchvision's name of the weights."""

ImageShape = tuple[int, int, int]
"""Channels, height and width."""

_POOL = "pool"
_VGG_STAGES = {
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_RESNET56_BLOCKS = 9
_RESNET56_WIDTHS = (16, 32, 64)
# Auxiliary heads would turn the output into a tuple; init_weights only silences a warning.
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build_model(name: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """Return a freshly initialised model in training mode.

    Args:
        name: One of :data:`MODELS`, or torchvision's name of a classification model, which with
            :data:`PRETRAINED` behind it starts from trained weights (downloaded once by
            torchvision) with a fresh last layer.
        num_classes: K, the number of outputs.
        image_shape: Channels (1 or 3), height and width of an image.

    Returns:
        A module from images (B, C, H, W) to logits (B, K).

    Raises:
        ConfigError: If the name is unknown or the model cannot take such images.
    """
    builder = _OWN_BUILDERS.get(name)
    if builder is not None and (max(image_shape[1:]) <= SMALL_SIDE or name in _ANY_SIZE):
        model = builder(num_classes, image_shape)
    else:
        model = _torchvision_model(name, num_classes)
        _take_channels(model, image_shape[0])
    for module in model.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]
    _check_fits(name, model, num_classes, image_shape)
    return model


def linear(num_classes: int, image_shape: ImageShape) -> nn.Module:
    """Return one linear layer from all C·H·W pixels: multinomial logistic regression."""
    head = nn.Linear(math.prod(image_shape), num_classes)
    parts: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten()), ("head", head)]
    return nn.Sequential(OrderedDict(parts))


def small_cnn(num_classes: int, channels: int) -> nn.Module:
    """Return three 3x3 blocks of width 16, 16 and 32, a max-pool after the first, a linear head."""
    return _plain_network([channels, 16, _POOL, 16, 32], num_classes)


def vgg(name: str, num_classes: int, channels: int) -> nn.Module:
    """Return the small-image VGG that DRoP trains (Vysogorets et al. 2024, arXiv 2404.05579).

    Five stages of 3x3 convolutions without bias, BatchNorm and ReLU (Simonyan and Zisserman 2014,
    arXiv 1409.1556), a 2x2 max-pool between stages, a global average pool and one linear layer.
    """
    layers: list[int | str] = [channels]
    for stage, (width, depth) in enumerate(zip(_VGG_WIDTHS, _VGG_STAGES[name], strict=True)):
        layers += [_POOL] * (stage > 0) + [width] * depth
    return _plain_network(layers, num_classes)


def small_image_resnet(name: str, num_classes: int, channels: int) -> nn.Module:
    """Return torchvision's ResNet with a 3x3 stem of stride 1 and no max-pool, for small images.

    Zhang et al. 2019 (arXiv 1904.00962) and most CIFAR work use ResNet-18 and ResNet-50 (He et
    al. 2015, arXiv 1512.03385) like this.
    """
    model: nn.Module = _torchvision_model(name, num_classes)
    model.conv1 = _conv(channels, 64)
    model.maxpool = nn.Identity()
    return model


class ThinResNet(nn.Module):
    """ResNet for CIFAR, 6 n + 2 layers deep (He et al. 2015, arXiv 1512.03385, section 4.2)."""

    def __init__(self, num_classes: int, channels: int, blocks: int = _RESNET56_BLOCKS) -> None:
        super().__init__()
        width = _RESNET56_WIDTHS[0]
        self.stem = _block(channels, width)
        stages: list[nn.Module] = []
        for stage, wider in enumerate(_RESNET56_WIDTHS):
            stages.append(ThinBlock(width, wider, stride=2 if stage else 1))
            stages.extend(ThinBlock(wider, wider) for _ in range(blocks - 1))
            width = wider
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        features = self.pool(self.blocks(self.stem(images)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


class ThinBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters ("option A" of He et al.)."""

    def __init__(self, width: int, wider: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _block(width, wider, stride)
        self.second = nn.Sequential(_conv(wider, wider), nn.BatchNorm2d(wider))
        self.activation = nn.ReLU()
        self.stride, before = stride, (wider - width) // 2
        self.padding = (before, wider - width - before)
        """Channels of zeros that the shortcut gets before and behind its own."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the block's output; where it is wider, the shortcut is subsampled and padded."""
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        if any(self.padding):
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, *self.padding))
        outputs: Tensor = self.activation(self.second(self.first(inputs)) + shortcut)
        return outputs


_OWN_BUILDERS: dict[str, Callable[[int, ImageShape], nn.Module]] = {
    "linear": linear,
    "small_cnn": lambda classes, shape: small_cnn(classes, shape[0]),
    "vgg16": lambda classes, shape: vgg("vgg16", classes, shape[0]),
    "vgg19": lambda classes, shape: vgg("vgg19", classes, shape[0]),
    "resnet18": lambda classes, shape: small_image_resnet("resnet18", classes, shape[0]),
    "resnet50": lambda classes, shape: small_image_resnet("resnet50", classes, shape[0]),
    "resnet56": lambda classes, shape: ThinResNet(classes, shape[0]),
}
_ANY_SIZE = ("linear", "small_cnn", "resnet56")


def _plain_network(layers: list[int | str], num_classes: int) -> nn.Module:
    """Return convolutional blocks and pools in a row, then a global average pool and a head."""
    width, features = int(layers[0]), list[nn.Module]()
    for layer in layers[1:]:
        if layer == _POOL:
            features.append(nn.MaxPool2d(2))
        else:
            features.append(_block(width, int(layer)))
            width = int(layer)
    parts: list[tuple[str, nn.Module]] = [
        ("features", nn.Sequential(*features)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("head", nn.Linear(width, num_classes)),
    ]
    return nn.Sequential(OrderedDict(parts))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU())


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias, initialised as He et al. 2015 (arXiv 1502.01852)."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _torchvision_model(name: str, num_classes: int) -> Any:
    """Return a classification model of torchvision with random, or with trained weights."""
    # Here, because importing torchvision doubles the start of workers that do not need it.
    import torchvision

    # By module: detection, segmentation, video and quantized models live in modules of their own.
    known = torchvision.models.list_models(module=torchvision.models)
    base = name.removesuffix(PRETRAINED)
    if base not in known:
        raise unknown_name("model", name, {*MODELS, *known})
    extra = _TORCHVISION_ARGUMENTS.get(base, {})
    if name == base:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    try:
        model = torchvision.models.get_model(base, weights=PRETRAINED_WEIGHTS)
    except OSError as error:
        raise ConfigError(
            f"Expected ImageNet weights of {base} to be there or to be downloaded, found: {error}; "
            "connect this machine, or put the file into torch.hub's folder of checkpoints."
        ) from error
    _replace_head(model, num_classes)
    return model


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a freshly initialised linear layer in place of the last one."""
    path, last = [pair for pair in model.named_modules() if isinstance(pair[1], nn.Linear)][-1]
    parent, _, child = path.rpartition(".")
    assert isinstance(last, nn.Linear)
    setattr(model.get_submodule(parent), child, nn.Linear(last.in_features, num_classes))


def _take_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for so many channels, initialised as the model does."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    if first.in_channels == channels:
        return
    weight = first.weight.detach()
    first.in_channels = channels
    first.weight = nn.Parameter(weight[:, torch.arange(channels) % weight.shape[1]].clone())


def _check_fits(name: str, model: nn.Module, num_classes: int, image_shape: ImageShape) -> None:
    """Raise where the model cannot turn such images into K logits, by trying one."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *image_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        shape = "x".join(map(str, image_shape))
        raise ConfigError(
            f"Expected images that {name} can take, found {shape} ({_first_line(error)}); "
            "use images of another size, or a model for small ones such as small_cnn or resnet18."
        ) from error
    model.train()
    assert logits.shape == (1, num_classes)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
