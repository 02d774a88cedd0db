"""CelebA: photos of faces with 40 attributes, one of which is the target and another the group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.dataset import LabelledDataset, crossed
from raydrop.data.loaders.downloads import DEFAULT_ROOT, download
from raydrop.data.loaders.files import dataset_of_files, resolve_folder
from raydrop.data.loaders.tables import Table, reading
from raydrop.errors import ConfigError, DataError, unknown_name, visible
from raydrop.store.places import data_folder

IMAGES = "img_align_celeba"
"""Folder of the aligned and cropped images; Kaggle's has another of that name in it."""
ATTRIBUTES = "list_attr_celeba.txt"
"""Table of attributes: how many images, names, then a row of -1 and 1 per image. Kaggle's ends in
``.csv`` and begins with the names."""
PARTITION = "list_eval_partition.txt"
"""Table of official splits: image and 0, 1 or 2. Kaggle's ends in ``.csv`` and has a header."""


def load_celeba(
    path: str | None,
    data_root: str | None,
    name: str,
    *,
    target: str = "Blond_Hair",
    group: str = "Male",
) -> LabelledDataset:
    """Return CelebA (Liu et al. 2015, arXiv 1411.7766) with groups target times attribute, G = 4.

    The default, Blond_Hair with group Male, is that of Sagawa et al. 2020 (arXiv 1911.08731), where
    blond men are the small group. The splits are the official ones. An id is the position in
    list_attr_celeba.txt, from 0.

    The folder has ``img_align_celeba/``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``,
    or as Kaggle has them, with ``.csv``. Without a path it is torchvision's: ``celeba`` in the data
    root, where torchvision downloads it, if those are absent, and checks its MD5 sums.

    Options:
        target: Attribute that is the label.
        group: Attribute that makes the groups with the label.

    Raises:
        ConfigError: If an attribute is unknown or both are the same.
        DataError: If files are absent and cannot be downloaded, or do not fit together.
    """
    if path is not None:
        folder = resolve_folder(path, data_root)
    else:
        folder = data_folder("celeba", data_root or DEFAULT_ROOT).absolute()
        if not all((folder / name).exists() for name in (IMAGES, ATTRIBUTES, PARTITION)):
            download("celeba", "CelebA", folder.parent, split="all")
    attributes = folder / ATTRIBUTES
    kaggle = not attributes.exists() and attributes.with_suffix(".csv").exists()
    header = 1 if kaggle else 2
    table = _read(folder, ATTRIBUTES, header, kaggle)
    labels, signs = _signs(table, target), _signs(table, group)
    if target == group:
        raise ConfigError(
            f"Expected two attributes for target and group of celeba, found {target} for both; "
            "choose another group."
        )
    inner = f"{IMAGES}/{IMAGES}" if (folder / IMAGES / IMAGES).is_dir() else IMAGES
    rows = pd.RangeIndex(header + 1, header + 1 + len(table))
    images = pd.DataFrame({"image": [f"{inner}/{image}" for image in table.index]}, rows)
    splits = _splits(folder, table.index, kaggle)
    class_names, values = ((f"not {text}", text) for text in (target, group))
    return dataset_of_files(
        folder,
        Table(Path(ATTRIBUTES), images).files(folder),
        labels,
        splits,
        name=name,
        groups=crossed(labels, signs, 2),
        turned=False,
        class_names=class_names,
        group_names=tuple(f"{label}, {value}" for label in class_names for value in values),
    )


def _read(folder: Path, name: str, header: int, kaggle: bool) -> pd.DataFrame:
    """Return a table of numbers with the image names as its index, after some lines of header."""
    path = (folder / name).with_suffix(".csv" if kaggle else ".txt")
    remedy = "give the folder that holds it, or let torchvision download it anew"
    with reading(path, "CelebA's table", remedy) as file:
        table = pd.read_csv(
            file,
            sep="," if kaggle else r"\s+",
            skiprows=max(header - 1, 0),
            header=0 if header else None,
            index_col=0,
            dtype=str,
        )
        return table.astype(np.int64).rename(index=str)


def _signs(table: pd.DataFrame, attribute: str) -> NDArray[np.int64]:
    """Return 1 where an attribute is present and 0 where it is not, (n,)."""
    if attribute not in table:
        raise unknown_name("attribute of celeba", attribute, map(str, table.columns))
    values = table[attribute].to_numpy()
    wrong = values[~np.isin(values, (-1, 1))]
    if len(wrong):
        raise DataError(
            f"Expected -1 or 1 for {attribute} in {ATTRIBUTES}, found {wrong[0]}; copy the "
            "official file."
        )
    return (values > 0).astype(np.int64)


def _splits(folder: Path, images: pd.Index[str], kaggle: bool) -> NDArray[np.int64]:
    table = _read(folder, PARTITION, int(kaggle), kaggle)
    if table.shape[1] != 1 or not table.index.is_unique:
        raise DataError(
            f"Expected one split per image in CelebA's partition in {visible(folder)}, found "
            "other columns or images that occur twice; copy the official file."
        )
    splits = table.iloc[:, 0].reindex(images, fill_value=-1)
    wrong = ~splits.isin([0, 1, 2])
    if wrong.any():
        raise DataError(
            f"Expected a split 0, 1 or 2 of {visible(images[wrong.to_numpy()][0])} in CelebA's "
            f"partition in {visible(folder)}, found none; copy the official file."
        )
    return splits.to_numpy(np.int64)
