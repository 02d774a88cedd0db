"""The whole pipeline against closed formulas: samples of two Gaussians, a linear model, DRoP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, special

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, prepare
from raydrop.data.dataset import ArrayImages
from raydrop.data.loaders.gaussians import Gaussians
from raydrop.plan import make_plan, trial_configs
from raydrop.plan.runs import TrialRun
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.theory import TwoGaussians

# Standard errors of what was learned, so that "within sampling error" means a number.


def threshold_error(mixture: TwoGaussians, prior0: float, n: int) -> float:
    """Standard error of a threshold learned by logistic regression on 1, x and x².

    The covariance of its coefficients is (n H)^-1, H = E[q (1 - q) f f'] with f = (1, x, x²) and q
    the probability of class 1; as class sizes are fixed, the variance of the intercept is smaller
    by 1 / n_0 + 1 / n_1 (Prentice and Pyke, 1979, Biometrika 66:403). A coefficient's change dθ
    moves the threshold t, where the log-odds are 0, by -f(t)' dθ / (slope of the log-odds at t).
    """
    pruned = TwoGaussians(mixture.means, mixture.sigmas, prior0)

    def information(x: float) -> NDArray[np.float64]:
        weighted = pruned.class_pdfs(x) * pruned.priors
        features = np.array([1.0, x, x * x])
        return weighted.prod() / weighted.sum() * np.outer(features, features)

    total, _ = integrate.quad_vec(information, *_support(mixture))
    covariance = np.linalg.inv(total) / n
    covariance[0, 0] -= (1 / prior0 + 1 / (1 - prior0)) / n
    at = np.array([1.0, pruned.threshold, pruned.threshold**2])
    return math.sqrt(at @ covariance @ at) / _slope(mixture, pruned.threshold)


def drop_prior_error(mixture: TwoGaussians, query_error: float, n_validation: int) -> float:
    """Standard error of the threshold after a DRoP step that is due to the recalls it reads.

    The log-odds of the new prior are log r_0 - log r_1 + constant (no class being whole), where
    r_k is the query model's risk, measured on the class's validation samples; the query model's
    own threshold is uncertain too. Log-odds of the prior move t by their change over the slope.
    """
    risks, pdfs = mixture.class_risks(), mixture.class_pdfs(mixture.threshold)
    counts = n_validation * np.array(mixture.priors)
    measured = ((1 - risks) / (risks * counts)).sum()
    learned = ((pdfs / risks).sum() * query_error) ** 2
    return math.sqrt(measured + learned) / _slope(mixture, mixture.drop_step().threshold)


def _slope(mixture: TwoGaussians, x: float) -> float:
    """Derivative of the log-odds of class 1; priors do not matter."""
    (m0, m1), (s0, s1) = mixture.means, mixture.sigmas
    return (x - m0) / s0**2 - (x - m1) / s1**2


def _support(mixture: TwoGaussians) -> tuple[float, float]:
    pairs = list(zip(mixture.means, mixture.sigmas, strict=True))
    return min(m - 9 * s for m, s in pairs), max(m + 9 * s for m, s in pairs)


def test_standard_error_of_a_threshold_is_that_of_repeated_regressions() -> None:
    """Newton's method on fresh samples, 200 times, against the formula above."""
    mixture, n, rng = TwoGaussians((-1, 1), (0.5, 1), 0.5), 2000, np.random.default_rng(0)
    found = []
    for _ in range(200):
        x = np.concatenate([rng.normal(-1, 0.5, n // 2), rng.normal(1, 1, n // 2)])
        labels, features = np.repeat([0.0, 1.0], n // 2), np.stack([np.ones(n), x, x * x], axis=1)
        theta = np.zeros(3)
        for _ in range(12):
            q = special.expit(features @ theta)
            hessian = (features * (q * (1 - q))[:, None]).T @ features
            theta += np.linalg.solve(hessian, features.T @ (labels - q))
        found.append(max(np.roots(theta[::-1]).real))
    expected = threshold_error(mixture, 0.5, n)
    assert np.std(found) == pytest.approx(expected, rel=0.2)  # its own standard error is 5 %
    assert np.mean(found) == pytest.approx(mixture.threshold, abs=4 * expected / math.sqrt(200))


# What the study leaves, and how far it is from the formulas.

MIXTURE = TwoGaussians((-1, 1), (0.5, 1), 0.5)
DRAWN = Gaussians()
STUDY = Study(
    name="t",
    dataset="gaussians",
    model="linear",
    param_space={},
    seeds=(0,),
    budget="equal_steps",
    training=Training(
        epochs=30, batch_size=1000, learning_rate=0.2, momentum=0.95, weight_decay=0.0
    ),
    checkpoints=1,
)
POINTS = [
    {"method": "random", "keep_fraction": 0.5},
    *({"method": "random", "quotas": "drop", "keep_fraction": keep} for keep in (0.5, 0.8)),
]


@dataclass(frozen=True)
class Learned:
    """What one trial learned."""

    threshold: float
    recalls: NDArray[np.float64]
    kept: NDArray[np.int64]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Learned]:
    """What every trial of the study learned, by quotas and keep fraction."""
    data = prepare(load_dataset(STUDY.dataset))
    store = Store(Path(tmp_path_factory.mktemp("gaussians")) / "store")
    plan = make_plan(STUDY, trial_configs(STUDY, POINTS), data.dataset)
    for query in plan.queries:
        run_query(STUDY, query, data, store, "cpu")
    for score in plan.scores:
        run_score(STUDY, score, data.dataset.train, store, None)
    found = {}
    for run in plan.trials:
        run_trial(STUDY, run, data, store, "cpu")
        name = f"{run.trial.quotas} {run.trial.keep_fraction:g}"
        found[name] = _learned(run, data, store)
    return found


def _learned(run: TrialRun, data: PreparedData, store: Store) -> Learned:
    entry = required(store, "trial", run.key)
    predictions, test = entry.array("predictions"), data.dataset.test
    assert isinstance(test.inputs, ArrayImages)
    x = DRAWN.decode(test.inputs.pixels)
    recalls = [float((predictions[test.labels == k] == k).mean()) for k in (0, 1)]
    # The other end of class 0, where the wider class 1 takes over again, has hardly a sample.
    right = x > DRAWN.mean0
    last, first = x[right & (predictions == 0)].max(), x[right & (predictions == 1)].min()
    assert abs(first - last) < 0.02
    return Learned((first + last) / 2, np.array(recalls), np.array(entry.info["kept_by_class"]))


def deviations(
    found: Learned, mixture: TwoGaussians, prior0: float, prior_error: float = 0.0
) -> NDArray[np.float64]:
    """Differences from theory in standard errors: of the threshold and of both recalls.

    Args:
        found: What was learned.
        mixture: Theory.
        prior0: Prior of class 0 among the kept samples, in theory.
        prior_error: Standard error of the threshold that is due to the prior.
    """
    threshold = TwoGaussians(mixture.means, mixture.sigmas, prior0).threshold
    learning = threshold_error(mixture, prior0, int(found.kept.sum()))
    error = math.hypot(learning, prior_error)
    recalls = 1 - mixture.class_risks(threshold)
    counts = np.array(DRAWN.class_sizes(DRAWN.test))
    spread = recalls * (1 - recalls) / counts
    spread += (mixture.class_pdfs(threshold) * error) ** 2
    of_recalls = (found.recalls - recalls) / np.sqrt(spread)
    return np.array([(found.threshold - threshold) / error, *of_recalls])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none 1", "none 0.5"])
def test_full_and_random_data_lead_to_the_average_risk_threshold(
    learned: dict[str, Learned], name: str
) -> None:
    assert np.abs(deviations(learned[name], MIXTURE, MIXTURE.prior0)).max() < 4


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_drop_leads_to_the_threshold_that_one_step_predicts(
    learned: dict[str, Learned], keep: float
) -> None:
    step = MIXTURE.drop_step(keep)
    query = threshold_error(MIXTURE, MIXTURE.prior0, DRAWN.n)
    # Where a class is whole, the budget alone sets the prior.
    error = drop_prior_error(MIXTURE, query, DRAWN.test) if max(step.densities) < 1 else 0.0
    found = learned[f"drop {keep:g}"]
    assert np.abs(deviations(found, MIXTURE, step.prior0, error)).max() < 4
    kept = found.kept / np.array(DRAWN.class_sizes(DRAWN.n))
    np.testing.assert_allclose(kept, step.densities, atol=0.02)


@pytest.mark.slow
def test_drop_trades_the_class_risks_as_predicted(learned: dict[str, Learned]) -> None:
    worst = {name: each.recalls.min() for name, each in learned.items()}
    assert worst["none 0.5"] < worst["drop 0.5"] - 0.005
    assert max(worst.values()) < 1 - MIXTURE.minimax_risk + 0.01
    assert np.argmin(learned["none 1"].recalls) == 1
    assert np.argmin(learned["drop 0.5"].recalls) == 0
    assert np.argmin(learned["drop 0.8"].recalls) == 1


WRONG: list[tuple[str, Any]] = [
    ("none 1", TwoGaussians((-1, 1), (0.5, 1), 0.55)),
    ("none 1", TwoGaussians((-1, 1), (0.6, 1), 0.5)),
    ("none 1", TwoGaussians((-1, 1.1), (0.5, 1), 0.5)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mixture"), WRONG)
def test_formulas_of_another_mixture_are_rejected(
    learned: dict[str, Learned], name: str, mixture: TwoGaussians
) -> None:
    assert np.abs(deviations(learned[name], mixture, mixture.prior0)).max() > 4


@pytest.mark.slow
def test_formulas_of_another_way_of_pruning_are_rejected(learned: dict[str, Learned]) -> None:
    """The negative controls: each way of pruning fits its own formula alone."""
    priors = {"none 0.5": 0.5, "drop 0.5": MIXTURE.drop_step(0.5).prior0,
              "drop 0.8": MIXTURE.drop_step(0.8).prior0}  # fmt: skip
    query = threshold_error(MIXTURE, MIXTURE.prior0, DRAWN.n)
    error = drop_prior_error(MIXTURE, query, DRAWN.test)
    for name in priors:
        for other, prior0 in priors.items():
            if other != name:
                assert np.abs(deviations(learned[name], MIXTURE, prior0, error)).max() > 4
