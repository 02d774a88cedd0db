"""Thinned classes, and squares that go with a class: counts, pixels, nesting, what is refused."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from reference import squared_pixel_by_pixel

from raydrop.data import ArrayImages, LabelledDataset, Split, load_dataset
from raydrop.data.batches import augment
from raydrop.data.sampling import shuffled_members
from raydrop.data.variants import Shortcut, Subset, Thinned
from raydrop.data.variants.painted import marked_shares, paint_squares
from raydrop.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def base() -> LabelledDataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def marked() -> LabelledDataset:
    return load_dataset("digits+shortcut(5=0.9, rest=0.1, size=2)")


def pixels(split: Split) -> np.ndarray:
    assert isinstance(split.inputs, ArrayImages)
    return split.inputs.pixels


def marks(split: Split) -> np.ndarray:
    assert split.groups is not None
    return split.groups % 2


def same(one: Split, other: Split) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)


# Thinned classes.


def test_named_classes_are_thinned_and_the_others_are_whole(base: LabelledDataset) -> None:
    thinned = load_dataset("digits+thinned(3=0.2, 5=0.21)")
    assert thinned.class_sizes().tolist() == [80, 80, 80, 16, 80, 17, 80, 80, 80, 80]
    assert thinned.name == "digits+thinned(3=0.2, 5=0.21)"
    others = ~np.isin(base.train.labels, (3, 5))
    assert set(base.train.ids[others]) < set(thinned.train.ids) < set(base.train.ids)
    truth = dict(zip(base.train.ids.tolist(), base.train.labels.tolist(), strict=True))
    assert thinned.train.labels.tolist() == [truth[i] for i in thinned.train.ids.tolist()]
    assert same(thinned.validation, base.validation)
    assert same(thinned.test, base.test)
    assert thinned.fingerprint != base.fingerprint


def test_thinner_classes_are_nested_and_whole_ones_are_the_same_data(base: LabelledDataset) -> None:
    ids = [set(Thinned(**{"4": share}).apply(base).train.ids) for share in (1, 0.5, 0.2, 0.01)]
    assert ids[0] > ids[1] > ids[2] > ids[3]
    assert Thinned(**{"4": 1}).apply(base).fingerprint == base.fingerprint
    again = (Thinned(**{"4": 0.2, "7": 0.5}), Thinned(**{"7": 0.5, "4": 0.2}))
    assert again[0] == again[1]
    assert again[0].apply(base).fingerprint == again[1].apply(base).fingerprint


def test_a_class_goes_by_its_name_before_its_number(base: LabelledDataset) -> None:
    names = ("cat", "0", *base.class_names[2:])
    named = LabelledDataset.from_content(
        "x", name="pets", class_names=names, splits=(base.train, base.validation, base.test),
        image_shape=base.image_shape, horizontal_flip=False, crop_padding=0,
    )  # fmt: skip
    for text, label in (("cat", 0), ("0", 1), ("1", 1), ("9", 9)):
        sizes = Thinned(**{text: 0.5}).apply(named).class_sizes()
        assert np.flatnonzero(sizes < 80).tolist() == [label]
    with pytest.raises(ConfigError, match="Unknown class of pets 'cats': did you mean cat"):
        Thinned(cats=0.5).apply(named)
    with pytest.raises(
        ConfigError, match=r"each class once in thinned\(.*, found '1' twice, by na"
    ):
        Thinned(**{"0": 0.5, "1": 0.5}).apply(named)


def test_a_class_may_not_vanish(base: LabelledDataset) -> None:
    with pytest.raises(DataError, match=r"found none left of the 80 of class '3'; use a milder"):
        Thinned(**{"3": 0.001}).apply(base)


# Which images get a square.


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_an_exact_share_of_each_class_is_marked(rng: np.random.Generator, share: float) -> None:
    labels = rng.integers(0, 4, 333)
    shares = np.array([share, 1 - share, 0.25, 1])
    found = marked_shares(labels, shares, 0, "test")
    for klass, members in enumerate(shuffled_members(labels, 4, 0, "test")):
        chosen = found[members]
        assert chosen.sum() == round(shares[klass] * len(members))
        assert (np.diff(chosen) <= 0).all()  # so smaller shares are nested in larger ones


def test_groups_of_the_digits(base: LabelledDataset, marked: LabelledDataset) -> None:
    assert marked.name == "digits+shortcut(5=0.9, rest=0.1, size=2)"
    assert marked.group_names[:3] == ("0, no square", "0, square", "1, no square")
    sizes = {"train": (72, 8), "validation": (22, 2), "test": (35, 35)}
    for name, (rest_without, rest_with) in sizes.items():
        expected = [rest_without, rest_with] * 10
        expected[10:12] = [rest_with, rest_without]
        assert marked.sizes("group", name).tolist() == expected
        split, before = marked.splits()[name], base.splits()[name]
        assert same(split, before)
        assert np.array_equal(split.groups // 2, split.labels)  # type: ignore[operator]
    assert marked.fingerprint != base.fingerprint


def test_the_square_predicts_its_class_in_training_and_nothing_in_the_test_set(
    marked: LabelledDataset,
) -> None:
    def share_of_class(split: Split) -> float:
        return float((split.labels[marks(split) == 1] == 5).mean())

    assert share_of_class(marked.train) == 0.5  # 72 of 144, where one in ten is of the class
    assert share_of_class(marked.test) == 0.1


# Painting.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size", "margin"),
    [((8, 8), 2, 1), ((8, 8), 8, 1), ((32, 40), 4, 4), ((5, 12), 4, 4), ((6, 6), 1, 0)],
)
def test_painting_matches_a_loop_over_pixels(
    rng: np.random.Generator, channels: int, shape: tuple[int, int], size: int, margin: int
) -> None:
    images = rng.integers(0, 256, (5, channels, *shape)).astype(np.uint8)
    before = images.copy()
    painted = paint_squares(images, np.array([1, 0, 1, 0, 0]), size, margin)
    for at, (image, result) in enumerate(zip(images, painted, strict=True)):
        expected = squared_pixel_by_pixel(image, size if at in (0, 2) else 0, margin)
        assert np.array_equal(result, expected)
    assert np.array_equal(images, before)
    assert painted.flags.c_contiguous


def test_unmarked_images_and_the_rest_of_marked_ones_stay(
    base: LabelledDataset, marked: LabelledDataset
) -> None:
    for name, split in marked.splits().items():
        before = np.repeat(pixels(base.splits()[name]), 3, axis=1)
        changed = (pixels(split) != before).any(axis=(1, 2, 3))
        assert not changed[marks(split) == 0].any()
        outside = np.ones((8, 8), bool)
        outside[1:3, 1:3] = False
        assert np.array_equal(pixels(split)[:, :, outside], before[:, :, outside])
        assert (pixels(split)[marks(split) == 1, :, 1, 1] == (255, 255, 0)).all()


def test_random_crops_never_cut_the_square() -> None:
    images = np.zeros((200, 3, 32, 32), np.uint8)
    painted = torch.from_numpy(paint_squares(images, np.ones(200, np.int64), 4, margin=4))
    shifted = augment(painted, 4, True, torch.Generator().manual_seed(0))
    assert (shifted[:, 0] > 0).sum(dim=(1, 2)).tolist() == [16] * 200
    near = torch.from_numpy(paint_squares(images, np.ones(200, np.int64), 4, margin=0))
    shifted = augment(near, 4, True, torch.Generator().manual_seed(0))
    assert (shifted[:, 0] > 0).sum(dim=(1, 2)).min() == 0


# Identity and what is refused.


def test_every_argument_changes_the_fingerprint_and_seeds_repeat(base: LabelledDataset) -> None:
    variants = [
        Shortcut(rest=0.1, **{"5": 0.9}),
        Shortcut(rest=0.1, **{"5": 0.8}),
        Shortcut(rest=0.1, **{"6": 0.9}),
        Shortcut(rest=0.2, **{"5": 0.9}),
        Shortcut(rest=0.1, size=2, **{"5": 0.9}),
        Shortcut(rest=0.1, seed=1, **{"5": 0.9}),
    ]
    prints = [variant.apply(base).fingerprint for variant in variants]
    assert len(set(prints)) == len(prints)
    assert variants[0].apply(load_dataset("digits")).fingerprint == prints[0]


def test_noise_and_choices_before_a_square_are_kept() -> None:
    noisy = load_dataset("digits+label_noise(0.2)+shortcut(5=0.9, rest=0.1)")
    assert noisy.noisy is not None
    assert noisy.noisy.sum() == 160
    small = load_dataset("digits+subset(20)+shortcut(5=0.9, rest=0.1)")
    assert small.sizes("group").tolist() == [18, 2] * 5 + [2, 18] + [18, 2] * 4


def test_what_has_no_square_is_refused(base: LabelledDataset, marked: LabelledDataset) -> None:
    with pytest.raises(ConfigError, match=r"without groups before shortcut, found .* 20 groups"):
        Shortcut(**{"5": 0.9}).apply(marked)
    with pytest.raises(ConfigError, match="Unknown class of digits 'dog': choose one of 0, 1, 2"):
        Shortcut(dog=0.98).apply(base)
    with pytest.raises(
        DataError, match=r"at least 9 pixels a side for shortcut\(.*, found 8; choose"
    ):
        Shortcut(size=9, **{"5": 0.9}).apply(base)
    with pytest.raises(
        DataError, match=r"found no '0, square' in train, where the class has 20 im"
    ):
        Shortcut(**{"5": 0.9}).apply(Subset(20).apply(base))
    with pytest.raises(
        DataError, match=r"found no '5, no square' in .*; use a share nearer to 0.5"
    ):
        Shortcut(rest=0.1, **{"5": 1}).apply(base)


def test_large_images_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for at in range(2):
                PIL.Image.new("RGB", (70, 70)).save(root / split / label / f"{at}.png")
    with pytest.raises(
        DataError, match="RGB images that fit in memory for shortcut, found 4 of 3x2"
    ):
        load_dataset(f"imagefolder:{root}+shortcut(dog=0.5, rest=0.5)")
