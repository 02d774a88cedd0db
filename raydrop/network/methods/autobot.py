"""AutoBot: gates that learn, under a budget, which channels a network can do without.

Shapes: ``C`` channels of a layer, ``L`` layers, ``U`` gates, one for each coupled channel.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from raydrop.data.inputs import InputSpec
from raydrop.errors import NetworkError
from raydrop.models import ImageShape
from raydrop.network.base import NetworkMethod, Pruned, PruningTask
from raydrop.network.coupling import Coupling
from raydrop.network.cutting import chosen, cut
from raydrop.network.measure import blank_inputs, evaluating
from raydrop.network.tracing import coupling_of
from raydrop.study.catalogue import Entry, Parameter

START = 2.1972
"""Logit at which gates start: they are 0.9."""
SETTLED = 0.6
"""Share of the iterations before the first one whose gates may be chosen."""
CLOSE = 0.05
"""How far from the target a search may end, as a share of the target."""
DOUBLINGS = 4
"""Further searches at most, each with twice the beta."""
POINTS = 50
"""Iterations of the course that are reported, at most."""


def soft_size(
    coupling: Coupling, measure: str, unit: float, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the soft form of :meth:`raydrop.network.coupling.Coupling.size`, in units.

    It makes of gates (U,), in float64, F = rest + sum_l (product_l o_l i_l + vector_l o_l), with
    o_l and i_l the shares of a layer's outputs and inputs that are open: 1 - sum_u share_lu
    (1 - gate_u), share_lu the share of the layer's outputs (inputs) that is coupled channel u.
    Where all gates are 0 or 1 that is the size of the network without the channels whose gates are
    0, in multiply-accumulates (``flops``) or parameters.
    """
    count, flops = len(coupling.groups), measure == "flops"
    shares = {side: np.zeros((len(coupling.layers), count)) for side in ("out", "in")}
    rows = {name: row for row, name in enumerate(coupling.layers)}
    for (name, side), owner in coupling.owners.items():
        counts = np.bincount(owner[owner >= 0], minlength=count)
        shares[side][rows[name]] = counts / len(owner)
    sizes = coupling.layers.values()
    costs = [(each.macs, 0) if flops else (each.weights, each.vectors) for each in sizes]
    parts = (shares["out"], shares["in"], *(np.array(costs).T / unit))
    of_outputs, of_inputs, products, vectors = (torch.from_numpy(each).to(device) for each in parts)
    rest = (coupling.rest_macs if flops else coupling.rest_parameters) / unit

    def size(gates: Tensor) -> Tensor:
        closed = 1 - gates
        outputs, inputs = 1 - of_outputs @ closed, 1 - of_inputs @ closed
        return rest + (outputs * (products * inputs + vectors)).sum()

    return size


def distance(cost: Tensor, target: float, whole: float) -> Tensor:
    """Return g, how far a cost F is from its target T > 0, in units of its distance at the ends.

    g = (F - T) / (F_tot - T) above the target, 1 - F / T below, with F_tot > T the whole network's.
    """
    return torch.where(cost > target, (cost - target) / (whole - target), 1 - cost / target)


def indecision(gates: Tensor) -> Tensor:
    """Return h, the mean distance of gates from 0 or 1, in [0, 1/2]."""
    return (gates - gates.detach().round()).abs().mean()


class Search(NamedTuple):
    """What came of a search."""

    logits: Tensor
    """b of the best iteration, (U,) float64 on the CPU."""
    iteration: int
    """The best one, from 0."""
    cost: float
    """F of the best iteration."""
    course: list[float]
    """F before each step, and after the last."""
    beta: float
    """Its weight of the distance from the target."""


class AutoBot(NetworkMethod):
    """Gates on channels, trained to keep the loss low at a given cost, say which ones go.

    Each channel that can go has a gate sigmoid(b), which multiplies it behind the normalisation
    that its convolution's output goes into (behind the convolution where there is none). Channels
    that can only go together, as those of a residual stream, share one gate, so the cost that the
    search sees is the one that is measured after cutting. b starts at 2.1972; Adam trains nothing
    else, on L = L_data + beta g + gamma_h h, with :func:`distance` g of :func:`soft_size` from the
    target and :func:`indecision` h; the authors use a beta of 2.7 to 6, and a gamma_h of 0. Weights
    and the statistics of BatchNorm stay as they are. Of the last 40 % of the iterations the one
    with the smallest L gives the order in which channels go, by one threshold for all layers, until
    the measured target is met.

    Where the loss rises faster than beta g falls, a search ends above its target. If the best
    iteration is more than 5 % off, it is therefore repeated with twice the beta, up to four times,
    which is no part of the published method; nor are shared gates, which stand for the authors'
    gates on every convolution.

    ``Pruned.facts`` has the course of the last search as shares of the dense network's measure:
    ``soft_size`` at each of ``iterations`` (at most 50 of them; the last number is after the last
    step), ``target_size``, ``best_iteration`` and ``best_soft_size``; the ``beta`` that was used;
    and ``threshold``, the most open gate that went, or None.

    Source: Castells and Yeom, "Automatic neural network pruning that efficiently preserves the
    model accuracy", 2021, arXiv 2111.09635.
    """

    def __init__(
        self, iterations: float, learning_rate: float, beta: float, gamma_h: float
    ) -> None:
        self._iterations, self._rate = int(iterations), learning_rate
        self._beta, self._gamma_h = beta, gamma_h

    def prune(self, task: PruningTask) -> Pruned:
        """Remove the channels whose gates closed."""
        coupling = coupling_of(task.model, task.image_shape)
        target = 1 - task.target.fraction
        found = self._converged(task, coupling, target)
        scores = found.logits.numpy()
        kept = chosen(task, coupling, scores)
        places = np.linspace(0, len(found.course) - 1, min(POINTS, len(found.course)))
        iterations = places.round().astype(int).tolist()
        facts = {
            "iterations": iterations,
            "soft_size": [round(found.course[place], 6) for place in iterations],
            "target_size": target,
            "best_iteration": found.iteration,
            "best_soft_size": round(found.cost, 6),
            "beta": found.beta,
            "threshold": None
            if kept.all()
            else torch.tensor(float(scores[~kept].max())).sigmoid().item(),
        }
        return cut(task, coupling, kept, facts)

    def _converged(self, task: PruningTask, coupling: Coupling, target: float) -> Search:
        """Return the first search that ends close to its target, or the last one."""
        whole = coupling.size(coupling.everything(), task.target.measure)
        larger = whole > target * task.dense.of(task.target.measure)
        for doubling in range(DOUBLINGS + 1):
            found = self.search(task, coupling, target, self._beta * 2**doubling)
            if not larger or abs(found.cost - target) <= CLOSE * target:
                break
        return found

    def search(self, task: PruningTask, coupling: Coupling, target: float, beta: float) -> Search:
        """Train gates for a target T, a share of the dense network's measure; return the best.

        Raises:
            NetworkError: If the loss is not finite.
        """
        model = copy.deepcopy(task.model).eval().requires_grad_(False)
        device = next(model.parameters()).device
        measure = task.target.measure
        size = soft_size(coupling, measure, task.dense.of(measure), device)
        logits = torch.full((len(coupling.groups),), START, device=device, requires_grad=True)
        # A network that is smaller than its target already is only told to keep what it has.
        whole = max(float(size(torch.ones_like(logits).double())), target + 1e-6)
        optimizer = torch.optim.Adam([logits], lr=self._rate)
        settled = int(SETTLED * self._iterations)
        course, best = list[float](), (math.inf, 0, math.nan, logits.detach().clone())
        with gated(model, coupling, task.image_shape) as current:
            for iteration, step in enumerate(task.steps(self._iterations)):
                gates = logits.sigmoid()
                current[:] = [gates]
                cost = size(gates.double())
                loss = task.loss(model(step.images), step)
                loss = loss + beta * distance(cost, target, whole)
                loss = loss + self._gamma_h * indecision(gates)
                course.append(cost.item())
                value = loss.item()
                if not math.isfinite(value):
                    raise NetworkError(
                        f"Expected a finite loss in the search of autobot, found {value} in "
                        f"iteration {iteration}; prune a network whose training did not diverge."
                    )
                if iteration >= settled and value < best[0]:
                    best = (value, iteration, course[-1], logits.detach().clone())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        course.append(float(size(logits.detach().double().sigmoid())))
        return Search(best[3].double().cpu(), best[1], best[2], course, beta)


@contextlib.contextmanager
def gated(
    model: nn.Module, coupling: Coupling, image_shape: InputSpec | ImageShape
) -> Iterator[list[Tensor]]:
    """Multiply channels by the gates (U,) that are in the list given, in every forward pass."""
    current = list[Tensor]()

    def multiplied(owner: Tensor, _layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        (gates,) = current
        # A channel that always stays is number -1: the open gate at the end.
        factors = torch.cat([gates, gates.new_ones(1)])[owner.to(gates.device)]
        return output * factors.to(output.dtype).view(-1, *[1] * (output.ndim - 2))

    behind = normalised_by(model, coupling.prunable, image_shape)
    with contextlib.ExitStack() as hooks:
        for name in coupling.prunable:
            hook = partial(multiplied, torch.from_numpy(coupling.owners[name, "out"]))
            site = model.get_submodule(behind.get(name, name))
            hooks.callback(site.register_forward_hook(hook).remove)
        yield current


def normalised_by(
    model: nn.Module, layers: Iterable[str], image_shape: InputSpec | ImageShape
) -> dict[str, str]:
    """Return the normalisation that each layer's output goes straight into, by the layer's name.

    It would undo a factor before it, so gates come behind it. A forward pass of one black image
    shows it; layers without one are left out.
    """
    # The tensors are kept as well, lest one that is gone leaves its id to another.
    made: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, str] = {}

    def note(name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        made[id(output)] = (name, output)

    def look(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            found[made[id(inputs[0])][0]] = name

    with contextlib.ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name in layers:
            hook = model.get_submodule(name).register_forward_hook(partial(note, name))
            hooks.callback(hook.remove)
        for name, module in model.named_modules():
            if isinstance(module, (_NormBase, nn.GroupNorm)):
                hooks.callback(module.register_forward_pre_hook(partial(look, name)).remove)
        model(blank_inputs(model, image_shape))
    return found


AUTOBOT = Entry[NetworkMethod](
    "autobot",
    AutoBot,
    "removes the channels whose gates close when gates alone are trained under a budget",
    "Castells and Yeom 2021, arXiv 2111.09635",
    (
        Parameter("iterations", 200.0, least=1.0, whole=True, named=True),
        Parameter("learning_rate", 0.6, named=True),
        Parameter("beta", 6.0, named=True),
        Parameter("gamma_h", 0.0, named=True),
    ),
)
