"""SSP: how far a sample is from the nearest prototype that k-means finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import EmbeddingMethod, Embeddings, Labels

ROWS = 8192
"""Samples that are compared with all prototypes at once."""

BATCH = 1024
"""Samples of a step of k-means."""


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors (N, D) scaled to length 1; those of length 0 stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=units, where=lengths > 0)
    return units


def prototypes(directions: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """Return the centres (k, D) of mini-batch k-means over unit vectors (N, D), k at most N."""
    from sklearn.cluster import MiniBatchKMeans  # a second that workers would wait for in vain

    means = MiniBatchKMeans(
        n_clusters=min(clusters, len(directions)),
        batch_size=BATCH,
        n_init=3,
        random_state=seed % 2**32,
    )
    return np.asarray(means.fit(directions).cluster_centers_, dtype=np.float32)


def distances_to_nearest(
    directions: NDArray[np.float32], centers: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return min_c 1 - cos(z_i, c), (N,), of z (N, D) of length 1 or 0 and centres c (k, D).

    The cosine with a vector of length 0 is 0.
    """
    units = normalised(centers).T
    blocks = range(0, len(directions), ROWS)
    cosines = [(directions[start : start + ROWS] @ units).max(axis=1) for start in blocks]
    return 1 - np.concatenate(cosines).astype(np.float64)


class Ssp(EmbeddingMethod):
    """Cosine distance 1 - cos(z_i, c) to the nearest of k prototypes c; the farthest are kept.

    The prototypes are the centres of k-means on the embeddings, scaled to length 1 so that the
    nearest centre is the same by either distance; k is the number of classes. Keeping the hardest
    samples is right where data are plentiful; the paper shows that with few samples per parameter
    the easiest should be kept. Its embeddings are those of a self-supervised model (SWaV), here
    those of the query model.
    """

    name = "ssp"
    summary = "cosine distance to the nearest k-means prototype of embeddings; farthest kept"
    citation = "Sorscher et al. 2022, arXiv 2206.14486"

    def from_embeddings(
        self, embeddings: Embeddings, labels: Labels, seed: int = 0, device: str = "cpu"
    ) -> NDArray[np.float64]:
        directions = normalised(embeddings)
        clusters = len(np.unique(labels))
        return distances_to_nearest(directions, prototypes(directions, clusters, seed))
