"""The layers that have a rule: their forward pass, written so that each parameter's use is seen.

While a model is :func:`replaced`, the ``forward`` of every such layer goes through an
:class:`Arithmetic`. The plain one computes what the layer always does; others record what a
parameter was used for, or carry tangents along. Only layers whose class is known, unchanged and
without parametrisation are replaced; everything else runs as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from raydrop.scores.rules import ConvUse, EmbeddingUse, FixedScaleUse, LinearUse, ScaleUse, Use

Build = Callable[[Tensor, int], Use]
"""From inputs, rows of the batch dimension first, and the number of samples to a use."""


@dataclass(frozen=True)
class Slot:
    """A parameter of a module, or some of its rows; absent where the module has none."""

    module: nn.Module
    name: str
    rows: slice | None = None

    @property
    def parameter(self) -> Tensor | None:
        """What the module holds under that name."""
        return cast("Tensor | None", getattr(self.module, self.name))

    def read(self, value: Tensor) -> Tensor:
        """Return these rows of the parameter's value, or of anything of its shape."""
        return value if self.rows is None else value[self.rows]


class Arithmetic:
    """What layers with a rule compute."""

    def value(self, slot: Slot) -> Tensor | None:
        """Return the value to compute with."""
        parameter = slot.parameter
        return None if parameter is None else slot.read(parameter)

    def linear(self, x: Tensor, weight: Slot, bias: Slot) -> Tensor:
        """Return W x + b over the last axis."""
        y = F.linear(x, _present(self.value(weight)), self.value(bias))
        return self.used(y, x, {"weight": weight, "bias": bias}, LinearUse, features=1)

    def convolution(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return what a convolution without padding mode gives."""
        conv = cast("nn.Conv2d", layer)
        weight, bias = Slot(conv, "weight"), Slot(conv, "bias")
        y = conv._conv_forward(x, _present(self.value(weight)), self.value(bias))
        build = partial(
            ConvUse,
            padding=_padding(conv),
            mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode,
            kernel=conv.kernel_size,
            stride=conv.stride,
            dilation=conv.dilation,
            groups=conv.groups,
        )
        return self.used(y, x, {"weight": weight, "bias": bias}, build)

    def batch_norm(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return eval-mode BatchNorm as one scaling and one shift per channel."""
        norm = cast("nn.BatchNorm2d", layer)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        mean, deviation = _statistics(norm)
        slots = {"weight": Slot(norm, "weight"), "bias": Slot(norm, "bias")}
        weight, bias = self.value(slots["weight"]), self.value(slots["bias"])
        scale = deviation.reciprocal() if weight is None else weight / deviation
        shift = -mean * scale if bias is None else bias - mean * scale
        # In the inputs' own precision: bf16 in, bf16 out, as the fused layer does.
        y = self.scale_shift(x, scale.to(x.dtype).view(shape), shift.to(x.dtype).view(shape))
        return self.used(y, x, slots, partial(FixedScaleUse, mean=mean, deviation=deviation))

    def scale_shift(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return x * scale + shift."""
        return torch.addcmul(shift, x, scale)

    def normalisation(
        self,
        layer: nn.Module,
        x: Tensor,
        apply: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
        trailing: int | None,
    ) -> Tensor:
        """Return any other normalisation; ``apply`` takes inputs, weight and bias or None."""
        names = [name for name in ("weight", "bias") if hasattr(layer, name)]
        slots = {name: Slot(layer, name) for name in names}
        values = {name: self.value(slot) for name, slot in slots.items()}
        y = apply(x, values.get("weight"), values.get("bias"))
        build = partial(ScaleUse, normalise=lambda t: apply(t, None, None), trailing=trailing)
        return self.used(y, x, slots, build, features=trailing)

    def embedding(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return rows of a table."""
        table = cast("nn.Embedding", layer)
        weight = Slot(table, "weight")
        y = F.embedding(x, _present(self.value(weight)), table.padding_idx)
        build = partial(EmbeddingUse, entries=table.num_embeddings, padding=table.padding_idx)
        return self.used(y, x, {"weight": weight}, build, features=0)

    def used(
        self,
        y: Tensor,
        x: Tensor,
        slots: dict[str, Slot],
        build: Build,
        features: int | None = None,
    ) -> Tensor:
        """Be told of every use.

        Args:
            y: Output.
            x: Inputs.
            slots: What was read, by role.
            build: Makes the :class:`Use`.
            features: Last axes of the inputs that are features, all axes before them being
                positions in any order; None where axis 0 must be the batch and 1 the channels.

        Returns:
            The output, or what is to take its place.
        """
        del x, slots, build, features
        return y


Forward = Callable[..., Any]
"""``(arithmetic, layer, *inputs, **options) -> output``."""


def rule_of(layer: nn.Module) -> Forward | None:
    """Return the forward pass of a layer that has a rule, or None."""
    for base, forward in RULES.items():
        if isinstance(layer, base) and _is_plain(layer, base):
            return forward
    return None


def ruled_slots(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parameters that a layer's rule covers, as modules and names."""
    if rule_of(layer) is None:
        return []
    if isinstance(layer, nn.MultiheadAttention):
        inside = [(layer, name) for name in ATTENTION_PARAMETERS]
        return [*inside, (layer.out_proj, "weight"), (layer.out_proj, "bias")]
    return [(layer, "weight"), (layer, "bias")]


@contextlib.contextmanager
def replaced(
    model: nn.Module, arithmetic: Arithmetic, kinds: tuple[type[nn.Module], ...] = (nn.Module,)
) -> Iterator[None]:
    """Let the layers of a model that have a rule compute by ``arithmetic`` while this lasts.

    Args:
        model: Left as it was.
        arithmetic: What they compute by.
        kinds: Classes of the layers that are replaced.
    """
    changed = []
    fast = torch.backends.mha.get_fastpath_enabled()
    # Transformer layers would otherwise skip their own sublayers in eval mode.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for layer in model.modules():
            forward = rule_of(layer) if isinstance(layer, kinds) else None
            if forward is not None:
                layer.__dict__["forward"] = partial(forward, arithmetic, layer)
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.__dict__["forward"]
        torch.backends.mha.set_fastpath_enabled(fast)


def _is_plain(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a layer computes what its base class does, with parameters of its own."""
    if type(layer).forward is not base.forward or "forward" in layer.__dict__:
        return False
    if parametrize.is_parametrized(layer):
        return False
    if isinstance(layer, nn.modules.conv._ConvNd):
        own = type(layer)._conv_forward
        if own is not base._conv_forward:  # type: ignore[attr-defined]
            return False
    if isinstance(layer, nn.Embedding) and (layer.max_norm or layer.scale_grad_by_freq):
        return False
    if isinstance(layer, nn.MultiheadAttention):
        out = layer.out_proj
        return not parametrize.is_parametrized(out) and "weight" in out._parameters
    return "weight" in layer._parameters


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _linear(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    return arithmetic.linear(input, Slot(layer, "weight"), Slot(layer, "bias"))


def _convolution(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    return arithmetic.convolution(layer, input)


def _batch_norm(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    cast("nn.BatchNorm2d", layer)._check_input_dim(input)
    return arithmetic.batch_norm(layer, input)


def _embedding(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    return arithmetic.embedding(layer, input)


def _group_norm(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    norm = cast("nn.GroupNorm", layer)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)

    return arithmetic.normalisation(norm, input, apply, trailing=None)


def _layer_norm(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    norm = cast("nn.LayerNorm", layer)
    shape = list(norm.normalized_shape)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, shape, weight, bias, norm.eps)

    return arithmetic.normalisation(norm, input, apply, trailing=len(shape))


def _rms_norm(arithmetic: Arithmetic, layer: nn.Module, x: Tensor) -> Tensor:
    norm = cast("nn.RMSNorm", layer)
    shape = list(norm.normalized_shape)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: ARG001
        return F.rms_norm(x, shape, weight, norm.eps)

    return arithmetic.normalisation(norm, x, apply, trailing=len(shape))


def _instance_norm(arithmetic: Arithmetic, layer: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
    norm = cast("nn.InstanceNorm2d", layer)
    own = norm.training or not norm.track_running_stats

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(
            x, norm.running_mean, norm.running_var, weight, bias, own, 0.0, norm.eps
        )

    return arithmetic.normalisation(norm, input, apply, trailing=None)


ATTENTION_PARAMETERS = (
    "in_proj_weight",
    "in_proj_bias",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
)


def _attention(
    arithmetic: Arithmetic,
    layer: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # noqa: ARG001 - a hint; the mask that must come with it decides
) -> tuple[Tensor, Tensor | None]:
    """Compute multi-head attention with its projections as plain linear layers."""
    attention = cast("nn.MultiheadAttention", layer)
    batched, itself = query.dim() == 3, query is key and key is value
    if not batched:
        query, key, value = (t.unsqueeze(0) for t in (query, key, value))
    elif not attention.batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    if itself:
        key = value = query
    q, k, v = _projections(arithmetic, attention, query, key, value)
    mask = _joined_mask(attention, attn_mask, key_padding_mask, q, batched)
    k, v, mask = _with_extra_keys(attention, k, v, mask)
    out, weights = _attend(attention.num_heads, q, k, v, mask)
    projection = attention.out_proj
    out = arithmetic.linear(out, Slot(projection, "weight"), Slot(projection, "bias"))
    if average_attn_weights:
        weights = weights.mean(1)
    if not batched:
        out, weights = out.squeeze(0), weights.squeeze(0)
    elif not attention.batch_first:
        out = out.transpose(0, 1)
    return out, weights if need_weights else None


def _projections(
    arithmetic: Arithmetic, attention: nn.MultiheadAttention, *inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, (B, T, E) each, from one packed product where possible."""
    width = attention.embed_dim
    query, key, value = inputs
    if attention._qkv_same_embed_dim and query is key and key is value:
        whole = (Slot(attention, "in_proj_weight"), Slot(attention, "in_proj_bias"))
        q, k, v = arithmetic.linear(query, *whole).chunk(3, dim=-1)
        return q, k, v
    projected = []
    for i, (name, x) in enumerate(zip("qkv", inputs, strict=True)):
        rows = slice(i * width, (i + 1) * width)
        weight = Slot(attention, f"{name}_proj_weight")
        if attention._qkv_same_embed_dim:
            weight = Slot(attention, "in_proj_weight", rows)
        projected.append(arithmetic.linear(x, weight, Slot(attention, "in_proj_bias", rows)))
    q, k, v = projected
    return q, k, v


def _joined_mask(
    attention: nn.MultiheadAttention,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    query: Tensor,
    batched: bool,
) -> Tensor | None:
    """Return what is added to the attention scores, broadcasting to (B, heads, T, S), or None."""
    masks = []
    if attn_mask is not None:
        added = _added(attn_mask, query)
        if added.dim() == 3:
            added = added.unflatten(0, (len(query), attention.num_heads))
        masks.append(added)
    if key_padding_mask is not None:
        added = _added(key_padding_mask, query)
        masks.append((added if batched else added[None])[:, None, None, :])
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add: a true entry forbids."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


def _with_extra_keys(
    attention: nn.MultiheadAttention, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Append the learnt key and value and the zero ones, which every query may attend to."""
    more = 0
    if attention.bias_k is not None and attention.bias_v is not None:
        k = torch.cat([k, attention.bias_k.to(k.dtype).expand(len(k), -1, -1)], 1)
        v = torch.cat([v, attention.bias_v.to(v.dtype).expand(len(v), -1, -1)], 1)
        more += 1
    if attention.add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        more += 1
    return k, v, mask if mask is None else F.pad(mask, (0, more))


def _attend(
    heads: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the attended values (B, T, E) and the weights (B, heads, T, S)."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2), weights


def _padding(conv: nn.Conv2d) -> list[tuple[int, int]]:
    """Return how much a convolution adds before and behind each spatial axis."""
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    if not isinstance(conv.padding, str):
        return [(each, each) for each in conv.padding]
    spans = zip(conv.dilation, conv.kernel_size, strict=True)
    totals = [gap * (size - 1) for gap, size in spans]
    return [(total // 2, total - total // 2) for total in totals]


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the running mean and standard deviation, (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, (norm.running_var + norm.eps).sqrt()


RULES: dict[type[nn.Module], Forward] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.InstanceNorm3d: _instance_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention,
}
"""Layers with a rule; a subclass counts if it leaves ``forward`` as it is."""
