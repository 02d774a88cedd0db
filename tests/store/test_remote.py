"""Results in an object store, here moto's: what is there is whole, and mirrors do not lie."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import logging
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torchvision
from fake_study import FakeStudy
from google_storage import google_storage, write_account

from raydrop import cli
from raydrop.cli import load_sweep
from raydrop.cluster.driver import Options, Outcome, run_study, write_study_file
from raydrop.cluster.space import expand
from raydrop.data import FileImages, load_dataset
from raydrop.data.batches import prepare
from raydrop.data.loaders.downloads import download
from raydrop.errors import ConfigError, DataError, StoreError, StudyMismatchError
from raydrop.frontier import load_records
from raydrop.frontier.overlay import write_overlay
from raydrop.frontier.statistics.resampling import resample
from raydrop.frontier.table import as_filed, table_of
from raydrop.frontier.watch import Watcher
from raydrop.plan import make_plan, trial_configs
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.stages.facts import save_data_card
from raydrop.stages.queries import run_query
from raydrop.stages.scoring import run_score
from raydrop.stages.trials import run_trial
from raydrop.store import META, Entry, Place, Store, entries, open_place, places, remote
from raydrop.store.files import csv_text
from raydrop.store.remote import Remote, canonical_url, is_url
from raydrop.store.terminal import Console
from raydrop.study import Study, config_hash

pytest.importorskip("moto")

CONFIG = {"method": "el2n", "seed": 0}
INFO = {"seconds": 1.5, "note": "ü"}
SMALL = FakeStudy(methods=("random",), keeps=(0.5,), quotas=("none",), seeds=(0,))


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "scores": np.linspace(0, 1, 1000),
        "a.b-c": np.arange(6, dtype=np.int32).reshape(2, 3),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Host and port of an object store in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(places.CACHE, str(tmp_path / "cache"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, and where they are written is as for other files."""
    for name in ("png", "svg"):
        content = f"<{name}/>".encode()
        monkeypatch.setattr(f"raydrop.frontier.figures.canvas.to_{name}", lambda *_, c=content: c)


@pytest.fixture
def url(endpoint: str, request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test, in a bucket that is there."""
    bucket = urllib.request.Request(f"http://{endpoint}/bucket", method="PUT")
    with urllib.request.urlopen(bucket):
        pass
    name = config_hash({"test": request.node.name})
    return f"s3://bucket/{name}?endpoint_override={endpoint}&scheme=http"


class Nodes:
    """Machines, each with a cache of its own."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url, self._folder, self._monkeypatch = url, folder, monkeypatch

    def store(self, node: str) -> Store:
        self.become(node)
        return Store(self._url)

    def become(self, node: str) -> None:
        self._monkeypatch.setenv(places.CACHE, str(self._folder / node))


@pytest.fixture
def nodes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(url, tmp_path, monkeypatch)


def assert_sound(entry: Entry | None) -> None:
    assert entry is not None
    assert (entry.kind, entry.key, entry.config) == ("scores", config_hash(CONFIG), CONFIG)
    assert entry.info == INFO
    assert set(entry.names) == set(arrays())
    for name, expected in arrays().items():
        np.testing.assert_array_equal(entry.array(name), expected, strict=True)


def objects(url: str, below: str = "store/scores") -> list[str]:
    return sorted(Remote(url).listing(below))


def array_object(url: str, name: str = "scores") -> str:
    (found,) = (each for each in objects(url, "store") if f"/{name}." in each)
    return f"store/{found}"


# What a URL is.


def test_a_path_joins_the_slashes_of_a_url_and_is_one_nevertheless() -> None:
    location = Path("s3://bucket/a/b?endpoint_override=127.0.0.1:5001&scheme=http")
    assert is_url(location)
    assert canonical_url(location) == (
        "s3://bucket/a/b?endpoint_override=127.0.0.1:5001&scheme=http"
    )


@pytest.mark.parametrize("path", ["results/a", "/tmp/a:b", "C:/results", "./s3:/bucket", ""])
def test_a_path_is_no_url(path: str) -> None:
    assert not is_url(path)
    assert open_place(path) == Place(Path(path))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://host/a", "the scheme http"),
        ("s3:///a", "no bucket"),
        ("s3://bucket/a/../b", "a part of the prefix that is empty or dots alone"),
        ("s3://bucket/a//b", "a part of the prefix that is empty or dots alone"),
        ("s3://bucket/a#b", "a #"),
        ("s3://bucket/a?nonsense=1", "the option nonsense"),
        ("s3://bucket/a?tls_verify_certificates=false", "the option tls_verify_certificates"),
        ("gs://bucket/a?region=eu", "the option region"),
        ("s3://bucket/a?region=evil.com/", "the region evil.com/"),
        ("s3://bucket/a?scheme=ftp", "the scheme ftp"),
        ("s3://bucket/a b", "Cannot parse URI"),
    ],
)
def test_a_url_that_is_none_gives_one_sentence(url: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Remote(url)
    assert str(caught.value).startswith(
        f"Expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, found {found}"
    )
    assert "\n" not in str(caught.value)


def test_logs_of_a_mirror_are_uploaded_and_others_stay(url: str, tmp_path: Path) -> None:
    for place in (open_place(url), Place(tmp_path)):
        (place.folder / "tensorboard" / "trials").mkdir(parents=True)
        (place.folder / "tensorboard" / "trials" / "events").write_bytes(b"1")
        place.upload("tensorboard")
    assert list(Remote(url).listing()) == ["tensorboard/trials/events"]


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"s3://\.\.\.@bucket/a without credentials") as caught:
        open_place("s3://key:secret@bucket/a")
    assert "secret" not in str(caught.value)


# Whose endpoints are used, and what travels in clear.


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """Give host and port of something that answers nothing, and what it was sent."""
    heard: list[bytes] = []

    def listen(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    heard.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=listen, args=(server,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


STOLEN = (
    "imagefolder:gs://bucket/a?endpoint_override=PLACE&scheme=http",
    "imagefolder:s3://bucket/a?endpoint_override=PLACE&scheme=http",
    "imagefolder:s3://bucket/a?scheme=http&%65ndpoint_override=PLACE+long_tail(10)",
    "imagefolder:s3:/bucket/a?region=a&endpoint_override=http://PLACE?flip=on",
    "metadata:s3://bucket/a?endpoint_override=http://PLACE?label=y",
    "celeba:s3://bucket/a?endpoint_override=http://PLACE?",
    "waterbirds:s3://bucket/a?endpoint_override=http://PLACE",
    "imagefolder:s3://bucket/a?tls_ca_file_path=/theirs",
    "imagefolder:s3://bucket/a?allow_bucket_creation=true",
)
"""Data sets that would have the reader's token or signature sent to whoever is at PLACE."""


def replay(folder: Path, dataset: str) -> Path:
    """Write the file of a study that somebody else ran."""
    study = Study("t", "digits", "small_cnn", {"method": "random", "keep_fraction": 0.5})
    body = {"study": study.to_dict(study.spaces()) | {"dataset": dataset}}
    (folder / "study.json").write_text(json.dumps(body))
    return folder / "study.json"


@pytest.mark.parametrize("dataset", STOLEN)
def test_a_study_of_others_names_no_endpoint(
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_account(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    with listening() as (place, heard):
        sweep = replay(tmp_path, dataset.replace("PLACE", place))
        words = ("run", sweep, "--dry-run", "--out", tmp_path / "out")
        message = said(monkeypatch, capsys, *words)
    assert heard == []
    assert "options of an object store" in message
    assert "--data" in message


def test_a_study_of_others_names_no_endpoint_below_the_readers_own_root(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a folder's name is appended to the URL of --data-root, as if its options were ours."""
    with listening() as (place, heard):
        sweep = replay(tmp_path, f"imagefolder:birds?endpoint_override={place}&scheme=http&x=")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        words = ("run", sweep, "--dry-run", "--data-root", "s3://bucket/data")
        assert "a ? or # in birds?" in said(monkeypatch, capsys, *words)
    assert heard == []


def test_the_reader_may_name_the_endpoint_of_a_study_of_others(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = replay(tmp_path, f"imagefolder:{url}")
    for words in (
        ("--data", f"imagefolder:{url}"),
        ("--data-root", url, "--data", "imagefolder:a"),
    ):
        message = said(monkeypatch, capsys, "run", sweep, "--dry-run", *words)
        assert message.startswith("Expected data at s3://bucket/")
    sweep = replay(tmp_path, "imagefolder:s3://bucket/a?region=us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{url.partition('=')[2].partition('&')[0]}")
    message = said(monkeypatch, capsys, "run", sweep, "--dry-run")
    assert message.startswith("Expected data at s3://bucket/a")


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("s3://bucket/a?endpoint_override=192.0.2.1:9000&scheme=http", {}),
        ("gs://bucket/a?endpoint_override=192.0.2.1:9000&scheme=http", {}),
        ("s3://bucket/a?endpoint_override=http://192.0.2.1:9000", {}),
        ("gs://bucket/a?endpoint_override=HTTP://192.0.2.1:9000", {}),
        ("s3://bucket/a?endpoint_override=localhost.example.com&scheme=http", {}),
        ("s3://bucket/a?endpoint_override=127.0.0.1:80@example.com&scheme=http", {}),
        ("s3://bucket/a?endpoint_override=http://127.0.0.1.example.com/", {}),
        ("s3://bucket/a?scheme=http", {}),
        ("gs://bucket/a?scheme=http", {}),
        ("s3://bucket/a", {"AWS_ENDPOINT_URL": "http://192.0.2.1:9000"}),
        ("s3://bucket/a", {"AWS_ENDPOINT_URL_S3": "http://minio.example.com"}),
        ("s3://bucket/a?scheme=http", {"AWS_ENDPOINT_URL": "192.0.2.1:9000"}),
        ("gs://bucket/a", {"CLOUD_STORAGE_EMULATOR_ENDPOINT": "http://192.0.2.1:9000"}),
    ],
)
def test_nothing_travels_in_clear_to_another_machine(
    url: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pyarrow.fs.FileSystem", SimpleNamespace(from_uri=pytest.fail))
    with pytest.raises(ConfigError, match=r"https for (s3|gs)://bucket/a.*found http to .*clear"):
        Remote(url)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "[::1]:9", "http://127.0.0.2:9/"])
def test_http_to_this_machine_is_fine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.canonical_url(f"s3://bucket/a?endpoint_override={host}&scheme=http")
    remote._refuse_clear_text("s3://bucket/a", "s3", {"endpoint_override": host, "scheme": "http"})


# What an object store answers.


def test_objects_are_written_read_listed_moved_and_removed(url: str, tmp_path: Path) -> None:
    _in_and_out(url, tmp_path)


def _in_and_out(url: str, tmp_path: Path) -> None:
    there = Remote(url)
    assert there.read_bytes("a") is None
    assert there.facts("a") is None
    assert there.listing() == {}
    there.write_bytes("a", b"one")
    there.write_bytes("b/c", b"three")
    (tmp_path / "file").write_bytes(bytes(range(256)) * 33_000)  # more than one part
    there.upload(tmp_path / "file", "b/large")
    there.download("b/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    sizes = {name: facts.size for name, facts in there.listing().items()}
    assert sizes == {"a": 3, "b/c": 5, "b/large": 8_448_000}
    assert sorted(there.listing("b")) == ["c", "large"]
    assert there.move("b/c", "d/e")
    assert not there.move("b/c", "d/f")
    assert there.read_bytes("d/e") == b"three"
    there.remove("a")
    there.remove("a")
    there.remove_tree("b")
    there.remove_tree("b")
    assert sorted(there.listing()) == ["d/e"]
    with pytest.raises(FileNotFoundError):
        there.download("a", tmp_path / "none")


def assert_an_absent_bucket_gives_one_sentence(url: str) -> None:
    absent = url.replace("//bucket/", "//nobody/")
    with pytest.raises(StoreError) as caught:
        Store(absent)
    assert str(caught.value) == (
        f"Expected a bucket called nobody for {absent}, found none; make it, or correct the name."
    )


def test_a_bucket_that_is_absent_gives_one_sentence(url: str) -> None:
    assert_an_absent_bucket_gives_one_sentence(url)


def test_a_store_that_does_not_answer_gives_one_sentence() -> None:
    url = "s3://bucket/a?endpoint_override=127.0.0.1:9&scheme=http"
    with pytest.raises(StoreError, match=r"^Expected to reach s3://.*, found: NETWORK_CONNECTION "):
        Store(url)


class Forbidding(BaseHTTPRequestHandler):
    """Answers like S3 to a request that is not signed by anyone it knows."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


def test_missing_credentials_give_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"s3://bucket/a?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        try:
            with pytest.raises(StoreError) as caught:
                Store(url)
        finally:
            server.shutdown()
    assert str(caught.value) == (f"Expected to reach {url}, found: ACCESS_DENIED; {remote.ALLOW}.")


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        (
            "When initiating multiple part upload for key 'a' in bucket 'b': AWS Error "
            "NO_SUCH_BUCKET during CreateMultipartUpload operation: The specified bucket does not "
            "exist (Request ID: 641y)",
            "NO_SUCH_BUCKET (The specified bucket does not exist)",
            "make the bucket, or correct its name",
        ),
        (
            "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of "
            "Could not create a OAuth2 access token to authenticate the request.",
            "UNAVAILABLE (Retry policy exhausted, with a last message of Could not create a OAuth2 "
            "access token to authenticate the request)",
            remote.ALLOW,
        ),
        (
            "google::cloud::Status(UNKNOWN: Permanent error, with a last message of Could not "
            "create a OAuth2 access token to authenticate the request. The underlying error "
            "message was: Cannot open credentials file /nowhere.json error_info={reason=UNKNOWN, "
            "domain=gcloud-cpp, metadata={of=OAuth2. The underlying error message was: x}})",
            "UNKNOWN (Cannot open credentials file /nowhere.json)",
            remote.ALLOW,
        ),
        ("Something else.", "Something else", "try again, or choose another location"),
    ],
)
def test_what_client_libraries_say_becomes_a_reason_and_a_remedy(
    url: str, monkeypatch: pytest.MonkeyPatch, said: str, reason: str, remedy: str
) -> None:
    class Failing:
        def get_file_info(self, path: str) -> None:
            raise OSError(said)

    there = Remote(url)
    monkeypatch.setattr(there, "filesystem", Failing())
    with pytest.raises(StoreError) as caught:
        there.facts("a")
    assert str(caught.value) == f"Expected to read {there.url}, found: {reason}; {remedy}."


def test_the_endpoint_may_come_from_the_environment(
    url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Remote(url).write_bytes("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    assert Remote(f"{url.partition('?')[0]}?region=us-east-1").read_bytes("a") == b"1"


# Locations and their mirrors.


def test_a_location_has_a_mirror_that_knows_it(url: str, tmp_path: Path) -> None:
    place, (before, _, after) = open_place(url), url.partition("?")
    assert place.folder.is_relative_to(tmp_path / "cache")
    assert open_place(f"{before}/?{after}") == place == open_place(place)
    assert place.remote is not None
    assert place.remote.url == url == place.called()
    assert place.called("report.html") == f"{before}/report.html"
    assert place.called(place.folder / "store" / "ab") == f"{before}/store/ab"
    assert place.called("a", here=True) == f"{before}/a (here {place.folder / 'a'})"
    assert Place(tmp_path).called("a") == Place(tmp_path).called("a", here=True)
    assert Place(tmp_path).called("a") == str(tmp_path / "a")
    assert Store(place).location == url == Store(url).location
    assert Store(url).root == place.folder / "store"


def test_a_folder_that_says_that_it_is_an_object_stores_sends_nothing_anywhere(
    url: str, tmp_path: Path
) -> None:
    """As copies of object stores once did, by a file in them."""
    shutil.copytree(open_place(url).folder, tmp_path / "given")
    (tmp_path / "given" / ".raydrop-url").write_text(url)
    Store(tmp_path / "given" / "store").write("scores", CONFIG, INFO)
    open_place(tmp_path / "given").write("study.json", b"{}")
    assert Remote(url).listing() == {}


def test_study_json_is_what_the_object_store_has(url: str) -> None:
    place = open_place(url)
    path = place.folder / "study.json"
    path.write_text("left behind")
    place.refresh()
    assert not path.exists()
    Remote(url).write_bytes("study.json", b"first")
    place.refresh()
    before = path.stat()
    assert path.read_bytes() == b"first"
    place.refresh()
    assert path.stat().st_ino == before.st_ino  # not fetched again
    Remote(url).write_bytes("study.json", b"second one")
    assert (open_place(url).folder / "study.json").read_bytes() == b"second one"


# Google's.


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prefix in a stand-in for Google's object store, whose client has an account's file."""
    write_account(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with google_storage() as (place, objects):
        yield f"gs://bucket/some/prefix?endpoint_override={place}&scheme=http"
    assert objects.tokens
    assert all(token.startswith("Bearer ") for token in objects.tokens)


def test_googles_object_store_is_written_read_listed_moved_and_removed(
    google: str, tmp_path: Path
) -> None:
    _in_and_out(google, tmp_path)


def test_entries_are_kept_in_googles_object_store(
    google: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Nodes(google, tmp_path, monkeypatch)
    first = machines.store("first")
    key = first.write("scores", CONFIG, INFO, arrays()).key
    second = machines.store("second")
    assert second.keys("scores") == [key]
    assert_sound(second.find("scores", CONFIG))
    truncate(google)
    assert machines.store("third").find("scores", CONFIG) is None
    assert first.find("scores", CONFIG) is None
    assert any(name.startswith(f"scores-{key}-") for name in objects(google, "store/damaged"))


def test_a_bucket_that_google_does_not_have_gives_one_sentence(google: str) -> None:
    assert_an_absent_bucket_gives_one_sentence(google)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "UNKNOWN (Cannot open credentials file "),
        ("{", "INVALID_ARGUMENT (Cannot open credentials file "),
    ],
)
def test_googles_credentials_that_cannot_be_read_give_one_sentence(
    content: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "account.json").write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(StoreError) as caught:
        Store("gs://bucket/a?endpoint_override=127.0.0.1:9&scheme=http")
    assert f", found: {found}{tmp_path / 'account.json'}" in str(caught.value)
    assert str(caught.value).endswith(f"; {remote.ALLOW}.")
    assert "\n" not in str(caught.value)


# Entries.


def test_what_is_written_is_read_back_on_every_node(nodes: Nodes) -> None:
    first = nodes.store("first")
    written = first.write("scores", CONFIG, INFO, arrays())
    assert_sound(written)
    assert first.find("scores", CONFIG) == written
    second = nodes.store("second")
    assert second.keys("scores") == [written.key]
    peeked = second.peek("scores", written.key)
    assert peeked is not None
    assert peeked.info == INFO
    assert not peeked.path.exists()  # nothing but what it says of itself was fetched
    found = second.find("scores", CONFIG)
    assert_sound(found)
    assert found is not None
    assert found.path.is_relative_to(second.root)
    assert [entry.key for entry in second.entries("scores")] == [written.key]
    assert second.changed("scores", written.key) > 1.7e9
    assert first.damaged == second.damaged == []
    assert not list((second.root / ".incomplete").glob("*"))


def test_what_was_not_written_is_absent(url: str) -> None:
    store = Store(url)
    assert store.find("scores", CONFIG) is None
    assert store.peek("scores", "0" * 32) is None
    assert store.keys("scores") == []
    assert list(store.entries("scores")) == []
    assert store.changed("scores", "0" * 32) == 0
    store.remove("scores", "0" * 32)


def test_a_copy_of_the_prefix_is_a_store(nodes: Nodes, url: str, tmp_path: Path) -> None:
    nodes.store("first").write("scores", CONFIG, INFO, arrays())
    there = Remote(url)
    for name in there.listing():
        (tmp_path / "synced" / name).parent.mkdir(parents=True, exist_ok=True)
        there.download(name, tmp_path / "synced" / name)
    assert_sound(Store(tmp_path / "synced" / "store").find("scores", CONFIG))


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_an_interrupted_upload_is_invisible_and_is_done_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    first, done = nodes.store("first"), 0

    def interrupted(work: Callable[..., None]) -> Callable[..., None]:
        def upload(*arguments: Any) -> None:
            nonlocal done
            if done == failing:
                raise KeyboardInterrupt
            done += 1
            work(*arguments)

        return upload

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "upload", interrupted(Remote.upload))
        patch.setattr(Remote, "write_bytes", interrupted(Remote.write_bytes))
        with pytest.raises(KeyboardInterrupt):
            first.write("scores", CONFIG, INFO, arrays())
    for store in (first, nodes.store("second")):
        assert store.find("scores", CONFIG) is None
        assert store.keys("scores") == []
        assert list(store.entries("scores")) == []
        assert store.peek("scores", config_hash(CONFIG)) is None
        assert store.damaged == []
    assert_sound(first.write("scores", CONFIG, INFO, arrays()))
    assert_sound(nodes.store("second").find("scores", CONFIG))


def truncate(url: str) -> None:
    name = array_object(url)
    Remote(url).write_bytes(name, (Remote(url).read_bytes(name) or b"")[:100])


def remove_array(url: str) -> None:
    Remote(url).remove(array_object(url, "empty"))


def truncate_meta(url: str) -> None:
    name = f"store/scores/{config_hash(CONFIG)}/{META}"
    Remote(url).write_bytes(name, (Remote(url).read_bytes(name) or b"")[:50])


def lead_astray(url: str) -> None:
    """Name a file outside the entry, with hashes that are right."""
    name = f"store/scores/{config_hash(CONFIG)}/{META}"
    body = json.loads(Remote(url).read_bytes(name) or b"")
    body.pop("sha256")
    body["files"]["../../../astray"] = "0"
    sealed = body | {"sha256": entries._seal(body)}
    Remote(url).write_bytes(name, json.dumps(sealed).encode())


@pytest.mark.parametrize("damage", [truncate, remove_array, truncate_meta, lead_astray])
def test_a_damaged_entry_is_set_aside_in_the_object_store_and_written_again(
    nodes: Nodes, url: str, damage: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = nodes.store("first")
    key = first.write("scores", CONFIG, INFO, arrays()).key
    damage(url)
    second = nodes.store("second")
    assert second.find("scores", CONFIG) is None
    assert second.damaged == [f"scores/{key}"]
    assert f"sound entry scores/{key[:12]}" in caplog.text
    assert "s3://bucket/" in caplog.text
    assert objects(url) == []
    assert any(name.startswith(f"scores-{key}-") for name in objects(url, "store/damaged"))
    assert second.find("scores", CONFIG) is None
    assert second.damaged == [f"scores/{key}"]  # reported once
    # The first node's copy is sound, and yet the entry is absent, as everywhere.
    assert first.find("scores", CONFIG) is None
    assert_sound(first.write("scores", CONFIG, INFO, arrays()))
    assert_sound(second.find("scores", CONFIG))


def test_damage_of_a_mirror_is_mended_from_the_object_store(url: str) -> None:
    store = Store(url)
    entry = store.write("scores", CONFIG, INFO, arrays())
    path = entry.path / entry.files["scores"]
    path.write_bytes(path.read_bytes()[:-1])
    assert_sound(store.find("scores", CONFIG))
    assert store.damaged == []
    (entry.path / META).write_text("{}")
    assert_sound(store.find("scores", CONFIG))
    assert store.damaged == []


def test_a_mirror_that_has_more_than_the_object_store_does_not_lie(nodes: Nodes, url: str) -> None:
    store = nodes.store("first")
    entry = store.write("scores", CONFIG, INFO, arrays())
    Remote(url).remove_tree("store")
    assert entry.path.is_dir()
    assert store.keys("scores") == []
    assert store.peek("scores", entry.key) is None
    assert Store(store.location, glance=True).find("scores", CONFIG) is None
    assert store.find("scores", CONFIG) is None
    assert not entry.path.exists()


def test_what_one_node_replaces_another_reads_anew(nodes: Nodes) -> None:
    first, second = nodes.store("first"), nodes.store("second")
    first.write("failure", CONFIG, {"message": "one"})
    found = second.find("failure", CONFIG)
    assert found is not None
    assert found.info == {"message": "one"}
    first.remove("failure", found.key)
    assert second.find("failure", CONFIG) is None
    first.write("failure", CONFIG, {"message": "two"})
    found = second.find("failure", CONFIG)
    assert found is not None
    assert found.info == {"message": "two"}
    first.remove("failure", found.key)
    first.write("failure", CONFIG, {"message": "six"})  # as long, and in the same second
    again = second.peek("failure", found.key)
    assert again is not None
    assert again.info == {"message": "six"}


def test_a_second_writer_finds_the_first_ones_entry(nodes: Nodes, url: str) -> None:
    first = nodes.store("first").write("scores", CONFIG, INFO, arrays())
    before = Remote(url).listing()
    second = nodes.store("second").write("scores", CONFIG, {"seconds": 9.0}, {"x": np.ones(1)})
    assert second.info == first.info
    assert_sound(second)
    assert Remote(url).listing().keys() == before.keys()


def test_writers_whose_uploads_interleave_leave_one_sound_entry(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writes everything between the first's arrays and its ``meta.json``."""
    stores = [nodes.store("first"), nodes.store("second")]
    write_bytes = Remote.write_bytes

    def write(worker: int) -> Entry:
        mine = {"worker": np.full(1000, worker)}
        return stores[worker].write("scores", CONFIG, {"worker": worker}, mine)

    def other_first(there: Remote, name: str, content: bytes) -> None:
        monkeypatch.setattr(Remote, "write_bytes", write_bytes)
        write(1)
        write_bytes(there, name, content)

    monkeypatch.setattr(Remote, "write_bytes", other_first)
    write(0)
    found = [store.find("scores", CONFIG) for store in (*stores, nodes.store("third"))]
    for entry in found:
        assert entry is not None
        assert found[0] is not None
        assert entry.info == found[0].info
        assert (entry.array("worker") == entry.info["worker"]).all()
    assert all(store.damaged == [] for store in stores)


def test_writers_of_the_same_mirror_at_once_all_get_the_one_entry(url: str) -> None:
    def write(worker: int) -> Entry:
        mine = {"worker": np.full(1000, worker)}
        return Store(url).write("scores", CONFIG, {"worker": worker}, mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    store = Store(url)
    standing = store.find("scores", CONFIG)
    assert standing is not None
    assert (standing.array("worker") == standing.info["worker"]).all()
    assert store.damaged == []


def test_a_glance_asks_once_for_each_kind(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    store = nodes.store("first")
    monkeypatch.setattr("raydrop.store.entries._SETTLED_SECONDS", -60.0)
    keys = [store.write("trial", {"i": i}, {"i": i}).key for i in range(5)]
    for key in keys:
        store.read("trial", key)  # and now the mirror knows when they were written
    asked: list[str] = []
    for name in ("facts", "listing", "read_bytes"):
        real = getattr(Remote, name)

        def count(there: Remote, what: str, real: Any = real, name: str = name) -> Any:
            asked.append(name)
            return real(there, what)

        monkeypatch.setattr(Remote, name, count)
    glance = Store(store.location, glance=True)
    asked.clear()
    assert glance.keys("trial") == sorted(keys)
    assert all(glance.read("trial", key) is not None for key in keys)
    assert glance.read("trial", "0" * 32) is None
    assert asked == ["listing"]
    written = glance.write("trial", {"i": 5}, {})
    assert glance.read("trial", written.key) == written


def test_names_lead_nowhere(url: str) -> None:
    store = Store(url)
    Remote(url).write_bytes(f"elsewhere/{META}", b"{}")
    for key in ("../../elsewhere", "..", "", "a/b", "A", "é"):
        assert store.read("trial", key) is None
        assert store.peek("trial", key) is None
        store.remove("trial", key)
    assert objects(url, "elsewhere") == [META]
    with pytest.raises(StoreError, match=r"found '\.\./trial'\.$"):
        store.write("../trial", CONFIG, INFO)


def test_a_planted_pickle_is_not_opened(url: str) -> None:
    """An object array, with the right hash, is refused where it is read."""
    store = Store(url)
    entry = store.write("scores", CONFIG, INFO, {"scores": np.zeros(1)})
    planted = np.array([Bomb()], dtype=object)
    path = entry.path / entry.files["scores"]
    with path.open("wb") as file:
        np.save(file, planted, allow_pickle=True)
    body = json.loads((entry.path / META).read_text())
    body.pop("sha256")
    body["files"][path.name] = entries._digest(path)
    (entry.path / META).write_text(json.dumps(body | {"sha256": entries._seal(body)}))
    Remote(url).upload(path, f"store/scores/{entry.key}/{path.name}")
    Remote(url).upload(entry.path / META, f"store/scores/{entry.key}/{META}")
    found = store.find("scores", CONFIG)
    assert found is not None
    with pytest.raises(StoreError, match="found no array of numbers that NumPy saved"):
        found.array("scores")
    assert pickle.dumps(Bomb())  # it would have gone off


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was opened",)


# A study.


def test_records_from_the_object_store_are_those_of_a_folder(
    nodes: Nodes, url: str, tmp_path: Path
) -> None:
    nodes.become("first")
    SMALL.write(url)
    nodes.become("second")
    here, there = load_records(SMALL.write(tmp_path / "local")), load_records(url)
    pd.testing.assert_frame_equal(there.trials, here.trials)
    path = there.place.write("frontier.csv", b"a,b\n")
    assert path.read_bytes() == Remote(url).read_bytes("frontier.csv") == b"a,b\n"


def test_a_sweep_in_the_object_store_can_be_watched(nodes: Nodes, url: str) -> None:
    study = SMALL
    trials = study.trials()
    nodes.become("watching")
    watcher = Watcher(url)
    assert watcher.look().waiting == "no study.json there yet"
    nodes.become("working")
    study.write(url, skip=trials[1:])
    study.write_failure(url, trials[1], "loss became NaN")
    nodes.become("watching")
    snapshot = watcher.look()
    assert (snapshot.asked, snapshot.finished, snapshot.failed) == (len(trials), 1, 1)
    assert snapshot.newest > 1.7e9
    nodes.become("working")
    for trial in trials[1:]:
        study.write_trial(Store(url), trial, study.predictions(trial))
    nodes.become("watching")
    snapshot = watcher.look()
    assert snapshot.is_over
    assert snapshot.finished == len(trials)


def test_a_plan_writes_nothing_and_another_studys_prefix_is_refused(
    url: str, tmp_path: Path
) -> None:
    study = Study(
        "tiny",
        "digits+subset(12, test=6)",
        "small_cnn",
        {"method": "random", "keep_fraction": 0.5},
        seeds=(0,),
    )
    options = Options(out=Path(url), dry_run=True)
    assert run_study(study, options, Console(quiet=True)).planned == 2
    assert Remote(url).listing() == {}
    dataset = load_dataset(study.dataset)
    plan = make_plan(study, trial_configs(study, expand(study)), dataset)
    write_study_file(open_place(url), study, expand(study), plan, dataset)
    assert sorted(Remote(url).listing()) == ["study.json"]
    other = dataclasses.replace(study, budget="equal_steps")
    with pytest.raises(StudyMismatchError, match=f"^Expected {re.escape(url)} to belong to this"):
        run_study(other, options, Console(quiet=True))
    Remote(url).write_bytes("study.json", b"{")
    with pytest.raises(StudyMismatchError, match=r"^Expected s3://bucket/\w+/study.json to descr"):
        run_study(study, options, Console(quiet=True))


@pytest.mark.usefixtures("undrawn")
def test_studies_of_two_prefixes_are_laid_over_each_other(url: str) -> None:
    study, (before, _, after) = SMALL, url.partition("?")
    urls = [f"{before}/{name}?{after}" for name in ("first", "second", "both")]
    for each in urls[:2]:
        study.write(each)
    result = write_overlay(urls[:2], urls[2])
    assert list(result.studies) == ["fake (first)", "fake (second)"]
    expected = result.paths["overlay.csv"].read_bytes()
    assert Remote(urls[2]).read_bytes("overlay.csv") == expected
    with pytest.raises(ConfigError, match="found first more than once"):
        write_overlay([urls[0], urls[0]], urls[2])


# What a person types, and reads.


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> str:
    """Give a command that fails, and return its sentence."""
    monkeypatch.setattr(sys, "argv", ["raydrop", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: Expected ")
    assert "mirrors" not in line
    return line.removeprefix("Error: ")


def object_at(url: str, name: str) -> str:
    before, _, after = url.partition("?")
    return f"{before}/{name}?{after}"


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    """What ``study.json`` of a small study holds, which is also in the folder ``ran``."""
    (tmp_path / "sweep.py").write_text(SWEEP)
    study = load_sweep(tmp_path / "sweep.py")
    dataset, points = load_dataset(study.dataset), expand(study)
    plan = make_plan(study, trial_configs(study, points), dataset)
    write_study_file(Place(tmp_path / "ran"), study, points, plan, dataset)
    return (tmp_path / "ran" / "study.json").read_bytes()


def test_a_study_is_replayed_from_wherever_a_run_left_it(
    url: str, tiny: bytes, tmp_path: Path
) -> None:
    Remote(url).write_bytes("study.json", tiny)
    Remote(url).write_bytes("other.json", tiny)
    expected = load_sweep(tmp_path / "ran" / "study.json")
    assert expected.name == "tiny"
    here = (tmp_path / "ran", str(tmp_path / "ran"))
    there = (
        url,
        url.replace("?", "/?"),
        object_at(url, "study.json"),
        object_at(url, "other.json"),
    )
    for sweep in (*here, *there):
        assert load_sweep(sweep) == expected
    assert not (tmp_path / "cache").exists()


def test_a_study_of_an_object_store_is_run_into_a_folder(
    url: str, tiny: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Remote(url).write_bytes("study.json", tiny)
    out = tmp_path / "again"
    monkeypatch.setattr(sys, "argv", ["raydrop", "run", url, "--out", str(out), "--dry-run"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "found no such object; correct the location"),
        (b"{", "found a problem (Expecting property name"),
        (b"\xff\xfe{", "found a problem ("),
        (b"[1]", "found a problem (no JSON object); use the one in an output folder."),
        (b'{"study": 1}', "found a problem (it holds no study); use"),
        (b'{"study": {"nmae": "a"}}', "found a problem (Unknown field of a study 'nmae'"),
    ],
)
def test_what_is_no_study_in_an_object_store_gives_one_sentence(
    url: str,
    content: bytes | None,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        Remote(url).write_bytes("study.json", content)
    for sweep in (url, object_at(url, "study.json")):
        line = said(monkeypatch, capsys, "run", sweep, "--out", tmp_path / "out")
        assert object_at(url, "study.json") in line
        assert found in line
    assert not (tmp_path / "out").exists()


def test_a_script_in_an_object_store_is_not_run(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Remote(url).write_bytes("sweep.py", b"import pytest; pytest.fail('it was run')")
    place = object_at(url, "sweep.py")
    line = said(monkeypatch, capsys, "run", place)
    assert line.startswith(f"Expected a sweep script on this machine, found {place};")


COMMANDS = (
    ["frontier", "URL"],
    ["frontier", "URL", "--pdf"],
    ["frontier", "URL", "URL/other", "--out", "URL/both"],
    ["export", "URL", "--format", "csv"],
)


def test_sentences_about_a_study_name_the_url_that_was_given(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(sentence: str) -> None:
        for command in COMMANDS:
            words = [
                object_at(url, word[4:]) if word.startswith("URL/") else word.replace("URL", url)
                for word in command
            ]
            assert sentence in said(monkeypatch, capsys, *words), command

    there = Remote(url)
    told(f"Expected a study.json in {url}, found none;")
    there.write_bytes("study.json", b"{}")
    place = object_at(url, "study.json").partition("?")[0]
    told(f" in {place}, found: no ")
    SMALL.write(url, skip=SMALL.trials())
    content = there.read_bytes("study.json") or b""
    told(f"Expected at least one finished trial in {url}, found none of ")
    old = json.dumps(json.loads(content) | {"schema": 1, "created": "before"}).encode()
    there.write_bytes("study.json", old)
    told(f" in {place}, found: schema 1; ")
    assert {name.partition("/")[0] for name in there.listing()} == {"store", "study.json"}


def test_sentences_of_other_commands_name_it_too(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there, study = Remote(url), SMALL
    line = said(monkeypatch, capsys, "ship", url, "ab", "--out", tmp_path / "a.raydrop")
    assert line.startswith(f"Expected finished trials in {url}, found none")
    study.write(url)
    for words in (
        ["frontier", url, "--by", "group"],
        ["frontier", url, "--by", "group", "--watch"],
    ):
        line = said(monkeypatch, capsys, *words)
        assert line.startswith(f"Expected groups in the data of {url} for --by group, found none")
    line = said(monkeypatch, capsys, "ship", url, "zz", "--out", tmp_path / "a.raydrop")
    assert line.startswith(f"Expected the id of a trial in {url}, found 'zz'")
    there.write_bytes("study.json", b'{"schema": 1}')
    line = said(monkeypatch, capsys, "frontier", url, "--watch")
    assert f" in {object_at(url, 'study.json').partition('?')[0]}, found: schema 1" in line


def test_studies_that_cannot_stand_beside_each_other_are_named_by_their_urls(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = SMALL
    urls = [object_at(url, name) for name in ("first", "second")]
    for each, fingerprint in zip(urls, ("1" * 64, "2" * 64), strict=True):
        monkeypatch.setattr("fake_study.FINGERPRINT", fingerprint)
        study.write(each)
    with pytest.raises(StudyMismatchError) as caught:
        write_overlay(urls, object_at(url, "both"))
    for each in urls:
        assert f" in {each}" in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["select", "URL", "--keep-fraction", "0.5"],
        ["select", "a.parquet", "--keep-fraction", "0.5", "--out", "URL"],
        ["select", "a.parquet", "--keep-fraction", "0.5", "--recalls", "URL"],
        ["score", "--data", "digits", "--model", "small_cnn", "--method", "el2n", "--out", "URL"],
        ["export", "results", "--format", "csv", "--out", "URL"],
        ["ship", "results", "ab", "--out", "URL"],
        ["theory", "--out", "URL"],
    ],
    ids=lambda words: f"{words[0]} {words[words.index('URL') - 1]}",
)
def test_a_url_for_a_single_file_is_refused_and_makes_no_folders(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "s3://bucket/a/file.csv"
    line = said(monkeypatch, capsys, *(word.replace("URL", url) for word in words))
    assert line.startswith("Expected a file on this machine for ")
    assert f", found {url}; name a file here" in line
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_beneath_a_mirror_is_told_as_that(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another --out would change nothing: the copy would lie on the same disk."""
    store = Store(url)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("raydrop.store.entries.os.fsync", full)
    with pytest.raises(StoreError) as caught:
        store.write("scores", CONFIG, INFO, arrays())
    place = object_at(url, "store").partition("?")[0]
    assert str(caught.value) == (
        f"Expected to keep a copy of {place} in {store.root}, found: No space left on device; "
        "free space there, allow writing, or set RAYDROP_CACHE to another folder."
    )
    assert Remote(url).listing() == {}


SWEEP = """
from raydrop import Study, Training

study = Study(
    name="tiny",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={
        "method": {"grid_search": ["random", "el2n"]},
        "quotas": {"grid_search": ["none", "drop"]},
        "keep_fraction": 0.5,
    },
    seeds=(0, 1),
    training=Training(epochs=30),
    recall_smoothing=1.0,
)
"""
PLANNED = 10


@contextlib.contextmanager
def two_machines(environment: dict[str, str]) -> Iterator[str]:
    """Give the address of a cluster of two nodes, the second with an environment of its own."""
    from ray._private.authentication import authentication_token_setup as authentication
    from ray.cluster_utils import Cluster

    authentication.enable_token_auth_by_default()
    authentication.ensure_token_if_auth_enabled()
    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    head = {**size, "node_ip_address": "127.0.0.22", "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        # Whoever calls ray.init on this machine meanwhile is not to find this cluster.
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
        patch.setattr("ray._common.utils.reset_ray_address", lambda *_: None)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**size, node_ip_address="127.0.0.23", env_vars=environment)
            yield cluster.address
        finally:
            cluster.shutdown()


def table_of_this_process(study: Study, out: Path) -> bytes:
    """Run a study without Ray, and return its frontier.csv."""
    points, data, store = expand(study), prepare(load_dataset(study.dataset)), Store(out / "store")
    dataset = data.dataset
    plan = make_plan(study, trial_configs(study, points), dataset)
    write_study_file(open_place(out), study, points, plan, dataset)
    save_data_card(dataset, store)
    worker = GradientWorker(data, study.model)
    gradients = ShardedGradients(LocalExecutor(worker), dataset.train.ids)
    for query in plan.queries:
        run_query(study, query, data, store, "cpu")
    for score in plan.scores:
        run_score(study, score, dataset.train, store, gradients)
    for trial in plan.trials:
        run_trial(study, trial, data, store, "cpu")
    records = load_records(out)
    return csv_text(as_filed(table_of(records, resample(records)))).encode()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_killed_is_resumed_from_the_object_store(
    nodes: Nodes,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP)
    command = [sys.executable, "-m", "raydrop", "run", str(tmp_path / "sweep.py")]
    command += ["--out", url, "--num-cpus", "1"]
    there = Remote(url)

    def records() -> dict[str, bytes | None]:
        names = [f"store/trial/{name}" for name in there.listing("store/trial")]
        return {name: there.read_bytes(name) for name in names if name.endswith(META)}

    nodes.become("first")
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while killed.poll() is None and not records():
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.wait()
    finished = records()
    while (time.sleep(3), len(found := records()))[1] != len(finished):
        finished = found  # a trial that was about to end
    assert 1 <= len(finished) < PLANNED
    assert there.read_bytes("frontier.csv") is None

    nodes.become("second")  # which has nothing but what the object store has
    study, printed = load_sweep(tmp_path / "sweep.py"), io.StringIO()
    with two_machines({places.CACHE: str(tmp_path / "third")}) as address:
        options = Options(out=Path(url), address=address)
        outcome = run_study(study, options, Console(file=printed, width=200))
    assert outcome == Outcome(PLANNED, 0)
    left = PLANNED - len(finished)
    assert re.search(rf"trials +{PLANNED}, of which to do +{left}\b", printed.getvalue())
    after = records()
    assert len(after) == PLANNED
    assert {name: after[name] for name in finished} == finished  # none was trained again
    assert there.listing("tune") == {}
    assert list((tmp_path / "third").glob("mirrors/*/store/*"))  # it took part, in its own mirror

    undisturbed = table_of_this_process(study, tmp_path / "local")
    nodes.become("fourth")
    monkeypatch.setattr(sys, "argv", ["raydrop", "frontier", url])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert f"Report: {url.partition('?')[0]}/report.html (here " in capsys.readouterr().out
    assert there.read_bytes("frontier.csv") == undisturbed
    other = dataclasses.replace(study, budget="equal_steps")
    with pytest.raises(StudyMismatchError, match=f"^Expected {re.escape(url)} to belong to this"):
        run_study(other, Options(out=Path(url)), Console(quiet=True))
    assert records() == after


# Data.


@pytest.fixture
def birds(url: str, tmp_path: Path) -> str:
    """A folder of images in the object store; returns what it lies in."""
    for split, cls, number in itertools.product(("train", "val", "test"), "ab", range(3)):
        path = tmp_path / "birds" / split / cls / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (6, 5), (number, ord(cls), len(split))).save(path)
        Remote(url).upload(path, f"birds/{split}/{cls}/{number}.png")
    return url


def test_data_in_an_object_store_are_those_of_the_folder(
    birds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_dataset("imagefolder:birds", str(tmp_path))
    there = load_dataset("imagefolder:birds", birds)
    assert there.fingerprint == here.fingerprint
    images = there.train.inputs
    assert isinstance(images, FileImages)
    assert images.root.startswith(str(tmp_path / "cache" / "data"))
    assert images.open(2).tobytes() == here.train.inputs.open(2).tobytes()
    # Another process of this machine copies nothing.
    places.copied.cache_clear()
    monkeypatch.setattr(Remote, "download", pytest.fail)
    assert load_dataset("imagefolder:birds", birds).fingerprint == here.fingerprint


def test_another_machine_copies_the_data_itself(nodes: Nodes, birds: str, tmp_path: Path) -> None:
    nodes.become("driver")
    images = pickle.dumps(load_dataset("imagefolder:birds", birds).train.inputs)
    shutil.rmtree(tmp_path / "driver")
    nodes.become("worker")
    places.copied.cache_clear()
    assert pickle.loads(images).open(0).size == (6, 5)
    assert any((tmp_path / "worker").rglob("0.png"))


def test_a_copy_that_was_interrupted_is_completed(
    birds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    download, done = Remote.download, list[str]()

    def interrupted(there: Remote, name: str, path: Path) -> None:
        if len(done) == 5:
            raise StoreError("the connection broke")
        done.append(name)
        download(there, name, path)

    monkeypatch.setattr(remote, "TRANSFERS", 1)
    monkeypatch.setattr(Remote, "download", interrupted)
    with pytest.raises(DataError, match="the connection broke"):
        load_dataset("imagefolder:birds", birds)
    monkeypatch.setattr(Remote, "download", lambda *a: (done.append(a[1]), download(*a)))
    assert len(load_dataset("imagefolder:birds", birds).train) == 6
    assert len(done) == len(set(done)) == 18


def test_data_that_are_not_there_give_one_sentence(url: str) -> None:
    with pytest.raises(DataError, match=r"^Expected data at s3://.*/absent\?.*, found nothing; co"):
        load_dataset("imagefolder:absent", url)


def test_names_of_data_that_lead_elsewhere_are_refused(birds: str, tmp_path: Path) -> None:
    request = f"http://{birds.rpartition('override=')[2].partition('&')[0]}/bucket/"
    prefix = birds.partition("bucket/")[2].partition("?")[0]
    put = urllib.request.Request(
        f"{request}{prefix}/birds/%2E%2E/%2E%2E/astray", data=b"1", method="PUT"
    )
    with urllib.request.urlopen(put):
        pass
    with pytest.raises(DataError, match=r"found '\.\./\.\./astray'; remove what is called so"):
        load_dataset("imagefolder:birds", birds)
    assert not list(tmp_path.rglob("astray"))


def test_torchvisions_folder_comes_from_the_object_store(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Remote(url).write_bytes("data/MNIST/raw/train-images-idx3-ubyte", b"pixels")
    found = []

    class Official:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            found.append((Path(root) / "MNIST/raw/train-images-idx3-ubyte").read_bytes())
            raise RuntimeError("enough")

    monkeypatch.setattr(torchvision.datasets, "MNIST", Official)
    with pytest.raises(DataError, match="enough"):
        load_dataset("mnist", url.replace("?", "/data?"))
    assert found == [b"pixels"]


def test_downloads_into_one_folder_happen_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most = 0, 0

    class Official:
        def __init__(self, root: str, download: bool) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.2)
            inside -= 1

    monkeypatch.setattr(torchvision.datasets, "MNIST", Official)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: download("mnist", "MNIST", tmp_path), range(3)))
    assert most == 1
