"""Sessions: a cluster that is not to be joined is refused in a sentence, and soon."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import services
from ray._private.utils import check_version_info
from ray.exceptions import AuthenticationError

from raydrop import cli
from raydrop.cluster import session
from raydrop.cluster.session import dashboard_text, find_head, ray_session, refusal
from raydrop.errors import ConfigError, IncompleteStudyError

SWEEP = Path(__file__).parent / "ray_up" / "study.py"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray know of no cluster on this machine, and of no session."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: set())
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)


@pytest.fixture
def head() -> Iterator[str]:
    """Something that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent(head: str) -> Iterator[str]:
    """An address at which nothing answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and it does not listen
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def in_a_sentence(error: BaseException | str) -> str:
    """Return what is said, once it is seen to be one sentence of ours."""
    said = str(error).strip().removeprefix("Error: ")
    assert said.startswith("Expected "), said
    assert said.endswith(".")
    assert "; " in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "address",
    ["nonsense", "", ":", "127.0.0.1:port", "127.0.0.1:99999999", "127.0.0.1:-1", "auto"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_head(address)
    said = in_a_sentence(caught.value)
    assert "nothing answers" in said
    assert ("this machine is part of" in said) == (address == "auto")


def test_a_cluster_that_does_not_answer_is_refused_at_once(
    silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ray itself asks for more than two minutes."""
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    words = ["raydrop", "run", SWEEP, "--address", silent, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert time.monotonic() - start < 60
    said = in_a_sentence(capsys.readouterr().err)
    assert f"Expected Ray at {silent}, found that nothing answers" in said
    assert not (tmp_path / "out").exists()


def test_what_answers_is_left_to_ray(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    assert find_head(head) == head
    assert find_head("ray://somewhere:10001") == "ray://somewhere:10001"


def _joining(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> dict[str, Any]:
    """Let Ray answer with an outcome, and return what it is asked."""
    asked: dict[str, Any] = {}

    def init(**options: Any) -> Any:
        asked.update(options)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "shutdown", lambda: asked.update(ended=True))
    monkeypatch.setattr(session, "_protect_token", lambda: None)
    return asked


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        ({"ray_version": "2.59.0"}, "found Ray 2.59.0 with Python "),
        ({"python_version": "3.9.1"}, f"found Ray {ray.__version__} with Python 3.9.1;"),
    ],
)
def test_another_version_is_refused_and_both_are_named(
    versions: dict[str, str], named: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    cluster = {"ray_version": ray.__version__, "python_version": python} | versions
    with pytest.raises(RuntimeError, match="mismatch") as raised:
        check_version_info(cluster, "node")
    _joining(monkeypatch, raised.value)
    with pytest.raises(ConfigError) as caught, ray_session(head):
        pass
    said = in_a_sentence(caught.value)
    assert named in said
    assert f"Expected Ray {ray.__version__} with Python {python} at {head}" in said


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError(
            "Token authentication is enabled but no authentication token was found"
        ),
        AuthenticationError("RPC error: InvalidAuthToken: it is missing or incorrect"),
        ConnectionError("Unauthenticated: no token"),
    ],
    ids=["none", "another", "connection"],
)
def test_without_the_token_a_cluster_is_not_joined(
    error: Exception, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joining(monkeypatch, error)
    with pytest.raises(ConfigError) as caught, ray_session(head):
        pass
    assert "the token of the cluster" in in_a_sentence(caught.value)
    assert "the token of" not in in_a_sentence(refusal(head, RuntimeError("odd\nthings.")))


def test_a_cluster_is_joined_and_its_dashboard_named(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"webui_url": "127.0.0.1:8265", "gcs_address": "10.0.0.4:6379"}
    asked = _joining(monkeypatch, SimpleNamespace(address_info=found))
    with ray_session(head) as dashboard:
        assert asked["address"] == head
        assert "ended" not in asked
    assert asked["ended"]
    assert "http://127.0.0.1:8265 on the head, 10.0.0.4" in dashboard
    assert "ray dashboard CLUSTER_FILE" in dashboard
    assert "ssh -N -L 8265:127.0.0.1:8265 USER@10.0.0.4" in dashboard
    assert dashboard_text("", head) == dashboard_text(None, head) == ""


# A session on this machine.


def local(monkeypatch: pytest.MonkeyPatch, outcome: Any = None) -> list[Path]:
    """Let Ray start with an outcome, and return the folders that it was given."""
    given: list[Path] = []

    def init(*_: object, **options: Any) -> None:
        folder = Path(options["_temp_dir"])
        given.append(folder)
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        sockets = folder / "session_2026-12-31_23-59-59_999999_4194304" / "sockets"
        sockets.mkdir(parents=True)
        folder.chmod(0o777)  # as Ray does
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(sockets / "plasma_store.10"))
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "_make_token", lambda: None)
    monkeypatch.setattr(session, "_protect_token", lambda: None)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return given


@pytest.mark.parametrize("letters", [0, 20, 100, 250])
def test_a_session_has_a_folder_of_its_own_that_nobody_else_may_open(
    letters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where TMPDIR is too long for sockets, or is no folder."""
    given = local(monkeypatch)
    place = tmp_path / ("x" * letters)
    if letters < 250:
        place.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with ray_session():
        assert given[0].exists()
    assert not given[0].parent.exists()
    assert list(tmp_path.rglob("rd-*")) == []


def test_the_folder_of_a_session_is_where_the_user_wants_ray_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = local(monkeypatch)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        with ray_session():
            assert given[0].is_relative_to(short)
    for wanted in (tmp_path / ("x" * 50), tmp_path / "absent"):
        monkeypatch.setenv("RAY_TMPDIR", str(wanted))
        with pytest.raises(ConfigError, match="set RAY_TMPDIR to a shorter one") as caught:
            ray_session().__enter__()
        in_a_sentence(caught.value)
    assert len(given) == 1


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because\nit"),
        RuntimeError("Failed to start GCS"),
        AssertionError(),
        OSError(28, "No space left on device"),
        MemoryError(),
    ],
)
def test_a_session_that_does_not_start_is_said_in_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = local(monkeypatch, error)
    with pytest.raises(ConfigError) as caught, ray_session():
        pass
    assert "Expected Ray to start on this machine" in in_a_sentence(caught.value)
    assert not given[0].parent.exists()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that stand for those of a local Ray."""
    processes = {kind: subprocess.Popen(["sleep", "60"]) for kind in ("gcs_server", "raylet")}

    def kill(**_: object) -> None:
        for process in processes.values():
            process.kill()

    known = {kind: [SimpleNamespace(process=each)] for kind, each in processes.items()}
    found = SimpleNamespace(all_processes=known, kill_all_processes=kill)
    monkeypatch.setattr(ray._private.worker, "_global_node", found)
    yield processes
    kill()
    for process in processes.values():
        process.wait()


@pytest.mark.parametrize(
    ("kind", "named"), [("gcs_server", "control process"), ("raylet", "raylet")]
)
def test_the_end_of_a_process_of_ray_ends_what_waits_for_it(
    kind: str,
    named: str,
    node: dict[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = local(monkeypatch)
    start = time.monotonic()

    def work() -> None:
        node[kind].kill()
        time.sleep(0.05)
        ray._private.worker.print_to_stdstream({"lines": ["log"], "pid": 1, "is_err": False}, True)
        time.sleep(30)

    with pytest.raises(IncompleteStudyError) as caught, ray_session():
        work()
    assert time.monotonic() - start < 10
    assert f"its {named} ended with status -9" in in_a_sentence(caught.value)
    assert capsys.readouterr() == ("", "")
    assert not given[0].parent.exists()


def test_where_interrupts_are_ignored_the_end_of_a_process_is_said_too(
    node: dict[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a program that a script starts in the background."""
    local(monkeypatch)

    def work() -> None:
        node["raylet"].kill()
        time.sleep(30)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(IncompleteStudyError), ray_session():
            work()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_errors_of_a_session_whose_processes_run_are_what_they_are(
    node: dict[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    monkeypatch.setattr(session.ray, "shutdown", lambda: node["raylet"].kill())
    with pytest.raises(KeyboardInterrupt), ray_session():
        raise KeyboardInterrupt
    time.sleep(0.3)  # nothing comes late


KILLED = """
import os, signal, time
import ray
from raydrop.cluster.session import ray_session

with ray_session(num_cpus=1):
    waiting = ray.remote(lambda: time.sleep(100)).remote()
    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
    os.kill(ray._private.worker._global_node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    ray.get(waiting)
"""


@pytest.mark.ray
def test_a_raylet_that_is_killed_is_said_without_its_log(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert "IncompleteStudyError: Expected Ray to run" in result.stderr.splitlines()[-1]
    assert "state-dump" not in result.stdout + result.stderr
