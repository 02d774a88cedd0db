"""What per-sample gradient norms and dot products cost, here and by other libraries.

Compared, for the same network, samples, batch and threads, each in turn with forward+backward (one
backward of the summed loss for all parameters, eval mode), which is the floor; norms, dot products
with one direction, and both:

* ``batch-1 loop``: the whole gradient of each sample in turn, reduced at once;
* ``vmap(grad)``: torch.func over the whole batch, and in chunks of 8;
* ``Opacus GradSampleModule``, and ``Opacus ghost norms`` (its fast gradient clipping, first pass);
* ``BackPACK BatchL2Grad``, and ``BackPACK BatchGrad``, reduced and freed layer by layer;
* ``raydrop``: per_sample_norm, per_sample_dot, norm_and_dot.

One line per comparison: the median ratio of seconds, its range and the number of pairs (half as
many for what takes more than twice the floor); the ratio of peak memory; and the largest error of
float32 against the batch-1 loop in float64, of a norm relative to the norm, of a dot product
relative to the product of both norms. What cannot do a network says why: "refuses: ...".

Where the input of a ReLU lies within rounding of zero, a sample's gradient jumps, and every method,
a batch-1 loop in float32 too, lands on either side by chance, off by up to 2e-4. So the error is
given again for the same network with GELU in place of ReLU ("smooth"), where rounding alone counts.

Peak memory is resident memory beyond the network and the samples, each of them measured in a
process of its own, in which glibc gives every block of 64 KiB or more pages of its own, so that
what is freed counts no longer (Linux). On a GPU it would be what torch allocates; not run there.

Peers are at their best: Opacus and BackPACK are asked for the gradient of the images, which runs
their hooks without forming the batch's weight gradients too, and BackPACK uses its faster
convolution rule. The ResNets add their shortcuts out of place, for all alike: torchvision's blocks
do it in place, which the hooks of both refuse.

Run with ``python benchmarks/scoring.py``; ``--quick`` makes fewer pairs, of two networks. The extra
``bench`` installs the peers. ``--sharded`` compares executors instead, one thread each: two Ray
workers with one, one Ray worker with this process, and MoSo with plain training. ``--networks``
instead holds norms and products in float64 against the batch-1 loop, on every classification
network of torchvision of at most 150 million parameters, and counts those on the general path.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import importlib
import itertools
import logging
import multiprocessing
import os
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torchvision.models.resnet import BasicBlock

from raydrop.data.batches import PreparedData, make_batches
from raydrop.models import build_model
from raydrop.scores.gradients import (
    coverage,
    norm_and_dot,
    parameters_of,
    per_sample_dot,
    per_sample_norm,
)
from raydrop.scores.sharding import Executor, GradientWorker, LocalExecutor, ShardedGradients
from raydrop.training.checkpoints import flat_state

Quantity = Literal["norm", "dot", "norm and dot"]
Values = dict[str, Tensor]
"""Under ``norm`` and ``dot``, whichever was asked for: one value per sample."""
Score = Callable[[Tensor, Tensor], Values]
"""From images (B, 3, 32, 32) and labels (B,) to values (B,)."""

QUANTITIES: tuple[Quantity, ...] = ("norm", "dot", "norm and dot")
CLASSES = 10
QUICK_PAIRS = 3
QUICK_MODELS = ("vgg11", "resnet18-batchnorm")
SLOW = 2.0
"""Ratio above which half as many pairs are made."""
WARM_UP = 2
"""Samples of the run that loads what a method needs, before its memory is measured."""
OWN_PAGES = "65536"
"""Bytes from which glibc gives a block pages of its own, where memory is measured."""
SHARDED_MODELS = {"small_cnn": 4096, "resnet56": 512}
"""Samples that each is measured on."""
MOSO_SAMPLES, MOSO_MODEL, MOSO_BATCH = 256, "resnet18", 64
MOSO_CHECKPOINTS = 10
NETWORK_SAMPLES = 3
NETWORK_SIZES = {"inception": 96, "maxvit": 224}
"""Sides of images for networks of torchvision that do not take 64."""
LEAST_NORM = 1e-3
"""Smallest norm beside the largest; far below, errors relative to it would say nothing."""
MOST_PARAMETERS = 150_000_000
"""In float64 the network, its copy and three gradients of this size take 6 GB."""
MOST_NETWORK_BYTES = 10 * 2**30
"""Address space that the process may take while it checks a network of torchvision."""


# Networks


class OutOfPlaceBlock(BasicBlock):
    """torchvision's residual block, with the shortcut added out of place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = self.relu(self.bn1(self.conv1(x)))
        outputs: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return outputs


def vgg11() -> nn.Module:
    """Return VGG-11 without norm layers, 32 to 256 wide, for 32x32 images."""
    layers: list[nn.Module] = []
    width = 3
    for stage in ((32,), (64,), (128, 128), (256, 256), (256, 256)):
        for wider in stage:
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, CLASSES))


def resnet18_batchnorm() -> nn.Module:
    """Return the CIFAR ResNet-18 with running statistics of a few batches."""
    model = build_model("resnet18", CLASSES, (3, 32, 32))
    for module in model.modules():
        if type(module) is BasicBlock:
            module.__class__ = OutOfPlaceBlock
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 32, 32))
    return model


def resnet18_groupnorm() -> nn.Module:
    """Return the CIFAR ResNet-18 with GroupNorm of 32 groups in place of each BatchNorm."""
    model = resnet18_batchnorm()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(32, child.num_features))
    return model


def small_vit() -> nn.Module:
    """Return a vision transformer of four layers, four heads, width 128, for 64 patches of 4x4."""
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=4,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=CLASSES,
    )
    # torchvision starts the head at zero, where no gradient reaches the other layers.
    nn.init.normal_(model.get_parameter("heads.head.weight"), std=0.1)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vgg11": vgg11,
    "resnet18-batchnorm": resnet18_batchnorm,
    "resnet18-groupnorm": resnet18_groupnorm,
    "vit": small_vit,
}


@dataclass(frozen=True)
class Setting:
    """What is scored, and how; the same numbers give the same samples in every process."""

    model: str
    samples: int
    batch: int
    threads: int
    device: str


class Problem:
    """A network in eval mode and the samples that it is scored on."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
        self.model, self.images, self.labels, self._batch = model, images, labels, batch

    def run(self, score: Score) -> Values:
        """Return the values (N,) of all samples, batch by batch."""
        batches = zip(self.images.split(self._batch), self.labels.split(self._batch), strict=True)
        parts = [score(images, labels) for images, labels in batches]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def smoothed(self) -> Problem:
        """Return the same with GELU in place of each ReLU."""
        model = copy.deepcopy(self.model)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.ReLU):
                    setattr(parent, name, nn.GELU())
        return Problem(model, self.images, self.labels, self._batch)

    @functools.cached_property
    def direction(self) -> dict[str, Tensor]:
        """The direction v that MoSo would take: the mean gradient."""
        named = dict(self.model.named_parameters())
        loss = summed_loss(self.model, self.images, self.labels) / len(self.labels)
        return dict(zip(named, gradients_of(loss, list(named.values())), strict=True))

    @functools.cached_property
    def exact(self) -> Values:
        """Norms and dot products by the batch-1 loop in float64."""
        model = copy.deepcopy(self.model).double()
        direction = {name: value.double() for name, value in self.direction.items()}
        return loop_scores(model, direction, "norm and dot")(self.images.double(), self.labels)

    def error(self, method: str, quantity: Quantity) -> float:
        """Return a method's largest error, relative to || g_i ||, for dots to || g_i || || v ||."""
        values = self.run(METHODS[method](self.model, self.direction, quantity))
        squares = [value.double().square().sum() for value in self.direction.values()]
        norms = self.exact["norm"]
        scales = {"norm": norms, "dot": norms * torch.stack(squares).sum().sqrt()}
        errors = [((values[k] - self.exact[k]).abs() / scales[k]).max() for k in values]
        return float(torch.stack(errors).max())


def make_problem(setting: Setting) -> Problem:
    """Return a random network and random samples."""
    torch.manual_seed(0)
    model = MODELS[setting.model]().eval().to(setting.device)
    images = torch.randn(setting.samples, 3, 32, 32).to(setting.device)
    labels = torch.randint(0, CLASSES, (setting.samples,)).to(setting.device)
    return Problem(model, images, labels, setting.batch)


# Methods: each takes a network, a direction and what is wanted, and returns a Score.


class Reduction:
    """Norms and dot products of per-sample gradients that come parameter by parameter."""

    def __init__(self, direction: Mapping[str, Tensor], quantity: Quantity) -> None:
        self._direction = direction
        self._wants = quantity.split(" and ")
        self._left = set(direction)
        self._sums: Values = {}

    def add(self, name: str, gradients: Tensor) -> None:
        """Take in the gradients (B, *shape) of one parameter."""
        parts: Values = {}
        if "norm" in self._wants:
            # Row by row: over a whole layer at once, float32 would lose four digits.
            rows = gradients.reshape(*gradients.shape[:2], -1)
            parts["norm"] = torch.linalg.vector_norm(rows, dim=2).square().sum(1)
        if "dot" in self._wants:
            parts["dot"] = gradients.flatten(1) @ self._direction[name].flatten()
        self.add_parts(name, parts)

    def add_parts(self, name: str, parts: Values) -> None:
        """Take in the squared norms and dot products, (B,) each, of one parameter."""
        for key, part in parts.items():
            self._sums[key] = self._sums[key] + part if key in self._sums else part
        self._left.discard(name)

    def values(self) -> Values:
        """Return the norms and dot products over all parameters."""
        if self._left:
            raise RuntimeError(
                f"leaves out {len(self._left)} parameters, {min(self._left)} for one"
            )
        sums = self._sums
        return {key: sums[key].sqrt() if key == "norm" else sums[key] for key in self._wants}


def floor_scores(model: nn.Module, _: Mapping[str, Tensor], __: Quantity) -> Score:
    """Do one backward of the summed loss for all parameters, which gives no score at all."""
    parameters = list(model.parameters())

    def score(images: Tensor, labels: Tensor) -> Values:
        torch.autograd.grad(summed_loss(model, images, labels), parameters)
        return {}

    return score


def summed_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy summed over a batch."""
    return F.cross_entropy(model(images), labels, reduction="sum")


def gradients_of(loss: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
    """Return gradients, zero where the loss does not reach a parameter."""
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def loop_scores(model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity) -> Score:
    """Differentiate one sample at a time."""
    named = dict(model.named_parameters())

    def one(image: Tensor, label: Tensor) -> Values:
        reduction = Reduction(direction, quantity)
        loss = summed_loss(model, image[None], label[None])
        gradients = gradients_of(loss, list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            reduction.add(name, gradient[None])
        return reduction.values()

    def score(images: Tensor, labels: Tensor) -> Values:
        parts = [one(image, label) for image, label in zip(images, labels, strict=True)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    return score


def vmap_scores(
    model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity, *, chunk: int | None
) -> Score:
    """Differentiate ``chunk`` samples at a time with torch.func, or the whole batch."""
    parameters = parameters_of(model)

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, values, (image[None],))
        return F.cross_entropy(logits, label[None])

    def one(image: Tensor, label: Tensor) -> Values:
        reduction = Reduction(direction, quantity)
        for name, gradient in grad(loss)(parameters, image, label).items():
            reduction.add(name, gradient[None])
        return {key: value[0] for key, value in reduction.values().items()}

    return cast(Score, vmap(one, chunk_size=chunk))


def input_backward(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Run the backward hooks of every layer without forming the batch's weight gradients."""
    images = images.clone().requires_grad_()
    torch.autograd.grad(summed_loss(model, images, labels), images)


def opacus_scores(model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity) -> Score:
    """Form the per-sample gradients of all layers with Opacus."""
    wrapped = peer("opacus.grad_sample").GradSampleModule(
        # Its hooks work in training mode alone; what it accepts computes the same in both.
        copy.deepcopy(model).train(),
        loss_reduction="sum",
        strict=True,
    )

    def score(images: Tensor, labels: Tensor) -> Values:
        reduction = Reduction(direction, quantity)
        input_backward(wrapped, images, labels)
        for name, parameter in wrapped._module.named_parameters():
            reduction.add(name, parameter.grad_sample)
            parameter.grad_sample = None
        return reduction.values()

    return score


def ghost_scores(model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity) -> Score:
    """Take the norms of Opacus's fast gradient clipping, in Gram form where it has a rule."""
    only_norms(quantity)
    wrapped = peer("opacus.grad_sample").GradSampleModuleFastGradientClipping(
        copy.deepcopy(model).train(), loss_reduction="sum", strict=True, use_ghost_clipping=True
    )

    def score(images: Tensor, labels: Tensor) -> Values:
        reduction = Reduction(direction, quantity)
        input_backward(wrapped, images, labels)
        for name, parameter in wrapped._module.named_parameters():
            reduction.add_parts(name, {"norm": parameter._norm_sample.square()})
            del parameter._norm_sample
        return reduction.values()

    return score


def backpack_l2_scores(
    model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity
) -> Score:
    """Take the squared norms of BackPACK, parameter by parameter."""
    only_norms(quantity)

    def reduce(reduction: Reduction, name: str, squares: Tensor) -> None:
        reduction.add_parts(name, {"norm": squares})

    return backpack_scores(model, direction, quantity, "BatchL2Grad", reduce)


def backpack_grad_scores(
    model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity
) -> Score:
    """Form the per-sample gradients of one layer at a time with BackPACK."""
    return backpack_scores(model, direction, quantity, "BatchGrad", Reduction.add)


def backpack_scores(
    model: nn.Module,
    direction: Mapping[str, Tensor],
    quantity: Quantity,
    extension: str,
    reduce: Callable[[Reduction, str, Tensor], None],
) -> Score:
    """Run an extension of BackPACK and reduce what it leaves on each parameter at once."""
    backpack = peer("backpack")
    save_memory = peer("backpack.core.derivatives.convnd").weight_jac_t_save_memory
    extended = backpack.extend(copy.deepcopy(model))
    computes = getattr(peer("backpack.extensions"), extension)()
    names = {parameter: name for name, parameter in extended.named_parameters()}

    def score(images: Tensor, labels: Tensor) -> Values:
        reduction = Reduction(direction, quantity)

        def take(layer: nn.Module) -> None:
            for parameter in layer.parameters(recurse=False):
                if hasattr(parameter, computes.savefield):
                    reduce(reduction, names[parameter], getattr(parameter, computes.savefield))
                    delattr(parameter, computes.savefield)

        with save_memory(True), backpack.backpack(computes, extension_hook=take):
            input_backward(extended, images, labels)
        return reduction.values()

    return score


def raydrop_scores(model: nn.Module, direction: Mapping[str, Tensor], quantity: Quantity) -> Score:
    """Use this package."""

    def score(images: Tensor, labels: Tensor) -> Values:
        if quantity == "norm":
            return {"norm": per_sample_norm(model, images, labels)}
        if quantity == "dot":
            return {"dot": per_sample_dot(model, images, labels, direction)}
        norms, dots = norm_and_dot(model, images, labels, direction)
        return {"norm": norms, "dot": dots}

    return score


FLOOR = "forward+backward"
METHODS: dict[str, Callable[[nn.Module, Mapping[str, Tensor], Quantity], Score]] = {
    FLOOR: floor_scores,
    "batch-1 loop": loop_scores,
    "vmap(grad), whole batch": partial(vmap_scores, chunk=None),
    "vmap(grad), chunks of 8": partial(vmap_scores, chunk=8),
    "Opacus GradSampleModule": opacus_scores,
    "Opacus ghost norms": ghost_scores,
    "BackPACK BatchL2Grad": backpack_l2_scores,
    "BackPACK BatchGrad": backpack_grad_scores,
    "raydrop": raydrop_scores,
}


def peer(name: str) -> Any:
    """Import a module that only this benchmark needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"not installed; install raydrop[bench] ({error})") from error


def only_norms(quantity: Quantity) -> None:
    """Refuse dot products."""
    if quantity != "norm":
        raise NotImplementedError("gives norms only")


# Measurements


def paired_ratios(
    first: Callable[[], object], second: Callable[[], object], pairs: int
) -> list[float]:
    """Return the ratios of seconds of ``first`` to ``second``, after one of each unmeasured."""
    rough = seconds(first) / seconds(second)
    ratios = []
    for i in range(max(1, pairs // 2) if rough > SLOW else pairs):
        # Which comes first alternates, so that a drift of the machine's speed cancels.
        if i % 2:
            b, a = seconds(second), seconds(first)
        else:
            a, b = seconds(first), seconds(second)
        ratios.append(a / b)
    return ratios


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes, on a GPU until it is done."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for what a GPU still does."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_bytes(setting: Setting, method: str, quantity: Quantity) -> int:
    """Return what one run holds at its peak beyond the network, the direction and the samples."""
    torch.set_num_threads(setting.threads)
    silence()
    problem = make_problem(setting)
    score = METHODS[method](problem.model, parameters_of(problem.model), quantity)
    score(problem.images[:WARM_UP], problem.labels[:WARM_UP])
    gc.collect()
    if problem.images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        problem.run(score)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = resident("VmRSS")
    problem.run(score)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Return a field of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_bytes_alone(setting: Setting, method: str, quantity: Quantity) -> int:
    """Return :func:`peak_bytes` of a process that does nothing else."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, before any process starts its threads.
    context.set_forkserver_preload(
        ["raydrop.scores.gradients", "torchvision", "opacus.grad_sample", "backpack"]
    )
    os.environ["MALLOC_MMAP_THRESHOLD_"] = OWN_PAGES
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_bytes, setting, method, quantity).result()


def silence() -> None:
    """Turn off warnings; :class:`Reduction` sees what a peer leaves out."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def compare(setting: Setting, pairs: int) -> None:
    """Print every comparison of one network."""
    problem = make_problem(setting)
    smooth = problem.smoothed()
    floor = partial(problem.run, METHODS[FLOOR](problem.model, problem.direction, "norm"))
    floor_bytes = peak_bytes_alone(setting, FLOOR, "norm")
    floor_seconds = statistics.median(seconds(floor) for _ in range(3))
    print(
        f"\n{setting.model}: {FLOOR} takes {floor_seconds:.3f} s and {floor_bytes / 2**20:.0f} MiB"
    )
    for quantity, method in itertools.product(QUANTITIES, list(METHODS)[1:]):
        print(f"{quantity:<12}  {method:<23}  ", end="", flush=True)
        try:
            errors = [twin.error(method, quantity) for twin in (problem, smooth)]
        except Exception as reason:
            print(f"refuses: {first_line(reason)}")
            continue
        score = METHODS[method](problem.model, problem.direction, quantity)
        ratios = paired_ratios(partial(problem.run, score), floor, pairs)
        memory = peak_bytes_alone(setting, method, quantity) / floor_bytes
        print(
            f"{described(ratios)}  memory {memory:6.3f}  "
            f"error {errors[0]:.1e}, smooth {errors[1]:.1e}"
        )


def described(ratios: list[float]) -> str:
    """Return the median of some ratios, their range and their number."""
    spread = f"({min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)})"
    return f"{statistics.median(ratios):6.3f}  {spread:<28}"


def first_line(error: Exception) -> str:
    """Return the beginning of an error's message, or of the first error in it."""
    while error.args and isinstance(error.args[0], list):
        error = error.args[0][0]
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 100 else f"{line[:97]}..."


# Executors


class Checkpoint:
    """What MoSo computes at one checkpoint: the mean gradient, and its product with each."""

    def __init__(self, data: PreparedData, model: str, executor: Executor) -> None:
        torch.manual_seed(0)
        dataset = data.dataset
        self._state = flat_state(build_model(model, dataset.num_classes, dataset.input_spec))
        self._gradients = ShardedGradients(executor, dataset.train.ids)
        self._positions = np.arange(len(dataset.train))

    def run(self) -> None:
        """Do it for all samples of the training set."""
        mean = self._gradients.mean_gradient(self._state, self._positions)
        self._gradients.per_sample("dot", self._state, self._positions, mean)


def compare_executors(pairs: int, *, quick: bool) -> None:
    """Print what a crew of Ray actors costs and gains, and what MoSo costs, one thread each."""
    # Here, because importing Ray takes seconds, which no other comparison needs.
    import ray
    from training import made_up_cifar

    from raydrop.cluster.crew import WorkContext, start_crew
    from raydrop.cluster.layout import Layout
    from raydrop.cluster.session import ray_session
    from raydrop.cluster.shared_store import SharedStore
    from raydrop.study import Study

    torch.set_num_threads(1)
    # Three CPUs by Ray's book, so that both crews can be there; only one of them works at a time.
    with ray_session(num_cpus=3):
        for model, samples in list(SHARDED_MODELS.items())[: 1 if quick else None]:
            data = made_up_cifar(samples)
            reference = ray.put(data)
            study, crews = Study("sharded", "made up", model, {}), contextlib.ExitStack()
            places = SharedStore("")  # where nothing is written
            one, two = (
                Checkpoint(data, model, crews.enter_context(start_crew(context)).executor(model))
                for context in (
                    WorkContext(study, reference, Layout(workers, 1, 0.0), places)
                    for workers in (1, 2)
                )
            )
            here = Checkpoint(data, model, LocalExecutor(GradientWorker(data, model)))
            gains = [1 / ratio for ratio in paired_ratios(two.run, one.run, pairs)]
            print(
                f"sharded: {model}, throughput of two workers / one    {described(gains)}",
                flush=True,
            )
            costs = paired_ratios(one.run, here.run, pairs)
            print(
                f"sharded: {model}, one Ray worker / in this process   {described(costs)}",
                flush=True,
            )
            crews.close()


def compare_moso(checkpoints: int) -> None:
    """Print what MoSo's checkpoints cost beside two plain epochs each."""
    from training import made_up_cifar

    torch.set_num_threads(1)
    data = made_up_cifar(MOSO_SAMPLES)
    dataset = data.dataset
    moso = Checkpoint(data, MOSO_MODEL, LocalExecutor(GradientWorker(data, MOSO_MODEL)))
    model = build_model(MOSO_MODEL, dataset.num_classes, dataset.input_spec)
    everything = torch.arange(MOSO_SAMPLES)
    ((images, labels),) = make_batches(data, dataset.train, torch.device("cpu"))([everything])
    # As many at a time as a shard of so few samples has.
    batches = list(zip(images.split(MOSO_BATCH), labels.split(MOSO_BATCH), strict=True))

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def two_epochs() -> None:
        for some_images, some_labels in batches * 2:
            optimizer.zero_grad()
            F.cross_entropy(model(some_images), some_labels).backward()
            optimizer.step()

    ratios = paired_ratios(moso.run, two_epochs, checkpoints)
    print(f"moso: {MOSO_MODEL}, a checkpoint / two plain epochs            {described(ratios)}")


# Networks of torchvision


def torchvision_problem(name: str) -> Problem:
    """Return a classification network in float64 in which nothing is zero or one, and samples."""
    torch.manual_seed(0)
    size = NETWORK_SIZES.get(name.split("_")[0], 64)
    options = {"image_size": size} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or not parameter.std() > 0:
                parameter.add_(0.1 * torch.randn_like(parameter))
        images = torch.randn(NETWORK_SAMPLES, 3, size, size, dtype=torch.float64)
        # Statistics of these images: with those of no images, a deep network saturates.
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.momentum = None
        model(images)
        model.eval()
    return Problem(model, images, torch.arange(NETWORK_SAMPLES), NETWORK_SAMPLES)


def compare_networks(names: list[str]) -> None:
    """Print the largest errors of each network in float64, and what takes the general path."""
    print("| network | parameters | general path | norm | product | products alone |")
    print("|---|---|---|---|---|---|")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_NETWORK_BYTES, resource.RLIM_INFINITY))
    for name in names:
        size = torchvision.models.get_model_weights(name)["DEFAULT"].meta["num_params"]
        if size > MOST_PARAMETERS:
            row = f"left out: {size / 1e6:.0f} million parameters"
        else:
            try:
                row = network_row(name)
            except RuntimeError as error:
                if "memory" not in str(error):
                    raise
                row = f"left out: more than {MOST_NETWORK_BYTES / 2**30:.0f} GiB"
        print(f"| {name} | {row}", flush=True)
        gc.collect()


def network_row(name: str) -> str:
    """Return how many parameters a network has, how many take the general path, and its errors."""
    begun = time.perf_counter()
    problem = torchvision_problem(name)
    paths = coverage(problem.model, problem.images)
    general = sum(each.path == "general" for each in paths)
    quantities: tuple[Quantity, ...] = ("norm", "norm and dot", "dot")
    errors = [f"{problem.error('raydrop', quantity):.0e}" for quantity in quantities]
    norms = problem.exact["norm"]
    assert norms.min() > LEAST_NORM * norms.max(), norms
    took = time.perf_counter() - begun
    return f"{' | '.join(map(str, [len(paths), general, *errors]))} | {took:.0f} s"


def main() -> None:
    """Run every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, help="all by default")
    parser.add_argument("--batch", type=int, default=32, help="samples at a time")
    parser.add_argument("--samples", type=int, help="samples in all; one batch by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and networks")
    parser.add_argument("--sharded", action="store_true", help="compare executors instead")
    parser.add_argument(
        "--networks", nargs="*", help="check networks of torchvision instead, all without names"
    )
    options = parser.parse_args()
    pairs = min(options.pairs, QUICK_PAIRS) if options.quick else options.pairs
    silence()
    print(described_machine(options))
    if options.sharded:
        compare_executors(pairs, quick=options.quick)
        compare_moso(pairs if options.quick else MOSO_CHECKPOINTS)
        return
    torch.set_num_threads(options.threads)
    if options.networks is not None:
        every = torchvision.models.list_models(module=torchvision.models)
        compare_networks(options.networks or every)
        return
    samples = options.samples or options.batch
    for model in options.models or (QUICK_MODELS if options.quick else MODELS):
        compare(Setting(model, samples, options.batch, options.threads, options.device), pairs)


def described_machine(options: argparse.Namespace) -> str:
    """Return what the numbers depend on."""
    names = ["torch", "torchvision", "opacus", "backpack-for-pytorch"]
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    return (
        f"{device}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        + ", ".join(f"{name} {installed(name)}" for name in names)
        + f", threads {1 if options.sharded else options.threads}"
    )


def installed(name: str) -> str:
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
