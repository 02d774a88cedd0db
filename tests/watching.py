"""What a stretch of Python does to the machine: processes, sockets, files written, memory, time.

Python's audit events tell of everything that its own modules do; what compiled code does beneath
them shows in the kernel's list of this process's children and open files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
SOCKETS = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo")
_CHANGES = {
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.truncate": 1,
    "os.utime": 1,
}
"""Events that change files, and how many of their arguments are paths."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Deeds:
    """What was done."""

    processes: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Absolute paths that were opened for writing, made, moved or removed."""
    seconds: float = 0.0
    bytes: int = 0
    """How much the resident memory grew at most."""

    def outside(self, *folders: Path) -> list[str]:
        """What was written elsewhere."""
        allowed = [os.path.realpath(folder) for folder in folders]
        return [
            path
            for path in self.written
            if not any(path == place or path.startswith(f"{place}/") for place in allowed)
        ]


_watching: list[Deeds] = []
_hooked: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    deeds = _watching[-1]
    if event in PROCESSES:
        deeds.processes.append(f"{event} {arguments!r:.200}")
    elif event in SOCKETS:
        deeds.sockets.append(f"{event} {arguments!r:.200}")
    elif event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITING:
            deeds.written.append(_absolute(path))
    elif event in _CHANGES:
        for path in arguments[: _CHANGES[event]]:
            deeds.written.append(_absolute(path))


def _absolute(path: Any) -> str:
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    place = Path(os.fsdecode(path)).absolute()
    return str(place.parent.resolve() / place.name)


def _children() -> set[str]:
    found = set[str]()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found |= set((task / "children").read_text().split())
    return found


def _open_sockets() -> set[str]:
    found = set[str]()
    for place in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(place.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def noted(deeds: Deeds) -> Iterator[None]:
    """Note what Python's own modules do meanwhile."""
    if not _hooked:
        sys.addaudithook(_note)  # there is no way to take one away again
        _hooked.append(True)
    _watching.append(deeds)
    try:
        yield
    finally:
        _watching.pop()


@contextlib.contextmanager
def watched(*, apart: bool = False) -> Iterator[Deeds]:
    """Note what is done meanwhile; apart, what Python's modules do only where that is noted."""
    deeds = Deeds()
    children, sockets = _children(), _open_sockets()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _memory("VmRSS"), time.perf_counter()
    try:
        with contextlib.nullcontext() if apart else noted(deeds):
            yield deeds
    finally:
        deeds.seconds = time.perf_counter() - started
        deeds.bytes = max(0, _memory("VmHWM") - before)
        deeds.processes += sorted(_children() - children)
        deeds.sockets += sorted(_open_sockets() - sockets)
