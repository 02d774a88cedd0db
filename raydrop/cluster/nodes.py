"""Waiting for nodes, for a while and not for ever, and saying what was asked and what there is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from raydrop.cluster.resources import Layout, make_layout
from raydrop.errors import ConfigError
from raydrop.frontier.terminal import Console

WAIT_SECONDS = 300.0
"""How long a study waits for a node that it can run on; a cloud starts one within minutes."""

LOOK_EVERY_SECONDS = 2.0
"""How often a waiting study looks at the cluster."""

Nodes = Callable[[], Sequence[Mapping[str, float]]]


def alive_nodes() -> list[Mapping[str, float]]:
    """Return what each node has in all, of those that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def wait_for_layout(
    *,
    in_memory: bool,
    gpus_per_worker: float | None,
    seconds: float,
    console: Console,
    nodes: Nodes = alive_nodes,
) -> Layout:
    """Return how work is laid out, as soon as there are nodes that it can be laid out on.

    Args:
        in_memory: See :func:`make_layout`.
        gpus_per_worker: See :func:`make_layout`.
        seconds: How long nodes may take to come.
        console: Is told what is waited for.
        nodes: Gives what there is.

    Raises:
        ConfigError: If they have not come by then; says what was asked and what there is.
    """
    deadline, told = time.monotonic() + seconds, False
    try:
        while True:
            try:
                return make_layout(nodes(), in_memory=in_memory, gpus_per_worker=gpus_per_worker)
            except ConfigError as error:
                if time.monotonic() >= deadline:
                    waited = f" Waited {seconds:g} s." if seconds else ""
                    raise ConfigError(f"{error}{waited}") from error
                if not told:
                    told = True
                    console.print(f"  waiting     up to {seconds:g} s for nodes: {error}")
                    _ask_for(gpus_per_worker)
            time.sleep(min(LOOK_EVERY_SECONDS, seconds))
    finally:
        if told:
            _ask_no_more()


def _ask_for(gpus: float | None) -> None:
    """Ask an autoscaler, if there is one, for a node; without demand it would start none."""
    _request([{"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}])


def _ask_no_more() -> None:
    """Take a request back, which would otherwise keep a node, and its bill, after the study."""
    _request([])


def _request(bundles: list[dict[str, float]]) -> None:
    """Tell an autoscaler which resources are wanted, in place of what it was told before."""
    from ray.autoscaler.sdk import request_resources

    # Whether there is an autoscaler is unknown, and a request that cannot be met is told anyway.
    with contextlib.suppress(Exception):
        request_resources(bundles=bundles)


class Watch:
    """Looks, now and then, whether a worker of a layout still has a place in the cluster.

    A node that is busy counts, because it will be free again; nodes that are gone do not.
    """

    def __init__(
        self, layout: Layout, seconds: float | None = None, nodes: Nodes = alive_nodes
    ) -> None:
        """Begin to watch.

        Args:
            layout: What a worker needs.
            seconds: How long a place may be missing; :data:`WAIT_SECONDS` by default.
            nodes: Gives what there is.
        """
        self._layout, self._nodes = layout, nodes
        self._seconds = WAIT_SECONDS if seconds is None else seconds
        self._looked = self._placed = time.monotonic()

    def check(self) -> None:
        """Look, if the last look was some time ago.

        Raises:
            ConfigError: If no node could have held a worker for too long.
        """
        now = time.monotonic()
        if now - self._looked < min(LOOK_EVERY_SECONDS, self._seconds):
            return
        self._looked, found = now, self._nodes()
        if any(self._layout.fits(node) for node in found):
            self._placed = now
        elif now - self._placed >= self._seconds:
            raise ConfigError(
                f"Expected a node with {self._layout.needs} for {self._seconds:g} s, found "
                f"{nodes_text(found)}; start nodes and run the same command again, which does what "
                "is missing."
            )


def wait_for_any(references: Sequence[Any], watch: Watch) -> Any:
    """Return the first of some references that is ready.

    Raises:
        ConfigError: If their tasks have had no place in the cluster for too long.
    """
    while True:
        ready, _ = ray.wait(list(references), num_returns=1, timeout=LOOK_EVERY_SECONDS)
        if ready:
            return ready[0]
        watch.check()


def nodes_text(nodes: Sequence[Mapping[str, float]]) -> str:
    """Say what nodes there are, to go on with after "found".

    Args:
        nodes: What each has in all, such as :func:`alive_nodes` returns.
    """
    if not nodes:
        return "no node"
    sizes = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(nodes)} alive: {', '.join(sizes[:4])}{', ...' if len(sizes) > 4 else ''}"
