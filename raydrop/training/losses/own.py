"""Losses of the user's own: of torch, or functions of logits and labels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from raydrop.study.catalogue import Entry, Thing
from raydrop.training.losses.base import Loss, LossContext, full_precision


class OwnLoss(Loss):
    """The mean of what a function, or a loss of torch, says of logits and labels.

    It gets logits (B, K) in at least float32 and labels (B,), and units (B,) where it takes three
    arguments; what it returns for each sample, (B,), is averaged.
    """

    def __init__(self, call: Callable[..., Any], thing: Thing) -> None:
        self._call, self._thing = call, thing
        self._with_units = _required(call) > 2

    def __call__(self, logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
        if isinstance(self._call, nn.Module):  # which may hold weights of classes
            self._call.to(logits.device)
        found = self._call(full_precision(logits), labels, *([units] if self._with_units else []))
        if not isinstance(found, Tensor) or found.shape not in ((), labels.shape):
            shape = f"{tuple(found.shape)}" if isinstance(found, Tensor) else "none"
            remedy = f"return one number, or one for each sample, not of shape {shape}"
            raise self._thing.unfit("a loss", found, remedy)
        return found.mean()


def own(thing: Thing) -> Entry[Loss]:
    """Return the entry of a loss of the user's own.

    A class or function whose first parameter is called ``context`` is given the
    :class:`LossContext` and makes a :class:`Loss`. Any other function of two or three arguments is
    the loss itself, and any other class, such as ``torch.nn.CrossEntropyLoss``, makes one.
    """
    value = thing.value
    with_context = thing.is_made and _parameters(value)[:1] == ["context"]
    itself = inspect.isroutine(value) and not with_context and _required(value) > 1

    def build(context: LossContext) -> Loss:
        if itself:
            keywords = thing.call.keywords if thing.call else {}
            loss: Any = functools.partial(value, **keywords)
        else:
            loss = thing.make(context) if with_context else thing.make()
        if hasattr(loss, "end_epoch") and hasattr(loss, "needs_reference"):
            return loss  # type: ignore[no-any-return]
        if not callable(loss):
            remedy = "return a function of logits and labels, or derive it from Loss"
            raise thing.unfit("a loss", loss, remedy)
        return OwnLoss(loss, thing)

    build.needs_reference = getattr(value, "needs_reference", False)  # type: ignore[attr-defined]
    return Entry(thing.name, build, **thing.facts)


def _parameters(call: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # of C, or what cannot be called
        return []


def _required(call: Callable[..., Any]) -> int:
    """Return how many arguments have to be given by their places; 2 where that is not known."""
    if isinstance(call, nn.Module):
        call = call.forward
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return 2
    return sum(
        each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.default is each.empty
        for each in parameters
    )
