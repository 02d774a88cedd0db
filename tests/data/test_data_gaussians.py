"""The data set whose right answers are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raydrop.data import load_dataset
from raydrop.data.dataset import ArrayImages, Split
from raydrop.data.loaders.gaussians import SIDE, Gaussians
from raydrop.data.spec import DatasetSpec, parse_spec
from raydrop.errors import ConfigError

properties = settings(derandomize=True, deadline=None, max_examples=15)

SMALL = Gaussians(n=3000, test=2000)
UNEVEN = Gaussians(mean0=-3, mean1=2, sigma0=2, sigma1=0.3, prior0=0.7, n=3000, test=2000, seed=5)


def _pixels(split: Split) -> np.ndarray:
    assert isinstance(split.inputs, ArrayImages)
    return split.inputs.pixels


# Images.


@pytest.mark.parametrize("spec", [SMALL, UNEVEN])
def test_x_comes_back_from_an_image_to_within_half_a_step(spec: Gaussians) -> None:
    for split in ("train", "validation", "test"):
        low, high = spec.bounds[0]
        x = spec.draw(split, 2000).clip(low, high)
        error = np.abs(spec.decode(spec.encode(x)) - x)
        assert error.max() <= 0.5001 * (high - low) / (255 * SIDE**2)
    assert (SMALL.bounds[0][1] - SMALL.bounds[0][0]) / (255 * SIDE**2) < 0.002


@properties
@given(st.lists(st.floats(-2.9, 4.9), min_size=1, max_size=20))
def test_sums_of_pixels_are_linear_in_x_and_in_its_square(values: list[float]) -> None:
    x = np.array(values)
    sums = SMALL.encode(x).astype(np.int64).sum((2, 3))
    for channel, value in enumerate((x, (x - SMALL.middle) ** 2)):
        low, high = SMALL.bounds[channel]
        exact = (value - low) / (high - low) * 255 * SIDE**2
        below = exact - sums[:, channel]
        assert ((below > -1e-6) & (below < 1 + 1e-6)).all()


def test_one_pixel_alone_is_as_coarse_as_a_pixel() -> None:
    """The negative control of the encoding: no single pixel can tell neighbouring x apart."""
    x = np.linspace(-1, 1, 501)
    pixels = SMALL.encode(x)
    assert len(np.unique(pixels.sum((2, 3)), axis=0)) == 501
    assert len(np.unique(pixels[:, 0, 0, 0])) < 80


def test_values_beyond_the_bounds_are_clipped() -> None:
    low, high = SMALL.bounds[0]
    pixels = SMALL.encode(np.array([low - 1, low, high, high + 1]))
    assert np.array_equal(pixels[0, 0], pixels[1, 0])
    assert np.array_equal(pixels[2], pixels[3])
    assert pixels[0].min() == 0
    assert pixels[2].max() == 255


# Samples.


@pytest.mark.parametrize("spec", [SMALL, UNEVEN])
def test_samples_are_of_their_mixture(spec: Gaussians) -> None:
    dataset = spec.load()
    for name, split in dataset.splits().items():
        sizes = spec.class_sizes(len(split))
        assert dataset.class_sizes(name).tolist() == list(sizes)
        assert sizes[0] == round(len(split) * spec.prior0)
        x = spec.decode(_pixels(split))
        for k, (mean, sigma) in enumerate(((spec.mean0, spec.sigma0), (spec.mean1, spec.sigma1))):
            own, other = stats.norm(mean, sigma), stats.norm(mean + 0.3 * sigma, sigma)
            assert stats.kstest(x[split.labels == k], own.cdf).pvalue > 1e-3
            assert stats.kstest(x[split.labels == k], other.cdf).pvalue < 1e-6


def test_splits_seeds_and_classes_have_streams_of_their_own() -> None:
    drawn = [SMALL.draw("train", 20), SMALL.draw("test", 20)]
    drawn.append(dataclasses.replace(SMALL, seed=1).draw("train", 20))
    standard = [(x - np.repeat([-1, 1], 10)) / np.repeat([0.5, 1], 10) for x in drawn]
    values = np.concatenate([(z[:10], z[10:]) for z in standard]).ravel()
    assert len(np.unique(values.round(9))) == 60
    assert np.array_equal(SMALL.draw("train", 20), drawn[0])
    assert np.array_equal(SMALL.draw("train", 40)[:10], drawn[0][:10])


def test_draws_stay_what_they_are() -> None:
    np.testing.assert_allclose(SMALL.draw("train", 4), PINNED, rtol=1e-12)


PINNED = [-1.1120853286045838, -1.5798082864785519, 0.36037769229238836, -0.8143669685466661]


def test_facts() -> None:
    dataset = load_dataset("gaussians(n=40, test=30)")
    assert dataset.name == "gaussians(n=40, test=30)"
    assert dataset.image_shape == (2, 4, 4)
    assert dataset.class_names == ("0", "1")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (40, 30, 30)
    assert not dataset.horizontal_flip
    assert dataset.crop_padding == 0
    assert dataset.train.ids.tolist() == list(range(40))
    assert dataset.test.ids.tolist() == list(range(70, 100))
    assert dataset.fingerprint == load_dataset("gaussians(n=40,test=30,sigma1=1)").fingerprint
    others = ("n=41, test=30", "n=40, test=30, seed=1", "n=40, test=30, sigma0=0.6")
    fingerprints = [load_dataset(f"gaussians({other})").fingerprint for other in others]
    assert len({dataset.fingerprint, *fingerprints}) == 4


def test_variants_apply_to_it() -> None:
    dataset = load_dataset("gaussians(n=400, test=50, prior0=.5)+long_tail(4)+label_noise(0.1)")
    assert dataset.name == "gaussians(n=400, test=50)+long_tail(4)+label_noise(0.1)"
    assert len(dataset.train) == 250


# Specifications.


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("gaussians", "gaussians"),
        (" gaussians ( ) ", "gaussians"),
        ("gaussians(sigma0=0.50)", "gaussians"),
        ("gaussians(sigma0=.2, n=1e3)", "gaussians(sigma0=0.2, n=1000)"),
        ("gaussians(-2, 2.0, 1, 1, 0.3)", "gaussians(mean0=-2, mean1=2, sigma0=1, prior0=0.3)"),
        ("gaussians(n=1e+3)+subset(5)", "gaussians(n=1000)+subset(5)"),
        ("gaussians+subset(5)", "gaussians+subset(5)"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_spec(text)) == canonical
    assert parse_spec(canonical) == parse_spec(text)


def test_a_specification_holds_what_to_draw() -> None:
    found = parse_spec("gaussians(sigma0=0.2)")
    assert found == DatasetSpec("gaussians", None, (), drawn=Gaussians(sigma0=0.2))


BAD = [
    ("gaussians(mean0=1)", "mean0 below mean1 in gaussians, found 1 and 1; write for example gaus"),
    ("gaussians(sigma0=0)", "sigma0 above 0 in gaussians, found 0;"),
    ("gaussians(sigma1=-1)", "sigma1 above 0 in gaussians, found -1;"),
    ("gaussians(prior0=1)", "prior0 between 0 and 1 in gaussians, found 1;"),
    ("gaussians(prior0=nan)", "a finite number for prior0 in gaussians, found nan;"),
    ("gaussians(mean1=inf)", "a finite number for mean1 in gaussians, found inf;"),
    ("gaussians(n=10.5)", "a whole number of at least 0 for n in gaussians, found 10.5;"),
    ("gaussians(seed=-1)", "a whole number of at least 0 for seed in gaussians, found -1;"),
    ("gaussians(n=1)", "samples of both classes among n in gaussians, found 0 and 1;"),
    ("gaussians(test=20, prior0=.01)", "samples of both classes among test in gaussians, found 0"),
    ("gaussians(mu0=1)", r"gaussians with arguments such as gaussians\(sigma0=.*'mu0'\); correct"),
    ("gaussians(sigma0=big)", r"numbers in gaussians\(\.\.\.\), found 'big'; write for example"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_does_not_fit_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected {message}") as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gaussians:x", "Expected gaussians without a path, found 'gaussians:x'"),
        ("gaussian(n=5)", "Unknown data set 'gaussian"),
        ("digits(5)", "Unknown data set 'digits"),
        ("gaussians(n=5", "Unknown data set 'gaussians"),
    ],
)
def test_names_that_are_nearly_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(text)


def test_python_callers_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="a finite number for n in gaussians, found '5'"):
        Gaussians(n="5")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a finite number for seed in gaussians, found True"):
        Gaussians(seed=True)
