"""Import paths: names of the user's own, by where Python finds them.

A study may name what raydrop does not have by where Python finds it: ``mypkg.net:SignNet``, or
``mypkg.net:SignNet(width=32)`` with literals for arguments. Whoever imports runs code, so only a
study that is built in Python, or whose packages the user trusts, has its paths imported;
:func:`refuse_paths` is for what others wrote.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydrop.errors import ConfigError, in_one_line, unknown_name, visible

PREFIXES = frozenset(
    (
        *("imagefolder", "tiny_imagenet", "imagenet", "metadata", "waterbirds", "fitzpatrick17k"),
        *("celeba", "hf", "table", "from_method", "timm", "torchvision"),
    )
)
"""What names before a colon are raydrop's own, and never a package."""
PRETRAINED = ":imagenet"
"""Ending of names of models that start from trained weights."""

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PATH = re.compile(
    rf"\s*(?:(?P<module>{_DOTTED}):)?(?P<name>{_DOTTED})\s*(?P<call>\(.*\))?\s*", re.DOTALL
)
_BEGINNING = re.compile(rf"(?P<module>{_DOTTED})\s*:\s*(?P<name>{_DOTTED})")
_LITERALS = (type(None), bool, int, float, str, bytes)
_UNIMPORTABLE = {"__main__", "__mp_main__", "raydrop_sweep"}
"""Modules whose names mean something else in another process."""


@dataclass(frozen=True)
class Call:
    """A name of the user's own, with the literals that it is called with."""

    name: str
    """Within the module, such as ``SignNet``."""
    module: str = ""
    """Where it is imported from; empty for what goes by a registered name."""
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Call | None:
        """Take a text apart; None where it is neither a name with literals nor an import path.

        Example:
            >>> Call.parse("mypkg.net:SignNet( width = 32 )").text
            'mypkg.net:SignNet(width=32)'
            >>> Call.parse("timm:resnet18") is Call.parse("resnet18:imagenet") is None
            True
        """
        match = _PATH.fullmatch(text)
        if match is None or match["module"] in PREFIXES or text.strip().endswith(PRETRAINED):
            return None
        arguments, keywords = _literals(match["call"] or "()", text)
        return cls(match["name"], match["module"] or "", arguments, keywords)

    @property
    def target(self) -> str:
        """What is called, without arguments."""
        return f"{self.module}:{self.name}" if self.module else self.name

    @property
    def text(self) -> str:
        """The canonical text, keywords in the order of the alphabet."""
        keywords = (f"{key}={value!r}" for key, value in sorted(self.keywords.items()))
        given = ", ".join([*map(repr, self.arguments), *keywords])
        return f"{self.target}({given})" if given else self.target

    def load(self) -> Any:
        """Import what an import path names.

        Raises:
            ConfigError: If there is no such module or name here, or importing it fails.
        """
        try:
            found: Any = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            missing = error.name or self.module
            raise ConfigError(
                f"Expected {self.target} to be imported, found no module {missing!r} in this "
                f"process; install it here, put its folder on PYTHONPATH, or beside the script."
            ) from error
        except Exception as error:  # whatever the user's module raises
            raise ConfigError(
                f"Expected {self.target} to be imported, found {in_one_line(error)}; mend it there."
            ) from error
        for part in self.name.split("."):
            if not hasattr(found, part):
                public = [each for each in dir(found) if not each.startswith("_")]
                raise unknown_name(f"name in {self.module}", self.name, public)
            found = getattr(found, part)
        return found


def _literals(call: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what stands between parentheses."""
    try:
        node = ast.parse(f"f{call}", mode="eval").body
        assert isinstance(node, ast.Call)
        given = [ast.literal_eval(each) for each in node.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
        if "None" in named or not all(map(_is_literal, (*given, *named.values()))):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, AssertionError, RecursionError, MemoryError):
        raise ConfigError(
            f"Expected literals for arguments, as in mypkg.net:SignNet(width=32), found {text!r}; "
            "write numbers, texts, True, False, None, or lists, tuples and dicts of these."
        ) from None
    return tuple(given), named


def _is_literal(value: Any) -> bool:
    """Whether a value is one whose text Python reads back as the same, in any process."""
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    if isinstance(value, dict):
        return all(map(_is_literal, (*value, *value.values())))
    finite = not isinstance(value, float) or math.isfinite(value)
    return type(value) in _LITERALS and finite


def path_of(thing: Any) -> Call | None:
    """Return the import path of a class or a function, or a partial call of one with literals.

    None for all that another process would not find there, such as what a notebook defines.
    """
    if isinstance(thing, functools.partial):
        inner, literal = path_of(thing.func), (*thing.args, *thing.keywords.values())
        if inner is None or inner.arguments or inner.keywords or not all(map(_is_literal, literal)):
            return None
        return Call(inner.name, inner.module, thing.args, thing.keywords)
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module in _UNIMPORTABLE:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return Call(name, module) if found is thing else None


# --- what others wrote ---


class UntrustedError(ConfigError):
    """What others wrote names code that would have to be imported."""


def refuse_paths(value: Any, trust: Collection[str], place: str) -> None:
    """Refuse every import path in texts that others wrote, unless its package is trusted.

    Raises:
        UntrustedError: It names the path and how to allow it.
    """
    for where, call in paths_in(value):
        package = call.module.partition(".")[0]
        if package not in trust and call.module not in trust:
            raise UntrustedError(
                f"Expected names that raydrop knows in {place}, found {visible(call.text)!r}"
                f"{f' for {visible(where)}' if where else ''}, whose import would run code; if "
                f"you trust that, add --trust {package}, in Python trust={[package]}."
            )


def paths_in(value: Any, where: str = "") -> Iterator[tuple[str, Call]]:
    """Yield what of nested values would be imported, without arguments, and the key it is under.

    Whatever follows a name counts for nothing: arguments, the variants of data, what is malformed.
    """
    if isinstance(value, str):
        text = value.strip()
        while text.startswith("from_method:"):
            text = text.removeprefix("from_method:").strip()
        match = _BEGINNING.match(text)
        known = match is None or match["module"] in PREFIXES or text.endswith(PRETRAINED)
        if match is not None and not known:
            yield where, Call(match["name"], match["module"])
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from paths_in(each, str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from paths_in(each, where)
