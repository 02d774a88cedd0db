"""Whether a study is finished and nothing has changed since: then nothing need be read or drawn.

When a study is done and its report is written, a receipt in its store says what the files came from
(the study, its data, and the code) and what they were like. As long as all of that is the same, the
study need not be looked at again. This imports neither Ray's core nor torch.
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
from raydrop.study import Study, canonical_json

RECEIPT = "store/finished.json"

_NO_RESULTS = {"logs", "tune", "tensorboard", "wandb", "__pycache__", Path(RECEIPT).name}
"""Names of what lies in an output folder and is no result, and of what is no code."""

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "pyarrow")
"""Packages, besides this one, that results and their drawings depend on."""


class Receipt:
    """What a finished study's files came from, to be compared with what is asked for now."""

    def __init__(self, study: Study, place: Place, data_root: str | None) -> None:
        """Take what is asked for.

        Raises:
            RaydropError: If there is no such data or search space.
        """
        data = load_dataset(study.dataset, data_root)
        asked = {
            "study": study.to_dict(expand(study)),
            "data": data.fingerprint,
            "versions": [platform.python_version(), *map(importlib.metadata.version, _PACKAGES)],
            "code": _state_of(Path(raydrop.__file__).parent),
        }
        self._place = place
        self._asked = hashlib.sha256(canonical_json(asked).encode()).hexdigest()

    def is_valid(self) -> bool:
        """Return whether the study was finished, and nothing has changed since."""
        try:
            found = parse_json(read_regular(self._place.folder / RECEIPT, links=False))
        except (OSError, ValueError):
            return False
        return self._place.remote is None and found == self._body()

    def leave(self) -> None:
        """Say that the study is finished, and its files written; of a local folder alone."""
        if self._place.remote is None:
            with contextlib.suppress(StoreError):  # without one everything is looked at again
                self._place.write(RECEIPT, canonical_json(self._body()).encode())

    def _body(self) -> dict[str, Any]:
        return {"asked": self._asked, "files": _state_of(self._place.folder)}


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
