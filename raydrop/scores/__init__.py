"""Scores: one method per file; :data:`METHODS` lists them all."""

from __future__ import annotations

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
from raydrop.study.catalogue import Catalogue, Entry

METHODS = Catalogue[Entry[ScoreMethod]](
    "method",
    (
        Entry(method.name, method, method.summary, method.citation)
        for method in (
            *(Random, El2n, Forgetting, DynamicUncertainty, Entropy, Aum, Grand, GrandLastLayer),
            *(Moso, MosoLoo, TracinSelf, ClassAlignment, KCenter, Moderate, Ssp, Ccs),
        )
    ),
)
"""Every score by name."""


def score_method(name: str) -> ScoreMethod:
    """Return the method called ``name``; a ConfigError that lists the nearest if there is none."""
    method: ScoreMethod = METHODS.named(name).make()
    return method
