"""What pruning a network is: a target, a task, a method, and what came of it.

Shapes: ``B`` samples of a batch, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from raydrop.data.inputs import InputSpec
from raydrop.errors import ConfigError
from raydrop.models import ImageShape
from raydrop.study.catalogue import parse_call, value_text

Measure = Literal["flops", "parameters", "sparsity"]
"""What a target is a share of."""
MEASURES: Mapping[str, str] = {
    "flops": "multiply-accumulates of a forward pass",
    "parameters": "parameters",
    "sparsity": "weights",
}
"""Each measure in words; of weights those that are not zero."""


class Target(NamedTuple):
    """How much of a dense network is to go, such as ``flops(0.75)``."""

    measure: Measure
    fraction: float
    """Share of the dense network's that goes, in (0, 1)."""

    @property
    def name(self) -> str:
        """The canonical text."""
        return f"{self.measure}({value_text(self.fraction)})"


class NetworkSize(NamedTuple):
    """How large a network is, measured."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products in a forward pass of one image."""
    parameters: int
    """Elements of all parameters; a masked weight is one."""
    weights: int
    """Weights of convolutions and linear layers that are not masked; biases are not among them."""

    def of(self, measure: Measure) -> int:
        """Return what a target's measure counts."""
        sizes = {"flops": self.macs, "parameters": self.parameters, "sparsity": self.weights}
        return sizes[measure]


class Step(NamedTuple):
    """A batch on its device, with everything that a loss may ask for."""

    images: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,) int64."""
    units: Tensor
    """Classes or groups, (B,) int64."""
    reference: Tensor | None = None
    """Logits of the dense network for these images, (B, K), without gradient; None where the loss
    reads none."""


@dataclass(frozen=True, eq=False)
class PruningTask:
    """What a method is given."""

    model: nn.Module
    """The network, on its device. A method leaves it as it is and works on a copy."""
    image_shape: InputSpec | ImageShape
    """What it is fed with, of images their shape alone."""
    target: Target
    """Relative to :attr:`dense`, also in the later rounds of an iterative schedule."""
    dense: NetworkSize
    """Size of the dense network."""
    steps: Callable[[int], Iterator[Step]]
    """Given n, yields n batches of the kept training samples: epoch after epoch, each in an order
    of its own, the same ones whenever it is called."""
    loss: Callable[[Tensor, Step], Tensor]
    """Scalar loss of logits (B, K) for a batch."""
    seed: int
    """Of everything random."""
    restore: bool = True
    """Whether a method that trains weights on its way gives back those from before."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """What came of pruning."""

    model: nn.Module
    """The pruned network, with the weights that the task's network had where they remain, unless
    the task says not to restore them."""
    size: NetworkSize
    """Its measured size."""
    reached: float
    """Share of the dense network's measure that is gone, measured."""
    channels: Mapping[str, Any] = field(default_factory=dict)
    """What was removed, as plain JSON values from which the architecture can be rebuilt: see
    :mod:`raydrop.network.channels`. Empty where weights are masked."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks by the name of their parameter, True where a weight stays; empty where channels go."""
    note: str = ""
    """A sentence where the target could not be reached: which, what was reached, and why."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a method found out on its way, as plain JSON values, such as its course."""


class NetworkMethod(Protocol):
    """One way to choose what goes."""

    structured: bool = True
    """Whether whole channels are removed; otherwise weights are masked."""

    def prune(self, task: PruningTask) -> Pruned:
        """Return the pruned network, or raise a NetworkError that names the module in the way."""
        ...


def parse_target(value: float | str, *, structured: bool) -> Target:
    """Return the target that a search space writes: ``0.75`` or ``parameters(0.75)``.

    A number is a share of the multiply-accumulates for methods that remove channels (``structured``
    ones), and a sparsity for those that mask weights.

    Raises:
        ConfigError: If it is of another form, outside (0, 1), or a share that the kind of method
            cannot change.
    """
    allowed: Sequence[Measure] = ("flops", "parameters") if structured else ("sparsity",)
    measure, text = str(allowed[0]), str(value)
    if "(" in text:
        measure, arguments = parse_call(text, "network_target")
        text = arguments[0][1] if len(arguments) == 1 else ""
    if measure not in allowed:
        kind = "removes channels" if structured else "masks weights"
        raise ConfigError(
            f"Expected a network_target of {' or '.join(allowed)} for a method that {kind}, found "
            f"{value!r}; write for example {Target(allowed[0], 0.5).name}."
        )
    try:
        fraction = round(float(text), 12)
    except ValueError:
        fraction = float("nan")
    if not 0.0 < fraction < 1.0:
        raise ConfigError(
            f"Expected a network_target in (0, 1), found {value!r}; it is the share of the dense "
            f"network's {MEASURES[measure]} that goes, as in {Target(allowed[0], 0.5).name}."
        )
    return Target(measure, fraction)  # type: ignore[arg-type]
