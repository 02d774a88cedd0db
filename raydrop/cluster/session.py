"""A Ray session that is quiet, closed to the network, and ended when its work is."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import ray

from raydrop.errors import ConfigError


@contextlib.contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, and end it afterwards.

    A session that is there already is used and left as it is. A local one listens on the loopback
    address alone and keeps Ray's token authentication.

    Args:
        address: Of a running cluster, or None for this machine.
        num_cpus: CPUs of a local session; all by default.

    Raises:
        ConfigError: If the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            _make_token()
            with _loopback_kept():
                ray.init(
                    "local",  # or it would join a cluster that happens to run on this machine
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Expected Ray at {address or 'this machine'}, found: {error}; "
            "start a cluster with 'ray up' or leave out --address."
        ) from error
    _protect_token()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _loopback_kept() -> Iterator[None]:
    """Have Ray listen where it is told to.

    Ray 2.60 takes a loopback address for a mistake: it replaces it by that of a network interface
    and then listens on all of them, except where it believes that there are no clusters.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _token_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _make_token() -> None:
    """Make the token that Ray 2.60 would make readable for all, where it would make one."""
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = _token_path()
    with contextlib.suppress(OSError):  # such as that there is one
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        created = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(created, "w") as file:
            file.write(secrets.token_hex(32))


def _protect_token() -> None:
    """Let nobody else read a token that was there before, or that Ray made."""
    with contextlib.suppress(OSError):
        token = _token_path()
        if token.exists() and token.stat().st_mode & 0o077:
            token.chmod(0o600)
