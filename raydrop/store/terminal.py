"""What is written to the terminal: names and messages of others are text, whatever is in them."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import rich.console
import typer
from rich.segment import Segment
from rich.text import Text

from raydrop.errors import visible


class Console(rich.console.Console):
    """Rich's, to which a text is a text: no markup, no emoji, nothing that steers a terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; lines are left to the terminal to wrap, tables fitted into it."""
        whole = all(isinstance(each, str | Text) for each in objects)
        super().print(*objects, **{"soft_wrap": whole, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as it is; tables, too, ask for their cells and titles here."""
        look = {name: options[name] for name in ("style", "justify", "overflow") if name in options}
        return Text(visible(text), **look)

    def render(
        self, renderable: rich.console.RenderableType, options: Any = None
    ) -> Iterable[Segment]:
        """Return what is written, without control characters but those of Rich itself."""
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=visible_lines(part.text))


def visible_lines(text: str) -> str:
    """Return some lines, each of them :func:`~raydrop.errors.visible`."""
    return "\n".join(map(visible, text.split("\n")))


# Where output goes to a file, 80 columns would squeeze tables.
console = Console(width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True)


def set_up() -> None:
    """Have records of loggers, warnings and tracebacks shown as text, in whatever encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _show_traceback


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record).rstrip())


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    from rich.traceback import Traceback

    errors.print(Traceback.from_exception(kind, error, trace, word_wrap=True, suppress=[typer]))
