r"""Samples of two Gaussian classes on a line, as images: a data set whose right answers are known.

A sample is a number x, drawn from N(μ_k, σ_k²) of its class k. Its image has two channels, one for
x and one for (x - m)², m = (μ_0 + μ_1) / 2. The log-odds of two Gaussians are linear in these two,
so a linear model on the image is well specified, and training it leads to the thresholds and class
risks that :class:`raydrop.theory.TwoGaussians` has in closed form.

A pixel holds 256 values, too few for a threshold to be read off. So a channel's value v, scaled to
[0, 255], is spread over its P = 16 pixels as floor(v + j / P), j = 0...P - 1. By Hermite's identity
these sum to floor(P v): every sum or mean of pixels knows v to 1/P of a grey level. The single
pixels tell a little more, the fraction of v, which a linear model could learn for what it is worth;
the range is narrow and P small so that it is worth little beside x and its square.
"""

# ruff: noqa: RUF002 - sigma is a standard deviation and no o

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.data.arguments import Called
from raydrop.data.dataset import ArrayImages, LabelledDataset, Split, pixel_digest
from raydrop.data.sampling import raw_draws

SIDE = 4
"""Pixels along a side of an image; P is its square."""
REACH = 4.0
"""Standard deviations around each mean that images show; values beyond (6 in 10⁵) are clipped. A
wider range would leave fewer grey levels to what matters."""


@dataclass(frozen=True)
class Gaussians(Called):
    """What to draw: the mixture, and how many samples."""

    kind: ClassVar[str] = "gaussians"
    example: ClassVar[str] = "gaussians(sigma0=0.5, sigma1=1, prior0=0.5, n=20000)"

    mean0: float = -1
    """Mean of class 0."""
    mean1: float = 1
    """Mean of class 1, larger than that of class 0."""
    sigma0: float = 0.5
    """Standard deviation of class 0."""
    sigma1: float = 1
    """Standard deviation of class 1."""
    prior0: float = 0.5
    """Share of class 0 in every split."""
    n: int = 20_000
    """Training samples."""
    test: int = 20_000
    """Validation samples, and test samples, each."""
    seed: int = 0
    """Seed of all samples."""

    def __post_init__(self) -> None:
        for each in fields(self):
            self.check_number(each.name, getattr(self, each.name))
        if not self.mean0 < self.mean1:
            self.refuse("mean0 below mean1", f"{self.mean0:g} and {self.mean1:g}")
        for name in ("sigma0", "sigma1"):
            if getattr(self, name) <= 0:
                self.refuse(f"{name} above 0", f"{getattr(self, name):g}")
        if not 0 < self.prior0 < 1:
            self.refuse("prior0 between 0 and 1", f"{self.prior0:g}")
        for name in ("n", "test", "seed"):
            self.make_whole(name, least=0)
        for name in ("n", "test"):
            sizes = self.class_sizes(getattr(self, name))
            if min(sizes) < 1:
                self.refuse(f"samples of both classes among {name}", " and ".join(map(str, sizes)))

    @property
    def middle(self) -> float:
        """The point m from which the second channel measures."""
        return (self.mean0 + self.mean1) / 2

    @property
    def bounds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Smallest and largest value that each channel shows: of x, and of (x - m)²."""
        low = min(self.mean0 - REACH * self.sigma0, self.mean1 - REACH * self.sigma1)
        high = max(self.mean0 + REACH * self.sigma0, self.mean1 + REACH * self.sigma1)
        return (low, high), (0.0, max(self.middle - low, high - self.middle) ** 2)

    def class_sizes(self, count: int) -> tuple[int, int]:
        """Return how many of so many samples each class gets: its share, rounded."""
        first = round(count * self.prior0)
        return first, count - first

    def load(self) -> LabelledDataset:
        """Draw the samples of all three splits.

        Every split holds the classes in exactly their shares, first 0 and then 1. An id is the
        position in train, validation and test, one after another.
        """
        sizes = {"train": self.n, "validation": self.test, "test": self.test}
        splits, pixels, start = list[Split](), list[NDArray[np.uint8]](), 0
        for name, count in sizes.items():
            labels = np.repeat(np.arange(2), self.class_sizes(count))
            pixels.append(self.encode(self.draw(name, count)))
            splits.append(Split(np.arange(start, start + count), labels, ArrayImages(pixels[-1])))
            start += count
        train, validation, test = splits
        return LabelledDataset.from_content(
            pixel_digest(*pixels),
            name=str(self),
            class_names=("0", "1"),
            splits=(train, validation, test),
            image_shape=(2, SIDE, SIDE),
            horizontal_flip=False,
            crop_padding=0,
        )

    def draw(self, split: str, count: int) -> NDArray[np.float64]:
        """Return x of a split's samples, (count,): those of class 0, then those of class 1.

        Every split and class has a stream of its own; of a smaller count, the samples are the first
        ones of a larger.
        """
        from scipy import special  # which workers would wait for in vain

        drawn = []
        for k, size in enumerate(self.class_sizes(count)):
            raw = raw_draws(size, self.seed, f"gaussians/{split}/{k}")
            # The upper 53 bits, which float64 holds exactly; the half keeps 0 and 1 out.
            uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            mean, sigma = ((self.mean0, self.sigma0), (self.mean1, self.sigma1))[k]
            drawn.append(mean + sigma * special.ndtri(uniform))
        return np.concatenate(drawn)

    def encode(self, x: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the images of some x, (n, 2, SIDE, SIDE); values beyond the bounds are clipped."""
        low, high = np.array(self.bounds).T
        values = np.stack([x, (x - self.middle) ** 2], axis=1)
        levels = 255 * np.clip((values - low) / (high - low), 0, 1)
        steps = np.arange(SIDE**2) / SIDE**2
        pixels: NDArray[np.uint8] = np.floor(levels[:, :, None] + steps).astype(np.uint8)
        return pixels.reshape(len(x), 2, SIDE, SIDE)

    def decode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return x of some images (n, 2, SIDE, SIDE), to within half a step of the encoding.

        A step is 1/(255 P) of the range that images show, 0.002 by default.
        """
        low, high = self.bounds[0]
        level = pixels[:, 0].mean(axis=(1, 2)) + 0.5 / SIDE**2
        x: NDArray[np.float64] = np.minimum(low + (high - low) * level / 255, high)
        return x
