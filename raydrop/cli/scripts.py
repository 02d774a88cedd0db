"""Where a study comes from: a sweep script, or the ``study.json`` that a run left."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from raydrop.errors import ConfigError, RaydropError
from raydrop.study import Study
from raydrop.study.importing import UntrustedError


def load_sweep(
    sweep: str | Path,
    scale: str | None = None,
    data: str | None = None,
    trust: Collection[str] = (),
) -> Study:
    """Return the study of a sweep script, or of the ``study.json`` that a run left.

    That may lie in a folder or at a URL. A scale is the name in the script of another study than
    ``study``; data are what the user names in place of those that others wrote down. Of what
    others wrote, only import paths into packages that are trusted may be followed.
    """
    from raydrop.store.places import STUDY
    from raydrop.store.remote import is_url

    if is_url(sweep):
        return _replayed(*_fetched(str(sweep)), scale, data, trust)
    path = Path(sweep).expanduser()  # of a job on a cluster, which no shell expands
    if path.is_dir():
        path /= STUDY
    if not path.is_file():
        raise ConfigError(
            f"Expected a sweep script or study.json at {path}, found no such file; "
            "check the path, or start from sweeps/digits.py."
        )
    if path.suffix.lower() == ".json":
        return _replayed(str(path), _read(path), scale, data, trust)
    folder = script_folder(path)
    if folder is not None and folder not in sys.path[:1]:  # as where Python itself runs it
        sys.path.insert(0, folder)
    try:
        names = runpy.run_path(str(path), run_name="raydrop_sweep")
    except RaydropError:
        raise
    except Exception as error:
        raise ConfigError(
            f"Expected {path} to run, found {type(error).__name__}: {error}; "
            "mend it there (--debug shows the place)."
        ) from error
    return _study_named(names, scale, path)


def script_folder(sweep: str | Path) -> str | None:
    """Return the folder of a sweep script, from which it may import; None of a replayed study."""
    from raydrop.store.remote import is_url

    path = Path(sweep).expanduser()
    if is_url(sweep) or path.is_dir() or path.suffix.lower() == ".json":
        return None
    return str(path.resolve().parent)


def _study_named(names: dict[str, Any], scale: str | None, path: Path) -> Study:
    """Return the study that a script calls ``study``, or the other one that is asked for."""
    studies = {name: value for name, value in names.items() if isinstance(value, Study)}
    others = studies.keys() - {"study"}
    if scale is not None and scale not in others:
        found = ", ".join(sorted(others)) or "no other study than 'study'"
        raise ConfigError(
            f"Expected {path} to define the study {scale!r} for --scale, found {found}; "
            "name one that is there, or leave out --scale."
        )
    if scale is None and "study" not in studies:
        found = type(names["study"]).__name__ if "study" in names else "none"
        raise ConfigError(
            f"Expected {path} to define 'study', a raydrop.Study, found {found}; "
            "add study = Study(...)."
        )
    return studies[scale or "study"]


def _read(path: Path) -> bytes:
    """Return what is in a ``study.json``, if it can be one."""
    from raydrop.store.files import read_regular

    try:
        return read_regular(path)
    except OSError as error:
        raise ConfigError(
            f"Expected a study.json that can be read at {path}, found {error.strerror or error}; "
            "use the one in an output folder."
        ) from error


def _fetched(url: str) -> tuple[str, bytes]:
    """Return where in an object store a ``study.json`` is, and what is in it."""
    from raydrop.store.places import STUDY
    from raydrop.store.remote import canonical_url, joined_url, read_object

    place = canonical_url(url)
    suffix = Path(place.partition("?")[0]).suffix
    if suffix == ".py":
        raise ConfigError(
            f"Expected a sweep script on this machine, found {place}; what a store holds is not "
            "run, so copy it here and look at it, or name a study.json there."
        )
    if suffix != ".json":
        place = joined_url(place, STUDY)
    content = read_object(place)
    if content is None:
        raise ConfigError(
            f"Expected a study.json at {place}, found no such object; correct the location, or "
            "name one that `raydrop run --out` was given."
        )
    return place, content


def _replayed(
    place: str, content: bytes, scale: str | None, data: str | None, trust: Collection[str]
) -> Study:
    """Return the study of a ``study.json``, which others may have written."""
    from raydrop.data.spec import parse_spec
    from raydrop.store.files import parse_json
    from raydrop.store.remote import refuse_options

    if scale is not None:
        raise ConfigError(
            f"Expected a sweep script for --scale {scale}, found {place}, which holds one study; "
            "leave out --scale."
        )
    try:
        body = parse_json(content)
        if not isinstance(body.get("study"), dict):
            raise ValueError("it holds no study")
        study = Study.from_dict(body["study"], trust)
    except UntrustedError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Expected a study.json that raydrop wrote at {place}, found a problem ({error}); "
            "use the one in an output folder."
        ) from error
    if data is None:
        spec = parse_spec(study.dataset)
        refuse_options(spec.path or "", study.dataset)
        if "allow_outside" in dict(spec.options):
            raise ConfigError(
                "Expected the images of a study that is replayed below its data set's folder, found"
                f" allow_outside in {study.dataset}; if you trust it, give the data set yourself "
                "with --data."
            )
    return study
