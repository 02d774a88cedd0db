"""Scoring methods against their definitions, on hand-made traces and tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import dynamic_uncertainty_by_windows, forgetting_by_counting
from torch import nn

from raydrop.errors import ConfigError
from raydrop.scores import METHODS, QueryResult, TraceMethod, score_method
from raydrop.scores.dynamic_uncertainty import DynamicUncertainty
from raydrop.scores.forgetting import Forgetting
from raydrop.scores.grand import Grand
from raydrop.scores.moso import Moso
from raydrop.scores.random import Random
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

    def all(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return (self.x @ state - self.y)[:, None] * self.x

    def mean_gradient(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.all(state).mean(axis=0)

    def dots(
        self, state: NDArray[np.float64], direction: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return self.all(state) @ direction

    def norms(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linalg.norm(self.all(state), axis=1)


def _run(rng: np.random.Generator) -> tuple[QueryResult, Linear]:
    states = rng.normal(size=(3, 4))
    run = QueryResult(
        trace=_trace(rng),
        checkpoints=states.astype(np.float32),
        checkpoint_epochs=(2, 7, 14),
        learning_rates=tuple(0.1 / (e + 1) for e in range(14)),
        spread=(7, 14),
        score_epoch=2,
        steps=140,
    )
    return run, Linear(rng.normal(size=(20, 4)), rng.normal(size=20))


def test_moso_is_its_formula(rng: np.random.Generator) -> None:
    run, gradients = _run(rng)
    expected = []
    for i in range(gradients.n):
        terms = []
        for epoch, state in zip((7, 14), run.checkpoints[1:], strict=True):
            g = gradients.all(state)
            terms.append(140 / 20 * run.learning_rates[epoch - 1] * (g.mean(axis=0) @ g[i]))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(Moso().from_gradients(run, gradients), expected, rtol=1e-6)  # type: ignore[arg-type]


def test_grand_looks_at_the_early_epoch(rng: np.random.Generator) -> None:
    run, gradients = _run(rng)
    expected = gradients.norms(run.checkpoints[0])
    np.testing.assert_allclose(Grand().from_gradients(run, gradients), expected)  # type: ignore[arg-type]


def test_every_method_says_what_it_is() -> None:
    assert set(METHODS) >= {
        "random", "el2n", "forgetting", "dynamic_uncertainty", "entropy", "aum", "grand", "moso",
    }  # fmt: skip
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.citation or not method.needs_query
        assert not (isinstance(method, TraceMethod) and method.needs_gradients)


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
    assert METHODS["aum"].higher_is_kept
    assert np.mean(np.argsort(scores)[:20] < 20) > 0.8


def test_margins_compare_with_the_other_classes_only_and_stay_finite() -> None:
    logits = torch.tensor([[-2.0, 3.0, -1.0], [1e6, 0.0, 0.0], [0.0, 1e6, 0.0]])
    margins = observe(logits, torch.tensor([1, 0, 0]))["margin"]
    assert margins.tolist() == [4.0, 65504.0, -65504.0]
    assert np.isfinite(margins.numpy().astype(np.float16)).all()
