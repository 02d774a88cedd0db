"""Smaller batches where memory runs out.

A batch that does not fit is computed in parts of half the size, then of half of that, down to
single samples. In eval mode and without gradient a sample's result depends on that sample alone, so
it is the same in any part but for rounding: for other sizes of a batch, libraries may choose
kernels that add in another order. Batches that do fit are computed whole, to the same bits as ever.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydrop.data.inputs import Inputs, each, leaves
from raydrop.errors import NoMemoryError, RaydropError, in_one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

_OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
"""How plain RuntimeErrors of torch say that an allocation failed."""


@dataclass(frozen=True)
class Full:
    """That memory ran out, and the first line of what was said about it."""

    reason: str


def unless_full(work: Callable[[], T]) -> T | Full:
    """Return what some work returns, or that memory ran out, of which nothing is left then."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        full = Full(str(error).strip().split("\n")[0] or type(error).__name__)
    # Only here, where the error is gone, is nothing left of what its traceback refers to.
    free()
    return full


@dataclass
class Halving:
    """Computes batches in one part each, and in smaller ones from when memory ran out."""

    most: int | None = None
    """Most samples of a part; the first batch's own number where nothing is known."""
    error: type[RaydropError] = NoMemoryError
    """What is raised where a single sample does not fit."""

    def __call__(
        self, compute: Callable[[Any, Tensor], T], inputs: Inputs, labels: Tensor
    ) -> list[T]:
        """Return what is computed of each part of a batch, in the order of the samples.

        After a failure the batch goes on in parts of half the size, from the first sample that has
        no result yet; no part is larger afterwards, and none is computed twice. Labels may be
        whatever goes with the inputs, (B, ...).

        Raises:
            NoMemoryError: Or :attr:`error`, if a single sample does not fit. Other errors of
                ``compute`` pass through.
        """
        results: list[T] = []
        start = 0
        while start < len(labels):
            part = slice(start, min(start + (self.most or len(labels)), len(labels)))
            result = unless_full(partial(compute, part_of(inputs, part), labels[part]))
            if not isinstance(result, Full):
                results.append(result)
                start = part.stop
                continue
            length = part.stop - part.start
            if length == 1:
                raise self.error(does_not_fit(inputs, result.reason))
            self.most = -(-length // 2)
            found = "Memory ran out with %d samples at a time; going on with %d."
            logger.info(found, length, self.most)
        return results


def part_of(inputs: Inputs, rows: slice) -> Inputs:
    """Return some rows of a batch of inputs."""
    part: Inputs = each(lambda tensor: tensor[rows], inputs)
    return part


def does_not_fit(inputs: Inputs, reason: str) -> str:
    """Say that a single sample of a batch (B, ...) does not fit into memory, and what to do."""
    parts = leaves(inputs)
    size = sum(part[:1].numel() * part.element_size() for part in parts)
    shape = " and ".join(str(tuple(part.shape[1:])) for part in parts)
    return (
        f"Expected a single sample of shape {shape}, {size:,} bytes, to fit into memory, found "
        f"that it does not, reached from a batch of {len(parts[0])} ({reason}); use a smaller "
        "model or smaller images, fewer workers on a machine, a larger share of a GPU for each "
        "(--gpus-per-worker), or a device with more memory."
    )


def in_a_sentence(error: BaseException) -> str:
    """Say that memory ran out where nothing can be halved, and what to do."""
    return (
        f"{in_one_line(error)}; memory ran out where batches are not cut, so lower batch_size, give"
        " each worker a larger share of a GPU (--gpus-per-worker), or run fewer of them on a "
        "machine."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, of this machine or of a GPU, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(t in message for t in _OUT_OF_MEMORY_TEXTS)


def free() -> None:
    """Give back what is held by nobody."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
