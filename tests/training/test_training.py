"""The loop, its losses, its budget and its schedule."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raydrop.data.batches import PreparedData, even_groups, make_batches
from raydrop.errors import ConfigError, NoMemoryError, StoreError, TrainingDivergedError
from raydrop.models import build_model
from raydrop.study import Training
from raydrop.training import halving
from raydrop.training.budget import Length, training_length
from raydrop.training.checkpoints import flat_state, load_state, sampled_epochs, score_epoch
from raydrop.training.evaluate import predict
from raydrop.training.loop import EpochEnd, smoothed, train
from raydrop.training.losses import (
    LOSSES,
    CrossEntropy,
    Loss,
    LossContext,
    cdb_weights,
    loss_rule,
)
from raydrop.training.optim import learning_rate
from raydrop.training.reference import Reference, StoredReference
from raydrop.training.trace import Trace, observe

CPU = torch.device("cpu")


# The budget rule.


def test_drop_paper_epochs_are_the_papers() -> None:
    training = Training(epochs=160, batch_size=128)
    epochs = {d: training_length("drop_paper", training, d * 500, 50000).epochs
              for d in (10, 30, 50, 80, 100)}  # fmt: skip
    assert epochs == {10: 880, 30: 346, 50: 240, 80: 180, 100: 160}


@pytest.mark.parametrize("rule", ["equal_epochs", "equal_steps", "drop_paper"])
def test_budget_rules_agree_on_all_the_data(rule: str) -> None:
    training = Training(epochs=7, batch_size=32)
    assert training_length(rule, training, 330, 330) == Length(7, 77)  # type: ignore[arg-type]


def test_equal_steps_takes_the_steps_of_all_the_data() -> None:
    training = Training(epochs=7, batch_size=32)
    assert training_length("equal_steps", training, 66, 330) == Length(26, 77)


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (32, [32]), (33, [17, 16]), (65, [22, 22, 21]), (10, [10])]
)
def test_batches_of_an_epoch_are_of_nearly_equal_size(n: int, sizes: list[int]) -> None:
    assert [len(group) for group in even_groups(torch.arange(n), 32)] == sizes
    assert training_length("equal_epochs", Training(epochs=2), n, n).steps == 2 * len(sizes)


# Schedules.


def test_step_schedule_falls_at_its_milestones() -> None:
    training = Training(schedule="step", milestones=(0.5, 0.75), decay=0.2, learning_rate=1.0)
    rates = [learning_rate(training, step, 100) for step in (0, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_cosine_schedule_starts_at_the_rate_and_nearly_ends_at_zero() -> None:
    training = Training(schedule="cosine", learning_rate=0.1)
    assert learning_rate(training, 0, 100) == 0.1
    assert learning_rate(training, 50, 100) == pytest.approx(0.05)
    assert 0 < learning_rate(training, 99, 100) < 1e-4


def test_warmup_rises_linearly_to_the_rate() -> None:
    training = Training(schedule="constant", learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(training, step, 100) for step in range(12)]
    assert np.diff(rates[:11]) == pytest.approx(1 / 11)
    assert rates[10:] == [1.0, 1.0]


# Losses.


def test_cdb_weights_equal_the_papers_vector() -> None:
    weights = cdb_weights([0.9, 0.8, 0.5], tau="dynamic")
    assert weights == pytest.approx([0.238690, 0.614702, 2.146608], abs=1e-6)
    assert cdb_weights([0.9, 0.8, 0.5], 1.0) == pytest.approx([0.375, 0.75, 1.875])


def test_cdb_weights_edge_cases() -> None:
    assert cdb_weights([1.0, 1.0]).tolist() == [1, 1]
    assert cdb_weights([0.3, 0.3, 0.3], tau=5).tolist() == pytest.approx([1, 1, 1])
    assert cdb_weights([0.2, 0.9], tau=0).tolist() == [1, 1]
    with pytest.raises(ConfigError, match=r"recalls in \[0, 1\], found \[nan"):
        cdb_weights([math.nan, 0.5])
    with pytest.raises(ConfigError, match="tau of at least 0, found -1"):
        cdb_weights([0.5, 0.5], tau=-1)


def cdb_w(recalls: list[float]) -> Loss:
    """The loss after an epoch with these recalls."""
    sizes = np.ones(len(recalls), np.int64)
    loss = loss_rule("cdb_w").make(LossContext(sizes, sizes))
    loss.end_epoch(np.array(recalls))
    return loss  # type: ignore[no-any-return]


def test_cdb_w_is_torchs_weighted_mean() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 3).double(), torch.randint(3, (20,))
    weights = torch.tensor([0.2, 0.5, 1.0]).double()
    torch.testing.assert_close(
        cdb_w([0.8, 0.5, 0.0])(logits, labels, labels), F.cross_entropy(logits, labels, weights)
    )


def test_a_batch_of_weightless_classes_has_no_gradient() -> None:
    logits, labels = torch.randn(4, 2, requires_grad=True), torch.zeros(4, dtype=torch.long)
    loss = cdb_w([1.0, 0.0])(logits, labels, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_cdb_w_is_unweighted_in_the_first_epoch_and_then_follows_the_recalls() -> None:
    logits, labels = torch.randn(20, 2), torch.randint(2, (20,))
    loss = loss_rule("cdb_w").make(LossContext(np.array([10, 10]), np.array([10, 10])))
    torch.testing.assert_close(loss(logits, labels, labels), F.cross_entropy(logits, labels))
    loss.end_epoch(np.array([0.9, 0.5]))
    expected = F.cross_entropy(logits, labels, torch.tensor([0.1, 0.5]))
    torch.testing.assert_close(loss(logits, labels, labels), expected)


def test_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown loss 'cdbw': did you mean cdb_w"):
        loss_rule("cdbw")


# The loop.


def _train(
    digits: PreparedData,
    seed: int = 0,
    loss: Loss | None = None,
    reference: Reference | None = None,
    **changes: object,
) -> tuple[torch.nn.Module, list[EpochEnd]]:
    training = dataclasses.replace(Training(epochs=3, batch_size=32), **changes)
    torch.manual_seed(0)
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    ends: list[EpochEnd] = []
    positions = torch.arange(0, len(digits.dataset.train), 5)
    train(
        model,
        make_batches(digits, digits.dataset.train, CPU),
        positions,
        loss or CrossEntropy(),
        training,
        training_length("equal_epochs", training, len(positions), len(positions)),
        seed,
        augment=True,
        on_epoch_end=ends.append,
        reference=reference,
    )
    return model, ends


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(digits: PreparedData) -> None:
    first, again, other = (_train(digits, seed)[0] for seed in (0, 0, 1))
    assert flat_state(first).tobytes() == flat_state(again).tobytes()
    assert flat_state(first).tobytes() != flat_state(other).tobytes()


def test_global_random_state_changes_nothing(digits: PreparedData) -> None:
    first, _ = _train(digits)
    np.random.seed(9)  # noqa: NPY002 - it is the global state that is under test
    second, _ = _train(digits)
    assert flat_state(first).tobytes() == flat_state(second).tobytes()


def test_loop_equals_plain_steps(digits: PreparedData) -> None:
    """One pass without augmentation is a sequence of textbook SGD steps."""
    training = Training(
        epochs=1, batch_size=20, schedule="constant", learning_rate=0.05, momentum=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    positions = torch.arange(40)
    batches = make_batches(digits, digits.dataset.train, CPU)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model("small_cnn", 10, digits.dataset.image_shape))
    seen: list[torch.Tensor] = []
    units_seen: list[torch.Tensor] = []

    class Watch(CrossEntropy):
        def __call__(
            self, logits: torch.Tensor, labels: torch.Tensor, units: torch.Tensor
        ) -> torch.Tensor:
            seen.append(labels)
            units_seen.append(units)
            return super().__call__(logits, labels, units)

    length = training_length("equal_epochs", training, 40, 40)
    train(models[0], batches, positions, Watch(), training, length, 3, augment=False)
    order = torch.cat(seen)
    assert sorted(order.tolist()) == sorted(digits.dataset.train.labels[:40].tolist())
    assert torch.cat(units_seen).tolist() == order.tolist()

    generator = torch.Generator()
    from raydrop.study import derive_seed

    generator.manual_seed(derive_seed(3, "order/0"))
    for images, labels in batches(positions[torch.randperm(40, generator=generator)].split(20)):
        models[1].zero_grad()
        F.cross_entropy(models[1](images), labels).backward()
        with torch.no_grad():
            for p in models[1].parameters():
                p -= 0.05 * p.grad  # type: ignore[operator]
    np.testing.assert_allclose(flat_state(models[0]), flat_state(models[1]), atol=1e-6)


def test_a_loss_is_told_the_unit_of_every_sample(digits: PreparedData) -> None:
    """Units are given by position in the split, and follow the order of the batches."""
    train_split = digits.dataset.train
    units = torch.from_numpy(train_split.ids % 7)
    seen: list[tuple[int, int]] = []

    class Watch(CrossEntropy):
        def __call__(
            self, logits: torch.Tensor, labels: torch.Tensor, units: torch.Tensor
        ) -> torch.Tensor:
            seen.extend(zip(labels.tolist(), units.tolist(), strict=True))
            return super().__call__(logits, labels, units)

    positions = torch.arange(5, 300, 3)
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    batches = make_batches(digits, train_split, CPU)
    training = Training(epochs=1, batch_size=16)
    length = training_length("equal_epochs", training, len(positions), len(positions))
    train(model, batches, positions, Watch(), training, length, 0, augment=False, units=units)
    labels = train_split.labels[positions].tolist()
    assert sorted(seen) == sorted(zip(labels, units[positions].tolist(), strict=True))
    by_order = [unit for _, unit in seen]
    assert by_order != [unit for _, unit in sorted(seen)]


@pytest.mark.parametrize("family", sorted(LOSSES))
def test_every_loss_trains(digits: PreparedData, family: str) -> None:
    sizes = np.bincount(digits.dataset.train.labels[::5], minlength=10)
    loss = loss_rule(family).make(LossContext(sizes, sizes, epochs=10))
    if loss.needs_recalls:
        loss.end_epoch(np.linspace(0.5, 0.9, 10))
    certain = StoredReference(2 * np.eye(10)[digits.dataset.train.labels])
    model, ends = _train(digits, loss=loss, reference=certain, epochs=10)
    assert ends[-1].loss < ends[0].loss
    test = digits.dataset.test
    predictions = predict(model, make_batches(digits, test, CPU), len(test))
    assert (predictions == test.labels).mean() > 0.4


def test_training_learns_digits(digits: PreparedData) -> None:
    model, ends = _train(digits, epochs=15)
    assert ends[-1].loss < 0.5 * ends[0].loss
    test = digits.dataset.test
    predictions = predict(model, make_batches(digits, test, CPU), len(test))
    assert (predictions == test.labels).mean() > 0.7


def test_a_loss_that_is_not_finite_stops_the_run_with_its_epoch(digits: PreparedData) -> None:
    with pytest.raises(TrainingDivergedError, match=r"found (nan|inf) in epoch 1 at learning rate"):
        _train(digits, learning_rate=1e30, schedule="constant")


def test_a_run_stops_at_its_steps(digits: PreparedData) -> None:
    training = Training(batch_size=10)
    torch.manual_seed(0)
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    ends: list[EpochEnd] = []
    batches = make_batches(digits, digits.dataset.train, CPU)
    train(
        model, batches, torch.arange(30), CrossEntropy(), training, Length(3, 7), 0,
        augment=False, on_epoch_end=ends.append,
    )  # fmt: skip
    assert [end.step for end in ends] == [3, 6, 7]


def test_gradient_clipping_bounds_the_step(digits: PreparedData) -> None:
    clipped, _ = _train(digits, epochs=1, gradient_clip=1e-6, weight_decay=0.0)
    torch.manual_seed(0)
    fresh = build_model("small_cnn", 10, digits.dataset.image_shape)
    for p, q in zip(clipped.parameters(), fresh.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-5


def test_bf16_autocast_trains_and_keeps_parameters_in_float32(digits: PreparedData) -> None:
    model, ends = _train(digits, precision="bf16", epochs=4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert ends[-1].loss < ends[0].loss


def test_adamw_trains(digits: PreparedData) -> None:
    _, ends = _train(digits, optimizer="adamw", learning_rate=0.01, epochs=4)
    assert ends[-1].loss < ends[0].loss


def test_an_optimiser_by_import_path_steps_as_torchs_own(digits: PreparedData) -> None:
    path = "torch.optim:SGD(momentum=0.9, nesterov=False)"
    named, own = (flat_state(_train(digits, optimizer=name)[0]) for name in (path, "sgd"))
    np.testing.assert_allclose(named, own, atol=1e-5)
    with pytest.raises(ConfigError, match=r"make a torch.optim.Optimizer, found a MagicMock"):
        _train(digits, optimizer="unittest.mock:MagicMock")
    with pytest.raises(ConfigError, match=r"RMSprop\(beta=2\) to take .*'beta'"):
        _train(digits, optimizer="torch.optim:RMSprop(beta=2)")


def test_compiled_steps_are_those_of_the_model(
    digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the compiler, which takes half a minute: steps go through what it returns."""
    calls: list[int] = []

    def compiled(model: torch.nn.Module) -> Any:
        def forward(images: torch.Tensor) -> Any:
            calls.append(len(images))
            return model(images)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    plain, fast = (_train(digits, compile=flag) for flag in (False, True))
    assert flat_state(plain[0]).tobytes() == flat_state(fast[0]).tobytes()
    assert len(calls) == fast[1][-1].step


def test_label_smoothing_is_torchs() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    value = smoothed(F.cross_entropy(logits, labels), logits, 0.3)
    assert value.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.3))
    assert smoothed(value, logits, 0.0).item() == value.item()


def test_training_towards_the_uniform_distribution_alone_ends_at_its_entropy(
    digits: PreparedData,
) -> None:
    plain, uniform = (_train(digits, label_smoothing=share)[1] for share in (0.0, 1.0))
    assert min(end.loss for end in uniform) >= math.log(10) > plain[-1].loss


def test_averaged_weights_are_those_of_a_loop_over_the_steps(digits: PreparedData) -> None:
    """The average is looked at after each epoch, and is what is left; steps go on without it."""
    weights, seen = list[torch.Tensor](), list[torch.Tensor]()
    training = Training(epochs=2, batch_size=16, learning_rate=0.05, ema=0.8)
    model = build_model("linear", 10, (1, 8, 8))

    def flat() -> torch.Tensor:
        return torch.cat([p.detach().double().flatten() for p in model.parameters()])

    train(
        model, make_batches(digits, digits.dataset.train, CPU), torch.arange(64), CrossEntropy(),
        training, Length(2, 8), 0, augment=False, after_step=lambda: weights.append(flat()),
        on_epoch_end=lambda _: seen.append(flat()),
    )  # fmt: skip
    average, expected = weights[0], list[torch.Tensor]()
    for step, each in enumerate(weights):
        average = each if step == 0 else 0.8 * average + 0.2 * each
        expected += [average] if step in (3, 7) else []
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen, expected, strict=True))
    assert torch.equal(flat(), seen[-1])
    assert not torch.allclose(seen[-1], weights[-1], atol=1e-4)


def test_a_setting_that_says_nothing_is_not_part_of_an_identity() -> None:
    usual = Training().identity()
    assert not {"ema", "compile", "label_smoothing"} & usual.keys()
    for change in ({"ema": 0.9}, {"compile": True}, {"label_smoothing": 0.1}):
        assert Training(**change).identity() == usual | change  # type: ignore[arg-type]


# Traces and checkpoints.


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected where memory runs out, which takes a while."""
    monkeypatch.setattr(halving, "free", lambda: None)


class SmallMemory(torch.nn.Module):
    """A network for which more than so many samples are too much."""

    def __init__(self, model: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: torch.Tensor = self.model(images)
        return logits


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("most", "parts"), [(16, 1), (9, 2), (4, 4), (1, 16)])
def test_batches_that_do_not_fit_are_cut_and_the_steps_stay_the_same(
    digits: PreparedData, most: int, parts: int
) -> None:
    """Without BatchNorm, the parts of a batch add up to the batch."""
    training = Training(epochs=2, batch_size=16, learning_rate=0.05)
    states, ends = [], list[EpochEnd]()
    for memory in (1000, most):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SmallMemory(build_model("linear", 10, (1, 8, 8)), memory)
        batches = make_batches(digits, digits.dataset.train, CPU)
        positions = torch.arange(160)
        train(
            model, batches, positions, CrossEntropy(), training, Length(2, 20), 3,
            augment=False, on_epoch_end=ends.append,
        )  # fmt: skip
        states.append(flat_state(model))
    np.testing.assert_allclose(states[1], states[0], rtol=1e-4, atol=1e-6)
    assert [end.parts for end in ends] == [1, 1, parts, parts]
    assert ends[3].loss == pytest.approx(ends[1].loss, rel=1e-5)


@pytest.mark.usefixtures("at_once")
def test_one_sample_that_does_not_fit_ends_the_run(digits: PreparedData) -> None:
    model = SmallMemory(build_model("linear", 10, (1, 8, 8)), 0)
    batches = make_batches(digits, digits.dataset.train, CPU)
    with pytest.raises(NoMemoryError, match=r"single sample .*from a batch of 16"):
        train(
            model, batches, torch.arange(32), CrossEntropy(), Training(batch_size=16),
            Length(1, 2), 0, augment=False,
        )  # fmt: skip


def test_trace_rows_are_the_observations_of_every_sample(digits: PreparedData) -> None:
    model, _ = _train(digits, epochs=1)
    n = len(digits.dataset.train)
    batches = make_batches(digits, digits.dataset.train, CPU)
    trace = Trace.empty(2, n)
    trace.record(1, model, batches)
    model.eval()
    (images, labels) = next(iter(batches([torch.arange(n)])))
    with torch.no_grad():
        expected = observe(model(images), labels)
    for name, values in expected.items():
        found = trace.as_arrays()[name][1]
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-3, atol=1e-3)


def test_recording_leaves_the_model_in_its_mode(digits: PreparedData) -> None:
    model, _ = _train(digits, epochs=1)
    before = flat_state(model)
    model.train()
    Trace.empty(1, len(digits.dataset.train)).record(
        0, model, make_batches(digits, digits.dataset.train, CPU)
    )
    assert model.training
    assert (flat_state(model) == before).all()


def test_checkpoint_round_trip_gives_the_same_predictions(digits: PreparedData) -> None:
    model, _ = _train(digits)
    other = build_model("small_cnn", 10, digits.dataset.image_shape)
    state = flat_state(model)
    state.setflags(write=False)
    load_state(other, state)
    test = digits.dataset.test
    batches = make_batches(digits, test, CPU)
    assert (predict(model, batches, len(test)) == predict(other, batches, len(test))).all()


def test_checkpoint_of_another_model_is_refused(digits: PreparedData) -> None:
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    with pytest.raises(StoreError, match=r"checkpoint of \d+ numbers, found 3"):
        load_state(model, np.zeros(3, np.float32))


@pytest.mark.parametrize(("epochs", "count"), [(30, 10), (50, 7), (3, 10), (5, 1), (10, 4)])
def test_one_checkpoint_is_drawn_from_each_stretch_of_the_run(epochs: int, count: int) -> None:
    for seed in range(20):
        drawn = sampled_epochs(epochs, count, seed)
        assert len(drawn) == min(epochs, count)
        for stretch, epoch in enumerate(drawn):
            assert stretch * epochs // len(drawn) < epoch <= (stretch + 1) * epochs // len(drawn)
    draws = {sampled_epochs(epochs, count, seed) for seed in range(20)}
    assert (len(draws) > 1) == (count < epochs)


def test_every_epoch_is_as_likely_to_be_drawn() -> None:
    drawn = np.array([sampled_epochs(20, 4, seed) for seed in range(2000)])
    counts = np.bincount(drawn.ravel(), minlength=21)[1:]
    # Binomial: mean 400, standard deviation 18.
    assert np.abs(counts - 400).max() < 4 * 18
    # And the strata are drawn independently: else the sum of two would vary twice as much or not.
    assert np.corrcoef(drawn.T)[np.triu_indices(4, 1)] == pytest.approx(0, abs=4 / 2000**0.5)


@pytest.mark.parametrize(("fraction", "epoch"), [(0.0, 1), (0.1, 3), (0.5, 15), (1.0, 30)])
def test_the_early_epoch(fraction: float, epoch: int) -> None:
    assert score_epoch(30, fraction) == epoch
