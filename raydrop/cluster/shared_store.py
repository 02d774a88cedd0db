"""The store as every machine sees it; whether each can leave results there, and knows the time.

A folder that only the driver sees would be made anew on every other machine, and what trials leave
there would be lost with it. So the driver leaves a marker, and whoever opens the store elsewhere
looks for it, and then writes and removes something small: on each machine that is there, before
anything is computed, and later in every process that works.

Nothing in a store is kept or removed by its age, so a wrong clock damages nothing. But object
stores refuse requests whose signature has a wrong time, and logs and entries would mislead.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydrop.cluster.packages import unimportable
from raydrop.errors import ConfigError, RaydropError, StoreError, in_one_line
from raydrop.store import Store
from raydrop.store.files import expecting
from raydrop.store.remote import is_url
from raydrop.study import config_hash

ANSWER_SECONDS = 120.0
"""How long a machine may take to start a process and answer."""

SKEW_SECONDS = 300.0
"""By how much clocks may differ. Object stores refuse requests from 900 on, and a clock that has
gone so far wrong is one that nothing sets."""

_PATIENCE_SECONDS = 5.0
"""Network file systems may show a new file a moment late."""


@dataclass(frozen=True)
class SharedStore:
    """Where results go; what workers are given to open it from wherever they run."""

    location: str | Path
    """Of the store."""
    marker: str = ""
    """File below its root that the driver has left; none for an object store."""

    def open(self) -> Store:
        """Return the store, or raise a StoreError where this machine cannot read or write it."""
        store = self.find()
        if store is None:
            raise StoreError(
                f"Expected {self.location} to be the driver's folder on every machine, found "
                "another or none on this one; name a folder that all machines share, or "
                "s3://BUCKET/PREFIX, with --out."
            )
        _write_once(self)  # a worker that cannot write would work in vain
        return store

    def find(self) -> Store | None:
        """Return the store, or None where this machine does not see what the driver left there."""
        end = time.monotonic() + _PATIENCE_SECONDS
        with self._expecting("read"):
            store = Store(self.location)
            while self.marker:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    (store.root / self.marker).stat()
                    break
                if time.monotonic() > end:
                    return None
                time.sleep(0.2)
        return store

    def try_writing(self) -> None:
        """Write something small where results go, and remove it, or raise a StoreError."""
        if is_url(self.location):
            store, config = Store(self.location), {"kind": "probe", "name": uuid.uuid4().hex}
            store.write("probe", config, {})
            store.remove("probe", config_hash(config))
        elif self.marker:
            path = (Path(self.location) / self.marker).with_name(f"probe-{uuid.uuid4().hex}")
            with self._expecting("write results to"):
                path.write_text("whether results can be written here")
                path.unlink()

    def _expecting(self, what: str) -> AbstractContextManager[None]:
        remedy = "free space there, allow whoever runs Ray on that machine to read and write it, or"
        what = f"to {what} {self.location} on {platform.node()}"
        return expecting(what, f"{remedy} choose another folder with --out")


_write_once = functools.cache(lambda place: place.try_writing())  # in each process


@contextlib.contextmanager
def shared(store: Store) -> Iterator[SharedStore]:
    """Share a store with all machines, marked for as long as the context lasts.

    Raises a StoreError if the folder cannot be written, and in place of what its removal led to.
    """
    if isinstance(store.location, str):
        yield SharedStore(store.location)
        return
    path = store.folder(".incomplete") / f"seen-{uuid.uuid4().hex}"
    marker = path.relative_to(store.root).as_posix()
    new = [folder for folder in (path.parent, store.root, store.root.parent) if not folder.exists()]
    with store.place.writing(store.root):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield SharedStore(store.location, marker)
    except (RaydropError, OSError) as error:
        if path.exists():
            raise
        raise StoreError(
            f"Expected {store.root} to stay where it is until the work is done, found it removed, "
            "or another in its place; leave it there, and the same command does what is missing."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            for folder in new:  # where nothing was left in them, because the work was refused
                folder.rmdir()


@dataclass(frozen=True)
class Answer:
    """What a machine says when it is asked to open a store."""

    sees: bool = True
    """Whether the store is there as the driver sees it."""
    refusal: str | None = None
    """Why it cannot read or write there, or did not answer."""
    skew: float = 0.0
    """Seconds by which its clock is ahead of this machine's at least, or behind if negative."""
    lacks: str = ""
    """Why it cannot import something of the user's own."""

    def joined(self, other: Answer) -> Answer:
        """Return what two nodes of one machine say together."""
        skew = max(self.skew, other.skew, key=abs)
        refusal, lacks = self.refusal or other.refusal, self.lacks or other.lacks
        return Answer(self.sees and other.sees, refusal, skew, lacks)


def check_machines(place: SharedStore, paths: Mapping[str, str] = {}) -> None:
    """Refuse a cluster where some machine could not leave results; see :func:`refuse_unfit`.

    Each has to be able to import what the import paths name, of the source that each has here.
    """
    nodes = other_nodes()
    if nodes:
        refuse_unfit(place, answers(place, nodes, paths))


def refuse_unfit(place: SharedStore, said: Mapping[str, Answer]) -> None:
    """Refuse with a ConfigError machines that could not leave results, by what each says.

    A wrong clock comes first, because an object store may be out of reach for no other reason. One
    machine is named by its address.
    """
    wrong = [a for a in sorted(said) if abs(said[a].skew) > SKEW_SECONDS]
    if wrong:
        address = max(wrong, key=lambda each: abs(said[each].skew))
        skew = said[address].skew
        raise ConfigError(
            f"Expected the clocks of all machines to agree within {SKEW_SECONDS / 60:g} minutes, "
            f"found that of {address} at least {_duration(abs(skew))} "
            f"{'ahead of' if skew > 0 else 'behind'} this machine's ({len(wrong)} of the "
            f"{len(said)} others differ too much); set whichever is wrong with `timedatectl "
            "set-ntp true` or chrony, since object stores refuse requests signed with a wrong "
            "time, and times in logs and results would mislead."
        )
    unseen = [address for address, answer in sorted(said.items()) if not answer.sees]
    if unseen:
        raise ConfigError(
            f"Expected every machine of the cluster to see {place.location}, found that "
            f"{len(unseen)} of the {len(said)} others do not, such as {unseen[0]}; name a folder "
            "that all machines share, or s3://BUCKET/PREFIX, with --out."
        )
    for what, reasons in (
        (f"read and write {place.location}", {a: each.refusal for a, each in said.items()}),
        ("import what the study names", {a: each.lacks for a, each in said.items()}),
    ):
        unfit = [address for address in sorted(said) if reasons[address]]
        if unfit:
            raise ConfigError(
                f"Expected every machine of the cluster to {what}, found that {len(unfit)} of the "
                f"{len(said)} others cannot, such as {unfit[0]}: {reasons[unfit[0]]}"
            )


def clock_skew(sent: float, told: float, received: float) -> float:
    """Return by how many seconds another machine's clock is wrong at least.

    It told its time at some t of this machine's clock with sent <= t <= received; so told - t lies
    between told - received and told - sent. The bound closer to 0 is returned, or 0 between them.

    Example:
        >>> clock_skew(100, 103, 110), clock_skew(100, 400, 110), clock_skew(100, 40, 110)
        (0.0, 290.0, -60.0)
    """
    return max(0.0, told - received) + min(0.0, told - sent)


def _duration(seconds: float) -> str:
    """Say how long something is, rounded down, in the unit that suits."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 60:.0f} minutes"


def other_nodes() -> dict[str, str]:
    """Return the address of every machine but this one that may run tasks, by its id in Ray."""
    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU", 0) > 0
    }


def answers(
    place: SharedStore, nodes: Mapping[str, str], paths: Mapping[str, str] = {}
) -> dict[str, Answer]:
    """Ask machines, given by their addresses by id, to open a store and to import what paths name.

    Returns their answers by address.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked: dict[Any, tuple[str, float]] = {}
    for node, address in nodes.items():
        strategy, sent = NodeAffinitySchedulingStrategy(node, soft=False), time.time()
        asked[task.options(scheduling_strategy=strategy).remote(place, paths)] = address, sent
    said: dict[str, Answer] = {}
    waiting, end = list(asked), time.monotonic() + ANSWER_SECONDS
    while waiting:
        left = max(0.0, end - time.monotonic())
        ready, rest = ray.wait(waiting, num_returns=1, timeout=left)
        received = time.time()
        for reference in ready or waiting:  # once time is over, all those that were never ready
            address, sent = asked[reference]
            answer = _answer(reference, sent, received)
            said[address] = answer.joined(said.get(address, Answer()))
        waiting = rest if ready else []
    return said


def _answer(reference: Any, sent: float, received: float) -> Answer:
    """Return what a machine said, or why it said nothing."""
    answer: Answer
    try:
        answer, told = ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        reason = f"it did not answer within {ANSWER_SECONDS:g} s"
    except ray.exceptions.RayError as error:
        reason = in_one_line(getattr(error, "cause", None) or error)
    else:
        return replace(answer, skew=clock_skew(sent, told, received))
    return Answer(refusal=f"{reason}; look whether it is well.")


def _look(place: SharedStore, paths: Mapping[str, str] = {}) -> tuple[Answer, float]:
    """Open a store, write there, import; return what came of it, and this machine's time."""
    told = time.time()
    try:
        if place.find() is None:
            return Answer(sees=False), told
        place.try_writing()
    except RaydropError as error:
        return Answer(refusal=str(error)), told
    return Answer(lacks=unimportable(paths)), told
