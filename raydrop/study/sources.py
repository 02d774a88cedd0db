"""What stands for the user's own code in an identity: its *source*, which results depend on.

Of what can be imported that is a hash of its dotted name, of the file that defines it and, where an
installed distribution owns the file, of its version; the same file on another machine has the same
one. Of what a notebook or a script defines it is a hash of its text, and of what that reads around
it.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import enum
import functools
import hashlib
import inspect
import json
import logging
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path, PurePath
from typing import Any

from raydrop.errors import ConfigError
from raydrop.study.importing import Call, path_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType)
_SHOWN = (PurePath, re.Pattern, types.UnionType, types.GenericAlias)


class UnhashableError(ConfigError):
    """Something of the user's own reads what has no identity."""


def source_of(thing: Any, path: Call | None = None) -> str:
    """Return the source of a class, a function or an instance, imported from a path where given.

    Raises:
        UnhashableError: If it is of a notebook or script, and reads something whose content cannot
            be told.
    """
    path = path or path_of(thing)
    if path is None:
        return text_source(thing)
    home = home_of(thing, path)
    dotted = f"{home.__name__}.{getattr(thing, '__qualname__', path.name)}"
    return _digest(json.dumps([dotted, *_file_of(home, thing)]))


def text_source(thing: Any) -> str:
    """Return the source of something by its text and what that reads, wherever it is from."""
    return _Reading(thing).digest()


def content_hash(thing: Any) -> str:
    """Return an underscore and a hash of what an instance holds, whatever its class does with it.

    Nothing where its content cannot be told.
    """
    try:
        return f"_{_Reading(thing, texts=False).digest()}"
    except UnhashableError:
        return ""


def home_of(thing: Any, path: Call) -> types.ModuleType:
    """Return the module whose file defines what was imported from a path."""
    named = isinstance(thing, type) or inspect.isroutine(thing)  # instances have their class's
    return sys.modules.get((named and thing.__module__) or "", sys.modules[path.module])


_FILES: dict[str, tuple[Any, str, str]] = {}
"""Of modules by name: how they were found, and the hash and the distribution of their file then."""


def _file_of(module: types.ModuleType, thing: Any) -> tuple[str, str]:
    """Return the hash of a module's file and its distribution, looked up once for each import.

    Raises:
        ConfigError: If the file is no longer the one that the thing was imported from.
    """
    spec, known = module.__spec__, _FILES.get(module.__name__)
    if known is None or known[0] is not spec:
        file, loader = getattr(module, "__file__", None), getattr(module, "__loader__", None)
        read = getattr(loader, "get_data", None)  # what is built into Python has none
        content = b"" if read is None or file is None else read(file)
        owner = distribution_of(module)
        if type(loader) is SourceFileLoader and not owner:
            _check_loaded(thing, content, str(file))
        digest = hashlib.sha256(content).hexdigest()
        _FILES[module.__name__] = known = spec, digest, owner
    return known[1:]


def check_unchanged(file: str) -> None:
    """Refuse a file from which a module of this process came, if it has been changed since.

    Raises:
        ConfigError: Because the code that would run is no longer what the file says.
    """
    for name, (spec, digest, _) in _FILES.items():
        module = sys.modules.get(name)
        if module is None or module.__spec__ is not spec:
            continue
        if getattr(module, "__file__", None) != file:  # built into Python where it has none
            continue
        if hashlib.sha256(Path(file).read_bytes()).hexdigest() != digest:
            raise ConfigError(
                f"Expected {file} as it was when {name} was imported from it, found that it has "
                "been changed since; restart Python, or reload the module."
            )


def _check_loaded(thing: Any, content: bytes, file: str) -> None:
    """Refuse a class or function whose file has been changed since it was imported."""
    waiting, there = list[types.CodeType](), dict[str, list[types.CodeType]]()
    with contextlib.suppress(SyntaxError):  # of what it has become
        waiting.append(compile(content, file, "exec", dont_inherit=True))
    while waiting:
        code = waiting.pop()
        there.setdefault(code.co_qualname, []).append(code)
        waiting += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    loaded = [f.__code__ for f in _functions(thing) if f.__code__.co_filename == file]
    for code in loaded:
        if _code_text(code) not in map(_code_text, there.get(code.co_qualname, ())):
            raise ConfigError(
                f"Expected {code.co_qualname} as it was imported from {file}, found that the file "
                "has been changed since; restart Python, or reload the module."
            )


def distribution_of(module: types.ModuleType) -> str:
    """Return name and version of the distribution that a module was installed by, or nothing.

    What is installed in place, for development, has the version of its file alone.
    """
    return _owner_of(module.__name__.partition(".")[0], getattr(module, "__file__", None) or "")


@functools.cache
def _owner_of(package: str, place: str) -> str:
    file = Path(place)
    if not {"site-packages", "dist-packages"} & {*file.parts}:
        return ""
    import importlib.metadata  # here, because most processes do without

    for name in _distributions().get(package, ()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # no longer on the path
            found = importlib.metadata.distribution(name)
            if file.is_relative_to(Path(str(found.locate_file("")))):
                return f"{name} {found.version.partition('+')[0]}"  # for whatever processor
    return ""


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _is_fixed(thing: Any) -> bool:
    """Whether a name says all of a class or function, which Python or what is installed brings."""
    path = path_of(thing)
    if path is None:
        return False
    top = path.module.partition(".")[0]
    return top in (*sys.stdlib_module_names, "raydrop") or bool(
        distribution_of(sys.modules[path.module])
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Reading:
    """The text of a class or function, or the content of an instance, and what that reads."""

    def __init__(self, owner: Any, *, texts: bool = True) -> None:
        self._owner, self._texts = owner, texts
        self._seen: dict[int, Any] = {}  # kept, so that no address comes again
        self._found: list[str] = []

    def digest(self) -> str:
        """Return the hash of all that is read; of the text alone where that reads nothing."""
        if not isinstance(self._owner, type | types.FunctionType):
            return _digest(str(self._content(self._name, self._owner)))
        text = _text(self._owner)
        self._read_by(self._owner)
        return _digest("\n".join([text, *self._found]))

    @property
    def _name(self) -> str:
        return getattr(self._owner, "__name__", None) or type(self._owner).__name__

    def _read_by(self, thing: Any) -> None:
        """Note what a class or a function reads: globals, cells, defaults, bases, attributes."""
        self._seen[id(thing)] = thing
        if isinstance(thing, type):
            for base in thing.__bases__:
                self._note(base.__name__, base)
            for name, value in sorted(vars(thing).items()):
                is_text = not isinstance(value, type) and _functions(value)
                if not (is_text or name.startswith(("__", "_abc_"))):
                    self._note(name, value)
        for function in _functions(thing):
            for name, value in _values_around(function):
                self._note(name, value)

    def _note(self, name: str, value: Any) -> None:
        fixed = isinstance(value, types.ModuleType) or (
            isinstance(value, _CODE) and _is_fixed(value)
        )
        if id(value) not in self._seen and not fixed:
            found = self._content(name, value)
            if found is not None:
                self._found.append(f"{name} = {found}")

    def _content(self, name: str, value: Any, depth: int = 20) -> str | None:
        """Return a text of a value that no other value has; None of what is known by its name."""
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        home, is_tensor = type(value).__module__, hasattr(value, "untyped_storage")
        if isinstance(value, _SHOWN) or (home in ("typing", "torch") and not is_tensor):
            return repr(value)
        if isinstance(value, logging.Logger | types.MemberDescriptorType) or not depth:
            return None if depth else self._refuse(name, value)
        within = functools.partial(self._content, name, depth=depth - 1)
        if isinstance(value, list | tuple | set | frozenset):
            parts = [str(within(each)) for each in value]
            ordered = parts if isinstance(value, list | tuple) else sorted(parts)
            return f"{type(value).__name__}({', '.join(ordered)})"
        if isinstance(value, Mapping):
            return f"{type(value).__name__} {[(within(k), within(v)) for k, v in value.items()]}"
        if isinstance(value, _CODE):
            return self._code(value)
        if is_tensor or home == "numpy":
            return _numbers(value)
        if hasattr(value, "named_modules"):
            return self._architecture(value, within)
        return self._state(name, value, within)

    def _code(self, value: Any) -> str:
        path = path_of(value)
        if not self._texts:
            return str(value.__qualname__)
        if path is not None:
            return path.text if _is_fixed(value) else f"{path.text} {source_of(value, path)}"
        if isinstance(value, types.BuiltinFunctionType) or id(value) in self._seen:
            return str(value.__qualname__)
        text = _text(value)
        self._read_by(value)
        return text

    def _architecture(self, module: Any, within: Any) -> str:
        """Return what a module of torch consists of, but for the values of its parameters."""
        parts = [repr(module)]
        for name, each in module.named_modules():
            own = {
                key: value
                for key, value in vars(each).items()
                if not key.startswith("_") and key != "training"
            }
            shapes = [(key, tuple(p.shape)) for key, p in each.named_parameters(recurse=False)]
            buffers = {key: _numbers(b) for key, b in each.named_buffers(recurse=False)}
            parts.append(f"{name} {self._code(type(each))} {within(own)} {shapes} {buffers}")
        return "\n".join(parts)

    def _state(self, name: str, value: Any, within: Any) -> str:
        """Return the class of an instance and what it holds, as where it is copied."""
        try:
            make, arguments, *state = value.__reduce_ex__(4)
        except Exception:  # of what cannot be copied
            return self._refuse(name, value)
        state = [list(each) if isinstance(each, Iterator) else each for each in state]
        return f"{within(make)} {within(arguments)} {within(state)}"

    def _refuse(self, name: str, value: Any) -> str:
        raise UnhashableError(
            f"Expected {self._name} to read values whose content has an identity, found {name}, a "
            f"{type(value).__name__}; hand it over as an argument or build it within, or give the "
            'study version="…", a word that you change whenever it changes.'
        )


def _text(thing: Any) -> str:
    """Return the source text of a class or function; of a notebook's class that of its functions.

    What has no text, as where it was typed, has its code instead.
    """
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        own = [f for f in _functions(thing) if f is not thing]
        codes = (
            list(map(_text, own)) if own else [_code_text(f.__code__) for f in _functions(thing)]
        )
        return "\n".join([f"{thing.__module__}.{getattr(thing, '__qualname__', thing)}", *codes])


def _code_text(code: types.CodeType) -> str:
    constants = [
        _code_text(each)
        if isinstance(each, types.CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    return repr((code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _functions(thing: Any) -> list[types.FunctionType]:
    """Return the functions that a class, a function or a descriptor consists of."""
    if isinstance(thing, type):
        own = (part for part in vars(thing).values() if not isinstance(part, type))
        return [function for part in own for function in _functions(part)]
    if isinstance(thing, property):
        parts: tuple[Any, ...] = (thing.fget, thing.fset, thing.fdel)
    elif isinstance(thing, functools.cached_property):
        parts = (thing.func,)
    else:
        parts = (getattr(thing, "__func__", thing),)
    unwrapped = (inspect.unwrap(part) if callable(part) else part for part in parts)
    return [part for part in unwrapped if isinstance(part, types.FunctionType)]


def _values_around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield defaults that are no literals, and the values of outer and of global names."""
    yield from _unseen_defaults(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # not set yet
        if name != "__class__":
            yield name, value
    for name in sorted(_globals_of(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _globals_of(code: types.CodeType) -> set[str]:
    read = [i for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    within = [_globals_of(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return {str(each.argval) for each in read}.union(*within)


def _unseen_defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the defaults of a function that its text does not show."""
    values = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    nodes: list[Any] = []
    if values:
        # Not of a lambda, whose values are all noted.
        with contextlib.suppress(OSError, SyntaxError, AttributeError):
            arguments = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].args  # type: ignore[attr-defined]
            nodes = [*arguments.defaults, *filter(None, arguments.kw_defaults)]
    for place, value in enumerate(values):
        try:
            ast.literal_eval(nodes[place])
        except (ValueError, TypeError, IndexError):
            yield f"default {place + 1} of {function.__name__}", value


def _numbers(value: Any) -> str:
    """Return the type, shape and content of an array, a tensor or one number of these."""
    import numpy as np  # which is loaded, as there is such a value

    bits = value
    if hasattr(value, "untyped_storage"):
        import torch  # likewise

        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    array = np.ascontiguousarray(bits)
    kind = getattr(value, "dtype", type(value))
    shape = tuple(getattr(value, "shape", ()))
    return f"{kind} {shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
