"""The user's own code, which every worker imports as the driver does.

A Ray on this machine looks where the driver looks. A cluster is sent the packages that are not
installed here, by Ray's ``runtime_env``; what is installed is expected to be installed there too.
"""

from __future__ import annotations

import contextlib
import importlib
import pickletools
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ray import cloudpickle

from raydrop.errors import ConfigError, in_one_line
from raydrop.study.catalogue import Brought
from raydrop.study.importing import Call, paths_in
from raydrop.study.sources import distribution_of, source_of

_NEVER = {"__main__", "__mp_main__", "raydrop_sweep", "raydrop", "torch", "torchvision"}
"""Modules that go by value with a study, or are everywhere."""


def own_paths(study: Mapping[str, Any], feeding: Iterable[str] = ()) -> dict[str, str]:
    """Return the import paths in a study's JSON values, without the arguments of calls.

    Each has the source of what it names here; an empty one where the study's version stands for it,
    and for the modules that feed its data set.
    """
    found = {call.target: call for _, call in paths_in({**study, "name": "", "version": ""})}
    known = bool(study.get("version"))
    return dict.fromkeys(_foreign(feeding), "") | {
        path: "" if known else source_of(call.load(), call) for path, call in sorted(found.items())
    }


def own_modules(paths: Iterable[str]) -> tuple[ModuleType, ...]:
    """Return top-level packages and modules that import paths name, or brought objects import.

    Those of Python itself, or that a distribution has installed, are left out.
    """
    names = {path.partition(":")[0] for path in paths}
    here = Brought.here()
    if here is not None:
        with contextlib.suppress(Exception):  # what cannot be pickled is said where it is sent
            names |= _imported_by(cloudpickle.dumps(here))
    tops = {name.partition(".")[0] for name in _foreign(names)}
    loaded = (sys.modules.get(top) for top in sorted(tops))
    return tuple(each for each in loaded if each is not None and not distribution_of(each))


def folders_of(modules: Iterable[ModuleType]) -> list[str]:
    """Return the folders on the driver's path in which modules are found."""
    places = (_place(module) for module in modules)
    return sorted({str(place.parent) for place in places if place is not None})


def shipped(modules: Collection[ModuleType]) -> dict[str, Any]:
    """Return the ``runtime_env`` that brings modules to a cluster; empty where there are none.

    Raises:
        ConfigError: If one has no folder or file that could be sent.
    """
    for module in modules:
        if _place(module) is None:
            raise ConfigError(
                f"Expected {module.__name__} in a folder or file that can be sent to the cluster, "
                "found none; install it on every machine."
            )
    places = [str(_place(module)) for module in modules]
    return {"py_modules": places} if places else {}


def unimportable(paths: Mapping[str, str]) -> str:
    """Return why this process cannot import, or not of the same source, what a path names."""
    for path, source in paths.items():
        call = Call.parse(path)
        assert call is not None
        try:
            found = source_of(call.load(), call) if call.module else _imported(path)
        except ConfigError as error:
            return str(error)
        if source and found != source:
            return (
                f"Expected {path} of source {source[:8]}, found {found[:8]} in this process; "
                "install the same version of its package here, or remove the one that is here, so "
                "that the study's own goes along."
            )
    return ""


def _imported_by(content: bytes) -> set[str]:
    """Return the modules of this process that a pickle names, as those that it imports are."""
    texts = (argument for _, argument, _ in pickletools.genops(content))
    return {text for text in texts if isinstance(text, str) and text in sys.modules}


def _imported(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(
            f"Expected {module} to be imported, found {in_one_line(error)}; install here what is "
            "missing."
        ) from error
    return ""


def _foreign(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of modules without those that are everywhere."""
    known = _NEVER | sys.stdlib_module_names
    return tuple(sorted(name for name in names if name.partition(".")[0] not in known))


def _place(module: ModuleType) -> Path | None:
    """Return the folder of a package, or the file of a module."""
    if folders := list(getattr(module, "__path__", ())):
        return Path(folders[0])
    file = getattr(module, "__file__", None)
    return Path(file) if file else None
