"""Images, splits and data sets: what is checked, and what identifies them."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from raydrop.data.dataset import (
    ArrayImages,
    FileImages,
    LabelledDataset,
    Split,
    decoded_images,
    pixel_digest,
)
from raydrop.errors import ConfigError, DataError


def make_split(first_id: int, labels: list[int], pixel: int = 0) -> Split:
    ids = first_id + np.arange(len(labels))
    pixels = np.full((len(labels), 1, 2, 3), pixel, np.uint8)
    return Split(ids, np.array(labels, np.int64), ArrayImages(pixels))


def make_dataset(**changes: Any) -> LabelledDataset:
    splits = (make_split(0, [0, 1, 1]), make_split(3, [0, 1]), make_split(5, [1, 0]))
    facts: dict[str, Any] = {
        "name": "made",
        "class_names": ("cat", "dog"),
        "splits": splits,
        "image_shape": (1, 2, 3),
        "horizontal_flip": True,
        "crop_padding": 1,
    }
    return LabelledDataset.from_content("content", **{**facts, **changes})


def with_splits(**splits: Split) -> LabelledDataset:
    return dataclasses.replace(make_dataset(), **splits)  # type: ignore[arg-type]


def write_images(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> FileImages:
    rng = np.random.default_rng(0)
    for at, (width, height) in enumerate(sizes):
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        PIL.Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{at}.png")
    names = tuple(f"{at}.png" for at in range(len(sizes)))
    return FileImages(names, str(folder), "L" if mode == "L" else "RGB")


# Splits and images.


def test_take_keeps_ids_labels_and_pixels_together() -> None:
    images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
    split = Split(np.array([10, 11, 12, 13]), np.array([0, 1, 2, 3]), images)
    taken = split.take(np.array([3, 1]))
    assert taken.ids.tolist() == [13, 11]
    assert taken.labels.tolist() == [3, 1]
    assert isinstance(taken.inputs, ArrayImages)
    assert taken.inputs.pixels.ravel().tolist() == [3, 1]


def test_take_from_files_keeps_the_mode() -> None:
    images = FileImages(("a", "b", "c"), "root", "L").take(np.array([2, 0]))
    assert images == FileImages(("c", "a"), "root", "L")


def test_a_split_needs_equal_lengths() -> None:
    with pytest.raises(DataError, match="found 2 ids, 3 labels and 3 inputs"):
        dataclasses.replace(make_split(0, [0, 1, 1]), ids=np.arange(2))


@pytest.mark.parametrize("pixels", [np.zeros((2, 1, 2, 3)), np.zeros((2, 2, 3), np.uint8)])
def test_pixels_are_uint8_with_four_axes(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 array \(n, C, H, W\), found"):
        ArrayImages(pixels)


# What a data set checks.


def test_class_sizes_by_split() -> None:
    dataset = make_dataset()
    assert dataset.class_sizes().tolist() == [1, 2]
    assert dataset.class_sizes("test").tolist() == [1, 1]
    assert dataset.num_classes == 2


def test_unknown_split_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown split 'valid': did you mean validation"):
        make_dataset().class_sizes("valid")


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_must_have_a_class(label: int) -> None:
    with pytest.raises(DataError, match=f"labels from 0 to 1 in validation, found {label};"):
        with_splits(validation=make_split(3, [0, 1, label]))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_every_class_is_in_validation_and_test(name: str) -> None:
    with pytest.raises(DataError, match=f"a class missing from {name}: 'cat'"):
        with_splits(**{name: make_split(7, [1, 1])})


def test_a_class_may_be_missing_from_train() -> None:
    assert with_splits(train=make_split(0, [1])).class_sizes().tolist() == [0, 1]


@pytest.mark.parametrize(("first", "found"), [(4, 5), (2, 2)])
def test_ids_are_unique_across_splits(first: int, found: int) -> None:
    with pytest.raises(DataError, match=f"every sample id once .* found {found} twice"):
        with_splits(validation=make_split(first, [0, 1]))


def test_images_have_the_declared_shape() -> None:
    with pytest.raises(DataError, match=r"shape \(3, 2, 3\) in train, found \(1, 2, 3\)"):
        make_dataset(image_shape=(3, 2, 3))


def test_noise_flags_are_one_per_training_sample() -> None:
    with pytest.raises(DataError, match="each of the 3 training samples, found 2"):
        dataclasses.replace(make_dataset(), noisy=np.zeros(2, bool))


def test_everything_pickles(tmp_path: Path) -> None:
    dataset = dataclasses.replace(make_dataset(), noisy=np.array([True, False, True]))
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint == dataset.fingerprint
    assert copy.noisy.tolist() == [True, False, True]
    assert copy.class_sizes().tolist() == [1, 2]
    files = write_images(tmp_path, [(4, 4)])
    assert pickle.loads(pickle.dumps(files)) == files


# Fingerprints.


def test_fingerprint_never_changes() -> None:
    assert make_dataset().fingerprint == "0654e44700bd941a1d801201b4aa393e"
    digest = pixel_digest(np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3))
    assert digest[:16] == "28aa53f784fea638"


def test_fingerprint_ignores_names_of_the_specification_and_memory_layout() -> None:
    train = make_split(0, [0, 1, 1])
    strided = Split(
        np.repeat(train.ids, 2)[::2], np.repeat(train.labels, 2)[::2].astype(">i8"), train.inputs
    )
    splits = (strided, make_split(3, [0, 1]), make_split(5, [1, 0]))
    assert make_dataset(name="x", splits=splits).fingerprint == make_dataset().fingerprint
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 1, 4, 3)
    assert pixel_digest(np.asfortranarray(pixels)) == pixel_digest(pixels)


def test_fingerprint_changes_with_everything_that_changes_results() -> None:
    train, validation, test = make_dataset().splits().values()
    changes: list[dict[str, Any]] = [
        {"class_names": ("cat", "cow")},
        {"horizontal_flip": False},
        {"crop_padding": 2},
        {"splits": (make_split(0, [0, 0, 1]), validation, test)},
        {"splits": (make_split(9, [0, 1, 1]), validation, test)},
        {"splits": (train, test, validation)},
        {"splits": (train.take(np.array([1, 0, 2])), validation, test)},
    ]
    prints = {make_dataset(**change).fingerprint for change in [{}, *changes]}
    assert len(prints) == 8


def test_a_split_boundary_enters_the_fingerprint() -> None:
    def cut(*sizes: int) -> LabelledDataset:
        ends = np.cumsum([0, *sizes]).tolist()
        splits = (
            make_split(start, [0, 1] * (size // 2))
            for start, size in zip(ends, sizes, strict=False)
        )
        return make_dataset(splits=tuple(splits))

    assert cut(4, 2, 2).fingerprint != cut(2, 4, 2).fingerprint


def test_pixels_and_their_grouping_enter_the_digest() -> None:
    pixels = np.zeros((2, 1, 2, 3), np.uint8)
    other = pixels.copy()
    other[1, 0, 1, 2] = 1
    digests = {
        pixel_digest(pixels),
        pixel_digest(other),
        pixel_digest(pixels.reshape(2, 1, 3, 2)),
        pixel_digest(pixels[:1], pixels[1:]),
    }
    assert len(digests) == 4


def test_deriving_the_same_splits_keeps_the_fingerprint() -> None:
    dataset = make_dataset()
    same = dataset.derive("same", train=dataset.train.take(np.arange(3)))
    fewer = dataset.derive("fewer", train=dataset.train.take(np.arange(2)))
    assert same.name == "same"
    assert same.fingerprint == dataset.fingerprint != fewer.fingerprint
    assert fewer.validation is dataset.validation


def test_labels_beyond_the_classes_are_refused_before_anything_is_counted() -> None:
    for label in (10**13, -1, 2**62):
        with pytest.raises(DataError, match=f"labels from 0 to 1 in train, found {label}; correct"):
            with_splits(train=make_split(0, [0, label, 1]))


def test_remarks_are_kept_and_do_not_enter_the_fingerprint() -> None:
    plain, said = make_dataset(), make_dataset(remarks=("So it is.",))
    assert plain.fingerprint == said.fingerprint
    derived = said.derive("fewer", train=said.train.take(np.arange(2)))
    assert said.remarks == said.decoded().remarks == derived.remarks == ("So it is.",)


# Files.


def from_files(images: FileImages, shape: tuple[int, int, int]) -> LabelledDataset:
    split = Split(np.arange(3), np.array([0, 0, 0]), images)
    return make_dataset(
        class_names=("one",),
        image_shape=shape,
        splits=tuple(split.take(np.array([at])) for at in range(3)),
    )


def test_decoding_gives_the_pixels_of_the_files(tmp_path: Path) -> None:
    images = write_images(tmp_path, [(5, 4)] * 3)
    dataset = from_files(images, (3, 4, 5))
    decoded = dataset.decoded()
    for at, split in enumerate(decoded.splits().values()):
        assert isinstance(split.inputs, ArrayImages)
        with PIL.Image.open(tmp_path / f"{at}.png") as image:
            for x in range(5):
                for y in range(4):
                    assert tuple(split.inputs.pixels[0, :, y, x]) == image.getpixel((x, y))
    assert decoded.fingerprint == dataset.fingerprint
    assert decoded.decoded() is decoded


def test_grey_files_give_one_channel(tmp_path: Path) -> None:
    images = write_images(tmp_path, [(5, 4)] * 3, mode="L")
    decoded = from_files(images, (1, 4, 5)).decoded()
    assert isinstance(decoded.train.inputs, ArrayImages)
    expected = np.asarray(PIL.Image.open(tmp_path / "0.png"))
    assert np.array_equal(decoded.train.inputs.pixels[0, 0], expected)


def test_images_of_another_size_are_resized(tmp_path: Path) -> None:
    decoded = decoded_images(write_images(tmp_path, [(8, 8), (12, 6)]), 8, 8)
    assert decoded.pixels.shape == (2, 3, 8, 8)
    with PIL.Image.open(tmp_path / "1.png") as image:
        resized = np.asarray(image.resize((8, 8), PIL.Image.Resampling.BILINEAR))
    assert np.array_equal(decoded.pixels[1], resized.transpose(2, 0, 1))


def test_only_what_is_small_and_fits_is_decoded(tmp_path: Path) -> None:
    images = write_images(tmp_path, [(5, 4)] * 3)
    dataset = from_files(images, (3, 4, 5))
    assert dataset.decoded(limit_bytes=3 * 60 - 1) is dataset
    assert dataset.decoded(limit_bytes=3 * 60) is not dataset
    large = from_files(images, (3, 4, 65))
    assert large.decoded() is large


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_opens_as_asked(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    PIL.Image.new(mode, (3, 2)).save(path)
    for wanted in ("RGB", "L"):
        image = FileImages((path.name,), str(tmp_path), wanted).open(0)
        assert (image.mode, image.size) == (wanted, (3, 2))


def test_transparent_palettes_open_without_a_warning(tmp_path: Path) -> None:
    palette = PIL.Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30] * 2)
    palette.save(tmp_path / "image.png", transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = FileImages(("image.png",), str(tmp_path)).open(0)
    assert image.getpixel((0, 0)) == (10, 20, 30)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    images = write_images(tmp_path, [(20, 20)] * 3)
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"readable image in .*1\.png, found: .*truncated"):
        from_files(images, (3, 20, 20)).decoded()
    (tmp_path / "1.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"1\.png, found: no image format .* replace or remove"):
        images.open(1)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png, found: No such file"):
        images.open(1)
