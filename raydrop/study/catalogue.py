"""One registry and one grammar of names: scores, quotas, losses, pruners, data sets, models.

A name is ``name``, ``name(value, key=value)``, or ``name:TEXT`` where an entry says so. Its
canonical text, which is part of a trial's identity, spells out every parameter in order, so a trial
means the same whatever a later version takes for a default. Parameters that are *named* stand in it
only where they differ from their default, as ``pw(0.5, 1, labels=hard)``: they are the variants of
a published form, whose own name stays short.

An entry declares what a pipeline asks about it; nothing switches on a name. Scripts add entries of
their own, which go with their study to every process that works on it (:class:`Brought`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from raydrop.errors import ConfigError, unknown_name

Value = float | str
"""Of a parameter: a number, or one of the words that it accepts."""
Arguments = list[tuple[str | None, str]]
"""Name, or None where it goes by its place, and text of each argument, as written."""
Built = TypeVar("Built")

_CALL = re.compile(r"\s*(?P<name>\w+)\s*(\((?P<arguments>[^()]*)\))?\s*")


@dataclass(frozen=True)
class Parameter:
    """A parameter of an entry."""

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

    def parse(self, owner: str, text: str) -> Value:
        """Return the number within bounds, or the word, that a text writes for an entry."""
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
                f"Expected {self.name} of {owner} to be {self._expected}, found {word!r}; write "
                f"for example {owner}({f'{self.name}={value}' if self.named else value})."
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
class Entry(Generic[Built]):
    """What goes by one name, with what ``raydrop methods`` says of it.

    A kind that a pipeline asks for more facts has a subclass with a field for each.
    """

    name: str
    build: Callable[..., Built]
    """Makes one from what its users give and a keyword argument for each parameter."""
    summary: str
    citation: str = ""
    parameters: tuple[Parameter, ...] = ()
    """In the order in which they are written."""
    text: str = dataclasses.field(default="", kw_only=True)
    """What follows the name and a colon, in capitals, as in ``from_method:METHOD``."""
    source: str = dataclasses.field(default="", kw_only=True)
    """Hash of its source where a script has added it, which results depend on."""

    @property
    def usage(self) -> str:
        """How a study writes it, with its default parameters."""
        return self.named([]).name + (f":{self.text}" if self.text else "")

    def named(self, arguments: Arguments, text: str | None = None) -> Named[Built]:
        """Return the entry with the parameters given, and the others at their defaults."""
        names = [parameter.name for parameter in self.parameters]
        given: dict[str, str] = {}
        for place, (name, value) in enumerate(arguments):
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
            given[key] = value
        values = {
            each.name: each.parse(self.name, given[each.name])
            if each.name in given
            else each.default
            for each in self.parameters
        }
        return Named(self, values, text)


@dataclass(frozen=True)
class Named(Generic[Built]):
    """An entry with all its parameters; an axis of a study names such ones."""

    entry: Entry[Built]
    values: Mapping[str, Value] = field(default_factory=dict)
    """Value of every parameter, in the entry's order."""
    text: str | None = None
    """What follows the colon, where there is one."""

    @property
    def name(self) -> str:
        """The canonical text, such as ``focal(2)``."""
        written = [
            f"{each.name}={value_text(value)}" if each.named else value_text(value)
            for each, value in zip(self.entry.parameters, self.values.values(), strict=True)
            if not each.named or value != each.default
        ]
        name = self.entry.name if self.text is None else f"{self.entry.name}:{self.text}"
        return f"{name}({', '.join(written)})" if written else name

    def make(self, *given: Any) -> Built:
        """Return what the entry builds from what is given and the parameters."""
        return self.entry.build(*given, **self.values)


Some = TypeVar("Some", bound=Entry[Any])


class Catalogue(Mapping[str, Some]):
    """The entries of one kind by name, in the order in which they are listed."""

    kinds: ClassVar[dict[str, Catalogue[Any]]] = {}
    """All catalogues of this process by kind."""

    def __init__(self, kind: str, entries: Iterable[Some], *, example: str = "name(2)") -> None:
        """Take the package's own entries of a kind, and a name with parameters for messages."""
        self.kind, self._example = kind, example
        self._entries = {entry.name: entry for entry in entries}
        self._own = frozenset(self._entries)
        Catalogue.kinds[kind] = self
        for entry in _WAITING.pop(kind, ()):
            self.add(entry)

    def __getitem__(self, name: str) -> Some:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Some) -> Some:
        """Add an entry of a script's own, in place of an earlier one that it added by this name.

        Its source, as far as Python shows it, becomes part of the identity of what reads it.
        """
        if entry.name in self._own or not entry.name.isidentifier():
            raise ConfigError(
                f"Expected a name for a {self.kind} that raydrop has none by, found "
                f"{entry.name!r}; choose one of letters, digits and underscores."
            )
        entry = dataclasses.replace(entry, source=entry.source or _source_hash(entry.build))
        self._entries[entry.name] = entry
        return entry

    def brought(self) -> tuple[Some, ...]:
        """Return the entries that a script has added."""
        return tuple(entry for name, entry in self._entries.items() if name not in self._own)

    def named(self, text: str) -> Named[Any]:
        """Return what a text such as ``focal(2)`` names, its parameters spelled out."""
        with_text = [entry for entry in self.values() if entry.text]
        head, colon, rest = text.partition(":") if with_text else (text, "", "")
        entry = self._entries.get(head.strip())
        if entry is not None and (colon or entry.text):
            if rest and entry.text:
                return entry.named([], rest)
            hint = " or ".join(f"a {e.text.lower()} follows {e.name}:" for e in with_text)
            raise ConfigError(
                f"Expected {self.kind} {entry.usage!r}, found {text!r}; {hint} alone, as in "
                f"{self._example}."
            )
        simple = not any(entry.parameters for entry in self.values())
        if colon or (simple and not _CALL.fullmatch(text)):
            raise unknown_name(self.kind, text, self)
        name, arguments = parse_call(text, self.kind, self._example)
        if name not in self._entries:
            raise unknown_name(self.kind, name, self)
        return self._entries[name].named(arguments)


@dataclass(frozen=True)
class Brought:
    """What scripts have added in this process; where it is unpickled, it is added too.

    A :class:`~raydrop.study.Study` carries it, so workers resolve names exactly as the driver does.
    """

    entries: tuple[tuple[str, Entry[Any]], ...]

    @classmethod
    def here(cls) -> Brought | None:
        """Return what this process has; None for nothing."""
        found = [(k, each) for k, one in Catalogue.kinds.items() for each in one.brought()]
        return cls(tuple(found)) if found else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for kind, entry in self.entries:
            known = Catalogue.kinds.get(kind)
            if known is None:
                _WAITING.setdefault(kind, []).append(entry)
            elif entry.name not in known or known[entry.name].source != entry.source:
                known.add(entry)


_WAITING: dict[str, list[Any]] = {}
"""What was brought for catalogues that are not loaded yet, by kind."""


def sources(*named: Named[Any]) -> dict[str, Any]:
    """Return what an identity says of entries that a script has added: nothing where it has none.

    Entries of several kinds may have the same name; then all their sources count.

    Example:
        >>> sources(Entry("mine", dict, "", source="3f").named([]))
        {'sources': {'mine': '3f'}}
    """
    found: dict[str, set[str]] = {}
    for each in named:
        if each.entry.source:
            found.setdefault(each.entry.name, set()).add(each.entry.source)
    texts = {name: "+".join(sorted(some)) for name, some in sorted(found.items())}
    return {"sources": texts} if texts else {}


def parse_call(text: str, kind: str, example: str = "name(2)") -> tuple[str, Arguments]:
    """Take ``name(value, key=value)`` apart.

    Example:
        >>> parse_call("ldam_drw(0.3, scale = 10)", "loss")
        ('ldam_drw', [(None, '0.3'), ('scale', '10')])
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"Expected a {kind} as name or name(value), found {text!r}; write for example "
            f"{example}."
        )
    return match["name"], parse_arguments(match["arguments"] or "")


def parse_arguments(text: str) -> Arguments:
    """Take what stands between parentheses apart."""
    found: Arguments = []
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.rpartition("=")
        found.append((key.strip() if equals else None, value.strip()))
    return found


def value_text(value: Value) -> str:
    """Return the shortest text of a value: ``2`` for 2.0, ``0.5`` for 0.50."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


def _source_hash(build: Callable[..., Any]) -> str:
    """Return the hash of a function's or a class's source, or of its name where there is none."""
    try:
        source = inspect.getsource(build)
    except (OSError, TypeError):
        source = f"{build.__module__}.{getattr(build, '__qualname__', build)}"
    return hashlib.sha256(source.encode()).hexdigest()[:32]
