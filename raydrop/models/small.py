"""Networks of our own, for small images; each takes K classes and the images' (C, H, W)."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

ImageShape = tuple[int, int, int]
"""Channels, height and width."""

_POOL = 0
"""Stands for a pool in a list of widths."""
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_RESNET56_BLOCKS = 9
_RESNET56_WIDTHS = (16, 32, 64)


def linear(num_classes: int, shape: tuple[int, ...]) -> nn.Module:
    """Return one linear layer from all pixels or features: multinomial logistic regression."""
    head = nn.Linear(math.prod(shape), num_classes)
    return nn.Sequential(OrderedDict([("flatten", nn.Flatten()), ("head", head)]))


def small_cnn(num_classes: int, shape: ImageShape) -> nn.Module:
    """Return three 3x3 blocks of width 16, 16 and 32, a max-pool after the first, a linear head."""
    return _plain_network([16, _POOL, 16, 32], num_classes, shape)


def vgg16(num_classes: int, shape: ImageShape) -> nn.Module:
    """Return the small-image VGG that DRoP trains (Vysogorets et al. 2024, arXiv 2404.05579).

    Five stages of 3x3 convolutions without bias, BatchNorm and ReLU (Simonyan and Zisserman 2014,
    arXiv 1409.1556), a 2x2 max-pool between stages, a global average pool and one linear layer.
    """
    return _vgg((2, 2, 3, 3, 3), num_classes, shape)


def vgg19(num_classes: int, shape: ImageShape) -> nn.Module:
    """Return the deeper one; see :func:`vgg16`."""
    return _vgg((2, 2, 4, 4, 4), num_classes, shape)


def resnet18(num_classes: int, shape: ImageShape) -> nn.Module:
    """Return torchvision's ResNet with a 3x3 stem of stride 1 and no max-pool, for small images.

    Zhang et al. 2019 (arXiv 1904.00962) and most CIFAR work use ResNet-18 and ResNet-50 (He et
    al. 2015, arXiv 1512.03385) like this.
    """
    return _resnet("resnet18", num_classes, shape)


def resnet50(num_classes: int, shape: ImageShape) -> nn.Module:
    """Return the deeper one; see :func:`resnet18`."""
    return _resnet("resnet50", num_classes, shape)


class ThinResNet(nn.Module):
    """ResNet for CIFAR, 56 layers deep (He et al. 2015, arXiv 1512.03385, section 4.2)."""

    def __init__(self, num_classes: int, shape: ImageShape) -> None:
        super().__init__()
        width = _RESNET56_WIDTHS[0]
        self.stem = _block(shape[0], width)
        stages: list[nn.Module] = []
        for stage, wider in enumerate(_RESNET56_WIDTHS):
            stages.append(ThinBlock(width, wider, stride=2 if stage else 1))
            stages.extend(ThinBlock(wider, wider) for _ in range(_RESNET56_BLOCKS - 1))
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


def _resnet(name: str, num_classes: int, shape: ImageShape) -> nn.Module:
    # Here, because importing torchvision doubles the start of workers that do not need it.
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    model.conv1 = _conv(shape[0], 64)
    model.maxpool = nn.Identity()
    return model


def _vgg(depths: tuple[int, ...], num_classes: int, shape: ImageShape) -> nn.Module:
    layers = list[int]()
    for width, depth in zip(_VGG_WIDTHS, depths, strict=True):
        layers += [_POOL, *[width] * depth]
    return _plain_network(layers[1:], num_classes, shape)


def _plain_network(layers: list[int], num_classes: int, shape: ImageShape) -> nn.Module:
    """Return convolutional blocks and pools in a row, then a global average pool and a head."""
    width, features = shape[0], list[nn.Module]()
    for layer in layers:
        features.append(nn.MaxPool2d(2) if layer == _POOL else _block(width, layer))
        width = layer or width
    parts: dict[str, nn.Module] = {
        "features": nn.Sequential(*features),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(width, num_classes),
    }
    return nn.Sequential(OrderedDict(parts))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU())


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias, initialised as He et al. 2015 (arXiv 1502.01852)."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
