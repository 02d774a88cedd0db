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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from raydrop.errors import NetworkError
from raydrop.models import ThinBlock

Side = Literal["out", "in"]
ChannelMap = Mapping[str, Any]

_WIDTHS: Mapping[Side, Mapping[type[nn.Module], str]] = {
    "out": {_ConvNd: "out_channels", nn.Linear: "out_features", _NormBase: "num_features"},
    "in": {_ConvNd: "in_channels", nn.Linear: "in_features"},
}
"""What a layer's width is called."""
CUTTABLE = (_ConvNd, nn.Linear, _NormBase)
"""Layers that can lose channels."""


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution with one filter for each input channel."""
    return (
        isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels
    )


def width(layer: nn.Module, side: Side) -> int:
    """Return the number of a layer's outputs or inputs."""
    attribute = next(name for kind, name in _WIDTHS[side].items() if isinstance(layer, kind))
    return int(getattr(layer, attribute))


def channel_map(
    layers: Mapping[str, Mapping[Side, tuple[int, Sequence[int]]]],
    shortcuts: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """Return the channel map of layers that lost some channels.

    Args:
        layers: For each layer and side, how many channels there were and which are kept.
        shortcuts: Channels of zeros before and behind each shortcut that changed.
    """
    changed = {
        name: {
            side: {"of": of, "kept": [int(index) for index in kept]}
            for side, (of, kept) in sides.items()
            if len(kept) < of
        }
        for name, sides in layers.items()
    }
    cut = {name: sides for name, sides in changed.items() if sides}
    if not cut:
        return {}
    return {"layers": cut, "shortcuts": {name: list(pads) for name, pads in shortcuts.items()}}


def rebuild(model: nn.Module, channels: ChannelMap) -> nn.Module:
    """Return a copy of a dense network cut to a channel map, with its remaining weights.

    Args:
        model: The dense network, as it was before channels were removed.
        channels: What :attr:`raydrop.network.base.Pruned.channels` holds; empty for nothing.

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


def restore(
    model: nn.Module,
    dense: nn.Module,
    channels: ChannelMap,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Give a pruned network the values that its remaining weights and buffers have in a dense one.

    Args:
        model: The pruned network, changed in place.
        dense: The dense network, with the values to be restored.
        channels: What the pruned network lost of it.
        masks: True where a weight stays, by the name of its parameter.

    Raises:
        NetworkError: If the map does not fit the dense network.
    """
    state = rebuild(dense, channels).state_dict()
    for name, mask in (masks or {}).items():
        state[name] = state[name] * mask.to(state[name].device)
    model.load_state_dict(state)


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
            layers[name][side] = entry if before is None else _composed(name, before, entry)
    return {"layers": layers, "shortcuts": {**first["shortcuts"], **second["shortcuts"]}}


def zero_removed(model: nn.Module, channels: ChannelMap) -> None:
    """Set everything to zero that makes the removed outputs of a dense network, in place.

    Those are filters, their biases, and the scale and shift of BatchNorm. In eval mode the network
    then computes what it computes when it is cut.
    """
    with torch.no_grad():
        for name, sides in channels.get("layers", {}).items():
            if "out" not in sides:
                continue
            layer, entry = _layer(model, name), sides["out"]
            gone = torch.ones(entry["of"], dtype=torch.bool)
            gone[entry["kept"]] = False
            for parameter in layer.parameters(recurse=False):
                parameter[gone.to(parameter.device)] = 0.0


def _composed(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return one entry of a layer and side for two in a row."""
    kept = first["kept"]
    if second["of"] != len(kept):
        raise _misfit(f"{second['of']} channels of {name}", str(len(kept)))
    return {"of": first["of"], "kept": [kept[index] for index in second["kept"]]}


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise _misfit(f"a module {name}", "none") from error


def _check_fits(name: str, layer: nn.Module, side: str, entry: Mapping[str, Any]) -> None:
    """Raise where a layer is of another kind or width, or nothing of it would be left."""
    known = _WIDTHS["in" if side == "in" else "out"]
    if not isinstance(layer, tuple(known)):
        raise _misfit(f"a layer with channels at {name}", type(layer).__name__)
    of, kept = width(layer, "in" if side == "in" else "out"), entry["kept"]
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


def _keep(layer: nn.Module, side: Side, kept: Tensor) -> None:
    """Leave a layer only some of its outputs or inputs, in place."""
    if isinstance(layer, _NormBase):
        _slice(layer, lambda tensor: tensor[kept.to(tensor.device)] if tensor.ndim else tensor)
        layer.num_features = len(kept)
    elif side == "out":
        _slice(layer, lambda tensor: tensor[kept.to(tensor.device)])
        if is_depthwise(layer):
            layer.in_channels = layer.groups = len(kept)  # type: ignore[assignment]
        setattr(layer, _WIDTHS["out"][_kind(layer)], len(kept))
    else:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        layer.weight = _like(weight, weight.detach()[:, kept.to(weight.device)])
        setattr(layer, _WIDTHS["in"][_kind(layer)], len(kept))


def _kind(layer: nn.Module) -> type[nn.Module]:
    return _ConvNd if isinstance(layer, _ConvNd) else nn.Linear


def _slice(layer: nn.Module, cut: Callable[[Tensor], Tensor]) -> None:
    """Cut a layer's own parameters and buffers."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, _like(parameter, cut(parameter.detach())))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, cut(buffer).clone())


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(), requires_grad=parameter.requires_grad)
