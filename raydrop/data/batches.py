"""From stored inputs to batches on a device: gathered, augmented, and images normalised.

Small data sets lie in memory as one uint8 tensor, so a batch is one gather and augmentation is a
few tensor operations on the whole batch. Larger ones stream from files through a ``DataLoader``.
Both ways give the same kind of batch, and the same seed gives the same batches whatever the number
of worker processes.

Anybody's inputs go the same two ways, without normalisation, which is up to whoever made them;
floats and token ids are fed as they are. An augmentation of the user's own gets each batch of
training, on its device, images as uint8, with torch's generators seeded.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from raydrop.data.dataset import (
    SMALL_SIDE,
    ArrayImages,
    Images,
    LabelledDataset,
    Split,
)
from raydrop.data.held import ArrayInputs, StreamedInputs, collated
from raydrop.data.inputs import each
from raydrop.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means that torchvision's ImageNet models use, for data that stream from files."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel standard deviations, likewise."""

_STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of samples, or batches, of one epoch."""


class Batch(NamedTuple):
    """A batch on its device: inputs, of which images are normalised, and int64 labels (B,)."""

    inputs: Any
    """:data:`~raydrop.data.inputs.Inputs`; images are floats (B, C, H, W)."""
    labels: Tensor


Batches = Callable[..., Iterator[Batch]]
"""Gives a batch for each of some groups of positions in a split, (B,) int64, on the CPU; after them
a seed of the augmentation may follow, without which images pass the deterministic transform."""


def even_groups(positions: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut positions (M,) into ceil(M / batch_size) groups whose sizes differ by at most one.

    A small last batch would give BatchNorm statistics of a few samples, which on small data sets
    costs several points of accuracy.
    """
    return positions.tensor_split(-(-len(positions) // batch_size))


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set with what every worker would otherwise compute anew; travels once per node."""

    dataset: LabelledDataset
    """Images decoded, where they fit."""
    mean: tuple[float, ...]
    """By channel, of the training images, in [0, 1]; and so the standard deviations. Empty where
    inputs are no images."""
    std: tuple[float, ...]


def prepare(dataset: LabelledDataset) -> PreparedData:
    """Decode a data set's images where they fit in memory, and measure its channels."""
    if dataset.image_shape is None:
        return PreparedData(dataset, (), ())
    decoded = dataset.decoded()
    images = decoded.train.inputs
    if isinstance(images, ArrayImages):
        return PreparedData(decoded, *channel_statistics(images.pixels))
    channels = dataset.image_shape[0]
    return PreparedData(decoded, IMAGENET_MEAN[:channels], IMAGENET_STD[:channels])


def channel_statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, in [0, 1], of uint8 images (N, C, H, W).

    A channel that never varies gets the deviation 1, so that normalising leaves it finite.
    """
    values = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        deviation = float(np.sqrt(share @ (values - mean) ** 2))
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return tuple(means), tuple(deviations)


def make_batches(
    data: PreparedData,
    split: Split,
    device: torch.device,
    loader_workers: int | None = None,
    policy: bool | str = "",
) -> Batches:
    """Return what gives batches of one split on a device.

    Where inputs stream, ``loader_workers`` processes read them; by default one for each thread that
    torch may use, less the one that trains. Where images are augmented, torchvision's policy of
    that name, one of :data:`raydrop.study.spec.AUGMENTATIONS`, follows.

    Raises:
        ConfigError: If there is a policy and inputs are no images.
    """
    dataset, inputs = data.dataset, split.inputs
    finish = _Normalised(data, device) if dataset.image_shape is not None else _unchanged
    policy = policy if isinstance(policy, str) else ""
    if policy and dataset.image_shape is None:
        raise ConfigError(
            f"Expected images for augment={policy!r}, found {dataset.input_spec}; use True or "
            "False, or give the data an augmentation of their own."
        )
    changes = functools.partial(_changes, dataset, device, policy)
    if isinstance(inputs, ArrayImages | ArrayInputs):
        return _held(inputs, split.labels, changes, finish, device)
    if loader_workers is None:
        loader_workers = torch.get_num_threads() - 1
    if isinstance(inputs, StreamedInputs):
        labels = _tensor(split.labels).to(device)
        return functools.partial(_streamed, inputs, labels, changes, finish, loader_workers)
    how = functools.partial(_FileDataset, dataset, split, policy)
    return functools.partial(_opened, dataset, how, changes, finish, loader_workers, device)


def plain_batches(split: Split, device: torch.device, loader_workers: int = 0) -> Batches:
    """Return what gives batches of anybody's inputs as they are; see :func:`make_batches`."""
    inputs = split.inputs
    if isinstance(inputs, ArrayInputs):
        return _held(inputs, split.labels, _never, _unchanged, device)
    assert isinstance(inputs, StreamedInputs)
    labels = _tensor(split.labels).to(device)
    return functools.partial(_streamed, inputs, labels, _never, _unchanged, loader_workers)


def _held(
    inputs: ArrayImages | ArrayInputs,
    labels: NDArray[np.int64],
    changes: Callable[[int | None], Change],
    finish: Change,
    device: torch.device,
) -> Batches:
    """Return what gives batches of inputs in memory."""
    values = inputs.pixels if isinstance(inputs, ArrayImages) else inputs.values
    tensors = each(lambda array: _tensor(array).to(device), values)
    return functools.partial(_in_memory, tensors, _tensor(labels).to(device), changes, finish)


Change = Callable[[Any], Any]
"""From a batch of inputs to one of the same form."""


def _unchanged(inputs: Any) -> Any:
    return inputs


def _never(seed: int | None) -> Change:  # noqa: ARG001 - nothing is augmented
    return _unchanged


class _Normalised:
    """Turns pixels 0...255 into normalised floats."""

    def __init__(self, data: PreparedData, device: torch.device) -> None:
        # Factor and offset, (1, C, 1, 1).
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (data.mean, data.std))
        factor, offset = 1 / (255 * std), -mean / std
        self._scale = [part.float().view(1, -1, 1, 1).to(device) for part in (factor, offset)]

    def __call__(self, pixels: Tensor) -> Tensor:
        images = torch.addcmul(self._scale[1], pixels, self._scale[0])
        # As a GPU's convolutions want them.
        on_gpu = images.device.type == "cuda"
        return images.to(memory_format=torch.channels_last) if on_gpu else images


def _changes(
    dataset: LabelledDataset, device: torch.device, policy: str, seed: int | None
) -> Change:
    """Return the augmentation of an epoch's batches, one after the other, given its seed."""
    if seed is None:
        return _unchanged
    change: Change = _unchanged
    if dataset.augment is not None:
        change = _Seeded(dataset.augment, device, seed)
    elif dataset.image_shape is not None:
        generator = torch.Generator(device).manual_seed(seed)
        how = dataset.crop_padding, dataset.horizontal_flip, generator
        change = lambda pixels: augment(pixels, *how)  # noqa: E731
    if not policy:
        return change
    one, first = _policy(policy), change
    follow = _Seeded(lambda pixels: torch.stack([one(image) for image in pixels]), device, seed)
    return lambda pixels: follow(first(pixels))


def _policy(name: str) -> Change:
    """Return torchvision's augmentation of one image by a policy of that name."""
    from torchvision.transforms import v2

    kinds = {
        "randaugment": v2.RandAugment,
        "trivialaugment": v2.TrivialAugmentWide,
        "autoaugment": v2.AutoAugment,
        "augmix": v2.AugMix,
    }
    return kinds[name]()  # type: ignore[no-any-return]


class _Seeded:
    """An augmentation that draws from torch's global generators."""

    def __init__(self, change: Change, device: torch.device, seed: int) -> None:
        self._change, self._seed, self._done = change, seed, 0
        self._gpus = [device] if device.type == "cuda" else []

    def __call__(self, inputs: Any) -> Any:
        # A seed per batch, as training draws from the same generators in between.
        with torch.random.fork_rng(self._gpus):
            torch.manual_seed((self._seed + self._done * _STRIDE) % 2**63)
            self._done += 1
            return self._change(inputs)


def _in_memory(
    values: Any,
    labels: Tensor,
    changes: Callable[[int | None], Change],
    finish: Change,
    groups: Sequence[Tensor],
    augment_seed: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of inputs that lie in memory as tensors (n, ...) on the device."""
    change = changes(augment_seed)
    for group in groups:
        chosen = group.to(labels.device, non_blocking=True)
        inputs = each(lambda tensor: tensor[chosen], values)  # noqa: B023 - called at once
        yield Batch(finish(change(inputs)), labels[chosen])


def _opened(
    dataset: LabelledDataset,
    reads: Callable[..., _FileDataset],
    changes: Callable[[int | None], Change],
    finish: Change,
    workers: int,
    device: torch.device,
    groups: Sequence[Tensor],
    augment_seed: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of images that are opened as they are needed."""
    own = dataset.augment is None
    files = reads(torch.cat(list(groups)), augment_seed if own else None)
    change = _unchanged if own else changes(augment_seed)
    places = torch.arange(len(files)).split([len(group) for group in groups])
    for pixels, labels in _loaded(files, [place.tolist() for place in places], workers, device):
        yield Batch(finish(change(pixels)), labels)


def _streamed(
    inputs: StreamedInputs,
    labels: Tensor,
    changes: Callable[[int | None], Change],
    finish: Change,
    workers: int,
    groups: Sequence[Tensor],
    augment_seed: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of inputs that the user's data set gives as they are needed."""
    change, collate = changes(augment_seed), functools.partial(collated, inputs)
    batches = _loaded(inputs, [group.numpy() for group in groups], workers, labels.device, collate)
    for group, batch in zip(groups, batches, strict=True):
        yield Batch(finish(change(batch)), labels[group.to(labels.device, non_blocking=True)])


def _loaded(
    samples: Any,
    groups: Sequence[Any],
    workers: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield batches of samples on a device, given their positions in each."""
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        samples,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # or the loader would draw from the global one
    )
    for batch in loader:
        yield each(lambda tensor: tensor.to(device, non_blocking=True), batch)


def augment(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift and mirror each image of a batch at random.

    Each of the images (B, C, H, W), of any dtype, is padded with ``padding`` black pixels on every
    side, a window of its own size is cut out at a uniformly random place, and, where ``flip``, it
    is mirrored with probability 1/2. The generator is on the images' device.
    """
    count, _, height, width = pixels.shape
    device = pixels.device
    if padding:
        padded = torch.nn.functional.pad(pixels, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        offsets = torch.randint(2 * padding + 1, (2, count), generator=generator, device=device)
        pixels = windows[torch.arange(count, device=device), :, offsets[0], offsets[1]]
    if flip:
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    return pixels


class _FileDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Decoded and transformed images of a split, in a given order."""

    def __init__(
        self,
        dataset: LabelledDataset,
        split: Split,
        policy: str,
        positions: Tensor,
        augment_seed: int | None,
    ) -> None:
        from torchvision.transforms import v2

        assert isinstance(split.inputs, Images)
        self._images, self._labels = split.inputs, split.labels
        self._positions, self._seed = positions.tolist(), augment_seed
        augmented = augment_seed is not None
        follow = [_policy(policy)] if augmented and policy else []
        transforms = [*_file_transforms(dataset, augmented), *follow, v2.PILToTensor()]
        self._transform = v2.Compose(transforms)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self._positions[index]
        image, label = self._images.open(position), int(self._labels[position])
        if self._seed is None:
            return self._transform(image), label
        # A seed per sample, because a seed per worker would make results depend on their number.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self._seed + index * _STRIDE) % 2**63)
            return self._transform(image), label


def _file_transforms(dataset: LabelledDataset, augmented: bool) -> list[torch.nn.Module]:
    """Return what happens to an image from a file, before it becomes a tensor.

    Images that are small, but too many for memory, are augmented as in memory; larger ones as is
    usual for ImageNet: a random resized crop, or 256 pixels cut to 224 in the middle.
    """
    from torchvision.transforms import v2

    assert dataset.image_shape is not None
    size = dataset.image_shape[1:]
    small = max(size) <= SMALL_SIDE
    if not augmented:
        if small:
            return [v2.Resize(size)]
        return [_Middle(), v2.Resize(round(size[0] * 256 / 224)), v2.CenterCrop(size)]
    crop: list[torch.nn.Module] = [v2.RandomResizedCrop(size)]
    if small:
        crop = [v2.Resize(size), v2.RandomCrop(size, padding=dataset.crop_padding)]
    return crop + [v2.RandomHorizontalFlip()] * dataset.horizontal_flip


class _Middle(torch.nn.Module):
    """Cuts a strip down to eight times its width around its middle, which is what is used of it.

    Resized as a whole, one of 2 x 4000 pixels would take 400 MB.
    """

    def forward(self, image: Image) -> Image:
        """Return an image that is at most eight times as long as wide."""
        longest = 8 * min(image.size)
        if max(image.size) <= longest:
            return image
        width, height = (min(side, longest) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor on the array's own memory, laid out the same way in every process.

    An axis of length one may have any stride, and torch chooses other convolution kernels for some
    of them; flattening and shaping anew gives the one usual stride.
    """
    array = array.reshape(-1).reshape(array.shape)
    with warnings.catch_warnings():
        # Ray gives workers read-only views of shared memory, and nothing here writes to them; a
        # copy would cost every worker the whole data set.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
