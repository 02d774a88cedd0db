"""How long a study is likely to take: works handed to workers, at a pace that is found out."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from raydrop.cluster import forecast
from raydrop.cluster.forecast import (
    Finished,
    Noise,
    Probe,
    duration,
    finished_runs,
    makespan,
    median_pace,
    probe_of,
    runs_like,
    stage_seconds,
    timed,
)
from raydrop.data import from_arrays, load_dataset
from raydrop.data.batches import make_batches
from raydrop.data.dataset import FileImages, LabelledDataset, Split
from raydrop.errors import RaydropError
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.workload import Work, sample_passes, trial_work, workload
from raydrop.stages.queries import new_model
from raydrop.store import Store
from raydrop.study import NetworkPruning, Study, Training

CPU = torch.device("cpu")
TRAINING = Training(epochs=2, batch_size=16)


def _twin(seconds: list[float], workers: int) -> float:
    """When all works end, step by step: at each end of a work, free workers take the next ones."""
    waiting, running, now = list(seconds), list[float](), 0.0
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(now + waiting.pop(0))
        now = min(running)
        running.remove(now)
    return now


def _best(seconds: list[float], workers: int) -> float:
    """The earliest end over all ways of dividing works among workers."""
    return min(
        max(sum(s for s, w in zip(seconds, chosen, strict=True) if w == k) for k in range(workers))
        for chosen in itertools.product(range(workers), repeat=len(seconds))
    )


@pytest.mark.parametrize("seed", range(20))
def test_works_are_handed_out_in_order(seed: int) -> None:
    draw = random.Random(seed)
    workers = draw.randint(1, 5)
    seconds = [draw.choice([0.0, 1.0, draw.uniform(0, 9)]) for _ in range(draw.randint(1, 40))]
    found = makespan(seconds, workers)
    assert found == pytest.approx(_twin(seconds, workers))
    assert found >= max(max(seconds), sum(seconds) / workers) - 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_the_order_costs_less_than_twice_the_best(seed: int) -> None:
    draw = random.Random(seed)
    seconds = [draw.uniform(0, 9) for _ in range(6)]
    for workers in (1, 2, 3):
        best, found = _best(seconds, workers), makespan(seconds, workers)
        assert best - 1e-9 <= found <= (2 - 1 / workers) * best + 1e-9


def test_a_long_work_at_the_end_is_waited_for() -> None:
    """Total over workers would say 11; it is what a sum over workers leaves out."""
    assert makespan([2, 2, 2, 2, 2, 12], 2) == 16


def test_stages_follow_each_other() -> None:
    found = stage_seconds(
        [
            Work("query runs", "a", 8, forward=6),
            Work("query runs", "b", 1),
            Work("scores", "a", 12, parts=3),
            Work("scores", "b", 4, parts=8),
            Work("trials", "a", 5),
            Work("trials", "a", 5),
            Work("trials", "a", 5),
            Work("networks", "a", 7),
        ],
        {
            ("query runs", "a"): 1.0,
            ("query runs", "b"): 20.0,
            ("scores", "a"): 1.0,
            ("scores", "b"): 2.0,
            ("trials", "a"): 2.0,
            ("networks", "a"): 1.0,
        },
        workers=2,
    )
    # Three shards on two workers take two rounds of a third each; eight take four of eight.
    expected = {"query runs": 20.0, "scores": 8.0 + 4.0, "trials": 20.0, "networks": 7.0}
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


def test_a_stage_without_work_is_left_out() -> None:
    assert stage_seconds([Work("trials", "a", 5)], {("trials", "a"): 1.0}, 3) == {"trials": 5.0}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "under 1 s"),
        (1.0, "1 s"),
        (9.96, "10 s"),
        (89.9, "90 s"),
        (90, "1.5 min"),
        (3600, "60 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (2 * 86400 - 1, "48 h"),
        (2 * 86400, "2 days"),
        (123.4 * 86400, "120 days"),
        (12345 * 86400, "12,000 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_durations_have_two_significant_digits_and_are_right_to_them() -> None:
    lengths = {"s": 1, "min": 60, "h": 3600, "days": 86400}
    for seconds in np.geomspace(1, 1e9, 2000):
        number, unit = duration(seconds).replace(",", "").split()
        assert len(re.sub(r"^0*|0*$|\.", "", number).strip("0")) <= 2, number
        assert float(number) * lengths[unit] == pytest.approx(seconds, rel=0.051)


class FakeTimer:
    """Batches that take a start, and then so many seconds per sample."""

    def __init__(self, start: float, each: float) -> None:
        self.asked: list[int] = []
        self._start, self._each = start, each

    def __call__(self, size: int, count: int, seconds: float) -> list[float]:
        self.asked.append(size)
        found: list[float] = []
        while len(found) < min(count, 2) or (len(found) < count and sum(found) < seconds):
            found.append(size * self._each + (0 if found else self._start))
        return found


def test_the_start_is_not_counted() -> None:
    timer = FakeTimer(start=0.5, each=0.001)
    assert median_pace(timer, limit=64, seconds=2.0) == pytest.approx(0.001)
    assert timer.asked == [2, 8, 32, 64, 64]


def test_batches_are_as_large_as_the_time_allows() -> None:
    """A network that takes a second for a sample is not given a batch of 256."""
    timer = FakeTimer(start=3.0, each=0.05)
    assert median_pace(timer, limit=256, seconds=2.0) == pytest.approx(0.05)
    assert timer.asked == [2, 8, 8]
    slow = FakeTimer(start=0.0, each=1.0)
    assert median_pace(slow, limit=256, seconds=2.0) == pytest.approx(1.0)
    assert slow.asked == [2]


def test_few_samples_are_one_batch() -> None:
    timer = FakeTimer(start=0.5, each=0.001)
    assert median_pace(timer, limit=1, seconds=2.0) == pytest.approx(0.001)
    assert timer.asked == [1, 1]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is one second later at each look."""
    clock = itertools.count()
    monkeypatch.setattr(forecast, "BATCHES", 3)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: float(next(clock)))


@pytest.mark.parametrize(
    ("training", "expected"),
    [(TRAINING, 1 / 16), (dataclasses.replace(TRAINING, batch_size=500), 1 / 40), (None, 1 / 40)],
)
def test_batches_have_the_studys_size(
    training: Training | None, expected: float, ticks: None
) -> None:
    """A second a batch on that clock, however large; there are 40 samples in all."""
    noise = Noise(10, (1, 8, 8), 40, horizontal_flip=False, crop_padding=1)
    probe = Probe("small_cnn", training)
    assert timed([probe], noise, "cpu", 1, seconds=1e3) == {probe: pytest.approx(expected)}


@pytest.fixture
def small() -> Noise:
    return Noise(3, (3, 8, 8), 20, horizontal_flip=True, crop_padding=1)


@pytest.fixture
def four_threads() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


def test_timing_leaves_no_trace(small: Noise, four_threads: None) -> None:
    def states() -> str:
        return repr((np.random.get_state(), random.getstate()))  # noqa: NPY002 - the global one

    torchs, others = torch.get_rng_state(), states()
    probes = [
        Probe("small_cnn", dataclasses.replace(TRAINING, gradient_clip=1.0, precision="bf16")),
        Probe("small_cnn", None, "bf16"),
        Probe("linear", dataclasses.replace(TRAINING, optimizer="adamw")),
    ]
    found = timed(probes, small, "cpu", 1, seconds=0.01)
    assert list(found) == probes
    assert all(0 < each < 10 for each in found.values())
    assert torch.get_num_threads() == 4
    assert torch.equal(torch.get_rng_state(), torchs)
    assert states() == others
    assert torch.is_grad_enabled()


def test_a_gpu_is_waited_for_and_its_random_numbers_are_kept(
    small: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in, which computes on the CPU: what is asked of a GPU, and when."""
    waits, forked = list[float](), list[list[int]]()
    fork = torch.random.fork_rng

    def forking(devices: list[int]) -> object:
        forked.append(devices)
        return fork([])

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1.0))
    monkeypatch.setattr(torch.random, "fork_rng", forking)
    monkeypatch.setattr(
        forecast, "new_model", lambda name, data, *_, **kw: new_model(name, data, "cpu", **kw)
    )
    monkeypatch.setattr(
        forecast, "make_batches", lambda data, part, _, **how: make_batches(data, part, CPU, **how)
    )
    monkeypatch.setattr(forecast, "BATCHES", 3)
    timed([Probe("small_cnn", TRAINING)], small, "cuda", 1, seconds=1e3)
    assert forked == [[1]]
    assert len(waits) == 2 + 2 + 2 + 4  # of 2, 8 and 16 samples, and those that are timed


def test_threads_are_those_of_the_layout_and_come_back_after_a_failure(
    small: Noise, four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(forecast, "train", lambda *_, **__: seen.append(torch.get_num_threads()))
    with pytest.raises(IndexError):  # no batch was timed
        timed([Probe("small_cnn", TRAINING)], small, "cpu", 2, 0.01)
    assert seen == [2]
    assert torch.get_num_threads() == 4
    with pytest.raises(RaydropError, match="model"):
        timed([Probe("absent", TRAINING)], small, "cpu", 2, 0.01)
    assert torch.get_num_threads() == 4


def test_noise_has_the_shape_of_the_data_and_its_augmentation(small: Noise) -> None:
    dataset = load_dataset("digits+subset(12, test=6)")
    noise = Noise.like(dataset, in_memory=True)
    assert noise == Noise(10, (1, 8, 8), len(dataset.train), dataset.horizontal_flip, 1)
    data = small.drawn(7)
    (batch,) = make_batches(data, data.dataset.train, CPU)([torch.arange(7)], 0)
    assert batch.inputs.shape == (7, 3, 8, 8)
    assert 0.8 < batch.inputs.std() < 1.3
    assert batch.labels.max() < 3


def test_images_that_stream_are_augmented_where_they_are_read() -> None:
    dataset = load_dataset("digits+subset(12, test=6)")
    mirrored = dataclasses.replace(dataset, horizontal_flip=True)
    noise = Noise.like(mirrored, in_memory=False)
    assert not noise.horizontal_flip
    assert noise.crop_padding == 0
    assert Noise.like(mirrored, in_memory=True).horizontal_flip


def test_noise_stands_for_any_inputs() -> None:
    ids = np.arange(600).reshape(60, 10) % 50
    x = {"ids": ids, "dose": np.ones((60, 2), np.float32)}
    dataset = from_arrays(x, np.arange(60) % 3)
    data = Noise.like(dataset, in_memory=True).drawn(30)
    assert data.dataset.input_spec == dataset.input_spec
    (batch,) = make_batches(data, data.dataset.train, CPU)([torch.arange(30)])
    assert not batch.inputs["ids"].any()  # which are ids in any vocabulary
    assert 0.7 < batch.inputs["dose"].std() < 1.3


def test_many_large_classes_take_no_memory() -> None:
    data = Noise(1000, (3, 224, 224), 10**6, horizontal_flip=False, crop_padding=0).drawn(2)
    assert data.dataset.validation.inputs.pixels.strides == (0, 0, 0, 0)  # type: ignore[union-attr]


def _study(**changes: object) -> Study:
    study = Study(
        name="t",
        dataset="digits+subset(12, test=6)",
        model="small_cnn",
        param_space={"method": "grand", "quotas": "drop", "keep_fraction": 0.5},
        seeds=(0, 1),
        training=TRAINING,
    )
    return dataclasses.replace(study, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dataset() -> LabelledDataset:
    return load_dataset("digits+subset(12, test=6)")


def _plan(study: Study, dataset: LabelledDataset, *points: dict[str, object]) -> Plan:
    points = points or ({"method": "grand", "quotas": "drop", "keep_fraction": 0.5},)
    return make_plan(study, trial_configs(study, points), dataset)


def test_trainings_that_take_as_long_are_one_probe() -> None:
    study = _study(training=Training(epochs=30, batch_size=64, warmup=0.1, schedule="step"))
    kinds = [(stage, "small_cnn") for stage in ("query runs", "trials", "networks")]
    queries, trials, networks = (probe_of(study, kind) for kind in kinds)  # type: ignore[arg-type]
    assert trials == networks
    assert queries != trials  # query runs are not augmented
    assert probe_of(_study(training=Training(augment=False)), kinds[0]) == probe_of(
        _study(training=Training(augment=False, epochs=9, learning_rate=3.0)),
        kinds[1],  # type: ignore[arg-type]
    )
    assert trials.training is not None
    assert (trials.training.batch_size, trials.training.learning_rate) == (64, 0.0)
    wide = _study(network=NetworkPruning(retraining=Training(batch_size=8)))
    retraining = probe_of(wide, ("networks", "small_cnn")).training
    assert retraining is not None
    assert retraining.batch_size == 8


def test_scores_are_timed_at_their_precision_and_weights_are_not_fetched(
    small: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)
    name = "resnet18:imagenet"  # another network than resnet18 where images are small
    probe = probe_of(_study(score_precision="bf16"), ("scores", name))
    assert probe == Probe(name, None, "bf16")
    trials = probe_of(_study(), ("trials", name))
    assert all(seconds > 0 for seconds in timed([probe, trials], small, "cpu", 1, 0.0).values())


def test_what_is_finished_tells_the_pace(dataset: LabelledDataset, tmp_path: Path) -> None:
    study, store = _study(), Store(tmp_path)
    n, held_out = len(dataset.train), len(dataset.validation)
    plan = _plan(study, dataset)
    assert finished_runs(study, plan, dataset, store, "cpu") == {}
    first, second, *_ = plan.trials
    for run, seconds, device in ((first, 2.0, "cpu"), (second, 6.0, "cpu")):
        store.write("trial", run.config, {"seconds": seconds, "device": device})
    for query, device in zip(plan.queries, ("cpu", "cuda"), strict=True):
        store.write("query", query.config, {"train_seconds": 1.0, "device": device})
    passes = sum(trial_work(study, run, dataset).cost for run in (first, second))
    expected = {
        ("trials", "small_cnn"): Finished(2, passes, 8.0),
        ("query runs", "small_cnn"): Finished(1, 2 * n * 4 // 3 + held_out / 3, 1.0),
    }
    found = finished_runs(study, plan, dataset, store, "cpu")
    assert found == expected
    assert found["trials", "small_cnn"].pace == 8.0 / passes
    on_gpu = finished_runs(study, plan, dataset, store, "cuda")
    assert {kind: runs.runs for kind, runs in on_gpu.items()} == {("query runs", "small_cnn"): 1}


def test_a_kind_is_told_by_its_own_runs_or_by_those_of_its_architecture() -> None:
    finished = {
        ("trials", "a"): Finished(1, 10, 5.0),
        ("query runs", "a"): Finished(2, 30, 5.0),
        ("trials", "b"): Finished(1, 1, 1.0),
    }
    assert runs_like(("trials", "a"), finished) == {("trials", "a"): Finished(1, 10, 5.0)}
    both = runs_like(("scores", "a"), finished)
    assert sum(both.values(), Finished()) == Finished(3, 40, 10.0)
    assert runs_like(("scores", "c"), finished) == {}


def test_works_add_up_to_the_estimate_and_nothing_is_counted_twice(
    dataset: LabelledDataset,
) -> None:
    study = _study(checkpoints=2)
    points = [
        {"method": method, "quotas": quotas, "keep_fraction": k}
        for method in ("moso", "tracin_self", "grand_last_layer", "random")
        for quotas in ("none", "drop")
        for k in (0.3, 0.6)
    ]
    pruned = {"network_method": "magnitude", "network_target": 0.5}
    plan = _plan(study, dataset, *points, pruned)
    found = workload(study, plan, dataset)
    assert len([w for w in found if w.stage == "query runs"]) == len(plan.queries) == 2
    trials = [w for w in found if w.stage in ("trials", "networks")]
    assert len(trials) == len(plan.trials)
    assert [w.stage for w in trials] == sorted((w.stage for w in trials), reverse=True)
    n, seeds = len(dataset.train), 2
    scores = [w for w in found if w.stage == "scores"]
    # Per seed and checkpoint: products with the mean and norms; the last layer at one epoch.
    assert sum(w.passes for w in scores) == seeds * (2 * 2 * n + 2 * n + n // 3)
    assert {w.parts for w in scores} == {-(-n // 64)}
    assert sum(w.passes for w in found) == sum(
        sample_passes(workload(study, plan, dataset)).values()
    )


def test_evaluations_are_forward_passes(dataset: LabelledDataset) -> None:
    """Of validation and test at the end; what a loss reads of the network comes besides."""
    study = _study(network=NetworkPruning(rounds=2, retraining=Training(epochs=3, augment=False)))
    point = {"method": "random", "keep_fraction": 0.5}
    pruned = {"network_method": "magnitude", "network_target": 0.5}
    losses = ("cross_entropy", "cdb_w", "pw(0.5, 1)")
    points = [{**point, **extra, "loss": loss} for loss in losses for extra in ({}, pruned)]
    plan = _plan(study, dataset, *points)
    n, held_out = len(dataset.train), len(dataset.validation)
    both = held_out + len(dataset.test)
    found = {
        (run.trial.loss, run.dense is None): trial_work(study, run, dataset).forward - both
        for run in plan.trials
        if run.trial.method == "random"
    }
    assert found == {
        ("cross_entropy", True): 0,
        ("cdb_w", True): 2 * held_out,
        ("cross_entropy", False): 0,
        ("cdb_w", False): 2 * 3 * held_out,
        ("pw(0.5, 1)", False): n,  # once for all images, which never change
    }
    (query, *_) = workload(study, _plan(study, dataset), dataset)
    assert query.forward == held_out


def test_images_in_files_need_not_be_there(dataset: LabelledDataset) -> None:
    """What is timed is noise: nothing of the data is opened."""

    def absent(split: Split) -> Split:
        names = tuple(f"{i}.png" for i in range(len(split)))
        return dataclasses.replace(split, inputs=FileImages(names, "/absent", "L"))

    files = dataclasses.replace(
        dataset, **{name: absent(split) for name, split in dataset.splits().items()}
    )
    probe = Probe("small_cnn", TRAINING)
    noise = Noise.like(files, in_memory=False)
    assert timed([probe], noise, "cpu", 1, seconds=0.01)[probe] > 0
