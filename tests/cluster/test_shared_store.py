"""Machines that could not leave results are refused; no Ray here, machines are folders."""

from __future__ import annotations

import errno
import pickle
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydrop.cluster import shared_store
from raydrop.cluster.shared_store import Answer, SharedStore, clock_skew, refuse_unfit, shared
from raydrop.errors import ConfigError, StoreError
from raydrop.store import Store

SHARED = SharedStore("/home/me/results/store", ".incomplete/marker")
NO_DISK = StoreError("Expected to write results to s3://bucket/a, found: no room; allow it.")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_store, "_PATIENCE_SECONDS", 0.3)


def refusing(kind: type[OSError], code: int, name: str) -> Callable[..., Any]:
    """Stand in for a call that is refused below ``.incomplete``; root is refused nothing."""
    real = getattr(Path, name)

    def call(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.parent.name == ".incomplete":
            raise kind(code, errno.errorcode[code].lower())
        return real(path, *args, **kwargs)

    return call


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


# A place, opened.


def test_a_machine_that_sees_the_marker_opens_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.write("trial", {"a": 1}, {})
    with shared(store) as place:
        there: SharedStore = pickle.loads(pickle.dumps(place))  # as it travels
        assert there.open().read("trial", entry.key) == entry
    assert files_in(tmp_path / "store") == ["meta.json"]


def test_a_machine_with_a_folder_of_its_own_does_not_open_it(tmp_path: Path) -> None:
    """Nor one where an earlier run with that folder left things behind."""
    with shared(Store(tmp_path / "driver")) as earlier:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "trial").mkdir()
    for name in ("other", "driver", "absent"):
        with pytest.raises(StoreError, match=r"driver's folder on every machine, found another or"):
            SharedStore(tmp_path / name, earlier.marker).open()
    assert not (tmp_path / "absent").exists()


def test_without_a_marker_nothing_is_looked_for_or_written(tmp_path: Path) -> None:
    assert SharedStore(tmp_path).open().root == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "code", "what"),
    [
        ("stat", errno.EACCES, "read"),
        ("stat", errno.ESTALE, "read"),
        ("write_text", errno.EROFS, "write results to"),
        ("write_text", errno.EACCES, "write results to"),
        ("unlink", errno.EPERM, "write results to"),
    ],
)
def test_a_machine_that_may_not_read_or_write_says_so_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, what: str
) -> None:
    sentence = (
        f"Expected to {what} {tmp_path} on {platform.node()}, found: "
        f"{errno.errorcode[code].lower()}; free space there, allow whoever runs Ray on that machine"
        " to read and write it, or choose another folder with --out."
    )
    with shared(Store(tmp_path)) as place:
        with monkeypatch.context() as patch:
            patch.setattr(Path, call, refusing(OSError, code, call))
            with pytest.raises(StoreError) as caught:
                place.open()
            answer, _ = shared_store._look(place)
        assert str(caught.value) == sentence
        assert answer == Answer(refusal=sentence)
        assert place.open().root == tmp_path  # a refusal is not remembered


def test_a_process_tries_to_write_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[SharedStore] = []
    monkeypatch.setattr(SharedStore, "try_writing", lambda place: tried.append(place))
    with shared(Store(tmp_path)) as place:
        for _ in range(3):
            place.open()
    assert tried == [place]


def test_what_is_written_for_a_try_is_removed(tmp_path: Path) -> None:
    with shared(Store(tmp_path)) as place:
        place.try_writing()
        assert files_in(tmp_path) == [Path(place.marker).name]


def test_an_object_store_is_tried_the_way_results_go(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []

    class Bucket:
        def __init__(self, location: str | Path) -> None:
            assert location == "s3://bucket/a"

        def write(self, kind: str, config: dict[str, Any], info: dict[str, Any]) -> None:
            done.append(("write", shared_store.config_hash(config)))

        def remove(self, kind: str, key: str) -> None:
            done.append(("remove", key))

    monkeypatch.setattr(shared_store, "Store", Bucket)
    place = SharedStore("s3://bucket/a")
    place.try_writing()
    place.try_writing()
    assert [what for what, _ in done] == ["write", "remove"] * 2
    assert done[0][1] == done[1][1] != done[2][1]  # machines at work at once do not meet

    def refuse(*_: Any) -> None:
        raise NO_DISK

    monkeypatch.setattr(Bucket, "write", refuse)
    assert shared_store._look(place)[0] == Answer(refusal=str(NO_DISK))
    with pytest.raises(StoreError, match="found: no room"):
        place.open()


def test_a_store_that_cannot_be_marked_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with (
        pytest.raises(StoreError, match="Expected to write results to"),
        shared(Store(tmp_path / "store")),
    ):
        pass


# What machines say.


def test_machines_that_see_the_place_are_fine() -> None:
    refuse_unfit(SHARED, {})
    refuse_unfit(SHARED, {"10.0.0.2": Answer(), "10.0.0.3": Answer(skew=-299.0)})


def test_a_folder_that_others_do_not_see_gives_one_sentence() -> None:
    said = {"10.0.0.2": Answer(), "10.0.0.4": Answer(sees=False), "10.0.0.3": Answer(sees=False)}
    with pytest.raises(ConfigError) as caught:
        refuse_unfit(SHARED, said)
    assert str(caught.value) == (
        "Expected every machine of the cluster to see /home/me/results/store, found that 2 of the "
        "3 others do not, such as 10.0.0.3; name a folder that all machines share, or "
        "s3://BUCKET/PREFIX, with --out."
    )


def test_a_machine_that_may_not_write_gives_one_sentence() -> None:
    said = {"10.0.0.3": Answer(refusal=str(NO_DISK)), "10.0.0.2": Answer()}
    with pytest.raises(ConfigError) as caught:
        refuse_unfit(SharedStore("s3://bucket/a"), said)
    assert str(caught.value) == (
        "Expected every machine of the cluster to read and write s3://bucket/a, found that 1 of "
        "the 2 others cannot, such as 10.0.0.3: Expected to write results to s3://bucket/a, found: "
        "no room; allow it."
    )


@pytest.mark.parametrize(
    ("skew", "text"),
    [
        (301.0, "5 minutes ahead of"),
        (-359.0, "5 minutes behind"),
        (3 * 3600.0 + 59, "3 hours ahead of"),
        (-400 * 86400.0, "400 days behind"),
    ],
)
def test_a_clock_that_is_wrong_gives_one_sentence(skew: float, text: str) -> None:
    said = {
        "10.0.0.2": Answer(skew=2.0),
        "10.0.0.3": Answer(skew=skew),
        # Why it is out of reach may well be the time.
        "10.0.0.4": Answer(refusal=str(NO_DISK), skew=300.5),
        "10.0.0.5": Answer(sees=False),
    }
    with pytest.raises(ConfigError) as caught:
        refuse_unfit(SHARED, said)
    assert str(caught.value) == (
        f"Expected the clocks of all machines to agree within 5 minutes, found that of 10.0.0.3 at "
        f"least {text} this machine's (2 of the 4 others differ too much); set whichever is wrong "
        "with `timedatectl set-ntp true` or chrony, since object stores refuse requests signed "
        "with a wrong time, and times in logs and results would mislead."
    )


def test_a_machine_of_several_nodes_counts_once_with_the_worst_that_they_say() -> None:
    joined = Answer(skew=3.0).joined(Answer(refusal="no", skew=-40.0)).joined(Answer(sees=False))
    assert joined == Answer(sees=False, refusal="no", skew=-40.0)


def test_skew_is_never_more_than_it_is() -> None:
    """Whatever time question and answer take; and with quick ones it is found."""
    for wrong in (-1000.0, -3.0, 0.0, 0.5, 1000.0):
        for there, back in ((0.0, 0.0), (30.0, 0.25), (0.25, 30.0), (60.0, 60.0)):
            sent = 1000.0
            told, received = sent + there + wrong, sent + there + back
            found = clock_skew(sent, told, received)
            assert found == 0.0 or found * wrong > 0
            assert abs(found) <= abs(wrong)
            assert abs(found - wrong) <= max(there, back)


@pytest.mark.parametrize("skew", [-1000.0, 0.0, 1000.0])
def test_what_a_machine_tells_is_compared_with_the_time_here(
    monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    monkeypatch.setattr(shared_store.ray, "get", lambda *_, **__: (Answer(), 5000.0 + skew))
    answer = shared_store._answer("reference", 4990.0, 5010.0)
    assert answer.skew == pytest.approx(skew, abs=10.0)


def test_a_machine_that_does_not_answer_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise shared_store.ray.exceptions.GetTimeoutError

    monkeypatch.setattr(shared_store.ray, "get", silent)
    said = {"10.0.0.2": shared_store._answer("reference", 0.0, 1.0)}
    with pytest.raises(ConfigError, match=r"cannot, such as 10\.0\.0\.2: it did not answer within"):
        refuse_unfit(SHARED, said)


def test_a_place_that_is_not_used_leaves_no_folders(tmp_path: Path) -> None:
    with shared(Store(tmp_path / "out" / "store")) as place:
        assert (Path(place.location) / place.marker).is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", ["", "mine.txt"])
def test_folders_that_were_there_and_what_is_left_in_them_stay(tmp_path: Path, kept: str) -> None:
    (tmp_path / "out").mkdir()
    with shared(Store(tmp_path / "out" / "store")) as place:
        if kept:
            (Path(place.location) / kept).touch()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == ({"out", "out/store", f"out/store/{kept}"} if kept else {"out"})


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("error", [StoreError("…"), ConfigError("…"), FileNotFoundError("…")])
def test_results_that_are_removed_meanwhile_are_said_to_be(
    error: Exception, replaced: bool, tmp_path: Path
) -> None:
    """Workers believe that they are on another machine than the driver."""
    out = tmp_path / "out"

    def work() -> None:
        shutil.rmtree(out)
        if replaced:
            (out / "store").mkdir(parents=True)
        raise error

    message = "store to stay where it is .*; leave it there, and"
    with pytest.raises(StoreError, match=message), shared(Store(out / "store")):
        work()


def test_errors_while_results_stay_are_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mistake$"), shared(Store(tmp_path / "store")):
        raise ConfigError("mistake")
