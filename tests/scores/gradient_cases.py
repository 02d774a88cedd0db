"""Tiny models, one for each way that a layer can be used, for the tests of per-sample gradients.

A case states which parameters have to take the general path; every other trainable one has a rule.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import CNBlock, LayerNorm2d
from torchvision.models.densenet import DenseNet
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.mobilenetv3 import InvertedResidual as SqueezedResidual
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

BATCH, CLASSES, WIDTH, TOKENS, WORDS = 5, 4, 6, 3, 7

Build = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Case:
    """A model from inputs (B, *shape) to (B, CLASSES), and what is expected of it."""

    build: Build
    shape: tuple[int, ...] = (WIDTH,)
    general: tuple[str, ...] = ()
    """Patterns of the names of trainable parameters that no rule can serve."""
    words: bool = False
    """Whether inputs are whole numbers below WORDS."""
    loss: Loss = cross_entropies
    batch: int = BATCH
    seed: int = 0
    silent: tuple[str, ...] = ()
    """Patterns of the names of trainable parameters that the loss never reaches."""

    either: tuple[str, ...] = ()
    """Patterns of the names of trainable parameters that may take either path."""

    def paths(self, name: str, parameter: Tensor) -> set[str]:
        """What may handle a parameter."""
        if not parameter.requires_grad:
            return {"frozen"}
        if any(fnmatch(name, pattern) for pattern in self.either):
            return {"rule", "general"}
        general = any(fnmatch(name, pattern) for pattern in self.general)
        return {"general"} if general else {"rule"}

    def shows(self, name: str, parameter: Tensor) -> bool:
        """Whether the loss depends on a parameter."""
        return parameter.requires_grad and not any(fnmatch(name, each) for each in self.silent)


@dataclass(frozen=True)
class Problem:
    """A case made concrete: a model in eval mode without special values, and a batch."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    loss: Loss


def problem_of(case: Case, dtype: torch.dtype = torch.float64, seed: int | None = None) -> Problem:
    """Build a case; no parameter and no statistic stays at its initial value."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated layers that users still have
        torch.manual_seed(case.seed if seed is None else seed)
        model = case.build().to(dtype).eval()
        stir(model)
        inputs = torch.randn(case.batch, *case.shape, dtype=dtype)
        if case.words:
            inputs = torch.randint(0, WORDS, (case.batch, *case.shape))
        labels = torch.arange(case.batch) * 3 % CLASSES
    return Problem(model, inputs, labels, case.loss)


def stir(model: nn.Module) -> None:
    """Move parameters and running statistics away from their initial values."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


# --- ways of putting a layer into a classifier ---


class Headed(nn.Module):
    """Layers, tanh, and a linear head as wide as what they put out."""

    def __init__(self, shape: tuple[int, ...], *layers: nn.Module, words: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        example = torch.zeros(1, *shape, dtype=torch.long if words else None)
        with torch.no_grad():
            width = self.layers.eval()(example).flatten(1).shape[1]
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layers(inputs)).flatten(1))


def headed(shape: tuple[int, ...], *builders: Build, words: bool = False, **expected: Any) -> Case:
    """A case of a :class:`Headed` model; the layers are built anew each time."""
    return Case(
        lambda: Headed(shape, *(build() for build in builders), words=words),
        shape,
        words=words,
        **expected,
    )


class Applied(nn.Module):
    """A forward function over named submodules and parameters; they are read as attributes."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def applied(
    forward: Callable[[Any, Tensor], Tensor],
    shape: tuple[int, ...] = (WIDTH,),
    *,
    parts: Callable[[], dict[str, Any]],
    **expected: Any,
) -> Case:
    """A case of an :class:`Applied` model; ``parts`` builds its submodules and parameters."""
    return Case(lambda: Applied(forward, **parts()), shape, **expected)


def linear(outputs: int = WIDTH, inputs: int = WIDTH, **options: Any) -> nn.Linear:
    return nn.Linear(inputs, outputs, **options)


def frozen(layer: nn.Module, *names: str) -> nn.Module:
    """The layer with the named parameters, or all of them, not trainable."""
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name not in names if names else False)
    return layer


def tie(owner: nn.Module, name: str, parameter: nn.Parameter) -> nn.Module:
    """The owner with the parameter in place of its own."""
    setattr(owner, name, parameter)
    return owner


# --- linear layers ---

DENSE = {
    "linear": headed((WIDTH,), lambda: linear(5)),
    "linear without bias": headed((WIDTH,), lambda: linear(5, bias=False)),
    "linear on few tokens": headed((2, 9), lambda: linear(11, 9)),
    "linear on many tokens": headed((9, WIDTH), lambda: linear(2)),
    "linear on a grid of tokens": headed((2, 3, WIDTH), lambda: linear(5)),
    "linear on one token": headed((1, WIDTH), lambda: linear(5, bias=False)),
    "linear of width one": headed((4, 1), lambda: linear(1, 1)),
    "only a linear head": Case(lambda: linear(CLASSES)),
    "batch of one": Case(lambda: nn.Sequential(linear(), nn.Tanh(), linear(CLASSES)), batch=1),
}

# --- convolutions: a few positions (Gram form), and more positions than weights ---


def _convolution(kind: type[nn.Module], *shape: int, **options: Any) -> Case:
    """One convolution; the options are its own."""
    return headed(shape, lambda: kind(**{"in_channels": shape[0]} | options))


CONVOLUTIONS = {
    "conv1d": _convolution(nn.Conv1d, 2, 9, out_channels=3, kernel_size=3),
    "conv1d of few positions": _convolution(nn.Conv1d, 6, 5, out_channels=7, kernel_size=3),
    "conv1d strided, dilated, grouped": _convolution(
        nn.Conv1d, 4, 11, out_channels=6, kernel_size=3, stride=2, dilation=2, padding=3, groups=2
    ),
    "conv1d same": _convolution(
        nn.Conv1d, 2, 8, out_channels=3, kernel_size=4, padding="same", dilation=3
    ),
    "conv2d": _convolution(nn.Conv2d, 2, 6, 6, out_channels=3, kernel_size=3),
    "conv2d without bias": _convolution(
        nn.Conv2d, 2, 6, 6, out_channels=3, kernel_size=3, padding=1, bias=False
    ),
    "conv2d of few positions": _convolution(
        nn.Conv2d, 8, 3, 3, out_channels=9, kernel_size=3, padding=1
    ),
    "conv2d of few positions, strided": _convolution(
        nn.Conv2d, 8, 7, 6, out_channels=8, kernel_size=3, padding=1, stride=(3, 2), bias=False
    ),
    "conv2d that leaves rows unread": _convolution(
        nn.Conv2d, 2, 8, 7, out_channels=3, kernel_size=(3, 2), stride=(3, 4)
    ),
    "conv2d strided beyond its kernel": _convolution(
        nn.Conv2d, 3, 6, 6, out_channels=4, kernel_size=1, stride=2, bias=False
    ),
    "conv2d strided along an axis where the kernel is one wide": _convolution(
        nn.Conv2d, 2, 7, 7, out_channels=3, kernel_size=(1, 3), stride=(2, 3), padding=1
    ),
    "conv2d strided without remainder": _convolution(
        nn.Conv2d, 3, 8, 8, out_channels=4, kernel_size=4, stride=4
    ),
    "conv2d dilated": _convolution(
        nn.Conv2d, 2, 7, 8, out_channels=3, kernel_size=(3, 2), dilation=(2, 3), padding=(2, 1)
    ),
    "conv2d grouped": _convolution(
        nn.Conv2d, 4, 6, 5, out_channels=6, kernel_size=3, groups=2, padding=1
    ),
    "conv2d grouped, of few positions": _convolution(
        nn.Conv2d, 8, 3, 2, out_channels=8, kernel_size=3, groups=2, padding=1, stride=2
    ),
    "conv2d depthwise": _convolution(
        nn.Conv2d, 4, 5, 5, out_channels=4, kernel_size=3, groups=4, padding=1
    ),
    "conv2d depthwise, of one position": _convolution(
        nn.Conv2d, 4, 3, 3, out_channels=4, kernel_size=3, groups=4
    ),
    "conv2d depthwise, two for each": _convolution(
        nn.Conv2d, 3, 5, 4, out_channels=6, kernel_size=3, groups=3, bias=False
    ),
    "conv2d of one channel": _convolution(nn.Conv2d, 1, 5, 5, out_channels=1, kernel_size=3),
    "conv2d 1x1": _convolution(nn.Conv2d, 3, 5, 4, out_channels=4, kernel_size=1),
    "conv2d 1x1, of few positions": _convolution(nn.Conv2d, 9, 2, 2, out_channels=9, kernel_size=1),
    "conv2d 1x1, padded": _convolution(
        nn.Conv2d, 3, 3, 3, out_channels=4, kernel_size=1, padding=1
    ),
    "conv2d larger than the image": _convolution(
        nn.Conv2d, 2, 3, 2, out_channels=3, kernel_size=(7, 5), padding=(3, 2)
    ),
    "conv2d same": _convolution(
        nn.Conv2d, 2, 5, 6, out_channels=3, kernel_size=(4, 2), padding="same", dilation=(1, 3)
    ),
    "conv2d valid": _convolution(
        nn.Conv2d, 2, 5, 6, out_channels=3, kernel_size=(4, 2), padding="valid"
    ),
    "conv2d circular": _convolution(
        nn.Conv2d, 2, 5, 6, out_channels=3, kernel_size=3, padding=(1, 2), padding_mode="circular"
    ),
    "conv2d reflect, strided": _convolution(
        nn.Conv2d,
        2,
        5,
        6,
        out_channels=3,
        kernel_size=3,
        padding=2,
        padding_mode="reflect",
        stride=2,
    ),
    "conv2d replicate, of few positions": _convolution(
        nn.Conv2d, 8, 2, 3, out_channels=8, kernel_size=3, padding=1, padding_mode="replicate"
    ),
    "conv2d same, even kernel, circular": _convolution(
        nn.Conv2d, 2, 5, 6, out_channels=3, kernel_size=4, padding="same", padding_mode="circular"
    ),
    "conv3d": _convolution(nn.Conv3d, 2, 4, 3, 5, out_channels=3, kernel_size=(2, 3, 1), padding=1),
    "conv3d of few positions": _convolution(
        nn.Conv3d, 4, 2, 2, 2, out_channels=5, kernel_size=2, bias=False
    ),
    "conv3d grouped, strided, dilated": _convolution(
        nn.Conv3d, 4, 5, 4, 3, out_channels=4, kernel_size=2, groups=2, stride=(2, 1, 1), dilation=2
    ),
    "transposed convolution": headed(
        (2, 3, 3), lambda: nn.ConvTranspose2d(2, 3, 2), general=("layers.0.*",)
    ),
}

# --- normalisation ---

NORMALISATION = {
    "batch norm 1d": headed((WIDTH,), linear, lambda: nn.BatchNorm1d(WIDTH)),
    "batch norm 1d on sequences": headed((3, 5), lambda: nn.BatchNorm1d(3)),
    "batch norm 2d": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 3, 3, bias=False), lambda: nn.BatchNorm2d(3), nn.ReLU
    ),
    "batch norm 2d not affine": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 3, 3), lambda: nn.BatchNorm2d(3, affine=False)
    ),
    "batch norm 2d without momentum": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 3, 3), lambda: nn.BatchNorm2d(3, momentum=None, eps=0.1)
    ),
    "batch norm 3d": headed((2, 3, 2, 2), lambda: nn.BatchNorm3d(2)),
    "batch norm at the start": headed(
        (2, 3, 3), lambda: nn.BatchNorm2d(2), lambda: nn.Conv2d(2, 3, 2)
    ),
    "group norm": headed((4, 3, 3), lambda: nn.GroupNorm(2, 4), lambda: nn.Conv2d(4, 3, 2)),
    "group norm on vectors": headed((WIDTH,), linear, lambda: nn.GroupNorm(3, WIDTH, eps=0.1)),
    "group norm not affine": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 4, 3), lambda: nn.GroupNorm(2, 4, affine=False)
    ),
    "layer norm": headed((WIDTH,), linear, lambda: nn.LayerNorm(WIDTH)),
    "layer norm on tokens": headed((TOKENS, WIDTH), linear, lambda: nn.LayerNorm(WIDTH)),
    "layer norm over images": headed((2, 3, 4), lambda: nn.LayerNorm((2, 3, 4))),
    "layer norm over the last two": headed((2, 3, 4), lambda: nn.LayerNorm((3, 4), eps=0.1)),
    "layer norm not affine": headed(
        (TOKENS, WIDTH), linear, lambda: nn.LayerNorm(WIDTH, elementwise_affine=False)
    ),
    "layer norm without bias": headed(
        (TOKENS, WIDTH), linear, lambda: nn.LayerNorm(WIDTH, bias=False)
    ),
    "instance norm 1d": headed((2, 5), lambda: nn.InstanceNorm1d(2, affine=True)),
    "instance norm 2d not affine": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 3, 3, bias=False), lambda: nn.InstanceNorm2d(3)
    ),
    "instance norm 2d": headed(
        (2, 4, 4),
        lambda: nn.Conv2d(2, 3, 3, bias=False),
        lambda: nn.InstanceNorm2d(3, affine=True, eps=0.1),
    ),
    "instance norm 2d with fixed statistics": headed(
        (2, 4, 4),
        lambda: nn.Conv2d(2, 3, 3),
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ),
    "rms norm": headed((TOKENS, WIDTH), linear, lambda: nn.RMSNorm(WIDTH)),
    "rms norm over the last two": headed((2, 3, 4), lambda: nn.RMSNorm((3, 4), eps=0.1)),
    "local response norm": headed(
        (3, 3, 3), lambda: nn.Conv2d(3, 4, 2), lambda: nn.LocalResponseNorm(2)
    ),
}

# --- embeddings ---


def _embedding(**options: Any) -> nn.Embedding:
    return nn.Embedding(WORDS, WIDTH, **options)


EMBEDDINGS = {
    "embedding": headed((TOKENS,), _embedding, words=True),
    "embedding of repeated words": Case(
        lambda: Applied(
            lambda self, x: self.head(self.embed(x // 4).tanh().mean(1)),
            embed=_embedding(),
            head=linear(CLASSES),
        ),
        (9,),
        words=True,
    ),
    "embedding of one word": headed((), _embedding, words=True),
    "embedding of a grid": headed((2, 3), _embedding, words=True),
    "embedding with padding": headed((9,), lambda: _embedding(padding_idx=2), words=True),
    "embedding with padding counted from the end": headed(
        (9,), lambda: _embedding(padding_idx=-1), words=True
    ),
    "embedding, sparse": headed((TOKENS,), lambda: _embedding(sparse=True), words=True),
    "embedding of limited length": headed(
        (TOKENS,), lambda: _embedding(max_norm=0.7), words=True, general=("layers.0.*",)
    ),
    "embedding bag": headed(
        (TOKENS,), lambda: nn.EmbeddingBag(WORDS, WIDTH), words=True, general=("layers.0.*",)
    ),
    "embedding tied with the head": applied(
        lambda self, x: self.head(torch.tanh(self.embed(x)).sum(1))[:, :CLASSES],
        (TOKENS,),
        parts=lambda: {
            "embed": (embed := _embedding()),
            "head": tie(nn.Linear(WIDTH, WORDS), "weight", embed.weight),
        },
        words=True,
    ),
    "positions without a batch": applied(
        lambda self, x: self.head(
            torch.tanh(self.embed(x) + self.at(torch.arange(TOKENS))).mean(1)
        ),
        (TOKENS,),
        parts=lambda: {"embed": _embedding(), "at": _embedding(), "head": linear(CLASSES)},
        words=True,
        general=("at.weight",),
    ),
    "twice as many positions as samples": applied(
        lambda self, x: self.head(
            torch.tanh(self.embed(x) + self.at(torch.arange(2 * BATCH))).mean(1)
        ),
        (2 * BATCH,),
        parts=lambda: {
            "embed": _embedding(),
            "at": nn.Embedding(2 * BATCH, WIDTH),
            "head": linear(CLASSES),
        },
        words=True,
        general=("at.weight",),
    ),
    "as many positions as samples": applied(
        lambda self, x: self.head(torch.tanh(self.embed(x) + self.at(torch.arange(BATCH))).mean(1)),
        (BATCH,),
        parts=lambda: {"embed": _embedding(), "at": _embedding(), "head": linear(CLASSES)},
        words=True,
        general=("at.weight",),
    ),
}

# --- attention and transformers ---


class Attending(nn.Module):
    """Multi-head attention between linear layers; words are made of one input."""

    def __init__(
        self,
        keys: int | None = None,
        values: int | None = None,
        mask: str = "",
        weights: bool = False,
        average: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        options = {"batch_first": True} | options
        self.attention = nn.MultiheadAttention(WIDTH, 2, kdim=keys, vdim=values, **options)
        self.to_keys = linear(keys, bias=False) if keys else nn.Identity()
        self.to_values = linear(values) if values else nn.Identity()
        self.head = linear(CLASSES)
        self.mask, self.weights, self.average = mask, weights, average

    def forward(self, inputs: Tensor) -> Tensor:
        masks: dict[str, Tensor] = {}
        if "causal" in self.mask:
            masks["attn_mask"] = torch.triu(torch.ones(TOKENS, TOKENS), 1).bool()
        if "own" in self.mask:
            scores = inputs @ inputs.transpose(1, 2)
            masks["attn_mask"] = scores.repeat_interleave(self.attention.num_heads, 0)
        if "padding" in self.mask and "soft" not in self.mask:
            masks["key_padding_mask"] = F.pad(inputs[:, 1:, 0] > 0, (1, 0))
        if "soft padding" in self.mask:
            masks["key_padding_mask"] = inputs[:, :, 0]
        words = [inputs, self.to_keys(inputs), self.to_values(inputs)]
        if not self.attention.batch_first:
            words = [each.transpose(0, 1) for each in words]
        attended, weights = self.attention(
            *words, need_weights=self.weights, average_attn_weights=self.average, **masks
        )
        mean = attended.mean(1 if self.attention.batch_first else 0)
        logits = self.head(torch.tanh(mean))
        if not self.weights:
            return logits
        first = weights[:, 0] if self.average else weights[:, 0, 0] - weights[:, 1, 1]
        return logits * (1 + first[:, :1])


def _attention(tokens: int = TOKENS, **options: Any) -> Case:
    extra = not {"add_bias_kv", "add_zero_attn"}.isdisjoint(options)  # keys of no token
    return Case(
        lambda: Attending(**options), (tokens, WIDTH), general=("attention.*",) if extra else ()
    )


def _self_attention(self: Any, inputs: Tensor) -> Tensor:
    attended = self.attention(inputs, inputs, inputs)[0]
    return self.head(torch.tanh(attended).mean(1))


def _encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    options = {"dropout": 0.1, "batch_first": True} | options
    return nn.TransformerEncoderLayer(WIDTH, 2, 8, **options)


class Decoding(nn.Module):
    """A transformer decoder layer that reads a linear map of its own input."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        options = {"batch_first": True} | options
        self.decoder = nn.TransformerDecoderLayer(WIDTH, 2, 8, **options)
        self.memory, self.head = linear(), linear(CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(TOKENS, dtype=inputs.dtype)
        words, memory = inputs, torch.tanh(self.memory(inputs))
        if not self.decoder.self_attn.batch_first:
            words, memory = words.transpose(0, 1), memory.transpose(0, 1)
        decoded = self.decoder(words, memory, tgt_mask=mask)
        first = decoded[:, -1] if self.decoder.self_attn.batch_first else decoded[-1]
        return self.head(first)


def _vision_transformer() -> nn.Module:
    return VisionTransformer(
        image_size=4,
        patch_size=2,
        num_layers=1,
        num_heads=2,
        hidden_dim=4,
        mlp_dim=8,
        num_classes=CLASSES,
    )


def _swin() -> nn.Module:
    return SwinTransformer(
        patch_size=[2, 2],
        embed_dim=4,
        depths=[2],
        num_heads=[2],
        window_size=[2, 2],
        num_classes=CLASSES,
    )


TRANSFORMERS = {
    "attention": _attention(),
    "attention, sequence first": _attention(batch_first=False),
    "attention, sequence first, as many tokens as samples": _attention(BATCH, batch_first=False),
    "attention with weights": _attention(weights=True),
    "attention with the weights of each head": _attention(weights=True, average=False),
    "attention, causal and padded": _attention(mask="causal and padding", weights=True),
    "attention, own mask and padded softly": _attention(mask="own and soft padding"),
    "attention without bias": _attention(bias=False),
    "attention across": _attention(keys=5, values=3),
    "attention across, of the same width": _attention(keys=WIDTH, values=WIDTH),
    "attention across, sequence first, with weights": _attention(
        keys=5, values=WIDTH, batch_first=False, weights=True
    ),
    "attention with extra keys": _attention(add_bias_kv=True),
    "attention with a zero key": _attention(add_zero_attn=True),
    "attention with extra keys, sequence first, masked": _attention(
        add_bias_kv=True, add_zero_attn=True, batch_first=False, mask="padding", weights=True
    ),
    "attention, causal": _attention(mask="causal"),
    "attention, padded": _attention(mask="padding"),
    "attention, padded softly": _attention(mask="soft padding", weights=True),
    "attention, each sample with its own mask": _attention(mask="own"),
    "attention of one sample at a time": applied(
        lambda self, x: self.head(
            torch.stack([self.attention(each, each, each)[0].mean(0) for each in x])
        ),
        (TOKENS, WIDTH),
        parts=lambda: {"attention": nn.MultiheadAttention(WIDTH, 2), "head": linear(CLASSES)},
        general=("attention.*",),
    ),
    "attention with dropout": _attention(dropout=0.5),
    "attention of one head on itself": applied(
        _self_attention,
        (TOKENS, WIDTH),
        parts=lambda: {
            "attention": nn.MultiheadAttention(WIDTH, 1, batch_first=True),
            "head": linear(CLASSES),
        },
    ),
    "attention, projection in frozen": applied(
        _self_attention,
        (TOKENS, WIDTH),
        parts=lambda: {
            "attention": frozen(
                nn.MultiheadAttention(WIDTH, 2, batch_first=True), "in_proj_weight"
            ),
            "head": linear(CLASSES),
        },
    ),
    "attention, projection out frozen": applied(
        _self_attention,
        (TOKENS, WIDTH),
        parts=lambda: {
            "attention": frozen(
                nn.MultiheadAttention(WIDTH, 2, batch_first=True), "out_proj.weight"
            ),
            "head": linear(CLASSES),
        },
    ),
    "encoder layer": headed((TOKENS, WIDTH), _encoder_layer),
    "encoder layer, norm first, gelu": headed(
        (TOKENS, WIDTH), lambda: _encoder_layer(norm_first=True, activation="gelu")
    ),
    "encoder layer without bias": headed((TOKENS, WIDTH), lambda: _encoder_layer(bias=False)),
    "encoder layer, sequence first": applied(
        lambda self, x: self.head(self.encoder(x.transpose(0, 1))[-1]),
        (TOKENS, WIDTH),
        parts=lambda: {"encoder": _encoder_layer(batch_first=False), "head": linear(CLASSES)},
    ),
    "encoder": headed(
        (TOKENS, WIDTH),
        lambda: nn.TransformerEncoder(_encoder_layer(), 2, norm=nn.LayerNorm(WIDTH)),
    ),
    "encoder, padded": applied(
        lambda self, x: self.head(
            self.encoder(x, src_key_padding_mask=F.pad(x[:, 1:, 0] > 0, (1, 0)))[:, 0]
        ),
        (TOKENS, WIDTH),
        parts=lambda: {
            "encoder": nn.TransformerEncoder(_encoder_layer(), 2),
            "head": linear(CLASSES),
        },
    ),
    "decoder layer": Case(Decoding, (TOKENS, WIDTH)),
    "decoder layer, norm first, sequence first": Case(
        lambda: Decoding(norm_first=True, batch_first=False, activation="gelu"), (TOKENS, WIDTH)
    ),
    "vision transformer": Case(
        _vision_transformer, (3, 4, 4), general=("class_token", "encoder.pos_embedding")
    ),
    "swin": Case(_swin, (3, 8, 8), general=("*relative_position_bias_table",)),
}

# --- blocks of torchvision's networks ---

BLOCKS = {
    "convnext block": headed(
        (4, 5, 5),
        lambda: LayerNorm2d(4),
        lambda: CNBlock(4, layer_scale=0.5, stochastic_depth_prob=0.1),
    ),
    "inverted residual": headed((4, 4, 4), lambda: InvertedResidual(4, 4, 1, 2)),
    "inverted residual with squeeze and excitation": headed(
        (8, 4, 4),
        lambda: SqueezedResidual(
            InvertedResidualConfig(8, 3, 16, 8, True, "HS", 1, 1, 1.0), nn.BatchNorm2d
        ),
    ),
    "densenet": Case(lambda: DenseNet(2, (1, 1), 4, bn_size=1, num_classes=CLASSES), (3, 32, 32)),
    "densenet that recomputes": Case(
        lambda: DenseNet(2, (1, 1), 4, bn_size=1, num_classes=CLASSES, memory_efficient=True),
        (3, 32, 32),
    ),
}

# --- parameters shared, bare, frozen or unused ---


class Looped(nn.Module):
    """One cell applied once for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = linear(WIDTH, 2 * WIDTH), linear(CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        state = torch.zeros_like(inputs[:, 0])
        for token in inputs.unbind(1):
            state = torch.tanh(self.cell(torch.cat([token, state], 1)))
        return self.head(state)


def _tied_linear() -> dict[str, Any]:
    first = linear()
    return {
        "first": first,
        "second": tie(linear(), "weight", first.weight),
        "head": linear(CLASSES),
    }


def _pair(self: Any, inputs: Tensor) -> Tensor:
    return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def _layer_and_head() -> dict[str, Any]:
    return {"layer": linear(), "head": linear(CLASSES)}


SHARED = {
    "bare scale": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x) * self.scale)),
        parts=lambda: _layer_and_head() | {"scale": nn.Parameter(torch.tensor(1.5))},
        general=("scale",),
    ),
    "bare scale of the inputs": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x * self.scale))),
        parts=lambda: _layer_and_head() | {"scale": nn.Parameter(torch.tensor(1.5))},
        general=("scale",),
    ),
    "bare parameters in a list": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x) * self.list[0] + self.list[1])),
        parts=lambda: (
            _layer_and_head()
            | {"list": nn.ParameterList([torch.randn(WIDTH), torch.randn(1, WIDTH)])}
        ),
        general=("list.*",),
    ),
    "only bare parameters": applied(
        lambda self, x: torch.tanh(x @ self.into) @ self.out,
        parts=lambda: {
            "into": nn.Parameter(torch.randn(WIDTH, 3)),
            "out": nn.Parameter(torch.randn(3, CLASSES)),
        },
        general=("*",),
    ),
    "tied linear layers": applied(_pair, parts=_tied_linear),
    "tied linear layers on tokens": applied(
        lambda self, x: _pair(self, x).mean(1), (TOKENS, WIDTH), parts=_tied_linear
    ),
    "tied bias": applied(
        _pair,
        parts=lambda: {
            "first": (first := linear()),
            "second": tie(linear(), "bias", first.bias),
            "head": linear(CLASSES),
        },
    ),
    "tied convolutions of other geometry": applied(
        lambda self, x: self.head(torch.tanh(self.second(torch.tanh(self.first(x)))).flatten(1)),
        (2, 4, 4),
        parts=lambda: {
            "first": (first := nn.Conv2d(2, 2, 3, padding=1)),
            "second": tie(nn.Conv2d(2, 2, 3, stride=2), "weight", first.weight),
            "head": linear(CLASSES, 2),
        },
    ),
    "weight used again transposed": applied(
        lambda self, x: self.head(torch.tanh(self.first(x) + F.linear(x, self.first.weight.T))),
        parts=lambda: {"first": linear(), "head": linear(CLASSES)},
        general=("first.weight",),
    ),
    "parameter in both roles of a norm": applied(
        lambda self, x: self.head(torch.tanh(self.norm(self.layer(x)))),
        parts=lambda: (
            _layer_and_head() | {"norm": tie(norm := nn.LayerNorm(WIDTH), "bias", norm.weight)}
        ),
    ),
    "module under two names": applied(
        _pair,
        parts=lambda: {"first": (layer := linear()), "second": layer, "head": linear(CLASSES)},
    ),
    "module called twice": applied(
        lambda self, x: self.head(torch.tanh(self.layer(torch.tanh(self.layer(x))))),
        parts=_layer_and_head,
    ),
    "convolution called at two sizes": applied(
        lambda self, x: self.head(
            torch.tanh(self.conv(x)).mean((2, 3)) + torch.tanh(self.conv(x[:, :, ::2])).amax((2, 3))
        ),
        (2, 8, 6),
        parts=lambda: {"conv": nn.Conv2d(2, 3, 3), "head": linear(CLASSES, 3)},
    ),
    "norm called twice": applied(
        lambda self, x: self.head(torch.tanh(self.norm(self.layer(self.norm(x))))),
        parts=lambda: _layer_and_head() | {"norm": nn.LayerNorm(WIDTH)},
    ),
    "embedding called twice": applied(
        lambda self, x: self.head(torch.tanh(self.embed(x) * self.embed(x.flip(1))).sum(1)),
        (TOKENS,),
        parts=lambda: {"embed": _embedding(), "head": linear(CLASSES)},
        words=True,
    ),
    "attention called twice": applied(
        lambda self, x: _self_attention(self, torch.tanh(self.attention(x, x, x)[0])),
        (TOKENS, WIDTH),
        parts=lambda: {
            "attention": nn.MultiheadAttention(WIDTH, 2, batch_first=True),
            "head": linear(CLASSES),
        },
    ),
    "recurrent cell of linear layers": Case(Looped, (TOKENS, WIDTH)),
    "weight used again as a function": applied(
        lambda self, x: self.head(
            torch.tanh(F.linear(torch.tanh(self.layer(x)), self.layer.weight))
        ),
        parts=_layer_and_head,
        general=("layer.weight",),
    ),
    "weight only used as a function": applied(
        lambda self, x: self.head(torch.tanh(F.linear(x, F.normalize(self.layer.weight)))),
        parts=_layer_and_head,
        silent=("layer.bias",),
        general=("layer.weight",),
    ),
    "weight decayed within the logits": applied(
        lambda self, x: (
            self.head(self.layer(x)) + self.layer.weight.square().sum() * x[:, :CLASSES]
        ),
        parts=_layer_and_head,
        general=("layer.weight",),
    ),
    "layer never called": applied(
        lambda self, x: self.head(x),
        parts=lambda: _layer_and_head() | {"other": nn.Parameter(torch.ones(2))},
        silent=("layer.*", "other"),
    ),
    "output of a layer discarded": applied(
        lambda self, x: (self.layer(x), self.head(x))[1], parts=_layer_and_head, silent=("layer.*",)
    ),
    "frozen layer": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x))),
        parts=lambda: {"layer": frozen(linear()), "head": linear(CLASSES)},
    ),
    "frozen convolution and norms between layers that learn": headed(
        (2, 6, 6),
        lambda: nn.Conv2d(2, 4, 3),
        lambda: frozen(nn.BatchNorm2d(4)),
        nn.Tanh,
        lambda: frozen(nn.Conv2d(4, 4, 2)),
        lambda: frozen(nn.GroupNorm(2, 4)),
        lambda: nn.Conv2d(4, 3, 2),
        nn.Tanh,
        lambda: frozen(nn.LayerNorm((2, 2))),
    ),
    "frozen attention between layers that learn": headed(
        (TOKENS, WIDTH), linear, lambda: frozen(_encoder_layer()), linear
    ),
    "frozen layer after one that learns": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x))),
        parts=lambda: {"layer": linear(), "head": frozen(linear(CLASSES))},
    ),
    "frozen weights, biases learn": headed(
        (2, 6, 6),
        lambda: frozen(nn.Conv2d(2, 4, 3), "weight"),
        lambda: frozen(nn.BatchNorm2d(4), "weight"),
        lambda: frozen(nn.Conv2d(4, 4, 2), "weight"),
        lambda: frozen(nn.GroupNorm(2, 4), "weight"),
        lambda: frozen(linear(5, 3), "weight"),
        lambda: frozen(nn.LayerNorm(5), "weight"),
    ),
    "frozen biases, weights learn": headed(
        (2, 6, 6),
        lambda: frozen(nn.Conv2d(2, 4, 3), "bias"),
        lambda: frozen(nn.BatchNorm2d(4), "bias"),
        lambda: frozen(nn.Conv2d(4, 4, 2), "bias"),
        lambda: frozen(nn.GroupNorm(2, 4), "bias"),
        lambda: frozen(linear(5, 3), "bias"),
        lambda: frozen(nn.LayerNorm(5), "bias"),
    ),
    "frozen embedding": headed((TOKENS,), lambda: frozen(_embedding()), linear, words=True),
}

# --- layers that are not what their type says, and uses that hooks do not show ---


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight, in the method that nn.Conv2d's forward calls."""

    def _conv_forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        return super()._conv_forward(inputs, centred, bias)


class Scaled(nn.Linear):
    """A linear layer whose output is scaled by the norm of its weight."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.weight.norm()


class Renamed(nn.Linear):
    """A linear layer that is one in all but name."""


def _with_own_forward() -> nn.Linear:
    layer = linear()
    layer.forward = types.MethodType(
        lambda self, x: F.linear(x, self.weight.exp(), self.bias), layer
    )
    return layer


def _doubling() -> nn.Linear:
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: 2 * output.tanh())
    return layer


def _shifting() -> nn.Linear:
    layer = linear()
    layer.register_forward_pre_hook(lambda module, inputs: (3 * inputs[0] + 1,))
    return layer


def _halving_gradients() -> nn.Linear:
    layer = linear()
    layer.register_full_backward_hook(
        lambda module, into, out: tuple(None if each is None else each / 2 for each in into)
    )
    return layer


class Rounded(torch.autograd.Function):
    """Rounds, with the gradient of the identity (straight-through), without a forward mode."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return (4 * values).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _in_place_residual(self: Any, inputs: Tensor) -> Tensor:
    outputs = self.conv(inputs)
    outputs += self.shortcut(inputs)
    outputs.mul_(2).relu_()
    return self.head(outputs.flatten(1))


def _partly_detached(self: Any, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(self.layer(inputs))
    return self.head(torch.tanh(self.layer(inputs)) * gate + self.layer(inputs).detach())


def _viewed(self: Any, inputs: Tensor) -> Tensor:
    outputs = self.layer(inputs).view(-1, TOKENS, 2, 3).permute(0, 2, 3, 1)
    left, right = outputs[:, 0], outputs[:, 1].flip(2)
    return self.head((left * right.softmax(-1)).transpose(1, 2).mean(1))


def _written_in_part(self: Any, inputs: Tensor) -> Tensor:
    outputs = self.layer(inputs)
    outputs[:, ::2] *= 3
    outputs[:, 1] = inputs[:, 0]
    return self.head(torch.tanh(outputs))


class TwoOutputs(nn.Linear):
    """Returns a pair, as no nn.Linear does."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(inputs), super().forward(2 * inputs)


class Recurrent(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(WIDTH, 4, batch_first=True, **options)
        self.head = linear(CLASSES, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs)[0][:, -1])


class Exponential(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.exp()


def _with_parametrised_bias(layer: nn.Linear) -> nn.Module:
    return nn.utils.parametrize.register_parametrization(layer, "bias", Exponential())


def _old_weight_norm() -> nn.Module:
    return nn.utils.weight_norm(linear())


def _folded(self: Any, inputs: Tensor) -> Tensor:
    rows = inputs.reshape(-1, WIDTH)
    return self.head(torch.tanh(self.layer(rows)).reshape(len(inputs), -1))


def _frames(self: Any, inputs: Tensor) -> Tensor:
    features = self.layers(inputs.flatten(0, 1))
    return self.head(torch.tanh(features.reshape(*inputs.shape[:2], 4, -1)).amax(3).mean(1))


def _both_ways(self: Any, inputs: Tensor) -> Tensor:
    left, right = torch.tanh(self.layer(torch.cat([inputs, -2 * inputs]))).chunk(2)
    return self.head(left * right)


def _routed(self: Any, inputs: Tensor) -> Tensor:
    """Every row goes through one of two layers, which one depends on its first value."""
    rows = inputs.reshape(-1, WIDTH)
    left = rows[:, 0] > 0
    outputs = torch.empty_like(rows)
    outputs[left], outputs[~left] = self.left(rows[left]).tanh(), self.right(rows[~left]).tanh()
    return self.head(outputs.view(len(inputs), -1, WIDTH).sum(1))


ODD = {
    "subclass of linear with its own forward": headed(
        (WIDTH,), lambda: Scaled(WIDTH, 5), general=("layers.0.weight",)
    ),
    "subclass of linear that returns a pair": applied(
        lambda self, x: self.head(torch.mul(*self.layer(x))),
        parts=lambda: {"layer": TwoOutputs(WIDTH, WIDTH), "head": linear(CLASSES)},
    ),
    "subclass of linear in name alone": headed((WIDTH,), lambda: Renamed(WIDTH, 5)),
    "subclass of conv2d that standardises": headed(
        (2, 4, 4), lambda: Standardised(2, 3, 3), general=("layers.0.weight",)
    ),
    "forward of one layer replaced": headed(
        (WIDTH,), _with_own_forward, general=("layers.0.weight",)
    ),
    "hook that changes an output": headed((WIDTH,), _doubling),
    "hook that changes an input": headed((WIDTH,), _shifting),
    "hook that changes gradients": headed((WIDTH,), linear, nn.Tanh, _halving_gradients),
    "spectral norm": headed(
        (WIDTH,),
        lambda: parametrizations.spectral_norm(linear()),
        general=("layers.0.parametrizations.*",),
    ),
    "bias with a parametrisation": headed(
        (WIDTH,),
        lambda: _with_parametrised_bias(linear()),
        general=("layers.0.parametrizations.*",),
        either=("layers.0.weight",),
    ),
    "weight norm": headed(
        (2, 5, 5),
        lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
        general=("layers.0.parametrizations.*",),
    ),
    "weight norm by a hook": headed(
        (WIDTH,), _old_weight_norm, general=("layers.0.weight_?",), either=("layers.0.bias",)
    ),
    "forward called directly": applied(
        lambda self, x: self.head(torch.tanh(self.layer.forward(x))), parts=_layer_and_head
    ),
    "called by keyword": applied(
        lambda self, x: self.head(input=torch.tanh(self.layer(input=x))), parts=_layer_and_head
    ),
    "in-place residual": applied(
        _in_place_residual,
        (2, 4, 4),
        parts=lambda: {
            "conv": nn.Conv2d(2, 3, 3),
            "shortcut": nn.Conv2d(2, 3, 3, bias=False),
            "head": linear(CLASSES, 12),
        },
    ),
    "in-place relu": headed(
        (2, 4, 4),
        lambda: nn.Conv2d(2, 3, 3),
        lambda: nn.ReLU(inplace=True),
        lambda: nn.BatchNorm2d(3),
        lambda: nn.ReLU(inplace=True),
    ),
    "output written in part": applied(_written_in_part, parts=_layer_and_head),
    "output seen through views": applied(
        _viewed, (TOKENS, WIDTH), parts=lambda: {"layer": linear(), "head": linear(CLASSES, 3)}
    ),
    "output used twice": applied(
        lambda self, x: self.head(torch.tanh(h := self.layer(x)) + h.square()),
        parts=_layer_and_head,
    ),
    "input expanded": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x[:, None].expand(-1, 4, -1))).mean(1)),
        parts=_layer_and_head,
    ),
    "input not contiguous": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x.transpose(1, 2))).mean(1)),
        (WIDTH, TOKENS),
        parts=_layer_and_head,
    ),
    "one call without gradients": applied(_partly_detached, parts=_layer_and_head),
    "tokens folded into the batch": applied(
        _folded,
        (TOKENS, WIDTH),
        parts=lambda: {"layer": linear(2), "head": linear(CLASSES, 2 * TOKENS)},
    ),
    "frames folded into the batch": applied(
        _frames,
        (3, 8, 3, 3),
        parts=lambda: {
            "layers": nn.Sequential(
                nn.Conv2d(8, 9, 3, padding=1),
                nn.BatchNorm2d(9),
                nn.Tanh(),
                nn.Conv2d(9, 4, 2, groups=1, stride=2, bias=False),
                nn.GroupNorm(2, 4),
                nn.Tanh(),
                nn.Conv2d(4, 4, 1, groups=2),
                nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
                nn.Flatten(),
                nn.LayerNorm(4),
                nn.RMSNorm(4),
            ),
            "head": linear(CLASSES, 4),
        },
    ),
    "many frames folded into the batch": applied(
        _frames,
        (3, 2, 6, 6),
        parts=lambda: {
            "layers": nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1)),
            "head": linear(CLASSES, 4),
        },
    ),
    "words folded into the batch": applied(
        lambda self, x: self.head(
            torch.tanh(self.embed(x.reshape(-1, 2))).reshape(len(x), -1, WIDTH).sum(1)
        ),
        (4,),
        parts=lambda: {"embed": _embedding(padding_idx=3), "head": linear(CLASSES)},
        words=True,
    ),
    "attention folded into the batch": applied(
        lambda self, x: self.head(
            self.attention(*[x.reshape(-1, 2, WIDTH)] * 3)[0].tanh().reshape(len(x), 4, -1).sum(1)
        ),
        (4, WIDTH),
        parts=lambda: {
            "attention": nn.MultiheadAttention(WIDTH, 2, batch_first=True),
            "head": linear(CLASSES),
        },
    ),
    "two views behind one another in the batch": applied(
        _both_ways, parts=_layer_and_head, general=("layer.*",)
    ),
    "tokens routed by their values": applied(
        _routed,
        (3, WIDTH),
        parts=lambda: {"left": linear(), "right": linear(), "head": linear(CLASSES)},
        seed=1,  # ten of fifteen rows go left, but not two of each sample
        general=("left.*", "right.*"),
    ),
    "samples routed by their values": applied(
        _routed,
        parts=lambda: {"left": linear(), "right": linear(), "head": linear(CLASSES)},
        general=("left.*", "right.*"),
    ),
    "sequence first": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x.transpose(0, 1))).mean(0)),
        (TOKENS, WIDTH),
        parts=_layer_and_head,
    ),
    "sequence first, as many tokens as samples": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x.transpose(0, 1))).mean(0)),
        (BATCH, WIDTH),
        parts=_layer_and_head,
    ),
    "convolution of one sample at a time": applied(
        lambda self, x: self.head(torch.stack([torch.tanh(self.conv(each)).mean(1) for each in x])),
        (2, 5),
        parts=lambda: {"conv": nn.Conv1d(2, 3, 2), "head": linear(CLASSES, 3)},
        general=("conv.*",),
    ),
    "kernel computed from nothing": applied(
        lambda self, x: self.head(torch.tanh(x * self.layer(torch.ones(WIDTH, dtype=x.dtype)))),
        parts=_layer_and_head,
        general=("layer.*",),
    ),
    "lstm": Case(lambda: Recurrent(nn.LSTM), (TOKENS, WIDTH), general=("layer.*",)),
    "gru of two directions": Case(lambda: Recurrent(nn.GRU), (TOKENS, WIDTH), general=("layer.*",)),
    "bilinear": applied(
        lambda self, x: self.head(torch.tanh(self.pair(x, x.flip(1)))),
        parts=lambda: {"pair": nn.Bilinear(WIDTH, WIDTH, 3), "head": linear(CLASSES, 3)},
        general=("pair.*",),
    ),
    "prelu": headed(
        (2, 3, 3),
        lambda: nn.Conv2d(2, 3, 2),
        nn.PReLU,
        lambda: nn.PReLU(3),
        general=("*.[12].weight",),
    ),
    "dropout": headed((WIDTH,), linear, nn.Dropout, lambda: linear(5), nn.AlphaDropout),
    "straight-through rounding": applied(
        lambda self, x: self.head(Rounded.apply(self.layer(x))), parts=_layer_and_head
    ),
    "recomputed in the backward pass": applied(
        lambda self, x: self.head(checkpoint(self.layer, x, use_reentrant=False).tanh()),
        parts=_layer_and_head,
    ),
    "log-probabilities": applied(
        lambda self, x: F.log_softmax(self.head(torch.tanh(self.layer(x))), 1),
        parts=_layer_and_head,
        loss=lambda outputs, labels: F.nll_loss(outputs, labels, reduction="none"),
    ),
    "squared error": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x))),
        parts=_layer_and_head,
        loss=lambda outputs, labels: (outputs - F.one_hot(labels, CLASSES)).square().mean(1),
    ),
    "smoothed and weighted labels": applied(
        lambda self, x: self.head(torch.tanh(self.layer(x))),
        parts=_layer_and_head,
        loss=lambda outputs, labels: F.cross_entropy(
            outputs,
            labels,
            weight=torch.arange(1, CLASSES + 1).to(outputs),
            reduction="none",
            label_smoothing=0.2,
        ),
    ),
}

# --- norms and scales as timm has them: subclasses and layers of their own, same arithmetic ---


class FastLayerNorm(nn.LayerNorm):
    """With a forward pass of its own that has a fast branch."""

    fast = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.fast:
            raise NotImplementedError
        return F.layer_norm(inputs, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNormInFloat32(nn.LayerNorm):
    """Computes in float32, whatever comes in."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        outputs = F.layer_norm(inputs.float(), self.normalized_shape, weight, bias, self.eps)
        return outputs.to(inputs.dtype)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of images."""

    def forward(self, inputs: Tensor) -> Tensor:
        last = inputs.permute(0, 2, 3, 1)
        last = F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


class OneGroup(nn.GroupNorm):
    """Group norm of one group."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.group_norm(inputs, self.num_groups, self.weight, self.bias, self.eps)


class NormAndActivation(nn.BatchNorm2d):
    """Batch norm with an activation behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        outputs = F.batch_norm(
            inputs, *statistics, self.weight, self.bias, self.training, 0.0, self.eps
        )
        return self.act(outputs)


class RootMeanSquare(nn.Module):
    """RMS norm out of elementary operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, inputs: Tensor) -> Tensor:
        squares = inputs.pow(2).mean(-1, keepdim=True)
        return inputs * torch.rsqrt(squares + 1e-6) * self.weight


class Scale(nn.Module):
    """A scale for each channel, or what else the shape says."""

    def __init__(self, *shape: int, swapped: bool = False) -> None:
        super().__init__()
        self.gamma, self.swapped = nn.Parameter(torch.ones(shape)), swapped

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gamma * inputs if self.swapped else inputs * self.gamma


class StandardisedByNorm(nn.Conv2d):
    """A convolution whose weight passes through a batch norm of its own."""

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(inputs, weight, self.bias, self.stride, self.padding)


class PaddedInside(nn.Conv2d):
    """A convolution that pads its inputs by itself."""

    def forward(self, inputs: Tensor) -> Tensor:
        padded = F.pad(inputs, (0, 1, 1, 0))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


SUBCLASSES = {
    "layer norm subclass": headed((TOKENS, WIDTH), linear, lambda: FastLayerNorm(WIDTH)),
    "layer norm subclass over channels": headed(
        (2, 3, 4),
        lambda: nn.Conv2d(2, 3, 1),
        lambda: ChannelNorm(3),
        nn.ReLU,
        lambda: nn.Conv2d(3, 2, 2),
    ),
    "group norm subclass": headed((4, 3, 3), lambda: OneGroup(4)),
    "batch norm subclass with its activation": headed(
        (2, 4, 4), lambda: nn.Conv2d(2, 3, 3), lambda: NormAndActivation(3)
    ),
    "batch norm of several machines": headed((WIDTH,), linear, lambda: nn.SyncBatchNorm(WIDTH)),
    "rms norm out of elementary operations": headed(
        (TOKENS, WIDTH), linear, lambda: RootMeanSquare(WIDTH)
    ),
    "scale of each channel, last": headed((TOKENS, WIDTH), linear, lambda: Scale(WIDTH)),
    "scale of each channel of images": headed(
        (2, 3, 4),
        lambda: nn.Conv2d(2, 3, 2),
        lambda: Scale(3, 1, 1, swapped=True),
    ),
    "scale of each position": headed((2, 3, 4), lambda: Scale(3, 1)),
    "scale with an axis for the batch": headed(
        (WIDTH,), linear, lambda: Scale(1, WIDTH), general=("*.gamma",)
    ),
    "scale given by name": applied(
        lambda self, x: self.head(torch.mul(self.layer(x), other=self.scale).mul(other=self.scale)),
        parts=lambda: _layer_and_head() | {"scale": nn.Parameter(torch.ones(WIDTH))},
        general=("scale",),
    ),
    "linear operation of one output without an axis": applied(
        lambda self, x: self.head(x * F.linear(x, self.weights).tanh()[:, None]),
        parts=lambda: {"weights": nn.Parameter(torch.ones(WIDTH)), "head": linear(CLASSES)},
        general=("weights",),
    ),
    "operations given everything by name": applied(
        lambda self, x: self.head(
            F.layer_norm(
                input=F.linear(input=x, weight=self.weights, bias=self.shift),
                normalized_shape=(WIDTH,),
                weight=self.scale,
            )
        ),
        parts=lambda: {
            "weights": nn.Parameter(torch.ones(WIDTH, WIDTH)),
            "shift": nn.Parameter(torch.ones(WIDTH)),
            "scale": nn.Parameter(torch.ones(WIDTH)),
            "head": linear(CLASSES),
        },
    ),
    "scale that widens": headed((1, 3), lambda: Scale(2, 1), general=("*.gamma",)),
    "subclass of conv2d that pads by itself": headed(
        (2, 4, 4), lambda: PaddedInside(2, 3, 2, stride=2)
    ),
    "subclass of conv2d whose weight is normalised": headed(
        (2, 4, 4),
        lambda: StandardisedByNorm(2, 3, 3),
        general=("layers.0.weight",),
    ),
}

# --- what trackers of other libraries name: complex numbers, bags, adapters, cells, ... ---


class Complex(nn.Module):
    """A complex layer between the spectrum and a real head; keeps its precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(WIDTH, CLASSES, dtype=torch.float64)

    def _apply(self, function: Any, recurse: bool = True) -> nn.Module:
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        spectrum = torch.fft.fft(inputs.to(torch.complex128))
        return self.head(self.layer(spectrum).flatten(1)[:, :WIDTH].abs())


class Spectral(nn.Module):
    """A bare complex weight, as of a Fourier layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.complex128))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.fft.ifft(torch.einsum("bi,io->bo", inputs, self.weight))


class Adapted(nn.Linear):
    """A frozen layer with a trainable pair of low rank beside it."""

    def __init__(self, merged: bool = False, functional: bool = False) -> None:
        super().__init__(WIDTH, WIDTH)
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, WIDTH))
        self.up = nn.Parameter(torch.randn(WIDTH, 2))
        self.merged, self.functional = merged, functional

    def forward(self, inputs: Tensor) -> Tensor:
        if self.merged:
            return F.linear(inputs, self.weight + self.up @ self.down, self.bias)
        if self.functional:
            low = F.linear(F.linear(inputs, self.down), self.up)
            return super().forward(inputs) + low
        return super().forward(inputs) + inputs @ self.down.T @ self.up.T / 2


class RescaledInstances(nn.InstanceNorm2d):
    """Changes a method that the forward pass of its base calls."""

    def _apply_instance_norm(self, inputs: Tensor) -> Tensor:
        return super()._apply_instance_norm(inputs) * self.weight.sum()


def _with_own_convolution() -> nn.Conv2d:
    layer = nn.Conv2d(2, 3, 2)
    layer._conv_forward = lambda x, weight, bias: F.conv2d(x, weight.exp(), bias)
    return layer


def _bag(**options: Any) -> Case:
    bag = partial(nn.EmbeddingBag, WORDS, WIDTH, **options)
    return headed((TOKENS,), bag, words=True, general=("layers.0.*",))


def _cell(kind: type[nn.RNNCellBase]) -> Case:
    def last_state(self: Any, inputs: Tensor) -> Tensor:
        state = None
        for token in inputs.unbind(1):
            state = self.cell(token, state)
        return self.head(state[0] if isinstance(state, tuple) else state)

    return applied(
        last_state,
        (TOKENS, WIDTH),
        parts=lambda: {"cell": kind(WIDTH, 4), "head": linear(CLASSES, 4)},
        general=("cell.*",),
    )


def _force(self: Any, inputs: Tensor) -> Tensor:
    """The gradient of an energy with respect to the inputs."""
    with torch.enable_grad():
        places = inputs.detach().requires_grad_()
        energy = self.layer(places).square().sum()
        (slope,) = torch.autograd.grad(energy, places, create_graph=True)
    return self.head(torch.tanh(slope))


def _pruned() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    prune.custom_from_mask(layer, "weight", torch.arange(WIDTH * WIDTH).view(WIDTH, -1) % 3 > 0)
    return layer


def _of_one_storage() -> dict[str, Any]:
    first, second = linear(), linear()
    second.weight = nn.Parameter(first.weight.data)
    return {"first": first, "second": second, "head": linear(CLASSES)}


def _adapters_behind_frozen_words() -> nn.Module:
    """As libraries of adapters prepare a frozen model for checkpoints."""
    embed = frozen(_embedding())
    embed.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    return Applied(
        lambda self, x: self.head(
            checkpoint(self.layer, self.embed(x), use_reentrant=False).tanh().mean(1)
        ),
        embed=embed,
        layer=linear(),
        head=frozen(linear(CLASSES)),
    )


TRACKERS = {
    "complex linear": Case(
        lambda: Complex(nn.Linear(WIDTH, WIDTH, dtype=torch.complex128)), either=("layer.*",)
    ),
    "complex convolution": Case(
        lambda: Complex(
            nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 2, 3, dtype=torch.complex128))
        ),
        either=("layer.*",),
    ),
    "complex weight of a Fourier layer": Case(lambda: Complex(Spectral()), general=("layer.*",)),
    "embedding bag, sum": _bag(mode="sum"),
    "embedding bag, max": _bag(mode="max"),
    "embedding bag, sparse": _bag(mode="mean", sparse=True),
    "embedding bag with padding": _bag(padding_idx=2),
    "embedding bag of limited length": _bag(max_norm=0.7),
    "embedding bag of limited length, sparse": _bag(max_norm=0.7, sparse=True),
    "embedding bag of weighted words": applied(
        lambda self, x: self.head(
            torch.tanh(self.bag(x, per_sample_weights=self.weigh(x).squeeze(-1)))
        ),
        (TOKENS,),
        parts=lambda: {
            "bag": nn.EmbeddingBag(WORDS, WIDTH, mode="sum"),
            "weigh": nn.Embedding(WORDS, 1),
            "head": linear(CLASSES),
        },
        words=True,
        general=("bag.*",),
    ),
    "embedding bag with offsets": applied(
        lambda self, x: self.head(
            torch.tanh(self.bag(x.flatten(), torch.arange(0, x.numel(), x.shape[1])))
        ),
        (TOKENS,),
        parts=lambda: {
            "bag": nn.EmbeddingBag(WORDS, WIDTH, sparse=True),
            "head": linear(CLASSES),
        },
        words=True,
        general=("bag.*",),
    ),
    "embedding of limited length, sparse": headed(
        (TOKENS,),
        lambda: _embedding(max_norm=0.7, norm_type=1.0, sparse=True),
        words=True,
        general=("layers.0.*",),
    ),
    "adapter beside a frozen layer": headed((WIDTH,), Adapted, general=("*.down", "*.up")),
    "adapter of linear operations": headed((TOKENS, WIDTH), lambda: Adapted(functional=True)),
    "adapter merged into its layer": headed(
        (WIDTH,), lambda: Adapted(merged=True), general=("*.down", "*.up")
    ),
    "adapter of two layers": applied(
        lambda self, x: self.head(torch.tanh(self.base(x) + self.up(self.down(x)))),
        parts=lambda: {
            "base": frozen(linear()),
            "down": linear(2, bias=False),
            "up": linear(WIDTH, 2, bias=False),
            "head": linear(CLASSES),
        },
    ),
    "adapters behind frozen words": Case(_adapters_behind_frozen_words, (TOKENS,), words=True),
    "gru cell": _cell(nn.GRUCell),
    "lstm cell": _cell(nn.LSTMCell),
    "rnn of two layers": Case(
        lambda: Recurrent(nn.RNN, num_layers=2), (TOKENS, WIDTH), general=("layer.*",)
    ),
    "instance norm with a method of its own": headed(
        (2, 3, 3), lambda: RescaledInstances(2, affine=True), either=("layers.0.*",)
    ),
    "instance norm of one sample at a time": applied(
        lambda self, x: self.head(torch.stack([self.norm(each) for each in x]).tanh().flatten(1)),
        (2, 2, 2),
        parts=lambda: {"norm": nn.InstanceNorm2d(2, affine=True), "head": linear(CLASSES, 8)},
        general=("norm.*",),
    ),
    "convolution with a method of its own": headed(
        (2, 3, 3), _with_own_convolution, general=("layers.0.weight",), either=("layers.0.bias",)
    ),
    "gradient of an energy": applied(_force, parts=_layer_and_head, general=("layer.*",)),
    "layer mapped over the batch": applied(
        lambda self, x: self.head(torch.tanh(torch.vmap(self.layer)(x))),
        parts=_layer_and_head,
        general=("layer.*",),
    ),
    "layer called with another weight": applied(
        lambda self, x: self.head(
            torch.func.functional_call(self.layer, {"weight": 2 * self.layer.weight}, (x,)).tanh()
        ),
        parts=_layer_and_head,
        general=("layer.weight",),
    ),
    "recomputed from inputs that require gradients": applied(
        lambda self, x: self.head(
            checkpoint(self.layer, x.requires_grad_(), use_reentrant=False).tanh()
        ),
        parts=_layer_and_head,
    ),
    "weight pruned by a mask": headed(
        (WIDTH,), _pruned, general=("layers.0.weight_orig",), either=("layers.0.bias",)
    ),
    "two parameters of one storage": applied(_pair, parts=_of_one_storage),
}

CASES: dict[str, Case] = (
    DENSE
    | CONVOLUTIONS
    | NORMALISATION
    | EMBEDDINGS
    | TRANSFORMERS
    | BLOCKS
    | SHARED
    | ODD
    | SUBCLASSES
    | TRACKERS
)
