"""Hashes of what is in files, which are read once on a machine and remembered there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raydrop.data.images import unreadable_image
from raydrop.errors import DataError
from raydrop.store.files import open_regular, written_whole
from raydrop.store.places import cache_folder
from raydrop.study import canonical_json

REMEMBERED = "contents.json"
"""Where hashes are remembered in the cache: those of whole lists of files, by a hash of their
paths, sizes and times of change."""

_MOST = 1000
_THREADS = 8


def content_of_files(root: str | Path, paths: Sequence[str]) -> str:
    """Return the SHA-256 of some files' contents, in their order; their names do not enter.

    Raises:
        DataError: If one cannot be read; the message names it.
    """
    places = [os.path.join(root, path) for path in paths]  # noqa: PTH118 - Paths take twice as long
    key = listed(places)
    content = remembered(key)
    if content is None:
        with ThreadPoolExecutor(_THREADS) as pool:
            hashes = list(pool.map(_hash, places))
        content = hashlib.sha256(canonical_json(hashes).encode()).hexdigest()
        remember(key, content)
    return content


def listed(places: Sequence[str], beside: str = "") -> str:
    """Return a hash of where files are, their sizes and times of change, and a text beside.

    Raises:
        DataError: If one is not there; the message names it.
    """
    listing = hashlib.sha256(beside.encode())
    for place in places:
        try:
            facts = os.stat(place)  # noqa: PTH116
        except OSError as error:
            raise unreadable_image(place, error) from error
        said = f"{os.path.realpath(place)}\0{facts.st_size}\0{facts.st_mtime_ns}\0"
        listing.update(os.fsencode(said))
    return listing.hexdigest()


def remembered(key: str) -> str | None:
    """Return the hash that this machine remembers of a listing, if any."""
    return _remembered().get(key)


def remember(key: str, content: str) -> None:
    """Remember the hash of a listing's contents, as far as the cache can be written."""
    latest = dict(list({**_remembered(), key: content}.items())[-_MOST:])
    with contextlib.suppress(OSError):  # without, everything is read again
        cache_folder().mkdir(parents=True, exist_ok=True)
        with written_whole(cache_folder() / REMEMBERED) as file:
            file.write(json.dumps(latest, indent=1).encode())


def _hash(place: str) -> str:
    try:
        with open_regular(place) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, DataError) as error:
        raise unreadable_image(place, error) from error


def _remembered() -> dict[str, str]:
    try:
        found = json.loads((cache_folder() / REMEMBERED).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: content for key, content in found.items() if isinstance(content, str)}
