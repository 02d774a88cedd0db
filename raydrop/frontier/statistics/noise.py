"""What share of the mislabelled training samples each method removes.

Which samples go depends on scores, quotas, keep fraction and seed, never on the loss or the model
that is trained on the rest, so those are joined here.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from raydrop.frontier.points import SERIES, has_several_models, rows_of, series_name

SHARE = "noisy_pruned"


@dataclass(frozen=True, eq=False)
class Noise:
    """How much of the label noise is pruned."""

    n_noisy: int
    """Mislabelled samples in the training set."""
    n_train: int
    """Samples in the training set."""
    points: pd.DataFrame
    """A row per series and keep fraction: its columns, ``name``, ``keep_fraction``,
    ``noisy_pruned``, ``noisy_pruned_min`` and ``noisy_pruned_max`` over seeds, ``n_seeds``,
    ``uniform`` (what a uniform draw prunes on average, 1 - keep fraction). Series that exceed a
    uniform draw most come first, then small keep fractions."""


def noise_of(trials: pd.DataFrame) -> Noise | None:
    """Return how much of the label noise is pruned, or None where no mislabelled sample is known.

    Every value is a mean over seeds of (mislabelled and pruned) / mislabelled.
    """
    known = trials[trials[SHARE].notna() & (trials["n_noisy"].fillna(0) > 0)]
    pruned = known[known["method"] != "none"]
    if pruned.empty:
        return None
    n_noisy, n_train = (int(known[name].max()) for name in ("n_noisy", "n_train"))
    points = _points(_joined(pruned, several_models=has_several_models(trials)))
    return Noise(n_noisy, n_train, points)


def _joined(trials: pd.DataFrame, *, several_models: bool) -> pd.DataFrame:
    """Leave out of the series what does not matter for the samples that are pruned.

    With several target models none is named, so that names say where scores come from. Random
    pruning has no model's scores, so all its draws under a quota rule are one series.
    """
    trials = trials.assign(model="" if several_models else trials["model"])
    random = trials["method"] == "random"
    return trials.assign(query_model=trials["query_model"].mask(random, trials["model"]))


def _points(trials: pd.DataFrame) -> pd.DataFrame:
    # By seed first: a trial that is missing for one loss must not shift the weight of its seed.
    seeds = trials.groupby([*SERIES, "keep_fraction", "seed"])[SHARE].mean()
    spread = seeds.groupby([*SERIES, "keep_fraction"]).agg(["mean", "min", "max", "size"])
    spread.columns = [SHARE, f"{SHARE}_min", f"{SHARE}_max", "n_seeds"]
    points = spread.reset_index()
    points["name"] = [series_name(row) for row in rows_of(points)]
    points["uniform"] = 1.0 - points["keep_fraction"]
    excess = (points[SHARE] - points["uniform"]).groupby(points["name"]).transform("mean")
    points = points.assign(excess=excess).sort_values(
        ["excess", "name", "keep_fraction"], ascending=[False, True, True], kind="stable"
    )
    return points.drop(columns="excess").reset_index(drop=True)
