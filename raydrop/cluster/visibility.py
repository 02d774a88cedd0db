"""Whether every machine of a cluster sees the place where results go.

A folder that only the driver sees would be made anew on every other machine, and what trials leave
there would be lost with it. So the driver leaves a marker, and whoever opens the store elsewhere
looks for it: on each machine that is there, before anything is computed, and later in every task.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydrop.errors import ConfigError, RaydropError, StoreError
from raydrop.store import Store

ANSWER_SECONDS = 120.0
"""How long a machine may take to start a process and answer."""

_PATIENCE_SECONDS = 5.0
"""Network file systems may show a new file a moment late."""


@dataclass(frozen=True)
class Place:
    """Where results go; what tasks are given to open it from wherever they run."""

    location: str | Path
    """Of the store."""
    marker: str = ""
    """File below its root that the driver has left; none for an object store."""

    def open(self) -> Store:
        """Return the store.

        Raises:
            StoreError: If this machine does not see it.
        """
        store, end = Store(self.location), time.monotonic() + _PATIENCE_SECONDS
        while self.marker and not (store.root / self.marker).is_file():
            if time.monotonic() > end:
                raise StoreError(
                    f"Expected {store.root} to be the driver's folder on every machine, found "
                    "another or none on this one; name a folder that all machines share, or "
                    "s3://BUCKET/PREFIX, with --out."
                )
            time.sleep(0.2)
        return store


@contextlib.contextmanager
def marked(store: Store) -> Iterator[Place]:
    """Give the place of a store, marked for as long as the context lasts.

    Raises:
        StoreError: If the folder cannot be written.
    """
    if isinstance(store.location, str):
        yield Place(store.location)
        return
    marker = f".incomplete/seen-{uuid.uuid4().hex}"
    path = store.root / marker
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise StoreError(
            f"Expected to write results to {store.root}, found: {error.strerror or error}; "
            "free space there, allow writing, or choose another folder with --out."
        ) from error
    try:
        yield Place(store.location, marker)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def check_visible(place: Place) -> None:
    """Refuse a place that some machine of the cluster does not see, before anything is computed.

    Raises:
        ConfigError: If there is such a machine; it is named.
    """
    nodes = other_nodes()
    if nodes:
        refuse_unseen(place, answers(place, nodes))


def refuse_unseen(place: Place, said: Mapping[str, str | None]) -> None:
    """Refuse a place that some machine does not see.

    Args:
        place: Where results go.
        said: By address of the machine, why it cannot open the place, or None where it can.

    Raises:
        ConfigError: If one cannot.
    """
    unseen = {address: reason for address, reason in said.items() if reason is not None}
    if not unseen:
        return
    address, reason = next(iter(sorted(unseen.items())))
    if place.marker:
        found = f"{len(unseen)} of the {len(said)} others do not, such as {address}"
        remedy = "name a folder that all machines share, or s3://BUCKET/PREFIX, with --out."
    else:
        found, remedy = f"{len(unseen)} of the {len(said)} others do not", f"{address} says: "
        remedy += reason
    raise ConfigError(
        f"Expected every machine of the cluster to see {place.location}, found that {found}; "
        f"{remedy}"
    )


def other_nodes() -> dict[str, str]:
    """Return the address of every machine but this one that may run tasks, by its id in Ray."""
    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU", 0) > 0
    }


def answers(place: Place, nodes: Mapping[str, str]) -> dict[str, str | None]:
    """Ask machines to open a place.

    Args:
        place: Where results go.
        nodes: Address by id.

    Returns:
        By address, None or a sentence; several nodes of one address count as one.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            place
        ): address
        for node, address in nodes.items()
    }
    ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    said: dict[str, str | None] = {}
    for reference, address in asked.items():
        answer = _answer(reference)
        said[address] = said.get(address) or answer
    return said


def _answer(reference: object) -> str | None:
    try:
        answer: str | None = ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"It did not answer within {ANSWER_SECONDS:g} s; look whether it is well."
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return answer


def _look(place: Place) -> str | None:
    """Open a place; return None, or a sentence on why that is not possible."""
    try:
        place.open()
    except RaydropError as error:
        return str(error)
    return None
