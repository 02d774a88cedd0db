"""Forward-mode derivatives of the layers that take most of the time, with fewer passes over memory.

torch's own rules form the two parts of a product rule separately and add them into a third tensor;
these add the second part in place.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from raydrop.scores.layers import Arithmetic, Slot


class ForwardMode(Arithmetic):
    """Computes convolutions and eval-mode BatchNorm so that tangents are cheap."""

    def convolution(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return what a convolution gives."""
        conv = cast("nn.Conv2d", layer)
        weight, bias = self.value(Slot(conv, "weight")), self.value(Slot(conv, "bias"))
        return cast(Tensor, _Convolution.apply(x, weight, bias, conv))  # type: ignore[no-untyped-call]

    def embedding(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return rows of a table, the padding without a tangent, as it has no gradient."""
        y = super().embedding(layer, x)
        padding = cast("nn.Embedding", layer).padding_idx
        return y if padding is None else torch.where((x == padding)[..., None], y.detach(), y)

    def scale_shift(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return x * scale + shift."""
        return cast(Tensor, _ScaleShift.apply(x, scale, shift))  # type: ignore[no-untyped-call]


class _Convolution(torch.autograd.Function):
    """conv(x, w) + b; its tangent is conv(x, w') + b' + conv(x', w)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
        return cast(Tensor, conv._conv_forward(x, weight, bias))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, _, ctx.conv = inputs
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(
        ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, _: None
    ) -> Tensor:
        conv = cast("nn.Conv2d", ctx.conv)
        x, weight = ctx.saved_tensors
        if weight_t is None:
            # A frozen weight: only the bias or what came before has a tangent.
            moved = torch.zeros_like(x) if x_t is None else x_t
            return cast(Tensor, conv._conv_forward(moved, weight, bias_t))
        tangent = cast(Tensor, conv._conv_forward(x, weight_t, bias_t))
        return tangent if x_t is None else tangent.add_(conv._conv_forward(x_t, weight, None))


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
