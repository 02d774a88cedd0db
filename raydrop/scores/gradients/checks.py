"""A batch whose samples have gradients of their own, and all reasons why one has none."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call

from raydrop.data.inputs import Inputs, each
from raydrop.data.inputs import leaves as parts_of
from raydrop.errors import ScoringError, visible
from raydrop.study import ScoringPrecision

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels (B,) to one loss per sample, (B,)."""
Tables = (nn.Embedding, nn.EmbeddingBag)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample: logits (B, K), labels (B,), result (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def refused(wanted: str, found: str, remedy: str) -> ScoringError:
    """Return an error in one sentence."""
    return ScoringError(f"Expected {wanted}, found {found}; {remedy}.")


@dataclass(frozen=True, eq=False)
class Batch:
    """A model and samples, in a form that autograd can work with."""

    model: nn.Module
    inputs: Inputs
    labels: Tensor
    """Classes, as int64 where whole."""
    loss: SampleLoss
    precision: ScoringPrecision = "fp32"

    @functools.cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name; a tied one counts once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def values(self) -> dict[str, Tensor]:
        """The same, detached."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """Their names by identity."""
        return {id(parameter): name for name, parameter in self.parameters.items()}

    @property
    def candidates(self) -> frozenset[str]:
        """Names of those that may have a rule; rules are of real numbers."""
        return frozenset(name for name, p in self.parameters.items() if not p.is_complex())

    @property
    def result_type(self) -> torch.dtype:
        """The widest real type of the parameters, float32 at least."""
        kinds = (value.dtype.to_real() for value in self.parameters.values())
        return functools.reduce(torch.promote_types, kinds, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where its inputs are."""
        found: torch.device = parts_of(self.inputs)[0].device
        return found

    @functools.cached_property
    def form(self) -> tuple[Any, ...]:
        """What one sample's inputs are: names, shapes and types of their tensors."""
        names = tuple(self.inputs) if isinstance(self.inputs, Mapping) else type(self.inputs)
        return names, tuple((part.shape[1:], part.dtype) for part in parts_of(self.inputs))

    def part(self, rows: slice) -> Batch:
        """Return some of its samples."""
        return self.of(each(lambda values: values[rows], self.inputs), self.labels[rows])

    def of(self, inputs: Inputs, labels: Tensor) -> Batch:
        """Return other samples of the same model."""
        return dataclasses.replace(self, inputs=inputs, labels=labels)

    def losses(self, values: dict[str, Tensor] | None = None, *, checked: bool = True) -> Tensor:
        """Return the losses (B,), with other parameter values where given."""
        model, inputs = self.model, each(lambda values: values.detach(), self.inputs)
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = model(inputs) if values is None else _called(model, values, inputs)
        logits = logits_of(outputs, len(self.labels))
        if half and not logits.is_complex():
            logits = logits.float()
        if checked and self.loss is cross_entropy and logits.dim() == 2:
            self.check_labels_fit(logits.shape[1])
        return self.losses_of(logits, self.labels)

    def losses_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (B,) of logits, if there is one for each sample."""
        if self.loss is cross_entropy and (logits.dim() != 2 or logits.is_complex()):
            raise refused(
                "real logits (B, K) for the cross-entropy",
                f"{'complex ones' if logits.is_complex() else 'some'} of shape "
                f"{tuple(logits.shape)}",
                "wrap the model so that it returns one number per class, or give a loss of your "
                "own",
            )
        losses = self.loss(logits, labels)
        if losses.is_complex():
            raise refused("real losses", "complex ones", "take their real part")
        if losses.shape != labels.shape[:1]:
            expected = f"one loss per sample, {tuple(labels.shape[:1])}"
            raise refused(expected, f"shape {tuple(losses.shape)}", "use reduction='none'")
        return losses

    def clamped(self, labels: Tensor, classes: int) -> Tensor:
        """Return labels that a trial run can do with; whether the real ones fit is seen later."""
        return labels.clamp(0, classes - 1) if self.loss is cross_entropy else labels

    def check_labels_fit(self, classes: int) -> None:
        """Refuse classes outside the head, which vmap would otherwise read out of bounds."""
        if self.loss is not cross_entropy:
            return
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= classes:
            raise refused(
                f"labels within 0...{classes - 1}, the model's outputs",
                f"{low}...{high}",
                "build the model for as many classes as the data have",
            )


def _called(model: nn.Module, values: dict[str, Tensor], inputs: Inputs) -> Any:
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


@contextlib.contextmanager
def prepared(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    loss: Callable[..., Tensor],
    precision: ScoringPrecision = "fp32",
) -> Iterator[Batch]:
    """Check a model and a batch, and lend them so that autograd works and nothing stays changed."""
    check_eval(model)
    with torch.inference_mode(False):
        whole = not (labels.is_floating_point() or labels.is_complex())
        given = usable(labels).long() if whole else usable(labels)
        batch = Batch(model, each(usable, inputs), given, loss, precision)
        if not batch.parameters:
            remedy = "set requires_grad on what is to be differentiated"
            raise refused("at least one trainable parameter", "none", remedy)
        hooked = [name for name, parameter in batch.parameters.items() if parameter._backward_hooks]
        if hooked:  # of which forward passes know nothing
            raise refused(
                "parameters without hooks on their gradients",
                f"some on {', '.join(hooked[:3])}",
                "remove them, or freeze what is not to be differentiated",
            )
        classes = loss is not cross_entropy or (whole and labels.dim() == 1)
        samples = {len(part) for part in parts_of(inputs)}
        if not classes or samples != {len(labels)}:
            kind = str(labels.dtype).removeprefix("torch.")
            raise refused(
                f"labels of shape ({' or '.join(map(str, sorted(samples)))},), one whole number "
                "per sample",
                f"{kind} of shape {tuple(labels.shape)}",
                "give the index of each sample's class, or a loss of your own for other targets",
            )
        with tables_put_back(model):
            yield batch


def usable(values: Tensor) -> Tensor:
    """Return values without history that autograd can save; those of inference mode cannot be."""
    return values.clone() if values.is_inference() else values.detach()


def fitting_direction(
    parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a direction detached, in the parameters' precision, float32 at least."""
    missing = sorted(parameters.keys() - direction.keys())
    unknown = sorted(direction.keys() - parameters.keys())
    misshaped = [
        f"{name} {tuple(direction[name].shape)} instead of {tuple(value.shape)}"
        for name, value in parameters.items()
        if name in direction and direction[name].shape != value.shape
    ]
    if missing or unknown or misshaped:
        raise refused(
            "a direction with one tensor per trainable parameter",
            f"missing {missing}, unknown {unknown}, misshaped {misshaped}",
            "build it from parameters_of(model)",
        )
    return {
        name: usable(direction[name]).to(torch.promote_types(p.dtype, torch.float32))
        for name, p in parameters.items()
    }


# --- models in which a sample has no gradient of its own ---


def check_eval(model: nn.Module) -> None:
    """Refuse a model in which a sample's gradient would depend on its batch or on chance."""
    for name, module in model.named_modules():
        layer = f"layer {name or 'model'!r}"
        lazy = isinstance(module, nn.modules.lazy.LazyModuleMixin)
        if lazy and cast(Any, module).has_uninitialized_params():
            raise refused(
                "a model whose parameters have shapes",
                f"{layer} that has not seen an input yet",
                "run the model once on a batch",
            )
        training = getattr(module, "training", False)  # TorchScript that is frozen has no modes
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and (training or module.running_mean is None):
            found = "using those of the batch, which makes per-sample gradients undefined"
            raise refused("fixed BatchNorm statistics", f"{layer} {found}", "call model.eval()")
        if isinstance(module, Tables) and module.scale_grad_by_freq:
            raise refused(
                "gradients that do not depend on the batch",
                f"{layer} that scales them by how often a word occurs there",
                "set scale_grad_by_freq=False",
            )
        dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        dropout |= isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0
        tracked = isinstance(module, nn.modules.instancenorm._InstanceNorm)
        compiled = isinstance(module, torch.jit.ScriptModule)  # which may hide any such layer
        if training and (dropout or compiled or (tracked and module.track_running_stats)):
            found = "in train mode, where it depends on chance or changes itself"
            raise refused("a model in eval mode", f"{layer} {found}", "call model.eval()")


def _limited_tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """Return the tables that shorten their rows, in place, when they are read."""
    tables = (each for each in model.modules() if isinstance(each, Tables))
    return [table for table in tables if table.max_norm is not None]


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


@contextlib.contextmanager
def unwritten(model: nn.Module) -> Iterator[None]:
    """Refuse a model that changes while this lasts, but for tables, which are put back."""
    kept = {id(table.weight) for table in _limited_tables(model)}
    named = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    inference = [name for name, tensor in named.items() if tensor.is_inference()]
    if inference:
        raise refused(
            "a model made outside of torch.inference_mode",
            f"{inference[0]!r} made within, which autograd cannot use",
            "build or move the model outside of it",
        )
    before = {name: tensor._version for name, tensor in named.items() if id(tensor) not in kept}
    yield
    after = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    written = [n for n, v in before.items() if n not in after or after[n]._version != v]
    if written:
        raise refused(
            "a model that a forward pass leaves as it is",
            f"that it writes {', '.join(written[:3])}, so that scores would depend on what was "
            "scored before",
            "call model.eval(), or switch off what it records",
        )


def logits_of(outputs: Any, samples: int) -> Tensor:
    """Return the logits among what a model returns, one row for each sample, or refuse it."""
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
    raise refused(
        "a model that returns logits, one row per sample, alone or as 'logits'",
        visible(found),
        "wrap it in a module that returns them",
    )


def leaves(losses: Tensor) -> list[Tensor]:
    """Return the tensors at which autograd ends that starts at the losses."""
    ends = (getattr(node, "variable", None) for node in nodes_of(losses))
    return [end for end in ends if end is not None]


def nodes_of(losses: Tensor) -> set[Node]:
    """Return the operations that autograd goes through, if it can look into all of the model."""
    visited: set[Node] = set()
    waiting = [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        own = isinstance(node, torch.autograd.function.BackwardCFunction)
        if own and node.name() == "CheckpointFunctionBackward":
            raise refused(
                "checkpoints that autograd can look into",
                "one with use_reentrant=True, within which gradients cannot be asked for",
                "pass use_reentrant=False, or switch checkpoints off",
            )
        waiting.extend(following for following, _ in node.next_functions)
    return visited
