"""What a study's query runs, scores and trials took, by method.

All numbers are what each piece of work recorded of itself, in seconds of the process that did it or
waited for it; several may have run at once, so their sum is no waiting time. A query run that
several methods read is shared out equally, and what each would have paid alone stands beside it.
Per-sample gradients that several scores read are paid by the score that was computed first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raydrop.frontier.points import has_several_models, scorer_name
from raydrop.frontier.sources import Sources, scorer_of

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


@dataclass(frozen=True, eq=False)
class Costs:
    """What a study took so far; seconds are sums over its seeds unless they are of a trial."""

    scorers: pd.DataFrame
    """A row per method (and query model), by name: ``name``, ``query_runs`` (that its scores or its
    quotas read), ``query_seconds`` (of all of them, as if it were alone), ``query_share`` (the same
    with each run shared out equally among those that read it), ``score_seconds``."""
    trials: pd.DataFrame
    """A row per method and keep fraction: ``name``, ``keep_fraction``, ``seconds`` (mean of a
    trial), ``seconds_min``, ``seconds_max``, ``n_trials``; all the data first, then by name."""
    totals: Mapping[str, tuple[int, float]]
    """How many query runs, scores and trials there are, and their seconds."""


def costs(sources: Sources) -> Costs | None:
    """Return what a study took, by method; None where no trial says how long it took.

    Args:
        sources: What trials were made from.
    """
    trials = _trials(sources.trials)
    if trials.empty:
        return None
    seconds = {key: _seconds(info, "train_seconds") for key, info in sources.queries.items()}
    readers = _readers(sources)
    scored = {key: _seconds(entry.info, "seconds") for key, entry in sources.scores.items()}
    rows = []
    for name, read in sorted(readers.items()):
        own = [key for key in sources.scores if sources.scorer(key) == name]
        rows.append(
            {
                "name": name,
                "query_runs": len(read),
                "query_seconds": sum(seconds[key] for key in sorted(read)),
                "query_share": sum(
                    seconds[key] / sum(key in other for other in readers.values())
                    for key in sorted(read)
                ),
                "score_seconds": sum(scored[key] for key in own),
            }
        )
    columns = ["name", "query_runs", "query_seconds", "query_share", "score_seconds"]
    totals = {
        "query runs": (len(seconds), sum(seconds.values())),
        "scores": (len(scored), sum(scored.values())),
        "trials": (
            int(sources.trials["seconds"].notna().sum()),
            float(sources.trials["seconds"].sum()),
        ),
    }
    return Costs(pd.DataFrame(rows, columns=columns), trials, totals)


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit that suits a duration, and its length in seconds."""
    return next(((name, length) for name, length in UNITS if seconds >= 2 * length), UNITS[-1])


def _readers(sources: Sources) -> dict[str, set[str]]:
    """Return the query runs that every scorer reads: for its scores, or for recalls of quotas."""
    readers: dict[str, set[str]] = {}
    for key, entry in sources.scores.items():
        queries = set(entry.config.get("queries", ()))
        readers.setdefault(sources.scorer(key), set()).update(queries & set(sources.queries))
    for trial in sources.trials.to_dict("records"):
        if trial["recalls"] in sources.queries:
            readers.setdefault(_name(trial, sources), set()).add(trial["recalls"])
    return readers


def _name(trial: Mapping[Any, Any], sources: Sources) -> str:
    if trial["scores"] in sources.scores:
        return scorer_of(sources.scores[trial["scores"]], several_models=sources.several_models)
    return str(trial["method"])


def _trials(trials: pd.DataFrame) -> pd.DataFrame:
    several = has_several_models(trials)
    known = trials[trials["seconds"].notna()]
    names = [_trial_name(row, several_models=several) for row in known.to_dict("records")]
    known = known.assign(name=names, whole=known["method"] == "none")
    spread = known.groupby(["model", "whole", "name", "keep_fraction"])["seconds"]
    points = spread.agg(
        seconds="mean", seconds_min="min", seconds_max="max", n_trials="size"
    ).reset_index()
    points = points.sort_values(
        ["model", "whole", "name", "keep_fraction"], ascending=[True, False, True, True]
    )
    return points.drop(columns=["model", "whole"]).reset_index(drop=True)


def _trial_name(row: Mapping[Any, Any], *, several_models: bool) -> str:
    name = "all the data" if row["method"] == "none" else scorer_name(row)
    return f"{row['model']}: {name}" if several_models else name


def _seconds(info: Mapping[str, Any], name: str) -> float:
    return float(info.get(name) or 0.0)
