"""A real `ray up` of our own files: machines made here, reached by ssh, and none left behind.

The commands are those of docs/cluster.md, as they stand there.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray_up import tools
from ray_up.machines import (
    CLIENT,
    HEAD,
    ROOT,
    WORKER,
    Lab,
    Machine,
    make_lab,
    wait_for,
    wait_for_none,
)

from raydrop.cluster.check import ray_version

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TOKEN = ".ray/auth_token"
PAGE = ROOT / "docs" / "cluster.md"


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


def commands(heading: str) -> dict[str, str]:
    """Return the commands of the first block below a heading of the page, by their beginnings."""
    block = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("```bash\n")[2]
    lines = block.partition("```")[0].replace("\\\n", " ").splitlines()
    written = [" ".join(line.partition(" #")[0].split()) for line in lines]
    return {" ".join(line.split()[:2]): line for line in written if line}


def make_token(client: Machine) -> str:
    """Make a token as the page says, which nobody else may read, and return it."""
    said = client.run("bash", "-c", commands("Before")["(umask 077;"])
    token = token_on(client)
    assert len(token) >= 32
    assert token not in said
    return token


def token_on(machine: Machine) -> str:
    """Return the token that a machine has, which nobody else there may read."""
    path = machine.home / TOKEN
    assert machine.run("stat", "-c", "%a", path).strip() == "600"
    return machine.run("cat", path).strip()


def test_machines_of_ones_own_from_nothing_to_a_report_and_back(tmp_path: Path) -> None:
    if find_spec("aiohttp_cors") is None:
        pytest.skip("a cluster takes jobs with ray[default] only: install raydrop[cluster]")
    with a_lab(tmp_path) as lab:
        head, worker = lab.add("head", HEAD), lab.add("worker", WORKER)
        client, written = lab.client, _written(lab, _own_machines(lab))
        token = make_token(client)
        client.run("bash", "-c", f"{written['ray up']} --yes", timeout=200)
        _wait_for_raylet(worker)
        wait_for(lambda: "CPU" in client.run("bash", "-c", written["ray exec"]), "a worker")
        assert token_on(head) == token_on(worker) == token
        _copied_and_installed(head)
        _copied_and_installed(worker)
        _only_with_the_token(lab)
        _a_study_as_a_job(client, written)
        _its_report(client, written)
        client.run("bash", "-c", f"{written['ray down']} --yes")
        client.log_out()
        wait_for_none(lab.left)


def _wait_for_raylet(machine: Machine) -> None:
    """Look at its processes, which costs less than to ask Ray again and again."""
    wait_for(lambda: any("raylet" in each for each in machine.processes().values()), "a raylet")


def _written(lab: Lab, file: Path) -> dict[str, str]:
    """Return the page's commands for another cluster file, storage and study."""
    found = commands("Four commands")
    assert list(found) == [
        f"ray {verb}" for verb in ["up", "exec", "dashboard", "job", "rsync-down", "down"]
    ]
    for ours, here in (
        (" cluster.yaml", f" {file}"),
        ("/shared/raydrop/", f"{lab.folder}/storage/"),
        ("~/raydrop/sweeps/digits.py", "~/raydrop/tests/cluster/ray_up/study.py"),
    ):
        assert ours in "".join(found.values())
        found = {name: line.replace(ours, here) for name, line in found.items()}
    return found


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
        assert "Authentication token is missing or incorrect" in refused
    client.run("python", "-c", CONNECT, HEAD, "6379")
    assert "refused" in client.run("python", "-c", CONNECT, HEAD, "8265", status=1)


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def _a_study_as_a_job(client: Machine, written: dict[str, str]) -> None:
    """Submit a job through a tunnel to the dashboard, which asks for the token too."""
    client.start("bash", "-c", written["ray dashboard"].removesuffix("&"))
    wait_for(lambda: client.says("python", "-c", CONNECT, "127.0.0.1", "8265"), "a tunnel")
    submit = ("bash", "-c", written["ray job"])
    refused = client.run(*submit, status=1, RAY_AUTH_TOKEN="0" * 64)
    assert "uthentication" in refused
    said = client.run(*submit, timeout=240)
    assert "5/5" in said
    assert f"http://127.0.0.1:8265 on the head, {HEAD}" in said


def _its_report(client: Machine, written: dict[str, str]) -> None:
    """Fetch the report, and the numbers in it likewise."""
    fetch = written["ray rsync-down"]
    for name in ("report.html", "frontier.csv"):
        client.run("bash", "-c", f"cd && {fetch.replace('report.html', name)}")
    assert "</html>" in (client.home / "report.html").read_text()
    with (client.home / "frontier.csv").open() as points:
        assert len(list(csv.DictReader(points))) == 5


def test_a_cloud_from_nothing_to_a_spot_worker_and_back(tmp_path: Path) -> None:
    pytest.importorskip("moto", reason="moto simulates AWS")
    pytest.importorskip("boto3")
    with a_lab(tmp_path) as lab:
        aws = Account(lab)
        for name, address in (("head", HEAD), ("worker", WORKER)):
            lab.install(lab.add(name, address, **CLOUD), "image/bin")
        file = _a_cloud(lab, aws)
        before = aws.show()
        assert before["machines"] == []
        token = make_token(lab.client)
        lab.client.run("ray", "up", "--yes", file, timeout=200)
        _wait_for_raylet(lab.machines["worker"])
        wait_for(
            lambda: "/1.0 GPU" in lab.client.run("ray", "exec", file, "ray status"), "a worker"
        )
        _machines_as_asked_for(aws, before)
        _tasks_on_both(lab, file)
        _containers_as_asked_for(lab, token)
        lab.client.run("ray", "down", "--yes", file)
        after = aws.show()
        assert [machine["state"] for machine in after["machines"]] == ["terminated"] * 2
        assert {**after, "machines": []} == before
        wait_for_none(lab.left)


CLOUD = {
    "AWS_ENDPOINT_URL": f"http://{CLIENT}:5000",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Account:
    """An account of a simulated AWS, which is served on the client's machine."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.client.environment |= CLOUD | {"PYTHONPATH": str(ROOT / "tests" / "cluster")}
        words = ("python", "-m", "moto.server", "-H", CLIENT, "-p", "5000")
        lab.client.start(*words)
        address = (CLIENT, "5000")
        wait_for(lambda: lab.client.says("python", "-c", CONNECT, *address), "a simulated AWS")

    def ask(self, *words: str | Path) -> Any:
        said = self.lab.client.run(
            "python", ROOT / "tests" / "cluster" / "ray_up" / "account.py", *words
        )
        return json.loads(said.splitlines()[-1])

    def show(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("show")
        return found


def _a_cloud(lab: Lab, aws: Account) -> Path:
    """Return cluster.yaml with one worker at first, and with the lab's folder for storage."""
    values = {"FILL_IN_KEY_FILE": str(lab.folder / "key"), "FILL_IN_NFS_SERVER": "storage"}
    values |= aws.ask("make", lab.folder / "key.pub")
    file = filled(ROOT / "cluster.yaml", lab.folder / "cluster.yaml", values)
    text = file.read_text()
    for ours, here in (
        ("/shared", str(lab.folder / "shared")),
        ("ssh_user: ubuntu", "ssh_user: root"),
        ("use_internal_ips: false", "use_internal_ips: true"),
        ("min_workers: 2", "min_workers: 1"),
    ):
        assert ours in text
        text = text.replace(ours, here)
    file.write_text(text)
    assert "sound" in lab.client.run("raydrop", "cluster", "check", file)
    return file


def _machines_as_asked_for(aws: Account, before: dict[str, Any]) -> None:
    after = aws.show()
    head, worker = sorted(after["machines"], key=lambda machine: machine["kind"])
    (own,) = [group for group in before["groups"] if group["GroupName"] == "mine"]
    profile = "arn:aws:iam::123456789012:instance-profile"
    common = {"state": "running", "groups": [own["GroupId"]]}
    assert head == common | {
        "address": HEAD,
        "kind": "head",
        "type": "m5.xlarge",
        "market": "on-demand",
        "profile": f"{profile}/head",
    }
    assert worker == common | {
        "address": WORKER,
        "kind": "worker",
        "type": "g5.xlarge",
        "market": "spot",
        "profile": f"{profile}/worker",
    }
    open_to_all = [
        network
        for group in after["groups"]
        for rule in group["IpPermissions"]
        for network in rule["IpRanges"] + rule["Ipv6Ranges"]
        if network.get("CidrIp") == "0.0.0.0/0" or network.get("CidrIpv6") == "::/0"
    ]
    assert open_to_all == []


def _tasks_on_both(lab: Lab, file: Path) -> None:
    words = "python ~/raydrop/tests/cluster/ray_up/everywhere.py"
    said = lab.client.run("ray", "exec", file, words, timeout=120)
    (line,) = re.findall(r"^FOUND (.*)$", said, re.MULTILINE)
    found = json.loads(line)
    assert found.keys() == {HEAD, WORKER}
    for name, address in (("head", HEAD), ("worker", WORKER)):
        assert found[address]["raydrop"].startswith(f"{lab.machines[name].home}/raydrop/")
    assert found[HEAD]["resources"].get("CPU", 0) == 0
    assert found[WORKER]["resources"]["CPU"] == 4
    assert found[WORKER]["resources"]["GPU"] == 1


def _containers_as_asked_for(lab: Lab, token: str) -> None:
    noted = (lab.folder / "docker.log").read_text().splitlines()
    for name, address, image in (("head", HEAD, "cpu"), ("worker", WORKER, "gpu")):
        machine = lab.machines[name]
        (run,) = [line for line in noted if line.startswith(f"{address} run ")]
        assert f" rayproject/ray:{ray_version()}-py311-{image} " in run
        assert " --env RAY_AUTH_MODE=token " in run
        assert token not in run
        assert token_on(machine) == token
        assert "raydrop" in (machine.home / "pip.log").read_text()
        assert lab.folder.joinpath("storage", "raydrop").is_dir()
