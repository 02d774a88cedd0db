"""What pruning harms, point by point: excess gaps, areas under ROC curves, and exemplars.

A point whose networks were pruned is compared with the *dense* ones that they came of, trained on
the same data with the same seeds. A point that was trained on a part of the data is compared with
training on all of them, with the same loss and the same seeds.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from raydrop.frontier.points import (
    ALL,
    DENSE_NETWORK,
    SERIES,
    Point,
    data_of,
    is_dense,
    points_of,
    references,
)
from raydrop.frontier.records import Records
from raydrop.frontier.table import AVERAGE, WORST
from raydrop.metrics import recalls
from raydrop.metrics.harm import (
    accuracy_on_and_off,
    excess_accuracy_gap,
    excess_accuracy_gaps,
    pruning_identified_exemplars,
    share_by_unit,
)
from raydrop.store import Store

Floats = NDArray[np.float64]
Read = Callable[[str], NDArray[np.integer[Any]]]

ORDER = [*SERIES, "keep_fraction", "loss", "network_method", "network_target"]
"""What makes a point here; rows are ordered by it."""

COLUMNS = (
    *ORDER,
    *("pruned", "n_seeds", "average_accuracy_change", "worst_accuracy_change"),
    *("excess_accuracy_gap", "excess_accuracy_gap_low", "excess_accuracy_gap_high", "most_harmed"),
    *("excess_accuracy_gap_of_most_harmed", "average_auc", "worst_auc", "worst_auc_change"),
    *("n_exemplars", "exemplar_share", "worst", "exemplar_share_of_worst", "accuracy_on_exemplars"),
    *("dense_accuracy_on_exemplars", "accuracy_off_exemplars", "note"),
)
"""Columns of ``harm.csv``."""

CONFIDENCE = 0.95
_REMEMBERED = 32
"""Trials whose predictions are kept in memory."""
ONE_SEED = (
    "one seed: no interval, and what pruning changes cannot be told from what another seed would"
)
TWO_SEEDS = "two seeds: where they disagree, a modal label is the class with the lower index"


@dataclass(frozen=True, eq=False)
class Pairs:
    """S trials of one point by ascending seed, and for each its reference's of the same seed."""

    pruned: pd.DataFrame
    dense: pd.DataFrame

    def accuracies(self) -> tuple[Floats, Floats, Floats]:
        """Return those of classes or groups: pruned (S, U), dense (S, U), and test samples (U,)."""
        totals = np.array(self.pruned["totals"].iloc[0])
        one, other = (
            recalls(np.array(side["correct"].tolist()), totals)
            for side in (self.pruned, self.dense)
        )
        return one, other, totals.astype(np.float64)

    def changes(self, name: str) -> Floats:
        """Return the pruned minus the dense values (S,) of a column."""
        found: Floats = self.pruned[name].to_numpy() - self.dense[name].to_numpy()
        return found


def harm_table(records: Records) -> pd.DataFrame:
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

    Rows are ordered by :data:`ORDER`; there are none where nothing was pruned or no reference is
    finished. A ``StoreError`` says that predictions of a trial are not there any longer.
    """
    # Neighbouring points have their references in common.
    read = functools.lru_cache(_REMEMBERED)(records.predictions)
    rows = [point | _row(records, pairs, read) for point, pairs in _pairs(records)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(ORDER, kind="stable", ignore_index=True)


def dense_trials(records: Records) -> dict[str, str]:
    """Return the trial that each pruned one is compared with, by trial ids.

    A network trial's configuration names its dense trial; where it does not, that is the one of the
    same data and seed, if one alone can be meant. A trial of a part of the data has that of all the
    data with the same model, loss and seed.
    """
    store, finished = Store(records.place, glance=True), {*records.trials["trial_id"]}
    points, groups = zip(*points_of(records.trials), strict=True)
    found = {}
    dense_points = Counter(data_of(point) for point in points if is_dense(point))
    for point, rows, named in zip(points, groups, references(points), strict=True):
        place = named.get(ALL if is_dense(point) else DENSE_NETWORK)
        if not is_dense(point) and dense_points[data_of(point)] > 1:
            place = None
        dense = rows.head(0) if place is None else groups[place]
        others = dict(zip(dense["seed"], dense["trial_id"], strict=True))
        for key, seed in zip(rows["trial_id"], rows["seed"], strict=True):
            entry = None if is_dense(point) else store.peek("trial", key)
            told = None if entry is None else entry.config.get("dense")
            other = told if told and isinstance(told, str) else others.get(seed)
            if other in finished:
                found[str(key)] = str(other)
    return found


def _pairs(records: Records) -> Iterator[tuple[Point, Pairs]]:
    """Yield every point that has references."""
    dense = dense_trials(records)
    results = records.results.set_index("trial_id", drop=False)
    compared = results[results["trial_id"].isin(list(dense))]
    for point, rows in points_of(compared):
        yield point, Pairs(rows, results.loc[[dense[key] for key in rows["trial_id"]]])


def _row(records: Records, pairs: Pairs, read: Read) -> dict[str, Any]:
    network, seeds = pairs.pruned["network_method"].iloc[0] != "none", len(pairs.pruned)
    return {
        "pruned": "network" if network else "data",
        "n_seeds": seeds,
        **_gaps(pairs, records.names()),
        **_areas(pairs),
        **_exemplars(records, pairs, read),
        "note": {1: ONE_SEED, 2: TWO_SEEDS}.get(seeds, ""),
    }


def _gaps(pairs: Pairs, names: tuple[str, ...]) -> dict[str, Any]:
    pruned, dense, totals = pairs.accuracies()
    excess = excess_accuracy_gap(pruned, dense, totals)
    low, high = seed_interval(excess)
    own = excess_accuracy_gaps(pruned, dense, totals).mean(axis=0)
    most = int(np.nanargmax(own))
    return {
        "average_accuracy_change": float(pairs.changes(AVERAGE).mean()),
        "worst_accuracy_change": float(pairs.changes(WORST).mean()),
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


def _areas(pairs: Pairs) -> dict[str, float]:
    told = [each for each in pairs.pruned["areas"] if each is not None]
    means = [np.nanmean(each) for each in told if not np.isnan(each).all()]
    return {
        "average_auc": float(np.mean(means)) if means else float("nan"),
        "worst_auc": float(pairs.pruned["worst_auc"].mean()),
        "worst_auc_change": float(pairs.changes("worst_auc").mean()),
    }


def _exemplars(records: Records, pairs: Pairs, read: Read) -> dict[str, Any]:
    labels, names = records.members("class"), records.names()
    pruned, dense = (
        np.stack([read(str(key)) for key in side["trial_id"]])
        for side in (pairs.pruned, pairs.dense)
    )
    exemplars = pruning_identified_exemplars(dense, pruned, len(records.class_names))
    shares = share_by_unit(exemplars, records.members(), len(names))
    worst = int(np.nanargmin(pairs.accuracies()[0].mean(axis=0)))
    on, off = accuracy_on_and_off(exemplars, pruned, labels)
    return {
        "n_exemplars": int(exemplars.sum()),
        "exemplar_share": float(exemplars.mean()),
        "worst": names[worst],
        "exemplar_share_of_worst": float(shares[worst]),
        "accuracy_on_exemplars": on,
        "dense_accuracy_on_exemplars": accuracy_on_and_off(exemplars, dense, labels)[0],
        "accuracy_off_exemplars": off,
    }
