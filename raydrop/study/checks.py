"""What the fields of a specification may be: each check returns the value as it is to be kept."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from raydrop.errors import ConfigError, unknown_name

Check = Callable[[str, Any], Any]
"""From a field's name and its plain value to what is kept, or a :class:`ConfigError`."""

_MOST = 2**63 - 1


def setting(check: Any, default: Any) -> Any:
    """Return a field of a dataclass whose values pass a check, or are among those of a ``Literal``.

    Where the default is None, it may be None.
    """
    check = one_of(check) if get_args(check) else check
    return dataclasses.field(
        default=default, metadata={"check": optional(check) if default is None else check}
    )


def conform(specification: Any, **checks: Check) -> None:
    """Have every field of a frozen dataclass hold a plain value that passes its check."""
    for each in dataclasses.fields(specification):
        value = plain(getattr(specification, each.name))
        check = checks.get(each.name, each.metadata.get("check"))
        value = value if check is None else check(each.name, value)
        object.__setattr__(specification, each.name, value)


def plain(value: Any) -> Any:
    """Return the Python values that those of NumPy, pandas and torch stand for, also within others.

    Scalars and arrays without dimensions become the number, the flag or the text that they are, and
    one-dimensional arrays become lists. A number of less than double precision becomes the shortest
    one that it prints as, so that ``numpy.float32(0.3)`` is 0.3. What is none of these stays.

    Example:
        >>> plain({"keep_fraction": [0.5, True], "method": ("random",)})
        {'keep_fraction': [0.5, True], 'method': ('random',)}
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or len(shape) > 1:
        return value
    if shape:
        return list(map(plain, value))
    import numpy as np  # which is loaded, as there is such a value

    try:
        found = np.asarray(value)[()]
    except (RuntimeError, TypeError, ValueError):  # on a GPU, or of a kind that NumPy lacks
        return value
    if isinstance(found, np.floating) and not isinstance(found, float):
        return float(str(found))
    return found.item() if isinstance(found, np.bool_ | np.number | np.str_) else value


def number(name: str, value: Any) -> float:
    """Accept a finite number."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not abs(value) <= sys.float_info.max:
        raise ConfigError(f"Expected a number for {name}, found {value!r}; give a finite number.")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Accept True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"Expected True or False for {name}, found {value!r}; give one of them.")
    return value


def text(name: str, value: Any) -> str:
    """Accept a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"Expected a text for {name}, found {value!r}; name one.")
    return value


def between(low: float, high: float) -> Check:
    """Accept numbers from ``low`` to ``high``."""

    def check(name: str, value: Any) -> float:
        if not low <= (found := number(name, value)) <= high:
            raise ConfigError(
                f"Expected {name} between {low:g} and {high:g}, found {value}; stay within."
            )
        return found

    return check


def whole(least: int) -> Check:
    """Accept whole numbers from ``least`` on."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, int) and value > _MOST:
            raise ConfigError(
                f"Expected {name} to be below 2^63, found more; give a smaller number."
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(
                f"Expected {name} to be a whole number of at least {least}, found {value!r}; "
                "give such a number."
            )
        return value

    return check


def one_of(literal: Any) -> Check:
    """Accept the texts of a ``Literal``."""

    def check(name: str, value: Any) -> Any:
        if value not in get_args(literal):
            raise unknown_name(name, value, get_args(literal))
        return value

    return check


def each_of(check: Check) -> Check:
    """Accept several values that pass a check, and keep them as a tuple."""

    def check_all(name: str, values: Any) -> tuple[Any, ...]:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ConfigError(f"Expected a list for {name}, found {values!r}; write [{values!r}].")
        return tuple(check(name, value) for value in values)

    return check_all


def instance_of(owner: type[Any], example: str) -> Check:
    """Accept values of one class."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, owner):
            raise ConfigError(
                f"Expected {name} to be a {owner.__name__}, found {type(value).__name__}; "
                f"write for example {owner.__name__}({example})."
            )
        return value

    return check


def optional(check: Check) -> Check:
    """Accept None, and what passes a check."""
    return lambda name, value: None if value is None else check(name, value)
