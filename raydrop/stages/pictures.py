"""Small pictures for people to look at: samples that methods keep or prune first, images lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import LabelledDataset
from raydrop.data.thumbnails import can_be_shown, thumbnails
from raydrop.metrics.harm import losses, modal_label
from raydrop.plan.runs import ScoreRun, TrialRun, query_run
from raydrop.selection import best_first
from raydrop.stages.facts import RECALLS, Predictions
from raydrop.stages.trials import tie_seed
from raydrop.store import Entry, Store
from raydrop.study import SCHEMA, By, Study, TrialConfig

PICTURED = 6
"""Samples of a class that are pictured on each side: kept first, and pruned first."""
PICTURED_UNITS = 10
"""Classes, or groups, of which samples are pictured."""
PICTURED_LOST = 60
"""Test images that are pictured at most."""

Positions = NDArray[np.int64]
Population = tuple[dict[str, Predictions], dict[str, Predictions]]
"""Dense networks that differ only in their seed, and the pruned ones that came of them: predicted
classes of the test set by trial id."""


def save_images(
    dataset: LabelledDataset, store: Store, study: Study, scores: Iterable[ScoreRun]
) -> None:
    """Leave small pictures of what methods would keep first and prune first.

    An entry of kind ``images`` for each method and query model with the study's first seed: of up
    to :data:`PICTURED_UNITS` classes (or groups), those with the lowest recalls of the query run on
    validation, or else the smallest, the first and the last :data:`PICTURED` samples in the order
    in which selection takes them within the class. Its arrays are ``pixels`` (m, C, h, w) of at
    most 64 pixels a side, ``ids``, ``units``, ``scores`` and ``kept``, whether a picture is one of
    the first, (m,) each; the lowest recall comes first, and in it the most extreme sample of each
    side. What is there already is left alone. Passed over are data that are no pictures, methods
    that read no query run, and scores of other seeds or that are not there.

    Raises:
        DataError: If an image cannot be read; the message names the file.
        StoreError: If the folder cannot be written.
    """
    if not can_be_shown(dataset):
        return
    units: dict[str, Positions] = {}
    for run in {run.key: run for run in scores}.values():
        if run.seed != study.seeds[0] or not run.queries:
            continue
        config = {
            "kind": "images",
            "schema": SCHEMA,
            "scores": run.key,
            "by": study.by,
            "units": PICTURED_UNITS,
            "per_side": PICTURED,
        }
        entry = store.read("scores", run.key)
        if entry is None or store.find("images", config) is not None:
            continue
        if run.model not in units:
            units[run.model] = _pictured_units(study, run, dataset, store)
        info, arrays = _extremes(entry, dataset, study.by, units[run.model])
        store.write("images", config, info, arrays)


def _pictured_units(
    study: Study, run: ScoreRun, dataset: LabelledDataset, store: Store
) -> Positions:
    """Return the classes or groups to picture: the lowest recall first, or else the smallest."""
    sizes = dataset.sizes(study.by)
    query = store.read("query", query_run(study, dataset.fingerprint, run.model, run.seed).key)
    recalls = None if query is None else query.info.get(RECALLS[study.by])
    order = np.lexsort((sizes, np.zeros(len(sizes)) if recalls is None else recalls))
    return order[sizes[order] > 0][:PICTURED_UNITS]


def _extremes(
    entry: Entry, dataset: LabelledDataset, by: By, units: Positions
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return facts and arrays of the samples of some units that come first and last."""
    train, scores, members = dataset.train, entry.array("scores"), dataset.members(by)
    ties, higher = tie_seed(entry.info["seed"]), entry.info["higher_is_kept"]
    order = best_first(scores, higher_is_kept=higher, tie_seed=ties)
    positions, kept = list[Positions](), list[bool]()
    for unit in units:
        ranked = order[members[order] == unit]
        first = ranked[: min(PICTURED, (len(ranked) + 1) // 2)]
        last = ranked[::-1][: min(PICTURED, len(ranked) // 2)]
        positions += [first, last]
        kept += [True] * len(first) + [False] * len(last)
    chosen = np.concatenate(positions)
    info = {name: entry.info[name] for name in ("method", "seed", "query_model", "higher_is_kept")}
    return {**info, "by": by}, {
        "pixels": thumbnails(train.inputs, chosen, dataset.image_shape),
        "ids": train.ids[chosen],
        "units": members[chosen],
        "scores": scores[chosen],
        "kept": np.array(kept),
    }


def save_lost_images(
    dataset: LabelledDataset, store: Store, study: Study, trials: Iterable[TrialRun]
) -> None:
    """Leave small pictures of the test images that pruned networks lose most often.

    A network trial loses an image if it has it wrong and the modal label of the dense networks that
    its own population starts from, the same data selection with every seed, is right
    (:func:`raydrop.metrics.harm.losses`); so what pruning the data has cost before does not count.
    Images are ordered by the share of all network trials that lose them, then by their ids.

    One entry of kind ``images`` whose configuration says ``"what": "lost"`` and names the trials;
    its arrays, (m,) for up to :data:`PICTURED_LOST` images that are lost at all, are ``pixels``
    (m, C, h, w) of at most 64 pixels a side, ``ids``, ``units`` (their classes, or groups where the
    study is about these), ``labels``, ``dense`` (modal label of all dense networks), ``taken_for``
    (the label that most trials which lose it give it, the lowest of equally many) and ``share``.
    What is there already is left alone. There is none where the data are no pictures or nothing is
    lost.

    Trials count as far as they and their dense trial are finished.

    Raises:
        DataError: If an image cannot be read; the message names the file.
        StoreError: If the folder cannot be written.
    """
    if not can_be_shown(dataset):
        return
    populations = _populations(store, trials)
    finished = sorted(key for _, pruned in populations for key in pruned)
    config = {
        "kind": "images",
        "schema": SCHEMA,
        "what": "lost",
        "data": dataset.fingerprint,
        "by": study.by,
        "trials": finished,
        "count": PICTURED_LOST,
    }
    if not finished or store.find("images", config) is not None:
        return
    test = dataset.test
    chosen, arrays = _most_lost(populations, test.labels, test.ids, dataset.num_classes)
    if len(chosen):
        arrays |= {
            "pixels": thumbnails(test.inputs, chosen, dataset.image_shape),
            "ids": test.ids[chosen],
            "units": dataset.members(study.by, "test")[chosen],
            "labels": test.labels[chosen],
        }
        info = {"by": study.by, "n_trials": len(finished)}
        store.write("images", config, info, arrays)


def _populations(store: Store, trials: Iterable[TrialRun]) -> list[Population]:
    """Return what finished network trials and their dense ones predict, in a fixed order."""
    found: dict[TrialConfig, Population] = {}
    for run in sorted(trials, key=lambda run: run.key):
        after = store.read("trial", run.key)
        before = None if run.dense is None else store.read("trial", run.dense.key)
        if run.dense is None or before is None or after is None:
            continue
        place = dataclasses.replace(run.dense.trial, seed=0)
        dense, pruned = found.setdefault(place, ({}, {}))
        pruned[run.key] = after.array("predictions")
        dense[before.key] = before.array("predictions")
    return list(found.values())


def _most_lost(
    populations: list[Population], labels: Predictions, ids: Predictions, num_classes: int
) -> tuple[Positions, dict[str, NDArray[Any]]]:
    """Return the positions of the images lost most often, (m,), and what becomes of them."""
    stacked = [[np.stack(list(side.values())) for side in sides] for sides in populations]
    lost = np.concatenate([losses(dense, pruned, labels, num_classes) for dense, pruned in stacked])
    often = lost.sum(axis=0)
    order = np.lexsort((ids, -often))
    chosen = order[often[order] > 0][:PICTURED_LOST]
    if not len(chosen):
        return chosen, {}
    dense, after = (np.concatenate(sides)[:, chosen] for sides in zip(*stacked, strict=True))
    # Each class's votes by runs that lose the image; the first of equally many wins.
    votes = [((after == label) & lost[:, chosen]).sum(axis=0) for label in range(num_classes)]
    return chosen, {
        "dense": modal_label(dense, num_classes),
        "taken_for": np.argmax(votes, axis=0),
        "share": often[chosen] / len(lost),
    }
