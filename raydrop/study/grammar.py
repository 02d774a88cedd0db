"""Names with parameters, as search spaces write them: ``focal(2)`` is a family and its parameter.

The canonical text, which is part of a trial's identity, spells out every parameter in order, so a
trial means the same whatever a later version takes for a default. Parameters that are *named* stand
in it only where they differ from their default, as ``pw(0.5, 1, labels=hard)``: they are the
variants of a published form, whose own name stays short.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from raydrop.errors import ConfigError, unknown_name

_CALL = re.compile(r"\s*(?P<name>\w+)\s*(\((?P<arguments>[^()]*)\))?\s*")

Value = float | str
"""Of a parameter: a number, or one of the words that it accepts."""

Built = TypeVar("Built")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a family."""

    name: str
    """What it is called, as in ``focal(gamma=2)``."""
    default: Value
    """What it is when left out."""
    least: float = 0.0
    """Smallest number that it may be."""
    below: float = math.inf
    """Number that it has to be less than."""
    words: tuple[str, ...] = ()
    """Words that stand for something else than a number."""
    numeric: bool = True
    """Whether it may be a number; otherwise it is one of :attr:`words`."""
    whole: bool = False
    """Whether numbers have to be whole."""
    named: bool = False
    """Whether it is written with its name, and only where it differs from its default."""
    most: float = math.inf
    """Largest number that it may be."""

    def parse(self, family: str, text: str) -> Value:
        """Return the value that a text writes.

        Raises:
            ConfigError: If it is neither a number within bounds nor one of the words.
        """
        word = text.strip()
        if word in self.words:
            return word
        try:
            number = float(word) if self.numeric else math.nan
        except ValueError:
            number = math.nan
        inside = self.least <= number < self.below and number <= self.most
        if not inside or (self.whole and number != int(number)):
            value = value_text(self.default)
            raise ConfigError(
                f"Expected {self.name} of {family} to be {self._expected}, found {word!r}; write "
                f"for example {family}({f'{self.name}={value}' if self.named else value})."
            )
        return number

    @property
    def _expected(self) -> str:
        words = " or ".join(repr(each) for each in self.words)
        if not self.numeric:
            return words
        upper = "" if math.isinf(self.below) else f" and less than {self.below:g}"
        upper += "" if math.isinf(self.most) else f" and at most {self.most:g}"
        kind = "a whole number" if self.whole else "a finite number"
        return f"{kind} of at least {self.least:g}{upper}{f' or {words}' if words else ''}"


@dataclass(frozen=True)
class Family(Generic[Built]):
    """Losses or methods of one formula, with what ``raydrop methods`` says of them."""

    name: str
    build: Callable[..., Built]
    """Makes one from what its users give and a keyword argument for each parameter."""
    summary: str
    citation: str
    parameters: tuple[Parameter, ...] = ()
    """In the order in which they are written."""

    @property
    def usage(self) -> str:
        """How a search space writes it, with its default parameters."""
        return self.rule([]).name

    def rule(self, arguments: list[tuple[str | None, str]]) -> Rule[Built]:
        """Return the family with some parameters given and the others at their defaults.

        Args:
            arguments: Name (None where it goes by its place) and text of each, as written.

        Raises:
            ConfigError: If there are too many, one is given twice or unknown, or a value is out of
                range.
        """
        names = [parameter.name for parameter in self.parameters]
        given: dict[str, str] = {}
        for place, (name, text) in enumerate(arguments):
            if name is None and place >= len(names):
                raise ConfigError(
                    f"Expected {self.name} as in {self.usage}, found {len(arguments)} parameters; "
                    "leave out what is too much."
                )
            key = names[place] if name is None else name
            if key not in names:
                raise unknown_name(f"parameter of {self.name}", key, names)
            if key in given:
                raise ConfigError(
                    f"Expected each parameter of {self.name} once, found {key} twice; "
                    f"write for example {self.usage}."
                )
            given[key] = text
        return Rule(
            self,
            {
                each.name: each.parse(self.name, given[each.name])
                if each.name in given
                else each.default
                for each in self.parameters
            },
        )


@dataclass(frozen=True)
class Rule(Generic[Built]):
    """A family with all its parameters; an axis of a study names such ones."""

    family: Family[Built]
    values: Mapping[str, Value] = field(default_factory=dict)
    """Value of every parameter, in the family's order."""

    @property
    def name(self) -> str:
        """The canonical text, such as ``focal(2)``."""
        written = [
            f"{each.name}={value_text(value)}" if each.named else value_text(value)
            for each, value in zip(self.family.parameters, self.values.values(), strict=True)
            if not each.named or value != each.default
        ]
        return f"{self.family.name}({', '.join(written)})" if written else self.family.name

    def make(self, *given: Any) -> Built:
        """Return what the family builds from what is given and the parameters."""
        return self.family.build(*given, **self.values)


def rule_of(text: str, kind: str, families: Mapping[str, Family[Built]]) -> Rule[Built]:
    """Return what a text such as ``focal(2)`` names, its parameters spelled out.

    Args:
        text: A name, or a name with parameters.
        kind: What it is, such as ``"loss"``, for messages.
        families: Those that may be named.

    Raises:
        ConfigError: If there is none, in which case the message lists the nearest names, or if its
            parameters do not fit.
    """
    name, arguments = parse_call(text, kind)
    if name not in families:
        raise unknown_name(kind, name, families)
    return families[name].rule(arguments)


def parse_call(text: str, kind: str = "loss") -> tuple[str, list[tuple[str | None, str]]]:
    """Take ``name(value, key=value)`` apart.

    Returns:
        The name, and the key (or None) and text of each argument.

    Raises:
        ConfigError: If it is of another form.

    Example:
        >>> parse_call("ldam_drw(0.3, scale = 10)")
        ('ldam_drw', [(None, '0.3'), ('scale', '10')])
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"Expected a {kind} as name or name(value), found {text!r}; write for example "
            f"{'focal(2)' if kind == 'loss' else 'name(2)'}."
        )
    arguments = list[tuple[str | None, str]]()
    for part in filter(None, map(str.strip, (match["arguments"] or "").split(","))):
        key, equals, value = part.rpartition("=")
        arguments.append((key.strip() if equals else None, value.strip()))
    return match["name"], arguments


def value_text(value: Value) -> str:
    """Return the shortest text of a value: ``2`` for 2.0, ``0.5`` for 0.50."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))
