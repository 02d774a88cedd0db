"""The plan of a study: which query runs, scores and trials it takes, and which of them are done.

Everything is identified by what it depends on. Query runs and scores depend on data, model,
training and seed, never on keep fraction, quotas or loss, so every trial of a seed shares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydrop.data.dataset import ImageDataset
from raydrop.errors import ConfigError
from raydrop.models import build_model
from raydrop.scores import score_method
from raydrop.selection import budget_for, quota_rule
from raydrop.store import Store
from raydrop.study import Study, TrialConfig, config_hash
from raydrop.training.budget import training_length
from raydrop.training.losses import loss_rule


@dataclass(frozen=True)
class QueryRun:
    """One training on the full training set."""

    seed: int
    config: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Its key in the store."""
        return config_hash(self.config)


@dataclass(frozen=True)
class ScoreRun:
    """The scores of one method from one query run."""

    method: str
    seed: int
    query: QueryRun | None
    """None for a method that reads no query run."""
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
    recalls: QueryRun | None
    """Query run whose validation recalls set the quotas; None where they set none."""
    config: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Its key in the store: the trial's id."""
        return config_hash(self.config)


@dataclass(frozen=True)
class Plan:
    """What a study takes, each thing once, in the order of the stages."""

    queries: tuple[QueryRun, ...]
    scores: tuple[ScoreRun, ...]
    trials: tuple[TrialRun, ...]

    def missing(self, store: Store) -> Plan:
        """Return what is not in the store yet.

        A query run or score that only finished trials need is not missing.
        """
        trials = tuple(t for t in self.trials if store.read("trial", t.key) is None)
        scores = tuple(s for s in _scores(trials) if store.read("scores", s.key) is None)
        needed = _queries(trials, scores)
        queries = tuple(q for q in needed if store.read("query", q.key) is None)
        return Plan(queries, scores, trials)


def trial_configs(study: Study, points: Iterable[Mapping[str, Any]]) -> tuple[TrialConfig, ...]:
    """Return the distinct trials of a study, in a fixed order.

    Args:
        study: Gives the seeds, and whether unpruned runs are added.
        points: Points of its search space, without seeds.

    Raises:
        ConfigError: If a point does not describe a trial, or there is none.
    """
    points = list(points)
    found = {TrialConfig.from_space(point, seed) for point in points for seed in study.seeds}
    if study.include_unpruned:
        losses = {trial.loss for trial in found}
        found |= {TrialConfig("none", "none", 1.0, loss, s) for loss in losses for s in study.seeds}
    if not found:
        raise ConfigError(
            "Expected at least one trial, found an empty param_space; add for example "
            '{"method": "random", "keep_fraction": 0.5}.'
        )
    return tuple(sorted(found))


def make_plan(study: Study, trials: Sequence[TrialConfig], dataset: ImageDataset) -> Plan:
    """Return everything that a study takes, after checking that all of it exists and fits.

    Args:
        study: What is to be studied.
        trials: Its trials, from :func:`trial_configs`.
        dataset: Its data; only labels and the fingerprint are read.

    Raises:
        ConfigError: On an unknown name, or a budget that is too small for its rule.
    """
    build_model(study.model, dataset.num_classes, dataset.image_shape)
    for trial in trials:
        _check_names(trial)
        _check_budget(study, trial, dataset)
    runs = tuple(_trial_run(study, trial, dataset.fingerprint) for trial in trials)
    scores = _scores(runs)
    return Plan(_queries(runs, scores), scores, runs)


def query_run(study: Study, fingerprint: str, seed: int) -> QueryRun:
    """Return the query run of one seed."""
    base = study.base(fingerprint)
    del base["training"]["augment"]  # query runs never do
    shared = ("schema", "data", "model", "training", "checkpoints", "score_epoch_fraction")
    return QueryRun(seed, {"kind": "query", **{k: base[k] for k in shared}, "seed": seed})


def score_run(study: Study, fingerprint: str, method: str, seed: int) -> ScoreRun:
    """Return the scores of one method and seed."""
    base = study.base(fingerprint)
    query = query_run(study, fingerprint, seed) if score_method(method).needs_query else None
    config = {
        "kind": "scores",
        "schema": base["schema"],
        "data": fingerprint,
        "method": method,
        "seed": seed,
        "query": query.key if query else None,
    }
    return ScoreRun(method, seed, query, config)


def estimated_samples(study: Study, plan: Plan, dataset: ImageDataset) -> dict[str, int]:
    """Return how many sample passes each stage of a plan takes.

    A pass is one sample forward and backward once, three times the work of a forward pass. A query
    run takes its epochs and a third more for the trace; a score what its method says; a trial its
    steps times the batch.
    """
    n = len(dataset.train)
    epochs = study.training.epochs
    passes = sum(score_method(run.method).passes(study.checkpoints) for run in plan.scores)
    steps = 0
    for run in plan.trials:
        kept = budget_for(n, run.trial.keep_fraction)
        length = training_length(study.budget, study.training, kept, n)
        steps += length.steps * min(study.training.batch_size, kept)
    return {
        "queries": len(plan.queries) * epochs * n * 4 // 3,
        "scores": passes * n,
        "trials": steps,
    }


def _trial_run(study: Study, trial: TrialConfig, fingerprint: str) -> TrialRun:
    score = None
    if trial.method != "none":
        score = score_run(study, fingerprint, trial.method, trial.seed)
    recalls = None
    if quota_rule(trial.quotas).needs_recalls:
        recalls = query_run(study, fingerprint, trial.seed)
    base = study.base(fingerprint)
    # A trial depends on these through its scores and quotas alone; what it does not read must not
    # change its identity.
    for unread in ("checkpoints", "score_epoch_fraction"):
        del base[unread]
    config = {
        "kind": "trial",
        **base,
        "trial": trial.as_dict(),
        "scores": score.key if score else None,
        "recalls": recalls.key if recalls else None,
    }
    return TrialRun(trial, score, recalls, config)


def _scores(trials: Iterable[TrialRun]) -> tuple[ScoreRun, ...]:
    return tuple({t.score.key: t.score for t in trials if t.score is not None}.values())


def _queries(trials: Iterable[TrialRun], scores: Iterable[ScoreRun]) -> tuple[QueryRun, ...]:
    needed = [s.query for s in scores] + [t.recalls for t in trials]
    return tuple({q.key: q for q in needed if q is not None}.values())


def _check_names(trial: TrialConfig) -> None:
    if trial.method != "none":
        score_method(trial.method)
    quota_rule(trial.quotas)
    loss_rule(trial.loss)


def _check_budget(study: Study, trial: TrialConfig, dataset: ImageDataset) -> None:
    if trial.quotas == "none":
        return
    budget = budget_for(len(dataset.train), trial.keep_fraction)
    least = study.minimum_per_class
    if trial.quotas == "balanced":
        least = max(least, 1)
    needed = sum(min(least, int(size)) for size in dataset.class_sizes())
    if budget < needed:
        raise ConfigError(
            f"Expected a budget of at least {needed} samples ({least} per class) for quotas "
            f"{trial.quotas!r}, found {budget} at keep_fraction {trial.keep_fraction}; "
            "keep more or lower minimum_per_class."
        )


def replace_dataset(study: Study, dataset: str | None, model: str | None) -> Study:
    """Return the study on other data or with another model, where given."""
    changes = {k: v for k, v in (("dataset", dataset), ("model", model)) if v is not None}
    return dataclasses.replace(study, **changes)  # type: ignore[arg-type]
