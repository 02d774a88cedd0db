"""A folder that some machine does not see is refused; no Ray here, machines are folders."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from raydrop.cluster import visibility
from raydrop.cluster.visibility import Place, marked, refuse_unseen
from raydrop.errors import ConfigError, StoreError
from raydrop.store import Store


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "_PATIENCE_SECONDS", 0.3)


def test_a_machine_that_sees_the_marker_opens_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.write("trial", {"a": 1}, {})
    with marked(store) as place:
        there: Place = pickle.loads(pickle.dumps(place))  # as it travels
        assert there.open().read("trial", entry.key) == entry
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == [
        "meta.json"
    ]


def test_a_machine_with_a_folder_of_its_own_does_not_open_it(tmp_path: Path) -> None:
    """Nor one where an earlier run with that folder left things behind."""
    with marked(Store(tmp_path / "driver")) as earlier:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "trial").mkdir()
    for name in ("other", "driver", "absent"):
        with pytest.raises(StoreError, match=r"driver's folder on every machine, found another or"):
            Place(tmp_path / name, earlier.marker).open()
    assert not (tmp_path / "absent").exists()


def test_without_a_marker_nothing_is_looked_for(tmp_path: Path) -> None:
    assert Place(tmp_path).open().root == tmp_path


def test_machines_that_see_the_place_are_fine() -> None:
    refuse_unseen(Place("/shared", "marker"), {})
    refuse_unseen(Place("/shared", "marker"), {"10.0.0.2": None, "10.0.0.3": None})


def test_a_folder_that_others_do_not_see_gives_one_sentence() -> None:
    said = {"10.0.0.2": None, "10.0.0.4": "not there", "10.0.0.3": "not there"}
    with pytest.raises(ConfigError) as caught:
        refuse_unseen(Place("/home/me/results/store", "marker"), said)
    assert str(caught.value) == (
        "Expected every machine of the cluster to see /home/me/results/store, found that 2 of the "
        "3 others do not, such as 10.0.0.3; name a folder that all machines share, or "
        "s3://BUCKET/PREFIX, with --out."
    )


def test_an_object_store_that_a_machine_cannot_reach_gives_what_it_says() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_unseen(Place("s3://bucket/a"), {"10.0.0.2": "Expected this; do that."})
    assert str(caught.value) == (
        "Expected every machine of the cluster to see s3://bucket/a, found that 1 of the 1 others "
        "do not; 10.0.0.2 says: Expected this; do that."
    )


def test_a_store_that_cannot_be_marked_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with (
        pytest.raises(StoreError, match="Expected to write results to"),
        marked(Store(tmp_path / "store")),
    ):
        pass
