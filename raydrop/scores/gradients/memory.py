"""How much memory scoring takes, from one pass that computes nothing.

Shapes alone decide what a pass holds. So a copy of the model without data (torch's fake tensors)
sees one sample, and what each layer keeps, in bytes, is read off: the batch size that fits a given
amount of memory is then a function of the model and that amount, the same on every worker. Where
the prediction was too low after all, :func:`raydrop.training.halving.in_halves` goes on with
smaller batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, jvp
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydrop.errors import ScoringError
from raydrop.models import check_eager

if TYPE_CHECKING:  # sharding.py imports this file
    from raydrop.scores.sharding import Task

_FORWARD_TASKS = ("dot", "last_layer_norm", "embedding")
"""Nothing is kept for a backward pass; a layer's memory is free again once the next is done."""


@dataclass(frozen=True)
class LayerMemory:
    """What scoring holds because of one layer."""

    name: str
    """The module's name within the model; ``"model"`` for the model itself."""
    layer: str
    """Its type, such as ``"Conv2d"``."""
    bytes_per_sample: int
    """Bytes that grow with the batch; see :func:`predict_memory`."""


def predict_memory(
    model: nn.Module, input_shape: Sequence[int], *, task: Task = "norm_and_dot"
) -> tuple[LayerMemory, ...]:
    """Predict what each layer holds for one sample, from a pass in eval mode without real data.

    What counts depends on the task:

    * ``gradient_sum``, ``norm``, ``norm_and_dot``: every tensor that the layer is the first to save
      for the backward pass. The layers add up.
    * ``dot``: everything that lives at once while the layer runs, primal values, tangents and
      temporary tensors alike. Nothing stays, so the largest layer decides, not the sum.
    * ``last_layer_norm``, ``embedding``: likewise, of a plain forward pass.

    A tensor that several layers share counts once. Not counted are parameters, buffers, the loss,
    and the workspace of compute kernels. A module that computes outside its children, such as the
    sum of a residual block, is listed under its own name. Precision is that of the parameters;
    autocast to a narrower type needs less.

    Args:
        model: Left as it is; a copy is run.
        input_shape: Shape of one sample, without the batch axis.
        task: Which scoring task.

    Returns:
        The layers that hold something, in the order of ``model.named_modules()``.

    Raises:
        ScoringError: If the model does not take one sample of that shape.
    """
    held = _observe(model, input_shape, task).held
    return tuple(
        LayerMemory(name, type(module).__name__, held[name])
        for name, module in _named_modules(model)
        if held.get(name)
    )


def bytes_per_sample(
    model: nn.Module, input_shape: Sequence[int], *, task: Task = "norm_and_dot"
) -> int:
    """Predict what a pass holds at its peak for each sample of a batch, all layers together.

    For ``dot``, ``last_layer_norm`` and ``embedding`` the largest layer of :func:`predict_memory`;
    otherwise the sum of its layers, and the gradients at the input and output of the largest one,
    which is what the backward pass works on. For norms these count twice, because the rules of
    :mod:`raydrop.scores.gradients.rules` pad and copy inputs and gradients of one layer at a time.

    Args:
        model: Left as it is; a copy is run.
        input_shape: Shape of one sample, without the batch axis.
        task: Which scoring task.

    Raises:
        ScoringError: If the model does not take one sample of that shape.
    """
    return _observe(model, input_shape, task).peak


def batch_size_for(
    model: nn.Module,
    input_shape: Sequence[int],
    memory_bytes: int,
    *,
    limit: int,
    task: Task = "norm_and_dot",
) -> int:
    """Return the largest batch that is predicted to fit.

    The largest B <= limit with constant + B * bytes_per_sample <= memory_bytes, where the constant
    is the size of all parameters and buffers and of one gradient (or direction). A function of its
    arguments alone, never of what is free at the moment, so that all workers form the same batches
    and scores are the same bits everywhere.

    Args:
        model: Left as it is; a copy is run.
        input_shape: Shape of one sample, without the batch axis.
        memory_bytes: What scoring may take, in bytes.
        limit: No batch is larger.
        task: Which scoring task.

    Returns:
        A batch size in 1...limit; 1 even where one sample is predicted not to fit.

    Raises:
        ScoringError: If the model does not take one sample of that shape.
    """
    per_sample = max(1, bytes_per_sample(model, input_shape, task=task))
    return max(1, min(limit, (memory_bytes - _constant_bytes(model)) // per_sample))


@dataclass(frozen=True)
class _Observation:
    """What one sample was seen to hold, in bytes."""

    held: Mapping[str, int]
    """By module name."""
    peak: int
    """All modules together."""


def _observe(model: nn.Module, input_shape: Sequence[int], task: Task) -> _Observation:
    """Run one sample, without data if possible; images first, then token indices."""
    check_eager(model, ScoringError)
    # Where forward mode does not know an operation, keeping the whole graph is an upper bound.
    tasks: list[Task] = ["dot", "norm_and_dot"] if task == "dot" else [task]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    failure: Exception | None = None
    for attempt in tasks:
        for without_data in (True, False):
            for kind in (dtype, torch.int64):
                try:
                    with _copy_of(model, without_data) as clone:
                        return _run(clone, _sample(model, input_shape, kind), attempt)
                except Exception as error:
                    failure = failure or error
    raise ScoringError(
        f"Expected a model that takes a sample of shape {tuple(input_shape)}, found "
        f"{type(failure).__name__}: {failure}; give the shape without the batch axis, as the "
        "model was built for."
    ) from failure


@contextmanager
def _copy_of(model: nn.Module, without_data: bool) -> Iterator[nn.Module]:
    """Lend a copy in eval mode; without data, tensors made meanwhile have none either."""
    mode = FakeTensorMode(allow_non_fake_inputs=True) if without_data else None
    with nullcontext() if mode is None else FakeCopyMode(mode):
        clone = copy.deepcopy(model).eval()
    # A forward pass may draw random numbers, and those of the caller must stay as they are.
    with torch.random.fork_rng(devices=[]), nullcontext() if mode is None else mode:
        yield clone


def _sample(model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a batch of one sample, all zeros."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, *input_shape, dtype=dtype, device=device)


def _run(model: nn.Module, sample: Tensor, task: Task) -> _Observation:
    if task == "dot":
        return _watch_forward(model, sample, _push_tangents)
    if task in ("last_layer_norm", "embedding"):
        return _watch_forward(model, sample, lambda module, x: module(x))
    return _watch_backward(model, sample, copies=1 if task == "gradient_sum" else 2)


def _push_tangents(model: nn.Module, sample: Tensor) -> Any:
    """Run the model in forward mode, with a tangent for every trainable parameter."""
    values = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return jvp(lambda p: functional_call(model, p, (sample,)), (values,), (values,))


def _watch_forward(
    model: nn.Module, sample: Tensor, run: Callable[[nn.Module, Tensor], Any]
) -> _Observation:
    """Note the most that is alive at once while each module runs."""
    watch = _Watch(model)
    live = _LiveBytes(watch, sample)
    # Fused attention has no forward mode.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _without_fast_attention(), live:
        run(model, sample)
    return _Observation(live.most, max(live.most.values(), default=0))


def _watch_backward(model: nn.Module, sample: Tensor, copies: int) -> _Observation:
    """Note what each module is the first to save; ``copies`` of the largest one are worked on."""
    watch = _Watch(model)
    held: dict[str, int] = {}
    largest = 0

    def save(tensor: Tensor) -> Tensor:
        held[watch.module] = held.get(watch.module, 0) + watch.new_bytes(tensor)
        return tensor

    def measure(module: nn.Module, inputs: Any, outputs: Any) -> None:  # noqa: ARG001
        nonlocal largest
        if not watch.has_called_children:
            largest = max(largest, sum(map(_bytes, _tensors((inputs, outputs)))))

    for module in model.modules():
        # Before the hooks of the watch, which leave the module.
        module.register_forward_hook(measure, prepend=True)
    with torch.enable_grad(), saved_tensors_hooks(save, lambda tensor: tensor):
        model(sample)
    return _Observation(held, sum(held.values()) + copies * largest)


class _Watch:
    """Knows which module runs, and which storages were seen before or belong to the model."""

    def __init__(self, model: nn.Module) -> None:
        self._inside = ["model"]
        self._entered = "model"
        self._seen: dict[int, StorageWeakRef] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self.new_bytes(tensor)
        for name, module in _named_modules(model):
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave)

    @property
    def module(self) -> str:
        """Name of the innermost module that runs."""
        return self._inside[-1]

    @property
    def has_called_children(self) -> bool:
        """Whether the module that runs has called another one."""
        return self._entered != self.module

    def new_bytes(self, tensor: Tensor) -> int:
        """Return the size of a tensor's storage, 0 where that was seen before."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata in self._seen:
            return 0
        self._seen[reference.cdata] = reference  # keeps the number from being given again
        return storage.nbytes()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._inside.append(name)
            self._entered = name

        return enter

    def _leave(self, *_: Any) -> None:
        self._inside.pop()


class _LiveBytes(TorchDispatchMode):
    """Adds up all storages that are alive after each operation; the model's own do not count."""

    def __init__(self, watch: _Watch, sample: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: dict[str, int] = {}
        self._watch = watch
        self._live: dict[StorageWeakRef, int] = {}
        self._add(sample)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note what is alive."""
        result = operation(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._add(tensor)
        self._live = {ref: size for ref, size in self._live.items() if not ref.expired()}
        module, total = self._watch.module, sum(self._live.values())
        self.most[module] = max(self.most.get(module, 0), total)
        return result

    def _add(self, tensor: Tensor) -> None:
        size = self._watch.new_bytes(tensor)
        if size:
            self._live[StorageWeakRef(tensor.untyped_storage())] = size


@contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Make MultiheadAttention run as it does where gradients are wanted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name or "model", module) for name, module in model.named_modules())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _constant_bytes(model: nn.Module) -> int:
    """Return the size of parameters, buffers and one gradient."""
    state = sum(map(_bytes, (*model.parameters(), *model.buffers())))
    return state + sum(_bytes(p) for p in model.parameters() if p.requires_grad)
