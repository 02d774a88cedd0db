"""Selection by streaming thresholds: the best of each class in memory that does not grow with them.

What `docs/scaling.md` proposes for a billion samples, as a prototype outside of the package. The
x-th best score of every class is found bit by bit: scores are read as unsigned integers of the same
order, and each pass over the parts counts, by class, the next 13 of their bits within the bucket
where the x-th best lies. After five passes all 64 bits are known, and how many of the equals of
the threshold are kept; a sixth pass compares, and keeps the samples.

* ``check``: ten million scores, rounded so that many are equal, of which half are kept, in all and
  by class, higher or lower first. What :func:`raydrop.selection.select` keeps is kept here, but for
  which of the threshold's equals.
* ``measure``: a number of samples in parts of ten million, 1,000 classes of sizes that fall as
  1/(k + 10), half of each kept. Parts are drawn anew from their seeds in each pass, in place of
  being read from a disk; what drawing them takes is measured apart and left out of the seconds.
  Memory is the peak of the process (ru_maxrss) less what it held with one part drawn.

Run with ``python benchmarks/streaming.py``; ``--samples 1000000000`` takes some minutes.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from raydrop.selection import select

PART = 10_000_000
CLASSES = 1000
WIDTHS = (13, 13, 13, 13, 12)
"""Bits that each pass decides, 64 in all."""

Part = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Scores and classes, (n,) each."""
Parts = Callable[[], Iterator[Part]]
"""Gives all parts, in the same order each time."""


def ordered(scores: NDArray[np.float64], *, higher_is_kept: bool) -> NDArray[np.uint64]:
    """Return unsigned integers (n,) that ascend where scores get worse."""
    bits = (scores + 0.0).view(np.uint64)  # -0.0 equals 0.0
    ascending = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
    return ~ascending if higher_is_kept else ascending


def thresholds(
    parts: Parts, quotas: NDArray[np.int64], *, higher_is_kept: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the last key that each class keeps, and how many of its equals, (K,) each.

    Args:
        parts: Scores and classes.
        quotas: Samples that each class keeps, at least 1, (K,).
        higher_is_kept: Whether higher scores are kept first.
    """
    known = np.zeros(len(quotas), np.uint64)
    rank, shift = quotas.copy(), 64
    for width in WIDTHS:
        shift -= width
        counts = np.zeros((len(quotas), 1 << width), np.int64)
        for scores, classes in parts():
            keys = ordered(scores, higher_is_kept=higher_is_kept) >> np.uint64(shift)
            inside = (keys >> np.uint64(width)) == known[classes]
            digits = keys[inside] & np.uint64((1 << width) - 1)
            cells = (classes[inside] << width) + digits.astype(np.int64)
            counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
        before = counts.cumsum(axis=1)
        bucket = (before < rank[:, None]).sum(axis=1)
        rows = np.arange(len(quotas))
        rank -= before[rows, bucket] - counts[rows, bucket]
        known = (known << np.uint64(width)) | bucket.astype(np.uint64)
    return known, rank


def kept(
    parts: Parts, found: tuple[NDArray[np.uint64], NDArray[np.int64]], *, higher_is_kept: bool
) -> Iterator[NDArray[np.bool_]]:
    """Yield which samples of each part are kept; of equals those that come first."""
    last, equals = found[0], found[1].copy()
    for scores, classes in parts():
        keys = ordered(scores, higher_is_kept=higher_is_kept)
        chosen = keys < last[classes]
        tied = np.flatnonzero(keys == last[classes])
        order = tied[np.argsort(classes[tied], kind="stable")]
        sizes = np.bincount(classes[tied], minlength=len(last))
        place = np.arange(len(order)) - np.repeat(sizes.cumsum() - sizes, sizes)
        chosen[order[place < equals[classes[order]]]] = True
        equals -= np.minimum(equals, sizes)
        yield chosen


def check(samples: int) -> None:
    """Compare with the selection of the package."""
    rng = np.random.default_rng(0)
    for by_class in (True, False):
        for higher in (True, False):
            scores = rng.standard_normal(samples).round(4)
            scores[rng.random(samples) < 1e-3] = 0.0
            scores[rng.random(samples) < 1e-3] *= -0.0
            members = rng.integers(0, 100 if by_class else 1, samples)
            quotas = np.bincount(members) // 2
            expected = np.zeros(samples, bool)
            expected[
                select(
                    scores, members, int(quotas.sum()), quotas, higher_is_kept=higher, tie_seed=0
                )
            ] = True

            def parts(
                scores: NDArray[np.float64] = scores, members: NDArray[np.int64] = members
            ) -> Iterator[Part]:
                for start in range(0, samples, 999_983):
                    yield scores[start : start + 999_983], members[start : start + 999_983]

            found = thresholds(parts, quotas, higher_is_kept=higher)
            mine = np.concatenate([*kept(parts, found, higher_is_kept=higher)])
            tied = ordered(scores, higher_is_kept=higher) == found[0][members]
            assert (mine == expected)[~tied].all()
            assert (np.bincount(members[mine]) == quotas).all()
    print(f"check: four selections of {samples:,} samples agree but for which equals are kept")


def made_up(count: int) -> Parts:
    """Return parts that are drawn from their seeds: scores, and classes of uneven sizes."""
    weights = 1.0 / (np.arange(CLASSES) + 10.0)
    edges = (weights / weights.sum()).cumsum()

    def parts() -> Iterator[Part]:
        for i in range(count):
            rng = np.random.default_rng(i)
            scores, places = rng.standard_normal(PART), rng.random(PART)
            yield scores, np.searchsorted(edges[:-1], places)

    return parts


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(samples: int) -> None:
    """Measure seconds and memory."""
    count = -(-samples // PART)
    parts = made_up(count)
    start, sizes = time.perf_counter(), np.zeros(CLASSES, np.int64)
    for _, classes in parts():
        sizes += np.bincount(classes, minlength=CLASSES)
    drawing, held = time.perf_counter() - start, _resident()
    start = time.perf_counter()
    found = thresholds(parts, sizes // 2, higher_is_kept=True)
    finding, start = time.perf_counter() - start, time.perf_counter()
    total = sum(int(chosen.sum()) for chosen in kept(parts, found, higher_is_kept=True))
    keeping = time.perf_counter() - start
    assert total == (sizes // 2).sum()
    counting = finding - len(WIDTHS) * drawing
    print(
        f"{count * PART:,} samples, {CLASSES:,} classes: thresholds in {counting:.0f} s "
        f"({counting / len(WIDTHS):.1f} s a pass), comparing in {keeping - drawing:.0f} s, "
        f"{(_resident() - held) / 1e6:.0f} MB more than with one part drawn; drawing took "
        f"{drawing:.0f} s a pass, left out"
    )


def main() -> None:
    """Check, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=100_000_000)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}")
    check(PART)
    measure(options.samples)


if __name__ == "__main__":
    main()
