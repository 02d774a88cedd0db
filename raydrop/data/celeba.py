"""CelebA: photos of faces with 40 attributes, one of which is the target and another the group.

Faces are 178x218 pixels, so models see 3x224x224; see :mod:`raydrop.data.folder` for how.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.data.dataset import ImageDataset
from raydrop.data.downloads import DEFAULT_ROOT, download
from raydrop.data.folder import dataset_of_files, resolve_folder
from raydrop.data.groups import crossed
from raydrop.data.metadata import list_rows, three_parts
from raydrop.data.roots import download_root
from raydrop.errors import ConfigError, DataError, unknown_name

IMAGES = "img_align_celeba"
"""Folder of the aligned and cropped images."""
ATTRIBUTES = "list_attr_celeba.txt"
"""Table of attributes: how many images, names, then a row of -1 and 1 per image."""
PARTITION = "list_eval_partition.txt"
"""Table of official splits: image and 0, 1 or 2."""

_HEADER_LINES = 2


def load_celeba(
    path: str | None, data_root: str | None, *, target: str, group: str, name: str
) -> ImageDataset:
    """Return CelebA (Liu et al. 2015, arXiv 1411.7766) with groups target times attribute, G = 4.

    The default, Blond_Hair with group Male, is that of Sagawa et al. 2020 (arXiv 1911.08731), where
    blond men are the small group. The splits are the official ones. An id is the position in
    list_attr_celeba.txt, from 0.

    Args:
        path: Folder with ``img_align_celeba/``, ``list_attr_celeba.txt`` and
            ``list_eval_partition.txt``. None is torchvision's: ``celeba`` in the data root, where
            torchvision downloads it, if those are absent, and checks its MD5 sums.
        data_root: Where downloads go and a relative path starts; ``~/.cache/raydrop`` and the
            current folder by default.
        target: Attribute that is the label.
        group: Attribute that makes the groups with the label.
        name: Canonical specification.

    Raises:
        ConfigError: If an attribute is unknown or both are the same.
        DataError: If files are absent and cannot be downloaded, or do not fit together.
    """
    folder = _downloaded(data_root) if path is None else resolve_folder(path, data_root)
    table = _read(folder / ATTRIBUTES, skiprows=_HEADER_LINES - 1)
    labels, attributes = _signs(table, target), _signs(table, group)
    if target == group:
        raise ConfigError(
            f"Expected two attributes for target and group of celeba, found {target} for both; "
            "choose another group."
        )
    class_names, values = ((f"not {text}", text) for text in (target, group))
    group_names = tuple(f"{label}, {value}" for label in class_names for value in values)
    groups = crossed(labels, attributes, 2)
    rows = range(_HEADER_LINES + 1, _HEADER_LINES + 1 + len(table))
    images = [f"{IMAGES}/{image}" for image in table.index]
    return dataset_of_files(
        folder,
        list_rows(folder, images, labels.tolist(), rows, ATTRIBUTES),
        three_parts(_splits(folder, table.index), groups, group_names, "group"),
        name=name,
        class_names=class_names,
        groups=groups,
        group_names=group_names,
    )


def _downloaded(data_root: str | None) -> Path:
    """Return torchvision's folder of CelebA, downloading it where something is absent."""
    root = download_root(data_root or DEFAULT_ROOT, "celeba").absolute()
    folder = root / "celeba"
    if not all((folder / name).exists() for name in (IMAGES, ATTRIBUTES, PARTITION)):
        download("celeba", "CelebA", root, split="all")
    return folder


def _read(path: Path, skiprows: int = 0, header: int | None = 0) -> pd.DataFrame:
    """Return a table of numbers with the image names as its index."""
    try:
        table = pd.read_csv(path, sep=r"\s+", skiprows=skiprows, header=header, dtype=str)
        if header is None:
            table = table.set_index(0)
        return table.astype(np.int64).rename(index=str)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise DataError(
            f"Expected CelebA's table in {path}, found: {reason}; "
            "give the folder that holds it, or let torchvision download it anew."
        ) from error


def _signs(table: pd.DataFrame, attribute: str) -> NDArray[np.int64]:
    """Return 1 where an attribute is present and 0 where it is not, (n,)."""
    if attribute not in table:
        raise unknown_name("attribute of celeba", attribute, map(str, table.columns))
    values = table[attribute].to_numpy()
    if not np.isin(values, (-1, 1)).all():
        raise DataError(
            f"Expected -1 or 1 for {attribute} in {ATTRIBUTES}, found "
            f"{values[~np.isin(values, (-1, 1))][0]}; copy the official file."
        )
    return (values > 0).astype(np.int64)


def _splits(folder: Path, images: pd.Index[str]) -> NDArray[np.int64]:
    splits = _read(folder / PARTITION, header=None)[1].reindex(images, fill_value=-1)
    wrong = ~splits.isin([0, 1, 2])
    if wrong.any():
        raise DataError(
            f"Expected a split 0, 1 or 2 of {images[wrong.to_numpy()][0]} in {folder / PARTITION}, "
            "found none; copy the official file."
        )
    return splits.to_numpy(np.int64)
