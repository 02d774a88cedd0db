"""Everything that touches Torch-Pruning: which channels are coupled, and cutting them.

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

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from raydrop.errors import NetworkError, in_one_line
from raydrop.models import ThinBlock, check_eager
from raydrop.network.base import MEASURES, Pruned, PruningTask
from raydrop.network.channels import (
    CUTTABLE,
    Side,
    is_depthwise,
    rebuild,
    width,
    zero_removed,
)
from raydrop.network.coupling import (
    TOLERANCE,
    ChannelGroup,
    Combine,
    Coupling,
    Kept,
    LayerSize,
    Member,
    Shortcut,
    choose,
    tolerance,
)
from raydrop.network.measure import evaluating, layer_macs, network_size

_EXACT = 1e-9
_PRECISE = torch.float64
_SEED = 20230615  # of the images and BatchNorms of a trial; any would do

ImageShape = tuple[int, int, int]


def prunable(task: PruningTask) -> tuple[str, ...]:
    """Return the names of the convolutions that can lose filters, in the network's order.

    Raises:
        NetworkError: If the network cannot be traced; the message names the module.
    """
    return coupling_of(task.model, task.image_shape).prunable


def cut_by_scores(
    task: PruningTask,
    scores: Mapping[str, Tensor],
    *,
    combine: Combine = "mean",
    facts: Mapping[str, Any] | None = None,
) -> Pruned:
    """Remove the filters with the lowest scores until the target is met.

    All filters are ranked together, so scores of different layers have to be comparable. Filters
    that are coupled (by a residual stream, or by a depthwise convolution) have one score, the mean
    or sum of theirs, and go together. Equal scores go in a seeded order; at least one filter of
    each layer stays.

    Args:
        task: The network and its target; the network is left as it is.
        scores: For each of :func:`prunable`, (out_channels,); higher ones stay. Of coupled
            convolutions some may be left out, but not all.
        combine: How scores of coupled filters are combined, over those that are given.
        facts: What else :attr:`Pruned.facts` is to hold.

    Returns:
        The cut network, measured. Its note says so where the target could not be reached within
        2 % of what is to go, and of what is to stay.

    Raises:
        NetworkError: If the network cannot be traced (the message names the module), or a score is
            missing, NaN, or of another shape.
    """
    coupling = coupling_of(task.model, task.image_shape)
    combined = combined_scores(coupling, scores, combine)
    return cut(task, coupling, chosen(task, coupling, combined), facts)


def combined_scores(
    coupling: Coupling, scores: Mapping[str, Tensor], combine: Combine = "mean"
) -> list[NDArray[np.float64]]:
    """Return the score of each coupled channel, (width,) for each group.

    Raises:
        NetworkError: If a score is missing, NaN, or of another shape.
    """
    for group in coupling.groups:
        if not any(name in scores for name in group.convolutions):
            raise NetworkError(
                f"Expected scores for the filters of {group.convolutions[0]}, found none; give "
                "scores for every convolution that can lose filters."
            )
    return coupling.combined(
        {
            name: _checked(name, scores[name], coupling.layers[name].outputs)
            for name in coupling.prunable
            if name in scores
        },
        combine,
    )


def chosen(
    task: PruningTask,
    coupling: Coupling,
    scores: Sequence[NDArray[np.float64]],
    fraction: float | None = None,
) -> list[NDArray[np.bool_]]:
    """Return the coupled channels that stay so that a target is met.

    Args:
        task: The network's target and seed.
        coupling: The network's coupled channels.
        scores: (width,) for each group; higher ones stay.
        fraction: Share of the dense network's measure that goes; None for the target's.
    """
    measure = task.target.measure
    if measure == "sparsity":
        raise NetworkError(
            f"Expected a target of flops or parameters where channels go, found "
            f"{task.target.name}; write flops({task.target.fraction:g})."
        )
    goes = task.target.fraction if fraction is None else fraction
    dense = task.dense.of(measure)
    return choose(
        coupling, scores, round(dense * (1 - goes)), measure, tolerance(goes) * dense, task.seed
    )


def cut(
    task: PruningTask, coupling: Coupling, kept: Kept, facts: Mapping[str, Any] | None = None
) -> Pruned:
    """Return the network with some of its channels only, measured.

    Raises:
        NetworkError: If a layer would vanish; the message names it.
    """
    channels = coupling.channels(kept)
    model = rebuild(task.model, channels)
    size = network_size(model, task.image_shape)
    measure, dense = task.target.measure, task.dense.of(task.target.measure)
    reached = 1 - size.of(measure) / dense
    filters = coupling.filters(kept)
    own = {"filters": filters, "left_whole": list(coupling.left_whole)}
    return Pruned(
        model,
        size,
        reached,
        channels,
        note=_note(task, reached, all(int(stays.sum()) == 1 for stays in kept)),
        facts={**own, **(facts or {})},
    )


def coupling_of(model: nn.Module, image_shape: ImageShape) -> Coupling:
    """Return the coupled channels of a network; the network is left as it is.

    Raises:
        NetworkError: If the network cannot be traced; the message names the module.
    """
    signature = (image_shape, tuple((k, tuple(v.shape)) for k, v in model.state_dict().items()))
    known = _KNOWN.get(model)
    if known is None or known[0] != signature:
        known = (signature, _traced(model, image_shape))
        _KNOWN[model] = known
    return known[1]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Coupling]] = weakref.WeakKeyDictionary()
"""Of networks that are alive, because methods ask for names and then cut: tracing takes seconds."""


def _traced(model: nn.Module, image_shape: ImageShape) -> Coupling:
    check_eager(model, NetworkError)
    probe = copy.deepcopy(model).cpu().to(_PRECISE).requires_grad_(True).eval()
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(4, *image_shape, dtype=_PRECISE, generator=generator)
    called = _called(probe, images[:1])
    macs = layer_macs(probe, image_shape)
    total, parameters = macs[""], sum(each.numel() for each in probe.parameters())
    _randomise_norms(probe, images, generator)
    shortcuts, convolutions, groups = _followed(probe, images[:1], called)
    joined = _joined(groups, shortcuts)
    layers = _layer_sizes(probe, {m.module for g in joined for m in g.members}, macs)
    coupling = Coupling(
        tuple(joined),
        layers,
        total - sum(each.macs for each in layers.values()),
        parameters - sum(each.weights + each.vectors for each in layers.values()),
        shortcuts,
        (),
    )
    proven = _proven(probe, coupling, images[:1])
    names = [name for name in convolutions if name not in _shortcut_layers(shortcuts)]
    return _only(coupling, proven, names, probe)


def _only(
    coupling: Coupling, groups: Sequence[ChannelGroup], names: Sequence[str], model: nn.Module
) -> Coupling:
    """Return a coupling with some of its groups, and with the convolutions that are left whole."""
    made = Coupling(
        tuple(groups),
        coupling.layers,
        coupling.rest_macs,
        coupling.rest_parameters,
        coupling.shortcuts,
        tuple(n for n in names if not any(n in group.convolutions for group in groups)),
    )
    if not groups:
        raise NetworkError(
            f"Expected a network with convolutions that can lose filters, found "
            f"{type(model).__name__} with {', '.join(names[:3]) or 'no convolution'}; use another "
            "model, or a method that masks weights such as unstructured_magnitude."
        )
    return made


# --- running and tracing the network ---


def _called(model: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Return the modules that a forward pass calls, by name, in the order of their first call.

    Raises:
        NetworkError: If the pass fails, or does not end in logits; the message names the module.
    """
    called: dict[str, nn.Module] = {}
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def entered(module: nn.Module, *_: object) -> None:
            called.setdefault(name, module)
            running.append(name)

        return entered

    def leave(*_: object) -> None:
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with torch.enable_grad():
            logits = model(images)
    except Exception as error:  # whatever a network's own code raises
        raise _untraceable(model, running[-1] if running else "", in_one_line(error)) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise _untraceable(model, "", f"outputs that are no matrix of logits: {type(logits)}")
    if logits.grad_fn is None:
        raise _untraceable(model, "", "outputs without gradient")
    return called


def _untraceable(model: nn.Module, name: str, found: str) -> NetworkError:
    module = model.get_submodule(name)
    where = f"module {name} ({type(module).__name__})" if name else f"{type(model).__name__}"
    return NetworkError(
        f"Expected a network that can be traced, found {found} in {where}; use a model whose "
        "forward pass is plain tensor operations, or a method that masks weights."
    )


def _followed(
    model: nn.Module, images: Tensor, called: Mapping[str, nn.Module]
) -> tuple[dict[str, Shortcut], list[str], list[ChannelGroup]]:
    """Return shortcuts that pad, names of convolutions, and groups, of a copy that is dropped."""
    stand_in = copy.deepcopy(model)
    shortcuts = _trace_shortcuts(stand_in)
    return shortcuts, *_groups(stand_in, images, called)


def _groups(
    model: nn.Module, images: Tensor, called: Mapping[str, nn.Module]
) -> tuple[list[str], list[ChannelGroup]]:
    """Return the names of the convolutions, and the groups that may be cut.

    Raises:
        NetworkError: If a convolution that is called is not in the graph of gradients, or it cannot
            be followed.
    """
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            graph = torch_pruning.DependencyGraph().build_dependency(
                model, images, forward_fn=lambda network, inputs: network(inputs), verbose=False
            )
    except Exception as error:  # it raises whatever comes up
        raise _untraceable(model, "", in_one_line(error)) from error
    names = {module: name for name, module in model.named_modules()}
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, _ConvNd)]
    modules = dict(convolutions)
    lost = [name for name in called if name in modules and modules[name] not in graph.module2node]
    if lost:  # the last one called is where the graph breaks
        raise _untraceable(model, lost[-1], "outputs that are cut off from the gradient")
    groups: list[ChannelGroup] = []
    seen: set[str] = set()
    for name, module in convolutions:
        if name in seen or module not in graph.module2node or isinstance(module, _ConvTransposeNd):
            continue
        prune = graph.get_pruner_of_module(module).prune_out_channels
        found = graph.get_pruning_group(module, prune, list(range(module.out_channels)))
        members = _members(graph, found, names, module.out_channels)
        seen |= {name} | {m.module for m in members or () if m.side == "out"}
        if members is not None:
            groups.append(_group(model, module.out_channels, members))
    return [name for name, _ in convolutions], groups


def _members(
    graph: Any, found: Any, names: Mapping[nn.Module, str], channels: int
) -> list[Member] | None:
    """Return the layers of one of Torch-Pruning's groups, or None if they cannot be cut."""
    members = []
    for item in found:
        module = item.dep.target.module
        if isinstance(module, _UNCUTTABLE):
            return None
        if module not in names:
            continue
        if not _cuttable(module):
            return None
        out = isinstance(module, _NormBase) or is_depthwise(module)
        side: Side = "out" if out or graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        indices: list[list[int]] = [[] for _ in range(channels)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if root is None or not 0 <= index < width(module, side):
                return None
            indices[root].append(int(index))
        members.append(Member(names[module], side, tuple(tuple(each) for each in indices)))
    return members


_UNCUTTABLE = (
    nn.Parameter,
    torch_pruning.ops._OutputOp,  # the logits keep their number
    torch_pruning.ops._SplitOp,  # a split into equal parts would part elsewhere
    torch_pruning.ops._UnbindOp,
)


def _cuttable(module: nn.Module) -> bool:
    """Whether a layer can lose channels one by one and compute the same with the others."""
    if isinstance(module, _ConvNd):
        plain = module.groups == 1 or is_depthwise(module)
        return plain and not isinstance(module, _ConvTransposeNd)
    return isinstance(module, CUTTABLE) and getattr(module, "track_running_stats", True) is True


def _group(model: nn.Module, channels: int, members: Sequence[Member]) -> ChannelGroup:
    unique = {(each.module, each.side): each for each in members}
    convolutions = tuple(
        name
        for (name, side) in unique
        if side == "out" and isinstance(model.get_submodule(name), _ConvNd)
    )
    return ChannelGroup(channels, tuple(unique.values()), convolutions)


# --- shortcuts that pad ---


def _shortcut_layers(shortcuts: Mapping[str, Shortcut]) -> dict[str, Shortcut]:
    return {f"{name}.shortcut": shortcut for name, shortcut in shortcuts.items()}


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
            inputs, outputs = block.first[0].in_channels, block.second[0].out_channels
            assert isinstance(inputs, int)
            assert isinstance(outputs, int)
            model.set_submodule(name, _TracedBlock(block, inputs, outputs))
            shortcuts[name] = Shortcut(f"{name}.second.0", block.padding[0], inputs)
    return shortcuts


def _joined(
    groups: Sequence[ChannelGroup], shortcuts: Mapping[str, Shortcut]
) -> list[ChannelGroup]:
    """Couple channels across shortcuts: input i of one is its output before + i."""
    classes = _Classes(groups)
    pads = _shortcut_layers(shortcuts)
    for name, shortcut in pads.items():
        inputs, outputs = classes.places(name, "in"), classes.places(name, "out")
        for index in range(shortcut.inputs):
            classes.join(inputs.get(index), outputs.get(shortcut.before + index))
    return classes.groups(lambda name: name not in pads)


class _Classes:
    """Which channels of which groups are one coupled channel."""

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        self._groups = groups
        self._parent = {(g, c): (g, c) for g, each in enumerate(groups) for c in range(each.width)}

    def places(self, module: str, side: Side) -> dict[int, tuple[int, int]]:
        """Return the group and channel of each of a layer's channels."""
        return {
            index: (g, c)
            for g, group in enumerate(self._groups)
            for member in group.members
            if (member.module, member.side) == (module, side)
            for c, indices in enumerate(member.indices)
            for index in indices
        }

    def join(self, first: tuple[int, int] | None, second: tuple[int, int] | None) -> None:
        """Make two channels one; None is a channel that is never removed."""
        if first is not None and second is not None:
            self._parent[self._root(second)] = self._root(first)

    def groups(self, wanted: Callable[[str], bool]) -> list[ChannelGroup]:
        """Return groups of the joined channels, those together that join the same groups."""
        classes: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place in self._parent:
            classes.setdefault(self._root(place), []).append(place)
        alike: dict[tuple[int, ...], list[list[tuple[int, int]]]] = {}
        for places in classes.values():
            alike.setdefault(tuple(sorted({g for g, _ in places})), []).append(places)
        return [self._merged(joined, channels, wanted) for joined, channels in alike.items()]

    def _merged(
        self,
        joined: tuple[int, ...],
        channels: Sequence[Sequence[tuple[int, int]]],
        wanted: Callable[[str], bool],
    ) -> ChannelGroup:
        members = [
            Member(
                member.module,
                member.side,
                tuple(
                    tuple(index for (g, c) in places if g == group for index in member.indices[c])
                    for places in channels
                ),
            )
            for group in joined
            for member in self._groups[group].members
            if wanted(member.module)
        ]
        names = [name for group in joined for name in self._groups[group].convolutions]
        return ChannelGroup(
            len(channels), tuple(members), tuple(name for name in names if wanted(name))
        )

    def _root(self, place: tuple[int, int]) -> tuple[int, int]:
        while self._parent[place] != place:
            place = self._parent[place]
        return place


# --- sizes, trials ---


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


def _proven(model: nn.Module, coupling: Coupling, images: Tensor) -> list[ChannelGroup]:
    """Return the groups that can be cut: all, or those that pass a trial by themselves."""
    groups = list(coupling.groups)
    if not groups or _passes(model, coupling, groups, images):
        return groups
    single = [group for group in groups if _passes(model, coupling, [group], images)]
    if not single or _passes(model, coupling, single, images):
        return single
    raise _untraceable(model, single[0].convolutions[0], "channels coupled in an unknown way")


def _passes(
    model: nn.Module, coupling: Coupling, groups: Sequence[ChannelGroup], images: Tensor
) -> bool:
    """Whether the network without every second channel of some groups computes what it should."""
    kept = coupling.everything()
    for stays, group in zip(kept, coupling.groups, strict=True):
        if any(group is each for each in groups):
            stays[1::2] = False
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


def _checked(name: str, scores: Tensor, filters: int) -> NDArray[np.float64]:
    if scores.shape != (filters,):
        raise NetworkError(
            f"Expected one score for each of the {filters} filters of {name}, found shape "
            f"{tuple(scores.shape)}; give a vector."
        )
    values: NDArray[np.float64] = scores.detach().double().cpu().numpy()
    if np.isnan(values).any():
        raise NetworkError(
            f"Expected a number as the score of every filter of {name}, found NaN; lower the "
            "learning rate, or look at the loss."
        )
    return values


def _note(task: PruningTask, reached: float, at_the_least: bool) -> str:
    """Return a sentence where the target was missed by more than the tolerance."""
    target = task.target
    if abs(reached - target.fraction) <= tolerance(target.fraction):
        return ""
    if at_the_least:
        why = "every layer that can lose filters is down to its last one"
    elif reached > target.fraction and not _removes_anything(task, reached):
        why = "the network had no more to begin with"
    else:
        why = "the next filter is a larger step than that"
    return (
        f"The target {target.name} could not be reached within {TOLERANCE:.0%}: {reached:.4f} of "
        f"the dense network's {MEASURES[target.measure]} are gone, because {why}."
    )


def _removes_anything(task: PruningTask, reached: float) -> bool:
    before = network_size(task.model, task.image_shape).of(task.target.measure)
    return 1 - before / task.dense.of(task.target.measure) < reached


def named_layers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, _ConvNd]]:
    """Yield convolutions by name."""
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, _ConvNd)
        yield name, layer
