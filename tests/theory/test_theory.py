"""The closed forms against printed vectors, textbook formulas and numerical minimisation."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import threshold_by_two_formulas
from scipy import optimize, stats

from raydrop.errors import ConfigError
from raydrop.selection.quotas import drop_densities
from raydrop.theory import TwoGaussians

properties = settings(derandomize=True, deadline=None, max_examples=50)

FIRST = TwoGaussians((-1, 1), (0.5, 1), 0.5)


@st.composite
def mixtures(draw: st.DrawFn) -> TwoGaussians:
    mean = draw(st.floats(-3, 3))
    sigmas = draw(st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)))
    gap = draw(st.floats(0.1, 6))
    return TwoGaussians((mean, mean + gap), sigmas, draw(st.floats(0.01, 0.99)))


def _without_crossing(mixture: TwoGaussians) -> bool:
    return math.isnan(threshold_by_two_formulas(*astuple(mixture)))


# Vectors.

VECTORS = [
    # sigmas, prior of class 0, t*, both class risks there, minimax threshold and risk
    ((0.5, 1), 0.5, -0.1700451720, 0.0484663143, 0.1209913954, -1 / 3, 0.0912112197),
    ((0.5, 0.75), 0.5, -0.1251427117, 0.0400837886, 0.0667825599, -0.2, 0.0547992917),
    ((0.5, 1), 0.8, 0.1121172266, 0.0130663371, 0.1873019060, -1 / 3, 0.0912112197),
    ((1, 1), 0.7, 0.4236489302, 0.0772740621, 0.2821889551, 0, 0.1586552539),
]


@pytest.mark.parametrize(("sigmas", "prior0", "t", "r0", "r1", "minimax", "risk"), VECTORS)
def test_printed_vectors(
    sigmas: tuple[float, float],
    prior0: float,
    t: float,
    r0: float,
    r1: float,
    minimax: float,
    risk: float,
) -> None:
    mixture = TwoGaussians((-1, 1), sigmas, prior0)
    found = [mixture.threshold, *mixture.class_risks(), mixture.minimax_threshold]
    np.testing.assert_allclose(found, [t, r0, r1, minimax], rtol=0, atol=1e-10)
    assert mixture.minimax_risk == pytest.approx(risk, abs=1e-10)
    assert float(mixture.risk()) == pytest.approx(prior0 * r0 + (1 - prior0) * r1, abs=1e-10)


def test_printed_drop_step() -> None:
    step = FIRST.drop_step()
    found = [step.prior0, step.threshold, step.worst_class_risk]
    expected = [0.2860083168, -0.3899616830, 0.1112179127]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert FIRST.minimax_risk < step.worst_class_risk < max(FIRST.class_risks())


# The threshold of least average risk.


@properties
@given(mixtures())
def test_threshold_is_the_textbooks(mixture: TwoGaussians) -> None:
    assume(abs(mixture.sigmas[0] - mixture.sigmas[1]) > 0.01 or len(set(mixture.sigmas)) == 1)
    expected = threshold_by_two_formulas(*astuple(mixture))
    if not math.isnan(expected):
        assert mixture.threshold == pytest.approx(expected, rel=1e-6, abs=1e-6)


@properties
@given(mixtures())
def test_threshold_minimises_average_risk(mixture: TwoGaussians) -> None:
    reach = 12 * max(mixture.sigmas)
    grid = np.linspace(mixture.means[0] - reach, mixture.means[1] + reach, 4001)
    best = grid[np.argmin(mixture.risk(grid))]
    spacing = grid[1] - grid[0]
    bounds = (best - spacing, best + spacing)
    found = optimize.minimize_scalar(
        lambda t: float(mixture.risk(t)), bounds=bounds, method="bounded"
    )
    least = min(found.fun, *mixture.priors)  # -inf and +inf predict one class alone
    own = float(mixture.risk())
    assert mixture.threshold_is_best == (own <= least + 1e-9) or abs(own - least) < 1e-9
    if not mixture.threshold_is_best:
        assert least == pytest.approx(min(mixture.priors), abs=1e-6)
    if math.isfinite(mixture.threshold):
        around = mixture.threshold + np.linspace(-0.01, 0.01, 101) * min(mixture.sigmas)
        assert (mixture.risk(around) >= own - 1e-12).all()
        p0, p1 = mixture.class_pdfs(mixture.threshold) * mixture.priors
        assert p0 == pytest.approx(p1, rel=1e-6)


@properties
@given(mixtures(), st.floats(1e-9, 1e-3))
def test_nearly_equal_deviations_are_like_equal_ones(mixture: TwoGaussians, by: float) -> None:
    sigma = mixture.sigmas[0]
    equal = TwoGaussians(mixture.means, (sigma, sigma), mixture.prior0)
    expected = threshold_by_two_formulas(*astuple(equal))
    assert equal.threshold == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assume(abs(expected) < 10)
    near = TwoGaussians(mixture.means, (sigma, sigma * (1 + by * 1e-6)), mixture.prior0)
    assert near.threshold == pytest.approx(expected, abs=1e-3 * by * (1 + sigma) + 1e-9)


def test_textbook_formula_would_lose_the_digits_of_nearly_equal_deviations() -> None:
    """The negative control of the form that the threshold is written in."""
    means, sigmas = (-1.0, 1.0), (1.0, 1.0 + 1e-14)
    expected = TwoGaussians(means, (1, 1), 0.7).threshold
    assert TwoGaussians(means, sigmas, 0.7).threshold == pytest.approx(expected, abs=1e-12)
    assert abs(threshold_by_two_formulas(means, sigmas, 0.7) - expected) > 1e-4


@properties
@given(st.floats(0.1, 1), st.floats(1.5, 10), st.floats(0.01, 0.5), st.floats(0.05, 1))
def test_without_a_crossing_the_wider_class_is_always_predicted(
    gap: float, factor: float, rare: float, sigma: float
) -> None:
    wide_last = TwoGaussians((0, gap), (sigma, sigma * factor), rare)
    assume(_without_crossing(wide_last))
    x = np.linspace(-20, 20, 2001) * sigma * factor
    weighted = wide_last.class_pdfs(x) * np.array(wide_last.priors)[:, None]
    assert (weighted[1] >= weighted[0]).all()
    assert wide_last.threshold == -math.inf
    assert wide_last.class_risks().tolist() == [1, 0]
    assert float(wide_last.risk()) <= wide_last.risk(x).min()
    assert wide_last.threshold_is_best
    wide_first = TwoGaussians((0, gap), (sigma * factor, sigma), 1 - rare)
    assert wide_first.threshold == math.inf
    assert wide_first.class_risks().tolist() == [0, 1]
    assert wide_first.threshold_is_best


def test_a_class_that_is_ignored_is_all_that_drop_keeps() -> None:
    mixture = TwoGaussians((0, 0.5), (1, 3), 0.1)
    assert mixture.threshold == -math.inf
    assert mixture.drop_densities(0.05) == (0.5, 0)
    assert mixture.drop_densities(0.55) == pytest.approx((1, 0.5))
    alone = mixture.drop_step(0.05)
    assert (alone.prior0, alone.threshold, alone.risks) == (1, math.inf, (0, 1))
    assert mixture.pruned((0, 1)).threshold == -math.inf


def test_always_predicting_a_class_may_beat_the_crossing() -> None:
    mixture = TwoGaussians((-1, 1), (0.5, 4), 0.2)
    assert math.isfinite(mixture.threshold)
    assert not mixture.threshold_is_best
    assert float(mixture.risk()) > 0.2 == float(mixture.risk(-math.inf))
    assert FIRST.threshold_is_best


# Class risks and densities.


@properties
@given(mixtures(), st.lists(st.floats(-8, 8), min_size=1, max_size=4))
def test_risks_and_densities_are_scipys(mixture: TwoGaussians, points: list[float]) -> None:
    t = np.array(points)
    zero, one = (stats.norm(m, s) for m, s in zip(mixture.means, mixture.sigmas, strict=True))
    np.testing.assert_allclose(mixture.class_risks(t), [zero.sf(t), one.cdf(t)], rtol=1e-9)
    expected = [zero.pdf(t), one.pdf(t)]
    # The smallest numbers have fewer digits.
    np.testing.assert_allclose(mixture.class_pdfs(t), expected, rtol=1e-9, atol=1e-300)
    assert mixture.risk(t).shape == t.shape
    assert mixture.class_pdfs(t[None]).shape == (2, 1, len(t))


@properties
@given(mixtures(), st.floats(-3, 3), st.floats(0.2, 5), st.floats(0.05, 1))
def test_shifts_and_scales_move_thresholds_and_nothing_else(
    mixture: TwoGaussians, shift: float, scale: float, density: float
) -> None:
    means = tuple(scale * m + shift for m in mixture.means)
    moved = TwoGaussians(means, tuple(scale * s for s in mixture.sigmas), mixture.prior0)  # type: ignore[arg-type]
    before, after = mixture.drop_step(density), moved.drop_step(density)
    assume(max(before.risks) < 1)
    np.testing.assert_allclose(after.threshold, scale * before.threshold + shift, atol=1e-6)
    np.testing.assert_allclose(after.risks, before.risks, atol=1e-6)
    assert moved.minimax_risk == pytest.approx(mixture.minimax_risk)


@properties
@given(mixtures(), st.floats(0.05, 1))
def test_mirroring_swaps_the_classes(mixture: TwoGaussians, density: float) -> None:
    (m0, m1), (s0, s1) = mixture.means, mixture.sigmas
    mirrored = TwoGaussians((-m1, -m0), (s1, s0), 1 - mixture.prior0)
    assume(max(mixture.class_risks()) < 1)
    assert mirrored.threshold == pytest.approx(-mixture.threshold, abs=1e-6)
    assert mirrored.minimax_threshold == pytest.approx(-mixture.minimax_threshold, abs=1e-9)
    for name, pruning in mixture.strategies(density).items():
        found = mirrored.strategies(density)[name]
        np.testing.assert_allclose(found.densities, pruning.densities[::-1], atol=1e-6)
        assume(max(pruning.risks) < 1)
        np.testing.assert_allclose(found.risks, pruning.risks[::-1], atol=1e-5)


# The worst class.


@properties
@given(mixtures())
def test_minimax_threshold_minimises_the_worst_class_risk(mixture: TwoGaussians) -> None:
    found = optimize.minimize_scalar(
        lambda t: float(mixture.class_risks(t).max()),
        bounds=mixture.means,  # equal risks below 1/2: between the means
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert mixture.minimax_threshold == pytest.approx(found.x, abs=1e-6)
    assert mixture.minimax_risk == pytest.approx(found.fun, abs=1e-7)
    np.testing.assert_allclose(
        mixture.class_risks(mixture.minimax_threshold), mixture.minimax_risk, rtol=1e-9
    )


@properties
@given(mixtures())
def test_optimal_priors_make_the_average_risk_threshold_the_minimax_one(
    mixture: TwoGaussians,
) -> None:
    best = TwoGaussians(mixture.means, mixture.sigmas, mixture.optimal_prior0)
    assert best.threshold == pytest.approx(mixture.minimax_threshold, abs=1e-7)
    s0, s1 = mixture.sigmas
    assert mixture.optimal_prior0 / (1 - mixture.optimal_prior0) == pytest.approx(s0 / s1)


@properties
@given(mixtures(), st.floats(0.05, 1))
def test_no_class_densities_are_better_for_the_worst_class_than_the_optimal_ones(
    mixture: TwoGaussians, density: float
) -> None:
    p0, p1 = mixture.priors
    low, high = np.clip([(density - p1) / p0, density / p0], 0, 1)
    others = np.linspace(low, high, 41)
    risks = [
        mixture.pruned((d0, float(np.clip((density - p0 * d0) / p1, 0, 1)))).worst_class_risk
        for d0 in others.tolist()
        if d0 > 0 or density < 1
    ]
    best = mixture.pruned(mixture.optimal_densities(density))
    assert best.worst_class_risk <= min(risks) + 1e-9
    assert best.worst_class_risk >= mixture.minimax_risk - 1e-12


def test_optimal_densities_reach_the_minimax_risk_unless_a_class_is_too_small() -> None:
    mixture = TwoGaussians((-1, 1), (0.5, 1), 0.8)
    d0, d1 = mixture.optimal_densities()
    assert d0 / d1 == pytest.approx(0.2 / 0.8 * 0.5)
    assert max(d0, d1) == 1
    largest = 0.8 * d0 + 0.2 * d1
    for density in (0.1, largest):
        reached = mixture.pruned(mixture.optimal_densities(density)).worst_class_risk
        assert reached == pytest.approx(mixture.minimax_risk, abs=1e-9)
    beyond = mixture.pruned(mixture.optimal_densities(largest + 0.1))
    assert beyond.densities[1] == 1
    assert beyond.worst_class_risk > mixture.minimax_risk + 1e-3


# DRoP.


@properties
@given(mixtures(), st.integers(1, 999), st.floats(0.001, 1))
def test_drop_densities_are_those_of_the_quotas(
    mixture: TwoGaussians, first: int, density: float
) -> None:
    sizes = np.array([first, 1000 - first]) * 1000
    own = TwoGaussians(mixture.means, mixture.sigmas, first / 1000)
    budget = round(density * sizes.sum())
    recalls = 1 - own.class_risks()
    # A risk below the resolution of a recall is 0 to the quotas, and more than 0 here.
    assume(own.class_risks().min() > 1e-6)
    found = own.drop_densities(budget / sizes.sum())
    np.testing.assert_allclose(found, drop_densities(sizes, recalls, budget), rtol=1e-6, atol=1e-9)


@properties
@given(mixtures(), st.floats(0.001, 1))
def test_densities_are_shares_that_average_to_the_density(
    mixture: TwoGaussians, density: float
) -> None:
    for pruning in mixture.strategies(density).values():
        assert 0 <= min(pruning.densities) <= max(pruning.densities) <= 1
        kept = np.array(mixture.priors) * pruning.densities
        assert kept.sum() == pytest.approx(density, abs=1e-12)
        assert pruning.prior0 == pytest.approx(kept[0] / kept.sum(), abs=1e-12)
    random = mixture.strategies(density)["random"]
    np.testing.assert_allclose(random.risks, mixture.class_risks(), atol=1e-9)
    assert mixture.drop_step(1.0).densities == pytest.approx((1, 1))


@properties
@given(mixtures(), st.floats(0.01, 1))
def test_priors_after_a_step_depend_on_the_density_only_once_a_class_is_whole(
    mixture: TwoGaussians, share: float
) -> None:
    whole = mixture.drop_step()
    assert max(whole.densities) == 1
    largest = float(np.dot(mixture.priors, whole.densities))
    assert mixture.drop_step(share * largest).prior0 == pytest.approx(whole.prior0, abs=1e-9)


def test_a_class_that_drop_keeps_whole_hands_its_excess_on() -> None:
    step = FIRST.drop_step(0.8)
    assert step.densities == pytest.approx((0.6, 1), abs=1e-12)
    assert step.prior0 == pytest.approx(0.375)
    assert FIRST.drop_step(1).prior0 == FIRST.prior0
    unharmed = TwoGaussians((-100, 100), (0.1, 0.1), 0.3)  # both risks underflow to 0
    assert unharmed.class_risks().tolist() == [0, 0]
    assert unharmed.drop_densities(0.4) == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize(
    ("narrow", "overshoots"),
    [(0.02, True), (0.1, True), (0.2, True), (0.25, True), (0.3, False), (0.5, False), (1, False)],
)
def test_drop_overshoots_where_one_class_is_much_narrower(narrow: float, overshoots: bool) -> None:
    for mixture in (
        TwoGaussians((-1, 1), (narrow, 1), 0.5),
        TwoGaussians((-1, 1), (1, narrow), 0.5),
    ):
        step, full = mixture.drop_step(), max(mixture.class_risks())
        assert (step.worst_class_risk > full) == overshoots
        if overshoots:
            # Beyond the optimum rather than short of it: the other class is the worst one now.
            assert np.argmax(step.risks) != np.argmax(mixture.class_risks())


# What does not fit.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, -1), (1, 1), 0.5), "means in ascending order, found 1 and -1; call the class with"),
        (((1, 1), (1, 1), 0.5), "means in ascending order, found 1 and 1;"),
        (((-1, 1), (1, 0), 0.5), "sigmas above 0, found 1 and 0; they are standard deviations"),
        (((-1, 1), (-1, 1), 0.5), "sigmas above 0, found -1 and 1;"),
        (((-1, 1), (1, 1), 0), r"prior0 in \(0, 1\), found 0; it is the share of class 0"),
        (((-1, 1), (1, 1), 1.0), r"prior0 in \(0, 1\), found 1;"),
        (((-1, 1), (1, 1), math.nan), "a number for prior0, found nan; give a finite"),
        (((-1, math.inf), (1, 1), 0.5), "a number for means, found inf;"),
        (((-1, "1"), (1, 1), 0.5), "a number for means, found '1';"),
        (((-1, 1), (1, True), 0.5), "a number for sigmas, found True;"),
        (((-1, 0, 1), (1, 1), 0.5), r"two numbers for means, found \(-1, 0, 1\); give one of each"),
        (((-1, 1), 1, 0.5), "two numbers for sigmas, found 1;"),
    ],
)
def test_mixtures_that_are_none(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected {message}"):
        TwoGaussians(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [0, -0.1, 1.1, math.nan])
def test_densities_out_of_range(density: float) -> None:
    for method in ("drop_step", "drop_densities", "optimal_densities", "strategies"):
        with pytest.raises(ConfigError, match=r"Expected a (density in \(0, 1\]|number for dens)"):
            getattr(FIRST, method)(density)


@pytest.mark.parametrize("densities", [(0, 0), (-0.1, 1), (1, 1.5), (0.5,)])
def test_class_densities_out_of_range(densities: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"Expected (densities in|two numbers for densities)"):
        FIRST.pruned(densities)


def test_numbers_of_any_kind_make_the_same_mixture() -> None:
    same = TwoGaussians([np.int64(-1), 1], np.array([0.5, 1]), np.float64(0.5))  # type: ignore[arg-type]
    assert same == FIRST
    assert hash(same) == hash(FIRST)
    assert TwoGaussians((-1, 1), (0.5, 1)) == FIRST


def test_theory_needs_neither_torch_nor_ray_nor_matplotlib() -> None:
    code = (
        "import sys, raydrop.theory\n"
        "print(sorted({'ray', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
