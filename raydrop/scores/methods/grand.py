"""GraNd: the norm of a sample's gradient early in training."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import GradientMethod
from raydrop.scores.quantities import QuantityName
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
    quantities: ClassVar[tuple[QuantityName, ...]] = ("norm",)

    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        assert source.run.score_epoch is not None
        return source.values(self.quantities[0], source.run.score_epoch)


class GrandLastLayer(Grand):
    """E || grad_v l(x, y; w_t) ||_2 over the parameters v of the last linear layer alone.

    As :class:`Grand`, with all other layers left out: a forward pass instead of a backward one, and
    another ranking. For features h and error e = softmax(z) - onehot(y) it is
    ||e||_2 (1 + ||h||^2)^(1/2) where the layer has a bias. Some libraries, such as DeepCore (Guo et
    al. 2022, arXiv 2204.08499), call this GraNd.
    """

    name = "grand_last_layer"
    summary = "norm of the last layer's gradient early in training; largest kept"
    citation = "Paul et al. 2021, arXiv 2107.07075; Guo et al. 2022, arXiv 2204.08499"
    quantities = ("last_layer_norm",)
