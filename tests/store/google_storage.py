"""A stand-in for Google's object store: as much of its JSON interface as Arrow's client uses."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"
"""The only bucket that is there."""


class Objects:
    """What is stored, by name, and the uploads that are under way."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, str]] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.tokens: list[str] = []

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        self.stored[name] = content, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return self.described(name)

    def described(self, name: str) -> dict[str, Any]:
        content, changed = self.stored[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "generation": "1",
            "metageneration": "1",
            "size": str(len(content)),
            "timeCreated": changed,
            "updated": changed,
        }

    def listed(self, query: dict[str, str]) -> dict[str, Any]:
        """Return names with a prefix; what comes after a delimiter is left out."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(name for name in self.stored if name.startswith(prefix)):
            below = name.removeprefix(prefix)
            if delimiter and delimiter in below:
                prefixes.add(prefix + below.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.described(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(BaseHTTPRequestHandler):
    """Answers requests about one set of objects."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[Objects]

    def do_GET(self) -> None:
        path, query = self._asked()
        if path == ["b", BUCKET]:
            self._say(200, {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET})
        elif path == ["b", BUCKET, "o"]:
            self._say(200, self.objects.listed(query))
        elif len(path) == 4 and path[3] in self.objects.stored:
            if query.get("alt") == "media":
                self._send(self.objects.stored[path[3]][0])
            else:
                self._say(200, self.objects.described(path[3]))
        else:
            self._absent()

    def do_POST(self) -> None:
        path, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "rewriteTo" in path:
            source, target = path[3], path[-1]
            if source not in self.objects.stored:
                return self._absent()
            made = self.objects.put(target, self.objects.stored[source][0])
            return self._say(
                200, {"kind": "storage#rewriteResponse", "done": True, "resource": made}
            )
        if query.get("uploadType") == "resumable":
            upload, name = uuid.uuid4().hex, query.get("name") or json.loads(body)["name"]
            self.objects.uploads[upload] = name, bytearray()
            place = (
                f"http://{self.headers['Host']}/upload/storage/v1/b/{BUCKET}/o?upload_id={upload}"
            )
            return self._say(200, {}, Location=place)
        return self._say(400, {"error": {"code": 400, "message": f"unknown: {self.path}"}})

    def do_PUT(self) -> None:
        name, content = self.objects.uploads[self._asked()[1]["upload_id"]]
        content += self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers["Content-Range"].endswith("/*"):
            return self._say(308, {}, Range=f"bytes=0-{len(content) - 1}")
        return self._say(200, self.objects.put(name, bytes(content)))

    def do_DELETE(self) -> None:
        path, _ = self._asked()
        if len(path) == 4 and self.objects.stored.pop(path[3], None) is not None:
            return self._say(204, None)
        return self._absent()

    def _asked(self) -> tuple[list[str], dict[str, str]]:
        """Return the parts of what is asked for, after ``/storage/v1``, and the options."""
        self.objects.tokens.append(self.headers.get("Authorization", ""))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return [unquote(part) for part in parts.path.partition("/v1/")[2].split("/")], query

    def _absent(self) -> None:
        self._say(404, {"error": {"code": 404, "message": "Not Found"}})

    def _send(self, content: bytes) -> None:
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range", "")
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
            if first > last:
                return self._say(416, {"error": {"code": 416, "message": "out of range"}})
        piece = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        self.wfile.write(piece)
        return None

    def _say(self, status: int, body: dict[str, Any] | None, **headers: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


@contextlib.contextmanager
def google_storage() -> Iterator[tuple[str, Objects]]:
    """Serve an empty bucket.

    Yields:
        Host and port, and what is stored.
    """
    objects = Objects()
    handler = type("OwnHandler", (Handler,), {"objects": objects})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", objects
        finally:
            server.shutdown()
            thread.join()


def write_account(path: Path) -> None:
    """Write the file of a service account that nobody knows."""
    path.write_text(_account())


@functools.cache
def _account() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "project_id": "none",
        "private_key_id": "none",
        "private_key": text.decode(),
        "client_email": "nobody@none.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
    }
    return json.dumps(account)
