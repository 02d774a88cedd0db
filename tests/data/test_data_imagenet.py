"""ImageNet's and Tiny ImageNet's own folders."""

from __future__ import annotations

import functools
import io
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from raydrop.data import FileImages, LabelledDataset, load_dataset
from raydrop.errors import ConfigError, DataError

CLASSES = ("n01443537", "n02124075", "n07734744")


def write(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(len(path.name), size))


@functools.cache
def jpeg(red: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (red, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def make_tiny(root: Path, per_class: int = 4) -> Path:
    """Write Tiny ImageNet in small, its validation images in an order that mixes classes."""
    lines = []
    for name in CLASSES:
        for at in range(3):
            write(root / f"train/{name}/images/{name}_{at}.JPEG", (64, 64))
        (root / f"train/{name}/{name}_boxes.txt").write_text("boxes")
    for at in range(per_class * len(CLASSES)):
        write(root / f"val/images/val_{at}.JPEG", (64, 64))
        lines.append(f"val_{at}.JPEG\t{CLASSES[at * 2 % 3]}\t0\t0\t62\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    write(root / "test/images/test_0.JPEG", (64, 64))
    (root / "wnids.txt").write_text("\n".join(reversed(CLASSES)))
    return root


def make_imagenet(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 5)):
        for name in CLASSES:
            for at in range(count):
                write(root / split / name / f"ILSVRC_{at}.JPEG", (80, 70))
    write(root / "test/unlabelled.JPEG", (80, 70))
    return root


def paths(dataset: LabelledDataset, split: str) -> tuple[str, ...]:
    images = dataset.splits()[split].inputs
    assert isinstance(images, FileImages)
    return images.paths


def test_tiny_imagenet_takes_labels_from_its_annotations(tmp_path: Path) -> None:
    make_tiny(tmp_path / "tiny-imagenet-200", per_class=5)
    dataset = load_dataset("tiny_imagenet:tiny-imagenet-200", str(tmp_path))
    assert dataset.name == "tiny_imagenet:tiny-imagenet-200"
    assert dataset.class_names == CLASSES
    assert dataset.image_shape == (3, 64, 64)
    assert paths(dataset, "train") == tuple(
        f"train/{name}/images/{name}_{at}.JPEG" for name in CLASSES for at in range(3)
    )
    assert dataset.class_sizes("validation").tolist() == [2, 2, 2]
    assert dataset.class_sizes("test").tolist() == [3, 3, 3]
    for name in ("validation", "test"):
        split = dataset.splits()[name]
        numbers = [int(Path(path).stem.removeprefix("val_")) for path in paths(dataset, name)]
        assert split.ids.tolist() == [9 + at for at in numbers]
        assert split.labels.tolist() == [at * 2 % 3 for at in numbers]
    assert not set(dataset.validation.ids) & set(dataset.test.ids)


def test_imagenet_halves_its_validation_images(tmp_path: Path) -> None:
    dataset = load_dataset(f"imagenet:{make_imagenet(tmp_path)}")
    assert dataset.name == f"imagenet:{tmp_path}"
    assert dataset.image_shape == (3, 224, 224)
    assert dataset.class_sizes().tolist() == [3, 3, 3]
    assert dataset.class_sizes("validation").tolist() == [2, 2, 2]
    assert dataset.class_sizes("test").tolist() == [3, 3, 3]
    held_out = paths(dataset, "validation") + paths(dataset, "test")
    assert sorted(held_out) == sorted(
        f"val/{name}/ILSVRC_{at}.JPEG" for name in CLASSES for at in range(5)
    )
    for split in dataset.splits().values():
        expected = [CLASSES.index(path.split("/")[1]) for path in split.inputs.paths]  # type: ignore[union-attr]
        assert split.labels.tolist() == expected


def test_imagenet_is_the_folder_whose_test_images_are_called_val(tmp_path: Path) -> None:
    imagenet = load_dataset(f"imagenet:{make_imagenet(tmp_path / 'a')}")
    shutil.rmtree(tmp_path / "a/test")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/val").rename(tmp_path / "b/test")
    folder = load_dataset(f"imagefolder:{tmp_path}/b")
    for mine, other in zip(imagenet.splits().values(), folder.splits().values(), strict=True):
        assert np.array_equal(mine.ids, other.ids)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG\tn0\t0\t0\t1\t1", r"line 13 of .*, found 'val_0\.JPEG n0': no such class in"),
        ("gone.JPEG\tn01443537", r"line 13 of .*, found 'gone\.JPEG n01443537': no such image; un"),
        (
            "../../train/n01443537/images/n01443537_0.JPEG\tn01443537",
            "line 13 of .*: no such image",
        ),
        ("val_0.JPEG", "line 13 of .*: no such class"),
        ("", "line 13 of .*: no such image"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path: Path, line: str, message: str) -> None:
    file = make_tiny(tmp_path) / "val/val_annotations.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"tiny_imagenet:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["pipe", "device", "bytes"])
def test_annotations_that_are_no_text_are_one_sentence(tmp_path: Path, what: str) -> None:
    file = make_tiny(tmp_path) / "val/val_annotations.txt"
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"\xff\xfe")
    found = "a " + what if what != "bytes" else "'utf-8' codec"
    with pytest.raises(DataError, match=f"validation images in .*, found: {found}"):
        load_dataset(f"tiny_imagenet:{tmp_path}")


def test_layouts_that_are_absent(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (tmp_path / "val/val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"validation images in .*val_annotations\.txt, found: No"):
        load_dataset(f"tiny_imagenet:{tmp_path}")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(DataError, match=r"Expected val/ in .*, found no such folder; .*val/CLASS"):
        load_dataset(f"imagenet:{tmp_path}")
    for name in ("imagenet", "tiny_imagenet"):
        with pytest.raises(ConfigError, match=f"folder after {name}, found none; write {name}:PA"):
            load_dataset(name)
