"""Harder versions of a data set: long-tailed, with false labels, with a shortcut, or small.

Each variant is a frozen value with the numbers that a specification writes, such as
``long_tail(10)``, and an ``apply`` from data set to data set. Sample ids never change. None may
take the last training image of a class or group.
"""

from raydrop.data.variants.base import Variant
from raydrop.data.variants.painted import Shortcut, Spurious
from raydrop.data.variants.samples import LabelNoise, LongTail, Subset, Thinned

_KINDS: tuple[type[Variant], ...] = (LongTail, Thinned, LabelNoise, Spurious, Shortcut, Subset)
VARIANTS = {kind.kind: kind for kind in _KINDS}
"""Every variant by the name that specifications use."""
