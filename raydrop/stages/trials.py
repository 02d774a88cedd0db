"""Stage 3: what is kept, a network trained on it, and one record of what it predicts."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches, PreparedData, make_batches
from raydrop.data.dataset import LabelledDataset, Split
from raydrop.network.base import NetworkSize
from raydrop.network.measure import forward_seconds, network_size
from raydrop.plan.runs import TrialRun
from raydrop.selection import budget_for, quota_rule, select, smooth_recalls
from raydrop.stages.facts import (
    RECALLS,
    facts_of_kept,
    facts_of_test,
    facts_of_validation,
    kept_sizes,
    lowest,
    unit_recalls,
)
from raydrop.stages.queries import epoch_log, new_model, seeded
from raydrop.stages.task import Outcome, fitted, make_task
from raydrop.store import Entry, Store, required
from raydrop.study import Study, Training, derive_seed
from raydrop.training.budget import Length, training_length
from raydrop.training.checkpoints import flat_state
from raydrop.training.evaluate import predict, predictions_and_probabilities
from raydrop.training.loop import EpochEnd, resolved_precision, train
from raydrop.training.losses import Loss, LossContext, loss_rule
from raydrop.training.losses.base import Stage
from raydrop.training.reference import Reference

logger = logging.getLogger("raydrop.stages")


def kept_positions(
    study: Study, run: TrialRun, dataset: LabelledDataset, store: Store
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
    study: Study, run: TrialRun, dataset: LabelledDataset, store: Store, budget: int
) -> NDArray[np.int64] | None:
    """Return how many samples a trial keeps of each class or group, (U,), or None."""
    recalls = counts = None
    if run.recalls is not None:
        measured = required(store, "query", run.recalls.key).info[RECALLS[study.by]]
        held_out = dataset.sizes(study.by, "validation")
        recalls = smooth_recalls(measured, held_out, study.recall_smoothing)
    if run.quota_scores is not None:
        scores = required(store, "scores", run.quota_scores.key)
        best = _selected(run, dataset.members(study.by), budget, scores, None)
        counts = kept_sizes(dataset, study.by, best)
    allocate = quota_rule(run.trial.quotas).allocate
    return allocate(dataset.sizes(study.by), recalls, budget, study.minimum_per_class, counts)


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
        tie_seed=tie_seed(run.trial.seed),
    )


def tie_seed(seed: int) -> int:
    """Return the seed of the order of equal scores."""
    return derive_seed(seed, "selection/ties")


def run_trial(
    study: Study, run: TrialRun, data: PreparedData, store: Store, device: str
) -> dict[str, Any]:
    """Select, train on what is kept, predict the test set, and leave one record.

    A trial whose network others prune leaves its weights too, before its record. What is returned
    is for progress alone: average accuracy, that of the worst class or group, and seconds.
    """
    work = TrialTraining(study, run, data, store, device, study.training)
    work.log_budget()

    def build(place: str) -> nn.Module:
        with seeded(derive_seed(run.trial.seed, "trial/weights")):
            return new_model(run.trial.model, data.dataset, place)

    if study.train is not None:
        return work.record_of(study.train, partial(build, "cpu"))
    model = build(device)
    work.train(model, derive_seed(run.trial.seed, "trial/order"))
    if run.shared:
        store.write("weights", run.weights_config, {}, {"weights": flat_state(model)})
    size = network_size(model, data.dataset.input_spec)
    return work.record(model, size, size, {})


@dataclass(eq=False)
class TrialTraining:
    """Networks trained on what a trial keeps, and the record of what they predict."""

    study: Study
    run: TrialRun
    data: PreparedData
    store: Store
    device: str
    training: Training
    """How each training goes."""
    epochs: int = 0
    """Of all trainings so far, as the next two."""
    steps: int = 0
    seconds: float = 0.0
    parts: int = 1
    """Parts that batches were cut into because memory ran out."""
    start: float = field(default_factory=time.perf_counter)

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """Positions of the samples that are kept, (M,)."""
        return kept_positions(self.study, self.run, self.data.dataset, self.store)

    @cached_property
    def length(self) -> Length:
        """How long each training is."""
        n = len(self.data.dataset.train)
        return training_length(self.study.budget, self.training, len(self.kept), n)

    @cached_property
    def members(self) -> Tensor:
        """The class or group of every training sample, (N,)."""
        # A copy: what Ray shares is read-only, which torch minds.
        return torch.tensor(self.data.dataset.members(self.study.by))

    @cached_property
    def batches(self) -> Batches:
        """Gives batches of training images."""
        return self._batches_of(self.data.dataset.train)

    @cached_property
    def validation(self) -> Batches:
        """Gives batches of validation images."""
        return self._batches_of(self.data.dataset.validation)

    def _batches_of(self, split: Split) -> Batches:
        device, policy = torch.device(self.device), self.training.augment
        return make_batches(self.data, split, device, policy=policy)

    def log_budget(self) -> None:
        """Write into the log what is kept and for how long it is trained on."""
        logger.info(
            "keeps %d of %d samples; budget %s: %d epochs, %d steps",
            len(self.kept),
            len(self.data.dataset.train),
            self.study.budget,
            self.length.epochs,
            self.length.steps,
        )

    def loss(self, stage: Stage = "retrain") -> Loss:
        """Return the trial's loss, for one training or for the search for what to prune."""
        dataset, by = self.data.dataset, self.study.by
        context = LossContext(
            class_sizes=kept_sizes(dataset, "class", self.kept),
            unit_sizes=kept_sizes(dataset, by, self.kept),
            by=by,
            epochs=self.length.epochs,
            stage=stage,
        )
        return loss_rule(self.run.trial.loss).make(context)

    def recalls(self, model: nn.Module, batches: Batches | None = None) -> NDArray[np.float64]:
        """Return the validation recall of every class or group, (U,)."""
        dataset = self.data.dataset
        predicted = predict(model, batches or self.validation, len(dataset.validation))
        return unit_recalls(predicted, dataset, self.study.by, "validation")

    def train(
        self,
        model: nn.Module,
        seed: int,
        reference: Callable[[], Reference] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Train a network in place; the reference is asked for where the loss reads one."""
        loss, log_epoch = self.loss(), epoch_log(self.length.epochs)

        def after(end: EpochEnd) -> None:
            log_epoch(end)
            self.parts = max(self.parts, end.parts)
            loss.end_epoch(self.recalls(model) if loss.needs_recalls else None)

        self.seconds += train(
            model,
            self.batches,
            torch.from_numpy(self.kept),
            loss,
            self.training,
            self.length,
            seed,
            augment=bool(self.training.augment),
            on_epoch_end=after,
            units=self.members,
            reference=reference() if reference is not None and loss.needs_reference else None,
            after_step=after_step,
        )
        self.epochs += self.length.epochs
        self.steps += self.length.steps

    def record_of(self, train: str, build: Callable[[], nn.Module]) -> dict[str, Any]:
        """Have a training function of the user's own train and predict, and leave the record."""
        start, loss, trial = time.perf_counter(), self.loss(), self.run.trial

        # The user's model may be elsewhere than on the trial's device.
        validation = functools.cache(partial(make_batches, self.data, self.data.dataset.validation))

        def after_epoch(model: nn.Module, rate: float) -> None:
            del rate
            recalls = None
            if loss.needs_recalls:
                recalls = self.recalls(model, validation(next(model.parameters()).device))
            loss.end_epoch(recalls)

        task = make_task(
            self.data,
            self.kept,
            loss,
            self.study.by,
            self.length,
            self.device,
            seed=derive_seed(trial.seed, "trial/order"),
            config={**trial.as_dict(), "training": self.training.identity()},
            build=build,
            after_epoch=after_epoch,
        )
        said = fitted(train, task, self.data.dataset.num_classes)
        self.seconds, (self.epochs, self.steps) = time.perf_counter() - start, self.length
        model = build().eval()
        size = network_size(model, self.data.dataset.input_spec)
        return self._written(model, said["test"], said["validation"].predictions, size, size, {})

    def record(
        self, model: nn.Module, size: NetworkSize, dense: NetworkSize, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Predict the test set, once, and leave the trial's record; see :func:`run_trial`.

        Sizes are those of the network and of the dense one it comes from.
        """
        dataset = self.data.dataset
        test = self._batches_of(dataset.test)
        said = Outcome(*predictions_and_probabilities(model, test, len(dataset.test)))
        held_out = predict(model, self.validation, len(dataset.validation))
        return self._written(model, said, held_out, size, dense, facts)

    def _written(
        self,
        model: nn.Module,
        said: Outcome,
        held_out: NDArray[np.int32],
        size: NetworkSize,
        dense: NetworkSize,
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Leave the record of what is said of the test set, and of the classes of validation."""
        study, dataset, predictions = self.study, self.data.dataset, said.predictions
        info = {
            "dataset": dataset.name,
            "budget": study.budget,
            "by": study.by,
            **self.run.trial.as_dict(),
            **facts_of_kept(dataset, self.kept),
            **facts_of_validation(held_out, dataset),
            **facts_of_test(said.probabilities, dataset),
            "batch_parts": self.parts,
            "network_note": "",
            "network_facts": {},
            "network_sparsity": _share_gone(size.weights, dense.weights),
            "macs_removed": _share_gone(size.macs, dense.macs),
            **size._asdict(),
            **{f"dense_{name}": value for name, value in dense._asdict().items()},
            **facts,
            "epochs": self.epochs,
            "steps": self.steps,
            "train_seconds": self.seconds,
            "precision": resolved_precision(self.training.precision, self.device),
            "forward_seconds": forward_seconds(model, dataset.input_spec),
            "seconds": time.perf_counter() - self.start,
            "device": self.device,
        }
        arrays: dict[str, NDArray[Any]] = {
            "predictions": predictions,
            "kept_ids": dataset.train.ids[self.kept],
        }
        self.store.write("trial", self.run.config, info, arrays)
        recalls = unit_recalls(predictions, dataset, study.by, "test")
        average, worst = float((predictions == dataset.test.labels).mean()), float(recalls.min())
        found = lowest(recalls, dataset, study.by)
        logger.info("test: average accuracy %.4f, lowest recall %s", average, found)
        seconds = {name: info[name] for name in ("train_seconds", "seconds")}
        return {"average_accuracy": average, "worst_class_accuracy": worst, **seconds}


def _share_gone(left: int, before: int) -> float:
    return 0.0 if left == before else 1 - left / before
