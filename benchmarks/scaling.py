"""What scheduling costs: trials and shards that do nothing, and logical clusters that grow.

All of it goes through the Tuner and the pool of a study, with their settings.

* ``trials``: 1,000 trials that do nothing. Seconds from the call of ``fit`` to its return, so with
  the start of the processes, and by how much the driver's resident memory grew. Targets: 90 s on
  two cores, 100 MB.
* ``shards``: 10,000 shards that do nothing, over two workers that have answered before.
  Milliseconds each, from the driver's view. Target: 2.
* ``sweep``: 20 trials that compute for a second of processor time each, on two cores. Efficiency is
  the processor time of the trials over twice the time that passed, counted from when both processes
  are at work, because starting them (Ray, Python, imports) is paid once however many trials there
  are, to the end of the last trial. Target: 85 %. On a busy machine the trials themselves are
  held up, so the gap from one trial to the next of the same process is given too.
* ``logical``: nodes of eight logical GPUs each, 1 to 64 GPUs in all, with one worker for each.
  Again trials and shards that do nothing: what each costs, by the number of workers. Each worker is
  a process, so it stops before memory would run out, and says so.

One line each. Run with ``python benchmarks/scaling.py``; ``--only`` chooses one. Scoring with real
work, on one worker and on two, is in ``benchmarks/scoring.py --sharded``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from raydrop.cluster.crew import CrewWorker, WorkContext, start_crew
from raydrop.cluster.layout import Layout
from raydrop.cluster.session import ray_session
from raydrop.cluster.shared_store import SharedStore
from raydrop.cluster.sweep import make_tuner
from raydrop.scores.sharding import Shard
from raydrop.store import Place
from raydrop.study import Study

SHARD_SAMPLES = 64
STATE_VALUES = 100_000
"""Parameters of a small network."""
GPUS_PER_NODE = 8
SPARE_BYTES = 4 * 2**30
"""Memory that stays free, whatever is started."""


class Idle(CrewWorker):
    """A worker of the crew that does nothing."""

    def __init__(self, *_: Any) -> None:
        """Load nothing."""

    def use(self, network: Any) -> None:
        """Build nothing."""

    def run(self, task: Any, shard: Shard, state: Any, direction: Any = None) -> Any:  # noqa: ARG002
        """Return zeros."""
        return np.zeros((1, len(shard.positions)), np.float32)


def idle_trial(config: dict[str, Any]) -> None:  # noqa: ARG001 - as Tune calls it
    """Report at once."""
    tune.report({"average_accuracy": 0.0, "worst_class_accuracy": 0.0})


def busy_trial(config: dict[str, Any]) -> None:
    """Compute for a second of processor time, and leave when, for the benchmark to read."""
    folder, _, name = config["trial_id"].rpartition("/")
    start, until = time.time(), time.thread_time() + 1.0
    while time.thread_time() < until:
        sum(range(1000))
    Path(folder, name).write_text(json.dumps([start, time.time(), os.getpid()]))
    tune.report({"average_accuracy": 0.0, "worst_class_accuracy": 0.0})


def fit(
    trainable: Callable[..., None], trial_ids: list[str], layout: Layout
) -> tuple[float, int, int]:
    """Run trials under the Tuner of a study.

    Returns:
        Seconds, bytes by which this process grew, and trials that did not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        tuner = make_tuner(trainable, trial_ids, layout, "trials", Place(Path(folder)))
        gc.collect()
        memory, start = _resident(), time.perf_counter()
        grid = tuner.fit()
        seconds, grown = time.perf_counter() - start, _resident() - memory
        missing = sum(r.metrics is None or "average_accuracy" not in r.metrics for r in grid)
    return seconds, grown, missing


def measure_trials(count: int) -> None:
    """Measure trials that do nothing."""
    with ray_session(num_cpus=2):
        seconds, grown, missing = fit(idle_trial, [str(i) for i in range(count)], Layout(2, 1, 0.0))
    _say(
        f"{count:,} idle trials: {seconds:.1f} s ({seconds / count * 1e3:.1f} ms each), "
        f"driver grew by {grown / 1e6:.0f} MB, {missing} missing (targets: 90 s, 100 MB for 1,000)"
    )


def shard_seconds(workers: int, layout: Layout, count: int) -> float:
    """Return how long shards that do nothing take, in seconds for all, with workers at work."""
    context = WorkContext(Study("idle", "digits", "linear", {}), None, layout, SharedStore(""))
    with start_crew(context, worker=Idle) as crew:
        executor = crew.executor("")
        state = executor.share(np.zeros(STATE_VALUES, np.float32))
        for _ in executor.map("norm", _shards(50 * workers), state):
            pass
        shards, start = _shards(count), time.perf_counter()
        done = {shard.index for shard, _ in executor.map("norm", shards, state)}
        seconds = time.perf_counter() - start
    assert len(done) == count
    return seconds


def _shards(count: int) -> list[Shard]:
    size = SHARD_SAMPLES
    return [Shard(i, np.arange(i * size, (i + 1) * size)) for i in range(count)]


def measure_shards(count: int) -> None:
    """Measure shards that do nothing."""
    with ray_session(num_cpus=2):
        seconds = shard_seconds(2, Layout(2, 1, 0.0), count)
    _say(
        f"{count:,} idle shards over 2 workers: {seconds / count * 1e3:.2f} ms each (target: 2 ms)"
    )


def measure_sweep(count: int) -> None:
    """Measure what remains of two cores for trials of a second each."""
    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=2):
        ids = [f"{folder}/{i}" for i in range(count)]
        total, _, _ = fit(busy_trial, ids, Layout(2, 1, 0.0))
        spans = [json.loads(Path(name).read_text()) for name in ids]
    efficiency, passed = efficiency_of(spans)
    _say(
        f"{count} trials of 1 s on 2 cores: {efficiency:.0%} efficient over {passed:.1f} s once "
        f"both processes are at work (target: 85 %), {statistics.median(gaps_of(spans)) * 1e3:.0f} "
        f"ms from one trial to the next; {total:.1f} s with starting them"
    )


def efficiency_of(spans: list[tuple[float, float, int]]) -> tuple[float, float]:
    """Return the share of the processes' time that went into trials of a second each.

    Args:
        spans: Start, end and process of each trial.

    Returns:
        The share, and the seconds between the first start on the last process and the last end.

    Example:
        >>> efficiency_of([(0.0, 1.0, 1), (0.5, 1.5, 2), (1.0, 2.0, 1), (1.5, 2.5, 2)])
        (0.875, 2.0)
    """
    processes = {process for _, _, process in spans}
    begin = max(min(s for s, _, other in spans if other == process) for process in processes)
    end = max(stop for _, stop, _ in spans)
    worked = sum(
        max(0.0, stop - max(start, begin)) / (stop - start) for start, stop, _ in spans
    )  # each is one second of processor time
    return worked / (len(processes) * (end - begin)), end - begin


def gaps_of(spans: list[tuple[float, float, int]]) -> list[float]:
    """Return seconds from the end of each trial to the start of the next in its process.

    Example:
        >>> gaps_of([(0.0, 1.0, 1), (0.5, 1.5, 2), (1.5, 2.5, 1)])
        [0.5]
    """
    last: dict[int, float] = {}
    gaps = []
    for start, end, process in sorted(spans):
        if process in last:
            gaps.append(start - last[process])
        last[process] = end
    return gaps


def measure_logical(trials: int, shards: int, largest: int) -> None:
    """Measure what trials and shards cost by the number of logical GPUs."""
    gpus, needed = 1, 0
    while gpus <= largest:
        before = _available()
        if before - needed < SPARE_BYTES:
            _say(
                f"stopped before {gpus} logical GPUs: {before / 1e9:.1f} GB are free, "
                f"and they would take {needed / 1e9:.1f} GB"
            )
            return
        with _logical_cluster(gpus):
            # CPUs are logical too: what is measured is the driver.
            layout = Layout(gpus, 1, 1.0)
            with _least_available() as least:
                cost = shard_seconds(gpus, layout, shards) / shards
                seconds, grown, missing = fit(idle_trial, [str(i) for i in range(trials)], layout)
            used = max(0, before - least[0])
        needed = max(needed, 2 * used)  # others on this machine take and give back too
        nodes = -(-gpus // GPUS_PER_NODE)
        _say(
            f"{gpus:>2} logical GPUs, {nodes} nodes: {cost * 1e3:.2f} ms per shard, {trials} "
            f"trials in {seconds:.1f} s ({seconds / trials * 1e3:.0f} ms each, with starting), "
            f"{missing} missing, driver grew by {grown / 1e6:.0f} MB, all took {used / 1e9:.1f} GB"
        )
        gpus *= 2


@contextlib.contextmanager
def _logical_cluster(gpus: int) -> Iterator[None]:
    """Start nodes with logical GPUs, of which the machine needs to have none."""
    from ray._private.authentication import authentication_token_setup as authentication
    from ray.cluster_utils import Cluster

    authentication.enable_token_auth_by_default()
    authentication.ensure_token_if_auth_enabled()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for start in range(0, gpus, GPUS_PER_NODE):
            count = min(GPUS_PER_NODE, gpus - start)
            cluster.add_node(num_cpus=count, num_gpus=count, object_store_memory=100 * 2**20)
        with ray_session(cluster.address):
            yield
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def _least_available() -> Iterator[list[int]]:
    """Give a list whose one number is the least memory that was available in the context."""
    least, ended = [_available()], threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            least[0] = min(least[0], _available())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield least
    finally:
        ended.set()
        thread.join()


def _resident() -> int:
    """Return the bytes that this process holds in memory (Linux)."""
    return _kibibytes(Path("/proc/self/status"), "VmRSS")


def _available() -> int:
    """Return the bytes that new processes could take (Linux)."""
    return _kibibytes(Path("/proc/meminfo"), "MemAvailable")


def _kibibytes(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Measure what is asked for."""
    measures: dict[str, Callable[[], None]] = {
        "trials": lambda: measure_trials(options.trials),
        "shards": lambda: measure_shards(options.shards),
        "sweep": lambda: measure_sweep(20),
        "logical": lambda: measure_logical(200, 2000, options.largest),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=[*measures], help="all by default")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=64, help="logical GPUs")
    options = parser.parse_args()
    _say(f"Python {platform.python_version()}, Ray {ray.__version__}, {platform.machine()}")
    for name in options.only or measures:
        measures[name]()


if __name__ == "__main__":
    # What is defined here travels to workers whole: they cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    main()
