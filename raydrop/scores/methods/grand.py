"""GraNd: the norm of a sample's gradient early in training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod
from raydrop.scores.source import GradientSource


class Grand(GradientMethod):
    """E || grad_w l(x, y; w_t) ||_2 over all parameters, at one early epoch t.

    The expectation is over initialisations, ``Study.initialisations`` query runs; the paper takes
    ten. Early in training and not at initialisation, where the score does not reproduce (Kirsch
    2023, arXiv 2303.14753).
    """

    name = "grand"
    summary = "norm of the gradient over all parameters early in training; largest kept"
    citation = "Paul et al. 2021, arXiv 2107.07075"
    reads = "initialisations"
    looks_at = "score_epoch"
    quantities = ("norm",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        """Return the gradient norms (M,) after the run's early epoch."""
        assert source.run.score_epoch is not None
        return source.values("norm", source.run.score_epoch)
