"""Slow, obviously correct twins of every fast computation, written differently on purpose."""

from __future__ import annotations

import decimal
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# --- selection: quotas in exact rational arithmetic, and selection by sorting tuples ---


def drop_sizes_by_redistribution(
    sizes: Sequence[int], errors: Sequence[Fraction], budget: int
) -> list[Fraction]:
    """Fractional DRoP sizes, (K,), by handing excess on, round after round (arXiv 2404.05579).

    Everything not yet placed is shared among the classes that are not full in proportion to
    N_k (1 - r_k), or to N_k once they are all recalled perfectly; what a class cannot hold is
    placed in the next round.
    """
    kept = [Fraction(0)] * len(sizes)
    rest = Fraction(budget)
    while rest > 0:
        open_classes = [k for k, size in enumerate(sizes) if kept[k] < size]
        rates = {k: sizes[k] * errors[k] for k in open_classes}
        if not any(rates.values()):
            rates = {k: Fraction(sizes[k]) for k in open_classes}
        total = sum(rates.values())
        for k in open_classes:
            kept[k] += rest * rates[k] / total
        rest = sum((max(kept[k] - sizes[k], Fraction(0)) for k in open_classes), Fraction(0))
        kept = [min(share, Fraction(size)) for share, size in zip(kept, sizes, strict=True)]
    return kept


def water_filled_by_scan(
    rates: Sequence[Fraction], floors: Sequence[int], caps: Sequence[int], budget: int
) -> list[Fraction]:
    """Sizes clip(level * rate, floor, cap) summing to the budget, (K,), for rates above 0.

    The sum is linear between two neighbouring levels at which a class leaves its floor or fills
    up, so the sizes of the budget lie on the line between the sizes at those two levels.
    """

    def sizes_at(level: Fraction) -> list[Fraction]:
        return [
            min(max(level * rate, Fraction(floor)), Fraction(cap))
            for rate, floor, cap in zip(rates, floors, caps, strict=True)
        ]

    bends = {floor / rate for rate, floor in zip(rates, floors, strict=True)}
    bends |= {cap / rate for rate, cap in zip(rates, caps, strict=True)}
    below = sizes_at(Fraction(0))
    for level in sorted(bends):
        above = sizes_at(level)
        if sum(above) >= budget:
            step = sum(above) - sum(below)
            part = (budget - sum(below)) / step if step else Fraction(0)
            return [a + part * (b - a) for a, b in zip(below, above, strict=True)]
        below = above
    raise AssertionError("the budget exceeds the caps")


def rounded_by_largest_remainder(
    filled: Sequence[Fraction], sizes: Sequence[int], errors: Sequence[Fraction], budget: int
) -> list[int]:
    """Whole sizes that sum to the budget; equal fractions: larger class, then larger error."""
    whole = [int(share) for share in filled]
    order = sorted(
        range(len(sizes)), key=lambda k: (whole[k] - filled[k], -sizes[k], -errors[k], k)
    )
    for k in order[: budget - sum(whole)]:
        whole[k] += 1
    return whole


def select_by_sorting(
    scores: Sequence[float],
    labels: Sequence[int],
    budget: int,
    quotas: Sequence[int] | None,
    higher_is_kept: bool,
    minimum: int,
    tie_seed: int,
) -> list[int]:
    """Kept indices, ascending, by walking all samples from best to worst."""
    tie = np.random.default_rng(tie_seed).permutation(len(scores))
    best_first = sorted(
        range(len(scores)), key=lambda i: (-scores[i] if higher_is_kept else scores[i], tie[i])
    )
    kept: list[int] = []
    taken = dict.fromkeys(range(max(labels, default=0) + 1), 0)
    for i in best_first:
        if taken[labels[i]] < (minimum if quotas is None else quotas[labels[i]]):
            taken[labels[i]] += 1
            kept.append(i)
    others = [i for i in best_first if i not in set(kept)]
    return sorted(kept + others[: budget - len(kept)])


# --- scores: gradients by one backward pass per sample ---


def gradients_one_by_one(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> list[dict[str, Tensor]]:
    """Every sample's own gradient over all trainable parameters, by B backward passes.

    The loss sees batches of one, so that its reduction makes no difference.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = []
    for sample, label in zip(inputs, labels, strict=True):
        value = loss(model(sample[None]), label[None]).sum()
        found = torch.autograd.grad(
            value, list(named.values()), allow_unused=True, materialize_grads=True
        )
        gradients.append(
            {name: g.to_dense() if g.is_sparse else g for name, g in zip(named, found, strict=True)}
        )
    return gradients


def without(gradients: Sequence[Mapping[str, Tensor]], dropped: str) -> list[dict[str, Tensor]]:
    """The gradients with one parameter forgotten, as a negative control."""
    return [{name: g for name, g in each.items() if name != dropped} for each in gradients]


def dots_of(gradients: Sequence[Mapping[str, Tensor]], direction: Mapping[str, Tensor]) -> Tensor:
    """<grad l_i, v> from whole gradients, (B,)."""
    return torch.stack(
        [
            torch.stack([(g * direction[name]).sum() for name, g in each.items()]).sum()
            for each in gradients
        ]
    )


def norms_of(gradients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """|| grad l_i || from whole gradients, (B,), in float64."""
    lengths = [
        [torch.linalg.vector_norm(g, dtype=torch.float64) for g in each.values()]
        for each in gradients
    ]
    return torch.stack([torch.linalg.vector_norm(torch.stack(each)) for each in lengths])


def sum_of(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """sum_i grad l_i from whole gradients, one tensor per parameter."""
    return {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}


# --- scores: training dynamics sample by sample, and augmentation image by image ---


def forgetting_by_counting(correct: NDArray[np.bool_]) -> list[float]:
    """Correct-to-wrong transitions of each column, infinite where never correct."""
    counts = []
    for history in correct.T:
        if True not in history:
            counts.append(float("inf"))
            continue
        pairs = itertools.pairwise(history)
        counts.append(float(sum(1 for before, after in pairs if before and not after)))
    return counts


def dynamic_uncertainty_by_windows(probability: NDArray[np.floating], window: int) -> list[float]:
    """Mean over all windows of the population standard deviation, for each column."""
    results = []
    for history in probability.T.astype(float):
        starts = range(len(history) - window + 1)
        results.append(statistics.fmean(statistics.pstdev(history[s : s + window]) for s in starts))
    return results


def augment_one_by_one(
    pixels: Tensor, padding: int, rows: Tensor, columns: Tensor, mirrored: Tensor
) -> Tensor:
    """Cut each image's window out of its own padded copy, and mirror it where asked."""
    results = []
    for image, row, column, mirror in zip(pixels, rows, columns, mirrored, strict=True):
        _, height, width = image.shape
        padded = F.pad(image, (padding,) * 4)
        window = padded[:, row : row + height, column : column + width]
        results.append(window.flip(2) if mirror else window)
    return torch.stack(results)


# --- frontier: counting one by one, comparing all pairs, one limit at a time ---


def recall_by_counting(
    predictions: Sequence[int], labels: Sequence[int], num_classes: int
) -> list[float]:
    """Recall of every class, (K,), NaN without samples, from a list of hits for each."""
    hits: list[list[bool]] = [[] for _ in range(num_classes)]
    for prediction, label in zip(predictions, labels, strict=True):
        hits[label].append(bool(prediction == label))
    return [statistics.mean(map(float, each)) if each else float("nan") for each in hits]


def group_accuracy_by_counting(
    predictions: Sequence[int], labels: Sequence[int], groups: Sequence[int], num_groups: int
) -> list[float]:
    """Accuracy of every group, (G,), NaN without samples: one pass over all samples for each."""
    accuracies = []
    for group in range(num_groups):
        members = [i for i in range(len(labels)) if groups[i] == group]
        hits = sum(1 for i in members if predictions[i] == labels[i])
        accuracies.append(hits / len(members) if members else float("nan"))
    return accuracies


def densities_by_averaging(
    kept: Sequence[Sequence[int]], sizes: Sequence[int]
) -> list[tuple[float, int]]:
    """Mean density and class of every class, densest first, from counts (n_seeds, K)."""
    means = [
        float(sum(Fraction(seed[k], sizes[k]) for seed in kept) / len(kept))
        for k in range(len(sizes))
    ]
    return sorted(((mean, k) for k, mean in enumerate(means)), key=lambda pair: (-pair[0], pair[1]))


def correlations_by_definition(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Pearson's correlation, and Spearman's: Pearson's of ranks, equal values sharing the mean."""

    def pearson(a: Sequence[float], b: Sequence[float]) -> float:
        mean_a, mean_b = statistics.mean(a), statistics.mean(b)
        shared = sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True))
        spread = sum((u - mean_a) ** 2 for u in a) * sum((v - mean_b) ** 2 for v in b)
        return float(shared / spread**0.5)

    def ranks(a: Sequence[float]) -> list[float]:
        return [sum(v < u for v in a) + (sum(v == u for v in a) + 1) / 2 for u in a]

    return pearson(x, y), pearson(ranks(x), ranks(y))


def pareto_front_by_pairs(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether no other point is at least as high everywhere and higher somewhere, in O(n²)."""

    def beats(other: Sequence[float], point: Sequence[float]) -> bool:
        pairs = list(zip(other, point, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    def sound(point: Sequence[float]) -> bool:
        return all(value == value for value in point)

    rivals = [point for point in points if sound(point)]
    return [sound(p) and not any(beats(other, p) for other in rivals) for p in points]


def worst_class_interval_by_scipy(
    correct: Sequence[Sequence[int]], totals: Sequence[int], confidence: float
) -> tuple[float, float]:
    """Interval for the lowest recall, one class and side at a time, from scipy's distributions."""
    from scipy import stats

    seeds, classes, error = len(correct), len(totals), (1 - confidence) / 2
    recalls = [[row[k] / totals[k] for row in correct] for k in range(classes)]
    means = [statistics.fmean(each) for each in recalls]
    spreads = [0.0] * classes
    if seeds > 1:
        own = [statistics.variance(each) for each in recalls]
        smooth = [(m * n + 1) / (n + 2) for m, n in zip(means, totals, strict=True)]
        pooled = statistics.fmean(v / (p * (1 - p)) for v, p in zip(own, smooth, strict=True))
        spreads = [max(v, pooled * p * (1 - p)) for v, p in zip(own, smooth, strict=True)]

    def distance(k: int, level: float, upper: bool) -> float:
        hits, images = means[k] * totals[k], totals[k]
        misses = images - hits
        if upper:
            exact = stats.beta.ppf(1 - level, hits + 1, misses) if misses > 1e-9 else 1.0
        else:
            exact = stats.beta.ppf(level, hits, misses + 1) if hits > 1e-9 else 0.0
        variance = ((exact - means[k]) / stats.norm.ppf(level)) ** 2
        of_seeds = spreads[k] / seeds
        if of_seeds == 0:
            return abs(exact - means[k])
        freedom = (seeds - 1) * (variance + of_seeds) ** 2 / of_seeds**2
        return stats.t.ppf(1 - level, freedom) * (variance + of_seeds) ** 0.5

    low = min(means[k] - distance(k, error, upper=False) for k in range(classes))
    high = min(means[k] + distance(k, error / classes, upper=True) for k in range(classes))
    return max(0.0, low), min(1.0, high)


# --- data: class sizes in decimal arithmetic, members and noise by scanning ---


def long_tail_sizes_in_decimals(largest: int, factor: int, num_classes: int) -> list[int]:
    """Round n / factor^(k / (K - 1)) for each class k, at 60 decimals, and keep one at least."""
    with decimal.localcontext(prec=60):
        root = decimal.Decimal(factor).ln() / max(num_classes - 1, 1)
        sizes = [largest / (root * k).exp() for k in range(num_classes)]
        return [max(1, int(size.quantize(decimal.Decimal(1)))) for size in sizes]


def members_by_scan(labels: Sequence[int], num_classes: int) -> list[list[int]]:
    """Positions of each class, by looking at every label once per class."""
    return [[i for i, label in enumerate(labels) if label == k] for k in range(num_classes)]


def permutation_by_sorting(draws: Sequence[int]) -> list[int]:
    """Positions in the order of their draws, ties in their own order."""
    return [position for _, position in sorted((draw, i) for i, draw in enumerate(draws))]


def falsified_one_by_one(
    labels: Sequence[int], num_classes: int, chosen: Sequence[int], draws: Sequence[int]
) -> list[int]:
    """Give each chosen sample the class that its draw picks from a list of all the others."""
    result = list(labels)
    for position in chosen:
        own = labels[position]
        others = [(own + 1 + step) % num_classes for step in range(num_classes - 1)]
        assert own not in others
        result[position] = others[draws[position] % len(others)]
    return result


# --- scores: moving one sample out by averaging the others, and class-balanced picks by a mask ---


def moso_by_averaging(
    gradients: NDArray[np.float64], rates: Sequence[float], steps: int, left_out: bool
) -> list[float]:
    """Mean over checkpoints of T / N eta <mean gradient, own gradient>, one sample at a time.

    ``gradients`` are those of every sample at every checkpoint, (T, N, P); with ``left_out`` the
    mean is over the others alone.
    """
    n = gradients.shape[1]
    scores = []
    for i in range(n):
        terms = []
        for rate, at in zip(rates, gradients, strict=True):
            others = np.delete(at, i, axis=0) if left_out else at
            terms.append(steps / n * rate * float(np.dot(others.mean(axis=0), at[i])))
        scores.append(statistics.fmean(terms))
    return scores


def class_balanced_by_mask(
    scores: NDArray[np.floating], labels: NDArray[np.integer], quotas: Sequence[int]
) -> list[int]:
    """Kept indices, ascending: for each class the best of all scores, those of others at -inf."""
    kept: list[int] = []
    for klass, quota in enumerate(quotas):
        masked = np.where(labels == klass, scores, -np.inf)
        kept += np.argsort(-masked, kind="stable")[:quota].tolist()
    return sorted(kept)


# --- scores: pairwise sums by recursion instead of level by level ---


def sum_by_halving(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum of arrays in float32: the first 2^k of them and the rest, 2^k the largest below n."""
    if len(parts) == 1:
        return parts[0]
    first = 1
    while 2 * first < len(parts):
        first *= 2
    return sum_by_halving(parts[:first]) + sum_by_halving(parts[first:])


# --- selection: the water level by bisection, many cases at once ---


def water_filled_by_bisection(
    rates: NDArray[np.float64],
    floors: NDArray[np.float64],
    caps: NDArray[np.float64],
    budgets: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sizes clip(level * rate, floor, cap), (C, K), with a level for each of C cases, (C,).

    The level lies between 1e-18 and 1e18 and is halved upon on a logarithmic scale, which 200
    halvings determine to the last bit. All rates have to be above 0.
    """

    def sizes_at(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.exp(logs)[:, None] * rates, floors, caps)

    low, high = np.full(len(rates), np.log(1e-18)), np.full(len(rates), np.log(1e18))
    for _ in range(200):
        middle = (low + high) / 2
        enough = sizes_at(middle).sum(axis=1) >= budgets
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return sizes_at(high)


# --- training: losses one sample at a time, on Python's numbers ---


def mean_loss_by_loop(
    logits: Sequence[Sequence[float]],
    labels: Sequence[int],
    weight: Callable[[int, float], float] = lambda i, p: 1.0,
) -> float:
    """Mean over samples i of weight(i, p_i) * -log p_i, p_i the probability of its own class."""
    total = 0.0
    for i, (own, label) in enumerate(zip(logits, labels, strict=True)):
        others = sum(math.exp(other - own[label]) for other in own)
        total += weight(i, 1 / others) * math.log(others)
    return total / len(labels)


def effective_number_by_summing(n: int, beta: float) -> float:
    """Expected volume of n samples, 1 + beta + ... + beta^(n - 1)."""
    return math.fsum(beta**j for j in range(n))


def group_dro_by_loop(
    batches: Sequence[tuple[Sequence[Sequence[float]], Sequence[int], Sequence[int]]],
    weights: Sequence[float],
    step: float,
) -> tuple[list[float], list[float]]:
    """Losses of consecutive batches (logits, labels, units), and the units' weights at the end."""
    q, losses = list(weights), []
    for logits, labels, units in batches:
        means = []
        for unit in range(len(q)):
            own = [i for i, other in enumerate(units) if other == unit]
            chosen = [logits[i] for i in own], [labels[i] for i in own]
            means.append(mean_loss_by_loop(*chosen) if own else 0.0)
        q = [share * math.exp(step * loss) for share, loss in zip(q, means, strict=True)]
        q = [share / sum(q) for share in q]
        losses.append(sum(share * loss for share, loss in zip(q, means, strict=True)))
    return losses, q


# --- scores: embeddings, all pairs of samples at once, and the coreset algorithm step by step ---


def k_center_by_scan(points: NDArray[np.floating], limit: int) -> list[int]:
    """Positions in the order of greedy k-center, from all pairs of distances, in float64.

    Starts with the point nearest the mean; a point that coincides with a chosen one is left out.
    """
    exact = np.asarray(points, dtype=np.float64)
    pairs = np.sqrt(((exact[:, None] - exact[None]) ** 2).sum(axis=2))
    to_mean = [float(np.sqrt(((x - exact.mean(axis=0)) ** 2).sum())) for x in exact]
    chosen = [to_mean.index(min(to_mean))]
    while len(chosen) < limit:
        nearest = [min(pairs[i, c] for c in chosen) for i in range(len(exact))]
        if max(nearest) == 0:
            break
        chosen.append(nearest.index(max(nearest)))
    return chosen


def moderate_one_by_one(embeddings: NDArray[np.floating], labels: Sequence[int]) -> list[float]:
    """-|d_i - median|, with d_i the distance from the mean of the samples of the same class."""
    exact = [[float(value) for value in row] for row in embeddings]
    distances = []
    for row, label in zip(exact, labels, strict=True):
        own = [other for other, its in zip(exact, labels, strict=True) if its == label]
        center = [statistics.fmean(column) for column in zip(*own, strict=True)]
        distances.append(math.dist(row, center))
    middle = statistics.median(distances)
    return [-abs(distance - middle) for distance in distances]


def cosine_distances_by_pairs(
    embeddings: NDArray[np.floating], centers: NDArray[np.floating]
) -> list[float]:
    """Smallest 1 - cos(z, c) over the centres, one pair at a time."""

    def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0

    return [min(1 - cosine(z, c) for c in centers) for z in embeddings.astype(np.float64)]


def ccs_sizes_by_algorithm(
    scores: Sequence[float], budget: int, cutoff: float, strata: int
) -> tuple[list[int], dict[int, int]]:
    """What CCS (arXiv 2210.15809, algorithm 1) takes: strata of all samples, and sizes by stratum.

    Stratum -1 is what was set aside. The algorithm takes the smallest stratum that is left, gives
    it an equal share of the budget that is left, rounded down, or all that it has, and goes on.
    """
    kept = math.floor(len(scores) * cutoff)
    hardest = sorted(range(len(scores)), key=lambda i: scores[i])[:kept]
    rest = [s for i, s in enumerate(scores) if i not in hardest]
    width = (max(rest) - min(rest)) / strata
    stratum = []
    for i, score in enumerate(scores):
        if i in hardest:
            stratum.append(-1)
        else:
            place = sum(score >= min(rest) + width * edge for edge in range(1, strata))
            stratum.append(place if width else 0)
    waiting = {b: stratum.count(b) for b in sorted(set(stratum) - {-1})}
    taken = dict.fromkeys(waiting, 0)
    while waiting:
        smallest = min(waiting, key=lambda b: waiting[b])
        taken[smallest] = min(waiting[smallest], budget // len(waiting))
        budget -= taken[smallest]
        del waiting[smallest]
    return stratum, taken


# --- data: coloured borders pixel by pixel, colours sample by sample ---


def bordered_pixel_by_pixel(
    image: NDArray[np.uint8], colour: Sequence[int], strength: float, margin: int
) -> NDArray[np.uint8]:
    """One grey or RGB image (C, H, W) as RGB with its outermost pixels blended with a colour."""
    channels, height, width = image.shape
    result = np.zeros((3, height, width), np.uint8)
    for c in range(3):
        for y in range(height):
            for x in range(width):
                value = float(image[c if channels == 3 else 0, y, x])
                if min(y, x, height - 1 - y, width - 1 - x) < margin:
                    value = value * (1 - strength) + colour[c] * strength
                result[c, y, x] = round(value)
    return result


def other_attributes(klass: int, num_attributes: int, count: int) -> list[int]:
    """Attributes of a class's unaligned samples, the last first: all but its own, in turn."""
    others = [a % num_attributes for a in range(klass + 1, klass + num_attributes)]
    return [others[i % len(others)] for i in range(count)]


# --- theory: the two thresholds as a textbook writes them, a formula per case ---


def threshold_by_two_formulas(
    means: tuple[float, float], sigmas: tuple[float, float], prior0: float
) -> float:
    """Average-risk threshold of two Gaussian classes (arXiv 2404.05579), NaN without a crossing."""
    (m0, m1), (s0, s1) = means, sigmas
    odds = prior0 / (1 - prior0)
    if s0 == s1:
        return (m0 + m1) / 2 + s0**2 / (m1 - m0) * float(np.log(odds))
    inside = (m0 - m1) ** 2 - 2 * (s0**2 - s1**2) * float(np.log(odds * s1 / s0))
    if inside < 0:
        return float("nan")
    return (m0 * s1**2 - m1 * s0**2 + s0 * s1 * inside**0.5) / (s1**2 - s0**2)
