"""What a trial leaves of its network becomes a file that works without the study."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from raydrop import Study, Training, cli
from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.errors import ConfigError, NetworkError
from raydrop.models import build_model
from raydrop.network.saving import EXTRA, NetworkSpec, load_network, network_entry
from raydrop.plan import make_plan, trial_configs
from raydrop.stages.networks import run_network_trial
from raydrop.stages.ship import ship
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import config_hash

SHAPE = (3, 8, 8)
NAMES = ("cat", "dog", "eel")


def leave(root: Path, seed: int, *, network: bool = True) -> tuple[str, nn.Module]:
    """A finished trial, and the network that it pruned."""
    store = Store(root / "store")
    config = {"kind": "trial", "seed": seed}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("small_cnn", 3, SHAPE).eval()
    if network:
        spec = NetworkSpec(
            "small_cnn", 3, SHAPE, NAMES, (0.5,) * 3, (0.2,) * 3,
            network_method="random", network_target="flops(0.5)",
        )  # fmt: skip
        identity = {"kind": "network", "schema": 3, "trial": config_hash(config)}
        store.write("network", identity, *network_entry(spec, model))
    info = {"dataset": "animals", "seed": seed, "loss": "pw(0.5, 1)", "macs": 12, "by_class": [1]}
    return store.write("trial", config, info).key, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    for seed in range(20):
        leave(root, seed)
    leave(root, 20, network=False)
    return root


def trial_of(folder: Path, seed: int) -> tuple[str, nn.Module]:
    return leave(folder, seed, network=seed < 20)


def test_a_shipped_network_predicts_what_its_record_says(tmp_path: Path) -> None:
    study = Study(
        name="t",
        dataset="digits+subset(12, test=6)",
        model="small_cnn",
        param_space={"network_method": "random", "network_target": 0.5},
        seeds=(0,),
        training=Training(epochs=2),
    )
    data, store = prepare(load_dataset(study.dataset)), Store(tmp_path / "store")
    plan = make_plan(study, trial_configs(study, [dict(study.spaces()[0])]), data.dataset)
    (run,) = [run for run in plan.trials if run.dense is not None]
    assert run.dense is not None
    dense = next(trial for trial in plan.trials if trial.key == run.dense.key)
    run_trial(study, dense, data, store, "cpu")
    run_network_trial(study, run, data, store, "cpu")
    ship(tmp_path, run.key, tmp_path / "net")
    model, spec = load_network(tmp_path / "net")
    pixels = torch.from_numpy(data.dataset.test.inputs.pixels)  # type: ignore[union-attr]
    predicted = model(spec.normalised(pixels)).argmax(1)
    record = required(store, "trial", run.key)
    assert predicted.tolist() == record.array("predictions").tolist()
    assert sum(p.numel() for p in model.parameters()) == spec.facts["parameters"]
    assert spec.class_names == data.dataset.class_names


def test_a_trials_network_is_shipped_with_what_is_known_of_it(folder: Path, tmp_path: Path) -> None:
    key, model = trial_of(folder, 3)
    returned = ship(folder, key[:8], tmp_path / "net")
    loaded, spec = load_network(tmp_path / "net")
    assert spec == returned
    assert (spec.class_names, spec.network_target) == (NAMES, "flops(0.5)")
    facts = {"trial_id": key, "dataset": "animals", "loss": "pw(0.5, 1)", "seed": 3, "macs": 12}
    assert spec.facts == facts
    batch = torch.randn(2, *SHAPE)
    assert torch.equal(loaded(batch), model(batch))


def test_a_trials_network_is_shipped_as_a_program(folder: Path, tmp_path: Path) -> None:
    key, model = trial_of(folder, 4)
    spec = ship(folder, key, tmp_path / "net.pt2", "pt2")
    extra = {EXTRA: ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    batch = torch.randn(3, *SHAPE)
    assert torch.allclose(program(batch), model(batch), atol=1e-6)
    assert json.loads(extra[EXTRA]) == spec.to_dict()


def test_trials_that_cannot_be_shipped_are_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    keys = [trial_of(folder, seed)[0] for seed in range(20)]
    # Of twenty hexadecimal ids two begin alike.
    doubled = next(key[0] for key in keys if sum(other[0] == key[0] for other in keys) > 1)
    with pytest.raises(ConfigError, match=rf"of one trial's id, found '{doubled}', with which"):
        ship(folder, doubled, out)
    with pytest.raises(ConfigError, match=r"found 'zz', with which none begins; .* such as \w{32}"):
        ship(folder, "zz", out)
    with pytest.raises(ConfigError, match="found '', with which none begins"):
        ship(folder, "", out)
    dense = trial_of(folder, 20)[0]
    with pytest.raises(ConfigError, match=f"found that {dense} left none; choose one whose"):
        ship(folder, dense, out)
    with pytest.raises(ConfigError, match=r"finished trials in .*, found none; give the output"):
        ship(tmp_path, keys[0], out)
    with pytest.raises(ConfigError, match="Unknown format 'onxx': did you mean onnx"):
        ship(folder, keys[0], out, "onxx")
    with pytest.raises(NetworkError, match=r"Expected to write .*, found: "):
        ship(folder, keys[0], tmp_path / "absent" / "net")
    assert not list(tmp_path.iterdir())


def test_the_command_ships_and_says_what(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, _ = trial_of(folder, 5)
    out = tmp_path / "net.raydrop"
    arguments = ["ship", str(folder), key, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["raydrop", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert f"{out} (small_cnn, random, flops(0.5))" in said
    assert load_network(out)[1].facts["trial_id"] == key
    monkeypatch.setattr(sys, "argv", ["raydrop", "ship", str(folder), "zz", "--out", str(out)])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "Error: Expected the id of a trial" in " ".join(capsys.readouterr().err.split())
