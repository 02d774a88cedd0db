"""Reading the data sets that people bring: every sample once, for labels, content and size."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL.Image

from raydrop.data.dataset import SMALL_SIDE, AnyInputs, ArrayImages, Shape
from raydrop.data.held import (
    ArrayInputs,
    Digest,
    OpenedImages,
    StreamedInputs,
    bytes_of,
    collated,
    in_mode,
    rows,
    with_channel,
)
from raydrop.data.images import is_grey
from raydrop.data.inputs import Inputs, InputSpec, each, leaves
from raydrop.data.loaders.contents import remember, remembered
from raydrop.data.loaders.files import LARGE_SHAPE
from raydrop.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 256
"""Samples that are read and put together at a time."""
_TRIED, _AGAIN = 8, 3
"""Samples that are looked at, and how often, to see whether they change."""
_PROBED = 64
"""Samples that are looked at where not all are read."""
_IMAGE_CHANNELS = (1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Reading:
    """What a data set gave."""

    inputs: AnyInputs
    labels: Any
    groups: Any
    content: str
    """A hash of the inputs."""
    spec: InputSpec | Shape
    """What they are to models; a shape of images."""


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of a data set by itself."""

    labels: Any
    groups: Any
    content: str
    spec: InputSpec | Shape
    kept: Any = None
    """Arrays of all inputs, where they were kept."""
    mode: Literal["RGB", "L"] | None = None
    """Of pictures: what they are opened as."""
    seen: tuple[bytes, ...] = ()
    """Hashes of a few samples, by which an earlier reading counts."""
    size: float = math.inf
    """Bytes that the inputs take; they are read again where they may be kept now."""


_EARLIER: weakref.WeakKeyDictionary[Any, _Read] = weakref.WeakKeyDictionary()
"""What was read in this process of data sets that stream."""


def read_all(
    sources: Mapping[str, Any],
    collate: Callable[[list[Any]], Inputs] | None,
    limit: float,
    workers: int = 0,
    version: str = "",
) -> dict[str, Reading]:
    """Read data sets, and keep the inputs of all of them if they fit within some bytes.

    What does not fit, and whose content is remembered or stands for a version, is not read where
    labels are known besides.
    """
    read, left = dict[str, _Read](), limit
    for name, source in sources.items():
        positions = np.arange(len(checked_source(source, name)))
        inputs = StreamedInputs(source, positions, collate)
        read[name] = _read(inputs, name, left, workers, version)
        kept = read[name].kept
        left = -1.0 if kept is None else left - sum(array.nbytes for array in leaves(kept))
    spec = _common_spec({name: one.spec for name, one in read.items()}, ragged=collate is not None)
    grey = all(one.mode == "L" for one in read.values())
    found = dict[str, Reading]()
    for name, one in read.items():
        positions = np.arange(len(one.labels))
        kind: AnyInputs = StreamedInputs(sources[name], positions, collate)
        if one.mode is not None:
            kind = OpenedImages(sources[name], positions, "L" if grey else "RGB")
        elif left >= 0:
            kind = held(ArrayInputs(one.kept))
        found[name] = Reading(kind, one.labels, one.groups, one.content, spec)
    return found


def checked_source(source: Any, name: str) -> Any:
    """Return a map-style data set, or refuse what is none."""
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        kind = type(source).__name__
        advice = "give its .dataset" if kind == "DataLoader" else "read it into one that has both"
        if hasattr(source, "__iter__") and kind != "DataLoader":
            kind += ", which is iterable-style"
        raise DataError(
            f"Expected a map-style data set for {name}, with __getitem__ and __len__, found "
            f"{kind}; samples are asked for by their index, so {advice}."
        )
    if not len(source):
        raise DataError(f"Expected samples for {name}, found none; give a data set that has some.")
    return source


def _read(inputs: StreamedInputs, name: str, limit: float, workers: int, version: str) -> _Read:
    """Read all items of a data set, or what is remembered of them."""
    tensors = tensors_of(inputs.source) if inputs.collate is None else None
    if tensors is not None and len(tensors) in (2, 3) and limit >= 0:
        values, digest = with_channel(rows(tensors[0])), Digest()
        digest.update(values)
        groups = tensors[2] if len(tensors) > 2 else None
        spec = spec_of(held(ArrayInputs(values)))
        return _Read(tensors[1], groups, digest.text(), spec, values)
    seen = looked_at(inputs, name)
    plain = inputs.collate is None
    key = getattr(inputs.source, "content_key", "") if plain else ""
    known = f"version {version}" if version else remembered(key) if key else None
    found = None if known is None else _known(inputs, limit, known, seen)
    earlier = _earlier(inputs.source) if plain and not version else None
    if earlier is not None and earlier.seen == seen and earlier.size > limit:
        return earlier
    found = found or _read_items(inputs, limit, workers, seen)
    if found.kept is None and plain and not version:
        with contextlib.suppress(TypeError):  # no hash, or no weak reference to it
            _EARLIER[inputs.source] = found
    if key and not version:
        remember(key, found.content)
    return found


def _earlier(source: Any) -> _Read | None:
    with contextlib.suppress(TypeError):
        return _EARLIER.get(source)
    return None


def _known(
    inputs: StreamedInputs, limit: float, content: str, seen: tuple[bytes, ...]
) -> _Read | None:
    """Return what a few samples tell of data whose content is known; None where all are wanted."""
    beside = _beside(inputs.source)
    if beside is None or len(beside[0]) != len(inputs):
        return None
    places = np.unique(np.linspace(0, len(inputs) - 1, _PROBED).astype(int)).tolist()
    items = [checked_item(inputs.item(place)) for place in places]
    if [_plain_label(item[1]) for item in items] != [_plain_label(beside[0][p]) for p in places]:
        return None  # they are changed on the way
    if isinstance(items[0][0], PIL.Image.Image):
        pictures = [np.asarray(_plain(item[0])) for item in items]
        shapes = {picture.shape for picture in pictures}
        grey = all(len(shape) == 2 for shape in shapes)
        shape = _picture_shape(shapes, grey)
        return _Read(*beside, content, shape, None, "L" if grey else "RGB", seen)
    batch = collated(inputs, [item[0] for item in items])
    each_size = sum(array.nbytes for array in leaves(rows(batch))) / len(places)
    size = each_size * len(inputs)
    if size <= limit:
        return None
    return _Read(*beside, content, _image_spec(InputSpec.of(batch)), seen=seen, size=size)


def _beside(source: Any) -> tuple[Any, Any] | None:
    """Return labels and groups that a data set knows besides its items, if it does."""
    if hasattr(source, "beside"):
        return source.beside()  # type: ignore[no-any-return]
    inner = getattr(source, "dataset", None)
    if inner is not None and hasattr(source, "indices"):
        whole = _beside(inner)
        if whole is None or whole[1] is not None:
            return None
        return [whole[0][index] for index in source.indices], None
    targets = getattr(source, "targets", None)
    return None if targets is None else (targets, None)


def _plain_label(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label


def _read_items(
    inputs: StreamedInputs, limit: float, workers: int, seen: tuple[bytes, ...]
) -> _Read:
    labels, groups, digest = list[Any](), list[Any](), Digest()
    kept: list[Any] | None = []
    size, spec, sizes = 0, None, set[tuple[int, ...]]()
    for rest, batch in chunks(inputs, workers):
        for label, *group in rest:
            labels.append(label)
            groups += group or [None]
        if isinstance(batch, list):
            for picture in batch:
                digest.update(picture[None])
            sizes |= {picture.shape for picture in batch}
            continue
        values, here = rows(batch), InputSpec.of(batch)
        digest.update(values)
        spec = spec or here
        size += sum(array.nbytes for array in leaves(values))
        if here != spec and inputs.collate is None:
            raise DataError(
                f"Expected inputs that make a batch, found samples of {spec} and of {here}; give "
                "all the same shape, for example by padding, or a function collate= from a list of "
                "inputs to a batch."
            )
        kept = None if kept is None or size > limit or here != spec else [*kept, values]
    beside = labels, None if all(group is None for group in groups) else groups, digest.text()
    if spec is None:
        grey = all(len(shape) == 2 for shape in sizes)
        return _Read(*beside, _picture_shape(sizes, grey), None, "L" if grey else "RGB", seen)
    return _Read(*beside, _image_spec(spec), kept and joined(kept), seen=seen, size=size)


def _picture_shape(sizes: set[tuple[int, ...]], grey: bool) -> Shape:
    """Return what models see of pictures of these sizes, as of images in files."""
    sides = {size[:2] for size in sizes}
    height, width = min(sides)
    if len(sides) > 1 or max(height, width) > SMALL_SIDE:
        return LARGE_SHAPE
    return 1 if grey else 3, height, width


def joined(batches: list[Any]) -> Any:
    """Return batches of arrays as one."""
    first, columns = batches[0], zip(*map(leaves, batches), strict=True)
    joined = iter([np.concatenate(column) for column in columns])
    return each(lambda _: next(joined), first)


def held(inputs: ArrayInputs) -> ArrayInputs | ArrayImages:
    """Return inputs in memory, as images where they are pixels."""
    values = inputs.values
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 4:
        return inputs
    channels, last = values.shape[1], values.shape[3]
    if channels not in _IMAGE_CHANNELS:
        found = f"{values.shape}" + (", channels last" if last in _IMAGE_CHANNELS else "")
        raise DataError(
            f"Expected images of bytes as (n, C, H, W), found {found}; bring the channels to the "
            "front, as in x.transpose(0, 3, 1, 2), or use another type for what are no images."
        )
    return ArrayImages(values)


def spec_of(inputs: AnyInputs) -> InputSpec | Shape:
    """Return what inputs in memory are, to models."""
    import torch

    if isinstance(inputs, ArrayImages):
        channels, height, width = inputs.pixels.shape[1:]
        return channels, height, width
    assert isinstance(inputs, ArrayInputs)
    return InputSpec.of(each(lambda array: torch.from_numpy(array[:1].copy()), inputs.values))


def _image_spec(spec: InputSpec) -> InputSpec | Shape:
    """Return the shape of images, where inputs are bytes that can be ones."""
    import torch

    shape = spec.shapes[0]
    if spec.names or spec.is_tuple or spec.dtypes[0] != torch.uint8 or len(shape) != 3:
        return spec
    return shape if shape[0] in _IMAGE_CHANNELS else spec


def _common_spec(specs: Mapping[str, InputSpec | Shape], *, ragged: bool) -> InputSpec | Shape:
    """Return what inputs of all splits are; padded ones may differ in length."""
    found = set(specs.values())
    if len(found) > 1 and LARGE_SHAPE in found and not any(isinstance(s, InputSpec) for s in found):
        return LARGE_SHAPE
    first = next(iter(specs.values()))
    if len(found) > 1 and not ragged:
        told = "; ".join(f"{spec} in {name}" for name, spec in specs.items())
        raise DataError(
            f"Expected the same kind of inputs in every split, found {told}; make them equal."
        )
    return first


def chunks(inputs: StreamedInputs, workers: int = 0) -> Iterator[tuple[list[tuple[Any, ...]], Any]]:
    """Yield label and maybe group of all items, some at a time, and their inputs as a batch.

    Pictures are a list of arrays instead.

    Raises:
        DataError: If an item is not inputs and label, or inputs do not make a batch.
    """
    from torch.utils.data import DataLoader

    items: Any = _Items(inputs)
    loader: DataLoader[Any] = DataLoader(
        items, CHUNK, num_workers=workers, collate_fn=_Chunk(inputs)
    )
    try:
        yield from loader
    except RecursionError:
        raise
    except DataError as error:
        # A process that reads writes its traceback into the text.
        raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from error


class _Items:
    """The items that some inputs are the first of."""

    def __init__(self, inputs: StreamedInputs) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, position: int) -> Any:
        return checked_item(self._inputs.item(position))


class _Chunk:
    """Takes items apart."""

    def __init__(self, inputs: StreamedInputs) -> None:
        self._inputs = inputs

    def __call__(self, items: list[Any]) -> tuple[list[tuple[Any, ...]], Any]:
        """See :func:`chunks`."""
        rest = [tuple(item[1:]) for item in items]
        if isinstance(items[0][0], PIL.Image.Image):
            return rest, [np.asarray(_plain(item[0])) for item in items]
        return rest, collated(self._inputs, [item[0] for item in items])


def _plain(picture: PIL.Image.Image) -> PIL.Image.Image:
    return in_mode(picture, "L" if is_grey(picture) else "RGB")


def checked_item(item: Any) -> tuple[Any, ...]:
    """Return an item of a data set, which is inputs, label and maybe group."""
    if isinstance(item, tuple | list) and len(item) in (2, 3):
        return tuple(item)
    found = type(item).__name__
    if isinstance(item, tuple | list):
        found += f" of {len(item)}"
    if isinstance(item, Mapping):
        found += f" of {', '.join(map(str, item))}"
    raise DataError(
        f"Expected items (inputs, label) or (inputs, label, group), found {found}; wrap the data "
        "set in one that gives these, or use raydrop.data.from_huggingface for named columns."
    )


def looked_at(inputs: StreamedInputs, name: str) -> tuple[bytes, ...]:
    """Return hashes of a few samples, or refuse a data set that does not give the same again.

    Each is asked for some times, so that a coin that is thrown for each shows.
    """
    hashes = list[bytes]()
    for position in np.unique(np.linspace(0, len(inputs) - 1, _TRIED).astype(int)).tolist():
        seen = [bytes_of(checked_item(inputs.item(position))[0]) for _ in range(_AGAIN)]
        hashes += seen[:1]
        if len(set(seen)) > 1:
            raise DataError(
                f"Expected the same inputs whenever {name} is asked for a sample, found that "
                f"sample {position} changes, as with random augmentation; leave that out of the "
                "data set, and give it as augment=, which training alone applies to batches."
            )
    return tuple(hashes)


def tensors_of(source: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors that a data set consists of, where it is nothing but such."""
    from torch.utils.data import Subset, TensorDataset

    if type(source) is TensorDataset:
        return source.tensors
    if type(source) is Subset:
        inner = tensors_of(source.dataset)
        return inner and tuple(tensor[list(source.indices)] for tensor in inner)
    return None
