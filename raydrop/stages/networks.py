"""Trials that prune a trained network: from the weights of a dense trial to one record.

Plain functions, like those of :mod:`raydrop.stages`; the store is all that passes between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, even_groups
from raydrop.network import network_rule
from raydrop.network.base import NetworkSize, Pruned, PruningTask, Step, parse_target
from raydrop.network.masks import apply_masks
from raydrop.network.measure import network_size
from raydrop.network.saving import NetworkSpec, network_entry
from raydrop.network.schedule import prune_in_rounds
from raydrop.plan import TrialRun
from raydrop.stages import Fitting, kept_positions, log_budget, new_model, size_facts
from raydrop.store import Store, required
from raydrop.study import SCHEMA, Study, Training, derive_seed
from raydrop.training.budget import Length, training_length
from raydrop.training.checkpoints import load_state
from raydrop.training.loop import resolved_precision
from raydrop.training.losses import Loss, batch_loss
from raydrop.training.losses.base import Stage
from raydrop.training.reference import ModelReference, Reference, StoredReference, reference_logits

logger = logging.getLogger(__name__)


def run_network_trial(
    study: Study, run: TrialRun, data: PreparedData, store: Store, device: str
) -> dict[str, Any]:
    """Prune the network of a dense trial, retrain it, predict the test set, leave one record.

    It leaves the network too, before its record, as an entry of kind ``network``.

    Args:
        study: Gives how networks are pruned.
        run: Which trial, of those that have a dense one.
        data: Prepared data.
        store: Where the dense trial's weights are and the record goes.
        device: ``cpu`` or ``cuda``.

    Returns:
        What :func:`raydrop.stages.run_trial` returns.

    Raises:
        StoreError: If the dense trial's weights are not there.
        NetworkError: If the network cannot be pruned.
    """
    start = time.perf_counter()
    pruner = _Pruner(study, run, data, store, device)
    pruned = pruner.pruned_and_retrained()
    size, dense = pruned.size, pruner.dense_size
    facts = {
        "network_sparsity": 1 - size.weights / dense.weights,
        "macs_removed": 1 - size.macs / dense.macs,
        **size_facts(size, dense),
        "network_note": pruned.note,
        "network_facts": {"reached": pruned.reached, **pruned.facts},
        "epochs": pruner.spent.epochs,
        "steps": pruner.spent.steps,
        "train_seconds": pruner.spent.seconds,
        "precision": resolved_precision(pruner.training.precision, device),
    }
    info, arrays = network_entry(_spec(run, data, pruned), pruned.model)
    store.write("network", network_config(run), info, arrays)
    return pruner.fitting.record(run, pruned.model, facts, store, start)


def network_config(run: TrialRun) -> dict[str, Any]:
    """Return the identity of the network that a trial leaves."""
    return {"kind": "network", "schema": SCHEMA, "trial": run.key}


def _log_pruning(target: str, pruned: Pruned) -> None:
    """Write into the log what was asked of the pruning and what was reached, round by round."""
    whole = {"target": target, "reached": pruned.reached, "note": pruned.note}
    rounds = pruned.facts.get("rounds", [whole])
    for number, course in enumerate(rounds, 1):
        logger.info(
            "pruned in round %d of %d: asked for %s, reached %.4f%s",
            number,
            len(rounds),
            course["target"],
            course["reached"],
            f"; {course['note']}" if course["note"] else "",
        )


def _spec(run: TrialRun, data: PreparedData, pruned: Pruned) -> NetworkSpec:
    """Return what is needed to build the network again and to use it."""
    return NetworkSpec.of_data(
        data,
        run.trial.model,
        channels=pruned.channels,
        network_method=run.trial.network_method,
        network_target=run.trial.network_target,
    )


@dataclass
class _Spent:
    """What retraining took, over all rounds."""

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Pruner:
    """One network trial at work."""

    study: Study
    run: TrialRun
    data: PreparedData
    store: Store
    device: str
    spent: _Spent = field(default_factory=_Spent)

    @cached_property
    def fitting(self) -> Fitting:
        kept = kept_positions(self.study, self.run, self.data.dataset, self.store)
        return Fitting(self.study, self.data, kept, self.device)

    @cached_property
    def training(self) -> Training:
        """How each round retrains."""
        training = self.study.pruning_of_networks().retraining
        assert training is not None
        return training

    @cached_property
    def length(self) -> Length:
        """How long each round retrains."""
        kept, n = len(self.fitting.kept), len(self.data.dataset.train)
        return training_length(self.study.budget, self.training, kept, n)

    @cached_property
    def dense(self) -> nn.Module:
        """The dense trial's network."""
        assert self.run.dense is not None
        entry = required(self.store, "weights", self.run.dense.weights_key)
        model = new_model(self.run.trial.model, self.data.dataset, self.device)
        load_state(model, entry.array("weights"))
        return model

    @cached_property
    def dense_size(self) -> NetworkSize:
        """Its size, measured."""
        return network_size(self.dense, self.data.dataset.image_shape)

    def pruned_and_retrained(self) -> Pruned:
        """Return the network after all rounds, retrained."""
        network, trial = self.study.pruning_of_networks(), self.run.trial
        log_budget(self.study, self.fitting.kept, self.data.dataset, self.length)
        method = network_rule(trial.network_method).make()
        loss = self._loss("prune")
        if loss.needs_recalls:
            loss.end_epoch(self.fitting.recalls(self.dense))
        task = PruningTask(
            model=self.dense,
            image_shape=self.data.dataset.image_shape,
            target=parse_target(trial.network_target, structured=method.structured),
            dense=self.dense_size,
            steps=partial(self._steps, reads_reference=loss.needs_reference),
            loss=lambda logits, step: batch_loss(
                loss, logits, step.labels, step.units, step.reference
            ),
            seed=derive_seed(trial.seed, "network/prune"),
            num_classes=self.data.dataset.num_classes,
            restore=network.restore,
        )
        pruned = prune_in_rounds(task, method, network.rounds, self._retrain)
        _log_pruning(trial.network_target, pruned)
        self._retrain(pruned.model, pruned.masks)
        return pruned

    def _retrain(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Retrain a pruned network in place for one round, its masked weights kept at zero."""
        loss, spent = self._loss("retrain"), self.spent
        logger.info("retrains for %d epochs, %d steps", self.length.epochs, self.length.steps)
        spent.seconds += self.fitting.train(
            model,
            loss,
            self.training,
            self.length,
            derive_seed(self.run.trial.seed, f"network/retrain/{spent.steps}"),
            reference=self.reference if loss.needs_reference else None,
            after_step=partial(apply_masks, model, masks) if masks else None,
        )
        spent.epochs += self.length.epochs
        spent.steps += self.length.steps

    def _loss(self, stage: Stage) -> Loss:
        return self.fitting.loss(self.run.trial.loss, self.length.epochs, stage)

    @cached_property
    def reference(self) -> Reference:
        """The dense network's logits: computed once where images never change, else per view."""
        if self.training.augment:
            return ModelReference(self.dense)
        assert self.run.dense is not None
        config = {"kind": "reference", "schema": SCHEMA, "trial": self.run.dense.key}
        entry = self.store.find("reference", config)
        if entry is None:
            n = len(self.data.dataset.train)
            logits = reference_logits(self.dense, self.fitting.batches, n)
            entry = self.store.write("reference", config, {}, {"logits": logits})
        return StoredReference(entry.array("logits"))

    def _steps(self, count: int, *, reads_reference: bool) -> Iterator[Step]:
        """Yield batches of what is kept, epoch after epoch; the same ones in every call."""
        seed, kept = derive_seed(self.run.trial.seed, "network/steps"), self.fitting.kept
        epoch = 0
        while count > 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, f"order/{epoch}"))
            order = torch.from_numpy(kept)[torch.randperm(len(kept), generator=generator)]
            groups = even_groups(order, self.training.batch_size)[:count]
            augment = derive_seed(seed, f"augment/{epoch}") if self.training.augment else None
            for group, batch in zip(groups, self.fitting.batches(groups, augment), strict=True):
                units = self.fitting.members[group].to(batch.labels.device)
                reference = self.reference(batch.images, group) if reads_reference else None
                yield Step(batch.images, batch.labels, units, reference)
            count, epoch = count - len(groups), epoch + 1
