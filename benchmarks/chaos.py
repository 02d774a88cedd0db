"""A driver killed at random moments, and the same command run again, until the study is finished.

Each round starts a small study (digits, small_cnn, two epochs) in a folder of its own, kills the
driver with SIGKILL at a random moment, runs the same command again to its end, and checks that

* scores, predictions, kept samples and ``frontier.csv`` are the bits of an undisturbed run;
* nothing that was finished when the second command began was begun again: every training and every
  score tells when it begins and ends, and what was in the store then is not among them;
* what was in the store then is the same file afterwards.

Half of the moments are uniform over the time that an undisturbed run takes; for the other half a
round waits for a random number of beginnings and ends, and a random tenth of a second, so that
moments inside short stages come up too. One line per round, and the counts at the end.

Run with ``python benchmarks/chaos.py``; ``--rounds 20`` and ``--seed 0`` are the defaults, and
``--address`` runs the study on a cluster. With ``drive LOG run ...`` it is ``raydrop run ...`` that
tells in the file LOG what begins and ends, which is how it starts its own drivers.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raydrop.frontier import load_records, resample
from raydrop.frontier.table import as_filed, table_of
from raydrop.store import Store
from raydrop.store.files import csv_text

STUDY = """
from raydrop.study import Study, Training

study = Study(
    name="chaos",
    dataset="digits+subset(20, test=10)",
    model="small_cnn",
    param_space={
        "method": {"grid_search": ["random", "el2n", "grand"]},
        "keep_fraction": 0.5,
    },
    seeds=(0,),
    training=Training(epochs=2),
    initialisations=2,
)
"""
KINDS = ("query", "scores", "trial")
"""Kinds of entries that take work; each of them is told of when it begins and ends."""

LONGEST = 600.0
"""Seconds after which a command is taken to hang."""


def drive(log: Path, arguments: Sequence[str]) -> None:
    """Be ``raydrop`` with these arguments, and tell what begins and ends.

    Args:
        log: Gets lines of ``begin KIND KEY`` and ``end KIND KEY``.
        arguments: Of ``raydrop``.
    """
    # Functions that travel to other processes by value: those import nothing from this file.
    from raydrop.cli import main
    from raydrop.cluster import crew, driver, scoring, sweep

    def told(kind: str, work: Callable[..., Any], key: Callable[[Any, Any], str]) -> Any:
        def tell(what: str) -> None:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(file, f"{what}\n".encode())
            os.close(file)

        def call(*args: Any, **kwargs: Any) -> Any:
            name = f"{kind} {key(args, kwargs)}"
            tell(f"begin {name}")
            result = work(*args, **kwargs)
            tell(f"end {name}")
            return result

        call.__name__ = work.__name__  # by which Tune calls its trials
        return call

    def first(args: Any, _: Any) -> str:
        return str(args[0].key)

    def second(args: Any, _: Any) -> str:
        return str(args[1].key)

    def trial_id(args: Any, kwargs: Any) -> str:
        return str((args[0] if args else kwargs["config"])["trial_id"])

    class Told(crew.CrewWorker):
        def query(self, *args: Any) -> Any:
            return told("query", super().query, first)(*args)

    driver.start_crew = functools.partial(crew.start_crew, worker=Told)  # type: ignore[attr-defined]
    scoring.run_score = told("scores", scoring.run_score, second)  # type: ignore[attr-defined]
    sweep._trial_task = told("trial", sweep._trial_task, trial_id)
    sys.argv = ["raydrop", *arguments]
    main()


def command(log: Path, study: Path, out: Path, address: str | None) -> list[str]:
    """Return the command of a driver that tells what begins and ends."""
    where = ["--num-cpus", "2"] if address is None else ["--address", address]
    script = [sys.executable, str(Path(__file__).resolve()), "drive", str(log)]
    return [*script, "run", str(study), "--out", str(out), *where]


def lines(log: Path) -> list[str]:
    """Return what has been told so far."""
    return log.read_text().splitlines() if log.exists() else []


def finished(out: Path) -> dict[str, int]:
    """Return every sound entry that took work, as ``KIND KEY``, with the time of its file."""
    store = Store(out / "store")
    return {
        f"{kind} {entry.key}": (entry.path / "meta.json").stat().st_mtime_ns
        for kind in KINDS
        for entry in store.entries(kind)
    }


def results(out: Path) -> dict[str, bytes]:
    """Return every bit that has to be the same: arrays, and the table of points.

    Args:
        out: Folder of a finished study.

    Returns:
        Bytes by name: scores, predictions and kept samples, and ``frontier.csv``.
    """
    store, found = Store(out / "store"), {}
    for kind in ("scores", "trial"):
        for entry in store.entries(kind):
            for name, array in entry.arrays().items():
                found[f"{kind} {entry.key} {name}"] = array.tobytes()
    records = load_records(out)
    table = as_filed(table_of(records, resample(records)))
    return {**found, "frontier.csv": csv_text(table).encode()}


@dataclass(frozen=True)
class Moment:
    """When a driver is killed."""

    events: int
    """After so many beginnings and ends."""
    seconds: float
    """And so long after the last of them, or after the start."""


def killed_at(command: Sequence[str], log: Path, moment: Moment) -> bool:
    """Start a driver and kill it with SIGKILL at a moment.

    Returns:
        Whether it was still running then.
    """
    with tempfile.TemporaryFile() as output:
        driver = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            end = time.monotonic() + LONGEST
            while len(lines(log)) < moment.events and driver.poll() is None:
                if time.monotonic() > end:
                    raise TimeoutError(f"fewer than {moment.events} events in {LONGEST:g} s")
                time.sleep(0.005)
            try:
                driver.wait(moment.seconds)
            except subprocess.TimeoutExpired:
                return True
            return False
        finally:
            driver.kill()
            driver.wait()


@dataclass(frozen=True)
class Round:
    """What came of a driver that was killed and started again."""

    was_running: bool
    """Whether it was killed before it had ended."""
    before: int
    """Entries that were finished when the second command began."""
    again: tuple[str, ...]
    """Of those, the ones that were begun again: none, if all is well."""
    changed: tuple[str, ...]
    """Of those, the ones whose file is another afterwards: none, if all is well."""
    begun: Counter[str]
    """What the second command began, by kind."""
    same: bool
    """Whether every bit is that of the undisturbed run."""


def play(
    study: Path, folder: Path, moment: Moment, expected: dict[str, bytes], address: str | None
) -> Round:
    """Kill a driver at a moment, run its command again, and compare.

    Args:
        study: Script or ``study.json``.
        folder: Empty, for results.
        moment: When to kill.
        expected: What :func:`results` says of an undisturbed run.
        address: Of a cluster, or None for Ray on this machine.

    Raises:
        RuntimeError: If the second command fails.
    """
    first, second, out = folder / "first.log", folder / "second.log", folder / "out"
    was_running = killed_at(command(first, study, out, address), first, moment)
    before = finished(out)
    whole(command(second, study, out, address))
    after = finished(out)
    begun = [line.removeprefix("begin ") for line in lines(second) if line.startswith("begin ")]
    found = results(out)
    return Round(
        was_running,
        len(before),
        tuple(name for name in begun if name in before),
        tuple(name for name, stamp in before.items() if after.get(name) != stamp),
        Counter(name.split()[0] for name in begun),
        found == expected,
    )


def whole(command: Sequence[str]) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: If it fails; says what it printed.
    """
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    if ended.returncode:
        raise RuntimeError(f"status {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")


def moments(count: int, seed: int, events: int, seconds: float) -> list[Moment]:
    """Return random moments, half by time and half by what has begun and ended."""
    rng = np.random.default_rng(seed)
    return [
        Moment(0, rng.uniform(0.0, seconds))
        if i % 2
        else Moment(int(rng.integers(1, events)), rng.uniform(0.0, 0.1))
        for i in range(count)
    ]


def main() -> None:
    """Play rounds, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20, help="drivers to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--address", help="of a Ray cluster; Ray on this machine by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, log = folder / "study.py", folder / "undisturbed.log"
        study.write_text(STUDY)
        start = time.monotonic()
        whole(command(log, study, folder / "undisturbed", options.address))
        seconds = time.monotonic() - start
        expected, events = results(folder / "undisturbed"), len(lines(log))
        entries = len(finished(folder / "undisturbed"))
        print(f"undisturbed: {seconds:.0f} s, {entries} entries, {events} events", flush=True)
        rounds = []
        for i, moment in enumerate(moments(options.rounds, options.seed, events, seconds)):
            place = folder / f"round{i}"
            place.mkdir()
            rounds.append(play(study, place, moment, expected, options.address))
            print(f"{i + 1:>3} {moment}: {rounds[-1]}", flush=True)
    sound = [r for r in rounds if r.same and not r.again and not r.changed]
    done, running = [r.before for r in rounds], sum(r.was_running for r in rounds)
    print(
        f"{len(rounds)} drivers, {running} killed before their end, with "
        f"{min(done)} to {max(done)} of {entries} entries finished: {len(sound)} rounds ended with "
        "the same bits and began nothing again that was finished"
    )
    sys.exit(len(sound) != len(rounds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
