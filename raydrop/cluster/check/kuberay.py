"""Policy for KubeRay's RayJob and RayCluster, and for what may stand beside them.

Of a pod no more is allowed than Kubernetes' restricted Pod Security Standard does, so that what
runs in it stays in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raydrop.cluster.check.doors import open_doors
from raydrop.cluster.check.problem import (
    ANY,
    Need,
    Policy,
    Problem,
    Said,
    any_of,
    given,
    mapping,
    no,
    only,
    refused,
    texts,
)
from raydrop.cluster.check.shell import RAY_START, command
from raydrop.cluster.check.versions import image, python_problems, ray_version

KINDS = ("RayJob", "RayCluster")
BESIDE = ("PersistentVolumeClaim", "NetworkPolicy")
"""Kinds that let nothing in, and start nothing."""


def _resources(value: Any) -> Iterator[Said]:
    for kind in ("requests", "limits"):
        amounts = mapping(mapping(value).get(kind))
        lacking = [name for name in ("cpu", "memory") if not given(amounts.get(name))]
        if lacking:
            found = f"no {' and no '.join(lacking)}"
            yield f"cpu and memory in {kind}", found, "say how much of its node the pod may take"


def _variable(value: Any) -> Iterator[Said]:
    name, text = mapping(value).get("name"), mapping(value).get("value")
    if name == "RAY_AUTH_MODE" and text != "token":
        remedy = "remove it; KubeRay sets it by authOptions"
        yield "token authentication", f"RAY_AUTH_MODE={text}", remedy
    if name == "RAY_AUTH_TOKEN" and given(text):
        remedy = "make a new one, and let KubeRay keep it in a Secret"
        yield "no token in a file that is shown and shared", "one in RAY_AUTH_TOKEN", remedy


EXEC: Policy = {"exec": {"command": command}}
PROBE: Policy = {
    "exec": {"command": command},
    "httpGet": any_of("path port scheme httpHeaders"),
    "tcpSocket": any_of("port"),
    **any_of(
        "grpc initialDelaySeconds periodSeconds timeoutSeconds successThreshold failureThreshold "
        "terminationGracePeriodSeconds"
    ),
}
NODE = "no rights over the node"
WHOLE = no("whole volumes, since links within have led to the node", "mount the volume itself")
USER = any_of("runAsUser runAsGroup runAsNonRoot")
SECCOMP: Policy = {"type": only("RuntimeDefault")}
SECURITY: dict[str, Policy] = {
    "privileged": no(NODE),
    "procMount": only("Default"),
    "capabilities": {"drop": ANY, "add": no(NODE)},
    "seccompProfile": SECCOMP,
    **USER,
    **any_of("readOnlyRootFilesystem"),
}
FALSE = only(False, expected="false, so that programs gain no rights")
CONTAINER: dict[str, Policy] = {
    "command": command,
    "args": command,
    "env": [_variable],
    "ports": [{"hostPort": no("no port of the node"), **any_of("name containerPort protocol")}],
    "resources": Need("the pod may take all of its node", _resources),
    "securityContext": Need(
        "programs in it may gain rights",
        {"allowPrivilegeEscalation": Need("programs in it may gain rights", FALSE), **SECURITY},
    ),
    "volumeMounts": [{"subPath": WHOLE, "subPathExpr": WHOLE, **any_of("name mountPath readOnly")}],
    "lifecycle": {"preStop": EXEC, "postStart": EXEC},
    **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe"), PROBE),
    **any_of(
        "name image imagePullPolicy envFrom workingDir restartPolicy terminationMessagePath "
        "terminationMessagePolicy"
    ),
}
TEMPLATE: Policy = {
    "metadata": ANY,
    "spec": {
        "containers": Need(
            "nothing runs", [{**CONTAINER, "image": Need("nothing runs", image)}, CONTAINER]
        ),
        "initContainers": [CONTAINER],
        "volumes": [
            {
                "hostPath": no("no folder of the node"),
                **any_of(
                    "name persistentVolumeClaim emptyDir configMap secret projected downwardAPI "
                    "ephemeral csi nfs"
                ),
            }
        ],
        **dict.fromkeys(("hostNetwork", "hostPID", "hostIPC"), no("pods apart from their node")),
        "securityContext": {
            "seccompProfile": SECCOMP,
            **USER,
            **any_of("fsGroup fsGroupChangePolicy supplementalGroups"),
        },
        **any_of(
            "automountServiceAccountToken serviceAccountName imagePullSecrets restartPolicy "
            "nodeSelector tolerations affinity topologySpreadConstraints priorityClassName "
            "schedulerName runtimeClassName terminationGracePeriodSeconds enableServiceLinks"
        ),
    },
}
POD = Need("nothing runs", TEMPLATE)
INSIDE = only(
    "ClusterIP", remedy="keep the head within the cluster, and reach it with `kubectl port-forward`"
)
BUSY = "trials run on the head too, and starve it"
HEAD: Policy = {
    "serviceType": INSIDE,
    "headService": {
        "spec": {"type": INSIDE, **any_of("ports selector clusterIP publishNotReadyAddresses")},
        "metadata": any_of("name namespace labels"),
        **any_of("apiVersion kind"),
    },
    "enableIngress": no("no way in from outside"),
    "rayStartParams": Need(
        BUSY,
        {
            **RAY_START,
            "num-cpus": Need(BUSY, only("0", expected="'0', for a head that runs no trials")),
        },
    ),
    "template": POD,
    **any_of("resources labels"),
}
WORKERS: Policy = {
    "rayStartParams": RAY_START,
    "template": POD,
    **any_of(
        "groupName replicas minReplicas maxReplicas idleTimeoutSeconds numOfHosts scaleStrategy "
        "suspend resources labels"
    ),
}


def _policy(kind: str) -> dict[str, Policy]:
    version = ray_version()
    ray = only(
        version,
        expected=f"'{version}', the Ray that is installed here",
        remedy=f'write rayVersion: "{version}"',
    )
    token = only(
        "token",
        expected="'token'",
        remedy="write authOptions: {mode: token}, which needs KubeRay 1.6 or newer",
    )
    everybody = "whoever reaches the dashboard runs what they like"
    cluster: dict[str, Policy] = {
        "rayVersion": Need("KubeRay does not know what Ray can do", ray),
        "authOptions": Need(everybody, {"mode": Need(everybody, token)}),
        "headGroupSpec": Need("there is no head", HEAD),
        "workerGroupSpecs": Need("nobody works", [WORKERS]),
        "autoscalerOptions": {
            **{key: CONTAINER[key] for key in ("env", "volumeMounts")},
            "securityContext": {"allowPrivilegeEscalation": FALSE, **SECURITY},
            **any_of(
                "resources idleTimeoutSeconds upscalingMode version image imagePullPolicy envFrom"
            ),
        },
        **any_of("enableInTreeAutoscaling suspend managedBy upgradeStrategy"),
    }
    job: dict[str, Policy] = {
        "entrypoint": Need("nothing is computed", command),
        "shutdownAfterJobFinishes": Need(
            "the cluster stays, and costs, after the study", only(True)
        ),
        "activeDeadlineSeconds": Need("a study that hangs holds its nodes for ever"),
        "rayClusterSpec": Need("there is no cluster", cluster),
        "submitterPodTemplate": TEMPLATE,
        **any_of(
            "submissionMode ttlSecondsAfterFinished backoffLimit jobId metadata submitterConfig "
            "entrypointNumCpus entrypointNumGpus entrypointResources suspend managedBy"
        ),
    }
    spec = Need("there is no cluster", job if kind == "RayJob" else cluster)
    return {"spec": spec, **any_of("apiVersion kind metadata")}


def is_kuberay(config: Any) -> bool:
    """Return whether a document is one of KubeRay's."""
    return str(mapping(config).get("apiVersion", "")).startswith("ray.io/")


def kuberay_problems(config: Any) -> list[Problem]:
    """Return what is wrong with a document of a file for KubeRay.

    Args:
        config: The document.
    """
    kind = mapping(config).get("kind")
    doors = open_doors(config)
    if not is_kuberay(config) and kind in BESIDE:
        return list(doors)
    if not is_kuberay(config) or kind not in KINDS:
        beside = "" if is_kuberay(config) else f", beside them {' or '.join(BESIDE)}"
        remedy = "name one of them" if is_kuberay(config) else "keep it in a file of its own"
        return [Problem("kind", f"one of {', '.join(KINDS)}{beside}", repr(kind), remedy)]
    # The head's service has to reach the dashboard, so it may listen on the pod's address.
    doors = (each for each in doors if not each.where.endswith("rayStartParams.dashboard-host"))
    unconfined = (
        Problem(where, "pods that are confined", text, "remove it")
        for where, text in texts(config)
        if text.lower() == "unconfined"
    )
    return [*refused(config, _policy(kind)), *unconfined, *python_problems(config), *doors]
