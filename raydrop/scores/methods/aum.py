"""AUM: the margin of a sample over the whole of training."""

from __future__ import annotations

import numpy as np

from raydrop.scores.base import Scores, TraceMethod
from raydrop.training.trace import Trace


class Aum(TraceMethod):
    """Mean over epochs of z_y - max_{k != y} z_k; low values point to wrong labels and go first."""

    name = "aum"
    summary = "mean logit margin over training; likely mislabelled pruned first"
    citation = "Pleiss et al. 2020, arXiv 2001.10528"

    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        return np.asarray(trace.margin.mean(axis=0, dtype=np.float64))
