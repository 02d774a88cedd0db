"""Commands that only look: ``theory``, ``check`` of data, ``methods``, ``cluster check``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from typer import Argument, Option

from raydrop.cli.options import AsJson, DataRoot, app, on_this_machine
from raydrop.errors import ConfigError
from raydrop.store.terminal import console, errors

if TYPE_CHECKING:
    from raydrop.data.check import DataCheck
    from raydrop.study.catalogue import Catalogue

cluster_app = typer.Typer(help="Look after the files of clusters.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")

MOST_ROWS = 40
"""Of a data set with more classes, `check` shows the smallest and the largest."""


@app.command(
    epilog="Example: `raydrop theory --means -1 1 --sigmas 0.5 1 --prior 0.5 --out theory.png`"
)
def theory(
    means: Annotated[
        tuple[float, float], Option(help="Means of class 0 and class 1, ascending.")
    ] = (-1.0, 1.0),
    sigmas: Annotated[
        tuple[float, float], Option(help="Standard deviations of class 0 and class 1.")
    ] = (0.5, 1.0),
    prior: Annotated[float, Option(help="Share of class 0, in (0, 1).")] = 0.5,
    keep_fraction: Annotated[
        float | None,
        Option(help="Share to keep; by default the largest that keeps no class whole."),
    ] = None,
    out: Annotated[
        Path, Option(help="Figure to write, .png or .svg.", callback=on_this_machine)
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
        str, Argument(help="Data set and variants as in a study, or a folder of images.")
    ],
    data_root: DataRoot = None,
    quick: Annotated[
        bool, Option("--quick", help="Decode no file: read headers and compare bytes.")
    ] = False,
    strict: Annotated[
        bool,
        Option(
            "--strict",
            help="Exit with 1 for whatever is found, such as images that are in train and test; "
            "by default only for what would stop a study: files that cannot be read.",
        ),
    ] = False,
    as_json: Annotated[
        bool, Option("--json", help="Print all of it, with every name, as JSON.")
    ] = False,
) -> None:
    """Look at data before a study: sizes, broken files, copies, labels that differ, odd trees."""
    from rich.progress import track

    from raydrop.data.check import check_data

    def progress(numbers: Sequence[int]) -> Iterable[int]:
        quiet = not errors.is_terminal
        return track(numbers, "Reading", console=errors, transient=True, disable=quiet)

    found = check_data(data, data_root, quick=quick, progress=progress)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        _print_check(found)
    if found.fatal or (strict and found.findings):
        raise typer.Exit(1)


def _print_check(found: DataCheck) -> None:
    """Show what a look at a data set found."""
    mirrored = "mirrored in training" if found.horizontal_flip else "not mirrored"
    kept = "kept in memory" if found.in_memory else "read in every epoch"
    lines = {
        "data": found.spec,
        "models see": f"{found.inputs}, {mirrored}, {kept}",
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


@app.command(epilog="Example: `raydrop methods`; `raydrop methods --json` for programs")
def methods(as_json: AsJson = False) -> None:
    """List scores, quotas, losses, network pruners, data, models: what, whose, and from where."""
    from raydrop.data import DATASETS
    from raydrop.models import MODELS
    from raydrop.network import METHODS as PRUNERS
    from raydrop.scores import METHODS
    from raydrop.selection import QUOTAS
    from raydrop.training.losses import LOSSES

    known: dict[str, Catalogue[Any]] = {
        "scores": METHODS,
        "quotas": QUOTAS,
        "losses": LOSSES,
        "network pruners": PRUNERS,
        "data sets": DATASETS,
        "models": MODELS,
    }
    listed = {title: catalogue.everything() for title, catalogue in known.items()}
    if as_json:
        facts = {
            title: [
                {
                    "name": name,
                    "usage": entry.usage,
                    "summary": entry.summary,
                    "citation": entry.citation,
                    "from": entry.origin,
                }
                for name, entry in entries.items()
            ]
            for title, entries in listed.items()
        }
        typer.echo(json.dumps(facts, indent=1))
        return
    for title, entries in listed.items():
        cited = any(entry.citation for entry in entries.values())
        columns = ("name", "what it is", *(["source"] if cited else []), "from")
        table = Table(*columns, title=title, title_justify="left")
        for name, entry in entries.items():
            source = (entry.citation,) if cited else ()
            called = entry.usage if cited else name
            table.add_row(called, entry.summary, *source, entry.origin)
        console.print(table)


@cluster_app.command(
    "check",
    epilog="Example: `raydrop cluster check cluster.yaml deploy/rayjob.yaml`; it asks no cloud.",
)
def check_clusters(
    files: Annotated[list[Path], Argument(metavar="FILE", help="Of `ray up`, or of KubeRay.")],
    template: Annotated[
        bool, Option("--template", help="Let placeholders stand that are left to fill in.")
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
