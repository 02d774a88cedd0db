"""Sessions: a cluster that is not to be joined is refused in a sentence, and soon."""

from __future__ import annotations

import socket
import sys
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
from raydrop.errors import ConfigError

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
