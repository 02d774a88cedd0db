"""Files below a prefix of an object store: ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

A thin layer over :mod:`pyarrow.fs`. An object appears when its upload is complete, and not before;
nothing here relies on renaming, on locks or on folders, which object stores do not have.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from raydrop.errors import ConfigError, StoreError, visible
from raydrop.store.files import written_whole

SCHEMES = ("s3", "gs")
"""Object stores that are known: Amazon's S3 and what speaks its protocol, and Google's."""

_OPTIONS = {
    # Small objects in one request instead of three.
    "s3": {"allow_delayed_open": "true"},
    # Google's client would try for 15 minutes.
    "gs": {"retry_limit_seconds": "30"},
}
_HARMLESS = {"region"}
_PLAIN = {*_HARMLESS, "allow_delayed_open", "endpoint_override", "scheme"}
_ALLOWED = {
    "s3": {*_PLAIN, "allow_bucket_creation", "tls_ca_file_path"},
    "gs": {"endpoint_override", "scheme", "project_id", "retry_limit_seconds"},
}
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("CLOUD_STORAGE_EMULATOR_ENDPOINT",),
}
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?/?", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*", re.DOTALL)
_CHUNK = 8 * 2**20
TRANSFERS = 16

T = TypeVar("T")

# What Amazon's and Google's client libraries say.
_AMAZON = re.compile(r"AWS Error (\w+)[^:]*: (.*?)(?: \(Request ID.*|; Details.*)?$")
_GOOGLE = re.compile(
    r"Status\((\w+): (?:.*?The underlying error message was: )?(.*?)(?: error_info=.*)?$"
)
_REFUSED = re.compile(
    "ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS|HTTP status 40[13]|PERMISSION_DENIED"
    "|UNAUTHENTICATED|OAuth2",
    re.IGNORECASE,
)
_UNREACHED = re.compile("NETWORK_CONNECTION|UNAVAILABLE|TIMEOUT|curlCode", re.IGNORECASE)
_LONGEST_REASON = 160

ALLOW = (
    "give every machine credentials that may list, read, write and delete there (for s3 AWS_PROFILE"
    ", or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine; for gs "
    "GOOGLE_APPLICATION_CREDENTIALS)"
)
CONNECT = (
    "check the connection, or name the server of a store of your own with "
    "?endpoint_override=HOST:PORT or AWS_ENDPOINT_URL"
)


class ObjectFacts(NamedTuple):
    """What a listing says about an object: its bytes, and the second since 1970 it is of."""

    size: int
    changed: float


class Remote:
    """Objects below one prefix; names are relative to it, with ``/`` between their parts.

    Whatever the store does not do raises a :class:`~raydrop.errors.StoreError` with its reason.
    """

    def __init__(self, url: str) -> None:
        """Look whether the bucket is there, with the credentials of the environment.

        Args:
            url: ``s3://bucket/prefix`` or ``gs://bucket/prefix``; options of
                :meth:`pyarrow.fs.FileSystem.from_uri` may follow, such as
                ``?endpoint_override=127.0.0.1:5001&scheme=http`` or ``?region=eu-west-1``. A
                ConfigError is raised if it is no such URL, has an option that is not known, holds
                credentials, or would have them sent by http, in clear, to another machine.
        """
        from pyarrow import fs

        self.url = canonical_url(url)
        """Where the objects are, in one spelling."""
        parts = urlsplit(self.url)
        query = {**_OPTIONS[parts.scheme], **dict(parse_qsl(parts.query))}
        for name in sorted(query.keys() - _ALLOWED[parts.scheme]):
            raise _bad_url(url, f"the option {name}")
        if not re.fullmatch("[A-Za-z0-9-]*", query.get("region", "")):  # it enters a host's name
            raise _bad_url(url, f"the region {query['region']}")
        _refuse_clear_text(self.url, parts.scheme, query)
        full = parts._replace(query=urlencode(query, safe=":/")).geturl()
        try:
            with self._told("reach"):
                self.filesystem, self.base = fs.FileSystem.from_uri(full)
                kind = _impatient(self.filesystem, query).get_file_info(parts.netloc).type
        except ValueError as error:  # Arrow's own sentence on the part that it does not know
            raise _bad_url(url, str(error).splitlines()[0].rstrip(".")) from error
        if kind == fs.FileType.NotFound:
            raise StoreError(
                f"Expected a bucket called {parts.netloc} for {self.url}, found none; "
                "make it, or correct the name."
            )

    def path(self, name: str = "") -> str:
        """Return where an object is, as its file system names it."""
        return f"{self.base}/{name}" if name else str(self.base)

    def url_of(self, name: str) -> str:
        """Return the address of an object, for people."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}/{name}"

    def read_bytes(self, name: str) -> bytes | None:
        """Return an object's content, or None where it is absent."""
        with (
            contextlib.suppress(FileNotFoundError),
            self._told("read"),
            self.filesystem.open_input_stream(self.path(name)) as file,
        ):
            return bytes(file.read())
        return None

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write an object; it appears whole, in place of an earlier one."""
        with self._told("write"), self.filesystem.open_output_stream(self.path(name)) as file:
            file.write(content)

    def upload(self, path: Path, name: str) -> None:
        """Write an object from a file, a piece at a time."""
        with (
            self._told("write"),
            path.open("rb") as source,
            self.filesystem.open_output_stream(self.path(name)) as file,
        ):
            shutil.copyfileobj(source, file, _CHUNK)

    def download(self, name: str, path: Path) -> None:
        """Write a file from an object, whole or not at all; raise a FileNotFoundError if absent."""
        with (
            self._told("read"),
            self.filesystem.open_input_stream(self.path(name)) as source,
            written_whole(path) as file,
        ):
            shutil.copyfileobj(source, file, _CHUNK)

    def facts(self, name: str) -> ObjectFacts | None:
        """Return size and time of an object, or None where it is absent."""
        with self._told("read"):
            return _facts(self.filesystem.get_file_info(self.path(name)))

    def listing(self, name: str = "") -> dict[str, ObjectFacts]:
        """Return every object below a prefix, by its name relative to that prefix."""
        from pyarrow import fs

        place = self.path(name)
        selector = fs.FileSelector(place, recursive=True, allow_not_found=True)
        with self._told("list"):
            found = self.filesystem.get_file_info(selector)
        listed = {info.path[len(place) + 1 :]: _facts(info) for info in found}
        return {below: facts for below, facts in listed.items() if facts is not None}

    def move(self, name: str, to: str) -> bool:
        """Give an object another name; return whether it was there."""
        with contextlib.suppress(FileNotFoundError), self._told("write"):
            if self.facts(name) is not None:
                self.filesystem.move(self.path(name), self.path(to))
                return True
        return False

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._told("write"):
            self.filesystem.delete_file(self.path(name))

    def remove_tree(self, name: str) -> None:
        """Remove every object below a prefix."""
        from pyarrow import fs

        with contextlib.suppress(FileNotFoundError), self._told("write"):
            # Amazon's client takes it calmly if there is nothing, Google's does not.
            if self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound:
                self.filesystem.delete_dir(self.path(name))

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the object store complains about into a sentence."""
        from pyarrow import ArrowException

        try:
            yield
        except StoreError:
            raise
        except (OSError, ArrowException) as error:
            text = " ".join(str(error).split())
            # Of this machine, or an object that is not there; or a URL that Arrow cannot parse,
            # which Google's client says in its own way.
            argument = isinstance(error, ValueError) and _GOOGLE.search(text) is None
            if getattr(error, "errno", None) is not None or argument:
                raise
            raise StoreError(
                f"Expected to {what} {self.url}, found: {_reason(text)}; {_remedy(text)}."
            ) from error


def at_once(transfer: Callable[[T], None], items: Iterable[T]) -> None:
    """Transfer some files, several at a time, since each is mostly waiting."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in pool.map(transfer, items):
            pass


@functools.cache
def remote(url: str) -> Remote:
    """Return the objects below a prefix, the same for the same URL; raise as :class:`Remote`."""
    return Remote(url)


def read_object(url: str) -> bytes | None:
    """Return what is at the URL of one object, or None; raise as :class:`Remote`."""
    parts = urlsplit(canonical_url(url))
    prefix, _, name = parts.path.rpartition("/")
    return remote(parts._replace(path=prefix).geturl()).read_bytes(name)


def is_url(location: object) -> bool:
    """Return whether a location is a URL rather than a path.

    A :class:`~pathlib.Path` joins the two slashes of a URL; it still counts as one.

    Example:
        >>> [is_url(text) for text in ("s3://bucket/a", "results/a", "/tmp/s3", "C:results")]
        [True, False, False, False]
    """
    return _URL.fullmatch(str(location)) is not None


def canonical_url(url: str | Path) -> str:
    """Return a URL in one spelling: two slashes before the bucket and none at the end.

    A ConfigError is raised if it is none of an object store, names no bucket, leaves its prefix
    with ``..``, or holds credentials, which would end up in files and messages.

    Example:
        >>> canonical_url("s3:/bucket/a/?region=eu-west-1")
        's3://bucket/a?region=eu-west-1'
    """
    parts = _split(str(url))
    folders = parts.path.strip("/").split("/")
    if "@" in parts.netloc and parts.scheme in SCHEMES:
        hidden = parts._replace(netloc=f"...@{parts.netloc.rpartition('@')[2]}").geturl()
        raise ConfigError(
            f"Expected {hidden} without credentials, which would end up in files and messages; "
            "give them in the environment."
        )
    faults = {
        f"the scheme {parts.scheme}": parts.scheme not in SCHEMES,
        "no bucket": not parts.netloc,
        "a part of the prefix that is empty or dots alone": folders != [""]
        and not all(name.strip(".") for name in folders),
        "a #": parts.fragment,
    }
    for fault, found in faults.items():
        if found:
            raise _bad_url(url, fault)
    return parts._replace(path=parts.path.rstrip("/")).geturl()


def joined_url(url: str, path: str) -> str:
    """Return the URL of what is below another; a ConfigError if the path would add options to it.

    Example:
        >>> joined_url("s3://bucket/data?region=eu-west-1", "birds")
        's3://bucket/data/birds?region=eu-west-1'
    """
    parts = _split(url)
    if {"?", "#"} & set(path):
        raise _bad_url(url, f"a ? or # in {path}, which is to be below it,")
    return canonical_url(parts._replace(path=f"{parts.path.rstrip('/')}/{path}").geturl())


def refuse_options(url: str, found: str) -> None:
    """Refuse with a ConfigError what others wrote on how an object store is to be reached.

    Whoever runs a study decides whom credentials are shown to. Others may name a bucket, and a
    region, but no other option; the error quotes what the URL was ``found`` in.
    """
    names = dict(parse_qsl(_split(url).query, keep_blank_values=True)).keys() - _HARMLESS
    if is_url(url) and names:
        raise ConfigError(
            f"Expected no options of an object store in a study that is replayed, found "
            f"{', '.join(sorted(map(visible, names)))} in {visible(found)}; if you trust them, give"
            " the data set yourself with --data, or set AWS_ENDPOINT_URL and leave them out there."
        )


def _refuse_clear_text(url: str, scheme: str, query: Mapping[str, str]) -> None:
    """Refuse http, by which keys and tokens could be read on their way, to another machine."""
    if query.get("scheme", "https") not in ("http", "https"):
        raise _bad_url(url, f"the scheme {query['scheme']}")
    used = _endpoints(scheme, query) or [""]
    # Amazon's client takes the first of them, Google's prefers what the environment says.
    for endpoint in used[:1] if scheme == "s3" else used:
        before, _, host = endpoint.rpartition("://")
        clear = query.get("scheme") == "http" or before.lower() not in ("", "https")
        if clear and not _LOOPBACK.fullmatch(host):
            raise ConfigError(
                f"Expected https for {url}, or http to this machine, found http to "
                f"{host or 'the store'}, where credentials would travel in clear; leave out "
                "scheme=http, and have that server use https."
            )


def _endpoints(scheme: str, query: Mapping[str, str]) -> list[str]:
    """Return the servers that are named, that of the URL first."""
    named = [query.get("endpoint_override"), *map(os.environ.get, _ENDPOINTS[scheme])]
    return [endpoint for endpoint in named if endpoint]


def _split(url: str) -> SplitResult:
    return urlsplit(re.sub(r"^([^:/]+):/(?!/)", r"\1://", url))


def _bad_url(url: str | Path, found: str) -> ConfigError:
    return ConfigError(
        f"Expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, found {found} in {url}; "
        "correct it, or name a folder."
    )


def _impatient(filesystem: Any, query: Mapping[str, str]) -> Any:
    """Return a file system for a first look, which soon gives up where nothing answers.

    Amazon's client by itself tries ten times; that is right for a study that has begun.
    """
    from pyarrow import fs

    if not (isinstance(filesystem, fs.S3FileSystem) and query.keys() <= _PLAIN):
        return filesystem
    return fs.S3FileSystem(
        region=filesystem.region,
        scheme=query.get("scheme", "https"),
        endpoint_override=next(iter(_endpoints("s3", query)), None),
        connect_timeout=5.0,
        request_timeout=10.0,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
    )


def _facts(info: Any) -> ObjectFacts | None:
    return ObjectFacts(int(info.size), (info.mtime_ns or 0) / 1e9) if info.is_file else None


def _reason(text: str) -> str:
    """Return what matters of a message of a client library."""
    found = _AMAZON.search(text) or _GOOGLE.search(text)
    kind, said = ("", text) if found is None else found.groups()
    said = said.rstrip(". ")
    brief = said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}…"
    if not kind:
        return brief
    return kind if said in ("", "No response body") else f"{kind} ({brief})"


def _remedy(text: str) -> str:
    if "NO_SUCH_BUCKET" in text:
        return "make the bucket, or correct its name"
    if _REFUSED.search(text):
        return ALLOW
    return CONNECT if _UNREACHED.search(text) else "try again, or choose another location"
