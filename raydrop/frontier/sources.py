"""Which scores and query runs the finished trials of a study come from.

A trial's configuration names the entries of the store that it read, so nothing is guessed from
names. Records that do not say so, of tests or of older versions, have no sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raydrop.frontier.points import scorer_name
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
