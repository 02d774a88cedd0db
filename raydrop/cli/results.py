"""Commands on what a study left: its ``frontier``, an ``export``, a network to ``ship``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from typer import Argument, Option

from raydrop.cli.options import AsJson, By, Directory, OutFile, Trust, app, on_this_machine
from raydrop.errors import ConfigError
from raydrop.store.terminal import console, errors

if TYPE_CHECKING:
    import pandas as pd

    from raydrop.frontier import Frontier
    from raydrop.frontier.overlay import Overlay


@app.command(
    epilog="Example: `raydrop frontier results/digits`; with --watch while its sweep runs; "
    "`raydrop frontier results/a results/b --out results/a-and-b` overlays studies; "
    "`raydrop frontier predictions.csv --out results/elsewhere` takes those of other programs: "
    "`method,keep_fraction,seed,id,label,prediction[,quotas,loss,model,group,split]`."
)
def frontier(
    directories: Annotated[
        list[str],
        Argument(
            metavar="DIRECTORY",
            help="Where `raydrop run` left results; or csv or parquet files of predictions.",
        ),
    ],
    by: By = None,
    watch: Annotated[
        bool, Option("--watch", help="First follow a running sweep until it ends.")
    ] = False,
    interval: Annotated[
        float | None, Option(help="Seconds between two looks of --watch; 2 by default.")
    ] = None,
    out: Annotated[
        str | None, Option(help="Folder for an overlay of studies, or what predictions say.")
    ] = None,
    pdf: Annotated[bool, Option("--pdf", help="Write every figure as PDF too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make tables, figures and report anew from the records, without Ray or torch."""
    if any(map(_is_table, directories)):
        directories = [_of_predictions(directories, out)]
        out = None
    if watch and as_json:
        raise ConfigError(
            "Expected --json without --watch, which prints as a sweep goes, found both; leave one "
            "out."
        )
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
    if out is not None:
        _overlay(directories, out, by, as_json=as_json)
        return
    (directory,) = directories
    if watch:
        _watch(directory, by, interval)
    show_frontier(directory, by, pdf=pdf, as_json=as_json)


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in (".csv", ".parquet") and not Path(name).is_dir()


def _of_predictions(files: list[str], out: str | None) -> str:
    """Leave what files of predictions say in a folder, and return it."""
    from raydrop.frontier.predictions import from_predictions

    odd = [each for each in files if not _is_table(each)]
    if odd or out is None:
        raise ConfigError(
            "Expected files of predictions alone, and --out with a folder for what they say, found "
            f"{f'{odd[0]} among them' if odd else 'no --out'}; give each kind by itself."
        )
    from_predictions(files, name=Path(out).name).copy(out)
    return out


@app.command(epilog="Example: `raydrop export results/digits --format latex --out table.tex`")
def export(
    directory: Directory,
    kind: Annotated[str, Option("--format", help="csv, parquet or latex.")],
    out: Annotated[
        Path | None,
        Option(
            help="File to write; table.csv and the like in the folder.", callback=on_this_machine
        ),
    ] = None,
    by: By = None,
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
    directory: Directory,
    trial: Annotated[
        str, Argument(help="Its trial_id, or how it begins; of one that pruned a network.")
    ],
    out: OutFile,
    kind: Annotated[str, Option("--format", help="raydrop, pt2 or onnx.")] = "raydrop",
    trust: Trust = None,
) -> None:
    """Write the pruned network of a trial to a file, to be used elsewhere."""
    from raydrop.stages.ship import ship as write

    spec = write(directory, trial, out, kind, trust or ())
    pruned = f"{spec.model}, {spec.network_method}, {spec.network_target}"
    console.print(f"Network: {out} ({pruned})")


def show_frontier(
    directory: str | Path, by: str | None = None, *, pdf: bool = False, as_json: bool = False
) -> None:
    """Write stage 4 and show its short table and where the report is."""
    from raydrop.frontier import remarks, write_frontier
    from raydrop.frontier.table import as_filed

    result = write_frontier(directory, by, pdf=pdf)
    report = result.records.place.called("report.html", here=True)
    if as_json:
        _print_json(result.by, as_filed(result.table), {"report": report})
    else:
        _print_points(result)
    _print_remarks(remarks(result.records))
    if not as_json:
        console.print(f"Report: {report}")


def _print_json(by: str, points: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Print points, missing numbers being null, and further facts."""
    rows = json.loads(points.to_json(orient="records", double_precision=15))
    typer.echo(json.dumps({"by": by, "points": rows, **facts}, indent=1))


def _watch(directory: str, by: str | None, interval: float | None) -> None:
    """Follow a running sweep until it ends."""
    from raydrop.frontier.watch import INTERVAL, watch

    try:
        watch(directory, console, by, INTERVAL if interval is None else interval)
    except KeyboardInterrupt:
        console.print("Stopped watching; without --watch the same command writes the report.")
        raise


def _overlay(directories: list[str], out: str, by: str | None, *, as_json: bool) -> None:
    """Write several studies' overlay and show its short table."""
    from raydrop.frontier.overlay import filed, write_overlay

    result = write_overlay(directories, out, by)
    paths = [result.place.called(name, here=True) for name in result.paths]
    if as_json:
        _print_json(result.by, filed(result.table), {"overlay": paths})
    else:
        _print_points(result)
    _print_remarks(result.remarks())
    if not as_json:
        console.print(f"Overlay: {', '.join(paths)}")


def _print_remarks(lines: list[str]) -> None:
    for line in lines:
        errors.print(line)


def _print_points(result: Frontier | Overlay) -> None:
    """Show a line per series, and a column per keep fraction."""
    from raydrop.frontier import summary_table

    console.print(
        f"Average/worst-{result.by} accuracy; ● on the Pareto front, ○ on that of its keep fraction"
    )
    look = {"title_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    for loss, texts in summary_table(result).items():
        fractions = [f"keep {fraction:g}" for fraction in texts.columns]
        table = Table("method + quotas", *fractions, title=loss, **look)  # type: ignore[arg-type]
        for name, cells in texts.iterrows():
            table.add_row(str(name), *cells)
        console.print(table)
