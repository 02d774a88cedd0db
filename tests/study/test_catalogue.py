"""Names with parameters, and entries that scripts add: in workers the same as in the driver."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydrop.cli import load_sweep
from raydrop.data import DATASETS, load_dataset
from raydrop.data.spec import DataSource
from raydrop.errors import ConfigError
from raydrop.models import MODELS, Network
from raydrop.models.small import linear
from raydrop.plan import make_plan, trial_configs
from raydrop.store import Store
from raydrop.study import Study, Training
from raydrop.study.catalogue import Brought, Catalogue, Entry, Parameter, sources

SCRIPT = """
from raydrop import Study, Training
from raydrop.network import METHODS as PRUNERS
from raydrop.network.methods.scored import Random
from raydrop.scores import METHODS
from raydrop.scores.base import TraceMethod
from raydrop.selection import QUOTAS, QuotaRule, proportional_quotas
from raydrop.study.catalogue import Entry, Parameter
from raydrop.training.losses import LOSSES, CrossEntropy


class Scaled(CrossEntropy):
    def __init__(self, context, factor):
        self.factor = factor

    def __call__(self, logits, labels, units):
        return self.factor * super().__call__(logits, labels, units)


class LastError(TraceMethod):
    name, summary = "last_error", "error norm after the last epoch"

    def from_trace(self, trace, score_epoch):
        return trace.error_norm[-1]


class OwnPruner(Random):
    def __init__(self, norm):
        pass


def even(sizes, recalls, budget, minimum, counts=None):
    return proportional_quotas(sizes, budget, minimum)


LOSSES.add(Entry("scaled", Scaled, "times a factor", "", (Parameter("factor", 2.0),)))
METHODS.add(Entry("last_error", LastError, LastError.summary))
QUOTAS.add(QuotaRule("even", even, "the same share of every class"))
PRUNERS.add(Entry("own_pruner", OwnPruner, "at random", "", (Parameter("norm", 1.0),)))

study = Study(
    name="brought",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space=[
        {"method": "last_error", "quotas": "even", "keep_fraction": 0.5, "loss": "scaled(3)"},
        {"network_method": "own_pruner", "network_target": 0.5},
    ],
    seeds=(0,),
    training=Training(epochs=1),
    include_unpruned=False,
)
"""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Every catalogue as it was before."""
    before = {kind: dict(each._entries) for kind, each in Catalogue.kinds.items()}
    yield
    for kind, each in list(Catalogue.kinds.items()):
        if kind in before:
            each._entries = before[kind]
        else:
            del Catalogue.kinds[kind]


def catalogue() -> Catalogue[Entry[Any]]:
    return Catalogue("shape", [Entry("cube", dict, "equal sides", "", (Parameter("side", 2.0),))])


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.py"
    path.write_text(SCRIPT)
    return path


def test_names_are_spelled_out() -> None:
    shapes = catalogue()
    for text in ("cube", " cube ( 2.0 )", "cube(side=2)"):
        assert shapes.named(text).name == "cube(2)"
    assert shapes.named("cube(0.50)").make() == {"side": 0.5}
    with pytest.raises(ConfigError, match="Unknown shape 'cub': did you mean cube"):
        shapes.named("cub")
    with pytest.raises(ConfigError, match=r"a shape as name or name\(value\), found 'cube\('"):
        shapes.named("cube(")


def test_what_the_package_has_is_not_replaced() -> None:
    shapes = catalogue()
    for name in ("cube", "a cube"):
        with pytest.raises(ConfigError, match=f"Expected a name for a shape .* found '{name}'"):
            shapes.add(Entry(name, dict, ""))
    shapes.add(Entry("ball", dict, "round"))
    again = shapes.add(Entry("ball", list, "as round"))
    assert shapes["ball"] is again


def test_entries_go_where_their_catalogue_is_not_loaded_yet() -> None:
    shapes = catalogue()
    shapes.add(Entry("ball", dict, "round"))
    content = pickle.dumps(Brought.here())
    del Catalogue.kinds["shape"]
    pickle.loads(content)
    assert "ball" in catalogue()


def test_a_study_without_entries_of_its_own_carries_none(script: Path) -> None:
    study = Study("t", "digits", "small_cnn", {})
    assert Brought.here() is None
    assert pickle.loads(pickle.dumps(study)) == study
    assert sources(catalogue().named("cube")) == {}
    load_sweep(script)
    assert Brought.here() is not None


def test_the_source_of_what_is_brought_is_part_of_the_identity(script: Path) -> None:
    dataset = load_dataset("digits+subset(12, test=6)")

    def keys() -> list[str]:
        study = load_sweep(script)
        plan = make_plan(study, trial_configs(study, study.spaces()), dataset)
        ((network, _), (data, _)) = sorted(
            ((run.key, run.config["sources"]) for run in plan.trials if "sources" in run.config),
            key=lambda each: len(each[1]),
        )
        return [*(run.key for run in (*plan.queries, *plan.scores)), network, data]

    first = keys()
    assert keys() == first
    script.write_text(SCRIPT.replace("self.factor * super", "2 * self.factor * super"))
    second = keys()
    assert [one == other for one, other in zip(first, second, strict=True)] == [True] * 3 + [False]
    script.write_text(SCRIPT.replace("error_norm[-1]", "error_norm[0]"))
    third = keys()
    assert [one == other for one, other in zip(first, third, strict=True)] == [
        *(True, False, True, False)
    ]


def test_a_data_set_and_a_model_that_are_brought_are_part_of_the_identity() -> None:
    dataset = load_dataset("digits+subset(12, test=6)")

    def keys(data: str, model: str) -> list[str]:
        DATASETS.add(DataSource("mine", load_dataset, "", source=data))
        MODELS.add(Network("net", linear, "", any_size=True, source=model))
        space = [{"method": each, "keep_fraction": 0.5} for each in ("random", "el2n")]
        study = Study("t", "mine+subset(12)", "net", space, (0,), include_unpruned=False)
        plan = make_plan(study, trial_configs(study, study.spaces()), dataset)
        runs = (*plan.queries, *plan.scores, *plan.trials)
        assert all(run.config["sources"]["mine"] == data for run in runs)
        return [run.key for run in runs]

    first = keys("1", "2")
    assert keys("1", "2") == first
    assert not {*first} & {*keys("3", "2")}
    # Of these, random scores alone read no network.
    assert len({*first} & {*keys("1", "4")}) == 1


@pytest.mark.ray
def test_workers_resolve_what_a_script_brings(script: Path, tmp_path: Path) -> None:
    from raydrop.cluster.driver import Options, run_study
    from raydrop.store.terminal import Console

    study = load_sweep(script)
    options = Options(out=tmp_path / "out", num_cpus=1)
    outcome = run_study(study, options, Console(quiet=True))
    assert (outcome.planned, outcome.failed) == (3, 0)
    store = Store(tmp_path / "out" / "store")
    found = [(e.info["method"], e.info["quotas"], e.info["loss"]) for e in store.entries("trial")]
    assert ("last_error", "even", "scaled(3)") in found
    assert len(found) == 3
    # The same study again finds all of it.
    again = dataclasses.replace(study, training=Training(epochs=1))
    assert run_study(again, options, Console(quiet=True)).failed == 0
    assert len(list(store.entries("trial"))) == 3


def test_entries_of_one_name_and_several_kinds_all_count() -> None:
    loss, model, other = (Entry("mine", dict, "", source=source).named([]) for source in "abc")
    assert sources(loss) == {"sources": {"mine": "a"}}
    assert sources(loss, model) == sources(model, loss) != sources(loss, other)
    assert sources(loss, model) != sources(model)
