"""One cluster of two nodes, on one machine, for all tests that lose processes and nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster
from ray_clusters import SYSTEM_CONFIG, nodes

IN_OBJECT_STORE = {**SYSTEM_CONFIG, "max_direct_call_object_size": 1000}
"""Sums as small as those of tests lie in the object store, as those of larger models do."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Each process that runs tests beside others has addresses of its own.
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with nodes(32 + 8 * process, IN_OBJECT_STORE) as cluster:
        yield cluster
