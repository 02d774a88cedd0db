"""Frames and tables of samples, data sets of Hugging Face, and import paths."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from raydrop.data import from_frame, from_huggingface, load_dataset, parse_spec
from raydrop.data.dataset import ArrayImages, FileImages
from raydrop.data.held import ArrayInputs, OpenedImages
from raydrop.data.loaders import contents
from raydrop.errors import ConfigError, DataError, RaydropError
from raydrop.study import Study

datasets = pytest.importorskip("datasets")

COUNT = 48


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYDROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """A row per image; its first pixel says which."""
    (tmp_path / "signs").mkdir()
    rows = []
    for at in range(COUNT):
        pixels = np.full((6, 5), at, np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"signs/{at}.png")
        kind, place = ("stop", "yield")[at % 2], ("day", "night")[at // 2 % 2]
        split = "test" if at >= 32 else "train"
        rows.append({"file": f"signs/{at}.png", "label": kind, "light": place, "part": split})
    return pd.DataFrame(rows)


def first_pixels(dataset: Any) -> list[int]:
    images = dataset.decoded().train.inputs
    assert isinstance(images, ArrayImages)
    return images.pixels[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


# --- images that rows name ---


def test_rows_of_a_frame_are_samples(frame: pd.DataFrame, tmp_path: Path) -> None:
    dataset = from_frame(frame, group="light", split="part", root=tmp_path)
    assert dataset.class_names == ("stop", "yield")
    assert dataset.group_names == ("day", "night")
    assert dataset.image_shape == (1, 6, 5)
    assert not dataset.horizontal_flip
    assert first_pixels(dataset) == dataset.train.ids.tolist()
    assert np.array_equal(dataset.test.ids, np.arange(32, 48))
    assert dataset.sizes("group", "validation").tolist() == [2, 2]
    assert np.array_equal(dataset.train.labels, dataset.train.ids % 2)
    assert isinstance(dataset.train.inputs, FileImages)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_the_same_as_its_frame(frame: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    renamed = frame.rename(columns={"file": "image"})
    if kind == "csv":
        renamed.to_csv(tmp_path / "signs.csv", index=False)
    else:
        renamed.to_parquet(tmp_path / "signs.parquet")
    text = f"table:{tmp_path}/signs.{kind}?path=image&group=light&split=part"
    dataset = load_dataset(text)
    assert dataset.name == text
    expected = from_frame(frame, group="light", split="part", root=tmp_path)
    assert dataset.fingerprint == expected.fingerprint
    assert load_dataset(f"{text}+subset(4)").class_sizes().tolist() == [4, 4]
    relative = load_dataset(f"table:signs.{kind}?path=image&group=light&split=part", str(tmp_path))
    assert relative.fingerprint == expected.fingerprint


def test_splits_are_drawn_where_there_are_none(frame: pd.DataFrame, tmp_path: Path) -> None:
    dataset = from_frame(frame, root=tmp_path)
    assert dataset.class_sizes("test").tolist() == [5, 5]
    assert dataset.class_sizes("validation").tolist() == [2, 2]
    assert sum("no split, so 20%" in remark for remark in dataset.remarks) == 1
    assert sum("so 10% of the training samples" in remark for remark in dataset.remarks) == 1
    renamed = frame.rename(columns={"part": "split"})
    unread = from_frame(renamed, root=tmp_path)
    assert [each for each in unread.remarks if "split is not read" in each] == [
        "The column split is not read; where it says which samples are for testing, say "
        'split="split".'
    ]
    read = from_frame(renamed, split="split", root=tmp_path)
    assert not any("is not read" in remark for remark in (*read.remarks, *dataset.remarks))
    halved = from_frame(frame, split="part", root=tmp_path, validation="test")
    assert (len(halved.train), len(halved.validation)) == (32, 8)


def test_the_fingerprint_is_of_content_not_of_places(frame: pd.DataFrame, tmp_path: Path) -> None:
    first = from_frame(frame, split="part", root=tmp_path).fingerprint
    moved = frame.assign(file=[f"{at}.x.png" for at in range(COUNT)])
    (tmp_path / "elsewhere").mkdir()
    for before, after in zip(frame["file"], moved["file"], strict=True):
        os.rename(tmp_path / before, tmp_path / "elsewhere" / after)  # noqa: PTH104
    root = tmp_path / "elsewhere"
    assert from_frame(moved, split="part", root=root).fingerprint == first
    image = root / moved["file"][7]
    facts = image.stat()
    PIL.Image.fromarray(np.full((6, 5), 99, np.uint8)).save(image)
    assert image.stat().st_size == facts.st_size
    assert from_frame(moved, split="part", root=root).fingerprint != first
    assert from_frame(moved, split="part", root=root, version="1").fingerprint not in {first}


def test_files_are_read_once_on_a_machine(
    frame: pd.DataFrame, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = from_frame(frame, root=tmp_path)
    assert len(json.loads((cache / contents.REMEMBERED).read_text())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(contents, "_hash", lambda place: pytest.fail(f"reads {place}"))
        assert from_frame(frame, root=tmp_path).fingerprint == first.fingerprint
    for broken in ("{", "[]", '{"a": 1}'):
        (cache / contents.REMEMBERED).write_text(broken)
        assert from_frame(frame, root=tmp_path).fingerprint == first.fingerprint


def test_images_elsewhere_need_a_word_in_a_text_of_others(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    frame.assign(file="../" + frame["file"]).to_csv(inner / "t.csv", index=False)
    with pytest.raises(DataError, match=r"images below .*, found \.\./signs/0\.png in row 2"):
        load_dataset(f"table:{inner}/t.csv?split=part")
    with pytest.raises(DataError, match=r"images below .*, found root=\.\."):
        load_dataset(f"table:{inner}/t.csv?split=part&root=..")
    load_dataset(f"table:{inner}/t.csv?split=part&allow_outside=on")
    absolute = frame.assign(file=[str(tmp_path / file) for file in frame["file"]])
    assert from_frame(absolute, split="part").image_shape == (1, 6, 5)


# --- rows that are samples themselves ---


def tabular() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    sick = np.array(["no", "yes"])[np.arange(60) % 2]
    return pd.DataFrame(
        {"age": rng.integers(90, size=60), "dose": rng.normal(size=60), "sick": sick}
    )


def test_features_are_columns_of_numbers(tmp_path: Path) -> None:
    frame = tabular()
    dataset = from_frame(frame, label="sick", features="all")
    assert isinstance(dataset.train.inputs, ArrayInputs)
    expected = frame[["age", "dose"]].to_numpy(np.float32)
    np.testing.assert_array_equal(dataset.train.inputs.values, expected[dataset.train.ids])
    frame.to_parquet(tmp_path / "t.parquet")
    read = load_dataset(f"table:{tmp_path}/t.parquet?label=sick&features=age,dose")
    assert read.fingerprint == dataset.fingerprint
    assert from_frame(frame, label="sick", features=["age"]).fingerprint != dataset.fingerprint


# --- Hugging Face ---


def photos(count: int = 40) -> Any:
    features = datasets.Features(
        {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    )
    pictures = [PIL.Image.fromarray(np.full((7, 9, 3), at, np.uint8)) for at in range(count)]
    rows = {"img": pictures, "kind": [at % 2 for at in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def tokens(count: int = 60) -> Any:
    rows = {
        "input_ids": [[at, at + 1, 0] for at in range(count)],
        "attention_mask": [[1, 1, 0]] * count,
        "label": [("bad", "good")[at % 2] for at in range(count)],
    }
    return datasets.Dataset.from_dict(rows)


def test_images_of_the_hub(tmp_path: Path) -> None:
    ds = datasets.DatasetDict({"train": photos(), "test": photos(20)})
    dataset = from_huggingface(ds, input="img", label="kind")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (3, 7, 9)
    assert isinstance(dataset.train.inputs, OpenedImages)
    assert first_pixels(dataset) == dataset.train.ids.tolist()
    ds.save_to_disk(str(tmp_path / "photos"))
    text = f"hf:{tmp_path}/photos?input=img&label=kind"
    read = load_dataset(text)
    assert (read.name, read.fingerprint) == (text, dataset.fingerprint)


@pytest.mark.parametrize("kind", ["pictures", "numbers"])
def test_files_of_the_hub_are_read_once_on_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ds, how = (photos(), {"input": "img", "label": "kind"}) if kind == "pictures" else (
        tokens(), {"input": "input_ids"}
    )  # fmt: skip
    ds.save_to_disk(str(tmp_path / "saved"))

    def load(**other: Any) -> Any:
        saved = datasets.load_from_disk(str(tmp_path / "saved"))
        return from_huggingface(saved, **how, in_memory=False, **other)

    first = load()
    with monkeypatch.context() as patch:
        patch.setattr("raydrop.data.reading._read_items", lambda *_: pytest.fail("reads"))
        again = load()
        assert load(version="1").fingerprint != first.fingerprint
    assert load().fingerprint == first.fingerprint
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.labels, first.train.labels)
    assert again.image_shape == first.image_shape
    assert from_huggingface(ds, **how).fingerprint == first.fingerprint


def test_token_ids_are_a_dict(tmp_path: Path) -> None:
    dataset = from_huggingface(tokens(), input=("input_ids", "attention_mask"))
    assert str(dataset.input_spec) == "input_ids 3, attention_mask 3"
    assert dataset.class_names == ("bad", "good")
    assert dataset.class_sizes("test").tolist() == [6, 6]
    inputs = dataset.train.inputs
    assert isinstance(inputs, ArrayInputs)
    assert np.array_equal(inputs.values["input_ids"][:, 0], dataset.train.ids)
    tokens().to_parquet(str(tmp_path / "train.parquet"))
    read = load_dataset(f"hf:{tmp_path}?input=input_ids,attention_mask")
    assert read.fingerprint == dataset.fingerprint


def test_validation_is_the_test_set_where_there_is_no_other() -> None:
    ds = datasets.DatasetDict({"train": tokens(), "validation": tokens(20), "extra": tokens(3)})
    dataset = from_huggingface(ds, input="input_ids")
    assert (len(dataset.test), len(dataset.train), len(dataset.validation)) == (20, 54, 6)
    assert any("that of validation is the test set" in remark for remark in dataset.remarks)
    assert any("not used: extra" in remark for remark in dataset.remarks)


# --- import paths ---

MODULE = """
import numpy as np, torch
from torch.utils.data import TensorDataset
import raydrop

def pair(size=4, count=60):
    x, y = torch.arange(count * size).float().view(count, size), torch.arange(count) % 3
    return TensorDataset(x, y), TensorDataset(x + 1, y)

def triple():
    return (*pair(), pair()[0])[::2] + pair()[:1]

def whole(seed):
    rng = np.random.default_rng(seed)
    return raydrop.data.from_arrays(rng.normal(size=(60, 2)), np.arange(60) % 3)

def nothing():
    return 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_an_import_path_names_what_makes_data(module: str) -> None:
    dataset = load_dataset(f"{module}:pair( size = 6 )")
    assert dataset.name == f"{module}:pair(size=6)"
    assert str(dataset.input_spec) == "6"
    drawn = load_dataset(f"{module}:whole(3)+long_tail(3)")
    assert drawn.name == f"{module}:whole(3)+long_tail(3)"
    assert str(parse_spec(drawn.name)) == drawn.name
    assert drawn.class_sizes().tolist() == [14, 8, 5]
    assert len(load_dataset(f"{module}:triple").validation) == 60
    with pytest.raises(ConfigError, match=r"a data set, or PyTorch's for train and test, .* int"):
        load_dataset(f"{module}:nothing()")
    with pytest.raises(ConfigError, match="Unknown name in"):
        load_dataset(f"{module}:par")
    with pytest.raises(ConfigError, match="to be imported, found no module 'nowhere'"):
        load_dataset("nowhere.data:pair")


def test_a_study_takes_a_data_set(tmp_path: Path) -> None:
    dataset = from_frame(tabular(), label="sick", features="all", name="patients")
    study = Study("t", dataset, "linear", {"method": "random", "keep_fraction": 0.5})
    assert study.dataset == "patients"
    assert load_dataset(study.dataset) is not None
    assert load_dataset("patients").fingerprint == dataset.fingerprint
    assert load_dataset("patients+subset(5)").class_sizes().tolist() == [5, 5]


# --- what is refused ---


def refused(tmp_path: Path, frame: pd.DataFrame) -> dict[str, Any]:
    table = str(tmp_path / "t.csv")
    frame.to_csv(table, index=False)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    without = frame.assign(label=[None, *frame["label"][1:]])
    absent = frame.assign(file=["signs/x.png", *frame["file"][1:]])
    ds = datasets.DatasetDict({"train": tokens(), "test": tokens()})
    return {
        r"column 'file' in the frame, found file_name, .* as in path=": lambda: from_frame(
            frame.rename(columns={"file": "file_name"}), root=tmp_path
        ),
        r"column 'kind' in .*t.csv, found .* as in table:FILE\?label=COL": lambda: load_dataset(
            f"table:{table}?label=kind"
        ),
        "value of label in every row of the frame, found none in row 0": lambda: from_frame(
            without, root=tmp_path
        ),
        "the image signs/x.png of row 0 of the frame": lambda: from_frame(absent, root=tmp_path),
        "Unknown label 'yield'": lambda: from_frame(
            frame, root=tmp_path, class_names=("stop", "go")
        ),
        r"numbers in the column 'sick' of the frame, found 'no' in row 0": lambda: from_frame(
            tabular().assign(label=[0, 1] * 30), features="all"
        ),
        "columns of features in the frame, found none": lambda: from_frame(
            tabular()[["sick"]], label="sick", features="all"
        ),
        "a table in .*broken.parquet, found": lambda: load_dataset(
            f"table:{tmp_path}/broken.parquet"
        ),
        "a table with a header .*absent.csv, found": lambda: load_dataset(
            f"table:{tmp_path}/absent.csv"
        ),
        "FILE after table, found none; write table:FILE": lambda: load_dataset("table"),
        "share between 0 and 1 for validation.*found 'most'": lambda: load_dataset(
            f"table:{table}?validation=most"
        ),
        "column 'image' in train, found label": lambda: from_huggingface(
            ds.select_columns(["label"])
        ),
        r"numbers or images in the column 'label', found str; have texts": lambda: from_huggingface(
            ds, input="label"
        ),
        "make a batch, found that they do not": lambda: from_huggingface(
            datasets.Dataset.from_dict({"ids": [[1], [1, 2]] * 9, "label": [0, 1] * 9}), input="ids"
        ),
        r"datasets.Dataset for train, found IterableDataset.*streaming=True": lambda: (
            from_huggingface(tokens().to_iterable_dataset(), input="input_ids")
        ),
        "a split train, found one, two": lambda: from_huggingface(
            datasets.DatasetDict({"one": tokens(), "two": tokens()})
        ),
        r"labels from 0 to \d+ in train, found -1": lambda: from_huggingface(
            datasets.DatasetDict(
                {
                    "train": datasets.Dataset.from_dict({"x": [[1.0]] * 9, "label": [-1] * 9}),
                    "test": datasets.Dataset.from_dict({"x": [[1.0]] * 9, "label": [1] * 9}),
                }
            ),
            input="x",
        ),
        "data set of Hugging Face at .*nothing, found": lambda: load_dataset(
            f"hf:{tmp_path}/nothing"
        ),
    }


def test_what_does_not_fit_is_one_sentence(tmp_path: Path, frame: pd.DataFrame) -> None:
    for message, call in refused(tmp_path, frame).items():
        with pytest.raises(RaydropError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_datasets_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydrop\[huggingface\]'"):
        load_dataset("hf:photos")
