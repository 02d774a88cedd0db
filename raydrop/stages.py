"""What each stage of a study does, as plain functions: no Ray, no scheduling, no progress.

The store is the only thing that passes between stages. Each function reads what earlier stages
left there, and leaves one entry itself before it returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from raydrop.data.batches import Batches, PreparedData, make_batches
from raydrop.data.dataset import ImageDataset, Split
from raydrop.errors import ScoringError
from raydrop.metrics import by_class, class_metrics
from raydrop.models import build_model
from raydrop.plan import QueryRun, ScoreRun, TrialRun
from raydrop.scores import (
    GradientMethod,
    QueryResult,
    RandomMethod,
    TraceMethod,
    score_method,
)
from raydrop.scores.sharding import ShardedGradients
from raydrop.selection import budget_for, quota_rule, select, smooth_recalls
from raydrop.store import Store, required
from raydrop.study import SCHEMA, Study, derive_seed
from raydrop.training.budget import training_length
from raydrop.training.checkpoints import checkpoint_epochs, flat_state
from raydrop.training.evaluate import predict
from raydrop.training.loop import EpochEnd, resolved_precision, train
from raydrop.training.losses import CrossEntropy, loss_rule
from raydrop.training.trace import Trace


def save_data_card(dataset: ImageDataset, store: Store) -> None:
    """Leave what stage 4 has to know of the data: names, sizes, and the labels of the test set."""
    config = {"kind": "data", "schema": SCHEMA, "fingerprint": dataset.fingerprint}
    if store.find("data", config) is not None:
        return
    info = {
        "dataset": dataset.name,
        "class_names": list(dataset.class_names),
        "class_sizes": dataset.class_sizes().tolist(),
        "n_train": len(dataset.train),
        "n_validation": len(dataset.validation),
        "n_test": len(dataset.test),
    }
    arrays = {"test_labels": dataset.test.labels, "test_ids": dataset.test.ids}
    store.write("data", config, info, arrays)


def run_query(study: Study, run: QueryRun, data: PreparedData, store: Store, device: str) -> None:
    """Train the model on the whole training set, and leave its trace and checkpoints.

    Args:
        study: Gives model and training.
        run: Which query run.
        data: Prepared data.
        store: Where the result goes.
        device: ``cpu`` or ``cuda``.
    """
    dataset, training = data.dataset, study.training
    n = len(dataset.train)
    length = training_length("equal_epochs", training, n, n)
    early = max(1, round(study.score_epoch_fraction * length.epochs))
    spread = checkpoint_epochs(length.epochs, study.checkpoints)
    epochs = tuple(sorted({*spread, early}))
    with seeded(derive_seed(run.seed, "query/weights")):
        model = _model(study, dataset, device)
    batches = make_batches(data, dataset.train, torch.device(device))
    trace = Trace.empty(length.epochs, n)
    states: list[NDArray[np.float32]] = []
    ends: list[EpochEnd] = []

    def after(end: EpochEnd) -> None:
        trace.record(end.epoch - 1, model, batches)
        ends.append(end)
        if end.epoch in epochs:
            states.append(flat_state(model))

    seconds = train(
        model,
        batches,
        torch.arange(n),
        CrossEntropy(),
        training,
        length,
        derive_seed(run.seed, "query/order"),
        augment=False,
        on_epoch_end=after,
    )
    held_out = make_batches(data, dataset.validation, torch.device(device))
    validation = _recalls(model, held_out, dataset.validation, dataset.num_classes)
    info = {
        "seed": run.seed,
        "validation_recalls": validation.tolist(),
        "losses": [end.loss for end in ends],
        "learning_rates": [end.learning_rate for end in ends],
        "checkpoint_epochs": list(epochs),
        "spread": list(spread),
        "score_epoch": early,
        "epochs": length.epochs,
        "steps": length.steps,
        "train_seconds": seconds,
        "device": device,
    }
    arrays = {**trace.as_arrays(), "checkpoints": np.stack(states)}
    store.write("query", run.config, info, arrays)


def load_query(run: QueryRun, store: Store) -> QueryResult:
    """Return a finished query run, its arrays memory-mapped.

    Raises:
        StoreError: If it is not there.
    """
    entry = required(store, "query", run.key)
    trace = Trace.from_arrays(
        {name: entry.array(name, mmap=True) for name in entry.names if name != "checkpoints"}
    )
    return QueryResult(
        trace=trace,
        checkpoints=entry.array("checkpoints", mmap=True),
        checkpoint_epochs=tuple(entry.info["checkpoint_epochs"]),
        learning_rates=tuple(entry.info["learning_rates"]),
        spread=tuple(entry.info["spread"]),
        score_epoch=entry.info["score_epoch"],
        steps=entry.info["steps"],
    )


def run_score(run: ScoreRun, n: int, store: Store, gradients: ShardedGradients | None) -> None:
    """Compute one method's scores and leave them.

    Args:
        run: Which scores.
        n: Training samples.
        store: Where the query run is and the scores go.
        gradients: Needed by methods that read gradients.

    Raises:
        ScoringError: If a score is NaN; the message names the first samples.
    """
    start = time.perf_counter()
    method = score_method(run.method)
    scores: NDArray[np.floating]
    if isinstance(method, RandomMethod):
        scores = method.draw(n, np.random.default_rng(derive_seed(run.seed, "scores/random")))
    else:
        assert run.query is not None
        query = load_query(run.query, store)
        if isinstance(method, TraceMethod):
            scores = method.from_trace(query.trace, query.score_epoch)
        else:
            assert isinstance(method, GradientMethod)
            assert gradients is not None
            scores = method.from_gradients(query, gradients)
    _check_scores(run.method, scores)
    info = {
        "method": run.method,
        "seed": run.seed,
        "higher_is_kept": method.higher_is_kept,
        "seconds": time.perf_counter() - start,
    }
    store.write("scores", run.config, info, {"scores": np.asarray(scores)})


def kept_positions(
    study: Study, run: TrialRun, dataset: ImageDataset, store: Store
) -> NDArray[np.int64]:
    """Return the positions in the training set that a trial keeps, sorted."""
    n = len(dataset.train)
    if run.score is None:
        return np.arange(n)
    budget = budget_for(n, run.trial.keep_fraction)
    scores = required(store, "scores", run.score.key)
    rule = quota_rule(run.trial.quotas)
    class_recalls = None
    if run.recalls is not None:
        query = required(store, "query", run.recalls.key)
        class_recalls = smooth_recalls(
            query.info["validation_recalls"],
            dataset.class_sizes("validation"),
            study.recall_smoothing,
        )
    return select(
        scores.array("scores"),
        dataset.train.labels,
        budget,
        rule.allocate(dataset.class_sizes(), class_recalls, budget, study.minimum_per_class),
        higher_is_kept=scores.info["higher_is_kept"],
        tie_seed=derive_seed(run.trial.seed, "selection/ties"),
    )


def run_trial(
    study: Study, run: TrialRun, data: PreparedData, store: Store, device: str
) -> dict[str, Any]:
    """Select, train on what is kept, predict the test set, and leave one record.

    Args:
        study: Gives model, training and budget.
        run: Which trial.
        data: Prepared data.
        store: Where scores are and the record goes.
        device: ``cpu`` or ``cuda``.

    Returns:
        The trial's average and worst-class accuracy and its seconds, for progress alone.
    """
    start = time.perf_counter()
    dataset, trial = data.dataset, run.trial
    kept = kept_positions(study, run, dataset, store)
    length = training_length(study.budget, study.training, len(kept), len(dataset.train))
    with seeded(derive_seed(trial.seed, "trial/weights")):
        model = _model(study, dataset, device)
    loss = loss_rule(trial.loss).make()
    validation = make_batches(data, dataset.validation, torch.device(device))

    def after(end: EpochEnd) -> None:  # noqa: ARG001 - the loop's contract
        loss.end_epoch(_recalls(model, validation, dataset.validation, dataset.num_classes))

    train_seconds = train(
        model,
        make_batches(data, dataset.train, torch.device(device)),
        torch.from_numpy(kept),
        loss,
        study.training,
        length,
        derive_seed(trial.seed, "trial/order"),
        augment=study.training.augment,
        on_epoch_end=after if loss.needs_recalls else None,
    )
    test = make_batches(data, dataset.test, torch.device(device))
    predictions = predict(model, test, len(dataset.test))
    result = class_metrics(predictions, dataset.test.labels, dataset.num_classes)
    info = {
        "dataset": dataset.name,
        "model": study.model,
        "budget": study.budget,
        **trial.as_dict(),
        "network_method": "none",
        "network_sparsity": 0.0,
        "n_kept": len(kept),
        "n_train": len(dataset.train),
        "kept_by_class": np.bincount(
            dataset.train.labels[kept], minlength=dataset.num_classes
        ).tolist(),
        "epochs": length.epochs,
        "steps": length.steps,
        "train_seconds": train_seconds,
        "seconds": time.perf_counter() - start,
        "device": device,
        "precision": resolved_precision(study.training.precision, device),
    }
    arrays: dict[str, NDArray[Any]] = {
        "predictions": predictions,
        "kept_ids": dataset.train.ids[kept],
    }
    store.write("trial", run.config, info, arrays)
    return {
        "average_accuracy": result.average_accuracy,
        "worst_class_accuracy": result.worst_class_accuracy,
        "train_seconds": train_seconds,
        "seconds": info["seconds"],
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the context, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _model(study: Study, dataset: ImageDataset, device: str) -> nn.Module:
    model = build_model(study.model, dataset.num_classes, dataset.image_shape).to(device)
    if device != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _recalls(
    model: nn.Module, batches: Batches, split: Split, num_classes: int
) -> NDArray[np.float64]:
    return by_class(predict(model, batches, len(split)), split.labels, num_classes)


def _check_scores(method: str, scores: NDArray[np.floating]) -> None:
    bad = np.flatnonzero(np.isnan(scores))
    if len(bad):
        raise ScoringError(
            f"Expected a number for every sample, found NaN from {method!r} for {len(bad)} of "
            f"{len(scores)} samples, first at positions {bad[:5].tolist()}; "
            "the query run probably diverged, so lower learning_rate."
        )
