"""Fitzpatrick17k: photos of skin conditions, trained on some skin types and tested on all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import LabelledDataset, crossed
from raydrop.data.loaders.files import dataset_of_files, one_of, resolve_folder
from raydrop.data.loaders.tables import Table, numbered, read_table
from raydrop.data.sampling import SPLIT_SEED, shuffled_members
from raydrop.errors import DataError

SKIN_TYPES = ("1-2", "3-4", "5-6")
"""Groups of Fitzpatrick's six skin types, from light to dark."""
EVERY = "all"
"""Where all types are trained on."""

_UNKNOWN = "-1"


def load_fitzpatrick(
    path: str | None,
    data_root: str | None,
    name: str,
    *,
    file: str = "fitzpatrick17k.csv",
    folder: str = "images",
    image: str = "md5hash",
    label: str = "three_partition_label",
    skin: str = "fitzpatrick_scale",
    train: str = SKIN_TYPES[0],
    missing: str = "refuse",
) -> LabelledDataset:
    """Return Fitzpatrick17k (Groh et al. 2021, arXiv 2104.09957) with skin types as groups, G = 3.

    Of each class and of the skin types that are trained on, a tenth is validation, a tenth is test
    and the rest is training; of the other types, a tenth is validation and the rest is test. So
    every group can be judged, and those on which Meyer and Wong 2022 (arXiv 2211.10285) test, who
    train on types 1 and 2, lose a tenth. Rows of unknown skin type are left out. An id is the
    position among the rows that remain, from 0. The folder has the authors' table and the images,
    which have to be downloaded from the addresses in that table.

    Options:
        file: The table, relative to the folder.
        folder: Folder of the images, ``MD5HASH.jpg``, relative to it.
        image: Column of the images' names without ``.jpg``.
        label: Column of labels: ``three_partition_label``, ``nine_partition_label`` or ``label``.
        skin: Column of skin types, 1 to 6, or -1 where it is unknown.
        train: Skin types that are trained on: one of :data:`SKIN_TYPES`, or :data:`EVERY`.
        missing: ``skip`` leaves out the rows whose image could not be downloaded.

    Raises:
        ConfigError: If there are no such skin types to train on.
        DataError: If the table, a column or an image is absent, a skin type is none of -1 and 1 to
            6, or a class has too few images of a skin type.
    """
    one_of("choice of skin types", train, (*SKIN_TYPES, EVERY))
    root = resolve_folder(path, data_root)
    wanted = {"image": image, "label": label, "skin": skin}
    table = _known(read_table(root, file, wanted, "fitzpatrick17k"), folder)
    table, remarks = table.with_images(root, missing, outside=False)
    labels, class_names = table.codes("label")
    types = table.known_codes("skin", {str(kind): (kind - 1) // 2 for kind in range(1, 7)})
    missing_types = ~np.isin(np.arange(len(SKIN_TYPES)), types)
    if missing_types.any():
        raise DataError(
            f"Expected skin types {SKIN_TYPES[int(missing_types.argmax())]} in {table.path}, found "
            "none; add them."
        )
    seen = [train in (kind, EVERY) for kind in SKIN_TYPES]
    names = tuple(f"skin types {kind}" for kind in SKIN_TYPES)
    return dataset_of_files(
        root,
        table.files(root),
        labels,
        _splits(labels, class_names, types, seen),
        name=name,
        groups=types,
        hashed_names=(numbered(class_names), names),
        class_names=class_names,
        group_names=names,
        unseen_groups=tuple(each for each, known in zip(names, seen, strict=True) if not known),
        remarks=remarks,
    )


def _known(table: Table, folder: str) -> Table:
    """Return the rows whose skin type is known, with images as paths."""
    values = table.values
    # Some programs write whole numbers as 3.0.
    values["skin"] = values["skin"].str.removesuffix(".0")
    values = values[values["skin"] != _UNKNOWN]
    if values.empty:
        raise DataError(f"Expected rows of known skin type in {table.path}, found none; add them.")
    return Table(table.path, values.assign(image=folder + "/" + values["image"] + ".jpg"))


def _splits(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    types: NDArray[np.int64],
    seen: list[bool],
) -> NDArray[np.int64]:
    """Return 0 for each image of train, 1 for one of validation and 2 for one of test, (n,)."""
    kinds = len(SKIN_TYPES)
    splits = np.zeros(len(labels), np.int64)
    cells = crossed(labels, types, kinds)
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
        splits[positions[:tenth]] = 1
        splits[positions[tenth : 2 * tenth if seen[kind] else None]] = 2
    return splits
