"""Dynamic uncertainty: how much the confidence in a sample moves during training."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from raydrop.scores.base import Scores, TraceMethod
from raydrop.training.trace import Trace

WINDOW = 10
"""J, the epochs of a window, as in the paper."""


class DynamicUncertainty(TraceMethod):
    """Mean over sliding windows of J = 10 epochs of the standard deviation of p_y.

    The last window ends with the last epoch. The deviation divides by J. A run shorter than J
    epochs has one window, the whole run.
    """

    name = "dynamic_uncertainty"
    summary = "mean standard deviation of p(true class) over windows of 10 epochs"
    citation = "He et al. 2023, arXiv 2306.05175"

    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        probability = np.asarray(trace.probability, dtype=np.float64)
        window = min(WINDOW, trace.epochs)
        windows = sliding_window_view(probability, window, axis=0)
        return np.asarray(windows.std(axis=-1).mean(axis=0))
