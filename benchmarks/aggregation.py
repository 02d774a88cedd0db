"""How long a large study takes from its store to its table and comparisons, and how much memory.

A store is written with 10,000 finished trials of 100 classes on 10,000 test images: 2,000 points
of 5 seeds, each trial with its predictions, the ids of the samples that it kept (15,000 of 50,000)
and a record as trials leave it. Then, in a process of its own, what ``raydrop frontier`` does
before it draws: read and verify every record, resample all trials jointly 1,000 times, make the
table with its intervals and probabilities of the front, and compare every point with its
references. Seconds of each step are wall time; memory is the process's largest resident set.

Run with ``python benchmarks/aggregation.py``; ``--points`` and ``--seeds`` give other sizes,
``--folder`` keeps the store for another look.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from raydrop.frontier import frontier_table
from raydrop.frontier.records import load_records
from raydrop.frontier.statistics.comparisons import comparisons
from raydrop.frontier.statistics.resampling import resample
from raydrop.store import Store
from raydrop.study import SCHEMA, Study, TrialConfig, canonical_json, config_hash

CLASSES, IMAGES, TRAINING, KEPT = 100, 10_000, 50_000, 15_000
FINGERPRINT = "made up"
KEEPS = tuple(round(0.04 * step, 2) for step in range(1, 26))
QUOTAS = ("none", "drop", "balanced", "proportional")


def configs(points: int, seeds: int) -> list[TrialConfig]:
    """Return trials: methods, quota rules and keep fractions, all data last, of every seed."""
    pruned = [
        (f"method{number}" if number else "random", quotas, keep)
        for number in range(1 + points // (len(KEEPS) * len(QUOTAS)))
        for quotas in QUOTAS
        for keep in KEEPS[:-1]
    ]
    cells = [("none", "none", 1.0), *pruned[: points - 1]]
    return [
        TrialConfig(method, quotas, keep, "cross_entropy", "resnet18", "resnet18", seed)
        for method, quotas, keep in cells
        for seed in range(seeds)
    ]


def write_study(folder: Path, points: int, seeds: int) -> None:
    """Write a store of made-up trials and the study file that asks for them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), IMAGES // CLASSES).astype(np.int64)
    store, trials = Store(folder / "store"), configs(points, seeds)
    study = Study("large", "cifar100", "resnet18", {"method": "random"}, seeds=tuple(range(seeds)))
    base = study.base(FINGERPRINT)
    data = {"kind": "data", "schema": SCHEMA, "fingerprint": FINGERPRINT}
    store.write("data", data, _data_facts(), {"test_labels": labels, "test_ids": np.arange(IMAGES)})
    asked = []
    for trial in trials:
        config = {"kind": "trial", **base, "trial": trial.as_dict()}
        recalls = 0.5 + 0.4 * trial.keep_fraction * rng.random(CLASSES)
        hits = rng.random(IMAGES, dtype=np.float32) < recalls[labels]
        arrays: dict[str, NDArray[Any]] = {
            "predictions": np.where(hits, labels, (labels + 1) % CLASSES).astype(np.int32),
            "kept_ids": rng.choice(TRAINING, KEPT, replace=False),
        }
        store.write("trial", config, _record(trial), arrays)
        asked.append({"trial_id": config_hash(config), **asdict(trial)})
    text = canonical_json(
        {
            "schema": SCHEMA,
            "study": study.to_dict([{"method": "random"}]),
            "study_id": "made up",
            "data_fingerprint": FINGERPRINT,
            "trials": asked,
        }
    )
    (folder / "study.json").write_text(text)


def _data_facts() -> dict[str, Any]:
    return {
        "dataset": "made up",
        "class_names": [f"class {number}" for number in range(CLASSES)],
        "class_sizes": [TRAINING // CLASSES] * CLASSES,
        "n_train": TRAINING,
        "n_validation": IMAGES,
        "n_test": IMAGES,
    }


def _record(trial: TrialConfig) -> dict[str, Any]:
    return {
        **trial.as_dict(),
        "dataset": "made up",
        "budget": "equal_epochs",
        "by": "class",
        "network_method": "none",
        "network_sparsity": 0.0,
        "n_kept": KEPT,
        "n_train": TRAINING,
        "kept_by_class": [KEPT // CLASSES] * CLASSES,
        "validation_by_class": [IMAGES // CLASSES // 2] * CLASSES,
        "validation_sizes_by_class": [IMAGES // CLASSES] * CLASSES,
        "epochs": 200,
        "steps": 1000,
        "train_seconds": 1.0,
        "seconds": 1.0,
        "device": "cpu",
        "precision": "fp32",
    }


def report(folder: Path) -> None:
    """Print seconds and memory of each step, in this process."""
    start = time.perf_counter()

    def step(name: str, found: object) -> None:
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"  {name}: {seconds:.1f} s since the start, peak {peak:.2f} GiB; {found}", flush=True
        )

    records = load_records(folder)
    step("records read", f"{len(records.trials)} trials")
    resamples = resample(records)
    step("1,000 joint resamples", "done")
    table = frontier_table(records.trials, records.class_names, resamples=resamples)
    step(
        "table", f"{len(table)} points, {(table['front_status'] == 'frontier').sum()} on the front"
    )
    compared = comparisons(records)
    step("comparisons", f"{len(compared)} rows")


def main() -> None:
    """Write the store, and read it in a process of its own."""
    parser = argparse.ArgumentParser(description="Aggregation of a large study from its store.")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the store is, or is to be kept")
    parser.add_argument("--read", action="store_true", help="only read the store in --folder")
    given = parser.parse_args()
    if given.read:
        report(given.folder)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, SciPy {scipy.__version__}, pandas {pd.__version__}; "
        f"{given.points} points x {given.seeds} seeds"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        with mock.patch("os.fsync"):  # a made-up store may be lost
            write_study(folder, given.points, given.seeds)
        subprocess.run([sys.executable, __file__, "--read", "--folder", folder], check=True)


if __name__ == "__main__":
    main()
