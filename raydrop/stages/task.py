"""A training of the user's own: what it is given, and what it has to return.

``fit(task)`` trains as it likes, on ``task.train``, and returns what its network says of validation
and test. Selection, sweep and frontier stay raydrop's; the loop, the optimiser, distribution over
devices and everything else are the user's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydrop.data.batches import Batches, PreparedData, make_batches
from raydrop.data.inputs import each
from raydrop.errors import ConfigError, TrainingError, in_one_line, visible
from raydrop.scores.recorder import Recorder
from raydrop.study import By
from raydrop.training.budget import Length
from raydrop.training.loop import TRAINERS
from raydrop.training.losses import Loss, batch_loss

logger = logging.getLogger("raydrop.stages")


class SplitDataset(torch.utils.data.Dataset[tuple[Any, int]]):
    """Samples of a split in a fixed order, each as (inputs, label); images are normalised floats.

    A ``DataLoader`` gets whole batches at once.
    """

    def __init__(self, batches: Batches, positions: NDArray[np.int64]) -> None:
        self._batches, self._positions = batches, torch.from_numpy(np.array(positions))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # which ends a loop over the data set
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return several samples, as torch's loader asks for them."""
        (batch,) = self._batches((self._positions[torch.as_tensor(indices)],))
        labels = batch.labels.tolist()
        return [(each(itemgetter(row), batch.inputs), label) for row, label in enumerate(labels)]


@dataclass(eq=False)
class Criterion:
    """A study's loss as a criterion: ``loss(logits, labels)`` is the scalar to minimise.

    Where it weighs groups, it needs a third argument: the positions of the batch's samples in
    ``task.train``, (B,), which :func:`raydrop.with_indices` gives.
    """

    loss: Loss
    groups: Tensor | None
    """Group of each sample of ``task.train``, (M,); None where classes are weighed."""

    def __call__(self, logits: Tensor, labels: Tensor, indices: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        units = labels
        if self.groups is not None:
            if indices is None:
                raise ConfigError(
                    "Expected loss(logits, labels, indices) where losses may weigh groups, found "
                    "no indices; wrap task.train by raydrop.with_indices, and hand them on."
                )
            units = self.groups[indices.cpu()].to(labels.device)
        return batch_loss(self.loss, logits, labels, units, None)


@dataclass(eq=False)
class Task:
    """What ``fit(task)`` is given; it returns a dict with ``validation`` and ``test``.

    Each is the logits (n, K) or the predicted classes (n,) of that data set, in its order.

    Example::

        def fit(task):
            model = task.model().to(task.device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            loader = DataLoader(rd.with_indices(task.train), batch_size=64, shuffle=True)
            for epoch in range(task.epochs):
                for indices, inputs, labels in loader:
                    logits = model(inputs)
                    task.recorder.update(indices, logits, labels)
                    optimizer.zero_grad()
                    task.loss(logits, labels, indices).backward()
                    optimizer.step()
                task.recorder.end_epoch()
                task.checkpoint(model, 1e-3)
            return task.predict(model)
    """

    train: SplitDataset
    """What is kept, each sample as (inputs, label)."""
    validation: SplitDataset
    """For every choice: early stopping, learning rates."""
    test: SplitDataset
    """To be predicted once, at the end."""
    loss: Criterion
    """The trial's loss; of query runs cross-entropy."""
    seed: int
    """For whatever is random."""
    device: str
    """``cpu`` or ``cuda``."""
    epochs: int
    """Passes over :attr:`train` that the budget rule allows."""
    steps: int
    """Optimiser steps that it allows, at the study's batch size."""
    config: Mapping[str, Any]
    """The trial's method, quotas, keep_fraction, loss, model and seed, and under ``training`` the
    study's settings of training."""
    recorder: Recorder
    """Of what samples look like while they are trained on; scores that read a query run's trace
    need its :meth:`~raydrop.scores.recorder.Recorder.update`."""
    build: Callable[[], nn.Module] = field(repr=False)
    after_epoch: Callable[[nn.Module, float], None] = field(repr=False)

    def model(self) -> nn.Module:
        """Return the trial's network, freshly initialised with the trial's seed, on the CPU."""
        return self.build()

    def checkpoint(self, model: nn.Module, learning_rate: float) -> None:
        """Say that an epoch is over, after which the network of :meth:`model` is as it is now.

        Scores that look at checkpoints need it once per epoch, with the rate of its last step, as
        do losses that follow validation recalls.
        """
        self.after_epoch(model, learning_rate)

    @torch.no_grad()
    def predict(self, model: nn.Module, batch_size: int = 256) -> dict[str, Tensor]:
        """Return the logits of validation and test by a model of PyTorch, in eval mode."""
        model.eval()
        device = next(model.parameters()).device
        found = dict[str, Tensor]()
        for name in ("validation", "test"):
            loader = torch.utils.data.DataLoader(getattr(self, name), batch_size)
            inputs = (each(lambda part: part.to(device), batch[0]) for batch in loader)
            found[name] = torch.cat([model(some).float().cpu() for some in inputs])
        return found

    def report(self, epoch: int, **metrics: float) -> None:
        """Write numbers of an epoch, from 1, into the run's log."""
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logger.info("epoch %d/%d: %s", epoch, self.epochs, told)


def make_task(
    data: PreparedData,
    kept: NDArray[np.int64],
    loss: Loss,
    by: By,
    length: Length,
    device: str,
    **fields: Any,
) -> Task:
    """Return the task of training on what is kept, (M,); the fields are the others of it."""
    splits, groups = data.dataset.splits(), None
    if by == "group":
        groups = torch.from_numpy(data.dataset.members("group")[kept])
    places = {"train": kept} | {
        name: np.arange(len(splits[name])) for name in ("validation", "test")
    }
    parts: dict[str, Any] = {
        name: SplitDataset(make_batches(data, splits[name], torch.device("cpu"), 0), positions)
        for name, positions in places.items()
    }
    recorder = Recorder(len(kept), data.dataset.num_classes)
    criterion, (epochs, steps) = Criterion(loss, groups), length
    parts |= {"loss": criterion, "recorder": recorder, "epochs": epochs, "steps": steps}
    return Task(**parts, device=device, **fields)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a network says of a split."""

    predictions: NDArray[np.int32]
    """Classes, (n,)."""
    probabilities: NDArray[np.float32] | None
    """Softmax of the logits, (n, K); None where classes alone were returned."""


def fitted(name: str, task: Task, num_classes: int) -> dict[str, Outcome]:
    """Train by the training function of that name; return what it says of validation and test.

    Raises:
        TrainingError: If it raises, or returns something else than it should.
    """
    try:
        with torch.random.fork_rng():
            torch.manual_seed(task.seed)
            found = TRAINERS.named(name).make(task)
    except Exception as error:
        if isinstance(error, ConfigError | TrainingError | EnoughEpochs):
            raise
        raise TrainingError(
            f"Expected {name} to train, found {in_one_line(error)}; its log has the traceback."
        ) from error
    if not isinstance(found, Mapping) or not {"validation", "test"} <= found.keys():
        what = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise TrainingError(
            f"Expected {name} to return a dict with validation and test, found "
            f"{visible(str(what))}; return logits or predicted classes under both."
        )
    sizes = {"validation": len(task.validation), "test": len(task.test)}
    return {
        split: _outcome(name, split, found[split], n, num_classes) for split, n in sizes.items()
    }


def _outcome(name: str, split: str, value: Any, n: int, num_classes: int) -> Outcome:
    """Check logits or predicted classes of a split."""
    array = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    expected = f"logits ({n}, {num_classes}) or classes ({n},) for {split}"
    if array.dtype.kind not in "iufb" or array.shape not in ((n,), (n, num_classes)):
        raise TrainingError(
            f"Expected {name} to return {expected}, found {array.dtype} {array.shape}; "
            "predict the whole data set, in its order."
        )
    if not np.isfinite(array).all():
        raise TrainingError(
            f"Expected {name} to return finite {expected}, found NaN or infinity; the training "
            "probably diverged, so lower its learning rate."
        )
    if array.ndim == 2:
        logits = torch.from_numpy(np.ascontiguousarray(array, np.float32))
        return Outcome(array.argmax(1).astype(np.int32), logits.softmax(1).numpy())
    classes = array.astype(np.int32)
    if (classes != array).any() or ((classes < 0) | (classes >= num_classes)).any():
        raise TrainingError(
            f"Expected {name} to return classes from 0 to {num_classes - 1} for {split}, found "
            f"{array.min():g} to {array.max():g}; return whole numbers of the data's labels."
        )
    return Outcome(classes, None)


class EnoughEpochs(Exception):  # noqa: N818 - no error: it ends a training before its schedule
    """Everything that a query run is for has been recorded."""
