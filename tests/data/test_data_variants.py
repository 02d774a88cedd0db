"""Long tails, false labels and subsets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from reference import falsified_one_by_one, long_tail_sizes_in_decimals

from raydrop.data import LabelledDataset, Split, load_dataset
from raydrop.data.sampling import raw_draws, shuffled
from raydrop.data.variants import LabelNoise, LongTail, Subset
from raydrop.data.variants.samples import falsify, long_tail_sizes
from raydrop.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def base() -> LabelledDataset:
    return load_dataset("digits")


def same(one: Split, other: Split) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)


def true_labels(base: LabelledDataset, split: Split) -> np.ndarray:
    by_id = dict(zip(base.train.ids.tolist(), base.train.labels.tolist(), strict=True))
    return np.array([by_id[i] for i in split.ids.tolist()])


# Long tails.


def test_long_tail_sizes_of_cifar10() -> None:
    # The sizes at imbalance 100 that follow from Cui et al. 2019, rounded instead of cut off.
    expected = [5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50]
    assert long_tail_sizes(5000, 100, 10).tolist() == expected


def test_long_tail_sizes_match_exact_arithmetic() -> None:
    for largest in (1, 2, 7, 80, 5000):
        for factor in (1, 2, 10, 77, 10000):
            for classes in (1, 2, 3, 10, 100):
                expected = long_tail_sizes_in_decimals(largest, factor, classes)
                assert long_tail_sizes(largest, factor, classes).tolist() == expected


def test_long_tail_touches_train_alone(base: LabelledDataset) -> None:
    tailed = LongTail(10).apply(base)
    assert tailed.class_sizes().tolist() == long_tail_sizes(80, 10, 10).tolist()
    assert tailed.name == "digits+long_tail(10)"
    assert tailed.validation is base.validation
    assert tailed.test is base.test
    assert set(tailed.train.ids) < set(base.train.ids)
    assert np.array_equal(tailed.train.labels, true_labels(base, tailed.train))
    assert tailed.fingerprint != base.fingerprint


def test_longer_tails_are_nested_in_shorter_ones(base: LabelledDataset) -> None:
    ids = [set(LongTail(factor).apply(base).train.ids) for factor in (1, 2.5, 10, 1000)]
    assert ids[0] > ids[1] > ids[2] > ids[3]
    assert LongTail(1000).apply(base).class_sizes().min() == 1


def test_long_tail_starts_from_the_smallest_class(base: LabelledDataset) -> None:
    kept = np.flatnonzero((base.train.labels != 3) | (np.arange(len(base.train)) % 2 == 0))
    uneven = base.derive("uneven", train=base.train.take(kept))
    smallest = int(uneven.class_sizes().min())
    assert smallest < 80
    assert LongTail(4).apply(uneven).class_sizes()[0] == smallest


def test_a_tail_of_factor_one_is_the_same_data(base: LabelledDataset) -> None:
    assert LongTail(1).apply(base).fingerprint == base.fingerprint


def test_a_tail_needs_every_class(base: LabelledDataset) -> None:
    kept = np.flatnonzero(base.train.labels != 3)
    without = base.derive("without", train=base.train.take(kept))
    with pytest.raises(DataError, match="found none of class '3'; apply long_tail first"):
        LongTail(2).apply(without)


@pytest.mark.parametrize("factor", [0, 0.99, -3, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"(of at least 1|for factor) in long_tail, found"):
        LongTail(factor)


def test_validation_and_test_stay_balanced(base: LabelledDataset) -> None:
    tailed = load_dataset("digits+long_tail(100)")
    for name in ("validation", "test"):
        before, after = base.splits()[name], tailed.splits()[name]
        assert same(before, after)
        assert np.array_equal(before.inputs.pixels, after.inputs.pixels)  # type: ignore[union-attr]
        assert len(set(tailed.class_sizes(name).tolist())) == 1


# False labels.


@pytest.mark.parametrize("rate", [0, 0.001, 0.2, 0.333, 1])
def test_exactly_the_rate_of_labels_becomes_false(base: LabelledDataset, rate: float) -> None:
    noisy = LabelNoise(rate).apply(base)
    wrong = noisy.train.labels != base.train.labels
    assert wrong.sum() == round(rate * 800)
    assert noisy.noisy is not None
    assert np.array_equal(noisy.noisy, wrong)
    assert np.array_equal(noisy.train.ids, base.train.ids)
    assert noisy.train.inputs is base.train.inputs
    assert same(noisy.validation, base.validation)
    assert same(noisy.test, base.test)


def test_falsify_matches_a_loop(rng: np.random.Generator) -> None:
    for seed, classes in enumerate((2, 3, 10, 100)):
        labels = rng.integers(0, classes, size=57)
        chosen = shuffled(57, seed, "label_noise/which")[:20]
        draws = raw_draws(57, seed, "label_noise/class")
        expected = falsified_one_by_one(labels.tolist(), classes, chosen.tolist(), draws.tolist())
        assert falsify(labels, 20 / 57, classes, seed)[0].tolist() == expected


def test_false_labels_are_uniform_among_the_other_classes() -> None:
    labels, _ = falsify(np.full(40000, 2), 1.0, 5, seed=0)
    counts = np.bincount(labels, minlength=5)
    assert counts[2] == 0
    expected = 10000
    assert sum((counts[k] - expected) ** 2 / expected for k in (0, 1, 3, 4)) < 16.3  # p = 0.001


def test_every_class_is_falsified_alike() -> None:
    labels = np.arange(40000) % 4
    _, changed = falsify(labels, 0.25, 4, seed=0)
    shares = [changed[labels == k].mean() for k in range(4)]
    assert max(abs(share - 0.25) for share in shares) < 0.017  # four standard errors


def test_noise_seeds_differ_and_repeat(base: LabelledDataset) -> None:
    first, again, other = (LabelNoise(0.3, seed).apply(base) for seed in (1, 1, 2))
    assert same(first.train, again.train)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not same(first.train, other.train)


def test_a_higher_rate_adds_to_a_lower_one(base: LabelledDataset) -> None:
    low, high = LabelNoise(0.1).apply(base), LabelNoise(0.4).apply(base)
    assert low.noisy is not None
    assert np.array_equal(low.train.labels[low.noisy], high.train.labels[low.noisy])


def test_noise_marks_travel_through_later_variants() -> None:
    base = load_dataset("digits")
    for text in ("label_noise(0.3)+subset(20)", "label_noise(0.3)+long_tail(5)"):
        variant = load_dataset(f"digits+{text}")
        wrong = variant.train.labels != true_labels(base, variant.train)
        assert variant.noisy is not None
        assert 0 < wrong.sum() < len(wrong)
        assert np.array_equal(variant.noisy, wrong)


def test_earlier_noise_stays_marked(base: LabelledDataset) -> None:
    once = LabelNoise(0.2, seed=1).apply(base)
    twice = LabelNoise(0.2, seed=2).apply(once)
    assert once.noisy is not None
    assert twice.noisy is not None
    assert np.all(twice.noisy[once.noisy])
    assert twice.noisy.sum() > once.noisy.sum()


def test_noise_may_not_take_the_last_image_of_a_class(base: LabelledDataset) -> None:
    tailed = LongTail(1000).apply(base)
    only = tailed.train.ids[tailed.train.labels == 9]
    assert len(only) == 1
    kept = np.flatnonzero(np.isin(tailed.train.labels, (8, 9)))
    few = tailed.derive("few", train=tailed.train.take(kept))
    with pytest.raises(
        DataError,
        match=r"label_noise\(1\) to leave images of every class in train, found none left",
    ):
        LabelNoise(1).apply(few)


def test_noise_needs_another_class(base: LabelledDataset) -> None:
    def only_zeros(split: Split) -> Split:
        return split.take(np.flatnonzero(split.labels == 0))

    single = dataclasses.replace(
        base,
        class_names=("0",),
        train=only_zeros(base.train),
        validation=only_zeros(base.validation),
        test=only_zeros(base.test),
    )
    with pytest.raises(ConfigError, match="two classes or more for label_noise, found 1"):
        LabelNoise(0.1).apply(single)
    assert LongTail(10).apply(single).class_sizes().tolist() == [80]


# Subsets.


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        (Subset(20), (20, 20, 20)),
        (Subset(20, test=5), (20, 5, 5)),
        (Subset(50), (50, 24, 50)),
        (Subset(10**30), (80, 24, 70)),
    ],
)
def test_subset_caps_every_class(
    base: LabelledDataset, variant: Subset, sizes: tuple[int, int, int]
) -> None:
    subset = variant.apply(base)
    for (name, split), size in zip(subset.splits().items(), sizes, strict=True):
        assert subset.class_sizes(name).tolist() == [size] * 10
        assert set(split.ids) <= set(base.splits()[name].ids)


def test_smaller_subsets_are_nested_in_larger_ones(base: LabelledDataset) -> None:
    small, large = Subset(5, test=2).apply(base), Subset(9, test=3).apply(base)
    for name in ("train", "validation", "test"):
        assert set(small.splits()[name].ids) < set(large.splits()[name].ids)


def test_a_subset_of_everything_is_the_same_data(base: LabelledDataset) -> None:
    assert Subset(1000).apply(base).fingerprint == base.fingerprint
    assert Subset(1000, test=3).apply(base).fingerprint != base.fingerprint


# Composition.


def test_variants_apply_in_the_order_written() -> None:
    one = load_dataset("digits+subset(40)+long_tail(4)")
    other = load_dataset("digits+long_tail(4)+subset(40)")
    assert one.class_sizes().tolist() == long_tail_sizes(40, 4, 10).tolist()
    capped = np.minimum(long_tail_sizes(80, 4, 10), 40)
    assert other.class_sizes().tolist() == capped.tolist()
    assert one.fingerprint != other.fingerprint


def test_images_stay_with_their_ids() -> None:
    base = load_dataset("digits")
    variant = load_dataset("digits+subset(30)+label_noise(0.2)+long_tail(3)")
    where = np.searchsorted(base.train.ids, variant.train.ids)
    expected = base.train.inputs.take(where)
    assert np.array_equal(variant.train.inputs.pixels, expected.pixels)  # type: ignore[union-attr]
