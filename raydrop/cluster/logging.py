"""Where a sweep's progress can be followed besides the terminal: TensorBoard, MLflow, W&B.

After each finished trial its accuracies are logged, and the front as it stands. Ray Tune's own
integrations log one curve per trial over its steps; a trial of ours reports once, and what grows is
the study. So finished trials are counted as steps. The store remains the record: whatever a logger
does wrong costs no trial.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray.tune.logger import LoggerCallback
from rich.console import Console

from raydrop.errors import ConfigError, in_one_line, unknown_name
from raydrop.frontier.statistics.fronts import hypervolume
from raydrop.frontier.table import AVERAGE, WORST
from raydrop.frontier.watch import GrowingFront, Watcher, best_worst
from raydrop.plan.runs import TrialRun
from raydrop.store import Place
from raydrop.study import Study

PROJECT = "raydrop"
"""Experiment of MLflow and project of W&B that runs are put into."""

Metrics = Mapping[str, float]

Log = Callable[[int, Metrics, Mapping[str, Any], Metrics], None]
"""Logs how many trials are finished, the front as it is then, and the last one's configuration and
accuracies, where it is new."""

Opened = contextlib.AbstractContextManager[tuple[str, Log]]
"""Where to look, for the user, and what logs; leaving it writes what is pending."""


@contextlib.contextmanager
def tensorboard_log(study: Study, place: Place) -> Iterator[tuple[str, Log]]:  # noqa: ARG001
    """Write scalars of the study to ``OUT/tensorboard``, and a run with hyperparameters per trial.

    A second run of the study goes on in the same folder.
    """
    from tensorboardX import SummaryWriter

    folder = place.folder / "tensorboard"
    writer = SummaryWriter(logdir=str(folder))

    def log(step: int, front: Metrics, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        for name, value in {**_of_trial(accuracies), **front}.items():
            writer.add_scalar(name, value, step)
        if trial:
            run = f"trials/{trial_name(trial)}"
            writer.add_hparams(dict(trial), dict(accuracies), run, global_step=step)
        writer.flush()

    yield f"tensorboard --logdir {folder}", log
    writer.close()
    place.upload("tensorboard")


@contextlib.contextmanager
def mlflow_log(study: Study, place: Place) -> Iterator[tuple[str, Log]]:
    """Log a run for the study, with the front over steps, and a nested run for each trial.

    They are where ``MLFLOW_TRACKING_URI`` or MLflow's own default says.
    """
    import mlflow

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(PROJECT)
    experiment = client.create_experiment(PROJECT) if found is None else found.experiment_id

    def begin(name: str, tags: dict[str, str], parameters: Mapping[str, Any]) -> str:
        run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        for key, value in parameters.items():
            client.log_param(run, key, value)
        return str(run)

    def add(run: str, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            client.log_metric(run, name, value, step=step)

    whole = begin(study.name, {"raydrop.out": place.called()}, _facts(study))

    def log(step: int, front: Metrics, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        if trial:
            run = begin(trial_name(trial), {"mlflow.parentRunId": whole}, trial)
            add(run, step, accuracies)
            client.set_terminated(run)
        add(whole, step, {**_of_trial(accuracies), **front})

    yield f"MLflow at {mlflow.get_tracking_uri()}, experiment {PROJECT}", log
    client.set_terminated(whole)


@contextlib.contextmanager
def wandb_log(study: Study, place: Place) -> Iterator[tuple[str, Log]]:
    """Log a run of W&B, with a row of history per trial; its files go to ``OUT/wandb``."""
    import wandb

    place.folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(study)
    run = wandb.init(project=PROJECT, name=study.name, dir=str(place.folder), config=facts)

    def log(step: int, front: Metrics, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        run.log({**_of_trial({**trial, **accuracies}), **front}, step=step)

    yield f"wandb sync {Path(run.dir).parent}" if run.offline else str(run.url), log
    run.finish()


def _of_trial(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"trial/{name}": value for name, value in values.items()}


LOGGERS: dict[str, tuple[str, Callable[[Study, Place], Opened]]] = {
    "tensorboard": ("tensorboardX", tensorboard_log),
    "mlflow": ("mlflow", mlflow_log),
    "wandb": ("wandb", wandb_log),
}
"""Loggers, by the name of their extra: the package that each writes with, and what opens it."""


class FrontCallback(LoggerCallback):
    """Logs every trial that Tune has ended, and the front with it."""

    def __init__(
        self, log: Log, front: GrowingFront, runs: Mapping[str, TrialRun], console: Console
    ) -> None:
        """Log the front that earlier runs of the study have left; its trials are given by id."""
        self._log, self._front, self._runs, self._console = log, front, runs, console
        self._failed = False
        if front.finished:
            self._add({}, {})

    def __getstate__(self) -> dict[str, Any]:
        """Leave connections out of the copy of itself that Tuner keeps on disk and never reads."""
        return {}

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Log a trial that left a record."""
        result = trial.last_result
        if failed or AVERAGE not in result:
            return
        config = self._runs[trial.config["trial_id"]].trial.as_dict()
        average, worst = result[AVERAGE], result["worst_class_accuracy"]
        self._front.add(config, average, worst)
        self._add(config, {AVERAGE: average, f"worst_{self._front.by}_accuracy": worst})

    def _add(self, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        front = self._front
        self.carefully(lambda: self._log(front.finished, front_metrics(front), trial, accuracies))

    def carefully(self, action: Callable[[], None]) -> None:
        """Log, or say once that it failed and leave it at that: a trial is worth more."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            self._console.print(f"Logging stops, the sweep goes on: {in_one_line(error)}")


def check_logger(name: str) -> None:
    """Refuse a logger that does not exist or is not installed with a ConfigError."""
    if name not in LOGGERS:
        raise unknown_name("value of --log", name, LOGGERS)
    package, _ = LOGGERS[name]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"Expected the package {package} for --log {name}, found it is not installed; "
            f"install it with pip install 'raydrop[{name}]', or leave out --log."
        )


@contextlib.contextmanager
def front_logging(
    name: str, study: Study, place: Place, runs: Mapping[str, TrialRun], console: Console
) -> Iterator[tuple[LoggerCallback, ...]]:
    """Give Tune's callbacks for a logger of a study with these trials by id, and close it then.

    A logger that cannot be opened is refused with a ConfigError.
    """
    opened = contextlib.ExitStack()
    try:
        where, log = opened.enter_context(LOGGERS[name][1](study, place))
    except Exception as error:
        raise ConfigError(
            f"Expected {name} to open a log, found: {in_one_line(error)}; "
            "mend that, or leave out --log."
        ) from error
    console.print(f"Log: {where}")
    callback = FrontCallback(log, Watcher(place).front(), runs, console)
    try:
        yield (callback,)
    finally:
        callback.carefully(opened.close)


def front_metrics(front: GrowingFront) -> dict[str, float]:
    """Return a front of at least one finished trial as numbers that can be followed over time.

    ``best_worst_class/keep_0.2`` and so on (or ``best_worst_group``) is the highest mean worst-unit
    accuracy of any method at a keep fraction; ``front/hypervolume`` the share of the unit square of
    average and worst accuracy that the points dominate; ``front/points`` how many are on the Pareto
    front. After the slash comes the model, where there are several, and then, where networks are
    pruned, their target, such as ``flops_0.75``.
    """
    points, by = front.points(), front.by
    several = points["model"].nunique() > 1
    metrics: dict[str, float] = {}
    for (model, target), rows in points.groupby(["model", "network_target"]):
        prefix = f"{model}/" if several else ""
        # Without parentheses, which MLflow refuses in names.
        prefix += "" if target == "none" else f"{str(target).replace('(', '_').rstrip(')')}/"
        metrics[f"front/{prefix}hypervolume"] = hypervolume(rows[[AVERAGE, WORST]].to_numpy())
        metrics[f"front/{prefix}points"] = float(rows["on_front"].sum())
        for row in best_worst(rows).to_dict("records"):
            metrics[f"best_worst_{by}/{prefix}keep_{row['keep_fraction']:g}"] = row[WORST]
    return metrics


def trial_name(trial: Mapping[str, Any]) -> str:
    """Return a trial's name, such as ``random-drop-0.2-cross_entropy-small_cnn-seed0``."""
    names = ("method", "quotas", "keep_fraction", "loss", "model")
    parts = [f"{trial[name]:g}" if name == "keep_fraction" else trial[name] for name in names]
    if trial["query_model"] != trial["model"]:
        parts.append(f"from-{trial['query_model']}")
    if trial.get("network_method", "none") != "none":
        parts += [trial["network_method"], trial["network_target"]]
    return "-".join([*parts, f"seed{trial['seed']}"])


def _facts(study: Study) -> dict[str, Any]:
    return {name: getattr(study, name) for name in ("dataset", "model", "by", "budget")}
