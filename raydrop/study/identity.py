"""What a result is found by: one JSON text per value, its hash, and seeds for every purpose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SCHEMA = 3
"""Version of what is stored. Raise it when the same configuration would give other results."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Keys that are numbers become texts before they are sorted, so that a value and what is read
    back from its JSON have the same text.
    """
    return sorted_json(json.loads(json.dumps(value, allow_nan=False)))


def sorted_json(plain: Any) -> str:
    """Return :func:`canonical_json` of what was read from JSON, in one pass instead of three."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration's canonical JSON, as 32 hexadecimal digits."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:32]


def derive_seed(seed: int, purpose: str) -> int:
    """Return an independent 63-bit seed for one purpose, such as ``"weights"``.

    Initial weights, order of samples, augmentation and pruning draws each get their own stream,
    derived from the study's seed alone. Two trials that differ only in what they keep therefore
    share their initial weights (common random numbers), which makes their difference less noisy.
    """
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
