"""Published comparisons, for sweep scripts to start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from raydrop.study import Study

DROP_SCORES = ("el2n", "grand", "forgetting", "dynamic_uncertainty", "k_center")
"""Scores that the DRoP paper compares with; its CoreSet is ``k_center``."""
DROP_KEEP_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Data set densities of its figures; its table has 0.3, 0.5 and 0.8."""

_SMALL_TRAINING: dict[str, Any] = {"epochs": 15, "batch_size": 16, "learning_rate": 0.1}


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


def drop_in_small(study: Study, **changes: Any) -> Study:
    """Return a study of :func:`drop_comparison` in small, on scikit-learn's digits.

    Two keep fractions, two scores, two seeds and a network of 7,514 parameters: minutes on two
    cores. It shows that a sweep runs and what its report looks like, and no more.

    Args:
        study: Gives its name and whatever is not named here.
        changes: Fields of :class:`~raydrop.study.Study` that are to be others, ``dataset`` say.
    """
    fields: dict[str, Any] = {
        "name": f"{study.name}_small",
        "dataset": "digits",
        "model": "small_cnn",
        "param_space": drop_comparison((0.3, 0.8), scores=("el2n", "forgetting")),
        "seeds": (0, 1),
        "training": dataclasses.replace(study.training, **_SMALL_TRAINING),
        "initialisations": 2,
        "recall_smoothing": 1.0,
    }
    return dataclasses.replace(study, **fields | changes)


def _each(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Return what ``ray.tune.grid_search`` returns, without importing Ray."""
    return {"grid_search": list(values)}
