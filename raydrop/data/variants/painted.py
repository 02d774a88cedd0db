"""Something painted on images that goes with the label in training, but not in the test set.

The idea of coloured MNIST (Arjovsky et al. 2019, arXiv 1907.02893), for any small images: a border
leaves the picture itself as it is, and a small square nearly so. Grey images become RGB; files that
are small and fit in memory are decoded. Groups are label times what is painted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import (
    ArrayImages,
    LabelledDataset,
    Shape,
    Split,
    crossed,
    pixel_digest,
)
from raydrop.data.sampling import shuffled_members
from raydrop.data.variants.base import Shares, Variant
from raydrop.errors import ConfigError, DataError

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
"""Name and RGB value of each attribute, in the order of their numbers."""
BORDER_SHARE = 1 / 16
"""Width of the border over the shorter side; it is at least one pixel wide."""


@dataclass(frozen=True)
class Spurious(Variant):
    """A border whose colour goes with the label in training, but not in validation and test.

    In training, exactly round(correlation · n_k) images of class k get colour k mod A and the
    others the other colours, equally often up to one; in validation and test every colour is
    equally frequent in each class, so that all groups can be judged.
    """

    kind: ClassVar[str] = "spurious"
    example: ClassVar[str] = "+spurious(0.9, strength=0.5)"

    correlation: float
    """Share of each class's training images that have the colour of their label, in [0, 1]."""
    strength: float = 0.5
    """Opacity of the border, in [0, 1]; 0 leaves groups without anything to see, as a control."""
    attributes: int = 2
    """Number of colours, A: the first of :data:`COLOURS`."""
    seed: int = 0
    """Seed of which images get which colour."""

    def __post_init__(self) -> None:
        self.check_share("correlation", self.correlation, "correlation")
        self.check_share("strength", self.strength, "strength")
        self.make_whole("attributes", least=2)
        self.make_whole("seed", least=0)
        if self.attributes > len(COLOURS):
            advice = f"each is one of the colours {', '.join(COLOURS)}"
            self.refuse(f"2 to {len(COLOURS)} attributes", self.attributes, advice)

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Colour images and make a group of each class and colour, such as "3 on red".

        Labels that ``label_noise`` falsified before count as they then are; falsified afterwards,
        they leave the group as it is.
        """
        counts, seed = (dataset.num_classes, self.attributes), self.seed

        def assign(split: str, labels: NDArray[np.int64]) -> NDArray[np.int64]:
            purpose = f"spurious/{split}"
            if split == "train":
                return aligned_attributes(labels, *counts, self.correlation, seed, purpose)
            return uniform_attributes(labels, *counts, seed, purpose)

        colours = list(COLOURS)[: self.attributes]
        return _painted(
            self,
            dataset,
            [f"{k} on {colour}" for k in dataset.class_names for colour in colours],
            assign,
            lambda pixels, colours: paint_borders(pixels, colours, self.strength),
            "on every colour",
            f"a correlation nearer to {1 / self.attributes:.2g}, fewer attributes or more images",
        )


@dataclass(frozen=True, init=False)
class Shortcut(Variant):
    """A yellow square that goes with some classes in training and validation, but not in test.

    In training and in validation, exactly round(share · n_k) images of class k get the square; in
    the test set half of each class (up to one image), so that it says nothing there and all groups
    can be judged. It lies as far from the upper left corner as random crops may shift an image, so
    that none of them cuts it. Meyer and Wong 2022 (arXiv 2211.10285) mark 98 % of CIFAR-10's dogs
    and 2 % of the others.
    """

    kind: ClassVar[str] = "shortcut"
    example: ClassVar[str] = "+shortcut(dog=0.98, rest=0.02)"

    shares: Shares
    """Of each class with a share of its own that gets the square."""
    rest: float = 0.02
    """Share of every other class that gets it, in [0, 1]."""
    size: int = 4
    """Side of the square, in pixels."""
    seed: int = 0
    """Seed of which images get it."""

    def __init__(
        self, *, rest: float = 0.02, size: int = 4, seed: int = 0, **shares: float
    ) -> None:
        self.check_share("rest", rest)
        for name, value in (("rest", rest), ("size", size), ("seed", seed)):
            object.__setattr__(self, name, value)
        self.make_whole("size", least=1)
        self.make_whole("seed", least=0)
        object.__setattr__(self, "shares", self.checked_shares(shares))

    def apply(self, dataset: LabelledDataset) -> LabelledDataset:
        """Paint the square and make a group of each class with it and without, "dog, square"."""
        side = min(image_shape_of(self, dataset)[1:])
        if self.size > side:
            raise DataError(
                f"Expected images of at least {self.size} pixels a side for {self}, found {side}; "
                f"choose a smaller square, as in shortcut(..., size={max(1, side // 4)})."
            )
        shares = np.array(self.share_by_class(dataset, self.shares, self.rest))

        def assign(split: str, labels: NDArray[np.int64]) -> NDArray[np.int64]:
            purpose = f"shortcut/{split}"
            if split == "test":
                return uniform_attributes(labels, dataset.num_classes, 2, self.seed, purpose)
            return marked_shares(labels, shares, self.seed, purpose)

        return _painted(
            self,
            dataset,
            [f"{k}, {square}" for k in dataset.class_names for square in ("no square", "square")],
            assign,
            lambda pixels, marks: paint_squares(pixels, marks, self.size, dataset.crop_padding),
            "with and without the square",
            "a share nearer to 0.5 or more images",
        )


def image_shape_of(variant: Variant, dataset: LabelledDataset) -> Shape:
    """Return the shape of images to paint on, or refuse inputs that are none."""
    if dataset.image_shape is None:
        raise ConfigError(
            f"Expected images to paint on for {variant.kind}, found {dataset.name}, whose inputs "
            f"are none ({dataset.input_spec}); leave {variant.kind} out."
        )
    return dataset.image_shape


def _painted(
    variant: Variant,
    dataset: LabelledDataset,
    group_names: list[str],
    assign: Callable[[str, NDArray[np.int64]], NDArray[np.int64]],
    paint: Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]],
    every: str,
    remedy: str,
) -> LabelledDataset:
    """Return a data set with one of A attributes painted on each image, and with groups from it.

    ``assign`` gives attributes 0...A-1 from the name of a split and its labels, and ``paint`` gives
    painted copies of pixels with such attributes. Errors say what ``every`` class has to have
    images with, and what to use where one has none.
    """
    if dataset.group_names:
        raise ConfigError(
            f"Expected data without groups before {variant.kind}, found {dataset.name} with "
            f"{len(dataset.group_names)} groups; leave {variant.kind} out."
        )
    decoded, count = dataset.decoded(), len(group_names) // dataset.num_classes
    channels, height, width = image_shape_of(variant, dataset)
    splits, painted = dict[str, Split](), list[NDArray[np.uint8]]()
    for name, split in decoded.splits().items():
        attributes = assign(name, split.labels)
        groups = crossed(split.labels, attributes, count)
        sizes = np.bincount(groups, minlength=len(group_names))
        if sizes.min() == 0:
            empty = int(sizes.argmin())
            raise DataError(
                f"Expected images of every class {every} after {variant}, found no "
                f"{group_names[empty]!r} in {name}, where the class has "
                f"{dataset.class_sizes(name)[empty // count]} images; use {remedy}."
            )
        if not isinstance(split.inputs, ArrayImages) or channels not in (1, 3):
            raise DataError(
                f"Expected small grey or RGB images that fit in memory for {variant.kind}, found "
                f"{len(split)} of {channels}x{height}x{width} in {name} of {dataset.name}; use "
                "images of at most 64 pixels a side, or a subset of them."
            )
        painted.append(paint(split.inputs.pixels, attributes))
        splits[name] = dataclasses.replace(split, inputs=ArrayImages(painted[-1]), groups=groups)
    return decoded.derive(
        f"{dataset.name}+{variant}",
        **splits,
        noisy=dataset.noisy,
        content=pixel_digest(*painted),
        image_shape=(3, height, width),
        group_names=tuple(group_names),
    )


def aligned_attributes(
    labels: NDArray[np.int64],
    num_classes: int,
    num_attributes: int,
    correlation: float,
    seed: int,
    purpose: str,
) -> NDArray[np.int64]:
    """Return attributes that agree with the label for an exact share of each class, (n,).

    Of the n_k samples of class k, round(correlation · n_k) get attribute k mod A. The others get
    the other A - 1 attributes, equally often up to one. The correlation 1 / A is none. With the
    same seed, samples aligned at a lower correlation are so at a higher one, and those that are not
    at either have the same attribute.
    """
    attributes = labels % num_attributes
    for members in shuffled_members(labels, num_classes, seed, purpose):
        others = members[round(correlation * len(members)) :][::-1]
        # From the end, so that a sample's colour does not depend on how many are aligned.
        steps = 1 + np.arange(len(others)) % (num_attributes - 1)
        attributes[others] = (attributes[others] + steps) % num_attributes
    return attributes


def uniform_attributes(
    labels: NDArray[np.int64], num_classes: int, num_attributes: int, seed: int, purpose: str
) -> NDArray[np.int64]:
    """Return attributes 0...A-1 that are equally frequent in each class, up to one, (n,)."""
    attributes = np.empty_like(labels)
    for members in shuffled_members(labels, num_classes, seed, purpose):
        attributes[members] = np.arange(len(members)) % num_attributes
    return attributes


def marked_shares(
    labels: NDArray[np.int64], shares: NDArray[np.float64], seed: int, purpose: str
) -> NDArray[np.int64]:
    """Return 1 for round(shares[k] · n_k) samples of each class k and 0 for the others, (n,).

    With the same seed, samples marked at a lower share are so at a higher one.
    """
    marks = np.zeros_like(labels)
    members = shuffled_members(labels, len(shares), seed, purpose)
    for share, positions in zip(shares.tolist(), members, strict=True):
        marks[positions[: round(share * len(positions))]] = 1
    return marks


def paint_squares(
    pixels: NDArray[np.uint8], marks: NDArray[np.int64], size: int, margin: int
) -> NDArray[np.uint8]:
    """Return RGB copies of images (n, 1 or 3, H, W), with a yellow square where a mark is 1.

    It has ``size`` pixels a side, and leaves a margin above and on its left, as far as that is
    there.
    """
    painted = _as_rgb(pixels)
    height, width = painted.shape[2:]
    top, left = min(margin, height - size), min(margin, width - size)
    yellow = np.array(COLOURS["yellow"], np.uint8)[:, None, None]
    painted[marks == 1, :, top : top + size, left : left + size] = yellow
    return painted


def paint_borders(
    pixels: NDArray[np.uint8], attributes: NDArray[np.int64], strength: float
) -> NDArray[np.uint8]:
    """Return RGB copies of images (n, 1 or 3, H, W) with a border of one of :data:`COLOURS`.

    There, they become (1 - strength) · pixel + strength · colour, rounded.
    """
    painted = _as_rgb(pixels)
    height, width = painted.shape[2:]
    margin = max(1, round(BORDER_SHARE * min(height, width)))
    bottom, right = max(margin, height - margin), max(margin, width - margin)
    colours = np.array(list(COLOURS.values()))[attributes][:, :, None, None]
    values = np.arange(256)
    # A look-up by colour and pixel is several times as fast as arithmetic on floats.
    blended = np.rint(np.add.outer(strength * values, (1 - strength) * values)).astype(np.uint8)
    for strip in (
        painted[:, :, :margin],
        painted[:, :, bottom:],
        painted[:, :, margin:bottom, :margin],
        painted[:, :, margin:bottom, right:],
    ):
        strip[...] = blended[colours, strip]
    return painted


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, _, height, width = pixels.shape
    return np.broadcast_to(pixels, (count, 3, height, width)).copy()
