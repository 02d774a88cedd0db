"""The text that names a data set: ``digits+long_tail(10)+label_noise(0.2, seed=1)``.

A specification is a data set, for some followed by ``:PATH``, for some by ``?key=value&key=value``,
and then variants in the order in which they apply. It is read from its right end, so that a path
may hold ``+`` and parentheses; only a path that itself ends like a variant needs a ``/`` after it,
and one that holds ``?`` before options could follow needs a ``?`` after it. What follows a ``?`` of
an ``imagefolder`` belongs to the path, often a URL, unless it is one of its options.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from raydrop.data.loaders.fitzpatrick import Options as FitzpatrickOptions
from raydrop.data.loaders.gaussians import Gaussians
from raydrop.data.loaders.metadata import Options as MetadataOptions
from raydrop.data.variants import VARIANTS, Variant
from raydrop.errors import ConfigError, unknown_name

OPTIONS: dict[str, dict[str, str]] = {
    "imagefolder": {"flip": "off"},
    "metadata": dataclasses.asdict(MetadataOptions()),
    "celeba": {"target": "Blond_Hair", "group": "Male"},
    "fitzpatrick17k": dataclasses.asdict(FitzpatrickOptions()),
}
"""Data sets that take options: name to each option's key and default."""

_Value = TypeVar("_Value")
_GAUSSIANS = re.compile(r"(?P<name>gaussians)\s*(?:\((?P<arguments>[^()]*)\))?")
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
    options: tuple[tuple[str, str], ...] = ()
    """Keys and values that differ from :data:`OPTIONS`, in the order of that table."""
    drawn: Gaussians | None = None
    """What to draw, where the data set is drawn rather than read: ``gaussians(...)``."""

    @property
    def base(self) -> str:
        """The data set without variants, such as ``digits`` or ``imagefolder:photos``."""
        if self.drawn is not None:
            return str(self.drawn)
        path = "" if self.path is None else f":{self.path}"
        options = "&".join(f"{key}={value}" for key, value in self.options)
        needs_mark = options or _split_options(self.name, path) != (path, "")
        return f"{self.name}{path}{'?' if needs_mark else ''}{options}"

    def option_values(self) -> dict[str, str]:
        """Return the value of every option that the data set takes, defaults included."""
        return {**OPTIONS.get(self.name, {}), **dict(self.options)}

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
    if call := _GAUSSIANS.fullmatch(base):
        drawn = _called(Gaussians, call["name"], call["arguments"] or "", Gaussians.example)
        return DatasetSpec(call["name"], None, tuple(variants), drawn=drawn)
    name, path, options = _take_apart(base)
    if "+" in name:
        raise ConfigError(
            f"Expected variants as +name(arguments), found {name[name.index('+') :]!r}; "
            f"write for example +{VARIANTS['long_tail'].example}."
        )
    return DatasetSpec(name, path, tuple(variants), options)


def _take_apart(base: str) -> tuple[str, str | None, tuple[tuple[str, str], ...]]:
    """Return name, path and options of a data set without variants."""
    end = min(at for at in (base.find(":"), base.find("?"), len(base)) if at >= 0)
    name = base[:end].strip()
    rest, options = _split_options(name, base[end:])
    if rest.startswith("?"):
        raise ConfigError(
            f"Expected ?key=value only after {' or '.join(sorted(OPTIONS))}, found {base!r}; "
            "remove what follows the question mark or correct the name."
        )
    return name, rest[1:].strip() if rest else None, _options(name, options)


def _split_options(name: str, rest: str) -> tuple[str, str]:
    """Return what follows a data set's name without its options, and these."""
    path, mark, options = rest.rpartition("?")
    keys = {part.partition("=")[0].strip() for part in options.split("&")} - {""}
    if not mark or name not in OPTIONS or (name == "imagefolder" and not keys <= {*OPTIONS[name]}):
        return rest, ""
    return path, options


def _options(name: str, text: str) -> tuple[tuple[str, str], ...]:
    given = dict[str, str]()
    for part in filter(None, map(str.strip, text.split("&"))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in OPTIONS[name]:
            raise unknown_name(f"option of {name}", key, OPTIONS[name])
        if not value or key in given:
            raise ConfigError(
                f"Expected each option of {name} once as key=value, found {text!r}; "
                f"write for example ?{key}={OPTIONS[name][key]}."
            )
        given[key] = value
    return tuple(
        (key, given[key])
        for key, default in OPTIONS.get(name, {}).items()
        if given.get(key, default) != default
    )


def _variant(name: str, text: str) -> Variant:
    if name not in VARIANTS:
        raise unknown_name("variant", name, VARIANTS)
    kind: Callable[..., Variant] = VARIANTS[name]
    return _called(kind, name, text, f"+{VARIANTS[name].example}")


def _called(kind: Callable[..., _Value], name: str, text: str, example: str) -> _Value:
    """Return a value of some kind from the numbers between its parentheses."""
    arguments, named = list[float](), dict[str, float]()
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.rpartition("=")
        if equals:
            named[key.strip()] = _parse_number(name, value, example)
        else:
            arguments.append(_parse_number(name, value, example))
    try:
        inspect.signature(kind).bind(*arguments, **named)
    except TypeError as error:
        raise ConfigError(
            f"Expected {name} with arguments such as {example}, found {name}({text}) "
            f"({error}); correct them."
        ) from error
    return kind(*arguments, **named)


def _parse_number(name: str, text: str, example: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(
            f"Expected numbers in {name}(...), found {text.strip()!r}; write for example {example}."
        ) from error
    return int(number) if number.is_integer() else number
