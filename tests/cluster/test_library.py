"""A study runs itself from people's own programs: in a thread, beside their Ray, in a notebook."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
import ray
from nbclient import NotebookClient
from torch import Tensor

import raydrop as rd
from raydrop.data import load_dataset
from raydrop.errors import DataError
from raydrop.frontier.figures import catalogue
from raydrop.frontier.report import page
from raydrop.store import Store, open_place
from raydrop.study.catalogue import Entry
from raydrop.training.losses import LOSSES, CrossEntropy

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY: dict[str, Any] = {
    "dataset": "digits+subset(12, test=6)",
    "model": "linear",
    "seeds": (0,),
    "training": rd.Training(epochs=1),
    "include_unpruned": False,
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {})
    monkeypatch.setattr(page, "render_report", lambda *_: "")


class FailsFirst(CrossEntropy):
    """Cannot be computed before a file is there."""

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        if not Path(os.environ["RAYDROP_TEST_MENDED"]).exists():
            raise DataError("Expected it to be mended, found that it is not; do so.")
        return super().__call__(logits, labels, units)


def test_a_study_runs_in_any_thread_and_resumes_beside_a_ray_that_is_there(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    undrawn: None,
) -> None:
    monkeypatch.setenv("RAYDROP_TEST_MENDED", str(tmp_path / "mended"))
    LOSSES.add(Entry("fails_first", FailsFirst, "Fails until it is mended."))
    study = rd.Study(
        name="own",
        param_space={
            "method": "random",
            "keep_fraction": 0.5,
            "loss": {"grid_search": ["cross_entropy", "fails_first"]},
        },
        **TINY,
    )
    out, found = tmp_path / "out", []
    # As in a kernel or a server, where no signal can be set.
    thread = threading.Thread(target=lambda: found.append(study.run(out=out, num_cpus=1)))
    thread.start()
    thread.join()
    assert not ray.is_initialized()
    (results,) = found
    assert isinstance(results, rd.Results)
    assert results.trials["loss"].tolist() == ["cross_entropy"]
    assert results.failed["loss"].tolist() == ["fails_first"]
    assert "found that it is not" in results.failed["reason"][0]
    said = " ".join(capsys.readouterr().out.split())
    assert "trials 2, of which to do 2" in said
    assert "1 of 2 trials failed; .failed of the results says why" in said
    kept = results.kept(loss="cross_entropy")
    assert len(kept) == 60
    assert (kept["label"].astype(str) == kept["class_name"]).all()
    scores = next(Store(open_place(out)).entries("scores")).array("scores")
    expected = dict(zip(load_dataset(TINY["dataset"]).train.ids.tolist(), scores, strict=True))
    assert kept["score"].tolist() == [expected[each] for each in kept["sample_id"]]
    assert len({*kept["score"]}) == 60
    assert not (out / "report.html").exists()
    assert results.report.exists()

    (tmp_path / "mended").touch()
    store, key = Store(open_place(out)), results.trials["trial_id"][0]
    before = store.changed("trial", key)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the loss, for its workers
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        again = study.run(out=out, progress=False)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert capsys.readouterr().out == ""
    assert store.changed("trial", key) == before
    assert again.failed.empty, again.failed["reason"][0]
    assert sorted(again.trials["loss"]) == ["cross_entropy", "fails_first"]
    assert again.failed.empty
    assert again.frontier.shape[0] == 2


NOTEBOOK = """\
import raydrop as rd
space = {{"method": "random", "keep_fraction": 0.5}}
study = rd.Study(name="notebook", param_space=space, model="beside_the_notebook:net", **{tiny})
results = study.run(out={out!r}, num_cpus=1)
results
"""


MODULE = """\
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_study_runs_in_a_notebook(tmp_path: Path) -> None:
    """Its progress is lines of text, its results are tables, workers import what lies beside it."""
    (tmp_path / "beside_the_notebook.py").write_text(MODULE)
    tiny = {name: TINY[name] for name in TINY.keys() - {"training", "model"}}
    cell = nbformat.v4.new_code_cell(NOTEBOOK.format(tiny=tiny, out=str(tmp_path / "out")))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = notebook.cells[0].outputs
    printed = "".join(each.text for each in outputs if each.get("name") == "stdout")
    assert "trials          1, of which to do     1" in printed
    assert "trials: 1/1" in printed
    assert "\x1b" not in printed
    shown = [each.data for each in outputs if each.output_type == "execute_result"]
    assert "average/worst-class accuracy" in shown[0]["text/html"]
    warned = "".join(each.text for each in outputs if each.get("name") == "stderr")
    assert "Missing packages" not in warned
    assert "raydrop" not in warned.replace("/raydrop/", "")
