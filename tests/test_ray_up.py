"""A real `ray up` of our own files: machines made here, reached by ssh, and none left behind."""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray_up import tools
from ray_up.machines import HEAD, ROOT, WORKER, Lab, Machine, make_lab, wait_for

from raydrop.cluster.check import ray_version

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

STUDY = ROOT / "tests" / "ray_up" / "study.py"
TOKEN = ".ray/auth_token"


@contextmanager
def a_lab(folder: Path) -> Iterator[Lab]:
    """Make machines, or skip the test where there can be none."""
    reason = tools.reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    try:
        with make_lab(folder) as lab:
            yield lab
    except LookupError as error:
        pytest.skip(str(error))


def filled(file: Path, target: Path, values: dict[str, str]) -> Path:
    """Write a cluster file with its placeholders replaced, and nothing else changed."""
    target.write_text(re.sub(r"FILL_IN_\w+", lambda match: values[match[0]], file.read_text()))
    return target


def make_token(client: Machine) -> str:
    """Make a token as docs/cluster.md says, and return it."""
    client.run("sh", "-c", "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    return (client.home / TOKEN).read_text().strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def on_one_line(said: str) -> str:
    """Return what a command said, whatever the width that it was wrapped to."""
    return " ".join(said.split())


def test_machines_of_ones_own_from_nothing_to_a_report_and_back(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        head, worker = lab.add("head", HEAD), lab.add("worker", WORKER)
        file = _own_machines(lab)
        token = make_token(lab.client)
        lab.client.run("ray", "up", "--yes", file, timeout=200)
        wait_for(lambda: "CPU" in lab.client.run("ray", "exec", file, "ray status"), "a worker")
        for machine in (lab.client, head, worker):
            assert (machine.home / TOKEN).read_text().strip() == token
            assert mode(machine.home / TOKEN) == 0o600
        _copied_and_installed(head)
        _copied_and_installed(worker)
        _only_with_the_token(lab)
        _a_study_and_its_report(lab, file)
        lab.client.run("ray", "down", "--yes", file)
        assert [*head.processes(), *worker.processes()] == []


def _own_machines(lab: Lab) -> Path:
    """Return a file for the two machines, which is sound."""
    lab.client.environment["RAY_UP_enable_autoscaler_v2"] = "0"
    for name in ("head", "worker"):
        lab.install(lab.machines[name], "raydrop-venv/bin")
    values = {
        "FILL_IN_HEAD_ADDRESS": HEAD,
        "FILL_IN_WORKER_ADDRESS": WORKER,
        "FILL_IN_USER": "root",
        "FILL_IN_KEY_FILE": str(lab.folder / "key"),
    }
    source = ROOT / "deploy" / "cluster-local.yaml"
    file = filled(source, lab.folder / "cluster-local.yaml", values)
    assert "sound" in lab.client.run("raydrop", "cluster", "check", file)
    return file


def _copied_and_installed(machine: Machine) -> None:
    copied = machine.home / "raydrop"
    assert (copied / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    assert not {".git", ".venv", "results"} & {path.name for path in copied.iterdir()}
    asked = (machine.home / "pip.log").read_text()
    assert f"ray[default]=={ray_version()} {copied}" in asked


def _only_with_the_token(lab: Lab) -> None:
    """Somebody in the network, without a token or with another, gets nothing from the head."""
    client, words = lab.client, ("ray", "status", "--address", f"{HEAD}:6379")
    assert "CPU" in client.run(*words)
    for environment in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = client.run(*words, status=1, **environment)
        assert "CPU" not in refused
        assert "nauthenticated" in refused
    client.run("python", "-c", CONNECT, HEAD, "6379")
    assert "refused" in client.run("python", "-c", CONNECT, HEAD, "8265", status=1)


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def _a_study_and_its_report(lab: Lab, file: Path) -> None:
    out, client = lab.folder / "storage" / "small", lab.client
    words = f"raydrop run ~/raydrop/tests/ray_up/study.py --address auto --out {out}"
    said = on_one_line(client.run("ray", "exec", file, words, timeout=240))
    assert "4 trials" in said, said
    for name in ("report.html", "frontier.csv", "trials.csv"):
        client.run("ray", "rsync-down", file, out / name, f"{client.home}/")
    assert "</html>" in (client.home / "report.html").read_text()
    with (client.home / "frontier.csv").open() as points:
        assert len(list(csv.DictReader(points))) == 4
