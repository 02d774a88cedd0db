"""Per-sample gradients, reduced at once to the few numbers per sample that a score needs.

Every function differentiates each sample's own loss, summed over nothing and divided by nothing,
with respect to all trainable parameters. The model is in eval mode, so BatchNorm statistics are
fixed; otherwise a sample's gradient would depend on its batch.

Products with a direction are one forward-mode pass. Norms are one backward pass that asks for the
gradients at the layers' outputs alone and never forms a weight gradient of the batch; the rules of
:mod:`raydrop.scores.gradients.rules` turn them into norms. What has no rule is differentiated
sample by sample, exactly, and :func:`coverage` says which parameters those are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from raydrop.errors import ScoringError
from raydrop.models import check_eager
from raydrop.scores.gradients.forward import ForwardMode
from raydrop.scores.gradients.layers import Arithmetic, replaced, ruled_slots
from raydrop.scores.gradients.memory import bytes_per_sample
from raydrop.scores.gradients.tape import (
    Plan,
    Tape,
    UnplannedUseError,
    logits_of,
    probe,
    tables_put_back,
)
from raydrop.study import ScoringPrecision
from raydrop.training.halving import is_out_of_memory

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels (B,) to one loss per sample, (B,)."""

GENERAL_BYTES = 2**28
"""Per-sample gradients of parameters without a rule that are held at once."""
DIRECTIONS_AT_ONCE = 4
"""Directions whose tangents are carried along together."""

NO_PLAN = Plan(frozenset(), frozenset(), frozenset(), {}, {}, 0)

_log = logging.getLogger(__name__)
_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()
_activations: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]] = WeakKeyDictionary()
_forward_modes: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()
_said: WeakSet[nn.Module] = WeakSet()
_no_forward_mode: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class ParameterPath:
    """How the gradient of one parameter is found."""

    name: str
    """As in ``named_parameters()``; a tied parameter has its first name."""
    shape: tuple[int, ...]
    """Its shape."""
    path: Literal["rule", "general", "frozen"]
    """``rule``: by its layer's rule; ``general``: sample by sample; ``frozen``: not trainable."""
    layer: str
    """Class of the layer that holds it."""
    reason: str = ""
    """Why it takes the general path."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample: logits (B, K), labels (B,), result (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters by name, detached; a tied parameter counts once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def per_sample_dot(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    direction: Mapping[str, Tensor],
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> Tensor:
    r"""Return <grad l_i, v> for every sample of a batch.

    One forward-mode product (Jacobian-vector product of the vector of losses in direction v): about
    three forward passes in all, no loop over samples, and no activations kept. A model with an
    operation that has no forward-mode derivative takes the way of :func:`norm_and_dot`.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        direction: v, a tensor of the parameter's shape for every trainable parameter.
        loss: Loss of each sample, unreduced.
        precision: ``fp32`` computes in the model's own precision, ``bf16`` under autocast.

    Returns:
        Dot products (B,).

    Raises:
        ScoringError: If a sample has no gradient of its own: samples mix, as by batch statistics,
            outputs depend on chance, the model changes itself or keeps what it computed, or hooks
            change gradients of parameters. If the model returns no logits, alone or as ``logits``,
            the loss is reduced or reads parameters, the labels do not fit the head, or the
            direction does not fit the parameters.
    """
    stacked = {name: value[None] for name, value in direction.items()}
    return per_sample_dots(model, inputs, labels, stacked, loss=loss, precision=precision)[:, 0]


def per_sample_dots(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    directions: Mapping[str, Tensor],
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> Tensor:
    r"""Return <grad l_i, v_d> for every sample of a batch and several directions.

    The forward pass is shared, so D directions cost about 1 + 2 D forward passes. With the classes'
    mean gradients as directions, the results say which classes a step on each sample would help.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        directions: For every trainable parameter, a tensor (D, *shape).
        loss: Loss of each sample, unreduced.
        precision: As in :func:`per_sample_dot`.

    Returns:
        Dot products (B, D).

    Raises:
        ScoringError: As in :func:`per_sample_dot`.
    """
    with _prepared(model, inputs, labels, loss) as (parameters, inputs, labels):
        directions = _fitting_directions(parameters, directions)
        count = len(next(iter(directions.values())))
        if model not in _no_forward_mode and len(inputs):
            try:
                if _forward_mode_agrees(model, inputs, labels, loss, precision):
                    return _forward_mode(model, inputs, labels, directions, count, loss, precision)
                _no_forward_mode.add(model)
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).split("\n")[0]
                _log.warning("Forward mode does not do this model (%s).", reason)
                _no_forward_mode.add(model)
        columns = []
        for index in range(count):
            one = {name: directions[name][index] for name in parameters}
            tape = _backward_mode(model, inputs, labels, one, loss, precision)
            columns.append(tape.dots)
        return torch.stack(columns, 1).to(_result_type(parameters))


def per_sample_norm(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> Tensor:
    r"""Return || grad l_i ||_2 for every sample of a batch, over all trainable parameters.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        loss: Loss of each sample, unreduced.
        precision: As in :func:`per_sample_dot`.

    Returns:
        Norms (B,).

    Raises:
        ScoringError: As in :func:`per_sample_dot`.
    """
    with _prepared(model, inputs, labels, loss) as (parameters, inputs, labels):
        tape = _backward_mode(model, inputs, labels, None, loss, precision)
        return tape.squares.sqrt().to(_result_type(parameters))


def norm_and_dot(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    direction: Mapping[str, Tensor],
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> tuple[Tensor, Tensor]:
    r"""Return || grad l_i ||_2 and <grad l_i, v> for every sample, from one backward pass.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        direction: v, a tensor of the parameter's shape for every trainable parameter.
        loss: Loss of each sample, unreduced.
        precision: As in :func:`per_sample_dot`.

    Returns:
        Norms (B,) and dot products (B,).

    Raises:
        ScoringError: As in :func:`per_sample_dot`.
    """
    with _prepared(model, inputs, labels, loss) as (parameters, inputs, labels):
        stacked = {name: value[None] for name, value in direction.items()}
        stacked = _fitting_directions(parameters, stacked)
        direction = {name: value[0] for name, value in stacked.items()}
        tape = _backward_mode(model, inputs, labels, direction, loss, precision)
        kind = _result_type(parameters)
        return tape.squares.sqrt().to(kind), tape.dots.to(kind)


def gradient_sum(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> dict[str, Tensor]:
    """Return sum_i grad l_i over a batch, one tensor per trainable parameter.

    Args:
        model: In eval mode.
        inputs: Images (B, ...).
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        loss: Loss of each sample, unreduced.
        precision: As in :func:`per_sample_dot`.

    Returns:
        Tensors by parameter name; a parameter that the loss does not reach gets zeros.

    Raises:
        ScoringError: As in :func:`per_sample_dot`.
    """
    with _prepared(model, inputs, labels, loss) as (parameters, inputs, labels):
        if not len(inputs):
            return {name: torch.zeros_like(value) for name, value in parameters.items()}
        names = {id(parameter): name for name, parameter in parameters.items()}
        _plan(model, names, inputs, labels, loss)  # refuses what has no per-sample gradients
        return _whole(model, parameters, inputs, labels, loss, precision)


def coverage(model: nn.Module, inputs: Tensor | None = None) -> tuple[ParameterPath, ...]:
    """Return how the gradient of every parameter is found; none is ever left out.

    Args:
        model: Any model.
        inputs: A batch (B, ...). With one, the model is run on two of its samples, which shows what
            each parameter is used for; without, the classes of layers alone decide, and one that
            is not known, a subclass with a forward pass of its own, counts as without a rule.

    Returns:
        One entry per parameter, tied ones once, in the order of ``named_parameters()``.

    Raises:
        ScoringError: As in :func:`per_sample_dot`, with ``inputs``; if a layer has no shape yet.
    """
    for name, module in model.named_modules():
        _check_initialised(name, module)
    names, known, layers = _names(model), _known(model), _holders(model)
    general, reasons = frozenset(names.values()) - known, {}
    if inputs is not None and len(inputs) and names:
        with _prepared(model, inputs, inputs, torch.sum) as (_, inputs, _):
            plan = probe(model, names, _candidates(model), inputs, torch.sum)
        general, reasons = plan.general, _reasons(model, plan)
    paths = []
    for name, parameter in model.named_parameters():
        path: Literal["rule", "general", "frozen"] = "rule"
        reason = ""
        if not parameter.requires_grad:
            path = "frozen"
        elif name in general:
            path = "general"
            reason = reasons.get(name, f"nothing about {layers[name]} says that it has a rule")
        paths.append(ParameterPath(name, tuple(parameter.shape), path, layers[name], reason))
    return tuple(paths)


@contextlib.contextmanager
def last_layer_only(model: nn.Module) -> Iterator[None]:
    """Leave only the parameters of a model's last linear layer trainable while this lasts.

    Raises:
        ScoringError: If there is no linear layer, or its parameters are frozen.
    """
    layer = last_linear(model)
    kept = {id(p) for p in layer.parameters() if p.requires_grad} if layer else set()
    if not kept:
        check_eager(model, ScoringError)
        raise ScoringError(
            "Expected a trainable linear layer at the end of the model, found none; "
            "use a score over all parameters."
        )
    others = {n for n, p in model.named_parameters() if p.requires_grad and id(p) not in kept}
    with _frozen(model, others):
        yield


def last_linear(model: nn.Module) -> nn.Linear | None:
    """Return the last linear layer of a model in the order of its modules, or None."""
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else None


def check_eval(model: nn.Module) -> None:
    """Refuse a model in which a sample's gradient would depend on its batch or on chance.

    Raises:
        ScoringError: If a BatchNorm layer would use the statistics of the batch, a layer that
            drops or tracks something is in train mode, or one has no parameters yet.
    """
    for name, module in model.named_modules():
        _check_initialised(name, module)
        training = getattr(module, "training", False)  # TorchScript that is frozen has no modes
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and (training or module.running_mean is None):
            raise ScoringError(
                f"Expected fixed BatchNorm statistics, found layer {name or 'model'!r} using "
                "those of the batch, which makes per-sample gradients undefined; call model.eval()."
            )
        dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        dropout |= isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0
        tracked = isinstance(module, nn.modules.instancenorm._InstanceNorm)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.scale_grad_by_freq:
            raise ScoringError(
                f"Expected gradients that do not depend on the batch, found layer {name!r} that "
                "scales them by how often a word occurs there; set scale_grad_by_freq=False."
            )
        compiled = isinstance(module, torch.jit.ScriptModule)  # which may hide any such layer
        if training and (dropout or compiled or (tracked and module.track_running_stats)):
            raise ScoringError(
                f"Expected a model in eval mode, found layer {name or 'model'!r} in train mode, "
                "where it depends on chance or changes itself; call model.eval()."
            )


def _check_initialised(name: str, module: nn.Module) -> None:
    lazy = isinstance(module, nn.modules.lazy.LazyModuleMixin)
    if lazy and cast(Any, module).has_uninitialized_params():
        raise ScoringError(
            f"Expected a model whose parameters have shapes, found layer {name or 'model'!r} that "
            "has not seen an input yet; run the model once on a batch."
        )


@contextlib.contextmanager
def _frozen(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let some trainable parameters not be differentiated while this lasts."""
    chosen = [p for name, p in model.named_parameters() if name in names] if names else []
    for parameter in chosen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in chosen:
            parameter.requires_grad_(True)


def _forward_mode(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    directions: Mapping[str, Tensor],
    count: int,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> Tensor:
    """Return the products (B, D) by Jacobian-vector products."""
    parameters = parameters_of(model)
    tangents = {name: directions[name].to(value) for name, value in parameters.items()}

    def losses(values: dict[str, Tensor]) -> Tensor:
        return _losses(model, values, inputs, labels, loss, precision)

    def product(tangent: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, jvp(losses, (parameters,), (tangent,))[1])

    kinds = (
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._BatchNorm,
        nn.Embedding,
        nn.MultiheadAttention,
    )
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), math_only, _no_word_of_speed(), replaced(model, ForwardMode(), kinds):
        if count == 1:
            return product({name: value[0] for name, value in tangents.items()})[:, None]
        return vmap(product, out_dims=1, chunk_size=DIRECTIONS_AT_ONCE)(tangents)


def _forward_mode_agrees(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> bool:
    """Whether forward mode gives what the backward pass defines, tried once on two samples.

    A model may say that something has no gradient, or another one, in ways of which forward mode
    knows nothing: a forward pass without gradients, a hook that changes them.
    """
    names = _names(model)
    key = (inputs.shape[1:], inputs.dtype, tuple(names), loss, precision)
    tried = _forward_modes.setdefault(model, {})
    if key not in tried:
        plan = _plan(model, names, inputs, labels, loss)
        generator = torch.Generator().manual_seed(0)
        parameters = parameters_of(model)
        stacked = {
            name: torch.randn(1, *value.shape, generator=generator).to(value)
            for name, value in parameters.items()
        }
        stacked = _fitting_directions(parameters, stacked)
        direction = {name: value[0] for name, value in stacked.items()}
        finite = inputs[:2].nan_to_num() if inputs.is_floating_point() else inputs[:2]
        pair = finite, _fitting(loss, labels[:2], plan.classes)
        tape = _backward_mode(model, *pair, direction, loss, precision)
        found = _forward_mode(model, *pair, stacked, 1, loss, precision)[:, 0]
        length = torch.stack([v.norm().double() for v in direction.values()]).norm()
        bound = (3e-2 if precision == "bf16" else 1e-4) * length * tape.squares.sqrt()
        tried[key] = bool(((found - tape.dots).abs() <= bound).all())
    return tried[key]


def _backward_mode(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    direction: Mapping[str, Tensor] | None,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> Tape:
    """Return squares and products from one backward pass over the outputs of layers."""
    names = _names(model)
    if not len(inputs):
        return Tape(NO_PLAN, names, 0, direction, inputs)
    plan = _plan(model, names, inputs, labels, loss)
    _say_general(model, plan)
    if loss is cross_entropy:
        _check_labels_fit(labels, plan.classes)
    batch = (inputs, labels, direction, loss, precision)
    try:
        tape = _by_rules(model, plan, names, *batch)
    except UnplannedUseError:
        # Something about the model or the loss is not what it was: look at it anew.
        _plans.pop(model, None)
        try:
            plan = _plan(model, names, inputs, labels, loss)
            tape = _by_rules(model, plan, names, *batch)
        except UnplannedUseError:
            plan = dataclasses.replace(NO_PLAN, general=frozenset(names.values()))
            tape = _by_rules(model, plan, names, *batch)
    if plan.general:
        for first, formed in _general(model, plan.general, inputs, labels, loss, precision):
            for name, value in formed.items():
                tape.add(value, None if direction is None else direction[name], first)
    return tape


def _by_rules(
    model: nn.Module,
    plan: Plan,
    names: Mapping[int, str],
    inputs: Tensor,
    labels: Tensor,
    direction: Mapping[str, Tensor] | None,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> Tape:
    """Return what the parameters with a rule add.

    Raises:
        UnplannedUseError: If the plan does not fit what the model does.
    """
    tape = Tape(plan, names, len(inputs), direction, inputs)
    if not plan.ruled:
        return tape
    # If the general ones were differentiated too, autograd would pass the tape by. Layers stay
    # replaced in the backward pass, which runs those again whose activations were not kept.
    with torch.enable_grad(), _frozen(model, plan.general), replaced(model, tape):
        tape.differentiate(_losses(model, None, inputs, labels, loss, precision).sum())
    return tape


def _general(
    model: nn.Module,
    names: frozenset[str],
    inputs: Tensor,
    labels: Tensor,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield whole gradients with respect to some parameters, a few samples at a time.

    Yields:
        The first sample, and tensors (b, *shape) by name.
    """
    wanted = {name: value for name, value in parameters_of(model).items() if name in names}
    held = sum(value.numel() * value.element_size() for value in wanted.values())
    step = max(1, GENERAL_BYTES // (held + _activation_bytes(model, inputs)))
    for first in range(0, len(inputs), step):
        part = slice(first, first + step)
        yield first, _formed(model, wanted, inputs[part], labels[part], loss, precision)


def _formed(
    model: nn.Module,
    wanted: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> dict[str, Tensor]:
    """Return whole gradients (b, *shape) of a few samples."""

    def single(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        pair = image[None], label[None]
        return _losses(model, values, *pair, loss, precision, checked=False).sum()

    with replaced(model, Arithmetic(), (nn.modules.batchnorm._BatchNorm, nn.MultiheadAttention)):
        try:
            with torch.no_grad(), _no_word_of_speed():
                return dict(vmap(grad(single), in_dims=(None, 0, 0))(wanted, inputs, labels))
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
        pairs = zip(inputs.split(1), labels.split(1), strict=True)
        named = {name: p for name, p in model.named_parameters() if name in wanted}
        each = [_whole(model, named, *pair, loss, precision) for pair in pairs]
        return {name: torch.stack([g[name] for g in each]) for name in wanted}


@contextlib.contextmanager
def _no_word_of_speed() -> Iterator[None]:
    """Keep torch from warning that vmap runs some operation one sample after another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _activation_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Return what one sample's activations take, as predicted once for each shape."""
    known = _activations.setdefault(model, {})
    shape = tuple(inputs.shape[1:])
    if shape not in known:
        try:
            known[shape] = bytes_per_sample(model, shape)
        except ScoringError:
            known[shape] = 0  # not a model that can be tried without data
    return known[shape]


def _whole(
    model: nn.Module,
    named: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    loss: SampleLoss,
    precision: ScoringPrecision,
) -> dict[str, Tensor]:
    """Return the gradient of the sum of a few samples' losses, whatever the model does."""
    with torch.enable_grad():
        total = _losses(model, None, inputs, labels, loss, precision).sum()
        found = torch.autograd.grad(
            total, list(named.values()), allow_unused=True, materialize_grads=True
        )
    dense = (value.to_dense() if value.is_sparse else value for value in found)
    return dict(zip(named, dense, strict=True))


def _plan(
    model: nn.Module, names: Mapping[int, str], inputs: Tensor, labels: Tensor, loss: SampleLoss
) -> Plan:
    """Return the plan of a model, probed once for each shape of inputs."""
    key = (inputs.shape[1:], inputs.dtype, tuple(names.items()))
    plans = _plans.setdefault(model, {})
    if key not in plans:
        pair = labels[[0, min(1, len(labels) - 1)]]

        def losses(logits: Tensor) -> Tensor:
            return _unreduced(loss, logits, _fitting(loss, pair, logits.shape[-1]))

        plans[key] = probe(model, names, _candidates(model), inputs, losses)
    return plans[key]


def _fitting(loss: SampleLoss, labels: Tensor, classes: int) -> Tensor:
    """Return labels that a trial run can do with; whether the real ones fit is checked later."""
    return labels.clamp(0, classes - 1) if loss is cross_entropy else labels


def _say_general(model: nn.Module, plan: Plan) -> None:
    """Say once which parameters of a model cost more, and why."""
    if not plan.general or model in _said:
        return
    _said.add(model)
    told = [f"{name} ({reason})" for name, reason in sorted(_reasons(model, plan).items())]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    _log.warning(
        "Per-sample gradients of %d parameters take the general path, exact and slower: %s%s.",
        len(told),
        ", ".join(told[:5]),
        more,
    )


def _names(model: nn.Module) -> dict[int, str]:
    """Return the names of the trainable parameters by identity."""
    return {id(p): name for name, p in model.named_parameters() if p.requires_grad}


def _candidates(model: nn.Module) -> frozenset[str]:
    """Return the trainable parameters that may have a rule; rules are of real numbers."""
    named = model.named_parameters()
    return frozenset(name for name, p in named if p.requires_grad and not p.is_complex())


def _reasons(model: nn.Module, plan: Plan) -> dict[str, str]:
    """Return why parameters take the general path."""
    candidates, known, layers = _candidates(model), _known(model), _holders(model)
    reasons = {}
    for name in plan.general:
        reason = "used outside its layer" if name in known else f"{layers[name]} has no rule for it"
        if name not in candidates:
            reason = "it is complex"
        reasons[name] = plan.reasons.get(name) or reason
    return reasons


def _known(model: nn.Module) -> frozenset[str]:
    """Return the trainable parameters all of whose holders have a rule for them by their class."""
    names = _names(model)
    ruled = {(id(holder), name) for layer in model.modules() for holder, name in ruled_slots(layer)}
    left_out = {
        names.get(id(parameter))
        for holder in model.modules()
        for name, parameter in holder._parameters.items()
        if (id(holder), name) not in ruled
    }
    return frozenset(names.values()) - left_out


def _holders(model: nn.Module) -> dict[str, str]:
    """Return the class of the first layer that holds each parameter."""
    return {
        f"{prefix}.{name}" if prefix else name: type(layer).__name__
        for prefix, layer in model.named_modules(remove_duplicate=False)
        for name, _ in layer._parameters.items()  # what TorchScript has there cannot be iterated
    }


def _losses(
    model: nn.Module,
    values: dict[str, Tensor] | None,
    inputs: Tensor,
    labels: Tensor,
    loss: SampleLoss,
    precision: ScoringPrecision,
    *,
    checked: bool = True,
) -> Tensor:
    """Return the losses (B,) of a batch, with other parameter values where given."""
    half = precision == "bf16"
    inputs = inputs.detach()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
        outputs = model(inputs) if values is None else _called(model, values, inputs)
    logits = logits_of(outputs, len(inputs))
    if half and not logits.is_complex():
        logits = logits.float()
    return _unreduced(loss, logits, labels, checked=checked)


def _called(model: nn.Module, values: dict[str, Tensor], inputs: Tensor) -> Any:
    """Return a model's outputs with other parameter values, tied ones wherever they are."""
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    # Each layer once: of one that a model holds twice, torch would not put back the parameters.
    placed = {
        f"{prefix}.{name}" if prefix else name: values[canonical[id(parameter)]]
        for prefix, layer in model.named_modules()
        for name, parameter in layer._parameters.items()
        if parameter is not None and canonical[id(parameter)] in values
    }
    return functional_call(model, placed, (inputs,), tie_weights=False)


def _unreduced(
    loss: SampleLoss, logits: Tensor, labels: Tensor, *, checked: bool = False
) -> Tensor:
    if loss is cross_entropy:
        if logits.dim() != 2 or logits.is_complex():
            kind = "complex ones" if logits.is_complex() else "some"
            raise ScoringError(
                f"Expected real logits (B, K) for the cross-entropy, found {kind} of shape "
                f"{tuple(logits.shape)}; wrap the model so that it returns one number per class, "
                "or give a loss of your own."
            )
        if checked:
            _check_labels_fit(labels, logits.shape[1])
    losses = loss(logits, labels)
    if losses.is_complex():
        raise ScoringError("Expected real losses, found complex ones; take their real part.")
    if losses.shape != labels.shape[:1]:
        raise ScoringError(
            f"Expected one loss per sample, {tuple(labels.shape[:1])}, found shape "
            f"{tuple(losses.shape)}; use reduction='none'."
        )
    return losses


@contextlib.contextmanager
def _prepared(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Callable[..., Tensor]
) -> Iterator[tuple[dict[str, nn.Parameter], Tensor, Tensor]]:
    """Check a model and a batch, and lend them so that autograd works and nothing stays changed.

    Yields:
        The trainable parameters, the inputs, and the labels, as int64 where whole.
    """
    check_eval(model)
    with torch.inference_mode(False):
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ScoringError(
                "Expected at least one trainable parameter, found none; "
                "set requires_grad on what is to be differentiated."
            )
        _check_unhooked(named)
        inputs, labels = _usable(inputs), _usable(labels)
        _check_labels(inputs, labels, loss)
        if not (labels.is_floating_point() or labels.is_complex()):
            labels = labels.long()
        with tables_put_back(model):
            yield named, inputs, labels


def _usable(values: Tensor) -> Tensor:
    """Return values without history that autograd can save; those of inference mode cannot be."""
    return values.clone() if values.is_inference() else values.detach()


def _check_unhooked(named: Mapping[str, Tensor]) -> None:
    """Refuse hooks that change gradients of parameters, of which forward passes know nothing."""
    hooked = [name for name, parameter in named.items() if parameter._backward_hooks]
    if hooked:
        raise ScoringError(
            f"Expected parameters without hooks on their gradients, found some on "
            f"{', '.join(hooked[:3])}; remove them, or freeze what is not to be differentiated."
        )


def _check_labels(inputs: Tensor, labels: Tensor, loss: Callable[..., Tensor]) -> None:
    """Refuse labels that are not one for each sample; classes are whole numbers, (B,)."""
    classes = loss is not cross_entropy or not (labels.is_floating_point() or labels.is_complex())
    if not classes or (loss is cross_entropy and labels.dim() != 1) or len(labels) != len(inputs):
        raise ScoringError(
            f"Expected labels of shape ({len(inputs)},), one whole number per sample, found "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}; give the "
            "index of each sample's class, or a loss of your own for other targets."
        )


def _result_type(parameters: Mapping[str, Tensor]) -> torch.dtype:
    """Return the widest real type of the parameters, float32 at least."""
    kinds = (value.dtype.to_real() for value in parameters.values())
    return functools.reduce(torch.promote_types, kinds, torch.float32)


def _check_labels_fit(labels: Tensor, classes: int) -> None:
    """Refuse labels (B,) outside the head, which vmap would otherwise read out of bounds."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ScoringError(
            f"Expected labels within 0...{classes - 1}, the model's outputs, found {low}...{high}; "
            "build the model for as many classes as the data have."
        )


def _fitting_directions(
    parameters: Mapping[str, Tensor], directions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return directions (D, *shape) detached, in the parameters' precision, float32 at least.

    Raises:
        ScoringError: If they leave out or misshape a parameter, or name an unknown one.
    """
    missing = sorted(parameters.keys() - directions.keys())
    unknown = sorted(directions.keys() - parameters.keys())
    misshaped = [
        f"{name} {tuple(directions[name].shape[1:])} instead of {tuple(value.shape)}"
        for name, value in parameters.items()
        if name in directions and directions[name].shape[1:] != value.shape
    ]
    counts = {len(value) for name, value in directions.items() if name in parameters}
    if len(counts) > 1:
        misshaped.append(f"between {min(counts)} and {max(counts)} directions")
    if missing or unknown or misshaped:
        raise ScoringError(
            "Expected a direction with one tensor per trainable parameter, found "
            f"missing {missing}, unknown {unknown}, misshaped {misshaped}; build it from "
            "parameters_of(model)."
        )
    return {
        name: _usable(directions[name]).to(torch.promote_types(p.dtype, torch.float32))
        for name, p in parameters.items()
    }
