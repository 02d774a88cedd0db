"""Losses against slow twins in double precision, and what they do at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import (
    effective_number_by_summing,
    group_dro_by_loop,
    mean_loss_by_loop,
)
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from raydrop.errors import ConfigError
from raydrop.training.losses import (
    LOSSES,
    CrossEntropy,
    LossContext,
    batch_loss,
    cdb_weights,
    loss_rule,
)
from raydrop.training.losses.frequency import effective_number_weights, inverse_frequency_weights
from raydrop.training.losses.ldam import ldam_margins

CLASSES, GROUPS = 4, 3
CLASS_SIZES = np.array([60, 25, 10, 5])
GROUP_SIZES = np.array([70, 28, 2])
CONTEXT = LossContext(CLASS_SIZES, GROUP_SIZES, "group", epochs=10)
RECALLS = np.array([0.9, 0.8, 0.5])

Batch = tuple[Tensor, Tensor, Tensor]


def batch(seed: int = 0, size: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return logits, labels, torch.randint(GROUPS, (size,), generator=generator)


def lists(parts: Batch) -> tuple[list[list[float]], list[int], list[int]]:
    return tuple(part.tolist() for part in parts)  # type: ignore[return-value]


def check(found: Tensor, expected: float, wrong: float) -> None:
    """The loss is the expected one, and a plausible mistake gives another."""
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(wrong, rel=1e-3)


def test_cross_entropy_is_the_plain_mean() -> None:
    logits, labels, units = batch()
    found = loss_rule("cross_entropy").make(CONTEXT)(logits, labels, units)
    check(found, mean_loss_by_loop(*lists((logits, labels, units))[:2]), found.item() * 40)


def test_cdb_w_weighs_groups_and_divides_by_the_sum_of_the_weights() -> None:
    parts = batch()
    logits, labels, units = lists(parts)
    loss = loss_rule("cdb_w").make(CONTEXT)
    assert loss.needs_recalls
    assert loss(*parts).item() == pytest.approx(mean_loss_by_loop(logits, labels))
    loss.end_epoch(RECALLS)
    weights = [(1 - RECALLS)[unit] for unit in units]
    expected = mean_loss_by_loop(logits, labels, lambda i, p: weights[i]) / np.mean(weights)
    by_class = mean_loss_by_loop(logits, labels, lambda i, p: (1 - RECALLS)[labels[i] % 3])
    check(loss(*parts), expected, wrong=by_class)


def test_a_batch_that_is_recalled_perfectly_has_no_loss_with_cdb_w() -> None:
    logits, labels, units = batch()
    loss = loss_rule("cdb_w").make(CONTEXT)
    loss.end_epoch(np.array([1.0, 0.5, 0.5]))
    assert loss(logits, labels, torch.zeros_like(units)) == 0
    loss.end_epoch(np.ones(3))
    assert loss(logits, labels, units).item() == pytest.approx(F.cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("cdb_w_original", [0.238690, 0.614702, 2.146608]),
        ("cdb_w_original(1)", [0.375, 0.75, 1.875]),
        ("cdb_w_original(2)", [0.1, 0.4, 2.5]),
        ("cdb_w_original(0)", [1, 1, 1]),
    ],
)
def test_cdb_w_original_averages_plainly_with_weights_that_sum_to_their_number(
    text: str, weights: list[float]
) -> None:
    parts = batch()
    logits, labels, units = lists(parts)
    loss = loss_rule(text).make(CONTEXT)
    assert loss(*parts).item() == pytest.approx(mean_loss_by_loop(logits, labels))
    loss.end_epoch(RECALLS)
    expected = mean_loss_by_loop(logits, labels, lambda i, p: weights[units[i]])
    assert loss(*parts).item() == pytest.approx(expected, rel=2e-6)
    if text != "cdb_w_original(0)":
        divided = expected / np.mean([weights[unit] for unit in units])  # by the sum of weights
        assert divided != pytest.approx(expected, rel=1e-2)


def test_cdb_w_original_leaves_absent_units_out() -> None:
    context = LossContext(CLASS_SIZES, np.array([70, 30, 0]), "group")
    logits, labels, units = batch()
    loss = loss_rule("cdb_w_original").make(context)
    loss.end_epoch(np.array([0.9, 0.5, 0.0]))
    weights = cdb_weights([0.9, 0.5], "dynamic")
    units = units % 2
    expected = mean_loss_by_loop(
        logits.tolist(), labels.tolist(), lambda i, p: weights[units[i].item()]
    )
    check(loss(logits, labels, units), expected, wrong=F.cross_entropy(logits, labels).item())


def test_inverse_frequency_counts_all_units_alike() -> None:
    """Over the whole set, the loss is the mean of the units' own mean losses."""
    weights = inverse_frequency_weights(GROUP_SIZES)
    everything = np.repeat(np.arange(GROUPS), GROUP_SIZES)
    np.testing.assert_allclose(
        weights, compute_class_weight("balanced", classes=np.arange(GROUPS), y=everything)
    )
    logits, labels, _ = batch(size=100)
    units = torch.from_numpy(everything)
    found = loss_rule("inverse_frequency").make(CONTEXT)(logits, labels, units)
    means = [
        mean_loss_by_loop(logits[units == unit].tolist(), labels[units == unit].tolist())
        for unit in range(GROUPS)
    ]
    check(found, float(np.mean(means)), wrong=F.cross_entropy(logits, labels).item())


@pytest.mark.parametrize("beta", [0, 0.9, 0.999])
def test_class_balanced_weighs_by_effective_numbers(beta: float) -> None:
    raw = [1 / effective_number_by_summing(int(size), beta) for size in GROUP_SIZES]
    weights = [GROUPS * each / sum(raw) for each in raw]
    np.testing.assert_allclose(effective_number_weights(GROUP_SIZES, beta), weights, rtol=1e-10)
    parts = batch()
    logits, labels, units = lists(parts)
    found = loss_rule(f"class_balanced({beta})").make(CONTEXT)(*parts)
    expected = mean_loss_by_loop(logits, labels, lambda i, p: weights[units[i]])
    assert found.item() == pytest.approx(expected, rel=1e-10)
    plain = mean_loss_by_loop(logits, labels)
    assert (expected == pytest.approx(plain, rel=1e-12)) == (beta == 0)


def test_effective_numbers_approach_inverse_frequencies() -> None:
    nearly = effective_number_weights(GROUP_SIZES, 1 - 1e-9)
    inverse = inverse_frequency_weights(GROUP_SIZES)
    np.testing.assert_allclose(nearly / nearly.sum(), inverse / inverse.sum(), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_focal_weighs_samples_by_their_own_probability(gamma: float) -> None:
    parts = batch()
    logits, labels, _ = lists(parts)
    found = loss_rule(f"focal({gamma})").make(CONTEXT)(*parts)
    expected = mean_loss_by_loop(logits, labels, lambda i, p: (1 - p) ** gamma)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    wrong = mean_loss_by_loop(logits, labels, lambda i, p: p**gamma)
    assert (expected == pytest.approx(wrong, rel=1e-3)) == (gamma == 0)


@pytest.mark.parametrize("tau", [0, 0.7, 1])
def test_logit_adjusted_multiplies_odds_by_priors(tau: float) -> None:
    parts = batch()
    logits, labels, _ = lists(parts)
    priors = [size / 100 for size in CLASS_SIZES]
    shifted = [[own[k] + tau * math.log(priors[k]) for k in range(CLASSES)] for own in logits]
    found = loss_rule(f"logit_adjusted({tau})").make(CONTEXT)(*parts)
    assert found.item() == pytest.approx(mean_loss_by_loop(shifted, labels), rel=1e-12)
    opposite = [[own[k] - tau * math.log(priors[k]) for k in range(CLASSES)] for own in logits]
    wrong = mean_loss_by_loop(opposite, labels)
    assert (found.item() == pytest.approx(wrong, rel=1e-3)) == (tau == 0)


def test_logit_adjustment_of_constant_logits_learns_balanced_scores() -> None:
    """The best constant logits under tau 1 are equal ones: the priors explain the labels alone."""
    labels = torch.from_numpy(np.repeat(np.arange(CLASSES), CLASS_SIZES))
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    loss = loss_rule("logit_adjusted").make(CONTEXT)
    loss(bias.expand(100, -1), labels, labels).backward()
    assert bias.grad is not None
    assert bias.grad.abs().max() < 1e-12
    plain = torch.autograd.grad(F.cross_entropy(bias.expand(100, -1), labels), bias)[0]
    assert plain.abs().max() > 0.1


def test_ldam_margins_fall_with_the_fourth_root_of_class_sizes() -> None:
    margins = ldam_margins(CLASS_SIZES, 0.5)
    assert margins.max() == margins[3] == 0.5
    for k in range(CLASSES):
        assert margins[k] / margins[3] == pytest.approx((5 / CLASS_SIZES[k]) ** 0.25)


def test_ldam_is_the_papers_loss_for_a_head_that_gives_scaled_cosines() -> None:
    logits, labels, units = batch()
    cosines = torch.tanh(logits)
    margins = ldam_margins(CLASS_SIZES, 0.5)
    scaled = [
        [30 * (c - (margins[label] if k == label else 0)) for k, c in enumerate(own)]
        for own, label in zip(cosines.tolist(), labels.tolist(), strict=True)
    ]
    found = loss_rule("ldam_drw").make(CONTEXT)(30 * cosines, labels, units)
    unscaled = loss_rule("ldam_drw(0.5, 1)").make(CONTEXT)(30 * cosines, labels, units)
    check(found, mean_loss_by_loop(scaled, labels.tolist()), wrong=unscaled.item())
    assert found > F.cross_entropy(30 * cosines, labels)


def test_ldam_weighs_classes_in_the_last_fifth_of_the_epochs_alone() -> None:
    parts = batch()
    logits, labels, _ = lists(parts)
    loss = loss_rule("ldam_drw(0)").make(CONTEXT)  # without margins, to see the weights
    assert not loss.needs_recalls
    weights = effective_number_weights(CLASS_SIZES, 0.9999)
    plain = mean_loss_by_loop(logits, labels)
    weighted = mean_loss_by_loop(logits, labels, lambda i, p: weights[labels[i]])
    found = []
    for _ in range(CONTEXT.epochs):
        found.append(loss(*parts).item())
        loss.end_epoch(None)
    assert found == pytest.approx([plain] * 8 + [weighted] * 2)
    assert plain != pytest.approx(weighted, rel=1e-2)


def test_group_dro_equals_multiplied_weights_over_several_batches() -> None:
    batches = [batch(seed) for seed in range(6)]
    # The third has nobody of the first group.
    batches[2] = (*batches[2][:2], batches[2][2].clamp_min(1))
    loss = loss_rule("group_dro(0.5)").make(CONTEXT)
    found = [loss(*parts).item() for parts in batches]
    expected, q = group_dro_by_loop([lists(parts) for parts in batches], [1 / 3] * 3, 0.5)
    assert found == pytest.approx(expected, rel=1e-12)
    assert loss.weights.tolist() == pytest.approx(q, rel=1e-12)  # type: ignore[attr-defined]
    still, _ = group_dro_by_loop([lists(parts) for parts in batches], [1 / 3] * 3, 0.0)
    assert found != pytest.approx(still, rel=1e-3)


def test_group_dro_ends_at_the_worst_group() -> None:
    labels = torch.tensor([0, 0, 0])
    logits = torch.tensor([[4.0, 0, 0, 0], [2.0, 0, 0, 0], [0.0, 4, 0, 0]])
    loss = loss_rule("group_dro(0.1)").make(CONTEXT)
    worst = F.cross_entropy(logits[2:], labels[2:])
    for _ in range(100):
        found = loss(logits, labels, torch.arange(3))
    assert found.item() == pytest.approx(worst.item(), rel=1e-3)
    even = loss_rule("group_dro(0)").make(CONTEXT)
    assert even(logits, labels, torch.arange(3)).item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), rel=1e-5
    )


def test_group_dro_sends_no_gradient_through_its_weights() -> None:
    logits, labels, units = batch()
    logits.requires_grad_()
    loss = loss_rule("group_dro(3)").make(CONTEXT)
    loss(logits, labels, units).backward()
    q = loss.weights  # type: ignore[attr-defined]
    counts = torch.bincount(units, minlength=3)
    losses = F.cross_entropy(logits, labels, reduction="none")
    (expected,) = torch.autograd.grad(((q / counts)[units] * losses).sum(), logits)
    torch.testing.assert_close(logits.grad, expected)


# Edges that all share.

FAMILIES = sorted(LOSSES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_absent_units_and_extreme_logits_stay_finite(family: str, dtype: torch.dtype) -> None:
    """Kept samples lack a class and a group; some samples are certain, some certainly wrong."""
    context = LossContext(np.array([50, 0, 3, 1]), np.array([52, 0, 2]), "group", epochs=1)
    loss = loss_rule("focal(0.5)" if family == "focal" else family).make(context)
    labels = torch.tensor([0, 0, 0, 2, 2, 3])
    units = torch.tensor([0, 0, 2, 0, 2, 2])
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))
    logits[0, 0], logits[1, 1], logits[4, 2], logits[5, 1] = 1e4, 1e4, 200.0, -1e4
    logits = logits.to(dtype).requires_grad_()
    for recalls in (np.ones(3), np.array([1.0, 0.0, 0.5]), np.zeros(3)):
        logits.grad = None
        value = batch_loss(loss, logits, labels, units, logits.flip(0))
        value.backward()
        assert value.shape == ()
        assert value.isfinite()
        assert value >= 0
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        loss.end_epoch(recalls if loss.needs_recalls else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_loss_is_described_and_spelled_out(family: str) -> None:
    entry = LOSSES[family]
    assert entry.summary
    assert "arXiv" in entry.citation or family in ("cross_entropy", "inverse_frequency")
    assert loss_rule(family).name == entry.usage == loss_rule(entry.usage).name
    assert loss_rule(family).make.__doc__


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("focal", "focal(2)"),
        ("focal()", "focal(2)"),
        ("focal(2.0)", "focal(2)"),
        (" focal ( gamma = 0.50 ) ", "focal(0.5)"),
        ("cdb_w", "cdb_w"),
        ("cdb_w_original", "cdb_w_original(dynamic)"),
        ("cdb_w_original(tau=1.5)", "cdb_w_original(1.5)"),
        ("ldam_drw(scale=10)", "ldam_drw(0.5, 10)"),
        ("ldam_drw(0.3, 10)", "ldam_drw(0.3, 10)"),
        ("class_balanced(1e-3)", "class_balanced(0.001)"),
    ],
)
def test_one_loss_has_one_name(text: str, name: str) -> None:
    assert loss_rule(text).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cdbw", "Unknown loss 'cdbw': did you mean cdb_w"),
        ("focl(2)", "Unknown loss 'focl': did you mean focal"),
        ("focal(2", r"a loss as name or name\(value\), found 'focal\(2'; write for example focal"),
        ("cdb_w:tau=0.5", "a loss as name or name"),
        ("focal(-1)", r"gamma of focal to be a finite number of at least 0, found '-1'; write .*2"),
        ("focal(nan)", "found 'nan'"),
        ("focal(inf)", "found 'inf'"),
        ("focal(two)", "found 'two'"),
        ("class_balanced(1)", r"of at least 0 and less than 1, found '1'; .*balanced\(0.9999\)"),
        ("cdb_w_original(dynamo)", "at least 0 or 'dynamic', found 'dynamo'"),
        ("focal(1, 2)", r"focal as in focal\(2\), found 2 parameters; leave out"),
        ("cross_entropy(1)", "cross_entropy as in cross_entropy, found 1 parameters"),
        ("focal(tau=1)", "Unknown parameter of focal 'tau'"),
        ("ldam_drw(0.5, max_margin=0.4)", "each parameter of ldam_drw once, found max_margin twi"),
    ],
)
def test_a_loss_that_does_not_fit_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss_rule(text)


def test_cross_entropy_needs_no_context() -> None:
    logits, labels, _ = batch()
    assert CrossEntropy()(logits, labels, labels) == F.cross_entropy(logits, labels)
