"""One registry and one grammar of names: scores, quotas, losses, pruners, data sets, models.

A name is ``name``, ``name(value, key=value)``, or ``name:TEXT`` where an entry says so. Its
canonical text, which is part of a trial's identity, spells out every parameter in order, so a trial
means the same whatever a later version takes for a default. Parameters that are *named* stand in it
only where they differ from their default, as ``pw(0.5, 1, labels=hard)``: they are the variants of
a published form, whose own name stays short.

An entry declares what a pipeline asks about it; nothing switches on a name. What raydrop does not
have comes as an import path, ``mypkg.net:SignNet(width=32)``; as a class, function or instance that
a study is given; as an entry of a script's own; or by an entry point of an installed package. What
cannot be imported elsewhere goes with its study to every process that works on it
(:class:`Brought`).
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from raydrop.errors import ConfigError, RaydropError, in_one_line, unknown_name
from raydrop.study.importing import PREFIXES, Call, path_of
from raydrop.study.sources import (
    UnhashableError,
    content_hash,
    distribution_of,
    home_of,
    source_of,
    text_source,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
    """Hash of its source where it is not raydrop's own, which results depend on."""
    unhashable: str = dataclasses.field(default="", kw_only=True)
    """Why it has no such hash, in a sentence."""
    origin: str = dataclasses.field(default="raydrop", kw_only=True)
    """Where it comes from, such as ``mypkg 1.2``."""

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
    called: str = ""
    """The canonical text of what is the user's own, where its arguments are not parameters."""

    @property
    def name(self) -> str:
        """The canonical text, such as ``focal(2)``."""
        if self.called:
            return self.called
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


@dataclass(frozen=True, eq=False)
class Thing:
    """Something of the user's own: an object, and the name that studies write for it."""

    name: str
    value: Any
    """A class, a function, or an instance."""
    source: str = ""
    unhashable: str = ""
    origin: str = "this program"
    call: Call | None = None
    """With which arguments it is called, where it is named with some."""
    stays: bool = False
    """Whether it is too large to go along to other processes, which do without."""

    @classmethod
    def of(cls, value: Any, name: str, **fields: Any) -> Thing:
        """Return one with its source, or with why it has none."""
        try:
            return cls(name, value, source_of(value), **fields)
        except UnhashableError as error:
            return cls(name, value, unhashable=str(error), **fields)

    def make(self, *given: Any, **named: Any) -> Any:
        """Return what a class or a function makes of what is given and its arguments.

        Of an instance it is a copy, so that nothing passes from one use to the next.
        """
        if not self.is_made:
            try:
                return copy.deepcopy(self.value)
            except Exception as error:  # whatever it holds
                raise ConfigError(
                    f"Expected {self.name} to be copied, so that nothing passes from one use to "
                    f"the next, found {in_one_line(error)}; give its class, or a function that "
                    "makes it."
                ) from error
        call = self.call or Call(self.name)
        try:
            return self.value(*given, *call.arguments, **call.keywords, **named)
        except RaydropError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise ConfigError(
                f"Expected {call.text} to be made, found {in_one_line(error)}; mend it, or what it "
                "is called with."
            ) from error

    def unfit(self, wanted: str, found: Any, remedy: str) -> ConfigError:
        """Return the error for what it makes, or is, where that is not what is wanted."""
        name = self.call.text if self.call else self.name
        return ConfigError(
            f"Expected {name} to be {wanted}, found a {type(found).__name__}; {remedy}."
        )

    @property
    def is_made(self) -> bool:
        """Whether it is called to make what is wanted, rather than that itself."""
        return isinstance(self.value, type | functools.partial) or inspect.isroutine(self.value)

    @property
    def facts(self) -> dict[str, Any]:
        """What an entry says of it."""
        made = self.value.func if isinstance(self.value, functools.partial) else self.value
        owner = made if self.is_made else type(made)  # an instance has its class's text
        about = getattr(made, "summary", None) or owner.__doc__ or ""
        return {
            "summary": str(about).strip().partition("\n")[0],
            "citation": str(getattr(self.value, "citation", "")),
            "source": self.source,
            "unhashable": self.unhashable,
            "origin": self.origin,
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"value": _Absent(self.name)} if self.stays else {})


@dataclass(frozen=True)
class _Absent:
    """Stands for what has stayed in the process of the study."""

    name: str

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ConfigError(
            f"Expected {self.name} in this process, found that it stayed where its study was "
            "made; name it by an import path to have it elsewhere."
        )


Some = TypeVar("Some", bound=Entry[Any])


class Catalogue(Mapping[str, Some]):
    """The entries of one kind by name, in the order in which they are listed."""

    kinds: ClassVar[dict[str, Catalogue[Any]]] = {}
    """All catalogues of this process by kind."""

    def __init__(
        self,
        kind: str,
        entries: Iterable[Some],
        *,
        example: str = "name(2)",
        adopt: Callable[[Thing], Some] | None = None,
        group: str = "",
    ) -> None:
        """Take the package's own entries of a kind, and a name with parameters for messages.

        ``adopt`` makes an entry of what is the user's own, and ``group`` is that of entry points.
        """
        self.kind, self._example, self._adopt, self._group = kind, example, adopt or _entry, group
        self._entries = {entry.name: entry for entry in entries}
        self._own = frozenset(self._entries)
        self._things: dict[str, Thing] = {}
        self._plugins: dict[str, Thing] = {}
        self._adopted: dict[str, tuple[Any, Some]] = {}
        Catalogue.kinds[kind] = self
        for each in _WAITING.pop(kind, ()):
            self.take(each)

    def __getitem__(self, name: str) -> Some:
        if name not in self._entries and (plugin := self._plugin(name)):
            return self._entry_of(plugin)
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
        if not entry.source and not entry.unhashable:
            found = _script_thing(entry)
            entry = dataclasses.replace(entry, source=found.source, unhashable=found.unhashable)
        if entry.origin == "raydrop":
            entry = dataclasses.replace(entry, origin="this program")
        self._entries[entry.name] = entry
        return entry

    def take(self, brought: Some | Thing) -> None:
        """Have what a script or a study brings, in place of an earlier one by its name."""
        if not isinstance(brought, Thing):
            known = self._entries.get(brought.name)
            if known is None or known.source != brought.source:
                self.add(brought)
            return
        if brought.name in self._own:
            raise ConfigError(
                f"Expected a name for a {self.kind} that raydrop has none by, found "
                f"{brought.name!r}; call it something else."
            )
        if not isinstance(brought.value, _Absent) or brought.name not in self._things:
            self._things[brought.name] = brought

    def brought(self) -> tuple[Some | Thing, ...]:
        """Return the entries and things that a script or a study has brought."""
        added = (entry for name, entry in self._entries.items() if name not in self._own)
        return (*added, *self._things.values())

    def everything(self) -> dict[str, Some]:
        """Return what there is by name, with what is brought and what entry points offer."""
        things = {name: self._entry_of(thing) for name, thing in self._things.items()}
        found = dict(self._entries) | things
        for name, point in sorted(_entry_points(self._group).items()):
            try:
                plugin = self._plugin(name)
                found |= {} if plugin is None else {name: self._entry_of(plugin)}
            except ConfigError as error:
                entry = self._adopt(Thing(name, _Absent(name), origin=_origin(point)))
                found[name] = dataclasses.replace(entry, summary=str(error))
        return found

    def named(self, text: str) -> Named[Any]:
        """Return what a text such as ``focal(2)`` names, its parameters spelled out."""
        foreign = self.foreign(text)
        if foreign is not None:
            return foreign
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
            raise unknown_name(self.kind, text, self._names())
        name, arguments = parse_call(text, self.kind, self._example)
        if name not in self:
            raise unknown_name(self.kind, name, self._names())
        return self[name].named(arguments)

    def foreign(self, text: str) -> Named[Any] | None:
        """Return what is the user's own by an import path, or as a study was given it, or None.

        Raises:
            ConfigError: If there is no such module or name, or it is nothing of this kind.
        """
        head = text.partition("(")[0].strip()
        known = {head, head.partition(":")[0]} & self._entries.keys()
        if text in self._things:
            thing: Thing | None = self._things[text]
        elif known:
            return None
        else:
            thing = self._things.get(head) or self._plugin(head)
            of_module = ":" in head and not self.misspelt(head.partition(":")[0])
            call = Call.parse(text) if thing or of_module else None
            if call is not None:
                thing = _imported(call) if call.module else thing
                thing = thing and dataclasses.replace(thing, call=call)
        if thing is None:
            return None
        name = text if thing.call is None else thing.call.text
        made, entry = self._adopted.get(name, (None, None))
        if entry is None or made is not thing.value or entry.source != thing.source:
            entry = self._entry_of(thing)
            self._adopted[name] = thing.value, entry
        if isinstance(thing.value, Entry) and name != thing.name:
            return entry.named(parse_arguments(text.rstrip()[:-1].partition("(")[2]))
        return Named(entry, called=name)

    def _entry_of(self, thing: Thing) -> Some:
        if not isinstance(thing.value, Entry):
            return self._adopt(thing)
        facts = {key: thing.facts[key] for key in ("source", "unhashable", "origin")}
        return dataclasses.replace(thing.value, name=thing.name, **facts)  # type: ignore[return-value]

    def _plugin(self, name: str) -> Thing | None:
        """Return what an entry point of that name offers, or None where there is none."""
        point = None if name in self._entries else _entry_points(self._group).get(name)
        if point is not None and name not in self._plugins:
            origin = _origin(point)
            try:
                value = point.load()
            except Exception as error:  # whatever somebody's package raises
                raise ConfigError(
                    f"Expected {self.kind} {name!r} of {origin} to load, found "
                    f"{in_one_line(error)}; mend or uninstall that package."
                ) from error
            source = source_of(value, Call(point.attr, point.module))
            self._plugins[name] = Thing(name, value, source, origin=origin)
        return None if point is None else self._plugins[name]

    def misspelt(self, name: str) -> bool:
        """Whether what stands before a colon is a name of ours, or nearly one and no package."""
        close = difflib.get_close_matches(name.lower(), {*self, *PREFIXES}, cutoff=0.75)
        package = name.partition(".")[0]  # to look for what is within would import it
        return name in self._entries or bool(close and importlib.util.find_spec(package) is None)

    def _names(self) -> set[str]:
        return {*self._entries, *self._things, *_entry_points(self._group)}


def _entry(thing: Thing) -> Any:
    return Entry(thing.name, thing.make, **thing.facts)


def _script_thing(entry: Entry[Any]) -> Thing:
    """Return the builder of a script's entry with its source, which is that of its text alone."""
    try:
        return Thing(entry.name, entry.build, text_source(entry.build))
    except UnhashableError as error:
        return Thing(entry.name, entry.build, unhashable=str(error))


def _imported(call: Call) -> Thing:
    """Return what an import path names."""
    value = call.load()
    home = home_of(value, call)
    origin = distribution_of(home) or getattr(home, "__file__", None) or "Python"
    thing = Thing(call.target, value, source_of(value, call), origin=origin, call=call)
    called = bool(call.arguments or call.keywords)
    if called and not (thing.is_made or isinstance(value, Entry)):
        raise ConfigError(
            f"Expected a class or a function at {call.target}, to be called with arguments, found "
            f"a {type(value).__name__}; leave out the parentheses."
        )
    return thing


@functools.cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; where several have one, the first counts."""
    if not group:
        return {}
    import importlib.metadata  # here, because most processes do without

    found = importlib.metadata.entry_points(group=group)
    return {each.name: each for each in reversed([*found])}


def _origin(point: EntryPoint) -> str:
    owner = point.dist
    return f"{owner.name} {owner.version}" if owner else point.module


# --- what is brought from one process to another ---


def bring(kind: str, thing: Any) -> str:
    """Return the name by which a study writes something of the user's own.

    A text is one already. What can be imported is named by its import path; all else is had by
    this process under a name of its own, and goes with studies to others.

    Raises:
        ConfigError: If it has no name, or one that raydrop has already.
    """
    if isinstance(thing, str):
        call = None
        if ":" in thing.partition("(")[0] and kind != "data set":  # which may have variants
            call = Call.parse(thing)
        return thing if call is None else call.text
    path = path_of(thing)
    if path is not None:
        return path.text
    if hasattr(thing, "fingerprint"):  # data, whose identity is their content
        brought = Thing(str(thing.name), thing, stays=True)
    else:
        brought = Thing.of(thing, _name_of(kind, thing))
        if not brought.is_made:
            brought.make()  # before it is known here, and would go with every study
    catalogue = Catalogue.kinds.get(kind)
    if catalogue is None:
        _WAITING.setdefault(kind, []).append(brought)
    else:
        catalogue.take(brought)
    return brought.name


def same_source(thing: Any, other: Any) -> bool:
    """Return whether two things of the user's own are the same as far as results can tell."""
    first, second = Thing.of(thing, ""), Thing.of(other, "")
    return bool(first.source) and first.source == second.source


def _name_of(kind: str, thing: Any) -> str:
    """Return what a class or function is called, or an instance by its class and content."""
    if isinstance(thing, functools.partial):
        inner = _name_of(kind, thing.func)
        return Call(inner, arguments=thing.args, keywords=thing.keywords).text
    name = getattr(thing, "__name__", None)
    if name is None:
        shown = repr(thing)
        if dataclasses.is_dataclass(thing) and _CALL.fullmatch(shown):
            call = Call.parse(shown)
            return shown if call is None else call.text
        return f"{type(thing).__name__}{content_hash(thing)[:9]}"
    if not str(name).isidentifier():
        raise ConfigError(
            f"Expected {kind} to have a name, found {name}; define it with def or class."
        )
    return str(name)


@dataclass(frozen=True)
class Brought:
    """What scripts and studies have added in this process; where it is unpickled, it is added too.

    A :class:`~raydrop.study.Study` carries it, so workers resolve names exactly as the driver does.
    """

    entries: tuple[tuple[str, Any], ...]

    @classmethod
    def here(cls, *, hashed: bool = False) -> Brought | None:
        """Return what this process has, or what of it has a source; None for nothing."""
        found = [(k, each) for k, one in Catalogue.kinds.items() for each in one.brought()]
        found += [(kind, each) for kind, some in _WAITING.items() for each in some]
        found = [(kind, each) for kind, each in found if not (hashed and each.unhashable)]
        return cls(tuple(found)) if found else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for kind, each in self.entries:
            known = Catalogue.kinds.get(kind)
            if known is None:
                _WAITING.setdefault(kind, []).append(each)
            else:
                known.take(each)


_WAITING: dict[str, list[Any]] = {}
"""What was brought for catalogues that are not loaded yet, by kind."""


def sources(*named: Named[Any], version: str = "") -> dict[str, Any]:
    """Return what an identity says of what is not raydrop's own: nothing where all of it is.

    Entries of several kinds may have the same name; then all their sources count. A version, a word
    of the user's, stands for all of them.

    Raises:
        ConfigError: If something has no source, and there is no version.

    Example:
        >>> sources(Entry("mine", dict, "", source="3f").named([]))
        {'sources': {'mine': '3f'}}
    """
    found: dict[str, set[str]] = {}
    for each in named:
        entry = each.entry
        if entry.unhashable and not version:
            raise ConfigError(entry.unhashable)
        if entry.source or entry.unhashable:
            source = f"version {version}" if version else entry.source
            found.setdefault(entry.name, set()).add(source)
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
