"""Moderate: the samples that are neither close to the centre of their class nor far from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydrop.scores.base import EmbeddingMethod, Embeddings, Labels


def distances_to_class_centers(
    embeddings: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return d_i = || z_i - mean of the z_j with y_j = y_i ||_2, (N,), of z (N, D) and y (N,)."""
    distances = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels == label
        own = embeddings[members].astype(np.float64)
        distances[members] = np.linalg.norm(own - own.mean(axis=0), axis=1)
    return distances


class Moderate(EmbeddingMethod):
    """-| d_i - median of all d |, with d_i the distance of an embedding from its class's centre.

    The centre of a class is the mean of its embeddings, and distances are Euclidean. As in the
    paper the median is that of all samples; where classes differ in spread, quotas by class keep
    each of them represented. The published code takes coordinate-wise medians for centres, and
    equally many samples from either side of the median distance.
    """

    name = "moderate"
    summary = "distance from the class centre; closest to the median distance kept"
    citation = "Xia et al. 2023, OpenReview 7D5EECbOaf9"

    def from_embeddings(
        self, embeddings: Embeddings, labels: Labels, seed: int = 0, device: str = "cpu"
    ) -> NDArray[np.float64]:
        distances = distances_to_class_centers(embeddings, labels)
        scores: NDArray[np.float64] = -np.abs(distances - np.median(distances))
        return scores
