"""Logs: one file for each trial and each query run, for whoever asks what happened in it.

They lie beside the store, in ``DIR/logs/trials/KEY.log`` and ``DIR/logs/query_runs/KEY.log``, where
DIR is the study's folder. Every attempt begins with what is done, where and with what, and ends
with how it went, so that the log of a trial that was tried again shows all of its attempts. In
between are its epochs, what libraries warn of, and what is printed. No result depends on a log: one
that cannot be written, such as one behind a link, is left out.

Where DIR is an object store, a log is uploaded when its work ends. That of a process that was
killed stays in the mirror of its machine (see :mod:`raydrop.store.mirror`) until the work is tried
again there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TextIO, cast

import torch

from raydrop.errors import RaydropError
from raydrop.store.files import link_below, open_appending, read_regular, written_whole
from raydrop.store.mirror import remote_of
from raydrop.store.remote import Remote
from raydrop.store.versions import version_of
from raydrop.study import TrialConfig
from raydrop.training.halving import in_a_sentence, is_out_of_memory

Kind = Literal["trials", "query_runs"]
"""What a log is of; the name of the folder."""

_KEY = re.compile(r"[0-9a-f]+")
_ATTEMPT = re.compile(rb"^(?=# (?:trial|query run) )", re.MULTILINE)
"""Where the header of an attempt begins."""
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class WorkLog:
    """The log of one attempt at a piece of work."""

    def __init__(self) -> None:
        self.found = ""
        """What came of it, in a few words, for the last line; set by whoever does the work."""


@contextlib.contextmanager
def work_log(folder: Path, kind: Kind, key: str, what: str, device: str) -> Iterator[WorkLog]:
    """Write down what happens in this process while the context lasts.

    That is: records of ``raydrop``'s loggers from INFO on, of all others from WARNING on, Python's
    warnings, and lines printed to ``sys.stdout`` and ``sys.stderr``, which appear there too. All is
    as it was when the context ends.

    Args:
        folder: The study's folder on this machine, perhaps the mirror of an object store.
        kind: What kind of work it is.
        key: Its key in the store.
        what: What is done, in words.
        device: ``cpu`` or ``cuda``.

    Yields:
        What takes the words of the last line.

    Raises:
        ValueError: If ``key`` is no key of the store, which could lead elsewhere.
    """
    file = _LogFile(folder, log_name(kind, key))
    log, start = WorkLog(), time.perf_counter()
    with contextlib.suppress(OSError):  # such as too many open files, to find out a version
        file.write(_header(kind, key, what, device))
    try:
        with _all_written_to(file):
            yield log
    except BaseException as error:
        file.line(f"failed after {time.perf_counter() - start:.1f} s: {failure_sentence(error)}")
        if not isinstance(error, RaydropError):
            file.write("".join(traceback.format_exception(error)))
        raise
    else:
        found = f": {log.found}" if log.found else ""
        file.line(f"finished in {time.perf_counter() - start:.1f} s{found}")
    finally:
        file.close()


def log_name(kind: Kind, key: str) -> str:
    """Return where a log is, relative to the study's folder.

    Raises:
        ValueError: If ``key`` is no key of the store.

    Example:
        >>> log_name("trials", "3f2a9c1b")
        'logs/trials/3f2a9c1b.log'
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"Expected a key of the store, found {key!r}.")
    return f"logs/{kind}/{key}.log"


def describe_trial(trial: TrialConfig) -> str:
    """Say in a few words which trial it is; what is usual is left out.

    Example:
        >>> describe_trial(TrialConfig("el2n", "drop", 0.3, "cross_entropy", "vit", "vit", 0))
        'vit, el2n + drop at 0.3, seed 0'
    """
    quotas = "" if trial.quotas == "none" else f" + {trial.quotas}"
    data = f"{trial.method}{quotas} at {trial.keep_fraction:g}"
    words = [trial.model, "all data" if trial.method == "none" else data]
    if trial.query_model != trial.model:
        words.append(f"scored with {trial.query_model}")
    if trial.network_method != "none":
        words.append(f"{trial.network_method} to {trial.network_target}")
    if trial.loss != "cross_entropy":
        words.append(trial.loss)
    return ", ".join([*words, f"seed {trial.seed}"])


def failure_sentence(error: BaseException) -> str:
    """Return why something could not be done, in a sentence.

    An error that is not the user's to mend comes with its type and the line that raised it.
    """
    if isinstance(error, RaydropError):
        return str(error)
    if is_out_of_memory(error):
        return in_a_sentence(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _header(kind: Kind, key: str, what: str, device: str) -> str:
    """Return the lines that an attempt begins with."""
    name = {"trials": "trial", "query_runs": "query run"}[kind]
    facts = {
        name: key,
        "what": what,
        "begun": datetime.now(UTC).strftime(_TIME),
        "host": f"{socket.gethostname()}, process {os.getpid()}",
        "device": f"{_device_words(device)}, {torch.get_num_threads()} threads",
        "versions": f"raydrop {version_of('raydrop')}, torch {torch.__version__}",
    }
    return "".join(f"# {name:<9} {value}\n" for name, value in facts.items())


def _device_words(device: str) -> str:
    """Return a device with the name of the GPU, where that can be told."""
    name = ""
    with contextlib.suppress(RuntimeError, AssertionError):
        name = torch.cuda.get_device_name() if device.startswith("cuda") else ""
    return f"{device} ({name})" if name else device


class _LogFile:
    """A file that lines are added to; where that is not possible, they are left out."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open it.

        Args:
            folder: The study's folder.
            name: Of the file, relative to it.
        """
        self._name, self._path = name, folder / name
        self._there: Remote | None = None
        self._file: IO[bytes] | None = None
        if link_below(folder, *Path(name).parts[:-1]) is not None:
            return
        with contextlib.suppress(OSError, RaydropError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._there = remote_of(folder)
        with contextlib.suppress(OSError, RaydropError):
            if self._there is not None:
                _bring(self._there, name, self._path)
        with contextlib.suppress(OSError):
            # Unbuffered: whoever follows the log sees each line at once, and so does the disk.
            self._file = open_appending(self._path)

    @property
    def is_open(self) -> bool:
        """Whether lines have a place to go to."""
        return self._file is not None

    def line(self, text: str) -> None:
        """Add a line with the time."""
        self.write(f"{datetime.now(UTC).strftime(_TIME)} {text}\n")

    def write(self, text: str) -> None:
        """Add some text as it is."""
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or closed meanwhile
                self._file.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close it, and upload it where the folder is the mirror of an object store."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError, RaydropError):
            if self._there is not None:
                self._there.upload(self._path, self._name)


def _bring(there: Remote, name: str, path: Path) -> None:
    """Put what other machines uploaded of the same work before what this one wrote since."""
    earlier = _ATTEMPT.split(there.read_bytes(name) or b"")
    here = _ATTEMPT.split(read_regular(path, links=False)) if path.exists() else []
    with written_whole(path) as file:
        file.write(b"".join([*earlier, *(each for each in here if each not in earlier)]))


@contextlib.contextmanager
def _all_written_to(file: _LogFile) -> Iterator[None]:
    """Send records, warnings and what is printed to a log while the context lasts."""
    if not file.is_open:
        yield
        return
    out, err = _Copied(sys.stdout, "stdout", file.line), _Copied(sys.stderr, "stderr", file.line)
    with (
        _records_written_to(file),
        contextlib.redirect_stdout(cast("TextIO", out)),
        contextlib.redirect_stderr(cast("TextIO", err)),
    ):
        try:
            yield
        finally:
            out.end()
            err.end()


@contextlib.contextmanager
def _records_written_to(file: _LogFile) -> Iterator[None]:
    handler, root, ours = _Handler(file), logging.getLogger(), logging.getLogger("raydrop")
    level, show = ours.level, warnings.showwarning
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        ours.setLevel(level)
        root.removeHandler(handler)


class _Handler(logging.Handler):
    """Writes records to a log: ours from INFO on, those of others from WARNING on."""

    def __init__(self, file: _LogFile) -> None:
        super().__init__(logging.INFO)
        self._file = file
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", _TIME)
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self.addFilter(_is_wanted)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._file.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == "raydrop"


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - as Python calls it
    line: str | None = None,
) -> None:
    """Make a record of one of Python's warnings."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text.rstrip())


class _Copied:
    """A standard stream whose lines go to a log too, until it is told to end.

    What a progress bar overwrites is left out. Whoever keeps the stream for longer writes to the
    original alone then.
    """

    def __init__(self, stream: TextIO, name: str, log: Callable[[str], None]) -> None:
        self._stream, self._name = stream, name
        self._log: Callable[[str], None] | None = log
        self._rest = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write to the original, and each line that is whole to the log."""
        written = self._stream.write(text)
        with self._lock:
            *lines, rest = (self._rest + text).split("\n")
            self._rest = _visible(rest)
            for line in lines:
                self._write_line(line)
        return written

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def end(self) -> None:
        """Write what is left to the log, and no more."""
        with self._lock:
            self._write_line(self._rest)
            self._rest, self._log = "", None

    def _write_line(self, line: str) -> None:
        if self._log is not None and line.strip():
            self._log(f"{self._name}: {_visible(line)}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _visible(line: str) -> str:
    """Return what a terminal would show of a line that returns to its beginning."""
    return line.rstrip("\r").rpartition("\r")[2]
