"""Removing channels: the target is met, and what is left computes what it did before."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from network_cases import (
    CLASSES,
    SHAPES,
    SHORT,
    assert_met,
    assert_rebuilt,
    assert_whole,
    lively,
    network,
    random_scores,
    some_kept,
    task_of,
)
from torch import nn

from raydrop.errors import NetworkError
from raydrop.network import METHODS, network_rule
from raydrop.network.base import NetworkMethod
from raydrop.network.channels import rebuild
from raydrop.network.coupling import tolerance
from raydrop.network.cutting import chosen, combined_scores, cut_by_scores
from raydrop.network.measure import network_size
from raydrop.network.methods import autobot
from raydrop.network.tracing import coupling_of

MODELS = ("resnet18", "resnet56", "vgg16", "mobilenet_v2", "mixed")
TARGETS = (0.25, 0.5, 0.75, 0.9375, "parameters(0.5)", "parameters(0.75)")
STRUCTURED = [name for name in METHODS if network_rule(name).make().structured]


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: network(name) for name in SHAPES}


def _method(name: str) -> NetworkMethod:
    method: NetworkMethod = network_rule(SHORT.get(name, name)).make()
    return method


@pytest.mark.parametrize("model", MODELS)
def test_a_cut_network_is_consistent(models: dict[str, nn.Module], model: str) -> None:
    task = task_of(models[model], SHAPES[model], 0.75)
    before = copy.deepcopy(task.model.state_dict())
    pruned = _method("random").prune(task)
    assert_met(task, pruned)
    assert_whole(task, pruned)
    assert_rebuilt(task, pruned)
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert pruned.note == ""  # these networks are wide enough
    assert pruned.facts["left_whole"] == []


@pytest.mark.parametrize("model", MODELS)
def test_what_is_chosen_meets_every_target(models: dict[str, nn.Module], model: str) -> None:
    """As a decision, whose size is the one that is measured after cutting."""
    coupling = coupling_of(models[model], SHAPES[model])
    for seed, target in enumerate(TARGETS):
        task = task_of(models[model], SHAPES[model], target, seed=seed)
        scores = combined_scores(coupling, random_scores(task, seed))
        measure, dense = task.target.measure, task.dense.of(task.target.measure)
        gone = 1 - coupling.size(chosen(task, coupling, scores), measure) / dense
        assert abs(gone - task.target.fraction) <= tolerance(task.target.fraction), target


@pytest.mark.parametrize("model", MODELS)
def test_the_size_of_what_is_kept_is_measured_after_cutting(
    models: dict[str, nn.Module], model: str
) -> None:
    coupling = coupling_of(models[model], SHAPES[model])
    for seed in range(3):
        kept = some_kept(coupling.groups, seed)
        size = network_size(rebuild(models[model], coupling.channels(kept)), SHAPES[model])
        assert coupling.size(kept, "flops") == size.macs
        assert coupling.size(kept, "parameters") == size.parameters


@pytest.mark.parametrize("method", STRUCTURED)
def test_every_method_meets_its_target(
    models: dict[str, nn.Module], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A search of AutoBot is repeated until it ends near its target, which two batches never do.
    monkeypatch.setattr(autobot, "DOUBLINGS", 0)
    for model in ("resnet56", "mixed"):
        task = task_of(models[model], SHAPES[model], 0.75)
        pruned = _method(method).prune(task)
        assert_met(task, pruned)
        assert pruned.note == "", model
        assert_rebuilt(task, pruned)


def test_a_stream_keeps_the_same_channels_wherever_it_is_added_to(
    models: dict[str, nn.Module],
) -> None:
    pruned = _method("random").prune(task_of(models["resnet18"], SHAPES["resnet18"], 0.5))
    layers = pruned.channels["layers"]
    for stage in (1, 2, 3, 4):
        ends = [f"layer{stage}.0.conv2", f"layer{stage}.1.conv2", f"layer{stage}.1.bn2"]
        ends.append("conv1" if stage == 1 else f"layer{stage}.0.downsample.0")
        kept = [layers[name]["out"]["kept"] for name in ends]
        assert all(each == kept[0] for each in kept)
        assert layers[f"layer{stage}.1.conv1"]["in"]["kept"] == kept[0]


def test_shortcuts_that_pad_keep_the_channels_that_they_carry(
    models: dict[str, nn.Module],
) -> None:
    pruned = _method("random").prune(task_of(models["resnet56"], SHAPES["resnet56"], 0.75))
    layers = pruned.channels["layers"]
    narrow = layers["stem.0"]["out"]["kept"]
    wide = layers["blocks.2.second.0"]["out"]["kept"]
    # 16 channels become 32 with 8 channels of zeros before them and 8 behind.
    assert [index - 8 for index in wide if 8 <= index < 24] == narrow
    before, behind = pruned.model.get_submodule("blocks.2").padding
    assert (before, behind) == (sum(i < 8 for i in wide), sum(i >= 24 for i in wide))
    assert before + len(narrow) + behind == len(wide)


def test_the_lowest_filters_go_first(models: dict[str, nn.Module]) -> None:
    """Against cutting and measuring each number of filters in turn."""
    task = task_of(models["small_cnn"], SHAPES["small_cnn"], 0.5)
    scores = random_scores(task)
    ranked = sorted(
        (float(s), name, i) for name, each in scores.items() for i, s in enumerate(each)
    )
    safe = {(name, int(each.argmax())) for name, each in scores.items()}
    order = [place[1:] for place in ranked if place[1:] not in safe]

    def macs_without(number: int) -> int:
        model, inputs = nn.Sequential(), SHAPES["small_cnn"][0]
        for name, each in scores.items():
            outputs = len(each) - sum(place[0] == name for place in order[:number])
            model.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            if len(model) == 1:
                model.append(nn.MaxPool2d(2))
            inputs = outputs
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))
        return network_size(nn.Sequential(model, head), SHAPES["small_cnn"]).macs

    sizes = [macs_without(number) for number in range(len(order) + 1)]
    nearest = min(range(len(sizes)), key=lambda n: abs(sizes[n] - task.dense.macs / 2))
    pruned = cut_by_scores(task, scores)
    assert pruned.size.macs == sizes[nearest]
    kept = {
        (name, index) for name in scores for index in pruned.channels["layers"][name]["out"]["kept"]
    }
    assert {(n, i) for _, n, i in ranked} - kept == set(order[:nearest])


def test_scores_of_coupled_filters_are_combined(models: dict[str, nn.Module]) -> None:
    """One filter of a stream is saved by one high score, by their mean or by their sum."""
    task = task_of(models["resnet18"], SHAPES["resnet18"], 0.9375)
    scores = {name: torch.zeros_like(each) for name, each in random_scores(task).items()}
    scores["layer1.1.conv2"][5] = 1.0
    for combine in ("mean", "sum"):
        kept = cut_by_scores(task, scores, combine=combine).channels["layers"]
        assert 5 in kept["conv1"]["out"]["kept"]
    coupling = coupling_of(task.model, task.image_shape)
    mean, total = (combined_scores(coupling, scores, each).max() for each in ("mean", "sum"))
    assert (mean, total) == (1 / 3, 1.0)  # conv1 and the last convolution of two blocks


@pytest.mark.parametrize("model", ["small_cnn", "resnet56"])
def test_equal_scores_go_in_a_seeded_order(models: dict[str, nn.Module], model: str) -> None:
    found = []
    for seed in (0, 0, 1):
        task = task_of(models[model], SHAPES[model], 0.5, seed=seed)
        equal = {name: torch.ones_like(each) for name, each in random_scores(task).items()}
        found.append(cut_by_scores(task, equal))
        assert_met(task, found[-1])
    assert found[0].channels == found[1].channels
    assert found[0].channels != found[2].channels


@pytest.mark.parametrize("method", STRUCTURED)
def test_the_same_seed_gives_the_same_network(models: dict[str, nn.Module], method: str) -> None:
    task = task_of(models["small_cnn"], SHAPES["small_cnn"], 0.5)
    first, again = (_method(method).prune(task) for _ in range(2))
    assert first.channels == again.channels
    assert first.facts == again.facts


def test_a_target_beyond_the_last_filters_is_said_to_be_missed(
    models: dict[str, nn.Module],
) -> None:
    task = task_of(models["small_cnn"], SHAPES["small_cnn"], "parameters(0.999)")
    pruned = cut_by_scores(task, random_scores(task))
    assert_met(task, pruned)
    assert_whole(task, pruned)
    assert "down to its last" in pruned.note
    assert all(left == 1 for left, _ in pruned.facts["filters"].values())


def test_steps_that_are_too_coarse_are_said_to_be() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, CLASSES)
    )
    task = task_of(lively(model, SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.3)
    pruned = cut_by_scores(task, random_scores(task))
    assert_met(task, pruned)
    assert "a larger step" in pruned.note
    sizes = [36 * 9 * a + 16 * 9 * a * b + 16 * CLASSES * b for a in (1, 2, 3) for b in (1, 2, 3)]
    nearest = min(sizes, key=lambda size: abs(size - 0.7 * task.dense.macs))
    assert pruned.size.macs == nearest


def test_a_larger_step_is_passed_over_for_a_filter_that_fits() -> None:
    """The filter that scores lowest would remove far too much; a later one meets the target."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 7, padding=3),
        nn.ReLU(),
        nn.Conv2d(2, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    task = task_of(lively(model, SHAPES["small_cnn"]), SHAPES["small_cnn"], 0.1)
    scores = {"0": torch.tensor([0.0, 0.1]), "2": torch.arange(1.0, 33.0)}
    pruned = cut_by_scores(task, scores)
    assert pruned.note == ""
    assert pruned.facts["filters"]["0"] == [2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["features.0.0"].fill_(math.nan), r"score of every filter of features.0.0"),
        (lambda s: s.pop("features.2.0"), r"scores for the filters of features.2.0, found none"),
        (lambda s: s.update({"features.0.0": torch.ones(3)}), r"16 filters .* shape \(3,\)"),
    ],
)
def test_bad_scores_are_refused(models: dict[str, nn.Module], change: Any, message: str) -> None:
    task = task_of(models["small_cnn"], SHAPES["small_cnn"], 0.5)
    scores = random_scores(task)
    change(scores)
    with pytest.raises(NetworkError, match=message):
        cut_by_scores(task, scores)


def test_a_sparsity_cannot_be_met_by_removing_filters(models: dict[str, nn.Module]) -> None:
    task = task_of(models["small_cnn"], SHAPES["small_cnn"], 0.5, structured=False)
    with pytest.raises(NetworkError, match=r"found sparsity\(0.5\)"):
        _method("random").prune(task)
