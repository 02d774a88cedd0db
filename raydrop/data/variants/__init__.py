"""Harder versions of a data set: long-tailed, with false labels, with a shortcut, or small.

Each variant is a frozen value with the arguments that a specification writes, such as
``long_tail(10)``, and an ``apply`` from data set to data set. Sample ids never change. None may
take the last training image of a class or group.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ArrayImages, ImageDataset, Split, pixel_digest
from raydrop.data.groups import crossed
from raydrop.data.variants.sampling import choose_per_class, raw_draws, shuffled
from raydrop.data.variants.spurious import (
    COLOURS,
    aligned_attributes,
    marked_shares,
    paint_borders,
    paint_squares,
    uniform_attributes,
)
from raydrop.errors import ConfigError, DataError, unknown_name
from raydrop.study import By

CHOICE_SEED = 0
"""Seed of ``long_tail``, ``thinned`` and ``subset``: fixed, so that all studies of a variant share
its data."""
SQUARE = ("no square", "square")
"""What the groups of ``shortcut`` are with."""


class Variant(Protocol):
    """Turns a data set into another one with the same ids."""

    example: ClassVar[str]
    """How a specification writes it."""

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Return the variant of a data set."""
        ...


@dataclass(frozen=True)
class LongTail:
    """Class sizes that fall exponentially, from the first class to the last."""

    example: ClassVar[str] = "long_tail(10)"

    factor: float
    """Size of the first class over the size of the last, at least 1."""

    def __post_init__(self) -> None:
        if not 1 <= _number("factor", self.factor, self.example) < math.inf:
            raise ConfigError(
                f"Expected a factor of at least 1 in long_tail, found {self.factor}; "
                "it is the size of the first class over that of the last."
            )

    def __str__(self) -> str:
        return f"long_tail({number_text(self.factor)})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Drop training images so that class sizes follow :func:`long_tail_sizes`.

        Validation and test keep all of theirs. Choices for a larger factor are nested in those for
        a smaller one. Groups follow their samples.

        Raises:
            DataError: If a class has no training image to start with, or a group would have none.
        """
        sizes = dataset.class_sizes()
        if sizes.min() == 0:
            raise DataError(
                "Expected training images of every class before long_tail, found none of class "
                f"{dataset.class_names[int(sizes.argmin())]!r}; apply long_tail first."
            )
        kept = choose_per_class(
            dataset.train.labels,
            long_tail_sizes(int(sizes.min()), self.factor, dataset.num_classes),
            CHOICE_SEED,
            "long_tail",
        )
        return _with_train(dataset, self, kept)


def long_tail_sizes(largest: int, factor: float, num_classes: int) -> NDArray[np.int64]:
    """Return the class sizes of a long-tailed training set, (K,).

    Class k gets round(n · factor^(-k / (K - 1))) samples, and at least one, where n is the size of
    the first and largest class (the profile of Cui et al. 2019, arXiv 1901.05555).

    Args:
        largest: n, at least 1.
        factor: Size of the first class over the size of the last, at least 1.
        num_classes: K; a single class keeps n.

    Example:
        >>> long_tail_sizes(1000, 100, 3)
        array([1000,  100,   10])
    """
    exponents = np.arange(num_classes) / max(num_classes - 1, 1)
    return np.maximum(np.rint(largest * float(factor) ** -exponents), 1).astype(np.int64)


@dataclass(frozen=True, init=False)
class Thinned:
    """Some classes with fewer training images than there are."""

    example: ClassVar[str] = "thinned(cat=0.2, dog=0.2)"

    shares: tuple[tuple[str, float], ...]
    """Name, or number from 0, of each thinned class and the share of its images that stays, in
    (0, 1]; sorted."""

    def __init__(self, **shares: float) -> None:
        object.__setattr__(self, "shares", _shares("thinned", shares, self.example))
        for name, share in self.shares:
            if share == 0:
                raise ConfigError(
                    f"Expected shares above 0 in thinned, found {name}=0; "
                    f"write for example +{self.example}."
                )

    def __str__(self) -> str:
        return f"thinned({_assignments(self.shares)})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Keep a random round(share · n_k) of the n_k training images of each named class.

        Validation and test keep all of theirs. Choices for a smaller share are nested in those for
        a larger one. Groups follow their samples. Meyer and Wong 2022 (arXiv 2211.10285) remove
        80 % of CIFAR-10's cats and dogs in this way.

        Raises:
            ConfigError: If there is no such class.
            DataError: If a class or group would have no training image left.
        """
        sizes = dataset.class_sizes()
        shares = _by_class(dataset, self.shares, rest=1.0, kind=str(self))
        counts = np.array([round(s * n) for s, n in zip(shares, sizes, strict=True)], np.int64)
        kept = choose_per_class(dataset.train.labels, counts, CHOICE_SEED, "thinned")
        return _with_train(dataset, self, kept)


@dataclass(frozen=True)
class LabelNoise:
    """False labels, uniformly among the other classes."""

    example: ClassVar[str] = "label_noise(0.2)"

    rate: float
    """Share of the training labels that become false, in [0, 1]."""
    seed: int = 0
    """Seed of which labels, and what they become."""

    def __post_init__(self) -> None:
        if not 0 <= _number("rate", self.rate, self.example) <= 1:
            raise ConfigError(
                f"Expected a rate from 0 to 1 in label_noise, found {self.rate}; "
                "it is the share of training labels that become false."
            )
        _check_whole("seed", self.seed, least=0, example="label_noise(0.2, seed=1)")

    def __str__(self) -> str:
        seed = f", seed={number_text(self.seed)}" if self.seed else ""
        return f"label_noise({number_text(self.rate)}{seed})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Falsify exactly round(rate · N) training labels and mark them in ``noisy``.

        Labels that an earlier ``label_noise`` changed stay marked. Validation and test keep theirs.
        Groups stay too: they say what is true of a sample, not what its label claims.

        Raises:
            ConfigError: If there is no other class to choose.
            DataError: If a class would lose its last training image.
        """
        train, classes = dataset.train, dataset.num_classes
        if classes < 2:
            raise ConfigError(
                f"Expected two classes or more for label_noise, found {classes}; leave it out."
            )
        labels, changed = falsify(train.labels, self.rate, classes, int(self.seed))
        if dataset.noisy is not None:
            changed = changed | dataset.noisy
        falsified = dataclasses.replace(train, labels=labels)
        _check_none_emptied(dataset, self, falsified)
        return dataset.derive(f"{dataset.name}+{self}", train=falsified, noisy=changed)


def falsify(
    labels: NDArray[np.int64], rate: float, num_classes: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Replace exactly round(rate · N) labels by another class, drawn uniformly.

    Args:
        labels: Classes 0...K-1, (N,).
        rate: Share of labels to replace, in [0, 1].
        num_classes: K, at least 2.
        seed: With the same seed, labels changed at a lower rate are changed alike at a higher one.

    Returns:
        The new labels, (N,), and which of them changed, (N,) bool.
    """
    chosen = shuffled(len(labels), seed, "label_noise/which")[: round(rate * len(labels))]
    # A step of 1...K-1 around the circle of classes never ends where it began.
    steps = 1 + raw_draws(len(labels), seed, "label_noise/class") % np.uint64(num_classes - 1)
    changed = np.zeros(len(labels), bool)
    changed[chosen] = True
    moved = (labels + steps.astype(np.int64)) % num_classes
    return np.where(changed, moved, labels), changed


@dataclass(frozen=True)
class Subset:
    """At most so many images of each class."""

    example: ClassVar[str] = "subset(500, test=100)"

    n: int
    """Training images per class, at most."""
    test: int | None = None
    """Images per class in validation and in test each, at most; :attr:`n` by default."""

    def __post_init__(self) -> None:
        _check_whole("n", self.n, least=1, example=self.example)
        if self.test is not None:
            _check_whole("test", self.test, least=1, example=self.example)

    def __str__(self) -> str:
        same = self.test is None or self.test == self.n
        test = "" if same or self.test is None else f", test={number_text(self.test)}"
        return f"subset({number_text(self.n)}{test})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Keep a random choice of each class in each split; smaller choices nest in larger ones.

        Groups follow their samples.

        Raises:
            DataError: If a group would lose its last image in a split.
        """
        held_out = self.n if self.test is None else self.test
        return _with_train(
            dataset,
            self,
            _at_most(dataset, "train", int(self.n)),
            validation=dataset.validation.take(_at_most(dataset, "validation", int(held_out))),
            test=dataset.test.take(_at_most(dataset, "test", int(held_out))),
        )


@dataclass(frozen=True)
class Spurious:
    """A border whose colour goes with the label in training, but not in validation and test."""

    example: ClassVar[str] = "spurious(0.9, strength=0.5)"

    correlation: float
    """Share of each class's training images that have the colour of their label, in [0, 1]."""
    strength: float = 0.5
    """Opacity of the border, in [0, 1]; 0 leaves groups without anything to see, as a control."""
    attributes: int = 2
    """Number of colours, A: the first of red, green, blue, yellow, magenta and cyan."""
    seed: int = 0
    """Seed of which images get which colour."""

    def __post_init__(self) -> None:
        for name in ("correlation", "strength"):
            value = getattr(self, name)
            if not 0 <= _number(name, value, self.example) <= 1:
                raise ConfigError(
                    f"Expected a {name} from 0 to 1 in spurious, found {value}; "
                    f"write for example +{self.example}."
                )
        _check_whole("attributes", self.attributes, least=2, example="spurious(0.9, attributes=3)")
        if self.attributes > len(COLOURS):
            raise ConfigError(
                f"Expected 2 to {len(COLOURS)} attributes in spurious, found {self.attributes}; "
                f"each is one of the colours {', '.join(COLOURS)}."
            )
        _check_whole("seed", self.seed, least=0, example="spurious(0.9, seed=1)")

    def __str__(self) -> str:
        arguments = [number_text(self.correlation)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                arguments.append(f"{field.name}={number_text(value)}")
        return f"spurious({', '.join(arguments)})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Colour images and make a group of each class and colour, such as "3 on red".

        In training, exactly round(correlation · n_k) images of class k get colour k mod A and the
        others the other colours, equally often up to one; in validation and test every colour is
        equally frequent in each class, so that all groups can be judged (after the coloured MNIST
        of Arjovsky et al. 2019, arXiv 1907.02893). Group k · A + a is class k on colour a. Labels
        that ``label_noise`` falsified before count as they then are; falsified afterwards, they
        leave the group as it is. Grey images become RGB; files that are small and fit in memory
        are decoded.

        Raises:
            ConfigError: If the data have groups already.
            DataError: If images are too large or too many for memory, or a group would be empty.
        """
        colours = list(COLOURS)[: int(self.attributes)]
        names = tuple(f"{k} on {c}" for k in dataset.class_names for c in colours)
        return _painted(dataset, self, self._coloured, names)

    def _coloured(self, dataset: ImageDataset, name: str, split: Split) -> Split:
        """Return a split with coloured images and with groups."""
        classes, count, seed = dataset.num_classes, int(self.attributes), int(self.seed)
        purpose = f"spurious/{name}"
        if name == "train":
            attributes = aligned_attributes(
                split.labels, classes, count, self.correlation, seed, purpose
            )
        else:
            attributes = uniform_attributes(split.labels, classes, count, seed, purpose)
        groups = crossed(split.labels, attributes, count)
        self._check_groups(dataset, name, np.bincount(groups, minlength=classes * count))
        pixels = _pixels(dataset, name, self)
        images = ArrayImages(paint_borders(pixels, attributes, self.strength))
        return dataclasses.replace(split, images=images, groups=groups)

    def _check_groups(self, dataset: ImageDataset, name: str, sizes: NDArray[np.int64]) -> None:
        if sizes.min() > 0:
            return
        label, attribute = divmod(int(sizes.argmin()), int(self.attributes))
        group = f"{dataset.class_names[label]} on {list(COLOURS)[attribute]}"
        of_class = int(dataset.class_sizes(name)[label])
        raise DataError(
            f"Expected images of every class on every colour after {self}, found no {group!r} in "
            f"{name}, where the class has {of_class} images; use a correlation nearer to "
            f"{1 / self.attributes:.2g}, fewer attributes or more images."
        )


@dataclass(frozen=True, init=False)
class Shortcut:
    """A yellow square that goes with some classes in training and validation, but not in test."""

    example: ClassVar[str] = "shortcut(dog=0.98, rest=0.02)"

    shares: tuple[tuple[str, float], ...]
    """Name, or number from 0, of each class with a share of its own that gets the square, in
    [0, 1]; sorted."""
    rest: float
    """Share of every other class that gets it, in [0, 1]."""
    size: int
    """Side of the square, in pixels."""
    seed: int
    """Seed of which images get it."""

    def __init__(
        self, *, rest: float = 0.02, size: int = 4, seed: int = 0, **shares: float
    ) -> None:
        ((_, rest),) = _shares("shortcut", {"rest": rest}, self.example)
        _check_whole("size", size, least=1, example="shortcut(dog=0.98, size=4)")
        _check_whole("seed", seed, least=0, example="shortcut(dog=0.98, seed=1)")
        object.__setattr__(self, "shares", _shares("shortcut", shares, self.example))
        for name, value in (("rest", rest), ("size", int(size)), ("seed", int(seed))):
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        others = [("rest", self.rest, 0.02), ("size", self.size, 4), ("seed", self.seed, 0)]
        written = [(name, value) for name, value, usual in others if value != usual]
        return f"shortcut({_assignments((*self.shares, *written))})"

    def apply(self, dataset: ImageDataset) -> ImageDataset:
        """Paint the square and make a group of each class with it and without, "dog, square".

        In training and in validation, exactly round(share · n_k) images of class k get the square;
        in the test set half of each class (up to one image), so that it says nothing there and all
        groups can be judged. It lies as far from the upper left corner as random crops may shift an
        image, so that none of them cuts it. Group 2 k is class k without the square and group
        2 k + 1 with it. Grey images become RGB; files that are small and fit in memory are decoded.
        Meyer and Wong 2022 (arXiv 2211.10285) mark 98 % of CIFAR-10's dogs and 2 % of the others.

        Raises:
            ConfigError: If the data have groups already, or there is no such class.
            DataError: If images are smaller than the square, too large or too many for memory, or a
                group would be empty.
        """
        side = min(dataset.image_shape[1:])
        if self.size > side:
            raise DataError(
                f"Expected images of at least {self.size} pixels a side for {self}, found {side}; "
                f"choose a smaller square, as in shortcut(..., size={max(1, side // 4)})."
            )
        _by_class(dataset, self.shares, self.rest, str(self))
        names = tuple(f"{k}, {square}" for k in dataset.class_names for square in SQUARE)
        return _painted(dataset, self, self._marked, names)

    def _marked(self, dataset: ImageDataset, name: str, split: Split) -> Split:
        """Return a split with squares on some images and with groups."""
        classes, purpose = dataset.num_classes, f"shortcut/{name}"
        if name == "test":
            marks = uniform_attributes(split.labels, classes, 2, self.seed, purpose)
        else:
            shares = np.array(_by_class(dataset, self.shares, self.rest, str(self)))
            marks = marked_shares(split.labels, shares, self.seed, purpose)
        groups = crossed(split.labels, marks, 2)
        self._check_groups(dataset, name, np.bincount(groups, minlength=2 * classes))
        pixels = _pixels(dataset, name, self)
        images = ArrayImages(paint_squares(pixels, marks, self.size, dataset.crop_padding))
        return dataclasses.replace(split, images=images, groups=groups)

    def _check_groups(self, dataset: ImageDataset, name: str, sizes: NDArray[np.int64]) -> None:
        if sizes.min() > 0:
            return
        label, mark = divmod(int(sizes.argmin()), 2)
        raise DataError(
            f"Expected images of every class with and without the square after {self}, found no "
            f"{f'{dataset.class_names[label]}, {SQUARE[mark]}'!r} in {name}, where the class has "
            f"{dataset.class_sizes(name)[label]} images; use a share nearer to 0.5 or more images."
        )


AnyVariant = (
    type[LongTail]
    | type[Thinned]
    | type[LabelNoise]
    | type[Spurious]
    | type[Shortcut]
    | type[Subset]
)

VARIANTS: dict[str, AnyVariant] = {
    "long_tail": LongTail,
    "thinned": Thinned,
    "label_noise": LabelNoise,
    "spurious": Spurious,
    "shortcut": Shortcut,
    "subset": Subset,
}
"""Every variant by the name that specifications use."""


def number_text(value: float) -> str:
    """Return the shortest text of a number: ``10`` for 10.0, ``0.2`` for 0.20."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _painted(
    dataset: ImageDataset,
    variant: Spurious | Shortcut,
    paint: Callable[[ImageDataset, str, Split], Split],
    group_names: tuple[str, ...],
) -> ImageDataset:
    """Return a data set with something painted on its images, and with groups from it.

    Raises:
        ConfigError: If the data have groups already.
    """
    if dataset.group_names:
        kind = str(variant).partition("(")[0]
        raise ConfigError(
            f"Expected data without groups before {kind}, found {dataset.name} with "
            f"{len(dataset.group_names)} groups; leave {kind} out."
        )
    decoded = dataset.decoded()
    splits = [paint(decoded, name, split) for name, split in decoded.splits().items()]
    images = [split.images for split in splits]
    pixels = [part.pixels for part in images if isinstance(part, ArrayImages)]
    return decoded.derive(
        f"{dataset.name}+{variant}",
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        noisy=dataset.noisy,
        content=pixel_digest(*pixels),
        image_shape=(3, dataset.image_shape[1], dataset.image_shape[2]),
        group_names=group_names,
    )


def _pixels(dataset: ImageDataset, name: str, variant: Spurious | Shortcut) -> NDArray[np.uint8]:
    """Return the images of a split, (n, C, H, W), or raise where they cannot be painted."""
    channels, height, width = dataset.image_shape
    split = dataset.splits()[name]
    if not isinstance(split.images, ArrayImages) or channels not in (1, 3):
        raise DataError(
            "Expected small grey or RGB images that fit in memory for "
            f"{str(variant).partition('(')[0]}, found {len(split)} of {channels}x{height}x{width} "
            f"in {name} of {dataset.name}; use images of at most 64 pixels a side, or a subset of "
            "them."
        )
    return split.images.pixels


def _shares(kind: str, shares: Mapping[str, float], example: str) -> tuple[tuple[str, float], ...]:
    """Return classes and their shares, sorted, or raise where one is outside [0, 1]."""
    if not shares:
        raise ConfigError(
            f"Expected a share of at least one class in {kind}, found none; write +{example}."
        )
    for name, share in shares.items():
        if not 0 <= _number(name, share, example) <= 1:
            raise ConfigError(
                f"Expected a share from 0 to 1 for {name} in {kind}, found {share}; "
                f"write for example +{example}."
            )
    return tuple(sorted(shares.items()))


def _assignments(pairs: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name}={number_text(value)}" for name, value in pairs)


def _by_class(
    dataset: ImageDataset, shares: tuple[tuple[str, float], ...], rest: float, kind: str
) -> list[float]:
    """Return the share of every class, (K,).

    Raises:
        ConfigError: If there is no such class, or one is named twice.
    """
    numbers = {str(number): number for number in range(dataset.num_classes)}
    numbers |= {name: number for number, name in enumerate(dataset.class_names)}
    found = dict[int, float]()
    for name, share in shares:
        if name not in numbers:
            raise unknown_name(f"class of {dataset.name}", name, dataset.class_names)
        if numbers[name] in found:
            raise ConfigError(
                f"Expected each class once in {kind}, found {name!r} twice, by name and by number; "
                "leave one out."
            )
        found[numbers[name]] = share
    return [found.get(number, rest) for number in range(dataset.num_classes)]


def _at_most(dataset: ImageDataset, split: str, count: int) -> NDArray[np.int64]:
    sizes = dataset.class_sizes(split)
    counts = np.minimum(sizes, min(count, int(sizes.max())))
    return choose_per_class(dataset.splits()[split].labels, counts, CHOICE_SEED, f"subset/{split}")


def _with_train(
    dataset: ImageDataset,
    variant: Variant,
    kept: NDArray[np.int64],
    validation: Split | None = None,
    test: Split | None = None,
) -> ImageDataset:
    train = dataset.train.take(kept)
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        if split is not None:
            _check_none_emptied(dataset, variant, split, name)
    return dataset.derive(
        f"{dataset.name}+{variant}",
        train=train,
        validation=validation,
        test=test,
        noisy=None if dataset.noisy is None else dataset.noisy[kept],
    )


def _check_none_emptied(
    dataset: ImageDataset, variant: Variant, after: Split, name: str = "train"
) -> None:
    """Raise where a class or group has samples in a split before, but none after a variant."""
    kinds: tuple[By, ...] = ("class", "group") if dataset.group_names else ("class",)
    for kind in kinds:
        members = after.labels if kind == "class" or after.groups is None else after.groups
        left = np.bincount(members, minlength=len(dataset.names(kind)))
        before = dataset.sizes(kind, name)
        emptied = np.flatnonzero((before > 0) & (left == 0))
        if len(emptied):
            raise DataError(
                f"Expected {variant} to leave images of every {kind} in {name}, found none left of "
                f"the {before[emptied[0]]} of {kind} {dataset.names(kind)[emptied[0]]!r}; use a "
                "milder variant or data with more of them."
            )


def _number(name: str, value: object, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"Expected a number for {name}, found {value!r}; write +{example}.")
    return value


def _check_whole(name: str, value: object, least: int, example: str) -> None:
    number = _number(name, value, example)
    if not math.isfinite(number) or number != int(number) or number < least:
        raise ConfigError(
            f"Expected a whole number of at least {least} for {name}, found {value}; "
            f"write for example +{example}."
        )
