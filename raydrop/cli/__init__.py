"""The command line: parse, call, print. Imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.text import Text

from raydrop.cli import (  # noqa: F401 - they add commands
    kept,
    looks,
    results,
    selecting,
    starting,
    studies,
)
from raydrop.cli.options import app
from raydrop.cli.scripts import load_sweep, script_folder
from raydrop.errors import RaydropError
from raydrop.store.terminal import errors, set_up, visible_lines

__all__ = ["app", "load_sweep", "main", "script_folder", "sweep_main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

_ORDER = (
    *("init", "run", "trials", "frontier", "keep", "export", "ship", "score", "select", "check"),
    *("methods", "theory"),
)
app.registered_commands.sort(key=lambda each: _ORDER.index(getattr(each.callback, "__name__", "")))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"raydrop {version('raydrop')}")
        raise typer.Exit


@app.callback()
def options_of_every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Say the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Show --debug in the help."""


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
        status: Any = typer.main.get_command(app)(prog_name="raydrop", standalone_mode=False)
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
