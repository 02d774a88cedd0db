from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from matplotlib.figure import Figure
from matplotlib.lines import AxLine

from raydrop.frontier import correlation_points, density_points, frontier_table
from raydrop.frontier.figures.plots import (
    SHOWN_KEEPS,
    KeepStyle,
    SeriesStyle,
    correlation_figure,
    density_figure,
    frontier_figure,
    keep_fraction_figure,
    noise_figure,
    plot_accuracy_against_density,
    plot_by_keep_fraction,
    plot_densities,
    plot_frontier,
    plot_noise,
    to_png,
    to_svg,
)
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.statistics.noise import Noise, noise_of


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    study = FakeStudy(losses=("cross_entropy", "cdb_w"))
    return frontier_table(load_records(study.write(tmp_path_factory.mktemp("study"))).trials)


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Two target models and two query models, with mislabelled samples."""
    return load_records(TRANSFER.write(tmp_path_factory.mktemp("transfer")))


@pytest.fixture(scope="module")
def noise(transfer: Records) -> Noise:
    noise = noise_of(transfer.trials)
    assert noise is not None
    return noise


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(ax: mpl.axes.Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in ax.lines for x, y in np.column_stack(line.get_data()).tolist()}


def entries(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


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
    assert {"random", "el2n", "none", "drop", "0.2", "0.5", "all the data"} <= entries(figure)
    assert len(keep_fraction_figure(table).axes) == 4


def test_a_loss_without_pruning_is_a_named_star_in_the_panels_of_the_others(
    table: pd.DataFrame,
) -> None:
    alone = table["loss"].eq("cdb_w") & table["method"].ne("none")
    points = table[~alone]
    star = points[points["loss"] == "cdb_w"].iloc[0]
    frontier, curves = frontier_figure(points), keep_fraction_figure(points)
    assert [ax.get_title() for ax in frontier.axes] == ["loss: cross_entropy"]
    assert (star["average_accuracy"], star["worst_class_accuracy"]) in drawn(frontier.axes[0])
    assert len(curves.axes) == 2
    assert (1.0, star["worst_class_accuracy"]) in drawn(curves.axes[1])
    for ax in (*frontier.axes, *curves.axes):
        assert "cdb_w" in [text.get_text() for text in ax.texts]
    assert "… another loss" in entries(frontier)
    assert "… another loss" not in entries(frontier_figure(table))


def test_looks_differ_in_grey_and_do_not_depend_on_the_panel() -> None:
    names = ["random", "el2n", "grand", "moso", "forgetting", "entropy", "aum", "k_center"]
    points = pd.DataFrame({"method": names, "quotas": ["none", "drop"] * 4})
    points = points.assign(model="small_cnn", query_model="small_cnn")
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


def test_a_panel_per_model_and_a_look_per_query_model(transfer: Records) -> None:
    table = frontier_table(transfer.trials)
    titles = ["resnet18, cross_entropy", "resnet50, cross_entropy"]
    figure = frontier_figure(table)
    assert [ax.get_title() for ax in figure.axes] == titles
    assert {"random", "moso", "moso from resnet18", "moso from resnet50"} <= set(legend_of(figure))
    for ax, model in zip(figure.axes, ("resnet18", "resnet50"), strict=True):
        points = table[table["model"] == model]
        pairs = points[["average_accuracy", "worst_class_accuracy"]].to_numpy().tolist()
        foreign = table[table["model"] != model].iloc[0]
        assert {tuple(pair) for pair in pairs} <= drawn(ax)
        assert (foreign["average_accuracy"], foreign["worst_class_accuracy"]) not in drawn(ax)
        # Scores of this model and of the other are lines of their own.
        lines = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert sum(len(line.get_xdata()) == 2 for line in lines) == 3
    panels = keep_fraction_figure(table).axes
    assert [ax.get_title() for ax in panels] == [titles[0]] * 2 + [titles[1]] * 2
    assert [ax.get_xlabel() for ax in panels] == ["", "", "keep fraction", "keep fraction"]


def test_several_models_and_losses_make_a_row_per_model(transfer: Records) -> None:
    table = frontier_table(transfer.trials)
    both = pd.concat([table, table.assign(loss="cdb_w")], ignore_index=True)
    axes = frontier_figure(both).axes
    assert [ax.get_title() for ax in axes] == [
        f"{model}, {loss}"
        for model in ("resnet18", "resnet50")
        for loss in ("cdb_w", table.loss[0])
    ]
    places = [ax.get_subplotspec() for ax in axes]
    assert [(each.rowspan.start, each.colspan.start) for each in places] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_the_first_colour_stays_the_first_methods_own() -> None:
    points = pd.DataFrame({"method": [f"m{i:02d}" for i in range(20)], "quotas": "none"})
    style = SeriesStyle.of(points.assign(model="small_cnn", query_model="small_cnn"))
    colours = [style.colour(method) for method in style.methods]
    assert colours[0] not in colours[1:]
    looks = {(style.colour(method), style.marker(method)) for method in style.methods}
    assert len(looks) == 20


def test_the_noise_figure_draws_the_shares_and_a_uniform_draw(noise: Noise) -> None:
    ax = Figure().subplots()
    assert plot_noise(noise.points, ax) is ax
    (reference,) = [line for line in ax.lines if isinstance(line, AxLine)]
    assert (reference.get_xy1(), reference.get_slope()) == ((0, 1), -1)
    reference.remove()
    shares = noise.points[["keep_fraction", "noisy_pruned"]].to_numpy().tolist()
    assert drawn(ax) == {tuple(pair) for pair in shares}
    bottoms = {band.get_paths()[0].vertices[:, 1].min() for band in ax.collections}
    assert bottoms == set(noise.points.groupby("name")["noisy_pruned_min"].min())
    figure = noise_figure(noise.points)
    assert {"random", "moso from resnet18", "moso from resnet50", "uniform draw"} <= set(
        legend_of(figure)
    )
    assert to_svg(figure) == to_svg(noise_figure(noise.points))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Groups whose worst is not in the worst class; three keep fractions."""
    study = dataclasses.replace(GROUPED, keeps=(0.1, 0.2, 0.5))
    return load_records(study.write(tmp_path_factory.mktemp("grouped")))


@pytest.fixture(scope="module")
def correlated(grouped: Records) -> pd.DataFrame:
    """Densities and accuracies of every class, by series and keep fraction."""
    points = correlation_points(grouped.trials, grouped.class_sizes)
    assert points is not None
    return points


def test_figures_by_group_draw_the_worst_group(grouped: Records) -> None:
    table = frontier_table(grouped.trials, by="group")
    (ax,) = frontier_figure(table, "group").axes
    pairs = table[["average_accuracy", "worst_group_accuracy"]].to_numpy().tolist()
    assert {tuple(pair) for pair in pairs} <= drawn(ax)
    foreign = table[["average_accuracy", "worst_class_accuracy"]].to_numpy().tolist()
    assert not {tuple(pair) for pair in foreign} & drawn(ax)
    assert ax.get_ylabel() == "worst-group accuracy"
    average, worst = keep_fraction_figure(table, "group").axes
    assert (average.get_ylabel(), worst.get_ylabel()) == (
        "average accuracy",
        "worst-group accuracy",
    )
    heights = {y for _, y in drawn(worst)}
    assert set(table["worst_group_accuracy"]) <= heights
    assert not set(table["worst_class_accuracy"]) & heights


def test_densities_are_drawn_by_rank_with_the_fewest_samples_at_the_end(
    correlated: pd.DataFrame,
) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    ax = Figure().subplots()
    assert plot_densities(points, ax) is ax
    assert {tuple(pair) for pair in points[["rank", "density"]].to_numpy().tolist()} <= drawn(ax)
    cells = points.groupby("keep_fraction")
    assert [text.get_text() for text in ax.texts] == [
        f"{count}" for count in cells["smallest_kept"].first()
    ]
    for band, (_, rows) in zip(ax.collections, cells, strict=True):
        heights = set(band.get_paths()[0].vertices[:, 1].tolist())
        assert heights == {*rows["density_min"], *rows["density_max"]}


def test_numbers_at_the_ends_of_lines_do_not_overlap(correlated: pd.DataFrame) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    for density in (0.1, 1.0):
        figure = density_figure(points.assign(density=density))
        figure.canvas.draw()
        (ax,) = figure.axes
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        assert boxes[-1].y1 <= ax.get_window_extent().y1 + 1


def test_accuracies_are_drawn_against_densities_with_their_correlations(
    correlated: pd.DataFrame,
) -> None:
    points = correlated[correlated["name"] == "el2n + none"]
    ax = Figure().subplots()
    assert plot_accuracy_against_density(points, ax) is ax
    assert {tuple(p) for p in points[["density", "accuracy"]].to_numpy().tolist()} == drawn(ax)
    first = points[points["keep_fraction"] == 0.1].iloc[0]
    legend = ax.get_legend()
    assert legend is not None
    pearson, spearman = (f"{first[name]:+.2f}" for name in ("pearson", "spearman"))
    assert pearson.startswith("-")
    expected = f"0.1: {pearson}, {spearman}".replace("-", "\N{MINUS SIGN}")
    assert legend.get_texts()[0].get_text() == expected
    undefined = correlated[correlated["name"] == "random + none"]
    texts = plot_accuracy_against_density(undefined, Figure().subplots()).get_legend().get_texts()
    assert texts[0].get_text() == "0.1: \N{EN DASH}, \N{EN DASH}"


def test_a_panel_per_series_random_first_on_shared_axes(correlated: pd.DataFrame) -> None:
    names = ["random + none", "random + drop", "el2n + none", "el2n + drop"]
    for figure in (density_figure(correlated), correlation_figure(correlated)):
        assert [ax.get_title() for ax in figure.axes] == names
        assert len({ax.get_ylim() for ax in figure.axes}) == 1
        assert to_svg(figure).startswith(b"<?xml")
    assert {"0.1", "0.2", "0.5", "every class alike"} <= set(legend_of(density_figure(correlated)))
    by_group = density_figure(correlated, "group")
    assert "fewest samples of a group" in legend_of(by_group)
    assert by_group.get_supxlabel() == "groups, densest first"


def test_long_names_do_not_run_into_the_next_panel(correlated: pd.DataFrame) -> None:
    points = correlated.assign(name=correlated["name"] + " from another_architecture")
    for figure in (density_figure(points), correlation_figure(points)):
        figure.canvas.draw()
        titles = [ax.title for ax in figure.axes]
        assert {title.get_text().replace("\n", " ") for title in titles} == set(points["name"])
        boxes = sorted((title.get_window_extent() for title in titles), key=lambda box: box.x0)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_many_keep_fractions_are_thinned_from_the_smallest_to_the_largest() -> None:
    keeps = [round(0.1 * i, 1) for i in range(1, 10)]
    style = KeepStyle.of(pd.DataFrame({"keep_fraction": keeps}))
    assert style.keeps == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert len(style.keeps) == SHOWN_KEEPS
    assert KeepStyle.of(pd.DataFrame({"keep_fraction": [0.3, 0.3]})).keeps == (0.3,)
    lightness = [float(np.dot(style.look(k)["color"][:3], [0.3, 0.6, 0.1])) for k in style.keeps]
    assert (np.diff(lightness) > 0.05).all()
    assert len({style.look(keep)["marker"] for keep in style.keeps}) == SHOWN_KEEPS


def test_very_many_classes_stay_a_small_file() -> None:
    rng = np.random.default_rng(0)
    keeps, classes = (0.2, 0.5, 0.8), 2000
    points = pd.DataFrame(
        {
            "name": "el2n + none",
            "model": "a",
            "query_model": "a",
            "method": "el2n",
            "quotas": "none",
            "keep_fraction": np.repeat(keeps, classes),
            "rank": np.tile(np.arange(1, classes + 1), len(keeps)),
            "density": rng.random(classes * len(keeps)),
            "accuracy": rng.random(classes * len(keeps)),
            "pearson": 0.1,
            "spearman": 0.1,
            "smallest_kept": 3,
        }
    )
    points = points.assign(density_min=points["density"], density_max=points["density"])
    svg = to_svg(correlation_figure(points))
    assert b"<image" in svg
    assert len(svg) < 300_000
    assert b"<image" not in to_svg(correlation_figure(points[points["rank"] < 100]))
    assert to_svg(correlation_figure(points)) == svg


def test_the_same_densities_give_the_same_bytes_and_others_others(
    correlated: pd.DataFrame,
) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    for draw in (density_figure, correlation_figure):
        svg = to_svg(draw(points))
        assert to_svg(draw(points)) == svg
        assert to_svg(draw(points.assign(density=points["density"] * 0.9))) != svg


def test_densities_are_drawn_where_keep_fractions_differ_between_series(grouped: Records) -> None:
    lacking = grouped.trials[
        (grouped.trials["method"] != "el2n") | (grouped.trials["keep_fraction"] == 0.2)
    ]
    points = density_points(lacking, grouped.class_sizes)
    assert points is not None
    figure = density_figure(points)
    assert [len(ax.texts) for ax in figure.axes] == [3, 3, 1, 1]
