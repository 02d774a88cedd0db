"""Reading and writing files that others may have had their hands on.

What is read may be anything: a pipe that never ends, a device, a file of any size. So it is opened
without waiting, and only if it is a regular file that is no larger than what is wanted of it can
be. What is written appears whole or not at all, through a new file beside its place whose name
nobody can guess and which is made only if nothing is there.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import math
import os
import re
import stat
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raydrop.errors import RaydropError, StoreError

if TYPE_CHECKING:
    import pandas as pd

MOST_TEXT_BYTES = 64 * 2**20
"""Descriptions in JSON, tables of labels and the like are no longer than this."""

_MOST_LEVELS = 64
_MOST_NUMBER = 2**63
_KINDS = {"text": (str,), "object": (dict,), "count": (int,), "yes or no": (bool,)}
_TOO_DEEP = f"more than {_MOST_LEVELS} levels"
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
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
    """Open a file for reading, if it is a regular one of at most ``most`` bytes.

    What lies in a folder of results must be no link, hence without ``links``: who made the folder
    could have it lead to anything of the reader's. All else raises an OddFileError.
    """
    return os.fdopen(_open(path, most, links, os.O_RDONLY), "rb")


def read_regular(path: str | Path, most: int = MOST_TEXT_BYTES, *, links: bool = True) -> bytes:
    """Return what is in a regular file of at most ``most`` bytes; as :func:`open_regular`."""
    with open_regular(path, most, links=links) as file:
        return file.read()


def open_appending(path: str | Path) -> IO[bytes]:
    """Open a file, which is no link, to add to it, unbuffered; it is made where it is absent."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return os.fdopen(_open(path, None, False, flags), "ab", buffering=0)


@contextlib.contextmanager
def expecting(what: str, remedy: str) -> Iterator[None]:
    """Turn what the system complains of meanwhile into a StoreError; errors of ours pass.

    Example:
        >>> with expecting("to read notes", "allow it"):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
        raydrop.errors.StoreError: Expected to read notes, found: Permission denied; allow it.
    """
    try:
        yield
    except RaydropError:
        raise
    except OSError as error:
        raise StoreError(f"Expected {what}, found: {error.strerror or error}; {remedy}.") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file beside a place, and rename it into that place at the end.

    What was there before stays if anything goes wrong. A link that is there is replaced, and what
    it leads to is left alone; a pipe, a device, a socket or a folder raises an OddFileError.
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
        if not links and Path(path).is_symlink():
            raise OddFileError(errno.ELOOP, "a link instead of a file", str(path)) from error
        if error.errno == errno.ENXIO:  # so say sockets, and pipes that nobody reads
            _check_regular(path, Path(path).stat())
        raise
    try:
        _check_regular(path, os.fstat(number), most)
    except OddFileError:
        os.close(number)
        raise
    return number


def _check_regular(path: str | Path, facts: os.stat_result, most: int | None = None) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(facts.st_mode), "a device")
        raise OddFileError(errno.EINVAL, f"{kind} instead of a file", str(path))
    if most is not None and facts.st_size > most:
        found = f"a file of {facts.st_size} bytes where {most} are the most"
        raise OddFileError(errno.EFBIG, found, str(path))


def link_below(folder: str | Path, *names: str) -> Path | None:
    """Return the first link on the way from a folder, itself one or not, to what is below it."""
    places = itertools.accumulate(names, Path.joinpath, initial=Path(folder))
    return next(filter(Path.is_symlink, itertools.islice(places, 1, None)), None)


def said_of_link(place: Path) -> str:
    """Say that a folder of results is a link, and what to do."""
    return (
        f"Expected a folder at {place}, found a link; results are neither read nor written through "
        "links, so put the folder itself there, or remove the link."
    )


# Descriptions in JSON.


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the object that a description in JSON, in UTF-8, holds, or raise a ValueError.

    Refused is what Python's reader takes and others do not, and what leaves the next reader without
    memory or stack: a name twice, NaN, numbers of thousands of digits, many levels.
    """
    text = content.decode()
    try:
        value = _JSON.decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise ValueError("a number of thousands of digits") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    # Brackets in names count too, so look.
    level: list[Any] = [value] if text.count("[") + text.count("{") > _MOST_LEVELS else []
    for _ in range(_MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for items in inner for each in items if isinstance(each, dict | list)]
    if level:
        raise ValueError(_TOO_DEEP)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice[:40]!r} twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text}, which is no number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def misfit(
    values: Mapping[str, Any], kinds: Mapping[str, str], sizes: Mapping[str, int] | None = None
) -> str | None:
    """Return what among some values from JSON is of another kind than it has to be, or None.

    Kinds are ``text``, ``object``, ``number``, ``count``, ``yes or no``, ``class or group``, or a
    list of these such as ``count by class``; ``sizes`` says how many such a list has, if that is
    known. Values that are absent or None are passed over.
    """
    for name, kind in kinds.items():
        value = values.get(name)
        if value is not None and not _is_of(value, kind, sizes or {}):
            return f"{name} {str(value)[:40]!r} where {kind} is right"
    return None


def _is_of(value: Any, kind: str, sizes: Mapping[str, int]) -> bool:
    each, by, unit = kind.partition(" by ")
    if by:
        if type(value) is not list or len(value) != sizes.get(unit, len(value)):
            return False
        return all(_is_of(one, each, sizes) or (one, each) == (None, "number") for one in value)
    if kind == "class or group":
        return value in ("class", "group")
    if type(value) not in _KINDS.get(kind, (int, float)):
        return False
    if kind in ("text", "object", "yes or no"):
        return True
    # What arrays and tables hold; infinity is no number, and NaN is not read.
    return bool((0 if kind == "count" else -_MOST_NUMBER) <= value < _MOST_NUMBER)


# Arrays.


class NpyHeader(NamedTuple):
    """What the beginning of an array's file says of the rest, of which there are ``nbytes``."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    nbytes: int


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Read what ``np.save`` writes before the numbers or texts of an array, and no more.

    NumPy's own reader evaluates it as Python, and believes any size; this one takes the one form
    that arrays of ours have, so that a size can be compared with what is there, and raises a
    ValueError at any other.
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
    return NpyHeader(dtype, shape, found[2] == b"True", dtype.itemsize * math.prod(shape))


# Tables.


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV: six decimals, Unix line ends, NaN is empty.

    Spreadsheets run what begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end. Texts that
    do, and names of columns, get an apostrophe in front, as do those with apostrophes before that,
    so that :func:`original_text` gives back what was there. Texts that are numbers stay as they
    are, and so do numbers.
    """
    safe = table.set_axis([_harmless(name) for name in table.columns], axis="columns")
    for place in range(safe.shape[1]):
        cells = safe.iloc[:, place]
        if cells.dtype.kind == "O" and any(map(_is_harmful, cells)):
            safe.isetitem(place, [_harmless(cell) for cell in cells])
    form: dict[str, Any] = {"float_format": "%.6f", "lineterminator": "\n", "index": False}
    text: str = safe.to_csv(**form)
    # Python leaves cells with "\r" unquoted, and what follows would begin a row.
    return safe.to_csv(**form, quoting=csv.QUOTE_ALL) if "\r" in text else text


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as a Parquet file, without its index."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def original_text(cell: str) -> str:
    """Return what a cell of a table that :func:`csv_text` wrote stood for.

    Example:
        >>> original_text("'=1+1")
        '=1+1'
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_harmful(value: object) -> bool:
    return isinstance(value, str) and bool(_FORMULA.match(value)) and not _NUMBER.fullmatch(value)


def _harmless(value: Any) -> Any:
    return f"'{value}" if _is_harmful(value) else value
