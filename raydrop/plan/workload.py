"""What a plan takes, in sample passes.

A pass is one sample forward and backward once, three times the work of a forward pass. A query run
takes its epochs and, with a trace, a third more; a trial its steps times the batch, also where it
retrains a pruned network (what the search for what to prune takes is left out). A gradient quantity
takes one pass for each time that a sample is put through the network, and a norm of the last layer
alone, or an embedding, a third of that. Evaluations are forward passes: of validation and test at
the end, and of validation after each epoch where the loss asks for recalls; so is what a loss asks
of the dense network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raydrop.data.dataset import LabelledDataset
from raydrop.plan import Plan
from raydrop.plan.runs import QueryRun, ScoreRun, TrialRun, gradient_units, unit_config
from raydrop.scores.quantities import QUANTITIES
from raydrop.scores.sharding import make_shards
from raydrop.scores.source import Unit
from raydrop.selection import budget_for
from raydrop.store import Store
from raydrop.study import Study
from raydrop.training.budget import training_length
from raydrop.training.checkpoints import score_epoch
from raydrop.training.losses import LossContext, loss_rule

StageName = Literal["query runs", "scores", "trials", "networks"]
"""What is run one after the other; ``networks`` are the trials that prune one."""


@dataclass(frozen=True)
class Work:
    """What one query run, one gradient quantity or one trial takes."""

    stage: StageName
    """When it is run."""
    model: str
    """Architecture that it trains, or differentiates."""
    passes: int
    """Sample passes."""
    forward: int = 0
    """Samples that are put through the network besides, without a backward pass."""
    parts: int = 1
    """Equal parts that workers share; one worker does all of it where it has one."""

    @property
    def cost(self) -> float:
        """All of it in sample passes; a forward pass is a third of one."""
        return self.passes + self.forward / 3


def workload(
    study: Study, plan: Plan, dataset: LabelledDataset, store: Store | None = None
) -> tuple[Work, ...]:
    """Return what a plan takes, each thing once, in the order in which it is begun.

    What a store has of gradient quantities is left out.
    """
    n = len(dataset.train)
    found = [query_work(study, query, dataset) for query in plan.queries]
    queries = {query.key: query for run in plan.scores for query in run.queries}
    for (key, unit), count in _visits(study, plan.scores, n, store).items():
        model, shards = queries[key].model, len(make_shards(np.arange(queries[key].samples(n))))
        passes = count // 3 if QUANTITIES[unit.quantity].reads_last_layer else count
        found.append(Work("scores", model, passes, parts=shards))
    # Those that prune a network come after all that train one.
    trials = sorted(plan.trials, key=lambda run: run.dense is not None)
    return (*found, *(trial_work(study, run, dataset) for run in trials))


def query_work(study: Study, query: QueryRun, dataset: LabelledDataset) -> Work:
    """Return what a query run takes."""
    forward = len(dataset.validation) if query.serves_all else 0
    passes = query_samples(study, query, len(dataset.train))
    return Work("query runs", query.model, passes, forward)


def query_samples(study: Study, query: QueryRun, n: int) -> int:
    """Return how many sample passes a query run takes: its epochs, and a third more for a trace."""
    epochs = study.training_of_queries().epochs
    if query.partition is not None:
        return epochs * query.samples(n)
    if query.initialisation:
        epochs = score_epoch(epochs, study.score_epoch_fraction)
    return epochs * n * 4 // 3


def visited_samples(
    study: Study, scores: Iterable[ScoreRun], n: int, store: Store | None = None
) -> int:
    """Return how many of ``n`` samples scores put through a network, shared ones counted once."""
    return sum(_visits(study, scores, n, store).values())


def trial_work(study: Study, run: TrialRun, dataset: LabelledDataset) -> Work:
    """Return what a trial takes."""
    n, validation = len(dataset.train), len(dataset.validation)
    kept = budget_for(n, run.trial.keep_fraction)
    network, training, rounds = study.pruning_of_networks(), study.training, 1
    if run.dense is not None:
        assert network.retraining is not None
        training, rounds = network.retraining, network.rounds
    length = training_length(study.budget, training, kept, n)
    passes = rounds * length.steps * min(training.batch_size, kept)
    # Which samples are kept is not known yet; what a loss asks for does not depend on it.
    ones = np.ones(dataset.num_classes, np.int64), np.ones(len(dataset.names(study.by)), np.int64)
    loss = loss_rule(run.trial.loss).make(LossContext(*ones, by=study.by, epochs=length.epochs))
    forward = validation + len(dataset.test)
    if loss.needs_recalls:
        forward += rounds * length.epochs * validation
    if loss.needs_reference:
        forward += passes if training.augment else n
    return Work("trials" if run.dense is None else "networks", run.trial.model, passes, forward)


def sample_passes(found: Iterable[Work]) -> dict[str, int]:
    """Return how many sample passes each stage takes, without evaluations."""
    totals = {"queries": 0, "scores": 0, "trials": 0}
    names = {"query runs": "queries", "networks": "trials"}
    for work in found:
        totals[names.get(work.stage, work.stage)] += work.passes
    return totals


def unshared_query_runs(plan: Plan) -> int:
    """Return how many query models a plan would take if each were trained for one use.

    That is one per seed, keep fraction and method that reads one (a score, or, for random pruning,
    the quota rule), as in the code of the DRoP paper (Vysogorets, Ahuja, Kempe 2025, arXiv
    2404.05579); further initialisations and parts are not counted.
    """
    uses = set()
    for run in plan.trials:
        trial, reads = run.trial, run.score is not None and bool(run.score.queries)
        if run.recalls is not None or any(score.queries for score in run.scores):
            name = trial.method if reads else trial.quotas
            uses.add((name, trial.query_model, trial.keep_fraction, trial.seed))
    return len(uses)


def _visits(
    study: Study, scores: Iterable[ScoreRun], n: int, store: Store | None
) -> dict[tuple[str, Unit], int]:
    """Return samples put through a network by query key and unit, without what is in the store."""
    found: dict[tuple[str, Unit], int] = {}
    for run in scores:
        for query, unit in gradient_units(study, run):
            config = unit_config(query, unit, study.score_precision)
            if store is None or store.find("gradients", config) is None:
                # Once for a sample's own value, and once more for the mean gradient of all; the
                # mean of one class alone is not counted.
                visits = 2 if QUANTITIES[unit.quantity].mean_over == "all" else 1
                found[query.key, unit] = visits * query.samples(n)
    return found
