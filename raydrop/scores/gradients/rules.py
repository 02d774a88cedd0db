"""Per-sample gradients of one use of one layer, from its inputs and the gradient at its output.

A sample's weight gradient is a sum over positions t (tokens, pixels; T of them) of products of an
input x_t and an output gradient d_t. Two exact ways lead to its squared norm:

* form every sample's gradient, a few samples at a time, reduce it, and let it go: T I O
  multiplications for I inputs and O outputs;
* the Gram form, || sum_t d_t x_t' ||^2 = sum_{s,t} <x_s, x_t> <d_s, d_t>, in about T^2 (I + O). Its
  terms cancel (inputs after a ReLU are all positive, output gradients sum to nearly zero), so all
  of it is in float64 (Goodfellow 2015, arXiv 1510.01799, for T = 1).

The cheaper of the two is taken. Shapes: B samples, each with k consecutive rows of the layer's
batch dimension (k is 1 unless a model folds windows or time into it), C channels, ``slot`` for the
shape of what is read of a parameter. Sums of squares and products are float64, (B,).
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Role = Literal["weight", "bias"]

WORKSPACE_BYTES = {"cpu": 2**21, "cuda": 2**28}
"""What forming per-sample gradients may hold at once: a processor's cache, or enough for a GPU."""
COPY_COST = 40
"""Multiplications that take as long as one addition of numbers out of order, as measured on a CPU
for the shifted sums of :meth:`ConvUse._sum_over_taps`."""
FAST_FLOAT64 = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
"""Compute capabilities of the GPUs whose float64 runs at half the float32 rate; others are at 1/32
or below (NVIDIA's CUDA C++ programming guide, arithmetic throughput)."""
SINGLE_POSITIONS = 512
"""Output positions from which on a CPU forms one sample's convolution gradient at a time."""
TAP_CHANNELS = 32
"""Channels from which on one tap of a convolution's kernel is worth a matrix product of its own."""


@dataclass(eq=False)
class Use(ABC):
    """One call of a layer."""

    inputs: Tensor
    """Rows of the batch dimension first, (B k, ...)."""
    samples: int
    """B."""

    @property
    def rows(self) -> int:
        """Rows of the batch dimension that belong to one sample, k."""
        return len(self.inputs) // self.samples

    def per_sample(self, role: Role, delta: Tensor, first: int, last: int) -> Tensor:
        """Return the gradients of some samples, (last - first, *slot), from those at the output."""
        part = slice(first * self.rows, last * self.rows)
        inputs, gradient = self.inputs[part], _full(delta[part])
        form = self._weight if role == "weight" else self._bias
        formed = form(inputs, gradient)
        return formed if self.rows == 1 else formed.unflatten(0, (-1, self.rows)).sum(1)

    def square_and_dot(
        self, role: Role, delta: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return both, (B,), forming each gradient once; no products without a direction."""
        squares, dots = [], []
        for first, last in self._chunks(role, delta):
            formed = self.per_sample(role, delta, first, last).flatten(1)
            squares.append(_sum_of_products(formed, formed))
            if direction is not None:
                dots.append(_products_with(formed, direction))
        return torch.cat(squares), torch.cat(dots) if dots else None

    @abstractmethod
    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """Return the weight gradient of every row, (rows, *slot)."""

    def _bias(self, inputs: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002
        """Return the bias gradient of every row, (rows, *slot); one per channel where not said."""
        return delta.flatten(2).sum(2) if delta.dim() > 2 else delta

    def _row_numbers(self, delta: Tensor) -> int:
        """Return how many numbers forming one row's weight gradient takes."""
        return self.inputs[0].numel() + delta[0].numel()

    def _chunks(self, role: Role, delta: Tensor) -> Iterator[tuple[int, int]]:
        step = self.samples
        if role == "weight":
            taken = 4 * self.rows * self._row_numbers(delta)
            step = max(1, _workspace(delta) // max(1, taken))
        for first in range(0, self.samples, step):
            yield first, min(first + step, self.samples)


class LinearUse(Use):
    """y_t = W x_t + b: inputs (B k, T, I), output gradients (B k, T, O)."""

    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        return delta.transpose(1, 2) @ _full(inputs)

    def _bias(self, inputs: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002
        return delta.sum(1)

    def _row_numbers(self, delta: Tensor) -> int:
        wide, narrow = self.inputs.shape[2], delta.shape[2]
        return wide * narrow + delta.shape[1] * (wide + narrow)

    def square_and_dot(
        self, role: Role, delta: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Use`."""
        rows, positions, wide = self.inputs.shape
        narrow = delta.shape[2]
        positions *= rows // self.samples
        gram = _gram_penalty(delta) * positions**2 * (wide + narrow)
        if role == "bias" or (positions > 1 and gram >= positions * wide * narrow):
            return super().square_and_dot(role, delta, direction)
        inputs = _full(self.inputs).reshape(self.samples, positions, wide)
        gradient = _full(delta).reshape(self.samples, positions, narrow)
        square = _sum_of_grams(_gram(inputs), _gram(gradient))
        if direction is None:
            return square, None
        return square, _sum_of_products(F.linear(inputs, direction), gradient)


@dataclass(eq=False, kw_only=True)
class ConvUse(Use):
    """A convolution in one to three dimensions: inputs (B k, C, ...), gradients (B k, O, ...).

    Inputs are those before padding, which saves memory.
    """

    padding: Sequence[tuple[int, int]]
    """Rows of zeros added before and behind each spatial axis."""
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        if self._single(delta):
            return self._one_by_one(_full(inputs), delta)
        taps = torch.cat(list(self._by_taps(inputs, delta, _Canvas(), _Canvas())), 3)
        return taps.reshape(*taps.shape[:3], *self.kernel)

    def _single(self, delta: Tensor) -> bool:
        return delta.device.type == "cpu" and delta[0, 0].numel() >= SINGLE_POSITIONS

    def _one_by_one(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """Let torch's own backward pass form one row's gradient at a time: its kernels are fast."""
        padding = [before for before, _ in self.padding]
        if any(before != behind for before, behind in self.padding):
            inputs, padding = self._padded(inputs, delta), [0] * len(self.kernel)
        weight = delta.new_empty(delta.shape[1], inputs.shape[1] // self.groups, *self.kernel)
        formed = [
            torch.ops.aten.convolution_backward(
                delta[i : i + 1],
                inputs[i : i + 1],
                weight,
                None,
                self.stride,
                padding,
                self.dilation,
                False,
                [0] * len(self.kernel),
                self.groups,
                [False, True, False],
            )[1]
            for i in range(len(delta))
        ]
        return torch.stack(formed)

    def _by_taps(
        self, inputs: Tensor, delta: Tensor, canvas: _Canvas, grid: _Canvas
    ) -> Iterator[Tensor]:
        """Yield the gradients of a few taps of the kernel at a time, (rows, O, C / groups, taps).

        Each is a product of the output gradients with what a tap saw. With the positions of a
        padded image in one row, that is one piece of the row, which is read where it lies. For the
        pieces to line up, the output gradients are put on a grid as wide as the image, with zeros
        between; a stride is as many images, each with every stride-th pixel.
        """
        rows, outputs = delta.shape[:2]
        sizes = delta.shape[2:]
        places = zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        wide = [size + (kernel - 1) * gap // step for size, kernel, step, gap in places]
        spread = grid.put(delta, [0] * len(wide), [sizes[0], *wide[1:]])
        spread = spread.reshape(rows * self.groups, outputs // self.groups, -1)
        # One more line than the grid, so that every piece has its full length.
        reach = [n * step for n, step in zip([wide[0] + 1, *wide[1:]], self.stride, strict=True)]
        padded = canvas.put(inputs, [before for before, _ in self.padding], reach)
        channels = inputs.shape[1] // self.groups

        @functools.cache
        def image(phase: tuple[int, ...]) -> Tensor:
            steps = (slice(first, None, s) for first, s in zip(phase, self.stride, strict=True))
            part = padded[(slice(None), slice(None), *steps)]
            return part.reshape(rows * self.groups, channels, -1)

        def piece(tap: tuple[int, ...]) -> Tensor:
            start, phase = 0, []
            for each, gap, s, size in zip(tap, self.dilation, self.stride, wide, strict=True):
                start = start * size + each * gap // s
                phase.append(each * gap % s)
            return image(tuple(phase)).narrow(2, start, spread.shape[2])

        taps = list(itertools.product(*(range(size) for size in self.kernel)))
        step = max(1, TAP_CHANNELS // channels)
        for first in range(0, len(taps), step):
            pieces = [piece(tap) for tap in taps[first : first + step]]
            # Copied only where a tap has too few channels for a fast product.
            seen = torch.stack(pieces, 2).flatten(1, 2) if step > 1 else pieces[0]
            formed = torch.bmm(spread, seen.transpose(1, 2))
            yield formed.reshape(rows, outputs, channels, -1)

    def square_and_dot(
        self, role: Role, delta: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Use`."""
        single = self.groups == 1 and self.rows == 1
        if role == "weight" and single and self._gram_pays(delta):
            return self._by_gram(_full(delta), direction)
        if role == "bias" or self._single(delta):
            return super().square_and_dot(role, delta, direction)
        square = torch.zeros(self.samples, dtype=torch.float64, device=delta.device)
        dot = torch.zeros_like(square)
        canvases = _Canvas(), _Canvas()
        for first, last in self._chunks(role, delta):
            part = slice(first * self.rows, last * self.rows)
            tap = 0
            for formed in self._by_taps(self.inputs[part], delta[part], *canvases):
                if self.rows > 1:
                    formed = formed.unflatten(0, (-1, self.rows)).sum(1)
                square[first:last] += _sum_of_products(formed, formed)
                if direction is not None:
                    along = direction.flatten(2)[..., tap : tap + formed.shape[3]]
                    dot[first:last] += _products_with(formed, along)
                    tap += formed.shape[3]
        return square, dot

    def _row_numbers(self, delta: Tensor) -> int:
        channels = self.inputs.shape[1]
        at_once = min(math.prod(self.kernel), max(1, TAP_CHANNELS * self.groups // channels))
        copied = at_once if at_once > 1 else 0
        formed = delta.shape[1] * channels // self.groups * at_once
        return self.inputs[0].numel() * (1 + copied) + delta[0].numel() + formed

    def _by_gram(self, delta: Tensor, direction: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inputs = _full(self.inputs)
        padded = self._padded(inputs, delta)
        square = self._gram_square(padded, delta)
        if direction is None:
            return square, None
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel) - 1]
        moved = convolve(padded, direction, stride=self.stride, dilation=self.dilation)
        return square, _sum_of_products(moved, delta)

    def _gram_pays(self, delta: Tensor) -> bool:
        taps, channels, outputs = math.prod(self.kernel), self.inputs.shape[1], delta.shape[1]
        positions = math.prod(delta.shape[2:])
        pixels = math.prod(
            size if self.kernel[axis] == 1 else self._reach(axis, size)
            for axis, size in enumerate(delta.shape[2:])
        )
        formed = positions * taps * channels * (outputs + COPY_COST)
        multiplied = _gram_penalty(delta) * (pixels**2 * channels + positions**2 * outputs)
        return multiplied + COPY_COST * taps * positions**2 < formed

    def _reach(self, axis: int, outputs: int) -> int:
        """Return how many input positions along an axis the windows see."""
        kernel, step, gap = self.kernel[axis], self.stride[axis], self.dilation[axis]
        return step * (outputs - 1) + gap * (kernel - 1) + 1

    def _padded(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """Return padded inputs, cut or filled up with zeros to what the windows see."""
        sizes = (self._reach(axis, size) for axis, size in enumerate(delta.shape[2:]))
        wanted = zip(sizes, self.padding, inputs.shape[2:], strict=True)
        pairs = [(before, size - before - there) for size, (before, _), there in wanted]
        return F.pad(inputs, [width for pair in reversed(pairs) for width in pair])

    def _gram_square(self, padded: Tensor, delta: Tensor) -> Tensor:
        """Return the squared norms from inner products of pixels rather than of whole windows.

        <window_s, window_t> = sum over taps o of <pixel_{s+o}, pixel_{t+o}>: the products of all
        pairs of pixels are formed once, and each tap reads them shifted along both pixels.
        """
        sizes = delta.shape[2:]
        # Along an axis where the kernel is one wide, only every stride-th pixel is ever seen.
        seen = [
            slice(None, None, step if size == 1 else 1)
            for size, step in zip(self.kernel, self.stride, strict=True)
        ]
        padded = padded[(slice(None), slice(None), *seen)]
        reach = padded.shape[2:]
        squares = []
        step = max(1, 4 * _workspace(delta) // (4 * math.prod(reach) ** 2))
        for first in range(0, len(delta), step):
            part = slice(first, first + step)
            products = _pixel_gram(padded[part])
            products = products.unflatten(2, reach).unflatten(1, reach)
            squares.append(self._sum_over_taps(products, _pixel_gram(delta[part]), sizes))
        return torch.cat(squares)

    def _sum_over_taps(self, products: Tensor, gradient: Tensor, sizes: torch.Size) -> Tensor:
        """Sum products (b, pixels..., pixels...) with gradient (b, T, T) over all taps, (b,)."""
        windows: Tensor | None = None
        for tap in itertools.product(*(range(size) for size in self.kernel)):
            seen = []
            for axis, offset in enumerate(tap):
                start = offset * self.dilation[axis]
                step = 1 if self.kernel[axis] == 1 else self.stride[axis]
                seen.append(slice(start, start + step * (sizes[axis] - 1) + 1, step))
            shifted = products[(slice(None), *seen, *seen)]
            windows = shifted.clone() if windows is None else windows.add_(shifted)
        assert windows is not None
        return _sum_of_grams(windows.reshape(gradient.shape), gradient)


class _Canvas:
    """Zeros into which values are put at one place, some samples after others.

    Fresh memory costs a processor more than the copy does, so it is taken once.
    """

    def __init__(self) -> None:
        self._zeros: Tensor | None = None

    def put(self, values: Tensor, before: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Return (rows, C, *sizes) with values (rows, C, ...) from ``before`` on, cut to fit."""
        if self._zeros is None or len(self._zeros) < len(values):
            self._zeros = _full(values.new_zeros(*values.shape[:2], *sizes))
        whole = self._zeros[: len(values)]
        places = zip(before, sizes, values.shape[2:], strict=True)
        lengths = [min(size - first, there) for first, size, there in places]
        inside = [slice(first, first + n) for first, n in zip(before, lengths, strict=True)]
        cut = (slice(None), slice(None), *(slice(n) for n in lengths))
        whole[(slice(None), slice(None), *inside)] = values[cut]
        return whole


@dataclass(eq=False, kw_only=True)
class ScaleUse(Use):
    """y = w * n(x) + b, n a function without parameters, w by channel or by the last axes."""

    normalise: Callable[[Tensor], Tensor]
    """n, of rows."""
    shape: tuple[int, ...] | None
    """Of a parameter, over the last axes, 1 where it is the same along one; None for one per
    channel (axis 1)."""

    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        return self._reduced(delta * self.normalise(_full(inputs)))

    def _bias(self, inputs: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002
        return self._reduced(delta)

    def _reduced(self, values: Tensor) -> Tensor:
        if self.shape is None:
            return values.flatten(2).sum(2) if values.dim() > 2 else values
        between = values.dim() - len(self.shape)
        values = values.flatten(1, between - 1).sum(1) if between > 1 else values
        alike = [axis for axis, size in enumerate(self.shape, 1) if size < values.shape[axis]]
        return values.sum(alike, keepdim=True) if alike else values


@dataclass(eq=False, kw_only=True)
class FixedScaleUse(Use):
    """y = w (x - m) / s + b by channel, with m and s (C,) fixed: BatchNorm in eval mode."""

    mean: Tensor
    deviation: Tensor

    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        # torch's own backward pass, each sample's channels taken for channels of one sample: it
        # reads both tensors once and writes nothing of their size.
        rows, channels = inputs.shape[:2]
        formed: Tensor = torch.ops.aten.native_batch_norm_backward(
            delta.reshape(1, rows * channels, -1),
            _full(inputs).reshape(1, rows * channels, -1),
            None,
            self.mean.repeat(rows),
            self.deviation.square().repeat(rows),
            None,
            None,
            False,
            0.0,
            [False, True, False],
        )[1]
        return formed.view(rows, channels)


@dataclass(eq=False, kw_only=True)
class EmbeddingUse(Use):
    """y_t = row x_t of a table: inputs (B k, T) whole numbers, output gradients (B k, T, D)."""

    entries: int
    """Rows of the table."""
    padding: int | None
    """Row that never gets a gradient."""

    def _weight(self, inputs: Tensor, delta: Tensor) -> Tensor:
        delta = self._masked(inputs, delta)
        table = delta.new_zeros(len(inputs), self.entries, delta.shape[2])
        return table.scatter_add_(1, inputs[..., None].expand_as(delta), delta)

    def _masked(self, inputs: Tensor, delta: Tensor) -> Tensor:
        return delta if self.padding is None else delta * (inputs != self.padding)[..., None]

    def square_and_dot(
        self, role: Role, delta: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The table's size never counts, only the tokens'."""
        del role
        gradient = self._masked(self.inputs, _full(delta))
        ids = self.inputs.reshape(self.samples, -1)
        gradient = gradient.reshape(*ids.shape, -1)
        same = ids[:, :, None] == ids[:, None, :]
        square = _sum_of_grams(_gram(gradient), same.double())
        return square, None if direction is None else _sum_of_products(direction[ids], gradient)


def _gram(values: Tensor) -> Tensor:
    """Return the inner products of positions, (B, T, T) in float64, of values (B, T, C)."""
    exact = values.double()
    return exact @ exact.transpose(1, 2)


def _gram_penalty(values: Tensor) -> int:
    """Return how many float32 multiplications one in float64 costs where the values are."""
    if values.device.type != "cuda":
        return 2
    return 2 if torch.cuda.get_device_capability(values.device) in FAST_FLOAT64 else 64


def _pixel_gram(values: Tensor) -> Tensor:
    """Return the inner products of positions, (B, T, T) in float64, of values (B, C, ...)."""
    return _gram(values.flatten(2).transpose(1, 2))


def _sum_of_grams(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of the products of two float64 matrices (B, S, T) of inner products, (B,)."""
    samples, rows = first.shape[:2]
    left = first.reshape(samples * rows, 1, -1)
    by_row = torch.bmm(left, second.reshape(samples * rows, -1, 1))
    return by_row.view(samples, rows).sum(1)


def _workspace(values: Tensor) -> int:
    return WORKSPACE_BYTES.get(values.device.type, WORKSPACE_BYTES["cuda"])


def _sum_of_products(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum over all but the first axis of the products of equal shapes, (B,)."""
    return (first * second).flatten(1).sum(1).double()


def _products_with(values: Tensor, direction: Tensor) -> Tensor:
    """Return the products of each of (B, ...) with one direction (...), (B,)."""
    return (values.flatten(1) @ direction.flatten().to(values.dtype)).double()


def _full(values: Tensor) -> Tensor:
    """Return half-precision values in float32, others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
