"""The files that pass between commands: recalls that a user writes, and cells of tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydrop.errors import ConfigError
from raydrop.tables import read_recalls


def recalls(folder: Path, text: str | bytes, names: str, by: str = "class") -> list[float]:
    path = folder / "recalls.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found: list[float] = read_recalls(path, names.split("|"), by).tolist()
    return found


def refused(folder: Path, text: str | bytes, names: str, by: str = "class") -> str:
    with pytest.raises(ConfigError) as caught:
        recalls(folder, text, names, by)
    sentence = str(caught.value)
    assert sentence.startswith("Expected ")
    assert "; " in sentence
    assert sentence.isprintable()
    assert len(sentence) < 500
    return sentence


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_rows_match_classes_by_name_in_any_order(line: str, tmp_path: Path) -> None:
    text = line.join(["class,recall", "dog,0.5", "cat,0.25", "a b,1", ""])
    assert recalls(tmp_path, text, "cat|dog|a b") == [0.25, 0.5, 1.0]


def test_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    """Classes `1, 10, 2` are not the classes at 1, 10 and 2."""
    names = "1|10|2"
    assert recalls(tmp_path, "class,recall\n1,0.1\n2,0.2\n10,0.9\n", names) == [0.1, 0.9, 0.2]
    assert "found 0, which" in refused(tmp_path, "class,recall\n0,0.1\n1,0.2\n2,0.9\n", names)


@pytest.mark.parametrize("names", ["0|1|2", "2|1|0", "1|2|0"])
def test_names_that_are_positions_of_others_are_names(names: str, tmp_path: Path) -> None:
    found = recalls(tmp_path, "class,recall\n0,0\n1,0.1\n2,0.2\n", names)
    assert found == [int(name) / 10 for name in names.split("|")]


def test_positions_are_taken_where_no_name_can_be_meant(tmp_path: Path) -> None:
    text = "class,recall\n2,0.2\n0,0\n1,0.1\n"
    assert recalls(tmp_path, text, "cat|dog|owl") == [0.0, 0.1, 0.2]
    for names in ("cat|dog|7", "10|20|30", "-1|x|y", "1.5|x|y", "01|x|y"):
        assert "which" in refused(tmp_path, text, names)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("cat,0.5\ndog,0.5\ncat,0.6", "two for cat, in lines 2 and 4"),
        ("cat,0.5\ndog,0.5\nowl,0.6", "found owl, which"),
        ("cat,0.5\ndog,0.5\n0,0.6", "found 0, which"),
        ("cat,0.5\n1,0.5", "found 1, which"),
        ("0,0.5\n0,0.5\n1,0.5", "two for 0, in lines 2 and 3"),
        ("0,0.5\n1,0.5\n2,0.5", "found 0, 1, 2, which"),
        ("00,0.5\n01,0.5", "found 00, 01, which"),
        ("0,0.5", "found none for dog"),
        ("cat,0.5", "found none for dog"),
        ("Cat,0.5\ndog,0.5", "found Cat, which"),
        ("cat,0.5\ndog,nan", "'nan' for dog in line 3"),
        ("cat,0.5\ndog,", "'' for dog in line 3"),
        ("cat,0.5\ndog,50 %", "'50 %' for dog in line 3"),
        ("cat,0.5\ndog,1.01", "'1.01' for dog in line 3"),
        ("cat,0.5\ndog,-0.01", "'-0.01' for dog in line 3"),
        ("cat,0.5\ndog,inf", "'inf' for dog in line 3"),
        ("cat,0.5\ndog,1_0", "'1_0' for dog in line 3"),
        ("cat,0.5,1\ndog,0.5", "3 cells in line 2"),
        ("cat,0.5\ndog", "1 cells in line 3"),
        ("\x1b[2J,0.5\ndog,0.5", r"found \x1b[2J, which"),
    ],
)
def test_rows_that_name_no_class_or_one_twice_are_refused(
    rows: str, found: str, tmp_path: Path
) -> None:
    assert found in refused(tmp_path, f"class,recall\n{rows}\n", "cat|dog")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("class,recall,recall", "the columns class, recall, recall"),
        ("class,recall,class", "the columns class, recall, class"),
        ("class;recall;x", "the columns class;recall;x"),
        ("class,Recall,x", "the columns class, Recall, x"),
        ("group,recall,x", "the columns group, recall, x"),
    ],
)
def test_columns_are_named_once(header: str, found: str, tmp_path: Path) -> None:
    assert found in refused(tmp_path, f"{header}\ncat,0.5,0.5\n", "cat")


def test_marks_and_spaces_and_further_columns_and_empty_lines_do_not_matter(
    tmp_path: Path,
) -> None:
    text = '\ufeff class , n, recall\n\ncat ,3, 0.5\n\n"dog, big",4,0.25\n,,\n'
    assert recalls(tmp_path, text, "cat|dog, big") == [0.5, 0.25]


def test_names_with_spaces_around_are_told_apart(tmp_path: Path) -> None:
    assert recalls(tmp_path, "class,recall\ncat,0.5\n cat,0.25\n", "cat| cat") == [0.5, 0.25]


def test_groups_match_by_name_too(tmp_path: Path) -> None:
    text = "group,recall\nb/1,0.5\na/0,0.25\n"
    assert recalls(tmp_path, text, "a/0|b/1", "group") == [0.25, 0.5]
    assert "which" in refused(tmp_path, "group,recall\n0,0.5\n1,0.25\n", "1|0.5", "group")


def test_names_that_two_classes_have_cannot_be_matched(tmp_path: Path) -> None:
    assert "the name cat twice" in refused(tmp_path, "class,recall\ncat,0.5\n", "cat|cat|dog")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"class,recall\n\xff,0.5\n", b"\0" * 9])
def test_what_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(tmp_path, content, "cat")


def test_cells_of_any_length_are_refused_or_read(tmp_path: Path) -> None:
    refused(tmp_path, f"class,recall\n{'c' * 200_000},0.5\n", "cat")
