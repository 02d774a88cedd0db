"""What is asked: specifications, their identity, names, and the papers' comparisons."""

from raydrop.study.checks import plain
from raydrop.study.identity import SCHEMA, canonical_json, config_hash, derive_seed, sorted_json
from raydrop.study.spec import (
    TRIAL_AXES,
    Budget,
    By,
    NetworkPruning,
    Precision,
    ScoringPrecision,
    Study,
    Training,
    TrialConfig,
)

__all__ = [
    "SCHEMA",
    "TRIAL_AXES",
    "Budget",
    "By",
    "NetworkPruning",
    "Precision",
    "ScoringPrecision",
    "Study",
    "Training",
    "TrialConfig",
    "canonical_json",
    "config_hash",
    "derive_seed",
    "plain",
    "sorted_json",
]
