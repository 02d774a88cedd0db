"""Pruned networks in tables, comparisons, figures, sentences, the live view and exports."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import NETWORKS, SMALL, FakeStudy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from scipy import special, stats

from raydrop.frontier import (
    Frontier,
    frontier_table,
    load_records,
    resample,
    summary_table,
    write_frontier,
)
from raydrop.frontier.export import latex_table, wide_table
from raydrop.frontier.figures import catalogue
from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.chart import frontier_chart, network_chart, overlay_chart
from raydrop.frontier.figures.frontier import (
    curves_figure,
    frontier_figure,
    network_figure,
    overlay_figure,
)
from raydrop.frontier.figures.interactive import interactive_frontier
from raydrop.frontier.figures.looks import SeriesStyle
from raydrop.frontier.overlay import overlay_table
from raydrop.frontier.points import (
    DENSE_NETWORK,
    PLAIN_LOSS,
    POINT,
    RANDOM,
    has_networks,
    point_name,
    series_name,
    target_place,
)
from raydrop.frontier.records import NETWORK, Records
from raydrop.frontier.report.page import render_report
from raydrop.frontier.report.sentences import gaps, network_answers
from raydrop.frontier.report.tables import points_table, with_forward_times
from raydrop.frontier.report.tables import recall_changes as cell_changes
from raydrop.frontier.statistics.changes import recall_changes
from raydrop.frontier.statistics.comparisons import ERROR, comparisons, holm
from raydrop.frontier.statistics.contrasts import (
    MOST_SEEDS,
    Contrasts,
    _tail,
    contrasts,
    seeds_needed,
)
from raydrop.frontier.statistics.densities import correlation_points
from raydrop.frontier.statistics.fronts import pareto_front
from raydrop.frontier.table import by_merit, mean_recalls
from raydrop.frontier.watch import Watcher, live_view
from raydrop.store import Store
from raydrop.store.files import csv_text, parquet_bytes

SVG = b'<svg viewBox="0 0 1 1"></svg>'
TARGETS = ["none", *NETWORKS.network_targets]
CELL = ["method", "quotas", "keep_fraction", "loss", "network_method", "network_target"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NETWORKS.write(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def records(folder: Path) -> Records:
    return load_records(folder)


@pytest.fixture(scope="module")
def table(records: Records) -> pd.DataFrame:
    return frontier_table(records.trials, records.class_names)


@pytest.fixture(scope="module")
def compared(records: Records) -> pd.DataFrame:
    return comparisons(records)


def one(rows: pd.DataFrame, **identity: object) -> pd.Series[Any]:
    """Return the one row with some values."""
    (found,) = rows[np.logical_and.reduce([rows[k] == v for k, v in identity.items()])].iloc
    return found


# Records and points.


def test_trials_say_what_was_measured_of_their_networks(records: Records) -> None:
    trials = records.trials
    sizes = trials[["network_target", "macs", "dense_macs", "parameters", "macs_removed"]]
    assert set(sizes.itertuples(index=False, name=None)) == {
        ("none", 1_000_000, 1_000_000, 20_000, 0.0),
        ("flops(0.5)", 500_000, 1_000_000, 10_000, 0.5),
        ("flops(0.75)", 250_000, 1_000_000, 5_000, 0.75),
        ("flops(0.9)", 100_000, 1_000_000, 2_000, 0.9),
    }
    assert set(trials.loc[trials["network_target"] == "flops(0.9)", "network_note"]) == {
        "flops(0.9) was not reached"
    }
    assert (trials["forward_seconds"] == 0.002).all()
    assert len(parquet_bytes(trials)) > 0


def test_records_of_before_networks_were_pruned_are_dense(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "new")
    old = tmp_path / "old"
    SMALL.write_data(Store(old / "store"))
    for trial in SMALL.trials():
        info = {k: v for k, v in SMALL.info(trial).items() if k != "network_target"}
        config = SMALL.identity(trial)
        Store(old / "store").write("trial", config, info, {"predictions": SMALL.predictions(trial)})
    SMALL.write_study(old)
    study = json.loads((old / "study.json").read_text())
    study["trials"] = [
        {k: v for k, v in trial.items() if not k.startswith("network")} for trial in study["trials"]
    ]
    (old / "study.json").write_text(json.dumps(study))
    found = load_records(old)
    assert set(found.trials["network_target"]) == {"none"}
    assert found.trials[list(NETWORK)].isna().all().all()
    assert not has_networks(found.trials)
    points = frontier_table(found.trials, found.class_names)
    assert points["macs"].isna().all()
    new = load_records(tmp_path / "new")
    assert csv_text(points) == csv_text(frontier_table(new.trials, new.class_names))
    assert network_chart(points) is None
    assert len(Watcher(old).look().points) == len(points)


def test_networks_are_points_of_their_own_with_means_of_what_was_measured(
    records: Records, table: pd.DataFrame
) -> None:
    # Two keep fractions and all the data: one dense network each, and 3 x 3 networks per loss.
    assert len(table) == 3 * (1 + 3 * 3 * 2)
    assert set(table["n_seeds"]) == {3}
    row = one(
        table,
        method="none",
        loss="pw(0.5, 1)",
        network_method="autobot",
        network_target="flops(0.75)",
    )
    assert (row["macs"], row["parameters"], row["macs_removed"]) == (250_000, 5_000, 0.75)
    assert "forward_seconds" not in table
    trials = records.trials.assign(macs=records.trials["macs"] + records.trials["seed"])
    assert frontier_table(trials)["macs"].min() == 100_001


def test_every_target_has_a_front_of_its_own(table: pd.DataFrame) -> None:
    values = table[["average_accuracy", "worst_class_accuracy"]].to_numpy()
    for place, row in enumerate(table.to_dict("records")):
        rivals = values[(table["network_target"] == row["network_target"]).to_numpy()]
        beaten = (rivals >= values[place]).all(axis=1) & (rivals > values[place]).any(axis=1)
        assert row["on_front"] == (not beaten.any())
    assert table.groupby("network_target")["on_front"].any().all()
    # Over all targets together only dense networks would be on it.
    joint = table["average_accuracy"].max()
    assert (table.loc[table["on_front"], "average_accuracy"] < joint).any()


def test_probabilities_are_those_of_each_target(records: Records, table: pd.DataFrame) -> None:
    resamples = resample(records, 50)
    shares = frontier_table(records.trials, resamples=resamples)
    sums = shares.groupby("network_target")["front_probability"].sum()
    assert sums.index.tolist() == sorted(TARGETS)
    # In each resample some point of each target is on its front.
    assert (sums >= 1 - 1e-9).all()


def test_a_front_with_cost_as_a_further_axis(table: pd.DataFrame) -> None:
    values = table[["average_accuracy", "worst_class_accuracy", "macs"]].to_numpy() * [1, 1, -1]
    # The smallest networks cannot be beaten at their cost; without it, they are.
    smallest = (table["network_target"] == "flops(0.9)").to_numpy()
    assert (pareto_front(values) & smallest).any()
    assert not (pareto_front(values[:, :2]) & smallest).any()


def test_targets_are_ordered_dense_first_and_then_as_numbers() -> None:
    targets = ["flops(0.9)", "sparsity(0.5)", "flops(0.25)", "none", "flops(0.125)", "flops(1e-05)"]
    expected = ["none", "flops(1e-05)", "flops(0.125)", "flops(0.25)", "flops(0.9)"]
    assert sorted(targets, key=target_place) == [*expected, "sparsity(0.5)"]


def test_names_say_how_data_and_network_were_pruned(table: pd.DataFrame) -> None:
    row = one(
        table,
        method="random",
        keep_fraction=0.5,
        loss="cross_entropy",
        network_method="autobot",
        network_target="flops(0.9)",
    ).to_dict()
    assert series_name(row) == "random + none, autobot"
    assert series_name(row | {"method": "none"}) == "all the data, autobot"
    expected = "random + none, autobot, cross_entropy, keep 0.5, flops(0.9)"
    assert point_name(row, several_models=False) == expected
    dense = row | {"network_method": "none", "network_target": "none"}
    assert point_name(dense, several_models=False) == "random + none, cross_entropy, keep 0.5"
    before = {k: v for k, v in dense.items() if not k.startswith("network")}
    assert point_name(before, several_models=True).startswith("small_cnn: random + none, cross")


# Comparisons.


def test_networks_are_compared_with_their_dense_network_random_filters_and_the_plain_loss(
    compared: pd.DataFrame, records: Records
) -> None:
    pruned = compared[compared["network_target"] != "none"]
    counts = pruned[pruned["measure"] == "worst"].groupby("reference").size().to_dict()
    data, methods, targets, losses = 3, 3, 3, 2
    assert counts == {
        DENSE_NETWORK: data * methods * targets * losses,
        "random filters": data * (methods - 1) * targets * losses,
        PLAIN_LOSS: data * methods * targets,
    }
    # Dense points keep the references that they had, and get no others.
    dense = compared[compared["network_target"] == "none"]
    assert set(dense["reference"]) == {"all the data"}
    assert len(dense) == 2 * 2
    point = {
        "method": "random",
        "keep_fraction": 0.5,
        "loss": "pw(0.5, 1)",
        "network_method": "magnitude",
        "network_target": "flops(0.75)",
    }
    others = {
        DENSE_NETWORK: {
            "loss": "cross_entropy",
            "network_method": "none",
            "network_target": "none",
        },
        "random filters": {"network_method": "random"},
        PLAIN_LOSS: {"loss": "cross_entropy"},
    }
    trials = records.trials

    def seeds(**identity: object) -> pd.DataFrame:
        return trials[np.logical_and.reduce([trials[k] == v for k, v in identity.items()])]

    ours = seeds(**point)
    for reference, other in others.items():
        theirs = seeds(**{**point, **other})
        assert len(theirs) == 3
        found = one(compared, **point, reference=reference, measure="average")
        expected = ours["average_accuracy"].mean() - theirs["average_accuracy"].mean()
        assert found["difference"] == pytest.approx(expected)


def test_losses_are_one_family_and_targets_are_not(compared: pd.DataFrame) -> None:
    worst = compared[compared["measure"] == "worst"]
    for reference, more in (
        (PLAIN_LOSS, []),
        (DENSE_NETWORK, ["loss"]),
        ("random filters", ["loss"]),
    ):
        family = ["keep_fraction", "network_target", *more]
        for _, rows in worst[worst["reference"] == reference].groupby(family):
            adjusted, _ = holm(rows["p_value"].to_numpy(), ERROR)
            assert rows["p_adjusted"].tolist() == adjusted.tolist()


def test_losses_share_their_error(tmp_path: Path) -> None:
    three = dataclasses.replace(
        NETWORKS, losses=(*NETWORKS.losses, "cdb_w"), keeps=(0.5,), network_methods=("autobot",)
    )
    found = comparisons(load_records(three.write(tmp_path)))
    plain = found[(found["reference"] == PLAIN_LOSS) & (found["measure"] == "worst")]
    for _, rows in plain.groupby(["keep_fraction", "network_target"]):
        assert set(rows["loss"]) == {"pw(0.5, 1)", "cdb_w"}
        assert rows["p_adjusted"].tolist() == holm(rows["p_value"].to_numpy())[0].tolist()
        # A negative control: alone, the smaller p-value would not have been doubled.
        assert rows["p_adjusted"].min() == min(1, 2 * rows["p_value"].min())


def test_masked_weights_are_compared_with_random_weights_of_the_same_options(
    tmp_path: Path,
) -> None:
    study = dataclasses.replace(
        NETWORKS,
        losses=("cross_entropy",),
        keeps=(0.5,),
        network_methods=(
            "unstructured_magnitude(rounds=3)",
            "unstructured_random",
            "unstructured_random(rounds=3)",
        ),
        network_targets=("sparsity(0.9)",),
    )
    records = load_records(study.write(tmp_path))
    found = comparisons(records)
    rows = found[(found["reference"] == "random weights") & (found["measure"] == "average")]
    magnitude = one(rows, method="none", network_method="unstructured_magnitude(rounds=3)")
    trials = records.trials[records.trials["method"] == "none"]
    means = trials.groupby("network_method")["average_accuracy"].mean()
    expected = means["unstructured_magnitude(rounds=3)"] - means["unstructured_random(rounds=3)"]
    assert magnitude["difference"] == pytest.approx(expected)
    # Its size is told by its weights, since masked ones are still computed.
    chart = network_chart(frontier_table(records.trials))
    assert chart is not None
    points = chart.table
    pruned = points[points["network_target"] != "none"]
    assert pruned["masked"].all()
    assert pruned["remaining"].to_numpy() == pytest.approx(0.1)


# The fast ways of comparisons against the plain ones.


def many_classes(seed: int, seeds: int = 3, classes: int = 70) -> Contrasts:
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(classes), rng.integers(5, 30, classes))
    levels = rng.uniform(0.5, 0.95, (2, 1, classes))
    levels = np.clip(levels + rng.normal(0, 0.03, (2, seeds, classes)), 0, 1)
    hits = rng.random((2, seeds, len(members))) < levels[:, :, members]
    return contrasts(hits[0], hits[1], members)


def every_tail(freedom: NDArray[np.float64], ratio: NDArray[np.float64]) -> float:
    """The most of each row's least tail, each over its share of the error, one by one."""
    rest = 0.5 / max(1, len(ratio) - 1)
    shares = np.where(np.eye(len(ratio), dtype=bool), 0.5 if len(ratio) > 1 else 1.0, rest)
    return float((special.stdtr(freedom, -ratio) / shares).min(axis=1).max())


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.integers(2, 6),
    st.sampled_from([1, 2, 25]),
    st.sampled_from([0.05, 1.0, 4.0]),
)
def test_tails_are_those_of_all_pairs(seed: int, seeds: int, classes: int, scale: float) -> None:
    found = many_classes(seed, seeds, classes)
    with np.errstate(divide="ignore", over="ignore"):
        freedom, ratio = found.freedom / found.share**2, scale * found.mean / found.error
    assert _tail(freedom, ratio) == every_tail(freedom, ratio)
    assert _tail(freedom.T, -ratio.T) == every_tail(freedom.T, -ratio.T)


def test_the_number_of_seeds_is_the_first_that_is_enough() -> None:
    told = 0
    for seed in range(100):
        found = many_classes(seed, 4, 3)
        cell, number = found.worst, np.arange(2, MOST_SEEDS + 1)
        gross, net = (each[cell] * 4 / number for each in (found.gross, found.seeds))
        variance = found.images[cell] + net
        part = 0.5 if cell[0] == cell[1] else 0.5 / 2
        freedom = found.freedom * (number - 1) / 3 / np.minimum(1, gross / variance) ** 2
        quantile = stats.t.ppf(1 - 0.025 * part, freedom) + stats.norm.ppf(0.8)
        enough = abs(found.mean[cell]) >= quantile * np.sqrt(variance)
        expected = float(number[enough.argmax()]) if enough.any() else np.nan
        assert seeds_needed(found, 0.05) == pytest.approx(expected, nan_ok=True)
        told += bool(enough.any()) and not enough.all()
    assert told > 2


# Figures.


def test_a_panel_per_target_and_loss_with_its_own_points(table: pd.DataFrame) -> None:
    figure = frontier_figure(frontier_chart(table))
    titles = [ax.get_title() for ax in figure.axes]
    expected = ["loss: cross_entropy"]
    for loss in NETWORKS.losses:
        expected += [f"loss: {loss}, {target}" for target in TARGETS[1:]]
    assert titles == expected
    columns = [round(ax.get_position().x0, 3) for ax in figure.axes]
    assert len(set(columns)) == len(TARGETS)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[texts.index("network method") + 1 :][:3] == ["random", "autobot", "magnitude"]
    assert "dense network" in texts
    # Lines of networks go up to all the data, which the dense network's do not.
    dense, pruned = (
        max(
            len(np.array(line.get_xdata()))
            for line in ax.get_lines()
            if line.get_linestyle() == "-"
        )
        for ax in figure.axes[:2]
    )
    assert (dense, pruned) == (2, 3)


def test_network_methods_have_colours_that_data_methods_leave(table: pd.DataFrame) -> None:
    style = SeriesStyle.of(table)
    colours = [style.colour("random"), *(style.colour("", each) for each in style.networks)]
    assert len(set(colours)) == 4
    dense = SeriesStyle.of(table[table["network_target"] == "none"])
    assert dense == SeriesStyle(style.methods, style.quotas)


def test_curves_have_a_row_per_target(table: pd.DataFrame) -> None:
    assert len(curves_figure(frontier_chart(table)).axes) == 2 * 7


def test_the_report_of_dense_networks_alone_does_not_know_of_others(tmp_path: Path) -> None:
    records = load_records(SMALL.write(tmp_path))
    points = frontier_table(records.trials, records.class_names)
    page = render_report(records, points, {"frontier": SVG, "curves": SVG})
    before, _, _ = page.partition('<script type="application/json"')
    assert "Network target" not in before
    assert "MACs removed" not in before
    assert "dense network" not in before


def test_what_remains_of_networks_is_by_data_method_and_loss(table: pd.DataFrame) -> None:
    chart = network_chart(table)
    assert chart is not None
    points = chart.table
    assert [panel.title for panel in chart.panels] == [
        "all the data",
        "random + none, keep 0.5",
        "random + none, keep 0.3",
    ]
    dense = points["network_target"] == "none"
    assert dense.sum() == 3
    assert (points.loc[dense, "remaining"] == 1).all()
    removed = points.loc[~dense, "network_target"].str.extract(r"\((.*)\)")[0].astype(float)
    assert points.loc[~dense, "remaining"].to_numpy() == pytest.approx(1 - removed.to_numpy())
    unknown = table.assign(macs_removed=np.nan)
    assert network_chart(unknown) is None


def test_the_heat_map_compares_networks_with_the_dense_one_on_all_the_data(
    records: Records,
) -> None:
    changes = recall_changes(records.trials)
    assert changes is not None
    titles = [panel.title for panel in changes.panels]
    assert titles[:2] == ["loss: cross_entropy", "loss: cross_entropy, flops(0.5)"]
    assert titles[-1] == "loss: pw(0.5, 1), flops(0.9)"
    trials = records.trials[records.trials["method"] == "none"]
    own = trials[(trials["loss"] == "pw(0.5, 1)") & (trials["network_method"] == "autobot")]
    own = own[own["network_target"] == "flops(0.9)"]
    full = trials[trials["network_target"] == "none"]
    expected = np.mean(own["by_class"].tolist(), axis=0) - np.mean(
        full["by_class"].tolist(), axis=0
    )
    row = changes.rows.index(("all the data, autobot", 1.0))
    assert changes.panels[-1].changes[row] == pytest.approx(expected[list(changes.units)])


def test_how_hard_classes_are_is_told_by_dense_networks(records: Records) -> None:
    found = correlation_points(records.trials, records.class_sizes)
    assert found is not None
    full = records.trials[records.trials["method"] == "none"]
    dense = full[full["network_target"] == "none"]
    expected = np.mean(dense["by_class"].tolist(), axis=0)
    assert found.drop_duplicates("unit").set_index("unit")["accuracy"].sort_index().to_numpy() == (
        pytest.approx(expected)
    )
    assert np.mean(full["by_class"].tolist(), axis=0) != pytest.approx(expected)


# The report.


def test_the_report_says_where_networks_fall_and_what_protects_them(
    compared: pd.DataFrame,
) -> None:
    sentences = network_answers(compared)
    assert sentences[0].startswith(
        "With autobot and cross_entropy on all the data, the worst class falls below that of the "
        "dense network at flops(0."
    )
    (protected,) = [each for each in sentences if each.startswith("At flops(0.9) with")][:1]
    assert "on all the data, pw(0.5, 1) keeps the worst class" in protected
    assert protected.endswith("above cross_entropy.")
    assert not any("With random" in sentence for sentence in sentences)
    assert all("on all the data" in sentence for sentence in sentences[:4])


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["cannot tell", "worse"], "falls below that of the dense network at flops(0.75), by 5 ±"),
        (["worse", "worse"], "falls below that of the dense network at flops(0.5), by 5 ± 2"),
        (["cannot tell"] * 2, "cannot be told to fall below that of the dense network at any"),
    ],
)
def test_a_fall_is_where_the_first_verdict_is(
    compared: pd.DataFrame, verdicts: list[str], expected: str
) -> None:
    rows = compared[
        (compared["reference"] == DENSE_NETWORK)
        & (compared["method"] == "none")
        & (compared["network_method"] == "autobot")
        & (compared["loss"] == "cross_entropy")
        & compared["network_target"].isin(["flops(0.5)", "flops(0.75)"])
        & (compared["measure"] == "worst")
    ].assign(verdict=verdicts, difference=-0.05, low=-0.07, high=-0.03)
    (sentence,) = network_answers(rows)
    assert expected in sentence


def test_the_report_filters_by_network_and_names_what_was_not_reached(
    records: Records, table: pd.DataFrame, compared: pd.DataFrame
) -> None:
    data = interactive_frontier(frontier_chart(by_merit(table)))
    assert data["filters"]["sparsity"]["options"] == ["dense", *TARGETS[1:]]
    assert data["filters"]["network"]["options"] == ["random", "autobot", "magnitude"]
    assert data["panels"] == [
        "loss: cross_entropy",
        *(f"loss: {loss}, {target}" for loss in NETWORKS.losses for target in TARGETS[1:]),
    ]
    assert {"macs", "macs_removed", "parameters"} <= set(data["measures"])
    (warning,) = [each for each in gaps(records, table) if "not reached" in each["text"]]
    # Three data selections, methods, losses... and seeds.
    assert warning["text"].startswith(f"Network targets that were not reached: {3 * 3 * 2 * 3} ")
    assert warning["lines"][0]["message"] == "flops(0.9) was not reached"
    page = render_report(records, table, {"frontier": SVG, "curves": SVG}, compared=compared)
    for text in ("Network method", "Network target", "MACs removed", "below that of the dense"):
        assert text in page


def test_a_network_without_its_dense_one_is_told(records: Records, table: pd.DataFrame) -> None:
    gone = (table["network_target"] == "none") & (table["keep_fraction"] == 0.5)
    told = [each["text"] for each in gaps(records, table[~gone])]
    assert any(text.startswith("Without their dense network: 18;") for text in told)
    assert not any("dense network" in each["text"] for each in gaps(records, table))


def test_rows_of_points_have_columns_about_networks(table: pd.DataFrame) -> None:
    points = by_merit(table)
    assert points["network_target"].unique().tolist() == TARGETS
    shown = points_table(points, "class")
    names = [column["name"] for column in shown["columns"]]
    cells = dict(zip(names, shown["rows"][-1], strict=True))
    assert cells["target"]["text"] == "flops(0.9)"
    assert cells["MACs removed"]["text"] == "0.900"
    assert cells["parameters"]["text"] == "2,000"
    dense = points_table(points[points["network_target"] == "none"], "class")
    assert not {"target", "MACs removed"} & {column["name"] for column in dense["columns"]}


def test_forward_times_are_means_of_the_points_own_trials(
    records: Records, table: pd.DataFrame
) -> None:
    trials = records.trials.copy()
    trials["forward_seconds"] = np.arange(len(trials)) / 1000.0
    points = with_forward_times(table, trials)
    for row in points.sample(8, random_state=0).to_dict("records"):
        own = np.logical_and.reduce([trials[name] == row[name] for name in POINT])
        assert row["forward_ms"] == pytest.approx(1000 * trials["forward_seconds"][own].mean())
    last = points_table(points, "class")["columns"][-1]
    assert last == {"name": "forward, ms", "left": False}
    dense = table[table["network_target"] == "none"]
    assert "forward_ms" not in with_forward_times(dense, trials)


def test_recalls_by_class_change_against_the_dense_network_of_the_same_data(
    records: Records, table: pd.DataFrame
) -> None:
    recalls = mean_recalls(records.trials)
    changes = cell_changes(table, recalls)
    place = {tuple(row[name] for name in CELL): i for i, row in enumerate(table.to_dict("records"))}
    dense = place["random", "none", 0.3, "cross_entropy", "none", "none"]
    pruned = place["random", "none", 0.3, "pw(0.5, 1)", "autobot", "flops(0.75)"]
    full = place["none", "none", 1.0, "cross_entropy", "none", "none"]
    assert changes[pruned] == pytest.approx(recalls[pruned] - recalls[dense])
    assert changes[dense] == pytest.approx(recalls[dense] - recalls[full])


# Terminal, live view, overlays, exports.


def test_terminal_and_live_view_tell_targets_apart(
    folder: Path, records: Records, table: pd.DataFrame
) -> None:
    tables = summary_table(Frontier(records, table, table, {}))
    assert set(tables) == {
        "cross_entropy",
        *(f"{loss}, {target}" for loss in NETWORKS.losses for target in TARGETS[1:]),
    }
    assert "all the data, autobot" in tables["cross_entropy, flops(0.9)"].index
    snapshot = Watcher(folder).look()
    growing = snapshot.points.set_index(list(CELL))
    same = table.set_index(list(CELL)).loc[growing.index]
    for name in ("average_accuracy", "worst_accuracy"):
        assert growing[name].to_numpy() == pytest.approx(same[name].to_numpy())
    assert (growing["on_front"] == same["on_front"]).all()
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(live_view(snapshot, "x", 0.0, 60))
    shown = console.export_text()
    assert "network" in shown
    assert "flops(0.75)" in shown


def test_exports_have_blocks_by_target(table: pd.DataFrame) -> None:
    wide = wide_table(table)
    assert not wide.duplicated(["loss", "method", "network_method", "network_target"]).any()
    assert len(wide) == 2 + 2 * 2 * 3 * 3
    assert wide.groupby("loss")["network_target"].unique()["cross_entropy"].tolist() == TARGETS
    latex = latex_table(table)
    assert r"\emph{cross\_entropy, flops(0.75)}" in latex
    assert "random + none, autobot" in latex


def test_a_measured_sparsity_that_varies_does_not_split_rows(table: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    noisy = table.assign(network_sparsity=table["network_sparsity"] + rng.random(len(table)) / 100)
    assert len(wide_table(noisy)) == len(wide_table(table))


def test_studies_with_networks_are_laid_over_each_other(records: Records, tmp_path: Path) -> None:
    other = dataclasses.replace(NETWORKS, keeps=(0.5,), seeds=(0,), network_targets=("flops(0.5)",))
    studies = {"one": records, "other": load_records(other.write(tmp_path))}
    table = overlay_table(studies)
    assert set(table["network_target"]) == set(TARGETS)
    assert table.groupby("network_target")["on_front"].any().all()
    assert RANDOM not in set(table["network_method"])
    figure = overlay_figure(overlay_chart(table))
    assert len(figure.axes) == len(frontier_chart(table).panels)


@pytest.mark.usefixtures("no_pngs")
def test_a_study_of_networks_on_all_the_data_alone_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {"network": catalogue.FIGURES["network"]})
    study: FakeStudy = dataclasses.replace(
        NETWORKS, methods=(), keeps=(), network_methods=("autobot",), seeds=(0, 1)
    )
    found = write_frontier(study.write(tmp_path))
    chart = network_chart(found.table)
    assert chart is not None
    again = to_svg(network_figure(chart))
    assert found.paths["network.svg"].read_bytes() == again
    page = found.report.read_text()
    assert "With autobot and cross_entropy on all the data" in page
    assert len(page.encode()) < 6_000_000
