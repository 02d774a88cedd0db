"""The store: results by content hash, visible only when whole, checked whenever they are read.

An entry is a folder ``KIND/KEY`` that holds ``meta.json`` and NumPy files. Its key is the hash of
the configuration that produced it, so the same configuration always finds the same entry. It is
written beside its place and renamed into it, so a reader sees all of it or nothing. ``meta.json``
lists the SHA-256 of every file; an entry that does not match is moved to ``damaged/`` and counts
as absent, so that it is computed again. Nothing is ever unpickled.

Whoever made the folder may have put links into it. None is followed: a store or a kind that is a
link is refused, an entry or a file of one that is a link counts as damaged.

Of an object store the folder is this machine's copy (see :mod:`raydrop.store.places`). Then an
entry is what the object store has: it is uploaded before it appears here, its ``meta.json`` last,
and what is here besides is not believed. Its arrays carry their hashes in their names, so two
machines that write the same key at once never mix: whichever ``meta.json`` stands, its arrays do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydrop.errors import StoreError, visible_within
from raydrop.store.files import (
    OddFileError,
    expecting,
    link_below,
    open_regular,
    parse_json,
    read_npy_header,
    read_regular,
    said_of_link,
)
from raydrop.store.places import Place, open_place
from raydrop.store.remote import ObjectFacts, Remote, at_once, is_url
from raydrop.study import canonical_json, config_hash, sorted_json

logger = logging.getLogger("raydrop")

META = "meta.json"

_DAMAGE = (FileNotFoundError, ValueError, KeyError, TypeError)
"""What reading an entry raises that is not all there, or not as it was written."""

_NAME = re.compile(r"[0-9a-z_-]+")
"""A kind or a key; no other text leads anywhere in the store."""
_HASH_DIGITS = 16
_ATTEMPTS = 2
_SETTLED_SECONDS = 5.0
"""Object stores tell times to the second, so one that is younger may be replaced unnoticed."""


@dataclass(frozen=True)
class Entry:
    """One finished, verified result."""

    kind: str
    """What it is, such as ``"query"``, ``"scores"`` or ``"trial"``."""
    key: str
    config: dict[str, Any]
    """What produced it; its hash is the key."""
    info: dict[str, Any]
    """What was found out: plain JSON values, with texts that may be shown as they are."""
    path: Path
    names: tuple[str, ...]
    """Names of its arrays."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File of each array that lies in another than ``NAME.npy``."""
    called: str = ""
    """What to call it, for people: its folder, or its URL."""

    def array(
        self,
        name: str,
        *,
        mmap: bool = False,
        kinds: str = "",
        shape: tuple[int | None, ...] | None = None,
    ) -> NDArray[Any]:
        """Return an array, memory-mapped and read-only if ``mmap``.

        A StoreError is raised unless its numbers are of one of NumPy's ``kinds``, if given, and of
        the ``shape``, in which None stands for any length.
        """
        path = self.path / self.files.get(name, f"{name}.npy")
        try:
            with open_regular(path, links=False) as file:
                found = _read_array(file, mmap=mmap)
            sides = found.shape if shape is None else shape
            alike = len(sides) == found.ndim and all(
                side in (None, own) for side, own in zip(sides, found.shape, strict=True)
            )
            if not alike or (kinds and found.dtype.kind not in kinds):
                wanted = "any" if shape is None else "x".join(str(n or "n") for n in shape)
                raise ValueError(
                    f"{found.dtype} numbers of shape {found.shape} where {wanted} numbers of kind "
                    f"{kinds} are right"
                )
            return found
        except (OSError, ValueError) as error:
            raise StoreError(
                f"Expected an array at {path}, found {getattr(error, 'strerror', None) or error}; "
                "remove that folder to have it computed again."
            ) from error

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return every array by name."""
        return {name: self.array(name) for name in self.names}


class Store:
    """Content-addressed results under one folder, or under one prefix of an object store.

    Every method raises a :class:`~raydrop.errors.StoreError` where the store cannot be read or
    written, or leads through a link.
    """

    def __init__(self, where: str | Path | Place, *, glance: bool = False) -> None:
        """Open a store; nothing is made before something is written.

        Args:
            where: The folder of entries; or an output location, a place or a URL such as
                ``s3://bucket/prefix``, whose entries are below ``store/``.
            glance: Whether an object store is asked once for each kind of entry rather than once
                for each entry; what others write or remove afterwards may be overlooked.
        """
        if isinstance(where, Place) or is_url(where):
            self.place = open_place(where)
            folder = self.place.folder / "store"
        else:
            folder = Path(where)
            self.place = Place(folder.parent)
        # Absolute, because workers may have another working directory.
        self.root = folder.absolute()
        """The folder of entries on this machine."""
        self.damaged: list[str] = []
        """``KIND/KEY`` of every entry that this object found truncated or altered."""
        self._remote = self.place.remote
        self._folders: dict[str, Path] = {}
        self._seen: dict[str, dict[str, ObjectFacts]] | None = {} if glance else None

    @property
    def location(self) -> str | Path:
        """What opens the same store on another machine."""
        return self.root if self._remote is None else self._remote.url

    def folder(self, name: str) -> Path:
        """Return the folder of a kind, which need not be there; refuse links, which lead away."""
        if name not in self._folders:
            link = link_below(self.root.parent, self.root.name, name)
            if link is not None:
                raise StoreError(said_of_link(link))
            self._folders[name] = self.root / name
        return self._folders[name]

    def write(
        self,
        kind: str,
        config: Mapping[str, Any],
        info: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]] | None = None,
    ) -> Entry:
        """Write an entry so that it appears whole or not at all.

        Args:
            kind: What it is, in lower-case letters, digits, ``_`` and ``-``.
            config: What produced it; its hash is the key.
            info: Findings as plain JSON values.
            arrays: NumPy arrays by name; object arrays are refused, since they need pickle.

        Returns:
            The entry as it stands now; a sound one that was finished meanwhile stays, with its own
            findings, and a damaged one is replaced.
        """
        at = self._at(kind, config_hash(config))
        if at is None:
            raise StoreError(f"Expected lower-case letters in a kind of entry, found {kind!r}.")
        work = self.folder(".incomplete") / uuid.uuid4().hex
        try:
            with self.place.writing(self.root):
                described = {"kind": kind, "config": dict(config), "info": dict(info)}
                body = self._fill(work, described, arrays or {})
                standing = None if self._remote is None else self.read(kind, at.key)
                if standing is None:
                    self._upload(work, at, body)
                    standing = self._publish(work, at)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            self._forget(kind)
        return standing or self._entry(at, body)

    def read(self, kind: str, key: str) -> Entry | None:
        """Return the entry, or None where it is absent or was found damaged (and moved aside)."""
        at = self._at(kind, key)
        if at is None:  # as a study.json of others may have it
            return None
        with _reading(at.folder):
            try:
                if self._remote is not None:
                    return self._read_remote(self._remote, at)
                if not _is_folder(at.folder):
                    return None
                body = _body(at, read_regular(at.meta_here, links=False))
                for name, digest in body["files"].items():
                    _check_digest(at, name, digest)
                return self._entry(at, body)
            except (*_DAMAGE, OddFileError) as problem:
                self._set_aside(at, problem)
                return None

    def find(self, kind: str, config: Mapping[str, Any]) -> Entry | None:
        """Return the entry that ``config`` identifies, or None."""
        return self.read(kind, config_hash(config))

    def entries(self, kind: str) -> Iterator[Entry]:
        """Yield every sound entry of a kind, in the order of their keys."""
        yield from filter(None, (self.read(kind, key) for key in self.keys(kind)))

    def keys(self, kind: str) -> list[str]:
        """Return the keys of a kind in order; some entries may turn out to be damaged."""
        if self._remote is not None:
            return sorted(self._listed(self._remote, kind))
        folder = self.folder(kind)
        with _reading(folder):
            try:
                with os.scandir(folder) as found:
                    folders = [each.name for each in found if each.is_dir(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(filter(_NAME.fullmatch, folders))

    def peek(self, kind: str, key: str, *, arrays: bool = False) -> Entry | None:
        """Return what an entry says of itself, or None if that cannot be read.

        Nothing is verified or set aside, and arrays, which may be large, are left alone; unless
        ``arrays``, which brings them here from an object store.
        """
        at, there = self._at(kind, key), self._remote
        try:
            if at is None:
                return None
            if there is None:
                said = read_regular(at.meta_here, links=False) if _is_folder(at.folder) else None
            elif arrays:
                return self._read_remote(there, at)
            else:
                said = there.read_bytes(at.meta)
            return None if said is None else self._entry(at, parse_json(said))
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def changed(self, kind: str, key: str) -> float:
        """Return when an entry was written, in seconds since 1970, or 0 where there is none."""
        at = self._at(kind, key)
        if at is None:
            return 0.0
        if self._remote is not None:
            facts = self._facts(self._remote, at)
            return 0.0 if facts is None else facts.changed
        with contextlib.suppress(OSError, ValueError):
            return at.meta_here.lstat().st_mtime if _is_folder(at.folder) else 0.0
        return 0.0

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry if it is there."""
        at = self._at(kind, key)
        if at is None:
            return
        if self._remote is not None:
            self._remote.remove(at.meta)  # first, so that no part is read
            self._remote.remove_tree(at.prefix)
        with contextlib.suppress(OSError):
            if at.folder.is_symlink():
                at.folder.unlink()
        shutil.rmtree(at.folder, ignore_errors=True)
        self._forget(kind)

    def _at(self, kind: str, key: str) -> _Spot | None:
        """Return where an entry is, or None where its name would lead elsewhere."""
        if not (_NAME.fullmatch(kind) and _NAME.fullmatch(key)):
            return None
        return _Spot(kind, key, self.folder(kind) / key)

    def _fill(
        self, work: Path, described: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> dict[str, Any]:
        """Write the files of an entry, and return what its ``meta.json`` says."""
        work.mkdir(parents=True)
        digests, named = {}, {}
        for name, array in arrays.items():
            path = work / f"{name}.npy"
            with _synced(path) as file:
                np.save(file, array, allow_pickle=False)
            digest = _digest(path)
            if self._remote is not None:
                named[name] = f"{name}.{digest[:_HASH_DIGITS]}.npy"
                path = path.rename(work / named[name])
            digests[path.name] = digest
        whole = described | {"files": digests} | ({"arrays": named} if named else {})
        # Through JSON once, so that the entry written and the entry read are the same values.
        body: dict[str, Any] = json.loads(canonical_json(whole))
        sealed = body | {"sha256": _seal(body)}
        with _synced(work / META) as file:
            file.write(json.dumps(sealed, indent=1, sort_keys=True).encode())
        return body

    def _publish(self, work: Path, at: _Spot) -> Entry | None:
        """Rename a finished folder into its place, or return the sound entry that is there."""
        at.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.replace(at.folder)
        except OSError:
            standing = self.read(at.kind, at.key)
            if standing is not None:
                return standing
            work.replace(at.folder)  # what was in the way was damaged and is now aside
        return None

    def _entry(self, at: _Spot, body: Mapping[str, Any]) -> Entry:
        _check_files(body)
        files = body.get("arrays", {})
        names = tuple(files) if files else tuple(Path(name).stem for name in body["files"])
        info = visible_within(body["info"])  # to be shown, in tables and figures, as in a terminal
        called = self.place.called(at.folder)
        return Entry(body["kind"], at.key, body["config"], info, at.folder, names, files, called)

    def _set_aside(self, at: _Spot, problem: Exception) -> None:
        name = f"{at.kind}-{at.key}-{uuid.uuid4().hex[:8]}"
        aside: str | Path = self.folder("damaged") / name
        try:
            if self._remote is not None:
                aside = _move_aside(self._remote, at, name)
                shutil.rmtree(at.folder, ignore_errors=True)
            else:
                self.folder("damaged").mkdir(parents=True, exist_ok=True)
                at.folder.replace(aside)
        except FileNotFoundError:  # another reader was faster
            return
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"Expected a sound entry at {at.folder}, found that {problem}, and it cannot be "
                f"moved aside ({error.strerror}); allow writing there or remove that folder."
            ) from error
        self._forget(at.kind)
        self.damaged.append(f"{at.kind}/{at.key}")
        logger.warning(
            "Expected a sound entry %s/%s, found that %s; it is moved to %s, "
            "and the next run computes it again.",
            *(at.kind, at.key[:12], problem, aside),
        )

    # What an object store has, and the copy of it here.

    def _upload(self, work: Path, at: _Spot, body: Mapping[str, Any]) -> None:
        if self._remote is None:
            return
        there = self._remote
        at_once(lambda name: there.upload(work / name, f"{at.prefix}/{name}"), body["files"])
        there.write_bytes(at.meta, (work / META).read_bytes())
        os.utime(work / META, (0.0, 0.0))  # a time that no object has

    def _read_remote(self, there: Remote, at: _Spot) -> Entry | None:
        """Return an entry that the object store has; what is not here yet is brought."""
        for _ in range(_ATTEMPTS):
            said = self.place.current(at.meta, self._facts(there, at), _SETTLED_SECONDS)
            if said is None:
                break
            try:
                body = _body(at, said)
                at_once(lambda item: _bring(there, at, *item), body["files"].items())
                return self._entry(at, body)
            except _DAMAGE:
                # Unless it was replaced or removed in the meantime, it is damaged.
                at.meta_here.unlink(missing_ok=True)
                if there.read_bytes(at.meta) == said:
                    raise
        shutil.rmtree(at.folder, ignore_errors=True)
        return None

    def _facts(self, there: Remote, at: _Spot) -> ObjectFacts | None:
        if self._seen is None:
            return there.facts(at.meta)
        return self._listed(there, at.kind).get(at.key)

    def _listed(self, there: Remote, kind: str) -> dict[str, ObjectFacts]:
        """Return the entries of a kind in the object store: those with a ``meta.json``."""
        seen = {} if self._seen is None else self._seen
        if kind not in seen:
            listed = there.listing(f"store/{kind}").items()
            found = ((name.rpartition("/"), facts) for name, facts in listed)
            whole = ((key, facts) for (key, _, file), facts in found if file == META)
            seen[kind] = {key: facts for key, facts in whole if _NAME.fullmatch(key)}
        return seen[kind]

    def _forget(self, kind: str) -> None:
        if self._seen is not None:
            self._seen.pop(kind, None)


class _Spot(NamedTuple):
    """Where an entry is: here, and in an object store below the output location."""

    kind: str
    key: str
    folder: Path

    @property
    def meta_here(self) -> Path:
        return self.folder / META

    @property
    def prefix(self) -> str:
        return f"store/{self.kind}/{self.key}"

    @property
    def meta(self) -> str:
        return f"{self.prefix}/{META}"


def required(store: Store, kind: str, key: str) -> Entry:
    """Return an entry that an earlier stage must have left, or raise a StoreError."""
    entry = store.read(kind, key)
    if entry is None:
        raise StoreError(
            f"Expected {kind} {key[:12]} in {store.location}, found none; "
            "run the same command again, which computes what is missing."
        )
    return entry


def _reading(folder: Path) -> AbstractContextManager[None]:
    remedy = "allow reading there, or remove that folder to have it computed again"
    return expecting(f"to read {folder}", remedy)


def _is_folder(place: Path) -> bool:
    """Return whether an entry is there, or raise a ValueError where it is a link."""
    try:
        mode = place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISLNK(mode):
        raise ValueError("it is a link")
    return stat.S_ISDIR(mode)


# What meta.json says.


def _body(at: _Spot, content: bytes) -> dict[str, Any]:
    """Return what ``meta.json`` says, verified, or raise one of ``_DAMAGE``."""
    body = parse_json(content)
    expected = body.pop("sha256", None)
    if _seal(body) != expected:
        raise ValueError(f"{META} does not match its hash")
    if body["kind"] != at.kind or config_hash(body["config"]) != at.key:
        raise ValueError(f"{META} describes another entry")
    _check_files(body)
    return body


def _check_files(body: Mapping[str, Any]) -> None:
    """Refuse names of files that lead out of their entry, and other forms, with a ValueError."""
    for name in ("config", "info", "files"):
        if not isinstance(body[name], dict):
            raise ValueError(f"{META} has no {name}")
    for name in (*body["files"], *body.get("arrays", {}).values()):
        if name in {"", ".", "..", META} or "/" in name or os.sep in name:
            raise ValueError(f"{META} names a file elsewhere, {name!r}")


def _seal(body: Mapping[str, Any]) -> str:
    """Return the hash of an entry's description, which was read from JSON."""
    return hashlib.sha256(sorted_json(body).encode()).hexdigest()


# Files of arrays.


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file that is on the disk itself in the end."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with open_regular(path, links=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(at: _Spot, name: str, digest: str) -> None:
    if _digest(at.folder / name) != digest:
        raise ValueError(f"{name} does not match its hash")


def _read_array(file: IO[bytes], *, mmap: bool) -> NDArray[Any]:
    """Return the array in a file, or raise a ValueError where there is none of just that size."""
    header = read_npy_header(file)
    size = os.fstat(file.fileno()).st_size - file.tell()
    if header.nbytes != size or not header.dtype.itemsize:
        raise ValueError(
            f"{size} bytes for {header.dtype} numbers of shape {header.shape}, which take "
            f"{header.nbytes}"
        )
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    if mmap and size:
        return np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)
    return np.fromfile(file, header.dtype).reshape(header.shape, order=order)


# Object stores.


def _bring(there: Remote, at: _Spot, name: str, digest: str) -> None:
    """Bring a file of an entry from the object store, unless it is here as it should be."""
    with contextlib.suppress(OSError, ValueError):
        return _check_digest(at, name, digest)
    there.download(f"{at.prefix}/{name}", at.folder / name)
    return _check_digest(at, name, digest)


def _move_aside(there: Remote, at: _Spot, name: str) -> str:
    """Move an entry of the object store aside, ``meta.json`` first, and return where to."""
    target = f"store/damaged/{name}"
    if not there.move(at.meta, f"{target}/{META}"):
        raise FileNotFoundError(at.prefix)
    for file in there.listing(at.prefix):
        there.move(f"{at.prefix}/{file}", f"{target}/{file}")
    return there.url_of(target)
