"""Samples drawn anew in every epoch, against twins of the papers' formulas."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import raydrop as rd
from raydrop.errors import ConfigError
from raydrop.selection import quotas_at_rates

N, K = 200, 4
RNG = np.random.default_rng(0)
LABELS = RNG.choice(K, N, p=[0.5, 0.3, 0.15, 0.05])
LOSSES = RNG.exponential(0.6, N)


class Losses:
    """What a sampler reads of a recorder."""

    def __init__(self, losses: NDArray[np.float64] = LOSSES, epochs: int = 1) -> None:
        self.n, self.num_classes, self.epochs, self.losses = len(losses), K, epochs, losses


def _sampler(
    method: str, losses: NDArray[np.float64] = LOSSES, fraction: float = 0.3, **how: Any
) -> rd.DynamicSampler:
    return rd.DynamicSampler(Losses(losses), LABELS, method=method, keep_fraction=fraction, **how)


METHODS = ["rs2", "infobatch", "rcap"]


@pytest.mark.parametrize("method", METHODS)
def test_each_epoch_is_another_draw_without_repetition(method: str) -> None:
    sampler = _sampler(method)
    draws = [list(sampler) for _ in range(6)]
    for draw in draws:
        assert len({*draw}) == len(draw) == len(sampler)
        assert {*draw} <= {*range(N)}
        assert draw != sorted(draw)
    assert len({tuple(sorted(draw)) for draw in draws}) == 6
    assert [list(each) for each in [_sampler(method)] for _ in range(6)] == draws
    assert [*_sampler(method, seed=1)] != draws[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_draws_what_it_would_have_drawn(method: str) -> None:
    sampler = _sampler(method, fraction=0.35)
    draws = [list(sampler) for _ in range(8)]
    for epoch in (0, 3, 7):
        resumed = _sampler(method, fraction=0.35)
        resumed.set_epoch(epoch)
        assert [list(resumed) for _ in range(8 - epoch)] == draws[epoch:]


@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.7, 1.0])
def test_rs2_goes_through_all_samples_before_any_comes_again(fraction: float) -> None:
    sampler, count = _sampler("rs2", fraction=fraction), Counter[int]()
    for _ in range(40):
        draw = list(sampler)
        assert len(draw) == round(fraction * N)
        assert len({*draw}) == len(draw)
        count.update(draw)
        seen = [count[k] for k in range(N)]
        assert max(seen) - min(seen) <= 1
    assert sampler.weights(range(N)).tolist() == [1] * N


def test_infobatch_keeps_what_is_above_the_mean_and_a_share_of_the_rest() -> None:
    sampler = _sampler("infobatch", fraction=0.4)
    mean = sum(LOSSES.tolist()) / N
    above = [k for k in range(N) if LOSSES[k] >= mean]
    below = [k for k in range(N) if LOSSES[k] < mean]
    for _ in range(5):
        draw = list(sampler)
        assert {*above} <= {*draw}
        chosen = [k for k in draw if k in {*below}]
        assert len(chosen) == math.floor(0.4 * len(below) + 0.5)
        weights = sampler.weights(torch.arange(N)).tolist()
        # As many again as stand for those that were left out: 1 / (1 - r), but for rounding.
        assert [weights[k] for k in above] == [1] * len(above)
        expected = len(below) / len(chosen)
        assert [weights[k] for k in chosen] == pytest.approx([expected] * len(chosen))
        assert len(below) / len(chosen) == pytest.approx(1 / 0.4, rel=0.02)


def test_infobatch_leaves_the_expected_gradient_as_it_is() -> None:
    gradients, total, draws = RNG.normal(size=N), 0.0, 4000
    sampler = _sampler("infobatch", fraction=0.4)
    sums = []
    for _ in range(draws):
        draw = list(sampler)
        sums.append(float(gradients[draw] @ sampler.weights(draw).double().numpy()))
    total = float(np.mean(sums))
    error = float(np.std(sums)) / math.sqrt(draws)
    assert abs(total - gradients.sum()) < 4 * error
    # A negative control: without the weights it is another one.
    kept = np.where(LOSSES.mean() > LOSSES, 0.4, 1.0)
    assert abs(float(gradients @ kept) - gradients.sum()) > 4 * error


def test_infobatch_keeps_what_was_never_seen_and_everything_at_the_end() -> None:
    losses = LOSSES.copy()
    losses[:20] = np.nan
    assert {*range(20)} <= {*_sampler("infobatch", losses)}
    assert sorted(_sampler("infobatch", np.full(N, np.nan))) == [*range(N)]
    sampler = _sampler("infobatch", epochs=8)
    lengths = [len(list(sampler)) for _ in range(8)]
    assert max(lengths[:7]) < N == lengths[7]
    assert sampler.weights(range(N)).tolist() == [1] * N


def _rcap_shares(losses: NDArray[np.float64], fraction: float) -> list[float]:
    """Sizes before rounding: rounds in which classes that would be more than whole become whole."""
    clipped = [min(max(loss, 0.0), math.log(K)) for loss in losses.tolist()]
    members = [[k for k in range(N) if LABELS[k] == label] for label in range(K)]
    rates = [math.sqrt(sum(clipped[k] for k in own) / len(own) * (len(own) / N)) for own in members]
    whole: set[int] = set()
    while True:
        rest = fraction * N - sum(len(members[k]) for k in whole)
        level = rest / sum(rates[k] for k in range(K) if k not in whole)
        sizes = [len(members[k]) if k in whole else level * rates[k] for k in range(K)]
        more = {k for k in range(K) if sizes[k] > len(members[k])}
        if not more:
            return sizes
        whole |= more


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6, 0.9])
def test_rcap_shares_by_the_root_of_loss_times_prior(fraction: float) -> None:
    losses = LOSSES * (1 + 3 * (LABELS == 3))
    draw = list(_sampler("rcap", losses, fraction))
    counts = np.bincount(LABELS[draw], minlength=K)
    assert counts.sum() == len(draw) == round(fraction * N)
    assert np.abs(counts - _rcap_shares(losses, fraction)).max() < 1
    # A negative control: shares in proportion to the classes are others.
    assert np.abs(counts - fraction * np.bincount(LABELS)).max() > 1


def test_rcap_begins_by_priors_alone() -> None:
    draw = list(_sampler("rcap", np.full(N, np.nan)))
    counts = np.bincount(LABELS[draw], minlength=K)
    assert np.abs(counts - _rcap_shares(np.full(N, math.log(K)), 0.3)).max() < 1


def test_rcap_draws_high_losses_more_often_as_successive_draws_do() -> None:
    """Against numpy's own draws without replacement, one after the other."""
    fraction, times = 0.1, 3000
    sampler, found = _sampler("rcap", fraction=fraction, temperature=0.5), np.zeros(N)
    own = np.flatnonzero(LABELS == 0)
    for _ in range(times):
        draw = np.array(list(sampler))
        found[draw] += 1
    count = int(found[own].sum() / times)
    weights = np.exp(LOSSES[own].clip(0, math.log(K)) / 0.5)
    rng, expected = np.random.default_rng(1), np.zeros(len(own))
    for _ in range(times):
        expected[rng.choice(len(own), count, replace=False, p=weights / weights.sum())] += 1
    error = np.sqrt(expected * (1 - expected / times) + found[own] * (1 - found[own] / times) + 1)
    assert (np.abs(found[own] - expected) < 5 * error).all()
    assert np.corrcoef(found[own], weights)[0, 1] > 0.9


def test_the_length_is_that_of_the_next_epoch_once_an_epoch_has_ended() -> None:
    recorder = Losses()
    sampler = rd.DynamicSampler(recorder, method="infobatch", keep_fraction=0.3)
    before = len(sampler)
    assert len(list(sampler)) == before == len(sampler)
    recorder.losses, recorder.epochs = LOSSES**4, 2
    after = len(sampler)
    assert after != before
    assert len(list(sampler)) == after


def test_with_a_recorder_and_a_loader() -> None:
    x, y = torch.randn(N, 5), torch.from_numpy(LABELS)
    recorder, model = rd.Recorder(N, K), torch.nn.Linear(5, K)
    sampler = rd.DynamicSampler(recorder, LABELS, method="infobatch", keep_fraction=0.5)
    data = rd.with_indices(torch.utils.data.TensorDataset(x, y))
    loader = torch.utils.data.DataLoader(data, batch_size=32, sampler=sampler)
    counts = []
    for epoch in range(3):
        seen = []
        for indices, inputs, labels in loader:
            logits = model(inputs)
            recorder.update(indices, logits, labels)
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            (losses * sampler.weights(indices)).mean().backward()
            seen += indices.tolist()
        if epoch:
            said = pytest.warns(UserWarning, match="of 200 samples were not seen in epoch 2")
            with said if epoch == 1 else contextlib.nullcontext():
                recorder.end_epoch()
        else:
            recorder.end_epoch()
        counts.append(len(seen))
    assert counts[0] == N > counts[1]
    assert np.isfinite(recorder.scores("aum").values).all()


@pytest.mark.parametrize("whole", [True, False])
def test_indices_come_with_items(whole: bool) -> None:
    items = [{"x": k} if whole else (k, -k) for k in range(5)]
    data = rd.with_indices(items)
    assert len(data) == 5  # type: ignore[arg-type]
    expected = {"x": 3, "index": 3} if whole else (3, 3, -3)
    assert data[3] == data[torch.tensor(3)] == expected
    assert data[-2] == expected
    subset = torch.utils.data.Subset(data, [3, 1])
    assert subset[0] == expected
    assert rd.with_indices(range(3, 9))[2] == (2, 5)


def test_indices_of_a_hugging_face_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    data = rd.with_indices(datasets.Dataset.from_dict({"x": list(range(9)), "label": [0] * 9}))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    for batch in loader:
        assert batch["index"].tolist() == batch["x"].tolist()


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: _sampler("rs3"), "did you mean rs2"),
        (lambda: _sampler("rs2", fraction=0), r"keep_fraction in \(0, 1\], found 0"),
        (lambda: _sampler("rcap", temperature=0), "temperature above 0, found 0"),
        (
            lambda: rd.DynamicSampler(Losses(), method="rcap", keep_fraction=0.3),
            "Expected labels for rcap",
        ),
        (
            lambda: rd.DynamicSampler(Losses(), LABELS[:3], method="rcap", keep_fraction=0.3),
            "one label for each of 200",
        ),
        (lambda: rd.with_indices(Stream()), "Expected a map-style data set, .* found Stream"),
        (lambda: rd.with_indices(iter([])), "Expected a map-style data set"),
        (lambda: quotas_at_rates([5, 5], [1, -1], 5), "a rate of at least 0 for each of 2"),
        (lambda: quotas_at_rates([5, 5], [1], 5), "a rate of at least 0 for each of 2"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
