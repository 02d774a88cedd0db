"""Networks of the user's own are pruned, kept, shipped and loaded, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_package import package
from torch import Tensor, nn

from raydrop import Study, Training
from raydrop.data import from_arrays, load_dataset
from raydrop.data.batches import prepare
from raydrop.data.dataset import LabelledDataset
from raydrop.errors import ConfigError, NetworkError
from raydrop.network.saving import load_network, network_of
from raydrop.plan import Plan, check_networks, make_plan, trial_configs
from raydrop.stages.networks import run_network_trial
from raydrop.stages.ship import ship
from raydrop.stages.trials import run_trial
from raydrop.store import Store

__all__ = ["package"]

DIGITS = "digits+subset(12, test=6)"


class Words(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.head = nn.Linear(6, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        words = self.table(input_ids) * attention_mask[..., None]
        return {"logits": self.head(words.mean(1))}


def sentences() -> LabelledDataset:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 20, (90, 7))
    mask = np.ones((90, 7), np.int64)
    return from_arrays({"input_ids": words, "attention_mask": mask}, np.arange(90) % 3)


def study_of(dataset: object, model: object, method: str) -> Study:
    space = {"network_method": method, "network_target": 0.5}
    return Study("own", dataset, model, space, (0,), training=Training(epochs=1))  # type: ignore[arg-type]


def pruned(study: Study, dataset: LabelledDataset, folder: Path) -> str:
    """Run a dense and a pruned trial; return the id of the latter."""
    data, store = prepare(dataset), Store(folder / "store")
    plan: Plan = make_plan(study, trial_configs(study, study.spaces()), data.dataset)
    check_networks(plan, data.dataset)
    dense, network = sorted(plan.trials, key=lambda run: run.dense is not None)
    run_trial(study, dense, data, store, "cpu")
    run_network_trial(study, network, data, store, "cpu")
    return network.key


@pytest.mark.parametrize("method", ["magnitude", "unstructured_magnitude"])
def test_a_network_of_a_users_module_is_shipped_to_who_trusts_it(
    package: Path, tmp_path: Path, method: str
) -> None:
    study = study_of(DIGITS, "mypkg.net:SignNet(width=8)", method)
    key = pruned(study, load_dataset(DIGITS), tmp_path)
    with pytest.raises(ConfigError, match=r"found 'mypkg.net:SignNet.*add --trust mypkg"):
        ship(tmp_path, key, tmp_path / "net")
    ship(tmp_path, key, tmp_path / "net", trust=["mypkg"])
    with pytest.raises(ConfigError, match="whose import would run code"):
        load_network(tmp_path / "net")
    model, spec = load_network(tmp_path / "net", trust=["mypkg"])
    (entry,) = Store(tmp_path / "store").entries("network")
    twin, _ = network_of(entry, trust=["mypkg"])
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(model(images), twin(images))
    weights = model.state_dict()["features.0.weight"]
    left = len(weights) if method == "magnitude" else int(weights.count_nonzero()) / 9
    assert left < 8
    assert spec.model == "mypkg.net:SignNet(width=8)"


def test_a_network_that_reads_words_is_masked_and_shipped(tmp_path: Path) -> None:
    dataset = sentences()
    study = study_of(dataset, Words, "unstructured_magnitude")
    trust = [Words.__module__]
    key = pruned(study, dataset, tmp_path)
    spec = ship(tmp_path, key, tmp_path / "net", trust=trust)
    assert spec.image_shape == spec.mean == ()
    model, again = load_network(tmp_path / "net", trust=trust)
    assert again == spec
    assert str(again.input_spec) == "input_ids 7, attention_mask 7"
    assert model(again.input_spec.zeros(3)).shape == (3, 3)
    ship(tmp_path, key, tmp_path / "net.pt2", "pt2", trust=trust)
    program = torch.export.load(tmp_path / "net.pt2").module()
    inputs = {
        "input_ids": torch.randint(0, 20, (5, 7)),
        "attention_mask": torch.ones(5, 7, dtype=torch.int64),
    }
    torch.testing.assert_close(program(inputs), model(inputs))
    json.dumps(spec.to_dict())


def test_channels_of_what_sees_no_images_are_not_cut(tmp_path: Path) -> None:
    dataset = sentences()
    with pytest.raises(NetworkError, match=r"Expected images .* found inputs input_ids 7, attent"):
        pruned(study_of(dataset, Words, "magnitude"), dataset, tmp_path)


@pytest.mark.parametrize(
    "inputs", [[], [[[7]], ["int4"], None, False], [[[7], [7]], ["int64"], None, True], [3]]
)
def test_a_network_whose_inputs_are_described_badly_is_refused(
    inputs: list[object], tmp_path: Path
) -> None:
    dataset = sentences()
    key = pruned(study_of(dataset, Words, "unstructured_magnitude"), dataset, tmp_path)
    spec = ship(tmp_path, key, tmp_path / "net", trust=[Words.__module__])
    changed = type(spec).from_dict({**spec.to_dict(), "inputs": inputs})
    with pytest.raises(NetworkError, match="Expected the description of a network"):
        _ = changed.input_spec
