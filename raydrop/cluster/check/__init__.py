"""Cluster files, checked before a machine is paid for: what Ray accepts, and what we ask besides.

Nothing is asked of a cloud, and nothing is started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydrop.cluster.check.kuberay import is_kuberay, kuberay_problems
from raydrop.cluster.check.launcher import launcher_problems
from raydrop.cluster.check.problem import Problem, placeholders
from raydrop.cluster.check.versions import ray_version
from raydrop.errors import ConfigError

__all__ = ["Problem", "check_file", "ray_version"]


def check_file(path: Path, *, template: bool = False) -> list[Problem]:
    """Return what is wrong with a file for `ray up`, or with a RayJob or RayCluster of KubeRay.

    Args:
        path: Of the file.
        template: Whether placeholders are no problem.

    Returns:
        The problems in the order in which they are looked for; none if the file is sound.

    Raises:
        ConfigError: If it cannot be read, or describes no cluster.
    """
    documents = _read(path)
    kuberay = [document for document in documents if is_kuberay(document)]
    if kuberay:
        problems = [problem for each in kuberay for problem in kuberay_problems(each)]
    elif len(documents) == 1 and isinstance(documents[0], dict) and "provider" in documents[0]:
        problems = launcher_problems(documents[0])
    else:
        raise ConfigError(
            f"Expected a cluster in {path}, with a provider for `ray up` or with KubeRay's "
            "apiVersion ray.io/v1, found neither; start from cluster.yaml."
        )
    if not template:
        problems += [problem for each in documents for problem in placeholders(each)]
    return list(dict.fromkeys(problems))


def _read(path: Path) -> list[Any]:
    """Return the documents of a YAML file, of which none makes objects other than plain ones."""
    import yaml  # type: ignore[import-untyped]

    try:
        with path.open(encoding="utf-8") as file:
            return [each for each in yaml.safe_load_all(file) if each is not None]
    except OSError as error:
        raise ConfigError(
            f"Expected a cluster file at {path}, found: {error.strerror}; check the path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"Expected YAML in {path}, found that it cannot be read ({reason}); mend it there."
        ) from error
