from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from test_frontier_sources import SOURCED, SourcedStudy

from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.pictures import (
    SampleGrid,
    images_figure,
    mosaic,
    plot_samples,
    sample_grids,
)
from raydrop.frontier.records import load_records
from raydrop.frontier.sources import load_sources
from raydrop.store import Store
from raydrop.study import config_hash


def pixels_of(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def picture(
    folder: Path,
    method: str,
    *,
    seed: int = 0,
    units: Sequence[int] = (3, 0, 2),
    shape: tuple[int, int, int] = (1, 8, 8),
    per_side: int = 3,
    lower: bool = False,
) -> NDArray[Any]:
    """Leave pictures of a method's samples in a store and return them."""
    count = 2 * per_side * len(units)
    pixels = pixels_of(count, shape, seed)
    key = config_hash(SOURCED.score_config(method, "small_cnn", seed))
    info = {"method": method, "seed": seed, "query_model": "small_cnn", "by": "class"}
    arrays = {
        "pixels": pixels,
        "ids": np.arange(count),
        "units": np.repeat(units, 2 * per_side),
        "scores": np.zeros(count),
        "kept": np.tile([True] * per_side + [False] * per_side, len(units)),
    }
    config = {"kind": "images", "scores": key}
    Store(folder / "store").write("images", config, info | {"higher_is_kept": not lower}, arrays)
    return pixels


def grids_of(folder: Path) -> list[SampleGrid]:
    records = load_records(folder)
    return sample_grids(records, load_sources(records))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = dataclasses.replace(SOURCED, quotas=("none",), keeps=(0.5,), seeds=(0, 1))
    return SourcedStudy.write(study, tmp_path_factory.mktemp("sourced"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A study of its own, to leave pictures in."""
    return shutil.copytree(written, tmp_path / "study")


def test_folders_without_pictures_have_no_figure(folder: Path) -> None:
    assert grids_of(folder) == []


def test_pictures_stand_in_the_row_of_their_class_and_on_their_side(folder: Path) -> None:
    pixels = picture(folder, "moso")
    (grid,) = grids_of(folder)
    assert (grid.name, grid.seed, grid.units) == ("moso", 0, ("bee", "cat", "owl"))
    assert grid.per_side == 3
    for row in range(3):
        start = 6 * row
        for side, at in ((grid.kept, start), (grid.pruned, start + 3)):
            grey = pixels[at : at + 3, 0]
            np.testing.assert_array_equal(side[row], np.stack([grey] * 3, axis=-1))


def test_the_first_seed_of_the_methods_that_trials_read_is_shown(folder: Path) -> None:
    for method, seed in (("moso", 1), ("moso", 0), ("el2n", 0), ("grand", 0)):
        picture(folder, method, seed=seed)
    assert [(grid.name, grid.seed) for grid in grids_of(folder)] == [("el2n", 0), ("moso", 0)]


def test_many_methods_show_fewer_classes_and_large_pictures_are_halved(tmp_path: Path) -> None:
    methods = ("random", *(f"m{i}" for i in range(12)))
    study = dataclasses.replace(
        SOURCED,
        methods=methods,
        class_names="abcdefghij",
        seeds=(0,),
        quotas=("none",),
        keeps=(0.5,),
    )
    folder = SourcedStudy.write(study, tmp_path)
    for method in methods[1:]:
        pixels = picture(folder, method, units=range(10), shape=(3, 64, 64), per_side=6)
    grids = grids_of(folder)
    assert len(grids) == 12
    assert all(len(grid.units) == 4 for grid in grids)
    tile = grids[-1].kept[0][0]
    expected = pixels[0].astype(float).reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(tile.transpose(2, 0, 1), expected, atol=0.5)


def test_a_mosaic_puts_every_picture_in_its_place() -> None:
    rows = [pixels_of(2, (3, 8, 8), 1), pixels_of(3, (3, 8, 8), 2)]
    tiles = [row.transpose(0, 2, 3, 1) for row in rows]
    whole = mosaic(tiles, columns=3, gap=1)
    assert whole.shape == (2 * (4 * 8 + 2), 3 * (4 * 8 + 2), 3)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            cell = whole[34 * r : 34 * (r + 1), 34 * c : 34 * (c + 1)]
            np.testing.assert_array_equal(cell[1:-1:4, 1:-1:4], tile)
            assert (cell[0] == 255).all()
    assert (whole[:34, 68:] == 255).all()


def test_drawn_are_the_mosaics_with_the_names_of_the_classes(folder: Path) -> None:
    picture(folder, "el2n", lower=True)
    picture(folder, "moso")
    el2n, _ = grids = grids_of(folder)
    left, right = Figure().subplots(1, 2)
    assert list(plot_samples(el2n, [left, right])) == [left, right]
    np.testing.assert_array_equal(left.images[0].get_array(), mosaic(el2n.kept, 3))
    np.testing.assert_array_equal(right.images[0].get_array(), mosaic(el2n.pruned, 3))
    assert [text.get_text() for text in left.get_yticklabels()] == ["bee", "cat", "owl"]
    assert left.get_title() == "kept first (lowest scores)"
    assert right.get_title() == "pruned first (highest scores)"
    svg = to_svg(images_figure(grids))
    assert to_svg(images_figure(grids)) == svg
    assert len(images_figure(grids).axes) == 4
