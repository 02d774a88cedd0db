"""GraNd: the norm of a sample's gradient early in training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod, QueryResult
from raydrop.scores.sharding import ShardedGradients


class Grand(GradientMethod):
    """|| grad_w l(x, y; w_t) ||_2 over all parameters, at one early epoch t of one query run.

    Early in training and not at initialisation, where the score does not reproduce (Kirsch 2023,
    arXiv 2303.14753). The paper averages over several initialisations; here each seed of a study
    has its own query run, so the spread over seeds includes that of the scores.
    """

    name = "grand"
    summary = "norm of the gradient over all parameters early in training; largest kept"
    citation = "Paul et al. 2021, arXiv 2107.07075"

    def passes(self, checkpoints: int) -> int:  # noqa: ARG002 - it looks at one alone
        """Return the cost of forming every sample's gradient once, about three passes."""
        return 3

    def from_gradients(self, run: QueryResult, gradients: ShardedGradients) -> NDArray[np.floating]:
        """Return the gradient norms (N,) after the run's early epoch."""
        return gradients.norms(run.state_after(run.score_epoch))
