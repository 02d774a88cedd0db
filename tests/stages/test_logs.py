"""Logs of trials and query runs: what is in them, and that nothing depends on them."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from raydrop.data import load_dataset
from raydrop.data.batches import PreparedData, prepare
from raydrop.errors import ConfigError, StoreError
from raydrop.plan import Plan, make_plan, trial_configs
from raydrop.stages import logs
from raydrop.stages.logs import describe_trial, failure_sentence, work_log
from raydrop.stages.networks import run_network_trial
from raydrop.stages.queries import run_query
from raydrop.stages.trials import run_trial
from raydrop.store import Entry, Place, Store, required
from raydrop.store.remote import Remote
from raydrop.study import NetworkPruning, Study, Training, TrialConfig

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
KEY = "3f2a9c1b"


@contextlib.contextmanager
def _log(folder: Path, key: str = KEY) -> Iterator[logs.WorkLog]:
    with work_log(Place(folder), "trials", key, "small_cnn, seed 0", "cpu") as log:
        yield log


def _text(folder: Path, key: str = KEY) -> str:
    return (folder / "logs" / "trials" / f"{key}.log").read_text()


def _lines(folder: Path, key: str = KEY) -> list[str]:
    """What follows the header, without times."""
    lines = [line for line in _text(folder, key).splitlines() if not line.startswith("# ")]
    return [re.sub(rf"^{TIME} ", "", line) for line in lines]


def _state() -> tuple[Any, ...]:
    """What a log changes in a process while it is open."""
    root, ours = logging.getLogger(), logging.getLogger("raydrop")
    handlers = [*root.handlers], [*ours.handlers]
    return *handlers, root.level, ours.level, sys.stdout, sys.stderr, warnings.showwarning


# What is in a log.


def test_a_log_begins_with_what_is_done_and_where(tmp_path: Path) -> None:
    with _log(tmp_path):
        pass
    head = dict(
        re.findall(r"^# (trial|what|begun|host|device|versions) +(.*)$", _text(tmp_path), re.M)
    )
    assert head["trial"] == KEY
    assert head["what"] == "small_cnn, seed 0"
    assert re.fullmatch(TIME, head["begun"])
    assert re.fullmatch(r".+, process \d+", head["host"])
    assert head["device"] == "cpu, 1 threads"
    assert re.fullmatch(rf"raydrop \S+, torch {re.escape(torch.__version__)}", head["versions"])


def test_records_and_warnings_are_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = logging.getLogger("raydrop.stages"), logging.getLogger("elsewhere.part")
    with _log(tmp_path) as log, warnings.catch_warnings():
        warnings.simplefilter("always")
        ours.debug("not this")
        ours.info("epoch %d of %d", 1, 2)
        other.info("nor this")
        other.warning("of another")
        warnings.warn("take care", UserWarning, stacklevel=1)
        logging.getLogger("raydropping").info("not ours")
        print("where it is printed")
        log.found = "average 0.9100, worst 0.6200"
    found = _lines(tmp_path)
    assert found[:2] == ["INFO raydrop.stages: epoch 1 of 2", "WARNING elsewhere.part: of another"]
    assert re.match(r"WARNING py\.warnings: .*test_logs\.py:\d+: UserWarning: take care", found[2])
    assert re.fullmatch(r"finished in \d+\.\d s: average 0\.9100, worst 0\.6200", found[-1])
    assert len(found) == 5  # the warning has two lines
    assert re.findall(rf"^{TIME} ", _text(tmp_path), re.M)
    assert capsys.readouterr() == ("where it is printed\n", "")


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    """So that the log of a process that is killed has all until then."""
    with _log(tmp_path):
        logging.getLogger("raydrop").info("first")
        assert _lines(tmp_path) == ["INFO raydrop: first"]


def test_an_error_that_is_not_the_users_comes_with_its_traceback(tmp_path: Path) -> None:
    def broken() -> None:
        raise ValueError("no luck") from KeyError("deeper")

    with pytest.raises(ValueError, match="no luck"), _log(tmp_path):
        broken()
    first, *rest = _lines(tmp_path)
    assert re.fullmatch(r"failed after \d+\.\d s: ValueError: no luck \(test_logs\.py:\d+\)", first)
    assert "Traceback (most recent call last):" in rest
    assert any("in broken" in line for line in rest)
    assert "KeyError: 'deeper'" in rest
    assert rest[-1] == "ValueError: no luck"


def test_an_error_of_the_users_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), _log(tmp_path):
        raise ConfigError("Expected more, found less; give more.")
    (line,) = _lines(tmp_path)
    assert re.fullmatch(r"failed after \d+\.\d s: Expected more, found less; give more\.", line)


def test_every_attempt_has_its_header_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _log(tmp_path):
        raise KeyboardInterrupt
    with _log(tmp_path):
        logging.getLogger("raydrop").info("again")
    text = _text(tmp_path)
    assert text.count(f"# trial     {KEY}\n") == 2
    assert text.index("failed after") < text.index("again") < text.index("finished in")


def test_works_one_after_the_other_do_not_mix(tmp_path: Path) -> None:
    for key in ("aa", "bb"):
        with _log(tmp_path, key):
            logging.getLogger("raydrop").info("record %s", key)
    for key in ("aa", "bb"):
        assert _lines(tmp_path, key)[:-1] == [f"INFO raydrop: record {key}"]


# What a log leaves behind: nothing.


@pytest.mark.parametrize("error", [None, ValueError("no luck"), SystemExit(3)])
def test_everything_is_as_it_was_afterwards(tmp_path: Path, error: BaseException | None) -> None:
    before = _state()
    with contextlib.suppress(ValueError, SystemExit), _log(tmp_path):
        assert _state() != before
        if error is not None:
            raise error
    assert _state() == before


def test_without_a_log_our_loggers_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("raydrop.stages")
    assert not logger.isEnabledFor(logging.INFO)
    with _log(tmp_path):
        assert logger.isEnabledFor(logging.INFO)
        logger.info("into the log alone")
    assert not logger.isEnabledFor(logging.INFO)
    logger.info("nowhere")
    assert capsys.readouterr() == ("", "")


def test_a_key_cannot_lead_elsewhere(tmp_path: Path) -> None:
    for key in ("../../escaped", "a/b", "", "..", "abc\n", "<script>"):
        with pytest.raises(ValueError, match="Expected a key"), _log(tmp_path, key):
            pytest.fail("the work was begun")
    assert list(tmp_path.iterdir()) == []


# Logs that cannot be written.


def test_where_no_log_can_be_made_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    before, done = _state(), []
    with _log(tmp_path):
        assert _state() == before  # there is nowhere to send anything
        done.append(1)
    assert done == [1]
    with pytest.raises(ValueError, match="no luck"), _log(tmp_path):
        raise ValueError("no luck")


class Full(io.RawIOBase):
    """A file on a disk that is full."""

    def write(self, text: object) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        super().close()
        raise OSError(28, "No space left on device")


def test_a_full_disk_costs_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "open_appending", lambda path: Full())
    before = _state()
    with _log(tmp_path) as log:
        logging.getLogger("raydrop").info("lost")
        print("shown")
        log.found = "all"
    assert capsys.readouterr() == ("shown\n", "")
    assert _state() == before


# Object stores.


class Bucket:
    """Stands for an object store; what it refuses, it refuses as the real one does."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refuses = False

    def read_bytes(self, name: str) -> bytes | None:
        self._check()
        return self.objects.get(name)

    def upload(self, path: Path, name: str) -> None:
        self._check()
        self.objects[name] = path.read_bytes()

    def _check(self) -> None:
        if self.refuses:
            raise StoreError("Expected to write s3://bucket, found: gone; connect.")


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@contextlib.contextmanager
def _kept(folder: Path, bucket: Bucket) -> Iterator[None]:
    """Write a log of a study whose results go to an object store."""
    with work_log(Place(folder, cast("Remote", bucket)), "trials", KEY, "", "cpu"):
        yield


NAME = f"logs/trials/{KEY}.log"


def test_a_log_is_uploaded_when_the_work_ends(tmp_path: Path, bucket: Bucket) -> None:
    with _kept(tmp_path, bucket):
        assert bucket.objects == {}
    assert bucket.objects[NAME].decode() == _text(tmp_path)
    with pytest.raises(ValueError, match="no luck"), _kept(tmp_path, bucket):
        raise ValueError("no luck")
    assert b"Traceback" in bucket.objects[NAME]
    assert bucket.objects[NAME].decode() == _text(tmp_path)


def test_attempts_of_several_machines_are_in_one_log(tmp_path: Path, bucket: Bucket) -> None:
    numbers = itertools.count()

    def attempt(machine: str) -> None:
        with _kept(tmp_path / machine, bucket):
            logging.getLogger("raydrop").info("attempt on %s %d", machine, next(numbers))

    def attempts() -> list[str]:
        return re.findall(r"attempt on (\w+)", bucket.objects[NAME].decode())

    attempt("a")
    attempt("b")
    assert attempts() == ["a", "b"]
    attempt("a")
    assert attempts() == ["a", "b", "a"]
    bucket.refuses = True  # as where the process is killed before it uploads
    attempt("b")
    bucket.refuses = False
    attempt("c")
    assert attempts() == ["a", "b", "a", "c"]
    attempt("b")  # that machine has one attempt which nobody else knows of, and lacks another
    assert sorted(attempts()) == ["a", "a", "b", "b", "b", "c"]
    assert (
        bucket.objects[NAME].count(b"# trial ") == bucket.objects[NAME].count(b"finished in") == 6
    )


def test_an_upload_that_fails_is_ignored(tmp_path: Path, bucket: Bucket) -> None:
    bucket.refuses = True
    with _kept(tmp_path, bucket):
        logging.getLogger("raydrop").info("here")
    assert _lines(tmp_path)[0] == "INFO raydrop: here"
    with pytest.raises(ValueError, match="no luck"), _kept(tmp_path, bucket):
        raise ValueError("no luck")


# Words.


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (("el2n", "drop", 0.3, "cross_entropy", "a", "a", 0), "a, el2n + drop at 0.3, seed 0"),
        (("random", "none", 0.25, "cdb_w", "a", "a", 1), "a, random at 0.25, cdb_w, seed 1"),
        (("none", "none", 1.0, "cross_entropy", "a", "a", 2), "a, all data, seed 2"),
        (
            ("moso", "none", 0.5, "pw(0.5, 1)", "a", "b", 0, "magnitude(layer)", "flops(0.5)"),
            "a, moso at 0.5, scored with b, magnitude(layer) to flops(0.5), pw(0.5, 1), seed 0",
        ),
    ],
)
def test_words_of_a_trial(trial: tuple[Any, ...], words: str) -> None:
    assert describe_trial(TrialConfig(*trial)) == words


def test_an_error_that_was_never_raised_has_a_sentence_too() -> None:
    assert failure_sentence(ValueError("no luck")) == "ValueError: no luck"
    assert failure_sentence(ConfigError("Expected.")) == "Expected."


# Stages write to the log, and do what they do without it.


STUDY = Study(
    name="logs",
    dataset="digits+subset(20, test=10)",
    model="small_cnn",
    param_space={},
    seeds=(0,),
    training=Training(epochs=3, batch_size=32),
    network=NetworkPruning(rounds=2, retraining=Training(epochs=1, batch_size=32)),
)
POINT = {"network_method": "magnitude", "network_target": 0.5}


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(load_dataset(STUDY.dataset))


@pytest.fixture(scope="module")
def plan(data: PreparedData) -> Plan:
    points = [{"method": "el2n", "quotas": "drop", "keep_fraction": 0.5}, POINT]
    return make_plan(STUDY, trial_configs(STUDY, points), data.dataset)


def _without_times(entry: Entry) -> tuple[dict[str, Any], dict[str, bytes]]:
    timed = {"seconds", "train_seconds", "forward_seconds"}
    info = {name: value for name, value in entry.info.items() if name not in timed}
    return info, {name: array.tobytes() for name, array in entry.arrays().items()}


def _results(data: PreparedData, plan: Plan, out: Path, *, logged: bool) -> dict[str, Any]:
    """What query runs, a trial and a network trial leave, and where randomness stands then."""
    store = Store(out / "store")
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - what others may have seeded

    def log(kind: logs.Kind, key: str) -> contextlib.AbstractContextManager[object]:
        return work_log(Place(out), kind, key, "", "cpu") if logged else contextlib.nullcontext()

    for query in plan.queries:
        with log("query_runs", query.key):
            run_query(STUDY, query, data, store, "cpu")
    for score in plan.scores:
        info = {"higher_is_kept": True}
        scores = np.linspace(0.0, 1.0, len(data.dataset.train))
        store.write("scores", score.config, info, {"scores": scores})
    for run in sorted(plan.trials, key=lambda run: run.dense is not None):
        with log("trials", run.key):
            work = run_trial if run.dense is None else run_network_trial
            work(STUDY, run, data, store, "cpu")
    entries = {
        (kind, key): _without_times(required(store, kind, key))
        for kind in ("query", "trial", "network", "weights")
        for key in store.keys(kind)
    }
    state = torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())  # noqa: NPY002
    return {**entries, "state": state}


def test_a_log_changes_no_result(data: PreparedData, plan: Plan, tmp_path: Path) -> None:
    with_logs = _results(data, plan, tmp_path / "with", logged=True)
    assert with_logs == _results(data, plan, tmp_path / "without", logged=False)
    assert not (tmp_path / "without" / "logs").exists()
    kinds = [kind for kind, *_ in with_logs]
    assert kinds.count("trial") == 3
    assert kinds.count("network") == 1
    _check_epochs(plan, tmp_path / "with")


def _check_epochs(plan: Plan, out: Path) -> None:
    """Every training has a line for each epoch, between what is kept and what comes of it."""
    for query in plan.queries:
        text = (out / "logs" / "query_runs" / f"{query.key}.log").read_text()
        assert re.findall(r"epoch (\d)/3: mean loss [\d.]+, learning rate \S+, ", text) == list(
            "123"
        )
        assert re.search(r"trains on 200 of 200 samples; checkpoints after epochs [\d, ]+3\n", text)
        assert re.search(r"validation: lowest recall 0\.\d{4} \(class '\w+'\)", text)
    for run in plan.trials:
        lines = _lines(out, run.key)
        (kept,) = [line for line in lines if "keeps" in line]
        size = 100 if run.trial.method == "el2n" else 200
        budget = "1 epochs" if run.dense else "3 epochs"
        assert f"keeps {size} of 200 samples; budget equal_epochs: {budget}" in kept
        epochs = re.findall(r"epoch (\d/\d): mean", "\n".join(lines))
        assert epochs == (["1/1"] * 2 if run.dense else ["1/3", "2/3", "3/3"])
        (test,) = [line for line in lines if "test:" in line]
        record = required(Store(out / "store"), "trial", run.key)
        card = load_dataset(STUDY.dataset).test.labels
        average = (record.array("predictions") == card).mean()
        assert f"test: average accuracy {average:.4f}, lowest recall " in test
        rounds = [line for line in lines if "pruned in round" in line]
        assert len(rounds) == (2 if run.dense else 0)
        if run.dense:
            reached = record.info["network_facts"]["rounds"][1]["reached"]
            assert f"round 2 of 2: asked for flops(0.5), reached {reached:.4f}" in rounds[1]


def test_batches_that_were_cut_are_told(tmp_path: Path) -> None:
    from raydrop.stages.queries import epoch_log
    from raydrop.training.loop import EpochEnd

    with _log(tmp_path):
        write = epoch_log(2)
        write(EpochEnd(1, 10, 0.1, 1.25))
        write(EpochEnd(2, 20, 0.01, 0.5, parts=4))
    first, second, _ = _lines(tmp_path)
    assert re.fullmatch(
        r"INFO raydrop\.stages: epoch 1/2: mean loss 1\.25, learning rate 0\.1, \d+\.\d\d s", first
    )
    assert second.endswith(", batches in 4 parts because memory ran out")


def test_the_gpu_is_named_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Abacus 9000")
    with work_log(Place(tmp_path), "query_runs", KEY, "", "cuda"):
        pass
    text = (tmp_path / "logs" / "query_runs" / f"{KEY}.log").read_text()
    assert "cuda (Abacus 9000), 1 threads\n" in text
    assert text.startswith(f"# query run {KEY}\n")

    def no_gpu() -> str:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "get_device_name", no_gpu)
    with work_log(Place(tmp_path), "query_runs", "aa", "", "cuda"):
        pass
    assert "cuda, 1 threads\n" in (tmp_path / "logs" / "query_runs" / "aa.log").read_text()
