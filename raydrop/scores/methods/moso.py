"""MoSo: what the loss on the others would gain if a sample moved out of training."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import ScoringError
from raydrop.scores.base import GradientMethod
from raydrop.scores.quantities import QuantityName
from raydrop.scores.source import GradientSource


def leave_one_out(
    dots: NDArray[np.float64], norms: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """Return <(N G - g_i) / (N - 1), g_i> = (N d_i - ||g_i||^2) / (N - 1).

    (N G - g_i) / (N - 1) is the mean gradient of all samples but i; d_i = <G, g_i>, (M,).
    """
    return (n * dots - norms**2) / (n - 1)


class Moso(GradientMethod):
    """First-order moving-one-sample-out score, from a surrogate for each part of the training set.

    M(z_i) = mean over checkpoints t of (T / N) eta_t <G_t, grad l(z_i, w_t)>, with T the steps of
    the surrogate that z_i's part was trained with, N the samples of that part, eta_t the learning
    rate, and G_t the mean gradient of the part's samples at checkpoint t, all parameters, model in
    eval mode. The checkpoints are sampled once for all parts. A high score says that the others'
    loss would suffer without the sample, so it is kept; mislabelled samples and outliers come out
    low or negative.

    G_t stands for the leave-one-out gradient (N G_t - g_i) / (N - 1) of the paper, which leaves out
    a term of order ||g_i||^2 / N; :class:`MosoLoo` has it. With one part the query run on all the
    data is the surrogate.
    """

    name = "moso"
    summary = "agreement with the mean gradient over training; least useful pruned first"
    citation = "Tan et al. 2023, arXiv 2310.14664"
    reads = "partitions"
    looks_at = "sampled"
    quantities: ClassVar[tuple[QuantityName, ...]] = ("dot_with_mean",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        run, n = source.run, len(source.positions)
        products = source.over_run(lambda epoch: self.products(source, epoch))
        return products * run.steps / (n * len(run.sampled))

    def products(self, source: GradientSource, epoch: int) -> NDArray[np.float64]:
        """Return the products of mean gradient and own gradient after an epoch, (M,)."""
        return source.values("dot_with_mean", epoch)


class MosoLoo(Moso):
    """MoSo with the exact leave-one-out gradient.

    As :class:`Moso`, with <(N G_t - g_i) / (N - 1), g_i> in place of <G_t, g_i>: what is left of
    the agreement once a sample no longer agrees with itself. The difference matters where N, the
    samples of a part, is small, or a gradient is large: ||g_i||^2 / N against <G_t, g_i>.
    """

    name = "moso_loo"
    summary = "moso with the sample itself left out of the mean gradient"
    least_samples = 2
    quantities = ("norm", "dot_with_mean")

    def products(self, source: GradientSource, epoch: int) -> NDArray[np.float64]:
        """Return those with the others' mean; a ScoringError if a part has fewer than two."""
        n = len(source.positions)
        if n < 2:
            raise ScoringError(
                f"Expected at least 2 samples in each part, to leave one out, found {n}; "
                "lower partitions."
            )
        norms = source.values("norm", epoch)
        return leave_one_out(source.values("dot_with_mean", epoch), norms, n)
