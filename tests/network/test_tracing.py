"""Which channels are coupled: other shapes of networks, and ones that cannot be cut."""

from __future__ import annotations

import pytest
import torch
from network_cases import (
    CLASSES,
    SHAPES,
    assert_met,
    assert_rebuilt,
    assert_whole,
    lively,
    prunable,
    random_scores,
    task_of,
)
from torch import Tensor, nn

from raydrop.errors import NetworkError
from raydrop.network import tracing
from raydrop.network.cutting import cut_by_scores
from raydrop.network.tracing import coupling_of


class _Concatenated(nn.Module):
    """A concatenation, a depthwise convolution, biases without norms, several inputs a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 5, 1)
        self.depthwise = nn.Conv2d(11, 11, 3, groups=11)
        self.norm = nn.BatchNorm2d(11)
        self.drop = nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(11 * 36, 7), nn.Linear(7, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        both = torch.cat([self.left(inputs), self.right(inputs).relu()], dim=1)
        features = self.drop(self.norm(self.depthwise(both)).relu())
        return self.head(self.hidden(features.flatten(1)).relu())


def test_concatenations_and_flattened_maps_are_cut_consistently() -> None:
    model = lively(_Concatenated(), SHAPES["small_cnn"])
    task = task_of(model, SHAPES["small_cnn"], "parameters(0.6)")
    pruned = cut_by_scores(task, random_scores(task))
    assert_met(task, pruned)
    assert_whole(task, pruned)
    assert_rebuilt(task, pruned)
    kept = pruned.channels["layers"]["depthwise"]["out"]["kept"]
    left = pruned.channels["layers"]["left"]["out"]["kept"]
    assert [index for index in kept if index < 6] == left


class _Flipped(nn.Module):
    """Its first convolution's channels are reversed, which the tracer takes for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs).relu().flip(1)).mean((2, 3)))


def test_channels_coupled_in_an_unknown_way_are_left_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_of(lively(_Flipped(), SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.5)
    assert prunable(task) == ("second",)
    pruned = cut_by_scores(task, random_scores(task))
    assert pruned.facts["left_whole"] == ["first"]
    assert_whole(task, pruned)
    # Without the trial the tracer would be believed, and the network would compute something else.
    monkeypatch.setattr(tracing, "_passes", lambda *_: True)
    task = task_of(lively(_Flipped(), SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.5)
    pruned = cut_by_scores(task, random_scores(task))
    with pytest.raises(AssertionError):
        assert_whole(task, pruned)


@pytest.mark.parametrize(
    "between",
    [nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, groups=2), nn.ChannelShuffle(2)],
    ids=["group norm", "grouped", "shuffle"],
)
def test_layers_that_mix_their_channels_keep_them(between: nn.Module) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        between,
        nn.Conv2d(6, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    task = task_of(lively(model, SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.5)
    assert prunable(task) == ("2",)
    assert_whole(task, cut_by_scores(task, random_scores(task)))


def test_outputs_are_never_removed() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    task = task_of(lively(model, SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.5)
    assert prunable(task) == ("0",)
    assert_whole(task, cut_by_scores(task, random_scores(task)))


class _Failing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise KeyError("no such key")


class _Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.convolution(inputs).detach()


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (_Failing(), r"KeyError.* in module 1 \(_Failing\)"),
        (_Detached(), r"cut off from the gradient in module 1.convolution \(Conv2d\)"),
    ],
)
def test_what_cannot_be_traced_is_named(inner: nn.Module, message: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1), inner, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES)
    ).double()
    with pytest.raises(NetworkError, match=message):
        coupling_of(model, SHAPES["small_cnn"])


def test_a_network_without_filters_to_remove_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(NetworkError, match="convolutions that can lose filters, found Sequential"):
        coupling_of(model, SHAPES["small_cnn"])
