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
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from raydrop.data.inputs import Inputs, InputSpec, each, leaves
from raydrop.errors import ScoringError
from raydrop.models import check_eager
from raydrop.scores.gradients import checks
from raydrop.scores.gradients.checks import Batch, SampleLoss, cross_entropy, prepared
from raydrop.scores.gradients.memory import bytes_per_sample
from raydrop.scores.gradients.operations import intercepted, plainly, with_tangents
from raydrop.scores.gradients.uses import ParameterPath, Plan, Tape, UnplannedUseError, probe
from raydrop.study import ScoringPrecision
from raydrop.training.halving import is_out_of_memory

GENERAL_BYTES = 2**28
"""Per-sample gradients of parameters without a rule that are held at once."""

_log = logging.getLogger(__name__)


class _Known:
    """What was found out about a model, mostly by the shape of its inputs."""

    def __init__(self) -> None:
        self.plans: dict[Any, Plan] = {}
        self.activations: dict[Any, int] = {}
        self.forward_mode_agrees: dict[Any, bool] = {}
        self.has_forward_mode, self.general_is_said = True, False


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def _known(model: nn.Module) -> _Known:
    return _KNOWN.setdefault(model, _Known())


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters by name, detached; a tied parameter counts once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def per_sample_dot(
    model: nn.Module,
    inputs: Inputs,
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
        inputs: A tensor (B, ...), or a tuple or dict of such, as the model takes them.
        labels: Classes (B,), whole numbers; whatever ``loss`` takes where it is given.
        direction: v, a tensor of the parameter's shape for every trainable parameter.
        loss: Loss of each sample, unreduced.
        precision: ``fp32`` computes in the model's own precision, ``bf16`` under autocast.

    Raises:
        ScoringError: If a sample has no gradient of its own (samples mix, outputs depend on chance,
            the model changes itself, hooks change gradients), or model, loss, labels and direction
            do not fit each other.
    """
    with prepared(model, inputs, labels, loss, precision) as batch:
        direction, known = checks.fitting_direction(batch.parameters, direction), _known(model)
        if known.has_forward_mode and len(labels):
            try:
                if _forward_mode_agrees(batch):
                    return _forward_mode(batch, direction)
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).split("\n")[0]
                _log.warning("Forward mode does not do this model (%s).", reason)
            known.has_forward_mode = False
        return _backward_mode(batch, direction).dots.to(batch.result_type)


def per_sample_norm(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> Tensor:
    r"""Return || grad l_i ||_2, (B,), over all trainable parameters; see :func:`per_sample_dot`."""
    with prepared(model, inputs, labels, loss, precision) as batch:
        return _backward_mode(batch, None).squares.sqrt().to(batch.result_type)


def norm_and_dot(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    direction: Mapping[str, Tensor],
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> tuple[Tensor, Tensor]:
    r"""Return || grad l_i ||_2 and <grad l_i, v>, (B,) each, as :func:`per_sample_dot` does."""
    with prepared(model, inputs, labels, loss, precision) as batch:
        tape = _backward_mode(batch, checks.fitting_direction(batch.parameters, direction))
        return tape.squares.sqrt().to(batch.result_type), tape.dots.to(batch.result_type)


def gradient_sum(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    *,
    loss: SampleLoss = cross_entropy,
    precision: ScoringPrecision = "fp32",
) -> dict[str, Tensor]:
    """Return sum_i grad l_i, one tensor per parameter, zeros where the loss does not reach it."""
    with prepared(model, inputs, labels, loss, precision) as batch:
        if not len(labels):
            return {name: torch.zeros_like(value) for name, value in batch.parameters.items()}
        _plan(batch)  # refuses what has no per-sample gradients
        return _whole(batch, batch.parameters)


def coverage(model: nn.Module, inputs: Inputs) -> tuple[ParameterPath, ...]:
    """Return how the gradient of every parameter is found, tied ones once; none is left out.

    The model is run on two samples of the inputs (B, ...), which shows what each parameter is used
    for. Errors are those of :func:`per_sample_dot`.
    """
    first = leaves(inputs)[0]
    if not len(first):
        raise checks.refused("a sample to run the model on", "none", "give one at least")
    with prepared(model, inputs, first, lambda z, _: z.abs().reshape(len(z), -1).sum(1)) as batch:
        return _plan(batch).paths(model)


@contextlib.contextmanager
def last_layer_only(model: nn.Module) -> Iterator[None]:
    """Leave only the parameters of a model's last linear layer trainable while this lasts."""
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


def _forward_mode(batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
    """Return the products (B,) by a Jacobian-vector product."""
    model, values = batch.model, batch.values
    tangents = {name: direction[name].to(value) for name, value in values.items()}
    kinds = (
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._BatchNorm,
        nn.Embedding,
        nn.MultiheadAttention,
    )
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), math_only, _no_word_of_speed(), intercepted(model, with_tangents, kinds):
        return cast(Tensor, jvp(batch.losses, (values,), (tangents,))[1])


def _forward_mode_agrees(batch: Batch) -> bool:
    """Whether forward mode gives what the backward pass defines, tried once on two samples.

    A model may take gradients away or change them (no_grad, hooks), unseen by forward mode.
    """
    tried = _known(batch.model).forward_mode_agrees
    key = (batch.form, tuple(batch.names), batch.loss, batch.precision)
    if key not in tried:
        plan = _plan(batch)
        generator = torch.Generator().manual_seed(0)
        direction = {
            name: torch.randn(value.shape, generator=generator).to(value)
            for name, value in batch.values.items()
        }
        direction = checks.fitting_direction(batch.parameters, direction)
        two = batch.part(slice(2))
        finite = each(lambda v: v.nan_to_num() if v.is_floating_point() else v, two.inputs)
        pair = batch.of(finite, batch.clamped(two.labels, plan.classes))
        tape, found = _backward_mode(pair, direction), _forward_mode(pair, direction)
        length = torch.stack([v.norm().double() for v in direction.values()]).norm()
        bound = (3e-2 if batch.precision == "bf16" else 1e-4) * length * tape.squares.sqrt()
        tried[key] = bool(((found - tape.dots).abs() <= bound).all())
    return tried[key]


def _backward_mode(batch: Batch, direction: Mapping[str, Tensor] | None) -> Tape:
    """Return squares and products from one backward pass over the outputs of layers."""
    if not len(batch.labels):
        return Tape(batch, Plan(), direction)
    plan = _plan(batch)
    _say_general(batch.model, plan)
    batch.check_labels_fit(plan.classes)
    try:
        tape = _by_rules(batch, plan, direction)
    except UnplannedUseError:
        # Something about the model or the loss is not what it was: look at it anew.
        _known(batch.model).plans.clear()
        try:
            plan = _plan(batch)
            tape = _by_rules(batch, plan, direction)
        except UnplannedUseError:
            plan = Plan(general=frozenset(batch.parameters))
            tape = _by_rules(batch, plan, direction)
    if plan.general:
        for first, formed in _general(batch, plan.general):
            for name, value in formed.items():
                tape.add(name, value, first)
    return tape


def _by_rules(batch: Batch, plan: Plan, direction: Mapping[str, Tensor] | None) -> Tape:
    """Return what the parameters with a rule add."""
    tape = Tape(batch, plan, direction)
    if not plan.ruled:
        return tape
    # If the general ones were differentiated too, autograd would pass the tape by. Layers stay
    # intercepted in the backward pass, which runs those again whose activations were not kept.
    model = batch.model
    with torch.enable_grad(), _frozen(model, plan.general), intercepted(model, tape):
        tape.differentiate(batch.losses().sum())
    return tape


def _general(batch: Batch, names: frozenset[str]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield a first sample, and some parameters' gradients (b, *shape) of it and the next ones."""
    wanted = {name: value for name, value in batch.values.items() if name in names}
    held = sum(value.numel() * value.element_size() for value in wanted.values())
    step = max(1, GENERAL_BYTES // (held + _activation_bytes(batch)))
    for first in range(0, len(batch.labels), step):
        yield first, _formed(batch.part(slice(first, first + step)), wanted)


def _formed(batch: Batch, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return whole gradients (b, *shape) of a few samples."""

    def single(values: dict[str, Tensor], sample: Inputs, label: Tensor) -> Tensor:
        alone = batch.of(each(lambda values: values[None], sample), label[None])
        return alone.losses(values, checked=False).sum()

    inputs, labels = batch.inputs, batch.labels
    kinds = nn.modules.batchnorm._BatchNorm, nn.MultiheadAttention
    with intercepted(batch.model, plainly, kinds):
        try:
            with torch.no_grad(), _no_word_of_speed():
                return dict(vmap(grad(single), in_dims=(None, 0, 0))(wanted, inputs, labels))
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
        named = {name: p for name, p in batch.parameters.items() if name in wanted}
        found = [_whole(batch.part(slice(i, i + 1)), named) for i in range(len(labels))]
        return {name: torch.stack([g[name] for g in found]) for name in wanted}


@contextlib.contextmanager
def _no_word_of_speed() -> Iterator[None]:
    """Keep torch from warning that vmap runs some operation one sample after another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _activation_bytes(batch: Batch) -> int:
    """Return what one sample's activations take, as predicted once for each shape."""
    known = _known(batch.model).activations
    if batch.form not in known:
        try:
            known[batch.form] = bytes_per_sample(batch.model, InputSpec.of(batch.inputs))
        except ScoringError:
            known[batch.form] = 0  # not a model that can be tried without data
    return known[batch.form]


def _whole(batch: Batch, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of the sum of a few samples' losses, whatever the model does."""
    with torch.enable_grad():
        total, wanted = batch.losses().sum(), list(named.values())
        found = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
    dense = (value.to_dense() if value.is_sparse else value for value in found)
    return dict(zip(named, dense, strict=True))


def _plan(batch: Batch) -> Plan:
    """Return the plan of a model, probed once for each shape of inputs."""
    labels, plans = batch.labels, _known(batch.model).plans
    key = (batch.form, tuple(batch.names.items()))
    if key not in plans:
        pair = labels[[0, min(1, len(labels) - 1)]]

        def losses(logits: Tensor) -> Tensor:
            return batch.losses_of(logits, batch.clamped(pair, logits.shape[-1]))

        plans[key] = probe(batch, losses)
    return plans[key]


def _say_general(model: nn.Module, plan: Plan) -> None:
    """Say once which parameters of a model cost more, and why."""
    if not plan.general or _known(model).general_is_said:
        return
    _known(model).general_is_said = True
    paths = [path for path in plan.paths(model) if path.path == "general"]
    told = [f"{path.name} ({path.reason})" for path in sorted(paths, key=lambda path: path.name)]
    said = ", ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")
    path = "the general path, exact and slower"
    _log.warning("Per-sample gradients of %d parameters take %s: %s.", len(told), path, said)
