"""What entries say of data and of predictions, by class and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import FileImages, LabelledDataset
from raydrop.metrics import auc_by_class, auc_by_group, by_group
from raydrop.store import Store
from raydrop.store.samples import write_samples
from raydrop.study import SCHEMA, By

Predictions = NDArray[np.integer[Any]]
"""Predicted classes of a split's samples, (n,)."""

RECALLS: Mapping[By, str] = {"class": "validation_recalls", "group": "validation_group_recalls"}
"""Where a query run's record has its recalls on validation; None where it has no such ones."""


def save_data_card(dataset: LabelledDataset, store: Store) -> None:
    """Leave what stage 4 has to know of the data: names, sizes, and the test set's labels.

    The groups are there too: ``group_names`` and ``group_sizes``, which are empty where the data
    have none, and the array ``test_groups`` (n_test,) where they have some. What is known of the
    training samples is left beside it.
    """
    train = dataset.train
    files = train.inputs if isinstance(train.inputs, FileImages) else None
    write_samples(
        store,
        dataset.fingerprint,
        ids=train.ids,
        labels=train.labels,
        groups=train.groups,
        paths=() if files is None else files.paths,
        root="" if files is None else files.url or files.root,
    )
    config = {"kind": "data", "schema": SCHEMA, "fingerprint": dataset.fingerprint}
    if store.find("data", config) is not None:
        return
    info = {
        "dataset": dataset.name,
        "class_names": list(dataset.class_names),
        "class_sizes": dataset.class_sizes().tolist(),
        "group_names": list(dataset.group_names),
        "group_sizes": dataset.sizes("group").tolist() if dataset.group_names else [],
        "n_train": len(dataset.train),
        "n_validation": len(dataset.validation),
        "n_test": len(dataset.test),
    }
    arrays = {"test_labels": dataset.test.labels, "test_ids": dataset.test.ids}
    if dataset.test.groups is not None:
        arrays["test_groups"] = dataset.test.groups
    store.write("data", config, info, arrays)


def unit_recalls(
    predictions: Predictions, dataset: LabelledDataset, by: By, split: str
) -> NDArray[np.float64]:
    """Return the recall of every class or group in validation or test, where all occur, (U,)."""
    # A class is a group whose samples all have one label.
    labels, members = dataset.splits()[split].labels, dataset.members(by, split)
    return by_group(predictions, labels, members, len(dataset.names(by)))


def lowest(recalls: Sequence[float] | NDArray[np.float64], dataset: LabelledDataset, by: By) -> str:
    """Say what the lowest recall is, and of which class or group."""
    worst = int(np.argmin(recalls))
    return f"{recalls[worst]:.4f} ({by} {dataset.names(by)[worst]!r})"


def kept_sizes(dataset: LabelledDataset, by: By, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the kept samples each class or group has, (U,)."""
    return np.bincount(dataset.members(by)[kept], minlength=len(dataset.names(by)))


def facts_of_kept(dataset: LabelledDataset, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Return how many samples a trial keeps of what, and which share of false labels it prunes."""
    found: dict[str, Any] = {"n_kept": len(kept), "n_train": len(dataset.train)}
    found |= {"n_noisy": None, "noisy_pruned": None, "kept_by_group": None}
    for by in _units(dataset):
        found[f"kept_by_{by}"] = kept_sizes(dataset, by, kept).tolist()
    if dataset.noisy is not None:
        count = int(dataset.noisy.sum())
        pruned = count - int(dataset.noisy[kept].sum())
        found |= {"n_noisy": count, "noisy_pruned": pruned / count if count else None}
    return found


def facts_of_validation(predictions: Predictions, dataset: LabelledDataset) -> dict[str, Any]:
    """Return how many validation samples of each class and group there are and are correct.

    The class that is worst here is a choice that the test set had no part in.
    """
    correct = predictions == dataset.validation.labels
    found: dict[str, Any] = {"validation_by_group": None, "validation_sizes_by_group": None}
    for by in _units(dataset):
        hits = dataset.members(by, "validation")[correct]
        counts = np.bincount(hits, minlength=len(dataset.names(by)))
        found[f"validation_by_{by}"] = counts.tolist()
        found[f"validation_sizes_by_{by}"] = dataset.sizes(by, "validation").tolist()
    return found


def facts_of_test(
    probabilities: NDArray[np.float32] | None, dataset: LabelledDataset
) -> dict[str, Any]:
    """Return the area under the ROC curve of every class and group; None where it has none."""
    if probabilities is None:  # classes alone are known
        return {f"auc_by_{by}": None for by in RECALLS}
    test, groups = dataset.test, len(dataset.group_names)
    areas = {"class": auc_by_class(probabilities, test.labels)}
    if test.groups is not None:
        areas["group"] = auc_by_group(probabilities, test.labels, test.groups, groups)
    found: dict[str, Any] = {"auc_by_group": None}
    for by, values in areas.items():
        found[f"auc_by_{by}"] = [None if np.isnan(each) else float(each) for each in values]
    return found


def _units(dataset: LabelledDataset) -> tuple[By, ...]:
    return ("class", "group") if dataset.group_names else ("class",)
