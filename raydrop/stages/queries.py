"""Stage 1: query runs, whose traces, checkpoints and recalls scores and quotas are made of."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.data.dataset import LabelledDataset
from raydrop.errors import TrainingError
from raydrop.models import build_model
from raydrop.plan.runs import QueryRun, checkpoint_epochs
from raydrop.scores.base import stratified_partitions
from raydrop.scores.source import QueryResult
from raydrop.stages.facts import RECALLS, lowest, unit_recalls
from raydrop.stages.task import EnoughEpochs, fitted, make_task
from raydrop.store import Store, required
from raydrop.study import Study, derive_seed
from raydrop.training.budget import training_length
from raydrop.training.checkpoints import flat_state
from raydrop.training.evaluate import predict
from raydrop.training.loop import EpochEnd, train
from raydrop.training.losses import CrossEntropy
from raydrop.training.trace import Trace

logger = logging.getLogger("raydrop.stages")


@dataclass(frozen=True, eq=False)
class QueryCourse:
    """What a query run does: on which samples, for how long, and what it leaves."""

    stream: str
    """Name of its stream of seeds."""
    positions: NDArray[np.int64]
    """Samples that it is trained on, ascending, (M,)."""
    last_epoch: int
    """Epoch after which it ends, perhaps before its schedule does."""
    checkpoints: tuple[int, ...]
    """Epochs after which it leaves a checkpoint, ascending."""
    sampled: tuple[int, ...] = ()
    """Those of them for scores that look at the whole run."""
    early: int | None = None
    """The one for scores that look early; None where none of them reads it."""


def query_course(study: Study, run: QueryRun, labels: NDArray[np.int64]) -> QueryCourse:
    """Return what a query run does, given the classes of the training samples, (N,).

    The one on all the data serves every method. A further initialisation serves those that look
    early, so it ends there; a surrogate of a part serves those that look at sampled checkpoints.
    """
    epochs = checkpoint_epochs(study, run.seed)
    sampled, (early,), (last,) = (epochs[each] for each in ("sampled", "score_epoch", "last"))
    everything = np.arange(len(labels))
    if run.partition is not None:
        part, count = run.partition
        positions = stratified_partitions(labels, count, run.seed)[part]
        stream = f"query/partition/{part}/{count}"
        return QueryCourse(stream, positions, last, tuple(sorted({*sampled})), sampled)
    if run.initialisation:
        stream = f"query/initialisation/{run.initialisation}"
        return QueryCourse(stream, everything, early, (early,), early=early)
    checkpoints = tuple(sorted({*sampled, early, last}))
    return QueryCourse("query", everything, last, checkpoints, sampled, early)


def run_query(study: Study, run: QueryRun, data: PreparedData, store: Store, device: str) -> None:
    """Train a query model on a device, and leave its trace and checkpoints in the store."""
    start = time.perf_counter()
    dataset = data.dataset
    course = query_course(study, run, dataset.train.labels)

    def build(place: str) -> nn.Module:
        with seeded(derive_seed(run.seed, f"{course.stream}/weights")):
            return new_model(run.model, dataset, place)

    if study.train is None:
        past = _followed(study, run, course, build(device), data)
    else:
        past = _own_training(study, run, course, partial(build, "cpu"), data, device)
    seconds = time.perf_counter() - start
    info = {
        "seed": run.seed,
        "model": run.model,
        "initialisation": run.initialisation,
        "partition": run.partition,
        **_recalls(past.predictions, dataset),
        "losses": past.losses,
        "learning_rates": past.learning_rates,
        "checkpoint_epochs": list(course.checkpoints) if past.states else [],
        "sampled": list(course.sampled),
        "score_epoch": course.early,
        "epochs": past.epochs,
        "steps": past.steps,
        "batch_parts": past.parts,
        "n_train": len(dataset.train),
        "train_seconds": seconds,
        "device": device,
    }
    trace = past.trace
    arrays: dict[str, NDArray[Any]] = {
        "checkpoints": np.stack(past.states or [np.empty(0, np.float32)])
    }
    arrays |= {} if trace is None else trace.as_arrays()
    arrays |= {} if run.partition is None else {"positions": course.positions}
    store.write("query", run.config, info, arrays)


@dataclass(eq=False)
class _Past:
    """What a query run leaves behind."""

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    states: list[NDArray[np.float32]] = field(default_factory=list)
    """One for each checkpoint of the course; none where a training of the user's own took none."""
    trace: Trace | None = None
    predictions: NDArray[np.int32] | None = None
    """Classes of validation, where the run serves all."""
    epochs: int = 0
    steps: int = 0
    parts: int = 1


def _followed(
    study: Study, run: QueryRun, course: QueryCourse, model: nn.Module, data: PreparedData
) -> _Past:
    """Train a model along a course."""
    training, size = study.training_of_queries(), len(course.positions)
    length = training_length("equal_epochs", training, size, size)
    device = next(model.parameters()).device
    batches = make_batches(data, data.dataset.train, device, policy=training.augment)
    past = _Past()
    if run.partition is None:
        past.trace = Trace.empty(course.last_epoch, len(data.dataset.train))
    logger.info(
        "trains on %d of %d samples; checkpoints after epochs %s",
        size,
        len(data.dataset.train),
        ", ".join(map(str, course.checkpoints)),
    )
    log_epoch = epoch_log(course.last_epoch)

    def after(end: EpochEnd) -> None:
        past.losses.append(end.loss)
        past.learning_rates.append(end.learning_rate)
        past.epochs, past.steps, past.parts = end.epoch, end.step, max(past.parts, end.parts)
        log_epoch(end)
        if past.trace is not None:
            past.trace.record(end.epoch - 1, model, batches)
        if end.epoch in course.checkpoints:
            past.states.append(flat_state(model))
        if end.epoch == course.last_epoch < length.epochs:
            raise EnoughEpochs

    with contextlib.suppress(EnoughEpochs):
        train(
            model,
            batches,
            torch.from_numpy(course.positions),
            CrossEntropy(),
            training,
            length,
            derive_seed(run.seed, f"{course.stream}/order"),
            augment=bool(training.augment),
            on_epoch_end=after,
        )
    if run.serves_all:
        validation = make_batches(data, data.dataset.validation, device)
        past.predictions = predict(model, validation, len(data.dataset.validation))
    return past


def _own_training(
    study: Study,
    run: QueryRun,
    course: QueryCourse,
    build: Callable[[], nn.Module],
    data: PreparedData,
    device: str,
) -> _Past:
    """Have the user's training function train along a course, with all the samples of it kept.

    Raises:
        TrainingError: If it fails, or ends epochs of its recorder or of its checkpoints, but not
            each of them.
    """
    training, size, past = study.training_of_queries(), len(course.positions), _Past()
    length = training_length("equal_epochs", training, size, size)

    def after_epoch(model: nn.Module, rate: float) -> None:
        past.learning_rates.append(rate)
        past.epochs = len(past.learning_rates)
        if past.epochs in course.checkpoints:
            past.states.append(flat_state(model))
        if past.epochs == course.last_epoch < length.epochs:
            raise EnoughEpochs

    task = make_task(
        data,
        course.positions,
        CrossEntropy(),
        study.by,
        length,
        device,
        seed=derive_seed(run.seed, f"{course.stream}/order"),
        config={"model": run.model, "seed": run.seed, "training": training.identity()},
        build=build,
        after_epoch=after_epoch,
    )
    assert study.train is not None
    with contextlib.suppress(EnoughEpochs):
        said = fitted(study.train, task, data.dataset.num_classes)
        past.predictions = said["validation"].predictions if run.serves_all else None
    counts = {"task.checkpoint": past.epochs, "task.recorder.end_epoch": task.recorder.epochs}
    for call, count in counts.items():
        if count not in (0, course.last_epoch):
            raise TrainingError(
                f"Expected {study.train} to call {call} once after each of {course.last_epoch} "
                f"epochs or never, found {count} calls; train for task.epochs."
            )
    past.trace = task.recorder.trace if task.recorder.epochs and run.partition is None else None
    past.epochs, past.steps = past.epochs or length.epochs, length.steps
    return past


def _recalls(
    predictions: NDArray[np.int32] | None, dataset: LabelledDataset
) -> dict[str, list[float] | None]:
    """Return recalls by class and, where there are groups, by group, of validation's classes."""
    found: dict[str, list[float] | None] = dict.fromkeys(RECALLS.values())
    if predictions is None:
        return found
    for by, name in RECALLS.items():
        if by == "class" or dataset.group_names:
            recalls = unit_recalls(predictions, dataset, by, "validation")
            logger.info("validation: lowest recall %s", lowest(recalls, dataset, by))
            found[name] = recalls.tolist()
    return found


def load_query(run: QueryRun, store: Store) -> QueryResult:
    """Return a finished query run, its arrays memory-mapped.

    Raises:
        StoreError: If it is not there.
    """
    entry = required(store, "query", run.key)
    arrays = {name: entry.array(name, mmap=True) for name in entry.names}
    checkpoints = arrays.pop("checkpoints")
    positions = arrays.pop("positions", np.arange(entry.info["n_train"]))
    recalls = entry.info["validation_recalls"]
    return QueryResult(
        positions=np.array(positions),
        trace=Trace.from_arrays(arrays) if arrays else None,
        checkpoints=checkpoints,
        checkpoint_epochs=tuple(entry.info["checkpoint_epochs"]),
        learning_rates=tuple(entry.info["learning_rates"]),
        sampled=tuple(entry.info["sampled"]),
        score_epoch=entry.info["score_epoch"],
        steps=entry.info["steps"],
        validation_recalls=None if recalls is None else np.array(recalls),
    )


def epoch_log(epochs: int) -> Callable[[EpochEnd], None]:
    """Return what writes a line into the log after each epoch of a training of so many."""
    last = time.perf_counter()

    def write(end: EpochEnd) -> None:
        nonlocal last
        before, last = last, time.perf_counter()
        logger.info(
            "epoch %d/%d: mean loss %.4g, learning rate %.3g, %.2f s%s",
            end.epoch,
            epochs,
            end.loss,
            end.learning_rate,
            last - before,
            f", batches in {end.parts} parts because memory ran out" if end.parts > 1 else "",
        )

    return write


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the context, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def new_model(
    name: str, dataset: LabelledDataset, device: str, *, trained: bool = True
) -> nn.Module:
    """Return a freshly initialised network for a data set's images and classes, on a device.

    Where the name asks for trained weights, ``trained`` says whether it gets them.
    """
    shape = dataset.input_spec
    model = build_model(name, dataset.num_classes, shape, trained=trained).to(device)
    if device != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
