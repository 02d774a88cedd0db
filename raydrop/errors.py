"""What a caller may want to catch.

Every error that a user can mend derives from :class:`RaydropError` and carries one sentence:
what was expected, what was found, what to do. All of them survive pickling, because they travel
from Ray workers to the driver.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any


class RaydropError(Exception):
    """Base of every error that the user can mend; the command line shows its sentence alone."""


class ConfigError(RaydropError, ValueError):
    """A study, a trial or a command names something that does not exist or does not fit."""


class DataError(RaydropError, ValueError):
    """A data set is absent, unreadable or inconsistent."""


class StoreError(RaydropError, OSError):
    """The output folder cannot be read or written."""


class StudyMismatchError(RaydropError):
    """The output folder belongs to a different study."""


class TrainingDivergedError(RaydropError):
    """A training loss became NaN or infinite."""


class TrainingError(RaydropError):
    """A training function of the user's own raised, or returned something else than it should."""


class ScoringError(RaydropError):
    """A score could not be computed; what was scored before is kept."""


class NoMemoryError(RaydropError, MemoryError):
    """Memory, of a machine or of a GPU, ran out, with one sample at a time too."""


class NetworkError(RaydropError, ValueError):
    """A network cannot be traced, pruned, saved, or built again from what was saved."""


class IncompleteStudyError(RaydropError):
    """A study ended with trials that failed; everything else is finished and reported."""


_MANY = 40
"""Names that are all said where none is near; of more of them, half as many."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not among the known ones, with the nearest of them."""
    names = sorted(known)
    bare = str(name).partition("(")[0].lower()  # arguments liken one name to none
    close = difflib.get_close_matches(bare, names, n=3, cutoff=0.5)
    # Nobody reads the thousand models of a library.
    said = names if len(names) <= _MANY else [*names[: _MANY // 2], f"{len(names)} in all"]
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(said)}."
    return ConfigError(f"Unknown {kind} {name!r}: {hint}")


def in_one_line(error: BaseException) -> str:
    """Return an error's type and first line, to be quoted within a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def visible(text: object) -> str:
    r"""Return a text in which every character that would steer a terminal or a page is shown.

    Control characters, those that reorder what stands beside them, line and paragraph separators,
    and bytes that are no text become escapes as in a Python literal; all else stays as it is. Names
    of files, classes and data sets come from others, so whatever is shown of them passes here.

    Example:
        >>> visible("a\x1b[2Jb\nc é")
        'a\\x1b[2Jb\\nc é'
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_within(value: Any, depth: int = 99) -> Any:
    """Return a JSON value in which every text is :func:`visible`, names of members too.

    Raises:
        ValueError: If it is nested more than ``depth`` deep.
    """
    if isinstance(value, str):
        return visible(value)
    if not isinstance(value, dict | list):
        return value
    if not depth:
        raise ValueError("values within values, without an end")
    if isinstance(value, list):
        return [visible_within(each, depth - 1) for each in value]
    return {visible(name): visible_within(each, depth - 1) for name, each in value.items()}


def _shown(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")
