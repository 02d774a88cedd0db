"""From a Tune search space to the points that it stands for."""

from __future__ import annotations

from typing import Any

from ray.tune.search.variant_generator import generate_variants

from raydrop.errors import ConfigError
from raydrop.study import Study


def expand(study: Study) -> list[dict[str, Any]]:
    """Return the points of a study's search spaces, without seeds.

    Grids are crossed, distributions are drawn ``study.num_samples`` times; the draws are the same
    at every grid point and in every call, so a study means the same trials each time it is run.

    Args:
        study: Gives the search spaces.

    Returns:
        One dict per point; points may repeat.

    Raises:
        ConfigError: If a search space is not one that Tune understands.
    """
    points: list[dict[str, Any]] = []
    for space in study.spaces():
        try:
            for sample in range(study.num_samples):
                variants = generate_variants(
                    dict(space), constant_grid_search=True, random_state=sample
                )
                points.extend(dict(point) for _, point in variants)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"Expected a Tune search space, found {space!r} ({error}); "
                'write for example {"method": tune.grid_search(["random", "el2n"])}.'
            ) from error
    return points
