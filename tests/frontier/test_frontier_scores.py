from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from reference import last_kept_by_counting
from test_frontier_sources import SOURCED, SourcedStudy, sources_of

from raydrop.frontier.figures.canvas import to_svg
from raydrop.frontier.figures.looks import KeepStyle
from raydrop.frontier.figures.scores import (
    BINS,
    ScoreDistribution,
    _asinh_ticks,
    bin_edges,
    linear_width,
    plot_scores,
    score_distributions,
    scores_figure,
)


def distributions_of(study: SourcedStudy, folder: Path) -> dict[str, ScoreDistribution]:
    found = score_distributions(sources_of(study.write(folder)))
    return {each.name: each for each in found}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScoreDistribution]:
    return distributions_of(SOURCED, tmp_path_factory.mktemp("sourced"))


scores = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.one_of(scores, st.lists(st.integers(-3, 9).map(float), min_size=1)))
def test_every_score_is_in_a_bin(values: list[float]) -> None:
    scores = np.array(values)
    edges = bin_edges(scores, linear_width(scores))
    assert (np.diff(edges) > 0).all()
    assert np.histogram(scores, edges)[0].sum() == len(scores)


def test_counts_have_a_bin_each_and_long_tails_a_scale_of_their_own() -> None:
    assert bin_edges(np.array([0.0, 3.0, 1.0]), None).tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    even = np.linspace(0.1, 0.9, 300)
    assert linear_width(even) is None
    np.testing.assert_allclose(np.diff(bin_edges(even, None)), 0.8 / BINS)
    tailed = np.append(even, 100.0)
    width = linear_width(tailed)
    assert width == pytest.approx(0.2, abs=0.01)
    steps = np.diff(np.arcsinh(bin_edges(tailed, width) / width))
    np.testing.assert_allclose(steps, steps[0])
    # Where half of all scores are equal, there is no middle half to measure by.
    assert linear_width(np.array([0.0] * 30 + [0.5, 9.0])) is None


def test_shares_are_means_over_seeds_and_sum_to_one_with_the_infinite_ones(
    distributions: dict[str, ScoreDistribution],
) -> None:
    assert list(distributions) == ["el2n", "forgetting", "moso"]
    for name, d in distributions.items():
        seeds = [SOURCED.scores_of(name, "small_cnn", seed) for seed in SOURCED.seeds]
        assert d.share.sum() + d.infinite == pytest.approx(1)
        assert d.infinite == pytest.approx(np.mean([np.isinf(s).mean() for s in seeds]))
        for b, share in enumerate(d.share):
            low, high = d.edges[b : b + 2]
            last = b == len(d.share) - 1
            inside = [np.mean((s >= low) & ((s <= high) if last else (s < high))) for s in seeds]
            assert share == pytest.approx(np.mean(inside))
            assert (d.share_min[b], d.share_max[b]) == (min(inside), max(inside))
    assert distributions["moso"].linear_width is not None
    assert distributions["el2n"].linear_width is None


def test_thresholds_are_the_last_scores_that_are_kept(tmp_path: Path) -> None:
    lower = ("el2n", "forgetting")  # and moso's are higher
    study = dataclasses.replace(SOURCED, lower_is_kept=lower, quotas=("none",))
    for name, d in distributions_of(study, tmp_path).items():
        assert d.higher_is_kept == (name not in lower)
        assert [t.keep_fraction for t in d.thresholds] == [0.2, 0.5]
        for threshold in d.thresholds:
            cuts = []
            for trial in study.trials():
                if (trial.method, trial.keep_fraction) == (name, threshold.keep_fraction):
                    values = study.scores_of(name, "small_cnn", trial.seed).tolist()
                    kept = sum(study.kept(trial))
                    cut = last_kept_by_counting(values, kept, higher_is_kept=d.higher_is_kept)
                    cuts.append(cut)
            assert threshold.value == sorted(cuts)[1]
            assert (threshold.low, threshold.high) == (min(cuts), max(cuts))


def test_a_threshold_may_be_infinite(tmp_path: Path) -> None:
    never = np.full((3, SOURCED.n_train), np.inf)
    never[:, ::3] = 1.0
    study = dataclasses.replace(SOURCED, methods=("forgetting",), quotas=("none",))
    found = distributions_of(dataclasses.replace(study, scores={"forgetting": never}), tmp_path)
    d = found["forgetting"]
    assert [t.value for t in d.thresholds] == [np.inf, np.inf]
    ax, beside = Figure().subplots(1, 2)
    style = KeepStyle.of(pd.DataFrame({"keep_fraction": [0.2, 0.5]}))
    plot_scores(d, ax, style, beside)
    assert (len(ax.lines), len(beside.lines)) == (0, 4)
    all_infinite = dataclasses.replace(study, scores={"forgetting": np.full_like(never, np.inf)})
    (only,) = distributions_of(all_infinite, tmp_path / "all").values()
    assert only.infinite == 1
    assert only.share.sum() == 0
    assert to_svg(scores_figure([only])).startswith(b"<?xml")


def test_with_quotas_alone_there_is_no_threshold(tmp_path: Path) -> None:
    study = dataclasses.replace(SOURCED, methods=("el2n",), quotas=("drop",), keeps=(0.5,))
    found = distributions_of(study, tmp_path)
    assert [d.thresholds for d in found.values()] == [()]
    assert to_svg(scores_figure(list(found.values()))).startswith(b"<?xml")


def test_without_stored_scores_there_is_none(tmp_path: Path) -> None:
    assert score_distributions(sources_of(SMALL.write(tmp_path))) == []


def test_histograms_and_thresholds_are_drawn_as_they_are(
    distributions: dict[str, ScoreDistribution],
) -> None:
    style = KeepStyle.of(pd.DataFrame({"keep_fraction": [0.2, 0.5]}))
    d = distributions["el2n"]
    ax = Figure().subplots()
    assert plot_scores(d, ax, style) is ax
    values, edges, _ = ax.patches[0].get_data()
    np.testing.assert_array_equal(values, d.share)
    np.testing.assert_array_equal(edges, d.edges)
    ranges = [(t.low, t.high) for t in d.thresholds]
    drawn = [tuple(line.get_xdata()) for line in ax.lines]
    expected = [
        [(t.value, t.value), r, (t.value,)] for t, r in zip(d.thresholds, ranges, strict=True)
    ]
    assert drawn == [each for three in expected for each in three]


def test_infinite_scores_have_an_axis_of_their_own(
    distributions: dict[str, ScoreDistribution],
) -> None:
    figure = scores_figure(list(distributions.values()))
    labels = [[text.get_text() for text in ax.get_xticklabels()] for ax in figure.axes]
    beside = [ax for ax, texts in zip(figure.axes, labels, strict=True) if texts == ["+∞"]]
    assert len(figure.axes) == 4
    assert len(beside) == 1
    assert beside[0].patches[0].get_height() == distributions["forgetting"].infinite
    assert figure.axes[1].get_title("left") == "forgetting"
    svg = to_svg(figure)
    assert to_svg(scores_figure(list(distributions.values()))) == svg
    assert b"data:" not in svg


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.floats(1e-3, 10.0))
def test_ticks_of_long_tails_are_round_and_apart(low: float, span: float, width: float) -> None:
    high = low + span
    ticks = _asinh_ticks(low, high, width)
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert all(f"{tick:e}".lstrip("-")[0] in "0125" for tick in ticks)
    places = np.arcsinh(np.array([low, *ticks, high]) / width)
    assert (np.diff(places[1:-1]) >= 0.139 * (places[-1] - places[0])).all()
    if low <= 0 <= high:
        assert 0 in ticks
