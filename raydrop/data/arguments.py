"""What specifications write as ``name(arguments)``, such as ``label_noise(0.2, seed=1)``."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import ClassVar, NoReturn, TypeVar

from raydrop.errors import ConfigError
from raydrop.study.catalogue import parse_arguments, value_text


class Called:
    """Numbers with a name; its subclasses are frozen dataclasses, and their text is canonical."""

    kind: ClassVar[str]
    """The name that specifications use."""
    example: ClassVar[str]
    """How a specification writes it."""

    def __str__(self) -> str:
        """Required numbers stand by place, the others by name, where they are not the default."""
        written = list[str]()
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if isinstance(value, tuple):
                written += [f"{name}={value_text(number)}" for name, number in value]
            elif each.default is dataclasses.MISSING:
                written.append(value_text(value))
            elif value != each.default:
                written.append(f"{each.name}={value_text(value)}")
        return f"{self.kind}({', '.join(written)})" if written else self.kind

    def refuse(self, expected: str, found: object, advice: str = "") -> NoReturn:
        """Raise for an argument that does not fit."""
        advice = advice or f"write for example {self.example}"
        raise ConfigError(f"Expected {expected} in {self.kind}, found {found}; {advice}.")

    def check_number(self, name: str, value: object) -> float:
        """Return a value, unless it is no finite number."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):  # type: ignore[arg-type]
            self.refuse(f"a finite number for {name}", repr(value))
        return value  # type: ignore[return-value]

    def check_share(self, name: str, value: object, noun: str = "", advice: str = "") -> None:
        """Refuse what is no number from 0 to 1; messages call it by a noun, or a share for it."""
        number = self.check_number(name, value)
        if not 0 <= number <= 1:
            expected = f"a {noun} from 0 to 1" if noun else f"a share from 0 to 1 for {name}"
            self.refuse(expected, value_text(number), advice)

    def make_whole(self, name: str, least: int) -> None:
        """Turn a field into an integer, unless it is none or less than that."""
        number = self.check_number(name, getattr(self, name))
        if number != int(number) or number < least:
            self.refuse(f"a whole number of at least {least} for {name}", f"{number:g}")
        object.__setattr__(self, name, int(number))


Made = TypeVar("Made", bound=Called)


def called(kind: type[Made], text: str) -> Made:
    """Return what the text between the parentheses makes.

    Example:
        >>> from raydrop.data.variants import VARIANTS
        >>> str(called(VARIANTS["label_noise"], "seed=1, rate=.20"))
        'label_noise(0.2, seed=1)'
    """
    places, named = list[float](), dict[str, float]()
    for key, value in parse_arguments(text):
        try:
            number = float(value)
        except ValueError as error:
            raise ConfigError(
                f"Expected numbers in {kind.kind}(...), found {value!r}; write for example "
                f"{kind.example}."
            ) from error
        number = int(number) if number.is_integer() else number
        if key is None:
            places.append(number)
        else:
            named[key] = number
    make: Callable[..., Made] = kind
    try:
        inspect.signature(make).bind(*places, **named)
    except TypeError as error:
        raise ConfigError(
            f"Expected {kind.kind} with arguments such as {kind.example}, found "
            f"{kind.kind}({text}) ({error}); correct them."
        ) from error
    return make(*places, **named)
