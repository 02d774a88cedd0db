"""MoSo: what the loss on the others would gain if a sample moved out of training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod, QueryResult
from raydrop.scores.sharding import ShardedGradients


class Moso(GradientMethod):
    """First-order moving-one-sample-out score from one surrogate, the query run.

    M(z_i) = mean over checkpoints t of (T / N) eta_t <G_t, grad l(z_i, w_t)>, with T the steps of
    the run, N the training samples, eta_t the learning rate and G_t the mean gradient of all
    training samples at checkpoint t. The checkpoints are evenly spread over the run. The paper's
    leave-one-out gradient is (N G - g_i) / (N - 1); G replaces it here, which leaves out a term of
    order || g_i ||^2 / N.

    Per checkpoint: one backward pass for G, and one forward-mode product for all dot products.
    """

    name = "moso"
    summary = "agreement with the mean gradient over training; least useful pruned first"
    citation = "Tan et al. 2023, arXiv 2310.14664"

    def passes(self, checkpoints: int) -> int:
        """Return two per checkpoint: one for the mean gradient, one for the products."""
        return 2 * checkpoints

    def from_gradients(self, run: QueryResult, gradients: ShardedGradients) -> NDArray[np.floating]:
        """Return the scores (N,), in float64."""
        total = np.zeros(gradients.n)
        for epoch in run.spread:
            state = run.state_after(epoch)
            mean = gradients.mean_gradient(state)
            rate = run.learning_rates[epoch - 1]
            total += rate * gradients.dots(state, mean).astype(np.float64)
        return total * run.steps / (gradients.n * len(run.spread))
