"""What the plan of a run says of its data, in a line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from raydrop.cluster.briefing import Briefing
from raydrop.cluster.driver import Options, run_study
from raydrop.data import check as module
from raydrop.data import load_dataset
from raydrop.data.batches import prepare
from raydrop.data.check import FEW, glance
from raydrop.plan import Plan
from raydrop.store import Store
from raydrop.store.terminal import Console
from raydrop.study import Study, Training


def plan_of(spec: str, tmp_path: Path, quotas: str = "none") -> list[str]:
    study = Study(
        name="look",
        dataset=spec,
        model="small_cnn",
        param_space={"method": "random", "quotas": quotas, "keep_fraction": 0.5},
        training=Training(epochs=1, batch_size=16),
    )
    console = Console(file=io.StringIO(), width=80)
    run_study(study, Options(out=tmp_path / "out", dry_run=True, num_cpus=1), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_plan_says_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    lines = plan_of("digits+long_tail(10)", tmp_path)
    assert not [line for line in lines if line.split()[0] in ("data", "look")]


def test_a_plan_says_in_a_line_what_was_found(tmp_path: Path) -> None:
    lines = plan_of("digits+subset(8, test=6)", tmp_path)
    (line,) = [line for line in lines if line.startswith("  look ")]
    assert line == (
        "  look        with fewer than 10 validation images: 10 of 10 classes (0: 6 and 9 more); "
        "raydrop check 'digits+subset(8, test=6)' says more"
    )


def test_no_file_is_read_for_a_plan_and_what_is_decoded_anyway_is_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for seed, (split, name, at) in enumerate(
        (split, name, at)
        for split, count in (("train", 2), ("val", FEW), ("test", 3))
        for name in ("cat", "dog")
        for at in range(count)
    ):
        values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        (root / split / name).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(values).save(root / split / name / f"{at}.png")
    PIL.Image.open(root / "train/cat/1.png").save(root / "test/cat/x.bmp")
    dataset = load_dataset(f"imagefolder:{root}")
    data = prepare(dataset)
    monkeypatch.setattr(module, "open_image", None)
    assert glance(dataset, dataset, "class") == []
    study = Study("look", f"imagefolder:{root}", "small_cnn", {"keep_fraction": 0.5})
    console = Console(file=io.StringIO(), width=80)
    store = Store(tmp_path / "store")
    briefing = Briefing(study, Plan((), (), ()), Plan((), (), ()), dataset, store, console)
    briefing.tell_copies(data)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == (
        "  look        in train and test: 1 of 7 test images (train/cat/1.png = test/cat/x.bmp); "
        f"raydrop check imagefolder:{root} says more\n"
    )
