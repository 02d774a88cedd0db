"""Scores of people's own models on their own data: as in a study, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from raydrop.data.batches import make_batches
from raydrop.errors import ConfigError
from raydrop.metrics import by_group
from raydrop.models.adapter import Output
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import (
    CheckpointMethod,
    EmbeddingMethod,
    GradientMethod,
    RandomMethod,
    ScoreMethod,
    TraceMethod,
    check_scores,
    combined,
)
from raydrop.scores.own import Checkpoints, OwnData, device_of, own_data, trained_models
from raydrop.scores.quantities import QUANTITIES
from raydrop.scores.sharding import (
    SCORING_BATCH,
    Executor,
    GradientWorker,
    LocalExecutor,
    Partial,
    ShardedGradients,
)
from raydrop.scores.source import GradientSource, QueryResult, Unit
from raydrop.selection.scores import Scores, unmeasured
from raydrop.store.tables import Units
from raydrop.study import ScoringPrecision, derive_seed
from raydrop.training.evaluate import predict
from raydrop.training.trace import Trace

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Task:
    """What shards are of; travels to workers."""

    model: nn.Module
    """Gets its states from whoever asks."""
    name: str
    data: OwnData
    batch_size: int
    precision: ScoringPrecision

    def worker(self, device: str, memory_bytes: int | None = None) -> GradientWorker:
        """Return what computes shards in this process."""
        how = device, self.precision, memory_bytes, self.batch_size
        return GradientWorker(self.data, self.model, *how)


Executors = Callable[[Task], AbstractContextManager[Executor]]
"""Gives what runs shards of a task, while a context lasts."""


def here(task: Task) -> AbstractContextManager[Executor]:
    """Give what runs shards one after the other in this process."""
    return nullcontext(LocalExecutor(task.worker(str(device_of(task.model)))))


class _Memory:
    """Keeps units for as long as scores are computed; see :class:`UnitCache`."""

    def __init__(self) -> None:
        self._units: dict[Unit, NDArray[np.float32]] = {}

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        return self._units.get(unit)

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        self._units[unit] = values

    def read_partial(self, unit: Unit) -> Partial | None:  # noqa: ARG002
        return None

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        """Keep nothing: after an error there is nobody to go on."""


def own_scores(
    model: Any,
    data: Any,
    method: str | ScoreMethod,
    *,
    learning_rates: Sequence[float] | None,
    steps: int | None,
    output: Output,
    batch_size: int | None,
    device: str | None,
    recalls: Mapping[Any, float] | ArrayLike | None,
    precision: ScoringPrecision,
    seed: int,
    executors: Executors = here,
) -> Scores:
    """Return scores; :func:`raydrop.score` says all of it."""
    made, trained = _method(method), trained_models(model)
    rates = _rates(made, learning_rates, len(trained.states))
    if made.reads == "partitions" and steps is None:
        raise ConfigError(
            f"Expected steps for {made.name}, the optimiser steps of the training that left the "
            "checkpoints, found none; give their number."
        )
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"Expected a batch_size of at least 1, found {batch_size}; raise it.")
    own = own_data(data)
    n = len(own.samples)
    if n < made.least_samples:
        raise ConfigError(
            f"Expected at least {made.least_samples} samples for {made.name}, found {n}; give more."
        )
    checkpoints = Checkpoints(trained, own, output, device)
    limit = batch_size or SCORING_BATCH
    task = Task(checkpoints.model, checkpoints.name, own, limit, precision)
    _try(made, task)
    units = _units(own, checkpoints)
    worst = _recalls(made, recalls, units)
    runs = _runs(made, checkpoints, n, rates, steps or 1, worst)
    seed_of_method = derive_seed(seed, f"scores/{made.name}")
    if isinstance(made, RandomMethod):
        values: Floats = made.draw(n, np.random.default_rng(seed_of_method))
    elif isinstance(made, TraceMethod):
        values = _from_outputs(made, runs, own, checkpoints)
    else:
        with executors(task) as executor:
            values = _from_shards(made, runs, task, executor, seed_of_method)
    check_scores(made, values, own.samples.ids)
    samples = own.samples
    return Scores(
        np.asarray(values, dtype=np.float64),
        made.name,
        made.higher_is_kept,
        labels=samples.labels,
        groups=samples.groups,
        ids=samples.ids,
        units=units,
        dataset="" if own.prepared is None else own.prepared.dataset.name,
        model=checkpoints.name,
        seed=seed,
    )


def _runs(
    method: ScoreMethod,
    checkpoints: Checkpoints,
    n: int,
    rates: tuple[float, ...],
    steps: int,
    recalls: NDArray[np.float64] | None,
) -> list[QueryResult]:
    """Return checkpoints as what query runs leave: of one, or of as many as there are states."""
    epochs = tuple(range(1, len(checkpoints) + 1))
    run = QueryResult(
        positions=np.arange(n),
        trace=None,
        checkpoints=checkpoints,  # type: ignore[arg-type]  # read one at a time
        checkpoint_epochs=epochs,
        learning_rates=rates,
        sampled=epochs,
        score_epoch=epochs[-1],
        steps=steps,
        validation_recalls=recalls,
    )
    if method.reads != "initialisations":
        return [run]
    # The score is a mean over initialisations, of which each state is one.
    return [replace(run, score_epoch=epoch) for epoch in epochs]


def _try(method: ScoreMethod, task: Task) -> None:
    """Compute what a method reads of two samples of zeros, so that a refusal comes at once."""
    if not isinstance(method, CheckpointMethod):
        return
    device = device_of(task.model)
    for name in method.quantities:
        quantity = QUANTITIES[name if QUANTITIES[name].mean_over == "none" else "norm"]
        labels = torch.zeros(2, dtype=torch.int64, device=device)
        inputs = task.data.spec.zeros(2, device)
        quantity.compute(task.model, inputs, labels, precision=task.precision)


def _method(given: str | ScoreMethod) -> ScoreMethod:
    """Return a method that trained models are enough for."""
    made = score_method(given)
    if isinstance(made, CheckpointMethod | RandomMethod) or _looks_once(made):
        return made
    known = [each for each in METHODS if isinstance(score_method(each), CheckpointMethod)]
    known += [each for each in METHODS if _looks_once(score_method(each))]
    raise ConfigError(
        f"Expected a method that reads trained models ({', '.join(known)}), found {made.name}, "
        "which reads the course of a training; use raydrop.Recorder for it."
    )


def _looks_once(method: ScoreMethod) -> bool:
    return isinstance(method, TraceMethod) and method.one_epoch


def _rates(method: ScoreMethod, rates: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Return the learning rate of each checkpoint."""
    given = None if rates is None else tuple(float(rate) for rate in rates)
    weighs = isinstance(method, CheckpointMethod) and method.looks_at == "sampled" and count > 1
    if given is None and not weighs:
        return (1.0,) * count
    if given is None or len(given) != count:
        raise ConfigError(
            f"Expected a learning rate for each of {count} checkpoints, found "
            f"{'none' if given is None else len(given)}; give those of the steps before them."
        )
    return given


def _from_outputs(
    method: TraceMethod, runs: Sequence[QueryResult], data: OwnData, checkpoints: Checkpoints
) -> Floats:
    """Return scores (N,) by what models say of the samples, the mean over some runs."""
    n, parts = len(data.samples), []
    batches = data.batches(device_of(checkpoints.model))
    for run in runs:
        assert run.score_epoch is not None
        trace = Trace.empty(1, n)
        trace.record(0, checkpoints.load(run.score_epoch - 1), batches)
        parts.append((run.positions, method.from_trace(trace, 1)))
    return combined(parts, n)


def _from_shards(
    method: ScoreMethod, runs: Sequence[QueryResult], task: Task, executor: Executor, seed: int
) -> Floats:
    """Return scores (N,) by gradients or embeddings, the mean over some runs."""
    samples, parts = task.data.samples, []
    gradients, cache = ShardedGradients(executor, samples.ids), _Memory()
    for run in runs:
        source = GradientSource(run, samples.labels, gradients, cache)
        if isinstance(method, EmbeddingMethod):
            vectors, device = source.embeddings(), device_of(task.model).type
            values = method.from_embeddings(vectors, source.labels, seed=seed, device=device)
        else:
            assert isinstance(method, GradientMethod)
            values = method.from_gradients(source)
        parts.append((run.positions, values))
    return combined(parts, len(samples))


def _recalls(
    method: ScoreMethod,
    recalls: Mapping[Any, float] | ArrayLike | None,
    units: Mapping[str, Units],
) -> NDArray[np.float64] | None:
    """Return the recalls (K,) that a method reads: those that are given, or were measured."""
    quantities = method.quantities if isinstance(method, CheckpointMethod) else ()
    if not any(QUANTITIES[each].mean_over == "class" for each in quantities):
        return None
    names = units["class"].names
    if isinstance(recalls, Mapping):
        by_name = {str(name): value for name, value in recalls.items()}
        recalls = [by_name.get(name, np.nan) for name in names]
    found = np.asarray(units["class"].recalls if recalls is None else recalls, dtype=np.float64)
    if recalls is None and np.isnan(found).all():
        raise ConfigError(
            "Expected recalls of the classes on validation samples, found none; give them as "
            "recalls=, (K,) or by name, or a data set of raydrop.data, which has a validation set."
        )
    if found.shape != (len(names),) or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError(
            f"Expected a recall in [0, 1] for each of {len(names)} classes, found {found[:9]}; "
            "measure every class on validation samples."
        )
    return found


def _units(data: OwnData, checkpoints: Checkpoints) -> dict[str, Units]:
    """Return classes and groups; of a data set of raydrop's with the last model's recalls."""
    if data.prepared is None:
        # Models may have more outputs than there are labels.
        more = map(str, range(len(data.class_names), checkpoints.num_classes))
        units = {"class": unmeasured([*data.class_names, *more])}
        return units | ({"group": unmeasured([*data.group_names])} if data.group_names else {})
    dataset = data.prepared.dataset
    model, validation = checkpoints.load(len(checkpoints) - 1), dataset.validation
    batches = make_batches(data.prepared, validation, device_of(model))
    predictions, units = predict(model, batches, len(validation)), {}
    for by in dataset.units():
        names, members = list(dataset.names(by)), dataset.members(by, "validation")
        found = by_group(predictions, validation.labels, members, len(names)).tolist()
        recalls = [None if np.isnan(recall) else recall for recall in found]
        units[by] = Units(names, recalls, dataset.sizes(by, "validation").tolist())
    return units
