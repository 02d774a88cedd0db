"""How work is laid out on what a cluster has, and how long is waited for nodes that it needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray
from rich.console import Console

from raydrop.errors import ConfigError

SMALL_DATA_GPUS = 0.25
"""Share of a GPU for data that lie in memory: one small network leaves most of a GPU idle."""

CONTEXT_BYTES = 768 * 2**20
"""Memory of a GPU taken to be gone with each process: CUDA's context and the kernels that it loads,
which torch does not count; a few hundred MiB are usual."""

WAIT_SECONDS = 300.0
"""How long nodes and workers are waited for; a cloud starts a node within minutes."""

LOOK_EVERY_SECONDS = 2.0
"""How often a waiting study looks at the cluster."""

HEAD = "node:__internal_head__"
"""Ray's name of a resource that the head alone has."""

Node = Mapping[str, float]
"""What a node has in all, by the names that Ray has for it, such as ``CPU`` and ``GPU``."""


@dataclass(frozen=True)
class Layout:
    """How many workers there are at a time, and what each gets."""

    workers: int
    cpus: int
    """CPUs of each; also the threads that it computes with."""
    gpus: float
    """GPUs of each, a fraction where several share one."""

    @property
    def device(self) -> str:
        """Device that a worker computes on."""
        return "cuda" if self.gpus else "cpu"

    @property
    def needs(self) -> str:
        """What a worker needs, in words."""
        cpus = f"{self.cpus} CPU" + ("s" if self.cpus > 1 else "")
        return f"{cpus} and {self.gpus:g} of a GPU" if self.gpus else cpus

    def ray_options(self) -> dict[str, float]:
        """Return the options of a Ray task or actor of one worker."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def fits(self, node: Node) -> bool:
        """Return whether a node has room for one worker when it is idle."""
        return node.get("CPU", 0.0) >= self.cpus and node.get("GPU", 0.0) >= self.gpus


def make_layout(
    nodes: Sequence[Node], *, in_memory: bool, gpus_per_worker: float | None = None
) -> Layout:
    """Return how work is laid out on nodes; ``gpus_per_worker`` overrides the share of a GPU.

    Without a GPU every CPU is a worker with one thread, which keeps results independent of how
    many there are. With GPUs, workers share them, and the CPUs of their nodes are divided among
    the workers; each worker fits on every node that has GPUs enough for one. Where there is no CPU,
    or no node has the GPUs that a worker asks for, that is a ConfigError.
    """
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if cpus < 1:
        raise ConfigError(
            f"Expected at least one CPU in the Ray cluster, found {cpus} in {len(nodes)} nodes; "
            "start Ray with CPUs or wait for a worker node."
        )
    if gpus_per_worker == 0 or (most < 1 and gpus_per_worker is None):
        return Layout(cpus, 1, 0.0)
    share = gpus_per_worker or (SMALL_DATA_GPUS if in_memory else 1.0)
    if share > most:
        found = f"nodes with {most:g} at most" if most else "no GPU"
        raise ConfigError(
            f"Expected a node with {share:g} GPUs, which one worker asks for, found {found}; "
            "lower --gpus-per-worker (0 uses none)."
        )
    if share > 1 and share % 1:
        raise ConfigError(
            f"Expected a whole number of GPUs per worker, or a share of one, found {share:g}; "
            "change --gpus-per-worker."
        )
    rooms = [(_room(node, share), int(node.get("CPU", 0))) for node in nodes]
    used = [(room, cpus) for room, cpus in rooms if room]
    if not used:
        raise ConfigError(
            "Expected a CPU on a node with GPUs, found none; start Ray there with CPUs."
        )
    return Layout(sum(room for room, _ in used), min(cpus // room for room, cpus in used), share)


def _room(node: Node, share: float) -> int:
    """Return how many workers with this share of a GPU a node has room for."""
    gpus = int(node.get("GPU", 0.0))
    # A share lies on one GPU: of 0.4 there is room for two on each.
    room = gpus * _workers_on_one_gpu(share) if share <= 1 else int(gpus // share)
    return min(room, int(node.get("CPU", 0)))


def _workers_on_one_gpu(share: float) -> int:
    return int(1 / share + 1e-9)


def tensor_share(gpus: float, total_bytes: int) -> float:
    """Return how much of a GPU's memory a worker may fill with tensors, as a fraction of all of it.

    Where a worker gets the share g < 1 of a GPU, w = floor(1 / g) of them fit on it, each of which
    has a context of c bytes besides its tensors. So of the total T it may fill g (T - w c), and at
    least g T / 2: the contexts of small GPUs are smaller. Those of w workers add up to less than T.
    """
    if gpus >= 1:
        return 1.0
    contexts = _workers_on_one_gpu(gpus) * CONTEXT_BYTES
    return gpus * max(1 - contexts / total_bytes, 0.5)


def layout_text(layout: Layout, found: Sequence[Node]) -> str:
    """Say how many workers a layout has at a time, with what each, and on which nodes.

    Examples:
        >>> layout_text(Layout(8, 1, 0.0), [{"CPU": 8.0}, {"CPU": 0.0, HEAD: 1.0}])
        '8 workers at a time, each 1 CPU, on 1 of 2 nodes (head without CPUs)'
    """
    workers = f"{layout.workers} workers at a time, each" if layout.workers > 1 else "1 worker with"
    unused = [node for node in found if not layout.fits(node)]
    used = len(found) - len(unused)
    if not unused:
        return f"{workers} {layout.needs}, on {used} node{'s' * (used > 1)}"
    lacks: dict[str, list[Node]] = {}
    for node in unused:
        lacks.setdefault(_lack(layout, node), []).append(node)
    reasons = [
        f"{'head' if len(those) == 1 and HEAD in those[0] else len(those)} {lack}"
        for lack, those in lacks.items()
    ]
    return f"{workers} {layout.needs}, on {used} of {len(found)} nodes ({', '.join(reasons)})"


def _lack(layout: Layout, node: Node) -> str:
    """Say why no worker of a layout fits on a node."""
    if node.get("CPU", 0.0) < 1:
        return "without CPUs"
    return "without GPUs" if layout.gpus and not node.get("GPU") else "too small"


def alive_nodes() -> list[Node]:
    """Return what each node has in all, of those that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def this_machine(num_cpus: int | None) -> Node:
    """Return what a Ray that is started here would have, given these CPUs or all of them."""
    import torch
    from ray._private.utils import get_num_cpus

    cpus = get_num_cpus(override_docker_cpu_warning=True) if num_cpus is None else num_cpus
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def nodes_text(nodes: Sequence[Node]) -> str:
    """Say what nodes there are, to go on with after "found"."""
    if not nodes:
        return "no node"
    sizes = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(nodes)} alive: {', '.join(sizes[:4])}{', ...' if len(sizes) > 4 else ''}"


def wait_for_layout(
    *,
    in_memory: bool,
    gpus_per_worker: float | None,
    seconds: float,
    console: Console,
    nodes: Callable[[], Sequence[Node]] = alive_nodes,
) -> Layout:
    """Return :func:`make_layout`, as soon as there are nodes, or raise what it says in the end."""
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
                    # Without demand an autoscaler would start none.
                    _request([{"CPU": 1} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})])
            time.sleep(min(LOOK_EVERY_SECONDS, seconds))
    finally:
        if told:
            _request([])  # which would otherwise keep a node, and its bill, after the study


def _request(bundles: list[dict[str, float]]) -> None:
    """Tell an autoscaler which resources are wanted, in place of what it was told before."""
    from ray.autoscaler.sdk import request_resources

    # Whether there is an autoscaler is unknown, and a request that cannot be met is told anyway.
    with contextlib.suppress(Exception):
        request_resources(bundles=bundles)


class NodeWatch:
    """Looks, now and then, whether a worker of a layout still has a place in the cluster.

    A node that is busy counts, because it will be free again; nodes that are gone do not.
    """

    def __init__(
        self,
        layout: Layout,
        seconds: float | None = None,
        nodes: Callable[[], Sequence[Node]] = alive_nodes,
    ) -> None:
        """Begin; a place may be missing for these seconds, :data:`WAIT_SECONDS` by default."""
        self._layout, self._nodes = layout, nodes
        self._seconds = WAIT_SECONDS if seconds is None else seconds
        self._looked = self._placed = time.monotonic()

    def check(self) -> None:
        """Look, if the last look was some time ago; a ConfigError ends what waits for too long."""
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
