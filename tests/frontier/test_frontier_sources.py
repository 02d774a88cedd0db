"""Studies whose trials say which scores and query runs they read, and that these are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_study import FINGERPRINT, SMALL, FakeStudy
from numpy.typing import NDArray

from raydrop.frontier.records import load_records
from raydrop.frontier.sources import Sources, load_sources
from raydrop.store import Store
from raydrop.study import TrialConfig, config_hash

QUERY_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class SourcedStudy(FakeStudy):
    """A finished sweep with its scores: ``random`` reads no query run, ``drop`` reads recalls."""

    methods: Sequence[str] = ("random", "el2n", "forgetting", "moso")
    seeds: Sequence[int] = (0, 1, 2)
    lower_is_kept: Sequence[str] = ()
    scores: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    """(seeds, N) scores of a method, in place of drawn ones."""

    @property
    def n_train(self) -> int:
        return self.train_per_class * len(self.class_names)

    def query_config(self, model: str, seed: int) -> dict[str, Any]:
        return {"kind": "query", "model": model, "seed": seed, "data": FINGERPRINT}

    def score_config(self, method: str, model: str, seed: int) -> dict[str, Any]:
        queries = [] if method == "random" else [config_hash(self.query_config(model, seed))]
        return {"kind": "scores", "method": method, "seed": seed, "queries": queries}

    def identity(self, trial: TrialConfig) -> dict[str, Any]:
        t, scores, recalls = trial, None, None
        if t.method != "none":
            scores = config_hash(self.score_config(t.method, t.query_model, t.seed))
        if t.quotas == "drop":
            recalls = config_hash(self.query_config(t.query_model, t.seed))
        more = {"scores": scores, "quota_scores": None, "recalls": recalls}
        return {**super().identity(trial), **more}

    def scores_of(self, method: str, model: str, seed: int) -> NDArray[np.float64]:
        if method in self.scores:
            return self.scores[method][list(self.seeds).index(seed)]
        rng = np.random.default_rng([len(method), len(model), seed])
        if method == "forgetting":
            return np.where(rng.random(self.n_train) < 0.1, np.inf, rng.poisson(2.0, self.n_train))
        return rng.lognormal(0.0, 2.0 if method == "moso" else 0.1, self.n_train)

    def score_seconds(self, method: str, seed: int) -> float:
        return 1.0 + 10.0 * self.methods.index(method) + seed

    def write(self, folder: Path, *, skip: Sequence[TrialConfig] = ()) -> Path:
        super().write(folder, skip=skip)
        store = Store(folder / "store")
        read = {(t.method, t.query_model, t.seed) for t in self.trials() if t.method != "none"}
        for method, model, seed in sorted(read):
            config = self.score_config(method, model, seed)
            info = {
                "method": method,
                "seed": seed,
                "query_model": model if config["queries"] else None,
                "query_runs": len(config["queries"]),
                "higher_is_kept": method not in self.lower_is_kept,
                "seconds": self.score_seconds(method, seed),
            }
            store.write("scores", config, info, {"scores": self.scores_of(method, model, seed)})
            query = {"seed": seed, "model": model, "train_seconds": QUERY_SECONDS + seed}
            store.write("query", self.query_config(model, seed), query)
        return folder


SOURCED = SourcedStudy()


def sources_of(folder: Path) -> Sources:
    return load_sources(load_records(folder))


def test_every_trial_has_the_scores_and_recalls_that_it_names(tmp_path: Path) -> None:
    sources = sources_of(SOURCED.write(tmp_path))
    assert len(sources.scores) == 4 * 3
    assert {info["seed"] for info in sources.queries.values()} == {0, 1, 2}
    for trial in sources.trials.to_dict("records"):
        if trial["method"] == "none":
            assert trial["scores"] is None
        else:
            entry = sources.scores[trial["scores"]]
            assert (entry.info["method"], entry.info["seed"]) == (trial["method"], trial["seed"])
        assert (trial["recalls"] in sources.queries) == (trial["quotas"] == "drop")


def test_scores_of_other_studies_in_the_folder_are_no_sources(tmp_path: Path) -> None:
    dataclasses.replace(SOURCED, methods=("random", "grand")).write(tmp_path)
    sources = sources_of(SOURCED.write(tmp_path))
    assert {entry.info["method"] for entry in sources.scores.values()} == set(SOURCED.methods)


def test_query_models_are_named_where_there_are_several(tmp_path: Path) -> None:
    one = sources_of(SOURCED.write(tmp_path / "one"))
    assert {one.scorer(key) for key in one.scores} == set(SOURCED.methods)
    study = dataclasses.replace(SOURCED, query_models=("resnet18", "vgg16"), methods=("el2n",))
    two = sources_of(study.write(tmp_path / "two"))
    assert {two.scorer(key) for key in two.scores} == {"el2n from resnet18", "el2n from vgg16"}


def test_what_says_nothing_or_is_not_there_is_left_out(tmp_path: Path) -> None:
    silent = sources_of(SMALL.write(tmp_path / "silent"))
    assert (dict(silent.scores), dict(silent.queries)) == ({}, {})
    folder = SOURCED.write(tmp_path / "sourced")
    store = Store(folder / "store")
    gone = config_hash(SOURCED.score_config("moso", "small_cnn", 0))
    store.remove("scores", gone)
    for path in (folder / "store" / "query").glob("*/meta.json"):
        path.write_text("no JSON")
    sources = sources_of(folder)
    assert len(sources.scores) == 4 * 3 - 1
    assert gone not in sources.scores
    assert dict(sources.queries) == {}
