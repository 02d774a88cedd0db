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
    assert len(ERRORS) == 10
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
