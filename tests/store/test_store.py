from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydrop.errors import StoreError
from raydrop.store import META, Entry, Store
from raydrop.study import config_hash

CONFIG = {"method": "el2n", "seed": 0, "milestones": (0.5, 0.75)}
INFO = {"seconds": 1.5, "note": "ü"}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "scores": np.linspace(0, 1, 7),
        "a.b-c": np.arange(6, dtype=np.int32).reshape(2, 3),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def everything_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def assert_sound(entry: Entry | None, store: Store) -> None:
    assert entry is not None
    assert (entry.kind, entry.key) == ("scores", config_hash(CONFIG))
    assert entry.config == {"method": "el2n", "seed": 0, "milestones": [0.5, 0.75]}
    assert entry.info == INFO
    assert entry.path == store.root / "scores" / entry.key
    assert set(entry.names) == set(arrays())
    for name, expected in arrays().items():
        found = entry.arrays()[name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, strict=True)


def test_what_is_written_is_read_back(store: Store) -> None:
    written = store.write("scores", CONFIG, INFO, arrays())
    assert_sound(written, store)
    assert_sound(store.read("scores", written.key), store)
    assert_sound(store.find("scores", CONFIG), store)
    assert store.find("scores", CONFIG) == written  # the same values on both ways
    assert_sound(Store(store.root).find("scores", CONFIG), store)
    assert store.damaged == []


def test_an_entry_may_hold_findings_alone(store: Store) -> None:
    store.write("trial", {"a": 1}, {"by_class": dict.fromkeys(range(12), 0.5)})
    entry = store.find("trial", {"a": 1})
    assert entry is not None
    assert entry.names == ()
    assert entry.info["by_class"]["11"] == 0.5  # keys of JSON are texts


def test_what_was_not_written_is_absent(store: Store) -> None:
    assert store.read("scores", "0" * 32) is None
    assert list(store.entries("scores")) == []
    store.write("scores", CONFIG, INFO)
    assert store.find("scores", {**CONFIG, "seed": 1}) is None
    assert store.find("query", CONFIG) is None


def test_entries_come_in_the_order_of_their_keys_without_the_damaged(store: Store) -> None:
    written = [store.write("trial", {"i": i}, {"i": i}) for i in range(5)]
    (written[2].path / META).unlink()
    (store.root / "trial" / "stray.txt").write_text("not an entry")
    keys = [entry.key for entry in store.entries("trial")]
    assert keys == sorted(entry.key for entry in written if entry is not written[2])
    assert store.damaged == [f"trial/{written[2].key}"]


def test_remove_forgets_an_entry_and_tolerates_its_absence(store: Store) -> None:
    entry = store.write("scores", CONFIG, INFO)
    store.remove("scores", entry.key)
    store.remove("scores", entry.key)
    assert store.find("scores", CONFIG) is None
    assert store.damaged == []


def test_arrays_can_be_memory_mapped_and_are_then_read_only(store: Store) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    mapped = entry.array("scores", mmap=True)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, arrays()["scores"])
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1
    assert entry.array("empty", mmap=True).shape == (0, 3)


def truncate_array(place: Path) -> None:
    os.truncate(place / "scores.npy", 100)


def empty_array(place: Path) -> None:
    (place / "scores.npy").write_bytes(b"")


def flip_a_bit(place: Path) -> None:
    data = bytearray((place / "scores.npy").read_bytes())
    data[-1] ^= 1
    (place / "scores.npy").write_bytes(bytes(data))


def swap_two_arrays(place: Path) -> None:
    (place / "scores.npy").rename(place / "other")
    (place / "a.b-c.npy").rename(place / "scores.npy")
    (place / "other").rename(place / "a.b-c.npy")


def remove_array(place: Path) -> None:
    (place / "empty.npy").unlink()


def truncate_meta(place: Path) -> None:
    os.truncate(place / META, 50)


def empty_meta(place: Path) -> None:
    (place / META).write_text("")


def remove_meta(place: Path) -> None:
    (place / META).unlink()


def garble_meta(place: Path) -> None:
    (place / META).write_bytes(b"\xff\xfe{}")


def number_for_meta(place: Path) -> None:
    (place / META).write_text("3")


def alter_finding(place: Path) -> None:
    edit_meta(place, lambda body: body["info"].update(seconds=0.5))


def alter_config(place: Path) -> None:
    edit_meta(place, lambda body: body["config"].update(seed=1))


def forget_hash(place: Path) -> None:
    edit_meta(place, lambda body: body.pop("sha256"))


def edit_meta(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads((place / META).read_text())
    change(body)
    (place / META).write_text(json.dumps(body))


DAMAGES = [
    truncate_array, empty_array, flip_a_bit, swap_two_arrays, remove_array, truncate_meta,
    empty_meta, remove_meta, garble_meta, number_for_meta, alter_finding, alter_config, forget_hash,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_set_aside_reported_and_written_again(
    store: Store, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    other = store.write("scores", {"seed": 9}, {})
    damage(entry.path)
    with caplog.at_level(logging.WARNING, logger="raydrop"):
        assert store.find("scores", CONFIG) is None
    assert store.damaged == [f"scores/{entry.key}"]
    assert f"sound entry scores/{entry.key[:12]}" in caplog.text
    aside = list((store.root / "damaged").iterdir())
    assert [path.name.startswith(f"scores-{entry.key}-") for path in aside] == [True]
    assert store.find("scores", CONFIG) is None  # absent now, and reported once
    assert len(store.damaged) == 1
    store.write("scores", CONFIG, INFO, arrays())
    assert_sound(store.find("scores", CONFIG), store)
    assert store.find("scores", {"seed": 9}) == other


@pytest.mark.parametrize("damage", DAMAGES)
def test_writing_replaces_a_damaged_entry_that_nobody_read(
    store: Store, damage: Callable[[Path], None]
) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    damage(entry.path)
    assert_sound(store.write("scores", CONFIG, INFO, arrays()), store)
    assert_sound(store.find("scores", CONFIG), store)
    assert store.damaged == [f"scores/{entry.key}"]


def test_an_entry_in_the_place_of_another_is_damaged(store: Store) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    shutil.copytree(entry.path, store.root / "query" / entry.key)
    shutil.copytree(entry.path, store.root / "scores" / ("0" * 32))
    assert store.find("query", CONFIG) is None
    assert store.read("scores", "0" * 32) is None
    assert len(store.damaged) == 2
    assert_sound(store.find("scores", CONFIG), store)


def test_a_file_that_does_not_belong_to_an_entry_does_no_harm(store: Store) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    (entry.path / ".nfs0001").write_text("left by a network file system")
    assert_sound(store.find("scores", CONFIG), store)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_an_interruption_while_writing_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls = 0

    def interrupt(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.write("scores", CONFIG, INFO, arrays())
    assert calls == failing
    assert everything_below(store.root) == []
    assert store.find("scores", CONFIG) is None
    assert_sound(store.write("scores", CONFIG, INFO, arrays()), store)


def test_a_writer_that_was_killed_leaves_no_entry(store: Store) -> None:
    work = store.root / ".incomplete" / "0123"
    work.mkdir(parents=True)
    (work / "scores.npy").write_bytes(b"half")
    assert store.find("scores", CONFIG) is None
    assert_sound(store.write("scores", CONFIG, INFO, arrays()), store)
    assert store.damaged == []


@pytest.mark.parametrize(
    ("info", "values", "error", "message"),
    [
        ({}, np.array([None]), ValueError, "Object arrays cannot be saved"),
        ({"loss": float("nan")}, np.zeros(2), ValueError, "not JSON compliant"),
        ({"loss": np.zeros(2)}, np.zeros(2), TypeError, "ndarray is not JSON serializable"),
    ],
)
def test_what_would_need_pickle_or_is_no_json_is_refused_and_leaves_nothing(
    store: Store, info: dict[str, Any], values: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        store.write("scores", CONFIG, info, {"fine": np.zeros(2), "values": values})
    assert everything_below(store.root) == []
    assert list((store.root / ".incomplete").iterdir()) == []


def test_a_second_writer_finds_the_first_ones_entry(store: Store) -> None:
    first = store.write("scores", CONFIG, INFO, arrays())
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    second = Store(store.root).write("scores", CONFIG, {"seconds": 9.0}, {"scores": np.ones(1)})
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    assert list((store.root / ".incomplete").iterdir()) == []


def test_writers_of_the_same_key_at_once_all_get_the_one_entry(store: Store) -> None:
    def write(worker: int) -> Entry:
        mine = {"worker": np.full(1000, worker)}
        return Store(store.root).write("scores", CONFIG, {"worker": worker}, mine)

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(write, range(24)))
    standing = store.find("scores", CONFIG)
    assert standing is not None
    assert all(entry == standing for entry in entries)
    assert (standing.array("worker") == standing.info["worker"]).all()
    assert store.damaged == []
    assert list((store.root / ".incomplete").iterdir()) == []


def test_readers_that_find_the_same_damage_at_once_both_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    flip_a_bit(entry.path)
    replace = Path.replace

    def late(path: Path, target: Path) -> Path:
        replace(path, target)
        raise FileNotFoundError(errno.ENOENT, "moved by another reader")

    monkeypatch.setattr(Path, "replace", late)
    assert store.find("scores", CONFIG) is None
    assert store.damaged == []  # the other reader reports it


@pytest.mark.parametrize(
    ("function", "number"),
    [
        ("fsync", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("mkdir", errno.EACCES),
        ("mkdir", errno.EROFS),
    ],
)
def test_a_folder_that_cannot_be_written_gives_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(StoreError) as caught:
            store.write("scores", CONFIG, INFO, arrays())
    assert str(caught.value) == (
        f"Expected to write results to {store.root}, found: {os.strerror(number)}; "
        "free space there, allow writing, or choose another folder with --out."
    )
    assert not store.root.exists() or everything_below(store.root) == []


def test_a_failed_rename_is_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(StoreError, match=r"found: Permission denied; free space there"):
            store.write("scores", CONFIG, INFO, arrays())
    assert everything_below(store.root) == []
    assert store.find("scores", CONFIG) is None


def test_a_file_in_the_place_of_the_folder_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match=r"write results to .*out, found: (Not a dir|File exists)"):
        Store(tmp_path / "out").write("scores", CONFIG, INFO)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_an_entry_that_cannot_be_read_is_not_taken_for_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.write("scores", CONFIG, INFO, arrays())

    def fail(path: Path, *args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(StoreError, match=f"Expected to read .*{os.strerror(number)}; allow"):
            store.find("scores", CONFIG)
    assert_sound(store.find("scores", CONFIG), store)
    assert store.damaged == []


def test_damage_that_cannot_be_moved_aside_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    flip_a_bit(entry.path)

    def fail(path: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", fail)
    message = (
        r"^Expected a sound entry at .*, found that scores.npy does not match its hash, "
        r"and it cannot be moved aside \(Read-only file"
    )
    with pytest.raises(StoreError, match=message):
        store.find("scores", CONFIG)
    with pytest.raises(StoreError, match=message):  # and not a sentence within a sentence
        store.write("scores", CONFIG, INFO, arrays())
    assert store.damaged == []


def test_a_relative_folder_means_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"))
    entry = store.write("kind", {"a": 1}, {})
    monkeypatch.chdir("/")
    assert store.read("kind", entry.key) == entry


# Links: whoever made the folder may have put them there, and none is followed.


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the reader's, with an entry of a store in it."""
    folder = tmp_path / "outside"
    Store(folder).write("scores", CONFIG, INFO, arrays())
    (folder / "precious").mkdir()
    (folder / "precious" / "text").write_text("kept")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in everything_below(folder)}


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read("scores", config_hash(CONFIG)),
    "read the reader's": lambda store: store.read("scores", "precious"),
    "peek": lambda store: store.peek("scores", config_hash(CONFIG)),
    "keys": lambda store: store.keys("scores"),
    "entries": lambda store: list(store.entries("scores")),
    "changed": lambda store: store.changed("scores", config_hash(CONFIG)),
    "remove": lambda store: store.remove("scores", config_hash(CONFIG)),
    "remove the reader's": lambda store: store.remove("scores", "precious"),
    "write": lambda store: store.write("scores", CONFIG, INFO, arrays()),
    "write another": lambda store: store.write("scores", {"seed": 9}, INFO, arrays()),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("level", ["store", "kind"])
def test_a_linked_store_or_kind_is_refused_whatever_is_asked_of_it(
    tmp_path: Path, outside: Path, level: str, operation: Callable[[Store], object]
) -> None:
    store = Store(tmp_path / "out" / "store")
    link = store.root if level == "store" else store.root / "scores"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if level == "store" else outside / "scores")
    (outside / "scores" / "precious").mkdir()
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=f"^Expected a folder at {link}, found a link; .*[.]$"):
        operation(store)
    assert contents(tmp_path) == before
    assert (outside / "scores" / "precious").is_dir()
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["damaged", ".incomplete"])
def test_nothing_is_moved_or_written_through_a_link(store: Store, outside: Path, name: str) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    flip_a_bit(entry.path)
    shutil.rmtree(store.root / name, ignore_errors=True)
    (store.root / name).symlink_to(outside)
    before, entries = contents(outside), everything_below(store.root / "scores")
    with pytest.raises(StoreError, match=f"Expected a folder at .*{name}, found a link; "):
        Store(store.root).write("scores", CONFIG, INFO, arrays())
    assert contents(outside) == before
    assert everything_below(store.root / "scores") == entries


def test_an_entry_that_is_a_link_is_set_aside_and_where_it_leads_stays(
    store: Store, outside: Path
) -> None:
    key = config_hash(CONFIG)
    (store.root / "scores").mkdir(parents=True)
    (store.root / "scores" / key).symlink_to(outside / "scores" / key)
    before = contents(outside)
    assert store.keys("scores") == []
    assert store.peek("scores", key) is None
    assert store.changed("scores", key) == 0
    assert store.find("scores", CONFIG) is None
    assert store.damaged == [f"scores/{key}"]
    assert_sound(store.write("scores", CONFIG, INFO, arrays()), store)
    assert contents(outside) == before


def test_removing_an_entry_that_is_a_link_removes_the_link(store: Store, outside: Path) -> None:
    (store.root / "scores").mkdir(parents=True)
    (store.root / "scores" / "precious").symlink_to(outside / "precious")
    store.remove("scores", "precious")
    assert not (store.root / "scores" / "precious").is_symlink()
    assert (outside / "precious" / "text").read_text() == "kept"


@pytest.mark.parametrize("name", [META, "scores.npy"])
def test_a_file_of_an_entry_that_is_a_link_is_damage(
    store: Store, outside: Path, name: str
) -> None:
    entry = store.write("scores", CONFIG, INFO, arrays())
    (entry.path / name).unlink()
    (entry.path / name).symlink_to(outside / "scores" / entry.key / name)  # the very same content
    peeked = store.peek("scores", entry.key)
    if name == META:
        assert peeked is None
    else:
        with pytest.raises(StoreError, match=r"^Expected an array at .*, found a link"):
            entry.array("scores")
        with pytest.raises(StoreError, match=r"^Expected an array at .*, found a link"):
            entry.array("scores", mmap=True)
    assert store.find("scores", CONFIG) is None
    assert store.damaged == [f"scores/{entry.key}"]


def test_the_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "out" / "store")
    store.write("scores", CONFIG, INFO, arrays())
    assert_sound(store.find("scores", CONFIG), store)
