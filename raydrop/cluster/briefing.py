"""What a study will do, told before it does it: its plan, its layout, and how long it may take."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from rich.console import Console
from rich.text import Text

from raydrop.cluster import forecast as forecasting
from raydrop.cluster import layout as cluster_layout
from raydrop.cluster.layout import Layout, Node, layout_text, make_layout, this_machine
from raydrop.cluster.packages import own_modules, own_paths
from raydrop.cluster.session import ray_session
from raydrop.data.batches import PreparedData
from raydrop.data.check import Finding, glance
from raydrop.data.dataset import LabelledDataset
from raydrop.data.spec import is_listed
from raydrop.errors import ConfigError, visible
from raydrop.plan import Plan
from raydrop.plan.own import own_names
from raydrop.plan.runs import QueryRun
from raydrop.plan.workload import Work, sample_passes, unshared_query_runs, workload
from raydrop.store import Store
from raydrop.study import Study

_LABELS = {"dataset": "data", "network_method": "pruner", "train": "training"}


@dataclass(frozen=True)
class Briefing:
    """A study, what of it is missing, and where that is told."""

    study: Study
    plan: Plan
    """All that the study asks for."""
    missing: Plan
    """What of it is to be done."""
    dataset: LabelledDataset
    store: Store
    console: Console

    @cached_property
    def _workload(self) -> tuple[Work, ...]:
        """What is missing; nothing of it is done while a briefing lasts."""
        return workload(self.study, self.missing, self.dataset, self.store)

    @cached_property
    def own_paths(self) -> dict[str, str]:
        """Import paths of what every machine needs of the user's own, with their sources."""
        trials = (run.trial.as_dict() for run in self.plan.trials)
        return own_paths(self.study.to_dict(trials), self.dataset.modules)

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

    def as_dict(self) -> dict[str, Any]:
        """Return what the study takes, and what of it is to be done, as JSON values."""
        plan, missing, dataset = self.plan, self.missing, self.dataset
        runs = {
            "query_runs": (plan.queries, missing.queries),
            "scores": (plan.scores, missing.scores),
            "trials": (plan.trials, missing.trials),
        }
        left = {run.key for run in missing.trials}
        return {
            "study": self.study.name,
            "data": dataset.name,
            "data_fingerprint": dataset.fingerprint,
            "remarks": list(dataset.remarks),
            "own": [
                {"axis": own.axis, "name": own.text, "source": own.source}
                for own in own_names(self.study, (run.trial for run in plan.trials))
            ],
            "samples": {name: len(split) for name, split in dataset.splits().items()},
            "classes": list(dataset.class_names),
            "groups": list(dataset.group_names),
            "to_do": {name: len(do) for name, (_, do) in runs.items()},
            "in_all": {name: len(whole) for name, (whole, _) in runs.items()},
            "sample_passes": dict(sample_passes(self._workload)) if left else {},
            "trials": [
                {"trial_id": run.key, **run.trial.as_dict(), "to_do": run.key in left}
                for run in plan.trials
            ],
        }

    def _tell_data(self) -> None:
        study, dataset, plan = self.study, self.dataset, self.plan
        sizes = dataset.sizes(study.by)
        units = "classes" if study.by == "class" else "groups"
        # The networks that are trained in the end, and those that others are scored with.
        targets = sorted({run.trial.model for run in plan.trials})
        others = sorted({query.model for query in plan.queries} - set(targets))
        models = ", ".join(targets) + (f"; scored with {', '.join(others)} too" if others else "")
        self.console.print(
            "Study ",
            Text(visible(study.name), "bold"),
            f": {dataset.name}, "
            f"{len(dataset.train)} training {dataset.noun} in {len(sizes)} {units} "
            f"(smallest {sizes.min()}, largest {sizes.max()}), "
            f"{len(dataset.validation)} for validation, {len(dataset.test)} for testing; {models}",
            sep="",
        )
        if dataset.remarks:
            self.say("data", " ".join(dataset.remarks))
        for own in own_names(study, (run.trial for run in plan.trials)):
            self.say(_LABELS.get(own.axis, own.axis), str(own))
        self._tell_found(glance(dataset, dataset, study.by))

    def tell_copies(self, data: PreparedData) -> None:
        """Say which images are the same, where they had to be decoded to be compared."""
        if data.dataset is not self.dataset:
            self._tell_found(glance(self.dataset, data.dataset))

    def _tell_found(self, findings: Sequence[Finding]) -> None:
        if findings:
            told = [finding.brief() for finding in findings]
            if is_listed(self.dataset.name):  # no command line has what a script holds
                told.append(f"raydrop check {shlex.quote(self.dataset.name)} says more")
            self.say("look", "; ".join(told))

    def _tell_counts(self) -> None:
        plan, missing = self.plan, self.missing
        kinds = Counter(map(_kind, plan.queries))
        text = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        several = f": {text}" if kinds.keys() - {"on all the data"} else ""
        unneeded = "" if missing.trials else " (none needed any more)"
        for name, whole, left, more in (
            ("query runs", plan.queries, missing.queries, unneeded + several),
            ("scores", plan.scores, missing.scores, unneeded),
            ("trials", plan.trials, missing.trials, ""),
        ):
            self.say(name, f"{len(whole):>5}, of which to do {len(left):>5}{more}")

    def _tell_sharing(self) -> None:
        plan = self.plan
        shared = sum(query.partition is None and not query.initialisation for query in plan.queries)
        unshared = unshared_query_runs(plan)
        if unshared > shared:
            would = f"what {unshared} would, one per method, keep fraction and seed"
            self.say("shared", f"{shared} full query runs serve {would}")
        pruned = [run.dense.key for run in plan.trials if run.dense is not None]
        if pruned:
            trials = f"{len(pruned)} trials that prune them"
            self.say("shared", f"{len(set(pruned))} dense networks serve {trials}")

    def _tell_work(self) -> None:
        study, n = self.study, len(self.dataset.train)
        work = sample_passes(self._workload)
        total = sum(work.values())
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in work.items())
        self.say(
            "work left",
            f"{total:,} sample passes, {total / (study.training.epochs * n):.1f} times training "
            f"on all the data ({shares})",
        )

    def forecast(
        self,
        address: str | None,
        num_cpus: int | None,
        gpus_per_worker: float | None,
        code: str | None = None,
    ) -> None:
        """Say how the study would lay out now, and how long it is likely to take.

        Without an address, and where there is no session, Ray is not started. This machine is
        refused where it has too little; nodes that a cluster lacks may still come.
        """
        joins = address is not None or ray.is_initialized()
        modules = own_modules(self.own_paths) if joins else ()
        with ray_session(address, code=code, modules=modules) if joins else nullcontext():
            found = cluster_layout.alive_nodes() if joins else [this_machine(num_cpus)]
            in_memory = self.dataset.fits_decoded()
            try:
                layout = make_layout(found, in_memory=in_memory, gpus_per_worker=gpus_per_worker)
            except ConfigError as error:
                if address is None:
                    raise
                wait = f"a run waits up to {cluster_layout.WAIT_SECONDS:g} s for nodes"
                self.say("layout", f"none now, and {wait}: {error}")
                return
            measure = forecasting.measured_on_ray if joins else forecasting.measured_here
            self.tell_layout(layout, found, measure)

    def tell_layout(
        self, layout: Layout, found: Sequence[Node], measure: forecasting.Measure | None = None
    ) -> None:
        """Say how many workers there are, on which nodes, and how long each stage may take.

        What nothing finished tells of is measured. Where it is not, and there is such, nothing is
        said of time.
        """
        self.say("layout", layout_text(layout, found))
        study, dataset, store = self.study, self.dataset, self.store
        finished = forecasting.finished_runs(study, self.plan, dataset, store, layout.device)
        works = self._workload
        text = forecasting.likely(study, works, finished, dataset, layout, measure)
        if text is not None:
            self.say("likely", text)


def _kind(query: QueryRun) -> str:
    if query.partition is not None:
        return f"surrogates, each on 1/{query.partition[1]} of the data"
    return "further initialisations" if query.initialisation else "on all the data"
