"""What AutoBot keeps of a network's accuracy beside simpler choices of filters, before retraining.

Compared, on the digits that scikit-learn ships, for each of five seeds: a network is trained on all
training images (``sweeps/digits.py`` has the settings), and pruned once by each method to 25 % of
its multiply-accumulates, without any training afterwards. The table has the mean over the seeds of
the average accuracy on the test images, that of the worst digit, and the measured share of
multiply-accumulates that is gone; in brackets the smallest and largest value.

Two columns tell apart what the filters and what BatchNorm do: ``as cut`` is the network as it
is, ``statistics renewed`` has its BatchNorm statistics measured anew on 512 training images, with
no weight changed.

Run with ``python benchmarks/autobot.py``; ``--model resnet56`` takes another network, ``--target``
another share, ``--seeds`` another number of networks, and ``--course`` prints the first search.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raydrop.data import load_dataset
from raydrop.data.batches import Batches, PreparedData, make_batches, prepare
from raydrop.metrics import by_group
from raydrop.models import build_model
from raydrop.network import network_rule
from raydrop.network.base import PruningTask, Step, Target
from raydrop.network.measure import network_size
from raydrop.study import Training, derive_seed
from raydrop.training.budget import training_length
from raydrop.training.evaluate import predict
from raydrop.training.loop import train
from raydrop.training.losses import CrossEntropy

METHODS = ("random", "magnitude", "fpgm", "taylor", "taylor_activation", "autobot")
CPU = torch.device("cpu")


def trained(data: PreparedData, name: str, epochs: int, seed: int, rate: float = 0.1) -> nn.Module:
    """Return a network trained on all training images."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(name, data.dataset.num_classes, data.dataset.input_spec)
    training = Training(epochs=epochs, batch_size=16, learning_rate=rate, weight_decay=5e-4)
    count = len(data.dataset.train)
    train(
        model,
        make_batches(data, data.dataset.train, CPU),
        torch.arange(count),
        CrossEntropy(),
        training,
        training_length("equal_epochs", training, count, count),
        derive_seed(seed, "order"),
        augment=True,
    )
    return model


def task_for(data: PreparedData, model: nn.Module, fraction: float, seed: int) -> PruningTask:
    """Return the task of removing a share of the multiply-accumulates of a network."""
    batches, count = make_batches(data, data.dataset.train, CPU), len(data.dataset.train)
    return PruningTask(
        model,
        data.dataset.input_spec,
        Target("flops", fraction),
        network_size(model, data.dataset.input_spec),
        lambda n: steps(batches, count, n, seed),
        lambda logits, step: F.cross_entropy(logits, step.labels),
        seed,
    )


def steps(batches: Batches, count: int, n: int, seed: int) -> Iterator[Step]:
    """Yield n batches of 64 images, epoch after epoch, each in an order of its own."""
    groups = list[torch.Tensor]()
    for epoch in range(n):
        if len(groups) >= n:
            break
        generator = torch.Generator().manual_seed(derive_seed(seed, f"steps/{epoch}"))
        groups += torch.randperm(count, generator=generator).split(64)
    for images, labels in batches(groups[:n]):
        yield Step(images, labels, labels)


def renewed(model: nn.Module, batches: Batches) -> nn.Module:
    """Return a copy whose BatchNorm statistics are those of 512 training images."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        for images, _ in batches([torch.arange(512)]):
            model(images)
    return model


def accuracies(model: nn.Module, data: PreparedData) -> tuple[float, float]:
    """Return the average accuracy and that of the worst class on the test images."""
    test = data.dataset.test
    predicted = predict(model, make_batches(data, test, CPU), len(test))
    recalls = by_group(predicted, test.labels, test.labels, data.dataset.num_classes)
    return float((predicted == test.labels).mean()), float(recalls.min())


def summary(values: list[float]) -> str:
    """Return mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def compare(options: argparse.Namespace) -> None:
    """Print the table."""
    data = prepare(load_dataset("digits"))
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("dense", *METHODS)}
    batches = make_batches(data, data.dataset.train, CPU)
    for seed in range(options.seeds):
        model = trained(data, options.model, options.epochs, seed, options.learning_rate)
        rows["dense"].append((*accuracies(model, data), *accuracies(model, data), 0.0, 0.0))
        task = task_for(data, model, options.target, seed)
        for name in METHODS:
            start = time.perf_counter()
            pruned = network_rule(name).make().prune(task)
            seconds = time.perf_counter() - start
            again = accuracies(renewed(pruned.model, batches), data)
            rows[name].append((*accuracies(pruned.model, data), *again, pruned.reached, seconds))
            if pruned.note:
                print(f"seed {seed}, {name}: {pruned.note}")
            if options.course and name == "autobot" and seed == 0:
                print({key: pruned.facts[key] for key in pruned.facts if key != "filters"})
    heads = ("average, as cut", "worst digit", "average, statistics renewed", "worst digit", "gone")
    print(f"| {options.model} | {' | '.join(heads)} | seconds |")
    print("|---" * (len(heads) + 2) + "|")
    for name, found in rows.items():
        columns = [list(column) for column in zip(*found, strict=True)]
        cells = [summary(column) for column in columns[:-1]]
        print(f"| {name} | {' | '.join(cells)} | {statistics.median(columns[-1]):.1f} |")
    differences = np.array(rows["autobot"])[:, 0] - np.array(rows["random"])[:, 0]
    print(f"autobot - random, as cut: {summary(differences.tolist())}, n = {options.seeds}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="small_cnn", help="Network to prune.")
    parser.add_argument("--epochs", type=int, default=15, help="Of its training.")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="Of its training.")
    parser.add_argument("--target", type=float, default=0.75, help="Share that goes.")
    parser.add_argument("--seeds", type=int, default=5, help="Networks.")
    parser.add_argument("--course", action="store_true", help="Print AutoBot's first search.")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
    compare(options)


if __name__ == "__main__":
    main()
