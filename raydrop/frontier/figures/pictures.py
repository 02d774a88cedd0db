"""Pictures that a sweep leaves in the store: samples kept and pruned first, and test images lost.

They come from entries of kind ``images``, which :mod:`raydrop.stages.pictures` writes. Folders of
older versions, and data that are no pictures, have none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raydrop.frontier.figures.canvas import (
    UNIT_LETTERS,
    axes_at,
    cut,
    in_rows,
    new_figure,
    styled,
    text_width,
    without_frame,
)
from raydrop.frontier.records import Records
from raydrop.frontier.sources import Sources
from raydrop.store import Entry, Store

SHOWN_UNITS = 10
"""Classes of a method."""
SHOWN_TILES = 600
"""Pictures of all methods together; with many methods, fewer classes are shown."""
LEAST_UNITS = 3
LARGEST_BYTES = 2 * 1024**2
"""Pixels of all methods together; larger ones are shown at half their size."""
TILE = 32
"""Smaller pictures are enlarged by a whole number to about this many pixels."""
TILE_INCHES = 0.34
LOST_COLUMNS = 10
LOST_SIDE, LOST_GAP, LOST_CAPTION = 0.72, 0.16, 0.5
"""Inches of a picture, of what is between two, and of the words below it."""
LOST_LETTERS = 13

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SampleGrid:
    """Samples of one method's scores, a row per class."""

    name: str
    """The method, and its query model if there are several."""
    seed: int
    """Of the scores."""
    higher_is_kept: bool
    units: tuple[str, ...]
    """R names of classes or groups; that with the lowest recall on validation first."""
    kept: tuple[Pixels, ...]
    """For each row, (m, h, w, 3): what is kept first."""
    pruned: tuple[Pixels, ...]
    """For each row, (m', h, w, 3): what is pruned first."""

    @property
    def per_side(self) -> int:
        """The most pictures in a row."""
        return max(map(len, (*self.kept, *self.pruned)))


@dataclass(frozen=True, eq=False)
class LostImage:
    """A test image that pruned networks lose."""

    pixels: Pixels
    """(h, w, 3)."""
    sample_id: int
    name: str
    """Its class, with its group where the study is about groups."""
    taken_for: str
    """The class that most networks which lose it take it for."""
    share: float
    """Of all networks that were pruned, those that lose it."""

    @property
    def percent(self) -> str:
        """The share as it is shown."""
        return f"{100 * self.share:.0f} %"


@dataclass(frozen=True, eq=False)
class LostImages:
    """The images that are lost most often, the most frequent first."""

    images: Sequence[LostImage]
    n_trials: int
    """Network trials that were looked at."""
    of_trials: int
    """Finished network trials of the study."""


def sample_grids(records: Records, sources: Sources) -> list[SampleGrid]:
    """Return the stored pictures of the first seed, by the names of the methods.

    At most :data:`SHOWN_UNITS` classes of each method, and fewer if all methods together would have
    more than :data:`SHOWN_TILES` pictures.
    """
    entries = Store(records.place).entries("images")
    found = [entry for entry in entries if entry.config.get("scores") in sources.scores]
    first: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda e: int(e.info["seed"])):
        first.setdefault(sources.scorer(entry.config["scores"]), entry)
    if not first:
        return []
    most = max(max(Counter(e.array("units").tolist()).values()) for e in first.values())
    rows = max(LEAST_UNITS, min(SHOWN_UNITS, SHOWN_TILES // (most * len(first))))
    grids = [_grid(name, first[name], records, rows) for name in sorted(first)]
    total = sum(part.nbytes for grid in grids for part in (*grid.kept, *grid.pruned))
    return grids if total <= LARGEST_BYTES else [_halved(grid) for grid in grids]


def lost_images(records: Records) -> LostImages | None:
    """Return the stored pictures of lost images, or None where there are none.

    Of several entries, as a study leaves that has grown, it is the one about the most trials; one
    that is about trials of other studies too is left alone.
    """
    networks = records.trials[records.trials["network_method"] != "none"]
    finished = set(networks["trial_id"])
    entries = [
        entry
        for entry in Store(records.place).entries("images")
        if entry.config.get("what") == "lost" and set(entry.config["trials"]) <= finished
    ]
    if not entries:
        return None
    entry = max(entries, key=lambda each: (len(each.config["trials"]), each.key))
    names = ("ids", "labels", "units", "taken_for", "share")
    rows = zip(*(entry.array(name).tolist() for name in names), strict=True)
    classes, groups = records.class_names, records.group_names
    grouped = entry.info["by"] == "group"
    images = []
    for picture, (sample_id, label, unit, other, share) in zip(_pixels(entry), rows, strict=True):
        name = f"{classes[label]} ({groups[unit]})" if grouped else classes[label]
        images.append(LostImage(picture, sample_id, name, classes[other], share))
    return LostImages(images, int(entry.info["n_trials"]), len(finished))


def _pixels(entry: Entry) -> Pixels:
    """Return an entry's pictures (n, h, w, 3); grey ones become RGB."""
    pixels = entry.array("pixels", kinds="u", shape=(None,) * 4).transpose(0, 2, 3, 1)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _grid(name: str, entry: Entry, records: Records, rows: int) -> SampleGrid:
    pixels, members, kept = _pixels(entry), entry.array("units"), entry.array("kept")
    units = list(dict.fromkeys(members.tolist()))[:rows]
    names = records.names(entry.info["by"])
    kept_first, pruned_first = (
        tuple(pixels[(members == unit) & (kept == side)] for unit in units)
        for side in (True, False)
    )
    seed, higher = int(entry.info["seed"]), bool(entry.info["higher_is_kept"])
    shown = tuple(names[unit] for unit in units)
    return SampleGrid(name, seed, higher, shown, kept_first, pruned_first)


def _halved(grid: SampleGrid) -> SampleGrid:
    def half(tiles: Pixels) -> Pixels:
        return np.stack([np.asarray(PIL.Image.fromarray(tile).reduce(2)) for tile in tiles])

    kept, pruned = (tuple(map(half, side)) for side in (grid.kept, grid.pruned))
    return replace(grid, kept=kept, pruned=pruned)


def mosaic(rows: Sequence[Pixels], columns: int, gap: int = 2) -> Pixels:
    """Return one picture (R (h + 2 gap), columns (w + 2 gap), 3) of R rows (m, h, w, 3) on white.

    The m are at most ``columns``, and ``gap`` white pixels are around every picture.
    """
    height, width = (side + 2 * gap for side in enlarged(rows[0][0]).shape[:2])
    whole = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
    for r, tiles in enumerate(rows):
        for c, tile in enumerate(tiles):
            top, left = r * height + gap, c * width + gap
            whole[top : top + height - 2 * gap, left : left + width - 2 * gap] = enlarged(tile)
    return whole


def enlarged(picture: Pixels) -> Pixels:
    """Return a picture (h, w, 3) with each side a whole number of times larger, about a tile."""
    factor = max(1, round(TILE / max(picture.shape[:2])))
    large: Pixels = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return large


def plot_samples(grid: SampleGrid, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw what is kept first (left) and pruned first (right) into two panels; return these."""
    ends = ("highest", "lowest") if grid.higher_is_kept else ("lowest", "highest")
    sides = (
        (grid.kept, f"kept first ({ends[0]} scores)"),
        (
            grid.pruned,
            f"pruned first ({ends[1]} scores)",
        ),
    )
    for ax, (rows, title) in zip(axes, sides, strict=True):
        # Pixels as they are: an SVG leaves enlarging them to whoever shows it.
        ax.imshow(mosaic(rows, grid.per_side), interpolation="none", aspect="auto")
        ax.set_title(title, fontsize=8, pad=3)
        ax.set(xticks=[], yticks=[])
        without_frame(ax)
    step = axes[0].get_ylim()[0] / len(grid.units)
    places = step * (np.arange(len(grid.units)) + 0.5)
    axes[0].set_yticks(places, [cut(name, UNIT_LETTERS) for name in grid.units], fontsize=8)
    return axes


@styled()
def images_figure(grids: Sequence[SampleGrid]) -> Figure:
    """Compose pictures of kept and pruned samples: two panels per method."""
    across = min(len(grids), 2 if len(grids) <= 6 else 3)
    names = [cut(name, UNIT_LETTERS) for grid in grids for name in grid.units]
    left = 0.25 + text_width(names, 8)
    _, high, wide, _ = grids[0].kept[0].shape
    side = TILE_INCHES * max(grid.per_side for grid in grids)
    tall = TILE_INCHES * high / wide
    pitch = left + 2 * side + 0.45, tall * max(len(grid.units) for grid in grids) + 0.75
    down = math.ceil(len(grids) / across)
    figure = new_figure(across * pitch[0] + 0.1, down * pitch[1] + 0.1)
    for grid, (row, column) in zip(grids, in_rows(len(grids), across), strict=True):
        x, y = column * pitch[0] + left, row * pitch[1] + 0.6
        size = TILE_INCHES * grid.per_side, tall * len(grid.units)
        pair = [axes_at(figure, place, y, *size) for place in (x, x + side + 0.15)]
        plot_samples(grid, pair)
        title = f"{cut(grid.name)}, seed {grid.seed}"
        across_down = x / figure.get_figwidth(), 1 - (y - 0.3) / figure.get_figheight()
        figure.text(*across_down, title, fontsize=10, fontweight="bold")
    return figure


def plot_lost_images(lost: LostImages, ax: Axes) -> Axes:
    """Draw pictures in rows; below each its class, what it is taken for, and the share lost.

    Units of ``ax`` become inches, from the top left.
    """
    width, height, tall = _size(lost)
    for place, image in enumerate(lost.images):
        row, column = divmod(place, LOST_COLUMNS)
        x, y = column * (LOST_SIDE + LOST_GAP), row * (tall + LOST_CAPTION)
        extent = (x, x + LOST_SIDE, y + tall, y)
        ax.imshow(enlarged(image.pixels), interpolation="none", extent=extent, aspect="auto")
        name, other = (cut(each, LOST_LETTERS) for each in (image.name, image.taken_for))
        words = f"{name}\nas {other}\n{image.percent}"
        ax.text(x + LOST_SIDE / 2, y + tall + 0.04, words, ha="center", va="top", size=6.5)
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


@styled()
def lost_figure(lost: LostImages) -> Figure:
    """Compose the pictures of lost images with a line that says what they are."""
    width, height, _ = _size(lost)
    across, down = max(width, 4.2) + 0.2, height + 0.35
    figure = new_figure(across, down)
    plot_lost_images(lost, axes_at(figure, 0.1, 0.3, width, height))
    title = f"Test images most often lost by {lost.n_trials} pruned networks"
    figure.text(0.1 / across, 1 - 0.2 / down, title, fontsize=9)
    return figure


def _size(lost: LostImages) -> tuple[float, float, float]:
    """Return the inches that the pictures take with their captions, and the height of one."""
    high, wide = lost.images[0].pixels.shape[:2]
    tall, count = LOST_SIDE * high / wide, len(lost.images)
    rows = math.ceil(count / LOST_COLUMNS)
    width = min(count, LOST_COLUMNS) * (LOST_SIDE + LOST_GAP)
    return width, rows * (tall + LOST_CAPTION), tall
