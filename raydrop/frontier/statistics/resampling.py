"""Test images and seeds drawn again, the same ones for every point at once.

Two points of a study were tested on the same images and mostly trained with the same seeds, so
their errors rise and fall together. Whether one beats the other can therefore be far more certain
than either accuracy is. Drawing images and seeds once per resample, for all points, keeps that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import DataError
from raydrop.frontier.points import points_of
from raydrop.frontier.records import Records
from raydrop.metrics import recalls

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DRAWS = 1000
"""Resamples of a study."""

_CHUNK = 4096
"""Images that are turned into float32 at once."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """Every point of a frontier under joint resamples, B being their number and P the points'."""

    points: pd.DataFrame
    """(P,) rows with :data:`~raydrop.frontier.points.POINT`, in the order of the frontier table."""
    average: Floats
    """(B, P) average accuracies."""
    worst: Floats
    """(B, P) lowest of the recalls averaged over seeds; too low twice, see :attr:`centred`."""
    plug_in: Floats
    """(P, 2) average and worst accuracy of the data as they are, seeds averaged first."""

    @property
    def centred(self) -> Floats:
        """(B, P) ``worst`` shifted, point by point, so that its mean is the plug-in estimate.

        Otherwise a resample would favour points with few classes at the bottom.
        """
        shifted: Floats = self.worst + (self.plug_in[:, 1] - self.worst.mean(axis=0))
        return shifted


def resample(records: Records, draws: int = DRAWS) -> Resamples:
    """Resample every point of a study, seeded from the study's identity.

    Worst cases are of the records' ``unit``; a ``DataError`` says that records do not hold which
    test images each trial has right.
    """
    trials = records.trials
    hits = records.hits(trials["trial_id"].tolist())
    place = pd.Series(np.arange(len(trials)), index=trials["trial_id"])
    points, groups = zip(*points_of(trials), strict=True)
    rows = [place[group["trial_id"]].to_numpy() for group in groups]
    seeds = [tuple(group["seed"].tolist()) for group in groups]
    members, number = records.members(), len(records.names())
    average, worst = joint_resamples(hits, members, rows, seeds, records.entropy, draws)
    plug_in = np.array([_plug_in(hits[each], members, number) for each in rows])
    return Resamples(pd.DataFrame(points), average, worst, plug_in)


def joint_resamples(
    hits: Bools,
    members: NDArray[np.integer],
    rows: Sequence[Ints],
    seeds: Sequence[tuple[int, ...]],
    entropy: int,
    draws: int = DRAWS,
) -> tuple[Floats, Floats]:
    """Resample test images and seeds jointly for all points (B = ``draws``, P points).

    Every class (or group) k has n_k of its n_k test images drawn with replacement, and S - 1 of S
    seeds, the same ones for all points with the same seeds (the pigeonhole bootstrap; Owen, 2007,
    Annals of Applied Statistics 1:386; S - 1 as in Rao and Wu, 1988, JASA 83:231).

    All counts are whole numbers below 2²⁴, which float32 holds exactly, so results depend on
    neither the order of summation nor the number of threads, and equal points stay equal.

    ``hits`` (n_trials, n_test) says which trial has which image right, ``members`` (n_test,) what
    class or group an image is of, ``rows`` of each point the (S,) places of its trials in ``hits``,
    in the order of its ``seeds``. The same ``entropy`` gives the same bytes.

    Returns:
        (B, P) average accuracies and (B, P) lowest recalls, seeds averaged first.
    """
    most = max(map(len, rows))
    if len(members) * max(1, most - 1) >= 2**24:
        raise DataError(
            f"Expected fewer than {2**24} test images times seeds, found {len(members)} images and "
            f"{most} seeds; test on fewer images."
        )
    image_rng, seed_rng = (
        np.random.default_rng(each) for each in np.random.SeedSequence(entropy).spawn(2)
    )
    order = np.argsort(members, kind="stable")
    hits = hits[:, order]
    blocks = list(_blocks(rows, seeds, seed_rng, draws))
    starts = np.unique(members[order], return_index=True)[1].tolist()
    for start, end in itertools.pairwise([*starts, len(members)]):
        weights = _multiplicities(end - start, draws, image_rng)
        for block in blocks:
            block.add(hits[:, start:end], weights)
    places = np.argsort(np.concatenate([block.points for block in blocks]))
    average = np.hstack([block.correct / (block.drawn * len(members)) for block in blocks])
    worst = np.hstack([block.worst for block in blocks])
    return average[:, places], worst[:, places].astype(np.float64)


class _Block:
    """Points with the same seeds, P' of them, and what has been counted of them so far."""

    def __init__(self, points: Ints, rows: Ints, times: NDArray[np.float32], drawn: int) -> None:
        # (P',) places among all points, (S, P') rows of hits, (B, S) how often a seed is drawn.
        self.points, self.rows, self.times, self.drawn = points, rows, times, drawn
        shape = (len(times), len(points))
        self.correct = np.zeros(shape)
        self.worst = np.full(shape, np.inf, np.float32)
        # Kept, because memory that is new for every class costs more than the products.
        self._counts = np.empty(shape, np.float32)
        self._part = np.empty(shape, np.float32)

    def add(self, hits: Bools, weights: NDArray[np.float32]) -> None:
        """Count a class, given hits (n_trials, n_k) and how often images are drawn (B, n_k)."""
        self._counts.fill(0)
        for rows, times in zip(self.rows, self.times.T, strict=True):
            for start in range(0, hits.shape[1], _CHUNK):
                part = slice(start, start + _CHUNK)
                right = hits[rows, part].astype(np.float32)
                np.matmul(weights[:, part], right.T, out=self._part)
                if len(self.rows) > 1:
                    self._part *= times[:, None]
                self._counts += self._part
        self.correct += self._counts
        self._counts /= np.float32(self.drawn * hits.shape[1])
        np.minimum(self.worst, self._counts, out=self.worst)


def _blocks(
    rows: Sequence[Ints],
    seeds: Sequence[tuple[int, ...]],
    rng: np.random.Generator,
    draws: int,
) -> Iterator[_Block]:
    """Group points by their seeds, and draw seeds; sets of the same size share their draws."""
    shares = rng.random((draws, max(map(len, seeds))))
    for each in sorted(set(seeds)):
        points = np.flatnonzero([other == each for other in seeds])
        drawn = max(1, len(each) - 1)
        chosen = (shares[:, :drawn] * len(each)).astype(np.int64)
        times = (chosen[:, :, None] == np.arange(len(each))).sum(axis=1)
        stacked = np.stack([rows[point] for point in points.tolist()], axis=1)
        yield _Block(points, stacked, times.astype(np.float32), drawn)


def _multiplicities(images: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (B, n_k): how often each image is among n_k that are drawn with replacement."""
    chosen = rng.integers(images, size=(draws, images))
    chosen += np.arange(draws)[:, None] * images
    counts = np.bincount(chosen.ravel(), minlength=draws * images)
    return counts.reshape(draws, images).astype(np.float32)


def _plug_in(hits: Bools, members: NDArray[np.integer], number: int) -> tuple[float, float]:
    """Return average accuracy and lowest recall of one point, seeds averaged first."""
    share = hits.mean(axis=0)
    totals = np.bincount(members, minlength=number)
    found = recalls(np.bincount(members, share, number), totals)
    return float(share.mean()), float(np.nanmin(found))
