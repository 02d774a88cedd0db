from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from raydrop.errors import DataError, IncompleteStudyError, StoreError
from raydrop.frontier.records import TRIAL_COLUMNS, load_records
from raydrop.store import Store
from raydrop.study import SCHEMA, Study, TrialConfig, config_hash

FINGERPRINT = "5a" * 32


@dataclasses.dataclass(frozen=True)
class FakeStudy:
    """A finished sweep without a single training: predictions are drawn, harder classes worse."""

    methods: Sequence[str] = ("random", "el2n")
    quotas: Sequence[str] = ("none", "drop")
    keeps: Sequence[float] = (0.2, 0.5)
    losses: Sequence[str] = ("cross_entropy",)
    seeds: Sequence[int] = (0, 1)
    class_names: Sequence[str] = ("cat", "dog", "owl", "bee")
    test_per_class: int = 50
    train_per_class: int = 200
    unpruned: bool = True

    def trials(self) -> list[TrialConfig]:
        cells = itertools.product(self.methods, self.quotas, self.keeps, self.losses, self.seeds)
        configs = [TrialConfig(m, q, k, loss, seed) for m, q, k, loss, seed in cells]
        if self.unpruned:
            whole = itertools.product(self.losses, self.seeds)
            configs += [TrialConfig("none", "none", 1.0, loss, seed) for loss, seed in whole]
        return configs

    def study(self) -> Study:
        return Study("fake", "digits", "small_cnn", {"method": "random"}, seeds=tuple(self.seeds))

    def identity(self, trial: TrialConfig) -> dict[str, Any]:
        return {"kind": "trial", **self.study().base(FINGERPRINT), "trial": trial.as_dict()}

    def trial_id(self, trial: TrialConfig) -> str:
        return config_hash(self.identity(trial))

    def labels(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.class_names)), self.test_per_class)

    def predictions(self, trial: TrialConfig) -> NDArray[np.int16]:
        rng = np.random.default_rng([self.trials().index(trial), 7])
        classes = len(self.class_names)
        difficulty = np.linspace(0.05, 0.5, classes) * (1.3 - trial.keep_fraction)
        if trial.quotas == "drop":
            difficulty = 0.55 * difficulty + 0.4 * difficulty.mean()
        if trial.loss != "cross_entropy":
            difficulty = 0.75 * difficulty + 0.3 * difficulty.mean()
        if trial.method != "none":
            difficulty = difficulty * (1 + 0.13 * self.methods.index(trial.method))
        labels = self.labels()
        wrong = rng.random(len(labels)) < np.clip(difficulty, 0, 0.95)[labels]
        others = (labels + rng.integers(1, classes, len(labels))) % classes
        return np.where(wrong, others, labels).astype(np.int16)

    def info(self, trial: TrialConfig) -> dict[str, Any]:
        n_train = self.train_per_class * len(self.class_names)
        kept = round(self.train_per_class * trial.keep_fraction)
        return {
            "dataset": "digits",
            "model": "small_cnn",
            "budget": "equal_epochs",
            **trial.as_dict(),
            "network_method": "none",
            "network_sparsity": 0.0,
            "n_kept": kept * len(self.class_names),
            "n_train": n_train,
            "epochs": 30,
            "steps": 100,
            "kept_by_class": [kept] * len(self.class_names),
            "train_seconds": 1.5,
            "seconds": 2.0,
            "device": "cpu",
            "precision": "fp32",
        }

    def write(self, folder: Path, *, skip: Sequence[TrialConfig] = ()) -> Path:
        """Write the output folder, leaving out the records of some trials."""
        store = Store(folder / "store")
        self.write_data(store)
        for trial in self.trials():
            if trial not in skip:
                self.write_trial(store, trial, self.predictions(trial))
        for seed in self.seeds:
            query = {"seed": seed, "validation_recalls": [0.5], "train_seconds": 60.0}
            store.write("query", {"kind": "query", "seed": seed}, query)
            scores = {"method": "el2n", "seed": seed, "seconds": 3.0}
            store.write("scores", {"kind": "scores", "seed": seed}, scores)
        self.write_study(folder)
        return folder

    def write_data(self, store: Store) -> None:
        classes = len(self.class_names)
        info = {
            "dataset": "digits",
            "class_names": list(self.class_names),
            "class_sizes": [self.train_per_class] * classes,
            "n_train": self.train_per_class * classes,
            "n_validation": 40,
            "n_test": self.test_per_class * classes,
        }
        labels = self.labels()
        arrays = {"test_labels": labels, "test_ids": np.arange(len(labels))}
        store.write("data", {"schema": SCHEMA, "fingerprint": FINGERPRINT}, info, arrays)

    def write_trial(self, store: Store, trial: TrialConfig, predictions: NDArray[Any]) -> None:
        arrays = {"predictions": predictions, "kept_ids": np.arange(5)}
        store.write("trial", self.identity(trial), self.info(trial), arrays)

    def write_failure(self, folder: Path, trial: TrialConfig, message: str) -> None:
        info = {"trial": trial.as_dict(), "message": message}
        Store(folder / "store").write("failure", self.identity(trial), info)

    def write_study(self, folder: Path) -> None:
        study = {
            "schema": SCHEMA,
            "study": self.study().to_dict([{"method": "random"}]),
            "study_id": "51d" + "0" * 29,
            "base_id": "ba5e" + "0" * 28,
            "data_fingerprint": FINGERPRINT,
            "trials": [
                {"trial_id": self.trial_id(trial), **trial.as_dict()} for trial in self.trials()
            ],
            "versions": {"raydrop": "0.1.0", "numpy": "2.4.6"},
            "created": "2026-01-02T03:04:05+00:00",
        }
        (folder / "study.json").write_text(json.dumps(study))
