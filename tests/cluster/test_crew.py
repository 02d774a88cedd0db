"""A crew of Ray actors: the bits of this process, whatever dies, and nothing lost.

The cluster has two nodes, on one machine, so that a whole node can be lost.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from ray.cluster_utils import Cluster
from ray_clusters import replace_node
from reference import sum_by_halving

from raydrop.cluster import crew
from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.crew import Crew, CrewExecutor, CrewWorker, WorkContext, start_crew
from raydrop.cluster.deaths import RETRIES, WorkerDeaths
from raydrop.cluster.layout import Layout
from raydrop.cluster.session import ray_session
from raydrop.cluster.shared_store import SharedStore
from raydrop.data.batches import PreparedData
from raydrop.errors import IncompleteStudyError, ScoringError
from raydrop.models import build_model
from raydrop.scores.quantities import Task
from raydrop.scores.sharding import (
    GradientWorker,
    LocalExecutor,
    Partial,
    Shard,
    ShardedGradients,
    make_shards,
    summed,
)
from raydrop.study import Study
from raydrop.training.checkpoints import flat_state

# Workers cannot import test files, so the classes below travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

Vector = NDArray[np.float32]
NETWORK: crew.Network = ("small_cnn", "fp32")


@pytest.fixture(scope="module")
def session(cluster: Cluster) -> Iterator[None]:
    with ray_session(cluster.address):
        yield


@pytest.fixture(scope="module")
def data_ref(session: None, digits: PreparedData) -> Any:
    return ray.put(digits)


@pytest.fixture(scope="module")
def state(digits: PreparedData) -> Vector:
    torch.manual_seed(0)
    return flat_state(build_model("small_cnn", 10, digits.dataset.image_shape))


@pytest.fixture(scope="module")
def ids(digits: PreparedData) -> NDArray[np.int64]:
    return digits.dataset.train.ids


@pytest.fixture(scope="module")
def here(digits: PreparedData, state: Vector) -> dict[str, bytes]:
    """What this process computes, by task."""
    torch.set_num_threads(1)
    return _results(LocalExecutor(GradientWorker(digits, "small_cnn")), digits, state)


@pytest.fixture
def start(data_ref: Any) -> Iterator[Callable[..., CrewExecutor]]:
    """Starts crews, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def start(workers: int, worker: type[CrewWorker] = CrewWorker, cpus: int = 1) -> Any:
            members = start_crew(_context(data_ref, Layout(workers, cpus, 0.0)), worker=worker)
            return stack.enter_context(members).executor("small_cnn")

        yield start


def _context(data: Any, layout: Layout) -> WorkContext:
    """Return the context of workers that only compute shards."""
    study = Study("shards", "digits", "small_cnn", {})
    return WorkContext(study, data, layout, SharedStore("/absent"))


def _results(
    executor: Any, digits: PreparedData, state: Vector, tasks: Sequence[Task] = get_args(Task)
) -> dict[str, bytes]:
    """Return what an executor computes over all samples, by task, the mean gradient first."""
    gradients = ShardedGradients(executor, digits.dataset.train.ids)
    positions = np.arange(len(digits.dataset.train))
    mean = gradients.mean_gradient(state, positions)
    values = {
        task: gradients.per_sample(task, state, positions, mean).tobytes() for task in tasks[1:]
    }
    return {tasks[0]: mean.tobytes(), **values}


class Scripted(CrewWorker):
    """Does something before each shard, and writes down which it came to, and where."""

    log: Path

    def run(self, task: Any, shard: Shard, state: Any, direction: Any = None) -> Any:
        node = ray.get_runtime_context().get_node_id()
        with self.log.open("a") as log:
            log.write(f"{task} {shard.index} {node}\n")
        self.before(task, shard.index, node)
        return super().run(task, shard, state, direction)

    def before(self, task: str, index: int, node: str) -> None:
        """Do nothing."""

    @classmethod
    def lines(cls) -> list[list[str]]:
        return [line.split() for line in cls.log.read_text().splitlines()]


def _scripted(path: Path, before: Callable[[str, int, str], None]) -> type[Scripted]:
    """Return a worker that calls ``before`` with task, shard and node."""

    class Worker(Scripted):
        log = path / "log"

        def before(self, task: str, index: int, node: str) -> None:
            before(task, index, node)

    return Worker


@pytest.mark.ray
def test_a_worker_killed_before_its_first_answer_or_in_mid_shard_leaves_every_bit_as_it_was(
    data_ref: Any,
    digits: PreparedData,
    state: Vector,
    here: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """It is counted, and of two workers the other one goes on."""

    def die_once(task: str, index: int, node: str) -> None:
        marker = tmp_path / task
        if index == 2 and not marker.exists():
            marker.touch()
            os._exit(1)

    class Frail(_scripted(tmp_path, die_once)):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            with contextlib.suppress(FileExistsError):
                (tmp_path / "first").touch(exist_ok=False)
                os._exit(1)
            super().__init__(*arguments)

    tasks: list[Task] = ["gradient_sum", "dot"]
    deaths = WorkerDeaths()
    with start_crew(_context(data_ref, Layout(2, 1, 0.0)), deaths, Frail) as members:
        found = _results(members.executor("small_cnn"), digits, state, tasks)
    assert found == {task: here[task] for task in tasks}
    for task in tasks:
        assert [line[1] for line in Frail.lines() if line[0] == task].count("2") == 2
    assert deaths.sentence().endswith("(3 of scores)")


@pytest.mark.ray
def test_a_shard_that_always_kills_its_worker_is_named_and_the_others_are_kept(
    start: Callable[..., CrewExecutor],
    ids: NDArray[np.int64],
    state: Vector,
    here: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(task: str, index: int, node: str) -> None:
        if index == 1:
            os._exit(1)

    monkeypatch.setattr(crew, "RETRIES", 1)  # how often it is tried is seen below, without Ray
    worker = _scripted(tmp_path, die)
    positions, partial = np.arange(len(ids)), Partial.empty(1, len(ids))
    gradients = ShardedGradients(start(1, worker), ids)
    members = ids[64:128]
    sentence = (
        rf"give its norm, found 1 that did not, first shard 1 \(sample ids {members.min()} to "
        rf"{members.max()}\): its worker died 2 times,.* what was scored is kept"
    )
    with pytest.raises(ScoringError, match=sentence):
        gradients.per_sample("norm", state, positions, partial=partial)
    assert [line[1] for line in worker.lines()].count("1") == 2
    expected = np.frombuffer(here["norm"], np.float32)
    assert np.flatnonzero(~partial.written).tolist() == list(range(64, 128))
    assert (partial.values[0] == expected)[partial.written].all()


@pytest.mark.ray
def test_two_workers_tell_an_error_in_a_shard_and_then_give_the_bits_of_this_process(
    start: Callable[..., CrewExecutor],
    ids: NDArray[np.int64],
    digits: PreparedData,
    state: Vector,
    here: dict[str, bytes],
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken"
    broken.touch()

    def fail(task: str, index: int, node: str) -> None:
        if index == 1 and broken.exists():
            raise RuntimeError("no luck\nat all")
        if task == "gradient_sum" and broken.exists():
            time.sleep(0.3)  # so that the failure is told before the others are done

    worker = _scripted(tmp_path, fail)
    executor = start(2, worker)
    gradients = ShardedGradients(executor, ids)
    positions, partial = np.arange(len(ids)), Partial.empty(1, len(ids))
    sentence = r"give its norm, .* shard 1 \(.*\): RuntimeError: no luck; what was scored"
    with pytest.raises(ScoringError, match=sentence):
        gradients.per_sample("norm", state, positions, partial=partial)
    assert [line[1] for line in worker.lines()].count("1") == 1
    assert np.flatnonzero(~partial.written).tolist() == list(range(64, 128))
    with pytest.raises(ScoringError, match=r"give its gradient_sum, .* shard 1 \(.*no luck;"):
        gradients.mean_gradient(state, positions)
    assert [line[0] for line in worker.lines()].count("gradient_sum") <= 5  # no sum to be kept
    broken.unlink()
    # Somebody loses interest while both workers are busy.
    results = executor.map("norm", make_shards(positions), executor.share(state))
    next(results)
    results.close()
    assert _results(executor, digits, state) == here


@pytest.mark.ray
def test_without_workers_the_reason_is_told(
    start: Callable[..., CrewExecutor],
    ids: NDArray[np.int64],
    state: Vector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unbuildable(CrewWorker):
        def __init__(self, *arguments: Any) -> None:
            raise ValueError("Expected bricks, found straw.")

    positions = np.arange(len(ids))
    reason = r"none of 2 workers is left \(.*ValueError: Expected bricks, found straw\); mend that"
    with pytest.raises(IncompleteStudyError, match=reason):
        ShardedGradients(start(2, Unbuildable), ids).per_sample("norm", state, positions)
    monkeypatch.setattr(cluster_layout, "WAIT_SECONDS", 1.0)
    reason = (
        r"workers for scores, found that none of 1 workers answered within 1 s, each of which asks "
        r"for 2 CPUs; the cluster has 2 alive: 1 CPUs and 0 GPUs, 1 CPUs and 0 GPUs, so see with"
    )
    with pytest.raises(IncompleteStudyError, match=reason):
        ShardedGradients(start(1, cpus=2), ids).per_sample("norm", state, positions)


def test_a_shard_is_tried_again_at_once_and_after_a_second_death_last() -> None:
    shards = make_shards(np.arange(3 * 64))
    work = _values(shards)
    orders = []
    for _ in range(RETRIES + 1):
        job = next(job for job in work.waiting if job.item.index == 0)
        work.waiting.remove(job)
        work.running += 1
        work.ended(job, (), ray.exceptions.ActorUnavailableError("gone", None))
        orders.append([job.item.index for job in work.waiting])
    assert orders == [[0, 1, 2], *[[1, 2, 0]] * (RETRIES - 1), [1, 2]]
    assert [shard.index for shard, _ in work.failures] == [0]


def _values(shards: Sequence[Shard]) -> crew._Values:
    return crew._Values(map(crew._Job, shards), 1, NETWORK, "norm", None, None)


def _short_shards(count: int) -> crew._Values:
    """Return work whose shards are so short that all of them could go into a call."""
    work = _values(make_shards(np.arange(count * 64)))
    first = work.take()
    assert not first.parts  # nothing is known of them yet
    work.running += 1
    work.ended(first, (), ([np.zeros(1)], 0.0))
    return work


def test_short_shards_share_a_call_and_the_last_ones_are_shared_out() -> None:
    work, calls = _short_shards(32), []
    while work.waiting:
        job = work.take()
        calls.append([shard.index for shard in job.shards])
        work.running += 1
        arrays = [np.full(1, index) for index in calls[-1]]
        work.ended(job, (), (arrays, 1e-6))
    assert [index for call in calls for index in call] == list(range(1, 32))
    assert [len(call) for call in calls] == sorted((len(call) for call in calls), reverse=True)
    assert len(calls[0]) == 31 // (2 * crew.IN_FLIGHT)
    assert len(calls[-1]) == 1
    found = {shard.index: float(values[0]) for shard, values in work.results}
    assert found == {index: float(index) for index in range(32)}
    assert not work.is_open


def test_long_shards_go_alone() -> None:
    work = _short_shards(32)
    work.running += 1
    work.ended(work.take(), (), ([np.zeros(1)] * 7, 7 * crew.BUNDLE_SECONDS))
    assert not work.take().parts


@pytest.mark.parametrize(
    ("outcome", "deaths"),
    [
        (ray.exceptions.ActorUnavailableError("gone", None), 1),
        (ray.exceptions.RayTaskError("values", "", ValueError("no luck")), 0),
    ],
)
def test_of_a_call_that_failed_each_shard_goes_alone(outcome: Exception, deaths: int) -> None:
    work = _short_shards(32)
    job = work.take()
    assert [part.item.index for part in job.parts] == list(range(1, 8))
    work.running += 1
    work.ended(job, (), outcome)
    assert work.running == 0
    assert not work.failures
    for index in range(1, 8):
        again = work.take()
        assert (again.item.index, again.deaths, again.parts) == (index, deaths, ())
        assert again.is_suspect == bool(deaths)
    assert work.take().parts


class Reference:
    """Stands for an object in Ray's store."""

    def __init__(self, name: str) -> None:
        self.name = name

    def hex(self) -> str:
        return self.name


def test_what_was_lost_of_a_sum_is_recomputed_from_its_shards() -> None:
    shards = make_shards(np.arange(4 * 64))
    told: list[int] = []
    work = crew._Sum(shards, 1, NETWORK, None, lambda shard: told.append(shard.index))

    def finish() -> Any:
        job = work.waiting.popleft()
        work.running += 1
        work.ended(job, [Reference(f"part {job.node}")], crew.BUNDLE_SECONDS)
        return job

    def lose(name: str) -> None:
        job = work.waiting.popleft()
        work.running += 1
        error = ray.exceptions.ObjectReconstructionFailedError(name)
        cause = ray.exceptions.RayTaskError("joint", "", error)
        work.ended(job, [Reference("none")], cause.as_instanceof_cause())

    for _ in range(6):
        finish()
    assert [job.node for job in work.waiting] == [6]  # the whole sum: parts 4 and 5
    lose("part 4")
    assert [job.node for job in work.waiting] == [0, 1]
    assert [finish().node for _ in range(2)] == [0, 1]
    assert [job.node for job in work.waiting] == [4]
    lose("part 1")
    assert [finish().node for _ in range(3)] == [1, 4, 6]
    assert work.tree.total.name == "part 6"
    work.recompute(work.tree.root)
    assert [finish().node for _ in range(7)] == [0, 1, 4, 2, 3, 5, 6]
    assert not work.is_open
    assert told == [0, 1, 2, 3]


def _method(call: Callable[..., Any]) -> SimpleNamespace:
    """What stands for an actor's method with several results."""
    return SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=call))


class Summing:
    """Stands for an actor: gives sums of made-up gradients at once, and the calls that it had."""

    def __init__(self, parts: Sequence[Vector], seconds: float) -> None:
        self.calls: list[list[int]] = []
        self._parts, self._seconds = parts, seconds
        self.part, self.joint = _method(self._part), _method(self._joint)

    def _part(self, network: Any, shards: Sequence[Shard], state: Any) -> tuple[Vector, float]:
        self.calls.append([shard.index for shard in shards])
        total = summed(lambda shard: self._parts[shard.index], shards)
        return total, self._seconds * len(shards)

    def _joint(self, a: Vector, b: Vector) -> tuple[Vector, float]:
        return a + b, 0.0


def _uneven(n: int) -> list[Vector]:
    """Addends whose sum depends on the order of the additions."""
    rng = np.random.default_rng(n)
    scales = 10.0 ** rng.integers(-4, 5, (n, 1))
    return list((scales * rng.standard_normal((n, 8))).astype(np.float32))


@pytest.mark.parametrize("n", [1, 2, 13, 31, 32, 64, 65, 200])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("shards_per_call", [1.0, 5.0, 1000.0])
def test_short_shards_of_a_sum_share_a_call_and_give_the_same_bits(
    n: int, workers: int, shards_per_call: float
) -> None:
    parts, shards = _uneven(n), make_shards(np.arange(n * 8192))[:n]
    told: list[int] = []
    work = crew._Sum(shards, workers, NETWORK, None, lambda shard: told.append(shard.index))
    actor = Summing(parts, crew.BUNDLE_SECONDS / shards_per_call)
    rng = np.random.default_rng(n)
    running: list[tuple[Any, Any]] = []
    while work.waiting or running:
        while work.waiting and len(running) < 2 * workers:
            job = work.take()
            work.running += 1
            running.append((job, work.call(job, actor)))
        job, (total, seconds) = running.pop(rng.integers(len(running)))
        if job.parts and rng.random() < 0.2:
            error = ValueError("no luck")
            work.ended(job, (), ray.exceptions.RayTaskError("part", "", error))
            continue
        work.ended(job, (total,), seconds)
    assert not work.failures
    assert not work.is_open
    assert work.tree.total.tobytes() == sum_by_halving(parts).tobytes()
    assert sorted(told) == list(range(n))
    longest = max(map(len, actor.calls))
    assert longest <= min(shards_per_call, crew.BUNDLE_SHARDS)
    if shards_per_call > 1 and n >= 64:
        assert longest > 1
        assert len(actor.calls) < n


@pytest.mark.ray
def test_a_node_that_is_lost_takes_nothing_with_it(
    cluster: Cluster,
    start: Callable[..., CrewExecutor],
    digits: PreparedData,
    ids: NDArray[np.int64],
    state: Vector,
    here: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """The other node does nearly all shards of a mean gradient, then is gone with their sums."""
    (other,) = cluster.worker_nodes
    head, gone = cluster.head_node.node_id, tmp_path / "gone"

    def wait(task: str, index: int, node: str) -> None:
        if node == head and not gone.exists():
            time.sleep(1.0)

    worker = _scripted(tmp_path, wait)
    executor = start(2, worker)
    done = 0

    def lose_the_node(samples: int) -> None:
        nonlocal done
        done += samples
        if done >= 10 * 64 and not gone.exists():
            gone.touch()
            cluster.remove_node(other, allow_graceful=False)

    positions = np.arange(len(ids))
    gradients = ShardedGradients(executor, ids, lose_the_node)
    try:
        mean = gradients.mean_gradient(state, positions)
        assert gone.exists()
        lines = worker.lines()
        first = {index for _, index, node in lines if node != head}
        again = {index for _, index, node in lines if node == head}
        assert len(first) >= 6
        assert first & again
        assert mean.tobytes() == here["gradient_sum"]
        # The remaining node goes on, and the lost one's actor comes back with a new node.
        assert _results(executor, digits, state) == here
    finally:
        replace_node(cluster, other)
    assert done == len(ids)


# Deaths that are counted; no Ray.


class Actor:
    """Stands for an actor of Ray."""

    def __init__(self) -> None:
        self.ping = SimpleNamespace(remote=object)


class Told:
    """A crew whose calls end as they are told to, and the workers that it has started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Actor] = []
        self.deaths = WorkerDeaths()
        self._patch = monkeypatch
        monkeypatch.setattr(crew.ray, "kill", lambda actor: None)
        self.crew = Crew(self._start, Layout(1, 1, 0.0), self.deaths)
        self.crew._hire()

    def _start(self) -> Actor:
        self.started.append(Actor())
        return self.started[-1]

    def end(self, outcome: Any) -> None:
        """Let whatever was asked last end."""

        def get(reference: Any) -> Any:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        self._patch.setattr(crew.ray, "get", get)
        self.crew._take(list(self.crew._calls)[-1])

    def work(self) -> Any:
        """Let the worker be at two calls of some work."""
        work, actor = _values([]), self.started[-1]
        for _ in range(2):
            call = crew._Call(actor, (object(),), work, crew._Job(None))
            self.crew._calls[call.references[-1]] = call
            self.crew._load[actor].append(call)
            work.running += 1
        return work


UNAVAILABLE = ray.exceptions.ActorUnavailableError("gone", None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_a_worker_that_dies_before_its_first_answer_is_counted_and_replaced(told: Told) -> None:
    told.end(UNAVAILABLE)
    assert (told.deaths.total, len(told.started)) == (1, 2)
    told.end(None)
    assert (told.deaths.total, len(told.started)) == (1, 2)


def test_a_worker_that_is_only_slow_is_not_counted(told: Told) -> None:
    told.end(None)
    assert told.deaths.total == 0


def test_a_worker_that_dies_at_work_is_counted_once_for_all_its_calls(told: Told) -> None:
    told.end(None)
    work = told.work()
    for left in (1, 0):
        calls = [c for c in told.crew._calls.values() if c.work is not None]
        assert len(calls) == left + 1
        told.crew._calls = {
            c.references[-1]: c for c in told.crew._calls.values() if c not in calls
        }
        told.crew._calls |= {c.references[-1]: c for c in calls}  # so that work ends first
        told.end(UNAVAILABLE)
    assert (told.deaths.total, len(told.started), work.running) == (1, 2, 0)
    assert [job.deaths for job in work.waiting] == [1, 1]
    told.end(UNAVAILABLE)  # while another one starts
    assert (told.deaths.total, len(told.started)) == (2, 3)


def test_a_worker_that_cannot_be_built_is_not_counted_and_not_replaced(told: Told) -> None:
    told.end(UNAVAILABLE)
    died = ray.exceptions.ActorDiedError()
    died._actor_init_failed = True
    told.end(died)
    assert (told.deaths.total, len(told.started)) == (1, 2)


def test_workers_that_die_again_and_again_are_not_replaced_for_ever(told: Told) -> None:
    for _ in range(crew.STARTS):
        told.end(UNAVAILABLE)
    assert (told.deaths.total, len(told.started)) == (crew.STARTS, crew.STARTS)
    with pytest.raises(
        IncompleteStudyError, match=r"none of 1 workers is left \(each was replaced"
    ):
        next(told.crew.steps(_values(make_shards(np.arange(64)))))
