"""Random scores: uniform pruning, the baseline that everything has to beat."""

from __future__ import annotations

import numpy as np

from raydrop.scores.base import RandomMethod, Scores


class Random(RandomMethod):
    """Independent uniform scores; the highest of them are a uniform draw without replacement."""

    name = "random"
    summary = "uniform draw without replacement"

    def draw(self, n: int, rng: np.random.Generator) -> Scores:
        return rng.random(n)
