"""Stage 3 on Ray: all trials that are missing, under one Tuner, and one more for networks.

Trials that prune a network start from the weights of those that trained it, so they come after.
Tune starts processes of its own, each of which serves one trial after the other.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raydrop.cluster.crew import WorkContext, attempt, prepare_process
from raydrop.cluster.deaths import RETRIES, WorkerDeaths
from raydrop.cluster.layout import Layout, NodeWatch
from raydrop.cluster.progress import StageProgress, failure_text, stage_progress
from raydrop.cluster.scoring import Context
from raydrop.errors import ConfigError, RaydropError, StoreError
from raydrop.plan.runs import TrialRun
from raydrop.stages.logs import describe_trial, work_log
from raydrop.stages.networks import run_network_trial
from raydrop.stages.trials import run_trial
from raydrop.store import Place, Store
from raydrop.study import config_hash

TUNE = "tune"
"""Folder of a study's place in which Tune keeps its own files while it runs."""

_UNWRITTEN = "unwritten"
"""What a trial reports under this name is why nothing could be written."""


def run_trials(
    context: Context,
    trials: tuple[TrialRun, ...],
    failed: Mapping[str, str],
    callbacks: Sequence[tune.Callback] = (),
) -> None:
    """Run what is missing of stage 3: trials that train a network, then those that prune one.

    A trial leaves its record, or the reason why it failed, before it is reported to Tune; neither
    is ever read back from Tune, whose own files are removed when all is well. ``failed`` has a
    sentence for each query run and score that failed.
    """
    errors: list[int] = []
    for name, chosen in (
        ("trials", [run for run in trials if run.dense is None]),
        ("networks", [run for run in trials if run.dense is not None]),
    ):
        ready = _ready(context.store, chosen, failed)
        if ready:
            errors.append(_tune(name, context, ready, callbacks))
    if errors and not any(errors):
        place = context.store.place
        if place.remote is not None:
            place.remote.remove_tree(TUNE)
        shutil.rmtree(place.folder / TUNE, ignore_errors=True)


def _ready(
    store: Store, trials: Sequence[TrialRun], failed: Mapping[str, str]
) -> dict[str, TrialRun]:
    """Return the trials by key of which all is there; the others have failed, and for what."""
    ready: dict[str, TrialRun] = {}
    # Once for each dense network: its weights are read whole, and many trials share them.
    dense = {run.dense.key: run.dense for run in trials if run.dense is not None}
    without = {key: _lost_network(store, run) for key, run in dense.items()}
    for run in trials:
        store.remove("failure", run.key)
        missing = without[run.dense.key] if run.dense else None
        reason = _failed_input(run, failed) or missing
        if reason is None:
            ready[run.key] = run
        else:
            _record_failure(store, run, reason)
    return ready


def _failed_input(run: TrialRun, failed: Mapping[str, str]) -> str | None:
    """Return why a query run or score that a trial needs is not there, or None."""
    needed = (each for each in (run.score, run.quota_scores, run.recalls) if each is not None)
    return next((failed[each.key] for each in needed if each.key in failed), None)


def _lost_network(store: Store, dense: TrialRun) -> str | None:
    """Return why the weights of a dense trial are not there, or None."""
    if store.read("weights", dense.weights_key) is not None:
        return None
    failure = store.read("failure", dense.key)
    reason = failure.info["message"] if failure else "it left no weights; run the same study again."
    return f"The dense network that it prunes is not there: {reason}"


def _record_failure(store: Store, run: TrialRun, message: str) -> None:
    store.remove("failure", run.key)
    store.write("failure", run.config, {"trial": run.trial.as_dict(), "message": message})


def _tune(
    name: str,
    context: Context,
    ready: Mapping[str, TrialRun],
    callbacks: Sequence[tune.Callback],
) -> int:
    """Run trials under one Tuner; return how many were given up because their process died."""
    layout, store = context.layout, context.store
    guard = _Guard(NodeWatch(layout), name, context.deaths)
    with stage_progress(context.console, name, len(ready)) as progress:
        trainable = tune.with_parameters(_trial_task, context=context.of_workers(), runs=ready)
        told = [guard, _Advance(progress, ready), *callbacks]
        with _in_a_sentence(guard, store):
            grid = make_tuner(trainable, list(ready), layout, name, store.place, told).fit()
    for result in grid:
        if result.error is not None and result.config is not None:
            run = ready[result.config["trial_id"]]
            _record_failure(store, run, _last_line(str(result.error)))
    return int(grid.num_errors)


def make_tuner(
    trainable: Callable[..., None],
    trial_ids: Sequence[str],
    layout: Layout,
    name: str,
    place: Place,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.Tuner:
    """Return what runs a trainable once for each trial id, with the settings of every sweep.

    The trainable is given ``{"trial_id": ...}``, and reports once. Tune's own files go to a folder
    of this name in :data:`TUNE` of the place of results.
    """
    there = place.remote
    storage: dict[str, Any] = {"storage_path": str((place.folder / TUNE).resolve())}
    if there is not None:
        storage = {"storage_path": there.path(TUNE), "storage_filesystem": there.filesystem}
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": layout.cpus, "gpu": layout.gpus}),
        param_space={"trial_id": tune.grid_search(list(trial_ids))},
        # Actors are reused, because a short trial would pay for importing torch otherwise;
        # everything is seeded from the trial's config, so nothing passes from one to the next.
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name=name,
            **storage,
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # that for notebooks clears what they show
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=list(callbacks),
        ),
    )


@contextlib.contextmanager
def _in_a_sentence(guard: _Guard, store: Store) -> Iterator[None]:
    """Have Tune tell of failures through the guard, or as what a full disk is to a study."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # a traceback for every process that died
    try:
        yield
    except Exception:
        # Files of Tune's own that were cut short fail in ways that do not say why.
        reason = guard.error or _unwritable(store)
        if reason is None:
            raise
        raise reason from None
    finally:
        logger.setLevel(level)


def _unwritable(store: Store) -> StoreError | None:
    """Return why nothing can be written where results go, or None."""
    try:
        # For which there is room, unless the place is full.
        store.write("probe", {"kind": "probe"}, {"room": "x" * 2**16})
    except StoreError as error:
        return error
    store.remove("probe", config_hash({"kind": "probe"}))
    return None


class _Unsaved(tune.Callback):
    """A callback that leaves itself out of the copy that Tuner keeps on disk and never reads."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Guard(_Unsaved):
    """Counts trials whose process died, and ends a sweep that cannot go on.

    That is one without a place to run, or without a place to write to.
    """

    def __init__(self, watch: NodeWatch, stage: str, deaths: WorkerDeaths) -> None:
        self._watch, self._stage, self._deaths = watch, stage, deaths
        self.error: RaydropError | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        try:
            self._watch.check()
        except ConfigError as error:
            self.error = error
        if self.error is not None:
            raise self.error

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if _UNWRITTEN in result:  # not even why it failed
            self.error = StoreError(result[_UNWRITTEN])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._deaths.note(self._stage, trial.config["trial_id"])

    # The death of a trial that is given up.
    on_trial_error = on_trial_recover


class _Advance(_Unsaved):
    """Tells the progress of every trial that Tune has ended."""

    def __init__(self, progress: StageProgress, runs: Mapping[str, TrialRun]) -> None:
        self._progress, self._runs = progress, runs
        self._failed = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        if _UNWRITTEN in result:
            return  # the guard ends the sweep and says why
        if "failed" in result:
            self._end_failed(trial, result["failed"])
        elif "seconds" in result:  # otherwise it was stopped before its end
            average, worst = result["average_accuracy"], result["worst_class_accuracy"]
            seconds = f"{result['seconds']:.{0 if result['seconds'] >= 10 else 1}f} s"
            self._end(trial, f": average {average:.2f}, worst {worst:.2f}, {seconds}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = ""
        with contextlib.suppress(OSError, TypeError):  # Tune may have had no place to write it
            text = Path(trial.error_file).read_text(errors="replace")
        self._end_failed(trial, _last_line(text))

    def _end_failed(self, trial: Any, message: str) -> None:
        self._failed += 1
        self._end(trial, failure_text(message, "trials", trial.config["trial_id"]))

    def _end(self, trial: Any, text: str) -> None:
        run = self._runs[trial.config["trial_id"]]
        self._progress.say(f"  trial {run.key[:8]}  {describe_trial(run.trial)}{text}")
        self._progress.advance(f"{self._failed} failed" if self._failed else "")


def _last_line(text: str) -> str:
    """Return the last line of what Tune says of a trial whose process died."""
    return (text.strip().splitlines() or ["its process died"])[-1]


def _trial_task(config: dict[str, Any], context: WorkContext, runs: Mapping[str, TrialRun]) -> None:
    """Run one trial in its own process, and report it to Tune."""
    prepare_process(context.layout)
    try:
        store = context.place.open()
    except RaydropError as error:
        tune.report({"failed": str(error), _UNWRITTEN: str(error)})
    else:
        tune.report(_outcome(context, runs[config["trial_id"]], store))


def _outcome(context: WorkContext, run: TrialRun, store: Store) -> dict[str, Any]:
    """Run one trial; return what it reports: its accuracies, or why it failed."""
    outcome: dict[str, Any] = {}
    device = context.layout.device

    def work() -> None:
        what = describe_trial(run.trial)
        with work_log(store.place, "trials", run.key, what, device) as log:
            data = ray.get(context.data)
            run_it = run_trial if run.dense is None else run_network_trial
            outcome.update(run_it(context.study, run, data, store, device))
            average, worst = outcome["average_accuracy"], outcome["worst_class_accuracy"]
            log.found = f"average {average:.4f}, worst {worst:.4f}"

    message = attempt(work)
    if message is None:
        return outcome
    failed = {"failed": message}
    try:
        _record_failure(store, run, message)
    except StoreError as error:
        failed[_UNWRITTEN] = str(error)
    return failed
