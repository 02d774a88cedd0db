"""The operations that have a rule, seen where a layer calls them.

While a model is :func:`replaced`, every layer that holds parameters runs its own ``forward``, and
the operations of torch in it that have a rule go through an :class:`Arithmetic`. The plain one
computes what torch computes; others record what a parameter was used for, or carry tangents along.
Which operation read which parameter decides, not the class of a layer: a subclass whose forward
pass calls the same operation on its own parameter has the same rule, and one that first scales its
weight has none, because what the operation then reads is no parameter.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from raydrop.scores.gradients.rules import (
    ConvUse,
    EmbeddingUse,
    FixedScaleUse,
    LinearUse,
    ScaleUse,
    Use,
)

Build = Callable[[Tensor, int], Use]
"""From inputs, rows of the batch dimension first, and the number of samples to a use."""
Convolve = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""From inputs, weight and bias to outputs, everything else about a convolution being fixed."""


@dataclass(frozen=True)
class Slot:
    """A tensor that an operation reads, or some of its rows; absent where it reads none."""

    parameter: Tensor | None
    rows: slice | None = None

    def read(self, value: Tensor) -> Tensor:
        """Return these rows of the parameter's value, or of anything of its shape."""
        return value if self.rows is None else value[self.rows]


NOTHING = Slot(None)


class Arithmetic:
    """What operations with a rule compute."""

    def value(self, slot: Slot) -> Tensor | None:
        """Return the value to compute with."""
        return None if slot.parameter is None else slot.read(slot.parameter)

    def linear(self, x: Tensor, weight: Slot, bias: Slot) -> Tensor:
        """Return W x + b over the last axis."""
        y = F.linear(x, _present(self.value(weight)), self.value(bias))
        return self.used(y, x, {"weight": weight, "bias": bias}, LinearUse, features=1)

    def convolution(
        self,
        x: Tensor,
        weight: Slot,
        bias: Slot,
        convolve: Convolve,
        geometry: Mapping[str, Any],
    ) -> Tensor:
        """Return what ``convolve`` gives; the geometry is that of :class:`ConvUse`."""
        y = convolve(x, _present(self.value(weight)), self.value(bias))
        return self.used(y, x, {"weight": weight, "bias": bias}, partial(ConvUse, **geometry))

    def batch_norm(
        self, x: Tensor, weight: Slot, bias: Slot, mean: Tensor, deviation: Tensor
    ) -> Tensor:
        """Return eval-mode BatchNorm as one scaling and one shift per channel."""
        shape = (1, -1, *(1,) * (x.dim() - 2))
        scale, shift = self.value(weight), self.value(bias)
        scale = deviation.reciprocal() if scale is None else scale / deviation
        shift = -mean * scale if shift is None else shift - mean * scale
        # In the inputs' own precision: bf16 in, bf16 out, as the fused layer does.
        y = self.scale_shift(x, scale.to(x.dtype).view(shape), shift.to(x.dtype).view(shape))
        build = partial(FixedScaleUse, mean=mean, deviation=deviation)
        return self.used(y, x, {"weight": weight, "bias": bias}, build)

    def scale_shift(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return x * scale + shift."""
        return torch.addcmul(shift, x, scale)

    def normalisation(
        self,
        x: Tensor,
        weight: Slot,
        bias: Slot,
        apply: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
        shape: tuple[int, ...] | None,
    ) -> Tensor:
        """Return any other scaling; ``apply`` takes inputs, weight and bias or None.

        ``shape`` is that of :class:`ScaleUse`.
        """
        y = apply(x, self.value(weight), self.value(bias))
        build = partial(ScaleUse, normalise=lambda t: apply(t, None, None), shape=shape)
        features = None if shape is None else len(shape)
        return self.used(y, x, {"weight": weight, "bias": bias}, build, features)

    def embedding(self, x: Tensor, weight: Slot, padding: int | None) -> Tensor:
        """Return rows of a table."""
        table = _present(self.value(weight))
        y = F.embedding(x, table, padding)
        if padding is not None:
            padding %= len(table)
        build = partial(EmbeddingUse, entries=len(table), padding=padding)
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


def ruled_slots(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parameters that have a rule as the class of a layer tells, as modules and names.

    What a layer's own forward pass calls is seen only when it runs; see :class:`Arithmetic`.
    """
    base = next((each for each in PLAIN if isinstance(layer, each)), None)
    if base is None or not _is_plain(layer, base):
        return []
    if isinstance(layer, nn.MultiheadAttention):
        inside = [(layer, name) for name in ATTENTION_PARAMETERS]
        return [*inside, (layer.out_proj, "weight"), (layer.out_proj, "bias")]
    return [(layer, "weight"), (layer, "bias")]


@contextlib.contextmanager
def replaced(
    model: nn.Module, arithmetic: Arithmetic, kinds: tuple[type[nn.Module], ...] = (nn.Module,)
) -> Iterator[None]:
    """Let the operations in the layers of a model go through ``arithmetic`` while this lasts.

    Args:
        model: Left as it was.
        arithmetic: What they compute by.
        kinds: Classes of the layers in which they do.
    """
    changed: list[tuple[nn.Module, Any]] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    # Transformer layers would otherwise skip their own sublayers in eval mode.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for layer in model.modules():
            compiled = isinstance(layer, torch.jit.ScriptModule)
            if layer._parameters and isinstance(layer, kinds) and not compiled:
                changed.append((layer, layer.__dict__.get("forward")))
                layer.__dict__["forward"] = partial(_watched, arithmetic, layer.forward)
        yield
    finally:
        for layer, own in changed:
            del layer.__dict__["forward"]
            if own is not None:
                layer.__dict__["forward"] = own
        torch.backends.mha.set_fastpath_enabled(fast)


def _watched(arithmetic: Arithmetic, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _Calls(arithmetic):
        return forward(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Hands the calls of functions that have a rule to an arithmetic."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self._arithmetic = arithmetic

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        rule = FUNCTIONS.get(function)
        # A subclass of tensors may give a function another meaning.
        if rule is None or not PLAIN_TENSORS.issuperset(types):
            return function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():  # layers around this one watch too
            return rule(self._arithmetic, *args, **(kwargs or {}))


PLAIN_TENSORS = frozenset((Tensor, nn.Parameter))


def _is_plain(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a layer computes what its base class does, with parameters of its own."""
    own = [n for n in HELPERS if getattr(type(layer), n, None) is not getattr(base, n, None)]
    if own or not HELPERS.isdisjoint(layer.__dict__) or parametrize.is_parametrized(layer):
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


# Each rule takes an arithmetic and what its function takes.


def _linear(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    if weight.dim() != 2:  # torch takes a vector too, for one output without an axis
        return F.linear(input, weight, bias)
    return arithmetic.linear(input, Slot(weight), Slot(bias))


def _convolution(
    function: Callable[..., Tensor],
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    kernel = tuple(weight.shape[2:])
    steps, gaps = _each(stride, kernel), _each(dilation, kernel)
    geometry = {
        "padding": _padding(padding, kernel, gaps),
        "kernel": kernel,
        "stride": steps,
        "dilation": gaps,
        "groups": groups,
    }

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(x, weight, bias, stride, padding, dilation, groups)

    return arithmetic.convolution(input, Slot(weight), Slot(bias), convolve, geometry)


def _each(value: int | tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * len(axes) if len(values) == 1 else values


def _padding(
    padding: str | int | tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Return how much a convolution adds before and behind each spatial axis."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if not isinstance(padding, str):
        return [(each, each) for each in _each(padding, kernel)]
    totals = [gap * (size - 1) for gap, size in zip(dilation, kernel, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _batch_norm(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    deviation = (running_var + eps).sqrt()
    return arithmetic.batch_norm(input, Slot(weight), Slot(bias), running_mean, deviation)


def _embedding(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq:
        options = padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        return F.embedding(input, weight, *options)
    return arithmetic.embedding(input, Slot(weight), padding_idx)


def _group_norm(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(x, num_groups, weight, bias, eps)

    return arithmetic.normalisation(input, Slot(weight), Slot(bias), apply, shape=None)


def _layer_norm(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = list(normalized_shape)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, shape, weight, bias, eps)

    return arithmetic.normalisation(input, Slot(weight), Slot(bias), apply, tuple(shape))


def _rms_norm(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    shape = list(normalized_shape)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: ARG001
        return F.rms_norm(x, shape, weight, eps)

    return arithmetic.normalisation(input, Slot(weight), NOTHING, apply, tuple(shape))


def _instance_norm(
    arithmetic: Arithmetic,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(
            x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )

    return arithmetic.normalisation(input, Slot(weight), Slot(bias), apply, shape=None)


def _product(arithmetic: Arithmetic, *factors: Any, **others: Any) -> Any:
    """Multiply; a parameter that scales the last axes, as a layer's scale does, has a rule."""
    if others or len(factors) != 2:
        return torch.mul(*factors, **others)
    x, scale = reversed(factors) if isinstance(factors[0], nn.Parameter) else factors
    if not _scales(scale, x):
        return torch.mul(*factors)

    def apply(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:  # noqa: ARG001
        return x if weight is None else x * weight

    return arithmetic.normalisation(x, Slot(scale), NOTHING, apply, tuple(scale.shape))


def _scales(scale: Any, x: Any) -> bool:
    """Whether a parameter has the shape of the last axes of a tensor with more, or 1 there."""
    if not isinstance(scale, nn.Parameter) or not isinstance(x, Tensor) or scale.dim() == 0:
        return False
    if x.dtype != scale.dtype or isinstance(x, nn.Parameter) or x.dim() <= scale.dim():
        return False
    sizes = zip(scale.shape, x.shape[x.dim() - scale.dim() :], strict=True)
    return all(size in (1, there) for size, there in sizes)


ATTENTION_PARAMETERS = (
    "in_proj_weight",
    "in_proj_bias",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
)
ATTENTION = inspect.signature(F.multi_head_attention_forward)


def _attention(arithmetic: Arithmetic, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Compute multi-head attention with its projections as plain linear layers."""
    bound = ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    call = SimpleNamespace(**bound.arguments)
    by_chance = call.training and call.dropout_p > 0
    # A causal attention without its mask is an error, and torch says so.
    unmasked = call.is_causal and call.attn_mask is None
    if by_chance or unmasked or call.static_k is not None or call.static_v is not None:
        return F.multi_head_attention_forward(*args, **kwargs)
    batched, inputs = call.query.dim() == 3, (call.query, call.key, call.value)
    itself = call.query is call.key and call.key is call.value
    inputs = tuple(t.transpose(0, 1) if batched else t.unsqueeze(0) for t in inputs)
    q, k, v = _projections(arithmetic, call, *inputs[: 1 if itself else 3])
    mask = _joined_mask(call, q, batched)
    k, v, mask = _with_extra_keys(call, k, v, mask)
    out, weights = _attend(call.num_heads, q, k, v, mask)
    out = arithmetic.linear(out, Slot(call.out_proj_weight), Slot(call.out_proj_bias))
    if call.average_attn_weights:
        weights = weights.mean(1)
    out = out.transpose(0, 1) if batched else out.squeeze(0)
    return out, (weights if batched else weights.squeeze(0)) if call.need_weights else None


def _projections(
    arithmetic: Arithmetic, call: SimpleNamespace, query: Tensor, *others: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, (B, T, E) each, from one packed product where possible."""
    packed, width = not call.use_separate_proj_weight, call.embed_dim_to_check
    if packed and not others:
        whole = arithmetic.linear(query, Slot(call.in_proj_weight), Slot(call.in_proj_bias))
        q, k, v = whole.chunk(3, dim=-1)
        return q, k, v
    own = call.q_proj_weight, call.k_proj_weight, call.v_proj_weight
    projected = []
    for i, x in enumerate((query, *(others or (query, query)))):
        rows = slice(i * width, (i + 1) * width)
        weight = Slot(call.in_proj_weight, rows) if packed else Slot(own[i])
        projected.append(arithmetic.linear(x, weight, Slot(call.in_proj_bias, rows)))
    q, k, v = projected
    return q, k, v


def _joined_mask(call: SimpleNamespace, query: Tensor, batched: bool) -> Tensor | None:
    """Return what is added to the attention scores, broadcasting to (B, heads, T, S), or None."""
    masks = []
    if call.attn_mask is not None:
        added = _added(call.attn_mask, query)
        if added.dim() == 3:
            added = added.unflatten(0, (len(query), call.num_heads))
        masks.append(added)
    if call.key_padding_mask is not None:
        added = _added(call.key_padding_mask, query)
        masks.append((added if batched else added[None])[:, None, None, :])
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add: a true entry forbids."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


def _with_extra_keys(
    call: SimpleNamespace, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Append the learnt key and value and the zero ones, which every query may attend to."""
    more = 0
    if call.bias_k is not None and call.bias_v is not None:
        k = torch.cat([k, call.bias_k.to(k.dtype).expand(len(k), -1, -1)], 1)
        v = torch.cat([v, call.bias_v.to(v.dtype).expand(len(v), -1, -1)], 1)
        more += 1
    if call.add_zero_attn:
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


FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: partial(_convolution, F.conv1d),
    F.conv2d: partial(_convolution, F.conv2d),
    F.conv3d: partial(_convolution, F.conv3d),
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.instance_norm: _instance_norm,
    F.embedding: _embedding,
    F.multi_head_attention_forward: _attention,
    torch.mul: _product,
    Tensor.mul: _product,
}
"""Functions of torch with a rule."""

PLAIN: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.Embedding,
    nn.MultiheadAttention,
)
"""Layers whose own forward pass is known to call one of them."""

HELPERS = frozenset(("forward", "_conv_forward", "_apply_instance_norm"))
"""Methods that make up that forward pass; a subclass counts if it leaves them as they are."""
