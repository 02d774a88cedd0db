"""What predicts the label in training and not in the test set: who gets it, and painting it.

The idea of coloured MNIST (Arjovsky et al. 2019, arXiv 1907.02893), for any small images: a border
leaves the picture itself as it is, and a small square nearly so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.data.variants.sampling import shuffled_members

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
    the other A - 1 attributes, equally often up to one. The correlation 1 / A is none.

    Args:
        labels: Classes 0...K-1, (n,).
        num_classes: K.
        num_attributes: A, at least 2.
        correlation: Share of each class that is aligned, in [0, 1].
        seed: With the same seed, samples aligned at a lower correlation are so at a higher one, and
            those that are not at either have the same attribute.
        purpose: What the choice is for.
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
    """Return attributes 0...A-1 that are equally frequent in each class, up to one, (n,).

    Args:
        labels: Classes 0...K-1, (n,).
        num_classes: K.
        num_attributes: A.
        seed: Of the choice.
        purpose: What the choice is for.
    """
    attributes = np.empty_like(labels)
    for members in shuffled_members(labels, num_classes, seed, purpose):
        attributes[members] = np.arange(len(members)) % num_attributes
    return attributes


def marked_shares(
    labels: NDArray[np.int64], shares: NDArray[np.float64], seed: int, purpose: str
) -> NDArray[np.int64]:
    """Return 1 for an exact share of each class and 0 for the others, (n,).

    Of the n_k samples of class k, round(shares[k] · n_k) are marked.

    Args:
        labels: Classes 0...K-1, (n,).
        shares: Share of each class that is marked, (K,), in [0, 1].
        seed: With the same seed, samples marked at a lower share are so at a higher one.
        purpose: What the choice is for.
    """
    marks = np.zeros_like(labels)
    members = shuffled_members(labels, len(shares), seed, purpose)
    for share, positions in zip(shares.tolist(), members, strict=True):
        marks[positions[: round(share * len(positions))]] = 1
    return marks


def paint_squares(
    pixels: NDArray[np.uint8], marks: NDArray[np.int64], size: int, margin: int
) -> NDArray[np.uint8]:
    """Paint a yellow square over the upper left of the marked images.

    Args:
        pixels: Grey or RGB images, (n, 1 or 3, H, W); they are left as they are.
        marks: 1 for an image that gets a square and 0 for one that does not, (n,).
        size: Side of the square, in pixels; at most H and W.
        margin: Pixels that it leaves above and on its left, as far as they are there.

    Returns:
        RGB images, (n, 3, H, W).
    """
    count, _, height, width = pixels.shape
    painted = np.broadcast_to(pixels, (count, 3, height, width)).copy()
    top, left = min(margin, height - size), min(margin, width - size)
    yellow = np.array(COLOURS["yellow"], np.uint8)[:, None, None]
    painted[marks == 1, :, top : top + size, left : left + size] = yellow
    return painted


def paint_borders(
    pixels: NDArray[np.uint8], attributes: NDArray[np.int64], strength: float
) -> NDArray[np.uint8]:
    """Blend a coloured border into images: (1 - strength) · pixel + strength · colour, rounded.

    Args:
        pixels: Grey or RGB images, (n, 1 or 3, H, W); they are left as they are.
        attributes: Positions in :data:`COLOURS`, (n,).
        strength: Opacity of the border, in [0, 1].

    Returns:
        RGB images, (n, 3, H, W).
    """
    count, _, height, width = pixels.shape
    painted = np.broadcast_to(pixels, (count, 3, height, width)).copy()
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
