"""Pictures of samples: which are taken, what they show, and that no study fails over them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from raydrop.cluster.driver import leave_pictures_of_samples
from raydrop.data import load_dataset
from raydrop.data.dataset import ArrayImages, LabelledDataset
from raydrop.data.thumbnails import thumbnails
from raydrop.errors import DataError
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.runs import ScoreRun, score_run
from raydrop.selection import select
from raydrop.stages.pictures import save_images
from raydrop.store import Entry, Store
from raydrop.store.terminal import Console
from raydrop.study import Study, derive_seed

STUDY = Study("t", "digits", "small_cnn", {"method": "el2n", "keep_fraction": 0.5}, seeds=(3, 1))
RECALLS = [0.9, 0.5, 0.8, 0.2, 0.7, 0.95, 1.0, 0.6, 0.3, 0.4]


@pytest.fixture(scope="module")
def dataset() -> LabelledDataset:
    return load_dataset("digits+subset(30, test=10)+long_tail(10)")


def scored(
    dataset: LabelledDataset,
    store: Store,
    *,
    method: str = "el2n",
    seed: int = 3,
    scores: NDArray[np.float64] | None = None,
    higher_is_kept: bool = True,
    recalls: list[float] | None = RECALLS,
) -> ScoreRun:
    """Leave some scores in a store, and the query run that they come from."""
    run = score_run(STUDY, dataset.fingerprint, method, "small_cnn", seed)
    if scores is None:
        # Few distinct values, so that many samples are equal.
        scores = np.random.default_rng(seed).integers(0, 6, len(dataset.train)).astype(float)
    info = {"method": method, "seed": seed, "query_model": run.model, "seconds": 1.0}
    info["higher_is_kept"] = higher_is_kept
    store.write("scores", run.config, info, {"scores": scores})
    if recalls is not None:
        for query in run.queries:
            store.write("query", query.config, {"validation_recalls": recalls})
    return run


def only_entry(store: Store) -> Entry:
    (entry,) = store.entries("images")
    return entry


@pytest.mark.parametrize("higher_is_kept", [True, False])
def test_the_first_ones_are_those_that_selection_takes_first(
    dataset: LabelledDataset, tmp_path: Path, higher_is_kept: bool
) -> None:
    store = Store(tmp_path)
    run = scored(dataset, store, higher_is_kept=higher_is_kept)
    save_images(dataset, store, STUDY, [run])
    entry = only_entry(store)
    scores = store.read("scores", run.key).array("scores")  # type: ignore[union-attr]
    labels, sizes = dataset.train.labels, dataset.class_sizes()
    ids, units, kept = (entry.array(name) for name in ("ids", "units", "kept"))
    tie_seed = derive_seed(3, "selection/ties")
    for k in range(10):

        def selected(count: int, k: int = k) -> set[int]:
            quotas = np.where(np.arange(10) == k, count, 0)
            chosen = select(
                scores,
                labels,
                count,
                quotas,
                higher_is_kept=higher_is_kept,
                tie_seed=tie_seed,
            )
            return set(dataset.train.ids[chosen].tolist())

        first, last = ids[(units == k) & kept].tolist(), ids[(units == k) & ~kept].tolist()
        assert len(first) + len(last) == min(sizes[k], 12)
        for count in range(len(first) + 1):
            assert set(first[:count]) == selected(count)
        for count in range(len(last) + 1):
            everything = set(dataset.train.ids[labels == k].tolist())
            assert everything - set(last[:count]) == selected(int(sizes[k]) - count)


def test_pictures_are_the_samples_own_the_lowest_recall_first(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    run = scored(dataset, store)
    save_images(dataset, store, STUDY, [run])
    entry = only_entry(store)
    place = {int(id_): i for i, id_ in enumerate(dataset.train.ids)}
    positions = [place[int(id_)] for id_ in entry.array("ids")]
    assert isinstance(dataset.train.inputs, ArrayImages)
    np.testing.assert_array_equal(entry.array("pixels"), dataset.train.inputs.pixels[positions])
    np.testing.assert_array_equal(entry.array("units"), dataset.train.labels[positions])
    assert list(dict.fromkeys(entry.array("units").tolist())) == np.argsort(RECALLS).tolist()
    assert entry.config["scores"] == run.key


def test_without_recalls_the_smallest_classes_come_first(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    save_images(dataset, store, STUDY, [scored(dataset, store, recalls=None)])
    order = list(dict.fromkeys(only_entry(store).array("units").tolist()))
    sizes = dataset.class_sizes()[order]
    assert sizes.tolist() == sorted(dataset.class_sizes().tolist())


def test_of_many_classes_ten_are_pictured(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(14), 5)
    plain = load_dataset("digits+subset(30, test=10)")
    splits = {
        name: dataclasses.replace(split.take(np.arange(70)), labels=labels)
        for name, split in plain.splits().items()
    }
    names = tuple(f"c{k}" for k in range(14))
    many = dataclasses.replace(plain, class_names=names, **splits)
    store, recalls = Store(tmp_path), np.linspace(1, 0, 14).tolist()
    save_images(many, store, STUDY, [scored(many, store, recalls=recalls)])
    assert set(only_entry(store).array("units").tolist()) == set(range(4, 14))


def test_groups_are_pictured_where_the_study_is_by_group(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    splits = {
        name: dataclasses.replace(split, groups=split.ids % 2)
        for name, split in dataset.splits().items()
    }
    grouped = dataclasses.replace(dataset, group_names=("even", "odd"), **splits)
    store = Store(tmp_path)
    run = scored(grouped, store)
    save_images(grouped, store, dataclasses.replace(STUDY, by="group"), [run])
    entry = only_entry(store)
    assert entry.info["by"] == "group"
    np.testing.assert_array_equal(entry.array("units"), entry.array("ids") % 2)
    assert len(entry.array("ids")) == 24


def test_what_is_there_is_neither_read_nor_written_again(
    dataset: LabelledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    runs = [scored(dataset, store), scored(dataset, store, seed=1)]
    save_images(dataset, store, STUDY, runs)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*")]

    def refuse(*_: object) -> None:
        raise AssertionError("pictures made twice")

    monkeypatch.setattr("raydrop.stages.pictures.thumbnails", refuse)
    save_images(dataset, store, STUDY, runs)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*")] == before
    # A further method is missing, and only that.
    with pytest.raises(AssertionError, match="twice"):
        save_images(dataset, store, STUDY, [*runs, scored(dataset, store, method="grand")])


def test_other_seeds_random_pruning_and_absent_scores_have_no_pictures(
    dataset: LabelledDataset, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    absent = score_run(STUDY, dataset.fingerprint, "grand", "small_cnn", 3)
    runs = [scored(dataset, store, seed=1), scored(dataset, store, method="random"), absent]
    save_images(dataset, store, STUDY, runs)
    assert list(store.entries("images")) == []


def test_data_that_are_no_pictures_have_none(tmp_path: Path) -> None:
    gaussians = load_dataset("gaussians(n=40, test=20)")
    store = Store(tmp_path)
    save_images(gaussians, store, STUDY, [scored(gaussians, store, recalls=[0.5, 0.9])])
    assert list(store.entries("images")) == []


def photographs(root: Path, size: tuple[int, int] = (90, 130)) -> LabelledDataset:
    """Write a folder of photographs that stream: red ones, green ones, with grey margins."""
    for split, count in (("train", 7), ("val", 2), ("test", 2)):
        for name, colour in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = PIL.Image.new("RGB", size, (90, 90, 90))
                middle = PIL.Image.new("RGB", (size[0], size[0]), (*colour[:2], 20 * i))
                image.paste(middle, (0, (size[1] - size[0]) // 2))
                image.save(folder / f"{i}.png")
    return load_dataset(f"imagefolder:{root}")


def test_files_that_stream_show_their_middle_at_64_pixels(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    store = Store(tmp_path / "store")
    scores = np.arange(14.0)
    save_images(folder, store, STUDY, [scored(folder, store, scores=scores, recalls=[0.9, 0.5])])
    entry = only_entry(store)
    pixels = entry.array("pixels")
    assert pixels.shape == (14, 3, 64, 64)
    # Red has the lower recall; its best score is that of its last file.
    expected = [(200, 0, 20 * i) for i in (6, 5, 4, 3, 0, 1, 2)]
    np.testing.assert_array_equal(pixels[:7, :, 32, 32], expected)
    # The grey margins are gone, but for what shrinking takes along at the border.
    inside = pixels[:, :, 2:-2, 2:-2]
    assert (inside == inside[:, :, :1, :1]).all()
    assert np.abs(pixels.astype(int) - inside[:, :, :1, :1]).max() < 10


def test_sizes_shrink_to_64_pixels_and_keep_their_shape() -> None:
    large = np.zeros((2, 3, 96, 128), np.uint8)
    large[:, 0] = 250
    small = thumbnails(ArrayImages(large), np.array([1]), (3, 96, 128))
    assert small.shape == (1, 3, 48, 64)
    assert (small[:, 0] == 250).all()
    grey = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    np.testing.assert_array_equal(thumbnails(ArrayImages(grey), np.array([0]), (1, 8, 8)), grey)


def test_a_broken_image_is_named_and_the_study_goes_on(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    broken = tmp_path / "photographs" / "train" / "red" / "6.png"
    broken.write_bytes(b"no picture")
    store = Store(tmp_path / "store")
    run = scored(folder, store, scores=np.arange(14.0), recalls=[0.9, 0.5])
    with pytest.raises(DataError, match=r"Expected a readable image in .*red/6\.png, found"):
        save_images(folder, store, STUDY, [run])
    assert list(store.entries("images")) == []
    plan = make_plan(STUDY, trial_configs(STUDY, STUDY.spaces()), folder)
    said = io.StringIO()
    missing = Plan((), (), plan.trials)
    leave_pictures_of_samples(STUDY, missing, folder, store, Console(file=said, width=400))
    assert "pictures    left out of the report: Expected a readable image" in said.getvalue()
    photographs_again = PIL.Image.new("RGB", (90, 130))
    photographs_again.save(broken)
    leave_pictures_of_samples(STUDY, missing, folder, store, Console(file=io.StringIO()))
    assert only_entry(store).config["scores"] == run.key
