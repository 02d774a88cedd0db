"""Stages 1 to 3 on Ray: query runs as tasks, scores on a pool of actors, trials under Tune."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from rich.console import Console

from raydrop.cluster.pool import RayExecutor
from raydrop.cluster.progress import StageProgress, stage_progress
from raydrop.cluster.resources import Layout
from raydrop.errors import RaydropError
from raydrop.plan import Plan, QueryRun, ScoreRun, TrialRun
from raydrop.scores import score_method
from raydrop.scores.sharding import ShardedGradients
from raydrop.stages import run_query, run_score, run_trial
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


@dataclass(frozen=True)
class TrialContext:
    """What a trial's process works with; travels once."""

    study: Study
    root: Path
    data: Any
    layout: Layout
    runs: Mapping[str, TrialRun]


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


def run_trials(
    context: Context, trials: tuple[TrialRun, ...], lost: Mapping[str, str], work: Path
) -> None:
    """Run what is missing of stage 3 under one Tuner.

    A trial leaves its record, or the reason why it failed, before it is reported to Tune; neither
    is ever read back from Tune.

    Args:
        context: Of the sweep.
        trials: What is missing.
        lost: Query runs and scores that failed, with their sentences.
        work: Folder for Tune's own files, removed when all is well.
    """
    ready: dict[str, TrialRun] = {}
    for run in trials:
        context.store.remove("failure", run.key)
        reason = _lost_input(run, lost)
        if reason is None:
            ready[run.key] = run
        else:
            _record_failure(context.store, run, reason)
    if not ready:
        return
    layout = context.layout
    shared = TrialContext(context.study, context.store.root, context.data, layout, ready)
    with stage_progress(context.console, "trials", len(ready)) as progress:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trial_task, context=shared),
                {"cpu": layout.cpus, "gpu": layout.gpus},
            ),
            param_space={"trial_id": tune.grid_search(list(ready))},
            # Actors are reused, because a short trial would pay for importing torch otherwise;
            # everything is seeded from the trial's config, so nothing passes from one to the next.
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(work.resolve()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
                callbacks=[_Advance(progress, ready)],
            ),
        )
        grid = tuner.fit()
    for result in grid:
        if result.error is not None and result.config is not None:
            run = ready[result.config["trial_id"]]
            lines = str(result.error).strip().splitlines()
            _record_failure(context.store, run, lines[-1] if lines else "its process died")
    if grid.num_errors == 0:
        shutil.rmtree(work, ignore_errors=True)


def run_missing(context: Context, missing: Plan, work: Path) -> dict[str, str]:
    """Run everything that a plan lacks, stage by stage.

    Returns:
        A sentence for each query run and score that failed, by its key; a trial that failed has a
        record of kind ``failure`` in the store.
    """
    lost = run_queries(context, missing.queries)
    lost |= run_scores(context, missing.scores, lost)
    run_trials(context, missing.trials, lost, work)
    return lost


class _Advance(tune.Callback):
    """Tells the progress of every trial that Tune has ended."""

    def __init__(self, progress: StageProgress, runs: Mapping[str, TrialRun]) -> None:
        self._progress, self._runs = progress, runs

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal out of the copy of itself that Tuner keeps on disk and never reads."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that reported."""
        result, config = trial.last_result, self._runs[trial.config["trial_id"]].trial
        name = f"{config.method} + {config.quotas} at {config.keep_fraction:g}"
        if "failed" in result:
            self._progress.advance(f"{name} failed")
        else:
            self._progress.advance(f"{name}: worst {result['worst_class_accuracy']:.2f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial whose process died too often."""
        self._progress.advance("a trial's process died")


def _query_task(study: Study, run: QueryRun, data: Any, root: Path, layout: Layout) -> str | None:
    """Run one query run in its own process; return a sentence if it failed."""
    torch.set_num_threads(layout.cpus)
    return _attempt(lambda: run_query(study, run, data, Store(root), layout.device))


def _trial_task(config: dict[str, Any], context: TrialContext) -> None:
    """Run one trial in its own process, and report it to Tune."""
    torch.set_num_threads(context.layout.cpus)
    run, store = context.runs[config["trial_id"]], Store(context.root)
    outcome: dict[str, Any] = {}

    def work() -> None:
        data = ray.get(context.data)
        outcome.update(run_trial(context.study, run, data, store, context.layout.device))

    message = _attempt(work)
    if message is not None:
        _record_failure(store, run, message)
        outcome = {"failed": True}
    tune.report(outcome)


def _attempt(work: Callable[[], None]) -> str | None:
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


def _message_of(reference: Any) -> str | None:
    """Return what a query task said, or why its process died."""
    try:
        message: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return message


def _lost_input(run: TrialRun, lost: Mapping[str, str]) -> str | None:
    for needed in (run.score, run.recalls):
        if needed is not None and needed.key in lost:
            return lost[needed.key]
    return None


def _record_failure(store: Store, run: TrialRun, message: str) -> None:
    store.remove("failure", run.key)
    store.write("failure", run.config, {"trial": run.trial.as_dict(), "message": message})
