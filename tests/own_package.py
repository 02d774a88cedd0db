"""A package that only one test has: a model, a loss, a method, a rule of quotas and a pruner."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "mypkg"
LOOP = """\
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(rd.with_indices(task.train), batch_size=20, shuffle=True)
    for epoch in range(task.epochs):
        for indices, inputs, labels in loader:
            logits = model(inputs)
            task.recorder.update(indices, logits, labels)
            optimizer.zero_grad()
            task.loss(logits, labels, indices).backward()
            optimizer.step()
        task.recorder.end_epoch()
        task.checkpoint(model, 0.5)
        task.report(epoch + 1, loss=1.0)
    return task.predict(model)
"""
"""The rest of a training function once it has its ``model``."""
NET = """
import torch
from torch import nn


class SignNet(nn.Module):
    def __init__(self, num_classes, in_chans=3, width=4, scale=1.0):
        super().__init__()
        self.scale = scale
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


class Mlp(nn.Sequential):
    def __init__(self, num_classes, in_features):
        super().__init__(nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, num_classes))


def wrong_number(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))


class Pair(SignNet):
    def forward(self, images):
        return super().forward(images), images


class Named(SignNet):
    def forward(self, images):
        return {"logits": super().forward(images), "images": images}


def raises(num_classes):
    raise ValueError("no such file")


NOT_A_MODEL = 3
"""
PARTS = '''
import numpy as np
from torch import nn
from raydrop.network.methods.scored import MAGNITUDE
from raydrop.scores.base import TraceMethod
from raydrop.selection import proportional_quotas
from raydrop.training.losses import CrossEntropy


class LastError(TraceMethod):
    summary = "error norm after the last epoch"

    def __init__(self, power=1.0):
        self.power = power

    def from_trace(self, trace, score_epoch):
        return trace.error_norm[-1] ** self.power


class Scaled(CrossEntropy):
    """Times a factor."""

    def __init__(self, context, factor=1.0):
        self.factor = factor

    def __call__(self, logits, labels, units):
        return self.factor * super().__call__(logits, labels, units)


def smooth(logits, labels, *, strength=0.1):
    return nn.functional.cross_entropy(logits, labels, label_smoothing=strength)


def even(class_sizes, recalls, budget, minimum, counts=None):
    """The same share of every class."""
    return proportional_quotas(class_sizes, budget, minimum)


def too_few(class_sizes, recalls, budget, minimum, counts=None):
    return np.ones(len(class_sizes), int)


def each_sample_twice(logits, labels):
    return logits.sum(1).repeat(2)


def no_gradient(logits, labels):
    return logits.detach().sum()


def broken(logits, labels):
    return {}["weights"]


OWN_PRUNER = MAGNITUDE
'''


def write(folder: Path, net: str = NET, parts: str = PARTS) -> Path:
    """Write the package below a folder."""
    place = folder / PACKAGE
    place.mkdir(parents=True, exist_ok=True)
    for name, text in (("__init__", ""), ("net", net), ("parts", parts)):
        (place / f"{name}.py").write_text(text)
    return folder


def forget() -> None:
    """Have the next import read the package's files again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the package, on the path of this process alone."""
    folder = write(tmp_path / "own")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    forget()
