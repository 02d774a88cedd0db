"""Forgetting: how often a sample that was right becomes wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import Scores, TraceMethod
from raydrop.training.trace import Trace


class Forgetting(TraceMethod):
    """Number of transitions from correct to wrong between consecutive epochs.

    A sample that was never right was never learned: it counts as the hardest, +infinity. Toneva
    et al. count when a sample is presented; the trace looks after each epoch instead.
    """

    name = "forgetting"
    summary = "times a learned sample was forgotten; never learned = +inf, kept first"
    citation = "Toneva et al. 2019, arXiv 1812.05159"
    may_be_infinite = True

    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        correct = np.asarray(trace.correct)
        lost = correct[:-1] & ~correct[1:]
        forgotten: NDArray[np.float64] = lost.sum(axis=0).astype(np.float64)
        forgotten[~correct.any(axis=0)] = np.inf
        return forgotten
