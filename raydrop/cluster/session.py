"""A Ray session that is quiet, closed to the network, and ended when its work is."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig

from raydrop.cluster.packages import folders_of, shipped
from raydrop.errors import ConfigError, DataError, IncompleteStudyError, in_one_line

ANSWER_SECONDS = 10.0
"""How long the head of a cluster may take to answer; Ray itself would ask for minutes."""

_LONGEST_PLACE = 24
"""Bytes in the path of the folder below which sockets lie; with their own names they have 103."""
_KINDS = {"gcs_server": "control process", "raylet": "raylet"}
_PRINT = ray._private.worker.print_to_stdstream
_STARTED_WITH = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
_TOKEN = ".ray/auth_token"
_TOKEN_REFUSED = ("unauthenticated", "authentication", "auth token", "auth_token")


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    num_cpus: int | None = None,
    code: str | None = None,
    modules: Collection[ModuleType] = (),
) -> Iterator[str]:
    """Connect to a cluster, or start Ray on this machine, and end it afterwards.

    A session that is there already is used and left as it is. A local one listens on the loopback
    address alone, keeps Ray's token authentication, and has a folder that only this user can open
    and that is removed in the end. Workers import from the folder of the program that calls this,
    and from ``code``, but never from the current one, where anybody's files may lie. Modules of the
    user's own are found where they are here, and sent to a cluster. Yields where the dashboard of a
    cluster is and how to tunnel to it, or nothing.

    Raises:
        ConfigError: If the cluster cannot be joined, or Ray does not start here.
        IncompleteStudyError: If a process of a local Ray ends before the work does.
    """
    if ray.is_initialized():
        yield ""
        return
    with contextlib.ExitStack() as stack:
        if address is None:
            job = _job([code, *folders_of(modules)])
            _start(num_cpus, job, stack.enter_context(_private_folder()))
            dashboard = ""
            stack.enter_context(_watched())
        else:
            dashboard = _join(address, _job([code]), shipped(modules))
            stack.callback(ray.shutdown)
        _protect_token()
        yield dashboard


def _start(num_cpus: int | None, job: JobConfig, folder: Path) -> None:
    from ray._private import ray_constants

    _make_token()
    # Ray 2.60 takes a loopback address for a mistake: it replaces it by that of a network interface
    # and then listens on all of them, except where it believes that there are no clusters.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            "local",  # or it would join a cluster that happens to run on this machine
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=job,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "r"),  # which Ray opens to everybody
        )
    except Exception as error:  # what Ray raises where its processes do not come up
        raise ConfigError(
            f"Expected Ray to start on this machine, found: {in_one_line(error)}; free memory or "
            "disk, or name a cluster with --address."
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Give Ray a folder for sockets, logs and spilled objects that nobody else may open."""
    wanted = os.environ.get("RAY_TMPDIR")
    places = [wanted] if wanted else [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    for place in places:
        with contextlib.suppress(OSError):
            if len(os.fsencode(Path(place).absolute())) <= _LONGEST_PLACE:
                folder = Path(tempfile.mkdtemp(prefix="rd-", dir=Path(place).absolute()))
                break
    else:
        raise ConfigError(
            f"Expected a folder for Ray that can be written and whose path has at most "
            f"{_LONGEST_PLACE} letters, as sockets need, found none of {', '.join(places)}; set "
            f"{'RAY_TMPDIR' if wanted else 'TMPDIR'} to a shorter one, such as /tmp."
        )
    try:
        yield folder
    finally:
        for _ in range(20):  # a process that is ending may still write
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Shut Ray down afterwards, and end what waits for it once one of its own processes is gone.

    Ray itself would wait for a minute and print its logs, or go on waiting.
    """
    node = ray._private.worker._global_node
    watched = {} if node is None else {kind: node.all_processes[kind][0].process for kind in _KINDS}
    left, found = threading.Event(), list[str]()

    def print_of_the_living(*arguments: Any, **options: Any) -> None:
        if all(process.poll() is None for process in watched.values()):
            _PRINT(*arguments, **options)

    def watch() -> None:
        while not left.wait(0.1):
            for kind, process in watched.items():
                if process.poll() is None:
                    continue
                found.append(f"its {_KINDS[kind]} ended with status {process.returncode}")
                node.kill_all_processes(check_alive=False, allow_graceful=False)
                signal.pthread_kill(main.ident or 0, signal.SIGINT)
                return

    thread, main = threading.Thread(target=watch, daemon=True), threading.main_thread()
    here = threading.current_thread() is main  # no other can be interrupted
    # Shells have what a script starts in the background ignore interrupts.
    ignored = here and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if here:
        thread.start()
    ray._private.worker.print_to_stdstream = print_of_the_living  # or it shows a raylet's last log
    try:
        yield
    except BaseException as error:
        if not found:
            raise
        raise IncompleteStudyError(
            f"Expected Ray to run until the work is done, found that {found[0]}, as where memory "
            "runs out; free memory, and the same command does what is missing."
        ) from error
    finally:
        left.set()
        if thread.is_alive():
            thread.join()
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        ray.shutdown()
        if not found:  # or what Ray still has to say of that process would be shown
            ray._private.worker.print_to_stdstream = _PRINT


def _join(address: str, job: JobConfig, environment: dict[str, Any]) -> str:
    place = find_head(address)
    try:
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=job,
            runtime_env=environment,  # that of a job config is lost in a job that was submitted
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise refusal(place, error) from error
    found = getattr(context, "address_info", None) or {}
    return dashboard_text(found.get("webui_url"), found.get("gcs_address") or place)


class _Job(JobConfig):
    """A job whose workers look for modules in the folders that it names."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # or Ray would add the folder in which the driver was started


def _job(folders: Iterable[str | None]) -> JobConfig:
    """Have workers look where a script is; the last folder is searched first."""
    program = str(Path(sys.argv[0]).resolve().parent)  # of a module it is not on the path
    known = {*sys.path, *(str(Path(each).absolute()) for each in sys.path)}  # "" in a notebook
    found = [each for each in (program, *folders) if each in known]
    return _Job(_py_driver_sys_path=found)


def sent(data: Any) -> Any:
    """Put data where all workers see them, and return where that is.

    Raises:
        DataError: If they hold what cannot be sent, such as an open file.
    """
    try:
        return ray.put(data)
    except Exception as error:  # whatever the user's data set raises
        cause = error.__cause__ or error
        raise DataError(
            f"Expected a data set that can be sent to workers, found that it cannot "
            f"({in_one_line(cause)}); have it open files and the like when an item is asked for, "
            "or keep the inputs in memory with in_memory=True."
        ) from error


def find_head(address: str) -> str:
    """Return the host and port of a cluster's head, once something answers there.

    ``auto`` is the cluster that this machine is part of; Ray Client's addresses, with a scheme, are
    left to Ray. If nothing answers, that is a ConfigError.
    """
    if "://" in address:
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        place = str(canonicalize_bootstrap_address(address))
        host, _, port = place.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        where = "a Ray cluster that this machine is part of" if address == "auto" else "Ray"
        raise ConfigError(
            f"Expected {where} at {address}, found that nothing answers ({in_one_line(error)}); "
            "start a cluster with `ray up`, mend the address, or leave out --address."
        ) from error
    return place


def refusal(place: str, error: Exception) -> ConfigError:
    """Say why a cluster that answers was not joined."""
    text = str(error)
    versions = _STARTED_WITH.findall(text)
    if len(versions) == 2 and versions[0] != versions[1]:
        there, here = (f"Ray {ray} with Python {python}" for ray, python in versions)
        return ConfigError(
            f"Expected {here} at {place}, as there is here, found {there}; install the same "
            "versions on both."
        )
    if any(words in text.lower() for words in _TOKEN_REFUSED):
        return ConfigError(
            f"Expected the token of the cluster at {place}, found another or none; copy "
            "~/.ray/auth_token from where `ray up` was run, and set RAY_AUTH_MODE=token."
        )
    return ConfigError(
        f"Expected to join Ray at {place}, found: {in_one_line(error)}; look at the cluster with "
        "`ray status`, or leave out --address."
    )


def dashboard_text(dashboard: str | None, head: str) -> str:
    """Say where a dashboard is and how to tunnel to it, or nothing where there is none.

    Examples:
        >>> dashboard_text("127.0.0.1:8265", "10.0.0.4:6379").partition(";")[0]
        'http://127.0.0.1:8265 on the head, 10.0.0.4'
    """
    if not dashboard:
        return ""
    host, port = head.rpartition(":")[0], dashboard.rpartition(":")[2]
    return (
        f"http://{dashboard} on the head, {host}; brought to this address of your own machine by "
        f"`ray dashboard CLUSTER_FILE` or `ssh -N -L {port}:{dashboard} USER@{host}`"
    )


def _make_token() -> None:
    """Make the token that Ray 2.60 would make readable for all, where it would make one."""
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / _TOKEN
    with contextlib.suppress(OSError):  # such as that there is one
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        created = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(created, "w") as file:
            file.write(secrets.token_hex(32))


def _protect_token() -> None:
    """Let nobody else read a token that was there before, or that Ray made."""
    with contextlib.suppress(OSError):
        token = Path.home() / _TOKEN
        if token.exists() and token.stat().st_mode & 0o077:
            token.chmod(0o600)
