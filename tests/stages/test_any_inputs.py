"""All stages on inputs that are no images: rows of a table, and token ids with their mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from raydrop.cluster.space import expand
from raydrop.data import LabelledDataset, from_arrays, from_torch, load_dataset
from raydrop.data.batches import prepare
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.facts import save_data_card
from raydrop.stages.pictures import save_images
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training

CLASSES = 3


class Rows(nn.Module):
    """A network for six features."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Words(nn.Module):
    """A bag of words."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.last = nn.Linear(8, num_classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(self.embedding.weight.dtype)[..., None]
        return self.last((self.embedding(ids) * weights).sum(1) / weights.sum(1))  # type: ignore[no-any-return]


class Texts(Dataset[Any]):
    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % CLASSES
        draws = torch.randint(10, (count, 7), generator=generator)
        self.ids = draws + 10 * self.labels[:, None]
        self.mask = torch.arange(7) < torch.randint(2, 8, (count, 1), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return {"ids": self.ids[index], "mask": self.mask[index]}, int(self.labels[index])


def rows(in_memory: bool) -> LabelledDataset:
    rng = np.random.default_rng(0)
    y = np.arange(240) % CLASSES
    x = (rng.normal(size=(240, 6)) + 3 * np.eye(6)[y]).astype(np.float32)
    if in_memory:
        return from_arrays(x, y, name="rows")
    whole = from_arrays(x, y)
    parts = [[(x[i], int(y[i])) for i in split.ids] for split in whole.splits().values()]
    train, validation, test = parts
    return from_torch(train, test, validation, in_memory=False, name="rows_streamed")


def texts(in_memory: bool) -> LabelledDataset:
    name = "texts" if in_memory else "texts_streamed"
    return from_torch(Texts(150, 0), Texts(60, 1), in_memory=in_memory, name=name)


def study_of(dataset: LabelledDataset, model: type[nn.Module]) -> Study:
    return Study(
        "any",
        dataset,  # type: ignore[arg-type]
        model,  # type: ignore[arg-type]
        {
            "method": {"grid_search": ["moso", "el2n", "grand", "random"]},
            "quotas": {"grid_search": ["none", "drop"]},
            "keep_fraction": 0.5,
        },
        seeds=(0,),
        training=Training(epochs=6, batch_size=16, learning_rate=0.3),
        checkpoints=2,
    )


def done(study: Study, place: Path) -> dict[str, Any]:
    """Run all stages, and return predictions and scores."""
    dataset = load_dataset(study.dataset)
    plan = make_plan(study, trial_configs(study, expand(study)), dataset)
    data, store = prepare(dataset), Store(place)
    save_data_card(dataset, store)
    worker = GradientWorker(data, study.model)
    gradients = ShardedGradients(LocalExecutor(worker), dataset.train.ids)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    for score in plan.scores:
        run_score(study, score, dataset.train, store, gradients)
    save_images(dataset, store, study, plan.scores)
    assert not store.keys("images")
    found = dict[str, Any]()
    for score in plan.scores:
        found[score.method] = required(store, "scores", score.key).array("scores")
    for run in plan.trials:
        run_trial(study, run, data, store, "cpu")
        name = f"{run.trial.method}, {run.trial.quotas}, {run.trial.keep_fraction:g}"
        found[name] = required(store, "trial", run.key).array("predictions")
    return found


@pytest.mark.parametrize(("make", "model"), [(rows, Rows), (texts, Words)])
def test_every_stage_runs_on_any_inputs(make: Any, model: Any, tmp_path: Path) -> None:
    kept = done(study_of(make(True), model), tmp_path / "kept")
    labels = make(True).test.labels
    assert (kept["none, none, 1"] == labels).mean() > 0.8
    assert len({array.tobytes() for name, array in kept.items() if "," not in name}) == 4
    streamed = done(study_of(make(False), model), tmp_path / "streamed")
    assert kept.keys() == streamed.keys()
    for name, array in kept.items():
        assert np.array_equal(array, streamed[name]), name
