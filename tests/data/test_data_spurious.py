"""Colours that go with labels in training: counts, pixels, nesting, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from reference import bordered_pixel_by_pixel, other_attributes

from raydrop.data import ArrayImages, LabelledDataset, Split, load_dataset, parse_spec
from raydrop.data.sampling import shuffled_members
from raydrop.data.variants import Spurious
from raydrop.data.variants.painted import (
    COLOURS,
    aligned_attributes,
    paint_borders,
    uniform_attributes,
)
from raydrop.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def base() -> LabelledDataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def coloured() -> LabelledDataset:
    return load_dataset("digits+spurious(0.9)")


def pixels(split: Split) -> np.ndarray:
    assert isinstance(split.inputs, ArrayImages)
    return split.inputs.pixels


def attributes(split: Split, count: int = 2) -> np.ndarray:
    assert split.groups is not None
    return split.groups % count


# Which colour.


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("correlation", [0, 0.35, 0.9, 1])
def test_an_exact_share_of_each_class_is_aligned(
    rng: np.random.Generator, count: int, correlation: float
) -> None:
    labels = rng.integers(0, 4, 333)
    found = aligned_attributes(labels, 4, count, correlation, 0, "test")
    for klass, members in enumerate(shuffled_members(labels, 4, 0, "test")):
        aligned = round(correlation * len(members))
        assert (found[members[:aligned]] == klass % count).all()
        others = other_attributes(klass, count, len(members) - aligned)
        assert found[members[aligned:][::-1]].tolist() == others


def test_alignment_is_nested_in_the_correlation(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 500)
    low, high = (aligned_attributes(labels, 3, 4, c, 7, "test") for c in (0.5, 0.8))
    was, still = low == labels % 4, high == labels % 4
    assert (was <= still).all()
    assert was.sum() < still.sum()
    assert np.array_equal(low[~still], high[~still])


def test_held_out_attributes_are_equally_frequent(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 200)
    found = uniform_attributes(labels, 3, 4, 0, "test")
    for klass in range(3):
        sizes = np.bincount(found[labels == klass], minlength=4)
        assert sizes.max() - sizes.min() <= 1


def test_groups_of_the_digits(base: LabelledDataset, coloured: LabelledDataset) -> None:
    assert coloured.name == "digits+spurious(0.9)"
    assert coloured.group_names[:4] == ("0 on red", "0 on green", "1 on red", "1 on green")
    aligned = np.where(np.arange(20) // 2 % 2 == np.arange(20) % 2, 72, 8)
    assert coloured.sizes("group").tolist() == aligned.tolist()
    assert coloured.sizes("group", "validation").tolist() == [12] * 20
    assert coloured.sizes("group", "test").tolist() == [35] * 20
    for name, split in coloured.splits().items():
        before = base.splits()[name]
        assert np.array_equal(split.ids, before.ids)
        assert np.array_equal(split.labels, before.labels)
        assert split.groups is not None
        assert np.array_equal(split.groups // 2, split.labels)
    assert coloured.fingerprint != base.fingerprint


# Painting.


@pytest.mark.parametrize(
    ("channels", "size", "margin", "strength"),
    [
        *((channels, (8, 8), 1, strength) for channels in (1, 3) for strength in (0, 0.3, 1)),
        *((3, size, margin, 0.3) for size, margin in (((5, 40), 1), ((48, 40), 2), ((1, 3), 1))),
    ],
)
def test_painting_matches_a_loop_over_pixels(
    rng: np.random.Generator, channels: int, size: tuple[int, int], margin: int, strength: float
) -> None:
    images = rng.integers(0, 256, (6, channels, *size)).astype(np.uint8)
    before = images.copy()
    painted = paint_borders(images, np.arange(6), strength)
    for image, result, colour in zip(images, painted, COLOURS.values(), strict=True):
        expected = bordered_pixel_by_pixel(image, colour, strength, margin)
        assert np.array_equal(result, expected)
    assert np.array_equal(images, before)
    assert painted.flags.c_contiguous


def test_the_border_shows_the_attribute_and_the_inside_is_untouched(
    base: LabelledDataset, coloured: LabelledDataset
) -> None:
    assert coloured.image_shape == (3, 8, 8)
    for name, split in coloured.splits().items():
        inside = pixels(base.splits()[name])[:, :, 1:-1, 1:-1]
        assert np.array_equal(pixels(split)[:, :, 1:-1, 1:-1], np.repeat(inside, 3, axis=1))
        corner = pixels(split)[:, :, 0, 0].astype(int)
        seen = np.where(corner[:, 0] > corner[:, 1], 0, 1)
        assert np.array_equal(seen, attributes(split))


def test_strength_zero_leaves_grey_images_and_groups(base: LabelledDataset) -> None:
    control = Spurious(0.9, strength=0).apply(base)
    assert np.array_equal(pixels(control.train), np.repeat(pixels(base.train), 3, axis=1))
    assert control.train.groups is not None
    assert np.array_equal(control.train.groups, Spurious(0.9).apply(base).train.groups)


def test_a_border_can_be_learned_where_labels_cannot(base: LabelledDataset) -> None:
    # The parity of a digit is the border's colour in training, and says nothing in the test set.
    split = Spurious(0.95, strength=1).apply(base)
    reddest = pixels(split.train)[:, 0, 0, 0] == 255
    assert (reddest == (split.train.labels % 2 == 0)).mean() == 0.95
    reddest = pixels(split.test)[:, 0, 0, 0] == 255
    assert (reddest == (split.test.labels % 2 == 0)).mean() == 0.5


# Identity.


def test_every_argument_changes_the_fingerprint_and_seeds_repeat(base: LabelledDataset) -> None:
    variants = [
        Spurious(0.9),
        Spurious(0.8),
        Spurious(0.9, strength=0.6),
        Spurious(0.9, strength=0),
        Spurious(0.9, attributes=3),
        Spurious(0.9, seed=1),
    ]
    prints = [variant.apply(base).fingerprint for variant in variants]
    assert len({base.fingerprint, *prints}) == len(variants) + 1
    assert Spurious(0.9).apply(base).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("spurious(0.90)", "spurious(0.9)"),
        ("spurious(correlation=0.9, strength=0.5, seed=0)", "spurious(0.9)"),
        ("spurious(.9, 1.0, 3, 4)", "spurious(0.9, strength=1, attributes=3, seed=4)"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_spec(f"digits+{text}")) == f"digits+{canonical}"
    assert str(parse_spec(f"digits+{canonical}")) == f"digits+{canonical}"


# With other variants.


def test_later_variants_keep_groups_and_colours(coloured: LabelledDataset) -> None:
    position = {i: at for at, i in enumerate(coloured.train.ids.tolist())}
    for text in ("long_tail(4)", "subset(40)", "label_noise(0.3)"):
        later = load_dataset(f"digits+spurious(0.9)+{text}")
        where = np.array([position[i] for i in later.train.ids.tolist()])
        expected = coloured.train.take(where)
        assert np.array_equal(later.train.groups, expected.groups)  # type: ignore[arg-type]
        assert np.array_equal(pixels(later.train), pixels(expected))
        assert later.image_shape == (3, 8, 8)
        assert len(later.group_names) == 20


def test_earlier_variants_are_coloured_as_they_are() -> None:
    tailed = load_dataset("digits+long_tail(4)+spurious(0.8)")
    sizes = tailed.class_sizes()
    aligned = np.rint(0.8 * sizes).astype(int)
    found = tailed.sizes("group").reshape(10, 2)
    assert found[np.arange(10), np.arange(10) % 2].tolist() == aligned.tolist()
    noisy = load_dataset("digits+label_noise(0.3)+spurious(0.9)")
    assert noisy.noisy is not None
    assert noisy.noisy.sum() == 240
    assert noisy.train.groups is not None
    assert np.array_equal(noisy.train.groups // 2, noisy.train.labels)


def test_noise_after_colouring_leaves_the_true_group(coloured: LabelledDataset) -> None:
    noisy = load_dataset("digits+spurious(0.9)+label_noise(0.3)")
    assert np.array_equal(noisy.train.groups, coloured.train.groups)  # type: ignore[arg-type]
    assert noisy.train.groups is not None
    assert np.array_equal(noisy.train.groups // 2 != noisy.train.labels, noisy.noisy)  # type: ignore[arg-type]


def test_a_tail_that_empties_a_group_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"Expected long_tail\(80\) to leave images of every group in train, found"
    ):
        load_dataset("digits+spurious(0.9)+long_tail(80)")


# Files.


def write_folder(root: Path, size: tuple[int, int]) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for at in range(8):
                path = root / split / name / f"{at}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.new("RGB", size, (10 * at, 100 * label, 7)).save(path)
    return root


def test_small_files_are_decoded_and_coloured(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, (20, 16))
    plain = load_dataset(f"imagefolder:{folder}").decoded()
    dataset = load_dataset(f"imagefolder:{folder}+spurious(0.75)")
    assert dataset.image_shape == (3, 16, 20)
    assert np.array_equal(
        pixels(dataset.train)[:, :, 1:-1, 1:-1], pixels(plain.train)[:, :, 1:-1, 1:-1]
    )
    assert dataset.sizes("group").tolist() == [6, 2, 2, 6]


def test_large_files_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, (70, 70))
    with pytest.raises(DataError, match=r"fit in memory for spurious, found 16 of 3x224x224 in tr"):
        load_dataset(f"imagefolder:{folder}+spurious(0.75)")


def test_images_that_are_neither_grey_nor_rgb_are_refused() -> None:
    with pytest.raises(DataError, match=r"grey or RGB images .* found 20 of 2x4x4 in train"):
        load_dataset("gaussians(n=20, test=20)+spurious(0.75)")


# What is refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spurious(1.1)", "correlation from 0 to 1 in spurious, found 1.1; write"),
        ("spurious(-0.1)", "correlation from 0 to 1 in spurious, found -0.1; write"),
        ("spurious(nan)", "finite number for correlation in spurious, found nan;"),
        ("spurious(0.9, strength=2)", "strength from 0 to 1 in spurious, found 2; write"),
        (
            "spurious(0.9, attributes=1)",
            "whole number of at least 2 for attributes in spurious, found 1;",
        ),
        ("spurious(0.9, attributes=7)", "2 to 6 attributes in spurious, found 7; each is one of"),
        (
            "spurious(0.9, attributes=2.5)",
            "whole number of at least 2 for attributes in spurious, found",
        ),
        ("spurious(0.9, seed=-1)", "whole number of at least 0 for seed in spurious, found -1;"),
        ("spurious()", r"arguments such as \+spurious\(0.9, strength=0.5\), found spurious\(\)"),
        ("spurius(0.9)", "Unknown variant 'spurius': did you mean spurious"),
    ],
)
def test_arguments_out_of_range(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_spec(f"digits+{text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spurious(1)", r"after spurious\(1\), found no '0 on green' in train, where .* has 80"),
        ("spurious(0)", r"after spurious\(0\), found no '0 on red' in train"),
        ("spurious(0.999)", "found no '0 on green' in train"),
        ("spurious(0.98, attributes=4)", r"found no '0 on yellow' in train.* nearer to 0\.25,"),
        ("subset(50, test=1)+spurious(0.9)", "found no '0 on green' in validation, .* has 1 ima"),
    ],
)
def test_a_group_that_would_be_empty_is_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(f"digits+{text}")


def test_data_with_groups_are_not_coloured_again() -> None:
    with pytest.raises(ConfigError, match=r"without groups before spurious, found .* with 20 gr"):
        load_dataset("digits+spurious(0.9)+spurious(0.8)")
