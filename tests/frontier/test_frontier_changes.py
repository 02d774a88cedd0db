from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, SMALL, TRANSFER, FakeStudy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from reference import change_seed_by_seed

from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.heatmap import LOSS_TO_GAIN, heatmap_figure, plot_recall_changes
from raydrop.frontier.points import series_name
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.statistics.changes import (
    SHOWN_ROWS,
    SHOWN_UNITS,
    RecallChanges,
    recall_changes,
)
from raydrop.study import By

LOSSES = FakeStudy(losses=("cross_entropy", "cdb_w"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return load_records(LOSSES.write(tmp_path_factory.mktemp("study")))


def changes_of(trials: pd.DataFrame, by: By = "class") -> RecallChanges:
    changes = recall_changes(trials, by)
    assert changes is not None
    return changes


def recalls_by_seed(trials: pd.DataFrame, by: By = "class") -> dict[int, list[float]]:
    return dict(zip(trials["seed"], trials[f"by_{by}"], strict=True))


def trials_of(pruned: dict[int, list[float]], full: dict[int, list[float]]) -> pd.DataFrame:
    """Make trials of one pruned point and of all the data, from recalls by seed."""
    point = {"model": "m", "query_model": "m", "loss": "cross_entropy"}
    point |= {"network_method": "none", "network_target": "none"}
    kept = {**point, "method": "el2n", "quotas": "none", "keep_fraction": 0.5}
    whole = {**point, "method": "none", "quotas": "none", "keep_fraction": 1.0}
    rows = [kept | {"seed": seed, "by_class": r} for seed, r in pruned.items()]
    return pd.DataFrame(rows + [whole | {"seed": seed, "by_class": r} for seed, r in full.items()])


def numbers_of(ax: Axes) -> dict[tuple[float, float], str]:
    """The texts that are stamped on a heat map, by their places."""
    stamps = [line for line in ax.lines if line.get_linestyle() == "None"]
    places = [
        (x, y, str(s.get_label())) for s in stamps for x, y in zip(*s.get_data(), strict=True)
    ]
    return {
        (float(x), float(y)): text for x, y, text in sorted(places, key=lambda p: (-p[1], p[0]))
    }


def mesh_of(ax: Axes) -> QuadMesh:
    (mesh,) = [each for each in ax.collections if isinstance(each, QuadMesh)]
    return mesh


@pytest.mark.parametrize(("study", "by"), [(LOSSES, "class"), (GROUPED, "group")])
def test_every_change_is_that_of_its_own_model_loss_and_seeds(
    study: FakeStudy, by: By, tmp_path: Path
) -> None:
    trials = load_records(study.write(tmp_path)).trials
    changes = changes_of(trials, by)
    trials = trials.assign(series=[series_name(row) for row in trials.to_dict("records")])
    assert [panel.title for panel in changes.panels] == [f"loss: {x}" for x in sorted(study.losses)]
    for panel, loss in zip(changes.panels, sorted(study.losses), strict=True):
        of_loss = trials[trials["loss"] == loss]
        full = recalls_by_seed(of_loss[of_loss["method"] == "none"], by)
        means = [np.mean([full[seed][unit] for seed in full]) for unit in changes.units]
        np.testing.assert_allclose(panel.reference, means)
        for (name, keep), found in zip(changes.rows, panel.changes, strict=True):
            point = of_loss[(of_loss["series"] == name) & (of_loss["keep_fraction"] == keep)]
            expected = change_seed_by_seed(recalls_by_seed(point, by), full)
            np.testing.assert_allclose(found, [expected[unit] for unit in changes.units])


def test_only_seeds_that_have_both_are_compared() -> None:
    pruned = {0: [0.5, 0.9], 1: [0.2, 0.8], 2: [0.0, 0.0]}
    full = {0: [0.7, 0.9], 1: [0.6, 1.0], 3: [1.0, 0.1]}
    changes = changes_of(trials_of(pruned, full))
    expected = change_seed_by_seed(pruned, full)
    np.testing.assert_allclose(changes.panels[0].changes, [[expected[k] for k in changes.units]])
    assert expected == pytest.approx([-0.3, -0.1])


def test_without_a_reference_of_the_same_model_and_loss_there_is_no_change(
    records: Records,
) -> None:
    unpruned = records.trials["method"] == "none"
    of_loss = records.trials["loss"] == "cdb_w"
    changes = changes_of(records.trials[~(unpruned & of_loss)])
    assert [panel.title for panel in changes.panels] == ["loss: cross_entropy"]
    assert recall_changes(records.trials[~unpruned]) is None
    assert recall_changes(records.trials[unpruned]) is None
    assert recall_changes(trials_of({0: [0.5]}, {1: [0.5]})) is None


def test_a_class_without_test_samples_is_unknown_and_disturbs_no_other() -> None:
    changes = changes_of(trials_of({0: [0.5, np.nan, 0.9]}, {0: [0.9, np.nan, 0.8]}))
    assert changes.units == (2, 0, 1)
    np.testing.assert_allclose(changes.panels[0].changes, [[0.1, -0.4, np.nan]])
    assert changes.largest == pytest.approx(0.4)
    ax = plot_recall_changes(changes, changes.panels[0], Figure().subplots())
    lost, unknown = "\N{MINUS SIGN}40", "\N{EN DASH}"
    assert numbers_of(ax) == {
        (0.5, 0.5): "+10",
        (1.5, 0.5): lost,
        (0.5, -0.7): "80",
        (1.5, -0.7): "90",
        (2.5, -0.7): unknown,
    }


def test_marks_of_the_scale_stay_apart_beside_a_single_row() -> None:
    changes = changes_of(trials_of({0: [0.5, 0.9]}, {0: [0.9, 0.8]}))
    figure = heatmap_figure(changes, ["a", "b"])
    FigureCanvasAgg(figure).draw()
    scale, (low, high) = figure.axes[-1], figure.axes[-1].get_ylim()
    marks = [label for label in scale.get_yticklabels() if low <= label.get_position()[1] <= high]
    boxes = sorted(label.get_window_extent().extents[[1, 3]].tolist() for label in marks)
    assert len(boxes) > 1
    assert all(below[1] <= above[0] for below, above in itertools.pairwise(boxes))


def test_of_many_classes_those_that_lose_most_are_shown_the_hardest_first() -> None:
    rng = np.random.default_rng(0)
    full, lost = rng.uniform(0.6, 1, 50), rng.uniform(-0.1, 0.5, 50)
    changes = changes_of(trials_of({0: list(full - lost)}, {0: list(full)}))
    most = set(np.argsort(-lost)[:SHOWN_UNITS].tolist())
    assert (set(changes.units), changes.n_units) == (most, 50)
    assert list(changes.units) == sorted(most, key=lambda k: full[k])
    np.testing.assert_allclose(changes.panels[0].changes, [[-lost[k] for k in changes.units]])
    figure = heatmap_figure(changes, [f"class {k}" for k in range(50)])
    assert any("the 20 classes that lose most" in text.get_text() for text in figure.texts)


def test_of_many_rows_each_series_keeps_its_smallest_and_largest_fraction(tmp_path: Path) -> None:
    keeps = tuple(round(0.05 * i, 2) for i in range(1, 18))
    study = dataclasses.replace(SMALL, keeps=keeps)
    changes = changes_of(load_records(study.write(tmp_path)).trials)
    assert len(study.methods) * len(study.quotas) * len(keeps) > SHOWN_ROWS
    for name in {name for name, _ in changes.rows}:
        shown = [keep for row, keep in changes.rows if row == name]
        assert (shown[0], shown[-1], len(shown)) == (0.05, 0.85, 5)


def test_rows_are_the_same_in_all_panels_and_random_pruning_comes_first(tmp_path: Path) -> None:
    changes = changes_of(load_records(TRANSFER.write(tmp_path)).trials)
    assert [panel.title for panel in changes.panels] == [
        "resnet18, cross_entropy",
        "resnet50, cross_entropy",
    ]
    names = list(dict.fromkeys(name for name, _ in changes.rows))
    foreign = ["moso + none from resnet18", "moso + none from resnet50"]
    assert names == ["random + none", "moso + none", *foreign]
    for panel, absent in zip(changes.panels, foreign, strict=True):
        unknown = {
            name
            for (name, _), row in zip(changes.rows, panel.changes, strict=True)
            if np.isnan(row).all()
        }
        assert unknown == {absent}


def test_the_heat_map_draws_every_change_and_prints_it_in_points(records: Records) -> None:
    changes = changes_of(records.trials)
    panel = changes.panels[0]
    ax = Figure().subplots()
    assert plot_recall_changes(changes, panel, ax) is ax
    mesh = mesh_of(ax)
    np.testing.assert_array_equal(mesh.get_array(), panel.changes)
    assert mesh.get_clim() == (-changes.largest, changes.largest)
    printed = numbers_of(ax)
    for (row, column), change in np.ndenumerate(panel.changes):
        number = printed.pop((column + 0.5, row + 0.5)).replace("\N{MINUS SIGN}", "-")
        assert int(number) == round(100 * change)
        assert number[0] in "+-0"
    assert list(printed.values()) == [f"{100 * recall:.0f}" for recall in panel.reference]
    ax = plot_recall_changes(changes, panel, Figure().subplots(), printed=False)
    assert len(numbers_of(ax)) == len(panel.reference)
    assert (mesh_of(ax).get_rasterized(), mesh.get_rasterized()) == (True, False)


def test_the_heat_map_is_the_same_bytes_and_names_are_no_formulas(records: Records) -> None:
    changes, names = changes_of(records.trials), ["$x_{$", "dog", "owl", "a very long name " * 3]
    svg = to_svg(heatmap_figure(changes, names))
    assert to_svg(heatmap_figure(changes, names)) == svg
    assert b"data:" not in svg
    half = dataclasses.replace(
        changes, panels=tuple(dataclasses.replace(p, changes=p.changes / 2) for p in changes.panels)
    )
    assert to_svg(heatmap_figure(half, names)) != svg


def test_losses_are_darker_than_gains_in_grey_and_to_colour_blind_eyes() -> None:
    colours = LOSS_TO_GAIN(np.linspace(0, 1, 101))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    # Complete dichromacy, in linear RGB: Machado, Oliveira, Fernandes 2009, IEEE TVCG 15(6).
    eyes = {
        "any": np.eye(3),
        "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    for name, matrix in eyes.items():
        luminance = linear @ np.array(matrix).T @ [0.2126, 0.7152, 0.0722]
        lightness = np.cbrt(np.clip(luminance, 0, None))
        assert (np.diff(lightness) > 0).all(), name
        assert lightness[50] - lightness[0] > 0.4, name
        assert lightness[100] - lightness[50] > 0.1, name
    # A simple conversion to grey weighs the values as they are stored.
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) > 0).all()
