"""Pictures of lost test images: which are taken, in which order, and what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raydrop.data import load_dataset
from raydrop.data.dataset import ArrayImages, LabelledDataset
from raydrop.plan.runs import TrialRun
from raydrop.stages import pictures as lost
from raydrop.stages.pictures import PICTURED_LOST, save_lost_images
from raydrop.store import Entry, Store
from raydrop.study import Study, TrialConfig

STUDY = Study("t", "digits", "small_cnn", {"method": "none"}, seeds=(0, 1))
DENSE = TrialConfig("none", "none", 1.0, "cross_entropy", "small_cnn", "small_cnn", 0)
TARGETS = ("flops(0.5)", "flops(0.75)")

Predictions = NDArray[np.int32]


@pytest.fixture(scope="module")
def dataset() -> LabelledDataset:
    return load_dataset("digits+subset(30, test=10)")


def dense_run(seed: int, keep_fraction: float = 1.0) -> TrialRun:
    method = "none" if keep_fraction == 1.0 else "random"
    trial = dataclasses.replace(DENSE, method=method, keep_fraction=keep_fraction, seed=seed)
    return TrialRun(trial, None, None, None, {"trial": trial.as_dict()})


def network_run(dense: TrialRun, target: str = TARGETS[0]) -> TrialRun:
    trial = dataclasses.replace(dense.trial, network_method="random", network_target=target)
    config = {"trial": trial.as_dict(), "dense": dense.key}
    return TrialRun(trial, None, None, None, config, dense)


def leave(store: Store, run: TrialRun, predictions: Predictions) -> None:
    store.write("trial", run.config, {}, {"predictions": predictions})


def only_entry(store: Store) -> Entry:
    (entry,) = store.entries("images")
    return entry


def changed(labels: NDArray[np.int64], changes: Mapping[int, int]) -> Predictions:
    """True labels, but for some positions."""
    predicted = labels.astype(np.int32)
    for position, label in changes.items():
        predicted[position] = label
    return predicted


def of_class(dataset: LabelledDataset, label: int) -> int:
    """Position of the first test image of a class."""
    return int(np.flatnonzero(dataset.test.labels == label)[0])


@pytest.fixture
def store(tmp_path: Path, dataset: LabelledDataset) -> Store:
    """Two seeds, two targets; a 2, a 3 and a 4 are lost, by 3, 2 and 2 networks of 4; no 5 is."""
    store, labels = Store(tmp_path), dataset.test.labels
    two, three, four, five = (of_class(dataset, label) for label in (2, 3, 4, 5))
    wrong = {
        (0, TARGETS[0]): {two: 9, three: 7, five: 1},
        (0, TARGETS[1]): {two: 9, four: 1, five: 1},
        (1, TARGETS[0]): {three: 7, four: 0},
        (1, TARGETS[1]): {two: 8},
    }
    for seed in (0, 1):
        dense = dense_run(seed)
        # The 5 is wrong before, with both seeds.
        leave(store, dense, changed(labels, {five: 1}))
        for target in TARGETS:
            leave(store, network_run(dense, target), changed(labels, wrong[seed, target]))
    return store


def runs() -> list[TrialRun]:
    return [network_run(dense_run(seed), target) for seed in (0, 1) for target in TARGETS]


def test_the_most_often_lost_come_first_with_what_they_are_taken_for(
    dataset: LabelledDataset, store: Store
) -> None:
    save_lost_images(dataset, store, STUDY, runs())
    entry, test = only_entry(store), dataset.test
    # Of classes that equally many give an image, it is the lowest: 0 before 1.
    taken_for = {of_class(dataset, label): taken for label, taken in ((2, 9), (3, 7), (4, 0))}
    first, *tied = taken_for
    order = [first, *sorted(tied, key=lambda position: test.ids[position])]
    np.testing.assert_array_equal(entry.array("ids"), test.ids[order])
    for name in ("labels", "units", "dense"):
        np.testing.assert_array_equal(entry.array(name), test.labels[order])
    np.testing.assert_allclose(entry.array("share"), [3 / 4, 2 / 4, 2 / 4])
    assert entry.array("taken_for").tolist() == [taken_for[position] for position in order]
    assert isinstance(test.inputs, ArrayImages)
    np.testing.assert_array_equal(entry.array("pixels"), test.inputs.pixels[order])
    assert entry.info == {"by": "class", "n_trials": 4}
    assert entry.config["what"] == "lost"
    assert entry.config["trials"] == sorted(run.key for run in runs())


def test_the_order_of_trials_does_not_matter(dataset: LabelledDataset, store: Store) -> None:
    save_lost_images(dataset, store, STUDY, runs())
    before = only_entry(store).arrays()
    store.remove("images", only_entry(store).key)
    save_lost_images(dataset, store, STUDY, [*reversed(runs()), *runs()])
    after = only_entry(store).arrays()
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_each_network_answers_for_its_own_dense_ones_alone(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store, labels = Store(tmp_path), dataset.test.labels
    whole, part = dense_run(0), dense_run(0, 0.2)
    ones = {3: int(labels[3] + 1) % 10}
    # Training on a fifth has image 3 wrong already; pruning its network loses image 4.
    leave(store, whole, changed(labels, {}))
    leave(store, part, changed(labels, ones))
    lost_by_part = {**ones, 4: int(labels[4] + 1) % 10}
    networks = network_run(whole), network_run(part)
    leave(store, networks[0], changed(labels, {}))
    leave(store, networks[1], changed(labels, lost_by_part))
    save_lost_images(dataset, store, STUDY, networks)
    entry = only_entry(store)
    assert entry.array("ids").tolist() == [dataset.test.ids[4]]
    assert entry.array("share").tolist() == [0.5]


def test_unfinished_trials_are_passed_over(dataset: LabelledDataset, store: Store) -> None:
    save_lost_images(dataset, store, STUDY, [*runs(), network_run(dense_run(7))])
    assert only_entry(store).info["n_trials"] == 4
    store.remove("images", only_entry(store).key)
    store.remove("trial", dense_run(0).key)
    save_lost_images(dataset, store, STUDY, runs())
    assert only_entry(store).info["n_trials"] == 2


def test_pruning_that_changes_nothing_loses_nothing(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store, dense = Store(tmp_path), dense_run(0)
    predicted = np.zeros(len(dataset.test), np.int32)
    leave(store, dense, predicted)
    leave(store, network_run(dense), predicted)
    save_lost_images(dataset, store, STUDY, [network_run(dense), dense])
    save_lost_images(dataset, store, STUDY, [dense])
    assert list(store.entries("images")) == []


def test_at_most_sixty_are_pictured_and_only_those_are_read(
    dataset: LabelledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, dense, labels = Store(tmp_path), dense_run(0), dataset.test.labels
    leave(store, dense, labels.astype(np.int32))
    leave(store, network_run(dense), (labels.astype(np.int32) + 1) % 10)
    read: list[int] = []

    def spied(images: Any, positions: NDArray[np.int64], shape: tuple[int, int, int]) -> Any:
        read.extend(positions.tolist())
        return original(images, positions, shape)

    original = lost.thumbnails
    monkeypatch.setattr(lost, "thumbnails", spied)
    save_lost_images(dataset, store, STUDY, [network_run(dense)])
    save_lost_images(dataset, store, STUDY, [network_run(dense)])  # there already
    first = sorted(dataset.test.ids.tolist())[:PICTURED_LOST]
    assert only_entry(store).array("ids").tolist() == first
    assert dataset.test.ids[read].tolist() == first


def test_units_are_groups_where_the_study_is_by_group(
    dataset: LabelledDataset, store: Store
) -> None:
    splits = {
        name: dataclasses.replace(split, groups=split.ids % 2)
        for name, split in dataset.splits().items()
    }
    grouped = dataclasses.replace(dataset, group_names=("even", "odd"), **splits)
    save_lost_images(grouped, store, dataclasses.replace(STUDY, by="group"), runs())
    entry = only_entry(store)
    assert entry.info["by"] == "group"
    np.testing.assert_array_equal(entry.array("units"), entry.array("ids") % 2)
    np.testing.assert_array_equal(entry.array("labels"), entry.array("dense"))


def test_data_that_are_no_pictures_have_none(tmp_path: Path) -> None:
    gaussians, store, dense = (
        load_dataset("gaussians(n=40, test=20)"),
        Store(tmp_path),
        dense_run(0),
    )
    labels = gaussians.test.labels.astype(np.int32)
    leave(store, dense, labels)
    leave(store, network_run(dense), 1 - labels)
    save_lost_images(gaussians, store, STUDY, [network_run(dense)])
    assert list(store.entries("images")) == []
