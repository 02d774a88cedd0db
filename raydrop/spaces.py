"""Search spaces of published comparisons, for sweep scripts to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DROP_SCORES = ("el2n", "grand", "forgetting", "dynamic_uncertainty", "k_center")
"""Scores that the DRoP paper compares with; its CoreSet is ``k_center``."""
DROP_KEEP_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Data set densities of its figures; its table has 0.3, 0.5 and 0.8."""


def drop_comparison(
    keep_fractions: Sequence[float] = DROP_KEEP_FRACTIONS, scores: Sequence[str] = DROP_SCORES
) -> list[dict[str, Any]]:
    """Return the cells that the DRoP paper compares (arXiv 2404.05579), as a ``param_space``.

    ============================  =============================  ========================
    name there                    ``method``                     ``quotas``
    ============================  =============================  ========================
    Random                        ``random``                     ``none``
    S                             S                              ``none``
    Random + S-quotas (StrategyQ) ``random``                     ``from_method:S``
    S + DRoP                      S                              ``drop``
    Random + DRoP                 ``random``                     ``drop``
    no pruning, no pruning CDB-W  ``none``, loss ``cdb_w`` too   ``none``
    ============================  =============================  ========================

    Args:
        keep_fractions: Data set densities d, in (0, 1).
        scores: Names for S.

    Returns:
        Search spaces whose points are joined, of plain values.
    """
    kept = {"keep_fraction": _each(keep_fractions)}
    borrowed = _each([f"from_method:{score}" for score in scores])
    return [
        {"method": _each(["random", *scores]), "quotas": _each(["none", "drop"]), **kept},
        {"method": "random", "quotas": borrowed, **kept},
        {"method": "none", "loss": _each(["cross_entropy", "cdb_w"])},
    ]


def _each(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Return what ``ray.tune.grid_search`` returns, without importing Ray."""
    return {"grid_search": list(values)}
