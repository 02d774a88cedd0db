"""Models whose inputs or outputs are of another form than one tensor, seen as all others are.

Everything here calls ``model(inputs)``, with a tensor or a tuple or dict of tensors, and takes
logits (B, K) back. A module that does so by itself is used as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydrop.data.inputs import Inputs, InputSpec
from raydrop.errors import ConfigError, RaydropError, in_one_line

Output = str | Callable[[Any], Tensor] | None
"""Where in a model's outputs its logits are: by a key or an attribute, or as a function says."""


class Adapted(nn.Module):
    """A module that gets the tensors of a tuple one by one, and those of a dict by their names.

    Names that its forward does not take are an error, unless it takes a dict as its one argument.
    """

    def __init__(self, module: nn.Module, output: Output = None) -> None:
        super().__init__()
        self.module = module
        self._output = output
        placed = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        taken = inspect.signature(module.forward).parameters.values()
        required = [each for each in taken if each.kind in placed and each.default is each.empty]
        several = any(each.kind is each.VAR_POSITIONAL for each in taken)
        self._together = len([each for each in taken if each.kind in placed]) == 1 and not several
        self._names = {each.name for each in taken}
        self._by_name = any(each.kind is each.VAR_KEYWORD for each in taken) or bool(required)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits, (B, K)."""
        if isinstance(inputs, Tensor):
            outputs = self.module(inputs)
        elif isinstance(inputs, Mapping):
            whole = self._together and not self._names & inputs.keys()
            outputs = self.module(inputs) if whole else self.module(**inputs)
        else:
            outputs = self.module(inputs) if self._together else self.module(*inputs)
        return logits_in(outputs, self._output)


def logits_in(outputs: Any, output: Output = None) -> Tensor:
    """Return the logits among what a model returns.

    Raises:
        ConfigError: If it is not said where they are: neither a tensor, nor ``logits`` by key or
            attribute, nor ``output``.
    """
    if callable(output):
        logits: Any = output(outputs)
    else:
        name, logits = output or "logits", outputs
        if isinstance(outputs, Mapping):
            logits = outputs.get(name)
        elif output is not None or not isinstance(outputs, Tensor):
            logits = getattr(outputs, name, None)
    if isinstance(logits, Tensor):
        return logits
    found = f"a {type(outputs).__name__}"
    if isinstance(outputs, Mapping):
        found += f" of {', '.join(map(str, outputs))}"
    elif isinstance(outputs, tuple | list):
        found += f" of {len(outputs)}"
    raise ConfigError(
        f"Expected a model that returns logits, alone or as 'logits', found {found}; wrap it in a "
        "module that returns them, or say with output= where they are."
    )


def adapted(
    model: nn.Module,
    spec: InputSpec,
    num_classes: int | None = None,
    output: Output = None,
    *,
    name: str = "",
) -> nn.Module:
    """Return a model that takes inputs as they come and gives logits (B, K): itself where it does.

    It is tried once, in eval mode and without gradients, on a batch of two samples of zeros.

    Args:
        model: Of any device and mode, which it keeps.
        spec: Inputs of one sample.
        num_classes: K; None for as many as it has.
        output: Where its logits are, if they are not its output, and not called ``logits`` in it.
        name: What errors call it; its class by default.

    Raises:
        ConfigError: If it does not take such inputs, or gives no logits or a wrong number of them.

    Example:
        >>> features = InputSpec.of(torch.zeros(1, 3))
        >>> model = nn.Linear(3, 2)
        >>> adapted(model, features, 2) is model
        True
    """
    name = name or type(model).__name__
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            inputs = spec.zeros(2, device)
            wrapped: nn.Module = model.eval()
            outputs = model(inputs) if isinstance(inputs, Tensor) else None
            if output is not None or not isinstance(outputs, Tensor):
                wrapped = Adapted(model, output)
                outputs = wrapped(inputs)
    except RaydropError:
        raise
    except Exception as error:  # whatever a model's own code raises
        raise ConfigError(
            f"Expected {name} to take inputs {spec}, found {in_one_line(error)}; mend it, or give "
            "it other data."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    check_logits(outputs, 2, num_classes, name)
    return wrapped.train(model.training) if wrapped is not model else model


def check_logits(logits: Any, batch: int, num_classes: int | None, name: str) -> None:
    """Refuse what are no logits of so many samples and classes."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if len(shape) != 2 or shape[0] != batch or not logits.is_floating_point():
        kind = f"{str(logits.dtype).removeprefix('torch.')} of shape {shape}" if shape else "none"
        raise ConfigError(
            f"Expected {name} to return logits, a row of real numbers for each of {batch} samples, "
            f"found {kind}; wrap it in a module that returns them."
        )
    if num_classes is not None and shape[1] != num_classes:
        raise ConfigError(
            f"Expected {name} to return {num_classes} numbers for each sample, one for each class, "
            f"found {shape[1]}; build it for as many classes, as where it takes num_classes."
        )
