"""What a recorder costs in a training loop, as paired ratios.

The same loop (forward, backward, optimiser step on normalised float tensors in memory, batches of a
shuffled order) with ``recorder.update(indices, logits, labels)`` after every batch and
``end_epoch()`` after every epoch, against it without: five epochs of one and five of the other in
turn within one process, by the CPU time of the process. What small data leave to be looked at in
the end, when the trace is read, is told beside it, as a share of the training.

Run with ``python benchmarks/recorder.py``; ``--quick`` makes fewer pairs. It prints one line per
network: the median ratio, its quartiles, its range, the number of pairs, and that share. One
thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydrop.data import load_dataset
from raydrop.data.batches import make_batches, prepare
from raydrop.data.inputs import InputSpec
from raydrop.models import build_model
from raydrop.scores.recorder import Recorder

CPU = torch.device("cpu")


EPOCHS = 5


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    batch: int,
    recorder: Recorder | None,
) -> float:
    """Train for some epochs; return the seconds of CPU time."""
    orders = [torch.randperm(len(labels)).split(batch) for _ in range(EPOCHS)]
    start = time.process_time()
    for order in orders:
        for indices in order:
            optimizer.zero_grad()
            own = labels[indices]
            logits = model(images[indices])
            F.cross_entropy(logits, own).backward()
            optimizer.step()
            if recorder is not None:
                recorder.update(indices, logits, own)
        if recorder is not None:
            recorder.end_epoch()
    return time.process_time() - start


def compare(name: str, images: Tensor, labels: Tensor, model: str, batch: int, pairs: int) -> None:
    """Print the ratio of a training with a recorder to one without."""
    channels, height, width = images.shape[1:]
    network = build_model(model, 10, InputSpec.image((channels, height, width)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
    given, ratios, shares = (
        (network, optimizer, images, labels, batch),
        list[float](),
        list[float](),
    )
    train(*given, Recorder(len(labels), 10))
    for pair in range(pairs):
        both: dict[bool, float] = {}
        for records in (True, False) if pair % 2 else (False, True):
            recorder = Recorder(len(labels), 10) if records else None
            both[records] = train(*given, recorder)
            if recorder is not None:
                start = time.process_time()
                assert recorder.trace.epochs == EPOCHS
                shares.append((time.process_time() - start) / both[records])
        ratios.append(both[True] / both[False])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, range {min(ratios):.3f} to "
        f"{max(ratios):.3f}, n = {pairs}); reading the trace {statistics.median(shares):.2%}"
    )


def main() -> None:
    """Compare on digits and on images of CIFAR's shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, one thread")
    data = prepare(load_dataset("digits"))
    train = data.dataset.train
    ((images, labels),) = make_batches(data, train, CPU)([torch.arange(len(train))])
    pairs = 10 if quick else 31
    for batch in (32, 128):
        compare(f"digits CNN, batch {batch}", images, labels, "small_cnn", batch, pairs)
    made_up = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    compare("ResNet-18, batch 32", *made_up, "resnet18", 32, 3 if quick else 9)


if __name__ == "__main__":
    main()
