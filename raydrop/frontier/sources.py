"""Which scores and query runs the finished trials of a study come from, and what all that took.

A trial's configuration names the entries of the store that it read, so nothing is guessed from
names. Records that do not say so, of tests or of older versions, have no sources.

Costs are what each piece of work recorded of itself, in seconds of the process that did it or
waited for it; several may have run at once, so their sum is no waiting time. A query run that
several methods read is shared out equally, and what each would have paid alone stands beside it.
Per-sample gradients that several scores read are paid by the score that was computed first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raydrop.frontier.points import ALL, Point, has_several_models, of_model, rows_of, scorer_name
from raydrop.frontier.records import Records
from raydrop.store import Entry, Store

READS = ("scores", "quota_scores", "recalls")
"""What a trial's configuration may name: scores that rank samples, scores that set quotas, and the
query run whose validation recalls set quotas."""


@dataclass(frozen=True, eq=False)
class Sources:
    """What finished trials were made from."""

    trials: pd.DataFrame
    """The trials in the order of :attr:`~raydrop.frontier.records.Records.trials`, with a column
    for each of :data:`READS`: a key, or None."""
    scores: Mapping[str, Entry]
    """Entries of kind ``scores`` that trials read and that say what they are, by key; ordered by
    method, query model and seed."""
    queries: Mapping[str, Mapping[str, Any]]
    """What query runs that these scores or trials read say of themselves, by key."""

    def scorer(self, key: str) -> str:
        """Return ``"moso"``, or ``"moso from resnet50"`` where scores come from several models."""
        info = self.scores[key].info
        model = info.get("query_model")
        named = self.several_models and model is not None
        row = {"method": info["method"], "query_model": model, "model": None if named else model}
        return scorer_name(row)

    @property
    def several_models(self) -> bool:
        """Whether scores come from more than one query model."""
        return len({entry.info.get("query_model") for entry in self.scores.values()} - {None}) > 1


def load_sources(records: Records) -> Sources:
    """Read what finished trials were made from; what is absent or does not say is left out."""
    store = Store(records.place, glance=True)
    entries = [store.peek("trial", str(key)) for key in records.trials["trial_id"]]
    configs = [{} if entry is None else entry.config for entry in entries]
    read: dict[str, list[Any]] = {name: [config.get(name) for config in configs] for name in READS}
    index = records.trials.index
    columns = {name: pd.Series(keys, dtype=object, index=index) for name, keys in read.items()}
    scores = _scores(store, {*read["scores"], *read["quota_scores"]} - {None})
    wanted = {query for entry in scores.values() for query in entry.config.get("queries", ())}
    keys = sorted(wanted | (set(read["recalls"]) - {None}))
    queries = {key: entry.info for key in keys if (entry := store.peek("query", key)) is not None}
    return Sources(records.trials.assign(**columns), scores, queries)


def _scores(store: Store, keys: Iterable[str]) -> dict[str, Entry]:
    found = [entry for key in sorted(keys) if (entry := store.read("scores", key)) is not None]
    told = [entry for entry in found if {"method", "seed", "higher_is_kept"} <= set(entry.info)]

    def place(entry: Entry) -> tuple[Any, ...]:
        return entry.info["method"], str(entry.info.get("query_model")), entry.info["seed"]

    return {entry.key: entry for entry in sorted(told, key=place)}


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
    """Return what a study took, by method; None where no trial says how long it took."""
    trials = _trial_seconds(sources.trials)
    if trials.empty:
        return None
    queries = {key: _seconds(info, "train_seconds") for key, info in sources.queries.items()}
    scores = {key: _seconds(entry.info, "seconds") for key, entry in sources.scores.items()}
    readers, rows = _readers(sources), []
    for name, read in sorted(readers.items()):
        shares = {key: sum(key in other for other in readers.values()) for key in sorted(read)}
        row = {
            "name": name,
            "query_runs": len(read),
            "query_seconds": sum(queries[key] for key in shares),
            "query_share": sum(queries[key] / count for key, count in shares.items()),
            "score_seconds": sum(scores[key] for key in scores if sources.scorer(key) == name),
        }
        rows.append(row)
    columns = ["name", "query_runs", "query_seconds", "query_share", "score_seconds"]
    seconds = sources.trials["seconds"]
    totals = {
        "query runs": (len(queries), sum(queries.values())),
        "scores": (len(scores), sum(scores.values())),
        "trials": (int(seconds.notna().sum()), float(seconds.sum())),
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
    for trial in rows_of(sources.trials):
        if trial["recalls"] in sources.queries:
            scored = trial["scores"] in sources.scores
            name = sources.scorer(trial["scores"]) if scored else str(trial["method"])
            readers.setdefault(name, set()).add(trial["recalls"])
    return readers


def _trial_seconds(trials: pd.DataFrame) -> pd.DataFrame:
    several = has_several_models(trials)

    def name(row: Point) -> str:
        scorer = ALL if row["method"] == "none" else scorer_name(row)
        return of_model(scorer, row, several_models=several)

    known = trials[trials["seconds"].notna()]
    known = known.assign(name=[*map(name, rows_of(known))], whole=known["method"] == "none")
    order = ["model", "whole", "name", "keep_fraction"]
    spread = known.groupby(order)["seconds"].agg(
        seconds="mean", seconds_min="min", seconds_max="max", n_trials="size"
    )
    points = spread.reset_index().sort_values(order, ascending=[True, False, True, True])
    return points.drop(columns=["model", "whole"]).reset_index(drop=True)


def _seconds(info: Mapping[str, Any], name: str) -> float:
    return float(info.get(name) or 0.0)
