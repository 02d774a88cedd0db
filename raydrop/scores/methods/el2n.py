"""EL2N: how wrong the network is about a sample early in training."""

from __future__ import annotations

import numpy as np

from raydrop.scores.base import Scores, TraceMethod
from raydrop.training.trace import Trace


class El2n(TraceMethod):
    """E || softmax(f(x)) - onehot(y) ||_2 at one early epoch.

    The expectation is over initialisations, ``Study.initialisations`` query runs; the paper takes
    ten.
    """

    name = "el2n"
    summary = "norm of the error vector early in training; hardest kept"
    citation = "Paul et al. 2021, arXiv 2107.07075"
    one_epoch = True
    reads = "initialisations"

    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        return np.asarray(trace.error_norm[score_epoch - 1])
