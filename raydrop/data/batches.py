"""From stored images to batches on a device: gathered, augmented, normalised.

Small data sets lie in memory as one uint8 tensor, so a batch is one gather and augmentation is a
few tensor operations on the whole batch. Larger ones stream from files through a ``DataLoader``.
Both ways give the same kind of batch, and the same seed gives the same batches whatever the number
of worker processes.
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

from raydrop.data.dataset import SMALL_SIDE, ArrayImages, FileImages, LabelledDataset, Split

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means that torchvision's ImageNet models use, for data that stream from files."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel standard deviations, likewise."""


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
    """By channel, of the training images, in [0, 1]; and so the standard deviations."""
    std: tuple[float, ...]


def prepare(dataset: LabelledDataset) -> PreparedData:
    """Decode a data set's images where they fit in memory, and measure its channels."""
    decoded = dataset.decoded()
    images = decoded.train.inputs
    if isinstance(images, ArrayImages):
        return PreparedData(decoded, *channel_statistics(images.pixels))
    channels = decoded.image_shape[0]
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
    data: PreparedData, split: Split, device: torch.device, loader_workers: int | None = None
) -> Batches:
    """Return what gives batches of one split on a device.

    Where images stream, ``loader_workers`` processes read files; by default one for each thread
    that torch may use, less the one that trains.
    """
    # Factor and offset that turn pixels 0...255 into normalised floats, (1, C, 1, 1).
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (data.mean, data.std))
    factor, offset = 1 / (255 * std), -mean / std
    scale = [each.float().view(1, -1, 1, 1).to(device) for each in (factor, offset)]
    if isinstance(split.inputs, ArrayImages):
        pixels = _tensor(split.inputs.pixels).to(device)
        how = data.dataset.crop_padding, data.dataset.horizontal_flip
        return functools.partial(_in_memory, pixels, _tensor(split.labels).to(device), scale, how)
    if loader_workers is None:
        loader_workers = torch.get_num_threads() - 1
    return functools.partial(_streamed, data.dataset, split, scale, loader_workers)


def _in_memory(
    pixels: Tensor,
    labels: Tensor,
    scale: Sequence[Tensor],
    how: tuple[int, bool],
    groups: Sequence[Tensor],
    augment_seed: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of images that lie in memory as one uint8 tensor on the device."""
    generator = None
    if augment_seed is not None:
        generator = torch.Generator(pixels.device).manual_seed(augment_seed)
    for group in groups:
        chosen = group.to(pixels.device, non_blocking=True)
        images = pixels[chosen]
        if generator is not None:
            images = augment(images, *how, generator)
        yield Batch(_normalised(images, scale), labels[chosen])


def _streamed(
    dataset: LabelledDataset,
    split: Split,
    scale: Sequence[Tensor],
    workers: int,
    groups: Sequence[Tensor],
    augment_seed: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of images that are read from files as they are needed."""
    device = scale[0].device
    files = _FileDataset(dataset, split, torch.cat(list(groups)), augment_seed)
    places = torch.arange(len(files)).split([len(group) for group in groups])
    loader: torch.utils.data.DataLoader[tuple[Tensor, int]] = torch.utils.data.DataLoader(
        files,
        batch_sampler=[place.tolist() for place in places],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # or the loader would draw from the global one
    )
    for both in loader:
        pixels, labels = (each.to(device, non_blocking=True) for each in both)
        yield Batch(_normalised(pixels, scale), labels)


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
        self, dataset: LabelledDataset, split: Split, positions: Tensor, augment_seed: int | None
    ) -> None:
        from torchvision.transforms import v2

        assert isinstance(split.inputs, FileImages)
        self._images, self._labels = split.inputs, split.labels
        self._positions, self._seed = positions.tolist(), augment_seed
        self._transform = v2.Compose(
            [*_file_transforms(dataset, augment_seed is not None), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self._positions[index]
        image, label = self._images.open(position), int(self._labels[position])
        if self._seed is None:
            return self._transform(image), label
        # A seed per sample, because a seed per worker would make results depend on their number.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self._seed + index * 0x9E3779B97F4A7C15) % 2**63)
            return self._transform(image), label


def _file_transforms(dataset: LabelledDataset, augmented: bool) -> list[torch.nn.Module]:
    """Return what happens to an image from a file, before it becomes a tensor.

    Images that are small, but too many for memory, are augmented as in memory; larger ones as is
    usual for ImageNet: a random resized crop, or 256 pixels cut to 224 in the middle.
    """
    from torchvision.transforms import v2

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


def _normalised(pixels: Tensor, scale: Sequence[Tensor]) -> Tensor:
    images = torch.addcmul(scale[1], pixels, scale[0])
    # As a GPU's convolutions want them.
    on_gpu = images.device.type == "cuda"
    return images.to(memory_format=torch.channels_last) if on_gpu else images


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
