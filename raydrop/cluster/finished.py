"""Whether a study is finished and nothing has changed since: then nothing need be read or drawn.

When a study is done and its report is written, a receipt in its store says what the files came from
(the study, its data, and the code) and what they were like. As long as all of that is the same, the
study need not be looked at again. This starts no Ray and imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import raydrop
from raydrop.cluster.space import expand
from raydrop.data import load_dataset
from raydrop.errors import StoreError
from raydrop.store import Place
from raydrop.store.files import parse_json, read_regular
from raydrop.store.places import STUDY
from raydrop.study import Study, canonical_json
from raydrop.study.catalogue import Brought
from raydrop.study.importing import paths_in
from raydrop.study.sources import source_of

RECEIPT = "store/finished.json"

_NO_RESULTS = {"logs", "tune", "tensorboard", "wandb", "__pycache__", Path(RECEIPT).name}
"""Names of what lies in an output folder and is no result, and of what is no code."""

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "pyarrow")
"""Packages, besides this one, that results and their drawings depend on."""


def is_finished(study: Study, place: Place, data_root: str | None) -> bool:
    """Return whether a receipt says that a study is finished, and all is as it was then."""
    try:
        found = _read(place, RECEIPT)
    except (OSError, ValueError):
        return False
    return (
        place.remote is None
        and found.get("files") == _state_of(place.folder)
        and found.get("asked") == _asked(study, load_dataset(study.dataset, data_root).fingerprint)
    )


def leave_receipt(study: Study, place: Place) -> None:
    """Say that a study is finished and its files written, in a folder of this machine alone."""
    if place.remote is None:
        # Where that fails, the same command looks at everything again.
        with contextlib.suppress(StoreError, OSError, ValueError, KeyError):
            asked = _asked(study, _read(place, STUDY)["data_fingerprint"])
            body = {"asked": asked, "files": _state_of(place.folder)}
            place.write(RECEIPT, canonical_json(body).encode())


def _read(place: Place, name: str) -> dict[str, Any]:
    return parse_json(read_regular(place.folder / name, links=False))


def _asked(study: Study, fingerprint: str) -> str:
    """Return a hash of all that results and their drawings depend on."""
    brought = Brought.here() or Brought(())
    own = [[kind, each.name, each.source] for kind, each in brought.entries]
    asked_for = study.to_dict(expand(study))
    paths = {call.target: call for _, call in paths_in(asked_for | {"name": "", "version": ""})}
    own += [["path", name, source_of(call.load(), call)] for name, call in paths.items()]
    versions = [platform.python_version(), *map(importlib.metadata.version, _PACKAGES)]
    code = _state_of(Path(raydrop.__file__).parent)
    asked = [asked_for, fingerprint, sorted(own), versions, code]
    return hashlib.sha256(canonical_json({"asked": asked}).encode()).hexdigest()


def _state_of(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files below a folder."""
    state = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted({*folders} - _NO_RESULTS)
        here = Path(parent).relative_to(folder)
        for name in sorted({*files} - _NO_RESULTS):
            found = (Path(parent) / name).lstat()
            state.update(f"{here / name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return state.hexdigest()
