"""raydrop: which pruning of data keeps the worst class safe, and what does that cost on average?

Describe a sweep with :class:`Study` and :class:`Training`, and end its script with
:func:`sweep_main`. The numeric parts are importable by themselves: :mod:`raydrop.selection`
(quotas), :mod:`raydrop.scores` (per-sample scores), :mod:`raydrop.training` (loop and losses) and
:mod:`raydrop.frontier` (results). Importing this package imports neither Ray nor torch; what it
offers besides is imported when it is first asked for.
"""

import sys
from importlib import import_module
from typing import Any

if sys.argv[:1] == ["-m"] and {"raydrop", "-mraydrop"} & {*sys.orig_argv}:
    # For `python -m raydrop` Python would look into the working directory first, in which anybody's
    # modules may lie.
    sys.path[:] = sys.path[0 if sys.flags.safe_path else 1 :]

from raydrop.errors import RaydropError
from raydrop.study import NetworkPruning, Study, Training, TrialConfig
from raydrop.study.published import drop_comparison, drop_in_small

_LATER = {
    "Results": "raydrop.frontier.results:Results",
    "data": "raydrop.data",
    "from_predictions": "raydrop.frontier.predictions:from_predictions",
    "DynamicSampler": "raydrop.training.sampler:DynamicSampler",
    "Recorder": "raydrop.scores.recorder:Recorder",
    "Scores": "raydrop.selection.scores:Scores",
    "Selection": "raydrop.selection.prune:Selection",
    "integrations": "raydrop.integrations",
    "prune": "raydrop.selection.prune:prune",
    "score": "raydrop.cluster.library:score",
    "with_indices": "raydrop.training.sampler:with_indices",
    "run": "raydrop.cluster.library:run",
}
"""Where each name is that is imported once it is asked for: a module, or what one has."""

__all__ = [
    "NetworkPruning",
    "RaydropError",
    "Study",
    "Training",
    "TrialConfig",
    "drop_comparison",
    "drop_in_small",
    "sweep_main",
    *_LATER,
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that importing this package stays light."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def sweep_main() -> None:
    """Run the calling sweep script as ``raydrop run SCRIPT`` does, with the same options."""
    # Here, because workers import this package too, and have no use for a command line.
    from raydrop import cli

    cli.sweep_main()
