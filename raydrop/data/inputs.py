"""What models are fed with: a tensor, a tuple or a dict of tensors, the batch first.

Images are one tensor (B, C, H, W); features, token ids with their mask, or several of these may
stand there as well. Everything that cuts, moves or describes such batches is here. Importing this
does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from raydrop.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
"""Of a batch: what a model's forward gets, each tensor (B, ...)."""
Made = TypeVar("Made")


def leaves(inputs: Any) -> tuple[Any, ...]:
    """Return the tensors, or arrays, that inputs consist of, in their order."""
    if isinstance(inputs, Mapping):
        return tuple(inputs.values())
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def each(change: Callable[[Any], Made], inputs: Any) -> Any:
    """Return inputs of the same form, with every tensor changed."""
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(change(value) for value in inputs)
    return change(inputs)


@dataclass(frozen=True)
class InputSpec:
    """What one sample's inputs are, without the batch; hashable, so models are tried once."""

    shapes: tuple[tuple[int, ...], ...]
    """Of each tensor."""
    dtypes: tuple[torch.dtype, ...]
    names: tuple[str, ...] | None = None
    """Keys of a dict; None for a tensor or a tuple."""
    is_tuple: bool = False
    """Whether it is a tuple, perhaps of one."""

    @classmethod
    def image(cls, shape: tuple[int, int, int]) -> InputSpec:
        """Return what images of so many channels, height and width are to a model."""
        import torch

        return cls((tuple(shape),), (torch.float32,))

    @classmethod
    def of(cls, batch: Any) -> InputSpec:
        """Return what one sample of a batch of tensors is."""
        from torch import Tensor

        parts = leaves(batch)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise DataError(
                "Expected inputs as a tensor, or a tuple or dict of tensors, found "
                f"{type(batch).__name__}; have the data set, or collate=, make tensors."
            )
        named = isinstance(batch, Mapping)
        return cls(
            tuple(tuple(part.shape[1:]) for part in parts),
            tuple(part.dtype for part in parts),
            tuple(map(str, batch)) if named else None,
            not named and isinstance(batch, tuple | list),
        )

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width, where this is one tensor of floats that can be an image."""
        if self.names or self.is_tuple or not self.dtypes[0].is_floating_point:
            return None
        return self.shapes[0] if len(self.shapes[0]) == 3 else None

    def zeros(self, batch: int, device: torch.device | str = "cpu") -> Inputs:
        """Return a batch of zeros, which are valid images, features and token ids."""
        import torch

        parts = [
            torch.zeros(batch, *shape, dtype=dtype, device=device)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]
        zeros: Inputs = self.formed(parts)
        return zeros

    def formed(self, parts: Sequence[Any]) -> Any:
        """Return some tensors, in their order, in the form that such inputs have."""
        if self.names is not None:
            return dict(zip(self.names, parts, strict=True))
        return tuple(parts) if self.is_tuple else parts[0]

    def plain(self) -> list[Any]:
        """Return this in plain values, for identities."""
        kinds = [str(dtype).removeprefix("torch.") for dtype in self.dtypes]
        names = None if self.names is None else list(self.names)
        return [list(map(list, self.shapes)), kinds, names, self.is_tuple]

    def __str__(self) -> str:
        """As in ``3x32x32`` or ``input_ids 128, attention_mask 128``."""
        texts = ["x".join(map(str, shape)) or "one number" for shape in self.shapes]
        if self.names is None:
            return ", ".join(texts)
        return ", ".join(f"{name} {text}" for name, text in zip(self.names, texts, strict=True))
