"""Which parameters have a rule, and why the others have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.utils import parametrize

from raydrop.scores.gradients.uses import Plan

Path = Literal["rule", "general", "frozen"]


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


def parameter_paths(model: nn.Module, plan: Plan | None) -> tuple[ParameterPath, ...]:
    """Return every parameter's path; without a plan the classes of its layers alone decide."""
    named = dict(model.named_parameters())
    known = known_by_class(model)
    layers = {  # of the first layer that holds it
        f"{prefix}.{name}" if prefix else name: type(layer).__name__
        for prefix, layer in model.named_modules(remove_duplicate=False)
        for name, _ in layer._parameters.items()  # what TorchScript has there cannot be iterated
    }

    def reason(name: str) -> str:
        if plan is None:
            return f"nothing about {layers[name]} says that it has a rule"
        if plan.reasons.get(name):
            return plan.reasons[name]
        if named[name].is_complex():
            return "it is complex"
        return "used outside its layer" if name in known else f"{layers[name]} has no rule for it"

    paths = []
    for name, parameter in named.items():
        general = name not in known if plan is None else name in plan.general
        path: Path = "general" if general else "rule"
        path = path if parameter.requires_grad else "frozen"
        said = reason(name) if path == "general" else ""
        paths.append(ParameterPath(name, tuple(parameter.shape), path, layers[name], said))
    return tuple(paths)


def known_by_class(model: nn.Module) -> frozenset[str]:
    """Return the trainable parameters all of whose holders have a rule for them by their class.

    What a layer's own forward pass calls is seen only when it runs.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    ruled = {(id(holder), name) for layer in model.modules() for holder, name in _ruled(layer)}
    left_out = {
        names.get(id(parameter))
        for holder in model.modules()
        for name, parameter in holder._parameters.items()
        if (id(holder), name) not in ruled
    }
    return frozenset(names.values()) - left_out


def _ruled(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parameters that have a rule by the class of a layer, as modules and names."""
    base = next((each for each in PLAIN if isinstance(layer, each)), None)
    if base is None or not _is_plain(layer, base):
        return []
    roles = ("weight", "bias")
    if isinstance(layer, nn.MultiheadAttention):
        inside = [(layer, f"in_proj_{role}") for role in roles]
        inside += [(layer, f"{each}_proj_weight") for each in "qkv"]
        return [*inside, *((layer.out_proj, role) for role in roles)]
    return [(layer, role) for role in roles]


def _is_plain(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a layer computes what its base class does, with parameters of its own."""
    own = [n for n in HELPERS if getattr(type(layer), n, None) is not getattr(base, n, None)]
    if own or not HELPERS.isdisjoint(layer.__dict__) or parametrize.is_parametrized(layer):
        return False
    if isinstance(layer, nn.Embedding) and (layer.max_norm or layer.scale_grad_by_freq):
        return False
    if isinstance(layer, nn.MultiheadAttention):
        out = layer.out_proj
        return not parametrize.is_parametrized(out) and "weight" in out._parameters
    return "weight" in layer._parameters


PLAIN: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.MultiheadAttention),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Layers whose own forward pass is known to call an operation with a rule."""
HELPERS = frozenset(("forward", "_conv_forward", "_apply_instance_norm"))
"""Methods that make up that forward pass; a subclass counts if it leaves them as they are."""
