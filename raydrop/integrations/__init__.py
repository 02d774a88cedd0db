"""Callbacks that record training dynamics in other people's trainers; imported when asked for."""

from importlib import import_module
from typing import Any

_LATER = {"LightningRecorder": "lightning", "TransformersRecorder": "transformers"}
"""Where each callback is; the module has the name of the package that it needs."""

__all__ = ["LightningRecorder", "TransformersRecorder"]


def __getattr__(name: str) -> Any:
    """Import a callback, and the package that it is for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
