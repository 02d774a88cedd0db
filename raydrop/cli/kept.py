"""Commands on single trials: which there are, and the samples that one kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from raydrop.cli.options import DataRoot, Directory, OutFile, Trust, app
from raydrop.store.terminal import console

if TYPE_CHECKING:
    from raydrop.frontier.results import Results


@app.command(
    epilog="Example: `raydrop keep results/digits --method el2n --quotas drop --keep-fraction 0.3 "
    "--seed 0 --out kept.csv`, or by an id: `raydrop keep results/digits 3f2a`."
)
def keep(
    directory: Directory,
    trial: Annotated[
        str | None, Argument(help="Its id or how that begins; see `raydrop trials`.")
    ] = None,
    method: Annotated[str | None, Option(help="Of the trial, as the next ones.")] = None,
    quotas: Annotated[str | None, Option(help="Its quota rule.")] = None,
    keep_fraction: Annotated[float | None, Option(help="Share of the samples it kept.")] = None,
    seed: Annotated[int | None, Option(metavar="N", min=0, help="Its seed.")] = None,
    loss: Annotated[str | None, Option(help="Its loss, where there are several.")] = None,
    model: Annotated[str | None, Option(help="Its model, likewise.")] = None,
    query_model: Annotated[str | None, Option(help="Where scores are from, likewise.")] = None,
    data_root: DataRoot = None,
    trust: Trust = None,
    out: OutFile = Path("kept.csv"),
) -> None:
    """Write the samples that a trial kept: id, path, label, class, group and score."""
    from raydrop.frontier.results import Results
    from raydrop.store.tables import write_kept
    from raydrop.study.importing import refuse_paths

    results = Results(directory)
    axes = {
        "method": method,
        "quotas": quotas,
        "keep_fraction": keep_fraction,
        "loss": loss,
        "model": model,
        "query_model": query_model,
    }
    point = {name: value for name, value in axes.items() if value is not None}
    if results.lacks_samples:
        refuse_paths(results.dataset, trust or (), results.place.called())
        _add_samples(results, data_root)
    kept = results.kept(trial, seed=seed, **point)
    write_kept(out, kept)
    console.print(f"Kept {len(kept)}: {out}")
    if kept.attrs["root"]:
        console.print(f"Paths are below {kept.attrs['root']}")


def _add_samples(results: Results, data_root: str | None) -> None:
    """Add what is known of the samples to results of before that was kept."""
    from raydrop.data import load_dataset
    from raydrop.errors import DataError
    from raydrop.stages.facts import save_data_card
    from raydrop.store import Store

    dataset = load_dataset(results.dataset, data_root)
    if dataset.fingerprint != results.fingerprint:
        raise DataError(
            f"Expected the data of {results.place.called()}, found others as {dataset.name}; name "
            "their folder with --data-root."
        )
    save_data_card(dataset, Store(results.place))


@app.command(epilog="Example: `raydrop trials results/digits`")
def trials(directory: Directory) -> None:
    """List the trials of a study: id, point, seed, whether finished, accuracies."""
    from raydrop.frontier.results import Results

    results = Results(directory)
    rows = results.described
    table = Table("id", "point", "seed", "status", "average/worst")
    for row in rows.to_dict("records"):
        cells = (row[name] for name in ("point", "seed", "status", "accuracies"))
        table.add_row(row["trial_id"][:8], *map(str, cells))
    console.print(table)
    for reason, count in results.failed["reason"].value_counts().items():
        console.print(f"{count} failed: {reason}")
