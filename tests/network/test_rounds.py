"""Rounds of pruning, channel maps of several rounds, and weights that are given back."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_cases import SHAPES, batches, images, logits, network, task_of
from reference import logits_without_channels
from torch import Tensor, nn

from raydrop.errors import ConfigError, NetworkError
from raydrop.models import build_model
from raydrop.network import network_rule
from raydrop.network.base import Target
from raydrop.network.channels import compose, rebuild
from raydrop.network.masks import apply_masks
from raydrop.network.measure import network_size
from raydrop.network.rounds import prune_in_rounds, round_targets
from raydrop.network.tracing import coupling_of

MODELS = ("small_cnn", "resnet56", "mixed")


def _train(model: nn.Module, masks: Mapping[str, Tensor], shape: tuple[int, int, int]) -> None:
    """Two steps of SGD that change every weight and every statistic."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    for batch in batches(shape, 2):
        optimiser.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimiser.step()
        apply_masks(model, masks)
    model.eval()


def test_targets_of_rounds_are_geometric_in_what_remains() -> None:
    targets = round_targets(Target("flops", 0.9375), 4)
    assert [each.fraction for each in targets] == [0.5, 0.75, 0.875, 0.9375]
    assert {each.measure for each in targets} == {"flops"}
    assert round_targets(Target("sparsity", 0.3), 1) == [Target("sparsity", 0.3)]
    with pytest.raises(ConfigError, match="at least one round"):
        round_targets(Target("flops", 0.5), 0)


@pytest.mark.parametrize("name", MODELS)
def test_rounds_of_channels_are_one_map_of_the_dense_network(name: str) -> None:
    model, shape = network(name), SHAPES[name]
    task = task_of(model, shape, 0.75)
    calls: list[int] = []

    def retrain(pruned: nn.Module, masks: Mapping[str, Tensor]) -> None:
        calls.append(network_size(pruned, shape).macs)
        assert masks == {}
        _train(pruned, masks, shape)

    pruned = prune_in_rounds(task, network_rule("magnitude").make(), 2, retrain)
    assert [1 - macs / task.dense.macs for macs in calls] == pytest.approx([0.5], abs=0.02)
    assert [each["target"] for each in pruned.facts["rounds"]] == ["flops(0.5)", "flops(0.75)"]
    assert pruned.reached == pytest.approx(0.75, abs=0.01)
    # The dense architecture, cut to the map, takes the state, and computes the same.
    rebuilt = rebuild(model, json.loads(json.dumps(pruned.channels)))
    rebuilt.load_state_dict(pruned.model.state_dict())
    inputs = images(shape, 2, seed=9)
    assert torch.equal(logits(rebuilt, inputs), logits(pruned.model, inputs))
    # With the weights given back it is the dense network without the channels of both rounds.
    before = logits(pruned.model, inputs)
    restored = rebuild(model, pruned.channels)
    assert not torch.allclose(before, logits(restored, inputs))
    twin = logits_without_channels(model, pruned.channels, inputs)
    assert (logits(restored, inputs) - twin).abs().max() <= 1e-9


def test_rounds_of_masks_are_relative_to_the_dense_network() -> None:
    model, shape = network("small_cnn"), SHAPES["small_cnn"]
    task = task_of(model, shape, 0.9, structured=False)
    seen: list[int] = []

    def retrain(pruned: nn.Module, masks: Mapping[str, Tensor]) -> None:
        seen.append(sum(int(mask.sum()) for mask in masks.values()))
        _train(pruned, {}, shape)  # a careless one, which revives masked weights

    pruned = prune_in_rounds(task, network_rule("unstructured_magnitude").make(), 3, retrain)
    kept = sum(int(mask.sum()) for mask in pruned.masks.values())
    assert kept == pruned.size.weights == network_size(pruned.model, shape).weights
    assert kept == task.dense.weights - round(0.9 * task.dense.weights)
    expected = [task.dense.weights * 0.1 ** (i / 3) for i in (1, 2)]
    assert seen == pytest.approx(expected, abs=1)


def test_one_round_is_the_method_itself() -> None:
    task = task_of(network("small_cnn"), SHAPES["small_cnn"], 0.5)
    method = network_rule("fpgm").make()

    def never(*_: object) -> None:
        raise AssertionError("the caller retrains after the last round")

    alone, once = method.prune(task), prune_in_rounds(task, method, 1, never)
    assert once.channels == alone.channels
    assert once.facts == alone.facts


# --- channel maps ---


@pytest.mark.parametrize("name", ["resnet56", "vgg16"])
def test_a_fresh_network_cut_to_a_map_takes_the_saved_state(name: str) -> None:
    model, shape = build_model(name, 4, SHAPES[name]), SHAPES[name]
    pruned = network_rule("random").make().prune(task_of(model, shape, 0.75))
    fresh = build_model(name, 4, shape)
    rebuilt = rebuild(fresh, json.loads(json.dumps(pruned.channels)))
    rebuilt.load_state_dict(pruned.model.state_dict())
    inputs = images(shape, 2).float()
    assert torch.equal(logits(rebuilt, inputs), logits(pruned.model, inputs))
    assert network_size(rebuilt, shape) == pruned.size
    assert network_size(fresh, shape)[:2] == network_size(model, shape)[:2]  # cut is a copy


def _map() -> dict[str, Any]:
    task = task_of(network("small_cnn"), SHAPES["small_cnn"], 0.5)
    return copy.deepcopy(dict(network_rule("magnitude").make().prune(task).channels))


def _set(channels: dict[str, Any], layer: str, **entry: object) -> None:
    channels["layers"].setdefault(layer, {"out": {}})["out"].update(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _set(c, "features.0.0", kept=[]), r"of features.0.0 .*the layer would vanish"),
        (
            lambda c: _set(c, "features.0.0", of=17),
            r"17 channels \(out\) of features.0.0, found 16",
        ),
        (lambda c: _set(c, "features.0.0", kept=[16]), r"below 16 of features.0.0"),
        (lambda c: _set(c, "features.0.0", kept=[3, 1]), r"ascending channels"),
        (lambda c: _set(c, "nowhere", of=4, kept=[1]), r"a module nowhere, found none"),
        (lambda c: _set(c, "pool", of=4, kept=[1]), r"channels at pool, found AdaptiveAvgPool2d"),
        (lambda c: c["shortcuts"].update(pool=[1, 2]), r"residual block at pool"),
    ],
)
def test_maps_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    channels = _map()
    change(channels)
    with pytest.raises(NetworkError, match=message):
        rebuild(network("small_cnn"), channels)


def test_maps_compose_only_in_order() -> None:
    model, shape = network("small_cnn"), SHAPES["small_cnn"]
    first = _map()
    assert compose({}, first) == compose(first, {}) == first
    cut = rebuild(model, first)
    second = (
        network_rule("magnitude")
        .make()
        .prune(task_of(cut, shape, 0.8, dense=network_size(model, shape)))
    )
    both = rebuild(model, compose(first, second.channels))
    assert torch.equal(logits(both, images(shape, 2)), logits(second.model, images(shape, 2)))
    with pytest.raises(NetworkError, match=r"channels of features.0.0, found"):
        compose(second.channels, first)


def test_nothing_is_removed_from_a_network_that_is_small_enough() -> None:
    model, shape = network("small_cnn"), SHAPES["small_cnn"]
    dense = network_size(model, shape)
    smaller = network_rule("random").make().prune(task_of(model, shape, 0.75)).model
    pruned = network_rule("random").make().prune(task_of(smaller, shape, 0.5, dense=dense))
    assert pruned.channels == {}
    assert pruned.reached == pytest.approx(0.75, abs=0.02)
    assert "no more to begin with" in pruned.note
    assert coupling_of(smaller, shape).prunable == tuple(pruned.facts["filters"])
