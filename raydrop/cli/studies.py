"""Commands that start Ray: ``run`` a sweep, or ``score`` a data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from raydrop.cli.changes import changed
from raydrop.cli.options import Address, AsJson, DataRoot, NumCpus, Out, OutFile, Trust, app
from raydrop.cli.results import show_frontier
from raydrop.cli.scripts import load_sweep, script_folder
from raydrop.errors import ConfigError, IncompleteStudyError
from raydrop.store.terminal import console, errors
from raydrop.study import Study

if TYPE_CHECKING:
    from raydrop.cluster.driver import Outcome

Sweep = Annotated[
    str,
    Argument(
        help="Script that defines `study`; or a study.json, or the folder or s3://..., "
        "gs://... in which a run left one."
    ),
]
Scale = Annotated[
    str | None,
    Option(help="Run another study of the script, by its name there, such as small."),
]
GpusPerWorker = Annotated[
    float | None,
    Option(metavar="X", min=0, help="Share of a GPU for each worker; 0 uses none."),
]
Seeds = Annotated[
    int | None,
    Option(metavar="N", min=1, help="So many seeds: the script's first, then further ones."),
]
Epochs = Annotated[
    int | None, Option(metavar="N", min=1, help="Epochs of training, in place of the script's.")
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another field, such as training.momentum=0.8; repeatable.",
    ),
]
Log = Annotated[str | None, Option(help="Log the front as it grows: tensorboard, mlflow or wandb.")]


@app.command(
    epilog="Example: `raydrop run sweeps/digits.py --out results/digits`; "
    "run it again to do only what is missing. `raydrop run s3://BUCKET/PREFIX --out results/again` "
    "replays what was run there."
)
def run(
    sweep: Sweep,
    out: Out = None,
    address: Address = None,
    data_root: DataRoot = None,
    data: Annotated[str | None, Option(help="Use this data set instead.")] = None,
    model: Annotated[str | None, Option(help="Use this model instead.")] = None,
    scale: Scale = None,
    num_cpus: NumCpus = None,
    gpus_per_worker: GpusPerWorker = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    settings: Settings = None,
    trust: Trust = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Run all four stages of a sweep: query runs, scores, trials, frontier."""
    from raydrop.cluster.finished import is_finished, leave_receipt
    from raydrop.store import open_place

    if as_json and not dry_run:
        raise ConfigError(
            "Expected --dry-run beside --json, found --json alone; add --dry-run, or run it and "
            "ask `raydrop frontier --json`."
        )
    study = replace_dataset(load_sweep(sweep, scale, data, trust or ()), data, model)
    study = changed(study, seeds, epochs, settings or ())
    place = open_place(out or Path("results") / study.name)
    if log is None and not dry_run and is_finished(study, place, data_root):
        console.print(f"Study {study.name}: finished, and nothing has changed since; nothing to do")
        console.print(f"Report: {place.called('report.html', here=True)}")
        return
    from raydrop.cluster.driver import Options, run_study  # which takes seconds

    options = Options(
        out=out or Path("results") / study.name,
        address=address,
        data_root=data_root,
        code=script_folder(sweep),
        num_cpus=num_cpus,
        gpus_per_worker=gpus_per_worker,
        dry_run=dry_run,
        log=log,
    )
    try:
        outcome = run_study(study, options, errors if as_json else console)
    except KeyboardInterrupt:
        console.print("Interrupted: what is finished stays; the same command does the rest.")
        raise
    if as_json:
        typer.echo(json.dumps(outcome.plan, indent=1))
    if dry_run:
        return
    show_frontier(options.out)
    _check_complete(outcome)
    leave_receipt(study, place)


def _check_complete(outcome: Outcome) -> None:
    if outcome.failed:
        raise IncompleteStudyError(
            f"Expected {outcome.planned} trials, found {outcome.failed} without a record; the "
            "report says which and why, and the same command tries them again."
        )


def replace_dataset(study: Study, dataset: str | None, model: str | None) -> Study:
    """Return the study on other data or with another model, where given.

    Raises:
        ConfigError: If a model is given and the search space names its own.
    """
    if model is not None and any("model" in space for space in study.spaces()):
        raise ConfigError(
            f"Expected a search space without 'model' to use {model!r} instead, found one that "
            "names models itself; change it there."
        )
    return dataclasses.replace(study, dataset=dataset or study.dataset, model=model or study.model)


@app.command(
    epilog="Example: `raydrop score --data 'digits+long_tail(10)' --model small_cnn "
    "--method el2n --out scores.parquet`"
)
def score(
    data: Annotated[str, Option(help="Data set and variants.")],
    model: Annotated[str, Option(help="Architecture of the query model.")],
    method: Annotated[str, Option(help="Score; see `raydrop methods`.")],
    out: OutFile = Path("scores.parquet"),
    data_root: DataRoot = None,
    epochs: Annotated[int, Option(metavar="N", min=1, help="Epochs of the query run.")] = 30,
    batch_size: Annotated[int, Option(metavar="N", min=1, help="Samples per step.")] = 32,
    learning_rate: Annotated[float, Option(help="Of SGD with momentum, cosine.")] = 0.1,
    seed: Annotated[int, Option(metavar="N", min=0, help="Seed of the query run.")] = 0,
    partitions: Annotated[
        int, Option(metavar="N", min=1, help="Parts with a surrogate each, for moso and moso_loo.")
    ] = 1,
    initialisations: Annotated[
        int, Option(metavar="N", min=1, help="Query runs that el2n and grand average over.")
    ] = 1,
    checkpoints: Annotated[
        int, Option(metavar="N", min=1, help="Checkpoints that moso and its kind average over.")
    ] = 10,
    precision: Annotated[str, Option(help="Precision of gradients: fp32 or bf16.")] = "fp32",
    address: Address = None,
    num_cpus: NumCpus = None,
    cache: Annotated[Path, Option(help="Keeps query runs and scores.")] = Path("results/scores"),
) -> None:
    """Score every training sample by one method, without a sweep."""
    from raydrop.cluster.driver import Options, score_dataset
    from raydrop.study import Study, Training

    study = Study(
        name="scores",
        dataset=data,
        model=model,
        param_space={"method": method, "keep_fraction": 0.5},
        seeds=(seed,),
        training=Training(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate),
        partitions=partitions,
        initialisations=initialisations,
        checkpoints=checkpoints,
        score_precision=precision,  # type: ignore[arg-type]  # Study checks it
    )
    options = Options(out=cache, address=address, data_root=data_root, num_cpus=num_cpus)
    score_dataset(study, method, seed, options, out, console)
    console.print(f"Scores: {out}")
