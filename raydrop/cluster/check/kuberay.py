"""Policy for KubeRay's RayJob and RayCluster: versions, token, no open door, resources given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raydrop.cluster.check.doors import open_addresses, open_authentication
from raydrop.cluster.check.problem import Problem, given, mapping, sequence
from raydrop.cluster.check.versions import image_problems, python_problems, ray_version

API = "ray.io/"
KINDS = ("RayJob", "RayCluster")
SERVICES = ("ClusterIP",)
SHARED = ("hostNetwork", "hostPID", "hostIPC")
"""What a pod shares with its node, if asked to."""


@dataclass(frozen=True)
class Group:
    """The head, or one group of workers."""

    where: str
    """Path of its key."""
    config: dict[str, Any]
    """What stands there."""
    is_head: bool
    """Whether it is the head."""

    @property
    def pod(self) -> dict[str, Any]:
        """Return the specification of its pods."""
        return mapping(mapping(self.config.get("template")).get("spec"))

    @property
    def pod_path(self) -> str:
        """Return the path of that."""
        return f"{self.where}.template.spec"

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return its containers by their paths."""
        return {
            f"{self.pod_path}.{key}[{index}]": mapping(container)
            for key in ("containers", "initContainers")
            for index, container in enumerate(sequence(self.pod.get(key)))
        }


def is_kuberay(config: Any) -> bool:
    """Return whether a document is one of KubeRay's."""
    return str(mapping(config).get("apiVersion", "")).startswith(API)


def kuberay_problems(config: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with a RayJob or RayCluster.

    Args:
        config: The document.
    """
    kind = config.get("kind")
    if kind not in KINDS:
        return [Problem("kind", f"one of {', '.join(KINDS)}", repr(kind), "name one of them")]
    where = "spec.rayClusterSpec" if kind == "RayJob" else "spec"
    spec = mapping(config.get("spec"))
    cluster = mapping(spec.get("rayClusterSpec")) if kind == "RayJob" else spec
    if not cluster:
        return [Problem(where, "a cluster", "none", "describe its head and its workers there")]
    groups = list(_groups(cluster, where))
    found = itertools.chain(
        _job(spec) if kind == "RayJob" else (),
        _cluster(cluster, where),
        _head(cluster, where),
        *(_pod(group) for group in groups),
        *(_container(path, each) for group in groups for path, each in group.containers().items()),
        _versions(groups),
        _doors(config, where),
    )
    return list(found)


def _groups(cluster: dict[str, Any], where: str) -> Iterator[Group]:
    yield Group(f"{where}.headGroupSpec", mapping(cluster.get("headGroupSpec")), True)
    for index, group in enumerate(sequence(cluster.get("workerGroupSpecs"))):
        yield Group(f"{where}.workerGroupSpecs[{index}]", mapping(group), False)


def _job(spec: dict[str, Any]) -> Iterator[Problem]:
    if not given(spec.get("entrypoint")):
        yield Problem("spec.entrypoint", "a command", "none", "write `raydrop run …` there")
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield Problem(
            "spec.shutdownAfterJobFinishes",
            "true, so that the cluster goes when its study ends",
            repr(spec.get("shutdownAfterJobFinishes")),
            "write true",
        )
    if not given(spec.get("activeDeadlineSeconds")):
        yield Problem(
            "spec.activeDeadlineSeconds",
            "a limit of time",
            "none, so that a study that hangs holds its nodes for ever",
            "give one in seconds",
        )


def _cluster(cluster: dict[str, Any], where: str) -> Iterator[Problem]:
    named = cluster.get("rayVersion")
    if named != ray_version():
        yield Problem(
            f"{where}.rayVersion",
            f"'{ray_version()}', the Ray that is installed here",
            repr(named),
            f'write rayVersion: "{ray_version()}"',
        )
    mode = mapping(cluster.get("authOptions")).get("mode")
    if mode != "token":
        yield Problem(
            f"{where}.authOptions.mode",
            "'token'",
            repr(mode),
            "write authOptions: {mode: token}, which needs KubeRay 1.6 or newer",
        )
    if not sequence(cluster.get("workerGroupSpecs")):
        yield Problem(f"{where}.workerGroupSpecs", "a group of workers", "none", "add one")


def _head(cluster: dict[str, Any], where: str) -> Iterator[Problem]:
    head, place = mapping(cluster.get("headGroupSpec")), f"{where}.headGroupSpec"
    service = mapping(mapping(head.get("headService")).get("spec")).get("type")
    types = {"serviceType": head.get("serviceType"), "headService.spec.type": service}
    for key, found in types.items():
        if found is not None and found not in SERVICES:
            yield Problem(
                f"{place}.{key}",
                "ClusterIP",
                str(found),
                "keep the head within the cluster, and reach it with `kubectl port-forward`",
            )
    if head.get("enableIngress"):
        yield Problem(f"{place}.enableIngress", "no way in from outside", "one", "remove it")
    if str(mapping(head.get("rayStartParams")).get("num-cpus")) != "0":
        yield Problem(
            f"{place}.rayStartParams.num-cpus",
            "'0', for a head that runs no trials",
            repr(mapping(head.get("rayStartParams")).get("num-cpus")),
            'write rayStartParams: {num-cpus: "0"}',
        )


def _pod(group: Group) -> Iterator[Problem]:
    for key in SHARED:
        if group.pod.get(key):
            yield Problem(
                f"{group.pod_path}.{key}", "pods apart from their node", "true", "remove it"
            )
    if not sequence(group.pod.get("containers")):
        yield Problem(f"{group.pod_path}.containers", "a container", "none", "add one")


def _container(where: str, container: dict[str, Any]) -> Iterator[Problem]:
    if mapping(container.get("securityContext")).get("privileged"):
        yield Problem(
            f"{where}.securityContext.privileged", "no rights over the node", "true", "remove it"
        )
    for port in map(mapping, sequence(container.get("ports"))):
        if port.get("hostPort"):
            yield Problem(
                f"{where}.ports", "no port of the node", f"hostPort {port['hostPort']}", "remove it"
            )
    for kind in ("requests", "limits"):
        amounts = mapping(mapping(container.get("resources")).get(kind))
        lacking = [name for name in ("cpu", "memory") if not given(amounts.get(name))]
        if lacking:
            yield Problem(
                f"{where}.resources.{kind}",
                "cpu and memory",
                f"no {' and no '.join(lacking)}",
                "say how much of its node the pod may take",
            )
    yield from _environment(where, container)


def _environment(where: str, container: dict[str, Any]) -> Iterator[Problem]:
    for index, variable in enumerate(map(mapping, sequence(container.get("env")))):
        name, value = variable.get("name"), variable.get("value")
        if name == "RAY_AUTH_MODE" and value != "token":
            yield Problem(
                f"{where}.env[{index}]",
                "token authentication",
                f"RAY_AUTH_MODE={value}",
                "remove it; KubeRay sets it by authOptions",
            )
        if name == "RAY_AUTH_TOKEN" and given(value):
            yield Problem(
                f"{where}.env[{index}]",
                "no token in a file that is shown and shared",
                "one in RAY_AUTH_TOKEN",
                "make a new one, and let KubeRay keep it in a Secret",
            )


def _versions(groups: list[Group]) -> Iterator[Problem]:
    images = {
        f"{path}.image": str(container.get("image", ""))
        for group in groups
        for path, container in group.containers().items()
        if ".containers[0]" in path  # others beside it need no Ray
    }
    for path, image in images.items():
        yield from image_problems(path, image)
    yield from python_problems(images)


def _doors(config: dict[str, Any], where: str) -> Iterator[Problem]:
    """Yield open doors, except the dashboard's address, which the head's service has to reach."""
    dashboard = f"{where}.headGroupSpec.rayStartParams.dashboard-host"
    yield from (each for each in open_addresses(config) if each.where != dashboard)
    yield from open_authentication(config)
