"""How long a plan is likely to take: its works handed to workers, at the pace of each.

A pace is what a sample pass takes: in what a study has finished, or else on a few batches of noise.
Noise is timed with the code that trains and scores, in batches of the data's shape, so that no
image has to be read: what a pass takes does not depend on what the pixels show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, get_args

import numpy as np
import ray
import torch

from raydrop.cluster.crew import prepare_process
from raydrop.cluster.layout import Layout
from raydrop.data.batches import PreparedData, make_batches
from raydrop.data.dataset import ArrayImages, LabelledDataset, Split
from raydrop.data.held import ArrayInputs, as_array
from raydrop.data.inputs import InputSpec, leaves
from raydrop.errors import RaydropError, in_one_line
from raydrop.plan import Plan
from raydrop.plan.workload import StageName, Work, query_work, trial_work
from raydrop.scores.sharding import SCORING_BATCH, GradientWorker, Shard, make_shards
from raydrop.stages.queries import new_model
from raydrop.store import Store
from raydrop.study import ScoringPrecision, Study, Training
from raydrop.training.budget import Length
from raydrop.training.checkpoints import flat_state
from raydrop.training.loop import train
from raydrop.training.losses import CrossEntropy

SECONDS = 2.0
"""How long one network is timed, besides its start."""

BATCHES = 100
"""Batches that are timed at most, once their size is known, after one that is not."""

FIRST_BATCH = 2
"""Samples of the first batches: the fewest that BatchNorm takes."""

GROWTH = 4
"""How many times larger the next batches are."""

ANSWER_SECONDS = 120.0
"""How long a worker of a cluster may take to start and to time batches."""

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

Kind = tuple[StageName, str]
"""A stage and an architecture."""

Timer = Callable[[int, int, float], list[float]]
"""Returns the seconds of each of some batches: given are their samples, how many there are at most,
and the seconds after which no other is begun, but for the second one."""


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Return when the last of some works ends, if a worker that is free takes the next of them.

    List scheduling in the given order (Graham 1966, "Bounds for certain multiprocessing anomalies")
    ends less than twice as late as the best order does.

    Example:
        >>> makespan([3, 3, 2, 4], workers=2)
        7.0
    """
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def stage_seconds(
    works: Sequence[Work], pace: Mapping[Kind, float], workers: int
) -> dict[StageName, float]:
    """Return how long each stage takes that has works, given the seconds of a sample pass by kind.

    A stage begins when the one before has ended. Query runs and trials are handed to workers one by
    one; the works of scores follow each other, each shared by as many workers as it has parts for.
    """
    found: dict[StageName, float] = {}
    for stage in get_args(StageName):
        mine = [work for work in works if work.stage == stage]
        seconds = [work.cost * pace[stage, work.model] for work in mine]
        if stage == "scores":
            rounds = [math.ceil(work.parts / workers) / work.parts for work in mine]
            found[stage] = sum(s * r for s, r in zip(seconds, rounds, strict=True))
        else:
            found[stage] = makespan(seconds, workers)
    return {stage: seconds for stage, seconds in found.items() if seconds}


def duration(seconds: float) -> str:
    """Say how long something takes, with two significant digits at most, since it is an estimate.

    Examples:
        >>> [duration(s) for s in (0.2, 3.14159, 87, 100, 5400, 200_000, 1e8)]
        ['under 1 s', '3.1 s', '87 s', '1.7 min', '1.5 h', '2.3 days', '1,200 days']
    """
    if seconds < 1:
        return "under 1 s"
    for unit, length, end in (("s", 1.0, 90.0), ("min", MINUTE, 90 * MINUTE), ("h", HOUR, 2 * DAY)):
        if seconds < end:
            return f"{seconds / length:.2g} {unit}"
    return f"{float(f'{seconds / DAY:.2g}'):,g} days"


@dataclass(frozen=True)
class Finished:
    """What finished runs of one kind took, one after the other; see :attr:`Work.cost` of passes."""

    runs: int = 0
    passes: float = 0.0
    seconds: float = 0.0

    @property
    def pace(self) -> float:
        """Seconds of a sample pass."""
        return self.seconds / self.passes

    def __add__(self, other: Finished) -> Finished:
        return Finished(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def finished_runs(
    study: Study, plan: Plan, dataset: LabelledDataset, store: Store, device: str
) -> dict[Kind, Finished]:
    """Return what finished query runs and trials of a plan took on a device; reads no array."""
    found: dict[Kind, Finished] = {}
    stages: tuple[tuple[str, Sequence[Any], Callable[..., Work], str], ...] = (
        ("query", plan.queries, query_work, "train_seconds"),
        ("trial", plan.trials, trial_work, "seconds"),
    )
    for entries, runs, work_of, name in stages:
        there = set(store.keys(entries))
        for run in runs:
            done = store.peek(entries, run.key) if run.key in there else None
            if done is not None and done.info.get("device") == device and name in done.info:
                work = work_of(study, run, dataset)
                one = Finished(1, work.cost, float(done.info[name]))
                kind = work.stage, work.model
                found[kind] = found.get(kind, Finished()) + one
    return found


def runs_like(kind: Kind, finished: Mapping[Kind, Finished]) -> dict[Kind, Finished]:
    """Return the finished runs of a kind, or else all those of its architecture."""
    if kind in finished:
        return {kind: finished[kind]}
    return {other: runs for other, runs in finished.items() if other[1] == kind[1]}


@dataclass(frozen=True)
class Noise:
    """What noise has in common with the data that it stands for; ``samples`` of them there are."""

    num_classes: int
    image_shape: tuple[int, int, int] | None
    samples: int
    horizontal_flip: bool
    crop_padding: int
    spec: InputSpec | None = None
    """Of inputs that are no images."""

    @classmethod
    def like(cls, dataset: LabelledDataset, *, in_memory: bool) -> Noise:
        """Return the noise that stands for a data set; where images stream, reading augments."""
        flip, padding = dataset.horizontal_flip and in_memory, dataset.crop_padding * in_memory
        sizes = dataset.num_classes, dataset.image_shape, len(dataset.train)
        return cls(*sizes, horizontal_flip=flip, crop_padding=padding, spec=dataset.spec)

    def drawn(self, count: int) -> PreparedData:
        """Return a data set whose training split is ``count`` samples of noise."""
        rng = np.random.default_rng(0)
        noise = self._inputs(count, rng)
        labels = rng.integers(self.num_classes, size=count)
        classes = np.arange(self.num_classes)
        # One sample of memory: nothing looks at them, but a data set has every class in each split.
        blank = noise.take(np.zeros(self.num_classes, np.int64))
        if isinstance(noise, ArrayImages):
            shape = (self.num_classes, *noise.pixels.shape[1:])
            blank = ArrayImages(np.broadcast_to(np.uint8(0), shape))
        dataset = LabelledDataset(
            "noise",
            tuple(map(str, classes)),
            Split(np.arange(count), labels, noise),
            Split(count + classes, classes, blank),
            Split(count + self.num_classes + classes, classes, blank),
            self.image_shape,
            self.horizontal_flip,
            self.crop_padding,
            fingerprint="noise",
            spec=self.spec,
        )
        channels = 0 if self.image_shape is None else self.image_shape[0]
        return PreparedData(dataset, (0.5,) * channels, (12**-0.5,) * channels)  # uniform on [0, 1]

    def _inputs(self, count: int, rng: np.random.Generator) -> ArrayImages | ArrayInputs:
        """Return images, or floats of a normal distribution; whole numbers, maybe ids, are zero."""
        if self.image_shape is not None:
            shape = (count, *self.image_shape)
            return ArrayImages(rng.integers(256, size=shape, dtype=np.uint8))
        assert self.spec is not None
        arrays = [as_array(zeros) for zeros in leaves(self.spec.zeros(count))]
        for array in arrays:
            if array.dtype.kind in "fc":
                array += rng.normal(size=array.shape).astype(array.dtype)
        return ArrayInputs(self.spec.formed(arrays))


@dataclass(frozen=True)
class Probe:
    """What is timed: an architecture and what is done with it."""

    model: str
    training: Training | None
    """How it is trained; None for norms of the gradients of single samples."""
    precision: ScoringPrecision = "fp32"
    """Of these."""


def probe_of(study: Study, kind: Kind) -> Probe:
    """Return what stands for a stage with an architecture.

    Trainings that differ only in how long they last and in learning rates are one probe, and a
    network that is pruned is timed as it was before.
    """
    stage, model = kind
    if stage == "scores":
        return Probe(model, None, study.score_precision)
    training = {
        "query runs": study.training_of_queries(),
        "trials": study.training,
        "networks": study.pruning_of_networks().retraining or study.training,
    }[stage]
    # At a rate of zero noise cannot make it diverge, and a step takes as long.
    same = dataclasses.replace(
        training, epochs=1, learning_rate=0.0, schedule="constant", milestones=(), warmup=0.0
    )
    return Probe(model, same)


def timed(
    probes: Iterable[Probe], noise: Noise, device: str, threads: int, seconds: float
) -> dict[Probe, float]:
    """Return the seconds of one sample pass of each probe, on one worker that has this device.

    The threads and the random numbers of this process are left as they were. Where the seconds, in
    which each is timed besides its start, are less than a batch takes, smaller batches are timed.
    """
    gpus = [torch.cuda.current_device()] if device == "cuda" else []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(gpus):
            return {probe: _seconds_per_pass(probe, noise, device, seconds) for probe in probes}
    finally:
        torch.set_num_threads(before)


def _seconds_per_pass(probe: Probe, noise: Noise, device: str, seconds: float) -> float:
    torch.manual_seed(0)
    if probe.training is None:
        limit = min(SCORING_BATCH, len(make_shards(np.arange(noise.samples))[0].positions))
        timer = _scoring(probe, noise.drawn(limit), device)
    else:
        limit = min(probe.training.batch_size, noise.samples)
        timer = _training(probe.model, probe.training, noise.drawn(limit), device)
    return median_pace(timer, limit, seconds)


def median_pace(timer: Timer, limit: int, seconds: float) -> float:
    """Return the median seconds of one sample, in batches as large as the time allows.

    In a small one a sample takes another time. Each call's first batch pays for the start.
    """
    size = min(FIRST_BATCH, limit)
    each = timer(size, 2, seconds)[-1] / size
    while size < limit and each * min(GROWTH * size, limit) <= seconds / 4:
        size = min(GROWTH * size, limit)
        each = timer(size, 2, seconds)[-1] / size
    if each * size > seconds / 4:
        return each
    return statistics.median(timer(size, BATCHES + 1, seconds)[1:]) / size


class _Enough(Exception):  # noqa: N818 - no error: it ends what is timed
    """All batches that there is time for are done."""


def _timer(run: Callable[[int, int, Callable[[], None]], object], device: str) -> Timer:
    """Return what times the batches that something runs, which tells of the end of each."""

    def timer(size: int, count: int, seconds: float) -> list[float]:
        times = [time.perf_counter()]  # the first batch pays for the start

        def batch_done() -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            late = times[-1] - times[0] >= seconds and len(times) > 2
            if late or len(times) > count:
                raise _Enough

        with contextlib.suppress(_Enough):
            run(size, count, batch_done)
        return np.diff(times).tolist()

    return timer


def _training(model: str, training: Training, data: PreparedData, device: str) -> Timer:
    """Return what times steps of training on a device."""
    network = new_model(model, data.dataset, device, trained=False)
    batches = make_batches(data, data.dataset.train, torch.device(device), policy=training.augment)

    def run(size: int, count: int, after_step: Callable[[], None]) -> None:
        positions = torch.arange(size).repeat(count)
        alike = dataclasses.replace(training, batch_size=size)
        arguments = network, batches, positions, CrossEntropy(), alike, Length(1, count), 0
        train(*arguments, augment=bool(training.augment), after_step=after_step)

    return _timer(run, device)


def _scoring(probe: Probe, data: PreparedData, device: str) -> Timer:
    """Return what times norms of the gradients of single samples on a device."""
    worker = GradientWorker(data, probe.model, device, probe.precision)
    state = flat_state(new_model(probe.model, data.dataset, "cpu", trained=False))

    def run(size: int, count: int, batch_done: Callable[[], None]) -> None:
        for _ in range(count):
            worker.run("norm", Shard(0, np.arange(size)), state)
            batch_done()

    return _timer(run, device)


Measure = Callable[[Layout, Sequence[Probe], Noise], dict[Probe, float]]
"""Times batches on a worker of a layout."""


def measured_here(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
    """Time batches in this process."""
    return timed(probes, noise, layout.device, layout.cpus, SECONDS)


def measured_on_ray(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
    """Time batches in a worker of a layout, or raise a TimeoutError if none answers."""

    def work() -> dict[Probe, float]:
        prepare_process(layout)
        return measured_here(layout, probes, noise)

    task = ray.remote(work).options(**layout.ray_options(), max_retries=0)
    reference = task.remote()
    try:
        found: dict[Probe, float] = ray.get(reference, timeout=ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise TimeoutError(
            f"no worker with {layout.needs} answered within {ANSWER_SECONDS:g} s"
        ) from error
    return found


def likely(
    study: Study,
    works: Sequence[Work],
    finished: Mapping[Kind, Finished],
    dataset: LabelledDataset,
    layout: Layout,
    measure: Measure | None,
) -> str | None:
    """Say how long each stage is likely to take, or why that is unknown.

    Return None where there is something to be timed and nothing to measure with.
    """
    kinds = dict.fromkeys((each.stage, each.model) for each in works)
    like = {kind: runs_like(kind, finished) for kind in kinds}
    probes = {kind: probe_of(study, kind) for kind in kinds if not like[kind]}
    measured: dict[Probe, float] = {}
    if probes:
        if measure is None:
            return None
        if study.train is not None and any(probe.training is not None for probe in probes.values()):
            return (
                f"no estimate: how long {study.train} trains is known once one of its runs has "
                "finished"
            )
        noise = Noise.like(dataset, in_memory=dataset.fits_decoded())
        try:
            measured = measure(layout, list(dict.fromkeys(probes.values())), noise)
        except Exception as error:  # all else has been told, and the run itself does without
            cause = getattr(error, "cause", None) or error  # what Ray wraps
            told = isinstance(cause, RaydropError | TimeoutError)
            return f"no estimate: {cause if told else in_one_line(cause)}"
    pace = {kind: sum(runs.values(), Finished()).pace for kind, runs in like.items() if runs}
    pace |= {kind: measured[probe] for kind, probe in probes.items()}
    stages = stage_seconds(works, pace, layout.workers)
    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())
    workers = f"{layout.workers} worker" + ("s" if layout.workers > 1 else "")
    left_out = ["starting the processes of each stage"]
    if probes:
        reads = not dataset.train.inputs.in_memory
        searches = any(stage == "networks" for stage, _ in probes)
        left_out[:0] = ["reading samples"] * reads + ["looking for what to prune"] * searches
    return (
        f"{parts}: {duration(sum(stages.values()))} in all on {workers}, at the pace of "
        f"{_source(like, probes)}, besides {_listed(left_out)}"
    )


def _source(like: Mapping[Kind, Mapping[Kind, Finished]], probes: Mapping[Kind, Probe]) -> str:
    """Say where the pace comes from: finished runs that tell of each kind, or noise."""
    noise = "a few batches of noise on one worker alone"
    runs = {kind: each for found in like.values() for kind, each in found.items()}
    if not runs:
        return noise
    counts = Counter[str]()
    for (stage, _), each in runs.items():
        counts["query run" if stage == "query runs" else "trial"] += each.runs
    told = [f"{count} finished {name}{'s' * (count > 1)}" for name, count in counts.items()]
    models = sorted({model for _, model in probes})
    return _listed([*told, *([f"for {_listed(models)} {noise}"] if models else [])])


def _listed(words: Sequence[str]) -> str:
    """Join words as a sentence has them."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
