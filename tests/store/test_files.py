"""Files that others may have had their hands on: what is read, and what is written."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fake_study import FakeStudy
from numpy.typing import NDArray

from raydrop.cli import load_sweep
from raydrop.cluster.driver import check_folder
from raydrop.data.batches import PreparedData
from raydrop.errors import ConfigError, RaydropError, StoreError
from raydrop.frontier import load_records, write_frontier
from raydrop.frontier.figures.catalogue import FIGURES, Results
from raydrop.frontier.watch import Watcher
from raydrop.models import build_model
from raydrop.network.saving import NetworkSpec, load_network, save_network
from raydrop.stages.logs import work_log
from raydrop.store import META, Place, Store
from raydrop.store.files import parse_json
from raydrop.store.places import copy_source
from raydrop.store.tables import (
    ScoreFacts,
    Units,
    read_recalls,
    read_scores,
    write_kept,
    write_scores,
)
from raydrop.study import Study, TrialConfig, config_hash, sorted_json
from raydrop.theory import TwoGaussians
from raydrop.theory import figures as theory_plot
from raydrop.theory.figures import write_theory_figure

SMALL = FakeStudy(keeps=(0.5,), seeds=(0,), quotas=("none",))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder, to be copied by the tests that change it."""
    return SMALL.write(tmp_path_factory.mktemp("small"))


def test_a_foreign_store_moves_no_folder_of_the_reader(written: Path, tmp_path: Path) -> None:
    """Failures are a link to where the reader's folders are, and a trial is called like one."""
    home, results = (
        tmp_path / "home",
        shutil.copytree(written, tmp_path / "home" / "results", dirs_exist_ok=True),
    )
    (home / "precious").mkdir()
    (home / "precious" / "text").write_text("kept")
    study = json.loads((results / "study.json").read_text())
    study["trials"][0]["trial_id"] = "precious"
    (results / "study.json").write_text(json.dumps(study))
    (results / "store" / "failure").symlink_to("../..")
    assert (results / "store" / "failure" / "precious" / "text").exists()
    with pytest.raises(StoreError, match=r"^Expected a folder at .*failure, found a link; "):
        write_frontier(results)
    assert (home / "precious" / "text").read_text() == "kept"


def test_a_study_file_that_is_a_link_is_not_read(written: Path, tmp_path: Path) -> None:
    results = shutil.copytree(written, tmp_path / "results", dirs_exist_ok=True)
    (results / "study.json").rename(tmp_path / "outside")
    (results / "study.json").symlink_to(tmp_path / "outside")
    for read in (load_records, lambda folder: Watcher(folder).look()):
        with pytest.raises(StoreError, match=r"found: a link instead of a file; run"):
            read(results)


@pytest.mark.parametrize("name", ["store", "tune", "logs", "tensorboard"])
def test_a_run_writes_into_no_folder_that_is_a_link(
    name: str, digits: PreparedData, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).symlink_to(tmp_path / "outside")
    study = Study("s", "digits", "small_cnn", {"method": "random"})
    with pytest.raises(ConfigError, match=f"^Expected a folder at .*{name}, found a link; "):
        check_folder(Place(tmp_path / "results"), study, digits.dataset)


@pytest.mark.parametrize("linked", ["logs", "logs/trials", "logs/trials/3f2a.log"])
def test_no_log_is_written_through_a_link(linked: str, tmp_path: Path) -> None:
    results, outside = tmp_path / "results", tmp_path / "outside"
    (outside / "trials").mkdir(parents=True)
    (outside / "3f2a.log").write_text("kept")
    (outside / "trials" / "3f2a.log").write_text("kept")
    (results / linked).parent.mkdir(parents=True)
    (results / linked).symlink_to(outside / "3f2a.log" if "." in linked else outside)
    with work_log(Place(results), "trials", "3f2a", "a trial", "cpu"):
        pass
    assert (outside / "3f2a.log").read_text() == "kept"
    assert (outside / "trials" / "3f2a.log").read_text() == "kept"


# What is written.


def _network(path: Path) -> None:
    model = build_model("linear", 2, (1, 2, 2))
    save_network(path, NetworkSpec("linear", 2, (1, 2, 2), ("a", "b"), (0.5,), (0.5,)), model)


MIXTURE = TwoGaussians((-1, 1), (0.5, 1), 0.5)
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "kept": (
        "kept.csv",
        lambda path: write_kept(path, pd.DataFrame({"sample_id": [1], "score": [0.5]})),
    ),
    "scores": (
        "scores.parquet",
        lambda path: write_scores(
            path,
            pd.DataFrame({"sample_id": [1], "label": [0], "score": [0.5]}),
            ScoreFacts("el2n", True, "digits", "small_cnn", 0, {}),
        ),
    ),
    "a table of a report": (
        "frontier.csv",
        lambda path: Place(path.parent).write(path.name, b"a,b"),
    ),
    "network": ("network.zip", _network),
    "figure": (
        "theory.svg",
        lambda path: write_theory_figure(path, TwoGaussians((-1, 1), (0.5, 1), 0.5)),
    ),
}


@pytest.fixture(params=WRITERS)
def writer(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[Path], object]]:
    monkeypatch.setattr(theory_plot, "to_svg", lambda figure: b"<svg/>")
    return WRITERS[request.param]


def test_what_is_written_goes_through_a_new_file_of_a_name_that_nobody_knows(
    writer: tuple[str, Callable[[Path], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links wait at every name that was used before, and at the file's own."""
    name, write = writer
    folder, outside = tmp_path / "results", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("kept")
    moved: list[Path] = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        moved.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noted)
    write(folder / name)
    write(folder / name)
    assert len(set(moved)) == 2
    for each in (*moved, folder / f".{name}.incomplete", folder / name):
        each.unlink(missing_ok=True)
        each.symlink_to(outside)
    write(folder / name)
    assert outside.read_text() == "kept"
    assert (folder / name).stat().st_size > 2
    assert not (folder / name).is_symlink()


def test_what_is_written_has_the_usual_rights(
    writer: tuple[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    name, write = writer
    umask = os.umask(0o027)
    try:
        write(tmp_path / name)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_replaced(
    kind: str, writer: tuple[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    """As /dev/stdout would be, by whoever may write to /dev."""
    name, write = writer
    path = tmp_path / name
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(RaydropError, match=rf"^Expected to write .*, found: a {kind} instead of a"):
        write(path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    frames = [pd.DataFrame({"sample_id": [k] * 5000, "score": [0.5] * 5000}) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda frame: write_kept(tmp_path / "kept.csv", frame), frames))
    (name,) = (path.name for path in tmp_path.iterdir())
    kept = pd.read_csv(tmp_path / name)["sample_id"]
    assert len(kept) == 5000
    assert kept.nunique() == 1


# What is read.

ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": lambda path: _socket(path),
    "a folder": Path.mkdir,
    "a file of 137438953472 bytes": lambda path: (path.touch(), os.truncate(path, 2**37)),
}


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


READERS: dict[str, Callable[[Path], object]] = {
    "network": load_network,
    "scores": read_scores,
    "recalls": lambda path: read_recalls(path, ["a"], "class"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_or_far_too_large_is_not_waited_for(
    kind: str, reader: str, tmp_path: Path
) -> None:
    path = tmp_path / "there.json"
    ODD[kind](path)
    found = kind
    if "bytes" in kind and reader != "recalls":  # whose ends say at once that they are no such file
        found = "BadZipFile" if reader == "network" else "another kind of file"
    with pytest.raises(RaydropError, match=rf"^Expected .*, found[: ].*{found}.*; [^\n]*[.]$"):
        READERS[reader](path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("study.json", "store/failure/KEY/meta.json", "predictions.npy")
        for kind in ODD
        if kind != "a device" and (name, kind[:6]) != ("predictions.npy", "a file")
    ],
)
def test_results_that_are_no_files_or_far_too_large_are_not_waited_for(
    name: str, kind: str, written: Path, tmp_path: Path
) -> None:
    results, trial = (
        shutil.copytree(written, tmp_path, dirs_exist_ok=True),
        SMALL.trial_id(SMALL.trials()[0]),
    )
    if name == "predictions.npy":
        path = results / "store" / "trial" / trial / name
    else:
        path = results / name.replace("KEY", SMALL.trial_id(SMALL.trials()[1]))
        if "failure" in name:
            shutil.rmtree(results / "store" / "trial" / path.parent.name)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    ODD[kind](path)
    if name == "study.json":
        for read in (load_records, lambda folder: Watcher(folder).look()):
            with pytest.raises(StoreError, match=rf"found: {kind}.*; run the sweep"):
                read(results)
    else:
        found = load_records(results)
        assert len(found.damaged) == 1
        assert len(found.missing) == 1


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_marks_of_copies_that_are_no_files_are_not_waited_for(kind: str, tmp_path: Path) -> None:
    ODD[kind](tmp_path / ".raydrop-copy")
    assert copy_source(tmp_path) == ""


NOT_JSON: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Expecting value"),
    "a number": (b"3", "no JSON object"),
    "twice": (b'{"schema": 1, "schema": 2}', "the name 'schema' twice"),
    "NaN": (b'{"schema": NaN}', "NaN"),
    "deep": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "levels"),
    "less deep": (b'{"a":' * 900 + b"1" + b"}" * 900, "levels"),
    "a long number": (b'{"schema": ' + b"9" * 5000 + b"}", "digits"),
    "Latin 1": ('{"schema": "\xe9"}'.encode("latin-1"), "can't decode byte"),
    "UTF-16": ('{"schema": 1}'.encode("utf-16"), "can't decode byte"),
}


@pytest.mark.parametrize("kind", NOT_JSON)
def test_a_description_that_is_no_sound_json_is_one_sentence(
    kind: str, digits: PreparedData, written: Path, tmp_path: Path
) -> None:
    content, found = NOT_JSON[kind]
    results = shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (results / "study.json").write_bytes(content)
    study = Study("s", "digits", "small_cnn", {"method": "random"})
    for read in (
        load_records,
        lambda folder: Watcher(folder).look(),
        load_sweep,
        lambda folder: check_folder(Place(folder), study, digits.dataset),
    ):
        with pytest.raises(RaydropError, match=found) as caught:
            read(results)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", NOT_JSON)
def test_an_entry_whose_description_is_no_sound_json_is_damaged(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.write("trial", {"a": 1}, {})
    (entry.path / META).write_bytes(NOT_JSON[kind][0])
    assert store.peek("trial", entry.key) is None
    assert store.read("trial", entry.key) is None
    assert store.damaged == [f"trial/{entry.key}"]


def test_braces_in_names_are_not_depth() -> None:
    text = "[" * 5000
    assert parse_json(json.dumps({"a": text, text: [1]}).encode()) == {"a": text, text: [1]}


def _npy(shape: str, kind: str = "<f8") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()


NOT_ARRAYS: dict[str, tuple[bytes, str]] = {
    "too much": (_npy("(10000000000000,)") + bytes(24), "24 bytes for float64 numbers"),
    "too much of nothing": (_npy("(10000000000000,)", "<U0"), "0 bytes for <U0"),
    "overflowing": (_npy(f"({2**61}, 8)"), "no array of numbers"),
    "negative": (_npy("(-3,)") + bytes(24), "no array of numbers"),
    "objects": (_npy("(3,)", "|O") + bytes(24), "no array of numbers"),
    "odd kind": (_npy("(3,)", "<f3") + bytes(9), "an array of an unknown kind"),
    "deep": (_npy("(" * 200 + ")" * 200), "no array of numbers"),
    "code": (_npy("(3,)' + str(1/0) + '"), "no array of numbers"),
    "not ended": (_npy("(3,)") + bytes(23), "23 bytes"),
    "too long": (_npy("(3,)") + bytes(25), "25 bytes"),
    "nothing": (b"", "no array of numbers"),
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", NOT_ARRAYS)
def test_an_array_is_as_large_as_its_file(kind: str, mmap: bool, tmp_path: Path) -> None:
    content, found = NOT_ARRAYS[kind]
    store = Store(tmp_path)
    entry = store.write("scores", {"a": 1}, {}, {"scores": np.zeros(3)})
    (entry.path / "scores.npy").write_bytes(content)
    with pytest.raises(StoreError, match=rf"^Expected an array at .*, found {found}.*; remove"):
        entry.array("scores", mmap=mmap)


def _resealed(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what an entry says of itself, as somebody would who knows how it is sealed."""
    body = json.loads((place / META).read_text())
    body.pop("sha256")
    change(body)
    for name in body["files"]:
        body["files"][name] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    seal = hashlib.sha256(sorted_json(body).encode()).hexdigest()
    (place / META).write_text(json.dumps(body | {"sha256": seal}))


def _entry(results: Path, kind: str) -> Path:
    return min((results / "store" / kind).iterdir())


def _refused(results: Path, read: Callable[[Path], object] = load_records) -> str:
    with pytest.raises(RaydropError) as caught:
        read(results)
    sentence = str(caught.value)
    assert sentence.startswith("Expected ")
    assert "; " in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("trial", "seed", "0"),
        ("trial", "seed", 1.5),
        ("trial", "seed", True),
        ("trial", "seed", 10**30),
        ("trial", "seed", -1),
        ("trial", "keep_fraction", "0.5"),
        ("trial", "method", ["el2n"]),
        ("trial", "dataset", 3),
        ("trial", "n_noisy", "few"),
        ("trial", "macs", 0.5),
        ("trial", "epochs", {}),
        ("trial", "by", "colour"),
        ("trial", "by", ["class"]),
        ("trial", "kept_by_class", [1, 2, 3]),
        ("trial", "kept_by_class", [1, 2, 3, -4]),
        ("trial", "validation_by_class", {"a": 1}),
        ("trial", "auc_by_class", [0.5, None, "1", 1]),
        ("trial", "batch_parts", "two"),
        ("data", "class_names", 4),
        ("data", "class_names", []),
        ("data", "class_names", [1, 2, 3, 4]),
        ("data", "class_names", None),
        ("data", "class_sizes", [1, 2, 3]),
        ("data", "class_sizes", ["a"] * 4),
        ("data", "group_names", 3),
        ("data", "n_test", "many"),
    ],
)
def test_a_record_that_tells_of_something_in_another_kind_of_value_is_one_sentence(
    kind: str, name: str, value: object, written: Path, tmp_path: Path
) -> None:
    results = shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    _resealed(_entry(results, kind), lambda body: body["info"].update({name: value}))
    assert (name if value != [] else "class_sizes") in _refused(results)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"trials": 3}, "trials '3'"),
        ({"trials": {"a": 1}}, "trials"),
        ({"trials": [3]}, "trials"),
        ({"trials": [{}]}, "a trial without keep_fraction"),
        ({"study": []}, "study"),
        ({"study": {"name": ["a"]}}, "name"),
        ({"study": {"by": "colour"}}, "by 'colour'"),
        ({"study_id": {}}, "study_id"),
        ({"data_fingerprint": 3}, "data_fingerprint '3'"),
        ({"versions": "new"}, "versions"),
        ({"schema": [["a" * 1000]]}, "schema"),
    ],
)
def test_a_study_file_of_other_kinds_of_values_is_one_sentence(
    change: dict[str, object], found: str, written: Path, tmp_path: Path
) -> None:
    results = shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    study = json.loads((results / "study.json").read_text())
    (results / "study.json").write_text(json.dumps(study | change))
    for read in (load_records, lambda folder: Watcher(folder).look()):
        sentence = _refused(results, read)
        assert found in sentence
        assert len(sentence) < 400


def test_a_trial_in_a_study_file_of_another_kind_of_value_is_one_sentence(
    written: Path, tmp_path: Path
) -> None:
    results = shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    study = json.loads((results / "study.json").read_text())
    for change in ({"trial_id": 3}, {"seed": "a"}, {"keep_fraction": []}, {"method": {}}):
        trials = [{**study["trials"][0], **change}, *study["trials"][1:]]
        (results / "study.json").write_text(json.dumps(study | {"trials": trials}))
        assert next(iter(change)) in _refused(results)
        assert next(iter(change)) in _refused(results, lambda folder: Watcher(folder).look())


LABELS = SMALL.labels()


@pytest.mark.parametrize(
    ("kind", "name", "array"),
    [
        ("data", "test_labels", LABELS.astype(np.float64)),
        ("data", "test_labels", LABELS[:, None]),
        ("data", "test_labels", LABELS + 10**13),
        ("data", "test_labels", LABELS - 1),
        ("data", "test_labels", LABELS[:0]),
        ("data", "test_labels", LABELS.astype("U8")),
        ("trial", "predictions", LABELS.astype(np.float32)),
        ("trial", "predictions", LABELS[None]),
        ("trial", "predictions", LABELS[:-1]),
        ("trial", "predictions", LABELS + 10**13),
        ("trial", "predictions", np.array(3)),
    ],
)
def test_a_sealed_array_that_the_report_cannot_use_is_one_sentence(
    kind: str, name: str, array: NDArray[Any], written: Path, tmp_path: Path
) -> None:
    results = shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    place = _entry(results, kind)
    np.save(place / f"{name}.npy", array)
    _resealed(place, lambda body: None)
    _refused(results)
    with contextlib.suppress(RaydropError):
        Watcher(results).look()


@dataclasses.dataclass(frozen=True)
class _Scored(FakeStudy):
    """A study whose trials say which entry their scores are."""

    keeps: Sequence[float] = (0.5,)
    seeds: Sequence[int] = (0,)
    quotas: Sequence[str] = ("none",)
    scores: str = ""

    def identity(self, trial: TrialConfig) -> dict[str, Any]:
        return {**super().identity(trial), "scores": self.scores}


SCORES = {"kind": "scores", "queries": ["a"]}
TOLD = {"method": "el2n", "seed": 0, "higher_is_kept": True, "by": "class", "n_trials": 1}
PIXELS = np.zeros((2, 1, 4, 4), np.uint8)
PICTURES = {"pixels": PIXELS, "units": np.array([0, 1]), "kept": np.array([True, False])}


@pytest.mark.parametrize(
    ("config", "info", "scores", "pictures"),
    [
        ({}, {"method": ["a"]}, {}, {}),
        ({}, {"seed": {}}, {}, {}),
        ({"queries": 3}, {}, {}, {}),
        ({"queries": [[]]}, {}, {}, {}),
        ({}, {"seconds": "long"}, {}, {}),
        ({}, {}, {"scores": np.array(["a", "b"])}, {}),
        ({}, {}, {}, {"pixels": PIXELS[0]}),
        ({}, {}, {}, {"pixels": PIXELS.astype(np.float32)}),
        ({}, {}, {}, {"pixels": np.zeros((2, 2, 4, 4), np.uint8)}),
        ({}, {}, {}, {"units": np.array([10**13, 10**13])}),
        ({}, {}, {}, {"units": np.array([0])}),
        ({}, {}, {}, {"kept": np.array([2.0, 0.5])}),
    ],
)
def test_an_entry_that_a_report_only_shows_is_one_sentence_where_it_cannot_be_shown(
    config: dict[str, Any],
    info: dict[str, Any],
    scores: dict[str, NDArray[Any]],
    pictures: dict[str, NDArray[Any]],
    tmp_path: Path,
) -> None:
    key = config_hash(SCORES | config)
    results = _Scored(scores=key).write(tmp_path)
    store = Store(results / "store")
    store.write("scores", SCORES | config, TOLD | info, {"scores": np.arange(3.0)} | scores)
    store.write("images", {"scores": key}, TOLD, PICTURES | pictures)
    shown = Results(load_records(results), pd.DataFrame())
    with pytest.raises(StoreError) as caught:
        _ = [FIGURES[name].given(shown) for name in ("scores", "costs", "images")]
    assert "\n" not in str(caught.value)


# Scores.

FACTS = ScoreFacts(
    "el2n", True, "digits", "small_cnn", 0, {"class": Units(["a", "b"], [0.5, 1.0], [3, 4])}
)
ROWS = pd.DataFrame({"sample_id": [7, 8, 9], "label": [0, 1, 0], "score": [0.5, 1.5, 2.5]})


@pytest.mark.parametrize(
    "facts",
    [
        {"method": 3},
        {"higher_is_kept": "yes"},
        {"seed": "0"},
        {"units": []},
        {"units": {"class": {"names": "ab", "recalls": [0.5, 1.0], "sizes": [3, 4]}}},
        {"units": {"class": {"names": ["a", 2], "recalls": [0.5, 1.0], "sizes": [3, 4]}}},
        {"units": {"class": {"names": ["a", "b"], "recalls": ["x", 1.0], "sizes": [3, 4]}}},
        {"units": {"class": {"names": ["a", "b"], "recalls": [0.5], "sizes": [3, 4]}}},
        {"units": {"colour": {"names": ["a", "b"], "recalls": [0.5, 1.0], "sizes": [3, 4]}}},
        {"more": 1},
    ],
)
def test_scores_whose_facts_are_of_other_kinds_are_one_sentence(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, ROWS, FACTS)
    found, known = read_scores(path)
    assert known == FACTS
    pd.testing.assert_frame_equal(found, ROWS[["sample_id", "score", "label"]])
    table = pq.read_table(path)
    changed = json.dumps(dataclasses.asdict(FACTS) | facts).encode()
    pq.write_table(table.replace_schema_metadata({b"raydrop": changed}), path)
    _refused(path, read_scores)


@pytest.mark.parametrize(
    "columns",
    [
        {"label": [0.0, 1.0, 0.5]},
        {"label": ["0", "1", "0"]},
        {"label": [0, 1, 2]},
        {"label": [0, 1, -1]},
        {"label": [0, 1, 10**13]},
        {"label": [0, 1, None]},
        {"score": ["a", "b", "c"]},
        {"score": [[1], [2], [3]]},
        {"sample_id": [[1], [2], [3]]},
    ],
)
def test_scores_whose_columns_are_of_other_kinds_are_one_sentence(
    columns: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, ROWS.assign(**columns), FACTS)
    _refused(path, read_scores)


def test_scores_have_no_more_rows_than_their_file_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, ROWS.loc[np.zeros(10**6, int)].assign(sample_id=1), FACTS)
    assert path.stat().st_size < 10**5
    assert "1000000 rows" in _refused(path, read_scores)
