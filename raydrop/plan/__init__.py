"""The plan of a study: which query runs, scores and trials it takes, and which of them are done.

Everything is identified by what it depends on. Query runs and scores depend on data, query model,
training and seed, never on keep fraction, quotas, loss or the model that is trained in the end, so
every trial of a seed shares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from raydrop.data.dataset import ImageDataset
from raydrop.errors import ConfigError
from raydrop.models import PRETRAINED, build_model, head_of
from raydrop.network import network_rule
from raydrop.network.adapter import coupling_of
from raydrop.network.base import parse_target
from raydrop.scores import CheckpointMethod, score_method
from raydrop.scores.partitions import stratified_partitions
from raydrop.scores.sharding import make_shards
from raydrop.scores.source import LAST_LAYER, Quantity, Unit
from raydrop.selection import budget_for, quota_rule
from raydrop.store import Store
from raydrop.study import SCHEMA, ScoringPrecision, Study, TrialConfig, config_hash
from raydrop.training.budget import training_length
from raydrop.training.checkpoints import sampled_epochs, score_epoch
from raydrop.training.losses import LossContext, loss_rule, reads_reference

VISITS: Mapping[Quantity, int] = {
    "norm": 1,
    "last_layer_norm": 1,
    "dot_with_mean": 2,
    "dot_with_class_mean": 1,
    "embedding": 1,
}
"""How often each sample is put through the network for a quantity: once for its own value, and once
more where all of them share in a mean gradient. Those of one class alone are not counted."""

UNREAD_BY_TRIALS = (
    "query_training",
    "checkpoints",
    "score_epoch_fraction",
    "initialisations",
    "partitions",
    "score_precision",
)
"""Settings that a trial depends on through its scores and recalls alone."""


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
    """Sample passes; see :func:`works`."""
    forward: int = 0
    """Samples that are put through the network besides, without a backward pass."""
    parts: int = 1
    """Equal parts that workers share; one worker does all of it where it has one."""

    @property
    def cost(self) -> float:
        """All of it in sample passes; a forward pass is a third of one."""
        return self.passes + self.forward / 3


@dataclass(frozen=True)
class QueryRun:
    """One training whose trace and checkpoints scores are computed from."""

    seed: int
    """One of the study's seeds."""
    model: str
    """Architecture."""
    config: Mapping[str, Any]
    """What it depends on."""
    initialisation: int = 0
    """0, or the number of a further initialisation, which stops at the early epoch."""
    partition: tuple[int, int] | None = None
    """(i, I) for the surrogate trained on part i, from 0, of I; None for all the data."""

    @cached_property
    def key(self) -> str:
        """Its key in the store."""
        return config_hash(self.config)


@dataclass(frozen=True)
class ScoreRun:
    """The scores of one method, query model and seed."""

    method: str
    model: str
    """Architecture of the query runs, whether or not the method reads any."""
    seed: int
    queries: tuple[QueryRun, ...]
    """Query runs that it reads; none for some methods, several for others."""
    config: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Its key in the store."""
        return config_hash(self.config)


@dataclass(frozen=True)
class TrialRun:
    """One trial."""

    trial: TrialConfig
    score: ScoreRun | None
    """None where nothing is pruned."""
    quota_scores: ScoreRun | None
    """Scores whose best samples set the quotas (``from_method``); None where they set none."""
    recalls: QueryRun | None
    """Query run whose validation recalls set the quotas; None where they set none."""
    config: Mapping[str, Any]
    dense: TrialRun | None = None
    """Trial whose network it prunes; None where it trains one of its own."""
    shared: bool = False
    """Whether it leaves its weights, because others prune its network."""

    @cached_property
    def key(self) -> str:
        """Its key in the store: the trial's id."""
        return config_hash(self.config)

    @property
    def weights_config(self) -> dict[str, Any]:
        """Identity of the weights that it leaves where it is :attr:`shared`."""
        return {"kind": "weights", "schema": SCHEMA, "trial": self.key}

    @property
    def weights_key(self) -> str:
        """Key of these weights in the store."""
        return config_hash(self.weights_config)


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
        lost = {k for k, t in dense.items() if store.find("weights", t.weights_config) is None}
        keys = {t.key for t in trials} | lost
        trials = tuple(t for t in self.trials if t.key in keys)
        scores = tuple(s for s in _scores(trials) if store.read("scores", s.key) is None)
        needed = _queries(trials, scores)
        queries = tuple(q for q in needed if store.read("query", q.key) is None)
        return Plan(queries, scores, trials)


def trial_configs(study: Study, points: Iterable[Mapping[str, Any]]) -> tuple[TrialConfig, ...]:
    """Return the distinct trials of a study, in a fixed order.

    A trial that reads neither scores nor recalls from a query run has its own model for a query
    model, so that random pruning is one trial whatever the other methods are scored with. Losses
    have all their parameters spelled out, so that ``focal`` and ``focal(2.0)`` are one trial. One
    that protects what a dense network knew has nothing to say where no network is pruned: there it
    is the loss of dense networks. The dense trial of every network trial is among the trials.

    Args:
        study: Gives the seeds, the default models, and whether unpruned runs are added.
        points: Points of its search space, without seeds.

    Raises:
        ConfigError: If a point does not describe a trial, names an unknown method, quota rule or
            loss, or there is no point.
    """
    points = list(points)
    dense_loss = loss_rule(study.pruning_of_networks().dense_loss).name
    found = {
        _normalised(TrialConfig.from_space(point, seed, study.model, study.query_model), dense_loss)
        for point in points
        for seed in study.seeds
    }
    found |= {dense_trial(trial, dense_loss) for trial in found if trial.network_method != "none"}
    if study.include_unpruned:
        found |= {
            TrialConfig("none", "none", 1.0, trial.loss, trial.model, trial.model, trial.seed)
            for trial in found
            if trial.network_method == "none"
        }
    if not found:
        raise ConfigError(
            "Expected at least one trial, found an empty param_space; add for example "
            '{"method": "random", "keep_fraction": 0.5}.'
        )
    return tuple(sorted(found))


def dense_trial(trial: TrialConfig, dense_loss: str) -> TrialConfig:
    """Return the trial whose network a network trial prunes.

    Args:
        trial: A network trial.
        dense_loss: Canonical text of the loss that dense networks are trained with.
    """
    return dataclasses.replace(trial, loss=dense_loss, network_method="none", network_target="none")


def make_plan(study: Study, trials: Sequence[TrialConfig], dataset: ImageDataset) -> Plan:
    """Return everything that a study takes, after checking that all of it exists and fits.

    Args:
        study: What is to be studied.
        trials: Its trials, from :func:`trial_configs`.
        dataset: Its data; only labels, groups and the fingerprint are read.

    Raises:
        ConfigError: On an unknown name, a budget that is too small for its rule, a study by group
            of data without groups, fewer training samples than partitions, or a model that does not
            fit the data, the batches or a score.
    """
    dataset.names(study.by)
    for model in sorted({name for trial in trials for name in (trial.model, trial.query_model)}):
        head_of(model, dataset.num_classes, dataset.image_shape)
        if model.endswith(PRETRAINED):  # are its weights there?
            build_model(model, dataset.num_classes, dataset.image_shape)
    for trial in trials:
        _check_names(trial)
        _check_budget(study, trial, dataset)
    found = {trial: _trial_run(study, trial, dataset.fingerprint) for trial in trials}
    pruned = {run.dense.trial for run in found.values() if run.dense is not None}
    runs = tuple(
        dataclasses.replace(run, shared=True) if trial in pruned else run
        for trial, run in found.items()
    )
    scores = _scores(runs)
    queries = _queries(runs, scores)
    if any(query.partition for query in queries):
        stratified_partitions(dataset.train.labels, study.partitions, study.seeds[0])
    plan = Plan(queries, scores, runs)
    _check_scores(plan, dataset)
    _check_batches(study, plan, dataset)
    return plan


def check_networks(plan: Plan, dataset: ImageDataset) -> None:
    """Try whether every network that is to lose channels can be cut, before anything is trained.

    Args:
        plan: What is to be done.
        dataset: Gives classes and image shape.

    Raises:
        NetworkError: If one cannot be traced; the message names the module.
    """
    structured = {
        run.trial.model
        for run in plan.trials
        if run.dense is not None and network_rule(run.trial.network_method).make().structured
    }
    for name in sorted(structured):
        shape = dataset.image_shape
        coupling_of(build_model(name, dataset.num_classes, shape, trained=False), shape)


def query_run(
    study: Study,
    fingerprint: str,
    model: str,
    seed: int,
    *,
    initialisation: int = 0,
    partition: tuple[int, int] | None = None,
) -> QueryRun:
    """Return one query run of a model and seed.

    Args:
        study: Gives training and checkpoints.
        fingerprint: Of the data.
        model: Architecture.
        seed: One of the study's seeds.
        initialisation: 0, or the number of a further initialisation.
        partition: (i, I) for the surrogate of part i of I.
    """
    base = study.base(fingerprint)
    config = {
        "kind": "query",
        "schema": base["schema"],
        "data": fingerprint,
        "model": model,
        "seed": seed,
        "training": base["query_training"],
        "initialisation": initialisation,
        "partition": partition,
    }
    # Each depends on the checkpoints that it leaves, and on no others.
    if initialisation == 0:
        config["checkpoints"] = study.checkpoints
    if partition is None:
        config["score_epoch_fraction"] = study.score_epoch_fraction
    return QueryRun(seed, model, config, initialisation, partition)


def score_run(study: Study, fingerprint: str, method: str, model: str, seed: int) -> ScoreRun:
    """Return the scores of one method, query model and seed."""
    queries = _queries_read(study, fingerprint, method, model, seed)
    config = {
        "kind": "scores",
        "schema": SCHEMA,
        "data": fingerprint,
        "method": method,
        "seed": seed,
        "queries": [query.key for query in queries],
    }
    if isinstance(score_method(method), CheckpointMethod):
        config["precision"] = study.score_precision
    return ScoreRun(method, model, seed, queries, config)


def gradient_units(study: Study, run: ScoreRun) -> tuple[tuple[QueryRun, Unit], ...]:
    """Return the gradient quantities or embeddings that a score is made of, with their query runs.

    Which class a quantity is about, where it is about one, shows only once the query run is done.
    """
    method = score_method(run.method)
    if not isinstance(method, CheckpointMethod):
        return ()
    epochs = looked_at(study, run.seed)[method.looks_at]
    return tuple(
        (query, Unit(epoch, quantity))
        for query in run.queries
        for epoch in epochs
        for quantity in method.quantities
    )


def looked_at(study: Study, seed: int) -> dict[str, tuple[int, ...]]:
    """Return epochs at which scores look at a query run, by :attr:`CheckpointMethod.looks_at`."""
    epochs = study.training_of_queries().epochs
    return {
        "sampled": sampled_epochs(epochs, study.checkpoints, seed),
        "score_epoch": (score_epoch(epochs, study.score_epoch_fraction),),
        "last": (epochs,),
    }


def unit_config(query: QueryRun, unit: Unit, precision: ScoringPrecision) -> dict[str, Any]:
    """Return what a gradient quantity at one checkpoint depends on."""
    return {
        "kind": "gradients",
        "schema": SCHEMA,
        "query": query.key,
        "epoch": unit.epoch,
        "quantity": unit.quantity,
        "class": unit.klass,
        "precision": precision,
    }


def covered_samples(query: QueryRun, n: int) -> int:
    """Return how many of ``n`` training samples a query run is trained on."""
    if query.partition is None:
        return n
    part, count = query.partition
    return len(range(part, n, count))


def visited_samples(
    study: Study, scores: Iterable[ScoreRun], n: int, store: Store | None = None
) -> int:
    """Return how many samples scores put through a network; what several share is counted once.

    Args:
        study: Gives checkpoints and precision.
        scores: What is to be computed.
        n: Training samples.
        store: Whose finished quantities are left out.
    """
    return sum(_visits(study, scores, n, store).values())


def query_samples(study: Study, query: QueryRun, n: int) -> int:
    """Return how many sample passes a query run takes: its epochs, and a third more for a trace."""
    epochs = study.training_of_queries().epochs
    if query.partition is not None:
        return epochs * covered_samples(query, n)
    if query.initialisation:
        epochs = score_epoch(epochs, study.score_epoch_fraction)
    return epochs * n * 4 // 3


def works(
    study: Study, plan: Plan, dataset: ImageDataset, store: Store | None = None
) -> tuple[Work, ...]:
    """Return what a plan takes, each thing once, in the order in which it is begun.

    A pass is one sample forward and backward once, three times the work of a forward pass. A query
    run takes its epochs and, with a trace, a third more; a trial its steps times the batch, also
    where it retrains a pruned network (what the search for what to prune takes is left out). A
    gradient quantity takes one pass for each time that a sample is put through the network, and a
    norm of the last layer alone, or an embedding, a third of that. Evaluations are forward passes:
    of validation and test at the end, and of validation after each epoch where the loss asks for
    recalls; so is what a loss asks of the dense network.

    Args:
        study: What the plan is of.
        plan: What is to be done.
        dataset: Its data.
        store: Whose finished gradient quantities are left out.
    """
    n = len(dataset.train)
    found = [query_work(study, query, dataset) for query in plan.queries]
    queries = {query.key: query for run in plan.scores for query in run.queries}
    for (key, unit), count in _visits(study, plan.scores, n, store).items():
        model, shards = queries[key].model, _shards(covered_samples(queries[key], n))
        passes = count // 3 if unit.quantity in LAST_LAYER else count
        found.append(Work("scores", model, passes, parts=shards))
    # Those that prune a network come after all that train one.
    trials = sorted(plan.trials, key=lambda run: run.dense is not None)
    return (*found, *(trial_work(study, run, dataset) for run in trials))


def query_work(study: Study, query: QueryRun, dataset: ImageDataset) -> Work:
    """Return what a query run takes; see :func:`works`."""
    passes = query_samples(study, query, len(dataset.train))
    whole = query.partition is None and not query.initialisation
    return Work("query runs", query.model, passes, len(dataset.validation) if whole else 0)


def trial_work(study: Study, run: TrialRun, dataset: ImageDataset) -> Work:
    """Return what a trial takes; see :func:`works`."""
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
    stage: StageName = "trials" if run.dense is None else "networks"
    return Work(stage, run.trial.model, passes, forward)


def sample_passes(found: Iterable[Work]) -> dict[str, int]:
    """Return how many sample passes each stage takes, without evaluations; see :func:`works`."""
    totals = {"queries": 0, "scores": 0, "trials": 0}
    names = {"query runs": "queries", "networks": "trials"}
    for work in found:
        totals[names.get(work.stage, work.stage)] += work.passes
    return totals


def _shards(samples: int) -> int:
    """Return how many shards the gradients of so many samples are cut into."""
    return len(make_shards(np.arange(samples)))


def _visits(
    study: Study, scores: Iterable[ScoreRun], n: int, store: Store | None
) -> dict[tuple[str, Unit], int]:
    """Return samples put through a network by query key and unit, without what is in the store."""
    found: dict[tuple[str, Unit], int] = {}
    for run in scores:
        for query, unit in gradient_units(study, run):
            config = unit_config(query, unit, study.score_precision)
            if store is None or store.find("gradients", config) is None:
                found[query.key, unit] = VISITS[unit.quantity] * covered_samples(query, n)
    return found


def _normalised(trial: TrialConfig, dense_loss: str) -> TrialConfig:
    rule = loss_rule(trial.loss)
    trial = dataclasses.replace(trial, loss=rule.name)
    if trial.network_method != "none":
        method = network_rule(trial.network_method)
        target = parse_target(trial.network_target, structured=method.make().structured)
        trial = dataclasses.replace(trial, network_method=method.name, network_target=target.name)
    elif reads_reference(rule):
        trial = dataclasses.replace(trial, loss=dense_loss)
    if trial.method == "none":
        return trial
    quotas = quota_rule(trial.quotas)
    methods = (trial.method, *([quotas.method] if quotas.method else []))
    unread = all(score_method(method).reads == "nothing" for method in methods)
    if unread and not quotas.needs_recalls:
        return dataclasses.replace(trial, query_model=trial.model)
    return trial


def _queries_read(
    study: Study, fingerprint: str, method: str, model: str, seed: int
) -> tuple[QueryRun, ...]:
    reads = score_method(method).reads
    if reads == "nothing":
        return ()
    if reads == "partitions" and study.partitions > 1:
        parts = [(part, study.partitions) for part in range(study.partitions)]
        return tuple(query_run(study, fingerprint, model, seed, partition=part) for part in parts)
    count = study.initialisations if reads == "initialisations" else 1
    return tuple(query_run(study, fingerprint, model, seed, initialisation=r) for r in range(count))


def _trial_run(study: Study, trial: TrialConfig, fingerprint: str) -> TrialRun:
    def scores_of(method: str) -> ScoreRun:
        return score_run(study, fingerprint, method, trial.query_model, trial.seed)

    rule = quota_rule(trial.quotas)
    score = None if trial.method == "none" else scores_of(trial.method)
    quota_scores = None if rule.method is None else scores_of(rule.method)
    recalls = None
    if rule.needs_recalls:
        recalls = query_run(study, fingerprint, trial.query_model, trial.seed)
    base = study.base(fingerprint)
    # A trial depends on these through its scores and quotas alone; what it does not read must not
    # change its identity.
    for unread in UNREAD_BY_TRIALS:
        del base[unread]
    config = {
        "kind": "trial",
        **base,
        "trial": trial.identity(),
        "scores": score.key if score else None,
        "quota_scores": quota_scores.key if quota_scores else None,
        "recalls": recalls.key if recalls else None,
    }
    dense = None
    if trial.network_method != "none":
        network = study.pruning_of_networks()
        dense_loss = loss_rule(network.dense_loss).name
        dense = _trial_run(study, dense_trial(trial, dense_loss), fingerprint)
        pruning = dataclasses.asdict(network)
        del pruning["dense_loss"]  # part of the dense trial's own identity
        config |= {"dense": dense.key, "network": pruning}
    return TrialRun(trial, score, quota_scores, recalls, config, dense)


def _scores(trials: Iterable[TrialRun]) -> tuple[ScoreRun, ...]:
    needed = (score for t in trials for score in (t.score, t.quota_scores) if score is not None)
    return tuple({score.key: score for score in needed}.values())


def _queries(trials: Iterable[TrialRun], scores: Iterable[ScoreRun]) -> tuple[QueryRun, ...]:
    """Return each query run once; whole ones first, so that no long one is left over at the end."""
    needed = [query for score in scores for query in score.queries]
    needed += [trial.recalls for trial in trials if trial.recalls is not None]
    distinct = {query.key: query for query in needed}.values()
    return tuple(sorted(distinct, key=lambda q: (q.partition is not None, q.initialisation)))


def _check_names(trial: TrialConfig) -> None:
    if trial.method != "none":
        score_method(trial.method)
    rule = quota_rule(trial.quotas)
    if rule.method is not None:
        score_method(rule.method)
    loss_rule(trial.loss)
    if trial.network_method != "none":
        network_rule(trial.network_method)


def _check_budget(study: Study, trial: TrialConfig, dataset: ImageDataset) -> None:
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


def _check_scores(plan: Plan, dataset: ImageDataset) -> None:
    """Refuse scores that there are not of the query models or of so few samples."""
    n = len(dataset.train)
    read = {(run.method, run.model): run.queries for run in plan.scores if run.queries}
    for (name, model), queries in sorted(read.items()):
        method = score_method(name)
        method.check_model(model, head_of(model, dataset.num_classes, dataset.image_shape))
        fewest = min(covered_samples(query, n) for query in queries)
        if fewest < method.least_samples:
            raise ConfigError(
                f"Expected at least {method.least_samples} training samples in each part for "
                f"{name}, found {fewest}; lower partitions."
            )


def _check_batches(study: Study, plan: Plan, dataset: ImageDataset) -> None:
    """Refuse batches of a single sample where a model cannot be trained on them."""
    n, queries = len(dataset.train), study.training_of_queries().batch_size
    trained = {(query.model, covered_samples(query, n), queries) for query in plan.queries}
    retraining = study.pruning_of_networks().retraining
    assert retraining is not None
    for run in plan.trials:
        training = study.training if run.dense is None else retraining
        kept = budget_for(n, run.trial.keep_fraction)
        trained.add((run.trial.model, kept, training.batch_size))
    for model, samples, size in sorted(trained):
        if samples // -(-samples // size) == 1:  # the smallest of groups as even as can be
            head_of(model, dataset.num_classes, dataset.image_shape, batch=1)


def unshared_query_runs(plan: Plan) -> int:
    """Return how many query models a plan would take if each were trained for one use.

    That is one per seed, keep fraction and method that reads one (a score, or, for random pruning,
    the quota rule), as in the code of the DRoP paper (Vysogorets, Ahuja, Kempe 2025, arXiv
    2404.05579); further initialisations and parts are not counted.
    """
    uses = set()
    for run in plan.trials:
        trial = run.trial
        if _queries([run], _scores([run])):
            reads = run.score is not None and bool(run.score.queries)
            name = trial.method if reads else trial.quotas
            uses.add((name, trial.query_model, trial.keep_fraction, trial.seed))
    return len(uses)


def replace_dataset(study: Study, dataset: str | None, model: str | None) -> Study:
    """Return the study on other data or with another model, where given.

    Raises:
        ConfigError: If a model is given and the search space names its own.
    """
    if model is not None and any("model" in space for space in study.spaces()):
        raise ConfigError(
            f"Expected a search space without 'model' to use {model!r} instead, found one that "
            "names models itself; change it there."
        )
    changes = {k: v for k, v in (("dataset", dataset), ("model", model)) if v is not None}
    return dataclasses.replace(study, **changes)  # type: ignore[arg-type]
