"""Data sets with groups: tables in the style of WILDS, Waterbirds and CelebA."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torchvision

from raydrop.data import FileImages, LabelledDataset, Split, load_dataset
from raydrop.data.dataset import crossed
from raydrop.data.loaders.celeba import ATTRIBUTES, IMAGES, PARTITION
from raydrop.errors import ConfigError, DataError

Row = tuple[str, object, object, object]
HEADER = "img_filename,y,split,place"


def rows(validation: int = 1, train: int = 1, test: int = 1) -> list[Row]:
    """So many images of each label 0, 1 on each place 0, 1 in each split."""
    counts = {0: train, 1: validation, 2: test}
    return [
        (f"birds/{split}{label}{place}{at}.png", label, split, place)
        for split, count in counts.items()
        for at in range(count)
        for label in (1, 0)
        for place in (0, 1)
    ]


def write(
    root: Path,
    table: Sequence[Row],
    header: str = HEADER,
    file: str = "metadata.csv",
    size: tuple[int, int] = (6, 5),
) -> Path:
    """Write a table and an image for each of its rows; the red value is 100 label + place."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, row)) for row in table]
    (root / file).write_text("\n".join([header, *lines]) + "\n")
    for at, row in enumerate(table):
        path = root / row[0]
        if row[0] and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(at, size))
    return root


@functools.cache
def png(red: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def paths(split: Split) -> tuple[str, ...]:
    assert isinstance(split.inputs, FileImages)
    return split.inputs.paths


def fails(root: Path, message: str, name: str = "metadata", options: str = "") -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"{name}:{root}{options}")
    assert "\n" not in str(caught.value)


# Pure functions.


def test_crossing_numbers_every_pair_once() -> None:
    labels, attributes = np.divmod(np.arange(12), 4)
    assert crossed(labels, attributes, 4).tolist() == list(range(12))


# Waterbirds.


def test_waterbirds_follow_their_table(tmp_path: Path) -> None:
    table = rows(train=3, test=2)
    dataset = load_dataset("waterbirds:birds", str(write(tmp_path / "birds", table).parent))
    assert dataset.name == "waterbirds:birds"
    assert dataset.class_names == ("landbird", "waterbird")
    assert dataset.group_names == (
        "landbird on land",
        "landbird on water",
        "waterbird on land",
        "waterbird on water",
    )
    for number, split in enumerate(dataset.splits().values()):
        wanted = [(at, row) for at, row in enumerate(table) if row[2] == number]
        assert split.ids.tolist() == [at for at, _ in wanted]
        assert paths(split) == tuple(row[0] for _, row in wanted)
        assert split.labels.tolist() == [row[1] for _, row in wanted]
        assert split.groups is not None
        assert split.groups.tolist() == [
            2 * int(str(row[1])) + int(str(row[3])) for _, row in wanted
        ]
    assert dataset.sizes("group").tolist() == [3] * 4
    assert dataset.sizes("group", "test").tolist() == [2] * 4


def test_small_images_are_decoded_and_large_ones_stream(tmp_path: Path) -> None:
    table = rows()
    small = load_dataset(f"waterbirds:{write(tmp_path / 'small', table)}").decoded()
    for split in small.splits().values():
        assert np.array_equal(split.inputs.pixels[:, 0, 0, 0], split.ids)  # type: ignore[union-attr]
    large = load_dataset(f"waterbirds:{write(tmp_path / 'large', table, size=(70, 90))}")
    assert large.image_shape == (3, 224, 224)
    assert large.decoded() is large


@pytest.mark.parametrize(("at", "column"), [(1, "label"), (3, "group")])
def test_waterbirds_have_two_labels_and_two_places(tmp_path: Path, at: int, column: str) -> None:
    table: list[Any] = [list(row) for row in rows()]
    table[2][at] = 2
    write(tmp_path, table)
    fails(tmp_path, rf"every {column} of .* one of 0, 1, found '2' in row 4", "waterbirds")


def test_waterbirds_need_all_four_groups(tmp_path: Path) -> None:
    write(tmp_path, [row for row in rows() if row[1] == 0 or row[3] == 1])
    fails(tmp_path, "a group missing from train: 'waterbird on land'", "waterbirds")
    crossed = load_dataset(f"metadata:{tmp_path}")
    assert crossed.group_names == ("0, place=0", "0, place=1", "1, place=1")


# Tables in general.


def test_columns_and_file_may_have_other_names(tmp_path: Path) -> None:
    texts = {0: "no", 1: "yes"}
    table = [
        (p, texts[int(str(y))], ["Train", "val", "TEST"][int(str(s))], g) for p, y, s, g in rows()
    ]
    write(tmp_path, table, "path,ill,part,the hospital", "t.csv")
    options = "?file=t.csv&image=path&label=ill&split=part&group=the hospital"
    dataset = load_dataset(f"metadata:{tmp_path}{options}")
    assert dataset.class_names == ("no", "yes")
    assert dataset.group_names[2] == "yes, the hospital=0"
    assert dataset.name == f"metadata:{tmp_path}{options}"
    plain = load_dataset(f"metadata:{write(tmp_path / 'plain', rows())}")
    for mine, other in zip(dataset.splits().values(), plain.splits().values(), strict=True):
        assert paths(mine) == paths(other)
        assert mine.groups is not None
        assert other.groups is not None
        assert mine.groups.tolist() == other.groups.tolist()


def test_numbers_are_in_numeric_order_and_texts_in_alphabetic_order(tmp_path: Path) -> None:
    def relabelled(names: Sequence[str]) -> list[Row]:
        return [(f"{k}{s}.png", name, s, 0) for k, name in enumerate(names) for s in range(3)]

    numbers = write(tmp_path / "n", relabelled(["10", "9.0", "-1", "0.5"]))
    assert load_dataset(f"metadata:{numbers}").class_names == ("-1", "0.5", "9.0", "10")
    mixed = write(tmp_path / "m", relabelled(["10", "9", "cat"]))
    assert load_dataset(f"metadata:{mixed}").class_names == ("10", "9", "cat")


def labelled(root: Path, labels: Sequence[str], options: str = "") -> LabelledDataset:
    """Load a table with an image of each label in each split."""
    table = [(f"{k}{s}.png", label, s, 0) for k, label in enumerate(labels) for s in range(3)]
    return load_dataset(f"metadata:{write(root, table)}?groups=none{options}")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["1", "01", "2"], ("01", "1", "2")),
        (["10", "1.0", "9", "1", "-1"], ("-1", "1", "1.0", "9", "10")),
        (["1000", "1e3", "999"], ("999", "1000", "1e3")),
        (["b", " a ", "A"], ("A", "a", "b")),
        (["NA", "None", "true", "True", "1"], ("1", "NA", "None", "True", "true")),
        (["caf\u00e9", "cafe\u0301"], ("cafe\u0301", "caf\u00e9")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["10000000000001", "10000000000000"], ("10000000000000", "10000000000001")),
        (["1e309", "2"], ("1e309", "2")),
        (["0.0", "1.0"], ("0.0", "1.0")),
    ],
)
def test_distinct_texts_are_distinct_classes(
    tmp_path: Path, labels: list[str], order: tuple[str, ...]
) -> None:
    dataset = labelled(tmp_path, labels)
    assert dataset.class_names == order
    for split in dataset.splits().values():
        written = [labels[int(path[:-5])].strip() for path in paths(split)]
        assert [order[label] for label in split.labels] == written


def test_distinct_texts_are_distinct_groups(tmp_path: Path) -> None:
    table = [(f"{y}{g}{s}.png", y, s, g) for y in ("a", "b") for g in ("1", "01") for s in range(3)]
    dataset = load_dataset(f"metadata:{write(tmp_path, table)}")
    assert dataset.group_names == ("a, place=01", "a, place=1", "b, place=01", "b, place=1")
    assert dataset.sizes("group").tolist() == [1] * 4


def test_names_are_as_written_and_fingerprints_as_before(tmp_path: Path) -> None:
    def table(zero: str, one: str) -> list[Row]:
        return [(f"{y}{g}{s}.png", (zero, one)[y], s, (zero, one)[g])
                for y in (0, 1) for g in (0, 1) for s in range(3)]  # fmt: skip

    found = {
        pair: load_dataset(f"metadata:{write(tmp_path / pair[0], table(*pair))}?flip=on")
        for pair in (("0", "1"), ("0.0", "1.0"), ("00", "01"))
    }
    assert found["0.0", "1.0"].group_names[1] == "0.0, place=1.0"
    assert {each.fingerprint for each in found.values()} == {"734c03562099e42e782a87e2283f592e"}


def test_names_that_look_alike_or_missing_are_said(tmp_path: Path) -> None:
    text = " ".join(labelled(tmp_path, ["01", "1", "cat", "Cat", "NA"]).remarks)
    assert "Names that differ little are different classes: '01', '1'; 'Cat', 'cat'." in text
    assert "Names of classes that may mean a missing value: 'NA'." in text
    assert "Names" not in " ".join(labelled(tmp_path / "other", ["1", "2"]).remarks)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "id_val", "id_test"),
        ("Training", "Dev", "Evaluation"),
        ("trains", "VALID", "tests"),
        ("0", "1.0", "02"),
    ],
)
def test_splits_of_tables_may_have_their_common_names(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    table = [(p, y, names[int(str(s))], g) for p, y, s, g in rows()]
    named = load_dataset(f"metadata:{write(tmp_path / 'a', table)}")
    plain = load_dataset(f"metadata:{write(tmp_path / 'b', rows())}")
    assert named.fingerprint == plain.fingerprint


@pytest.mark.parametrize(("split", "other"), [(1, "id_val"), (2, "ID-test")])
def test_samples_like_training_and_others_do_not_mix(
    tmp_path: Path, split: int, other: str
) -> None:
    names = ["train", "val", "test"]
    table = [(p, y, names[int(str(s))], g) for p, y, s, g in rows()]
    at = next(at for at, row in enumerate(table) if row[2] == names[split])
    table[at] = (*table[at][:2], other, table[at][3])
    fails(write(tmp_path, table), rf"one kind of .* rows in .*'{other.lower().replace('-', '_')}'")


def test_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two classes or more in metadata:.*, found only 'a'"):
        labelled(tmp_path, ["a"])


def test_mirror_images_are_asked_for_but_of_birds(tmp_path: Path) -> None:
    write(tmp_path, rows())
    assert load_dataset(f"waterbirds:{tmp_path}").horizontal_flip
    plain = load_dataset(f"metadata:{tmp_path}")
    mirrored = load_dataset(f"metadata:{tmp_path}?flip=on")
    assert (plain.horizontal_flip, mirrored.horizontal_flip) == (False, True)
    assert any("say flip=on" in remark for remark in plain.remarks)
    assert not mirrored.remarks


# Tables by others.


def test_spaces_in_a_header_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path, rows())
    before = load_dataset(f"metadata:{tmp_path}").fingerprint
    text = (tmp_path / "metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text(text.replace(HEADER, " img_filename , y,split ,  place"))
    assert load_dataset(f"metadata:{tmp_path}").fingerprint == before


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("img_filename,y, y,split,place", "columns of different names in .*, found 'y' twice"),
        ("img_filename,y,split", "header and commas in .*, found: Length of header"),
    ],
)
def test_headers_that_do_not_fit_the_rows(tmp_path: Path, header: str, message: str) -> None:
    write(tmp_path, rows())
    text = (tmp_path / "metadata.csv").read_text().replace(HEADER, header)
    text = text.replace(",1,1,", ",1,1,1,") if "twice" in message else text
    (tmp_path / "metadata.csv").write_text(text)
    fails(tmp_path, message, options="?groups=none")


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_a_table_that_is_no_file_is_refused_without_waiting(tmp_path: Path, what: str) -> None:
    path = tmp_path / "metadata.csv"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    fails(tmp_path, f"header and commas in .*, found: a {what} instead of a file")


def test_a_table_too_long_to_be_one_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "metadata.csv").open("wb") as file:
        file.truncate(2**40)
    fails(tmp_path, "header and commas in .*, found: .*1099511627776 bytes where 268435456 are")


@pytest.mark.parametrize(
    "outside", ["../secret.png", "birds/../../secret.png", "/SECRET", "..", "a/b/../../../x.png"]
)
def test_images_stay_below_the_folder(tmp_path: Path, outside: str) -> None:
    table = rows()
    root = write(tmp_path / "data", table)
    secret = tmp_path / "secret.png"
    PIL.Image.new("RGB", (6, 5)).save(secret)
    outside = outside.replace("/SECRET", str(secret))
    write(root, [(outside, *table[0][1:]), *table[1:]])
    for options in ("", "?missing=skip"):
        fails(root, r"Expected images below .*data, found .* in row 2 of", options=options)
    if "secret" in outside:
        dataset = load_dataset(f"metadata:{root}?allow_outside=on")
        assert paths(dataset.train)[0] == outside
        assert len(dataset.decoded().train) == 4


@pytest.mark.parametrize("file", ["../metadata.csv", "/SECRET", "x/../../metadata.csv"])
def test_the_table_stays_below_the_folder(tmp_path: Path, file: str) -> None:
    root, table = tmp_path / "data", rows()
    write(root, table)
    (root / "x").mkdir()
    (root / "metadata.csv").rename(tmp_path / "metadata.csv")
    file = file.replace("/SECRET", str(tmp_path / "metadata.csv"))
    fails(root, r"Expected the table of .*data below that folder", options=f"?file={file}")
    loaded = load_dataset(f"metadata:{root}?file={file}&allow_outside=on")
    assert len(loaded.train) == 4


def test_images_may_be_reached_through_links_and_dots(tmp_path: Path) -> None:
    table = rows()
    write(tmp_path / "real", table)
    root = write(tmp_path / "data", [(f"birds/x/../{row[0]}", *row[1:]) for row in table[:0]])
    (root / "birds").symlink_to(tmp_path / "real/birds")
    write(root, table)
    assert len(load_dataset(f"metadata:{root}").train) == 4
    write(root, [(f"./x/../{row[0]}", *row[1:]) for row in table])
    (root / "x").mkdir(exist_ok=True)
    assert len(load_dataset(f"metadata:{root}").train) == 4
    write(root, [*table, (f"birds//{Path(table[0][0]).name}", 1, 2, 0)])
    fails(root, "one row per image in .* in rows 2 and 14")


def test_rows_without_an_image_are_skipped_where_asked_for(tmp_path: Path) -> None:
    table = rows(train=3)
    write(tmp_path, table)
    for at in (1, 6):
        (tmp_path / table[at][0]).unlink()
    fails(tmp_path, "found no such file; add it, .* with missing=skip")
    skipped = load_dataset(f"metadata:{tmp_path}?missing=skip")
    left = [row for at, row in enumerate(table) if at not in (1, 6)]
    shutil.copytree(tmp_path / "birds", tmp_path / "left/birds")
    write(tmp_path / "left", left)
    assert skipped.fingerprint == load_dataset(f"metadata:{tmp_path}/left").fingerprint
    assert "2 rows of 20 without an image: left out." in skipped.remarks
    whole = load_dataset(f"metadata:{tmp_path}/left?missing=skip")
    assert not any("left out" in remark for remark in whole.remarks)
    for row in left:
        (tmp_path / row[0]).unlink()
    fails(tmp_path, "found none of 20; add them", options="?missing=skip")
    with pytest.raises(ConfigError, match=r"Unknown choice .* 'skp': did you mean skip"):
        load_dataset(f"metadata:{tmp_path}?missing=skp")


def test_groups_may_be_the_attribute_alone_or_none(tmp_path: Path) -> None:
    write(tmp_path, rows())
    plain = load_dataset(f"metadata:{tmp_path}?groups=plain")
    assert plain.group_names == ("place=0", "place=1")
    assert plain.train.groups is not None
    assert plain.train.groups.tolist() == [0, 1, 0, 1]
    write(tmp_path, [row[:3] for row in rows()], "img_filename,y,split")  # type: ignore[misc]
    none = load_dataset(f"metadata:{tmp_path}?groups=none")
    assert (none.group_names, none.train.groups) == ((), None)
    assert none.fingerprint != plain.fingerprint
    with pytest.raises(ConfigError, match="Unknown choice of groups 'cross': did you mean crossed"):
        load_dataset(f"metadata:{tmp_path}?groups=cross")


def test_without_validation_half_of_each_group_of_test_is_validation(tmp_path: Path) -> None:
    table = [*rows(validation=0, test=4), ("birds/more.png", 1, 2, 1)]
    dataset = load_dataset(f"waterbirds:{write(tmp_path, table)}")
    assert dataset.sizes("group", "validation").tolist() == [2, 2, 2, 2]
    assert dataset.sizes("group", "test").tolist() == [2, 2, 2, 3]
    both = np.concatenate([dataset.validation.ids, dataset.test.ids])
    assert sorted(both.tolist()) == list(range(4, len(table)))


def test_a_group_with_one_test_image_cannot_be_halved(tmp_path: Path) -> None:
    write(tmp_path, rows(validation=0, test=2)[:-1])
    fails(tmp_path, r"two test images of every group.* found 1 of group '0, place=1'; add test")


def test_fingerprint_sees_labels_groups_and_splits_and_not_the_root(tmp_path: Path) -> None:
    def fingerprint(name: str, table: Sequence[Row], options: str = "") -> str:
        return load_dataset(f"metadata:{write(tmp_path / name, table)}{options}").fingerprint

    table = rows(train=2, test=2, validation=2)
    changed = {fingerprint("same", table)}
    assert fingerprint("again", table) in changed
    for name, at, values in (("label", 1, (0, 1)), ("place", 3, (0, 1)), ("split", 2, (1, 2))):
        other: list[Any] = [list(row) for row in table]
        chosen = [row for row in other if row[at] in values][:2]
        for row in chosen:
            row[at] = values[1 - values.index(row[at])]
        changed.add(fingerprint(name, other))
    changed.add(fingerprint("same", table, "?groups=plain"))
    assert len(changed) == 5


def test_blank_lines_and_byte_order_marks_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, rows())
    before = load_dataset(f"metadata:{tmp_path}")
    text = (tmp_path / "metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text("\ufeff" + text.replace("\n", "\n\n") + "\n\n")
    assert load_dataset(f"metadata:{tmp_path}").fingerprint == before.fingerprint
    (tmp_path / before.splits()["test"].inputs.paths[0]).unlink()  # type: ignore[union-attr]
    at = int(before.test.ids[0])
    fails(tmp_path, rf"birds/2100\.png of row {2 * at + 3} of")  # the line of that row


# What goes wrong with a table.


def test_no_table(tmp_path: Path) -> None:
    fails(tmp_path / "gone", "folder of images at .*gone, found nothing")
    fails(
        tmp_path, r"header and commas in .*metadata\.csv, found: No such file.*; correct the path"
    )
    (tmp_path / "metadata.csv").write_text("")
    fails(tmp_path, r"found: No columns to parse")
    (tmp_path / "metadata.csv").write_text(HEADER + "\n")
    fails(tmp_path, "row per image in .*found none; add them")
    (tmp_path / "metadata.csv").write_text(HEADER + "\na,1,0,0\nb,1,0,0,0,0,0\n")
    fails(tmp_path, "found: .*Expected 4 fields in line 3, saw 7")


@pytest.mark.parametrize(
    ("column", "option"),
    [("img_filename", "image"), ("y", "label"), ("split", "split"), ("place", "group")],
)
def test_a_missing_column_names_those_there(tmp_path: Path, column: str, option: str) -> None:
    columns = HEADER.split(",")
    write(tmp_path, rows(), HEADER.replace(column, "other"))
    there = ", ".join(c if c != column else "other" for c in columns)
    fails(tmp_path, rf"column '{column}' in .*metadata\.csv, found {there};.*\?{option}=COLUMN")


def test_a_missing_image_is_named_with_its_row(tmp_path: Path) -> None:
    write(tmp_path, rows())
    (tmp_path / "birds/0010.png").unlink()
    (tmp_path / "birds/0010.png").mkdir()
    assert (tmp_path / "metadata.csv").read_text().splitlines()[5 - 1].startswith("birds/0010")
    fails(
        tmp_path, r"image birds/0010\.png of row 5 of .*metadata\.csv in .*, found no such file; a"
    )


def test_an_image_with_two_rows_is_named(tmp_path: Path) -> None:
    table = rows()
    table.append((table[1][0], 1, 2, 1))
    write(tmp_path, table)
    fails(tmp_path, r"one row per image in .*, found birds/0110\.png in rows 3 and 14; remove one")


@pytest.mark.parametrize("value", ["3", "trian", "0.5"])
def test_an_unknown_split_is_named_with_its_row(tmp_path: Path, value: str) -> None:
    table = rows()
    table[3] = (*table[3][:2], value, table[3][3])
    write(tmp_path, table)
    fails(tmp_path, rf"every split of .* to be one of 0, train, 1, val.* found '{value}' in row 5")


@pytest.mark.parametrize(
    ("at", "value"), [(0, ""), (1, "  "), (2, "NaN"), (3, "nan"), (0, "nan"), (3, "")]
)
def test_an_empty_value_is_named_with_its_row(tmp_path: Path, at: int, value: str) -> None:
    column = HEADER.split(",")[at]
    write(tmp_path, rows())
    table: list[Any] = [list(row) for row in rows()]
    table[5][at] = value
    lines = [HEADER, *(",".join(map(str, row)) for row in table)]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    fails(tmp_path, rf"a value of {column} in every row of .*, found none in row 7; fill it in")


def test_a_group_that_training_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path, [row for row in rows() if row[1:] != (1, 0, 0)])
    fails(tmp_path, "every group in train, found a group missing from train: '1, place=0'; add")
    write(tmp_path, [row for row in rows() if row[1:] != (1, 2, 0)])
    fails(tmp_path, "every group in test, found a group missing from test: '1, place=0'; add")


@pytest.mark.parametrize(("counts", "name"), [((0, 1, 1), "train"), ((1, 1, 0), "test")])
def test_training_and_test_need_rows(
    tmp_path: Path, counts: tuple[int, int, int], name: str
) -> None:
    train, validation, test = counts
    write(tmp_path, rows(train=train, validation=validation, test=test))
    fails(tmp_path, f"samples for {name}, found none", options="?groups=none")


# CelebA.

FACES = 24


def write_faces(folder: Path, missing: str = "") -> Path:
    """Write 24 faces, of three attributes, in the layout of torchvision."""
    names = [f"{at + 1:06}.jpg" for at in range(FACES)]
    signs = np.stack([np.arange(FACES) // step % 2 for step in (2, 1, 4)], axis=1)
    (folder / IMAGES).mkdir(parents=True)
    for name in names:
        (folder / IMAGES / name).write_bytes(png(0, (178, 218)))
    attributes = [
        f"{n}  " + " ".join(f"{2 * v - 1:2}" for v in row)
        for n, row in zip(names, signs, strict=True)
    ]
    (folder / ATTRIBUTES).write_text("\n".join([str(FACES), "Blond_Hair Male Hat ", *attributes]))
    partition = [f"{name} {at // 8}" for at, name in enumerate(names) if name != missing]
    (folder / PARTITION).write_text("\n".join(partition) + "\n")
    return folder


def check_faces(dataset: LabelledDataset) -> None:
    assert dataset.class_names == ("not Blond_Hair", "Blond_Hair")
    assert dataset.group_names == (
        "not Blond_Hair, not Male",
        "not Blond_Hair, Male",
        "Blond_Hair, not Male",
        "Blond_Hair, Male",
    )
    for number, split in enumerate(dataset.splits().values()):
        expected = np.arange(8 * number, 8 * number + 8)
        assert split.ids.tolist() == expected.tolist()
        assert paths(split) == tuple(f"{IMAGES}/{at + 1:06}.jpg" for at in expected)
        assert split.groups is not None
        assert split.groups.tolist() == (expected % 4).tolist()
        assert split.labels.tolist() == (expected // 2 % 2).tolist()
    assert dataset.image_shape == (3, 224, 224)


def test_celeba_reads_a_folder(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    dataset = load_dataset("celeba:faces", str(tmp_path))
    assert dataset.name == "celeba:faces"
    check_faces(dataset)
    other = load_dataset("celeba:faces?group=Hat&target=Male", str(tmp_path))
    assert other.name == "celeba:faces?target=Male&group=Hat"
    assert other.class_names == ("not Male", "Male")
    assert other.train.labels.tolist() == [0, 1] * 4
    assert other.fingerprint != dataset.fingerprint


def as_kaggle(folder: Path) -> Path:
    """Arrange faces as Kaggle does."""
    (folder / IMAGES).rename(folder / "moved")
    (folder / IMAGES).mkdir()
    (folder / "moved").rename(folder / IMAGES / IMAGES)
    _, names, *lines = (folder / ATTRIBUTES).read_text().splitlines()
    table = [",".join(["image_id", *names.split()]), *(",".join(line.split()) for line in lines)]
    (folder / "list_attr_celeba.csv").write_text("\n".join(table) + "\n")
    (folder / ATTRIBUTES).unlink()
    lines = ["image_id,partition", *(folder / PARTITION).read_text().replace(" ", ",").split()]
    (folder / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    (folder / PARTITION).unlink()
    return folder


def test_celeba_is_read_as_kaggle_has_it(tmp_path: Path) -> None:
    plain = load_dataset(f"celeba:{write_faces(tmp_path / 'plain')}")
    folder = as_kaggle(write_faces(tmp_path / "kaggle"))
    kaggle = load_dataset(f"celeba:{folder}")
    assert (kaggle.class_names, kaggle.group_names) == (plain.class_names, plain.group_names)
    for mine, other in zip(kaggle.splits().values(), plain.splits().values(), strict=True):
        assert mine.ids.tolist() == other.ids.tolist()
        assert mine.labels.tolist() == other.labels.tolist()
        assert mine.groups.tolist() == other.groups.tolist()  # type: ignore[union-attr]
        assert paths(mine) == tuple(f"{IMAGES}/{path}" for path in paths(other))
    assert kaggle.train.inputs.open(0).size == (178, 218)  # type: ignore[union-attr]
    (folder / IMAGES / IMAGES / "000003.jpg").unlink()
    fails(folder, r"000003\.jpg of row 4 of", "celeba")
    path = folder / "list_eval_partition.csv"
    path.write_text(path.read_text() + "000003.jpg,1\n")
    fails(folder, "one split per image in .*occur twice", "celeba")
    path.unlink()
    fails(folder, r"CelebA's table in .*list_eval_partition\.csv, found: No such file", "celeba")


def test_celeba_in_the_data_root_needs_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path / "celeba")
    monkeypatch.setattr(torchvision.datasets, "CelebA", None)
    check_faces(load_dataset("celeba", str(tmp_path)))


def test_celeba_is_downloaded_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def official(root: str, split: str, download: bool) -> None:
        assert (split, download) == ("all", True)
        write_faces(Path(root) / "celeba")

    monkeypatch.setattr(torchvision.datasets, "CelebA", official)
    dataset = load_dataset("celeba?target=Blond_Hair", str(tmp_path / "new"))
    assert dataset.name == "celeba"
    check_faces(dataset)


def test_a_failed_download_of_celeba_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("'gdown' is required")

    monkeypatch.setattr(torchvision.datasets, "CelebA", fail)
    with pytest.raises(DataError, match=r"files of celeba in .*, found: 'gdown' is required; conn"):
        load_dataset("celeba", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?target=Blond", "Unknown attribute of celeba 'Blond': did you mean Blond_Hair"),
        ("?group=Blond_Hair", "two attributes for target and group of celeba, found Blond_Hair"),
        ("?attribute=Male", "Unknown option of celeba 'attribute': choose one of group, target"),
    ],
)
def test_attributes_that_do_not_fit(tmp_path: Path, options: str, message: str) -> None:
    write_faces(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_dataset(f"celeba:{tmp_path}{options}")


def test_faces_that_do_not_fit(tmp_path: Path) -> None:
    write_faces(tmp_path / "partition", missing="000007.jpg")
    fails(tmp_path / "partition", r"split 0, 1 or 2 of 000007\.jpg in .*, found none", "celeba")
    write_faces(tmp_path / "image")
    (tmp_path / "image" / IMAGES / "000003.jpg").unlink()
    fails(tmp_path / "image", r"img_align_celeba/000003\.jpg of row 5 of list_attr", "celeba")
    line = (tmp_path / "image" / ATTRIBUTES).read_text().splitlines()[4]
    assert line.startswith("000003.jpg")
    fails(tmp_path, r"CelebA's table in .*list_attr_celeba\.txt, found: No such file", "celeba")
    text = (tmp_path / "image" / ATTRIBUTES).read_text()
    (tmp_path / "image" / ATTRIBUTES).write_text(text.replace("000009.jpg  -1", "000009.jpg   5"))
    fails(tmp_path / "image", "-1 or 1 for Blond_Hair in .*found 5; copy", "celeba")
    (tmp_path / "image" / ATTRIBUTES).write_text(text.replace("000009.jpg  -1", "000009.jpg   x"))
    fails(tmp_path / "image", "CelebA's table in .*found: invalid literal", "celeba")


# Groups through variants.


def test_groups_follow_their_samples_through_variants(tmp_path: Path) -> None:
    write(tmp_path, rows(train=6, validation=2, test=2))
    base = load_dataset(f"waterbirds:{tmp_path}")
    assert base.train.groups is not None
    group_of = dict(zip(base.train.ids.tolist(), base.train.groups.tolist(), strict=True))
    for text in ("subset(9, test=9)", "long_tail(2)", "label_noise(0.5)"):
        variant = load_dataset(f"waterbirds:{tmp_path}+{text}")
        assert variant.train.groups is not None
        assert variant.group_names == base.group_names
        assert [group_of[i] for i in variant.train.ids.tolist()] == variant.train.groups.tolist()


def test_a_variant_that_empties_a_group_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rows(train=3, validation=2, test=2))
    with pytest.raises(DataError, match=r"long_tail\(50\) to leave images of every group in train"):
        load_dataset(f"waterbirds:{tmp_path}+long_tail(50)")
    with pytest.raises(DataError, match=r"subset\(6, test=1\) to leave .* group in validation"):
        load_dataset(f"waterbirds:{tmp_path}+subset(6, test=1)")


def test_groups_enter_the_fingerprint(tmp_path: Path) -> None:
    dataset = load_dataset(f"waterbirds:{write(tmp_path, rows(train=2))}")
    groups = dataset.train.groups
    assert groups is not None
    swapped = dataclasses.replace(dataset.train, groups=groups[::-1].copy())
    assert dataset.derive("x", train=swapped).fingerprint != dataset.fingerprint
