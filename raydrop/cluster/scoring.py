"""Stages 1 and 2 on a crew: query runs, then scores.

Nothing here imports Tune, which would cost every worker of these stages seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Console

from raydrop.cluster.crew import Crew, WorkContext, describe_query
from raydrop.cluster.deaths import WorkerDeaths
from raydrop.cluster.progress import failure_text, stage_progress
from raydrop.data.dataset import Split
from raydrop.errors import IncompleteStudyError, RaydropError
from raydrop.plan.runs import QueryRun, ScoreRun
from raydrop.plan.workload import query_samples, visited_samples
from raydrop.scores.sharding import ShardedGradients
from raydrop.stages.scoring import run_score
from raydrop.store import Store


@dataclass(frozen=True)
class Context(WorkContext):
    """What the driver has besides in every stage of a sweep."""

    store: Store
    train: Split
    """The training samples; their images are not read here."""
    console: Console
    deaths: WorkerDeaths = field(default_factory=WorkerDeaths)

    def of_workers(self) -> WorkContext:
        """Return what travels to workers."""
        return WorkContext(self.study, self.data, self.layout, self.place)


def run_queries(context: Context, queries: tuple[QueryRun, ...], crew: Crew) -> dict[str, str]:
    """Run what is missing of stage 1; return a sentence for each query run that failed, by key."""
    if not queries:
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
    crew: Crew,
) -> dict[str, str]:
    """Run what is missing of stage 2, by model; return a sentence for each failure, by key."""
    if not scores:
        return {}
    failed = {
        run.key: failed_queries[query.key]
        for run in scores
        for query in reversed(run.queries)
        if query.key in failed_queries
    }
    models = list(dict.fromkeys(run.model for run in scores))
    waiting = [run for run in scores if run.key not in failed]
    waiting.sort(key=lambda run: models.index(run.model))
    # On a GPU, if the workers are and this process sees one itself.
    device = context.layout.device if torch.cuda.is_available() else "cpu"
    work = _work(context, waiting)
    with stage_progress(context.console, "scores", len(waiting), work or None) as progress:
        while waiting:
            run = waiting[0]
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
