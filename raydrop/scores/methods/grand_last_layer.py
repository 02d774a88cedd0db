"""GraNd of the last layer alone, which is what some libraries call GraNd."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod
from raydrop.scores.source import GradientSource


class GrandLastLayer(GradientMethod):
    """E || grad_v l(x, y; w_t) ||_2 over the parameters v of the last linear layer alone.

    As :class:`raydrop.scores.methods.grand.Grand`, with all other layers left out: a forward pass
    instead of a backward one, and another ranking. For features h and error e = softmax(z) -
    onehot(y) it is ||e||_2 (1 + ||h||^2)^(1/2) where the layer has a bias. DeepCore (Guo et al.
    2022, arXiv 2204.08499) computes this under the name of GraNd.
    """

    name = "grand_last_layer"
    summary = "norm of the last layer's gradient early in training; largest kept"
    citation = "Paul et al. 2021, arXiv 2107.07075; Guo et al. 2022, arXiv 2204.08499"
    reads = "initialisations"
    looks_at = "score_epoch"
    quantities = ("last_layer_norm",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        """Return the gradient norms (M,) after the run's early epoch."""
        assert source.run.score_epoch is not None
        return source.values("last_layer_norm", source.run.score_epoch)
