"""Cluster files, checked before a machine is paid for: what Ray accepts, and what we ask besides.

Nothing is asked of a cloud, and nothing is started.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydrop.cluster.check.kuberay import is_kuberay, kuberay_problems
from raydrop.cluster.check.launcher import launcher_problems
from raydrop.cluster.check.problem import Problem, texts
from raydrop.cluster.check.reading import documents
from raydrop.cluster.check.versions import ray_version
from raydrop.errors import ConfigError, visible

__all__ = ["Problem", "check_file", "ray_version"]

PLACEHOLDER = re.compile(r"FILL_IN\w*")


def check_file(path: Path, *, template: bool = False) -> list[Problem]:
    """Return what is wrong with a file for `ray up`, or with one of KubeRay.

    Args:
        path: Of the file.
        template: Whether placeholders are no problem.

    Returns:
        The problems in the order in which they are looked for; none if the file is sound.

    Raises:
        ConfigError: If it cannot be read, or describes no cluster.
    """
    found = documents(path)
    if any(map(is_kuberay, found)):
        check = kuberay_problems
    elif len(found) == 1 and isinstance(found[0], dict) and "provider" in found[0]:
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
    """Yield every value that is left to fill in."""
    for where, text in texts(config):
        for name in dict.fromkeys(PLACEHOLDER.findall(text)):
            remedy = "replace it before this file is used"
            yield Problem(where, "a value of yours", name, remedy, left_to_fill=True)
