"""What is the user's own: import paths, objects and entry points, and what stands for them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_package import NET, forget, package, write
from torch import nn

from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.errors import ConfigError
from raydrop.models import MODELS, build_model
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.plan.own import own_names
from raydrop.plan.runs import trial_run
from raydrop.scores import METHODS, score_method
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.selection import quota_rule
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.study import Study, Training
from raydrop.study import catalogue as catalogues
from raydrop.study.catalogue import Brought
from raydrop.study.importing import PREFIXES, Call, paths_in
from raydrop.study.sources import UnhashableError, check_unchanged, source_of
from raydrop.training.losses import LOSSES, LossContext, loss_rule

__all__ = ["package"]

DATA = "digits+subset(12, test=6)"
SPACE = {
    "method": "mypkg.parts:LastError(power=2)",
    "quotas": "mypkg.parts:even",
    "keep_fraction": 0.5,
    "loss": "mypkg.parts:Scaled(factor=2.0)",
}
STUDY = Study(
    name="own",
    dataset=DATA,
    model="mypkg.net:SignNet(width=6)",
    param_space=SPACE,
    seeds=(0,),
    training=Training(epochs=2),
    include_unpruned=False,
)
CONTEXT = LossContext(np.array([2, 2, 2]), np.array([2, 2, 2]))


def plan_of(study: Study) -> Plan:
    return make_plan(study, trial_configs(study, study.spaces()), load_dataset(DATA))


def keys(study: Study) -> list[str]:
    plan = plan_of(study)
    return [run.key for run in (*plan.queries, *plan.scores, *plan.trials)]


# --- names ---


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mypkg.net:SignNet", "mypkg.net:SignNet"),
        (" mypkg.net:SignNet ( ) ", "mypkg.net:SignNet"),
        ("a:B( 2, width = 3,depth=1 )", "a:B(2, depth=1, width=3)"),
        ("a:B.c(x=[1, (2, 'd')], y={'z': None}, w=-0.5)", None),
        ("a:B(')')", None),
    ],
)
def test_a_path_has_one_canonical_text(text: str, canonical: str | None) -> None:
    call = Call.parse(text)
    assert call is not None
    assert call.text == (canonical or "a:B" + call.text[3:])
    again = Call.parse(call.text)
    assert again == call


@pytest.mark.parametrize(
    "text",
    [
        "imagefolder:photos",
        "from_method:el2n",
        "timm:resnet18",
        "resnet18:imagenet",
        "hf:a",
        "a:/b",
    ],
)
def test_raydrops_own_prefixes_are_no_paths(text: str) -> None:
    assert Call.parse(text) is None
    assert not list(paths_in(text))


def test_every_entry_with_a_text_has_a_known_prefix() -> None:
    for catalogue in catalogues.Catalogue.kinds.values():
        assert {e.name for e in catalogue.values() if e.text} <= PREFIXES, catalogue.kind


@pytest.mark.parametrize("text", ["a:B(width=x)", "a:B(open('f'))", "a:B({1, 2})", "a:B(1e999)"])
def test_arguments_are_literals(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^Expected literals for arguments"):
        Call.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nowhere.net:Net", "found no module 'nowhere'"),
        ("mypkg.nets:Net", "found no module 'mypkg.nets'"),
        ("mypkg.net:SignNett", "did you mean SignNet"),
    ],
)
def test_what_is_not_there_is_said(package: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        MODELS.named(text)


def test_a_module_that_cannot_be_imported_is_said(package: Path) -> None:
    write(package, net="import torch\nraise OSError('no disk')\n")
    with pytest.raises(ConfigError, match=r"mypkg.net:SignNet to be imported, found OSError: no"):
        MODELS.named("mypkg.net:SignNet")


def test_every_kind_takes_import_paths(package: Path) -> None:
    method = score_method("mypkg.parts:LastError(2)")
    assert (type(method).__name__, method.power, method.name) == (
        *("LastError", 2),
        "mypkg.parts:LastError",
    )
    logits, labels = torch.randn(3, 3), torch.tensor([0, 1, 2])
    plain = loss_rule("cross_entropy").make(CONTEXT)(logits, labels, labels)
    scaled = loss_rule("mypkg.parts:Scaled(factor=2.0)")
    assert scaled.name == "mypkg.parts:Scaled(factor=2.0)"
    assert scaled.make(CONTEXT)(logits, labels, labels) == 2 * plain
    rule = quota_rule("mypkg.parts:even")
    quotas = rule.allocate([4, 8], None, 6, 0)
    assert quotas is not None
    assert quotas.tolist() == [2, 4]
    model = build_model("mypkg.net:SignNet(width=6)", 5, (1, 8, 8))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    assert quota_rule("from_method:mypkg.parts:LastError").method == "mypkg.parts:LastError"


@pytest.mark.parametrize(
    "text", ["torch.nn:CrossEntropyLoss(label_smoothing=0.1)", "mypkg.parts:smooth(strength=0.1)"]
)
def test_losses_of_torch_and_plain_functions_are_losses(package: Path, text: str) -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(loss_rule(text).make(CONTEXT)(logits, labels, labels), expected)


@pytest.mark.parametrize(
    ("axis", "text", "expected"),
    [
        ("method", "mypkg.net:SignNet(2)", "to be a ScoreMethod, found a SignNet"),
        ("loss", "mypkg.net:NOT_A_MODEL", "to be a loss, found a int"),
        ("loss", "mypkg.parts:each_sample_twice", "to be a loss, found a Tensor; return one num"),
        ("loss", "mypkg.parts:no_gradient", "one number that has a gradient, found something"),
        ("loss", "mypkg.parts:broken", "to be a loss of logits .*found KeyError: 'weights'"),
        ("quotas", "mypkg.parts:too_few", "10 quotas that sum to the budget of 60, found 10 among"),
        ("quotas", "mypkg.parts:broken", "to be a rule of quotas, found TypeError"),
        ("quotas", "mypkg.net:NOT_A_MODEL", "to be a rule of quotas"),
        ("network_method", "mypkg.net:SignNet(2)", "to be a pruner of networks, found a SignNet"),
        ("model", "mypkg.net:NOT_A_MODEL", "to be a torch.nn.Module, found a int"),
        ("model", "mypkg.net:NOT_A_MODEL(2)", "a class or a function at mypkg.net:NOT_A_MODEL"),
        ("model", "mypkg.net:raises", "mypkg.net:raises to be made, found ValueError: no such"),
        ("model", "mypkg.net:SignNet(depth=2)", "to be made, found TypeError"),
        ("model", "mypkg.net:wrong_number", "to return 10 numbers for each sample.*found 11"),
        ("model", "mypkg.net:Pair", "returns logits, .*found a tuple of 2"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_work(
    package: Path, axis: str, text: str, expected: str
) -> None:
    point = {**SPACE, axis: text}
    if axis == "network_method":
        point |= {"network_target": 0.5, "keep_fraction": 1.0}
    study = dataclasses.replace(STUDY, param_space=point)
    with pytest.raises(ConfigError, match=expected):
        plan_of(study)


# --- identity ---


def test_a_line_of_the_users_file_is_part_of_the_identity(package: Path) -> None:
    first = keys(STUDY)
    assert keys(STUDY) == first
    write(package, net=NET.replace("self.scale = scale", "self.scale = 2 * scale"))
    forget()
    second = keys(STUDY)
    assert not {*first} & {*second}
    write(package, parts=(package / "mypkg" / "parts.py").read_text() + "\n# a remark\n")
    forget()
    query, scores, trial = keys(STUDY)
    assert query == first[0]
    assert not {scores, trial} & {*first, *second}
    write(package)
    forget()
    assert keys(STUDY) == first


def test_arguments_and_names_are_part_of_the_identity(package: Path) -> None:
    others = [dataclasses.replace(STUDY, model=f"mypkg.net:SignNet(width={n})") for n in (6, 7)]
    same = dataclasses.replace(STUDY, model="mypkg.net:SignNet( width = 6 )")
    first, second, third = map(keys, (*others, same))
    assert first == third
    assert not {*first} & {*second}


def test_a_version_stands_for_all_sources(package: Path) -> None:
    study = dataclasses.replace(STUDY, version="1")
    first = keys(study)
    assert not {*first} & {*keys(STUDY)}
    write(package, net=NET + "\n# another line\n")
    forget()
    assert keys(study) == first
    assert not {*first} & {*keys(dataclasses.replace(study, version="2"))}
    (own,) = {str(o) for o in own_names(study, trial_configs(study, [SPACE])) if o.axis == "model"}
    assert own == "mypkg.net:SignNet(width=6), version 1"


def test_the_same_file_elsewhere_has_the_same_source(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = source_of(Call.parse("mypkg.net:SignNet").load())  # type: ignore[union-attr]
    shutil.move(package / "mypkg", tmp_path / "elsewhere" / "mypkg")
    forget()
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    there = Call.parse("mypkg.net:SignNet").load()  # type: ignore[union-attr]
    assert str(tmp_path / "elsewhere") in sys.modules["mypkg.net"].__file__  # type: ignore[operator]
    assert source_of(there) == here


def test_an_installed_version_is_part_of_the_source(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(version: str, folder: str) -> str:
        place = write(tmp_path / folder / "site-packages")
        info = place / f"mypkg-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mypkg\nVersion: {version}\n")
        (info / "RECORD").write_text("mypkg/net.py,,\nmypkg/__init__.py,,\n")
        forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(place))
            catalogues_cache_cleared()
            return source_of(Call.parse("mypkg.net:SignNet").load())  # type: ignore[union-attr]

    sources = [installed("1.0", "a"), installed("1.0", "b"), installed("1.1", "c")]
    assert sources[0] == sources[1] != sources[2]
    forget()
    assert source_of(Call.parse("mypkg.net:SignNet").load()) not in sources  # type: ignore[union-attr]


def catalogues_cache_cleared() -> None:
    from raydrop.study import sources

    sources._distributions.cache_clear()
    importlib.invalidate_caches()


def defined(text: str, **values: Any) -> dict[str, Any]:
    """What a notebook's cells define, one after the other."""
    import linecache

    names: dict[str, Any] = {"__name__": "__main__", "nn": nn, "np": np, "torch": torch, **values}
    name = f"<cell {hash(text)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), names)
    return names


def test_the_source_of_a_notebooks_function_counts_what_it_reads() -> None:
    text = "def helper():\n    return 1\n\ndef net(num_classes, n=N):\n    return helper(), W, np\n"
    net = lambda text=text, **values: source_of(defined(text, **values)["net"])  # noqa: E731
    first = net(N=2, W=np.arange(3))
    assert net(N=2, W=np.arange(3)) == first
    others = [
        net(N=3, W=np.arange(3)),
        net(N=2, W=np.arange(4)),
        net(text.replace("return 1", "return 2"), N=2, W=np.arange(3)),
        net(text.replace("return helper()", "return 2 * helper()"), N=2, W=np.arange(3)),
    ]
    assert len({first, *others}) == 5


def test_values_of_enclosing_functions_are_part_of_the_source() -> None:
    def made(width: int) -> type:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.width = width

        return Net

    assert source_of(made(2)) == source_of(made(2)) != source_of(made(3))


def test_what_has_no_identity_is_named() -> None:
    handle = Path(__file__).open()  # noqa: SIM115
    text = "def net(num_classes):\n    return handle.name and nn.Linear(64, num_classes)\n"
    names = defined(text, handle=handle)
    with pytest.raises(UnhashableError, match=r'net to read .*found handle, a Text.*version="'):
        source_of(names["net"])
    study = dataclasses.replace(STUDY, model=names["net"], param_space={"method": "random"})
    trials = trial_configs(study, study.spaces())
    with pytest.raises(ConfigError, match="found handle, a TextIOWrapper"):
        trial_run(study, trials[0], "content")
    handle.close()


# --- objects ---


class Local(nn.Module):
    """A model that this file defines, which another process could not import."""

    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten())
        self.head = nn.Linear(width * 36, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images))  # type: ignore[no-any-return]


def test_what_can_be_imported_is_its_import_path(package: Path) -> None:
    net = Call.parse("mypkg.net:SignNet").load()  # type: ignore[union-attr]
    study = dataclasses.replace(STUDY, model=functools.partial(net, width=6))
    assert study == STUDY
    assert Brought.here() is None
    assert keys(study) == keys(STUDY)


def test_objects_stand_in_search_spaces(package: Path) -> None:
    from ray import tune

    net = Call.parse("mypkg.net:SignNet").load()  # type: ignore[union-attr]
    own = defined("def net(num_classes):\n    return nn.Linear(64, num_classes)\n")["net"]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    spaces = [
        {"model": tune.grid_search([net, "resnet18", own]), "loss": loss},
        {"model": tune.choice([net, own]), "query_model": {"grid_search": [net]}},
    ]
    study = dataclasses.replace(STUDY, model="small_cnn", param_space=spaces)
    first, second = study.spaces()
    assert first["model"] == {"grid_search": ["mypkg.net:SignNet", "resnet18", "net"]}
    assert first["loss"].startswith("CrossEntropyLoss_")
    assert second["model"].categories == ["mypkg.net:SignNet", "net"]
    assert spaces[0]["loss"] is loss, "what was handed over stays as it is"
    json.dumps(study.to_dict([{"model": net, "loss": loss}]))


def test_instances_of_other_content_have_other_names(package: Path) -> None:
    def named(smoothing: float) -> str:
        space = {"loss": nn.CrossEntropyLoss(label_smoothing=smoothing)}
        return dataclasses.replace(STUDY, param_space=space).spaces()[0]["loss"]

    assert named(0.1) == named(0.1) != named(0.2)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for smoothing in (0.1, 0.2):
        found = loss_rule(named(smoothing)).make(CONTEXT)(logits, labels, labels)
        expected = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert torch.equal(found, expected)


def test_two_things_of_one_name_are_refused() -> None:
    nets = [
        defined(f"def net(num_classes):\n    return nn.Linear({n}, num_classes)\n")["net"]
        for n in (64, 64, 65)
    ]
    same, other = ({"model": {"grid_search": [nets[0], net]}} for net in nets[1:])
    assert dataclasses.replace(STUDY, param_space=same)
    with pytest.raises(ConfigError, match="found two of the kind model called net"):
        dataclasses.replace(STUDY, param_space=other)


class Locked:
    """A model's maker that no process can be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, num_classes: int) -> nn.Module:
        return nn.Linear(64, num_classes)


def test_what_was_refused_goes_with_no_later_study() -> None:
    """In a notebook the same process makes one attempt after the other."""
    with pytest.raises(ConfigError, match=r"Expected Locked to be copied.*, found TypeError: "):
        dataclasses.replace(STUDY, model=Locked())
    lock = threading.Lock()
    held = defined(
        "def held(num_classes):\n    LOCK\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )["held"]
    held.__globals__["LOCK"] = lock
    refused = dataclasses.replace(STUDY, model=held, param_space={"method": "random"})
    with pytest.raises(ConfigError, match="found LOCK, a lock"):
        plan_of(refused)
    assert pickle.loads(pickle.dumps(STUDY)) == STUDY
    own = Brought.here(hashed=True)
    assert "held" in [each.name for _, each in Brought.here().entries]
    assert "held" not in [each.name for _, each in (own.entries if own else ())]


def test_a_name_in_a_module_that_has_no_file_spoils_nothing() -> None:
    with pytest.raises(ConfigError):
        load_dataset("os:getcwd")
    check_unchanged(__file__)


@pytest.mark.parametrize("thing", [lambda num_classes: None, int])
def test_what_has_no_name_or_raydrops_own_is_refused(thing: Any) -> None:
    if thing is int:
        thing = defined("def linear(num_classes):\n    return None\n")["linear"]
    with pytest.raises(ConfigError, match=r"^Expected (model to have )?a name"):
        dataclasses.replace(STUDY, model=thing)


def test_an_instance_is_drawn_anew_for_every_seed() -> None:
    net = Local(10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    name = dataclasses.replace(STUDY, model=net, param_space={"method": "random"}).model
    assert name.startswith("Local_")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(build_model(name, 10, (1, 8, 8)).state_dict())
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in before)
    weights = [key for key in before if key.endswith("weight") and "layers.1" not in key]
    for first, second in ((drawn[0], drawn[2]), (drawn[0], before)):
        assert not any(torch.equal(first[key], second[key]) for key in weights)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    wider = dataclasses.replace(STUDY, model=Local(10, width=4)).model
    assert wider != name
    study = dataclasses.replace(STUDY, model=net, param_space={"method": "random"})
    (own,) = own_names(study, trial_configs(study, study.spaces()))
    assert str(own).endswith("drawn anew for each seed")


def test_an_instance_that_cannot_be_drawn_anew_is_refused() -> None:
    class Token(Local):
        def __init__(self) -> None:
            super().__init__(10)
            self.token = nn.Parameter(torch.zeros(1))

    frozen = Local(10)
    frozen.head.requires_grad_(False)
    for net, found in ((Token(), "has parameters but no reset"), (frozen, "head.weight is frozen")):
        study = dataclasses.replace(STUDY, model=net, param_space={"method": "random"})
        with pytest.raises(ConfigError, match=f"{found}.*give a function that builds it"):
            plan_of(study)


def test_another_class_of_a_name_replaces_the_first() -> None:
    """As where a notebook's cell is run again; models are then tried again, too."""
    for outputs, fits in ((3, False), (10, True), (4, False)):
        layers = f"nn.Sequential(nn.Flatten(), nn.Linear(64, {outputs}))"
        text = f"def net(num_classes):\n    return {layers}\n"
        study = dataclasses.replace(STUDY, model=defined(text)["net"], param_space={})
        if fits:
            plan_of(study)
        else:
            with pytest.raises(ConfigError, match=f"found {outputs}; build it for as many"):
                plan_of(study)


# --- entry points ---


@pytest.fixture
def plugin(package: Path) -> Iterator[Path]:
    info = package / "mypkg-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(
        "[raydrop.methods]\nlast_error = mypkg.parts:LastError\nbroken = mypkg.nowhere:X\n"
        "el2n = mypkg.parts:LastError\n"
        "[raydrop.quotas]\neven = mypkg.parts:even\n"
        "[raydrop.losses]\nscaled = mypkg.parts:Scaled\n"
        "[raydrop.pruners]\nown_pruner = mypkg.parts:OWN_PRUNER\n"
    )
    importlib.invalidate_caches()
    catalogues._entry_points.cache_clear()
    yield package
    catalogues._entry_points.cache_clear()


def test_installed_packages_bring_names_of_their_own(plugin: Path) -> None:
    assert score_method("last_error").name == "last_error"
    assert METHODS.named("last_error").entry.origin == "mypkg 2.1"
    assert loss_rule("scaled(factor=3)").name == "scaled(factor=3)"
    logits, labels = torch.randn(3, 3), torch.tensor([0, 1, 2])
    scaled = loss_rule("scaled(factor=3)").make(CONTEXT)(logits, labels, labels)
    assert scaled == 3 * loss_rule("cross_entropy").make(CONTEXT)(logits, labels, labels)
    assert quota_rule("even").name == "even"
    space = {"method": "last_error", "quotas": "even", "keep_fraction": 0.5, "loss": "scaled"}
    space |= {"network_method": "own_pruner(2)", "network_target": 0.5}
    trials = trial_configs(STUDY, [space])
    assert {t.network_method for t in trials} == {"none", "own_pruner(norm=2)"}
    assert Brought.here() is None, "every process finds them where they are installed"
    assert score_method("el2n").summary != "error norm after the last epoch", "raydrop's own stay"


def test_all_names_are_listed_with_where_they_are_from(plugin: Path) -> None:
    LOSSES.add(catalogues.Entry("mine", dict, "of a script"))
    found = {name: entry.origin for name, entry in METHODS.everything().items()}
    assert (found["el2n"], found["last_error"], found["broken"]) == ("raydrop", *["mypkg 2.1"] * 2)
    assert "Expected method 'broken' of mypkg 2.1 to load" in METHODS.everything()["broken"].summary
    assert LOSSES.everything()["mine"].origin == "this program"


# --- elsewhere ---


def test_things_survive_the_way_to_another_process() -> None:
    net = Local(10)
    study = dataclasses.replace(STUDY, model=net, param_space={"method": "random"})
    content = pickle.dumps(study)
    source = MODELS.named(study.model).entry.source
    del MODELS._things[study.model]
    with pytest.raises(ConfigError):
        MODELS.named(study.model)
    again = pickle.loads(content)
    assert again == study
    assert MODELS.named(again.model).entry.source == source
    assert build_model(again.model, 10, (1, 8, 8))


def run_plainly(study: Study, folder: Path) -> dict[str, Any]:
    data, store = prepare(load_dataset(DATA)), Store(folder)
    plan = make_plan(study, trial_configs(study, study.spaces()), data.dataset)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    for score in plan.scores:
        worker = GradientWorker(data, score.model)
        gradients = ShardedGradients(LocalExecutor(worker), data.dataset.train.ids)
        run_score(study, score, data.dataset.train, store, gradients)
    for run in plan.trials:
        run_trial(study, run, data, store, "cpu")
    return {run.key: required(store, "trial", run.key).arrays() for run in plan.trials}


def test_a_study_of_the_users_own_runs(package: Path, tmp_path: Path) -> None:
    """And twice to the same bits; a loss without effect gives what raydrop's own gives."""
    space = [SPACE, {**SPACE, "loss": "mypkg.parts:Scaled(factor=1.0)"}]
    study = dataclasses.replace(STUDY, param_space=space)
    first, second = (run_plainly(study, tmp_path / name) for name in "ab")
    assert first.keys() == second.keys()
    assert len(first) == 2
    for key, arrays in first.items():
        assert all(np.array_equal(arrays[name], second[key][name]) for name in arrays)
    usual = dataclasses.replace(STUDY, param_space=SPACE | {"loss": "cross_entropy"})
    (expected,) = run_plainly(usual, tmp_path / "c").values()
    plain = next(run for run in plan_of(study).trials if "1.0" in run.trial.loss)
    assert np.array_equal(first[plain.key]["predictions"], expected["predictions"])


def test_gradient_scores_read_the_users_model(package: Path, tmp_path: Path) -> None:
    space = [{"method": each, "keep_fraction": 0.5} for each in ("grand", "k_center", "moso")]
    assert len(run_plainly(dataclasses.replace(STUDY, param_space=space), tmp_path / "a")) == 3


@pytest.mark.ray
def test_workers_import_what_a_study_names(package: Path, tmp_path: Path) -> None:
    from raydrop.cluster.driver import Options, run_study
    from raydrop.store.terminal import Console

    text = (
        "def net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))"
    )
    space = {**SPACE, "model": {"grid_search": ["mypkg.net:SignNet", defined(text)["net"]]}}
    study = dataclasses.replace(STUDY, param_space=space)
    outcome = run_study(study, Options(out=tmp_path / "out", num_cpus=1), Console(quiet=True))
    failures = [e.info["message"] for e in Store(tmp_path / "out" / "store").entries("failure")]
    assert (outcome.planned, failures) == (2, [])


def test_a_file_that_was_changed_after_its_import_is_found_out(package: Path) -> None:
    Call.parse("mypkg.net:SignNet").load()  # type: ignore[union-attr]
    write(package, net=NET.replace("self.scale = scale", "self.scale = 2 * scale"))
    with pytest.raises(ConfigError, match=r"SignNet.__init__ as it was imported .*reload"):
        dataclasses.replace(STUDY, model="mypkg.net:SignNet") and keys(STUDY)
    importlib.reload(sys.modules["mypkg.net"])
    changed = keys(STUDY)
    write(package, net="# A remark\n" + NET)
    with pytest.raises(ConfigError, match=r"net\.py as it was when mypkg\.net was imported"):
        keys(STUDY)
    key = trial_run(STUDY, trial_configs(STUDY, [SPACE])[0], "content").key
    write(package)
    assert trial_run(STUDY, trial_configs(STUDY, [SPACE])[0], "content").key == key
    forget()
    assert not {*changed} & {*keys(STUDY)}


def test_a_finished_study_is_looked_at_again_when_the_users_file_changes(package: Path) -> None:
    from raydrop.cluster.finished import _asked

    first = _asked(STUDY, "content")
    assert _asked(STUDY, "content") == first
    assert _asked(dataclasses.replace(STUDY, name="mypkg.net: second"), "content") != first
    write(package, net=NET + "# another line\n")
    forget()
    assert _asked(STUDY, "content") != first


def test_the_plan_says_what_is_the_users_own(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raydrop.cluster.briefing import Briefing
    from raydrop.store.terminal import Console

    plan, store = plan_of(STUDY), Store(tmp_path)
    console = Console(width=200)
    Briefing(STUDY, plan, plan, load_dataset(DATA), store, console).tell_plan()
    said = " ".join(capsys.readouterr().out.split())
    source = MODELS.named(STUDY.model).entry.source
    assert f"model mypkg.net:SignNet(width=6), source {source[:8]}" in said
    assert "loss mypkg.parts:Scaled(factor=2.0), source " in said
    assert "quotas mypkg.parts:even, source " in said


def test_a_class_of_a_notebook_has_the_text_of_its_functions() -> None:
    text = "class Net(nn.Module):\n    width = 2\n    def forward(self, x):\n        return x + 1\n"
    changes = ("x + 2", "1 + x", "x + 1  # a remark")
    texts = [text, text, *(text.replace("x + 1", each) for each in changes)]
    texts.append(text.replace("width = 2", "width = 3"))
    sources = [source_of(defined(each)["Net"]) for each in texts]
    assert sources[0] == sources[1]
    assert len({*sources}) == 5


def test_an_object_of_data_stays_where_it_is() -> None:
    from raydrop.data import from_arrays

    dataset = from_arrays(np.zeros((30, 5000), np.float32), np.arange(30) % 3)
    study = dataclasses.replace(STUDY, dataset=dataset, model="linear", param_space={})
    content = pickle.dumps(study)
    assert len(content) < 10_000
    assert load_dataset(study.dataset).train is dataset.train
    assert pickle.loads(content) == study
    assert load_dataset(study.dataset).train is dataset.train, "what is here stays"
    del catalogues.Catalogue.kinds["data set"]._things[study.dataset]
    with pytest.raises(ConfigError, match=r"^Expected a data set.* from data_"):
        load_dataset(pickle.loads(content).dataset)


def test_to_name_what_is_ones_own_imports_nothing() -> None:
    heavy = {"torch", "ray", "timm", "datasets", "lightning", "transformers", "torchvision"}
    code = (
        "import sys, raydrop\n"
        "raydrop.Study('s', 'nowhere.data:load(3)', 'nowhere.net:Net(width=2)', "
        "{'loss': 'nowhere.loss:Loss', 'model': ['timm:resnet18', 'torchvision:resnet18']})\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
