"""Stage 1: query runs, whose traces, checkpoints and recalls scores and quotas are made of."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.data.dataset import LabelledDataset
from raydrop.models import build_model
from raydrop.plan.runs import QueryRun, checkpoint_epochs
from raydrop.scores.base import stratified_partitions
from raydrop.scores.source import QueryResult
from raydrop.stages.facts import RECALLS, lowest, unit_recalls
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
    with seeded(derive_seed(run.seed, f"{course.stream}/weights")):
        model = new_model(run.model, dataset, device)
    trace = None
    if run.partition is None:
        trace = Trace.empty(course.last_epoch, len(dataset.train))
    ends, states = _followed(study, run, course, model, data, trace)
    seconds = time.perf_counter() - start
    info = {
        "seed": run.seed,
        "model": run.model,
        "initialisation": run.initialisation,
        "partition": run.partition,
        **_validation_recalls(model if run.serves_all else None, data),
        "losses": [end.loss for end in ends],
        "learning_rates": [end.learning_rate for end in ends],
        "checkpoint_epochs": list(course.checkpoints),
        "sampled": list(course.sampled),
        "score_epoch": course.early,
        "epochs": len(ends),
        "steps": ends[-1].step,
        "batch_parts": max(end.parts for end in ends),
        "n_train": len(dataset.train),
        "train_seconds": seconds,
        "device": device,
    }
    arrays: dict[str, NDArray[Any]] = {"checkpoints": np.stack(states)}
    arrays |= {} if trace is None else trace.as_arrays()
    arrays |= {} if run.partition is None else {"positions": course.positions}
    store.write("query", run.config, info, arrays)


def _followed(
    study: Study,
    run: QueryRun,
    course: QueryCourse,
    model: nn.Module,
    data: PreparedData,
    trace: Trace | None,
) -> tuple[list[EpochEnd], list[NDArray[np.float32]]]:
    """Train along a course; return how its epochs ended, and the checkpoints' states."""
    training, size = study.training_of_queries(), len(course.positions)
    length = training_length("equal_epochs", training, size, size)
    batches = make_batches(data, data.dataset.train, next(model.parameters()).device)
    ends, states = list[EpochEnd](), list[NDArray[np.float32]]()
    logger.info(
        "trains on %d of %d samples; checkpoints after epochs %s",
        size,
        len(data.dataset.train),
        ", ".join(map(str, course.checkpoints)),
    )
    log_epoch = epoch_log(course.last_epoch)

    def after(end: EpochEnd) -> None:
        ends.append(end)
        log_epoch(end)
        if trace is not None:
            trace.record(end.epoch - 1, model, batches)
        if end.epoch in course.checkpoints:
            states.append(flat_state(model))
        if end.epoch == course.last_epoch < length.epochs:
            raise _EnoughEpochs

    with contextlib.suppress(_EnoughEpochs):
        train(
            model,
            batches,
            torch.from_numpy(course.positions),
            CrossEntropy(),
            training,
            length,
            derive_seed(run.seed, f"{course.stream}/order"),
            augment=training.augment,
            on_epoch_end=after,
        )
    return ends, states


class _EnoughEpochs(Exception):  # noqa: N818 - no error: it ends a training before its schedule
    """Everything that a query run is for has been recorded."""


def _validation_recalls(
    model: nn.Module | None, data: PreparedData
) -> dict[str, list[float] | None]:
    """Return a query model's recalls by class and, where there are groups, by group."""
    found: dict[str, list[float] | None] = dict.fromkeys(RECALLS.values())
    if model is None:
        return found
    dataset = data.dataset
    batches = make_batches(data, dataset.validation, next(model.parameters()).device)
    predictions = predict(model, batches, len(dataset.validation))
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
    shape = dataset.image_shape
    model = build_model(name, dataset.num_classes, shape, trained=trained).to(device)
    if device != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
