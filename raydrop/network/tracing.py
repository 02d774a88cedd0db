"""From a network to its coupled channels: followed by Torch-Pruning, then proven.

Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) follows the graph of gradients from each
convolution to all layers that have to change with it. Because it takes an operation that it does
not know for one that leaves channels where they are, each group is tried before it is trusted: a
copy of the network without half of the group's channels has to compute, in float64, what the
network computes with those channels set to zero. Groups that fail are left whole.

Only filters of convolutions are removed; linear layers lose inputs. The shortcut without parameters
of :class:`~raydrop.models.ThinBlock`, which pads channels, is traced as if it were a convolution
whose outputs are its inputs, so the residual stream of resnet56 is cut in all three stages alike.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from raydrop.data.inputs import InputSpec
from raydrop.errors import NetworkError, in_one_line
from raydrop.models import ImageShape, ThinBlock, as_spec, check_eager
from raydrop.network.channels import CUTTABLE, Side, is_depthwise, rebuild, width, zero_removed
from raydrop.network.coupling import Coupling, LayerSize, Shortcut
from raydrop.network.measure import evaluating, layer_macs

_EXACT = 1e-9
_PRECISE = torch.float64
_SEED = 20230615  # of the images and BatchNorms of a trial; any would do

Owners = MutableMapping[tuple[str, Side], NDArray[np.int64]]
"""As :attr:`raydrop.network.coupling.Coupling.owners`."""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Coupling]] = weakref.WeakKeyDictionary()
"""Of networks that are alive, because methods ask for names and then cut: tracing takes seconds."""


def coupling_of(model: nn.Module, inputs: InputSpec | ImageShape) -> Coupling:
    """Return the coupled channels of a network; the network is left as it is.

    Raises:
        NetworkError: If the network cannot be traced; the message names the module.
    """
    image_shape = as_spec(inputs).image_shape
    if image_shape is None:
        raise NetworkError(
            f"Expected images for a method that removes channels, found inputs {inputs}; use one "
            "that masks weights, such as unstructured_magnitude."
        )
    signature = (image_shape, tuple((k, tuple(v.shape)) for k, v in model.state_dict().items()))
    known = _KNOWN.get(model)
    if known is None or known[0] != signature:
        known = (signature, _traced(model, image_shape))
        _KNOWN[model] = known
    return known[1]


def _traced(model: nn.Module, image_shape: ImageShape) -> Coupling:
    check_eager(model, NetworkError)
    probe = copy.deepcopy(model).cpu().to(_PRECISE).requires_grad_(True).eval()
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(4, *image_shape, dtype=_PRECISE, generator=generator)
    called = _called(probe, images[:1])
    macs = layer_macs(probe, image_shape)
    _randomise_norms(probe, images, generator)
    stand_in = copy.deepcopy(probe)
    shortcuts = _trace_shortcuts(stand_in)
    groups, owners = _joined(*_followed(stand_in, images[:1], called), shortcuts)
    layers = _layer_sizes(probe, {name for name, _ in owners}, macs)
    coupling = Coupling(
        groups,
        owners,
        layers,
        macs[""] - sum(each.macs for each in layers.values()),
        sum(each.numel() for each in probe.parameters())
        - sum(each.weights + each.vectors for each in layers.values()),
        shortcuts,
        tuple(name for name, each in probe.named_modules() if isinstance(each, _ConvNd)),
    )
    return _only(coupling, _proven(probe, coupling, images[:1]), probe)


def _only(coupling: Coupling, proven: Sequence[int], model: nn.Module) -> Coupling:
    """Return a coupling with some of its groups."""
    stays = np.isin(coupling.groups, proven)
    number = np.append(np.where(stays, stays.cumsum() - 1, -1), -1)
    owners = {place: number[owner] for place, owner in coupling.owners.items()}
    left = replace(coupling, groups=coupling.groups[stays], owners=owners)
    if not left.prunable:
        raise NetworkError(
            f"Expected a network with convolutions that can lose filters, found "
            f"{type(model).__name__} with {', '.join(left.convolutions[:3]) or 'no convolution'}; "
            "use another model, or a method that masks weights such as unstructured_magnitude."
        )
    return left


# --- running and following the network ---


def _called(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the modules that a forward pass calls, in order of their first call."""
    called: dict[str, None] = {}
    running: list[str] = []

    def enter(name: str, *_: object) -> None:
        called.setdefault(name)
        running.append(name)

    def leave(*_: object) -> None:
        running.pop()

    try:
        with contextlib.ExitStack() as hooks, torch.enable_grad():
            for name, module in model.named_modules():
                hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
            logits = model(images)
    except Exception as error:  # whatever a network's own code raises
        raise _untraceable(model, running[-1] if running else "", in_one_line(error)) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise _untraceable(model, "", f"outputs that are no matrix of logits: {type(logits)}")
    if logits.grad_fn is None:
        raise _untraceable(model, "", "outputs without gradient")
    return list(called)


def _untraceable(model: nn.Module, name: str, found: str) -> NetworkError:
    module = model.get_submodule(name)
    where = f"module {name} ({type(module).__name__})" if name else f"{type(model).__name__}"
    return NetworkError(
        f"Expected a network that can be traced, found {found} in {where}; use a model whose "
        "forward pass is plain tensor operations, or a method that masks weights."
    )


def _followed(
    model: nn.Module, images: Tensor, called: Sequence[str]
) -> tuple[NDArray[np.int64], Owners]:
    """Return the groups and places of the channels that may be cut."""
    import torch_pruning  # seconds where timm is installed, which it imports

    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            graph = torch_pruning.DependencyGraph().build_dependency(
                model, images, forward_fn=lambda network, inputs: network(inputs), verbose=False
            )
    except Exception as error:  # it raises whatever comes up
        raise _untraceable(model, "", in_one_line(error)) from error
    names = {module: name for name, module in model.named_modules()}
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, _ConvNd)}
    lost = [n for n in called if n in convolutions and convolutions[n] not in graph.module2node]
    if lost:  # the last one called is where the graph breaks
        raise _untraceable(model, lost[-1], "outputs that are cut off from the gradient")
    groups: list[int] = []
    owners: Owners = {}
    seen: set[str] = set()
    for number, (name, module) in enumerate(convolutions.items()):
        if name in seen or module not in graph.module2node or isinstance(module, _ConvTransposeNd):
            continue
        prune = graph.get_pruner_of_module(module).prune_out_channels
        found = graph.get_pruning_group(module, prune, list(range(module.out_channels)))
        places = _places(graph, found, names)
        seen |= {name} | {member for member, side in places or () if side == "out"}
        for place, channels in (places or {}).items():
            owner = owners.setdefault(place, np.full(len(channels), -1))
            owner[channels >= 0] = channels[channels >= 0] + len(groups)
        groups += [number] * module.out_channels if places else []
    return np.array(groups, np.int64), owners


def _places(graph: Any, found: Any, names: Mapping[nn.Module, str]) -> Owners | None:
    """Return where a group of Torch-Pruning's has its channels, or None if it cannot be cut."""
    from torch_pruning import ops

    # The logits keep their number, and a split into equal parts would part elsewhere.
    uncuttable = (nn.Parameter, ops._OutputOp, ops._SplitOp, ops._UnbindOp)
    places: Owners = {}
    for item in found:
        module = item.dep.target.module
        if isinstance(module, uncuttable):
            return None
        if module not in names:
            continue
        if not _cuttable(module):
            return None
        out = isinstance(module, _NormBase) or is_depthwise(module)
        side: Side = "out" if out or graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        channels = np.full(width(module, side), -1)
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            inside = root is not None and 0 <= index < len(channels)
            if not inside or channels[index] not in (-1, root):  # one output of several channels
                return None
            channels[index] = root
        places[names[module], side] = channels
    return places


def _cuttable(module: nn.Module) -> bool:
    """Whether a layer can lose channels one by one and compute the same with the others."""
    if isinstance(module, _ConvNd):
        plain = module.groups == 1 or is_depthwise(module)
        return plain and not isinstance(module, _ConvTransposeNd)
    return isinstance(module, CUTTABLE) and getattr(module, "track_running_stats", True) is True


# --- shortcuts that pad ---


class _TracedBlock(nn.Module):
    """A ThinBlock whose shortcut is a convolution, for the tracer only."""

    def __init__(self, block: ThinBlock, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second, self.activation = block.first, block.second, block.activation
        self.shortcut = nn.Conv2d(inputs, outputs, 1, block.stride, bias=False, dtype=_PRECISE)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.activation(self.second(self.first(inputs)) + self.shortcut(inputs))
        return result


def _trace_shortcuts(model: nn.Module) -> dict[str, Shortcut]:
    """Replace blocks whose shortcut pads or strides, in place, and return what they pad."""
    shortcuts = {}
    for name, block in list(model.named_modules()):
        if isinstance(block, ThinBlock) and (block.stride > 1 or any(block.padding)):
            inputs, outputs = width(block.first[0], "in"), width(block.second[0], "out")
            model.set_submodule(name, _TracedBlock(block, inputs, outputs))
            shortcuts[name] = Shortcut(f"{name}.second.0", block.padding[0], inputs)
    return shortcuts


def _joined(
    groups: NDArray[np.int64], owners: Owners, shortcuts: Mapping[str, Shortcut]
) -> tuple[NDArray[np.int64], Owners]:
    """Make channels one that go through a shortcut: input i of one is its output before + i.

    Channels that then go through the same groups are a group.
    """
    joined = np.arange(len(groups))
    for name, shortcut in shortcuts.items():
        inputs = owners.pop((f"{name}.shortcut", "in"), None)
        outputs = owners.pop((f"{name}.shortcut", "out"), None)
        if inputs is None or outputs is None:
            continue
        for first, second in zip(inputs, outputs[shortcut.before :], strict=False):
            if first >= 0 and second >= 0:
                joined[joined == joined[second]] = joined[first]
    through: dict[int, set[int]] = {}
    for channel, group in zip(joined.tolist(), groups.tolist(), strict=True):
        through.setdefault(channel, set()).add(group)
    numbers: dict[tuple[int, ...], int] = {}
    merged = [numbers.setdefault(tuple(sorted(each)), len(numbers)) for each in through.values()]
    order = np.argsort(merged, kind="stable")
    channels = list(through)
    rank = {channels[place]: number for number, place in enumerate(order)}
    new = np.append([rank[channel] for channel in joined.tolist()], -1).astype(np.int64)
    # Layers come in the order of the groups that go through them, which scores are added up in.
    reached = {place: {*groups[own[own >= 0]].tolist()} for place, own in owners.items()}
    places = [p for key in numbers for group in key for p in owners if group in reached[p]]
    return np.array(merged, np.int64)[order], {place: new[owners[place]] for place in places}


# --- sizes and trials ---


def _layer_sizes(
    model: nn.Module, names: set[str], macs: Mapping[str, int]
) -> dict[str, LayerSize]:
    sizes = {}
    for name, layer in model.named_modules():
        if name not in names:
            continue
        own = {key: each.numel() for key, each in layer.named_parameters(recurse=False)}
        tied = isinstance(layer, _NormBase) or is_depthwise(layer)
        weights = 0 if isinstance(layer, _NormBase) else own["weight"]
        inputs = 1 if tied else width(layer, "in")
        vectors = sum(own.values()) - weights
        sizes[name] = LayerSize(width(layer, "out"), inputs, macs.get(name, 0), weights, vectors)
    return sizes


def _randomise_norms(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Give BatchNorms values with which no channel is dead, so that a wrong cut shows."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.uniform_(-0.5, 0.5, generator=generator)
            norm.momentum = 1.0
            norm.train()
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _proven(model: nn.Module, coupling: Coupling, images: Tensor) -> list[int]:
    """Return the groups that can be cut: all, or those that pass a trial by themselves."""
    groups: list[int] = np.unique(coupling.groups).tolist()
    if not groups or _passes(model, coupling, groups, images):
        return groups
    single = [group for group in groups if _passes(model, coupling, [group], images)]
    if not single or _passes(model, coupling, single, images):
        return single
    channels = np.flatnonzero(coupling.groups == single[0])
    owned = (n for n in coupling.prunable if np.isin(coupling.owners[n, "out"], channels).any())
    raise _untraceable(model, next(owned), "channels coupled in an unknown way")


def _passes(model: nn.Module, coupling: Coupling, groups: Sequence[int], images: Tensor) -> bool:
    """Whether the network without every second channel of some groups computes what it should."""
    kept = coupling.everything()
    for group in groups:
        kept[np.flatnonzero(coupling.groups == group)[1::2]] = False
    channels = coupling.channels(kept)
    zeroed = copy.deepcopy(model)
    zero_removed(zeroed, channels)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = zeroed.eval()(images)
        try:
            found = rebuild(model, channels).eval()(images)
        except (RuntimeError, ValueError, IndexError):  # shapes that no longer fit
            return False
    scale = max(1.0, float(expected.abs().max()))
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _EXACT * scale)
