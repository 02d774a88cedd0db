"""What is wrong with a cluster file, and how its parts are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PLACEHOLDER = re.compile(r"FILL_IN\w*")


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
        place = f"{self.where}: " if self.where else ""
        return f"{place}Expected {self.expected}, found {self.found}; {self.remedy}."


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
            yield from texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, f"{where}[{index}]")


def placeholders(config: Any) -> Iterator[Problem]:
    """Yield every value that is left to fill in."""
    for where, text in texts(config):
        for name in dict.fromkeys(PLACEHOLDER.findall(text)):
            yield Problem(
                where, "a value of yours", name, "replace it before this file is used", True
            )


def given(value: Any) -> bool:
    """Return whether a key has a value: not null, an empty text, list or mapping."""
    return value is not None and value != "" and value != [] and value != {}
