"""Policy for files of `ray up`: no key missing whose default is a hazard, and no open door.

Ray fills in what a file leaves out: a nightly Ray, an image of 2018, a security group that admits
ssh from everywhere, a role with all rights, a dashboard on all addresses. So every such key must be
there. What the defaults are was read in Ray 2.60.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydrop.cluster.check.doors import open_addresses, open_authentication
from raydrop.cluster.check.problem import Problem, given, mapping, sequence, texts
from raydrop.cluster.check.schema import schema_problems
from raydrop.cluster.check.versions import (
    image_problems,
    install_problems,
    installed_rays,
    python_problems,
)

PROVIDERS = ("aws", "gcp", "local")
CLOUDS = ("aws", "gcp")

COMMANDS = {
    "initialization_commands": "Ray's own are run",
    "setup_commands": "Ray's own are run, which in a cloud install a nightly Ray",
    "head_setup_commands": "Ray's own are run, which in a cloud install packages of its choice",
    "worker_setup_commands": "Ray's own are run",
    "head_start_ray_commands": (
        "Ray's own are run, which in a cloud have the dashboard listen on all addresses"
    ),
    "worker_start_ray_commands": "Ray's own are run",
}
"""What happens where a list of commands is left out."""

PROVIDER_KEYS: Mapping[str, Mapping[str, str]] = {
    "aws": {
        "region": "Ray does not know where",
        "cache_stopped_nodes": "`ray down` stops machines, whose disks go on costing",
    },
    "gcp": {
        "region": "Ray does not know where",
        "availability_zone": "Ray does not know where",
        "project_id": "Ray does not know whose",
    },
    "local": {},
}
"""What happens where a key of the provider is left out."""

NODE_KEYS: Mapping[str, Mapping[str, str]] = {
    "aws": {
        "InstanceType": "no machine can be started",
        "ImageId": "the image is one of Ubuntu 18.04",
        "KeyName": "Ray refuses a key of your own",
        "SecurityGroupIds": "Ray makes a group that admits ssh from everywhere",
        "SubnetIds": "it is any subnet that Ray finds",
    },
    "gcp": {
        "machineType": "no machine can be started",
        "disks": "no machine can be started",
        "networkInterfaces": "it is the first network, which usually admits ssh from everywhere",
    },
}
"""What happens where a key of a node type is left out."""

HEAD_KEYS = {
    "aws": ("IamInstanceProfile", "Ray makes a role with all rights to EC2 and S3"),
    "gcp": ("serviceAccounts", "Ray's account with all rights to machines and buckets is used"),
}
"""The same of the head alone."""

NETWORK_KEYS = {"SecurityGroupIds", "SubnetIds"}
"""What Ray takes from ``NetworkInterfaces`` where they are given."""

TOKEN_FILE = re.compile(r"(^|/)auth_token$|(^|/)\.ray/?$")
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH="
TOKEN_MODE = "RAY_AUTH_MODE=token"
NO_CPUS = re.compile(r"--num-cpus(?:=|\s+)['\"]?0(?![\d.])")


@dataclass(frozen=True)
class Launcher:
    """The content of a file for `ray up`, looked at by what its parts are for."""

    config: dict[str, Any]

    @property
    def provider(self) -> str:
        """Return the name of the provider, or nothing."""
        return str(mapping(self.config.get("provider")).get("type", ""))

    @property
    def head(self) -> str:
        """Return the name of the head's node type, or nothing."""
        return str(self.config.get("head_node_type", ""))

    @property
    def node_types(self) -> dict[str, dict[str, Any]]:
        """Return node types by name."""
        types = mapping(self.config.get("available_node_types"))
        return {str(name): mapping(node) for name, node in types.items()}

    @property
    def docker(self) -> dict[str, Any]:
        """Return what is said of containers; empty where Ray runs without."""
        docker = mapping(self.config.get("docker"))
        return docker if given(docker.get("container_name")) else {}

    @property
    def images(self) -> dict[str, str]:
        """Return the images in use by the path of their keys."""
        docker = self.docker
        found: dict[str, str] = {}
        for role in ("head", "worker") if docker else ():
            key = f"{role}_image" if given(docker.get(f"{role}_image")) else "image"
            found[f"docker.{key}"] = str(docker.get(key) or "none")
        for name, node in self.node_types.items():
            own = mapping(node.get("docker")).get("worker_image")
            if given(own):
                found[f"available_node_types.{name}.docker.worker_image"] = str(own)
        return found

    def commands(self, key: str) -> dict[str, str]:
        """Return the commands of one list by their paths."""
        lines = enumerate(sequence(self.config.get(key)))
        return {f"{key}[{index}]": str(line) for index, line in lines}

    def starts(self, role: str) -> dict[str, str]:
        """Return the commands that start Ray on the head or on a worker, by their paths."""
        commands = self.commands(f"{role}_start_ray_commands")
        return {where: line for where, line in commands.items() if "ray start" in line}


def launcher_problems(config: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with a file for `ray up`.

    Args:
        config: Its content.
    """
    launcher = Launcher(config)
    if launcher.provider not in PROVIDERS:
        unknown = Problem(
            "provider.type",
            f"one of {', '.join(PROVIDERS)}",
            repr(launcher.provider) if launcher.provider else "none",
            "name one of them; of other providers raydrop does not know the defaults",
        )
        return [unknown]
    rules = (
        _missing_keys,
        _missing_node_keys,
        _made_security_group,
        _plain_metadata,
        _missing_image,
        _other_versions,
        _unsaid_versions,
        _missing_token,
        _token_not_asked_for,
        _busy_head,
        _reclaimable_head,
    )
    found = itertools.chain(
        schema_problems(config),
        *(rule(launcher) for rule in rules),
        open_addresses(config),
        open_authentication(config),
    )
    return list(found)


def _missing(where: str, consequence: str) -> Problem:
    return Problem(where, "this key", f"none, so that {consequence}", "write what you want there")


def _missing_keys(launcher: Launcher) -> Iterator[Problem]:
    for key, consequence in COMMANDS.items():
        if launcher.config.get(key) is None:
            yield _missing(key, consequence)
    provider = mapping(launcher.config.get("provider"))
    for key, consequence in PROVIDER_KEYS[launcher.provider].items():
        if provider.get(key) is None:
            yield _missing(f"provider.{key}", consequence)
    auth = mapping(launcher.config.get("auth"))
    if not given(auth.get("ssh_user")):
        yield _missing("auth.ssh_user", "the name is one of Ray's choice, or none")
    if launcher.provider in CLOUDS:
        if not given(auth.get("ssh_private_key")):
            yield _missing("auth.ssh_private_key", "Ray makes a key pair in your account")
        for key in ("max_workers", "available_node_types", "head_node_type"):
            if launcher.config.get(key) is None:
                yield _missing(key, "Ray's own applies")


def _missing_node_keys(launcher: Launcher) -> Iterator[Problem]:
    for name, node in launcher.node_types.items():
        config = mapping(node.get("node_config"))
        for key, consequence in _node_keys(launcher, name).items():
            value = config.get(key)
            elsewhere = key in NETWORK_KEYS and given(config.get("NetworkInterfaces"))
            if not elsewhere and (not given(value) or value == "latest_dlami"):
                yield _missing(f"available_node_types.{name}.node_config.{key}", consequence)


def _node_keys(launcher: Launcher, name: str) -> dict[str, str]:
    """Return the keys that a node type must have, with what happens without."""
    keys = dict(NODE_KEYS.get(launcher.provider, {}))
    if name == launcher.head and launcher.provider in HEAD_KEYS:
        key, consequence = HEAD_KEYS[launcher.provider]
        keys[key] = consequence
    return keys


def _made_security_group(launcher: Launcher) -> Iterator[Problem]:
    if given(mapping(launcher.config.get("provider")).get("security_group")):
        yield Problem(
            "provider.security_group",
            "a group of your own in SecurityGroupIds",
            "one for Ray to make, which admits ssh from everywhere whatever its rules say",
            "remove it",
        )


def _plain_metadata(launcher: Launcher) -> Iterator[Problem]:
    if launcher.provider != "aws":
        return
    for name, node in launcher.node_types.items():
        options = mapping(mapping(node.get("node_config")).get("MetadataOptions"))
        if options.get("HttpTokens") != "required":
            yield Problem(
                f"available_node_types.{name}.node_config.MetadataOptions.HttpTokens",
                "'required', so that a machine's credentials are not one plain request away",
                repr(options.get("HttpTokens")),
                "write MetadataOptions: {HttpTokens: required}",
            )


def _missing_image(launcher: Launcher) -> Iterator[Problem]:
    """Yield a problem where the autoscaler would fail, which reads this key before any other."""
    if launcher.docker and not given(launcher.docker.get("image")):
        yield _missing("docker.image", "the autoscaler never starts a worker")


def _other_versions(launcher: Launcher) -> Iterator[Problem]:
    for where, image in launcher.images.items():
        yield from image_problems(where, image)
    yield from python_problems(launcher.images)
    for where, line in _all_commands(launcher).items():
        yield from install_problems(where, line)


def _unsaid_versions(launcher: Launcher) -> Iterator[Problem]:
    if launcher.docker or any(map(installed_rays, _all_commands(launcher).values())):
        return
    yield Problem(
        "setup_commands",
        "an image or a command that says which Ray the nodes run",
        "neither",
        "install it there as 'ray[default]==VERSION', or use docker",
    )


def _all_commands(launcher: Launcher) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in COMMANDS:
        found |= launcher.commands(key)
    for name, node in launcher.node_types.items():
        for key in ("initialization_commands", "worker_setup_commands"):
            for index, line in enumerate(sequence(node.get(key))):
                found[f"available_node_types.{name}.{key}[{index}]"] = str(line)
    return found


def _missing_token(launcher: Launcher) -> Iterator[Problem]:
    mounts = mapping(launcher.config.get("file_mounts"))
    elsewhere = any(TOKEN_PATH in text for _, text in texts(launcher.config))
    if not elsewhere and not any(TOKEN_FILE.search(str(remote)) for remote in mounts):
        yield Problem(
            "file_mounts",
            "the token that every node needs",
            "none",
            "add ~/.ray/auth_token: ~/.ray/auth_token (`ray get-auth-token --generate` makes one)",
        )


def _token_not_asked_for(launcher: Launcher) -> Iterator[Problem]:
    for role in ("head", "worker"):
        starts = launcher.starts(role)
        for where, line in starts.items():
            if TOKEN_MODE not in line and not _token_everywhere(launcher, role):
                yield Problem(
                    where,
                    f"{TOKEN_MODE} where Ray starts",
                    "none, so that a node without the token's file would ask for none",
                    _token_remedy(launcher),
                )
        if not starts and launcher.config.get(f"{role}_start_ray_commands") is not None:
            yield Problem(
                f"{role}_start_ray_commands",
                "a command that starts Ray",
                "none",
                "add `ray start` there",
            )


def _token_everywhere(launcher: Launcher, role: str) -> bool:
    """Return whether every shell in which Ray may be started asks for a token."""
    keys = ["setup_commands", f"{role}_setup_commands"]
    if not launcher.docker:
        keys.append("initialization_commands")  # which run outside of a container
    lines = [line for key in keys for line in launcher.commands(key).values()]
    options = (launcher.docker.get(key) for key in ("run_options", f"{role}_run_options"))
    exported = any(f"export {TOKEN_MODE}" in line and ".bashrc" in line for line in lines)
    return exported or any(TOKEN_MODE in str(line) for each in options for line in sequence(each))


def _token_remedy(launcher: Launcher) -> str:
    if launcher.docker:
        return f"add --env {TOKEN_MODE} to docker.run_options"
    return f"write {TOKEN_MODE} before `ray start`"


def _busy_head(launcher: Launcher) -> Iterator[Problem]:
    for where, line in launcher.starts("head").items():
        if not NO_CPUS.search(line):
            yield Problem(
                where,
                "a head that runs no trials",
                "no --num-cpus=0",
                "add it, or trials starve the head",
            )
    head = launcher.node_types.get(launcher.head)
    if launcher.provider not in CLOUDS or head is None:
        return
    cpus = mapping(head.get("resources")).get("CPU")
    if cpus != 0:
        yield Problem(
            f"available_node_types.{launcher.head}.resources.CPU",
            "0, for a head that runs no trials",
            repr(cpus),
            "write resources: {CPU: 0}",
        )


def _reclaimable_head(launcher: Launcher) -> Iterator[Problem]:
    head = launcher.node_types.get(launcher.head, {})
    for where, text in _markets(mapping(head.get("node_config"))):
        yield Problem(
            f"available_node_types.{launcher.head}.node_config.{where}",
            "a head that is not reclaimed, since the cluster ends with it",
            text,
            "keep spot machines for workers",
        )


def _markets(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what makes a machine one that its cloud may take back."""
    if mapping(config.get("InstanceMarketOptions")).get("MarketType") == "spot":
        yield "InstanceMarketOptions.MarketType", "spot"
    scheduling = config.get("scheduling")
    for part in map(mapping, scheduling if isinstance(scheduling, list) else [scheduling]):
        if part.get("preemptible") is True:
            yield "scheduling", "preemptible"
        if part.get("provisioningModel") == "SPOT":
            yield "scheduling", "SPOT"
