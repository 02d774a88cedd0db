"""The text that names a data set: ``digits+long_tail(10)+label_noise(0.2, seed=1)``.

A specification is a data set, for some followed by ``:PATH``, for some by ``?key=value&key=value``,
and then variants in the order in which they apply. It is read from its right end, so that a path
may hold ``+`` and parentheses; only a path that itself ends like a variant needs a ``/`` after it,
and one that holds ``?`` before options could follow needs a ``?`` after it.

The user's own are import paths, ``mypkg.data:signs(size=32)``, of what makes a data set, or PyTorch
data sets of it; and objects that a study was given, by their names.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

from raydrop.data.arguments import called
from raydrop.data.brought import from_torch
from raydrop.data.dataset import LabelledDataset
from raydrop.data.loaders.celeba import load_celeba
from raydrop.data.loaders.digits import load_digits
from raydrop.data.loaders.downloads import load_download
from raydrop.data.loaders.fitzpatrick import load_fitzpatrick
from raydrop.data.loaders.folder import load_folder, load_imagenet, load_tiny_imagenet
from raydrop.data.loaders.frames import load_table
from raydrop.data.loaders.gaussians import Gaussians
from raydrop.data.loaders.huggingface import from_huggingface, load_huggingface
from raydrop.data.loaders.metadata import load_metadata, load_waterbirds
from raydrop.data.variants import VARIANTS
from raydrop.data.variants.base import Variant
from raydrop.errors import ConfigError, unknown_name
from raydrop.study.catalogue import Catalogue, Entry, Thing
from raydrop.study.importing import Call


@dataclass(frozen=True)
class DataSource(Entry[LabelledDataset]):
    """Where data sets come from; it builds one from a path, the data root and its canonical name.

    Relative paths start at the data root, the current folder by default, and ``~`` is expanded. Its
    options are the keyword-only arguments of what builds it, texts all of them.
    """

    may_lack_path: bool = False
    """Whether it does without the path that it takes."""
    query_in_path: bool = False
    """Whether what follows a ``?`` belongs to the path, often a URL, unless it is an option."""
    drawn: type[Gaussians] | None = None
    """What it is built from instead, where it is drawn: ``gaussians(...)``."""

    @property
    def options(self) -> dict[str, str]:
        """Key and default of each option."""
        arguments = inspect.signature(self.build).parameters.values()
        return {each.name: each.default for each in arguments if each.kind is each.KEYWORD_ONLY}


def own_dataset(thing: Thing, _: str | None, __: str | None, name: str) -> LabelledDataset:
    """Return the data set that the user's own object is, or that a function or class makes.

    Raises:
        ConfigError: If that is no data set, nor two or three of PyTorch.
    """
    found = thing.make() if thing.is_made else thing.value
    if isinstance(found, LabelledDataset):
        return dataclasses.replace(found, name=name)
    if isinstance(found, Mapping) and all(hasattr(split, "features") for split in found.values()):
        return dataclasses.replace(from_huggingface(found), name=name)
    if isinstance(found, Mapping) and {"train", "test"} <= found.keys():
        found = tuple(found[key] for key in ("train", "validation", "test") if key in found)
    if not isinstance(found, tuple | list) or len(found) not in (2, 3):
        raise ConfigError(
            f"Expected a data set, or PyTorch's for train and test, or for train, validation and "
            f"test, from {thing.name}, found {type(found).__name__}; return one of these, such as "
            "raydrop.data.from_torch(train, test)."
        )
    train, *validation, test = found
    return dataclasses.replace(from_torch(train, test, *validation), name=name)


def _own(thing: Thing) -> DataSource:
    return DataSource(thing.name, functools.partial(own_dataset, thing), **thing.facts)


_at_path = functools.partial(DataSource, text="PATH")
_DOWNLOADED = {
    "mnist": "70,000 handwritten digits of 28x28 pixels",
    "fashion_mnist": "70,000 grey images of clothes, 28x28",
    "cifar10": "60,000 colour photos of 10 kinds, 32x32",
    "cifar100": "60,000 colour photos of 100 kinds, 32x32",
}
_DRAWN = "samples of two Gaussian classes: gaussians(sigma0=0.5, sigma1=1, n=20000)"
DATASETS = Catalogue(
    "data set",
    (
        DataSource(
            "digits",
            load_digits,
            "1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn: no download",
        ),
        DataSource("gaussians", Gaussians.load, _DRAWN, drawn=Gaussians),
        *(
            DataSource(name, load_download, f"{images}; validation is half of the test set")
            for name, images in _DOWNLOADED.items()
        ),
        DataSource(
            "imagefolder",
            load_folder,
            "your own: imagefolder:PATH with train/CLASS/*, test/CLASS/* and maybe val/",
            text="PATH",
            query_in_path=True,
        ),
        _at_path(
            "tiny_imagenet",
            load_tiny_imagenet,
            "tiny_imagenet:PATH, its folder tiny-imagenet-200; its val is halved",
        ),
        _at_path(
            "imagenet",
            load_imagenet,
            "imagenet:PATH with train/WNID/* and val/WNID/*; its val is halved",
        ),
        _at_path(
            "metadata",
            load_metadata,
            "your own with groups: metadata:PATH with metadata.csv; ?label=y&group=place",
        ),
        DataSource(
            "table",
            load_table,
            "your own: table:FILE.csv?path=file&label=kind, or Parquet; images, or features=all",
            text="FILE",
        ),
        DataSource(
            "hf",
            load_huggingface,
            "your own or of the hub: hf:FOLDER or hf:cifar10?input=img&label=label",
            text="PATH_OR_NAME",
        ),
        _at_path(
            "waterbirds",
            load_waterbirds,
            "waterbirds:PATH with metadata.csv; groups are bird times background",
        ),
        _at_path(
            "fitzpatrick17k",
            load_fitzpatrick,
            "fitzpatrick17k:PATH with fitzpatrick17k.csv, images/MD5HASH.jpg; ?train=1-2",
        ),
        DataSource(
            "celeba",
            load_celeba,
            "202,599 faces; celeba?target=Blond_Hair&group=Male, or celeba:PATH",
            text="PATH",
            may_lack_path=True,
        ),
    ),
    example="imagefolder:photos",
    adopt=_own,
)
"""Every data set by name."""

_CALL = re.compile(r"(?P<name>\w+)\s*(?:\((?P<arguments>[^()]*)\))?")
_LAST_VARIANT = re.compile(r"(?P<rest>.*)\+\s*(?P<name>[A-Za-z_]\w*)\s*\((?P<arguments>[^()]*)\)")


@dataclass(frozen=True)
class DatasetSpec:
    """A specification taken apart; its text is the canonical form."""

    name: str
    """Of the data set, which :meth:`load` looks up, or an import path with its arguments."""
    path: str | None
    """What follows the colon, where there is one."""
    variants: tuple[Variant, ...]
    """What is done to the data set, in this order."""
    options: tuple[tuple[str, str], ...] = ()
    """Keys and values that differ from the defaults, in the order of these."""
    drawn: Gaussians | None = None
    """What to draw, where the data set is drawn rather than read: ``gaussians(...)``."""

    @property
    def base(self) -> str:
        """The data set without variants, such as ``digits`` or ``imagefolder:photos``."""
        if self.drawn is not None:
            return str(self.drawn)
        path = "" if self.path is None else f":{self.path}"
        options = "&".join(f"{key}={value}" for key, value in self.options)
        needs_mark = options or _split_options(self.name, path) != (path, "")
        return f"{self.name}{path}{'?' if needs_mark else ''}{options}"

    def __str__(self) -> str:
        return "+".join([self.base, *map(str, self.variants)])

    def load(self, data_root: str | None) -> LabelledDataset:
        """Return the data set, variants included; see :func:`raydrop.data.load_dataset`."""
        source = self._source()
        if not source.text and self.path is not None:
            raise ConfigError(
                f"Expected {self.name} without a path, found {self.base!r}; remove the colon and "
                "path."
            )
        if source.text and not self.path and not (source.may_lack_path and self.path is None):
            noun = "a folder" if source.text == "PATH" else source.text
            raise ConfigError(
                f"Expected {noun} after {self.name}, found none; write {self.name}:{source.text}."
            )
        given = (self.path, data_root, self.base) if self.drawn is None else (self.drawn,)
        dataset = source.build(*given, **dict(self.options))
        for variant in self.variants:
            dataset = variant.apply(dataset)
        return dataset

    def _source(self) -> DataSource:
        own = DATASETS.foreign(self.name)
        if own is not None:
            return own.entry  # type: ignore[return-value]
        if self.name not in DATASETS:
            raise unknown_name("data set", self.name, DATASETS)
        return DATASETS[self.name]


def parse_spec(text: str) -> DatasetSpec:
    """Take a specification apart; spaces around names and numbers do not matter.

    Example:
        >>> str(parse_spec("digits + long_tail(10.0) + label_noise(0.20, seed=0)"))
        'digits+long_tail(10)+label_noise(0.2)'
    """
    base, variants = text.strip(), list[Variant]()
    while match := _LAST_VARIANT.fullmatch(base):
        if match["name"] not in VARIANTS:
            raise unknown_name("variant", match["name"], VARIANTS)
        variants.insert(0, called(VARIANTS[match["name"]], match["arguments"]))
        base = match["rest"].strip()
    call = _CALL.fullmatch(base)
    source = DATASETS.get(call["name"]) if call else None
    if call and source and source.drawn:
        drawn = called(source.drawn, call["arguments"] or "")
        return DatasetSpec(source.name, None, tuple(variants), drawn=drawn)
    own = Call.parse(base) if source is None else None
    if own is not None and own.module and not DATASETS.misspelt(own.module):
        return DatasetSpec(own.text, None, tuple(variants))
    name, path, options = _take_apart(base)
    if "+" in name:
        raise ConfigError(
            f"Expected variants as +name(arguments), found {name[name.index('+') :]!r}; "
            f"write for example {VARIANTS['long_tail'].example}."
        )
    return DatasetSpec(name, path, tuple(variants), options)


def is_listed(text: str) -> bool:
    """Return whether a specification says where the data are, and is not the name of an object."""
    name = parse_spec(text).name
    return name in DATASETS or ":" in name


def _take_apart(base: str) -> tuple[str, str | None, tuple[tuple[str, str], ...]]:
    """Return name, path and options of a data set without variants."""
    end = min(at for at in (base.find(":"), base.find("?"), len(base)) if at >= 0)
    name = base[:end].strip()
    rest, options = _split_options(name, base[end:])
    if rest.startswith("?"):
        known = sorted(name for name, source in DATASETS.items() if source.options)
        raise ConfigError(
            f"Expected ?key=value only after {' or '.join(known)}, found {base!r}; "
            "remove what follows the question mark or correct the name."
        )
    return name, rest[1:].strip() if rest else None, _options(name, options)


def _split_options(name: str, rest: str) -> tuple[str, str]:
    """Return what follows a data set's name without its options, and these."""
    source = DATASETS.get(name)
    path, mark, options = rest.rpartition("?")
    if not mark or source is None or not source.options:
        return rest, ""
    keys = {part.partition("=")[0].strip() for part in options.split("&")} - {""}
    return (rest, "") if source.query_in_path and keys - {*source.options} else (path, options)


def _options(name: str, text: str) -> tuple[tuple[str, str], ...]:
    known = DATASETS[name].options if name in DATASETS else {}
    given = dict[str, str]()
    for part in filter(None, map(str.strip, text.split("&"))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in known:
            raise unknown_name(f"option of {name}", key, known)
        if not value or key in given:
            raise ConfigError(
                f"Expected each option of {name} once as key=value, found {text!r}; "
                f"write for example ?{key}={known[key]}."
            )
        given[key] = value
    return tuple((key, given[key]) for key in known if given.get(key, known[key]) != known[key])
