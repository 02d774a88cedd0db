"""Commands on what a study left: its ``frontier``, an ``export``, a network to ``ship``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich import box
from rich.table import Table
from typer import Argument, Option

from raydrop.cli.options import By, OutFile, app, on_this_machine
from raydrop.errors import ConfigError
from raydrop.store.terminal import console, errors

if TYPE_CHECKING:
    from raydrop.frontier import Frontier
    from raydrop.frontier.overlay import Overlay

Results = Annotated[str, Argument(help="Where `raydrop run` left results.")]


@app.command(
    epilog="Example: `raydrop frontier results/digits`; with --watch while its sweep runs; "
    "`raydrop frontier results/a results/b --out results/a-and-b` overlays studies."
)
def frontier(
    directories: Annotated[
        list[str], Argument(metavar="DIRECTORY", help="Where `raydrop run` left results.")
    ],
    by: By = None,
    watch: Annotated[
        bool, Option("--watch", help="First follow a running sweep until it ends.")
    ] = False,
    interval: Annotated[
        float | None, Option(help="Seconds between two looks of --watch; 2 by default.")
    ] = None,
    out: Annotated[str | None, Option(help="Folder for the overlay of several studies.")] = None,
    pdf: Annotated[bool, Option("--pdf", help="Write every figure as PDF too.")] = False,
) -> None:
    """Make tables, figures and report anew from the records, without Ray or torch."""
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
        _overlay(directories, out, by)
        return
    (directory,) = directories
    if watch:
        _watch(directory, by, interval)
    show_frontier(directory, by, pdf=pdf)


@app.command(epilog="Example: `raydrop export results/digits --format latex --out table.tex`")
def export(
    directory: Results,
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
    directory: Results,
    trial: Annotated[
        str, Argument(help="Its trial_id, or how it begins; of one that pruned a network.")
    ],
    out: OutFile,
    kind: Annotated[str, Option("--format", help="raydrop, pt2 or onnx.")] = "raydrop",
) -> None:
    """Write the pruned network of a trial to a file, to be used elsewhere."""
    from raydrop.stages.ship import ship as write

    spec = write(directory, trial, out, kind)
    pruned = f"{spec.model}, {spec.network_method}, {spec.network_target}"
    console.print(f"Network: {out} ({pruned})")


def show_frontier(directory: str | Path, by: str | None = None, *, pdf: bool = False) -> None:
    """Write stage 4 and show its short table and where the report is."""
    from raydrop.frontier import remarks, write_frontier

    result = write_frontier(directory, by, pdf=pdf)
    _print_points(result)
    _print_remarks(remarks(result.records))
    console.print(f"Report: {result.records.place.called('report.html', here=True)}")


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
    _print_points(result)
    _print_remarks(result.remarks())
    paths = ", ".join(result.place.called(name, here=True) for name in result.paths)
    console.print(f"Overlay: {paths}")


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
