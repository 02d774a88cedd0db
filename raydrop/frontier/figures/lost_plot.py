"""A drawing of the test images that pruned networks lose most often."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raydrop.frontier.figures.canvas import cut, styled
from raydrop.frontier.figures.samples import enlarged
from raydrop.frontier.report.lost import LostImages

COLUMNS = 10
SIDE, GAP, CAPTION = 0.72, 0.16, 0.5
"""Inches of a picture, of what is between two, and of the words below it."""
CLASS_LETTERS = 13
"""Of a class name; the rest is cut off."""


def plot_lost_images(lost: LostImages, ax: Axes) -> Axes:
    """Draw pictures in rows; below each its class, what it is taken for, and the share lost.

    Args:
        lost: As from :func:`~raydrop.frontier.report.lost.lost_images`.
        ax: Where to draw; its units become inches, from the top left.

    Returns:
        ``ax``.
    """
    tall = _tall(lost)
    for place, image in enumerate(lost.images):
        row, column = divmod(place, COLUMNS)
        x, y = column * (SIDE + GAP), row * (tall + CAPTION)
        extent = (x, x + SIDE, y + tall, y)
        ax.imshow(enlarged(image.pixels), interpolation="none", extent=extent, aspect="auto")
        name, other = (cut(each, CLASS_LETTERS) for each in (image.name, image.taken_for))
        words = f"{name}\nas {other}\n{image.percent}"
        middle = x + SIDE / 2
        ax.text(middle, y + tall + 0.04, words, ha="center", va="top", size=6.5)
    width, height = _size(lost)
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


@styled()
def lost_figure(lost: LostImages) -> Figure:
    """Compose the pictures with a line that says what they are.

    Args:
        lost: As from :func:`~raydrop.frontier.report.lost.lost_images`.
    """
    width, height = _size(lost)
    across, down = max(width, 4.2) + 0.2, height + 0.35
    figure = Figure(figsize=(across, down))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.1 / across, 0.05 / down, width / across, height / down))
    plot_lost_images(lost, ax)
    title = f"Test images most often lost by {lost.n_trials} pruned networks"
    figure.text(0.1 / across, 1 - 0.2 / down, title, fontsize=9)
    return figure


def _size(lost: LostImages) -> tuple[float, float]:
    """Return the inches that the pictures take with their captions."""
    count = len(lost.images)
    rows = math.ceil(count / COLUMNS)
    return min(count, COLUMNS) * (SIDE + GAP), rows * (_tall(lost) + CAPTION)


def _tall(lost: LostImages) -> float:
    height, width = lost.images[0].pixels.shape[:2]
    return SIDE * float(height / width)
