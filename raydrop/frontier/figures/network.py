"""Accuracies against what remains of a network: a line per network method and loss.

A network whose single weights are masked computes as much as before, so its size is told by its
weights; all others by their multiply-accumulates, as measured.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from raydrop.frontier.points import (
    DENSE,
    PLAIN_LOSS,
    Row,
    data_name,
    has_networks,
    has_several_models,
)

MOST_PANELS = 6
"""Data selections that are shown: all the data and large keep fractions first."""

DATA = ["model", "keep_fraction", "method", "quotas", "query_model"]

SERIES = ["network_method", "loss"]
"""What makes a line."""


def network_points(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return what remains of each network beside its point.

    Args:
        table: Points, from :func:`~raydrop.frontier.table.frontier_table`.

    Returns:
        The points of pruned networks and of the dense networks of the same data selections, with
        ``data``, what it was trained on; ``remaining``, the share of the dense network's
        multiply-accumulates or, where ``masked``, of its parameters, in [0, 1]. By data selection,
        method, loss and falling share, at most :data:`MOST_PANELS` selections. None where no
        network is pruned or no record says how large it is.
    """
    if not has_networks(table):
        return None
    points = _measured(table)
    pruned = points["network_target"] != DENSE
    selections = points.loc[pruned, DATA].drop_duplicates()
    selections = selections.sort_values(DATA, ascending=[True, False, True, True, True])
    shown = selections.head(MOST_PANELS).assign(panel=range(min(len(selections), MOST_PANELS)))
    # Where it was trained with several losses, the dense network is the plain loss's.
    dense = points[~pruned].assign(other=points["loss"] != PLAIN_LOSS)
    dense = dense.sort_values("other", kind="stable").drop_duplicates(DATA).drop(columns="other")
    found = pd.concat([dense, points[pruned]]).merge(shown, on=DATA)
    if found.loc[found["network_target"] != DENSE, "remaining"].isna().all():
        return None
    several = has_several_models(table)
    found["data"] = [_data(row, several) for row in found.to_dict("records")]
    order = ["panel", *SERIES, "remaining"]
    ordered = found.sort_values(order, ascending=[True, True, True, False], kind="stable")
    return ordered.reset_index(drop=True)


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return points with ``masked`` and ``remaining``."""
    dense = table["network_target"] == DENSE
    masked = table["network_target"].str.startswith("sparsity") & ~dense
    gone = np.where(masked, table["network_sparsity"], table["macs_removed"])
    return table.assign(masked=masked, remaining=np.where(dense, 1.0, 1.0 - gone))


def _data(row: Row, several: bool) -> str:
    keep = "" if row["method"] == "none" else f", keep {row['keep_fraction']:g}"
    name = f"{data_name(row)}{keep}"
    return f"{row['model']}: {name}" if several else name
