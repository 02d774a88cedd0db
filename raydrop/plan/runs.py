"""Query runs, scores and trials, each identified by what it depends on and by nothing else.

Query runs and scores depend on data, query model, training and seed, never on keep fraction,
quotas, loss or the model that is trained in the end, so every trial of a seed shares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydrop.data import DATASETS, parse_spec
from raydrop.models import MODELS
from raydrop.network import METHODS as PRUNERS
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import CheckpointMethod
from raydrop.scores.source import Unit
from raydrop.selection import QUOTAS, quota_rule
from raydrop.study import SCHEMA, ScoringPrecision, Study, Training, TrialConfig, config_hash
from raydrop.study.catalogue import Catalogue, Named, sources
from raydrop.training.checkpoints import sampled_epochs, score_epoch
from raydrop.training.loop import TRAINERS
from raydrop.training.losses import LOSSES, loss_rule
from raydrop.training.optim import OPTIMIZERS

UNREAD_BY_TRIALS = (
    "query_training",
    "checkpoints",
    "score_epoch_fraction",
    "initialisations",
    "partitions",
    "score_precision",
)
"""Settings that a trial depends on through its scores and recalls alone."""


class Run:
    """Something that leaves an entry in the store."""

    config: Mapping[str, Any]
    """What it depends on."""

    @cached_property
    def key(self) -> str:
        """Its key in the store; that of a trial is the trial's id."""
        return config_hash(self.config)


@dataclass(frozen=True)
class QueryRun(Run):
    """One training whose trace and checkpoints scores are computed from."""

    seed: int
    """One of the study's seeds."""
    model: str
    """Architecture."""
    config: Mapping[str, Any]
    initialisation: int = 0
    """0, or the number of a further initialisation, which stops at the early epoch."""
    partition: tuple[int, int] | None = None
    """(i, I) for the surrogate trained on part i, from 0, of I; None for all the data."""

    @property
    def serves_all(self) -> bool:
        """Whether it is the one on all the data, to its end."""
        return self.partition is None and not self.initialisation

    def samples(self, n: int) -> int:
        """Return how many of ``n`` training samples it is trained on."""
        return n if self.partition is None else len(range(self.partition[0], n, self.partition[1]))


@dataclass(frozen=True)
class ScoreRun(Run):
    """The scores of one method, query model and seed."""

    method: str
    model: str
    """Architecture of the query runs, whether or not the method reads any."""
    seed: int
    queries: tuple[QueryRun, ...]
    """Query runs that it reads; none for some methods, several for others."""
    config: Mapping[str, Any]


@dataclass(frozen=True)
class TrialRun(Run):
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

    @property
    def weights_config(self) -> dict[str, Any]:
        """Identity of the weights that it leaves where it is :attr:`shared`."""
        return {"kind": "weights", "schema": SCHEMA, "trial": self.key}

    @property
    def weights_key(self) -> str:
        """Key of these weights in the store."""
        return config_hash(self.weights_config)

    @property
    def scores(self) -> tuple[ScoreRun, ...]:
        """The scores that it reads."""
        return tuple(run for run in (self.score, self.quota_scores) if run is not None)


def query_run(
    study: Study,
    fingerprint: str,
    model: str,
    seed: int,
    *,
    initialisation: int = 0,
    partition: tuple[int, int] | None = None,
) -> QueryRun:
    """Return one query run of a model and seed on the data of that fingerprint."""
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
        **_sources(study, model=model, **_trained_by(study, study.training_of_queries())),
    }
    if study.train is not None:
        config["train"] = study.train
    # Each depends on the checkpoints that it leaves, and on no others.
    if initialisation == 0:
        config["checkpoints"] = study.checkpoints
    if partition is None:
        config["score_epoch_fraction"] = study.score_epoch_fraction
    return QueryRun(seed, model, config, initialisation, partition)


def score_run(study: Study, fingerprint: str, method: str, model: str, seed: int) -> ScoreRun:
    """Return the scores of one method, query model and seed."""
    found, kinds = score_method(method), list[dict[str, Any]]()
    if found.reads == "partitions" and study.partitions > 1:
        kinds = [{"partition": (part, study.partitions)} for part in range(study.partitions)]
    elif found.reads != "nothing":
        count = study.initialisations if found.reads == "initialisations" else 1
        kinds = [{"initialisation": number} for number in range(count)]
    queries = tuple(query_run(study, fingerprint, model, seed, **kind) for kind in kinds)
    config = {
        "kind": "scores",
        "schema": SCHEMA,
        "data": fingerprint,
        "method": method,
        "seed": seed,
        "queries": [query.key for query in queries],
        **_sources(study, method=method),
    }
    if isinstance(found, CheckpointMethod):
        config["precision"] = study.score_precision
    return ScoreRun(method, model, seed, queries, config)


def trial_run(study: Study, trial: TrialConfig, fingerprint: str) -> TrialRun:
    """Return a trial, with its dense one where it prunes a network."""
    quotas = quota_rule(trial.quotas)
    axes = {"quotas": trial.quotas, "loss": trial.loss, "model": trial.model}
    axes |= _trained_by(study, study.training)
    methods = (None if trial.method == "none" else trial.method, quotas.method)
    score, quota_scores = (
        name and score_run(study, fingerprint, name, trial.query_model, trial.seed)
        for name in methods
    )
    recalls = None
    if quotas.needs_recalls:
        recalls = query_run(study, fingerprint, trial.query_model, trial.seed)
    base = study.base(fingerprint)
    for unread in UNREAD_BY_TRIALS:  # or what a trial does not read would change its identity
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
        dense = trial_run(study, dense_trial(study, trial), fingerprint)
        pruning = study.pruning_of_networks().identity()
        del pruning["dense_loss"]  # part of the dense trial's own identity
        config |= {"dense": dense.key, "network": pruning}
        axes["network_method"] = trial.network_method
    config |= _sources(study, **axes)
    return TrialRun(trial, score or None, quota_scores or None, recalls, config, dense)


def named_by(study: Study, **axes: str) -> dict[str, Named[Any]]:
    """Return what a study's data set, and the names of some axes, are in the catalogues.

    Names that no catalogue lists, such as those of torchvision's models, are left out.
    """
    data = parse_spec(study.dataset).name
    found = {axis: _LISTED[axis].named(name) for axis, name in axes.items() if axis in _LISTED}
    looked_up = (("dataset", DATASETS, data), ("model", MODELS, axes.get("model", "")))
    for axis, listed, name in looked_up:
        known = listed.foreign(name)
        if known is None and name in listed:
            known = listed[name].named([])
        found |= {} if known is None else {axis: known}
    return found


_LISTED: Mapping[str, Catalogue[Any]] = {
    "method": METHODS,
    "quotas": QUOTAS,
    "loss": LOSSES,
    "network_method": PRUNERS,
    "optimizer": OPTIMIZERS,
    "train": TRAINERS,
}


def _trained_by(study: Study, training: Training) -> dict[str, str]:
    """Return what trains: the user's own function where there is one, or an optimiser."""
    if study.train is not None:
        return {"train": study.train}
    return {"optimizer": training.optimizer}


def _sources(study: Study, **axes: str) -> dict[str, Any]:
    return sources(*named_by(study, **axes).values(), version=study.version)


def dense_trial(study: Study, trial: TrialConfig) -> TrialConfig:
    """Return the trial whose network a network trial prunes."""
    loss = loss_rule(study.pruning_of_networks().dense_loss).name
    return dataclasses.replace(trial, loss=loss, network_method="none", network_target="none")


def checkpoint_epochs(study: Study, seed: int) -> dict[str, tuple[int, ...]]:
    """Return epochs at which scores look at a query run, by :attr:`CheckpointMethod.looks_at`."""
    epochs = study.training_of_queries().epochs
    return {
        "sampled": sampled_epochs(epochs, study.checkpoints, seed),
        "score_epoch": (score_epoch(epochs, study.score_epoch_fraction),),
        "last": (epochs,),
    }


def gradient_units(study: Study, run: ScoreRun) -> tuple[tuple[QueryRun, Unit], ...]:
    """Return the gradient quantities or embeddings that a score is made of, with their query runs.

    Which class one is about, if any, shows only once the query run is done.
    """
    method = score_method(run.method)
    if not isinstance(method, CheckpointMethod):
        return ()
    epochs = checkpoint_epochs(study, run.seed)[method.looks_at]
    return tuple(
        (query, Unit(epoch, quantity))
        for query in run.queries
        for epoch in epochs
        for quantity in method.quantities
    )


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
