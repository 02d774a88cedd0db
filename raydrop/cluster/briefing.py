"""What a study will do, told before it does it: its plan, its layout, and how long it may take."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import ray
import torch
from rich.text import Text

from raydrop.cluster import nodes
from raydrop.cluster.likely import duration, stage_seconds
from raydrop.cluster.pace import (
    Finished,
    Kind,
    Noise,
    Probe,
    finished_runs,
    probe_of,
    runs_like,
    timed,
)
from raydrop.cluster.resources import Layout, make_layout
from raydrop.cluster.session import ray_session
from raydrop.cluster.worker import prepare_process
from raydrop.data.batches import PreparedData
from raydrop.data.check import Finding, glance
from raydrop.data.dataset import ArrayImages, ImageDataset
from raydrop.errors import ConfigError, RaydropError, in_one_line, visible
from raydrop.frontier.terminal import Console
from raydrop.plan import Plan
from raydrop.plan.runs import QueryRun
from raydrop.plan.workload import Work, sample_passes, unshared_query_runs, workload
from raydrop.store import Store
from raydrop.study import Study

HEAD = "node:__internal_head__"
"""Ray's name of a resource that the head alone has."""

ANSWER_SECONDS = 120.0
"""How long a worker of a cluster may take to start and to time batches."""

Measure = Callable[[Layout, Sequence[Probe], Noise], dict[Probe, float]]
"""Times batches on a worker of a layout."""

Node = Mapping[str, float]
"""What a node has in all, by the names that Ray has for it."""


@dataclass(frozen=True)
class Briefing:
    """A study, what of it is missing, and where that is told."""

    study: Study
    plan: Plan
    """All that the study asks for."""
    missing: Plan
    """What of it is to be done."""
    dataset: ImageDataset
    store: Store
    console: Console

    @cached_property
    def _works(self) -> tuple[Work, ...]:
        """What is to be done takes; nothing of it is done while a briefing lasts."""
        return workload(self.study, self.missing, self.dataset, self.store)

    def say(self, name: str, text: str) -> None:
        """Print a line."""
        self.console.print(f"  {name:<11} {text}")

    def tell_plan(self) -> None:
        """Say what the study takes, what of it is done, and how much work is left."""
        self._tell_data()
        self._tell_counts()
        self._tell_sharing()
        if self.missing.trials:
            self._tell_work()

    def _tell_data(self) -> None:
        study, dataset = self.study, self.dataset
        sizes = dataset.sizes(study.by)
        units = "classes" if study.by == "class" else "groups"
        self.console.print(
            "Study ",
            Text(visible(study.name), "bold"),
            f": {dataset.name}, "
            f"{len(dataset.train)} training images in {len(sizes)} {units} "
            f"(smallest {sizes.min()}, largest {sizes.max()}), "
            f"{len(dataset.validation)} for validation, {len(dataset.test)} for testing; "
            f"{_models_text(self.plan)}",
            sep="",
        )
        if dataset.remarks:
            self.say("data", " ".join(dataset.remarks))
        self._tell_found(glance(dataset, dataset, study.by))

    def tell_copies(self, data: PreparedData) -> None:
        """Say which images are the same, where they had to be decoded to be compared."""
        if data.dataset is not self.dataset:
            self._tell_found(glance(self.dataset, data.dataset))

    def _tell_found(self, findings: Sequence[Finding]) -> None:
        if findings:
            command = f"raydrop check {shlex.quote(self.dataset.name)}"
            self.say("look", "; ".join([*(f.brief() for f in findings), f"{command} says more"]))

    def _tell_counts(self) -> None:
        plan, missing = self.plan, self.missing
        for name, whole, left in (
            ("query runs", plan.queries, missing.queries),
            ("scores", plan.scores, missing.scores),
            ("trials", plan.trials, missing.trials),
        ):
            needed = "" if name == "trials" or missing.trials else " (none needed any more)"
            kinds = _kinds_text(plan.queries) if name == "query runs" else ""
            self.say(name, f"{len(whole):>5}, of which to do {len(left):>5}{needed}{kinds}")

    def _tell_sharing(self) -> None:
        plan = self.plan
        shared = sum(query.partition is None and not query.initialisation for query in plan.queries)
        unshared = unshared_query_runs(plan)
        if unshared > shared:
            self.say(
                "shared",
                f"{shared} full query runs serve what {unshared} would, one per method, keep "
                "fraction and seed",
            )
        pruned = [run.dense.key for run in plan.trials if run.dense is not None]
        if pruned:
            self.say(
                "shared",
                f"{len(set(pruned))} dense networks serve {len(pruned)} trials that prune them",
            )

    def _tell_work(self) -> None:
        study, n = self.study, len(self.dataset.train)
        work = sample_passes(self._works)
        total = sum(work.values())
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in work.items())
        self.say(
            "work left",
            f"{total:,} sample passes, {total / (study.training.epochs * n):.1f} times training "
            f"on all the data ({shares})",
        )

    def forecast(
        self, address: str | None, num_cpus: int | None, gpus_per_worker: float | None
    ) -> None:
        """Say how the study would lay out now, and how long it is likely to take.

        Without an address, and where there is no session, Ray is not started.

        Args:
            address: Of a cluster, or None for this machine.
            num_cpus: CPUs of a local Ray.
            gpus_per_worker: See :func:`make_layout`.

        Raises:
            ConfigError: If the cluster cannot be joined, or this machine has too little. Nodes that
                a cluster lacks may still come, so that is said instead.
        """
        joins = address is not None or ray.is_initialized()
        with ray_session(address) if joins else nullcontext():
            found = nodes.alive_nodes() if joins else [this_machine(num_cpus)]
            in_memory = self.dataset.fits_decoded()
            try:
                layout = make_layout(found, in_memory=in_memory, gpus_per_worker=gpus_per_worker)
            except ConfigError as error:
                if address is None:
                    raise
                wait = f"a run waits up to {nodes.WAIT_SECONDS:g} s for nodes"
                self.say("layout", f"none now, and {wait}: {error}")
                return
            self.tell_layout(layout, found)
            self.tell_time(layout, measured_on_ray if joins else measured_here)

    def tell_layout(self, layout: Layout, found: Sequence[Node]) -> None:
        """Say how many workers there are at a time, with what, and on which nodes."""
        self.say("layout", layout_text(layout, found))

    def tell_time(self, layout: Layout, measure: Measure | None = None) -> None:
        """Say how long each stage is likely to take.

        Args:
            layout: How many workers there are, and on which device.
            measure: Times what nothing finished tells of. Where it is None and there is such,
                nothing is said.
        """
        paces = self._paces(layout)
        if not paces.probes:
            self._tell_stages(layout, paces, {})
        elif measure is not None:
            noise = Noise.like(self.dataset, in_memory=self.dataset.fits_decoded())
            try:
                measured = measure(layout, paces.distinct_probes(), noise)
            except Exception as error:
                # All else has been told, and the run itself does without.
                self.say("likely", f"no estimate: {_reason(error)}")
            else:
                self._tell_stages(layout, paces, measured)

    def _paces(self, layout: Layout) -> _Paces:
        work = self._works
        finished = finished_runs(self.study, self.plan, self.dataset, self.store, layout.device)
        kinds = dict.fromkeys((each.stage, each.model) for each in work)
        like = {kind: runs_like(kind, finished) for kind in kinds}
        probes = {kind: probe_of(self.study, kind) for kind in kinds if not like[kind]}
        return _Paces(work, like, probes)

    def _tell_stages(self, layout: Layout, paces: _Paces, measured: Mapping[Probe, float]) -> None:
        stages = stage_seconds(paces.works, paces.seconds(measured), layout.workers)
        parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())
        workers = f"{layout.workers} worker" + ("s" if layout.workers > 1 else "")
        reads = not isinstance(self.dataset.train.images, ArrayImages)
        self.say(
            "likely",
            f"{parts}: {duration(sum(stages.values()))} in all on {workers}, at the pace of "
            f"{paces.source()}, besides {paces.left_out(reads=reads)}",
        )


@dataclass(frozen=True)
class _Paces:
    """Where the pace of each kind of work comes from."""

    works: Sequence[Work]
    like: Mapping[Kind, Mapping[Kind, Finished]]
    """Finished runs that tell of each kind; none where it is timed."""
    probes: Mapping[Kind, Probe]
    """What is timed for the other kinds."""

    def distinct_probes(self) -> list[Probe]:
        return list(dict.fromkeys(self.probes.values()))

    def seconds(self, measured: Mapping[Probe, float]) -> dict[Kind, float]:
        """Return the seconds of a sample pass of each kind."""
        told = {k: sum(runs.values(), Finished()).pace for k, runs in self.like.items() if runs}
        return told | {kind: measured[probe] for kind, probe in self.probes.items()}

    def source(self) -> str:
        """Say where the pace comes from."""
        noise = "a few batches of noise on one worker alone"
        runs = {kind: each for like in self.like.values() for kind, each in like.items()}
        if not runs:
            return noise
        counts = Counter[str]()
        for (stage, _), each in runs.items():
            counts["query run" if stage == "query runs" else "trial"] += each.runs
        told = [f"{count} finished {name}{'s' * (count > 1)}" for name, count in counts.items()]
        models = sorted({model for _, model in self.probes})
        return _listed([*told, *([f"for {_listed(models)} {noise}"] if models else [])])

    def left_out(self, *, reads: bool) -> str:
        """Say what the pace does not have in it.

        Args:
            reads: Whether images are read from files.
        """
        parts = []
        if self.probes:
            searches = any(stage == "networks" for stage, _ in self.probes)
            parts += ["reading images"] * reads + ["looking for what to prune"] * searches
        return _listed([*parts, "starting the processes of each stage"])


def layout_text(layout: Layout, found: Sequence[Node]) -> str:
    """Say how many workers a layout has at a time, with what each, and on which nodes.

    Examples:
        >>> layout_text(Layout(8, 1, 0.0), [{"CPU": 8.0}, {"CPU": 0.0, HEAD: 1.0}])
        '8 workers at a time, each 1 CPU, on 1 of 2 nodes (head without CPUs)'
    """
    workers = f"{layout.workers} workers at a time, each" if layout.workers > 1 else "1 worker with"
    unused = [node for node in found if not layout.fits(node)]
    used = len(found) - len(unused)
    if not unused:
        return f"{workers} {layout.needs}, on {used} node{'s' * (used > 1)}"
    lacks: dict[str, list[Node]] = {}
    for node in unused:
        lacks.setdefault(_lack(layout, node), []).append(node)
    reasons = [f"{_who(those)} {lack}" for lack, those in lacks.items()]
    return f"{workers} {layout.needs}, on {used} of {len(found)} nodes ({', '.join(reasons)})"


def _lack(layout: Layout, node: Node) -> str:
    """Say why no worker of a layout fits on a node."""
    if node.get("CPU", 0.0) < 1:
        return "without CPUs"
    return "without GPUs" if layout.gpus and not node.get("GPU") else "too small"


def _who(those: Sequence[Node]) -> str:
    return "head" if len(those) == 1 and HEAD in those[0] else str(len(those))


def this_machine(num_cpus: int | None) -> Node:
    """Return what a Ray that is started on this machine would have.

    Args:
        num_cpus: CPUs that it is given, or None for all.
    """
    from ray._private.utils import get_num_cpus

    cpus = get_num_cpus(override_docker_cpu_warning=True) if num_cpus is None else num_cpus
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def measured_here(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
    """Time batches in this process."""
    return timed(probes, noise, layout.device, layout.cpus)


def measured_on_ray(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
    """Time batches in a worker of a layout.

    Raises:
        TimeoutError: If no worker has answered for too long.
        RayError: If it failed.
    """
    task = ray.remote(_timing_task).options(**layout.ray_options(), max_retries=0)
    reference = task.remote(layout, probes, noise)
    try:
        found: dict[Probe, float] = ray.get(reference, timeout=ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise TimeoutError(
            f"no worker with {layout.needs} answered within {ANSWER_SECONDS:g} s"
        ) from error
    return found


def _reason(error: Exception) -> str:
    """Say why nothing was timed: what Ray wraps, and not that it does."""
    cause = getattr(error, "cause", None) or error
    return str(cause) if isinstance(cause, RaydropError | TimeoutError) else in_one_line(cause)


def _timing_task(layout: Layout, probes: Sequence[Probe], noise: Noise) -> dict[Probe, float]:
    prepare_process(layout)
    return measured_here(layout, probes, noise)


def _listed(words: Sequence[str]) -> str:
    """Join words as a sentence has them."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _models_text(plan: Plan) -> str:
    """Say which networks are trained in the end, and which ones others are scored with."""
    targets = sorted({run.trial.model for run in plan.trials})
    others = sorted({query.model for query in plan.queries} - set(targets))
    return ", ".join(targets) + (f"; scored with {', '.join(others)} too" if others else "")


def _kinds_text(queries: Iterable[QueryRun]) -> str:
    """Say how many query runs of each kind there are, where there are others than the plain one."""
    counts = Counter(_kind(query) for query in queries)
    if counts.keys() <= {"on all the data"}:
        return ""
    return f": {', '.join(f'{count} {kind}' for kind, count in counts.items())}"


def _kind(query: QueryRun) -> str:
    if query.partition is not None:
        return f"surrogates, each on 1/{query.partition[1]} of the data"
    return "further initialisations" if query.initialisation else "on all the data"
