"""What a worker of any stage needs: a function of what the cluster has and the data are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydrop.errors import ConfigError

SMALL_DATA_GPUS = 0.25
"""Share of a GPU for data that lie in memory: one small network leaves most of a GPU idle."""

CONTEXT_BYTES = 768 * 2**20
"""Memory of a GPU that is taken to be gone with each process before it holds a tensor.

CUDA's context and the kernels of torch, cuBLAS and cuDNN that a process loads are outside of what
torch counts and limits. How much they are depends on GPU, driver and network; a few hundred MiB are
usual where kernels are loaded as they are needed (CUDA 12), so this is an assumption with room to
spare, not a measurement.
"""


@dataclass(frozen=True)
class Layout:
    """How a stage lays out on a cluster."""

    workers: int
    """Workers at the same time."""
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
        """Return the options of a Ray task or actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def fits(self, node: Mapping[str, float]) -> bool:
        """Return whether a node with these resources has room for one worker when it is idle."""
        return node.get("CPU", 0.0) >= self.cpus and node.get("GPU", 0.0) >= self.gpus


def make_layout(
    nodes: Sequence[Mapping[str, float]],
    *,
    in_memory: bool,
    gpus_per_worker: float | None = None,
) -> Layout:
    """Return how work is laid out on what a cluster has.

    Without a GPU every CPU is a worker with one thread, which keeps results independent of how
    many there are. With GPUs, workers share them, and the CPUs of their nodes are divided among
    the workers; each worker fits on every node that has GPUs enough for one.

    Args:
        nodes: What each node has in all, under ``CPU`` and ``GPU``.
        in_memory: Whether the images lie in memory.
        gpus_per_worker: Overrides the share of a GPU.

    Raises:
        ConfigError: If there is no CPU, or no node has the GPUs that a worker asks for.
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


def tensor_share(gpus: float, total_bytes: int) -> float:
    """Return how much of a GPU's memory a worker may fill with tensors, as a fraction of all of it.

    Where a worker gets the share g < 1 of a GPU, w = floor(1 / g) of them fit on it, each of which
    has a context of c bytes besides its tensors. So of the total T it may fill g (T - w c), and at
    least g T / 2: the contexts of small GPUs are smaller.

    Args:
        gpus: Share of a GPU that the worker gets, g.
        total_bytes: Memory of the GPU, T.

    Returns:
        A fraction in (0, 1]; those of w workers add up to less than 1. A worker with a GPU or
        several to itself has all of it.
    """
    if gpus >= 1:
        return 1.0
    contexts = _workers_on_one_gpu(gpus) * CONTEXT_BYTES
    return gpus * max(1 - contexts / total_bytes, 0.5)


def _workers_on_one_gpu(share: float) -> int:
    return int(1 / share + 1e-9)


def _room(node: Mapping[str, float], share: float) -> int:
    """Return how many workers with this share of a GPU a node has room for."""
    gpus = int(node.get("GPU", 0.0))
    # A share lies on one GPU: of 0.4 there is room for two on each.
    room = gpus * _workers_on_one_gpu(share) if share <= 1 else int(gpus // share)
    return min(room, int(node.get("CPU", 0)))
