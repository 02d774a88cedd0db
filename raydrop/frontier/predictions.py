"""Predictions from elsewhere become records, of which everything is made as of a study's own."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import ConfigError, DataError, visible
from raydrop.frontier.points import DENSE, PLAIN_LOSS
from raydrop.frontier.results import Results
from raydrop.store import Place, Store, open_place
from raydrop.store.places import STUDY
from raydrop.store.tables import read_texts
from raydrop.study import SCHEMA, By, canonical_json, config_hash

COLUMNS = ("method", "keep_fraction", "seed", "id", "label", "prediction")
"""What a table of predictions must have, but for ``method`` where it is a file."""

DEFAULTS = {
    "quotas": "none",
    "loss": PLAIN_LOSS,
    "model": "model",
}
"""What else tells points apart, and what it is where a table does not say."""

OPTIONAL = (*DEFAULTS, "group", "split")

_TEXTS = ("method", "label", "prediction", "group", "split", *DEFAULTS)
_TRIAL = ("method", *DEFAULTS, "keep_fraction", "seed")
_SPLITS = {"test": "test", "validation": "validation", "val": "validation"}

Table = pd.DataFrame | str | Path


def from_predictions(
    source: Table | Sequence[Table], *, name: str = "predictions", by: By | None = None
) -> Results:
    """Read predictions that were made elsewhere as if a study had made them.

    Every trial, which is all rows of one ``method``, ``quotas``, ``loss``, ``model``,
    ``keep_fraction`` and ``seed``, has to predict the same test samples. Training on all the data
    is the method ``none`` at the keep fraction 1.

    Args:
        source: A table, or the path of one (csv or parquet), or several of them: a row per trial
            and sample with ``method,keep_fraction,seed,id,label,prediction`` and, if wanted,
            ``quotas,loss,model,group,split``. Without ``method``, it
            is the file's name. ``label``, ``prediction`` and ``group`` may be texts; ``split`` is
            ``test`` or ``validation``, whose rows say only which class is worst there.
        name: What to call it all in the report.
        by: Whether worst cases are those of a ``class`` or a ``group``; None is groups where there
            are some.

    Returns:
        Results in a folder that lasts as long as they do; :meth:`Results.write` keeps them.

    Raises:
        ConfigError: If a table lacks a column, or cannot be read.
        DataError: If trials predict different samples, or a sample twice; if its label or group is
            not the same everywhere; or if something is not a number that has to be.

    Example:
        >>> import pandas as pd
        >>> rows = [("el2n", 0.3, 0, 0, "cat", "cat"), ("el2n", 0.3, 0, 1, "dog", "cat")]
        >>> columns = ["method", "keep_fraction", "seed", "id", "label", "prediction"]
        >>> found = from_predictions(pd.DataFrame(rows, columns=columns)).frontier
        >>> found[["average_accuracy", "worst_class"]].values.tolist()
        [[0.5, 'dog']]
    """
    tables = [source] if isinstance(source, pd.DataFrame | str | Path) else list(source)
    rows = pd.concat([_read(table) for table in tables], ignore_index=True)
    if rows.empty:
        raise DataError(
            "Expected predictions, found a table without rows; write one for each trial and sample."
        )
    if "group" in rows and rows["group"].isna().any():
        raise DataError(
            "Expected a group in all tables of predictions or in none, found some without; add the "
            "column there."
        )
    place = open_place(tempfile.mkdtemp(prefix="raydrop-"))
    weakref.finalize(place, shutil.rmtree, place.folder, ignore_errors=True)
    _write(place, rows, name, by)
    return Results(place)


def _read(table: Table) -> pd.DataFrame:
    """Return a table with all columns, its values of the kinds that they have to be."""
    if isinstance(table, pd.DataFrame):
        frame, where = table, "the table"
    else:
        frame = read_texts(Path(table), "predictions", ",".join(COLUMNS))
        where = str(table)
        frame = frame if "method" in frame else frame.assign(method=Path(table).stem)
    absent = [column for column in COLUMNS if column not in frame]
    wrong = [(c, n) for c in frame if (n := _meant(c, frame)) is not None]
    if absent or wrong:
        found = f"no {', '.join(absent)}" if absent else f"{wrong[0][0]!r}"
        meant = f" (did you mean {wrong[0][1]}?)" if wrong else ""
        raise ConfigError(
            f"Expected the columns {','.join(COLUMNS)}[,{','.join(OPTIONAL)}] in {where}, found "
            f"{found}{meant}; write a row for each trial and test sample."
        )
    frame = frame[[c for c in (*COLUMNS, *OPTIONAL) if c in frame]].reset_index(drop=True)
    empty = [str(column) for column in frame if frame[column].isna().any()]
    if empty:
        line = int(np.flatnonzero(frame[empty[0]].isna())[0]) + 1
        raise DataError(
            f"Expected {empty[0]} in every row of {where}, found none in row {line}; fill it in, "
            "or remove the row."
        )
    typed: dict[str, Any] = {n: value for n, value in DEFAULTS.items() if n not in frame}
    typed |= {c: _as_texts(frame[c]) for c in (*_TEXTS, "id") if c in frame}
    typed |= {c: _as_numbers(frame[c], c, where) for c in ("keep_fraction", "seed")}
    return frame.assign(**typed)


def _meant(column: object, frame: pd.DataFrame) -> str | None:
    """Return the column that another one's name is nearly that of; others may be there."""
    known = [each for each in (*COLUMNS, *OPTIONAL) if each not in frame]
    found = difflib.get_close_matches(str(column).lower(), known, n=1, cutoff=0.8)
    return found[0] if found and column not in (*COLUMNS, *OPTIONAL) else None


def _as_texts(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return values as texts: whole numbers without a point, also where pandas made them floats."""
    if values.dtype.kind == "f" and (values == values.round()).all():
        values = values.astype("int64")
    return values.astype(str)


def _as_numbers(values: pd.Series[Any], column: str, where: str) -> pd.Series[Any]:
    numbers = pd.to_numeric(values, errors="coerce")
    if column == "seed":
        right, what = (numbers >= 0) & (numbers == numbers.round()), "a whole number from 0 on"
    else:
        right, what = (numbers > 0) & (numbers <= 1), "a number in (0, 1]"
    if not right.all():
        at = int(np.flatnonzero(~right)[0])
        raise DataError(
            f"Expected {column} to be {what} in {where}, found {visible(values.iloc[at])!r} in row "
            f"{at + 1}; correct it."
        )
    return numbers.astype("int64") if column == "seed" else numbers.astype("float64").round(12)


def _write(place: Place, rows: pd.DataFrame, name: str, by: By | None) -> None:
    """Leave the data's facts, a record of every trial and ``study.json`` in a folder."""
    rows = rows.assign(split=_splits(rows)).sort_values("id", kind="stable")
    trials = [_Trial.of(key, each) for key, each in rows.groupby(list(_TRIAL), sort=True)]
    samples = trials[0].rows
    if "test" not in samples:
        raise DataError(
            f"Expected test rows, found none for {trials[0]}; write test where split says what "
            "they are."
        )
    names: dict[By, list[str]] = {"class": _ordered(samples["test"]["label"])}
    if len(names["class"]) < 2:
        raise DataError(
            f"Expected at least two labels in test, found {visible(names['class'][0])} alone; add "
            "the samples of the other classes."
        )
    if "group" in rows:
        names["group"] = _ordered(samples["test"]["group"])
    by = by or ("group" if "group" in names else "class")
    members = {s: {u: _numbers(each, u, names[u]) for u in names} for s, each in samples.items()}
    fingerprint = _fingerprint(samples, names)
    store, asked = Store(place), list[dict[str, Any]]()
    about = {"kind": "data", "schema": SCHEMA, "fingerprint": fingerprint}
    store.write("data", about, *_card(name, members, names))
    for trial in trials:
        trial.check_same(trials[0])
        found = {s: trial.predicted(s, members[s]["class"], names["class"]) for s in members}
        hashes = {
            split: hashlib.sha256(each.tobytes()).hexdigest() for split, each in found.items()
        }
        config = {"kind": "trial", "schema": SCHEMA, "data": fingerprint}
        config |= {"trial": trial.config, "predictions": hashes}
        info = {"dataset": name, "budget": "elsewhere", "by": by, **trial.config}
        info |= {"n_kept": None, "n_train": None, "network_sparsity": 0.0}
        if "validation" in found:
            info |= _held_out(found["validation"], members["validation"], names)
        store.write("trial", config, info, {"predictions": found["test"]})
        asked.append({"trial_id": config_hash(config), **trial.config})
    _write_study(place, name, by, fingerprint, asked)


@dataclass(frozen=True, eq=False)
class _Trial:
    """What a table says of one trial."""

    config: Mapping[str, Any]
    rows: Mapping[str, pd.DataFrame]
    """Of each split, ordered by id."""

    def __str__(self) -> str:
        c = self.config
        return f"{c['method']} + {c['quotas']} at {c['keep_fraction']:g}, seed {c['seed']}"

    @classmethod
    def of(cls, key: tuple[Any, ...], rows: pd.DataFrame) -> _Trial:
        values = [each.item() if isinstance(each, np.generic) else each for each in key]
        config = dict(zip(_TRIAL, values, strict=True))
        config |= {"query_model": config["model"], "network_method": DENSE, "network_target": DENSE}
        splits = {str(split): each for split, each in rows.groupby("split", sort=True)}
        trial = cls(config, splits)
        for split, each in trial.rows.items():
            twice = each["id"][each["id"].duplicated()]
            if len(twice):
                raise DataError(
                    f"Expected one prediction for each {split} id, found two or more for "
                    f"{visible(twice.iloc[0])} by {trial}; remove all but one."
                )
        return trial

    def check_same(self, first: _Trial) -> None:
        """Refuse other samples, or other labels or groups of them, than the first trial has."""
        if self.rows.keys() != first.rows.keys():
            raise DataError(
                f"Expected the splits {' and '.join(first.rows)} of every trial, found "
                f"{' and '.join(self.rows)} of {self}; give all trials the same ones."
            )
        for split, theirs in first.rows.items():
            mine = self.rows[split]
            different = sorted({*theirs["id"]} ^ {*mine["id"]})
            if different:
                has, lacks = (self, first) if different[0] in {*mine["id"]} else (first, self)
                raise DataError(
                    f"Expected the same {split} samples of every trial, found {len(different)} "
                    f"that only one of two has, such as {visible(different[0])}, which {has} has "
                    f"and {lacks} lacks; predict one test set by all."
                )
            for column in ("label", *(["group"] if "group" in mine else [])):
                ours, others = mine[column].to_numpy(), theirs[column].to_numpy()
                if (ours != others).any():
                    at = int(np.flatnonzero(ours != others)[0])
                    raise DataError(
                        f"Expected one {column} of each sample, found {visible(others[at])} and "
                        f"{visible(ours[at])} for {visible(mine['id'].iloc[at])} in {split}; "
                        "correct it, or predict one test set by all."
                    )

    def predicted(
        self, split: str, labels: NDArray[np.int64], names: Sequence[str]
    ) -> NDArray[np.int64]:
        """Return the class that is predicted for each sample of a split, (n,)."""
        texts = self.rows[split]["prediction"]
        classes = texts.map({name: number for number, name in enumerate(names)})
        if classes.isna().all():
            raise DataError(
                f"Expected predictions among the labels ({', '.join(map(visible, names[:5]))}), "
                f"found {visible(texts.iloc[0])} and no label at all by {self}; write both the "
                "same way."
            )
        # A class without a test sample has no recall; to predict it is any of the mistakes.
        return np.where(classes.isna(), (labels + 1) % len(names), classes).astype(np.int64)


def _splits(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return which split each row is of."""
    if "split" not in rows:
        return pd.Series("test", index=rows.index)
    splits = rows["split"].fillna("test").str.strip().str.lower().map(_SPLITS)
    if splits.isna().any():
        raise DataError(
            "Expected test or validation for split, found "
            f"{visible(rows['split'][splits.isna()].iloc[0])}; correct it, or leave those rows out."
        )
    return splits


def _ordered(texts: pd.Series[Any]) -> list[str]:
    """Return the different texts: in the order of their values if all are numbers."""
    found = texts.unique().tolist()
    numbers = pd.to_numeric(pd.Series(found), errors="coerce")
    places = dict(zip(found, numbers, strict=True))
    return sorted(found, key=None if numbers.isna().any() else lambda text: (places[text], text))


def _numbers(rows: pd.DataFrame, unit: By, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class or group of each sample, (n,)."""
    texts = rows["label" if unit == "class" else "group"]
    numbers = texts.map({name: number for number, name in enumerate(names)})
    if numbers.isna().any():
        raise DataError(
            f"Expected every {unit} of validation in test too, found "
            f"{visible(texts[numbers.isna()].iloc[0])} in validation alone; add test samples of it."
        )
    return numbers.to_numpy().astype(np.int64)


def _fingerprint(samples: Mapping[str, pd.DataFrame], names: Mapping[By, list[str]]) -> str:
    """Return the hash of the samples that are predicted, and of what they are."""
    columns = ("id", "label", *(["group"] if "group" in names else []))
    content = {s: [each[column].tolist() for column in columns] for s, each in samples.items()}
    return hashlib.sha256(canonical_json({"predicted": content}).encode()).hexdigest()


def _card(
    name: str,
    members: Mapping[str, Mapping[By, NDArray[np.int64]]],
    names: Mapping[By, list[str]],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what the data's facts are: nothing is known of training."""
    test = members["test"]
    info = {
        "dataset": name,
        "class_names": names["class"],
        "class_sizes": [0] * len(names["class"]),
        "group_names": names.get("group", []),
        "group_sizes": [0] * len(names.get("group", [])),
        "n_train": 0,
        "n_validation": len(members["validation"]["class"]) if "validation" in members else 0,
        "n_test": len(test["class"]),
    }
    arrays = {"test_labels": test["class"], "test_ids": np.arange(len(test["class"]))}
    return info, arrays | ({"test_groups": test["group"]} if "group" in test else {})


def _held_out(
    predictions: NDArray[np.int64],
    members: Mapping[By, NDArray[np.int64]],
    names: Mapping[By, list[str]],
) -> dict[str, Any]:
    """Return how many validation samples of each class and group there are and are correct."""
    found: dict[str, Any] = {}
    for unit, units in names.items():
        hits = members[unit][predictions == members["class"]]
        found[f"validation_by_{unit}"] = np.bincount(hits, minlength=len(units)).tolist()
        sizes = np.bincount(members[unit], minlength=len(units))
        found[f"validation_sizes_by_{unit}"] = sizes.tolist()
    return found


def _write_study(
    place: Place, name: str, by: By, fingerprint: str, trials: Sequence[Mapping[str, Any]]
) -> None:
    keys = sorted(trial["trial_id"] for trial in trials)
    body = {
        "schema": SCHEMA,
        "study": {"name": name, "dataset": name, "by": by},
        "study_id": config_hash({"trials": keys}),
        "data_fingerprint": fingerprint,
        "trials": list(trials),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    place.write(STUDY, json.dumps(body, indent=1).encode())
