"""Where results and data lie: a folder of this machine, or a prefix of an object store.

Of an object store, each machine keeps a copy in the user's cache. Whoever reads or writes works in
that copy; what counts is what the object store has.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from raydrop.errors import DataError, StoreError
from raydrop.store.files import expecting, read_regular, written_whole
from raydrop.store.remote import (
    ObjectFacts,
    Remote,
    at_once,
    canonical_url,
    is_url,
    joined_url,
    remote,
)

CACHE = "RAYDROP_CACHE"
"""Environment variable that names another folder for copies than ``~/.cache/raydrop``."""

STUDY = "study.json"
"""What a location is recognised by; brought here whenever one is opened."""

_COMPLETE = ".raydrop-copy"
_MOST_URL = 2**16


@dataclass(frozen=True)
class Place:
    """A location of results; what cannot be read or written raises a StoreError.

    Its folder is the location itself, or this machine's copy of what the object store has.
    """

    folder: Path
    remote: Remote | None = None

    def called(self, below: str | Path = "", *, here: bool = False) -> str:
        """Return what to call the place, or what is in it, by its path or its URL.

        ``below`` is a name relative to the place, or a path on this machine; ``here`` adds where
        the copy of an object store's is.
        """
        path = self.folder / below
        if self.remote is None:
            return str(path)
        name = path.relative_to(self.folder).as_posix()
        url = self.remote.url if name == "." else self.remote.url_of(name)
        return f"{url} (here {path})" if here else url

    @property
    def short_name(self) -> str:
        """The last part of the folder's name, or of the URL."""
        if self.remote is None:
            return self.folder.resolve().name
        return Path(self.remote.url.partition("?")[0]).name

    def make(self) -> None:
        """Make the folder, with its parents, where it is not there yet, or raise a StoreError."""
        with expecting(f"a folder for results at {self.folder}", "choose another with --out"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all, to an object store first; return its path here."""
        path = self.folder / name
        what = f"to write {self.called(name, here=True)}"
        remedy = "free space there or allow writing"
        with expecting(what, remedy), written_whole(path) as file:
            file.write(content)
            if self.remote is not None:
                self.remote.write_bytes(name, content)
        return path

    def upload(self, name: str) -> None:
        """Upload what lies in a folder here, such as logs, where results go to an object store."""
        if self.remote is None:
            return
        for path in sorted((self.folder / name).rglob("*")):
            if path.is_file():
                self.remote.upload(path, path.relative_to(self.folder).as_posix())

    def refresh(self) -> None:
        """Bring ``study.json`` up to date with the object store, where there is one."""
        if self.remote is not None and self.current(STUDY, self.remote.facts(STUDY)) is None:
            (self.folder / STUDY).unlink(missing_ok=True)

    def current(self, name: str, facts: ObjectFacts | None, settled: float = 0.0) -> bytes | None:
        """Return what an object of these facts holds, from the copy here where that is of its time.

        A copy is given that time unless the object is younger than ``settled`` seconds.
        """
        path, there = self.folder / name, self.remote
        if there is None or facts is None:
            return None
        with contextlib.suppress(OSError):
            found = path.stat()
            if (found.st_size, int(found.st_mtime)) == (facts.size, int(facts.changed)):
                return read_regular(path, links=False)
        content = there.read_bytes(name)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as file:
                file.write(content)
            changed = facts.changed if time.time() - facts.changed > settled else 0.0
            os.utime(path, (changed, changed))
        return content

    def writing(self, below: str | Path = "") -> AbstractContextManager[None]:
        """Raise a StoreError where a place, or a folder in it, cannot be written meanwhile."""
        folder, free = self.folder / below, "free space there, allow writing"
        if self.remote is not None:
            what = f"to keep a copy of {self.called(below)} in {folder}"
            return expecting(what, f"{free}, or set {CACHE} to another folder")
        remedy = f"{free}, or choose another folder with --out"
        return expecting(f"to write results to {folder}", remedy)


def open_place(location: str | Path | Place) -> Place:
    """Return a location as a place to work in; of an object store with its ``study.json``.

    That is a folder, which need not be there, or ``s3://bucket/prefix`` and the like; a ConfigError
    is raised for URLs of another kind.
    """
    if isinstance(location, Place):
        return location
    if not is_url(location):
        return Place(Path(location))
    there = remote(canonical_url(location))
    place = Place(cache_folder() / "mirrors" / _digest(there.url), there)
    with place.writing():
        place.folder.mkdir(parents=True, exist_ok=True)
        place.refresh()
    return place


def cache_folder() -> Path:
    """Return this machine's folder for copies of what is elsewhere."""
    return Path(os.environ.get(CACHE) or "~/.cache/raydrop").expanduser().absolute()


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:24]


# Data sets, which each machine copies from an object store once.


def data_folder(path: str, data_root: str | None) -> Path:
    """Return the folder that a data set's path means on this machine; it may not be there.

    A relative path starts from ``data_root``, if given; either may be a URL, whose files are
    copied. A ConfigError is raised for a URL of no object store, a DataError as by :func:`copied`.
    """
    if is_url(path):
        return Path(copied(canonical_url(path)))
    folder = Path(path).expanduser()
    if data_root is None or folder.is_absolute():
        return folder
    if is_url(data_root):
        return Path(copied(joined_url(canonical_url(data_root), folder.as_posix())))
    return Path(data_root).expanduser() / folder


def copy_source(folder: str | Path) -> str:
    """Return the URL that a folder is this machine's copy of, or an empty text."""
    try:
        url = read_regular(Path(folder) / _COMPLETE, _MOST_URL).decode(errors="replace")
    except OSError:
        return ""
    return url if _copy_of(url) == Path(folder) else ""


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from downloading into the same folder meanwhile.

    A folder that cannot be written is left to whoever reads it: nothing is downloaded there.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            stack.enter_context(FileLock(folder / ".raydrop-lock"))
        yield


@functools.cache
def copied(url: str) -> str:
    """Return this machine's copy of everything below a URL, made where it is not there yet.

    A copy that is complete is not compared again; remove it to have it made anew. A DataError is
    raised where there is nothing, or it cannot be read or copied.
    """
    folder = _copy_of(url)
    remedy = f"free space there, or set {CACHE} to another folder"
    try:
        with expecting(f"to copy {url} to {folder}", remedy):
            folder.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(folder.parent):
                if not (folder / _COMPLETE).exists():
                    _copy(remote(url), folder)
                    with written_whole(folder / _COMPLETE) as file:
                        file.write(url.encode())
    except StoreError as error:
        raise DataError(str(error)) from error
    return str(folder)


def _copy_of(url: str) -> Path:
    """Return the folder of a copy; named as it is there, since torchvision looks for names."""
    return cache_folder() / "data" / _digest(url) / url.partition("?")[0].rpartition("/")[2]


def _copy(there: Remote, folder: Path) -> None:
    found = there.listing()
    if not found:
        raise DataError(f"Expected data at {there.url}, found nothing; correct the location.")
    for name in found:
        if not all(part.strip(".") for part in name.split("/")):  # it would lead elsewhere
            raise DataError(
                f"Expected names of files below {there.url}, found {name!r}; "
                "remove what is called so."
            )
    for each in {(folder / name).parent for name in found}:
        each.mkdir(parents=True, exist_ok=True)

    def fetch(name: str) -> None:
        path = folder / name
        if path.is_file() and path.stat().st_size == found[name].size:
            return  # of a copy that was interrupted
        there.download(name, path)

    at_once(fetch, found)
