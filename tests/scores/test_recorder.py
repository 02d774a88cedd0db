"""Training dynamics from people's own loops, against slow twins in float64."""

from __future__ import annotations

import itertools
import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import raydrop as rd
from raydrop.errors import ConfigError, ScoringError, StoreError, TrainingDivergedError
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import SamplingMethod, TraceMethod, from_seen
from raydrop.training.trace import Trace, observe

N, K, E = 40, 4, 14
LABELS = torch.from_numpy(np.random.default_rng(0).integers(0, K, N))
METHODS_OF_TRACES = ["el2n", "forgetting", "aum", "dynamic_uncertainty", "entropy", "ccs"]


def _logits(epochs: int = E, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(epochs, N, K, generator=torch.Generator().manual_seed(1))


def _recorded(
    logits: Tensor, seen: Sequence[Sequence[int]] | None = None, batch: int = 7, seed: int = 0
) -> rd.Recorder:
    """A recorder that saw some samples of each epoch, in batches, in any order."""
    recorder, rng = rd.Recorder(N, K), np.random.default_rng(seed)
    for epoch, values in enumerate(logits):
        order = rng.permutation(np.arange(N) if seen is None else np.array(seen[epoch]))
        for indices in np.array_split(order, max(1, len(order) // batch)):
            given = values[indices].clone().requires_grad_()
            recorder.update(torch.from_numpy(indices), given, LABELS[indices])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            recorder.end_epoch()
    return recorder


def _missing(seed: int = 2) -> list[list[int]]:
    """Who is seen in each epoch: everybody sometimes, few always."""
    rng = np.random.default_rng(seed)
    seen = rng.random((E, N)) < rng.random(N).clip(0.2)
    seen[rng.integers(E, size=N), np.arange(N)] = True
    return [np.flatnonzero(row).tolist() for row in seen]


# Twins: one sample after another, in Python's floats, from its own list of epochs.


def _softmax(z: Sequence[float]) -> list[float]:
    top = max(z)
    powers = [math.exp(value - top) for value in z]
    return [power / sum(powers) for power in powers]


def _right(z: Sequence[float], y: int) -> bool:
    return max(range(K), key=lambda k: z[k]) == y


def _el2n(course: list[list[float]], y: int, epochs: list[int], at: int) -> float:
    upto = [place for place, epoch in enumerate(epochs) if epoch < at]
    p = _softmax(course[upto[-1] if upto else 0])
    return math.sqrt(sum((p[k] - (k == y)) ** 2 for k in range(K)))


def _forgetting(course: list[list[float]], y: int, epochs: list[int], at: int) -> float:
    right = [_right(z, y) for z in course]
    if not any(right):
        return math.inf
    return sum(a and not b for a, b in itertools.pairwise(right))


def _aum(course: list[list[float]], y: int, epochs: list[int], at: int) -> float:
    margins = [z[y] - max(z[k] for k in range(K) if k != y) for z in course]
    return sum(margins) / len(margins)


def _dynamic_uncertainty(course: list[list[float]], y: int, epochs: list[int], at: int) -> float:
    p = [_softmax(z)[y] for z in course]
    width = min(10, len(p))
    deviations = []
    for start in range(len(p) - width + 1):
        window = p[start : start + width]
        mean = sum(window) / width
        deviations.append(math.sqrt(sum((each - mean) ** 2 for each in window) / width))
    return sum(deviations) / len(deviations)


def _entropy(course: list[list[float]], y: int, epochs: list[int], at: int) -> float:
    return -sum(p * math.log(p) for p in _softmax(course[-1]))


TWINS = {
    "el2n": _el2n,
    "forgetting": _forgetting,
    "aum": _aum,
    "dynamic_uncertainty": _dynamic_uncertainty,
    "entropy": _entropy,
}


def _twin(method: str, logits: Tensor, seen: list[list[int]], at: int) -> list[float]:
    found = []
    for sample in range(N):
        epochs = [epoch for epoch in range(E) if sample in seen[epoch]]
        course = [logits[epoch, sample].double().tolist() for epoch in epochs]
        found.append(TWINS[method](course, int(LABELS[sample]), epochs, at))
    return found


@pytest.mark.parametrize("seen", [[list(range(N))] * E, _missing()], ids=["whole", "missing"])
@pytest.mark.parametrize("method", TWINS)
def test_scores_are_those_of_their_definitions(method: str, seen: list[list[int]]) -> None:
    logits = _logits()
    recorder = _recorded(logits, seen)
    scores = recorder.scores(method, score_epoch=4)
    expected = _twin(method, logits, seen, 4)
    # Margins are kept in half precision, 2^-11 of each.
    bound = 4e-3 if method == "aum" else 1e-5
    np.testing.assert_allclose(scores.values, expected, rtol=bound, atol=bound)
    assert (scores.method, scores.higher_is_kept) == (method, score_method(method).higher_is_kept)
    assert scores.labels is not None
    assert scores.labels.tolist() == LABELS.tolist()
    # A negative control: other epochs missing are other scores.
    if method != "entropy":
        other = _recorded(logits, _missing(seed=5)).scores(method, score_epoch=4)
        assert not np.allclose(other.values, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("method", METHODS_OF_TRACES)
def test_order_and_batches_do_not_matter(method: str) -> None:
    logits, seen = _logits(), _missing()
    found = [
        _recorded(logits, seen, batch=batch, seed=seed).scores(method).values.tolist()
        for batch, seed in ((7, 0), (3, 1), (40, 2), (1, 3))
    ]
    assert found[1:] == found[:1] * 3


@pytest.mark.parametrize("method", METHODS_OF_TRACES)
def test_scores_are_those_that_a_study_makes_of_the_same_trace(method: str) -> None:
    logits = _logits()
    trace = Trace.empty(E, N)
    for epoch in range(E):
        for name, values in observe(logits[epoch], LABELS).items():
            getattr(trace, name)[epoch] = values.numpy()
    recorder = _recorded(logits)
    for name, values in recorder.trace.as_arrays().items():
        assert values.dtype == trace.as_arrays()[name].dtype
        np.testing.assert_array_equal(values, trace.as_arrays()[name])
    made = score_method(method)
    if isinstance(made, SamplingMethod):
        from raydrop.study import derive_seed

        expected = made.draw_from_trace(trace, derive_seed(3, f"scores/{method}"))
    else:
        assert isinstance(made, TraceMethod)
        expected = made.from_trace(trace, 1)
    assert recorder.scores(method, seed=3).values.tolist() == expected.tolist()


def test_the_methods_it_takes_are_all_that_read_traces() -> None:
    with pytest.raises(ConfigError, match="found grand, which reads something else") as error:
        _recorded(_logits(1)).scores("grand")
    said = str(error.value).split("(")[1].split(")")[0].split(", ")
    readers = TraceMethod, SamplingMethod
    assert said == [name for name in METHODS if isinstance(score_method(name), readers)]
    assert {*METHODS_OF_TRACES} <= {*said}


def test_what_was_not_seen_is_nan_and_said_once() -> None:
    recorder, logits = rd.Recorder(N, K), _logits()
    half = torch.arange(N // 2)
    recorder.update(half, logits[0][half], LABELS[half])
    with pytest.warns(UserWarning, match="20 of 40 samples were not seen in epoch 1"):
        recorder.end_epoch()
    recorder.update(half + N // 2, logits[1][half], LABELS[half + N // 2])
    recorder.end_epoch()  # a warning would be an error
    trace = recorder.trace
    unseen = np.stack([np.arange(N) >= N // 2, np.arange(N) < N // 2])
    for name, values in trace.as_arrays().items():
        missing = ~values if name == "correct" else np.isnan(values)
        assert missing[unseen].all()
    assert np.isfinite(trace.margin[~unseen]).all()


def test_a_sample_that_was_never_seen_is_named() -> None:
    recorder = _recorded(_logits(2), [[k for k in range(N) if k not in (3, 17)]] * 2)
    with pytest.raises(ScoringError, match=r"found 2 of 40 never, .* indices \[3, 17\]"):
        recorder.scores("aum")


@pytest.mark.parametrize("overlap", [False, True])
def test_two_processes_merge_what_they_saw(overlap: bool, tmp_path: Path) -> None:
    logits, rng = _logits(), np.random.default_rng(7)
    shares = [rng.permutation(N) for _ in range(E)]
    # A DistributedSampler pads with samples that another process has too.
    first = [share[: N // 2 + 3 * overlap].tolist() for share in shares]
    second = [share[N // 2 :].tolist() for share in shares]
    one, two = _recorded(logits, first), _recorded(logits, second)
    two.save(tmp_path / "rank1.npz")
    one.merge(rd.Recorder.load(tmp_path / "rank1.npz"))
    whole = _recorded(logits)
    for name, values in one.trace.as_arrays().items():
        np.testing.assert_array_equal(values, whole.trace.as_arrays()[name])
    np.testing.assert_array_equal(one.labels, whole.labels)


def test_recorders_of_other_data_do_not_merge() -> None:
    one = _recorded(_logits(2))
    with pytest.raises(ConfigError, match="after the same number of epochs"):
        one.merge(_recorded(_logits(3)))
    with pytest.raises(ConfigError, match="Expected recorders of the same samples"):
        one.merge(rd.Recorder(N + 1, K))


@pytest.mark.parametrize("way", ["file", "state", "checkpoint", "pickle"])
def test_recording_resumes_in_the_middle_of_an_epoch(tmp_path: Path, way: str) -> None:
    logits, first = _logits(), torch.arange(25)
    recorder, path = _recorded(logits[:5]), tmp_path / "recorder"
    recorder.update(first, logits[5][first], LABELS[first])
    if way == "file":
        recorder.save(path)
        resumed = rd.Recorder.load(path)
    elif way == "pickle":  # Ray and torch.distributed send objects so
        resumed = pickle.loads(pickle.dumps(recorder))
    else:
        resumed, state = rd.Recorder(N, K), recorder.state_dict()
        if way == "checkpoint":
            torch.save(state, path)
            state = torch.load(path, weights_only=True)
        resumed.load_state_dict(state)
    rest = torch.arange(25, N)
    for each in (recorder, resumed):
        each.update(rest, logits[5][rest], LABELS[rest])
        each.end_epoch()
    whole = _recorded(logits[:6]).trace.as_arrays()
    for name in whole:
        np.testing.assert_array_equal(recorder.trace.as_arrays()[name], whole[name])
        np.testing.assert_array_equal(resumed.trace.as_arrays()[name], whole[name])
    assert resumed.labels.tolist() == LABELS.tolist()


def test_nothing_is_unpickled_from_a_file(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    np.savez(tmp_path / "trap.npz", labels=np.array([Trap()], dtype=object))
    (tmp_path / "no").write_text("no")
    for name in ("trap.npz", "no", "absent"):
        with pytest.raises(StoreError, match="Expected a record of training at"):
            rd.Recorder.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_losses_are_those_when_last_seen() -> None:
    logits, seen = _logits(), _missing()
    seen = [[k for k in row if k != 9] for row in seen]
    losses = _recorded(logits, seen).losses
    last = [max((e for e in range(E) if k in seen[e]), default=-1) for k in range(N)]
    assert np.isnan(losses[9])
    for sample in range(N):
        if sample != 9:
            p = _softmax(logits[last[sample], sample].double().tolist())[int(LABELS[sample])]
            assert losses[sample] == pytest.approx(-math.log(p), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_may_be_of_any_kind_or_a_models_output(kind: torch.dtype) -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    values = _logits(1)[0].to(kind)
    recorder = rd.Recorder(N, K)
    recorder.update(range(N), Output(values), LABELS.tolist())
    values.zero_()  # it has a copy
    recorder.end_epoch()
    expected = observe(_logits(1)[0].to(kind).float(), LABELS)
    np.testing.assert_array_equal(recorder.trace.error_norm[0], expected["error_norm"].numpy())


def test_many_batches_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydrop.scores.recorder._PENDING", 60)
    logits = _logits()
    found = _recorded(logits).trace.as_arrays()
    monkeypatch.undo()
    for name, values in _recorded(logits).trace.as_arrays().items():
        np.testing.assert_array_equal(found[name], values)


def test_from_seen_leaves_whole_traces_alone() -> None:
    trace = _recorded(_logits()).trace
    scores = from_seen(score_method("aum"), trace, 1)  # type: ignore[arg-type]
    assert scores.tolist() == trace.margin.mean(axis=0, dtype=np.float64).tolist()


Change = Callable[[rd.Recorder, Tensor], object]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r, z: r.update([0, N], z[:2], [0, 0]), f"an index from 0 to 39, found {N}"),
        (lambda r, z: r.update([0, -1], z[:2], [0, 0]), "an index from 0 to 39, found -1"),
        (lambda r, z: r.update([5, 5], z[:2], [0, 0]), "once in an epoch, found index 5 again"),
        (lambda r, z: r.update([0, 1], z[:2], [0, K]), "a label from 0 to 3, found 4"),
        (lambda r, z: r.update([0, 1], z[:2], [-1, -1]), "a label from 0 to 3, found -1"),
        (lambda r, z: r.update([0, 1], z[:2], [0.5, 0]), "labels as one whole number"),
        (lambda r, z: r.update([True, False], z[:2], [0, 0]), "indices as one whole number"),
        (lambda r, z: r.update([0], z[:2], [0, 0]), "indices as one whole number for each of 2"),
        (lambda r, z: r.update([0, 1], z[:2], [[0], [0]]), r"labels .* of shape \(2, 1\)"),
        (lambda r, z: r.update([0, 1], z[:2, :3], [0, 0]), r"logits of shape \(B, 4\)"),
        (lambda r, z: r.update([0, 1], z[0], [0, 0]), r"found \(4,\)"),
        (lambda r, z: r.end_epoch(), "Expected an epoch in which samples were seen, found none"),
        (lambda r, z: r.scores("aum"), "Expected epochs that are at their end, found none"),
        (lambda r, z: r.scores("auum"), "did you mean aum"),
        (lambda r, z: rd.Recorder(0, 2), "at least one sample and two classes"),
        (lambda r, z: r.load_state_dict(rd.Recorder(3, 2).state_dict()), "of 3 and 2"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(change: Change, sentence: str) -> None:
    recorder, logits = rd.Recorder(N, K), _logits(1)[0]
    with pytest.raises(ConfigError, match=sentence) as error:
        change(recorder, logits)
    assert "\n" not in str(error.value)
    recorder.update(range(N), logits, LABELS)
    recorder.end_epoch()
    assert recorder.epochs == 1


def test_other_mistakes_over_epochs() -> None:
    recorder, logits = _recorded(_logits(2)), _logits(1)[0]
    recorder.update(range(N), logits, (LABELS + 1) % K)
    with pytest.raises(ConfigError, match=r"Expected label \d of sample 0, as in an earlier"):
        recorder.end_epoch()
    recorder.update(range(N), logits, LABELS)
    with pytest.raises(ConfigError, match=r"found 40 samples of one that is not; call end_epoch"):
        recorder.scores("aum")
    with pytest.raises(ConfigError, match="once in an epoch, found more; call end_epoch"):
        recorder.update(range(N), logits, LABELS)
    recorder.end_epoch()
    with pytest.raises(ConfigError, match="score_epoch from 1 to 3, found 4"):
        recorder.scores("el2n", score_epoch=4)
    logits[5] = torch.nan
    recorder.update(range(N), logits, LABELS)
    with pytest.raises(TrainingDivergedError, match="of 1 samples, first at index 5"):
        recorder.end_epoch()
    assert recorder.epochs == 3
    assert np.isfinite(recorder.scores("aum").values).all()


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    logits, order = _logits(3), np.random.default_rng(7)
    recorder = _recorded(logits, [order.permutation(N)[rank::2].tolist() for _ in range(3)])
    recorder.gather()
    recorder.save(Path(folder) / f"{rank}.npz")
    torch.distributed.destroy_process_group()


def test_processes_of_torch_gather_what_all_saw(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    whole = _recorded(_logits(3)).trace.as_arrays()
    for rank in range(2):
        found = rd.Recorder.load(tmp_path / f"{rank}.npz").trace.as_arrays()
        for name, values in whole.items():
            np.testing.assert_array_equal(found[name], values)
    _recorded(_logits(1)).gather()  # alone, it has nothing to do


@pytest.mark.parametrize("pending", [2**22, 60])
@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (([0, 20], [0, 0]), "found index 0 again"),
        (([N, 20], [0, 0]), "an index from 0 to 39, found 40"),
        (([20, 21], [-1, 0]), "a label from 0 to 3, found -1"),
        (([20, -1], [0, 0]), "an index from 0 to 39, found -1"),
        (([20, 21], (LABELS[[20, 21]] + 1) % K), "Expected label . of sample 20"),
    ],
)
def test_later_batches_are_checked_at_the_end_of_the_epoch(
    second: Any, sentence: str, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was recorded before stays, also where much was looked at meanwhile."""
    monkeypatch.setattr("raydrop.scores.recorder._PENDING", pending)
    recorder, logits = _recorded(_logits(2)), _logits(1)[0]
    before = recorder.trace.as_arrays()
    first = torch.arange(20)
    recorder.update(first, logits[first], LABELS[first])
    indices, labels = second
    recorder.update(indices, logits[[20, 21]], labels)
    with pytest.raises(ConfigError, match=sentence):
        recorder.end_epoch()
    for name, values in recorder.trace.as_arrays().items():
        np.testing.assert_array_equal(values, before[name])
    recorder.update(range(N), logits, LABELS)
    recorder.end_epoch()
    assert recorder.epochs == 3


def test_labels_of_minus_one_are_refused_in_the_first_epoch_too() -> None:
    recorder, logits = rd.Recorder(N, K), _logits(1)[0]
    recorder.update([0], logits[:1], LABELS[:1])
    recorder.update(range(1, N), logits[1:], [-1] * (N - 1))
    with pytest.raises(ConfigError, match="a label from 0 to 3, found -1"):
        recorder.end_epoch()
