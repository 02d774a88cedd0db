"""What must stay as it is while the code moves: keys, tables and bits, against recorded hashes.

``python tests/test_goldens.py`` records them anew, for a change that means to change results. The
bits of trained networks are those of one kind of processor and one version of torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from fake_study import NETWORKS, SMALL, FakeStudy

from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.frontier import write_frontier
from raydrop.frontier.export import export_table
from raydrop.frontier.figures import catalogue
from raydrop.frontier.report import page
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training

RECORDED = Path(__file__).with_suffix(".json")
SWEEPS = sorted((Path(__file__).parent.parent / "sweeps").glob("*.py"))
STORES = {
    "plain": SMALL,
    "groups": FakeStudy(attributes=("day", "night"), by="group", quotas=("none", "drop")),
    "networks": NETWORKS,
}
TABLES = ("frontier.csv", "comparisons.csv", "harm.csv")
_FACTS = Path("/proc/cpuinfo")
_CPU = re.findall(
    r"^(?:vendor_id|cpu family|model|stepping)\s*: (.*)",
    _FACTS.read_text().partition("\n\n")[0] if _FACTS.exists() else "",
    re.MULTILINE,
)
MACHINE = f"{' '.join(_CPU) or 'unknown'}, torch {torch.__version__.partition('+')[0]}"
ARROW = f"pyarrow {pyarrow.__version__}"


def digest(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def plans() -> Iterator[tuple[str, str]]:
    """What every study of every sweep asks for, and what enters the keys of its results."""
    for path in SWEEPS:
        names = runpy.run_path(str(path), run_name="raydrop_sweep")
        for name, study in names.items():
            if isinstance(study, Study):
                trials = [trial.identity() for trial in trial_configs(study, expand(study))]
                body = json.dumps([trials, study.base("content")], sort_keys=True)
                yield f"{path.name}, {name}", digest(body)


def tables() -> Iterator[tuple[str, str]]:
    """Files that people and scripts read, from stores of made-up predictions."""
    for name, study in STORES.items():
        with tempfile.TemporaryDirectory() as folder:
            place = study.write(Path(folder) / "results")
            with pytest.MonkeyPatch.context() as patch:
                # Neither figures nor the page are among the files, and both take long.
                patch.setattr(catalogue, "FIGURES", {})
                patch.setattr(page, "render_report", lambda *_: "")
                write_frontier(place)
            export_table(place, "latex", Path(folder) / "table.tex", None)
            export_table(place, "csv", Path(folder) / "table.csv", None)
            found = [place / table for table in TABLES if (place / table).exists()]
            for path in (*found, Path(folder) / "table.tex", Path(folder) / "table.csv"):
                yield f"{name}, {path.name}", digest(path.read_bytes())
            yield (
                f"{name}, trials.parquet, {ARROW}",
                digest((place / "trials.parquet").read_bytes()),
            )


def bits() -> Iterator[tuple[str, str]]:
    """Scores over shards, and a trial that is trained on what they leave."""
    torch.set_num_threads(1)
    study = Study(
        "t",
        "digits+long_tail(10)",
        "small_cnn",
        {"method": {"grid_search": ["moso", "el2n"]}, "quotas": "drop", "keep_fraction": 0.5},
        seeds=(0,),
        training=Training(epochs=2, batch_size=32, learning_rate=0.1),
        checkpoints=2,
        include_unpruned=False,
    )
    data = prepare(load_dataset(study.dataset))
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        worker = GradientWorker(data, study.model)
        gradients = ShardedGradients(LocalExecutor(worker), data.dataset.train.ids)
        for query in plan.queries:
            run_query(study, query, data, store, "cpu")
        for score in plan.scores:
            run_score(study, score, data.dataset.train, store, gradients)
            array = required(store, "scores", score.key).array("scores")
            yield f"scores of {score.method}, {MACHINE}", digest(array.tobytes())
        for run in plan.trials:
            run_trial(study, run, data, store, "cpu")
            arrays = required(store, "trial", run.key).arrays()
            content = b"".join(
                np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays)
            )
            yield f"trial of {run.trial.method}, {MACHINE}", digest(content)


KINDS = {"plans": plans, "tables": tables, "bits": bits}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_recorded_stays(kind: str) -> None:
    recorded = json.loads(RECORDED.read_text())[kind]
    found = dict(KINDS[kind]())
    known = found.keys() & recorded.keys()
    if not known:
        pytest.skip(f"recorded on {', '.join(sorted(recorded))}; this is {MACHINE}")
    assert {name: found[name] for name in known} == {name: recorded[name] for name in known}
    missing = recorded.keys() - found.keys()
    assert not [name for name in missing if "torch" not in name and "pyarrow" not in name]


if __name__ == "__main__":
    content: dict[str, Any] = {kind: dict(found()) for kind, found in KINDS.items()}
    RECORDED.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
