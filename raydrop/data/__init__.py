"""Data sets by name: ``load_dataset("digits+long_tail(10)")``."""

from __future__ import annotations

from raydrop.data.dataset import ArrayImages, FileImages, ImageDataset, ImageSource, Split
from raydrop.data.digits import load_digits
from raydrop.data.downloads import load_download
from raydrop.data.folder import load_folder
from raydrop.data.spec import DatasetSpec, parse_spec
from raydrop.errors import ConfigError, unknown_name

__all__ = [
    "DATASETS",
    "ArrayImages",
    "DatasetSpec",
    "FileImages",
    "ImageDataset",
    "ImageSource",
    "Split",
    "load_dataset",
    "parse_spec",
]

DATASETS = {
    "digits": "1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn: no download",
    "mnist": "70,000 handwritten digits of 28x28 pixels; validation is half of the test set",
    "fashion_mnist": "70,000 grey images of clothes, 28x28; validation is half of the test set",
    "cifar10": "60,000 colour photos of 10 kinds, 32x32; validation is half of the test set",
    "cifar100": "60,000 colour photos of 100 kinds, 32x32; validation is half of the test set",
    "imagefolder": "your own: imagefolder:PATH with train/CLASS/*, test/CLASS/* and maybe val/",
}
"""What ``load_dataset`` knows: name to one-line description."""


def load_dataset(spec: str, data_root: str | None = None) -> ImageDataset:
    """Return a data set, with the variants that its specification asks for.

    Args:
        spec: A name of :data:`DATASETS`, then variants in the order in which they apply:
            ``+long_tail(factor)``, ``+label_noise(rate, seed=0)``, ``+subset(n, test=n)``.
        data_root: Where downloads go and relative image folders start; by default
            ``~/.cache/raydrop`` and the current folder.

    Raises:
        ConfigError: If the specification names something unknown or its arguments do not fit.
        DataError: If the data are absent, unreadable or inconsistent.

    Example:
        >>> load_dataset("digits+long_tail(10)").class_sizes()
        array([80, 62, 48, 37, 29, 22, 17, 13, 10,  8])
    """
    parsed = parse_spec(spec)
    dataset = _load_base(parsed, data_root)
    for variant in parsed.variants:
        dataset = variant.apply(dataset)
    return dataset


def _load_base(spec: DatasetSpec, data_root: str | None) -> ImageDataset:
    if spec.name not in DATASETS:
        raise unknown_name("data set", spec.name, DATASETS)
    if spec.name == "imagefolder":
        if not spec.path:
            raise ConfigError(
                "Expected a folder after imagefolder, found none; write imagefolder:PATH."
            )
        return load_folder(spec.path, data_root)
    if spec.path is not None:
        raise ConfigError(
            f"Expected {spec.name} without a path, found {spec.base!r}; remove the colon and path."
        )
    return load_digits() if spec.name == "digits" else load_download(spec.name, data_root)
