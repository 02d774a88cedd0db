"""CCS: equally many samples from every range of difficulty, but none of the very hardest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.data.sampling import shuffled
from raydrop.scores.base import SamplingMethod, from_seen
from raydrop.scores.methods.aum import Aum
from raydrop.training.trace import Trace

STRATA = 50
"""Ranges of equal width into which the scores are cut, as in the paper."""

CUTOFF = 0.1
"""Share of hardest samples that is set aside."""


def strata_of(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return which of ``count`` equal ranges from the smallest score to the largest each is in."""
    low, high = scores.min(), scores.max()
    if low == high:
        return np.zeros(len(scores), dtype=np.int64)
    places: NDArray[np.int64] = ((scores - low) / (high - low) * count).astype(np.int64)
    return np.minimum(places, count - 1)


def ccs_order(
    scores: NDArray[np.float64], seed: int, *, cutoff: float = CUTOFF, strata: int = STRATA
) -> NDArray[np.int64]:
    """Return positions (N,) in an order whose first m are, for every m, a draw of CCS of budget m.

    CCS sets aside the floor(N * cutoff) samples of lowest score, which are the hardest, cuts the
    range of the others into strata of equal width, and shares a budget m equally among the strata:
    from the smallest to the largest, each gives as many random samples as an equal share of what is
    left, or all it has. The same numbers come about in rounds in which every stratum that has
    samples left gives one, the largest strata first, so that those get what an equal share leaves
    over. The rounds do not depend on m. What was set aside comes last, the least hard first.
    """
    chance = shuffled(len(scores), seed, "scores/ccs")
    hardest_first = np.lexsort((chance, scores))
    aside, rest = np.split(hardest_first, [int(len(scores) * cutoff)])
    stratum = strata_of(scores[rest], strata)
    sizes = np.bincount(stratum, minlength=strata)
    grouped = np.lexsort((chance[rest], stratum))
    turn = np.empty(len(rest), dtype=np.int64)
    turn[grouped] = np.arange(len(rest)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    smallness = np.argsort(np.argsort(sizes, kind="stable")[::-1], kind="stable")
    return np.concatenate([rest[np.lexsort((smallness[stratum], turn))], aside[::-1]])


class Ccs(SamplingMethod):
    """Coverage-centric selection over AUM: N - p for the sample that is drawn p-th.

    See :func:`ccs_order`; beta = 0.1 and 50 strata. The paper tunes beta to data and budget (for
    CIFAR-10 its code sets aside 0.3 where a tenth is kept). A score must serve every keep fraction,
    so beta is fixed here; above a keep fraction of 1 - beta, samples that were set aside come back.
    """

    name = "ccs"
    summary = "equal numbers from all ranges of aum, the hardest tenth last; random within a range"
    citation = "Zheng et al. 2023, arXiv 2210.15809"

    def draw_from_trace(self, trace: Trace, seed: int) -> NDArray[np.float64]:
        order = ccs_order(np.asarray(from_seen(Aum(), trace, 1), dtype=np.float64), seed)
        scores = np.empty(len(order))
        scores[order] = len(order) - np.arange(len(order))
        return scores
