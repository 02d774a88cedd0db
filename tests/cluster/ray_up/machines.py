"""Machines to bring a cluster up on: each a network, a process table and a home of its own.

They share this machine's files, so what is installed here is installed there. A client in the
middle joins them to one network, as a router does::

    client 10.77.0.1 ──┬── head 10.77.0.4
                       └── worker 10.77.0.5

Nothing on the system is changed: what they write lies in one folder, and when a machine ends, all
its processes do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ray_up.tools import NAMESPACES, SYSTEM_PATH, fetched, found

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CLIENT = "10.77.0.1"
HEAD = "10.77.0.4"
WORKER = "10.77.0.5"
SUBNET = "10.77.0.0/24"
"""The first address that a cloud gives out in it is that of the head, the next the worker's."""

SSHD = """\
HostKey {lab}/host_key
PidFile none
AuthorizedKeysFile {lab}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv PATH={lab}/bin:{path}
"""

LOGS = ("monitor.log", "monitor.out", "monitor.err", "gcs_server.out", "raylet.out", "raylet.err")
"""Ray's logs that say why a worker does not come."""


@dataclass
class Machine:
    """One machine that runs."""

    name: str
    folder: Path
    process: subprocess.Popen[str]
    pid: int
    """Of its first process, as seen from here."""
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Home of its user."""
        return self.folder / "home"

    def start(self, *words: str | Path, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command there, in the folder of the repository.

        Returns:
            The process, and the file of what it says.
        """
        output = self.folder / f"output{len(self.started)}"
        variables = [f"{key}={value}" for key, value in (self.environment | environment).items()]
        command = [*_enter(self.pid, "-m", "-p", "-n"), "env", "-i", f"--chdir={ROOT}", *variables]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process, output

    def run(
        self, *words: str | Path, timeout: float = 90, status: int = 0, **environment: str
    ) -> str:
        """Run a command there and return what it says.

        Raises:
            AssertionError: If it ends with another status, or not in time (s).
        """
        process, output = self.start(*words, **environment)
        try:
            found = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            found = f"none after {timeout} s"
        said = output.read_text(errors="replace")
        shown = " ".join(map(str, words))
        assert found == status, f"{self.name}: {shown}\nended with status {found}:\n{said}"
        return said

    def says(self, *words: str | Path) -> bool:
        """Return whether a short command succeeds there."""
        process, _ = self.start(*words)
        return process.wait(30) == 0

    def processes(self) -> dict[int, str]:
        """Return what runs there besides its first process and sshd, by its number here."""
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        lines = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                inside = (place / "ns" / "pid").readlink() == own
                line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if inside and line and int(place.name) != self.pid and "sshd" not in line.split()[0]:
                lines[int(place.name)] = line
        return lines

    def log_out(self) -> None:
        """End what was started there, such as tunnels."""
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def end(self) -> None:
        """End it and everything that runs there."""
        self.process.kill()
        with self.process:  # which waits, and closes what it wrote to
            pass
        for process in self.started:
            process.wait(timeout=30)


@dataclass
class Lab:
    """A folder with what the machines share, and the machines."""

    folder: Path
    sshd: list[str]
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def client(self) -> Machine:
        """The machine that its owner sits at."""
        return self.machines["client"]

    def add(self, name: str, address: str = "", **environment: str) -> Machine:
        """Start a machine and join it to the network.

        Args:
            name: Also of its folder.
            address: On the network; none for the client, which joins the others.
            environment: Of what runs there.
        """
        folder = self.folder / name
        for part in ("home", "tmp"):
            (folder / part).mkdir(parents=True)
        exports = {"PATH": f"{self.folder}/bin:$HOME/image/bin:$PATH", **environment}
        lines = [f"export {key}={value}\n" for key, value in exports.items()]
        (folder / "home" / ".bashrc").write_text("".join(lines))
        process = self._first_process(folder, self.sshd if address else [])
        machine = Machine(name, folder, process, _child(process.pid), self._variables(folder))
        machine.environment |= environment
        self.machines[name] = machine
        self._join(machine, address)
        return machine

    def _first_process(self, folder: Path, sshd: list[str]) -> subprocess.Popen[str]:
        kept = {self.folder, ROOT, Path(sys.prefix), Path(sys.base_prefix)}
        libraries = (self.folder / "libraries").read_text()
        arguments = {
            "folder": str(folder),
            "kept": sorted(map(str, kept)),
            "sshd": sshd,
            "environment": {"PATH": SYSTEM_PATH, "LD_LIBRARY_PATH": libraries},
        }
        guard = ["setpriv", "--pdeathsig", "KILL", *NAMESPACES]
        with (folder / "init.log").open("w") as log:
            process = subprocess.Popen(
                [*guard, sys.executable, HERE / "init.py", json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            raise AssertionError((folder / "init.log").read_text())
        return process

    def _variables(self, folder: Path) -> dict[str, str]:
        return {
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "USER": "root",
            "PATH": f"{self.folder}/installed:{self.folder}/bin:{SYSTEM_PATH}",
        }

    def _join(self, machine: Machine, address: str) -> None:
        inside = _enter(machine.pid, "-n")
        _run(*inside, "ip", "link", "set", "lo", "up")
        if not address:
            _run(*inside, "ip", "address", "add", f"{CLIENT}/32", "dev", "lo")
            _run(*_enter(machine.pid, "-m", "-p", "-n"), "sh", "-c", FORWARD)
            return
        middle, wire = _enter(self.client.pid, "-n"), f"to-{machine.name}"
        peer = ["peer", "name", "eth0", "netns", str(machine.pid)]
        _run(*middle, "ip", "link", "add", wire, "type", "veth", *peer)
        for place, device, own in ((middle, wire, CLIENT), (inside, "eth0", address)):
            _run(*place, "ip", "address", "add", f"{own}/32", "dev", device)
            _run(*place, "ip", "link", "set", device, "up")
        _run(*middle, "ip", "route", "add", f"{address}/32", "dev", wire, "src", CLIENT)
        _run(*inside, "ip", "route", "add", CLIENT, "dev", "eth0")
        _run(*inside, "ip", "route", "add", "default", "via", CLIENT, "src", address)

    def left(self) -> list[str]:
        """Return what still runs on the machines of the cluster, besides sshd."""
        others = [machine for machine in self.machines.values() if machine is not self.client]
        return [line for machine in others for line in machine.processes().values()]

    def install(self, machine: Machine, folder: str) -> None:
        """Put Python, Ray and raydrop into a folder of a machine's home."""
        shutil.copytree(self.folder / "installed", machine.home / folder)

    def logs(self) -> str:
        """Return the ends of Ray's logs on every machine."""
        ends = []
        for machine in self.machines.values():
            for name in LOGS:
                for path in machine.folder.glob(f"tmp/ray/session_2*/logs/{name}"):
                    lines = path.read_text(errors="replace").splitlines()[-40:]
                    ends.append("\n".join([f"--- {machine.name}: {name}", *lines]))
        return "\n".join(ends)


FORWARD = "echo 1 > /proc/sys/net/ipv4/ip_forward"


@contextmanager
def make_lab(folder: Path) -> Iterator[Lab]:
    """Make a lab with a client, and end all its machines afterwards.

    Raises:
        LookupError: If there is no sshd or no rsync to be had; the message says why.
    """
    (folder / "bin").mkdir()
    (folder / "storage").mkdir()
    sshd, rsync = (_tool(name, folder / "packages" / name) for name in ("sshd", "rsync"))
    (folder / "libraries").write_text(sshd["libraries"])
    for kind in ("bin", "installed"):
        _write_scripts(HERE / kind, folder / kind, folder, rsync)
    for name in ("key", "host_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    (folder / "sshd_config").write_text(SSHD.format(lab=folder, path=SYSTEM_PATH))
    command = [sshd["path"], "-f", folder / "sshd_config", "-E", folder / "sshd.log"]
    lab = Lab(folder, [*map(str, command)])
    try:
        lab.add("client", RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0")
        yield lab
    except BaseException:
        print(lab.logs())
        raise
    finally:
        for machine in lab.machines.values():
            machine.end()


def _tool(name: str, folder: Path) -> dict[str, str]:
    tool, reason = fetched(name, folder)
    if reason is not None:
        raise LookupError(reason)
    return tool


def _write_scripts(source: Path, target: Path, lab: Path, rsync: Mapping[str, str]) -> None:
    """Copy commands with the paths of this lab in them."""
    target.mkdir(exist_ok=True)
    values = {
        "@LAB@": str(lab),
        "@PYTHON@": sys.executable,
        "@RSYNC@": rsync["path"],
        "@LIBRARIES@": rsync["libraries"],
    }
    for script in source.iterdir():
        text = script.read_text()
        for name, value in values.items():
            text = text.replace(name, value)
        (target / script.name).write_text(text)
        (target / script.name).chmod(0o755)


def wait_for(condition: Callable[[], object], what: str, timeout: float = 120) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: If it is not so in time (s).
    """
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, f"{what}: not within {timeout} s"
        time.sleep(1)


def wait_for_none(found: Callable[[], list[str]], timeout: float = 180) -> None:
    """Wait until nothing is found any more.

    Raises:
        AssertionError: If something is, after that time (s); it is shown.
    """
    limit = time.monotonic() + timeout
    while left := found():
        assert time.monotonic() < limit, f"left after {timeout} s: {left}"
        time.sleep(1)


def _enter(pid: int, *kinds: str) -> list[str]:
    return ["nsenter", "-t", str(pid), *kinds]


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def _run(*words: str | Path) -> None:
    program = found(str(words[0]))
    assert program is not None
    done = subprocess.run(
        [program, *map(str, words[1:])], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr}"
