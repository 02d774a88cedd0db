"""Sharded gradient scoring on a pool of Ray actors.

Each actor has two calls in flight, so that it never waits for the driver, and is given work only
after it has answered a ping. What an actor had when it died is given to others; Ray starts the
actor again meanwhile. Which of two calls it died of is not known, so each of them is made again
with an actor to itself, and only a shard that kills there is given up. Where shards are short,
several go into one call, which costs some milliseconds; they are computed one by one all the same,
added, where it is a sum, along their branch of the tree, and apart from each other if the call
fails. Gradient sums stay in the object store of the
node where they were computed, and are added there by the actors; the driver sees the last one
alone.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import exceptions
from ray._private.state import actors as actor_table

from raydrop.cluster.nodes import alive_nodes, nodes_text
from raydrop.cluster.resources import Layout
from raydrop.cluster.worker import prepare_process
from raydrop.data.batches import PreparedData
from raydrop.errors import in_one_line
from raydrop.scores.gradients.tree import PairwiseSum
from raydrop.scores.sharding import (
    FailedShardsError,
    GradientWorker,
    Shard,
    Task,
    default_memory,
    ignore,
    summed,
)
from raydrop.study import ScoringPrecision

IN_FLIGHT = 2
"""Calls that an actor has at most: the one it works on and the next one."""

RESTARTS = 16
"""Times that Ray starts an actor again; generous, because the loss of a node counts too."""

DEATHS_PER_SHARD = 3
"""Workers that a shard may take with it before it is given up."""

BUNDLE_SECONDS = 0.5
"""How long a call may take that has several shards: a hundred times what a call costs."""

BUNDLE_SHARDS = 64
"""Shards that a call has at most."""

ANSWER_SECONDS = 300.0
"""How long to wait for a worker to answer, when none is at work."""

DEATHS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
)
"""What Ray says when a process, or its node, is gone."""


def _nothing() -> None:
    """Do nothing: the deaths that nobody counts."""


class PoolWorker(GradientWorker):
    """A gradient worker with a process of its own."""

    def __init__(
        self, data: bytes, model: str, layout: Layout, precision: ScoringPrecision
    ) -> None:
        """Take the images from the object store.

        Args:
            data: Object reference of the :class:`PreparedData`, pickled: Ray would otherwise warn
                at each start that a restart could miss it, which cannot be, since the driver
                holds it.
            model: Name of the architecture.
            layout: Gives the device, the threads, and the share of a GPU's memory.
            precision: Of the forward and backward passes.
        """
        prepare_process(layout)
        prepared: PreparedData = ray.get(ray.cloudpickle.loads(data))
        memory = default_memory(torch.device(layout.device))
        if layout.gpus:
            memory = int(memory * min(layout.gpus, 1.0))
        super().__init__(prepared, model, layout.device, precision, memory)

    def ping(self) -> None:
        """Answer, which tells that the actor can work."""

    def run_all(
        self,
        task: Task,
        shards: Sequence[Shard],
        state: NDArray[np.float32],
        direction: NDArray[np.float32] | None = None,
    ) -> tuple[list[NDArray[np.float32]], float]:
        """Return what :meth:`run` gives of each shard, and the seconds that all of them took."""
        start = time.perf_counter()
        values = [self.run(task, shard, state, direction) for shard in shards]
        return values, time.perf_counter() - start

    def part(
        self, shards: Sequence[Shard], state: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float]:
        """Return shards' sum of gradients along their tree, and apart from it its seconds.

        The driver fetches only the second value; the first stays in this node's object store.
        """
        start = time.perf_counter()
        total = summed(lambda shard: self.run("gradient_sum", shard, state), self.add, shards)
        return total, time.perf_counter() - start

    def joint(
        self, a: NDArray[np.float32], b: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], None]:
        """Return the sum of two sums, and apart from it that it is done; see :meth:`part`."""
        return self.add(a, b), None


class RayExecutor:
    """Runs shards on a pool of actors; results come in order of completion."""

    def __init__(
        self,
        data: Any,
        model: str,
        layout: Layout,
        *,
        precision: ScoringPrecision = "fp32",
        worker: type[PoolWorker] = PoolWorker,
        on_death: Callable[[], object] = _nothing,
    ) -> None:
        """Start the actors.

        Args:
            data: Object reference of the :class:`PreparedData`.
            model: Name of the architecture.
            layout: What each actor gets, and how many there are.
            precision: Of the forward and backward passes.
            worker: Class of the actors.
            on_death: Is told of every process that died, before or after its first answer.
        """
        actor = ray.remote(worker).options(**layout.ray_options(), max_restarts=RESTARTS)
        reference = ray.cloudpickle.dumps(data)
        self._data = data  # held for as long as an actor may start again
        self._actors = [
            actor.remote(reference, model, layout, precision) for _ in range(layout.workers)
        ]
        self._crew = _Crew(self._actors, on_death, layout.needs)

    def close(self) -> None:
        """End the actors and give back what they hold."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        self._crew = _Crew([])

    def share(self, array: NDArray[np.float32]) -> Any:
        """Put an array into the object store once, for all shards; each node fetches it once."""
        return ray.put(np.ascontiguousarray(array))

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Hand out shards as actors become free; see :class:`raydrop.scores.sharding.Executor`."""

        def call(shards: Sequence[Shard]) -> Callable[[Any], Sequence[Any]]:
            return lambda actor: (actor.run_all.remote(task, shards, state, direction),)

        jobs = (_Job(shard, call([shard])) for shard in shards)
        work = _Values(jobs, call, len(self._actors))
        for _ in self._crew.steps(work):
            while work.values:
                yield work.values.popleft()
        work.check()

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> NDArray[np.float32]:
        """Sum along the tree, on the actors; see :class:`raydrop.scores.sharding.Executor`."""
        work = _Sum(shards, state, on_shard, len(self._actors))
        while True:
            for _ in self._crew.steps(work):
                pass
            work.check()
            try:
                total: NDArray[np.float32] = ray.get(work.total)
            except exceptions.ObjectLostError:
                work.recompute_all()
            else:
                return total


@dataclass(eq=False)
class _Job:
    """One call of an actor, made until it is done or given up."""

    shard: Shard
    """Which shard to name if it fails."""
    call: Callable[[Any], Sequence[Any]]
    """Calls an actor; returns references, the last of which is small and tells of the end."""
    node: int = 0
    """Which node of the tree it computes, in a sum."""
    deaths: int = 0
    """Workers that died of it, or of another call that they had too."""
    parts: tuple[_Job, ...] = ()
    """The jobs that it does in one call, where those are several."""
    is_single: bool = False
    """Whether it is not to be bundled with others, because a bundle with it failed."""

    @property
    def is_suspect(self) -> bool:
        """Whether it has to have an actor to itself, so that a death would be its doing."""
        return self.deaths > 0


class _Work:
    """What one use of the pool has still to do, and what has come of it."""

    def __init__(self, jobs: Iterable[_Job], workers: int = 1) -> None:
        self.waiting = deque(jobs)
        self.running = 0
        self.failures: list[tuple[Shard, str]] = []
        self._workers = workers
        self._seconds = BUNDLE_SECONDS  # of a shard; each goes alone until one has told

    @property
    def is_open(self) -> bool:
        """Whether anything is still to be done."""
        return bool(self.waiting or self.running)

    def take(self) -> _Job:
        """Return what is to be done next, or several short jobs as one; they wait no longer."""
        raise NotImplementedError

    @property
    def _room(self) -> int:
        """How many shards may share the next call, so that all workers end together."""
        share = len(self.waiting) // (2 * IN_FLIGHT * self._workers)
        return min(int(BUNDLE_SECONDS / self._seconds), BUNDLE_SHARDS, share)

    def _took(self, seconds: float, shards: int) -> None:
        """Learn how long a shard takes."""
        self._seconds = max(seconds / shards, BUNDLE_SECONDS / BUNDLE_SHARDS)

    def check(self) -> None:
        """Raise if a shard failed."""
        if self.failures:
            raise FailedShardsError(self.failures)

    def give_up(self, reason: str) -> None:
        """Fail whatever waits; what has killed workers is named first."""
        for job in sorted(self.waiting, key=lambda job: -job.deaths):
            self.fail(job, f"{_killed(job)}, and {reason}" if job.deaths else reason)
        self.waiting.clear()

    def ended(self, job: _Job, references: Sequence[Any], outcome: Any) -> None:
        """Note how a call ended: with a value, or with one of Ray's errors."""
        self.running -= 1
        if job.parts and isinstance(outcome, exceptions.RayError):
            self._apart(job, outcome)
        elif isinstance(outcome, exceptions.ObjectLostError):
            self.lost(job, outcome)
        elif isinstance(outcome, DEATHS):
            self.again(job)
        elif isinstance(outcome, exceptions.RayError):
            self.fail(job, in_one_line(getattr(outcome, "cause", None) or outcome))
        else:
            self.done(job, references, outcome)

    def _apart(self, job: _Job, outcome: exceptions.RayError) -> None:
        """Do the shards of a call that failed one by one, so that the one to blame is known."""
        for part in reversed(job.parts):
            part.is_single = True
            if isinstance(outcome, (*DEATHS, exceptions.ObjectLostError)):
                self.again(part)
            else:
                self.waiting.appendleft(part)

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:
        """Take what a job gave."""
        raise NotImplementedError

    def fail(self, job: _Job, reason: str) -> None:
        """Note that a job will not be done."""
        self.failures.append((job.shard, reason))

    def lost(self, job: _Job, error: exceptions.ObjectLostError) -> None:  # noqa: ARG002
        """Do a job again whose result, or arguments, were lost with a node."""
        self.again(job)

    def again(self, job: _Job) -> None:
        """Do a job once more: next, or, if it killed before, when nothing else is left to do."""
        job.deaths += 1
        if job.deaths >= DEATHS_PER_SHARD:
            self.fail(job, _killed(job))
        elif job.deaths > 1:
            self.waiting.append(job)
        else:
            self.waiting.appendleft(job)


class _Values(_Work):
    """A task on every shard, whose results go to the driver."""

    def __init__(
        self,
        jobs: Iterable[_Job],
        call: Callable[[Sequence[Shard]], Callable[[Any], Sequence[Any]]] | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(jobs, workers)
        self.values: deque[tuple[Shard, NDArray[np.float32]]] = deque()
        self._call = call

    def take(self) -> _Job:
        """See :meth:`_Work.take`."""
        room, jobs = self._room, [self.waiting.popleft()]
        if self._call is None or not _joins(jobs[0]):
            return jobs[0]
        while len(jobs) < room and _joins(self.waiting[0]):
            jobs.append(self.waiting.popleft())
        if len(jobs) == 1:
            return jobs[0]
        return _Job(jobs[0].shard, self._call([job.shard for job in jobs]), parts=tuple(jobs))

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:  # noqa: ARG002
        """Keep the values until they are asked for."""
        arrays, seconds = value
        jobs = job.parts or (job,)
        self._took(seconds, len(jobs))
        self.values.extend((each.shard, a) for each, a in zip(jobs, arrays, strict=True))


def _joins(job: _Job) -> bool:
    """Return whether a job may be done in one call with others."""
    return not (job.is_single or job.is_suspect)


class _Sum(_Work):
    """The sum of all shards' gradients, whose parts stay where they were computed."""

    def __init__(
        self,
        shards: Sequence[Shard],
        state: Any,
        on_shard: Callable[[Shard], object],
        workers: int = 1,
    ) -> None:
        self._shards, self._state, self._on_shard = shards, state, on_shard
        self._untold = set(range(len(shards)))
        self._tree = PairwiseSum[Any](len(shards))
        super().__init__(map(self._leaf, range(len(shards))), workers)

    @property
    def total(self) -> Any:
        """Reference of the whole sum."""
        return self._tree.total

    def take(self) -> _Job:
        """See :meth:`_Work.take`; what shares a call are the shards of one branch of the tree."""
        room, job = self._room, self.waiting.popleft()
        if self._tree.children(job.node) or not _joins(job):
            return job
        node = job.node
        while (parent := self._tree.parent(node)) is not None:
            leaves = self._tree.addends(parent)
            if leaves[0] != job.node or len(leaves) > room or not self._are_next(leaves[1:]):
                break
            node = parent
        if node == job.node:
            return job
        jobs = (job, *(self.waiting.popleft() for _ in self._tree.addends(node)[1:]))
        return _Job(job.shard, self._call([each.shard for each in jobs]), node, parts=jobs)

    def _are_next(self, leaves: Sequence[int]) -> bool:
        """Return whether these shards are what waits first, and may share a call."""
        found = list(itertools.islice(self.waiting, len(leaves)))
        return [job.node for job in found] == list(leaves) and all(map(_joins, found))

    def ended(self, job: _Job, references: Sequence[Any], outcome: Any) -> None:
        """Stop where something failed, because no part of a sum is worth keeping."""
        super().ended(job, references, outcome)
        if self.failures:
            self.waiting.clear()

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:
        """Keep the reference, and add next what can be added now."""
        leaves = [leaf for leaf in job.parts or (job,) if not self._tree.children(leaf.node)]
        if leaves:
            self._took(value, len(leaves))
        for leaf in leaves:
            if leaf.node in self._untold:
                self._untold.remove(leaf.node)
                self._on_shard(leaf.shard)
        node = self._tree.put(job.node, references[0])
        if node is not None:
            self.waiting.appendleft(self._addition(node))

    def lost(self, job: _Job, error: exceptions.ObjectLostError) -> None:
        """Recompute the lost part of an addition, from the shards up."""
        children = self._tree.children(job.node)
        lost = [c for c in children if self._tree.part(c).hex() == error.object_ref_hex]
        for child in lost or children:
            self._recompute(child)
        if not children:
            self.again(job)

    def recompute_all(self) -> None:
        """Start again, because the whole sum was lost."""
        self._recompute(self._tree.root)

    def _recompute(self, node: int) -> None:
        self._tree.forget(node)
        self.waiting.extendleft(map(self._leaf, reversed(self._tree.addends(node))))

    def _leaf(self, place: int) -> _Job:
        shard = self._shards[place]
        return _Job(shard, self._call([shard]), place)

    def _call(self, shards: Sequence[Shard]) -> Callable[[Any], Sequence[Any]]:
        state = self._state
        return lambda actor: actor.part.options(num_returns=2).remote(shards, state)

    def _addition(self, node: int) -> _Job:
        a, b = (self._tree.part(child) for child in self._tree.children(node))
        shard = self._shards[self._tree.addends(node)[0]]
        return _Job(shard, lambda actor: actor.joint.options(num_returns=2).remote(a, b), node)


@dataclass(frozen=True, eq=False)
class _Call:
    """A call in flight."""

    actor: Any
    references: Sequence[Any]
    work: _Work | None = None
    """Whose job it is; None for a ping."""
    job: _Job | None = None


class _Crew:
    """The actors, each of them ready for calls, or expected to answer a ping.

    Calls outlive the work that they belong to, when that is abandoned; their actors have room again
    when they end.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        on_death: Callable[[], object] = _nothing,
        needs: str = "nothing",
    ) -> None:
        self._size, self._needs = len(actors), needs
        self._on_death = on_death
        self._deaths = dict.fromkeys(actors, 0)  # that were told of
        self._load: dict[Any, list[_Call]] = {}  # of the actors that answered
        self._calls: dict[Any, _Call] = {}  # by the reference that tells of the end
        self._heard = time.monotonic()
        self._reason = ""
        for actor in actors:
            self._ping(actor)

    def steps(self, work: _Work) -> Iterator[None]:
        """Do all jobs of some work, and yield after each call that has ended.

        Work adds jobs when others are done; actors are busy again before anything is yielded.
        """
        self._heard = time.monotonic()
        while work.is_open:
            self._hand_out(work)
            ended = self._wait()
            if ended is None:
                work.give_up(self._nobody())
            else:
                self._take(ended)
                self._hand_out(work)
            yield

    def _hand_out(self, work: _Work) -> None:
        while work.waiting:
            job = work.waiting[0]
            actor = self._actor_for(job)
            if actor is None:
                return
            job = work.take()
            references = job.call(actor)
            work.running += 1
            call = _Call(actor, references, work, job)
            self._calls[references[-1]] = call
            self._load[actor].append(call)

    def _actor_for(self, job: _Job) -> Any | None:
        """Return the actor with the fewest calls that may take a job, or None."""
        room = 1 if job.is_suspect else IN_FLIGHT
        open_to = [
            actor
            for actor, calls in self._load.items()
            if len(calls) < room and not any(call.job and call.job.is_suspect for call in calls)
        ]
        return min(open_to, key=lambda actor: len(self._load[actor]), default=None)

    def _wait(self) -> Any | None:
        """Return a reference that is ready, or None if nobody is at work and nobody answers."""
        at_work = any(call.job for call in self._calls.values())
        left = None if at_work else max(0.0, self._heard + ANSWER_SECONDS - time.monotonic())
        if not self._calls:
            return None
        # Without fetching: a sum's parts are to stay where they are.
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=left, fetch_local=False)
        return ready[0] if ready else None

    def _take(self, reference: Any) -> None:
        """Note how a call ended, and what became of its actor."""
        call = self._calls.pop(reference)
        outcome = _outcome(reference)
        if call.work is None:
            self._answered(call.actor, outcome)
            return
        if not isinstance(outcome, DEATHS):
            self._heard = time.monotonic()
            if call in self._load.get(call.actor, ()):
                self._load[call.actor].remove(call)
        elif call in self._load.get(call.actor, ()):
            del self._load[call.actor]
            self._tell(call.actor, 1)  # once for all calls that it had
            self._ping(call.actor)
        if call.job is not None:
            call.work.ended(call.job, call.references, outcome)

    def _answered(self, actor: Any, outcome: Any) -> None:
        """Note how a ping ended."""
        if isinstance(outcome, exceptions.ActorDiedError):
            self._reason = _last_words(outcome)  # it will not be started again
            self._tell_all(actor, _restarts(actor) + (not outcome.actor_init_failed))
        elif isinstance(outcome, DEATHS):
            self._ping(actor)
        else:
            self._heard = time.monotonic()
            self._tell_all(actor, _restarts(actor))
            self._load[actor] = []

    def _tell_all(self, actor: Any, deaths: int) -> None:
        """Tell of deaths that no call ended with, such as those on the way to the first answer."""
        self._tell(actor, deaths - self._deaths[actor])

    def _tell(self, actor: Any, deaths: int) -> None:
        for _ in range(deaths):
            self._deaths[actor] += 1
            self._on_death()

    def _ping(self, actor: Any) -> None:
        # While an actor is starting again, a ping fails after two seconds, and another one follows.
        reference = actor.ping.remote()
        self._calls[reference] = _Call(actor, (reference,))

    def _nobody(self) -> str:
        """Say that nobody works, and how that came."""
        if self._calls:
            return (
                f"none of {self._size} workers answered within {ANSWER_SECONDS:g} s, each of which "
                f"asks for {self._needs}; the cluster has {nodes_text(alive_nodes())}, so see with "
                "'ray status' that there is room"
            )
        reason = self._reason or f"each was started again {RESTARTS} times"
        return f"none of {self._size} workers is left ({reason})"


def _restarts(actor: Any) -> int:
    """Return how often Ray has started an actor again."""
    return int(actor_table(actor_id=actor._actor_id.hex()).get("NumRestarts", 0))


def _outcome(reference: Any) -> Any:
    """Return what a call gave, or the error of Ray's that it ended with."""
    try:
        return ray.get(reference)
    except exceptions.RayError as error:
        return error


def _killed(job: _Job) -> str:
    return f"its worker died {job.deaths} times, most often a sign of too little memory"


def _last_words(error: exceptions.ActorDiedError) -> str:
    """Return why an actor could not be built; nothing if its process died."""
    return str(error).strip().splitlines()[-1].rstrip(".") if error.actor_init_failed else ""
