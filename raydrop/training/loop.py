"""The training loop: the one that query runs and trials share."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydrop.data.batches import Batches, even_groups
from raydrop.data.inputs import Inputs
from raydrop.errors import ConfigError, NoMemoryError, TrainingDivergedError
from raydrop.study import Precision, Training, derive_seed
from raydrop.study.catalogue import Catalogue, Entry, Thing
from raydrop.study.importing import Call
from raydrop.training.budget import Length
from raydrop.training.halving import Full, does_not_fit, part_of, unless_full
from raydrop.training.losses import Loss, batch_loss
from raydrop.training.losses.base import full_precision
from raydrop.training.optim import WeightAverage, learning_rate, make_optimizer
from raydrop.training.reference import Reference

logger = logging.getLogger(__name__)


def _trainer(thing: Thing) -> Entry[Any]:
    """Return what calls a training function with a task, then its own arguments."""
    call = thing.call or Call(thing.name)

    def build(task: Any) -> Any:
        return thing.value(task, *call.arguments, **call.keywords)

    return Entry(thing.name, build, **thing.facts)


TRAINERS = Catalogue("training function", (), adopt=_trainer, example="mypkg.train:fit")
"""What trains instead of this loop: users bring theirs, raydrop has no other by a name."""


class EpochEnd(NamedTuple):
    """What is known after an epoch."""

    epoch: int
    """Epochs done, from 1."""
    step: int
    """Steps done."""
    learning_rate: float
    """Rate of the last step."""
    loss: float
    """Mean training loss of the epoch's steps."""
    parts: int = 1
    """Parts that each batch is cut into because memory ran out; 1 where it never did."""


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
    reference: Reference | None = None,
    after_step: Callable[[], None] | None = None,
) -> float:
    """Train a model in place, leave it in train mode, and return the seconds that it took.

    Where memory runs out, batches are cut into halves, quarters and so on, whose gradients are
    summed: the step stays that of the whole batch, but for BatchNorm, whose statistics are then
    those of the parts, and for losses that divide by the sum of a batch's weights.

    Positions are those of the samples to train on, (M,) int64; ``units`` has the class or group of
    every sample of the split, (N,) int64, which a loss may weigh samples by, None standing for
    classes. The seed is of the order and the augmentation, independent of the initial weights.
    ``after_step`` may, for example, put back the zeros of masked weights. The time counts in what
    ``on_epoch_end`` takes.

    Raises:
        ConfigError: If the loss reads a reference and there is none.
        NoMemoryError: If a single sample does not fit into memory.
        TrainingDivergedError: If the loss of an epoch is NaN or infinite.
    """
    start = time.perf_counter()
    optimizer = make_optimizer(model.parameters(), training)
    average = None if training.ema is None else WeightAverage(model, training.ema)
    gradients = _Gradients(model, loss, training, units, reference)
    step = 0
    for epoch in range(length.epochs):
        model.train()
        generator = torch.Generator().manual_seed(derive_seed(seed, f"order/{epoch}"))
        order = positions[torch.randperm(len(positions), generator=generator)]
        augment_seed = derive_seed(seed, f"augment/{epoch}") if augment else None
        total: Tensor | None = None
        first = step
        groups = even_groups(order, training.batch_size)[: length.steps - step]
        for group, (inputs, labels) in zip(groups, batches(groups, augment_seed), strict=True):
            rate = learning_rate(training, step, length.steps)
            for settings in optimizer.param_groups:
                settings["lr"] = rate
            optimizer.zero_grad()
            value = gradients.of_batch(inputs, labels, group)
            if training.gradient_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            optimizer.step()
            if after_step is not None:
                after_step()
            if average is not None:
                average.update()
            # Summed on the device and read once per epoch: reading a loss waits for the GPU.
            total = value if total is None else total + value
            step += 1
        assert total is not None
        mean = total.item() / (step - first)
        if not math.isfinite(mean):
            raise TrainingDivergedError(
                f"Expected a finite training loss, found {mean} in epoch {epoch + 1} at learning "
                f"rate {rate:g}; lower learning_rate or set gradient_clip."
            )
        if average is not None:
            average.swap()
        if on_epoch_end is not None:
            on_epoch_end(EpochEnd(epoch + 1, step, rate, mean, gradients.parts))
        if average is not None and epoch + 1 < length.epochs:
            average.swap()
    return time.perf_counter() - start


class _Gradients:
    """Gradients of batches, in as few parts as memory allows."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        training: Training,
        units: Tensor | None,
        reference: Reference | None,
    ) -> None:
        if loss.needs_reference and reference is None:
            raise ConfigError(
                f"Expected a reference for {type(loss).__name__}, found none; give the dense "
                "network's logits (raydrop.training.reference), or choose a loss that reads none."
            )
        self.parts = 1
        self._loss, self._units, self._smoothing = loss, units, training.label_smoothing
        self._model: Callable[..., Tensor] = torch.compile(model) if training.compile else model
        self._reference = reference if loss.needs_reference else None
        self._zero_grad = model.zero_grad
        device = next(model.parameters()).device.type
        self._context: Callable[[], contextlib.AbstractContextManager[object]] = (
            partial(torch.autocast, device, torch.bfloat16)
            if resolved_precision(training.precision, device) == "bf16"
            else contextlib.nullcontext
        )

    def of_batch(self, inputs: Inputs, labels: Tensor, positions: Tensor) -> Tensor:
        """Add a batch's gradient to that of the parameters, and return its loss, a scalar."""
        while True:
            value = unless_full(partial(self._summed, inputs, labels, positions))
            if not isinstance(value, Full):
                return value
            self._zero_grad()
            if self.parts >= len(labels):
                raise NoMemoryError(does_not_fit(inputs, value.reason))
            self.parts *= 2
            logger.info("Memory ran out; batches are cut into %d parts from now on.", self.parts)

    def _summed(self, inputs: Inputs, labels: Tensor, positions: Tensor) -> Tensor:
        if self.parts == 1:
            value = self._loss_of(inputs, labels, positions)
            value.backward()
            return value.detach()
        total = torch.zeros((), device=labels.device)
        for rows in torch.arange(len(labels)).tensor_split(min(self.parts, len(labels))):
            inside = slice(int(rows[0]), int(rows[-1]) + 1)
            part = self._loss_of(part_of(inputs, inside), labels[inside], positions[inside])
            part = part * (len(rows) / len(labels))
            part.backward()
            total = total + part.detach()
        return total

    def _loss_of(self, inputs: Inputs, labels: Tensor, positions: Tensor) -> Tensor:
        dense = None if self._reference is None else self._reference(inputs, positions)
        units = labels
        if self._units is not None:
            units = self._units[positions].to(labels.device, non_blocking=True)
        with self._context():
            logits = self._model(inputs)
            value = batch_loss(self._loss, logits, labels, units, dense)
            return smoothed(value, logits, self._smoothing) if self._smoothing else value


def smoothed(value: Tensor, logits: Tensor, share: float) -> Tensor:
    """Return (1 - s) L + s U of a batch's loss L, with U = -mean_ik log p_ik over logits (B, K).

    Of cross-entropy that is label smoothing (Szegedy et al. 2016, arXiv 1512.00567); other losses
    are drawn towards the uniform distribution in the same way.
    """
    uniform = -F.log_softmax(full_precision(logits), dim=1).mean()
    return (1 - share) * value + share * uniform


def resolved_precision(precision: Precision, device: str) -> Precision:
    """Return what ``auto`` means on a kind of device: bf16 on a GPU and fp32 elsewhere."""
    if precision == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return precision
