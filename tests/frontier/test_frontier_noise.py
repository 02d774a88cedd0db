from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import SMALL, TRANSFER

from raydrop.frontier.points import point_name, scorer_name, series_name, setting_name
from raydrop.frontier.records import load_records
from raydrop.frontier.report.sentences import noise_answer
from raydrop.frontier.statistics.densities import Noise, noise_of

OWN = {"model": "resnet18", "query_model": "resnet18", "quotas": "none", "loss": "cross_entropy"}


def trials_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """Make trials of 1000 samples of which 100 are mislabelled."""
    facts = {**OWN, "n_noisy": 100, "n_train": 1000}
    return pd.DataFrame([{**facts, **row} for row in rows])


def trial(method: str, keep: float, pruned: float | None, seed: int = 0, **more: Any) -> Any:
    return {"method": method, "keep_fraction": keep, "noisy_pruned": pruned, "seed": seed, **more}


def known(trials: pd.DataFrame) -> Noise:
    noise = noise_of(trials)
    assert noise is not None
    return noise


def shares(noise: Noise) -> dict[tuple[str, float], float]:
    rows = noise.points.to_dict("records")
    return {(row["name"], row["keep_fraction"]): row["noisy_pruned"] for row in rows}


def test_nothing_known_is_none(tmp_path: Path) -> None:
    assert noise_of(load_records(SMALL.write(tmp_path)).trials) is None
    assert noise_of(trials_of(trial("moso", 0.5, None))) is None
    assert noise_of(trials_of(trial("moso", 0.5, 0.0, n_noisy=0))) is None
    assert noise_of(trials_of(trial("none", 1.0, 0.0))) is None


def test_two_models_and_two_query_models_have_known_shares(tmp_path: Path) -> None:
    noise = known(load_records(TRANSFER.write(tmp_path)).trials)
    assert (noise.n_noisy, noise.n_train) == (80, 800)
    assert shares(noise) == pytest.approx(
        {
            ("moso + none from resnet50", 0.2): 0.864,
            ("moso + none from resnet50", 0.5): 0.66,
            ("moso + none from resnet18", 0.2): 0.844,
            ("moso + none from resnet18", 0.5): 0.61,
            ("random + none", 0.2): 0.8,
            ("random + none", 0.5): 0.5,
        }
    )
    assert list(shares(noise)) == [
        (f"{name} + none{origin}", keep)
        for name, origin in (("moso", " from resnet50"), ("moso", " from resnet18"), ("random", ""))
        for keep in (0.2, 0.5)
    ]
    half = noise.points.set_index(["name", "keep_fraction"]).loc[("moso + none from resnet50", 0.5)]
    assert (half["noisy_pruned_min"], half["noisy_pruned_max"]) == pytest.approx((0.65, 0.67))
    assert (half["n_seeds"], half["uniform"]) == (3, 0.5)


def test_with_one_target_model_its_own_scores_are_not_said_to_come_from_it() -> None:
    trials = trials_of(trial("moso", 0.5, 0.7), trial("moso", 0.5, 0.6, query_model="resnet50"))
    assert list(shares(known(trials))) == [
        ("moso + none", 0.5),
        ("moso + none from resnet50", 0.5),
    ]


def test_a_missing_loss_or_model_does_not_shift_the_weight_of_a_seed() -> None:
    whole = trials_of(trial("moso", 0.5, 0.6, seed=0), trial("moso", 0.5, 0.8, seed=1))
    more = trials_of(
        trial("moso", 0.5, 0.6, seed=0),
        trial("moso", 0.5, 0.6, seed=0, loss="cdb_w"),
        trial("moso", 0.5, 0.8, seed=1),
    )
    pd.testing.assert_frame_equal(known(more).points, known(whole).points)
    assert known(more).points["noisy_pruned"].tolist() == [pytest.approx(0.7)]
    assert known(more).points["n_seeds"].tolist() == [2]


def test_random_pruning_is_one_series_whatever_the_query_model() -> None:
    trials = trials_of(
        trial("random", 0.5, 0.4),
        trial("random", 0.5, 0.6, quotas="drop"),
        trial("random", 0.5, 0.8, quotas="drop", query_model="resnet50"),
    )
    assert shares(known(trials)) == pytest.approx(
        {("random + drop", 0.5): 0.7, ("random + none", 0.5): 0.4}
    )


def test_series_are_ordered_by_what_they_prune_beyond_a_uniform_draw() -> None:
    trials = trials_of(
        trial("moso", 0.2, 0.85),
        trial("aum", 0.8, 0.4),
        trial("el2n", 0.2, 0.1),
        trial("el2n", 0.8, 0.1),
    )
    assert [name for name, _ in shares(known(trials))] == [
        "aum + none",
        "moso + none",
        "el2n + none",
        "el2n + none",
    ]


def test_trials_without_a_share_are_left_out() -> None:
    trials = trials_of(trial("moso", 0.5, 0.6), trial("moso", 0.5, np.nan, seed=1))
    assert known(trials).points["n_seeds"].tolist() == [1]


def test_the_answer_names_the_best_at_every_keep_fraction() -> None:
    trials = trials_of(
        trial("moso", 0.2, 0.82),
        trial("el2n", 0.2, 0.86),
        trial("moso", 0.8, 0.6),
        trial("moso", 0.8, 0.7, seed=1),
        trial("el2n", 0.8, 0.1),
    )
    assert noise_answer(known(trials).points) == (
        "The largest share of the mislabelled samples is pruned by moso + none at keep fraction "
        "0.8 (0.65, seed range 0.60\N{EN DASH}0.70; a uniform draw: 0.20), by el2n + none at keep "
        "fraction 0.2 (0.86, one seed; a uniform draw: 0.80)."
    )


def test_models_are_named_where_they_tell_something_apart() -> None:
    own = {**OWN, "method": "moso", "quotas": "drop", "keep_fraction": 0.2}
    other = {**own, "query_model": "vgg16"}
    assert (scorer_name(own), scorer_name(other)) == ("moso", "moso from vgg16")
    assert (series_name(own), series_name(other)) == ("moso + drop", "moso + drop from vgg16")
    assert series_name({**own, "method": "none"}) == "all the data"
    assert setting_name(own, several_models=False) == "cross_entropy"
    assert setting_name(own, several_models=True) == "resnet18, cross_entropy"
    name = "moso + drop from vgg16, cross_entropy, keep 0.2"
    assert point_name(other, several_models=False) == name
    assert point_name(other, several_models=True) == f"resnet18: {name}"
