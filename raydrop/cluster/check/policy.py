"""What may stand in a cluster file, by policies in the shape of the file; what is wrong with one.

A policy says what is allowed, and everything else is refused by name. So nothing is let through
because nobody thought of it. ``policy.yaml`` has the policies, and says how they are written.
"""

from __future__ import annotations

import difflib
import functools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from typing import Any, TypeAlias

import yaml  # type: ignore[import-untyped]

from raydrop.errors import visible

LONGEST = 300
"""Characters that are shown of a place or of what was found there."""

Said: TypeAlias = tuple[str, str, str]
"""What was expected, what was found, what to do."""
Rule: TypeAlias = Callable[[Any], Iterable[Said]]

RULES: dict[str, Rule] = {}
"""Rules for values, by the names that policies call them."""


@dataclass(frozen=True)
class Problem:
    """One thing to mend: where, by the path of its key or empty, what is right, and what to do."""

    where: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        """Return the sentence."""
        place = f"{_short(self.where)}: " if self.where else ""
        said = f"Expected {self.expected}, found {_short(self.found)}; {self.remedy}."
        return visible(place + said)


@functools.cache
def ray_version() -> str:
    """Return the version of Ray that is installed here."""
    return version("ray")


@functools.cache
def policies() -> dict[str, Any]:
    """Return every policy by its name in ``policy.yaml``."""
    text = resources.files(__package__).joinpath("policy.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text.replace("RAY_VERSION", ray_version()))
    return found


def rule(function: Rule) -> Rule:
    """Let policies call a rule by its name."""
    RULES[function.__name__] = function
    return function


def refused(value: Any, policy: Any, where: str = "") -> Iterator[Problem]:
    """Yield whatever a policy does not allow, and the keys that it needs and misses."""
    if value is None or policy == "any":
        return
    if isinstance(policy, str):
        yield from (Problem(where, *said) for said in RULES[policy](value))
    elif isinstance(policy, list):
        if not isinstance(value, list):
            yield Problem(where, "a list", shown(value), "write one")
            return
        for index, item in enumerate(value):
            yield from refused(item, policy[min(index, len(policy) - 1)], f"{where}[{index}]")
    elif "_rule" in policy:
        yield from refused(value, policy["_rule"], where)
    elif policy.keys() & {"_only", "_no"}:
        yield from (Problem(where, *said) for said in _only(value, policy))
    elif "_need" in policy and policy.keys() <= {"_need", "_empty", "_unless"}:
        return  # whatever it is, if it is there
    elif isinstance(value, dict):
        yield from _refused_keys(value, policy, where)
    else:
        yield Problem(where, "a mapping", shown(value), "write one")


def _only(value: Any, policy: Mapping[str, Any]) -> Iterator[Said]:
    if "_no" in policy:
        values, expected, remedy = [False, ""], policy["_no"], "remove it"
    else:
        values = policy["_only"]
        expected = " or ".join(map(shown, values))
        remedy = f"write {expected}"
    if not any(value == each and type(value) is type(each) for each in values):
        found = repr(value)
        yield policy.get("_expected", expected), found, policy.get("_remedy", remedy)


def _refused_keys(
    value: Mapping[Any, Any], policy: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    known = {key: inner for key, inner in policy.items() if not key.startswith("_")}
    known = {**dict.fromkeys(policy.get("_any", "").split(), "any"), **known}
    missing = set()
    for key, inner in known.items():
        need = inner.get("_need") if isinstance(inner, dict) else None
        if need and not given(value.get(inner.get("_unless"))):
            item = value.get(key)
            if item is None or not (inner.get("_empty") or given(item)):
                missing.add(key)
                found = f"none, so that {need}"
                yield Problem(_below(where, key), "this key", found, "write what you want there")
    for key, item in value.items():
        if key in missing:
            continue
        if key in known or "*" in known:
            yield from refused(item, known.get(key, known.get("*")), _below(where, key))
        elif item is not False:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
            remedy = f"did you mean {close[0]}" if close else "remove it"
            yield Problem(_below(where, key), "a key that is allowed there", repr(key), remedy)


# What stands in a file.


def shown(value: Any) -> str:
    """Return what stands somewhere as it is written there, if that is short."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else reprlib.repr(value)


def given(value: Any) -> bool:
    """Return whether a key has a value: not null, an empty text, list or mapping."""
    return value not in (None, "", [], {})


def mapping(value: Any) -> dict[Any, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else []


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every string in a nested value."""
    if isinstance(value, str):
        yield where, value
    inner = {_below(where, key): item for key, item in mapping(value).items()}
    for place, item in (
        inner | {f"{where}[{i}]": v for i, v in enumerate(sequence(value))}
    ).items():
        yield from texts(item, place)


def _below(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
