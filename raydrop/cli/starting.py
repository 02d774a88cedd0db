"""``init``: a sweep script to start from, for anybody's data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from raydrop.cli.options import DataRoot, app, on_this_machine
from raydrop.errors import ConfigError, visible
from raydrop.store.files import expecting
from raydrop.store.terminal import console

if TYPE_CHECKING:
    from raydrop.data.dataset import LabelledDataset

SMALL = 32
"""Images of at most this many pixels a side go to the small network."""
MANY = 5000
"""With fewer training samples than this, batches are small."""
FRACTIONS = (0.3, 0.6)
OWN = "mypkg.net:MyNet"
"""Stands for a model that the user has to write."""

_SCRIPT = '''"""Which pruning of {said} keeps the worst {unit} safe?

Look at the plan first, then run it; the same command again does only what is missing:

    raydrop run {script} --dry-run
    raydrop run {script}

{facts}
"""

from ray import tune

from raydrop import Study, Training, sweep_main

study = Study(
    name={name},
    # Data and variants, such as "+long_tail(10)"; `raydrop check` looks at them more closely.
    dataset={dataset},
    # A name of `raydrop methods`, or your own: "mypkg.net:SignNet(width=32)".
    model={model},
    # Every combination is a trial per seed. More of each: `raydrop methods`.
    param_space={{
        "method": tune.grid_search(["random", "el2n"]),
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search({fractions}),
        # "loss": tune.grid_search(["cross_entropy", "focal(2)"]),
    }},
    # Differences between seeds say how sure a result is: take three or more.
    seeds=(0, 1, 2),
    # Whose quotas and worst cases these are: those of a "class" or of a "group".
    by={by},
    # Small classes keep at least this many; add-one smoothing of recalls on validation.
    minimum_per_class={minimum},
    recall_smoothing=1.0,
    training=Training(
        epochs={epochs},
        batch_size={batch_size},
        learning_rate={learning_rate},
        weight_decay=5e-4,
        schedule="cosine",
    ),
)

if __name__ == "__main__":
    sweep_main()  # in a notebook: results = study.run(); results.frontier; results.kept(...)
'''


@app.command(
    epilog="Example: `raydrop init --data photos --out sweep.py`, or any data set of a study, such "
    "as `raydrop init --data 'metadata:photos?label=species'`; then `raydrop run sweep.py`."
)
def init(
    data: Annotated[
        str, Option(help="Data set and variants as in a study, or a folder of images.")
    ] = "digits",
    data_root: DataRoot = None,
    out: Annotated[Path, Option(help="Script to write.", callback=on_this_machine)] = Path(
        "sweep.py"
    ),
) -> None:
    """Write a commented sweep script for your data that runs as it is."""
    from raydrop.data.check import understood

    if out.exists():
        raise ConfigError(
            f"Expected no file at {out} yet, found one; choose another with --out, or remove it."
        )
    if not out.parent.is_dir():
        raise ConfigError(
            f"Expected a folder {out.parent} to write {out.name} into, found none; make it, or "
            "correct --out."
        )
    spec = understood(data, data_root)
    dataset = spec.load(data_root)
    facts = _facts(dataset)
    choices = _choices(dataset)
    name = re.sub(r"\W+", "_", Path(spec.path).stem if spec.path else spec.name) or "sweep"
    with expecting(f"to write {out}", "allow writing there, or choose another file with --out"):
        texts = {"name": name, "dataset": str(spec), "model": choices["model"], "by": choices["by"]}
        text = _SCRIPT.format(
            **choices | {key: json.dumps(each) for key, each in texts.items()},
            script=_quoted(out),
            said=_quoted(spec),
            facts="\n".join(map(_quoted, facts)),
        )
        out.write_text(text, encoding="utf-8")
    for line in (*facts, *dataset.remarks):
        console.print(line)
    if choices["model"] == OWN:
        console.print(f"Write your own model in place of {OWN} first: none of raydrop's fits.")
    root = "" if data_root is None else f" --data-root {data_root}"
    console.print(f"Script: {out}; see its plan with `raydrop run {out} --dry-run{root}`")


def _facts(dataset: LabelledDataset) -> list[str]:
    """Say how much of what there is."""
    counts = ", ".join(f"{len(split):,} for {name}" for name, split in dataset.splits().items())
    sizes = dataset.sizes("class")
    names, groups = dataset.class_names, dataset.group_names
    ends = (
        f"{visible(names[sizes.argmin()])} is the smallest with {sizes.min():,}, "
        f"{visible(names[sizes.argmax()])} the largest with {sizes.max():,}"
    )
    if sizes.min() == sizes.max():
        ends = f"{sizes.min():,} samples of each"
    lines = [f"{dataset.name}: {counts}", f"{len(names)} classes: {ends}"]
    return [*lines, *([f"{len(groups)} groups"] if groups else [])]


def _choices(dataset: LabelledDataset) -> dict[str, Any]:
    """Return what suits the data: a network, how it is trained, and what quotas are about."""
    by = dataset.units()[-1]
    n, shape, spec = len(dataset.train), dataset.image_shape, dataset.input_spec
    fair_share = int(min(FRACTIONS) * n / len(dataset.names(by)))
    facts: dict[str, Any] = {"by": by, "unit": by, "minimum": max(1, min(5, fair_share // 2))}
    facts |= {"fractions": list(FRACTIONS), "epochs": 30, "learning_rate": 0.1}
    facts["batch_size"] = 32 if n < MANY else 128
    if shape is not None:
        return facts | {"model": "small_cnn" if max(shape[1:]) <= SMALL else "resnet18"}
    numbers = len(spec.shapes) == 1 and not (spec.names or spec.is_tuple)
    if numbers and spec.dtypes[0].is_floating_point:
        return facts | {"model": "linear", "learning_rate": 0.01}
    return facts | {"model": OWN, "learning_rate": 0.01}


def _quoted(text: object) -> str:
    """Return a text as it can stand within the script's first lines."""
    return visible(text).replace("\\", "/").replace('"', "'")
