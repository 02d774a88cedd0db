"""What each stage of a study does, as plain functions: no Ray, no scheduling, no progress.

The store is the only thing that passes between stages. Each function reads what earlier stages
left there, and leaves one entry itself before it returns.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches, PreparedData, make_batches
from raydrop.data.dataset import ImageDataset, Split
from raydrop.data.thumbnails import CHANNELS, thumbnails
from raydrop.errors import ScoringError
from raydrop.metrics import auc_by_class, auc_by_group, by_group
from raydrop.models import build_model
from raydrop.network.base import NetworkSize
from raydrop.network.measure import forward_seconds, network_size
from raydrop.plan import QueryRun, ScoreRun, TrialRun, looked_at, query_run, unit_config
from raydrop.scores import (
    EmbeddingMethod,
    GradientMethod,
    RandomMethod,
    SamplingMethod,
    ScoreMethod,
    TraceMethod,
    score_method,
)
from raydrop.scores.base import PartialScores, combined
from raydrop.scores.partitions import stratified_partitions
from raydrop.scores.sharding import Partial, ShardedGradients
from raydrop.scores.source import GradientSource, QueryResult, Unit
from raydrop.selection import best_first, budget_for, quota_rule, select, smooth_recalls
from raydrop.store import Entry, Store, required
from raydrop.study import (
    SCHEMA,
    By,
    ScoringPrecision,
    Study,
    Training,
    config_hash,
    derive_seed,
)
from raydrop.training.budget import Length, training_length
from raydrop.training.checkpoints import flat_state
from raydrop.training.evaluate import predict, predictions_and_probabilities
from raydrop.training.loop import EpochEnd, resolved_precision, train
from raydrop.training.losses import CrossEntropy, Loss, LossContext, loss_rule
from raydrop.training.losses.base import Stage
from raydrop.training.reference import Reference
from raydrop.training.trace import Trace

logger = logging.getLogger(__name__)

RECALLS: Mapping[By, str] = {
    "class": "validation_recalls",
    "group": "validation_group_recalls",
}
"""Where a query run's record has its recalls on validation; None where it has no such ones."""

PICTURED = 6
"""Samples of a class that are pictured on each side: kept first, and pruned first."""
PICTURED_UNITS = 10
"""Classes, or groups, of which samples are pictured."""


def save_data_card(dataset: ImageDataset, store: Store) -> None:
    """Leave what stage 4 has to know of the data: names, sizes, and the test set's labels.

    The groups are there too: ``group_names`` and ``group_sizes``, which are empty where the data
    have none, and the array ``test_groups`` (n_test,) where they have some.
    """
    config = {"kind": "data", "schema": SCHEMA, "fingerprint": dataset.fingerprint}
    if store.find("data", config) is not None:
        return
    info = {
        "dataset": dataset.name,
        "class_names": list(dataset.class_names),
        "class_sizes": dataset.class_sizes().tolist(),
        "group_names": list(dataset.group_names),
        "group_sizes": dataset.sizes("group").tolist() if dataset.group_names else [],
        "n_train": len(dataset.train),
        "n_validation": len(dataset.validation),
        "n_test": len(dataset.test),
    }
    arrays = {"test_labels": dataset.test.labels, "test_ids": dataset.test.ids}
    if dataset.test.groups is not None:
        arrays["test_groups"] = dataset.test.groups
    store.write("data", config, info, arrays)


def save_images(
    dataset: ImageDataset, store: Store, study: Study, scores: Iterable[ScoreRun]
) -> None:
    """Leave small pictures of what methods would keep first and prune first, for people to see.

    An entry of kind ``images`` for each method and query model with the study's first seed: of up
    to :data:`PICTURED_UNITS` classes (or groups), those with the lowest recalls of the query run on
    validation, or else the smallest, the first and the last :data:`PICTURED` samples in the order
    in which selection takes them within the class. Its arrays are ``pixels`` (m, C, h, w) of at
    most 64 pixels a side, ``ids``, ``units``, ``scores`` and ``kept``, whether a picture is one of
    the first, (m,) each; the lowest recall comes first, and in it the most extreme sample of each
    side. What is there already is left alone, as are data that are no pictures and methods that
    read no query run.

    Args:
        dataset: Gives images; only those of the pictured samples are read.
        store: Where scores and query runs are and the pictures go.
        study: Gives the first seed, and what quotas are about.
        scores: Those of which pictures are wanted; others than the first seed's, and those that are
            not there, are passed over.

    Raises:
        DataError: If an image cannot be read; the message names the file.
        StoreError: If the folder cannot be written.
    """
    if dataset.image_shape[0] not in CHANNELS:
        return
    units: dict[str, NDArray[np.int64]] = {}
    for run in {run.key: run for run in scores}.values():
        if run.seed != study.seeds[0] or not run.queries:
            continue
        config = {
            "kind": "images",
            "schema": SCHEMA,
            "scores": run.key,
            "by": study.by,
            "units": PICTURED_UNITS,
            "per_side": PICTURED,
        }
        if store.find("images", config) is not None:
            continue
        entry = store.read("scores", run.key)
        if entry is None:
            continue
        if run.model not in units:
            units[run.model] = _pictured_units(study, run, dataset, store)
        _save_images_of(entry, dataset, store, config, units[run.model])


def _pictured_units(
    study: Study, run: ScoreRun, dataset: ImageDataset, store: Store
) -> NDArray[np.int64]:
    """Return the classes or groups to picture: the lowest recall first, or else the smallest."""
    sizes = dataset.sizes(study.by)
    query = store.read("query", query_run(study, dataset.fingerprint, run.model, run.seed).key)
    recalls = None if query is None else query.info.get(RECALLS[study.by])
    order = np.lexsort((sizes, np.zeros(len(sizes)) if recalls is None else recalls))
    return order[sizes[order] > 0][:PICTURED_UNITS]


def _save_images_of(
    entry: Entry,
    dataset: ImageDataset,
    store: Store,
    config: Mapping[str, Any],
    units: NDArray[np.int64],
) -> None:
    train, by = dataset.train, config["by"]
    scores = entry.array("scores")
    order = best_first(
        scores,
        higher_is_kept=entry.info["higher_is_kept"],
        tie_seed=_tie_seed(entry.info["seed"]),
    )
    members = dataset.members(by)[order]
    positions, kept = list[NDArray[np.int64]](), list[bool]()
    for unit in units:
        ranked = order[members == unit]
        first = ranked[: min(PICTURED, (len(ranked) + 1) // 2)]
        last = ranked[::-1][: min(PICTURED, len(ranked) // 2)]
        positions += [first, last]
        kept += [True] * len(first) + [False] * len(last)
    chosen = np.concatenate(positions)
    info = {name: entry.info[name] for name in ("method", "seed", "query_model", "higher_is_kept")}
    arrays: dict[str, NDArray[Any]] = {
        "pixels": thumbnails(train.images, chosen, dataset.image_shape),
        "ids": train.ids[chosen],
        "units": dataset.members(by)[chosen],
        "scores": scores[chosen],
        "kept": np.array(kept),
    }
    store.write("images", config, {**info, "by": by}, arrays)


@dataclass(frozen=True, eq=False)
class QueryCourse:
    """What a query run does: on which samples, for how long, and what it leaves."""

    stream: str
    """Name of its stream of seeds."""
    positions: NDArray[np.int64]
    """Samples that it is trained on, ascending, (M,)."""
    last_epoch: int
    """Epoch after which it ends, perhaps before its schedule does."""
    sampled: tuple[int, ...]
    """Epochs of the checkpoints for scores that look at the whole run."""
    early: int | None
    """Epoch of the checkpoint for scores that look early; None where none of them reads it."""
    last: int | None
    """Epoch of the checkpoint for scores that read the trained model; None where none does."""
    traced: bool
    """Whether every training sample is observed after every epoch."""
    validated: bool
    """Whether recalls on validation are measured at the end."""

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Epochs after which it leaves a checkpoint, ascending."""
        others = {epoch for epoch in (self.early, self.last) if epoch is not None}
        return tuple(sorted({*self.sampled, *others}))


def query_course(study: Study, run: QueryRun, labels: NDArray[np.int64]) -> QueryCourse:
    """Return what a query run does.

    The one on all the data serves every method. A further initialisation serves those that look
    early, so it ends there; a surrogate of a part serves those that look at sampled checkpoints.

    Args:
        study: Gives epochs and checkpoints.
        run: Which query run.
        labels: Classes of the training samples, (N,).
    """
    epochs = looked_at(study, run.seed)
    sampled, (early,) = epochs["sampled"], epochs["score_epoch"]
    last = study.training_of_queries().epochs
    everything = np.arange(len(labels))
    if run.partition is not None:
        part, count = run.partition
        positions = stratified_partitions(labels, count, run.seed)[part]
        stream = f"query/partition/{part}/{count}"
        return QueryCourse(
            stream, positions, last, sampled, None, None, traced=False, validated=False
        )
    if run.initialisation:
        stream = f"query/initialisation/{run.initialisation}"
        return QueryCourse(stream, everything, early, (), early, None, traced=True, validated=False)
    return QueryCourse("query", everything, last, sampled, early, last, traced=True, validated=True)


def run_query(study: Study, run: QueryRun, data: PreparedData, store: Store, device: str) -> None:
    """Train a query model, and leave its trace and checkpoints.

    Args:
        study: Gives training and checkpoints.
        run: Which query run.
        data: Prepared data.
        store: Where the result goes.
        device: ``cpu`` or ``cuda``.
    """
    start = time.perf_counter()
    dataset, training = data.dataset, study.training_of_queries()
    course = query_course(study, run, dataset.train.labels)
    size = len(course.positions)
    length = training_length("equal_epochs", training, size, size)
    with seeded(derive_seed(run.seed, f"{course.stream}/weights")):
        model = new_model(run.model, dataset, device)
    batches = make_batches(data, dataset.train, torch.device(device))
    trace = Trace.empty(course.last_epoch, len(dataset.train)) if course.traced else None
    states: list[NDArray[np.float32]] = []
    ends: list[EpochEnd] = []
    logger.info(
        "trains on %d of %d samples; checkpoints after epochs %s",
        size,
        len(dataset.train),
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
    seconds = time.perf_counter() - start
    recalls = _validation_recalls(model if course.validated else None, data, device)
    for by in RECALLS:
        if (measured := recalls[RECALLS[by]]) is not None:
            logger.info("validation: lowest recall %s", _lowest(measured, dataset, by))
    info = {
        "seed": run.seed,
        "model": run.model,
        "initialisation": run.initialisation,
        "partition": run.partition,
        **recalls,
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


class _EnoughEpochs(Exception):  # noqa: N818 - no error: it ends a training before its schedule
    """Everything that a query run is for has been recorded."""


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


class StoredUnits:
    """Gradient quantities of one query run, kept in the store as they are finished."""

    def __init__(self, store: Store, query: QueryRun, precision: ScoringPrecision) -> None:
        self._store, self._query, self._precision = store, query, precision

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        """Return the values of a finished unit, or None."""
        entry = self._store.find("gradients", self._config(unit))
        return None if entry is None else entry.array("values")

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        """Keep a finished unit, and remove what was kept of it before."""
        self._store.write("gradients", self._config(unit), {}, {"values": values})
        self._store.remove("partial", config_hash(self._partial_config(unit)))

    def read_partial(self, unit: Unit) -> Partial | None:
        """Return what an earlier run left of a unit, or None."""
        entry = self._store.find("partial", self._partial_config(unit))
        if entry is None:
            return None
        return Partial(entry.array("values"), entry.array("written"))

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        """Keep what there is of a unit, in place of what was kept of it before."""
        config = self._partial_config(unit)
        self._store.remove("partial", config_hash(config))
        arrays = {"values": partial.values, "written": partial.written}
        self._store.write("partial", config, {}, arrays)

    def _config(self, unit: Unit) -> dict[str, Any]:
        return unit_config(self._query, unit, self._precision)

    def _partial_config(self, unit: Unit) -> dict[str, Any]:
        return {**self._config(unit), "kind": "partial"}


def run_score(
    study: Study,
    run: ScoreRun,
    train: Split,
    store: Store,
    gradients: ShardedGradients | None,
    device: str = "cpu",
) -> None:
    """Compute one method's scores and leave them.

    Args:
        study: Gives the precision of gradients.
        run: Which scores.
        train: The training samples; their images are not read.
        store: Where the query runs are and the scores go.
        gradients: Of the run's query model; needed by methods that read its checkpoints.
        device: ``cpu`` or ``cuda``, on which this process works where a method has use for it.

    Raises:
        ScoringError: If a score is no number; the message names the first samples by their ids.
    """
    start = time.perf_counter()
    method = score_method(run.method)
    scores: NDArray[np.floating]
    if isinstance(method, RandomMethod):
        rng = np.random.default_rng(derive_seed(run.seed, "scores/random"))
        scores = method.draw(len(train), rng)
    else:
        parts = [
            _scored(study, method, query, train, store, gradients, device) for query in run.queries
        ]
        scores = combined(parts, len(train))
    _check_scores(method, scores, train.ids)
    info = {
        "method": run.method,
        "seed": run.seed,
        "query_model": run.model if run.queries else None,
        "query_runs": len(run.queries),
        "higher_is_kept": method.higher_is_kept,
        "seconds": time.perf_counter() - start,
    }
    store.write("scores", run.config, info, {"scores": np.asarray(scores)})


def _scored(
    study: Study,
    method: ScoreMethod,
    query: QueryRun,
    train: Split,
    store: Store,
    gradients: ShardedGradients | None,
    device: str,
) -> PartialScores:
    """Return the scores that one query run gives."""
    result = load_query(query, store)
    if isinstance(method, TraceMethod):
        assert result.trace is not None
        assert result.score_epoch is not None
        values = method.from_trace(result.trace, result.score_epoch)
        return PartialScores(result.positions, values)
    seed = derive_seed(query.seed, f"scores/{method.name}")
    if isinstance(method, SamplingMethod):
        assert result.trace is not None
        return PartialScores(result.positions, method.draw_from_trace(result.trace, seed))
    assert isinstance(method, GradientMethod | EmbeddingMethod)
    assert gradients is not None
    units = StoredUnits(store, query, study.score_precision)
    source = GradientSource(result, train.labels, gradients, units)
    if isinstance(method, EmbeddingMethod):
        embeddings = source.embeddings()
        values = method.from_embeddings(embeddings, source.labels, seed=seed, device=device)
        return PartialScores(result.positions, values)
    return PartialScores(result.positions, method.from_gradients(source))


def kept_positions(
    study: Study, run: TrialRun, dataset: ImageDataset, store: Store
) -> NDArray[np.int64]:
    """Return the positions in the training set that a trial keeps, sorted."""
    n = len(dataset.train)
    if run.score is None:
        return np.arange(n)
    budget = budget_for(n, run.trial.keep_fraction)
    scores = required(store, "scores", run.score.key)
    quotas = _quotas(study, run, dataset, store, budget)
    return _selected(run, dataset.members(study.by), budget, scores, quotas)


def _quotas(
    study: Study, run: TrialRun, dataset: ImageDataset, store: Store, budget: int
) -> NDArray[np.int64] | None:
    """Return how many samples a trial keeps of each class or group, (U,), or None."""
    recalls = counts = None
    if run.recalls is not None:
        query = required(store, "query", run.recalls.key)
        measured = query.info[RECALLS[study.by]]
        held_out = dataset.sizes(study.by, "validation")
        recalls = smooth_recalls(measured, held_out, study.recall_smoothing)
    sizes = dataset.sizes(study.by)
    if run.quota_scores is not None:
        scores = required(store, "scores", run.quota_scores.key)
        best = _selected(run, dataset.members(study.by), budget, scores, None)
        counts = _kept_sizes(dataset, study.by, best)
    allocate = quota_rule(run.trial.quotas).allocate
    return allocate(sizes, recalls, budget, study.minimum_per_class, counts)


def _selected(
    run: TrialRun,
    members: NDArray[np.int64],
    budget: int,
    scores: Entry,
    quotas: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Return the best samples of stored scores, in all or by class or group, sorted."""
    return select(
        scores.array("scores"),
        members,
        budget,
        quotas,
        higher_is_kept=scores.info["higher_is_kept"],
        tie_seed=_tie_seed(run.trial.seed),
    )


def _tie_seed(seed: int) -> int:
    """Return the seed of the order of equal scores."""
    return derive_seed(seed, "selection/ties")


def run_trial(
    study: Study, run: TrialRun, data: PreparedData, store: Store, device: str
) -> dict[str, Any]:
    """Select, train on what is kept, predict the test set, and leave one record.

    A trial whose network others prune leaves its weights too, before its record.

    Args:
        study: Gives training and budget.
        run: Which trial, of those that train a network of their own.
        data: Prepared data.
        store: Where scores are and the record goes.
        device: ``cpu`` or ``cuda``.

    Returns:
        The trial's average accuracy, that of the worst class (or group, where the study is by
        group) and its seconds, for progress alone.
    """
    start = time.perf_counter()
    dataset, trial = data.dataset, run.trial
    kept = kept_positions(study, run, dataset, store)
    length = training_length(study.budget, study.training, len(kept), len(dataset.train))
    log_budget(study, kept, dataset, length)
    with seeded(derive_seed(trial.seed, "trial/weights")):
        model = new_model(trial.model, dataset, device)
    fitting = Fitting(study, data, kept, device)
    train_seconds = fitting.train(
        model,
        fitting.loss(trial.loss, length.epochs),
        study.training,
        length,
        derive_seed(trial.seed, "trial/order"),
    )
    if run.shared:
        store.write("weights", run.weights_config, {}, {"weights": flat_state(model)})
    size = network_size(model, dataset.image_shape)
    facts = {
        "network_sparsity": 0.0,
        "macs_removed": 0.0,
        **size_facts(size, size),
        "epochs": length.epochs,
        "steps": length.steps,
        "train_seconds": train_seconds,
        "precision": resolved_precision(study.training.precision, device),
    }
    return fitting.record(run, model, facts, store, start)


def log_budget(
    study: Study, kept: NDArray[np.int64], dataset: ImageDataset, length: Length
) -> None:
    """Write into the log what is kept and for how long it is trained on."""
    logger.info(
        "keeps %d of %d samples; budget %s: %d epochs, %d steps",
        len(kept),
        len(dataset.train),
        study.budget,
        length.epochs,
        length.steps,
    )


def size_facts(size: NetworkSize, dense: NetworkSize) -> dict[str, int]:
    """Return the measured size of a network and of the dense one it comes from."""
    found = size._asdict()
    return found | {f"dense_{name}": value for name, value in dense._asdict().items()}


@dataclass(frozen=True, eq=False)
class Fitting:
    """Networks trained on what a trial keeps, and the record of what they predict."""

    study: Study
    data: PreparedData
    kept: NDArray[np.int64]
    """Positions of the samples that are kept, (M,)."""
    device: str
    parts: list[int] = field(default_factory=lambda: [1])
    """Parts that batches were cut into, epoch by epoch, because memory ran out."""

    @cached_property
    def members(self) -> Tensor:
        """The class or group of every training sample, (N,)."""
        # A copy: what Ray shares is read-only, which torch minds.
        return torch.tensor(self.data.dataset.members(self.study.by))

    @cached_property
    def batches(self) -> Batches:
        """Gives batches of training images."""
        return make_batches(self.data, self.data.dataset.train, torch.device(self.device))

    @cached_property
    def validation(self) -> Batches:
        """Gives batches of validation images."""
        return make_batches(self.data, self.data.dataset.validation, torch.device(self.device))

    def loss(self, name: str, epochs: int, stage: Stage = "retrain") -> Loss:
        """Return a loss by its canonical text, for a training of so many epochs."""
        dataset = self.data.dataset
        context = LossContext(
            class_sizes=_kept_sizes(dataset, "class", self.kept),
            unit_sizes=_kept_sizes(dataset, self.study.by, self.kept),
            by=self.study.by,
            epochs=epochs,
            stage=stage,
        )
        return loss_rule(name).make(context)

    def recalls(self, model: nn.Module) -> NDArray[np.float64]:
        """Return the validation recall of every class or group, (U,)."""
        dataset = self.data.dataset
        predicted = predict(model, self.validation, len(dataset.validation))
        return unit_recalls(predicted, dataset, self.study.by, "validation")

    def train(
        self,
        model: nn.Module,
        loss: Loss,
        training: Training,
        length: Length,
        seed: int,
        *,
        reference: Reference | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> float:
        """Train a network in place; see :func:`raydrop.training.loop.train`.

        Returns:
            Seconds that it took.
        """
        log_epoch = epoch_log(length.epochs)

        def after(end: EpochEnd) -> None:
            log_epoch(end)
            self.parts.append(end.parts)
            loss.end_epoch(self.recalls(model) if loss.needs_recalls else None)

        return train(
            model,
            self.batches,
            torch.from_numpy(self.kept),
            loss,
            training,
            length,
            seed,
            augment=training.augment,
            on_epoch_end=after,
            units=self.members,
            reference=reference,
            after_step=after_step,
        )

    def record(
        self,
        run: TrialRun,
        model: nn.Module,
        facts: Mapping[str, Any],
        store: Store,
        start: float,
    ) -> dict[str, Any]:
        """Predict the test set, once, and leave the trial's record.

        Args:
            run: The trial.
            model: Its network.
            facts: What is known of its training and size.
            store: Where the record goes.
            start: When the trial began, by ``time.perf_counter``.

        Returns:
            What :func:`run_trial` returns.
        """
        study, dataset, kept = self.study, self.data.dataset, self.kept
        test = make_batches(self.data, dataset.test, torch.device(self.device))
        predictions, probabilities = predictions_and_probabilities(model, test, len(dataset.test))
        held_out = predict(model, self.validation, len(dataset.validation))
        info = {
            "dataset": dataset.name,
            "budget": study.budget,
            "by": study.by,
            **run.trial.as_dict(),
            "n_kept": len(kept),
            "n_train": len(dataset.train),
            "kept_by_class": _kept_sizes(dataset, "class", kept).tolist(),
            "kept_by_group": _kept_sizes(dataset, "group", kept).tolist()
            if dataset.group_names
            else None,
            **_noise(dataset.noisy, kept),
            **_validation_counts(held_out, dataset),
            **_areas(probabilities, dataset),
            "batch_parts": max(self.parts),
            "network_note": "",
            "network_facts": {},
            **facts,
            "forward_seconds": forward_seconds(model, dataset.image_shape),
            "seconds": time.perf_counter() - start,
            "device": self.device,
        }
        arrays: dict[str, NDArray[Any]] = {
            "predictions": predictions,
            "kept_ids": dataset.train.ids[kept],
        }
        store.write("trial", run.config, info, arrays)
        recalls = unit_recalls(predictions, dataset, study.by, "test")
        average = float((predictions == dataset.test.labels).mean())
        lowest = _lowest(recalls, dataset, study.by)
        logger.info("test: average accuracy %.4f, lowest recall %s", average, lowest)
        return {
            "average_accuracy": average,
            "worst_class_accuracy": float(recalls.min()),
            "train_seconds": info["train_seconds"],
            "seconds": info["seconds"],
        }


def _areas(
    probabilities: NDArray[np.float32], dataset: ImageDataset
) -> dict[str, list[float | None] | None]:
    """Return the area under the ROC curve of every class and group on the test set."""
    test = dataset.test
    found: dict[str, list[float | None] | None] = {
        "auc_by_class": _plain(auc_by_class(probabilities, test.labels)),
        "auc_by_group": None,
    }
    if test.groups is not None:
        groups = len(dataset.group_names)
        areas = auc_by_group(probabilities, test.labels, test.groups, groups)
        found["auc_by_group"] = _plain(areas)
    return found


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers as JSON has them, NaN as None."""
    return [None if np.isnan(value) else float(value) for value in values]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the context, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def new_model(name: str, dataset: ImageDataset, device: str, *, trained: bool = True) -> nn.Module:
    """Return a freshly initialised network for a data set, on a device.

    Args:
        name: See :func:`raydrop.models.build_model`.
        dataset: Gives classes and the shape of images.
        device: ``cpu`` or ``cuda``.
        trained: Whether a name that asks for trained weights gets them.
    """
    shape = dataset.image_shape
    model = build_model(name, dataset.num_classes, shape, trained=trained).to(device)
    if device != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def unit_recalls(
    predictions: NDArray[np.integer[Any]], dataset: ImageDataset, by: By, split: str
) -> NDArray[np.float64]:
    """Return the recall of every class or group in a split, (U,).

    Args:
        predictions: Predicted classes of the split's samples, (n,).
        dataset: Gives labels and groups.
        by: Classes or groups.
        split: ``validation`` or ``test``, in which every class and group occurs.
    """
    # A class is a group whose samples all have one label.
    labels, members = dataset.splits()[split].labels, dataset.members(by, split)
    return by_group(predictions, labels, members, len(dataset.names(by)))


def _lowest(recalls: Sequence[float] | NDArray[np.float64], dataset: ImageDataset, by: By) -> str:
    """Say what the lowest recall is, and of which class or group."""
    worst = int(np.argmin(recalls))
    return f"{recalls[worst]:.4f} ({by} {dataset.names(by)[worst]!r})"


def _validation_recalls(
    model: nn.Module | None, data: PreparedData, device: str
) -> dict[str, list[float] | None]:
    """Return a query model's recalls by class and, where there are groups, by group."""
    found: dict[str, list[float] | None] = dict.fromkeys(RECALLS.values())
    if model is None:
        return found
    dataset = data.dataset
    batches = make_batches(data, dataset.validation, torch.device(device))
    predictions = predict(model, batches, len(dataset.validation))
    for by, name in RECALLS.items():
        if by == "class" or dataset.group_names:
            found[name] = unit_recalls(predictions, dataset, by, "validation").tolist()
    return found


def _validation_counts(
    predictions: NDArray[np.integer[Any]], dataset: ImageDataset
) -> dict[str, list[int] | None]:
    """Return how many validation samples of each class and group there are and are correct.

    The class that is worst here is a choice that the test set had no part in.
    """
    correct = predictions == dataset.validation.labels
    found: dict[str, list[int] | None] = {}
    for by in RECALLS:
        counts = sizes = None
        if by == "class" or dataset.group_names:
            hits = dataset.members(by, "validation")[correct]
            counts = np.bincount(hits, minlength=len(dataset.names(by))).tolist()
            sizes = dataset.sizes(by, "validation").tolist()
        found |= {f"validation_by_{by}": counts, f"validation_sizes_by_{by}": sizes}
    return found


def _kept_sizes(dataset: ImageDataset, by: By, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many kept samples each class or group has, (U,)."""
    return np.bincount(dataset.members(by)[kept], minlength=len(dataset.names(by)))


def _check_scores(
    method: ScoreMethod, scores: NDArray[np.floating], ids: NDArray[np.int64]
) -> None:
    sound = np.isfinite(scores) | (np.isposinf(scores) & method.may_be_infinite)
    bad = np.flatnonzero(~sound)
    if len(bad):
        raise ScoringError(
            f"Expected a number for every sample, found {scores[bad[0]]} from {method.name!r} for "
            f"{len(bad)} of {len(scores)} samples, first those with the ids "
            f"{ids[bad[:5]].tolist()}; the query run probably diverged, so lower learning_rate."
        )


def _noise(noisy: NDArray[np.bool_] | None, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Return how many labels are known to be false, and which share of them a trial prunes."""
    if noisy is None:
        return {"n_noisy": None, "noisy_pruned": None}
    count = int(noisy.sum())
    pruned = count - int(noisy[kept].sum())
    return {"n_noisy": count, "noisy_pruned": pruned / count if count else None}
