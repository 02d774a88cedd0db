"""Where a sweep's progress can be followed: what is logged, and that logging costs no trial."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy

from raydrop.cluster import logging
from raydrop.cluster.driver import Options, Outcome, run_study
from raydrop.cluster.logging import (
    FrontCallback,
    check_logger,
    front_logging,
    front_metrics,
    mlflow_log,
    tensorboard_log,
    trial_name,
    wandb_log,
)
from raydrop.errors import ConfigError
from raydrop.frontier import frontier_table, load_records
from raydrop.frontier.statistics.fronts import pareto_front
from raydrop.frontier.watch import GrowingFront, Watcher
from raydrop.store import Place
from raydrop.store.terminal import Console
from raydrop.study import Study, Training

STUDY = FakeStudy(seeds=(0,))
TRIALS = STUDY.trials()


@dataclasses.dataclass
class Recorder:
    """A logger that remembers, and breaks when it is told to."""

    trials: list[tuple[int, dict[str, Any], dict[str, float]]] = dataclasses.field(
        default_factory=list
    )
    fronts: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    closed: int = 0
    breaks: bool = False

    def __call__(
        self,
        step: int,
        front: Mapping[str, float],
        trial: Mapping[str, Any],
        accuracies: Mapping[str, float],
    ) -> None:
        if self.breaks:
            raise ConnectionError("no route to host\nsecond line")
        if trial:
            self.trials.append((step, dict(trial), dict(accuracies)))
        self.fronts[step] = dict(front)

    @contextlib.contextmanager
    def open(self, *_: object) -> Iterator[tuple[str, logging.Log]]:
        yield "memory", self
        self.closed += 1


def _ended(key: str, average: float | None, worst: float = 0.0) -> types.SimpleNamespace:
    """Stands for Tune's trial."""
    accuracies = {"average_accuracy": average, "worst_class_accuracy": worst}
    result = {"failed": True} if average is None else accuracies
    return types.SimpleNamespace(config={"trial_id": key}, last_result=result)


def _runs() -> dict[str, Any]:
    return {STUDY.trial_id(trial): types.SimpleNamespace(trial=trial) for trial in TRIALS}


def _callback(recorder: Recorder) -> tuple[FrontCallback, io.StringIO]:
    text = io.StringIO()
    front = GrowingFront()
    return FrontCallback(recorder, front, _runs(), Console(file=text, width=200)), text


def test_each_finished_trial_is_a_step_with_its_accuracies_and_the_front() -> None:
    recorder = Recorder()
    callback, _ = _callback(recorder)
    values = [(0.5 + i / 50, 0.9 - i / 20) for i in range(4)]
    for trial, (average, worst) in zip(TRIALS, values, strict=False):
        callback.on_trial_complete(0, [], _ended(STUDY.trial_id(trial), average, worst))
    assert [step for step, _, _ in recorder.trials] == [1, 2, 3, 4]
    assert [trial for _, trial, _ in recorder.trials] == [t.as_dict() for t in TRIALS[:4]]
    assert recorder.trials[1][2] == {
        "average_accuracy": pytest.approx(0.52), "worst_class_accuracy": pytest.approx(0.85),
    }  # fmt: skip
    assert recorder.fronts[4]["front/points"] == pareto_front(values).sum() == 4
    assert recorder.fronts[1]["front/hypervolume"] == pytest.approx(0.5 * 0.9)
    keeps = {f"best_worst_class/keep_{t.keep_fraction:g}" for t in TRIALS[:4]}
    assert {name for name in recorder.fronts[4] if name.startswith("best")} == keeps
    volumes = [front["front/hypervolume"] for front in recorder.fronts.values()]
    assert volumes == sorted(volumes)


def test_failed_trials_are_no_step() -> None:
    recorder = Recorder()
    callback, _ = _callback(recorder)
    key = STUDY.trial_id(TRIALS[0])
    callback.on_trial_complete(0, [], _ended(key, None))
    callback.on_trial_error(0, [], _ended(key, 0.5, 0.5))
    assert (recorder.trials, recorder.fronts) == ([], {})


def test_metrics_are_those_of_the_frontier(tmp_path: Path) -> None:
    for place, study in enumerate((TRANSFER, GROUPED)):
        folder = study.write(tmp_path / str(place))
        metrics = front_metrics(Watcher(folder).front())
        records = load_records(folder)
        by = records.unit
        table = frontier_table(records.trials, by=by)
        several = table["model"].nunique() > 1
        for (model, keep), rows in table.groupby(["model", "keep_fraction"]):
            name = f"{model}/keep_{keep:g}" if several else f"keep_{keep:g}"
            expected = rows[f"worst_{by}_accuracy"].max()
            assert metrics.pop(f"best_worst_{by}/{name}") == pytest.approx(expected)
        for model, rows in table.groupby("model"):
            prefix = f"front/{model}/" if several else "front/"
            assert metrics.pop(f"{prefix}points") == rows["on_front"].sum()
            assert 0 < metrics.pop(f"{prefix}hypervolume") < 1
        assert metrics == {}


def test_a_resumed_sweep_goes_on_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setitem(logging.LOGGERS, "tensorboard", ("tensorboardX", recorder.open))
    STUDY.write(tmp_path, skip=TRIALS[-1:])
    console, place = Console(file=io.StringIO()), Place(tmp_path)
    with front_logging("tensorboard", STUDY.study(), place, _runs(), console) as callbacks:
        (callback,) = callbacks
        assert list(recorder.fronts) == [len(TRIALS) - 1]
        callback.on_trial_complete(0, [], _ended(STUDY.trial_id(TRIALS[-1]), 0.9, 0.8))
    assert [step for step, _, _ in recorder.trials] == [len(TRIALS)]
    assert list(recorder.fronts) == [len(TRIALS) - 1, len(TRIALS)]
    assert recorder.closed == 1
    assert "Log: memory" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_logger_that_breaks_is_told_of_once_and_costs_nothing() -> None:
    recorder = Recorder(breaks=True)
    callback, text = _callback(recorder)
    for trial in TRIALS[:3]:
        callback.on_trial_complete(0, [], _ended(STUDY.trial_id(trial), 0.9, 0.5))
    callback.carefully(pytest.fail)
    said = "Logging stops, the sweep goes on: ConnectionError: no route to host\n"
    assert text.getvalue() == said


def test_the_log_is_closed_when_the_sweep_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(logging.LOGGERS, "tensorboard", ("tensorboardX", recorder.open))
    folder, console = STUDY.write(tmp_path), Console(quiet=True)
    with (
        pytest.raises(KeyboardInterrupt),
        front_logging("tensorboard", STUDY.study(), Place(folder), {}, console),
    ):
        raise KeyboardInterrupt
    assert recorder.closed == 1


def test_names_that_are_no_logger_and_packages_that_are_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="Unknown value of --log 'tensorbord': did you mean ten"):
        check_logger("tensorbord")
    check_logger("tensorboard")
    monkeypatch.setattr(logging.importlib.util, "find_spec", lambda name: None)
    for name, (package, _) in logging.LOGGERS.items():
        with pytest.raises(ConfigError) as caught:
            check_logger(name)
        assert str(caught.value) == (
            f"Expected the package {package} for --log {name}, found it is not installed; "
            f"install it with pip install 'raydrop[{name}]', or leave out --log."
        )


def test_a_logger_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise PermissionError("api key not configured\nrun wandb login")

    monkeypatch.setitem(logging.LOGGERS, "tensorboard", ("tensorboardX", broken))
    with (
        pytest.raises(
            ConfigError, match=r"^Expected tensorboard to open a log, found: Permission.*"
        ),
        front_logging("tensorboard", STUDY.study(), Place(tmp_path), {}, Console(quiet=True)),
    ):
        pass


def test_trials_have_distinct_names() -> None:
    for study in (FakeStudy(losses=("cross_entropy", "cdb_w")), TRANSFER):
        names = [trial_name(trial.as_dict()) for trial in study.trials()]
        assert len(set(names)) == len(names)


# What each logger does with it.


def _scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Read TensorBoard's files: a length, its checksum, an event and its checksum, again."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield value.tag, event.step, value.simple_value


def _log_two(opened: logging.Opened) -> str:
    with opened as (where, log):
        for step, trial in enumerate(TRIALS[:2], start=1):
            accuracies = {"average_accuracy": 0.5 + step / 8, "worst_class_accuracy": step / 8}
            log(step, {"front/hypervolume": step / 16}, trial.as_dict(), accuracies)
    return where


def test_tensorboard_files_hold_the_study_and_each_trial(tmp_path: Path) -> None:
    _log_two(tensorboard_log(STUDY.study(), Place(tmp_path)))
    assert list(_scalars(tmp_path / "tensorboard")) == [
        ("trial/average_accuracy", 1, 0.625),
        ("trial/worst_class_accuracy", 1, 0.125),
        ("front/hypervolume", 1, 0.0625),
        ("trial/average_accuracy", 2, 0.75),
        ("trial/worst_class_accuracy", 2, 0.25),
        ("front/hypervolume", 2, 0.125),
    ]
    runs = sorted((tmp_path / "tensorboard" / "trials").iterdir())
    assert [run.name for run in runs] == sorted(trial_name(t.as_dict()) for t in TRIALS[:2])
    (first,) = (run for run in runs if run.name == trial_name(TRIALS[0].as_dict()))
    assert ("average_accuracy", 1, 0.625) in set(_scalars(first))


class FakeMlflow(types.ModuleType):
    """The few calls of MLflow's client that are made, with what they leave."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: list[dict[str, Any]] = []
        self.experiments: list[str] = []
        self.MlflowClient = lambda: self

    def get_tracking_uri(self) -> str:
        return "memory"

    def get_experiment_by_name(self, name: str) -> Any:
        if name in self.experiments:
            return types.SimpleNamespace(experiment_id=str(self.experiments.index(name)))
        return None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return str(len(self.experiments) - 1)

    def create_run(self, experiment_id: str, *, run_name: str, tags: dict[str, str]) -> Any:
        body = {"name": run_name, "tags": tags, "params": {}, "metrics": [], "ended": False}
        self.runs.append(body)
        info = types.SimpleNamespace(run_id=str(len(self.runs) - 1))
        return types.SimpleNamespace(info=info)

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self.runs[int(run_id)]["params"][key] = value

    def log_metric(self, run_id: str, key: str, value: float, *, step: int) -> None:
        self.runs[int(run_id)]["metrics"].append((key, value, step))

    def set_terminated(self, run_id: str) -> None:
        self.runs[int(run_id)]["ended"] = True


def test_mlflow_has_a_run_for_the_study_and_one_below_it_for_each_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        _log_two(mlflow_log(STUDY.study(), Place(tmp_path)))
    assert fake.experiments == ["raydrop"]
    parent, *children = fake.runs[:3]
    assert parent["name"] == "fake"
    assert parent["params"]["dataset"] == "digits"
    assert ("front/hypervolume", 0.125, 2) in parent["metrics"]
    assert ("trial/worst_class_accuracy", 0.25, 2) in parent["metrics"]
    assert [child["name"] for child in children] == [trial_name(t.as_dict()) for t in TRIALS[:2]]
    assert all(child["tags"] == {"mlflow.parentRunId": "0"} for child in children)
    assert children[1]["params"] == TRIALS[1].as_dict()
    assert ("average_accuracy", 0.75, 2) in children[1]["metrics"]
    assert all(run["ended"] for run in fake.runs)


def test_wandb_has_a_row_of_history_for_each_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history: dict[int, dict[str, Any]] = {}
    begun: dict[str, Any] = {}
    ended: list[bool] = []

    def log(row: dict[str, Any], *, step: int, commit: bool | None = None) -> None:
        assert step >= max(history, default=0)  # W&B drops what is earlier
        history.setdefault(step, {}).update(row)

    run = types.SimpleNamespace(log=log, finish=lambda: ended.append(True))
    run.offline, run.dir = True, str(tmp_path / "out" / "wandb" / "offline-run-1" / "files")
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: begun.update(options) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    where = _log_two(wandb_log(STUDY.study(), Place(tmp_path / "out")))
    assert begun["project"] == "raydrop"
    assert begun["name"] == "fake"
    assert where == f"wandb sync {tmp_path / 'out' / 'wandb' / 'offline-run-1'}"
    assert set(history) == {1, 2}
    assert history[2]["trial/keep_fraction"] == TRIALS[1].keep_fraction
    assert history[2]["trial/worst_class_accuracy"] == 0.25
    assert history[2]["front/hypervolume"] == 0.125
    assert ended == [True]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_logs_its_front_as_it_grows(tmp_path: Path) -> None:
    study = Study(
        name="logged",
        dataset="digits+subset(12, test=6)",
        model="small_cnn",
        param_space={"method": "random", "keep_fraction": {"grid_search": [0.3, 0.6]}},
        seeds=(0,),
        training=Training(epochs=1),
    )
    text = io.StringIO()
    options = Options(out=tmp_path, num_cpus=1, log="tensorboard")
    assert run_study(study, options, Console(file=text, width=200)) == Outcome(3, 0)
    assert f"Log: tensorboard --logdir {tmp_path}" in text.getvalue()
    assert not (tmp_path / "tune").exists()
    logged = pd.DataFrame(_scalars(tmp_path / "tensorboard"), columns=["tag", "step", "value"])
    table = frontier_table(load_records(tmp_path).trials).set_index("keep_fraction")
    last = logged[logged["step"] == 3].set_index("tag")["value"]
    for keep, worst in table["worst_class_accuracy"].items():
        assert last[f"best_worst_class/keep_{keep:g}"] == pytest.approx(worst)
    averages = logged[logged["tag"] == "trial/average_accuracy"]
    assert averages["step"].tolist() == [1, 2, 3]
    assert sorted(averages["value"]) == pytest.approx(sorted(table["average_accuracy"]))
    assert len(list((tmp_path / "tensorboard" / "trials").iterdir())) == 3
    # Again there is nothing to do, and the log says where the front stands.
    assert run_study(study, options, Console(quiet=True)) == Outcome(3, 0)
    again = pd.DataFrame(_scalars(tmp_path / "tensorboard"), columns=["tag", "step", "value"])
    assert len(again) > len(logged)
    assert set(again["step"]) == {1, 2, 3}
