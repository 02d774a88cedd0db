"""Data sets by name: ``load_dataset("digits+long_tail(10)")``.

Images of at most 64 pixels a side keep their size and, in training, are shifted by a few pixels
and, where that keeps the label, mirrored. Others become 3x224x224;
:mod:`raydrop.data.loaders.folder` says how.
"""

from __future__ import annotations

from collections.abc import Callable

from raydrop.data.dataset import ArrayImages, FileImages, ImageDataset, ImageSource, Split
from raydrop.data.loaders.celeba import load_celeba
from raydrop.data.loaders.digits import load_digits
from raydrop.data.loaders.downloads import load_download
from raydrop.data.loaders.fitzpatrick import Options as FitzpatrickOptions
from raydrop.data.loaders.fitzpatrick import load_fitzpatrick
from raydrop.data.loaders.folder import load_folder, load_imagenet, load_tiny_imagenet
from raydrop.data.loaders.metadata import Options as MetadataOptions
from raydrop.data.loaders.metadata import load_metadata, load_waterbirds
from raydrop.data.spec import OPTIONS, DatasetSpec, parse_spec
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
    "gaussians": "samples of two Gaussian classes: gaussians(sigma0=0.5, sigma1=1, n=20000)",
    "mnist": "70,000 handwritten digits of 28x28 pixels; validation is half of the test set",
    "fashion_mnist": "70,000 grey images of clothes, 28x28; validation is half of the test set",
    "cifar10": "60,000 colour photos of 10 kinds, 32x32; validation is half of the test set",
    "cifar100": "60,000 colour photos of 100 kinds, 32x32; validation is half of the test set",
    "imagefolder": "your own: imagefolder:PATH with train/CLASS/*, test/CLASS/* and maybe val/",
    "tiny_imagenet": "tiny_imagenet:PATH, its folder tiny-imagenet-200; its val is halved",
    "imagenet": "imagenet:PATH with train/WNID/* and val/WNID/*; its val is halved",
    "metadata": "your own with groups: metadata:PATH with metadata.csv; ?label=y&group=place",
    "waterbirds": "waterbirds:PATH with metadata.csv; groups are bird times background",
    "fitzpatrick17k": "fitzpatrick17k:PATH with fitzpatrick17k.csv, images/MD5HASH.jpg; ?train=1-2",
    "celeba": "202,599 faces; celeba?target=Blond_Hair&group=Male, or celeba:PATH",
}
"""What ``load_dataset`` knows: name to one-line description."""


_FOLDERS: dict[str, Callable[[str, str | None], ImageDataset]] = {
    "tiny_imagenet": load_tiny_imagenet,
    "imagenet": load_imagenet,
    "waterbirds": load_waterbirds,
}


def load_dataset(spec: str, data_root: str | None = None) -> ImageDataset:
    """Return a data set, with the variants that its specification asks for.

    Args:
        spec: A name of :data:`DATASETS`, then variants in the order in which they apply:
            ``+long_tail(factor)``, ``+label_noise(rate, seed=0)``, ``+subset(n, test=n)``,
            ``+spurious(correlation, strength=0.5, attributes=2, seed=0)``,
            ``+thinned(CLASS=share)``, ``+shortcut(CLASS=share, rest=0.02, size=4, seed=0)``, where
            CLASS is a class's name, or its number from 0. Options of ``metadata:PATH`` name its
            table, columns and what groups are:
            ``?file=metadata.csv&image=img_filename&label=y&split=split&group=place&groups=crossed``
            (or ``plain``: the attribute alone, or ``none``), and what else is allowed
            (:class:`~raydrop.data.loaders.metadata.Options`); that of ``imagefolder:PATH`` is
            ``?flip=on`` where mirror images keep their label; those of ``celeba`` are two
            attributes: ``?target=Blond_Hair&group=Male``; those of ``fitzpatrick17k:PATH`` what
            labels are and which skin types are trained on:
            ``?label=three_partition_label&train=1-2``, and where things are
            (:class:`~raydrop.data.loaders.fitzpatrick.Options`). Only what differs from these
            defaults need be given.
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
    if spec.drawn is not None:
        return spec.drawn.load()
    if spec.name == "celeba" and spec.path != "":
        return load_celeba(spec.path, data_root, name=spec.base, **spec.option_values())
    if spec.name in {*_FOLDERS, *OPTIONS}:
        if not spec.path:
            raise ConfigError(
                f"Expected a folder after {spec.name}, found none; write {spec.name}:PATH."
            )
        if spec.name == "imagefolder":
            return load_folder(spec.path, data_root, spec.base, **spec.option_values())
        if spec.name == "metadata":
            columns = MetadataOptions(**spec.option_values())
            return load_metadata(spec.path, data_root, columns, spec.base)
        if spec.name == "fitzpatrick17k":
            options = FitzpatrickOptions(**spec.option_values())
            return load_fitzpatrick(spec.path, data_root, options, spec.base)
        return _FOLDERS[spec.name](spec.path, data_root)
    if spec.path is not None:
        raise ConfigError(
            f"Expected {spec.name} without a path, found {spec.base!r}; remove the colon and path."
        )
    return load_digits() if spec.name == "digits" else load_download(spec.name, data_root)
