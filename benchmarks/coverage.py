"""How often intervals for the worst class hold, and how wide they are, in simulation.

Compared, on the same simulated test results, each at nominal 95 %:

* ``raydrop``: :func:`raydrop.frontier.worst_class_interval` with the seeds' agreement;
* ``percentile bootstrap``: test images (and seeds) drawn with replacement, the lowest mean recall
  taken each time, 2.5 % and 97.5 % quantiles; ``basic bootstrap``: the same, reflected;
* ``t over seeds``: mean of each seed's lowest recall ± t·s/√S, where there are seeds;
* ``lowest class alone``: Clopper and Pearson's (or, with seeds, a t interval of the crossed
  variance) for the class with the lowest recall, as if it had been named before;
* ``Bonferroni box``: all classes at 1 - 5 %/K, the lowest ends taken;
* ``Šidák-Wilson``: upper ends at Šidák's level, lower ends uncorrected, Wilson's limits;
* ``step-down Wilson``: the same, counting only classes that are not clearly better;
* with seeds, the last three use z limits of the crossed variance V_I/n + V_S/S - overlap, its
  components pooled over classes in proportion to p(1 - p), which is as narrow as it gets.

Coverage is of min_k p_k, p_k being the recall expected over test images and seeds. ``valid`` means
that at least 93 % of the intervals hold; the ratio is of our mean width to that of the narrowest
valid rival in that scenario, and to that of the narrowest one that is valid in all scenarios.

With seeds, every image has a difficulty, which decides it for a seed with probability 1/2 and pure
chance does otherwise, and the recalls of seeds and classes vary by one point independently.

A second table has the differences of worst-class recalls of two points on the same images and seeds
(:mod:`raydrop.frontier.statistics.comparisons`), beside the percentile bootstrap of the difference.

``--speed`` measures instead how long 10,000 trials of 100 classes on 10,000 test images take, from
hits to table and probabilities of being on the front, with 1,000 joint resamples.

Run with ``python benchmarks/coverage.py``; ``--repetitions 200`` is a quick look.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from scipy import special

from raydrop.frontier import frontier_table, worst_class_interval
from raydrop.frontier.points import POINT
from raydrop.frontier.records import Records
from raydrop.frontier.statistics.contrasts import contrasts, interval
from raydrop.frontier.statistics.intervals import image_agreement
from raydrop.frontier.statistics.resampling import resample
from raydrop.metrics import class_metrics
from raydrop.store import Place

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

ERROR = 0.05
DRAWS = 400
VALID = 0.93
SUMMARIES = (
    "average_accuracy",
    "worst_class_accuracy",
    "worst_class",
    "accuracy_gap",
    "accuracy_std",
)


@dataclass(frozen=True)
class Scenario:
    """Recalls that are known, and a test of them."""

    name: str
    recalls: Floats
    """(K,) expected recalls."""
    images: int
    """Test images of each class."""
    seeds: int = 1
    spread: float | Floats = 0.0
    """Standard deviation of recalls over seeds, of all classes or of each (K,)."""
    shared: float = 0.5
    """Share of cases in which an image's difficulty decides it, for all seeds alike."""

    def hits(
        self, rng: np.random.Generator, difficulty: NDArray[np.float32] | None = None
    ) -> Bools:
        """Draw (S, K, n) which images each seed has right."""
        shape = (self.seeds, len(self.recalls), self.images)
        recalls = self.recalls + self.spread * rng.standard_normal(shape[:2])
        luck = rng.random(shape, dtype=np.float32)
        if self.seeds > 1 or difficulty is not None:
            same = rng.random(shape[1:], dtype=np.float32) if difficulty is None else difficulty
            by_image = rng.random(shape, dtype=np.float32) < self.shared
            luck = np.where(by_image, same, luck)
        return luck < recalls[:, :, None].astype(np.float32)


TEN, HUNDRED = np.full(10, 0.9), np.full(100, 0.7)
ONE_WORST = np.array([0.7, *[0.9] * 9])
SCENARIOS = (
    Scenario("10 equal x 1,000", TEN, 1000),
    Scenario("100 equal x 100", HUNDRED, 100),
    Scenario("10, one clearly worst, x 1,000", ONE_WORST, 1000),
    Scenario("10 equal x 1,000, 3 seeds ± 1 point", TEN, 1000, seeds=3, spread=0.01),
    Scenario("10, one clearly worst, x 1,000, 3 seeds ± 1 point", ONE_WORST, 1000, 3, 0.01),
)
UNSTEADY = np.array([0.7, *[0.8] * 9])
BEYOND = tuple(
    Scenario(
        f"worst class {times} times as unsteady, x 1,000, {seeds} seeds",
        UNSTEADY,
        1000,
        seeds,
        np.array([0.01 * times, *[0.01] * 9]),
    )
    for times, seeds in ((3, 3), (6, 3), (3, 2))
)
"""What the classes' lending each other strength is not made for."""
PAIRS = (
    ("10 equal x 1,000, no difference", TEN, TEN, 1000, 3),
    ("10 x 1,000, one clearly worst, 5 points better", ONE_WORST + 0.05, ONE_WORST, 1000, 3),
    ("10 x 1,000, another class is worst", ONE_WORST[::-1], ONE_WORST, 1000, 3),
    ("100 equal x 100, no difference", HUNDRED, HUNDRED, 100, 3),
    ("10 x 36, one worst, 2 seeds", ONE_WORST + 0.05, ONE_WORST, 36, 2),
    ("10 equal x 1,000, one seed, no seed noise", TEN, TEN, 1000, 1),
)


def ours(hits: Bools) -> Interval:
    """The interval of the frontier table."""
    seeds, classes, images = hits.shape
    members = np.repeat(np.arange(classes), images)
    agreement = image_agreement(hits.reshape(seeds, -1), members, classes)
    return worst_class_interval(hits.sum(axis=2), [images] * classes, agreement=agreement)


def limits(hits: Bools, error: float, upper: bool) -> Floats:
    """(K,) one-sided limits: Wilson's of one seed, z limits of the crossed variance of several."""
    images, mean = hits.shape[2], hits.mean(axis=(0, 2))
    z = float(special.ndtri(1 - error)) * (1 if upper else -1)
    if len(hits) == 1:
        middle = (mean + z**2 / (2 * images)) / (1 + z**2 / images)
        root = np.sqrt(mean * (1 - mean) / images + z**2 / (4 * images**2))
        found: Floats = middle + z * root / (1 + z**2 / images)
    else:
        found = mean + z * crossed_error(hits)
    return found


def crossed_error(hits: Bools) -> Floats:
    """(K,) standard errors of recalls whose seeds and images are crossed random effects."""
    seeds, _, images = hits.shape
    mean = hits.mean(axis=(0, 2))
    by_image = hits.mean(axis=0).var(axis=1, ddof=1)
    by_seed = hits.mean(axis=2).var(axis=0, ddof=1)
    whole = mean * (1 - mean) * images / (images - 1)
    # Within an image, seeds differ by the interaction alone: whole = by_image + (1 - 1/S)·rest.
    rest = (whole - by_image) * seeds / (seeds - 1)
    total = by_image / images + by_seed / seeds - rest / (seeds * images)
    binomial = mean * (1 - mean)
    found: Floats = np.sqrt(np.maximum(total.sum() / binomial.sum(), 1e-9) * binomial)
    return found


def lowest_class_alone(hits: Bools) -> Interval:
    """Two-sided limits of the class with the lowest recall."""
    seeds, _, images = hits.shape
    mean = hits.mean(axis=(0, 2))
    low = int(mean.argmin())
    if seeds == 1:
        right = mean[low] * images
        return (
            float(special.betaincinv(right, images - right + 1, ERROR / 2)),
            float(special.betaincinv(right + 1, images - right, 1 - ERROR / 2)),
        )
    one = hits[:, low : low + 1]
    images_part = one.mean(axis=0).var(ddof=1) / images
    seeds_part = one.mean(axis=2).var(ddof=1) / seeds
    freedom = (seeds - 1) * ((images_part + seeds_part) / max(seeds_part, 1e-12)) ** 2
    width = special.stdtrit(freedom, 1 - ERROR / 2) * np.sqrt(images_part + seeds_part)
    return float(mean[low] - width), float(mean[low] + width)


def bonferroni_box(hits: Bools) -> Interval:
    """All classes at once, both ends corrected."""
    error = ERROR / 2 / hits.shape[1]
    if len(hits) == 1:
        images, right = hits.shape[2], hits.sum(axis=(0, 2)).astype(float)
        low = special.betaincinv(right, images - right + 1, error)
        high = special.betaincinv(right + 1, images - right, 1 - error)
        return float(low.min()), float(high.min())
    return float(limits(hits, error, False).min()), float(limits(hits, error, True).min())


def sidak(hits: Bools) -> Interval:
    """Upper ends at Šidák's level, lower ends uncorrected."""
    error = 1 - (1 - ERROR / 2) ** (1 / hits.shape[1])
    return float(limits(hits, ERROR / 2, False).min()), float(limits(hits, error, True).min())


def step_down(hits: Bools) -> Interval:
    """As Šidák's, but only classes whose lower limits do not clear the upper end are counted."""
    low, high = sidak(hits)
    spent = ERROR / 20
    candidates = (limits(hits, spent / hits.shape[1], False) <= high).sum()
    error = 1 - (1 - (ERROR / 2 - spent)) ** (1 / candidates)
    return low, float(limits(hits, error, True).min())


def t_over_seeds(hits: Bools) -> Interval:
    """What papers print: mean ± t·s/√S of the lowest recall of each seed."""
    lowest = hits.mean(axis=2).min(axis=1)
    if len(lowest) == 1:
        return float("nan"), float("nan")
    width = special.stdtrit(len(lowest) - 1, 1 - ERROR / 2) * lowest.std(ddof=1)
    width /= np.sqrt(len(lowest))
    return float(lowest.mean() - width), float(lowest.mean() + width)


def resampled_minima(hits: Bools, rng: np.random.Generator) -> Floats:
    """(DRAWS,) lowest mean recalls when images, and seeds where there are several, are redrawn."""
    lowest: Floats = resampled_recalls(hits, rng).min(axis=1)
    return lowest


def resampled_recalls(hits: Bools, rng: np.random.Generator) -> Floats:
    """(DRAWS, K) mean recalls; images with the same pattern over seeds are drawn together."""
    seeds, classes, images = hits.shape
    codes = np.tensordot(2 ** np.arange(seeds), hits, axes=1)
    patterns = np.array([np.bincount(each, minlength=2**seeds) for each in codes])
    drawn = rng.multinomial(images, patterns / images, size=(DRAWS, classes))
    right = (np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    found: Floats = np.einsum("dkc,cs,ds->dk", drawn, right, times, optimize=True) / images
    return found


def percentile(hits: Bools, rng: np.random.Generator) -> tuple[Interval, Interval]:
    """Percentile and basic bootstrap interval of the lowest mean recall."""
    low, high = np.quantile(resampled_minima(hits, rng), [ERROR / 2, 1 - ERROR / 2])
    found = hits.mean(axis=(0, 2)).min()
    return (float(low), float(high)), (float(2 * found - high), float(2 * found - low))


RIVALS: dict[str, Callable[[Bools], Interval]] = {
    "raydrop": ours,
    "t over seeds": t_over_seeds,
    "lowest class alone": lowest_class_alone,
    "Bonferroni box": bonferroni_box,
    "Šidák-Wilson": sidak,
    "step-down Wilson": step_down,
}


def coverage(scenario: Scenario, repetitions: int) -> pd.DataFrame:
    """Return coverage and mean width of every interval, by name."""
    truth = scenario.recalls.min()
    rng = np.random.default_rng([2026, *scenario.name.encode()])
    ends: dict[str, list[Interval]] = {name: [] for name in RIVALS}
    ends |= {"percentile bootstrap": [], "basic bootstrap": []}
    for _ in range(repetitions):
        hits = scenario.hits(rng)
        for name, rival in RIVALS.items():
            ends[name].append(rival(hits))
        one, other = percentile(hits, rng)
        ends["percentile bootstrap"].append(one)
        ends["basic bootstrap"].append(other)
    return pd.DataFrame(
        [(name, *_summary(found, truth)) for name, found in ends.items()],
        columns=["interval", "coverage", "width"],
    ).set_index("interval")


def _summary(ends: list[Interval], truth: float) -> tuple[float, float]:
    low, high = np.array(ends).T
    if np.isnan(low).all():
        return float("nan"), float("nan")
    return float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())


def report_beyond(repetitions: int) -> None:
    """Print coverage where seeds move the worst class far more than others."""
    for scenario in BEYOND:
        print(f"\n{scenario.name}\n{coverage(scenario, repetitions).round(4).to_string()}")


def report_coverage(repetitions: int) -> None:
    """Print the table of worst-class intervals and the ratios."""
    tables = {scenario.name: coverage(scenario, repetitions) for scenario in SCENARIOS}
    everywhere = set.intersection(*(set(_valid(table).index) for table in tables.values()))
    for name, table in tables.items():
        print(f"\n{name}\n{table.round(4).to_string()}")
        width = table.loc["raydrop", "width"]
        rivals = _valid(table).drop(index="raydrop", errors="ignore")["width"]
        both = rivals[[each in everywhere for each in rivals.index]]
        for kind, widths in (("here", rivals), ("everywhere", both)):
            if len(widths):
                print(f"  width / {widths.idxmin()} (valid {kind}): {width / widths.min():.3f}")


def _valid(table: pd.DataFrame) -> pd.DataFrame:
    held = table["coverage"].isna() | (table["coverage"] >= VALID)
    return table[held].dropna() if not table["coverage"].isna().all() else table


def report_differences(repetitions: int) -> None:
    """Print coverage and width of intervals for differences of worst-class recalls."""
    for place, (name, one, other, images, seeds) in enumerate(PAIRS):
        rng = np.random.default_rng([2027, place])
        spread = 0.01 if seeds > 1 else 0.0
        a, b = (Scenario(name, each, images, seeds, spread) for each in (one, other))
        members = np.repeat(np.arange(len(one)), images)
        found, naive = [], []
        for repetition in range(repetitions):
            difficulty = rng.random((len(one), images), dtype=np.float32)
            pair = a.hits(rng, difficulty), b.hits(rng, difficulty)
            first, second = (each.reshape(seeds, -1) for each in pair)
            both = contrasts(first, second, members)
            found.append(interval(both))
            if repetition % 10 == 0:  # resampling takes a hundred times as long
                naive.append(_naive_difference(*pair, rng))
        truth = float(one.min() - other.min())
        for kind, ends in (("raydrop", found), ("percentile bootstrap", naive)):
            held, width = _summary(ends, truth)
            print(f"{name}: {kind}: coverage {held:.4f}, width {width:.4f}")


def _naive_difference(a: Bools, b: Bools, rng: np.random.Generator) -> Interval:
    """Quantiles of resampled differences, images and seeds shared by both sides."""
    recalls = resampled_recalls_of_both(np.concatenate([a, b]), len(a), rng)
    drawn = recalls[:, 0].min(axis=1) - recalls[:, 1].min(axis=1)
    low, high = np.quantile(drawn, [ERROR / 2, 1 - ERROR / 2])
    return float(low), float(high)


def resampled_recalls_of_both(hits: Bools, seeds: int, rng: np.random.Generator) -> Floats:
    """(DRAWS, 2, K) mean recalls of two points, hits (2 S, K, n)."""
    classes, images = hits.shape[1:]
    codes = np.tensordot(2 ** np.arange(2 * seeds), hits, axes=1)
    patterns = np.array([np.bincount(each, minlength=4**seeds) for each in codes])
    drawn = rng.multinomial(images, patterns / images, size=(DRAWS, classes))
    right = ((np.arange(4**seeds)[:, None] >> np.arange(2 * seeds)) & 1).reshape(-1, 2, seeds)
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    found: Floats = np.einsum("dkc,cps,ds->dpk", drawn, right, times, optimize=True) / images
    return found


def made_up_records(points: int, seeds: int, classes: int, images: int) -> Records:
    """Return records of random predictions, points differing in recall."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images // classes)
    rows, packed = [], {}
    for point in range(points):
        chance = 0.6 + 0.3 * np.sin(np.pi * point / points) * rng.random(classes)
        for seed in range(seeds):
            hits = rng.random(len(labels), dtype=np.float32) < chance[labels]
            key = f"{point:06d}-{seed}"
            packed[key] = np.packbits(hits)
            metrics = class_metrics(np.where(hits, labels, (labels + 1) % classes), labels, classes)
            rows.append(
                dict.fromkeys(POINT, "made up")
                | {"trial_id": key, "keep_fraction": (point + 1) / points, "seed": seed}
                | {name: getattr(metrics, name) for name in SUMMARIES}
                | {"correct_by_class": metrics.correct, "test_by_class": metrics.totals}
                | {"n_kept": point, "noisy_pruned": np.nan}
            )
    return Records(
        place=Place(Path()),
        trials=pd.DataFrame(rows),
        class_names=tuple(map(str, range(classes))),
        class_sizes=(1,) * classes,
        missing=(),
        failures=(),
        damaged=(),
        provenance={"study_id": "made up"},
        test_labels=labels,
        packed_hits=packed,
    )


def report_speed(points: int, seeds: int) -> None:
    """Print how long a large study takes, and how much memory."""
    records = made_up_records(points, seeds, 100, 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    processor = time.process_time()
    start = time.perf_counter()
    resamples = resample(records)
    middle = time.perf_counter()
    table = frontier_table(records.trials, resamples=resamples)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{points} points x {seeds} seeds, 100 classes, 10,000 images: 1,000 joint resamples "
        f"{middle - start:.1f} s, table with fronts {end - middle:.1f} s "
        f"({time.process_time() - processor:.1f} s of processor time), peak {peak:.2f} GiB "
        f"({before:.2f} before); {(table['front_status'] == 'frontier').sum()} on the front"
    )


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description="Coverage of intervals for the worst class.")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--speed", action="store_true", help="time a large study instead")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, SciPy {scipy.__version__}"
    )
    if arguments.speed:
        report_speed(2000, 5)
        report_speed(10_000, 1)
        return
    report_coverage(arguments.repetitions)
    report_beyond(arguments.repetitions)
    report_differences(arguments.repetitions)


if __name__ == "__main__":
    main()
