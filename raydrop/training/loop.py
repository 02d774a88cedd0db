"""The training loop: the one that query runs and trials share."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydrop.data.batches import Batches, even_groups
from raydrop.errors import TrainingDivergedError
from raydrop.study import Precision, Training, derive_seed
from raydrop.training.budget import Length
from raydrop.training.losses import Loss
from raydrop.training.optim import learning_rate, make_optimizer


@dataclass(frozen=True)
class EpochEnd:
    """What is known after an epoch."""

    epoch: int
    """Epochs done, from 1."""
    step: int
    """Steps done."""
    learning_rate: float
    """Rate of the last step."""
    loss: float
    """Mean training loss of the epoch's steps."""


def train(
    model: nn.Module,
    batches: Batches,
    positions: Tensor,
    loss: Loss,
    training: Training,
    length: Length,
    seed: int,
    *,
    augment: bool,
    on_epoch_end: Callable[[EpochEnd], None] | None = None,
    units: Tensor | None = None,
) -> float:
    """Train a model in place.

    Args:
        model: On its device; it is left in train mode.
        batches: Gives the training images.
        positions: Positions of the samples to train on, (M,) int64.
        loss: What is minimised.
        training: Optimiser, schedule, batch size, precision.
        length: Epochs and steps.
        seed: Seed of the order and the augmentation, independent of the initial weights.
        augment: Whether images are augmented.
        on_epoch_end: Called after each epoch, its time counted in.
        units: Class or group of every sample of the split, by its position, (N,) int64, which a
            loss may weigh samples by; None is their classes.

    Returns:
        Seconds that it took.

    Raises:
        TrainingDivergedError: If the loss of an epoch is NaN or infinite.
    """
    start = time.perf_counter()
    optimizer = make_optimizer(model.parameters(), training)
    context = precision_context(training.precision, next(model.parameters()).device.type)
    step = 0
    for epoch in range(length.epochs):
        model.train()
        generator = torch.Generator().manual_seed(derive_seed(seed, f"order/{epoch}"))
        order = positions[torch.randperm(len(positions), generator=generator)]
        augment_seed = derive_seed(seed, f"augment/{epoch}") if augment else None
        total: Tensor | None = None
        first = step
        groups = even_groups(order, training.batch_size)[: length.steps - step]
        for group, (images, labels) in zip(groups, batches(groups, augment_seed), strict=True):
            rate = learning_rate(training, step, length.steps)
            for settings in optimizer.param_groups:
                settings["lr"] = rate
            optimizer.zero_grad()
            with context():
                value = loss(model(images), labels, _units_of(group, units, labels))
            value.backward()
            if training.gradient_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            optimizer.step()
            # Summed on the device and read once per epoch: reading a loss waits for the GPU.
            total = value.detach() if total is None else total + value.detach()
            step += 1
        assert total is not None
        mean = total.item() / (step - first)
        _check_finite(mean, epoch + 1, rate)
        if on_epoch_end is not None:
            on_epoch_end(EpochEnd(epoch + 1, step, rate, mean))
    return time.perf_counter() - start


def _units_of(positions: Tensor, units: Tensor | None, labels: Tensor) -> Tensor:
    """Return the classes or groups of a batch, (B,), on the labels' device."""
    if units is None:
        return labels
    return units[positions].to(labels.device, non_blocking=True)


def resolved_precision(precision: Precision, device: str) -> Precision:
    """Return what ``auto`` means on a kind of device: bf16 on a GPU and fp32 elsewhere."""
    if precision == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return precision


def precision_context(
    precision: Precision, device: str
) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Return what makes the context of a forward pass: bf16 autocast, or nothing."""
    if resolved_precision(precision, device) == "bf16":
        return lambda: torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext


def _check_finite(loss: float, epoch: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"Expected a finite training loss, found {loss} in epoch {epoch} at learning rate "
            f"{rate:g}; lower learning_rate or set gradient_clip."
        )
