"""A training function of the user's own, in query runs and trials, through plain stages."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_package import LOOP
from torch.utils.data import DataLoader

from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.errors import ConfigError, ScoringError, TrainingError
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.queries import load_query, run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.task import Criterion, Task
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.training.evaluate import predict
from raydrop.training.losses.base import UnitWeighted
from raydrop.training.losses.difficulty import CdbW

STUDY = Study(
    name="own",
    dataset="digits+subset(12, test=6)",
    model="linear",
    param_space={"method": {"grid_search": ["el2n", "forgetting", "grand"]}, "keep_fraction": 0.5},
    seeds=(0,),
    training=Training(epochs=3, batch_size=20, learning_rate=0.05, schedule="constant"),
    checkpoints=2,
)
WRITTEN = f"""
import torch, raydrop as rd
from torch.utils.data import DataLoader

def fit(task):
    model = task.model().to(task.device)
{LOOP}"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_training_of_a_test.py").write_text(WRITTEN)
    sys.path.insert(0, str(folder))
    yield "own_training_of_a_test:fit"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(load_dataset(STUDY.dataset))


def run(study: Study, data: PreparedData, folder: Path) -> tuple[Store, Any]:
    """Do all that a study takes, without Ray."""
    store = Store(folder)
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    executor = LocalExecutor(GradientWorker(data, study.model))
    for score in plan.scores:
        gradients = ShardedGradients(executor, data.dataset.train.ids)
        run_score(study, score, data.dataset.train, store, gradients)
    for trial in plan.trials:
        run_trial(study, trial, data, store, "cpu")
    return store, plan


def test_a_training_by_import_path_gives_scores_and_trials(
    data: PreparedData, package: str, tmp_path: Path
) -> None:
    study = dataclasses.replace(STUDY, train=package)
    store, plan = run(study, data, tmp_path / "first")
    (query,) = plan.queries
    result = load_query(query, store)
    # What the recorder saw is the trace, and checkpoints are where the study asked for them.
    assert result.trace is not None
    assert result.trace.probability.shape == (3, 120)
    assert result.learning_rates == (0.5,) * 3
    assert len(result.checkpoints) == len(result.checkpoint_epochs)
    assert result.checkpoint_epochs[-1] == 3
    assert result.validation_recalls is not None
    assert result.validation_recalls.mean() > 0.5
    for trial in plan.trials:
        entry = required(store, "trial", trial.key)
        kept = 60 if trial.score else 120
        assert (entry.info["n_kept"], entry.info["epochs"]) == (kept, 3)
        assert (entry.array("predictions") == data.dataset.test.labels).mean() > 0.4
        assert entry.info["auc_by_class"] is not None
    # The same bits again; another training is another study's.
    again, _ = run(study, data, tmp_path / "again")
    for trial in plan.trials:
        first, second = (required(each, "trial", trial.key) for each in (store, again))
        assert first.array("predictions").tobytes() == second.array("predictions").tobytes()
    ours = make_plan(STUDY, trial_configs(STUDY, expand(STUDY)), data.dataset)
    assert not {t.key for t in ours.trials} & {t.key for t in plan.trials}
    assert not {q.key for q in ours.queries} & {q.key for q in plan.queries}


def test_a_changed_line_of_the_training_is_another_identity(
    data: PreparedData, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dataclasses.replace(STUDY, train=package)

    def keys(study: Study) -> set[str]:
        plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
        return {run.key for run in (*plan.queries, *plan.scores, *plan.trials)}

    before, worded = keys(study), keys(dataclasses.replace(study, version="1"))
    module = sys.modules[package.partition(":")[0]]
    path = Path(module.__file__ or "")
    written = path.read_text()
    path.write_text(written.replace("lr=0.5", "lr=0.4  "))
    try:
        with pytest.raises(ConfigError, match="it has been changed since; restart Python"):
            keys(study)
        importlib.reload(module)
        after, still = keys(study), keys(dataclasses.replace(study, version="1"))
    finally:
        path.write_text(written)
        importlib.reload(module)
    assert not before & after
    assert worded == still
    assert keys(study) == before


def test_samples_are_what_raydrops_own_loop_feeds(data: PreparedData, tmp_path: Path) -> None:
    seen: list[Task] = []

    def fit(task: Task) -> dict[str, Any]:
        seen.append(task)
        return task.predict(task.model())

    study = dataclasses.replace(
        STUDY, train=fit, param_space={"method": "random", "keep_fraction": 0.5}, version="1"
    )
    store, plan = run(study, data, tmp_path)
    for task, trial in zip(seen, plan.trials, strict=True):
        kept = required(store, "trial", trial.key).array("kept_ids")
        positions = np.flatnonzero(np.isin(data.dataset.train.ids, kept))
        whole = make_batches(data, data.dataset.train, torch.device("cpu"))
        (expected,) = whole((torch.from_numpy(positions),))
        (batch,) = DataLoader(task.train, batch_size=len(task.train))
        assert torch.equal(batch[0], expected.inputs)
        assert torch.equal(batch[1], expected.labels)
        assert [label for _, label in task.test] == data.dataset.test.labels.tolist()
        model = task.model()
        assert torch.equal(task.predict(model)["test"].argmax(1).int(), torch.from_numpy(predict(
            model, make_batches(data, data.dataset.test, torch.device("cpu")), 60)))  # fmt: skip


def _answer(task: Task, **changes: Any) -> Any:
    return {
        "validation": np.zeros(len(task.validation)),
        "test": np.zeros(len(task.test)),
    } | changes


def _own(returned: Any, task: Task) -> Any:
    return returned(task)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda _: None, "to return a dict with validation and test, found NoneType"),
        (lambda t: {"test": _answer(t)["test"]}, r"found \['test'\]"),
        (lambda t: _answer(t, test=np.zeros(3)), r"classes \(60,\) for test, found float64 \(3,\)"),
        (lambda t: _answer(t, test=np.zeros((60, 9))), r"logits \(60, 10\)"),
        (
            lambda t: _answer(t, test=np.full(60, 10)),
            "classes from 0 to 9 for test, found 10 to 10",
        ),
        (lambda t: _answer(t, test=np.full((60, 10), np.nan)), "finite logits"),
        (lambda t: _answer(t, test=np.array(["7"] * 60)), "found <U1"),
        (lambda _: 1 / 0, "to train, found ZeroDivisionError: division by zero"),
        (lambda t: t.loss(torch.zeros(1, 10), torch.zeros(1).long()), "found Tensor"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    data: PreparedData, tmp_path: Path, returned: Any, sentence: str
) -> None:
    study = dataclasses.replace(STUDY, train=functools.partial(_own, returned), version="1")
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    (whole,) = (trial for trial in plan.trials if trial.score is None)
    store = Store(tmp_path)
    with pytest.raises(TrainingError, match=sentence):
        run_trial(study, whole, data, store, "cpu")
    assert store.keys("trial") == []


@pytest.mark.parametrize("by", ["class", "group"])
def test_a_loss_gets_the_groups_of_its_samples(by: str) -> None:
    """Weights by group need to know who is in a batch; weights by class need its labels alone."""
    groups = torch.tensor([1, 0, 1]) if by == "group" else None
    loss = Criterion(UnitWeighted(np.array([1.0, 3.0])), groups)
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([3.0, 1.0] if by == "group" else [1.0, 1.0])
    assert loss(logits, labels, torch.tensor([2, 1])).item() == pytest.approx(
        float((weights * losses).mean())
    )
    if by == "group":
        with pytest.raises(ConfigError, match=r"wrap task\.train by raydrop\.with_indices"):
            loss(logits, labels)


@pytest.mark.parametrize(
    ("calls", "method", "sentence"),
    [
        (0, "el2n", "training dynamics for el2n, found that the training function recorded none"),
        (0, "grand", "checkpoints for grand, found that the training function took none"),
        (2, "grand", r"call task.checkpoint once after each of 3 epochs or never, found 2 calls"),
    ],
)
def test_scores_say_what_a_training_function_left_out(
    data: PreparedData, tmp_path: Path, calls: int, method: str, sentence: str
) -> None:
    def fit(task: Task) -> Any:
        model = task.model()
        for _ in range(calls):
            task.checkpoint(model, 0.1)
        return task.predict(model)

    study = dataclasses.replace(
        STUDY, train=fit, version="1", param_space={"method": method, "keep_fraction": 0.5}
    )
    with pytest.raises((ScoringError, TrainingError), match=sentence):
        run(study, data, tmp_path)


def test_a_loss_that_follows_recalls_gets_them_after_each_checkpoint(
    data: PreparedData, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    end_epoch = CdbW.end_epoch

    def noted(loss: CdbW, recalls: Any) -> None:
        told.append(recalls)
        end_epoch(loss, recalls)

    monkeypatch.setattr(CdbW, "end_epoch", noted)
    space = {"method": "random", "keep_fraction": 0.5, "loss": "cdb_w"}
    study = dataclasses.replace(STUDY, train=package, param_space=space, include_unpruned=False)
    run(study, data, tmp_path)
    assert [recalls.shape for recalls in told] == [(10,)] * 3
    assert told[-1].mean() > told[0].mean()


def test_networks_are_pruned_with_raydrops_own_training_alone(data: PreparedData) -> None:
    space = {"network_method": "magnitude", "network_target": 0.5}
    study = dataclasses.replace(STUDY, train=_own, param_space=space, model="small_cnn")
    with pytest.raises(ConfigError, match="networks with another without train"):
        make_plan(study, trial_configs(study, expand(study)), data.dataset)
