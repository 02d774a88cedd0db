"""What the comparisons say of pruned networks: where the worst class falls, and what protects it.

As in :mod:`~raydrop.frontier.report.sentences`, every difference stands beside its interval, and a
sentence claims no more than the verdict that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from raydrop.frontier.points import (
    DENSE,
    DENSE_NETWORK,
    PLAIN_LOSS,
    RANDOM_NETWORKS,
    data_name,
    family_name,
    has_several_models,
    target_place,
)
from raydrop.frontier.report.sentences import (
    best_row,
    more_seeds,
    points_apart,
    rows_of,
    signed_change,
)
from raydrop.study import By

DATA = ["model", "keep_fraction", "method", "quotas", "query_model"]
"""What a network was trained on."""

Row = dict[str, Any]


def network_answers(compared: pd.DataFrame, by: By = "class") -> list[str]:
    """Return at which target the worst class falls below the dense network's, and which loss helps.

    For each model and data selection, more data first: a sentence for each network method with
    cross-entropy, then one for each target about losses, then those about methods with other
    losses. Pruning at random is left out, unless there is nothing else.

    Args:
        compared: As from :func:`~raydrop.frontier.statistics.comparisons.comparisons`.
        by: Whether the worst class or the worst group is compared.
    """
    pruned = (compared["network_target"] != DENSE) & (compared["measure"] == "worst")
    known = compared[pruned & compared["difference"].notna()]
    several = has_several_models(compared)
    at_random = known["network_method"].map(family_name).isin(list(RANDOM_NETWORKS))
    known = known if at_random.all() else known[~at_random]
    known = known.assign(place=known["network_target"].map(target_place))
    ordered = known.sort_values([*DATA, "place"], ascending=[True, False, *[True] * 4])
    sentences = []
    for _, rows in ordered.groupby(DATA, sort=False):
        data = _data(rows_of(rows)[0], several)
        plain = rows["loss"] == PLAIN_LOSS
        sentences += [
            *_falls(rows[plain], data, by),
            *_losses(rows, data, by),
            *_falls(rows[~plain], data, by),
        ]
    return sentences


def _data(row: Row, several: bool) -> str:
    keep = "" if row["method"] == "none" else f" at keep fraction {row['keep_fraction']:g}"
    model = f"{row['model']} on " if several else ""
    return f"{model}{data_name(row)}{keep}"


def _falls(rows: pd.DataFrame, data: str, by: By) -> Iterator[str]:
    """Yield a sentence for each loss and network method: where it falls below the dense network."""
    against = rows[rows["reference"] == DENSE_NETWORK]
    for (loss, method), targets in against.groupby(["loss", "network_method"], sort=True):
        yield f"With {method} and {loss} on {data}, {_fall(rows_of(targets), by)}."


def _fall(targets: list[Row], by: By) -> str:
    """Say where the verdict is that the worst class is worse, given rising targets."""
    places = [place for place, row in enumerate(targets) if row["verdict"] == "worse"]
    dense = "that of the dense network"
    if not places:
        row = targets[-1]
        return (
            f"the worst {by} cannot be told to fall below {dense} at any target; at "
            f"{row['network_target']}, the furthest, it differs by {_difference(row)}"
        )
    row, before = targets[places[0]], targets[: places[0]]
    text = f"the worst {by} falls below {dense} at {row['network_target']}, by {points_apart(row)}"
    if before:
        last = before[-1]
        text += f"; up to {last['network_target']} that cannot be told ({_difference(last)})"
    return text


def _losses(rows: pd.DataFrame, data: str, by: By) -> Iterator[str]:
    """Yield a sentence for each target: the loss that protects the worst class best."""
    against = rows[rows["reference"] == PLAIN_LOSS]
    for target, same in against.groupby("network_target", sort=False):
        row = best_row(same)
        place = f"At {target} with {row['network_method']} on {data}"
        if row["verdict"] == "better":
            text = f"{row['loss']} keeps the worst {by} {points_apart(row)} above {PLAIN_LOSS}"
        elif row["verdict"] == "worse":
            text = (
                f"no loss keeps the worst {by} above {PLAIN_LOSS}; {row['loss']} comes nearest, "
                f"{points_apart(row)} below"
            )
        else:
            text = (
                f"it cannot be told whether any loss keeps the worst {by} above {PLAIN_LOSS}; "
                f"{row['loss']} is highest ({_difference(row)})"
            )
        yield f"{place}, {text}."


def _difference(row: Row) -> str:
    return f"{signed_change(row)}{more_seeds(row)}"
