"""What greedy k-center costs here beside SciPy's distances of one centre to all rows at a time.

Compared, in turn within one process, on N = 50,000 embeddings of D = 512:

* ``raydrop``: :func:`raydrop.scores.methods.k_center.greedy_order` until 10 % are chosen, float32;
* ``scipy``: the plain algorithm, one ``scipy.spatial.distance.cdist`` of the newest centre against
  all rows per step, a running minimum, an argmax. It is given float64, which it would otherwise
  convert to at every step, and runs on one thread, as cdist does. Its steps all cost the same, so
  ``--steps`` of them are timed, and multiplied.

On two kinds of made-up embeddings: ``classes``, ReLU features in 10 clusters of different spread,
as a trained network gives; and ``sphere``, independent normal numbers, where all distances are
nearly alike. Whether both sides choose the same samples is checked over the timed steps of SciPy.

Peak memory is the resident set (ru_maxrss) of a process of its own that imports torch, makes the
embeddings and ranks them.

Run with ``python benchmarks/k_center.py``; ``--quick`` times fewer steps and one pair, ``--whole``
also ranks all samples once.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from raydrop.scores.methods.k_center import greedy_order

N, D, KEPT = 50_000, 512, 0.1


def made_up_embeddings(kind: str) -> NDArray[np.float32]:
    """Return embeddings (N, D)."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((N, D), dtype=np.float32)
    if kind == "sphere":
        return points
    centers = rng.standard_normal((10, D), dtype=np.float32)
    spread = rng.gamma(4.0, 0.1, (N, 1)).astype(np.float32)
    points *= spread
    points += centers[rng.integers(0, 10, N)]
    return np.maximum(points, 0)


def by_scipy(points: NDArray[np.float64], steps: int) -> tuple[list[int], float]:
    """Return the first choices of the plain algorithm, and the seconds of a step."""
    order = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    nearest = np.full(len(points), np.inf)
    start = time.perf_counter()
    for _ in range(steps):
        np.minimum(nearest, cdist(points[order[-1:]], points)[0], out=nearest)
        order.append(int(nearest.argmax()))
    return order, (time.perf_counter() - start) / steps


def by_raydrop(points: NDArray[np.float32], count: int) -> tuple[list[int], float]:
    """Return the first ``count`` choices, and the seconds that they took."""
    start = time.perf_counter()
    order = greedy_order(torch.from_numpy(points), count)
    return order, time.perf_counter() - start


def compare(kind: str, steps: int, pairs: int, whole: bool) -> None:
    """Print the ratio of seconds for one kind of embeddings, and whether the choices agree."""
    points, count = made_up_embeddings(kind), round(KEPT * N)
    exact = points.astype(np.float64)
    ratios, seconds = [], []
    for _ in range(pairs):
        order, here = by_raydrop(points, count)
        expected, step = by_scipy(exact, steps)
        ratios.append(step * count / here)
        seconds.append((here, step * count))
    same = sum(a == b for a, b in zip(order, expected, strict=False))
    ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"{kind}: raydrop {ours:.1f} s, scipy {theirs:.1f} s for {count} of {N} x {D}; scipy / "
        f"raydrop {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}, "
        f"n = {pairs}); {same} of the first {len(expected)} choices alike"
    )
    if whole:
        print(f"{kind}: all {N} ranked in {by_raydrop(points, N)[1]:.1f} s")


def print_memory(kind: str) -> None:
    """Print the peak memory of ranking, measured in a process of its own."""
    if "--child" in sys.argv:
        greedy_order(torch.from_numpy(made_up_embeddings(kind)), round(KEPT * N))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    run = [sys.executable, __file__, "--child"]
    kib = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    print(f"peak memory of the process: {kib / 2**20:.2f} GiB")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One pair, 20 steps of SciPy.")
    parser.add_argument("--whole", action="store_true", help="Rank all samples once, too.")
    parser.add_argument("--steps", type=int, default=200, help="Steps of SciPy that are timed.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print_memory("classes")
        return
    print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, SciPy {scipy.__version__}"
    )
    for kind in ("classes", "sphere"):
        compare(
            kind, 20 if options.quick else options.steps, 1 if options.quick else 3, options.whole
        )
    print_memory("classes")


if __name__ == "__main__":
    main()
