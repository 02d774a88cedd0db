"""The grammar of data set specifications."""

from __future__ import annotations

import pytest

from raydrop.data import DATASETS, load_dataset
from raydrop.data.spec import DatasetSpec, parse_spec
from raydrop.data.variants import LabelNoise, LongTail, Subset
from raydrop.errors import ConfigError

CANONICAL = [
    ("digits", "digits"),
    ("  digits ", "digits"),
    ("digits+long_tail(10)", "digits+long_tail(10)"),
    ("digits + long_tail( 10.0 )", "digits+long_tail(10)"),
    ("digits+long_tail(1e+1)", "digits+long_tail(10)"),
    ("digits+long_tail(factor=2.50)", "digits+long_tail(2.5)"),
    ("digits+label_noise(.2)", "digits+label_noise(0.2)"),
    ("digits+label_noise(0.20, 0)", "digits+label_noise(0.2)"),
    ("digits+label_noise(seed = 1, rate=0.2)", "digits+label_noise(0.2, seed=1)"),
    ("digits+label_noise(0)", "digits+label_noise(0)"),
    ("digits+subset(500)", "digits+subset(500)"),
    ("digits+subset(5e2,100)", "digits+subset(500, test=100)"),
    ("digits+subset(500, test=500)", "digits+subset(500)"),
    (
        "digits+subset(500)+label_noise(0.1)+long_tail(3)",
        "digits+subset(500)+label_noise(0.1)+long_tail(3)",
    ),
    ("digits+thinned(dog=.20, big cat = 0.5)", "digits+thinned(big cat=0.5, dog=0.2)"),
    ("digits+shortcut(dog=0.98, rest=0.02, size=4)", "digits+shortcut(dog=0.98)"),
    ("digits+shortcut(seed=1, 3=1, size=2.0)", "digits+shortcut(3=1, size=2, seed=1)"),
    ("digits+shortcut(b=0, rest=0.1, a=1)", "digits+shortcut(a=1, b=0, rest=0.1)"),
    ("imagefolder:a b/c++(old)/d+subset(2)", "imagefolder:a b/c++(old)/d+subset(2)"),
    ("imagefolder:~/x+subset(2)/+subset(3)", "imagefolder:~/x+subset(2)/+subset(3)"),
    ("imagefolder:C:/photos", "imagefolder:C:/photos"),
    ("imagefolder:/why?label=y", "imagefolder:/why?label=y"),
    ("imagefolder:a?flip=on", "imagefolder:a?flip=on"),
    ("imagefolder:a ? flip = off+subset(2)", "imagefolder:a+subset(2)"),
    ("imagefolder:a?flip=on?", "imagefolder:a?flip=on?"),
    ("imagefolder:gs://b/p?project=x", "imagefolder:gs://b/p?project=x"),
    ("imagefolder:gs://b/p?project=x?flip=on", "imagefolder:gs://b/p?project=x?flip=on"),
    ("metadata:a?missing=skip&flip=on", "metadata:a?flip=on&missing=skip"),
    ("metadata:a b", "metadata:a b"),
    ("metadata:a?group=place&label=y", "metadata:a"),
    ("metadata:a ? group = sea & label=a b+subset(2)", "metadata:a?label=a b&group=sea+subset(2)"),
    ("metadata:/why?/a?label=b", "metadata:/why?/a?label=b"),
    ("metadata:/why?", "metadata:/why"),
    ("metadata:/why??", "metadata:/why??"),
    ("celeba", "celeba"),
    ("celeba?group=Young+subset(5)", "celeba?group=Young+subset(5)"),
    ("celeba:faces?target=Male&group=Hat", "celeba:faces?target=Male&group=Hat"),
    ("celeba?", "celeba"),
    ("fitzpatrick17k:a?train=1-2&skin=fitzpatrick", "fitzpatrick17k:a?skin=fitzpatrick"),
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL)
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_spec(text)) == canonical
    assert parse_spec(canonical) == parse_spec(text) or "test=" in text


def test_variants_keep_the_order_in_which_they_are_written() -> None:
    spec = parse_spec("digits+subset(9, test=3)+long_tail(2)+label_noise(0.5, seed=4)")
    assert spec == DatasetSpec(
        "digits", None, (Subset(9, test=3), LongTail(2), LabelNoise(0.5, seed=4))
    )


@pytest.mark.parametrize(
    ("text", "path", "variants"),
    [
        ("imagefolder:/a+b/c", "/a+b/c", ()),
        ("imagefolder:/a(1)", "/a(1)", ()),
        ("imagefolder:/a+b(1)/c(2)+subset(3)", "/a+b(1)/c(2)", (Subset(3),)),
        ("imagefolder:/a+subset(1)/", "/a+subset(1)/", ()),
        ("imagefolder:/a+long_tail", "/a+long_tail", ()),
        ("imagefolder:/a?flip=on?", "/a?flip=on", ()),
        ("imagefolder:gs://b/p?project=x+subset(3)", "gs://b/p?project=x", (Subset(3),)),
    ],
)
def test_paths_may_hold_pluses_and_parentheses(
    text: str, path: str, variants: tuple[Subset, ...]
) -> None:
    assert parse_spec(text) == DatasetSpec("imagefolder", path, variants)


BAD = [
    ("digits+long_tial(10)", "Unknown variant 'long_tial': did you mean long_tail"),
    ("imagefolder:/a+b(1)", "Unknown variant 'b': choose one of label_noise, long_tail, shor"),
    ("digits+long_tail", r"\+name\(arguments\), found '\+long_tail'; write for example"),
    ("digits+long_tail(10", r"\+name\(arguments\), found '\+long_tail\(10'"),
    ("digits+long_tail()", r"such as \+long_tail\(10\), found long_tail\(\) \(missing a required"),
    ("digits+long_tail(1, 2)", r"found long_tail\(1, 2\) \(too many positional"),
    ("digits+long_tail(ten)", r"numbers in long_tail\(\.\.\.\), found 'ten'; write for example"),
    ("digits+subset(5, tset=2)", r"unexpected keyword argument 'tset'\); correct them"),
    ("digits+subset(5, n=2)", "multiple values for argument 'n'"),
    ("digits+long_tail(0.5)", "factor of at least 1 in long_tail, found 0.5;"),
    ("digits+long_tail(nan)", "finite number for factor in long_tail, found nan;"),
    ("digits+long_tail(inf)", "finite number for factor in long_tail, found inf;"),
    ("digits+label_noise(1.5)", "rate from 0 to 1 in label_noise, found 1.5;"),
    ("digits+label_noise(-0.1)", "rate from 0 to 1 in label_noise, found -0.1;"),
    ("digits+label_noise(0.1, seed=0.5)", "of at least 0 for seed in label_noise, found 0.5;"),
    ("digits+subset(0)", "whole number of at least 1 for n in subset, found 0;"),
    ("digits+subset(inf)", "finite number for n in subset, found inf;"),
    (
        "digits+thinned()",
        r"share of at least one class in thinned, found none; write \+thinned\(cat",
    ),
    ("digits+thinned(0.2)", r"found thinned\(0.2\) \(too many positional"),
    ("digits+thinned(cat=0)", "shares above 0 in thinned, found cat=0; write for example"),
    ("digits+thinned(cat=1.1)", "share from 0 to 1 for cat in thinned, found 1.1; write"),
    ("digits+thinned(cat=much)", r"numbers in thinned\(\.\.\.\), found 'much'; write for example"),
    ("digits+shortcut(rest=0.1)", "share of at least one class in shortcut, found none; write"),
    ("digits+shortcut(dog=nan)", "finite number for dog in shortcut, found nan; write"),
    ("digits+shortcut(dog=1, rest=-1)", "share from 0 to 1 for rest in shortcut, found -1; write"),
    ("digits+shortcut(dog=1, size=0)", "whole number of at least 1 for size in shortcut, found 0;"),
    ("digits+shortcut(dog=1, seed=0.5)", "of at least 0 for seed in shortcut, found 0.5;"),
    (
        "digits?label=y",
        r"\?key=value only after celeba or fitz.* or table, found 'digits\?label=y'; rem",
    ),
    ("imagefolder:a?flip", r"each option of imagefolder once as key=value, found 'flip'; wr"),
    ("metadata:a?labl=y", "Unknown option of metadata 'labl': did you mean label"),
    ("metadata:a?label", r"each option of metadata once as key=value, found 'label'; .* \?label=y"),
    ("metadata:a?label=", r"each option of metadata once as key=value, found 'label='; write"),
    ("metadata:a?label=b&label=c", "each option of metadata once .* found 'label=b&label=c'; "),
    ("digits+subset(2, test=0)", "whole number of at least 1 for test in subset, found 0;"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_does_not_fit_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digts+subset(2)", "Unknown data set 'digts': did you mean digits"),
        ("CIFAR10", "Unknown data set 'CIFAR10': did you mean cifar10"),
        ("/photos", "Unknown data set '/photos': choose one of .*imagefolder"),
        ("imagefolder", "folder after imagefolder, found none; write imagefolder:PATH"),
        ("imagefolder: ", "folder after imagefolder, found none; write imagefolder:PATH"),
        ("fitzpatrick17k", "folder after fitzpatrick17k, found none; write fitzpatrick17k:PATH"),
        ("metadata", "folder after metadata, found none; write metadata:PATH"),
        ("metadata:?label=y", "folder after metadata, found none; write metadata:PATH"),
        ("waterbirds", "folder after waterbirds, found none; write waterbirds:PATH"),
        ("celeba:", "folder after celeba, found none; write celeba:PATH"),
        ("waterbird:x", "Unknown data set 'waterbird': did you mean waterbirds"),
        ("tinyimagenet:x", "Unknown data set 'tinyimagenet': did you mean tiny_imagenet"),
        ("CelebA", "Unknown data set 'CelebA': did you mean celeba"),
        ("digits:", "digits without a path, found 'digits:'; remove"),
        ("digits:x", "digits without a path, found 'digits:x'; remove"),
    ],
)
def test_names_of_data_sets(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(text)


def test_variants_demand_numbers_in_python_too() -> None:
    with pytest.raises(ConfigError, match="a finite number for factor in long_tail, found '10'"):
        LongTail("10")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a finite number for n in subset, found True"):
        Subset(True)


def test_every_data_set_has_one_line() -> None:
    assert set(DATASETS) == {
        "digits", "gaussians", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagefolder",
        "tiny_imagenet", "imagenet", "metadata", "waterbirds", "celeba", "fitzpatrick17k",
        "table", "hf",
    }  # fmt: skip
    summaries = [each.summary for each in DATASETS.values()]
    assert all(text and "\n" not in text and len(text) < 90 for text in summaries)


def test_a_loaded_data_set_carries_the_canonical_name() -> None:
    assert load_dataset(" digits +subset(3.0)").name == "digits+subset(3)"
