"""Weights by how many samples of a class or group are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses.base import Loss, UnitWeighted, weights_of_present


def inverse_frequency_weights(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights (U,) in inverse proportion to sizes: w_u = n / (P n_u), n = sum_u n_u.

    P counts the units that have samples; others weigh 0. The sizes-weighted mean of the weights is
    1, so the loss over all kept samples is the mean of the units' own mean losses, and the usual
    learning rates fit. It is what scikit-learn calls ``balanced``.

    Example:
        >>> inverse_frequency_weights(np.array([60, 30, 10, 0])).round(3).tolist()
        [0.556, 1.111, 3.333, 0.0]
    """
    weights = np.zeros(len(sizes))
    present = sizes > 0
    weights[present] = sizes.sum() / (present.sum() * sizes[present])
    return weights


def effective_number_weights(sizes: NDArray[np.int64], beta: float) -> NDArray[np.float64]:
    """Return weights (U,) in inverse proportion to effective numbers of samples.

    w_u is proportional to (1 - beta) / (1 - beta^n_u) and the weights sum to the number of units
    that have samples, others weighing 0: all weigh 1 at beta = 0, and the weights approach those in
    proportion to 1 / n_u as beta, in [0, 1), approaches 1. The authors use 0.9 to 0.9999.

    Source: Cui, Jia, Lin, Song, Belongie, "Class-balanced loss based on effective number of
    samples", 2019, arXiv 1901.05555.
    """
    present = sizes[sizes > 0]
    with np.errstate(divide="ignore"):  # log 0, at beta = 0, is the right limit
        covered = -np.expm1(present * np.log(beta))
    return weights_of_present((1 - beta) / covered, sizes)


INVERSE_FREQUENCY = Entry[Loss](
    "inverse_frequency",
    lambda context: UnitWeighted(inverse_frequency_weights(context.unit_sizes)),
    "classes (or groups) count alike, whatever their sizes",
    "the usual form of balanced weights; King and Zeng 2001",
)
CLASS_BALANCED = Entry[Loss](
    "class_balanced",
    lambda context, beta: UnitWeighted(effective_number_weights(context.unit_sizes, beta)),
    "classes (or groups) weigh the inverse of their effective number of samples",
    "Cui et al. 2019, arXiv 1901.05555",
    (Parameter("beta", 0.9999, below=1.0),),
)
