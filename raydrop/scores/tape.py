"""Which parameter was used where, and what each use adds to every sample's gradient.

Layers with a rule compute with detached parameters, so autograd never forms a weight gradient; each
use waits for the gradient at its output and adds at once what it knows, then lets its inputs go.

Two things about a model cannot be read off its layers and decide whether rules are exact: which
axis of a layer's inputs holds the samples, and whether a parameter is also used outside its layer.
:func:`probe` finds both by running the model on two samples, of which one is then exchanged.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from raydrop.errors import ScoringError
from raydrop.scores.layers import Arithmetic, Build, Slot, replaced
from raydrop.scores.rules import Role, Use

UseKey = tuple[str, int]
"""Name of the first parameter that a use reads, and how often one was read before."""


UNCHANGED = -1
"""No axis: exchanging a sample made no difference, which says nothing."""


@dataclass(frozen=True)
class Plan:
    """How every trainable parameter of a model is dealt with."""

    ruled: frozenset[str]
    """Names whose gradients the rules give."""
    general: frozenset[str]
    """Names that take the general path."""
    shared: frozenset[str]
    """Ruled ones that several uses read: their gradients are summed before they are reduced."""
    axes: Mapping[UseKey, tuple[int, int]]
    """Axis of the inputs, 0 or 1, that holds the samples, and how many rows of it each has."""
    reasons: Mapping[str, str]
    """Why a name takes the general path."""
    classes: int
    """Outputs of the model, K."""


class UnplannedUseError(Exception):
    """The model took another course than when it was probed."""


class _Watching(Arithmetic):
    """Computes with detached values of the parameters that have a rule, and names every use."""

    def __init__(self, names: Mapping[int, str], ruled: frozenset[str]) -> None:
        self._names, self._ruled = names, ruled
        self._counts: Counter[str] = Counter()

    def value(self, slot: Slot) -> Tensor | None:
        """Return the value without its history where a rule stands in for it."""
        value = super().value(slot)
        if value is None or self.name_of(slot) is None:
            return value
        return value.detach()

    def name_of(self, slot: Slot) -> str | None:
        """Return the name of a ruled, trainable parameter, or None."""
        parameter = slot.parameter
        if parameter is None or not parameter.requires_grad:
            return None
        name = self._names.get(id(parameter))
        return name if name in self._ruled else None

    def active(self, slots: Mapping[str, Slot]) -> dict[Role, tuple[str, Slot]]:
        """Return the ruled ones among the slots of a use, by role, with their names."""
        found: dict[Role, tuple[str, Slot]] = {}
        for role in ("weight", "bias"):
            name = self.name_of(slots[role]) if role in slots else None
            if name is not None:
                found[role] = (name, slots[role])
        return found

    def key(self, active: Mapping[Role, tuple[str, Slot]]) -> UseKey:
        """Return the key of the use that is under way."""
        name = next(iter(active.values()))[0]
        self._counts[name] += 1
        return name, self._counts[name] - 1


@dataclass
class _Seen:
    """A use as the probe saw it."""

    inputs: Tensor
    version: int
    any_axis: bool
    slots: list[tuple[str, slice | None]]


class _Probe(_Watching):
    """Keeps the inputs of every use."""

    def __init__(self, names: Mapping[int, str], ruled: frozenset[str]) -> None:
        super().__init__(names, ruled)
        self.seen: dict[UseKey, _Seen] = {}

    def used(
        self,
        y: Tensor,
        x: Tensor,
        slots: dict[str, Slot],
        build: Build,
        features: int | None = None,
    ) -> Tensor:
        """Remember a use."""
        del build
        active = self.active(slots)
        if active:
            read = [(name, slot.rows) for name, slot in active.values()]
            any_axis = features is not None and x.dim() > features + 1
            self.seen[self.key(active)] = _Seen(x, x._version, any_axis, read)
        return y


class Tape(_Watching):
    """Reduces every sample's gradient to its square and its product with a direction."""

    def __init__(
        self,
        plan: Plan,
        names: Mapping[int, str],
        samples: int,
        direction: Mapping[str, Tensor] | None,
        like: Tensor,
    ) -> None:
        """Start with zero.

        Args:
            plan: Of the model.
            names: Names of the trainable parameters by identity.
            samples: B.
            direction: Tensors by name, or None for squares alone.
            like: A tensor on the model's device.
        """
        super().__init__(names, plan.ruled)
        self._plan, self._samples, self._direction = plan, samples, direction
        self.squares = torch.zeros(samples, dtype=torch.float64, device=like.device)
        self.dots = torch.zeros_like(self.squares)
        self._whole: dict[str, Tensor] = {}
        self.anchor = torch.zeros((), device=like.device, requires_grad=True)

    def used(
        self,
        y: Tensor,
        x: Tensor,
        slots: dict[str, Slot],
        build: Build,
        features: int | None = None,
    ) -> Tensor:
        """Wait for the gradient at the output of a use."""
        active = self.active(slots)
        if not active:
            return y
        key = self.key(active)
        if not torch.is_grad_enabled():
            return y  # the model itself says that nothing is differentiated here
        axis, rows = self._plan.axes.get(key, (0, 0))
        if not rows or x.shape[axis] != rows * self._samples:
            raise UnplannedUseError
        if not y.requires_grad:
            # Nothing before it is differentiated, so autograd would stop short of this output.
            y = y.add_(self.anchor)
        use = build(_arranged(x.detach(), axis, features), self._samples)
        wanted = None if features is None else max(features, 1)
        y.register_hook(partial(self._arrived, use, active, axis, wanted))
        return y

    def _arrived(
        self,
        use: Use,
        active: Mapping[Role, tuple[str, Slot]],
        axis: int,
        features: int | None,
        gradient: Tensor,
    ) -> None:
        """Add what a use knows, now that the gradient at its output is there."""
        delta = _arranged(gradient, axis, features)
        for role, (name, slot) in active.items():
            if name in self._plan.shared:
                self._keep(name, slot, use.per_sample(role, delta, 0, self._samples))
                continue
            direction = None if self._direction is None else slot.read(self._direction[name])
            square, dot = use.square_and_dot(role, delta, direction)
            self.squares += square
            self.dots += dot
        use.inputs = use.inputs.new_empty(
            0
        )  # autograd holds this hook until all of the graph is done

    def _keep(self, name: str, slot: Slot, formed: Tensor) -> None:
        parameter = slot.parameter
        assert parameter is not None
        if name not in self._whole:
            self._whole[name] = formed.new_zeros(self._samples, *parameter.shape)
        whole = self._whole[name]
        part = whole if slot.rows is None else whole[:, slot.rows]
        part += formed

    def finish(self) -> None:
        """Reduce the gradients of shared parameters, all of whose uses have arrived."""
        for name, whole in self._whole.items():
            self.add(whole, None if self._direction is None else self._direction[name])
        self._whole = {}

    def add(self, formed: Tensor, direction: Tensor | None, first: int = 0) -> None:
        """Add whole gradients (b, *shape) of the samples from ``first`` on."""
        flat = formed.reshape(len(formed), -1).double()
        rows = slice(first, first + len(flat))
        self.squares[rows] += flat.square().sum(1)
        if direction is not None:
            self.dots[rows] += flat @ direction.flatten().double()


def probe(
    model: nn.Module,
    names: Mapping[int, str],
    candidates: frozenset[str],
    inputs: Tensor,
    loss: Callable[[Tensor], Tensor],
) -> Plan:
    """Find out how a model uses its parameters.

    Args:
        model: In eval mode.
        names: Names of the trainable parameters by identity.
        candidates: Those whose layers have a rule.
        inputs: A batch, (B, ...).
        loss: From outputs (2, ...) to losses (2,).

    Raises:
        ScoringError: If one sample's output depends on another sample of its batch, or the loss on
            parameters.
    """
    runs = []
    for pair in _probe_pairs(inputs):
        watching = _Probe(names, candidates)
        with torch.enable_grad(), replaced(model, watching):
            outputs = model(pair)
            runs.append((watching.seen, outputs))
    (seen, outputs), *others = runs
    for _, outputs_changed in others:
        _check_independent(outputs, outputs_changed)
    _check_loss_reads_no_parameters(loss(outputs.detach()), names)
    reasons = dict.fromkeys(reached(loss(outputs), names) & candidates, "used outside its layer")
    axes: dict[UseKey, tuple[int, int]] = {}
    for key, use in seen.items():
        found = {_sample_axis(use, changed.get(key)) for changed, _ in others} - {UNCHANGED}
        axis = found.pop() if len(found) == 1 else None
        if axis is not None:
            axes[key] = axis, use.inputs.shape[axis] // 2
        for name, _ in use.slots if axis is None else ():
            reasons.setdefault(name, "its inputs do not hold one sample after another")
    general = frozenset(names.values()) - candidates | frozenset(reasons)
    ruled = candidates - general
    return Plan(ruled, general, _shared(seen.values(), ruled), axes, reasons, outputs.shape[-1])


def _shared(uses: object, ruled: frozenset[str]) -> frozenset[str]:
    """Return the names of which some rows are read more than once."""
    reads: defaultdict[str, list[slice | None]] = defaultdict(list)
    for use in uses:  # type: ignore[attr-defined]
        for name, rows in use.slots:
            reads[name].append(rows)
    return frozenset(name for name, rows in reads.items() if name in ruled and _overlap(rows))


def _overlap(rows: list[slice | None]) -> bool:
    if len(rows) < 2:
        return False
    spans = sorted((each.start, each.stop) for each in rows if each is not None)
    gaps = itertools.pairwise(spans)
    return None in rows or any(stop > start for (_, stop), (start, _) in gaps)


def _probe_pairs(inputs: Tensor) -> list[Tensor]:
    """Return two samples, and several times the same two with the second one exchanged."""
    first, second = inputs[0], inputs[min(1, len(inputs) - 1)]
    if not inputs.is_floating_point():
        others = [torch.where(second > 0, second - 1, inputs.max()), inputs.max() - second]
    else:
        # A sample that is not finite would differ from itself.
        first, second = first.nan_to_num(0.0, 1.0, -1.0), second.nan_to_num(0.0, 1.0, -1.0)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(second.shape, generator=generator).to(second)
        spread = (second - second.mean()).abs().max().clamp(1)
        others = [second.mean() + noise * spread, second.mean() - noise * spread, -second]
    return [torch.stack([first, each]) for each in (second, *others)]


def _check_independent(outputs: Tensor, changed: Tensor) -> None:
    if not torch.allclose(outputs[0], changed[0], rtol=1e-3, atol=1e-5):
        raise ScoringError(
            "Expected a model that treats each sample of a batch by itself, found that exchanging "
            "one sample changes the output of another, so per-sample gradients do not exist; "
            "remove what mixes samples."
        )


def _check_loss_reads_no_parameters(losses: Tensor, names: Mapping[int, str]) -> None:
    read = sorted(reached(losses, names))
    if read:
        raise ScoringError(
            f"Expected a loss of logits and labels alone, found that it reads {read}; leave "
            "penalties on parameters out, which are the same for every sample."
        )


def _sample_axis(use: _Seen, changed: _Seen | None) -> int | None:
    """Return the axis along which only the second of two samples changed, or None for none."""
    if changed is None or changed.inputs.shape != use.inputs.shape:
        return None
    if use.inputs._version != use.version or changed.inputs._version != changed.version:
        return None  # overwritten since, so nothing about it can be relied on
    differs = use.inputs != changed.inputs
    if not differs.any():
        return UNCHANGED
    if len(differs) % 2 == 0 and _second_half_only(differs):
        return 0
    if use.any_axis and differs.shape[1] == 2 and _second_half_only(differs.transpose(0, 1)):
        return 1
    return None


def _second_half_only(differs: Tensor) -> bool:
    first, second = differs.tensor_split(2)
    return not bool(first.any()) and bool(second.any())


def reached(losses: Tensor, names: Mapping[int, str]) -> frozenset[str]:
    """Return the names of parameters that autograd reaches from the losses."""
    found, visited, waiting = set(), set(), [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in names:
            found.add(names[id(variable)])
        waiting.extend(following for following, _ in node.next_functions)
    return frozenset(found)


def _arranged(values: Tensor, axis: int, features: int | None) -> Tensor:
    """Return values with the samples' rows first, then one axis of positions, then features."""
    moved = values.transpose(0, axis) if axis else values
    if features is None:
        return moved
    return moved.reshape(len(moved), -1, *moved.shape[moved.dim() - features :])
