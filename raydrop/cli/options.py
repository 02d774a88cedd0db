"""The application, and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from raydrop.errors import ConfigError

app = typer.Typer(
    help="Which pruning of data keeps the worst class safe, and what does that cost on average?",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def on_this_machine(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a URL where only a file will do: as a path it would become folders."""
    from raydrop.store.remote import is_url

    if path is not None and is_url(path):
        name, url = option.opts[0], str(path).replace(":/", "://", 1)
        raise ConfigError(
            f"Expected a file on this machine for {name}, found {url}; name a file here, and copy "
            "it from or to the object store yourself."
        )
    return path


Directory = Annotated[str, Argument(help="Where `raydrop run` left results.")]
AsJson = Annotated[bool, Option("--json", help="Print it as JSON, and nothing else on stdout.")]
Out = Annotated[
    str | None,
    Option(help="Folder of results or s3://BUCKET/PREFIX, gs://...; results/NAME by default."),
]
DataRoot = Annotated[
    str | None,
    Option(
        help="Folder of data sets, also for downloads, or s3://..., gs://...; ~/.cache/raydrop by "
        "default."
    ),
]
By = Annotated[
    str | None, Option(help="Whether worst is of a class or a group; by default as in the study.")
]
Trust = Annotated[
    list[str] | None,
    Option(
        metavar="PACKAGE",
        help="Import from this package what others' results name; repeatable. It runs that code.",
    ),
]
OutFile = Annotated[Path, Option(help="File to write.", callback=on_this_machine)]
Address = Annotated[str | None, Option(help="Address of a Ray cluster.")]
NumCpus = Annotated[
    int | None, Option(metavar="N", min=1, help="CPUs of a local Ray; all by default.")
]
