"""Where data sets are: in a folder, or in an object store that each machine copies from once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from raydrop.errors import DataError, StoreError
from raydrop.store.files import read_regular, written_whole
from raydrop.store.mirror import CACHE, cache_folder
from raydrop.store.remote import Remote, canonical_url, is_url, joined_url, remote

_COMPLETE = ".raydrop-copy"
_MOST_URL = 2**16
_THREADS = 16


def data_folder(path: str, data_root: str | None) -> Path:
    """Return the folder that a data set's path means on this machine; it may not be there.

    Args:
        path: A folder, or the URL of one. A relative one starts from ``data_root``, if given.
        data_root: A folder, ``s3://bucket/prefix`` and the like, or None for the current folder.

    Raises:
        ConfigError: If it is a URL of no object store.
        DataError: If there is nothing below a URL, or it cannot be read or copied.
    """
    if is_url(path):
        return Path(copied(canonical_url(path)))
    folder = Path(path).expanduser()
    if data_root is None or folder.is_absolute():
        return folder
    if is_url(data_root):
        return Path(copied(joined_url(canonical_url(data_root), folder.as_posix())))
    return Path(data_root).expanduser() / folder


def download_root(data_root: str, folder: str) -> Path:
    """Return the folder in which torchvision looks for a data set, and puts what it downloads.

    Args:
        data_root: A folder or URL.
        folder: Name of the one that torchvision makes there for the data set.

    Raises:
        ConfigError: As :func:`data_folder`.
        DataError: As :func:`data_folder`.
    """
    return data_folder(folder, data_root).parent


def copy_source(folder: str | Path) -> str:
    """Return the URL that a folder is this machine's copy of, or an empty text."""
    try:
        url = read_regular(Path(folder) / _COMPLETE, _MOST_URL).decode(errors="replace")
    except OSError:
        return ""
    return url if _place_of(url) == Path(folder) else ""


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from downloading into the same folder meanwhile.

    A folder that cannot be written is left to whoever reads it: nothing is downloaded there.
    """
    lock = FileLock(folder / ".raydrop-lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


@functools.cache
def copied(url: str) -> str:
    """Return this machine's copy of everything below a URL, made where it is not there yet.

    A copy that is complete is not compared again; remove it to have it made anew.

    Raises:
        DataError: If there is nothing, or it cannot be read or copied.
    """
    place = _place_of(url)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.parent):
            if not (place / _COMPLETE).exists():
                _copy(remote(url), place)
                with written_whole(place / _COMPLETE) as file:
                    file.write(url.encode())
    except StoreError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(
            f"Expected to copy {url} to {place}, found: {error.strerror or error}; "
            f"free space there, or set {CACHE} to another folder."
        ) from error
    return str(place)


def _place_of(url: str) -> Path:
    """Return the folder of a copy; named as it is there, since torchvision looks for names."""
    digest, name = hashlib.sha256(url.encode()).hexdigest()[:24], url.partition("?")[0]
    return cache_folder() / "data" / digest / name.rpartition("/")[2]


def _copy(there: Remote, place: Path) -> None:
    found = there.listing()
    if not found:
        raise DataError(f"Expected data at {there.url}, found nothing; correct the location.")
    _refuse_strays(there, found)
    for folder in {(place / name).parent for name in found}:
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(name: str) -> None:
        path = place / name
        if path.is_file() and path.stat().st_size == found[name].size:
            return  # of a copy that was interrupted
        work = path.with_name(f".{uuid.uuid4().hex}")
        there.download(name, work)
        work.replace(path)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(fetch, found):
            pass


def _refuse_strays(there: Remote, names: Iterable[str]) -> None:
    """Refuse names that would lead out of the folder that they are copied to."""
    for name in names:
        if not all(part.strip(".") for part in name.split("/")):
            raise DataError(
                f"Expected names of files below {there.url}, found {name!r}; "
                "remove what is called so."
            )
