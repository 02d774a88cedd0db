"""Data sets from PyTorch data sets and arrays: what is fed, what is drawn, what is refused."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from raydrop.data import LabelledDataset, from_arrays, from_torch
from raydrop.data.batches import Batch, make_batches, prepare
from raydrop.data.dataset import ArrayImages
from raydrop.data.held import ArrayInputs, OpenedImages, StreamedInputs
from raydrop.data.thumbnails import thumbnails
from raydrop.data.variants import LabelNoise, LongTail, Shortcut, Spurious
from raydrop.data.variants import Subset as Fewer
from raydrop.errors import ConfigError, DataError, RaydropError

CPU = torch.device("cpu")


class Listed(Dataset[Any]):
    """Items of a list; counts how often it is asked."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.asked = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return self.items[index]


class Mirrored(Listed):
    """What a data set with random augmentation is like."""

    def __getitem__(self, index: int) -> Any:
        value, label = self.items[index]
        return (value.flip(-1) if torch.rand(()) < 0.5 else value), label


def features(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator), torch.arange(count) % 3


def listed(count: int = 60, seed: int = 0, value: Callable[[int], Any] | None = None) -> Listed:
    x, y = features(count, seed)
    return Listed([(x[i] if value is None else value(i), int(y[i])) for i in range(count)])


def fed(dataset: LabelledDataset, split: str = "train", **options: Any) -> list[Batch]:
    data, wanted = prepare(dataset), dataset.splits()[split]
    groups = torch.arange(len(wanted)).split(16)
    return list(make_batches(data, data.dataset.splits()[split], CPU, **options)(groups))


# --- what is fed ---


@pytest.mark.parametrize("in_memory", [None, True, False])
def test_batches_are_those_of_a_loader_of_the_user(in_memory: bool | None) -> None:
    train, test = listed(), listed(30, seed=1)
    dataset = from_torch(train, test, validation=test, in_memory=in_memory)
    kind = StreamedInputs if in_memory is False else ArrayInputs
    assert isinstance(dataset.train.inputs, kind)
    for batch, (inputs, labels) in zip(fed(dataset), DataLoader(train, 16), strict=True):
        assert torch.equal(batch.inputs, inputs)
        assert torch.equal(batch.labels, labels)


@pytest.mark.parametrize("in_memory", [True, False])
def test_dicts_and_tuples_keep_their_form(in_memory: bool) -> None:
    ids = torch.arange(60 * 4).view(60, 4)
    named = listed(value=lambda i: {"input_ids": ids[i], "mask": ids[i] > 5})
    dataset = from_torch(named, named, in_memory=in_memory)
    assert str(dataset.input_spec) == "input_ids 4, mask 4"
    at = dataset.train.ids[:16]
    inputs = fed(dataset)[0].inputs
    assert list(inputs) == ["input_ids", "mask"]
    assert torch.equal(inputs["input_ids"], ids[at])
    assert torch.equal(inputs["mask"], ids[at] > 5)
    pair = listed(value=lambda i: (ids[i], ids[i, :2].float()))
    inputs = fed(from_torch(pair, pair, in_memory=in_memory))[0].inputs
    assert isinstance(inputs, tuple)
    assert [part.dtype for part in inputs] == [torch.int64, torch.float32]


def test_reading_processes_change_nothing() -> None:
    train = listed(300)
    alone = from_torch(train, train, in_memory=False)
    copied = copy.deepcopy(train)
    helped = from_torch(copied, copied, in_memory=False, workers=2)
    assert helped.fingerprint == alone.fingerprint
    for first, second in zip(fed(alone), fed(helped, loader_workers=2), strict=True):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.labels, second.labels)


def test_double_precision_becomes_single() -> None:
    x, y = features()
    assert fed(from_arrays(x.double().numpy(), y))[0].inputs.dtype == torch.float32
    doubled = listed(value=lambda i: x[i].double())
    assert fed(from_torch(doubled, doubled, in_memory=False))[0].inputs.dtype == torch.float32


def test_padding_goes_through_the_function_of_the_user() -> None:
    lengths = [2 + i % 7 for i in range(60)]
    ragged = listed(value=lambda i: torch.arange(lengths[i]) + 1)

    def padded(inputs: list[Tensor]) -> dict[str, Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        return {"ids": ids, "mask": ids > 0}

    dataset = from_torch(ragged, ragged, collate=padded)
    assert isinstance(dataset.train.inputs, StreamedInputs) or dataset.input_spec.names
    for batch, at in zip(fed(dataset), np.split(dataset.train.ids, [16, 32, 48]), strict=True):
        expected = [lengths[position] for position in at]
        assert batch.inputs["mask"].sum(1).tolist() == expected


def test_images_of_bytes_are_normalised_and_augmented_as_raydrops_own() -> None:
    pixels = torch.randint(256, (60, 3, 16, 16), dtype=torch.uint8)
    pixels[:, 2] = 7
    labels = torch.arange(60) % 3
    dataset = from_torch(*[TensorDataset(pixels, labels)] * 2)
    assert isinstance(dataset.train.inputs, ArrayImages)
    assert (dataset.image_shape, dataset.crop_padding) == ((3, 16, 16), 2)
    own = dataset.train.inputs.pixels / 255.0
    expected = (own - own.mean((0, 2, 3), keepdims=True)) / [[[1.0]]]
    expected[:, :2] /= own.std((0, 2, 3), keepdims=True)[:, :2]
    np.testing.assert_allclose(fed(dataset)[0].inputs.numpy(), expected[:16], atol=1e-5)
    streamed = from_torch(*[listed(value=lambda i: pixels[i])] * 2, in_memory=False)
    assert streamed.fingerprint == dataset.fingerprint
    assert fed(streamed)[0].inputs.shape == (16, 3, 16, 16)


@pytest.mark.parametrize("shape", [(9, 7), (1, 9, 7), (3, 9, 7)])
def test_bytes_are_images_in_memory_and_streamed(shape: tuple[int, ...]) -> None:
    pixels = torch.randint(256, (60, *shape), dtype=torch.uint8)
    items = listed(value=lambda i: pixels[i])
    tensors = TensorDataset(pixels, torch.arange(60) % 3)
    kept, streamed = from_torch(tensors, tensors), from_torch(items, items, in_memory=False)
    assert kept.image_shape == streamed.image_shape == (shape[0] if len(shape) == 3 else 1, 9, 7)
    assert kept.fingerprint == streamed.fingerprint == from_torch(items, items).fingerprint
    batches = make_batches(prepare(streamed), streamed.train, CPU)
    (batch,) = batches([torch.arange(5)], 3)
    assert batch.inputs.shape == (5, *(kept.image_shape or ()))
    shown = [
        thumbnails(one.train.inputs, np.arange(4), one.image_shape) for one in (kept, streamed)
    ]
    assert isinstance(kept.train.inputs, ArrayImages)
    for small in shown:
        assert np.array_equal(small, kept.train.inputs.pixels[:4])


def test_floats_may_be_images_but_are_left_as_they_are() -> None:
    x, y = torch.randn(60, 3, 8, 8), torch.arange(60) % 3
    dataset = from_arrays(x, y, flip="on", crop_padding=2)
    assert dataset.image_shape is None
    assert dataset.input_spec.image_shape == (3, 8, 8)
    batches = make_batches(prepare(dataset), dataset.train, CPU)
    batch = next(batches([torch.arange(10)], 3))
    assert torch.equal(batch.inputs, x[dataset.train.ids[:10]])
    assert any("no images" in remark for remark in dataset.remarks)


def test_pictures_are_opened_as_those_in_files(rng: np.random.Generator) -> None:
    arrays = rng.integers(256, size=(60, 9, 7, 3), dtype=np.uint8)
    pictures = listed(value=lambda i: PIL.Image.fromarray(arrays[i]))
    dataset = from_torch(pictures, pictures)
    assert isinstance(dataset.train.inputs, OpenedImages)
    assert dataset.image_shape == (3, 9, 7)
    decoded = dataset.decoded().train.inputs
    assert isinstance(decoded, ArrayImages)
    assert np.array_equal(decoded.pixels.transpose(0, 2, 3, 1), arrays[dataset.train.ids])
    mixed = listed(value=lambda i: PIL.Image.fromarray(arrays[i, : 5 + i % 3, :, 0]))
    large = from_torch(mixed, mixed)
    assert large.image_shape == (3, 224, 224)
    assert fed(large)[0].inputs.shape == (16, 3, 224, 224)


def test_pictures_of_any_mode_are_those_of_files() -> None:
    deep = (np.arange(60, dtype=np.uint16) * 1000)[:, None, None] * np.ones((6, 6), np.uint16)
    dataset = from_torch(*[listed(value=lambda i: PIL.Image.fromarray(deep[i]))] * 2)
    assert dataset.image_shape == (1, 6, 6)
    decoded = dataset.decoded().train.inputs
    assert isinstance(decoded, ArrayImages)
    assert np.array_equal(decoded.pixels[:, 0, 0, 0], deep[dataset.train.ids, 0, 0] >> 8)
    floats = listed(value=lambda i: PIL.Image.fromarray(np.full((6, 6), i, np.float32)))
    with pytest.raises(DataError, match="pictures of 8 or 16 bits, found floating-point numbers"):
        from_torch(floats, floats)


def test_labels_of_a_variant_are_fed_while_inputs_stream() -> None:
    dataset = from_torch(*[listed(90)] * 2, in_memory=False)
    noisy = LabelNoise(0.5).apply(dataset)
    labels = torch.cat([batch.labels for batch in fed(noisy)]).numpy()
    assert np.array_equal(labels, noisy.train.labels)
    assert not np.array_equal(labels, dataset.train.labels)


# --- augmentation ---


def shaken(inputs: Tensor) -> Tensor:
    return inputs + torch.rand(inputs.shape)


def test_an_augmentation_is_seeded_and_for_training_alone() -> None:
    x, y = features()
    dataset = from_arrays(x, y, augment=shaken)
    batches = make_batches(prepare(dataset), dataset.train, CPU)
    groups = torch.arange(40).split(20)
    plain = torch.cat([batch.inputs for batch in batches(groups)])
    assert torch.equal(plain, x[dataset.train.ids[:40]])
    torch.manual_seed(1)
    first, before = [batch.inputs for batch in batches(groups, 5)], torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(before, torch.rand(3))  # the global generator is left alone
    again, other = ([batch.inputs for batch in batches(groups, seed)] for seed in (5, 6))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    moved = [batch - part for batch, part in zip(first, plain.split(20), strict=True)]
    assert not torch.allclose(*moved, atol=1e-3)
    assert 0 <= min(map(torch.min, moved)) <= max(map(torch.max, moved)) <= 1


def test_an_augmentation_stands_instead_of_shifts_and_enters_the_fingerprint() -> None:
    pixels = torch.randint(256, (60, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    plain = from_arrays(pixels, labels, flip="on")
    changed = from_arrays(pixels, labels, flip="on", augment=lambda batch: 255 - batch)
    other = from_arrays(pixels, labels, flip="on", augment=lambda batch: batch)
    assert len({plain.fingerprint, changed.fingerprint, other.fingerprint}) == 3
    batches = make_batches(prepare(changed), changed.train, CPU)
    groups = [torch.arange(20)]
    both = next(batches(groups)).inputs, next(batches(groups, 1)).inputs
    data = prepare(changed)
    back = [
        image * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)
        for image in both
    ]
    torch.testing.assert_close(back[0] + back[1], torch.ones_like(back[0]))


def test_a_data_set_that_augments_itself_is_refused() -> None:
    x, y = features()
    moving = Mirrored([(x[i], int(y[i])) for i in range(60)])
    for in_memory in (True, False):
        with pytest.raises(DataError, match=r"train is asked .* give it as augment="):
            from_torch(moving, listed(), in_memory=in_memory)
    with pytest.raises(ConfigError, match="a function from a batch of inputs to one for augment"):
        from_arrays(x, y, augment="flip")  # type: ignore[arg-type]


# --- splits, labels, groups ---


def test_validation_is_drawn_from_training_class_by_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 20])
    x = np.arange(200.0)[:, None]
    y = np.concatenate([labels, np.arange(40) % 3])
    split = np.repeat(["train", "test"], [160, 40])
    dataset = from_arrays(x, y, split=split)
    assert dataset.class_sizes("validation").tolist() == [10, 4, 2]
    assert dataset.class_sizes().tolist() == [90, 36, 18]
    assert np.array_equal(dataset.test.ids, np.arange(160, 200))
    everything = np.concatenate([part.ids for part in dataset.splits().values()])
    assert sorted(everything) == list(range(200))
    for part in dataset.splits().values():
        assert isinstance(part.inputs, ArrayInputs)
        assert np.array_equal(part.inputs.values[:, 0], part.ids)
        assert np.array_equal(part.labels, y[part.ids])
    assert any("10% of the training samples of each class" in each for each in dataset.remarks)
    assert from_arrays(x, y, split=split).fingerprint == dataset.fingerprint
    third = from_arrays(x, y, split=split, validation=1 / 3)
    assert third.class_sizes("validation").tolist() == [33, 13, 7]


def test_validation_is_half_of_the_test_set_where_asked_for() -> None:
    train, test = listed(60), listed(30, seed=1)
    dataset = from_torch(train, test, validation="test")
    assert len(dataset.train) == 60
    assert dataset.class_sizes("validation").tolist() == [5, 5, 5]
    assert any("half of the test samples" in remark for remark in dataset.remarks)
    given = from_torch(train, test, validation=listed(12, seed=2))
    assert (len(given.train), len(given.validation), len(given.test)) == (60, 12, 30)
    assert not any("validation" in remark for remark in given.remarks)
    assert np.array_equal(given.test.ids, np.arange(72, 102))


def test_a_split_is_drawn_where_there_is_none() -> None:
    x, y = features(150)
    dataset = from_arrays(x, y)
    assert dataset.class_sizes("test").tolist() == [10, 10, 10]
    assert dataset.class_sizes("validation").tolist() == [4, 4, 4]
    assert any("no split, so 20%" in remark for remark in dataset.remarks)


@pytest.mark.parametrize("names", [None, ("wolf", "cat", "dog")])
def test_labels_may_be_texts(names: tuple[str, ...] | None) -> None:
    words = np.array(["cat", "dog", "wolf"])
    x, y = features()
    dataset = from_arrays(x, words[y.numpy()], class_names=names)
    assert dataset.class_names == (names or ("cat", "dog", "wolf"))
    named = np.array(dataset.class_names)[dataset.train.labels]
    assert np.array_equal(named, words[y.numpy()[dataset.train.ids]])


def test_groups_come_with_items_or_beside_them() -> None:
    x, y = features()
    place = np.array(["land", "water"])[np.arange(60) // 3 % 2]
    items = Listed([(x[i], int(y[i]), str(place[i])) for i in range(60)])
    dataset = from_torch(items, items)
    assert dataset.group_names == ("land", "water")
    assert np.array_equal(
        np.array(("land", "water"))[dataset.members("group")], place[dataset.train.ids]
    )
    beside = from_torch(listed(), listed(), groups={"train": place, "test": place})
    assert beside.fingerprint == dataset.fingerprint
    assert dataset.sizes("group", "validation").tolist() == [3, 3]
    with pytest.raises(DataError, match="groups in every split or in none, found none in test"):
        from_torch(listed(), listed(), groups={"train": place})


def test_class_names_are_those_that_the_data_set_knows() -> None:
    train = listed()
    train.classes = ["a", "b", "c"]  # type: ignore[attr-defined]
    assert from_torch(Subset(train, range(48)), listed()).class_names == ("a", "b", "c")


# --- identity ---


def test_the_same_content_has_the_same_fingerprint_by_any_way() -> None:
    x, y = features()
    tensors = TensorDataset(x, y)
    found = {
        from_torch(*pair, in_memory=in_memory).fingerprint
        for pair in ((tensors, tensors), (listed(), listed()), (Subset(tensors, range(60)),) * 2)
        for in_memory in (None, False)
    }
    assert len(found) == 1
    swapped = x.numpy().astype(">f4")
    assert from_arrays(swapped, y).fingerprint == from_arrays(x, y).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x + torch.nn.functional.one_hot(torch.tensor(3), 5) * 1e-6, y),
        lambda x, y: (x, y.roll(1)),
        lambda x, y: (x.half(), y),
        lambda x, y: (x.view(60, 5, 1), y),
        lambda x, y: ((x,), y),
    ],
    ids=["a value", "labels", "type", "shape", "form"],
)
def test_other_content_has_another_fingerprint(change: Callable[..., Any]) -> None:
    x, y = features()
    changed = change(x, y)
    assert from_arrays(*changed).fingerprint != from_arrays(x, y).fingerprint


def test_a_version_stands_for_the_content() -> None:
    (x, y), (z, _) = features(), features(seed=1)
    assert from_arrays(x, y).fingerprint != from_arrays(z, y).fingerprint
    versions = [from_arrays(data, y, version="2024").fingerprint for data in (x, z)]
    assert versions[0] == versions[1] != from_arrays(x, y, version="2025").fingerprint


def test_what_streams_is_read_once_in_a_process() -> None:
    train, test = listed(), listed(30, seed=1)
    first = from_torch(train, test, in_memory=False)
    before = train.asked
    assert from_torch(train, test, in_memory=False).fingerprint == first.fingerprint
    assert train.asked - before < len(train)
    assert isinstance(from_torch(train, test).train.inputs, ArrayInputs)
    train.items = [(value + 1, label) for value, label in train.items]
    assert from_torch(train, test, in_memory=False).fingerprint != first.fingerprint


def test_a_version_spares_the_reading_where_labels_are_known_besides() -> None:
    whole = listed(900)
    whole.targets = [label for _, label in whole.items]  # type: ignore[attr-defined]
    train = Subset(whole, range(0, 900, 2))
    read = from_torch(train, listed(), in_memory=False)
    before = whole.asked
    spared = from_torch(train, listed(), in_memory=False, version="1")
    assert whole.asked - before < 100 < before
    assert np.array_equal(spared.train.labels, read.train.labels)
    for first, second in zip(fed(spared), fed(read), strict=True):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.labels, second.labels)
    kept = from_torch(train, listed(), version="1")
    assert isinstance(kept.train.inputs, ArrayInputs)
    assert kept.fingerprint == spared.fingerprint != read.fingerprint
    whole.targets = [0] * 900  # type: ignore[attr-defined]
    other = from_torch(train, listed(), in_memory=False, version="1")
    assert np.array_equal(other.train.labels, read.train.labels)


def test_names_differ_where_the_content_does() -> None:
    x, y = features()
    assert from_arrays(x, y, name="mine").name == "mine"
    first, second = from_arrays(x, y), from_arrays(x + 1, y)
    assert first.name != second.name
    assert first.name.isidentifier()
    with pytest.raises(ConfigError, match="name of letters, digits and underscores, found 'a-b'"):
        from_arrays(x, y, name="a-b")


def test_data_sets_survive_pickling() -> None:
    for in_memory in (True, False):
        dataset = from_torch(listed(), listed(), in_memory=in_memory)
        again = pickle.loads(pickle.dumps(dataset))
        for first, second in zip(fed(dataset), fed(again), strict=True):
            assert torch.equal(first.inputs, second.inputs)


# --- variants ---


@pytest.mark.parametrize("in_memory", [True, False])
def test_variants_of_samples_work_on_any_inputs(in_memory: bool) -> None:
    dataset = from_torch(listed(240), listed(60, seed=1), in_memory=in_memory)
    tail = LongTail(4).apply(dataset)
    assert tail.class_sizes().tolist() == [72, 36, 18]
    few = Fewer(10, test=3).apply(tail)
    assert few.class_sizes().tolist() == [10, 10, 10]
    x, _ = features(240)
    inputs = torch.cat([batch.inputs for batch in fed(few)])
    assert torch.equal(inputs, x[few.train.ids])


@pytest.mark.parametrize("variant", [Spurious(0.9), Shortcut(**{"1": 0.9})])
def test_what_paints_refuses_what_is_no_image(variant: Any) -> None:
    with pytest.raises(ConfigError, match=f"images to paint on for {variant.kind}, found mine"):
        variant.apply(from_arrays(*features(), name="mine"))


# --- what is refused ---


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(2), 0)])


X, Y = features()
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "iterable": (lambda: from_torch(Endless(), listed()), "map-style data set for train"),
    "loader": (lambda: from_torch(DataLoader(listed()), listed()), r"give its \.dataset"),
    "empty": (lambda: from_torch(Listed([]), listed()), "samples for train, found none"),
    "no label": (
        lambda: from_torch(Listed([torch.zeros(3)] * 9), listed()),
        r"items \(inputs, label\) or .* found Tensor",
    ),
    "one": (lambda: from_torch(Listed([(X[0],)] * 9), listed()), "found tuple of 1;"),
    "named": (
        lambda: from_torch(Listed([{"ids": X[0], "labels": 0}] * 9), listed()),
        "found dict of ids, labels;",
    ),
    "ragged": (
        lambda: from_torch(listed(value=lambda i: torch.zeros(i + 1)), listed()),
        "inputs that make a batch, found that they do not",
    ),
    "ragged later": (
        lambda: from_torch(listed(300, value=lambda i: torch.zeros(3 + (i > 255))), listed()),
        "inputs that make a batch, found samples of 3 and of 4",
    ),
    "texts": (
        lambda: from_torch(listed(value=lambda i: f"a text {i}"), listed()),
        "a tensor, or a tuple or dict of tensors, found",
    ),
    "collate": (
        lambda: from_torch(listed(), listed(), collate=lambda parts: torch.stack(parts[1:])),
        "a batch of 60 samples from collate=, found tensors of 59",
    ),
    "collate fails": (
        lambda: from_torch(listed(), listed(), collate=lambda parts: parts.missing),  # type: ignore[attr-defined]
        "found that they do not .*AttributeError",
    ),
    "kinds": (
        lambda: from_torch(listed(), listed(value=lambda i: torch.zeros(4))),
        "same kind of inputs in every split, found 5 in train; 4 in test",
    ),
    "lengths": (lambda: from_arrays(X, Y[:9]), "as many labels as inputs, found 60 of x, 9 of y"),
    "parts": (lambda: from_arrays((X, X[:7]), Y), r"in each part of the inputs, found \[7, 60\]"),
    "groups": (lambda: from_arrays(X, Y, groups=[0] * 9), "60 of y, 9 of groups"),
    "negative": (lambda: from_arrays(X, Y - 1), "labels from 0 to 1 in all, found -1"),
    "above": (
        lambda: from_arrays(X, Y, class_names=("a", "b")),
        "labels from 0 to 1 in all, found 2",
    ),
    "ids": (lambda: from_arrays(X, Y + 10**9), "number the classes from 0"),
    "unknown": (
        lambda: from_arrays(X, [*["cat", "dog"] * 29, "cow", "cow"], class_names=("cat", "dog")),
        "Unknown label in all 'cow'",
    ),
    "halves": (lambda: from_arrays(X, Y / 2), "whole numbers or texts in all, found 0.5"),
    "nan": (lambda: from_arrays(X, [*[0.0, 1.0] * 29, 1.0, float("nan")]), "none of sample 59"),
    "none": (lambda: from_arrays(X, [*["a", "b"] * 29, None, "a"]), "found none of sample 58"),
    "one-hot": (
        lambda: from_arrays(X, torch.nn.functional.one_hot(Y)),
        r"one label per sample in all, found an array of shape \(60, 3\)",
    ),
    "one class": (lambda: from_arrays(X, Y * 0), "two classes or more, found only '0'"),
    "absent class": (lambda: from_arrays(X, Y * 2), "0 to 4 among the labels, found no 1;"),
    "one sample": (
        lambda: from_arrays(X, [1] + [0] * 59),
        "two samples or more of every class, one of which becomes test",
    ),
    "split": (lambda: from_arrays(X, Y, split=["tran"] * 60), "Unknown split 'tran': did you mean"),
    "no test": (lambda: from_arrays(X, Y, split=["train"] * 60), "samples for test, found none"),
    "words": (lambda: from_arrays([["a"]] * 60, Y), "numbers for inputs, found an array of <U1"),
    "nothing": (lambda: from_arrays((), Y), "inputs, found none; give an array"),
    "no labels": (lambda: from_arrays(X, None), "a label of every sample, found none"),
    "no test set": (lambda: from_torch(listed(), None), "map-style data set for test, .* NoneType"),
    "share": (lambda: from_arrays(X, Y, validation=1.5), "share between 0 and 1 for validation"),
    "flip": (lambda: from_arrays(X, Y, flip="sideways"), "value of flip 'sideways'"),
    "channels last": (
        lambda: from_arrays(np.zeros((60, 8, 8, 3), np.uint8), Y),
        r"\(n, C, H, W\), found \(60, 8, 8, 3\), channels last",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(RaydropError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert re.match("Expected .*, found .*; .*|Unknown ", str(caught.value))


def test_what_fails_in_a_reading_process_is_the_same_sentence() -> None:
    ragged = listed(600, value=lambda i: torch.zeros(3 + (i == 599)))
    with pytest.raises(DataError) as caught:
        from_torch(ragged, listed(), workers=2)
    assert str(caught.value).startswith("Expected inputs that make a batch")
    assert "\n" not in str(caught.value)
