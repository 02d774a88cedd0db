"""The stages on a real Ray: the same bits as without it, and nothing lost when things go wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray

from raydrop.cluster import forecast, progress, shared_store
from raydrop.cluster.crew import start_crew
from raydrop.cluster.driver import Options, Outcome, run_study
from raydrop.cluster.forecast import Noise
from raydrop.cluster.layout import Layout
from raydrop.cluster.scoring import Context, run_queries, run_scores
from raydrop.cluster.session import ray_session
from raydrop.cluster.shared_store import Answer, SharedStore, shared
from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.errors import ConfigError, StudyMismatchError
from raydrop.frontier import write_frontier
from raydrop.frontier.figures import catalogue
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.networks import run_network_trial
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import Store, required
from raydrop.store.terminal import Console
from raydrop.study import NetworkPruning, Study, Training

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def _run(study: Study, out: Path, **options: Any) -> Outcome:
    outcome = run_study(study, Options(out=out, **options), Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "FIGURES", {})  # only those of the first study are looked at
        write_frontier(out)
    return outcome


def _stamps(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in out.glob("store/[!d]*/*/meta.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A study that has been run once, to be copied by the tests that change it."""
    study = Study(
        name="tiny",
        dataset="digits+subset(12, test=6)+long_tail(3)",
        model="small_cnn",
        param_space=[
            {
                "method": {"grid_search": ["random", "moso"]},
                "quotas": {"grid_search": ["none", "drop"]},
                "keep_fraction": 0.5,
            },
            {"method": "grand", "keep_fraction": 0.5, "loss": "cdb_w"},
        ],
        seeds=(0, 1),
        training=Training(epochs=2),
        checkpoints=2,
        initialisations=2,
        partitions=2,
        recall_smoothing=1.0,
    )
    out = tmp_path_factory.mktemp("finished")
    assert run_study(study, Options(out=out), Console(quiet=True)) == Outcome(14, 0)
    write_frontier(out)
    return study, out


def test_a_study_leaves_its_files(finished: tuple[Study, Path]) -> None:
    _, out = finished
    for name in ("trials.parquet", "frontier.csv", "frontier.png", "frontier.svg", "report.html"):
        assert (out / name).stat().st_size > 0
    trials = pd.read_parquet(out / "trials.parquet")
    assert len(trials) == 14
    unpruned = trials[trials["method"] == "none"]
    assert set(unpruned["keep_fraction"]) == {1.0}
    assert set(unpruned["quotas"]) == {"none"}
    pruned = trials[trials["method"] != "none"]
    assert (pruned["n_kept"] == round(pruned["n_train"].iloc[0] / 2)).all()
    assert not (out / "tune").exists()


def test_each_query_run_and_trial_has_its_log(finished: tuple[Study, Path]) -> None:
    _, out = finished
    store = Store(out / "store")
    for kind, folder in (("query", "query_runs"), ("trial", "trials")):
        assert {log.stem for log in (out / "logs" / folder).iterdir()} == set(store.keys(kind))
        for entry in store.entries(kind):
            text = (out / "logs" / folder / f"{entry.key}.log").read_text()
            attempts, epochs = text.count("# what "), entry.info["epochs"]
            assert attempts >= 1
            assert text.count(f"epoch {epochs}/{epochs}: mean loss") == attempts
            assert text.count(": mean loss") == attempts * epochs
            assert text.count(" finished in ") == attempts


def test_scores_are_the_bits_of_this_process(finished: tuple[Study, Path], tmp_path: Path) -> None:
    """Query runs, surrogates included, as tasks, and gradients from a pool of actors."""
    study, out = finished
    data = prepare(load_dataset(study.dataset))
    points = [{"method": method, "keep_fraction": 0.5} for method in ("moso", "grand")]
    single = dataclasses.replace(study, seeds=(0,))
    plan = make_plan(single, trial_configs(single, points), data.dataset)
    store = Store(tmp_path)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    worker = GradientWorker(data, study.model)
    gradients = ShardedGradients(LocalExecutor(worker), data.dataset.train.ids)
    assert len(plan.scores) == 2
    for run in plan.scores:
        run_score(study, run, data.dataset.train, store, gradients)
        here, there = (
            required(each, "scores", run.key).array("scores")
            for each in (store, Store(out / "store"))
        )
        assert here.tobytes() == there.tobytes()


def test_predictions_and_kept_samples_are_those_of_the_row(finished: tuple[Study, Path]) -> None:
    _, out = finished
    store = Store(out / "store")
    (card,) = store.entries("data")
    trials = pd.read_parquet(out / "trials.parquet").set_index("trial_id")
    for entry in store.entries("trial"):
        row = trials.loc[entry.key]
        right = entry.array("predictions") == card.array("test_labels")
        assert row["average_accuracy"] == pytest.approx(right.mean())
        assert len(entry.array("kept_ids")) == row["n_kept"] == sum(row["kept_by_class"])


def test_again_does_only_what_is_missing_and_mends_what_is_damaged(
    finished: tuple[Study, Path],
) -> None:
    study, out = finished
    table, before = (out / "frontier.csv").read_bytes(), _stamps(out)
    _run(study, out)
    assert _stamps(out) == before
    victim = sorted(out.glob("store/trial/*/predictions.npy"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    _run(study, out)
    after = _stamps(out)
    assert {p for p in after if after[p] != before.get(p)} == {str(victim.parent / "meta.json")}
    assert (out / "frontier.csv").read_bytes() == table


def test_a_larger_study_adds_to_the_folder_and_another_target_model_reuses_its_scores(
    finished: tuple[Study, Path],
) -> None:
    study, out = finished
    before, store = _stamps(out), Store(out / "store")
    scored = set(store.keys("scores"))
    larger = dataclasses.replace(
        study,
        param_space=[
            *study.spaces(),
            {"method": "aum", "keep_fraction": 0.3},
            {
                "method": {"grid_search": ["moso", "random"]},
                "keep_fraction": 0.5,
                "model": "resnet56",
                "query_model": "small_cnn",
            },
        ],
    )
    assert _run(larger, out) == Outcome(planned=14 + 2 + 6, failed=0)
    after = _stamps(out)
    assert all(after[path] == stamp for path, stamp in before.items())
    new = {Path(path).parts[-3] for path in after.keys() - before.keys()}
    assert new == {"images", "scores", "trial"}
    added = [e.info["method"] for e in store.entries("scores") if e.key not in scored]
    assert added == ["aum", "aum"]
    trials = pd.read_parquet(out / "trials.parquet")
    found = trials[trials["model"] == "resnet56"][["method", "query_model"]].value_counts()
    assert found.to_dict() == {
        ("moso", "small_cnn"): 2, ("random", "resnet56"): 2, ("none", "resnet56"): 2,
    }  # fmt: skip


def test_one_crew_serves_every_query_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    study = Study(
        name="pools",
        dataset="digits+subset(12, test=6)",
        model="small_cnn",
        param_space={
            "method": {"grid_search": ["grand", "el2n", "tracin_self"]},
            "query_model": {"grid_search": ["small_cnn", "resnet56"]},
            "keep_fraction": 0.5,
        },
        seeds=(0,),
        training=Training(epochs=1),
    )
    data = prepare(load_dataset(study.dataset))
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    console, store = Console(file=io.StringIO()), Store(tmp_path / "store")
    layout = Layout(2, 1, 0.0)
    reference = ray.put(data)
    with shared(store) as place:
        context = Context(study, reference, layout, place, store, data.dataset.train, console)
        with start_crew(context.of_workers()) as crew:
            assert run_queries(context, plan.queries, crew) == {}
            assert run_scores(context, plan.scores, {}, crew) == {}
    assert len(list(store.entries("scores"))) == 6
    # The two methods share their norms: one epoch of each network.
    assert len(list(store.entries("gradients"))) == 2
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    scored = [line for line in lines if line.startswith("scores: ")]
    # Shards within a score are told of.
    assert any("scores: 2/6 (" in line and "s left" in line for line in scored)
    assert scored[-1].startswith("scores: 6/6 in ")


def test_another_studys_folder_is_refused(finished: tuple[Study, Path]) -> None:
    study, out = finished
    before = _stamps(out)
    with pytest.raises(
        StudyMismatchError, match=r"\(budget: equal_epochs there, equal_steps here\)"
    ):
        _run(dataclasses.replace(study, budget="equal_steps"), out)
    assert _stamps(out) == before


def test_dry_run_writes_nothing_and_times_batches_on_a_worker(
    finished: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_here, driver = forecast.measured_here, os.getpid()

    def elsewhere(*arguments: Any) -> Any:
        assert os.getpid() != driver, "timed in the driver"
        return measured_here(*arguments)

    study, _ = finished
    monkeypatch.setattr(forecast, "measured_here", elsewhere)
    console = Console(file=io.StringIO())
    options = Options(out=tmp_path / "new", address="of this session", dry_run=True)
    run_study(study, options, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "  layout      2 workers at a time, each 1 CPU, on 1 node\n" in said
    assert "in all on 2 workers, at the pace of a few batches of noise on one worker" in said
    assert not (tmp_path / "new").exists()


def test_a_worker_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "ANSWER_SECONDS", 0.5)
    noise = Noise(2, (1, 8, 8), 8, horizontal_flip=False, crop_padding=0)
    with pytest.raises(TimeoutError, match=r"no worker with 3 CPUs answered within 0\.5 s"):
        forecast.measured_on_ray(Layout(1, 3, 0.0), [], noise)


def test_a_study_that_cannot_be_laid_out_leaves_nothing(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = finished
    with pytest.raises(ConfigError, match="a node with 2 GPUs, which one worker asks for, found"):
        _run(study, tmp_path / "new", gpus_per_worker=2.0)
    assert not (tmp_path / "new").exists()


def test_a_trial_that_fails_is_told_and_the_others_go_on(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    """Scores with a NaN, which no scoring of ours leaves, stand for any trial that breaks."""
    study, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    assert _run(study, out) == Outcome(planned=14, failed=0)  # leaves what others have added
    table, store = (out / "frontier.csv").read_bytes(), Store(out / "store")
    scores = next(e for e in store.entries("scores") if e.info["method"] == "moso")
    broken = scores.array("scores").copy()
    broken[3] = np.nan
    readers = [
        entry.key
        for entry in store.entries("trial")
        if entry.config["scores"] == scores.key and entry.info["model"] == study.model
    ]
    for kind, key in (("scores", scores.key), *(("trial", key) for key in readers)):
        store.remove(kind, key)
    store.write("scores", scores.config, scores.info, {"scores": broken})
    assert _run(study, out) == Outcome(planned=14, failed=2)
    failures = list(store.entries("failure"))
    assert [f.info["trial"]["method"] for f in failures] == ["moso", "moso"]
    assert all("NaN" in f.info["message"] for f in failures)
    for failure in failures:
        log = (out / "logs" / "trials" / f"{failure.key}.log").read_text()
        assert f" s: {failure.info['message']}\n" in log
        assert "Traceback" not in log  # a sentence is enough
    report = (out / "report.html").read_text()
    assert failures[0].info["message"][:40].replace("'", "&#39;") in report
    store.remove("scores", scores.key)
    assert _run(study, out) == Outcome(planned=14, failed=0)
    assert list(store.entries("failure")) == []
    assert (out / "frontier.csv").read_bytes() == table


def test_a_query_run_that_diverges_takes_only_what_needs_it(
    finished: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = finished
    wild = dataclasses.replace(
        study, training=dataclasses.replace(study.training, learning_rate=1e30), seeds=(0,)
    )
    outcome = run_study(wild, Options(out=tmp_path), Console(quiet=True))
    assert outcome.failed == outcome.planned == 7
    messages = [f.info["message"] for f in Store(tmp_path / "store").entries("failure")]
    assert len(messages) == 7
    assert all(m.startswith("Expected a finite training loss, found") for m in messages)


def test_other_machines_are_asked_to_write_and_to_tell_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node stands for them, and a stand-in for a clock that is wrong."""

    def look(place: SharedStore, paths: Sequence[str]) -> tuple[Answer, float]:
        answer, told = shared_store._look(place, paths)
        return answer, told - 3600.0

    nodes = {ray.get_runtime_context().get_node_id(): "10.0.0.2"}
    monkeypatch.setattr(shared_store, "other_nodes", lambda: nodes)
    with shared(Store(tmp_path)) as place:
        assert shared_store.answers(place, nodes) == {"10.0.0.2": Answer()}
        shared_store.check_machines(place)
        assert len(list(tmp_path.rglob("*"))) == 2  # the marker alone is left
        with pytest.raises(ConfigError, match=r"see .*1 of the 1 others do not, such as 10\.0\.0"):
            shared_store.check_machines(SharedStore(tmp_path / "elsewhere", place.marker))
        monkeypatch.setattr(shared_store, "_look", look)
        with pytest.raises(ConfigError, match=r"that of 10\.0\.0\.2 at least 5\d minutes behind"):
            shared_store.check_machines(place)


def test_study_json_replays(finished: tuple[Study, Path], tmp_path: Path) -> None:
    from raydrop.cli import load_sweep

    study, out = finished
    again = load_sweep(out / "study.json")
    assert dataclasses.replace(again, param_space=()) == dataclasses.replace(study, param_space=())
    assert run_study(again, Options(out=out, dry_run=True), Console(quiet=True)).planned >= 14
    saved = json.loads((out / "study.json").read_text())
    assert {t["method"] for t in saved["trials"]} >= {"none", "random", "moso", "grand"}


def test_networks_are_pruned_after_their_dense_ones_to_the_bits_of_this_process(
    tmp_path: Path,
) -> None:
    study = Study(
        name="networks",
        dataset="digits+subset(12, test=6)",
        model="small_cnn",
        param_space={
            "network_method": {"grid_search": ["magnitude", "random"]},
            "network_target": 0.5,
            "loss": {"grid_search": ["cross_entropy", "pw(0.5, 1)"]},
        },
        seeds=(0,),
        training=Training(epochs=2),
        network=NetworkPruning(retraining=Training(epochs=1, learning_rate=0.01)),
    )
    out, alone = tmp_path / "out", Store(tmp_path / "alone")
    assert _run(study, out) == Outcome(planned=5, failed=0)
    data = prepare(load_dataset(study.dataset))
    plan = make_plan(study, trial_configs(study, expand(study)), data.dataset)
    dense = [run for run in plan.trials if run.dense is None]
    pruned = [run for run in plan.trials if run.dense is not None]
    assert len(pruned) == 4
    assert len({run.dense.key for run in pruned if run.dense}) == 1
    for run in [*dense, *pruned]:
        work = run_trial if run.dense is None else run_network_trial
        work(study, run, data, alone, "cpu")
        here, there = (required(s, "trial", run.key) for s in (alone, Store(out / "store")))
        for name in ("predictions", "kept_ids"):
            assert here.array(name).tobytes() == there.array(name).tobytes(), (run.trial, name)
    before = _stamps(out)
    assert _run(study, out) == Outcome(planned=5, failed=0)
    assert _stamps(out) == before
    harm = pd.read_csv(out / "harm.csv")
    assert set(harm["network_method"]) >= {"magnitude", "random"}
