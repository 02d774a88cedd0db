from __future__ import annotations

import pickle

import pytest

import raydrop.errors
from raydrop.errors import (
    ConfigError,
    DataError,
    NetworkError,
    NoMemoryError,
    RaydropError,
    StoreError,
    unknown_name,
    visible,
    visible_within,
)

ERRORS = [
    value
    for value in vars(raydrop.errors).values()
    if isinstance(value, type) and issubclass(value, RaydropError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_survives_pickling_with_its_sentence(error: type[RaydropError]) -> None:
    sentence = "Expected one thing, found another; mend it."
    back = pickle.loads(pickle.dumps(error(sentence)))
    assert type(back) is error
    assert str(back) == sentence


def test_errors_are_also_what_a_stranger_would_catch() -> None:
    assert len(ERRORS) == 11
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DataError, ValueError)
    assert issubclass(StoreError, OSError)
    assert issubclass(NetworkError, ValueError)
    assert issubclass(NoMemoryError, MemoryError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("el2m", "Unknown method 'el2m': did you mean el2n?"),
        ("EL2N", "Unknown method 'EL2N': did you mean el2n?"),
        ("grant", "Unknown method 'grant': did you mean grand or random?"),
        ("zzz", "Unknown method 'zzz': choose one of el2n, forgetting, grand, random."),
        (7, "Unknown method 7: choose one of el2n, forgetting, grand, random."),
    ],
)
def test_an_unknown_name_brings_its_nearest_or_all(name: object, message: str) -> None:
    error = unknown_name("method", name, iter(["random", "el2n", "grand", "forgetting"]))
    assert isinstance(error, ConfigError)
    assert str(error) == message


def test_of_very_many_names_the_nearest_is_found_and_not_all_are_said() -> None:
    names = [f"vit_{n:04}" for n in range(1000)]
    assert str(unknown_name("model", "vit_0007(depth=2, heads=3, width=48)", names)).startswith(
        "Unknown model 'vit_0007(depth=2, heads=3, width=48)': did you mean vit_0007"
    )
    said = str(unknown_name("model", "?", names))
    assert said.startswith("Unknown model '?': choose one of vit_0000, vit_0001, ")
    assert said.endswith("vit_0019, 1000 in all.")


def test_whatever_would_steer_a_terminal_or_a_page_is_shown() -> None:
    told = "a\x1b[2J\x00\x9b\x7f\r\n\u2028\u202e\ufeff\udce9"
    assert visible(told) == r"a\x1b[2J\x00\x9b\x7f\r\n\u2028\u202e\ufeff\udce9"
    fine = "猫 ein schöner\u00a0Name [b] :smile: $x$ 😀"
    assert visible(fine) == fine
    assert visible(visible(told)) == visible(told)
    assert visible(7) == "7"


def test_texts_within_values_are_shown_and_all_else_stays() -> None:
    told = {"a\0": ["b\n", 1, 0.5, None, True, {"c": "d\x1b"}]}
    assert visible_within(told) == {"a\\x00": ["b\\n", 1, 0.5, None, True, {"c": "d\\x1b"}]}
    deep: object = "x"
    for _ in range(400):
        deep = [deep]
    with pytest.raises(ValueError, match="without an end"):
        visible_within(deep)
