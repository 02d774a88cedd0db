"""Entropy of the prediction: how undecided the trained network is."""

from __future__ import annotations

import numpy as np

from raydrop.scores.base import Scores, TraceMethod
from raydrop.training.trace import Trace


class Entropy(TraceMethod):
    """-sum_k p_k log p_k of the trained query model; the least certain samples are kept."""

    name = "entropy"
    summary = "entropy of the trained model's prediction; most uncertain kept"
    citation = "Coleman et al. 2020, arXiv 1906.11829"
    one_epoch = True

    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        return np.asarray(trace.entropy[-1])
