"""How much of each class or group is kept, and whether that follows how hard it is.

The density of a class is the share of its training samples that a trial keeps. It depends on
scores, quotas, keep fraction and seed, and not on the loss, whose trials are therefore joined here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from raydrop.frontier.names import DENSE, has_several_models, series_name
from raydrop.study import By

SERIES = ["model", "query_model", "method", "quotas"]
"""What makes a panel of the figures."""

POINT = [*SERIES, "keep_fraction"]

_EQUAL = 1e-9
"""Densities or accuracies that differ by less differ by rounding only."""


def density_points(
    trials: pd.DataFrame, sizes: Sequence[int], by: By = "class"
) -> pd.DataFrame | None:
    """Return every class's density, kept samples over all its training samples, densest first.

    Densities are averaged over seeds before they are sorted: sorted seed by seed, even a uniform
    draw would seem to prefer some classes.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.
        sizes: (K,) samples of each class, or (G,) of each group, in the full training set.
        by: Whether densities are of classes or of groups.

    Returns:
        A row per series, keep fraction and class: :data:`SERIES`, ``name``, ``keep_fraction``,
        ``rank`` (1 is the densest), ``unit`` (the class or group), ``density``, ``density_min`` and
        ``density_max`` over seeds, ``smallest_kept`` (the fewest samples that any class keeps with
        any seed; the same in all rows of a series and keep fraction). None where nothing is pruned
        or no record says what is kept.
    """
    kept = _kept(trials, by)
    if kept.empty:
        return None
    kept["density"] = kept["kept"] / np.asarray(sizes)[kept["unit"]]
    points = (
        kept.groupby([*POINT, "unit"])
        .agg(
            density=("density", "mean"),
            density_min=("density", "min"),
            density_max=("density", "max"),
            fewest=("kept", "min"),
        )
        .reset_index()
        .sort_values([*POINT, "density"], ascending=[True] * len(POINT) + [False], kind="stable")
    )
    cells = points.groupby(POINT)
    points["rank"] = cells.cumcount() + 1
    points["smallest_kept"] = cells["fewest"].transform("min")
    points["name"] = _names(points)
    return points.drop(columns="fewest").reset_index(drop=True)


def correlation_points(
    trials: pd.DataFrame, sizes: Sequence[int], by: By = "class"
) -> pd.DataFrame | None:
    """Return every class's density beside its accuracy when the same model keeps all the data.

    Both are means over seeds. The accuracies are those with cross-entropy or, where no finished
    trial has it, with the first other loss by name. Correlations are over classes (or groups) that
    have test samples: Pearson's and Spearman's, NaN with fewer than three classes, or where all
    densities or all accuracies are equal.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.
        sizes: (K,) samples of each class, or (G,) of each group, in the full training set.
        by: Whether densities and accuracies are of classes or of groups.

    Returns:
        The rows of :func:`density_points` with ``accuracy``, and with ``pearson`` and ``spearman``,
        the same in all rows of a series and keep fraction. None where there are no densities, or no
        model with densities has a finished trial on all the data.
    """
    points, full = density_points(trials, sizes, by), _full_accuracies(trials, by)
    if points is None or full.empty:
        return None
    points = points.merge(full, on=["model", "unit"])
    if points.empty:
        return None
    for _, rows in points.groupby(POINT):
        values = correlations(rows["density"].to_numpy(), rows["accuracy"].to_numpy())
        points.loc[rows.index, ["pearson", "spearman"]] = values
    return points


def correlations(
    densities: NDArray[np.float64], accuracies: NDArray[np.float64]
) -> tuple[float, float]:
    """Return Pearson's and Spearman's correlation over classes, NaN where they are undefined.

    Args:
        densities: (K,).
        accuracies: (K,), NaN for a class without test samples, which is left out.
    """
    present = ~np.isnan(accuracies)
    x, y = densities[present], accuracies[present]
    if len(x) < 3 or np.ptp(x) < _EQUAL or np.ptp(y) < _EQUAL:
        return float("nan"), float("nan")
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def _kept(trials: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return a row per series, keep fraction, seed and class: the number of samples kept."""
    column = f"kept_by_{by}"
    pruned = trials[(trials["method"] != "none") & trials[column].notna()]
    if pruned.empty:
        return pd.DataFrame()
    # A trial of another loss keeps the same samples, and must not add weight to its seed.
    once = pruned.drop_duplicates([*POINT, "seed"])[[*POINT, "seed", column]]
    once = once.assign(unit=once[column].map(lambda kept: list(range(len(kept)))))
    long = once.rename(columns={column: "kept"}).explode(["kept", "unit"], ignore_index=True)
    return long.astype({"kept": np.int64, "unit": np.int64})


def _full_accuracies(trials: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return a row per model and class: the mean accuracy over seeds on all the data."""
    unpruned = trials[(trials["method"] == "none") & (trials["network_target"] == DENSE)]
    rows = []
    for model, of_model in unpruned.groupby("model"):
        losses = sorted(set(of_model["loss"]), key=lambda loss: (loss != "cross_entropy", loss))
        seeds = of_model.loc[of_model["loss"] == losses[0], f"by_{by}"]
        means = np.array(seeds.tolist(), dtype=np.float64).mean(axis=0)
        rows.append(pd.DataFrame({"model": model, "unit": range(len(means)), "accuracy": means}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _names(points: pd.DataFrame) -> list[str]:
    several = has_several_models(points)
    return [
        f"{row['model']}: {series_name(row)}" if several else series_name(row)
        for row in points.to_dict("records")
    ]
