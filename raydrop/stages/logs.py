"""Logs: one file for each trial and each query run, for whoever asks what happened in it.

They lie beside the store, in ``DIR/logs/trials/KEY.log`` and ``DIR/logs/query_runs/KEY.log``.
Every attempt begins with what is done, where and with what, and ends with how it went; in between
are its epochs and what libraries warn of. No result depends on a log: one that cannot be written,
such as one behind a link, is left out.

Where DIR is an object store, a log is uploaded when its work ends. That of a process that was
killed stays in the copy on its machine until the work is tried again there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Literal

import torch

from raydrop.errors import RaydropError
from raydrop.store import Place
from raydrop.store.files import link_below, open_appending, read_regular, written_whole
from raydrop.store.remote import Remote
from raydrop.study import TrialConfig
from raydrop.training.halving import in_a_sentence, is_out_of_memory

Kind = Literal["trials", "query_runs"]

_KEY = re.compile(r"[0-9a-f]+")
_ATTEMPT = re.compile(rb"^(?=# (?:trial|query run) )", re.MULTILINE)
"""Where the header of an attempt begins."""
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class WorkLog:
    """The log of one attempt; ``found`` is what came of it, in a few words, for the last line."""

    found = ""


@contextlib.contextmanager
def work_log(place: Place, kind: Kind, key: str, what: str, device: str) -> Iterator[WorkLog]:
    """Write down what happens in this process while the context lasts.

    That is: records of ``raydrop``'s loggers from INFO on, of all others from WARNING on, and
    Python's warnings. All is as it was when the context ends.

    ``what`` says in words what is done on the ``device``, and ``key`` is its key in the store.
    """
    file = _LogFile(place, log_name(kind, key))
    log, start = WorkLog(), time.perf_counter()
    with contextlib.suppress(OSError):  # such as too many open files, to find out a version
        file.write(_header(kind, key, what, device))
    try:
        with _records_written_to(file):
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


def version_of(package: str) -> str:
    """Return the version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _header(kind: Kind, key: str, what: str, device: str) -> str:
    """Return the lines that an attempt begins with."""
    gpu = ""
    with contextlib.suppress(RuntimeError, AssertionError):
        gpu = f" ({torch.cuda.get_device_name()})" if device.startswith("cuda") else ""
    facts = {
        {"trials": "trial", "query_runs": "query run"}[kind]: key,
        "what": what,
        "begun": time.strftime(_TIME, time.gmtime()),
        "host": f"{socket.gethostname()}, process {os.getpid()}",
        "device": f"{device}{gpu}, {torch.get_num_threads()} threads",
        "versions": f"raydrop {version_of('raydrop')}, torch {torch.__version__}",
    }
    return "".join(f"# {name:<9} {value}\n" for name, value in facts.items())


class _LogFile(logging.Handler):
    """A file that records and lines are added to; where that is not possible, they are left out."""

    def __init__(self, place: Place, name: str) -> None:
        super().__init__(logging.INFO)
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", _TIME)
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self._there, self._file_name, self._path = place.remote, name, place.folder / name
        self.file: IO[bytes] | None = None
        if link_below(place.folder, *Path(name).parts[:-1]) is not None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._there is not None:
                with contextlib.suppress(OSError, RaydropError):
                    _bring(self._there, name, self._path)
            # Unbuffered: whoever follows the log sees each line at once, and so does the disk.
            self.file = open_appending(self._path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record: ours, which come from INFO on, or those of others from WARNING on."""
        if record.levelno >= logging.WARNING or record.name.partition(".")[0] == "raydrop":
            try:
                self.write(self.format(record).rstrip() + "\n")
            except Exception:
                self.handleError(record)

    def line(self, text: str) -> None:
        """Add a line with the time."""
        self.write(f"{time.strftime(_TIME, time.gmtime())} {text}\n")

    def write(self, text: str) -> None:
        """Add some text as it is."""
        if self.file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or closed meanwhile
                self.file.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close it, and upload it where results go to an object store."""
        super().close()
        if self.file is None:
            return
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError, RaydropError):
            if self._there is not None:
                self._there.upload(self._path, self._file_name)


def _bring(there: Remote, name: str, path: Path) -> None:
    """Put what other machines uploaded of the same work before what this one wrote since."""
    earlier = _ATTEMPT.split(there.read_bytes(name) or b"")
    here = _ATTEMPT.split(read_regular(path, links=False)) if path.exists() else []
    with written_whole(path) as file:
        file.write(b"".join([*earlier, *(each for each in here if each not in earlier)]))


@contextlib.contextmanager
def _records_written_to(file: _LogFile) -> Iterator[None]:
    """Send records and Python's warnings to a log while the context lasts."""
    if file.file is None:
        yield
        return
    root, ours = logging.getLogger(), logging.getLogger("raydrop")
    level = ours.level
    root.addHandler(file)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        ours.setLevel(level)
        root.removeHandler(file)
