"""Scores and selections as values: what goes in as people have it, and what comes out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import raydrop as rd
from raydrop.errors import ConfigError
from raydrop.selection import balanced_quotas, drop_quotas, select, smooth_recalls
from raydrop.store.tables import Units

RNG = np.random.default_rng(0)
N = 300
VALUES = RNG.random(N)
LABELS = RNG.choice(3, N, p=[0.6, 0.3, 0.1])
NAMES = np.array(["cat", "dog", "owl"])
GROUPS = RNG.choice(["street", "forest"], N)


def _scores(**changes: Any) -> rd.Scores:
    units = {"class": Units(NAMES.tolist(), [0.9, 0.8, 0.5], [10, 20, 5])}
    given = {"labels": LABELS, "ids": np.arange(N) * 7, "units": units, **changes}
    return rd.Scores(**{"values": VALUES, "method": "el2n", "higher_is_kept": True, **given})


@pytest.mark.parametrize("higher_is_kept", [True, False])
@pytest.mark.parametrize(
    "labels", [LABELS, NAMES[LABELS], NAMES[LABELS].tolist(), torch.from_numpy(LABELS)]
)
def test_prune_is_quotas_and_then_selection(labels: Any, higher_is_kept: bool) -> None:
    recalls = {"cat": 0.9, "dog": 0.8, "owl": 0.5}
    named = not isinstance(labels, torch.Tensor) and labels is not LABELS
    kept = rd.prune(
        VALUES,
        labels,
        keep_fraction=0.3,
        quotas="drop",
        recalls=recalls if named else list(recalls.values()),
        higher_is_kept=higher_is_kept,
        seed=3,
    )
    quotas = drop_quotas(np.bincount(LABELS), [0.9, 0.8, 0.5], 90)
    expected = select(VALUES, LABELS, 90, quotas, higher_is_kept=higher_is_kept, tie_seed=3)
    assert kept.indices.tolist() == expected.tolist()
    assert [*kept.counts] == (["cat", "dog", "owl"] if named else [0, 1, 2])
    assert [*kept.counts.values()] == quotas.tolist() == np.bincount(LABELS[expected]).tolist()


def test_scores_bring_their_labels_recalls_and_direction() -> None:
    kept = rd.prune(_scores(higher_is_kept=False), keep_fraction=0.5, quotas="drop", seed=1)
    quotas = drop_quotas(np.bincount(LABELS), [0.9, 0.8, 0.5], 150)
    expected = select(VALUES, LABELS, 150, quotas, higher_is_kept=False, tie_seed=1)
    assert kept.indices.tolist() == expected.tolist()
    assert {**kept.counts} == dict(zip(NAMES, quotas.tolist(), strict=True))
    # What is given goes before what is known.
    other = rd.prune(_scores(), LABELS[::-1], keep_fraction=0.5, quotas="balanced")
    assert [*other.counts.values()] == balanced_quotas(np.bincount(LABELS), 150).tolist()
    assert not np.array_equal(other.indices, rd.prune(
        _scores(), keep_fraction=0.5, quotas="balanced"
    ).indices)  # fmt: skip


def test_recalls_are_smoothed_by_the_sizes_they_come_from() -> None:
    known = rd.prune(_scores(), keep_fraction=0.3, quotas="drop", recall_smoothing=1)
    smoothed = smooth_recalls([0.9, 0.8, 0.5], [10, 20, 5], 1)
    assert [*known.counts.values()] == drop_quotas(np.bincount(LABELS), smoothed, 90).tolist()
    given = {"recalls": [1.0, 0.5, 0.0], "recall_sizes": [4, 4, 4], "recall_smoothing": 2}
    kept = rd.prune(_scores(), keep_fraction=0.3, quotas="drop", **given)
    smoothed = smooth_recalls([1.0, 0.5, 0.0], [4, 4, 4], 2)
    assert [*kept.counts.values()] == drop_quotas(np.bincount(LABELS), smoothed, 90).tolist()


def test_recalls_by_name_may_be_a_series_in_any_order() -> None:
    series = pd.Series({"owl": 0.5, "cat": 0.9, "dog": 0.8})
    kept = rd.prune(_scores(), keep_fraction=0.3, quotas="drop", recalls=series)
    assert kept.counts == rd.prune(_scores(), keep_fraction=0.3, quotas="drop").counts


def test_quotas_by_group() -> None:
    kept = rd.prune(_scores(), groups=GROUPS, keep_fraction=0.2, quotas="balanced")
    assert kept.counts == {"forest": 30, "street": 30}
    frame = kept.to_frame()
    assert frame["group_name"].tolist() == GROUPS[kept.indices].tolist()
    assert frame["class_name"].tolist() == NAMES[LABELS[kept.indices]].tolist()
    both = _scores(groups=GROUPS)
    for by, expected in {"group": [*kept.counts], "class": NAMES.tolist()}.items():
        assert [*rd.prune(both, keep_fraction=0.2, quotas="balanced", by=by).counts] == expected


def test_a_class_without_samples_has_a_recall_too() -> None:
    kept = rd.prune(
        VALUES, LABELS, keep_fraction=0.3, quotas="drop", recalls=[0.9, 0.8, 0.5, 0.1],
        higher_is_kept=True,
    )  # fmt: skip
    assert kept.counts[3] == 0
    assert sum(kept.counts.values()) == 90


def test_counts_of_another_method() -> None:
    other = rd.Scores(-VALUES - 5.0 * (LABELS == 0), "grand", True, labels=LABELS)
    kept = rd.prune(
        _scores(), keep_fraction=0.2, quotas="from_method:grand", quota_scores=other
    )  # fmt: skip
    best = np.argsort(VALUES + 5.0 * (LABELS == 0))[:60]
    assert [*kept.counts.values()] == np.bincount(LABELS[best], minlength=3).tolist()


def test_no_labels_are_needed_without_quotas() -> None:
    kept = rd.prune(VALUES, keep_fraction=0.1, higher_is_kept=False)
    assert kept.indices.tolist() == np.sort(np.argsort(VALUES)[:30]).tolist()
    assert kept.counts == {"all": 30}
    assert [*kept.to_frame()] == ["index", "sample_id", "score"]


def test_a_selection_goes_back_into_data(tmp_path: Path) -> None:
    kept = rd.prune(_scores(), keep_fraction=0.1)
    data = torch.utils.data.TensorDataset(torch.arange(N))
    assert [int(x) for (x,) in kept.subset(data)] == kept.indices.tolist()
    frame = kept.to_frame()
    assert frame["index"].tolist() == kept.indices.tolist()
    assert frame["sample_id"].tolist() == (7 * kept.indices).tolist()
    assert frame["score"].tolist() == VALUES[kept.indices].tolist()
    kept.to_csv(tmp_path / "kept.csv")
    read = pd.read_csv(tmp_path / "kept.csv")
    assert [*read] == ["sample_id", "label", "class_name", "score"]
    assert read["sample_id"].tolist() == frame["sample_id"].tolist()
    assert read["class_name"].tolist() == NAMES[LABELS[kept.indices]].tolist()
    with pytest.raises(ConfigError, match="of 300 samples that the scores are of, found one of 7"):
        kept.subset(range(7))


def test_a_selection_of_a_hugging_face_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    kept = rd.prune(_scores(), keep_fraction=0.1)
    chosen = kept.select(datasets.Dataset.from_dict({"row": list(range(N))}))
    assert chosen["row"] == kept.indices.tolist()


@pytest.mark.parametrize("recalls", [[0.9, 0.8, 0.5], [None, None, None]])
def test_scores_go_through_their_file(tmp_path: Path, recalls: list[float | None]) -> None:
    units = {"class": Units(NAMES.tolist(), recalls, [10, 20, 5])}
    facts = {"dataset": "zoo", "model": "small_cnn", "seed": 5}
    scores = _scores(units=units, groups=GROUPS, **facts)
    scores.save(tmp_path / "scores.parquet")
    read = rd.Scores.load(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(read.to_frame(), scores.to_frame())
    assert read.facts == scores.facts
    assert {name: getattr(read, name) for name in facts} == facts
    assert read.higher_is_kept
    assert read.names("group") == ["forest", "street"]


def test_scores_without_recalls_refuse_rules_that_need_them(tmp_path: Path) -> None:
    rd.Scores(VALUES, "el2n", True, labels=NAMES[LABELS]).save(tmp_path / "scores.parquet")
    read = rd.Scores.load(tmp_path / "scores.parquet")
    assert rd.prune(read, keep_fraction=0.3, quotas="balanced").counts["owl"] > 0
    with pytest.raises(ConfigError, match="validation recall for each of 3 classes, found none"):
        rd.prune(read, keep_fraction=0.3, quotas="drop")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rd.prune(VALUES, LABELS, keep_fraction=0.3), "say higher_is_kept=True where"),
        (lambda: _prune(keep_fraction=1.3), r"keep_fraction in \(0, 1\], found 1.3"),
        (lambda: _prune(quotas="dropp"), "did you mean drop"),
        (lambda: _prune(LABELS[:9]), "one label for each of 300 scores, found an array of shape"),
        (lambda: _prune(groups=GROUPS[:9]), "one group for each of 300 scores"),
        (lambda: _prune(quotas="drop", recalls={"cat": 1, "dog": 1}), "found none for 'owl'"),
        (
            lambda: _prune(quotas="drop", recalls={"cat": 1, "dog": 1, "owl": 1, "eel": 1}),
            "found one for 'eel', which no sample has",
        ),
        (lambda: _prune(quotas="drop", recalls=[0.5, 0.5]), "for each of 3 classes, found shape"),
        (lambda: _prune(quotas="drop", recalls=[0.5, 1.5, 1]), r"in \[0, 1\], found 1.5"),
        (lambda: _prune(recalls=[1, 1, 1], recall_smoothing=1), "Expected recall_sizes"),
        (
            lambda: rd.prune(
                _scores(units={"class": Units(NAMES.tolist(), [0.9, 0.8, 0.5], [0, 0, 0])}),
                keep_fraction=0.3,
                quotas="drop",
                recall_smoothing=1,
            ),
            "Expected recall_sizes",
        ),
        (lambda: _prune(by="group"), "Expected a group for every sample"),
        (lambda: _prune(by="groups"), "did you mean group"),
        (lambda: _prune(quotas="from_method:grand"), "found those of 'el2n'"),
        (
            lambda: _prune(
                quotas="from_method:el2n",
                quota_scores=rd.Scores(VALUES, "el2n", True, labels=LABELS[::-1]),
            ),
            "Expected scores of the same samples",
        ),
        (
            lambda: rd.prune(VALUES, keep_fraction=0.3, quotas="balanced", higher_is_kept=True),
            "Expected a class for every sample",
        ),
        (lambda: rd.Scores([1.0, np.nan], "el2n", True), "found NaN for 1 of 2"),
        (lambda: rd.Scores(VALUES, "el2n", True, ids=[1]), "an id for each of 300"),
        (lambda: _scores(labels=LABELS + 1), "labels from 0 to 2, one for each name, found 3"),
        (lambda: rd.Scores(VALUES, "el2n", True).save("x.parquet"), "Expected labels"),
    ],
)
def test_bad_input_is_one_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def _prune(*args: Any, **changes: Any) -> rd.Selection:
    return rd.prune(_scores(), *args, **{"keep_fraction": 0.3, **changes})


def test_pruning_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, raydrop as rd\n"
        "kept = rd.prune([.1, .2], ['a', 'b'], keep_fraction=.5, higher_is_kept=True)\n"
        "print(kept.indices.tolist(), sorted({'torch', 'ray', 'datasets'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[1] []", result.stderr


def test_fields_can_be_replaced() -> None:
    replaced = dataclasses.replace(_scores(), higher_is_kept=False)
    assert not replaced.higher_is_kept
    assert replaced.names("class") == NAMES.tolist()
