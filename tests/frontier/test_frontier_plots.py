"""Charts, which say what figures of points show, and the drawings of them."""

from __future__ import annotations

import dataclasses
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy
from matplotlib.figure import Figure
from matplotlib.lines import AxLine

from raydrop.frontier import correlation_points, density_points, frontier_table, load_records
from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.chart import Chart, frontier_chart, noise_chart
from raydrop.frontier.figures.densities import (
    correlation_figure,
    density_figure,
    plot_accuracy_against_density,
    plot_densities,
)
from raydrop.frontier.figures.frontier import (
    curves_figure,
    frontier_figure,
    noise_figure,
    plot_curves,
    plot_points,
)
from raydrop.frontier.figures.looks import SHOWN_KEEPS, KeepStyle, SeriesStyle
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.densities import Noise, noise_of
from raydrop.frontier.table import table_of

PAIR = ["average_accuracy", "worst_accuracy"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    study = FakeStudy(losses=("cross_entropy", "cdb_w"))
    return table_of(load_records(study.write(tmp_path_factory.mktemp("study"))))


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Two target models and two query models, with mislabelled samples."""
    study = dataclasses.replace(TRANSFER, seeds=(0, 1))
    return load_records(study.write(tmp_path_factory.mktemp("transfer")))


@pytest.fixture(scope="module")
def noise(transfer: Records) -> Noise:
    noise = noise_of(transfer.trials)
    assert noise is not None
    return noise


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


def drawn(ax: mpl.axes.Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in ax.lines for x, y in np.column_stack(line.get_data()).tolist()}


def entries(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def pairs(points: pd.DataFrame, *names: str) -> set[tuple[float, ...]]:
    return {tuple(pair) for pair in points[list(names) or PAIR].to_numpy().tolist()}


def of_loss(table: pd.DataFrame, loss: str = "cdb_w") -> Chart:
    """The chart of one loss."""
    return frontier_chart(table[table["loss"] == loss], SeriesStyle.of(table))


def test_every_point_is_drawn_where_the_table_says_and_no_line_stretches_the_axes(
    table: pd.DataFrame,
) -> None:
    chart, ax = of_loss(table), Figure().subplots()
    assert plot_points(chart, 0, ax) is ax
    assert drawn(ax) >= pairs(chart.table)
    flat = table[table["loss"] == "cdb_w"].assign(average_accuracy=0.9, worst_accuracy=0.1)
    ax = plot_points(frontier_chart(flat), 0, Figure().subplots())
    assert ax.get_xlim()[0] > 0.8
    assert ax.get_ylim()[1] < 0.2


def test_markers_stand_on_the_points_and_grow_with_the_keep_fraction(table: pd.DataFrame) -> None:
    chart, ax = of_loss(table), Figure().subplots()
    plot_points(chart, 0, ax)
    points = chart.table[chart.table["method"] == "el2n"]
    markers = [line for line in ax.lines if line.get_marker() == "s"]
    assert len(markers) == len(points) == 4
    for marker in markers:
        (x,), (y,) = marker.get_data()
        row = points[(points[PAIR[0]] == x) & (points[PAIR[1]] == y)]
        small = row["keep_fraction"].iloc[0] == 0.2
        assert marker.get_markersize() == pytest.approx(3.5 + 7 * (0.2 if small else 0.5) ** 0.5)


def test_rings_mark_the_points_that_the_table_marks(table: pd.DataFrame) -> None:
    marked = table[table["loss"] == "cdb_w"].reset_index(drop=True)
    marked = marked.assign(on_front=False, on_front_at_keep_fraction=False)
    marked.loc[3, "on_front"] = True
    ax = plot_points(frontier_chart(marked), 0, Figure().subplots())
    rings = [line for line in ax.lines if line.get_markersize() == 17]
    expected = marked.loc[3, PAIR].tolist()
    assert [[ring.get_xdata()[0], ring.get_ydata()[0]] for ring in rings] == [expected]


def test_bands_span_the_seeds(table: pd.DataFrame) -> None:
    points = table[(table["loss"] == "cdb_w") & table["method"].isin(["random", "none"])]
    chart = frontier_chart(points[points["quotas"] == "none"])
    rows = points[(points["method"] == "random") & (points["quotas"] == "none")]
    for name in PAIR:
        ax = Figure().subplots()
        assert plot_curves(chart, 0, ax, "keep_fraction", name) is ax
        (band,) = ax.collections
        heights = set(band.get_paths()[0].vertices[:, 1].tolist())
        assert heights == {*rows[f"{name}_min"], *rows[f"{name}_max"]}


def test_a_panel_per_loss_with_shared_axes_one_legend_and_the_same_bytes(
    table: pd.DataFrame,
) -> None:
    before = dict(mpl.rcParams)
    figure = frontier_figure(frontier_chart(table))
    assert titles(figure) == ["loss: cdb_w", "loss: cross_entropy"]
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert (left.get_xlabel(), left.get_ylabel()) == ("average accuracy", "worst-class accuracy")
    assert (right.get_xlabel(), right.get_ylabel()) == ("average accuracy", "")
    assert len(figure.legends) == 1
    named = {"random", "el2n", "none", "drop", "0.2", "0.5", "all the data"}
    assert named <= set(entries(figure))
    assert "… another loss" not in entries(figure)
    svg = to_svg(figure)
    assert b"<dc:date>" not in svg
    with mpl.rc_context({"axes.labelsize": 30, "svg.hashsalt": None, "axes.grid": False}):
        assert to_svg(frontier_figure(frontier_chart(table))) == svg
    changed = table.assign(average_accuracy=table["average_accuracy"] * 0.9)
    assert to_svg(frontier_figure(frontier_chart(changed))) != svg
    curves = curves_figure(frontier_chart(table))
    assert len(curves.axes) == 4
    assert curves.get_supxlabel() == "keep fraction"
    assert dict(mpl.rcParams) == before


def test_a_loss_without_pruning_is_a_named_star_in_the_panels_of_the_others(
    table: pd.DataFrame,
) -> None:
    alone = table["loss"].eq("cdb_w") & table["method"].ne("none")
    chart = frontier_chart(table[~alone])
    star = chart.table[chart.table["loss"] == "cdb_w"].iloc[0]
    frontier, curves = frontier_figure(chart), curves_figure(chart)
    assert titles(frontier) == ["loss: cross_entropy"]
    assert tuple(star[PAIR]) in drawn(frontier.axes[0])
    assert len(curves.axes) == 2
    assert (1.0, star["worst_accuracy"]) in drawn(curves.axes[1])
    for ax in (*frontier.axes, *curves.axes):
        assert "cdb_w" in [text.get_text() for text in ax.texts]
    assert "… another loss" in entries(frontier)


def test_looks_differ_in_grey_and_do_not_depend_on_the_panel() -> None:
    names = ["random", "el2n", "grand", "moso", "forgetting", "entropy", "aum", "k_center"]
    points = pd.DataFrame({"method": names, "quotas": ["none", "drop"] * 4})
    points = points.assign(model="m", query_model="m", network_method="none", network_target="none")
    style = SeriesStyle.of(points)
    assert style.methods[0] == "random"
    assert style.colour("random") == "#000000"
    looks = [style.look(name, "none") for name in names]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 8
    free, drop = (style.look("random", quotas) for quotas in ("none", "drop"))
    assert free["linestyle"] != drop["linestyle"]
    assert free["fillstyle"] != drop["fillstyle"]
    assert SeriesStyle.of(points.iloc[::-1]) == style
    # However many there are, the first colour stays the first method's own.
    many = SeriesStyle(tuple(f"m{i:02d}" for i in range(20)), ("none",))
    colours = [many.colour(method) for method in many.methods]
    assert colours[0] not in colours[1:]
    markers = [many.look(method, "none")["marker"] for method in many.methods]
    assert len(set(zip(colours, markers, strict=True))) == 20


@pytest.mark.parametrize("method", ["none", "random"])
def test_all_unpruned_or_all_pruned_can_be_drawn(table: pd.DataFrame, method: str) -> None:
    chart = frontier_chart(table.assign(method=method))
    for figure in (frontier_figure(chart), curves_figure(chart)):
        assert len(figure.axes) > 0
        assert ("all the data" in entries(figure)) == (method == "none")


def test_many_series_make_the_figure_as_high_as_its_legend(table: pd.DataFrame) -> None:
    rows = [table.assign(method=f"method {i}", quotas=f"rule {i % 6}") for i in range(14)]
    points = pd.concat(rows, ignore_index=True)
    figure = frontier_figure(frontier_chart(points[points["keep_fraction"] == 0.5]))
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


def test_a_panel_per_model_and_a_look_per_query_model(transfer: Records) -> None:
    table = frontier_table(transfer.trials)
    names = ["resnet18, cross_entropy", "resnet50, cross_entropy"]
    figure = frontier_figure(frontier_chart(table))
    assert titles(figure) == names
    methods = {"random", "moso", "moso from resnet18", "moso from resnet50"}
    assert methods <= set(entries(figure))
    for ax, model in zip(figure.axes, ("resnet18", "resnet50"), strict=True):
        foreign = table[table["model"] != model].iloc[0]
        assert pairs(table[table["model"] == model]) <= drawn(ax)
        assert tuple(foreign[PAIR]) not in drawn(ax)
        # Scores of this model and of the other are lines of their own.
        lines = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert sum(len(line.get_xdata()) == 2 for line in lines) == 3
    both = frontier_chart(pd.concat([table, table.assign(loss="cdb_w")], ignore_index=True))
    assert titles(curves_figure(frontier_chart(table))) == [names[0]] * 2 + [names[1]] * 2
    # Several losses besides make a row per model.
    axes = frontier_figure(both).axes
    losses = ("cdb_w", "cross_entropy")
    assert [ax.get_title() for ax in axes] == [
        f"{model}, {loss}" for model in ("resnet18", "resnet50") for loss in losses
    ]
    places = [ax.get_subplotspec() for ax in axes]
    assert [(each.rowspan.start, each.colspan.start) for each in places] == [
        (0, 0), (0, 1), (1, 0), (1, 1),
    ]  # fmt: skip


def test_the_noise_figure_draws_the_shares_and_a_uniform_draw(noise: Noise) -> None:
    shares = pairs(noise.points, "keep_fraction", "noisy_pruned")
    chart = noise_chart(noise.points)
    ax = plot_curves(chart, 0, Figure().subplots(), "keep_fraction", "noisy_pruned")
    assert drawn(ax) == shares
    bottoms = {band.get_paths()[0].vertices[:, 1].min() for band in ax.collections}
    assert bottoms == set(noise.points.groupby("name")["noisy_pruned_min"].min())
    figure = noise_figure(noise.points)
    (ax,) = figure.axes
    assert drawn(ax) >= shares
    (reference,) = [line for line in ax.lines if isinstance(line, AxLine)]
    assert (reference.get_xy1(), reference.get_slope()) == ((0, 1), -1)
    assert {"random", "moso from resnet18", "moso from resnet50", "uniform draw"} <= set(
        entries(figure)
    )
    assert to_svg(figure) == to_svg(noise_figure(noise.points))


def test_figures_by_group_draw_the_worst_group(grouped: Records) -> None:
    table = table_of(grouped.about("group"))
    chart = frontier_chart(table)
    (ax,) = frontier_figure(chart).axes
    assert pairs(table, PAIR[0], "worst_group_accuracy") <= drawn(ax)
    assert not pairs(table, PAIR[0], "worst_class_accuracy") & drawn(ax)
    assert ax.get_ylabel() == "worst-group accuracy"
    average, worst = curves_figure(chart).axes
    assert average.get_ylabel() == "average accuracy"
    assert worst.get_ylabel() == "worst-group accuracy"
    heights = {y for _, y in drawn(worst)}
    assert set(table["worst_group_accuracy"]) <= heights
    assert not set(table["worst_class_accuracy"]) & heights


def test_densities_are_drawn_by_rank_with_the_fewest_samples_at_the_end(
    correlated: pd.DataFrame,
) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    ax = plot_densities(points, Figure().subplots(), KeepStyle.of(points))
    assert pairs(points, "rank", "density") <= drawn(ax)
    cells = points.groupby("keep_fraction")
    fewest = [f"{count}" for count in cells["smallest_kept"].first()]
    assert [text.get_text() for text in ax.texts] == fewest
    for band, (_, rows) in zip(ax.collections, cells, strict=True):
        heights = set(band.get_paths()[0].vertices[:, 1].tolist())
        assert heights == {*rows["density_min"], *rows["density_max"]}


def test_numbers_at_the_ends_of_lines_do_not_overlap(correlated: pd.DataFrame) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    for density in (0.1, 1.0):
        figure = density_figure(points.assign(density=density), "class")
        figure.canvas.draw()
        (ax,) = figure.axes
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        assert boxes[-1].y1 <= ax.get_window_extent().y1 + 1


def test_accuracies_are_drawn_against_densities_with_their_correlations(
    correlated: pd.DataFrame,
) -> None:
    style = KeepStyle.of(correlated)

    def first_entry(name: str) -> str:
        points = correlated[correlated["name"] == name]
        ax = plot_accuracy_against_density(points, Figure().subplots(), style)
        assert pairs(points, "density", "accuracy") == drawn(ax)
        return str(ax.get_legend().get_texts()[0].get_text())

    rows = correlated[(correlated["name"] == "el2n + none") & (correlated["keep_fraction"] == 0.1)]
    pearson, spearman = (f"{rows[name].iloc[0]:+.2f}" for name in ("pearson", "spearman"))
    assert pearson.startswith("-")
    expected = f"0.1: {pearson}, {spearman}".replace("-", "\N{MINUS SIGN}")
    assert first_entry("el2n + none") == expected
    assert first_entry("random + none") == "0.1: \N{EN DASH}, \N{EN DASH}"


def test_a_panel_per_series_random_first_on_shared_axes_and_long_names_do_not_collide(
    correlated: pd.DataFrame,
) -> None:
    names = ["random + none", "random + drop", "el2n + none", "el2n + drop"]
    origin = " from another_architecture"
    long = correlated.assign(name=correlated["name"] + origin)
    for draw in (density_figure, correlation_figure):
        figure = draw(long, "group")
        assert [title.replace("\n", " ") for title in titles(figure)] == [n + origin for n in names]
        assert len({ax.get_ylim() for ax in figure.axes}) == 1
        figure.canvas.draw()
        boxes = sorted((ax.title.get_window_extent() for ax in figure.axes), key=lambda box: box.x0)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    figure = density_figure(long, "group")
    assert {"0.1", "0.2", "0.5", "every group alike"} <= set(entries(figure))
    assert "fewest samples of a group" in entries(figure)
    assert figure.get_supxlabel() == "groups, densest first"


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
    keeps, classes = (0.2, 0.5, 0.8), 1500
    point = {"name": "el2n + none", "model": "a", "query_model": "a", "method": "el2n"}
    point |= {"quotas": "none", "pearson": 0.1, "spearman": 0.1, "smallest_kept": 3}
    columns = {
        "keep_fraction": np.repeat(keeps, classes),
        "rank": np.tile(np.arange(1, classes + 1), len(keeps)),
        "density": rng.random(classes * len(keeps)),
        "accuracy": rng.random(classes * len(keeps)),
    }
    points = pd.DataFrame(columns).assign(**point)
    svg = to_svg(correlation_figure(points, "class"))
    assert b"<image" in svg
    assert len(svg) < 300_000
    assert b"<image" not in to_svg(correlation_figure(points[points["rank"] < 100], "class"))


def test_the_same_densities_give_the_same_bytes_and_others_others(
    correlated: pd.DataFrame,
) -> None:
    points = correlated[correlated["name"] == "el2n + drop"]
    for draw in (density_figure, correlation_figure):
        svg = to_svg(draw(points, "class"))
        assert to_svg(draw(points, "class")) == svg
        assert to_svg(draw(points.assign(density=points["density"] * 0.9), "class")) != svg


def test_densities_are_drawn_where_keep_fractions_differ_between_series(grouped: Records) -> None:
    trials = grouped.trials
    lacking = trials[(trials["method"] != "el2n") | (trials["keep_fraction"] == 0.2)]
    points = density_points(lacking, grouped.class_sizes)
    assert points is not None
    assert [len(ax.texts) for ax in density_figure(points, "class").axes] == [3, 3, 1, 1]
