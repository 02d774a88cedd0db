"""Data sets by name, ``load_dataset("digits+long_tail(10)")``, and from what people have.

:func:`from_torch`, :func:`from_arrays`, :func:`from_frame` and :func:`from_huggingface` take any
inputs: images, features, token ids.

Images of at most 64 pixels a side keep their size and, in training, are shifted by a few pixels
and, where that keeps the label, mirrored. Others become 3x224x224;
:mod:`raydrop.data.loaders.files` says how.
"""

from __future__ import annotations

from raydrop.data.brought import from_arrays, from_torch
from raydrop.data.dataset import ArrayImages, FileImages, LabelledDataset, Split
from raydrop.data.loaders.frames import from_frame
from raydrop.data.loaders.huggingface import from_huggingface
from raydrop.data.spec import DATASETS, DatasetSpec, parse_spec

__all__ = [
    "DATASETS",
    "ArrayImages",
    "DatasetSpec",
    "FileImages",
    "LabelledDataset",
    "Split",
    "from_arrays",
    "from_frame",
    "from_huggingface",
    "from_torch",
    "load_dataset",
    "parse_spec",
]


def load_dataset(spec: str, data_root: str | None = None) -> LabelledDataset:
    """Return a data set, with the variants that its specification asks for.

    Args:
        spec: A name of :data:`DATASETS`, then variants in the order in which they apply:
            ``+long_tail(factor)``, ``+label_noise(rate, seed=0)``, ``+subset(n, test=n)``,
            ``+spurious(correlation, strength=0.5, attributes=2, seed=0)``,
            ``+thinned(CLASS=share)``, ``+shortcut(CLASS=share, rest=0.02, size=4, seed=0)``, where
            CLASS is a class's name, or its number from 0. Some data sets take a path or options, as
            in ``metadata:PATH?label=y&group=place``: the keyword arguments of
            :func:`~raydrop.data.loaders.metadata.load_metadata` and of those beside it. Only what
            differs from their defaults need be given.
        data_root: Where downloads go and relative image folders start; by default
            ``~/.cache/raydrop`` and the current folder.

    Raises:
        ConfigError: If the specification names something unknown or its arguments do not fit.
        DataError: If the data are absent, unreadable or inconsistent.

    Example:
        >>> load_dataset("digits+long_tail(10)").class_sizes()
        array([80, 62, 48, 37, 29, 22, 17, 13, 10,  8])
    """
    return parse_spec(spec).load(data_root)
