"""Whatever others bring, the outcome is right, or one sentence of ours: soon, in bounds, in place.

Eight hundred cases, the same ones in every run: tables, trees, images, recalls, search spaces,
study files, stores and network files, each drawn sound first and then damaged.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.font_manager
import numpy as np
import PIL.Image
import pytest
import torch
from fake_study import FakeStudy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray import tune
from ray.tune.search.variant_generator import generate_variants
from test_saving import network, spec_of
from watching import Deeds, noted, watched

from raydrop import cli
from raydrop.cli import load_sweep
from raydrop.cluster.space import expand
from raydrop.data import FileImages, load_dataset
from raydrop.data.dataset import decoded_images
from raydrop.errors import RaydropError
from raydrop.frontier.records import load_records
from raydrop.network.saving import load_network, save_network
from raydrop.plan import trial_configs
from raydrop.store.tables import read_recalls
from raydrop.study import Study

SECONDS, BYTES = 5.0, 500 * 10**6
_Value = TypeVar("_Value")
OF_EXAMPLES: list[Deeds] = []
"""What the examples of the test that runs have done, all together."""

fuzz = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
fewer = settings(fuzz, max_examples=50)
"""For cases that take many files each."""

ODD = """
0 1 01 1.0 1e3 1000 0.5 1e309 99999999999999 -3 nan NA None true cat Cat dog \u00e9 e\u0301
=1+1 ../x /etc/passwd train/a train val valid test id_val \x1b[2J \u202e
"""
TEXTS = st.one_of(
    st.sampled_from([*ODD.split(), "", "a b"]),
    st.text(max_size=6),
)
"""Texts that look like numbers, paths, splits or nothing, and any others."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder whose neighbours are looked at afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Path(folder).resolve() / "inside"
        sandbox.mkdir()
        (sandbox.parent / "precious").write_text("kept")
        yield sandbox
        assert sorted(path.name for path in sandbox.parent.iterdir()) == ["inside", "precious"]
        assert (sandbox.parent / "precious").read_text() == "kept"


@pytest.fixture
def empty(place: Path) -> Iterator[Callable[[], Path]]:
    """What gives the folder emptied, for each example anew; no example does anything elsewhere."""

    def emptied() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    with watched(apart=True) as deeds:
        OF_EXAMPLES.append(deeds)
        yield emptied
        OF_EXAMPLES.clear()
    assert deeds.bytes < BYTES
    assert deeds.processes == deeds.sockets == []
    assert deeds.outside(place) == []


def outcome(call: Callable[[], _Value]) -> _Value | None:
    """Return what a call gives, or None where it ends in a sentence; soon in any case."""
    found, start = None, time.perf_counter()
    with noted(*OF_EXAMPLES):
        try:
            found = call()
        except RaydropError as error:
            sentence = str(error)
            assert 20 < len(sentence) < 4000
            assert sentence.splitlines() == [sentence], sentence
            assert sentence.startswith(("Expected ", "Unknown ")), sentence
    assert time.perf_counter() - start < SECONDS
    return found


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut, overwrite or lengthen a file's bytes somewhere; or leave them."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    how = draw(st.sampled_from(["left", "left", "left", "cut", "overwritten", "lengthened"]))
    if how == "cut":
        return content[:at]
    noise = draw(st.binary(min_size=1, max_size=8))
    if how == "overwritten":
        return content[:at] + noise + content[at + len(noise) :]
    return content[:at] + noise + content[at:] if how == "lengthened" else content


# Tables.

PNG = io.BytesIO()
PIL.Image.new("RGB", (4, 4)).save(PNG, "png")


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[str]] | None, bytes]:
    """Rows of image, label, split, place, and the table's bytes; no rows where it is damaged."""
    plainly = st.sampled_from(["0", "1", "01", "1.0", "1e3", "1000", "cat", "Cat", "true", "-3"])
    labels = draw(st.lists(plainly | plainly | TEXTS, min_size=2, max_size=4, unique=True))
    rows = [
        [f"{at}.png", label, split, "0"]
        for at, (label, split) in enumerate(
            (label, split) for label in labels for split in ("train", "test", "test", "val")
        )
    ]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, 3))] = draw(TEXTS)
    plain = not any(set(cell) & set("\r\n\0") for row in rows for cell in row)
    table = io.StringIO()
    csv.writer(table).writerows([["img_filename", "y", "split", "place"], *rows])
    content = table.getvalue().encode("utf-8", "surrogatepass")
    broken = damaged(draw, content)
    return (rows if plain and broken == content else None), broken


@fewer
@given(case=tables(), groups=st.sampled_from(["none", "plain", "crossed"]))
def test_tables(case: tuple[Any, bytes], groups: str, empty: Callable[[], Path]) -> None:
    rows, content = case
    folder = empty()
    for at in range(16):
        (folder / f"{at}.png").write_bytes(PNG.getvalue())
    (folder / "metadata.csv").write_bytes(content)
    dataset = outcome(lambda: load_dataset(f"metadata:{folder}?groups={groups}").decoded())
    if dataset is not None and rows is not None:
        texts = [row[1].strip() for row in rows]
        for split in dataset.splits().values():
            for at, label in zip(split.ids.tolist(), split.labels.tolist(), strict=True):
                assert dataset.class_names[label] == texts[at]


# Trees.

NAMES = st.sampled_from(["cat", "owl", "cat", "owl", "1", "@eaDir", "__MACOSX", ".x"])
SPLITS = st.sampled_from(["train", "test", "train", "test", "val", "valid", "Test", "other"])
FILES = st.sampled_from(
    ["0.png", "1.PNG", "2.jfif", "Thumbs.db", "3.gif", "._0.png", "4.txt", "a\n.png"]
)


def _is_name(text: str) -> bool:
    return text not in ("", ".", "..") and not set(text) & set("/\0") and text.isprintable()


@fewer
@given(
    planted=st.lists(
        st.tuples(SPLITS, NAMES, st.sampled_from(["", "", "deep"]), FILES), max_size=2
    ),
    odd=st.sampled_from(["", "", "", "", "", "pipe", "loop", "dangling", "outside"]),
    data=st.data(),
)
def test_trees(
    planted: list[tuple[str, ...]], odd: str, data: st.DataObject, empty: Callable[[], Path]
) -> None:
    folder = empty()
    sound = [
        (s, c, "", f"{k}.png") for s in ("train", "test") for c in ("cat", "owl") for k in "56"
    ]
    for split, name, deep, file in [*sound, *planted]:
        path = folder / split / name / deep / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(data.draw, PNG.getvalue()) if file == "0.png" else PNG.getvalue())
    at = folder / "train/cat" / "odd.png"
    if odd == "pipe":
        os.mkfifo(at)
    elif odd:
        target = {"loop": "../..", "dangling": "nothing", "outside": "../../../../precious"}[odd]
        at.symlink_to(target)
    dataset = outcome(lambda: load_dataset(f"imagefolder:{folder}").decoded())
    if dataset is not None:
        raw = load_dataset(f"imagefolder:{folder}")
        for split_ in raw.splits().values():
            assert isinstance(split_.inputs, FileImages)
            for path_, label in zip(split_.inputs.paths, split_.labels.tolist(), strict=True):
                assert path_.split("/")[1] == raw.class_names[label]


# Images.

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "gif": "GIF"}


@st.composite
def images(draw: st.DrawFn) -> tuple[str, bytes, PIL.Image.Image | None]:
    """A file's name, its bytes, and the picture where it is whole and plain."""
    mode = draw(st.sampled_from(["L", "RGB", "1", "P", "RGBA", "LA", "I;16", "CMYK", "I", "F"]))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    suffix = draw(st.sampled_from(sorted(FORMATS)))
    seed = np.random.default_rng(draw(st.integers(0, 9)))
    image = PIL.Image.fromarray(seed.integers(0, 255, (*size, 3), np.uint8))
    image = PIL.Image.new(mode, size) if mode in ("I;16", "I", "F") else image.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, FORMATS[suffix])
    except (OSError, KeyError, ValueError, SystemError):
        mode = "RGB"
        image = image.convert("RGB") if image.mode != "I;16" else PIL.Image.new("RGB", size)
        file = io.BytesIO()
        image.save(file, FORMATS[suffix])
    content = file.getvalue()
    broken = damaged(draw, content)
    exact = mode in ("L", "RGB") and suffix in ("png", "bmp", "tif") and broken == content
    return f"0.{suffix}", broken, image if exact else None


@fuzz
@given(case=images())
def test_images(case: tuple[str, bytes, PIL.Image.Image | None], empty: Callable[[], Path]) -> None:
    name, content, image = case
    folder = empty()
    (folder / name).write_bytes(content)
    mode = "L" if image is not None and image.mode == "L" else "RGB"
    files = FileImages((name,), str(folder), mode)
    width, height = (5, 4) if image is None else image.size
    found = outcome(lambda: decoded_images(files, height, width))
    if found is not None:
        assert found.pixels.shape == (1, len(mode), height, width)
    if found is not None and image is not None:
        expected = np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)
        assert np.array_equal(found.pixels[0], expected)


# Recalls.


@st.composite
def recalls(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]], bytes]:
    """Names of classes, rows of the table, and its bytes."""
    plain = TEXTS.map(str.strip).filter(
        lambda text: text.isprintable() and not set(text) & set('",;\t=')
    )
    names = draw(st.lists(plain.filter(bool), min_size=1, max_size=4, unique=True))
    given = draw(st.permutations(names))
    rows = [(name, f"{draw(st.integers(0, 100)) / 100}") for name in given]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(rows) - 1))
        how = draw(st.sampled_from(["name", "value", "again", "gone", "number"]))
        if how == "again":
            rows.append(rows[at])
        elif how == "gone" and len(rows) > 1:
            del rows[at]
        else:
            name, value = rows[at]
            name = draw(plain) if how == "name" else str(at) if how == "number" else name
            rows[at] = (name, draw(TEXTS) if how == "value" else value)
    text = "class,recall\n" + "".join(f"{name},{value}\n" for name, value in rows)
    return names, rows, damaged(draw, text.encode("utf-8", "surrogatepass"))


@fuzz
@given(case=recalls())
def test_recalls(
    case: tuple[list[str], list[tuple[str, str]], bytes], empty: Callable[[], Path]
) -> None:
    names, rows, content = case
    folder = empty()
    (folder / "recalls.csv").write_bytes(content)
    found = outcome(lambda: read_recalls(folder / "recalls.csv", names, "class"))
    if found is None:
        return
    assert found.shape == (len(names),)
    assert ((found >= 0) & (found <= 1)).all()
    keys = [name for name, _ in rows]
    text = "class,recall\n" + "".join(f"{name},{value}\n" for name, value in rows)
    if sorted(keys) == sorted(names) and content == text.encode("utf-8", "surrogatepass"):
        assert found.tolist() == [float(dict(rows)[name]) for name in names]


# Search spaces.

LEAVES = st.sampled_from(
    ["random", "drop", 0.3, 1, True, None, np.float32(0.5), "eval", "lambda: 1"]
)


def _axis(*values: Any) -> st.SearchStrategy[Any]:
    one = st.sampled_from(values)
    some = st.lists(one, min_size=1, max_size=3)
    return one | some.map(tune.grid_search) | some.map(tune.choice)


SOUND = st.fixed_dictionaries(
    {"method": _axis("random", "el2n"), "keep_fraction": _axis(0.3, 0.5, np.float32(0.7))},
    optional={
        "quotas": _axis("none", "drop")
        | st.just(tune.sample_from(lambda config: "drop" if config.method == "el2n" else "none")),
        "loss": _axis("cross_entropy", "cdb_w"),
    },
)
UNSOUND = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3).map(tune.grid_search),
    st.just(tune.uniform(0.1, 0.9)),
    st.fixed_dictionaries({"eval": st.just("open('/tmp/never', 'w')")}),
    st.fixed_dictionaries({"inner": st.lists(LEAVES, max_size=2).map(tune.grid_search)}),
    st.lists(st.fixed_dictionaries({"eval": st.just("1 + 1")}), max_size=2),
    JSON,
)
KEYS = st.sampled_from(["method", "quotas", "keep_fraction", "loss", "odd", "eval", "grid_search"])
SPACES = st.tuples(SOUND, st.just({}) | st.dictionaries(KEYS, UNSOUND, max_size=2)).map(
    lambda pair: pair[0] | pair[1]
)


@fuzz
@given(space=SPACES)
def test_search_spaces(space: dict[str, Any], empty: Callable[[], Path]) -> None:
    empty()

    def points() -> tuple[list[dict[str, Any]], ...]:
        study = Study("t", "digits", "small_cnn", space)
        found = expand(study)
        again = expand(Study("t", "digits", "small_cnn", space))
        trial_configs(study, found)
        return found, again

    found = outcome(points)
    if found is not None:
        assert found[0] == found[1]
        drawn = any(hasattr(value, "sampler") or callable(value) for value in space.values())
        if "eval" not in repr(space) and not drawn:
            assert found[0] == [config for _, config in generate_variants(copy.deepcopy(space))]


# Study files.

STUDY = Study(
    "t", "digits+subset(12, test=6)", "small_cnn", [{"method": "random", "keep_fraction": 0.5}]
)


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    """A study.json, of which a field may be another JSON value, or the bytes damaged."""
    body: dict[str, Any] = {"schema": 1, "study": STUDY.to_dict(STUDY.spaces()), "trials": []}
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.sampled_from([body, body["study"]]))
        if not isinstance(inside, dict):
            break
        field = draw(st.sampled_from(sorted(inside)) | TEXTS)
        inside[field] = draw(JSON | SPACES.filter(_plain))
        if not isinstance(body["study"], dict):
            break
    return damaged(draw, json.dumps(body).encode())


def _plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@fuzz
@given(content=study_files())
def test_study_files(content: bytes, empty: Callable[[], Path]) -> None:
    folder = empty()
    (folder / "study.json").write_bytes(content)

    def points() -> tuple[Study, list[dict[str, Any]]]:
        study = load_sweep(folder)
        found = expand(study)
        trial_configs(study, found)
        return study, found

    found = outcome(points)
    sound = {"schema": 1, "study": STUDY.to_dict(STUDY.spaces()), "trials": []}
    if content == json.dumps(sound).encode():
        assert found == (STUDY, list(STUDY.spaces()))


# Stores.

FAKE = FakeStudy(keeps=(0.5,), seeds=(0,), quotas=("none",))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAKE.write(tmp_path_factory.mktemp("sound"))


@fewer
@given(data=st.data())
def test_stores(data: st.DataObject, results: Path, empty: Callable[[], Path]) -> None:
    folder = empty()
    shutil.copytree(results, folder, dirs_exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    everything = sorted(folder.rglob("*"))
    changed = set[Path]()
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(files))
        if path.is_symlink() or not path.is_file():  # after what was done to it before
            continue
        how = data.draw(st.sampled_from(["bytes", "json", "gone", "pipe", "link", "folder link"]))
        changed.add(path)
        if how == "bytes":
            path.write_bytes(damaged(data.draw, path.read_bytes()))
        elif how == "json" and path.suffix == ".json":
            body = json.loads(path.read_bytes()) if path.stat().st_size else {}
            if isinstance(body, dict):
                body[data.draw(st.sampled_from(sorted(body)) | TEXTS)] = data.draw(JSON)
                path.write_text(json.dumps(body))
        elif how == "folder link":
            victim = data.draw(st.sampled_from([p for p in everything if p.is_dir()] or [folder]))
            if victim != folder and not victim.is_symlink() and victim.exists():
                shutil.rmtree(victim)
                victim.symlink_to(folder.parent)
        else:
            path.unlink()
            if how == "pipe":
                os.mkfifo(path)
            elif how == "link":
                path.symlink_to(folder.parent / "precious")
    found = outcome(lambda: load_records(folder))
    if found is not None and not changed:
        assert len(found.trials) == len(FAKE.trials())


# Network files.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    spec = spec_of("small_cnn", 3, (1, 8, 8))
    path = tmp_path_factory.mktemp("network") / "small.raydrop"
    save_network(path, spec, network(spec))
    return path.read_bytes()


def _repacked(draw: st.DrawFn, content: bytes) -> bytes:
    """Change a member and pack the archive anew, so that its sums are right."""
    members = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    name = draw(st.sampled_from(sorted(members)))
    if name.endswith(".json"):
        body = json.loads(members[name])
        inside = draw(st.sampled_from([body, body["network"]]))
        inside[draw(st.sampled_from(sorted(inside)))] = draw(JSON)
        members[name] = json.dumps(body).encode()
    else:
        claimed = draw(st.sampled_from([(), (0,), (10**13,), (3, 3), (2**40, 2**30)]))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": draw(st.sampled_from(["<f4", "<f8", "|b1", "<c8"])),
                "fortran_order": False,
                "shape": claimed,
            },
        )
        members[name] = header.getvalue() + members[name][-40:]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, value in members.items():
            archive.writestr(member, value)
    return file.getvalue()


@fewer
@given(data=st.data())
def test_network_files(data: st.DataObject, saved: bytes, empty: Callable[[], Path]) -> None:
    folder, path = empty(), "small.raydrop"
    packed = data.draw(st.booleans())
    content = _repacked(data.draw, saved) if packed else damaged(data.draw, saved)
    (folder / path).write_bytes(content)
    found = outcome(lambda: load_network(folder / path))
    if found is not None:
        model, spec = found
        assert model(torch.zeros(2, *spec.image_shape)).shape == (2, spec.num_classes)
    if content == saved:
        assert found is not None


# Whole commands.

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def _hostile_tree(folder: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "owl\x1b[2J", "=1"):
            (folder / split / name).mkdir(parents=True)
            for at in range(4):
                (folder / split / name / f"{at}.png").write_bytes(PNG.getvalue())
    cat = folder / "train/cat"
    (cat / "script.png").write_bytes(POSTSCRIPT)
    (cat / "script.eps").write_bytes(POSTSCRIPT)
    (cat / "up").symlink_to("../..")
    (cat / "secret.png").symlink_to("../../../../precious")
    os.mkfifo(cat / "pipe.png")
    (folder / "train/pandas.py").write_text("open('/tmp/never', 'w')")
    return folder


def _hostile_results(folder: Path, tree: Path) -> Path:
    FAKE.write(folder)
    body = json.loads((folder / "study.json").read_text())
    body["study"]["dataset"] = f"imagefolder:{tree}"
    body["trials"] += [{**body["trials"][0], "trial_id": "../../up"}]
    (folder / "study.json").write_text(json.dumps(body))
    (folder / "report.html").symlink_to(tree.parent.parent / "precious")
    trial = next((folder / "store/trial").iterdir())
    (trial / "predictions.npy").unlink()
    os.mkfifo(trial / "predictions.npy")
    return folder


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


EVAL = [{"method": {"eval": "__import__('os').system('true')"}, "keep_fraction": 0.5}]
COMMANDS: dict[str, list[str]] = {
    "frontier": ["frontier", "RESULTS"],
    "frontier of links": ["frontier", "LINKED"],
    "export": ["export", "RESULTS", "--format", "latex"],
    "replay": ["run", "RESULTS", "--dry-run", "--out", "OUT"],
    "replay that evaluates": ["run", "EVAL", "--dry-run", "--out", "OUT"],
    "replay of an endpoint": ["run", "ENDPOINT", "--dry-run", "--out", "OUT"],
    "check": ["check", "imagefolder:TREE"],
    "ship": ["ship", "RESULTS", "0", "--out", "OUT.raydrop"],
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that others left, by the words that commands name them with."""
    folder = tmp_path_factory.mktemp("hostile") / "inside"
    (folder.parent / "precious").write_text("kept")
    tree = _hostile_tree(folder / "tree")
    results = _hostile_results(folder / "results", tree)
    for place, changes in (
        ("eval", {"param_space": EVAL}),
        ("endpoint", {"dataset": "imagefolder:s3://b/d?endpoint_override=127.0.0.1:9&scheme=http"}),
    ):
        body = json.loads((results / "study.json").read_text())
        body["study"] |= changes
        (folder / place).mkdir()
        (folder / place / "study.json").write_text(json.dumps(body))
    linked = Path(shutil.copytree(results, folder / "linked", symlinks=True, ignore=_pipes))
    (linked / "store/failure").symlink_to("../../..")
    (linked / "store/damaged").symlink_to("../../..")
    matplotlib.font_manager.findfont("DejaVu Sans")  # so that fonts are listed, by a process
    places = {"TREE": tree, "RESULTS": results, "LINKED": linked, "OUT": folder / "out"}
    return places | {"EVAL": folder / "eval", "ENDPOINT": folder / "endpoint", "": folder}


@pytest.mark.parametrize("name", COMMANDS)
def test_reading_a_hostile_folder_starts_nothing_and_connects_to_nothing(
    name: str,
    hostile: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(hostile["TREE"] / "train")
    arguments = []
    for argument in COMMANDS[name]:
        for word, path in hostile.items():
            argument = argument.replace(word, str(path)) if word else argument
        arguments.append(argument)
    monkeypatch.setattr(sys, "argv", ["raydrop", *arguments])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of what is imported meanwhile
    with watched() as deeds, pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert deeds.processes == deeds.sockets == []
    assert deeds.outside(hostile[""]) == []
    assert (hostile[""].parent / "precious").read_text() == "kept"
    assert deeds.seconds < 60
    assert int(end.value.code or 0) in (0, 1)
    assert "Traceback" not in said.out + said.err
    assert "\x1b" not in said.out + said.err
    assert not Path("/tmp/never").exists()
