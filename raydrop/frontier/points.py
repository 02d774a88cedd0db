"""What a point of the frontier is: its key, its name, and what it is compared with.

A point is everything that tells two trials apart but their seed. Names are the same in tables,
figures and sentences, and name models only where they tell something apart: a study has one target
model or several, and scores come from the target model itself or from another, its query model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pandas as pd

from raydrop.study import By

SERIES = ("model", "query_model", "method", "quotas")
"""What decides, with the keep fraction and the seed, which samples are kept."""

POINT = (
    "dataset",
    *SERIES,
    "loss",
    "network_method",
    "network_target",
    "budget",
    "keep_fraction",
)
"""What makes a point; rows of the frontier table are ordered by these."""

POINT_OF_STUDY = tuple(name for name in POINT if name not in ("dataset", "budget"))
"""The same within one study, all of whose trials have one data set and one budget."""

DENSE = "none"
"""The network method and target of a network that was not pruned."""

PLURALS: dict[By, str] = {"class": "classes", "group": "groups"}

RANDOM, ALL = "random + none", "all the data"
"""References of dense networks, as :func:`series_name` calls them."""

DENSE_NETWORK, PLAIN_LOSS = "dense network", "cross_entropy"
RANDOM_NETWORKS = {"random": "random filters", "unstructured_random": "random weights"}
"""References of pruned networks: the network before it was pruned, the same pruning and retraining
with the plain loss, and pruning at random."""

_SETTING = ("dataset", "model", "loss", "budget")
_DATA = ("dataset", *SERIES, "keep_fraction", "budget")

Row = Mapping[Any, Any]
"""A point, or a trial's configuration, by column."""
Point = dict[str, Any]


def rows_of(table: pd.DataFrame) -> list[Point]:
    """Return rows by column."""
    return cast("list[Point]", table.to_dict("records"))


def points_of(trials: pd.DataFrame) -> list[tuple[Point, pd.DataFrame]]:
    """Return every point in the order of values, with its trials in the order of seeds."""
    ordered = trials.sort_values([*POINT, "seed"], kind="stable")
    groups = ordered.groupby(list(POINT), sort=True)
    return [(dict(zip(POINT, key, strict=True)), rows) for key, rows in groups]


def references(points: Sequence[Row]) -> list[dict[str, int]]:
    """Return what every point is compared with: the places of its references, by their names.

    A dense network has :data:`RANDOM` (random pruning without quotas at the same keep fraction) and
    :data:`ALL`, both with its model and loss. A pruned one has references with the same data: its
    :data:`DENSE_NETWORK`, trained with cross-entropy where that is there, or else with its own
    loss, or any; :data:`RANDOM_NETWORKS`, of the same target and loss; and the same network with
    :data:`PLAIN_LOSS`, if its loss is another. No point is its own reference.
    """
    places: dict[tuple[Any, ...], int] = {}
    for place, point in enumerate(points):
        for key in _is_reference_for(point):
            places.setdefault(key, place)
    found = []
    for place, point in enumerate(points):
        there = {
            name: next((places[key] for key in keys if key in places), place)
            for name, keys in _references_of(point)
        }
        found.append({name: other for name, other in there.items() if other != place})
    return found


def data_of(point: Row) -> tuple[Any, ...]:
    """Return what a point shares with all networks of the same data."""
    return tuple(point[name] for name in _DATA)


def _references_of(point: Row) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Yield the name of each reference, and by which keys it is found, the first that is there."""
    setting, data, loss = tuple(point[name] for name in _SETTING), data_of(point), point["loss"]
    if is_dense(point):
        yield RANDOM, [(RANDOM, *setting, point["keep_fraction"])]
        yield ALL, [(ALL, *setting)]
        return
    method, target = point["network_method"], point["network_target"]
    yield DENSE_NETWORK, [(DENSE_NETWORK, *data, each) for each in (PLAIN_LOSS, loss, None)]
    for family, name in RANDOM_NETWORKS.items():
        if method.startswith("unstructured") == family.startswith("unstructured"):
            # With the same options, such as a schedule, or else as it is.
            same = family + method[len(family_name(method)) :]
            yield name, [(name, *data, target, loss, each) for each in (same, family)]
    if loss != PLAIN_LOSS:
        yield PLAIN_LOSS, [(PLAIN_LOSS, *data, target, method)]


def _is_reference_for(point: Row) -> Iterator[tuple[Any, ...]]:
    """Yield the keys by which a point is found as a reference."""
    setting, data, loss = tuple(point[name] for name in _SETTING), data_of(point), point["loss"]
    if is_dense(point):
        if point["method"] == "none":
            yield ALL, *setting
        elif (point["method"], point["quotas"]) == ("random", "none"):
            yield RANDOM, *setting, point["keep_fraction"]
        yield DENSE_NETWORK, *data, loss
        yield DENSE_NETWORK, *data, None
        return
    method, target = point["network_method"], point["network_target"]
    if loss == PLAIN_LOSS:
        yield PLAIN_LOSS, *data, target, method
    if family_name(method) in RANDOM_NETWORKS:
        yield RANDOM_NETWORKS[family_name(method)], *data, target, loss, method


def is_dense(row: Row) -> bool:
    """Return whether the network was not pruned; rows of before that could be do not say."""
    return bool(row.get("network_target", DENSE) == DENSE)


def unpruned(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points or trials of dense networks on all the data."""
    return points[(points["method"] == "none") & (points["network_target"] == DENSE)]


def has_networks(points: pd.DataFrame) -> bool:
    """Return whether any network was pruned."""
    return "network_target" in points and bool((points["network_target"] != DENSE).any())


def has_several_models(points: pd.DataFrame) -> bool:
    """Return whether points or trials belong to more than one target model."""
    return bool(points["model"].nunique() > 1)


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
        return f"{study}{ALL}"
    return f"{study}{row['method']} + {row['quotas']}{_origin(row)}"


def series_name(row: Row) -> str:
    """Return :func:`data_name` and, where it was pruned, by what the network was.

    For example ``"moso + drop"``, ``"moso + drop, autobot"`` or ``"all the data, autobot"``.
    """
    return data_name(row) if is_dense(row) else f"{data_name(row)}, {row['network_method']}"


def setting_name(row: Row, *, several_models: bool) -> str:
    """Return what a table or panel is about: ``"cross_entropy"`` or ``"resnet18, cross_entropy"``.

    Where the network was pruned, its target follows: ``"cross_entropy, flops(0.75)"``.
    """
    name = f"{row['model']}, {row['loss']}" if several_models else str(row["loss"])
    return name if is_dense(row) else f"{name}, {row['network_target']}"


def point_name(row: Row, *, several_models: bool) -> str:
    """Return a point's name, such as ``"resnet18: moso + drop, cross_entropy, keep 0.2"``."""
    name = f"{series_name(row)}, {row['loss']}"
    if row["method"] != "none":
        name += f", keep {row['keep_fraction']:g}"
    if not is_dense(row):
        name += f", {row['network_target']}"
    return of_model(name, row, several_models=several_models)


def of_model(name: str, row: Row, *, several_models: bool) -> str:
    """Return a name, with the row's model before it where there are several."""
    return f"{row['model']}: {name}" if several_models else name


def _origin(row: Row) -> str:
    return "" if row["query_model"] == row["model"] else f" from {row['query_model']}"
