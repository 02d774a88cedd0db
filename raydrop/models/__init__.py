"""Architectures by name: small ones for small images, and torchvision's classification models.

Where a name has a form for images of up to 64 pixels a side and a larger one, the images decide.
Initial weights come from torch's global generator; whoever builds a model seeds that (within
``torch.random.fork_rng``). Activation layers never work in place, so that hooks and per-sample
gradients see what the layers computed. Whether a model takes certain images is tried once in each
process; torchvision's without data, on torch's meta device, which computes shapes alone.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raydrop.data.dataset import SMALL_SIDE
from raydrop.data.inputs import InputSpec
from raydrop.errors import ConfigError, RaydropError, in_one_line, unknown_name
from raydrop.models import small
from raydrop.models.adapter import check_logits
from raydrop.models.own import TIMM, own_model, timm_model
from raydrop.models.small import ImageShape as ImageShape
from raydrop.models.small import ThinBlock as ThinBlock
from raydrop.study.catalogue import Catalogue, Entry, Thing
from raydrop.study.importing import PRETRAINED as PRETRAINED

TORCHVISION = "torchvision:"
"""What names of torchvision's models may begin with, also where raydrop has one of that name."""
PRETRAINED_WEIGHTS = ("IMAGENET1K_V1", "DEFAULT")
"""torchvision's names of the weights: the first one that it has for the model."""

_SIDES = (8, 16, 32, 64, 96, 128, 160, 192, 224, 299, 384, 518)
"""Sides of images that are tried to say what would fit a model."""
# Auxiliary heads would turn the output into a tuple; init_weights only silences a warning.
_AUXILIARY = {"aux_logits": False, "init_weights": True}
_TORCHVISION_ARGUMENTS = {"googlenet": _AUXILIARY, "inception_v3": _AUXILIARY}


@dataclass(frozen=True)
class Network(Entry[nn.Module]):
    """An architecture, built from K and the images' shape; the user's own from an InputSpec."""

    any_size: bool = False
    """Whether it is for images of any size, or else torchvision's stands in for large ones."""
    note: str = ""
    """What is to be said where a study uses it."""


def _own(thing: Thing) -> Network:
    # Classes hardly have such names, and importing torchvision takes time.
    if thing.name.isidentifier() and thing.name.islower() and thing.name in _torchvision_names():
        raise ConfigError(
            f"Expected a name for a model that torchvision has none by, found {thing.name!r}; call "
            "it something else."
        )
    return Network(
        thing.name,
        functools.partial(own_model, thing),
        **thing.facts,
        any_size=True,
        note="" if thing.is_made else "a module whose weights are drawn anew for each seed",
    )


_LINEAR = "all pixels into one linear layer: logistic regression, for images of any shape"
_SMALL_CNN = "three 3x3 convolutions with BatchNorm, 7,514 parameters; for digits and MNIST"
_THIN_RESNET = "thin CIFAR ResNet of He et al. 2016, three stages of nine blocks, 16 to 64 wide"
_THREE_BY_THREE = "3x3 convolutions with BatchNorm and one linear layer (torchvision's if > 64 px)"
_SMALL_STEM = "torchvision's; up to 64 px with a 3x3 stem of stride 1 and without max-pool"
MODELS = Catalogue(
    "model",
    (
        Network("linear", small.linear, _LINEAR, any_size=True),
        Network("small_cnn", small.small_cnn, _SMALL_CNN, any_size=True),
        Network("vgg16", small.vgg16, f"13 {_THREE_BY_THREE}"),
        Network("vgg19", small.vgg19, f"16 {_THREE_BY_THREE}"),
        Network("resnet18", small.resnet18, _SMALL_STEM),
        Network("resnet50", small.resnet50, _SMALL_STEM),
        Network("resnet56", small.ThinResNet, _THIN_RESNET, any_size=True),
    ),
    example="mypkg.net:SignNet(width=32)",
    adopt=_own,
)
"""Models that raydrop itself explains; every classification model of torchvision works too, as
``resnet34`` or ``torchvision:resnet34``, those of timm as ``timm:resnet34``, and the user's own by
their import paths. With :data:`PRETRAINED` behind its name, one of torchvision or timm starts from
trained weights."""


@dataclass(frozen=True)
class Head:
    """The layer that a model's logits come from."""

    name: str
    """Of the last linear layer or convolution that a forward pass calls."""
    is_linear: bool
    """Whether it is a linear layer that turns one vector per image into the logits themselves."""


def build_model(
    name: str, num_classes: int, inputs: InputSpec | ImageShape, *, trained: bool = True
) -> nn.Module:
    """Return a freshly initialised model in training mode: inputs (B, ...) to logits (B, K).

    The name is one of :data:`MODELS`, of torchvision's or timm's classification models, or an
    import path. With :data:`PRETRAINED` behind it, one of torchvision or timm starts from trained
    weights (downloaded once by these) with a fresh last layer. If not ``trained``, it is the same
    architecture with random ones, to be filled from elsewhere. Inputs are images where a shape is
    given.

    Raises:
        ConfigError: If the name is unknown, the model cannot take such inputs, or its trained
            weights cannot be had.
    """
    spec = as_spec(inputs)
    head = head_of(name, num_classes, spec)
    model = _architecture(name, num_classes, spec, head if trained else None)
    return model.train()


def untried_model(
    name: str, num_classes: int, inputs: InputSpec | ImageShape, *, data: bool
) -> nn.Module:
    """Return a model to be filled from elsewhere; whether it takes such images is not tried.

    Nothing is downloaded, and without ``data`` the weights are on torch's meta device, where they
    take no memory.
    """
    spec = as_spec(inputs)
    if data or MODELS.foreign(name):
        context: Any = contextlib.nullcontext()
    else:
        context = torch.device("meta") if name.startswith(TIMM) else _NoData()
    with torch.random.fork_rng(devices=[]), context:
        model = _architecture(name, num_classes, spec, None)
        return model if data else model.to("meta")


def as_spec(inputs: InputSpec | ImageShape) -> InputSpec:
    """Return what inputs are, of which a shape alone stands for images."""
    return inputs if isinstance(inputs, InputSpec) else InputSpec.image(inputs)


def head_of(name: str, num_classes: int, inputs: InputSpec | ImageShape, batch: int = 2) -> Head:
    """Return where a model's logits come from, after trying it in training and in eval mode.

    Nothing is downloaded. The smallest batch that it is to be trained with has ``batch`` samples.

    Raises:
        ConfigError: If the name is unknown, or the model cannot turn such inputs into K logits; the
            message says of what size images would have to be.
    """
    foreign = MODELS.foreign(name)
    return _found_head(name, foreign and foreign.entry, num_classes, as_spec(inputs), batch)


@functools.cache
def _found_head(
    name: str, _: Network | None, num_classes: int, spec: InputSpec, batch: int
) -> Head:
    """Return :func:`head_of`; of what is the user's own the entry changes when that does."""
    model = _for_trial(name, num_classes, spec)
    try:
        _tried(model.train(), name, batch, num_classes, spec)
    except Exception as error:  # whatever a model's own code raises
        raise _unfit(name, num_classes, spec, batch, error) from error
    return _tried(model.eval(), name, batch, num_classes, spec)


def check_eager(model: nn.Module, error: type[RaydropError]) -> None:
    """Refuse, by an error of that class, a model that holds TorchScript."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise error(
                f"Expected a model of Python modules, found TorchScript in {name or 'all of it'}, "
                "whose layers cannot be looked into; give the module that it was compiled from."
            )


def _architecture(name: str, num_classes: int, spec: InputSpec, head: Head | None) -> nn.Module:
    """Return a model that has not been tried; with a head, trained weights where the name asks."""
    foreign, shape = MODELS.foreign(name), spec.image_shape
    model: nn.Module
    if foreign is not None:
        model = foreign.make(num_classes, spec)
    elif name == "linear":
        model = MODELS[name].build(num_classes, _only_shape(name, spec))
    elif name.startswith(TIMM):
        model = timm_model(name, num_classes, spec, trained=head is not None)
    elif shape is None:
        raise ConfigError(
            f"Expected images for {name}, found inputs {spec}; name a model of your own that takes "
            "them, as in mypkg.net:SignNet, or linear for numbers."
        )
    elif _is_own(name, shape):
        model = MODELS[name].build(num_classes, shape)
    else:
        model = _torchvision_model(name.removeprefix(TORCHVISION), num_classes, head)
        _take_channels(model, shape[0])
    for module in model.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]
    return model


def _only_shape(name: str, spec: InputSpec) -> tuple[int, ...]:
    """Return the shape of inputs that are one tensor of real numbers."""
    if spec.names or spec.is_tuple or not spec.dtypes[0].is_floating_point:
        raise ConfigError(
            f"Expected one tensor of real numbers for {name}, found inputs {spec}; name a model of "
            "your own that takes them, as in mypkg.net:SignNet."
        )
    return spec.shapes[0]


def _is_own(name: str, image_shape: ImageShape) -> bool:
    return name in MODELS and (max(image_shape[1:]) <= SMALL_SIDE or MODELS[name].any_size)


def _torchvision_model(name: str, num_classes: int, head: Head | None = None) -> Any:
    """Return a classification model of torchvision with random, or with trained weights."""
    # Here, because importing torchvision doubles the start of workers that do not need it.
    import torchvision

    known = _torchvision_names()
    base = name.removesuffix(PRETRAINED)
    if base not in known:
        raise unknown_name("model", name, {*MODELS.everything(), *known})
    arguments = dict[str, Any](_TORCHVISION_ARGUMENTS.get(base, {}))
    get_model = torchvision.models.get_model
    if name == base:
        return get_model(base, weights=None, num_classes=num_classes, **arguments)
    there = torchvision.models.get_model_weights(base).__members__
    weights = next(there[each] for each in PRETRAINED_WEIGHTS if each in there)
    if head is None:  # what torchvision sets where it loads weights
        if "aux_logits" in arguments:
            arguments["transform_input"] = True
        if base.startswith("vit_"):
            arguments["image_size"] = weights.meta["min_size"][0]
        return get_model(base, weights=None, num_classes=num_classes, **arguments)
    try:
        model = get_model(base, weights=weights)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"Expected ImageNet weights of {base} to be there or to be downloaded, found "
            f"{in_one_line(error)}; connect this machine, or put the whole file into torch.hub's "
            "folder of checkpoints."
        ) from error
    if "aux_logits" in arguments:  # torchvision loads these with weights, wanted or not
        model.aux_logits = False
        model.AuxLogits = model.aux1 = model.aux2 = None
    last: Any = model.get_submodule(head.name)
    biased = last.bias is not None
    fresh: nn.Module = (
        nn.Linear(last.in_features, num_classes, biased)
        if isinstance(last, nn.Linear)
        else nn.Conv2d(last.in_channels, num_classes, last.kernel_size, bias=biased)
    )
    parent, _, child = head.name.rpartition(".")
    setattr(model.get_submodule(parent), child, fresh)
    return model


def _torchvision_names() -> list[str]:
    import torchvision

    # By module: detection, segmentation, video and quantized models live in modules of their own.
    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _take_channels(model: Any, channels: int) -> None:
    """Replace the first convolution by one for so many channels, initialised as the model does."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    if first.in_channels == channels:
        return
    weight = first.weight.detach()
    if hasattr(model, "transform_input"):
        model.transform_input = False  # it would take three channels apart
    first.in_channels = channels
    first.weight = nn.Parameter(weight[:, torch.arange(channels) % weight.shape[1]].clone())


class _NoData(TorchFunctionMode):
    """Makes the parameters of new layers on torch's meta device, where they take no memory.

    There most of the time would go into what leaves shapes as they are, so that is passed over.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function; layers make their parameters by ``torch.empty`` and draw into them."""
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if function in (F.batch_norm, F.dropout, F.relu):
            if function is F.batch_norm and kwargs["training"]:
                F._verify_batch_size(args[0].shape)  # type: ignore[attr-defined]
            return torch.empty_like(args[0])
        if function is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)


def _for_trial(name: str, num_classes: int, spec: InputSpec) -> nn.Module:
    """Return a model without data, or one of our own or the user's with any.

    The meta device would load torch's compiler, which torchvision and timm do anyway.
    """
    data = name in MODELS and _is_own(name, spec.image_shape or (1, 1, 1))
    return untried_model(name, num_classes, spec, data=data or MODELS.foreign(name) is not None)


def _tried(model: nn.Module, name: str, batch: int, num_classes: int, spec: InputSpec) -> Head:
    """Return the head of a model, with or without data, after a forward pass."""
    device = next(model.parameters()).device
    called: list[tuple[nn.Module, Tensor | None]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        linear = isinstance(layer, nn.Linear) and inputs[0].ndim == 2
        called.append((layer, outputs if linear else None))

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    mode = _NoData() if device.type == "meta" else contextlib.nullcontext()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), mode:
            logits = model(spec.zeros(batch, device))
    finally:
        for hook in hooks:
            hook.remove()
    check_logits(logits, batch, num_classes, name)
    last, output = called[-1] if called else (model, None)
    place = next(place for place, module in model.named_modules() if module is last)
    # What scores read of a last layer is read of the last linear one in this order.
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return Head(place, output is not None and output is logits and last is linear[-1])


def _unfit(
    name: str, num_classes: int, spec: InputSpec, batch: int, error: Exception
) -> ConfigError:
    """Say what a model cannot take, and what images it takes, of those sizes that are tried."""

    def takes(batch: int, spec: InputSpec) -> bool:
        try:
            _tried(_for_trial(name, num_classes, spec).train(), name, batch, num_classes, spec)
        except Exception:
            return False
        return True

    shape, image = str(spec), spec.image_shape
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    if batch == 1 and takes(2, spec):
        return ConfigError(
            f"Expected batches of two images or more to train {name} on {shape}, found one of a "
            f"single image ({reason}); use a larger batch_size, keep more, or another model."
        )
    if isinstance(error, ConfigError):
        return error
    if image is None or MODELS.foreign(name):
        return ConfigError(
            f"Expected {name} to be trained on inputs {shape}, found {in_one_line(error)}; mend "
            "it, or give it other data."
        )
    images = [InputSpec.image((image[0], side, side)) for side in _SIDES]
    fitting = [each.shapes[0][1] for each in images if takes(batch, each)]
    advice = f"images of {', '.join(f'{side}x{side}' for side in fitting)} pixels"
    if not fitting:
        advice = "images of another size"
    elif len(fitting) > 1 and fitting == list(_SIDES[-len(fitting) :]):
        advice = f"images of {fitting[0]}x{fitting[0]} pixels or more"
    return ConfigError(
        f"Expected images that {name} can take, found {shape} ({reason}); use {advice}, or a model "
        "for small ones such as small_cnn or resnet18."
    )
