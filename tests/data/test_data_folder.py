"""Folders of images."""

from __future__ import annotations

import functools
import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from raydrop.data import ArrayImages, FileImages, LabelledDataset, load_dataset
from raydrop.data.loaders.files import LARGE_SHAPE
from raydrop.errors import ConfigError, DataError


def write(path: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB", value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = PIL.Image.registered_extensions()[path.suffix.lower()]
    path.write_bytes(encoded(kind, size, mode, value))


@functools.cache
def encoded(kind: str, size: tuple[int, int], mode: str, value: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(file, kind)
    return file.getvalue()


def make(root: Path, test: int = 4, val: int = 0, **how: object) -> Path:
    """Write three training images per class, and so many test and validation images."""
    for name, value in (("cat", 10), ("dog", 200)):
        for split, count in (("train", 3), ("test", test), ("val", val)):
            for at in range(count):
                write(root / split / name / f"{at}.png", value=value, **how)  # type: ignore[arg-type]
    return root


def load(root: Path) -> LabelledDataset:
    return load_dataset(f"imagefolder:{root}")


def paths(dataset: LabelledDataset, split: str) -> tuple[str, ...]:
    images = dataset.splits()[split].inputs
    assert isinstance(images, FileImages)
    return images.paths


# What is found.


def test_labels_come_from_sorted_folder_names(tmp_path: Path) -> None:
    dataset = load(make(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    for name, split in dataset.splits().items():
        expected = [0 if "/cat/" in path else 1 for path in paths(dataset, name)]
        assert split.labels.tolist() == expected


def test_without_val_half_of_each_class_of_test_is_validation(tmp_path: Path) -> None:
    dataset = load(make(tmp_path, test=5))
    assert dataset.class_sizes("validation").tolist() == [2, 2]
    assert dataset.class_sizes("test").tolist() == [3, 3]
    both = paths(dataset, "validation") + paths(dataset, "test")
    assert all(path.startswith("test/") for path in both)
    assert len(set(both)) == 10


def test_val_is_used_where_it_exists(tmp_path: Path) -> None:
    dataset = load(make(tmp_path, test=1, val=2))
    assert paths(dataset, "validation") == tuple(
        f"val/{name}/{at}.png" for name in ("cat", "dog") for at in range(2)
    )
    assert dataset.class_sizes("test").tolist() == [1, 1]


def test_ids_number_the_sorted_listing_of_train_val_test(tmp_path: Path) -> None:
    dataset = load(make(tmp_path, test=2, val=1))
    listing = [p for name in ("train", "validation", "test") for p in paths(dataset, name)]
    ids = np.concatenate([split.ids for split in dataset.splits().values()])
    assert ids.tolist() == list(range(12))
    assert listing[:6] == [f"train/{name}/{at}.png" for name in ("cat", "dog") for at in range(3)]
    halved = load(make(tmp_path / "halved", test=4))
    expected = [f"test/{name}/{at}.png" for name in ("cat", "dog") for at in range(4)]
    for name in ("validation", "test"):
        where = halved.splits()[name].ids - 6
        assert [expected[at] for at in where] == list(paths(halved, name))


def test_nested_files_count_and_hidden_or_other_files_do_not(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "train/cat/deep/er/9.JPG")
    write(tmp_path / "train/cat/.hidden.png")
    write(tmp_path / "train/cat/.cache/0.png")
    write(tmp_path / "train/.ipynb_checkpoints/0.png")
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/readme.md").write_text("not a class")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    expected = ("train/cat/0.png", "train/cat/1.png", "train/cat/2.png", "train/cat/deep/er/9.JPG")
    assert paths(dataset, "train")[:4] == expected
    assert len(dataset.train) == 7


def test_classes_may_be_links(tmp_path: Path) -> None:
    make(tmp_path / "real")
    (tmp_path / "linked/train").mkdir(parents=True)
    shutil.copytree(tmp_path / "real/test", tmp_path / "linked/test")
    for name in ("cat", "dog"):
        (tmp_path / "linked/train" / name).symlink_to(tmp_path / "real/train" / name)
    assert load(tmp_path / "linked").fingerprint == load(tmp_path / "real").fingerprint


def test_no_image_is_decoded_to_list_them(tmp_path: Path) -> None:
    make(tmp_path, size=(40, 40))
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])  # the header stays
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 40, 40)
    with pytest.raises(DataError, match=r"readable image in .*train/cat/0\.png"):
        dataset.decoded()


# What splits are called, and what else lies there.


def said(root: Path, options: str = "") -> str:
    return " ".join(load_dataset(f"imagefolder:{root}{options}").remarks)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "validation", "testing"),
        ("TRAIN", "Dev", "Eval"),
        ("trains", "vals", "tests"),
        ("train", "id_val", "id_test"),
        ("train", "id-val", "Evaluation"),
    ],
)
def test_splits_may_have_their_common_names(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    make(tmp_path, test=4, val=2)
    for usual, name in (("train", train), ("val", val), ("test", test)):
        (tmp_path / usual).rename(tmp_path / name)
    dataset = load(tmp_path)
    for name, split in zip((train, val, test), dataset.splits(), strict=True):
        assert {path.split("/")[0] for path in paths(dataset, split)} == {name}
    assert dataset.class_sizes("test").tolist() == [4, 4]
    assert "half of the test images" not in said(tmp_path)


@pytest.mark.parametrize("other", ["valid", "VAL", "dev", "id_val"])
def test_two_folders_for_one_split_are_refused(tmp_path: Path, other: str) -> None:
    write(make(tmp_path, val=1) / other / "cat/0.png")
    with pytest.raises(DataError, match=f"one folder for each split in .*'{other}'.*for the same"):
        load(tmp_path)


def test_what_is_not_used_is_said_with_counts(tmp_path: Path) -> None:
    make(tmp_path, test=4)
    write(tmp_path / "extra/cat/0.png")
    write(tmp_path / "train/loose.png")
    write(tmp_path / "train/cat/.hidden.png")
    for name in ("a.txt", "b.txt", "c.HEIC", "Thumbs.db", "none"):
        (tmp_path / "train/cat" / name).write_text("")
    text = said(tmp_path)
    assert "Folders that are no split are not looked at: 'extra'." in text
    assert "1 image beside the class folders: left out." in text
    assert "4 files not called like an image: left out; .txt (2), " in text
    assert ".heic (1)" in text
    assert "no ending (1)" in text
    assert "2 hidden or system files or folders: left out." in text
    assert "half of the test images of each class are validation." in text
    assert said(make(tmp_path / "plain", val=1), "?flip=on") == ""


def test_remarks_stay_with_variants_and_decoded_images(tmp_path: Path) -> None:
    dataset = load(make(tmp_path))
    variant = load_dataset(f"imagefolder:{tmp_path}+subset(2)").decoded()
    assert variant.remarks == dataset.remarks != ()


@pytest.mark.parametrize(
    "junk",
    ["@eaDir/0.png", "__MACOSX/cat/0.png", ".ipynb_checkpoints/0.png", "$RECYCLE.BIN/0.png"],
)
@pytest.mark.parametrize("where", ["", "train", "test/dog"])
def test_folders_of_systems_are_neither_classes_nor_images(
    tmp_path: Path, junk: str, where: str
) -> None:
    before = load(make(tmp_path)).fingerprint
    write(tmp_path / where / junk)
    write(tmp_path / where / "._0.png")
    (tmp_path / where / "desktop.ini").write_text("")
    assert load(tmp_path).fingerprint == before


@pytest.mark.parametrize("suffix", ["jfif", "gif", "avif", "webp", "jpe", "tif", "apng", "pbm"])
def test_images_are_known_by_many_endings(tmp_path: Path, suffix: str) -> None:
    make(tmp_path)
    kind = {"jfif": "JPEG", "jpe": "JPEG", "apng": "PNG", "tif": "TIFF", "pbm": "PPM"}.get(
        suffix, suffix
    )
    PIL.Image.new("RGB", (6, 5)).save(tmp_path / f"train/cat/z.{suffix.upper()}", kind)
    dataset = load(tmp_path)
    assert f"train/cat/z.{suffix.upper()}" in paths(dataset, "train")
    assert dataset.decoded().image_shape == (3, 5, 6)


# Trees that are not what they seem.


@pytest.mark.parametrize("inner", [("images", "images"), ("train_images", "test_images")])
def test_a_tree_one_level_too_deep_is_refused(tmp_path: Path, inner: tuple[str, str]) -> None:
    make(tmp_path)
    for split, name in zip(("train", "test"), inner, strict=True):
        (tmp_path / split).rename(tmp_path / "moved")
        (tmp_path / split).mkdir()
        (tmp_path / "moved").rename(tmp_path / split / name)
    with pytest.raises(DataError, match=r"found only '.*_?images', in which 'cat', 'dog' are fold"):
        load(tmp_path)


def test_a_tree_one_level_too_high_names_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(DataError, match=r"Expected train/ .*; give the path of 'photos' in it"):
        load(tmp_path)
    make(tmp_path / "other")
    shutil.rmtree(tmp_path / "other/train")
    with pytest.raises(DataError, match=r"Expected train/ .*other, .* \(there are 'test'\)"):
        load(tmp_path / "other")


def test_one_class_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / split / "dog")
    with pytest.raises(DataError, match=r"two classes or more in .*, found only 'cat'"):
        load(tmp_path)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../cat", "self", "mutual"])
def test_links_that_lead_back_are_one_sentence(tmp_path: Path, target: str) -> None:
    link = make(tmp_path) / "train/cat/deep/link"
    link.parent.mkdir()
    if target == "mutual":
        link.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/back").symlink_to(tmp_path / "train")
    else:
        link.symlink_to(target if target != "self" else "link")
    with pytest.raises(DataError, match=r"(leads back|Too many levels)") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_may_be_nested_deeply_and_linked_twice(tmp_path: Path) -> None:
    write(make(tmp_path) / "train/cat" / "/".join("d" * 200) / "x.png")
    (tmp_path / "train/dog/again").symlink_to(tmp_path / "train/cat")
    assert load(tmp_path).class_sizes().tolist() == [4, 7]


# Names.


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_class_that_is_not_utf8_is_refused_when_loaded(tmp_path: Path, where: str) -> None:
    bad = os.fsdecode(b"gr\xfcn")
    write(make(tmp_path) / where / bad / "0.png")
    with pytest.raises(DataError, match=r"names of classes in UTF-8 .*found b'gr.xfcn'; rename"):
        load(tmp_path)


def test_files_whose_names_are_not_utf8_are_read_and_shown(tmp_path: Path) -> None:
    path = make(tmp_path) / "train/cat" / os.fsdecode(b"\xfc\n.png")
    write(path)
    dataset = load(tmp_path)
    assert len(dataset.decoded().train) == 7
    assert "1 file whose names are not UTF-8." in dataset.remarks
    path.write_bytes(b"text")
    with pytest.raises(DataError, match=r"udcfc\\n\.png, found: no image") as caught:
        load(tmp_path).decoded()
    assert str(caught.value).encode()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [("caf\u00e9", "cafe\u0301"), ("Cat", "cat"), ("01", "1"), ("\ufb01n", "fin"), ("a b", "a  b")],
)
def test_names_that_look_alike_are_classes_of_their_own_and_said(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for split in ("train", "test"):
        for name in names:
            for at in range(2):
                write(tmp_path / split / name / f"{at}.png")
    dataset = load(tmp_path)
    assert dataset.class_names == tuple(sorted(names))
    assert any("Names that differ little are different classes" in r for r in dataset.remarks)


# Mirror images.


def test_mirror_images_are_asked_for(tmp_path: Path) -> None:
    make(tmp_path)
    plain, mirrored = load(tmp_path), load_dataset(f"imagefolder:{tmp_path}?flip=on")
    assert not plain.horizontal_flip
    assert mirrored.horizontal_flip
    assert plain.fingerprint != mirrored.fingerprint
    assert mirrored.name == f"imagefolder:{tmp_path}?flip=on"
    assert any("say flip=on" in remark for remark in plain.remarks)
    assert not any("flip" in remark for remark in mirrored.remarks)
    with pytest.raises(ConfigError, match="Unknown value of flip 'yes': choose one of off, on"):
        load_dataset(f"imagefolder:{tmp_path}?flip=yes")


def test_fingerprints_of_plain_folders_are_those_of_old(tmp_path: Path) -> None:
    for size, expected in (
        ((6, 5), "bf36cf31e6c8eaebb890a69048e8b4a2"),
        ((70, 65), "b8cfda45a46b774bc175ba2eff817298"),
    ):
        root = make(tmp_path / str(size[0]), test=2, val=1)
        for path in root.rglob("*.png"):
            PIL.Image.new("RGB", size).save(path, "BMP")
        assert load_dataset(f"imagefolder:{root}?flip=on").fingerprint == expected


# Shapes.


@pytest.mark.parametrize(
    ("size", "mode", "shape"),
    [
        ((6, 5), "RGB", (3, 5, 6)),
        ((28, 28), "L", (1, 28, 28)),
        ((64, 64), "RGB", (3, 64, 64)),
        ((65, 64), "RGB", LARGE_SHAPE),
        ((300, 200), "L", LARGE_SHAPE),
    ],
)
def test_shape_follows_the_headers(
    tmp_path: Path, size: tuple[int, int], mode: str, shape: tuple[int, int, int]
) -> None:
    dataset = load(make(tmp_path, size=size, mode=mode))
    assert dataset.image_shape == shape
    assert dataset.crop_padding == (0 if shape == LARGE_SHAPE else 4)
    assert (dataset.decoded() is dataset) == (shape == LARGE_SHAPE)


def test_sizes_that_differ_make_images_stream(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "test/dog/9.png", size=(5, 6))
    assert load(tmp_path).image_shape == LARGE_SHAPE


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    make(tmp_path, mode="L")
    write(tmp_path / "train/dog/2.png", value=77)
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 5, 6)
    decoded = dataset.decoded().train.inputs
    assert isinstance(decoded, ArrayImages)
    assert decoded.pixels[0, :, 0, 0].tolist() == [10, 10, 10]
    assert decoded.pixels[5, :, 0, 0].tolist() == [77, 0, 0]


def test_decoded_pixels_follow_the_labels(tmp_path: Path) -> None:
    dataset = load_dataset(f"imagefolder:{make(tmp_path)}+subset(2)").decoded()
    for split in dataset.splits().values():
        assert isinstance(split.inputs, ArrayImages)
        assert np.array_equal(split.inputs.pixels[:, 0, 0, 0], np.where(split.labels, 200, 10))


# Where it lies.


def test_relative_paths_start_at_the_data_root(tmp_path: Path) -> None:
    make(tmp_path / "photos")
    relative = load_dataset("imagefolder:photos", str(tmp_path))
    absolute = load_dataset(f"imagefolder:{tmp_path}/photos", "/elsewhere")
    assert relative.fingerprint == absolute.fingerprint
    assert relative.name == "imagefolder:photos"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("imagefolder:~/photos", "/elsewhere").train) == 6


def test_files_are_found_from_another_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    dataset = pickle.loads(pickle.dumps(load_dataset("imagefolder:photos")))
    monkeypatch.chdir("/")
    assert dataset.decoded().train.inputs.pixels.shape == (6, 3, 5, 6)


# Fingerprints.


def test_fingerprint_sees_the_listing_and_not_the_root(tmp_path: Path) -> None:
    first = load(make(tmp_path / "a")).fingerprint
    assert load(make(tmp_path / "other/b")).fingerprint == first


@pytest.mark.parametrize("change", ["rename", "resize", "add", "move"])
def test_fingerprint_changes_with_the_listing(tmp_path: Path, change: str) -> None:
    before = load(make(tmp_path, test=6)).fingerprint
    file = tmp_path / "train/cat/2.png"
    if change == "rename":
        file.rename(file.with_name("3.png"))
    elif change == "resize":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "add":
        write(tmp_path / "train/cat/3.png")
    else:
        file.rename(tmp_path / "train/dog/3.png")
    assert load(tmp_path).fingerprint != before


def test_order_of_creation_does_not_matter(tmp_path: Path) -> None:
    make(tmp_path / "a")
    for path in sorted((tmp_path / "a").rglob("*.png"), reverse=True):
        target = tmp_path / "b" / path.relative_to(tmp_path / "a")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    assert paths(one, "train") == paths(other, "train")
    assert one.fingerprint == other.fingerprint


# What goes wrong.


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"folder of images at {tmp_path}/none, found nothing"):
        load_dataset("imagefolder:none", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="found a file there"):
        load(tmp_path / "file")


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_split(tmp_path: Path, split: str) -> None:
    shutil.rmtree(make(tmp_path) / split)
    with pytest.raises(DataError, match=f"Expected {split}/ in {tmp_path}, found no such folder"):
        load(tmp_path)


def test_no_classes(tmp_path: Path) -> None:
    make(tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    write(tmp_path / "train/loose.png")
    with pytest.raises(DataError, match=f"a folder per class in {tmp_path}/train, found none"):
        load(tmp_path)


def test_empty_class(tmp_path: Path) -> None:
    make(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "cow").mkdir()
    with pytest.raises(DataError, match=f"images in {tmp_path}/train/cow, found none that ends"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("train/cow", r"in train/ and val/ of .* found 'cow' in train/ but not in val/"),
        ("test/cow", r"in train/ and test/ of .* found 'cow' in test/ but not in train/"),
        ("val/cow", r"in train/ and val/ of .* found 'cow' in val/ but not in train/"),
    ],
)
def test_classes_that_differ(tmp_path: Path, where: str, message: str) -> None:
    write(make(tmp_path, val=1) / where / "0.png")
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_one_test_image_cannot_be_halved(tmp_path: Path) -> None:
    make(tmp_path)
    for at in (1, 2, 3):
        (tmp_path / f"test/dog/{at}.png").unlink()
    with pytest.raises(DataError, match=r"at least two test images .* found 1 of class 'dog'"):
        load(tmp_path)


def test_a_broken_header_is_named(tmp_path: Path) -> None:
    (make(tmp_path) / "train/dog/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/dog/0\.png, found: no image format"):
        load(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(tmp_path)
    scandir = os.scandir

    def denied(path: object) -> object:
        if str(path).endswith("train/dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"read the folder .*train/dog, found: Permission denied"):
        load(tmp_path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (make(tmp_path) / "train/dog/9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"train/dog/9\.png, found: No such file"):
        load(tmp_path)
