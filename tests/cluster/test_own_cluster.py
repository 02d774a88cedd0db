"""The user's own code and data on a cluster of three nodes, where only the driver has them.

The nodes run on one machine, but no process on them looks where the package lies. The head, where
the driver joins, has no place for work, and another lacks what a module of the package needs.
"""

from __future__ import annotations

import importlib
import io
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_package import LOOP
from ray.cluster_utils import Cluster
from ray_clusters import nodes
from rich.console import Console

import raydrop as rd
from raydrop.cluster import driver
from raydrop.cluster.driver import Options, Outcome, run_study
from raydrop.cluster.space import expand
from raydrop.data import from_torch, load_dataset
from raydrop.data.batches import prepare
from raydrop.errors import ConfigError
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store
from raydrop.study import Study, Training

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PACKAGE = "only_the_driver_has_it"
WITHOUT = "RAYDROP_TEST_WITHOUT"
"""Environment variable of a node that lacks something."""
LONGEST = 120.0
"""Seconds that anything here may take on a busy machine."""

NET = """
from torch import nn
from torch.utils.data import Dataset
import torch


def squashed(images):
    return images.flatten(1).tanh()


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.head(squashed(images))


class Items(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.arange(64.0) * (index % 7) / 64 + index % 3, index % 3
"""
PARTS = """
import json, os, time
import torch
from raydrop.scores.base import TraceMethod
from raydrop.training.losses import CrossEntropy
from torch.utils.data import DataLoader
import raydrop as rd

FOLDER = {folder!r}


class Last(TraceMethod):
    summary = "error norm after the last epoch"

    def from_trace(self, trace, score_epoch):
        return trace.error_norm[-1]


class Scaled(CrossEntropy):
    def __init__(self, context, factor=1.0):
        self.factor = factor

    def __call__(self, logits, labels, units):
        return self.factor * super().__call__(logits, labels, units)


def fit(task):
    with open(f"{{FOLDER}}/begun", "ab+") as begun:
        line = json.dumps([*map(str, task.config.values()), len(task.train)])
        begun.write(line.encode() + b"\\n")
        begun.flush()
        end = begun.tell()
        begun.seek(0)
        place = begun.read(end).count(b"\\n")  # among those that have begun
    while place > 2 and os.path.exists(f"{{FOLDER}}/hold"):
        time.sleep(0.05)
    model = task.model()
{loop}"""
NEEDY = f"""
import os

if os.environ.get({WITHOUT!r}):
    raise ModuleNotFoundError("No module named 'rare'", name="rare")
from {PACKAGE}.net import Net
"""
DRIVER = f"""
import json
import sys

sys.path.append(sys.argv[1])
from raydrop.cluster.driver import Options, run_study
from raydrop.store.terminal import Console
from raydrop.study import Study

study = Study.from_dict(json.load(open(sys.argv[2])), trust=({PACKAGE!r},))
run_study(study, Options(out=sys.argv[3], address=sys.argv[4]), Console())
"""
STUDY: dict[str, Any] = {
    "name": "own",
    "dataset": "digits+subset(12, test=6)",
    "model": f"{PACKAGE}.net:Net",
    "train": f"{PACKAGE}.parts:fit",
    "param_space": {
        "method": {"grid_search": [f"{PACKAGE}.parts:Last", "grand"]},
        "keep_fraction": 0.5,
        "loss": f"{PACKAGE}.parts:Scaled(factor=0.5)",
    },
    "seeds": (0,),
    "include_unpruned": False,
    "training": Training(epochs=2, batch_size=20),
    "checkpoints": 1,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with nodes(
        36 + 8 * process, each=({"num_cpus": 0}, {}, {"env_vars": {WITHOUT: "1"}})
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def package(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package's folder, on the path of this process and of no node, which were there before."""
    folder = tmp_path_factory.mktemp("own")
    place = folder / PACKAGE
    place.mkdir()
    parts = PARTS.format(folder=str(folder), loop=LOOP)
    for name, text in {"__init__": "", "net": NET, "parts": parts, "needy": NEEDY}.items():
        (place / f"{name}.py").write_text(text)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As each worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_plainly(study: Study, folder: Path) -> None:
    """Do all that a study takes, without Ray."""
    data, store = prepare(load_dataset(study.dataset)), Store(folder / "store")
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    for score in plan.scores:
        gradients = LocalExecutor(GradientWorker(data, score.model))
        ids = data.dataset.train.ids
        run_score(study, score, data.dataset.train, store, ShardedGradients(gradients, ids))
    for run in plan.trials:
        run_trial(study, run, data, store, "cpu")


def results(folder: Path) -> dict[str, bytes]:
    """All arrays of scores and trials by their names."""
    return {
        f"{kind} {entry.key} {name}": array.tobytes()
        for kind in ("scores", "trial")
        for entry in Store(folder / "store").entries(kind)
        for name, array in entry.arrays().items()
    }


def finished(folder: Path) -> dict[str, int]:
    """When each entry was written, by its kind and key."""
    return {
        f"{kind} {entry.key}": (entry.path / "meta.json").stat().st_mtime_ns
        for kind in ("query", "scores", "trial")
        for entry in Store(folder / "store").entries(kind)
    }


def run_there(study: Study, cluster: Cluster, out: Path, **options: Any) -> tuple[Outcome, str]:
    """Run on the cluster; return how it ended and what was printed."""
    console = Console(record=True, width=1000, file=io.StringIO())
    outcome = run_study(study, Options(out=out, address=cluster.address, **options), console)
    return outcome, console.export_text()


def test_a_killed_driver_with_code_that_only_it_has_goes_on_to_the_bits_of_one_process(
    cluster: Cluster, package: Path, tmp_path: Path
) -> None:
    """Everything that trains is of the package, and nothing that was finished is done again."""
    study, out, begun = Study(**STUDY), tmp_path / "out", package / "begun"
    run_plainly(study, tmp_path / "plain")
    alone = Counter(begun.read_text().splitlines())
    assert alone.total() == 3
    assert {*alone.values()} == {1}
    begun.write_text("")
    (package / "hold").touch()
    (tmp_path / "study.json").write_text(json.dumps(study.to_dict(expand(study))))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [tmp_path / "driver.py", package, tmp_path / "study.json", out, cluster.address]
    killed = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    end = time.monotonic() + LONGEST
    while len(begun.read_text().splitlines()) < 3 or len(finished(out)) < 4:
        assert time.monotonic() < end, "waited too long"
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (package / "hold").unlink()
    before = finished(out)
    assert len(before) == 4
    outcome, _ = run_there(study, cluster, out)
    assert outcome == Outcome(2, 0)
    assert results(out) == results(tmp_path / "plain")
    after = finished(out)
    assert {name: after[name] for name in before} == before
    # What was at work was begun again, and nothing else.
    assert (Counter(begun.read_text().splitlines()) - alone).total() == 1
    suffixes = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".npy", ".log", ".csv", ".jpg", ""}, "no pickles"


def test_what_a_machine_cannot_import_is_one_sentence_before_anything_runs(
    cluster: Cluster, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = (package / "begun").read_text()
    needy = Study(**STUDY | {"model": f"{PACKAGE}.needy:Net"})
    lacks = cluster.worker_nodes and sorted(n.node_ip_address for n in cluster.worker_nodes)[1]
    sentence = (
        f"import what the study names, found that 1 of the 2 others cannot, such as {lacks}: "
        f"Expected {PACKAGE}.needy:Net to be imported, found no module 'rare' in this process; "
        "install it here"
    )
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        run_there(needy, cluster, tmp_path / "out")
    # Nor is what only the driver has found anywhere unless it is sent.
    monkeypatch.setattr(driver, "own_modules", lambda _: ())
    with pytest.raises(ConfigError, match=f"2 of the 2 others cannot, .* no module '{PACKAGE}'"):
        run_there(Study(**STUDY), cluster, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (package / "begun").read_text() == begun


def defined(text: str) -> dict[str, Any]:
    """What a notebook's cell defines."""
    names: dict[str, Any] = {"__name__": "__main__"}
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(keepends=True), "<cell>")
    exec(compile(text, "<cell>", "exec"), names)
    return names


CELL = f"""
import torch
from {PACKAGE} import net


class Own(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        return self.head(net.squashed(images))


class Items(torch.utils.data.Dataset):
    def __init__(self, n):
        self.items = net.Items(n)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def fit(task):
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for inputs, labels in torch.utils.data.DataLoader(task.train, batch_size=20):
        optimizer.zero_grad()
        task.loss(model(inputs), labels).backward()
        optimizer.step()
    return task.predict(model)
"""


def test_what_a_notebook_defines_reaches_workers_on_other_nodes(
    cluster: Cluster, package: Path, tmp_path: Path
) -> None:
    """Model, training and a data set that is streamed, by value, and what they import."""
    cell = defined(CELL)
    data = from_torch(cell["Items"](60), cell["Items"](30), in_memory=False, version="1")
    study = Study(
        "notebook",
        data,
        cell["Own"],
        {"method": "random", "keep_fraction": 0.5},
        train=cell["fit"],
        **{name: STUDY[name] for name in ("seeds", "training", "include_unpruned")},
    )
    outcome, _ = run_there(study, cluster, tmp_path / "out")
    assert outcome == Outcome(1, 0)
    run_plainly(study, tmp_path / "plain")
    assert results(tmp_path / "out") == results(tmp_path / "plain")


def test_scores_of_a_model_that_only_the_driver_has(
    cluster: Cluster, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a data set that is streamed, of the same package."""
    net = importlib.import_module(f"{PACKAGE}.net")
    monkeypatch.setattr("raydrop.scores.own.DECODED_BYTES", 0)
    torch.manual_seed(0)
    model = net.Net(3).eval()
    here = rd.score(model, net.Items(60), method="grand")
    there = rd.score(model, net.Items(60), method="grand", address=cluster.address)
    np.testing.assert_array_equal(here.values, there.values)
