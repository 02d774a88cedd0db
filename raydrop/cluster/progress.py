"""Progress in the terminal, or one line now and then where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_SECONDS = 15.0
"""Where output goes to a file, a line of progress appears no more often than this."""


class StageProgress:
    """Counts what a stage has done."""

    def __init__(self, console: Console, stage: str, total: int, bar: Progress | None) -> None:
        self._console, self._stage, self._total = console, stage, total
        self._bar = bar
        self._task = bar.add_task(stage, total=total, note="") if bar else None
        self._done = 0
        self._start = self._last = time.monotonic()
        self._first = 0.0

    def advance(self, note: str = "") -> None:
        """Count one more, with a word on it."""
        self._done += 1
        self._first = self._first or time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, note=note)
        elif time.monotonic() - self._last >= LINE_EVERY_SECONDS or self._done == self._total:
            self._last = time.monotonic()
            elapsed = self._last - self._start
            done = f"{self._stage}: {self._done}/{self._total} in {elapsed:.0f} s"
            self._console.print(
                f"{done}{self._left()}  {note}",
                highlight=False,
                soft_wrap=True,
            )

    def _left(self) -> str:
        """Say how long the rest takes, at the pace since the first, which paid for starting."""
        rest = self._total - self._done
        if self._done < 2 or not rest:
            return ""
        pace = (self._last - self._first) / (self._done - 1)
        return f", about {pace * rest:.0f} s left"


@contextmanager
def stage_progress(console: Console, stage: str, total: int) -> Iterator[StageProgress]:
    """Show the progress of one stage while the context lasts."""
    if not console.is_terminal:
        yield StageProgress(console, stage, total, None)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield StageProgress(console, stage, total, bar)
