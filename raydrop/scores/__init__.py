"""Scores: one method per file; :data:`METHODS` lists them all."""

from __future__ import annotations

from raydrop.errors import ConfigError
from raydrop.scores.base import ScoreMethod
from raydrop.scores.methods.aum import Aum
from raydrop.scores.methods.ccs import Ccs
from raydrop.scores.methods.class_alignment import ClassAlignment
from raydrop.scores.methods.dynamic_uncertainty import DynamicUncertainty
from raydrop.scores.methods.el2n import El2n
from raydrop.scores.methods.entropy import Entropy
from raydrop.scores.methods.forgetting import Forgetting
from raydrop.scores.methods.grand import Grand, GrandLastLayer
from raydrop.scores.methods.k_center import KCenter
from raydrop.scores.methods.moderate import Moderate
from raydrop.scores.methods.moso import Moso, MosoLoo
from raydrop.scores.methods.random import Random
from raydrop.scores.methods.ssp import Ssp
from raydrop.scores.methods.tracin_self import TracinSelf
from raydrop.study.catalogue import Catalogue, Entry, Thing


def _own(thing: Thing) -> Entry[ScoreMethod]:
    """Return the entry of a method of the user's own: a class, an instance, or what makes one."""

    def build() -> ScoreMethod:
        method = thing.make()
        if not isinstance(method, ScoreMethod):
            remedy = "derive it from TraceMethod or another class of raydrop.scores.base"
            raise thing.unfit("a ScoreMethod", method, remedy)
        if not hasattr(method, "name"):
            object.__setattr__(method, "name", thing.name)
        return method

    return Entry(thing.name, build, **thing.facts)


METHODS = Catalogue[Entry[ScoreMethod]](
    "method",
    (
        Entry(method.name, method, method.summary, method.citation)
        for method in (
            *(Random, El2n, Forgetting, DynamicUncertainty, Entropy, Aum, Grand, GrandLastLayer),
            *(Moso, MosoLoo, TracinSelf, ClassAlignment, KCenter, Moderate, Ssp, Ccs),
        )
    ),
    adopt=_own,
    group="raydrop.methods",
)
"""Every score by name."""


def score_method(name: str | ScoreMethod | type[ScoreMethod]) -> ScoreMethod:
    """Return the method called ``name``; a ConfigError that lists the nearest if there is none.

    A method of the user's own may stand there itself, or its class.
    """
    if isinstance(name, str):
        method: ScoreMethod = METHODS.named(name).make()
        return method
    given = name() if isinstance(name, type) else name
    if not isinstance(given, ScoreMethod):
        raise ConfigError(
            f"Expected the name of a method, or a ScoreMethod, found {type(given).__name__}; "
            "derive it from TraceMethod or another class of raydrop.scores.base."
        )
    if not hasattr(given, "name"):
        object.__setattr__(given, "name", type(given).__name__)
    return given
