"""What the command line changes of a study: ``--seeds``, ``--epochs`` and ``--set KEY=VALUE``."""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from raydrop.errors import ConfigError, unknown_name, visible
from raydrop.study import NetworkPruning, Study, Training

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOT_SET = {
    "param_space": "change the search space in the script",
    "dataset": "use --data",
    "model": "use --model",
}


def changed(study: Study, seeds: int | None, epochs: int | None, settings: Iterable[str]) -> Study:
    """Return the study with so many seeds and epochs, where given, and with other settings."""
    study = study if seeds is None else with_seeds(study, seeds)
    of_epochs = [] if epochs is None else [f"training.epochs={epochs}"]
    return with_settings(study, [*of_epochs, *settings])


def with_seeds(study: Study, count: int) -> Study:
    """Return the study with so many seeds: the first of its own, then the next whole numbers."""
    others = (seed for seed in itertools.count() if seed not in study.seeds)
    more = itertools.islice(others, max(0, count - len(study.seeds)))
    return dataclasses.replace(study, seeds=(*study.seeds[:count], *more))


def with_settings(study: Study, settings: Iterable[str]) -> Study:
    """Return the study with fields of its, or of its ``training`` and the like, as texts say.

    Raises:
        ConfigError: If a text is not KEY=VALUE, there is no such field, or it cannot be that.

    Example:
        >>> study = Study("t", "digits", "small_cnn", {})
        >>> with_settings(study, ["training.learning_rate=0.05"]).training.learning_rate
        0.05
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(
                f"Expected --set KEY=VALUE, found {visible(setting)!r}; write for example "
                "--set training.learning_rate=0.05."
            )
        study = _with(study, study, key.strip().split("."), text.strip(), "")
    return study


def _with(study: Study, owner: Any, keys: list[str], text: str, above: str) -> Any:
    """Return a specification with one field of it, or of what a field holds, as a text says."""
    key, name = keys[0], f"{above}{keys[0]}"
    hints = get_type_hints(type(owner))
    fields = [each.name for each in dataclasses.fields(owner)]
    if key not in fields:
        inner_ones = (
            [] if above else [f"training.{each.name}" for each in dataclasses.fields(Training)]
        )
        kind = f"field of {above.rstrip('.') or 'a study'}"
        raise unknown_name(kind, key, [*fields, *inner_ones])
    if owner is study and key in _NOT_SET:
        raise ConfigError(
            f"Expected a setting of the study for --set, found {key}; {_NOT_SET[key]}."
        )
    inner = next(filter(dataclasses.is_dataclass, _choices(hints[key])), None)
    if inner is None and keys[1:]:
        raise ConfigError(
            f"Expected --set {name}=VALUE, as {name} has no fields, found {'.'.join(keys[1:])} of "
            "it; leave out what follows."
        )
    if inner is not None and not keys[1:]:
        example = dataclasses.fields(inner)[0].name
        raise ConfigError(
            f"Expected a field of {name} for --set, found {name} itself; write for example "
            f"--set {name}.{example}=VALUE."
        )
    if inner is None:
        value = _value(name, hints[key], text)
    else:
        value = _with(study, _held(study, owner, key), keys[1:], text, f"{name}.")
    return dataclasses.replace(owner, **{key: value})


def _held(study: Study, owner: Any, key: str) -> Training | NetworkPruning:
    """Return what a field holds, or what it stands for where it holds nothing."""
    absent = {
        "query_training": study.training_of_queries,
        "network": NetworkPruning,
        "retraining": lambda: study.pruning_of_networks().retraining,
    }
    found = getattr(owner, key)
    return absent[key]() if found is None else found  # type: ignore[no-any-return, operator]


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the types that a field may have."""
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _value(name: str, hint: Any, text: str) -> Any:
    """Return the value that a text writes for a field, or raise a ConfigError."""
    choices = _choices(hint)
    if types.NoneType in choices and text.lower() in ("none", ""):
        return None
    for choice in choices:
        if get_origin(choice) is Literal or choice is str:
            continue
        try:
            return _read(choice, text)
        except (ValueError, KeyError):
            pass
    texts = [choice for choice in choices if choice is str or get_origin(choice) is Literal]
    if texts:
        return text  # which the study checks
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    wanted = [kinds.get(each, "numbers with commas between") for each in choices]
    if types.NoneType in choices:
        wanted = [*(k for each, k in zip(choices, wanted, strict=True) if each in kinds), "none"]
    raise ConfigError(
        f"Expected {' or '.join(wanted)} for --set {name}, found {visible(text)!r}; correct it."
    )


def _read(choice: Any, text: str) -> Any:
    if get_origin(choice) is tuple:
        kind = get_args(choice)[0]
        return tuple(kind(part) for part in text.strip("()[]").split(",") if part.strip())
    if choice is bool:
        return _WORDS[text.lower()]
    if choice is types.NoneType:
        raise ValueError(text)
    return choice(text)
