"""Reading and writing files that others may have had their hands on.

What is read may be anything: a pipe that never ends, a device, a file of any size. So it is opened
without waiting, and only if it is a regular file that is no larger than what is wanted of it can
be. What is written appears whole or not at all, through a new file beside its place whose name
nobody can guess and which is made only if nothing is there.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

MOST_TEXT_BYTES = 64 * 2**20
"""Descriptions in JSON, tables of labels and the like are no longer than this."""

_BLOCK = 2**20
_NPY = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufcSU]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}(?:, |,|(?=\)))){0,32})\), \} *\n"
)


class OddFileError(OSError):
    """A file that is no file, or larger than what it should be can be; ``strerror`` says which."""

    def __str__(self) -> str:
        return f"{self.filename} is {self.strerror}"


def open_regular(
    path: str | Path, most: int | None = None, *, links: bool = True
) -> io.BufferedReader:
    """Open a file for reading, if it is a regular one.

    Args:
        path: Of the file.
        most: Bytes that it may have.
        links: Whether to follow a link in its place. What lies in a folder of results must be none:
            who made the folder could have it lead to anything of the reader's.

    Raises:
        OddFileError: If it is a pipe, a device, a socket, a folder or, unless ``links``, a link, or
            has more bytes.
        OSError: If it cannot be opened.
    """
    return os.fdopen(_open(path, most, links, os.O_RDONLY), "rb")


def read_regular(path: str | Path, most: int = MOST_TEXT_BYTES, *, links: bool = True) -> bytes:
    """Return what is in a regular file of at most ``most`` bytes.

    Raises:
        OddFileError: As :func:`open_regular`.
        OSError: If it cannot be read.
    """
    number = _open(path, most, links, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(number, _BLOCK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(number)


def open_appending(path: str | Path) -> IO[bytes]:
    """Open a file to add to it, without a buffer; it is made where it is absent.

    Raises:
        OddFileError: If it is a link or anything else that is no file.
        OSError: If it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return os.fdopen(_open(path, None, False, flags), "ab", buffering=0)


def link_below(folder: str | Path, *names: str) -> Path | None:
    """Return the first link on the way from a folder to what is below it, or None.

    Args:
        folder: Itself and what is above it may be links.
        names: Of a folder in it, of what is in that, and so on; they need not be there.
    """
    place = Path(folder)
    for name in names:
        place /= name
        if place.is_symlink():
            return place
    return None


@dataclass(frozen=True)
class NpyHeader:
    """What the beginning of an array's file says of the rest."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        """Bytes that follow."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Read what ``np.save`` writes before the numbers or texts of an array, and no more.

    NumPy's own reader evaluates it as Python, and believes any size; this one takes the one form
    that arrays of ours have, so that a size can be compared with what is there.

    Raises:
        ValueError: If the file does not begin so, or has an array of anything else.
    """
    begin = file.read(len(_NPY) + 2)
    length = int.from_bytes(begin[len(_NPY) :], "little")
    found = _NPY_HEADER.fullmatch(file.read(length)) if begin.startswith(_NPY) else None
    if found is None:
        raise ValueError("no array of numbers that NumPy saved")
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError as error:
        raise ValueError(f"an array of an unknown kind, {found[1].decode()}") from error
    shape = tuple(int(side) for side in found[3].split(b",") if side.strip())
    return NpyHeader(dtype, shape, found[2] == b"True")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file beside a place, and rename it into that place at the end.

    What was there before stays if anything goes wrong. A link that is there is replaced, and what
    it leads to is left alone.

    Raises:
        OddFileError: If a pipe, a device, a socket or a folder is in its place.
        OSError: If it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _check_regular(path, path.stat())
    work = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with work.open("xb") as file:
            yield file
        work.replace(path)
    finally:
        with contextlib.suppress(OSError):
            work.unlink()


def _open(path: str | Path, most: int | None, links: bool, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for whoever is at its other end.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if links or not Path(path).is_symlink():
            raise
        raise OddFileError(errno.ELOOP, "a link instead of a file", str(path)) from error
    try:
        _check_regular(path, os.fstat(number), most)
    except OddFileError:
        os.close(number)
        raise
    return number


def _check_regular(path: str | Path, facts: os.stat_result, most: int | None = None) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OddFileError(errno.EINVAL, f"{_kind(facts.st_mode)} instead of a file", str(path))
    if most is not None and facts.st_size > most:
        found = f"a file of {facts.st_size} bytes where {most} are the most"
        raise OddFileError(errno.EFBIG, found, str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
