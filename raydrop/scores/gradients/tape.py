"""Which parameter was used where, and what each use adds to every sample's gradient.

Operations with a rule compute with detached parameters, so autograd never forms a weight gradient;
each use waits for the gradient at its output and adds at once what it knows, then lets its inputs
go. A parameter that autograd still reaches is also used in a way that has no rule, so it takes the
general path.

Which axis of a layer's inputs holds the samples decides whether rules are exact, and so does
whether the model differentiates a part of itself. :func:`probe` finds out by running the model on
two samples, of which one is then exchanged.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from raydrop.errors import ScoringError, visible
from raydrop.scores.gradients.layers import Arithmetic, Build, Slot, replaced
from raydrop.scores.gradients.rules import Role, Use

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

    def __init__(self, names: Mapping[int, str], ruled: frozenset[str], like: Tensor) -> None:
        super().__init__(names, ruled)
        self.seen: dict[UseKey, _Seen] = {}
        self.reasons: dict[str, str] = {}
        self._anchor = torch.zeros((), device=like.device, requires_grad=True)

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
        if not active:
            return y
        read = [(name, slot.rows) for name, slot in active.values()]
        leave = partial(_leave, self.reasons, [name for name, _ in read])
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            leave("the model calls its layer within a transform of torch.func")
            return y
        any_axis = features is not None and x.dim() > features + 1
        self.seen[self.key(active)] = _Seen(x.detach(), x._version, any_axis, read)
        if torch.is_grad_enabled():
            y = y if y.requires_grad else y.add_(self._anchor)
            # A hook that held this probe, and with it what the layers saw, would never be freed.
            y.register_hook(lambda _: leave("the model differentiates its layer itself"))
        return y


def _leave(reasons: dict[str, str], names: list[str], reason: str) -> None:
    """Leave parameters to the general path."""
    reasons |= dict.fromkeys(names, reason)


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
        self._anchor = torch.zeros((), device=like.device, requires_grad=True)
        self._differentiating = False

    def differentiate(self, total: Tensor) -> None:
        """Send gradients back from a sum of losses to every use.

        Raises:
            UnplannedUseError: If parameters with a rule are used in a way that has none.
        """
        ends = leaves(total)
        if any(id(leaf) in self._names for leaf in ends):
            raise UnplannedUseError
        self._differentiating = True
        if ends:
            torch.autograd.grad(total, ends, allow_unused=True)
        for name, whole in self._whole.items():
            self.add(whole, None if self._direction is None else self._direction[name])
        self._whole = {}

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
        if not torch.is_grad_enabled():
            self.key(active)
            return y  # the model itself says that nothing is differentiated here
        if not y.requires_grad:
            # Nothing before it is differentiated, so autograd would stop short of this output.
            y = y.add_(self._anchor)
        if self._differentiating:
            return y  # computed again, because it was not kept; its first output is waited for
        axis, rows = self._plan.axes.get(self.key(active), (0, 0))
        if not rows or x.dim() <= axis or x.shape[axis] != rows * self._samples:
            raise UnplannedUseError
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
        if not self._differentiating:
            raise UnplannedUseError  # the model differentiates a part of itself
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

    def add(self, formed: Tensor, direction: Tensor | None, first: int = 0) -> None:
        """Add whole gradients (b, *shape) of the samples from ``first`` on."""
        flat = _real(formed).reshape(len(formed), -1).double()
        rows = slice(first, first + len(flat))
        self.squares[rows] += flat.square().sum(1)
        if direction is not None:
            self.dots[rows] += flat @ _real(direction).flatten().double()


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
        candidates: Those that may have a rule.
        inputs: A batch, (B, ...).
        loss: From logits (2, ...) to losses (2,).

    Raises:
        ScoringError: If one sample's output depends on another sample of its batch or on chance,
            the loss on parameters or the logits on none, or the model changes itself.
    """

    def run(pair: Tensor) -> tuple[_Probe, Tensor]:
        watching = _Probe(names, candidates, inputs)
        with tables_put_back(model), torch.enable_grad(), replaced(model, watching):
            return watching, logits_of(model(pair), 2)

    pair, *others = _probe_pairs(inputs)
    versions = _versions(model)
    first, outputs = run(pair)
    _check_unwritten(versions, _versions(model))
    if not outputs.requires_grad:
        raise ScoringError(
            "Expected logits that autograd can follow to trainable parameters, found some that it "
            "cannot; let the model compute them from its parameters, without no_grad, "
            "inference_mode, detach or argmax."
        )
    _check_loss_reads_no_parameters(loss(outputs.detach()), names)
    reasons = dict.fromkeys(reached(loss(outputs), names) & candidates, "")
    nodes, outputs = _nodes(outputs), outputs.detach()
    found: defaultdict[UseKey, set[int | None]] = defaultdict(set)

    def compare(pair: Tensor) -> None:
        watching, changed = run(pair)
        if not _alike(outputs[0], changed[0]):
            _refuse_dependence(_alike(changed, run(pair)[1]))
        _check_nothing_kept(nodes, changed)
        nodes.clear()  # so that the activations of two runs are held at most
        for key, use in first.seen.items():
            found[key].add(_sample_axis(use, watching.seen.get(key)))
        reasons.update(watching.reasons)

    for other in others:
        compare(other)
    reasons |= first.reasons
    axes: dict[UseKey, tuple[int, int]] = {}
    for key, use in first.seen.items():
        possible = found[key] - {UNCHANGED}
        axis = possible.pop() if len(possible) == 1 else None
        if axis is not None:
            axes[key] = axis, use.inputs.shape[axis] // 2
        for name, _ in use.slots if axis is None else ():
            reasons.setdefault(name, "its inputs do not hold one sample after another")
    general = frozenset(names.values()) - candidates | frozenset(reasons)
    ruled = candidates - general
    shared = _shared(first.seen.values(), ruled)
    return Plan(ruled, general, shared, axes, reasons, outputs.shape[-1])


def logits_of(outputs: Any, samples: int) -> Tensor:
    """Return the logits among what a model returns, one row for each sample.

    Raises:
        ScoringError: If there are none.
    """
    logits = outputs
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif not isinstance(outputs, Tensor):
        logits = getattr(outputs, "logits", None)
    if isinstance(logits, Tensor) and logits.dim() > 0 and len(logits) == samples:
        return logits
    found = f"a {type(outputs).__name__}"
    if isinstance(outputs, Mapping):
        found += f" of {', '.join(map(repr, outputs))}"
    if isinstance(logits, Tensor):
        found = f"shape {tuple(logits.shape)} for {samples} samples"
    raise ScoringError(
        f"Expected a model that returns logits, one row per sample, alone or as 'logits', found "
        f"{visible(found)}; wrap it in a module that returns them."
    )


def _versions(model: nn.Module) -> dict[str, int]:
    """Return how often parameters and buffers were written, but for tables that are put back.

    Raises:
        ScoringError: If autograd could not use them.
    """
    kept = {id(table.weight) for table in _limited_tables(model)}
    named = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    inference = [name for name, tensor in named.items() if tensor.is_inference()]
    if inference:
        raise ScoringError(
            f"Expected a model made outside of torch.inference_mode, found {inference[0]!r} made "
            "within, which autograd cannot use; build or move the model outside of it."
        )
    return {name: tensor._version for name, tensor in named.items() if id(tensor) not in kept}


def _check_unwritten(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    written = [name for name, version in before.items() if after.get(name) != version]
    if written:
        raise ScoringError(
            f"Expected a model that a forward pass leaves as it is, found that it writes "
            f"{', '.join(written[:3])}, so that scores would depend on what was scored before; "
            "call model.eval(), or switch off what it records."
        )


def _limited_tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """Return the tables that shorten their rows, in place, when they are read."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.max_norm is not None
    ]


@contextlib.contextmanager
def tables_put_back(model: nn.Module) -> Iterator[None]:
    """Put back the rows that tables with a ``max_norm`` shorten while this lasts."""
    tables = _limited_tables(model)
    kept = [table.weight.detach().clone() for table in tables]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, weight in zip(tables, kept, strict=True):
                table.weight.copy_(weight)


def _shared(uses: Iterable[_Seen], ruled: frozenset[str]) -> frozenset[str]:
    """Return the names of which some rows are read more than once."""
    reads: defaultdict[str, list[slice | None]] = defaultdict(list)
    for use in uses:
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
    if inputs.is_complex():
        return [torch.view_as_complex(pair) for pair in _probe_pairs(_real(inputs))]
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
    return [torch.stack([first, each]) for each in (second, *others)]


def _alike(outputs: Tensor, others: Tensor) -> bool:
    """Whether two outputs are the same but for rounding; not a number is like itself."""
    return torch.allclose(outputs, others, rtol=1e-3, atol=1e-5, equal_nan=True)


def _refuse_dependence(repeatable: bool) -> NoReturn:
    if repeatable:
        raise ScoringError(
            "Expected a model that treats each sample of a batch by itself, found that exchanging "
            "one sample changes the output of another, so per-sample gradients do not exist; "
            "remove what mixes samples."
        )
    raise ScoringError(
        "Expected a model that gives the same outputs for the same inputs, found that they change "
        "from call to call; call model.eval(), and remove what depends on chance."
    )


def _check_nothing_kept(nodes: set[torch.autograd.graph.Node], outputs: Tensor) -> None:
    """Refuse outputs that share an operation with another call, but for the leaves of autograd."""
    shared = nodes & _nodes(outputs) if nodes else nodes
    if any(not hasattr(node, "variable") for node in shared):
        raise ScoringError(
            "Expected a model that computes everything anew in each call, found that it keeps "
            "what it computed from parameters in an earlier one, which belongs to no sample; "
            "switch off or clear its cache."
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
    return frozenset(names[id(leaf)] for leaf in leaves(losses) if id(leaf) in names)


def leaves(losses: Tensor) -> list[Tensor]:
    """Return the tensors at which autograd ends that starts at the losses.

    Raises:
        ScoringError: If it cannot look into a part of the model.
    """
    ends = (getattr(node, "variable", None) for node in _nodes(losses))
    return [end for end in ends if end is not None]


def _nodes(losses: Tensor) -> set[torch.autograd.graph.Node]:
    """Return the operations that autograd goes through, those of leaves among them."""
    visited: set[torch.autograd.graph.Node] = set()
    waiting = [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        own = isinstance(node, torch.autograd.function.BackwardCFunction)
        if own and node.name() == "CheckpointFunctionBackward":
            raise ScoringError(
                "Expected checkpoints that autograd can look into, found one with "
                "use_reentrant=True, within which gradients cannot be asked for; pass "
                "use_reentrant=False, or switch checkpoints off."
            )
        waiting.extend(following for following, _ in node.next_functions)
    return visited


def _real(values: Tensor) -> Tensor:
    """Return complex values as pairs of real ones, others as they are."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _arranged(values: Tensor, axis: int, features: int | None) -> Tensor:
    """Return values with the samples' rows first, then one axis of positions, then features."""
    moved = values.transpose(0, axis) if axis else values
    if features is None:
        return moved
    return moved.reshape(len(moved), -1, *moved.shape[moved.dim() - features :])
