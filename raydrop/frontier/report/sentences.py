"""What tables and comparisons say in sentences, and what is not there.

A mean stands beside the range of its seeds, a difference beside its interval, and what cannot be
told apart is called so: a sentence claims no more than the numbers that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from raydrop.frontier.figures.canvas import DASH, MINUS
from raydrop.frontier.points import (
    ALL,
    DENSE,
    DENSE_NETWORK,
    PLAIN_LOSS,
    RANDOM,
    RANDOM_NETWORKS,
    Point,
    data_name,
    family_name,
    has_several_models,
    is_dense,
    of_model,
    point_name,
    references,
    rows_of,
    series_name,
    setting_name,
    target_place,
)
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.densities import NOISY
from raydrop.frontier.table import AVERAGE, WORST
from raydrop.study import By

SERIES = ["method", "quotas", "query_model"]
CELL = ["model", "loss", "keep_fraction"]
DATA = ["model", "keep_fraction", *SERIES]
"""What a network was trained on."""

SHOWN_LINES = 200
"""Lines behind a sentence about what is not there; the others are counted."""
ONE_SEED = (
    "One seed only: how much results vary from seed to seed cannot be known. Every number, "
    "interval and front here is about these networks, not about the methods; run the sweep with "
    "more seeds."
)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a real minus, and zero without one."""
    return _without_hyphen(f"{value:+.{digits}f}")


def _without_hyphen(text: str) -> str:
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


# Means.


def verdicts(table: pd.DataFrame) -> list[str]:
    """Answer the study's question once for each model, which is named where there are several."""
    several = has_several_models(table)
    models = table.groupby("model")
    return [of_model(verdict(rows), {"model": m}, several_models=several) for m, rows in models]


def verdict(table: pd.DataFrame) -> str:
    """Say for one model whether less data will do without sacrificing the worst class or group.

    The worst class *held* at a point if its mean worst-class accuracy is at least that of training
    on all the data with the same loss. The answer names the smallest keep fraction with such a
    point, and there the one with the best worst class; or, if there is none, the nearest miss. A
    worst class that all the data leave at zero cannot be held. Pruned networks are left out, unless
    there are no others.
    """
    full, pruned = _full_and_pruned(table)
    if not pruned:
        told = [
            f"the worst {row['unit']} is at {_mean(row)} with {loss}" for loss, row in full.items()
        ]
        return f"Every finished trial keeps all the data: {', '.join(told)}."
    compared = [(row, full[row["loss"]]) for row in pruned if row["loss"] in full]
    alive = [pair for pair in compared if pair[1][WORST] > 0]
    if alive:
        return _held_or_nearest(alive)
    best = max(pruned, key=_merit)
    why = (
        f"All the data leave the worst {best['unit']} at 0.00, so there is nothing to sacrifice"
        if compared
        else "No finished trial keeps all the data with the same loss, so nothing can be compared"
    )
    return f"{why}; the best worst {best['unit']} is {_setting(best)}, at {_mean(best)}."


def _held_or_nearest(pairs: list[tuple[Point, Point]]) -> str:
    """Compare pruned points with their unpruned ones, given as pairs."""
    held = [pair for pair in pairs if pair[0][WORST] >= pair[1][WORST]]
    worst = f"worst {pairs[0][0]['unit']}"
    if held:
        smallest = min(row["keep_fraction"] for row, _ in held)
        there = [pair for pair in held if pair[0]["keep_fraction"] == smallest]
        row, reference = max(there, key=lambda pair: _merit(pair[0]))
        opening = f"The smallest keep fraction at which the {worst} held is {smallest:g}"
    else:
        row, reference = max(pairs, key=lambda pair: pair[0][WORST] - pair[1][WORST])
        opening = f"At no keep fraction did the {worst} hold; the nearest"
    text = (
        f"{opening}: {_setting(row)} has it at {_mean(row)}, {ALL} at {_mean(reference)}, "
        f"while average accuracy goes from {reference[AVERAGE]:.2f} to {row[AVERAGE]:.2f}."
    )
    low, high = f"{WORST}_min", f"{WORST}_max"
    if row[low] <= reference[high] and reference[low] <= row[high]:
        text += " The seed ranges overlap, so this difference may be chance."
    return text


def answers(table: pd.DataFrame) -> list[str]:
    """Return one sentence for each model, loss and keep fraction below 1, large fractions first.

    Each names the method and quotas with the best worst class or group, then random pruning without
    quotas (or, without such a point, the best method without quotas), then all the data.
    """
    several, sentences = has_several_models(table), []
    for model, points in table.groupby("model"):
        full, pruned = _full_and_pruned(points)
        for loss, keep in sorted({(row["loss"], -row["keep_fraction"]) for row in pruned}):
            rows = [r for r in pruned if (r["loss"], -r["keep_fraction"]) == (loss, keep)]
            place = f"{model} and {loss}" if several else loss
            sentences.append(_best_mean(rows, full.get(loss), place))
    return sentences


def _best_mean(rows: list[Point], full: Point | None, place: str) -> str:
    best = max(rows, key=_merit)
    free = [row for row in rows if row["quotas"] == "none"]
    random = [row for row in free if row["method"] == "random"]
    baseline = max(random or free, key=_merit, default=best)
    sentence = (
        f"At keep fraction {best['keep_fraction']:g} with {place}, {series_name(best)} keeps the "
        f"worst {best['unit']} at {_mean(best)}"
    )
    if baseline is not best:
        sentence += f", {series_name(baseline)} at {baseline[WORST]:.2f}"
    return f"{sentence}; {ALL} give {full[WORST]:.2f}." if full else f"{sentence}."


def noise_answer(points: pd.DataFrame) -> str:
    """Say which series prunes most of the mislabelled samples at each keep fraction."""
    order = points.sort_values(["keep_fraction", NOISY], ascending=False, kind="stable")
    parts = [
        f"by {row['name']} at keep fraction {row['keep_fraction']:g} ({row[NOISY]:.2f}, "
        f"{_seeds(row, NOISY)}; a uniform draw: {row['uniform']:.2f})"
        for row in rows_of(order.drop_duplicates("keep_fraction"))
    ]
    return f"The largest share of the mislabelled samples is pruned {', '.join(parts)}."


def _full_and_pruned(table: pd.DataFrame) -> tuple[dict[str, Point], list[Point]]:
    """Return the points on all the data by loss, and the others; of dense networks if any are."""
    dense = table[table["network_target"] == DENSE]
    rows = rows_of(table if dense.empty else dense)
    full = {row["loss"]: row for row in rows if row["method"] == "none"}
    return full, [row for row in rows if row["method"] != "none"]


def _merit(row: Point) -> tuple[float, float]:
    return row[WORST], row[AVERAGE]


def _setting(row: Point) -> str:
    return f"{series_name(row)} with {row['loss']} at keep fraction {row['keep_fraction']:g}"


def _mean(row: Point) -> str:
    return f"{row[WORST]:.2f} ({_seeds(row, WORST)})"


def _seeds(row: Point, name: str) -> str:
    if row["n_seeds"] == 1:
        return "one seed"
    return f"seed range {row[f'{name}_min']:.2f}{DASH}{row[f'{name}_max']:.2f}"


# Differences.


def comparison_answers(compared: pd.DataFrame, unit: By = "class") -> list[str]:
    """Return one sentence for each model, loss and keep fraction below 1, large fractions first.

    Each names the method and quotas with the largest difference in the worst class to random
    pruning without quotas (or, without that, to training on all the data), and says whether it is
    better; then the same method beside the other reference, and what happens to the average.
    Pruned networks are left to :func:`network_answers`.
    """
    known = compared[compared["difference"].notna() & (compared["keep_fraction"] < 1)]
    known = known[known["network_target"] == DENSE]
    several = has_several_models(known)
    ordered = known.sort_values(CELL, ascending=[True, True, False], kind="stable")
    sentences = []
    for (model, loss, keep), rows in ordered.groupby(CELL, sort=False):
        worst = rows[rows["measure"] == "worst"]
        if worst.empty:
            continue
        first = min(worst["reference"].unique(), key=lambda name: (name != RANDOM, name))
        best = _best(worst[worst["reference"] == first])
        same = rows[(rows[SERIES] == pd.Series(best)[SERIES]).all(axis=1)]
        parts = [_whether_best(best, series_name(best), unit, "nothing", "anything")]
        for row in rows_of(same):
            if row["measure"] == "worst" and row["reference"] != first:
                parts.append(_beside(row, "it", row["reference"], more_seeds(row)))
        averages = same[(same["measure"] == "average") & (same["reference"] == first)]
        for row in rows_of(averages)[:1]:
            parts.append(_beside(row, "its average", f"that of {row['reference']}"))
        place = f"{model} and {loss}" if several else loss
        sentences.append(f"At keep fraction {keep:g} with {place}, {'; '.join(parts)}.")
    return sentences


def network_answers(compared: pd.DataFrame, unit: By = "class") -> list[str]:
    """Return at which target the worst class falls below the dense network's, and which loss helps.

    For each model and data selection, more data first: a sentence for each network method with
    cross-entropy, then one for each target about losses, then those about methods with other
    losses. Pruning at random is left out, unless there is nothing else.
    """
    pruned = (compared["network_target"] != DENSE) & (compared["measure"] == "worst")
    known = compared[pruned & compared["difference"].notna()]
    several = has_several_models(compared)
    at_random = known["network_method"].map(family_name).isin(list(RANDOM_NETWORKS))
    known = known if at_random.all() else known[~at_random]
    known = known.assign(place=known["network_target"].map(target_place))
    ordered = known.sort_values([*DATA, "place"], ascending=[True, False, *[True] * 4])
    sentences: list[str] = []
    for _, rows in ordered.groupby(DATA, sort=False):
        row = rows_of(rows)[0]
        keep = "" if row["method"] == "none" else f" at keep fraction {row['keep_fraction']:g}"
        data = f"{row['model']} on {data_name(row)}{keep}" if several else f"{data_name(row)}{keep}"
        plain = rows["loss"] == PLAIN_LOSS
        sentences += _falls(rows[plain], data, unit)
        for target, same in rows[rows["reference"] == PLAIN_LOSS].groupby(
            "network_target", sort=False
        ):
            best = _best(same)
            place = f"At {target} with {best['network_method']} on {data}"
            told = _whether_best(best, best["loss"], unit, "no loss", "any loss")
            sentences.append(f"{place}, {told}.")
        sentences += _falls(rows[~plain], data, unit)
    return sentences


def _falls(rows: pd.DataFrame, data: str, unit: By) -> Iterator[str]:
    """Yield where the verdict is that the worst class is worse, for each loss and method."""
    dense = "that of the dense network"
    against = rows[rows["reference"] == DENSE_NETWORK]
    for (loss, method), targets in against.groupby(["loss", "network_method"], sort=True):
        rising = rows_of(targets)
        worse = [place for place, row in enumerate(rising) if row["verdict"] == "worse"]
        row = rising[worse[0] if worse else -1]
        text = f"With {method} and {loss} on {data}, the worst {unit}"
        if not worse:
            yield (
                f"{text} cannot be told to fall below {dense} at any target; at "
                f"{row['network_target']}, the furthest, it differs by {_unsure(row)}."
            )
            continue
        text += f" falls below {dense} at {row['network_target']}, by {apart(row)}"
        if worse[0]:
            last = rising[worse[0] - 1]
            text += f"; up to {last['network_target']} that cannot be told ({_unsure(last)})"
        yield f"{text}."


def _best(rows: pd.DataFrame) -> Point:
    """Return the largest difference, of those that are better wherever any is."""
    better = rows[rows["verdict"] == "better"]
    chosen = rows if better.empty else better
    # The first of equals, whatever the sorting algorithm.
    return rows_of(chosen.sort_values("difference", ascending=False, kind="stable"))[0]


def _whether_best(row: Point, name: str, unit: By, nothing: str, anything: str) -> str:
    """Say whether the best of several is better than its reference."""
    above = f"keeps the worst {unit}"
    if row["verdict"] == "better":
        return f"{name} {above} {apart(row)} above {row['reference']}"
    above = f"{above} above {row['reference']}"
    if row["verdict"] == "worse":
        return f"{nothing} {above}; {name} comes nearest, {apart(row)} below"
    return f"it cannot be told whether {anything} {above}; {name} is highest ({_unsure(row)})"


def _beside(row: Point, subject: str, reference: str, seeds: str = "") -> str:
    if row["verdict"] == "cannot tell":
        verb = "it cannot" if subject == "it" else f"{subject} cannot"
        return f"{verb} be told from {reference} ({apart(row, signed=True)}{seeds})"
    side = "above" if row["difference"] > 0 else "below"
    return f"{subject} is {apart(row)} {side} {reference}"


def _unsure(row: Point) -> str:
    return f"{apart(row, signed=True)}{more_seeds(row)}"


def apart(row: Point, *, signed: bool = False) -> str:
    """Return a difference in percentage points: ``"12 ± 4 points"``, or ``"+2 ± 5 points"``."""
    difference, low, high = (100 * float(row[name]) for name in ("difference", "low", "high"))
    sign = 1.0 if signed or difference >= 0 else -1.0
    low, high = sorted((sign * low, sign * high))
    centre, form = sign * difference, "+" if signed else ""
    above, below = high - centre, centre - low
    digits = 0 if max(above, below) >= 1 else 1

    def number(value: float) -> str:
        return _without_hyphen(f"{value:{form}.{digits}f}")

    if abs(above - below) <= 10.0**-digits:
        return f"{number(centre)} ± {(above + below) / 2:.{digits}f} points"
    ends = f"{number(low)} to {number(high)}"
    return f"{number(centre)} points{f', {ends}' if signed else f' ({ends})'}"


def more_seeds(row: Point) -> str:
    """Return how many seeds would tell, where that is known and more than there are."""
    seeds = row["seeds_needed"]
    if pd.isna(seeds) or seeds <= row["n_seeds"]:
        return ""
    return f", about {seeds:.0f} seeds would tell"


# What is not there.


def gaps(records: Records, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what is not there, or not known: a ``text`` each, and the ``lines`` behind it.

    Sentences are in the order of their weight; each line has a ``trial`` and a ``message``, at most
    :data:`SHOWN_LINES` of them.
    """
    asked, most = records.provenance["trials_asked"], table["n_seeds"].max()
    several = records.several_models
    point = partial(point_name, several_models=several)
    compared = list(zip(rows_of(table), references(rows_of(table)), strict=True))

    def trials(rows: Any, message: str = "message") -> list[tuple[str, str]]:
        return [(_trial(row, several), str(row.get(message, ""))) for row in rows]

    missing = {f"trial/{row['trial_id']}": _trial(row, several) for row in records.missing}
    without_reference = {
        setting_name(row, several_models=several): ""
        for row, found in compared
        if is_dense(row) and row["method"] != "none" and ALL not in found
    }
    noted = records.trials[records.trials["network_note"].fillna("") != ""]
    found = {
        f"Failed: {{}} of {asked} trials; running the sweep again retries them.": trials(
            records.failures
        ),
        f"Not finished: {{}} of {asked} trials.": trials(records.missing),
        "Damaged entries, set aside: {}; running the sweep again replaces them.": [
            (name, missing.get(name, "")) for name in records.damaged
        ],
        "Points with fewer seeds than others: {}; their means are noisier.": [
            (point(row), f"{row['n_seeds']} of {most} seeds")
            for row, _ in compared
            if row["n_seeds"] < most
        ],
        "Without training on all the data: {}; what pruning costs there is not known.": sorted(
            without_reference.items()
        ),
        "Without their dense network: {}; what pruning the network costs there is not known.": [
            (point(row), "")
            for row, found in compared
            if not is_dense(row) and DENSE_NETWORK not in found
        ],
        "Network targets that were not reached: {} trials; what was measured counts.": trials(
            rows_of(noted), "network_note"
        ),
    }
    told = [_told(text.format(len(lines)), lines) for text, lines in found.items() if lines]
    return told + ([_told(ONE_SEED, [])] if most == 1 else [])


def _told(text: str, lines: list[tuple[str, str]]) -> dict[str, Any]:
    shown = lines[:SHOWN_LINES]
    if len(lines) > SHOWN_LINES:
        shown.append((f"and {len(lines) - SHOWN_LINES} more", ""))
    return {"text": text, "lines": [{"trial": trial, "message": said} for trial, said in shown]}


def _trial(trial: Mapping[str, Any], several: bool) -> str:
    return f"{point_name(trial, several_models=several)}, seed {trial['seed']}"
