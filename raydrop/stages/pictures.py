"""Pictures of the test images that pruned networks lose most often, for people to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset
from raydrop.data.thumbnails import CHANNELS, thumbnails
from raydrop.metrics.harm import losses, modal_label
from raydrop.plan import TrialRun
from raydrop.store import Store
from raydrop.study import SCHEMA, Study, TrialConfig

PICTURED = 60
"""Test images that are pictured at most."""

Predictions = NDArray[np.integer[Any]]


@dataclasses.dataclass(eq=False)
class _Population:
    """Dense networks that differ only in their seed, and the pruned ones that came of them."""

    dense: dict[str, Predictions] = dataclasses.field(default_factory=dict)
    """(n_test,) predicted classes by trial id."""
    pruned: dict[str, Predictions] = dataclasses.field(default_factory=dict)
    """The same."""

    def losses(self, labels: Predictions, num_classes: int) -> NDArray[np.bool_]:
        """Return which pruned networks lose which images, (R, n_test)."""
        dense, pruned = (np.stack(list(each.values())) for each in (self.dense, self.pruned))
        return losses(dense, pruned, labels, num_classes)


def save_lost_images(
    dataset: ImageDataset, store: Store, study: Study, trials: Iterable[TrialRun]
) -> None:
    """Leave small pictures of the test images that pruned networks lose most often.

    A network trial loses an image if it has it wrong and the modal label of the dense networks that
    its own population starts from, the same data selection with every seed, is right
    (:func:`raydrop.metrics.harm.losses`); so what pruning the data has cost before does not count.
    Images are ordered by the share of all network trials that lose them, then by their ids.

    One entry of kind ``images`` whose configuration says ``"what": "lost"`` and names the trials;
    its arrays, (m,) for up to :data:`PICTURED` images that are lost at all, are ``pixels`` (m, C,
    h, w) of at most 64 pixels a side, ``ids``, ``units`` (their classes, or groups where the study
    is about these), ``labels``, ``dense`` (modal label of all dense networks), ``taken_for`` (the
    label that most trials which lose it give it, the lowest of equally many) and ``share``. What is
    there already is left alone. There is none where the data are no pictures or nothing is lost.

    Args:
        dataset: Gives test images; only those of the pictured ones are read.
        store: Where the records of trials are and the pictures go.
        study: Says whether classes or groups are meant.
        trials: Those that prune networks count as far as they and their dense trial are finished;
            others are passed over.

    Raises:
        DataError: If an image cannot be read; the message names the file.
        StoreError: If the folder cannot be written.
    """
    if dataset.image_shape[0] not in CHANNELS:
        return
    populations = _populations(store, trials)
    finished = sorted(key for each in populations for key in each.pruned)
    config = {
        "kind": "images",
        "schema": SCHEMA,
        "what": "lost",
        "data": dataset.fingerprint,
        "by": study.by,
        "trials": finished,
        "count": PICTURED,
    }
    if not finished or store.find("images", config) is not None:
        return
    test = dataset.test
    chosen, arrays = _most_lost(populations, test.labels, test.ids, dataset.num_classes)
    if len(chosen):
        arrays |= {
            "pixels": thumbnails(test.images, chosen, dataset.image_shape),
            "ids": test.ids[chosen],
            "units": dataset.members(study.by, "test")[chosen],
            "labels": test.labels[chosen],
        }
        info = {"by": study.by, "n_trials": len(finished)}
        store.write("images", config, info, arrays)


def _populations(store: Store, trials: Iterable[TrialRun]) -> list[_Population]:
    """Return what finished network trials and their dense ones predict, in a fixed order."""
    found: dict[TrialConfig, _Population] = {}
    for run in sorted(trials, key=lambda run: run.key):
        after = store.read("trial", run.key)
        before = None if run.dense is None else store.read("trial", run.dense.key)
        if run.dense is None or before is None or after is None:
            continue
        place = dataclasses.replace(run.dense.trial, seed=0)
        population = found.setdefault(place, _Population())
        population.pruned[run.key] = after.array("predictions")
        population.dense[before.key] = before.array("predictions")
    return list(found.values())


def _most_lost(
    populations: list[_Population], labels: Predictions, ids: Predictions, num_classes: int
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Return the positions of the images that are lost most often, (m,), and what becomes of them.

    Args:
        populations: Not empty.
        labels: (n_test,) true classes.
        ids: (n_test,).
        num_classes: K.
    """
    lost = np.concatenate([each.losses(labels, num_classes) for each in populations])
    often = lost.sum(axis=0)
    order = np.lexsort((ids, -often))
    chosen = order[often[order] > 0][:PICTURED]
    if not len(chosen):
        return chosen, {}
    dense, after = (
        np.stack([predicted[chosen] for each in sides for predicted in each.values()])
        for sides in (
            [each.dense for each in populations],
            [each.pruned for each in populations],
        )
    )
    # Runs that do not lose an image vote for a class that there is not.
    wrong = np.where(lost[:, chosen], after, num_classes)
    arrays = {
        "dense": modal_label(dense, num_classes),
        "taken_for": _most_frequent_below(wrong, num_classes),
        "share": often[chosen] / len(lost),
    }
    return chosen, arrays


def _most_frequent_below(votes: Predictions, number: int) -> NDArray[np.int64]:
    """Return the most frequent class below ``number`` in each column of votes (R, m)."""
    counts = np.zeros((votes.shape[1], number + 1), np.int64)
    for row in votes:
        counts[np.arange(len(row)), row] += 1
    winners: NDArray[np.int64] = counts[:, :number].argmax(axis=1)
    return winners
