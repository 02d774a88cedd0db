"""What people call from scripts and notebooks of their own, and what may need Ray.

Ray is imported once there is work for it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydrop.frontier.results import Results
from raydrop.store.terminal import Console

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from raydrop.models.adapter import Output
    from raydrop.scores.base import ScoreMethod
    from raydrop.selection.scores import Scores
    from raydrop.study import ScoringPrecision, Study


def run(
    study: Study, out: str | Path | None = None, *, progress: bool = True, **where: Any
) -> Results:
    """Run a study and return what it left: :meth:`raydrop.Study.run` says all of it."""
    from raydrop.cluster.driver import Options, run_study  # which takes seconds

    options = Options(out=out or Path("results") / study.name, code=_own_code(), **where)
    console = _console(quiet=not progress)
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


def _console(*, quiet: bool) -> Console:
    """Return where progress is shown: a bar in a terminal, plain lines in a notebook or a file."""
    notebook = Console().is_jupyter  # whose output says that it is a terminal
    plain = notebook or not sys.stdout.isatty()
    return Console(
        quiet=quiet,
        width=120 if plain else None,
        force_terminal=False if notebook else None,
        force_jupyter=False,  # or each line would be a paragraph
    )


def _own_code() -> str | None:
    """Return the folder of the script that runs, or of the notebook; workers import from it too."""
    first = sys.path[0] if sys.path else None
    return str(Path.cwd()) if first == "" else first


def score(
    model: Any,
    data: Any,
    *,
    method: str | ScoreMethod,
    learning_rates: Sequence[float] | None = None,
    steps: int | None = None,
    recalls: Mapping[Any, float] | ArrayLike | None = None,
    output: Output = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: ScoringPrecision = "fp32",
    seed: int = 0,
    address: str | None = None,
    num_cpus: int | None = None,
    gpus_per_worker: float | None = None,
) -> Scores:
    """Return a score for each sample, of models that are trained already.

    The same as the study computes of such checkpoints, to the bit where passes have as many threads
    (workers without a GPU have one): in this process, or sharded over a Ray cluster.

    Args:
        model: A trained ``nn.Module`` in eval mode, a list of them, or
            ``(model, [state dicts or files])``. Where a score averages over initialisations
            (``grand``, ``el2n``), several are several trainings; else they are checkpoints of one,
            in their order, of which the last is the trained model.
        data: A map-style data set of ``(inputs, label)``, or of dicts with a ``label``, arrays or
            tensors ``(x, y)``, or a data set of :mod:`raydrop.data`, whose training samples are
            scored; the scores know the last model's recalls on its validation set, for quotas.
        method: Such as ``grand``, ``grand_last_layer``, ``el2n``, ``entropy``, ``tracin_self``,
            ``class_alignment``, ``k_center``, ``moderate``, ``ssp``, ``moso``, ``moso_loo``, or
            one of your own: its import path, an instance or a class of
            :mod:`raydrop.scores.base`.
        learning_rates: Of each checkpoint, for scores that sum over several.
        steps: Of the optimiser in all of the training, which ``moso`` is scaled by.
        recalls: Of each class on validation, (K,) or by name, which ``class_alignment`` reads; of a
            data set of raydrop's they are measured.
        output: Where the model's logits are: a key or an attribute of what it returns, or a
            function of it; a tensor itself or ``logits`` where it is not said.
        batch_size: Most samples per pass; by default as many as a study takes. Another one may
            change the last bits.
        device: Where to compute; where the model is by default.
        precision: ``fp32`` for the model's own, or ``bf16`` under autocast.
        seed: Of methods that draw at random.
        address: Of a Ray cluster, or ``"auto"``; ``"local"`` starts Ray on this machine. Without,
            everything runs in this process.
        num_cpus: Of this machine that a local Ray uses.
        gpus_per_worker: Share of a GPU that each worker gets.

    Raises:
        ConfigError: If method, model or an argument does not fit; before anything is computed.
        DataError: If samples cannot be read, or have no labels.
        ScoringError: If gradients cannot be had, or are no finite numbers.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
        >>> score(model, (x, y), method="grand")
        Scores(grand, 8 samples, highest kept)
    """
    from raydrop.scores.library import here, own_scores

    executors = here
    if address is not None:
        from raydrop.cluster.own_crew import Sharding

        executors = Sharding(address, num_cpus, gpus_per_worker, _own_code()).executor
    return own_scores(
        model,
        data,
        method,
        learning_rates=learning_rates,
        steps=steps,
        output=output,
        batch_size=batch_size,
        device=device,
        recalls=recalls,
        precision=precision,
        seed=seed,
        executors=executors,
    )
