"""How many samples fit into memory, from one pass that computes nothing.

Shapes alone decide what a pass holds. So a copy of the model without data (torch's fake tensors)
sees one sample, and what is kept for the backward pass is read off: the batch size is a function of
the model and an amount of memory, never of what is free, so all workers form the same batches, with
the same bits. Where the prediction was too low, :class:`raydrop.training.halving.Halving` goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from raydrop.data.inputs import Inputs, InputSpec, each
from raydrop.errors import ScoringError
from raydrop.models import check_eager


def bytes_per_sample(model: nn.Module, inputs: InputSpec | Sequence[int]) -> int:
    """Predict what norms and products hold at their peak for each sample.

    Of one tensor the shape without the batch will do; then both numbers and words are tried.

    Every tensor that is saved for the backward pass, once, and twice the inputs and outputs of the
    largest layer: their gradients are what the backward pass works on, and the rules pad and copy
    those of one layer at a time. Not counted are parameters, buffers, the loss, and the workspace
    of compute kernels. Precision is that of the parameters; autocast needs less.
    """
    check_eager(model, ScoringError)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    failure: Exception | None = None
    if isinstance(inputs, InputSpec):
        forms = [inputs]
    else:  # images first, then words
        forms = [InputSpec((tuple(inputs),), (kind,)) for kind in (dtype, torch.int64)]
    for without_data in (True, False):
        for form in forms:
            try:
                with _copy_of(model, without_data) as clone:
                    return _peak(clone, each(partial(_typed, dtype), form.zeros(1, device)))
            except Exception as error:
                failure = failure or error
    shape = str(inputs) if isinstance(inputs, InputSpec) else f"of shape {tuple(inputs)}"
    raise ScoringError(
        f"Expected a model that takes a sample {shape}, found {type(failure).__name__}: {failure}; "
        "give the shape without the batch axis, as the model was built for."
    ) from failure


def _typed(dtype: torch.dtype, values: Tensor) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values


def batch_size_for(
    model: nn.Module, inputs: InputSpec | Sequence[int], memory_bytes: int, *, limit: int
) -> int:
    """Return the largest batch that is predicted to fit, from 1 to ``limit``.

    The largest B with constant + B * bytes_per_sample <= memory_bytes, where the constant is the
    size of all parameters and buffers and of one gradient (or direction); 1 where none fits.
    """
    constant = sum(map(_bytes, (*model.parameters(), *model.buffers())))
    constant += sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    per_sample = max(1, bytes_per_sample(model, inputs))
    return max(1, min(limit, (memory_bytes - constant) // per_sample))


@contextmanager
def _copy_of(model: nn.Module, without_data: bool) -> Iterator[nn.Module]:
    """Lend a copy in eval mode; without data, tensors made meanwhile have none either."""
    mode = FakeTensorMode(allow_non_fake_inputs=True) if without_data else nullcontext()
    with FakeCopyMode(mode) if isinstance(mode, FakeTensorMode) else mode:
        clone = copy.deepcopy(model).eval()
    # A forward pass may draw random numbers, and those of the caller must stay as they are.
    with torch.random.fork_rng(devices=[]), mode:
        yield clone


def _peak(model: nn.Module, sample: Inputs) -> int:
    """Run a model, and return what is saved and what is worked on in the largest layer."""
    # References keep the numbers of storages from being given again.
    own = [_storage(tensor) for tensor in (*model.parameters(), *model.buffers())]
    seen = {reference.cdata: reference for reference in own}
    saved = largest = 0
    entered: nn.Module | None = None

    def save(tensor: Tensor) -> Tensor:
        nonlocal saved
        reference = _storage(tensor)
        if reference.cdata not in seen:
            seen[reference.cdata] = reference
            saved += tensor.untyped_storage().nbytes()
        return tensor

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal entered
        entered = module

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        nonlocal largest
        if entered is module:  # which called no other one
            tensors = (leaf for leaf in tree_leaves((inputs, outputs)) if isinstance(leaf, Tensor))
            largest = max(largest, sum(map(_bytes, tensors)))

    for module in model.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, prepend=True)
    with torch.enable_grad(), saved_tensors_hooks(save, lambda tensor: tensor):
        model(sample)
    return saved + 2 * largest


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
