"""Reading and writing files that others may have had their hands on.

What is read may be anything: a pipe that never ends, a device, a file of any size. So it is opened
without waiting, and only if it is a regular file that is no larger than what is wanted of it can
be. What is written appears whole or not at all, through a new file beside its place whose name
nobody can guess and which is made only if nothing is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MOST_TEXT_BYTES = 64 * 2**20
"""Descriptions in JSON, tables of labels and the like are no longer than this."""


class OddFileError(OSError):
    """A file that is no file, or larger than what it should be can be; ``strerror`` says which."""


def open_regular(path: str | Path, most: int | None = None) -> IO[bytes]:
    """Open a file for reading, if it is a regular one.

    Args:
        path: Of the file; links are followed.
        most: Bytes that it may have.

    Raises:
        OddFileError: If it is a pipe, a device, a socket or a folder, or has more bytes.
        OSError: If it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits for whoever writes to it.
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode):
            raise OddFileError(errno.EINVAL, f"{_kind(facts.st_mode)} instead of a file", str(path))
        if most is not None and facts.st_size > most:
            raise OddFileError(
                errno.EFBIG, f"{facts.st_size} bytes where {most} are the most", str(path)
            )
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: str | Path, most: int = MOST_TEXT_BYTES) -> bytes:
    """Return what is in a regular file of at most ``most`` bytes.

    Raises:
        OddFileError: As :func:`open_regular`.
        OSError: If it cannot be read.
    """
    with open_regular(path, most) as file:
        return file.read()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file beside a place, and rename it into that place at the end.

    What was there before stays if anything goes wrong. A link that is there is replaced, and what
    it leads to is left alone.

    Raises:
        OSError: If it cannot be written.
    """
    work = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with work.open("xb") as file:
            yield file
        work.replace(path)
    finally:
        with contextlib.suppress(OSError):
            work.unlink()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
