"""Forward-mode derivatives of the layers that take most of the time, with fewer passes over memory.

torch's own rules form the two parts of a product rule separately and add them into a third tensor;
these add the second part in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from raydrop.scores.gradients.layers import Arithmetic, Convolve, Slot


class ForwardMode(Arithmetic):
    """Computes convolutions and eval-mode BatchNorm so that tangents are cheap."""

    def convolution(
        self,
        x: Tensor,
        weight: Slot,
        bias: Slot,
        convolve: Convolve,
        geometry: Mapping[str, Any],  # noqa: ARG002
    ) -> Tensor:
        """Return what a convolution gives."""
        values = self.value(weight), self.value(bias)
        return cast(Tensor, _Convolution.apply(x, *values, convolve))  # type: ignore[no-untyped-call]

    def embedding(self, x: Tensor, weight: Slot, padding: int | None) -> Tensor:
        """Return rows of a table, the padding without a tangent, as it has no gradient."""
        y = super().embedding(x, weight, padding)
        if padding is None:
            return y
        assert weight.parameter is not None
        return torch.where((x == padding % len(weight.parameter))[..., None], y.detach(), y)

    def scale_shift(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return x * scale + shift."""
        return cast(Tensor, _ScaleShift.apply(x, scale, shift))  # type: ignore[no-untyped-call]


class _Convolution(torch.autograd.Function):
    """conv(x, w) + b; its tangent is conv(x, w') + b' + conv(x', w)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, convolve: Convolve) -> Tensor:
        return convolve(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, _, ctx.convolve = inputs
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(
        ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, _: None
    ) -> Tensor:
        convolve = cast(Convolve, ctx.convolve)
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
