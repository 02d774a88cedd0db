"""Where memory runs out, batches get smaller and results stay what they were."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, make_batches, prepare
from raydrop.errors import NoMemoryError, RaydropError, ScoringError
from raydrop.models import build_model
from raydrop.network import measure
from raydrop.network.measure import forward_seconds
from raydrop.plan import make_plan, trial_configs
from raydrop.stages import queries, trials
from raydrop.stages.queries import new_model, run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.training import halving
from raydrop.training.budget import Length
from raydrop.training.evaluate import predict, predictions_and_probabilities
from raydrop.training.halving import (
    Full,
    Halving,
    in_a_sentence,
    is_out_of_memory,
    unless_full,
)
from raydrop.training.loop import train
from raydrop.training.losses import LossContext, loss_rule
from raydrop.training.reference import ModelReference, reference_logits
from raydrop.training.trace import Trace

CPU = torch.device("cpu")
OUT_OF_MEMORY = "[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9 bytes."


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes a while; and nothing below may depend on it."""
    monkeypatch.setattr(halving, "free", lambda: None)


# Parts of a batch.


def limited(capacity: int, seen: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Doubles images, if there are no more than ``capacity``."""

    def compute(images: Tensor, labels: Tensor) -> Tensor:
        assert len(images) == len(labels)
        seen.append(len(images))
        if len(images) > capacity:
            raise RuntimeError(OUT_OF_MEMORY)
        return 2 * images

    return compute


@pytest.mark.parametrize("capacity", range(1, 9))
def test_parts_in_order_are_the_whole(capacity: int) -> None:
    for samples in range(20):
        images = torch.arange(2.0 * samples).view(samples, 2)
        seen: list[int] = []
        halving = Halving()
        parts = halving(limited(capacity, seen), images, torch.arange(samples))
        assert torch.equal(torch.cat([images[:0], *parts]), 2 * images)
        assert [len(part) for part in parts] == [n for n in seen if n <= capacity]
        assert seen == sorted(seen, reverse=True)
        assert (halving.most is None) == (len(seen) == len(parts))


def test_a_batch_is_halved_until_it_fits_and_the_next_begins_there() -> None:
    seen: list[int] = []
    halving = Halving()
    parts = halving(limited(3, seen), torch.zeros(10, 1), torch.zeros(10))
    assert (seen, halving.most) == ([10, 5, 3, 3, 3, 1], 3)
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    seen.clear()
    assert len(halving(limited(10, seen), torch.zeros(5, 1), torch.zeros(5))) == 2
    assert seen == [3, 2]


def test_what_fits_is_computed_at_once() -> None:
    seen: list[int] = []
    assert len(Halving()(limited(10, seen), torch.zeros(10, 1), torch.zeros(10))) == 1
    assert seen == [10]


@pytest.mark.parametrize("kind", [NoMemoryError, ScoringError])
def test_a_single_sample_that_does_not_fit_is_named_with_its_size(kind: type[RaydropError]) -> None:
    sentence = (
        r"^Expected a single sample of shape \(3, 8\), 96 bytes, .*batch of 5.*tried 9 bytes.*; use"
        r" a smaller model .*--gpus-per-worker"
    )
    with pytest.raises(kind, match=sentence) as caught:
        Halving(error=kind)(limited(0, []), torch.zeros(5, 3, 8), torch.zeros(5))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError(OUT_OF_MEMORY)])
def test_any_other_error_passes_through(error: Exception) -> None:
    calls: list[int] = []

    def compute(images: Tensor, labels: Tensor) -> None:
        calls.append(len(images))
        raise error

    with pytest.raises(type(error)) as caught:
        Halving()(compute, torch.zeros(4, 1), torch.zeros(4))
    assert caught.value is error
    assert calls == [4]


def test_nothing_of_the_failed_attempt_is_alive_when_the_next_one_starts() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def compute(images: Tensor, labels: Tensor) -> int:
        assert all(tensor() is None for tensor in alive)
        large = torch.zeros(len(images), 1000)
        alive.append(weakref.ref(large))
        if len(images) > 1:
            raise RuntimeError(OUT_OF_MEMORY)
        return len(large)

    assert Halving()(compute, torch.zeros(4, 1), torch.zeros(4)) == [1, 1, 1, 1]


def test_memory_is_freed_after_the_error_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    freed: list[bool] = []
    monkeypatch.setattr(halving, "free", lambda: freed.append(alive[0]() is None))

    def work() -> None:
        large = torch.zeros(1000)
        alive.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it.")

    assert unless_full(work) == Full("CUDA out of memory. Tried to allocate 2 GiB.")
    assert freed == [True]


def test_out_of_memory_errors_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45)  # more than any address space holds
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(NoMemoryError("Expected a single sample"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError(OUT_OF_MEMORY))


def test_what_cannot_be_halved_ends_in_a_sentence() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
    assert in_a_sentence(error) == (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB; memory ran out where "
        "batches are not cut, so lower batch_size, give each worker a larger share of a GPU "
        "(--gpus-per-worker), or run fewer of them on a machine."
    )


# What a network says of a split.


class SmallMemory(nn.Module):
    """A network for which more than so many samples at a time are too much."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.model(images)
        return logits

    @property
    def refused(self) -> list[int]:
        """Sizes of the batches that did not fit."""
        return [size for size in self.seen if size > self.most]


@pytest.fixture(scope="module")
def small_cnn(digits: PreparedData) -> nn.Module:
    """A network with BatchNorm, its statistics those of some training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", 10, digits.dataset.image_shape)
    batches, positions = make_batches(digits, digits.dataset.train, CPU), torch.arange(320)
    loss = loss_rule("cross_entropy").make(LossContext(*[np.full(10, 32)] * 2))
    train(model, batches, positions, loss, Training(), Length(1, 6), 0, augment=False)
    return model


@pytest.mark.parametrize("most", [256, 130, 7, 1])
def test_evaluation_survives_a_lack_of_memory(
    digits: PreparedData, small_cnn: nn.Module, most: int
) -> None:
    test, train_split = digits.dataset.test, digits.dataset.train
    n, tight = len(test), SmallMemory(small_cnn, most)
    batches = make_batches(digits, test, CPU)
    classes, probabilities = predictions_and_probabilities(small_cnn, batches, n)
    found, shares = predictions_and_probabilities(tight, batches, n)
    np.testing.assert_array_equal(found, classes)
    np.testing.assert_allclose(shares, probabilities, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(predict(tight, batches, n), classes)
    assert (tight.refused == []) == (most >= 256)
    if most >= 256:
        assert shares.tobytes() == probabilities.tobytes()
    batches = make_batches(digits, train_split, CPU)
    logits = [reference_logits(model, batches, len(train_split)) for model in (small_cnn, tight)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-5, atol=1e-5)


def test_what_did_not_fit_once_is_not_tried_with_every_batch(
    digits: PreparedData, small_cnn: nn.Module
) -> None:
    split = digits.dataset.train
    tight = SmallMemory(small_cnn, 100)
    predict(tight, make_batches(digits, split, CPU), len(split))
    assert len(split) > 2 * 256
    assert tight.refused == [256, 128]
    assert sum(tight.seen) == len(split) + 256 + 128
    assert set(tight.seen[2:-1]) == {64}


def test_a_trace_survives_a_lack_of_memory(digits: PreparedData, small_cnn: nn.Module) -> None:
    n, traces = len(digits.dataset.train), []
    batches = make_batches(digits, digits.dataset.train, CPU)
    tight = SmallMemory(small_cnn, 50)
    for model in (small_cnn, tight):
        trace = Trace.empty(1, n)
        trace.record(0, model.train(), batches)
        assert model.training
        traces.append(trace.as_arrays())
    assert tight.refused
    for name, values in traces[0].items():
        # Half precision may round a margin to its other neighbour.
        close = {"rtol": 1e-3 if values.dtype == np.float16 else 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(traces[1][name], values, **close)


def test_evaluation_of_one_sample_that_does_not_fit_ends_in_a_sentence(
    digits: PreparedData, small_cnn: nn.Module
) -> None:
    test, tight = digits.dataset.test, SmallMemory(small_cnn, 0).train()
    with pytest.raises(NoMemoryError, match=r"single sample of shape \(1, 8, 8\).*batch of 256"):
        predict(tight, make_batches(digits, test, CPU), len(test))
    assert tight.training


def test_the_reference_survives_a_lack_of_memory(small_cnn: nn.Module) -> None:
    images = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, tight = ModelReference(small_cnn), ModelReference(SmallMemory(small_cnn, 8))
    for _ in range(2):
        found = tight(images, torch.arange(30))
        torch.testing.assert_close(found, whole(images, torch.arange(30)), rtol=1e-5, atol=1e-6)
    assert isinstance(tight._model, SmallMemory)
    assert tight._model.refused == [30, 15]  # remembered


def test_a_reference_without_room_for_a_sample_ends_training_in_a_sentence(
    digits: PreparedData, small_cnn: nn.Module
) -> None:
    loss = loss_rule("pw(0.5, 1)").make(LossContext(*[np.full(10, 32)] * 2))
    batches = make_batches(digits, digits.dataset.train, CPU)
    with pytest.raises(NoMemoryError, match="a single sample of shape"):
        train(
            build_model("linear", 10, (1, 8, 8)), batches, torch.arange(16), loss,
            Training(batch_size=16), Length(1, 1), 0, augment=False,
            reference=ModelReference(SmallMemory(small_cnn, 0)),
        )  # fmt: skip


# A whole trial.


def test_a_trial_survives_a_lack_of_memory_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Query run and trial; without BatchNorm, and with rounding alone, they are what they were."""
    study = Study(
        name="tight",
        dataset="digits+subset(12, test=20)",
        model="linear",
        param_space={"method": "el2n", "keep_fraction": 0.5},
        seeds=(0,),
        training=Training(epochs=3, batch_size=24),
    )
    data, found = prepare(load_dataset(study.dataset)), []
    plan = make_plan(study, trial_configs(study, [study.param_space]), data.dataset)
    (run,) = [each for each in plan.trials if each.trial.method == "el2n"]

    def tight_model(*arguments: Any) -> nn.Module:
        model = new_model(*arguments)
        model.register_forward_pre_hook(refuse)
        return model

    def refuse(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("whole", "tight"):
        store = Store(tmp_path / name)
        for query in plan.queries:
            run_query(study, query, data, store, "cpu")
        assert run.score is not None
        run_score(study, run.score, data.dataset.train, store, None)
        run_trial(study, run, data, store, "cpu")
        found.append(required(store, "trial", run.key))
        for module in (queries, trials):
            monkeypatch.setattr(module, "new_model", tight_model)
    whole, tight = found
    assert [each.info["batch_parts"] for each in found] == [1, 4]
    np.testing.assert_array_equal(tight.array("kept_ids"), whole.array("kept_ids"))
    np.testing.assert_array_equal(tight.array("predictions"), whole.array("predictions"))
    assert tight.info["forward_seconds"] > 0


# The time of a forward pass.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SmallMemory:
    """A network whose passes take a second and a tenth of one for each image."""
    now = 0.0

    class Slow(SmallMemory):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal now
            now += 1.0 + len(images) / 10
            return super().forward(images)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    return Slow(nn.Flatten(), 1000)


def test_the_time_of_a_pass_is_that_of_the_passes_that_it_takes(clock: SmallMemory) -> None:
    assert forward_seconds(clock, (1, 2, 2)) == pytest.approx(1 + 6.4)
    assert clock.seen == [64] * 6
    clock.most = 30
    clock.seen.clear()
    # Four passes of 16; what was tried in vain counts in none of the five.
    assert forward_seconds(clock, (1, 2, 2)) == pytest.approx(4 + 6.4)
    assert clock.refused == [64, 32]
    assert clock.seen[2:] == [16] * 4 * 7
    clock.most = 0
    with pytest.raises(NoMemoryError, match="a single sample"):
        forward_seconds(clock, (1, 2, 2))


def test_a_log_is_told_when_memory_ran_out(
    digits: PreparedData, small_cnn: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    test = digits.dataset.test
    with caplog.at_level(logging.INFO, "raydrop"):
        predict(SmallMemory(small_cnn, 100), make_batches(digits, test, CPU), len(test))
    assert caplog.messages == [
        "Memory ran out with 256 samples at a time; going on with 128.",
        "Memory ran out with 128 samples at a time; going on with 64.",
    ]
