"""Clusters of several nodes on one machine, for tests of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from ray._private.authentication import authentication_token_setup as authentication
from ray._private.node import Node
from ray.cluster_utils import Cluster

SYSTEM_CONFIG = {
    # The loss of a node is noticed within two seconds instead of half a minute.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


def node_options(last: int) -> dict[str, Any]:
    """Options of a node that listens on a loopback address of its own."""
    return {
        "num_cpus": 1,
        "object_store_memory": 100 * 2**20,
        "node_ip_address": f"127.0.0.{last}",
    }


@contextmanager
def nodes(
    first: int,
    system_config: Mapping[str, Any] = SYSTEM_CONFIG,
    each: Sequence[Mapping[str, Any]] = ({}, {}),
) -> Iterator[Cluster]:
    """A cluster of a head and other nodes, at 127.0.0.first and the addresses after it.

    Each of them, from the head on, has options of its own besides.
    """
    authentication.enable_token_auth_by_default()
    authentication.ensure_token_if_auth_enabled()
    own = [node_options(last) | more for last, more in enumerate(each, first)]
    options = {"include_dashboard": False, "_system_config": dict(system_config)}
    with pytest.MonkeyPatch.context() as patch:
        # Whoever calls ray.init on this machine meanwhile is not to find this cluster.
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
        patch.setattr("ray._common.utils.reset_ray_address", lambda *_: None)
        cluster = Cluster(initialize_head=True, head_node_args=own[0] | options)
        for more in own[1:]:
            cluster.add_node(**more)
        yield cluster
        cluster.shutdown()


def replace_node(cluster: Cluster, lost: Node) -> None:
    """Give a cluster a node in place of one that was lost, at the same address."""
    with pytest.MonkeyPatch.context() as patch:
        # Or it would end with the thread that gives it; it ends with the cluster all the same.
        patch.setattr(cluster, "_shutdown_at_exit", False)
        cluster.add_node(**node_options(int(lost.node_ip_address.rpartition(".")[2])))
