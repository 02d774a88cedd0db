"""Stages 1 and 2 on a crew: query runs, then scores.

Nothing here imports Tune, which would cost every worker of these stages seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from raydrop.cluster.crew import Crew, describe_query
from raydrop.cluster.deaths import WorkerDeaths
from raydrop.cluster.layout import Layout
from raydrop.cluster.progress import failure_text, stage_progress
from raydrop.cluster.shared_store import SharedStore
from raydrop.data.dataset import Split
from raydrop.errors import IncompleteStudyError, RaydropError
from raydrop.plan import Plan
from raydrop.plan.runs import QueryRun, ScoreRun
from raydrop.plan.workload import query_samples, visited_samples
from raydrop.scores import CheckpointMethod, score_method
from raydrop.scores.sharding import ShardedGradients
from raydrop.stages.scoring import run_score
from raydrop.store import Store
from raydrop.study import Study


@dataclass(frozen=True)
class Context:
    """What every stage of a sweep works with."""

    study: Study
    store: Store
    data: Any
    """Object reference of the :class:`raydrop.data.batches.PreparedData`."""
    train: Split
    """The training samples; their images are not read here."""
    layout: Layout
    console: Console
    place: SharedStore
    """What workers open the store with."""
    deaths: WorkerDeaths = field(default_factory=WorkerDeaths)


def needs_crew(plan: Plan) -> bool:
    """Return whether query runs, gradients or embeddings are to be computed."""
    return bool(plan.queries) or any(_reads_checkpoints(run) for run in plan.scores)


def _reads_checkpoints(run: ScoreRun) -> bool:
    return isinstance(score_method(run.method), CheckpointMethod)


def run_queries(
    context: Context, queries: tuple[QueryRun, ...], crew: Crew | None
) -> dict[str, str]:
    """Run what is missing of stage 1; return a sentence for each query run that failed, by key."""
    if not queries or crew is None:
        return {}
    study, console = context.study, context.console
    work = {run.key: query_samples(study, run, len(context.train)) for run in queries}
    failed: dict[str, str] = {}
    with stage_progress(console, "query runs", len(queries), sum(work.values())) as progress:
        for run, message in crew.query_runs(queries):
            if message is not None:
                failed[run.key] = message
                what = f"  query run {run.key[:8]}  {describe_query(run)}"
                progress.say(what + failure_text(message, "query_runs", run.key))
            progress.advance(describe_query(run) + (" failed" if message else ""), work[run.key])
    return failed


def run_scores(
    context: Context,
    scores: tuple[ScoreRun, ...],
    failed_queries: Mapping[str, str],
    crew: Crew | None,
) -> dict[str, str]:
    """Run what is missing of stage 2, one query model after the other.

    Args:
        context: Of the sweep.
        scores: What is missing.
        failed_queries: Query runs that failed, with their sentences.
        crew: Computes gradients and embeddings; None where no score needs any.

    Returns:
        A sentence for each score that could not be computed, by its key.
    """
    if not scores:
        return {}
    failed: dict[str, str] = {}
    for run in scores:
        if reasons := [failed_queries[q.key] for q in run.queries if q.key in failed_queries]:
            failed[run.key] = reasons[0]
    models = list(dict.fromkeys(run.model for run in scores))
    waiting = sorted(
        (run for run in scores if run.key not in failed),
        key=lambda run: models.index(run.model) if _reads_checkpoints(run) else -1,
    )
    # On a GPU, if the workers are and this process sees one itself.
    device = context.layout.device if torch.cuda.is_available() else "cpu"
    work = _work(context, waiting)
    with stage_progress(context.console, "scores", len(waiting), work or None) as progress:
        while waiting:
            run = waiting[0]
            gradients = None
            if crew is not None and _reads_checkpoints(run):
                executor = crew.executor(run.model, context.study.score_precision)
                gradients = ShardedGradients(executor, context.train.ids, progress.worked)
            try:
                run_score(context.study, run, context.train, context.store, gradients, device)
            except IncompleteStudyError:
                raise
            except RaydropError as error:
                failed[run.key] = str(error)
            waiting.remove(run)
            if work:
                # What it shared with others, or left undone, is no longer expected of it.
                progress.expect(_work(context, waiting))
            note = f"{run.method} of {run.model}, seed {run.seed}"
            progress.advance(note, work=0 if work else 1)
    return failed


def _work(context: Context, scores: list[ScoreRun]) -> int:
    """Return the work of some scores: samples put through a network; all else takes no time."""
    return visited_samples(context.study, scores, len(context.train), context.store)
