"""Which channels a network has lost, as plain JSON, and how to cut another one in the same way.

A channel map reads::

    {"layers": {"conv1": {"out": {"of": 64, "kept": [0, 2, 5]}}, ...}, "shortcuts": {...}}

For each layer that lost some it names the outputs, or the inputs, that are kept (a depthwise
convolution and a BatchNorm have the same for both, written as ``out``) and how many there were.
``shortcuts`` has the channels of zeros before and behind those of each
:class:`~raydrop.models.ThinBlock` whose shortcut changed. The map of a network that lost nothing is
empty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from raydrop.errors import NetworkError
from raydrop.models import ThinBlock

Side = Literal["out", "in"]
ChannelMap = Mapping[str, Any]

_WIDTHS: Mapping[str, Mapping[type[nn.Module], str]] = {
    "out": {_ConvNd: "out_channels", nn.Linear: "out_features", _NormBase: "num_features"},
    "in": {_ConvNd: "in_channels", nn.Linear: "in_features"},
}
"""What the width of a layer that can lose channels is called."""
CUTTABLE = tuple(_WIDTHS["out"])


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution with one filter for each input channel."""
    return (
        isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels
    )


def width(layer: nn.Module, side: str) -> int:
    """Return the number of a layer's outputs or inputs."""
    return int(getattr(layer, _width_name(layer, side)))


def rebuild(model: nn.Module, channels: ChannelMap) -> nn.Module:
    """Return a copy of a dense network cut to a channel map, with its remaining weights.

    Raises:
        NetworkError: If the map does not fit the network, or a layer would vanish; the message
            names the layer.
    """
    cut = copy.deepcopy(model)
    for name, sides in channels.get("layers", {}).items():
        layer = _layer(cut, name)
        for side, entry in sides.items():
            _check_fits(name, layer, side, entry)
            _keep(layer, side, torch.tensor(entry["kept"]))
    for name, padding in channels.get("shortcuts", {}).items():
        block = _layer(cut, name)
        if not isinstance(block, ThinBlock):
            raise _misfit(f"a residual block at {name}", type(block).__name__)
        block.padding = (int(padding[0]), int(padding[1]))
    return cut


def compose(first: ChannelMap, second: ChannelMap) -> dict[str, Any]:
    """Return the channel map of cutting by one map and then, what is left, by another.

    Raises:
        NetworkError: If the second one does not start where the first one ends.
    """
    if not first or not second:
        return dict(first or second)
    layers = {name: dict(sides) for name, sides in first["layers"].items()}
    for name, sides in second["layers"].items():
        for side, entry in sides.items():
            before = layers.setdefault(name, {}).get(side)
            if before is not None:
                kept = before["kept"]
                if entry["of"] != len(kept):
                    raise _misfit(f"{entry['of']} channels of {name}", str(len(kept)))
                entry = {"of": before["of"], "kept": [kept[index] for index in entry["kept"]]}
            layers[name][side] = entry
    return {"layers": layers, "shortcuts": {**first["shortcuts"], **second["shortcuts"]}}


@torch.no_grad()
def zero_removed(model: nn.Module, channels: ChannelMap) -> None:
    """Set everything to zero that makes the removed outputs of a dense network, in place.

    Those are filters, their biases, and the scale and shift of BatchNorm. In eval mode the network
    then computes what it computes when it is cut.
    """
    for name, sides in channels.get("layers", {}).items():
        if "out" in sides:
            gone = torch.ones(sides["out"]["of"], dtype=torch.bool)
            gone[sides["out"]["kept"]] = False
            for parameter in _layer(model, name).parameters(recurse=False):
                parameter[gone.to(parameter.device)] = 0.0


def _width_name(layer: nn.Module, side: str) -> str:
    """Return what a layer's width is called; empty where it has none."""
    return next((name for kind, name in _WIDTHS[side].items() if isinstance(layer, kind)), "")


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise _misfit(f"a module {name}", "none") from error


def _check_fits(name: str, layer: nn.Module, side: str, entry: Mapping[str, Any]) -> None:
    """Raise where a layer is of another kind or width, or nothing of it would be left."""
    if not _width_name(layer, side):
        raise _misfit(f"a layer with channels at {name}", type(layer).__name__)
    of, kept = width(layer, side), entry["kept"]
    if of != entry["of"]:
        raise _misfit(f"{entry['of']} channels ({side}) of {name}", str(of))
    if not kept:
        raise NetworkError(
            f"Expected at least one channel ({side}) of {name} to be kept, found none, so the "
            "layer would vanish; keep one."
        )
    if sorted(set(kept)) != list(kept) or not 0 <= kept[0] <= kept[-1] < of:
        raise _misfit(f"ascending channels ({side}) below {of} of {name}", str(kept[:8]))


def _misfit(expected: str, found: str) -> NetworkError:
    return NetworkError(
        f"Expected {expected}, found {found}; use the channel map that belongs to this network."
    )


def _keep(layer: nn.Module, side: str, kept: Tensor) -> None:
    """Leave a layer only some of its outputs or inputs, in place."""
    if side == "in":
        own: dict[str, Tensor] = {"weight": layer.get_parameter("weight")}
    else:
        every = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        own = {name: each for name, each in every if each.ndim}  # a count of batches has no channel
    for name, tensor in own.items():
        places = kept.to(tensor.device)
        left = tensor.detach()[:, places] if side == "in" else tensor.detach()[places]
        parameter = isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(left, tensor.requires_grad) if parameter else left)
    if side == "out" and is_depthwise(layer):
        layer.in_channels = layer.groups = len(kept)  # type: ignore[assignment]
    setattr(layer, _width_name(layer, side), len(kept))
