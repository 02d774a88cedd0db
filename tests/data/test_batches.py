"""Batches from memory and from files: right pixels, right statistics, reproducible augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import augment_one_by_one

from raydrop.data import load_dataset
from raydrop.data.batches import (
    PreparedData,
    augment,
    channel_statistics,
    make_batches,
    prepare,
)
from raydrop.data.brought import from_arrays
from raydrop.data.dataset import FileImages
from raydrop.errors import ConfigError
from raydrop.study.spec import AUGMENTATIONS

CPU = torch.device("cpu")


def test_channel_statistics_equal_numpys(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std[:2], (pixels / 255).std(axis=(0, 2, 3))[:2])
    assert std[2] == 1.0


def test_batches_without_augmentation_are_the_normalised_images(digits: PreparedData) -> None:
    train = digits.dataset.train
    chosen = torch.tensor([5, 0, 17, 3])
    (batch,) = make_batches(digits, train, CPU)([chosen])
    pixels = train.inputs.pixels[chosen.numpy()] / 255  # type: ignore[union-attr]
    expected = (pixels - np.array(digits.mean)[:, None, None]) / np.array(digits.std)[:, None, None]
    np.testing.assert_allclose(batch.inputs.numpy(), expected, atol=1e-5)
    assert batch.labels.tolist() == train.labels[chosen.numpy()].tolist()


def test_the_training_set_as_a_whole_is_standardised(digits: PreparedData) -> None:
    n = len(digits.dataset.train)
    (batch,) = make_batches(digits, digits.dataset.train, CPU)([torch.arange(n)])
    assert batch.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert batch.inputs.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_augmentation_equals_its_twin(padding: int, flip: bool) -> None:
    pixels = torch.randint(256, (40, 3, 6, 5), dtype=torch.uint8)
    result = augment(pixels, padding, flip, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    offsets = torch.zeros(2, 40, dtype=torch.long)
    if padding:
        offsets = torch.randint(2 * padding + 1, (2, 40), generator=generator)
    mirrored = torch.zeros(40, dtype=torch.bool)
    if flip:
        mirrored = torch.rand(40, generator=generator) < 0.5
    assert torch.equal(result, augment_one_by_one(pixels, padding, *offsets, mirrored))
    assert padding or flip or torch.equal(result, pixels)


def test_augmentation_reaches_every_shift_equally_often() -> None:
    pixels = torch.zeros(4500, 1, 5, 5, dtype=torch.uint8)
    pixels[:, :, 2, 2] = 1
    shifted = augment(pixels, 1, False, torch.Generator().manual_seed(0))
    counts = shifted.sum(dim=(0, 1))[1:4, 1:4]
    assert counts.sum() == 4500
    assert ((counts - 500).abs() < 5 * 500**0.5).all()


def test_a_data_set_that_workers_may_not_write_gives_no_warning(digits: PreparedData) -> None:
    train = digits.dataset.train
    train.labels.setflags(write=False)
    next(iter(make_batches(digits, train, CPU)([torch.arange(3)])))


def _folder(root: Path, height: int, widths: list[int]) -> str:
    """Make two classes of random images, one of each width in each; return the specification."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i, width in enumerate(widths):
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return f"imagefolder:{root}"


@pytest.fixture
def large_folder(tmp_path: Path) -> PreparedData:
    """A folder of images too large to be kept in memory by the usual rule."""
    data = prepare(load_dataset(_folder(tmp_path, 80, [96, 106, 116, 126])))
    assert isinstance(data.dataset.train.inputs, FileImages)
    return data


def test_files_stream_in_the_order_asked_for(large_folder: PreparedData) -> None:
    train = large_folder.dataset.train
    batches = make_batches(large_folder, train, CPU)
    groups = [torch.tensor([7, 0, 3]), torch.tensor([5, 2])]
    found = list(batches(groups))
    assert [tuple(b.inputs.shape) for b in found] == [(3, 3, 224, 224), (2, 3, 224, 224)]
    assert torch.cat([b.labels for b in found]).tolist() == train.labels[[7, 0, 3, 5, 2]].tolist()
    (alone,) = batches([torch.tensor([3])])
    assert torch.equal(alone.inputs[0], found[0].inputs[2])


def test_streamed_augmentation_depends_on_the_seed_and_not_on_the_workers(
    large_folder: PreparedData,
) -> None:
    train = large_folder.dataset.train
    groups = list(torch.arange(8).split(3))

    def images(workers: int, seed: int | None) -> torch.Tensor:
        batches = make_batches(large_folder, train, CPU, loader_workers=workers)
        return torch.cat([b.inputs for b in batches(groups, seed)])

    assert torch.equal(images(0, 5), images(2, 5))
    assert not torch.equal(images(0, 5), images(0, 6))
    assert not torch.equal(images(0, 5), images(0, None))


def test_streamed_samples_are_augmented_independently(large_folder: PreparedData) -> None:
    (batch,) = make_batches(large_folder, large_folder.dataset.train, CPU)(
        [torch.tensor([3, 3])], 5
    )
    assert not torch.equal(batch.inputs[0], batch.inputs[1])


def test_streaming_leaves_the_global_random_state_alone(large_folder: PreparedData) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    list(make_batches(large_folder, large_folder.dataset.train, CPU)([torch.arange(4)], 9))
    assert torch.equal(before, torch.random.get_rng_state())


def test_small_images_that_do_not_fit_in_memory_stream_as_they_are(tmp_path: Path) -> None:
    dataset = load_dataset(_folder(tmp_path, 10, [12] * 4))
    files = PreparedData(dataset, (0.5,) * 3, (0.2,) * 3)
    memory = PreparedData(dataset.decoded(), files.mean, files.std)
    groups = [torch.tensor([3, 1, 6])]
    (streamed,) = make_batches(files, files.dataset.train, CPU)(groups)
    (kept,) = make_batches(memory, memory.dataset.train, CPU)(groups)
    assert torch.equal(streamed.inputs, kept.inputs)
    (augmented,) = make_batches(files, files.dataset.train, CPU)(groups, 1)
    assert augmented.inputs.shape == kept.inputs.shape
    assert not torch.equal(augmented.inputs, kept.inputs)


@pytest.mark.parametrize("size", [(2, 300), (300, 2), (3, 20)])
def test_strips_are_not_blown_up_beyond_what_is_used(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = list[tuple[int, int]]()
    resize = Image.Image.resize

    def noted(image: Image.Image, to: tuple[int, int], *how: object, **more: object) -> Image.Image:
        resized.append(to)
        return resize(image, to, *how, **more)  # type: ignore[arg-type]

    data = prepare(load_dataset(_folder(tmp_path, size[0], [size[1], 9])))
    train = data.dataset.train
    assert isinstance(train.inputs, FileImages)
    plain = train.inputs.open(0)
    short = min(plain.size)
    whole = resize(plain, (plain.width * 256 // short, plain.height * 256 // short), 2)
    left, top = ((side - 224) // 2 for side in whole.size)
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    monkeypatch.setattr(Image.Image, "resize", noted)
    for seed in (None, 1):
        (batch,) = make_batches(data, train, CPU, loader_workers=0)([torch.tensor([0])], seed)
        assert batch.inputs.shape == (1, 3, 224, 224)
        assert max(map(max, resized)) <= 8 * 256
    (batch,) = make_batches(data, train, CPU, loader_workers=0)([torch.tensor([0])])
    std, mean = (torch.tensor(each).view(3, 1, 1) for each in (data.std, data.mean))
    pixels = (batch.inputs[0] * std + mean) * 255
    assert (pixels - torch.from_numpy(expected.copy())).abs().max() <= 1


def test_large_images_are_mirrored_only_where_that_is_asked_for(tmp_path: Path) -> None:
    from raydrop.data.batches import _file_transforms

    spec = _folder(tmp_path, 80, [96, 106, 116, 126])
    for options, wanted in (("", False), ("?flip=on", True)):
        dataset = load_dataset(spec + options)
        names = [type(step).__name__ for step in _file_transforms(dataset, augmented=True)]
        assert ("RandomHorizontalFlip" in names) == wanted


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_a_policy_changes_each_image_by_itself_and_follows_its_seed(
    digits: PreparedData, large_folder: PreparedData, policy: str
) -> None:
    for data in (digits, large_folder):

        def images(seed: int | None, policy: str = policy, data: PreparedData = data) -> Any:
            batches = make_batches(data, data.dataset.train, CPU, policy=policy)
            return torch.cat([b.inputs for b in batches([torch.tensor([3] * 6)], seed)])

        first = images(5)
        assert torch.equal(first, images(5))
        assert not torch.equal(first, images(6))
        assert not torch.equal(first, images(5, ""))  # more than shifts and flips
        assert len({image.numpy().tobytes() for image in first}) > 2  # not all changed alike
        assert torch.equal(images(None), images(None, ""))  # nothing outside training


def test_a_policy_is_for_images() -> None:
    x, y = np.zeros((8, 3), np.float32), np.arange(8) % 2
    data = prepare(from_arrays(x, y, split=["train", "train", "test", "test"] * 2))
    with pytest.raises(ConfigError, match=r"Expected images for augment='augmix', found 3"):
        make_batches(data, data.dataset.train, CPU, policy="augmix")
