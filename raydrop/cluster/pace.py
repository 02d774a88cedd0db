"""How long a sample pass takes: in what a study has finished, or on a few batches of noise.

Noise is timed with the code that trains and scores, in batches of the data's shape, so that no
image has to be read: what a pass takes does not depend on what the pixels show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raydrop.data.batches import PreparedData, make_batches
from raydrop.data.dataset import ArrayImages, ImageDataset, Split
from raydrop.plan import Plan
from raydrop.plan.workload import StageName, Work, query_work, trial_work
from raydrop.scores.sharding import SCORING_BATCH, GradientWorker, Shard, make_shards
from raydrop.stages.queries import new_model
from raydrop.store import Entry, Store
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

Kind = tuple[StageName, str]
"""A stage and an architecture."""

Timer = Callable[[int, int, float], list[float]]
"""Returns the seconds of each of some batches: given are their samples, how many there are at most,
and the seconds after which no other is begun, but for the second one."""


@dataclass(frozen=True)
class Finished:
    """What finished runs of one kind took, one after the other."""

    runs: int = 0
    """How many there are."""
    passes: float = 0.0
    """Sample passes of all of them, with a third for each forward pass of an evaluation."""
    seconds: float = 0.0
    """Seconds of all of them."""

    @property
    def pace(self) -> float:
        """Seconds of a sample pass."""
        return self.seconds / self.passes

    def __add__(self, other: Finished) -> Finished:
        return Finished(
            self.runs + other.runs, self.passes + other.passes, self.seconds + other.seconds
        )


def finished_runs(
    study: Study, plan: Plan, dataset: ImageDataset, store: Store, device: str
) -> dict[Kind, Finished]:
    """Return what the finished query runs and trials of a plan took, by stage and architecture.

    Args:
        study: What the plan is of.
        plan: All that the study asks for.
        dataset: Its data.
        store: Where results are; nothing is verified, and no array is read.
        device: ``cpu`` or ``cuda``; what was run on the other is passed over.
    """
    there = {entry: set(store.keys(entry)) for entry in ("query", "trial")}
    found: dict[Kind, Finished] = {}

    def add(work: Work, done: Entry | None, name: str) -> None:
        if done is not None and done.info.get("device") == device and name in done.info:
            kind, one = (work.stage, work.model), Finished(1, work.cost, float(done.info[name]))
            found[kind] = found.get(kind, Finished()) + one

    for query in plan.queries:
        if query.key in there["query"]:
            work = query_work(study, query, dataset)
            add(work, store.peek("query", query.key), "train_seconds")
    for run in plan.trials:
        if run.key in there["trial"]:
            add(trial_work(study, run, dataset), store.peek("trial", run.key), "seconds")
    return found


def runs_like(kind: Kind, finished: Mapping[Kind, Finished]) -> dict[Kind, Finished]:
    """Return the finished runs of a kind, or else all those of its architecture."""
    if kind in finished:
        return {kind: finished[kind]}
    return {other: runs for other, runs in finished.items() if other[1] == kind[1]}


@dataclass(frozen=True)
class Noise:
    """What noise has in common with the data that it stands for."""

    num_classes: int
    """K."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    samples: int
    """Training samples, n; no batch is larger."""
    horizontal_flip: bool
    """Whether augmentation mirrors; not where images stream, as it is part of reading them."""
    crop_padding: int
    """Pixels that random crops add on every side, likewise."""

    @classmethod
    def like(cls, dataset: ImageDataset, *, in_memory: bool) -> Noise:
        """Return the noise that stands for a data set.

        Args:
            dataset: The data set; no image is read.
            in_memory: Whether its images lie in memory when it is trained on.
        """
        return cls(
            dataset.num_classes,
            dataset.image_shape,
            len(dataset.train),
            dataset.horizontal_flip and in_memory,
            dataset.crop_padding if in_memory else 0,
        )

    def drawn(self, count: int) -> PreparedData:
        """Return a data set whose training split is ``count`` images of noise."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(256, size=(count, *self.image_shape), dtype=np.uint8)
        labels = rng.integers(self.num_classes, size=count)
        train = Split(np.arange(count), labels, ArrayImages(pixels))
        classes = np.arange(self.num_classes)
        # One pixel of memory: nothing looks at them, but a data set has every class in each split.
        blank = np.broadcast_to(np.uint8(0), (self.num_classes, *self.image_shape))
        validation, test = (
            Split(count + part * self.num_classes + classes, classes, ArrayImages(blank))
            for part in range(2)
        )
        dataset = ImageDataset(
            "noise",
            tuple(map(str, classes)),
            train,
            validation,
            test,
            self.image_shape,
            self.horizontal_flip,
            self.crop_padding,
            fingerprint="noise",
        )
        channels = self.image_shape[0]
        return PreparedData(dataset, (0.5,) * channels, (12**-0.5,) * channels)  # uniform on [0, 1]


@dataclass(frozen=True)
class Probe:
    """What is timed: an architecture and what is done with it."""

    model: str
    """Its name."""
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
    network = study.pruning_of_networks().retraining
    assert network is not None
    training = {
        "query runs": study.training_of_queries(),
        "trials": study.training,
        "networks": network,
    }[stage]
    # At a rate of zero noise cannot make it diverge, and a step takes as long.
    same = dataclasses.replace(
        training, epochs=1, learning_rate=0.0, schedule="constant", milestones=(), warmup=0.0
    )
    return Probe(model, same)


def timed(
    probes: Iterable[Probe], noise: Noise, device: str, threads: int, seconds: float = SECONDS
) -> dict[Probe, float]:
    """Return the seconds of one sample pass of each probe, on one worker that has this device.

    The threads and the random numbers of this process are left as they were.

    Args:
        probes: What is timed.
        noise: Of which shape batches are.
        device: ``cpu`` or ``cuda``.
        threads: Those of a worker.
        seconds: How long each is timed, besides its start; where that is less than a batch takes,
            smaller batches are timed.
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
        shard = make_shards(np.arange(noise.samples))[0]
        limit = min(SCORING_BATCH, len(shard.positions))
        return median_pace(_scoring(probe, noise.drawn(limit), device), limit, seconds)
    limit = min(probe.training.batch_size, noise.samples)
    timer = _training(probe.model, probe.training, noise.drawn(limit), device)
    return median_pace(timer, limit, seconds)


def median_pace(timer: Timer, limit: int, seconds: float) -> float:
    """Return the median seconds of one sample, in batches as large as the time allows.

    Batches grow from small ones for as long as the next ones fit into the time, since what a
    sample takes in a small one says little of what it takes in a large one. The first batch of
    every call of the timer pays for the start.

    Args:
        timer: Times batches.
        limit: Samples of a batch at most.
        seconds: What the batches may take, about.
    """
    size = min(FIRST_BATCH, limit)
    each = timer(size, 2, seconds)[-1] / size
    while size < limit and each * min(GROWTH * size, limit) <= seconds / 4:
        size = min(GROWTH * size, limit)
        each = timer(size, 2, seconds)[-1] / size
    if each * size > seconds / 4:
        return each
    return statistics.median(timer(size, BATCHES + 1, seconds)[1:]) / size


class _Enough(Exception):  # noqa: N818 - no error: it ends a training
    """All batches that there is time for are done."""


def _training(model: str, training: Training, data: PreparedData, device: str) -> Timer:
    """Return what times steps of training on a device."""
    network = new_model(model, data.dataset, device, trained=False)
    batches = make_batches(data, data.dataset.train, torch.device(device))

    def timer(size: int, count: int, seconds: float) -> list[float]:
        found: list[float] = []
        begin = last = time.perf_counter()

        def after_step() -> None:
            nonlocal last
            last, before = _now(device), last
            found.append(last - before)
            if _is_over(found, count, last - begin, seconds):
                raise _Enough

        with contextlib.suppress(_Enough):
            train(
                network,
                batches,
                torch.arange(size).repeat(count),
                CrossEntropy(),
                dataclasses.replace(training, batch_size=size),
                Length(1, count),
                0,
                augment=training.augment,
                after_step=after_step,
            )
        return found

    return timer


def _scoring(probe: Probe, data: PreparedData, device: str) -> Timer:
    """Return what times norms of the gradients of single samples on a device."""
    worker = GradientWorker(data, probe.model, device, probe.precision)
    state = flat_state(new_model(probe.model, data.dataset, "cpu", trained=False))

    def timer(size: int, count: int, seconds: float) -> list[float]:
        found: list[float] = []
        begin = last = time.perf_counter()
        while not _is_over(found, count, last - begin, seconds):
            worker.run("norm", Shard(0, np.arange(size)), state)
            last, before = _now(device), last
            found.append(last - before)
        return found

    return timer


def _is_over(found: Sequence[float], count: int, spent: float, seconds: float) -> bool:
    """Return whether no other batch is to be begun; the first one paid for the start."""
    return len(found) == count or (spent >= seconds and len(found) > 1)


def _now(device: str) -> float:
    """Return the time once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
