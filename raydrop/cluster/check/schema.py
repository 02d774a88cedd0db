"""What Ray itself has against a file for `ray up`, without asking any cloud."""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raydrop.cluster.check.problem import Problem, mapping
from raydrop.cluster.check.versions import ray_version
from raydrop.errors import ConfigError, in_one_line


def schema_problems(config: dict[str, Any]) -> list[Problem]:
    """Return where a file departs from Ray's schema, or else what Ray's own checks say.

    Args:
        config: The file's content.

    Raises:
        ConfigError: If this Ray keeps its schema elsewhere.
    """
    import jsonschema  # type: ignore[import-untyped]

    validator = jsonschema.Draft7Validator(_schema())
    errors = sorted(
        validator.iter_errors(_before_defaults(config)), key=lambda each: each.json_path
    )
    problems = [problem for error in errors for problem in _schema_problem(error)]
    return problems or list(_own_checks(config))


def _schema() -> dict[str, Any]:
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    try:
        schema: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"Expected Ray {ray_version()} to have a schema at {path}, found: {error.strerror}; "
            "install the Ray that raydrop asks for."
        ) from error
    return schema


def _before_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what Ray takes from a file before it applies its schema."""
    if mapping(config.get("provider")).get("type") != "local":
        return config
    return {key: value for key, value in config.items() if key != "min_workers"}


def _schema_problem(error: Any) -> Iterator[Problem]:
    where = error.json_path.removeprefix("$").removeprefix(".")
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for name in sorted(set(map(str, error.instance)) - set(known)):
            place = f"{where}.{name}" if where else name
            yield Problem(place, "a key that Ray knows", repr(name), _nearest(name, known))
    elif error.validator == "required":
        yield Problem(where, "every key that Ray requires", error.message, "add it")
    else:
        yield Problem(where, "what Ray's schema allows", error.message, "change it")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}" if close else "remove it"


def _own_checks(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield what Ray says against the file together with its defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        # Ray prints the reason of what it raises.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:
        found = said.getvalue().strip().splitlines()
        reason = found[-1] if found else in_one_line(error)
        yield Problem("", "a file that Ray accepts", reason.rstrip("."), "change it")
