"""Where results are: a folder, or a prefix of an object store with a local copy of it.

A remote location has a folder under the user's cache on every machine that touches it: its
*mirror*. Whoever reads or writes results works in that folder; what counts is what the object store
has. A file in the mirror names the URL, so that a path inside it is enough to find both.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from raydrop.errors import StoreError
from raydrop.store.files import read_regular, written_whole
from raydrop.store.remote import Remote, canonical_url, is_url, remote

CACHE = "RAYDROP_CACHE"
"""Environment variable that names another folder for copies than ``~/.cache/raydrop``."""

STUDY = "study.json"
"""What a location is recognised by; brought here whenever one is opened."""

_MARKER = ".raydrop-url"
_MOST_URL = 2**16


def open_location(location: str | Path) -> Path:
    """Return the folder to work in for a location: itself, or the mirror of a URL.

    Args:
        location: A folder, which need not be there, or ``s3://bucket/prefix`` and the like.

    Raises:
        ConfigError: If it is a URL of another kind.
        StoreError: If the object store cannot be read, or the mirror not be written.
    """
    if not is_url(location):
        return Path(location)
    there = remote(canonical_url(location))
    folder = _mirror_of(there.url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / _MARKER) as file:
            file.write(there.url.encode())
    except OSError as error:
        raise _uncopied(there.url, folder, error) from error
    refresh(folder)
    return folder


def remote_of(folder: Path) -> Remote | None:
    """Return the object store that a folder is the mirror of, or None.

    Raises:
        StoreError: If the folder says that it is one and is none of this machine's: results would
            be sent wherever whoever made it wished.
    """
    try:
        url = read_regular(folder / _MARKER, _MOST_URL).decode(errors="replace").strip()
    except OSError:
        return None
    if _mirror_of(url) != folder.absolute():
        raise StoreError(
            f"Expected the copy of {url} in {_mirror_of(url)}, found {folder}; give the URL itself,"
            f" or remove {folder / _MARKER} to use what is there without it."
        )
    return remote(url)


def refresh(folder: Path) -> None:
    """Bring ``study.json`` up to date with the object store, where the folder is a mirror.

    Raises:
        StoreError: If it cannot be read.
    """
    there, path = remote_of(folder), folder / STUDY
    if there is None:
        return
    facts = there.facts(STUDY)
    if facts is None:
        path.unlink(missing_ok=True)
    elif not is_fresh(path, facts):
        content = there.read_bytes(STUDY)
        if content is not None:
            with written_whole(path) as file:
                file.write(content)
            os.utime(path, (facts.changed, facts.changed))


def is_fresh(path: Path, facts: tuple[int, float]) -> bool:
    """Return whether a file has the size and time that an object has."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, int(found.st_mtime)) == (facts[0], int(facts[1]))


def publish(path: Path, content: bytes) -> None:
    """Upload a file that is about to be written into a mirror; elsewhere do nothing.

    Raises:
        StoreError: If it cannot be uploaded.
    """
    there = remote_of(path.parent)
    if there is not None:
        there.write_bytes(path.name, content)


def publish_folder(folder: Path) -> None:
    """Upload what is in a folder of a mirror, such as logs; elsewhere do nothing.

    Raises:
        StoreError: If it cannot be uploaded.
    """
    there = remote_of(folder.parent)
    if there is None:
        return
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        there.upload(path, path.relative_to(folder.parent).as_posix())


def shown(path: Path) -> str:
    """Return what to call a folder or a file: a mirror, or what is in one, by its URL."""
    place = path.absolute()
    if _mirrors() not in place.parents:
        return str(path)
    name, *below = place.relative_to(_mirrors()).parts
    there = remote_of(_mirrors() / name)
    if there is None:
        return str(path)
    return there.url_of("/".join(below)) if below else there.url


def both_places(path: Path) -> str:
    """Return where a file is; of a mirror, where it is in the object store and here."""
    place = shown(path)
    return place if place == str(path) else f"{place} (here {path})"


def unwritable(folder: Path, error: OSError) -> StoreError:
    """Build the error for a folder of results, or a mirror of one, that cannot be written."""
    place = shown(folder)
    if place != str(folder):
        return _uncopied(place, folder, error)
    return StoreError(
        f"Expected to write results to {folder}, found: {error.strerror or error}; "
        "free space there, allow writing, or choose another folder with --out."
    )


def short_name(folder: Path) -> str:
    """Return the last part of a folder's name, or of the URL that it is the mirror of.

    Example:
        >>> short_name(Path("results/digits"))
        'digits'
    """
    place = shown(folder)
    return Path(place.partition("?")[0]).name if is_url(place) else folder.resolve().name


def cache_folder() -> Path:
    """Return this machine's folder for copies of what is elsewhere."""
    return Path(os.environ.get(CACHE) or "~/.cache/raydrop").expanduser().absolute()


def _mirrors() -> Path:
    return cache_folder() / "mirrors"


def _mirror_of(url: str) -> Path:
    return _mirrors() / hashlib.sha256(url.encode()).hexdigest()[:24]


def _uncopied(url: str, folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"Expected to keep a copy of {url} in {folder}, found: {error.strerror or error}; "
        f"free space there, allow writing, or set {CACHE} to another folder."
    )
