"""The command line: parse, call, print. Imports wait until a command needs them."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Column, Table
from rich.text import Text

from raydrop.errors import ConfigError, IncompleteStudyError, RaydropError
from raydrop.frontier.terminal import Console, console, errors, set_up, visible_lines

if TYPE_CHECKING:
    from raydrop.data.check import DataCheck
    from raydrop.frontier import Frontier
    from raydrop.frontier.overlay import Overlay
    from raydrop.study import Study

app = typer.Typer(
    help="Which pruning of data keeps the worst class safe, and what does that cost on average?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
cluster_app = typer.Typer(help="Look after the files of clusters.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
MOST_ROWS = 40
"""Of a data set with more classes, `check` shows the smallest and the largest."""

OutOption = Annotated[
    str | None,
    typer.Option(
        "--out", help="Folder of results or s3://BUCKET/PREFIX, gs://...; results/NAME by default."
    ),
]
DataRootOption = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        help="Folder of data sets, also for downloads, or s3://..., gs://...; ~/.cache/raydrop by "
        "default.",
    ),
]

ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", help="Whether worst is of a class or a group; by default as in the study."
    ),
]


def _on_this_machine(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a URL where only a file will do: as a path it would become folders."""
    from raydrop.store.remote import is_url

    if path is not None and is_url(path):
        name, url = option.opts[0], str(path).replace(":/", "://", 1)
        raise ConfigError(
            f"Expected a file on this machine for {name}, found {url}; name a file here, and copy "
            "it from or to the object store yourself."
        )
    return path


@app.callback()
def options_of_every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show --debug in the help."""


@app.command(
    epilog="Example: `raydrop run sweeps/digits.py --out results/digits`; "
    "run it again to do only what is missing. `raydrop run s3://BUCKET/PREFIX --out results/again` "
    "replays what was run there."
)
def run(
    sweep: Annotated[
        str,
        typer.Argument(
            help="Script that defines `study`; or a study.json, or the folder or s3://..., "
            "gs://... in which a run left one."
        ),
    ],
    out: OutOption = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    data_root: DataRootOption = None,
    data: Annotated[str | None, typer.Option(help="Use this data set instead.")] = None,
    model: Annotated[str | None, typer.Option(help="Use this model instead.")] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Run another study of the script, by its name there, such as small."),
    ] = None,
    num_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of a local Ray; all by default.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="Share of a GPU for each worker; 0 uses none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    log: Annotated[
        str | None,
        typer.Option(help="Log the front as it grows: tensorboard, mlflow or wandb."),
    ] = None,
) -> None:
    """Run all four stages of a sweep: query runs, scores, trials, frontier."""
    from raydrop.cluster.driver import Options, run_study
    from raydrop.plan import replace_dataset

    study = replace_dataset(load_sweep(sweep, scale, data), data, model)
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
        outcome = run_study(study, options, console)
    except KeyboardInterrupt:
        console.print("Interrupted: what is finished stays; the same command does the rest.")
        raise
    if dry_run:
        return
    _show(options.out)
    if outcome.failed:
        raise IncompleteStudyError(
            f"Expected {outcome.planned} trials, found {outcome.failed} without a record; the "
            "report says which and why, and the same command tries them again."
        )


@app.command(
    epilog="Example: `raydrop score --data 'digits+long_tail(10)' --model small_cnn "
    "--method el2n --out scores.parquet`"
)
def score(
    data: Annotated[str, typer.Option(help="Data set and variants.")],
    model: Annotated[str, typer.Option(help="Architecture of the query model.")],
    method: Annotated[str, typer.Option(help="Score; see `raydrop methods`.")],
    out: Annotated[Path, typer.Option(help="File to write.", callback=_on_this_machine)] = Path(
        "scores.parquet"
    ),
    data_root: DataRootOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the query run.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of SGD with momentum, cosine.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the query run.")] = 0,
    partitions: Annotated[
        int, typer.Option(min=1, help="Parts with a surrogate each, for moso and moso_loo.")
    ] = 1,
    initialisations: Annotated[
        int, typer.Option(min=1, help="Query runs that el2n and grand average over.")
    ] = 1,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="Checkpoints that moso and its kind average over.")
    ] = 10,
    precision: Annotated[str, typer.Option(help="Precision of gradients: fp32 or bf16.")] = "fp32",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    num_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of a local Ray; all by default.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Keeps query runs and scores.")] = Path(
        "results/scores"
    ),
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


@app.command(
    epilog="Example: `raydrop select scores.parquet --keep-fraction 0.3 --quotas drop "
    "--out kept.csv`"
)
def select(
    scores: Annotated[
        Path, typer.Argument(help="From `raydrop score`.", callback=_on_this_machine)
    ],
    keep_fraction: Annotated[float, typer.Option(help="Share of the samples to keep, in (0, 1].")],
    quotas: Annotated[str, typer.Option(help="Quota rule; see `raydrop methods`.")] = "none",
    quota_scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores of the method that from_method:METHOD names.", callback=_on_this_machine
        ),
    ] = None,
    recalls: Annotated[
        Path | None,
        typer.Option(
            help="csv with class,recall (or group,recall) instead of the query model's.",
            callback=_on_this_machine,
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Whether quotas and recalls are those of a class or a group.")
    ] = "class",
    recall_smoothing: Annotated[
        float, typer.Option(min=0, help="1 is add-one smoothing of the query model's recalls.")
    ] = 0.0,
    minimum_per_class: Annotated[
        int, typer.Option(min=0, help="Quotas leave every class or group this many.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Settles ties among equal scores.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write.", callback=_on_this_machine)] = Path(
        "kept.csv"
    ),
) -> None:
    """Turn scores and quotas into the samples that are kept."""
    import numpy as np

    from raydrop.selection import budget_for, quota_rule, smooth_recalls
    from raydrop.selection import select as choose
    from raydrop.store.tables import COLUMNS, counts_of_best, read_recalls, read_scores, write_kept

    if not 0 < keep_fraction <= 1:
        raise ConfigError(
            f"Expected --keep-fraction in (0, 1], found {keep_fraction}; "
            "it is the share of the samples that remains."
        )
    rule = quota_rule(quotas)
    frame, facts = read_scores(scores)
    units = facts.units_by(by)
    members = frame[COLUMNS[by]].to_numpy()
    sizes = np.bincount(members, minlength=len(units.names))
    measured = smooth_recalls(units.recalls, units.sizes, recall_smoothing)
    if recalls is not None:
        measured = read_recalls(recalls, units.names, by)
    budget = budget_for(len(frame), keep_fraction)
    counts = None
    if rule.method is not None:
        other = quota_scores or scores
        counts = counts_of_best(other, rule.method, frame, members, len(sizes), budget, seed)
    kept = choose(
        frame["score"].to_numpy(),
        members,
        budget,
        rule.allocate(sizes, measured, budget, minimum_per_class, counts),
        higher_is_kept=facts.higher_is_kept,
        tie_seed=seed,
    )
    write_kept(out, frame.iloc[kept])
    kept_sizes = np.bincount(members[kept], minlength=len(sizes))
    table = Table(by, "of", "kept")
    for name, size, count in zip(units.names, sizes, kept_sizes, strict=True):
        table.add_row(name, str(size), str(count))
    console.print(table)
    empty = [name for name, count in zip(units.names, kept_sizes, strict=True) if count == 0]
    if empty:
        errors.print(
            f"Nothing is kept of {', '.join(empty)}; --quotas with --minimum-per-class or "
            "--recall-smoothing prevents that.",
        )
    console.print(f"Kept {len(kept)} of {len(frame)}: {out}")


@app.command(
    epilog="Example: `raydrop frontier results/digits`; with --watch while its sweep runs; "
    "`raydrop frontier results/a results/b --out results/a-and-b` overlays studies."
)
def frontier(
    directories: Annotated[
        list[str], typer.Argument(metavar="DIRECTORY", help="Where `raydrop run` left results.")
    ],
    by: ByOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="First follow a running sweep until it ends.")
    ] = False,
    interval: Annotated[
        float | None, typer.Option(help="Seconds between two looks of --watch; 2 by default.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for the overlay of several studies.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write every figure as PDF too.")] = False,
) -> None:
    """Make tables, figures and report anew from the records, without Ray or torch."""
    _check_frontier_options(directories, watch, interval, out)
    if out is not None:
        _overlay(directories, out, by)
        return
    (directory,) = directories
    if watch:
        _watch(directory, by, interval)
    _show(directory, by, pdf=pdf)


@app.command(epilog="Example: `raydrop export results/digits --format latex --out table.tex`")
def export(
    directory: Annotated[str, typer.Argument(help="Where `raydrop run` left results.")],
    kind: Annotated[str, typer.Option("--format", help="csv, parquet or latex.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; table.csv and the like in the folder.", callback=_on_this_machine
        ),
    ] = None,
    by: ByOption = None,
) -> None:
    """Write a paper's table: methods and quotas as rows, keep fractions as groups of columns."""
    from raydrop.frontier import remarks
    from raydrop.frontier.export import export_table

    result = export_table(directory, kind, out, by)
    _print_remarks(remarks(result.records))
    console.print(f"Table: {result.called}")


@app.command(
    epilog="Example: `raydrop ship results/data_and_network 3f2a --out small.raydrop`; "
    "`--format onnx` or `pt2` writes a program that needs no raydrop."
)
def ship(
    directory: Annotated[str, typer.Argument(help="Where `raydrop run` left results.")],
    trial: Annotated[
        str, typer.Argument(help="Its trial_id, or how it begins; of one that pruned a network.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.", callback=_on_this_machine)],
    kind: Annotated[str, typer.Option("--format", help="raydrop, pt2 or onnx.")] = "raydrop",
) -> None:
    """Write the pruned network of a trial to a file, to be used elsewhere."""
    from raydrop.stages.ship import ship as write

    spec = write(directory, trial, out, kind)
    pruned = f"{spec.model}, {spec.network_method}, {spec.network_target}"
    console.print(f"Network: {out} ({pruned})")


@app.command(
    epilog="Example: `raydrop theory --means -1 1 --sigmas 0.5 1 --prior 0.5 --out theory.png`"
)
def theory(
    means: Annotated[
        tuple[float, float], typer.Option(help="Means of class 0 and class 1, ascending.")
    ] = (-1.0, 1.0),
    sigmas: Annotated[
        tuple[float, float], typer.Option(help="Standard deviations of class 0 and class 1.")
    ] = (0.5, 1.0),
    prior: Annotated[float, typer.Option(help="Share of class 0, in (0, 1).")] = 0.5,
    keep_fraction: Annotated[
        float | None,
        typer.Option(help="Share to keep; by default the largest that keeps no class whole."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Figure to write, .png or .svg.", callback=_on_this_machine)
    ] = Path("theory.png"),
) -> None:
    """Show what pruning does to two Gaussian classes, in closed form."""
    from raydrop.theory import TwoGaussians
    from raydrop.theory.figures import STRATEGIES, write_theory_figure

    mixture = TwoGaussians(means, sigmas, prior)
    table = Table("", "densities", "prior 0", "threshold", "risk 0", "risk 1", "worst class")
    for name, pruning in mixture.strategies(keep_fraction).items():
        densities = " / ".join(f"{density:.4f}" for density in pruning.densities)
        numbers = (pruning.prior0, pruning.threshold, *pruning.risks, pruning.worst_class_risk)
        table.add_row(STRATEGIES[name], densities, *(f"{number:.6f}" for number in numbers))
    console.print(table)
    optimum = f"{mixture.minimax_risk:.6f} at the threshold {mixture.minimax_threshold:.6f}"
    console.print(f"Least worst-class risk of any threshold: {optimum}")
    write_theory_figure(out, mixture, keep_fraction)
    console.print(f"Figure: {out}")


@app.command(
    epilog="Example: `raydrop check photos`, or any data set of a study, such as "
    "`raydrop check 'metadata:photos?label=species'`. It starts no Ray and writes nothing."
)
def check(
    data: Annotated[
        str, typer.Argument(help="Data set and variants as in a study, or a folder of images.")
    ],
    data_root: DataRootOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode no file: read headers and compare bytes.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 1 for whatever is found, such as images that are in train and test; "
            "by default only for what would stop a study: files that cannot be read.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all of it, with every name, as JSON.")
    ] = False,
) -> None:
    """Look at data before a study: sizes, broken files, copies, labels that differ, odd trees."""
    import json

    from rich.progress import track

    from raydrop.data.check import check_data

    def shown(numbers: Sequence[int]) -> Iterable[int]:
        return track(
            numbers, "Reading", console=errors, transient=True, disable=not errors.is_terminal
        )

    found = check_data(data, data_root, quick=quick, progress=shown)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        _print_check(found)
    if found.fatal or (strict and found.findings):
        raise typer.Exit(1)


@app.command(epilog="Example: `raydrop methods`")
def methods() -> None:
    """List scores, quotas, losses, network pruners, data, models: one line and citation each."""
    from raydrop.data import DATASETS
    from raydrop.models import MODELS
    from raydrop.network import METHODS as PRUNERS
    from raydrop.scores import METHODS
    from raydrop.selection import QUOTAS
    from raydrop.training.losses import LOSSES

    for title, entries in (
        ("scores", [(entry.usage, entry) for entry in METHODS.values()]),
        ("quotas", [(rule.usage, rule) for rule in QUOTAS.values()]),
        ("losses", [(family.usage, family) for family in LOSSES.values()]),
        ("network pruners", [(family.usage, family) for family in PRUNERS.values()]),
    ):
        table = Table("name", "what it does", "source", title=title, title_justify="left")
        for name, entry in entries:
            table.add_row(name, entry.summary, entry.citation)
        console.print(table)
    for title, described in (("data sets", DATASETS), ("models", MODELS)):
        table = Table("name", "what it is", title=title, title_justify="left")
        for name, known in described.items():
            table.add_row(name, known.summary)
        console.print(table)


@cluster_app.command(
    "check",
    epilog="Example: `raydrop cluster check cluster.yaml deploy/rayjob.yaml`; it asks no cloud.",
)
def check_clusters(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Of `ray up`, or of KubeRay.")
    ],
    template: Annotated[
        bool, typer.Option("--template", help="Let placeholders stand that are left to fill in.")
    ] = False,
) -> None:
    """Say what is wrong with cluster files: versions, open doors, keys with hazardous defaults."""
    from raydrop.cluster.check import check_file, ray_version

    sound = True
    for file in files:
        try:
            problems = [f"{file}: {problem}" for problem in check_file(file, template=template)]
        except ConfigError as error:
            problems = [str(error)]
        for problem in problems:
            errors.print(problem)
        if not problems:
            console.print(f"{file}: sound, for Ray {ray_version()}")
        sound = sound and not problems
    if not sound:
        raise typer.Exit(1)


def load_sweep(sweep: str | Path, scale: str | None = None, data: str | None = None) -> Study:
    """Return the study of a sweep script, or of the ``study.json`` that a run left.

    Args:
        sweep: A script; a ``study.json``; or what has one in it, a folder or a URL.
        scale: Name in the script of another study than ``study``, perhaps a smaller one.
        data: Data set that the user names in place of the one that others wrote down.

    Raises:
        ConfigError: If the file is not there or holds no such study.
        StoreError: If an object store cannot be read.
    """
    from raydrop.store.places import STUDY
    from raydrop.store.remote import is_url

    if is_url(sweep):
        return _replayed(*_fetched(str(sweep)), scale, data)
    path = Path(sweep).expanduser()  # of a job on a cluster, which no shell expands
    if path.is_dir():
        path /= STUDY
    if not path.is_file():
        raise ConfigError(
            f"Expected a sweep script or study.json at {path}, found no such file; "
            "check the path, or start from sweeps/digits.py."
        )
    if path.suffix.lower() == ".json":
        return _replayed(str(path), _read_study(path), scale, data)
    folder = script_folder(path)
    if folder is not None and folder not in sys.path[:1]:  # as where Python itself runs it
        sys.path.insert(0, folder)
    try:
        names = runpy.run_path(str(path), run_name="raydrop_sweep")
    except RaydropError:
        raise
    except Exception as error:
        raise ConfigError(
            f"Expected {path} to run, found {type(error).__name__}: {error}; "
            "mend it there (--debug shows the place)."
        ) from error
    return _study_named(names, scale, path)


def script_folder(sweep: str | Path) -> str | None:
    """Return the folder of a sweep script, from which it may import; None of a replayed study."""
    from raydrop.store.remote import is_url

    path = Path(sweep).expanduser()
    if is_url(sweep) or path.is_dir() or path.suffix.lower() == ".json":
        return None
    return str(path.resolve().parent)


def _read_study(path: Path) -> bytes:
    """Return what is in a ``study.json``, if it can be one."""
    from raydrop.store.files import read_regular

    try:
        return read_regular(path)
    except OSError as error:
        raise ConfigError(
            f"Expected a study.json that can be read at {path}, found {error.strerror or error}; "
            "use the one in an output folder."
        ) from error


def _study_named(names: dict[str, Any], scale: str | None, path: Path) -> Study:
    """Return the study that a script calls ``study``, or the other one that is asked for."""
    from raydrop.study import Study

    studies = {name: value for name, value in names.items() if isinstance(value, Study)}
    if scale is not None:
        scales = studies.keys() - {"study"}
        if scale not in scales:
            found = ", ".join(sorted(scales)) or "no other study than 'study'"
            raise ConfigError(
                f"Expected {path} to define the study {scale!r} for --scale, found {found}; "
                "name one that is there, or leave out --scale."
            )
        return studies[scale]
    if "study" not in studies:
        found = type(names["study"]).__name__ if "study" in names else "none"
        raise ConfigError(
            f"Expected {path} to define 'study', a raydrop.Study, found {found}; "
            "add study = Study(...)."
        )
    return studies["study"]


def _fetched(url: str) -> tuple[str, bytes]:
    """Return where in an object store a ``study.json`` is, and what is in it."""
    from raydrop.store.places import STUDY
    from raydrop.store.remote import canonical_url, joined_url, read_object

    place = canonical_url(url)
    suffix = Path(place.partition("?")[0]).suffix
    if suffix == ".py":
        raise ConfigError(
            f"Expected a sweep script on this machine, found {place}; what a store holds is not "
            "run, so copy it here and look at it, or name a study.json there."
        )
    if suffix != ".json":
        place = joined_url(place, STUDY)
    content = read_object(place)
    if content is None:
        raise ConfigError(
            f"Expected a study.json at {place}, found no such object; correct the location, or "
            "name one that `raydrop run --out` was given."
        )
    return place, content


def _replayed(place: str, content: bytes, scale: str | None, data: str | None) -> Study:
    """Return the study of a ``study.json``."""
    from raydrop.data.spec import parse_spec
    from raydrop.store.files import parse_json
    from raydrop.store.remote import refuse_options
    from raydrop.study import Study

    if scale is not None:
        raise ConfigError(
            f"Expected a sweep script for --scale {scale}, found {place}, which holds one study; "
            "leave out --scale."
        )
    try:
        body = parse_json(content)
        if not isinstance(body.get("study"), dict):
            raise ValueError("it holds no study")
        study = Study.from_dict(body["study"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Expected a study.json that raydrop wrote at {place}, found a problem ({error}); "
            "use the one in an output folder."
        ) from error
    if data is None:
        spec = parse_spec(study.dataset)
        refuse_options(spec.path or "", study.dataset)
        if "allow_outside" in dict(spec.options):
            raise ConfigError(
                "Expected the images of a study that is replayed below its data set's folder, found"
                f" allow_outside in {study.dataset}; if you trust it, give the data set yourself "
                "with --data."
            )
    return study


def sweep_main() -> None:
    """Run the calling sweep script as ``raydrop run SCRIPT`` does, with the same options."""
    sys.argv[1:1] = ["run", sys.argv[0]]
    main()


def main() -> None:
    """Run the command line, and say mistakes in one sentence."""
    set_up()
    os.environ.pop("MPLBACKEND", None)  # figures need no window, nor what would open one
    debug = "--debug" in sys.argv
    if debug:
        # Accepted anywhere, since it is most wanted when a long command has just failed.
        sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        # As Typer's own call does, but for its way of showing tracebacks.
        status: Any = typer.main.get_command(app)(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RaydropError as error:
        if debug:
            raise
        errors.print(Text("Error:", "bold red"), str(error))
        sys.exit(1)
    except typer.Exit as request:
        sys.exit(request.exit_code)
    except Exception as error:
        if debug or not hasattr(error, "show"):
            raise
        mistake: Any = error  # of Click's, which quotes what was typed
        text = visible_lines(mistake.format_message())
        mistake.format_message = lambda: text
        mistake.show()
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _show(directory: str | Path, by: str | None = None, *, pdf: bool = False) -> None:
    """Write stage 4 and show its short table and where the report is."""
    from raydrop.frontier import write_frontier

    print_summary(write_frontier(directory, by, pdf=pdf), console)


def _watch(directory: str, by: str | None, interval: float | None) -> None:
    """Follow a running sweep until it ends."""
    from raydrop.frontier.watch import INTERVAL, watch

    try:
        watch(directory, console, by, INTERVAL if interval is None else interval)
    except KeyboardInterrupt:
        console.print("Stopped watching; without --watch the same command writes the report.")
        raise


def _overlay(directories: list[str], out: str, by: str | None) -> None:
    """Write several studies' overlay and show its short table."""
    from raydrop.frontier.overlay import write_overlay

    result = write_overlay(directories, out, by)
    _print_points(result, console)
    _print_remarks(result.remarks())
    paths = ", ".join(result.place.called(name, here=True) for name in result.paths)
    console.print(f"Overlay: {paths}")


def _check_frontier_options(
    directories: list[str], watch: bool, interval: float | None, out: str | None
) -> None:
    """Refuse options that do not go together."""
    if watch and (len(directories) > 1 or out is not None):
        raise ConfigError(
            f"Expected one output folder for --watch, found {len(directories)}"
            f"{' and --out' if out is not None else ''}; watch each sweep by itself."
        )
    if interval is not None and not watch:
        raise ConfigError(
            "Expected --watch beside --interval, found --interval alone; add --watch."
        )
    if len(directories) > 1 and out is None:
        raise ConfigError(
            f"Expected --out with {len(directories)} output folders, found none; "
            "name a folder for their overlay."
        )


def print_summary(result: Frontier, console: Console) -> None:
    """Show the short table of a frontier: a line per series, a column per keep fraction."""
    from raydrop.frontier import remarks

    _print_points(result, console)
    _print_remarks(remarks(result.records))
    console.print(f"Report: {result.records.place.called('report.html', here=True)}")


def _print_remarks(lines: list[str]) -> None:
    for line in lines:
        errors.print(line)


def _print_check(found: DataCheck) -> None:
    """Show what a look at a data set found."""
    channels, height, width = found.image_shape
    mirrored = "mirrored in training" if found.horizontal_flip else "not mirrored"
    kept = "kept in memory" if found.in_memory else "read in every epoch"
    lines = {
        "data": found.spec,
        "models see": f"{channels}x{height}x{width}, {mirrored}, {kept}",
        "files": "none" if found.files is None else str(found.files),
        "compared": found.compared,
    }
    for name, text in lines.items():
        console.print(f"  {name:<11} {text}")
    for by, sizes in (("class", found.classes), ("group", found.groups)):
        if sizes:
            _print_sizes(by, sizes)
    for line in (*found.remarks, *map(str, found.findings)):
        console.print(line)
    if not found.findings:
        console.print("Found nothing wrong or suspicious.")


def _print_sizes(by: str, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Show the samples of each class or group, or of the smallest and largest ones."""
    rows = list(sizes.items())
    if len(rows) > MOST_ROWS:
        rows.sort(key=lambda row: row[1]["train"])
        few = MOST_ROWS // 4
        console.print(f"The {few} smallest and largest of {len(rows):,}:")
        rows = [*rows[:few], *rows[-few:]]
    table = Table(by, *(Column(split, justify="right") for split in rows[0][1]))
    for name, counts in rows:
        table.add_row(name, *map(str, counts.values()))
    console.print(table)


def _print_points(result: Frontier | Overlay, console: Console) -> None:
    from raydrop.frontier import summary_table

    legend = (
        f"Average/worst-{result.by} accuracy; ● on the Pareto front, ○ on that of its keep fraction"
    )
    console.print(legend)
    for loss, texts in summary_table(result).items():
        fractions = [f"keep {fraction:g}" for fraction in texts.columns]
        table = Table(
            "method + quotas",
            *fractions,
            title=loss,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for name, cells in texts.iterrows():
            table.add_row(str(name), *cells)
        console.print(table)
