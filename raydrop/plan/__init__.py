"""From points of a search space to all that they take, checked before anything is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydrop.data.dataset import LabelledDataset
from raydrop.errors import ConfigError
from raydrop.models import PRETRAINED, build_model, head_of
from raydrop.network import network_rule
from raydrop.network.base import parse_target
from raydrop.network.tracing import coupling_of
from raydrop.plan.own import try_own
from raydrop.plan.runs import QueryRun, ScoreRun, TrialRun, dense_trial, trial_run
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import stratified_partitions
from raydrop.selection import budget_for, quota_rule
from raydrop.store import Store
from raydrop.study import Study, TrialConfig
from raydrop.training.losses import loss_rule, reads_reference


@dataclass(frozen=True)
class Plan:
    """What a study takes, each thing once, in the order of the stages."""

    queries: tuple[QueryRun, ...]
    scores: tuple[ScoreRun, ...]
    trials: tuple[TrialRun, ...]

    def missing(self, store: Store) -> Plan:
        """Return what is not in the store yet.

        A query run or score that only finished trials need is not missing; a finished trial is,
        where others need its weights and it did not leave them.
        """
        trials = tuple(t for t in self.trials if store.read("trial", t.key) is None)
        # Weights may be absent where the trial is finished: it was no one's dense network then.
        dense = {t.dense.key: t.dense for t in trials if t.dense is not None}
        gone = {k for k, t in dense.items() if store.find("weights", t.weights_config) is None}
        keys = {t.key for t in trials} | gone
        trials = tuple(t for t in self.trials if t.key in keys)
        scores = tuple(s for s in _scores(trials) if store.read("scores", s.key) is None)
        needed = _queries(trials, scores)
        queries = tuple(q for q in needed if store.read("query", q.key) is None)
        return Plan(queries, scores, trials)


def trial_configs(study: Study, points: Iterable[Mapping[str, Any]]) -> tuple[TrialConfig, ...]:
    """Return the distinct trials of a study, in a fixed order.

    A trial that reads neither scores nor recalls from a query run has its own model for a query
    model, so that random pruning is one trial whatever the other methods are scored with. Names
    have all their parameters spelled out, so that ``focal`` and ``focal(2.0)`` are one trial. A
    loss that protects what a dense network knew has nothing to say where no network is pruned:
    there it is the loss of dense networks. The dense trial of every network trial is among the
    trials.

    Raises:
        ConfigError: If a point describes no trial or names what there is not, or there is none.
    """
    points = list(points)
    found = {
        _normalised(study, TrialConfig.from_space(point, seed, study.model, study.query_model))
        for point in points
        for seed in study.seeds
    }
    found |= {dense_trial(study, trial) for trial in found if trial.network_method != "none"}
    if study.include_unpruned:
        found |= {
            dataclasses.replace(trial, keep_fraction=1.0)
            for trial in found
            if trial.network_method == "none"
        }
    if not found:
        raise ConfigError(
            "Expected at least one trial, found an empty param_space; add for example "
            '{"method": "random", "keep_fraction": 0.5}.'
        )
    return tuple(sorted(found))


def _normalised(study: Study, trial: TrialConfig) -> TrialConfig:
    """Return a trial with canonical names, and without what it does not read."""
    loss = loss_rule(trial.loss)
    trial = dataclasses.replace(trial, loss=loss.name)
    if trial.network_method != "none":
        method = network_rule(trial.network_method)
        target = parse_target(trial.network_target, structured=method.make().structured)
        trial = dataclasses.replace(trial, network_method=method.name, network_target=target.name)
    elif reads_reference(loss):
        trial = dense_trial(study, trial)
    if trial.method == "none":
        return trial
    trial = dataclasses.replace(trial, method=METHODS.named(trial.method).name)
    quotas = quota_rule(trial.quotas)
    methods = (trial.method, *([quotas.method] if quotas.method else []))
    unread = all(score_method(method).reads == "nothing" for method in methods)
    if unread and not quotas.needs_recalls:
        return dataclasses.replace(trial, query_model=trial.model)
    return trial


def make_plan(study: Study, trials: Sequence[TrialConfig], dataset: LabelledDataset) -> Plan:
    """Return everything that a study takes, after checking that all of it exists and fits.

    Of the data only labels, groups and the fingerprint are read.

    Raises:
        ConfigError: On an unknown name, a budget that is too small for its rule, a study by group
            of data without groups, fewer training samples than partitions, or a model that does not
            fit the data, the batches or a score.
    """
    dataset.names(study.by)
    for model in sorted({name for trial in trials for name in (trial.model, trial.query_model)}):
        head_of(model, dataset.num_classes, dataset.input_spec)
        if model.endswith(PRETRAINED):  # are its weights there?
            build_model(model, dataset.num_classes, dataset.input_spec)
    for trial in trials:
        _check_budget(study, trial, dataset)
        if study.train is not None and trial.network_method != "none":
            raise ConfigError(
                f"Expected networks to be pruned with raydrop's own training, found {study.train} "
                f"beside network_method {trial.network_method!r}; prune data with one study, and "
                "networks with another without train."
            )
    try_own(study, trials, dataset)
    found = {trial: trial_run(study, trial, dataset.fingerprint) for trial in trials}
    pruned = {run.dense.trial for run in found.values() if run.dense is not None}
    runs = tuple(
        dataclasses.replace(run, shared=True) if trial in pruned else run
        for trial, run in found.items()
    )
    scores = _scores(runs)
    plan = Plan(_queries(runs, scores), scores, runs)
    if any(query.partition for query in plan.queries):
        stratified_partitions(dataset.train.labels, study.partitions, study.seeds[0])
    _check_scores(plan, dataset)
    _check_batches(study, plan, dataset)
    return plan


def check_networks(plan: Plan, dataset: LabelledDataset) -> None:
    """Try whether every network that is to lose channels can be cut, before anything is trained.

    Raises:
        NetworkError: If one cannot be traced; the message names the module.
    """
    structured = {
        run.trial.model
        for run in plan.trials
        if run.dense is not None and network_rule(run.trial.network_method).make().structured
    }
    for name in sorted(structured):
        shape = dataset.input_spec
        coupling_of(build_model(name, dataset.num_classes, shape, trained=False), shape)


def _scores(trials: Iterable[TrialRun]) -> tuple[ScoreRun, ...]:
    return tuple({score.key: score for t in trials for score in t.scores}.values())


def _queries(trials: Iterable[TrialRun], scores: Iterable[ScoreRun]) -> tuple[QueryRun, ...]:
    """Return each query run once; whole ones first, so that no long one is left over at the end."""
    needed = [query for score in scores for query in score.queries]
    needed += [trial.recalls for trial in trials if trial.recalls is not None]
    distinct = {query.key: query for query in needed}.values()
    return tuple(sorted(distinct, key=lambda q: (q.partition is not None, q.initialisation)))


def _check_budget(study: Study, trial: TrialConfig, dataset: LabelledDataset) -> None:
    if trial.quotas == "none":
        return
    budget = budget_for(len(dataset.train), trial.keep_fraction)
    least = max(study.minimum_per_class, quota_rule(trial.quotas).least)
    needed = sum(min(least, int(size)) for size in dataset.sizes(study.by))
    if budget < needed:
        raise ConfigError(
            f"Expected a budget of at least {needed} samples ({least} per {study.by}) for quotas "
            f"{trial.quotas!r}, found {budget} at keep_fraction {trial.keep_fraction}; "
            "keep more or lower minimum_per_class."
        )


def _check_scores(plan: Plan, dataset: LabelledDataset) -> None:
    """Refuse scores that there are not of the query models or of so few samples."""
    read = {(run.method, run.model): run.queries for run in plan.scores if run.queries}
    for (name, model), queries in sorted(read.items()):
        method = score_method(name)
        method.check_model(model, head_of(model, dataset.num_classes, dataset.input_spec))
        fewest = min(query.samples(len(dataset.train)) for query in queries)
        if fewest < method.least_samples:
            raise ConfigError(
                f"Expected at least {method.least_samples} training samples in each part for "
                f"{name}, found {fewest}; lower partitions."
            )


def _check_batches(study: Study, plan: Plan, dataset: LabelledDataset) -> None:
    """Refuse batches of a single sample where a model cannot be trained on them."""
    n, queries = len(dataset.train), study.training_of_queries().batch_size
    trained = {(query.model, query.samples(n), queries) for query in plan.queries}
    retraining = study.pruning_of_networks().retraining
    assert retraining is not None
    for run in plan.trials:
        training = study.training if run.dense is None else retraining
        kept = budget_for(n, run.trial.keep_fraction)
        trained.add((run.trial.model, kept, training.batch_size))
    for model, samples, size in sorted(trained):
        if samples // -(-samples // size) == 1:  # the smallest of groups as even as can be
            head_of(model, dataset.num_classes, dataset.input_spec, batch=1)
