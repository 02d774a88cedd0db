from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_frontier_records import FakeStudy

from raydrop.frontier import frontier_table
from raydrop.frontier.plots import (
    SeriesStyle,
    frontier_figure,
    keep_fraction_figure,
    plot_by_keep_fraction,
    plot_frontier,
    to_png,
    to_svg,
)
from raydrop.frontier.records import load_records


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    study = FakeStudy(losses=("cross_entropy", "cdb_w"))
    return frontier_table(load_records(study.write(tmp_path_factory.mktemp("study"))).trials)


def drawn(ax: mpl.axes.Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in ax.lines for x, y in np.column_stack(line.get_data()).tolist()}


def test_every_point_is_drawn_where_the_table_says(table: pd.DataFrame) -> None:
    points = table[table["loss"] == "cdb_w"]
    ax = Figure().subplots()
    assert plot_frontier(points, ax) is ax
    pairs = points[["average_accuracy", "worst_class_accuracy"]].to_numpy()
    assert {tuple(pair) for pair in pairs.tolist()} <= drawn(ax)
    assert ax.get_xlabel() == "average accuracy"
    assert ax.get_ylabel() == "worst-class accuracy"


def test_the_line_of_equality_does_not_stretch_the_axes(table: pd.DataFrame) -> None:
    ax = Figure().subplots()
    plot_frontier(table.assign(average_accuracy=0.9, worst_class_accuracy=0.1), ax)
    assert ax.get_xlim()[0] > 0.8
    assert ax.get_ylim()[1] < 0.2


def test_markers_stand_on_the_points_and_grow_with_the_keep_fraction(table: pd.DataFrame) -> None:
    points = table[(table["method"] == "el2n") & (table["loss"] == "cdb_w")]
    ax = Figure().subplots()
    plot_frontier(points, ax, SeriesStyle.of(table))
    markers = [line for line in ax.lines if line.get_marker() == "s"]
    assert len(markers) == len(points) == 4
    for marker in markers:
        (x,), (y,) = marker.get_data()
        row = points[(points["average_accuracy"] == x) & (points["worst_class_accuracy"] == y)]
        small = row["keep_fraction"].iloc[0] == 0.2
        assert marker.get_markersize() == pytest.approx(3.5 + 7 * (0.2 if small else 0.5) ** 0.5)


def test_rings_mark_the_points_that_the_table_marks(table: pd.DataFrame) -> None:
    marked = table.assign(on_front=False, on_front_at_keep_fraction=False)
    marked.loc[3, "on_front"] = True
    ax = Figure().subplots()
    plot_frontier(marked, ax)
    rings = [line for line in ax.lines if line.get_markersize() == 17 and len(line.get_xdata())]
    expected = marked.loc[3, ["average_accuracy", "worst_class_accuracy"]].tolist()
    assert [[ring.get_xdata()[0], ring.get_ydata()[0]] for ring in rings] == [expected]


def test_bands_span_the_seeds(table: pd.DataFrame) -> None:
    points = table[(table["loss"] == "cdb_w") & table["method"].isin(["random", "none"])]
    points = points[points["quotas"] == "none"]
    axes = Figure().subplots(1, 2)
    assert plot_by_keep_fraction(points, axes) is axes
    rows = points[points["method"] == "random"]
    for ax, name in zip(axes, ("average_accuracy", "worst_class_accuracy"), strict=True):
        (band,) = ax.collections
        heights = set(band.get_paths()[0].vertices[:, 1].tolist())
        assert heights == {*rows[f"{name}_min"], *rows[f"{name}_max"]}


def test_a_panel_per_loss_with_shared_axes_and_one_legend(table: pd.DataFrame) -> None:
    figure = frontier_figure(table)
    assert [ax.get_title() for ax in figure.axes] == ["loss: cdb_w", "loss: cross_entropy"]
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert len(figure.legends) == 1
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"random", "el2n", "none", "drop", "0.2", "0.5", "all the data"} <= set(entries)
    assert len(keep_fraction_figure(table).axes) == 4


def test_looks_differ_in_grey_and_do_not_depend_on_the_panel() -> None:
    names = ["random", "el2n", "grand", "moso", "forgetting", "entropy", "aum", "k_center"]
    points = pd.DataFrame({"method": names, "quotas": ["none", "drop"] * 4})
    style = SeriesStyle.of(points)
    assert style.methods[0] == "random"
    assert style.colour("random") == "#000000"
    assert len({style.colour(name) for name in names}) == len(names)
    assert len({style.marker(name) for name in names}) == len(names)
    assert style.line("none") != style.line("drop")
    assert style.fill("none") != style.fill("drop")
    assert SeriesStyle.of(points.iloc[::-1]) == style


def test_same_table_same_bytes_and_another_table_others(table: pd.DataFrame) -> None:
    svg, png = to_svg(frontier_figure(table)), to_png(frontier_figure(table))
    with mpl.rc_context({"axes.labelsize": 30, "svg.hashsalt": None, "axes.grid": False}):
        assert to_svg(frontier_figure(table)) == svg
        assert to_png(frontier_figure(table)) == png
    assert b"<dc:date>" not in svg
    changed = table.assign(average_accuracy=table["average_accuracy"] * 0.9)
    assert to_svg(frontier_figure(changed)) != svg


@pytest.mark.parametrize("columns", [{"method": "none"}, {"method": "random"}])
def test_all_unpruned_or_all_pruned_can_be_drawn(
    table: pd.DataFrame, columns: dict[str, str]
) -> None:
    points = table.assign(**columns)
    assert to_svg(frontier_figure(points)).startswith(b"<?xml")
    assert to_svg(keep_fraction_figure(points)).startswith(b"<?xml")


def test_many_series_make_the_figure_as_high_as_its_legend(table: pd.DataFrame) -> None:
    rows = [table.assign(method=f"method {i}", quotas=f"rule {i % 6}") for i in range(14)]
    figure = frontier_figure(pd.concat(rows, ignore_index=True))
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


def test_names_are_not_read_as_formulas(table: pd.DataFrame) -> None:
    figure = frontier_figure(table.assign(method="$x_{$", loss="$y_{$"))
    assert to_svg(figure).startswith(b"<?xml")


def test_figures_have_no_global_state(tmp_path: Path, table: pd.DataFrame) -> None:
    before = dict(mpl.rcParams)
    to_png(keep_fraction_figure(table))
    assert dict(mpl.rcParams) == before
