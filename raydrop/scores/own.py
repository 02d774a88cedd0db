"""People's own data and trained models, in the form in which scores are computed of them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches, PreparedData, make_batches, plain_batches, prepare
from raydrop.data.coding import coded, coded_groups
from raydrop.data.dataset import DECODED_BYTES, LabelledDataset, Split
from raydrop.data.held import ArrayInputs, StreamedInputs, rows
from raydrop.data.inputs import InputSpec, each, leaves
from raydrop.data.reading import checked_source, chunks, joined, looked_at
from raydrop.errors import ConfigError, DataError, in_one_line
from raydrop.models.adapter import Output, adapted
from raydrop.training.checkpoints import flat_state, load_state
from raydrop.training.evaluate import logits_in_order

LABELS = ("label", "labels")
"""What labels may be called in items that are dicts."""
_ONLY = "data"
"""What errors call samples that are of no split."""
_UNREADABLE = OSError, ImportError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError


@dataclass(frozen=True, eq=False)
class OwnData:
    """Samples with their labels; pickles, to travel to workers."""

    samples: Split
    spec: InputSpec
    """Inputs of one sample."""
    class_names: tuple[str, ...]
    group_names: tuple[str, ...] = ()
    prepared: PreparedData | None = None
    """The data set that they are the training samples of, where it is one of raydrop's."""

    @classmethod
    def of(cls, prepared: PreparedData) -> OwnData:
        """Return the training samples of a data set of raydrop's."""
        data = prepared.dataset
        names = data.class_names, data.group_names
        return cls(data.train, data.input_spec, *names, prepared)

    @property
    def num_classes(self) -> int | None:
        """K, where the data say so; else as many as models have outputs."""
        return None if self.prepared is None else len(self.class_names)

    def batches(self, device: torch.device) -> Batches:
        """Return what gives batches of the samples, as they are or, of raydrop's, normalised."""
        if self.prepared is not None:
            return make_batches(self.prepared, self.samples, device)
        return plain_batches(self.samples, device)

    def logits(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (B, K) of a model in eval mode, and labels (B,), of all samples in order."""
        batches = self.batches(device_of(model))
        yield from logits_in_order(model, batches, len(self.samples))


def own_data(data: Any) -> OwnData:
    """Return samples of a data set of raydrop's, of a map-style one, or of arrays ``(x, y)``.

    Items of a map-style data set are ``(inputs, label)`` or ``(inputs, label, group)``, or dicts of
    tensors, one of which is called ``label`` or ``labels``. It is read once here, for its labels,
    and kept in memory where it takes at most 2 GiB. Inputs are fed as they are, but for double
    precision, which becomes single.

    Raises:
        DataError: If it is iterable-style or changes from time to time, or inputs do not make a
            batch, or labels are missing or no whole numbers or texts.
    """
    if isinstance(data, LabelledDataset):
        return OwnData.of(prepare(data))
    if isinstance(data, tuple) and len(data) == 2:
        values = ArrayInputs(rows(data[0]))
        spec = InputSpec.of(each(lambda a: torch.from_numpy(a[:1].copy()), values.values))
        return _assembled(values, spec, data[1], None)
    checked_source(data, _ONLY)
    label = next((name for name in LABELS if isinstance(data[0], Mapping) and name in data[0]), "")
    inputs = StreamedInputs(_Named(data, label) if label else data, np.arange(len(data)))
    looked_at(inputs, _ONLY)
    labels, groups, kept = list[Any](), list[Any](), list[Any]()
    left, found = DECODED_BYTES, None
    for rest, batch in chunks(inputs):
        if isinstance(batch, list):
            raise DataError(
                "Expected inputs as tensors, found pictures; give the data set a transform, such "
                "as torchvision's ToTensor, as for training."
            )
        labels += [label for label, *_ in rest]
        groups += [group for _, *more in rest for group in more or [None]]
        found = found or InputSpec.of(batch)
        arrays = rows(batch)
        left -= sum(array.nbytes for array in leaves(arrays))
        kept = [*kept, arrays] if left >= 0 else []
    assert found is not None
    whole = ArrayInputs(joined(kept)) if left >= 0 else inputs
    return _assembled(whole, found, labels, None if None in groups else groups)


class _Named:
    """Samples of dicts, whose label is one of the values; all others are inputs."""

    def __init__(self, data: Any, label: str) -> None:
        self._data, self._label = data, label

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        item = dict(self._data[index])
        item.pop("index", None)
        return item, item.pop(self._label)


def _assembled(
    inputs: ArrayInputs | StreamedInputs, spec: InputSpec, labels: Any, groups: Any
) -> OwnData:
    codes, names = coded("label", {_ONLY: labels}, None)
    grouped, group_names = coded_groups({_ONLY: groups}, None)
    members = None if grouped is None else grouped[_ONLY]
    ids = np.arange(len(codes[_ONLY]))
    return OwnData(Split(ids, codes[_ONLY], inputs, members), spec, names, group_names)


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are; the CPU where it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


class Checkpoints:
    """A trained model, or several states of one, which are read when they are asked for."""

    def __init__(
        self, trained: Trained, data: OwnData, output: Output = None, device: str | None = None
    ) -> None:
        """Take models, which stay as they are.

        Raises:
            ConfigError: If a model does not take the data's inputs, has other outputs than there
                are classes, or torch has no such device; and, when they are read, if states do not
                fit.
        """
        self._states = trained.states
        first = copy.deepcopy(trained.model)
        self.name = type(first).__name__
        if device is not None:
            _move(first, device)
        self.model = adapted(first, data.spec, data.num_classes, output, name=self.name)
        """A copy, which takes inputs as they are and gives logits."""
        self._loaded = copy.deepcopy(first) if self._by_name else None
        self._size = len(flat_state(first))
        self._check_labels(data)

    @property
    def _by_name(self) -> bool:
        return not isinstance(self._states[0], nn.Module)

    def _check_labels(self, data: OwnData) -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = self.model(data.spec.zeros(2, device_of(self.model))).shape[1]
        highest = int(data.samples.labels.max())
        if highest >= outputs:
            raise ConfigError(
                f"Expected labels from 0 to {outputs - 1}, the outputs of {self.name}, found "
                f"{highest}; give the model that was trained on these classes."
            )
        self.num_classes: int = outputs

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, place: int) -> NDArray[np.float32]:
        """Return a flat state, (S,)."""
        state = self._states[place]
        if isinstance(state, nn.Module):
            flat = flat_state(state)
        else:
            assert self._loaded is not None
            try:
                self._loaded.load_state_dict(_read(state))
            except (RuntimeError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"Expected checkpoint {place} to fit {self.name}, found "
                    f"{in_one_line(error)}; give state dicts of that very model."
                ) from error
            flat = flat_state(self._loaded)
        size = self._size
        if len(flat) != size:
            raise ConfigError(
                f"Expected checkpoints of {size} numbers, as the first one, found {len(flat)} in "
                f"checkpoint {place}; give states of one architecture."
            )
        return flat

    def load(self, place: int) -> nn.Module:
        """Return :attr:`model` with a state."""
        load_state(self.model, self[place])
        return self.model


def _move(model: nn.Module, device: str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # what torch raises where it has none
        raise ConfigError(
            f"Expected a device that torch has, found {device!r} ({in_one_line(error)}); choose "
            "another."
        ) from error


@dataclass(frozen=True, eq=False)
class Trained:
    """An architecture, and its states: modules, state dicts, or files of such."""

    model: nn.Module
    states: Sequence[Any]


def trained_models(given: Any) -> Trained:
    """Return what is given: a module, several, or ``(module, [state dicts or files])``.

    Raises:
        ConfigError: If it is none of these, or a module is in training mode.
    """
    model: nn.Module | None
    if isinstance(given, nn.Module):
        model, states = given, [given]
    elif (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[0], nn.Module)
        and not isinstance(given[1], nn.Module)
    ):
        model, states = given[0], list(given[1])
    else:
        states = list(given) if isinstance(given, list | tuple) else []
        model = next((one for one in states if isinstance(one, nn.Module)), None)
    kinds = {isinstance(one, nn.Module) for one in states}
    if model is None or len(kinds) != 1:
        found = type(given).__name__ + (" of nothing" if given in ([], ()) else "")
        raise ConfigError(
            "Expected a trained model, a list of them, or (model, [state dicts or files]), found "
            f"{found}; give the modules themselves."
        )
    for one in (model, *states):
        if isinstance(one, nn.Module) and any(layer.training for layer in one.modules()):
            raise ConfigError(
                f"Expected {type(one).__name__} in eval mode, in which a sample's outputs "
                "are its own, found it in training mode; call .eval() on it first."
            )
    return Trained(model, states)


def _read(state: Any) -> Mapping[str, Any]:
    """Return a state dict, perhaps from a file, of which tensors alone are read."""
    if isinstance(state, Mapping):
        return state
    try:
        if Path(state).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(state)
        return torch.load(state, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (
        OSError,
        ImportError,
        RuntimeError,
        EOFError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise ConfigError(
            f"Expected a state dict at {state}, found {in_one_line(error)}; save it as "
            "torch.save(model.state_dict(), FILE)."
        ) from error
