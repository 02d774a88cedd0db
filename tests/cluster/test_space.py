"""Search spaces mean to a study what they mean to Tune, and always the same points."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float
from ray.tune.search.variant_generator import generate_variants

from raydrop.cluster.space import expand
from raydrop.errors import ConfigError
from raydrop.study import Study


def _study(space: object, **changes: object) -> Study:
    return Study("t", "digits", "small_cnn", space, **changes)  # type: ignore[arg-type]


def test_grids_are_crossed() -> None:
    points = expand(
        _study({"method": tune.grid_search(["a", "b"]), "keep_fraction": tune.grid_search([1, 2])})
    )
    assert points == [
        {"method": m, "keep_fraction": k} for k in (1, 2) for m in ("a", "b")
    ] or sorted(map(str, points)) == sorted(
        str({"method": m, "keep_fraction": k}) for k in (1, 2) for m in ("a", "b")
    )


def test_draws_are_the_same_every_time_and_as_many_as_asked_for() -> None:
    space = {"keep_fraction": tune.uniform(0.1, 0.9), "loss": tune.grid_search(["a", "b"])}
    study = _study(space, num_samples=3)
    points = expand(study)
    assert points == expand(study)
    draws = {loss: [p["keep_fraction"] for p in points if p["loss"] == loss] for loss in "ab"}
    assert draws["a"] == draws["b"]  # common random numbers at every grid point
    assert len(set(draws["a"])) == 3


def test_several_spaces_are_joined() -> None:
    assert expand(_study([{"method": "a"}, {"method": "b"}])) == [{"method": "a"}, {"method": "b"}]


def test_what_is_no_search_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expected a Tune search space"):
        expand(_study({"method": {"grid_search": 3}}))


def test_workers_run_in_this_environment_even_if_the_script_imported_ray_first() -> None:
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    assert not sys.modules["ray._private.ray_constants"].RAY_ENABLE_UV_RUN_RUNTIME_ENV  # type: ignore[attr-defined]


# As Tune itself resolves it.


def _of_tune(study: Study) -> list[dict[str, Any]]:
    """Return what Tune's own generator makes of a study's search spaces."""
    return [
        point
        for space in study.spaces()
        for sample in range(study.num_samples)
        for _, point in generate_variants(dict(space), random_state=sample)
    ]


def _when_random(config: Any) -> str:
    return "drop" if config["method"] == "random" else "none"


GRID = tune.grid_search(["random", "el2n"])
AS_TUNE = {
    "after a grid": {"method": GRID, "quotas": tune.sample_from(_when_random)},
    "before it": {"quotas": tune.sample_from(lambda spec: spec.config.method), "method": GRID},
    "an attribute": {"method": GRID, "quotas": tune.sample_from(lambda c: c.method + "!")},
    "of a draw": {
        "keep_fraction": tune.uniform(0.1, 0.9),
        "method": GRID,
        "quotas": tune.sample_from(lambda c: str(c["keep_fraction"]) + c["method"]),
    },
    "a chain": {
        "loss": tune.sample_from(lambda spec: spec.config.quotas + "2"),
        "quotas": tune.sample_from(lambda spec: spec.config.method + "1"),
        "method": GRID,
    },
    "a grid of draws": {
        "keep_fraction": tune.grid_search([0.5, tune.uniform(0, 1), tune.choice([2, 3])]),
        "method": GRID,
    },
    "a grid of grids": {"method": tune.grid_search(["a", {"grid_search": ["b", "c"]}])},
    "a function that gives a grid": {
        "method": GRID,
        "quotas": tune.sample_from(
            lambda c: tune.grid_search(["drop", "none"]) if c["method"] == "random" else "none"
        ),
    },
    "a function that gives a draw": {
        "method": GRID,
        "loss": tune.sample_from(lambda c: tune.choice(list(c["method"]))),
    },
    "nested": {
        "inner": {"a": GRID, "b": [tune.choice([1, 2]), {"c": tune.grid_search([1, 2])}]},
        "method": tune.sample_from(lambda c: c["inner"]["a"] + str(c["inner"]["b"][0])),
    },
    "a tuple": {"pair": (tune.grid_search([1, 2]), 3), "method": "a"},
    "without the point": {"method": tune.sample_from(lambda: "random"), "loss": GRID},
    "every distribution": {
        "a": tune.loguniform(1e-3, 1),
        "b": tune.quniform(0, 1, 0.1),
        "c": tune.randint(0, 9),
        "d": tune.randn(0, 1),
        "e": tune.lograndint(1, 99),
        "f": GRID,
    },
}


@pytest.mark.parametrize("space", AS_TUNE.values(), ids=AS_TUNE)
def test_a_space_is_what_tunes_own_generator_makes_of_it(space: dict[str, Any]) -> None:
    study = _study(space, num_samples=3)
    points = expand(study)
    assert points == _of_tune(study)
    assert points == expand(study)


def test_a_function_sees_the_values_of_a_grid() -> None:
    points = expand(_study({"method": GRID, "quotas": tune.sample_from(_when_random)}))
    assert [(point["method"], point["quotas"]) for point in points] == [
        ("random", "drop"),
        ("el2n", "none"),
    ]


@pytest.mark.parametrize(
    "later",
    [tune.choice(["random"]), tune.sample_from(lambda c: "random"), {"grid_search": ["random"]}],
    ids=["a draw", "a function", "a grid"],
)
@pytest.mark.parametrize(
    "seen",
    [
        _when_random,
        lambda c: "drop" if dict(c)["method"] == "random" else "none",
        lambda c: "drop" if c.get("method") == "random" else "none",
        lambda c: "drop" if ("method", "random") in c.items() else "none",
        lambda spec: "drop" if spec.config["method"] == "random" else "none",
    ],
    ids=["item", "dict", "get", "items", "spec"],
)
def test_a_function_waits_for_what_it_reads(seen: Any, later: Any) -> None:
    """Tune itself would show it the distribution."""
    (point,) = expand(_study({"quotas": tune.sample_from(seen), "method": later}))
    assert point == {"quotas": "drop", "method": "random"}


LEAVES = st.sampled_from(["random", "el2n", 0.3, 1, True, None])
VALUES = st.recursive(
    st.one_of(LEAVES, st.lists(LEAVES, min_size=1, max_size=3).map(tune.choice)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(tune.grid_search),
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        inner.map(lambda value: tune.sample_from(lambda config: value)),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["method", "quotas", "loss", "inner"]), VALUES, max_size=3))
def test_any_space_is_what_tunes_own_generator_makes_of_it(space: dict[str, Any]) -> None:
    study = _study(space, num_samples=2)
    points = expand(study)
    assert points == expand(study)
    with contextlib.suppress(ValueError):  # Tune does not take all that is in grids in grids
        assert points == _of_tune(study)


GENERATOR, COUNT = np.random.default_rng(0), itertools.count()


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda c: random.choice([0.2, 0.5]), "draws from a generator that all code shares"),
        (lambda: float(np.random.rand() > 2), "draws from a generator that all code shares"),  # noqa: NPY002
        (lambda c: float(GENERATOR.random()), r"0\.\d+ and then 0\.\d+"),
        (lambda c: next(COUNT), r"\d and then \d"),
        (lambda c: os.urandom(8).hex(), r"'\w{16}' and then '\w{16}'"),
    ],
)
def test_draws_that_cannot_be_repeated_are_refused(function: Any, found: str) -> None:
    space = {"method": "random", "inner": {"keep_fraction": tune.sample_from(function)}}
    with pytest.raises(ConfigError, match=rf"inner\.keep_fraction .*{found}.*; draw with tune"):
        expand(_study(space))


class _Unseeded(Float):
    """A distribution of somebody's own that leaves the seed unread."""

    def sample(self, *arguments: Any, **options: Any) -> float:
        return float(np.random.default_rng().random())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_Unseeded(0, 1), "keep_fraction in param_space to be the same each time"),
        (tune.sample_from(lambda c: c["absent"]), "keep_fraction .*KeyError: 'absent'"),
        (tune.sample_from(lambda c: 1 / 0), "keep_fraction .*ZeroDivisionError"),
        (tune.sample_from(lambda c: c["keep_fraction"]), "keep_fraction waits for keep_fraction"),
        (tune.grid_search([]), "keep_fraction, found one without values"),
        (tune.grid_search("el2n"), "keep_fraction, found 'el2n'"),
        (tune.grid_search([tune.grid_search(7)]), "keep_fraction, found 7"),
        (tune.randint(5, 5), "keep_fraction .*low >= high"),
        (tune.grid_search(range(10**9)), "at most 100,000 points"),
    ],
)
def test_what_cannot_be_resolved_is_refused_by_its_name(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^Expected [^\n]*{message}[^\n]*; [^\n]*\.$"):
        expand(_study({"keep_fraction": value}))


def test_a_circle_of_functions_is_refused() -> None:
    space = {
        "method": tune.sample_from(lambda c: c["quotas"]),
        "quotas": tune.sample_from(lambda c: c["method"]),
    }
    with pytest.raises(ConfigError, match="method waits for quotas"):
        expand(_study(space))


def test_more_samples_than_anybody_runs_are_refused_soon() -> None:
    with pytest.raises(ConfigError, match="at most 100,000 points"):
        expand(_study({"method": "random"}, num_samples=10**9))


@pytest.mark.parametrize(
    "space",
    [
        {"method": {"eval": "CODE"}},
        {"method": tune.grid_search(["el2n", {"eval": "CODE"}])},
        {"method": tune.choice([{"eval": "CODE"}])},
        {"method": tune.sample_from(lambda c: {"eval": "CODE"})},
        {"inner": [{"a": ({"eval": "CODE"},)}]},
        {"inner": {"eval": "CODE", "more": 1}},
    ],
)
def test_no_text_is_evaluated(space: dict[str, Any], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"np.savetxt({str(trace)!r}, [])"

    def planted(value: Any) -> Any:
        if isinstance(value, Domain):
            value = copy.copy(value)
            if isinstance(value, Categorical):
                value.categories = planted(value.categories)
            else:
                value = tune.sample_from(lambda c: {"eval": code})
        if isinstance(value, dict):
            return {key: planted(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(planted, value))
        return code if value == "CODE" else value

    with pytest.raises(ConfigError, match=r"Expected .*\{'eval': …\}.*tune\.sample_from"):
        expand(_study(planted(space)))
    assert not trace.exists()
    list(generate_variants(planted(space)))
    assert trace.exists() or "more" in str(space)  # negative control: Tune runs it


def test_points_have_plain_values_whatever_they_were_written_with() -> None:
    space = {
        "keep_fraction": tune.grid_search(np.array([0.3, 0.5], dtype=np.float32)),
        "loss": tune.choice([np.float32(0.1)]),
        "quotas": tune.sample_from(lambda c: np.float32(c["keep_fraction"])),
        "method": np.str_("random"),
    }
    first, _ = expand(_study(space))
    assert repr(first) == ("{'keep_fraction': 0.3, 'loss': 0.1, 'quotas': 0.3, 'method': 'random'}")
