"""A Ray session that is quiet, closed to the network, and ended when its work is."""

from __future__ import annotations

import contextlib
import logging
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


def _protect_token() -> None:
    """Let nobody else read the token, which Ray 2.60 creates readable for all."""
    with contextlib.suppress(OSError):
        token = Path.home() / ".ray" / "auth_token"
        if token.exists() and token.stat().st_mode & 0o077:
            token.chmod(0o600)
