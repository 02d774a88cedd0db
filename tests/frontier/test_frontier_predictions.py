"""Predictions from elsewhere give the numbers that a study of the same predictions gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import SMALL, FakeStudy

from raydrop.errors import ConfigError, DataError, RaydropError, StoreError
from raydrop.frontier import load_records
from raydrop.frontier.figures import catalogue
from raydrop.frontier.predictions import from_predictions
from raydrop.frontier.records import read_study
from raydrop.frontier.results import Results

CLASSES = ("ant", "bee", "cat", "dog")
"""In the order of their texts, as those of a table are."""
PLAIN = FakeStudy(class_names=CLASSES)
GROUPS = FakeStudy(class_names=CLASSES, attributes=("day", "night"), by="group")
UNKNOWN_ELSEWHERE = {"n_kept", "worst_class_on_validation", "worst_group_on_validation"}
NAMED_OTHERWISE = {"dataset", "model", "query_model", "budget"}


def exported(study: FakeStudy) -> pd.DataFrame:
    """Every prediction of a fake study, a row each, as another program would write them."""
    names, frames = np.array(study.class_names), []
    for trial in study.trials():
        frame = pd.DataFrame(
            {
                "method": trial.method,
                "quotas": trial.quotas,
                "loss": trial.loss,
                "keep_fraction": trial.keep_fraction,
                "seed": trial.seed,
                "id": [f"test/{place:05}.png" for place in range(len(study.labels()))],
                "label": names[study.labels()],
                "prediction": names[study.predictions(trial)],
            }
        )
        if study.attributes:
            frame["group"] = np.array(study.group_names())[study.groups()]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def few(**changes: object) -> pd.DataFrame:
    """Two trials of four samples, with some cells or columns changed."""
    frame = pd.DataFrame(
        {
            "method": ["a"] * 4 + ["b"] * 4,
            "keep_fraction": 0.5,
            "seed": 0,
            "id": [*"wxyz"] * 2,
            "label": ["cat", "cat", "dog", "dog"] * 2,
            "prediction": ["cat", "dog", "dog", "dog", "cat", "cat", "cat", "dog"],
        }
    )
    return frame.assign(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("study", [PLAIN, GROUPS], ids=["classes", "groups"])
def test_numbers_are_those_of_a_study_of_the_same_predictions(
    study: FakeStudy, tmp_path: Path
) -> None:
    ours = Results(study.write(tmp_path / "study"))
    table = exported(study).sample(frac=1, random_state=3)
    theirs = from_predictions(table)
    assert ours.frontier.columns.equals(theirs.frontier.columns)
    for name in {*ours.frontier} - UNKNOWN_ELSEWHERE - NAMED_OTHERWISE:
        expected, found = ours.frontier[name], theirs.frontier[name]
        if name == "front_probability":  # drawn from another seed
            assert np.abs(expected - found).max() < 0.12
        elif name == "front_status":
            continue
        elif expected.dtype.kind == "f":
            np.testing.assert_array_equal(expected, found, err_msg=name)
        else:
            assert expected.tolist() == found.tolist(), name
    assert theirs.frontier[[*UNKNOWN_ELSEWHERE & {*theirs.frontier}]].isna().all(axis=None)
    ours_compared = ours.comparisons.drop(columns=["model", "query_model"])
    pd.testing.assert_frame_equal(
        ours_compared, theirs.comparisons.drop(columns=["model", "query_model"])
    )
    assert theirs.trials["by"].eq(study.by).all() if study.attributes else True


def test_no_order_of_rows_matters() -> None:
    table = exported(PLAIN)
    first = from_predictions(table)
    again = from_predictions(table.sample(frac=1, random_state=0))
    assert read_study(first.place)["study_id"] == read_study(again.place)["study_id"]
    changed = table.copy()
    right = changed["prediction"] == changed["label"]
    changed.loc[right.idxmax(), "prediction"] = "zebra"
    other = from_predictions(changed)
    assert read_study(first.place)["study_id"] != read_study(other.place)["study_id"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_without_a_method_are_called_by_their_names(kind: str, tmp_path: Path) -> None:
    table = exported(PLAIN)
    paths = []
    for method, rows in table.groupby("method"):
        path, rows = tmp_path / f"{method}.{kind}", rows.drop(columns="method")
        paths.append(path)
        if kind == "csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_parquet(path)
    found = from_predictions(paths)
    pd.testing.assert_frame_equal(found.frontier, from_predictions(table).frontier)


def test_labels_may_be_numbers_or_texts_in_any_file(tmp_path: Path) -> None:
    """ "01" stays a text, and 10 comes after 9, though not as a text."""
    numbers = few(label=[9, 9, 10, 10] * 2, prediction=[9, 10, 10, 10, 9, 9, 9, 10])
    path = tmp_path / "numbers.csv"
    numbers.to_csv(path, index=False)
    for found in (from_predictions(numbers), from_predictions(path)):
        assert load_records(found.place).class_names == ("9", "10")
        assert found.trials["average_accuracy"].tolist() == [0.75, 0.75]
    mixed = numbers.astype({"label": str, "prediction": float})
    assert from_predictions(mixed).trials["average_accuracy"].tolist() == [0.75, 0.75]
    path.write_text(
        "method,keep_fraction,seed,id,label,prediction\na,0.5,0,1,01,01\na,0.5,0,2,None,01\n"
    )
    found = from_predictions(path)
    assert load_records(found.place).class_names == ("01", "None")
    assert found.trials["by_class"].tolist() == [[1.0, 0.0]]


def test_a_prediction_of_no_test_class_is_a_mistake() -> None:
    table = few()
    table.loc[0, "prediction"] = "zebra"
    found = from_predictions(table).trials
    assert found["average_accuracy"].tolist() == [0.5, 0.75]


def test_validation_says_which_class_is_worst_there() -> None:
    test = few(split="test")
    held_out = few(split="val", id=[*"abcd"] * 2)
    held_out["prediction"] = ["dog", "dog", "dog", "dog", "cat", "cat", "cat", "dog"]
    found = from_predictions(pd.concat([held_out, test]))
    # On validation, cats are worst by a (test recall 0.5) and dogs by b (0.5).
    assert found.frontier["worst_class_on_validation"].tolist() == [0.5, 0.5]
    assert found.trials["validation_by_class"].tolist() == [[0, 2], [2, 1]]
    assert found.trials["validation_sizes_by_class"].tolist() == [[2, 2], [2, 2]]
    assert load_records(found.place).provenance["n_validation"] == 4


def _without(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(columns=column)


def _with(cells: dict[str, object], row: int = 4) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        for column, value in cells.items():
            table.loc[row, column] = value
        return table

    return change


WRONG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no rows": (lambda table: table[:0], "found a table without rows"),
    "no method": (_without("method"), "found no method; write a row"),
    "no labels": (_without("label"), "found no label"),
    "odd name": (
        lambda table: table.rename(columns={"prediction": "predictions"}),
        r"found no prediction \(did you mean prediction\?\)",
    ),
    "near an optional name": (
        lambda table: table.assign(quota="drop"),
        r"found 'quota' \(did you mean quotas\?\)",
    ),
    "empty cell": (
        _with({"label": None}),
        "Expected label in every row of .*, found none in row 5",
    ),
    "keep fraction": (_with({"keep_fraction": 1.5}), r"in \(0, 1\] in .*, found '1.5' in row 5"),
    "seed": (_with({"seed": "one"}), "a whole number from 0 on in .*, found 'one' in row 5"),
    "negative seed": (_with({"seed": -1}), "found '-1' in row 5"),
    "split": (lambda table: table.assign(split="dev"), "test or validation for split, found dev"),
    "no test": (lambda table: table.assign(split="val"), "Expected test rows, found none for a"),
    "missing id": (
        lambda table: table.drop(index=5),
        "found 1 that only one of two has, such as x, which a .* at 0.5, seed 0 has and b",
    ),
    "other test sets": (
        lambda table: table.assign(id=[*"wxyz", *"mnop"]),
        "found 8 that only one of two has, such as m, which b .* has and a .* lacks; predict one",
    ),
    "repeated id": (_with({"id": "x"}), "one prediction for each test id, found two or more for x"),
    "one class": (lambda table: table.assign(label="cat"), "two labels in test, found cat alone"),
    "other label": (_with({"label": "dog"}), "one label of each sample, found cat and dog for w"),
    "other group": (
        lambda table: table.assign(group=["day"] * 7 + ["night"]),
        "one group of each sample, found day and night for z in test",
    ),
    "other words": (
        lambda table: table.assign(prediction=["0", "1"] * 4),
        r"Expected predictions among the labels \(cat, dog\), found 0 and no label at all by a",
    ),
    "a split for some": (
        lambda table: pd.concat([few(split="val")[:4], table.assign(split="test")]),
        "the splits test and validation of every trial, found test of b",
    ),
    "a class of validation alone": (
        lambda table: pd.concat([few(split="val", label="owl"), table.assign(split="test")]),
        "every class of validation in test too, found owl in validation alone",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_one_sentence(wrong: str) -> None:
    change, sentence = WRONG[wrong]
    with pytest.raises((ConfigError, DataError), match=sentence) as caught:
        from_predictions(change(few()))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_tables_with_and_without_groups_do_not_fit() -> None:
    with pytest.raises(DataError, match="a group in all tables of predictions or in none"):
        from_predictions([few(), few(seed=1, group="day")])


@pytest.mark.parametrize("name", ["absent.csv", "odd.parquet", "odd.csv", "folder.csv"])
def test_what_is_no_table_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "odd.parquet").write_bytes(b"PAR1")
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=f"Expected predictions at .*{name}, found "):
        from_predictions(tmp_path / name)


def test_results_can_be_kept_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FIGURES", {})
    here = tmp_path / "elsewhere"
    found = from_predictions(few(), name="mine")
    gone = found.place.folder
    kept = found.write(here)
    del found
    assert not gone.exists()
    page = (here / "report.html").read_text()
    assert "mine" in page
    assert not re.search(r"\b0 (train|validation)\b", page)
    assert not re.search(r"<dt>(query runs|scores)</dt>|\b0\.0 seconds", page)
    pd.testing.assert_frame_equal(
        pd.read_csv(here / "frontier.csv")[["method"]], kept.frontier[["method"]]
    )
    more = from_predictions([few(), few(seed=1)], name="mine").write(here)
    assert len(more.trials) == 4
    with pytest.raises(StoreError, match="found its predictions alone; ask a folder that"):
        more.kept(method="a", seed=0)
    SMALL.write(tmp_path / "study")
    study = tmp_path / "study" / "study.json"
    study.write_text(study.read_text().replace('"study_id"', '"base": {}, "study_id"'))
    with pytest.raises(RaydropError, match="hold the same results, found those of the study fake"):
        from_predictions(few()).write(tmp_path / "study")
