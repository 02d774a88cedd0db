"""raydrop: which pruning of data keeps the worst class safe, and what does that cost on average?

Describe a sweep with :class:`Study` and :class:`Training`, and end its script with
:func:`sweep_main`. The numeric parts are importable by themselves: :mod:`raydrop.selection`
(quotas), :mod:`raydrop.scores` (per-sample scores), :mod:`raydrop.training` (loop and losses) and
:mod:`raydrop.frontier` (results). Importing this package imports neither Ray nor torch.
"""

import sys

if sys.argv[:1] == ["-m"] and {"raydrop", "-mraydrop"} & {*sys.orig_argv}:
    # For `python -m raydrop` Python would look into the working directory first, in which anybody's
    # modules may lie.
    sys.path[:] = sys.path[0 if sys.flags.safe_path else 1 :]

from raydrop.errors import RaydropError
from raydrop.study import NetworkPruning, Study, Training, TrialConfig
from raydrop.study.published import drop_comparison, drop_in_small

__all__ = [
    "NetworkPruning",
    "RaydropError",
    "Study",
    "Training",
    "TrialConfig",
    "drop_comparison",
    "drop_in_small",
    "sweep_main",
]


def sweep_main() -> None:
    """Run the calling sweep script as ``raydrop run SCRIPT`` does, with the same options."""
    # Here, because workers import this package too, and have no use for a command line.
    from raydrop import cli

    cli.sweep_main()
