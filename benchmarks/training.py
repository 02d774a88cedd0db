"""What training costs here beside a bare loop, as paired ratios.

Compared, in turn within one process, A B A B ...:

* ``loop``: :func:`raydrop.training.loop.train` (gathers uint8 images, augments, normalises, sets
  the learning rate, sums the loss, checks it) against a bare loop (forward, backward, optimiser
  step on normalised float tensors in memory, with the same augmentation and optimiser);
* ``trial``: everything that a trial does in its process (selection, training, evaluation, record)
  against its training alone;
* ``sweep``: the time that Tune and its workers take per trial against the training alone, between
  the first and the last trial to finish, so that starting Ray is not counted.

Run with ``python benchmarks/training.py``; ``--quick`` makes fewer pairs. It prints one line per
comparison: the median ratio, its range, and the number of pairs. One thread per process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raydrop.cluster.driver import Options, run_study
from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, augment, even_groups, make_batches, prepare
from raydrop.data.dataset import ArrayImages, LabelledDataset, Split
from raydrop.models import build_model
from raydrop.store import Store
from raydrop.store.terminal import Console
from raydrop.study import Study, Training
from raydrop.training.budget import training_length
from raydrop.training.loop import train
from raydrop.training.losses import CrossEntropy
from raydrop.training.optim import make_optimizer

CPU = torch.device("cpu")


def made_up_cifar(n: int) -> PreparedData:
    """Return random images of CIFAR's shape: what they show does not change what they cost."""
    rng = np.random.default_rng(0)

    def split(first: int, count: int) -> Split:
        pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        ids = np.arange(first, first + count)
        return Split(ids, np.arange(count) % 10, ArrayImages(pixels))

    dataset = LabelledDataset(
        name="made-up",
        class_names=tuple("0123456789"),
        train=split(0, n),
        validation=split(n, 10),
        test=split(n + 10, 10),
        image_shape=(3, 32, 32),
        horizontal_flip=True,
        crop_padding=4,
        fingerprint="made-up",
    )
    return prepare(dataset)


def bare_loop(model: nn.Module, data: PreparedData, training: Training) -> float:
    """Train as in a notebook, on float tensors that lie ready; return its seconds."""
    dataset = data.dataset
    n = len(dataset.train)
    ((images, labels),) = make_batches(data, dataset.train, CPU)([torch.arange(n)])
    start = time.perf_counter()
    optimizer = make_optimizer(model.parameters(), training)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(training.epochs):
        for chosen in even_groups(torch.randperm(n, generator=generator), training.batch_size):
            batch = augment(
                images[chosen], dataset.crop_padding, dataset.horizontal_flip, generator
            )
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels[chosen]).backward()
            optimizer.step()
    return time.perf_counter() - start


def our_loop(model: nn.Module, data: PreparedData, training: Training) -> float:
    """Train as a trial does; return its seconds."""
    n = len(data.dataset.train)
    batches = make_batches(data, data.dataset.train, CPU)
    length = training_length("equal_epochs", training, n, n)
    return train(model, batches, torch.arange(n), CrossEntropy(), training, length, 0, augment=True)


def paired(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[float]:
    """Return the ratios first / second of ``pairs`` runs in turn, after one of each unmeasured."""
    first(), second()
    ratios = []
    for i in range(pairs):
        # Which comes first alternates, so that a drift of the machine's speed cancels.
        if i % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        ratios.append(a / b)
    return ratios


def loop_ratios(data: PreparedData, model: str, training: Training, pairs: int) -> list[float]:
    """Compare the two loops on fresh networks."""

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return build_model(model, data.dataset.num_classes, data.dataset.input_spec)

    return paired(
        lambda: our_loop(fresh(), data, training),
        lambda: bare_loop(fresh(), data, training),
        pairs,
    )


def sweep_ratios(trials: int) -> tuple[list[float], list[float]]:
    """Run digits trials under Tune on two CPUs; return the trial and the sweep ratios."""
    study = Study(
        name="overhead",
        dataset="digits+long_tail(10)",
        model="small_cnn",
        param_space={"method": "random", "keep_fraction": 0.5},
        seeds=tuple(range(trials)),
        include_unpruned=False,
        budget="equal_steps",
        training=Training(epochs=30, batch_size=16),
    )
    with tempfile.TemporaryDirectory() as folder:
        run_study(study, Options(out=Path(folder), num_cpus=2), Console(quiet=True))
        entries = list(Store(Path(folder) / "store").entries("trial"))
        entries.sort(key=lambda e: (e.path / "meta.json").stat().st_mtime)
        first, last = ((e.path / "meta.json").stat().st_mtime for e in (entries[1], entries[-1]))
    # Trials finish two at a time; the first pair ends the time in which workers start.
    later = [e.info for e in entries[2:]]
    inside = [info["seconds"] / info["train_seconds"] for info in later]
    seconds = statistics.mean(info["train_seconds"] for info in later)
    span = (last - first) * 2 / len(later)
    return inside, [span / seconds]


def report(name: str, ratios: list[float]) -> None:
    """Print one comparison."""
    print(
        f"{name:<34} {statistics.median(ratios):.3f}  "
        f"({min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)})",
        flush=True,
    )


def main() -> None:
    """Run every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"torch {torch.__version__}, no GPU used\n"
    )
    digits = prepare(load_dataset("digits+long_tail(10)"))
    report(
        "loop: digits CNN, batch 16",
        loop_ratios(digits, "small_cnn", Training(epochs=10, batch_size=16), 5 if quick else 21),
    )
    report(
        "loop: CIFAR ResNet-18, batch 32",
        loop_ratios(
            made_up_cifar(160), "resnet18", Training(epochs=1, batch_size=32), 3 if quick else 9
        ),
    )
    inside, around = sweep_ratios(12 if quick else 40)
    report("trial: digits, in its process", inside)
    report("sweep: digits, two CPUs", around)


if __name__ == "__main__":
    main()
