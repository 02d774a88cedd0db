"""``select``: from scores and quotas to the samples that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Argument, Option

from raydrop.cli.options import OutFile, app, on_this_machine
from raydrop.errors import ConfigError
from raydrop.store.terminal import console, errors


@app.command(
    epilog="Example: `raydrop select scores.parquet --keep-fraction 0.3 --quotas drop "
    "--out kept.csv`"
)
def select(
    scores: Annotated[Path, Argument(help="From `raydrop score`.", callback=on_this_machine)],
    keep_fraction: Annotated[float, Option(help="Share of the samples to keep, in (0, 1].")],
    quotas: Annotated[str, Option(help="Quota rule; see `raydrop methods`.")] = "none",
    quota_scores: Annotated[
        Path | None,
        Option(
            help="Scores of the method that from_method:METHOD names.", callback=on_this_machine
        ),
    ] = None,
    recalls: Annotated[
        Path | None,
        Option(
            help="csv with class,recall (or group,recall) instead of the query model's.",
            callback=on_this_machine,
        ),
    ] = None,
    by: Annotated[
        str, Option(help="Whether quotas and recalls are those of a class or a group.")
    ] = "class",
    recall_smoothing: Annotated[
        float, Option(min=0, help="1 is add-one smoothing of the query model's recalls.")
    ] = 0.0,
    minimum_per_class: Annotated[
        int, Option(min=0, help="Quotas leave every class or group this many.")
    ] = 0,
    seed: Annotated[int, Option(min=0, help="Settles ties among equal scores.")] = 0,
    out: OutFile = Path("kept.csv"),
) -> None:
    """Turn scores and quotas into the samples that are kept."""
    from raydrop.selection.prune import prune
    from raydrop.selection.scores import Scores
    from raydrop.store.tables import COLUMNS, read_recalls, write_kept

    if not 0 < keep_fraction <= 1:
        raise ConfigError(
            f"Expected --keep-fraction in (0, 1], found {keep_fraction}; "
            "it is the share of the samples that remains."
        )
    found = Scores.load(scores)
    names = found.names(by)
    kept = prune(
        found,
        keep_fraction=keep_fraction,
        quotas=quotas,
        by=by,
        recalls=None if recalls is None else read_recalls(recalls, names, by),
        # Recalls of a file are taken as they are.
        recall_smoothing=0.0 if recalls is not None else recall_smoothing,
        minimum_per_class=minimum_per_class,
        quota_scores=None if quota_scores is None else Scores.load(quota_scores),
        seed=seed,
    )
    write_kept(out, kept.samples[["sample_id", *(COLUMNS[each] for each in found.units)]])
    table, empty = Table(by, "of", "kept"), list[str]()
    for name, size, count in zip(names, found.sizes(by), kept.counts.values(), strict=True):
        table.add_row(name, str(size), str(count))
        empty += [] if count else [name]
    console.print(table)
    if empty:
        errors.print(
            f"Nothing is kept of {', '.join(empty)}; --quotas with --minimum-per-class or "
            "--recall-smoothing prevents that."
        )
    console.print(f"Kept {len(kept)} of {len(found)}: {out}")
