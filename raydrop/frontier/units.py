"""Classes or groups, *units*: what a table says of the one or the other gets neutral names here.

Files have columns such as ``worst_group_accuracy``; code reads ``worst_accuracy``, and asks
``unit`` only to name what it shows.
"""

from __future__ import annotations

import pandas as pd

from raydrop.study import By

NEUTRAL = {
    "recalls": "by_{}",
    "correct": "correct_by_{}",
    "totals": "test_by_{}",
    "agreement": "agreement_by_{}",
    "areas": "auc_by_{}",
    "worst_auc": "worst_{}_auc",
    "kept": "kept_by_{}",
    "validation_correct": "validation_by_{}",
    "validation_totals": "validation_sizes_by_{}",
    "worst_accuracy": "worst_{}_accuracy",
    "worst_accuracy_min": "worst_{}_accuracy_min",
    "worst_accuracy_max": "worst_{}_accuracy_max",
    "worst_accuracy_of_mean": "worst_{}_accuracy_of_mean",
    "worst": "worst_{}",
    "worst_low": "worst_{}_low",
    "worst_high": "worst_{}_high",
    "worst_on_validation": "worst_{}_on_validation",
    "gap": "{}_accuracy_gap",
    "std": "{}_accuracy_std",
}
"""Columns of trials and points that are about one unit, and what files call them."""


def column(neutral: str, unit: By) -> str:
    """Return what files call a column: ``worst_group_accuracy`` for ``worst_accuracy``."""
    return NEUTRAL[neutral].format(unit).removeprefix("class_")


def with_unit(table: pd.DataFrame, unit: By) -> pd.DataFrame:
    """Return trials or points, with what they say of a unit also under neutral names.

    Returns:
        The table with ``unit``, ``class`` or ``group``, and those columns of :data:`NEUTRAL` that
        it has.
    """
    named = {neutral: column(neutral, unit) for neutral in NEUTRAL}
    known = {neutral: table[name] for neutral, name in named.items() if name in table}
    return table.assign(unit=unit, **known)
