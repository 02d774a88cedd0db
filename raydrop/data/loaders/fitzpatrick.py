"""Fitzpatrick17k: photos of skin conditions, trained on some skin types and tested on all.

Images are photos of many sizes, so models see 3x224x224; see :mod:`raydrop.data.loaders.folder` for
how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset, Indices
from raydrop.data.groups import crossed
from raydrop.data.loaders.folder import dataset_of_files, resolve_folder
from raydrop.data.loaders.metadata import Table, numbered, read_columns, table_path
from raydrop.data.variants.sampling import shuffled_members
from raydrop.errors import DataError, unknown_name

SKIN_TYPES = ("1-2", "3-4", "5-6")
"""Groups of Fitzpatrick's six skin types, from light to dark."""
EVERY = "all"
"""Where all types are trained on."""
SPLIT_SEED = 0
"""Seed of the split."""

_CODES = {str(kind): (kind - 1) // 2 for kind in range(1, 7)}
_UNKNOWN = "-1"


@dataclass(frozen=True)
class Options:
    """Where the table and the images are, and what is made of them."""

    file: str = "fitzpatrick17k.csv"
    """The table, relative to the data set's folder."""
    folder: str = "images"
    """Folder of the images, relative to the data set's folder."""
    image: str = "md5hash"
    """Column of the images' names without ``.jpg``."""
    label: str = "three_partition_label"
    """Column of labels: ``three_partition_label``, ``nine_partition_label`` or ``label``."""
    skin: str = "fitzpatrick_scale"
    """Column of skin types, 1 to 6, or -1 where it is unknown."""
    train: str = SKIN_TYPES[0]
    """Skin types that are trained on: one of :data:`SKIN_TYPES`, or :data:`EVERY`."""
    missing: str = "refuse"
    """``skip`` leaves out the rows whose image could not be downloaded."""


def load_fitzpatrick(path: str, data_root: str | None, options: Options, name: str) -> ImageDataset:
    """Return Fitzpatrick17k (Groh et al. 2021, arXiv 2104.09957) with skin types as groups, G = 3.

    Of each class and of the skin types that are trained on, a tenth is validation, a tenth is test
    and the rest is training; of the other types, a tenth is validation and the rest is test. So
    every group can be judged, and those on which Meyer and Wong 2022 (arXiv 2211.10285) test, who
    train on types 1 and 2, lose a tenth. Rows of unknown skin type are left out. An id is the
    position among the rows that remain, from 0.

    Args:
        path: Folder with the authors' ``fitzpatrick17k.csv`` and the images as
            ``images/MD5HASH.jpg``, which have to be downloaded from the addresses in that table.
        data_root: Where a relative path starts; the current folder by default.
        options: Where the table and images are, which labels, and what is trained on.
        name: Canonical specification.

    Raises:
        ConfigError: If there are no such skin types to train on.
        DataError: If the table, a column or an image is absent, a skin type is none of -1 and 1 to
            6, or a class has too few images of a skin type.
    """
    if options.train not in (*SKIN_TYPES, EVERY):
        raise unknown_name("choice of skin types", options.train, (*SKIN_TYPES, EVERY))
    root = resolve_folder(path, data_root)
    table, remarks = _read(root, options).with_images(root, options.missing, outside=False)
    labels, class_names = table.codes("label")
    types = table.known_codes("skin", _CODES)
    missing = ~np.isin(np.arange(len(SKIN_TYPES)), types)
    if missing.any():
        raise DataError(
            f"Expected skin types {SKIN_TYPES[int(missing.argmax())]} in {table.path}, found none; "
            "add them."
        )
    seen = [options.train in (kind, EVERY) for kind in SKIN_TYPES]
    names = tuple(f"skin types {kind}" for kind in SKIN_TYPES)
    return dataset_of_files(
        root,
        table.files(root, labels),
        _parts(labels, class_names, types, seen),
        name=name,
        class_names=class_names,
        groups=types,
        group_names=names,
        unseen_groups=tuple(each for each, known in zip(names, seen, strict=True) if not known),
        hashed_names=(numbered(class_names), names),
        remarks=remarks,
    )


def _read(root: Path, options: Options) -> Table:
    """Return image, label and skin type of every row whose skin type is known."""
    path = table_path(root, options.file)
    wanted = {key: getattr(options, key) for key in ("image", "label", "skin")}
    values = read_columns(path, wanted, "fitzpatrick17k")
    # Some programs write whole numbers as 3.0.
    values["skin"] = values["skin"].str.removesuffix(".0")
    values = values[values["skin"] != _UNKNOWN]
    if values.empty:
        raise DataError(f"Expected rows of known skin type in {path}, found none; add them.")
    return Table(path, values.assign(image=options.folder + "/" + values["image"] + ".jpg"))


def _parts(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    types: NDArray[np.int64],
    seen: list[bool],
) -> list[Indices]:
    """Return ascending positions of train, validation and test."""
    kinds = len(SKIN_TYPES)
    cells = crossed(labels, types, kinds)
    parts: list[list[Indices]] = [[], [], []]
    members = shuffled_members(cells, len(class_names) * kinds, SPLIT_SEED, "fitzpatrick17k")
    for cell, positions in enumerate(members):
        label, kind = divmod(cell, kinds)
        tenth = max(1, round(len(positions) / 10))
        least = 3 if seen[kind] else 2
        if 0 < len(positions) < least:
            raise DataError(
                f"Expected {least} images or more of class {class_names[label]!r} and skin types "
                f"{SKIN_TYPES[kind]}, found {len(positions)}; add images, or choose labels with "
                "fewer classes."
            )
        ends = [tenth, 2 * tenth if seen[kind] else len(positions)]
        validation, test, train = np.split(positions, ends)
        for part, chosen in zip(parts, (train, validation, test), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]
