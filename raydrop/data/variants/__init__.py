"""Harder versions of a data set: long-tailed, with false labels, with a shortcut, or small.

Each variant is a frozen value with the numbers that a specification writes, such as
``long_tail(10)``, and an ``apply`` from data set to data set. Sample ids never change. None may
take the last training image of a class or group.
"""

from raydrop.data.variants.base import Variant as Variant
from raydrop.data.variants.noise import LabelNoise
from raydrop.data.variants.painted import Shortcut, Spurious
from raydrop.data.variants.smaller import LongTail, Subset, Thinned

KINDS: tuple[type[Variant], ...] = (LongTail, Thinned, LabelNoise, Spurious, Shortcut, Subset)
VARIANTS: dict[str, type[Variant]] = {kind.kind: kind for kind in KINDS}
"""Every variant by the name that specifications use."""

__all__ = [
    "VARIANTS",
    "LabelNoise",
    "LongTail",
    "Shortcut",
    "Spurious",
    "Subset",
    "Thinned",
    "Variant",
]
