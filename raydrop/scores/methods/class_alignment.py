"""Class alignment: whether training on a sample helps the class that is worst off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod
from raydrop.scores.source import GradientSource


class ClassAlignment(GradientMethod):
    """sum over sampled checkpoints t of eta_t <g_i, G_w>, with w the class of lowest recall.

    g_i is the sample's gradient over all parameters, and G_w the mean gradient of the training
    samples of class w, both at checkpoint t. To first order a step along -g_i changes the mean loss
    of class w by -eta_t <g_i, G_w>, so the score is how much a step on the sample helps that class:
    TracIn's influence (Pruthi et al. 2020, arXiv 2002.08484) on the class instead of on a test
    sample. Large values are kept. Recalls are those of the query run on validation.
    """

    name = "class_alignment"
    summary = "agreement with the gradient of the class of lowest recall; largest kept"
    citation = "after Pruthi et al. 2020, arXiv 2002.08484"
    looks_at = "sampled"
    quantities = ("dot_with_class_mean",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        assert source.run.validation_recalls is not None
        worst = worst_class(source.run.validation_recalls, source.labels)
        return source.over_run(lambda epoch: source.values("dot_with_class_mean", epoch, worst))


def worst_class(recalls: NDArray[np.float64], labels: NDArray[np.int64]) -> int:
    """Return the class of lowest recall (K,) among those with samples (N,), the first on ties."""
    present = np.bincount(labels, minlength=len(recalls)) > 0
    return int(np.argmin(np.where(present, recalls, np.inf)))
