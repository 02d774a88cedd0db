"""Shards of people's own models and data on the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import ray
import torch

from raydrop.cluster.crew import CrewExecutor, CrewWorker, Network, WorkContext, start_crew
from raydrop.cluster.layout import WAIT_SECONDS, wait_for_layout
from raydrop.cluster.packages import own_modules
from raydrop.cluster.session import ray_session
from raydrop.data.held import StreamedInputs
from raydrop.scores.library import Task
from raydrop.scores.sharding import default_memory
from raydrop.store.terminal import Console

LOCAL = "local"
"""The address that stands for a Ray that is started on this machine."""


class OwnWorker(CrewWorker):
    """A worker whose data are a :class:`Task`, with the one network that there is."""

    def use(self, network: Network) -> None:
        """Take the model, where it is not there yet."""
        if self._network is None:
            layout, task = self._context.layout, self._task
            memory = int(default_memory(torch.device(layout.device)) * min(layout.gpus or 1, 1.0))
            self._gradients = task.worker(layout.device, memory)
            self._network = network

    @property
    def _task(self) -> Task:
        return self._data  # type: ignore[return-value]  # of a worker for shards alone


@dataclass(frozen=True)
class Sharding:
    """Where shards are run."""

    address: str
    num_cpus: int | None
    gpus_per_worker: float | None
    code: str | None
    """Folder of the program, from which workers import too."""

    @contextlib.contextmanager
    def executor(self, task: Task) -> Iterator[CrewExecutor]:
        """Connect, send model and data, and give what runs shards there while this lasts.

        Raises:
            ConfigError: If the cluster cannot be joined, or has no room for a worker.
            IncompleteStudyError: If no worker is left.
        """
        address = None if self.address == LOCAL else self.address
        with ray_session(address, self.num_cpus, self.code, _modules_of(task)):
            layout = wait_for_layout(
                in_memory=task.data.samples.inputs.in_memory,
                gpus_per_worker=self.gpus_per_worker,
                seconds=0.0 if address is None else WAIT_SECONDS,
                console=Console(quiet=True),
            )
            # On a GPU here, it could not be read where there is none.
            sent = replace(task, model=copy.deepcopy(task.model).cpu())
            # Neither study nor store: these workers are for shards alone.
            context = WorkContext(None, ray.put(sent), layout, None)  # type: ignore[arg-type]
            with start_crew(context, worker=OwnWorker) as crew:
                yield crew.executor(task.name, task.precision)


def _modules_of(task: Task) -> tuple[ModuleType, ...]:
    """Return the modules of the user's own that layers and data are from."""
    held: list[Any] = [*task.model.modules()]
    if isinstance(task.data.samples.inputs, StreamedInputs):
        held.append(task.data.samples.inputs.source)
    return own_modules(f"{type(each).__module__}:" for each in held)
