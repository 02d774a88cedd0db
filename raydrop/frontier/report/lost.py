"""The test images that pruned networks lose most often, as the store has them.

They come from an entry of kind ``images`` that a sweep leaves after its trials
(:func:`raydrop.stages.pictures.save_lost_images`). Older folders, and studies that prune no
networks, have none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from markupsafe import Markup
from numpy.typing import NDArray

from raydrop.frontier.figures.inline import inline_png, with_lossy_images
from raydrop.frontier.records import Records
from raydrop.store import Entry, Store

LOSSY_FROM = 250_000
"""Bytes from which on the pictures lose some exactness in the page."""
ENLARGED_TO = 32
"""Pixels; smaller pictures are enlarged without smoothing."""


@dataclass(frozen=True, eq=False)
class LostImage:
    """One test image."""

    pixels: NDArray[np.uint8]
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
    return LostImages(_images(entry, records), int(entry.info["n_trials"]), len(finished))


def lost_facts(lost: LostImages) -> dict[str, Any]:
    """Return what the report's template shows: pictures as elements, and their captions."""
    tiles = [
        {
            "picture": inline_png(_png(image.pixels), _description(image)),
            "name": image.name,
            "taken_for": image.taken_for,
            "percent": image.percent,
        }
        for image in lost.images
    ]
    lossy = sum(len(str(tile["picture"])) for tile in tiles) >= LOSSY_FROM
    for tile in tiles:
        picture = with_lossy_images(tile["picture"]) if lossy else tile["picture"]
        tile["picture"] = Markup(picture)
    largest = max(max(image.pixels.shape[:2]) for image in lost.images)
    return {
        "tiles": tiles,
        "n_trials": lost.n_trials,
        "of_trials": lost.of_trials,
        "small": largest <= ENLARGED_TO,
    }


def _images(entry: Entry, records: Records) -> tuple[LostImage, ...]:
    pixels = entry.array("pixels", kinds="u", shape=(None,) * 4).transpose(0, 2, 3, 1)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))  # grey becomes RGB
    grouped = entry.info["by"] == "group"
    classes, groups = records.class_names, records.group_names
    rows = zip(
        *(entry.array(name).tolist() for name in ("ids", "labels", "units", "taken_for", "share")),
        strict=True,
    )
    return tuple(
        LostImage(
            picture,
            sample_id,
            f"{classes[label]} ({groups[unit]})" if grouped else classes[label],
            classes[taken_for],
            share,
        )
        for picture, (sample_id, label, unit, taken_for, share) in zip(pixels, rows, strict=True)
    )


def _description(image: LostImage) -> str:
    return (
        f"Test image {image.sample_id}: {image.name}, taken for {image.taken_for}, "
        f"lost by {image.percent}"
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
