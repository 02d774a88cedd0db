"""What people call from scripts and notebooks of their own, and what may need Ray.

Ray is imported once there is work for it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raydrop.frontier.results import Results
from raydrop.store.terminal import Console

if TYPE_CHECKING:
    from raydrop.study import Study


def run(
    study: Study,
    out: str | Path | None = None,
    *,
    address: str | None = None,
    num_cpus: int | None = None,
    gpus_per_worker: float | None = None,
    data_root: str | None = None,
    log: str | None = None,
    progress: bool = True,
) -> Results:
    """Run a study and return what it left: :meth:`raydrop.Study.run` says all of it."""
    from raydrop.cluster.driver import Options, run_study  # which takes seconds

    # Lines of a notebook are texts: as rich shows them there, each would be a paragraph.
    width = None if sys.stdout.isatty() else 120
    console = Console(quiet=not progress, width=width, force_jupyter=False)
    options = Options(
        out=out or Path("results") / study.name,
        address=address,
        data_root=data_root,
        code=_own_code(),
        num_cpus=num_cpus,
        gpus_per_worker=gpus_per_worker,
        log=log,
    )
    try:
        run_study(study, options, console)
    except KeyboardInterrupt:
        console.print("Interrupted: what is finished stays; the same call does the rest.")
        raise
    results = Results(options.out)
    if len(results.failed):
        console.print(
            f"{len(results.failed)} of {len(results.listed)} trials failed; .failed of the results "
            "says why, and the same call tries them again."
        )
    return results


def _own_code() -> str | None:
    """Return the folder of the script that runs, or of the notebook; workers import from it too."""
    first = sys.path[0] if sys.path else None
    return str(Path.cwd()) if first == "" else first
