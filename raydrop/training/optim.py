"""Optimisers and learning-rate schedules, as functions of the study's training settings."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter

from raydrop.study import Training


def make_optimizer(parameters: Iterable[Parameter], training: Training) -> torch.optim.Optimizer:
    """Return the optimiser that a study asks for; the fused form, which is one call per step."""
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        parameters,
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        nesterov=training.nesterov,
        fused=True,
    )


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the learning rate of one step.

    With p = step / steps in [0, 1): ``constant`` is lr; ``cosine`` is lr (1 + cos(pi p)) / 2;
    ``step`` is lr times decay for every milestone at or below p. During the warm-up the rate
    rises linearly to what it would otherwise be.

    Args:
        training: Settings.
        step: Number of the step, from 0.
        steps: Steps of the whole run.

    Returns:
        The rate.
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
