"""The files that pass between commands: recalls that a user writes, and cells of tables."""

from __future__ import annotations

import csv
import io
import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
from fake_study import FakeStudy

from raydrop.errors import ConfigError
from raydrop.frontier import frontier_table, load_records
from raydrop.frontier.export import wide_table
from raydrop.store.files import csv_text, original_text
from raydrop.store.tables import read_recalls


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


# Cells that a spreadsheet would run.

EVIL = (
    "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1",
    "=", "'=1", "''+x", "=HYPERLINK(\"http://x\",1)",
)  # fmt: skip
PLAIN = (
    "", "a", "a=1", "'a", "''", "é", "a-b", "-1", "-0.5", "+3", "-1e-5", " =1", "a\n=1", "NaN",
    "x,y", 'a"b',
)  # fmt: skip


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", EVIL)
def test_no_cell_begins_as_a_formula_does_and_is_read_back_as_it_was(text: str) -> None:
    for dtype in (object, "str", "category"):
        table = pd.DataFrame({"n": [-1.5, -2], "name": pd.Series([text, "cat"], dtype=dtype)})
        before = table.copy()
        header, first, second = cells(csv_text(table))
        assert header == ["n", "name"]
        assert first[1] == f"'{text}"
        assert original_text(first[1]) == text
        assert (first[0], second) == ("-1.500000", ["-2.000000", "cat"])
        pd.testing.assert_frame_equal(table, before)


def test_names_of_columns_are_cells_too() -> None:
    header, _ = cells(csv_text(pd.DataFrame([[1, 2, 3]], columns=["=a", "b", "=a"])))
    assert header == ["'=a", "b", "'=a"]


@pytest.mark.parametrize("text", PLAIN)
def test_other_cells_stay_as_they_are(text: str) -> None:
    table = pd.DataFrame({"name": [text, "b"], "x": [1, -2], "y": [-0.5, float("nan")]})
    assert csv_text(table) == table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    assert original_text(text) == text


def test_every_text_is_read_back_as_it_was() -> None:
    alphabet = "'=+-@\t\r\n1a ."
    texts = [
        "".join(each) for size in range(4) for each in itertools.product(alphabet, repeat=size)
    ]
    _, *rows = cells(csv_text(pd.DataFrame({"a": texts, "b": "x"})))
    assert len(rows) == len(texts) == 1 + 12 + 12**2 + 12**3
    for (cell, _), text in zip(rows, texts, strict=True):
        assert original_text(cell) == text
        number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text.strip())
        assert number or not cell or cell[0] not in "=+-@\t\r\n"


def test_what_follows_a_line_end_within_a_cell_begins_no_row() -> None:
    table = pd.DataFrame({"a": ["b\r=1", "c\n=1", "d\r\n=1"], "x": [0.5, -1, 2]})
    assert [row[0] for row in cells(csv_text(table))] == ["a", "b\r=1", "c\n=1", "d\r\n=1"]
    assert [row[1] for row in cells(csv_text(table))] == ["x", "0.500000", "-1.000000", "2.000000"]


@pytest.mark.parametrize("kind", ["frontier", "export"])
def test_every_table_of_a_report_is_written_so(kind: str, tmp_path: Path) -> None:
    study = FakeStudy(keeps=(0.5,), seeds=(0,), quotas=("none",), class_names=("=1+1", "b"))
    records = load_records(study.write(tmp_path))
    table = frontier_table(records.trials, records.class_names)
    named = table.assign(dataset="=1+1", model="@x")
    text = csv_text(wide_table(named) if kind == "export" else named)
    assert not re.search(r"(^|,)[=@]", text, re.MULTILINE)


def test_recalls_of_classes_that_are_called_so_are_read(tmp_path: Path) -> None:
    names = ["=1+1", "-x", "'=y", "cat", "-1"]
    table = pd.DataFrame({"class": names, "recall": [0.1, 0.2, 0.3, 0.4, 0.5]})
    found = recalls(tmp_path, csv_text(table), "|".join(names))
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5]
    written = "class,recall\n=1+1,0.1\n-x,0.2\n''=y,0.3\ncat,0.4\n-1,0.5\n"
    assert recalls(tmp_path, written, "|".join(names)) == found
