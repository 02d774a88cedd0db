"""torchvision's data sets, behind a stand-in: nothing is downloaded."""

from __future__ import annotations

from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from raydrop.data import ArrayImages, load_dataset
from raydrop.errors import DataError


class Official:
    """Opens like a data set of torchvision: 20 training and 11 test images of two classes."""

    classes = ("even", "odd")
    grey = True

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert download
        assert Path(root).is_dir()
        count = 20 if train else 11
        shape = (count, 28, 28) if self.grey else (count, 32, 32, 3)
        pixels = np.random.default_rng(train).integers(0, 256, shape, np.uint8)
        labels = (np.arange(count) % 2).tolist()
        self.data: Any = torch.from_numpy(pixels) if self.grey else pixels
        self.targets: Any = torch.tensor(labels) if self.grey else labels


class Coloured(Official):
    grey = False


@pytest.mark.parametrize(
    ("name", "cls", "stand_in", "shape", "flip", "padding"),
    [
        ("mnist", "MNIST", Official, (1, 28, 28), False, 2),
        ("fashion_mnist", "FashionMNIST", Official, (1, 28, 28), True, 2),
        ("cifar10", "CIFAR10", Coloured, (3, 32, 32), True, 4),
        ("cifar100", "CIFAR100", Coloured, (3, 32, 32), True, 4),
    ],
)
def test_official_splits_become_three(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    cls: str,
    stand_in: type[Official],
    shape: tuple[int, int, int],
    flip: bool,
    padding: int,
) -> None:
    monkeypatch.setattr(torchvision.datasets, cls, stand_in)
    dataset = load_dataset(name, str(tmp_path / "new" / "folder"))
    assert (dataset.name, dataset.class_names) == (name, ("even", "odd"))
    assert dataset.image_shape == shape
    assert (dataset.horizontal_flip, dataset.crop_padding) == (flip, padding)
    assert dataset.class_sizes("train").tolist() == [10, 10]
    assert dataset.class_sizes("validation").tolist() == [3, 2]
    assert dataset.class_sizes("test").tolist() == [3, 3]
    assert dataset.train.ids.tolist() == list(range(20))
    held_out = np.concatenate([dataset.validation.ids, dataset.test.ids])
    assert sorted(held_out.tolist()) == list(range(20, 31))


def test_pixels_and_labels_follow_the_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Coloured)
    official = Coloured(str(tmp_path), train=False, download=True)
    split = load_dataset("cifar10", str(tmp_path)).test
    assert isinstance(split.inputs, ArrayImages)
    for at, sample in enumerate(split.ids - 20):
        assert split.labels[at] == official.targets[sample]
        for channel in range(3):
            expected = official.data[sample, :, :, channel]
            assert np.array_equal(split.inputs.pixels[at, channel], expected)


def test_fingerprint_sees_pixels_and_not_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Altered(Coloured):
        def __init__(self, root: str, train: bool, download: bool) -> None:
            super().__init__(root, train, download)
            self.data[-1, -1, -1, -1] ^= 1

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Coloured)
    first = load_dataset("cifar10", str(tmp_path / "a")).fingerprint
    assert load_dataset("cifar10", str(tmp_path / "b")).fingerprint == first
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Altered)
    assert load_dataset("cifar10", str(tmp_path / "a")).fingerprint != first


def test_without_a_data_root_files_go_to_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "MNIST", Official)
    load_dataset("mnist+subset(2)")
    assert (tmp_path / ".cache" / "raydrop").is_dir()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError("no route"), "no route"),
        (RuntimeError("Error downloading x:\nTried y,\n got z"), "Tried y, got z"),
        (IncompleteRead(b""), "IncompleteRead"),
        (EOFError(), "EOFError"),
    ],
)
def test_a_failed_download_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fail)
    message = f"files of cifar100 in {tmp_path} .*{reason}.*; connect to the internet once, or copy"
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("cifar100", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"files of mnist in .*file/sub .*Not a directory"):
        load_dataset("mnist", str(tmp_path / "file" / "sub"))
