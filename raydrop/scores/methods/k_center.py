"""k-center: the samples from which no other sample's embedding is far."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydrop.errors import ScoringError
from raydrop.scores.base import EmbeddingMethod, Embeddings, Labels

POOL = 1024
"""Samples among which the next centres are looked for before all distances are brought up to date;
the distances between them take 4 MiB."""
ROWS = 4096
"""Samples whose distances to new centres are computed at once."""
RESOLUTION = 64
"""Squared distances below this many units of rounding, relative to a sample's squared distance from
the mean, count as zero: in float32, distances below 0.3 % of that one."""


def greedy_order(points: Tensor, limit: int | None = None) -> list[int]:
    """Return points in the order in which greedy k-center chooses them.

    The first is the one nearest to the mean; each next one is argmax_i min_{c chosen} ||x_i - c||,
    the lowest position on ties, without points that coincide with a chosen one up to
    :data:`RESOLUTION`. Distances to the chosen only ever fall, so centres are chosen among a pool
    of the farthest points for as long as they are farther away than anything outside it was; then
    all points meet the new centres in one product of matrices, ``||x||^2 + ||c||^2 - 2 <x, c>``.
    The order is that of the plain algorithm, up to rounding, in N^2 D operations and memory for a
    copy of the points (N, D).
    """
    limit = len(points) if limit is None else min(limit, len(points))
    search = _Search(points)
    order = search.new
    while len(order) < limit:
        found = search.choose(limit - len(order))
        if not found:
            break
        order += found
    return order


class _Search:
    """Points that are left, with their squared distances to the nearest centre."""

    def __init__(self, points: Tensor) -> None:
        self._points = points - points.mean(0)
        self._squares = self._points.square().sum(1)
        self._zero = RESOLUTION * torch.finfo(points.dtype).eps * self._squares
        self._nearest = torch.full_like(self._squares, torch.inf)
        self._positions = torch.arange(len(points), device=points.device)
        self._new = self._squares.argmin()[None]
        """Centres that not all points have met, as rows; first the point nearest to the mean."""

    def choose(self, most: int) -> list[int]:
        """Choose up to ``most`` points in order, at least one; none if all coincide with centres.

        What is outside the pool was at most as far away as the first one there.
        """
        self._meet()
        farthest, rows = self._nearest.sort(descending=True, stable=True)
        outside = (-1.0, 0)
        if len(rows) > POOL:
            outside = (float(farthest[POOL]), -int(rows[POOL]))
        pool = rows[:POOL].sort().values
        positions, pairs = pool.tolist(), self._pairs(pool)
        nearest = self._nearest[pool].cpu().numpy()
        chosen: list[int] = []
        while len(chosen) < most:
            place = int(nearest.argmax())
            value = float(nearest[place])
            if value <= 0 or (chosen and (value, -positions[place]) < outside):
                break
            chosen.append(place)
            np.minimum(nearest, pairs[place], out=nearest)
            nearest[place] = -1
        self._new = pool[chosen]
        return self.new

    @property
    def new(self) -> list[int]:
        """The latest centres, as positions."""
        return self._positions[self._new].tolist()

    def _pairs(self, pool: Tensor) -> NDArray[np.floating]:
        """Return all squared distances within the pool, where NumPy can reach them.

        Choosing from them takes microseconds, which a call of torch would not.
        """
        points, squares = self._points[pool], self._squares[pool]
        pairs = torch.addmm(squares, points, points.T, alpha=-2) + squares[:, None]
        return pairs.masked_fill_(pairs <= self._zero[pool], 0).cpu().numpy()

    def _meet(self) -> None:
        """Bring all distances up to date with the new centres, which drop out."""
        centres, squares = self._points[self._new], self._squares[self._new]
        for start in range(0, len(self._points), ROWS):
            rows = slice(start, start + ROWS)
            distances = torch.addmm(squares, self._points[rows], centres.T, alpha=-2).amin(1)
            distances += self._squares[rows]
            distances.masked_fill_(distances <= self._zero[rows], 0)
            torch.minimum(self._nearest[rows], distances, out=self._nearest[rows])
        self._nearest[self._new] = -1
        left = self._nearest >= 0
        if int(left.sum()) < 0.75 * len(left):  # rows of centres cost time, a copy does too
            self._points, self._squares = self._points[left], self._squares[left]
            self._zero, self._nearest = self._zero[left], self._nearest[left]
            self._positions = self._positions[left]


class KCenter(EmbeddingMethod):
    """N - p for the sample that greedy k-center chooses p-th, p = 0, 1, ...; 0 if it never is.

    The farthest-first traversal of Gonzalez (1985), with which Sener and Savarese choose core-sets,
    on the penultimate embeddings of the trained query model, Euclidean distance, from the sample
    nearest the mean, as in DRoP. It covers the data within twice the smallest radius that so many
    centres allow. The order is complete, so that one score serves every keep fraction. Samples
    whose embedding coincides with that of an earlier choice share the score 0, and selection breaks
    the tie.
    """

    name = "k_center"
    summary = "order in which greedy k-center covers the embeddings; earliest kept"
    citation = "Sener and Savarese 2018, arXiv 1708.00489"

    def from_embeddings(
        self, embeddings: Embeddings, labels: Labels, seed: int = 0, device: str = "cpu"
    ) -> NDArray[np.float64]:
        try:
            order = greedy_order(torch.from_numpy(embeddings).to(device))
        except torch.OutOfMemoryError as error:
            size = embeddings.nbytes / 2**30
            raise ScoringError(
                f"Expected room on the GPU for twice the {size:.1f} GiB of embeddings, found too "
                "little; use a GPU with more memory, or a query model with narrower embeddings."
            ) from error
        scores = np.zeros(len(embeddings))
        scores[order] = len(embeddings) - np.arange(len(order))
        return scores
