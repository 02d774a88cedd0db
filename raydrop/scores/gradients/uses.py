"""Which parameter was used where, and what each use adds to every sample's gradient.

Operations with a rule compute with detached parameters, so autograd never forms a weight gradient;
each use waits for the gradient at its output and adds at once what it knows, then lets its inputs
go. A parameter that autograd still reaches takes the general path. :func:`probe` finds out which
axis of inputs holds the samples by running the model on two, of which one is then exchanged.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from raydrop.data.inputs import Inputs, each, leaves
from raydrop.scores.gradients import checks
from raydrop.scores.gradients.checks import Batch
from raydrop.scores.gradients.operations import Call, Slot, intercepted
from raydrop.scores.gradients.rules import Role, Use

UseKey = tuple[str, int]
"""Name of the first parameter that a use reads, and how often one was read before."""
Read = dict[Role, tuple[str, Slot]]
"""Parameters with a rule that a use reads, with their names."""
Path = Literal["rule", "general", "frozen"]
UNCHANGED = -1
"""No axis: exchanging a sample made no difference, which says nothing."""


@dataclass(frozen=True)
class ParameterPath:
    """How the gradient of one parameter is found."""

    name: str
    """As in ``named_parameters()``; a tied parameter has its first name."""
    shape: tuple[int, ...]
    path: Path
    """``rule``: by its layer's rule; ``general``: sample by sample; ``frozen``: not trainable."""
    layer: str
    """Class of the layer that holds it."""
    reason: str = ""
    """Why it takes the general path."""


@dataclass(frozen=True)
class Plan:
    """How every trainable parameter of a model is dealt with."""

    ruled: frozenset[str] = frozenset()
    """Names whose gradients the rules give."""
    general: frozenset[str] = frozenset()
    """Names that take the general path."""
    shared: frozenset[str] = frozenset()
    """Ruled ones that several uses read: their gradients are summed before they are reduced."""
    axes: Mapping[UseKey, tuple[int, int]] = field(default_factory=dict)
    """Axis of the inputs, 0 or 1, that holds the samples, and how many rows of it each has."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a name takes the general path."""
    classes: int = 0
    """Outputs of the model, K."""

    def paths(self, model: nn.Module) -> tuple[ParameterPath, ...]:
        """Return every parameter's path."""
        layers = {  # of the first layer that holds it
            f"{prefix}.{name}" if prefix else name: type(layer).__name__
            for prefix, layer in model.named_modules(remove_duplicate=False)
            for name, _ in layer._parameters.items()  # TorchScript has no other way to iterate
        }
        paths = []
        for name, p in model.named_parameters():
            path: Path = "rule" if p.requires_grad else "frozen"
            reason, layer = "", layers[name]
            if p.requires_grad and name in self.general:
                lacking = f"{layer}, or what is outside of it, uses it in a way that has no rule"
                path = "general"
                reason = "it is complex" if p.is_complex() else self.reasons.get(name) or lacking
            paths.append(ParameterPath(name, tuple(p.shape), path, layer, reason))
        return tuple(paths)


class UnplannedUseError(Exception):
    """The model took another course than when it was probed."""


class _Watching:
    """Computes with detached values of the parameters that have a rule, and names every use."""

    def __init__(self, batch: Batch, ruled: frozenset[str]) -> None:
        self._names, self._ruled = batch.names, ruled
        self._counts: Counter[str] = Counter()
        self._anchor = torch.zeros((), device=batch.device, requires_grad=True)

    def __call__(self, call: Call) -> Tensor:
        """Compute, and tell of the use."""
        roles: tuple[tuple[Role, Slot], ...] = (("weight", call.weight), ("bias", call.bias))
        values, read = [], Read()
        for role, slot in roles:
            value, name = slot.value, self._names.get(id(slot.parameter), "")
            if value is not None and name in self._ruled:
                value, read[role] = value.detach(), (name, slot)
            values.append(value)
        y = call.compute(call.inputs, *values)
        return self._used(y, call, read) if read else y

    def _used(self, y: Tensor, call: Call, read: Read) -> Tensor:
        """Return what is to take the place of a use's output."""
        raise NotImplementedError

    def _key(self, read: Read) -> UseKey:
        """Return the key of the use that is under way."""
        name = next(iter(read.values()))[0]
        self._counts[name] += 1
        return name, self._counts[name] - 1

    def _hooked(self, y: Tensor, hook: Callable[[Tensor], None]) -> Tensor:
        """Let a hook see the gradient at an output."""
        # Where nothing before it is differentiated, autograd would stop short of it.
        y = y if y.requires_grad else y.add_(self._anchor)
        y.register_hook(hook)
        return y


@dataclass
class _Seen:
    """A use as the probe saw it."""

    inputs: Tensor
    version: int
    any_axis: bool
    slots: list[tuple[str, slice | None]]


class _Probe(_Watching):
    """Keeps the inputs of every use."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch, batch.candidates)
        self.seen: dict[UseKey, _Seen] = {}
        self.reasons: dict[str, str] = {}

    def _used(self, y: Tensor, call: Call, read: Read) -> Tensor:
        x, slots = call.inputs, [(name, slot.rows) for name, slot in read.values()]
        # A hook that held this probe, and with it what the layers saw, would never be freed.
        leave = partial(_leave, self.reasons, [name for name, _ in slots])
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            leave("the model calls its layer within a transform of torch.func")
            return y
        any_axis = call.features is not None and x.dim() > call.features + 1
        self.seen[self._key(read)] = _Seen(x.detach(), x._version, any_axis, slots)
        if not torch.is_grad_enabled():
            return y
        return self._hooked(y, lambda _: leave("the model differentiates its layer itself"))


def _leave(reasons: dict[str, str], names: list[str], reason: str) -> None:
    """Leave parameters to the general path."""
    reasons |= dict.fromkeys(names, reason)


class Tape(_Watching):
    """Reduces every sample's gradient to its square and its product with a direction."""

    def __init__(self, batch: Batch, plan: Plan, direction: Mapping[str, Tensor] | None) -> None:
        """Start with zero, (B,); without a direction for squares alone."""
        super().__init__(batch, plan.ruled)
        self._plan, self._samples, self._direction = plan, len(batch.labels), direction
        self.squares = torch.zeros(self._samples, dtype=torch.float64, device=batch.device)
        self.dots = torch.zeros_like(self.squares)
        self._whole: dict[str, Tensor] = {}
        self._differentiating = False

    def differentiate(self, total: Tensor) -> None:
        """Send gradients back from a sum of losses to every use."""
        ends = checks.leaves(total)
        if any(id(leaf) in self._names for leaf in ends):
            raise UnplannedUseError
        self._differentiating = True
        if ends:
            torch.autograd.grad(total, ends, allow_unused=True)
        for name, whole in self._whole.items():
            self.add(name, whole)
        self._whole = {}

    def add(self, name: str, formed: Tensor, first: int = 0) -> None:
        """Add a parameter's whole gradients (b, *shape) of the samples from ``first`` on."""
        flat = _as_real(formed).reshape(len(formed), -1).double()
        rows = slice(first, first + len(flat))
        self.squares[rows] += flat.square().sum(1)
        if self._direction is not None:
            self.dots[rows] += flat @ _as_real(self._direction[name]).flatten().double()

    def _used(self, y: Tensor, call: Call, read: Read) -> Tensor:
        """Wait for the gradient at the output of a use."""
        if not torch.is_grad_enabled():
            self._key(read)
            return y  # the model itself says that nothing is differentiated here
        if self._differentiating:
            # Computed again, because it was not kept; its first output is waited for.
            return y if y.requires_grad else y.add_(self._anchor)
        x, features = call.inputs, call.features
        axis, rows = self._plan.axes.get(self._key(read), (0, 0))
        if not rows or x.dim() <= axis or x.shape[axis] != rows * self._samples:
            raise UnplannedUseError
        use = call.use(_arranged(x.detach(), axis, features), self._samples)
        wanted = None if features is None else max(features, 1)
        return self._hooked(y, partial(self._arrived, use, read, axis, wanted))

    def _arrived(
        self, use: Use, read: Read, axis: int, features: int | None, gradient: Tensor
    ) -> None:
        """Add what a use knows, now that the gradient at its output is there."""
        if not self._differentiating:
            raise UnplannedUseError  # the model differentiates a part of itself
        delta = _arranged(gradient, axis, features)
        for role, (name, slot) in read.items():
            if name in self._plan.shared:
                self._keep(name, slot, use.per_sample(role, delta, 0, self._samples))
                continue
            direction = None if self._direction is None else slot.read(self._direction[name])
            square, dot = use.square_and_dot(role, delta, direction)
            self.squares += square
            if dot is not None:
                self.dots += dot
        # Autograd holds this hook until all of the graph is done.
        use.inputs = use.inputs.new_empty(0)

    def _keep(self, name: str, slot: Slot, formed: Tensor) -> None:
        assert slot.parameter is not None
        if name not in self._whole:
            self._whole[name] = formed.new_zeros(self._samples, *slot.parameter.shape)
        whole = self._whole[name]
        part = whole if slot.rows is None else whole[:, slot.rows]
        part += formed


def _arranged(values: Tensor, axis: int, features: int | None) -> Tensor:
    """Return values with the samples' rows first, then one axis of positions, then features."""
    moved = values.transpose(0, axis) if axis else values
    if features is None:
        return moved
    return moved.reshape(len(moved), -1, *moved.shape[moved.dim() - features :])


def probe(batch: Batch, loss: Callable[[Tensor], Tensor]) -> Plan:
    """Find out how a model uses its parameters; ``loss`` is of the logits of two samples."""
    model, names, candidates = batch.model, batch.names, batch.candidates

    def run(pair: Inputs) -> tuple[_Probe, Tensor]:
        watching = _Probe(batch)
        with checks.tables_put_back(model), torch.enable_grad(), intercepted(model, watching):
            return watching, checks.logits_of(model(pair), 2)

    pair, *others = _probe_pairs(batch.inputs)
    with checks.unwritten(model):
        first, outputs = run(pair)
    _check_loss(outputs, loss, names)
    reasons = dict.fromkeys(reached(loss(outputs), names) & candidates, "")
    nodes, outputs = checks.nodes_of(outputs), outputs.detach()
    found: defaultdict[UseKey, set[int | None]] = defaultdict(set)

    def compare(pair: Inputs) -> None:
        watching, changed = run(pair)
        if not _alike(outputs[0], changed[0]):
            if _alike(changed, run(pair)[1]):
                raise checks.refused(
                    "a model that treats each sample of a batch by itself",
                    "that exchanging one sample changes the output of another, so per-sample "
                    "gradients do not exist",
                    "remove what mixes samples",
                )
            raise checks.refused(
                "a model that gives the same outputs for the same inputs",
                "that they change from call to call",
                "call model.eval(), and remove what depends on chance",
            )
        again = nodes and nodes & checks.nodes_of(changed)
        if any(not hasattr(node, "variable") for node in again):  # leaves are there in every call
            raise checks.refused(
                "a model that computes everything anew in each call",
                "that it keeps what it computed from parameters in an earlier one, which belongs "
                "to no sample",
                "switch off or clear its cache",
            )
        nodes.clear()  # so that the activations of two runs are held at most
        for key, use in first.seen.items():
            found[key].add(_sample_axis(use, watching.seen.get(key)))
        reasons.update(watching.reasons)

    for other in others:
        compare(other)
    reasons |= first.reasons
    axes = _axes(first, found, reasons)
    general = frozenset(names.values()) - candidates | frozenset(reasons)
    shared = _shared(first.seen.values(), candidates - general)
    return Plan(candidates - general, general, shared, axes, reasons, outputs.shape[-1])


def _check_loss(
    outputs: Tensor, loss: Callable[[Tensor], Tensor], names: Mapping[int, str]
) -> None:
    """Refuse logits that parameters do not reach, and a loss that they reach by itself."""
    if not outputs.requires_grad:
        raise checks.refused(
            "logits that autograd can follow to trainable parameters",
            "some that it cannot",
            "let the model compute them from its parameters, without no_grad, inference_mode, "
            "detach or argmax",
        )
    if read := reached(loss(outputs.detach()), names):
        raise checks.refused(
            "a loss of logits and labels alone",
            f"that it reads {sorted(read)}",
            "leave penalties on parameters out, which are the same for every sample",
        )


def _axes(
    probe: _Probe, found: Mapping[UseKey, set[int | None]], reasons: dict[str, str]
) -> dict[UseKey, tuple[int, int]]:
    """Return the samples' axis and rows of each use, and say where there is no such axis."""
    axes: dict[UseKey, tuple[int, int]] = {}
    for key, use in probe.seen.items():
        possible = found[key] - {UNCHANGED}
        axis = possible.pop() if len(possible) == 1 else None
        if axis is not None:
            axes[key] = axis, use.inputs.shape[axis] // 2
        for name, _ in use.slots if axis is None else ():
            reasons.setdefault(name, "its inputs do not hold one sample after another")
    return axes


def reached(losses: Tensor, names: Mapping[int, str]) -> frozenset[str]:
    """Return the names of parameters that autograd reaches from the losses."""
    return frozenset(names[id(leaf)] for leaf in checks.leaves(losses) if id(leaf) in names)


def _as_real(values: Tensor) -> Tensor:
    """Return complex values as pairs of real ones, others as they are."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _probe_pairs(inputs: Inputs) -> list[Inputs]:
    """Return two samples, and several times the same two with the second one exchanged."""
    parts = [_pairs_of(part) for part in leaves(inputs)]
    # Of each tensor there are as many as of that with the most, the last ones again.
    most = max(map(len, parts))
    return [_formed_as(inputs, [p[min(i, len(p) - 1)] for p in parts]) for i in range(most)]


def _formed_as(inputs: Inputs, parts: list[Tensor]) -> Inputs:
    """Return tensors in the form of some inputs."""
    left = iter(parts)
    formed: Inputs = each(lambda _: next(left), inputs)
    return formed


def _pairs_of(inputs: Tensor) -> list[Tensor]:
    """Return the pairs of one tensor."""
    if inputs.is_complex():
        return [torch.view_as_complex(pair) for pair in _pairs_of(_as_real(inputs))]
    first, second = inputs[0], inputs[min(1, len(inputs) - 1)]
    if inputs.dtype == torch.bool:
        others = [~second]
    elif not inputs.is_floating_point():
        others = [torch.where(second > 0, second - 1, inputs.max()), inputs.max() - second]
    else:
        # A sample that is not finite would differ from itself.
        first, second = first.nan_to_num(0.0, 1.0, -1.0), second.nan_to_num(0.0, 1.0, -1.0)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(second.shape, generator=generator).to(second)
        spread = (second - second.mean()).abs().max().clamp(1)
        others = [second.mean() + noise * spread, second.mean() - noise * spread, -second]
    return [torch.stack([first, other]) for other in (second, *others)]


def _alike(outputs: Tensor, others: Tensor) -> bool:
    """Whether two outputs are the same but for rounding; not a number is like itself."""
    return torch.allclose(outputs, others, rtol=1e-3, atol=1e-5, equal_nan=True)


def _sample_axis(use: _Seen, changed: _Seen | None) -> int | None:
    """Return the axis along which only the second of two samples changed, or None for none."""
    if changed is None or changed.inputs.shape != use.inputs.shape:
        return None
    if use.inputs._version != use.version or changed.inputs._version != changed.version:
        return None  # overwritten since, so nothing about it can be relied on
    differs = use.inputs != changed.inputs
    if not differs.any():
        return UNCHANGED
    # Something differs, so where the first half does not, the second half does.
    if len(differs) % 2 == 0 and not differs.tensor_split(2)[0].any():
        return 0
    return 1 if use.any_axis and differs.shape[1] == 2 and not differs[:, 0].any() else None


def _shared(uses: Iterable[_Seen], ruled: frozenset[str]) -> frozenset[str]:
    """Return the names of which some rows are read more than once."""
    reads: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, rows in itertools.chain.from_iterable(use.slots for use in uses):
        reads[name].append((rows.start, rows.stop) if rows else (0, math.inf))
    return frozenset(
        name
        for name in ruled & reads.keys()
        if any(stop > start for (_, stop), (start, _) in itertools.pairwise(sorted(reads[name])))
    )
