"""Folders of images with a table of labels, splits and groups, such as WILDS' ``metadata.csv``."""

from __future__ import annotations

import numpy as np

from raydrop.data.dataset import LabelledDataset, crossed
from raydrop.data.loaders.files import dataset_of_files, is_on, one_of, resolve_folder
from raydrop.data.loaders.tables import numbered, read_table

GROUPINGS = ("crossed", "plain", "none")
"""Groups are label times attribute, the attribute alone, or absent."""


def load_metadata(
    path: str | None,
    data_root: str | None,
    name: str,
    *,
    file: str = "metadata.csv",
    image: str = "img_filename",
    label: str = "y",
    split: str = "split",
    group: str = "place",
    groups: str = "crossed",
    flip: str = "off",
    missing: str = "refuse",
    allow_outside: str = "off",
) -> LabelledDataset:
    """Return the data set that a table in a folder describes, a row for each image.

    An id is the row's position, from 0, among those that are not left out. Groups are label times
    attribute, of which those that occur in no split are left out. Without validation rows, half of
    each group's test rows become validation.

    Options:
        file: The table, relative to the folder.
        image: Column of image files, relative to the folder.
        label: Column of labels, numbers or texts.
        split: Column of splits: 0, 1, 2, or a name of
            :data:`~raydrop.data.loaders.files.SPLITS`.
        group: Column of the attribute, numbers or texts.
        groups: One of :data:`GROUPINGS`.
        flip: ``on`` if a mirror image has the label of the image, which training then uses.
        missing: ``skip`` leaves out the rows whose image is absent.
        allow_outside: ``on`` if table and images may lie outside the folder.

    Raises:
        ConfigError: If an option has no such value.
        DataError: If the table, a column, a value or an image is missing, a split is unknown, an
            image has two rows or lies outside the folder, or a class or group is not in every
            split.
    """
    one_of("choice of groups", groups, GROUPINGS)
    mirrored, outside = is_on("flip", flip), is_on("allow_outside", allow_outside)
    root = resolve_folder(path, data_root)
    wanted = {"image": image, "label": label, "split": split, "group": group}
    if groups == "none":
        del wanted["group"]
    table = read_table(root, file, wanted, "metadata", outside=outside)
    table, remarks = table.with_images(root, missing, outside)
    splits = table.splits()
    labels, class_names = table.codes("label")
    codes, names, hashed = None, tuple[str, ...](), tuple[str, ...]()
    if groups != "none":
        codes, values = table.codes("group")
        names, hashed = (
            tuple(f"{group}={value}" for value in each) for each in (values, numbered(values))
        )
    if groups == "crossed" and codes is not None:
        # Groups without a sample are left out, and the others numbered anew.
        present, codes = np.unique(crossed(labels, codes, len(names)), return_inverse=True)
        pairs = [divmod(group, len(names)) for group in present.tolist()]
        names, hashed = (
            tuple(f"{classes[k]}, {values[a]}" for k, a in pairs)
            for classes, values in ((class_names, names), (numbered(class_names), hashed))
        )
    return dataset_of_files(
        root,
        table.files(root, outside),
        labels,
        splits,
        name=name,
        groups=codes,
        hashed_names=(numbered(class_names), hashed),
        class_names=class_names,
        group_names=names,
        horizontal_flip=mirrored,
        remarks=remarks,
    )


def load_waterbirds(path: str | None, data_root: str | None, name: str) -> LabelledDataset:
    """Return Waterbirds: land and water birds on land and water backgrounds, G = 4.

    Birds of CUB-200 before places of Places365 (Sagawa et al. 2020, arXiv 1911.08731), in the
    folder that its authors and WILDS (Koh et al. 2021, arXiv 2012.07421) distribute:
    ``metadata.csv`` with ``img_filename``, ``y``, ``split`` (0, 1, 2) and ``place``. Group
    2 · y + place. The authors' crops of training images keep at least 70 % of the area.

    Raises:
        DataError: As :func:`load_metadata`, and if a label or place is neither 0 nor 1.
    """
    root = resolve_folder(path, data_root)
    wanted = {"image": "img_filename", "label": "y", "split": "split", "group": "place"}
    table = read_table(root, "metadata.csv", wanted, "metadata")
    labels, places = (table.known_codes(each, {"0": 0, "1": 1}) for each in ("label", "group"))
    birds = ("landbird", "waterbird")
    return dataset_of_files(
        root,
        table.files(root),
        labels,
        table.splits(),
        name=name,
        groups=crossed(labels, places, 2),
        class_names=birds,
        group_names=tuple(f"{bird} on {place}" for bird in birds for place in ("land", "water")),
    )
