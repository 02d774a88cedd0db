"""Policy for files of `ray up`: what may stand in one, and what must, since Ray's own is a hazard.

Ray fills in what a file leaves out: a nightly Ray, an image of 2018, a security group that admits
ssh from everywhere, a role with all rights, a dashboard on all addresses. So every such key must be
there. What the defaults are was read in Ray 2.60.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
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
    sequence,
    texts,
)
from raydrop.cluster.check.shell import command, docker_options, mounts, one_word
from raydrop.cluster.check.versions import image, installed_rays, python_problems
from raydrop.errors import in_one_line

WITHOUT_COMMANDS = {
    "initialization_commands": "",
    "setup_commands": ", which in a cloud install a nightly Ray",
    "head_setup_commands": ", which in a cloud install packages of its choice",
    "worker_setup_commands": "",
    "head_start_ray_commands": ", which in a cloud have the dashboard listen on all addresses",
    "worker_start_ray_commands": "",
}
COMMANDS: dict[str, Policy] = {
    key: Need(f"Ray's own are run{what}", [command], empty=True)
    for key, what in WITHOUT_COMMANDS.items()
}
DOCKER_KEYS: dict[str, Policy] = {
    **dict.fromkeys(("head_image", "worker_image"), image),
    **dict.fromkeys(("run_options", "head_run_options", "worker_run_options"), docker_options),
    **any_of(
        "pull_before_run disable_automatic_runtime_detection disable_shm_size_detection use_podman"
    ),
}
DOCKER: dict[str, Policy] = {
    **DOCKER_KEYS,
    "container_name": Need("Ray runs beside the image, not in it", one_word),
    "image": Need("the autoscaler never starts a worker", image),
}
WHERE = Need("Ray does not know where")
PROVIDERS: dict[str, dict[str, Policy]] = {
    "aws": {
        "region": WHERE,
        "cache_stopped_nodes": Need("`ray down` stops machines, whose disks go on costing"),
        "security_group": no(
            "a group of your own in SecurityGroupIds rather than one for Ray to make, which admits "
            "ssh from everywhere whatever its rules say"
        ),
        **any_of("type availability_zone use_internal_ips"),
    },
    "gcp": {
        "region": WHERE,
        "availability_zone": WHERE,
        "project_id": Need("Ray does not know whose"),
        **any_of("type cache_stopped_nodes use_internal_ips"),
    },
    "local": {"type": ANY, "head_ip": one_word, "worker_ips": [one_word]},
}
MACHINE = Need("no machine can be started")
TOKENS = "the machine's credentials are one plain request away"
NODES: dict[str, dict[str, Policy]] = {
    "aws": {
        "InstanceType": MACHINE,
        "ImageId": Need("the image is one of Ubuntu 18.04"),
        "KeyName": Need("Ray refuses a key of your own"),
        "SecurityGroupIds": Need(
            "Ray makes a group that admits ssh from everywhere", unless="NetworkInterfaces"
        ),
        "SubnetIds": Need("it is any subnet that Ray finds", unless="NetworkInterfaces"),
        "MetadataOptions": Need(
            TOKENS,
            {
                "HttpTokens": Need(TOKENS, only("required")),
                **any_of("HttpEndpoint HttpPutResponseHopLimit InstanceMetadataTags"),
            },
            empty=True,
        ),
        "UserData": no("no commands but those of this file's lists"),
        **any_of(
            "NetworkInterfaces IamInstanceProfile BlockDeviceMappings InstanceMarketOptions "
            "Placement TagSpecifications EbsOptimized CapacityReservationSpecification "
            "CpuOptions CreditSpecification Monitoring InstanceInitiatedShutdownBehavior"
        ),
    },
    "gcp": {
        "machineType": MACHINE,
        "disks": MACHINE,
        "networkInterfaces": Need(
            "it is the first network, which usually admits ssh from everywhere"
        ),
        "metadata": {"items": [{"key": only("block-project-ssh-keys", "ssh-keys"), "value": ANY}]},
        **any_of(
            "serviceAccounts scheduling guestAccelerators labels tags minCpuPlatform "
            "acceleratorType runtimeVersion shieldedInstanceConfig reservationAffinity"
        ),
    },
    "local": {},
}


def _kept(value: Any) -> Iterator[Said]:
    """Yield what lets a cloud take back the head."""
    for part in map(mapping, value if isinstance(value, list) else [value]):
        market = {part.get("MarketType"), part.get("provisioningModel")} & {"spot", "SPOT"}
        if market or part.get("preemptible"):
            expected = "a head that is not reclaimed, since the cluster ends with it"
            yield expected, "one that its cloud may take back", "keep spot machines for workers"


def _no_cpus(value: Any) -> Iterator[Said]:
    if mapping(value).get("CPU") != 0:
        yield "0 CPUs, for a head that runs no trials", repr(value), "write resources: {CPU: 0}"


HEADS: dict[str, dict[str, Policy]] = {
    "aws": {
        "IamInstanceProfile": Need("Ray makes a role with all rights to EC2 and S3"),
        "InstanceMarketOptions": _kept,
    },
    "gcp": {
        "serviceAccounts": Need("Ray's account with all rights to machines and buckets is used"),
        "scheduling": _kept,
    },
    "local": {},
}
TOKEN_FILE = re.compile(r"(^|/)auth_token$|(^|/)\.ray/?$")
TOKEN_MODE = "RAY_AUTH_MODE=token"
NO_CPUS = re.compile(r"--num-cpus(?:=|\s+)['\"]?0(?![\d.])")


def policy(config: dict[str, Any]) -> dict[str, Policy]:
    """Return what may, and what must, stand in a file for `ray up`.

    Args:
        config: The file's content, whose provider is known.
    """
    provider = config["provider"]["type"]
    node: dict[str, Policy] = {
        "docker": DOCKER_KEYS,
        "node_config": NODES[provider],
        "initialization_commands": [command],
        "worker_setup_commands": [command],
        **any_of("resources min_workers max_workers idle_timeout_s priority labels"),
    }
    head: dict[str, Policy] = {
        **node,
        "resources": Need("trials run on the head too", _no_cpus, empty=True),
        "node_config": {**NODES[provider], **HEADS[provider]},
    }
    cloud: dict[str, Policy] = {
        "max_workers": Need("Ray's own applies"),
        "head_node_type": Need("Ray's own applies"),
        "available_node_types": Need(
            "Ray's own applies", {"*": node, str(config.get("head_node_type")): head}
        ),
    }
    key = Need("Ray makes a key pair in your account", one_word)
    auth: dict[str, Policy] = {
        "ssh_user": Need("the name is one of Ray's choice, or none", one_word),
        "ssh_private_key": one_word if provider == "local" else key,
        "ssh_public_key": one_word,
        "ssh_proxy_command": no("no command that runs on your own machine"),
    }
    return {
        **COMMANDS,
        **(dict.fromkeys(cloud) if provider == "local" else cloud),
        "cluster_name": Need("it is called `default`, as others are", one_word),
        "provider": PROVIDERS[provider],
        "auth": Need("the user is one of Ray's choice", auth),
        "docker": DOCKER if given(config.get("docker")) else ANY,
        "file_mounts": mounts,
        "cluster_synced_files": mounts,
        **any_of(
            "min_workers upscaling_speed idle_timeout_minutes file_mounts_sync_continuously "
            "rsync_exclude rsync_filter"
        ),
    }


def launcher_problems(config: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with a file for `ray up`.

    Args:
        config: Its content.
    """
    provider = mapping(config.get("provider")).get("type")
    if not isinstance(provider, str) or provider not in PROVIDERS:
        remedy = "name one of them; of other providers raydrop does not know the defaults"
        found = "none" if provider is None else repr(provider)
        return [Problem("provider.type", f"one of {', '.join(PROVIDERS)}", found, remedy)]
    problems = [
        *refused(config, policy(config)),
        *python_problems(config),
        *_absent(config),
        *_starts(config),
        *open_doors(config),
    ]
    return problems or list(_own_checks(config))


def _absent(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is said nowhere in a file: which Ray the nodes run, and where the token is."""
    said = [text for _, text in texts(config)]
    if not given(config.get("docker")) and not any(map(installed_rays, said)):
        expected = "an image or a command that says which Ray the nodes run"
        remedy = "install it there as 'ray[default]==VERSION', or use docker"
        yield Problem("setup_commands", expected, "neither", remedy)
    mounted = map(str, mapping(config.get("file_mounts")))
    if not any(map(TOKEN_FILE.search, mounted)) and "RAY_AUTH_TOKEN_PATH=" not in "\n".join(said):
        remedy = (
            "add ~/.ray/auth_token: ~/.ray/auth_token (`ray get-auth-token --generate` makes one)"
        )
        yield Problem("file_mounts", "the token that every node needs", "none", remedy)


def _starts(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield where Ray is not started, asks for no token, or runs trials on the head."""
    docker = mapping(config.get("docker"))
    for role in ("head", "worker"):
        key = f"{role}_start_ray_commands"
        lines = {f"{key}[{at}]": str(line) for at, line in enumerate(sequence(config.get(key)))}
        starts = {where: line for where, line in lines.items() if "ray start" in line}
        if not starts and config.get(key) is not None:
            yield Problem(key, "a command that starts Ray", "none", "add `ray start` there")
        # What a shell exports reaches Ray where it is started: on the machine, or in its container.
        shells = ["setup_commands", f"{role}_setup_commands"]
        shells += [] if docker else ["initialization_commands"]
        exports = [str(line) for each in shells for line in sequence(config.get(each))]
        options = (docker.get(each) for each in ("run_options", f"{role}_run_options"))
        asked = TOKEN_MODE in str(list(map(sequence, options))) or any(
            f"export {TOKEN_MODE}" in line and ".bashrc" in line for line in exports
        )
        option = f"add --env {TOKEN_MODE} to docker.run_options"
        remedy = option if docker else f"write {TOKEN_MODE} before `ray start`"
        for where, line in starts.items():
            if TOKEN_MODE not in line and not asked:
                found = "none, so that a node without the token's file would ask for none"
                yield Problem(where, f"{TOKEN_MODE} where Ray starts", found, remedy)
            if role == "head" and not NO_CPUS.search(line):
                busy = "add it, or trials starve the head"
                yield Problem(where, "a head that runs no trials", "no --num-cpus=0", busy)


def _own_checks(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield what Ray says against the file together with its defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        # Ray prints the reason of what it raises.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:
        lines = said.getvalue().strip().splitlines()
        reason = lines[-1] if lines else in_one_line(error)
        where = str(getattr(error, "json_path", "")).removeprefix("$").removeprefix(".")
        yield Problem(where, "a file that Ray accepts", reason.rstrip("."), "change it")
