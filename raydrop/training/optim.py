"""Optimisers, learning-rate schedules and averages of weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import swa_utils

from raydrop.errors import ConfigError, in_one_line
from raydrop.study import Training
from raydrop.study.catalogue import Catalogue, Entry, Thing
from raydrop.study.importing import Call


def _sgd(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
    rate, decay = training.learning_rate, training.weight_decay
    return torch.optim.SGD(
        parameters, rate, training.momentum, 0.0, decay, training.nesterov, fused=True
    )


def _adamw(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
    rate, decay = training.learning_rate, training.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _adopted(thing: Thing) -> Entry[torch.optim.Optimizer]:
    """Return the entry of an optimiser of the user's own, called as torch's are."""

    def build(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
        given = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
        call = thing.call or Call(thing.name)
        try:
            known = inspect.signature(thing.value).parameters.values()
            if not any(each.kind is each.VAR_KEYWORD for each in known):
                given = {each.name: given[each.name] for each in known if each.name in given}
            made = thing.value(parameters, *call.arguments, **given | dict(call.keywords))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"Expected {call.text} to take parameters, then its own arguments, found "
                f"{in_one_line(error)}; correct them."
            ) from error
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigError(
                f"Expected {call.text} to make a torch.optim.Optimizer, found a "
                f"{type(made).__name__}; name the class of one."
            )
        return made

    return Entry(thing.name, build, **thing.facts)


OPTIMIZERS = Catalogue(
    "optimizer",
    (
        Entry("sgd", _sgd, "stochastic gradient descent with momentum"),
        Entry("adamw", _adamw, "Adam with decoupled weight decay (Loshchilov and Hutter 2019)"),
    ),
    adopt=_adopted,
    example="torch.optim:RMSprop(alpha=0.9)",
)
"""Optimisers by name, in their fused forms, one call a step; others come by import path."""


def make_optimizer(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
    """Return the optimiser that a study asks for.

    Raises:
        ConfigError: If an import path leads to nothing that can be called so, or to no optimiser.
    """
    made: torch.optim.Optimizer = OPTIMIZERS.named(training.optimizer).make(parameters, training)
    return made


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the learning rate of one step of a run, numbered from 0.

    With p = step / steps in [0, 1): ``constant`` is lr; ``cosine`` is lr (1 + cos(pi p)) / 2;
    ``step`` is lr times decay for every milestone at or below p. During the warm-up the rate
    rises linearly to what it would otherwise be.
    """
    progress = step / steps
    rate = training.learning_rate
    if training.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * progress)) / 2
    elif training.schedule == "step":
        rate *= training.decay ** sum(progress >= m for m in training.milestones)
    if progress < training.warmup:
        rate *= (step + 1) / (training.warmup * steps + 1)
    return rate


class WeightAverage:
    """Exponential moving average of a model's weights: a_t = d a_(t-1) + (1 - d) w_t, a_1 = w_1.

    Buffers such as BatchNorm's running statistics are averaged like weights (Polyak and Juditsky
    1992; the form is torch's, ``torch.optim.swa_utils``).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        function = swa_utils.get_ema_multi_avg_fn(decay)
        self._model = model
        self._average = swa_utils.AveragedModel(model, multi_avg_fn=function, use_buffers=True)

    def update(self) -> None:
        """Take a step's weights in."""
        self._average.update_parameters(self._model)

    def swap(self) -> None:
        """Exchange the model's weights and their average; a second call puts both back."""
        pairs = zip(self._tensors(self._model), self._tensors(self._average.module), strict=True)
        for ours, theirs in pairs:
            ours.data, theirs.data = theirs.data, ours.data

    @staticmethod
    def _tensors(model: nn.Module) -> Iterator[Tensor]:
        yield from model.parameters()
        yield from model.buffers()
