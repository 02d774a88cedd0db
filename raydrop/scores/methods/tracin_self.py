"""TracIn self-influence: how much training on a sample lowered the loss on that same sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod
from raydrop.scores.source import GradientSource


class TracinSelf(GradientMethod):
    """sum over sampled checkpoints t of eta_t ||grad l(z_i, w_t)||^2, over all parameters.

    TracIn estimates what training on one sample did to the loss on another; with itself for the
    other, the largest values belong to samples that nothing but themselves explains. The paper uses
    the ranking to find mislabelled samples, at its top, so the top is what is pruned. GraNd, the
    norm early in training, is used the other way round: there, large means hard and worth keeping.
    """

    name = "tracin_self"
    summary = "self-influence, the squared gradient norm over training; largest pruned first"
    citation = "Pruthi et al. 2020, arXiv 2002.08484"
    higher_is_kept = False
    looks_at = "sampled"
    quantities = ("norm",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        return source.over_run(lambda epoch: source.values("norm", epoch) ** 2)
