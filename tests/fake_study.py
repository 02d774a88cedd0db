"""A study of made-up predictions, for tests of what reads results: nothing is trained."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.store import Store, open_place
from raydrop.study import SCHEMA, By, Study, TrialConfig, config_hash

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
    models: Sequence[str] = ("small_cnn",)
    query_models: Sequence[str] = ()
    """Where scores come from, for every model; each scores for itself where empty."""
    n_noisy: int | None = None
    """Mislabelled training samples."""
    attributes: Sequence[str] = ()
    """Groups are label x attribute, the first attribute four times as common as all others."""
    by: By = "class"
    validation_per_class: int = 10
    network_methods: Sequence[str] = ()
    """How networks are pruned; none are where empty. Dense trials then have the first loss only."""
    network_targets: Sequence[str] = ()
    unreached: Sequence[str] = ()
    """Targets whose trials say that they were not reached."""

    def trials(self) -> list[TrialConfig]:
        return list(self._trials)

    @functools.cached_property
    def _trials(self) -> list[TrialConfig]:
        cells = itertools.product(
            self.models, self.methods, self.quotas, self.keeps, self.losses, self.seeds
        )
        configs = [
            TrialConfig(m, q, k, loss, model, query, seed)
            for model, m, q, k, loss, seed in cells
            for query in self.queries(model, reads_nothing=(m, q) == ("random", "none"))
        ]
        if self.unpruned:
            whole = itertools.product(self.models, self.losses, self.seeds)
            configs += [
                TrialConfig("none", "none", 1.0, loss, model, model, seed)
                for model, loss, seed in whole
            ]
        return self.with_networks(configs)

    def with_networks(self, configs: list[TrialConfig]) -> list[TrialConfig]:
        """Dense trials of the first loss, and each network of every loss after them."""
        if not self.network_methods:
            return configs
        pruned = [
            dataclasses.replace(config, network_method=method, network_target=target)
            for config in configs
            for method, target in itertools.product(self.network_methods, self.network_targets)
        ]
        return [config for config in configs if config.loss == self.losses[0]] + pruned

    def removed(self, trial: TrialConfig) -> float:
        """The share that is gone: what the target says."""
        if trial.network_target == "none":
            return 0.0
        return float(trial.network_target.partition("(")[2][:-1])

    def network(self, trial: TrialConfig) -> dict[str, Any]:
        """What the record says of its network; nothing where no network of the study is pruned."""
        if not self.network_methods:
            return {"network_method": "none", "network_sparsity": 0.0}
        removed, masked = self.removed(trial), trial.network_target.startswith("sparsity")
        sizes = {"macs": 1_000_000, "parameters": 20_000, "weights": 18_000}
        left = {
            name: round(size * (1 - removed)) if not masked or name == "weights" else size
            for name, size in sizes.items()
        }
        unreached = trial.network_target in self.unreached
        return {
            "network_method": trial.network_method,
            "network_target": trial.network_target,
            "network_sparsity": removed,
            **left,
            **{f"dense_{name}": size for name, size in sizes.items()},
            "macs_removed": 0.0 if masked else removed,
            "forward_seconds": 0.002,
            "network_note": f"{trial.network_target} was not reached" if unreached else "",
        }

    def queries(self, model: str, *, reads_nothing: bool) -> Sequence[str]:
        return (model,) if reads_nothing or not self.query_models else self.query_models

    def noisy_pruned(self, trial: TrialConfig) -> float | None:
        """A known share: random is uniform, each further method and query model prunes more."""
        if self.n_noisy is None:
            return None
        pruned = 1 - trial.keep_fraction
        if trial.method in ("none", "random"):
            return pruned
        gain = 0.2 * self.methods.index(trial.method) + 0.02 * trial.seed
        if trial.query_model in self.query_models:
            gain += 0.1 * self.query_models.index(trial.query_model)
        return pruned + gain * trial.keep_fraction

    def study(self) -> Study:
        space, seeds = {"method": "random"}, tuple(self.seeds)
        return Study("fake", "digits", "small_cnn", space, seeds=seeds, by=self.by)

    @functools.cached_property
    def _bases(self) -> dict[str, dict[str, Any]]:
        return {}  # by the data's fingerprint

    def identity(self, trial: TrialConfig) -> dict[str, Any]:
        if FINGERPRINT not in self._bases:
            self._bases[FINGERPRINT] = self.study().base(FINGERPRINT)
        return {"kind": "trial", **self._bases[FINGERPRINT], "trial": trial.as_dict()}

    def trial_id(self, trial: TrialConfig) -> str:
        return config_hash(self.identity(trial))

    def labels(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.class_names)), self.test_per_class)

    def group_names(self) -> list[str]:
        pairs = itertools.product(self.class_names, self.attributes)
        return [f"{name}, {attribute}" for name, attribute in pairs]

    def groups(self) -> NDArray[np.int64]:
        """Within each label: four of the first attribute, then one of another in turn."""
        place = np.arange(self.test_per_class)
        others = 1 + place // 5 % (len(self.attributes) - 1)
        attributes = np.where(place % 5 < 4, 0, others)
        labels = self.labels()
        return labels * len(self.attributes) + np.resize(attributes, len(labels))

    def group_sizes(self) -> list[int]:
        rare = self.train_per_class // 5 // (len(self.attributes) - 1)
        common = self.train_per_class - rare * (len(self.attributes) - 1)
        return [common, *[rare] * (len(self.attributes) - 1)] * len(self.class_names)

    def kept(self, trial: TrialConfig) -> list[int]:
        """Known counts (K,): drop keeps more of harder classes, every further method fewer."""
        base = round(self.train_per_class * trial.keep_fraction)
        if trial.method == "none":
            return [base] * len(self.class_names)
        tilt = 0.5 * (trial.quotas == "drop") - 0.15 * self.methods.index(trial.method)
        tilt += 0.01 * trial.seed * (trial.method != "random")
        tilt = max(-0.9, min(tilt, 1 / trial.keep_fraction - 1))
        steps = np.linspace(-1, 1, len(self.class_names))
        return [base + round(tilt * base * step) for step in steps.tolist()]

    def kept_by_group(self, trial: TrialConfig) -> list[int]:
        """Rare groups are kept whole as far as possible where quotas are by group."""
        counts = []
        for kept in self.kept(trial):
            rare = self.group_sizes()[1]
            if self.by == "class" or trial.quotas == "none":
                rare = round(rare * kept / self.train_per_class)
            others = len(self.attributes) - 1
            rare = min(rare, kept // (others + 1))
            counts += [kept - rare * others, *[rare] * others]
        return counts

    @functools.cached_property
    def _places(self) -> dict[TrialConfig, int]:
        return {trial: place for place, trial in reversed([*enumerate(self.trials())])}

    def predictions(self, trial: TrialConfig) -> NDArray[np.int16]:
        rng = np.random.default_rng([self._places[trial], 7])
        classes = len(self.class_names)
        difficulty = np.linspace(0.05, 0.5, classes) * (1.3 - trial.keep_fraction)
        if trial.quotas == "drop":
            difficulty = 0.55 * difficulty + 0.4 * difficulty.mean()
        if trial.loss != "cross_entropy":
            difficulty = 0.75 * difficulty + 0.3 * difficulty.mean()
        if trial.network_target != "none":
            # The hardest class suffers most, and less so with another loss.
            harm = 0.5 if trial.loss == self.losses[0] else 0.2
            harm *= 1 + 0.3 * (trial.network_method == "random")
            tilt = np.linspace(0, 1, classes)
            difficulty = difficulty + harm * self.removed(trial) ** 2 * tilt
        if trial.method != "none":
            difficulty = difficulty * (1 + 0.13 * self.methods.index(trial.method))
        labels = self.labels()
        chances = np.clip(difficulty, 0, 0.95)[labels]
        if self.attributes:
            # Rare groups are hard, most of all in the class that is easiest on average.
            rare = self.groups() % len(self.attributes) > 0
            relief = 0.5 if trial.quotas == "drop" and self.by == "group" else 1.0
            chances = np.where(rare, relief * (0.9 - 0.15 * labels), 0.5 * chances)
        wrong = rng.random(len(labels)) < chances
        others = (labels + rng.integers(1, classes, len(labels))) % classes
        return np.where(wrong, others, labels).astype(np.int16)

    def validation(self, trial: TrialConfig) -> dict[str, Any]:
        """Counts as if validation were another draw of the test set's recalls."""
        rng = np.random.default_rng([self._places[trial], 11])
        correct, found = self.predictions(trial) == self.labels(), {}
        units: dict[str, tuple[NDArray[np.int64], int]]
        units = {"class": (self.labels(), len(self.class_names))}
        if self.attributes:
            units["group"] = self.groups(), len(self.group_names())
        for by in ("class", "group"):
            counts = sizes = None
            if by in units:
                members, number = units[by]
                totals = np.maximum(np.bincount(members, minlength=number), 1)
                recalls = np.bincount(members[correct], minlength=number) / totals
                sizes = [self.validation_per_class] * number
                counts = rng.binomial(sizes, recalls).tolist()
            found |= {f"validation_by_{by}": counts, f"validation_sizes_by_{by}": sizes}
        return found

    def info(self, trial: TrialConfig) -> dict[str, Any]:
        n_train = self.train_per_class * len(self.class_names)
        kept = self.kept(trial)
        return {
            "dataset": "digits",
            "model": "small_cnn",
            "budget": "equal_epochs",
            **trial.as_dict(),
            **self.network(trial),
            "n_kept": sum(kept),
            "n_train": n_train,
            "n_noisy": self.n_noisy,
            "noisy_pruned": self.noisy_pruned(trial),
            "epochs": 30,
            "steps": 100,
            "kept_by_class": kept,
            "by": self.by,
            "kept_by_group": self.kept_by_group(trial) if self.attributes else None,
            **self.validation(trial),
            "train_seconds": 1.5,
            "seconds": 2.0,
            "device": "cpu",
            "precision": "fp32",
        }

    def write(self, folder: str | Path, *, skip: Sequence[TrialConfig] = ()) -> Path:
        """Write the output folder, leaving out the records of some trials."""
        store = Store(open_place(folder))
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
        return open_place(folder).folder

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
        info |= {"group_names": self.group_names(), "group_sizes": []}
        if self.attributes:
            info["group_sizes"] = self.group_sizes()
            arrays["test_groups"] = self.groups()
        store.write("data", {"schema": SCHEMA, "fingerprint": FINGERPRINT}, info, arrays)

    def write_trial(self, store: Store, trial: TrialConfig, predictions: NDArray[Any]) -> None:
        arrays = {"predictions": predictions, "kept_ids": np.arange(5)}
        store.write("trial", self.identity(trial), self.info(trial), arrays)

    def write_failure(self, folder: str | Path, trial: TrialConfig, message: str) -> None:
        info = {"trial": trial.as_dict(), "message": message}
        Store(open_place(folder)).write("failure", self.identity(trial), info)

    def write_study(self, folder: str | Path) -> None:
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
        open_place(folder).write("study.json", json.dumps(study).encode())


SMALL = FakeStudy()
TRANSFER = FakeStudy(
    methods=("random", "moso"),
    quotas=("none",),
    keeps=(0.2, 0.5),
    models=("resnet18", "resnet50"),
    query_models=("resnet18", "resnet50"),
    losses=("cross_entropy",),
    n_noisy=80,
    seeds=(0, 1, 2),
)
"""Two target models, each with scores of its own and of the other; a tenth is mislabelled."""

NETWORKS = FakeStudy(
    methods=("random",),
    quotas=("none",),
    keeps=(0.3, 0.5),
    losses=("cross_entropy", "pw(0.5, 1)"),
    seeds=(0, 1, 2),
    test_per_class=100,
    network_methods=("autobot", "magnitude", "random"),
    network_targets=("flops(0.5)", "flops(0.75)", "flops(0.9)"),
    unreached=("flops(0.9)",),
)
"""Keep fraction x network target x loss on one grid; the last target is not reached."""

GROUPED = FakeStudy(attributes=("land", "water"), by="group")
"""Eight groups, the rare four hard; quotas are by group."""
