"""Slow, obviously correct twins of every fast computation, written differently on purpose."""

from __future__ import annotations

import copy
import decimal
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

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
            torch.stack(
                [(parts_of(g) * parts_of(direction[name])).sum() for name, g in each.items()]
            ).sum()
            for each in gradients
        ]
    )


def parts_of(gradient: Tensor) -> Tensor:
    """Real and imaginary parts of a complex gradient, a real one as it is."""
    if not gradient.is_complex():
        return gradient
    return torch.stack([gradient.real, gradient.imag], -1)


def norms_of(gradients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """|| grad l_i || from whole gradients, (B,), in float64."""
    lengths = [
        [torch.linalg.vector_norm(parts_of(g), dtype=torch.float64) for g in each.values()]
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


def moderated_by_bisection(variances: Sequence[float], freedom: int) -> tuple[list[float], float]:
    """Variances drawn towards a common one, the worth of the prior being searched for."""
    from scipy.special import digamma, polygamma

    mean = statistics.fmean(variances)
    if len(variances) == 1 or mean == 0:
        return list(variances), float(freedom)
    logs = [math.log(max(v, mean / 100)) for v in variances]
    one, three = (float(polygamma(order, freedom / 2)) for order in (1, 3))
    doubt = ((2 * one**2 + three) / len(variances)) ** 0.5
    target = max(0.0, statistics.variance(logs) - one) + doubt
    low, high = 1e-6, 1e9
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if polygamma(1, middle / 2) > target else (low, middle)
    common = math.prod(math.exp(log) ** (1 / len(logs)) for log in logs)
    common /= math.exp(digamma(freedom / 2)) / (freedom / 2)
    return [(low * common + freedom * v) / (low + freedom) for v in variances], low + freedom


def worst_class_interval_by_scipy(
    correct: Sequence[Sequence[int]],
    totals: Sequence[int],
    confidence: float,
    agreement: Sequence[float] | None = None,
) -> tuple[float, float]:
    """Interval for the lowest recall, one class and side at a time, from scipy's distributions."""
    from scipy import stats

    seeds, classes, error = len(correct), len(totals), (1 - confidence) / 2
    recalls = [[row[k] / totals[k] for row in correct] for k in range(classes)]
    means = [statistics.fmean(each) for each in recalls]
    kept = [1.0] * classes if agreement is None else list(agreement)
    gross, alone, freedom = [0.0] * classes, [0.0] * classes, math.inf
    if seeds > 1:
        smooth = [(m * n + 1) / (n + 2) for m, n in zip(means, totals, strict=True)]
        units = [p * (1 - p) for p in smooth]
        own = [statistics.variance(r) / u for r, u in zip(recalls, units, strict=True)]
        drawn, freedom = moderated_by_bisection(own, seeds - 1)
        gross = [v * u for v, u in zip(drawn, units, strict=True)]
        for k, m in enumerate(means):
            alone[k] = m * (1 - m) * (1 - kept[k]) * seeds / (seeds - 1) / totals[k]

    def distance(k: int, level: float, upper: bool) -> float:
        hits, images = means[k] * totals[k], totals[k]
        misses = images - hits
        if upper:
            exact = stats.beta.ppf(1 - level, hits + 1, misses) if misses > 1e-9 else 1.0
        else:
            exact = stats.beta.ppf(level, hits, misses + 1) if hits > 1e-9 else 0.0
        if seeds == 1:
            return abs(exact - means[k])
        variance = kept[k] * ((exact - means[k]) / stats.norm.ppf(level)) ** 2
        variance += max(0.0, gross[k] - alone[k]) / seeds
        if variance == 0:
            return 0.0
        of_seeds = float(gross[k]) / seeds
        share = 1.0 if of_seeds >= variance else of_seeds / float(variance)
        normal = share < 1e-9  # so many degrees of freedom that t is normal
        quantile = -stats.norm.ppf(level) if normal else stats.t.ppf(1 - level, freedom / share**2)
        return quantile * variance**0.5

    low = min(means[k] - distance(k, error, upper=False) for k in range(classes))
    left = list(range(classes))
    if classes > 1:
        spent, error = error / 10, error * 9 / 10
        high = min(means[k] + distance(k, error / classes, upper=True) for k in left)
        left = [k for k in left if means[k] - distance(k, spent / classes, upper=False) <= high]
    high = min(means[k] + distance(k, error / len(left), upper=True) for k in left)
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


def squared_pixel_by_pixel(image: NDArray[np.uint8], size: int, margin: int) -> NDArray[np.uint8]:
    """One grey or RGB image (C, H, W) as RGB with a yellow square as near to ``margin`` as fits."""
    channels, height, width = image.shape
    top, left = (min(margin, side - size) for side in (height, width))
    result = np.zeros((3, height, width), np.uint8)
    for c in range(3):
        for y in range(height):
            for x in range(width):
                inside = top <= y < top + size and left <= x < left + size
                result[c, y, x] = (255, 255, 0)[c] if inside else image[c * (channels == 3), y, x]
    return result


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


# --- figures: changes seed by seed, thresholds by counting, costs handed out run by run ---


def change_seed_by_seed(
    pruned: Mapping[int, Sequence[float]], full: Mapping[int, Sequence[float]]
) -> list[float]:
    """Mean over the seeds of both of each class's recall minus that on all the data, (K,)."""
    seeds = sorted(set(pruned) & set(full))
    differences = [[a - b for a, b in zip(pruned[s], full[s], strict=True)] for s in seeds]
    return [sum(column) / len(seeds) for column in zip(*differences, strict=True)]


def last_kept_by_counting(scores: Sequence[float], kept: int, *, higher_is_kept: bool) -> float:
    """The score with fewer than ``kept`` better ones, and at least ``kept`` with its equals."""
    for value in scores:
        better = sum(s > value if higher_is_kept else s < value for s in scores)
        if better < kept <= better + sum(s == value for s in scores):
            return value
    raise AssertionError(kept)


def costs_run_by_run(
    reads: Mapping[str, set[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """What every reader pays if the readers of each run pay the same."""
    paid = dict.fromkeys(reads, 0.0)
    for run, cost in seconds.items():
        readers = [name for name, read in reads.items() if run in read]
        for name in readers:
            paid[name] += cost / len(readers)
    return paid


# --- frontier: comparisons, resamples and fronts, one pair, image, draw or cell at a time ---


def image_agreement_by_pairs(
    hits: Sequence[Sequence[bool]], members: Sequence[int], number: int
) -> list[float]:
    """Share of binomial image noise kept by seed means, from the joint successes of seed pairs."""
    seeds = len(hits)
    kept, most, sizes = [0.0] * number, [0.0] * number, [0] * number
    for k in range(number):
        images = [i for i, member in enumerate(members) if member == k]
        if not images:
            continue
        sizes[k] = len(images)
        pairs = itertools.product(range(seeds), repeat=2)
        both = sum(hits[s][i] and hits[t][i] for s, t in pairs for i in images)
        mean = sum(row[i] for row in hits for i in images) / seeds / len(images)
        kept[k] = both / seeds**2 / len(images) - mean**2
        most[k] = mean * (1 - mean)
    total = sum(n * m for n, m in zip(sizes, most, strict=True))
    joint = sum(n * v for n, v in zip(sizes, kept, strict=True)) / total if total > 0 else 1.0
    own = [v / m if m > 0 else 1.0 for v, m in zip(kept, most, strict=True)]
    return [min(1.0, max(0.0, each, joint)) for each in own]


def worst_difference_by_loops(
    one: NDArray[np.bool_], other: NDArray[np.bool_], members: Sequence[int], confidence: float
) -> tuple[float, float]:
    """Limits of min_j p_j - min_k q_k by looping over pairs of classes; hits are (S, n_test)."""
    from scipy import stats

    seeds, classes = len(one), sorted(set(members))
    images = {k: [i for i, member in enumerate(members) if member == k] for k in classes}
    error = (1 - confidence) / 2

    def recall(hits: NDArray[np.bool_], k: int) -> list[float]:
        return [statistics.fmean(map(float, row[images[k]])) for row in hits]

    def shares(hits: NDArray[np.bool_], k: int) -> list[float]:
        return [statistics.fmean(map(float, hits[:, i])) for i in images[k]]

    def moments(values: list[float]) -> tuple[float, float]:
        """Mean, and the variance of the mean, dividing by n twice."""
        return statistics.fmean(values), statistics.pvariance(values) / len(values)

    def alone(rows: NDArray[np.float64]) -> float:
        """Variance over seeds of a mean of images that every seed errs on independently."""
        return statistics.fmean(statistics.variance(column) for column in rows.T) / rows.shape[1]

    def of_seeds(hits: NDArray[np.bool_]) -> tuple[dict[int, tuple[float, float]], float]:
        """Variance due to seeds, net and gross, for each class; degrees of freedom."""
        units = {k: moments([*shares(hits, k), 1.0, 0.0])[0] for k in classes}
        units = {k: p * (1 - p) for k, p in units.items()}
        own = [statistics.variance(recall(hits, k)) / units[k] for k in classes]
        drawn, freedom = moderated_by_bisection(own, seeds - 1)
        found = {}
        for k, v in zip(classes, drawn, strict=True):
            gross = v * units[k]
            net = max(0.0, gross - alone(hits[:, images[k]].astype(float)))
            found[k] = net / seeds, gross / seeds
        return found, freedom

    spreads = [of_seeds(hits) for hits in (one, other)] if seeds > 1 else []

    def seed_part(j: int, k: int) -> tuple[float, float, float]:
        if len(classes) == 1:
            rows = one.astype(float) - other
            gross = statistics.variance([statistics.fmean(row) for row in rows])
            return max(0.0, gross - alone(rows)) / seeds, (gross / seeds) ** 2, seeds - 1
        (net_a, gross_a), (net_b, gross_b) = spreads[0][0][j], spreads[1][0][k]
        squares = gross_a**2 / spreads[0][1] + gross_b**2 / spreads[1][1]
        return net_a + net_b, squares, 1.0

    def limits(j: int, k: int) -> tuple[float, float]:
        a, b = shares(one, j), shares(other, k)
        if j == k:
            mean, noise = moments([*(x - y for x, y in zip(a, b, strict=True)), 1.0, -1.0])
        else:
            (mean_a, noise_a), (mean_b, noise_b) = moments([*a, 1.0, 0.0]), moments([*b, 1.0, 0.0])
            mean, noise = mean_a - mean_b, noise_a + noise_b
        tail = error if len(classes) == 1 else error / 2 / (1 if j == k else len(classes) - 1)
        quantile = stats.norm.isf(tail)
        if seeds > 1:
            net, squares, freedom = seed_part(j, k)
            noise += net
            if squares:
                lowest = freedom if len(classes) == 1 else min(each[1] for each in spreads)
                quantile = stats.t.isf(tail, max(lowest, freedom * noise**2 / squares))
        width = quantile * noise**0.5
        return mean - width, mean + width

    low = min(max(limits(j, k)[0] for k in classes) for j in classes)
    high = max(min(limits(j, k)[1] for j in classes) for k in classes)
    plain = [min(statistics.fmean(recall(hits, k)) for k in classes) for hits in (one, other)]
    return max(-1, min(low, plain[0] - plain[1])), min(1, max(high, plain[0] - plain[1]))


def holm_by_steps(p_values: Sequence[float], error: float) -> list[bool]:
    """Whether each hypothesis is rejected: the smallest p-value first, until one is too large."""
    rejected = [False] * len(p_values)
    left = set(range(len(p_values)))
    while left:
        smallest = min(left, key=lambda each: p_values[each])
        if p_values[smallest] > error / len(left):
            break
        rejected[smallest] = True
        left.remove(smallest)
    return rejected


def resample_by_images(
    hits: NDArray[np.bool_],
    members: Sequence[int],
    rows: Sequence[Sequence[int]],
    seeds: Sequence[tuple[int, ...]],
    entropy: int,
    draws: int,
) -> tuple[list[list[float]], list[list[float]]]:
    """Average accuracies and lowest recalls of resamples, counting drawn images one at a time."""
    image_rng, seed_rng = (
        np.random.default_rng(each) for each in np.random.SeedSequence(entropy).spawn(2)
    )
    shares = seed_rng.random((draws, max(map(len, seeds))))
    classes = sorted(set(members))
    images = {k: [i for i, member in enumerate(members) if member == k] for k in classes}
    drawn = {k: image_rng.integers(len(images[k]), size=(draws, len(images[k]))) for k in classes}
    average, worst = [], []
    for b in range(draws):
        average.append([0.0] * len(rows))
        worst.append([0.0] * len(rows))
        for p, of_point in enumerate(rows):
            number = max(1, len(of_point) - 1)
            chosen = [of_point[int(shares[b, d] * len(of_point))] for d in range(number)]
            right = dict.fromkeys(classes, 0)
            for row, k in itertools.product(chosen, classes):
                right[k] += sum(int(hits[row, images[k][i]]) for i in drawn[k][b])
            average[b][p] = sum(right.values()) / number / len(members)
            worst[b][p] = min(right[k] / number / len(images[k]) for k in classes)
    return average, worst


def hypervolume_by_cells(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume above a reference, cell by cell of the grid that all coordinates span."""
    sound = [p for p in points if all(x > r for x, r in zip(p, reference, strict=True))]
    axes = [sorted({r, *(p[d] for p in sound)}) for d, r in enumerate(reference)]
    volume = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        corner = [axis[place + 1] for axis, place in zip(axes, cell, strict=True)]
        if any(all(x >= c for x, c in zip(p, corner, strict=True)) for p in sound):
            sides = (axis[i + 1] - axis[i] for axis, i in zip(axes, cell, strict=True))
            volume += math.prod(sides)
    return volume


# --- training: the performance weighted loss one sample at a time, on Python's numbers ---


def pw_loss_by_loop(
    logits: Sequence[Sequence[float]],
    labels: Sequence[int],
    reference: Sequence[Sequence[float]],
    theta: float,
    gamma: float,
    *,
    targets: str = "corrected",
    mean1: bool = False,
) -> tuple[float, list[float], list[list[float]]]:
    """Loss, weights and targets; a binary problem has logits (0, l) of two classes."""
    weights, chosen, losses = list[float](), list[list[float]](), list[float]()
    for own, label, dense in zip(logits, labels, reference, strict=True):
        p0 = [math.exp(value) / sum(map(math.exp, dense)) for value in dense]
        weights.append(theta + (1 - theta) * (1 - p0[label]) ** gamma)
        right = max(range(len(p0)), key=p0.__getitem__) == label
        one_hot = [float(k == label) for k in range(len(p0))]
        chosen.append(p0 if targets == "soft" or (targets == "corrected" and right) else one_hot)
        total = math.log(sum(map(math.exp, own)))
        losses.append(sum(z * (total - value) for z, value in zip(chosen[-1], own, strict=True)))
    scale = statistics.fmean(weights) if mean1 else 1.0
    parts = [w / scale * loss for w, loss in zip(weights, losses, strict=True)]
    return sum(parts) / len(parts), weights, chosen


# --- harm: areas by counting pairs, modal labels by counting votes, gaps by loops ---


def auc_by_pairs(values: Sequence[float], of_class: Sequence[bool]) -> float:
    """Share of pairs (one of the class, one not) ranked rightly, ties one half; NaN without any."""
    own = [value for value, inside in zip(values, of_class, strict=True) if inside]
    others = [value for value, inside in zip(values, of_class, strict=True) if not inside]
    halves = sum(2 * (a > b) + (a == b) for a in own for b in others)
    pairs = len(own) * len(others)
    return float(Fraction(halves, 2 * pairs)) if pairs else math.nan


def modal_label_by_counting(predictions: NDArray[np.integer]) -> list[int]:
    """Most frequent value of each column of (S, n); the lowest of equally frequent ones."""
    modes = []
    for column in predictions.T.tolist():
        most = max(column.count(label) for label in column)
        modes.append(min(label for label in column if column.count(label) == most))
    return modes


def excess_gaps_by_loops(
    pruned: NDArray[np.float64], dense: NDArray[np.float64], totals: Sequence[int]
) -> tuple[list[float], list[list[float]]]:
    """Growth of average - worst, (S,), and every unit's loss beyond the average's, (S, U)."""
    gaps, units = [], []
    for after, before in zip(pruned.tolist(), dense.tolist(), strict=True):
        known = [u for u, value in enumerate(after) if not math.isnan(value)]
        weight = sum(totals[u] for u in known)
        averages = [sum(side[u] * totals[u] for u in known) / weight for side in (after, before)]
        lowest = [min(side[u] for u in known) for side in (after, before)]
        gaps.append((averages[0] - lowest[0]) - (averages[1] - lowest[1]))
        units.append(
            [(before[u] - after[u]) - (averages[1] - averages[0]) for u in range(len(after))]
        )
    return gaps, units


# --- network pruning: outputs silenced by hooks, filters one by one, weights by sorting tuples ---


def logits_without_channels(
    model: nn.Module, channels: Mapping[str, Any], images: Tensor
) -> Tensor:
    """Logits of a dense network in eval mode in which removed outputs of layers are zero, (B, K).

    A convolution or BatchNorm that lost outputs puts out zeros there; nothing is cut.
    """

    def silence(kept: Sequence[int]) -> Callable[..., Tensor]:
        def hook(_layer: nn.Module, _inputs: object, outputs: Tensor) -> Tensor:
            mask = torch.zeros(outputs.shape[1], dtype=outputs.dtype)
            mask[list(kept)] = 1.0
            return outputs * mask.view(1, -1, *[1] * (outputs.ndim - 2))

        return hook

    twin = copy.deepcopy(model).eval()
    for name, sides in channels["layers"].items():
        if "out" in sides:
            twin.get_submodule(name).register_forward_hook(silence(sides["out"]["kept"]))
    with torch.no_grad():
        return cast(Tensor, twin(images))


def filter_norms_by_loop(weight: Tensor, norm: float) -> list[float]:
    """Norm of each filter, from its numbers one by one."""
    return [
        sum(abs(value) ** norm for value in each.flatten().tolist()) ** (1 / norm)
        for each in weight
    ]


def distances_by_loop(weight: Tensor) -> list[float]:
    """Sum of the Euclidean distances from each filter to every other one, pair by pair."""
    rows = [each.flatten().tolist() for each in weight]
    return [sum(math.dist(row, other) for other in rows) for row in rows]


def masks_by_sorting(scores: Mapping[str, Sequence[float]], amount: int) -> dict[str, list[bool]]:
    """Which weights stay when so many of the lowest go, but never a layer's highest."""
    ranked = sorted(
        (value, name, i) for name, each in scores.items() for i, value in enumerate(each)
    )
    safe = {(name, max(range(len(each)), key=each.__getitem__)) for name, each in scores.items()}
    gone = {(name, i) for _, name, i in [r for r in ranked if r[1:] not in safe][:amount]}
    return {
        name: [(name, i) not in gone for i in range(len(each))] for name, each in scores.items()
    }
