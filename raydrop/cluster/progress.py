"""Progress in the terminal, or one line now and then where there is no terminal.

What is told of a single trial is a line of its own either way; the bar stays below it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from raydrop.errors import visible
from raydrop.stages.logs import Kind

LINE_EVERY_SECONDS = 15.0
"""Where output goes to a file, a line of counts appears no more often than this."""

LONGEST_SENTENCE = 240
"""Characters of a sentence that are quoted within a line."""


class StageProgress:
    """Counts what a stage has done: items that are finished, and work within them.

    Time left is estimated from the work, whose pieces are small and alike.
    """

    def __init__(
        self, console: Console, stage: str, items: int, work: float, bar: Progress | None
    ) -> None:
        """Begin with nothing done of so many items, and an expected amount of work in any unit."""
        self._console, self._stage, self._items = console, stage, items
        self._work, self._bar, self._note = work, bar, ""
        self._task = bar.add_task(stage, total=work, items=f"0/{items}", note="") if bar else None
        self._finished, self._done = 0, 0.0
        self._start = self._last = time.monotonic()
        self._first: tuple[float, float] | None = None

    def advance(self, note: str = "", work: float = 1.0) -> None:
        """Count one more item as finished, with the work that it took and was not told of yet."""
        self._finished += 1
        self.worked(work, note)

    def worked(self, amount: float, note: str | None = None) -> None:
        """Count some work within an item."""
        self._done += amount
        now = time.monotonic()
        if self._first is None and amount:
            self._first = now, self._done
        if self._bar is not None and self._task is not None:
            self._note = self._note if note is None else visible(note)
            items = f"{self._finished}/{self._items}"
            self._bar.update(self._task, advance=amount, items=items, note=self._note)
        elif now - self._last >= LINE_EVERY_SECONDS or (note is not None and self._is_over()):
            self._last = now
            self._print_line(note or "")

    def say(self, line: str) -> None:
        """Print a line; in a terminal, above the bar."""
        self._console.print(line)

    def expect(self, work: float) -> None:
        """Correct how much work is left, where it was found to be less or more than expected."""
        self._work = self._done + work
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self._work)

    def _is_over(self) -> bool:
        return self._finished == self._items

    def _print_line(self, note: str) -> None:
        elapsed = self._last - self._start
        share = ""
        if not self._is_over() and self._work not in (0, self._items):  # which items do not tell
            share = f" ({min(1.0, self._done / self._work):.0%})"
        self.say(
            f"{self._stage}: {self._finished}/{self._items}{share} in {elapsed:.0f} s"
            f"{self._left()}  {note}".rstrip()
        )

    def _left(self) -> str:
        """Say how long the rest takes, at the pace since the first, which paid for starting."""
        rest = self._work - self._done
        since, before = self._first or (0.0, self._done)
        if self._is_over() or rest <= 0 or self._done <= before:
            return ""
        pace = (self._last - since) / (self._done - before)
        return f", about {pace * rest:.0f} s left"


def quoted(sentence: str) -> str:
    """Return a sentence as it can stand within a line: on one line, and not too long.

    Example:
        >>> quoted("Expected   one line. ")
        'Expected one line.'
    """
    line = visible(" ".join(sentence.split()))
    return line if len(line) <= LONGEST_SENTENCE else f"{line[: LONGEST_SENTENCE - 1]}…"


def failure_text(message: str, kind: Kind, key: str) -> str:
    """Say that something failed, why, and where its log is, to go on with in a line."""
    return f" failed: {quoted(message)} (log: logs/{kind}/{key[:8]}*.log)"


@contextmanager
def stage_progress(
    console: Console, stage: str, items: int, work: float | None = None
) -> Iterator[StageProgress]:
    """Show the progress of one stage while the context lasts; by default an item is its work."""
    work = float(items) if work is None else work
    if not console.is_terminal:
        yield StageProgress(console, stage, items, work, None)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.fields[items]}"),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        yield StageProgress(console, stage, items, work, bar)
