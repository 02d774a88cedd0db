"""From a search space to the points that it stands for: as Tune resolves it, but repeatably.

Tune's own generator evaluates texts, and shows functions values that are not resolved yet. So the
few steps that it takes are taken here, with Tune's own distributions.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ray.tune.search.sample import Domain, Function, Sampler

from raydrop.errors import ConfigError, RaydropError, in_one_line
from raydrop.study import Study, plain

MOST_POINTS = 100_000
"""More points than this are a mistake, or malice."""

_LOOKS = 8
"""Calls of a function, which must all give the same; a fair coin does so once in 128 times."""

_Path = tuple[Any, ...]


def expand(study: Study) -> list[dict[str, Any]]:
    """Return the points of a study's search spaces, without seeds.

    They are those of Tune's ``generate_variants(space, random_state=sample)`` for each of
    ``study.num_samples`` samples, in its order: grids are crossed, distributions are drawn, and
    functions of ``sample_from`` are called with what is resolved, as often as something is left to
    resolve, within dicts, lists, grids, and what functions return. Draws depend on the distribution
    and the number of the sample alone: they are the same at every grid point and in every call, so
    a study means the same trials each time it is run, and distributions of one sample are drawn
    from the same random number.

    A function waits until what it reads is resolved, wherever that stands. Each point is a dict of
    plain values; points may repeat.

    Raises:
        ConfigError: If a search space is not one that Tune understands, holds a text to be
            evaluated, cannot be resolved, has draws that are not the same each time, or more than
            :data:`MOST_POINTS` points.
    """
    points: list[dict[str, Any]] = []
    for space in study.spaces():
        for sample in range(study.num_samples):
            try:
                for point in _resolved(dict(space), sample):
                    if len(points) == MOST_POINTS:
                        raise _too_many()
                    points.append(point)
            except (TypeError, RecursionError) as error:  # keys without an order, and no end
                raise ConfigError(
                    f"Expected a Tune search space, found: {in_one_line(error)}; "
                    'write for example {"method": tune.grid_search(["random", "el2n"])}.'
                ) from error
    return points


def _resolved(point: dict[str, Any], sample: int) -> Iterator[dict[str, Any]]:
    """Cross the grids of a point, draw what can be drawn, and go on with what that leaves."""
    left = list(_unresolved(point, ()))
    if not left:
        yield point
        return
    grids = sorted(((path, v) for path, v in left if isinstance(v, list)), key=lambda each: each[0])
    grids.reverse()  # Tune's first varies fastest
    for values in itertools.product(*(values for _, values in grids)):
        chosen = point
        for (path, _), value in zip(grids, values, strict=True):
            chosen = _replaced(chosen, path, value)
        waiting: dict[str, str] = {}
        drawn = [each for each in left if not isinstance(each[1], list)]
        for path, domain in drawn:
            try:
                chosen = _replaced(chosen, path, _drawn(domain, chosen, sample, path))
            except _NotYetError as error:
                waiting[_name(path)] = str(error)
        if not grids and len(waiting) == len(drawn):
            circle = ", ".join(f"{name} waits for {other}" for name, other in waiting.items())
            raise ConfigError(
                f"Expected functions in param_space that end, found that {circle}; "
                "let one of them read nothing that is computed from it."
            )
        yield from _resolved(chosen, sample)


def _unresolved(value: Any, path: _Path) -> Iterator[tuple[_Path, Domain | list[Any]]]:
    """Find the distributions, and the values of the grids, within a point."""
    if isinstance(value, Domain):
        yield path, _values(value.categories, path) if value.is_grid() else value
    elif isinstance(value, dict):
        if "eval" in value:
            raise ConfigError(
                f"Expected values in param_space, found {{'eval': …}} for {_name(path)}, a text to "
                "be evaluated; write tune.sample_from(lambda config: ...) in a script."
            )
        if path and list(value) == ["grid_search"]:
            yield path, _values(value["grid_search"], path)
            return
        for key, each in value.items():
            yield from _unresolved(each, (*path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _unresolved(each, (*path, index))


def _values(values: Any, path: _Path) -> list[Any]:
    """Return the values of a grid."""
    try:
        found = [] if isinstance(values, str) else list(itertools.islice(values, MOST_POINTS + 1))
    except TypeError:
        found = []
    if len(found) > MOST_POINTS:
        raise _too_many()
    if not found:
        what = "one without values" if isinstance(values, list | tuple) else repr(values)
        raise ConfigError(
            f"Expected a Tune search space with a list for the grid of {_name(path)}, found "
            f'{what}; write for example {{"method": tune.grid_search(["random", "el2n"])}}.'
        )
    return plain(found)  # type: ignore[no-any-return]


def _drawn(domain: Domain, point: dict[str, Any], sample: int, path: _Path) -> Any:
    """Draw a value, and again, to see whether it would be the same in another call."""
    call: Callable[[], Any]
    if isinstance(domain, Function):
        seen = _Seen(point, path)
        call = (lambda: domain.func(seen)) if domain.pass_config else domain.func
    else:
        call = lambda: domain.sample(point, random_state=sample)  # noqa: E731
    before = _shared_generators()
    try:
        values = [plain(call()) for _ in range(_LOOKS if isinstance(domain, Function) else 2)]
    except (_NotYetError, RaydropError):
        raise
    except Exception as error:
        raise ConfigError(
            f"Expected a value for {_name(path)} in param_space, found {in_one_line(error)}; "
            "mend its function or distribution."
        ) from error
    texts = list(map(_text, values))
    found = next((f"{texts[0]} and then {text}" for text in texts if text != texts[0]), "")
    if _shared_generators() != before:
        found = "that it draws from a generator that all code shares"
    if found:
        raise ConfigError(
            f"Expected {_name(path)} in param_space to be the same each time, found {found}; draw "
            "with tune.choice, tune.uniform and the like, or seed a generator in the function."
        )
    return values[0]


def _text(value: Any) -> str:
    """Return a value's text, with that of distributions in it, and no addresses in memory."""
    if isinstance(value, dict):
        return str({key: _text(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return str(list(map(_text, value)))
    if isinstance(value, Domain | Sampler):
        return type(value).__name__ + _text(vars(value))
    return value.__qualname__ if inspect.isfunction(value) else repr(value)


def _shared_generators() -> tuple[Any, ...]:
    shared = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return random.getstate(), shared["key"].tobytes(), shared["pos"]


class _NotYetError(Exception):
    """A function reads what is not resolved yet."""


class _Seen(Mapping[str, Any]):
    """What a function of ``sample_from`` sees of a point: what is resolved, also as attributes.

    It does not see itself. Its ``config`` is the point, for functions of a whole specification.
    """

    def __init__(self, point: dict[str, Any], own: _Path) -> None:
        self._point, self._own = point, own

    def __getitem__(self, key: str) -> Any:
        if key == "config" and key not in self._point:
            return self
        value = self._point[key]
        if isinstance(value, dict) and list(value) != ["grid_search"]:
            return _Seen(value, self._own[1:] if self._own[:1] == (key,) else ())
        if next(_unresolved(value, (key,)), None) is not None:
            raise _NotYetError(key)
        return value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __contains__(self, key: object) -> bool:
        return key in self._point

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._point if self._own != (key,))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _replaced(value: Any, path: _Path, new: Any) -> Any:
    """Return a copy of nested dicts and lists in which one value is another."""
    if not path:
        return new
    key, changed = path[0], _replaced(value[path[0]], path[1:], new)
    if isinstance(value, dict):
        return {**value, key: changed}
    found = [*value[:key], changed, *value[key + 1 :]]
    return tuple(found) if isinstance(value, tuple) else found


def _name(path: _Path) -> str:
    return ".".join(map(str, path))


def _too_many() -> ConfigError:
    return ConfigError(
        f"Expected at most {MOST_POINTS:,} points in a param_space, found more; lower num_samples, "
        "or give grids fewer values."
    )
