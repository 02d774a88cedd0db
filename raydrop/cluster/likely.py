"""How long a plan is likely to take: its works handed to workers, at the pace of each."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from raydrop.plan.workload import StageName, Work

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Return when the last of some works ends, if a worker that is free takes the next of them.

    This is list scheduling in the given order (Graham 1966, "Bounds for certain multiprocessing
    anomalies"): it ends after at least the longest work, and less than twice as late as the best
    order does.

    Args:
        seconds: What each work takes.
        workers: How many there are, all alike.

    Example:
        >>> makespan([3, 3, 2, 4], workers=2)
        7.0
    """
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def stage_seconds(
    works: Sequence[Work], pace: Mapping[tuple[StageName, str], float], workers: int
) -> dict[StageName, float]:
    """Return how long each stage takes that has works, in the order of the stages.

    A stage begins when the one before has ended. Query runs and trials are handed to workers one by
    one; the works of scores follow each other, each shared by as many workers as it has parts for.

    Args:
        works: In the order in which they are begun.
        pace: Seconds of a sample pass by stage and architecture, of all that occur.
        workers: How many there are.
    """
    found: dict[StageName, float] = {}
    for stage in get_args(StageName):
        mine = [work for work in works if work.stage == stage]
        seconds = [work.cost * pace[stage, work.model] for work in mine]
        if stage == "scores":
            rounds = [math.ceil(work.parts / workers) / work.parts for work in mine]
            found[stage] = sum(s * r for s, r in zip(seconds, rounds, strict=True))
        else:
            found[stage] = makespan(seconds, workers)
    return {stage: seconds for stage, seconds in found.items() if seconds}


def duration(seconds: float) -> str:
    """Say how long something takes, with two significant digits at most, since it is an estimate.

    Examples:
        >>> [duration(s) for s in (0.2, 3.14159, 87, 100, 5400, 200_000, 1e8)]
        ['under 1 s', '3.1 s', '87 s', '1.7 min', '1.5 h', '2.3 days', '1,200 days']
    """
    if seconds < 1:
        return "under 1 s"
    for unit, length, end in (("s", 1.0, 90.0), ("min", MINUTE, 90 * MINUTE), ("h", HOUR, 2 * DAY)):
        if seconds < end:
            return f"{seconds / length:.2g} {unit}"
    return f"{float(f'{seconds / DAY:.2g}'):,g} days"
