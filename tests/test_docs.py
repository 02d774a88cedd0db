"""What the documentation shows works: examples run, links lead somewhere, sweep scripts load."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from ray import tune

from raydrop.cli import load_sweep, main
from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.models import build_model
from raydrop.network.saving import NetworkSpec, save_network
from raydrop.plan import make_plan, trial_configs
from raydrop.scores import score_method
from raydrop.scores.gradients import parameters_of
from raydrop.selection import quota_rule
from raydrop.study import Study
from raydrop.training.losses import loss_rule
from raydrop.training.trace import Trace

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *ROOT.glob("docs/*.md"),
    ROOT / "benchmarks/README.md",
]
EXAMPLES = sorted(path for path in (ROOT / "raydrop").rglob("*.py") if ">>> " in path.read_text())


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _check_names(study: Study) -> None:
    for trial in trial_configs(study, expand(study)):
        if trial.method != "none":
            score_method(trial.method)
        quota_rule(trial.quotas)
        loss_rule(trial.loss)


@pytest.mark.parametrize("path", EXAMPLES, ids=_module)
def test_examples_in_docstrings(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(_module(path)))
    assert result.attempted > 0
    assert result.failed == 0


def _code(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def _readme_code() -> list[str]:
    return _code("README.md")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module in which examples run, in an empty folder."""
    module = types.ModuleType("page_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return module.__dict__


@pytest.mark.filterwarnings("ignore:.* of 200 samples were not seen in epoch")  # by a sampler
def test_names_to_call_are_used_as_their_page_shows(page: dict[str, Any]) -> None:
    for code in _code("docs/api.md"):
        exec(code, page)
    # What the examples promise in words.
    kept, result = page["kept"], page["result"]
    assert list(kept.counts.values()) == sorted(kept.counts.values())
    assert len(kept.subset(page["train"])) == len(kept) == 60
    assert result.frontier["average_accuracy"].between(0, 1).all()


def test_a_score_a_rule_and_a_loss_of_ones_own_are_as_the_page_shows(page: dict[str, Any]) -> None:
    (setup, *_), own = _code("docs/api.md"), _code("docs/bring_your_own.md")
    (net,) = (code for code in _code("docs/api.md") if "class Net" in code)
    (parts,) = (code for code in own if "class LastError" in code)
    for code in (setup, net, parts):
        exec(code, page)
    space = {"method": page["LastError"], "quotas": page["even"], "loss": page["smooth"]}
    study = page["study"]
    study = dataclasses.replace(study, version="1", param_space=space | {"keep_fraction": 0.5})
    dataset = load_dataset(study.dataset)
    plan = make_plan(study, trial_configs(study, expand(study)), dataset)  # which tries them once
    assert len(plan.trials) == 4
    scores = page["LastError"]().from_trace(Trace.empty(3, 5), 1)
    assert scores.shape == (5,)


def test_the_readmes_model_and_data_are_anybodys(
    page: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, *_ = _readme_code()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    setup, *_ = _code("docs/api.md")
    exec(setup, page)
    (net,) = (code for code in _code("docs/api.md") if "class Net" in code)
    exec(net, page)
    page |= {"train_set": page["train"], "test_set": page["test"], "labels": page["y"][:200]}
    page |= {"validation_recalls": [0.9, 0.8, 0.7, 0.6]}
    monkeypatch.setattr(Study, "run", lambda study: trial_configs(study, expand(study)))
    exec(code, page)
    assert len(page["kept"]) == 60
    assert {trial.model.rpartition(":")[2] for trial in page["result"]} == {"Net"}


CHECKS = """
assert kept.label.tolist() == y[kept.sample_id].tolist()
assert set(result.frontier["method"]) == {"none", "random", "el2n"}
assert result.frontier["worst_class_accuracy"].min() > 0.7
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path: Path) -> None:
    """It holds no outputs, and what it says in words is so."""
    notebook = nbformat.read(ROOT / "docs/your_model.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = "".join(out.get("text", "") for cell in cells for out in cell.outputs)
    assert "Selection(120 of 400 samples)" in shown
    assert "trials: 6/6" in shown
    assert (tmp_path / "results/biopsies/report.html").exists()


def test_the_readmes_gradient_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    *_, code = _readme_code()
    model = build_model("small_cnn", 3, (1, 8, 8)).eval()
    names = {"model": model, "images": torch.rand(4, 1, 8, 8), "labels": torch.arange(4) % 3}
    exec(code, {**names, "direction": parameters_of(model)})
    assert len(capsys.readouterr().out.splitlines()) == len(list(model.parameters()))


def test_the_readmes_example_is_a_study() -> None:
    _, code, *_ = _readme_code()
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names: dict[str, object] = {"__name__": "example"}
    exec(code, names)
    assert isinstance(names["study"], Study)
    _check_names(names["study"])


def test_the_readmes_network_space_is_one() -> None:
    _, _, code, *_ = _readme_code()
    names: dict[str, Any] = {"tune": tune}
    exec(code, names)
    study = Study("example", "digits", "small_cnn", names["param_space"], seeds=(0,))
    trials = trial_configs(study, expand(study))
    pruned = [trial for trial in trials if trial.network_method != "none"]
    assert len(pruned) == 3 * 2 * 3 * 2
    assert len(trials) - len(pruned) == 3


def test_the_readmes_shipped_network_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, code, _ = _readme_code()
    spec = NetworkSpec("small_cnn", 3, (1, 8, 8), ("a", "b", "c"), (0.5,), (0.25,))
    save_network(tmp_path / "small.raydrop", spec, build_model("small_cnn", 3, (1, 8, 8)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pixels": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    exec(code, names)
    assert names["logits"].shape == (2, 3)


@pytest.mark.parametrize("path", sorted(ROOT.glob("sweeps/*.py")), ids=lambda p: p.stem)
def test_sweep_scripts_load(path: Path) -> None:
    study = load_sweep(path)
    assert study.name.startswith(path.stem)
    _check_names(study)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def _requirements(project: dict[str, Any]) -> list[str]:
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *extras["dev"],
        *extras["bench"],
        *extras["export"],
        *extras["cluster"],
    ]


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    for requirement in _requirements(project):
        (line,) = [line for line in text.splitlines() if f'"{requirement}"' in line]
        assert " # " in line, requirement


def test_every_dependency_is_pinned_without_an_address() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert "://" not in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in _requirements(project):
        name = re.split(r"[\[<>=~]", requirement)[0]
        pinned = re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE) is not None
        assert pinned == (name != project["name"]), name  # dev takes extras of its own


def test_every_pin_has_its_hashes_and_so_has_what_builds_and_installs() -> None:
    pins = re.sub(r"^#.*\n", "", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", pins.strip())
    for entry in entries:
        name, *hashes = entry.split(" \\\n")
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)?$", name), name
        assert hashes, f"{name} is not refused if it is another"
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", each) for each in hashes), name
    pinned = {entry.partition("==")[0] for entry in entries}
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {re.split(r"[<>=~]", each)[0] for each in built} | {"editables", "uv"} <= pinned


@pytest.mark.parametrize("file", ["Makefile", "cluster.yaml", *ROOT.glob("deploy/cluster-*.yaml")])
def test_every_installation_is_held_to_the_hashes(file: str | Path) -> None:
    lines = (ROOT / file).read_text().replace("\\\n", "").splitlines()
    text = " ".join(line.partition("#")[0] for line in lines)
    commands = re.findall(r"pip install(?:(?! - |pip install|&&).)*", text)
    assert commands
    for command in commands:
        held = "--require-hashes --requirement" in command or "--constraint" in command
        assert held, command


@pytest.mark.ray
def test_a_script_runs_by_itself_as_raydrop_run_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(ROOT / "sweeps" / "digits.py")
    words = ["--dry-run", "--out", "absent"]
    alone = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.setattr(sys, "argv", ["raydrop", "run", script, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    alike = [
        [line for line in plan.splitlines() if not line.startswith("  likely")]  # is timed
        for plan in (alone, capsys.readouterr().out)
    ]
    assert alike[0] == alike[1]
    assert "trials 246" in " ".join(alone.split())
