"""Optimisers and learning-rate schedules, as functions of the study's settings."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter

from raydrop.study import Training


def make_optimizer(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
    """Return the optimiser that a study asks for; the fused form, which is one call per step."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        parameters, rate, training.momentum, 0.0, decay, training.nesterov, fused=True
    )


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
