"""Pruning the network itself.

Methods that remove channels leave a smaller network; those called ``unstructured`` mask single
weights. What is reported is measured on what is left.
"""

from __future__ import annotations

from raydrop.network.base import NetworkMethod, NetworkSize, Pruned, PruningTask, Step, Target
from raydrop.network.methods import autobot, scored, taylor
from raydrop.study.catalogue import Catalogue, Entry, Named, Thing


def _own(thing: Thing) -> Entry[NetworkMethod]:
    """Return the entry of a pruner of the user's own: a class, an instance, or what makes one."""

    def build() -> NetworkMethod:
        method: NetworkMethod = thing.make()
        if not callable(getattr(method, "prune", None)) or not hasattr(method, "structured"):
            remedy = "give it prune(task) and structured, as raydrop.network.NetworkMethod has"
            raise thing.unfit("a pruner of networks", method, remedy)
        return method

    return Entry(thing.name, build, **thing.facts)


METHODS = Catalogue(
    "network_method",
    (
        scored.RANDOM,
        scored.MAGNITUDE,
        scored.FPGM,
        scored.TAYLOR,
        taylor.TAYLOR_ACTIVATION,
        autobot.AUTOBOT,
        scored.UNSTRUCTURED_MAGNITUDE,
        scored.UNSTRUCTURED_RANDOM,
        scored.UNSTRUCTURED_TAYLOR,
    ),
    adopt=_own,
    group="raydrop.pruners",
)
"""Every method that prunes networks, by name."""


def network_rule(text: str) -> Named[NetworkMethod]:
    """Return the method that a text such as ``magnitude(norm=2)`` names, with its parameters.

    Raises:
        ConfigError: If there is none, in which case the message lists the nearest names, or if its
            parameters do not fit.

    Example:
        >>> network_rule("magnitude").name, network_rule("taylor(batches=5)").name
        ('magnitude', 'taylor(batches=5)')
    """
    return METHODS.named(text)


__all__ = [
    "METHODS",
    "NetworkMethod",
    "NetworkSize",
    "Pruned",
    "PruningTask",
    "Step",
    "Target",
    "network_rule",
]
