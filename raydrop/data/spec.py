"""The text that names a data set: ``digits+long_tail(10)+label_noise(0.2, seed=1)``.

A specification is a data set, for some followed by ``:PATH``, and then variants in the order in
which they apply. It is read from its right end, so that a path may hold ``+`` and parentheses; only
a path that itself ends like a variant needs a ``/`` after it.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from raydrop.data.variants import VARIANTS, Variant
from raydrop.errors import ConfigError, unknown_name

_LAST_VARIANT = re.compile(r"(?P<rest>.*)\+\s*(?P<name>[A-Za-z_]\w*)\s*\((?P<arguments>[^()]*)\)")


@dataclass(frozen=True)
class DatasetSpec:
    """A specification taken apart; its text is the canonical form."""

    name: str
    """Registered name of the data set."""
    path: str | None
    """What follows the colon, where there is one."""
    variants: tuple[Variant, ...]
    """What is done to the data set, in this order."""

    @property
    def base(self) -> str:
        """The data set without variants, such as ``digits`` or ``imagefolder:photos``."""
        return self.name if self.path is None else f"{self.name}:{self.path}"

    def __str__(self) -> str:
        return "+".join([self.base, *map(str, self.variants)])


def parse_spec(text: str) -> DatasetSpec:
    """Take a specification apart.

    Args:
        text: Such as ``digits+subset(20)``; spaces around names and numbers do not matter.

    Raises:
        ConfigError: If a variant is unknown or its arguments do not fit.

    Example:
        >>> str(parse_spec("digits + long_tail(10.0) + label_noise(0.20, seed=0)"))
        'digits+long_tail(10)+label_noise(0.2)'
    """
    base, variants = text.strip(), list[Variant]()
    while match := _LAST_VARIANT.fullmatch(base):
        variants.insert(0, _variant(match["name"], match["arguments"]))
        base = match["rest"].strip()
    name, colon, path = base.partition(":")
    if "+" in name:
        raise ConfigError(
            f"Expected variants as +name(arguments), found {name[name.index('+') :]!r}; "
            f"write for example +{VARIANTS['long_tail'].example}."
        )
    return DatasetSpec(name.strip(), path.strip() if colon else None, tuple(variants))


def _variant(name: str, text: str) -> Variant:
    if name not in VARIANTS:
        raise unknown_name("variant", name, VARIANTS)
    variant = VARIANTS[name]
    arguments, named = list[float](), dict[str, float]()
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.rpartition("=")
        if equals:
            named[key.strip()] = _parse_number(name, value)
        else:
            arguments.append(_parse_number(name, value))
    try:
        inspect.signature(variant).bind(*arguments, **named)
    except TypeError as error:
        raise ConfigError(
            f"Expected {name} with arguments such as +{variant.example}, found {name}({text}) "
            f"({error}); correct them."
        ) from error
    return variant(*arguments, **named)  # type: ignore[arg-type]


def _parse_number(variant: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(
            f"Expected numbers in {variant}(...), found {text.strip()!r}; "
            f"write for example +{VARIANTS[variant].example}."
        ) from error
    return int(number) if number.is_integer() else number
