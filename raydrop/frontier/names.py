"""What series and points are called: the same in tables, figures and sentences.

A study has one target model or several, and scores come from the target model itself or from
another one, its query model. Models are named only where they tell something apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from raydrop.study import By

PLURALS: dict[By, str] = {"class": "classes", "group": "groups"}

DENSE = "none"
"""The network method and target of a network that was not pruned."""

Row = Mapping[Any, Any]
"""A point, or a trial's configuration, by column."""


def has_several_models(points: pd.DataFrame) -> bool:
    """Return whether points or trials belong to more than one target model."""
    return bool(points["model"].nunique() > 1)


def has_networks(points: pd.DataFrame) -> bool:
    """Return whether any network was pruned."""
    return "network_target" in points and bool((points["network_target"] != DENSE).any())


def is_dense(row: Row) -> bool:
    """Return whether the network was not pruned; rows of before that could be do not say."""
    return bool(row.get("network_target", DENSE) == DENSE)


def family_name(rule: str) -> str:
    """Return the name of a rule without its parameters: ``"flops"`` of ``"flops(0.75)"``."""
    return rule.partition("(")[0]


def target_place(target: str) -> tuple[Any, ...]:
    """Return what targets are ordered by: dense first, then by measure, then rising."""
    if target == DENSE:
        return 0, "", 0.0, target
    found = re.search(r"\(\s*([0-9.eE+-]+)", target)
    return 1, family_name(target), float(found[1]) if found else 0.0, target


def targets_of(points: pd.DataFrame) -> list[str]:
    """Return the network targets of points, dense first, then rising."""
    return sorted(points["network_target"].unique(), key=target_place)


def scorer_name(row: Row) -> str:
    """Return ``"moso"``, or ``"moso from resnet50"`` where scores come from another model."""
    return f"{row['method']}{_origin(row)}"


def data_name(row: Row) -> str:
    """Return what a network was trained on, ``"moso + drop from resnet50"`` or ``"all the data"``.

    Where rows say of which study they are, its name comes first: ``"second: moso + drop"``.
    """
    study = f"{row['study']}: " if "study" in row else ""
    if row["method"] == "none":
        return f"{study}all the data"
    return f"{study}{row['method']} + {row['quotas']}{_origin(row)}"


def series_name(row: Row) -> str:
    """Return :func:`data_name` and, where it was pruned, by what the network was.

    For example ``"moso + drop"``, ``"moso + drop, autobot"`` or ``"all the data, autobot"``.
    """
    return data_name(row) if is_dense(row) else f"{data_name(row)}, {row['network_method']}"


def setting_name(row: Row, *, several_models: bool) -> str:
    """Return what a table or panel is about: ``"cross_entropy"`` or ``"resnet18, cross_entropy"``.

    Where the network was pruned, its target follows: ``"cross_entropy, flops(0.75)"``.

    Args:
        row: Gives model and loss, and perhaps a network target.
        several_models: Whether other tables or panels are about other models.
    """
    name = f"{row['model']}, {row['loss']}" if several_models else str(row["loss"])
    return name if is_dense(row) else f"{name}, {row['network_target']}"


def point_name(row: Row, *, several_models: bool) -> str:
    """Return a point's name, such as ``"resnet18: moso + drop, cross_entropy, keep 0.2"``.

    Args:
        row: Gives model, method, quotas, loss, keep fraction and query model, and perhaps how the
            network was pruned.
        several_models: Whether to name the model.
    """
    name = f"{series_name(row)}, {row['loss']}"
    if row["method"] != "none":
        name += f", keep {row['keep_fraction']:g}"
    if not is_dense(row):
        name += f", {row['network_target']}"
    return f"{row['model']}: {name}" if several_models else name


def _origin(row: Row) -> str:
    return "" if row["query_model"] == row["model"] else f" from {row['query_model']}"
