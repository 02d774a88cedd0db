"""The front of a running sweep, in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydrop.errors import ConfigError
from raydrop.frontier.growing import Snapshot, Watcher, best_worst
from raydrop.frontier.names import has_several_models, point_name, series_name
from raydrop.frontier.table import front_mark, worst_accuracy
from raydrop.frontier.terminal import Console

INTERVAL = 2.0
"""Seconds between two looks at the records."""

QUIET_SECONDS = 60.0
"""After this long without a new record, a view says so: the sweep may have ended."""

_OTHER_LINES = 9
"""Lines of the live view, and of the prompt beneath it, that are no points."""


def watch(
    directory: str | Path,
    console: Console,
    by: str | None = None,
    interval: float = INTERVAL,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show how a sweep goes until all its trials are there or failed.

    In a terminal a table is redrawn in place; elsewhere a line is printed when something changed.
    Writes no file.

    Args:
        directory: Output folder of ``raydrop run``, which may not be there yet.
        console: Where to show.
        by: ``class``, ``group``, or None for what the study is about.
        interval: Seconds between two looks.
        sleep: Waits that long.

    Raises:
        ConfigError: If ``by`` or ``interval`` do not fit, or a file is in the folder's place.
        StoreError: If ``study.json`` is not one of this version.
    """
    if not (math.isfinite(interval) and interval > 0):
        raise ConfigError(
            f"Expected a positive number of seconds for --interval, found {interval:g}; "
            f"leave it out for {INTERVAL:g}."
        )
    watcher = Watcher(directory, by)
    place = str(directory)
    with _display(console, place) as show:
        while True:
            snapshot = watcher.look()
            show(snapshot)
            if snapshot.is_over:
                return
            sleep(interval)


@contextmanager
def _display(console: Console, place: str) -> Iterator[Callable[[Snapshot], None]]:
    """Give what shows a snapshot: a live table in a terminal, a line elsewhere."""
    if not console.is_terminal:
        yield _lines(console, place)
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(snapshot: Snapshot) -> None:
            rows = max(3, console.height - _OTHER_LINES)
            live.update(live_view(snapshot, place, time.time(), rows), refresh=True)

        yield show


def _lines(console: Console, place: str) -> Callable[[Snapshot], None]:
    last = ""

    def show(snapshot: Snapshot) -> None:
        nonlocal last
        line = line_view(snapshot, place)
        if line != last:
            console.print(line)
        last = line

    return show


def line_view(snapshot: Snapshot, place: str) -> str:
    """Return a snapshot as one line: the counts, and the points of the front.

    Args:
        snapshot: What is known.
        place: The output folder, as the user wrote it.
    """
    head = _counts(snapshot, place)
    if snapshot.waiting:
        return head
    several = has_several_models(snapshot.points)
    worst = worst_accuracy(snapshot.by)
    front = snapshot.points[snapshot.points["on_front"]].sort_values(worst, kind="stable")
    texts = [
        f"{row['average_accuracy']:.2f}/{row[worst]:.2f} {point_name(row, several_models=several)}"
        for row in front.iloc[::-1].to_dict("records")
    ]
    return f"{head}; front (average/worst {snapshot.by}): {'; '.join(texts)}"


def live_view(snapshot: Snapshot, place: str, now: float, rows: int) -> RenderableType:
    """Return a snapshot as a compact table: the front, and the best point of each keep fraction.

    Args:
        snapshot: What is known.
        place: The output folder, as the user wrote it.
        now: Seconds since 1970.
        rows: Most points to show.
    """
    head = _counts(snapshot, place)
    quiet = now - snapshot.newest
    if snapshot.newest and quiet > QUIET_SECONDS and not snapshot.is_over:
        head += f"; no new record for {_duration(quiet)}"
    parts: list[RenderableType] = [head]
    if not snapshot.waiting:
        shown = _shown(snapshot)
        parts.append(_table(snapshot, shown.head(rows)))
        if len(shown) > rows:
            parts.append(f"… and {len(shown) - rows} more points")
        mark = f"● on the Pareto front, ○ on that of its keep fraction; means of {_worst(snapshot)}"
        parts.append(Text(mark, style="dim"))
    if not snapshot.is_over:
        parts.append(Text("Ctrl-C ends the watching, not the sweep.", style="dim"))
    return Group(*parts)


def _worst(snapshot: Snapshot) -> str:
    return f"each seed's worst {snapshot.by}"


def _counts(snapshot: Snapshot, place: str) -> str:
    """Say how many trials are done, failed and left."""
    name = f"{snapshot.name}: " if snapshot.name else ""
    if not snapshot.asked:
        return f"Waiting for a sweep in {place}: {snapshot.waiting}"
    text = f"{name}{snapshot.finished} of {snapshot.asked} trials"
    if snapshot.failed:
        text += f", {snapshot.failed} failed"
    return f"{text}; waiting: {snapshot.waiting}" if snapshot.waiting else text


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def _shown(snapshot: Snapshot) -> pd.DataFrame:
    """Return the front, best worst case first, then what is best at other keep fractions."""
    worst = worst_accuracy(snapshot.by)
    points = snapshot.points.sort_values(worst, ascending=False, kind="stable")
    front = points[points["on_front"]]
    best = best_worst(snapshot.points, snapshot.by)
    return pd.concat([front, best[~best.index.isin(front.index)]])


def _table(snapshot: Snapshot, shown: pd.DataFrame) -> Table:
    points = snapshot.points
    extra = [name for name in ("loss", "model", "network_target") if points[name].nunique() > 1]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("method + quotas", overflow="ellipsis", no_wrap=True)
    for name in extra:
        heading = "network" if name == "network_target" else name
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for name in ("keep", "seeds", "average", f"worst {snapshot.by}"):
        table.add_column(name, justify="right")
    for row in shown.to_dict("records"):
        cells = [front_mark(row), series_name(row), *(str(row[name]) for name in extra)]
        cells += [f"{row['keep_fraction']:g}", str(row["n_seeds"])]
        cells += [f"{row[name]:.3f}" for name in ("average_accuracy", worst_accuracy(snapshot.by))]
        table.add_row(*cells)
    return table
