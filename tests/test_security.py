"""What a foreign file or name must not do: run code, leave its folder, or open this machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import FakeStudy
from test_frontier_write import Page

from raydrop import cli
from raydrop.cluster import session
from raydrop.data import load_dataset
from raydrop.errors import RaydropError, StoreError
from raydrop.frontier import load_records, write_frontier
from raydrop.models import build_model
from raydrop.network.saving import (
    NetworkSpec,
    load_network,
    network_entry,
    network_of,
    save_network,
)
from raydrop.store import META, Store
from raydrop.study import Study, canonical_json

SMALL = FakeStudy(keeps=(0.5,), seeds=(0,), quotas=("none",))
CONFIG = {"kind": "scores", "seed": 0}
SPACE = {"method": "random", "keep_fraction": 0.5}


TINY = Study("t", "digits+subset(12, test=6)", "small_cnn", SPACE, seeds=(0,))


def replayed(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: object, **changes: Any) -> int:
    """Plan a small study whose file somebody has changed; return the exit status."""
    folder.mkdir(exist_ok=True)
    body = {"study": TINY.to_dict(TINY.spaces()) | changes}
    (folder / "study.json").write_text(json.dumps(body))
    return planned(folder / "study.json", monkeypatch, *words)


def planned(sweep: object, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raydrop", "run", str(sweep), "--dry-run", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def _object_array(trace: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    return file.getvalue()


def _pickle(trace: Path) -> bytes:
    return pickle.dumps(Bomb(trace))


FILES: dict[str, Callable[[Path], bytes]] = {"object array": _object_array, "pickle": _pickle}


def reseal(place: Path, **changes: object) -> None:
    """Change what an entry says of itself, as somebody would who knows how it is sealed."""
    body = json.loads((place / META).read_text()) | changes
    body.pop("sha256")
    seal = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    (place / META).write_text(json.dumps(body | {"sha256": seal}))


def unmoved(folder: Path) -> list[str]:
    """Return every file and folder below one, to be compared."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", FILES)
def test_the_planted_files_would_run_if_they_were_unpickled(kind: str, tmp_path: Path) -> None:
    """Negative control."""
    content = FILES[kind](tmp_path / "trace")
    np.load(io.BytesIO(content), allow_pickle=True)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_pickle_in_a_store_is_found_out_and_set_aside(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.write("scores", CONFIG, {}, {"scores": np.arange(3.0)})
    (entry.path / "scores.npy").write_bytes(FILES[kind](tmp_path / "trace"))
    assert store.find("scores", CONFIG) is None
    assert len(store.damaged) == 1
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_a_pickle_that_is_sealed_is_still_not_read(kind: str, mmap: bool, tmp_path: Path) -> None:
    store, content = Store(tmp_path / "store"), FILES[kind](tmp_path / "trace")
    place = store.write("scores", CONFIG, {}, {"scores": np.arange(3.0)}).path
    (place / "scores.npy").write_bytes(content)
    reseal(place, files={"scores.npy": hashlib.sha256(content).hexdigest()})
    entry = store.find("scores", CONFIG)
    assert entry is not None
    with pytest.raises(StoreError, match=r"^Expected an array at .*found no array of numbers"):
        entry.array("scores", mmap=mmap)
    assert not (tmp_path / "trace").exists()


def test_a_store_writes_no_pickle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="pickle"):
        store.write("scores", CONFIG, {}, {"scores": np.array([{}], dtype=object)})
    assert store.find("scores", CONFIG) is None


@pytest.mark.parametrize("kind", FILES)
def test_a_report_reads_no_pickle(kind: str, tmp_path: Path) -> None:
    """A trial whose predictions are a pickle, sealed, in somebody else's results."""
    SMALL.write(tmp_path)
    content = FILES[kind](tmp_path / "trace")
    place = tmp_path / "store" / "trial" / SMALL.trial_id(SMALL.trials()[0])
    (place / "predictions.npy").write_bytes(content)
    files = json.loads((place / META).read_text())["files"]
    reseal(place, files=files | {"predictions.npy": hashlib.sha256(content).hexdigest()})
    with contextlib.suppress(RaydropError, ValueError):
        load_records(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["a/b", "/etc", "../up", "..", ".", "", " "])
def test_a_study_cannot_be_named_after_a_place(name: str) -> None:
    with pytest.raises(RaydropError, match=r"study name|a text for name"):
        Study(name, "digits", "small_cnn", SPACE)


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "..", "a/../../b"])
def test_names_of_data_and_models_are_no_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(RaydropError):
        load_dataset(name, str(tmp_path))
    with pytest.raises(RaydropError):
        build_model(name, 10, (1, 8, 8))
    assert unmoved(tmp_path) == []


def test_entries_lie_within_the_store_whatever_they_are_about(tmp_path: Path) -> None:
    store = Store(tmp_path / "inner" / "store")
    for name in ("../../../up", "/up", "..", "a\0b", "~"):
        entry = store.write("trial", {"model": name, "dataset": name}, {"name": name})
        assert entry.path.parent == store.root / "trial"
        assert entry.path.is_dir()
    assert unmoved(tmp_path)[:2] == ["inner", "inner/store"]
    assert {path.name for path in (tmp_path / "inner").iterdir()} == {"store"}


@pytest.mark.parametrize("key", ["../../../victim", "..", ".", "", "ABSOLUTE"])
def test_a_key_from_a_foreign_file_leads_nowhere_else(key: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    store = Store(tmp_path / "results" / "store")
    store.write("trial", CONFIG, {})
    before = unmoved(tmp_path)
    foreign = str(victim) if key == "ABSOLUTE" else key
    assert store.read("trial", foreign) is None
    store.remove("trial", foreign)
    assert unmoved(tmp_path) == before
    assert store.damaged == []


def test_a_foreign_study_file_moves_nothing_of_ours(tmp_path: Path) -> None:
    """Its trials name a folder beside the results instead of entries."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    results = SMALL.write(tmp_path / "results")
    study = json.loads((results / "study.json").read_text())
    study["trials"][0]["trial_id"] = "../../../victim"
    study["trials"][1]["trial_id"] = str(victim)
    (results / "study.json").write_text(json.dumps(study))
    with contextlib.suppress(RaydropError):
        write_frontier(results)
    assert (victim / "precious").read_text() == "kept"


@pytest.mark.parametrize("name", ["../../../secret", "ABSOLUTE", "..", ""])
def test_an_entry_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of ours")
    store = Store(tmp_path / "results" / "store")
    place = store.write("scores", CONFIG, {}, {"scores": np.arange(3.0)}).path
    foreign = str(secret) if name == "ABSOLUTE" else name
    reseal(place, files={foreign: hashlib.sha256(b"of ours").hexdigest()})
    assert store.find("scores", CONFIG) is None
    assert len(store.damaged) == 1
    assert secret.read_text() == "of ours"


EVIL = (
    '<script>alert("1")</script>',
    "b'\"><img src=x onerror=alert(1)>",
    "</title><svg/onload=alert(1)>",
    "&lt;b&gt;",
)


@pytest.mark.usefixtures("no_pngs")
def test_a_report_shows_names_as_text(tmp_path: Path) -> None:
    """Of classes and groups; of the data set, which may be a path; and of the study."""
    study = FakeStudy(class_names=EVIL, attributes=EVIL[:2], keeps=(0.5,), seeds=(0,), by="group")
    folder = study.write(tmp_path)
    named = json.loads((folder / "study.json").read_text())
    named["study"]["name"] = EVIL[2]
    (folder / "study.json").write_text(json.dumps(named))
    (place,) = (folder / "store" / "data").iterdir()
    info = json.loads((place / META).read_text())["info"]
    reseal(place, info=info | {"dataset": f"imagefolder:{EVIL[1]}"})
    html = write_frontier(folder).report.read_text(encoding="utf-8")
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3
    assert tags.count("title") == 1
    assert "img" not in tags
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    for evil in EVIL:
        assert page.text.count(evil) >= 2
        assert evil not in html or "<" not in evil


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Give what Ray is started with, where it is not started; the home is an empty folder."""
    found: dict[str, Any] = {}

    def init(*arguments: object, **options: object) -> None:
        from ray._private import services

        found.update(options, arguments=arguments)
        found["address"] = services.resolve_ip_for_localhost("127.0.0.1")
        found["token"] = stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode)

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return found


def test_a_local_session_is_asked_to_stay_on_loopback(asked: dict[str, Any]) -> None:
    from ray._private import ray_constants

    clusters = ray_constants.ENABLE_RAY_CLUSTER
    with session.ray_session(num_cpus=1):
        assert asked["arguments"] == ("local",)
        assert asked["include_dashboard"] is False
        assert asked["_node_ip_address"] == asked["address"] == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER is clusters


def test_the_token_is_ours_alone_before_ray_starts(asked: dict[str, Any], tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        with session.ray_session():
            pass
    finally:
        os.umask(umask)
    token = tmp_path / ".ray" / "auth_token"
    assert asked["token"] == stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(bytes.fromhex(token.read_text())) == 32
    first = token.read_text()
    token.chmod(0o644)  # as an earlier Ray has left it
    with session.ray_session():
        pass
    assert token.read_text() == first
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "s"), ("RAY_AUTH_TOKEN_PATH", "/x")],
)
def test_no_token_is_made_where_none_is_wanted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv(name, value)
    session._make_token()
    assert unmoved(tmp_path) == []


LISTENING = """
import os
from pathlib import Path

import ray
from raydrop.cluster.session import ray_session


def family(root):
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(place.name)] = int(fields[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets(process):
    for place in Path(f"/proc/{process}/fd").glob("*"):
        try:
            target = os.readlink(place)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


with ray_session(num_cpus=1):
    ray.get(ray.remote(lambda: 1).remote())
    ours = {number for process in family(os.getpid()) for number in sockets(process)}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in ours:
                print(fields[1].partition(":")[0])
"""
"""Prints the addresses on which a local session listens, as the kernel writes them."""

LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 in 32-bit words of this machine's order."""


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
@pytest.mark.skipif(sys.byteorder != "little", reason="addresses are written in words")
def test_a_local_session_listens_on_loopback_alone(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    result = subprocess.run(
        [sys.executable, "-c", LISTENING],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment | {"HOME": str(tmp_path)},
    )
    found = result.stdout.split()
    assert len(found) >= 3, result.stderr
    assert set(found) <= LOOPBACK
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


# A study that somebody else wrote.


@pytest.mark.parametrize("kind", ["metadata:{}", "table:{}/rows.csv"])
def test_a_replayed_study_does_not_leave_the_folder_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    dataset = f"{kind.format(tmp_path)}?allow_outside=on"
    assert replayed(tmp_path, monkeypatch, dataset=dataset) == 1
    assert "found allow_outside in" in " ".join(capsys.readouterr().err.split())


def test_a_replayed_study_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    assert replayed(tmp_path, monkeypatch, "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "planted",
    [
        lambda code: {"method": {"eval": code}},
        lambda code: {"method": [{"eval": code}]},
        lambda code: {"method": {"grid_search": ["random", {"eval": code}]}},
        lambda code: {"method": "random", "inner": {"deep": [{"eval": code}]}},
        lambda code: {"eval": code},
    ],
    ids=["alone", "in a list", "in a grid", "nested", "in place of the space"],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_replayed_study_runs_no_code(
    planted: Callable[[str], dict[str, Any]],
    joined: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tune evaluates the text beside the key ``eval``."""
    trace = tmp_path / "trace"
    point = planted(f"__import__('os').mkdir({str(trace)!r})")
    space = [SPACE, point] if joined else point
    assert replayed(tmp_path / "theirs", monkeypatch, param_space=space) == 1
    assert "Error: Expected " in capsys.readouterr().err
    assert not trace.exists()


@pytest.mark.parametrize(
    "value", [{"grid_search": ["random"]}, ["random"], {}, [], {"a": {"b": "c"}}, "DEEP"]
)
def test_a_replayed_study_has_plain_points_alone(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "Expected a text, a number or nothing for method in the param_space of"
    if value == "DEEP":
        value, expected = [], "more than 64 levels"
        for _ in range(500):
            value = [value]
    assert replayed(tmp_path, monkeypatch, param_space=[SPACE, {"method": value}]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert expected in said


@pytest.mark.parametrize("space", ['{"eval": CODE}', 'tune.choice([{"eval": CODE}])'])
def test_the_space_of_a_script_is_not_evaluated_either(
    space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')"
    (tmp_path / "sweep.py").write_text(
        f"from raydrop import Study\nfrom ray import tune\nCODE = {code!r}\n"
        f"study = Study('t', 'digits', 'small_cnn', {{'method': {space}, 'keep_fraction': 0.5}})\n"
    )
    assert planned(tmp_path / "sweep.py", monkeypatch) == 1
    assert "a text to be evaluated; write tune.sample_from" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not trace.exists()


def test_a_study_below_a_url_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace"
    code = f"__import__('os').mkdir({str(trace)!r})"
    body = {"study": TINY.to_dict([{"method": {"eval": code}}])}
    monkeypatch.setattr("raydrop.store.remote.read_object", lambda url: json.dumps(body).encode())
    assert planned("s3://bucket/theirs", monkeypatch) == 1
    assert "Expected a text, a number or nothing" in capsys.readouterr().err
    assert not trace.exists()


def test_a_study_whose_samples_never_end_is_refused_or_planned_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    assert replayed(tmp_path, monkeypatch, "--out", tmp_path / "out", num_samples=10**9) == 0
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{" * 9, b"\xff\xfe", b"[]", b"3", b""])
def test_a_study_file_that_is_none_is_refused(
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "study.json").write_bytes(content)
    assert planned(tmp_path, monkeypatch) == 1
    assert "Expected a study.json that raydrop wrote at" in capsys.readouterr().err


# Code that lies about where a command is run.

HOSTILE = ("pandas", "torch", "numpy", "typer", "raydrop_theirs", "sitecustomize", "uuid")
"""Modules that a command or its workers import, or would; one of them is in no installation."""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder with a study, and with modules that leave a trace where they are imported."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in HOSTILE:
        code = f"import os\nos.mkdir({str(tmp_path)!r} + '/imported {name} ' + str(os.getpid()))\n"
        (folder / f"{name}.py").write_text(code)
    changes = {"training": {"epochs": 1, "augment": False}, "include_unpruned": False}
    body = {"study": TINY.to_dict(TINY.spaces()) | changes}
    (folder / "study.json").write_text(json.dumps(body))
    return folder


def command(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, as somebody would who went there first."""
    return subprocess.run(
        list(map(str, words)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
    )


def imported(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("imported *"))


def test_the_planted_modules_would_be_imported(theirs: Path) -> None:
    """Negative control."""
    command(theirs, sys.executable, "-c", "import pandas")
    assert imported(theirs.parent)


@pytest.mark.parametrize(
    ("start", "words", "said"),
    [
        (("-m", "raydrop"), ("frontier", "."), "Error: Expected "),
        (("-mraydrop",), ("frontier",), "Error: Missing argument"),
        ((Path(sys.executable).with_name("raydrop"),), ("frontier",), "Error: Missing argument"),
    ],
    ids=["module", "joined", "script"],
)
def test_a_command_imports_nothing_from_the_working_directory(
    start: tuple[object, ...], words: tuple[str, ...], said: str, theirs: Path
) -> None:
    result = command(theirs, sys.executable, *start, *words)
    assert said in result.stderr, result.stderr
    assert imported(theirs.parent) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_replayed_study_imports_nothing_from_the_working_directory(theirs: Path) -> None:
    """Neither the command nor the workers, to which Ray gives the directory first."""
    out = theirs.parent / "out"
    words = ("run", "study.json", "--out", out, "--num-cpus", 1)
    result = command(theirs, sys.executable, "-m", "raydrop", *words)
    assert result.returncode == 0, result.stderr
    assert imported(theirs.parent) == []
    assert list((out / "store" / "trial").iterdir())


BESIDE = """
import ray
from raydrop.cli import load_sweep, script_folder
from raydrop.cluster.session import ray_session

study = load_sweep("sweeps/sweep.py")
import beside


@ray.remote
def worker():
    import importlib.util
    import sys

    found = [importlib.util.find_spec(name) is not None for name in ("beside", "raydrop_theirs")]
    import pandas

    return found, beside.twice(21), study.name


with ray_session(num_cpus=1, code=script_folder("sweeps/sweep.py")):
    print(ray.get(worker.remote()))
"""
"""Prints what a worker finds of the modules beside a script, and of those where the driver runs."""


@pytest.mark.ray
def test_workers_of_a_script_import_from_its_folder_alone(theirs: Path) -> None:
    folder = theirs / "sweeps"
    folder.mkdir()
    (folder / "beside.py").write_text(
        "NAME = 'found'\n\ndef twice(number):\n    return 2 * number\n"
    )
    (folder / "sweep.py").write_text(
        "import beside\nfrom raydrop import Study\n"
        f"study = Study(beside.NAME, 'digits', 'small_cnn', {SPACE!r})\n"
    )
    (theirs.parent / "driver.py").write_text(BESIDE)
    result = command(theirs, sys.executable, theirs.parent / "driver.py")
    assert result.stdout.strip() == "([True, False], 42, 'found')", result.stderr
    assert imported(theirs.parent) == []


NAMING = [
    *("dataset", "model", "query_model", "train", "point.method", "point.quotas", "point.loss"),
    *("point.model", "point.query_model", "point.network_method", "training.optimizer"),
    *("query_training.optimizer", "network.dense_loss"),
]


def hostile_study(field: str, text: str) -> dict[str, Any]:
    """A stored study in which somebody has written a text into one field."""
    study = TINY.to_dict([{"method": "el2n", "keep_fraction": 0.5}])
    whole = TINY.to_dict([{}])["training"]
    study |= {"query_training": whole, "network": {"rounds": 1, "dense_loss": "cross_entropy"}}
    study["param_space"][0] |= {"network_target": 0.5, "network_method": "magnitude"}
    *parents, name = field.split(".")
    owner = study
    for parent in parents:
        owner = study["param_space"][0] if parent == "point" else study[parent]
    owner[name] = text
    return study


@pytest.mark.parametrize(
    "form",
    [
        *("os:mkdir({!r})", "from_method:os:mkdir({!r})", " os:mkdir", "os:mkdir('a+b?c:net')"),
        *("os:mkdir({!r})+long_tail(10)", "os:mkdir('", "os:path.join('a')?b"),
    ],
)
@pytest.mark.parametrize("field", NAMING)
def test_a_replay_imports_nothing(
    field: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    values = hostile_study(field, form.format(str(trace)))
    monkeypatch.setattr("importlib.import_module", _fails)
    with pytest.raises(RaydropError, match=r"^Expected names that raydrop knows in a stored study"):
        Study.from_dict(values)
    (tmp_path / "study.json").write_text(json.dumps({"study": values}))
    monkeypatch.undo()
    assert planned(tmp_path / "study.json", monkeypatch) == 1
    assert planned(tmp_path / "study.json", monkeypatch, "--trust", "mypkg") == 1
    assert not trace.exists()


def _fails(name: str, *_: object) -> None:
    raise AssertionError(name)


@pytest.mark.parametrize("field", NAMING)
def test_the_hostile_names_would_be_imported_if_they_were_trusted(field: str) -> None:
    """Negative control."""
    values = hostile_study(field, "os:mkdir")
    study = Study.from_dict(values, trust=["os"])
    assert "os:mkdir" in json.dumps(study.to_dict(study.spaces()))


def test_a_replay_of_what_is_trusted_or_known_is_not_refused() -> None:
    values = hostile_study("point.loss", "torch.nn:CrossEntropyLoss")
    study = Study.from_dict(values, trust=["torch"])
    assert study.spaces()[0]["loss"] == "torch.nn:CrossEntropyLoss"
    with pytest.raises(RaydropError, match=r"add --trust torch"):
        Study.from_dict(values, trust=["torchvision"])
    for field, text in (
        ("dataset", "imagefolder:photos?crop=4+long_tail(10)"),
        ("model", "timm:resnet18"),
        ("model", "resnet18:imagenet"),
        ("point.quotas", "from_method:el2n"),
        ("name", "first: second"),
    ):
        Study.from_dict(hostile_study(field, text))


def test_a_network_of_somebody_else_imports_nothing(tmp_path: Path) -> None:
    model, spec = build_model("small_cnn", 10, (1, 8, 8)), _network("small_cnn")
    save_network(tmp_path / "net", spec, model)
    info, arrays = network_entry(spec, model)
    hostile = f"os:mkdir({str(tmp_path / 'trace')!r})"
    _rewritten(tmp_path / "net", tmp_path / "hostile", hostile)
    entry = Store(tmp_path / "store").write("network", CONFIG, {**info, "model": hostile}, arrays)
    for read in (lambda: load_network(tmp_path / "hostile"), lambda: network_of(entry)):
        with pytest.raises(RaydropError, match=r"found .os:mkdir.*whose import would run code"):
            read()
    assert not (tmp_path / "trace").exists()


def _network(model: str) -> NetworkSpec:
    return NetworkSpec(model, 10, (1, 8, 8), tuple("abcdefghij"), (0.5,), (0.5,))


def _rewritten(source: Path, target: Path, model: str) -> None:
    """Write a saved network anew, as one of another architecture."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "model.json":
                header = json.loads(content)
                header["network"]["model"] = model
                content = json.dumps(header).encode()
            after.writestr(name, content)
