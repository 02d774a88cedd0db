"""Folders of images."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from raydrop.data import ArrayImages, FileImages, ImageDataset, load_dataset
from raydrop.data.folder import LARGE_SHAPE
from raydrop.errors import DataError


def write(path: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB", value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def make(root: Path, test: int = 4, val: int = 0, **how: object) -> Path:
    """Write three training images per class, and so many test and validation images."""
    for name, value in (("cat", 10), ("dog", 200)):
        for split, count in (("train", 3), ("test", test), ("val", val)):
            for at in range(count):
                write(root / split / name / f"{at}.png", value=value, **how)  # type: ignore[arg-type]
    return root


def load(root: Path) -> ImageDataset:
    return load_dataset(f"imagefolder:{root}")


def paths(dataset: ImageDataset, split: str) -> tuple[str, ...]:
    images = dataset.splits()[split].images
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
    decoded = dataset.decoded().train.images
    assert isinstance(decoded, ArrayImages)
    assert decoded.pixels[0, :, 0, 0].tolist() == [10, 10, 10]
    assert decoded.pixels[5, :, 0, 0].tolist() == [77, 0, 0]


def test_decoded_pixels_follow_the_labels(tmp_path: Path) -> None:
    dataset = load_dataset(f"imagefolder:{make(tmp_path)}+subset(2)").decoded()
    for split in dataset.splits().values():
        assert isinstance(split.images, ArrayImages)
        assert np.array_equal(split.images.pixels[:, 0, 0, 0], np.where(split.labels, 200, 10))


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
    assert dataset.decoded().train.images.pixels.shape == (6, 3, 5, 6)


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
