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
    table, empty = Table(by, "of", "kept"), list[str]()
    kept_sizes = np.bincount(members[kept], minlength=len(sizes))
    for name, size, count in zip(units.names, sizes, kept_sizes, strict=True):
        table.add_row(name, str(size), str(count))
        empty += [] if count else [name]
    console.print(table)
    if empty:
        errors.print(
            f"Nothing is kept of {', '.join(empty)}; --quotas with --minimum-per-class or "
            "--recall-smoothing prevents that."
        )
    console.print(f"Kept {len(kept)} of {len(frame)}: {out}")
