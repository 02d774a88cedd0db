from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_study import SMALL
from matplotlib.figure import Figure
from reference import costs_run_by_run
from test_frontier_sources import QUERY_SECONDS, SOURCED, SourcedStudy, sources_of

from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.costs import costs_figure, plot_score_costs, plot_trial_costs
from raydrop.frontier.figures.looks import KeepStyle
from raydrop.frontier.sources import Costs, costs, time_unit
from raydrop.store import META


def costs_of(study: SourcedStudy, folder: Path) -> Costs:
    found = costs(sources_of(study.write(folder)))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> Costs:
    return costs_of(SOURCED, tmp_path_factory.mktemp("sourced"))


def test_a_query_run_is_paid_in_equal_parts_by_those_that_read_it(spent: Costs) -> None:
    runs = {f"seed {seed}": QUERY_SECONDS + seed for seed in SOURCED.seeds}
    # Random pruning reads them too, for the recalls of its drop quotas.
    expected = costs_run_by_run({name: set(runs) for name in SOURCED.methods}, runs)
    table = spent.scorers.set_index("name")
    assert list(table.index) == ["el2n", "forgetting", "moso", "random"]
    for name, row in table.iterrows():
        assert row["query_share"] == pytest.approx(expected[name])
        assert row["query_seconds"] == sum(runs.values())
        assert row["query_runs"] == 3
        own = sum(SOURCED.score_seconds(str(name), seed) for seed in SOURCED.seeds)
        assert row["score_seconds"] == own
    assert table["query_share"].sum() == pytest.approx(spent.totals["query runs"][1])
    assert spent.totals["query runs"] == (3, sum(runs.values()))
    assert spent.totals["scores"] == (12, table["score_seconds"].sum())


def test_what_reads_no_query_run_pays_for_none(tmp_path: Path) -> None:
    table = costs_of(dataclasses.replace(SOURCED, quotas=("none",)), tmp_path).scorers
    random = table[table["name"] == "random"].iloc[0]
    assert (random["query_runs"], random["query_seconds"], random["query_share"]) == (0, 0, 0)
    others = table[table["name"] != "random"]
    np.testing.assert_allclose(others["query_share"], others["query_seconds"] / 3)


def test_scores_of_several_models_are_told_apart_and_share_only_their_own_runs(
    tmp_path: Path,
) -> None:
    study = dataclasses.replace(
        SOURCED, methods=("el2n", "moso"), quotas=("none",), query_models=("resnet18", "vgg16")
    )
    table = costs_of(study, tmp_path).scorers.set_index("name")
    assert len(table) == 4
    np.testing.assert_allclose(table["query_share"], table["query_seconds"] / 2)
    assert table.index[0] == "el2n from resnet18"


def test_trials_have_their_mean_lowest_and_highest_seconds(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Timed(SourcedStudy):
        def info(self, trial: object) -> dict[str, object]:
            t = trial
            return super().info(t) | {"seconds": 10 * t.keep_fraction + t.seed}  # type: ignore[attr-defined, arg-type]

    found = costs_of(Timed(), tmp_path)
    assert found.trials["name"].tolist()[:3] == ["all the data", "el2n", "el2n"]
    for row in found.trials.to_dict("records"):
        base = 10 * row["keep_fraction"]
        assert row["seconds"] == pytest.approx(base + 1)
        assert (row["seconds_min"], row["seconds_max"]) == (base, base + 2)
        # Both quota rules, three seeds.
        assert row["n_trials"] == (3 if row["name"] == "all the data" else 6)
    count, seconds = found.totals["trials"]
    assert count == len(Timed().trials())
    assert seconds == pytest.approx((found.trials["seconds"] * found.trials["n_trials"]).sum())


def test_without_sources_trials_alone_are_known_and_without_seconds_nothing(
    tmp_path: Path,
) -> None:
    sources = sources_of(SMALL.write(tmp_path))
    found = costs(sources)
    assert found is not None
    assert found.scorers.empty
    assert len(costs_figure(found).axes) == 1
    silent = dataclasses.replace(sources, trials=sources.trials.assign(seconds=np.nan))
    assert costs(silent) is None


def test_a_run_that_does_not_say_how_long_it_took_adds_nothing(tmp_path: Path) -> None:
    SOURCED.write(tmp_path)
    for path in (tmp_path / "store" / "query").glob(f"*/{META}"):
        path.write_text(path.read_text().replace("train_seconds", "other"))
    found = costs(sources_of(tmp_path))
    assert found is not None
    assert found.scorers["query_share"].sum() == 0


def test_durations_have_the_unit_that_suits() -> None:
    assert [time_unit(s)[0] for s in (0.0, 119, 120, 7199, 7200)] == [
        "seconds",
        "seconds",
        "minutes",
        "minutes",
        "hours",
    ]


def test_bars_and_marks_are_as_long_as_the_costs(spent: Costs) -> None:
    ax = Figure().subplots()
    assert plot_score_costs(spent, ax) is ax
    alone, share, own = (list(bars) for bars in ax.containers)
    table, minute = spent.scorers, 60.0
    np.testing.assert_allclose([b.get_width() * minute for b in share], table["query_share"])
    np.testing.assert_allclose([b.get_x() * minute for b in own], table["query_share"])
    np.testing.assert_allclose([b.get_width() * minute for b in own], table["score_seconds"])
    whole = table["query_seconds"] + table["score_seconds"]
    np.testing.assert_allclose([b.get_width() * minute for b in alone], whole)
    style = KeepStyle.of(spent.trials)
    ax = plot_trial_costs(spent, Figure().subplots(), style)
    marks = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert marks == spent.trials["seconds"].tolist()


def test_the_figure_says_what_all_took_and_is_the_same_bytes(spent: Costs) -> None:
    figure = costs_figure(spent)
    assert [text.get_text() for text in figure.texts] == [
        "3 query runs in 3.05 minutes; 12 scores in 3.4 minutes; 51 trials in 102 seconds"
    ]
    assert len(figure.axes) == 2
    assert to_svg(figure) == to_svg(costs_figure(spent))
