"""The performance weighted loss: published numbers, a slow twin, and what it must never do."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import pw_loss_by_loop
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ConfigError
from raydrop.models import build_model
from raydrop.study import Training
from raydrop.training.budget import training_length
from raydrop.training.checkpoints import flat_state
from raydrop.training.loop import train
from raydrop.training.losses import (
    LOSSES,
    CrossEntropy,
    LossContext,
    batch_loss,
    loss_rule,
    pw_loss,
    pw_targets,
    pw_weights,
    reads_reference,
)
from raydrop.training.losses.base import Stage
from raydrop.training.reference import (
    ModelReference,
    Reference,
    StoredReference,
    reference_logits,
)

CPU = torch.device("cpu")
SIZES = np.array([5, 5, 5, 5])
CONTEXT = LossContext(SIZES, SIZES)
SETTINGS = [(0.3, 1.0), (0.7, 0.5), (0.0, 3.0), (0.95, 3.0), (1.0, 2.0), (0.4, 0.0)]


def batch(seed: int = 0, size: int = 60, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and reference logits of which about half are right, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    reference = 2 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    reference[torch.arange(size), labels] += 2
    return logits, labels, reference


def logits_of(probabilities: list[float]) -> Tensor:
    """Single logits whose sigmoids are these."""
    return torch.tensor(probabilities, dtype=torch.float64).logit()


# Published numbers.


@pytest.mark.parametrize(
    ("theta", "gamma", "certainty", "expected"),
    [
        (0.3, 1, [0.7, 0.3, 0.9], [0.51, 0.79, 0.37]),
        (0.7, 0.5, [0.9, 0.5, 0.1], [0.7949, 0.9121, 0.9846]),
        (1, 3, [0.9, 0.5, 0.1], [1, 1, 1]),
        (0.2, 0, [1.0, 0.5, 0.0], [1, 1, 1]),
    ],
)
def test_weights_are_the_published_ones(
    theta: float, gamma: float, certainty: list[float], expected: list[float]
) -> None:
    s = torch.tensor(certainty, dtype=torch.float64)
    reference = torch.stack([s, 1 - s], dim=1).log()
    found = pw_weights(torch.zeros(3, dtype=torch.int64), reference, theta, gamma)
    assert [round(each, 4) for each in found.tolist()] == expected


def test_binary_weights_and_targets_are_the_published_ones() -> None:
    reference, labels = logits_of([0.8, 0.3, 0.6]), torch.tensor([1, 1, 0])
    weights = pw_weights(labels, reference, 0.3, 1)
    assert [round(each, 4) for each in weights.tolist()] == [0.44, 0.79, 0.72]
    targets = pw_targets(labels, reference)
    assert [round(each, 12) for each in targets.tolist()] == [0.8, 1, 0]
    torch.testing.assert_close(pw_targets(labels, reference[:, None]), targets)


def test_targets_are_the_references_where_it_is_right_and_the_labels_elsewhere() -> None:
    p0 = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    found = pw_targets(labels, p0.log())
    torch.testing.assert_close(found[0], p0[0])
    assert found[1].tolist() == [0, 0, 1]
    torch.testing.assert_close(pw_targets(labels, p0.log(), "soft"), p0)
    assert pw_targets(labels, p0.log(), "hard").tolist() == [[1, 0, 0], [0, 0, 1]]


# Against the twin.


@pytest.mark.parametrize(("theta", "gamma"), SETTINGS)
@pytest.mark.parametrize("targets", ["corrected", "hard", "soft"])
@pytest.mark.parametrize("normalise", ["none", "mean1"])
def test_the_loss_is_the_twins(theta: float, gamma: float, targets: Any, normalise: Any) -> None:
    logits, labels, reference = batch()
    expected, weights, chosen = pw_loss_by_loop(
        logits.tolist(), labels.tolist(), reference.tolist(), theta, gamma,
        targets=targets, mean1=normalise == "mean1",
    )  # fmt: skip
    found = pw_loss(logits, labels, reference, theta, gamma, targets=targets, normalise=normalise)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(pw_weights(labels, reference, theta, gamma), weights, rtol=1e-12)
    np.testing.assert_allclose(pw_targets(labels, reference, targets), chosen, rtol=1e-12)
    if gamma > 0 and theta < 1:
        other = {"none": "mean1", "mean1": "none"}[normalise]
        wrong = pw_loss(
            logits,
            labels,
            reference,
            theta,
            gamma,
            targets=targets,
            normalise=other,  # type: ignore[arg-type]
        )
        assert wrong.item() != pytest.approx(expected, rel=1e-2)


def test_unweighted_is_the_mean_with_the_same_targets() -> None:
    logits, labels, reference = batch()
    off = pw_loss(logits, labels, reference, 0.3, 1, weights="off")
    assert off.item() == pytest.approx(
        pw_loss_by_loop(logits.tolist(), labels.tolist(), reference.tolist(), 1, 1)[0], rel=1e-12
    )


@pytest.mark.parametrize("targets", ["corrected", "hard", "soft"])
@pytest.mark.parametrize(("theta", "gamma"), SETTINGS)
def test_the_binary_form_is_that_of_two_classes(theta: float, gamma: float, targets: Any) -> None:
    logits, _, reference = batch(classes=1)
    labels = (torch.rand(60, generator=torch.Generator().manual_seed(3)) < 0.5).long()

    def both(single: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(single), single], dim=1)

    expected = pw_loss(both(logits), labels, both(reference), theta, gamma, targets=targets)
    for shape in ((60,), (60, 1)):
        found = pw_loss(
            logits.view(shape), labels, reference.view(shape), theta, gamma, targets=targets
        )
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)


# Identities and bounds.


@pytest.mark.parametrize(("theta", "gamma"), [(1.0, 2.0), (0.3, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_weights_it_is_cross_entropy_bit_for_bit(
    theta: float, gamma: float, dtype: torch.dtype
) -> None:
    """Value and gradient; with hard targets, or where the reference is wrong about everything, it
    is the one of the labels, otherwise the one of the same probabilities."""
    logits, labels, reference = (part.to(dtype) if part.is_floating_point() else part
                                 for part in batch(size=997))  # fmt: skip
    wrong = reference - 100 * F.one_hot(labels, 4)
    probabilities = pw_targets(labels, reference)
    assert torch.equal(pw_weights(labels, reference, theta, gamma), torch.ones(997, dtype=dtype))
    for targets, dense, same in (
        ("hard", reference, labels),
        ("corrected", wrong, labels),
        ("corrected", reference, probabilities),
    ):
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        found = pw_loss(ours, labels, dense, theta, gamma, targets=targets)  # type: ignore[arg-type]
        expected = F.cross_entropy(theirs, same)
        assert torch.equal(found, expected)
        torch.autograd.backward([found, expected])
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    single = pw_loss(logits[:, 0], labels % 2, reference[:, 0], theta, gamma, targets="hard")
    plain = F.binary_cross_entropy_with_logits(logits[:, 0], (labels % 2).to(dtype))
    assert torch.equal(single, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_fall_as_the_reference_is_surer_and_stay_in_their_bounds(
    dtype: torch.dtype,
) -> None:
    surer = torch.linspace(-200, 200, 2001, dtype=dtype)
    reference = torch.stack([surer, torch.zeros_like(surer), torch.zeros_like(surer)], dim=1)
    for theta, gamma in itertools.product((0.0, 0.1, 0.3, 0.7, 0.95), (0.3, 1.0, 2.5)):
        for logits, label in ((reference, 0), (surer, 1)):
            labels = torch.full((2001,), label)
            weights = pw_weights(labels, logits, theta, gamma)
            assert (weights.diff() <= 0).all()
            assert weights.diff().min() < 0
            assert weights[0] == 1
            assert weights.min() >= torch.tensor(theta, dtype=dtype)
            assert weights[-1].item() == pytest.approx(theta, abs=1e-6)


def test_the_reference_gets_no_gradient() -> None:
    logits, labels, reference = batch()
    logits.requires_grad_()
    reference.requires_grad_()
    for targets, normalise in itertools.product(("corrected", "soft"), ("none", "mean1")):
        value = pw_loss(
            logits,
            labels,
            reference,
            0.3,
            1,
            targets=targets,
            normalise=normalise,  # type: ignore[arg-type]
        )
        value.backward()
        assert reference.grad is None
        assert not pw_weights(labels, reference, 0.3, 1).requires_grad
        assert not pw_targets(labels, reference).requires_grad
    assert logits.grad is not None
    # The gradient of a weighted mean whose weights are constants.
    (found,) = torch.autograd.grad(pw_loss(logits, labels, reference, 0.3, 1), logits)
    weights, targets = pw_weights(labels, reference, 0.3, 1), pw_targets(labels, reference)
    torch.testing.assert_close(found, weights[:, None] * (logits.softmax(1) - targets) / 60)


def test_low_precision_is_lifted() -> None:
    logits, labels, reference = (part.bfloat16() if part.is_floating_point() else part
                                 for part in batch())  # fmt: skip
    found = pw_loss(logits, labels, reference, 0.3, 1)
    assert found.dtype == torch.float32
    assert pw_weights(labels, reference, 0.3, 1).dtype == torch.float32
    lifted = pw_loss(logits.double(), labels, reference.double(), 0.3, 1)
    assert found.item() == pytest.approx(lifted.item(), rel=1e-6)


def test_a_batch_that_weighs_nothing_has_no_loss() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    certain = torch.tensor([[1000.0, 0.0]]).repeat(3, 1)
    for normalise in ("none", "mean1"):
        found = pw_loss(torch.randn(3, 2), labels, certain, 0, 1, normalise=normalise)  # type: ignore[arg-type]
        assert found == 0


# Names and parameters.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pw", "pw(0.5, 1)"),
        ("pw(1, 0)", "pw(1, 0)"),
        ("pw(theta=.3, gamma=1.0)", "pw(0.3, 1)"),
        ("pw(0.3, 1, labels=hard)", "pw(0.3, 1, labels=hard)"),
        ("pw(labels=corrected, stage=prune, theta=0)", "pw(0, 1, stage=prune)"),
        ("pw(normalise=mean1, weights=off)", "pw(0.5, 1, weights=off, normalise=mean1)"),
    ],
)
def test_variants_have_canonical_names(text: str, name: str) -> None:
    assert loss_rule(text).name == name == loss_rule(name).name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pw(1.01)",
            r"theta of pw to be a finite number of at least 0 and at most 1, found '1.01'",
        ),
        ("pw(-0.1)", "theta of pw to be"),
        ("pw(0.5, -1)", "gamma of pw to be a finite number of at least 0, found '-1'"),
        ("pw(nan)", "theta of pw to be"),
        ("pw(0.5, inf)", "gamma of pw to be"),
        ("pw(labels=0.5)", "labels of pw to be 'corrected' or 'hard' or 'soft', found '0.5'"),
        ("pw(label=hard)", "Unknown parameter of pw 'label': did you mean labels"),
    ],
)
def test_parameters_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss_rule(text)


def test_the_function_refuses_what_does_not_fit() -> None:
    logits, labels, reference = batch()
    for theta, gamma in ((-0.1, 1.0), (1.1, 1.0), (0.5, -1.0), (math.nan, 1.0), (0.5, math.nan)):
        with pytest.raises(ConfigError, match=r"Expected (theta|gamma) of pw"):
            pw_loss(logits, labels, reference, theta, gamma)
        with pytest.raises(ConfigError, match=r"Expected (theta|gamma) of pw"):
            pw_weights(labels, reference, theta, gamma)
    with pytest.raises(ConfigError, match=r"shape \(60, 4\), as the logits have, found \(60, 3\)"):
        pw_loss(logits, labels, reference[:, :3], 0.5, 1)


@pytest.mark.parametrize("stage", ["prune", "retrain"])
@pytest.mark.parametrize("wanted", ["both", "prune", "retrain"])
def test_the_stage_that_is_not_covered_has_cross_entropy(wanted: str, stage: Stage) -> None:
    rule = loss_rule(f"pw(0.3, 1, stage={wanted})")
    loss = rule.make(dataclasses.replace(CONTEXT, stage=stage))
    covered = wanted in ("both", stage)
    assert loss.needs_reference == covered
    logits, labels, reference = batch()
    plain = torch.equal(
        batch_loss(loss, logits, labels, labels, reference), F.cross_entropy(logits, labels)
    )
    assert plain != covered
    assert reads_reference(rule)


def test_only_this_loss_reads_a_reference() -> None:
    assert [name for name in LOSSES if reads_reference(loss_rule(name))] == ["pw"]
    for name in LOSSES:
        assert loss_rule(name).make(CONTEXT).needs_reference == (name == "pw")


def test_the_variants_reach_the_loss() -> None:
    logits, labels, reference = batch()
    for weights, targets, normalise in itertools.product(
        ("pw", "off"), ("corrected", "hard", "soft"), ("none", "mean1")
    ):
        text = f"pw(0.2, 2, weights={weights}, labels={targets}, normalise={normalise})"
        loss: Any = loss_rule(text).make(CONTEXT)
        expected, *_ = pw_loss_by_loop(
            logits.tolist(), labels.tolist(), reference.tolist(), 0.2 if weights == "pw" else 1, 2,
            targets=targets, mean1=normalise == "mean1",
        )  # fmt: skip
        found = loss(logits, labels, labels, reference)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ConfigError, match="dense network's logits for pw, found none"):
        loss(logits, labels, labels)


# In training.


def fit(
    digits: PreparedData,
    loss: Any,
    reference: Reference | None = None,
    *,
    augment: bool = False,
    **more: Any,
) -> nn.Module:
    """Train for two short epochs."""
    training = Training(epochs=2, batch_size=16)
    torch.manual_seed(0)
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    positions = torch.arange(3, 150, 3)
    length = training_length("equal_epochs", training, 49, 49)
    batches = make_batches(digits, digits.dataset.train, CPU)
    train(
        model, batches, positions, loss, training, length, 0,
        augment=augment, reference=reference, **more,
    )  # fmt: skip
    return model


def dense(digits: PreparedData) -> nn.Module:
    torch.manual_seed(1)
    return build_model("small_cnn", 10, digits.dataset.image_shape)


def test_without_weights_training_is_that_of_cross_entropy_bit_for_bit(
    digits: PreparedData,
) -> None:
    reference = ModelReference(dense(digits))
    plain = flat_state(fit(digits, CrossEntropy(), augment=True))
    for text in ("pw(1, 2, labels=hard)", "pw(0.3, 0, labels=hard)"):
        loss = loss_rule(text).make(CONTEXT)
        assert flat_state(fit(digits, loss, reference, augment=True)).tobytes() == plain.tobytes()
    loss = loss_rule("pw(0.3, 1, labels=hard)").make(CONTEXT)
    assert flat_state(fit(digits, loss, reference, augment=True)).tobytes() != plain.tobytes()


def test_stored_logits_train_as_the_network_itself(digits: PreparedData) -> None:
    model = dense(digits)
    train_split = digits.dataset.train
    stored = reference_logits(model, make_batches(digits, train_split, CPU), len(train_split))
    assert stored.shape == (len(train_split), 10)
    assert stored.dtype == np.float32
    assert model.training
    stored.setflags(write=False)  # as a memory map is, and what Ray shares
    loss = loss_rule("pw(0.3, 1, labels=soft)").make(CONTEXT)
    by_table = flat_state(fit(digits, loss, StoredReference(stored)))
    by_model = flat_state(fit(digits, loss, ModelReference(model)))
    np.testing.assert_allclose(by_table, by_model, rtol=1e-3, atol=1e-5)
    shifted = flat_state(fit(digits, loss, StoredReference(np.roll(stored, 1, axis=0))))
    assert not np.allclose(shifted, by_model, rtol=1e-3, atol=1e-4)


def test_the_reference_is_frozen_and_sees_every_view(digits: PreparedData) -> None:
    model = dense(digits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = ModelReference(model)
    views: list[Tensor] = []

    def watch(images: Tensor, positions: Tensor) -> Tensor:
        assert len(images) == len(positions)
        views.append(images)
        logits = frozen(images, positions)
        assert not logits.requires_grad
        return logits

    fit(digits, loss_rule("pw(0.3, 1)").make(CONTEXT), watch, augment=True)
    assert len(views) == 8
    assert not torch.equal(torch.cat(views[:4]).sum(0), torch.cat(views[4:]).sum(0))
    assert model.training
    assert all(each.requires_grad for each in model.parameters())
    assert all(each.grad is None for each in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_the_reference_says_does_not_follow_the_model(digits: PreparedData) -> None:
    model = dense(digits)
    frozen, images = ModelReference(model), torch.randn(4, *digits.dataset.image_shape)
    first = frozen(images, torch.arange(4))
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
    assert torch.equal(frozen(images, torch.arange(4)), first)


def test_a_reference_is_asked_only_by_a_loss_that_reads_it(digits: PreparedData) -> None:
    def never(images: Tensor, positions: Tensor) -> Tensor:
        raise AssertionError

    fit(digits, CrossEntropy(), never)
    with pytest.raises(ConfigError, match="Expected a reference for PwLoss, found none"):
        fit(digits, loss_rule("pw").make(CONTEXT))


def test_stored_logits_have_to_be_finite_numbers_by_class() -> None:
    with pytest.raises(ConfigError, match="some that are not"):
        StoredReference(np.array([[1.0, np.nan]]))
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        StoredReference(np.zeros(3))


def test_something_may_be_done_after_each_step(digits: PreparedData) -> None:
    steps: list[int] = []
    found = fit(digits, CrossEntropy(), after_step=lambda: steps.append(1))
    assert len(steps) == 8
    assert flat_state(found).tobytes() == flat_state(fit(digits, CrossEntropy())).tobytes()
