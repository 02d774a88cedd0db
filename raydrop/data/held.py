"""Anybody's inputs: tensors in memory, and data sets that give samples one by one.

Images that raydrop opens or holds itself are in :mod:`raydrop.data.dataset`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from raydrop.data.images import as_mode
from raydrop.data.inputs import Inputs, each, leaves
from raydrop.errors import DataError, in_one_line
from raydrop.study import canonical_json

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class ArrayInputs:
    """Inputs in memory: features, token ids, images of floats."""

    values: Any
    """An array (n, ...), or a tuple or dict of such, of any type."""
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parts = leaves(self.values)
        if not parts:
            raise DataError("Expected inputs, found none; give an array or a tensor.")
        sizes = {len(array) for array in parts}
        if len(sizes) != 1:
            raise DataError(
                f"Expected as many samples in each part of the inputs, found {sorted(sizes)}; give "
                "each sample all of them."
            )

    def __len__(self) -> int:
        return len(leaves(self.values)[0])

    def take(self, positions: NDArray[np.integer[Any]]) -> ArrayInputs:
        """Return a copy of some samples, in that order."""
        return ArrayInputs(each(lambda array: array[positions], self.values))

    def bytes_of(self, position: int) -> bytes:
        """Return a hash of one sample."""
        return bytes_of(each(lambda array: array[position], self.values))


@dataclass(frozen=True, eq=False)
class StreamedInputs:
    """Inputs that a map-style data set gives, one sample at a time: the first of each item."""

    source: Any
    positions: NDArray[np.int64]
    """Of the samples in it, (n,)."""
    collate: Callable[[list[Any]], Inputs] | None = None
    """Makes a batch of some samples' inputs; torch's own where it is None."""
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: NDArray[np.integer[Any]]) -> StreamedInputs:
        """Return some samples, in that order."""
        return dataclasses.replace(self, positions=self.positions[positions])

    def item(self, position: int) -> Any:
        """Return one item of the data set."""
        return self.source[int(self.positions[position])]

    def read(self, position: int) -> Any:
        """Return the inputs of one sample."""
        return self.item(position)[0]

    def __getitems__(self, positions: NDArray[np.int64]) -> list[Any]:
        """Return the inputs of some samples, as a loader asks; together, if the source does so."""
        places = self.positions[positions].tolist()
        if hasattr(self.source, "__getitems__"):
            return [item[0] for item in self.source.__getitems__(places)]
        return [self.source[place][0] for place in places]

    def bytes_of(self, position: int) -> bytes:
        """Return a hash of one sample."""
        return bytes_of(self.read(position))

    def collated(self, inputs: list[Any]) -> Any:
        """Return some samples' inputs as one batch of tensors."""
        from torch.utils.data import default_collate

        return with_channel(each(_single, (self.collate or default_collate)(inputs)))


@dataclass(frozen=True, eq=False)
class OpenedImages:
    """Pictures that a map-style data set gives, in their own size: the first of each item."""

    source: Any
    positions: NDArray[np.int64]
    """Of the pictures in it, (n,)."""
    mode: Literal["RGB", "L"] = "RGB"
    """What they are converted to: colour or grey."""
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: NDArray[np.integer[Any]]) -> OpenedImages:
        """Return some pictures, in that order."""
        return dataclasses.replace(self, positions=self.positions[positions])

    def open(self, position: int) -> PIL.Image.Image:
        """Return one picture."""
        return in_mode(self.source[int(self.positions[position])][0], self.mode)


def _single(part: Any) -> Any:
    """Return numbers of double precision in single, which models compute in."""
    return part.float() if str(getattr(part, "dtype", "")) == "torch.float64" else part


def in_mode(picture: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Return a picture in colour or grey, as files are read."""
    if picture.mode == mode:
        return picture
    try:
        return as_mode(picture, mode)
    except ValueError as error:
        raise DataError(
            f"Expected pictures of 8 or 16 bits, found {error}; scale them in the data set."
        ) from error


def with_channel(inputs: Any) -> Any:
    """Return grey images of bytes (n, H, W) with their channel, and all else as it is."""
    bytes_ = str(getattr(inputs, "dtype", "")).endswith("uint8")
    return inputs[:, None] if bytes_ and inputs.ndim == 3 else inputs


class Digest:
    """A hash of inputs, the same however they are cut into batches."""

    def __init__(self) -> None:
        self._parts: dict[Any, Any] = {}
        self._headers: dict[Any, str] = {}

    def update(self, batch: Any) -> None:
        """Count the samples of a batch of arrays, which come next."""
        named = batch.items() if isinstance(batch, Mapping) else enumerate(leaves(batch))
        for name, array in named:
            part = self._parts.setdefault(name, hashlib.sha256())
            kind = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
            header = canonical_json([kind.str.lstrip("<=|"), list(array.shape[1:])])
            if self._headers.get(name) != header:
                part.update(header.encode())
                self._headers[name] = header
            part.update(np.ascontiguousarray(array, kind).data)

    def text(self) -> str:
        """Return the hash so far."""
        parts = [[str(name), part.hexdigest()] for name, part in self._parts.items()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def as_array(values: Any) -> NDArray[Any]:
    """Return a tensor, or what NumPy takes for one, as an array that torch takes."""
    if hasattr(values, "detach"):
        import torch

        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        values = values.resolve_conj().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"Expected numbers for inputs, found an array of {array.dtype}; turn texts into "
            "numbers first."
        )
    kind = np.float32 if array.dtype == np.float64 else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, kind)


def collated(inputs: StreamedInputs, parts: list[Any]) -> Any:
    """Return some samples' inputs as a batch, or say in a sentence why they make none."""
    from torch import Tensor

    try:
        batch = inputs.collated(parts)
    except Exception as error:  # whatever the user's function raises
        raise DataError(
            "Expected inputs that make a batch, found that they do not "
            f"({in_one_line(error)}); give all samples the same shape, for example by padding, or "
            "a function collate= from a list of inputs to a batch."
        ) from error
    found = leaves(batch)
    if not found or not all(isinstance(part, Tensor) and part.ndim for part in found):
        raise DataError(
            "Expected inputs as a tensor, or a tuple or dict of tensors, found "
            f"{type(batch).__name__} of {type(found[0]).__name__ if found else 'nothing'}; have "
            "the data set, or collate=, make tensors."
        )
    if any(len(part) != len(parts) for part in found):
        raise DataError(
            f"Expected a batch of {len(parts)} samples from collate=, found tensors of "
            f"{', '.join(str(len(part)) for part in found)}; keep the batch first, and all of it."
        )
    return batch


def bytes_of(value: Any) -> bytes:
    """Return a hash of one sample's inputs."""
    if isinstance(value, Mapping | tuple | list):
        content = b"".join(map(bytes_of, leaves(value)))
    else:
        content = value.encode() if isinstance(value, str) else as_array(value).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def rows(batch: Any) -> Any:
    """Return a batch of tensors as arrays."""
    return each(as_array, batch)
