"""What to keep, by scores and quotas, as a value that goes back into people's own training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from raydrop.errors import ConfigError, unknown_name, visible
from raydrop.selection.checks import IntArray
from raydrop.selection.quotas import QuotaRule, quota_rule, smooth_recalls
from raydrop.selection.scores import Scores, is_named, unmeasured
from raydrop.selection.select import budget_for, select
from raydrop.store.tables import COLUMNS, Units, write_kept

if TYPE_CHECKING:
    from torch.utils.data import Subset


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples that are kept, M of N."""

    indices: IntArray
    """Ascending positions, (M,)."""
    size: int
    """N, of what they were chosen from."""
    counts: Mapping[str | int, int]
    """Kept samples of every class, or group where quotas are by group: by name, or by number where
    they have no names."""
    samples: pd.DataFrame
    """What is known of each kept sample, in the order of :attr:`indices`."""

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        none = ", ".join(visible(name) for name, count in self.counts.items() if not count)
        return f"Selection({len(self)} of {self.size} samples{none and f', none of {none}'})"

    def subset(self, dataset: Any) -> Subset[Any]:
        """Return the kept part of a map-style data set, whose order is that of the scores.

        Raises:
            ConfigError: If it has another number of samples.
        """
        from torch.utils.data import Subset

        return Subset(self._checked(dataset), self.indices.tolist())

    def select(self, dataset: Any) -> Any:
        """Return the kept part of a ``datasets.Dataset``; see :meth:`subset`."""
        return self._checked(dataset).select(self.indices)

    def to_frame(self) -> pd.DataFrame:
        """Return a row per kept sample: ``index``, and what :meth:`Scores.to_frame` has."""
        frame = self.samples.reset_index(drop=True)
        frame.insert(0, "index", self.indices)
        return frame

    def to_csv(self, path: str | Path) -> None:
        """Write what is known of each kept sample, or raise a StoreError."""
        write_kept(Path(path), self.samples)

    def _checked(self, dataset: Any) -> Any:
        if len(dataset) != self.size:
            raise ConfigError(
                f"Expected the data set of {self.size} samples that the scores are of, found one "
                f"of {len(dataset)}; give that one, in the same order."
            )
        return dataset


def prune(
    scores: Scores | ArrayLike,
    labels: ArrayLike | None = None,
    *,
    keep_fraction: float,
    quotas: str = "none",
    groups: ArrayLike | None = None,
    by: str | None = None,
    recalls: Mapping[Any, float] | ArrayLike | None = None,
    recall_sizes: ArrayLike | None = None,
    recall_smoothing: float = 0.0,
    minimum_per_class: int = 0,
    quota_scores: Scores | None = None,
    higher_is_kept: bool | None = None,
    seed: int = 0,
) -> Selection:
    """Return which samples stay: those of best score, as many of each class as a quota rule says.

    The same as ``raydrop select`` does, in Python; see :mod:`raydrop.selection.quotas` for rules.

    Args:
        scores: A :class:`Scores`, or one number per sample, (N,).
        labels: Class of each sample, (N,), numbers from 0 or texts; those of the scores by default.
        keep_fraction: Share of the samples to keep, in (0, 1].
        quotas: A quota rule, such as ``drop``, ``balanced`` or ``from_method:el2n``.
        groups: Group of each sample, (N,), where quotas, recalls and the minimum are by group.
        by: ``class`` or ``group``, where the scores know both; ``class`` by default.
        recalls: On validation, in [0, 1]: by name, or (K,) in the order of the classes (of texts,
            their sorted order). Those that the scores know by default.
        recall_sizes: Validation samples of each class that ``recalls`` were measured on, (K,),
            which smoothing needs.
        recall_smoothing: Pseudocount that draws recalls towards 1/2; see
            :func:`~raydrop.selection.quotas.smooth_recalls`.
        minimum_per_class: Samples that quotas leave each class or group at least.
        quota_scores: Scores of the method that ``from_method:METHOD`` names, if others.
        higher_is_kept: Whether the highest scores stay; has to be said of plain numbers.
        seed: Of the order of samples with equal scores.

    Raises:
        ConfigError: If what is given does not fit together.

    Example:
        >>> kept = prune(
        ...     [0.9, 0.1, 0.4, 0.3], ["cat", "cat", "dog", "dog"], keep_fraction=0.5,
        ...     quotas="drop", recalls={"cat": 1.0, "dog": 0.5}, higher_is_kept=True,
        ... )
        >>> kept.indices.tolist(), kept.counts
        ([2, 3], {'cat': 0, 'dog': 2})
        >>> kept
        Selection(2 of 4 samples, none of cat)
    """  # fmt: skip
    found = _as_scores(scores, labels, groups, higher_is_kept)
    by = by or ("class" if groups is None else "group")
    rule = quota_rule(quotas)
    members, units = _members(found, by, needed=rule.name != "none")
    if not isinstance(recalls, Mapping) and recalls is not None and not is_named(units.names):
        most = max(len(units.names), np.size(recalls))
        units = units if most == len(units.names) else unmeasured([str(k) for k in range(most)])
    sizes = np.bincount(members, minlength=len(units.names))
    budget = budget_for(len(found), keep_fraction)
    measured = _recalls(units, recalls, recall_sizes, recall_smoothing)
    counts = _counts(rule, found, quota_scores or found, members, len(sizes), budget, seed)
    kept = select(
        found.values,
        members,
        budget,
        rule.allocate(sizes, measured, budget, minimum_per_class, counts),
        higher_is_kept=found.higher_is_kept,
        tie_seed=seed,
    )
    distinct = is_named(units.names) and len({*units.names}) == len(sizes)
    names = units.names if distinct else range(len(sizes))
    kept_sizes = np.bincount(members[kept], minlength=len(sizes)).tolist()
    by_name: dict[str | int, int] = dict(zip(names, kept_sizes, strict=True))
    return Selection(kept, len(found), by_name, found.to_frame().iloc[kept])


def _as_scores(
    scores: Scores | ArrayLike,
    labels: ArrayLike | None,
    groups: ArrayLike | None,
    higher_is_kept: bool | None,
) -> Scores:
    """Return scores with the labels and groups that are given, and know their direction."""
    if isinstance(scores, Scores):
        given: dict[str, Any] = {"labels": labels, "groups": groups}
        given = {name: each for name, each in given.items() if each is not None}
        replaced = {"class": "labels" in given, "group": "groups" in given}
        units = {by: each for by, each in scores.units.items() if not replaced[by]}
        if higher_is_kept is not None:
            given["higher_is_kept"] = higher_is_kept
        return dataclasses.replace(scores, **given, units=units) if given else scores
    if higher_is_kept is None:
        raise ConfigError(
            "Expected higher_is_kept with scores that are plain numbers, found none; say "
            "higher_is_kept=True where the highest are to stay, and False where the lowest are."
        )
    return Scores(scores, "scores", higher_is_kept, labels=labels, groups=groups)  # type: ignore[arg-type]


def _members(found: Scores, by: str, *, needed: bool) -> tuple[IntArray, Units]:
    """Return the class or group of each sample, and what is known of them."""
    if by not in COLUMNS:
        raise unknown_name("by", by, COLUMNS)
    members = found.members(by)
    if members is not None:
        return members, found.facts.units_by(by)
    if by == "class" and not needed:
        return np.zeros(len(found), np.int64), unmeasured(["all"])
    raise ConfigError(
        f"Expected a {by} for every sample, found scores without; give "
        f"{'labels' if by == 'class' else 'groups'}, (N,)."
    )


def _recalls(
    units: Units,
    recalls: Any,
    sizes: ArrayLike | None,
    smoothing: float,
) -> ArrayLike | None:
    """Return recalls in the order of the classes or groups, (U,), or None where none are known."""
    if recalls is None:
        if None in units.recalls:
            return None
        # Recalls may be known without the samples that they come from.
        recalls, sizes = units.recalls, units.sizes if any(units.sizes) else None
    if hasattr(recalls, "to_dict"):  # a series
        recalls = recalls.to_dict()
    if isinstance(recalls, Mapping):
        by_name = {str(name): value for name, value in recalls.items()}
        if odd := by_name.keys() ^ {*units.names}:
            name = sorted(odd)[0]
            found = f"one for {visible(name)!r}, which no sample has"
            if name not in by_name:
                found = f"none for {visible(name)!r}"
            known = ", ".join(map(visible, units.names[:5]))
            raise ConfigError(
                f"Expected one recall for each of {known}{', …' if units.names[5:] else ''}, found "
                f"{found}; measure each of them on validation samples."
            )
        recalls = [by_name[name] for name in units.names]
    if not smoothing:
        return recalls  # type: ignore[no-any-return]
    if sizes is None:
        raise ConfigError(
            "Expected recall_sizes to smooth recalls by, found none; give the number of validation "
            "samples of every class, or recall_smoothing=0."
        )
    return smooth_recalls(recalls, sizes, smoothing)


def _counts(
    rule: QuotaRule,
    found: Scores,
    other: Scores,
    members: IntArray,
    count: int,
    budget: int,
    seed: int,
) -> IntArray | None:
    """Return how many of the best samples by other scores each class or group has, (U,)."""
    if rule.method is None:
        return None
    if other.method != rule.method:
        raise ConfigError(
            f"Expected scores of {rule.method!r} for quotas from_method:{rule.method}, found those "
            f"of {other.method!r}; give the file of that method with --quota-scores, or its scores "
            "as quota_scores."
        )
    same = len(other) == len(found) and all(
        a is None or b is None or np.array_equal(a, b)
        for a, b in ((found.ids, other.ids), (found.labels, other.labels))
    )
    if not same:
        raise ConfigError(
            f"Expected scores of the same samples by {rule.method!r}, found others; "
            "score the same data set by both methods."
        )
    higher = other.higher_is_kept
    best = select(other.values, members, budget, higher_is_kept=higher, tie_seed=seed)
    return np.bincount(members[best], minlength=count)
