"""A look at data before a study: every fault seeded once and found, and a clean set left alone."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from raydrop.cli import app
from raydrop.data.check import FEW, check_data, understood
from raydrop.errors import ConfigError, DataError

SIZES = {"train": 4, "val": FEW, "test": 3}
CLASSES = ("cat", "dog")


def noise(path: Path, seed: int, size: tuple[int, int] = (6, 5)) -> None:
    """Write an image that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed, size))


@functools.cache
def png(seed: int, size: tuple[int, int]) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images with no fault."""
    seed = 0
    for split, count in SIZES.items():
        for name in CLASSES:
            for at in range(count):
                seed += 1
                noise(tmp_path / "data" / split / name / f"{at}.png", seed)
    return tmp_path / "data"


def copy(root: Path, old: str, new: str) -> None:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / old, root / new)


def again(root: Path, old: str, new: str) -> None:
    """Save the same pixels in another format."""
    PIL.Image.open(root / old).save(root / new)


def truncate(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:60])


def a_level_down(root: Path) -> None:
    for split in SIZES:
        for at, path in enumerate(sorted((root / split / "dog").iterdir())):
            path.parent.joinpath(f"folder{at % 2}").mkdir(exist_ok=True)
            path.rename(path.parent / f"folder{at % 2}" / path.name)


def rename_class(root: Path, old: str, new: str) -> None:
    for split in SIZES:
        (root / split / old).rename(root / split / new)


Fault = Callable[[Path], object]
CASES: dict[str, tuple[Fault, dict[str, tuple[str, ...]]]] = {
    "copy in train and test": (
        lambda root: copy(root, "train/cat/1.png", "test/cat/x.png"),
        {"in train and test": ("train/cat/1.png = test/cat/x.png",)},
    ),
    "copy in train and validation": (
        lambda root: copy(root, "train/cat/1.png", "val/cat/x.png"),
        {"in train and validation": ("train/cat/1.png = val/cat/x.png",)},
    ),
    "copy in validation and test": (
        lambda root: copy(root, "val/dog/1.png", "test/dog/x.png"),
        {"in validation and test": ("val/dog/1.png = test/dog/x.png",)},
    ),
    "the same pixels in another format": (
        lambda root: again(root, "train/cat/1.png", "test/cat/x.bmp"),
        {"in train and test": ("train/cat/1.png = test/cat/x.bmp",)},
    ),
    "two copies within train": (
        lambda root: [copy(root, "train/cat/1.png", f"train/cat/x{at}.png") for at in range(2)],
        {
            "more than once in train": (
                "train/cat/1.png = train/cat/x0.png",
                "train/cat/1.png = train/cat/x1.png",
            )
        },
    ),
    "a copy within test": (
        lambda root: again(root, "test/cat/1.png", "test/cat/x.bmp"),
        {"more than once in test": ("test/cat/1.png = test/cat/x.bmp",)},
    ),
    "two labels within train": (
        lambda root: copy(root, "train/cat/1.png", "train/dog/x.png"),
        {
            "more than once in train": ("train/cat/1.png = train/dog/x.png",),
            "the same under different labels": ("train/cat/1.png (cat) = train/dog/x.png (dog)",),
        },
    ),
    "two labels across splits": (
        lambda root: again(root, "train/cat/1.png", "test/dog/x.bmp"),
        {
            "in train and test": ("train/cat/1.png = test/dog/x.bmp",),
            "the same under different labels": ("train/cat/1.png (cat) = test/dog/x.bmp (dog)",),
        },
    ),
    "one too few for validation": (
        lambda root: (root / "val/dog/0.png").unlink(),
        {f"with fewer than {FEW} validation images": (f"dog: {FEW - 1}",)},
    ),
    "broken files": (
        lambda root: truncate(root, "train/cat/2.png", "test/dog/1.png"),
        {"unreadable": ("train/cat/2.png", "test/dog/1.png")},
    ),
    "small copies by a file manager": (
        lambda root: noise(root / "train/cat/thumbs/1.png", 1000),
        {"maybe thumbnails of a file manager": ("train/cat/thumbs/1.png",)},
    ),
    "small copies beside the images": (
        lambda root: noise(root / "train/cat/thumb_1.png", 1000),
        {"maybe thumbnails of a file manager": ("train/cat/thumb_1.png",)},
    ),
    "a level too deep": (a_level_down, {"with images in further folders alone": ("dog",)}),
    "a class called as a split is": (
        lambda root: rename_class(root, "dog", "Test"),
        {"called as a split is": ("Test",)},
    ),
    "a class called as a hash is": (
        lambda root: rename_class(root, "dog", "d41d8cd98f00b204e9800998ecf8427e"),
        {"called as a hash is": ("d41d8cd98f00b204e9800998ecf8427e",)},
    ),
    "small images of several sizes": (
        lambda root: noise(root / "train/cat/1.png", 1000, (7, 5)),
        {"small, but of another size than most": ("train/cat/1.png",)},
    ),
}


def test_a_clean_set_has_nothing_to_be_found(root: Path) -> None:
    found = check_data(str(root))
    assert found.findings == ()
    assert not found.fatal
    assert found.spec == f"imagefolder:{root}"
    assert found.image_shape == (3, 5, 6)
    assert found.compared == "pixels"
    assert found.in_memory
    assert str(found.files) == "34 PNG, 34 RGB, 6 wide and 5 high"
    assert found.classes == {name: {"train": 4, "validation": 10, "test": 3} for name in CLASSES}
    assert found.groups == {}


@pytest.mark.parametrize("name", CASES)
def test_a_seeded_fault_is_found_and_nothing_else(name: str, root: Path) -> None:
    fault, expected = CASES[name]
    fault(root)
    found = check_data(str(root))
    assert {each.kind: each.names for each in found.findings} == expected
    assert found.fatal == ("unreadable" in expected)
    for each in found.findings:
        assert each.count == len(each.names) <= each.of


def test_copies_say_how_many_have_the_same_bytes_too(root: Path) -> None:
    copy(root, "train/cat/1.png", "test/cat/x.png")
    again(root, "train/cat/2.png", "test/cat/y.bmp")
    (each,) = check_data(str(root)).findings
    assert str(each).startswith(
        "in train and test: 2 of 8 test images (train/cat/1.png = test/cat/x.png, "
        "train/cat/2.png = test/cat/y.bmp); 1 byte for byte; "
    )


def test_what_a_few_headers_did_not_tell(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydrop.data.loaders.files._SPREAD_HEADERS", 1)
    for path in root.rglob("*.png"):
        PIL.Image.open(path).convert("L").save(path)
    noise(root / "train/cat/1.png", 1000)
    PIL.Image.open(root / "train/cat/2.png").resize((12, 5)).save(root / "train/cat/2.png")
    found = check_data(str(root))
    assert found.image_shape == (1, 5, 6)
    assert {each.kind: each.names for each in found.findings} == {
        "of another size than 6x5": ("train/cat/2.png",),
        "not stored as grey": ("train/cat/1.png",),
    }


def test_hardly_more_images_than_classes(root: Path) -> None:
    for at in range(4):
        for split, count in SIZES.items():
            for number in range(1 if split == "train" else count):
                noise(
                    root / split / f"{at}" / f"{number}.png", 1000 + 100 * at + 31 * count + number
                )
    for name in CLASSES:
        for at in range(1, 4):
            (root / "train" / name / f"{at}.png").unlink()
    kinds = [each.kind for each in check_data(str(root)).findings]
    assert kinds == ["with hardly more training images than classes"]


def test_unreadable_images_are_not_the_same_one(root: Path) -> None:
    truncate(root, "train/cat/2.png", "test/dog/1.png")
    copy(root, "train/cat/1.png", "test/dog/x.png")
    found = {each.kind: each for each in check_data(str(root)).findings}
    assert found.keys() == {"unreadable", "in train and test", "the same under different labels"}
    assert found["the same under different labels"].of == 35 - 2 - 1


@pytest.mark.parametrize("size", [(100, 70), (6, 5)])
def test_quick_decodes_nothing_and_compares_bytes(
    root: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(root / "train/cat/1.png", 1000, size)
    copy(root, "train/cat/1.png", "test/cat/x.png")
    again(root, "train/cat/2.png", "test/cat/y.bmp")
    (root / "test/dog/1.png").write_text("no image")
    monkeypatch.setattr(PIL.Image.Image, "load", None)
    monkeypatch.setattr("raydrop.data.dataset.FileImages.open", None)
    monkeypatch.setattr("raydrop.data.loaders.files._SPREAD_HEADERS", 1)
    found = check_data(str(root), quick=True)
    assert found.compared == "bytes"
    names = {each.kind: each.names for each in found.findings}
    assert names["unreadable"] == ("test/dog/1.png",)
    assert names["in train and test"] == ("train/cat/1.png = test/cat/x.png",)


def test_large_images_are_compared_too(root: Path) -> None:
    for seed, path in enumerate(sorted(root.rglob("*.png"))):
        noise(path, seed, (70, 90))
    again(root, "train/cat/1.png", "test/cat/x.bmp")
    found = check_data(str(root))
    assert found.image_shape == (3, 224, 224)
    assert not found.in_memory
    assert [each.kind for each in found.findings] == ["in train and test"]


def test_falsified_labels_do_not_differ_from_themselves(root: Path) -> None:
    for name in CLASSES:
        for at in range(4):
            copy(root, f"train/{name}/{at}.png", f"train/{name}/x{at}.png")
    kinds = [each.kind for each in check_data(f"{root}+label_noise(0.5)").findings]
    assert kinds == ["more than once in train"]


def test_images_in_memory_are_named_by_split_and_id(root: Path) -> None:
    again(root, "train/cat/1.png", "train/cat/x.bmp")
    found = check_data(f"{root}+shortcut(cat=0.5, rest=0.5, size=1)")
    assert found.files is None
    assert found.groups["dog, no square"] == {"train": 2, "validation": 5, "test": 2}
    kinds = {each.kind: each.names for each in found.findings}
    few = kinds.pop("with fewer than 10 validation images")
    assert few == tuple(sorted(f"{group}: 5" for group in found.groups))
    for names in kinds.values():  # where the same one got the square or both did not
        assert names == ("train sample 1 = train sample 4",)


@pytest.mark.parametrize("spec", ["digits", "digits+long_tail(10)", "gaussians(n=40, test=40)"])
def test_data_of_our_own_are_clean(spec: str) -> None:
    found = check_data(spec)
    assert (found.spec, found.findings, found.files) == (spec, (), None)
    assert found.compared == ("nothing" if spec.startswith("gaussians") else "pixels")


# What is understood.


def test_a_folder_alone_is_one_of_images(root: Path) -> None:
    assert str(understood(f"{root}+subset(2)", None)) == f"imagefolder:{root}+subset(2)"
    assert str(understood("data", str(root.parent))) == "imagefolder:data"
    assert str(understood("digits", str(root.parent))) == "digits"
    with pytest.raises(DataError, match=r"Expected a folder of images at .*nowhere, found nothing"):
        check_data(str(root / "nowhere"))
    table = root.parent / "signs.csv"
    table.write_text("file,label\n")
    for text, data_root in ((str(table), None), ("signs.csv", str(root.parent))):
        with pytest.raises(DataError, match=r"found a file there; .* or table:FILE\?label=COLUMN"):
            check_data(text, data_root)
    with pytest.raises(ConfigError, match="Unknown data set 'digit': did you mean digits"):
        check_data("digit")


def test_where_loading_refuses_its_sentence_is_the_outcome(root: Path) -> None:
    shutil.rmtree(root / "test/dog")
    with pytest.raises(DataError, match=r"Expected the same class folders .* found 'dog'"):
        check_data(str(root))


def test_all_broken_files_are_counted_where_loading_stops_at_the_first(root: Path) -> None:
    for name in ("train/cat/0.png", "train/dog/0.png", "val/cat/7.png", "test/dog/2.png"):
        (root / name).write_text("no image")
    with pytest.raises(DataError, match=r"found 4 of 34 that are not: test/dog/2\.png, .* 1 more;"):
        check_data(str(root))


# The command.


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_command_on_a_clean_set(root: Path) -> None:
    status, said = invoke("data", "--data-root", str(root.parent), "--strict")
    assert status == 0
    assert "  data        imagefolder:data\n" in said
    assert "3x5x6" in said
    assert "34 PNG" in said
    assert "cat" in said
    assert "Found nothing wrong or suspicious." in said


def test_status_of_the_command(root: Path) -> None:
    copy(root, "train/cat/1.png", "test/cat/x.png")
    status, said = invoke(str(root))
    assert status == 0
    assert "in train and test: 1 of 7 test images" in said
    assert "Found nothing" not in said
    assert invoke(str(root), "--strict")[0] == 1
    truncate(root, "train/cat/2.png")
    status, said = invoke(str(root))
    assert status == 1
    assert "unreadable: 1 of 35 images (train/cat/2.png)" in said


def test_json_has_everything(root: Path) -> None:
    for at in range(5):
        again(root, "train/cat/1.png", f"test/cat/x{at}.bmp")
    status, said = invoke(str(root), "--json")
    body = json.loads(said)
    assert status == 0
    assert body["fatal"] is False
    assert body["classes"]["cat"] == {"train": 4, "validation": 10, "test": 8}
    assert body["files"]["formats"] == {"PNG": 34, "BMP": 5}
    kinds = {each["kind"]: each for each in body["findings"]}
    assert len(kinds["in train and test"]["names"]) == kinds["in train and test"]["count"] == 5


def test_of_many_classes_the_smallest_and_largest_are_shown(root: Path) -> None:
    for at in range(39):
        for split, count in {"train": 3, "val": 1, "test": 1}.items():
            for number in range(count - 1 if split == "train" and at == 7 else count):
                noise(root / split / f"k{at:02}" / f"{number}.png", 1000 * at + 97 * count + number)
    _, said = invoke(str(root), "--quick")
    assert "The 10 smallest and largest of 41:" in said
    assert "k07" in said
    assert sum(f"k{at:02}" in said for at in range(39)) < 20


def test_names_are_text(root: Path) -> None:
    rename_class(root, "dog", "[b]\x1b[2J")
    copy(root, "train/cat/1.png", "test/[b]\x1b[2J/x.png")
    status, said = invoke(str(root))
    assert status == 0
    assert "\x1b[2J" not in said
    assert said.count("[b]\\x1b[2J") >= 3


def test_rows_of_a_table_are_looked_at_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).round(4)
    x[7], x[100] = x[8], x[3]  # in training twice with two labels, and in training and test
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame = frame.assign(
        label=np.arange(120) % 2, part=["train"] * 60 + ["val"] * 30 + ["test"] * 30
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    status, said = invoke(f"table:{tmp_path}/rows.csv?split=part&features=a,b,c")
    assert status == 0
    assert "3, not mirrored, kept in memory" in said
    assert "compared    inputs" in said
    assert "in train and test: 1 of 30 test samples (train sample 3 = test sample 100)" in said
    assert "more than once in train: 1 of 60 train samples" in said
    assert "the same under different labels: 2 of" in said
