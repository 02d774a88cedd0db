"""The operations that have a rule, seen where a layer calls them.

While a model is :func:`intercepted`, what its layers call of :data:`OPERATIONS` is handed to a
function as a :class:`Call`, which says how to compute it, and by which rule its parameters'
gradients follow. Which operation read which parameter decides, not the class of a layer: a layer
that first scales its weight has no rule, because what the operation then reads is no parameter.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raydrop.scores.gradients.rules import (
    ConvUse,
    EmbeddingUse,
    FixedScaleUse,
    LinearUse,
    ScaleUse,
    Use,
)

Compute = Callable[[Tensor, "Tensor | None", "Tensor | None"], Tensor]
"""From inputs, weight and bias to outputs, everything else about an operation being fixed."""


class Slot(NamedTuple):
    """A tensor that an operation reads, or some of its rows; absent where it reads none."""

    parameter: Tensor | None = None
    rows: slice | None = None

    def read(self, value: Tensor) -> Tensor:
        """Return these rows of the parameter's value, or of anything of its shape."""
        return value if self.rows is None else value[self.rows]

    @property
    def value(self) -> Tensor | None:
        """What the operation reads."""
        return None if self.parameter is None else self.read(self.parameter)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation with a rule."""

    inputs: Tensor
    weight: Slot
    bias: Slot
    compute: Compute
    """What torch computes."""
    use: Callable[[Tensor, int], Use]
    """The rule: from inputs, rows of the batch dimension first, and the number of samples."""
    features: int | None = None
    """Last axes of the inputs that are features, all axes before them being positions in any order;
    None where axis 0 must be the batch and 1 the channels."""
    tangents: Compute | None = None
    """The same with fewer passes over memory in forward mode, or as gradients have it."""


Perform = Callable[[Call], Tensor]


def plainly(call: Call) -> Tensor:
    """Compute as torch does."""
    return call.compute(call.inputs, call.weight.value, call.bias.value)


def with_tangents(call: Call) -> Tensor:
    """Compute so that forward mode is cheap."""
    return (call.tangents or call.compute)(call.inputs, call.weight.value, call.bias.value)


@contextlib.contextmanager
def intercepted(
    model: nn.Module, perform: Perform, kinds: tuple[type[nn.Module], ...] = (nn.Module,)
) -> Iterator[None]:
    """Let ``perform`` compute the operations in a model's layers of some kinds while this lasts."""
    changed: list[tuple[nn.Module, Any]] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    # Transformer layers would otherwise skip their own sublayers in eval mode.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for layer in model.modules():
            compiled = isinstance(layer, torch.jit.ScriptModule)
            if layer._parameters and isinstance(layer, kinds) and not compiled:
                changed.append((layer, layer.__dict__.get("forward")))
                layer.__dict__["forward"] = partial(_watched, perform, layer.forward)
        yield
    finally:
        for layer, own in changed:
            del layer.__dict__["forward"]
            if own is not None:
                layer.__dict__["forward"] = own
        torch.backends.mha.set_fastpath_enabled(fast)


def _watched(perform: Perform, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _Calls(perform):
        return forward(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Hands the calls of operations that have a rule to a function."""

    def __init__(self, perform: Perform) -> None:
        super().__init__()
        self._perform = perform

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operation, kwargs = OPERATIONS.get(function), kwargs or {}
        # A subclass of tensors may give a function another meaning.
        if operation is None or not PLAIN_TENSORS.issuperset(types):
            return function(*args, **kwargs)
        names = operation.parameters
        known = {**names, **dict(zip(names, args, strict=False)), **kwargs}
        too_many = max(len(known), len(args)) > len(names)
        if too_many or any(each is NO_DEFAULT for each in known.values()):
            return function(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # layers around this one watch too
            result = operation.perform(self._perform, function, SimpleNamespace(**known))
            return function(*args, **kwargs) if result is NotImplemented else result


PLAIN_TENSORS = frozenset((Tensor, nn.Parameter))


class Operation(NamedTuple):
    """How the calls of a function of torch are seen."""

    perform: Callable[[Perform, Callable[..., Any], SimpleNamespace], Any]
    """From what performs it, the function and its arguments by name to its result;
    NotImplemented where such a call has no rule, so that torch computes it."""
    parameters: dict[str, Any]
    """Names of all its parameters, in their order, with their defaults."""


def _linear(perform: Perform, _: Any, call: SimpleNamespace) -> Any:
    if call.weight.dim() != 2:  # torch takes a vector too, for one output without an axis
        return NotImplemented
    return perform(_linear_call(call.input, Slot(call.weight), Slot(call.bias)))


def _linear_call(x: Tensor, weight: Slot, bias: Slot) -> Call:
    return Call(x, weight, bias, cast(Compute, F.linear), LinearUse, features=1)


def _convolution(perform: Perform, function: Callable[..., Tensor], call: SimpleNamespace) -> Any:
    kernel = tuple(call.weight.shape[2:])
    gaps = _each(call.dilation, kernel)
    use = partial(
        ConvUse,
        padding=_padding(call.padding, kernel, gaps),
        kernel=kernel,
        stride=_each(call.stride, kernel),
        dilation=gaps,
        groups=call.groups,
    )

    def compute(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return function(x, weight, bias, call.stride, call.padding, call.dilation, call.groups)

    def tangents(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return cast(Tensor, _Convolution.apply(x, weight, bias, compute))  # type: ignore[no-untyped-call]

    slots = Slot(call.weight), Slot(call.bias)
    return perform(Call(call.input, *slots, compute, use, tangents=tangents))


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


def _batch_norm(perform: Perform, _: Any, call: SimpleNamespace) -> Any:
    """In eval mode one scaling and one shift per channel; in train mode as torch has it."""
    mean, variance = call.running_mean, call.running_var
    if call.training or mean is None or variance is None:
        return NotImplemented
    deviation = (variance + call.eps).sqrt()

    def scaled(
        scale_shift: Callable[..., Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        shape = (1, -1, *(1,) * (x.dim() - 2))
        scale = deviation.reciprocal() if weight is None else weight / deviation
        shift = -mean * scale if bias is None else bias - mean * scale
        # In the inputs' own precision: bf16 in, bf16 out, as the fused layer does.
        return scale_shift(x, scale.to(x.dtype).view(shape), shift.to(x.dtype).view(shape))

    plain = partial(scaled, lambda x, scale, shift: torch.addcmul(shift, x, scale))
    use = partial(FixedScaleUse, mean=mean, deviation=deviation)
    slots, tangents = (Slot(call.weight), Slot(call.bias)), partial(scaled, _ScaleShift.apply)
    return perform(Call(call.input, *slots, plain, use, tangents=tangents))


def _normalisation(perform: Perform, function: Callable[..., Tensor], call: SimpleNamespace) -> Any:
    others = vars(call)
    x, weight = others.pop("input"), Slot(others.pop("weight"))
    with_bias = "bias" in others
    bias = Slot(others.pop("bias", None))
    shape = tuple(others["normalized_shape"]) if "normalized_shape" in others else None

    def compute(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return function(x, weight=weight, **({"bias": bias} if with_bias else {}), **others)

    return perform(_scale_call(x, weight, bias, compute, shape))


def _scale_call(
    x: Tensor, weight: Slot, bias: Slot, compute: Compute, shape: tuple[int, ...] | None
) -> Call:
    """Return a call of what scales what it makes of its inputs; shape is that of the rule."""
    use = partial(ScaleUse, normalise=lambda inputs: compute(inputs, None, None), shape=shape)
    return Call(x, weight, bias, compute, use, None if shape is None else len(shape))


def _product(perform: Perform, _: Any, call: SimpleNamespace) -> Any:
    """Multiply; a parameter that scales the last axes, as a layer's scale does, has a rule."""
    first, second = call.first, call.second
    x, scale = (second, first) if isinstance(first, nn.Parameter) else (first, second)
    if not _scales(scale, x):
        return NotImplemented

    def compute(x: Tensor, weight: Tensor | None, _: Tensor | None) -> Tensor:
        return x if weight is None else x * weight

    return perform(_scale_call(x, Slot(scale), Slot(), compute, tuple(scale.shape)))


def _scales(scale: Any, x: Any) -> bool:
    """Whether a parameter has the shape of the last axes of a tensor with more, or 1 there."""
    if not isinstance(scale, nn.Parameter) or not isinstance(x, Tensor) or scale.dim() == 0:
        return False
    if x.dtype != scale.dtype or isinstance(x, nn.Parameter) or x.dim() <= scale.dim():
        return False
    sizes = zip(scale.shape, x.shape[x.dim() - scale.dim() :], strict=True)
    return all(size in (1, there) for size, there in sizes)


def _embedding(perform: Perform, _: Any, call: SimpleNamespace) -> Any:
    if call.max_norm is not None or call.scale_grad_by_freq:
        return NotImplemented
    padding, entries = call.padding_idx, len(call.weight)
    row = None if padding is None else padding % entries

    def compute(x: Tensor, table: Tensor | None, _: Tensor | None) -> Tensor:
        return F.embedding(x, cast(Tensor, table), padding)

    def tangents(x: Tensor, table: Tensor | None, bias: Tensor | None) -> Tensor:
        y = compute(x, table, bias)  # the padding has no gradient, so it gets no tangent
        return y if row is None else torch.where((x == row)[..., None], y.detach(), y)

    use = partial(EmbeddingUse, entries=entries, padding=row)
    return perform(Call(call.input, Slot(call.weight), Slot(), compute, use, 0, tangents))


def _attention(perform: Perform, _: Any, call: SimpleNamespace) -> Any:
    """Compute multi-head attention with its projections as plain linear layers."""
    by_chance = call.training and call.dropout_p > 0
    # A causal attention without its mask is an error, and torch says so.
    unmasked = call.is_causal and call.attn_mask is None
    further = call.static_k, call.static_v, call.bias_k, call.bias_v
    if by_chance or unmasked or call.add_zero_attn or any(key is not None for key in further):
        return NotImplemented
    batched, inputs = call.query.dim() == 3, (call.query, call.key, call.value)
    itself = call.query is call.key and call.key is call.value
    inputs = tuple(t.transpose(0, 1) if batched else t.unsqueeze(0) for t in inputs)
    q, k, v = _projections(perform, call, *inputs[: 1 if itself else 3])
    mask = _joined_mask(call, q, batched)
    out, weights = _attend(call.num_heads, q, k, v, mask)
    out = perform(_linear_call(out, Slot(call.out_proj_weight), Slot(call.out_proj_bias)))
    if call.average_attn_weights:
        weights = weights.mean(1)
    out = out.transpose(0, 1) if batched else out.squeeze(0)
    return out, (weights if batched else weights.squeeze(0)) if call.need_weights else None


def _projections(
    perform: Perform, call: SimpleNamespace, query: Tensor, *others: Tensor
) -> list[Tensor]:
    """Return queries, keys and values, (B, T, E) each, from one packed product where possible."""
    packed, width = not call.use_separate_proj_weight, call.embed_dim_to_check
    if packed and not others:
        slots = Slot(call.in_proj_weight), Slot(call.in_proj_bias)
        return list(perform(_linear_call(query, *slots)).chunk(3, dim=-1))
    own = call.q_proj_weight, call.k_proj_weight, call.v_proj_weight
    projected = []
    for i, x in enumerate((query, *(others or (query, query)))):
        rows = slice(i * width, (i + 1) * width)
        weight = Slot(call.in_proj_weight, rows) if packed else Slot(own[i])
        projected.append(perform(_linear_call(x, weight, Slot(call.in_proj_bias, rows))))
    return projected


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


def _attend(
    heads: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the attended values (B, T, E) and the weights (B, heads, T, S)."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2), weights


def _python(perform: Callable[..., Any], function: Any) -> Operation:
    """Return an operation with the parameters of a function that is written in Python."""
    parameters = inspect.signature(function).parameters
    return Operation(perform, {name: each.default for name, each in parameters.items()})


NO_DEFAULT = inspect.Parameter.empty
_FIRST = {"input": NO_DEFAULT, "weight": NO_DEFAULT, "bias": None}
_GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NORMS: tuple[Any, ...] = (F.group_norm, F.layer_norm, F.rms_norm, F.instance_norm)
# Called by their names in torch, the factors are unknown, and torch computes it.
_FACTORS = {"first": NO_DEFAULT, "second": NO_DEFAULT}

OPERATIONS: dict[Any, Operation] = {
    F.linear: Operation(_linear, _FIRST),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), Operation(_convolution, _FIRST | _GEOMETRY)),
    **{norm: _python(_normalisation, norm) for norm in _NORMS},
    F.batch_norm: _python(_batch_norm, F.batch_norm),
    F.embedding: _python(_embedding, F.embedding),
    F.multi_head_attention_forward: _python(_attention, F.multi_head_attention_forward),
    **dict.fromkeys((torch.mul, Tensor.mul), Operation(_product, _FACTORS)),
}
"""Functions of torch with a rule."""


# torch's own rules form the two parts of a product rule separately and add them into a third
# tensor; these add the second part in place.


class _Convolution(torch.autograd.Function):
    """conv(x, w) + b; its tangent is conv(x, w') + b' + conv(x', w)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, convolve: Compute) -> Tensor:
        return convolve(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, _, ctx.convolve = inputs
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(
        ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, _: None
    ) -> Tensor:
        convolve = cast(Compute, ctx.convolve)
        x, weight = ctx.saved_tensors
        if weight_t is None:
            # A frozen weight: only the bias or what came before has a tangent.
            moved = torch.zeros_like(x) if x_t is None else x_t
            return convolve(moved, weight, bias_t)
        tangent = convolve(x, weight_t, bias_t)
        return tangent if x_t is None else tangent.add_(convolve(x_t, weight, None))


class _ScaleShift(torch.autograd.Function):
    """x s + t; its tangent is x s' + t' + x' s."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return torch.addcmul(shift, x, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(
        ctx: Any, x_t: Tensor | None, scale_t: Tensor | None, shift_t: Tensor | None
    ) -> Tensor | None:
        x, scale = ctx.saved_tensors
        if scale_t is None and shift_t is None:
            return None if x_t is None else x_t * scale
        zero = torch.zeros_like(scale)
        tangent = torch.addcmul(
            zero if shift_t is None else shift_t, x, zero if scale_t is None else scale_t
        )
        return tangent if x_t is None else torch.addcmul(tangent, x_t, scale)
