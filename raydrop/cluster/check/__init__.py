"""Cluster files, checked before a machine is paid for: what Ray accepts, and what we ask besides.

``policy.yaml`` says what may stand where, ``rules`` what no table can. Nothing is asked of a cloud,
and nothing is started.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from raydrop.cluster.check.policy import (
    Problem,
    given,
    mapping,
    policies,
    refused,
    sequence,
    texts,
)
from raydrop.cluster.check.policy import (
    ray_version as ray_version,
)
from raydrop.cluster.check.rules import installed_rays, open_doors, python_problems
from raydrop.errors import ConfigError, in_one_line, visible
from raydrop.store.files import read_regular

PLACEHOLDER = re.compile(r"FILL_IN\w*")
KINDS = ("RayJob", "RayCluster")
BESIDE = ("PersistentVolumeClaim", "NetworkPolicy")
"""Kinds that let nothing in, and start nothing."""
MOST_BYTES = 2**18
MOST_NODES = 10_000
"""Keys and values of a file, with what stands in for others by an alias."""
MOST_LEVELS = 50
TOKEN_FILE = re.compile(r"(^|/)auth_token$|(^|/)\.ray/?$")
TOKEN_MODE = "RAY_AUTH_MODE=token"
NO_CPUS = re.compile(r"--num-cpus(?:=|\s+)['\"]?0(?![\d.])")


def check_file(path: Path, *, template: bool = False) -> list[Problem]:
    """Return what is wrong with a file for `ray up` or KubeRay, in the order in which it is found.

    In a ``template``, placeholders are no problem. A ConfigError is raised where a file cannot be
    read, or describes no cluster.
    """
    found = documents(path)
    if any(map(_is_kuberay, found)):
        check = kuberay_problems
    elif len(found) == 1 and "provider" in mapping(found[0]):
        check = launcher_problems
    else:
        raise ConfigError(
            f"Expected a cluster in {visible(path)}, with a provider for `ray up` or with "
            "KubeRay's apiVersion ray.io/v1, found neither; start from cluster.yaml."
        )
    problems: list[Problem] = []
    for number, each in enumerate(found, 1):
        own = [*check(each), *([] if template else _placeholders(each))]
        if len(found) > 1:
            own = [dataclasses.replace(p, where=f"document {number}: {p.where}") for p in own]
        problems += own
    return list(dict.fromkeys(problems))


def _placeholders(config: Any) -> Iterator[Problem]:
    for where, text in texts(config):
        for name in dict.fromkeys(PLACEHOLDER.findall(text)):
            yield Problem(where, "a value of yours", name, "replace it before this file is used")


# Files for KubeRay.


def _is_kuberay(config: Any) -> bool:
    return str(mapping(config).get("apiVersion", "")).startswith("ray.io/")


def kuberay_problems(config: Any) -> Iterator[Problem]:
    """Yield what is wrong with a document of a file for KubeRay."""
    kind, of_ray = mapping(config).get("kind"), _is_kuberay(config)
    if not of_ray and kind in BESIDE:
        yield from open_doors(config)
    elif not of_ray or kind not in KINDS:
        beside = "" if of_ray else f", beside them {' or '.join(BESIDE)}"
        remedy = "name one of them" if of_ray else "keep it in a file of its own"
        yield Problem("kind", f"one of {', '.join(KINDS)}{beside}", repr(kind), remedy)
    else:
        yield from refused(config, policies()[kind])
        for where, text in texts(config):
            if text.lower() == "unconfined":
                yield Problem(where, "pods that are confined", text, "remove it")
        yield from python_problems(config)
        # The head's service has to reach the dashboard, so it may listen on the pod's address.
        doors = open_doors(config)
        yield from (p for p in doors if not p.where.endswith("rayStartParams.dashboard-host"))


# Files for `ray up`.


def launcher_policy(config: dict[str, Any]) -> dict[str, Any]:
    """Return what may, and what must, stand in a file for `ray up` whose provider is known."""
    every, provider = policies(), config["provider"]["type"]
    policy = {**every["up"], "provider": every["providers"][provider]}
    node = {**every["node"], "node_config": every["nodes"][provider]}
    head_config = {**every["nodes"][provider], **every["heads"][provider]}
    head = {**node, **every["head"], "node_config": head_config}
    name = str(config.get("head_node_type"))
    # Policies use such names for themselves: then every machine is looked at as the head.
    own = {"*": head} if name.startswith("_") else {"*": node, name: head}
    types: Any = {**policy["available_node_types"], **own}
    if provider == "local":
        policy |= dict.fromkeys(("max_workers", "head_node_type"), "any")
        types, policy["auth"] = "any", {**policy["auth"], "ssh_private_key": "one_word"}
    if not given(config.get("docker")):
        policy["docker"] = "any"
    return {**policy, "available_node_types": types}


def launcher_problems(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the content of a file for `ray up`."""
    provider, known = mapping(config.get("provider")).get("type"), policies()["providers"]
    if not isinstance(provider, str) or provider not in known:
        remedy = "name one of them; of other providers raydrop does not know the defaults"
        found = "none" if provider is None else repr(provider)
        yield Problem("provider.type", f"one of {', '.join(known)}", found, remedy)
        return
    problems = [
        *refused(config, launcher_policy(config)),
        *python_problems(config),
        *_absent(config),
        *_starts(config),
        *open_doors(config),
    ]
    yield from problems or _own_checks(config)  # which say less, and nothing of where


def _absent(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is said nowhere in a file: which Ray the nodes run, and where the token is."""
    said = [text for _, text in texts(config)]
    if not given(config.get("docker")) and not any(map(installed_rays, said)):
        expected = "an image or a command that says which Ray the nodes run"
        remedy = "install it there as 'ray[default]==VERSION', or use docker"
        yield Problem("setup_commands", expected, "neither", remedy)
    mounted = map(str, mapping(config.get("file_mounts")))
    if not any(map(TOKEN_FILE.search, mounted)) and "RAY_AUTH_TOKEN_PATH=" not in "\n".join(said):
        token = "~/.ray/auth_token"
        remedy = f"add {token}: {token} (`ray get-auth-token --generate` makes one)"
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


# YAML of others: plain values alone, of a size, a depth and a number that are bounded.


class _Loader(yaml.SafeLoader):
    """Refuses what would take for ever, or be read as something else by Kubernetes or by eye."""

    nodes = 0
    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias, before = self.check_event(yaml.AliasEvent), self.nodes
        self.level += 1
        if self.level > MOST_LEVELS:
            raise yaml.YAMLError(f"more than {MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.level -= 1
        if not alias:
            self.nodes += 1
            node.nodes = self.nodes - before
        elif hasattr(node, "nodes"):
            self.nodes += node.nodes
        else:
            raise yaml.YAMLError("an alias for what it stands in")
        if self.nodes > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES} keys and values")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} twice")
            seen.add(key.value if isinstance(key.value, str) else None)
        return node


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file, of which none makes objects other than plain ones.

    A ConfigError is raised if it cannot be read, or is larger or deeper than a cluster file can be.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode()
        return [each for each in yaml.load_all(text, _Loader) if each is not None]
    except OSError as error:
        raise ConfigError(
            f"Expected a cluster file at {visible(path)}, found: {error.strerror}; check the path."
        ) from error
    except Exception as error:  # values such as `!!int x` end in errors of every kind
        reason = visible(" ".join(str(error).split()))[:500]
        raise ConfigError(
            f"Expected YAML in {visible(path)}, found that it cannot be read ({reason}); "
            "mend it there."
        ) from error
