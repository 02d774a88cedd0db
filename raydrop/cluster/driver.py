"""A whole study, from its specification to its records, doing only what is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from ray.tune import Callback
from rich.console import Console

from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.briefing import Briefing
from raydrop.cluster.crew import attempt, start_crew
from raydrop.cluster.deaths import WorkerDeaths
from raydrop.cluster.packages import own_modules
from raydrop.cluster.scoring import Context, run_queries, run_scores
from raydrop.cluster.session import find_head, ray_session, sent
from raydrop.cluster.shared_store import check_machines, shared
from raydrop.cluster.space import expand
from raydrop.cluster.sweep import run_trials
from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.data.dataset import FileImages, LabelledDataset
from raydrop.errors import ConfigError, ScoringError, StudyMismatchError
from raydrop.plan import Plan, check_networks, make_plan, trial_configs
from raydrop.plan.runs import query_run, score_run
from raydrop.stages.facts import RECALLS, save_data_card
from raydrop.stages.logs import version_of
from raydrop.stages.pictures import save_images, save_lost_images
from raydrop.store import Entry, Place, Store, open_place, required
from raydrop.store.files import parse_json, read_regular, said_of_link
from raydrop.store.places import STUDY
from raydrop.store.tables import COLUMNS, ScoreFacts, Units, write_scores
from raydrop.study import SCHEMA, Study, config_hash

PACKAGES = ("raydrop", "torch", "torchvision", "ray", "numpy", "pandas", "scikit-learn")
"""Packages whose versions a study records."""

Failed = dict[str, str]
"""A sentence for each query run and score that failed, by its key."""

Beginning = Callable[[], AbstractContextManager[Sequence[Callback]]]
"""Leaves what the output folder has from the beginning, and gives what is told of each trial."""


@dataclass(frozen=True)
class Options:
    """Where and how a study is run; none of it changes a result."""

    out: str | Path
    """Output folder, or the URL of one."""
    address: str | None = None
    """Address of a Ray cluster, or None for this machine."""
    data_root: str | None = None
    """Folder of data sets."""
    code: str | None = None
    """Folder of the sweep script, from which workers import too."""
    num_cpus: int | None = None
    """CPUs of a local Ray."""
    gpus_per_worker: float | None = None
    """Share of a GPU for each worker, or None for the default."""
    dry_run: bool = False
    """Print the plan and stop."""
    log: str | None = None
    """Where to log the front as it grows: ``tensorboard``, ``mlflow``, ``wandb``, or None."""


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended."""

    planned: int
    """Trials that the study asks for."""
    failed: int
    """Trials of the study that have no record."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """What a dry run tells, for programs."""


def run_study(study: Study, options: Options, console: Console) -> Outcome:
    """Do what a study lacks, and leave its records in the output folder."""
    place = open_place(options.out)
    logging = _logging(options.log)
    points = expand(study)
    dataset = load_dataset(study.dataset, options.data_root)
    plan = make_plan(study, trial_configs(study, points), dataset)
    check_folder(place, study, dataset)
    store = Store(place)
    missing = plan.missing(Store(place, glance=True))
    check_networks(missing, dataset)
    briefing = Briefing(study, plan, missing, dataset, store, console)
    briefing.tell_plan()
    if options.dry_run:
        if missing.trials:
            briefing.forecast(
                options.address, options.num_cpus, options.gpus_per_worker, options.code
            )
        return Outcome(len(plan.trials), 0, briefing.as_dict())

    @contextlib.contextmanager
    def beginning() -> Iterator[Sequence[Callback]]:
        write_study_file(place, study, points, plan, dataset)
        save_data_card(dataset, store)
        runs = {run.key: run for run in plan.trials}
        with logging(study, place, runs, console) as callbacks:
            yield callbacks

    if not missing.trials:
        with beginning():
            return Outcome(len(plan.trials), 0)
    if options.address is not None:
        find_head(options.address)  # before images are decoded
    _run(briefing, options, beginning)
    networks = [run for run in plan.trials if run.dense is not None]
    if networks:
        _leave_pictures(lambda: save_lost_images(dataset, store, study, networks), console)
    return Outcome(len(plan.trials), len(plan.missing(Store(place, glance=True)).trials))


def _logging(name: str | None) -> Callable[..., AbstractContextManager[tuple[Callback, ...]]]:
    """Return what opens the log that is asked for; loaded only then, as it brings Matplotlib."""
    if name is None:
        return lambda *_: nullcontext(())
    from raydrop.cluster.logging import check_logger, front_logging

    check_logger(name)
    return partial(front_logging, name)


def check_folder(place: Place, study: Study, dataset: LabelledDataset) -> None:
    """Refuse what is no folder, and results of another study, with a StudyMismatchError.

    A larger search space, more models or more seeds belong to the same study; other data, or other
    settings of training, scoring and selection, do not.
    """
    out, path = place.folder, place.folder / STUDY
    if out.exists() and not out.is_dir():
        raise ConfigError(
            f"Expected a folder for results at {out}, found a file; choose another with --out."
        )
    links = [each for each in sorted(out.glob("*")) if each.is_symlink() and each.is_dir()]
    if links:  # Ray and loggers would follow what the store and logs do not
        raise ConfigError(said_of_link(links[0]))
    if not path.exists():
        return
    try:
        found = parse_json(read_regular(path, links=False))["base"]
        schema = found["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyMismatchError(
            f"Expected {place.called(STUDY)} to describe a study, found that it cannot be read "
            f"({error}); choose another folder with --out, or remove that file to start anew there."
        ) from error
    if schema != SCHEMA:
        raise StudyMismatchError(
            f"Expected results of schema {SCHEMA} in {place.called()}, found those of schema "
            f"{schema}, which another version of raydrop computed and this one would compute "
            "differently; choose another folder with --out, or use that version."
        )
    expected = study.base(dataset.fingerprint)
    if found != expected:
        ours, theirs = _flat(expected), _flat(found)
        names = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        differences = ", ".join(f"{k}: {theirs.get(k)} there, {ours.get(k)} here" for k in names)
        raise StudyMismatchError(
            f"Expected {place.called()} to belong to this study, found another one's results "
            f"({differences}); choose another folder with --out."
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        nested = isinstance(item, Mapping)
        flat |= _flat(item, f"{prefix}{key}.") if nested else {f"{prefix}{key}": item}
    return flat


def write_study_file(
    place: Place,
    study: Study,
    points: Iterable[Mapping[str, Any]],
    plan: Plan,
    dataset: LabelledDataset,
) -> None:
    """Write ``study.json``: the study, replayable, with the trials it asks for and the versions."""
    base = study.base(dataset.fingerprint)
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    body = {
        "schema": base["schema"],
        "study": study.to_dict(points),
        "study_id": config_hash({"trials": sorted(run.key for run in plan.trials)}),
        "base_id": config_hash(base),
        "base": base,
        "data_fingerprint": dataset.fingerprint,
        "trials": [{"trial_id": run.key, **run.trial.as_dict()} for run in plan.trials],
        "versions": versions | {package: version_of(package) for package in PACKAGES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with place.writing():
        place.folder.mkdir(parents=True, exist_ok=True)
    place.write(STUDY, json.dumps(body, indent=1).encode())


def score_dataset(
    study: Study, method: str, seed: int, options: Options, out: Path, console: Console
) -> None:
    """Score every training sample by one method and write ``scores.parquet``.

    Query runs and scores stay in ``options.out``, so another method of the same query runs costs
    its own work alone. The query run on all the data is made for every method, because quotas read
    its recalls. A query run or score that failed is a ScoringError.
    """
    store = Store(open_place(options.out))
    dataset = load_dataset(study.dataset, options.data_root)
    make_plan(study, trial_configs(study, expand(study)), dataset)
    query = query_run(study, dataset.fingerprint, study.model, seed)
    wanted = score_run(study, dataset.fingerprint, method, study.model, seed)
    scores = () if store.read("scores", wanted.key) else (wanted,)
    needed = {run.key: run for run in (query, *(q for score in scores for q in score.queries))}
    plan = Plan(tuple(needed.values()), scores, trials=())
    queries = tuple(run for run in plan.queries if store.read("query", run.key) is None)
    missing = dataclasses.replace(plan, queries=queries)
    if missing.queries or missing.scores:
        failed = _run(Briefing(study, plan, missing, dataset, store, console), options)
        if failed:
            raise ScoringError(next(iter(failed.values())))
    entry = required(store, "scores", wanted.key)
    facts = ScoreFacts(
        method=method,
        higher_is_kept=entry.info["higher_is_kept"],
        dataset=dataset.name,
        model=study.model,
        seed=seed,
        units=_units(dataset, required(store, "query", query.key)),
    )
    columns = {COLUMNS[by]: dataset.members(by) for by in RECALLS if by in facts.units}
    frame = pd.DataFrame({"sample_id": dataset.train.ids, **columns})
    if isinstance(dataset.train.inputs, FileImages):
        frame["path"] = dataset.train.inputs.paths
    write_scores(out, frame.assign(score=entry.array("scores")), facts)


def _units(dataset: LabelledDataset, query: Entry) -> dict[str, Units]:
    """Return the classes and, if there are any, the groups, with the query run's recalls."""
    return {
        by: Units(list(dataset.names(by)), recalls, dataset.sizes(by, "validation").tolist())
        for by, name in RECALLS.items()
        if (recalls := query.info[name]) is not None
    }


def _run(briefing: Briefing, options: Options, beginning: Beginning | None = None) -> Failed:
    """Decode the images, start Ray, put them where all workers see them, run what is missing.

    The beginning is made once it is known that the work can be done, so that a refusal leaves
    nothing. A trial that failed has a record of kind ``failure`` in the store.
    """
    study, missing, store = briefing.study, briefing.missing, briefing.store
    data, console = prepare(briefing.dataset), briefing.console
    briefing.tell_copies(data)
    paths = briefing.own_paths
    modules = own_modules(paths)
    with (
        ray_session(options.address, options.num_cpus, options.code, modules) as dashboard,
        shared(store) as place,
    ):
        if dashboard:
            briefing.say("dashboard", dashboard)
        check_machines(place, paths)
        layout = cluster_layout.wait_for_layout(
            in_memory=data.dataset.train.inputs.in_memory,
            gpus_per_worker=options.gpus_per_worker,
            seconds=0.0 if options.address is None else cluster_layout.WAIT_SECONDS,
            console=console,
        )
        briefing.tell_layout(layout, cluster_layout.alive_nodes())
        with beginning() if beginning else nullcontext(()) as callbacks:
            train, deaths = briefing.dataset.train, WorkerDeaths(store)
            context = Context(study, sent(data), layout, place, store, train, console, deaths)
            try:
                with start_crew(context.of_workers(), deaths) as crew:
                    failed = run_queries(context, missing.queries, crew)
                    failed |= run_scores(context, missing.scores, failed, crew)
                if missing.trials:
                    leave_pictures_of_samples(study, missing, data.dataset, store, console)
                    run_trials(context, missing.trials, failed, callbacks)
                return failed
            finally:
                if deaths.total:
                    briefing.say("lost", deaths.sentence())


def leave_pictures_of_samples(
    study: Study, missing: Plan, dataset: LabelledDataset, store: Store, console: Console
) -> None:
    """Leave pictures of samples for the report; a study goes on without them."""
    scores = [run.score for run in missing.trials if run.score is not None]
    _leave_pictures(lambda: save_images(dataset, store, study, scores), console)


def _leave_pictures(work: Callable[[], None], console: Console) -> None:
    reason = attempt(work)
    if reason is not None:
        console.print(f"  pictures    left out of the report: {reason}")
