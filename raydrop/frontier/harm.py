"""What pruning harms, point by point: excess gaps, areas under ROC curves, and exemplars.

A point whose networks were pruned is compared with the *dense* ones that they came of, trained on
the same data with the same seeds. A point that was trained on a part of the data is compared with
training on all of them, with the same loss and the same seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from raydrop.frontier.records import Records
from raydrop.metrics import recalls
from raydrop.metrics.harm import (
    accuracy_on_and_off,
    excess_accuracy_gap,
    excess_accuracy_gaps,
    pruning_identified_exemplars,
    share_by_unit,
)
from raydrop.store import Store
from raydrop.study import By

Floats = NDArray[np.float64]
Predictions = NDArray[np.integer[Any]]
Read = Callable[[str], Predictions]

POINT = (
    "model",
    "query_model",
    "method",
    "quotas",
    "keep_fraction",
    "loss",
    "network_method",
    "network_target",
)
"""What makes a point here."""

COLUMNS = (
    *POINT,
    "pruned",
    "n_seeds",
    "average_accuracy_change",
    "worst_accuracy_change",
    "excess_accuracy_gap",
    "excess_accuracy_gap_low",
    "excess_accuracy_gap_high",
    "most_harmed",
    "excess_accuracy_gap_of_most_harmed",
    "average_auc",
    "worst_auc",
    "worst_auc_change",
    "n_exemplars",
    "exemplar_share",
    "worst",
    "exemplar_share_of_worst",
    "accuracy_on_exemplars",
    "dense_accuracy_on_exemplars",
    "accuracy_off_exemplars",
    "note",
)
"""Columns of ``harm.csv``."""

CONFIDENCE = 0.95
_REMEMBERED = 32
"""Trials whose predictions are kept in memory."""
ONE_SEED = (
    "one seed: no interval, and what pruning changes cannot be told from what another seed would"
)
TWO_SEEDS = "two seeds: where they disagree, a modal label is the class with the lower index"

_SAME_DATA = ["dataset", "model", "query_model", "method", "quotas", "keep_fraction", "budget"]
_SAME_NETWORK = ["dataset", "model", "loss", "budget"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Trials of one point, and for each that of its reference with the same seed."""

    pruned: pd.DataFrame
    """S rows, by ascending seed."""
    dense: pd.DataFrame
    """S rows in the same order."""

    def accuracies(self, by: By) -> tuple[Floats, Floats, Floats]:
        """Return those of classes or groups: pruned (S, U), dense (S, U), and test samples (U,)."""
        totals = np.array(self.pruned[f"test_by_{by}"].iloc[0])
        one, other = (
            recalls(np.array(side[f"correct_by_{by}"].tolist()), totals)
            for side in (self.pruned, self.dense)
        )
        return one, other, totals.astype(np.float64)


def harm_table(records: Records, by: By = "class") -> pd.DataFrame:
    """Return what pruning harms, a row for each point that has a reference with the same seeds.

    ``pruned`` is ``network`` or ``data``, whichever sets a point apart from its reference; only
    the seeds that both have count, ``n_seeds`` of them. With n images and U classes (or groups):

    * ``average_accuracy_change`` and ``worst_accuracy_change`` are means over seeds of the pruned
      minus the dense accuracy, each network's own worst unit counting.
      ``excess_accuracy_gap`` is :func:`raydrop.metrics.harm.excess_accuracy_gap`, which is the
      former minus the latter, averaged over seeds; ``_low`` and ``_high`` are Student's 95 %
      interval over the paired seeds (ddof 1), for the same test images and the mean over further
      seeds, and NaN with one seed. ``most_harmed`` is the unit with the largest
      :func:`raydrop.metrics.harm.excess_accuracy_gaps`, seeds averaged first. As the largest of
      several it is above 0 by noise alone.
    * ``average_auc`` and ``worst_auc`` are the mean and the lowest area under the ROC curve over
      units (one class against the rest; see :func:`raydrop.metrics.auc_by_group` for groups) and
      ``worst_auc_change`` the latter minus that of the dense networks; means over seeds, NaN where
      a record holds none.
    * ``n_exemplars`` counts the images whose modal label over the seeds differs from that over
      those of the reference, ``exemplar_share`` divides them by n. They are pruning-identified
      exemplars (:func:`raydrop.metrics.harm.pruning_identified_exemplars`) where networks are
      pruned; where data are, exemplars that *data* pruning identifies, which is another thing.
      ``exemplar_share_of_worst`` is their share of the images of ``worst``, the unit that the
      pruned networks do worst on. ``accuracy_on_exemplars`` and ``dense_accuracy_on_exemplars`` are
      mean accuracies on these images, ``accuracy_off_exemplars`` that of the pruned on all others;
      NaN where there are no such images.
    * ``note`` says what one or two seeds do not permit.

    Args:
        records: As from :func:`~raydrop.frontier.records.load_records`.
        by: Whether units are classes or groups.

    Returns:
        Rows with :data:`COLUMNS`, ordered by :data:`POINT`; none where nothing was pruned or no
        reference is finished.

    Raises:
        StoreError: If the predictions of a trial are not there any longer.
    """
    # Neighbouring points have their references in common.
    read = functools.lru_cache(_REMEMBERED)(records.predictions)
    rows = [
        dict(zip(POINT, point, strict=True)) | _row(records, pairs, by, read)
        for point, pairs in _points(records)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def references(records: Records) -> dict[str, str]:
    """Return the trial that each pruned one is compared with, by trial ids.

    A network trial's configuration names its dense trial. Where it does not, that is the only trial
    of the same data selection, model and seed whose network is not pruned. A trial of a part of the
    data has that of all the data with the same model, loss and seed.
    """
    trials, store = records.trials, Store(records.place, glance=True)
    finished = set(trials["trial_id"])
    dense = trials[trials["network_method"] == "none"]
    whole = dense[dense["method"] == "none"]
    found = {}
    for row in trials.to_dict("records"):
        key = str(row["trial_id"])
        if row["network_method"] != "none":
            entry = store.peek("trial", key)
            named = None if entry is None else entry.config.get("dense")
            reference = (isinstance(named, str) and named) or _only(dense, row, _SAME_DATA)
        else:
            reference = None if row["method"] == "none" else _only(whole, row, _SAME_NETWORK)
        if reference in finished:
            found[key] = str(reference)
    return found


def _only(trials: pd.DataFrame, row: Mapping[Any, Any], same: list[str]) -> str | None:
    """Return the trial that shares some columns and the seed with a row, if there is just one."""
    alike = np.logical_and.reduce([trials[name] == row[name] for name in [*same, "seed"]])
    ids = trials["trial_id"][alike]
    return str(ids.iloc[0]) if len(ids) == 1 else None


def _points(records: Records) -> Iterator[tuple[tuple[Any, ...], Pairs]]:
    """Yield every point that has references, in order."""
    to_dense = references(records)
    trials = records.trials.set_index("trial_id", drop=False)
    compared = trials[trials["trial_id"].isin(list(to_dense))]
    ordered = compared.sort_values([*POINT, "seed"], kind="stable")
    for point, seeds in ordered.groupby(list(POINT), sort=True):
        yield point, Pairs(seeds, trials.loc[[to_dense[key] for key in seeds["trial_id"]]])


def _row(records: Records, pairs: Pairs, by: By, read: Read) -> dict[str, Any]:
    network, seeds = pairs.pruned["network_method"].iloc[0] != "none", len(pairs.pruned)
    return {
        "pruned": "network" if network else "data",
        "n_seeds": seeds,
        **_gaps(pairs, by, records.names(by)),
        **_areas(pairs, by),
        **_exemplars(records, pairs, by, read),
        "note": {1: ONE_SEED, 2: TWO_SEEDS}.get(seeds, ""),
    }


def _gaps(pairs: Pairs, by: By, names: tuple[str, ...]) -> dict[str, Any]:
    pruned, dense, totals = pairs.accuracies(by)
    excess = excess_accuracy_gap(pruned, dense, totals)
    low, high = seed_interval(excess)
    own = excess_accuracy_gaps(pruned, dense, totals).mean(axis=0)
    most = int(np.nanargmax(own))
    average, worst = (
        (pairs.pruned[name].to_numpy() - pairs.dense[name].to_numpy()).mean()
        for name in ("average_accuracy", f"worst_{by}_accuracy")
    )
    return {
        "average_accuracy_change": float(average),
        "worst_accuracy_change": float(worst),
        "excess_accuracy_gap": float(excess.mean()),
        "excess_accuracy_gap_low": low,
        "excess_accuracy_gap_high": high,
        "most_harmed": names[most],
        "excess_accuracy_gap_of_most_harmed": float(own[most]),
    }


def seed_interval(values: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's interval for the mean of (S,) paired differences; NaN with one."""
    if len(values) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2) * error)
    mean = float(values.mean())
    return mean - half, mean + half


def _areas(pairs: Pairs, by: By) -> dict[str, float]:
    worst = f"worst_{by}_auc"
    told = [each for each in pairs.pruned[f"auc_by_{by}"] if each is not None]
    means = [np.nanmean(each) for each in told if not np.isnan(each).all()]
    change = pairs.pruned[worst].to_numpy() - pairs.dense[worst].to_numpy()
    return {
        "average_auc": float(np.mean(means)) if means else float("nan"),
        "worst_auc": float(pairs.pruned[worst].mean()),
        "worst_auc_change": float(change.mean()),
    }


def _exemplars(records: Records, pairs: Pairs, by: By, read: Read) -> dict[str, Any]:
    classes, labels = len(records.class_names), records.members("class")
    pruned, dense = (
        np.stack([read(str(key)) for key in side["trial_id"]])
        for side in (pairs.pruned, pairs.dense)
    )
    marked = pruning_identified_exemplars(dense, pruned, classes)
    names = records.names(by)
    shares = share_by_unit(marked, records.members(by), len(names))
    worst = int(np.nanargmin(pairs.accuracies(by)[0].mean(axis=0)))
    on, off = accuracy_on_and_off(marked, pruned, labels)
    return {
        "n_exemplars": int(marked.sum()),
        "exemplar_share": float(marked.mean()),
        "worst": names[worst],
        "exemplar_share_of_worst": float(shares[worst]),
        "accuracy_on_exemplars": on,
        "dense_accuracy_on_exemplars": accuracy_on_and_off(marked, dense, labels)[0],
        "accuracy_off_exemplars": off,
    }
