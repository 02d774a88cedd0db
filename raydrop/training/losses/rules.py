"""Losses by name: ``focal(2)`` is a family, ``focal``, with its parameter.

The canonical text, which is part of a trial's identity, spells out every parameter in order, so a
trial means the same whatever a later version takes for a default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raydrop.errors import ConfigError, unknown_name
from raydrop.training.losses.base import Loss, LossContext

_CALL = re.compile(r"\s*(?P<name>\w+)\s*(\((?P<arguments>[^()]*)\))?\s*")

Value = float | str
"""Of a parameter: a number, or one of the words that it accepts."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a family of losses."""

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

    def parse(self, family: str, text: str) -> Value:
        """Return the value that a text writes.

        Raises:
            ConfigError: If it is neither a number within bounds nor one of the words.
        """
        word = text.strip()
        if word in self.words:
            return word
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not self.least <= number < self.below:
            upper = "" if math.isinf(self.below) else f" and less than {self.below:g}"
            words = "".join(f" or {each!r}" for each in self.words)
            raise ConfigError(
                f"Expected {self.name} of {family} to be a finite number of at least "
                f"{self.least:g}{upper}{words}, found {word!r}; write for example "
                f"{family}({value_text(self.default)})."
            )
        return number


@dataclass(frozen=True)
class LossFamily:
    """Losses of one formula, with what ``raydrop methods`` says of them."""

    name: str
    build: Callable[..., Loss]
    """Makes a loss from a :class:`LossContext` and a keyword argument for each parameter."""
    summary: str
    citation: str
    parameters: tuple[Parameter, ...] = ()
    """In the order in which they are written."""

    @property
    def usage(self) -> str:
        """How a search space writes it, with its default parameters."""
        return self.rule([]).name

    def rule(self, arguments: list[tuple[str | None, str]]) -> LossRule:
        """Return the loss with some parameters given and the others at their defaults.

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
        return LossRule(
            self,
            {
                each.name: each.parse(self.name, given[each.name])
                if each.name in given
                else each.default
                for each in self.parameters
            },
        )


@dataclass(frozen=True)
class LossRule:
    """A loss with all its parameters; a study's ``loss`` axis names such ones."""

    family: LossFamily
    values: Mapping[str, Value] = field(default_factory=dict)
    """Value of every parameter, in the family's order."""

    @property
    def name(self) -> str:
        """The canonical text, such as ``focal(2)``."""
        if not self.values:
            return self.family.name
        return f"{self.family.name}({', '.join(map(value_text, self.values.values()))})"

    def make(self, context: LossContext) -> Loss:
        """Return the loss for one training."""
        return self.family.build(context, **self.values)


def parse_call(text: str) -> tuple[str, list[tuple[str | None, str]]]:
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
            f"Expected a loss as name or name(value), found {text!r}; write for example focal(2)."
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
