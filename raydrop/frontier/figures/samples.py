"""Pictures of the samples that each method would keep first and prune first.

They come from entries of kind ``images`` in the store, which a sweep leaves beside the scores of
its first seed. Folders of older versions, and data that are no pictures, have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    per_side: int
    """The largest m."""


def sample_grids(records: Records, sources: Sources) -> list[SampleGrid]:
    """Return the stored pictures, by the names of the methods; empty where there are none.

    At most :data:`SHOWN_UNITS` classes of each method, and fewer if all methods together would have
    more than :data:`SHOWN_TILES` pictures.

    Args:
        records: Gives the store and the names of classes and groups.
        sources: Say which scores the trials read.
    """
    store = Store(records.place)
    found = [
        entry for entry in store.entries("images") if entry.config.get("scores") in sources.scores
    ]
    first: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda e: int(e.info["seed"])):
        first.setdefault(sources.scorer(entry.config["scores"]), entry)
    if not first:
        return []
    most = max(max(Counter(e.array("units").tolist()).values()) for e in first.values())
    rows = max(LEAST_UNITS, min(SHOWN_UNITS, SHOWN_TILES // (most * len(first))))
    grids = [_grid(name, first[name], records, rows) for name in sorted(first)]
    total = sum(part.nbytes for grid in grids for part in (*grid.kept, *grid.pruned))
    return [_halved(grid) for grid in grids] if total > LARGEST_BYTES else grids


def mosaic(rows: Sequence[Pixels], columns: int, gap: int = 2) -> Pixels:
    """Return one picture of rows of pictures on white.

    Args:
        rows: (m, h, w, 3) each, m at most ``columns``.
        columns: Places in a row.
        gap: White pixels around every picture.

    Returns:
        (R (h + 2 gap), columns (w + 2 gap), 3).
    """
    height, width = (side + 2 * gap for side in enlarged(rows[0][0]).shape[:2])
    whole = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
    for r, tiles in enumerate(rows):
        for c, tile in enumerate(tiles):
            large = enlarged(tile)
            top, left = r * height + gap, c * width + gap
            whole[top : top + len(large), left : left + large.shape[1]] = large
    return whole


def enlarged(picture: Pixels) -> Pixels:
    """Return a picture (h, w, 3) with each side a whole number of times larger, about a tile."""
    factor = max(1, round(TILE / max(picture.shape[:2])))
    large: Pixels = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return large


def _grid(name: str, entry: Entry, records: Records, rows: int) -> SampleGrid:
    pixels = entry.array("pixels", kinds="u", shape=(None,) * 4).transpose(0, 2, 3, 1)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))  # grey becomes RGB
    members, kept = entry.array("units"), entry.array("kept")
    units = list(dict.fromkeys(members.tolist()))[:rows]
    names = records.names(entry.info["by"])
    sides = [
        tuple(pixels[(members == u) & (kept == side)] for u in units) for side in (True, False)
    ]
    return SampleGrid(
        name=name,
        seed=int(entry.info["seed"]),
        higher_is_kept=bool(entry.info["higher_is_kept"]),
        units=tuple(names[u] for u in units),
        kept=sides[0],
        pruned=sides[1],
        per_side=max(len(tiles) for side in sides for tiles in side),
    )


def _halved(grid: SampleGrid) -> SampleGrid:
    kept, pruned = (tuple(map(_half_size, side)) for side in (grid.kept, grid.pruned))
    return SampleGrid(
        grid.name, grid.seed, grid.higher_is_kept, grid.units, kept, pruned, grid.per_side
    )


def _half_size(tiles: Pixels) -> Pixels:
    """Return pictures of half the height and width, each pixel the mean of four."""
    n, height, width, channels = tiles.shape
    even = tiles[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(n, height // 2, 2, width // 2, 2, channels).astype(np.uint16)
    means: Pixels = ((blocks.sum(axis=(2, 4)) + 2) // 4).astype(np.uint8)
    return means
