"""Networks in files, pruned or not: saved and loaded without pickle, and exported for elsewhere.

A saved network is one ZIP archive with ``model.json``, which says how to build the architecture
(its name, and which channels were removed), what its classes are called and how images are
normalised, and a NumPy file for each array of the state dict: ``state/NAME.npy``. Masked weights
are saved as the zeros that they are, compressed. Every member carries its checksum.

Exported networks (:func:`export_network`) are programs: they need no raydrop where they run.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import PreparedData
from raydrop.data.inputs import Inputs, InputSpec, each
from raydrop.errors import ConfigError, NetworkError, in_one_line, unknown_name
from raydrop.models import ImageShape, as_spec, untried_model
from raydrop.network.channels import rebuild
from raydrop.store import Entry
from raydrop.store.files import (
    OddFileError,
    misfit,
    open_regular,
    parse_json,
    read_npy_header,
    written_whole,
)
from raydrop.study.importing import refuse_paths
from raydrop.training.checkpoints import flat_state, load_state

FORMAT = "raydrop network"
"""What ``model.json`` says that the file is."""
VERSION = 1
"""Of the file's layout. Raise it when older code would misread what is written."""
EXPORTS = ("pt2", "onnx")
"""What :func:`export_network` writes: ``torch.export``'s archive, or ONNX."""
EXTRA = "raydrop.json"
"""Name of the specification beside an exported program."""

_HEADER = "model.json"
_MOST_HEADER = 2**24
_FOLDER, _SUFFIX = "state/", ".npy"
# Weights that are not zero hardly become smaller, and compressing them takes seconds.
_DENSE = 0.75
# What broken archives and arrays make zipfile, zlib, json and NumPy raise, and values of another
# kind than expected the code that reads them.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError),
    *(TypeError, ValueError, AttributeError, RuntimeError, MemoryError),
)
_KINDS = {
    **dict.fromkeys(("model", "network_method", "network_target"), "text"),
    "num_classes": "count",
    "image_shape": "count by side",
    "class_names": "text by class",
    **dict.fromkeys(("mean", "std"), "number by channel"),
    **dict.fromkeys(("channels", "facts"), "object"),
}
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "uint8", "bool")
Shapes = Mapping[str, tuple[int, ...]]
"""Of the arrays of a state dict, by name."""


@dataclass(frozen=True)
class NetworkSpec:
    """What has to be known of a network besides its weights.

    Raises:
        NetworkError: On construction, if lengths disagree.
    """

    model: str
    """Architecture, as :func:`raydrop.models.build_model` names it."""
    num_classes: int
    """K."""
    image_shape: ImageShape | tuple[()]
    """Channels, height and width of an image; empty where inputs are no images."""
    class_names: tuple[str, ...]
    """In the order of the logits, (K,)."""
    mean: tuple[float, ...]
    """Channel means that are subtracted from pixels in [0, 1]."""
    std: tuple[float, ...]
    """Channel standard deviations that they are then divided by."""
    channels: Mapping[str, Any] = field(default_factory=dict)
    """What was removed from the architecture; see :mod:`raydrop.network.channels`."""
    network_method: str = "none"
    """What pruned it, such as ``autobot``."""
    network_target: str = "none"
    """How much was to go, such as ``flops(0.75)``."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known, as plain JSON values, such as the data set and the loss."""
    inputs: Sequence[Any] = ()
    """Inputs that are no images, as :meth:`InputSpec.plain` has them."""

    def __post_init__(self) -> None:
        for name in ("image_shape", "class_names", "mean", "std", "inputs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        channels = self.image_shape[0] if self.image_shape else 0
        for name, length in (("class_names", self.num_classes), ("mean", channels)):
            if len(getattr(self, name)) != length:
                raise NetworkError(
                    f"Expected {name} of a network to be {length}, found "
                    f"{len(getattr(self, name))}; give one for each class, or for each colour "
                    "channel."
                )
        if len(self.std) != channels or min(self.std, default=1) <= 0:
            raise NetworkError(
                f"Expected std of a network to be {channels} positive numbers, found {self.std}; "
                "give one for each colour channel."
            )

    @classmethod
    def of_data(cls, data: PreparedData, model: str, **fields: Any) -> Self:
        """Return the specification of a network of some architecture, trained on some data."""
        dataset = data.dataset
        shape, names = dataset.image_shape, dataset.class_names
        normalised: tuple[Any, ...] = (shape, names, data.mean, data.std)
        if shape is None:
            normalised, fields["inputs"] = ((), names, (), ()), dataset.input_spec.plain()
        return cls(model, dataset.num_classes, *normalised, **fields)

    @property
    def input_spec(self) -> InputSpec:
        """What the network gets of one sample.

        Raises:
            NetworkError: If it is not described.
        """
        if self.image_shape:
            return InputSpec.image(self.image_shape)
        try:
            shapes, kinds, names, is_tuple = self.inputs
            if not {*kinds} <= {*_DTYPES} or len(kinds) != len(shapes):
                raise ValueError("numbers of an unknown type")
            return InputSpec(
                tuple(tuple(map(int, shape)) for shape in shapes),
                tuple(getattr(torch, kind) for kind in kinds),
                None if names is None else tuple(map(str, names)),
                bool(is_tuple),
            )
        except _UNREADABLE as error:
            raise _undescribed(error) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a specification from :meth:`to_dict`.

        Raises:
            NetworkError: If a field is absent or does not fit.
        """
        known = {each.name for each in dataclasses.fields(cls)}
        try:
            if problem := misfit(values, _KINDS):
                raise ValueError(problem)
            return cls(**{name: value for name, value in values.items() if name in known})
        except NetworkError:
            raise
        except _UNREADABLE as error:
            raise _undescribed(error) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as plain JSON values."""
        fields = dataclasses.asdict(self)
        if self.image_shape:
            del fields["inputs"]
        return json.loads(json.dumps(fields))  # type: ignore[no-any-return]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return images as the network was trained to see them: (pixels / 255 - mean) / std.

        Pixels are uint8, (B, C, H, W), of :attr:`image_shape`; the result is float32.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device=pixels.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return torch.addcmul((-mean / std).float(), pixels, (1 / (255 * std)).float())


def _undescribed(error: Exception) -> NetworkError:
    return NetworkError(
        f"Expected the description of a network, found a problem ({in_one_line(error)}); "
        "use one that this version of raydrop wrote."
    )


def save_network(path: str | Path, spec: NetworkSpec, model: nn.Module) -> None:
    """Write a network so that the file appears whole or not at all.

    A file that is there is replaced. Floating-point numbers are saved as float32; the same network
    gives the same bytes.

    Raises:
        NetworkError: If the network is not the one that ``spec`` builds, or the file cannot be
            written.
    """
    state = _checked_state(spec, model, "the network to be saved")
    header = {"format": FORMAT, "version": VERSION, "network": spec.to_dict()}
    with _replaced(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo(_HEADER), "w") as member:
            member.write(json.dumps(header, indent=1, sort_keys=True).encode())
        for name, value in state.items():
            value = value.float() if value.is_floating_point() else value
            array = value.cpu().contiguous().numpy()
            info = zipfile.ZipInfo(f"{_FOLDER}{name}{_SUFFIX}")  # of a date of its own, for all
            if np.count_nonzero(array) < _DENSE * array.size:
                info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_network(path: str | Path, trust: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Return a saved network in eval mode, on the CPU, and its specification.

    Nothing is downloaded, and nothing in the file is run: a model of somebody's own, as in
    ``mypkg.net:SignNet``, is imported only where ``trust`` names its package.

    Raises:
        ConfigError: If the model is of a package that is not trusted, or is not there.
        NetworkError: If the file cannot be read, is damaged or of another version, or the network
            that this version builds has other parameters than the file.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            spec = NetworkSpec.from_dict(_read_header(archive, path))
            refuse_paths(spec.model, trust, f"the network in {path}")
            model = skeleton(spec, data=False)
            state = _read_state(archive, _shapes(model), str(path))
    except (NetworkError, ConfigError):
        raise
    except FileNotFoundError as error:
        raise NetworkError(
            f"Expected a saved network at {path}, found no such file; check the path."
        ) from error
    except _UNREADABLE as error:
        found = error.strerror if isinstance(error, OddFileError) else in_one_line(error)
        raise NetworkError(
            f"Expected a network that raydrop saved in {path}, found {found}; save it anew, or "
            "copy the whole file again."
        ) from error
    model = model.to_empty(device="cpu")
    model.load_state_dict(state)
    return model, spec


def network_entry(
    spec: NetworkSpec, model: nn.Module
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a network as findings and arrays of an entry of the store; see :func:`network_of`.

    The findings are the fields of the specification, and ``state``, name and shape of each
    floating-point array; these are in a row, ``state``, (P,) float32, because a file for each of
    hundreds of arrays would take far longer to write and verify.

    Raises:
        NetworkError: If the network is not the one that ``spec`` builds.
    """
    filled = skeleton(spec)
    filled.load_state_dict(_checked_state(spec, model, "the network to be kept"))
    shapes = [*_float_shapes(filled).items()]
    return {**spec.to_dict(), "state": shapes}, {"state": flat_state(filled)}


def network_of(entry: Entry, trust: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Return the network, in eval mode and on the CPU, that :func:`network_entry` took apart.

    Raises:
        ConfigError: If the model is of a package that is not trusted, or is not there.
        NetworkError: If the network that this version builds has other parameters.
    """
    spec = NetworkSpec.from_dict(entry.info)
    refuse_paths(spec.model, trust, "a stored network")
    shapes = _float_shapes(skeleton(spec, data=False))
    try:
        found = {name: tuple(shape) for name, shape in entry.info.get("state", ())}
    except _UNREADABLE as error:
        raise _undescribed(error) from error
    _check_shapes(shapes, found, "the stored network")
    state = entry.array("state", kinds="f", shape=(sum(map(math.prod, shapes.values())),))
    model = skeleton(spec)
    load_state(model, state)
    return model, spec


def export_network(
    path: str | Path,
    model: nn.Module,
    inputs: InputSpec | ImageShape,
    format: str,  # noqa: A002 - what the field calls it
    spec: NetworkSpec | None = None,
) -> None:
    """Write a network as a program from its inputs (B, ...) to logits (B, K), any B.

    Images, (B, C, H, W), are normalised ones.

    The model is left as it is, and exported as it computes in eval mode; a file that is there is
    replaced. Formats are ``pt2``, for :func:`torch.export.load`, and ``onnx``, which takes the
    packages ``onnx`` and ``onnxscript``; its input is called ``images``, those that are no images
    ``inputs`` or by their own names, and its output ``logits``.
    ``spec`` is written beside the program as JSON: in :data:`EXTRA` among the extra files of
    ``pt2``, or under the key ``raydrop`` of the metadata of ``onnx``.

    Raises:
        ConfigError: If there is no such format.
        NetworkError: If the network cannot be exported, packages are absent, or the file cannot be
            written.
    """
    if format not in EXPORTS:
        raise unknown_name("format", format, EXPORTS)
    export = _pt2_bytes if format == "pt2" else _onnx_bytes
    example = as_spec(inputs).zeros(2)  # one sample would be exported as the only batch size
    facts = json.dumps({} if spec is None else spec.to_dict(), sort_keys=True)
    try:
        with warnings.catch_warnings():
            # The exporters' own deprecations, which no one who exports can mend.
            warnings.simplefilter("ignore")
            content = export(copy.deepcopy(model).cpu().eval(), example, facts)
    except ImportError as error:
        raise NetworkError(
            f"Expected the packages onnx and onnxscript for {format}, found: {error}; "
            "pip install 'raydrop[export]', or export pt2."
        ) from error
    except Exception as error:  # exporters raise their own and any of torch's, some in colours
        found = re.sub(r"\x1b\[[\d;]*m", "", in_one_line(error))
        raise NetworkError(
            f"Expected a network that {format} can express, found {found}; "
            "use the other format, or a saved network."
        ) from error
    with _replaced(Path(path)) as file:
        file.write(content)


def skeleton(spec: NetworkSpec, *, data: bool = True) -> nn.Module:
    """Return a network of the shape that a specification describes, in eval mode.

    Neither trained weights are downloaded nor does the global generator move on. Without ``data``
    it is on torch's meta device and takes no memory, whatever size somebody wrote down.

    Raises:
        NetworkError: If the architecture is unknown or the channels do not fit it.
    """
    try:
        model = untried_model(spec.model, spec.num_classes, spec.input_spec, data=data)
        return rebuild(model, spec.channels).eval()
    except NetworkError:
        raise
    except _UNREADABLE as error:
        raise NetworkError(
            f"Expected an architecture and channels that this version of raydrop builds, found "
            f"a problem with {spec.model!r} ({in_one_line(error)}); use the version that saved "
            "the network."
        ) from error


def _pt2_bytes(model: nn.Module, example: Inputs, facts: str) -> bytes:
    program = torch.export.export(model, (example,), dynamic_shapes=_any_batch(example))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={EXTRA: facts})
    return buffer.getvalue()


def _any_batch(example: Inputs) -> tuple[Any]:
    batch = torch.export.Dim("batch")
    return (each(lambda _: {0: batch}, example),)


def _onnx_bytes(model: nn.Module, example: Inputs, facts: str) -> bytes:
    for package in ("onnx", "onnxscript"):
        importlib.import_module(package)  # torch would say that its own exporter failed
    program: Any = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=_any_batch(example),
        input_names=_input_names(example),
        output_names=["logits"],
        verbose=False,
    )
    program.model.metadata_props["raydrop"] = facts
    content: bytes = program.model_proto.SerializeToString()
    return content


def _input_names(example: Inputs) -> list[str]:
    if isinstance(example, Mapping):
        return list(example)
    if isinstance(example, Tensor):
        return ["images" if example.ndim == 4 else "inputs"]
    return [f"inputs_{place}" for place in range(len(example))]


def _read_header(archive: zipfile.ZipFile, path: str | Path) -> Mapping[str, Any]:
    """Return the description of a saved network."""
    member = archive.getinfo(_HEADER)
    with _opened(archive, member) as file:
        header = parse_json(file.read(min(member.file_size, _MOST_HEADER)))
    if header.get("format") != FORMAT or not isinstance(header.get("network"), dict):
        raise ValueError(f"{_HEADER} of something else")
    if header.get("version") != VERSION:
        raise NetworkError(
            f"Expected version {VERSION} of a saved network in {path}, found "
            f"{header.get('version')}; use the version of raydrop that saved it."
        )
    network: dict[str, Any] = header["network"]
    return network


def _read_state(archive: zipfile.ZipFile, shapes: Shapes, where: str) -> dict[str, Tensor]:
    """Return the state of a saved network, once its arrays are known to be those of a model.

    A few bytes of an archive may stand for gigabytes, so nothing is read that is not of a size that
    the architecture has.
    """
    members = {
        member.filename.removeprefix(_FOLDER).removesuffix(_SUFFIX): member
        for member in archive.infolist()
        if member.filename.startswith(_FOLDER) and member.filename.endswith(_SUFFIX)
    }
    found = {}
    for name, member in members.items():
        with _opened(archive, member) as file:
            header = read_npy_header(file)
            if header.dtype.kind not in "fiu" or file.tell() + header.nbytes != member.file_size:
                raise ValueError(f"{member.filename} is no array of numbers")
            found[name] = header.shape
    _check_shapes(shapes, found, where)
    return {name: _read_tensor(archive, members[name]) for name in shapes}


def _read_tensor(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with _opened(archive, member) as file:
        header = read_npy_header(file)
        content = file.read(header.nbytes)
        if len(content) != header.nbytes or file.read(1):
            raise ValueError(f"{member.filename} is no array of numbers")
    array = np.frombuffer(content, header.dtype)
    if header.fortran_order:
        array = array.reshape(header.shape[::-1]).transpose()
    return torch.from_numpy(array.reshape(header.shape).copy())


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} compressed in another way than ours")
    return archive.open(member)


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that appears in its place whole or not at all."""
    try:
        with written_whole(path) as file:
            yield file
    except OSError as error:
        raise NetworkError(
            f"Expected to write {path}, found: {error.strerror or error}; "
            "choose a folder that is there, with free space, and allow writing."
        ) from error


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _float_shapes(model: nn.Module) -> Shapes:
    state = model.state_dict()
    return {name: tuple(v.shape) for name, v in state.items() if v.is_floating_point()}


def _checked_state(spec: NetworkSpec, model: nn.Module, where: str) -> dict[str, Tensor]:
    """Return a model's state in the order of what is described, or raise where they do not fit."""
    expected, state = _shapes(skeleton(spec, data=False)), model.state_dict()
    _check_shapes(expected, _shapes(model), where)
    return {name: state[name].detach() for name in expected}


def _check_shapes(expected: Shapes, found: Shapes, where: str) -> None:
    """Raise where two states have other names or shapes; the message names the first."""
    remedy = "use the model and channels, or the version of raydrop, that belong to it."
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise NetworkError(f"Expected {missing[0]} in {where}, found none; {remedy}")
    if extra:
        raise NetworkError(
            f"Expected only what the architecture has in {where}, found {extra[0]} too; {remedy}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise NetworkError(
                f"Expected {name} in {where} to have the shape {_times(shape)}, found "
                f"{_times(found[name])}; {remedy}"
            )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
