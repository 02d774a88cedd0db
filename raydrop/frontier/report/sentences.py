"""What the comparisons say, in a sentence for each model, loss and keep fraction.

Every difference stands beside its interval, and what cannot be told apart is called so: a sentence
claims no more than the verdict that it is made of.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from raydrop.frontier.points import DENSE, RANDOM, has_several_models, series_name
from raydrop.study import By

CELL = ["model", "loss", "keep_fraction"]
SERIES = ["method", "quotas", "query_model"]

Row = dict[str, Any]


def comparison_answers(compared: pd.DataFrame, by: By = "class") -> list[str]:
    """Return one sentence for each model, loss and keep fraction below 1, large fractions first.

    Each names the method and quotas with the largest difference in the worst class to random
    pruning without quotas (or, without that, to training on all the data), and says whether it is
    better; then the same method beside the other reference, and what happens to the average.
    Pruned networks are left to :func:`~raydrop.frontier.report.network_sentences.network_answers`.

    Args:
        compared: As from :func:`~raydrop.frontier.statistics.comparisons.comparisons`.
        by: Whether the worst class or the worst group is compared.
    """
    known = compared[compared["difference"].notna() & (compared["keep_fraction"] < 1)]
    known = known[known["network_target"] == DENSE]
    several = has_several_models(known)
    ordered = known.sort_values(CELL, ascending=[True, True, False], kind="stable")
    sentences = []
    for (model, loss, keep), rows in ordered.groupby(CELL, sort=False):
        place = f"At keep fraction {keep:g} with {f'{model} and ' if several else ''}{loss}"
        sentences.append(_sentence(place, rows, by))
    return [sentence for sentence in sentences if sentence]


def _sentence(place: str, rows: pd.DataFrame, by: By) -> str:
    """Return the sentence about one model, loss and keep fraction, empty without differences."""
    worst = rows[rows["measure"] == "worst"]
    if worst.empty:
        return ""
    first = min(worst["reference"].unique(), key=lambda name: (name != RANDOM, name))
    row = best_row(worst[worst["reference"] == first])
    same = rows[(rows[SERIES] == pd.Series(row)[SERIES]).all(axis=1)]
    others = same[(same["measure"] == "worst") & (same["reference"] != first)]
    averages = same[(same["measure"] == "average") & (same["reference"] == first)]
    parts = [
        _first(row, by),
        *(_beside(other) for other in rows_of(others)),
        *(_average(other) for other in rows_of(averages)[:1]),
    ]
    return f"{place}, {'; '.join(parts)}."


def best_row(rows: pd.DataFrame) -> Row:
    """Return the largest difference, of those that are better wherever any is."""
    better = rows[rows["verdict"] == "better"]
    chosen = rows if better.empty else better
    # The first of equals, whatever the sorting algorithm.
    return rows_of(chosen.sort_values("difference", ascending=False, kind="stable"))[0]


def _first(row: Row, by: By) -> str:
    series, reference = series_name(row), row["reference"]
    if row["verdict"] == "better":
        return f"{series} keeps the worst {by} {points_apart(row)} above {reference}"
    if row["verdict"] == "worse":
        return (
            f"nothing keeps the worst {by} above {reference}; "
            f"{series} comes nearest, {points_apart(row)} below"
        )
    return (
        f"it cannot be told whether anything keeps the worst {by} above {reference}; {series} is "
        f"highest ({signed_change(row)}{more_seeds(row)})"
    )


def _beside(row: Row) -> str:
    if row["verdict"] == "cannot tell":
        return f"it cannot be told from {row['reference']} ({signed_change(row)}{more_seeds(row)})"
    return f"it is {points_apart(row)} {_direction(row)} {row['reference']}"


def _average(row: Row) -> str:
    if row["verdict"] == "cannot tell":
        return f"its average cannot be told from that of {row['reference']} ({signed_change(row)})"
    return f"its average is {points_apart(row)} {_direction(row)} that of {row['reference']}"


def _direction(row: Row) -> str:
    return "above" if row["difference"] > 0 else "below"


def points_apart(row: Row) -> str:
    """Return how far apart, in percentage points: ``"12 ± 4 points"``."""
    return _with_interval(row, signed=False)


def signed_change(row: Row) -> str:
    """Return the difference with its sign: ``"+2 ± 5 points"``."""
    return _with_interval(row, signed=True)


def _with_interval(row: Row, *, signed: bool) -> str:
    difference, low, high = (100 * float(row[name]) for name in ("difference", "low", "high"))
    sign = 1.0 if signed or difference >= 0 else -1.0
    low, high = sorted((sign * low, sign * high))
    centre, form = sign * difference, "+" if signed else ""
    above, below = high - centre, centre - low
    digits = 0 if max(above, below) >= 1 else 1
    if abs(above - below) <= 10.0**-digits:
        half = (above + below) / 2
        return f"{_number(centre, form, digits)} ± {half:.{digits}f} points"
    ends = f"{_number(low, form, digits)} to {_number(high, form, digits)}"
    ends = f", {ends}" if signed else f" ({ends})"
    return f"{_number(centre, form, digits)} points{ends}"


def _number(value: float, form: str = "", digits: int = 0) -> str:
    """Return a rounded number with a real minus, and zero without a sign."""
    text = f"{value:{form}.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text.lstrip("+\N{MINUS SIGN}") if float(f"{value:.{digits}f}") == 0 else text


def more_seeds(row: Row) -> str:
    """Return how many seeds would tell, where that is known and more than there are."""
    seeds = row["seeds_needed"]
    if pd.isna(seeds) or seeds <= row["n_seeds"]:
        return ""
    return f", about {seeds:.0f} seeds would tell"


def rows_of(rows: pd.DataFrame) -> list[Row]:
    """Return rows by column."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
