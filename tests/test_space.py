"""Search spaces mean to a study what they mean to Tune, and always the same points."""

from __future__ import annotations

import os
import sys

import pytest
from ray import tune

from raydrop.cluster.resources import Layout, make_layout
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


@pytest.mark.parametrize(
    ("resources", "in_memory", "share", "expected"),
    [
        ({"CPU": 2.0}, True, None, Layout(2, 1, 0.0)),
        ({"CPU": 16.0, "GPU": 1.0}, True, None, Layout(4, 4, 0.25)),
        ({"CPU": 16.0, "GPU": 4.0}, False, None, Layout(4, 4, 1.0)),
        ({"CPU": 3.0, "GPU": 1.0}, True, None, Layout(3, 1, 0.25)),
        ({"CPU": 16.0, "GPU": 2.0}, True, 0.5, Layout(4, 4, 0.5)),
        ({"CPU": 4.0, "GPU": 1.0}, True, 0.0, Layout(4, 1, 0.0)),
    ],
)
def test_layout(
    resources: dict[str, float], in_memory: bool, share: float | None, expected: Layout
) -> None:
    assert make_layout([resources], in_memory=in_memory, gpus_per_worker=share) == expected


def test_layout_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one CPU"):
        make_layout([{"GPU": 1.0}], in_memory=True)
    with pytest.raises(ConfigError, match=r"node with 2 GPUs, .*found nodes with 1 at most; lower"):
        make_layout([{"CPU": 4.0, "GPU": 1.0}], in_memory=True, gpus_per_worker=2)
