"""What is wrong with a cluster file, and what may stand in one.

A policy is a tree in the shape of the file: it says what is allowed, and everything else is
refused by name. So nothing is let through because nobody thought of it.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from raydrop.errors import visible

ANY = None
"""The policy of what may stand there whatever it is."""
LONGEST = 300
"""Characters that are shown of a place or of what was found there."""

Said: TypeAlias = tuple[str, str, str]
"""What was expected, what was found, what to do."""
Policy: TypeAlias = (
    "Need | Mapping[str, Policy] | list[Policy] | Callable[[Any], Iterable[Said]] | None"
)
"""Keys of a mapping, ``*`` standing for any; items of a list, of which the last stands for all that
follow; a rule for a value; or `ANY`."""


@dataclass(frozen=True)
class Problem:
    """One thing to mend, said in a sentence."""

    where: str
    """Path of the key, such as ``provider.region``; empty for the file as a whole."""
    expected: str
    """What should stand there."""
    found: str
    """What does."""
    remedy: str
    """What to do."""
    left_to_fill: bool = False
    """Whether it is a placeholder that only its owner can replace."""

    def __str__(self) -> str:
        """Return the sentence."""
        place = f"{_short(self.where)}: " if self.where else ""
        return visible(
            f"{place}Expected {self.expected}, found {_short(self.found)}; {self.remedy}."
        )


@dataclass(frozen=True)
class Need:
    """A key that has to be there, since what happens without is a hazard."""

    without: str
    """What happens without."""
    policy: Policy = ANY
    """What may stand there."""
    empty: bool = False
    """Whether a list or a mapping without anything will do."""
    unless: str = ""
    """Key beside it that takes its place."""


def refused(value: Any, policy: Policy, where: str = "") -> Iterator[Problem]:
    """Yield whatever a policy does not allow, and the keys that it needs and misses."""
    policy = policy.policy if isinstance(policy, Need) else policy
    if value is None or policy is ANY:
        return
    if isinstance(policy, Mapping):
        yield from _refused_keys(value, policy, where)
    elif callable(policy):
        yield from (Problem(where, *said) for said in policy(value))
    elif isinstance(policy, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from refused(item, policy[min(index, len(policy) - 1)], f"{where}[{index}]")
    else:
        yield Problem(where, "a list", shown(value), "write one")


def _refused_keys(value: Any, policy: Mapping[str, Policy], where: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(where, "a mapping", shown(value), "write one")
        return
    missing = set()
    for key, inner in policy.items():
        if isinstance(inner, Need) and not given(value.get(inner.unless)):
            item = value.get(key)
            if item is None or not (inner.empty or given(item)):
                missing.add(key)
                found = f"none, so that {inner.without}"
                yield Problem(_below(where, key), "this key", found, "write what you want there")
    for key, item in value.items():
        place = _below(where, key)
        if key in policy or "*" in policy:
            yield from (
                () if key in missing else refused(item, policy.get(key, policy.get("*")), place)
            )
        elif item is not False:
            close = difflib.get_close_matches(str(key), policy, n=1, cutoff=0.8)
            remedy = f"did you mean {close[0]}" if close else "remove it"
            yield Problem(place, "a key that is allowed there", repr(key), remedy)


def only(*values: Any, expected: str = "", remedy: str = "") -> Policy:
    """Return the policy of a key that has one of a few values, or none."""
    listed = " or ".join(map(shown, values))

    def rule(value: Any) -> Iterator[Said]:
        if not any(value == each and type(value) is type(each) for each in values):
            yield expected or listed, repr(value), remedy or f"write {listed}"

    return rule


def no(expected: str, remedy: str = "remove it") -> Policy:
    """Return the policy of a key that is refused with a reason of its own, unless it is false."""
    return only(False, "", expected=expected, remedy=remedy)


def any_of(keys: str) -> dict[str, Policy]:
    """Return the policy of keys, separated by spaces, at which anything may stand."""
    return dict.fromkeys(keys.split(), ANY)


def shown(value: Any) -> str:
    """Return what stands somewhere as it is written there, if that is short."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else reprlib.repr(value)


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
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, _below(where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, f"{where}[{index}]")


def given(value: Any) -> bool:
    """Return whether a key has a value: not null, an empty text, list or mapping."""
    return value is not None and value != "" and value != [] and value != {}


def _below(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
