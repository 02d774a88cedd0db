"""Models of the user's own and of timm: built from a name, and adapted where they need be."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn

from raydrop.data.inputs import InputSpec
from raydrop.errors import ConfigError, in_one_line, unknown_name
from raydrop.models.adapter import adapted
from raydrop.study.catalogue import Thing
from raydrop.study.importing import PRETRAINED

TIMM = "timm:"
"""What names of timm's models begin with."""


def own_model(thing: Thing, num_classes: int, spec: InputSpec) -> nn.Module:
    """Return a model of the user's own with fresh weights.

    A class or function is called with its arguments, and with ``num_classes``, ``input_shape``,
    ``image_shape``, ``in_chans``, ``in_channels`` and ``in_features`` where it has parameters of
    these names: shapes without the batch, in a dict or tuple where inputs are; the last ones where
    inputs are an image, or one vector. An instance gives its architecture: its layers are
    initialised anew, so that each seed has weights of its own.

    Raises:
        ConfigError: If it cannot be built so, or does not turn such inputs into K logits.
    """
    name = thing.call.text if thing.call else thing.name
    model = thing.make(**_sizes(thing, num_classes, spec))
    if not isinstance(model, nn.Module):
        remedy = "name a class, a function that returns a module, or a module"
        raise thing.unfit("a torch.nn.Module", model, remedy)
    if not thing.is_made:
        _initialise(model, name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"Expected trainable parameters in {name}, found none; build its layers in __init__, "
            "and leave requires_grad as it is."
        )
    return adapted(model, spec, num_classes, name=name)


def _sizes(thing: Thing, num_classes: int, spec: InputSpec) -> dict[str, Any]:
    """Return what a class or a function asks for by the names of its parameters."""
    if not thing.is_made:
        return {}
    known: dict[str, Any] = {"num_classes": num_classes, "input_shape": spec.formed(spec.shapes)}
    image = spec.image_shape
    if image is not None:
        known |= {"image_shape": image, "in_chans": image[0], "in_channels": image[0]}
    elif len(spec.shapes) == len(spec.shapes[0]) == 1:
        known["in_features"] = spec.shapes[0][0]
    try:
        signature = inspect.signature(thing.value)
        call = thing.call
        given = signature.bind_partial(*call.arguments, **call.keywords) if call else None
    except (TypeError, ValueError):
        return {}  # the call itself says what is wrong
    taken = {*given.arguments} if given else set()
    if isinstance(thing.value, functools.partial):
        taken |= thing.value.keywords.keys()
    return {key: known[key] for key in signature.parameters if key in known and key not in taken}


def _initialise(model: nn.Module, name: str) -> None:
    """Draw the weights of an architecture anew, those of layers within a layer first."""
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    advice = "give a function that builds it, or its class, instead of the instance"
    if frozen:
        raise ConfigError(
            f"Expected a model that is drawn anew for every seed, found {name}, of which "
            f"{frozen[0]} is frozen and would lose its values; {advice}."
        )
    for place, layer in reversed([*model.named_modules()]):
        reset = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
        if callable(reset):
            reset()
        elif layer._parameters:
            raise ConfigError(
                f"Expected a model that is drawn anew for every seed, found {name}, whose layer "
                f"{place or 'model'} ({type(layer).__name__}) has parameters but no "
                f"reset_parameters; {advice}."
            )


def timm_model(name: str, num_classes: int, spec: InputSpec, *, trained: bool) -> nn.Module:
    """Return a classification model of timm, with random weights unless its name asks for others.

    Raises:
        ConfigError: If timm is absent, has no such model, or cannot load its weights.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"Expected the package timm for {name}, found none; pip install 'raydrop[timm]'."
        ) from error
    base = name.removeprefix(TIMM).removesuffix(PRETRAINED)
    if ":" in base or "/" in base or not timm.is_model(base):  # which others' names would fetch
        raise unknown_name("model of timm", base, timm.list_models())
    shape = spec.image_shape
    if shape is None:
        raise ConfigError(
            f"Expected images for {name}, found inputs {spec}; name a model that takes them, such "
            "as one of your own."
        )
    facts: dict[str, Any] = {"num_classes": num_classes, "in_chans": shape[0]}
    config = timm.models.get_pretrained_cfg(base)
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != shape[1:]:
        facts["img_size"] = shape[1:]
    try:
        return timm.create_model(base, pretrained=trained and name.endswith(PRETRAINED), **facts)
    except Exception as error:  # whatever timm, its hub or its model raise
        raise ConfigError(
            f"Expected {name} for images of {spec}, found {in_one_line(error)}; use images of "
            "another size, another model, or one without trained weights."
        ) from error
