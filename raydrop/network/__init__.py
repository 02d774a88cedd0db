"""Pruning the network itself, one method per file.

Methods that remove channels leave a smaller network; those called ``unstructured`` mask single
weights. :data:`METHODS` lists them. What is reported is measured on what is left.
"""

from __future__ import annotations

from raydrop.network.base import NetworkMethod, NetworkSize, Pruned, PruningTask, Step, Target
from raydrop.network.methods.autobot import AutoBot
from raydrop.network.methods.fpgm import Fpgm
from raydrop.network.methods.magnitude import Magnitude
from raydrop.network.methods.random import Random
from raydrop.network.methods.taylor import Taylor
from raydrop.network.methods.taylor_activation import TaylorActivation
from raydrop.network.methods.unstructured_magnitude import UnstructuredMagnitude
from raydrop.network.methods.unstructured_random import UnstructuredRandom
from raydrop.network.methods.unstructured_taylor import UnstructuredTaylor
from raydrop.study.catalogue import Catalogue, Entry, Named, Parameter

NetworkFamily = Entry[NetworkMethod]
NetworkRule = Named[NetworkMethod]

_BATCHES = Parameter("batches", 10.0, least=1.0, whole=True, named=True)

METHODS = Catalogue(
    "network_method",
    (
        NetworkFamily("random", Random, "removes random filters", ""),
        NetworkFamily(
            "magnitude",
            Magnitude,
            "removes filters of small norm, relative to their layer",
            "Li et al. 2017, arXiv 1608.08710",
            (Parameter("norm", 1.0, least=1.0, below=3.0, whole=True, named=True),),
        ),
        NetworkFamily(
            "fpgm",
            Fpgm,
            "removes filters near the geometric median of their layer",
            "He et al. 2019, arXiv 1811.00250",
        ),
        NetworkFamily(
            "taylor",
            Taylor,
            "removes filters whose weights change the loss least, to first order",
            "Molchanov et al. 2019, arXiv 1906.10771",
            (_BATCHES,),
        ),
        NetworkFamily(
            "taylor_activation",
            TaylorActivation,
            "steps of SGD alternate with removing filters whose outputs change the loss least",
            "Molchanov et al. 2017, arXiv 1611.06440; Meyer and Wong 2022, arXiv 2211.10285",
            (
                Parameter("rounds", 10.0, least=1.0, whole=True, named=True),
                Parameter("steps", 10.0, least=1.0, whole=True, named=True),
                Parameter("learning_rate", 1e-4, named=True),
            ),
        ),
        NetworkFamily(
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
        ),
        NetworkFamily(
            "unstructured_magnitude",
            UnstructuredMagnitude,
            "masks small weights",
            "Han et al. 2015, arXiv 1506.02626",
        ),
        NetworkFamily("unstructured_random", UnstructuredRandom, "masks random weights", ""),
        NetworkFamily(
            "unstructured_taylor",
            UnstructuredTaylor,
            "masks weights that change the loss least, to first order",
            "Molchanov et al. 2019, arXiv 1906.10771",
            (_BATCHES,),
        ),
    ),
)
"""Every method that prunes networks, by name."""


def network_rule(text: str) -> NetworkRule:
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
    "AutoBot",
    "Fpgm",
    "Magnitude",
    "NetworkFamily",
    "NetworkMethod",
    "NetworkRule",
    "NetworkSize",
    "Pruned",
    "PruningTask",
    "Random",
    "Step",
    "Target",
    "Taylor",
    "TaylorActivation",
    "UnstructuredMagnitude",
    "UnstructuredRandom",
    "UnstructuredTaylor",
    "network_rule",
]
