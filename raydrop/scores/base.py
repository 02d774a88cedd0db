"""What a scoring method is: a formula, and the facts that the pipeline needs to know of it.

A method declares what it reads and in which direction its scores point; the pipeline asks, and
never switches on a name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raydrop.data.sampling import shuffled_members
from raydrop.errors import ConfigError, ScoringError
from raydrop.models import Head
from raydrop.scores.quantities import QUANTITIES, QuantityName
from raydrop.scores.source import GradientSource
from raydrop.training.trace import Trace

Scores = NDArray[np.floating]
Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]

Reads = Literal["nothing", "run", "initialisations", "partitions"]
"""Query runs that a score comes from: none; the one on all the data; that one and further
initialisations, over which it is averaged; or one surrogate per part, which scores its part."""

LooksAt = Literal["score_epoch", "sampled", "last"]
"""Checkpoints of a query run: the one early in training, those sampled from all of it, or the last
one, which is the trained model."""


class ScoreMethod(ABC):
    """A ranking of the training samples."""

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    higher_is_kept: ClassVar[bool] = True
    """Whether the highest scores are kept, which follows the method's own use."""
    may_be_infinite: ClassVar[bool] = False
    """Whether +infinity is a score; NaN and -infinity never are."""
    reads: ClassVar[Reads] = "run"
    least_samples: ClassVar[int] = 1
    """Fewest samples of a query run from which there is a score."""

    def check_model(self, model: str, head: Head) -> None:  # noqa: B027 - most take any model
        """Raise a ConfigError if a query model, whose logits come from a head, gives no score."""


class RandomMethod(ScoreMethod):
    """A method that reads nothing."""

    reads = "nothing"

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> Scores:
        """Return scores (N,)."""


class TraceMethod(ScoreMethod):
    """A method that reads the trace of a query run."""

    one_epoch: ClassVar[bool] = False
    """Whether it looks at one epoch alone, so that the model after that epoch is enough."""

    @abstractmethod
    def from_trace(self, trace: Trace, score_epoch: int) -> Scores:
        """Return scores (N,); early-training scores look at ``score_epoch``, from 1.

        Every sample was seen in every epoch; where that is not so, :func:`from_seen` calls this for
        samples that were seen as often, with the epochs in which they were.
        """


class SamplingMethod(ScoreMethod):
    """A method that draws samples at random, with the trace of a query run as its guide."""

    @abstractmethod
    def draw_from_trace(self, trace: Trace, seed: int) -> Scores:
        """Return scores (N,): the higher, the earlier a sample is drawn."""


class CheckpointMethod(ScoreMethod):
    """A method that puts samples through a query run's network again, at its checkpoints."""

    looks_at: ClassVar[LooksAt]
    quantities: ClassVar[tuple[QuantityName, ...]]
    """What it reads at each of them."""

    def check_model(self, model: str, head: Head) -> None:
        """Refuse a model without a last linear layer where the method reads that."""
        if head.is_linear or not any(QUANTITIES[q].reads_last_layer for q in self.quantities):
            return
        raise ConfigError(
            f"Expected a query model whose logits come from a linear layer, which {self.name} "
            f"reads, found {model}, where they come from {head.name}, which is none; choose "
            "another query_model, or a score that reads no last layer."
        )


class GradientMethod(CheckpointMethod):
    """A method that reads per-sample gradients at checkpoints of a query run."""

    @abstractmethod
    def from_gradients(self, source: GradientSource) -> NDArray[np.float64]:
        """Return the scores (M,) of the samples that the source's query run covers."""


class EmbeddingMethod(CheckpointMethod):
    """A method that reads the embeddings of the samples by the trained query model.

    An embedding is what the last linear layer gets to see of a sample, without augmentation.
    """

    looks_at = "last"
    quantities = ("embedding",)

    @abstractmethod
    def from_embeddings(
        self, embeddings: Embeddings, labels: Labels, seed: int = 0, device: str = "cpu"
    ) -> Scores:
        """Return scores (N,) of samples by their embeddings (N, D) and classes (N,).

        A seed of random choices and a device, ``cpu`` or ``cuda``, are for methods that need them.
        """


def from_seen(method: TraceMethod, trace: Trace, score_epoch: int) -> Scores:
    """Return scores (N,), each from the epochs in which the sample was seen (is not NaN) alone.

    Those epochs follow one another as if there had been no others. An early-training score looks at
    the last of them up to ``score_epoch``, or at the first. Every sample was seen at least once.
    """
    seen = ~np.isnan(trace.probability)
    if seen.all():
        return method.from_trace(trace, score_epoch)
    counts, until = seen.sum(axis=0), np.maximum(seen[:score_epoch].sum(axis=0), 1)
    # Samples that were seen as often, and as often until then, have traces of one form.
    kinds, kind = np.unique(np.stack([counts, until]), axis=1, return_inverse=True)
    ends = np.cumsum(np.bincount(kind.reshape(-1)))[:-1]
    scores = np.empty(seen.shape[1])
    for (count, place), members in zip(
        kinds.T.tolist(), np.split(np.argsort(kind.reshape(-1), kind="stable"), ends), strict=True
    ):
        epochs = np.argsort(~seen[:, members], axis=0, kind="stable")[:count]
        arrays = {
            name: np.take_along_axis(values[:, members], epochs, axis=0)
            for name, values in trace.as_arrays().items()
        }
        scores[members] = method.from_trace(Trace.from_arrays(arrays), place)
    return scores


def check_scores(method: ScoreMethod, scores: Scores, ids: NDArray[np.int64]) -> None:
    """Refuse, by a ScoringError that names the first samples by their ids, what is no number."""
    sound = np.isfinite(scores) | (np.isposinf(scores) & method.may_be_infinite)
    bad = np.flatnonzero(~sound)
    if len(bad):
        raise ScoringError(
            f"Expected a number for every sample, found {scores[bad[0]]} from {method.name!r} for "
            f"{len(bad)} of {len(scores)} samples, first those with the ids "
            f"{ids[bad[:5]].tolist()}; correct their inputs where these are no numbers, or lower "
            "the learning_rate, as the training probably diverged."
        )


def stratified_partitions(labels: Labels, count: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return the ascending positions of random parts of a training set that all look like it.

    The samples of each class, in random order, are dealt out to the parts in turn, and each class
    goes on where the one before ended. So the parts differ by at most one sample, over all and
    within every class; a class of fewer samples than parts is absent from some of them. Contiguous
    parts would not do: data sets are often stored class by class.
    Same seed, same parts, on any machine.

    Raises:
        ConfigError: If there are fewer samples than parts.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
        >>> [labels[part].tolist() for part in stratified_partitions(labels, 2, seed=0)]
        [[0, 0, 1, 1], [0, 0, 1, 2]]
    """
    if len(labels) < count:
        raise ConfigError(
            f"Expected at least {count} training samples, one for each partition, found "
            f"{len(labels)}; lower partitions."
        )
    members = shuffled_members(labels, int(labels.max()) + 1, seed, f"partitions/{count}")
    dealt = np.concatenate(members)
    return tuple(np.sort(dealt[part::count]) for part in range(count))


def combined(parts: Sequence[tuple[NDArray[np.int64], Scores]], n: int) -> NDArray[np.float64]:
    """Return the scores (N,) that several query runs give: each sample's mean over those it is in.

    Initialisations cover every sample each, so this averages; surrogates cover a part each, so this
    puts the parts together. Each run gives positions and scores, summed in the order of the runs; a
    sample that is in none of them is a ScoringError.
    """
    total, count = np.zeros(n), np.zeros(n, dtype=np.int64)
    for positions, values in parts:
        total[positions] += values
        count[positions] += 1
    if not count.all():
        raise ScoringError(
            f"Expected a score for each of {n} samples, found none for {(count == 0).sum()}; "
            "the query runs are of other data, so choose another folder with --out."
        )
    return total / count
