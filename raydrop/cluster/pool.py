"""Sharded gradient scoring on a pool of Ray actors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from raydrop.cluster.resources import Layout
from raydrop.data.batches import PreparedData
from raydrop.errors import ScoringError
from raydrop.scores.sharding import GradientWorker, Shard, Task

RESTARTS = 4
"""Times that an actor is started again, and a shard tried again, before giving up."""


class PoolWorker(GradientWorker):
    """A gradient worker with a process of its own."""

    def __init__(self, data: bytes, model: str, device: str, threads: int) -> None:
        """Take the images from the object store.

        Args:
            data: Object reference of the :class:`PreparedData`, pickled: Ray would otherwise warn
                at each start that a restart could miss it, which cannot be, since the driver
                holds it.
            model: Name of the architecture.
            device: ``cpu`` or ``cuda``.
            threads: Threads to compute with.
        """
        torch.set_num_threads(threads)
        prepared: PreparedData = ray.get(ray.cloudpickle.loads(data))
        super().__init__(prepared, model, device)


class RayExecutor:
    """Runs shards on a pool of actors; results come in order of completion."""

    def __init__(
        self,
        data: Any,
        model: str,
        layout: Layout,
        worker: type[PoolWorker] = PoolWorker,
    ) -> None:
        """Start the actors.

        Args:
            data: Object reference of the :class:`PreparedData`.
            model: Name of the architecture.
            layout: What each actor gets, and how many there are.
            worker: Class of the actors.
        """
        actor = ray.remote(worker).options(
            **layout.ray_options(), max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        reference = ray.cloudpickle.dumps(data)
        self._data = data  # held for as long as an actor may start again
        self._actors = [
            actor.remote(reference, model, layout.device, layout.cpus)
            for _ in range(layout.workers)
        ]

    def close(self) -> None:
        """End the actors and give back what they hold."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def share(self, array: NDArray[np.float32]) -> Any:
        """Put an array into the object store once, for all shards."""
        return ray.put(np.ascontiguousarray(array))

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Hand out shards as actors become free; see :class:`raydrop.scores.sharding.Executor`.

        Raises:
            ScoringError: If a shard fails, or its actor dies, too often; the message names it.
        """
        waiting = iter(shards)
        owners: dict[Any, tuple[Any, Shard]] = {}

        def feed(actor: Any) -> None:
            shard = next(waiting, None)
            if shard is not None:
                owners[actor.run.remote(task, shard, state, direction)] = (actor, shard)

        # One shard at a time for each actor: with a second one waiting, a dying actor would fail
        # both, or lose the answer to the one before, and the wrong shard would be named.
        for actor in self._actors:
            feed(actor)
        while owners:
            (done,), _ = ray.wait(list(owners), num_returns=1)
            actor, shard = owners.pop(done)
            yield shard, self._result(done, task, shard)
            feed(actor)

    @staticmethod
    def _result(reference: Any, task: Task, shard: Shard) -> NDArray[np.float32]:
        try:
            return cast("NDArray[np.float32]", ray.get(reference))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise ScoringError(
                f"Expected shard {shard.index} (samples {shard.start} to {shard.stop - 1}) to give "
                f"its {task}, found {type(cause).__name__}: {str(cause).splitlines()[0]}; what was "
                "scored before is kept, so run the same command again once that is mended."
            ) from error
