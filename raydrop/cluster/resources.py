"""What a worker of any stage needs: a function of what the cluster has and the data are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raydrop.errors import ConfigError

SMALL_DATA_GPUS = 0.25
"""Share of a GPU for data that lie in memory: one small network leaves most of a GPU idle."""


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

    def ray_options(self) -> dict[str, float]:
        """Return the options of a Ray task or actor."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def make_layout(
    resources: Mapping[str, float], *, in_memory: bool, gpus_per_worker: float | None = None
) -> Layout:
    """Return how work is laid out on what a cluster has.

    Without a GPU every CPU is a worker with one thread, which keeps results independent of how
    many there are. With GPUs, workers share them, and the CPUs are divided among the workers.

    Args:
        resources: As ``ray.cluster_resources()`` gives them.
        in_memory: Whether the images lie in memory.
        gpus_per_worker: Overrides the share of a GPU.

    Raises:
        ConfigError: If there is no CPU, or a worker asks for more GPUs than there are.
    """
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if cpus < 1:
        raise ConfigError(
            f"Expected at least one CPU in the Ray cluster, found {cpus}; "
            "start Ray with CPUs or wait for a worker node."
        )
    if gpus < 1 or gpus_per_worker == 0:
        return Layout(cpus, 1, 0.0)
    share = gpus_per_worker or (SMALL_DATA_GPUS if in_memory else 1.0)
    if share > gpus:
        raise ConfigError(
            f"Expected at most {gpus:g} GPUs per worker, which is all there are, found {share:g}; "
            "lower --gpus-per-worker."
        )
    workers = min(int(gpus / share), cpus)
    return Layout(workers, max(1, cpus // workers), share)
