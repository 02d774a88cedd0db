"""How long a pruned training set is trained: an explicit rule, recorded with every trial."""

from __future__ import annotations

import math
from typing import NamedTuple

from raydrop.study import Budget, Training


class Length(NamedTuple):
    """The length of one training."""

    epochs: int
    """Passes over what is kept; the last one may end early, at :attr:`steps`."""
    steps: int
    """Optimiser steps in all."""


def training_length(rule: Budget, training: Training, n_kept: int, n_train: int) -> Length:
    """Return how long to train on ``n_kept`` of ``n_train`` samples.

    ``equal_epochs``: E epochs. ``equal_steps``: as many steps as E epochs on all the data take.
    ``drop_paper``: int((0.5 + 0.5 d) E / d) epochs at density d = n_kept / n_train (Vysogorets,
    Ahuja, Kempe 2025, arXiv 2404.05579). On all the data the three agree. E and the batch size are
    those of ``training``.

    Example:
        >>> [training_length("drop_paper", Training(epochs=160), n, 100).epochs
        ...  for n in (10, 30, 50, 80)]
        [880, 346, 240, 180]
    """
    per_epoch = math.ceil(n_kept / training.batch_size)
    if rule == "equal_steps":
        steps = training.epochs * math.ceil(n_train / training.batch_size)
        return Length(math.ceil(steps / per_epoch), steps)
    epochs = training.epochs
    if rule == "drop_paper":
        # (0.5 + 0.5 d) E / d with d = n_kept / n_train, in whole numbers: no rounding can lose one.
        epochs = (n_train + n_kept) * training.epochs // (2 * n_kept)
    return Length(epochs, epochs * per_epoch)
