"""``select``: from scores and quotas to the samples that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from raydrop.cli.options import OutFile, app, on_this_machine
from raydrop.errors import ConfigError, visible
from raydrop.store.terminal import console, errors

if TYPE_CHECKING:
    import pandas as pd

    from raydrop.selection.prune import Selection
    from raydrop.selection.scores import Scores


TABLE = "id,label,score[,group][,path]"
"""Columns of somebody's own csv of scores."""


QuotaScores = Annotated[
    Path | None,
    Option(help="Scores of the method that from_method:METHOD names.", callback=on_this_machine),
]
Recalls = Annotated[
    Path | None,
    Option(
        help="csv with class,recall (or group,recall) instead of the query model's.",
        callback=on_this_machine,
    ),
]


@app.command(
    epilog="Example: `raydrop select scores.parquet --keep-fraction 0.3 --quotas drop "
    f"--out kept.csv`. A csv of your own has the columns `{TABLE}`; labels may be texts."
)
def select(
    scores: Annotated[
        Path, Argument(help="From `raydrop score`, or a csv.", callback=on_this_machine)
    ],
    keep_fraction: Annotated[float, Option(help="Share of the samples to keep, in (0, 1].")],
    quotas: Annotated[str, Option(help="Quota rule; see `raydrop methods`.")] = "none",
    quota_scores: QuotaScores = None,
    recalls: Recalls = None,
    by: Annotated[
        str, Option(help="Whether quotas and recalls are those of a class or a group.")
    ] = "class",
    recall_smoothing: Annotated[
        float,
        Option(metavar="X", min=0, help="1 is add-one smoothing of the query model's recalls."),
    ] = 0.0,
    minimum_per_class: Annotated[
        int, Option(metavar="N", min=0, help="Quotas leave every class or group this many.")
    ] = 0,
    seed: Annotated[int, Option(metavar="N", min=0, help="Settles ties among equal scores.")] = 0,
    lower_is_kept: Annotated[
        bool, Option("--lower-is-kept", help="Of a csv, keep what scores lowest.")
    ] = False,
    out: OutFile = Path("kept.csv"),
) -> None:
    """Turn scores and quotas into the samples that are kept."""
    from raydrop.selection.prune import prune
    from raydrop.store.tables import read_recalls, write_kept

    if not 0 < keep_fraction <= 1:
        raise ConfigError(
            f"Expected --keep-fraction in (0, 1], found {keep_fraction}; "
            "it is the share of the samples that remains."
        )
    found, paths = _loaded(scores, lower_is_kept)
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
        quota_scores=None if quota_scores is None else _loaded(quota_scores, lower_is_kept)[0],
        seed=seed,
    )
    samples = kept.samples.drop(columns="score")
    if paths is not None:
        samples.insert(1, "path", [paths[at] for at in kept.indices])
    write_kept(out, samples)
    _show(kept, found, by)
    console.print(f"Kept {len(kept)} of {len(found)}: {out}")


def _show(kept: Selection, found: Scores, by: str) -> None:
    """Show how many samples of each class or group are kept, and say of which none is."""
    table, empty = Table(by, "of", "kept"), list[str]()
    sizes, counts = found.sizes(by), kept.counts.values()
    for name, size, count in zip(found.names(by), sizes, counts, strict=True):
        table.add_row(name, str(size), str(count))
        empty += [] if count else [name]
    console.print(table)
    if empty:
        errors.print(
            f"Nothing is kept of {', '.join(empty)}; --quotas with --minimum-per-class or "
            "--recall-smoothing prevents that."
        )


def _loaded(path: Path, lower_is_kept: bool) -> tuple[Scores, Sequence[str] | None]:
    """Return scores of a file, and where the samples' files are, where it says so."""
    from raydrop.selection.scores import Scores
    from raydrop.store.tables import read_paths, read_texts

    if path.suffix.lower() == ".csv":
        return _of_table(read_texts(path, "scores", TABLE), path, not lower_is_kept)
    if lower_is_kept:
        raise ConfigError(
            f"Expected a csv of scores for --lower-is-kept, found {path}, which says itself which "
            "end is kept; leave --lower-is-kept out."
        )
    return Scores.load(path), read_paths(path)


def _of_table(
    table: pd.DataFrame, path: Path, higher_is_kept: bool
) -> tuple[Scores, Sequence[str] | None]:
    """Return the scores of somebody's own table, named as its file is."""
    import pandas as pd

    from raydrop.selection.scores import Scores

    absent = [name for name in ("id", "label", "score") if name not in table]
    columns = ["id", "label", *(name for name in ("group", "path") if name in table)]
    empty = [name for name in columns if not absent and table[name].isna().any()]
    if absent or empty or table.empty:
        found = f"{', '.join(absent or empty) or 'row'}{' in some rows' if empty else ''}"
        raise ConfigError(
            f"Expected the columns {TABLE} in {path}, found no {found}; write a row for each "
            "training sample."
        )
    scores = pd.to_numeric(table["score"], errors="coerce")
    if scores.isna().any():
        line = int(scores.isna().to_numpy().argmax())
        raise ConfigError(
            f"Expected a number for every score in {path}, found "
            f"{visible(table['score'].iloc[line])!r} in row {line + 1}; correct it."
        )
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise ConfigError(
            f"Expected each id once in {path}, found {visible(twice.iloc[0])} twice or more; "
            "remove all rows but one."
        )
    members = {name: table[name].to_numpy() for name in ("label", "group") if name in table}
    found_scores = Scores(
        values=scores.to_numpy(),
        method=path.stem,
        higher_is_kept=higher_is_kept,
        labels=members["label"],
        groups=members.get("group"),
        ids=table["id"].to_numpy(),
    )
    return found_scores, table["path"].tolist() if "path" in table else None
