"""Stages 1 and 2 on Ray: query runs as tasks, scores on a pool of actors.

Nothing here imports Tune, which would cost every worker of these stages seconds.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console

from raydrop.cluster.pool import RayExecutor
from raydrop.cluster.progress import stage_progress
from raydrop.cluster.resources import Layout
from raydrop.errors import RaydropError
from raydrop.plan import QueryRun, ScoreRun
from raydrop.scores import score_method
from raydrop.scores.sharding import ShardedGradients
from raydrop.stages import run_query, run_score
from raydrop.store import Store
from raydrop.study import Study

WORKER_DEATHS = 3
"""Times that a task or trial is tried again after its process died."""


@dataclass(frozen=True)
class Context:
    """What every stage of a sweep works with."""

    study: Study
    store: Store
    data: Any
    """Object reference of the :class:`raydrop.data.batches.PreparedData`."""
    n: int
    """Training samples."""
    layout: Layout
    console: Console


def run_queries(context: Context, queries: tuple[QueryRun, ...]) -> dict[str, str]:
    """Run what is missing of stage 1.

    Returns:
        A sentence for each query run that failed, by its key.
    """
    if not queries:
        return {}
    layout = context.layout
    task = ray.remote(_query_task).options(**layout.ray_options(), max_retries=WORKER_DEATHS)
    owners = {
        task.remote(context.study, run, context.data, context.store.root, layout): run
        for run in queries
    }
    failed: dict[str, str] = {}
    with stage_progress(context.console, "query runs", len(queries)) as progress:
        while owners:
            (done,), _ = ray.wait(list(owners), num_returns=1)
            run = owners.pop(done)
            message = _message_of(done)
            if message is not None:
                failed[run.key] = message
            progress.advance(f"seed {run.seed}" + (" failed" if message else ""))
    return failed


def run_scores(
    context: Context, scores: tuple[ScoreRun, ...], lost: Mapping[str, str]
) -> dict[str, str]:
    """Run what is missing of stage 2.

    The actors end with this stage, so their resources are free before trials start.

    Args:
        context: Of the sweep.
        scores: What is missing.
        lost: Query runs that failed, with their sentences.

    Returns:
        A sentence for each score that could not be computed, by its key.
    """
    if not scores:
        return {}
    failed = {run.key: lost[run.query.key] for run in scores if run.query and run.query.key in lost}
    todo = [run for run in scores if run.key not in failed]
    executor = None
    if any(score_method(run.method).needs_gradients for run in todo):
        executor = RayExecutor(context.data, context.study.model, context.layout)
    gradients = ShardedGradients(executor, context.n) if executor else None
    try:
        with stage_progress(context.console, "scores", len(todo)) as progress:
            for run in todo:
                try:
                    run_score(run, context.n, context.store, gradients)
                except RaydropError as error:
                    failed[run.key] = str(error)
                progress.advance(f"{run.method}, seed {run.seed}")
    finally:
        if executor is not None:
            executor.close()
    return failed


def attempt(work: Callable[[], None]) -> str | None:
    """Do something; return None, or a sentence on why it could not be done."""
    try:
        work()
    except RaydropError as error:
        return str(error)
    except Exception as error:
        # Not a user's mistake: whoever looks into the failure needs the place too.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return None


def _query_task(study: Study, run: QueryRun, data: Any, root: Path, layout: Layout) -> str | None:
    """Run one query run in its own process; return a sentence if it failed."""
    torch.set_num_threads(layout.cpus)
    return attempt(lambda: run_query(study, run, data, Store(root), layout.device))


def _message_of(reference: Any) -> str | None:
    """Return what a query task said, or why its process died."""
    try:
        message: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return message
