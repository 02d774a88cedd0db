"""Stages 1 and 2 on Ray: query runs as tasks, scores on a pool of actors for each query model.

Nothing here imports Tune, which would cost every worker of these stages seconds.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from raydrop.cluster.losses import Losses
from raydrop.cluster.nodes import Watch, wait_for_any
from raydrop.cluster.pool import DEATHS, RayExecutor
from raydrop.cluster.progress import StageProgress, quoted, stage_progress
from raydrop.cluster.resources import Layout
from raydrop.cluster.visibility import Place
from raydrop.cluster.worker import prepare_process
from raydrop.data.dataset import Split
from raydrop.errors import RaydropError, in_one_line
from raydrop.frontier.terminal import Console
from raydrop.plan.runs import QueryRun, ScoreRun
from raydrop.plan.workload import query_samples, visited_samples
from raydrop.scores import CheckpointMethod, score_method
from raydrop.scores.sharding import ShardedGradients
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.logs import Kind, failure_sentence, work_log
from raydrop.store import Store
from raydrop.study import Study

WORKER_DEATHS = 3
"""Times that a query run or trial is tried again after its process died."""


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
    marker: str = ""
    """What the driver left in the store for others to look for; see :class:`Place`."""
    losses: Losses = field(default_factory=Losses)
    """Counts worker processes that died."""

    @property
    def place(self) -> Place:
        """What tasks open the store with."""
        return Place(self.store.location, self.marker)


def run_queries(context: Context, queries: tuple[QueryRun, ...]) -> dict[str, str]:
    """Run what is missing of stage 1; surrogates and further initialisations are tasks like others.

    Returns:
        A sentence for each query run that failed, by its key.
    """
    if not queries:
        return {}
    layout = context.layout
    # Tried again below rather than by Ray, which would not say so.
    task = ray.remote(_query_task).options(**layout.ray_options(), max_retries=0)

    def submit(run: QueryRun) -> Any:
        return task.remote(context.study, run, context.data, context.place, layout)

    owners = {submit(run): run for run in queries}
    deaths: Counter[str] = Counter()
    watch = Watch(layout)
    work = {run.key: query_samples(context.study, run, len(context.train)) for run in queries}
    failed: dict[str, str] = {}
    with stage_progress(
        context.console, "query runs", len(queries), sum(work.values())
    ) as progress:
        while owners:
            done = wait_for_any(list(owners), watch)
            run = owners.pop(done)
            message, died = _message_of(done)
            if died:
                context.losses.note("query runs", describe_query(run))
                deaths[run.key] += 1
                if deaths[run.key] <= WORKER_DEATHS:
                    owners[submit(run)] = run
                    continue
            if message is not None:
                failed[run.key] = message
                what = f"  query run {run.key[:8]}  {describe_query(run)}"
                progress.say(what + failure_text(message, "query_runs", run.key))
            progress.advance(describe_query(run) + (" failed" if message else ""), work[run.key])
    return failed


def run_scores(
    context: Context, scores: tuple[ScoreRun, ...], lost: Mapping[str, str]
) -> dict[str, str]:
    """Run what is missing of stage 2.

    Gradients and embeddings need a pool of actors for each query model; one ends before the next
    starts, and the last before this returns, so their resources are free again.

    Args:
        context: Of the sweep.
        scores: What is missing.
        lost: Query runs that failed, with their sentences.

    Returns:
        A sentence for each score that could not be computed, by its key.
    """
    if not scores:
        return {}
    failed = {run.key: reason for run in scores if (reason := _lost_query(run, lost))}
    waiting = [run for run in scores if run.key not in failed]
    work = _work(context, waiting)
    with stage_progress(context.console, "scores", len(waiting), work or None) as progress:
        for model, runs in _by_pool(waiting).items():
            with _gradients(context, model, progress) as gradients:
                for run in runs:
                    try:
                        run_score(
                            context.study,
                            run,
                            context.train,
                            context.store,
                            gradients,
                            _driver_device(context.layout),
                        )
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


def _by_pool(scores: list[ScoreRun]) -> dict[str | None, list[ScoreRun]]:
    """Return scores by the architecture that they need a pool of, or None."""
    pools: dict[str | None, list[ScoreRun]] = {}
    for run in scores:
        needed = isinstance(score_method(run.method), CheckpointMethod)
        pools.setdefault(run.model if needed else None, []).append(run)
    return pools


@contextlib.contextmanager
def _gradients(
    context: Context, model: str | None, progress: StageProgress
) -> Iterator[ShardedGradients | None]:
    """Give gradients of an architecture, from a pool of actors that ends with the context."""
    if model is None:
        yield None
        return
    executor = RayExecutor(
        context.data,
        model,
        context.layout,
        precision=context.study.score_precision,
        on_death=lambda: context.losses.note("scores", model),
    )
    try:
        yield ShardedGradients(executor, context.train.ids, progress.worked)
    finally:
        executor.close()


def _driver_device(layout: Layout) -> str:
    """Return where this process works: on a GPU, if the workers do and it sees one itself."""
    return layout.device if torch.cuda.is_available() else "cpu"


def describe_query(run: QueryRun) -> str:
    """Say in a few words which query run it is."""
    kind = ""
    if run.partition is not None:
        kind = f", part {run.partition[0] + 1} of {run.partition[1]}"
    elif run.initialisation:
        kind = f", initialisation {run.initialisation + 1}"
    return f"{run.model}, seed {run.seed}{kind}"


def _lost_query(run: ScoreRun, lost: Mapping[str, str]) -> str | None:
    return next((lost[query.key] for query in run.queries if query.key in lost), None)


def attempt(work: Callable[[], None]) -> str | None:
    """Do something; return None, or a sentence on why it could not be done."""
    try:
        work()
    except Exception as error:
        return failure_sentence(error)
    return None


def failure_text(message: str, kind: Kind, key: str) -> str:
    """Say that something failed, why, and where its log is, to go on with in a line."""
    return f" failed: {quoted(message)} (log: logs/{kind}/{key[:8]}*.log)"


def _query_task(study: Study, run: QueryRun, data: Any, place: Place, layout: Layout) -> str | None:
    """Run one query run in its own process; return a sentence if it failed."""
    prepare_process(layout)

    def work() -> None:
        store, device = place.open(), layout.device
        with work_log(store.place, "query_runs", run.key, describe_query(run), device):
            run_query(study, run, data, store, device)

    return attempt(work)


def _message_of(reference: Any) -> tuple[str | None, bool]:
    """Return what a query task said, or why it ended, and whether its process died."""
    try:
        message: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return in_one_line(error), isinstance(error, DEATHS)
    return message, False
