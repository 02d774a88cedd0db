"""How much is kept of each class or group, and of label noise, and whether that follows hardness.

The density of a class is the share of its training samples that a trial keeps. Which samples go
depends on scores, quotas, keep fraction and seed, and not on the loss, whose trials are therefore
joined here; of label noise, models that are trained on the rest are joined too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from raydrop.frontier.points import (
    PLAIN_LOSS,
    SERIES,
    has_several_models,
    of_model,
    rows_of,
    series_name,
    unpruned,
)
from raydrop.frontier.units import with_unit
from raydrop.study import By

_CELL = [*SERIES, "keep_fraction"]

_EQUAL = 1e-9
"""Densities or accuracies that differ by less differ by rounding only."""


def density_points(
    trials: pd.DataFrame, sizes: Sequence[int], unit: By = "class"
) -> pd.DataFrame | None:
    """Return every class's density, kept samples over all its training samples, densest first.

    Densities are averaged over seeds before they are sorted: sorted seed by seed, even a uniform
    draw would seem to prefer some classes.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.
        sizes: (U,) samples of each class or group in the full training set.
        unit: Whether densities are of classes or of groups.

    Returns:
        A row per series, keep fraction and class: :data:`~raydrop.frontier.points.SERIES`,
        ``name``, ``keep_fraction``, ``rank`` (1 is the densest), ``unit`` (the class or group),
        ``density``, ``density_min`` and ``density_max`` over seeds, ``smallest_kept`` (the fewest
        samples that any class keeps with any seed; the same in all rows of a series and keep
        fraction). None where nothing is pruned or no record says what is kept.
    """
    kept = _kept(with_unit(trials, unit))
    if kept.empty:
        return None
    kept["density"] = kept["kept"] / np.asarray(sizes)[kept["unit"]]
    points = (
        kept.groupby([*_CELL, "unit"])
        .agg(
            density=("density", "mean"),
            density_min=("density", "min"),
            density_max=("density", "max"),
            fewest=("kept", "min"),
        )
        .reset_index()
        .sort_values([*_CELL, "density"], ascending=[True] * len(_CELL) + [False], kind="stable")
    )
    cells = points.groupby(_CELL)
    several = has_several_models(points)
    rows = rows_of(points)
    points["rank"] = cells.cumcount() + 1
    points["smallest_kept"] = cells["fewest"].transform("min")
    points["name"] = [of_model(series_name(row), row, several_models=several) for row in rows]
    return points.drop(columns="fewest").reset_index(drop=True)


def correlation_points(
    trials: pd.DataFrame, sizes: Sequence[int], unit: By = "class"
) -> pd.DataFrame | None:
    """Return every class's density beside its accuracy when the same model keeps all the data.

    Both are means over seeds. The accuracies are those with cross-entropy or, where no finished
    trial has it, with the first other loss by name. Correlations are over classes (or groups) that
    have test samples: Pearson's and Spearman's, NaN with fewer than three classes, or where all
    densities or all accuracies are equal. Arguments are those of :func:`density_points`.

    Returns:
        The rows of :func:`density_points` with ``accuracy``, and with ``pearson`` and ``spearman``,
        the same in all rows of a series and keep fraction. None where there are no densities, or no
        model with densities has a finished trial on all the data.
    """
    points = density_points(trials, sizes, unit)
    full = _full_accuracies(with_unit(trials, unit))
    if points is None or full.empty:
        return None
    points = points.merge(full, on=["model", "unit"])
    if points.empty:
        return None
    for _, rows in points.groupby(_CELL):
        values = correlations(rows["density"].to_numpy(), rows["accuracy"].to_numpy())
        points.loc[rows.index, ["pearson", "spearman"]] = values
    return points


def correlations(
    densities: NDArray[np.float64], accuracies: NDArray[np.float64]
) -> tuple[float, float]:
    """Return Pearson's and Spearman's correlation over classes, NaN where they are undefined.

    A class without test samples, whose accuracy is NaN, is left out.
    """
    present = ~np.isnan(accuracies)
    x, y = densities[present], accuracies[present]
    if len(x) < 3 or np.ptp(x) < _EQUAL or np.ptp(y) < _EQUAL:
        return float("nan"), float("nan")
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def _kept(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series, keep fraction, seed and class: the number of samples kept."""
    pruned = trials[(trials["method"] != "none") & trials["kept"].notna()]
    if pruned.empty:
        return pd.DataFrame()
    # A trial of another loss keeps the same samples, and must not add weight to its seed.
    once = pruned.drop_duplicates([*_CELL, "seed"])[[*_CELL, "seed", "kept"]]
    once = once.assign(unit=once["kept"].map(lambda kept: list(range(len(kept)))))
    long = once.explode(["kept", "unit"], ignore_index=True)
    return long.astype({"kept": np.int64, "unit": np.int64})


def _full_accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and class: the mean accuracy over seeds on all the data."""
    rows = []
    for model, of_this in unpruned(trials).groupby("model"):
        loss = min(set(of_this["loss"]), key=lambda loss: (loss != PLAIN_LOSS, loss))
        seeds = of_this.loc[of_this["loss"] == loss, "recalls"]
        means = np.array(seeds.tolist(), dtype=np.float64).mean(axis=0)
        rows.append(pd.DataFrame({"model": model, "unit": range(len(means)), "accuracy": means}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


NOISY = "noisy_pruned"


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
    known = trials[trials[NOISY].notna() & (trials["n_noisy"].fillna(0) > 0)]
    pruned = known[known["method"] != "none"]
    if pruned.empty:
        return None
    n_noisy, n_train = (int(known[name].max()) for name in ("n_noisy", "n_train"))
    points = _noise_points(_joined(pruned, several_models=has_several_models(trials)))
    return Noise(n_noisy, n_train, points)


def _joined(trials: pd.DataFrame, *, several_models: bool) -> pd.DataFrame:
    """Leave out of the series what does not matter for the samples that are pruned.

    With several target models none is named, so that names say where scores come from. Random
    pruning has no model's scores, so all its draws under a quota rule are one series.
    """
    trials = trials.assign(model="" if several_models else trials["model"])
    random = trials["method"] == "random"
    return trials.assign(query_model=trials["query_model"].mask(random, trials["model"]))


def _noise_points(trials: pd.DataFrame) -> pd.DataFrame:
    # By seed first: a trial that is missing for one loss must not shift the weight of its seed.
    seeds = trials.groupby([*SERIES, "keep_fraction", "seed"])[NOISY].mean()
    spread = seeds.groupby([*SERIES, "keep_fraction"]).agg(["mean", "min", "max", "size"])
    spread.columns = [NOISY, f"{NOISY}_min", f"{NOISY}_max", "n_seeds"]
    points = spread.reset_index()
    points["name"] = [series_name(row) for row in rows_of(points)]
    points["uniform"] = 1.0 - points["keep_fraction"]
    excess = (points[NOISY] - points["uniform"]).groupby(points["name"]).transform("mean")
    points = points.assign(excess=excess).sort_values(
        ["excess", "name", "keep_fraction"], ascending=[False, True, True], kind="stable"
    )
    return points.drop(columns="excess").reset_index(drop=True)
