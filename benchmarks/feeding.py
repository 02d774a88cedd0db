"""What feeding people's own data costs here beside their own ``DataLoader``, as paired ratios.

Compared is the CPU time of an epoch of batches, nothing trained, in turn within one process:

* ``streamed``: :func:`raydrop.data.from_torch` of a data set that stays where it is, against a
  ``DataLoader`` of that data set with the same order and no further processes;
* ``in memory``: the same where the samples are kept as tensors.

The samples are rows of 16 numbers, of which a data set gives one in a microsecond or two, so that
whatever is done beside that shows; images of 3x32x32 floats; and such images decoded from PNG.

Run with ``python benchmarks/feeding.py``; ``--quick`` makes fewer pairs. It prints one line per
comparison: the median ratio, its range, and the number of pairs. One thread.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from raydrop.data import from_torch
from raydrop.data.batches import make_batches, prepare

BATCH = 128
CPU = torch.device("cpu")


class Kept(Dataset[Any]):
    """Tensors, one by one."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.labels = values, [at % 10 for at in range(len(values))]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.values[index], self.labels[index]


class Encoded(Dataset[Any]):
    """Images in PNG, decoded when they are asked for."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.files = [
            _png(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)) for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with PIL.Image.open(io.BytesIO(self.files[index])) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.float() / 255, index % 10


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ratios(source: Dataset[Any], in_memory: bool, pairs: int) -> list[float]:
    """Return our CPU time over that of a loader, for each pair of epochs."""
    dataset = from_torch(source, source, validation=source, in_memory=in_memory)
    batches = make_batches(prepare(dataset), dataset.train, CPU, loader_workers=0)
    count = len(dataset.train)

    def ours(order: Tensor) -> None:
        for _ in batches(order.split(BATCH)):
            pass

    def theirs(order: Tensor) -> None:
        for _ in DataLoader(source, BATCH, sampler=order.tolist()):
            pass

    found = list[float]()
    for number in range(pairs + 1):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(number))
        # Which comes first alternates, so that a drift of the machine's speed cancels.
        sides = (ours, theirs) if number % 2 else (theirs, ours)
        times = {side: _cpu_seconds(side, order) for side in sides}
        found.append(times[ours] / times[theirs])
    return found[1:]


def _cpu_seconds(work: Callable[[Tensor], None], order: Tensor) -> float:
    start = time.process_time()
    work(order)
    return time.process_time() - start


def main() -> None:
    """Run every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    pairs = 5 if parser.parse_args().quick else 21
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"torch {torch.__version__}, no GPU used\n"
    )
    sources = {
        "rows of 16 numbers": Kept(torch.randn(20_000, 16)),
        "images of 3x32x32 floats": Kept(torch.randn(5_000, 3, 32, 32)),
        "images decoded from PNG": Encoded(3_000),
    }
    for name, source in sources.items():
        for kind in ("streamed", "in memory"):
            found = ratios(source, kind == "in memory", pairs)
            print(
                f"{kind}: {name:<28} {statistics.median(found):.3f}  "
                f"({min(found):.3f} to {max(found):.3f}, n = {len(found)})",
                flush=True,
            )


if __name__ == "__main__":
    main()
