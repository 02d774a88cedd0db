"""Scores as a value: a number per sample, and what has to be known to prune by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from raydrop.errors import ConfigError
from raydrop.selection.checks import FloatArray, IntArray
from raydrop.selection.select import checked_labels, checked_scores
from raydrop.store.tables import COLUMNS, ScoreFacts, Units, read_scores, write_scores


@dataclass(frozen=True, eq=False)
class Scores:
    """One score per sample, and which end of them is kept.

    Labels and groups may be whole numbers from 0, or texts, which become numbers in their order;
    :attr:`units` has their names then.

    Raises:
        ConfigError: If there is not one number per sample, or other lengths than that.

    Example:
        >>> scores = Scores([0.2, 0.9, 0.4], "el2n", True, labels=["cat", "dog", "cat"])
        >>> scores.labels.tolist(), scores.names("class")
        ([0, 1, 0], ['cat', 'dog'])
    """

    values: FloatArray
    """(N,), float64; infinite ones are allowed, NaN is not."""
    method: str
    """Name of what they come from."""
    higher_is_kept: bool
    """Whether the highest of them are kept, rather than the lowest."""
    labels: IntArray | None = None
    """Classes 0...K-1, (N,), where they are known."""
    groups: IntArray | None = None
    """Groups 0...G-1, (N,), where there are some."""
    ids: IntArray | None = None
    """Sample ids, (N,); None where samples are known by their position."""
    units: Mapping[str, Units] = field(default_factory=dict)
    """Names of classes and groups (``class``, ``group``), with recalls on validation as far as they
    are known."""
    dataset: str = ""
    """Data set and variants."""
    model: str = ""
    """Whose scores they are."""
    seed: int = 0
    """Of the query run."""

    def __post_init__(self) -> None:
        units = dict(self.units)
        values = checked_scores(self.values)
        found: dict[str, object] = {"values": values, "units": units}
        given: dict[str, ArrayLike | None] = {"class": self.labels, "group": self.groups}
        for by, members in given.items():
            if members is None:
                continue
            numbers, names = checked_labels(members, len(values), COLUMNS[by])
            found["labels" if by == "class" else "groups"] = numbers
            if names is not None:
                units[by] = unmeasured([str(name) for name in names])
            elif by not in units:
                units[by] = unmeasured([str(k) for k in range(int(numbers.max(initial=-1)) + 1)])
            elif numbers.max(initial=-1) >= len(units[by].names):
                raise ConfigError(
                    f"Expected {COLUMNS[by]}s from 0 to {len(units[by].names) - 1}, one for each "
                    f"name, found {numbers.max()}; name every {by}."
                )
        if self.ids is not None:
            found["ids"] = np.asarray(self.ids)
            if np.shape(self.ids) != values.shape:
                raise ConfigError(
                    f"Expected an id for each of {len(values)} scores, found an array of shape "
                    f"{np.shape(self.ids)}; pass scores and ids of the same samples."
                )
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        end = "highest" if self.higher_is_kept else "lowest"
        return f"Scores({self.method}, {len(self)} samples, {end} kept)"

    @cached_property
    def facts(self) -> ScoreFacts:
        """What files of scores say besides their rows."""
        return ScoreFacts(
            method=self.method,
            higher_is_kept=self.higher_is_kept,
            dataset=self.dataset,
            model=self.model,
            seed=self.seed,
            units=dict(self.units),
        )

    def members(self, by: str) -> IntArray | None:
        """Return the class or the group of each sample, (N,), where it is known."""
        return self.labels if by == "class" else self.groups

    def names(self, by: str) -> list[str]:
        """Return the names of the classes or groups; raise a ConfigError where there are none."""
        return self.facts.units_by(by).names

    def sizes(self, by: str) -> IntArray:
        """Return how many samples each class or group has, (U,)."""
        members = self.members(by)
        assert members is not None
        return np.bincount(members, minlength=len(self.names(by)))

    def to_frame(self) -> pd.DataFrame:
        """Return a row per sample: ``sample_id``, ``score``, and as far as known what else is.

        That is ``label``, ``class_name``, ``group`` and ``group_name``; names are there where they
        are other than the numbers. Without ids, ``sample_id`` is the position.
        """
        ids = np.arange(len(self)) if self.ids is None else self.ids
        frame = pd.DataFrame({"sample_id": ids})
        for by, column in COLUMNS.items():
            members = self.members(by)
            if members is not None:
                frame[column] = members
                if is_named(names := self.names(by)):
                    frame[f"{by}_name"] = np.array(names, dtype=object)[members]
        return frame.assign(score=self.values)

    def save(self, path: str | Path) -> None:
        """Write ``scores.parquet``, which ``raydrop select`` and :meth:`load` read.

        Raises:
            ConfigError: If labels are not known.
            StoreError: If it cannot be written.
        """
        if self.labels is None:
            raise ConfigError(
                "Expected labels of the samples to save their scores, found none; give them, as in "
                "dataclasses.replace(scores, labels=labels)."
            )
        columns = ["sample_id", *(COLUMNS[by] for by in self.units), "score"]
        write_scores(Path(path), self.to_frame()[columns], self.facts)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Return what :meth:`save` or ``raydrop score`` wrote; a ConfigError if that is not there.

        Example:
            >>> import tempfile
            >>> folder = Path(tempfile.mkdtemp())
            >>> Scores([0.2, 0.9], "el2n", True, labels=[0, 1]).save(folder / "scores.parquet")
            >>> Scores.load(folder / "scores.parquet")
            Scores(el2n, 2 samples, highest kept)
        """
        frame, facts = read_scores(Path(path))
        members = {by: frame[COLUMNS[by]].to_numpy() for by in facts.units}
        return cls(
            values=frame["score"].to_numpy(),
            labels=members["class"],
            groups=members.get("group"),
            ids=frame["sample_id"].to_numpy(),
            **{each.name: getattr(facts, each.name) for each in dataclasses.fields(facts)},
        )


def unmeasured(names: list[str]) -> Units:
    """Return classes or groups whose recalls are not known."""
    return Units(names, [None] * len(names), [0] * len(names))


def is_named(names: list[str]) -> bool:
    """Whether classes or groups have names other than their numbers."""
    return names != [str(k) for k in range(len(names))]
