"""Stage 2: one score per sample, from what query runs left."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydrop.data.dataset import Split
from raydrop.errors import ScoringError
from raydrop.plan.runs import QueryRun, ScoreRun, unit_config
from raydrop.scores import score_method
from raydrop.scores.base import (
    EmbeddingMethod,
    GradientMethod,
    RandomMethod,
    SamplingMethod,
    ScoreMethod,
    TraceMethod,
    check_scores,
    combined,
    from_seen,
)
from raydrop.scores.sharding import Partial, ShardedGradients
from raydrop.scores.source import GradientSource, QueryResult, Unit
from raydrop.stages.queries import load_query
from raydrop.store import Store
from raydrop.study import ScoringPrecision, Study, config_hash, derive_seed
from raydrop.training.trace import Trace


class StoredUnits:
    """Gradient quantities of one query run, kept in the store as they are finished."""

    def __init__(self, store: Store, query: QueryRun, precision: ScoringPrecision) -> None:
        self._store, self._query, self._precision = store, query, precision

    def read(self, unit: Unit) -> NDArray[np.float32] | None:
        """Return the values of a finished unit, or None."""
        entry = self._store.find("gradients", self._config(unit))
        return None if entry is None else entry.array("values")

    def write(self, unit: Unit, values: NDArray[np.float32]) -> None:
        """Keep a finished unit, and remove what was kept of it before."""
        self._store.write("gradients", self._config(unit), {}, {"values": values})
        self._store.remove("partial", config_hash(self._config(unit, "partial")))

    def read_partial(self, unit: Unit) -> Partial | None:
        """Return what an earlier run left of a unit, or None."""
        entry = self._store.find("partial", self._config(unit, "partial"))
        return None if entry is None else Partial(entry.array("values"), entry.array("written"))

    def write_partial(self, unit: Unit, partial: Partial) -> None:
        """Keep what there is of a unit, in place of what was kept of it before."""
        config = self._config(unit, "partial")
        self._store.remove("partial", config_hash(config))
        arrays = {"values": partial.values, "written": partial.written}
        self._store.write("partial", config, {}, arrays)

    def _config(self, unit: Unit, kind: str = "gradients") -> dict[str, Any]:
        return {**unit_config(self._query, unit, self._precision), "kind": kind}


def run_score(
    study: Study,
    run: ScoreRun,
    train: Split,
    store: Store,
    gradients: ShardedGradients | None,
    device: str = "cpu",
) -> None:
    """Compute one method's scores and leave them.

    Methods that read checkpoints need the gradients of the run's query model. Images are not read.

    Raises:
        ScoringError: If a score is no number; the message names the first samples by their ids.
    """
    start = time.perf_counter()
    method = score_method(run.method)
    scores: NDArray[np.floating]
    if isinstance(method, RandomMethod):
        rng = np.random.default_rng(derive_seed(run.seed, "scores/random"))
        scores = method.draw(len(train), rng)
    else:
        parts = []
        for query in run.queries:
            result = load_query(query, store)
            units = StoredUnits(store, query, study.score_precision)
            source = None
            if gradients is not None:
                source = GradientSource(result, train.labels, gradients, units)
            seed = derive_seed(query.seed, f"scores/{method.name}")
            values = _scored(method, result, source, seed, device)
            parts.append((result.positions, values))
        scores = combined(parts, len(train))
    check_scores(method, scores, train.ids)
    info = {
        "method": run.method,
        "seed": run.seed,
        "query_model": run.model if run.queries else None,
        "query_runs": len(run.queries),
        "higher_is_kept": method.higher_is_kept,
        "seconds": time.perf_counter() - start,
    }
    store.write("scores", run.config, info, {"scores": np.asarray(scores)})


def _scored(
    method: ScoreMethod, result: QueryResult, source: GradientSource | None, seed: int, device: str
) -> NDArray[np.floating]:
    """Return the scores that one query run gives of the samples that it covers."""
    if isinstance(method, TraceMethod | SamplingMethod):
        trace = _trace(method, result)
        if isinstance(method, SamplingMethod):
            return method.draw_from_trace(trace, seed)
        assert result.score_epoch is not None
        return from_seen(method, trace, result.score_epoch)
    if not result.checkpoints.size:
        raise ScoringError(
            f"Expected checkpoints for {method.name}, found that the training function took none; "
            "have it call task.checkpoint(model, learning_rate) after each epoch."
        )
    assert source is not None
    if isinstance(method, EmbeddingMethod):
        embeddings = source.embeddings()
        return method.from_embeddings(embeddings, source.labels, seed=seed, device=device)
    assert isinstance(method, GradientMethod)
    return method.from_gradients(source)


def _trace(method: ScoreMethod, result: QueryResult) -> Trace:
    """Return a trace in which every sample was seen; a training of the user's own may lack it."""
    if result.trace is None:
        raise ScoringError(
            f"Expected training dynamics for {method.name}, found that the training function "
            "recorded none; have it call task.recorder.update(indices, logits, labels) with each "
            "batch and task.recorder.end_epoch() after each epoch."
        )
    never = np.flatnonzero(np.isnan(result.trace.probability).all(axis=0))
    if len(never):
        raise ScoringError(
            f"Expected every sample to be seen in an epoch for {method.name}, found {len(never)} "
            f"never, first those at {never[:5].tolist()}; have the training function record them."
        )
    return result.trace
