"""What makes a point of the frontier: everything that tells two trials apart but their seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

POINT = (
    "dataset",
    "model",
    "query_model",
    "method",
    "quotas",
    "loss",
    "network_method",
    "network_target",
    "budget",
    "keep_fraction",
)
"""What makes a point; rows of the frontier table are ordered by these."""

POINT_OF_STUDY = tuple(name for name in POINT if name not in ("dataset", "budget"))
"""The same within one study, all of whose trials have one data set and one budget."""


def points_of(trials: pd.DataFrame) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return every point, as values of :data:`POINT`, with its trials.

    Args:
        trials: A row per trial, as in :attr:`~raydrop.frontier.records.Records.trials`.

    Returns:
        Points in the order of their values, each with its rows in the order of their seeds.
    """
    ordered = trials.sort_values([*POINT, "seed"], kind="stable")
    return list(ordered.groupby(list(POINT), sort=True))
