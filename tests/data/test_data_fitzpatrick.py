"""Fitzpatrick17k: which skin types are trained on, who is held out, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from raydrop.data import FileImages, LabelledDataset, Split, load_dataset
from raydrop.errors import ConfigError, DataError

LABELS = ("benign", "malignant", "non-neoplastic")
HEADER = "md5hash,fitzpatrick_scale,label,three_partition_label,url"

Row = tuple[str, object, str]


def rows(per_type: int = 10) -> list[Row]:
    """So many images of each class and of each of the types -1, 1...6."""
    return [
        (f"{label[0]}{kind}x{at}", kind, label)
        for at in range(per_type)
        for label in LABELS
        for kind in (-1, 1, 2, 3, 4, 5, 6)
    ]


def write(root: Path, table: list[Row], header: str = HEADER, folder: str = "images") -> Path:
    (root / folder).mkdir(parents=True)
    lines = [f"{name},{kind},any,{label},http://x" for name, kind, label in table]
    (root / "fitzpatrick17k.csv").write_text("\n".join([header, *lines]) + "\n")
    file = io.BytesIO()
    PIL.Image.new("RGB", (6, 5)).save(file, "JPEG")
    for name, _, _ in table:
        if name:
            (root / folder / f"{name}.jpg").write_bytes(file.getvalue())
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("skin"), rows())


@pytest.fixture(scope="module")
def dataset(root: Path) -> LabelledDataset:
    return load_dataset(f"fitzpatrick17k:{root}")


def types(split: Split) -> list[int]:
    assert isinstance(split.inputs, FileImages)
    return [int(path.removeprefix("images/")[1]) for path in split.inputs.paths]


def test_types_one_and_two_are_trained_on_and_all_are_judged(dataset: LabelledDataset) -> None:
    assert dataset.class_names == LABELS
    assert dataset.group_names == ("skin types 1-2", "skin types 3-4", "skin types 5-6")
    assert dataset.unseen_groups == ("skin types 3-4", "skin types 5-6")
    # Twenty images of each class and pair of types.
    assert dataset.sizes("group").tolist() == [3 * 16, 0, 0]
    assert dataset.sizes("group", "validation").tolist() == [3 * 2] * 3
    assert dataset.sizes("group", "test").tolist() == [3 * 2, 3 * 18, 3 * 18]
    for name, split in dataset.splits().items():
        assert set(types(split)) == ({1, 2} if name == "train" else {1, 2, 3, 4, 5, 6})
        assert [(kind - 1) // 2 for kind in types(split)] == split.groups.tolist()  # type: ignore[union-attr]
        assert len(set(dataset.class_sizes(name).tolist())) == 1


def test_unknown_types_are_left_out_and_ids_count_the_rest(dataset: LabelledDataset) -> None:
    known = [row for row in rows() if row[1] != -1]
    seen = np.concatenate([split.ids for split in dataset.splits().values()])
    assert sorted(seen.tolist()) == list(range(len(known)))
    for split in dataset.splits().values():
        assert isinstance(split.inputs, FileImages)
        for at, path, label in zip(split.ids, split.inputs.paths, split.labels, strict=True):
            assert path == f"images/{known[at][0]}.jpg"
            assert LABELS[label] == known[at][2]


def test_the_split_repeats_and_others_may_be_trained_on(
    root: Path, dataset: LabelledDataset
) -> None:
    assert load_dataset(f"fitzpatrick17k:{root}").fingerprint == dataset.fingerprint
    dark = load_dataset(f"fitzpatrick17k:{root}?train=5-6")
    assert dark.sizes("group").tolist() == [0, 0, 48]
    assert dark.name == f"fitzpatrick17k:{root}?train=5-6"
    whole = load_dataset(f"fitzpatrick17k:{root}?train=all")
    assert whole.sizes("group").tolist() == [48] * 3
    assert whole.unseen_groups == ()
    assert len({each.fingerprint for each in (dataset, dark, whole)}) == 3


def test_variants_leave_unseen_groups_unseen(root: Path) -> None:
    small = load_dataset(f"fitzpatrick17k:{root}+subset(5)")
    assert small.sizes("group").tolist() == [15, 0, 0]
    assert small.unseen_groups == ("skin types 3-4", "skin types 5-6")


def test_columns_and_folders_may_have_other_names(tmp_path: Path, dataset: LabelledDataset) -> None:
    table = [(name, f"{kind}.0", label) for name, kind, label in rows()]
    write(tmp_path, table, "hash,fitzpatrick,label,kind,url", "pictures/large")
    options = "?folder=pictures/large&image=hash&label=kind&skin=fitzpatrick"
    other = load_dataset(f"fitzpatrick17k:{tmp_path}{options}")
    for mine, theirs in zip(other.splits().values(), dataset.splits().values(), strict=True):
        assert np.array_equal(mine.ids, theirs.ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: [*t, ("b9", 7, "benign")],
            r"every skin of .* one of 1, 2, .*, found '7' in row",
        ),
        (lambda t: [*t, ("", 1, "benign")], "a value of md5hash in every row .* none in row 86"),
        (lambda t: [*t, ("b9", 1, "")], "a value of three_partition_label .* none in row 86"),
        (lambda t: [*t, t[1]], r"one row per image in .*, found images/b1x0.jpg in rows 3 and 86"),
        (lambda t: [r for r in t if int(str(r[1])) < 5], "skin types 5-6 in .*, found none; add"),
        (lambda t: [r for r in t if r[1] == -1], "rows of known skin type in .*, found none; add"),
        (
            lambda t: [*t, ("o1", 1, "other"), ("o2", 2, "other")],
            "Expected 3 images or more of class 'other' and skin types 1-2, found 2; add images",
        ),
    ],
)
def test_tables_that_do_not_fit_are_one_sentence(
    change: object, message: str, tmp_path: Path
) -> None:
    write(tmp_path, change(rows(4)))  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"fitzpatrick17k:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_missing_image_or_column_or_choice_is_said(tmp_path: Path) -> None:
    write(tmp_path, rows())
    with pytest.raises(ConfigError, match="Unknown choice of skin types '1': did you mean 1-2"):
        load_dataset(f"fitzpatrick17k:{tmp_path}?train=1")
    with pytest.raises(
        DataError, match=r"a column 'scale' .*, as in fitzpatrick17k:PATH\?skin=COL"
    ):
        load_dataset(f"fitzpatrick17k:{tmp_path}?skin=scale")
    (tmp_path / "images" / "b3x0.jpg").unlink()
    with pytest.raises(
        DataError, match=r"the image images/b3x0.jpg of row 5 of .*, found no such f"
    ):
        load_dataset(f"fitzpatrick17k:{tmp_path}")


def test_groups_are_missing_from_training_only_where_that_is_said(dataset: LabelledDataset) -> None:
    with pytest.raises(DataError, match="missing from train: 'skin types 3-4'; add samples"):
        LabelledDataset.from_content(
            "x",
            name="x",
            class_names=dataset.class_names,
            splits=(dataset.train, dataset.validation, dataset.test),
            image_shape=dataset.image_shape,
            horizontal_flip=True,
            crop_padding=0,
            group_names=dataset.group_names,
            unseen_groups=("skin types 5-6",),
        )


def test_images_that_could_not_be_downloaded_are_skipped_where_asked_for(tmp_path: Path) -> None:
    write(tmp_path, rows())
    (tmp_path / "images" / "b3x0.jpg").unlink()
    (tmp_path / "images" / "m-1x1.jpg").unlink()
    dataset = load_dataset(f"fitzpatrick17k:{tmp_path}?missing=skip")
    assert sum(map(len, dataset.splits().values())) == 179
    assert "1 row of 180 without an image: left out." in dataset.remarks


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (6, 5)).save(tmp_path / "secret.jpg")
    write(tmp_path / "skin", [*rows(), ("../../secret", 1, "benign")])
    with pytest.raises(DataError, match=r"images below .*skin, found images/\.\./\.\./secret\.jpg"):
        load_dataset(f"fitzpatrick17k:{tmp_path}/skin")
