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
from typing import Any, Protocol

from ray.tune.logger import LoggerCallback
from rich.console import Console

from raydrop.errors import ConfigError, in_one_line, unknown_name
from raydrop.frontier.statistics.fronts import hypervolume
from raydrop.frontier.table import AVERAGE, WORST
from raydrop.frontier.watch import GrowingFront, Watcher, best_worst
from raydrop.plan.runs import TrialRun
from raydrop.store import Place
from raydrop.study import Study

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""Loggers, by the name of their extra, and the package that each writes with."""

PROJECT = "raydrop"
"""Experiment of MLflow and project of W&B that runs are put into."""

Metrics = Mapping[str, float]


class Logger(Protocol):
    """Somewhere to log to; one object for one run of a study. Steps are finished trials."""

    place: str
    """Where to look, for the user."""

    def log_trial(self, step: int, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        """Log the trial that was finished last: its configuration, and metrics by name."""

    def log_front(self, step: int, metrics: Metrics) -> None:
        """Log the front as it is then."""

    def close(self) -> None:
        """Write what is pending, and end."""


class TensorBoardLogger(Logger):
    """Scalars of the study under ``OUT/tensorboard``, and a run with hyperparameters per trial.

    A second run of the study goes on in the same folder.
    """

    def __init__(self, study: Study, place: Place) -> None:  # noqa: ARG002
        from tensorboardX import SummaryWriter

        folder, self._results = place.folder / "tensorboard", place
        self.place = f"tensorboard --logdir {folder}"
        self._writer = SummaryWriter(logdir=str(folder))

    def log_trial(self, step: int, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        for name, value in accuracies.items():
            self._writer.add_scalar(f"trial/{name}", value, step)
        self._writer.add_hparams(
            dict(trial), dict(accuracies), f"trials/{trial_name(trial)}", global_step=step
        )

    def log_front(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        self._results.upload("tensorboard")


class MlflowLogger(Logger):
    """A run for the study, with the front over steps, and a nested run for each trial.

    They are where ``MLFLOW_TRACKING_URI`` or MLflow's own default says.
    """

    def __init__(self, study: Study, place: Place) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        new = found is None
        self._experiment = self._client.create_experiment(PROJECT) if new else found.experiment_id
        self._run = self._begin(study.name, {"raydrop.out": place.called()}, _facts(study))
        self.place = f"MLflow at {mlflow.get_tracking_uri()}, experiment {PROJECT}"

    def _begin(self, name: str, tags: dict[str, str], parameters: Mapping[str, Any]) -> str:
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        for key, value in parameters.items():
            self._client.log_param(run.info.run_id, key, value)
        return str(run.info.run_id)

    def log_trial(self, step: int, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        run = self._begin(trial_name(trial), {"mlflow.parentRunId": self._run}, trial)
        for name, value in accuracies.items():
            self._client.log_metric(run, name, value, step=step)
            self._client.log_metric(self._run, f"trial/{name}", value, step=step)
        self._client.set_terminated(run)

    def log_front(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandbLogger(Logger):
    """A W&B run for the study, with a row of history per trial; its files go to ``OUT/wandb``."""

    def __init__(self, study: Study, place: Place) -> None:
        import wandb

        place.folder.mkdir(parents=True, exist_ok=True)
        folder = str(place.folder)
        self._run = wandb.init(project=PROJECT, name=study.name, dir=folder, config=_facts(study))
        offline = f"wandb sync {Path(self._run.dir).parent}"
        self.place = offline if self._run.offline else str(self._run.url)

    def log_trial(self, step: int, trial: Mapping[str, Any], accuracies: Metrics) -> None:
        row = {f"trial/{name}": value for name, value in {**trial, **accuracies}.items()}
        self._run.log(row, step=step, commit=False)

    def log_front(self, step: int, metrics: Metrics) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[Study, Place], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}
"""How each logger is opened."""


class FrontCallback(LoggerCallback):
    """Tells a logger of every trial that Tune has ended, and of the front with it."""

    def __init__(
        self, logger: Logger, front: GrowingFront, runs: Mapping[str, TrialRun], console: Console
    ) -> None:
        """Log the front that earlier runs of the study have left; its trials are given by id."""
        self._logger, self._front, self._runs, self._console = logger, front, runs, console
        self._failed = False
        if front.finished:
            self._carefully(self._log_front)

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
        accuracies = {AVERAGE: average, f"worst_{self._front.by}_accuracy": worst}
        self._carefully(
            lambda: self._logger.log_trial(self._front.finished, config, accuracies),
            self._log_front,
        )

    def end(self) -> None:
        """Close the log."""
        self._carefully(self._logger.close)

    def _log_front(self) -> None:
        self._logger.log_front(self._front.finished, front_metrics(self._front))

    def _carefully(self, *actions: Callable[[], None]) -> None:
        """Log, or say once that it failed and leave it at that: a trial is worth more."""
        if self._failed:
            return
        try:
            for action in actions:
                action()
        except Exception as error:
            self._failed = True
            self._console.print(f"Logging stops, the sweep goes on: {in_one_line(error)}")


def check_logger(name: str) -> None:
    """Refuse a logger that does not exist or is not installed with a ConfigError."""
    if name not in PACKAGES:
        raise unknown_name("value of --log", name, PACKAGES)
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise ConfigError(
            f"Expected the package {PACKAGES[name]} for --log {name}, found it is not installed; "
            f"install it with pip install 'raydrop[{name}]', or leave out --log."
        )


@contextlib.contextmanager
def front_logging(
    name: str, study: Study, place: Place, runs: Mapping[str, TrialRun], console: Console
) -> Iterator[tuple[LoggerCallback, ...]]:
    """Give Tune's callbacks for a logger of a study with these trials by id, and close it then.

    A logger that cannot be opened is refused with a ConfigError.
    """
    try:
        logger = LOGGERS[name](study, place)
    except Exception as error:
        raise ConfigError(
            f"Expected {name} to open a log, found: {in_one_line(error)}; "
            "mend that, or leave out --log."
        ) from error
    console.print(f"Log: {logger.place}")
    callback = FrontCallback(logger, Watcher(place).front(), runs, console)
    try:
        yield (callback,)
    finally:
        callback.end()


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
