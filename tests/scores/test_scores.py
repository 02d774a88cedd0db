"""Scoring methods against their definitions, on hand-made traces and tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import (
    dynamic_uncertainty_by_windows,
    forgetting_by_counting,
    moso_by_averaging,
)
from torch import nn

from raydrop.errors import ConfigError, ScoringError
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import (
    EmbeddingMethod,
    GradientMethod,
    SamplingMethod,
    TraceMethod,
    combined,
)
from raydrop.scores.methods.class_alignment import ClassAlignment, worst_class
from raydrop.scores.methods.dynamic_uncertainty import DynamicUncertainty
from raydrop.scores.methods.forgetting import Forgetting
from raydrop.scores.methods.grand import Grand, GrandLastLayer
from raydrop.scores.methods.moso import Moso, MosoLoo, leave_one_out
from raydrop.scores.methods.random import Random
from raydrop.scores.methods.tracin_self import TracinSelf
from raydrop.scores.sharding import Partial
from raydrop.scores.source import GradientSource, QueryResult, Unit
from raydrop.training.trace import Trace, observe


def _trace(rng: np.random.Generator, epochs: int = 14, n: int = 30) -> Trace:
    return Trace(
        probability=rng.random((epochs, n)).astype(np.float32),
        correct=rng.random((epochs, n)) < 0.5,
        margin=rng.normal(size=(epochs, n)).astype(np.float16),
        error_norm=rng.random((epochs, n)).astype(np.float32),
        entropy=rng.random((epochs, n)).astype(np.float32),
    )


def test_forgetting_equals_counting(rng: np.random.Generator) -> None:
    trace = _trace(rng)
    trace.correct[:, 3] = False
    scores = Forgetting().from_trace(trace, 1)
    assert scores.tolist() == forgetting_by_counting(trace.correct)
    assert scores[3] == np.inf


@pytest.mark.parametrize(("epochs", "window"), [(14, 10), (10, 10), (4, 4), (1, 1)])
def test_dynamic_uncertainty_equals_its_windows(
    rng: np.random.Generator, epochs: int, window: int
) -> None:
    trace = _trace(rng, epochs)
    expected = dynamic_uncertainty_by_windows(trace.probability, window)
    np.testing.assert_allclose(DynamicUncertainty().from_trace(trace, 1), expected, atol=1e-12)


def test_dynamic_uncertainty_sees_the_last_epoch(rng: np.random.Generator) -> None:
    trace = _trace(rng)
    before = DynamicUncertainty().from_trace(trace, 1)
    trace.probability[-1, 0] = 1 - trace.probability[-1, 0]
    after = DynamicUncertainty().from_trace(trace, 1)
    assert before[0] != after[0]
    assert (before[1:] == after[1:]).all()


def test_trace_methods_read_the_epoch_that_they_name(rng: np.random.Generator) -> None:
    trace = _trace(rng)
    assert (score_method("el2n").from_trace(trace, 3) == trace.error_norm[2]).all()  # type: ignore[attr-defined]
    assert (score_method("entropy").from_trace(trace, 3) == trace.entropy[-1]).all()  # type: ignore[attr-defined]
    margins = trace.margin.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(score_method("aum").from_trace(trace, 3), margins)  # type: ignore[attr-defined]


def test_half_precision_margins_keep_the_order_of_aum(rng: np.random.Generator) -> None:
    exact = rng.normal(scale=8, size=(30, 2000)) + rng.normal(scale=4, size=2000)
    order = np.argsort(np.argsort(exact.mean(axis=0)))
    halved = np.argsort(np.argsort(exact.astype(np.float16).mean(axis=0, dtype=np.float64)))
    assert np.abs(order - halved).max() <= 5  # of 2,000 ranks


def test_observations_of_one_sample_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    p = [np.exp(z) / (np.exp(2) + 1 + np.exp(-1)) for z in (2.0, 0.0, -1.0)]
    seen = {k: v.item() for k, v in observe(logits, torch.tensor([1])).items()}
    assert seen["probability"] == pytest.approx(p[1])
    assert seen["correct"] is False
    assert seen["margin"] == pytest.approx(-2.0)
    assert seen["error_norm"] == pytest.approx(np.sqrt(p[0] ** 2 + (p[1] - 1) ** 2 + p[2] ** 2))
    assert seen["entropy"] == pytest.approx(-sum(q * np.log(q) for q in p))


def test_random_scores_follow_the_generator_alone() -> None:
    first = Random().draw(50, np.random.default_rng(3))
    assert (first == Random().draw(50, np.random.default_rng(3))).all()
    assert (first != Random().draw(50, np.random.default_rng(4))).any()


class Linear:
    """Exact gradients of a quadratic loss, in place of a network: state w, sample x, y."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.x, self.y, self.n = x, y, len(x)
        self.tasks: list[str] = []

    def all(self, state: NDArray[np.floating]) -> NDArray[np.float64]:
        return (self.x @ state - self.y)[:, None] * self.x

    def mean_gradient(
        self, state: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        self.tasks.append("gradient_sum")
        return self.all(state)[positions].mean(axis=0)

    def per_sample(
        self,
        task: str,
        state: NDArray[np.float32],
        positions: NDArray[np.int64],
        direction: Any,
        partial: Partial,
    ) -> NDArray[np.float32]:
        self.tasks.append(task)
        own = self.all(state)[positions]
        if task == "dot":
            partial.values[0] = own @ direction
        else:
            width = 1 if task == "last_layer_norm" else None
            partial.values[0] = np.linalg.norm(own[:, :width], axis=1)
        partial.written[:] = True
        return partial.values


class Memory:
    """Units in a dict."""

    def __init__(self) -> None:
        self.units: dict[Unit, NDArray[np.float32]] = {}

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        return self.units.get(unit)

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        self.units[unit] = values

    def read_partial(self, unit: Unit) -> Partial | None:
        return None

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        raise AssertionError("nothing fails here")


EPOCHS, STATES, STEPS = (2, 7, 14), 3, 140


def _source(
    rng: np.random.Generator, positions: NDArray[np.int64] | None = None
) -> tuple[GradientSource, Linear]:
    engine = Linear(rng.normal(size=(20, 4)), rng.normal(size=20))
    run = QueryResult(
        positions=np.arange(20) if positions is None else positions,
        trace=_trace(rng),
        checkpoints=rng.normal(size=(STATES, 4)).astype(np.float32),
        checkpoint_epochs=EPOCHS,
        learning_rates=tuple(0.1 / (e + 1) for e in range(14)),
        sampled=(7, 14),
        score_epoch=2,
        steps=STEPS,
        validation_recalls=np.array([0.9, 0.4, 0.4, 0.1]),
    )
    labels = np.arange(20) % 3  # class 3 has no training samples
    return GradientSource(run, labels, engine, Memory()), engine  # type: ignore[arg-type]


def _gradients(source: GradientSource, engine: Linear) -> NDArray[np.float64]:
    """Each sampled checkpoint's gradients of the samples that the source covers, (T, M, P)."""
    return np.stack([engine.all(state)[source.positions] for state in source.run.checkpoints[1:]])


def _rates(source: GradientSource) -> list[float]:
    return [source.run.learning_rates[epoch - 1] for epoch in source.run.sampled]


SOME = np.array([1, 4, 5, 11, 19])


@pytest.mark.parametrize("positions", [None, SOME])
@pytest.mark.parametrize(("method", "left_out"), [(Moso(), False), (MosoLoo(), True)])
def test_moso_is_its_formula(
    rng: np.random.Generator,
    method: GradientMethod,
    left_out: bool,
    positions: NDArray[np.int64] | None,
) -> None:
    source, engine = _source(rng, positions)
    found = method.from_gradients(source)
    terms = (_gradients(source, engine), _rates(source), STEPS)
    expected = moso_by_averaging(*terms, left_out=left_out)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    other = moso_by_averaging(*terms, left_out=not left_out)
    assert np.abs(found - other).max() > 1e-2  # a negative control


def test_moso_loo_needs_others_to_leave_one_out_of(rng: np.random.Generator) -> None:
    source, _ = _source(rng, np.array([3]))
    with pytest.raises(ScoringError, match=r"at least 2 samples in each part.* found 1; lower pa"):
        MosoLoo().from_gradients(source)


def test_leave_one_out_products_are_those_with_the_mean_of_the_others(
    rng: np.random.Generator,
) -> None:
    g = rng.normal(size=(6, 5))
    mean = g.mean(axis=0)
    found = leave_one_out(g @ mean, np.linalg.norm(g, axis=1), 6)
    others = [g[np.arange(6) != i].mean(axis=0) @ g[i] for i in range(6)]
    np.testing.assert_allclose(found, others, rtol=1e-12)
    # mean_i d_i = ||G||^2, and of the products without oneself (N ||G||^2 - mean n_i) / (N - 1).
    assert (g @ mean).mean() == pytest.approx(mean @ mean)
    squares = (g**2).sum(axis=1).mean()
    assert found.mean() == pytest.approx((6 * mean @ mean - squares) / 5)


@pytest.mark.parametrize(("method", "width"), [(Grand(), 4), (GrandLastLayer(), 1)])
def test_grand_looks_at_the_early_epoch(
    rng: np.random.Generator, method: GradientMethod, width: int
) -> None:
    source, engine = _source(rng)
    own = engine.all(source.run.checkpoints[0])[:, :width]
    expected = np.linalg.norm(own, axis=1)
    np.testing.assert_allclose(method.from_gradients(source), expected, rtol=1e-6)


def test_tracin_self_is_its_formula_and_prunes_what_is_large(rng: np.random.Generator) -> None:
    source, engine = _source(rng)
    expected = [
        sum(
            rate * sum(value * value for value in gradients[i])
            for rate, gradients in zip(_rates(source), _gradients(source, engine), strict=True)
        )
        for i in range(20)
    ]
    np.testing.assert_allclose(TracinSelf().from_gradients(source), expected, rtol=1e-5)
    assert not TracinSelf().higher_is_kept


def test_class_alignment_is_what_a_step_does_to_the_worst_class(rng: np.random.Generator) -> None:
    source, engine = _source(rng)
    found = ClassAlignment().from_gradients(source)
    worst = source.labels == 1  # the first of two lowest recalls, among classes with samples
    expected = np.zeros(20)
    step = 1e-6
    for rate, state in zip(_rates(source), source.run.checkpoints[1:], strict=True):
        state = state.astype(np.float64)

        def loss(w: NDArray[np.float64]) -> float:
            return float(((engine.x @ w - engine.y)[worst] ** 2).mean() / 2)

        for i, own in enumerate(engine.all(state)):
            fall = loss(state + step * own) - loss(state - step * own)
            expected[i] += rate * fall / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    assert ClassAlignment().higher_is_kept


def test_the_class_that_is_worst_off() -> None:
    labels = np.array([0, 1, 1, 2])
    assert worst_class(np.array([0.5, 0.2, 0.2]), labels) == 1
    assert worst_class(np.array([0.5, 0.9, 0.2, 0.0]), labels) == 2
    source, _ = _source(np.random.default_rng(0))
    with pytest.raises(ScoringError, match="training samples of class 3 for its mean gradient"):
        source.values("dot_with_class_mean", 7, 3)


def test_a_source_computes_each_quantity_once_whoever_asks_first(
    rng: np.random.Generator,
) -> None:
    source, engine = _source(rng)
    Moso().from_gradients(source)
    assert engine.tasks == ["gradient_sum", "dot"] * 2
    MosoLoo().from_gradients(source)
    TracinSelf().from_gradients(source)
    assert engine.tasks[4:] == ["norm"] * 2
    for klass in (0, 1, 0):
        source.values("dot_with_class_mean", 7, klass)
    assert engine.tasks[6:] == ["gradient_sum", "dot"] * 2


def test_scores_of_several_runs_are_averaged_or_put_together() -> None:
    everything = np.arange(4)
    runs = [(everything, np.array([1.0, 2, 3, np.inf]))] * 2 + [
        (everything, np.array([4.0, 2, 0, 1]))
    ]
    assert combined(runs, 4).tolist() == [2, 2, 2, np.inf]
    parts = [
        (np.array([0, 3]), np.array([-1.0, -2])),
        (np.array([1, 2]), np.array([5.0, 6])),
    ]
    assert combined(parts, 4).tolist() == [-1, 5, 6, -2]
    with pytest.raises(ScoringError, match="a score for each of 5 samples, found none for 1"):
        combined(parts, 5)


def test_every_method_says_what_it_is() -> None:
    assert set(METHODS) >= {
        "random", "el2n", "forgetting", "dynamic_uncertainty", "entropy", "aum", "grand",
        "grand_last_layer", "moso", "moso_loo", "tracin_self", "class_alignment",
        "k_center", "moderate", "ssp", "ccs",
    }  # fmt: skip
    for name in METHODS:
        method = score_method(name)
        assert method.name == name
        assert method.summary
        assert method.citation or method.reads == "nothing"
        kinds = TraceMethod | SamplingMethod | GradientMethod | EmbeddingMethod
        assert isinstance(method, kinds) or method.reads == "nothing"


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown method 'el2': did you mean el2n"):
        score_method("el2")


def test_mislabelled_samples_have_low_margins() -> None:
    """AUM prunes wrong labels first, which is what its direction is for."""
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    truth = (x[:, 0] > 0).long()
    labels = truth.clone()
    labels[:20] = 1 - truth[:20]
    model = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trace = Trace.empty(20, 200)
    for epoch in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        for name, values in observe(model(x).detach(), labels).items():
            getattr(trace, name)[epoch] = values.numpy()
    scores = score_method("aum").from_trace(trace, 1)  # type: ignore[attr-defined]
    assert score_method("aum").higher_is_kept
    assert np.mean(np.argsort(scores)[:20] < 20) > 0.8


def test_margins_compare_with_the_other_classes_only_and_stay_finite() -> None:
    logits = torch.tensor([[-2.0, 3.0, -1.0], [1e6, 0.0, 0.0], [0.0, 1e6, 0.0]])
    margins = observe(logits, torch.tensor([1, 0, 0]))["margin"]
    assert margins.tolist() == [4.0, 65504.0, -65504.0]
    assert np.isfinite(margins.numpy().astype(np.float16)).all()
