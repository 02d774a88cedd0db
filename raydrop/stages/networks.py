"""Trials that prune a trained network: from the weights of a dense trial to one record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, even_groups
from raydrop.network import network_rule
from raydrop.network.base import Pruned, PruningTask, Step, parse_target
from raydrop.network.masks import apply_masks
from raydrop.network.measure import network_size
from raydrop.network.rounds import prune_in_rounds
from raydrop.network.saving import NetworkSpec, network_entry
from raydrop.plan.runs import TrialRun
from raydrop.stages.queries import new_model
from raydrop.stages.trials import TrialTraining
from raydrop.store import Store, required
from raydrop.study import SCHEMA, Study, derive_seed
from raydrop.training.checkpoints import load_state
from raydrop.training.losses import batch_loss
from raydrop.training.reference import ModelReference, Reference, StoredReference, reference_logits

logger = logging.getLogger("raydrop.stages")


def run_network_trial(
    study: Study, run: TrialRun, data: PreparedData, store: Store, device: str
) -> dict[str, Any]:
    """Prune the network of a dense trial, retrain it, predict the test set, leave one record.

    It leaves the network too, before its record, as an entry of kind ``network``. Arguments and
    what is returned are those of :func:`raydrop.stages.trials.run_trial`.

    Raises:
        StoreError: If the dense trial's weights are not there.
        NetworkError: If the network cannot be pruned.
    """
    network, shape, trial = study.pruning_of_networks(), data.dataset.input_spec, run.trial
    assert network.retraining is not None
    assert run.dense is not None
    work = TrialTraining(study, run, data, store, device, network.retraining)
    weights = required(store, "weights", run.dense.weights_key)
    pruning = _Pruning(work, run.dense, new_model(trial.model, data.dataset, device))
    load_state(pruning.dense, weights.array("weights"))
    work.log_budget()
    method, loss = network_rule(trial.network_method).make(), work.loss("prune")
    if loss.needs_recalls:
        loss.end_epoch(work.recalls(pruning.dense))
    task = PruningTask(
        model=pruning.dense,
        image_shape=shape,
        target=parse_target(trial.network_target, structured=method.structured),
        dense=network_size(pruning.dense, shape),
        steps=partial(pruning.steps, reads_reference=loss.needs_reference),
        loss=lambda logits, step: batch_loss(loss, logits, step.labels, step.units, step.reference),
        seed=derive_seed(trial.seed, "network/prune"),
        restore=network.restore,
    )
    pruned = prune_in_rounds(task, method, network.rounds, pruning.retrain)
    _log_pruning(trial.network_target, pruned)
    pruning.retrain(pruned.model, pruned.masks)
    axes = {name: getattr(trial, name) for name in ("network_method", "network_target")}
    spec = NetworkSpec.of_data(data, trial.model, channels=pruned.channels, **axes)
    store.write("network", network_config(run), *network_entry(spec, pruned.model))
    facts = {
        "network_note": pruned.note,
        "network_facts": {"reached": pruned.reached, **pruned.facts},
    }
    return work.record(pruned.model, pruned.size, task.dense, facts)


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


@dataclass(frozen=True, eq=False)
class _Pruning:
    """What the pruning of a dense network asks of its trial."""

    work: TrialTraining
    dense_run: TrialRun
    dense: nn.Module

    def retrain(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Retrain a pruned network in place for one round, its masked weights kept at zero."""
        work = self.work
        logger.info("retrains for %d epochs, %d steps", work.length.epochs, work.length.steps)
        work.train(
            model,
            derive_seed(work.run.trial.seed, f"network/retrain/{work.steps}"),
            reference=lambda: self.reference,
            after_step=partial(apply_masks, model, masks) if masks else None,
        )

    @cached_property
    def reference(self) -> Reference:
        """The dense network's logits: computed once where images never change, else per view."""
        work = self.work
        if work.training.augment:
            return ModelReference(self.dense)
        config = {"kind": "reference", "schema": SCHEMA, "trial": self.dense_run.key}
        entry = work.store.find("reference", config)
        if entry is None:
            logits = reference_logits(self.dense, work.batches, len(work.data.dataset.train))
            entry = work.store.write("reference", config, {}, {"logits": logits})
        return StoredReference(entry.array("logits"))

    def steps(self, count: int, *, reads_reference: bool) -> Iterator[Step]:
        """Yield batches of what is kept, epoch after epoch; the same ones in every call."""
        work, training = self.work, self.work.training
        seed, kept = derive_seed(work.run.trial.seed, "network/steps"), work.kept
        epoch = 0
        while count > 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, f"order/{epoch}"))
            order = torch.from_numpy(kept)[torch.randperm(len(kept), generator=generator)]
            groups = even_groups(order, training.batch_size)[:count]
            augment = derive_seed(seed, f"augment/{epoch}") if training.augment else None
            for group, batch in zip(groups, work.batches(groups, augment), strict=True):
                units = work.members[group].to(batch.labels.device)
                reference = self.reference(batch.inputs, group) if reads_reference else None
                yield Step(batch.inputs, batch.labels, units, reference)
            count, epoch = count - len(groups), epoch + 1
