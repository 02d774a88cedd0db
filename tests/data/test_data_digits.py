"""The data set that needs no download."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits

from raydrop.data import ArrayImages, load_dataset
from raydrop.data.loaders.digits import PER_CLASS, to_uint8


def test_pixels_can_be_scaled_back_exactly() -> None:
    values = np.arange(17.0)
    pixels = to_uint8(values)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.array_equal(np.rint(pixels * 16.0 / 255), values)


def test_ids_are_positions_in_scikit_learns_order() -> None:
    bunch = sklearn_digits()
    for split in load_dataset("digits").splits().values():
        assert isinstance(split.inputs, ArrayImages)
        assert np.array_equal(split.labels, bunch.target[split.ids])
        assert np.array_equal(split.inputs.pixels[:, 0], to_uint8(bunch.images[split.ids]))
        assert np.all(np.diff(split.ids) > 0)


def test_every_split_is_balanced() -> None:
    dataset = load_dataset("digits")
    assert sum(PER_CLASS) <= 174
    for name, count in zip(dataset.splits(), PER_CLASS, strict=True):
        assert dataset.class_sizes(name).tolist() == [count] * 10


def test_splits_are_random_within_a_class() -> None:
    # scikit-learn's order goes writer by writer, so the mean id must not differ between splits.
    means = [split.ids.mean() for split in load_dataset("digits").splits().values()]
    assert max(abs(mean - 898) for mean in means) < 4 * 1797 / np.sqrt(12 * 240)


def test_facts() -> None:
    dataset = load_dataset("digits")
    assert dataset.image_shape == (1, 8, 8)
    assert dataset.class_names == tuple("0123456789")
    assert not dataset.horizontal_flip
    assert dataset.crop_padding == 1
    assert dataset.noisy is None
    assert dataset.fingerprint == load_dataset("digits").fingerprint
