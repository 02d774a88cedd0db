"""One crew of actors for query runs and scores: each process imports torch and takes the data once.

A worker is given calls only after it has answered a ping, and has up to two in flight, so that it
never waits for the driver. What it had when it died is given to others, and another worker takes
its place. Which of two calls it died of is not known, so each of them is made again with a worker
to itself, and only one that kills there is given up. Where shards are short, several go into one
call; they are computed one by one all the same, added, where it is a sum, along their branch of the
tree, and apart from each other if the call fails. Gradient sums stay in the object store of the
node where they were computed, and are added there; the driver sees the last one alone.
"""

from __future__ import annotations

import contextlib
import ctypes
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

from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.deaths import RETRIES, WorkerDeaths
from raydrop.cluster.layout import Layout, alive_nodes, nodes_text, tensor_share
from raydrop.cluster.shared_store import SharedStore
from raydrop.data.batches import PreparedData
from raydrop.errors import IncompleteStudyError, in_one_line
from raydrop.plan.runs import QueryRun
from raydrop.scores.gradients.tree import PairwiseSum
from raydrop.scores.quantities import Task
from raydrop.scores.sharding import (
    FailedShardsError,
    GradientWorker,
    Shard,
    added,
    default_memory,
    ignore,
    summed,
)
from raydrop.stages.logs import failure_sentence, work_log
from raydrop.stages.queries import run_query
from raydrop.study import ScoringPrecision, Study

IN_FLIGHT = 2
"""Calls with shards that a worker has at most: the one it works on and the next one."""

STARTS = 64
"""Workers that may be started in each place; generous, because the loss of a node counts too."""

BUNDLE_SECONDS = 0.5
"""How long a call may take that has several shards: a hundred times what a call costs."""

BUNDLE_SHARDS = 64
"""Shards that a call has at most."""

DEATHS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
)
"""What Ray says when a process, or its node, is gone."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``, as its ``malloc.h`` numbers them."""
_NEVER = 2**30
_LARGEST_PORTABLE = 2**25
"""What every 64-bit glibc takes as a threshold for ``mmap``; some refuse more."""

Vector = NDArray[np.float32]
Network = tuple[str, ScoringPrecision]
"""An architecture, and the precision of its passes."""


def prepare_process(layout: Layout) -> None:
    """Give this process its threads, let it keep what it frees, and leave others their GPU memory.

    On a shared GPU memory then runs out at this process's share, which cuts its own batches only.
    """
    torch.set_num_threads(layout.cpus)
    # glibc gives large buffers back to the system, and each batch would wait for fresh pages:
    # a tenth of a small network's gradients.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER) or mallopt(_MMAP_THRESHOLD, _LARGEST_PORTABLE)
    if 0 < layout.gpus < 1 and torch.cuda.is_available():
        device = torch.cuda.current_device()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(tensor_share(layout.gpus, total), device)


def attempt(work: Callable[[], None]) -> str | None:
    """Do something; return None, or a sentence on why it could not be done."""
    try:
        work()
    except Exception as error:
        return failure_sentence(error)
    return None


def describe_query(run: QueryRun) -> str:
    """Say in a few words which query run it is."""
    kind = f", initialisation {run.initialisation + 1}" if run.initialisation else ""
    if run.partition is not None:
        kind = f", part {run.partition[0] + 1} of {run.partition[1]}"
    return f"{run.model}, seed {run.seed}{kind}"


@dataclass(frozen=True)
class WorkContext:
    """What the workers of every stage work with; with the study goes what its script has added."""

    study: Study
    data: Any
    """Object reference of the :class:`raydrop.data.batches.PreparedData`."""
    layout: Layout
    """What each worker gets, and how many there are."""
    place: SharedStore
    """What they open the store with."""


class CrewWorker:
    """The process of a worker; keeps the data, and the network that it last differentiated."""

    def __init__(self, context: bytes) -> None:
        """Take the data from the object store, for a :class:`WorkContext`."""
        # Pickled, or Ray would warn that a reference in it could be gone, which the driver holds.
        self._context: WorkContext = ray.cloudpickle.loads(context)
        prepare_process(self._context.layout)
        self._data: PreparedData = ray.get(self._context.data)
        self._network: Network | None = None

    def ping(self) -> None:
        """Answer, which tells that the worker can work."""

    def query(self, run: QueryRun) -> str | None:
        """Do a query run; return a sentence if it failed."""

        def work() -> None:
            store, device = self._context.place.open(), self._context.layout.device
            with work_log(store.place, "query_runs", run.key, describe_query(run), device):
                run_query(self._context.study, run, self._data, store, device)

        return attempt(work)

    def use(self, network: Network) -> None:
        """Build a network, where it is not the one that is there."""
        if network == self._network:
            return
        self._network, layout = None, self._context.layout
        memory = int(default_memory(torch.device(layout.device)) * min(layout.gpus or 1, 1.0))
        model, precision = network
        self._gradients = GradientWorker(self._data, model, layout.device, precision, memory)
        self._network = network

    def run(self, task: Task, shard: Shard, state: Vector, direction: Vector | None = None) -> Any:
        """Compute one shard; see :meth:`GradientWorker.run`."""
        return self._gradients.run(task, shard, state, direction)

    def values(
        self,
        network: Network,
        task: Task,
        shards: Sequence[Shard],
        state: Vector,
        direction: Vector | None,
    ) -> tuple[list[Vector], float]:
        """Return what :meth:`run` gives of each shard, and the seconds that all of them took."""
        self.use(network)
        start = time.perf_counter()
        values = [self.run(task, shard, state, direction) for shard in shards]
        return values, time.perf_counter() - start

    def part(
        self, network: Network, shards: Sequence[Shard], state: Vector
    ) -> tuple[Vector, float]:
        """Return shards' sum of gradients, which stays on this node, and the seconds it took."""
        self.use(network)
        start = time.perf_counter()
        total = summed(lambda shard: self.run("gradient_sum", shard, state), shards)
        return total, time.perf_counter() - start

    def joint(self, a: Vector, b: Vector) -> tuple[Vector, None]:
        """Return the sum of two sums, and apart from it that it is done; see :meth:`part`."""
        return added(a, b), None


@dataclass(eq=False)
class _Job:
    """What one call of a worker does, made until it is done or given up."""

    item: Any
    """A query run, or the shard to name if it fails."""
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
        """Whether it has to have a worker to itself, so that a death would be its doing."""
        return self.deaths > 0

    @property
    def may_join(self) -> bool:
        return not (self.is_single or self.is_suspect)

    @property
    def shards(self) -> list[Shard]:
        return [part.item for part in self.parts or (self,)]


class _Work:
    """What one use of the crew has still to do, and what has come of it."""

    stage = "scores"
    in_flight = IN_FLIGHT

    def __init__(self, jobs: Iterable[_Job], workers: int = 1) -> None:
        self.waiting = deque(jobs)
        self.running = 0
        self.results: deque[tuple[Any, Any]] = deque()
        self.failures: list[tuple[Any, str]] = []
        self._workers = workers
        self._seconds = BUNDLE_SECONDS  # of a shard; each goes alone until one has told

    @property
    def is_open(self) -> bool:
        return bool(self.waiting or self.running)

    def what(self, job: _Job | None) -> str:
        """Say what a job, or all of the work, is about."""
        raise NotImplementedError

    def take(self) -> _Job:
        """Return what is to be done next, or several short jobs as one; they wait no longer."""
        return self.waiting.popleft()

    def call(self, job: _Job, actor: Any) -> Sequence[Any]:
        """Call a worker; return references, the last of which is small and tells of the end."""
        raise NotImplementedError

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:
        raise NotImplementedError

    @property
    def _room(self) -> int:
        """How many shards may share the next call, so that all workers end together."""
        share = len(self.waiting) // (2 * IN_FLIGHT * self._workers)
        return min(int(BUNDLE_SECONDS / self._seconds), BUNDLE_SHARDS, share)

    def _took(self, seconds: float, shards: int) -> None:
        self._seconds = max(seconds / shards, BUNDLE_SECONDS / BUNDLE_SHARDS)

    def ended(self, job: _Job, references: Sequence[Any], outcome: Any) -> None:
        """Note how a call ended: with a value, or with one of Ray's errors."""
        self.running -= 1
        if job.parts and isinstance(outcome, exceptions.RayError):
            # One by one, so that the one to blame is known.
            for part in reversed(job.parts):
                part.is_single = True
                if isinstance(outcome, (*DEATHS, exceptions.ObjectLostError)):
                    self.again(part)
                else:
                    self.waiting.appendleft(part)
        elif isinstance(outcome, exceptions.ObjectLostError):
            self.lost(job, outcome)
        elif isinstance(outcome, DEATHS):
            self.again(job)
        elif isinstance(outcome, exceptions.RayError):
            self.fail(job, in_one_line(getattr(outcome, "cause", None) or outcome))
        else:
            self.done(job, references, outcome)

    def fail(self, job: _Job, reason: str) -> None:
        self.failures.append((job.item, reason))

    def lost(self, job: _Job, error: exceptions.ObjectLostError) -> None:  # noqa: ARG002
        """Do a job again whose result, or arguments, were lost with a node."""
        self.again(job)

    def again(self, job: _Job) -> None:
        """Do a job once more: next, or, if it killed before, when nothing else is left to do."""
        job.deaths += 1
        if job.deaths > RETRIES:
            died = f"its worker died {job.deaths} times"
            self.fail(job, f"{died}, most often a sign of too little memory")
        elif job.deaths > 1:
            self.waiting.append(job)
        else:
            self.waiting.appendleft(job)

    def check(self) -> None:
        if self.failures:
            raise FailedShardsError(self.failures)


class _Queries(_Work):
    """Query runs, each with what it says if it failed. A worker has one at a time."""

    stage = "query runs"
    in_flight = 1

    def what(self, job: _Job | None) -> str:
        return describe_query(job.item) if job else ""

    def call(self, job: _Job, actor: Any) -> Sequence[Any]:
        return (actor.query.remote(job.item),)

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:  # noqa: ARG002
        self.results.append((job.item, value))

    def fail(self, job: _Job, reason: str) -> None:
        self.results.append((job.item, reason))


class _Values(_Work):
    """A task on every shard of one network, whose results go to the driver."""

    def __init__(
        self, jobs: Iterable[_Job], workers: int, network: Network, *arguments: Any
    ) -> None:
        super().__init__(jobs, workers)
        self._network, self._arguments = network, arguments

    def what(self, job: _Job | None) -> str:  # noqa: ARG002
        return self._network[0]

    def take(self) -> _Job:
        room, jobs = self._room, [self.waiting.popleft()]
        while jobs[0].may_join and len(jobs) < room and self.waiting[0].may_join:
            jobs.append(self.waiting.popleft())
        return jobs[0] if len(jobs) == 1 else _Job(jobs[0].item, parts=tuple(jobs))

    def call(self, job: _Job, actor: Any) -> Sequence[Any]:
        task, *vectors = self._arguments
        return (actor.values.remote(self._network, task, job.shards, *vectors),)

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:  # noqa: ARG002
        arrays, seconds = value
        self._took(seconds, len(arrays))
        self.results.extend(zip(job.shards, arrays, strict=True))


class _Sum(_Values):
    """The sum of all shards' gradients, whose parts stay where they were computed."""

    def __init__(
        self,
        shards: Sequence[Shard],
        workers: int,
        network: Network,
        state: Any,
        on_shard: Callable[[Shard], object],
    ) -> None:
        self._shards, self._on_shard = shards, on_shard
        self._untold = set(range(len(shards)))
        self.tree = PairwiseSum[Any](len(shards))
        super().__init__(map(self._leaf, range(len(shards))), workers, network, state)

    def take(self) -> _Job:
        """Return the next job; what shares a call are the shards of one branch of the tree."""
        room, job = self._room, self.waiting.popleft()
        if self.tree.children(job.node) or not job.may_join:
            return job
        node, count = job.node, 1
        while (parent := self.tree.parent(node)) is not None:
            leaves = self.tree.addends(parent)
            found = [job, *itertools.islice(self.waiting, len(leaves) - 1)]
            fitting = [each.node for each in found if each.may_join]
            if fitting != leaves or len(leaves) > room:
                break
            node, count = parent, len(leaves)
        if count == 1:
            return job
        return _Job(
            job.item, node, parts=(job, *(self.waiting.popleft() for _ in range(count - 1)))
        )

    def call(self, job: _Job, actor: Any) -> Sequence[Any]:
        children = self.tree.children(job.node)
        if children and not job.parts:
            a, b = map(self.tree.parts.__getitem__, children)
            return actor.joint.options(num_returns=2).remote(a, b)  # type: ignore[no-any-return]
        part = actor.part.options(num_returns=2)
        return part.remote(self._network, job.shards, *self._arguments)  # type: ignore[no-any-return]

    def ended(self, job: _Job, references: Sequence[Any], outcome: Any) -> None:
        """Stop where something failed, because no part of a sum is worth keeping."""
        super().ended(job, references, outcome)
        if self.failures:
            self.waiting.clear()

    def done(self, job: _Job, references: Sequence[Any], value: Any) -> None:
        """Keep the reference, and add next what can be added now."""
        leaves = [leaf for leaf in job.parts or (job,) if not self.tree.children(leaf.node)]
        if leaves:
            self._took(value, len(leaves))
        for leaf in leaves:
            if leaf.node in self._untold:
                self._untold.remove(leaf.node)
                self._on_shard(leaf.item)
        node = self.tree.put(job.node, references[0])
        if node is not None:
            self.waiting.appendleft(_Job(self._shards[self.tree.addends(node)[0]], node))

    def lost(self, job: _Job, error: exceptions.ObjectLostError) -> None:
        children = self.tree.children(job.node)
        lost = [c for c in children if self.tree.parts[c].hex() == error.object_ref_hex]
        for child in lost or children:
            self.recompute(child)
        if not children:
            self.again(job)

    def recompute(self, node: int) -> None:
        """Compute a part that was lost again, from the shards up."""
        del self.tree.parts[node]
        self.waiting.extendleft(map(self._leaf, reversed(self.tree.addends(node))))

    def _leaf(self, place: int) -> _Job:
        return _Job(self._shards[place], place)


@dataclass(frozen=True, eq=False)
class _Call:
    """A call in flight; a ping, where it is no work's."""

    actor: Any
    references: Sequence[Any]
    work: _Work | None = None
    job: _Job | None = None


@contextlib.contextmanager
def start_crew(
    context: WorkContext, deaths: WorkerDeaths | None = None, worker: type[CrewWorker] = CrewWorker
) -> Iterator[Crew]:
    """Give workers that start when they are needed first, and end with the context."""
    actor = ray.remote(worker).options(**context.layout.ray_options())
    pickled = ray.cloudpickle.dumps(context)
    crew = Crew(lambda: actor.remote(pickled), context.layout, deaths or WorkerDeaths())
    try:
        yield crew
    finally:
        crew.end()


class Crew:
    """The workers, each of them ready for calls, or expected to answer a ping.

    Calls outlive the work that they belong to, when that is abandoned; their workers have room
    again when they end.
    """

    def __init__(self, start: Callable[[], Any], layout: Layout, deaths: WorkerDeaths) -> None:
        self._start, self._layout, self._deaths = start, layout, deaths
        self._starts = 0
        self._load: dict[Any, list[_Call]] = {}  # of the actors that answered
        self._calls: dict[Any, _Call] = {}  # by the reference that tells of the end
        self._heard = time.monotonic()
        self._reason, self._about = "", ("scores", "")

    def query_runs(self, runs: Iterable[QueryRun]) -> Iterator[tuple[QueryRun, str | None]]:
        """Do query runs; yield each as it is done, with a sentence if it failed."""
        yield from self.results(_Queries(map(_Job, runs)))

    def executor(self, model: str, precision: ScoringPrecision = "fp32") -> CrewExecutor:
        """Return what runs shards of a network."""
        return CrewExecutor(self, (model, precision), self._layout.workers)

    def end(self) -> None:
        """End all workers."""
        for actor in {call.actor for call in self._calls.values()} | self._load.keys():
            ray.kill(actor)

    def results(self, work: _Work) -> Iterator[tuple[Any, Any]]:
        """Do some work; yield what comes of it."""
        for _ in self.steps(work):
            while work.results:
                yield work.results.popleft()
        work.check()

    def steps(self, work: _Work) -> Iterator[None]:
        """Do all jobs of some work, and yield after each call that has ended.

        Work adds jobs when others are done; workers are busy again before anything is yielded. If
        there is nobody to do it, that is an IncompleteStudyError.
        """
        self._heard, self._about = time.monotonic(), (work.stage, work.what(None))
        while work.is_open:
            while self._starts < self._layout.workers:
                self._hire()
            self._hand_out(work)
            ended = self._wait()
            if ended is None:
                raise self._nobody()
            self._take(ended)
            self._hand_out(work)
            yield

    def _hand_out(self, work: _Work) -> None:
        while work.waiting:
            actor = self._actor_for(1 if work.waiting[0].is_suspect else work.in_flight)
            if actor is None:
                return
            job = work.take()
            work.running += 1
            call = _Call(actor, work.call(job, actor), work, job)
            self._calls[call.references[-1]] = call
            self._load[actor].append(call)

    def _actor_for(self, room: int) -> Any | None:
        """Return the actor with the fewest calls that may take one more, or None."""
        open_to = [
            actor
            for actor, calls in self._load.items()
            if len(calls) < room and not any(call.job and call.job.is_suspect for call in calls)
        ]
        return min(open_to, key=lambda actor: len(self._load[actor]), default=None)

    def _wait(self) -> Any | None:
        """Return a reference that is ready, or None if nobody is at work and nobody answers."""
        if not self._calls:
            return None
        at_work = any(call.job for call in self._calls.values())
        patience = self._heard + cluster_layout.WAIT_SECONDS - time.monotonic()
        left = None if at_work else max(0.0, patience)
        # Without fetching: a sum's parts are to stay where they are.
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=left, fetch_local=False)
        return ready[0] if ready else None

    def _take(self, reference: Any) -> None:
        """Note how a call ended, and what became of its actor."""
        call = self._calls.pop(reference)
        try:
            outcome = ray.get(reference)
        except exceptions.RayError as error:
            outcome = error
        if isinstance(outcome, DEATHS):
            # Once for all calls that the actor had.
            if call in self._load.pop(call.actor, ()) or call.work is None:
                self._lose(call, outcome)
        else:
            self._heard = time.monotonic()
            if call.work is None:
                self._load[call.actor] = []
            elif call in self._load.get(call.actor, ()):
                self._load[call.actor].remove(call)
        if call.work is not None and call.job is not None:
            call.work.ended(call.job, call.references, outcome)

    def _lose(self, call: _Call, outcome: Exception) -> None:
        """Count a worker that died, and put another in its place, unless none can be built."""
        if getattr(outcome, "actor_init_failed", False):
            self._reason = str(outcome).strip().splitlines()[-1].rstrip(".")
            return
        about = self._about if call.work is None else (call.work.stage, call.work.what(call.job))
        self._deaths.note(*about)
        ray.kill(call.actor)  # where only the way to it is gone
        if self._starts < self._layout.workers * STARTS:
            self._hire()

    def _hire(self) -> None:
        self._starts += 1
        actor = self._start()
        ping = actor.ping.remote()
        self._calls[ping] = _Call(actor, (ping,))

    def _nobody(self) -> IncompleteStudyError:
        """Say that nobody works, and how that came."""
        workers = f"none of {self._layout.workers} workers"
        if self._calls:
            found = (
                f"that {workers} answered within {cluster_layout.WAIT_SECONDS:g} s, each of which "
                f"asks for {self._layout.needs}; the cluster has {nodes_text(alive_nodes())}, so "
                "see with 'ray status' that there is room"
            )
        else:
            reason = self._reason or f"each was replaced {STARTS} times"
            found = f"that {workers} is left ({reason}); mend that"
        return IncompleteStudyError(
            f"Expected workers for {self._about[0]}, found {found}, and run the same command "
            "again, which does what is missing."
        )


class CrewExecutor:
    """Runs shards of one network on a crew; see :class:`raydrop.scores.sharding.Executor`."""

    def __init__(self, crew: Crew, network: Network, workers: int) -> None:
        self._crew, self._network, self._workers = crew, network, workers

    def share(self, array: Vector) -> Any:
        """Put an array into the object store once, for all shards; each node fetches it once."""
        return ray.put(np.ascontiguousarray(array))

    def map(
        self, task: Task, shards: Iterable[Shard], state: Any, direction: Any = None
    ) -> Iterator[tuple[Shard, Vector]]:
        """Hand out shards as workers become free; results come in order of completion."""
        jobs = map(_Job, shards)
        work = _Values(jobs, self._workers, self._network, task, state, direction)
        yield from self._crew.results(work)

    def reduce(
        self, shards: Sequence[Shard], state: Any, on_shard: Callable[[Shard], object] = ignore
    ) -> Vector:
        """Sum along the tree, on the workers."""
        work = _Sum(shards, self._workers, self._network, state, on_shard)
        while True:
            for _ in self._crew.steps(work):
                pass
            work.check()
            try:
                total: Vector = ray.get(work.tree.total)
            except exceptions.ObjectLostError:
                work.recompute(work.tree.root)
            else:
                return total
