"""From an output folder to one table with a row per finished trial.

Every metric is computed here from the recorded predictions, by class and, where the data have
groups, by group. What is not there is as much a result as what is, so missing, failed and damaged
trials are returned beside the finished ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import (
    ConfigError,
    DataError,
    IncompleteStudyError,
    RaydropError,
    StoreError,
    in_one_line,
    unknown_name,
    visible_within,
)
from raydrop.frontier.points import DENSE, POINT_OF_STUDY, points_of
from raydrop.frontier.statistics.intervals import image_agreement
from raydrop.frontier.units import column, with_unit
from raydrop.metrics import Metrics, class_metrics, group_metrics
from raydrop.store import Entry, Place, Store, open_place, required
from raydrop.store.files import misfit, parse_json, read_regular
from raydrop.store.places import STUDY
from raydrop.study import SCHEMA, By

IDENTITY = (
    *("dataset", "model", "query_model", "method", "quotas", "keep_fraction", "n_kept", "n_train"),
    *("loss", "network_method", "network_target", "network_sparsity", "budget", "seed"),
)
"""What a trial's record says it is. ``query_model`` is where scores and recalls come from; it is
``model`` where they come from there, or where none are read. ``network_target`` is ``none`` in
records of before networks could be pruned, and ``network_sparsity`` the share of the dense
network's parameters that is gone or masked."""

SIZES = ("n_kept", "n_train")
"""Of these, a record may say that they are not known: predictions from elsewhere may not tell."""

NETWORK = (
    *("macs", "parameters", "weights", "dense_macs", "dense_parameters", "dense_weights"),
    *("macs_removed", "forward_seconds", "network_note"),
)
"""What a trial's record says about its network: multiply-accumulates of an image, parameters and
unmasked weights, before it was pruned too, the share of the first that is gone, the median time
of a forward pass of 64 images, and why a target was not reached; missing values in older
records."""

NOISE = ("n_noisy", "noisy_pruned")
"""Mislabelled training samples, and the share of them that the trial pruned, in [0, 1]; both are
missing values where the data set marks none."""

_NETWORK_TYPES = {
    **dict.fromkeys(NETWORK[:6], "Int64"),
    **dict.fromkeys(NETWORK[6:8], "float64"),
}

TRAINING = ("epochs", "steps", "kept_by_class", "train_seconds", "seconds", "device", "precision")
"""What a trial's record says about its training."""

_COUNTED = ("validation_correct", "validation_totals")
VALIDATION = tuple(column(name, "class") for name in _COUNTED)
"""Correct and all validation samples of each class; missing values in older records."""

_WORST = ("worst_accuracy", "worst", "gap", "std")
_EACH = ("recalls", "correct", "totals", "agreement", "areas", "worst_auc")
_OVER_ALL = ("average_accuracy", "worst_decile_accuracy", "balanced_accuracy")

TRIAL_COLUMNS = (
    "trial_id",
    *IDENTITY,
    "average_accuracy",
    *(column(name, "class") for name in _WORST),
    *("worst_decile_accuracy", "balanced_accuracy"),
    *(column(name, "class") for name in _EACH),
    *VALIDATION,
    *NOISE,
    *NETWORK,
    *TRAINING,
)
"""Columns of ``trials.parquet``. ``worst_class`` is an index, ``*_by_class`` are lists over
classes; intervals are computed from the counts among them and from ``agreement_by_class``, which
all seeds of a point have in common: see
:func:`~raydrop.frontier.statistics.intervals.image_agreement`. ``auc_by_class`` are areas under the
ROC curve, one class against the rest, and ``worst_class_auc`` the lowest of them; older records
have none, so they are missing values there."""

GROUP_COUNTS = tuple(column(name, "group") for name in (*_COUNTED, "kept"))
"""What a trial's record says about groups."""

GROUP_COLUMNS = ("by", *(column(name, "group") for name in (*_WORST, *_EACH)), *GROUP_COUNTS)
"""Further columns of ``trials.parquet`` where the data have groups. ``by`` is ``class`` or
``group``: what the trial's quotas and loss weights are about. The others are like their namesakes
of classes, with a group's accuracy, correct over all its test samples, in place of a recall."""

_KINDS = {
    **dict.fromkeys((*IDENTITY, "network_note", "device", "precision"), "text"),
    **dict.fromkeys(("n_kept", "n_train", "n_noisy", "batch_parts", *NETWORK[:6]), "count"),
    **dict.fromkeys(("keep_fraction", "network_sparsity", "noisy_pruned"), "number"),
    **dict.fromkeys((*NETWORK[6:8], "epochs", "steps", "train_seconds", "seconds"), "number"),
    **dict.fromkeys(("kept_by_class", *VALIDATION), "count by class"),
    **dict.fromkeys(GROUP_COUNTS, "count by group"),
    "auc_by_class": "number by class",
    "auc_by_group": "number by group",
    "by": "class or group",
    "seed": "count",
}
"""What a trial's record, and the list of trials in ``study.json``, have of everything."""

_DATA_KINDS = {
    "dataset": "text",
    "class_names": "text by class",
    "class_sizes": "count by class",
    "group_names": "text by group",
    "group_sizes": "count by group",
    **dict.fromkeys(("n_train", "n_validation", "n_test"), "count"),
}

_OF_GROUPS = {"group_names", "group_sizes"}

_STUDY_KINDS = {
    **dict.fromkeys(("study_id", "base_id", "data_fingerprint", "created"), "text"),
    **dict.fromkeys(("study", "versions"), "object"),
    "trials": "object by trial",
}

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")

ROW_ORDER = [*POINT_OF_STUDY, "seed", "trial_id"]


@dataclass(frozen=True, eq=False)
class Records:
    """What is known about a study, finished or not."""

    place: Place
    trials: pd.DataFrame
    """A row per finished trial that the study asks for, with :data:`TRIAL_COLUMNS` and, where the
    data have groups, :data:`GROUP_COLUMNS`, ordered by :data:`ROW_ORDER`."""
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    """(K,) samples in the full training set."""
    missing: tuple[dict[str, Any], ...]
    """Trials that were asked for and neither finished nor failed: id and configuration."""
    failures: tuple[dict[str, Any], ...]
    """Trials that failed: id, configuration and ``message``."""
    damaged: tuple[str, ...]
    """``KIND/KEY`` of entries found altered or truncated; they count as missing."""
    provenance: dict[str, Any]
    """Where the numbers come from: identities, versions, seeds, split sizes, devices, costs."""
    group_names: tuple[str, ...] = ()
    """G names; empty where the data have no groups."""
    group_sizes: tuple[int, ...] = ()
    """(G,) samples in the full training set; empty where the data have no groups."""
    by: By = "class"
    """What the study's quotas and loss weights are about."""
    unit: By = "class"
    """What worst cases are to be about; see :meth:`about`."""
    test_labels: NDArray[np.integer[Any]] | None = None
    """(n_test,) true classes of the test images."""
    test_groups: NDArray[np.integer[Any]] | None = None
    packed_hits: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    """By trial, which test images it has right, eight to a byte; see :meth:`hits`."""

    @cached_property
    def results(self) -> pd.DataFrame:
        """The trials, with what they say of :attr:`unit` under neutral names too.

        See :func:`~raydrop.frontier.units.with_unit`.
        """
        return with_unit(self.trials, self.unit)

    @property
    def entropy(self) -> int:
        """A number that the study determines, from which every resampling of it is seeded."""
        digest = hashlib.sha256(str(self.provenance["study_id"]).encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def about(self, by: str | None) -> Records:
        """Return the same with worst cases about what is asked for, or else about :attr:`by`.

        Anything but ``class``, ``group`` where the data have some, and None is a ``ConfigError``.
        """
        unit = self.by if by is None else by
        if unit not in get_args(By):
            raise unknown_name("value of --by", unit, get_args(By))
        if unit == "group" and not self.group_names:
            raise no_groups(self.place)
        return replace(self, unit=cast("By", unit))

    def names(self, unit: By | None = None) -> tuple[str, ...]:
        """Return the names of the classes or of the groups; :attr:`unit` says of which if None."""
        return self.class_names if (unit or self.unit) == "class" else self.group_names

    def sizes(self, unit: By | None = None) -> tuple[int, ...]:
        """Return the training samples of each class or group, as in :meth:`names`."""
        return self.class_sizes if (unit or self.unit) == "class" else self.group_sizes

    def members(self, unit: By | None = None) -> NDArray[np.integer[Any]]:
        """Return the (n_test,) class or group of every test image, as in :meth:`names`."""
        members = self.test_labels if (unit or self.unit) == "class" else self.test_groups
        if members is None:
            raise DataError(
                f"Expected the {unit or self.unit} of every test image in the records of "
                f"{self.place.called()}, found none; read them with load_records."
            )
        return members

    def predictions(self, trial_id: str) -> NDArray[np.integer[Any]]:
        """Read the (n_test,) predicted classes of a trial from the store."""
        entry = required(Store(self.place), "trial", trial_id)
        return _predictions(entry, self.members("class"))

    def hits(self, trial_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which test images trials classified correctly, (n_trials, n_test)."""
        images = len(self.members("class"))
        unknown = [each for each in trial_ids if each not in self.packed_hits]
        if unknown:
            raise DataError(
                f"Expected finished trials of {self.place.called()}, found {unknown[0]}; read "
                "its records with load_records."
            )
        if not len(trial_ids):
            return np.empty((0, images), np.bool_)
        packed = np.stack([self.packed_hits[each] for each in trial_ids])
        return np.unpackbits(packed, axis=1, count=images).astype(np.bool_)

    @property
    def failure_reasons(self) -> dict[str, int]:
        """How many trials failed with each sentence, the most frequent first.

        Sentences that differ in their numbers alone, such as an epoch, count as that of the first
        of these trials.
        """
        groups: dict[str, list[str]] = {}
        for failure in self.failures:
            message = str(failure["message"])
            groups.setdefault(_NUMBER.sub("#", message), []).append(message)
        ordered = sorted(groups.values(), key=lambda messages: (-len(messages), messages[0]))
        return {messages[0]: len(messages) for messages in ordered}

    @property
    def several_models(self) -> bool:
        """Whether the study asks for more than one target model, finished or not."""
        unfinished = {trial["model"] for trial in (*self.missing, *self.failures)}
        return len(unfinished | set(self.trials["model"])) > 1


def no_groups(place: Place) -> ConfigError:
    """Return what to say where groups are asked for and the data have none."""
    return ConfigError(
        f"Expected groups in the data of {place.called()} for --by group, found none; leave out "
        "--by, or run the study on data with groups."
    )


def load_records(directory: str | Path | Place, by: str | None = None) -> Records:
    """Read every record of the study in a folder.

    Args:
        directory: An output folder with ``study.json`` and ``store``.
        by: What worst cases are to be about, as in :meth:`Records.about`.

    Raises:
        StoreError: If ``study.json`` or the facts about the data are absent or unreadable, or if a
            trial's record does not say what trial it is.
        DataError: If a trial's predictions do not fit the test set.
        IncompleteStudyError: If no trial is finished.
        ConfigError: If ``by`` is neither ``class`` nor ``group``, or the data have no groups.
    """
    place = open_place(directory)
    study = read_study(place)
    store = Store(place, glance=True)
    data = _read_data(store, study)
    labels, groups = _test_set(data)
    asked = study["trials"]
    found = [(trial, store.read("trial", trial["trial_id"])) for trial in asked]
    finished = [entry for _, entry in found if entry is not None]
    absent = [(trial, store.read("failure", trial["trial_id"])) for trial, e in found if e is None]
    missing = tuple(dict(trial) for trial, failure in absent if failure is None)
    failures = tuple(
        {**trial, "message": str(failure.info.get("message", ""))}
        for trial, failure in absent
        if failure is not None
    )
    if not finished:
        reason = ""
        if failures:
            reason = f" ({len(failures)} failed, the first with: {failures[0]['message']})"
        raise IncompleteStudyError(
            f"Expected at least one finished trial in {place.called()}, found none of "
            f"{len(asked)}{reason}; finish the sweep with `raydrop run`."
        )
    rows = [_row(entry, data, labels, groups) for entry in finished]
    packed = {row["trial_id"]: row.pop("hits") for row in rows}
    trials = _trials(rows, groups is not None)
    read = Records(
        place=place,
        trials=trials,
        class_names=tuple(data.info["class_names"]),
        class_sizes=tuple(data.info["class_sizes"]),
        missing=missing,
        failures=failures,
        damaged=tuple(store.damaged),
        provenance=_provenance(study, store, data, trials, finished),
        group_names=tuple(data.info.get("group_names") or ()),
        group_sizes=tuple(data.info.get("group_sizes") or ()),
        by=study["study"].get("by", "class"),
        test_labels=labels,
        test_groups=groups,
        packed_hits=packed,
    )
    return replace(read, trials=_with_agreement(read)).about(by)


def _trials(rows: list[dict[str, Any]], grouped: bool) -> pd.DataFrame:
    columns = (*TRIAL_COLUMNS, *(GROUP_COLUMNS if grouped else ()))
    # Numbers also where every value is None, which pandas would keep as objects.
    kinds = {"n_noisy": "Int64", "noisy_pruned": "float64", **_NETWORK_TYPES}
    kinds |= {name: "float64" for name in SIZES if any(row[name] is None for row in rows)}
    trials = pd.DataFrame(rows, columns=list(columns)).astype(kinds)
    return trials.sort_values(ROW_ORDER, kind="stable", ignore_index=True)


def read_study(place: Place) -> dict[str, Any]:
    """Return what ``study.json`` in an output folder says, checked.

    Raises:
        StoreError: If it is absent, unreadable, or not one of this version.
    """
    path = place.folder / STUDY
    if not path.exists():
        raise StoreError(
            f"Expected a study.json in {place.called()}, found none; "
            "name the output folder of a sweep, or start one with `raydrop run`."
        )
    try:
        study = visible_within(parse_json(read_regular(path, links=False)))
        problem = _study_problem(study)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise StoreError(
            f"Expected a readable study of schema {SCHEMA} in {place.called(STUDY)}, found: "
            f"{problem}; run the sweep again into another folder."
        )
    return study  # type: ignore[no-any-return]


def _study_problem(study: Mapping[str, Any]) -> str | None:
    if study.get("schema", SCHEMA) != SCHEMA:
        return f"schema {str(study['schema'])[:40]}"
    absent = {"schema", "study", "study_id", "data_fingerprint", "trials"} - set(study)
    if absent:
        return f"no {', '.join(sorted(absent))}"
    problem = misfit(study, _STUDY_KINDS)
    if problem:
        return problem
    about = {"name": "text", "by": "class or group"}
    trials = [misfit(trial, {**_KINDS, "trial_id": "text"}) for trial in study["trials"]]
    told = sorted({*POINT_OF_STUDY, "seed", "trial_id"} - {"network_method", "network_target"})
    trials += [f"a trial without {n}" for each in study["trials"] for n in told if n not in each]
    return next(filter(None, [misfit(study["study"], about), *trials]), None)


@contextlib.contextmanager
def as_written(records: Records) -> Iterator[None]:
    """Say in a sentence that what the context reads from the store is not as raydrop writes it.

    For entries that a report shows and no number of the table depends on.

    Raises:
        StoreError: If values are of other kinds, numbers or shapes than they have to be.
    """
    try:
        yield
    except RaydropError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"Expected entries as raydrop writes them in {records.place.called('store')}, "
            f"found what cannot be read ({in_one_line(error)}); run the sweep again into another "
            "folder."
        ) from error


def _read_data(store: Store, study: Mapping[str, Any]) -> Entry:
    fingerprint = study["data_fingerprint"]
    for entry in store.entries("data"):
        if entry.config.get("fingerprint") == fingerprint:
            _check_info(entry, _DATA_KINDS, {}, sorted(_DATA_KINDS.keys() - _OF_GROUPS))
            _check_info(entry, _DATA_KINDS, _sizes(entry))
            return entry
    raise StoreError(
        f"Expected the facts about the data in {store.location}, found none for fingerprint "
        f"{fingerprint[:12]}; run the sweep again with this folder."
    )


def _sizes(data: Entry) -> dict[str, int]:
    """Return the numbers of classes and of groups."""
    return {unit: len(data.info.get(f"{unit}_names") or ()) for unit in get_args(By)}


def _check_info(
    entry: Entry, kinds: Mapping[str, str], sizes: Mapping[str, int], told: Iterable[str] = ()
) -> None:
    """Refuse an entry that tells of something in another kind of value, or not at all."""
    absent = [f"no {name}" for name in told if entry.info.get(name) is None]
    problem = misfit(entry.info, kinds, sizes) or next(iter(absent), None)
    if problem:
        record = f"the record of {entry.kind} {entry.key} as raydrop writes it"
        raise _odd_record(entry, f"{record}, found {problem}")


def _odd_record(entry: Entry, expected: str) -> StoreError:
    return StoreError(
        f"Expected {expected}; remove {entry.called} and run the sweep again with this folder."
    )


def _with_agreement(records: Records) -> pd.DataFrame:
    """Return the trials, each with what the seeds of its point agree on."""
    trials = records.trials
    units: list[By] = ["class", "group"] if records.group_names else ["class"]
    columns: dict[str, dict[str, list[float]]] = {column("agreement", u): {} for u in units}
    for _, rows in points_of(trials):
        ids = rows["trial_id"].tolist()
        hits = records.hits(ids)
        for unit, values in zip(units, columns.values(), strict=True):
            found = image_agreement(hits, records.members(unit), len(records.names(unit)))
            values.update(dict.fromkeys(ids, found.tolist()))
    return trials.assign(**{name: trials["trial_id"].map(by) for name, by in columns.items()})


def _row(
    entry: Entry, data: Entry, labels: NDArray[Any], groups: NDArray[Any] | None
) -> dict[str, Any]:
    """Return a trial's columns, and its packed ``hits``."""
    sizes = _sizes(data)
    ours, theirs = data.config["fingerprint"], entry.config.get("data")
    if theirs is not None and theirs != ours:
        raise DataError(
            f"Expected trials of one test set, that of data {ours[:12]}, found trial {entry.key} "
            f"of data {str(theirs)[:12]}; keep studies of different data in different folders."
        )
    _check_info(entry, _KINDS, sizes)
    predictions = _predictions(entry, labels)
    try:
        of_classes = class_metrics(predictions, labels, sizes["class"])
        measured = _measured(of_classes, "class")
        if groups is not None:
            of_groups = group_metrics(predictions, labels, groups, sizes["group"])
            measured |= _measured(of_groups, "group")
    except DataError as error:
        raise DataError(
            f"Expected predictions for this test set in trial {entry.key}, found a problem: {error}"
        ) from error
    told = (*VALIDATION, *NOISE, *NETWORK, *TRAINING, *GROUP_COUNTS)
    return {
        "trial_id": entry.key,
        "hits": np.packbits(predictions == labels),
        **_identity(entry),
        **{name: entry.info.get(name) for name in told},
        "by": entry.info.get("by", "class"),
        **{name: getattr(of_classes, name) for name in _OVER_ALL},
        **_areas(entry, "class"),
        **_areas(entry, "group"),
        **measured,
    }


def _test_set(data: Entry) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the (n_test,) classes of the test images, and their groups if they have some."""
    labels = data.array("test_labels", kinds="iu", shape=(None,))
    if not data.info.get("group_names"):
        return labels, None
    return labels, data.array("test_groups", kinds="iu", shape=labels.shape)


def _predictions(entry: Entry, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the (n_test,) predicted classes of a trial."""
    if "predictions" not in entry.names:
        raise _odd_record(entry, f"predictions in the record of trial {entry.key}, found none")
    predictions = entry.array("predictions", kinds="iu")
    if predictions.shape != labels.shape:
        raise DataError(
            f"Expected predictions for this test set in trial {entry.key}, found shape "
            f"{predictions.shape} for {labels.shape} labels; keep studies of different data in "
            "different folders."
        )
    return predictions


def _identity(entry: Entry) -> dict[str, Any]:
    info = {"query_model": entry.info.get("model"), "network_target": DENSE, **entry.info}
    absent = [n for n in IDENTITY if info.get(n) is None and not (n in SIZES and n in info)]
    if absent:
        said = f"the record of trial {entry.key} to hold {', '.join(IDENTITY)}"
        raise _odd_record(entry, f"{said}, found no {', '.join(absent)}")
    return {name: info[name] for name in IDENTITY}


def _measured(metrics: Metrics, unit: By) -> dict[str, Any]:
    values = {
        "worst_accuracy": metrics.worst_accuracy,
        "worst": metrics.worst,
        "gap": metrics.accuracy_gap,
        "std": metrics.accuracy_std,
        "recalls": metrics.by_unit.tolist(),
        "correct": metrics.correct.tolist(),
        "totals": metrics.totals.tolist(),
    }
    return {column(name, unit): value for name, value in values.items()}


def _areas(entry: Entry, unit: By) -> dict[str, Any]:
    """Return the areas under the ROC curves that a record has, and the lowest."""
    name = column("areas", unit)
    told = entry.info.get(name)
    areas = np.array([np.nan] if told is None else told, dtype=np.float64)
    known = areas[~np.isnan(areas)]
    lowest = float(known.min()) if len(known) else np.nan
    return {name: None if told is None else areas.tolist(), column("worst_auc", unit): lowest}


def _provenance(
    study: Mapping[str, Any],
    store: Store,
    data: Entry,
    trials: pd.DataFrame,
    finished: Sequence[Entry],
) -> dict[str, Any]:
    stored = set(store.keys("trial"))
    # Older records do not say into how many parts memory had their batches cut: whole ones.
    parts = [int(entry.info.get("batch_parts") or 1) for entry in finished]
    return {
        "name": study["study"].get("name", ""),
        "study_id": study["study_id"],
        "base_id": study.get("base_id", ""),
        "data_fingerprint": study["data_fingerprint"],
        "created": study.get("created", ""),
        "versions": dict(study.get("versions", {})),
        "dataset": data.info["dataset"],
        "seeds": sorted(int(seed) for seed in trials["seed"].unique()),
        **{name: int(data.info[name]) for name in ("n_train", "n_validation", "n_test")},
        "devices": sorted(trials["device"].dropna().unique()),
        "precisions": sorted(trials["precision"].dropna().unique()),
        "costs": {
            "query": _cost(store, "query", "train_seconds"),
            "scores": _cost(store, "scores", "seconds"),
            "trial": (len(trials), float(trials["seconds"].sum())),
        },
        "trials_asked": len(study["trials"]),
        "worker_deaths": len(store.keys("loss")),
        "trials_of_other_studies": len(stored - {trial["trial_id"] for trial in study["trials"]}),
        "cut_trials": sum(each > 1 for each in parts),
        "most_parts": max(parts),
    }


def _cost(store: Store, kind: str, key: str) -> tuple[int, float]:
    """Return how many entries of a kind there are, and their seconds; arrays are not read."""
    seconds = []
    for each in store.keys(kind):
        entry = store.peek(kind, each)
        if entry is not None:  # provenance only: a later reading of the entry will complain
            seconds.append(0.0 if misfit(entry.info, {key: "number"}) else entry.info.get(key, 0.0))
    return len(seconds), float(np.sum(seconds))
